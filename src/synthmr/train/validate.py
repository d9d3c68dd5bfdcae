"""Validation during training: in-brain PSNR of every validation subject, and a picture of one slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synthmr.batch import Batch
from synthmr.data.sampling import case_batch
from synthmr.data.store import Store
from synthmr.errors import DataError
from synthmr.evaluate.metrics import psnr
from synthmr.io.files import atomic
from synthmr.predict.frame import Frame, pad_far, size_of
from synthmr.predict.precision import Precision

#: brain slices of a subject that are scored during training, evenly spaced
MOST_SLICES = 24
#: slices predicted at once
CHUNK = 8
#: dB that stand for a prediction without any error
MOST_DB = 100.0


def predict_batch(
    method: Any,
    batch: Batch,
    device: torch.device,
    precision: Precision,
    fills: Mapping[str, float],
    frame: Frame | None = None,
) -> dict[str, torch.Tensor]:
    """Predict all slices of a batch, a few at a time: target -> ``(B, 1, H, W)`` float32 on the CPU.

    ``fills`` is the background of every source, ``frame`` what training showed; as in prediction.
    """
    shown = (frame or Frame()).seen_by(method)
    size, divisor = size_of(batch), method.spec.divisor
    sources = batch.only(method.sources)
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in method.targets}
    with torch.inference_mode(), precision.autocast(device):
        for first in range(0, batch.size, CHUNK):
            some = Batch(
                images={name: image[first : first + CHUNK] for name, image in sources.images.items()},
                mask=_some(sources.mask, first),
                segmentation=_some(sources.segmentation, first),
            )
            some = shown.place(some, fills)
            height, width = size_of(some)
            padded = pad_far(some, divisor, fills)
            for name, image in method(padded.to(device, precision.channels_last)).items():
                parts[name].append(shown.back(image[..., :height, :width].float(), size).cpu())
    return {name: torch.cat(images) for name, images in parts.items()}


def _some(images: torch.Tensor | None, first: int) -> torch.Tensor | None:
    return None if images is None else images[first : first + CHUNK]


def validate(
    method: Any,
    store: Store,
    names: Sequence[str],
    device: torch.device,
    precision: Precision,
    frame: Frame | None = None,
    most: int = MOST_SLICES,
) -> dict[str, float]:
    """Score a method in the units it was trained in.

    Args:
        method: in evaluation mode.
        store: holds sources and truth.
        names: cases to score.
        device: that computes.
        precision: number format.
        frame: of the training samples.
        most: brain slices a case; 0 takes all.

    Returns:
        case -> in-brain PSNR in dB, range from background to top of the truth's normaliser, mean over targets.

    Raises:
        DataError: a prediction is not finite.
    """
    scores = {}
    for name in names:
        batch = case_batch(store, name, (*method.sources, *method.targets), most=most)
        fills = {source: store[name].background(source) for source in method.sources}
        inside = None if batch.mask is None else batch.mask.numpy()
        values = []
        for target, image in predict_batch(method, batch, device, precision, fills, frame).items():
            span = store[name].top(target) - store[name].background(target)
            try:
                values.append(min(psnr(image.numpy(), batch.images[target].numpy(), span, inside), MOST_DB))
            except DataError as error:
                raise DataError(f"case {name}, {target}: {error}") from None
        scores[name] = float(np.mean(values))
    return scores


def slice_figure(
    method: Any,
    store: Store,
    name: str,
    device: torch.device,
    precision: Precision,
    frame: Frame | None,
    path: Path,
    title: str,
) -> None:
    """Write a PNG of the validation case's middle brain slice: sources, then truth, prediction and absolute error a target."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    batch = case_batch(store, name, (*method.sources, *method.targets), most=3)
    case = store[name]
    fills = {source: case.background(source) for source in method.sources}
    predicted = predict_batch(method, batch, device, precision, fills, frame)

    def unit(image: torch.Tensor, contrast: str) -> np.ndarray:
        low, high = case.background(contrast), case.top(contrast)
        # (H, W) -> the second axis upwards, the first from right to left: the radiological convention of the report
        shown: np.ndarray = ((image[len(image) // 2, 0].numpy() - low) / (high - low))[::-1, ::-1].T
        return shown

    panels: list[tuple[str, np.ndarray, str, float]] = [(c, unit(batch.images[c], c), "gray", 1.0) for c in method.sources]
    for target, image in predicted.items():
        # background outside the brain, as in the volumes that are written
        shown = image if batch.mask is None else torch.where(batch.mask, image, case.background(target))
        truth, guess = unit(batch.images[target], target), unit(shown, target)
        panels += [(target, truth, "gray", 1.0), (f"{target} predicted", guess, "gray", 1.0)]
        panels += [("absolute error", abs(guess - truth), "magma", 0.5)]
    figure = Figure(figsize=(2.4 * len(panels), 3.0), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=9)
    for axes, (label, shades, colours, top) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        drawn = axes.imshow(shades, cmap=colours, vmin=0, vmax=top, interpolation="nearest")
        axes.set_title(label, fontsize=8)
        axes.set_axis_off()
        if colours != "gray":
            figure.colorbar(drawn, ax=axes, shrink=0.7)
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=80)
