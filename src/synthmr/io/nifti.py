"""NIfTI in and out: whole volumes or grids alone; every fault of a file becomes one line that names it.

On load, intensities are in scanner units (scl_slope and scl_inter applied) and the affine is the sform, else the qform,
as nibabel has it. Where the two disagree other programs may use the other one: the volume then carries a note, and a
strict load refuses. On save, the source's header is kept and the data type, scaling and display range are reset, so
that float voxels are stored as they are and not quantised to the source's integers.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from synthmr.case import Case, Volume
from synthmr.errors import DataError, UsageError
from synthmr.io.files import atomic, same_file
from synthmr.io.grid import TOLERANCE, Grid, check_same_grid, corner_distance, grid_difference, grid_text, orientation, same_grid

__all__ = [
    "SAVE_TYPES",
    "SUFFIXES",
    "Grid",
    "check_not_constant",
    "check_output",
    "check_same_grid",
    "grid_difference",
    "grid_text",
    "is_nifti",
    "load",
    "load_contrast",
    "load_header",
    "orientation",
    "read_grid",
    "same_file",
    "same_grid",
    "save",
    "stem",
]

SUFFIXES = (".nii.gz", ".nii")

#: data types that `save` writes -> what they are for
SAVE_TYPES = ("float32", "int16", "uint8")


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


def _fault(label: str, path: Path, what: str) -> DataError:
    return DataError(f"{label + ': ' if label else ''}{path} {what}")


def _check_name_and_magic(path: Path, label: str) -> None:
    """Refuse what is no NIfTI file by its name or its first bytes.

    Raises:
        DataError: see the messages.
    """
    if not is_nifti(path):
        raise _fault(label, path, "is not named .nii or .nii.gz; convert it to NIfTI (DICOM: dcm2niix).")
    if path.is_dir():
        raise _fault(label, path, "is a folder, not a NIfTI file.")
    try:
        with path.open("rb") as stream:
            head = stream.read(352)
    except FileNotFoundError:
        raise _fault(label, path, "does not exist; check the path.") from None
    except OSError as error:
        raise _fault(label, path, f"cannot be read: {error.strerror or error}.") from None
    if not head:
        raise _fault(label, path, "is an empty file (0 bytes); copy it again.")
    gzipped = head[:2] == b"\x1f\x8b"
    if gzipped != path.name.lower().endswith(".gz"):
        if gzipped:
            raise _fault(label, path, "is gzip-compressed but named .nii; rename it to .nii.gz.")
        if head[344:347] in (b"n+1", b"ni1") or head[4:7] == b"n+2":
            raise _fault(label, path, "is not gzip-compressed but named .nii.gz; rename it to .nii.")
        raise _fault(label, path, "is no NIfTI file (not even gzip-compressed); it may be another format renamed.")


def _open(path: Path, label: str) -> Any:
    """Open a NIfTI image without its voxels.

    Raises:
        DataError: it cannot be opened.
    """
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    _check_name_and_magic(path, label)
    try:
        return nibabel.load(path)
    except (EOFError, zlib.error):
        raise _fault(label, path, "is cut short or damaged (its gzip stream breaks off); copy or download it again.") from None
    except (ImageFileError, HeaderDataError, OSError, ValueError, KeyError, OverflowError) as error:
        reason = " ".join(str(error).split()).replace(str(path), "the file")
        raise _fault(label, path, f"is no readable NIfTI file ({reason}); copy or export it again.") from None


def _grid(image: Any, path: Path, label: str, strict: bool) -> Grid:
    """Shape, affine and notes of an opened image.

    Raises:
        DataError: not three dimensions, no voxels, no usable affine, or (strict) anything that would be a note.
    """
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    size = "x".join(map(str, shape))
    if len(shape) > 3:
        raise _fault(
            label, path, f"has {len(shape)} dimensions ({size}), not 3; extract one volume (for example fslroi or fslsplit)."
        )
    if len(shape) < 3:
        raise _fault(label, path, f"has {len(shape)} dimensions ({size}), not 3; a volume is needed, not a slice.")
    if 0 in shape or min(shape) < 0:
        raise _fault(label, path, f"holds no voxels (shape {size}); export it again.")
    affine = np.asarray(image.affine, dtype=float)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise _fault(label, path, "has no usable affine (singular or not finite); export it again.")
    notes = _notes(image.header, (shape[0], shape[1], shape[2]))
    if strict and notes:
        raise _fault(label, path, " ".join(notes))
    return Grid((shape[0], shape[1], shape[2]), affine, notes)


def _notes(header: Any, shape: tuple[int, int, int]) -> tuple[str, ...]:
    """What is odd about a header, a sentence with the fix each."""
    from nibabel.spatialimages import HeaderDataError

    notes = []
    sform, scode = header.get_sform(coded=True)
    try:
        qform, qcode = header.get_qform(coded=True)
    except (HeaderDataError, ValueError):
        qform, qcode = None, 0
        notes.append("the qform is damaged; the sform is used. Rewrite the header (for example fslorient -copysform2qform).")
    if scode and qcode:
        apart = corner_distance(sform, qform, shape)
        if apart > TOLERANCE:
            notes.append(
                f"sform and qform put the same voxel up to {apart:.3g} mm apart; the sform is used here, other programs may "
                "use the qform. Find out which is right and make them equal (for example fslorient -copysform2qform)."
            )
    elif not scode and not qcode and not notes:
        notes.append("neither sform nor qform is set: left and right are a guess. Export it again with its orientation.")
    unit = header.get_xyzt_units()[0]
    if unit not in ("mm", "unknown"):
        notes.append(f"lengths are given in {unit}; they are read as millimetres. Correct the header.")
    return tuple(notes)


def read_grid(path: Path | str, label: str = "", strict: bool = False) -> Grid:
    """Read the grid from the header alone.

    Args:
        path: .nii or .nii.gz.
        label: words in front of a message, ``"T1w of case X"``.
        strict: refuse what would be a note (sform and qform that disagree, ...).

    Raises:
        DataError: the file is missing, no NIfTI, damaged, or not three-dimensional.
    """
    path = Path(path)
    return _grid(_open(path, label), path, label, strict)


def load_header(path: Path | str, label: str = "") -> Volume:
    """Grid and header of a file as a `Volume` whose voxels are all 0 and take no memory: what `save` needs as ``like``.

    Raises:
        DataError: as `read_grid`.
    """
    path = Path(path)
    image = _open(path, label)
    grid = _grid(image, path, label, strict=False)
    return Volume(np.broadcast_to(np.float32(0), grid.shape), grid.affine, path, image.header, grid.notes)


def _voxels(image: Any, path: Path, label: str) -> np.ndarray:
    """Stored voxels, scaled to scanner units, of the file's own type where it has no scaling; any shape.

    A compressed file is decompressed whole, so that its checksum is verified (nibabel alone stops before it).

    Raises:
        DataError: the stream or the file is too short, damaged, or not of numbers.
    """
    import gzip

    import nibabel

    if image.get_data_dtype().kind not in "iuf":
        kind = "complex numbers" if image.get_data_dtype().kind == "c" else "colours"
        raise _fault(label, path, f"holds {kind}, not one number a voxel; export the magnitude or a grey-scale image.")
    try:
        if path.name.lower().endswith(".gz") and nibabel.is_proxy(image.dataobj):  # not of an image whose voxels are in memory
            with gzip.open(path) as stream:
                image = type(image).from_bytes(stream.read())
        return np.asanyarray(image.dataobj)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise _fault(label, path, "is cut short or damaged (its gzip stream breaks off); copy or download it again.") from None
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise _fault(label, path, f"is cut short or damaged ({reason}); copy or download it again.") from None
    except MemoryError:
        raise _fault(label, path, f"does not fit into memory (header says {image.shape}); its header may be damaged.") from None


def _as_type(array: np.ndarray, dtype: np.dtype, path: Path, label: str) -> np.ndarray:
    """Convert; integers only where nothing is lost.

    Raises:
        DataError: integers were asked for and the values are not whole or do not fit.
    """
    if dtype.kind == "f" or array.dtype == dtype:
        return array.astype(dtype, copy=False)
    if array.dtype.kind == "f":
        rounded = np.rint(array)
        if np.abs(rounded - array).max() > 1e-3:
            raise _fault(label, path, "holds values that are not whole numbers; it is no label or mask volume.")
        array = rounded
    low, high = array.min(), array.max()
    if dtype.kind != "b" and (low < np.iinfo(dtype).min or high > np.iinfo(dtype).max):
        raise _fault(label, path, f"holds labels from {low:g} to {high:g}, which do not fit {dtype}.")
    return array.astype(dtype)


def load(path: Path | str, dtype: Any = np.float32, *, check: bool = True, strict: bool = False, label: str = "") -> Volume:
    """Load a volume; scl_slope and scl_inter are applied.

    Args:
        path: .nii or .nii.gz.
        dtype: of the array: a float type for images, an integer type or bool for labels and masks.
        check: refuse NaN and infinite voxels.
        strict: refuse a header that would otherwise earn a note.
        label: words in front of a message, ``"T1w of case X"``.

    Returns:
        ``(X, Y, Z)`` in file order; a trailing axis of length 1 is dropped.

    Raises:
        DataError: the file is missing, no NIfTI, cut short, 4-D, empty, not finite, or not of whole numbers where
            an integer type was asked for.
    """
    path = Path(path)
    return _volume(_open(path, label), path, dtype, check, strict, label)


def from_image(image: Any, dtype: Any = np.float32, *, label: str = "") -> Volume:
    """A nibabel image that is in memory as a `Volume`, checked as `load` checks a file.

    Args:
        image: of nibabel, three-dimensional.
        dtype: as of `load`.
        label: words in front of a message.

    Raises:
        DataError: as `load`.
    """
    return _volume(image, Path(image.get_filename() or "the image in memory"), dtype, True, False, label)


def _volume(image: Any, path: Path, dtype: Any, check: bool, strict: bool, label: str) -> Volume:
    """What `load` and `from_image` share."""
    grid = _grid(image, path, label, strict)
    array = _voxels(image, path, label).reshape(grid.shape, order="F")
    if check and array.dtype.kind == "f":
        bad = array.size - int(np.isfinite(array).sum())
        if bad:
            raise _fault(label, path, f"holds {bad} NaN or infinite voxels of {array.size}; repair them or export it again.")
    array = _as_type(array, np.dtype(dtype), path, label)
    return Volume(array, grid.affine, path, image.header, grid.notes)


def load_contrast(case: Case, contrast: str, dtype: Any = np.float32) -> Volume:
    """Load an image of a case; messages name the case and the contrast.

    Raises:
        DataError: as `load`; the case lacks the contrast; all voxels have one value.
    """
    label = f"{contrast} of case {case.name}"
    volume = load(case.image(contrast), dtype, label=label)
    check_not_constant(volume, label)
    return volume


def check_not_constant(volume: Volume, label: str = "") -> None:
    """Check that an image shows something.

    Raises:
        DataError: all voxels have one value.
    """
    low, high = float(volume.array.min()), float(volume.array.max())
    if low == high:
        path = volume.path or Path("the volume")
        raise _fault(label, path, f"is constant (every voxel is {low:g}): it shows nothing; export it again.")


def check_output(path: Path | str, inputs: Iterable[Path | str] = ()) -> Path:
    """Check the name of a file to write.

    Raises:
        UsageError: it is not named .nii or .nii.gz, is a folder, or is one of the inputs.
    """
    path = Path(path)
    if not is_nifti(path):
        raise UsageError(f"the output {path} is not named .nii or .nii.gz; add .nii.gz.")
    if path.is_dir():
        raise UsageError(f"the output {path} is a folder; give a file name ending in .nii.gz.")
    for given in inputs:
        if same_file(path, given):
            raise UsageError(f"the output {path} is the input {given}; choose another name.")
    return path


def _save_array(path: Path, array: np.ndarray, dtype: str) -> np.ndarray:
    """Check and convert voxels for `save`.

    Raises:
        UsageError: unknown type. DataError: not finite; integers asked for, and values are not whole or do not fit.
    """
    if dtype not in SAVE_TYPES:
        raise UsageError(f"a volume is saved as {', '.join(SAVE_TYPES)}, not {dtype!r}.")
    if array.dtype.kind == "b":
        array = array.astype(np.uint8)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise _fault("", path, "is not written: the result holds NaN or infinite voxels.")
    return _as_type(array, np.dtype(dtype), path, "not written")


def _header_for(like: Volume, dtype: str, description: str, shape: tuple[int, int, int]) -> Any:
    """A header that keeps the source's geometry, codes and units, and nothing that describes its voxels."""
    import nibabel

    affine = np.asarray(like.affine, dtype=float)
    if like.header is not None:
        header = like.header.copy()
        kept = np.allclose(header.get_best_affine(), affine, atol=1e-5)
        scode, qcode = int(header["sform_code"]), int(header["qform_code"])
    else:
        header = nibabel.Nifti1Header()
        header.set_xyzt_units("mm")
        kept, scode, qcode = False, 2, 2
    # the source's extensions, names and timing describe its own acquisition (and may hold patient data)
    header.extensions.clear()
    for name in ("descrip", "aux_file", "db_name", "intent_name"):
        if name in header.keys():  # noqa: SIM118 (a header is no dict)
            header[name] = b""
    for name in ("cal_min", "cal_max", "glmin", "glmax", "intent_code", "slice_start", "slice_end", "slice_code"):
        if name in header.keys():  # noqa: SIM118
            header[name] = 0
    header.set_data_offset(0)
    header.set_data_dtype(np.dtype(dtype))
    header.set_data_shape(shape)
    header.set_slope_inter(1, 0)
    header["descrip"] = description.encode("ascii", "replace")[:79]
    if not kept:
        scode = scode or (0 if qcode else 2)
        header.set_sform(affine, code=scode or 2)
        header.set_qform(affine, code=qcode)
        if qcode and corner_distance(header.get_qform(), affine, shape) > TOLERANCE:
            header.set_qform(affine, code=0)  # a sheared affine: no quaternion can hold it
    return header


def save(path: Path | str, array: np.ndarray, like: Volume, description: str = "", dtype: str = "float32") -> Path:
    """Write a volume on the grid of ``like``, atomically; a compressed file has no time stamp, so equal volumes are equal files.

    Args:
        path: to write, .nii or .nii.gz.
        array: ``(X, Y, Z)`` in the axis order of ``like``.
        like: gives the affine and, where it came from a file, the header (codes and units are kept).
        description: for the header's ``descrip``; at most 79 ASCII characters are stored.
        dtype: float32 for images; int16 or uint8 for labels, which must be whole numbers that fit.

    Returns:
        ``path``.

    Raises:
        UsageError: the name or the type is not one that is written.
        DataError: the shape is not that of ``like``, the values are not finite or do not fit, or the file cannot be
            written.
    """
    import gzip

    path = check_output(path)
    data = to_image(array, like, description, dtype, path).to_bytes()
    if path.name.lower().endswith(".gz"):
        data = gzip.compress(data, compresslevel=2, mtime=0)
    with atomic(path) as temporary:
        temporary.write_bytes(data)
    return path


def to_image(
    array: np.ndarray, like: Volume, description: str = "", dtype: str = "float32", path: Path | str = "the volume"
) -> Any:
    """A volume as a nibabel image, as `save` writes it; arguments and errors as there, ``path`` for messages."""
    import nibabel

    path = Path(path)
    if array.shape != like.shape:
        raise _fault("", path, f"is not written: the result has shape {array.shape}, its grid {like.shape}.")
    array = _save_array(path, array, dtype)
    header = _header_for(like, dtype, description, like.shape)
    kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    # its own affine: the header's forms and codes are written as they are
    image = kind(array, header.get_best_affine(), header)
    image.header.set_slope_inter(1, 0)
    return image
