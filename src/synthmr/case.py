"""Volumes, cases and cohorts: what the stages hand to each other. No torch, no file access.

Axes. A `Volume` holds voxels as on disk, ``(X, Y, Z)`` with its 4x4 affine to millimetres (RAS+ world, as NIfTI).
Prepared volumes are reoriented to RAS: the first axis runs left to right, the second posterior to anterior, the
third inferior to superior. Slice-major arrays ``(S, H, W)`` take the plane's own axis first and keep the order of the
other two: axial ``(Z, X, Y)``, coronal ``(Y, X, Z)``, sagittal ``(X, Y, Z)``.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from synthmr.errors import DataError, UsageError, shown

#: plane -> the array axis (of an RAS volume) that its slices are stacked along
PLANES: Mapping[str, int] = {"sagittal": 0, "coronal": 1, "axial": 2}

SPLITS = ("train", "validation", "test")


#: bytes of the longest name; with what is put before and behind it, it must stay a file name, which has 255 at most
MOST_NAME = 160

#: characters that turn the direction of what is printed behind them
_TURNING = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def name_fault(name: str) -> str:
    """Why a word cannot name a case, a subject or a contrast, which files and folders are called by; empty where it can."""
    if name in ("", ".", ".."):
        return "is no name"
    if "/" in name or "\\" in name:
        return "holds a path separator, and would lead out of its folder"
    if any(unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp") or each in _TURNING for each in name):
        return "holds a line break, a control character or half a character"
    size = len(name.encode("utf-8"))
    return f"has {size} bytes, more than the {MOST_NAME} that a file name leaves room for" if size > MOST_NAME else ""


def check_name(name: str, where: str) -> str:
    """Check that a word can name a case, a subject or a contrast.

    Args:
        name: the word.
        where: the file and line that has it, or what it names, for messages.

    Returns:
        ``name``.

    Raises:
        DataError: it would be a path, or break a line or a file name.
    """
    fault = name_fault(name)
    if fault:
        raise DataError(f"{where}: the name {shown(name)} {fault}; rename it.")
    return name


def plane_axis(plane: str) -> int:
    """Return the RAS axis that slices of ``plane`` are stacked along.

    Raises:
        UsageError: ``plane`` is not axial, coronal or sagittal.
    """
    if plane not in PLANES:
        raise UsageError(f"unknown plane {plane!r}; allowed: {', '.join(PLANES)}.")
    return PLANES[plane]


def slice_major(array: np.ndarray, plane: str) -> np.ndarray:
    """View an RAS volume ``(X, Y, Z)`` as slices ``(S, H, W)`` of ``plane``."""
    return np.moveaxis(array, plane_axis(plane), 0)


def volume_major(slices: np.ndarray, plane: str) -> np.ndarray:
    """Inverse of `slice_major`: view ``(S, H, W)`` as ``(X, Y, Z)``."""
    return np.moveaxis(slices, 0, plane_axis(plane))


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """Voxel edge lengths in millimetres, in array axis order, of a 4x4 voxel index to RAS millimetres."""
    x, y, z = np.sqrt((np.asarray(affine)[:3, :3] ** 2).sum(axis=0)).tolist()
    return (x, y, z)


@dataclass(frozen=True, eq=False)
class Volume:
    """One 3-D image.

    Attributes:
        array: ``(X, Y, Z)``; scanner units (scl_slope and scl_inter applied) or normalised units.
        affine: 4x4, voxel index to RAS millimetres.
        path: where it came from, for messages; None for arrays made in memory.
        header: the nibabel header, or None; kept to write outputs that fit the input.
        notes: what is odd about the file's header, a sentence each; empty where nothing is.
    """

    array: np.ndarray
    affine: np.ndarray
    path: Path | None = None
    header: Any = None
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        x, y, z = self.array.shape
        return (x, y, z)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel edge lengths in millimetres, in array axis order."""
        return spacing_of(self.affine)


@dataclass(frozen=True)
class Case:
    """The files of one subject (or one session of it).

    Attributes:
        name: unique in the cohort; ``sub-01_ses-02`` where sessions exist.
        subject: the person; splits keep all cases of a subject together.
        images: canonical contrast name -> file.
        mask: brain mask file, or None.
        segmentation: label file, or None.
        split: train, validation, test, or None where nothing says.
        session: the visit, as its folder, name or column writes it; empty where there is one alone.
        reasons: contrast (also mask and segmentation) -> why this file was chosen, where a choice was made.
        passed_over: files of this case that were not taken, each with why.
        asked: contrast -> what the user must say before one of its several files is used.
        nan_to_zero: whether NaN outside the brain are read as 0; else they are an error.

    Raises:
        DataError: the name would be a path, or break a line.
    """

    name: str
    subject: str
    images: Mapping[str, Path]
    mask: Path | None = None
    segmentation: Path | None = None
    split: str | None = None
    session: str = ""
    reasons: Mapping[str, str] = field(default_factory=dict)
    passed_over: tuple[tuple[Path, str], ...] = ()
    asked: Mapping[str, str] = field(default_factory=dict)
    nan_to_zero: bool = False

    def __post_init__(self) -> None:
        check_name(self.name, "case")

    def image(self, contrast: str) -> Path:
        """The file of ``contrast``.

        Raises:
            DataError: the case does not have it.
        """
        if contrast not in self.images:
            have = ", ".join(self.images) or "nothing"
            raise DataError(f"case {self.name} has no {contrast}; it has {have}. Add the file, or leave the case out.")
        return self.images[contrast]


@dataclass(frozen=True)
class Doubt:
    """Cases of which names cannot tell whether they are of one person.

    Attributes:
        groups: names of cases; those of a group may be of one person although their subjects differ.
        why: what was seen, a clause without its stop.
        fix: what to write to settle it.
    """

    groups: tuple[tuple[str, ...], ...]
    why: str
    fix: str

    def __str__(self) -> str:
        """The doubt as a line."""
        cases = len({name for group in self.groups for name in group})
        return f"{self.why} ({cases} cases). No part of a split tears them apart until you say: {self.fix}."


@dataclass(frozen=True)
class Cohort:
    """What `synthmr.io.index.index` found in a folder or table.

    Attributes:
        root: the folder or table.
        layout: folder, brats, bids or table.
        cases: sorted by name.
        problems: lines about files that were passed over and why.
        split_source: the file that gave the split, or None.
        doubts: cases of several subjects that may be one person.
    """

    root: Path
    layout: str
    cases: tuple[Case, ...]
    problems: tuple[str, ...] = ()
    split_source: Path | None = None
    doubts: tuple[Doubt, ...] = ()

    @property
    def persons(self) -> dict[str, str]:
        """Case -> a name for its person, the same for all who may be one: what a split must not tear apart."""
        above = {case.subject: case.subject for case in self.cases}

        def top(subject: str) -> str:
            while above[subject] != subject:
                above[subject] = above[above[subject]]
                subject = above[subject]
            return subject

        subjects = {case.name: case.subject for case in self.cases}
        for doubt in self.doubts:
            for group in doubt.groups:
                found = [top(subjects[name]) for name in group if name in subjects]
                for other in found[1:]:
                    first, second = sorted((top(found[0]), top(other)))
                    above[second] = first
        return {case.name: top(case.subject) for case in self.cases}

    @property
    def contrasts(self) -> tuple[str, ...]:
        """Every contrast that any case has, in order of first appearance."""
        return tuple(dict.fromkeys(contrast for case in self.cases for contrast in case.images))

    def case(self, name: str) -> Case:
        """The case called ``name``.

        Raises:
            DataError: there is none.
        """
        for case in self.cases:
            if case.name == name:
                return case
        raise DataError(f"{self.root} has no case {name!r}; it has {', '.join(c.name for c in self.cases[:8])}.")


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """One case ready for a method: RAS, cropped to the brain, normalised.

    Attributes:
        name: the case.
        images: contrast -> ``(X, Y, Z)`` float32, normalised; voxels outside the mask hold the normaliser's background.
        mask: ``(X, Y, Z)`` bool, the brain.
        segmentation: ``(X, Y, Z)`` integer labels, or None.
        affine: 4x4 of the prepared (reoriented, cropped) grid.
        history: the steps applied, in order, each {"step": name, **parameters}; plain JSON data. `synthmr.prepare`
            inverts them.
        normalizers: contrast -> {"name": ..., **parameters}: the normaliser's parameters for that image.
        given: the images that a prediction may be made from, whose voxels gave mask and box; the others are truth. Empty: all.
    """

    name: str
    images: Mapping[str, np.ndarray]
    mask: np.ndarray
    segmentation: np.ndarray | None
    affine: np.ndarray
    history: tuple[dict[str, Any], ...] = ()
    normalizers: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    given: tuple[str, ...] = ()

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel edge lengths in millimetres, in array axis order."""
        return spacing_of(self.affine)
