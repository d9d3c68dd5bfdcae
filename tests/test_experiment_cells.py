"""A cell: locks of living and dead processes, training that is never done twice, scores that are kept a way of scoring each."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiment_data import PARTS, Live, Watch, config, make_cohort, one_line
from synthmr import pipeline
from synthmr.data.split import Split
from synthmr.errors import DataError, RunError, UsageError
from synthmr.experiment import cells
from synthmr.experiment.cells import Cell, Scoring, busy_words, cell_name, locked, score_cell, train_cell
from synthmr.run import RunFolder

HERE = socket.gethostname()


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six subjects with a split; P06 has no T1ce. Read only."""
    return make_cohort(tmp_path_factory.mktemp("cells") / "cohort", lacking={"P06": ("T1ce",)}, splits=PARTS)


def train(cell: Cell, data: Path, folder: Path, cache: Path, watch: Watch | None = None) -> Path:
    watch = watch or Watch()
    return train_cell(cell, data, folder, title="row", show=watch.show, train_show=watch.train_show, cache=cache)


class Called(Exception):
    """Raised in place of work that must not be done."""


def refuse(*_: Any, **__: Any) -> None:
    raise Called


# --- locks --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def alive() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
    yield process
    process.kill()
    process.wait()


def test_lock_is_held_inside_and_gone_after_success_and_error(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with locked(folder) as free:
        assert free and (folder / "lock").read_text() == f"{HERE} {os.getpid()}"
    assert not (folder / "lock").exists()
    with pytest.raises(KeyboardInterrupt), locked(folder) as free:
        assert free
        raise KeyboardInterrupt
    assert list(folder.iterdir()) == []


def test_living_process_is_respected_and_a_dead_one_is_not(tmp_path: Path, alive: subprocess.Popen[bytes]) -> None:
    path, words = tmp_path / "lock", f"{HERE} {alive.pid}"
    path.write_text(words)
    with locked(tmp_path) as free:
        assert not free
    assert path.read_text() == words  # left as it was
    assert str(path) in busy_words(tmp_path)
    alive.kill()
    alive.wait()
    with locked(tmp_path) as free:
        assert free and path.read_text() == f"{HERE} {os.getpid()}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "free"),
    [
        ("elsewhere 1", False),
        ("no lock of ours", False),
        (f"{HERE} 1", False),  # alive, of another user perhaps
        (f"{HERE} ", True),
        (f"{HERE} x", True),
        (f"{HERE} 0", True),  # a signal to 0 or -1 would reach whole groups of processes
        (f"{HERE} -1", True),
        (f"{HERE} 99999999999999999999", True),
        (f"{HERE} SELF", True),  # of an earlier process with our number
    ],
)
def test_what_a_lock_says(tmp_path: Path, words: str, free: bool) -> None:
    # the number is no part of the test's name: workers of pytest-xdist would collect different tests
    (tmp_path / "lock").write_text(words.replace("SELF", str(os.getpid())))
    with locked(tmp_path) as found:
        assert found is free
    assert (tmp_path / "lock").exists() is not free


def test_an_empty_lock_is_being_written_unless_it_is_old(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    with locked(tmp_path) as free:
        assert not free
    then = time.time() - cells.GRACE - 1
    os.utime(path, (then, then))
    with locked(tmp_path) as free:
        assert free


def test_a_lock_that_was_replaced_meanwhile_is_put_back(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text("new 2")
    cells._clear(path, "old 1")
    assert path.read_text() == "new 2" and list(tmp_path.iterdir()) == [path]
    cells._clear(path, "new 2")
    assert list(tmp_path.iterdir()) == []


def test_lock_in_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DataError, match="cannot be written") as error, locked(folder):
            pass
        one_line(error.value)


# --- training -----------------------------------------------------------------------------------------------------------


def test_a_finished_cell_is_not_trained_again(data: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell, watch = Cell(config()), Watch()
    run = train(cell, data, tmp_path / "cell", cache, watch)
    assert run == tmp_path / "cell" / "run" and watch.trained == ["row"] and watch.shown == ["prepare row"]
    times = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    monkeypatch.setattr(pipeline, "train", refuse)
    monkeypatch.setattr(pipeline, "prepared", refuse)
    assert train(cell, data, tmp_path / "cell", cache, watch) == run and watch.trained == ["row"]
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == times
    with pytest.raises(Called):  # the check can fail
        train(cell, data, tmp_path / "another", cache)


def test_a_killed_fit_starts_anew(data: Path, cache: Path, tmp_path: Path) -> None:
    run = train(Cell(config()), data, tmp_path, cache)
    folder = RunFolder.open(run)
    whole = (run / "checkpoints" / "best" / "model.safetensors").read_bytes()
    # killed between its weights and its end, then before run.json was there
    folder.write_info({**folder.info, "status": "training"})
    for damage in (lambda: None, (run / "run.json").unlink):
        damage()
        assert train(Cell(config()), data, tmp_path, cache) == run
        assert folder.info["status"] == "finished"
        assert (run / "checkpoints" / "best" / "model.safetensors").read_bytes() == whole


def test_a_killed_network_goes_on(data: Path, cache: Path, tmp_path: Path) -> None:
    cell, watch = Cell(config("unet", budget={"steps": 3})), Watch(live=Live(stop_at=2))
    with pytest.raises(KeyboardInterrupt):
        train(cell, data, tmp_path, cache, watch)
    run = tmp_path / "run"
    assert RunFolder.open(run).info["status"] == "training" and watch.live.steps == [1, 2]
    again = Watch()
    assert train(cell, data, tmp_path, cache, again) == run
    assert again.live.steps == [2, 3]  # the checkpoint was of step 1
    assert RunFolder.open(run).info["result"]["steps"] == 3
    whole = train(cell, data, tmp_path / "whole", cache)
    weights = Path("checkpoints", "last", "model.safetensors")
    assert (run / weights).read_bytes() == (whole / weights).read_bytes()


def test_what_a_kill_leaves_of_a_network(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert not cells._resumable(run, "unet")
    run.mkdir()
    (run / "config.yaml").write_text("method: unet")
    assert not cells._resumable(run, "unet") and not run.exists()  # nothing was trained yet
    (run / "checkpoints" / "last").mkdir(parents=True)
    assert cells._resumable(run, "unet") and run.exists()  # damaged, but hours of work


def test_a_damaged_run_is_told_and_kept(data: Path, cache: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints" / "last").mkdir(parents=True)
    with pytest.raises(RunError, match="damaged") as error:
        train(Cell(config("unet")), data, tmp_path, cache)
    one_line(error.value)
    assert (run / "checkpoints" / "last").is_dir()
    (run / "run.json").write_text("{")
    for name in ("config.yaml", "split.tsv"):
        (run / name).write_text("x")
    with pytest.raises(RunError, match=r"run\.json"):
        train(Cell(config("unet")), data, tmp_path, cache)


def test_the_split_of_a_cell_is_what_it_was(data: Path, cache: Path, tmp_path: Path) -> None:
    split = Split(("P01", "P05"), ("P02",), ("P03", "P04"), "fold 1")
    run = train(Cell(config(), split), data, tmp_path, cache)
    assert RunFolder.open(run).split.test == ("P03", "P04")
    train(Cell(config(), replace(split, source="folds.tsv")), data, tmp_path, cache)
    train(Cell(config()), data, tmp_path, cache)  # none was asked for
    other = Split(("P01", "P05"), ("P02",), ("P03", "P06"), "fold 1 of folds.tsv")
    with pytest.raises(DataError, match=r"another split: its test cases are not those of fold 1 of folds\.tsv"):
        train(Cell(config(), other), data, tmp_path, cache)


# --- extension ----------------------------------------------------------------------------------------------------------


def test_an_extension_keeps_the_split_of_its_cell(data: Path, cache: Path, tmp_path: Path) -> None:
    # P05 has all contrasts and is in no part of the fold (it lacks one of another row): the data's own split must not come in
    split = Split(("P04",), ("P03",), ("P01", "P02"), "fold 1")
    one = config("milr", budget={"steps": 1})
    cell, watch = Cell(one, split, "T1ce", {"steps": 1}), Watch()
    extended = train(cell, data, tmp_path, cache, watch)
    assert extended == tmp_path / "extended" and watch.trained == ["row", "row, T1ce added"]
    assert RunFolder.open(extended).config.targets == ("FLAIR", "T1ce")
    for run in (extended, tmp_path / "run"):
        kept = RunFolder.open(run).split
        assert (kept.train, kept.validation, kept.test) == (split.train, split.validation, split.test)
    train(cell, data, tmp_path, cache, watch)
    assert len(watch.trained) == 2
    # the base of a cell whose extension was killed is not trained again
    folder = RunFolder.open(extended)
    folder.write_info({**folder.info, "status": "training"})
    train(cell, data, tmp_path, cache, watch)
    assert watch.trained[2:] == ["row, T1ce added"] and folder.info["status"] == "finished"
    # both targets are scored
    rows = score_cell(extended, data, tmp_path, Scoring(("masked-volume",)))
    assert {(row.case, row.contrast) for row in rows} == {(c, t) for c in ("P01", "P02") for t in ("FLAIR", "T1ce")}


def test_names_of_cells() -> None:
    one = config("milr", budget={"steps": 1})
    split = Split(("a",), ("b",), ("c",), "x")
    assert cell_name(Cell(one)) == cell_name(Cell(one, split))  # folds are folders below
    names = {
        cell_name(cell)
        for cell in (
            Cell(one),
            Cell(replace(one, seed=1)),
            Cell(one, extend="T1ce"),
            Cell(one, extend="PDw"),
            Cell(one, extend="PDw", budget={"steps": 2}),
        )
    }
    assert len(names) == 5 and all(name.startswith("milr-") for name in names)


# --- scores -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cell(data: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained linear cell."""
    folder = tmp_path_factory.mktemp("cell")
    train(Cell(config()), data, folder, cache)
    return folder


def test_every_way_of_scoring_is_computed_once(cell: Path, data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text("name: mine\nmetrics: [psnr]\n")
    ways = [
        Scoring(("masked-volume",)),
        Scoring(("whole-volume", "masked-volume")),
        Scoring(("masked-volume",), "held-out"),
        Scoring(("masked-volume",), plane="coronal"),
        Scoring((str(own),)),
    ]
    real, calls = pipeline.evaluate, []

    def count(*words: Any, **more: Any) -> Any:
        calls.append(words)
        return real(*words, **more)

    monkeypatch.setattr(pipeline, "evaluate", count)
    before = (cell / "run" / "run.json").stat().st_mtime_ns
    found = [score_cell(cell / "run", data, cell, way) for way in ways]
    assert len(calls) == len(ways) == len(list(cell.glob("scores-*.csv")))
    monkeypatch.setattr(pipeline, "evaluate", refuse)
    assert [score_cell(cell / "run", data, cell, way) for way in ways] == found
    assert {row.case for row in found[0]} == {"P05", "P06"} and {row.case for row in found[2]} == {"P04", "P05", "P06"}
    assert {row.protocol for row in found[1]} == {"whole-volume", "masked-volume"}
    # a protocol that says something else under the same name is another one
    own.write_text("name: mine\nmetrics: [mae]\n")
    with pytest.raises(Called):
        score_cell(cell / "run", data, cell, ways[-1])
    assert (cell / "run" / "run.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("way", "words"),
    [
        (Scoring(("masked",)), "masked-volume"),
        (Scoring(("masked-volume",), "tset"), "did you mean test"),
        (Scoring(("masked-volume",), plane="axail"), "axial"),
        (Scoring(("masked-volume",), inputs=("T1w",)), "needs all of its sources"),
        (Scoring(("masked-volume",), inputs=("PDw",)), "no source of this run"),
    ],
)
def test_wrong_ways_of_scoring(cell: Path, data: Path, way: Scoring, words: str) -> None:
    before = sorted(cell.iterdir())
    with pytest.raises(UsageError, match=words) as error:
        score_cell(cell / "run", data, cell, way)
    one_line(error.value)
    assert sorted(cell.iterdir()) == before
