"""Cut slices or boxes into overlapping tiles and blend predictions back. Constant in, constant out; identity in, identity out.

All functions work over two axes (H, W) or three (X, Y, Z), called S below. A blended pixel is the weighted mean of the tiles that
cover it: numerator and denominator are accumulated with the very same weights, so they cancel whatever the window is. Weights are
positive everywhere, so no pixel is without one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from math import ceil

import torch
from torch import Tensor
from torch.nn import functional

from synthmr.errors import UsageError, did_you_mean

WINDOWS = ("uniform", "linear", "gaussian")


@dataclass(frozen=True)
class Tiling:
    """Where the tiles of a slice or volume lie.

    Attributes:
        size: S of the whole, in pixels.
        patch: S of every tile.
        corners: first pixel of each tile along every axis, on the whole padded at its far ends to at least one tile.
    """

    size: tuple[int, ...]
    patch: tuple[int, ...]
    corners: tuple[tuple[int, ...], ...]

    @property
    def padded(self) -> tuple[int, ...]:
        """S of the whole after padding: at least one tile."""
        return tuple(map(max, self.size, self.patch))

    def places(self) -> list[tuple[slice, ...]]:
        """The part of the padded whole that each tile is."""
        return [tuple(slice(a, a + edge) for a, edge in zip(corner, self.patch, strict=True)) for corner in self.corners]


def positions(length: int, patch: int, overlap: float) -> tuple[int, ...]:
    """Starts of tiles that cover ``length``, evenly spread; the last is flush with the end.

    Neighbours share at least ``overlap`` of a tile.

    Args:
        length: pixels to cover.
        patch: pixels of a tile.
        overlap: share of a tile in [0, 1).

    Raises:
        UsageError: a length below 1, or an overlap outside [0, 1).
    """
    if length < 1 or patch < 1:
        raise UsageError(f"tiles of {patch} pixels over {length} pixels make no sense; both must be at least 1.")
    if not 0 <= overlap < 1:
        raise UsageError(f"overlap={overlap:g} is not a share in [0, 1); 0.5 lets neighbours share half a tile.")
    if length <= patch:
        return (0,)
    step = max(1, int(patch * (1 - overlap)))
    count = ceil((length - patch) / step) + 1
    return tuple(round(index * (length - patch) / (count - 1)) for index in range(count))


def tiling(size: tuple[int, ...], patch: tuple[int, ...], overlap: float = 0.5) -> Tiling:
    """Tiles of ``patch`` that cover ``size`` (both S in pixels)."""
    starts = [positions(whole, part, overlap) for whole, part in zip(size, patch, strict=True)]
    return Tiling(size, patch, tuple(product(*starts)))


def hinet_tiles(size: tuple[int, int] = (160, 180), patch: tuple[int, int] = (128, 128)) -> Tiling:
    """Hi-Net's tiles: one in each corner, four 128x128 over 160x180 (section IV-A of the paper).

    The overlapped regions are averaged: blend with the uniform window.

    Raises:
        UsageError: the slice is more than two tiles or less than one tile wide, so that four corners do not cover it.
    """
    for length, edge in zip(size, patch, strict=True):
        if not edge <= length <= 2 * edge:
            raise UsageError(f"four corner tiles of {patch} cannot cover {size}; use overlapping patches instead.")
    rows, columns = ((0, length - edge) for length, edge in zip(size, patch, strict=True))
    return Tiling(size, patch, tuple((row, column) for row in rows for column in columns))


def window(patch: tuple[int, ...], kind: str = "uniform") -> Tensor:
    """Positive blending weights ``S``, float32, largest in the middle, product of 1-D windows.

    Args:
        patch: S of a tile.
        kind: uniform (a plain average), linear (a tent, lowest at the border) or gaussian (sigma an eighth of the tile).

    Raises:
        UsageError: no such window.
    """
    if kind not in WINDOWS:
        raise UsageError(f"unknown window {kind!r}: {did_you_mean(kind, WINDOWS)}")
    return reduce(
        lambda weights, edge: weights[..., None] * _window_1d(edge, kind), patch, torch.ones((), dtype=torch.float64)
    ).float()


def _window_1d(length: int, kind: str) -> Tensor:
    place = torch.arange(length, dtype=torch.float64) + 0.5
    if kind == "linear":
        return torch.minimum(place, length - place) * 2 / length
    if kind == "gaussian":
        # the floor keeps the corners' weights, a product of three at most, well inside float32
        return torch.exp(-0.5 * ((place - length / 2) / (length / 8)) ** 2).clamp_min(1e-3)
    return torch.ones(length, dtype=torch.float64)


def cut(image: Tensor, tiles: Tiling, fill: float | Sequence[float] = 0.0) -> Tensor:
    """Cut images into tiles.

    Args:
        image: ``(B, C, *S)``.
        tiles: their places.
        fill: value (or one a channel) of the padding where an image is smaller than a tile.

    Returns:
        ``(B * T, C, *s)``: the T tiles of the first image, then those of the second, ...

    Raises:
        UsageError: the images are not of the size that the tiling was made for.
    """
    if tuple(image.shape[2:]) != tiles.size:
        raise UsageError(f"images of {tuple(image.shape[2:])} do not fit tiles made for {tiles.size}.")
    image = pad_far(image, tiles.padded, fill)
    parts = torch.stack([image[_inside(place)] for place in tiles.places()], dim=1)
    return parts.flatten(0, 1)


def blend(parts: Tensor, tiles: Tiling, weights: Tensor | None = None) -> Tensor:
    """Inverse of `cut`: the weighted mean of the tiles at every pixel.

    Args:
        parts: ``(B * T, C, *s)``.
        tiles: their places.
        weights: ``s``, positive; None is a plain average.

    Returns:
        ``(B, C, *S)`` float32.
    """
    weights = torch.ones(tiles.patch) if weights is None else weights
    exact = exact_type(parts.device)
    weights = weights.to(parts.device, exact)
    parts = parts.to(exact).unflatten(0, (-1, len(tiles.corners)))
    total = torch.zeros(parts.shape[0], parts.shape[2], *tiles.padded, device=parts.device, dtype=exact)
    weight = torch.zeros(tiles.padded, device=parts.device, dtype=exact)
    for index, place in enumerate(tiles.places()):
        total[_inside(place)] += parts[:, index] * weights
        weight[place] += weights
    return (total / weight).float()[_inside(tuple(slice(edge) for edge in tiles.size))]


def _inside(place: tuple[slice, ...]) -> tuple[slice, ...]:
    """A part of S, of all samples and channels of ``(B, C, *S)``."""
    return (slice(None), slice(None), *place)


def exact_type(device: torch.device) -> torch.dtype:
    """Sums of many tiles are in double, so that constant in is constant out to the last digit (Apple's GPUs have no double)."""
    return torch.float32 if device.type == "mps" else torch.float64


def pad_far(image: Tensor, size: tuple[int, ...], fill: float | Sequence[float] = 0.0) -> Tensor:
    """Pad ``(B, C, *S)`` at the far ends of S to ``size``; ``fill`` is one value, or one a channel."""
    missing = [max(whole - edge, 0) for whole, edge in zip(size, image.shape[2:], strict=True)]
    if not any(missing):
        return image
    edges = [edge for each in reversed(missing) for edge in (0, each)]
    values = [fill] * image.shape[1] if isinstance(fill, (int, float)) else list(fill)
    channels = image.split(1, dim=1)
    return torch.cat([functional.pad(c, edges, value=v) for c, v in zip(channels, values, strict=True)], dim=1)


def next_multiple(size: tuple[int, ...], divisor: int) -> tuple[int, ...]:
    """``size`` rounded up to multiples of ``divisor``."""
    return tuple(-(-edge // divisor) * divisor for edge in size)
