"""Learning curves from the records of a run's log."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Series = tuple[list[float], list[float]]

#: keys of a training record that are no losses
HOUSEKEEPING = frozenset({"step", "epoch", "lr", "seconds", "steps_per_s", "share_waited"})

#: (ink, grid, background) of the light and the dark theme
THEMES: Mapping[str, tuple[str, str, str]] = {"light": ("#24292f", "#d8dce0", "#ffffff"), "dark": ("#d7dbe0", "#3a3f46", "#16181c")}

#: colours that people who confuse red and green tell apart (Okabe and Ito 2008), readable on white and on black
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

#: a curve with more points than this is drawn as the means of that many bins
MOST_POINTS = 240


def _number(value: Any) -> float | None:
    """``value`` if it is a finite number."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) else None


def series(records: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Series], Series]:
    """Sort log records into curves.

    Args:
        records: each with ``step``, and either ``validation`` (mean PSNR of the validation cases in dB) or losses by
            name. Other records, and values that are not finite, are passed over.

    Returns:
        (loss name -> (steps, values), (steps, PSNR in dB)).
    """
    losses: dict[str, Series] = {}
    psnr: Series = ([], [])
    for record in records:
        step = _number(record.get("step"))
        if step is None:
            continue
        found = {"validation": psnr} if "validation" in record else None
        for key in record if found is None else found:
            value = _number(record[key])
            if value is not None and key not in HOUSEKEEPING:
                steps, values = found[key] if found else losses.setdefault(key, ([], []))
                steps.append(step)
                values.append(value)
    return losses, psnr


def _thin(points: Series) -> Series:
    """Means of at most `MOST_POINTS` bins of neighbouring points."""
    steps, values = points
    if len(steps) <= MOST_POINTS:
        return points
    parts = [part for part in np.array_split(np.arange(len(steps)), MOST_POINTS) if len(part)]
    return [float(np.mean(np.take(steps, part))) for part in parts], [float(np.mean(np.take(values, part))) for part in parts]


def dress(axes: Axes, theme: str, title: str, below: str = "optimisation step") -> None:
    """Colours, title, x label and grid of a plot in a theme."""
    ink, grid, back = THEMES[theme]
    axes.set_facecolor(back)
    axes.set_title(title, fontsize=10, color=ink, loc="left")
    axes.set_xlabel(below, fontsize=9, color=ink)
    axes.tick_params(colors=ink, labelsize=8, which="both")
    axes.grid(color=grid, linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(ink)


def learning_curve(records: Iterable[Mapping[str, Any]], theme: str = "light") -> Figure | None:
    """Losses and validation PSNR against the step, side by side; None where the log has no curve (two points) to show."""
    losses, psnr = series(records)
    losses = {name: points for name, points in losses.items() if len(points[0]) > 1}
    panels = (["losses"] if losses else []) + (["psnr"] if len(psnr[0]) > 1 else [])
    if not panels:
        return None
    ink, _, back = THEMES[theme]
    figure = Figure(figsize=(4.6 * len(panels), 3.2), dpi=100, facecolor=back, layout="constrained")
    for axes, panel in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        if panel == "losses":
            dress(axes, theme, "Training losses (each in its own units)")
            for (name, points), colour in zip(losses.items(), COLOURS, strict=False):
                axes.plot(*_thin(points), color=colour, linewidth=1.4, label=name.replace("$", r"\$"))
            if all(min(values) > 0 for _, values in losses.values()):
                axes.set_yscale("log")
            axes.legend(fontsize=8, frameon=False, labelcolor=ink)
            continue
        dress(axes, theme, "PSNR of the validation cases (dB)")
        axes.plot(*psnr, color=COLOURS[0], linewidth=1.4, marker="o", markersize=3)
        best = int(np.argmax(psnr[1]))
        axes.plot(psnr[0][best], psnr[1][best], marker="o", markersize=8, color=COLOURS[1], fillstyle="none")
        axes.margins(y=0.18)
        note = {"textcoords": "offset points", "fontsize": 8, "color": ink, "ha": "right" if best > len(psnr[0]) / 2 else "left"}
        axes.annotate(
            f"best {psnr[1][best]:.2f} dB at step {psnr[0][best]:.0f}", (psnr[0][best], psnr[1][best]), xytext=(0, 8), **note
        )
    return figure
