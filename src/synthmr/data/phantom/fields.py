"""Smooth random fields over the phantom's box, defined in millimetres so that a finer grid samples the same field.

A field is a sum of cubic B-splines on a regular lattice of control points with independent standard normal weights.
Two facts make it handy: it is smooth (C2), and it is separable, so that three small matrix products evaluate it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: variance of a 1-D B-spline sum with unit weights, averaged over a lattice cell: the integral of the squared spline
_VARIANCE = 151 / 315


def random_generator(seed: int, index: int, purpose: str) -> np.random.Generator:
    """The generator of one purpose of one subject.

    Purposes have streams of their own, so that leaving out a contrast or a lesion does not change anything else.
    """
    key = tuple(purpose.encode())
    return np.random.default_rng(np.random.SeedSequence((seed, index), spawn_key=key))


def cubic_bspline(t: np.ndarray) -> np.ndarray:
    """The cubic B-spline, supported on (-2, 2), with unit integral."""
    a = np.abs(t)
    return np.where(a < 1, 2 / 3 - a**2 + a**3 / 2, np.where(a < 2, (2 - a) ** 3 / 6, 0.0))


def separable(weights: np.ndarray, matrices: Sequence[np.ndarray]) -> np.ndarray:
    """Evaluate ``sum_ijk weights[i, j, k] A[x, i] B[y, j] C[z, k]`` for all (x, y, z): ``(X, Y, Z)``."""
    out = weights
    for matrix in matrices:
        # contracting the first axis and appending the new one turns (i, j, k) into (x, y, z) after three rounds
        out = np.tensordot(out, matrix, axes=(0, 1))
    return out


def smooth_field(
    rng: np.random.Generator, axes: Sequence[np.ndarray], box: np.ndarray, step: float, components: int = 1
) -> np.ndarray:
    """Draw smooth random fields with mean 0 and variance 1.

    Args:
        rng: source of the weights; the number drawn depends on ``box`` and ``step`` only, not on ``axes``.
        axes: world coordinates (mm) of the grid along x, y and z.
        box: ``(2, 3)``, lower and upper corner in mm that the lattice covers.
        step: distance of control points in mm: the field is smooth over about this length.
        components: number of independent fields.

    Returns:
        ``(components, X, Y, Z)`` float64.
    """
    matrices = []
    shape = []
    for axis, low, high in zip(axes, box[0], box[1], strict=True):
        count = int(np.ceil((high - low) / step)) + 3  # one point beyond each side, where the spline still reaches in
        lattice = low + step * (np.arange(count) - 1)
        matrices.append(cubic_bspline((np.asarray(axis)[:, None] - lattice[None]) / step))
        shape.append(count)
    weights = rng.standard_normal((components, *shape)) / np.sqrt(_VARIANCE**3)
    return np.stack([separable(each, matrices) for each in weights])
