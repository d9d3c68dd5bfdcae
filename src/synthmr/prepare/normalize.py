"""Intensity normalisers: parameters from data -> apply -> invert. Plain numpy; parameters are JSON data.

| name | maps | background |
|---|---|---|
| ``percentile`` | low .. the upper percentile of the brain linearly to [-1, 1], clipped | -1 |
| ``minmax`` | low .. maximum of the brain linearly to [-1, 1] (Hi-Net, Section IV-A) | -1 |
| ``zscore`` | subtracts the brain's mean, divides by its standard deviation | value of 0 scanner units |
| ``mean`` | divides by the brain's mean (MILR, Section V-B) | 0 |
| ``nyul`` | piecewise linear, percentiles onto landmarks learnt on training cases, clipped to [-1, 1] (Nyul 2000) | -1 |

``low`` is 0 scanner units where no brain voxel is negative, since air and the background of skull-stripped volumes are 0
there; where resampling left negative values it is the brain's 0.5th percentile (``percentile``, ``nyul``) or its minimum
(``minmax``). Inversion is exact wherever nothing was clipped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from synthmr.errors import DataError, UsageError, did_you_mean

NAMES = ("minmax", "percentile", "zscore", "mean", "nyul")

#: percentiles between the two ends that `nyul` aligns
DECILES = (10, 20, 30, 40, 50, 60, 70, 80, 90, 95)

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


def _low(values: np.ndarray, fallback: float) -> float:
    return 0.0 if float(values.min()) >= 0 else float(np.percentile(values, fallback))


def _ends(values: np.ndarray, percentile: float) -> tuple[float, float]:
    """(low, high) of the intensity range; high is the maximum where the percentile leaves no range."""
    low, high = _low(values, 0.5), float(np.percentile(values, percentile))
    return low, high if high > low else float(values.max())


def _landmarks(values: np.ndarray, percentile: float) -> np.ndarray:
    """Intensities of low, `DECILES` and high, strictly increasing."""
    low, high = _ends(values, percentile)
    marks = np.concatenate([[low], np.clip(np.percentile(values, DECILES), low, high), [high]])
    step = 1e-6 * (high - low)
    marks = np.maximum.accumulate(marks) + step * np.arange(len(marks))
    return np.asarray(marks, np.float64)


def learn_landmarks(cases: Sequence[np.ndarray], percentile: float = 99.5) -> dict[str, Any]:
    """Learn the standard scale of `nyul`: the mean landmark positions over training cases, in [-1, 1].

    Args:
        cases: brain voxels of each training case, 1-D, scanner units.
        percentile: upper end of the scale.

    Raises:
        DataError: no case was given.
    """
    if not cases:
        raise DataError("nyul landmarks need at least one training case and there is none.")
    rows = []
    for values in cases:
        marks = _landmarks(np.asarray(values, np.float64), percentile)
        rows.append((marks - marks[0]) / (marks[-1] - marks[0]) * 2 - 1)
    return {"standard": np.mean(rows, axis=0).tolist()}


def fit(name: str, values: np.ndarray, landmarks: Mapping[str, Any] | None = None, percentile: float = 99.5) -> dict[str, Any]:
    """Parameters of one image.

    Args:
        name: one of `NAMES`.
        values: brain voxels, 1-D, scanner units.
        landmarks: for nyul, from `learn_landmarks`.
        percentile: upper percentile that counts as the top of the range.

    Returns:
        ``{"name": ..., parameters}``; always with ``high``, the brain's upper percentile (or maximum) in scanner units.

    Raises:
        UsageError: unknown name, or nyul without landmarks.
        DataError: no voxels, or all voxels equal.
    """
    check_name(name)
    values = np.asarray(values, np.float64)
    if values.size == 0:
        raise DataError("the brain mask holds no voxel, so there is no intensity to normalise; check the mask.")
    if float(values.min()) == float(values.max()):
        raise DataError(f"the image is constant inside the brain (every voxel is {float(values.min()):g}); it shows nothing.")
    low, high = _ends(values, percentile)
    if name == "percentile":
        return {"name": name, "low": low, "high": high}
    if name == "minmax":
        return {"name": name, "low": _low(values, 0.0), "high": float(values.max())}
    if name == "zscore":
        return {"name": name, "mean": float(values.mean()), "sd": float(values.std()), "high": high}
    if name == "mean":
        mean = float(values.mean())
        if mean <= 0:
            raise DataError(f"the brain's mean is {mean:g}, and the mean normaliser divides by it; use another normalizer.")
        return {"name": name, "mean": mean, "high": high}
    if landmarks is None:
        raise UsageError("the nyul normalizer needs landmarks learnt on training cases, and none were given.")
    marks = _landmarks(values, percentile)
    return {"name": name, "own": marks.tolist(), "standard": list(landmarks["standard"]), "high": float(marks[-1])}


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
