"""Every subject's score as a point, methods side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from synthmr.evaluate import statistics
from synthmr.evaluate.scores import Score, main_scores
from synthmr.report.curves import COLOURS, THEMES, dress
from synthmr.report.words import column

Rows = Sequence[Score]

#: metrics that get a panel, where they were computed, and how many panels at most
METRICS, MOST_PANELS = ("psnr", "ssim", "mae", "nmse"), 3

#: a box plot of fewer subjects would pretend to know quartiles
FEWEST_FOR_BOX = 5


def subject_values(rows: Rows, contrast: str, protocol: str, metric: str) -> dict[str, dict[str, float]]:
    """Method -> subject -> score; sessions of one subject are averaged; scores that are not finite are left out."""
    mine = [row for row in main_scores(rows, metric) if (row.contrast, row.protocol) == (contrast, protocol)]
    means = statistics.subject_values(mine)
    finite = {method: {name: value for name, value in each.items() if math.isfinite(value)} for method, each in means.items()}
    return {method: each for method, each in finite.items() if each}


def strip_figure(rows: Rows, contrast: str, protocol: str, theme: str = "light") -> Figure | None:
    """A panel a metric; None where no metric has two subjects."""
    panels = {metric: subject_values(rows, contrast, protocol, metric) for metric in METRICS}
    panels = {metric: values for metric, values in panels.items() if any(len(each) > 1 for each in values.values())}
    panels = dict(list(panels.items())[:MOST_PANELS])
    if not panels:
        return None
    methods = max(len(values) for values in panels.values())
    wide = min(max(2.6, 0.8 * methods + 0.9), 6.0)
    figure = Figure(figsize=(wide * len(panels), 3.4), dpi=100, facecolor=THEMES[theme][2], layout="constrained")
    # a method keeps its colour in panels where another has no finite score
    order = list(dict.fromkeys(method for values in panels.values() for method in values))
    colours = {method: COLOURS[i % len(COLOURS)] for i, method in enumerate(order)}
    for axes, (metric, values) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True):
        _panel(axes, theme, metric, {method: values[method] for method in order if method in values}, colours)
    return figure


def _panel(axes: Axes, theme: str, metric: str, values: Mapping[str, Mapping[str, float]], colours: Mapping[str, str]) -> None:
    """Points, a thin line for each subject from method to method, a bar at the mean, a box where there are enough."""
    ink, _, back = THEMES[theme]
    head = column(metric)
    dress(axes, theme, f"{head.title}, {head.direction}" if head.direction else head.title, "")
    names = list(values)
    subjects = list(dict.fromkeys(name for each in values.values() for name in each))
    for i, subject in enumerate(subjects):
        # a small fixed shift for each subject, so that equal scores stay countable
        shift = 0.16 * ((i * 0.618034) % 1 - 0.5)
        places = [(x + shift, values[method][subject]) for x, method in enumerate(names) if subject in values[method]]
        axes.plot(*zip(*places, strict=True), color=ink, linewidth=0.6, alpha=0.35, zorder=1)
        for x, y in places:
            axes.plot(x, y, "o", color=colours[names[round(x - shift)]], markersize=5, markeredgecolor=back, zorder=3)
    for x, method in enumerate(names):
        scores = list(values[method].values())
        axes.plot((x - 0.3, x + 0.3), (np.mean(scores),) * 2, color=colours[method], linewidth=2.2, zorder=2)
        if len(scores) >= FEWEST_FOR_BOX:
            line = {"color": ink, "linewidth": 0.8, "alpha": 0.6}
            axes.boxplot(
                scores, positions=[x], widths=0.5, showfliers=False, manage_ticks=False,
                boxprops=line, whiskerprops=line, capprops=line, medianprops=line,
            )  # fmt: skip
    long = sum(map(len, names)) > 9 * len(names) or len(names) > 4
    labels = [name.replace("$", r"\$") for name in names]
    axes.set_xticks(range(len(names)), labels, rotation=30 if long else 0, ha="right" if long else "center")
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.grid(visible=False, axis="x")
    axes.margins(y=0.1)
