"""Score runs and files, compare methods, write the page."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthmr.config import to_dict
from synthmr.errors import DataError
from synthmr.labels import AUTO
from synthmr.reading import Reading

if TYPE_CHECKING:
    from synthmr.evaluate.scores import Score, ScoreResult
    from synthmr.labels import Convention, Meaning
    from synthmr.pipeline.ticks import Tick
    from synthmr.predict.settings import PredictSettings
    from synthmr.predictions import Predicted


def evaluate(
    runs: Sequence[Path],
    data: Path,
    split: str = "test",
    protocols: Sequence[str] = (),
    settings: PredictSettings | None = None,
    reading: Reading | None = None,
    progress: Tick | None = None,
    metrics: Sequence[str] = (),
    regions: bool = False,
    inputs: Sequence[str] = (),
    tissue: str = "",
    each: Callable[[Predicted], None] | None = None,
    device: str = "auto",
    keep: bool = True,
    cases: Collection[str] | None = None,
    strict: bool = False,
    labels: str | Path | Convention | Meaning = AUTO,
    force: bool = False,
) -> ScoreResult:
    """Predict and score: the scores, with what was left out and what the linter says. A bad case costs itself alone.

    Args:
        runs: folders; the first one's split is used.
        data: the cohort.
        split: which part of it.
        protocols: names, YAML files, or ``all``; none: masked-volume.
        settings: how to predict.
        reading: how the folder is read.
        progress: is told of every case.
        metrics: others than the protocols' own.
        regions: score lesion, tissue and boundary apart too, with slice consistency and false lesions (first protocol).
        inputs: contrasts that the runs are given; none: all of their sources.
        tissue: with ``regions``, where a case's tissue labels are: a file name with ``{case}`` in it, in the data's folder.
        each: is given every prediction once it is scored.
        device: that computes: auto, cpu, cuda, cuda:N or mps.
        keep: keep predictions for the next time, and take those that are kept.
        cases: names of those cases of the part that are scored; None: all.
        strict: a case that cannot be scored is a DataError.
        labels: what the numbers of segmentations mean: a name of `synthmr.labels.conventions`, your own YAML file, or auto: what
            names and labels of all cases that are scored tell.
        force: score cases too whose images are certainly not what a run was trained on.

    Returns:
        The scores. A case that lacks the truth or an input is named in ``skipped``, one that cannot be read in ``failed``, too.

    Raises:
        UsageError: unknown protocol, metric, split, device or label convention, or inputs that a run cannot do with.
        DataError: there is no case, or none could be scored; labels are not of the convention that is named.
    """
    from dataclasses import replace

    from synthmr.evaluate.apply import needs_meaning
    from synthmr.evaluate.protocols import get_protocols
    from synthmr.evaluate.scores import join
    from synthmr.predict.precision import resolve_device
    from synthmr.predictions import LeftOut, predictions, tissue_labels

    resolve_device(device)
    chosen = get_protocols(protocols)
    if metrics:  # here, so that a mistyped name is told before anything is predicted
        chosen = [replace(protocol, metrics=tuple(metrics)) for protocol in chosen]
    results = []
    left = LeftOut()
    how: dict[str, Any] = {"device": device, "keep": keep, "force": force, "cases": cases, "left_out": None if strict else left}
    how |= {"labels": labels, "labelled": needs_meaning(chosen, regions)}
    for predicted in predictions(runs, data, split, settings, reading, progress, inputs, **how):
        tissues = tissue_labels(data, tissue, predicted.prepared) if tissue and regions else None
        results.append(predicted.scores(chosen, regions, tissues))
        if each is not None:
            each(predicted)
    found = join(results)
    found = replace(found, skipped=[*found.skipped, *left.lacking, *left.failed], failed=left.failed)
    if not found.rows:
        raise DataError(f"nothing could be scored: {'; '.join(list(dict.fromkeys(found.skipped))[:3]).rstrip('.')}.")
    return found


def score(
    predictions: Path,
    truths: Path | None = None,
    mask: Path | None = None,
    segmentation: Path | None = None,
    protocols: Sequence[str] = (),
    metrics: Sequence[str] = (),
    regions: bool = False,
    progress: Tick | None = None,
    tissue: Path | None = None,
    method: str = "",
    as_written: bool = False,
    reading: Reading | None = None,
    labels: str = AUTO,
) -> ScoreResult:
    """Score NIfTI files from whatever tool: a file, a folder, or the pairs of a table.

    Arguments and errors of `evaluate.pairs.score_pairs`; mask, segmentation and tissue may hold ``{case}``.
    """
    from synthmr.evaluate.pairs import Given, score_pairs
    from synthmr.evaluate.protocols import get_protocols

    given = Given(mask, segmentation, tissue, method, as_written, reading or Reading(), labels)
    return score_pairs(predictions, truths, get_protocols(protocols), given, metrics, regions, progress)


def compare(
    rows: Sequence[Score], reference: str = "", metrics: Sequence[str] = (), regions: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Paired tests of every method against the reference; arguments and errors of `evaluate.statistics.compare_tables`."""
    from synthmr.evaluate.statistics import compare_tables

    return compare_tables(rows, reference, metrics, regions)


def protocols(name: str = "") -> list[dict[str, Any]]:
    """The protocols in the box, or one, as plain data."""
    from synthmr.evaluate.protocols import PROTOCOLS, get_protocol

    return [to_dict(protocol) for protocol in ([get_protocol(name)] if name else PROTOCOLS.values())]


def report(
    runs: Sequence[Path],
    path: Path,
    data: Path | None = None,
    split: str = "test",
    protocols: Sequence[str] = (),
    title: str = "",
    command: str = "",
    reading: Reading | None = None,
    progress: Tick | None = None,
    device: str = "auto",
    keep: bool = True,
    labels: str | Path = AUTO,
    force: bool = False,
) -> Path:
    """Score runs and write one self-contained page about them; of many cases, those that it shows are predicted again.

    Args:
        runs: folders; the first one's method is the one that cases are ordered by.
        path: of the page.
        data: the cohort; None: where the first run says it was trained on.
        title: heading; empty: methods and target.
        command: that made the page.
        split, protocols, reading, progress, device, keep, labels, force: as `evaluate` takes them.

    Raises:
        UsageError: no data are known, or the runs cannot be compared.
        DataError: what `evaluate` raises, or the page cannot be written.
    """
    from synthmr.evaluate.lint import lint_lines
    from synthmr.evaluate.scores import label_lines
    from synthmr.predictions import Kept
    from synthmr.report.html import MOST_CASES
    from synthmr.report.run_page import known_data, write_report
    from synthmr.run import RunFolder

    folders = [RunFolder.open(run) for run in runs]
    data = data if data is not None else known_data(folders[0].info, runs[0])
    kept = Kept(MOST_CASES)
    how: dict[str, Any] = {"device": device, "keep": keep, "force": force}
    found = evaluate(runs, data, split, protocols, None, reading, progress, each=kept.add, labels=labels, **how)
    rows = found.rows
    methods = ", ".join(dict.fromkeys(folder.config.method for folder in folders))
    title = title or f"{methods}: {', '.join(folders[0].config.sources)} to {', '.join(folders[0].config.targets)}"
    notes = [*dict.fromkeys(f"Left out: {line}" for line in found.skipped), *lint_lines(found.warnings)]
    notes += [f"Segmentations: {line}." for line in label_lines(found.labels)]
    if len(folders) > 1:
        notes += [row["text"] for row in compare(rows)]
    words: dict[str, Any] = {"reading": reading, "progress": progress, **how}
    write_report(path, runs, data, split, rows, title, command, notes, figures=kept.all, **words)
    return path
