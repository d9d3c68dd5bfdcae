"""The brain mask: given, or from non-zero voxels of skull-stripped data, or Otsu's threshold with a clear notice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from synthmr.errors import DataError, UsageError, did_you_mean

MODES = ("auto", "file", "nonzero", "otsu")

#: a volume counts as skull-stripped if at least this share of it has exactly the background value ...
STRIPPED_SHARE = 0.2
#: ... and less than `FAINT_SHARE` of the rest is within `FAINT` of it, in units of the rest's median. Scanners set much of
#: the air to 0, too, but leave noise around the head, and bone and air inside it: 18 to 24 % of the rest in three contrasts
#: of a head as acquired, at most 4 % in 56 skull-stripped volumes of four sources
FAINT, FAINT_SHARE = 0.1, 0.1
#: resampling averages the noise around a head, so that hardly a voxel of it is near 0 any more. Where the middle of what touches
#: the background is darker than `RIM` in units of the rest's 90th percentile, and more than `AIR_SHARE` of the rest is below `AIR`
#: times that, it is air. 90 resampled heads (signal to noise 6 to 30): at most 0.29, at least 0.46; 148 skull-stripped volumes:
#: at least 0.34, or, where resampling blurred their surface, at most 0.32
RIM, AIR, AIR_SHARE = 0.3, 1.5, 0.4
#: voxels along an axis, about, of what the rim is looked for in
RIM_GRID = 128
#: fewer along an axis have no rim to speak of
RIM_LEAST = 16
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
    return float(np.mean(rest < FAINT * np.median(rest))) < FAINT_SHARE and not _in_air(array, value)


def _in_air(array: np.ndarray, value: float) -> bool:
    """Whether what is not background ``(X, Y, Z)`` begins with air, as a head does that was turned or padded."""
    from scipy import ndimage

    part = array[bounding_box(array != value, 1)]
    part = part[tuple(slice(None, None, max(1, edge // RIM_GRID)) for edge in part.shape)]
    there = part != value
    whole = filled(there)
    # what lies beyond the volume is no background: a slab may end in the middle of a brain
    width = 2 if min(part.shape) >= 2 * RIM_LEAST else 1
    rim = whole & ~ndimage.binary_erosion(whole, iterations=width, border_value=1)
    rest = np.abs(part[there] - value)
    if not rim.any() or not rest.size:
        return False
    if min(part.shape) < RIM_LEAST:
        return False  # its rim is all of it
    surface, bright = float(np.median(np.abs(part[rim] - value))), float(np.percentile(rest, 90))
    return surface < RIM * bright and float(np.mean(rest < AIR * surface)) > AIR_SHARE


def bounding_box(mask: np.ndarray, margin: Sequence[int] | int = 0) -> tuple[slice, ...]:
    """The smallest box that holds all of ``mask`` and ``margin`` voxels a side more, inside the array.

    Args:
        mask: any shape; what is not 0 counts.
        margin: voxels a side, one number or one an axis.

    Returns:
        A slice an axis; without elements where the mask is empty.
    """
    extra = (margin,) * mask.ndim if isinstance(margin, int) else tuple(margin)
    box = []
    for axis, more in enumerate(extra):
        hit = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        if not len(hit):
            return (slice(0, 0),) * mask.ndim
        box.append(slice(max(int(hit[0]) - more, 0), min(int(hit[-1]) + 1 + more, mask.shape[axis])))
    return tuple(box)


def clean(mask: np.ndarray) -> np.ndarray:
    """Fill holes and drop small islands of a mask ``(X, Y, Z)``; what lies around the mask makes no difference."""
    from scipy import ndimage

    out = np.zeros(mask.shape, bool)
    box = bounding_box(mask)
    inside = np.asarray(mask[box], bool)
    if inside.size:
        labels, count = ndimage.label(inside)
        if count > 1:
            sizes = np.bincount(labels.ravel())
            sizes[0] = 0
            inside = (sizes >= ISLAND_SHARE * sizes.max())[labels] & inside
        out[box] = filled(inside)
    return out


def filled(mask: np.ndarray) -> np.ndarray:
    """A mask ``(X, Y, Z)`` with its holes filled: background from which no path through faces leads out of the volume.

    What `scipy.ndimage.binary_fill_holes` gives, in a third of its time: that grows the outside voxel by voxel.
    """
    from scipy import ndimage

    labels, _ = ndimage.label(np.pad(~mask, 1, constant_values=True))
    return np.asarray(labels != labels[0, 0, 0], bool)[1:-1, 1:-1, 1:-1]


def brain_mask(
    arrays: Mapping[str, np.ndarray], given: np.ndarray | None, mode: str, case: str = ""
) -> tuple[np.ndarray, str, str]:
    """The brain mask of a case.

    Args:
        arrays: contrast -> ``(X, Y, Z)`` scanner units.
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
    if mode == "file" or (mode == "auto" and given is not None):
        return check_filled(np.asarray(given) > 0 if given is not None else None, "file", case), "file", ""

    def voxels(names: Sequence[str], heads: bool) -> list[np.ndarray]:
        return [head(arrays[name]) if heads else foreground(arrays[name]) for name in names]

    return mask_of(list(arrays), lambda name: is_stripped(arrays[name]), voxels, mode, case)


def mask_of(
    names: Sequence[str],
    stripped: Callable[[str], bool],
    voxels: Callable[[Sequence[str], bool], Sequence[np.ndarray]],
    mode: str,
    case: str = "",
) -> tuple[np.ndarray, str, str]:
    """The brain mask that is made of images, without a mask file; as `brain_mask`.

    Args:
        names: contrasts.
        stripped: whether an image is skull-stripped; see `is_stripped`.
        voxels: of some images ``(X, Y, Z)`` bool each, on one grid: what is not background, or, if asked, the head.
        mode: nonzero, otsu or auto.
        case: for messages.
    """
    notice, used = "", list(names)
    if mode == "auto":
        used = [name for name in names if stripped(name)]
        mode = "nonzero" if used else "otsu"
        if 0 < len(used) < len(names):
            whole = ", ".join(name for name in names if name not in used)
            notice = MIXED_NOTICE.format(stripped=", ".join(used), whole=whole)
    if mode == "nonzero":
        mask = clean(np.logical_or.reduce(voxels(used, False)))
    else:
        notice = OTSU_NOTICE
        (mask,) = voxels(names[:1], True)
    return check_filled(mask, mode, case), mode, notice


def check_filled(mask: np.ndarray | None, mode: str, case: str) -> np.ndarray:
    """Check that there is a mask, and a brain in it.

    Raises:
        DataError: there is none.
    """
    if mask is None:
        raise DataError(f"case {case} has no mask file, and prepare.mask=file needs one; add it, or use prepare.mask=auto.")
    if not mask.any():
        raise DataError(f"case {case}: the brain mask (prepare.mask={mode}) is empty; check the mask file or the images.")
    return mask


def foreground(array: np.ndarray) -> np.ndarray:
    """``(X, Y, Z)`` bool: what is not the background value."""
    value = background_value(array)
    return np.asarray(array != (value if np.isfinite(value) else 0))


def otsu_threshold(values: np.ndarray, bins: int = 256) -> float:
    """The value that parts ``values`` (any shape, finite) into two classes that lie furthest apart (Otsu, 1979).

    The histogram has ``bins`` equal bins from the smallest value to the largest; the threshold is the middle of the last bin
    of the lower class, the one with the largest variance between classes, ``w1 w2 (m1 - m2)^2``. Where all values agree it is
    their value.
    """
    low, high = float(values.min()), float(values.max())
    if low == high:
        return low
    counts, edges = np.histogram(values, bins)
    counts, middles = counts.astype(np.float64), (edges[:-1] + edges[1:]) / 2
    below, sums = np.cumsum(counts)[:-1], np.cumsum(counts * middles)[:-1]
    above, rest = counts.sum() - below, (counts * middles).sum() - sums
    # the first bin holds the smallest value and the last the largest: neither class is ever empty
    between = below * above * (sums / below - rest / above) ** 2
    return float(middles[np.argmax(between)])


def head(array: np.ndarray) -> np.ndarray:
    """``(X, Y, Z)`` bool: the head of a volume that is not skull-stripped; empty for a constant volume."""
    from scipy import ndimage

    if float(array.min()) == float(array.max()):
        return np.zeros(array.shape, bool)
    # the root evens out bright fat and vessels, which would otherwise pull the threshold above grey matter
    root = np.sqrt(np.clip(array - array.min(), 0, None))
    mask = root > otsu_threshold(root)
    # a closing whose erosion takes what lies beyond the volume for head: else a head that the edge cuts loses its last slices
    mask = ndimage.binary_erosion(ndimage.binary_dilation(mask, iterations=2), iterations=2, border_value=1)
    labels, count = ndimage.label(mask)
    if count > 1:
        mask = labels == np.bincount(labels.ravel())[1:].argmax() + 1
    return filled(mask)
