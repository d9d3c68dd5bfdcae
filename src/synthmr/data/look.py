"""What is wrong with the files of one case: each image on its own, and all of them on one grid.

Each file is read once; what is kept of an image is where its head is, and every 8th voxel for the comparison of contrasts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from synthmr.case import Case
from synthmr.data.contrast_check import check_correlations
from synthmr.data.findings import Finding, Findings
from synthmr.data.label_check import Head, check_label
from synthmr.data.same_person import describe
from synthmr.errors import DataError
from synthmr.io.files import sha256_array
from synthmr.io.grid import REGISTER_FIX, Grid, grid_difference, orientation, turn_between
from synthmr.io.nifti import load
from synthmr.prepare import orient
from synthmr.prepare.correlation import contrast_correlations
from synthmr.prepare.mask import clean, otsu_threshold
from synthmr.prepare.nan import load_labels, without_nan

#: a volume counts as skull-stripped where at least this share of its voxels is exactly 0 ...
STRIPPED = 0.2
#: ... and less than this share of the voxels on its six faces is not (padding alone leaves noise there)
BORDER = 0.1

#: how many of two volumes are skull-stripped -> limits ``(error, warning)`` of their foregrounds' Dice. A whole head
#: against its own brain has about 0.6
DICE_LIMITS: Mapping[int, tuple[float, float]] = {2: (0.8, 0.9), 1: (0.4, 0.4), 0: (0.5, 0.7)}

#: ml: in less than this (a fetus's brain of 20 weeks) correlations of contrasts say nothing
SMALLEST = 50.0
#: of images with more voxels than this, every 8th is kept
THIN = 2_000_000

#: an image with at most so many different values in its foreground is a label map
LABEL_VALUES = 12

MEND = "Do as the line says; if it stays so, remove the file or leave the case out."
REEXPORT = "Export, convert or download the file again; if it stays so, remove it or leave the case out."


@dataclass(frozen=True, eq=False)
class CaseLook:
    """What one case left behind after its voxels were dropped.

    Attributes:
        findings: of its files.
        hashes: contrast -> SHA-256 of its voxels, RAS.
        details: contrast -> what tells the person, of `synthmr.data.same_person.describe`; where it was asked for.
    """

    findings: tuple[Finding, ...] = ()
    hashes: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Look:
    """What one image left behind. The arrays are RAS, so that storage orders make no difference."""

    grid: Grid
    head: Head
    thin: np.ndarray  # see `_thin`
    digest: str
    detail: np.ndarray | None

    @property
    def foreground(self) -> np.ndarray:
        return self.head.foreground

    @property
    def stripped(self) -> bool:
        return self.head.stripped


def look_at(case: Case, wanted: Collection[str], persons: Collection[str] = ()) -> CaseLook:
    """All files of one case, one after the other.

    Args:
        case: where they are.
        wanted: contrasts to look at.
        persons: contrasts whose `describe` is kept.
    """
    found, looks = Findings(), dict[str, _Look]()
    for contrast, path in case.images.items():
        if contrast in wanted:
            look = _check_image(case, contrast, path, contrast in persons, found)
            if look is not None:
                looks[contrast] = _in_order(case, contrast, look, looks, found)
    _check_grids(case, {contrast: look.grid for contrast, look in looks.items()}, found)
    _check_overlap(case, looks, found)
    first = next(iter(looks.values()), None)
    mask = None
    for kind, label in (("mask", case.mask), ("segmentation", case.segmentation)):
        if label is not None:
            array = check_label(case, kind, label, first.grid if first else None, first.head if first else None, found)
            mask = array if kind == "mask" else mask
    _check_contrasts(case, looks, mask, found)
    return CaseLook(
        tuple(found.list),
        {contrast: look.digest for contrast, look in looks.items()},
        {contrast: look.detail for contrast, look in looks.items() if look.detail is not None},
    )


def _in_order(case: Case, contrast: str, look: _Look, looks: Mapping[str, _Look], found: Findings) -> _Look:
    """One grid in another storage order than the first contrast's: reordered as it is wherever a case is read, with a warning."""
    first, reference = next(iter(looks.items()), (contrast, look))
    if not grid_difference(look.grid, reference.grid) or turn_between(look.grid, reference.grid) is None:
        return look
    what = f"stored as {orientation(look.grid.affine)}, {first} as {orientation(reference.grid.affine)}, on one grid"
    meaning = "The axes are reordered when the case is read; no value changes."
    found.add("warning", case.name, contrast, what, meaning, "Nothing must be done; other programs may want files stored alike.")
    return replace(look, grid=reference.grid)


def _check_image(case: Case, contrast: str, path: Path, person: bool, found: Findings) -> _Look | None:
    """One image: readable, finite, not constant, plausible; None if it is no use."""
    try:
        volume = load(path, check=False)
    except DataError as error:
        found.add("error", case.name, contrast, str(error), "The file cannot be used; training would stop at it.", MEND)
        return None
    for note in volume.notes:
        what = f"{path.name}: {note}"
        found.add("warning", case.name, contrast, what, "Other programs may show it elsewhere.", "See the line itself.")
    array = orient.apply(volume.array, orient.fit(volume.shape, volume.affine))
    bad = array.size - int(np.isfinite(array).sum())
    if bad and case.nan_to_zero:
        try:
            mask = load_labels(case.mask, f"mask of case {case.name}", True) if case.mask is not None else None
            volume = without_nan(volume, mask)
        except DataError as error:
            found.add("error", case.name, contrast, str(error), "The file cannot be used; training would stop at it.", MEND)
            return None
        array = orient.apply(volume.array, orient.fit(volume.shape, volume.affine))
    elif bad:
        what = f"{path.name} holds {bad} NaN or infinite voxels ({bad / array.size:.2%})"
        fix = "Find the step that made them (often a division or a resampling) and repeat it, or read them as 0 with --nan-to-zero."
        found.add("error", case.name, contrast, what, "One such voxel makes every loss and weight NaN.", fix)
        return None
    low, high = float(array.min()), float(array.max())
    if low == high:
        kind = "empty (all zero)" if low == 0 else f"constant (every voxel is {low:g})"
        found.add("error", case.name, contrast, f"{path.name} is {kind}", "There is nothing in it to learn from.", REEXPORT)
        return None
    foreground, stripped = find_foreground(array)
    _check_range(case, contrast, path, array, foreground, found)
    return _Look(
        Grid(volume.shape, volume.affine),
        Head(foreground, stripped, volume.spacing),
        np.ascontiguousarray(_thin(array)),
        sha256_array(array),
        describe(volume.array, volume.affine) if person else None,
    )


def _thin(array: np.ndarray) -> np.ndarray:
    """Every second voxel along each axis of a large volume, all of a small one."""
    return array[::2, ::2, ::2] if array.size > THIN else array


def _check_contrasts(case: Case, looks: Mapping[str, _Look], mask: np.ndarray | None, found: Findings) -> None:
    """Contrasts whose voxels say that they are of another contrast. Without a brain, skull and scalp would decide."""
    shapes = {look.thin.shape for look in looks.values()}
    if len(looks) < 2 or len(shapes) > 1:
        return
    if mask is not None:
        brain = _thin(mask)
    elif all(look.stripped for look in looks.values()):
        brain = clean(np.logical_and.reduce([_thin(look.foreground) for look in looks.values()]))
    else:
        return
    first = next(iter(looks.values())).grid
    volume = float(brain.mean() * np.prod(first.shape) * np.prod(first.spacing)) / 1000
    if brain.shape in shapes and volume >= SMALLEST:
        values = contrast_correlations({contrast: look.thin for contrast, look in looks.items()}, brain)
        check_correlations(case.name, values, {contrast: case.images[contrast].name for contrast in looks}, found)


def _check_range(case: Case, contrast: str, path: Path, array: np.ndarray, foreground: np.ndarray, found: Findings) -> None:
    """Intensities that no scanner writes. Percentiles and distinct values are taken from every 8th foreground voxel."""
    inside = array[foreground][::8]
    values = len(np.unique(inside))
    if len(inside) >= 100 and values <= LABEL_VALUES:
        what = f"{path.name} has only {values} different values in its foreground"
        meaning = "It looks like a label map, not like an image."
        found.add("error", case.name, contrast, what, meaning, "Remove or rename the file if it is a segmentation.")
        return
    low, high = float(array.min()), float(array.max())
    negative = int((array < 0).sum())
    if negative and not (low >= -1.01 and high <= 1.01):
        what = f"{path.name} holds {negative} negative voxels ({negative / array.size:.2%}), down to {low:.4g}"
        meaning = "Magnitude images have none; they come from resampling with splines, bias correction or z-scoring."
        fix = "A few faint ones do no harm; else resample linearly, or start from images in scanner units."
        found.add("warning", case.name, contrast, what, meaning, fix)
    elif high <= 1.01:
        what = f"{path.name} lies in [{low:.3g}, {high:.3g}]"
        meaning = "The image was normalised before; the scanner's units are lost, and two normalisers may clip twice."
        found.add("warning", case.name, contrast, what, meaning, "Use the images as they came from the scanner, if you have them.")
    if len(inside) < 100:
        return
    top = float(np.percentile(inside, 99.5))
    if top > 0 and high > 20 * top:
        what = f"{path.name}: the brightest voxel is {high:.4g}, 99.5 % of the foreground lie below {top:.4g}"
        meaning = "A few hot voxels squeeze everything else into a corner of the range under min-max scaling."
        found.add("warning", case.name, contrast, what, meaning, "Use the percentile normaliser (the default), or mend the voxels.")


def find_foreground(array: np.ndarray) -> tuple[np.ndarray, bool]:
    """Where the head or brain is, roughly: non-zero voxels of skull-stripped data, else Otsu on compressed intensities.

    Args:
        array: ``(X, Y, Z)``, finite.

    Returns:
        (mask ``(X, Y, Z)`` bool, whether the volume is skull-stripped).
    """
    nonzero = array != 0
    if nonzero.mean() < 1 - STRIPPED and _border(nonzero).mean() < BORDER:
        return nonzero, True
    # the square root keeps bright fat and fluid from deciding the threshold
    compressed = np.sqrt(array - array.min())
    return compressed > otsu_threshold(compressed[::2, ::2, ::2]), False


def _border(mask: np.ndarray) -> np.ndarray:
    """The values of the six faces of a volume."""
    return np.concatenate([mask[index].ravel() for axis in range(3) for index in _faces(axis)])


def _faces(axis: int) -> list[tuple[slice | int, ...]]:
    return [tuple(end if i == axis else slice(None) for i in range(3)) for end in (0, -1)]


def _check_grids(case: Case, grids: Mapping[str, Grid], found: Findings) -> None:
    """Contrasts that lie on other grids than the first."""
    if not grids:
        return
    (first, reference), *rest = grids.items()
    differences = [(name, grid_difference(grid, reference)) for name, grid in rest]
    differences = [(name, text) for name, text in differences if text]
    if differences:
        found.add(
            "error",
            case.name,
            ", ".join(name for name, _ in differences),
            f"other grid than {first}: " + "; ".join(f"{name} {text}" for name, text in differences),
            "The same voxel index shows other anatomy in each contrast; a model would learn nonsense.",
            REGISTER_FIX,
        )


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice overlap of two boolean volumes; 1 for two empty ones."""
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def _check_overlap(case: Case, looks: Mapping[str, _Look], found: Findings) -> None:
    """Contrasts whose foreground is elsewhere, on the same grid."""
    if not looks:
        return
    (first, reference), *rest = looks.items()
    mixed = [name for name, look in rest if look.stripped != reference.stripped]
    if mixed:
        one, other = ("is", "are not") if reference.stripped else ("is not", "are")
        found.add(
            "warning",
            case.name,
            ", ".join(mixed),
            f"{first} {one} skull-stripped, {', '.join(mixed)} {other}",
            "The brain mask of one contrast does not fit the other.",
            "Strip all contrasts with one mask, or give the mask (CASE/mask.nii.gz).",
        )
    for name, look in rest:
        if look.foreground.shape != reference.foreground.shape:
            continue
        overlap = dice(look.foreground, reference.foreground)
        wrong, odd = DICE_LIMITS[look.stripped + reference.stripped]
        if overlap < odd:
            found.add(
                "error" if overlap < wrong else "warning",
                case.name,
                f"{first}, {name}",
                f"the brains overlap little: Dice {overlap:.2f} between {first} and {name} (expected above {odd})",
                "The contrasts are not registered, one covers only part of the head, or they show two people.",
                "Look at both in a viewer; register them, or remove the wrong file.",
            )
