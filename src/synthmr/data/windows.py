"""Windows of a case: where slices, patches and boxes lie in its prepared volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from synthmr.data.parts import Triple, triple
from synthmr.data.reader import Reader


@dataclass(frozen=True)
class Window:
    """A part of a case's prepared volume; it may reach beyond it.

    Attributes:
        case: number of the case among those that are drawn from.
        name: of the case.
        start: first voxel (X, Y, Z).
        size: voxels (X, Y, Z).
        slice: number of the middle slice; -1 for boxes.
    """

    case: int
    name: str
    start: Triple
    size: Triple
    slice: int = -1

    def middle(self, axis: int, neighbours: int) -> Window:
        """The middle slice alone, without the neighbours along ``axis``."""
        start = [first + neighbours if each == axis else first for each, first in enumerate(self.start)]
        size = [1 if each == axis else edge for each, edge in enumerate(self.size)]
        return replace(self, start=triple(start), size=triple(size))


def tile_starts(size: int, tile: int) -> list[int]:
    """First pixels of the fewest equal steps of tiles that cover ``size``; neighbours overlap."""
    if tile >= size:
        return [0]
    count = -(-size // tile)
    return [round(k * (size - tile) / (count - 1)) for k in range(count)]


def slice_window(axis: int, first: int, corner: Sequence[int]) -> Triple:
    """First voxel of a window whose first slice along ``axis`` is ``first`` and whose first pixel is ``corner``."""
    rest = list(corner)
    return triple([first if each == axis else rest.pop(0) for each in range(3)])


def slice_extent(axis: int, depth: int, size: Sequence[int]) -> Triple:
    """Voxels of ``depth`` slices of ``size`` (h, w) along ``axis``."""
    return slice_window(axis, depth, size)


def whole_slice(axis: int, number: int, shape: Sequence[int]) -> tuple[Triple, Triple]:
    """First voxel and size of the slice ``number`` along ``axis`` of a volume."""
    size = [1 if each == axis else edge for each, edge in enumerate(shape)]
    return slice_window(axis, number, (0, 0)), triple(size)


def coords_of_slices(chosen: np.ndarray, depths: Sequence[int], size: Sequence[int], crop: Sequence[int]) -> Tensor:
    """``(B, 3)``: slice, row and column of the window's centre, -1 to 1 over the case and the crop.

    Args:
        chosen: ``(B, 4)``: case, slice, first row and column of the window in the crop.
        depths: slices of each case.
        size: (h, w) of a window.
        crop: (H, W) of the crop.
    """
    rows = []
    for (_, number, *corner), depth in zip(chosen.tolist(), depths, strict=True):
        centre = [2 * (first + part / 2) / whole - 1 for first, part, whole in zip(corner, size, crop, strict=True)]
        rows.append([2 * number / max(depth - 1, 1) - 1, *centre])
    return torch.tensor(rows, dtype=torch.float32)


def coords_of_boxes(windows: Sequence[Window], shapes: Sequence[Triple]) -> Tensor:
    """``(B, 3)``: centres of boxes along X, Y and Z, -1 to 1 over each case."""
    rows = [
        [2 * (first + part / 2) / whole - 1 for first, part, whole in zip(window.start, window.size, shape, strict=True)]
        for window, shape in zip(windows, shapes, strict=True)
    ]
    return torch.tensor(rows, dtype=torch.float32)


def brain_voxel(reader: Reader, name: str, rng: np.random.Generator) -> Triple:
    """A random voxel of the brain, all with equal probability."""
    ends = np.cumsum(reader.brain_slices(name, "axial"))
    drawn = int(rng.integers(int(ends[-1])))
    z = int(np.searchsorted(ends, drawn, side="right"))
    x_size, y_size, _ = reader.shape(name)
    inside = np.argwhere(reader.mask(name, (0, 0, z), (x_size, y_size, 1))[:, :, 0])
    x, y = inside[drawn - (int(ends[z - 1]) if z else 0)]
    return int(x), int(y), z


def labelled_voxels(reader: Reader, name: str) -> np.ndarray:
    """``(N,)``: the voxels of a case that carry a label above 0, as places in its flattened volume."""
    labels = reader.segmentation(name)
    return np.flatnonzero(labels > 0) if labels is not None else np.empty(0, int)


def box_within(index: int, name: str, centre: Sequence[int], size: Sequence[int], shape: Sequence[int]) -> Window:
    """A box about a voxel, moved inside the volume; centred on the volume along axes where it is larger."""
    start = [
        (whole - part) // 2 if part >= whole else min(max(int(at) - part // 2, 0), whole - part)
        for at, part, whole in zip(centre, size, shape, strict=True)
    ]
    return Window(index, name, triple(start), triple(size))
