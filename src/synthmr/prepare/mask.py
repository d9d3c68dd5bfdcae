"""The brain mask: given, or from non-zero voxels of skull-stripped data, or Otsu's threshold with a clear notice."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from synthmr.errors import DataError, UsageError, did_you_mean

MODES = ("auto", "file", "nonzero", "otsu")

#: a volume counts as skull-stripped if at least this share of it has exactly the background value
STRIPPED_SHARE = 0.3
#: components smaller than this share of the largest are dropped from a mask that was made here
ISLAND_SHARE = 0.01

OTSU_NOTICE = (
    "no brain mask was given and the images are not skull-stripped: an Otsu threshold found the head, skull and scalp included."
    " Give masks (mask.nii.gz in the case folder) or skull-strip first for scores of the brain alone."
)


def background_value(array: np.ndarray) -> float:
    """The value of the volume's corners if they agree (0 in most skull-stripped data), else NaN."""
    corners = array[np.ix_(*[(0, -1)] * 3)].ravel()
    return float(corners[0]) if (corners == corners[0]).all() else float("nan")


def is_stripped(array: np.ndarray) -> bool:
    """Whether a volume ``(X, Y, Z)`` has one exact background value around the brain."""
    return float(np.mean(array == background_value(array))) >= STRIPPED_SHARE


def clean(mask: np.ndarray) -> np.ndarray:
    """Fill holes and drop small islands of a mask ``(X, Y, Z)``."""
    from scipy import ndimage

    labels, count = ndimage.label(mask)
    if count > 1:
        sizes = np.bincount(labels.ravel())[1:]
        keep = np.flatnonzero(sizes >= ISLAND_SHARE * sizes.max()) + 1
        mask = np.isin(labels, keep)
    return np.asarray(ndimage.binary_fill_holes(mask), bool)


def brain_mask(
    arrays: Mapping[str, np.ndarray], given: np.ndarray | None, mode: str, case: str = ""
) -> tuple[np.ndarray, str, str]:
    """The brain mask of a case.

    Args:
        arrays: contrast -> ``(X, Y, Z)`` scanner units; the source contrasts, so that training and synthesis agree.
        given: ``(X, Y, Z)`` mask file's voxels, or None.
        mode: one of `MODES`.
        case: for messages.

    Returns:
        ``(X, Y, Z)`` bool, the mode that was used, and a notice (empty if there is nothing to say).

    Raises:
        UsageError: unknown mode.
        DataError: the mode needs what is not there, or the mask is empty.
    """
    if mode not in MODES:
        raise UsageError(f"unknown mask mode {mode!r}: {did_you_mean(mode, MODES)}")
    notice = ""
    if mode == "auto":
        stripped = all(is_stripped(array) for array in arrays.values())
        mode = "file" if given is not None else "nonzero" if stripped else "otsu"
    if mode == "file":
        if given is None:
            raise DataError(f"case {case} has no mask file, and prepare.mask=file needs one; add it, or use prepare.mask=auto.")
        mask = np.asarray(given) > 0
    elif mode == "nonzero":
        mask = clean(np.logical_or.reduce([_foreground(array) for array in arrays.values()]))
    else:
        notice = OTSU_NOTICE
        mask = _otsu(next(iter(arrays.values())))
    if not mask.any():
        raise DataError(f"case {case}: the brain mask ({mode}) is empty; check the mask or the images.")
    return mask, mode, notice


def _foreground(array: np.ndarray) -> np.ndarray:
    value = background_value(array)
    return np.asarray(array != (value if np.isfinite(value) else 0))


def _otsu(array: np.ndarray) -> np.ndarray:
    from scipy import ndimage
    from skimage.filters import threshold_otsu

    if float(array.min()) == float(array.max()):
        return np.zeros(array.shape, bool)
    # the root evens out bright fat and vessels, which would otherwise pull the threshold above grey matter
    root = np.sqrt(np.clip(array - array.min(), 0, None))
    mask = root > threshold_otsu(root)
    mask = ndimage.binary_closing(mask, iterations=2)
    labels, count = ndimage.label(mask)
    if count > 1:
        mask = labels == np.bincount(labels.ravel())[1:].argmax() + 1
    return np.asarray(ndimage.binary_fill_holes(mask), bool)
