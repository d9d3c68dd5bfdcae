"""An outcome as a table: the paper's numbers beside ours, what differs, and whether its claims held."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from synthmr.evaluate.protocols import get_protocol
from synthmr.evaluate.registry import direction, format_score
from synthmr.evaluate.scores import main_scores, mean_sd
from synthmr.evaluate.segmentation import PROTOCOL as REGIONS_PROTOCOL
from synthmr.evaluate.statistics import ALPHA, compare, holm, named, p_text, subject_values
from synthmr.experiment.runner import SCALES, Outcome
from synthmr.experiment.spec import PAPERS, Claim, Experiment, Row

#: verdicts on a claim
HELD, LEANING, LEVEL, AGAINST, REVERSED, UNKNOWN = WORDS = (
    "held",
    "right order, not significant",
    "no difference",
    "wrong order, not significant",
    "the reverse held",
    "not tested",
)

#: a claim is not called held or reversed on fewer subjects, whatever p
FEWEST = 4


@dataclass(frozen=True)
class Verdict:
    """What became of a claim in one group.

    Attributes:
        claim: the claim.
        group: heading of its rows.
        against: the row that the better one was compared with.
        difference: mean over subjects of better - worse, in the metric's unit; NaN where it could not be had.
        p: of the paired t-test, two-sided, Holm-corrected over the experiment's comparisons; NaN: no test was possible.
        subjects: how many.
        verdict: one of the words above.
        note: why a number is missing.
    """

    claim: Claim
    group: str
    against: str
    difference: float
    p: float
    subjects: int
    verdict: str
    note: str = ""


def values(outcome: Outcome, key: tuple[str, str], metric: str, protocol: str = "") -> dict[str, float]:
    """Subject -> score of a row; empty where it has none."""
    wanted = REGIONS_PROTOCOL if _of_regions(metric) else protocol
    name = wanted or get_protocol(outcome.experiment.protocol).name
    rows = main_scores((row for row in outcome.scores.get(key, ()) if row.protocol == name), metric)
    found = subject_values(rows)
    return next(iter(found.values()), {})


def _of_regions(metric: str) -> bool:
    """Whether a metric is of a tumour segmentation."""
    return metric.split("_")[0] in ("dice", "assd", "hd95")


def verdicts(outcome: Outcome) -> list[Verdict]:
    """Every claim, in every group that has its rows, against every row that it names."""
    found: list[Verdict] = []
    experiment = outcome.experiment
    for claim in experiment.claims:
        for worse in claim.worse:
            there = [
                group
                for group in ([claim.group] if claim.group else experiment.groups)
                if experiment.row(group, claim.better) and experiment.row(group, worse)
            ]
            found += [_verdict(outcome, claim, group, worse) for group in there]
            if not there:
                found.append(Verdict(claim, claim.group, worse, math.nan, math.nan, 0, UNKNOWN, "no group has both rows"))
    adjusted = holm(each.p for each in found)
    return [_worded(each, p) for each, p in zip(found, adjusted, strict=True)]


def _verdict(outcome: Outcome, claim: Claim, group: str, worse: str) -> Verdict:
    sides = [values(outcome, (group, name), claim.metric) for name in (claim.better, worse)]
    empty = [name for name, side in zip((claim.better, worse), sides, strict=True) if not side]
    if empty:
        return Verdict(claim, group, worse, math.nan, math.nan, 0, UNKNOWN, f"no scores of {', '.join(empty)} here")
    result = compare(sides[0], sides[1], bool(direction(claim.metric)), samples=0)
    note = named(result.note, claim.better, worse)
    return Verdict(claim, group, worse, result.mean_difference, result.t_p, result.n, result.better, note)


def _worded(found: Verdict, p: float) -> Verdict:
    """A verdict with its corrected p and in words; ``verdict`` holds who is better until then."""
    sure = p < ALPHA and found.subjects >= FEWEST
    words = {"a": HELD if sure else LEANING, "b": REVERSED if sure else AGAINST, "tie": LEVEL}
    # without a p there was no test: one subject, a score that is infinite, differences without spread
    word = UNKNOWN if math.isnan(p) else words.get(found.verdict, UNKNOWN)
    return replace(found, p=p, verdict=word)


def table(outcome: Outcome) -> list[dict[str, str]]:
    """A dict a row: group (where there are any), row, then for each metric the paper's number and ours, and what is missing."""
    experiment = outcome.experiment
    reasons = {each.row.key: each.reason for each in outcome.planned}
    extra = "masked-volume psnr" if any(row.contrast != "segmentation" for r in outcome.scores.values() for row in r) else ""
    lines = []
    for row in experiment.rows:
        line = {"group": row.group} if any(experiment.groups) else {}
        line["row"] = row.name
        for metric in experiment.metrics:
            paper = row.paper.get(metric)
            line[f"{metric}, paper"] = "" if paper is None else _printed(metric, *paper)
            line[f"{metric}, here"] = _ours(values(outcome, row.key, metric), metric)
        if extra and experiment.protocol != "masked-volume":
            line[extra] = _ours(values(outcome, row.key, "psnr", "masked-volume"), "psnr")
        if len(_subject_sets(outcome)) > 1:
            line["subjects"] = str(max((len(values(outcome, row.key, metric)) for metric in experiment.metrics), default=0) or "")
        reason = outcome.failed.get(row.key) or reasons.get(row.key, row.missing or "not asked for")
        line["note"] = f"not run: {reason}" if reason else _gaps(outcome, row)
        lines.append(line)
    return lines


def _gaps(outcome: Outcome, row: Row) -> str:
    """Why a row that was run lacks a metric; empty where it has all."""
    experiment = outcome.experiment
    lacking = [metric for metric in experiment.metrics if not values(outcome, row.key, metric)]
    if row.missing or not lacking:
        return ""
    protocol = get_protocol(experiment.protocol)
    if all(map(_of_regions, lacking)):
        why = "the method gives no segmentation, or the data bring none"
    elif protocol.needs_segmentation or protocol.rescales:
        why = f"protocol {protocol.name} could not be applied (no lesion label, or nothing to rescale by)"
    else:
        why = f"protocol {protocol.name} does not give it"
    return f"no {', '.join(lacking)}: {why}"


def _subject_sets(outcome: Outcome) -> set[frozenset[str]]:
    """The sets of subjects that rows were scored on; one where all rows compare."""
    found = (
        frozenset(name for metric in outcome.experiment.metrics for name in values(outcome, key, metric)) for key in outcome.scores
    )
    return {names for names in found if names}


def _printed(metric: str, mean: float, sd: float | None) -> str:
    return format_score(metric, mean, math.nan if sd is None else sd)


def _ours(found: Mapping[str, float], metric: str) -> str:
    return format_score(metric, *mean_sd(list(found.values()))) if found else ""


def differences(outcome: Outcome) -> list[str]:
    """What is not as in the paper, a sentence each."""
    experiment, options = outcome.experiment, outcome.options
    sets = _subject_sets(outcome)
    counts = sorted({len(names) for names in sets})
    subjects = " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1]))) if counts else "0"
    how = f"{options.folds} folds, every subject tested once" if options.folds else f"scored on the {options.part} part"
    lines = [
        f"Data: {outcome.data}; the paper: {experiment.data}.",
        f"Subjects scored: {subjects} ({how}).",
        f"Training: {_training(outcome)}; the paper: {experiment.training or 'not said'}. Seed {options.seed}.",
    ]
    if len(sets) > 1:
        lines.append("Rows were scored on different subjects, so means do not compare; claims are tested on those in common.")
    caution = {
        "held-out": "Held-out subjects are validation and test subjects; the best weights were chosen on the former.",
        "validation": "The best weights were chosen on the subjects that are scored.",
        "train": "The methods were trained on the subjects that are scored.",
        "all": "The methods were trained on most of the subjects that are scored.",
    }.get(options.part, "")
    lines += [caution] if caution and not options.folds else []
    lines += [f"The table's {old} is {new} here." for old, new in options.substitute.items()]
    return [*lines, *experiment.notes]


def _training(outcome: Outcome) -> str:
    options = outcome.options
    if options.minutes is None and options.steps is None:
        return SCALES[options.scale].words
    preset = SCALES[options.scale].preset
    return (
        f"preset {preset}, "
        + (f"{options.minutes:g} minutes" if options.minutes is not None else f"{options.steps} steps")
        + " a cell"
    )


def claim_table(outcome: Outcome) -> list[dict[str, str]]:
    """A dict a claim and comparison."""
    lines = []
    for each in verdicts(outcome):
        claim = each.claim
        paper = {True: "yes", False: "no", None: "not known"}[claim.paper]
        gap = "" if math.isnan(each.difference) else f"{each.difference:+.4g}"
        line = {"claim": claim.says, "comparison": f"{claim.better} over {each.against}", "metric": claim.metric}
        line |= {"group": each.group} if any(outcome.experiment.groups) else {}
        line |= {"paper's numbers": paper, "difference here": gap, "subjects": str(each.subjects)}
        line |= {"p (Holm)": p_text(each.p), "here": each.verdict, "note": each.note}
        lines.append(line)
    return lines


def summary(outcome: Outcome) -> str:
    """One sentence on the claims."""
    found = verdicts(outcome)
    if not found:
        return "The paper states no order here."
    counts = {word: sum(each.verdict == word for each in found) for word in WORDS}
    words = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    few = max(each.subjects for each in found)
    caution = f" With {few} subjects a test can show large differences alone." if 0 < few < 10 else ""
    count = "1 comparison" if len(found) == 1 else f"{len(found)} comparisons"
    return f"{count}: {words}.{caution}"


def protocol_words(experiment: Experiment) -> str:
    """The protocol in words."""
    protocol = get_protocol(experiment.protocol)
    return f"Protocol {protocol.name} ({protocol.source}). {protocol.words}"


def markdown(outcome: Outcome, command: str = "") -> str:
    """The whole outcome as Markdown."""
    experiment = outcome.experiment
    parts = [f"# {PAPERS[experiment.paper]}, {experiment.item}: {experiment.title}", experiment.about]
    parts += [f"    {command}"] if command else []
    parts += [protocol_words(experiment), "What differs from the paper:", "\n".join(f"- {line}" for line in differences(outcome))]
    parts += [_grid(table(outcome)), "Mean +- standard deviation over subjects."]
    claims = claim_table(outcome)
    if claims:
        parts += ["## Claims", _grid(claims), "Paired t-test over subjects, two-sided, Holm-corrected. " + summary(outcome)]
    return "\n\n".join(part for part in parts if part) + "\n"


def filled(lines: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Rows without the columns that are empty throughout."""
    heads = [head for head in lines[0] if any(line[head] for line in lines)] if lines else []
    return [{head: line[head] for head in heads} for line in lines]


def paper_table(experiment: Experiment) -> list[dict[str, str]]:
    """A dict a row: the paper's numbers, and what the row runs."""
    lines = []
    for row in experiment.rows:
        line = {"group": row.group, "row": row.name}
        line |= {metric: _printed(metric, *row.paper[metric]) if metric in row.paper else "" for metric in experiment.metrics}
        inputs = f" from {', '.join(row.inputs)}" if row.inputs else ""
        inputs += f", {row.extend} added afterwards" if row.extend else ""
        line["runs"] = (
            f"not run: {row.missing}" if row.missing else f"{row.method} {', '.join(row.sources)} -> {row.scored}{inputs}"
        )
        line["set"] = " ".join(row.settings)
        lines.append(line)
    return filled(lines)


def _grid(lines: Sequence[Mapping[str, str]]) -> str:
    """Rows as a Markdown table."""
    lines = filled(lines)
    heads = list(lines[0])
    text = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for line in lines:
        cells = (line[head].replace("|", "\\|").replace("*", "\\*").replace("\n", " ") for head in heads)
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join(text)


def as_data(outcome: Outcome) -> dict[str, Any]:
    """The outcome as plain data."""
    experiment = outcome.experiment
    rows = []
    for row, line in zip(experiment.rows, table(outcome), strict=True):
        found = {metric: values(outcome, row.key, metric) for metric in experiment.metrics}
        ours = {metric: list(mean_sd(list(each.values()))) for metric, each in found.items() if each}
        paper = {metric: list(number) for metric, number in row.paper.items()}
        count = max((len(each) for each in found.values()), default=0)
        rows.append({"group": row.group, "row": row.name, "paper": paper, "here": ours, "subjects": count, "note": line["note"]})
    claims: list[dict[str, Any]] = [
        {
            "claim": each.claim.says,
            "group": each.group,
            "better": each.claim.better,
            "worse": each.against,
            "metric": each.claim.metric,
            "paper": each.claim.paper,
            "difference": each.difference,
            "p": each.p,
            "subjects": each.subjects,
            "verdict": each.verdict,
            "note": each.note,
        }
        for each in verdicts(outcome)
    ]
    head = {"experiment": experiment.name, "item": experiment.item, "title": experiment.title, "protocol": experiment.protocol}
    return {**head, "differs": differences(outcome), "rows": rows, "claims": claims, "summary": summary(outcome)}


def write(outcome: Outcome, out: Path, command: str = "") -> Path:
    """Write table.md and table.json into a folder; the path of the former."""
    from synthmr.io.files import finite, write_json, write_text

    write_text(out / "table.md", markdown(outcome, command))
    write_json(out / "table.json", finite(as_data(outcome)))
    return out / "table.md"
