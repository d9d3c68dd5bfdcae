"""Scoring protocols: which voxels count, in which units, and how a subject becomes one number. A protocol is data.

A score without its protocol means nothing: one prediction scores from 17 to 33 dB depending on the convention. So every
row that synthmr prints names its protocol, and no protocol ever rescales or clips the prediction. docs/protocols.md has
the reasons and the words for a paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from synthmr.case import PLANES, PreparedCase
from synthmr.errors import DataError, UsageError, did_you_mean
from synthmr.evaluate import metrics


@dataclass(frozen=True)
class Protocol:
    """One scoring convention.

    Attributes:
        name: as typed and printed.
        source: who scores like this.
        region: brain (the mask) or crop (whole slices of the centre crop, background included).
        crop: (X, Y) voxels of the centre crop of the original RAS grid for region crop; None for brain.
        data_range: R of `metrics`, in the units that `units` tells.
        units: what 0 and R are.
        ssim: volume (3-D windows) or a plane's name (2-D windows in its slices).
        empties: what happens to slices without brain.
        aggregation: how voxels become one value a subject, and subjects a table.
        metrics: names, in order of printing.
        words: a sentence for a paper.
    """

    name: str
    source: str
    region: str
    crop: tuple[int, int] | None
    data_range: float
    units: str
    ssim: str
    empties: str
    aggregation: str
    metrics: tuple[str, ...]
    words: str


_METRICS = ("psnr", "ssim", "nmse", "nrmse", "mae")
_UNITS = (
    "the ground truth's own normaliser, mapped linearly so that its background is 0 and the top of its range 1"
    " (from [-1, 1]: (x + 1) / 2; zscore and mean: 0 scanner units is 0, the truth's upper brain percentile is 1)"
)

MASKED_VOLUME = Protocol(
    name="masked-volume",
    source="synthmr",
    region="brain",
    crop=None,
    data_range=1.0,
    units=_UNITS,
    ssim="volume",
    empties="do not exist: only brain voxels count",
    aggregation="all brain voxels of the volume at once, one value a subject; the table is mean and sd over subjects",
    metrics=_METRICS,
    words="Metrics were computed over all voxels of the brain mask, in units fixed by the ground truth alone (data range 1),"
    " one value a subject; the prediction was neither rescaled nor clipped.",
)

HINET2020 = Protocol(
    name="hinet2020",
    source="Zhou et al., Hi-Net, IEEE TMI 2020, sections IV-A and IV-B",
    region="crop",
    crop=(160, 180),
    data_range=1.0,
    units=_UNITS,
    ssim="axial",
    empties="are kept: every axial slice of the original grid counts",
    aggregation="whole slices stacked to a volume, background included, one value a subject; mean and sd over subjects",
    metrics=_METRICS,
    words="Metrics were computed over the 160x180 centre crop of all axial slices stacked to a volume, background included,"
    " on [0, 1]; the peak of PSNR is 1, which is max(y, G(x)) of the paper's formula for images that fill [0, 1].",
)

PROTOCOLS: Mapping[str, Protocol] = {protocol.name: protocol for protocol in (MASKED_VOLUME, HINET2020)}


def get_protocol(name: str) -> Protocol:
    """The protocol called ``name``.

    Raises:
        UsageError: there is none; the message suggests the nearest.
    """
    if name not in PROTOCOLS:
        raise UsageError(f"unknown protocol {name!r}: {did_you_mean(name, PROTOCOLS)}")
    return PROTOCOLS[name]


@dataclass(frozen=True, eq=False)
class ScoreInput:
    """A prediction beside its truth, in [0, 1] units of the truth, with its place in the original volume.

    Attributes:
        prediction: ``(X, Y, Z)`` RAS; not clipped, so it may leave [0, 1].
        truth: ``(X, Y, Z)``, the same grid.
        mask: ``(X, Y, Z)`` bool, the brain. Outside it both arrays hold 0, as `predict_case` and `prepare` leave them.
        start: first voxel of these arrays in the original RAS grid; (0, 0, 0) where they are the whole grid.
        shape: of the original RAS grid; None where the arrays are the whole grid.
        label: for messages, ``"FLAIR of case X"``.
    """

    prediction: np.ndarray
    truth: np.ndarray
    mask: np.ndarray
    start: tuple[int, int, int] = (0, 0, 0)
    shape: tuple[int, int, int] | None = None
    label: str = field(default="")


def score_input(prediction: np.ndarray, prepared: PreparedCase, contrast: str) -> ScoreInput:
    """Put a prediction beside the truth of a prepared case.

    Args:
        prediction: ``(X, Y, Z)`` on the prepared grid, in the units of the truth's normaliser.
        prepared: holds the truth, its normaliser, the mask and the history.
        contrast: which image is the truth.

    Raises:
        DataError: the case has no such image, or the shapes differ.
    """
    from synthmr.prepare.normalize import to_unit

    label = f"{contrast} of case {prepared.name}"
    if contrast not in prepared.images or contrast not in prepared.normalizers:
        raise DataError(f"case {prepared.name} has no {contrast} to score against; give the file, or leave the case out.")
    params, truth = prepared.normalizers[contrast], np.asarray(prepared.images[contrast], np.float32)
    mask = np.asarray(prepared.mask) > 0
    place: dict[str, Any] = {}
    for step in prepared.history:
        if step["step"] == "crop":
            place = {"start": tuple(step["start"]), "shape": tuple(step["shape"])}
    return ScoreInput(to_unit(prediction, params), to_unit(truth, params), mask, label=label, **place)


def score(scored: ScoreInput, protocol: Protocol) -> dict[str, float]:
    """Score one prediction under one protocol.

    Returns:
        metric -> value; `metrics` documents each. PSNR is inf where prediction and truth are equal.

    Raises:
        DataError: shapes differ, NaN or infinity, or an empty mask.
    """
    label = scored.label or "the prediction"
    try:
        metrics.check_shapes(scored.prediction, scored.truth, scored.mask)
        metrics.check_finite(scored.prediction, "prediction")
        metrics.check_finite(scored.truth, "ground truth")
        prediction, truth, mask = _region(scored, protocol)
        return {name: _value(name, prediction, truth, mask, protocol) for name in protocol.metrics}
    except DataError as error:
        raise DataError(f"{label} cannot be scored under {protocol.name}: {error}") from None


def _region(scored: ScoreInput, protocol: Protocol) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The arrays that count and the mask in them."""
    if protocol.crop is None:
        # SSIM windows reach 5 voxels beyond the mask: give them the background, however tightly the brain was cropped
        pad = metrics.SSIM_RADIUS
        return np.pad(scored.prediction, pad), np.pad(scored.truth, pad), np.pad(scored.mask, pad)
    shape = scored.shape or scored.truth.shape
    size = (*protocol.crop, shape[2])
    first = tuple((whole - part) // 2 for whole, part in zip(shape, size, strict=True))
    offset = tuple(begin - corner for begin, corner in zip(scored.start, first, strict=True))
    return _place(scored.prediction, offset, size), _place(scored.truth, offset, size), None


def _place(array: np.ndarray, offset: Sequence[int], size: Sequence[int]) -> np.ndarray:
    """Copy ``array`` into zeros of ``size`` so that its first voxel lands on ``offset``; what sticks out is cut off."""
    out = np.zeros(tuple(size), np.float32)
    into, taken = [], []
    for begin, length, limit in zip(offset, array.shape, size, strict=True):
        low, high = max(begin, 0), max(min(begin + length, limit), 0)
        into.append(slice(low, max(high, low)))
        taken.append(slice(low - begin, max(high, low) - begin))
    out[tuple(into)] = array[tuple(taken)]
    return out


def _value(name: str, prediction: np.ndarray, truth: np.ndarray, mask: np.ndarray | None, protocol: Protocol) -> float:
    if name == "ssim":
        axis = None if protocol.ssim == "volume" else PLANES[protocol.ssim]
        return metrics.ssim(prediction, truth, protocol.data_range, mask, axis)
    if name in ("psnr", "nrmse"):
        return float(getattr(metrics, name)(prediction, truth, protocol.data_range, mask))
    return float(getattr(metrics, name)(prediction, truth, mask))
