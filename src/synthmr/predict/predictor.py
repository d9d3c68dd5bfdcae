"""The one place where a prediction is made: a prepared case through one run, or the mean of several.

Validation, calibration, evaluation, synthesis, reports and benchmarks all come here, so that one case has one prediction. What a
prediction depends on is the run (weights, plane, frame, normalisers, brightness), the images that it is given, and how it is
computed (`PredictSettings`); never the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from synthmr.case import Case, PreparedCase, Volume
from synthmr.contrasts import MASK, SEGMENTATION
from synthmr.errors import DataError, UsageError
from synthmr.evaluate.segmentation import keep_largest_tumour
from synthmr.methods.contract import Method, NeuralMethod
from synthmr.predict.domain import alarms_of, measured, refuse_certain
from synthmr.predict.engine import Engine, Volumes, images_of, spread_name, tile_borders
from synthmr.predict.frame import Frame
from synthmr.predict.maps import check_maps, map_of
from synthmr.predict.prediction import Prediction
from synthmr.predict.settings import PredictSettings
from synthmr.prepare.brightness import brightness_factor, brightness_of
from synthmr.prepare.normalize import background

if TYPE_CHECKING:
    from synthmr.predict.keep import Keep
    from synthmr.prepare.domain import Alarm
    from synthmr.run import LoadedRun

#: raise when a change here or in the engine changes what comes out, so that no prediction kept before is used
PREDICT_VERSION = 1

#: parts of run.json that decide a prediction and are not in the run's hash
LEARNT = ("brightness", "levels", "target_normalizers", "target_units", "landmarks")


class Predictor:
    """One run that predicts, or several whose mean is the prediction.

    Args:
        runs: a loaded run, or several of the same sources, targets and preparation.
        settings: how volumes are predicted.
        device: auto (the GPU if there is one), cpu, cuda, cuda:N or mps; None: where the networks lie.
        keep: where predictions are kept for the next time; None: nowhere.
        force: predict from images too that are certainly not what the runs were trained on.

    Raises:
        UsageError: no such device, or runs that do not predict the same.
    """

    def __init__(
        self,
        runs: LoadedRun | Sequence[LoadedRun],
        settings: PredictSettings | None = None,
        device: str | None = "auto",
        keep: Keep | None = None,
        force: bool = False,
    ) -> None:
        from synthmr.predict.precision import resolve_device

        self.runs: tuple[LoadedRun, ...] = tuple(runs) if isinstance(runs, Sequence) else (runs,)
        if not self.runs:
            raise UsageError("a prediction needs at least one run.")
        self.settings, self.keep, self.force = settings or PredictSettings(), keep, force
        self.device = None if device is None else resolve_device(device)
        self.run = self.runs[0]
        self.config, self.spec = self.run.config, self.run.method.spec
        self.sources, self.targets = tuple(self.config.sources), tuple(self.config.targets)
        self.plane = self.settings.plane or self.config.sample.plane
        for other in self.runs[1:]:
            _check_alike(self.run, other)

    @cached_property
    def engines(self) -> tuple[Engine, ...]:
        """The runs' networks, copied and folded: once, and not before something must be computed."""
        found = []
        for run in self.runs:
            if self.device is not None and isinstance(run.method, NeuralMethod):
                run.method.to(self.device)
            sample = run.config.sample
            found.append(Engine(run.method, self.plane, Frame.of(sample), sample.box, self.settings))
        return tuple(found)

    # --- cases

    def given(self, names: Sequence[str], wanted: Sequence[str] | None = None) -> tuple[str, ...]:
        """The sources among ``names`` that a prediction of ``wanted`` may see: a contrast is never predicted from itself.

        Without ``wanted``, in a run where a contrast may be both, all sources that are there.
        """
        return tuple(name for name in self.sources if name in names and name not in (wanted or ()))

    def plan(self, names: Sequence[str], wanted: Sequence[str] | None = None) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
        """What is made from what, of a case that has the contrasts ``names``: sources, then targets.

        All targets from all sources at once, where a contrast is either. Where one may be both: of those that are wanted, what
        the case lacks at once, and each that it has from all others; without ``wanted``, what it lacks, or all if it lacks none.
        """
        targets = self.targets if wanted is None else tuple(wanted)
        if not set(self.sources) & set(self.targets):
            return [(self.given(names), targets)]
        absent = tuple(name for name in targets if name not in names)
        parts = [absent] if absent else []
        if wanted is not None or not absent:
            parts += [(name,) for name in targets if name in names]
        return [(self.given(names, part), part) for part in parts]

    def jobs(self, names: Sequence[str]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
        """The `plan` of a case that has the contrasts ``names``, of the targets that can be scored."""
        found = self.plan(names, [name for name in self.targets if name in names])
        return [(given, wanted) for given, wanted in found if given and wanted]

    def inputs(self, case: Case, given: Sequence[str] | None = None) -> dict[str, Any]:
        """The files of a case that decide its prediction: its sources, then the mask and, where it is read, the segmentation.

        Raises:
            DataError: a source that the run cannot do without is missing.
        """
        names = self.given(tuple(case.images)) if given is None else tuple(given)
        self._check_sources(case.name, names, case.images)
        files: dict[str, Any] = {name: case.image(name) for name in names}
        if case.mask is not None:
            files[MASK] = case.mask
        if SEGMENTATION in self.run.method.needs and case.segmentation is not None:
            files[SEGMENTATION] = case.segmentation
        return files

    def prepare(self, case: Case, given: Sequence[str] | None = None, truth: Sequence[str] = ()) -> PreparedCase:
        """Read and prepare a case.

        Args:
            case: its files.
            given: sources that the prediction is made from; None: all that the case has and that are not ``truth``.
            truth: contrasts to put beside them, to score against; they have no say in the brain mask, the box or any source.

        Raises:
            DataError: a file cannot be read or prepared, a source is missing, or the images are certainly none for this run.
        """
        from synthmr.prepare.case import load_case

        names = self.given(tuple(case.images), truth) if given is None else tuple(given)
        self._check_sources(case.name, names, case.images)
        asked = [*names, *(name for name in truth if name not in names)]
        return self.prepare_volumes(*load_case(case, asked), given=names, name=case.name)

    def prepare_volumes(
        self,
        volumes: Mapping[str, Volume],
        mask: Volume | None = None,
        segmentation: Volume | None = None,
        given: Sequence[str] | None = None,
        name: str = "case",
    ) -> PreparedCase:
        """Prepare volumes that are in memory, as `prepare` does those of files.

        Args:
            volumes: contrast -> volume in scanner units, on one grid.
            mask: brain mask, or None.
            segmentation: labels, or None.
            given: those that the prediction is made from; None: all sources among them.
            name: of the case, for messages.

        Raises:
            DataError: as `prepare`.
        """
        from synthmr.prepare.case import prepare_images

        names = self.given(tuple(volumes)) if given is None else tuple(given)
        self._check_sources(name, names, volumes)
        config, marks = self.config.prepare, self.run.landmarks
        prepared = prepare_images(volumes, config, self.targets, mask, segmentation, marks, name, given=names)
        prepared = replace(prepared, history=(*prepared.history, measured(prepared, volumes, names)))
        self.alarms(name, prepared.history)
        return prepared

    def alarms(self, case: str, history: Sequence[Mapping[str, Any]]) -> tuple[Alarm, ...]:
        """What of a case, by the history of its preparation, is outside of what the runs were trained on.

        Raises:
            DataError: it is certainly not what a run can be given, and `force` is off.
        """
        found = alarms_of(self.runs, history, case)
        if not self.force:
            refuse_certain(found, case)
        return found

    def _check_sources(self, case: str, given: Sequence[str], there: Mapping[str, Any]) -> None:
        """Check that a prediction can be made from some sources.

        Raises:
            DataError: one is missing.
        """
        absent = [name for name in self.sources if name not in given]
        if absent and (not given or not self.run.method.traits.any_subset):
            have = ", ".join(there) or "nothing"
            if self.run.method.traits.any_subset:
                raise DataError(
                    f"case {case} has none of {', '.join(absent)}, of which this run needs one or more; it has {have}."
                    " Add a file, or leave the case out."
                )
            raise DataError(
                f"case {case} has no {', '.join(absent)}, which this run of {self.spec.name} needs; it has {have}."
                " Add the file, or leave the case out."
            )

    # --- predictions

    def of(
        self,
        case: Case,
        given: Sequence[str] | None = None,
        truth: Sequence[str] = (),
        maps: Sequence[str] = (),
        prepared: PreparedCase | None = None,
    ) -> tuple[PreparedCase, Prediction]:
        """A case prepared, and its prediction: as it was kept, or made now and kept.

        ``given`` and ``truth`` as of `prepare`, ``maps`` as of a call. ``prepared`` is the case, where it was prepared already.

        Raises:
            DataError: as `prepare` and a call.
        """
        names = self.given(tuple(case.images), truth) if given is None else tuple(given)
        prepared = prepared if prepared is not None else self.prepare(case, names, truth)
        wanted = [name for name in self.targets if name not in names]
        if self.keep is None:
            return prepared, self(prepared, wanted, maps)
        key = self.key(case, names)
        kept = self.keep.get(key)
        lacking = tuple(name for name in maps if kept is None or not kept.has_map(name))
        if kept is None:
            kept = self(prepared, wanted, maps)
            self.keep.put(key, kept)
        elif lacking:
            kept = kept.with_maps(self(prepared, wanted=(), maps=lacking))
            self.keep.put(key, kept)
        return prepared, kept

    def key(self, case: Case, given: Sequence[str]) -> str:
        """What a kept prediction of a case is found by: it changes with the weights, with what the runs have learnt of units and
        brightness, with the content of the inputs, and with how it is computed."""
        from synthmr.io.files import sha256
        from synthmr.predict.keep import key_of
        from synthmr.prepare.case import PREPARE_VERSION

        learnt = [[run.info.get(key) for key in LEARNT] for run in self.runs]
        device = str(self.device) if self.device is not None else "as it lies"
        return key_of(
            [run.hash for run in self.runs],
            {name: sha256(path) + ("nan-to-zero" if case.nan_to_zero else "") for name, path in self.inputs(case, given).items()},
            given=given,
            settings={**asdict(self.settings), "plane": self.plane, "device": device, "learnt": learnt},
            versions=(PREDICT_VERSION, PREPARE_VERSION),
        )

    def __call__(self, prepared: PreparedCase, wanted: Sequence[str] | None = None, maps: Sequence[str] = ()) -> Prediction:
        """Predict a prepared case.

        Args:
            prepared: holds the sources, which are those that it names as given.
            wanted: targets; None: all.
            maps: of the method beside the images, of ``spec.maps``.

        Raises:
            DataError: the case lacks a source, or the prediction is not finite.
            UsageError: an unknown target or map.
        """
        given = tuple(name for name in self.sources if name in prepared.images and name in (prepared.given or prepared.images))
        self._check_sources(prepared.name, given, prepared.images)
        targets = self.targets if wanted is None else tuple(wanted)
        check_targets(self.run.method, targets)
        for run in self.runs:
            check_maps(run.method, maps)
        found = [
            self._member(run, engine, prepared, given, targets, maps) for run, engine in zip(self.runs, self.engines, strict=True)
        ]
        return found[0] if len(found) == 1 else mean_of(found)

    def _member(
        self,
        run: LoadedRun,
        engine: Engine,
        prepared: PreparedCase,
        given: tuple[str, ...],
        targets: tuple[str, ...],
        maps: Sequence[str],
    ) -> Prediction:
        """What one run says."""
        normalizers = {name: run.target_normalizers[name] for name in targets}
        fills = {name: float(background(prepared.normalizers[name])) for name in given}
        lows = {name: float(background(normalizers[name])) for name in targets}
        images: dict[str, np.ndarray] = {}
        spread: dict[str, np.ndarray] = {}
        seen = prepared.mask
        if targets:
            volumes = engine.volumes(prepared, given, fills, images_of(targets), lows)
            check_finite(volumes, targets, prepared.name, run.method)
            images = {name: volumes.arrays[name] for name in targets}
            spread = {name: volumes.arrays[spread_name(name)] for name in targets if spread_name(name) in volumes.arrays}
            seen = volumes.seen
        factors = {
            name: brightness_factor(images[name], seen, normalizers[name], brightness_of(run.brightness, name, given))
            for name in targets
        }
        parts = [map_of(engine, prepared, name, given, fills) for name in maps]
        patches = self.settings.mode == "patches" and engine.traits.dims == 2 and Frame.of(run.config.sample) == Frame()
        borders = tile_borders(prepared.mask.shape, self.plane, self.settings, engine.divisor) if patches else ((), (), ())
        return Prediction(
            case=prepared.name,
            images=images,
            spread=spread,
            maps={label: array for each in parts for label, array in each.items() if label != SEGMENTATION},
            segmentation=next((keep_largest_tumour(each[SEGMENTATION]) for each in parts if SEGMENTATION in each), None),
            mask=seen,
            brightness=factors,
            units={name: run.units[name] for name in targets},
            normalizers=normalizers,
            affine=prepared.affine,
            history=prepared.history,
            borders=borders,
            run_hash=run.hash,
            given=given,
            settings={
                **asdict(self.settings),
                "plane": self.plane,
                "computed_with": {"precision": engine.precision.name, "device": str(engine.device)},
            },
        )


def check_targets(method: Method, targets: Sequence[str]) -> None:
    """Check that a method gives some targets.

    Raises:
        UsageError: it does not.
    """
    for name in targets:
        if name not in method.targets:
            raise UsageError(f"this run gives {', '.join(method.targets)}, not {name}.")


def check_finite(volumes: Volumes, targets: Sequence[str], case: str, method: Method) -> None:
    """Check that predicted volumes are numbers.

    Raises:
        DataError: they are not.
    """
    for name in targets:
        volume = volumes.arrays[name]
        bad = volume.size - int(np.isfinite(volume).sum())
        if bad:
            raise DataError(
                f"the predicted {name} of case {case} holds {bad} NaN or infinite voxels: the run of {method.spec.name} has"
                " diverged, or its inputs leave what it was trained on; nothing is written."
            )


def _check_alike(first: LoadedRun, other: LoadedRun) -> None:
    """Check that two runs can be averaged.

    Raises:
        UsageError: they give other contrasts, or in other units, or see cases otherwise.
    """
    for word, one, two in (
        ("sources", first.config.sources, other.config.sources),
        ("targets", first.config.targets, other.config.targets),
        ("preparation", first.config.prepare, other.config.prepare),
        ("plane", first.config.sample.plane, other.config.sample.plane),
        ("nyul landmarks", first.landmarks, other.landmarks),
    ):
        if one != two:
            raise UsageError(
                f"{first.folder.path} and {other.folder.path} differ in {word}, so their mean says nothing; give runs that"
                " differ in nothing but method, seed or training cases."
            )


def mean_of(members: Sequence[Prediction]) -> Prediction:
    """The mean of several predictions of one case; where the methods have no spread, that of the members.

    Brightness factors are averaged as factors are, geometrically; a segmentation is the class that most members name.
    """
    first = members[0]

    def mean(kind: Callable[[Prediction], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return {name: np.asarray(np.mean([kind(each)[name] for each in members], axis=0), np.float32) for name in kind(first)}

    images = mean(lambda each: each.images)
    spread = {name: np.std([each.images[name] for each in members], axis=0, dtype=np.float32) for name in images}
    if all(set(each.spread) == set(images) for each in members):
        # the variance of a mixture: what the members say, and how far they disagree
        within = {name: np.mean([each.spread[name] ** 2 for each in members], axis=0, dtype=np.float32) for name in images}
        spread = {name: np.sqrt(within[name] + spread[name] ** 2) for name in images}
    votes = [each.segmentation for each in members if each.segmentation is not None]
    segmentation = None
    if len(votes) == len(members):
        counts = np.stack(
            [np.sum([vote == label for vote in votes], axis=0) for label in range(int(max(v.max() for v in votes)) + 1)]
        )
        segmentation = counts.argmax(axis=0).astype(np.int8)
    brightness = {name: float(np.exp(np.mean([np.log(each.brightness[name]) for each in members]))) for name in images}
    joined = "+".join(each.run_hash for each in members)
    return replace(
        first,
        images=images,
        spread=spread,
        maps=mean(lambda each: each.maps),
        segmentation=segmentation,
        brightness=brightness,
        run_hash=joined,
    )
