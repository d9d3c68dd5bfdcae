"""The reader: a stored case is the case prepared from its files, for any contrasts that are given, to the bit."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import write_case
from synthmr.case import PLANES, Case, Cohort, PreparedCase
from synthmr.config import PrepareConfig
from synthmr.data.reader import Reader
from synthmr.data.split import Split
from synthmr.data.store import build
from synthmr.errors import DataError
from synthmr.prepare import normalize
from synthmr.prepare.case import load_case, prepare_images

SHAPE = (26, 30, 22)
CONTRASTS = ("T1w", "T2w", "FLAIR")
LPS = np.diag([-1.0, -1.0, 2.0, 1.0])
SPLIT = Split(("a", "b"), ("c",), (), "seed 0")


def brain_of(seed: int, kind: str) -> np.ndarray:
    """A brain of whole numbers with an outline of its own, a hole, stray voxels and an island of about a hundredth of it."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    radii = rng.uniform(0.5, 0.75, 3)
    inside = sum((axis / radius) ** 2 for axis, radius in zip(axes, radii, strict=True)) < 1
    waves = sum(rng.uniform(20, 60) * np.sin(rng.uniform(1, 4) * axis + rng.uniform(0, 6)) for axis in axes)
    image = np.where(inside, 300 + waves + rng.normal(0, 8, SHAPE), 0)
    image[12:14, 14:16, 10:12] = 0
    edge = int(rng.integers(2, 5))
    image[1 : 1 + edge, 1 : 1 + edge, 1 : 1 + edge] = 40 + seed
    image[-2, 3, 4] = 7
    if kind == "head":
        image = np.where(image > 0, image, np.abs(rng.normal(0, 12, SHAPE)) + 1)
    if kind == "negative":
        image -= 1000
    return np.rint(image).astype(np.float32) if kind != "float" else image.astype(np.float32) / 977


def cohort_of(root: Path, kinds: dict[str, str], mask: bool = False) -> Cohort:
    cases = []
    for number, name in enumerate("abc"):
        arrays = {contrast: brain_of(10 * number + k, kinds[contrast]) for k, contrast in enumerate(CONTRASTS)}
        labels = (brain_of(10 * number, "") > 340).astype(np.int16) * 4
        given = (brain_of(10 * number, "") > 250).astype(np.int16)
        paths = write_case(root / name, {**arrays, "seg": labels, "mask": given}, LPS, suffix=".nii")
        images = {contrast: paths[contrast] for contrast in CONTRASTS}
        cases.append(Case(name, name, images, paths["mask"] if mask else None, paths["seg"]))
    return Cohort(root, "folder", tuple(cases))


def assert_same(found: PreparedCase, expected: PreparedCase) -> None:
    assert found.name == expected.name and found.given == expected.given
    assert list(found.images) == list(expected.images)
    np.testing.assert_array_equal(found.mask, expected.mask)
    for name, image in expected.images.items():
        assert found.images[name].dtype == np.float32
        np.testing.assert_array_equal(found.images[name], image)
    assert dict(found.normalizers) == dict(expected.normalizers)
    assert list(found.history) == list(expected.history)
    np.testing.assert_array_equal(found.affine, expected.affine)
    assert found.segmentation is not None and expected.segmentation is not None
    np.testing.assert_array_equal(found.segmentation, expected.segmentation)


def from_files(case: Case, config: PrepareConfig, given: tuple[str, ...], truth: tuple[str, ...], **more: Any) -> PreparedCase:
    volumes, mask, labels = load_case(case, (*given, *truth))
    return prepare_images(volumes, config, ("FLAIR",), mask, labels, more.get("landmarks"), case.name, given=given)


STRIPPED = dict.fromkeys(CONTRASTS, "stripped")
WAYS: list[tuple[dict[str, str], dict[str, Any]]] = [
    (STRIPPED, {}),
    (STRIPPED, {"margin": 0, "normalizer": "zscore", "source_normalizer": "minmax"}),
    (STRIPPED, {"margin": 50, "normalizer": "mean", "mask": "nonzero"}),
    (STRIPPED, {"normalizer": "nyul", "percentile": 97.0}),
    (STRIPPED, {"mask": "file", "margin": 1}),
    (dict.fromkeys(CONTRASTS, "head"), {}),
    (STRIPPED, {"mask": "otsu"}),
    ({"T1w": "head", "T2w": "stripped", "FLAIR": "head"}, {"margin": 3}),
    ({"T1w": "stripped", "T2w": "negative", "FLAIR": "negative"}, {"normalizer": "zscore"}),
]


@pytest.mark.parametrize(("kinds", "settings"), WAYS, ids=[f"{next(iter(k.values()))} {v}" for k, v in WAYS])
def test_a_stored_case_is_the_case_prepared_from_its_files(kinds: dict[str, str], settings: dict[str, Any], tmp_path: Path) -> None:
    """For every set of given contrasts, whatever stands beside them as truth."""
    config = PrepareConfig(**settings)
    cohort = cohort_of(tmp_path / "data", kinds, mask=config.mask == "file")
    reader = Reader(build(cohort, SPLIT, CONTRASTS, config, cache=tmp_path / "cache"), config, ("T1w", "T2w"), ("FLAIR",))
    for count in (1, 2, 3):
        for given in itertools.permutations(CONTRASTS, count):
            for truth in {(), tuple(name for name in CONTRASTS if name not in given)}:
                expected = from_files(cohort.case("b"), config, given, truth, landmarks=reader.landmarks)
                assert_same(reader.prepared("b", given, truth), expected)
    assert_same(reader.prepared("b"), from_files(cohort.case("b"), config, ("T1w", "T2w"), (), landmarks=reader.landmarks))


def test_float_images_are_within_the_rounding_of_float16(tmp_path: Path) -> None:
    config = PrepareConfig()
    cohort = cohort_of(tmp_path / "data", dict.fromkeys(CONTRASTS, "float"))
    reader = Reader(build(cohort, SPLIT, CONTRASTS, config, cache=tmp_path / "cache"), config, ("T1w", "T2w"), ("FLAIR",))
    expected, found = from_files(cohort.case("a"), config, ("T1w",), ("FLAIR",)), reader.prepared("a", ("T1w",), ("FLAIR",))
    np.testing.assert_array_equal(found.mask, expected.mask)
    for name, image in expected.images.items():
        # value and top of the range are rounded to 11 bits each, and the range is 2 long
        error = np.abs(found.images[name] - image)
        assert 0 < error.max() <= 2 * 2 * 2**-11
        assert (found.images[name][~found.mask] == -1).all()


@pytest.mark.parametrize("mode", ["auto", "file", "otsu"])
def test_the_truth_has_no_say_in_what_is_given(mode: str, tmp_path: Path) -> None:
    config = PrepareConfig(mask=mode)
    first = cohort_of(tmp_path / "one", STRIPPED, mask=mode == "file")
    write_case(tmp_path / "two" / "b", {"FLAIR": brain_of(77, "stripped") + 5}, LPS, suffix=".nii")
    changed = {name: path for name, path in first.case("b").images.items() if name != "FLAIR"}
    images = {**changed, "FLAIR": tmp_path / "two" / "b" / "FLAIR.nii"}
    case = Case("b", "b", images, first.case("b").mask, first.case("b").segmentation)
    second = Cohort(tmp_path, "folder", (first.case("a"), case, first.case("c")))
    one, two = (
        Reader(build(c, SPLIT, CONTRASTS, config, cache=tmp_path / "cache"), config, ("T1w", "T2w"), ("FLAIR",)).prepared(
            "b", ("T2w",), ("FLAIR",)
        )
        for c in (first, second)
    )
    assert not np.array_equal(one.images["FLAIR"], two.images["FLAIR"])
    np.testing.assert_array_equal(one.mask, two.mask)
    np.testing.assert_array_equal(one.images["T2w"], two.images["T2w"])
    assert one.normalizers["T2w"] == two.normalizers["T2w"] and one.history[:3] == two.history[:3]


def test_windows_are_parts_of_the_whole_and_background_beyond_it(tmp_path: Path) -> None:
    config = PrepareConfig(normalizer="zscore")
    cohort = cohort_of(tmp_path / "data", STRIPPED)
    reader = Reader(build(cohort, SPLIT, CONTRASTS, config, cache=tmp_path / "cache"), config, ("T1w", "T2w"), ("FLAIR",))
    shape = reader.shape("a")
    image, mask, labels = reader.image("a", "T1w"), reader.mask("a"), reader.segmentation("a")
    assert labels is not None and image.shape == mask.shape == labels.shape == shape
    assert (image[~mask] == np.float32(reader.background("a", "T1w"))).all()
    padded = np.pad(image, 80, constant_values=np.float32(reader.background("a", "T1w")))
    rng = np.random.default_rng(0)
    for _ in range(200):
        start, size = rng.integers(-30, 30, 3), rng.integers(1, 40, 3)
        place = tuple(slice(at + 80, at + 80 + part) for at, part in zip(start.tolist(), size.tolist(), strict=True))
        np.testing.assert_array_equal(reader.image("a", "T1w", start.tolist(), size.tolist()), padded[place])
        np.testing.assert_array_equal(reader.mask("a", start.tolist(), size.tolist()), np.pad(mask, 80)[place])
        np.testing.assert_array_equal(reader.segmentation("a", start.tolist(), size.tolist()), np.pad(labels, 80)[place])
    for plane, axis in PLANES.items():
        others = tuple(other for other in range(3) if other != axis)
        assert reader.brain_slices("a", plane).tolist() == mask.sum(axis=others).tolist()


def test_a_contrast_that_is_source_and_target_has_the_target_s_normaliser(tmp_path: Path) -> None:
    config = PrepareConfig(normalizer="percentile", source_normalizer="zscore")
    store = build(cohort_of(tmp_path / "data", STRIPPED), SPLIT, CONTRASTS, config, cache=tmp_path / "cache")
    reader = Reader(store, config, ("T1w", "T2w", "FLAIR"), ("FLAIR", "T2w"))
    kinds = {name: reader.params("a", name)["name"] for name in CONTRASTS}
    assert kinds == {"T1w": "zscore", "T2w": "percentile", "FLAIR": "percentile"}
    assert reader.contrasts("a") == ("T1w", "T2w", "FLAIR")
    prepared = reader.prepared("a", truth=("FLAIR",))
    assert list(prepared.images) == ["T1w", "T2w", "FLAIR"] and prepared.given == ("T1w", "T2w")
    assert reader.top("a", "T1w") == normalize.top(reader.params("a", "T1w")) and reader.top("a", "FLAIR") == 1.0


def test_the_brain_in_training_is_that_of_all_images_of_the_run(tmp_path: Path) -> None:
    """Whichever is target; and an image that the run does not name has no say."""
    cohort = cohort_of(tmp_path / "data", STRIPPED)
    config = PrepareConfig()
    store = build(cohort, SPLIT, CONTRASTS, config, cache=tmp_path / "cache")
    one = Reader(store, config, ("T1w",), ("FLAIR",))
    two = Reader(store, config, ("FLAIR",), ("T1w",))
    expected = from_files(cohort.case("a"), config, ("T1w", "FLAIR"), ())
    np.testing.assert_array_equal(one.mask("a"), expected.mask)
    np.testing.assert_array_equal(two.mask("a"), expected.mask)
    assert Reader(store, config, ("T1w", "T2w"), ("FLAIR",)).mask("a").sum() > expected.mask.sum()


def test_landmarks_are_learnt_on_the_training_cases_that_have_the_contrast(tmp_path: Path) -> None:
    config = PrepareConfig(normalizer="nyul")
    cohort = cohort_of(tmp_path / "data", STRIPPED)
    cases = (Case("a", "a", {"T1w": cohort.case("a").images["T1w"]}), *cohort.cases[1:])
    store = build(Cohort(tmp_path, "folder", cases), SPLIT, CONTRASTS, config, cache=tmp_path / "cache")
    reader = Reader(store, config, ("T1w",), ("FLAIR",))
    values = reader.store.brain("b", ("T1w", "FLAIR")).values(store.image("b", "FLAIR"))
    assert reader.landmarks["FLAIR"] == normalize.learn_landmarks([values])
    given = {name: {"standard": np.linspace(-1, 1, 12).tolist()} for name in ("T1w", "FLAIR")}
    told = Reader(store, config, ("T1w",), ("FLAIR",), given)
    assert told.landmarks == given and told.params("b", "T1w")["standard"] == given["T1w"]["standard"]
    none = build(Cohort(tmp_path, "folder", cases), Split(("a",), ("b",), (), ""), CONTRASTS, config, cache=tmp_path / "cache")
    with pytest.raises(DataError, match="no training case has FLAIR"):
        _ = Reader(none, config, ("T1w",), ("FLAIR",)).landmarks


def test_files_on_other_grids_are_refused_by_name(tmp_path: Path) -> None:
    cohort = cohort_of(tmp_path / "data", STRIPPED)
    write_case(tmp_path / "data" / "b", {"T2w": brain_of(3, "stripped")}, np.diag([-1.0, -1.0, 3.0, 1.0]), suffix=".nii")
    with pytest.raises(DataError, match=r"the grids of T2w of case b and T1w of case b differ"):
        build(cohort, SPLIT, CONTRASTS, PrepareConfig(), cache=tmp_path / "cache")
