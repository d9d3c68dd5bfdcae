"""The store: what is taken from the cache and what is stored anew, export, open files, checks and messages."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from helpers import blob_brain, write_case
from synthmr.case import Case, Cohort, Volume
from synthmr.config import PrepareConfig
from synthmr.data import store as module
from synthmr.data.parts import encode, open_image
from synthmr.data.reader import Reader
from synthmr.data.shelf import MOST_FILES, Shelf
from synthmr.data.split import Split
from synthmr.data.store import Store, build, default_cache
from synthmr.errors import DataError, UsageError

SHAPE = (10, 12, 8)
SOURCES, TARGETS = ("T1w", "T2w"), ("FLAIR",)
CONTRASTS = (*SOURCES, *TARGETS)
SPLIT = Split(("a", "b"), ("c",), (), "seed 0")


def write(folder: Path, name: str, seed: int) -> Case:
    arrays = {contrast: np.rint(blob_brain(SHAPE, seed * 10 + k)) for k, contrast in enumerate((*CONTRASTS, "PDw"))}
    return Case(name, name, write_case(folder / name, arrays, suffix=".nii"))


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return Cohort(tmp_path, "folder", tuple(write(tmp_path / "data", name, seed) for seed, name in enumerate("abcd")))


class Counter:
    """Tells which images were stored, as case/contrast."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        real = module.write_image

        def counted(folder: Path, volume: Volume) -> None:
            assert volume.path is not None
            self.names.append(f"{volume.path.parent.name}/{volume.path.name.removesuffix('.nii')}")
            real(folder, volume)

        monkeypatch.setattr(module, "write_image", counted)

    def take(self) -> list[str]:
        names, self.names = sorted(self.names), []
        return names


def of(*cases: str) -> list[str]:
    return sorted(f"{case}/{contrast}" for case in cases for contrast in CONTRASTS)


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> Counter:
    return Counter(monkeypatch)


def make(cohort: Cohort, split: Split = SPLIT, config: PrepareConfig | None = None, **more: Any) -> Store:
    contrasts = more.pop("contrasts", CONTRASTS)
    return build(cohort, split, contrasts, config or PrepareConfig(), cache=more.pop("cache", cohort.root / "cache"), **more)


def read(store: Store, config: PrepareConfig | None = None) -> Reader:
    return Reader(store, config or PrepareConfig(), SOURCES, TARGETS)


def files_in(folder: Path) -> dict[str, int]:
    """Path -> inode, of every file of a folder."""
    return {str(path.relative_to(folder)): path.stat().st_ino for path in folder.rglob("*") if path.is_file()}


def replace_case(cohort: Cohort, name: str, **changes: Any) -> Cohort:
    cases = tuple(dataclasses.replace(case, **changes) if case.name == name else case for case in cohort.cases)
    return dataclasses.replace(cohort, cases=cases)


# --- what is stored, and when


def test_second_build_stores_nothing(cohort: Cohort, stored: Counter) -> None:
    told: list[tuple[int, int, str]] = []
    first = make(cohort, progress=lambda done, total, case: told.append((done, total, case)))
    assert stored.take() == of("a", "b", "c")
    assert told == [(1, 3, "a"), (2, 3, "b"), (3, 3, "c")]
    assert first.names == ("a", "b", "c")
    before = files_in(cohort.root / "cache")
    again = make(cohort)
    assert stored.take() == [] and files_in(cohort.root / "cache") == before
    assert again.fingerprint == first.fingerprint and again.cases == first.cases
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
    assert make(moved).fingerprint == first.fingerprint and stored.take() == []


def test_changed_bytes_store_that_image_alone(cohort: Cohort, stored: Counter) -> None:
    first = make(cohort)
    old = read(first).image("b", "T2w")
    stored.take()
    write_case(cohort.root / "data" / "b", {"T2w": blob_brain(SHAPE, 99)}, suffix=".nii")
    second = make(cohort)
    assert stored.take() == ["b/T2w"]
    assert second.fingerprint != first.fingerprint
    assert not np.array_equal(read(second).image("b", "T2w"), old)
    assert second.cases["a"] == first.cases["a"]


def test_adding_a_case_stores_one(cohort: Cohort, stored: Counter) -> None:
    first = make(cohort)
    stored.take()
    second = make(cohort, Split(("a", "b", "d"), ("c",), (), "seed 0"))
    assert stored.take() == of("d")
    assert set(second.names) == {"a", "b", "c", "d"} and second.fingerprint != first.fingerprint


def test_adding_a_contrast_stores_that_contrast(cohort: Cohort, stored: Counter) -> None:
    make(cohort)
    stored.take()
    other = make(cohort, contrasts=("T2w", "PDw"))
    assert stored.take() == ["a/PDw", "b/PDw", "c/PDw"]
    assert other.has("a") == ("T2w", "PDw")


def test_other_roles_planes_normalisers_and_margins_add_no_image(cohort: Cohort, stored: Counter) -> None:
    """A contrast may be a source today and a target tomorrow: the store is the same one, to the file."""
    config = PrepareConfig(normalizer="percentile", source_normalizer="zscore", margin=0)
    first = make(cohort, config=config)
    assert stored.take() == of("a", "b", "c")
    before = files_in(cohort.root / "cache")
    other = make(cohort, config=dataclasses.replace(config, margin=7), contrasts=("FLAIR", "T2w", "T1w"))
    assert stored.take() == [] and files_in(cohort.root / "cache") == before
    assert other.fingerprint == first.fingerprint
    one = Reader(first, config, ("T1w", "T2w"), ("FLAIR",))
    two = Reader(other, dataclasses.replace(config, margin=7), ("FLAIR", "T2w"), ("T1w",))
    assert one.params("a", "T1w")["name"] == "zscore" and two.params("a", "T1w")["name"] == "percentile"
    assert one.params("a", "FLAIR")["name"] == "percentile" and two.params("a", "FLAIR")["name"] == "zscore"
    assert one.mask("a").sum() == two.mask("a").sum() and one.shape("a") != two.shape("a")
    # another normaliser is learnt from what is stored
    make(cohort, config=PrepareConfig(normalizer="minmax"))
    assert stored.take() == []


def test_an_image_that_nobody_asked_for_stops_no_run(cohort: Cohort) -> None:
    (cohort.root / "data" / "a" / "PDw.nii").write_bytes(b"no image")
    shifted = np.eye(4)
    shifted[0, 3] = 30
    write_case(cohort.root / "data" / "b", {"PDw": blob_brain(SHAPE, 5)}, shifted, suffix=".nii")
    assert make(cohort).names == ("a", "b", "c")
    with pytest.raises(DataError, match="PDw of case b"):
        make(cohort, Split(("b",), ("c",), (), ""), contrasts=("T1w", "PDw"))
    with pytest.raises(DataError, match=r"PDw of case a: .*PDw.nii"):
        make(cohort, contrasts=("T1w", "PDw"))


def test_a_case_holds_those_contrasts_that_it_has(cohort: Cohort) -> None:
    images = dict(cohort.case("b").images)
    del images["FLAIR"]
    store = make(replace_case(cohort, "b", images=images))
    assert store.has("a") == CONTRASTS and store.has("b") == SOURCES
    reader = read(store)
    assert reader.contrasts("b") == SOURCES and not reader.has("b", "FLAIR")
    with pytest.raises(DataError, match="case b has no FLAIR in the store; it has T1w, T2w"):
        reader.image("b", "FLAIR")
    with pytest.raises(DataError, match="case a has no T1rho; it has T1w"):
        make(cohort, contrasts=("T1rho",))


@pytest.mark.parametrize("kind", ["mask", "segmentation"])
def test_a_new_or_changed_mask_or_segmentation_is_stored_beside_the_images(cohort: Cohort, stored: Counter, kind: str) -> None:
    first = make(cohort)
    stored.take()
    given = np.zeros(SHAPE, np.int16)
    given[2:8, 2:9, 2:6] = 1
    path = write_case(cohort.root / "extra", {kind: given}, suffix=".nii")[kind]
    with_file = replace_case(cohort, "a", **{kind: path})

    def found(store: Store) -> int:
        reader = read(store)
        labels = reader.mask("a") if kind == "mask" else reader.segmentation("a")
        assert labels is not None
        return int(labels.sum())

    second = make(with_file)
    assert stored.take() == [] and second.fingerprint != first.fingerprint
    assert found(second) == given.sum()
    given[2] = 0
    write_case(cohort.root / "extra", {kind: given}, suffix=".nii")
    third = make(with_file)
    assert third.fingerprint != second.fingerprint and found(third) == given.sum()


@pytest.mark.parametrize("highest", [3, 255, 2035, 40000])
def test_labels_of_any_size_are_kept(cohort: Cohort, highest: int) -> None:
    labels = np.zeros(SHAPE, np.int32)
    labels[3:6, 3:6, 3:6] = highest
    labels[6, 6, 4] = 1
    path = cohort.root / "labels.nii"
    nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), path)
    found = read(make(replace_case(cohort, "a", segmentation=path))).segmentation("a")
    assert found is not None and np.unique(found).tolist() == [0, 1, highest]
    assert (found == highest).sum() == 27
    assert found.dtype == np.min_scalar_type(highest)


def test_labels_outside_the_box_are_cut_off(cohort: Cohort) -> None:
    """As when a case is prepared from its files."""
    labels = np.ones(SHAPE, np.int16)
    path = write_case(cohort.root, {"labels": labels}, suffix=".nii")["labels"]
    config = PrepareConfig(margin=0)
    reader = read(make(replace_case(cohort, "a", segmentation=path), config=config), config)
    shape = reader.shape("a")
    assert shape != SHAPE
    found = reader.segmentation("a", (-2, -2, -2), [edge + 4 for edge in shape])
    assert found is not None and found.sum() == np.prod(shape) and found[2:-2, 2:-2, 2:-2].all()


DAMAGES = ["missing", "empty", "short", "shape", "no json", "bad json", "garbage", "foreground", "version"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_image_is_found_and_stored_again(cohort: Cohort, stored: Counter, damage: str) -> None:
    first = make(cohort)
    folder = first.parts("b").images["T1w"]
    whole = read(first).image("b", "T1w")
    stored.take()
    file = folder / "voxels.npy"
    if damage == "missing":
        file.unlink()
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "short":
        file.write_bytes(file.read_bytes()[:-50])
    elif damage == "shape":
        np.save(file, np.zeros((2, 3, 4), np.float16))
    elif damage == "no json":
        (folder / "about.json").unlink()
    elif damage == "bad json":
        (folder / "about.json").write_text('{"shape": [1')
    elif damage == "version":
        (folder / "about.json").write_text(json.dumps({**json.loads((folder / "about.json").read_text()), "version": 0}))
    elif damage == "foreground":
        (folder / "foreground.npz").write_bytes((folder / "foreground.npz").read_bytes()[:-9])
    else:
        file.write_bytes(b"\x00" * 500)
    fresh = dataclasses.replace(first)  # what was opened is forgotten
    if damage != "foreground":
        with pytest.raises(DataError, match=r"the stored case b in .* is damaged \(.*\); prepare it again"):
            fresh.image("b", "T1w")
    second = make(cohort)
    assert stored.take() == ["b/T1w"]
    assert second.fingerprint == first.fingerprint
    assert np.array_equal(read(second).image("b", "T1w"), whole)
    assert make(cohort) is not None and stored.take() == []
    assert not [path for path in (cohort.root / "cache" / "images").iterdir() if path.name.startswith(".")]


def test_a_damaged_brain_is_made_again(cohort: Cohort) -> None:
    first = make(cohort)
    expected = read(first).mask("a")
    for path in (cohort.root / "cache" / "brains").rglob("brain.npz"):
        path.write_bytes(b"PK\x03\x04 nothing")
    for path in (cohort.root / "cache" / "brains").rglob("facts.json"):
        path.write_text("{")
    assert np.array_equal(read(make(cohort)).mask("a"), expected)


def test_two_cases_with_the_same_files_share_what_is_stored(cohort: Cohort, stored: Counter) -> None:
    twin = dataclasses.replace(cohort.case("a"), name="twin", subject="twin")
    both = dataclasses.replace(cohort, cases=(*cohort.cases, twin))
    store = make(both, Split(("a", "twin"), ("b",), (), "x"))
    assert store.parts("a").images == store.parts("twin").images
    assert np.array_equal(read(store).mask("twin"), read(store).mask("a"))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0, 1, 32767], np.int16),
        ([-32768, -1, 32767], np.int16),
        ([0, 5, 65535], np.uint16),
        ([-1, 5, 40000], np.float16),
        ([0, 0.5, 7], np.float16),
        ([0, 70000, 3], np.float16),
        ([-1e6, 3e5, 17.25], np.float16),
    ],
)
def test_whole_numbers_are_exact_and_others_are_rounded_to_11_bits(values: list[float], kind: type) -> None:
    array = np.asarray(values, np.float32)
    stored, scale = encode(array)
    assert stored.dtype == kind
    back = stored.astype(np.float32) * np.float32(scale or 1.0)
    if kind is not np.float16:
        assert scale == 0.0 and np.array_equal(back, array)
    else:
        assert np.abs(back - array).max() <= 2**-11 * np.abs(array).max()
        assert (np.abs(back - array) <= np.maximum(2**-11 * np.abs(array), 2**-25 * scale)).all()


# --- a store of its own


def same(first: Store, second: Store, config: PrepareConfig) -> None:
    for name in ("names", "contrasts", "mask", "split", "fingerprint"):
        assert getattr(first, name) == getattr(second, name), name
    one, two = read(first, config), read(second, config)
    assert json.dumps(one.landmarks) == json.dumps(two.landmarks)
    for name in first.names:
        assert first.subject(name) == second.subject(name) and one.contrasts(name) == two.contrasts(name)
        assert np.array_equal(one.mask(name), two.mask(name))
        for contrast in one.contrasts(name):
            assert np.array_equal(one.image(name, contrast), two.image(name, contrast))
            assert one.params(name, contrast) == two.params(name, contrast)
        assert one.prepared(name).history == two.prepared(name).history


@pytest.mark.parametrize("normalizer", ["percentile", "nyul"])
def test_a_store_of_its_own_is_the_cached_one(cohort: Cohort, normalizer: str, tmp_path: Path) -> None:
    config = PrepareConfig(normalizer=normalizer, margin=1)
    split = Split(("a", "b"), ("c",), (), "seed 4", ("d: has no FLAIR",))
    given = np.zeros(SHAPE, np.int16)
    given[2:8, 2:9, 2:6] = 3
    path = write_case(cohort.root / "extra", {"labels": given}, suffix=".nii")["labels"]
    cohort = replace_case(replace_case(cohort, "b", subject="a"), "a", segmentation=path, mask=path)
    out = tmp_path / "out"
    out.mkdir()  # an empty folder may stand there
    store = make(cohort, split, config, out=out)
    assert store.parts("a").images["T1w"] == out / "cases" / "a" / "T1w"
    assert store.subject("b") == "a"
    assert not (cohort.root / "cache").exists()  # no second copy
    moved = out.rename(tmp_path / "elsewhere")
    same(Store.open(moved), make(cohort, split, config), config)
    labels = read(Store.open(moved), config).segmentation("a")
    assert labels is not None and set(np.unique(labels)) == {0, 3}


def test_what_the_cache_has_is_linked_into_a_store_of_its_own(cohort: Cohort, tmp_path: Path, stored: Counter) -> None:
    make(cohort)
    stored.take()
    before = files_in(cohort.root / "cache")
    out = tmp_path / "out"
    make(cohort, Split(("a", "d"), ("c",), (), ""), out=out)
    assert stored.take() == of("d") and files_in(cohort.root / "cache") == before
    mine = set(before.values())
    voxels = {path: inode for path, inode in files_in(out).items() if path.endswith(("voxels.npy", "foreground.npz"))}
    assert len(voxels) == 18
    assert {path.split("/")[1] for path, inode in voxels.items() if inode in mine} == {"a", "c"}
    assert {path.split("/")[1] for path, inode in voxels.items() if inode not in mine} == {"d"}
    shutil.rmtree(cohort.root / "cache")  # it stands alone
    assert read(Store.open(out)).prepared("a").mask.any()


def test_a_store_of_its_own_refuses_a_folder_in_use(cohort: Cohort, stored: Counter, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="exists and is not empty"):
        make(cohort, out=out)
    assert stored.take() == []  # known before the work
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 2}', None])
def test_open_says_what_is_wrong(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "store.json").write_text(text)
    words = "is a store of version 2, this synthmr reads 3" if text and "version" in text else "is not a readable store"
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
from synthmr.config import PrepareConfig
from synthmr.data.reader import Reader
from synthmr.data.store import Store
reader = Reader(Store.open(Path(sys.argv[1])), PrepareConfig(), ("T1w", "T2w"), ("FLAIR",))
print(float(reader.image("a", "T1w").max()), int(reader.mask("c").sum()), reader.background("b", "FLAIR"))
"""
    environment = {**os.environ, "SYNTHMR_CACHE": str(tmp_path / "none")}
    command = [sys.executable, "-W", "error", "-c", code, str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    reader = read(Store.open(out))
    expected = [float(reader.image("a", "T1w").max()), int(reader.mask("c").sum()), -1.0]
    assert [float(word) for word in done.stdout.split()] == expected


# --- open files


def test_open_files_stay_below_a_limit_at_ten_thousand_cases(cohort: Cohort) -> None:
    store = make(cohort)
    many = dataclasses.replace(store, cases={f"{k:05d}": store.parts("abc"[k % 3]) for k in range(10_000)})
    here = Path("/proc/self/fd")
    if not here.is_dir():
        pytest.skip("needs /proc to count open files")
    before = len(list(here.iterdir()))
    reader = read(many)
    for name in many.names[:250]:
        for contrast in CONTRASTS:
            assert reader.image(name, contrast, (2, 2, 2), (2, 2, 1)).shape == (2, 2, 1)
    assert len(list(here.iterdir())) - before <= MOST_FILES
    assert len(many._files) == MOST_FILES


def test_a_shelf_keeps_what_was_used_last() -> None:
    shelf, made = Shelf(3), []

    def get(key: int, weight: int = 1) -> int:
        return int(shelf.get(key, lambda: made.append(key) or key, lambda thing: weight))

    for key in (1, 2, 3, 1, 4, 1, 2):
        assert get(key) == key
    assert made == [1, 2, 3, 4, 2] and len(shelf) == 3
    assert get(9, 100) == 9 and len(shelf) == 1  # too heavy for the shelf: it stands alone
    assert get(1) == 1 and len(shelf) == 1


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))
from synthmr.cli import main
sys.argv = ["synthmr", *sys.argv[1:]]
main()
"""


@pytest.mark.slow
def test_a_thousand_cases_train_with_three_hundred_open_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = tmp_path / "data"
    for k in range(1000):
        brain = np.zeros((6, 6, 6))
        brain[1:-1, 1:-1, 1:-1] = rng.integers(50, 200, (4, 4, 4))
        images = {"T1w": brain.astype(np.int16), "FLAIR": np.where(brain, 300 - brain, 0).astype(np.int16)}
        write_case(data / f"{k:04d}", images, suffix=".nii")
    parts = ["train"] * 990 + ["validation"] * 10
    (data / "splits.tsv").write_text("case\tsplit\n" + "".join(f"{k:04d}\t{part}\n" for k, part in enumerate(parts)))
    words = ["-q", "train", "linear", str(data), "--sources", "T1w", "--target", "FLAIR", "--out", str(tmp_path / "run")]
    command = [sys.executable, "-c", LIMITED, *words, "--cache", str(tmp_path / "cache"), "--set", "train.brightness=false"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["status"] == "finished" and len(info["training_cases"]) == 990


STARVED = """
import resource, sys
from pathlib import Path
from synthmr.data.store import Store
from synthmr.errors import DataError
store = Store.open(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
held = []
try:
    while True:
        held.append(open(sys.argv[1] + "/store.json"))
except OSError:
    pass
try:
    store.image("a", "T1w")
except DataError as error:
    print(error)
"""


def test_running_out_of_open_files_is_told_as_such(cohort: Cohort, tmp_path: Path) -> None:
    make(cohort, out=tmp_path / "out")
    done = subprocess.run([sys.executable, "-c", STARVED, str(tmp_path / "out")], capture_output=True, text=True, check=False)
    assert "ran out of open files while it read the stored case a" in done.stdout and "ulimit -n" in done.stdout, done.stderr
    assert "damaged" not in done.stdout and done.stdout.count("\n") == 1


# --- checks and messages


def test_an_unknown_case_is_named(cohort: Cohort) -> None:
    store = make(cohort)
    with pytest.raises(DataError, match="no case 'z'; it has a, b, c"):
        store.parts("z")
    assert store.image("a", "T1w") is store.image("a", "T1w")
    assert isinstance(open_image(store.parts("a").images["T1w"]).voxels, np.memmap)


def test_check(cohort: Cohort) -> None:
    store = make(cohort)
    store.check(CONTRASTS, PrepareConfig())
    store.check(("T2w", "FLAIR"), PrepareConfig(margin=5, normalizer="zscore", source_normalizer="nyul", percentile=95))
    with pytest.raises(UsageError, match="the store holds T1w, T2w, FLAIR, not PDw; prepare another"):
        store.check(("T1w", "PDw"), PrepareConfig())
    with pytest.raises(UsageError, match=r"prepare.mask='auto', the run asks for 'nonzero'"):
        store.check(SOURCES, PrepareConfig(mask="nonzero"))
    with pytest.raises(UsageError, match="margin=-1"):
        Reader(store, PrepareConfig(margin=-1), SOURCES, TARGETS)


def test_build_errors(cohort: Cohort, stored: Counter) -> None:
    for wrong in (PrepareConfig(margin=-1), PrepareConfig(percentile=0), PrepareConfig(mask="no"), PrepareConfig(normalizer="max")):
        with pytest.raises(UsageError, match=r"margin=-1|percentile=0|mask='no'|'max'"):
            make(cohort, config=wrong)
    assert stored.take() == []
    with pytest.raises(DataError, match="no case 'z'"):
        make(cohort, Split(("z",), ("a",), (), "x"))
    with pytest.raises(DataError, match=r"case a has no mask file, and prepare\.mask=file needs one"):
        make(cohort, config=PrepareConfig(mask="file"))
    empty = write_case(cohort.root, {"empty": np.zeros(SHAPE, np.int16)}, suffix=".nii")["empty"]
    with pytest.raises(DataError, match=r"case a: the brain mask \(prepare.mask=file\) is empty"):
        make(replace_case(cohort, "a", mask=empty))
    flat = {"T2w": (blob_brain(SHAPE, 1) > 0).astype(np.float32)}
    write_case(cohort.root / "data" / "b", flat, suffix=".nii")
    for config in (PrepareConfig(normalizer="nyul"), PrepareConfig()):
        with pytest.raises(DataError, match="T2w of case b: the image is constant inside the brain"):
            make(cohort, config=config)


def test_default_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SYNTHMR_CACHE", str(tmp_path / "here"))
    assert default_cache() == tmp_path / "here"
    monkeypatch.delenv("SYNTHMR_CACHE")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert default_cache() == tmp_path / ".cache" / "synthmr"
