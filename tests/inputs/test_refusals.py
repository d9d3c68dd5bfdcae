"""Calls that mean something else than they say: one line that says what to write, and the exit status of a wrong call."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from conftest import Run, Verb
from helpers import blob_brain, write_case
from synthmr import pipeline
from synthmr.errors import RunError
from synthmr.reading import Reading
from synthmr.run import load_run

SHAPE = (16, 18, 12)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four cases of tiny images; T2 of P1 is stored in another order, and T1 of P2 is NaN in the air."""
    root = tmp_path_factory.mktemp("refusals") / "cohort"
    for number in range(4):
        arrays = {name: blob_brain(SHAPE, 10 * number + place) for place, name in enumerate(("T1", "T2", "FLAIR"))}
        if number == 2:
            arrays["T1"] = np.where(arrays["T1"] == 0, np.float32(np.nan), arrays["T1"])
        files = write_case(root / f"P{number}", arrays)
        if number == 1:
            image = nib.load(files["T2"])
            nib.save(image.as_reoriented([[0, -1], [1, -1], [2, 1]]), files["T2"])
    return root


@pytest.fixture(scope="module")
def runs(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Linear runs: ``one`` of FLAIR, ``two`` of FLAIR and T1w, ``other`` of T2w."""
    folder = tmp_path_factory.mktemp("refused-runs")
    reading = Reading(nan_to_zero=True)
    for name, sources, targets in (("one", "T1w,T2w", "FLAIR"), ("two", "T2w", "FLAIR,T1w"), ("other", "T1w,FLAIR", "T2w")):
        config = pipeline.configure("linear", sources, targets)
        store, split = pipeline.prepared(cohort, config, reading, cache=folder / "cache")
        pipeline.train(config, store, split, folder / name, data=cohort)
    return folder


TRAIN = ["train", "linear", "{data}", "--sources", "T1w", "--target", "T2w"]
CV = ["cv", "linear", "{data}", "--sources", "T1w", "--target", "T2w", "--folds", "4"]
SCORE = ["score", "{data}/P0/T1.nii.gz", "{data}/P0/T1.nii.gz"]
CALLS = [
    # words with {data}, {run}, {out}; exit status; what the line says
    (["index", ""], 2, "is empty|empty word"),
    (["audit", " "], 1, "no such folder"),
    (["synthesize", "{run}", "{data}", "--out", ""], 2, "--out is empty"),
    (["synthesize", "{run}", "{data}", "--out="], 2, "--out is empty"),
    ([*TRAIN, "--out", ""], 2, "--out is empty"),
    (["prepare", "{data}", "--sources", "T1w", "--target", "T2w", "--out", "{out}", "--cache", ""], 2, "--cache is empty"),
    (["evaluate", "{run}", "{data}", "--split-file", ""], 2, "--split-file is empty"),
    (["synthesize", "{run}", "T1w={data}/P0/T1.nii.gz", "-o", ""], 2, "-o is empty"),
    (["evaluate", "{run}", "{data}", "--metrics", ",,"], 2, "',,' names nothing"),
    ([*SCORE, "--metrics", ", ,"], 2, "names nothing"),
    ([*SCORE, "--segmentation", "{data}/P0/T2.nii.gz"], 1, "whole numbers|no segmentation"),
    (["synthesize", "{run}", "{data}", "{data}", "--out", "{out}"], 2, "2 folders were given"),
    (["synthesize", "{run}", "{data}"], 2, "needs --out DIR"),
    ([*TRAIN, "--out", "{out}", "--accelerator", "cuda"], 2, "no usable GPU"),
    ([*TRAIN, "--out", "{out}", "--accelerator", "tpu"], 2, "unknown accelerator"),
    (["index", "{data}", "--alias", "x=../../evil"], 2, "goes into file names"),
    (["index", "n" * 300], 1, "name too long|Choose a shorter name"),
    ([*CV, "--out", "{data}/P0/T1.nii.gz"], 1, "stands where a folder is needed"),
    (["compare", "{data}/P0/T1.nii.gz"], 1, "cannot be read"),
    (["synthesize", "{data}", "{data}", "--out", "{out}"], 1, "is no run folder"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "code", "told"), CALLS, ids=[" ".join(row[0])[:60] for row in CALLS])
def test_a_call_that_means_something_else_is_refused(cohort, runs, tmp_path, verb: Verb, monkeypatch, words, code, told):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    filled = [word.format(data=cohort, run=runs / "one", out=tmp_path / "out") for word in words]
    found = verb(*filled, code=code).stderr
    assert re.search(told, found) and found.count("\n") == 1 and "not foreseen" not in found, found
    assert not list(tmp_path.iterdir())  # nothing was written, nor into the working directory


def test_a_split_file_says_which_cases_split_names(cohort, runs, tmp_path, verb: Verb):
    kept = load_run(runs / "one").split
    table = tmp_path / "s.tsv"
    table.write_text(f"case\tsplit\n{kept.train[0]}\ttest\n{kept.train[1]}\ttrain\n{kept.validation[0]}\tvalidation\n")
    words = [
        "synthesize",
        runs / "one",
        cohort,
        "--out",
        tmp_path / "syn",
        "--split-file",
        table,
        "--split",
        "test",
        "--nan-to-zero",
    ]
    verb(*words)
    assert [path.name.partition("_")[0] for path in (tmp_path / "syn").glob("*.nii.gz")] == [kept.train[0]]
    told = verb("evaluate", runs / "one", cohort, "--split-file", table, "--nan-to-zero", code=1).stderr
    assert kept.train[0] in told and "was trained on it" in told


def test_runs_are_compared_by_the_targets_that_they_share(cohort, runs, tmp_path, verb: Verb):
    out = ["--out", tmp_path / "m.csv", "--split", "all", "--nan-to-zero", "--json"]
    found = json.loads(verb("evaluate", runs / "one", cohort, "--against", runs / "two", *out).stdout)
    assert {(row["method"], row["contrast"]) for row in found["scores"]} == {("one", "FLAIR"), ("two", "FLAIR")}
    told = verb("evaluate", runs / "one", cohort, "--against", runs / "other", *out, code=2).stderr
    assert "evaluate them apart" in told


def test_nan_and_storage_order_are_told_in_the_terminal_and_the_sidecar(cohort, runs, tmp_path, verb: Verb):
    files = [f"T1w={cohort / 'P2' / 'T1.nii.gz'}", f"T2w={cohort / 'P2' / 'T2.nii.gz'}"]
    refused = verb("synthesize", runs / "one", *files, "-o", tmp_path / "x.nii.gz", "--no-keep", code=1).stderr
    assert "--nan-to-zero" in refused
    told = verb("synthesize", runs / "one", *files, "-o", tmp_path / "x.nii.gz", "--no-keep", "--nan-to-zero").stderr
    assert "note: T1w:" in told and "read as 0" in told
    files = [word.replace("P2", "P1") for word in files]
    told = verb("synthesize", runs / "one", *files, "-o", tmp_path / "y.nii.gz", "--no-keep").stderr
    assert "it is stored as LPS, T1w as RAS: its axes were reordered" in told
    notes = json.loads((tmp_path / "y.json").read_text())["settings"]["notes"]
    assert any("reordered" in note for note in notes)
    assert "nan" not in (tmp_path / "y.json").read_text().lower()


def test_characters_that_a_terminal_lacks_are_escaped(cohort, tmp_path, synthmr: Run):
    folder = tmp_path / "kohörte"
    shutil.copytree(cohort / "P0", folder / "患者")
    done = synthmr("index", folder, PYTHONIOENCODING="ascii", LANG="C", LC_ALL="C")
    assert "\\u60a3" in done.stdout and "Traceback" not in done.stderr


@pytest.mark.parametrize("key", ["name", "low", "high"])
@pytest.mark.parametrize("value", [None, "x", [], float("inf"), "missing"])
def test_an_edited_normaliser_is_told_when_the_run_is_opened(runs, tmp_path, key, value):
    run = tmp_path / "run"
    shutil.copytree(runs / "one", run)
    info = json.loads((run / "run.json").read_text())
    params = info["target_normalizers"]["FLAIR"]
    params[key] = value
    if value == "missing":
        del params[key]
    (run / "run.json").write_text(json.dumps(info))
    with pytest.raises(RunError, match=r"run\.json.*(train again|unknown)"):
        load_run(run)
