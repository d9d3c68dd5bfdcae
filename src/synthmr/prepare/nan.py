"""NaN in the air around the head, as divisions and resampling leave them, read as 0 where a person asked for it (`--nan-to-zero`).

Inside the brain a voxel without a value stays an error: 0 would be a lesion that nobody has.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from synthmr.case import Case, Volume
from synthmr.errors import DataError
from synthmr.prepare.mask import clean, foreground, head, is_stripped

#: how a note about such voxels ends; `synthmr.prepare.case` finds it by that
NOTE = "NaN or infinite voxels outside the brain are read as 0 (--nan-to-zero)."


def read_image(case: Case, contrast: str, dtype: Any = np.float32) -> Volume:
    """Load an image of a case, as `synthmr.io.nifti.load_contrast`, by the case's ``nan_to_zero``.

    Raises:
        DataError: as there; NaN inside the brain.
    """
    from synthmr.io.nifti import check_not_constant, load, load_contrast

    if not case.nan_to_zero:
        return load_contrast(case, contrast, dtype)
    label = f"{contrast} of case {case.name}"
    volume = load(case.image(contrast), dtype, check=False, label=label)
    if not np.isfinite(volume.array).all():
        mask = load_labels(case.mask, f"mask of case {case.name}", True) if case.mask is not None else None
        volume = without_nan(volume, mask, label)
    check_not_constant(volume, label)
    return volume


def load_labels(path: Path, label: str, nan_to_zero: bool) -> Volume:
    """Load a mask or a segmentation as float32; with ``nan_to_zero`` a voxel that is NaN has no label.

    Raises:
        DataError: the file cannot be read, or holds NaN without ``nan_to_zero``.
    """
    from synthmr.io.nifti import load

    volume = load(path, check=not nan_to_zero, label=label)
    if nan_to_zero and not np.isfinite(volume.array).all():
        volume = replace(volume, array=np.nan_to_num(volume.array, nan=0.0, posinf=0.0, neginf=0.0))
    return volume


def without_nan(volume: Volume, mask: Volume | None = None, label: str = "") -> Volume:
    """A volume whose NaN and infinite voxels outside the brain are 0, with a note.

    Args:
        volume: ``(X, Y, Z)`` float.
        mask: of the brain, on the same grid; None, or on another: the brain is found in the image.
        label: words in front of a message.

    Raises:
        DataError: such a voxel lies inside the brain.
    """
    from synthmr.io.grid import one_order, same_grid

    bad = ~np.isfinite(volume.array)
    count = int(bad.sum())
    if not count:
        return volume
    array = np.where(bad, volume.array.dtype.type(0), volume.array)
    turned = one_order({"image": volume, "mask": mask})["mask"] if mask is not None else None
    if turned is not None and same_grid(turned, volume):
        inside = bad & (turned.array > 0)
    else:
        brain = clean(foreground(array)) if is_stripped(array) else head(array)
        inside = bad & (brain | _enclosed(bad, brain))
    wrong = int(inside.sum())
    if wrong:
        what = f"holds {wrong} NaN or infinite voxels inside the brain, where --nan-to-zero makes none 0; repair them."
        raise DataError(f"{label + ': ' if label else ''}{volume.path or 'the volume'} {what}")
    return replace(volume, array=array, notes=(*volume.notes, f"{count} {NOTE}"))


def _enclosed(bad: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Groups of ``bad`` voxels that are a bite out of the brain: most of what they touch is brain, and no edge of the volume."""
    from scipy import ndimage

    groups, count = ndimage.label(bad)
    touched, within = np.zeros(count + 1), np.zeros(count + 1)
    edge = np.zeros(count + 1, bool)
    for axis in range(3):
        for here, there in ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None))):
            cut, other = [slice(None)] * 3, [slice(None)] * 3
            cut[axis], other[axis] = here, there
            group = groups[tuple(cut)]
            rim = (group > 0) & ~bad[tuple(other)]
            touched += np.bincount(group[rim], minlength=count + 1)
            within += np.bincount(group[rim & brain[tuple(other)]], minlength=count + 1)
        for face in (0, -1):
            edge[np.unique(np.take(groups, face, axis=axis))] = True
    found = (within > touched / 2) & ~edge
    found[0] = False
    return np.asarray(found[groups], bool)
