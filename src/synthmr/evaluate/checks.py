"""What every metric asks of its arrays before it computes anything, and the box of a mask."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from synthmr.errors import DataError, UsageError
from synthmr.prepare.mask import bounding_box

#: voxels that are worked on at once: what fits a processor's cache is several times as fast as whole volumes
PART = 1 << 16


def select(prediction: np.ndarray, truth: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The voxels that count, as two float64 vectors.

    Raises:
        DataError: shapes differ, a counted voxel is NaN or infinite, or no voxel counts.
    """
    g, y = counted(prediction, truth, mask)
    return g.astype(np.float64, copy=False), y.astype(np.float64, copy=False)


def counted(prediction: np.ndarray, truth: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The voxels that count, as two vectors of the arrays' types; errors of `select`."""
    check_shapes(prediction, truth, mask)
    g = prediction.ravel() if mask is None else prediction[mask]
    y = truth.ravel() if mask is None else truth[mask]
    if y.size == 0:
        raise DataError("there is nothing to score: the mask is empty; check the brain mask.")
    check_finite(g, "prediction")
    check_finite(y, "ground truth")
    return g, y


def parts(g: np.ndarray, y: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Two vectors as float64, a part at a time."""
    for begin in range(0, y.size, PART):
        part = slice(begin, begin + PART)
        yield g[part].astype(np.float64, copy=False), y[part].astype(np.float64, copy=False)


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
    with np.errstate(all="ignore"):
        if np.isfinite(values.sum()):  # one that is not finite makes the sum so
            return
    bad = values.size - int(np.isfinite(values).sum())
    if bad:
        raise DataError(
            f"the {what} holds {bad} NaN or infinite voxels of {values.size}; it has no score. Check the run or the file."
        )


def check_range(data_range: float) -> None:
    """Check R.

    Raises:
        UsageError: it is not a positive number.
    """
    if not (math.isfinite(data_range) and data_range > 0):
        raise UsageError(f"data_range={data_range} is not a positive number; give the range of the ground truth's units.")


def check_axis(slice_axis: int | None, axes: int) -> int | None:
    """The slice axis counted from 0, or None.

    Raises:
        UsageError: the array has no such axis, or no two others.
    """
    if slice_axis is None:
        return None
    if axes < 3 or not -axes <= slice_axis < axes:
        raise UsageError(f"slice_axis={slice_axis} of an array with {axes} axes; give an axis of a volume (0, 1, 2), or None.")
    return slice_axis % axes


def check_spacing(spacing: Sequence[float], axes: int) -> np.ndarray:
    """The voxel size as a float64 vector.

    Raises:
        UsageError: it is not a positive number an axis.
    """
    scale = np.asarray(spacing, np.float64)
    if scale.shape != (axes,) or not (np.isfinite(scale) & (scale > 0)).all():
        raise UsageError(f"spacing={tuple(np.ravel(scale).tolist())} is not {axes} positive numbers; give the voxel size in mm.")
    return scale


def window(
    prediction: np.ndarray, truth: np.ndarray, mask: np.ndarray | None, margin: Sequence[int] | int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The arrays cut to the mask's box and what a filter of radius ``margin`` sees around it: float64, float64 and the mask.

    Filters that reach no further than ``margin`` give the same values in the mask as on the whole arrays, sooner.

    Raises:
        DataError: shapes differ, the mask is empty, or a voxel of the window is NaN or infinite.
    """
    counted(prediction, truth, mask)
    if mask is not None:
        box = bounding_box(mask, margin)
        prediction, truth, mask = prediction[box], truth[box], mask[box]
        check_finite(prediction, "prediction")
        check_finite(truth, "ground truth")
    return prediction.astype(np.float64), truth.astype(np.float64), mask
