"""The papers' tables: the best mean in bold, an asterisk on what differs from it. As data, and as markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from synthmr.errors import UsageError
from synthmr.evaluate.registry import ARROWS, direction, format_score, get
from synthmr.evaluate.scores import Score, mean_sd, own_region
from synthmr.evaluate.statistics import (
    ALPHA,
    SAMPLES,
    TESTS,
    Rows,
    Test,
    best_methods,
    bootstrap_interval,
    check_units,
    compare,
    holm,
    named,
    plain,
    subject_values,
)


def marked_table(
    rows: Rows,
    *,
    test: Test = "t",
    alpha: float = ALPHA,
    higher_is_better: Mapping[str, bool] | None = None,
    samples: int = SAMPLES,
) -> list[dict[str, Any]]:
    """Means with the papers' marks: the best, and an asterisk on what differs from it.

    Each contrast, protocol, region and metric is a family of its own: its best method against each other one, Holm-corrected.

    Args:
        rows: scores.
        test: the test that sets the asterisk; the papers use the paired t-test.
        alpha: limit of the corrected p.
        higher_is_better: metric -> direction, for metrics that synthmr does not know.
        samples: of the bootstrap.

    Returns:
        A row for each contrast, protocol, region, method and metric, in order of first appearance: those five, subjects
        (how many), mean, sd, low, high (95 % interval of the mean), best, significant (worse than the best, corrected
        p < alpha), p (corrected; NaN for the best itself), test, alpha, text (no marks), note.

    Raises:
        UsageError: another test, or alpha outside (0, 1).
    """
    if test not in TESTS or not 0 < alpha < 1:
        raise UsageError(f"test={test!r}, alpha={alpha}: tests are {', '.join(TESTS)}; alpha lies between 0 and 1.")
    groups: dict[tuple[str, str, str, str], list[Score]] = {}
    for row in rows:
        groups.setdefault((row.contrast, row.protocol, row.region, row.metric), []).append(row)
    table: list[dict[str, Any]] = []
    for (contrast, protocol, region, metric), mine in groups.items():
        values = subject_values(mine)
        higher = (higher_is_better or {}).get(metric, direction(metric))
        best = [] if higher is None or len(values) < 2 else best_methods(values, higher)
        best = [] if len(best) == len(values) else best  # all level: there is no best
        found = {
            method: compare(values[method], values[best[0]], bool(higher), samples=0)
            for method in values
            if best and method != best[0]
        }
        adjusted = dict(zip(found, holm(r.t_p if test == "t" else r.wilcoxon_p for r in found.values()), strict=True))
        units = " ".join(check_units(mine))
        for method, scores in values.items():
            notes = [f"Whether a higher {metric} is better is not known, so nothing is marked."] if higher is None else []
            if method in found:
                notes += [named(found[method].note, method, best[0]), found[method].wilcoxon_note if test == "wilcoxon" else ""]
            p = adjusted.get(method, math.nan)
            mean, sd = mean_sd(list(scores.values()))
            low, high = bootstrap_interval(list(scores.values()), samples=samples)
            line: dict[str, Any] = {"contrast": contrast, "protocol": protocol, "region": region, "method": method}
            line |= {
                "metric": metric,
                "subjects": len(scores),
                "mean": mean,
                "sd": sd,
                "low": low,
                "high": high,
                "best": method in best,
            }
            worse = method in found and found[method].better == "b" and p < alpha
            line |= {"significant": worse, "p": p, "test": test, "alpha": alpha}
            note = " ".join(part for part in (*notes, units) if part)
            table.append({**line, "text": format_score(metric, mean, sd), "note": note})
    return table


def markdown_table(rows: Rows, metrics: Sequence[str] = ()) -> str:
    """Means with the papers' marks as Markdown: best in bold, an asterisk on what differs from it (corrected p < 0.05)."""
    return to_markdown(marked_table([row for row in rows if not metrics or row.metric in metrics]), intervals=True)


def to_markdown(table: Sequence[Mapping[str, Any]], intervals: bool = False) -> str:
    """The rows of `marked_table` as markdown, a table for each contrast and protocol: methods down, metrics across.

    Bold: the best mean. ``*``: differs from it. A legend and the notes stand below.

    Args:
        table: from `marked_table`.
        intervals: also print the 95 % interval of each mean.
    """
    blocks = []
    for contrast, protocol in dict.fromkeys((row["contrast"], row["protocol"]) for row in table):
        mine = [row for row in table if (row["contrast"], row["protocol"]) == (contrast, protocol)]
        columns = list(dict.fromkeys((row["region"], row["metric"]) for row in mine))
        cells = {(row["method"], row["region"], row["metric"]): _cell(row, intervals) for row in mine}
        lines = [f"{_escape(contrast)}, protocol {_escape(protocol)}", ""]
        lines += [f"| method | {' | '.join(_head(protocol, *each) for each in columns)} |", "|---|" + "---|" * len(columns)]
        for method in dict.fromkeys(row["method"] for row in mine):
            line = " | ".join(cells.get((method, *each), "n/a") for each in columns)
            lines.append(f"| {_escape(method)} | {line} |")
        lines += ["", _legend(mine, intervals)]
        notes: dict[str, list[str]] = {}
        for row in mine:
            if row["note"]:
                notes.setdefault(row["note"], []).append(f"{row['method']} {_name(protocol, row['region'], row['metric'])}")
        lines += [f"- {_escape(', '.join(who))}: {_escape(note)}" for note, who in notes.items()]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _name(protocol: str, region: str, metric: str) -> str:
    """A metric, with its region where that is not the protocol's own."""
    return metric if region == own_region(protocol) else f"{metric} ({region})"


def _head(protocol: str, region: str, metric: str) -> str:
    """Head of a column."""
    return _escape(" ".join(part for part in (_name(protocol, region, metric), ARROWS[get(metric).better][0]) if part))


def _cell(row: Mapping[str, Any], intervals: bool) -> str:
    text = "n/a" if math.isnan(row["mean"]) else row["text"]
    if intervals and not math.isnan(row["low"]):
        text += f" [{plain(row['metric'], row['low'])}, {plain(row['metric'], row['high'])}]"
    return f"**{text}**" if row["best"] else text + (r" \*" if row["significant"] else "")


def _escape(text: str) -> str:
    for mark in ("\\", "|", "*", "_"):
        text = text.replace(mark, "\\" + mark)
    return text


def _legend(rows: Sequence[Mapping[str, Any]], intervals: bool) -> str:
    counts = sorted({row["subjects"] for row in rows})
    n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    words = f"Mean +- sample standard deviation over {n} subject{'' if counts == [1] else 's'}"
    words += ", with its 95 % bootstrap interval. " if intervals else ". "
    if not any(row["best"] for row in rows):
        return words + "Nothing is marked: there is no best method among these."
    return words + (
        f"Bold: best mean. \\*: differs from the best by the {TESTS[rows[0]['test']]}, p < {rows[0]['alpha']:g} "
        "after Holm's correction over the methods of a column."
    )
