"""The report's numbers and sentences: tables from metric rows, and what they say in words. Plain data, no HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from synthmr.evaluate.metrics import HIGHER_IS_BETTER
from synthmr.evaluate.protocols import PROTOCOLS
from synthmr.evaluate.table import format_score, subject_of, summarise

Rows = Sequence[Mapping[str, Any]]

#: methods that every other one is compared with, the strongest first
BASELINES = ("linear", "copy")

#: fewer subjects than this get a word of caution
FEW_SUBJECTS = 10

_NAMES = {"psnr": "PSNR", "ssim": "SSIM", "nmse": "NMSE", "nrmse": "NRMSE", "mae": "MAE", "mse": "MSE"}


@dataclass(frozen=True)
class Column:
    """A metric's column head."""

    metric: str
    title: str
    arrow: str
    direction: str


@dataclass(frozen=True)
class Cell:
    """One number as printed; ``best`` of its column."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Line:
    """One table line: method, cells; in the table of subjects also the case (empty: same as above) and its line count."""

    method: str
    cells: tuple[Cell, ...]
    case: str = ""
    span: int = 0


@dataclass(frozen=True)
class Table:
    """Scores of one contrast under one protocol."""

    contrast: str
    protocol: str
    explanation: str
    subjects: int
    columns: tuple[Column, ...]
    means: tuple[Line, ...]
    cases: tuple[Line, ...]


def number(metric: str, value: float, sd: float = math.nan) -> str:
    """A score as printed in a table: no unit, real minus and plus-minus signs, ``∞``, ``n/a`` for NaN."""
    if math.isnan(value):
        return "n/a"
    text = format_score(metric, value, sd).removesuffix(" dB").replace(" +- ", " ± ").replace("inf", "∞")
    return text.replace("-", "−")


def short(value: float) -> str:
    """Three significant digits, without an exponent below a million."""
    return f"{float(f'{value:.3g}'):g}".replace("-", "−")


def column(metric: str) -> Column:
    """Title with unit and the direction in which a metric is better."""
    title = _NAMES.get(metric, metric) + (" (dB)" if metric == "psnr" else "")
    if metric not in HIGHER_IS_BETTER:
        return Column(metric, title, "", "")
    return Column(metric, title, *(("↑", "higher is better") if HIGHER_IS_BETTER[metric] else ("↓", "lower is better")))


def tables(rows: Rows) -> list[Table]:
    """One table for each contrast and protocol, in order of first appearance."""
    summary = summarise(rows)
    found = []
    for contrast, protocol in dict.fromkeys((row["contrast"], row["protocol"]) for row in rows):
        mine = [row for row in summary if (row["contrast"], row["protocol"]) == (contrast, protocol)]
        metrics = tuple(dict.fromkeys(row["metric"] for row in mine))
        own = [row for row in rows if (row["contrast"], row["protocol"]) == (contrast, protocol)]
        known = PROTOCOLS.get(protocol)
        subjects = len({subject_of(str(row["case"])) for row in own})
        heads = tuple(column(metric) for metric in metrics)
        found.append(
            Table(contrast, protocol, known.words if known else "", subjects, heads, _means(mine, metrics), _cases(own, metrics))
        )
    return found


def _means(summary: Rows, metrics: Sequence[str]) -> tuple[Line, ...]:
    """A line for each method; the best mean of each metric is marked where there are methods to compare."""
    methods = list(dict.fromkeys(row["method"] for row in summary))
    found = {(row["method"], row["metric"]): row for row in summary}
    best = {}
    for metric in HIGHER_IS_BETTER:
        values = [row["mean"] for row in summary if row["metric"] == metric and not math.isnan(row["mean"])]
        if len(set(values)) > 1:
            best[metric] = max(values) if HIGHER_IS_BETTER[metric] else min(values)
    lines = []
    for method in methods:
        rows = [found.get((method, metric)) for metric in metrics]
        cells = [Cell("n/a") if row is None else _mean_cell(row, best) for row in rows]
        lines.append(Line(method, tuple(cells)))
    return tuple(lines)


def _mean_cell(row: Mapping[str, Any], best: Mapping[str, float]) -> Cell:
    return Cell(number(row["metric"], row["mean"], row["sd"]), best.get(row["metric"]) == row["mean"])


def _cases(rows: Rows, metrics: Sequence[str]) -> tuple[Line, ...]:
    """A line for each case and method."""
    values = {(row["case"], row["method"], row["metric"]): float(row["value"]) for row in rows}
    lines = []
    for case in dict.fromkeys(row["case"] for row in rows):
        methods = list(dict.fromkeys(row["method"] for row in rows if row["case"] == case))
        for i, method in enumerate(methods):
            cells = tuple(Cell(number(metric, values.get((case, method, metric), math.nan))) for metric in metrics)
            lines.append(Line(method, cells, case if i == 0 else "", len(methods) if i == 0 else 0))
    return tuple(lines)


def _count(n: int, word: str) -> str:
    return f"{n} {word}" + ("" if n == 1 else "s")


def summary_words(rows: Rows) -> list[str]:
    """Sentences that say which method is best, by how much, on how many subjects, under which protocol."""
    sentences: list[str] = []
    for contrast in dict.fromkeys(row["contrast"] for row in rows):
        protocols = list(dict.fromkeys(row["protocol"] for row in rows if row["contrast"] == contrast and row["metric"] == "psnr"))
        if not protocols:
            sentences.append(f"{contrast}: no PSNR was computed, so the methods are not ranked; see the table.")
            continue
        protocol = "masked-volume" if "masked-volume" in protocols else protocols[0]
        sentences += _ranking(rows, contrast, protocol)
    return sentences


def _ranking(rows: Rows, contrast: str, protocol: str) -> list[str]:
    """The sentences of one contrast."""
    own = [row for row in rows if (row["contrast"], row["protocol"], row["metric"]) == (contrast, protocol, "psnr")]
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
    by: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        by.setdefault(subject_of(str(row["case"])), {}).setdefault(row["method"], []).append(float(row["value"]))
    pairs = [
        (each[one["method"]], each[other["method"]]) for each in by.values() if one["method"] in each and other["method"] in each
    ]
    wins = sum(sum(a) / len(a) > sum(b) / len(b) for a, b in pairs)
    side = "level with" if size == "0.00" else f"{size} dB {'above' if gap > 0 else 'below'}"
    text = f"{side} {other['method']} (better in {wins} of {_count(len(pairs), 'subject')})"
    return f"{one['method']} is {text}" if one["method"] not in BASELINES and other["method"] in BASELINES and gap <= 0 else text
