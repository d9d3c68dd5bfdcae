"""Score tables: one row a number on disk, mean and standard deviation over subjects for people.

In memory a row's metric carries its region where that is not the protocol's own, ``psnr@lesion``; on disk the region is a
column of its own, empty for the protocol's own. ``subject`` is the person; where it is empty or missing, the case's name says it.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from synthmr.errors import DataError
from synthmr.io.naming import subject_of

COLUMNS = ("case", "subject", "method", "contrast", "protocol", "region", "metric", "value")

#: metric -> (decimals, unit) in printed tables
_FORMATS: Mapping[str, tuple[int, str]] = {
    "psnr": (2, " dB"),
    "ssim": (4, ""),
    "nmse": (4, ""),
    "nrmse": (4, ""),
    "structure_psnr": (2, " dB"),
    "mae255": (2, ""),
    "landmark_distance": (2, " mm"),
    **{f"{what}_ml": (2, " ml") for what in ("false_bright", "missed_bright")},
    "mae": (4, ""),
    "mse": (5, ""),
    # tumour segmentation (`synthmr.evaluate.segmentation`)
    **{f"dice_{region}": (4, "") for region in ("WT", "TC", "ET")},
    **{f"{distance}_{region}": (2, " mm") for distance in ("assd", "hd95") for region in ("WT", "TC", "ET")},
}


def score_rows(case: str, method: str, contrast: str, protocol: str, scores: Mapping[str, float]) -> list[dict[str, Any]]:
    """Rows of one prediction under one protocol; ``scores`` is metric -> value. The subject is whom the case's name says."""
    head = {"case": case, "subject": subject_of(case), "method": method, "contrast": contrast, "protocol": protocol}
    return [{**head, "metric": metric, "value": float(value)} for metric, value in scores.items()]


def person(row: Mapping[str, Any]) -> str:
    """The subject of a row: what it says, else what its case's name says."""
    return str(row.get("subject") or subject_of(str(row["case"])))


def write_metrics(path: Path | str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as CSV, atomically; values with all their digits, infinity as ``inf``.

    Raises:
        DataError: it cannot be written.
    """
    from synthmr.io.files import write_text

    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        metric, region = split_metric(row["metric"])
        writer.writerow({**row, "subject": person(row), "metric": metric, "region": region})
    write_text(path, text.getvalue())


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """Inverse of `write_metrics`.

    Raises:
        DataError: the file cannot be read, or is no metrics table.
    """
    try:
        with Path(path).open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            columns = tuple(reader.fieldnames or ())
            if columns not in (COLUMNS, tuple(name for name in COLUMNS if name != "subject")):
                raise DataError(f"{path} is no metrics table: its first line must be {','.join(COLUMNS)}.")
            found: list[dict[str, Any]] = []
            for row in reader:
                region = row.pop("region")
                metric = f"{row['metric']}@{region}" if region else row["metric"]
                found.append({**row, "metric": metric, "value": float(row["value"])})
            return found
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None
    except (TypeError, ValueError):
        raise DataError(f"{path} is damaged: a value in it is no number; run `synthmr evaluate` again.") from None


def read_tables(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Rows of one or more tables of `write_metrics`.

    Raises:
        DataError: a table cannot be read, or two hold the same method's score of the same case.
    """
    rows: list[dict[str, Any]] = []
    seen: dict[tuple[str, ...], Path] = {}
    for path in paths:
        mine = read_metrics(path)
        for row in mine:
            key = tuple(str(row[name]) for name in ("case", "method", "contrast", "protocol", "metric"))
            if seen.setdefault(key, path) != path:
                raise DataError(
                    f"{path} and {seen[key]} both hold {row['metric']} of {row['method']} for case {row['case']}; rename a method."
                )
        rows += mine
    return rows


def split_metric(metric: str) -> tuple[str, str]:
    """``psnr@lesion`` -> (psnr, lesion); the region is empty where it is the protocol's own."""
    name, _, region = metric.partition("@")
    return name, region


def score_objects(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Score rows for machines: protocol, region, metric and value apart."""
    from synthmr.evaluate.protocols import PROTOCOLS

    found = []
    for row in rows:
        metric, region = split_metric(row["metric"])
        known = PROTOCOLS.get(str(row["protocol"]))
        found.append({**row, "metric": metric, "region": region or (known.regions[0] if known is not None else "")})
    return found


def summarise(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean and sample standard deviation (n - 1) over subjects.

    Sessions of one subject are averaged first, so that nobody counts twice.

    Returns:
        A row for each protocol, method, contrast and metric, in order of first appearance: those four, ``subjects``
        (how many), ``mean``, ``sd`` (NaN for one subject) and ``text``.
    """
    groups: dict[tuple[str, str, str, str], dict[str, list[float]]] = {}
    for row in rows:
        key = (row["protocol"], row["method"], row["contrast"], row["metric"])
        groups.setdefault(key, {}).setdefault(person(row), []).append(float(row["value"]))
    summary = []
    for (protocol, method, contrast, metric), subjects in groups.items():
        mean, sd = mean_sd([float(np.mean(values)) for values in subjects.values()])
        head = {"protocol": protocol, "method": method, "contrast": contrast, "metric": metric}
        summary.append({**head, "subjects": len(subjects), "mean": mean, "sd": sd, "text": format_score(metric, mean, sd)})
    return summary


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; the latter is NaN for fewer than two values or where one is infinite."""
    mean = float(np.mean(values))
    if len(values) < 2 or not math.isfinite(mean):
        return mean, math.nan
    return mean, float(np.std(values, ddof=1))


def format_score(metric: str, mean: float, sd: float = math.nan) -> str:
    """``15.23 +- 1.02 dB``; without the sd where it is NaN."""
    decimals, unit = _FORMATS.get(split_metric(metric)[0], (4, ""))
    spread = "" if math.isnan(sd) else f" +- {sd:.{decimals}f}"
    return f"{mean:.{decimals}f}{spread}{unit}"
