"""The bytes of a NIfTI file: opened where it is a file, its header checked field by field, its voxels read in blocks.

A header may claim anything. What it claims is compared with what can be there before memory is taken for it, and of a compressed
stream no more is unpacked than the header declares, and a little to see whether it ends there.
"""

from __future__ import annotations

import logging
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from synthmr.documents import not_regular, open_regular
from synthmr.errors import DataError
from synthmr.io.formats import pointer, told

SUFFIXES = (".nii.gz", ".nii")

#: bytes that are read of a file, and that are unpacked and converted, at a time
READ, BLOCK = 2**18, 2**22

#: what deflate makes of a byte at most
RATIO = 1032

#: zero bytes that may follow the voxels, as padding to a block
PADDING = 4096

#: bytes of header extensions at most
MOST_OFFSET = 64 * 2**20


def stem(path: Path | str) -> str:
    """File name without ``.nii.gz`` or ``.nii``."""
    name = Path(path).name
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def is_nifti(path: Path | str) -> bool:
    """Whether the name ends in .nii or .nii.gz."""
    return Path(path).name.lower().endswith(SUFFIXES)


def fault(label: str, path: Path, what: str) -> DataError:
    """What is wrong with a file, in one line."""
    return DataError(f"{label + ': ' if label else ''}{path} {what}")


# --- opening ------------------------------------------------------------------------------------------------------------


def open_image(path: Path, label: str) -> BinaryIO:
    """Open a file that is named as a NIfTI file.

    Raises:
        DataError: by its name, its kind or its first bytes it is none, or it cannot be opened.
    """
    if not is_nifti(path):
        raise fault(label, path, "is not named .nii or .nii.gz; convert it to NIfTI (DICOM: dcm2niix).")
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 (a path that cannot be one raises here, too)
        if not_regular(mode):
            kind = not_regular(mode)
            raise fault(label, path, f"is {kind}, not a NIfTI file.")
        stream = open_regular(path)
    except FileNotFoundError:
        target = str(path.readlink()) if path.is_symlink() else ""
        if not target:
            raise fault(label, path, "does not exist; check the path.") from None
        raise fault(label, path, pointer(target) or f"is a link to {target}, which does not exist; restore that file.") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise fault(label, path, f"cannot be read: {why}.") from None
    try:
        _check_magic(stream.read(352), path, label)
        stream.seek(0)
    except OSError as error:
        stream.close()
        raise fault(label, path, f"cannot be read: {error.strerror or error}.") from None
    except DataError:
        stream.close()
        raise
    return stream


def _check_magic(head: bytes, path: Path, label: str) -> None:
    """Refuse what is no NIfTI file by its first bytes.

    Raises:
        DataError: see the messages.
    """
    if not head:
        raise fault(label, path, "is an empty file (0 bytes); copy it again.")
    gzipped = head[:2] == b"\x1f\x8b"
    nifti = head[344:347] == b"n+1" or head[4:7] == b"n+2"
    if not gzipped and not nifti:
        what = told(head)
        if what:
            raise fault(label, path, what)
    if gzipped != path.name.lower().endswith(".gz"):
        if gzipped:
            raise fault(label, path, "is gzip-compressed but named .nii; rename it to .nii.gz.")
        if nifti or head[344:347] == b"ni1":
            raise fault(label, path, "is not gzip-compressed but named .nii.gz; rename it to .nii.")
        raise fault(label, path, "is no NIfTI file (not even gzip-compressed); it may be another format renamed.")


class _Inflated:
    """A gzip stream of any number of members, unpacked no further than is asked for; checksums are verified where it ends."""

    def __init__(self, stream: BinaryIO, block: int = READ) -> None:
        self._stream, self._block = stream, block
        self._member = zlib.decompressobj(31)
        self._input = b""

    def read(self, size: int) -> bytes:
        """``size`` bytes, fewer where the stream ends.

        Raises:
            EOFError: it breaks off.
            zlib.error: it is damaged.
        """
        out = bytearray()
        while len(out) < size and (piece := self._piece(size - len(out))):
            out += piece
        return bytes(out)

    def _piece(self, most: int) -> bytes:
        while True:
            if self._member.eof and not self._next_member():
                return b""
            data = self._input or self._stream.read(self._block)
            if not data:
                raise EOFError
            piece = self._member.decompress(data, most)
            self._input = self._member.unconsumed_tail
            if piece:
                return piece

    def _next_member(self) -> bool:
        """Whether another member follows; zeros in between and behind are padding."""
        rest = self._member.unused_data
        while not (rest := rest.lstrip(b"\0")):
            rest = self._stream.read(self._block)
            if not rest:
                return False
        if rest[:1] != b"\x1f":
            raise zlib.error("something follows the gzip stream")
        self._member, self._input = zlib.decompressobj(31), rest
        return True


def _source(stream: BinaryIO, path: Path, block: int = READ) -> Any:
    """What ``read`` gives the bytes of the image of."""
    return _Inflated(stream, block) if path.name.lower().endswith(".gz") else stream


# --- the header ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Head:
    """What a header declares, checked.

    Attributes:
        header: of nibabel.
        shape: ``(X, Y, Z)``; trailing axes of length 1 are dropped.
        dtype: of the stored voxels, in the file's byte order.
        offset: bytes before the voxels.
        slope: that stored values are multiplied by; None: not scaled.
        inter: that is added then.
    """

    header: Any
    shape: tuple[int, int, int]
    dtype: np.dtype
    offset: int
    slope: float | None
    inter: float | None

    @property
    def voxels(self) -> int:
        """How many there are."""
        x, y, z = self.shape
        return x * y * z


def broken_off(label: str, path: Path) -> DataError:
    """The line for a gzip stream that ends too early or is damaged."""
    return fault(label, path, "is cut short or damaged (its gzip stream breaks off); copy or download it again.")


def read_head(path: Path, label: str) -> Head:
    """Read and check the header alone.

    Raises:
        DataError: the file cannot be opened, or its header declares what is no volume of numbers.
    """
    with open_image(path, label) as stream:
        source = _source(stream, path, 4096)
        try:
            data = source.read(348)
            data += source.read(192) if data[4:7] in (b"n+2", b"ni2") else b""
        except EOFError:
            what = "is no readable NIfTI file (its gzip stream breaks off within the header); copy or download it again."
            raise fault(label, path, what) from None
        except zlib.error:
            raise broken_off(label, path) from None
        except OSError as error:
            raise fault(label, path, f"cannot be read: {error.strerror or error}.") from None
    return parse_head(data, path, label)


#: takes nibabel's remarks about headers, which would be lines beside ours
_SILENT = logging.Logger("synthmr.headers", level=logging.CRITICAL + 1)


def parse_head(data: bytes, path: Path, label: str) -> Head:
    """Parse and check the bytes of a header; arguments and errors of `read_head`."""
    import nibabel

    unreadable = "is no readable NIfTI file ({}); copy or export it again."
    kind = nibabel.Nifti2Header if data[4:7] in (b"n+2", b"ni2") else nibabel.Nifti1Header
    size = kind.template_dtype.itemsize
    magic = data[4:7] if kind is nibabel.Nifti2Header else data[344:347]
    if magic in (b"ni1", b"ni2"):
        raise fault(
            label,
            path,
            "is the header of a pair of files (.hdr, .img); convert the pair to one .nii.gz (for example fslchfiletype).",
        )
    if magic not in (b"n+1", b"n+2"):
        raise fault(label, path, unreadable.format("it has no NIfTI header"))
    if len(data) < size:
        raise fault(label, path, unreadable.format("it ends within its header"))
    try:
        with np.errstate(all="ignore"):
            header = kind(data[:size], check=False)
            header.check_fix(logger=_SILENT, error_level=40)
            dims = [int(value) for value in header["dim"]]
            offset = float(header["vox_offset"])
            slope, inter = header.get_slope_inter()
    except Exception as error:  # nibabel's own, and whatever else a header of arbitrary bytes makes it raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise fault(label, path, unreadable.format(reason)) from None
    if not 1 <= dims[0] <= 7:
        raise fault(label, path, unreadable.format(f"it declares {dims[0]} dimensions"))
    shape = parse_shape(tuple(dims[1 : dims[0] + 1]), path, label)
    dtype = _dtype(header, path, label)
    least = size + 4
    if not np.isfinite(offset) or offset < 0 or offset > MOST_OFFSET or 0 < offset < size:
        raise fault(label, path, unreadable.format(f"its voxels would begin at byte {offset:g}"))
    return Head(header, shape, dtype, int(offset) or least, slope, inter)


def parse_shape(shape: tuple[int, ...], path: Path, label: str) -> tuple[int, int, int]:
    """The three dimensions of a volume.

    Raises:
        DataError: it has more or fewer, or no voxels.
    """
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    size = "x".join(map(str, shape))
    if len(shape) > 3:
        raise fault(
            label, path, f"has {len(shape)} dimensions ({size}), not 3; extract one volume (for example fslroi or fslsplit)."
        )
    if len(shape) < 3:
        raise fault(label, path, f"has {len(shape)} dimensions ({size}), not 3; a volume is needed, not a slice.")
    if min(shape) < 1:
        raise fault(label, path, f"holds no voxels (shape {size}); export it again.")
    return shape[0], shape[1], shape[2]


def check_kind(dtype: np.dtype, path: Path, label: str) -> None:
    """Check that voxels are numbers.

    Raises:
        DataError: they are complex or colours.
    """
    if dtype.kind not in "iuf":
        kind = "complex numbers" if dtype.kind == "c" else "colours"
        raise fault(label, path, f"holds {kind}, not one number a voxel; export the magnitude or a grey-scale image.")


def _dtype(header: Any, path: Path, label: str) -> np.dtype:
    """The type of the stored voxels.

    Raises:
        DataError: NIfTI has no such type, or it is not of numbers.
    """
    try:
        dtype = np.dtype(header.get_data_dtype())
    except Exception:  # as of the header's other fields
        code = int(header["datatype"])
        raise fault(label, path, f"has data type {code}, which NIfTI does not know; export it again.") from None
    check_kind(dtype, path, label)
    return dtype


# --- the voxels ---------------------------------------------------------------------------------------------------------


def _size_words(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def _memory() -> float:
    """Bytes of memory that this machine has."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # not on every system
        return float("inf")


def read_voxels(path: Path, head: Head, label: str, dtype: np.dtype, check: bool) -> np.ndarray:
    """The voxels in scanner units, ``(X, Y, Z)`` in Fortran order.

    The file is read to its end, so that a checksum is verified; memory is taken for the result and one block.

    Args:
        path: of the file.
        head: of `read_head`.
        label: words in front of a message.
        dtype: a float type for images, an integer type or bool for labels and masks.
        check: refuse NaN and infinite voxels.

    Raises:
        DataError: the file is shorter or longer than its header says, damaged, not finite, or not of whole numbers where an integer
            type was asked for.
    """
    declared = head.voxels * head.dtype.itemsize
    words = f"{'x'.join(map(str, head.shape))} voxels of {head.dtype.name}"
    with open_image(path, label) as stream:
        there = os.fstat(stream.fileno()).st_size
        gzipped = path.name.lower().endswith(".gz")
        room = RATIO * there if gzipped else there
        if head.offset + declared > room:
            what = f"its header says {words} ({_size_words(declared)}), more than its {_size_words(there)} can hold"
            raise fault(label, path, f"is cut short or damaged ({what}); copy or download it again.")
        if head.voxels * dtype.itemsize > _memory():
            raise _no_memory(label, path, words)
        source = _source(stream, path)
        try:
            _skip(source, head.offset)
            array = _convert(source, head, Kept(path, label, dtype, check, head.voxels))
            tail = source.read(PADDING + 1)
        except _Short:
            what = f"is cut short or damaged (it ends before the {words} that its header declares); copy or download it again."
            raise fault(label, path, what) from None
        except (EOFError, zlib.error):
            raise broken_off(label, path) from None
        except OSError as error:
            raise fault(label, path, f"cannot be read: {error.strerror or error}.") from None
        except MemoryError:
            raise _no_memory(label, path, words) from None
    if len(tail) > PADDING or tail.strip(b"\0"):
        raise fault(
            label,
            path,
            f"goes on after the {words} that its header declares; the header is wrong, or something was appended. Export it again.",
        )
    return array.reshape(head.shape, order="F")


def _no_memory(label: str, path: Path, words: str) -> DataError:
    return fault(label, path, f"does not fit into memory (its header says {words}); the header may be damaged.")


class _Short(Exception):
    """The stream ends, whole by itself, before all voxels came."""


def _skip(source: Any, size: int) -> None:
    """Read on to the voxels.

    Raises:
        _Short: they never come.
    """
    while size:
        data = source.read(min(size, BLOCK))
        if not data:
            raise _Short
        size -= len(data)


def _convert(source: Any, head: Head, kept: Kept) -> np.ndarray:
    """Read, scale and convert voxels block by block."""
    from nibabel.volumeutils import apply_read_scaling

    slope, inter = (1.0 if head.slope is None else head.slope), (0.0 if head.inter is None else head.inter)
    step = max(1, BLOCK // head.dtype.itemsize)
    for begin in range(0, head.voxels, step):
        count = min(step, head.voxels - begin)
        data = source.read(count * head.dtype.itemsize)
        if len(data) < count * head.dtype.itemsize:
            raise _Short
        with np.errstate(all="ignore"):
            kept.add(apply_read_scaling(np.frombuffer(data, head.dtype), slope, inter), begin)
    return kept.done()


class Kept:
    """Voxels of the type that was asked for, and what was wrong with those that were stored."""

    def __init__(self, path: Path, label: str, dtype: np.dtype, check: bool, voxels: int) -> None:
        self._path, self._label, self._check = path, label, check
        self._array = np.empty(voxels, dtype)
        self._bad = self._beyond = 0
        self._low, self._high = np.inf, -np.inf
        self._fits = True

    def add(self, values: np.ndarray, begin: int) -> None:
        """Convert and keep one block, whose first voxel is the number ``begin``."""
        part = self._array[begin : begin + values.size]
        if self._array.dtype.kind == "f":
            part[:] = values
            if self._check:
                bad = values.size - int(np.isfinite(part).sum())
                if bad:
                    stored = values.size - int(np.isfinite(values).sum()) if values.dtype.kind == "f" else 0
                    self._bad, self._beyond = self._bad + stored, self._beyond + bad - stored
            return
        if values.dtype.kind == "f":
            bad = values.size - int(np.isfinite(values).sum())
            if bad:
                self._bad += bad
                return
            rounded = np.rint(values)
            if np.abs(rounded - values).max() > 1e-3:
                raise fault(self._label, self._path, "holds values that are not whole numbers; it is no label or mask volume.")
            values = rounded
        low, high = float(values.min()), float(values.max())
        self._low, self._high = min(self._low, low), max(self._high, high)
        if self._array.dtype.kind != "b":
            limits = np.iinfo(self._array.dtype)
            self._fits &= low >= limits.min and high <= limits.max
        if self._fits:
            part[:] = values.astype(part.dtype)

    def done(self) -> np.ndarray:
        """The voxels.

        Raises:
            DataError: some are not finite, or do not fit the type.
        """
        if self._beyond:
            what = f"holds {self._beyond} voxels too large for {self._array.dtype}"
            raise fault(self._label, self._path, f"{what}; scale it, or export it again.")
        if self._bad:
            raise not_finite(self._bad, self._array.size, self._path, self._label)
        if not self._fits:
            what = f"holds labels from {self._low:g} to {self._high:g}, which do not fit {self._array.dtype}."
            raise fault(self._label, self._path, what)
        return self._array


def not_finite(bad: int, size: int, path: Path, label: str) -> DataError:
    """The line for voxels that are no numbers."""
    fix = "repair them or export it again; where they lie outside the brain, --nan-to-zero reads them as 0."
    return fault(label, path, f"holds {bad} NaN or infinite voxels of {size}; {fix}")
