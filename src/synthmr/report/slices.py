"""The mean absolute error of every axial slice, to find slices that went wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from synthmr.report.curves import COLOURS, THEMES, dress
from synthmr.report.figures import OUTLINE
from synthmr.report.views import FigureCase

#: slices with fewer brain voxels are left out: a handful of voxels at the edge of the mask says little
FEWEST_VOXELS = 50

#: where the plot's axes lie in the picture, as shares of its width and height: left, bottom, width, height
PLACE = (0.08, 0.21, 0.9, 0.66)


@dataclass(frozen=True)
class SliceErrors:
    """Errors of a case's axial slices.

    Attributes:
        slices: indices along Z of the prepared volume.
        errors: method -> mean absolute error in the brain of each of these slices, in the truth's units.
        lesion: for each slice, whether it cuts the lesion label.
    """

    slices: np.ndarray
    errors: Mapping[str, np.ndarray]
    lesion: np.ndarray

    @property
    def limits(self) -> tuple[float, float]:
        """The slice positions at the left and right end of the plot."""
        return float(self.slices[0]) - 0.5, float(self.slices[-1]) + 0.5

    def worst(self, method: str) -> int:
        """The slice with the largest error."""
        return int(self.slices[int(np.argmax(self.errors[method]))])


def slice_errors(case: FigureCase) -> SliceErrors | None:
    """Errors by axial slice; None where fewer than two slices hold `FEWEST_VOXELS` of the brain."""
    mask = case.mask.astype(bool)
    count = mask.sum(axis=(0, 1))
    slices = np.flatnonzero(count >= FEWEST_VOXELS)
    if len(slices) < 2:
        return None
    errors = {}
    for method, image in case.predictions.items():
        difference = np.abs(case.truth.astype(np.float64) - image)
        errors[method] = np.where(mask, difference, 0).sum(axis=(0, 1))[slices] / count[slices]
    lesion = np.zeros(len(count), bool)
    if case.segmentation is not None:
        lesion = np.asarray((mask & (case.segmentation > 0)).any(axis=(0, 1)))
    return SliceErrors(slices, errors, lesion[slices])


def slice_figure(found: SliceErrors, units: str, theme: str = "light") -> Figure:
    """Error against the slice's position, a line a method; slices that cut the lesion are marked on the ground line."""
    ink, _, back = THEMES[theme]
    figure = Figure(figsize=(9.0, 2.3), dpi=100, facecolor=back)
    axes = figure.add_axes(PLACE)
    dress(axes, theme, "Mean absolute error by axial slice", "axial slice (voxel; left: inferior)")
    axes.set_ylabel(units, fontsize=9, color=ink)
    for (method, values), colour in zip(found.errors.items(), COLOURS, strict=False):
        axes.plot(found.slices, values, color=colour, linewidth=1.5, label=method.replace("$", r"\$"))
    top = max(float(values.max()) for values in found.errors.values()) or 1.0
    axes.set_ylim(0, top * 1.15)
    axes.set_xlim(*found.limits)
    if found.lesion.any():
        # one bar for each run of neighbouring slices
        edges = np.flatnonzero(np.diff(np.concatenate([[0], found.lesion.astype(int), [0]])))
        for i, (start, stop) in enumerate(edges.reshape(-1, 2)):
            ends = (found.slices[start] - 0.5, found.slices[stop - 1] + 0.5)
            axes.plot(ends, (0, 0), color=OUTLINE, linewidth=7, solid_capstyle="butt", label="" if i else "cuts the lesion label")
    axes.legend(fontsize=8, frameon=False, labelcolor=ink, ncols=4, loc="upper right", bbox_to_anchor=(1.0, 1.19), borderaxespad=0)
    return figure
