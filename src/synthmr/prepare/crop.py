"""Crop to the brain's bounding box plus a margin; inverted by padding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from synthmr.errors import DataError
from synthmr.prepare.mask import bounding_box


def fit(mask: np.ndarray, margin: int) -> dict[str, Any]:
    """Parameters from a mask ``(X, Y, Z)``: first and last-plus-one voxel along each axis, inside the volume."""
    parts = bounding_box(mask, margin)
    return {
        "step": "crop",
        "start": [part.start for part in parts],
        "stop": [part.stop for part in parts],
        "shape": list(mask.shape),
    }


def box(params: Mapping[str, Any]) -> tuple[slice, ...]:
    """The box as slices."""
    return tuple(slice(a, b) for a, b in zip(params["start"], params["stop"], strict=True))


def apply(array: np.ndarray, params: Mapping[str, Any]) -> np.ndarray:
    """The part of ``(X, Y, Z)`` inside the box."""
    return array[box(params)]


def apply_affine(affine: np.ndarray, params: Mapping[str, Any]) -> np.ndarray:
    """The affine of the cropped grid: its origin moves to the box's first voxel."""
    out = np.array(affine, dtype=float)
    out[:3, 3] += out[:3, :3] @ np.asarray(params["start"], float)
    return out


def invert(array: np.ndarray, params: Mapping[str, Any], fill: float = 0.0) -> np.ndarray:
    """Back onto the uncropped grid, ``fill`` outside the box.

    Raises:
        DataError: the array is not of the box's shape.
    """
    size = tuple(b - a for a, b in zip(params["start"], params["stop"], strict=True))
    if array.shape != size:
        raise DataError(f"an array of shape {array.shape} is not on the prepared grid {size}, so it cannot be put back.")
    out = np.full(params["shape"], fill, array.dtype)
    out[box(params)] = array
    return out
