"""Random anatomy: a smooth invertible warp of the template, from target voxels to template points.

    y(x) = c + A (x - c + u(x)),    id + u = exp(v)

``v`` is a random stationary velocity field, ``exp`` its flow at time one (scaling and squaring: exp(v) = exp(v/2^n)
composed with itself n times), ``A`` a small random affine map about the box centre ``c``. All in millimetres. ``u`` lives
on the 4 mm grid and is interpolated by cubic splines, whose derivatives are exact, so the Jacobian determinant
det(A) det(I + grad u) is that of the very map that is used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.interpolate import CubicSpline

from synthmr.data.phantom.anatomy import COARSE, Template
from synthmr.data.phantom.fields import random_generator, separable, smooth_field
from synthmr.data.phantom.settings import PhantomConfig
from synthmr.errors import DataError

#: control-point distance (mm) and share of the amplitude of the two scales of the velocity field
SCALES = ((30.0, 1.0), (15.0, 0.3))

#: a voxel must not shrink or grow by more than this factor
JACOBIAN_LIMIT = 8.0

SQUARINGS = 6

#: planes of the fine grid that are worked on at a time
SLAB = 32


@dataclass(frozen=True, eq=False)
class Warp:
    """One subject's anatomy.

    Attributes:
        points: ``(3, X, Y, Z)``, the template point (mm) that each target voxel shows.
        jacobian: ``(X, Y, Z)``, determinant of d points / d target.
        amplitude: largest displacement of the smooth part, mm.
        ventricles: how far the ventricle wall moves outward, mm.
    """

    points: np.ndarray
    jacobian: np.ndarray
    amplitude: float
    ventricles: float


def exponential(velocity: np.ndarray, spacing: float, squarings: int = SQUARINGS) -> np.ndarray:
    """Displacement ``(3, X, Y, Z)`` in mm of the flow of a stationary ``velocity`` (same shape, mm) at time one."""
    grid = np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in velocity.shape[1:]), indexing="ij"))
    displacement = velocity / 2**squarings
    for _ in range(squarings):
        moved = grid + displacement / spacing
        displacement = displacement + np.stack(
            [ndimage.map_coordinates(each, moved, order=1, mode="nearest") for each in displacement]
        )
    return displacement


def interpolate(
    displacement: np.ndarray, coarse: tuple[np.ndarray, ...], axes: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Cubic-spline displacement ``(3, X, Y, Z)`` on ``axes`` and det(I + grad u) ``(X, Y, Z)``, derivatives exact; float32."""
    splines = [CubicSpline(knots, np.eye(len(knots)), axis=0) for knots in coarse]
    value = [spline(axis) for spline, axis in zip(splines, axes, strict=True)]
    slope = [spline(axis, 1) for spline, axis in zip(splines, axes, strict=True)]
    shape = tuple(len(axis) for axis in axes)
    fine = np.empty((3, *shape), dtype=np.float32)
    determinant = np.empty(shape, dtype=np.float32)
    for start in range(0, shape[0], SLAB):  # slabs, because nine derivatives of a 1 mm grid take half a gigabyte
        part = slice(start, start + SLAB)
        first = [value[0][part], *value[1:]]
        turned = [slope[0][part], *slope[1:]]
        for i, each in enumerate(displacement):
            fine[i, part] = separable(each, first)
        (a, b, c), (d, e, f), (g, h, k) = [
            [separable(each, [turned[j] if j == axis else first[j] for j in range(3)]) + (axis == i) for axis in range(3)]
            for i, each in enumerate(displacement)
        ]
        determinant[part] = a * (e * k - f * h) - b * (d * k - f * g) + c * (d * h - e * g)
    return fine, determinant


def random_affine(rng: np.random.Generator, scale: float) -> np.ndarray:
    """3x3: rotation (standard deviation 3 degrees an axis), size (3 %) and shear (1 %), all times ``scale``."""
    angles = np.deg2rad(3.0) * scale * rng.standard_normal(3)
    matrix = np.diag(np.exp(0.03 * scale * rng.standard_normal(3)))
    matrix[np.triu_indices(3, 1)] = 0.01 * scale * rng.standard_normal(3)
    for i, angle in enumerate(np.clip(angles, -0.15, 0.15)):
        j, k = (i + 1) % 3, (i + 2) % 3
        turn = np.eye(3)
        turn[j, j] = turn[k, k] = np.cos(angle)
        turn[j, k], turn[k, j] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def _ventricle_velocity(template: Template, outward: float) -> np.ndarray:
    """Velocity (target to template, mm) that moves the ventricle wall ``outward`` mm and fades over 10 mm."""
    distance = ndimage.gaussian_filter(template.coarse_ventricle.astype(float), 1.0)
    gradient = np.stack(np.gradient(distance, COARSE))
    return -outward * gradient * np.exp(-distance / 10.0)


def random_warp(template: Template, config: PhantomConfig, index: int) -> Warp:
    """Draw the anatomy of subject ``index``.

    Raises:
        DataError: no fold-free warp was found (cannot happen within the allowed range of ``deformation``).
    """
    rng = random_generator(config.seed, index, "warp")
    amplitude = config.deformation * rng.uniform(0.5, 1.0)
    relative = config.deformation / 8.0  # the parts that are not given in mm follow the main one
    ventricles = relative * rng.uniform(-0.8, 3.0)
    affine = random_affine(rng, min(relative, 1.0))
    velocity = np.zeros((3, *template.coarse_ventricle.shape))
    for step, share in SCALES:
        part = smooth_field(rng, template.coarse_axes, template.box, step, components=3)
        velocity += part * (share * amplitude / np.sqrt((part**2).sum(axis=0)).max())
    velocity += _ventricle_velocity(template, ventricles)
    centre = template.box.mean(axis=0)
    for _ in range(6):
        displacement, jacobian = interpolate(exponential(velocity, COARSE), template.coarse_axes, template.axes)
        jacobian *= np.linalg.det(affine)
        if jacobian.min() > 1 / JACOBIAN_LIMIT and jacobian.max() < JACOBIAN_LIMIT:
            largest = float(np.sqrt((displacement**2).sum(axis=0)).max())
            for i, axis in enumerate(template.axes):
                displacement[i] += (axis - centre[i]).reshape([-1 if j == i else 1 for j in range(3)])
            points = np.tensordot(affine, displacement, axes=1) + centre[:, None, None, None]
            return Warp(points, jacobian, largest, float(ventricles))
        velocity *= 0.8
    raise DataError(f"phantom subject {index + 1}: no fold-free warp was found; lower deformation ({config.deformation:g} mm).")


def pull(volume: np.ndarray, template: Template, points: np.ndarray) -> np.ndarray:
    """Sample a template volume (float32, linear) at ``points`` ``(3, ...)`` in mm; 0 outside the grid."""
    offset = np.array([axis[0] for axis in template.axes]).reshape(3, *(1,) * (points.ndim - 1))
    spacing = template.axes[0][1] - template.axes[0][0]
    return ndimage.map_coordinates(volume, (points - offset) / spacing, order=1, mode="constant", cval=0.0)
