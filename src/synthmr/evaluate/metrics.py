"""Image metrics on numpy arrays: formula, source, direction, range and special values of each.

All take ``truth`` y and ``prediction`` g of one shape, and an optional ``mask`` (bool, same shape) that selects the N
voxels counted. None of them rescales, shifts or clips the prediction: a gain error must cost. ``data_range`` R is always
given by the caller, because a range guessed from the data makes numbers that cannot be compared.

| metric | formula | better | range | equal images |
|---|---|---|---|---|
| `mse` | sum (y - g)^2 / N | lower | [0, inf) | 0 |
| `mae` | sum abs(y - g) / N | lower | [0, inf) | 0 |
| `nmse` | sum (y - g)^2 / sum y^2 | lower | [0, inf] | 0 |
| `nrmse` | sqrt(mse) / R | lower | [0, inf) | 0 |
| `psnr` | 10 log10(R^2 / mse), dB | higher | (-inf, inf] | inf |
| `ssim` | mean of the local SSIM map | higher | [-1, 1] | 1 |

`mse` and `mae` are in (squared) units of the arrays. `nmse` changes with where 0 lies: on [-1, 1] it is several times
smaller (background counted) or larger (brain alone) than on [0, 1]. The others are free of both once R is in the same unit.
"""

from __future__ import annotations

import math

import numpy as np

from synthmr.errors import DataError, UsageError

#: metric -> whether higher is better
HIGHER_IS_BETTER = {"psnr": True, "ssim": True, "nmse": False, "nrmse": False, "mae": False, "mse": False}

#: half width of the SSIM window: scikit-image cuts the Gaussian (sigma 1.5) off at 3.5 sigma, an 11-voxel window
SSIM_RADIUS = 5


def _select(prediction: np.ndarray, truth: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The voxels that count, as two float64 vectors.

    Raises:
        DataError: shapes differ, a counted voxel is NaN or infinite, or no voxel counts.
    """
    check_shapes(prediction, truth, mask)
    g = prediction.ravel() if mask is None else prediction[mask]
    y = truth.ravel() if mask is None else truth[mask]
    if y.size == 0:
        raise DataError("there is nothing to score: the mask is empty; check the brain mask.")
    check_finite(g, "prediction")
    check_finite(y, "ground truth")
    return g.astype(np.float64), y.astype(np.float64)


def check_shapes(prediction: np.ndarray, truth: np.ndarray, mask: np.ndarray | None) -> None:
    """Check that the arrays fit.

    Raises:
        DataError: they do not, or the mask is not bool.
    """
    if prediction.shape != truth.shape or (mask is not None and mask.shape != truth.shape):
        extra = "" if mask is None else f", mask {mask.shape}"
        raise DataError(f"prediction {prediction.shape} and truth {truth.shape}{extra} differ in shape; bring them onto one grid.")
    if mask is not None and mask.dtype != np.bool_:
        raise DataError(f"the mask has type {mask.dtype}; give a bool array (mask > 0).")


def check_finite(values: np.ndarray, what: str) -> None:
    """Check for NaN and infinity.

    Raises:
        DataError: there are some; no metric is defined then.
    """
    bad = values.size - int(np.isfinite(values).sum())
    if bad:
        raise DataError(
            f"the {what} holds {bad} NaN or infinite voxels of {values.size}; it has no score. Check the run or the file."
        )


def _check_range(data_range: float) -> None:
    if not (math.isfinite(data_range) and data_range > 0):
        raise UsageError(f"data_range={data_range} is not a positive number; give the range of the ground truth's units.")


def mse(prediction: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Mean squared error, in squared units of the arrays. Lower is better; 0 for equal arrays."""
    g, y = _select(prediction, truth, mask)
    return float(np.mean((y - g) ** 2))


def mae(prediction: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Mean absolute error, in units of the arrays. Lower is better; 0 for equal arrays."""
    g, y = _select(prediction, truth, mask)
    return float(np.mean(np.abs(y - g)))


def nmse(prediction: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Normalised mean squared error ``||y - g||^2 / ||y||^2`` (Hi-Net, section IV-B, with the missing norm put in).

    Lower is better; 0 for equal arrays, 1 for a prediction of zeros. Where the truth is all zeros: 0 if the prediction is
    too, else inf.
    """
    g, y = _select(prediction, truth, mask)
    error, energy = float(np.sum((y - g) ** 2)), float(np.sum(y**2))
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
    _check_range(data_range)
    return math.sqrt(mse(prediction, truth, mask)) / data_range


def psnr(prediction: np.ndarray, truth: np.ndarray, data_range: float, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio ``10 log10(R^2 / mse)`` in dB. Higher is better; inf for equal arrays.

    Raises:
        UsageError: ``data_range`` is not positive.
    """
    _check_range(data_range)
    error = mse(prediction, truth, mask)
    return math.inf if error == 0 else 10 * math.log10(data_range**2 / error)


def ssim(
    prediction: np.ndarray,
    truth: np.ndarray,
    data_range: float,
    mask: np.ndarray | None = None,
    slice_axis: int | None = None,
) -> float:
    """Structural similarity (Wang et al. 2004): the mean of the local SSIM map over the mask.

    Gaussian window of sigma 1.5 voxels cut to 11 voxels an axis, K1 = 0.01, K2 = 0.03, population (co)variances,
    symmetric extension at the borders; computed by scikit-image. The window sees voxels outside the mask; the average
    does not. Without a mask the whole map counts, borders included (scikit-image's own mean leaves out 5 voxels a side).

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
        UsageError: ``data_range`` is not positive.
    """
    _check_range(data_range)
    _select(prediction, truth, mask)
    if slice_axis is None:
        local = _ssim_map(prediction, truth, data_range)
    else:
        pairs = zip(np.moveaxis(prediction, slice_axis, 0), np.moveaxis(truth, slice_axis, 0), strict=True)
        local = np.stack([_ssim_map(g, y, data_range) for g, y in pairs], axis=slice_axis)
    return float(np.mean(local if mask is None else local[mask], dtype=np.float64))


def _ssim_map(prediction: np.ndarray, truth: np.ndarray, data_range: float) -> np.ndarray:
    """The local SSIM of every pixel or voxel."""
    from skimage.metrics import structural_similarity

    g, y = prediction.astype(np.float64), truth.astype(np.float64)
    # scikit-image refuses arrays smaller than its window. Extended by the radius as its own filter would extend them,
    # they give the same map, and the extension is cut off again.
    pad = SSIM_RADIUS if min(y.shape) < 2 * SSIM_RADIUS + 1 else 0
    if pad:
        g, y = np.pad(g, pad, mode="symmetric"), np.pad(y, pad, mode="symmetric")
    _, local = structural_similarity(
        y, g, data_range=data_range, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    inside = tuple(slice(pad, size - pad) for size in local.shape)
    return np.asarray(local)[inside]
