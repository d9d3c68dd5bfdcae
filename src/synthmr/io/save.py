"""NIfTI out: a volume on the grid of another, whose header is kept and of whose voxels nothing is said.

The data type, scaling and display range are reset, so that float voxels are stored as they are and not quantised to the source's
integers.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from synthmr.case import Volume
from synthmr.errors import UsageError
from synthmr.io.files import atomic, same_file
from synthmr.io.geometry import holds
from synthmr.io.grid import TOLERANCE, corner_distance
from synthmr.io.raw import fault, is_nifti

#: data types that `save` writes -> what they are for
SAVE_TYPES = ("float32", "int16", "uint8")


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
        raise fault("", path, "is not written: the result holds NaN or infinite voxels.")
    return _as_type(array, np.dtype(dtype), path, "not written")


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
            raise fault(label, path, "holds values that are not whole numbers; it is no label or mask volume.")
        array = rounded
    low, high = array.min(), array.max()
    if low < np.iinfo(dtype).min or high > np.iinfo(dtype).max:
        raise fault(label, path, f"holds labels from {low:g} to {high:g}, which do not fit {dtype}.")
    return array.astype(dtype)


def _header_for(like: Volume, dtype: str, description: str, shape: tuple[int, int, int]) -> Any:
    """A header that keeps the source's geometry, codes and units, and nothing that describes its voxels."""
    import nibabel

    affine = np.asarray(like.affine, dtype=float)
    if like.header is not None:
        header = like.header.copy()
        kept = holds(header, affine)
        scode, qcode = (code if code in range(6) else 2 for code in (int(header["sform_code"]), int(header["qform_code"])))
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
        header.set_xyzt_units("mm", "sec")
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
        raise fault("", path, f"is not written: the result has shape {array.shape}, its grid {like.shape}.")
    array = _save_array(path, array, dtype)
    header = _header_for(like, dtype, description, like.shape)
    kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    # its own affine: the header's forms and codes are written as they are
    image = kind(array, header.get_best_affine(), header)
    image.header.set_slope_inter(1, 0)
    return image
