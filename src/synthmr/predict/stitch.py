"""Cut a slice into overlapping tiles and blend predictions back. Constant in, constant out; identity in, identity out.

A blended pixel is the weighted mean of the tiles that cover it: numerator and denominator are accumulated with the very
same weights, so they cancel whatever the window is. Weights are positive everywhere, so no pixel is without one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor
from torch.nn import functional

from synthmr.errors import UsageError, did_you_mean

WINDOWS = ("uniform", "linear", "gaussian")


@dataclass(frozen=True)
class Tiling:
    """Where the tiles of a slice lie.

    Attributes:
        size: (H, W) of the slice, in pixels.
        patch: (H, W) of every tile.
        corners: (top, left) of each tile, on the slice padded at its far ends to at least one tile.
    """

    size: tuple[int, int]
    patch: tuple[int, int]
    corners: tuple[tuple[int, int], ...]

    @property
    def padded(self) -> tuple[int, int]:
        """(H, W) of the slice after padding: at least one tile."""
        return max(self.size[0], self.patch[0]), max(self.size[1], self.patch[1])


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


def tiling(size: tuple[int, int], patch: tuple[int, int], overlap: float = 0.5) -> Tiling:
    """Tiles of ``patch`` that cover a slice of ``size`` (both (H, W) in pixels)."""
    rows = positions(size[0], patch[0], overlap)
    columns = positions(size[1], patch[1], overlap)
    return Tiling(size, patch, tuple((row, column) for row in rows for column in columns))


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


def window(patch: tuple[int, int], kind: str = "uniform") -> Tensor:
    """Positive blending weights ``(H, W)``, float32, largest in the middle, product of two 1-D windows.

    Args:
        patch: (H, W) of a tile.
        kind: uniform (a plain average), linear (a tent, lowest at the border) or gaussian (sigma an eighth of the tile).

    Raises:
        UsageError: no such window.
    """
    if kind not in WINDOWS:
        raise UsageError(f"unknown window {kind!r}: {did_you_mean(kind, WINDOWS)}")
    return torch.outer(_window_1d(patch[0], kind), _window_1d(patch[1], kind)).float()


def _window_1d(length: int, kind: str) -> Tensor:
    place = torch.arange(length, dtype=torch.float64) + 0.5
    if kind == "linear":
        return torch.minimum(place, length - place) * 2 / length
    if kind == "gaussian":
        # the floor keeps the corners' weights (a product) well inside float32
        return torch.exp(-0.5 * ((place - length / 2) / (length / 8)) ** 2).clamp_min(1e-3)
    return torch.ones(length, dtype=torch.float64)


def cut(image: Tensor, tiles: Tiling, fill: float | Sequence[float] = 0.0) -> Tensor:
    """Cut slices into tiles.

    Args:
        image: ``(B, C, H, W)``.
        tiles: their places.
        fill: value (or one a channel) of the padding where a slice is smaller than a tile.

    Returns:
        ``(B * T, C, h, w)``: the T tiles of the first slice, then those of the second, ...

    Raises:
        UsageError: the slices are not of the size that the tiling was made for.
    """
    if tuple(image.shape[-2:]) != tiles.size:
        raise UsageError(f"slices of {tuple(image.shape[-2:])} do not fit tiles made for {tiles.size}.")
    image = pad_far(image, tiles.padded, fill)
    height, width = tiles.patch
    parts = torch.stack([image[..., top : top + height, left : left + width] for top, left in tiles.corners], dim=1)
    return parts.flatten(0, 1)


def blend(parts: Tensor, tiles: Tiling, weights: Tensor | None = None) -> Tensor:
    """Inverse of `cut`: the weighted mean of the tiles at every pixel.

    Args:
        parts: ``(B * T, C, h, w)``.
        tiles: their places.
        weights: ``(h, w)``, positive; None is a plain average.

    Returns:
        ``(B, C, H, W)`` float32.
    """
    height, width = tiles.patch
    weights = torch.ones(tiles.patch) if weights is None else weights
    # sums of many tiles in double, so that constant in is constant out to the last digit (Apple's GPUs have no double)
    exact = torch.float32 if parts.device.type == "mps" else torch.float64
    weights = weights.to(parts.device, exact)
    parts = parts.to(exact).unflatten(0, (-1, len(tiles.corners)))
    total = torch.zeros(parts.shape[0], parts.shape[2], *tiles.padded, device=parts.device, dtype=exact)
    weight = torch.zeros(tiles.padded, device=parts.device, dtype=exact)
    for index, (top, left) in enumerate(tiles.corners):
        total[..., top : top + height, left : left + width] += parts[:, index] * weights
        weight[top : top + height, left : left + width] += weights
    return (total / weight).float()[..., : tiles.size[0], : tiles.size[1]]


def pad_far(image: Tensor, size: tuple[int, int], fill: float | Sequence[float] = 0.0) -> Tensor:
    """Pad ``(B, C, H, W)`` at the far ends of H and W to ``size``; ``fill`` is one value, or one a channel."""
    down, right = size[0] - image.shape[-2], size[1] - image.shape[-1]
    if down <= 0 and right <= 0:
        return image
    values = [fill] * image.shape[1] if isinstance(fill, (int, float)) else list(fill)
    channels = image.split(1, dim=1)
    return torch.cat([functional.pad(c, (0, right, 0, down), value=v) for c, v in zip(channels, values, strict=True)], dim=1)


def next_multiple(size: tuple[int, int], divisor: int) -> tuple[int, int]:
    """``size`` rounded up to multiples of ``divisor``."""
    return -(-size[0] // divisor) * divisor, -(-size[1] // divisor) * divisor
