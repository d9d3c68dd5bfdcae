"""The brain mask: given, or from non-zero voxels of skull-stripped data, or Otsu's threshold with a clear notice."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from synthmr.errors import DataError, UsageError, did_you_mean

MODES = ("auto", "file", "nonzero", "otsu")

#: a volume counts as skull-stripped if at least this share of it has exactly the background value ...
STRIPPED_SHARE = 0.2
#: ... and less than `FAINT_SHARE` of the rest is within `FAINT` of it, in units of the rest's median. Scanners set much of
#: the air to 0, too, but leave noise around the head, and bone and air inside it: 18 to 24 % of the rest in three contrasts
#: of a head as acquired, at most 4 % in 56 skull-stripped volumes of four sources
FAINT, FAINT_SHARE = 0.1, 0.1
#: components smaller than this share of the largest are dropped from a mask that was made here
ISLAND_SHARE = 0.01

OTSU_NOTICE = (
    "no brain mask was given and the images are not skull-stripped: an Otsu threshold found the head, skull and scalp included."
    " Give masks (mask.nii.gz in the case folder) or skull-strip first for scores of the brain alone."
)

MIXED_NOTICE = (
    "no brain mask was given and not all images are skull-stripped: the mask is the non-zero voxels of {stripped}, not of {whole}."
    " Give masks (mask.nii.gz in the case folder), or skull-strip all contrasts."
)


def check_mode(mode: str) -> None:
    """Check that a mask mode exists.

    Raises:
        UsageError: it does not.
    """
    if mode not in MODES:
        raise UsageError(f"unknown mask mode prepare.mask={mode!r}: {did_you_mean(mode, MODES)}")


def background_value(array: np.ndarray) -> float:
    """The value of the volume's corners if they agree (0 in most skull-stripped data), else NaN."""
    corners = array[np.ix_(*[(0, -1)] * 3)].ravel()
    return float(corners[0]) if (corners == corners[0]).all() else float("nan")


def is_stripped(array: np.ndarray) -> bool:
    """Whether a volume ``(X, Y, Z)`` has one exact background value around the brain, and little that is nearly as dark."""
    value = background_value(array)
    rest = np.abs(array[array != value] - value)
    if not np.isfinite(value) or not rest.size or rest.size > (1 - STRIPPED_SHARE) * array.size:
        return False
    return float(np.mean(rest < FAINT * np.median(rest))) < FAINT_SHARE


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
        mode: file (what is above 0 in the mask file), nonzero (the union over the contrasts of what is not background, without
            small islands, holes filled), otsu (the largest component above Otsu's threshold of the first contrast, holes
            filled), or auto: the file if there is one, else the non-zero voxels of the skull-stripped contrasts, else otsu.
        case: for messages.

    Returns:
        ``(X, Y, Z)`` bool, the mode that was used, and a notice (empty if there is nothing to say).

    Raises:
        UsageError: unknown mode.
        DataError: the mode needs what is not there, or the mask is empty.
    """
    check_mode(mode)
    notice = ""
    if mode == "auto" and given is None:
        stripped = [name for name, array in arrays.items() if is_stripped(array)]
        mode = "nonzero" if stripped else "otsu"
        if 0 < len(stripped) < len(arrays):
            whole = ", ".join(name for name in arrays if name not in stripped)
            notice = MIXED_NOTICE.format(stripped=", ".join(stripped), whole=whole)
            arrays = {name: arrays[name] for name in stripped}
    elif mode == "auto":
        mode = "file"
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
        raise DataError(f"case {case}: the brain mask (prepare.mask={mode}) is empty; check the mask file or the images.")
    return mask, mode, notice


def _foreground(array: np.ndarray) -> np.ndarray:
    """``(X, Y, Z)`` bool: what is not the background value."""
    value = background_value(array)
    return np.asarray(array != (value if np.isfinite(value) else 0))


def _otsu(array: np.ndarray) -> np.ndarray:
    """``(X, Y, Z)`` bool: the head of a volume that is not skull-stripped; empty for a constant volume."""
    from scipy import ndimage
    from skimage.filters import threshold_otsu

    if float(array.min()) == float(array.max()):
        return np.zeros(array.shape, bool)
    # the root evens out bright fat and vessels, which would otherwise pull the threshold above grey matter
    root = np.sqrt(np.clip(array - array.min(), 0, None))
    mask = root > threshold_otsu(root)
    # a closing whose erosion takes what lies beyond the volume for head: else a head that the edge cuts loses its last slices
    mask = ndimage.binary_erosion(ndimage.binary_dilation(mask, iterations=2), iterations=2, border_value=1)
    labels, count = ndimage.label(mask)
    if count > 1:
        mask = labels == np.bincount(labels.ravel())[1:].argmax() + 1
    return np.asarray(ndimage.binary_fill_holes(mask), bool)
