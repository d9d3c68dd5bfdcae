"""The audit: a clean cohort is silent, and each fault is found alone, by its own finding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from helpers import blob_brain, write_case
from synthmr.data import audit as module
from synthmr.data.audit import Finding, audit, dice, find_foreground
from synthmr.data.split import Split
from synthmr.io.index import index

SHAPE = (20, 22, 18)


def head(seed: int) -> np.ndarray:
    """A "head" with noisy air around it: not skull-stripped."""
    noise = np.abs(np.random.default_rng(seed + 100).normal(0, 3, SHAPE))
    return (blob_brain(SHAPE, seed) + noise).astype(np.float32)


def clean(root: Path, cases: int = 3, kind: Callable[[int], np.ndarray] = lambda seed: blob_brain(SHAPE, seed)) -> Path:
    for i in range(cases):
        write_case(root / f"c{i}", {"T1w": kind(10 * i), "T2w": kind(10 * i + 1)})
    return root


def change(root: Path, name: str, function: Callable[[np.ndarray], np.ndarray], affine: np.ndarray | None = None) -> None:
    """Rewrite ``root/name`` (case/contrast) with a changed array."""
    import nibabel

    path = root / f"{name}.nii.gz"
    write_case(path.parent, {path.name[:-7]: function(nibabel.load(path).get_fdata(dtype=np.float32))}, affine)


def only(findings: list[Finding], level: str) -> Finding:
    """The one finding there must be."""
    assert len(findings) == 1, findings
    found = findings[0]
    assert found.level == level and found.what and found.meaning and found.fix
    assert "\n" not in found.what + found.meaning + found.fix
    return found


@pytest.mark.parametrize("kind", [lambda seed: blob_brain(SHAPE, seed), head])
def test_clean_data_are_silent_and_progress_is_told(tmp_path, kind):
    seen = []
    assert audit(index(clean(tmp_path, kind=kind)), progress=lambda *words: seen.append(words)) == []
    assert seen == [(1, 3, "c0"), (2, 3, "c1"), (3, 3, "c2")]


def shift(array: np.ndarray, voxels: int) -> np.ndarray:
    """Moved along the first axis, with zeros moving in."""
    return np.concatenate([np.zeros_like(array[:voxels]), array[:-voxels]])


def put(array: np.ndarray, value: float) -> np.ndarray:
    array = array.copy()
    array[10, 10, 9] = value
    return array


@pytest.mark.parametrize(
    ("function", "level", "words"),
    [
        (lambda a: put(a, np.nan), "error", "holds 1 NaN or infinite voxels"),
        (lambda a: put(a, np.inf), "error", "holds 1 NaN or infinite voxels"),
        (np.zeros_like, "error", "is empty (all zero)"),
        (lambda a: np.full_like(a, 4), "error", "is constant (every voxel is 4)"),
        (lambda a: np.stack([a, a], axis=-1), "error", "4 dimensions"),
        (lambda a: put(a, -5), "warning", "holds 1 negative voxels"),
        (lambda a: put(a, 1e6), "warning", "the brightest voxel is 1e+06"),
        (lambda a: a / 400, "warning", "lies in [0, "),
        (lambda a: np.rint(a / 60), "error", "different values"),
        (lambda a: shift(a, 6), "error", "the brains overlap little: Dice 0."),
        (lambda a: shift(a, 2), "warning", "the brains overlap little: Dice 0."),
        (lambda a: a + np.abs(np.random.default_rng(0).normal(0, 3, a.shape)), "warning", "T1w is skull-stripped, T2w are not"),
    ],
)
def test_one_bad_volume(tmp_path, function, level, words):
    change(clean(tmp_path), "c1/T2w", function)
    found = only(audit(index(tmp_path)), level)
    assert words in found.what and found.case == "c1" and "T2w" in found.contrast


def test_a_truncated_file_is_an_error_and_the_rest_is_still_looked_at(tmp_path):
    clean(tmp_path)
    path = tmp_path / "c0" / "T1w.nii.gz"
    path.write_bytes(path.read_bytes()[:-2000])
    change(tmp_path, "c2/T1w", lambda a: a * np.nan)
    findings = audit(index(tmp_path))
    assert [(f.case, f.contrast, f.level) for f in findings] == [("c0", "T1w", "error"), ("c2", "T1w", "error")]
    assert "cut short" in findings[0].what


@pytest.mark.parametrize("how", ["shape", "moved", "spacing", "flipped"])
def test_other_grids_in_a_case(tmp_path, how):
    clean(tmp_path)
    affine = {
        "shape": None,
        "moved": np.array([[1, 0, 0, 5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
        "spacing": np.diag([1, 1, 1.5, 1]),
        "flipped": np.diag([-1, 1, 1, 1.0]),
    }[how]
    change(tmp_path, "c0/T2w", lambda a: a[:, :, 1:] if how == "shape" else a, affine)
    found = only(audit(index(tmp_path)), "error")
    assert found.what.startswith("other grid than T1w: T2w ") and "Register and resample" in found.fix
    assert audit(index(tmp_path), ["T1w"]) == []  # a contrast that is not used is not looked at


def test_forms_that_disagree(tmp_path):
    import nibabel

    path = clean(tmp_path) / "c0" / "T1w.nii.gz"
    image = nibabel.load(path)
    moved = np.eye(4)
    moved[1, 3] = 10
    image.header.set_sform(np.eye(4), 1)
    image.header.set_qform(moved, 1)
    nibabel.save(nibabel.Nifti1Image(image.get_fdata(dtype=np.float32), None, image.header), path)
    found = only(audit(index(tmp_path)), "warning")
    assert "10 mm apart" in found.what and found.contrast == "T1w"


def test_duplicate_subjects_whatever_the_stored_type(tmp_path):
    clean(tmp_path)
    whole = np.rint(blob_brain(SHAPE, 77))
    write_case(tmp_path / "c0", {"T1w": whole})
    write_case(tmp_path / "c2", {"T1w": whole.astype(np.int16)})
    found = only(audit(index(tmp_path)), "error")
    assert (found.case, found.contrast, found.what) == ("c0, c2", "T1w", "the same voxels under two names")
    (tmp_path / "splits.tsv").write_text("case\tsplit\nc0\ttrain\nc1\tvalidation\nc2\ttest\n")
    assert "they are in test and train" in only(audit(index(tmp_path)), "error").what


def test_a_copied_contrast(tmp_path):
    change(clean(tmp_path), "c1/T2w", lambda a: blob_brain(SHAPE, 10))
    found = only(audit(index(tmp_path)), "error")
    assert (found.case, found.what) == ("c1", "two contrasts hold the same voxels") and found.contrast == "T1w = T2w"


def test_two_equal_sessions_of_one_person_are_a_warning(tmp_path):
    for i, seed in enumerate((0, 0, 5)):
        write_case(tmp_path / f"BraTS-GLI-0000{i // 2}-00{i % 2}", {"t1n": blob_brain(SHAPE, seed)})
    assert only(audit(index(tmp_path)), "warning").case == "BraTS-GLI-00000-000, BraTS-GLI-00000-001"


def test_a_split_that_shares_a_subject(tmp_path):
    names = ["BraTS-GLI-00000-000", "BraTS-GLI-00000-001", "BraTS-GLI-00001-000"]
    for seed, name in enumerate(names):
        write_case(tmp_path / name, {"t1n": blob_brain(SHAPE, seed)})
    (tmp_path / "splits.tsv").write_text(
        "case\tsplit\n" + "".join(f"{n}\t{s}\n" for n, s in zip(names, ["train", "test", "val"], strict=True))
    )
    found = only(audit(index(tmp_path)), "error")
    assert found.what.startswith("subject BraTS-GLI-00000 is in train and in test") and "splits.tsv" in found.what
    (tmp_path / "splits.tsv").unlink()
    cohort = index(tmp_path)
    assert audit(cohort) == []
    assert (
        "BraTS-GLI-00000 is in train and in validation"
        in only(audit(cohort, split=Split((names[0], names[2]), (names[1],), (), "s")), "error").what
    )


def test_a_split_without_training_or_validation_cases(tmp_path):
    clean(tmp_path)
    (tmp_path / "splits.tsv").write_text("case\tsplit\nc0\ttrain\nc1\ttrain\nc2\ttest\n")
    assert "has no validation case" in only(audit(index(tmp_path)), "error").what


def test_missing_contrasts(tmp_path):
    clean(tmp_path)
    (tmp_path / "c1" / "T2w.nii.gz").unlink()
    cohort = index(tmp_path)
    assert only(audit(cohort), "warning").what == "1 of 3 cases have no T2w: c1"
    assert audit(cohort, ["T1w"]) == []
    none = audit(cohort, ["T1w", "FLAIR"])
    assert "3 of 3 cases have no FLAIR" in only(none, "error").what
    for name in ("c0/T1w", "c2/T1w"):
        (tmp_path / f"{name}.nii.gz").unlink()
    findings = audit(index(tmp_path), ["T1w", "T2w"])
    assert findings[0].level == "error" and findings[0].what == "no case has all of T1w, T2w"


def test_one_subject_is_a_warning(tmp_path):
    assert "only 1 subject (c0)" in only(audit(index(clean(tmp_path, 1))), "warning").what


def test_problems_of_the_index_are_passed_on(tmp_path):
    clean(tmp_path)
    (tmp_path / "c0" / "old.mha").write_text("x")
    assert "old.mha" in only(audit(index(tmp_path)), "warning").what


@pytest.mark.parametrize(
    ("name", "array", "affine", "words"),
    [
        ("mask", np.zeros(SHAPE), None, "mask.nii.gz is empty"),
        ("mask", np.pad(np.ones((4, 4, 4)), [(8, 8), (9, 9), (7, 7)]), None, "of the image's foreground"),
        ("mask", np.full(SHAPE, 0.5), None, "not whole numbers"),
        ("seg", np.ones((3, 3, 3)), None, "seg.nii.gz lies on another grid"),
        ("seg", np.ones(SHAPE), np.diag([2, 1, 1, 1]), "seg.nii.gz lies on another grid"),
        ("seg", np.ones((*SHAPE, 2)), None, "4 dimensions"),
    ],
)
def test_bad_masks_and_segmentations(tmp_path, name, array, affine, words):
    write_case(clean(tmp_path) / "c1", {name: array}, affine)
    assert words in only(audit(index(tmp_path)), "error").what


def test_good_masks_and_segmentations_are_silent(tmp_path):
    write_case(clean(tmp_path) / "c1", {"mask": blob_brain(SHAPE) > 0, "seg": np.zeros(SHAPE, np.uint8)})
    assert audit(index(tmp_path)) == []


def test_equal_warnings_of_many_cases_are_counted_and_errors_are_not(tmp_path):
    clean(tmp_path, 7)
    for i in range(7):
        change(tmp_path, f"c{i}/T1w", lambda a: put(a, -3))
        change(tmp_path, f"c{i}/T2w", lambda a: put(a, np.nan))
    findings = audit(index(tmp_path))
    assert [f.level for f in findings] == ["error"] * 7 + ["warning"] * (module.KEEP + 1)
    assert findings[-1].what == "the same in 4 more cases: c3, c4, c5, c6"


def test_dice_and_foreground():
    a, b = np.zeros((2, 2, 2), bool), np.zeros((2, 2, 2), bool)
    assert dice(a, b) == 1
    a[0], b[:, 0] = True, True
    assert dice(a, b) == pytest.approx(2 * 2 / 8)
    brain = blob_brain(SHAPE)
    mask, stripped = find_foreground(brain)
    assert stripped and (mask == (brain != 0)).all()
    mask, stripped = find_foreground(head(0))
    assert not stripped and dice(mask, brain != 0) > 0.98
    # gain and offset of the scanner do not matter
    assert (find_foreground(head(0) * 7)[0] == mask).all()


def test_the_order_of_cases_is_kept_whichever_is_read_first(tmp_path, monkeypatch):
    import time

    clean(tmp_path, 4)
    for name in ("c0", "c3"):
        write_case(tmp_path / name, {"T1w": blob_brain(SHAPE, 77)})
    look = module.look_at

    def slow(case, *words):
        time.sleep(0.3 * (case.name == "c0"))
        return look(case, *words)

    monkeypatch.setattr(module, "look_at", slow)
    assert only(audit(index(tmp_path)), "error").cases == ("c0", "c3")
