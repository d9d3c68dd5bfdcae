"""Masks and segmentations told by their content: what a brain mask, a lesion, a map of tissues and a probability map look like.

Names alone mislead: ``tumor_mask``, ``wm_mask`` or ``brainmask`` may be a lesion, a tissue or the image itself. Shares are those of
the head or brain that the first image of the case shows, its holes filled. `synthmr audit` and `synthmr train` use the same checks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from synthmr.case import Case
from synthmr.data.findings import Findings
from synthmr.errors import DataError
from synthmr.io.grid import Grid, grid_difference, turn_between
from synthmr.prepare import orient
from synthmr.prepare.mask import bounding_box, filled
from synthmr.prepare.nan import load_labels

#: whole numbers are meant up to this
WHOLE = 1e-3

#: a mask has at most so many values above 0, a segmentation without regions so many
MASK_VALUES, LABEL_VALUES = 12, 12
#: in a segmentation of regions at least this share of neighbours that are labelled have one label; grey values have a third at most
CONSTANT = 0.5

#: least share that a brain mask has of a brain (skull-stripped) and of a head, in which the brain has .2 to .4
SMALL, SMALL_OF_HEAD = 0.25, 0.08
#: least share of a mask, or of a segmentation, that lies in the brain or head
INSIDE = 0.6
#: least share of a brain mask that its largest piece has; and that the mask has of itself with gaps of 6 mm closed and holes
#: filled: brains have .94 to .99, with fluid and without, white matter, grey matter and fluid .36 to .74
ONE_PIECE, SOLID = 0.8, 0.77
#: a lesion with one label has at most this share of a brain and of a head
LARGE, LARGE_OF_HEAD = 0.6, 0.15
#: a segmentation with this share of the brain is a map of tissues
TISSUES = 0.8
#: pieces and places of fewer voxels than this say nothing
FEW = 50


@dataclass(frozen=True, eq=False)
class Head:
    """Where the head or brain of a case is.

    Attributes:
        foreground: ``(X, Y, Z)`` bool, RAS.
        stripped: whether it is a brain without skull.
        spacing: voxel edges in mm.
    """

    foreground: np.ndarray
    stripped: bool
    spacing: tuple[float, float, float]

    @cached_property
    def whole(self) -> np.ndarray:
        """``(X, Y, Z)`` bool: the same with its holes filled (fluid and bone are dark in some contrasts)."""
        return filled(self.foreground)


class Fault(NamedTuple):
    """What is wrong with a mask or segmentation."""

    what: str
    meaning: str
    fix: str
    level: str = "error"


GREY = "What is not 0 would count as marked, whatever its value."
CUT = "Everything outside it would be cut away, in training and in every prediction."
NOT_A_BRAIN = "Rename it (to seg, where it marks lesions), or give a mask of the whole brain."
THRESHOLD = "Threshold it (for example at half of its maximum: fslmaths IN -thr 0.5 -bin OUT), or rename it."
UNUSABLE = "It cannot be used."


def check_label(case: Case, kind: str, path: Path, grid: Grid | None, head: Head | None, found: Findings) -> np.ndarray | None:
    """Look at a mask or segmentation.

    Args:
        case: that it is of.
        kind: mask or segmentation.
        path: the file.
        grid: of the images, or None where no image could be read.
        head: of the first image, or None.
        found: gets what is wrong.

    Returns:
        ``(X, Y, Z)`` bool, RAS: what it marks; None where it is no use.
    """
    try:
        volume = load_labels(path, "", case.nan_to_zero)
        array = orient.apply(volume.array, orient.fit(volume.shape, volume.affine))
        own = Grid(volume.shape, volume.affine)
        difference = grid_difference(own, grid) if grid is not None else ""
        if difference and grid is not None and turn_between(own, grid) is not None:
            difference = ""  # one grid in another storage order
        if difference:
            what = f"{path.name} lies on another grid than the images: {difference}"
            fix = "Resample it onto the images' grid with nearest-neighbour interpolation."
            found.add("error", case.name, kind, what, f"The {kind} would mark other anatomy.", fix)
            return None
    except DataError as error:
        fix = "Do as the line says; if it stays so, remove the file or leave the case out."
        found.add("error", case.name, kind, str(error), f"The {kind} cannot be used.", fix)
        return None
    if head is not None and head.foreground.shape != array.shape:
        head = None
    fault = mask_fault(array, head, volume.spacing) if kind == "mask" else segmentation_fault(array, head)
    if fault is not None:
        found.add(fault.level, case.name, kind, f"{path.name} {fault.what}", fault.meaning, fault.fix)
        return None if fault.level == "error" else array > 0
    return array > 0


def _values(array: np.ndarray) -> np.ndarray:
    """The different values above or below 0, of at most 1,000 kinds."""
    inside = array[bounding_box(array != 0)]
    values = np.unique(inside[:: max(inside.shape[0] // 64, 1)] if inside.size > 4_000_000 else inside)
    return np.asarray(values[values != 0])


def mask_fault(array: np.ndarray, head: Head | None, spacing: Sequence[float]) -> Fault | None:
    """Why an array is no brain mask; None where it is one.

    Args:
        array: ``(X, Y, Z)``, finite, RAS; what is above 0 is the mask.
        head: of the same shape, or None where no image could be read.
        spacing: voxel edges in mm.
    """
    values, mask = _values(array), array > 0
    voxels = int(mask.sum())
    if not voxels:
        return Fault("is empty", UNUSABLE, "Remove it (the brain is then found in the images), or make a brain mask.")
    if np.abs(values - np.rint(values)).max() > WHOLE:
        return Fault(_soft(values), GREY, THRESHOLD)
    if len(values) > MASK_VALUES:
        what = f"holds {len(values)} different values up to {values.max():g}, a mask one: it is an image, or a map of probabilities"
        return Fault(what, GREY, THRESHOLD)
    if (values < 0).any():
        return Fault(f"holds values below 0, down to {values.min():g}", GREY, "Give a mask with 1 in the brain and 0 outside.")
    if head is not None:
        kind, whole = ("brain", head.foreground) if head.stripped else ("head", head.whole)
        share, inside = voxels / max(int(whole.sum()), 1), float((mask & head.whole).sum()) / voxels
        if share < (SMALL if head.stripped else SMALL_OF_HEAD):
            what = f"covers {share:.1%} of the image's foreground (the {kind}, {int(whole.sum())} voxels)"
            return Fault(f"{what}: it is no brain mask, but perhaps a lesion's", CUT, NOT_A_BRAIN)
        if inside < INSIDE and voxels >= FEW:
            what = f"misses the {kind}: {1 - inside:.0%} of it lies outside, where the image is dark"
            return Fault(what, "It marks other anatomy than the brain.", "Check that it is of this case, and in its orientation.")
    pieces, solid = _shape(mask, spacing)
    if pieces[0] < ONE_PIECE * voxels and voxels >= FEW:
        what = f"consists of {len(pieces)} pieces, the largest with {pieces[0] / voxels:.0%} of it: a brain is one"
        return Fault(what, CUT, NOT_A_BRAIN)
    if solid < SOLID and voxels >= FEW:
        what = f"is full of holes: it fills {solid:.0%} of its own outline, a brain 94 % or more (it may be a tissue's mask)"
        return Fault(what, CUT, NOT_A_BRAIN)
    return None


def _soft(values: np.ndarray) -> str:
    return (
        f"holds values that are not whole numbers ({len(values)} different ones, {values.min():.3g} to {values.max():.3g}): it is a"
        " soft mask or a map of probabilities"
    )


def _shape(mask: np.ndarray, spacing: Sequence[float]) -> tuple[list[int], float]:
    """Voxels of its pieces, largest first; and the share that it has of itself with gaps of 6 mm closed and holes filled."""
    from scipy import ndimage

    inside = mask[bounding_box(mask)]
    # what is larger than needed is thinned: shape shows at 2 mm
    steps = tuple(slice(None, None, max(int(2 / edge + 1e-3), 1)) for edge in spacing)
    small = inside[steps]
    labels, _ = ndimage.label(inside, np.ones((3, 3, 3)))
    pieces = sorted(np.bincount(labels.ravel())[1:].tolist(), reverse=True)
    reach = [max(round(6 / (edge * (step.step or 1))), 1) for edge, step in zip(spacing, steps, strict=True)]
    padded = np.pad(small, [(size + 1, size + 1) for size in reach])
    away = ndimage.distance_transform_edt(~padded, sampling=[1 / size for size in reach])
    closed = ndimage.distance_transform_edt(away <= 1, sampling=[1 / size for size in reach]) > 1
    return pieces, float(small.sum()) / max(int(filled(closed | padded).sum()), 1)


def segmentation_fault(array: np.ndarray, head: Head | None) -> Fault | None:
    """Why an array is no segmentation; None where it is one. Without any label it is one.

    Args:
        array: ``(X, Y, Z)``, finite, RAS.
        head: of the same shape, or None where no image could be read.
    """
    values = _values(array)
    if not len(values):
        return None
    if np.abs(values - np.rint(values)).max() > WHOLE:
        return Fault(_soft(values), "Labels are whole numbers.", THRESHOLD)
    if len(values) > LABEL_VALUES:
        constant = _constant(array)
        if constant < CONSTANT:
            what = f"holds {len(values)} different values, and {constant:.0%} of neighbours agree: it is an image or a map of"
            return Fault(f"{what} probabilities, no segmentation", "Every grey value would be a label.", THRESHOLD)
        return None
    marked = array != 0
    voxels = int(marked.sum())
    if head is None or voxels < FEW:
        return None
    kind, whole = ("brain", head.foreground) if head.stripped else ("head", head.whole)
    share, inside = voxels / max(int(whole.sum()), 1), float((marked & head.whole).sum()) / voxels
    if inside < INSIDE:
        what = f"misses the {kind}: {1 - inside:.0%} of what it marks lies outside, where the image is dark"
        return Fault(what, "It marks other anatomy than the lesion.", "Check that it is of this case, and in its orientation.")
    if len(values) == 1 and share > (LARGE if head.stripped else LARGE_OF_HEAD):
        what = f"marks {share:.0%} of the {kind} with one label: it is a brain mask, no lesion"
        return Fault(what, "The whole brain would be scored and learnt as lesion.", "Rename it to mask.")
    if len(values) in (2, 3, 4) and head.stripped and share > TISSUES:
        what = f"marks {share:.0%} of the brain with {len(values)} labels: it looks like a map of tissues, not of lesions"
        meaning = "Scores of lesions would be scores of tissues, unless the convention of its labels says so."
        return Fault(what, meaning, "Rename it (to tissue), or name its convention.", "warning")
    return None


def _constant(array: np.ndarray) -> float:
    """Share of neighbours along the axes that are both labelled and have one label."""
    same = total = 0
    inside = array[bounding_box(array != 0)]
    for axis in range(3):
        a, b = np.moveaxis(inside, axis, 0)[1:], np.moveaxis(inside, axis, 0)[:-1]
        both = (a != 0) & (b != 0)
        total += int(both.sum())
        same += int((a[both] == b[both]).sum())
    return same / total if total else 1.0
