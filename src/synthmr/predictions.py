"""What runs predict for the cases of a split, with the truth beside it: what is scored, and what reports show.

Networks, NIfTI and metrics are imported inside the functions, so that `select` and `Remarks` can be had without them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synthmr.config import config_hash
from synthmr.contrasts import parse_aliases
from synthmr.errors import DataError, UsageError, did_you_mean

if TYPE_CHECKING:
    from synthmr.case import Case, Cohort, PreparedCase
    from synthmr.config import RunConfig
    from synthmr.data.split import Split
    from synthmr.evaluate.lint import LintWarning
    from synthmr.evaluate.protocols import Protocol
    from synthmr.predict.predictor import PredictSettings
    from synthmr.run import LoadedRun


@dataclass
class Remarks:
    """What an evaluation has to say beside its numbers.

    Attributes:
        warnings: of the linter (`synthmr.evaluate.lint`).
        skipped: protocols that were left out for a case, and why.
    """

    warnings: list[LintWarning] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Predicted:
    """A prepared case with its truth and every run's prediction of one target, ``(X, Y, Z)`` normalised.

    ``segmentations`` holds, for the runs that segment tumours, (predicted, true) classes ``(X, Y, Z)``; ``borders``, for those
    that were predicted tile by tile, where tiles begin and end along X, Y and Z. ``subject`` is the person, whose cases count as
    one; empty: whom the case's name says.
    """

    prepared: PreparedCase
    target: str
    images: Mapping[str, np.ndarray]
    segmentations: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    borders: Mapping[str, Sequence[Sequence[int]]] = field(default_factory=dict)
    subject: str = ""

    def rows(
        self,
        protocols: Sequence[Protocol],
        metrics: Sequence[str] = (),
        regions: bool = False,
        remarks: Remarks | None = None,
        tissue: np.ndarray | None = None,
    ) -> list[dict[str, Any]]:
        """Score every prediction under every protocol; arguments of `pipeline.evaluate`, ``tissue`` as of `tissue_labels`."""
        from synthmr.evaluate.lint import lint_images
        from synthmr.evaluate.pair import regional_rows
        from synthmr.evaluate.scoring import scorable, score, score_input
        from synthmr.evaluate.segmentation import score_segmentation, segmentation_rows
        from synthmr.evaluate.table import score_rows

        found: list[dict[str, Any]] = []
        for method, image in self.images.items():
            scored = score_input(image, self.prepared, self.target)
            used = []
            for protocol in protocols:
                missing = scorable(scored, protocol) if len(protocols) > 1 else ""
                if missing and remarks is not None:
                    remarks.skipped.append(missing)
                if not missing:
                    used.append(protocol)
                    values = score(scored, protocol, metrics)
                    found += score_rows(self.prepared.name, method, self.target, protocol.name, values)
            if regions and used:
                borders = self.borders.get(method, ())
                regional = regional_rows(scored, self.prepared.segmentation, used[0], metrics, tissue, borders)
                values = {f"{row['metric']}@{row['region']}": row["value"] for row in regional}
                found += score_rows(self.prepared.name, method, self.target, used[0].name, values)
            if remarks is not None:
                remarks.warnings += lint_images(scored, used)
        for method, (predicted, truth) in self.segmentations.items():
            scores = score_segmentation(predicted, truth, self.prepared.spacing)
            found += segmentation_rows(self.prepared.name, method, scores)
        return [{**row, "subject": self.subject} for row in found] if self.subject else found


class Kept:
    """The predictions of one pass, held for a second use for as long as they are few.

    Attributes:
        all: every prediction that was added; None once there are more than ``most``, and then none is held.
    """

    def __init__(self, most: int) -> None:
        self.all: list[Predicted] | None = []
        self._most = most

    def add(self, predicted: Predicted) -> None:
        """Hold one more, or let go of all."""
        if self.all is not None:
            self.all = [*self.all, predicted] if len(self.all) < self._most else None


def predictions(
    runs: Sequence[Path],
    data: Path,
    split: str = "test",
    settings: PredictSettings | None = None,
    aliases: Sequence[str] = (),
    split_file: Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    inputs: Sequence[str] = (),
    names: Sequence[str] = (),
    cases: Collection[str] | None = None,
) -> Iterator[Predicted]:
    """Predict held-out cases with one or more runs, a case at a time.

    ``inputs`` are the contrasts that the runs are given (none: all), ``names`` what they are called (none: by method or folder),
    ``cases`` those of the split that are predicted (None: all).

    Raises:
        UsageError: runs that were trained for other targets or prepared in other ways than the first: their numbers
            would not compare.
        DataError: a case that cannot be prepared, or that lacks the truth.
    """
    from synthmr.io.index import index

    loaded = _open(runs, names)
    cohort = index(data, parse_aliases(aliases), split_file)
    part = select(cohort, next(iter(loaded.values())).split, split)
    wanted = [case for case in part if cases is None or case.name in cases]
    for done, case in enumerate(wanted, start=1):
        yield from _predict(case, loaded, settings, inputs)
        if progress is not None:
            progress(done, len(wanted), case.name)


def _open(runs: Sequence[Path], names: Sequence[str]) -> dict[str, LoadedRun]:
    """Runs under their names, on the best device.

    Raises:
        UsageError: their numbers would not compare.
    """
    from synthmr.methods.contract import NeuralMethod
    from synthmr.predict.precision import best_device
    from synthmr.run import load_run

    opened = [load_run(path) for path in runs]
    loaded = dict(zip(names, opened, strict=True)) if names else name_runs(opened, runs)
    first = opened[0]
    for name, run in loaded.items():
        if isinstance(run.method, NeuralMethod):
            run.method.to(best_device())
        if run.config.targets != first.config.targets or run.config.prepare.normalizer != first.config.prepare.normalizer:
            raise UsageError(
                f"{name} gives {', '.join(run.config.targets)} with normalizer {run.config.prepare.normalizer}, the first run gives"
                f" {', '.join(first.config.targets)} with {first.config.prepare.normalizer}: evaluate them apart."
            )
    return loaded


def _predict(
    case: Case, loaded: Mapping[str, LoadedRun], settings: PredictSettings | None, inputs: Sequence[str]
) -> Iterator[Predicted]:
    """Predict one case with every run, a `Predicted` a target; arguments and errors of `predictions`."""
    from synthmr.predict.frame import Frame
    from synthmr.predict.maps import segments, tumour_classes
    from synthmr.predict.predictor import predict_case, tile_borders
    from synthmr.prepare.case import prepare_case

    prepared: dict[str, PreparedCase] = {}
    images: dict[str, dict[str, np.ndarray]] = {target: {} for target in next(iter(loaded.values())).config.targets}
    borders: dict[str, Sequence[Sequence[int]]] = {}
    segmented: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, run in loaded.items():
        config = run.config
        key = config_hash([config.prepare, config.sources, run.landmarks])
        if key not in prepared:
            prepared[key] = prepare_case(case, (*config.sources, *config.targets), config.prepare, config.targets, run.landmarks)
        plane = (settings.plane if settings is not None else "") or config.prepare.plane
        frame = Frame.of(config.sample)
        given = only(prepared[key], inputs, config) if inputs else prepared[key]
        for target, image in predict_case(run.method, given, None, plane, settings, frame=frame, brightness=run.brightness).items():
            images[target][name] = image
        if settings is not None and settings.mode == "patches" and frame == Frame():
            borders[name] = tile_borders(given.mask.shape, plane, settings, run.method.spec.divisor)
        if segments(run.method) and given.segmentation is not None:
            segmented[name] = tumour_classes(run.method, given, plane, settings, frame)
    shapes = {each.mask.shape for each in prepared.values()}
    if len(shapes) > 1:
        raise UsageError(f"the runs see case {case.name} on different boxes, so one table cannot hold them; evaluate them apart.")
    for number, (target, predicted) in enumerate(images.items()):
        first = next(iter(prepared.values()))
        yield Predicted(first, target, predicted, segmented if number == 0 else {}, borders, case.subject)


def select(cohort: Cohort, split: Split, part: str) -> list[Case]:
    """The cases of one part of a run's split that a cohort holds.

    Raises:
        UsageError: ``part`` is not train, validation, test, held-out (validation and test) or all.
        DataError: the cohort holds none of them.
    """
    parts = {"train": split.train, "validation": split.validation, "test": split.test}
    parts["held-out"] = (*split.validation, *split.test)
    if part != "all" and part not in parts:
        raise UsageError(f"unknown split {part!r}: {did_you_mean(part, (*parts, 'all'))}")
    names = set(parts[part]) if part != "all" else {case.name for case in cohort.cases}
    cases = [case for case in cohort.cases if case.name in names]
    if not cases:
        raise DataError(
            f"{cohort.root} holds no {part} case of this run; the run's split.tsv names {', '.join(sorted(names)) or 'none'}."
        )
    return cases


def only(prepared: PreparedCase, inputs: Sequence[str], config: RunConfig) -> PreparedCase:
    """A prepared case with some of the sources; mask and units stay those of all of them, so that subsets compare.

    Raises:
        UsageError: an input is no source of the run, or the method needs all of them.
    """
    from dataclasses import replace

    from synthmr.methods import registry

    for name in inputs:
        if name not in config.sources:
            raise UsageError(f"{name} is no source of this run: {did_you_mean(name, config.sources)}")
    if set(inputs) != set(config.sources) and not registry.load(config.method).spec.any_subset:
        raise UsageError(f"{config.method} needs all of its sources ({', '.join(config.sources)}); milr takes any subset.")
    kept = {name: image for name, image in prepared.images.items() if name in inputs or name not in config.sources}
    return replace(prepared, images=kept)


def name_runs(loaded: Sequence[LoadedRun], paths: Sequence[Path]) -> dict[str, LoadedRun]:
    """Name runs by their method; where two share it, by their folder."""
    methods = [run.config.method for run in loaded]
    names = [m if methods.count(m) == 1 else path.resolve().name for m, path in zip(methods, paths, strict=True)]
    if len(set(names)) != len(names):
        raise UsageError(
            f"two runs would both be called {', '.join(sorted({n for n in names if names.count(n) > 1}))}; rename a folder."
        )
    return dict(zip(names, loaded, strict=True))


def tissue_labels(data: Path, pattern: str, prepared: PreparedCase) -> np.ndarray:
    """The tissue labels of a case (1 CSF, 2 grey, 3 white matter) on its prepared grid ``(X, Y, Z)``.

    Raises:
        DataError: there is no such file, or it is on another grid.
        UsageError: the pattern does not name the case.
    """
    from synthmr.io import nifti
    from synthmr.prepare import crop, orient
    from synthmr.prepare.case import find_step

    if "{case}" not in pattern:
        raise UsageError(f"--tissue {pattern!r} is one file for all cases; write {{case}} where their names differ.")
    path = data / pattern.replace("{case}", prepared.name)
    volume = nifti.load(path)
    turn, box = find_step(prepared.history, "orient"), find_step(prepared.history, "crop")
    if list(volume.shape) != list(turn["shape"]):
        raise DataError(f"{path} has the shape {volume.shape} and the images of case {prepared.name} {tuple(turn['shape'])}.")
    return np.rint(crop.apply(orient.apply(volume.array, turn), box)).astype(np.int32)
