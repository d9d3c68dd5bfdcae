"""The report: orientation, windows and colours of the figures; numbers, words and self-containment of the HTML."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import write_case
from synthmr.errors import DataError, UsageError
from synthmr.evaluate.scores import Score, own_region
from synthmr.evaluate.statistics import bootstrap_interval
from synthmr.report import html
from synthmr.report.curves import learning_curve, series
from synthmr.report.figures import encode, planes_figure, readme_figure, write_picture
from synthmr.report.html import Picture, ReportData, render, write_report
from synthmr.report.views import FigureCase, brain_box, choose_centre, error_top, plane_image, window
from synthmr.report.words import main_protocol, number, summary_words, tables

SHAPE = (20, 24, 16)


def ellipsoid(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return sum(axis**2 for axis in axes) < 0.8


def make_case(name: str = "sub-01", methods: tuple[str, ...] = ("hinet",), inputs: int = 2, **changes: Any) -> FigureCase:
    mask = ellipsoid()
    rng = np.random.default_rng(0)
    truth = np.where(mask, rng.uniform(-0.8, 0.9, SHAPE), -1).astype(np.float32)
    given = {
        "name": name,
        "target": "FLAIR",
        "spacing": (2.0, 2.0, 3.0),
        "sources": {key: np.where(mask, rng.normal(0, 0.3, SHAPE), -1) for key in ("T1w", "T2w", "PDw")[:inputs]},
        "truth": truth,
        "predictions": {key: np.where(mask, truth + 0.1 * (i + 1), -1) for i, key in enumerate(methods)},
        "mask": mask,
        "scores": {key: {"psnr": 20.0 + i} for i, key in enumerate(methods)},
    }
    return FigureCase(**{**given, **changes})


def panels(figure: Any) -> dict[str, Any]:
    return {axes.get_gid(): axes for axes in figure.axes if axes.get_gid()}


def words(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.texts] + [text.get_text() for axes in figure.axes for text in axes.texts]


# --- views ---


@pytest.mark.parametrize(
    ("plane", "voxel", "place"),
    [
        # (X, Y, Z) RAS: X 0 is the patient's left, which radiologists show on the right; Y high is anterior, Z high superior
        ("axial", (0, 23, 8), (0, 19)),
        ("axial", (19, 0, 8), (23, 0)),
        ("coronal", (0, 12, 15), (0, 19)),
        ("coronal", (19, 12, 0), (15, 0)),
        ("sagittal", (10, 23, 15), (0, 0)),
        ("sagittal", (10, 0, 0), (15, 23)),
    ],
)
def test_marked_voxel_appears_on_the_radiological_side(plane: str, voxel: tuple[int, int, int], place: tuple[int, int]) -> None:
    volume = np.zeros(SHAPE)
    volume[voxel] = 1
    picture = plane_image(volume, plane, voxel[{"sagittal": 0, "coronal": 1, "axial": 2}[plane]])
    assert picture.sum() == 1
    assert picture[place] == 1


def test_plane_image_refuses_an_unknown_plane() -> None:
    with pytest.raises(UsageError, match=r"unknown plane 'oblique'; allowed"):
        plane_image(np.zeros(SHAPE), "oblique", 0)


def test_centre_is_given_else_in_the_largest_lesion_else_the_brains() -> None:
    lesion = np.zeros(SHAPE, int)
    lesion[5:8, 10:13, 6] = 2
    lesion[6, 11, 9] = 1
    lesion[:, :, 0] = 1  # outside the brain: does not count
    assert choose_centre(make_case()) == (10, 12, 8)
    assert choose_centre(make_case(segmentation=lesion)) == (6, 11, 6)
    assert choose_centre(make_case(segmentation=np.zeros(SHAPE, int))) == (10, 12, 8)
    assert choose_centre(make_case(segmentation=lesion, centre=(1, 2, 3))) == (1, 2, 3)


def test_centre_lies_inside_a_hollow_lesion() -> None:
    lesion = np.zeros(SHAPE, int)
    lesion[6:13, 8:15, 8] = 1
    lesion[7:12, 9:14, 8] = 0
    assert lesion[choose_centre(make_case(segmentation=lesion))] == 1


def test_brain_box_keeps_millimetres_and_stays_inside() -> None:
    mask = np.zeros((30, 30, 30), bool)
    mask[10:20, 1:29, 5] = True
    assert brain_box(mask, (1.0, 3.0, 2.0)) == (slice(7, 23), slice(0, 30), slice(3, 8))


def test_window_ignores_what_lies_outside_the_brain_and_a_flat_image_has_one() -> None:
    mask = ellipsoid()
    image = np.where(mask, 5.0, 1e6)
    image[mask] += np.linspace(0, 1, mask.sum())
    assert window(image, mask) == pytest.approx((5.005, 5.997), abs=1e-3)
    assert window(np.full(SHAPE, 3.0), mask) == (2.5, 3.5)


def test_error_top_is_the_worst_methods_percentile() -> None:
    case = make_case(methods=("a", "b"))
    assert error_top(case, ["a"]) == pytest.approx(0.1, abs=1e-6)
    assert error_top(case, ["a", "b"]) == pytest.approx(0.2, abs=1e-6)
    perfect = replace(case, predictions={"a": case.truth})
    assert error_top(perfect, ["a"]) == 1.0


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"predictions": {}}, UsageError, "has no prediction of FLAIR"),
        ({"spacing": (1.0, 0.0, 1.0)}, UsageError, "three positive numbers of millimetres"),
        ({"predictions": {"hinet": np.zeros((3, 3, 3))}}, DataError, r"prediction of hinet has the grid \(3, 3, 3\)"),
        ({"mask": np.zeros(SHAPE, bool)}, DataError, "brain mask is empty"),
        ({"sources": {"T1w": np.full(SHAPE, np.nan)}}, DataError, "source T1w holds NaN"),
        ({"centre": (0, 0, 16)}, UsageError, r"centre \(0, 0, 16\) lies outside"),
        ({"segmentation": np.zeros((1, 1, 1), int)}, DataError, "segmentation has the grid"),
    ],
)
def test_figure_case_refuses(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        make_case("sub-77", **changes)
    assert "sub-77" in str(caught.value) and "\n" not in str(caught.value)


# --- figures ---


def test_one_method_has_error_maps_beside_and_one_colour_bar() -> None:
    figure = planes_figure(make_case(units="scanner units"))
    found = panels(figure)
    names = ["source:T1w", "source:T2w", "truth:FLAIR", "prediction:hinet", "error:hinet"]
    assert set(found) == {f"{name}:{plane}" for name in names for plane in ("axial", "coronal", "sagittal")} | {"colour bar"}
    assert found["colour bar"].get_ylabel() == "absolute error\n(scanner units)"
    edges = [found[f"{name}:axial"].get_position().x0 for name in names]
    assert edges == sorted(edges)
    assert found["colour bar"].get_position().x0 > found["error:hinet:axial"].get_position().x1
    assert found["error:hinet:axial"].get_position().y0 > found["error:hinet:coronal"].get_position().y1


def test_many_columns_put_errors_beneath_predictions() -> None:
    found = panels(planes_figure(make_case(methods=("copy", "linear", "hinet"))))
    for name in ("copy", "linear", "hinet"):
        above, below = (found[f"{kind}:{name}:coronal"].get_position() for kind in ("prediction", "error"))
        assert below.x0 == pytest.approx(above.x0)
        assert below.y1 < above.y0
    assert found["source:T1w:axial"].get_position().x0 == found["source:T2w:axial"].get_position().x0


@pytest.mark.parametrize("methods", [("a",), ("a", "b"), ("a", "b", "c", "d")])
@pytest.mark.parametrize("sources", [0, 1, 2, 3])
def test_panels_and_texts_stay_inside_and_apart(methods: tuple[str, ...], sources: int) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = planes_figure(make_case(methods=methods, inputs=sources))
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [axes.get_tightbbox(renderer) if gid == "colour bar" else axes.bbox for axes in figure.axes for gid in [axes.get_gid()]]
    texts = [text.get_window_extent(renderer) for text in figure.texts]
    for box in boxes + texts:
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.width + 1 and box.y1 <= figure.bbox.height + 1
    for i, one in enumerate(boxes + texts):
        for other in (boxes + texts)[i + 1 :]:
            across = min(one.x1, other.x1) - max(one.x0, other.x0)
            along = min(one.y1, other.y1) - max(one.y0, other.y0)
            assert across < 1 or along < 1, f"{one} overlaps {other}"


def test_truth_fixes_the_window_and_errors_are_absolute_differences() -> None:
    case = make_case(methods=("a", "b"), inputs=1, centre=(10, 12, 8))
    found = panels(planes_figure(case))
    expected = window(case.truth, case.mask)
    for name in ("truth:FLAIR", "prediction:a", "prediction:b"):
        assert found[f"{name}:axial"].images[0].get_clim() == pytest.approx(expected)
    assert found["source:T1w:axial"].images[0].get_clim() != pytest.approx(expected)
    box = brain_box(case.mask, case.spacing)
    inside = plane_image(case.mask[box], "coronal", 12 - box[1].start)
    for name, size in (("a", 0.1), ("b", 0.2)):
        image = found[f"error:{name}:coronal"].images[0]
        shown = np.asarray(image.get_array())
        assert shown[inside] == pytest.approx(size, abs=1e-6)
        assert (shown[~inside] == 0).all()
        assert image.get_clim() == pytest.approx((0, 0.2), abs=1e-6)
        assert image.get_cmap().name == "inferno"


def test_panels_have_the_aspect_of_millimetres() -> None:
    case = make_case()
    box = brain_box(case.mask, case.spacing)
    x, y, z = (s.stop - s.start for s in box)
    found = panels(planes_figure(case))
    for plane, size in (("axial", (2 * x, 2 * y)), ("coronal", (2 * x, 3 * z)), ("sagittal", (2 * y, 3 * z))):
        axes = found[f"truth:FLAIR:{plane}"]
        assert axes.get_aspect() == 1
        assert (axes.get_xlim(), axes.get_ylim()) == ((0, size[0]), (size[1], 0))
        assert axes.images[0].get_extent() == [0, size[0], size[1], 0]


def test_rendered_pixels_show_the_marked_side_and_black_outside() -> None:
    case = make_case(inputs=1)
    bright = np.where(case.mask, -0.9, -1).astype(np.float32)
    bright[12:][case.mask[12:]] = 0.9  # the patient's right
    from PIL import Image

    figure = planes_figure(replace(case, truth=bright, predictions={"hinet": bright}), planes=("axial",))
    picture = np.asarray(Image.open(io.BytesIO(encode(figure))).convert("L"), float)
    height, width = picture.shape
    place = panels(figure)["truth:FLAIR:axial"].get_position()
    rows = slice(int((1 - place.y1) * height) + 20, int((1 - place.y0) * height))
    panel = picture[rows, int(place.x0 * width) : int(place.x1 * width)]
    middle = panel.shape[1] // 2
    assert panel[:, : middle - 20].mean() > 5 * panel[:, middle + 20 :].mean()
    assert panel[-3:, :3].max() < 12


def test_letters_scores_and_convention_are_written() -> None:
    seen = words(planes_figure(make_case(methods=("a$b$",))))
    assert {"R", "L", "A", "P", "T1w", "T2w", "FLAIR", "a$b$", "PSNR 20.00 dB"} <= set(seen)
    assert any("patient's right (R) is on the left" in text for text in seen)
    lesion = np.zeros(SHAPE, int)
    lesion[14:17, 10:14, 6:10] = 1
    seen = words(planes_figure(make_case(segmentation=lesion)))
    assert "sagittal (right)" in seen and any("Green line: lesion label" in text for text in seen)


def test_lesion_is_outlined_on_truth_and_error_only() -> None:
    lesion = np.zeros(SHAPE, int)
    lesion[8:12, 10:14, 6:10] = 1
    found = panels(planes_figure(make_case(segmentation=lesion)))
    outlined = {gid for gid, axes in found.items() if gid != "colour bar" and len(axes.collections)}
    assert {gid.partition(":")[0] for gid in outlined} == {"truth", "error"}
    assert len(outlined) == 6


def test_an_endless_score_and_long_names_are_drawn() -> None:
    case = make_case(methods=("m" * 80,))
    seen = words(planes_figure(replace(case, scores={"m" * 80: {"psnr": math.inf}})))
    assert "PSNR ∞ dB" in seen
    assert any("…" in text and text.startswith("mm") for text in seen)


def test_unknown_method_and_plane_are_refused() -> None:
    with pytest.raises(UsageError, match=r"unknown method 'hinett': did you mean hinet\?"):
        planes_figure(make_case(), methods=["hinett"])
    with pytest.raises(UsageError, match="unknown plane 'axal': did you mean axial"):
        readme_figure(make_case(), planes=("axal",))
    with pytest.raises(UsageError, match="no method was named"):
        planes_figure(make_case(), methods=[])


def test_readme_figure_is_one_row_of_the_last_method(tmp_path: Path) -> None:
    from PIL import Image

    figure = readme_figure(make_case(methods=("copy", "hinet")))
    assert {gid for gid in panels(figure) if "error" in gid} == {"error:hinet:axial"}
    full = encode(figure, "png", 1.5)
    path = tmp_path / "images" / "readme.png"
    assert write_picture(path, figure) == path.stat().st_size == len(full)
    limit = len(full) - 1
    assert write_picture(path, figure, limit=limit) == path.stat().st_size <= limit
    small = np.asarray(Image.open(path).convert("RGB"), float)
    assert np.abs(small - np.asarray(Image.open(io.BytesIO(full)), float)).mean() < 3
    with pytest.raises(DataError, match=r"takes \d+ bytes at its smallest and 100 are allowed"):
        write_picture(path, figure, limit=100)


def test_encode_is_reproducible_and_refuses_other_formats() -> None:
    assert encode(planes_figure(make_case())) == encode(planes_figure(make_case()))
    assert encode(planes_figure(make_case()), "jpeg")[:3] == b"\xff\xd8\xff"
    with pytest.raises(UsageError, match="unknown picture format 'jpg': did you mean jpeg"):
        encode(planes_figure(make_case()), "jpg")


# --- learning curves ---

LOG: list[dict[str, Any]] = [
    {"step": 0, "seconds": 0.1, "validation": 10.0, "scores": {"p1": 10.0}},
    {"step": 10, "loss_G": 2.0, "loss_D": math.nan, "lr": 1e-4, "seconds": 1.0, "steps_per_s": 9.0, "share_waited": 0.01},
    {"step": 20, "loss_G": 1.0, "loss_D": 0.3, "lr": 1e-4, "seconds": 2.0, "steps_per_s": 9.0, "share_waited": 0.01},
    {"step": 20, "seconds": 2.1, "validation": 12.5, "scores": {"p1": 12.5}},
    {"step": 30, "validation": math.inf},
    {"finished": True, "steps": 20, "best": 12.5},
]


def test_series_sorts_losses_and_validation() -> None:
    losses, psnr = series(LOG)
    assert losses == {"loss_G": ([10.0, 20.0], [2.0, 1.0]), "loss_D": ([20.0], [0.3])}
    assert psnr == ([0.0, 20.0], [10.0, 12.5])


def test_learning_curve_draws_both_and_none_where_there_is_none() -> None:
    figure = learning_curve(LOG)
    assert figure is not None
    left, right = figure.axes
    assert left.lines[0].get_ydata() == pytest.approx([2.0, 1.0])
    assert right.lines[0].get_ydata() == pytest.approx([10.0, 12.5])
    assert right.texts[0].get_text() == "best 12.50 dB at step 20"
    assert learning_curve(LOG[:2]) is None
    only = learning_curve([{"step": i, "loss": -1.0} for i in range(1000)])
    assert only is not None and len(only.axes) == 1
    assert len(only.axes[0].lines[0].get_ydata()) <= 240


# --- words and tables ---


def score_rows(
    values: dict[str, list[float]], metric: str = "psnr", protocol: str = "masked-volume", region: str = ""
) -> list[Score]:
    where = ("FLAIR", protocol, region or own_region(protocol), metric)
    return [
        Score(f"sub-{i:02d}", "", method, *where, value) for method, numbers in values.items() for i, value in enumerate(numbers)
    ]


SCORES = {"copy": [10.0, 12.5, 11.0], "linear": [14.25, 15.0, 12.0], "hinet": [16.0, 14.5, 16.75]}


def test_summary_says_who_is_best_and_by_how_much() -> None:
    text = " ".join(summary_words(score_rows(SCORES)))
    assert "hinet predicts FLAIR best of 3 methods: PSNR 15.75 ± 1.15 dB" in text
    assert "over 3 test subjects, protocol masked-volume" in text
    assert "2.00 dB above linear (better in 2 of 3 subjects) and 4.58 dB above copy (better in 3 of 3 subjects)" in text
    assert "3 subjects cannot show small differences" in text


def test_summary_admits_when_a_baseline_wins() -> None:
    text = " ".join(summary_words(score_rows({"linear": [15.0, 15.0], "copy": [10.0, 10.0], "hinet": [14.0, 15.5]})))
    assert text.startswith("linear predicts FLAIR best of 3 methods: PSNR 15.00 ± 0.00 dB")
    assert "No trained method beats this baseline: hinet is 0.25 dB below linear (better in 1 of 2 subjects)." in text


def test_summary_of_one_method_one_subject_no_psnr_and_no_rows() -> None:
    assert summary_words(score_rows({"unet": [15.0]})) == [
        "unet predicts FLAIR with a PSNR of 15.00 dB (1 test subject, protocol masked-volume); it is the only method scored."
    ]
    assert summary_words(score_rows({"unet": [0.9]}, "ssim")) == [
        "FLAIR: no PSNR was computed, so the methods are not ranked; see the table."
    ]
    assert "no PSNR is defined" in summary_words(score_rows({"unet": [math.nan]}))[0]
    assert summary_words([]) == []
    many = {"linear": [1.0] * 12, "hinet": [2.0] * 12}
    assert not any("cannot show" in sentence for sentence in summary_words(score_rows(many)))
    assert "∞ dB above linear" in " ".join(summary_words(score_rows({"linear": [1.0], "hinet": [math.inf]})))


def test_sessions_of_one_subject_count_once() -> None:
    sessions = {"sub-00": "sub-00_ses-1", "sub-01": "sub-00_ses-2"}
    rows = [replace(row, case=sessions.get(row.case, row.case), subject="") for row in score_rows(SCORES)]
    table = tables(rows)[0]
    assert table.subjects == 2
    expected = [(16.0 + 14.5) / 2, 16.75]
    assert table.means[2].cells[0].text == f"{np.mean(expected):.2f} ± {np.std(expected, ddof=1):.2f}"
    assert [line.case for line in table.cases if line.case] == ["sub-00_ses-1", "sub-00_ses-2", "sub-02"]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (("psnr", 15.756, 1.149), "15.76 ± 1.15"),
        (("psnr", -3.25), "−3.25"),
        (("psnr", math.inf), "∞"),
        (("ssim", 0.91234), "0.9123"),
        (("mae", math.nan), "n/a"),
    ],
)
def test_number(given: tuple[Any, ...], text: str) -> None:
    assert number(*given) == text


def test_intervals_stand_where_three_subjects_have_finite_scores() -> None:
    values = {"a": [10.0, 12.5, 11.0, 13.0], "b": [1.0, 2.0, 3.0, math.inf]}
    table = tables(score_rows(values))[0]
    low, high = bootstrap_interval(values["a"])
    assert table.means[0].cells[0].interval == f"{low:.2f} to {high:.2f}"
    assert table.means[1].cells[0].interval == ""
    assert table.intervals
    assert not tables(score_rows({"a": [10.0, 12.5]}))[0].intervals
    # sessions of one subject are no further subjects
    cases = ("sub-00", "sub-01_ses-1", "sub-01_ses-2")
    rows = [replace(row, case=case, subject="") for row, case in zip(score_rows({"a": [1.0, 2.0, 3.0]}), cases, strict=True)]
    assert not tables(rows)[0].intervals


def test_regions_have_tables_of_their_own() -> None:
    rows = score_rows({"a": [10.0, 12.0], "b": [9.0, 13.5]}) + score_rows({"a": [1.0, 2.0], "b": [3.0, 4.0]}, region="lesion")
    rows += score_rows({"a": [1.0, 2.0], "b": [0.5, 0.6]}, "false_bright_ml", region="slices") + score_rows(
        {"a": [30.0, 31.0]}, "structure_psnr"
    )
    found = tables(rows)
    assert [table.region for table in found] == ["", "lesion", "slices"]
    assert [[head.title for head in table.columns] for table in found] == [
        ["PSNR (dB)", "structure PSNR (dB)"],
        ["PSNR (dB)"],
        ["false bright (ml)"],
    ]
    assert [table.structure for table in found] == [True, False, False]
    assert found[1].means[1].cells[0].text == "3.50 ± 0.71" and found[1].means[1].cells[0].best
    assert found[0].explanation and not found[1].explanation
    shown = "".join(Page(render(ReportData("t", "c", rows))).text)
    assert "protocol masked-volume, region lesion, mean" in shown and "so it is optimistic" in shown
    assert "best of 2 methods: PSNR 11.25" in shown  # the ranking is by the protocol's own region


def test_provenance_is_short() -> None:
    info = {
        "runs": {"my_run": {"result": {"seconds": 721.4667796, "scores": {"sub_1": 1.0, "x": None}}, "none": None}},
        "list": [1.5, "a"],
    }
    shown = Page(render(ReportData("t", "c", [], info=info))).text
    assert "runs: my run: result" in shown and "seconds 721.467, scores sub_1 1, x none" in shown and "1.5, a" in shown


def test_main_protocol_is_masked_volume_else_the_first_with_a_psnr() -> None:
    rows = score_rows({"a": [1.0]}, "ssim", "own") + score_rows({"a": [1.0]}, protocol="hinet2020")
    assert main_protocol(rows, "FLAIR") == "hinet2020"
    assert main_protocol(rows + score_rows({"a": [1.0]}), "FLAIR") == "masked-volume"
    assert main_protocol(rows[:1], "FLAIR") == "own"


def test_tables_know_directions_and_the_best() -> None:
    rows = score_rows(SCORES) + score_rows({"copy": [0.3], "linear": [0.1], "hinet": [0.2]}, "mae")
    rows += score_rows({"copy": [1.0], "linear": [1.0], "hinet": [1.0]}, "fancy")
    table = tables(rows)[0]
    assert [(head.title, head.arrow) for head in table.columns] == [("PSNR (dB)", "↑"), ("MAE", "↓"), ("fancy", "")]
    best = {
        (line.method, head.metric)
        for line in table.means
        for head, cell in zip(table.columns, line.cells, strict=True)
        if cell.best
    }
    assert best == {("hinet", "psnr"), ("linear", "mae")}


# --- html ---

VOID = {"meta", "img", "input", "source", "br", "link", "hr"}


class Page(HTMLParser):
    """Checks that tags balance, and collects what the page holds."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.cells: list[list[str]] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("th", "td"):
            self.cells[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self.cells and ("td" in self.open or "th" in self.open):
            self.cells[-1][-1] += data


def payloads(text: str) -> list[dict[str, Any]]:
    """The viewers' data, in the order of the page."""
    return [json.loads(found) for found in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.S)]


EVIL = 'sub-<script>alert(1)</script>&"x"'


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Page]:
    rows = score_rows(SCORES) + score_rows({name: [v + 8 for v in values] for name, values in SCORES.items()}, protocol="hinet2020")
    rows += score_rows({name: [v / 100 for v in values] for name, values in SCORES.items()}, metric="mae")
    rows = [replace(row, case=row.case.replace("sub-01", EVIL), subject="") for row in rows]
    report = ReportData(
        title="a <b>title</b> & more",
        command="synthmr demo --out 'x<y'",
        rows=rows,
        figures=(make_case(name, tuple(SCORES), 2) for name in ("sub-00", EVIL)),
        config={"hinet": {"method": "hinet", "train": {"lr": 2e-4}, "crop": (160, 180), "note": "<i>"}},
        info={"data": "phantom <7>", "split": {"test": ["sub-00", EVIL]}, "notes": None},
        logs={"hinet": LOG, "linear": []},
        notes=["Simulated <em>data</em>."],
        date="2026-01-02 03:04",
    )
    path = write_report(tmp_path_factory.mktemp("report") / "new" / "report.html", report)
    assert [item.name for item in path.parent.iterdir()] == ["report.html"]
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


def test_page_fetches_nothing(page: tuple[str, Page]) -> None:
    text, parsed = page
    for tag, attributes in parsed.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for key in ("src", "srcset", "href", "data", "poster", "action"):
            assert (attributes.get(key) or "#").startswith(("data:image/", "#")), (tag, key)
        assert not any(key.startswith("on") for key in attributes)
    without = re.sub(r"data:image/[a-z]+;base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.search(r"https?://|url\(|@import|//[a-z]+\.", without)
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|sendBeacon|eval|innerHTML|localStorage|import)\b", without)
    assert "default-src 'none'" in text
    assert len(text) < 4_000_000


def test_page_shows_every_case_escaped(page: tuple[str, Page]) -> None:
    text, parsed = page
    # two cases' data and the viewer; the policy lets nothing run but the viewer
    assert [attributes.get("type") for tag, attributes in parsed.tags if tag == "script"] == ["application/json"] * 2 + [None]
    script = re.search(r"<script>(.*?)</script>", text, re.S)
    assert script is not None
    assert f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()}'\"" in text
    assert text.count("<script") == 3 and "<b>title" not in text and "<em>data" not in text and "<i>" not in text
    shown = "".join(parsed.text)
    assert shown.count(EVIL) >= 4  # two tables, link, heading
    assert {data["name"] for data in payloads(text)} == {"sub-00", EVIL}
    for piece in (
        "a <b>title</b> & more",
        "x<y",
        "phantom <7>",
        "Simulated <em>data</em>.",
        "not for diagnosis",
        "2026-01-02 03:04",
    ):
        assert piece in shown
    images = [attributes for tag, attributes in parsed.tags if tag == "img"]
    assert len(images) == 6  # two cases, each a still picture and its errors by slice, one learning curve, one plot of subjects
    assert all(image["alt"] and len(image["alt"]) > 40 for image in images)
    assert any(EVIL in (image["alt"] or "") for image in images)
    links = [attributes["href"] for tag, attributes in parsed.tags if tag == "a"]
    ids = {attributes["id"] for _, attributes in parsed.tags if "id" in attributes}
    assert links and {link.removeprefix("#") for link in links if link} <= ids


def test_page_numbers_are_the_recomputed_ones(page: tuple[str, Page]) -> None:
    _, parsed = page
    for shift, scale, decimals in ((0.0, 1.0, 2), (8.0, 1.0, 2), (0.0, 0.01, 4)):
        for method, values in SCORES.items():
            mine = np.asarray(values) * scale + shift
            expected = f"{np.mean(mine):.{decimals}f} ± {np.std(mine, ddof=1):.{decimals}f}"
            low, high = (f"{end:.{decimals}f}" for end in bootstrap_interval(mine))
            expected += f"{low} to {high}"  # the second line of the cell
            assert any(row[0] == method and expected in row for row in parsed.cells), (method, expected)
    rows = [row for row in parsed.cells if row and row[0] == EVIL]
    assert rows == [[EVIL, "copy", "12.50", "0.1250"], [EVIL, "copy", "20.50"]]
    heads = [row for row in parsed.cells if row and row[0] == "Method"]
    assert heads == [["Method", "PSNR (dB) ↑", "MAE ↓"], ["Method", "PSNR (dB) ↑"]]


def test_page_says_how_to_read_and_where_it_comes_from(page: tuple[str, Page]) -> None:
    shown = "".join(page[1].text)
    assert "The patient's right is on the left" in shown
    assert "Error maps are black where the prediction is right; their colours end at 0.3 (normalised intensity)" in shown
    assert "PSNR of this case, protocol masked-volume: copy 20.00 dB, linear 21.00 dB, hinet 22.00 dB." in shown
    assert "the brain mask" in shown  # the protocol's own words
    assert "crop: [160, 180]" in shown and "lr: 0.0002" in shown and "numpy " in shown
    assert "hinet predicts FLAIR best of 3 methods" in shown


def test_prerendered_pictures_and_an_empty_report() -> None:
    picture = Picture("own", "a caption", "an alternative", b"\x89PNG")
    text = render(ReportData("t", "c", [], figures=[picture]))
    assert 'src="data:image/png;base64,iVBORw=="' in text and "a caption" in text
    parsed = Page(render(ReportData("t", "c", [])))
    assert "No scores were computed." in "".join(parsed.text)
    assert not any(tag in ("img", "table", "script") for tag, _ in parsed.tags)
    assert "script-src" not in text


def test_the_worst_case_comes_first_and_of_many_cases_five_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    # drawing is not the subject here, and it takes long
    monkeypatch.setattr(html, "case_picture", lambda case, scale: Picture(case.name, "", "", b""))
    monkeypatch.setattr(html, "_slices", lambda case: {})
    monkeypatch.setattr(html, "_strips", lambda rows: [])
    values = {"hinet": [20.0, 14.0, 18.0, 12.0, 25.0, 16.0, 22.0, math.nan], "linear": [1.0, 9.0, 2.0, 8.0, 3.0, 7.0, 4.0, 6.0]}
    rows = score_rows(values)
    drawn = []

    def figures() -> Iterator[FigureCase]:
        for i in range(8):
            drawn.append(i)
            yield make_case(f"sub-{i:02d}", ("hinet", "linear"), 0, scores={"hinet": {"psnr": values["hinet"][i]}})

    text = render(ReportData("t", "c", rows, figures()))
    # 12, 14 and 16 dB are the worst, 20 dB is fifth of eight, and the one without a score comes last
    assert [data["name"] for data in payloads(text)] == ["sub-03", "sub-01", "sub-05", "sub-00", "sub-07"]
    shown = "".join(Page(text).text)
    assert "3 further cases are in the tables only" in shown and "the one with the lowest PSNR of hinet first" in shown
    assert drawn == list(range(8))
    few = render(ReportData("t", "c", rows, figures(), cases=2, interactive=False))
    assert [tag for tag, attributes in Page(few).tags if attributes.get("class") == "case"] == ["figure"] * 2
    assert not payloads(few) and "sub-03" in few and "6 further cases" in few


def test_same_data_same_page() -> None:
    def draw() -> str:
        return render(ReportData("t", "c", score_rows(SCORES), figures=[make_case()], logs={"hinet": LOG}, date="2026-01-01"))

    assert draw() == draw()


def test_unwritable_report_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written") as caught:
        write_report(tmp_path / "file" / "report.html", ReportData("t", "c", []))
    assert "\n" not in str(caught.value)


# --- the README's picture ---

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "readme_figure.py"


def test_readme_script_draws_from_files(tmp_path: Path) -> None:
    case = make_case()
    arrays = {"T1w": case.sources["T1w"] + 1, "T2w": case.sources["T2w"] + 1, "FLAIR": (case.truth + 1) * 50, "mask": case.mask}
    arrays["guess"] = case.predictions["hinet"]
    # stored with X running to the left, as many files are
    affine = np.diag([-2.0, 2.0, 3.0, 1.0])
    paths = write_case(tmp_path, {name: array[::-1].astype(np.float32) for name, array in arrays.items()}, affine)
    out = tmp_path / "docs" / "picture.png"
    command = [sys.executable, SCRIPT, "--sources", f"T1w={paths['T1w']}", f"T2w={paths['T2w']}", "--truth", paths["FLAIR"]]
    command += ["--prediction", f"hinet={paths['guess']}", "--mask", paths["mask"], "--normalizer", "percentile", "--out", out]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert out.stat().st_size < 300_000
    bad = subprocess.run([str(word) for word in [*command, "--sources", "T1w"]], capture_output=True, text=True, check=False)
    assert bad.returncode == 2 and "not of the form CONTRAST=FILE" in bad.stderr and bad.stderr.count("\n") == 1
