"""How an RAS volume becomes pictures: orientation, the voxel shown, the crop, the grey-level windows. Arrays only.

Radiological convention: the reader faces the patient, so the patient's right is on the left of axial and coronal
pictures; anterior (axial) or superior (coronal, sagittal) is up; in sagittal pictures anterior is on the left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from synthmr.case import plane_axis
from synthmr.errors import DataError, UsageError
from synthmr.prepare.mask import bounding_box

PLANES = ("axial", "coronal", "sagittal")

#: plane -> letters at the (left, right) edge of the picture
LETTERS: Mapping[str, tuple[str, str]] = {"axial": ("R", "L"), "coronal": ("R", "L"), "sagittal": ("A", "P")}

CONVENTION = "Radiological convention: the patient's right (R) is on the left of the picture."

#: (low, high) percentiles of the brain's voxels that become black and white
WINDOW = (0.5, 99.7)

#: percentile of the absolute error in the brain, over all methods, where the error colours end
ERROR_TOP = 99.0

#: millimetres kept around the brain
MARGIN_MM = 3.0

Box = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class FigureCase:
    """One case as the figures and the report show it. All arrays ``(X, Y, Z)`` on one RAS grid.

    Attributes:
        name: of the case.
        target: canonical name of the contrast that was predicted.
        spacing: voxel edges in mm along X, Y, Z.
        sources: contrast -> image, each shown in a window of its own.
        truth: the acquired target.
        predictions: method -> image, in the truth's units.
        mask: bool, the brain; nothing is shown outside it.
        units: of truth and predictions, for the colour bar: "scanner units", "normalised intensity".
        scores: method -> metric -> value, under ``protocol``.
        protocol: the metric protocol of ``scores``.
        segmentation: labels, or None; what is above 0 is outlined.
        centre: (x, y, z) voxel that the three planes go through; None: the largest lesion, else the brain's centre.

    Raises:
        DataError: grids that differ, an empty mask, or values that are not finite in the brain.
        UsageError: no prediction, ``centre`` outside the grid, or spacing that is not positive.
    """

    name: str
    target: str
    spacing: tuple[float, float, float]
    sources: Mapping[str, np.ndarray]
    truth: np.ndarray
    predictions: Mapping[str, np.ndarray]
    mask: np.ndarray
    units: str = "normalised intensity"
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    protocol: str = "masked-volume"
    segmentation: np.ndarray | None = None
    centre: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        shape = self.truth.shape
        if not self.predictions:
            raise UsageError(f"case {self.name} has no prediction of {self.target} to show; give at least one method.")
        if len(self.spacing) != 3 or not all(np.isfinite(edge) and edge > 0 for edge in self.spacing):
            raise UsageError(f"case {self.name}: spacing {self.spacing} is not three positive numbers of millimetres.")
        named = {f"source {key}": image for key, image in self.sources.items()}
        named |= {"mask": self.mask, "truth": self.truth}
        named |= {f"prediction of {key}": image for key, image in self.predictions.items()}
        if self.segmentation is not None:
            named["segmentation"] = self.segmentation
        for what, image in named.items():
            if image.shape != shape or len(shape) != 3:
                raise DataError(
                    f"case {self.name}: {what} has the grid {image.shape} and the true {self.target} {shape};"
                    " bring all images to one 3-D grid."
                )
        inside = self.mask.astype(bool)
        if not inside.any():
            raise DataError(f"case {self.name}: the brain mask is empty, so there is nothing to show; check the mask.")
        for what, image in named.items():
            if not np.isfinite(image[inside]).all():
                raise DataError(f"case {self.name}: {what} holds NaN or infinity inside the brain; run synthmr audit.")
        if self.centre is not None and not all(0 <= c < n for c, n in zip(self.centre, shape, strict=True)):
            raise UsageError(f"case {self.name}: centre {self.centre} lies outside the grid {shape}.")


def plane_image(volume: np.ndarray, plane: str, index: int) -> np.ndarray:
    """The slice ``index`` of an RAS volume ``(X, Y, Z)`` as a picture ``(rows, columns)``, row 0 on top.

    Raises:
        UsageError: ``plane`` is not axial, coronal or sagittal.
    """
    # taking one axis out leaves (X, Y), (X, Z) or (Y, Z): columns run against the first, rows against the second
    return np.take(volume, index, axis=plane_axis(plane))[::-1, ::-1].T


def plane_size(shape: tuple[int, ...], spacing: tuple[float, float, float], plane: str) -> tuple[float, float]:
    """(width, height) in mm of a picture of ``plane``."""
    across, up = (axis for axis in range(3) if axis != plane_axis(plane))
    return shape[across] * spacing[across], shape[up] * spacing[up]


def choose_centre(case: FigureCase) -> tuple[int, int, int]:
    """The voxel that the planes go through: the given one, one inside the largest lesion, or the brain's centre.

    The lesion's voxel lies in the axial slice with most lesion voxels, nearest to their centre, so that all three
    planes cut the lesion even where it is hollow or curved.
    """
    if case.centre is not None:
        return case.centre
    inside = case.mask.astype(bool)
    lesion = inside & (case.segmentation > 0) if case.segmentation is not None else np.zeros_like(inside)
    if not lesion.any():
        x, y, z = (round(float(np.mean(where))) for where in np.nonzero(inside))
        return x, y, z
    z = int(lesion.sum(axis=(0, 1)).argmax())
    points = np.argwhere(lesion[:, :, z])
    x, y = points[np.square(points - points.mean(axis=0)).sum(axis=1).argmin()].tolist()
    return int(x), int(y), z


def brain_box(mask: np.ndarray, spacing: tuple[float, float, float]) -> Box:
    """The mask's bounding box with `MARGIN_MM` around it, inside the grid."""
    x, y, z = bounding_box(mask, [int(np.ceil(MARGIN_MM / edge)) for edge in spacing])
    return x, y, z


def window(image: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """(black, white) values of an image: the `WINDOW` percentiles of its voxels in ``mask``."""
    low, high = np.percentile(image[mask], WINDOW).tolist()
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def error_top(case: FigureCase, methods: Sequence[str]) -> float:
    """The absolute error at the end of the colour bar, one value for all ``methods``; in the truth's units."""
    inside = case.mask.astype(bool)
    truth = case.truth[inside].astype(np.float64)
    return max(float(np.percentile(np.abs(truth - case.predictions[name][inside]), ERROR_TOP)) for name in methods) or 1.0
