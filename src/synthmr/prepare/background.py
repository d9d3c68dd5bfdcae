"""A background that is one constant other than 0: found, taken off, and put back.

Tools that take no negative values are fed images with 500 added; others store unsigned numbers about 32768, put -1 where there is
no brain, or fill what lies outside the field of view with -1024. Masks and normalisers expect air at 0. So a constant background
is taken off each image before anything else. Air that is noise is no constant, and an image whose background is 0 is left as it is.

| kind | found where | what becomes of it |
|---|---|---|
| ``offset`` | the rest of the image lies above the background | the constant is subtracted everywhere |
| ``fill`` | the rest lies below it, or so far above that its darkest tissue would be bright | voxels of that value become 0 |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from synthmr.prepare.mask import background_value

#: a background has at least this share of a volume; noise in air that is whole numbers can agree in all corners, but not so often
LEAST = 0.1
#: where more than this share of the rest is darker, the value is one of many that air has, or a filler above the image
BELOW = 0.15
#: darkest over brightest tissue above which a background that was filled in is likelier than one that was shifted with the image:
#: at most 0.4 in 84 volumes of three sources
DARKEST = 0.5


def fit(array: np.ndarray) -> dict[str, Any] | None:
    """Parameters of the constant background of a volume.

    Args:
        array: ``(X, Y, Z)``, scanner units.

    Returns:
        ``{"step": "background", "kind": "offset" or "fill", "value": ...}``; None where the background is 0 or no constant.
    """
    value = background_value(array)
    if not np.isfinite(value) or value == 0:
        return None
    same = array == value
    rest = array[~same]
    if not rest.size or same.sum() < LEAST * array.size:
        return None
    below = float(np.mean(rest < value))
    if below > 1 - BELOW and value > 0:
        return {"step": "background", "kind": "fill", "value": value}
    if below > BELOW:
        return None
    return {"step": "background", "kind": "fill" if value < 0 and _filled(array, same, value) else "offset", "value": value}


def _filled(array: np.ndarray, same: np.ndarray, value: float) -> bool:
    """Whether a background below 0 was filled in around an image that has no part in it."""
    from scipy import ndimage

    # away from the surface, where resampling mixes both
    inside = ndimage.binary_erosion(~same, iterations=2)
    dark, bright = np.percentile(array[inside if inside.any() else ~same], (1, 99.5))
    return bool(dark >= 0 and dark - value > DARKEST * (bright - value))


def apply(array: np.ndarray, params: Mapping[str, Any] | None) -> np.ndarray:
    """Take a background off ``(X, Y, Z)``: scanner units with background 0, of the same type; None leaves all as it is."""
    if params is None:
        return array
    value = array.dtype.type(params["value"])
    if params["kind"] == "fill":
        return np.where(array == value, array.dtype.type(0), array)
    return np.asarray(array - value)


def invert(array: np.ndarray, params: Mapping[str, Any] | None) -> np.ndarray:
    """Put it back; inverse of `apply` but where a filled background met voxels of 0."""
    if params is None:
        return array
    value = array.dtype.type(params["value"])
    return np.where(array == 0, value, array) if params["kind"] == "fill" else np.asarray(array + value)


def offset_of(params: Mapping[str, Any] | None) -> float:
    """What was subtracted everywhere; 0 where nothing was."""
    return float(params["value"]) if params is not None and params["kind"] == "offset" else 0.0


def step(contrast: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """The step of a history."""
    return {**params, "contrast": contrast}


def steps(history: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """contrast -> the parameters of its background, of those that had one."""
    return {str(each["contrast"]): each for each in history if each["step"] == "background"}


def words(contrast: str, params: Mapping[str, Any]) -> str:
    """A line for a person."""
    done = "it was subtracted" if params["kind"] == "offset" else "it was set to 0"
    return f"{contrast} has a constant background of {params['value']:g}: {done}."
