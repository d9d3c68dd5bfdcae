"""The report's numbers and sentences: tables from metric rows, and what they say in words. Plain data, no HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from synthmr.evaluate.protocols import PROTOCOLS
from synthmr.evaluate.registry import ARROWS, direction, get
from synthmr.evaluate.scores import Score, main_scores, own_region, summarise
from synthmr.evaluate.statistics import bootstrap_interval, subject_values

Rows = Sequence[Score]

#: methods that every other one is compared with, the strongest first
BASELINES = ("linear", "copy")

#: fewer subjects than this get a word of caution
FEW_SUBJECTS = 10

#: fewer subjects than this get no interval: two cannot show how much others would differ
FEWEST_FOR_INTERVAL = 3


@dataclass(frozen=True)
class Column:
    """A metric's column head."""

    metric: str
    title: str
    arrow: str
    direction: str


@dataclass(frozen=True)
class Cell:
    """One number as printed; ``best`` of its column; the 95 % interval of a mean, empty where there is none."""

    text: str
    best: bool = False
    interval: str = ""


@dataclass(frozen=True)
class Line:
    """One table line: method, cells; in the table of subjects also the case (empty: same as above) and its line count."""

    method: str
    cells: tuple[Cell, ...]
    case: str = ""
    span: int = 0


@dataclass(frozen=True)
class Table:
    """Scores of one contrast under one protocol, in the protocol's region or in another, which is then named."""

    contrast: str
    protocol: str
    explanation: str
    subjects: int
    columns: tuple[Column, ...]
    means: tuple[Line, ...]
    cases: tuple[Line, ...]
    region: str = ""

    @property
    def structure(self) -> bool:
        """Whether a column holds errors that were computed after a fit to the truth."""
        return any(get(head.metric).optimistic for head in self.columns)

    @property
    def intervals(self) -> bool:
        """Whether any mean has an interval."""
        return any(cell.interval for line in self.means for cell in line.cells)


def number(metric: str, value: float, sd: float = math.nan) -> str:
    """A score as printed in a table: no unit, real minus and plus-minus signs, ``∞``, ``n/a`` for NaN."""
    if math.isnan(value):
        return "n/a"
    text = get(metric).text(value, sd, unit=False).replace(" +- ", " ± ").replace("inf", "∞")
    return text.replace("-", "−")


def short(value: float) -> str:
    """Three significant digits, without an exponent below a million."""
    return f"{float(f'{value:.3g}'):g}".replace("-", "−")


def column(metric: str) -> Column:
    """Title with unit and the direction in which a metric is better."""
    known = get(metric)
    title = known.title or metric.replace("_", " ")
    return Column(metric, f"{title} ({known.unit})" if known.unit else title, *ARROWS[known.better])


def tables(rows: Rows) -> list[Table]:
    """One table for each contrast, protocol and region, in order of first appearance."""
    found = []
    parts: dict[tuple[str, str, str], list[Score]] = {}
    for row in rows:
        parts.setdefault((row.contrast, row.protocol, row.region), []).append(row)
    for (contrast, protocol, region), own in parts.items():
        mine = summarise(own)
        metrics = tuple(dict.fromkeys(row["metric"] for row in mine))
        known = PROTOCOLS.get(protocol)
        subjects = len({row.subject for row in own})
        heads = tuple(column(metric) for metric in metrics)
        words = known.words if known and region in known.regions else ""
        means, cases = _means(mine, own, metrics), _cases(own, metrics)
        found.append(
            Table(contrast, protocol, words, subjects, heads, means, cases, "" if region == own_region(protocol) else region)
        )
    return found


def _means(summary: Sequence[Mapping[str, Any]], rows: Rows, metrics: Sequence[str]) -> tuple[Line, ...]:
    """A line for each method; the best mean of each metric is marked where there are methods to compare."""
    methods = list(dict.fromkeys(row["method"] for row in summary))
    found = {(row["method"], row["metric"]): row for row in summary}
    best = {}
    for metric in metrics:
        higher = direction(metric)
        values = [row["mean"] for row in summary if row["metric"] == metric and not math.isnan(row["mean"])]
        if len(set(values)) > 1 and higher is not None:
            best[metric] = max(values) if higher else min(values)
    lines = []
    for method in methods:
        own = [found.get((method, metric)) for metric in metrics]
        cells = [Cell("n/a") if row is None else _mean_cell(row, best, rows) for row in own]
        lines.append(Line(method, tuple(cells)))
    return tuple(lines)


def _mean_cell(row: Mapping[str, Any], best: Mapping[str, float], rows: Rows) -> Cell:
    metric = row["metric"]
    own = [each for each in rows if (each.method, each.metric) == (row["method"], metric)]
    values = list(subject_values(own)[row["method"]].values())
    return Cell(number(metric, row["mean"], row["sd"]), best.get(metric) == row["mean"], _interval(metric, values))


def _interval(metric: str, values: Sequence[float]) -> str:
    """``15.10 to 16.20``: the 95 % bootstrap interval of the mean over subjects; empty where it means nothing."""
    if len(values) < FEWEST_FOR_INTERVAL or not all(map(math.isfinite, values)):
        return ""
    return " to ".join(number(metric, end) for end in bootstrap_interval(values))


def _cases(rows: Rows, metrics: Sequence[str]) -> tuple[Line, ...]:
    """A line for each case and method."""
    values = {(row.case, row.method, row.metric): row.value for row in rows}
    lines = []
    for case in dict.fromkeys(row.case for row in rows):
        methods = list(dict.fromkeys(row.method for row in rows if row.case == case))
        for i, method in enumerate(methods):
            cells = tuple(Cell(number(metric, values.get((case, method, metric), math.nan))) for metric in metrics)
            lines.append(Line(method, cells, case if i == 0 else "", len(methods) if i == 0 else 0))
    return tuple(lines)


def main_protocol(rows: Rows, contrast: str) -> str:
    """The protocol by which methods and cases of a contrast are ranked: masked-volume, else the first with a PSNR, else any."""
    own = [row for row in rows if row.contrast == contrast]
    named = list(dict.fromkeys(row.protocol for row in main_scores(own, "psnr"))) or [own[0].protocol]
    return "masked-volume" if "masked-volume" in named else named[0]


def _count(n: int, word: str) -> str:
    return f"{n} {word}" + ("" if n == 1 else "s")


def summary_words(rows: Rows) -> list[str]:
    """Sentences that say which method is best, by how much, on how many subjects, under which protocol."""
    sentences: list[str] = []
    for contrast in dict.fromkeys(row.contrast for row in rows):
        if not any(row.contrast == contrast for row in main_scores(rows, "psnr")):
            sentences.append(f"{contrast}: no PSNR was computed, so the methods are not ranked; see the table.")
            continue
        sentences += _ranking(rows, contrast, main_protocol(rows, contrast))
    return sentences


def _ranking(rows: Rows, contrast: str, protocol: str) -> list[str]:
    """The sentences of one contrast."""
    own = [row for row in main_scores(rows, "psnr") if (row.contrast, row.protocol) == (contrast, protocol)]
    summary = [row for row in summarise(own) if not math.isnan(row["mean"])]
    if not summary:
        return [f"{contrast}: no PSNR is defined, so the methods are not ranked; see the table."]
    ranked = sorted(summary, key=lambda row: -row["mean"])
    best, n = ranked[0], ranked[0]["subjects"]
    spread = "" if math.isnan(best["sd"]) else f"mean ± standard deviation over {_count(n, 'test subject')}, "
    where = f"({spread or _count(n, 'test subject') + ', '}protocol {protocol})"
    score = f"{number('psnr', best['mean'], best['sd'])} dB"
    if len(ranked) == 1:
        words = [f"{best['method']} predicts {contrast} with a PSNR of {score} {where}; it is the only method scored."]
    else:
        words = [f"{best['method']} predicts {contrast} best of {len(ranked)} methods: PSNR {score} {where}."]
    if best["method"] in BASELINES:
        others = [row for row in ranked[1:] if row["method"] not in BASELINES]
        words += [f"No trained method beats this baseline: {_versus(own, others[0], best)}."] if others else []
    else:
        against = [row for name in BASELINES for row in ranked[1:] if row["method"] == name] or ranked[1:2]
        words += [f"That is {' and '.join(_versus(own, best, row) for row in against)}."] if against else []
    if n < FEW_SUBJECTS and len(ranked) > 1:
        words.append(f"{_count(n, 'subject').capitalize()} cannot show small differences between methods: read margins with care.")
    return words


def _versus(rows: Rows, one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """``1.52 dB above linear (better in 2 of 2 subjects)``."""
    gap = one["mean"] - other["mean"]
    if math.isnan(gap):  # infinite against infinite
        gap = 0.0
    size = "∞" if math.isinf(gap) else f"{abs(gap):.2f}"
    scores = subject_values(rows)
    mine, theirs = scores[one["method"]], scores[other["method"]]
    common = mine.keys() & theirs.keys()
    wins = sum(mine[subject] > theirs[subject] for subject in common)
    side = "level with" if size == "0.00" else f"{size} dB {'above' if gap > 0 else 'below'}"
    text = f"{side} {other['method']} (better in {wins} of {_count(len(common), 'subject')})"
    return f"{one['method']} is {text}" if one["method"] not in BASELINES and other["method"] in BASELINES and gap <= 0 else text
