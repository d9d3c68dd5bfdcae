"""`Run`: a trained run in Python, what `synthmr.load` returns; images in memory in, nibabel images out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synthmr import pipeline
from synthmr.api import AnyPath, Words, evaluate, optional, synthesize, words
from synthmr.errors import SynthmrWarning, UsageError

if TYPE_CHECKING:
    from torch import nn

    from synthmr.case import Volume
    from synthmr.config import RunConfig
    from synthmr.evaluate.scores import ScoreResult
    from synthmr.predict.cohort import Summary
    from synthmr.predict.predictor import Predictor
    from synthmr.predict.settings import PredictSettings
    from synthmr.run import LoadedRun


class Run:
    """A trained run: what `load` returns.

    Attributes:
        path: its folder.
        method: name of its method.
        sources: contrasts that go in.
        targets: contrasts that come out.
        maps: what it can give beside the images.
        hash: of configuration and weights.
    """

    def __init__(self, loaded: LoadedRun, device: str = "auto", which: str = "best") -> None:
        self._loaded, self._device, self._which = loaded, device, which
        self._predictors: dict[PredictSettings, Predictor] = {}
        self.path = loaded.folder.path
        self.method = str(loaded.config.method)
        self.sources, self.targets = tuple(loaded.config.sources), tuple(loaded.config.targets)
        self.maps, self.hash = tuple(loaded.method.spec.maps), loaded.hash

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}: {self.method}, {', '.join(self.sources)} -> {', '.join(self.targets)})"

    @property
    def config(self) -> RunConfig:
        """The whole configuration."""
        return self._loaded.config

    @property
    def info(self) -> dict[str, Any]:
        """``run.json``: versions, machine, training cases, scores of the validation cases, ..."""
        return dict(self._loaded.info)

    def _predictor(self, mode: str = "slices", precision: str = "auto", plane: str = "", force: bool = False) -> Predictor:
        """The predictor of some settings, whose network is made ready once."""
        from synthmr.predict.predictor import Predictor

        settings = pipeline.predict_settings(mode, precision=precision, plane=plane)
        if settings not in self._predictors:
            self._predictors[settings] = Predictor(self._loaded, settings, self._device)
        self._predictors[settings].force = force
        return self._predictors[settings]

    def predict(
        self,
        images: Mapping[str, Any],
        *,
        affine: np.ndarray | None = None,
        mask: Any = None,
        segmentation: Any = None,
        target: Words | None = None,
        maps: Words | None = None,
        spread: bool = False,
        intensity: str = "scanner",
        mode: str = "slices",
        precision: str = "auto",
        plane: str = "",
        force: bool = False,
    ) -> dict[str, Any]:
        """Predict from images: what `synthmr synthesize` would write.

        Args:
            images: contrast -> a file, a nibabel image, or an array ``(X, Y, Z)`` in scanner units (with ``affine``); on one grid.
            affine: 4x4, voxel index to RAS millimetres, of arrays.
            mask: brain mask, given like an image; None: found in the images.
            segmentation: lesion labels, for runs that read them.
            target: contrasts to predict; None: all, or, where a contrast may be source and target, those that were not given.
            maps: maps to give too, such as attention or segmentation; see `maps`.
            spread: give the standard deviation too, in the image's units, as ``CONTRAST spread``, where the method has one.
            intensity: scanner, or normalized (0 background, 1 top of the range, brightness corrected).
            mode: slices (whole) or patches (overlapping, blended).
            precision: auto, 32 or bf16.
            plane: axial, coronal or sagittal slices; empty: as in training.
            force: predict from images too that are certainly not what the run was trained on.

        Returns:
            contrast or label of a map -> nibabel image, float32, on the grid of the first image.

        Raises:
            UsageError: a contrast or map that the run does not know, or an array without affine.
            DataError: images that cannot be used, grids that differ, or images that are certainly not what the run was trained
                on.

        Warns:
            SynthmrWarning: what of the images is outside of what the run was trained on, a warning each.
        """
        from synthmr.contrasts import resolve, squeeze
        from synthmr.io.provenance import description
        from synthmr.predict.write import check_intensity, file_units

        check_intensity(intensity)
        known = {squeeze(name): name for name in (*self.sources, *self.targets)}
        given = {resolve(word, known): image for word, image in images.items()}
        for name in given:
            if name not in self.sources:
                raise UsageError(f"this run takes {', '.join(self.sources)} and was given {name} too; leave that out.")
        wanted = [resolve(word, known) for word in words(target)] or None
        volumes = {name: as_volume(image, name, affine) for name, image in given.items()}
        predictor = self._predictor(mode, precision, plane, force)
        labels = (
            None if mask is None else as_volume(mask, "mask", affine),
            None if segmentation is None else as_volume(segmentation, "segmentation", affine),
        )
        arrays: dict[str, np.ndarray] = {}
        told: dict[str, None] = {}
        for number, (names, part) in enumerate(predictor.plan(tuple(volumes), wanted)):
            prepared = predictor.prepare_volumes({name: volumes[name] for name in names}, *labels, given=names)
            told |= dict.fromkeys(alarm.text for alarm in predictor.alarms("case", prepared.history))
            prediction = predictor(prepared, part, () if number else words(maps))
            arrays |= file_units(prediction, intensity, spread)
        for text in told:
            warnings.warn(text, SynthmrWarning, stacklevel=2)
        like = next(iter(volumes.values()))
        return {name: as_image(array, like, description(self.method, name, self.hash)) for name, array in arrays.items()}

    def evaluate(self, data: AnyPath, **options: Any) -> ScoreResult:
        """Score this run on held-out cases; options as of `evaluate`."""
        return evaluate(self._best_folder("evaluate"), data, **{"device": self._device, **options})

    def synthesize(self, data: AnyPath, *, out: AnyPath, **options: Any) -> Summary:
        """Write the volumes of a cohort; options as of `synthesize`."""
        return synthesize(self._best_folder("synthesize"), data, out=out, **{"device": self._device, **options})

    def report(
        self, path: AnyPath = "report.html", data: AnyPath | None = None, *, split: str = "test", labels: AnyPath = "auto"
    ) -> Path:
        """Write one self-contained page about this run.

        Args:
            path: of the page.
            data: the cohort; None: where it was trained.
            split: the part of its split that is shown.
            labels: what segmentations mean; as of `evaluate`.
        """
        folder, command = self._best_folder("report"), f"synthmr report {self.path.name}"
        how: dict[str, Any] = {"command": command, "device": self._device, "labels": str(labels)}
        return pipeline.report([folder], Path(path), optional(data), split, **how)

    def _best_folder(self, verb: str) -> Path:
        """The run's folder, for what reads it anew and takes the best weights.

        Raises:
            UsageError: this run was loaded with others.
        """
        if self._which != "best":
            raise UsageError(f'{verb} uses the best weights and this run was loaded with which="{self._which}"; load it without.')
        return self.path

    def network(self) -> nn.Module:
        """The network as a plain torch module: ``(B, sources * C, *S)`` normalised -> ``(B, targets, *S)``, in evaluation mode.

        S is a multiple of the method's divisor. It has no option and no side effect, so `torch.export` accepts it.

        Raises:
            UsageError: the method is no network.
        """
        from synthmr.predict.network import StackedNetwork

        return StackedNetwork(self._loaded.method)


def as_volume(image: Any, name: str, affine: np.ndarray | None = None) -> Volume:
    """A file, nibabel image or array as a `Volume`.

    Raises:
        UsageError: an array without an affine, or something else.
        DataError: it is no volume that can be used.
    """
    from synthmr.case import Volume
    from synthmr.io import nifti

    image_like = name not in ("mask", "segmentation")
    if isinstance(image, (str, PathLike)):
        volume = nifti.load(Path(image), label=name)
    elif isinstance(image, Volume):
        volume = image
    elif isinstance(image, np.ndarray):
        if affine is None:
            raise UsageError(f"{name} is an array, which does not say where it lies; give affine=, 4x4, voxel index to RAS mm.")
        import nibabel

        kind = np.float32 if image_like or image.dtype.kind == "f" else np.int32
        volume = nifti.from_image(nibabel.Nifti1Image(image.astype(kind), np.asarray(affine, float)), label=name)
        volume = Volume(volume.array, volume.affine)  # a header made here says nothing of the source
    elif hasattr(image, "dataobj") and hasattr(image, "affine"):
        volume = nifti.from_image(image, label=name)
    else:
        kinds = ("a path", "a nibabel image", "an array with affine=")
        raise UsageError(f"{name} is of type {type(image).__name__}; give {', '.join(kinds[:2])} or {kinds[2]}.")
    if image_like:
        nifti.check_not_constant(volume, name)
    return volume


def as_image(array: np.ndarray, like: Volume, description: str) -> Any:
    """A volume on the grid of ``like`` as a nibabel image, as it would be written."""
    from synthmr.io.nifti import to_image

    return to_image(array, like, description, "uint8" if array.dtype.kind in "iu" else "float32")
