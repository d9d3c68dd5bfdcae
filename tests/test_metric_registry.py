"""A metric is registered once: a toy one shows up in a protocol, evaluate's table, comparisons and reports with what it says."""

from __future__ import annotations

import builtins
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import blob_brain, write_case
from score_tables import rows_of
from synthmr import pipeline
from synthmr.console import Console
from synthmr.errors import MissingExtra, UsageError
from synthmr.evaluate import registry
from synthmr.evaluate.lint import LintWarning
from synthmr.evaluate.marks import markdown_table
from synthmr.evaluate.protocols import MASKED_VOLUME, Protocol
from synthmr.evaluate.registry import Metric
from synthmr.evaluate.scores import COLUMNS, ScoreResult, join
from synthmr.evaluate.scoring import ScoreInput, score
from synthmr.report.words import tables


@pytest.fixture
def toy() -> Iterator[Metric]:
    """The largest error in furlongs."""

    def worst(prediction: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
        error = np.abs(prediction - truth)
        return float((error if mask is None else error[mask]).max())

    yield registry.register(Metric("worst", "lower", "fur", 1, function=worst, title="worst error"))
    registry.unregister("worst")


def test_a_toy_metric_is_everywhere(toy: Metric, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = blob_brain((16, 18, 14))
    guess = np.where(truth > 0, truth + np.random.default_rng(0).normal(0, 9, truth.shape), 0).astype(np.float32)
    files = write_case(tmp_path, {"guess": guess, "truth": truth, "mask": truth > 0})
    found = pipeline.score(
        files["guess"], files["truth"], files["mask"], metrics=("worst",), protocols=("masked-volume", "imt2020")
    )
    top = np.percentile(truth[truth > 0], 99.5)
    one, other = found.rows
    assert (one.region, one.metric, one.value) == ("brain", "worst", pytest.approx(np.abs(guess - truth).max() / top, rel=1e-5))
    assert other.protocol == "imt2020" and other.value > 0
    # evaluate's table: unit, direction and digits
    Console().scores([*rows_of("worst", a=[3.14, 2.0]), *rows_of("worst", b=[9.0, 8.0])])
    text = capsys.readouterr().out
    assert "worst ↓" in text and "2.6 +- 0.8 fur" in text
    # compare: lower is better
    tests = pipeline.compare([*rows_of("worst", a=[3.14, 2.0, 2.5]), *rows_of("worst", b=[9.0, 8.0, 8.1])])
    assert [(row["method"], row["reference"], row["better"]) for row in tests] == [("b", "a", "a")] and "fur" in tests[0]["text"]
    assert "| method | worst ↓ |" in markdown_table(rows_of("worst", a=[3.0]))
    (table,) = tables(rows_of("worst", a=[3.14], b=[2.0]))
    assert [(head.title, head.arrow) for head in table.columns] == [("worst error (fur)", "↓")]
    assert [line.cells[0].text for line in table.means] == ["3.1", "2.0"] and table.means[1].cells[0].best
    assert dataclasses.replace(MASKED_VOLUME, name="mine", metrics=("worst",)).metrics == ("worst",)


def test_it_is_gone_again() -> None:
    assert not registry.known("worst") and registry.direction("worst") is None
    with pytest.raises(UsageError, match="metric 'worst'"):
        dataclasses.replace(MASKED_VOLUME, name="mine", metrics=("worst",))


def test_a_pointwise_metric_is_given_what_it_needs() -> None:
    def volume(prediction: np.ndarray, truth: np.ndarray, mask: np.ndarray | None, spacing: Sequence[float]) -> float:
        assert mask is None and prediction.ndim == 1
        return float(np.abs(prediction - truth).sum() * np.prod(spacing))

    registry.register(Metric("volume", "lower", function=volume, needs=("mask", "spacing"), pointwise=True))
    try:
        truth = blob_brain((8, 9, 10))
        one = ScoreInput(truth + 1, truth, truth > 0, spacing=(1.0, 2.0, 3.0))
        assert score(one, MASKED_VOLUME, ("volume",))["brain"]["volume"] == pytest.approx(6 * (truth > 0).sum())
    finally:
        registry.unregister("volume")


def test_a_metric_is_given_what_it_needs() -> None:
    asked: list[dict[str, Any]] = []

    def curious(prediction: np.ndarray, truth: np.ndarray, **given: Any) -> float:
        asked.append({**given, "shape": truth.shape})
        return 0.0

    registry.register(Metric("curious", "", function=curious, needs=tuple(registry.NEEDS)))
    try:
        rng = np.random.default_rng(0)
        truth = rng.uniform(0.1, 1, (10, 12, 8)).astype(np.float32)
        scored = ScoreInput(truth, truth, truth > 0, spacing=(1.0, 2.0, 3.0))
        base = {"source": "", "words": "", "differs": "", "metrics": ("curious",)}
        score(scored, Protocol("volume", **base, bins=16))
        score(scored, Protocol("stack", **base, regions=("whole",), crop=(5, 6), ssim="plane", scale=255.0))
        score(scored, Protocol("slices", **base, regions=("whole",), resize=(20, 6), per="slice", ssim="plane", middle=1))
    finally:
        registry.unregister("curious")
    volume, stack, one = asked
    assert volume["spacing"] == (1.0, 2.0, 3.0) and volume["bins"] == 16 and volume["slice_axis"] is None
    assert volume["value_range"] == (0.0, 1.0) and volume["mask"].sum() == truth.size and volume["shape"] == volume["mask"].shape
    assert stack["shape"] == (8, 5, 6) and stack["slice_axis"] == 0 and stack["mask"] is None and stack["data_range"] == 255
    assert stack["spacing"] == (3.0, 1.0, 2.0)
    assert one["shape"] == (20, 6) and one["spacing"] == (0.5, 4.0)


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (Metric("psnr", "higher"), "there is a metric psnr already"),
        (Metric("psnr@lesion", "higher"), "cannot name a metric"),
        (Metric("", "higher"), "cannot name a metric"),
        (Metric("mine", "more"), "better 'more'; allowed: higher, lower, one"),  # type: ignore[arg-type]
        (Metric("mine", "lower", needs=("rnage",)), "metric mine needs 'rnage': "),
    ],
)
def test_wrong_registrations_are_refused(metric: Metric, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        registry.register(metric)


def test_every_number_that_synthmr_prints_is_registered() -> None:
    from synthmr.evaluate.regions import SliceConsistency
    from synthmr.evaluate.segmentation import METRICS
    from synthmr.evaluate.statistics import TESTED

    assert set(METRICS) | set(TESTED) <= set(registry.names()) and {"seam", "bright_threshold"} <= set(registry.names())
    assert {f"slice_{name}" for name in SliceConsistency._fields} <= set(registry.names())
    assert registry.format_score("hd95_WT", 2) == "2.00 mm" and registry.format_score("false_bright_ml", 2) == "2.00 ml"
    assert registry.get("structure_psnr").head == "structure_psnr ↑ (optimistic)" and registry.get("seam").head == "seam → 1"


# --- results ------------------------------------------------------------------------------------------------------------


def test_results_as_frame_and_data(monkeypatch: pytest.MonkeyPatch) -> None:
    warning = LintWarning("units", "", "a", "text")
    one = ScoreResult(rows_of(a=[1.0]), [warning], ["left"], {"name": "lesion", "why": "so", "parts": {"lesion": {"s00": 4}}})
    other = ScoreResult([], labels={"name": "brats2023", "why": "and so", "parts": {"lesion": {"s01": 5}, "ET": {"s01": 1}}})
    assert join([one, other]).labels == {
        "name": None,
        "why": "so; and so",
        "parts": {"lesion": {"s00": 4, "s01": 5}, "ET": {"s01": 1}},
    }
    both = join([one, ScoreResult(rows_of(b=[2.0]), [warning], [], None, ["odd"], ["pair"])])
    assert [row.method for row in both.rows] == ["a", "b"] and both.failed == ["pair"]
    data = both.as_dict()
    assert list(data) == ["scores", "labels", "warnings", "skipped"] and data["labels"] == one.labels
    assert [each["code"] for each in data["warnings"]] == ["units", "note"] and data["warnings"][1]["text"] == "odd"
    pandas = pytest.importorskip("pandas")
    frame = both.frame()
    assert isinstance(frame, pandas.DataFrame) and tuple(frame.columns) == COLUMNS and frame["value"].tolist() == [1.0, 2.0]
    assert tuple(ScoreResult([]).frame().columns) == COLUMNS
    real = builtins.__import__

    def without(name: str, *more: Any) -> Any:
        if name == "pandas":
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"frame\(\) needs pandas, which is not installed: pip install pandas") as error:
        both.frame()
    assert "\n" not in str(error.value)
