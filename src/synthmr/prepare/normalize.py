"""Intensity normalisers: parameters from data -> apply -> invert. Plain numpy; parameters are JSON data.

| name | maps | background |
|---|---|---|
| ``percentile`` | low .. the upper percentile of the brain linearly to [-1, 1], clipped | -1 |
| ``minmax`` | low .. maximum of the brain linearly to [-1, 1] (Hi-Net, Section IV-A) | -1 |
| ``zscore`` | subtracts the brain's mean, divides by its standard deviation | value of 0 scanner units |
| ``mean`` | divides by the brain's mean (MILR, Section V-B) | 0 |
| ``nyul`` | piecewise linear, percentiles onto landmarks learnt on training cases, clipped to [-1, 1] (Nyul 2000) | -1 |

``low`` is 0 scanner units where no brain voxel is negative, since air and the background of skull-stripped volumes are 0
there. Where some are negative it is the brain's minimum (``minmax``), or its 0.5th percentile where that is negative, too
(``percentile``, ``nyul``): a few negative voxels that resampling left are clipped, and 0 stays the lower end. Inversion is
exact wherever nothing was clipped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from synthmr.errors import DataError, UsageError, did_you_mean

NAMES = ("minmax", "percentile", "zscore", "mean", "nyul")

#: percentiles between the two ends that `nyul` aligns
DECILES = (10, 20, 30, 40, 50, 60, 70, 80, 90, 95)

#: smallest distance between landmarks on the standard scale (of length 2), so that the map stays invertible in float32 where
#: many voxels of the training cases share one value
LANDMARK_GAP = 1e-3
#: the same for the landmarks of one image, in units of its range
OWN_GAP = 1e-5

_BOUNDED = ("minmax", "percentile", "nyul")


def check_name(name: str) -> None:
    """Check that a normaliser exists.

    Raises:
        UsageError: it does not.
    """
    if name not in NAMES:
        raise UsageError(f"unknown normalizer {name!r}: {did_you_mean(name, NAMES)}")


def value_range(name: str) -> tuple[float, float] | None:
    """(low, high) that normalised values cannot leave, or None.

    Raises:
        UsageError: no such normaliser.
    """
    check_name(name)
    return (-1.0, 1.0) if name in _BOUNDED else None


def _check_values(values: np.ndarray) -> np.ndarray:
    """Brain voxels as float64.

    Raises:
        DataError: there are none, or all are equal.
    """
    values = np.asarray(values, np.float64)
    if values.size == 0:
        raise DataError("the brain mask holds no voxel, so there is no intensity to normalise; check the mask.")
    if float(values.min()) == float(values.max()):
        raise DataError(f"the image is constant inside the brain (every voxel is {float(values.min()):g}); it shows nothing.")
    return values


def _ends(values: np.ndarray, percentile: float) -> tuple[float, float]:
    """(low, high) of the intensity range; the minimum and maximum where the percentiles leave no range."""
    low = min(0.0, float(np.percentile(values, 0.5))) if float(values.min()) < 0 else 0.0
    high = float(np.percentile(values, percentile))
    if high <= low:
        high = float(values.max())
    return (low, high) if high > low else (float(values.min()), high)


def _landmarks(values: np.ndarray, percentile: float) -> np.ndarray:
    """Intensities of low, `DECILES` and high, strictly increasing."""
    low, high = _ends(values, percentile)
    marks = np.concatenate([[low], np.clip(np.percentile(values, DECILES), low, high), [high]])
    steps = np.maximum(np.diff(marks), OWN_GAP * (high - low))
    return low + np.concatenate([[0.0], np.cumsum(steps)])


def landmark_positions(values: np.ndarray, percentile: float = 99.5) -> np.ndarray:
    """Where the landmarks of one image lie in its own range, -1 to 1.

    Args:
        values: brain voxels, 1-D, scanner units.
        percentile: upper end of the range.

    Raises:
        DataError: no voxels, or all voxels equal.
    """
    return positions_of(_landmarks(_check_values(values), percentile))


def positions_of(marks: Sequence[float] | np.ndarray) -> np.ndarray:
    """Where the landmarks of one image, in scanner units, lie in its own range, -1 to 1."""
    marks = np.asarray(marks)
    return np.asarray((marks - marks[0]) / (marks[-1] - marks[0]) * 2 - 1)


def standard_scale(positions: Sequence[np.ndarray]) -> dict[str, Any]:
    """The standard scale of `nyul`: the mean of the training cases' `landmark_positions`, strictly increasing, -1 to 1.

    Raises:
        DataError: no case was given.
    """
    if not len(positions):
        raise DataError("nyul landmarks need at least one training case and there is none.")
    steps = np.maximum(np.diff(np.mean(positions, axis=0)), LANDMARK_GAP)
    scale = np.concatenate([[0.0], np.cumsum(steps)])
    return {"standard": (scale / scale[-1] * 2 - 1).tolist()}


def learn_landmarks(cases: Iterable[np.ndarray], percentile: float = 99.5) -> dict[str, Any]:
    """Learn the standard scale of `nyul` from the brain voxels of the training cases (1-D each, scanner units).

    Raises:
        DataError: no case was given, or an image is constant.
    """
    return standard_scale([landmark_positions(values, percentile) for values in cases])


def fit(name: str, values: np.ndarray, landmarks: Mapping[str, Any] | None = None, percentile: float = 99.5) -> dict[str, Any]:
    """Parameters of one image.

    Args:
        name: one of `NAMES`.
        values: brain voxels, 1-D, scanner units.
        landmarks: for nyul, from `learn_landmarks`.
        percentile: upper percentile that counts as the top of the range.

    Returns:
        ``{"name": ..., parameters}``; always with ``high``, the brain's upper percentile (or maximum), and ``max``, its maximum, in
        scanner units.

    Raises:
        UsageError: unknown name, or nyul without landmarks.
        DataError: no voxels, or all voxels equal.
    """
    check_name(name)
    values = _check_values(values)
    low, high = _ends(values, percentile)
    most = float(values.max())
    if name == "percentile":
        return {"name": name, "low": low, "high": high, "max": most}
    if name == "minmax":
        return {"name": name, "low": min(0.0, float(values.min())), "high": most, "max": most}
    if name == "zscore":
        return {"name": name, "mean": float(values.mean()), "sd": float(values.std()), "high": high, "max": most}
    if name == "mean":
        mean = float(values.mean())
        if mean <= 0:
            raise DataError(f"the brain's mean is {mean:g}, and the mean normaliser divides by it; use another normalizer.")
        return {"name": name, "mean": mean, "high": high, "max": most}
    if landmarks is None:
        raise UsageError("the nyul normalizer needs landmarks learnt on training cases, and none were given.")
    marks = _landmarks(values, percentile)
    return {"name": name, "own": marks.tolist(), "standard": list(landmarks["standard"]), "high": float(marks[-1]), "max": most}


def apply(array: np.ndarray, params: Mapping[str, Any]) -> np.ndarray:
    """Scanner units -> normalised units, float32, same shape."""
    name = params["name"]
    data = np.asarray(array, np.float32)
    if name in ("percentile", "minmax"):
        out = (data - params["low"]) * (2 / (params["high"] - params["low"])) - 1
        return np.clip(out, -1, 1, dtype=np.float32)
    if name == "zscore":
        return ((data - params["mean"]) / params["sd"]).astype(np.float32)
    if name == "mean":
        return (data / params["mean"]).astype(np.float32)
    return np.interp(data, params["own"], params["standard"]).astype(np.float32)


def invert(array: np.ndarray, params: Mapping[str, Any]) -> np.ndarray:
    """Normalised units -> scanner units, float32, same shape; inverse of `apply` wherever that clipped nothing."""
    name = params["name"]
    data = np.asarray(array, np.float32)
    if name in ("percentile", "minmax"):
        return ((data + 1) * ((params["high"] - params["low"]) / 2) + params["low"]).astype(np.float32)
    if name == "zscore":
        return (data * params["sd"] + params["mean"]).astype(np.float32)
    if name == "mean":
        return (data * params["mean"]).astype(np.float32)
    return np.interp(data, params["standard"], params["own"]).astype(np.float32)


def background(params: Mapping[str, Any]) -> float:
    """The normalised value of voxels outside the brain."""
    if params["name"] in _BOUNDED:
        return -1.0
    return -params["mean"] / params["sd"] if params["name"] == "zscore" else 0.0


def top(params: Mapping[str, Any]) -> float:
    """The normalised value of ``high``: with `background` it spans the range that counts as 0 to 1."""
    if params["name"] in _BOUNDED:
        return 1.0
    scanner = params["high"]
    return float((scanner - params["mean"]) / params["sd"] if params["name"] == "zscore" else scanner / params["mean"])


def to_unit(array: np.ndarray, params: Mapping[str, Any]) -> np.ndarray:
    """Normalised units -> [0, 1], background 0 and ``high`` 1, by one linear map and without clipping."""
    low, high = background(params), top(params)
    return ((np.asarray(array, np.float32) - low) / (high - low)).astype(np.float32)


def peak(params: Mapping[str, Any]) -> float:
    """The brain's maximum in the units of `to_unit`, before any clipping: 1 where it is the top of the range, mostly above.

    Beyond its top a clipping or piecewise linear normaliser is continued by the straight line from its ``low``.
    """
    low = params["own"][0] if params["name"] == "nyul" else params.get("low", 0.0)
    return float((params.get("max", params["high"]) - low) / (params["high"] - low))


def median_params(many: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The element-wise median of the parameters of several images: for a target that was never acquired.

    Raises:
        DataError: none were given.
        UsageError: they are of different normalisers.
    """
    if not many:
        raise DataError("the median of normaliser parameters needs at least one image.")
    names = sorted({params["name"] for params in many})
    if len(names) > 1:
        raise UsageError(f"parameters of different normalisers cannot be merged: {', '.join(names)}.")
    out: dict[str, Any] = {"name": names[0]}
    for key in many[0]:
        if key != "name":
            out[key] = np.median([params[key] for params in many], axis=0).tolist()
    return out
