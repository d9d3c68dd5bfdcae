"""Structural similarity: SSIM with a sliding window, MS-SSIM over scales, and SSIM of the whole region at once.

The window and its constants are those of Wang et al. (IEEE TIP 13:600, 2004): a Gaussian of sigma 1.5 voxels cut to 11
voxels an axis, K1 = 0.01, K2 = 0.03, population (co)variances. Arrays are extended by mirroring at their borders. The
result is that of scikit-image's ``structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)``
to rounding, in less than half of its time: only the mask's box is filtered, and four fields in place of five.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from synthmr.errors import UsageError
from synthmr.evaluate.checks import bounding_box, check_axis, check_range, counted, parts, window

#: half width of the SSIM window: an 11-voxel window (3.5 sigma)
SSIM_RADIUS = 5

#: sigma of the SSIM window in voxels
SSIM_SIGMA = 1.5

#: C1 = (K1 R)^2 and C2 = (K2 R)^2
K1, K2 = 0.01, 0.03

#: exponents of MS-SSIM, finest scale first, as published (Wang et al. 2003, section 3.2); they sum to 1.0001
MS_WEIGHTS: tuple[float, ...] = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def ssim(
    prediction: np.ndarray,
    truth: np.ndarray,
    data_range: float,
    mask: np.ndarray | None = None,
    slice_axis: int | None = None,
) -> float:
    """Structural similarity (Wang et al. 2004): the mean of the local SSIM map over the mask.

    The window sees voxels outside the mask; the average does not. Without a mask the whole map counts, borders included
    (scikit-image's own mean leaves out 5 voxels a side).

    Args:
        prediction: 2-D or 3-D.
        truth: the same shape.
        data_range: R, which scales the constants C1 = (K1 R)^2 and C2 = (K2 R)^2.
        mask: bool, or None for everything.
        slice_axis: None: one window over all axes (3-D windows in a volume). An axis: 2-D windows in the slices
            along it, the map averaged over all slices' voxels at once (not slice by slice).

    Returns:
        -1 to 1; 1 for equal arrays; higher is better.

    Raises:
        DataError: shapes differ, NaN, or an empty mask.
        UsageError: ``data_range`` is not positive, or there is no such axis.
    """
    check_range(data_range)
    axes = _window_axes(truth.ndim, slice_axis)
    g, y, inside = window(prediction, truth, mask, _margin(axes, truth.ndim))
    luminance, structure = _maps(g, y, data_range, axes)
    local = luminance * structure
    return float(np.mean(local if inside is None else local[inside]))


def ms_ssim(
    prediction: np.ndarray,
    truth: np.ndarray,
    data_range: float,
    mask: np.ndarray | None = None,
    slice_axis: int | None = None,
    scales: int | None = None,
) -> float:
    """Multi-scale structural similarity (Wang, Simoncelli, Bovik, Asilomar 2003).

    ``prod_j max(cs_j, 0)^w_j``, at the coarsest scale with the whole SSIM in place of cs. ``cs_j`` is the mean of the map
    of contrast times structure at scale j, with the window of `ssim`; ``w`` is `MS_WEIGHTS`. From scale to scale the arrays
    are averaged over blocks of 2 voxels an axis (the last voxel of an odd axis is a block of its own), and at every scale
    a block counts by its share of voxels in the mask. A negative mean, which has no real power, counts as 0.

    Args:
        prediction: 2-D or 3-D.
        truth: the same shape.
        data_range: R.
        mask: bool, or None for everything.
        slice_axis: None: windows and blocks over all axes. An axis: both in the slices along it.
        scales: 1 to 5, how many; None: 5, or as many as keep every axis at least one window (11 voxels) long
            (`ms_ssim_scales`). With fewer than 5 the weights of the finest are used, divided by their sum. Values with
            different numbers of scales do not compare.

    Returns:
        0 to 1; 1 for equal arrays; higher is better.

    Raises:
        DataError: shapes differ, NaN, or an empty mask.
        UsageError: ``data_range`` is not positive, no such axis, or more scales than the arrays allow.
    """
    check_range(data_range)
    axes = _window_axes(truth.ndim, slice_axis)
    most = ms_ssim_scales(truth.shape, slice_axis)
    count = most if scales is None else scales
    if not 1 <= count <= most:
        raise UsageError(f"scales={scales} of MS-SSIM for arrays of shape {truth.shape}; allowed: 1 to {most}, or None.")
    counted(prediction, truth, mask)
    # blocks reach far beyond the mask: everything must be finite here
    g, y, _ = window(prediction, truth, None, 0)
    share = np.ones(truth.shape) if mask is None else mask.astype(np.float64)
    value = 1.0
    total = sum(MS_WEIGHTS[:count]) if count < len(MS_WEIGHTS) else 1.0
    for scale, weight in enumerate(MS_WEIGHTS[:count]):
        if scale:
            g, y, share = _halve(g, axes, "edge"), _halve(y, axes, "edge"), _halve(share, axes, "constant")
        box = bounding_box(share, _margin(axes, truth.ndim))
        luminance, local = _maps(g[box], y[box], data_range, axes)
        if scale == count - 1:
            local *= luminance
        value *= max(float(np.average(local, weights=share[box])), 0.0) ** (weight / total)
    return value


def ms_ssim_scales(shape: tuple[int, ...], slice_axis: int | None = None) -> int:
    """How many scales `ms_ssim` uses for arrays of ``shape``: 5 from 161 voxels on along the shortest axis, 4 from 81 on.

    Raises:
        UsageError: there is no such axis.
    """
    shortest = min(shape[axis] for axis in _window_axes(len(shape), slice_axis))
    count = 1
    while count < len(MS_WEIGHTS) and (shortest + 2**count - 1) // 2**count >= 2 * SSIM_RADIUS + 1:
        count += 1
    return count


def ssim_global(prediction: np.ndarray, truth: np.ndarray, data_range: float, mask: np.ndarray | None = None) -> float:
    """SSIM of the whole region at once, without a window: one mean, variance and covariance of all voxels that count.

    MILR (section V) and IMT (Eq. 9) write SSIM so, with the moments of the whole image; neither names constants, here they
    are those of `ssim`. It is mostly higher than the windowed mean, and does not see where an error is.

    Returns:
        -1 to 1; 1 for equal arrays; higher is better.

    Raises:
        DataError: shapes differ, NaN, or an empty mask.
        UsageError: ``data_range`` is not positive.
    """
    check_range(data_range)
    g, y = counted(prediction, truth, mask)
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    mean_g, mean_y = float(g.mean(dtype=np.float64)), float(y.mean(dtype=np.float64))
    sums = np.zeros(3)
    for one, other in parts(g, y):
        one, other = one - mean_g, other - mean_y
        sums += one @ other, one @ one, other @ other
    covariance, variance_g, variance_y = (float(value) / g.size for value in sums)
    luminance = (2 * mean_g * mean_y + c1) / (mean_g**2 + mean_y**2 + c1)
    return luminance * (2 * covariance + c2) / (variance_g + variance_y + c2)


def _window_axes(count: int, slice_axis: int | None) -> tuple[int, ...]:
    """The axes that the window lies in."""
    out = check_axis(slice_axis, count)
    return tuple(axis for axis in range(count) if axis != out)


def _margin(axes: tuple[int, ...], count: int) -> tuple[int, ...]:
    return tuple(SSIM_RADIUS if axis in axes else 0 for axis in range(count))


@dataclass(eq=False)
class Moments:
    """Means, variances and covariance of two images in the window around every voxel, float64: what SSIM is made of.

    They do not depend on R, and change by plain factors where an image is multiplied by a gain.

    Attributes:
        mean_g: local mean of the prediction.
        mean_y: local mean of the truth.
        covariance: local covariance of both.
        variances: sum of both local variances, which SSIM of images of one gain has alone.
        images: both images and the axes of the window, for the variances apart.
    """

    mean_g: np.ndarray
    mean_y: np.ndarray
    covariance: np.ndarray
    variances: np.ndarray
    images: tuple[np.ndarray, np.ndarray, tuple[int, ...]]
    _last: tuple[tuple[float, tuple[float, float]], np.ndarray] | None = None

    def maps(self, data_range: float, gains: tuple[float, float] = (1.0, 1.0)) -> tuple[np.ndarray, np.ndarray]:
        """Luminance, and contrast times structure, of every voxel, once prediction and truth are multiplied by ``gains``."""
        a, b = gains
        if a == b:  # SSIM of both times a with R is that of both with R / a
            data_range, a, b = data_range / a, 1.0, 1.0
        own = None
        if a != b:
            g, _, axes = self.images
            (own,) = _filtered(g, g, axes, lambda one, _: (one * one,))
        c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
        luminance, structure = np.empty_like(self.mean_g), np.empty_like(self.mean_g)
        for part in _slices(luminance):
            mean_g, mean_y, spread = self.mean_g[part], self.mean_y[part], self.variances[part]
            if own is not None:
                variance = own[part] - mean_g**2
                spread = a * a * variance + b * b * (spread - variance)
            np.divide(2 * a * b * mean_g * mean_y + c1, (a * mean_g) ** 2 + (b * mean_y) ** 2 + c1, out=luminance[part])
            np.divide(2 * a * b * self.covariance[part] + c2, spread + c2, out=structure[part])
        return luminance, structure

    def ssim(self, data_range: float, gains: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
        """The local SSIM map. The last one is kept: regions of one image ask for the same."""
        key = (data_range, gains)
        if self._last is None or self._last[0] != key:
            luminance, structure = self.maps(data_range, gains)
            luminance *= structure
            self._last = key, luminance
        return self._last[1]


def moments(prediction: np.ndarray, truth: np.ndarray, axes: tuple[int, ...]) -> Moments:
    """Moments in the SSIM window along ``axes`` of two images of one shape; borders are mirrored."""
    # both variances mostly occur only as their sum
    fields = _filtered(prediction, truth, axes, lambda g, y: (g, y, g * y, g * g + y * y))
    mean_g, mean_y, covariance, variances = fields
    for part in _slices(truth):
        covariance[part] -= mean_g[part] * mean_y[part]
        variances[part] -= mean_g[part] ** 2
        variances[part] -= mean_y[part] ** 2
    return Moments(mean_g, mean_y, covariance, variances, (prediction, truth, axes))


def _filtered(
    prediction: np.ndarray,
    truth: np.ndarray,
    axes: tuple[int, ...],
    fields: Callable[[np.ndarray, np.ndarray], Sequence[np.ndarray]],
) -> list[np.ndarray]:
    """`_blur` of what ``fields`` makes of two images, slice by slice."""
    along = axes if truth.ndim < 3 else tuple(axis - 1 for axis in axes if axis)
    blurred: list[np.ndarray] = []
    for part in _slices(truth):
        g, y = prediction[part].astype(np.float64, copy=False), truth[part].astype(np.float64, copy=False)
        made = fields(g, y)
        blurred = blurred or [np.empty(truth.shape) for _ in made]
        for into, field in zip(blurred, made, strict=True):
            _blur(field, along, into[part])
    return [_blur_first(field) for field in blurred] if truth.ndim > 2 and 0 in axes else blurred


def _slices(array: np.ndarray) -> list[int | slice]:
    """The slices of a volume, one by one: what fits a processor's cache is several times as fast; all of an image at once."""
    return list(range(len(array))) if array.ndim > 2 else [slice(None)]


def _maps(g: np.ndarray, y: np.ndarray, data_range: float, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Luminance, and contrast times structure, of every voxel of two float64 arrays; their product is the local SSIM."""
    return moments(g, y, axes).maps(data_range)


@cache
def _weights() -> np.ndarray:
    """The SSIM window along one axis."""
    offsets = np.arange(-SSIM_RADIUS, SSIM_RADIUS + 1)
    weights = np.exp(-0.5 * (offsets / SSIM_SIGMA) ** 2)
    return np.asarray(weights / weights.sum())


def _blur(array: np.ndarray, axes: tuple[int, ...], out: np.ndarray | None = None) -> np.ndarray:
    """The Gaussian window of SSIM along ``axes``, into ``out`` where that is given."""
    from scipy import ndimage

    out = np.empty(array.shape) if out is None else out
    for number, axis in enumerate(axes):
        into = out if number == len(axes) - 1 else np.empty(array.shape)
        ndimage.correlate1d(array, _weights(), axis, output=into, mode="reflect")
        array = into
    if not axes:
        out[...] = array
    return out


def _blur_first(array: np.ndarray) -> np.ndarray:
    """`_blur` along the first axis of a volume, by whole slices: lines along it leap through memory."""
    weights, last = _weights(), len(array) - 1
    if last < 2 * SSIM_RADIUS:
        return _blur(array, (0,))
    out = np.empty_like(array)
    both = np.empty_like(array[0])
    for number, into in enumerate(out):
        np.multiply(array[number], weights[SSIM_RADIUS], out=into)
        for step in range(1, SSIM_RADIUS + 1):
            low, high = number - step, number + step
            low, high = (-low - 1 if low < 0 else low), (2 * last + 1 - high if high > last else high)
            np.add(array[low], array[high], out=both)
            both *= weights[SSIM_RADIUS + step]
            into += both
    return out


def _halve(array: np.ndarray, axes: tuple[int, ...], mode: Literal["edge", "constant"]) -> np.ndarray:
    """Means over blocks of 2 voxels along ``axes``; an odd axis is made even first (``mode`` of `numpy.pad`)."""
    array = np.pad(array, [(0, size % 2 if axis in axes else 0) for axis, size in enumerate(array.shape)], mode)
    for axis in axes:
        even = [slice(None)] * array.ndim
        odd = list(even)
        even[axis], odd[axis] = slice(0, None, 2), slice(1, None, 2)
        array = (array[tuple(even)] + array[tuple(odd)]) / 2
    return np.asarray(array)
