"""Maps that some methods give beside the images: attention, fusion shares, tumour segmentation.

They go through the same windows, padding and precision as the images: a view of the method whose outputs are these maps is
predicted like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from synthmr.batch import Batch
from synthmr.case import PreparedCase
from synthmr.errors import DataError, UsageError, did_you_mean
from synthmr.labels import CLASSES
from synthmr.methods.contract import NeuralMethod
from synthmr.predict.frame import Frame
from synthmr.predict.predictor import PredictSettings, predict_case

SEGMENTATION = "segmentation"

#: a normaliser whose background is 0, for maps that have no normaliser
_PLAIN = {"name": "mean", "mean": 1.0, "high": 1.0}


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


def labels_of(method: NeuralMethod, name: str, given: Sequence[str]) -> tuple[str, ...]:
    """What the files of a map are called: ``segmentation``, or for example one a given source: ``attention-T1w``."""
    return (name,) if name == SEGMENTATION else method.map_labels(name, given)


class _View(NeuralMethod):
    """A method seen as one that predicts one of its maps; every channel is a target of its own."""

    def __init__(self, inner: NeuralMethod, name: str, labels: Sequence[str]) -> None:
        super().__init__(inner.options, inner.sources, labels)
        self.spec = inner.spec  # type: ignore[misc]
        self.inner, self.name = inner, name

    @property
    def needs(self) -> tuple[str, ...]:
        return self.inner.needs

    def forward(self, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Tensor]:
        maps = self.inner.map(batch, self.name)
        if self.name == SEGMENTATION:
            return {label: maps[self.name][:, n : n + 1].float() for n, label in enumerate(self.targets)}
        # a source that is absent here (of which there is none in a whole case) has no share
        return {label: maps[label].float() for label in self.targets if label in maps}


def predict_map(
    method: NeuralMethod,
    prepared: PreparedCase,
    name: str,
    plane: str = "axial",
    settings: PredictSettings | None = None,
    normalizers: Mapping[str, Mapping[str, Any]] | None = None,
    frame: Frame | None = None,
) -> dict[str, np.ndarray]:
    """Predict a map of a prepared case.

    Args:
        method: trained.
        prepared: holds the sources.
        name: one of ``method.spec.maps``.
        plane: the slices that the method is shown.
        settings: how; as for images.
        normalizers: as for `predict_case`.
        frame: as for `predict_case`.

    Returns:
        label -> ``(X, Y, Z)`` on the prepared grid, 0 outside the brain: float32, for ``segmentation`` int8 classes.

    Raises:
        DataError: as for images.
        UsageError: the method has no such map.
    """
    check_maps(method, [name])
    given = [source for source in method.sources if source in prepared.images]
    labels = [f"class {number}" for number in range(len(CLASSES))] if name == SEGMENTATION else labels_of(method, name, given)
    plain = {**(normalizers or {}), **dict.fromkeys(labels, _PLAIN)}
    maps = predict_case(_View(method, name, labels), prepared, None, plane, settings, plain, frame)
    if name != SEGMENTATION:
        return maps
    classes = np.stack([maps[label] for label in labels]).argmax(axis=0).astype(np.int8)
    return {name: np.where(prepared.mask, classes, np.int8(0))}


def segments(method: Any) -> bool:
    """Whether a run gives a tumour segmentation."""
    try:
        check_maps(method, [SEGMENTATION])
    except UsageError:
        return False
    return True


def tumour_classes(
    method: NeuralMethod,
    prepared: PreparedCase,
    plane: str = "axial",
    settings: PredictSettings | None = None,
    frame: Frame | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(predicted, true) tumour classes ``(X, Y, Z)`` of a case with a segmentation.

    The prediction keeps the largest component of the whole tumour alone, as MAF-Net does.

    Raises:
        DataError: the case has no segmentation.
    """
    from synthmr.evaluate.segmentation import keep_largest_tumour, to_classes

    if prepared.segmentation is None:
        raise DataError(f"case {prepared.name} has no segmentation to score against.")
    classes = predict_map(method, prepared, SEGMENTATION, plane, settings, frame=frame)[SEGMENTATION]
    predicted = keep_largest_tumour(classes)
    return predicted, to_classes(prepared.segmentation, getattr(method, "label_convention", "auto"))
