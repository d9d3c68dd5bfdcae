"""An experiment as one self-contained page: table, claims, every subject, and the images of two of its rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthmr import pipeline
from synthmr.documents import check_shape
from synthmr.errors import DataError, UsageError
from synthmr.experiment import layout, runner, spec
from synthmr.experiment.cells import Cell, cell_name, trained
from synthmr.predictions import Predicted, predictions
from synthmr.report.html import Grid, chosen_cases
from synthmr.report.run_page import known_data, write_report

if TYPE_CHECKING:
    from synthmr.evaluate.scores import Score
    from synthmr.pipeline import Tick


def is_experiment(folder: Path) -> bool:
    """Whether a folder is that of an experiment."""
    return (folder / "experiment.json").is_file()


def reopen(folder: Path, data: Path | None = None) -> tuple[runner.Outcome, Path]:
    """The outcome of an experiment as its folder holds it, and its data; nothing is trained or scored.

    Raises:
        DataError: the folder holds no scores.
        UsageError: the data are not where they were; give them.
    """
    from synthmr.evaluate.scores import read_scores
    from synthmr.io.files import read_json

    note = read_json(folder / "experiment.json")
    check_shape(note, {"experiment": str, "options": {"aliases?": [str]}}, str(folder / "experiment.json"))
    experiment = spec.load(str(folder / runner.TABLE), str(note["experiment"]))
    try:
        options = runner.Options.from_note(note["options"])
    except (TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{folder / 'experiment.json'} is damaged ({error}); run the experiment again.") from None
    data = data if data is not None else known_data(note, folder)
    cohort = pipeline.index(data, options.reading)
    planned = tuple(runner.plan(experiment, cohort.contrasts, options))
    path = folder / "scores.csv"
    if not path.is_file():
        raise DataError(f"{folder} holds no scores.csv yet; run `synthmr experiment run` to its end first.")
    names = {runner.label(each.row): each.row.key for each in planned}
    scores: dict[tuple[str, str], list[Score]] = {}
    for row in read_scores(path):
        if row.method in names:
            scores.setdefault(names[row.method], []).append(row)
    unscored = {each.row.key: "not run yet" for each in planned if each.config and each.row.key not in scores}
    return runner.Outcome(experiment, options, planned, scores, unscored, runner.data_words(data, cohort)), data


def shown_rows(outcome: runner.Outcome) -> list[runner.Planned]:
    """The rows whose images are shown: the winner and the loser of the first claim that was tested, else the first two rows."""
    done = {each.row.key: each for each in outcome.planned if each.config and each.row.key in outcome.scores}
    for verdict in layout.verdicts(outcome):
        pair = [(verdict.group, verdict.claim.better), (verdict.group, verdict.against)]
        if verdict.verdict != layout.UNKNOWN and all(key in done for key in pair):
            return [done[key] for key in pair]
    return list(done.values())[:2]


def write(
    folder: Path,
    path: Path,
    data: Path | None = None,
    command: str = "",
    progress: Tick | None = None,
    device: str = "auto",
    keep: bool = True,
) -> Path:
    """Write the page of an experiment; ``progress`` is told of every case that is shown. ``device`` and ``keep`` as of `evaluate`.

    Raises:
        DataError: there is nothing to show, or the page cannot be written.
        UsageError: as `reopen`.
    """
    outcome, data = reopen(folder, data)
    experiment, options = outcome.experiment, outcome.options
    rows = [row for scores in outcome.scores.values() for row in scores]
    if not rows:
        raise DataError(f"no row of {experiment.name} in {folder} has scores; run it to its end first.")
    shown = [each for each in shown_rows(outcome) if not each.row.inputs and not each.row.plane and not each.row.extend]
    runs = {runner.label(each.row): _runs(folder, each, options, data) for each in shown}
    runs = {name: found for name, found in runs.items() if found}
    part = "test" if options.folds else options.part
    grids = [
        Grid(f"{experiment.item} beside ours", layout.filled(layout.table(outcome)), layout.protocol_words(experiment)),
        Grid(
            "Claims",
            layout.filled(layout.claim_table(outcome)),
            f"Paired t-test over subjects, Holm-corrected. {layout.summary(outcome)}",
        ),
    ]
    write_report(
        path,
        list(chain.from_iterable(runs.values())),
        data,
        part,
        rows,
        f"{spec.PAPERS[experiment.paper]}, {experiment.item}: {experiment.title}",
        command,
        [experiment.about, *layout.differences(outcome)] if experiment.about else layout.differences(outcome),
        grids,
        reading=options.reading,
        figures=_figures(runs, data, part, replace(options, device=device, keep=keep), chosen_cases(rows), progress),
    )
    return path


def _runs(folder: Path, planned: runner.Planned, options: runner.Options, data: Path) -> list[Path]:
    """The finished run folders of a row, one a fold."""
    base = folder / "cells" / cell_name(Cell(planned.config))
    places = [base / f"fold-{fold}" for fold in range(1, options.folds + 1)] if options.folds else [base]
    found = [place / "run" for place in places]
    return found if all(trained(run) for run in found) else []


def _figures(
    runs: Mapping[str, list[Path]],
    data: Path,
    part: str,
    options: runner.Options,
    cases: set[str] | None,
    progress: Tick | None,
) -> Iterator[Predicted]:
    """Predictions of the shown rows under their names, fold by fold, of the cases that the page shows."""
    for each in zip(*runs.values(), strict=True):
        how: dict[str, Any] = {"names": list(runs), "cases": cases, "device": options.device, "keep": options.keep}
        yield from predictions(list(each), data, part, None, options.reading, progress, **how)


__all__ = ["UsageError", "is_experiment", "reopen", "shown_rows", "write"]
