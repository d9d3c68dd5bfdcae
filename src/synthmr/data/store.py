"""The prepared cohort on disk: memory-mapped slices, cached by content.

A case is a folder of ``.npy`` files, slice-major ``(S, H, W)``: float16 a contrast, uint8 the mask, the smallest integer
type that holds them the labels, and ``case.json`` with the normalisers' parameters and the preparation history. Its name
in the cache is the SHA-256 of the input files' bytes and of every setting that decides what comes out, so nothing stale is
ever read, and adding a case prepares one case. Opening a store needs numpy alone: it can be copied to a machine that has no
imaging library.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from synthmr.case import Case, Cohort, slice_major
from synthmr.config import PrepareConfig, config_hash, from_dict, to_dict
from synthmr.data.split import Split
from synthmr.errors import DataError, UsageError
from synthmr.io.files import atomic, sha256
from synthmr.prepare import normalize
from synthmr.prepare.case import PREPARE_VERSION, check_config, load_case, normalizer_of, oriented, prepare_case
from synthmr.prepare.mask import brain_mask

Progress = Callable[..., None]

#: raise when the layout of a stored case changes
STORE_VERSION = 2

#: files that a process has open besides a store's
OTHER_FILES = 256


def default_cache() -> Path:
    """``$SYNTHMR_CACHE``, else ``~/.cache/synthmr``."""
    named = os.environ.get("SYNTHMR_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "synthmr"


@dataclass(frozen=True, eq=False)
class StoredCase:
    """One prepared case, memory-mapped.

    Attributes:
        name: the case.
        path: its folder.
        images: contrast -> ``(S, H, W)`` float16, normalised.
        mask: ``(S, H, W)`` uint8, 1 in the brain.
        segmentation: ``(S, H, W)`` integer labels, or None.
        normalizers: contrast -> parameters.
        history: the preparation steps.
        brain: ``(S,)`` brain pixels in each slice.
    """

    name: str
    path: Path
    images: Mapping[str, np.ndarray]
    mask: np.ndarray
    segmentation: np.ndarray | None
    normalizers: Mapping[str, dict[str, Any]]
    history: tuple[dict[str, Any], ...]
    brain: np.ndarray

    def background(self, contrast: str) -> float:
        """The normalised value outside the brain, as float16 rounds it: what `images` holds there, to the bit."""
        return float(np.float16(normalize.background(self.normalizers[contrast])))

    def top(self, contrast: str) -> float:
        """The normalised value that counts as 1; see `synthmr.prepare.normalize.top`."""
        return normalize.top(self.normalizers[contrast])


@dataclass(frozen=True, eq=False)
class Store:
    """A prepared cohort.

    Attributes:
        folders: case -> folder.
        sources: contrasts that go in.
        targets: contrasts that come out.
        config: how it was prepared.
        split: the split.
        landmarks: contrast -> nyul landmarks; empty for other normalisers.
        fingerprint: content hash of the whole.
        subjects: case -> person; a case that is not named is a person of its own.
    """

    folders: Mapping[str, Path]
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    config: PrepareConfig
    split: Split
    landmarks: Mapping[str, Mapping[str, Any]]
    fingerprint: str
    subjects: Mapping[str, str] = field(default_factory=dict)
    _opened: dict[str, StoredCase] = field(default_factory=dict, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """All cases."""
        return tuple(self.folders)

    def __getitem__(self, name: str) -> StoredCase:
        """The case called ``name``, memory-mapped.

        Raises:
            DataError: it is not in the store, or its files are damaged.
        """
        if name not in self.folders:
            raise DataError(f"the store has no case {name!r}; it has {', '.join(list(self.folders)[:8])}.")
        if name not in self._opened:
            if not self._opened:
                _allow_open_files(len(self.folders) * (len(self.sources) + len(self.targets) + 2) + OTHER_FILES)
            self._opened[name] = open_case(self.folders[name], name)
        return self._opened[name]

    def subject(self, name: str) -> str:
        """The person that a case is of."""
        return self.subjects.get(name, name)

    @staticmethod
    def open(path: Path) -> Store:
        """Open a store that `build` exported.

        Raises:
            DataError: it is no store, is damaged, or is of another version.
        """
        try:
            data = json.loads((path / "store.json").read_text(encoding="utf-8"))
            if data["version"] != STORE_VERSION:
                raise DataError(
                    f"{path} is a store of version {data['version']}, this synthmr reads {STORE_VERSION}; prepare it again."
                )
            split = Split(
                **{**data["split"], **{part: tuple(data["split"][part]) for part in ("train", "validation", "test", "left_out")}}
            )
            return Store(
                folders={name: path / "cases" / folder for name, folder in data["cases"].items()},
                sources=tuple(data["sources"]),
                targets=tuple(data["targets"]),
                config=from_dict(PrepareConfig, data["config"]),
                split=split,
                landmarks=data["landmarks"],
                fingerprint=data["fingerprint"],
                subjects=data["subjects"],
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path} is not a readable store ({' '.join(str(error).split())}); make it with `synthmr prepare`."
            ) from None

    def check(self, sources: Sequence[str], targets: Sequence[str], config: PrepareConfig) -> None:
        """Check that the store serves a run.

        Raises:
            UsageError: it holds other contrasts, or was prepared in another way or for other roles.
        """
        lacking = [name for name in (*sources, *targets) if name not in (*self.sources, *self.targets)]
        if lacking:
            raise UsageError(
                f"the store holds {', '.join((*self.sources, *self.targets))}, not {', '.join(lacking)}; prepare another."
            )
        for key, value in to_dict(config).items():
            stored = to_dict(self.config)[key]
            if value != stored:
                raise UsageError(
                    f"the store was prepared with prepare.{key}={stored!r}, the run asks for {value!r}; use --set or prepare again."
                )

        for name in (*sources, *targets):
            wanted, stored = normalizer_of(name, config, targets), normalizer_of(name, self.config, self.targets)
            if wanted != stored:
                role = "target" if name in self.targets else "source"
                raise UsageError(
                    f"the store holds {name} as a {role}, normalised by {stored}; the run needs it by {wanted}: prepare another."
                )


def _allow_open_files(count: int) -> None:
    """Raise this process's soft limit of open files, as far as the system lets it: a memory map keeps its file open."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (count if hard == resource.RLIM_INFINITY else min(count, hard), hard))


def open_case(folder: Path, name: str) -> StoredCase:
    """Memory-map a stored case.

    Raises:
        DataError: a file is missing, short or not what ``case.json`` says.
    """
    try:
        data = json.loads((folder / "case.json").read_text(encoding="utf-8"))
        shape = tuple(data["shape"])
        arrays = {key: np.load(folder / f"{key}.npy", mmap_mode="r", allow_pickle=False) for key in data["arrays"]}
        wrong = [key for key, array in arrays.items() if array.shape != shape]
        if wrong or len(data["brain"]) != shape[0]:
            raise ValueError(f"{wrong[0] if wrong else 'brain'} has another shape than case.json says")
        return StoredCase(
            name=name,
            path=folder,
            images={key: array for key, array in arrays.items() if key in data["normalizers"]},
            mask=arrays["mask"],
            segmentation=arrays.get("segmentation"),
            normalizers=data["normalizers"],
            history=tuple(data["history"]),
            brain=np.asarray(data["brain"]),
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"the stored case {name} in {folder} is damaged ({' '.join(str(error).split())}); prepare it again."
        ) from None


def build(
    cohort: Cohort,
    split: Split,
    sources: Sequence[str],
    targets: Sequence[str],
    config: PrepareConfig,
    cache: Path | None = None,
    out: Path | None = None,
    progress: Progress | None = None,
) -> Store:
    """Prepare every case of a split, or take it from the cache.

    Args:
        cohort: where the files are.
        split: the cases to prepare; nyul landmarks are learnt on its training part.
        sources: contrasts that go in.
        targets: contrasts that come out.
        config: how to prepare.
        cache: folder of prepared cases; default `default_cache`.
        out: also write the store there, as a folder of its own.
        progress: called ``(done, total, case)``.

    Raises:
        DataError: a case cannot be read or prepared, or ``out`` is not empty.
        UsageError: settings that make no sense; see `synthmr.prepare.case.check_config`.
    """
    check_config(config)
    cache = default_cache() if cache is None else cache
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists and is not empty; give another --out or remove it.")
    cases = [cohort.case(name) for part in (split.train, split.validation, split.test) for name in part]
    contrasts = (*sources, *targets)
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda case: _file_hashes(case, contrasts), cases)
        hashes = {case.name: each for case, each in zip(cases, found, strict=True)}
    landmarks = _landmarks(cohort, split, sources, targets, config, hashes, cache)
    folders: dict[str, Path] = {}

    def one(case: Case) -> tuple[str, Path]:
        used = {name: landmarks.get(name) for name in contrasts}
        parts = [PREPARE_VERSION, STORE_VERSION, hashes[case.name], to_dict(config), list(sources), list(targets), used]
        return case.name, _cached_case(case, contrasts, config, targets, landmarks, cache / "cases" / config_hash(parts, 40))

    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        for done, (name, folder) in enumerate(pool.map(one, cases), start=1):
            folders[name] = folder
            if progress is not None:
                progress(done, len(cases), name)
    fingerprint = config_hash({name: folder.name for name, folder in folders.items()}, 40)
    subjects = {case.name: case.subject for case in cases}
    store = Store(folders, tuple(sources), tuple(targets), config, split, landmarks, fingerprint, subjects)
    return store if out is None else export(store, out)


def export(store: Store, out: Path) -> Store:
    """Copy a store into a folder of its own and open it there.

    Raises:
        DataError: it cannot be written.
    """
    folders = _folder_names(store.names)
    with atomic(out) as temporary:
        (temporary / "cases").mkdir(parents=True)
        for name, folder in store.folders.items():
            shutil.copytree(folder, temporary / "cases" / folders[name])
        record = {
            "version": STORE_VERSION,
            "cases": folders,
            "sources": list(store.sources),
            "targets": list(store.targets),
            "config": to_dict(store.config),
            "split": to_dict(store.split),
            "landmarks": to_dict(store.landmarks),
            "fingerprint": store.fingerprint,
            "subjects": dict(store.subjects),
        }
        (temporary / "store.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    return Store.open(out)


def _folder_names(names: Sequence[str]) -> dict[str, str]:
    """Case -> name of its folder: the case's own where that is a name that every file system takes."""
    taken: set[str] = set()
    found = {}
    for number, name in enumerate(names):
        plain = re.sub(r"[^A-Za-z0-9._+-]", "_", name)
        if plain != name or plain.startswith(".") or plain.lower() in taken:
            plain = f"{number:05d}_{plain}"
        taken.add(plain.lower())
        found[name] = plain
    return found


def _file_hashes(case: Case, contrasts: Sequence[str]) -> dict[str, str | None]:
    """SHA-256 of every file that decides what a prepared case is."""
    found: dict[str, str | None] = {name: sha256(case.image(name)) for name in contrasts}
    found["mask"] = sha256(case.mask) if case.mask is not None else None
    found["segmentation"] = sha256(case.segmentation) if case.segmentation is not None else None
    return found


def _cached_case(
    case: Case,
    contrasts: Sequence[str],
    config: PrepareConfig,
    targets: Sequence[str],
    landmarks: Mapping[str, Mapping[str, Any]],
    folder: Path,
) -> Path:
    """The folder of a prepared case: as found, or made (again, if it is damaged)."""
    if _is_whole(folder, case.name):
        return folder
    prepared = prepare_case(case, contrasts, config, targets, landmarks)
    arrays = {name: slice_major(image, config.plane).astype(np.float16) for name, image in prepared.images.items()}
    arrays["mask"] = slice_major(prepared.mask, config.plane).astype(np.uint8)
    if prepared.segmentation is not None:
        labels = slice_major(prepared.segmentation, config.plane)
        low, high = int(labels.min()), int(labels.max())
        arrays["segmentation"] = labels.astype(np.promote_types(np.min_scalar_type(low), np.min_scalar_type(high)))
    record = {
        "shape": list(arrays["mask"].shape),
        "arrays": list(arrays),
        "normalizers": dict(prepared.normalizers),
        "history": list(prepared.history),
        "brain": arrays["mask"].sum(axis=(1, 2), dtype=int).tolist(),
    }
    try:
        with atomic(folder) as temporary:
            temporary.mkdir()
            for name, array in arrays.items():
                np.save(temporary / f"{name}.npy", np.ascontiguousarray(array), allow_pickle=False)
            (temporary / "case.json").write_text(json.dumps(record), encoding="utf-8")
            # a damaged folder makes way only now that its successor is complete: another process may have mended it meanwhile
            if folder.is_dir() and not _is_whole(folder, case.name):
                shutil.rmtree(folder, ignore_errors=True)
    except DataError:
        # or made the same case: then the rename meets a folder that is just as good
        if not _is_whole(folder, case.name):
            raise
    return folder


def _is_whole(folder: Path, name: str) -> bool:
    """Whether a case is stored there and can be opened."""
    try:
        open_case(folder, name)
    except DataError:
        return False
    return True


def _landmarks(
    cohort: Cohort,
    split: Split,
    sources: Sequence[str],
    targets: Sequence[str],
    config: PrepareConfig,
    hashes: Mapping[str, Mapping[str, str | None]],
    cache: Path,
) -> dict[str, Mapping[str, Any]]:
    """The nyul landmarks of the contrasts that need them, learnt on the training cases (and cached by their content)."""
    wanted = [name for name in (*sources, *targets) if normalizer_of(name, config, targets) == "nyul"]
    if not wanted:
        return {}
    key = config_hash(
        [PREPARE_VERSION, to_dict(config), list(sources), wanted, {name: dict(hashes[name]) for name in split.train}], 40
    )
    path = cache / "landmarks" / f"{key}.json"
    if path.is_file():
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except ValueError:
            path.unlink(missing_ok=True)
    positions: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
    for name in split.train:
        volumes, mask, _ = load_case(cohort.case(name), (*sources, *targets), with_segmentation=False)
        arrays, given, _, _, _ = oriented(volumes, mask, None, name)
        brain, _, _ = brain_mask({contrast: arrays[contrast] for contrast in sources}, given, config.mask, name)
        for contrast in wanted:
            try:
                positions[contrast].append(normalize.landmark_positions(arrays[contrast][brain], config.percentile))
            except DataError as error:
                raise DataError(f"{contrast} of case {name}: {error}") from None
    found = {name: normalize.standard_scale(rows) for name, rows in positions.items()}
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(found), encoding="utf-8")
    return dict(found)
