"""Find, describe and check a cohort; write a simulated one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthmr.contrasts import resolve_list
from synthmr.reading import Reading

if TYPE_CHECKING:
    from synthmr.case import Cohort
    from synthmr.data.audit import Finding
    from synthmr.pipeline.ticks import Tick


def index(data: Path, reading: Reading | None = None) -> Cohort:
    """Find the cases of a folder or table."""
    from synthmr.io.index import find

    return find(data, reading)


def describe(cohort: Cohort) -> dict[str, Any]:
    """Cases x contrasts, what is missing, grids and problems, as plain data."""
    from synthmr.io.index import describe as summary

    return summary(cohort)


def audit(
    data: Path,
    sources: str = "",
    target: str = "",
    reading: Reading | None = None,
    progress: Tick | None = None,
    cache: Path | None = None,
) -> list[Finding]:
    """Find what would make training wrong, or at least worse; what is found of a case is kept in the cache."""
    from synthmr.data.audit import audit as look
    from synthmr.data.store import default_cache

    named = ",".join(part for part in (sources, target) if part)
    reading = reading or Reading()
    contrasts = resolve_list(named, reading.known) if named else None
    return look(index(data, reading), contrasts, None, progress, default_cache() if cache is None else cache)


def phantom(
    out: Path, subjects: int, seed: int, spacing: float, field: float, overwrite: bool = False, progress: Tick | None = None
) -> list[Path]:
    """Write a simulated cohort."""
    from synthmr.data.phantom import make_phantom

    return make_phantom(out, subjects, seed=seed, spacing=spacing, field_strength=field, overwrite=overwrite, progress=progress)
