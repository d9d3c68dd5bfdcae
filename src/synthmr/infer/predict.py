"""A prepared case through a method: slices or overlapping patches in, a normalised volume out.

What makes it fast on a CPU: only the brain's box is there (preparation cropped it), slices without brain are skipped, a
batch is no larger than what stays in the cache, bf16 and channels-last are used where the processor has them, and batch
norms are folded into convolutions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from synthmr.batch import Batch
from synthmr.case import PreparedCase, slice_major
from synthmr.errors import DataError, UsageError, did_you_mean
from synthmr.infer.fold import folded
from synthmr.infer.precision import Precision, resolve_precision
from synthmr.infer.stitch import Tiling, blend, cut, next_multiple, tiling, window
from synthmr.methods.contract import Method, NeuralMethod

MODES = ("slices", "patches")

#: pixels a batch, by device: larger batches leave the CPU's cache; a GPU wants them large
BATCH_PIXELS = {"cpu": 60_000, "cuda": 1_500_000}


@dataclass(frozen=True)
class InferSettings:
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
    """

    mode: str = "slices"
    patch: tuple[int, int] = (128, 128)
    overlap: float = 0.5
    window: str = "uniform"
    batch: int = 0
    precision: str = "auto"
    channels_last: str = "auto"


def predict_case(
    method: Method,
    prepared: PreparedCase,
    wanted: Sequence[str] | None = None,
    plane: str = "axial",
    settings: InferSettings | None = None,
    normalizers: Mapping[str, Mapping[str, Any]] | None = None,
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

    Returns:
        contrast -> ``(X, Y, Z)`` float32 on the prepared grid, normalised, the normaliser's background outside the brain.

    Raises:
        DataError: the case lacks a source, or the prediction is not finite.
        UsageError: an unknown target, mode, window or precision, or a method that works in 3-D alone.
    """
    settings = settings or InferSettings()
    sources, targets = _request(method, prepared, wanted, settings)
    known = {**(normalizers or {}), **prepared.normalizers}
    fills = {name: _background(name, known, prepared.name) for name in (*sources, *targets)}
    images = {name: slice_major(prepared.images[name], plane) for name in sources}
    mask = slice_major(prepared.mask, plane)
    out = {name: np.full(prepared.mask.shape, fills[name], np.float32) for name in targets}
    views = {name: slice_major(volume, plane) for name, volume in out.items()}
    with torch.inference_mode():
        runner = _Runner(method, settings, targets, fills, (mask.shape[1], mask.shape[2]))
        labels = slice_major(prepared.segmentation, plane) if prepared.segmentation is not None else None
        for chosen in runner.chunks(np.flatnonzero(mask.any(axis=(1, 2)))):
            batch = _batch(images, mask, labels if "segmentation" in method.spec.needs else None, chosen)
            for name, values in runner(batch).items():
                inside = mask[chosen]
                part = views[name][chosen]
                part[inside] = values[:, 0].cpu().numpy()[inside]
                views[name][chosen] = part
    for name, volume in out.items():
        bad = volume.size - int(np.isfinite(volume).sum())
        if bad:
            raise DataError(
                f"the predicted {name} of case {prepared.name} holds {bad} NaN or infinite voxels: the run of"
                f" {method.spec.name} has diverged, or its inputs leave what it was trained on; nothing is written."
            )
    return out


def _request(
    method: Method, prepared: PreparedCase, wanted: Sequence[str] | None, settings: InferSettings
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Check the call: (sources that are there, targets).

    Raises:
        DataError: a source is missing. UsageError: settings, targets or dimensions that do not go.
    """
    if settings.mode not in MODES:
        raise UsageError(f"unknown inference mode {settings.mode!r}: {did_you_mean(settings.mode, MODES)}")
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


def _batch(images: Mapping[str, np.ndarray], mask: np.ndarray, labels: np.ndarray | None, chosen: np.ndarray) -> Batch:
    """The chosen slices of ``(S, H, W)`` arrays as a `Batch`; coordinates as in training: (S, H, W) order, -1 to 1 over the box."""
    coords = torch.zeros(len(chosen), 3)
    coords[:, 0] = torch.from_numpy(2 * chosen / max(len(mask) - 1, 1) - 1)
    return Batch(
        images={name: torch.from_numpy(np.ascontiguousarray(image[chosen], np.float32))[:, None] for name, image in images.items()},
        mask=torch.from_numpy(np.ascontiguousarray(mask[chosen]))[:, None],
        coords=coords,
        segmentation=None if labels is None else torch.from_numpy(np.ascontiguousarray(labels[chosen], np.int64))[:, None],
    )


class _Runner:
    """Runs batches of slices of one size through a method made ready for inference."""

    def __init__(
        self, method: Method, settings: InferSettings, targets: tuple[str, ...], fills: Mapping[str, float], size: tuple[int, int]
    ) -> None:
        self._targets, self._fills, self._size, self._settings = targets, fills, size, settings
        divisor = method.spec.divisor
        self._tiles: Tiling | None = None
        self._shape = next_multiple(size, divisor)
        if settings.mode == "patches":
            self._shape = next_multiple(settings.patch, divisor)
            self._tiles = tiling(size, self._shape, settings.overlap)
            self._window = window(self._shape, settings.window)
        self._method, self._device, self._precision = ready(method, settings)

    def chunks(self, slices: np.ndarray) -> Iterator[np.ndarray]:
        """Split slice indices into batches that fit the cache."""
        limit = BATCH_PIXELS.get(self._device.type, BATCH_PIXELS["cpu"])
        count = self._settings.batch or max(1, limit // (self._shape[0] * self._shape[1]))
        if self._tiles is not None:
            count = max(1, count // len(self._tiles.corners))
        for start in range(0, len(slices), count):
            yield slices[start : start + count]

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Predict: contrast -> ``(B, 1, H, W)`` float32."""
        tiles = self._tiles or Tiling(self._size, self._shape, ((0, 0),))
        weights = self._window if self._tiles is not None else None
        parts = _tiled(batch, tiles, self._fills).to(self._device, self._precision.channels_last)
        with self._precision.autocast(self._device):
            results = self._method(parts, self._targets)
        return {name: blend(results[name].float(), tiles, weights) for name in self._targets}


def _tiled(batch: Batch, tiles: Tiling, fills: Mapping[str, float]) -> Batch:
    """A batch of whole slices -> a batch of tiles, padded with each contrast's own background."""
    count = len(tiles.corners)
    coords = None
    if batch.coords is not None:
        centres = torch.tensor([[t + tiles.patch[0] / 2, left + tiles.patch[1] / 2] for t, left in tiles.corners])
        coords = batch.coords.repeat_interleave(count, dim=0)
        if count > 1:
            coords[:, 1:] = (2 * centres / torch.tensor(tiles.size) - 1).repeat(batch.size, 1)
    return Batch(
        images={name: cut(image, tiles, fills[name]) for name, image in batch.images.items()},
        mask=None if batch.mask is None else cut(batch.mask.float(), tiles) > 0,
        coords=coords,
        segmentation=None if batch.segmentation is None else cut(batch.segmentation, tiles),
    )


def ready(method: Method, settings: InferSettings) -> tuple[Method, torch.device, Precision]:
    """A copy of the method to predict with, the device it is on, and how to compute there.

    Methods that are no networks compute in float32 on the CPU and are used as they are.
    """
    if not isinstance(method, NeuralMethod):
        return method, torch.device("cpu"), Precision("32", False)
    device = next((p.device for p in method.parameters()), torch.device("cpu"))
    precision = resolve_precision(settings.precision, settings.channels_last, device)
    network = folded(method)
    if precision.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network, device, precision
