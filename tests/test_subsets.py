"""Every subset of the sources: one run for all of them, or one each; the table, the plot, and what adding a source changes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiment_data import PARTS, Live, Watch, config, make_cohort, one_line
from synthmr import pipeline
from synthmr.errors import DataError, UsageError
from synthmr.evaluate.scores import Score, summarise
from synthmr.experiment import subsets
from synthmr.experiment.subsets import EACH, ONE, gains, main_metric, plot, score_subsets, subsets_of, table
from synthmr.run import RunFolder

THREE = "T1w,T2w,T1ce"


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def runs(data: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Trained runs. Read only."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("runs")
    wanted = {
        "milr": config("milr", THREE, "FLAIR", budget={"steps": 1}),
        "two": config("milr", "T1w,T2w", "FLAIR,T1ce", budget={"steps": 1}),
        "linear": config("linear", THREE),
        "alone": config("linear", "T2w"),
    }
    for name, one in wanted.items():
        store, split = pipeline.prepared(data, one, cache=cache)
        pipeline.train(one, store, split, root / name)
    return {name: root / name for name in wanted}


def score(run: Path, data: Path, out: Path | None, watch: Watch | None = None, **more: Any) -> tuple[list[Score], Watch]:
    watch = watch or Watch()
    return score_subsets(run, data, out, **watch.words, **more), watch


class Called(Exception):
    """Raised in place of work that must not be done."""


def refuse(*_: Any, **__: Any) -> None:
    raise Called


def test_subsets_in_order() -> None:
    assert subsets_of("abc") == [("a",), ("b",), ("c",), ("a", "b"), ("a", "c"), ("b", "c"), ("a", "b", "c")]
    assert subsets_of("abc", 2) == [("a", "b"), ("a", "c"), ("b", "c"), ("a", "b", "c")]
    assert len(subsets_of("abcde")) == 2**5 - 1


# --- one run ------------------------------------------------------------------------------------------------------------


def test_every_subset_of_one_run(runs: Mapping[str, Path], data: Path) -> None:
    rows, watch = score(runs["milr"], data, None)
    assert len(watch.shown) == 7 and watch.trained == []
    lines = table(rows)
    assert len(lines) == 2**3 - 1 and {line["runs"] for line in lines} == {ONE} and {line["subjects"] for line in lines} == {2}
    marks = [tuple(name for name in ("T1w", "T2w", "T1ce") if line[name]) for line in lines]
    assert marks == subsets_of(("T1w", "T2w", "T1ce"))
    psnr = {row.method: row.value for row in rows if (row.case, row.metric) == ("P05", "psnr")}
    assert len(set(psnr.values())) == 7  # each subset gives another image
    whole = pipeline.evaluate([runs["milr"]], data).rows
    assert [row.value for row in whole] == [row.value for row in rows if row.method == "T1w+T2w+T1ce"]


def test_a_row_for_each_target(runs: Mapping[str, Path], data: Path) -> None:
    rows, _ = score(runs["two"], data, None, split="held-out", protocol="whole-volume")
    lines = table(rows)
    assert [(line["target"], line["subjects"]) for line in lines] == [("FLAIR", 3), ("T1ce", 3)] * 3
    assert {row.protocol for row in rows} == {"whole-volume"}


@pytest.mark.parametrize(
    ("run", "more", "words"),
    [
        ("alone", {}, "has one source .T2w., so there is no subset"),
        ("alone", {"each": True}, "has one source"),
        ("linear", {}, "linear needs all of its sources.*add --train --out DIR, or use milr"),
        ("linear", {"each": True}, "needs --out DIR"),
        ("milr", {"each": True}, "needs --out DIR"),
        ("milr", {"budget": {"steps": 3}}, "--steps is of the runs that --train trains"),
        ("milr", {"protocol": "maskd-volume"}, "did you mean masked-volume"),
        ("milr", {"protocol": "all"}, "the table of subsets is of one protocol"),
        ("milr", {"split": "tset"}, "did you mean test"),
        ("milr", {"labels": "brats2017"}, r"labels are named .brats2017., and no case has a segmentation"),
        ("milr", {"labels": "brats217", "protocol": "brasyn"}, "no case has a segmentation"),
    ],
)
def test_wrong_words(runs: Mapping[str, Path], data: Path, run: str, more: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        score(runs[run], data, None, **more)
    one_line(error.value)


@pytest.mark.parametrize(
    ("run", "more", "words"),
    [
        ("linear", {"budget": {"steps": 3}}, "linear is fitted in one go and takes no --steps"),
        ("milr", {"budget": {"minutes": 0}}, "--minutes 0: give a number above 0"),
        ("milr", {"budget": {"steps": -1}}, "--steps -1: give a number above 0"),
        ("linear", {"split": "tset"}, "did you mean test"),
        ("linear", {"protocol": "maskd-volume"}, "did you mean masked-volume"),
    ],
)
def test_wrong_words_are_told_before_training(
    runs: Mapping[str, Path],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: str,
    more: dict[str, Any],
    words: str,
) -> None:
    monkeypatch.setattr(pipeline, "train", refuse)
    with pytest.raises(UsageError, match=words) as error:
        score(runs[run], data, tmp_path / "out", each=True, **more)
    one_line(error.value)
    assert not list(tmp_path.rglob("run"))


# --- a run each ---------------------------------------------------------------------------------------------------------


def test_a_run_each_is_trained_once(
    runs: Mapping[str, Path], data: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, watch = score(runs["linear"], data, tmp_path, each=True, cache=cache)
    names = ["+".join(each) for each in subsets_of(("T1w", "T2w", "T1ce"))]
    assert watch.trained == names[:-1]  # the run itself stands for all of its sources
    lines = table(rows)
    assert len(lines) == 7 and {line["runs"] for line in lines} == {EACH}
    assert list(dict.fromkeys(row.method for row in rows)) == [f"{EACH}: {name}" for name in names]
    found = sorted(RunFolder.open(path).config.sources for path in tmp_path.glob("*/run"))
    assert found == sorted(subsets_of(("T1w", "T2w", "T1ce"))[:-1])
    assert {RunFolder.open(path).split.test for path in tmp_path.glob("*/run")} == {("P05", "P06")}
    whole = pipeline.evaluate([runs["linear"]], data).rows
    assert [row.value for row in rows if row.method.endswith("T1w+T2w+T1ce")] == [row.value for row in whole]
    # FLAIR is a function of T2w most of all
    mean = {line["method"]: line["mean"] for line in summary(rows, "psnr")}
    assert mean[f"{EACH}: T2w"] > mean[f"{EACH}: T1w"] and mean[f"{EACH}: T1w+T2w"] > mean[f"{EACH}: T2w"]

    monkeypatch.setattr(pipeline, "train", refuse)
    monkeypatch.setattr(pipeline, "evaluate", refuse)
    again, watch = score(runs["linear"], data, tmp_path, each=True, cache=cache)
    assert again == rows and watch.trained == []


def summary(rows: list[Score], metric: str) -> list[dict[str, Any]]:
    return [row for row in summarise(rows) if row["metric"] == metric]


def test_an_interrupted_training_goes_on(runs: Mapping[str, Path], data: Path, cache: Path, tmp_path: Path) -> None:
    words: dict[str, Any] = {"each": True, "cache": cache, "budget": {"steps": 2}}
    with pytest.raises(KeyboardInterrupt):
        score(runs["two"], data, tmp_path, Watch(live=Live(stop_at=2)), **words)
    assert not list(tmp_path.rglob("lock"))
    rows, watch = score(runs["two"], data, tmp_path, **words)
    assert watch.trained == ["T1w", "T2w", "T1w+T2w"] and watch.live.steps == [2, 1, 2, 1, 2]
    # experiments A and B side by side; with another length of training the run itself cannot stand for its sources
    lines = table(rows)
    ways = [(way, target) for way in (ONE, EACH) for _ in range(3) for target in ("FLAIR", "T1ce")]
    assert [(line["runs"], line["target"]) for line in lines] == ways
    assert {RunFolder.open(path).config.train.steps for path in tmp_path.glob("*/run")} == {2}


def test_a_run_that_another_process_trains_is_left_to_it(runs: Mapping[str, Path], data: Path, cache: Path, tmp_path: Path) -> None:
    score(runs["linear"], data, tmp_path, each=True, cache=cache)
    folder = next(path.parent for path in tmp_path.glob("*/run") if RunFolder.open(path).config.sources == ("T2w",))
    (folder / "lock").write_text("elsewhere 12")
    with pytest.raises(DataError, match=r"^T2w: another process is at work on it") as error:
        score(runs["linear"], data, tmp_path, each=True, cache=cache)
    assert str(folder / "lock") in one_line(error.value)


def test_runs_of_another_split_are_refused(runs: Mapping[str, Path], data: Path, cache: Path, tmp_path: Path) -> None:
    one = config("linear", "T1w,T2w")
    other = make_cohort(tmp_path / "other", splits={**PARTS, "P01": "test", "P06": "train"})
    for number, folder in enumerate((data, other)):
        store, split = pipeline.prepared(folder, one, cache=cache)
        pipeline.train(one, store, split, tmp_path / f"run{number}")
    score(tmp_path / "run0", data, tmp_path / "out", each=True, cache=cache)
    with pytest.raises(DataError, match="another split"):
        score(tmp_path / "run1", data, tmp_path / "out", each=True, cache=cache)


def test_methods_that_take_two_sources_or_more(data: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from synthmr.methods import registry

    one = config("linear", THREE)
    store, split = pipeline.prepared(data, one, cache=cache)
    pipeline.train(one, store, split, tmp_path / "run")
    method = registry.load("linear")
    monkeypatch.setattr(method, "spec", replace(method.spec, sources=(2, 8)))
    rows, watch = score(tmp_path / "run", data, tmp_path / "out", each=True, cache=cache)
    assert len(table(rows)) == 4
    assert watch.said == ["left out, as linear takes 2 sources or more: T1w, T2w, T1ce"]


def test_frozen_parts_of_an_extended_run_learn_in_runs_of_their_own() -> None:
    one = config("milr", THREE, budget={"steps": 5})
    frozen = replace(one, options=replace(one.options, frozen=("T1w", "FLAIR")))
    assert subsets._with(frozen, ("T1w",), None).options.frozen == ()
    assert subsets._with(one, one.sources, None) == one
    longer = subsets._with(one, ("T1w",), {"minutes": 2})
    assert (longer.train.steps, longer.train.epochs, longer.train.minutes) == (0, 0, 2.0) and longer.sources == ("T1w",)


# --- table, gains, plot -------------------------------------------------------------------------------------------------


def rows_of(values: Mapping[str, list[float]], metric: str = "psnr", contrast: str = "FLAIR", region: str = "brain") -> list[Score]:
    return [
        Score(f"P{i}", "", method, contrast, "masked-volume", region, metric, value)
        for method, each in values.items()
        for i, value in enumerate(each)
    ]


VALUES = {"a": [20.0, 21.0], "b": [22.0, 20.0], "a+b": [23.0, 22.0]}


@pytest.mark.parametrize(("metric", "better"), [("psnr", ["2 of 2", "2 of 2"]), ("mae", ["0 of 2", "0 of 2"])])
def test_gains(metric: str, better: list[str]) -> None:
    found = gains(rows_of(VALUES, metric), metric)
    assert [(line["to"], line["added"]) for line in found] == [("a", "b"), ("b", "a")]
    assert [line[f"change of {metric}"] for line in found] == ["+2", "+1.5"]
    assert [line["better in"] for line in found] == better
    falling = {name: [-value for value in each] for name, each in VALUES.items()}
    assert [line["better in"] for line in gains(rows_of(falling, metric), metric)] == [
        "0 of 2" if metric == "psnr" else "2 of 2"
    ] * 2


def test_gains_compare_what_can_be_compared() -> None:
    four = {"+".join(names): [float(len(names))] for size in range(1, 5) for names in combinations("abcd", size)}
    assert len(gains(rows_of(four))) == sum(len(name.split("+")) for name in four) - 4  # edges of the lattice
    both = {**VALUES, f"{EACH}: a": [1.0], f"{EACH}: a+b": [2.0]}
    found = gains(rows_of(both))
    assert [(line["runs"], line["to"]) for line in found] == [(ONE, "a"), (ONE, "b"), (EACH, "a")]
    assert found[2]["better in"] == "1 of 1"  # over the subjects that both have
    apart = rows_of({"a": [1.0]}) + [replace(row, case="other", subject="other") for row in rows_of({"a+b": [2.0]})]
    assert gains(apart) == []
    odd = gains(rows_of({"a": [math.inf], "a+b": [math.inf]}))
    assert odd[0]["change of psnr"] == "+nan" and odd[0]["better in"] == "0 of 1"


def test_table_has_the_same_columns_in_every_row() -> None:
    rows = rows_of(VALUES) + rows_of({"a": [0.5, 0.7]}, "dice_WT", "segmentation")
    lines = table(rows)
    assert len({tuple(line) for line in lines}) == 1 and len(lines) == 4
    assert lines[-1]["target"] == "segmentation" and lines[-1]["psnr"] == "" and lines[0]["dice_WT"] == ""
    assert lines[0]["psnr"] == "20.50 +- 0.71 dB" and lines[0]["a"] == "x" and lines[0]["b"] == ""


def test_main_metric() -> None:
    assert main_metric(rows_of(VALUES, "ssim") + rows_of(VALUES, "psnr")) == "psnr"
    assert main_metric(rows_of(VALUES, "ssim", region="lesion") + rows_of(VALUES, region="lesion")) == "psnr"
    assert main_metric(rows_of(VALUES, "ssim")) == "ssim"
    assert main_metric(rows_of(VALUES, "dice_WT", "segmentation") + rows_of(VALUES, "mae")) == "mae"


def test_plot_is_a_picture_of_the_scores(tmp_path: Path) -> None:
    from matplotlib.image import imread

    path = tmp_path / "new" / "plot.png"
    plot(rows_of(VALUES) + rows_of(VALUES, contrast="T2w"), path)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    image = imread(path)
    assert image.shape[1] > 1.5 * image.shape[0]  # two panels
    blue = (image[..., 2] - image[..., 0] > 0.3).sum()
    assert blue > 100 and (image[..., :3].min(axis=-1) < 0.9).mean() > 0.005
    # a score that is infinite has no place; the others have
    plot(rows_of({"a": [math.inf, 20.0], "b": [math.nan]}), path)
    assert (imread(path)[..., 2] - imread(path)[..., 0] > 0.3).sum() < blue
    with pytest.raises(DataError, match="there is no mae") as error:
        plot(rows_of(VALUES), path, "mae")
    one_line(error.value)
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot be written"):
        plot(rows_of(VALUES), tmp_path / "file" / "plot.png")
    assert np.isfinite(image).all()
