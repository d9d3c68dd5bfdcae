"""The store: what is taken from the cache and what is prepared again, export, checks and messages."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import blob_brain, write_case
from synthmr.case import Case, Cohort, slice_major
from synthmr.config import PrepareConfig
from synthmr.data import store as module
from synthmr.data.split import Split
from synthmr.data.store import Store, build, default_cache, export, open_case
from synthmr.errors import DataError, UsageError
from synthmr.prepare import normalize
from synthmr.prepare.case import prepare_case

SHAPE = (10, 12, 8)
SOURCES, TARGETS = ("T1w", "T2w"), ("FLAIR",)
CONTRASTS = (*SOURCES, *TARGETS)
SPLIT = Split(("a", "b"), ("c",), (), "seed 0")


def write(folder: Path, name: str, seed: int, gamma: float = 1.0) -> Case:
    arrays = {contrast: blob_brain(SHAPE, seed * 10 + k) for k, contrast in enumerate(CONTRASTS)}
    arrays = {contrast: (200 * (array / 200) ** gamma).astype(np.float32) for contrast, array in arrays.items()}
    paths = write_case(folder / name, arrays, suffix=".nii")
    return Case(name, name, paths)


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return Cohort(tmp_path, "folder", tuple(write(tmp_path / "data", name, seed) for seed, name in enumerate("abcd")))


class Counter:
    """Counts what is prepared."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []

        def counted(case: Case, *args: Any) -> Any:
            self.names.append(case.name)
            return prepare_case(case, *args)

        monkeypatch.setattr(module, "prepare_case", counted)

    def take(self) -> list[str]:
        names, self.names = sorted(self.names), []
        return names


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> Counter:
    return Counter(monkeypatch)


def make(cohort: Cohort, split: Split = SPLIT, config: PrepareConfig | None = None, **more: Any) -> Store:
    return build(cohort, split, SOURCES, TARGETS, config or PrepareConfig(), cache=cohort.root / "cache", **more)


def replace_case(cohort: Cohort, name: str, **changes: Any) -> Cohort:
    cases = tuple(dataclasses.replace(case, **changes) if case.name == name else case for case in cohort.cases)
    return dataclasses.replace(cohort, cases=cases)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_a_stored_case_is_the_prepared_case(cohort: Cohort, plane: str) -> None:
    config = PrepareConfig(plane=plane, normalizer="zscore", source_normalizer="percentile", margin=1)
    stored = make(cohort, config=config)["b"]
    case = prepare_case(cohort.case("b"), CONTRASTS, config, TARGETS)
    for name in CONTRASTS:
        assert isinstance(stored.images[name], np.memmap) and stored.images[name].dtype == np.float16
        assert np.array_equal(stored.images[name], slice_major(case.images[name], plane).astype(np.float16))
    mask = slice_major(case.mask, plane)
    assert np.array_equal(stored.mask, mask) and stored.mask.dtype == np.uint8
    assert stored.brain.tolist() == [int(part.sum()) for part in mask]
    assert dict(stored.normalizers) == dict(case.normalizers)
    assert list(stored.history) == list(case.history)
    assert stored.segmentation is None
    for name in CONTRASTS:  # to the bit, also where float16 rounds it
        assert (stored.images[name][stored.mask == 0] == stored.background(name)).all()
        assert stored.background(name) == pytest.approx(normalize.background(case.normalizers[name]), rel=1e-3)
        assert stored.top(name) == normalize.top(case.normalizers[name])


def test_second_build_prepares_nothing(cohort: Cohort, prepared: Counter) -> None:
    told: list[tuple[int, int, str]] = []
    first = make(cohort, progress=lambda done, total, case: told.append((done, total, case)))
    assert prepared.take() == ["a", "b", "c"]
    assert told == [(1, 3, "a"), (2, 3, "b"), (3, 3, "c")]
    assert first.names == ("a", "b", "c")
    again = make(cohort)
    assert prepared.take() == []
    assert again.fingerprint == first.fingerprint and again.folders == first.folders
    # a copy of the data elsewhere has the same bytes, so it is the same
    shutil.copytree(cohort.root / "data", cohort.root / "copy")
    moved = dataclasses.replace(
        cohort,
        cases=tuple(
            dataclasses.replace(
                case, images={name: cohort.root / "copy" / case.name / path.name for name, path in case.images.items()}
            )
            for case in cohort.cases
        ),
    )
    assert make(moved).fingerprint == first.fingerprint and prepared.take() == []


def test_changed_bytes_prepare_that_case_alone(cohort: Cohort, prepared: Counter) -> None:
    first = make(cohort)
    old = np.array(first["b"].images["T2w"])
    prepared.take()
    write_case(cohort.root / "data" / "b", {"T2w": blob_brain(SHAPE, 99)}, suffix=".nii")
    second = make(cohort)
    assert prepared.take() == ["b"]
    assert second.fingerprint != first.fingerprint
    assert not np.array_equal(second["b"].images["T2w"], old)
    assert second.folders["a"] == first.folders["a"]


def test_adding_a_case_prepares_one(cohort: Cohort, prepared: Counter) -> None:
    first = make(cohort)
    prepared.take()
    second = make(cohort, Split(("a", "b", "d"), ("c",), (), "seed 0"))
    assert prepared.take() == ["d"]
    assert set(second.names) == {"a", "b", "c", "d"} and second.fingerprint != first.fingerprint


@pytest.mark.parametrize(
    "change", [{"plane": "coronal"}, {"margin": 0}, {"normalizer": "minmax"}, {"source_normalizer": "mean"}, {"percentile": 95.0}]
)
def test_a_changed_setting_prepares_all(cohort: Cohort, prepared: Counter, change: dict[str, Any]) -> None:
    first = make(cohort)
    prepared.take()
    second = make(cohort, config=dataclasses.replace(PrepareConfig(), **change))
    assert prepared.take() == ["a", "b", "c"] and second.fingerprint != first.fingerprint
    make(cohort)
    assert prepared.take() == []  # the first ones are still there


def test_roles_are_part_of_the_key(cohort: Cohort, prepared: Counter) -> None:
    make(cohort)
    prepared.take()
    build(cohort, SPLIT, ("T1w", "FLAIR"), ("T2w",), PrepareConfig(), cache=cohort.root / "cache")
    assert prepared.take() == ["a", "b", "c"]


@pytest.mark.parametrize("kind", ["mask", "segmentation"])
def test_a_new_or_changed_mask_or_segmentation_prepares_the_case(cohort: Cohort, prepared: Counter, kind: str) -> None:
    make(cohort)
    prepared.take()
    given = np.zeros(SHAPE, np.int16)
    given[2:8, 2:9, 2:6] = 1
    path = write_case(cohort.root / "extra", {kind: given}, suffix=".nii")[kind]
    with_file = replace_case(cohort, "a", **{kind: path})
    stored = make(with_file)["a"]
    assert prepared.take() == ["a"]
    if kind == "mask":
        assert stored.mask.sum() == given.sum()
    else:
        assert stored.segmentation is not None and stored.segmentation.sum() == given.sum()
    assert make(with_file).names == ("a", "b", "c") and prepared.take() == []
    given[2] = 0
    write_case(cohort.root / "extra", {kind: given}, suffix=".nii")
    stored = make(with_file)["a"]
    assert prepared.take() == ["a"]
    found = stored.mask if kind == "mask" else stored.segmentation
    assert found is not None and found.sum() == given.sum()


@pytest.mark.parametrize("highest", [3, 255, 2035, 40000])
def test_labels_of_any_size_are_kept(cohort: Cohort, highest: int) -> None:
    labels = np.zeros(SHAPE, np.int32)
    labels[3:6, 3:6, 3:6] = highest
    labels[6, 6, 4] = 1
    import nibabel

    path = cohort.root / "labels.nii"
    nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), path)
    stored = make(replace_case(cohort, "a", segmentation=path))["a"].segmentation
    assert stored is not None and np.unique(stored).tolist() == [0, 1, highest]
    assert (stored == highest).sum() == 27
    assert stored.dtype == np.min_scalar_type(highest)


@pytest.mark.parametrize("damage", ["missing", "empty", "short", "shape", "no json", "bad json", "garbage"])
def test_a_damaged_case_is_found_and_made_again(cohort: Cohort, prepared: Counter, damage: str) -> None:
    first = make(cohort)
    folder = first.folders["b"]
    whole = np.array(first["b"].images["T1w"])
    prepared.take()
    file = folder / "T1w.npy"
    if damage == "missing":
        file.unlink()
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "short":
        file.write_bytes(file.read_bytes()[:-50])
    elif damage == "shape":
        np.save(file, np.zeros((2, 3, 4), np.float16))
    elif damage == "no json":
        (folder / "case.json").unlink()
    elif damage == "bad json":
        (folder / "case.json").write_text('{"shape": [1')
    else:
        file.write_bytes(b"\x00" * 500)
    with pytest.raises(DataError, match=r"the stored case b in .* is damaged \(.*\); prepare it again"):
        open_case(folder, "b")
    second = make(cohort)
    assert prepared.take() == ["b"]
    assert second.fingerprint == first.fingerprint
    assert np.array_equal(second["b"].images["T1w"], whole)
    assert make(cohort)["a"] is not None and prepared.take() == []
    assert not [path for path in (cohort.root / "cache" / "cases").iterdir() if path.name.startswith(".")]


def test_two_cases_with_the_same_files_share_a_folder(cohort: Cohort) -> None:
    twin = dataclasses.replace(cohort.case("a"), name="twin", subject="twin")
    both = dataclasses.replace(cohort, cases=(*cohort.cases, twin))
    store = make(both, Split(("a", "twin"), ("b",), (), "x"))
    assert store.folders["a"] == store.folders["twin"]
    assert store["twin"].name == "twin" and np.array_equal(store["twin"].mask, store["a"].mask)


def same(first: Store, second: Store) -> None:
    for name in ("names", "sources", "targets", "config", "split", "fingerprint"):
        assert getattr(first, name) == getattr(second, name), name
    assert json.dumps(dict(first.landmarks)) == json.dumps(dict(second.landmarks))
    assert dict(first.subjects) == dict(second.subjects)
    for name in first.names:
        one, two = first[name], second[name]
        assert one.images.keys() == two.images.keys()
        assert all(np.array_equal(one.images[key], two.images[key]) for key in one.images)
        assert np.array_equal(one.mask, two.mask) and one.brain.tolist() == two.brain.tolist()
        assert one.normalizers == two.normalizers and one.history == two.history


@pytest.mark.parametrize("normalizer", ["percentile", "nyul"])
def test_export_and_open_are_equal(cohort: Cohort, normalizer: str, tmp_path: Path) -> None:
    config = PrepareConfig(normalizer=normalizer, margin=1)
    split = Split(("a", "b"), ("c",), (), "seed 4", ("d: has no FLAIR",))
    cohort = replace_case(cohort, "b", subject="a")
    out = tmp_path / "out"
    out.mkdir()  # an empty folder may stand there
    store = make(cohort, split, config, out=out)
    assert store.folders["a"] == out / "cases" / "a"
    assert store.subjects["b"] == "a"
    shutil.rmtree(cohort.root / "cache")  # it stands alone
    moved = out.rename(tmp_path / "elsewhere")
    same(Store.open(moved), make(cohort, split, config))
    assert not np.array_equal(Store.open(moved)["a"].mask, Store.open(moved)["b"].images["T1w"])


def test_export_refuses_a_folder_in_use(cohort: Cohort, prepared: Counter, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="exists and is not empty"):
        make(cohort, out=out)
    assert prepared.take() == []  # known before the work
    with pytest.raises(DataError, match="exists"):
        export(make(cohort), out)
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 0}', None])
def test_open_says_what_is_wrong(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "store.json").write_text(text)
    words = "is a store of version 0" if text and "version" in text else "is not a readable store"
    with pytest.raises(DataError, match=words):
        Store.open(tmp_path)


def test_opening_needs_no_imaging_library(cohort: Cohort, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(cohort, out=out)
    code = """
import sys
for name in ("nibabel", "scipy", "skimage", "sklearn", "torch"):
    sys.modules[name] = None
from pathlib import Path
from synthmr.data.store import Store
store = Store.open(Path(sys.argv[1]))
print(float(store["a"].images["T1w"].max()), int(store["c"].mask.sum()), store["b"].background("FLAIR"))
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code, out], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    store = Store.open(out)
    expected = [float(store["a"].images["T1w"].max()), int(store["c"].mask.sum()), -1.0]
    assert [float(word) for word in done.stdout.split()] == expected


def test_an_unknown_case_is_named(cohort: Cohort) -> None:
    store = make(cohort)
    with pytest.raises(DataError, match="no case 'z'; it has a, b, c"):
        store["z"]
    assert store["a"] is store["a"]


def test_check(cohort: Cohort) -> None:
    store = make(cohort)
    store.check(SOURCES, TARGETS, PrepareConfig())
    store.check(("T2w",), ("FLAIR",), PrepareConfig())
    with pytest.raises(UsageError, match="the store holds T1w, T2w, FLAIR, not PDw; prepare another"):
        store.check(("T1w", "PDw"), TARGETS, PrepareConfig())
    with pytest.raises(UsageError, match=r"prepare.margin=2, the run asks for 5"):
        store.check(SOURCES, TARGETS, PrepareConfig(margin=5))
    with pytest.raises(UsageError, match=r"prepare.normalizer='percentile', the run asks for 'zscore'"):
        store.check(SOURCES, TARGETS, PrepareConfig(normalizer="zscore"))


def test_check_refuses_a_contrast_normalised_for_another_role(cohort: Cohort) -> None:
    config = PrepareConfig(normalizer="percentile", source_normalizer="zscore")
    store = make(cohort, config=config)
    store.check(SOURCES, TARGETS, config)
    with pytest.raises(UsageError, match="FLAIR as a target, normalised by percentile; the run needs it by zscore"):
        store.check(("FLAIR", "T2w"), ("T1w",), config)


# --- nyul


def brain_values(cohort: Cohort, name: str, contrast: str) -> np.ndarray:
    import nibabel

    array = np.asarray(nibabel.load(cohort.case(name).image(contrast)).dataobj)
    return array[array > 0]


def learnt(cohort: Cohort, names: Sequence[str], contrast: str) -> list[float]:
    standard: list[float] = normalize.learn_landmarks([brain_values(cohort, name, contrast) for name in names])["standard"]
    return standard


def test_landmarks_come_from_the_training_cases_alone(tmp_path: Path, prepared: Counter) -> None:
    cases = tuple(write(tmp_path / "data", name, 3, gamma) for name, gamma in zip("abcd", (1.0, 1.6, 4.0, 0.3), strict=True))
    cohort = Cohort(tmp_path, "folder", cases)
    config = PrepareConfig(normalizer="nyul")
    store = make(cohort, config=config)
    assert set(store.landmarks) == set(CONTRASTS)
    for contrast in CONTRASTS:
        standard = store.landmarks[contrast]["standard"]
        assert standard == pytest.approx(learnt(cohort, "ab", contrast), abs=1e-6)
        for wrong in ("abc", "a", "b", "c"):
            assert np.abs(np.asarray(standard) - learnt(cohort, wrong, contrast)).max() > 0.02
        assert store["c"].normalizers[contrast]["standard"] == standard
    prepared.take()

    # another validation case: landmarks and training cases are what they were
    other = make(cohort, Split(("a", "b"), ("d",), (), "x"), config)
    assert prepared.take() == ["d"] and other.landmarks == store.landmarks
    # another training case: every case lies on another scale
    more = make(cohort, Split(("a", "b", "d"), ("c",), (), "x"), config)
    assert prepared.take() == ["a", "b", "c", "d"] and more.landmarks != store.landmarks
    # order does not matter
    swapped = make(cohort, Split(("b", "a"), ("c",), (), "x"), config)
    assert prepared.take() == [] and swapped.landmarks == store.landmarks


def test_landmarks_only_where_nyul_is_asked_for(cohort: Cohort) -> None:
    assert make(cohort).landmarks == {}
    config = PrepareConfig(normalizer="percentile", source_normalizer="nyul")
    assert set(make(cohort, config=config).landmarks) == set(SOURCES)


def test_damaged_landmarks_are_learnt_again(cohort: Cohort) -> None:
    config = PrepareConfig(normalizer="nyul")
    first = make(cohort, config=config)
    (path,) = (cohort.root / "cache" / "landmarks").iterdir()
    path.write_text('{"T1w"')
    assert make(cohort, config=config).landmarks == first.landmarks
    assert json.loads(path.read_text()) == first.landmarks


def test_a_constant_training_image_is_named_before_nyul(cohort: Cohort) -> None:
    flat = np.where(blob_brain(SHAPE) > 0, 7, 0).astype(np.float32)
    write_case(cohort.root / "data" / "b", {"T2w": flat}, suffix=".nii")
    for config in (PrepareConfig(normalizer="nyul"), PrepareConfig()):
        with pytest.raises(DataError, match="T2w of case b: the image is constant inside the brain"):
            make(cohort, config=config)


# --- build's own errors


def test_build_errors(cohort: Cohort, prepared: Counter) -> None:
    for wrong in (PrepareConfig(plane="axal"), PrepareConfig(margin=-1), PrepareConfig(percentile=0), PrepareConfig(mask="no")):
        with pytest.raises(UsageError, match=r"axal|margin=-1|percentile=0|mask='no'"):
            make(cohort, config=wrong)
    assert prepared.take() == []
    with pytest.raises(DataError, match="no case 'z'"):
        make(cohort, Split(("z",), ("a",), (), "x"))
    with pytest.raises(DataError, match="case a has no PDw"):
        build(cohort, SPLIT, ("PDw",), TARGETS, PrepareConfig(), cache=cohort.root / "cache")


def test_default_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SYNTHMR_CACHE", str(tmp_path / "here"))
    assert default_cache() == tmp_path / "here"
    monkeypatch.delenv("SYNTHMR_CACHE")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert default_cache() == tmp_path / ".cache" / "synthmr"
