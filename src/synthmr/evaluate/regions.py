"""Where a prediction is wrong: regions to score apart, slices that jump, seams between tiles, lesions invented or missed.

| score | formula | right | range |
|---|---|---|---|
| `slice_consistency` jump | mean abs(g[s+1] - g[s]) / mean abs(y[s+1] - y[s]) | 1 | [0, inf] |
| `slice_consistency` stripes | 1 + sd over s of mean(e[s+1] - e[s]) / mean abs(y[s+1] - y[s]) | 1 | [1, inf] |
| `seam_score` | sum abs(error step) across tile borders / the same, expected from elsewhere | 1 | [0, inf] |
| `false_lesion` false_bright | share of the mask that is bright in the prediction alone | 0 | [0, 1] |
| `false_lesion` missed_bright | share of the mask that is bright in the truth alone | 0 | [0, 1] |

y is the truth, g the prediction, e = g - y, s a slice. These are scores of our own: no paper defines them. They read their
"right" value for a perfect prediction; none rescales the prediction, and a threshold is fixed by the truth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from synthmr.case import PLANES
from synthmr.errors import DataError, UsageError
from synthmr.evaluate.checks import bounding_box, check_finite, check_shapes, check_spacing, counted, select
from synthmr.labels import AUTO, Convention, Meaning, decide, get, present_in

#: how deep the region "boundary" reaches: voxels, or mm where the spacing is known
BOUNDARY = 3.0

#: `bright_threshold` lies this many standard deviations over the mean of the truth's normal brain
BRIGHT_SDS = 2.5


def region_masks(
    mask: np.ndarray,
    segmentation: np.ndarray | None = None,
    tissue: np.ndarray | None = None,
    *,
    convention: str | Path | Convention | Meaning | None = AUTO,
    tissues: str | Path | Convention | Mapping[int, str] = "tissue",
    spacing: Sequence[float] | None = None,
    boundary: float = BOUNDARY,
) -> dict[str, np.ndarray]:
    """The regions of one case, to pass to any metric as its mask.

    ``brain`` is the mask; ``boundary`` its shell, the voxels no further than ``boundary`` from the nearest voxel centre
    outside (outside the volume too); ``lesion`` what has a label above 0, if that is no healthy tissue, and ``non-lesion``
    the rest of the brain; then, where it is known what the labels mean, ``WT``, ``TC`` and ``ET`` of a tumour, and the parts that
    are in none of these; then a region a tissue, without lesions. All lie inside the mask.

    Args:
        mask: ``(X, Y, Z)`` bool, the brain.
        segmentation: the same shape, whole numbers of 0 and up (or bool); None where there is none.
        tissue: the same shape, whole numbers; 0 is no tissue.
        convention: of ``segmentation``: a name of `synthmr.labels.conventions`, your own YAML file, or how a cohort is read
            (`synthmr.labels.decide`); ``auto``: what these labels alone tell, which is little; None: no parts.
        tissues: of ``tissue``: a convention, or label -> name.
        spacing: mm a voxel; with it ``boundary`` is in mm, without in voxels.
        boundary: depth of the shell.

    Returns:
        name -> bool ``(X, Y, Z)``, in the order above; empty regions are left out.

    Raises:
        DataError: shapes differ, the mask is not bool or empty, or labels are not what is said above.
        UsageError: there is no such convention, or ``spacing`` or ``boundary`` is not positive.
    """
    check_shapes(mask, mask, mask)
    if not mask.any():
        raise DataError("there is no region: the mask is empty; check the brain mask.")
    found = {"brain": mask.copy(), "boundary": _shell(mask, spacing, boundary)}
    normal = mask
    if segmentation is not None:
        labels = _labels(segmentation, mask, "segmentation")
        meaning = _meaning(labels, convention)
        parts = {} if meaning is None else meaning.masks(labels)
        lesion = mask & (labels > 0 if meaning is None else meaning.lesion(labels))
        normal = mask & ~lesion
        found |= {"lesion": lesion, "non-lesion": normal} | {name: part & mask for name, part in parts.items()}
    if tissue is not None:
        labels = _labels(tissue, mask, "tissue map")
        words = tissues if isinstance(tissues, Mapping) else get(tissues).labels
        unknown = sorted(set(present_in(labels)) - {0, *words})
        if unknown:
            known_labels = ", ".join(str(label) for label in words if label)
            raise DataError(f"the tissue map holds label {unknown[0]}, known are {known_labels}; name it in tissues.")
        for label, name in words.items():
            if name != "background":
                found[name] = ((labels == label) & normal) | found.get(name, False)
    return {name: part for name, part in found.items() if part.any()}


def _meaning(labels: np.ndarray, convention: str | Path | Convention | Meaning | None) -> Meaning | None:
    """How the labels are read; None where no parts are wanted."""
    if convention is None or isinstance(convention, Meaning):
        return convention
    # all labels of the volume: a 4 outside the mask still tells which convention this is
    return decide(present_in(labels), named=convention)


def _labels(values: np.ndarray, mask: np.ndarray, what: str) -> np.ndarray:
    """Labels as int64.

    Raises:
        DataError: another shape than the mask's, or not whole numbers of 0 and up.
    """
    if values.shape != mask.shape:
        raise DataError(f"{what} {values.shape} and mask {mask.shape} differ in shape; bring them onto one grid.")
    if np.issubdtype(values.dtype, np.floating) and not (np.isfinite(values).all() and (values == np.rint(values)).all()):
        raise DataError(f"the {what} holds values that are no whole numbers; resample labels with nearest neighbour.")
    labels = values.astype(np.int64)
    if labels.min(initial=0) < 0:
        raise DataError(f"the {what} holds label {labels.min()}; labels are 0 and up.")
    return labels


def _shell(mask: np.ndarray, spacing: Sequence[float] | None, depth: float) -> np.ndarray:
    from scipy import ndimage

    scale = np.ones(mask.ndim) if spacing is None else check_spacing(spacing, mask.ndim)
    if not (math.isfinite(depth) and depth > 0):
        raise UsageError(f"boundary={depth} is no depth; give a number above 0 (voxels, or mm with spacing).")
    box = bounding_box(mask)
    inner = np.pad(mask[box], 1)
    distance = ndimage.distance_transform_edt(inner, sampling=scale)
    near = distance <= depth
    if not (near & inner).any():  # every voxel is larger than the depth: one of them is the boundary
        near = distance <= float(scale.max())
    shell = np.zeros(mask.shape, np.bool_)
    shell[box] = (near & inner)[(slice(1, -1),) * mask.ndim]
    return shell


class SliceConsistency(NamedTuple):
    """How slices of one plane fit together; 1 and 1 for a perfect prediction.

    Attributes:
        jump: mean absolute step of the prediction from slice to slice over the truth's. Above 1: slices jump, or noise;
            below: smoothed across slices.
        stripes: 1 + standard deviation of the step in mean error, in units of the truth's mean absolute step. Noise and blur
            average out in a slice's mean; a gain or offset that changes from slice to slice does not.
    """

    jump: float
    stripes: float


def slice_consistency(prediction: np.ndarray, truth: np.ndarray, mask: np.ndarray, axis: int) -> SliceConsistency:
    """Intensity jumps between neighbouring slices along ``axis``, relative to the truth's.

    Only voxels count that are in the mask in both slices. The mean steps of `SliceConsistency.stripes` are weighted by how
    many those are, so that a few voxels at the top of the head do not dominate. An offset changes neither number; a gain
    of the whole prediction scales jump. Where the truth does not change along the axis: 1 where the prediction does the
    same, else inf.

    Args:
        prediction: ``(X, Y, Z)``.
        truth: the same shape.
        mask: bool, the same shape.
        axis: that the slices are stacked along (RAS: 0 sagittal, 1 coronal, 2 axial).

    Raises:
        DataError: shapes differ, NaN, an empty mask, or no voxel that is in the mask in two neighbouring slices.
        UsageError: there is no such axis.
    """
    counted(prediction, truth, mask)
    if not 0 <= axis < truth.ndim:
        raise UsageError(f"axis={axis} of an array with {truth.ndim} axes; give 0 to {truth.ndim - 1}.")
    steps_g, steps_y, both = _steps(prediction, truth, mask, axis)
    if not both.any():
        raise DataError(f"no voxel is in the mask in two neighbouring slices along axis {axis}; a single slice has no consistency.")
    scale = float(np.mean(np.abs(steps_y[both])))
    jump = _over(float(np.mean(np.abs(steps_g[both]))), scale)
    plane = tuple(other for other in range(truth.ndim) if other != axis)
    counts = both.sum(axis=plane)
    sums = np.where(both, steps_g - steps_y, 0).sum(axis=plane)
    means, weights = sums[counts > 0] / counts[counts > 0], counts[counts > 0]
    centre = np.average(means, weights=weights)
    spread = math.sqrt(float(np.average((means - centre) ** 2, weights=weights)))
    return SliceConsistency(jump, 1 + (_over(spread, scale) if spread else 0.0))


def consistency(prediction: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> dict[str, SliceConsistency]:
    """`slice_consistency` of RAS volumes in the planes axial, coronal and sagittal. A plane with a single slice raises.

    Raises:
        DataError: as `slice_consistency`, or the arrays are no volumes.
    """
    if truth.ndim != 3:
        raise DataError(f"slice consistency is of volumes (X, Y, Z), not of shape {truth.shape}; give the whole volume.")
    return {plane: slice_consistency(prediction, truth, mask, PLANES[plane]) for plane in ("axial", "coronal", "sagittal")}


def seam_score(prediction: np.ndarray, truth: np.ndarray, mask: np.ndarray, borders: Sequence[Sequence[int]]) -> float:
    """Steps of the error across tile borders, relative to its steps elsewhere.

    The sum of ``|e[p] - e[p-1]|`` over all voxel pairs across borders (both in the mask), over the sum expected if those
    steps were as large as the mean of the other pairs of the same axis.

    Args:
        prediction: ``(X, Y, Z)``.
        truth: the same shape.
        mask: bool, the same shape.
        borders: for each axis the positions p of borders, each between the voxels p - 1 and p; an empty sequence for an
            axis without tiles. Where tiles overlap, give the edges of the overlap.

    Returns:
        1: no seam, also where the error is 0 everywhere; above 1: seams; inf where there are steps at borders alone.

    Raises:
        DataError: shapes differ, NaN, an empty mask, no pair across a border in the mask, or none elsewhere to compare with.
        UsageError: not a sequence for each axis, or a position that is not between two voxels.
    """
    counted(prediction, truth, mask)
    if len(borders) != truth.ndim:
        raise UsageError(f"borders for {len(borders)} axes of an array with {truth.ndim}; give a sequence for each, () for none.")
    found = expected = 0.0
    crossed = False
    for axis, places in enumerate(borders):
        wrong = [place for place in places if not 1 <= place < truth.shape[axis]]
        if wrong:
            raise UsageError(
                f"tile border {wrong[0]} on axis {axis} of {truth.shape[axis]} voxels; allowed: 1 to {truth.shape[axis] - 1}."
            )
        if not places:
            continue
        steps_g, steps_y, both = _steps(prediction, truth, mask, axis)
        steps = np.moveaxis(np.abs(steps_g - steps_y), axis, 0)
        both = np.moveaxis(both, axis, 0)
        at_border = np.zeros(len(steps), np.bool_)
        at_border[np.asarray(places) - 1] = True
        across, elsewhere = steps[at_border][both[at_border]], steps[~at_border][both[~at_border]]
        if across.size and not elsewhere.size:
            raise DataError(f"every step along axis {axis} crosses a tile border; there is nothing to compare the seams with.")
        if across.size:
            crossed = True
            found += float(across.sum())
            expected += across.size * float(elsewhere.mean())
    if not crossed:
        raise DataError("no tile border runs through the mask; there is no seam to score.")
    return _over(found, expected)


def _steps(prediction: np.ndarray, truth: np.ndarray, mask: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Differences of neighbours along ``axis`` in prediction and truth, and where both neighbours are in the mask."""
    # outside the mask anything may lie, NaN too; it is not counted, and must not warn
    g, y = (np.where(mask, array, 0).astype(np.float64) for array in (prediction, truth))
    last, first = ([slice(None)] * mask.ndim for _ in range(2))
    last[axis], first[axis] = slice(1, None), slice(None, -1)
    return np.diff(g, axis=axis), np.diff(y, axis=axis), mask[tuple(last)] & mask[tuple(first)]


def _over(value: float, scale: float) -> float:
    """``value / scale``; 0 / 0 is 1."""
    if scale == 0:
        return 1.0 if value == 0 else math.inf
    return value / scale


def bright_threshold(truth: np.ndarray, mask: np.ndarray, segmentation: np.ndarray | None = None, sds: float = BRIGHT_SDS) -> float:
    """The intensity above which a voxel is bright: mean + ``sds`` standard deviations of the truth's normal brain.

    The normal brain is the mask without lesions (``segmentation`` > 0); without a segmentation all of the mask, where a
    large lesion raises the threshold. The prediction has no say.

    Raises:
        DataError: shapes differ, NaN, or there is no normal brain.
        UsageError: ``sds`` is not finite.
    """
    if not math.isfinite(sds):
        raise UsageError(f"sds={sds} is no number of standard deviations; give one such as {BRIGHT_SDS}.")
    check_shapes(truth, truth, mask)
    normal = mask if segmentation is None else mask & ~(_labels(segmentation, mask, "segmentation") > 0)
    values = truth[normal].astype(np.float64)
    if not values.size:
        raise DataError("there is no normal brain in the mask to set the threshold by; check mask and segmentation, or give one.")
    check_finite(values, "ground truth")
    return float(values.mean() + sds * values.std())


def false_lesion(
    prediction: np.ndarray,
    truth: np.ndarray,
    mask: np.ndarray,
    threshold: float | None = None,
    *,
    segmentation: np.ndarray | None = None,
    spacing: Sequence[float] | None = None,
) -> dict[str, float]:
    """Lesions that a prediction invents or loses: where it is bright and the truth is not, and the reverse.

    For contrasts that show lesions bright (FLAIR, T2w, contrast-enhanced T1w). Bright is above ``threshold``. Noise and a
    gain above 1 make voxels bright too: read it beside the other scores.

    Args:
        prediction: ``(X, Y, Z)``.
        truth: the same shape.
        mask: bool, the same shape.
        threshold: in the units of the arrays; None: `bright_threshold` of this truth and segmentation.
        segmentation: the same shape, lesions above 0; None where there is none.
        spacing: mm a voxel, for volumes in ml.

    Returns:
        ``threshold``; ``false_bright`` and ``missed_bright``, shares (0 to 1) of the mask's voxels, 0 for a perfect
        prediction; with ``spacing`` also ``false_bright_ml`` and ``missed_bright_ml``; with a segmentation that has
        lesions in the mask also ``lesion_bright`` and ``lesion_bright_both``, the shares of the lesion's voxels that are
        bright in the truth, and in truth and prediction (equal for a perfect one).

    Raises:
        DataError: shapes differ, NaN, or an empty mask.
        UsageError: ``threshold`` is not finite, or ``spacing`` is not a positive number an axis.
    """
    g, y = select(prediction, truth, mask)
    level = bright_threshold(truth, mask, segmentation) if threshold is None else float(threshold)
    if not math.isfinite(level):
        raise UsageError(f"threshold={level} is no intensity; give a number in the units of the truth, or None.")
    bright_g, bright_y = g > level, y > level
    counts = {"false_bright": int((bright_g & ~bright_y).sum()), "missed_bright": int((bright_y & ~bright_g).sum())}
    scores = {"threshold": level} | {name: count / y.size for name, count in counts.items()}
    if spacing is not None:
        millilitres = float(np.prod(check_spacing(spacing, truth.ndim))) / 1000
        scores |= {f"{name}_ml": count * millilitres for name, count in counts.items()}
    if segmentation is not None:
        lesion = _labels(segmentation, mask, "segmentation")[mask] > 0
        if lesion.any():
            scores["lesion_bright"] = float(bright_y[lesion].mean())
            scores["lesion_bright_both"] = float((bright_y & bright_g)[lesion].mean())
    return scores
