"""One person under two names is found from the images; two people are not taken for one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from heads import AFFINE, SHAPE, image
from helpers import write_case
from synthmr.data import same_person
from synthmr.data.audit import audit
from synthmr.data.split import Split
from synthmr.io.index import index

Change = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def scan(seed: int = 0, visit: int = 0) -> np.ndarray:
    return image("T1w", seed, visit=visit).astype(np.float32)


def biased(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in array.shape), indexing="ij")
    return 3.1 * array * np.exp(0.4 * (x - y * z)).astype(np.float32), AFFINE


def resampled(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    out = ndimage.zoom(array, 1 / 1.3, order=1)
    return out, AFFINE @ np.diag([*np.array(array.shape) / out.shape, 1])


def flipped(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    turn = np.diag([-1.0, 1, -1, 1])
    turn[0, 3], turn[2, 3] = SHAPE[0] - 1, SHAPE[2] - 1
    return array[::-1, :, ::-1], AFFINE @ turn


def rotated(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return ndimage.rotate(array, 3, (0, 1), reshape=False, order=1), AFFINE


CHANGES: dict[str, Change] = {
    "a copy": lambda a: (a + 0.25, AFFINE),
    "a gain and a bias field, as before N4": biased,
    "1.3 times the voxels": resampled,
    "a crop": lambda a: (a[6:-4, 7:-5, 5:-6], AFFINE),
    "a shift of 5 voxels": lambda a: (np.roll(a, (5, -5, 4), (0, 1, 2)), AFFINE),
    "another storage order": flipped,
    "another storage order, whose header is lost": lambda a: (a[::-1, ::-1], AFFINE),
    "axes in another order": lambda a: (a.transpose(2, 0, 1), AFFINE[:, [2, 0, 1, 3]]),
    "a gamma": lambda a: (a**0.8, AFFINE),
    "smoothing": lambda a: (ndimage.gaussian_filter(a, 0.5), AFFINE),
    "noise": lambda a: (np.where(a > 0, np.abs(a + np.random.default_rng(0).normal(0, 30, SHAPE)), 0), AFFINE),
    "all at once": lambda a: resampled(biased(a[4:-5, 5:-4, 3:-4])[0]),
}


def score(one: np.ndarray, two: np.ndarray) -> float:
    signatures = np.stack([same_person.signature(one), same_person.signature(two)])
    found = same_person.find_pairs([one, two].__getitem__, signatures, ["a", "b"])
    return found[0].score if found else same_person.compare(one, two)


@pytest.fixture(scope="module")
def own() -> np.ndarray:
    found = same_person.describe(scan(), AFFINE)
    assert found is not None and found.dtype == np.int8
    return found


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_copy_is_the_same_person(own: np.ndarray, what: str) -> None:
    copy = same_person.describe(*CHANGES[what](scan()))
    least = same_person.PROBABLE if what == "all at once" else same_person.CERTAIN
    assert copy is not None and score(own, copy) >= least


def test_another_visit_is_the_same_person_and_another_person_is_not(own: np.ndarray) -> None:
    turned = same_person.describe(*rotated(scan(0, visit=1)))
    assert turned is not None and score(own, turned) >= same_person.PROBABLE
    others = [same_person.describe(scan(seed), AFFINE) for seed in range(1, 7)]
    assert max(score(own, other) for other in others if other is not None) < 0.6


def test_what_is_too_small_or_empty_tells_nobody(own: np.ndarray) -> None:
    assert same_person.describe(scan(), np.eye(4)) is None  # 20 ml
    assert same_person.describe(np.zeros(SHAPE, np.float32), AFFINE) is None
    assert same_person.compare(own, np.zeros((3, 3, 3), np.int8)) == -1


def test_a_signature_is_that_of_every_shift_and_mirror(own: np.ndarray) -> None:
    signature = same_person.signature(own)
    moved = same_person.signature(np.pad(own, [(0, 4), (6, 0), (2, 1)])[:, ::-1])
    assert signature.mean() == pytest.approx(0, abs=1e-5) and np.linalg.norm(signature) == pytest.approx(1, abs=1e-5)
    assert float(signature @ moved) > 0.99


def test_candidates_are_other_people_few_and_found_among_thousands() -> None:
    rng = np.random.default_rng(0)
    signatures = rng.normal(size=(3000, 283)).astype(np.float32)
    signatures[2999] = signatures[7] + 0.5 * rng.normal(size=283)
    signatures[8] = signatures[7]
    signatures /= np.linalg.norm(signatures, axis=1, keepdims=True)
    persons = [str(number) for number in range(3000)]
    persons[8] = "7"  # known to be one person
    found = same_person.candidates(signatures, persons)
    assert {(one, two) for one, two, _ in found} == {(7, 2999), (8, 2999)}


def write(root: Path, scans: dict[str, np.ndarray], split: dict[str, str] | None = None) -> Path:
    for name, array in scans.items():
        write_case(root / name, {"T1w": array}, AFFINE)
    if split:
        (root / "splits.tsv").write_text("case\tsplit\n" + "".join(f"{case}\t{part}\n" for case, part in split.items()))
    return root


def test_audit_finds_one_person_in_two_parts_and_says_who(tmp_path: Path) -> None:
    scans = {"a": scan(0), "b": scan(1), "c": scan(2), "d": biased(scan(0))[0]}
    root = write(tmp_path, scans, {"a": "train", "b": "train", "c": "validation", "d": "test"})
    (found,) = audit(index(root))
    assert (found.level, found.cases, found.contrast) == ("error", ("a", "d"), "T1w")
    assert "one person under two names" in found.what and "in test and train" in found.what
    # in one part, or without a split, it is a warning; a split that is drawn counts as one that is given
    split = Split(("a", "b", "d"), ("c",), (), "seed 0")
    assert [(each.level, each.cases) for each in audit(index(root), split=split)] == [("warning", ("a", "d"))]
    (root / "splits.tsv").unlink()
    assert [(each.level, each.cases) for each in audit(index(root))] == [("warning", ("a", "d"))]


def test_audit_says_nothing_of_two_people_and_of_visits_that_it_knows(tmp_path: Path) -> None:
    names = {"BraTS-GLI-00001-000": scan(3), "BraTS-GLI-00001-001": scan(3, 1), "BraTS-GLI-00002-000": scan(4)}
    assert audit(index(write(tmp_path, names))) == []


def test_cases_without_a_common_contrast_are_not_compared_and_those_with_one_are(tmp_path: Path) -> None:
    write_case(tmp_path / "a", {"T1w": scan(0), "T2w": image("T2w", 0)}, AFFINE)
    write_case(tmp_path / "b", {"T1w": scan(1)}, AFFINE)
    write_case(tmp_path / "c", {"T2w": np.roll(image("T2w", 0), 3, 0)}, AFFINE)
    found = [each for each in audit(index(tmp_path)) if "person" in each.what]
    assert [(each.cases, each.contrast) for each in found] == [(("a", "c"), "T2w")]
