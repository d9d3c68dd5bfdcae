"""Image metrics on numpy arrays: formula, source, direction, range and special values of each.

All take ``truth`` y and ``prediction`` g of one shape, and an optional ``mask`` (bool, same shape) that selects the N
voxels counted. None of them rescales, shifts or clips the prediction: a gain error must cost (but see `structure_rmse`).
``data_range`` R is always given by the caller, because a range guessed from the data makes numbers that cannot be compared.

| metric | formula | better | range | equal images |
|---|---|---|---|---|
| `mse` | sum (y - g)^2 / N | lower | [0, inf) | 0 |
| `mae` | sum abs(y - g) / N | lower | [0, inf) | 0 |
| `mae255` | 255 mae / R | lower | [0, inf) | 0 |
| `nmse` | sum (y - g)^2 / sum y^2 | lower | [0, inf] | 0 |
| `nrmse_norm` | norm(y - g) / norm(y) | lower | [0, inf] | 0 |
| `nrmse` | sqrt(mse) / R | lower | [0, inf) | 0 |
| `psnr` | 10 log10(R^2 / mse), dB | higher | (-inf, inf] | inf |
| `ssim` | mean of the local SSIM map | higher | [-1, 1] | 1 |
| `ssim_global` | SSIM of all voxels as one window | higher | [-1, 1] | 1 |
| `ms_ssim` | weighted product of SSIM's terms over scales | higher | [0, 1] | 1 |
| `ncc` | cov(y, g) / (sd(y) sd(g)) | higher | [-1, 1] | 1; 0 where either is constant |
| `mutual_information` | sum p(m, n) ln (p(m, n) / p(m) p(n)), nats | higher | [0, ln bins] | H(y); 0 where either is constant |
| `normalized_mutual_information` | (H(y) + H(g)) / H(y, g) | higher | [1, 2] | 2; 1 where either is constant |
| `hfen` | norm(LoG(g) - LoG(y)) / norm(LoG(y)) | lower | [0, inf] | 0 |
| `gradient_error` | mean abs(abs(grad g) - abs(grad y)) / mean abs(grad y) | lower | [0, inf] | 0 |
| `sharpness` | mean abs(grad g) / mean abs(grad y) | 1 | [0, inf] | 1 |
| `structure_rmse` | min over a, b of sqrt(mse(a g + b)); uses the truth: optimistic | lower | [0, sd(y)] | 0 |
| `structure_psnr` | 20 log10(R / structure_rmse), dB; optimistic | higher | [20 log10(R / sd(y)), inf] | inf |
| `landmark_distance` | mean distance of corresponding points, mm | lower | [0, inf) | 0 |

`mse`, `mae` and `structure_rmse` are in (squared) units of the arrays. `nmse` changes with where 0 lies: on [-1, 1] it is
several times smaller (background counted) or larger (brain alone) than on [0, 1]; `ssim`, `ssim_global` and `ms_ssim` move a
little with it. The others are free of both once R is in the same unit. A constant array is one whose counted voxels all
hold the same value (for the mutual information: fall in one bin).

`ssim` and its kin are in `synthmr.evaluate.structural`, `hfen`, gradients and landmarks in `synthmr.evaluate.spatial`; all
are reached from here. Segmentations: `synthmr.evaluate.segmentation`; regions and artefacts: `synthmr.evaluate.regions`.
Unit, direction and digits of each stand in `synthmr.evaluate.registry`, where a new metric is registered.
"""

from __future__ import annotations

import math

import numpy as np

from synthmr.errors import UsageError
from synthmr.evaluate.checks import check_finite, check_range, check_shapes, counted, parts, select
from synthmr.evaluate.spatial import gradient_error, hfen, landmark_distance, sharpness
from synthmr.evaluate.structural import SSIM_RADIUS, ms_ssim, ms_ssim_scales, ssim, ssim_global

__all__ = [
    "BINS", "SSIM_RADIUS", "check_finite", "check_shapes", "gradient_error", "hfen", "landmark_distance", "mae", "mae255",
    "ms_ssim", "ms_ssim_scales", "mse", "mutual_information", "ncc", "nmse", "normalized_mutual_information", "nrmse",
    "nrmse_norm", "psnr", "sharpness", "ssim", "ssim_global", "structure_psnr", "structure_rmse",
]  # fmt: skip

#: bins an axis of the joint histogram of the mutual information
BINS = 64


def mse(prediction: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Mean squared error, in squared units of the arrays. Lower is better; 0 for equal arrays."""
    g, y = counted(prediction, truth, mask)
    return _squares(g, y) / y.size


def mae(prediction: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Mean absolute error, in units of the arrays. Lower is better; 0 for equal arrays."""
    g, y = counted(prediction, truth, mask)
    return sum(float(np.abs(other - one).sum()) for one, other in parts(g, y)) / y.size


def nmse(prediction: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Normalised mean squared error ``||y - g||^2 / ||y||^2`` (Hi-Net, section IV-B, with the missing norm put in).

    Lower is better; 0 for equal arrays, 1 for a prediction of zeros. Where the truth is all zeros: 0 if the prediction is
    too, else inf.
    """
    g, y = counted(prediction, truth, mask)
    error, energy = _squares(g, y), sum(float(each @ each) for _, each in parts(y, y))
    if energy == 0:
        return 0.0 if error == 0 else math.inf
    return error / energy


def nrmse(prediction: np.ndarray, truth: np.ndarray, data_range: float, mask: np.ndarray | None = None) -> float:
    """Root mean squared error over the data range, ``sqrt(mse) / R``; equals ``10 ** (-psnr / 20)``.

    Other conventions divide by the truth's mean, standard deviation or norm; this one does not move with how much of the
    picture is bright. Lower is better; 0 for equal arrays.

    Raises:
        UsageError: ``data_range`` is not positive.
    """
    check_range(data_range)
    return math.sqrt(mse(prediction, truth, mask)) / data_range


def nrmse_norm(prediction: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Norm of the error over the norm of the truth, ``||y - g|| / ||y||`` = sqrt(nmse) (disentangled synthesis, Eq. 8).

    Lower is better; 0 for equal arrays, 1 for a prediction of zeros; special values are those of `nmse`.
    """
    return math.sqrt(nmse(prediction, truth, mask))


def psnr(prediction: np.ndarray, truth: np.ndarray, data_range: float, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio ``10 log10(R^2 / mse)`` in dB. Higher is better; inf for equal arrays.

    Raises:
        UsageError: ``data_range`` is not positive.
    """
    check_range(data_range)
    error = mse(prediction, truth, mask)
    return math.inf if error == 0 else 10 * math.log10(data_range**2 / error)


def mae255(prediction: np.ndarray, truth: np.ndarray, data_range: float, mask: np.ndarray | None = None) -> float:
    """Mean absolute error on the 0-255 scale of IMT (section "Cross-modality generation"), ``255 mae / R``.

    Nothing is rounded to whole grey values. Lower is better; 0 for equal arrays, 255 for an error of R everywhere.

    Raises:
        UsageError: ``data_range`` is not positive.
    """
    check_range(data_range)
    return 255 * mae(prediction, truth, mask) / data_range


def ncc(prediction: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Zero-mean normalised cross-correlation, Pearson's r: ``cov(y, g) / (sd(y) sd(g))``.

    A gain above 0 and an offset of the prediction cost nothing. Higher is better; 1 for equal arrays, -1 for an inverted
    contrast. 0 where either is constant (r is not defined then: nothing follows anything), equal constants included.
    """
    g, y = select(prediction, truth, mask)
    return _correlation(g, y)


def structure_rmse(prediction: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """What is left of the root mean squared error after the best affine intensity fit of the prediction to the truth.

    The gain a and offset b of least squares over the counted voxels are looked up in the truth, which nobody has when the
    method is used: this is OPTIMISTIC, and never a score to compare with another's. Beside the plain error it tells global
    intensity errors (gone here) from structural ones (still here). It equals ``sd(y) sqrt(1 - ncc^2)``; a may be negative,
    so an inverted contrast is forgiven: look at `ncc` too.

    Lower is better, in units of the arrays: 0 for equal arrays and whatever a g + b makes equal; sd(y) for a constant.
    """
    g, y = select(prediction, truth, mask)
    if g.min() == g.max():
        return float(y.std()) if y.min() < y.max() else 0.0
    if np.array_equal(g, y):
        return 0.0
    centre_g, centre_y = g - g.mean(), y - y.mean()
    largest = float(np.abs(g).max())
    centre_g = centre_g / largest  # squares of very small numbers would be 0
    energy = float(centre_g @ centre_g)
    gain = float(centre_y @ centre_g) / energy
    rest = centre_y - gain * centre_g
    # sums over a million voxels are off in their last digits: fit once more what they left
    rest -= rest.mean()
    rest -= float(rest @ centre_g) / energy * centre_g
    left = math.sqrt(float(np.mean(rest**2)))
    # a perfect fit leaves rounding errors, which would read as a finite PSNR of about 300 dB
    rounding = 8 * np.finfo(np.float64).eps * float(max(np.abs(y).max(), abs(gain)))
    return 0.0 if left <= rounding else left


def structure_psnr(prediction: np.ndarray, truth: np.ndarray, data_range: float, mask: np.ndarray | None = None) -> float:
    """``20 log10(R / structure_rmse)`` in dB: PSNR after the best affine fit. OPTIMISTIC, see `structure_rmse`.

    Never below `psnr`; their difference is what a global gain and offset explain. Higher is better; inf where the fit is
    perfect.

    Raises:
        UsageError: ``data_range`` is not positive.
    """
    check_range(data_range)
    left = structure_rmse(prediction, truth, mask)
    return math.inf if left == 0 else 20 * math.log10(data_range / left)


def mutual_information(
    prediction: np.ndarray,
    truth: np.ndarray,
    value_range: tuple[float, float],
    mask: np.ndarray | None = None,
    bins: int = BINS,
) -> float:
    """Mutual information of the joint histogram in nats, ``sum p(m, n) ln (p(m, n) / (p(m) p(n)))`` (IMT, Eq. 8).

    It asks whether the truth's intensity follows from the prediction's, by whatever curve: an inverted contrast scores as
    well as the right one. It grows with the number of bins and with the spread of the truth, so values compare only under
    one ``bins`` and ``value_range``; IMT names neither.

    Args:
        prediction: any shape.
        truth: the same shape.
        value_range: (lowest, highest) of the histogram for both arrays, in their units, such as (0, R). Values outside
            are counted in the outermost bins.
        mask: bool, or None for everything.
        bins: equally wide, for each array.

    Returns:
        0 to ln(bins), higher is better; the truth's entropy for equal arrays; 0 where either falls in one bin.

    Raises:
        DataError: shapes differ, NaN, or an empty mask.
        UsageError: ``value_range`` is not ascending, or fewer than 2 bins.
    """
    g, y, both = _entropies(prediction, truth, value_range, mask, bins)
    return max(g + y - both, 0.0)  # rounding


def normalized_mutual_information(
    prediction: np.ndarray,
    truth: np.ndarray,
    value_range: tuple[float, float],
    mask: np.ndarray | None = None,
    bins: int = BINS,
) -> float:
    """Normalised mutual information ``(H(y) + H(g)) / H(y, g)`` (Studholme, Hill, Hawkes, Pattern Recognition 32:71, 1999).

    Arguments and errors are those of `mutual_information`.

    Returns:
        1 (nothing in common) to 2 (each follows from the other, as for equal arrays), higher is better. 1 where either falls
        in one bin, equal constants included: they tell nothing about each other.
    """
    g, y, both = _entropies(prediction, truth, value_range, mask, bins)
    return 1.0 if min(g, y) == 0 else min(max((g + y) / both, 1.0), 2.0)


def _squares(g: np.ndarray, y: np.ndarray) -> float:
    """Sum of squared differences, float64."""
    total = 0.0
    for one, other in parts(g, y):
        error = other - one
        total += float(error @ error)
    return total


def _correlation(g: np.ndarray, y: np.ndarray) -> float:
    """Pearson's r of two float64 vectors; 0 where one is constant."""
    if g.min() == g.max() or y.min() == y.max():
        return 0.0
    g, y = g - g.mean(), y - y.mean()
    g, y = g / np.abs(g).max(), y / np.abs(y).max()  # squares of very small numbers would be 0
    r = float(g @ y) / math.sqrt(float(g @ g) * float(y @ y))
    return min(max(r, -1.0), 1.0)  # rounding


def _entropies(
    prediction: np.ndarray, truth: np.ndarray, value_range: tuple[float, float], mask: np.ndarray | None, bins: int
) -> tuple[float, float, float]:
    """Entropies in nats of the prediction's histogram, the truth's and the joint one."""
    low, high = (float(value) for value in value_range)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(f"value_range=({low:g}, {high:g}) is not ascending; give the lowest and highest value, such as (0, 1).")
    if bins < 2:
        raise UsageError(f"bins={bins} of a joint histogram; give 2 or more ({BINS} is the default).")
    g, y = ((values - low) * (bins / (high - low)) for values in select(prediction, truth, mask))
    rows, columns = (np.clip(values, 0, bins - 1).astype(np.intp) for values in (g, y))
    joint = np.bincount(rows * bins + columns, minlength=bins * bins).reshape(bins, bins) / rows.size
    first, second, both = (_entropy(p) for p in (joint.sum(1), joint.sum(0), joint))
    return first, second, both


def _entropy(p: np.ndarray) -> float:
    found = p[p > 0]
    if found.size == 1:  # its share is 1 up to rounding
        return 0.0
    return float(-np.sum(found * np.log(found)))
