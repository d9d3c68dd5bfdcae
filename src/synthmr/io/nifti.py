"""NIfTI in and out: whole volumes or grids alone; every fault of a file becomes one line that names it.

On load, intensities are in scanner units (scl_slope and scl_inter applied) and the affine is the sform, else the qform, in
millimetres. Where the two disagree other programs may use the other one: the volume then carries a note, and a strict load
refuses. The bytes are read by `synthmr.io.raw`, the geometry by `synthmr.io.geometry`; `synthmr.io.save` writes.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from synthmr.case import Case, Volume
from synthmr.io.files import same_file
from synthmr.io.geometry import geometry
from synthmr.io.grid import Grid, check_same_grid, grid_difference, grid_text, orientation, same_grid
from synthmr.io.raw import (
    SUFFIXES,
    Head,
    Kept,
    check_kind,
    fault,
    is_nifti,
    parse_shape,
    read_head,
    read_voxels,
    stem,
)
from synthmr.io.save import SAVE_TYPES, check_output, save, to_image

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
    "to_image",
]


def _grid(head: Head, path: Path, label: str, strict: bool) -> Grid:
    """Shape, affine and notes of a header.

    Raises:
        DataError: no usable affine, or (strict) anything that would be a note.
    """
    affine, notes = geometry(head.header, head.shape)
    if affine is None:
        raise fault(label, path, "has no usable affine (singular, not finite or of an impossible size); export it again.")
    if strict and notes:
        raise fault(label, path, " ".join(notes))
    return Grid(head.shape, affine, notes)


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
    return _grid(read_head(path, label), path, label, strict)


def load_header(path: Path | str, label: str = "") -> Volume:
    """Grid and header of a file as a `Volume` whose voxels are all 0 and take no memory: what `save` needs as ``like``.

    Raises:
        DataError: as `read_grid`.
    """
    path = Path(path)
    head = read_head(path, label)
    grid = _grid(head, path, label, strict=False)
    return Volume(np.broadcast_to(np.float32(0), grid.shape), grid.affine, path, head.header, grid.notes)


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
    head = read_head(path, label)
    grid = _grid(head, path, label, strict)
    array = read_voxels(path, head, label, np.dtype(dtype), check)
    return Volume(array, grid.affine, path, head.header, grid.notes)


def from_image(image: Any, dtype: Any = np.float32, *, label: str = "") -> Volume:
    """A nibabel image that is in memory as a `Volume`, checked as `load` checks a file.

    Args:
        image: of nibabel, three-dimensional.
        dtype: as of `load`.
        label: words in front of a message.

    Raises:
        DataError: as `load`.
    """
    import nibabel

    path = Path(image.get_filename() or "the image in memory")
    shape = parse_shape(tuple(int(edge) for edge in image.shape), path, label)
    stored = np.dtype(image.get_data_dtype())
    check_kind(stored, path, label)
    header = image.header
    if not isinstance(header, nibabel.Nifti1Header):  # of another format: what counts are its voxels and its affine
        header = nibabel.Nifti1Image(np.zeros((1, 1, 1), np.uint8), image.affine).header
    grid = _grid(Head(header, shape, stored, 0, None, None), path, label, strict=False)
    try:
        values = np.asanyarray(image.dataobj).reshape(-1, order="F")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise fault(label, path, f"is cut short or damaged ({reason}); copy or download it again.") from None
    kept = Kept(path, label, np.dtype(dtype), True, values.size)
    with np.errstate(all="ignore"):
        kept.add(values, 0)
    return Volume(kept.done().reshape(shape, order="F"), grid.affine, path, header, grid.notes)


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
        raise fault(label, path, f"is constant (every voxel is {low:g}): it shows nothing; export it again.")
