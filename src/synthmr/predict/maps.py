"""Maps that some methods give beside the images: attention, fusion shares, tumour segmentation.

They go through the same windows, padding and precision as the images: an engine that is asked for these maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from synthmr.batch import Batch
from synthmr.case import PreparedCase
from synthmr.contrasts import SEGMENTATION
from synthmr.errors import UsageError, did_you_mean
from synthmr.labels import CLASSES
from synthmr.methods.contract import Method
from synthmr.predict.engine import Call, Engine


def check_maps(method: Any, names: Sequence[str]) -> None:
    """Check that a run can give maps, before anything is read.

    Raises:
        UsageError: it cannot.
    """
    for name in names:
        if not method.spec.maps:
            raise UsageError(f"{method.spec.name} gives images alone, no map {name!r}; leave --map out.")
        if name not in method.spec.maps:
            raise UsageError(f"{method.spec.name} gives no map {name!r}: {did_you_mean(name, method.spec.maps)}")
        method.check_map(name)


def labels_of(method: Method, name: str, given: Sequence[str]) -> tuple[str, ...]:
    """What the files of a map are called: ``segmentation``, or for example one a given source: ``attention-T1w``."""
    return (name,) if name == SEGMENTATION else method.map_labels(name, given)


def _call(name: str, labels: Sequence[str]) -> Call:
    """What a network is asked for when a map is wanted: every part of it under its label."""

    def call(network: Any, batch: Batch) -> dict[str, Tensor]:
        maps = network.map(batch, name)
        if name == SEGMENTATION:
            return {label: maps[name][:, n : n + 1].float() for n, label in enumerate(labels)}
        # a source that is absent here (of which there is none in a whole case) has no share
        return {label: maps[label].float() for label in labels if label in maps}

    return call


def map_of(
    engine: Engine, prepared: PreparedCase, name: str, given: Sequence[str], fills: Mapping[str, float]
) -> dict[str, np.ndarray]:
    """Predict a map with an engine.

    Args:
        engine: of the method.
        prepared: holds the sources.
        name: one of ``method.spec.maps``.
        given: the sources that the method is shown.
        fills: source -> its background.

    Returns:
        label -> ``(X, Y, Z)`` on the prepared grid, 0 outside the brain: float32, for ``segmentation`` int8 classes.
    """
    segmentation = name == SEGMENTATION
    labels = [f"class {number}" for number in range(len(CLASSES))] if segmentation else labels_of(engine.method, name, given)
    volumes = engine.volumes(prepared, given, fills, _call(name, labels), {})
    if not segmentation:
        return volumes.arrays
    classes = np.stack([volumes.arrays[label] for label in labels]).argmax(axis=0).astype(np.int8)
    return {name: np.where(volumes.seen, classes, np.int8(0))}


def segments(method: Any) -> bool:
    """Whether a run gives a tumour segmentation."""
    try:
        check_maps(method, [SEGMENTATION])
    except UsageError:
        return False
    return True
