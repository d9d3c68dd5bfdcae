"""Lesions: where they are and how much of a voxel they fill. Lengths in mm, in the subject's own space.

Every lesion replaces healthy tissue: its fraction ``a`` scales the fractions of CSF, grey and white matter by ``1 - a``.
Edges are soft over one voxel, so that small lesions have partial volume, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from synthmr.data.phantom.fields import random_generator, smooth_field
from synthmr.data.phantom.settings import PhantomConfig
from synthmr.data.phantom.signal import LESION_TISSUES
from synthmr.errors import DataError

#: labels of ``seg.nii.gz``
LABELS: dict[str, int] = {name: i + 1 for i, name in enumerate(LESION_TISSUES)}


@dataclass(frozen=True, eq=False)
class Scene:
    """A healthy subject. Volumes are ``(X, Y, Z)``.

    Attributes:
        axes: world coordinates (mm) of the voxel centres.
        box: ``(2, 3)``, corners in mm.
        csf: fraction of cerebrospinal fluid.
        gm: fraction of grey matter.
        wm: fraction of white matter.
        mask: bool, the brain.
        ventricle: distance to the ventricles in mm.
    """

    axes: tuple[np.ndarray, np.ndarray, np.ndarray]
    box: np.ndarray
    csf: np.ndarray
    gm: np.ndarray
    wm: np.ndarray
    mask: np.ndarray
    ventricle: np.ndarray

    @property
    def spacing(self) -> float:
        return float(self.axes[0][1] - self.axes[0][0])

    def relative(self, centre: np.ndarray) -> list[np.ndarray]:
        """Coordinates relative to ``centre`` along each axis, shaped to broadcast to ``(X, Y, Z)``."""
        shapes = ((-1, 1, 1), (1, -1, 1), (1, 1, -1))
        return [(axis - c).reshape(shape) for axis, c, shape in zip(self.axes, centre, shapes, strict=True)]

    def window(self, centre: np.ndarray, reach: float) -> tuple[tuple[slice, ...], np.ndarray]:
        """The voxels within ``reach`` mm of ``centre`` along each axis, and their offsets ``(3, x, y, z)`` from it."""
        limits = [np.searchsorted(axis, (c - reach, c + reach)) for axis, c in zip(self.axes, centre, strict=True)]
        window = tuple(slice(int(low), int(high)) for low, high in limits)
        near = [axis[part] - c for axis, part, c in zip(self.axes, window, centre, strict=True)]
        return window, np.stack(np.meshgrid(*near, indexing="ij"))

    def nearest(self, points: np.ndarray) -> tuple[np.ndarray, ...]:
        """Voxel indices of ``points`` ``(N, 3)`` in mm, moved to the grid where they lie outside."""
        return tuple(
            np.clip(np.rint((points[:, i] - axis[0]) / (axis[1] - axis[0])).astype(int), 0, len(axis) - 1)
            for i, axis in enumerate(self.axes)
        )


def draw_kind(config: PhantomConfig, index: int) -> str:
    """The kind of lesion that subject ``index`` has: a random order of the kinds in every block of subjects."""
    kinds = config.lesions
    order = random_generator(config.seed, index // len(kinds), "kinds").permutation(len(kinds))
    return kinds[int(order[index % len(kinds)])]


def _fill(excess: np.ndarray, spacing: float) -> np.ndarray:
    """Share of a voxel inside a surface whose signed distance from the voxel centre is ``excess`` mm (inside > 0)."""
    return np.clip(excess / spacing + 0.5, 0.0, 1.0)


def _weighted_points(rng: np.random.Generator, scene: Scene, weight: np.ndarray, count: int) -> np.ndarray:
    """Draw ``count`` points ``(count, 3)`` in mm with probability in proportion to ``weight`` ``(X, Y, Z)``.

    Candidates are points of the box, not voxels, so that another voxel size finds lesions at the same places.
    """
    points = rng.uniform(scene.box[0], scene.box[1], size=(20_000, 3))
    lucky = rng.gumbel(size=len(points))
    with np.errstate(divide="ignore"):
        score = np.log(weight[scene.nearest(points)]) + lucky  # the largest are a weighted draw without replacement
    best = np.argsort(score)[::-1][:count]
    if not np.isfinite(score[best]).all():
        raise DataError("the phantom found no room for a lesion; use a smaller spacing or lesions=none.")
    return points[best]


def ms_like(rng: np.random.Generator, scene: Scene) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """6 to 16 ovoids in periventricular white matter, the long axis pointing away from the ventricles."""
    count = int(rng.integers(6, 17))
    distance = scene.ventricle
    near = np.exp(-np.maximum(distance - 2.0, 0.0) / 3.0) * (distance > 1.5)
    upper = (scene.axes[2] > -8.0)[None, None, :]
    centres = _weighted_points(rng, scene, near * np.clip(scene.wm - 0.5, 0.0, None) * upper * scene.mask, count)
    short = rng.uniform(2.0, 4.5, count)
    long = short * rng.uniform(1.2, 2.2, count)
    ragged = smooth_field(rng, scene.axes, scene.box, 6.0)[0]
    slopes = np.stack([np.gradient(distance, scene.spacing, axis=axis) for axis in range(3)])
    fraction = np.zeros(scene.mask.shape)
    for centre, a, b in zip(centres, short, long, strict=True):
        away = slopes[(slice(None), *(i[0] for i in scene.nearest(centre[None])))]
        away = away / (np.linalg.norm(away) + 1e-9)
        window, offset = scene.window(centre, 2 * b + 1)
        along = np.tensordot(away, offset, axes=1)
        across = np.sqrt(np.maximum((offset**2).sum(axis=0) - along**2, 0.0))
        radius = np.sqrt((across / a) ** 2 + (along / b) ** 2)
        excess = (1.0 - radius) * a + 0.5 * ragged[window]
        fraction[window] = np.maximum(fraction[window], _fill(excess, scene.spacing))
    fraction *= np.clip(scene.wm + 0.5 * scene.gm, 0.0, 1.0) * (1 - scene.csf) * scene.mask
    info = {"lesions": count, "centres_mm": np.round(centres, 1).tolist(), "long_radius_mm": np.round(long, 2).tolist()}
    return {"ms": fraction}, info


def _room(scene: Scene, centre: np.ndarray, radius: float) -> float:
    """Share of the sphere about ``centre`` that is brain outside the ventricles."""
    x, y, z = scene.relative(centre)
    inside = x**2 + y**2 + z**2 < radius**2
    return float((scene.mask & (scene.ventricle > 2.0))[inside].mean()) if inside.any() else 0.0


def tumour_like(rng: np.random.Generator, scene: Scene) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A glioma-like mass: necrosis in an irregular enhancing rim, oedema around it that follows white matter."""
    radius = float(rng.uniform(11.0, 19.0))
    rim = float(rng.uniform(3.0, 5.0))
    margin = float(rng.uniform(8.0, 16.0))
    side = (np.abs(scene.axes[0]) > 0.8 * radius + 6.0)[:, None, None]  # stays in its hemisphere
    upper = (scene.axes[2] > -5.0)[None, None, :]
    candidates = _weighted_points(rng, scene, np.clip(scene.wm - 0.3, 0.0, None) * side * upper * scene.mask, 24)
    rooms = [_room(scene, candidate, radius) for candidate in candidates]
    centre = candidates[next((i for i, room in enumerate(rooms) if room > 0.92), int(np.argmax(rooms)))]
    x, y, z = scene.relative(centre)
    stretch = rng.uniform(0.85, 1.15, 3)
    distance = np.sqrt((x * stretch[0]) ** 2 + (y * stretch[1]) ** 2 + (z * stretch[2]) ** 2)
    outer, inner, spread = (smooth_field(rng, scene.axes, scene.box, step)[0] for step in (9.0, 7.0, 12.0))
    core = _fill(radius - distance + 2.0 * outer, scene.spacing) * scene.mask
    necrosis = _fill(radius - rim - distance + 2.0 * inner, scene.spacing) * core
    solid = np.maximum(scene.wm + scene.gm, 1e-6)
    route = (scene.wm + 0.25 * scene.gm) / solid * (1 - scene.csf)  # vasogenic oedema spares the cortex
    oedema = _fill(radius + margin - distance + 5.0 * spread, scene.spacing) * route * (1 - core) * scene.mask
    info = {"centre_mm": np.round(centre, 1).tolist(), "core_radius_mm": radius, "rim_mm": rim, "oedema_margin_mm": margin}
    return {"oedema": oedema, "necrosis": necrosis, "enhancing": core - necrosis}, info


def stroke_like(rng: np.random.Generator, scene: Scene) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A wedge that opens from near the ventricles to the lateral surface, as in a branch of the middle cerebral artery."""
    side = 1.0 if rng.uniform() < 0.5 else -1.0
    apex = np.array([side * rng.uniform(24.0, 32.0), rng.uniform(-40.0, 15.0), rng.uniform(2.0, 24.0)])
    axis = np.array([side, rng.uniform(-0.7, 0.6), rng.uniform(-0.1, 0.7)])
    axis /= np.linalg.norm(axis)
    half = np.deg2rad(rng.uniform(20.0, 34.0))
    offset = scene.relative(apex)
    length = np.sqrt(sum(part**2 for part in offset)) + 1e-6
    along = sum(part * a for part, a in zip(offset, axis, strict=True))
    angle = np.arccos(np.clip(along / length, -1.0, 1.0))
    ragged = smooth_field(rng, scene.axes, scene.box, 8.0)[0]
    excess = (half - angle) * length + 2.0 * ragged  # arc length to the side of the cone
    same = (np.sign(scene.axes[0]) == side)[:, None, None]
    fraction = _fill(np.minimum(excess, along), scene.spacing) * (1 - scene.csf) * scene.mask * same
    info = {"apex_mm": np.round(apex, 1).tolist(), "half_angle_degrees": float(np.rad2deg(half))}
    return {"stroke": fraction}, info


def draw_lesions(scene: Scene, config: PhantomConfig, index: int) -> tuple[str, dict[str, np.ndarray], dict[str, Any]]:
    """Draw the lesions of subject ``index``.

    Returns:
        The kind, the fraction ``(X, Y, Z)`` of each lesion tissue, and what was drawn (JSON data).

    Raises:
        DataError: the grid is too coarse to place one.
    """
    kind = draw_kind(config, index)
    rng = random_generator(config.seed, index, "lesions")
    if kind == "none":
        return kind, {}, {}
    fractions, info = {"ms": ms_like, "tumour": tumour_like, "stroke": stroke_like}[kind](rng, scene)
    return kind, fractions, info


def lesion_labels(fractions: dict[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """``(X, Y, Z)`` uint8: the label of the largest lesion tissue where lesions fill more than half of the voxel."""
    labels = np.zeros(shape, dtype=np.uint8)
    if not fractions:
        return labels
    stacked = np.stack(list(fractions.values()))
    numbers = np.array([LABELS[name] for name in fractions], dtype=np.uint8)
    inside = stacked.sum(axis=0) > 0.5
    labels[inside] = numbers[np.argmax(stacked, axis=0)][inside]
    return labels
