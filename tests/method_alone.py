"""Prediction by a method that is of no run, straight through the engine: what tests of methods and engine call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from synthmr.case import PreparedCase
from synthmr.errors import DataError
from synthmr.methods.contract import Method
from synthmr.predict.engine import Engine, images_of
from synthmr.predict.frame import Frame
from synthmr.predict.predictor import check_finite, check_targets
from synthmr.predict.settings import PredictSettings
from synthmr.prepare.brightness import Brightnesses, brightness_of, correct_brightness
from synthmr.prepare.normalize import background


def predict_case(
    method: Method,
    prepared: PreparedCase,
    wanted: Sequence[str] | None = None,
    plane: str = "axial",
    settings: PredictSettings | None = None,
    normalizers: Mapping[str, Mapping[str, Any]] | None = None,
    frame: Frame | None = None,
    brightness: Brightnesses | None = None,
    box: tuple[int, int, int] = (64, 64, 64),
) -> dict[str, np.ndarray]:
    """Predict the targets of a prepared case with a method that is of no run.

    Args:
        method: trained.
        prepared: holds the sources; other contrasts are not shown to the method.
        wanted: targets; default all.
        plane: the slices that the method was trained on.
        settings: how.
        normalizers: contrast -> normaliser parameters, for the background of targets that the case itself lacks.
        frame: on which the method was trained: ``Frame.of(config.sample)``; default: slices as they are.
        brightness: of the run, which corrects each volume; default: volumes stay as they are.
        box: (X, Y, Z) voxels, of methods that work in boxes.

    Returns:
        contrast -> ``(X, Y, Z)`` float32 on the prepared grid, normalised, the normaliser's background outside the brain.

    Raises:
        DataError: the case lacks a source, or the prediction is not finite.
        UsageError: an unknown target.
    """
    targets = tuple(wanted) if wanted is not None else tuple(method.targets)
    check_targets(method, targets)
    given = tuple(name for name in method.sources if name in prepared.images)
    absent = [name for name in method.sources if name not in given]
    if absent and (not given or not method.traits.any_subset):
        have = ", ".join(prepared.images) or "nothing"
        raise DataError(
            f"case {prepared.name} has no {', '.join(absent)}, which this run of {method.spec.name} needs; it has {have}."
            " Add the file, or leave the case out."
        )
    known = {**(normalizers or {}), **prepared.normalizers}
    lows = {name: float(background(known[name])) for name in (*given, *targets)}
    engine = Engine(method, plane, frame, box, settings)
    volumes = engine.volumes(prepared, given, lows, images_of(targets), lows)
    check_finite(volumes, targets, prepared.name, method)
    return {
        name: correct_brightness(volumes.arrays[name], prepared.mask, known[name], brightness_of(brightness, name, given))[0]
        for name in targets
    }
