"""What a stored cohort is made of: images, sets of voxels and labels, each a small folder or file that says where it lies.

An image is a folder. ``voxels.npy`` holds it in scanner units, RAS ``(X, Y, Z)``, a constant background taken off
(`synthmr.prepare.background`), cropped to what differs from its corner value, in int16 or uint16 where its values are whole numbers
that fit, else in float16 of value / scale. Axial slices are contiguous.
``about.json`` says where the box lies, ``foreground.npz`` which voxels a brain mask can be made of; ``head.npz`` (Otsu's threshold)
is added where a mask needs it. Reading takes numpy alone; a memory map keeps one file open.
"""

from __future__ import annotations

import errno
import hashlib
import json
import threading
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from synthmr.case import PLANES, Volume
from synthmr.documents import parse_json
from synthmr.errors import DataError
from synthmr.io.files import atomic
from synthmr.prepare import background, orient
from synthmr.prepare.mask import background_value, bounding_box, foreground, head, is_stripped

#: numpy parses the head of an array's file as a Python literal, which CPython 3.11 cannot do in several threads at once
_PARSING = threading.Lock()

#: raise when the layout of a part changes
PART_VERSION = 2
#: versions that are read, from stores that were written before: 1 has no constant background taken off
READABLE = (1, 2)

Triple = tuple[int, int, int]

#: what numpy and JSON raise for a file that is missing, short or of something else
DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    ArithmeticError,
    zipfile.BadZipFile,
    zlib.error,
    DataError,
)


def out_of_files(error: BaseException) -> bool:
    """Whether it says that the process, or the system, has no open file left."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


def damaged(case: str, folder: Path, error: BaseException) -> NoReturn:
    """Say what is wrong with a stored case.

    Raises:
        DataError: always; that the process ran out of open files where that is so, else that the case is damaged.
    """
    if out_of_files(error):
        raise DataError(
            f"this process ran out of open files while it read the stored case {case}: too many are open at once; allow more,"
            " for example with `ulimit -n 4096` before the command."
        ) from None
    why = " ".join(str(error).split())
    raise DataError(f"the stored case {case} in {folder} is damaged ({why}); prepare it again.") from None


def triple(values: Sequence[Any]) -> Triple:
    """Three whole numbers."""
    x, y, z = (int(value) for value in values)
    return x, y, z


def place(begin: Sequence[int], size: Sequence[int], start: Sequence[int], shape: Sequence[int]) -> tuple[Any, Any] | None:
    """Where a window (``begin``, ``size``) meets an array at ``start``: slices of the array and of the window; None: nowhere."""
    there, here = [], []
    for first, part, own, whole in zip(begin, size, start, shape, strict=True):
        low, high = max(first, own), min(first + part, own + whole)
        if low >= high:
            return None
        there.append(slice(low - own, high - own))
        here.append(slice(low - first, high - first))
    return tuple(there), tuple(here)


def is_whole(load: Callable[[Path], object], path: Path) -> bool:
    """Whether a part can be loaded by ``load``; raises OSError where the process ran out of open files."""
    try:
        load(path)
    except DAMAGE as error:
        if out_of_files(error):
            raise
        return False
    return True


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a part's ``.npz``, and what its text ``about`` says."""
    with path.open("rb") as stream, _PARSING, np.load(stream, allow_pickle=False) as data:
        arrays = {name: data[name] for name in data.files}
    return arrays, parse_json(str(arrays.pop("about")), path.name)


# --- sets of voxels -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Bits:
    """A set of voxels of a volume, packed.

    Attributes:
        packed: ``(Z, Y, X / 8)`` uint8, a bit a voxel of the box that holds them.
        start: first voxel of the box in the volume.
        size: of the box.
        counts: voxels in each sagittal, coronal and axial slice of the box.
        about: plain data.
    """

    packed: np.ndarray
    start: Triple
    size: Triple
    counts: tuple[np.ndarray, np.ndarray, np.ndarray]
    about: Mapping[str, Any]

    @staticmethod
    def of(mask: np.ndarray, about: Mapping[str, Any], offset: Sequence[int] = (0, 0, 0)) -> Bits:
        """Pack ``(X, Y, Z)`` bool, which lies at ``offset`` in its volume."""
        box = bounding_box(mask)
        inside = mask[box]
        x, y, z = (np.asarray(inside.sum(axis=axes, dtype=np.int64)) for axes in ((1, 2), (0, 2), (0, 1)))
        start = triple([part.start + shift for part, shift in zip(box, offset, strict=True)])
        return Bits(np.packbits(inside.transpose(2, 1, 0), axis=-1), start, triple(inside.shape), (x, y, z), dict(about))

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return int(self.packed.nbytes)

    @property
    def voxels(self) -> int:
        """How many there are."""
        return int(self.counts[2].sum())

    def cut(self, begin: Sequence[int], size: Sequence[int]) -> np.ndarray:
        """``(x, y, z)`` bool: a window of the volume, from voxel ``begin`` on; it may reach beyond the volume."""
        out = np.zeros(tuple(size), bool)
        found = place(begin, size, self.start, self.size)
        if found is not None:
            (x, y, z), here = found
            first = x.start // 8
            bits = np.unpackbits(self.packed[z, y, first : -(-x.stop // 8)], axis=-1)
            out[here] = bits[..., x.start - 8 * first : x.stop - 8 * first].transpose(2, 1, 0)
        return out

    def whole(self) -> np.ndarray:
        """``(x, y, z)`` bool: the box."""
        return self.cut(self.start, self.size)

    def save(self, path: Path) -> None:
        """Write ``.npz``, compressed."""
        about = np.array(json.dumps({"start": self.start, "size": self.size, "about": dict(self.about)}))
        np.savez_compressed(path, packed=self.packed, counts=np.concatenate(self.counts), about=about)

    @staticmethod
    def load(path: Path) -> Bits:
        """Inverse of `save`.

        Raises:
            OSError, ValueError, KeyError, BadZipFile: see `DAMAGE`.
        """
        arrays, about = _read(path)
        packed, counts = arrays["packed"], arrays["counts"]
        start, size = triple(about["start"]), triple(about["size"])
        if packed.shape != (size[2], size[1], -(-size[0] // 8)) or len(counts) != sum(size):
            raise ValueError(f"{path.name} is not of the size that it says")
        x, y, z = np.split(counts, [size[0], size[0] + size[1]])
        return Bits(packed, start, size, (x, y, z), about["about"])


def count_in(bits: Bits, plane: str, begin: int, length: int) -> np.ndarray:
    """``(length,)``: voxels in each slice of ``plane``, from slice ``begin`` of the volume on."""
    axis = PLANES[plane]
    out = np.zeros(length, np.int64)
    found = place((begin,), (length,), (bits.start[axis],), (bits.size[axis],))
    if found is not None:
        out[found[1]] = bits.counts[axis][found[0]]
    return out


# --- labels -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels of a volume, of the smallest integer type that holds them.

    Attributes:
        values: ``(x, y, z)``, the box that holds every voxel that is not 0.
        start: first voxel of the box in the volume.
        about: plain data.
    """

    values: np.ndarray
    start: Triple
    about: Mapping[str, Any]

    @staticmethod
    def of(array: np.ndarray, about: Mapping[str, Any]) -> Labels:
        """Take what is not 0 out of ``(X, Y, Z)``."""
        box = bounding_box(array != 0)
        low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
        kind = np.promote_types(np.min_scalar_type(low), np.min_scalar_type(high))
        return Labels(np.asfortranarray(array[box].astype(kind)), triple([part.start for part in box]), dict(about))

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return int(self.values.nbytes)

    def cut(self, begin: Sequence[int], size: Sequence[int]) -> np.ndarray:
        """``(x, y, z)``: a window of the volume, from voxel ``begin`` on; it may reach beyond the volume, where it is 0."""
        out = np.zeros(tuple(size), self.values.dtype)
        found = place(begin, size, self.start, self.values.shape)
        if found is not None:
            out[found[1]] = self.values[found[0]]
        return out

    def save(self, path: Path) -> None:
        """Write ``.npz``, compressed."""
        about = np.array(json.dumps({"start": self.start, "about": dict(self.about)}))
        np.savez_compressed(path, values=self.values, about=about)

    @staticmethod
    def load(path: Path) -> Labels:
        """Inverse of `save`; raises what `Bits.load` does."""
        arrays, about = _read(path)
        return Labels(arrays["values"], triple(about["start"]), about["about"])


# --- images -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Image:
    """One stored image, memory-mapped.

    Attributes:
        voxels: ``(x, y, z)`` int16, uint16 or float16, as stored.
        scale: what float16 values are multiplied by; 0 for whole numbers.
        start: first voxel of the stored box in the volume.
        background: value of every voxel outside the box.
        shape: of the volume, RAS.
        affine: of the volume, RAS.
        turn: the step that brought the file to RAS.
        stripped: whether it is skull-stripped.
        constant: the parameters of the constant background that was taken off (`synthmr.prepare.background`), or None.
    """

    voxels: np.ndarray
    scale: float
    start: Triple
    background: float
    shape: Triple
    affine: np.ndarray
    turn: Mapping[str, Any]
    stripped: bool
    constant: Mapping[str, Any] | None = None

    def cut(self, begin: Sequence[int], size: Sequence[int]) -> np.ndarray:
        """``(x, y, z)`` float32, scanner units: a window of the volume, from voxel ``begin`` on; it may reach beyond the volume."""
        found = place(begin, size, self.start, self.voxels.shape)
        if found is None:
            return np.full(tuple(size), self.background, np.float32)
        there, here = found
        stored = self.voxels[there].astype(np.float32, order="C")
        if self.scale:
            stored *= np.float32(self.scale)
        if stored.shape == tuple(size):
            return stored
        out = np.full(tuple(size), self.background, np.float32)
        out[here] = stored
        return out


def encode(values: np.ndarray) -> tuple[np.ndarray, float]:
    """float32 -> (int16, uint16 or float16, scale); whole numbers that fit are exact, with scale 0."""
    low, high = float(values.min()), float(values.max())
    if low >= -32768 and high <= 65535 and (low >= 0 or high <= 32767) and bool((values == np.rint(values)).all()):
        return values.astype(np.int16 if high <= 32767 else np.uint16), 0.0
    # a power of two, so that only the 11 bits of float16 round
    scale = float(2.0 ** np.ceil(np.log2(max(abs(low), abs(high)))))
    return (values / np.float32(scale)).astype(np.float16), scale


def digest_of(voxels: np.ndarray, scale: float) -> str:
    """Sixteen hex digits of an image's content, whatever its file is called and however it is compressed.

    Args:
        voxels: ``(x, y, z)`` as `encode` gives them, of the box that holds what is not background.
        scale: likewise.
    """
    digest = hashlib.sha256(f"{voxels.dtype.kind} {voxels.shape} {scale!r}".encode())
    for part in voxels.T:  # a slice at a time, in the order in which they are stored
        digest.update(np.ascontiguousarray(part).astype(np.float16 if scale else np.int32).tobytes())
    return digest.hexdigest()[:16]


def digest_image(array: np.ndarray) -> str:
    """`digest_of` an image ``(X, Y, Z)`` RAS, a constant background taken off, as it would be stored."""
    corner = background_value(array)
    box = bounding_box(foreground(array)) if np.isfinite(corner) else (slice(None),) * 3
    inside = array[box]
    return digest_of(*encode(inside)) if inside.size else ""


def write_image(folder: Path, volume: Volume) -> None:
    """Store an image: scanner units, axes as in the file.

    Args:
        folder: to make; its parent exists.
        volume: ``(I, J, K)``.
    """
    turn = orient.fit(volume.shape, volume.affine)
    array = orient.apply(volume.array, turn)
    constant = background.fit(array)
    array = background.apply(array, constant)
    corner = background_value(array)
    filled = foreground(array)
    # where the corners differ, nothing tells what lies outside a box
    box = bounding_box(filled) if np.isfinite(corner) else tuple(slice(0, edge) for edge in array.shape)
    voxels, scale = encode(array[box])
    about = {
        "version": PART_VERSION,
        "shape": list(array.shape),
        "start": [part.start for part in box],
        "size": list(voxels.shape),
        "scale": scale,
        "background": corner if np.isfinite(corner) else 0.0,
        "stripped": is_stripped(array),
        "constant": constant,
        "affine": orient.apply_affine(volume.affine, turn).tolist(),
        "turn": turn,
        "grid": {"shape": list(volume.shape), "affine": np.asarray(volume.affine, float).tolist()},
    }
    folder.mkdir()
    _save(folder / "voxels.npy", np.asfortranarray(voxels))
    Bits.of(filled, {}).save(folder / "foreground.npz")
    (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")


def _save(path: Path, array: np.ndarray) -> None:
    """`numpy.save` of an array in Fortran order, whose error on a full disk says that it is one."""
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(array))
        stream.write(array.reshape(-1, order="F").data)


def read_about(folder: Path) -> dict[str, Any]:
    """What ``about.json`` says; raises what `Bits.load` does."""
    found = parse_json((folder / "about.json").read_text(encoding="utf-8"), "about.json")
    if found["version"] not in READABLE:
        raise ValueError(f"it is of version {found['version']}, not {PART_VERSION}")
    return dict(found)


def open_image(folder: Path) -> Image:
    """Memory-map a stored image; raises what `Bits.load` does."""
    about = read_about(folder)
    with _PARSING:
        voxels = np.load(folder / "voxels.npy", mmap_mode="r", allow_pickle=False)
    if list(voxels.shape) != about["size"]:
        raise ValueError("voxels.npy has another shape than about.json says")
    return Image(
        voxels=voxels,
        scale=float(about["scale"]),
        start=triple(about["start"]),
        background=float(about["background"]),
        shape=triple(about["shape"]),
        affine=np.asarray(about["affine"], float),
        turn=about["turn"],
        stripped=bool(about["stripped"]),
        constant=about.get("constant"),
    )


def load_image(folder: Path) -> Image:
    """Open a stored image and read its foreground too, so that all of it is known to be there; raises what `Bits.load` does."""
    image = open_image(folder)
    Bits.load(folder / "foreground.npz")
    return image


def add_head(folder: Path, array: np.ndarray) -> None:
    """Add the head of an image ``(X, Y, Z)`` RAS, above Otsu's threshold, to its folder."""
    with atomic(folder / "head.npz") as temporary:
        Bits.of(head(array), {}).save(temporary)
