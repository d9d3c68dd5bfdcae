"""Find the cases of a folder or table: `index` for cohorts, `index_files` for single files, `describe` for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from synthmr.case import SPLITS, Case, Cohort
from synthmr.contrasts import CONTRASTS, MASK, SEGMENTATION, canonical, resolve
from synthmr.errors import DataError, UsageError
from synthmr.io.grid import turn_between
from synthmr.io.layouts import bids_anat_folders, bids_cases, folder_cases
from synthmr.io.naming import Problems, parse_name, subject_of
from synthmr.io.nifti import Grid, grid_text, is_nifti, read_grid, same_grid, stem
from synthmr.io.recognise import with_passed_over
from synthmr.io.table import apply_split, is_table, table_cases
from synthmr.reading import Reading

#: names of the split file that is looked for in a data folder
SPLIT_FILES = ("splits.tsv", "splits.csv")


def index(
    root: Path | str,
    aliases: Mapping[str, str] | None = None,
    split_file: Path | str | None = None,
    *,
    subject: str = "",
    entities: Mapping[str, str] | None = None,
    prefer: Sequence[str] = (),
    nan_to_zero: bool = False,
) -> Cohort:
    """Find the cases of ``root``: `find` with the parts of a `Reading` as keywords.

    Args:
        root: a folder (BIDS; BraTS; CASE/CONTRAST.nii.gz; one single case) or a CSV/TSV table.
        aliases: further contrast names, from `synthmr.contrasts.parse_aliases`.
        split_file: table with columns case and split; default: ``splits.tsv`` in the folder, where there is one.
        subject: regular expression that says who is who, see `Reading`.
        entities: BIDS entity -> the value that a file must have, see `Reading`.
        prefer: words of the paths to take where several files are versions of one scan.
        nan_to_zero: read NaN outside the brain as 0.

    Raises:
        DataError: no such folder, no images in it, or a wrong table or split file.
        UsageError: a pattern, entity or word that makes no sense.
    """
    words = [f"{alias}={name}" for alias, name in (aliases or {}).items()]
    table = Path(split_file) if split_file is not None else None
    return find(root, Reading.of(words, table, subject, entities, prefer, nan_to_zero))


def find(root: Path | str, reading: Reading | None = None) -> Cohort:
    """Find the cases of ``root``.

    Args:
        root: a folder (BIDS; BraTS; CASE/CONTRAST.nii.gz; one single case) or a CSV/TSV table.
        reading: how it is read; None: as it is.

    Raises:
        DataError: no such folder, no images in it, or a wrong table or split file.
    """
    root, reading = Path(root), reading or Reading()
    problems = Problems()
    if not root.exists():
        raise DataError(f"no such folder: {root}. Check the path.")
    if root.is_file():
        if is_nifti(root):
            raise DataError(f"{root} is one image; give the folder of its case or cohort.")
        if not is_table(root):
            raise DataError(f"{root} is neither a folder nor a .csv or .tsv table.")
        layout, (cases, doubts) = "table", table_cases(root, reading, problems)
    elif bids_anat_folders(root):
        layout, cases, doubts = "bids", bids_cases(root, reading, problems), []
    else:
        cases, doubts = folder_cases(root, reading, problems)
        brats = any(case.name.lower().startswith("brats") or _is_vsd(case) for case in cases)
        layout = "brats" if brats else "folder"
    if not cases:
        why = "; ".join(problems.lines())
        raise DataError(f"{root} holds no case with an image whose contrast is known{': ' + why if why else '.'}")
    repeated = [name for name, times in Counter(case.name for case in cases).items() if times > 1]
    if repeated:
        raise DataError(f"{root} has two cases called {repeated[0]}; rename a folder, or list the files in a CSV/TSV table.")
    source = _find_split_file(root, reading.split_file)
    if source is not None:
        cases = apply_split(cases, source, problems)
    elif any(case.split for case in cases):
        source = root
    cases = with_passed_over(cases, problems.passed_over, root)
    cases = [replace(case, nan_to_zero=reading.nan_to_zero) for case in cases]
    ordered = sorted((_ordered(case) for case in cases), key=lambda case: case.name)
    return Cohort(root, layout, tuple(ordered), problems.lines(), source, tuple(doubts))


def _is_vsd(case: Case) -> bool:
    return any(path.name.startswith("VSD.") for path in case.images.values())


def _find_split_file(root: Path, given: Path | None) -> Path | None:
    if given is not None:
        if not given.is_file():
            raise DataError(f"no such split file: {given}. Check the path.")
        return given
    return next((root / name for name in SPLIT_FILES if (root / name).is_file()), None)


def _ordered(case: Case) -> Case:
    """The case with its contrasts in the order of the contrast table, own names last."""
    rank = {name: i for i, name in enumerate(CONTRASTS)}
    names = sorted(case.images, key=lambda name: (rank.get(name, len(rank)), name))
    images = {name: case.images[name] for name in names}
    return replace(case, images=images)


def index_files(pairs: Mapping[str, Path | str], aliases: Mapping[str, str] | None = None, name: str = "") -> Case:
    """Make a case of single files.

    Args:
        pairs: contrast (any alias; also ``mask`` and ``segmentation``) -> file.
        aliases: further contrast names.
        name: of the case; default: the first image's file name without its contrast, else its folder's name.

    Raises:
        DataError: a file does not exist.
        UsageError: unknown contrast, a contrast or a file given twice, or no image.
    """
    files: dict[str, Path] = {}
    for word, given in pairs.items():
        path = Path(given)
        label = canonical(word, aliases)
        contrast = label if label in (MASK, SEGMENTATION) else resolve(word, aliases)
        if contrast in files:
            raise UsageError(f"{contrast} was given twice: {files[contrast]} and {path}; give each contrast once.")
        twin = next((other for other, file in files.items() if file == path), None)
        if twin is not None:
            raise UsageError(f"{path} was given as {twin} and as {contrast}; give each contrast its own file.")
        if not path.is_file():
            raise DataError(
                f"{contrast}: {path} {'is a folder' if path.is_dir() else 'does not exist'}; give a .nii or .nii.gz file."
            )
        files[contrast] = path
    images = {contrast: path for contrast, path in files.items() if contrast not in (MASK, SEGMENTATION)}
    if not images:
        raise UsageError("no image was given; write for example T1w=a.nii.gz.")
    if not name:
        first = next(iter(images.values()))
        parsed = parse_name(stem(first), aliases)
        name = (parsed.prefix if parsed else stem(first)) or first.resolve().parent.name or "case"
    return Case(name, subject_of(name), images, files.get(MASK), files.get(SEGMENTATION))


def describe(cohort: Cohort) -> dict[str, Any]:
    """What a cohort holds, as plain JSON data; reads headers only.

    Returns:
        root, layout, split_source; ``contrasts`` (all names); ``cases``: [{name, subject, session, contrasts, files, mask,
        segmentation, split, grid, reasons, passed_over}], where ``files`` is contrast -> path, ``mask`` and ``segmentation`` are
        paths or None, ``reasons`` is contrast -> why that file, ``passed_over`` is [{path, why}], paths are relative to the
        root, and ``grid`` is words, or ``differs`` with the contrasts of each grid;
        ``missing``: contrast -> names of the cases without it; ``grids``: [{shape, spacing, orientation, images}],
        the most frequent first; ``splits``: split -> number of cases; ``problems``: lines; ``doubts``: [{cases, why, fix}], cases
        that may be of one person.
    """
    problems = [*map(str, cohort.doubts), *cohort.problems]
    base = cohort.root.parent if cohort.root.is_file() else cohort.root
    counts: Counter[tuple[tuple[int, ...], tuple[float, ...], str]] = Counter()
    cases = []
    for case in cohort.cases:
        grids: dict[str, Grid] = {}
        for contrast, path in case.images.items():
            try:
                grids[contrast] = read_grid(path, f"{contrast} of case {case.name}")
            except DataError as error:
                problems.append(str(error))
                continue
            problems += [f"{contrast} of case {case.name}: {note}" for note in grids[contrast].notes]
            grid = grids[contrast]
            counts[grid.shape, tuple(round(edge, 3) for edge in grid.spacing), grid.orientation] += 1
        cases.append(
            {
                "name": case.name,
                "subject": case.subject,
                "session": case.session,
                "contrasts": list(case.images),
                "files": {contrast: _below(path, base) for contrast, path in case.images.items()},
                "mask": _below(case.mask, base) if case.mask is not None else None,
                "segmentation": _below(case.segmentation, base) if case.segmentation is not None else None,
                "split": case.split,
                "grid": _grid_words(grids),
                "reasons": dict(case.reasons),
                "passed_over": [{"path": _below(path, base), "why": why} for path, why in case.passed_over],
            }
        )
    contrasts = [name for name in CONTRASTS if name in cohort.contrasts]
    contrasts += sorted(set(cohort.contrasts) - set(contrasts))
    return {
        "root": str(cohort.root),
        "layout": cohort.layout,
        "split_source": str(cohort.split_source) if cohort.split_source is not None else None,
        "contrasts": contrasts,
        "cases": cases,
        "missing": {name: [case.name for case in cohort.cases if name not in case.images] for name in contrasts},
        "grids": [
            {"shape": list(shape), "spacing": list(spacing), "orientation": letters, "images": images}
            for (shape, spacing, letters), images in counts.most_common()
        ],
        "splits": {name: sum(case.split == name for case in cohort.cases) for name in SPLITS},
        "problems": problems,
        "doubts": [{"cases": list(map(list, doubt.groups)), "why": doubt.why, "fix": doubt.fix} for doubt in cohort.doubts],
    }


def _below(path: Path, base: Path) -> str:
    """A path as seen from the root of the data, with ``/``; absolute where it lies elsewhere (a table may name any file)."""
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else str(path)


def _grid_words(grids: Mapping[str, Grid]) -> str:
    """The grid of a case's images, or which contrasts lie on which."""
    if not grids:
        return "unreadable"
    groups: list[tuple[Grid, list[str]]] = []
    for contrast, grid in grids.items():
        home = next((names for other, names in groups if same_grid(other, grid) or turn_between(grid, other) is not None), None)
        if home is None:
            groups.append((grid, [contrast]))
        else:
            home.append(contrast)
    if len(groups) == 1:
        return grid_text(groups[0][0])
    return "differs: " + "; ".join(f"{', '.join(names)}: {grid_text(grid)}" for grid, names in groups)
