"""Score tables: one row a number on disk, mean and standard deviation over subjects for people."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from synthmr.errors import DataError

COLUMNS = ("case", "method", "contrast", "protocol", "metric", "value")

#: metric -> (decimals, unit) in printed tables
_FORMATS: Mapping[str, tuple[int, str]] = {
    "psnr": (2, " dB"),
    "ssim": (4, ""),
    "nmse": (4, ""),
    "nrmse": (4, ""),
    "mae": (4, ""),
    "mse": (5, ""),
    # tumour segmentation (`synthmr.evaluate.segmentation`)
    **{f"dice_{region}": (4, "") for region in ("WT", "TC", "ET")},
    **{f"{distance}_{region}": (2, " mm") for distance in ("assd", "hd95") for region in ("WT", "TC", "ET")},
}


def score_rows(case: str, method: str, contrast: str, protocol: str, scores: Mapping[str, float]) -> list[dict[str, Any]]:
    """Rows of one prediction under one protocol; ``scores`` is metric -> value."""
    head = {"case": case, "method": method, "contrast": contrast, "protocol": protocol}
    return [{**head, "metric": metric, "value": float(value)} for metric, value in scores.items()]


def write_metrics(path: Path | str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as CSV, atomically; values with all their digits, infinity as ``inf``.

    Raises:
        DataError: it cannot be written.
    """
    from synthmr.io.files import write_text

    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """Inverse of `write_metrics`.

    Raises:
        DataError: the file cannot be read, or is no metrics table.
    """
    try:
        with Path(path).open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise DataError(f"{path} is no metrics table: its first line must be {','.join(COLUMNS)}.")
            return [{**row, "value": float(row["value"])} for row in reader]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None
    except (TypeError, ValueError):
        raise DataError(f"{path} is damaged: a value in it is no number; run `synthmr evaluate` again.") from None


def subject_of(case: str) -> str:
    """The subject of a case name: ``sub-01_ses-02`` is a session of ``sub-01``; other names are subjects."""
    return case.partition("_ses-")[0]


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
        groups.setdefault(key, {}).setdefault(subject_of(row["case"]), []).append(float(row["value"]))
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
    decimals, unit = _FORMATS.get(metric, (4, ""))
    spread = "" if math.isnan(sd) else f" +- {sd:.{decimals}f}"
    return f"{mean:.{decimals}f}{spread}{unit}"
