"""The report's viewer data and plots: packed volumes, errors by slice, subjects as points."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from synthmr.report import mosaic
from synthmr.report.mosaic import BRAIN, LESION, OUTSIDE, pack, quantise, shrink, tile, tiles_across, value_ranges
from synthmr.report.slices import slice_errors, slice_figure
from synthmr.report.strips import strip_figure, subject_values
from synthmr.report.viewer import viewer_caption, viewer_data
from synthmr.report.views import FigureCase, brain_box, window
from test_report import make_case, score_rows


def picture(uri: str) -> np.ndarray:
    """The grey picture of a data URI."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("L"))


def untile(mosaic: np.ndarray, shape: tuple[int, int, int], across: int) -> np.ndarray:
    """The volume ``(X, Y, Z)`` of a mosaic, voxel by voxel position: right of the patient left, front on top, lowest first."""
    x, y, z = np.indices(shape)
    return mosaic[z // across * shape[1] + shape[1] - 1 - y, z % across * shape[0] + shape[0] - 1 - x]


def smooth_case(shape: tuple[int, int, int] = (44, 52, 40), sources: int = 2, methods: int = 1, **changes: Any) -> FigureCase:
    """A case whose images are as smooth as brains are."""
    rng = np.random.default_rng(3)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    mask = sum(axis**2 for axis in axes) < 0.85

    def image() -> np.ndarray:
        coarse = gaussian_filter(rng.normal(size=shape).astype(np.float32), 2.0)
        return np.where(mask, 0.5 + 3 * coarse + 0.02 * rng.normal(size=shape), 0).astype(np.float32)

    truth = image()
    lesion = np.zeros(shape, np.uint8)
    lesion[10:18, 12:20, 9:15] = 2
    given: dict[str, Any] = {
        "name": "sub-01",
        "target": "FLAIR",
        "spacing": (1.0, 1.5, 2.0),
        "sources": {f"T{i + 1}w": image() for i in range(sources)},
        "truth": truth,
        "predictions": {f"m{i}": np.where(mask, 0.8 * truth + 0.2 * image(), 0) for i in range(methods)},
        "mask": mask,
        "segmentation": lesion,
        "units": "share of the range",
    }
    return FigureCase(**{**given, **changes})


# --- packing ---


def test_tile_and_its_inverse() -> None:
    volume = np.random.default_rng(0).integers(0, 255, (5, 7, 11), dtype=np.uint8)
    for across in (1, 3, 4, 11):
        tiled = tile(volume, across)
        assert tiled.shape == (-(-11 // across) * 7, across * 5)
        assert (untile(tiled, volume.shape, across) == volume).all()
    assert tiles_across((140, 170, 145)) in (13, 14)
    assert tiles_across((100, 2, 1)) == 1


def test_quantise_spans_the_limits_and_clips() -> None:
    values = np.array([-3.0, 2.0, 2.0 + 4 / 255 * 0.4, 4.0, 6.0, 9.0])
    assert quantise(values, (2.0, 6.0)).tolist() == [0, 0, 0, 128, 255, 255]
    rng = np.random.default_rng(1).uniform(-1, 1, 999)
    back = -1 + quantise(rng, (-1.0, 1.0)) * (2 / 255)
    assert np.abs(back - rng).max() <= 1 / 255 + 1e-9


def test_ranges_hold_the_window_and_truth_and_predictions_share_one() -> None:
    case = smooth_case(methods=2)
    ranges = value_ranges(case)
    inside = case.mask
    assert set(ranges) == {"source:T1w", "source:T2w", "truth", "prediction:m0", "prediction:m1"}
    assert ranges["truth"] == ranges["prediction:m0"] == ranges["prediction:m1"]
    for name, image in {"source:T1w": case.sources["T1w"], "truth": case.truth}.items():
        low, high = window(image, inside)
        assert ranges[name][0] <= low and ranges[name][1] >= high
        assert ranges[name][0] >= low - 0.25 * (high - low) - 1e-6 and ranges[name][1] <= high + 0.5 * (high - low) + 1e-6
        assert ranges[name][0] >= image[inside].min() - 1e-6 or name == "truth"
    flat = replace(case, sources={"T1w": np.full(case.truth.shape, 3.0)})
    assert value_ranges(flat)["source:T1w"] == (2.5, 3.5)


def test_packed_images_are_the_images() -> None:
    case = smooth_case()
    packed = pack(case, 10_000_000)
    box = brain_box(case.mask, case.spacing)
    assert packed.step == 1 and packed.quality == mosaic.LADDER[0][0]
    assert packed.shape == case.mask[box].shape and packed.origin == tuple(edge.start for edge in box)
    assert packed.size == len(packed.labels) + sum(len(uri) for uri in packed.images.values())
    inside = case.mask[box]
    for name, volume in {"source:T2w": case.sources["T2w"], "truth": case.truth, "prediction:m0": case.predictions["m0"]}.items():
        low, high = packed.ranges[name]
        back = low + untile(picture(packed.images[name]), packed.shape, packed.across) * ((high - low) / 255)
        error = (back - np.clip(volume[box], low, high))[inside] / (high - low)
        assert np.sqrt((error**2).mean()) < 0.012 and abs(error.mean()) < 0.004, name
    labels = untile(picture(packed.labels), packed.shape, packed.across)
    expected = np.where(inside, np.where(case.segmentation[box] > 0, LESION, BRAIN), OUTSIDE)
    assert (labels == expected).all() and (labels == LESION).any()


def test_a_small_budget_gives_coarser_pictures_and_the_caption_says_so() -> None:
    case = smooth_case()
    full = pack(case, 10_000_000)
    fewer = pack(case, full.size - 1)
    assert fewer.step == 1 and fewer.quality < full.quality and fewer.size < full.size
    data = viewer_data(case, full.size // 6)
    assert data["step"] == 2 and len(data["labels"]) + sum(map(len, data["images"].values())) <= full.size // 6
    assert data["spacing"] == [2.0, 3.0, 4.0]
    assert data["shape"] == tuple(-(-n // 2) for n in full.shape)
    centre = np.asarray(data["origin"]) + 2 * np.asarray(data["centre"])
    assert np.abs(centre - np.asarray(viewer_data(case, 10**7)["centre"]) - full.origin).max() <= 1
    assert "averaged over 2 × 2 × 2 voxels" in viewer_caption(case, data)
    assert "averaged" not in viewer_caption(case, viewer_data(case, 10**7))
    assert pack(case, 0).step == mosaic.LADDER[-1][1]


def test_shrink_averages_the_brain_only() -> None:
    rng = np.random.default_rng(2)
    image, mask = rng.normal(size=(5, 4, 7)), rng.random((5, 4, 7)) < 0.5
    small = shrink(image, mask, 2)
    assert small.shape == (3, 2, 4)
    for place in np.ndindex(small.shape):
        block = tuple(slice(2 * i, 2 * i + 2) for i in place)
        chosen = image[block][mask[block]]
        assert small[place] == pytest.approx(chosen.mean() if chosen.size else 0)


def test_volumes_beyond_a_canvas_are_made_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    case = smooth_case(sources=0)
    monkeypatch.setattr(mosaic, "MOST_PIXELS", 20_000)
    packed = pack(case, 10_000_000)
    assert packed.step == 2 and math.prod(packed.shape) <= 20_000


def test_pillow_without_webp_writes_jpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import features

    monkeypatch.setattr(features, "check", lambda _: False)
    packed = pack(smooth_case(sources=0), 10_000_000)
    assert packed.images["truth"].startswith("data:image/jpeg;base64,")
    assert packed.labels.startswith("data:image/png;base64,")


def test_a_real_size_case_fits_a_fifth_of_the_page() -> None:
    from synthmr.report.html import CASE_BYTES, MOST_CASES, OTHER_BYTES, PAGE_BYTES

    assert PAGE_BYTES < 15_000_000
    case = smooth_case((140, 170, 145), sources=0)
    # two images of the seven that four sources, truth and two predictions make
    share = min((PAGE_BYTES - OTHER_BYTES) // MOST_CASES, CASE_BYTES) * 2 // 7
    packed = pack(case, share)
    assert packed.size <= share
    assert packed.step == 1


def test_viewer_columns_and_words() -> None:
    case = smooth_case(methods=2, scores={"m0": {"psnr": 21.234}})
    data = viewer_data(case, 10_000_000)
    kinds = [(column["kind"], column["title"], column["image"]) for column in data["columns"]]
    assert kinds == [
        ("source", "T1w", "source:T1w"),
        ("source", "T2w", "source:T2w"),
        ("truth", "FLAIR", "truth"),
        ("prediction", "m0", "prediction:m0"),
        ("prediction", "m1", "prediction:m1"),
        ("error", "error of m0", "prediction:m0"),
        ("error", "error of m1", "prediction:m1"),
    ]
    assert data["columns"][3]["subtitle"] == "prediction, 21.23 dB" and data["columns"][4]["subtitle"] == "prediction"
    assert data["columns"][3]["window"] == data["columns"][2]["window"] != data["columns"][0]["window"]
    assert data["lesion"] and len(data["colours"]) == 6 * 256 and data["colours"].startswith("000004")
    caption = viewer_caption(case, data)
    for piece in ("inputs T1w and T2w", "by m0 and m1", "right (R) is on the left", "green line", "(share of the range)"):
        assert piece in caption
    bare = smooth_case(sources=0, segmentation=None)
    data = viewer_data(bare, 10_000_000)
    assert not data["lesion"] and "green" not in viewer_caption(bare, data) and "inputs" not in viewer_caption(bare, data)


# --- errors by slice ---


def test_slice_errors_are_means_over_the_brain_of_each_slice() -> None:
    case = smooth_case(methods=2)
    shifted = case.truth.copy()
    shifted[:, :, 20] += 0.5
    shifted[~case.mask] = 77  # outside does not count
    found = slice_errors(replace(case, predictions={"a": shifted, "b": case.truth - 0.25}))
    assert found is not None
    assert found.errors["a"] == pytest.approx(np.where(found.slices == 20, 0.5, 0), abs=1e-6)
    assert found.errors["b"] == pytest.approx(0.25, abs=1e-6)
    assert found.worst("a") == 20
    count = case.mask.sum(axis=(0, 1))
    assert (count[found.slices] >= 50).all() and (np.delete(count, found.slices) < 50).all()
    assert found.slices[found.lesion].tolist() == list(range(9, 15))
    assert found.limits == (found.slices[0] - 0.5, found.slices[-1] + 0.5)


def test_slice_figure_shows_a_line_a_method_and_the_lesion() -> None:
    found = slice_errors(smooth_case(methods=2))
    assert found is not None
    for theme in ("light", "dark"):
        axes = slice_figure(found, "units", theme).axes[0]
        assert [line.get_label() for line in axes.lines] == ["m0", "m1", "cuts the lesion label"]
        assert axes.lines[1].get_ydata() == pytest.approx(found.errors["m1"])
        assert tuple(axes.lines[2].get_xdata()) == (8.5, 14.5)
        assert axes.get_xlim() == found.limits
    assert slice_errors(make_case()) is not None
    thin = np.zeros((20, 24, 16), bool)
    thin[:, :, 3] = True
    assert slice_errors(make_case(mask=thin)) is None


# --- subjects ---


def test_subject_values_average_sessions_and_leave_out_what_is_not_finite() -> None:
    rows = score_rows({"a": [10.0, 12.0, 20.0], "b": [math.inf, math.nan, 1.0], "c": [math.inf] * 3})
    sessions = {"sub-00": "sub-00_ses-1", "sub-01": "sub-00_ses-2"}
    rows = [replace(row, case=sessions.get(row.case, row.case), subject="") for row in rows]
    assert subject_values(rows, "FLAIR", "masked-volume", "psnr") == {"a": {"sub-00": 11.0, "sub-02": 20.0}, "b": {"sub-02": 1.0}}
    assert subject_values(rows, "T1w", "masked-volume", "psnr") == {}


def test_strip_figure_has_a_point_a_subject_a_mean_a_method_and_boxes_from_five_on() -> None:
    scores = {"a$x": [10.0, 12.5, 11.0], "b": [14.0, 15.0, 12.0]}
    rows = score_rows(scores) + score_rows({"a$x": [math.inf] * 3, "b": [0.1, 0.2, 0.3]}, "mae") + score_rows(scores, "fancy")
    figure = strip_figure(rows, "FLAIR", "masked-volume")
    assert figure is not None and len(figure.axes) == 2
    axes = figure.axes[0]
    assert axes.get_title(loc="left") == "PSNR (dB), higher is better"
    points = [line for line in axes.lines if line.get_marker() == "o"]
    assert sorted(float(line.get_ydata()[0]) for line in points) == sorted(scores["a$x"] + scores["b"])
    bars = [line for line in axes.lines if line.get_linewidth() == 2.2]
    assert [float(bar.get_ydata()[0]) for bar in bars] == pytest.approx([np.mean(values) for values in scores.values()])
    # the colour of b is the same where a has no score
    other = next(line for line in figure.axes[1].lines if line.get_linewidth() == 2.2)
    assert other.get_color() == bars[1].get_color() != bars[0].get_color()
    many = strip_figure(score_rows({"a": list(range(5)), "b": list(range(4))}), "FLAIR", "masked-volume")
    assert many is not None
    assert len(many.axes[0].lines) == 5 + 9 + 2 + 6  # joins, points, means, and the box of a with its whiskers
    assert strip_figure(score_rows({"a": [1.0], "b": [2.0]}), "FLAIR", "masked-volume") is None
    assert strip_figure([], "FLAIR", "masked-volume") is None
