"""Apply a protocol to a prediction beside its truth: units, grid, slices, region, then one number a metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from synthmr.case import PLANES, PreparedCase
from synthmr.errors import DataError
from synthmr.evaluate import metrics
from synthmr.evaluate.checks import bounding_box
from synthmr.evaluate.protocols import Protocol

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class ScoreInput:
    """A prediction beside its truth, in [0, 1] units of the truth, with its place in the original volume.

    Attributes:
        prediction: ``(X, Y, Z)`` RAS; not clipped, so it may leave [0, 1].
        truth: ``(X, Y, Z)``, the same grid.
        mask: ``(X, Y, Z)`` bool, the brain.
        start: first voxel of these arrays in the original RAS grid; (0, 0, 0) where they are the whole grid. What lies outside
            the arrays is 0 in both images.
        shape: of the original RAS grid; None where the arrays are the whole grid.
        label: for messages, ``"FLAIR of case X"``.
        lesion: ``(X, Y, Z)`` bool, or None where no label is known.
        spacing: voxel edges in mm.
        peak: the truth's maximum before its normaliser clipped it; None: that of the array.
    """

    prediction: Array
    truth: Array
    mask: Array
    start: tuple[int, int, int] = (0, 0, 0)
    shape: tuple[int, int, int] | None = None
    label: str = field(default="")
    lesion: Array | None = None
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    peak: float | None = None


def score_input(prediction: Array, prepared: PreparedCase, contrast: str) -> ScoreInput:
    """Put a prediction beside the truth of a prepared case.

    Args:
        prediction: ``(X, Y, Z)`` on the prepared grid, in the units of the truth's normaliser.
        prepared: holds the truth, its normaliser, the mask and the history.
        contrast: which image is the truth.

    Raises:
        DataError: the case has no such image, or the shapes differ.
    """
    from synthmr.prepare.normalize import peak, to_unit

    label = f"{contrast} of case {prepared.name}"
    if contrast not in prepared.images or contrast not in prepared.normalizers:
        raise DataError(f"case {prepared.name} has no {contrast} to score against; give the file, or leave the case out.")
    params, truth = prepared.normalizers[contrast], np.asarray(prepared.images[contrast], np.float32)
    mask = np.asarray(prepared.mask) > 0
    place: dict[str, Any] = {}
    for step in prepared.history:
        if step["step"] == "crop":
            place = {"start": tuple(step["start"]), "shape": tuple(step["shape"])}
    lesion = None if prepared.segmentation is None else np.asarray(prepared.segmentation) > 0
    images = to_unit(prediction, params), to_unit(truth, params)
    return ScoreInput(*images, mask, label=label, lesion=lesion, spacing=prepared.spacing, peak=peak(params), **place)


def scorable(scored: ScoreInput, protocol: Protocol) -> str:
    """Why a prediction cannot be scored under a protocol (no lesion label, nothing to rescale by); empty where it can."""
    if protocol.rescales and not (scored.prediction > 0).any():
        return f"{protocol.name} divides by the prediction's own values, and {scored.label or 'this image'} has none above 0"
    if not protocol.needs_segmentation:
        return ""
    if scored.lesion is None:
        return f"{protocol.name} needs a segmentation, and there is none of {scored.label or 'this image'}"
    if not (scored.lesion & scored.mask).any():
        return f"{protocol.name} needs a lesion, and the segmentation of {scored.label or 'this image'} has none in the brain"
    return ""


def score(scored: ScoreInput, protocol: Protocol, names: Sequence[str] = ()) -> dict[str, float]:
    """Score one prediction under one protocol.

    Args:
        scored: both images.
        protocol: the convention.
        names: metrics other than the protocol's own.

    Returns:
        metric -> value; with several regions ``metric@region``. `metrics` documents each and its special values: PSNR is inf
        where both are equal; NaN, as a stated special value, only where a mean over slices has no slice to count.

    Raises:
        DataError: shapes differ, NaN or infinity, an empty mask, or no lesion label where one is needed.
        UsageError: an unknown metric.
    """
    label = scored.label or "the prediction"
    if names:
        protocol = replace(protocol, metrics=tuple(names))
    missing = scorable(scored, protocol)
    if missing:
        raise DataError(f"{missing}; give what is missing, or leave this protocol out.")
    try:
        metrics.check_shapes(scored.prediction, scored.truth, scored.mask)
        metrics.check_finite(scored.prediction, "prediction")
        metrics.check_finite(scored.truth, "ground truth")
        if not scored.mask.any():
            raise DataError("the brain mask is empty; check the mask.")
        found: dict[str, float] = {}
        units = _units(scored, protocol)
        for region in protocol.regions:
            values = _region(units, protocol, region)
            found |= values if len(protocol.regions) == 1 else {f"{name}@{region}": value for name, value in values.items()}
        return found
    except DataError as error:
        raise DataError(f"{label} cannot be scored under {protocol.name}: {error}") from None


def region_scores(
    scored: ScoreInput, protocol: Protocol, regions: Mapping[str, Array], names: Sequence[str] = ()
) -> dict[str, float]:
    """Scores of `protocol` in other regions than its own: ``metric@region`` -> value.

    Args:
        scored: both images.
        protocol: its units and metrics; scores are over all voxels of a region at once.
        regions: name -> bool ``(X, Y, Z)``, the arrays' grid; inside the brain and not empty.
        names: metrics other than the protocol's.
    """
    chosen = tuple(names) or protocol.metrics
    protocol = replace(protocol, metrics=chosen, per="volume", crop=None, resize=None, slices="all", middle=0)
    units = _units(scored, protocol)
    # the images keep the brain around a region: its border is no edge of the head
    prediction, truth, _ = _masked(units, "brain")
    box = _box(scored.mask, 0)
    found: dict[str, float] = {}
    for region, mask in regions.items():
        values = _values(protocol, prediction, truth, _pad(mask[box]), _range(protocol, units))
        found |= {f"{name}@{region}": value for name, value in values.items()}
    return found


# --- units --------------------------------------------------------------------------------------------------------------


def _units(scored: ScoreInput, protocol: Protocol) -> ScoreInput:
    """Both images in the protocol's units; no slice or crop is taken yet."""
    prediction, truth, factor = scored.prediction, scored.truth, protocol.scale
    if protocol.units == "truth-max":
        factor /= _positive(_peak(scored), "maximum")
    elif protocol.units == "truth-mean":
        factor /= _positive(float(truth.sum(dtype=np.float64)) / math.prod(scored.shape or truth.shape), "mean")
    elif protocol.units == "own-max":
        prediction = prediction / _positive(float(prediction.max()), "maximum", "prediction")
        truth = truth / _positive(float(truth.max()), "maximum")
    elif protocol.units == "own-percentiles":
        prediction, truth = _own_percentiles(prediction, scored, "prediction"), _own_percentiles(truth, scored, "ground truth")
    if protocol.rescales:
        return replace(scored, prediction=prediction * np.float32(factor), truth=truth * np.float32(factor), peak=factor)
    scale = np.float32(factor)
    return replace(scored, prediction=prediction * scale, truth=truth * scale, peak=_peak(scored) * factor)


def _peak(scored: ScoreInput) -> float:
    """The truth's maximum, unclipped where that is known."""
    return scored.peak if scored.peak is not None else float(scored.truth.max())


def _own_percentiles(image: Array, scored: ScoreInput, what: str) -> Array:
    """An image clipped to its 0.5 and 99.5 percentiles over the whole original grid, on [0, 1]; none below 0."""
    outside = math.prod(scored.shape or image.shape) - image.size
    values = np.concatenate([image.ravel(), np.zeros(outside, image.dtype)])
    low, high = (float(value) for value in np.percentile(values, [0.5, 99.5]))
    low = max(low, 0.0)
    if high <= low:
        raise DataError(f"the {what}'s 0.5 and 99.5 percentiles leave no range to map to [0, 1].")
    return np.asarray((np.clip(image, low, high) - low) / (high - low), np.float32)


def _positive(value: float, what: str, whose: str = "ground truth") -> float:
    if not value > 0:
        raise DataError(f"the {whose}'s {what} is {value:g}, and this protocol divides by it.")
    return value


def _range(protocol: Protocol, units: ScoreInput) -> float:
    """R of a volume in the protocol's units; 0 where the truth has none."""
    if protocol.data_range == "truth-max":
        return max(_peak(units), 0.0)
    return float(protocol.data_range) * protocol.scale


def _slice_range(protocol: Protocol, truth: Array) -> float:
    """R of one slice in the protocol's units; 0 where the truth has none."""
    return max(float(truth.max()), 0.0) if protocol.data_range == "truth-max" else float(protocol.data_range) * protocol.scale


# --- region and slices --------------------------------------------------------------------------------------------------


def _region(units: ScoreInput, protocol: Protocol, region: str) -> dict[str, float]:
    """Scores in one region."""
    if protocol.per == "volume" and not _sliced(protocol):
        prediction, truth, counted = _whole(units) if region == "whole" else _masked(units, region)
        return _values(protocol, prediction, truth, counted, _range(protocol, units))
    prediction, truth, counted = _stack(units, protocol, region)
    if protocol.per == "volume":
        return _values(protocol, prediction, truth, counted, _range(protocol, units))
    return _slice_means(protocol, prediction, truth, counted)


def _sliced(protocol: Protocol) -> bool:
    """Whether slices are chosen or changed before anything is counted."""
    return protocol.crop is not None or protocol.resize is not None or protocol.slices != "all" or bool(protocol.middle)


def _mask(units: ScoreInput, region: str) -> Array:
    """What counts; non-lesion is everything else, background too, for the protocols that score it do so."""
    if region == "brain" or units.lesion is None:
        return units.mask
    return units.lesion & units.mask if region == "lesion" else ~units.lesion


def _whole(units: ScoreInput) -> tuple[Array, Array, None]:
    """The whole original grid."""
    shape = units.shape or units.truth.shape
    return _place(units.prediction, units.start, shape), _place(units.truth, units.start, shape), None


def _masked(units: ScoreInput, region: str) -> tuple[Array, Array, Array]:
    """Both images, 0 outside the region, in a box that holds all that counts; and the region."""
    mask = _mask(units, region)
    if region == "non-lesion":
        prediction, truth, _ = _whole(units)
        kept = _place(~mask, units.start, truth.shape) == 0
        return np.where(kept, prediction, 0), np.where(kept, truth, 0), kept
    # SSIM windows reach 5 voxels beyond the mask: give them the background, however tightly the brain was cropped
    box = _box(mask, 0)
    kept = mask[box]
    return _pad(np.where(kept, units.prediction[box], 0)), _pad(np.where(kept, units.truth[box], 0)), _pad(kept)


def _stack(units: ScoreInput, protocol: Protocol, region: str) -> tuple[Array, Array, Array | None]:
    """The protocol's slices of the original grid, cropped and resized: ``(S, columns, rows)``, and which pixels count."""
    axis = PLANES[protocol.plane]
    shape = units.shape or units.truth.shape
    across = [size for number, size in enumerate(shape) if number != axis]
    crop = protocol.crop or tuple(across)
    size = list(crop)
    size.insert(axis, shape[axis])
    first = [(whole - part) // 2 for whole, part in zip(shape, size, strict=True)]
    offset = [begin - corner for begin, corner in zip(units.start, first, strict=True)]

    def placed(array: Array) -> Array:
        return np.moveaxis(_place(array, offset, size), axis, 0)

    prediction, truth = placed(units.prediction), placed(units.truth)
    counted = None
    if region == "non-lesion":
        counted = placed(~_mask(units, region)) == 0
    elif region != "whole":
        counted = placed(_mask(units, region)) > 0
    indices = chosen_slices(units, protocol)
    if not len(indices):
        raise DataError(f"no {protocol.plane} slice has what the protocol counts ({protocol.slices}); check mask and labels.")
    prediction, truth = prediction[indices], truth[indices]
    counted = None if counted is None else counted[indices]
    if counted is not None:
        prediction, truth = np.where(counted, prediction, 0), np.where(counted, truth, 0)
    if protocol.resize is not None:
        prediction, truth = _resize(prediction, protocol.resize), _resize(truth, protocol.resize)
        counted = None if counted is None else _resize(counted.astype(np.float32), protocol.resize) >= 0.5
    return prediction, truth, counted


def chosen_slices(scored: ScoreInput, protocol: Protocol) -> Array:
    """The numbers of the slices of the original grid that a protocol counts; what its crop leaves out of them plays no part."""
    axis = PLANES[protocol.plane]
    if protocol.slices == "all":
        indices = np.arange((scored.shape or scored.truth.shape)[axis])
    else:
        shown = scored.lesion & scored.mask if protocol.slices == "lesion" and scored.lesion is not None else scored.mask
        indices = scored.start[axis] + np.flatnonzero(shown.any(axis=tuple(other for other in range(3) if other != axis)))
    if protocol.middle and len(indices) > protocol.middle:
        begin = (len(indices) - protocol.middle) // 2
        indices = indices[begin : begin + protocol.middle]
    return indices


def _resize(stack: Array, size: Sequence[int]) -> Array:
    """Linear interpolation of ``(S, columns, rows)`` in its slices."""
    from scipy.ndimage import zoom

    factors = (1.0, size[0] / stack.shape[1], size[1] / stack.shape[2])
    return np.asarray(zoom(stack, factors, order=1, mode="nearest", grid_mode=True))


def _place(array: Array, offset: Sequence[int], size: Sequence[int]) -> Array:
    """Copy ``array`` into zeros of ``size`` so that its first voxel lands on ``offset``; what sticks out is cut off."""
    out = np.zeros(tuple(size), np.float32)
    into, taken = [], []
    for begin, length, limit in zip(offset, array.shape, size, strict=True):
        low, high = max(begin, 0), max(min(begin + length, limit), 0)
        into.append(slice(low, max(high, low)))
        taken.append(slice(low - begin, max(high, low) - begin))
    out[tuple(into)] = array[tuple(taken)]
    return out


def _box(mask: Array, margin: int) -> tuple[slice, ...]:
    """`bounding_box` of a region that must not be empty."""
    if not mask.any():
        raise DataError("there is nothing to score: the region is empty; check mask and labels.")
    return bounding_box(mask, margin)


def _pad(array: Array) -> Array:
    return np.pad(array, metrics.SSIM_RADIUS)


# --- values -------------------------------------------------------------------------------------------------------------


def _values(protocol: Protocol, prediction: Array, truth: Array, mask: Array | None, data_range: float) -> dict[str, float]:
    """Every metric of the protocol over one volume or stack of slices."""
    if data_range <= 0:
        raise DataError("the ground truth has no positive value, and this protocol takes its maximum as the range.")
    axis = None if protocol.ssim != "plane" else 0 if _sliced(protocol) else PLANES[protocol.plane]
    return {name: _value(name, prediction, truth, mask, data_range, protocol, axis) for name in protocol.metrics}


def _slice_means(protocol: Protocol, predictions: Array, truths: Array, masks: Array | None) -> dict[str, float]:
    """A score a slice, then the mean over the slices that have one."""
    values: dict[str, list[float]] = {name: [] for name in protocol.metrics}
    for prediction, truth, mask in _each(predictions, truths, masks):
        data_range = _slice_range(protocol, truth)
        for name in protocol.metrics:
            value = math.nan
            if data_range > 0:
                value = _value(name, prediction, truth, mask, data_range, protocol, None)
            values[name].append(value)
    means = {}
    for name, each in values.items():
        finite = [value for value in each if math.isfinite(value)]
        # every slice the same as its truth: that is inf, not an empty mean
        means[name] = float(np.mean(finite)) if finite else (math.inf if math.inf in each else math.nan)
    return means


def _each(predictions: Array, truths: Array, masks: Array | None) -> Iterator[tuple[Array, Array, Array | None]]:
    for number, (prediction, truth) in enumerate(zip(predictions, truths, strict=True)):
        mask = None if masks is None else masks[number]
        if mask is None or mask.any():
            yield prediction, truth, mask


def _value(
    name: str, prediction: Array, truth: Array, mask: Array | None, data_range: float, protocol: Protocol, axis: int | None
) -> float:
    """One metric; which of R, bins and slice axis it takes is what sets the metrics apart."""
    function: Callable[..., float] = getattr(metrics, name)
    if name == "ssim" and protocol.ssim == "global":
        return metrics.ssim_global(prediction, truth, data_range, mask)
    if name in ("ssim", "ms_ssim"):
        return function(prediction, truth, data_range, mask, axis)
    if name in ("psnr", "nrmse", "mae255", "structure_psnr", "ssim_global"):
        return function(prediction, truth, data_range, mask)
    if name in ("mutual_information", "normalized_mutual_information"):
        return function(prediction, truth, (0.0, data_range), mask, protocol.bins)
    return function(prediction, truth, mask)
