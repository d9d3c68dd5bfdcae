"""The prepared cohort on disk: every image, mask and label file once, cached by content, whatever a run makes of them.

A store knows no roles, no plane and no normaliser: it holds scanner units (`synthmr.data.parts`), from which `synthmr.data.reader`
gives a run what it asks for. Each image is cached on its own, under the SHA-256 of its file's bytes: runs that name other contrasts
of a cohort share those that they have in common, an image that nobody asked for is neither read nor stored (and so stops no run),
and adding a case or a contrast prepares just that. Opening a store needs numpy alone: it can be copied to a machine that has no
imaging library.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from synthmr.case import Case, Cohort, check_name
from synthmr.config import PrepareConfig, config_hash, to_dict
from synthmr.contrasts import CONTRASTS
from synthmr.data.brains import Brain, Parts, fact_key, find_brain, fit, uses_file
from synthmr.data.parts import (
    DAMAGE,
    PART_VERSION,
    Bits,
    Image,
    Labels,
    add_head,
    damaged,
    is_whole,
    load_image,
    open_image,
    read_about,
    write_image,
)
from synthmr.data.shelf import Shelf
from synthmr.data.split import Split
from synthmr.documents import check_shape, read_json_object
from synthmr.errors import DataError, UsageError, shown
from synthmr.io.files import atomic, sha256
from synthmr.prepare import background, orient
from synthmr.prepare.case import check_config
from synthmr.prepare.nan import load_labels, read_image

Progress = Callable[..., None]

#: raise when the layout of an exported store changes
STORE_VERSION = 3

#: what ``store.json`` holds
_RECORD: dict[Any, Any] = {
    "cases": {str: {"folder": str, "keys": {str: str}, "subject": str}},
    "contrasts": [str],
    "mask": str,
    "split": {"train": [str], "validation": [str], "test": [str], "left_out": [str], "source": str},
    "fingerprint": str,
}

#: bytes of masks and labels that a store keeps in memory
MOST_BYTES = 256 * 2**20


def default_cache() -> Path:
    """``$SYNTHMR_CACHE``, else ``~/.cache/synthmr``."""
    named = os.environ.get("SYNTHMR_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "synthmr"


@dataclass(frozen=True, eq=False)
class Store:
    """A prepared cohort.

    Attributes:
        cases: case -> where its parts lie.
        contrasts: that were asked for; a case has some of them, in this order.
        mask: how brain masks are made; see `PrepareConfig`.
        split: the split.
        fingerprint: content hash of the whole.
    """

    cases: Mapping[str, Parts]
    contrasts: tuple[str, ...]
    mask: str
    split: Split
    fingerprint: str
    _files: Shelf = field(default_factory=lambda: Shelf(None), repr=False, init=False)
    _arrays: Shelf = field(default_factory=lambda: Shelf(MOST_BYTES), repr=False, init=False)

    @property
    def names(self) -> tuple[str, ...]:
        """All cases."""
        return tuple(self.cases)

    def parts(self, name: str) -> Parts:
        """Where the parts of a case lie.

        Raises:
            DataError: the store has no such case.
        """
        if name not in self.cases:
            raise DataError(f"the store has no case {name!r}; it has {', '.join(list(self.cases)[:8])}.")
        return self.cases[name]

    def has(self, name: str) -> tuple[str, ...]:
        """The contrasts that a case has."""
        images = self.parts(name).images
        return tuple(contrast for contrast in self.contrasts if contrast in images)

    def subject(self, name: str) -> str:
        """The person that a case is of."""
        return self.parts(name).subject or name

    def image(self, name: str, contrast: str) -> Image:
        """An image of a case, memory-mapped.

        Raises:
            DataError: the case has none, its files are damaged, or the process ran out of open files.
        """
        images = self.parts(name).images
        if contrast not in images:
            raise DataError(f"case {name} has no {contrast} in the store; it has {', '.join(images)}.")

        def opened() -> Image:
            try:
                return open_image(images[contrast])
            except DAMAGE as error:
                damaged(name, images[contrast], error)

        found: Image = self._files.get((name, contrast), opened)
        return found

    def brain(self, name: str, given: Sequence[str] | None = None) -> Brain:
        """The brain of a case.

        Args:
            name: of the case.
            given: contrasts that the mask may be made from, in the order in which their files would be given; None: all.

        Raises:
            DataError: there is no brain, or the case is damaged.
        """
        parts = self.parts(name)
        used = self.has(name) if given is None else tuple(given)
        absent = [contrast for contrast in used if contrast not in parts.images]
        if absent or not used:
            raise DataError(f"case {name} has no {', '.join(absent) or 'image'} in the store; it has {', '.join(parts.images)}.")
        found: Brain = self._arrays.get(
            ("brain", name, used), lambda: find_brain(parts, used, self.mask, name), lambda brain: int(brain.nbytes)
        )
        return found

    def labels(self, name: str) -> Labels | None:
        """The labels of a case, or None.

        Raises:
            DataError: their file is damaged.
        """
        path = self.parts(name).segmentation
        if path is None:
            return None

        def opened() -> Labels:
            try:
                return Labels.load(path)
            except DAMAGE as error:
                damaged(name, path, error)

        found: Labels = self._arrays.get(("labels", name), opened, lambda labels: int(labels.nbytes))
        return found

    @staticmethod
    def open(path: Path, cache: Path | None = None) -> Store:
        """Open a store that `build` wrote.

        Args:
            path: its folder.
            cache: where brains are kept that it lacks; default `default_cache`.

        Raises:
            DataError: it is no store, is damaged, or is of another version.
        """
        version: object = STORE_VERSION
        try:
            data = read_json_object(path / "store.json")
            version = data["version"]
            check_shape(data, _RECORD if version == STORE_VERSION else dict, "store.json")
            split = Split(
                **{**data["split"], **{part: tuple(data["split"][part]) for part in ("train", "validation", "test", "left_out")}}
            )
            brains = (default_cache() if cache is None else cache) / "brains"
            cases = {name: _exported(path / "cases", record, brains) for name, record in data["cases"].items()}
            return Store(cases, tuple(data["contrasts"]), data["mask"], split, data["fingerprint"])
        except (DataError, ValueError, KeyError, TypeError, AttributeError) as error:
            if version != STORE_VERSION:
                raise DataError(
                    f"{path} is a store of version {shown(version)}, this synthmr reads {STORE_VERSION}; prepare it again."
                ) from None
            why = " ".join(str(error).split()).rstrip(".")
            raise DataError(f"{path} is not a readable store ({why}); make it with `synthmr prepare`.") from None

    def check(self, contrasts: Sequence[str], config: PrepareConfig) -> None:
        """Check that the store serves a run.

        Raises:
            UsageError: it lacks a contrast that the run names, or makes brain masks in another way.
        """
        lacking = [name for name in dict.fromkeys(contrasts) if name not in self.contrasts]
        if lacking:
            raise UsageError(f"the store holds {', '.join(self.contrasts)}, not {', '.join(lacking)}; prepare another.")
        if config.mask != self.mask:
            raise UsageError(
                f"the store was prepared with prepare.mask={self.mask!r}, the run asks for {config.mask!r}; use --set or prepare"
                " again."
            )


def _exported(cases: Path, record: Mapping[str, Any], brains: Path) -> Parts:
    """The parts of a case of an exported store; brains that it lacks are kept in the cache.

    Raises:
        DataError: the record leads out of the store.
    """
    keys = dict(record["keys"])
    for name in (record["folder"], *keys):
        check_name(name, "store.json")
    folder = cases / record["folder"]
    return Parts(
        images={name: folder / name for name in keys if name not in ("mask", "segmentation")},
        keys=keys,
        brains=(folder / "brains", brains),
        mask=folder / "mask.npz" if "mask" in keys else None,
        segmentation=folder / "segmentation.npz" if "segmentation" in keys else None,
        subject=record["subject"],
    )


# --- building -----------------------------------------------------------------------------------------------------------


def in_order(contrasts: Sequence[str]) -> tuple[str, ...]:
    """Contrasts in the order of `synthmr.contrasts`, others after them by name: an order that no role decides."""
    known = {name: number for number, name in enumerate(CONTRASTS)}
    return tuple(sorted(dict.fromkeys(contrasts), key=lambda name: (known.get(name, len(known)), name)))


def build(
    cohort: Cohort,
    split: Split,
    contrasts: Sequence[str],
    config: PrepareConfig,
    cache: Path | None = None,
    out: Path | None = None,
    progress: Progress | None = None,
) -> Store:
    """Prepare every case of a split, or take it from the cache.

    Args:
        cohort: where the files are.
        split: the cases to prepare.
        contrasts: to store, of those that each case has.
        config: how masks are made, and by which normalisers images will be read (worked out here, once).
        cache: folder of prepared parts; default `default_cache`.
        out: write the store there, as a folder of its own; what the cache has is linked, not copied, and nothing new goes into it.
        progress: called ``(done, total, case)``.

    Raises:
        DataError: a case cannot be read or prepared, or ``out`` is not empty.
        UsageError: settings that make no sense; see `synthmr.prepare.case.check_config`.
    """
    check_config(config)
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists and is not empty; give another --out or remove it.")
    known = {case.name: case for case in cohort.cases}
    cases = [known[name] if name in known else cohort.case(name) for name in split.names]
    builder = _Builder(in_order(contrasts), config, default_cache() if cache is None else cache)
    if out is None:
        return builder.store(cases, split, None, progress)
    with atomic(out) as temporary:
        temporary.mkdir()
        builder.store(cases, split, temporary, progress)
    return Store.open(out, cache)


class _Builder:
    """Prepares cases into the cache, or into a store of its own."""

    def __init__(self, contrasts: tuple[str, ...], config: PrepareConfig, cache: Path) -> None:
        self.contrasts, self.config, self.cache = contrasts, config, cache

    def store(self, cases: Sequence[Case], split: Split, out: Path | None, progress: Progress | None) -> Store:
        """Prepare all cases; ``out`` gets them and ``store.json`` where it is given."""
        folders = _folder_names([case.name for case in cases])
        found: dict[str, Parts] = {}
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            jobs = [pool.submit(self.case, case, out / "cases" / folders[case.name] if out else None) for case in cases]
            try:
                for done, (case, job) in enumerate(zip(cases, jobs, strict=True), start=1):
                    found[case.name] = job.result()
                    if progress is not None:
                        progress(done, len(cases), case.name)
            finally:
                pool.shutdown(cancel_futures=True)
        content = {name: dict(parts.keys) for name, parts in found.items()}
        fingerprint = config_hash([PART_VERSION, self.config.mask, list(self.contrasts), content], 40)
        if out is not None:
            record = {
                "version": STORE_VERSION,
                "cases": {
                    name: {"folder": folders[name], "keys": dict(parts.keys), "subject": parts.subject}
                    for name, parts in found.items()
                },
                "contrasts": list(self.contrasts),
                "mask": self.config.mask,
                "split": to_dict(split),
                "fingerprint": fingerprint,
            }
            (out / "store.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
        return Store(found, self.contrasts, self.config.mask, split, fingerprint)

    def case(self, case: Case, out: Path | None) -> Parts:
        """Store one case, or find it stored.

        Raises:
            DataError: it has none of the contrasts, or a file cannot be used.
        """
        names = [name for name in self.contrasts if name in case.images]
        if not names:
            case.image(self.contrasts[0])
        keys, images = {}, {}
        mended = ["nan-to-zero"] if case.nan_to_zero else []
        for name in names:
            keys[name] = config_hash(["image", PART_VERSION, sha256(case.image(name)), *mended], 40)
            images[name] = self._image(case, name, keys[name], out)
        labels = {}
        for word, path in (("mask", case.mask), ("segmentation", case.segmentation)):
            if path is not None and (word != "mask" or self.config.mask in ("auto", "file")):
                keys[word] = config_hash([word, PART_VERSION, sha256(path), *mended], 40)
                labels[word] = self._label(case, word, path, keys[word], out)
        parts = Parts(
            images=images,
            keys=keys,
            brains=(self.cache / "brains",) if out is None else (self.cache / "brains", out / "brains"),
            mask=labels.get("mask"),
            segmentation=labels.get("segmentation"),
            subject=case.subject,
        )
        self._check_grids(case, parts)
        if not uses_file(parts, self.config.mask):
            self._heads(case, parts)
        self._brain(case, parts, out)
        return parts

    def _image(self, case: Case, contrast: str, key: str, out: Path | None) -> Path:
        cached, target = self.cache / "images" / key, out / contrast if out is not None else None

        def make(folder: Path) -> None:
            write_image(folder, read_image(case, contrast))

        return _placed(cached, target, load_image, make)

    def _label(self, case: Case, word: str, path: Path, key: str, out: Path | None) -> Path:
        cached, target = self.cache / "labels" / f"{key}.npz", out / f"{word}.npz" if out is not None else None

        def make(file: Path) -> None:
            volume = load_labels(path, f"{word} of case {case.name}", case.nan_to_zero)
            array = orient.apply(volume.array, orient.fit(volume.shape, volume.affine))
            about = {"grid": {"shape": list(volume.shape), "affine": np.asarray(volume.affine, float).tolist()}}
            found = Bits.of(array > 0, about) if word == "mask" else Labels.of(np.rint(array).astype(np.int32), about)
            found.save(file)

        return _placed(cached, target, Bits.load if word == "mask" else Labels.load, make)

    def _check_grids(self, case: Case, parts: Parts) -> None:
        """Check that all files of a case lie on one grid, in whatever storage order: each was stored as RAS.

        Raises:
            DataError: they do not.
        """
        from synthmr.io.grid import Grid, check_same_grid

        abouts = {name: read_about(folder) for name, folder in parts.images.items()}
        if parts.mask is not None:
            abouts["mask"] = dict(Bits.load(parts.mask).about)
        if parts.segmentation is not None:
            abouts["segmentation"] = dict(Labels.load(parts.segmentation).about)
        grids = {word: Grid(tuple(about["grid"]["shape"]), np.asarray(about["grid"]["affine"])) for word, about in abouts.items()}
        check_same_grid({f"{word} of case {case.name}": grid for word, grid in grids.items()}, any_order=True)

    def _heads(self, case: Case, parts: Parts) -> None:
        """Add the heads of images of which a mask may have to be made by Otsu's threshold."""
        for contrast, folder in parts.images.items():
            needed = self.config.mask == "otsu" or (self.config.mask == "auto" and not read_about(folder)["stripped"])
            if needed and not is_whole(Bits.load, folder / "head.npz"):
                volume = read_image(case, contrast)
                array = orient.apply(volume.array, orient.fit(volume.shape, volume.affine))
                add_head(folder, background.apply(array, background.fit(array)))

    def _brain(self, case: Case, parts: Parts, out: Path | None) -> None:
        """Make the brain of all images, and work out what the normalisers of the configuration need to know inside it.

        Raises:
            DataError: the brain is empty, or an image is constant inside it.
        """
        brain = find_brain(parts, tuple(parts.images), self.config.mask, case.name)
        kinds = tuple(dict.fromkeys(filter(None, (self.config.normalizer, self.config.source_normalizer))))
        found: dict[str, Any] = {}
        for contrast, folder in parts.images.items():
            words = {kind: fact_key(parts.keys[contrast], kind, self.config.percentile) for kind in kinds}
            if all(brain.facts.get(word) is not None for word in words.values()):
                continue
            values, errors = brain.values(open_image(folder)), []
            for kind, word in words.items():
                try:
                    found[word] = fit(kind, values, self.config.percentile)
                except DataError as error:
                    errors.append(error)
            if len(errors) == len(words):  # else it may be of the role whose normaliser it suits
                raise DataError(f"{contrast} of case {case.name}: {errors[0]}")
        if found:
            brain.facts.add(found)
        if out is not None:
            folder = out / "brains" / brain.key
            if not (folder / "brain.npz").is_file():
                folder.mkdir(parents=True, exist_ok=True)
                brain.bits.save(folder / "brain.npz")
            brain.facts.save()


def _placed(cached: Path, target: Path | None, load: Callable[[Path], object], make: Callable[[Path], None]) -> Path:
    """The path of a part: in the cache as found or made (again, if it is damaged), or at ``target``, linked or made there."""
    if is_whole(load, cached):
        if target is not None:
            _link(cached, target)
        return target or cached
    path = target or cached
    try:
        with atomic(path) as temporary:
            make(temporary)
            # what is damaged makes way only now that its successor is complete: another process may have mended it meanwhile
            if path.is_dir() and not is_whole(load, path):
                shutil.rmtree(path, ignore_errors=True)
    except DataError:
        # or made the same: then the rename meets a folder that is just as good
        if not is_whole(load, path):
            raise
    return path


def _link(source: Path, target: Path) -> None:
    """Link a file or the files of a folder; copy them where the file system cannot link."""
    if source.is_dir():
        target.mkdir(parents=True)
        for file in source.iterdir():
            _link(file, target / file.name)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


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
