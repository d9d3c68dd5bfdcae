"""Random changes of a training batch: cheap, vectorised, seeded.

Spatial changes act on every image, mask and labels alike: in the plane of slices (and of their neighbours, all by one map), or in
three dimensions of boxes. Intensity changes act on the sources alone, inside the brain, on
the unit scale ``u = (x - background) / (top - background)`` of the normaliser, where air is 0 and the upper end of the
range is 1; the background stays what it is, bit for bit. With everything off the batch is returned as it came.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from synthmr.batch import Batch
from synthmr.config import AugmentConfig

#: knots of the random monotone curve, and cells of the random smooth field
CURVE_PIECES, BIAS_CELLS = 6, 4


def augment(
    batch: Batch,
    config: AugmentConfig,
    sources: Sequence[str],
    low: Mapping[str, Tensor],
    high: Mapping[str, Tensor],
    generator: torch.Generator,
) -> Batch:
    """Change a batch at random.

    Args:
        batch: images ``(B, C, *S)``, mask given, with a channel for each of the images' or one.
        config: what may change, and by how much.
        sources: the contrasts whose intensities change, in the samples that show them; the others are targets, and stay.
        low: contrast -> ``(B,)`` normalised background.
        high: contrast -> ``(B,)`` normalised top of the range.
        generator: of every random number.
    """
    if config.flip or config.rotate or config.scale or config.shift:
        batch = _spatial(batch, config, sources, low, generator)
    if config.gain or config.gamma or config.curve or config.bias or config.noise:
        images = dict(batch.images)
        for name in sorted(sources):
            if name in images:
                changed = _intensity(images[name], batch.mask, config, low[name], high[name], generator)
                shown = batch.given(name)
                images[name] = changed if bool(shown.all()) else torch.where(spread(shown, changed), changed, images[name])
        batch = replace(batch, images=images)
    return batch


def _uniform(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Uniform in [-1, 1]."""
    return torch.rand(tuple(shape), generator=generator) * 2 - 1


def spread(values: Tensor, like: Tensor) -> Tensor:
    """``(B,)`` -> ``(B, 1, ...)``, of as many dimensions as ``like``."""
    return values.view(-1, *[1] * (like.dim() - 1))


def _spatial(
    batch: Batch, config: AugmentConfig, sources: Sequence[str], low: Mapping[str, Tensor], generator: torch.Generator
) -> Batch:
    """One flip and one affine map a sample, the same for all its images."""
    count = batch.size
    flips = torch.rand(count, generator=generator) < config.flip
    warp = bool(config.rotate or config.scale or config.shift)
    grid = _grid(batch, config, generator) if warp else None

    def move(image: Tensor, fill: Tensor | None) -> Tensor:
        """Move an image over its background ``fill``; a mask or labels have none."""
        # the first axis of boxes, and of axial and coronal slices, runs left to right (see synthmr.case)
        image = torch.where(spread(flips, image), image.flip(2), image)
        if grid is None:
            return image
        if fill is None:
            return F.grid_sample(image.float(), grid, mode="nearest", align_corners=False).to(image.dtype)
        level = spread(fill, image)
        return F.grid_sample(image - level, grid, mode="bilinear", align_corners=False) + level

    moved = batch.with_labels(lambda labels: move(labels, None))
    images = {}
    for name, image in batch.images.items():
        images[name] = move(image, low[name])
        brain = moved.mask if name in sources else moved.target_brain
        if brain is not None and grid is not None:
            # interpolation leaks brain over its border: outside the moved mask is background again
            images[name] = torch.where(brain, images[name], spread(low[name], image))
    return replace(moved, images=images)


def _grid(batch: Batch, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Sampling grid ``(B, *S, dimensions)`` of a random rotation, scaling and shift about the centre, in voxels."""
    if batch.dims == 3:
        return _grid_of_boxes(batch, config, generator)
    count, _, height, width = next(iter(batch.images.values())).shape
    angle = _uniform((count,), generator) * math.radians(config.rotate)
    zoom = 1 + _uniform((count,), generator) * config.scale
    shift = _uniform((count, 2), generator) * config.shift
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    ratio = height / width
    theta = torch.zeros(count, 2, 3)
    # grid coordinates are (column, row) in half image sizes, so the turn carries the aspect ratio
    theta[:, 0, 0], theta[:, 0, 1] = cos, -sin * ratio
    theta[:, 1, 0], theta[:, 1, 1] = sin / ratio, cos
    theta[:, 0, 2], theta[:, 1, 2] = 2 * shift[:, 1] / width, 2 * shift[:, 0] / height
    return F.affine_grid(theta, [count, 1, height, width], align_corners=False)


def _grid_of_boxes(batch: Batch, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Sampling grid ``(B, X, Y, Z, 3)``: a rotation about each axis in turn, one scaling, a shift along each axis."""
    count, _, *edges = next(iter(batch.images.values())).shape
    angles = _uniform((count, 3), generator) * math.radians(config.rotate)
    zoom = 1 + _uniform((count,), generator) * config.scale
    shift = _uniform((count, 3), generator) * config.shift
    turn = torch.eye(3).repeat(count, 1, 1)
    for axis, (one, two) in enumerate(((1, 2), (0, 2), (0, 1))):
        step = torch.eye(3).repeat(count, 1, 1)
        cos, sin = angles[:, axis].cos(), angles[:, axis].sin()
        step[:, one, one], step[:, two, two], step[:, one, two], step[:, two, one] = cos, cos, -sin, sin
        turn = turn @ step
    size = torch.tensor(edges, dtype=torch.float32)
    # voxels -> half sizes of the box; and grid coordinates come in reverse order of the axes
    theta = turn / zoom.view(-1, 1, 1) * size[None, None, :] / size[None, :, None]
    theta = torch.cat([theta.flip(1, 2), (2 * shift / size).flip(1)[:, :, None]], dim=2)
    return F.affine_grid(theta, [count, 1, *edges], align_corners=False)


def _intensity(
    image: Tensor, mask: Tensor | None, config: AugmentConfig, low: Tensor, high: Tensor, generator: torch.Generator
) -> Tensor:
    """Curve, gamma, gain, bias field and noise of one source ``(B, C, *S)``, in that order."""
    count, _, *edges = image.shape
    one = (count, *[1] * (image.dim() - 1))
    bottom, span = spread(low, image), spread(high - low, image)
    unit = (image - bottom) / span
    if config.curve:
        unit = torch.lerp(unit, _curve(unit, generator), config.curve)
    if config.gamma:
        exponent = torch.exp2(_uniform(one, generator) * config.gamma)
        unit = torch.where(unit > 0, unit.clamp(min=1e-6) ** exponent, unit)
    if config.gain:
        unit = unit * (1 + _uniform(one, generator) * config.gain)
    if config.bias:
        cells = _uniform((count, 1, *[BIAS_CELLS] * len(edges)), generator)
        field = F.interpolate(cells, size=edges, mode="bilinear" if len(edges) == 2 else "trilinear", align_corners=True)
        unit = unit * (1 + field * config.bias)
    if config.noise:
        sd = torch.rand(one, generator=generator) * config.noise
        unit = unit + torch.randn(unit.shape, generator=generator) * sd
    changed = unit * span + bottom
    return torch.where(mask, changed, image) if mask is not None else changed


def _curve(unit: Tensor, generator: torch.Generator) -> Tensor:
    """A random monotone map of [0, 1] onto itself, piecewise linear; values outside [0, 1] stay."""
    count = unit.shape[0]
    rises = torch.rand(count, CURVE_PIECES, generator=generator) + 0.2
    levels = torch.cat([torch.zeros(count, 1), rises.cumsum(1)], dim=1)
    levels = levels / levels[:, -1:]
    flat = unit.reshape(count, -1)
    place = flat.clamp(0, 1) * CURVE_PIECES
    piece = place.floor().clamp(max=CURVE_PIECES - 1).long()
    left, right = levels.gather(1, piece), levels.gather(1, piece + 1)
    mapped = left + (right - left) * (place - piece)
    return torch.where((flat >= 0) & (flat <= 1), mapped, flat).view_as(unit)
