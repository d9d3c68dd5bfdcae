"""Reorientation to RAS by swapping and flipping axes: no interpolation, inverted exactly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def fit(shape: tuple[int, ...], affine: np.ndarray) -> dict[str, Any]:
    """Parameters that bring a grid nearest to RAS: for each array axis, the RAS axis it becomes and its direction."""
    from nibabel.orientations import io_orientation

    return {"step": "orient", "axes": io_orientation(affine).astype(int).tolist(), "shape": list(shape)}


def apply(array: np.ndarray, params: Mapping[str, Any]) -> np.ndarray:
    """File order ``(I, J, K)`` -> RAS ``(X, Y, Z)``."""
    from nibabel.orientations import apply_orientation

    return np.asarray(apply_orientation(array, np.asarray(params["axes"])))


def apply_affine(affine: np.ndarray, params: Mapping[str, Any]) -> np.ndarray:
    """The affine of the reoriented grid."""
    from nibabel.orientations import inv_ornt_aff

    return np.asarray(affine @ inv_ornt_aff(np.asarray(params["axes"]), tuple(params["shape"])))


def invert(array: np.ndarray, params: Mapping[str, Any]) -> np.ndarray:
    """RAS ``(X, Y, Z)`` -> file order ``(I, J, K)``."""
    from nibabel.orientations import apply_orientation, ornt_transform

    ras = np.asarray([[0, 1], [1, 1], [2, 1]])
    return np.asarray(apply_orientation(array, ornt_transform(ras, np.asarray(params["axes"]))))
