"""Every non-empty subset of a run's sources: what each is worth, as a table and a plot (MILR, Table IV).

Experiment B of MILR gives one run, trained with all sources, each subset in turn. Experiment A trains a run a subset; it is the
only one there is for methods that need all of their sources. Both score against the same truth in the same mask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synthmr import pipeline
from synthmr.config import RunConfig
from synthmr.contrasts import SEGMENTATION, subsets_of
from synthmr.errors import DataError, UsageError
from synthmr.evaluate.registry import direction
from synthmr.evaluate.scores import Score, main_scores, renamed, summarise
from synthmr.experiment.cells import Cell, Scoring, Shown, busy_words, cell_name, locked, score_cell, train_cell
from synthmr.labels import AUTO
from synthmr.predictions import meaning_of, select

if TYPE_CHECKING:
    from synthmr.case import Case
    from synthmr.evaluate.protocols import Protocol
    from synthmr.reading import Reading
    from synthmr.run import LoadedRun

#: words of the two ways in the method column
ONE, EACH = "one run", "a run each"


def score_subsets(
    run: Path,
    data: Path,
    out: Path | None,
    *,
    each: bool = False,
    split: str = "test",
    protocol: str = "masked-volume",
    budget: Mapping[str, float] | None = None,
    reading: Reading | None = None,
    cache: Path | None = None,
    show: Shown,
    train_show: Shown,
    say: Callable[[str], None],
    device: str = "auto",
    keep: bool = True,
    labels: str = AUTO,
    force: bool = False,
) -> list[Score]:
    """Score rows of every subset; the method is ``T1w+T2w``, with `EACH` in front for runs of their own.

    Args:
        run: the run folder.
        data: the cohort.
        out: folder for the runs of their own; needed where there are any.
        each: train a run a subset too (for methods that need all sources: in place of one run). The run itself stands for its
            own sources, unless ``budget`` is given.
        split: the part that is scored.
        protocol: of the scores.
        budget: of each training; none: the run's own.
        reading: how the folder is read.
        cache: of prepared data.
        show: progress of scoring.
        train_show: progress of training.
        say: is told what is done.
        device: that predicts: auto, cpu, cuda, cuda:N or mps.
        keep: keep predictions for the next time.
        labels: what segmentations mean, as of `pipeline.evaluate`; decided once for all subsets.
        force: train though the audit finds errors in the data.

    Raises:
        UsageError: runs would have to be trained and were not asked for, there is no folder for them, or a word makes no sense.
        DataError: another process is training one of them, and what the stages raise.
    """
    from synthmr.methods import registry
    from synthmr.predict.precision import resolve_device
    from synthmr.run import load_run

    resolve_device(device)
    loaded = load_run(run)
    config = loaded.config
    method = registry.load(config.method_word)
    spec, any_subset = method.spec, method.traits(config.options).any_subset
    if len(config.sources) < 2:
        raise UsageError(f"{run} has one source ({config.sources[0]}), so there is no subset to score.")
    if not any_subset and not each:
        raise UsageError(
            f"{config.method} needs all of its sources, so each subset needs a run of its own; add --train --out DIR, or use milr."
        )
    if each and out is None:
        raise UsageError("--train writes a run a subset and needs --out DIR.")
    if budget and not each:
        raise UsageError(f"--{next(iter(budget))} is of the runs that --train trains; add --train --out DIR, or leave it out.")
    if budget and not method.trains_in_steps:
        raise UsageError(f"{config.method} is fitted in one go and takes no --{next(iter(budget))}; leave it out.")
    scored = _one_protocol(protocol)
    cohort = pipeline.index(data, reading)
    chosen = select(cohort, loaded.split, split)  # a wrong word is told before anything is trained
    cases = _complete(chosen, (*config.sources, *config.targets), say)
    meaning = meaning_of(chosen, labels, [loaded], cohort.cases) if labels != AUTO or scored.needs_segmentation else None
    if meaning is not None:
        say(f"segmentations: {meaning.why}")
    cells = [Cell(_with(config, names, budget), loaded.split) for names in subsets_of(config.sources, spec.sources[0])]
    rows: list[Score] = []
    if any_subset:
        for names in subsets_of(config.sources):
            if set(config.targets) <= set(names):
                continue  # where a contrast may be source and target: nothing is left to predict
            with show(f"score {'+'.join(names)}") as tick:
                how: dict[str, Any] = {"reading": reading, "progress": tick, "device": device, "keep": keep, "cases": cases}
                how |= {"labels": meaning if meaning is not None else AUTO}
                found = pipeline.evaluate([run], data, split, [protocol], inputs=names, strict=True, **how)
            rows += renamed(found.rows, "+".join(names))
    if not each or out is None:
        return rows
    few = [names for names in subsets_of(config.sources) if len(names) < spec.sources[0]]
    if few:
        say(f"left out, as {config.method} takes {spec.sources[0]} sources or more: {', '.join('+'.join(names) for names in few)}")
    gate = pipeline.Gate(force)
    with show("audit") as tick:
        gate.check(pipeline.index(data, reading), loaded.split, (*config.sources, *config.targets), cache, tick)
    for line in gate.lines:
        say(line)
    words: dict[str, Any] = {"show": show, "train_show": train_show, "reading": reading, "cache": cache, "gate": gate}
    predicts: dict[str, Any] = {"reading": reading, "device": device, "keep": keep, "labels": labels}
    return rows + _run_each(cells, loaded, data, out, Scoring((protocol,), split), words, predicts)


def _complete(cases: Sequence[Case], contrasts: Sequence[str], say: Callable[[str], None]) -> list[str]:
    """Names of the cases that have every contrast: all subsets are scored on the same.

    Raises:
        DataError: there is none.
    """
    missing = {case.name: [name for name in dict.fromkeys(contrasts) if name not in case.images] for case in cases}
    left = [f"{name} (no {', '.join(absent)})" for name, absent in missing.items() if absent]
    if len(left) == len(missing):
        raise DataError(f"no case has all of {', '.join(dict.fromkeys(contrasts))}: {'; '.join(left[:3])}; choose another --split.")
    if left:
        say(f"left out, so that all subsets are of the same cases: {', '.join(left)}")
    return [name for name, absent in missing.items() if not absent]


def _run_each(
    cells: Sequence[Cell],
    loaded: LoadedRun,
    data: Path,
    out: Path,
    scoring: Scoring,
    words: Mapping[str, Any],
    predicts: Mapping[str, Any],
) -> list[Score]:
    """Train and score cells; the run that is there already stands for the one of its own configuration.

    Raises:
        DataError: another process is training one of them.
    """
    rows: list[Score] = []
    busy = ""
    for cell in cells:
        label = "+".join(cell.config.sources)
        folder = out / cell_name(cell)
        with locked(folder) as free:
            if not free:
                busy = busy or f"{label}: {busy_words(folder)}."
                continue
            run = loaded.folder.path
            if cell.config != loaded.config:
                run = train_cell(cell, data, folder, title=label, **words)
            with words["show"](f"score {label}") as tick:
                found = score_cell(run, data, folder, scoring, tick=tick, **predicts)
        rows += renamed(found, f"{EACH}: {label}")
    if busy:
        raise DataError(busy)
    return rows


def _one_protocol(name: str) -> Protocol:
    """The protocol of a word.

    Raises:
        UsageError: it is none, or all of them.
    """
    from synthmr.evaluate.protocols import get_protocols

    first, *others = get_protocols([name])
    if others:
        raise UsageError(f"--protocol {name}: the table of subsets is of one protocol; name one, such as masked-volume.")
    return first


def _with(config: RunConfig, sources: tuple[str, ...], budget: Mapping[str, float] | None) -> RunConfig:
    """The configuration with some of the sources, and another length of training where asked; all of it learns.

    Raises:
        UsageError: a length that is not above 0.
    """
    from synthmr.methods import registry

    changed = replace(config, sources=sources)
    if registry.load(config.method_word).spec.extendable:  # the frozen parts of a run that was extended are learnt here
        changed = replace(changed, options=replace(config.options, frozen=()))
    if budget:
        for key, value in budget.items():
            if not value > 0:
                raise UsageError(f"--{key} {value:g}: give a number above 0.")
        train = replace(config.train, steps=0, epochs=0, minutes=0.0)
        kinds = {entry.name: type(getattr(train, entry.name)) for entry in fields(train)}
        changed = replace(changed, train=replace(train, **{key: kinds[key](value) for key, value in budget.items()}))
    return changed


def main_metric(rows: Sequence[Score]) -> str:
    """PSNR where the rows have it, else their first metric: what the plot and the gains show."""
    metrics = [row.metric for row in rows if row.contrast != SEGMENTATION] or [row.metric for row in rows]
    return "psnr" if "psnr" in metrics else metrics[0]


def table(rows: Sequence[Score]) -> list[dict[str, Any]]:
    """A dict a subset and target: marks of what went in, then mean +- sd of each metric, empty where there is none."""
    summary = summarise(rows)
    methods = dict.fromkeys((row["method"], row["contrast"]) for row in summary)
    names = list(dict.fromkeys(part for method, _ in methods for part in _given(method)))
    # a protocol of several regions has a column for each
    several = len({row["region"] for row in summary if row["contrast"] != SEGMENTATION}) > 1
    summary = [{**row, "head": f"{row['metric']} ({row['region']})" if several else row["metric"]} for row in summary]
    heads = dict.fromkeys(row["head"] for row in summary)
    lines = []
    for method, contrast in methods:
        given = _given(method)
        found = {row["head"]: row for row in summary if (row["method"], row["contrast"]) == (method, contrast)}
        line: dict[str, Any] = {"runs": _way(method), **{name: "x" if name in given else "" for name in names}, "target": contrast}
        line["subjects"] = max(row["subjects"] for row in found.values())
        lines.append(line | {head: found[head]["text"] if head in found else "" for head in heads})
    return lines


def _way(method: str) -> str:
    """`ONE` or `EACH`, from the word in the method column."""
    return method.rpartition(": ")[0] or ONE


def _given(method: str) -> list[str]:
    """The sources that went in."""
    return method.rpartition(": ")[2].split("+")


def gains(rows: Sequence[Score], metric: str = "psnr") -> list[dict[str, Any]]:
    """What adding one source to a subset changes: mean over subjects of the change, and in how many it is for the better."""
    from synthmr.evaluate.statistics import subject_values

    found = []
    rows = main_scores(rows, metric)
    for contrast in dict.fromkeys(row.contrast for row in rows):
        values = subject_values([row for row in rows if row.contrast == contrast])
        for (small, before), (large, after) in product(values.items(), repeat=2):
            added = [name for name in _given(large) if name not in _given(small)]
            kept = set(_given(small)) <= set(_given(large))
            common = [name for name in before if name in after]
            if _way(small) != _way(large) or len(added) != 1 or not kept or not common:
                continue
            with np.errstate(invalid="ignore"):  # both infinite: no change can be told, and nan says so
                changes = np.array([after[name] for name in common]) - np.array([before[name] for name in common])
                change = float(changes.mean())
            better = int(((changes if direction(metric) else -changes) > 0).sum())
            head = {"target": contrast, "runs": _way(small), "to": "+".join(_given(small)), "added": added[0]}
            found.append({**head, f"change of {metric}": f"{change:+.3g}", "better in": f"{better} of {len(common)}"})
    return found


def plot(rows: Sequence[Score], path: Path, metric: str = "psnr") -> None:
    """A point a subject and the mean of every subset, a panel a target, as PNG.

    Raises:
        DataError: it cannot be written, or no row is of the metric.
    """
    from matplotlib.figure import Figure

    from synthmr.evaluate.statistics import subject_values
    from synthmr.io.files import atomic

    rows = main_scores(rows, metric)
    if not rows:
        raise DataError(f"{path} cannot be drawn: there is no {metric} among the scores.")
    targets = list(dict.fromkeys(row.contrast for row in rows))
    figure = Figure(figsize=(6.5 * len(targets), 0.34 * len({row.method for row in rows}) + 1.4), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(targets)))
    for axes, target in zip(panels, targets, strict=True):
        values = subject_values([row for row in rows if row.contrast == target])
        order = list(values)[::-1]
        for place, method in enumerate(order):
            scores = [score for score in values[method].values() if np.isfinite(score)]
            axes.plot(scores, [place] * len(scores), "o", color="0.6", markersize=4)
            if scores:
                axes.plot([np.mean(scores)], [place], "|", color="tab:blue", markersize=16, markeredgewidth=3)
        axes.set_yticks(range(len(order)), order)
        axes.set_title(target, loc="left")
        axes.set_xlabel(f"{metric} ({rows[0].protocol}); a dot is a subject, the bar their mean")
        axes.grid(axis="x", color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
