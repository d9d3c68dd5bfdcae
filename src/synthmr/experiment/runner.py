"""Run a table: plan its cells, train and score what is not done, and gather each row's scores over subjects.

OUT/experiment.json      what is run on which data: another experiment, scale or data set needs another folder
OUT/experiment.yaml      the table, as it was run
OUT/folds.tsv            with --folds
OUT/cells/METHOD-HASH/[fold-N/]   see `synthmr.experiment.cells`
OUT/scores.csv           every score of every row, the row's name as method
OUT/table.md, OUT/table.json      the table beside the paper's, and the claims (`synthmr.experiment.layout`)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from synthmr import pipeline
from synthmr.case import Cohort
from synthmr.config import to_dict
from synthmr.contrasts import parse_aliases, resolve
from synthmr.data.split import Split, make_split
from synthmr.errors import DataError, SynthmrError, UsageError, did_you_mean
from synthmr.evaluate.scores import Score, renamed, write_scores
from synthmr.experiment.cells import Cell, Scoring, Shown, busy_words, cell_name, locked, score_cell, train_cell
from synthmr.experiment.crossval import check_same, settle_folds
from synthmr.experiment.spec import Experiment, Row
from synthmr.io.naming import some
from synthmr.labels import AUTO
from synthmr.labels import get as get_convention
from synthmr.predictions import select
from synthmr.reading import Reading


@dataclass(frozen=True)
class Scale:
    """How much a cell may cost.

    Attributes:
        preset: of the methods.
        budget: in place of the preset's; empty: the preset's.
        settings: ``key=value`` words of every row, before its own.
        words: for the table.
    """

    preset: str
    budget: Mapping[str, float]
    settings: tuple[str, ...]
    words: str


# after 30 steps an average of weights is still the first ones
SCALES: Mapping[str, Scale] = {
    "tiny": Scale(
        "fast", {"steps": 30}, ("train.ema=0",), "preset fast, 30 steps: shows that the table runs, and nothing about the methods"
    ),
    "small": Scale("fast", {"minutes": 6.0}, (), "preset fast, 6 minutes of training a cell"),
    "paper": Scale("paper", {}, (), "preset paper: the paper's settings and length of training"),
}

#: what may be scored without folds
PARTS = ("test", "validation", "held-out", "train", "all")

#: the table itself, in the folder of its experiment: `synthmr report` reads it there
TABLE = "experiment.yaml"

#: subjects and voxel edge in mm of the phantom that `tiny` runs on where no data are given
PHANTOM = (8, 3.0)


@dataclass(frozen=True)
class Options:
    """How an experiment is run.

    Attributes:
        scale: a key of `SCALES`.
        folds: of a cross-validation; 0: the data's own split.
        part: that is scored without folds.
        minutes: of training a cell, in place of the scale's.
        steps: the same in steps.
        seed: of split, folds and training.
        substitute: contrast of the table -> contrast of the data that stands for it.
        only: names of rows to run; empty: all.
        reading: how the folder is read.
        cache: of prepared data.
        device: that predicts: auto, cpu, cuda, cuda:N or mps.
        keep: keep predictions of the scored cases for the next time.
        force: train though the audit finds errors in the data.
        labels: what the numbers of segmentations mean: auto, a convention's name, or your own YAML file.
    """

    scale: str = "small"
    folds: int = 0
    part: str = "test"
    minutes: float | None = None
    steps: int | None = None
    seed: int = 0
    substitute: Mapping[str, str] = field(default_factory=dict)
    only: tuple[str, ...] = ()
    reading: Reading = field(default_factory=Reading)
    cache: Path | None = None
    device: str = "auto"
    keep: bool = True
    force: bool = False
    labels: str = AUTO

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise UsageError(f"unknown scale {self.scale!r}: {did_you_mean(self.scale, SCALES)}")
        if self.part not in PARTS:
            raise UsageError(f"--part {self.part!r}: {did_you_mean(self.part, PARTS)}")
        if self.folds < 0 or self.folds == 1:
            raise UsageError(f"--folds {self.folds}: give 2 or more, or 0 for the data's own split.")
        if self.minutes is not None and self.steps is not None:
            raise UsageError("--minutes and --steps were both given; give one.")

    @property
    def noted(self) -> dict[str, Any]:
        """What a folder is of: all that decides its table, as plain data."""
        words = to_dict(replace(self, cache=None, only=()))
        # the folders of an older version, which knew no labels, go on
        left = {"device", "keep", "force", "reading", *(["labels"] if self.labels == AUTO else [])}
        return {key: value for key, value in words.items() if key not in left} | self.reading.note

    @classmethod
    def from_note(cls, note: Mapping[str, Any]) -> Options:
        """The options that `noted` is of."""
        mine = {each.name for each in fields(cls)} - {"only", "cache", "force", "reading"}
        return cls(**{key: value for key, value in note.items() if key in mine}, reading=Reading.from_note(note))

    @property
    def budget(self) -> dict[str, float]:
        """Length of training of every cell; empty: the preset's."""
        if self.minutes is not None:
            return {"minutes": self.minutes}
        if self.steps is not None:
            return {"steps": self.steps}
        return dict(SCALES[self.scale].budget)


@dataclass(frozen=True)
class Planned:
    """A row and what it needs.

    Attributes:
        row: with the data's contrasts.
        config: of its cell; None where it cannot be run.
        reason: why not.
    """

    row: Row
    config: Any = None
    reason: str = ""


@dataclass(frozen=True)
class Outcome:
    """What an experiment gave.

    Attributes:
        experiment: the table.
        options: how it was run.
        planned: its rows.
        scores: row key -> scores, one a subject and metric.
        failed: row key -> why it has no scores though it was planned.
        data: words on the data: folder, cases, subjects.
    """

    experiment: Experiment
    options: Options
    planned: tuple[Planned, ...]
    scores: Mapping[tuple[str, str], list[Score]]
    failed: Mapping[tuple[str, str], str]
    data: str


def plan(experiment: Experiment, contrasts: Sequence[str], options: Options) -> list[Planned]:
    """Every row with its configuration, or why it has none.

    Args:
        experiment: the table.
        contrasts: that the data have in at least one case.
        options: how it is run.

    Raises:
        UsageError: ``only`` names no row, or ``substitute`` no contrast of the table.
    """
    names = [row.name for row in experiment.rows]
    for name in options.only:
        if name not in names:
            raise UsageError(f"{experiment.name} has no row {name!r}: {did_you_mean(name, names)}")
    used = {contrast for row in experiment.rows for contrast in (*row.sources, *row.target, row.extend) if contrast}
    for contrast in options.substitute:
        if contrast not in used:
            raise UsageError(f"--substitute {contrast}: {experiment.name} has no such contrast: {did_you_mean(contrast, used)}")
    chosen = [row for row in experiment.rows if not options.only or row.name in options.only]
    planned = []
    for row in chosen:
        try:
            planned.append(_planned(row, contrasts, options))
        except UsageError as error:
            raise UsageError(f"{experiment.name}, row {' '.join(row.key).strip()}: {error}") from None
    return planned


def _planned(row: Row, contrasts: Sequence[str], options: Options) -> Planned:
    """A row with its configuration.

    Raises:
        UsageError: the row asks for what its method cannot do.
    """
    if row.missing:
        return Planned(row, reason=row.missing)

    def swap(names: Sequence[str]) -> tuple[str, ...]:
        return tuple(options.substitute.get(name, name) for name in names)

    ours = replace(
        row,
        sources=swap(row.sources),
        target=swap(row.target),
        inputs=swap(row.inputs),
        extend="".join(swap([row.extend])) if row.extend else "",
        score="".join(swap([row.score])) if row.score else "",
    )
    needed = [*ours.sources, *ours.target, *([ours.extend] if ours.extend else [])]
    lacking = [name for name in dict.fromkeys(needed) if name not in contrasts]
    if lacking:
        return Planned(ours, reason=f"the data have no {', '.join(lacking)}")
    if len(set(needed)) != len(needed):
        return Planned(ours, reason="after --substitute a contrast would be source and target, or twice a source")
    return Planned(ours, _config(ours, options))


def _config(row: Row, options: Options) -> Any:
    """The configuration of a row's cell, after a look at what is asked of it once it is trained.

    Raises:
        UsageError: settings or requests that its method cannot meet.
    """
    from synthmr.methods import registry

    method = registry.load(row.method)
    scale = SCALES[options.scale]
    config = pipeline.configure(
        row.method,
        ",".join(row.sources),
        ",".join(row.target),
        preset=row.presets.get(options.scale, scale.preset),
        settings=[*scale.settings, *row.settings],
        budget=options.budget if method.trains_in_steps else {},
        seed=options.seed,
        aliases=[f"{name}={name}" for name in (*row.sources, *row.target)],  # they are names already, not words of the data
    )
    pipeline.predict_settings(plane=row.plane)
    if row.inputs and set(row.inputs) != set(row.sources) and not method.traits(config.options).any_subset:
        raise UsageError(f"{row.method} needs all of its sources, so it cannot be given {', '.join(row.inputs)} alone.")
    if row.extend and not method.spec.extendable:
        raise UsageError(f"{row.method} cannot be extended by {row.extend}; milr can.")
    return config


def label(row: Row) -> str:
    """What a row is called in score tables."""
    return f"{row.group}: {row.name}" if row.group else row.name


def data_words(data: Path, cohort: Cohort) -> str:
    """Folder, cases and subjects in words."""
    subjects = {case.subject for case in cohort.cases}
    return f"{data.resolve().name}: {len(cohort.cases)} cases of {len(subjects)} subjects"


def substitutions(words: Sequence[str], aliases: Sequence[str] = ()) -> dict[str, str]:
    """``["DWI=T1ce"]`` -> {"DWI": "T1ce"}.

    Raises:
        UsageError: a word is not of that form, or names no contrast.
    """
    known = parse_aliases(aliases)
    found = {}
    for word in words:
        old, mark, new = word.partition("=")
        if not mark:
            raise UsageError(f"--substitute {word!r}: write TABLE=DATA, for example DWI=T1ce.")
        found[resolve(old, known)] = resolve(new, known)
    return found


def run(
    experiment: Experiment,
    data: Path | None,
    out: Path,
    options: Options,
    *,
    show: Shown,
    train_show: Shown,
    say: Callable[[str], None],
) -> Outcome:
    """Run what is not done and gather all scores.

    A cell that fails (out of memory, a method that refuses the data) is told and left out; the others go on. All rows are tested
    on the same subjects where the data allow it.

    Args:
        experiment: the table.
        data: cohort; None with scale tiny: a phantom in ``out``.
        out: folder; an interrupted run goes on there, and several processes may share it.
        options: how it is run.
        show: progress of preparing and scoring.
        train_show: progress of training.
        say: is told what is done.

    Raises:
        UsageError: ``out`` holds another experiment, no data where they are needed, or a row that its method cannot run.
        DataError: the data cannot be read, or no row can be run.
    """
    from synthmr.io.files import write_json, write_text
    from synthmr.predict.precision import resolve_device

    resolve_device(options.device)
    if options.labels != AUTO:
        get_convention(options.labels)  # a misspelt name is told before anything is trained
    if data is None:
        data = _phantom(out, options, show)
    if (data / "store.json").is_file():
        raise UsageError(f"{data} is a prepared store, and the rows of a table are prepared in several ways; give the images.")
    cohort = pipeline.index(data, options.reading)
    planned = plan(experiment, cohort.contrasts, options)
    if not any(each.config for each in planned):
        reasons = "; ".join(dict.fromkeys(each.reason for each in planned))
        raise DataError(f"no row of {experiment.name} can be run on {data}: {reasons}.")
    note = out / "experiment.json"
    mine = {
        "experiment": experiment.name,
        "data": str(data.resolve()),
        "cases": [case.name for case in cohort.cases],
        "options": options.noted,
    }
    if note.is_file():
        check_same(note, mine)
    splits = _splits(plan(experiment, cohort.contrasts, replace(options, only=())), data, cohort, out, options, say)
    gate = _audited(planned, cohort, splits, options, show)
    for line in gate.lines:
        say(line)
    write_json(note, mine)
    write_text(out / TABLE, experiment.text)
    scores: dict[tuple[str, str], list[Score]] = {}
    failed: dict[tuple[str, str], str] = {}
    for number, each in enumerate(planned, start=1):
        name = " ".join(each.row.key).strip()
        if each.config is None:
            say(f"{experiment.item} row {number} of {len(planned)}: {name}: not run: {each.reason}")
            continue
        say(f"{experiment.item} row {number} of {len(planned)}: {name}")
        try:
            scores[each.row.key] = _row_scores(experiment, each, data, out, options, splits, gate, show, train_show, say)
        except (SynthmrError, MemoryError, RuntimeError) as error:
            failed[each.row.key] = _reason(error)
            say(f"  left out: {failed[each.row.key]}")
    outcome = Outcome(experiment, options, tuple(planned), scores, failed, data_words(data, cohort))
    write_scores(out / "scores.csv", [row for rows in scores.values() for row in rows])
    return outcome


def _reason(error: Exception) -> str:
    """Why a row failed, in a line.

    Raises:
        RuntimeError: it is about no memory, and no error that synthmr makes: a fault in the program.
    """
    text = " ".join(str(error).split())
    if isinstance(error, SynthmrError):
        return text
    # torch has its own class for a GPU that is full, and none for a processor's memory
    if isinstance(error, RuntimeError) and "memory" not in text:
        raise error
    return f"out of memory ({text[:100]})"


def _phantom(out: Path, options: Options, show: Shown) -> Path:
    """The phantom cohort that `tiny` runs on."""
    if options.scale != "tiny":
        raise UsageError(f"scale {options.scale} needs DATA, a folder of cases; `--scale tiny` alone makes its own phantom.")
    folder = out / "phantom"
    if not (folder / "splits.tsv").is_file() and not any(folder.glob("*")):
        with show("phantom") as tick:
            pipeline.phantom(folder, PHANTOM[0], options.seed, PHANTOM[1], 3.0, progress=tick)
    return folder


def _splits(
    planned: Sequence[Planned], data: Path, cohort: Cohort, out: Path, options: Options, say: Callable[[str], None]
) -> list[Split | None]:
    """A split for each fold, or one; over the cases that have every contrast of every row, so that all rows are tested on the
    same subjects. ``[None]`` where there are no such cases and no folds: every row then has a split of its own.

    Raises:
        DataError: no case has all contrasts, which folds need; or nothing is there to be scored.
    """
    runnable = [each for each in planned if each.config]
    targets = list(dict.fromkeys(name for each in runnable for name in (*each.row.target, each.row.extend) if name))
    sources = [name for name in dict.fromkeys(n for each in runnable for n in each.row.sources) if name not in targets]
    if options.folds:
        config = replace(runnable[0].config, sources=tuple(sources), targets=tuple(targets))
        folds = settle_folds(out, data, config, options.folds, options.seed, options.reading)
        left_out = folds.left_out
        found: list[Split | None] = [folds.split(fold) for fold in range(1, folds.k + 1)]
    else:
        try:
            split = make_split(cohort, (*sources, *targets), options.seed)
        except DataError as error:
            say(f"rows have splits of their own, as there is none for all of them: {error}")
            return [None]
        try:
            select(cohort, split, options.part)
        except DataError:  # told before anything is trained
            raise DataError(f"{data} has no {options.part} case by {split.source}; give another --part, or --folds K.") from None
        left_out, found = split.left_out, [split]
    if left_out:
        say(f"left out: {some(left_out)}")
    return found


def _audited(
    planned: Sequence[Planned], cohort: Cohort, splits: Sequence[Split | None], options: Options, show: Shown
) -> pipeline.Gate:
    """What the audit finds in the cases of the table: once for all rows, before anything is trained.

    Raises:
        DataError: there are errors, and ``options.force`` is not given.
    """
    gate = pipeline.Gate(options.force)
    names = [name for each in planned if each.config for name in (*each.config.sources, *each.config.targets)]
    everything = Split(train=tuple(case.name for case in cohort.cases), validation=(), test=(), source="all cases")
    with show("audit") as tick:
        for split in splits:
            gate.check(cohort, split or everything, tuple(dict.fromkeys(names)), options.cache, tick)
    return gate


def _row_scores(
    experiment: Experiment,
    planned: Planned,
    data: Path,
    out: Path,
    options: Options,
    splits: Sequence[Split | None],
    gate: pipeline.Gate,
    show: Shown,
    train_show: Shown,
    say: Callable[[str], None],
) -> list[Score]:
    """Train and score one row in every fold; its rows carry the row's name as method, and the scored contrast alone.

    Raises:
        DataError: another process is at work on it, and what the stages raise.
    """
    row = planned.row
    protocols = tuple(dict.fromkeys((experiment.protocol, "masked-volume")))
    scoring = Scoring(protocols, "test" if options.folds else options.part, row.inputs, row.plane)
    found: list[Score] = []
    busy = ""
    for fold, split in enumerate(splits, start=1):
        cell = Cell(planned.config, split, row.extend, options.budget if row.extend else None)
        folder = out / "cells" / cell_name(cell)
        folder = folder / f"fold-{fold}" if options.folds else folder
        with locked(folder) as free:
            if not free:
                busy = busy or busy_words(folder)
                continue
            title = f"{row.name}, fold {fold} of {options.folds}" if options.folds else row.name
            words: dict[str, Any] = {"title": title, "show": show, "train_show": train_show}
            trained = train_cell(cell, data, folder, **words, reading=options.reading, cache=options.cache, gate=gate)
            with show(f"score {title}") as tick:
                how: dict[str, Any] = {"reading": options.reading, "device": options.device, "keep": options.keep}
                found += score_cell(trained, data, folder, scoring, tick=tick, labels=options.labels, say=say, **how)
    if busy:
        raise DataError(busy)
    return renamed((each for each in found if each.contrast in (row.scored, "segmentation")), label(row))
