"""A prepared case through a method: slices or overlapping patches in, a normalised volume out.

What makes it fast on a CPU: slices without brain are skipped, of the others only a window around the brain is computed
(where the network allows, see `synthmr.predict.windows`), a batch is no larger than what stays in the cache, bf16 and
channels-last are used where the processor has them, and batch norms are folded into convolutions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from synthmr.batch import Batch
from synthmr.case import PreparedCase, plane_axis, slice_major
from synthmr.errors import DataError, UsageError, did_you_mean
from synthmr.methods.contract import Method, NeuralMethod
from synthmr.predict.fold import folded
from synthmr.predict.frame import Frame, size_of
from synthmr.predict.precision import PRECISIONS, SWITCHES, Precision, resolve_precision
from synthmr.predict.stitch import WINDOWS, Tiling, blend, cut, next_multiple, tiling, window
from synthmr.predict.windows import Window, batches, brain_windows, scatter, sees_whole_slice, whole_windows, window_batch
from synthmr.prepare.brightness import Brightnesses, brightness_of, correct_brightness

MODES = ("slices", "patches")

_WORDS = {"mode": MODES, "window": WINDOWS, "precision": PRECISIONS, "channels_last": SWITCHES, "tight": SWITCHES}

#: pixels a batch, by device: larger batches leave the CPU's cache; a GPU wants them large
BATCH_PIXELS = {"cpu": 60_000, "cuda": 1_500_000}


@dataclass(frozen=True)
class PredictSettings:
    """How a volume is predicted.

    Attributes:
        mode: slices (whole) or patches (overlapping, blended).
        patch: (H, W) of a patch, rounded up to the method's divisor.
        overlap: share of a patch that its neighbour covers too, in [0, 1). With 128x128 patches 0.5 gives Hi-Net's four
            patches a slice.
        window: blending weights: uniform (the paper's average), linear or gaussian.
        batch: slices or patches at once; 0 chooses by the number of pixels.
        precision: auto, 32 or bf16.
        channels_last: auto, on or off.
        tight: show the network a window around the brain of each slice, not the whole box: on, off or auto (unless it
            works with statistics of the whole slice). Patches are always cut from the whole box.
        plane: axial, coronal or sagittal: another view than the one the run was trained on (MILR, Section VI-I); empty: the same.

    Raises:
        UsageError: an unknown word, or a number that makes no sense.
    """

    mode: str = "slices"
    patch: tuple[int, int] = (128, 128)
    overlap: float = 0.5
    window: str = "uniform"
    batch: int = 0
    precision: str = "auto"
    channels_last: str = "auto"
    tight: str = "auto"
    plane: str = ""

    def __post_init__(self) -> None:
        for key, allowed in _WORDS.items():
            if getattr(self, key) not in allowed:
                raise UsageError(f"{key}={getattr(self, key)!r}: {did_you_mean(str(getattr(self, key)), allowed)}")
        if self.plane:
            plane_axis(self.plane)
        if not 0 <= self.overlap < 1 or min(self.patch) < 1 or self.batch < 0:
            raise UsageError(
                f"patch={self.patch}, overlap={self.overlap:g}, batch={self.batch}: a patch has at least 1 pixel, an overlap is in"
                " [0, 1), and a batch is not negative."
            )


def predict_case(
    method: Method,
    prepared: PreparedCase,
    wanted: Sequence[str] | None = None,
    plane: str = "axial",
    settings: PredictSettings | None = None,
    normalizers: Mapping[str, Mapping[str, Any]] | None = None,
    frame: Frame | None = None,
    brightness: Brightnesses | None = None,
) -> dict[str, np.ndarray]:
    """Predict the targets of a prepared case.

    The method's own mode (training or evaluation) and weights are left as they are; it computes where its parameters lie.

    Args:
        method: trained.
        prepared: holds the sources; other contrasts are not shown to the method.
        wanted: targets; default all.
        plane: the slices that the method was trained on.
        settings: how.
        normalizers: contrast -> normaliser parameters, for the background of targets that the case itself lacks.
        frame: on which the method was trained: ``Frame.of(config.sample)``; default: slices as they are.
        brightness: of the run, which bring each volume to its brightness; default: volumes stay as they are.

    Returns:
        contrast -> ``(X, Y, Z)`` float32 on the prepared grid, normalised, the normaliser's background outside the brain.

    Raises:
        DataError: the case lacks a source, or the prediction is not finite.
        UsageError: an unknown target, or a method that works in 3-D alone.
    """
    settings = settings or PredictSettings()
    sources, targets = _request(method, prepared, wanted)
    known = {**(normalizers or {}), **prepared.normalizers}
    fills = {name: _background(name, known, prepared.name) for name in (*sources, *targets)}
    images = {name: slice_major(prepared.images[name], plane) for name in sources}
    mask = np.ascontiguousarray(slice_major(prepared.mask, plane)) > 0
    labels = None
    if "segmentation" in method.needs and prepared.segmentation is not None:
        labels = slice_major(prepared.segmentation, plane)
    out = {name: np.full(prepared.mask.shape, fills[name], np.float32) for name in targets}
    views = {name: slice_major(volume, plane) for name, volume in out.items()}
    runner = _Runner(method, settings, targets, fills, (mask.shape[1], mask.shape[2]), frame or Frame())
    for size, windows in batches(runner.windows(mask), runner.pixels, settings.batch):
        batch = window_batch(images, mask, labels, windows, size, fills)
        for name, values in runner(batch).items():
            scatter(views[name], values[:, 0].cpu().numpy(), windows, mask)
    for name, volume in out.items():
        bad = volume.size - int(np.isfinite(volume).sum())
        if bad:
            raise DataError(
                f"the predicted {name} of case {prepared.name} holds {bad} NaN or infinite voxels: the run of"
                f" {method.spec.name} has diverged, or its inputs leave what it was trained on; nothing is written."
            )
        out[name], _ = correct_brightness(volume, prepared.mask, known[name], brightness_of(brightness, name, sources))
    return out


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


def _request(method: Method, prepared: PreparedCase, wanted: Sequence[str] | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Check the call: (sources that are there, targets).

    Raises:
        DataError: a source is missing.
        UsageError: targets or dimensions that do not go.
    """
    if 2 not in method.spec.dims:
        raise UsageError(f"{method.spec.name} works on volumes, and synthmr predicts slice by slice; it cannot be run yet.")
    targets = tuple(wanted) if wanted is not None else tuple(method.targets)
    for name in targets:
        if name not in method.targets:
            raise UsageError(f"this run gives {', '.join(method.targets)}, not {name}.")
    given = tuple(name for name in method.sources if name in prepared.images)
    absent = [name for name in method.sources if name not in given]
    if absent and (not given or not method.spec.any_subset):
        have = ", ".join(prepared.images) or "nothing"
        raise DataError(
            f"case {prepared.name} has no {', '.join(absent)}, which this run of {method.spec.name} needs; it has {have}."
            " Add the file, or leave the case out."
        )
    return given, targets


def _background(contrast: str, normalizers: Mapping[str, Mapping[str, Any]], case: str) -> float:
    """The value of voxels outside the brain.

    Raises:
        DataError: nothing says how the contrast is normalised.
    """
    from synthmr.prepare.normalize import background

    if contrast not in normalizers:
        raise DataError(
            f"case {case} does not say how {contrast} is normalised, so its background is unknown; pass normalizers= (a run folder"
            " has them in run.json)."
        )
    return float(background(normalizers[contrast]))


class _Runner:
    """Runs batches through a method made ready for inference, whole windows or tile by tile."""

    def __init__(
        self,
        method: Method,
        settings: PredictSettings,
        targets: tuple[str, ...],
        fills: Mapping[str, float],
        size: tuple[int, int],
        frame: Frame,
    ) -> None:
        self._targets, self._fills = targets, fills
        self._divisor = method.spec.divisor
        self._tiles: Tiling | None = None
        self._tight = settings.tight == "on" or (settings.tight == "auto" and not sees_whole_slice(method))
        self._frame = frame.seen_by(method, self._tight)
        shown = self._frame.scaled(size)
        self._growth = shown[0] * shown[1] / (size[0] * size[1])
        if settings.mode == "patches":
            patch = next_multiple(settings.patch, self._divisor)
            self._tiles = tiling(shown, patch, settings.overlap)
            self._weights = window(patch, settings.window)
        self._method, self._device, self._precision = ready(method, settings)

    @property
    def pixels(self) -> int:
        """Pixels of a batch of windows. The frame, and tiles that overlap, make more pixels of a window than it has."""
        limit = round(BATCH_PIXELS.get(self._device.type, BATCH_PIXELS["cpu"]) / self._growth)
        if self._tiles is None:
            return limit
        tile, whole = self._tiles.patch, self._tiles.size
        return limit * whole[0] * whole[1] // (len(self._tiles.corners) * tile[0] * tile[1])

    def windows(self, mask: np.ndarray) -> dict[tuple[int, int], list[Window]]:
        """The windows to predict, grouped by size."""
        if self._tiles is None and self._tight:
            return brain_windows(mask, self._divisor)
        return whole_windows(mask)

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Predict: contrast -> ``(B, 1, h, w)`` float32, of the size that went in."""
        size = size_of(batch)
        batch = self._frame.place(batch, self._fills)
        height, width = size_of(batch)
        tiles = self._tiles or Tiling((height, width), next_multiple((height, width), self._divisor), ((0, 0),))
        parts = _tiled(batch, tiles, self._fills).to(self._device, self._precision.channels_last)
        with self._precision.autocast(self._device):
            results = self._method(parts, self._targets)
        if self._tiles is None:
            images = {name: results[name].float()[..., :height, :width] for name in self._targets}
        else:
            images = {name: blend(results[name], tiles, self._weights) for name in self._targets}
        return {name: self._frame.back(image, size) for name, image in images.items()}


def _tiled(batch: Batch, tiles: Tiling, fills: Mapping[str, float]) -> Batch:
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
    return network, device, precision
