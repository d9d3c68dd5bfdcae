"""cv, subsets and experiment from the command line: exit codes, JSON, one-line errors, and a table from end to end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import Run, Verb
from experiment_data import config, make_cohort
from synthmr import pipeline
from synthmr.experiment import spec
from synthmr.run import RunFolder

#: two rows that need no steps, one that is missing, one that the data cannot run; a name with a space
TABLE = """
item: Table X
paper: hinet
title: a small table
about: linear against copy
data: nothing published
protocol: whole-volume
metrics: [psnr, ssim]
sources: [T1w, T2w]
target: FLAIR
set: [train.images=false]
rows:
- {name: all of it, method: linear, paper: {psnr: [25.05, 1.325], ssim: 0.89}}
- {name: copy, method: copy, paper: {psnr: 20}}
- {name: REPLICA, missing: a forest}
- {name: needs DWI, method: linear, sources: [DWI]}
claims:
- {says: both sources are better than one, better: all of it, worse: [copy], metric: psnr, paper: true}
- {says: a forest is worse, better: all of it, worse: [REPLICA], metric: psnr}
notes: [This is a test.]
"""


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """`TABLE` in a file."""
    path = tmp_path / "own.yaml"
    path.write_text(TABLE)
    return path


Call = Callable[..., tuple[str, str]]


@pytest.fixture
def call(verb: Verb, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Call:
    """The command line in this process; returns standard output and standard error."""
    monkeypatch.setenv("SYNTHMR_CACHE", str(cache))

    def run(*words: object, code: int = 0) -> tuple[str, str]:
        done = verb(*words, code=code)
        return done.stdout, done.stderr

    return run


def loads(text: str) -> Any:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


# --- experiment list and show -------------------------------------------------------------------------------------------


def test_list(call: Call) -> None:
    rows = loads(call("experiment", "list", "--json")[0])
    assert {row["name"] for row in rows} == set(spec.names()) and len(rows) > 10
    assert all(row["rows"] >= 1 and row["paper"] for row in rows)
    text, _ = call("experiment", "list")
    assert all(row["name"] in text for row in rows)


def test_show(call: Call, own: Path) -> None:
    text, _ = call("-q", "experiment", "show", own)
    for word in (
        "Table X",
        "25.05 +- 1.32 dB",
        "linear T1w, T2w -> FLAIR",
        "a forest",
        "claim: both sources",
        "note: This is a test.",
    ):
        assert word in text
    shown = loads(call("experiment", "show", own, "--json")[0])
    assert shown["name"] == "own" and [row["name"] for row in shown["rows"]] == ["all of it", "copy", "REPLICA", "needs DWI"]
    assert "Table V" in call("experiment", "show", "hinet-table5")[0]


# --- experiment run -----------------------------------------------------------------------------------------------------


def test_a_table_from_end_to_end(synthmr: Run, data: Path, own: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("experiment", "run", own, data, "--out", out, "--substitute", "DWI=T1ce", "--only", "all of it", "--only", "copy")
    done = synthmr(*words, OMP_NUM_THREADS="1")
    for word in ("a small table", "25.05 +- 1.32 dB", "not asked for", "Subjects scored: 2", "2 comparisons"):
        assert word in done.stdout
    assert "row 1 of 2: all of it" in done.stderr and "table.md" in done.stderr
    text = (out / "table.md").read_text()
    command = (
        "    synthmr experiment run own.yaml cohort --out out --scale small --seed 0 --part test --only 'all of it' --only copy"
    )
    assert f"{command} --substitute DWI=T1ce\n" in text
    assert str(tmp_path) not in text  # a table to be published names no folder of this machine
    for name in ("experiment.json", "scores.csv", "table.json"):
        assert (out / name).is_file()
    # again, by machine, with all of its rows: two are trained already
    again = synthmr("-q", "experiment", "run", own, data, "--out", out, "--substitute", "DWI=T1ce", "--json", OMP_NUM_THREADS="1")
    found = loads(again.stdout)
    assert again.stderr == "" and found == loads((out / "table.json").read_text())
    assert [bool(row["here"]) for row in found["rows"]] == [True, True, False, True]
    assert [claim["verdict"] for claim in found["claims"]] == ["right order, not significant", "not tested"]
    assert len(list((out / "cells").iterdir())) == 3


def test_rows_that_the_data_cannot_run_are_told_and_no_failure(call: Call, data: Path, own: Path, tmp_path: Path) -> None:
    out, err = call("-q", "experiment", "run", own, data, "--out", tmp_path / "out")
    assert err == "" and "not run: the data have no DWI" in out and "not run: a forest" in out


def test_a_row_that_fails_ends_with_one(call: Call, data: Path, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from synthmr.errors import DataError

    real = pipeline.train

    def odd(one: Any, *words: Any, **more: Any) -> Any:
        if one.method == "copy":
            raise DataError("no room")
        return real(one, *words, **more)

    monkeypatch.setattr(pipeline, "train", odd)
    out, err = call("experiment", "run", own, data, "--out", tmp_path / "out", code=1)
    assert "left out: no room" in err and "not run: no room" in out and "table.md" in err
    found = loads(call("experiment", "run", own, data, "--out", tmp_path / "out", "--json", code=1)[0])
    assert found["rows"][1]["note"] == "not run: no room" and found["rows"][0]["here"]


def test_folds(call: Call, data: Path, own: Path, tmp_path: Path) -> None:
    out, err = call("experiment", "run", own, data, "--out", tmp_path / "out", "--folds", 3)
    assert "3 folds, every subject tested once" in out and "Subjects scored: 6" in out and "+-" in out
    assert (tmp_path / "out" / "folds.tsv").is_file() and "--folds 3" in (tmp_path / "out" / "table.md").read_text()
    assert "own.yaml cohort" in (tmp_path / "out" / "table.md").read_text() and err


def test_tiny_makes_its_own_data(call: Call, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "phantom", lambda out, *words, progress: make_cohort(out, 4))
    out, _ = call("-q", "experiment", "run", own, "--out", tmp_path / "out", "--scale", "tiny")
    assert "phantom: 4 cases of 4 subjects" in out and "nothing about the methods" in out


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["show", "hinet-tabel5"], 2, "did you mean hinet-table5"),
        (["run", "hinet-tabel5", "DATA", "--out", "OUT"], 2, "did you mean hinet-table5"),
        (["show", "no/such/table.yaml"], 1, "no/such/table.yaml"),
        (["run", "OWN", "--out", "OUT"], 2, "scale small needs DATA"),
        (["run", "OWN", "no/such/folder", "--out", "OUT"], 1, "no/such/folder"),
        (["run", "OWN", "DATA", "--out", "OUT", "--scale", "smal"], 2, "did you mean small"),
        (["run", "OWN", "DATA", "--out", "OUT", "--part", "tset"], 2, "did you mean test"),
        (["run", "OWN", "DATA", "--out", "OUT", "--only", "coppy"], 2, "did you mean copy"),
        (["run", "OWN", "DATA", "--out", "OUT", "--substitute", "DWI"], 2, "DWI=T1ce"),
        (["run", "OWN", "DATA", "--out", "OUT", "--substitute", "PD=T1ce"], 2, "has no such contrast"),
        (["run", "OWN", "DATA", "--out", "OUT", "--folds", "1"], 2, "give 2 or more"),
        (["run", "OWN", "DATA", "--out", "OUT", "--folds", "7"], 1, "7 folds need 7 subjects"),
        (["run", "OWN", "DATA", "--out", "OUT", "--steps", "3", "--minutes", "1"], 2, "give one"),
        (["run", "milr-table6", "DATA", "--out", "OUT"], 1, "no row of milr-table6 can be run"),
    ],
)
def test_bad_calls_get_one_line(
    call: Call, data: Path, own: Path, tmp_path: Path, words: list[str], code: int, expected: str
) -> None:
    places = {"DATA": data, "OUT": tmp_path / "OUT", "OWN": own}
    out, err = call("-q", "experiment", *(places.get(word, word) for word in words), code=code)
    lines = err.strip().splitlines()
    assert out == "" and len(lines) == 1 and lines[0].startswith("synthmr: error: ") and expected in lines[0]
    assert not (tmp_path / "OUT").exists()


def test_a_folder_of_other_settings_is_refused(call: Call, data: Path, own: Path, tmp_path: Path) -> None:
    words = ("-q", "experiment", "run", own, data, "--out", tmp_path / "out")
    call(*words)
    _, err = call(*words, "--seed", 1, code=2)
    assert "options.seed was 0 and is 1" in err and len(err.strip().splitlines()) == 1


# --- cv -----------------------------------------------------------------------------------------------------------------


def test_cross_validation(call: Call, data: Path, tmp_path: Path) -> None:
    words = ("cv", "linear", data, "--sources", "T1,T2", "--target", "FLAIR", "--out", tmp_path / "cv", "--folds", 2)
    words = (*words, "--set", "train.images=false")
    out, err = call(*words)
    assert "protocol masked-volume" in out and "fold 2 of 2 is trained" in err and "the data bring a split" in err
    out, err = call("-q", *words, "--json", "--protocol", "whole-volume", "--protocol", "masked-volume")
    rows = loads(out)["scores"]
    assert err == "" and {row["protocol"] for row in rows} == {"whole-volume", "masked-volume"}
    assert len({row["case"] for row in rows}) == 6
    assert {(row["protocol"], row["region"]) for row in rows} == {("whole-volume", "whole"), ("masked-volume", "brain")}
    _, err = call("-q", *words[:-4], "--folds", 3, code=2)
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("more", "code", "expected"),
    [
        (["--folds", "9"], 1, "9 folds need 9 subjects"),
        (["--folds", "1"], 2, "2 or more"),
        (["--protocol", "masked"], 2, "masked-volume"),
        (["--steps", "3"], 2, "takes no --steps"),
        (["--steps", "3", "--minutes", "2"], 2, "give one"),
        (["--set", "options.degre=2"], 2, "did you mean options.degree"),
    ],
)
def test_bad_cross_validations_get_one_line(
    call: Call, data: Path, tmp_path: Path, more: list[str], code: int, expected: str
) -> None:
    words = ("-q", "cv", "linear", data, "--sources", "T1w,T2w", "--target", "FLAIR", "--out", tmp_path / "cv", *more)
    _, err = call(*words, code=code)
    assert expected in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "cv").exists()


# --- subsets ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def linear(data: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained linear run. Read only."""
    out = tmp_path_factory.mktemp("linear") / "run"
    store, split = pipeline.prepared(data, config(), cache=cache)
    pipeline.train(config(), store, split, out)
    return out


def test_subsets(call: Call, data: Path, linear: Path, tmp_path: Path) -> None:
    words = ("subsets", linear, data, "--train", "--out", tmp_path, "--protocol", "imt2020")
    out, err = call(*words)
    assert "subsets, imt2020, test" in out and "change of psnr" in out and "2 of 2" in out and "subsets.png" in err
    assert (tmp_path / "subsets.png").stat().st_size > 5000 and (tmp_path / "subsets.csv").is_file()
    out, err = call("-q", *words, "--json")
    rows = loads(out)["scores"]
    assert err == "" and {row["method"] for row in rows} == {f"a run each: {name}" for name in ("T1w", "T2w", "T1w+T2w")}
    assert not (linear / "subsets.csv").exists()


def test_subsets_of_one_run_stand_beside_it(call: Call, data: Path, cache: Path, tmp_path: Path) -> None:
    one = config("milr", "T1w,T2w", "FLAIR", budget={"steps": 1})
    store, split = pipeline.prepared(data, one, cache=cache)
    pipeline.train(one, store, split, tmp_path / "run")
    out, _ = call("-q", "subsets", tmp_path / "run", data)
    assert out.count("one run") == 3 + 2 and (tmp_path / "run" / "subsets.png").is_file()
    assert RunFolder.open(tmp_path / "run").info["status"] == "finished"


@pytest.mark.parametrize(
    ("more", "code", "expected"),
    [
        ([], 2, "add --train --out DIR"),
        (["--train"], 2, "needs --out DIR"),
        (["--train", "--out", "OUT", "--steps", "2"], 2, "takes no --steps"),
        (["--train", "--out", "OUT", "--split", "tset"], 2, "did you mean test"),
        (["--train", "--out", "OUT", "--protocol", "all"], 2, "one protocol"),
    ],
)
def test_bad_subsets_get_one_line(
    call: Call, data: Path, linear: Path, tmp_path: Path, more: list[str], code: int, expected: str
) -> None:
    places = {"OUT": tmp_path / "OUT"}
    _, err = call("-q", "subsets", linear, data, *(places.get(word, word) for word in more), code=code)
    assert expected in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "OUT").exists() and not (linear / "subsets.csv").exists()


def test_subsets_of_no_run(call: Call, data: Path, tmp_path: Path) -> None:
    _, err = call("-q", "subsets", tmp_path / "none", data, code=1)
    assert "there is no run folder" in err and len(err.strip().splitlines()) == 1
