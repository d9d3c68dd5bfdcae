"""Apply a protocol to a prediction beside its truth: units, grid, slices, region, then one number a metric."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from synthmr.case import PLANES, PreparedCase
from synthmr.errors import DataError
from synthmr.evaluate import checks, registry
from synthmr.evaluate.counted import Array, Counted, ScoreInput, Shared, Units, chosen_slices, sliced
from synthmr.evaluate.protocols import Protocol
from synthmr.evaluate.registry import Metric
from synthmr.labels import Meaning
from synthmr.prepare import units as unit_scale

__all__ = ["Array", "ScoreInput", "Shared", "chosen_slices", "region_scores", "scorable", "score", "score_input"]

#: nearer to 0 than this is the background outside the brain
ZERO = 1e-6

#: region -> metric -> value
Values = dict[str, dict[str, float]]


def score_input(
    prediction: Array,
    prepared: PreparedCase,
    contrast: str,
    units: unit_scale.Units | None = None,
    meaning: Meaning | None = None,
) -> ScoreInput:
    """Put a prediction beside the truth of a prepared case, both on the unit scale.

    The truth is mapped by its own normaliser, the prediction by what its run says (``units``): no number of the truth reaches it.

    Args:
        prediction: ``(X, Y, Z)`` on the prepared grid, in the units of the run's normaliser, or on the unit scale already
            where ``units`` is `synthmr.prepare.units.UNIT`.
        prepared: holds the truth, its normaliser, the mask and the history.
        contrast: which image is the truth.
        units: how the run's units become the unit scale; None: those of a bounded normaliser, (y + 1) / 2.
        meaning: what the numbers of the segmentation mean; None: what is above 0 is the lesion.

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
    labels = prepared.segmentation
    lesion = None if labels is None else lesion_of(np.asarray(labels), meaning)
    guess = np.asarray(prediction, np.float32) if units is None else units.apply(prediction)
    if guess.shape == mask.shape:
        # the background is 0 to rounding, and exactly 0 in the truth: empty slices of both must be equal
        guess = np.where(mask | ~(np.abs(guess) < ZERO), guess, np.float32(0))
    more: dict[str, Any] = {"lesion": lesion, "labels": labels, "meaning": meaning}
    more |= {"spacing": prepared.spacing, "peak": peak(params)}
    return ScoreInput(guess, to_unit(truth, params), mask, label=label, **more, **place)


def lesion_of(labels: Array, meaning: Meaning | None) -> Array:
    """Where there is a lesion: as a meaning says, else what is above 0."""
    return labels > 0 if meaning is None else meaning.lesion(labels)


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


def score(scored: ScoreInput, protocol: Protocol, names: Sequence[str] = (), shared: Shared | None = None) -> Values:
    """Score one prediction under one protocol.

    Args:
        scored: both images.
        protocol: the convention.
        names: metrics other than the protocol's own.
        shared: of this very input, where it is scored under several protocols.

    Returns:
        region -> metric -> value. `metrics` documents each and its special values: PSNR is inf where both are equal; NaN, as a
        stated special value, only where a mean over slices has no slice to count.

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
        checks.check_shapes(scored.prediction, scored.truth, scored.mask)
        checks.check_finite(scored.prediction, "prediction")
        checks.check_finite(scored.truth, "ground truth")
        if not scored.mask.any():
            raise DataError("the brain mask is empty; check the mask.")
        shared = shared or Shared(scored)
        units = shared.units(protocol)
        return {region: _region(shared, units, protocol, region) for region in protocol.regions}
    except DataError as error:
        raise DataError(f"{label} cannot be scored under {protocol.name}: {error}") from None


def region_scores(
    scored: ScoreInput,
    protocol: Protocol,
    regions: Mapping[str, Array],
    names: Sequence[str] = (),
    shared: Shared | None = None,
) -> Values:
    """Scores of `protocol` in other regions than its own: region -> metric -> value.

    Args:
        scored: both images.
        protocol: its units and metrics; scores are over all voxels of a region at once.
        regions: name -> bool ``(X, Y, Z)``, the arrays' grid; inside the brain and not empty.
        names: metrics other than the protocol's.
        shared: of this very input, where it is scored under protocols too.
    """
    chosen = tuple(names) or protocol.metrics
    protocol = replace(protocol, metrics=chosen, per="volume", crop=None, resize=None, slices="all", middle=0)
    shared = shared or Shared(scored)
    units = shared.units(protocol)
    return {name: _values(protocol, shared.parts(units, mask), _range(protocol, units)) for name, mask in regions.items()}


# --- ranges -------------------------------------------------------------------------------------------------------------


def _range(protocol: Protocol, units: Units) -> float:
    """R of a volume in the protocol's units; 0 where the truth has none."""
    if protocol.data_range == "truth-max":
        return max(units.peak, 0.0)
    return float(protocol.data_range) * protocol.scale


def _slice_range(protocol: Protocol, one: Counted) -> float:
    """R of one slice in the protocol's units; 0 where the truth has none."""
    if protocol.data_range == "truth-max":
        return max(float(one.truth.max()) * one.gains[1], 0.0)
    return float(protocol.data_range) * protocol.scale


# --- values -------------------------------------------------------------------------------------------------------------


def _region(shared: Shared, units: Units, protocol: Protocol, region: str) -> dict[str, float]:
    """Scores in one region."""
    if protocol.per == "slice":
        return _slice_means(protocol, shared.slices(units, protocol, region))
    if sliced(protocol):
        return _values(protocol, shared.stack(units, protocol, region), _range(protocol, units))
    return _values(protocol, shared.volume(units, region), _range(protocol, units))


def _values(protocol: Protocol, counted: Counted, data_range: float) -> dict[str, float]:
    """Every metric of the protocol over one volume or stack of slices."""
    if data_range <= 0:
        raise DataError("the ground truth has no positive value, and this protocol takes its maximum as the range.")
    axis = None if protocol.ssim != "plane" else 0 if sliced(protocol) else PLANES[protocol.plane]
    return {name: _value(registry.get(name), counted, data_range, protocol, axis) for name in protocol.metrics}


def _slice_means(protocol: Protocol, slices: Sequence[Counted]) -> dict[str, float]:
    """A score a slice, then the mean over the slices that have one."""
    values: dict[str, list[float]] = {name: [] for name in protocol.metrics}
    for one in slices:
        if one.mask is not None and not one.mask.any():
            continue
        data_range = _slice_range(protocol, one)
        for name, found in values.items():
            found.append(_value(registry.get(name), one, data_range, protocol, None) if data_range > 0 else math.nan)
    means = {}
    for name, each in values.items():
        finite = [value for value in each if math.isfinite(value)]
        # every slice the same as its truth: that is inf, not an empty mean
        means[name] = float(np.mean(finite)) if finite else (math.inf if math.inf in each else math.nan)
    return means


def _value(metric: Metric, counted: Counted, data_range: float, protocol: Protocol, axis: int | None) -> float:
    """One metric of what counts, given what it needs."""
    function, pointwise, needs = metric.function, metric.pointwise, metric.needs
    if protocol.ssim == "global" and metric.one_window is not None:
        # one window over all that counts knows no axis
        function, pointwise, needs = metric.one_window, True, tuple(name for name in needs if name != "slice_axis")
    elif metric.ssim_map:
        return counted.local(data_range, tuple(other for other in range(counted.truth.ndim) if other != axis))
    assert function is not None, metric  # a protocol takes no metric without one
    prediction, truth = counted.vectors if pointwise else counted.images
    given = {
        "mask": None if pointwise else counted.mask,
        "data_range": data_range,
        "value_range": (0.0, data_range),
        "bins": protocol.bins,
        "slice_axis": axis,
        "spacing": counted.spacing,
    }
    return function(prediction, truth, **{name: given[name] for name in needs})
