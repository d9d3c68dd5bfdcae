"""A prepared case through one method: slices, overlapping patches or boxes in, volumes out.

What makes it fast on a CPU: slices without brain are skipped, of the others only a window around the brain is computed
(where the network allows, see `synthmr.predict.windows`), a batch is no larger than what stays in the cache, bf16 and
channels-last are used where the processor has them, and batch norms are folded into convolutions, once an `Engine`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from synthmr.batch import Batch, Output
from synthmr.case import PreparedCase, plane_axis, slice_major, volume_major
from synthmr.methods.contract import Method, NeuralMethod
from synthmr.predict.fold import bf16_weights, folded
from synthmr.predict.frame import Frame, size_of
from synthmr.predict.precision import Precision, resolve_precision
from synthmr.predict.settings import PredictSettings
from synthmr.predict.stitch import Tiling, blend, cut, exact_type, next_multiple, pad_far, tiling, window
from synthmr.predict.windows import (
    batches,
    brain_windows,
    scatter,
    sees_whole_slice,
    spread_evenly,
    whole_windows,
    window_batch,
)

#: pixels a batch, by device: larger batches leave the CPU's cache; a GPU wants them large
BATCH_PIXELS = {"cpu": 60_000, "cuda": 1_500_000}

#: what a method is asked for: its network and a batch -> name -> ``(B, 1, *S)``
Call = Callable[[Any, Batch], Mapping[str, Tensor]]


def images_of(targets: Sequence[str]) -> Call:
    """A `Call` for the images of some targets: the mean under the contrast's name, and under `spread_name` what spread there is."""

    def call(network: Any, batch: Batch) -> dict[str, Tensor]:
        outputs: Mapping[str, Output] = network(batch, targets)
        found = {name: outputs[name].mean for name in targets}
        for name in targets:
            spread, samples = outputs[name].spread, outputs[name].samples
            if spread is None and samples is not None:
                spread = samples.float().std(dim=1, keepdim=True, correction=0)
            if spread is not None:
                found[spread_name(name)] = spread
        return found

    return call


def spread_name(contrast: str) -> str:
    """What the spread of a contrast is called among volumes."""
    return f"{contrast} spread"


@dataclass(frozen=True, eq=False)
class Volumes:
    """What an engine made of a case.

    Attributes:
        arrays: name -> ``(X, Y, Z)`` float32.
        seen: ``(X, Y, Z)`` bool, the brain's voxels that were predicted: all of them, or fewer with ``quick``.
    """

    arrays: dict[str, np.ndarray]
    seen: np.ndarray


class Engine:
    """A method made ready to predict: its network is copied and folded once.

    The method's own mode (training or evaluation) and weights are left as they are; it computes where its parameters lie.

    Args:
        method: trained.
        plane: of the slices that it is shown.
        frame: on which it was trained, ``Frame.of(config.sample)``.
        box: (X, Y, Z) voxels of a box, for methods that work in three dimensions.
        settings: how.
    """

    def __init__(
        self,
        method: Method,
        plane: str = "axial",
        frame: Frame | None = None,
        box: tuple[int, int, int] = (64, 64, 64),
        settings: PredictSettings | None = None,
    ) -> None:
        plane_axis(plane)
        self.method, self.plane, self.settings = method, plane, settings or PredictSettings()
        self.traits = method.traits
        self.divisor = int(method.spec.divisor)
        self.box = next_multiple(box, self.divisor)
        self.tight = self.settings.tight == "on" or (self.settings.tight == "auto" and not sees_whole_slice(method))
        self.frame = (frame or Frame()).seen_by(method, self.tight)
        self.network, self.device, self.precision = ready(method, self.settings)

    def volumes(
        self, prepared: PreparedCase, sources: Sequence[str], fills: Mapping[str, float], call: Call, outside: Mapping[str, float]
    ) -> Volumes:
        """Predict volumes of a case.

        Args:
            prepared: holds the sources; other contrasts are not shown to the method.
            sources: those that it is shown.
            fills: source -> value beyond the image.
            call: what the network is asked for.
            outside: name of a volume -> its value outside the brain; 0 for those that are not named.
        """
        labels = prepared.segmentation if "segmentation" in self.method.needs else None
        run = self._boxes if self.traits.dims == 3 else self._slices
        return run(prepared, {name: prepared.images[name] for name in sources}, labels, fills, call, outside)

    # --- slices

    def _slices(
        self,
        prepared: PreparedCase,
        sources: Mapping[str, np.ndarray],
        labels: np.ndarray | None,
        fills: Mapping[str, float],
        call: Call,
        outside: Mapping[str, float],
    ) -> Volumes:
        mask = np.ascontiguousarray(slice_major(prepared.mask, self.plane)) > 0
        if self.settings.quick:
            mask = spread_evenly(mask, self.settings.quick)
        images = {name: slice_major(image, self.plane) for name, image in sources.items()}
        stacked = None if labels is None else slice_major(labels, self.plane)
        size = (mask.shape[1], mask.shape[2])
        shown = self.frame.scaled(size)
        tiles = None
        if self.settings.mode == "patches":
            tiles = tiling(shown, next_multiple(self.settings.patch, self.divisor), self.settings.overlap)
        groups = brain_windows(mask, self.divisor) if tiles is None and self.tight else whole_windows(mask)
        limit = self._pixels(shown[0] * shown[1] / (size[0] * size[1]), tiles)
        out: dict[str, np.ndarray] = {}
        for extent, windows in batches(groups, limit, self.settings.batch):
            batch = window_batch(images, mask, stacked, windows, extent, fills, self.traits.neighbours)
            for name, values in self._forward(batch, fills, call, tiles).items():
                if name not in out:
                    out[name] = np.full(prepared.mask.shape, outside.get(name, 0.0), np.float32)
                scatter(slice_major(out[name], self.plane), values[:, 0].cpu().numpy(), windows, mask)
        return Volumes(out, np.ascontiguousarray(volume_major(mask, self.plane)))

    def _pixels(self, growth: float, tiles: Tiling | None) -> int:
        """Pixels of a batch of windows. The frame, and tiles that overlap, make more pixels of a window than it has."""
        limit = round(BATCH_PIXELS.get(self.device.type, BATCH_PIXELS["cpu"]) / growth)
        if tiles is None:
            return limit
        tile, whole = tiles.patch, tiles.size
        return limit * whole[0] * whole[1] // (len(tiles.corners) * tile[0] * tile[1])

    @torch.inference_mode()
    def _forward(self, batch: Batch, fills: Mapping[str, float], call: Call, tiles: Tiling | None) -> dict[str, Tensor]:
        """Predict windows: name -> ``(B, 1, h, w)`` float32, of the size that went in."""
        size = size_of(batch)
        batch = self.frame.place(batch, fills)
        height, width = size_of(batch)
        cuts = tiles or Tiling((height, width), next_multiple((height, width), self.divisor), ((0, 0),))
        parts = tiled(batch, cuts, fills).to(self.device, self.precision.channels_last)
        with self.precision.autocast(self.device):
            results = call(self.network, parts)
        if tiles is None:
            images = {name: value.float()[..., :height, :width] for name, value in results.items()}
        else:
            weights = window(tiles.patch, self.settings.window)
            images = {name: blend(value, tiles, weights) for name, value in results.items()}
        return {name: self.frame.back(image, size) for name, image in images.items()}

    # --- boxes

    def _boxes(
        self,
        prepared: PreparedCase,
        sources: Mapping[str, np.ndarray],
        labels: np.ndarray | None,
        fills: Mapping[str, float],
        call: Call,
        outside: Mapping[str, float],
    ) -> Volumes:
        mask = prepared.mask > 0
        quick = self.settings.quick
        tiles = tiling(mask.shape, self.box, 0.0 if quick else self.settings.overlap)
        whole = _whole(sources, mask, labels, fills, tiles)
        asked = spread_evenly(mask, quick, axis=2) if quick else mask
        weights = window(tiles.patch, self.settings.window).to(exact_type(self.device))
        totals: dict[str, Tensor] = {}
        weight = torch.zeros(tiles.padded, dtype=weights.dtype)
        for places in _filled(tiles, asked, self._boxes_at_once()):
            found = self._forward_boxes(_at(whole, places, tiles), call)
            for number, place in enumerate(places):
                weight[place] += weights
                for name, values in found.items():
                    total = totals.setdefault(name, torch.zeros(tiles.padded, dtype=weights.dtype))
                    total[place] += values[number, 0].to(weights.dtype) * weights
        inside = tuple(slice(edge) for edge in tiles.size)
        seen = mask & (weight[inside].numpy() > 0)
        safe = weight.clamp_min(torch.finfo(weight.dtype).tiny)
        arrays = {
            name: np.where(seen, (total / safe)[inside].numpy(), outside.get(name, 0.0)).astype(np.float32)
            for name, total in totals.items()
        }
        return Volumes(arrays, seen)

    def _boxes_at_once(self) -> int:
        """Boxes a batch: a box is many pixels, so that one at a time fills a CPU."""
        voxels = self.box[0] * self.box[1] * self.box[2]
        return self.settings.batch or max(1, BATCH_PIXELS.get(self.device.type, BATCH_PIXELS["cpu"]) // voxels)

    @torch.inference_mode()
    def _forward_boxes(self, batch: Batch, call: Call) -> dict[str, Tensor]:
        """Predict boxes: name -> ``(B, 1, X, Y, Z)`` float32 on the CPU."""
        with self.precision.autocast(self.device):
            results = call(self.network, batch.to(self.device))
        return {name: value.float().cpu() for name, value in results.items()}


def _whole(
    sources: Mapping[str, np.ndarray], mask: np.ndarray, labels: np.ndarray | None, fills: Mapping[str, float], tiles: Tiling
) -> Batch:
    """A volume as a batch of one, padded with each contrast's background to at least one box."""

    def tensor(array: np.ndarray, fill: float) -> Tensor:
        return pad_far(torch.from_numpy(np.ascontiguousarray(array))[None, None], tiles.padded, fill)

    return Batch(
        images={name: tensor(np.asarray(image, np.float32), fills[name]) for name, image in sources.items()},
        mask=tensor(mask.astype(np.uint8), 0) > 0,
        segmentation=None if labels is None else tensor(labels.astype(np.int64), 0),
    )


def _filled(tiles: Tiling, mask: np.ndarray, count: int) -> Iterator[list[tuple[slice, ...]]]:
    """The places of boxes with anything in the mask ``(X, Y, Z)``, ``count`` at a time."""
    places = [place for place in tiles.places() if bool(mask[place].any())]
    for start in range(0, len(places), count):
        yield places[start : start + count]


def _at(whole: Batch, places: Sequence[tuple[slice, ...]], tiles: Tiling) -> Batch:
    """The boxes at some places of a volume, with their centres as coordinates, -1 to 1."""

    def boxes(volume: Tensor) -> Tensor:
        return torch.cat([volume[(slice(None), slice(None), *place)] for place in places])

    centres = [
        [2 * (part.start + edge / 2) / size - 1 for part, edge, size in zip(place, tiles.patch, tiles.size, strict=True)]
        for place in places
    ]
    return Batch(
        images={name: boxes(image) for name, image in whole.images.items()},
        mask=None if whole.mask is None else boxes(whole.mask),
        coords=torch.tensor(centres, dtype=torch.float32),
        segmentation=None if whole.segmentation is None else boxes(whole.segmentation),
    )


def tiled(batch: Batch, tiles: Tiling, fills: Mapping[str, float]) -> Batch:
    """A batch of whole slices -> a batch of tiles, padded with each contrast's own background."""
    count = len(tiles.corners)
    coords = None
    if batch.coords is not None:
        centres = torch.tensor([[t + tiles.patch[0] / 2, left + tiles.patch[1] / 2] for t, left in tiles.corners])
        coords = batch.coords.repeat_interleave(count, dim=0)
        if count > 1:  # tiles are cut from the whole box: their centres replace its centre
            coords[:, 1:] = (2 * centres / torch.tensor(tiles.size) - 1).repeat(batch.size, 1)
    return Batch(
        images={name: cut(image, tiles, fills[name]) for name, image in batch.images.items()},
        mask=None if batch.mask is None else cut(batch.mask.float(), tiles) > 0,
        coords=coords,
        segmentation=None if batch.segmentation is None else cut(batch.segmentation, tiles),
    )


def ready(method: Method, settings: PredictSettings) -> tuple[Method, torch.device, Precision]:
    """A copy of the method to predict with, the device it is on, and how to compute there.

    Methods that are no networks compute in float32 on the CPU and are used as they are.
    """
    if not isinstance(method, NeuralMethod):
        return method, torch.device("cpu"), Precision("32", False)
    device = next((p.device for p in method.parameters()), torch.device("cpu"))
    precision = resolve_precision(settings.precision, settings.channels_last, device)
    network = folded(method)
    precision.place(network, device)
    if precision.name == "bf16":
        network = bf16_weights(network)
    return network, device, precision


def tile_borders(shape: Sequence[int], plane: str, settings: PredictSettings, divisor: int = 1) -> tuple[tuple[int, ...], ...]:
    """Where tiles of mode ``patches`` begin and end, as positions along X, Y and Z; nothing for whole slices.

    Args:
        shape: of the prepared volume.
        plane: of the slices.
        settings: how it is predicted; without a frame of another size.
        divisor: of the method.
    """
    found: list[tuple[int, ...]] = [(), (), ()]
    if settings.mode != "patches":
        return tuple(found)
    axes = [axis for axis in range(3) if axis != plane_axis(plane)]
    patch = next_multiple(settings.patch, divisor)
    tiles = tiling((shape[axes[0]], shape[axes[1]]), patch, settings.overlap)
    for place, axis in enumerate(axes):
        edges = {corner[place] + far for corner in tiles.corners for far in (0, patch[place])}
        found[axis] = tuple(sorted(edge for edge in edges if 0 < edge < shape[axis]))
    return tuple(found)
