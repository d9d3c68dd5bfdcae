"""Scores: one typed record a number, what was said beside them, the table on disk, and means over subjects for people.

On disk a score is a line of the columns case, subject, method, contrast, protocol, region, metric, value. The region is always
named; tables of versions that left the protocol's own region empty are read as that region.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synthmr.documents import MOST_TABLE, read_text
from synthmr.errors import DataError, MissingExtra, UsageError
from synthmr.evaluate.protocols import PROTOCOLS
from synthmr.evaluate.registry import format_score
from synthmr.io.naming import subject_of

if TYPE_CHECKING:
    from synthmr.evaluate.lint import LintWarning


@dataclass(frozen=True)
class Score:
    """One number.

    Attributes:
        case: what was predicted.
        subject: the person; sessions of one subject are averaged first. Empty when made: whom the case's name says.
        method: who predicted it.
        contrast: of the truth.
        protocol: the scoring convention.
        region: which voxels count: brain, whole, lesion, a tissue, a plane (of scores of its slices), ...
        metric: a name of `synthmr.evaluate.registry`, or another program's.
        value: in the metric's unit.
    """

    case: str
    subject: str
    method: str
    contrast: str
    protocol: str
    region: str
    metric: str
    value: float

    def __post_init__(self) -> None:
        if not self.region or not self.metric or "@" in self.metric:
            raise UsageError(f"a score of metric {self.metric!r} in region {self.region!r}: name both, each in its own place.")
        if not self.subject:
            object.__setattr__(self, "subject", subject_of(self.case))
        object.__setattr__(self, "value", float(self.value))


#: columns of the table on disk
COLUMNS = tuple(entry.name for entry in fields(Score))


@dataclass(frozen=True)
class ScoreResult:
    """What scoring gives: the numbers, and what must be known beside them.

    Attributes:
        rows: the scores.
        warnings: of the linter (`synthmr.evaluate.lint`).
        skipped: what was left out and why, a line each: a protocol for a case, a case, a pair of files.
        labels: how segmentations were read: {"name": of the convention (None where it cannot be known), "why": in words, "parts":
            {part or region: {case: voxels in the brain}}}; None where none was used.
        notes: what else to know about the files.
        failed: the cases or pairs of files among what was left out that should have been scored.
    """

    rows: list[Score]
    warnings: list[LintWarning] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    labels: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def frame(self) -> Any:
        """The scores as a pandas DataFrame with the columns of the table on disk.

        Raises:
            MissingExtra: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise MissingExtra("frame() needs pandas, which is not installed: pip install pandas, or read .rows.") from None
        return pandas.DataFrame([asdict(row) for row in self.rows], columns=list(COLUMNS))

    def as_dict(self) -> dict[str, Any]:
        """Plain data for machines: scores, labels, warnings (notes too, under the code ``note``) and skipped."""
        told = [{"code": "note", "protocol": "", "label": "", "text": note} for note in dict.fromkeys(self.notes)]
        return {
            "scores": score_objects(self.rows),
            "labels": self.labels,
            "warnings": [*(warning.as_dict() for warning in dict.fromkeys(self.warnings)), *told],
            "skipped": list(dict.fromkeys(self.skipped)),
        }


def join(results: Iterable[ScoreResult]) -> ScoreResult:
    """Several results as one, in their order."""
    parts = list(results)
    rows = [row for part in parts for row in part.rows]
    lists = ([each for part in parts for each in getattr(part, name)] for name in ("warnings", "skipped", "notes", "failed"))
    warnings, skipped, notes, failed = lists
    return ScoreResult(rows, warnings, skipped, _joined(part.labels for part in parts), notes, failed)


def _joined(labels: Iterable[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """How the segmentations of several results were read; where a table named several conventions, no name and each one's words."""
    read = [each for each in labels if each is not None]
    if not read:
        return None
    names, whys = (list(dict.fromkeys(each[key] for each in read)) for key in ("name", "why"))
    parts: dict[str, dict[str, int]] = {}
    for each in read:
        for part, sizes in each["parts"].items():
            parts.setdefault(part, {}).update(sizes)
    return {"name": names[0] if len(names) == 1 else None, "why": "; ".join(whys), "parts": parts}


def label_lines(labels: Mapping[str, Any] | None) -> list[str]:
    """How segmentations were read, for people: why, and the voxels of each part over all cases; nothing where none was used."""
    if labels is None:
        return []
    sizes = [f"{part} {sum(found.values()):,}" for part, found in labels["parts"].items()]
    return [f"{labels['why']} (voxels in the brain: {', '.join(sizes) or 'none'})"]


def own_region(protocol: str) -> str:
    """The region that a protocol's numbers are of unless another is named: its first; brain for a protocol that is not known."""
    found = PROTOCOLS.get(protocol)
    return found.regions[0] if found is not None else "brain"


def main_scores(rows: Iterable[Score], metric: str = "") -> list[Score]:
    """The scores of each protocol's own region, of one metric or all; where that is not there, of the first region that is."""
    return [row for row in _own_scores(rows, 1) if metric in ("", row.metric)]


def protocol_scores(rows: Iterable[Score]) -> list[Score]:
    """The scores that a protocol itself asks for, in all of its regions: without those that `--regions` adds."""
    return _own_scores(rows)


def _own_scores(rows: Iterable[Score], most: int | None = None) -> list[Score]:
    """The scores of the first ``most`` regions of each protocol; None: of all of its regions."""
    rows = list(rows)
    there: dict[str, list[str]] = {}
    for row in rows:
        there.setdefault(row.protocol, []).append(row.region)
    own = {name: _present(PROTOCOLS[name].regions[:most] if name in PROTOCOLS else (), regions) for name, regions in there.items()}
    return [row for row in rows if row.region in own[row.protocol]]


def _present(wanted: Sequence[str], there: Sequence[str]) -> list[str]:
    """Those of the wanted regions that are there; else the first that is."""
    return [region for region in wanted if region in there] or [there[0]]


def renamed(rows: Iterable[Score], method: str) -> list[Score]:
    """The scores under another method's name."""
    return [replace(row, method=method) for row in rows]


def score_objects(rows: Iterable[Score]) -> list[dict[str, Any]]:
    """Scores as plain data, keys as the columns on disk."""
    return [asdict(row) for row in rows]


def write_scores(path: Path | str, rows: Iterable[Score]) -> None:
    """Write scores as CSV, atomically; values with all their digits, infinity as ``inf``.

    Raises:
        DataError: it cannot be written.
    """
    from synthmr.io.files import write_text

    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(score_objects(rows))
    write_text(path, text.getvalue())


def read_scores(path: Path | str) -> list[Score]:
    """Inverse of `write_scores`; an empty region is the protocol's own, a missing subject is whom the case's name says.

    Raises:
        DataError: the file cannot be read, or is no table of scores.
    """
    try:
        reader = csv.DictReader(io.StringIO(read_text(path, MOST_TABLE), newline=""))
        columns = tuple(reader.fieldnames or ())
        if columns not in (COLUMNS, tuple(name for name in COLUMNS if name != "subject")):
            raise DataError(f"{path} is no metrics table: its first line must be {','.join(COLUMNS)}.")
        return [_read(row) for row in reader]
    except csv.Error as error:
        raise DataError(f"{path} is damaged ({error}); run `synthmr evaluate` again.") from None
    except (TypeError, ValueError, AttributeError):
        raise DataError(f"{path} is damaged: a value in it is no number; run `synthmr evaluate` again.") from None
    except UsageError as error:
        raise DataError(f"{path} is damaged: {error}") from None


def _read(row: Mapping[str, Any]) -> Score:
    """One line of a table."""
    words = {"subject": "", **row}
    return Score(**{**words, "region": row["region"] or own_region(row["protocol"]), "value": float(row["value"])})


def read_tables(paths: Sequence[Path]) -> list[Score]:
    """Scores of one or more tables of `write_scores`.

    Raises:
        DataError: a table cannot be read, or two hold the same method's score of the same case.
    """
    rows: list[Score] = []
    seen: dict[tuple[str, ...], Path] = {}
    for path in paths:
        mine = read_scores(path)
        for row in mine:
            key = (row.case, row.method, row.contrast, row.protocol, row.region, row.metric)
            if seen.setdefault(key, path) != path:
                raise DataError(
                    f"{path} and {seen[key]} both hold {row.metric} of {row.method} for case {row.case}; rename a method."
                )
        rows += mine
    return rows


def summarise(rows: Iterable[Score]) -> list[dict[str, Any]]:
    """Mean and sample standard deviation (n - 1) over subjects.

    Sessions of one subject are averaged first, so that nobody counts twice.

    Returns:
        A row for each protocol, method, contrast, region and metric, in order of first appearance: those five, ``subjects``
        (how many), ``mean``, ``sd`` (NaN for one subject) and ``text``.
    """
    groups: dict[tuple[str, str, str, str, str], dict[str, list[float]]] = {}
    for row in rows:
        key = (row.protocol, row.method, row.contrast, row.region, row.metric)
        groups.setdefault(key, {}).setdefault(row.subject, []).append(row.value)
    summary = []
    for (protocol, method, contrast, region, metric), subjects in groups.items():
        mean, sd = mean_sd([float(np.mean(values)) for values in subjects.values()])
        head = {"protocol": protocol, "method": method, "contrast": contrast, "region": region, "metric": metric}
        summary.append({**head, "subjects": len(subjects), "mean": mean, "sd": sd, "text": format_score(metric, mean, sd)})
    return summary


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; the latter is NaN for fewer than two values or where one is infinite."""
    mean = float(np.mean(values))
    if len(values) < 2 or not math.isfinite(mean):
        return mean, math.nan
    return mean, float(np.std(values, ddof=1))
