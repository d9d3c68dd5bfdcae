"""Validation during training: what chooses the weights, the scores of the kept ones, and a picture of one slice.

Cases are predicted by the `Predictor`, as everywhere; while a network trains, a few slices of each (`PredictSettings.quick`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from synthmr.case import PreparedCase, slice_major
from synthmr.data.reader import Reader
from synthmr.errors import DataError
from synthmr.evaluate.metrics import psnr
from synthmr.io.files import atomic
from synthmr.predict.prediction import Prediction
from synthmr.predict.predictor import Predictor
from synthmr.prepare.normalize import to_unit

#: brain slices of a subject that are predicted during training, evenly spaced
MOST_SLICES = 24
#: dB that stand for a prediction without any error
MOST_DB = 100.0


@dataclass(frozen=True, eq=False)
class Validated:
    """What a validation found.

    Attributes:
        scores: case -> score; of several targets the mean.
        prepared: the first case.
        prediction: of the first case.
    """

    scores: dict[str, float]
    prepared: PreparedCase
    prediction: Prediction

    @property
    def score(self) -> float:
        """The mean over cases."""
        return float(np.mean(list(self.scores.values())))


def validate(predictor: Predictor, reader: Reader, names: Sequence[str], own: bool = False) -> Validated:
    """Score a run on stored cases.

    Args:
        predictor: of the run.
        reader: holds sources and truth.
        names: cases to score, at least one.
        own: by what the method says (`NeuralMethod.validation_score`), where it says anything; else, and by default, by in-brain
            PSNR in dB, protocol masked-volume.

    Raises:
        DataError: a prediction is not finite, or a case has nothing to score.
    """
    scores: dict[str, float] = {}
    first: tuple[PreparedCase, Prediction] | None = None
    for name in names:
        values = []
        for given, wanted in predictor.jobs(reader.contrasts(name)):
            prepared = reader.prepared(name, given, wanted)
            prediction = predictor(prepared, wanted)
            first = first or (prepared, prediction)
            values += _values(predictor, prepared, prediction, wanted, own)
        if not values:
            raise DataError(f"case {name} has no target beside a source, so it cannot validate; leave it out of the split.")
        scores[name] = float(np.mean(values))
    if first is None:
        raise DataError("there is no case to validate on; give the split a validation case.")
    return Validated(scores, *first)


def _values(predictor: Predictor, prepared: PreparedCase, prediction: Prediction, wanted: Sequence[str], own: bool) -> list[float]:
    """Scores of one prediction: the method's own, or a PSNR a target."""
    if own:
        images = {target: prediction.corrected(target) for target in wanted}
        value = predictor.run.method.validation_score(images, prepared)
        if value is not None:
            return [float(value)]
    return [masked_psnr(prediction, prepared, target) for target in wanted]


def masked_psnr(prediction: Prediction, prepared: PreparedCase, target: str) -> float:
    """PSNR in dB of protocol masked-volume, over the brain's voxels that were predicted; at most `MOST_DB`.

    Raises:
        DataError: the prediction is not finite, or nothing was predicted.
    """
    truth = to_unit(prepared.images[target], prepared.normalizers[target])
    try:
        return min(psnr(prediction.unit(target), truth, 1.0, prediction.mask), MOST_DB)
    except DataError as error:
        raise DataError(f"case {prepared.name}, {target}: {error}") from None


def slice_figure(validated: Validated, path: Path, title: str) -> None:
    """Write a PNG of a slice in the middle of a validation's first case, in the plane that it was predicted in: sources, then
    truth, prediction and absolute error a target, in the radiological convention of the report."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    prepared, prediction = validated.prepared, validated.prediction
    slices = slice_major(prediction.mask, prediction.settings["plane"])
    filled = np.flatnonzero(slices.any(axis=(1, 2)))
    middle = int(filled[len(filled) // 2])

    def shown(volume: np.ndarray) -> np.ndarray:
        # (H, W) -> the second axis upwards, the first from right to left
        return np.asarray(slice_major(volume, prediction.settings["plane"])[middle, ::-1, ::-1].T)

    def unit(contrast: str) -> np.ndarray:
        return shown(to_unit(prepared.images[contrast], prepared.normalizers[contrast]))

    panels: list[tuple[str, np.ndarray, str, float]] = [(c, unit(c), "gray", 1.0) for c in prediction.given]
    for target in prediction.images:
        truth, guess = unit(target), shown(prediction.unit(target))
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
