"""The brain mask that a set of a case's stored images gives, and what normalisers need to know of each image inside it.

A mask is that of `synthmr.prepare.mask`, to the voxel: it is put together from what was stored of each image (its foreground, or
its head), not from the images. A brain is a folder, ``brain.npz`` and ``facts.json``, named by the content of all that decides
it, so that runs over one cohort share what they need and nothing stale is read.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from synthmr.config import config_hash
from synthmr.data.parts import DAMAGE, PART_VERSION, Bits, Image, Triple, damaged, read_about, triple
from synthmr.documents import read_json_object
from synthmr.errors import DataError
from synthmr.io.files import atomic, write_text
from synthmr.prepare import normalize
from synthmr.prepare.case import PREPARE_VERSION
from synthmr.prepare.mask import check_filled, mask_of

T = TypeVar("T")


@dataclass(frozen=True)
class Parts:
    """Where the parts of a stored case lie.

    Attributes:
        images: contrast -> folder.
        keys: contrast -> what its content is known by; ``mask`` and ``segmentation`` are among them where the case has them.
        brains: folders in which its brains are looked for; new ones go into the last.
        mask: of the mask file, or None.
        segmentation: of the label file, or None.
        subject: the person that the case is of.
    """

    images: Mapping[str, Path]
    keys: Mapping[str, str]
    brains: tuple[Path, ...]
    mask: Path | None = None
    segmentation: Path | None = None
    subject: str = ""


class Facts:
    """What is known of a brain's images, kept on disk: key -> plain data.

    Args:
        folders: of the brain; all are read, the last is written to where that can be done.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._path = folders[-1] / "facts.json"
        self._known: dict[str, Any] = {}
        self._lock = threading.Lock()
        for folder in folders:
            with suppress(DataError):
                self._known |= read_json_object(folder / "facts.json")

    def get(self, key: str) -> Any:
        """What is known, or None."""
        return self._known.get(key)

    def add(self, found: Mapping[str, Any]) -> None:
        """Keep more; in memory alone where the disk does not take it."""
        with self._lock:
            self._known |= found
            with suppress(DataError, OSError):
                self._save()

    def save(self) -> None:
        """Write all that is known.

        Raises:
            DataError: it cannot be written.
        """
        with self._lock:
            self._save()

    def _save(self) -> None:
        write_text(self._path, json.dumps(self._known))


@dataclass(frozen=True, eq=False)
class Brain:
    """A brain mask and what is known inside it.

    Attributes:
        key: what it is known by.
        bits: the mask; ``bits.about`` has its ``mode`` and ``notice``.
        facts: content key, normaliser and percentile of an image -> the normaliser's parameters.
    """

    key: str
    bits: Bits
    facts: Facts = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.bits.nbytes

    def values(self, image: Image) -> np.ndarray:
        """``(N,)`` float32, scanner units: an image inside the brain."""
        return image.cut(self.bits.start, self.bits.size)[self.bits.whole()]

    def params(self, image: Callable[[], Image], key: str, kind: str, percentile: float) -> dict[str, Any]:
        """Parameters of a normaliser for one image: as they were kept, or fitted now and kept.

        Args:
            image: gives it.
            key: what its content is known by.
            kind: of normaliser; what `nyul` learns from other cases is left out (``standard`` is empty).
            percentile: of the normaliser.

        Raises:
            DataError: the image is constant inside the brain, or does not suit the normaliser.
        """
        word = fact_key(key, kind, percentile)
        found = self.facts.get(word)
        if found is None:
            found = fit(kind, self.values(image()), percentile)
            self.facts.add({word: found})
        return dict(found)


def fact_key(key: str, kind: str, percentile: float) -> str:
    """What the parameters of a normaliser are known by, inside one brain."""
    return f"{key}:{kind}:{percentile!r}"


def fit(kind: str, values: np.ndarray, percentile: float) -> dict[str, Any]:
    """`normalize.fit` without landmarks."""
    return normalize.fit(kind, values, {"standard": []}, percentile)


def uses_file(parts: Parts, mode: str) -> bool:
    """Whether the brain mask of a case comes from its mask file."""
    return mode == "file" or (mode == "auto" and parts.mask is not None)


def brain_key(parts: Parts, given: Sequence[str], mode: str) -> str:
    """What a brain is known by."""
    if uses_file(parts, mode):
        return config_hash(["file", PART_VERSION, PREPARE_VERSION, parts.keys.get("mask")], 40)
    return config_hash([mode, PART_VERSION, PREPARE_VERSION, [[name, parts.keys[name]] for name in given]], 40)


def find_brain(parts: Parts, given: Sequence[str], mode: str, case: str) -> Brain:
    """The brain that the named images of a case give (or its mask file): as it was kept, or made now and kept.

    Raises:
        DataError: there is no mask, it is empty, or the stored case is damaged.
    """
    key = brain_key(parts, given, mode)
    folders = [folder / key for folder in parts.brains]
    for folder in folders:
        if (folder / "brain.npz").is_file():
            try:
                return Brain(key, Bits.load(folder / "brain.npz"), Facts(folders))
            except DAMAGE as error:
                if isinstance(error, OSError):
                    damaged(case, folder, error)
    bits = _file_brain(parts, mode, case) if uses_file(parts, mode) else _made_brain(parts, given, mode, case)
    # a folder that cannot be written costs time alone: the mask is made again in the next process
    with suppress(DataError, OSError), atomic(folders[-1] / "brain.npz") as temporary:
        bits.save(temporary)
    return Brain(key, bits, Facts(folders))


def _file_brain(parts: Parts, mode: str, case: str) -> Bits:
    """The brain of a mask file."""
    if parts.mask is None:
        check_filled(None, mode, case)
        raise AssertionError
    try:
        bits = Bits.load(parts.mask)
    except DAMAGE as error:
        damaged(case, parts.mask, error)
    check_filled(bits.whole(), "file", case)
    return replace(bits, about={"mode": "file", "notice": "", "voxels": bits.voxels})


def _made_brain(parts: Parts, given: Sequence[str], mode: str, case: str) -> Bits:
    """The brain that images give."""
    start: Triple = (0, 0, 0)

    def stripped(name: str) -> bool:
        return bool(_stored(parts, name, read_about, case)["stripped"])

    def voxels(names: Sequence[str], heads: bool) -> list[np.ndarray]:
        nonlocal start
        file = "head.npz" if heads else "foreground.npz"
        bits = [_stored(parts, name, lambda folder: Bits.load(folder / file), case) for name in names]
        start, size = _frame(bits)
        return [each.cut(start, size) for each in bits]

    mask, found, notice = mask_of(given, stripped, voxels, mode, case)
    return Bits.of(mask, {"mode": found, "notice": notice, "voxels": int(mask.sum())}, start)


def _stored(parts: Parts, name: str, read: Callable[[Path], T], case: str) -> T:
    """What ``read`` finds in the folder of a stored image.

    Raises:
        DataError: it is damaged.
    """
    try:
        return read(parts.images[name])
    except DAMAGE as error:
        damaged(case, parts.images[name], error)


def _frame(parts: Sequence[Bits]) -> tuple[Triple, Triple]:
    """First voxel and size of the box that holds some sets of voxels: masks are put together inside it."""
    filled = [part for part in parts if part.voxels]
    start = [min((part.start[axis] for part in filled), default=0) for axis in range(3)]
    stop = [max((part.start[axis] + part.size[axis] for part in filled), default=0) for axis in range(3)]
    return triple(start), triple([high - low for low, high in zip(start, stop, strict=True)])
