"""The audit decides: its errors stop a training, unless somebody insists or leaves the cases out; what was found is paid once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import synthmr
from heads import AFFINE, LESION, image, tissues
from helpers import write_case
from synthmr import pipeline
from synthmr.data import audit as module
from synthmr.errors import DataError, UsageError
from synthmr.reading import Reading


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four people, T1w and FLAIR; ``a`` is for training, too."""
    for seed, name in enumerate("abcd"):
        write_case(tmp_path / "data" / name, {word: image(word, seed) for word in ("T1w", "FLAIR")}, AFFINE)
    (tmp_path / "data" / "splits.tsv").write_text("case\tsplit\na\ttrain\nb\ttrain\nc\tvalidation\nd\ttest\n")
    return tmp_path / "data"


def damage(root: Path, case: str = "a") -> None:
    write_case(root / case, {"mask": (tissues(0) == LESION).astype(np.uint8)}, AFFINE)


def prepared(root: Path, gate: pipeline.Gate) -> tuple[str, ...]:
    config = pipeline.configure("linear", "T1w", "FLAIR")
    store, split = pipeline.prepared(root, config, Reading(), root.parent / "cache", gate=gate)
    assert set(store.names) == set(split.names)
    return split.names


def test_clean_data_pass_without_a_word(root: Path) -> None:
    gate = pipeline.Gate()
    assert prepared(root, gate) == ("a", "b", "c", "d")
    assert gate.lines == [] and gate.record() == {"forced": False, "left_out": {}, "findings": []}


def test_an_error_stops_and_names_the_case_the_file_and_both_ways_on(root: Path) -> None:
    damage(root)
    with pytest.raises(DataError, match=r"1 error in .*: a mask: mask\.nii\.gz covers .*--skip-bad.*--force") as caught:
        prepared(root, pipeline.Gate())
    assert "\n" not in str(caught.value) and not (root.parent / "cache" / "images").exists()


def test_force_goes_on_says_so_and_the_run_records_it(root: Path, tmp_path: Path) -> None:
    damage(root)
    with pytest.raises(DataError, match="covers"):
        synthmr.train("linear", root, sources="T1w", target="FLAIR", out=tmp_path / "run", cache=tmp_path / "cache")
    assert not (tmp_path / "run").exists()
    synthmr.train("linear", root, sources="T1w", target="FLAIR", out=tmp_path / "run", cache=tmp_path / "cache", force=True)
    kept = json.loads((tmp_path / "run" / "run.json").read_text())["audit"]
    assert kept["forced"] is True and [each["case"] for each in kept["findings"]] == ["a"]
    gate = pipeline.Gate(force=True)
    assert prepared(root, gate) == ("a", "b", "c", "d") and "--force: training goes on" in gate.lines[0]


def test_skip_bad_leaves_the_case_out_and_says_which(root: Path) -> None:
    damage(root)
    gate = pipeline.Gate(skip_bad=True)
    assert prepared(root, gate) == ("b", "c", "d")
    assert list(gate.left_out) == ["a"] and gate.lines[0].startswith("--skip-bad leaves out a: a mask: mask.nii.gz covers")
    damage(root, "c")
    with pytest.raises(DataError, match="leaves no validation case"):
        prepared(root, pipeline.Gate(skip_bad=True))
    with pytest.raises(UsageError, match="give one"):
        pipeline.Gate(force=True, skip_bad=True)


@pytest.mark.parametrize(("copied", "kept"), [("d", ("b", "c", "d")), ("b", ("a", "c", "d"))])
def test_of_one_person_under_two_names_the_held_out_case_stays(root: Path, copied: str, kept: tuple[str, ...]) -> None:
    write_case(root / copied, {word: image(word, 0) for word in ("T1w", "FLAIR")}, AFFINE)
    assert prepared(root, pipeline.Gate(skip_bad=True)) == kept


def test_warnings_are_told_and_go_on(root: Path) -> None:
    array = image("T1w", 0)
    array[0, 0, 0] = -5
    write_case(root / "a", {"T1w": array}, AFFINE)
    gate = pipeline.Gate()
    assert len(prepared(root, gate)) == 4
    assert len(gate.lines) == 1 and gate.lines[0].startswith("warning: a T1w: T1w.nii.gz holds 1 negative")


def test_cases_and_contrasts_that_are_not_used_are_not_looked_at(root: Path) -> None:
    write_case(root / "a", {"T2w": np.full((52, 60, 50), np.nan, np.float32)}, AFFINE)
    write_case(root / "e", {word: np.zeros((52, 60, 50), np.int16) for word in ("T1w", "FLAIR")}, AFFINE)  # in no part of the split
    assert len(prepared(root, pipeline.Gate())) == 4


def test_an_audit_is_paid_once_a_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []

    def counted(case, *words):
        looked.append(case.name)
        return module_look(case, *words)

    module_look = module.look_at
    monkeypatch.setattr(module, "look_at", counted)
    damage(root)
    for _ in range(2):
        with pytest.raises(DataError, match="covers"):
            prepared(root, pipeline.Gate())
        assert sorted(looked) == ["a", "b", "c", "d"]
    write_case(root / "b", {"T1w": image("T1w", 9)}, AFFINE)
    (root / "a" / "mask.nii.gz").unlink()
    assert len(prepared(root, pipeline.Gate())) == 4
    assert sorted(looked[4:]) == ["a", "b"]


def test_what_was_kept_and_is_damaged_is_looked_at_again(root: Path) -> None:
    prepared(root, pipeline.Gate())
    kept = sorted((root.parent / "cache" / "audits").iterdir())
    assert len(kept) == 4
    kept[0].write_bytes(b"no")
    damage(root)
    with pytest.raises(DataError, match="covers"):
        prepared(root, pipeline.Gate())


def test_a_prepared_store_has_nothing_to_audit(root: Path, tmp_path: Path) -> None:
    config = pipeline.configure("linear", "T1w", "FLAIR")
    pipeline.prepared(root, config, Reading(), tmp_path / "cache", tmp_path / "store", gate=pipeline.Gate())
    gate = pipeline.Gate()
    pipeline.prepared(tmp_path / "store", config, Reading(), tmp_path / "cache", gate=gate)
    assert gate.lines == [] and gate.findings == []


def test_cross_validation_finds_one_person_in_two_folds(root: Path, synthmr: object, tmp_path: Path) -> None:
    (root / "splits.tsv").unlink()
    write_case(root / "d", {word: np.roll(image(word, 0), 3, 0) for word in ("T1w", "FLAIR")}, AFFINE)
    words = ("cv", "linear", root, "--sources", "T1w", "--target", "FLAIR", "--folds", 4, "--out", tmp_path / "cv")
    done = synthmr(*words, code=1)  # type: ignore[operator]
    assert "one person under two names" in done.stderr and not (tmp_path / "cv" / "fold-1" / "run").exists()
