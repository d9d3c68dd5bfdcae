"""The capability table of `synthmr methods`, read off the specs."""

from __future__ import annotations

from typing import Any

from synthmr.errors import UsageError
from synthmr.methods import registry


def _span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"


def capability_rows() -> list[dict[str, Any]]:
    """One row of plain data a method; a method that cannot be loaded says why in its title."""
    rows = []
    for name in registry.available():
        try:
            method = registry.load(name)
        except UsageError as error:
            rows.append(
                {
                    "name": name,
                    "title": str(error),
                    **dict.fromkeys(("supervision", "sources", "targets", "any subset", "dims", "presets", "paper"), ""),
                }
            )
            continue
        spec = method.spec
        rows.append(
            {
                "name": name,
                "title": spec.title,
                "supervision": spec.supervision,
                "sources": _span(*spec.sources),
                "targets": _span(*spec.targets),
                "any subset": spec.any_subset,
                "dims": ", ".join(f"{dim}-D" for dim in spec.dims),
                "presets": ", ".join(sorted(method.presets)),
                "paper": " ".join(part for part in (spec.paper, f"doi:{spec.doi}" if spec.doi else "") if part) or "baseline",
            }
        )
    return rows
