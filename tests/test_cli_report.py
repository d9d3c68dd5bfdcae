"""`synthmr report` of runs and experiments, scores by tissue and of tile seams, and one of the papers' tables at scale tiny."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from conftest import Run
from experiment_data import config, make_cohort
from synthmr import pipeline
from synthmr.case import PreparedCase
from synthmr.errors import DataError, UsageError
from synthmr.evaluate.lint import lint_lines
from synthmr.evaluate.scores import read_scores
from synthmr.experiment import layout, page
from synthmr.predict.engine import tile_borders
from synthmr.predict.prediction import Prediction
from synthmr.predict.predictor import Predictor
from synthmr.predict.settings import PredictSettings
from synthmr.predictions import Kept, predictions, tissue_labels
from synthmr.report import html
from synthmr.report.run_page import known_data, write_report
from synthmr.run import RunFolder

MINE = """
item: linear against copy
title: does regression help
data: none
protocol: masked-volume
metrics: [psnr, mae]
sources: [T1w, T2w]
target: FLAIR
rows:
- {name: copy, method: copy, paper: {psnr: 20}}
- {name: linear, method: linear, paper: {psnr: [22, 1]}}
- {name: forest, missing: not in the box}
claims:
- {says: regression is better, better: linear, worse: [copy], metric: psnr, paper: true}
"""


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory, synthmr: Run) -> Path:
    """A finished experiment of baselines. Read only."""
    root = tmp_path_factory.mktemp("experiment")
    data = make_cohort(
        root / "data", 6, splits={f"P{n:02}": "train" if n < 4 else "test" for n in range(1, 7)} | {"P03": "validation"}
    )
    (root / "mine.yaml").write_text(MINE)
    synthmr("-q", "experiment", "run", root / "mine.yaml", data, "--out", root / "out", "--scale", "small")
    return root


def test_a_run_knows_its_data_and_reports_without_them(
    synthmr: Run, linear_run: Path, hinet_run: Path, phantom: Path, tmp_path: Path
) -> None:
    assert RunFolder.open(linear_run).info["data"] == str(phantom.resolve())
    out = tmp_path / "report.html"
    done = synthmr("-q", "report", linear_run, "-o", out, "--against", hinet_run, "--json")
    said = json.loads(done.stdout)
    assert said["path"] == str(out) and said["megabytes"] == pytest.approx(out.stat().st_size / 1e6, abs=0.01)
    text = out.read_text(encoding="utf-8")
    assert "http://" not in text.replace("http://www.w3.org", "") and "linear" in text and "hinet" in text
    assert "paired" not in text or "against" in text
    assert "hinet against linear" in text or "linear against hinet" in text


def test_report_says_what_is_wrong(synthmr: Run, linear_run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "run"
    shutil.copytree(linear_run, moved)
    folder = RunFolder.open(moved)
    folder.write_info({**folder.info, "data": str(tmp_path / "gone")})
    done = synthmr("report", moved, "-o", tmp_path / "r.html", code=2)
    assert "which is not there; give DATA" in done.stderr and not (tmp_path / "r.html").exists()
    assert "notes no data" in str(_error(lambda: known_data({}, moved), UsageError))
    synthmr("report", tmp_path / "nothing", "-o", tmp_path / "r.html", code=1)


def _error(call, kind):  # type: ignore[no-untyped-def]
    with pytest.raises(kind) as error:
        call()
    return error.value


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the cases that were predicted, one a call of a predictor; pages get no drawings, which take long, and no date."""
    real, calls = Predictor.__call__, []

    def count(self: Predictor, prepared: PreparedCase, *words: Any, **more: Any) -> Prediction:
        calls.append(prepared.name)
        return real(self, prepared, *words, **more)

    monkeypatch.setattr(Predictor, "__call__", count)
    monkeypatch.setattr(html, "case_picture", lambda case, scale: html.Picture(case.name, "", "", b""))
    monkeypatch.setattr(html, "_slices", lambda case: {})
    monkeypatch.setattr(html, "_strips", lambda rows: [])
    monkeypatch.setattr(html.time, "strftime", lambda *_: "today")
    return calls


def _trained(root: Path, tests: int, cache: Path) -> tuple[Path, list[Path]]:
    """A cohort with so many test cases (P04 and so on), and a run of each baseline."""
    names = [f"P{number:02}" for number in range(1, tests + 4)]
    splits = dict.fromkeys(names, "test") | {"P01": "train", "P02": "train", "P03": "validation"}
    data = make_cohort(root / "data", len(names), splits=splits)
    for method in ("linear", "copy"):
        each = config(method)
        store, split = pipeline.prepared(data, each, cache=cache)
        pipeline.train(each, store, split, root / method, data=data)
    return data, [root / "linear", root / "copy"]


def _page_of_two_passes(path: Path, runs: list[Path], data: Path, notes: list[str]) -> str:
    """The page that scores and predictions make when every case is predicted for each of them."""
    rows = pipeline.evaluate(runs, data).rows
    title = "linear, copy: T1w, T2w to FLAIR"
    write_report(path, runs, data, "test", rows, title, "synthmr report", notes, figures=predictions(runs, data))
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("tests", "again"), [(2, 0), (7, 5)])
def test_a_report_predicts_no_case_twice(tests: int, again: int, counted: list[str], cache: Path, tmp_path: Path) -> None:
    data, runs = _trained(tmp_path, tests, cache)
    names = [f"P{number:02}" for number in range(4, tests + 4)]
    counted.clear()
    ticks: list[tuple[int, int]] = []
    pipeline.report(
        runs, tmp_path / "a.html", command="synthmr report", progress=lambda done, total, _: ticks.append((done, total))
    )
    first, second = counted[: 2 * tests], counted[2 * tests :]
    assert first == [name for name in names for _ in runs]
    assert ticks == [(done, tests) for done in range(1, tests + 1)] + [(done, again) for done in range(1, again + 1)]
    scores = pipeline.evaluate(runs, data)
    rows = scores.rows
    chosen = html.chosen_cases(rows)
    assert not second and len([name for name in names if name in (chosen or ())]) == again  # what it shows again was kept
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert set(re.findall(r"<h3>(P\d+)</h3>", text)) == (chosen or set(names))
    notes = [*lint_lines(scores.warnings), *(row["text"] for row in pipeline.compare(rows))]
    assert text == _page_of_two_passes(tmp_path / "b.html", runs, data, notes)


def test_predictions_are_kept_while_they_are_few() -> None:
    kept, each = Kept(2), cast(Any, object())
    assert kept.all == []
    kept.add(each)
    kept.add(each)
    assert kept.all == [each, each]
    for _ in range(3):  # what was let go of does not come back
        kept.add(each)
        assert kept.all is None


def test_an_experiment_as_a_page(synthmr: Run, experiment: Path, tmp_path: Path) -> None:
    out = tmp_path / "t.html"
    synthmr("-q", "report", experiment / "out", "-o", out)
    text = out.read_text(encoding="utf-8")
    for words in ("linear against copy", "regression is better", "not run: not in the box", "22.00 ± 1.00", "Holm"):
        assert words in text or words.replace("±", "+-") in text, words
    done = synthmr("report", experiment / "out", "-o", out, "--protocol", "all", code=2)
    assert "an experiment has its own rows" in done.stderr


def test_reopening_gives_what_running_gave(experiment: Path) -> None:
    outcome, data = page.reopen(experiment / "out")
    assert data.name == "data" and not outcome.failed
    assert json.loads((experiment / "out" / "table.json").read_text())["rows"] == json.loads(
        json.dumps(layout.as_data(outcome)["rows"])
    )
    shown = page.shown_rows(outcome)
    assert [each.row.name for each in shown] == ["linear", "copy"]  # the first claim: winner, then loser
    (experiment / "out" / "scores.csv").rename(experiment / "scores.csv")
    try:
        assert "holds no scores.csv" in str(_error(lambda: page.reopen(experiment / "out"), DataError))
    finally:
        (experiment / "scores.csv").rename(experiment / "out" / "scores.csv")


def test_scores_by_tissue(linear_run: Path, phantom: Path) -> None:
    pattern = "derivatives/phantom/{case}/tissue.nii.gz"
    rows = pipeline.evaluate([linear_run], phantom, metrics=["mae"], regions=True, tissue=pattern).rows
    found = {(row.region, row.metric) for row in rows}
    assert found >= {("csf", "mae"), ("gm", "mae"), ("wm", "mae"), ("axial", "slice_jump"), ("brain", "false_bright")}
    (predicted,) = predictions([linear_run], phantom)
    labels = tissue_labels(phantom, pattern, predicted.prepared)
    assert labels.shape == predicted.prepared.mask.shape and set(np.unique(labels)) == {0, 1, 2, 3}
    # FLAIR nulls CSF: the truth is darkest where the labels say CSF, or they lie elsewhere
    truth = predicted.prepared.images["FLAIR"]
    means = [truth[(labels == label) & predicted.prepared.mask].mean() for label in (1, 2, 3)]
    assert means[0] < min(means[1:]) - 0.2
    assert "{case}" in str(_error(lambda: tissue_labels(phantom, "tissue.nii.gz", predicted.prepared), UsageError))
    assert "does not exist" in str(_error(lambda: tissue_labels(phantom, "{case}.nii.gz", predicted.prepared), DataError))


def test_tile_borders_are_where_tiles_end(linear_run: Path, phantom: Path) -> None:
    whole = PredictSettings()
    assert tile_borders((40, 50, 30), "axial", whole) == ((), (), ())
    tiles = PredictSettings(mode="patches", patch=(24, 24), overlap=0.5)
    x, y, z = tile_borders((40, 50, 30), "axial", tiles)
    assert z == () and x == (8, 16, 24, 32) and set(y) >= {24, 26} and 0 not in y and 50 not in y
    assert tile_borders((40, 50, 30), "sagittal", tiles)[0] == ()
    assert tile_borders((20, 20, 20), "axial", tiles) == ((), (), ())  # one tile
    settings = pipeline.predict_settings("patches", 16, 0.25)
    rows = pipeline.evaluate([linear_run], phantom, settings=settings, metrics=["mae"], regions=True).rows
    (seam,) = [row.value for row in rows if (row.region, row.metric) == ("brain", "seam")]
    assert 0.5 < seam < 1.5  # a method that looks at single voxels makes no seams


def test_inputs_need_a_method_that_takes_subsets(linear_run: Path, phantom: Path) -> None:
    assert "needs all of its sources" in str(_error(lambda: pipeline.evaluate([linear_run], phantom, inputs=["T1w"]), UsageError))
    assert "no source of this run" in str(_error(lambda: pipeline.evaluate([linear_run], phantom, inputs=["DWI"]), UsageError))


@pytest.mark.slow
def test_a_table_of_a_paper_at_scale_tiny(synthmr: Run, tmp_path: Path) -> None:
    """Hi-Net's ablation on a phantom of its own: what the documentation promises to take minutes."""
    out = tmp_path / "t5"
    synthmr("-q", "experiment", "run", "hinet-table5", "--out", out, "--scale", "tiny")
    table = json.loads((out / "table.json").read_text())
    assert len(table["rows"]) == 6 and all(set(row["here"]) == {"psnr", "nmse", "ssim"} for row in table["rows"])
    assert [claim["verdict"] for claim in table["claims"]] and all(claim["subjects"] >= 1 for claim in table["claims"])
    assert {row.method for row in read_scores(out / "scores.csv")} == {row["row"] for row in table["rows"]}
    assert len(list((out / "cells").iterdir())) == 6
    text = (out / "table.md").read_text()
    assert "25.05 +- 1.32 dB" in text and "shows that the table runs" in text
