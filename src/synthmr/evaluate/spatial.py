"""Metrics of edges and of places: high-frequency error, gradients (blur), and distances between landmarks.

The filters see voxels outside the mask (at the surface of a skull-stripped brain the edge to the background); the sums do
not. ``slice_axis`` leaves that axis out, for thick slices or methods that work slice by slice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from synthmr.errors import DataError, UsageError
from synthmr.evaluate.checks import check_axis, check_spacing, window

#: sigma (voxels) and half width of the Laplacian of a Gaussian in `hfen`: 15 voxels an axis
HFEN_SIGMA, HFEN_RADIUS = 1.5, 7


def hfen(prediction: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None, slice_axis: int | None = None) -> float:
    """High-frequency error norm ``||LoG(g) - LoG(y)|| / ||LoG(y)||`` (Ravishankar and Bresler, IEEE TMI 30:1028, 2011).

    LoG is the Laplacian of a Gaussian of sigma 1.5 voxels cut to 15 voxels an axis, with mirrored borders: it answers to
    edges and fine structure, not to what is smooth. The original sums over a slice; here over the mask.

    Args:
        prediction: 2-D or 3-D.
        truth: the same shape.
        mask: bool, or None for everything.
        slice_axis: None: a filter over all axes. An axis: a 2-D filter in the slices along it.

    Returns:
        0 to inf, lower is better; 0 for equal arrays, about 1 for a flat or wholly blurred prediction. Where the truth is
        flat: 0 if the prediction is flat too, else inf.

    Raises:
        DataError: shapes differ, NaN, or an empty mask.
        UsageError: there is no such axis.
    """
    out = check_axis(slice_axis, truth.ndim)
    margin = [0 if axis == out else HFEN_RADIUS for axis in range(truth.ndim)]
    g, y, inside = window(prediction, truth, mask, margin)
    # without its offset a flat array gives exactly 0, not rounding errors
    wrong, right = (_log(array - array.min(), out) for array in (g - y, y))
    if inside is not None:
        wrong, right = wrong[inside], right[inside]
    error, energy = float(np.sqrt(np.sum(wrong**2))), float(np.sqrt(np.sum(right**2)))
    if energy == 0:
        return 0.0 if error == 0 else math.inf
    return error / energy


def gradient_error(
    prediction: np.ndarray,
    truth: np.ndarray,
    mask: np.ndarray | None = None,
    slice_axis: int | None = None,
    spacing: Sequence[float] | None = None,
) -> float:
    """Error of the gradient magnitude, ``mean |abs(grad g) - abs(grad y)| / mean abs(grad y)``.

    Gradients are central differences (one-sided at the array's borders). An offset costs nothing; blur and noise do.

    Args:
        prediction: 2-D or 3-D.
        truth: the same shape.
        mask: bool, or None for everything.
        slice_axis: an axis to leave out of the gradient, or None.
        spacing: mm a voxel along each axis; None counts in voxels. It matters where voxels are not cubes.

    Returns:
        0 to inf, lower is better; 0 for equal arrays, 1 for a flat prediction. Where the truth is flat: 0 if the prediction
        is flat too, else inf.

    Raises:
        DataError: shapes differ, NaN, or an empty mask.
        UsageError: no such axis, or ``spacing`` is not a positive number an axis.
    """
    g, y = _magnitudes(prediction, truth, mask, slice_axis, spacing)
    error, scale = float(np.mean(np.abs(g - y))), float(np.mean(y))
    if scale == 0:
        return 0.0 if error == 0 else math.inf
    return error / scale


def sharpness(
    prediction: np.ndarray,
    truth: np.ndarray,
    mask: np.ndarray | None = None,
    slice_axis: int | None = None,
    spacing: Sequence[float] | None = None,
) -> float:
    """Mean gradient magnitude of the prediction over that of the truth, ``mean abs(grad g) / mean abs(grad y)``.

    1 is right: below it the prediction is blurred (or its contrast too low), above it noisy (or its contrast too high). It
    says nothing about where the edges are; arguments and errors are those of `gradient_error`.

    Returns:
        0 to inf, best at 1, where equal arrays are; 0 for a flat prediction. Where the truth is flat: 1 if the prediction is
        flat too, else inf.
    """
    g, y = _magnitudes(prediction, truth, mask, slice_axis, spacing)
    found, scale = float(np.mean(g)), float(np.mean(y))
    if scale == 0:
        return 1.0 if found == 0 else math.inf
    return found / scale


def landmark_distance(
    a: np.ndarray, b: np.ndarray, spacing: Sequence[float] | None = None, affine: np.ndarray | None = None
) -> float:
    """Mean Euclidean distance between corresponding landmarks in mm (IMT, "Dist"; target registration error).

    Args:
        a: ``(N, 3)`` voxel coordinates, fractions allowed; point i belongs to point i of ``b``.
        b: the same shape.
        spacing: mm a voxel along each axis; (1, 1, 1) where the points are in mm already. Or:
        affine: 4x4, voxel index to mm. Exactly one of both.

    Returns:
        0 to inf mm, lower is better; 0 for equal points.

    Raises:
        DataError: the shapes differ or are not ``(N, 3)`` with N of at least 1, or a coordinate is NaN or infinite.
        UsageError: not exactly one of ``spacing`` and ``affine``, or it is none.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape or first.ndim != 2 or first.shape[1] != 3 or not len(first):
        raise DataError(f"landmarks of shapes {first.shape} and {second.shape}; give two arrays (N, 3) of corresponding points.")
    for points in (first, second):
        if not np.isfinite(points).all():
            raise DataError("a landmark has a coordinate that is NaN or infinite; leave the pair out, and say so.")
    if (spacing is None) == (affine is None):
        raise UsageError("landmark_distance takes spacing (mm a voxel) or affine (4x4), one of both.")
    if spacing is not None:
        matrix = np.diag(check_spacing(spacing, 3))
    else:
        matrix = np.asarray(affine, np.float64)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
            raise UsageError(f"an affine of shape {matrix.shape} or with NaN; give the 4x4 matrix from voxels to mm.")
        matrix = matrix[:3, :3]  # a translation moves both points
    return float(np.mean(np.linalg.norm((first - second) @ matrix.T, axis=1)))


def _log(array: np.ndarray, out: int | None) -> np.ndarray:
    """Laplacian of a Gaussian over all axes but ``out``."""
    from scipy import ndimage

    offsets = np.arange(-HFEN_RADIUS, HFEN_RADIUS + 1)
    smooth = np.exp(-0.5 * (offsets / HFEN_SIGMA) ** 2)
    smooth /= smooth.sum()
    second = (offsets**2 / HFEN_SIGMA**4 - 1 / HFEN_SIGMA**2) * smooth
    second -= second.sum() * smooth  # the cut-off tails leave a sum of about 1e-4: an offset would count
    axes = [axis for axis in range(array.ndim) if axis != out]
    total = np.zeros_like(array)
    for curved in axes:
        part = array
        for axis in axes:
            part = ndimage.correlate1d(part, second if axis == curved else smooth, axis, mode="reflect")
        total += part
    return total


def _magnitudes(
    prediction: np.ndarray,
    truth: np.ndarray,
    mask: np.ndarray | None,
    slice_axis: int | None,
    spacing: Sequence[float] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Gradient magnitudes of both at the voxels that count, as vectors."""
    out = check_axis(slice_axis, truth.ndim)
    scale = np.ones(truth.ndim) if spacing is None else check_spacing(spacing, truth.ndim)
    g, y, inside = window(prediction, truth, mask, [0 if axis == out else 1 for axis in range(truth.ndim)])
    found = []
    for array in (g, y):
        squares = np.zeros_like(array)
        for axis in range(array.ndim):
            if axis != out and array.shape[axis] > 1:  # a single voxel has no neighbour to differ from
                squares += np.gradient(array, float(scale[axis]), axis=axis) ** 2
        found.append(np.sqrt(squares if inside is None else squares[inside]))
    return found[0], found[1]
