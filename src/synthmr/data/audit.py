"""Find what would make training wrong before any training: every file is read once, one volume in memory at a time.

An ``error`` is something that training must not start with (the command line exits with 1); a ``warning`` is something
a person should have seen. Each finding says what was found, what it means and how to mend it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from synthmr.case import SPLITS, Case, Cohort
from synthmr.data.split import Split, shared_subjects, torn
from synthmr.errors import DataError
from synthmr.io.files import sha256_array
from synthmr.io.grid import REGISTER_FIX, Grid, grid_difference, orientation, turn_between
from synthmr.io.naming import some
from synthmr.io.nifti import load, read_grid
from synthmr.prepare.mask import otsu_threshold
from synthmr.prepare.nan import load_labels, without_nan

#: a volume counts as skull-stripped where at least this share of its voxels is exactly 0 ...
STRIPPED = 0.2
#: ... and less than this share of the voxels on its six faces is not (padding alone leaves noise there)
BORDER = 0.1

#: how many of two volumes are skull-stripped -> limits ``(error, warning)`` of their foregrounds' Dice. A whole head
#: against its own brain has about 0.6
DICE_LIMITS: Mapping[int, tuple[float, float]] = {2: (0.8, 0.9), 1: (0.4, 0.4), 0: (0.5, 0.7)}

#: an image with at most so many different values in its foreground is a label map
LABEL_VALUES = 12

#: warnings that say the same of one contrast are listed for so many cases, then counted
KEEP = 3

#: a brain mask that covers less than this share of the image's foreground is no brain mask
SMALL_MASK = 0.25

MEND = "Do as the line says; if it stays so, remove the file or leave the case out."
REEXPORT = "Export, convert or download the file again; if it stays so, remove it or leave the case out."

Progress = Callable[..., None]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        level: error (training would be wrong) or warning.
        case: the case or cases, or empty for the whole cohort.
        contrast: the contrast or contrasts, or empty.
        what: what was found, with numbers and files.
        meaning: what it would do.
        fix: how to mend it.
    """

    level: str
    case: str
    contrast: str
    what: str
    meaning: str
    fix: str


@dataclass
class _Look:
    """What one volume left behind after its voxels were dropped."""

    grid: Grid
    foreground: np.ndarray  # (X, Y, Z) bool
    stripped: bool


@dataclass
class _Audit:
    """The findings so far, and the hashes of all images seen."""

    findings: list[Finding] = field(default_factory=list)
    hashes: dict[str, list[tuple[Case, str]]] = field(default_factory=dict)

    def add(self, level: str, case: str, contrast: str, what: str, meaning: str, fix: str) -> None:
        self.findings.append(Finding(level, case, contrast, what, meaning, fix))


def audit(
    cohort: Cohort,
    contrasts: Sequence[str] | None = None,
    split: Split | None = None,
    progress: Progress | None = None,
) -> list[Finding]:
    """Look at every file of a cohort.

    Args:
        cohort: from `synthmr.io.index.index`.
        contrasts: those that training will use; others are not looked at. Default: all.
        split: a split to check in place of the cohort's own.
        progress: called as ``progress(done, total, case name)`` after each case.

    Returns:
        Errors first, each kind in order of the cases; empty where all is well.
    """
    state = _Audit()
    _check_contrasts(cohort, contrasts, state)
    _check_split(cohort, split, state)
    for line in cohort.problems:
        state.add(
            "warning", "", "", line, "These files are not used.", "Do as the line says, or ignore it if that is what you want."
        )
    wanted = set(cohort.contrasts if contrasts is None else contrasts)
    for done, case in enumerate(cohort.cases, start=1):
        _check_case(case, wanted, state)
        if progress is not None:
            progress(done, len(cohort.cases), case.name)
    _check_duplicates(state)
    return _shorten(sorted(state.findings, key=lambda finding: finding.level != "error"))


def _shorten(findings: Sequence[Finding]) -> list[Finding]:
    """Count equal warnings of many cases instead of listing them all; errors are all kept."""
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for number, finding in enumerate(findings):
        merge = finding.level == "warning" and finding.case
        key = (finding.contrast, finding.meaning, finding.fix) if merge else (str(number),)
        groups.setdefault(key, []).append(finding)
    short: list[Finding] = []
    for alike in groups.values():
        short += alike[:KEEP] if len(alike) > KEEP + 1 else alike
        if len(alike) > KEEP + 1:
            names = some((finding.case for finding in alike[KEEP:]), 6)
            what = f"the same in {len(alike) - KEEP} more cases: {names}"
            short.append(replace(alike[0], case="", what=what))
    return short


# --- without voxels -----------------------------------------------------------------------------------------------


def _check_contrasts(cohort: Cohort, contrasts: Sequence[str] | None, state: _Audit) -> None:
    """Cases that lack a contrast."""
    complete = 0
    needed = list(cohort.contrasts if contrasts is None else dict.fromkeys(contrasts))
    for contrast in needed:
        lacking = [case.name for case in cohort.cases if contrast not in case.images]
        if not lacking:
            continue
        what = f"{len(lacking)} of {len(cohort.cases)} cases have no {contrast}: {some(lacking, 6)}"
        everyone = len(lacking) == len(cohort.cases)
        state.add(
            "error" if everyone else "warning",
            "",
            contrast,
            what,
            "Nothing can be trained with this contrast." if everyone else "These cases are left out where the contrast is needed.",
            f"Add the files; if they are there under another name, add --alias NAME={contrast}.",
        )
    complete = sum(all(name in case.images for name in needed) for case in cohort.cases)
    if contrasts is not None and not complete and all(name in cohort.contrasts for name in needed):
        what = f"no case has all of {', '.join(needed)}"
        state.add("error", "", "", what, "There is nothing to train on.", "Choose other contrasts, or add the missing files.")


def _check_split(cohort: Cohort, split: Split | None, state: _Audit) -> None:
    """Subjects in two parts, parts that are empty, and too few subjects."""
    if split is not None:
        source = split.source
        parts = {name: [case for case in cohort.cases if case.name in split.part(name)] for name in SPLITS}
    else:
        source = str(cohort.split_source) if cohort.split_source is not None else ""
        parts = {name: [case for case in cohort.cases if case.split == name] for name in SPLITS}
    where = {case.name: name for name, cases in parts.items() for case in cases}
    apart = torn(cohort, where)
    for doubt, cases_ in apart:
        what = f"{', '.join(f'{name} ({where[name]})' for name in cases_)} may be one person: {doubt.why}"
        meaning = "The model might be scored on a person whom it was trained on; `synthmr train` refuses this split."
        state.add("error", ", ".join(cases_), "", what, meaning, f"Add {doubt.fix}; or put them into one part.")
    for doubt in cohort.doubts:
        if doubt not in [each for each, _ in apart]:
            groups = "; ".join(some(group) for group in doubt.groups[:3])
            meaning = (
                "A split keeps them together, as names cannot tell; where nothing else is left to hold out, training is refused."
            )
            state.add("warning", "", "", f"{doubt.why} ({groups})", meaning, f"Add {doubt.fix}.")
    for subject, names in shared_subjects(parts).items():
        cases = [case.name for name in names for case in parts[name] if case.subject == subject]
        state.add(
            "error",
            ", ".join(cases),
            "",
            f"subject {subject} is in {' and in '.join(names)} ({source})",
            "The model would be scored on a person whom it was trained on; the scores would be too good.",
            "Put all cases of the subject into one part.",
        )
    if source:
        for name in ("train", "validation"):
            if not parts[name]:
                fix = f"Mark at least one case {name} in {source}, or remove the split to have one drawn."
                state.add("error", "", "", f"{source} has no {name} case", "Training cannot start.", fix)
    subjects = {case.subject for case in cohort.cases}
    if len(subjects) < 2:
        state.add(
            "warning",
            "",
            "",
            f"only 1 subject ({', '.join(subjects)})",
            "That is enough to synthesise and to score, not to train.",
            "Training needs at least two subjects: one to train on, one to validate with.",
        )


# --- one case -----------------------------------------------------------------------------------------------------


def _check_case(case: Case, wanted: set[str], state: _Audit) -> None:
    """All files of one case, one after the other; what is kept of each is its grid and its foreground."""
    looks: dict[str, _Look] = {}
    for contrast, path in case.images.items():
        if contrast in wanted:
            look = _check_image(case, contrast, path, state)
            if look is not None:
                looks[contrast] = _in_order(case, contrast, look, looks, state)
    _check_grids(case, {contrast: look.grid for contrast, look in looks.items()}, state)
    _check_overlap(case, looks, state)
    first = next(iter(looks.values()), None)
    for kind, label in (("mask", case.mask), ("segmentation", case.segmentation)):
        if label is not None:
            _check_label(case, kind, label, first, state)


def _in_order(case: Case, contrast: str, look: _Look, looks: Mapping[str, _Look], state: _Audit) -> _Look:
    """One grid in another storage order than the first contrast's: reordered as it is wherever a case is read, with a warning."""
    from nibabel.orientations import apply_orientation

    first, reference = next(iter(looks.items()), (contrast, look))
    turn = turn_between(look.grid, reference.grid) if grid_difference(look.grid, reference.grid) else None
    if turn is None:
        return look
    what = f"stored as {orientation(look.grid.affine)}, {first} as {orientation(reference.grid.affine)}, on one grid"
    meaning = "The axes are reordered when the case is read; no value changes."
    state.add("warning", case.name, contrast, what, meaning, "Nothing must be done; other programs may want files stored alike.")
    return _Look(reference.grid, np.asarray(apply_orientation(look.foreground, turn)), look.stripped)


def _check_image(case: Case, contrast: str, path: Path, state: _Audit) -> _Look | None:
    """One image: readable, finite, not constant, plausible; None if it is no use."""
    try:
        volume = load(path, check=False)
    except DataError as error:
        state.add("error", case.name, contrast, str(error), "The file cannot be used; training would stop at it.", MEND)
        return None
    for note in volume.notes:
        state.add(
            "warning", case.name, contrast, f"{path.name}: {note}", "Other programs may show it elsewhere.", "See the line itself."
        )
    array = volume.array
    bad = array.size - int(np.isfinite(array).sum())
    if bad and case.nan_to_zero:
        try:
            mask = load_labels(case.mask, f"mask of case {case.name}", True) if case.mask is not None else None
            volume = without_nan(volume, mask)
        except DataError as error:
            state.add("error", case.name, contrast, str(error), "The file cannot be used; training would stop at it.", MEND)
            return None
        array = volume.array
    elif bad:
        what = f"{path.name} holds {bad} NaN or infinite voxels ({bad / array.size:.2%})"
        fix = "Find the step that made them (often a division or a resampling) and repeat it, or read them as 0 with --nan-to-zero."
        state.add("error", case.name, contrast, what, "One such voxel makes every loss and weight NaN.", fix)
        return None
    low, high = float(array.min()), float(array.max())
    if low == high:
        kind = "empty (all zero)" if low == 0 else f"constant (every voxel is {low:g})"
        state.add("error", case.name, contrast, f"{path.name} is {kind}", "There is nothing in it to learn from.", REEXPORT)
        return None
    state.hashes.setdefault(sha256_array(array), []).append((case, contrast))
    foreground, stripped = find_foreground(array)
    _check_range(case, contrast, path, array, foreground, state)
    return _Look(Grid(volume.shape, volume.affine), foreground, stripped)


def _check_range(case: Case, contrast: str, path: Path, array: np.ndarray, foreground: np.ndarray, state: _Audit) -> None:
    """Intensities that no scanner writes. Percentiles and distinct values are taken from every 8th foreground voxel."""
    inside = array[foreground][::8]
    values = len(np.unique(inside))
    if len(inside) >= 100 and values <= LABEL_VALUES:
        what = f"{path.name} has only {values} different values in its foreground"
        meaning = "It looks like a label map, not like an image."
        state.add("error", case.name, contrast, what, meaning, "Remove or rename the file if it is a segmentation.")
        return
    low, high = float(array.min()), float(array.max())
    negative = int((array < 0).sum())
    if negative and not (low >= -1.01 and high <= 1.01):
        what = f"{path.name} holds {negative} negative voxels ({negative / array.size:.2%}), down to {low:.4g}"
        meaning = "Magnitude images have none; they come from resampling with splines, bias correction or z-scoring."
        fix = "A few faint ones do no harm; else resample linearly, or start from images in scanner units."
        state.add("warning", case.name, contrast, what, meaning, fix)
    elif high <= 1.01:
        what = f"{path.name} lies in [{low:.3g}, {high:.3g}]"
        meaning = "The image was normalised before; the scanner's units are lost, and two normalisers may clip twice."
        state.add("warning", case.name, contrast, what, meaning, "Use the images as they came from the scanner, if you have them.")
    if len(inside) < 100:
        return
    top = float(np.percentile(inside, 99.5))
    if top > 0 and high > 20 * top:
        what = f"{path.name}: the brightest voxel is {high:.4g}, 99.5 % of the foreground lie below {top:.4g}"
        meaning = "A few hot voxels squeeze everything else into a corner of the range under min-max scaling."
        state.add("warning", case.name, contrast, what, meaning, "Use the percentile normaliser (the default), or mend the voxels.")


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


def _check_grids(case: Case, grids: Mapping[str, Grid], state: _Audit) -> None:
    """Contrasts that lie on other grids than the first."""
    if not grids:
        return
    (first, reference), *rest = grids.items()
    differences = [(name, grid_difference(grid, reference)) for name, grid in rest]
    differences = [(name, text) for name, text in differences if text]
    if differences:
        state.add(
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


def _check_overlap(case: Case, looks: Mapping[str, _Look], state: _Audit) -> None:
    """Contrasts whose foreground is elsewhere, on the same grid."""
    if not looks:
        return
    (first, reference), *rest = looks.items()
    mixed = [name for name, look in rest if look.stripped != reference.stripped]
    if mixed:
        one, other = ("is", "are not") if reference.stripped else ("is not", "are")
        state.add(
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
            state.add(
                "error" if overlap < wrong else "warning",
                case.name,
                f"{first}, {name}",
                f"the brains overlap little: Dice {overlap:.2f} between {first} and {name} (expected above {odd})",
                "The contrasts are not registered, one covers only part of the head, or they show two people.",
                "Look at both in a viewer; register them, or remove the wrong file.",
            )


def _check_label(case: Case, kind: str, path: Path, first: _Look | None, state: _Audit) -> None:
    """A mask or segmentation: readable, whole numbers, on the images' grid; a mask also of a brain's size."""
    what = fix = ""
    meaning = f"The {kind} cannot be used."
    try:
        grid = read_grid(path)
        difference = grid_difference(grid, first.grid) if first is not None else ""
        if difference and first is not None and turn_between(grid, first.grid) is not None:
            difference = ""  # one grid in another storage order
        labels = None if difference else load(path, np.int32)
        if difference:
            what, meaning = (
                f"{path.name} lies on another grid than the images: {difference}",
                f"The {kind} would mark other anatomy.",
            )
            fix = "Resample it onto the images' grid with nearest-neighbour interpolation."
        elif kind == "mask" and labels is not None:
            size = int((labels.array != 0).sum())
            share = size / max(int(first.foreground.sum()), 1) if first is not None and first.stripped else 1.0
            if not size:
                what, fix = f"{path.name} is empty", "Remove it (the brain is then found in the images), or make a brain mask."
            elif share < SMALL_MASK:
                what = f"{path.name} covers {share:.1%} of the image's foreground"
                meaning, fix = (
                    "It looks like a lesion mask, not like the brain's; everything else would be cut away.",
                    "Rename it to seg.",
                )
    except DataError as error:
        what, fix = str(error), MEND
    if what:
        state.add("error", case.name, kind, what, meaning, fix)


# --- between cases ------------------------------------------------------------------------------------------------


def _check_duplicates(state: _Audit) -> None:
    """The same voxels under two names."""
    pairs: dict[tuple[str, str], list[str]] = {}
    cases = {case.name: case for seen in state.hashes.values() for case, _ in seen}
    for seen in state.hashes.values():
        for i, (case, contrast) in enumerate(seen):
            for other, name in seen[:i]:
                words = contrast if contrast == name else f"{name} = {contrast}"
                pairs.setdefault((other.name, case.name), []).append(words)
    for (one, two), shared in pairs.items():
        contrasts = ", ".join(sorted(set(shared)))
        if one == two:
            what, meaning = "two contrasts hold the same voxels", "One is a copy under a wrong name; the model would learn to copy."
            state.add("error", one, contrasts, what, meaning, "Replace the copy by the right file, or remove it.")
            continue
        same_person = cases[one].subject == cases[two].subject
        split = {cases[one].split, cases[two].split} - {None}
        where = f" and they are in {' and '.join(sorted(str(word) for word in split))}" if len(split) > 1 else ""
        state.add(
            "warning" if same_person and not where else "error",
            f"{one}, {two}",
            contrasts,
            f"the same voxels under two names{where}",
            "One person counts twice; in two parts of a split, the scores would be too good.",
            "Remove one of the two, or give both the same subject (a table's subject column).",
        )
