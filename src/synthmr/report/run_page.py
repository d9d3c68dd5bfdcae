"""The page of one or more runs: what goes into `synthmr.report.html` from run folders, scores and predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from synthmr.config import to_dict
from synthmr.errors import UsageError
from synthmr.evaluate.scores import Score, main_scores
from synthmr.predictions import LeftOut, Predicted, predictions
from synthmr.prepare.normalize import to_unit
from synthmr.reading import Reading
from synthmr.report import html
from synthmr.report.views import FigureCase
from synthmr.run import RunFolder


def known_data(info: Mapping[str, Any], where: Path) -> Path:
    """The data that a run or experiment notes.

    Raises:
        UsageError: it notes none, or they are there no more.
    """
    noted = info.get("data")
    if not noted or not Path(str(noted)).exists():
        raise UsageError(f"{where} {f'notes the data {noted}, which is not there' if noted else 'notes no data'}; give DATA.")
    return Path(str(noted))


def write_report(
    path: Path,
    runs: Sequence[Path],
    data: Path,
    split: str,
    rows: Sequence[Score],
    title: str,
    command: str,
    notes: Sequence[str] = (),
    grids: Sequence[html.Grid] = (),
    reading: Reading | None = None,
    figures: Iterable[Predicted] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    device: str = "auto",
    keep: bool = True,
    force: bool = False,
) -> None:
    """Write one self-contained HTML page: words, tables, cases in three planes, learning curves, provenance.

    ``figures`` are predictions that were made elsewhere; None: the cases that the page shows are predicted with ``runs``, on
    ``device``, and kept unless ``keep`` is off, with ``force`` as of `synthmr.predictions.predictions`.
    ``grids`` are further tables.

    Raises:
        DataError: a case cannot be predicted (`synthmr.predictions.predictions`), or the page cannot be written.
        UsageError: the runs cannot be compared.
    """
    folders = [RunFolder.open(run) for run in runs]
    first = folders[0]
    # cells of experiments are all called run: what tells them apart stands further up
    short = [run.resolve().name for run in runs]
    names = dict(zip(runs, short if len(set(short)) == len(short) else ["/".join(run.parts[-3:]) for run in runs], strict=True))
    info = {
        "data": str(data),
        "cases": split,
        "split": to_dict(first.split),
        "runs": {
            names[run]: {key: folder.info.get(key) for key in ("method", "hash", "started", "machine", "result")}
            for run, folder in zip(runs, folders, strict=True)
        },
    }
    if figures is None:
        # a case that is left out has no scores, and was named with them
        how: dict[str, Any] = {
            "cases": html.chosen_cases(rows),
            "device": device,
            "keep": keep,
            "force": force,
            "left_out": LeftOut(),
        }
        figures = predictions(runs, data, split, None, reading, progress, **how)
    cases = (figure_case(predicted, rows) for predicted in figures)
    records = {folder.config.method: folder.records() for folder in folders}
    logs = {method: found for method, found in records.items() if any("lr" in record for record in found)}
    configs = {names[run]: to_dict(folder.config) for run, folder in zip(runs, folders, strict=True)}
    page = html.ReportData(title, command, rows, cases, config=configs, info=info, logs=logs, notes=notes, grids=grids)
    html.write_report(path, page)


def figure_case(predicted: Predicted, rows: Sequence[Score]) -> FigureCase:
    """One case as the report shows it, on the unit scale: truth and sources by their own normalisers, predictions by their runs."""
    prepared, target = predicted.prepared, predicted.target
    params = prepared.normalizers
    scores: dict[str, dict[str, float]] = {}
    for row in main_scores(rows):
        if (row.case, row.contrast, row.protocol) == (prepared.name, target, "masked-volume"):
            scores.setdefault(row.method, {})[row.metric] = row.value
    return FigureCase(
        name=prepared.name,
        target=target,
        spacing=prepared.spacing,
        sources={name: to_unit(image, params[name]) for name, image in prepared.images.items() if name != target},
        truth=to_unit(prepared.images[target], params[target]),
        predictions=dict(predicted.images),
        mask=prepared.mask,
        units="share of the range",
        scores=scores,
        segmentation=prepared.segmentation,
    )
