"""Two folders, a table, one bad pair: who belongs to whom, what it costs, and what the verb prints and exits with."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from conftest import Verb
from helpers import blob_brain, write_case
from synthmr import pipeline
from synthmr.errors import DataError, UsageError
from synthmr.evaluate.pairs import Given, find_pairs
from synthmr.evaluate.scores import read_scores

SHAPE = (14, 16, 12)
CASES = ("BraTS20_001", "BraTS20_002", "BraTS20_003")


def brains(case: int) -> dict[str, np.ndarray]:
    """Truth of FLAIR and T2w, a prediction of FLAIR, labels."""
    flair, t2 = blob_brain(SHAPE, case), blob_brain(SHAPE, 100 + case)
    noise = np.random.default_rng(case).normal(0, 5 + case, SHAPE)
    labels = np.zeros(SHAPE, np.int16)
    labels[6:9, 7:10, 5:8] = 4
    labels[6, 7, 5] = 1
    return {"flair": flair, "t2": t2, "guess": np.where(flair > 0, flair + noise, 0).astype(np.float32), "seg": labels}


def brats(root: Path) -> Path:
    """The truths as BraTS lays them out."""
    for number, case in enumerate(CASES):
        arrays = brains(number)
        write_case(root / case, {f"{case}_{name}": arrays[name] for name in ("flair", "t2", "seg")})
    return root


def expected(number: int, truth: Path, folder: Path) -> float:
    """PSNR of one pair, scored by itself."""
    path = write_case(folder, {f"alone{number}": brains(number)["guess"]})[f"alone{number}"]
    return next(row.value for row in pipeline.score(path, truth).rows if row.metric == "psnr")


def psnrs(found: object) -> dict[str, float]:
    return {row.case: row.value for row in found.rows if row.metric == "psnr"}  # type: ignore[attr-defined]


@pytest.fixture
def truths(tmp_path: Path) -> Path:
    return brats(tmp_path / "truths")


def truth_of(truths: Path, number: int) -> Path:
    return truths / CASES[number] / f"{CASES[number]}_flair.nii.gz"


@pytest.mark.parametrize(
    "name",
    [
        "{case}_desc-synth_FLAIR",  # ours
        "{case}/{case}_flair",  # the same path
        "{case}/FLAIR",
        "fold1/{case}_t2flair",
        "{case}_desc-synth_T2w/flair",
    ],
)
def test_folders_are_paired_by_path_or_by_case_and_contrast(truths: Path, tmp_path: Path, name: str) -> None:
    made = tmp_path / "mine"
    for number, case in enumerate(CASES):
        path = made / name.format(case=case)
        if "T2w/" in name:  # a folder's name that says another contrast: the file's own name counts
            path = made / case / "flair"
        write_case(path.parent, {path.name: brains(number)["guess"]})
    found = pipeline.score(made, truths)
    assert psnrs(found) == pytest.approx({case: expected(i, truth_of(truths, i), tmp_path) for i, case in enumerate(CASES)})
    assert found.skipped == found.failed == [] and {row.method for row in found.rows} == {"mine"}
    assert {row.contrast for row in found.rows} == {"FLAIR"}


def test_bids_truths(tmp_path: Path) -> None:
    for number, name in enumerate(("sub-01", "sub-02_ses-1", "sub-02_ses-2")):
        folder = tmp_path / "bids" / Path(*name.split("_")) / "anat"
        write_case(folder, {f"{name}_FLAIR": brains(number)["flair"]})
        write_case(tmp_path / "made", {f"{name}_desc-synth_FLAIR": brains(number)["guess"]})
    found = pipeline.score(tmp_path / "made", tmp_path / "bids", method="theirs")
    assert {(row.case, row.subject) for row in found.rows} == {
        ("sub-01", "sub-01"),
        ("sub-02_ses-1", "sub-02"),
        ("sub-02_ses-2", "sub-02"),
    }
    assert {row.method for row in found.rows} == {"theirs"}


def test_the_segmentation_of_the_truths_case_is_used_and_read_as_said(truths: Path, tmp_path: Path) -> None:
    write_case(tmp_path / "made", {f"{CASES[0]}_desc-synth_FLAIR": brains(0)["guess"]})
    found = pipeline.score(tmp_path / "made", truths, protocols=["brasyn"])
    assert {row.region for row in found.rows} == {"lesion", "non-lesion"}
    assert found.labels is not None and found.labels["name"] == "brats2017"
    assert found.labels["why"] == "labels 1, 4 read as brats2017, as said by BraTS20_001_seg.nii.gz"
    sizes = {
        name: {CASES[0]: size}
        for name, size in {"lesion": 27, "WT": 27, "TC": 27, "ET": 26, "necrosis": 1, "enhancing": 26}.items()
    }
    assert found.labels["parts"] == sizes


def test_one_bad_pair_costs_that_pair_and_what_has_no_partner_is_named(truths: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    write_case(made, {f"{CASES[0]}_desc-synth_FLAIR": brains(0)["guess"], f"{CASES[1]}_desc-synth_FLAIR": brains(1)["guess"][1:]})
    write_case(made, {"BraTS20_009_desc-synth_FLAIR": brains(0)["guess"], f"{CASES[0]}_desc-synth_dseg": brains(0)["seg"]})
    found = pipeline.score(made, truths)
    assert set(psnrs(found)) == {CASES[0]}
    (bad,) = found.failed
    assert bad.startswith(f"{CASES[1]}_desc-synth_FLAIR.nii.gz: ") and "grids" in bad and bad in found.skipped
    text = "\n".join(found.skipped)
    assert f"BraTS20_009_desc-synth_FLAIR.nii.gz has no truth in {truths} (BraTS20_009 FLAIR)" in text
    assert f"{CASES[2]}_flair.nii.gz has no prediction in {made}" in text
    assert f"{CASES[0]}_desc-synth_dseg.nii.gz is a map or a segmentation" in text
    assert len(found.skipped) == 4 and "_t2" not in text
    # where nothing is left there is no result
    (made / f"{CASES[0]}_desc-synth_FLAIR.nii.gz").unlink()
    with pytest.raises(DataError, match=r"nothing could be scored: BraTS20_002_desc-synth_FLAIR\.nii\.gz: "):
        pipeline.score(made, truths)


def test_a_table_of_pairs(truths: Path, tmp_path: Path) -> None:
    guesses = write_case(tmp_path / "made", {f"g{number}": brains(number)["guess"] for number in range(2)})
    mask = write_case(tmp_path / "made", {"mask": brains(0)["flair"] > 100})["mask"]
    table = tmp_path / "pairs.csv"
    lines = ["prediction,truth,case,subject,contrast,method,mask"]
    lines += [f"made/g0.nii.gz,truths/{CASES[0]}/{CASES[0]}_flair.nii.gz,A_1,A,FLAIR,ours,made/mask.nii.gz"]
    lines += [f"made/g1.nii.gz,truths/{CASES[1]}/{CASES[1]}_flair.nii.gz,,,,,"]
    table.write_text("\n".join(lines) + "\n")
    found = pipeline.score(table)
    assert {(row.case, row.subject, row.method, row.contrast) for row in found.rows} == {
        ("A_1", "A", "ours", "FLAIR"),
        (CASES[1], CASES[1], "made", "FLAIR"),
    }
    alone = pipeline.score(guesses["g0"], truth_of(truths, 0), mask)
    assert psnrs(found)["A_1"] == next(row.value for row in alone.rows if row.metric == "psnr")
    for text, words in (
        ("prediction,truth\n", "needs the columns prediction and truth, and a line a pair"),
        ("prediction,case\na,b\n", "needs the columns"),
        ("prediction,truth,colour\na,b,c\n", "has a column 'colour'"),
        ("prediction,truth\na,\n", "line 2 lacks the prediction or the truth"),
    ):
        table.write_text(text)
        with pytest.raises(DataError, match=words):
            pipeline.score(table)
    # a prediction that is gone and has left its sidecar costs itself alone
    table.write_text("\n".join(lines) + "\n")
    guesses["g1"].unlink()
    guesses["g1"].with_name("g1.json").write_text('{"synthetic": true}')
    found = pipeline.score(table)
    assert set(psnrs(found)) == {"A_1"} and len(found.failed) == 1 and "g1.nii.gz" in found.failed[0]
    with pytest.raises(UsageError, match="is a table, which names the truths"):
        pipeline.score(table, truths)


def test_files_of_every_case_by_a_pattern(truths: Path, tmp_path: Path) -> None:
    for number, case in enumerate(CASES[:2]):
        write_case(tmp_path / "made", {f"{case}_FLAIR": brains(number)["guess"]})
        write_case(tmp_path / "masks", {case: brains(number)["flair"] > 100})
    given = Given(mask=tmp_path / "masks" / "{case}.nii.gz")
    pairs, _ = find_pairs(tmp_path / "made", truths, given)
    assert [pair.mask for pair in pairs] == [tmp_path / "masks" / f"{case}.nii.gz" for case in CASES[:2]]


def test_words_that_do_not_fit(truths: Path, tmp_path: Path) -> None:
    guess = write_case(tmp_path / "made", {"g": brains(0)["guess"]})["g"]
    with pytest.raises(UsageError, match="has nothing to be scored against"):
        pipeline.score(guess)
    with pytest.raises(UsageError, match="give two files or two folders"):
        pipeline.score(guess, truths)
    with pytest.raises(DataError, match="nowhere does not exist"):
        pipeline.score(tmp_path / "nowhere", truths)
    with pytest.raises(DataError, match=r"no file of .*made has a truth in .*truths: g.nii.gz has no truth"):
        pipeline.score(tmp_path / "made", truths)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no \.nii or \.nii\.gz file"):
        pipeline.score(tmp_path / "empty", truths)


# --- the verb -----------------------------------------------------------------------------------------------------------


def test_the_verb_prints_regions_as_columns_and_writes_what_compare_reads(verb: Verb, truths: Path, tmp_path: Path) -> None:
    for number, case in enumerate(CASES):
        write_case(tmp_path / "made", {f"{case}_FLAIR": brains(number)["guess"]})
        write_case(tmp_path / "other", {f"{case}_FLAIR": brains(number)["guess"] * 1.1})
    out = tmp_path / "made.csv"
    done = verb("score", tmp_path / "made", truths, "--protocol", "brasyn", "--out", out)
    (head,) = (line for line in done.stdout.splitlines() if "metric" in line)
    assert head.split() == ["protocol", "metric", "subjects", "lesion", "non-lesion"]
    line = next(line for line in done.stdout.splitlines() if "psnr" in line)
    assert line.count("+-") == 2 and line.split()[:4] == ["brasyn", "psnr", "↑", "3"] and "written to" in done.stderr
    assert {row.region for row in read_scores(out)} == {"lesion", "non-lesion"}
    verb("score", tmp_path / "other", truths, "--protocol", "brasyn", "--out", tmp_path / "other.csv")
    tests = json.loads(verb("compare", out, tmp_path / "other.csv", "--json").stdout)
    assert {(row["region"], row["metric"]) for row in tests} == {(r, m) for r in ("lesion", "non-lesion") for m in ("ssim", "psnr")}


def test_the_verb_ends_with_1_where_a_pair_failed_and_prints_the_rest(verb: Verb, truths: Path, tmp_path: Path) -> None:
    write_case(tmp_path / "made", {f"{CASES[0]}_FLAIR": brains(0)["guess"], f"{CASES[1]}_FLAIR": brains(1)["guess"][1:]})
    out = tmp_path / "s.csv"
    done = verb("score", tmp_path / "made", truths, "--out", out, code=1)
    assert "masked-volume" in done.stdout and f"left out: {CASES[1]}_FLAIR.nii.gz: " in done.stderr
    assert {row["case"] for row in csv.DictReader(out.read_text().splitlines())} == {CASES[0]}
    found = json.loads(verb("score", tmp_path / "made", truths, "--json", code=1).stdout)
    assert list(found) == ["scores", "labels", "warnings", "skipped"] and any(CASES[1] in line for line in found["skipped"])


def test_quiet_keeps_the_warning_on_units(verb: Verb, truths: Path, tmp_path: Path) -> None:
    loud = write_case(tmp_path, {"loud": brains(0)["guess"] * 50})["loud"]
    done = verb("-q", "score", loud, truth_of(truths, 0))
    (line,) = done.stderr.splitlines()
    assert line.startswith("warning units: loud.nii.gz: the prediction is 5") and "are both in the same units?" in line
    fine = write_case(tmp_path, {"fine": brains(0)["guess"]})["fine"]
    assert verb("-q", "score", fine, truth_of(truths, 0)).stderr == ""
