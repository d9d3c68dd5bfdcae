"""What runs predict for the cases of a split, with the truth beside it: what is scored, and what reports show.

Networks, NIfTI and metrics are imported inside the functions, so that `select` can be had without them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from synthmr.config import config_hash
from synthmr.errors import DataError, UsageError, did_you_mean
from synthmr.labels import AUTO, Convention, Meaning, Seen, decide, get

#: segmentations beside those that are scored whose labels are looked at, where no name tells what they mean
MOST_SEEN = 64

if TYPE_CHECKING:
    from synthmr.case import Case, Cohort, PreparedCase
    from synthmr.data.split import Split
    from synthmr.evaluate.protocols import Protocol
    from synthmr.evaluate.scores import ScoreResult
    from synthmr.predict.predictor import Predictor
    from synthmr.predict.settings import PredictSettings
    from synthmr.prepare.domain import Alarm
    from synthmr.reading import Reading
    from synthmr.run import LoadedRun


@dataclass(frozen=True, eq=False)
class Predicted:
    """A prepared case with its truth and every run's prediction of one target, ``(X, Y, Z)``, background 0 and top 1.

    ``segmentations`` holds, for the runs that segment tumours, (predicted, true) classes ``(X, Y, Z)``; ``borders``, for those
    that were predicted tile by tile, where tiles begin and end along X, Y and Z. ``subject`` is the person, whose cases count as
    one; empty: whom the case's name says. ``meaning`` is what the numbers of segmentations mean; None: that was not asked.
    ``alarms`` say in what the case is outside of what the runs were trained on.
    """

    prepared: PreparedCase
    target: str
    images: Mapping[str, np.ndarray]
    segmentations: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    borders: Mapping[str, Sequence[Sequence[int]]] = field(default_factory=dict)
    subject: str = ""
    meaning: Meaning | None = None
    alarms: tuple[Alarm, ...] = ()

    def scores(self, protocols: Sequence[Protocol], regions: bool = False, tissue: np.ndarray | None = None) -> ScoreResult:
        """Score every prediction under every protocol; arguments of `pipeline.evaluate`, ``tissue`` as of `tissue_labels`."""
        from synthmr.evaluate.apply import Head, apply_protocols
        from synthmr.evaluate.lint import domain_warning
        from synthmr.evaluate.scores import ScoreResult, join
        from synthmr.evaluate.scoring import score_input
        from synthmr.evaluate.segmentation import score_segmentation, segmentation_rows

        results = []
        for method, image in self.images.items():
            scored = score_input(image, self.prepared, self.target, meaning=self.meaning)
            scored = replace(scored, tissue=tissue, borders=self.borders.get(method, ()))
            head = Head(self.prepared.name, method, self.target, self.subject)
            results.append(apply_protocols(scored, protocols, head, regions=regions))
        for method, (predicted, truth) in self.segmentations.items():
            values = score_segmentation(predicted, truth, self.prepared.spacing)
            results.append(ScoreResult(segmentation_rows(self.prepared.name, method, values, self.subject)))
        results.append(ScoreResult([], [domain_warning(alarm, self.prepared.name) for alarm in self.alarms]))
        return join(results)


@dataclass(frozen=True)
class LeftOut:
    """The cases that could not be scored, a line each with the reason.

    Attributes:
        lacking: those that do not have the truth or an input.
        failed: those whose files cannot be read or prepared.
    """

    lacking: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


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
    reading: Reading | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    inputs: Sequence[str] = (),
    names: Sequence[str] = (),
    cases: Collection[str] | None = None,
    device: str = "auto",
    keep: bool = True,
    left_out: LeftOut | None = None,
    labels: str | Path | Convention | Meaning = AUTO,
    labelled: bool = False,
    force: bool = False,
) -> Iterator[Predicted]:
    """Predict held-out cases with one or more runs, a case at a time.

    ``inputs`` are the contrasts that the runs are given (none: all), ``names`` what they are called (none: by method or folder),
    ``cases`` those of the split that are predicted (None: all). With ``keep``, predictions are kept for the next time, and kept
    ones are taken. With ``left_out``, a case that cannot be predicted costs itself alone, and is named there. What segmentations
    mean is decided over the whole split before the first case is predicted: as ``labels`` says (`synthmr.labels.decide`), where
    it matters: with ``labelled``, where it is named, and for runs that segment tumours. With ``force``,
    images too are taken that are certainly not what a run was trained on.

    Raises:
        UsageError: runs that have no target in common, or were prepared in other ways than the first: their numbers
            would not compare.
        DataError: without ``left_out``: a case that cannot be prepared, or that lacks the truth or one of ``inputs``; with it, too:
            labels that are not of the convention that is named.
    """
    from synthmr.io.index import find
    from synthmr.predict.maps import segments

    predictors = open_runs(runs, names, settings, device, keep, force)
    cohort = find(data, reading)
    runs_of = [predictor.run for predictor in predictors.values()]
    part = select(cohort, split_of(cohort, runs_of[0].split, reading), split)
    if reading is not None and reading.split_file is not None and split not in ("train", "all"):
        for run in runs_of:
            learnt = sorted({case.name for case in part} & set(run.split.train))
            if learnt:
                raise DataError(
                    f"{reading.split_file} puts {', '.join(learnt[:4])} into {split}, and {run.folder.path} was trained on it: its"
                    " scores would be too good. Take such cases out of the file."
                )
    wanted = [case for case in part if cases is None or case.name in cases]
    for predictor in predictors.values():
        check_inputs(inputs, predictor.run)
    opened = [predictor.run for predictor in predictors.values()]
    if isinstance(labels, Meaning):
        meaning: Meaning | None = labels
    elif labelled or labels != AUTO or any(segments(run.method) for run in opened):
        meaning = meaning_of(part, labels, opened, cohort.cases)
    else:
        meaning = None
    for done, case in enumerate(wanted, start=1):
        try:
            found = list(_predict(case, predictors, inputs, meaning))
        except DataError as error:
            if left_out is None:
                raise
            lacks = _lacks(case, predictors, inputs)
            (left_out.lacking if lacks else left_out.failed).append(f"{case.name}: {lacks or ' '.join(str(error).split())}")
            found = []
        yield from found
        if progress is not None:
            progress(done, len(wanted), case.name)


def meaning_of(
    cases: Sequence[Case], labels: str | Path | Convention, runs: Sequence[LoadedRun] = (), cohort: Sequence[Case] = ()
) -> Meaning | None:
    """How the segmentations of cases are read; None where there are none.

    What cannot be known otherwise is what the runs were trained to read, if the cases are of their splits.

    Args:
        cases: all that are scored.
        labels: as of `synthmr.labels.decide`.
        runs: that are scored.
        cohort: all cases that are there: where no name tells, the labels of at most `MOST_SEEN` others are looked at, too.

    Raises:
        DataError: labels are not of the convention that is named.
        UsageError: there is no such convention.
    """
    from synthmr.io.segmentations import seen_in

    files = [(case.name, case.segmentation) for case in cases if case.segmentation is not None]
    if labels != AUTO and not files:
        name = labels.name if isinstance(labels, Convention) else labels
        raise UsageError(f"labels are named ({name}), and no case has a segmentation; leave that out, or add segmentations.")
    if not files:
        return None
    seen = seen_in(files)
    meaning = decide(seen, named=labels)
    names = {case.name for case in cases}
    others = [(case.name, case.segmentation) for case in cohort if case.segmentation is not None and case.name not in names]
    if others and not meaning.certain:  # the cases that are scored may lack a label which tells what the others mean
        seen = Seen((*seen.cases, *seen_in(others[:: -(-len(others) // MOST_SEEN)]).cases))
        meaning = decide(seen)
    trained = {getattr(run.method, "label_convention", AUTO) for run in runs if {name for name, _ in files} <= _cases(run)} - {AUTO}
    if len(trained) != 1 or meaning.certain or (meaning.convention is not None and len(meaning.present) > 1):
        return meaning  # one label alone tells less than the run does
    known = get(trained.pop())
    return Meaning(known, f"read as {known.name}, as the run was trained", meaning.present) if known.holds(seen) else meaning


def _cases(run: LoadedRun) -> set[str]:
    """The cases of a run's split."""
    return {*run.split.train, *run.split.validation, *run.split.test}


def open_runs(
    runs: Sequence[Path],
    names: Sequence[str] = (),
    settings: PredictSettings | None = None,
    device: str = "auto",
    keep: bool = True,
    force: bool = False,
) -> dict[str, Predictor]:
    """A predictor a run, under its name; arguments of `predictions`.

    Raises:
        UsageError: their numbers would not compare.
    """
    from synthmr.predict.keep import Keep
    from synthmr.predict.predictor import Predictor
    from synthmr.run import load_run

    opened = [load_run(path) for path in runs]
    loaded = dict(zip(names, opened, strict=True)) if names else name_runs(opened, runs)
    first = opened[0]
    common = _common([run.config.targets for run in opened])
    for name, run in loaded.items():
        if not common or run.config.prepare.normalizer != first.config.prepare.normalizer:
            raise UsageError(
                f"{name} gives {', '.join(run.config.targets)} with normalizer {run.config.prepare.normalizer}, the first run gives"
                f" {', '.join(first.config.targets)} with {first.config.prepare.normalizer}: evaluate them apart."
            )
    kept = {name: Keep.of_run(run.folder.path) if keep else None for name, run in loaded.items()}
    return {name: Predictor(run, settings, device, kept[name], force) for name, run in loaded.items()}


def _common(targets: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The targets that all runs have: what they are compared by."""
    return tuple(name for name in targets[0] if all(name in other for other in targets))


def _lacks(case: Case, predictors: Mapping[str, Predictor], inputs: Sequence[str]) -> str:
    """Which contrasts a case would need to be scored and does not have; empty where it has all."""
    first = next(iter(predictors.values()))
    targets = _common([predictor.targets for predictor in predictors.values()])
    needed = [*(inputs or (() if first.run.method.traits.any_subset else first.sources)), *targets]
    missing = [name for name in dict.fromkeys(needed) if name not in case.images]
    return f"has no {', '.join(missing)}, and was left out." if missing else ""


def _predict(
    case: Case, predictors: Mapping[str, Predictor], inputs: Sequence[str], meaning: Meaning | None
) -> Iterator[Predicted]:
    """Predict one case with every run, a `Predicted` a target; arguments and errors of `predictions`."""
    from synthmr.predict.maps import SEGMENTATION, segments

    prepared: dict[tuple[str, str], PreparedCase] = {}
    truths: dict[str, PreparedCase] = {}
    images: dict[str, dict[str, np.ndarray]] = {}
    borders: dict[str, Sequence[Sequence[int]]] = {}
    segmented: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    alarms: dict[Alarm, None] = {}
    common = _common([predictor.targets for predictor in predictors.values()])
    for name in inputs:
        case.image(name)  # says what is missing: a prediction from fewer would stand under the same heading
    for name, predictor in predictors.items():
        config, run = predictor.config, predictor.run
        missing = [target for target in common if target not in case.images]
        jobs = predictor.jobs(tuple(case.images))
        if missing and (not jobs or not set(predictor.sources) & set(predictor.targets)):
            case.image(missing[0])  # says what is missing
        for given, targets in jobs or [(predictor.given(tuple(case.images)), predictor.targets)]:
            # a contrast is never predicted from itself; and one that only some runs predict is compared with nothing
            wanted = tuple(name for name in targets if name not in inputs and name in common)
            if not wanted:
                continue
            key = (config_hash([config.prepare, config.sources, run.landmarks]), ",".join(wanted))
            if key not in prepared:
                prepared[key] = predictor.prepare(case, given, wanted)
            ready = prepared[key]
            alarms |= dict.fromkeys(predictor.alarms(case.name, ready.history))
            maps = (SEGMENTATION,) if segments(run.method) and ready.segmentation is not None else ()
            if inputs:
                prediction = predictor(replace(ready, given=tuple(inputs)), wanted, maps)
            else:
                _, prediction = predictor.of(case, given, wanted, maps, ready)
            for target in wanted:
                images.setdefault(target, {})[name] = prediction.unit(target)
                if truths.setdefault(target, ready).mask.shape != ready.mask.shape:
                    raise UsageError(
                        f"the runs see case {case.name} on different boxes, so one table cannot hold them; evaluate them apart."
                    )
            if any(prediction.borders):
                borders[name] = prediction.borders
            truth = _classes(ready, meaning)
            if prediction.segmentation is not None and truth is not None:
                segmented[name] = (prediction.segmentation, truth)
    for number, (target, predicted) in enumerate(images.items()):
        found, said = (segmented, tuple(alarms)) if number == 0 else ({}, ())
        yield Predicted(truths[target], target, predicted, found, borders, case.subject, meaning, said)


def _classes(prepared: PreparedCase, meaning: Meaning | None) -> np.ndarray | None:
    """The true tumour classes of a case ``(X, Y, Z)``; None where labels are not known to be of a tumour."""
    known = meaning.convention if meaning is not None else None
    if prepared.segmentation is None or known is None or not known.is_tumour:
        return None
    return known.classes(prepared.segmentation)


def split_of(cohort: Cohort, split: Split, reading: Reading | None) -> Split:
    """The split that is asked for: that of ``--split-file`` where one was given, else the run's own."""
    from synthmr.data.split import Split as Parts

    if reading is None or reading.split_file is None:
        return split
    train, validation, test = (
        tuple(case.name for case in cohort.cases if case.split == part) for part in ("train", "validation", "test")
    )
    return Parts(train, validation, test, str(reading.split_file))


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
            f"{cohort.root} holds no {part} case of this run; {split.source} names {', '.join(sorted(names)) or 'none'}."
        )
    return cases


def check_inputs(inputs: Sequence[str], run: LoadedRun) -> None:
    """Check that a run can be given some of its sources; mask and units stay those of all of them, so that subsets compare.

    Raises:
        UsageError: an input is no source of the run, or the method needs all of them.
    """
    config = run.config
    for name in inputs:
        if name not in config.sources:
            raise UsageError(f"{name} is no source of this run: {did_you_mean(name, config.sources)}")
    if inputs and set(inputs) != set(config.sources) and not run.method.traits.any_subset:
        raise UsageError(f"{config.method} needs all of its sources ({', '.join(config.sources)}); milr takes any subset.")


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
    if sorted(volume.shape) != sorted(turn["shape"]):
        raise DataError(f"{path} has the shape {volume.shape} and the images of case {prepared.name} {tuple(turn['shape'])}.")
    own = orient.fit(volume.shape, volume.affine)  # it may be stored in another order than the images
    return np.rint(crop.apply(orient.apply(volume.array, own), box)).astype(np.int32)
