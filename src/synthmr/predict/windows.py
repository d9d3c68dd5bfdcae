"""Which part of each slice a network is shown: the whole box, or a window just around the brain of that slice.

Slices near the vertex are small, and most of their box is background. A window around the brain saves a third of the
pixels, and convolutional networks did slightly better with it (docs/protocols.md has numbers). Networks that normalise by
the statistics of the whole slice would see other statistics, so they are shown the whole box.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import lcm

import numpy as np
import torch
from torch import nn

from synthmr.batch import Batch
from synthmr.data.windows import coords_of_slices
from synthmr.predict.stitch import next_multiple

#: background pixels kept around the brain of a slice
MARGIN = 2
#: windows are multiples of this, so that slices of similar size make a batch; 16 takes 3 to 6 % more CPU time for Hi-Net
GRAIN = 8
#: no window is smaller: a network needs context
LEAST = 64

_SLICE_STATISTICS = (
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.MultiheadAttention,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
)


def sees_whole_slice(network: object) -> bool:
    """Whether a part of a network works with statistics of the whole slice, so that its output depends on the background shown."""
    return isinstance(network, nn.Module) and any(isinstance(part, _SLICE_STATISTICS) for part in network.modules())


@dataclass(frozen=True)
class Window:
    """A part of one slice.

    Attributes:
        index: of the slice.
        top: first row.
        left: first column.
    """

    index: int
    top: int
    left: int


def whole_windows(mask: np.ndarray) -> dict[tuple[int, int], list[Window]]:
    """The whole of each slice with brain: {(H, W): windows}. ``mask`` is ``(S, H, W)`` bool."""
    size = (mask.shape[1], mask.shape[2])
    return {size: [Window(int(index), 0, 0) for index in np.flatnonzero(mask.any(axis=(1, 2)))]}


def brain_windows(mask: np.ndarray, divisor: int) -> dict[tuple[int, int], list[Window]]:
    """Windows around the brain of each slice that has any, grouped by size: {(h, w): windows}.

    Sizes are multiples of ``divisor``. A window may reach beyond the far ends of the slice, never beyond the near ones,
    and depends on its own slice alone.

    Args:
        mask: ``(S, H, W)`` bool.
        divisor: of the method.
    """
    grain = lcm(divisor, GRAIN)
    groups: dict[tuple[int, int], list[Window]] = {}
    for index in np.flatnonzero(mask.any(axis=(1, 2))):
        spans = [_span(mask[index].any(axis=1 - axis), grain, divisor) for axis in (0, 1)]
        (top, height), (left, width) = spans
        groups.setdefault((height, width), []).append(Window(int(index), top, left))
    return groups


def spread_evenly(mask: np.ndarray, most: int, axis: int = 0) -> np.ndarray:
    """A brain mask with at most ``most`` of its slices along ``axis``, evenly spaced; the others are empty."""
    across = tuple(other for other in range(mask.ndim) if other != axis)
    slices = np.flatnonzero(mask.any(axis=across))
    if len(slices) <= most:
        return mask
    kept = np.zeros(mask.shape[axis], bool)
    kept[slices[np.linspace(0, len(slices) - 1, most).round().astype(int)]] = True
    return mask & kept.reshape([-1 if each == axis else 1 for each in range(mask.ndim)])


def _span(filled: np.ndarray, grain: int, divisor: int) -> tuple[int, int]:
    """(start, length) of a window around the True part of a 1-D array."""
    whole = next_multiple((len(filled), 1), divisor)[0]
    inside = np.flatnonzero(filled)
    first, last = int(inside[0]), int(inside[-1])
    length = next_multiple((max(last + 1 - first + 2 * MARGIN, LEAST), 1), grain)[0]
    if length >= whole:
        return 0, whole
    centred = (first + last + 1 - length) // 2
    return min(max(centred, 0), whole - length), length


def batches(
    groups: Mapping[tuple[int, int], list[Window]], pixels: int, count: int = 0
) -> Iterator[tuple[tuple[int, int], list[Window]]]:
    """Split groups into batches of ``count`` windows, or of at most ``pixels`` pixels where ``count`` is 0."""
    for size, windows in groups.items():
        step = count or max(1, pixels // (size[0] * size[1]))
        for start in range(0, len(windows), step):
            yield size, windows[start : start + step]


def gather(slices: np.ndarray, windows: list[Window], size: tuple[int, int], fill: float = 0, neighbours: int = 0) -> np.ndarray:
    """Cut windows out of ``(S, H, W)``: ``(B, C, h, w)`` of the same type, ``fill`` beyond the slice and beyond the first and last.

    C is ``2 neighbours + 1``: the slices before, the window's own, the slices after, in order.
    """
    out = np.full((len(windows), 2 * neighbours + 1, *size), fill, slices.dtype)
    for targets, window in zip(out, windows, strict=True):
        for offset, target in enumerate(targets, start=window.index - neighbours):
            if 0 <= offset < len(slices):
                part = slices[offset, window.top : window.top + size[0], window.left : window.left + size[1]]
                target[: part.shape[0], : part.shape[1]] = part
    return out


def scatter(slices: np.ndarray, parts: np.ndarray, windows: list[Window], mask: np.ndarray) -> None:
    """Write windows ``(B, h, w)`` back into ``(S, H, W)`` wherever ``mask`` (S, H, W) is True."""
    for part, window in zip(parts, windows, strict=True):
        place = (window.index, slice(window.top, window.top + part.shape[0]), slice(window.left, window.left + part.shape[1]))
        inside = mask[place]
        slices[place][inside] = part[: inside.shape[0], : inside.shape[1]][inside]


def window_batch(
    images: Mapping[str, np.ndarray],
    mask: np.ndarray,
    labels: np.ndarray | None,
    windows: list[Window],
    size: tuple[int, int],
    fills: Mapping[str, float],
    neighbours: int = 0,
) -> Batch:
    """The windows of ``(S, H, W)`` arrays as a `Batch`; coordinates as in training: (S, H, W) order, -1 to 1 over the box.

    ``neighbours`` are the slices on either side that go along as channels.
    """
    whole = mask.shape
    places = np.array([(0, window.index, window.top, window.left) for window in windows])
    cut = {name: gather(np.asarray(image), windows, size, fills[name], neighbours) for name, image in images.items()}
    return Batch(
        images={name: torch.from_numpy(part.astype(np.float32, copy=False)) for name, part in cut.items()},
        mask=torch.from_numpy(gather(mask, windows, size)),
        coords=coords_of_slices(places, [whole[0]] * len(windows), size, whole[1:]),
        segmentation=None if labels is None else torch.from_numpy(gather(labels, windows, size).astype(np.int64)),
    )
