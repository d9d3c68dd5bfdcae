"""How folders of images are laid out: BIDS, and everything that keeps a subject's files together.

Folder layouts, all by one rule: the contrast is the last word of the file name that names one, the case is the folder.
Around it: BraTS 2015 keeps each image in a folder of its own; IXI keeps each contrast in a folder of its own; a
subject's folder may hold sessions, as folders or as prefixes of the file names; a folder may be one single case.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from synthmr.case import Case, name_fault
from synthmr.contrasts import MASK, SEGMENTATION
from synthmr.errors import DataError, shown
from synthmr.io.naming import Name, Problems, choose, is_phase, is_session, is_synthetic, parse_name, some, subject_of
from synthmr.io.nifti import is_nifti, stem

#: image formats that are not read; a person may have them by mistake
_FOREIGN = (".mha", ".mhd", ".nrrd", ".hdr", ".img", ".mgz", ".mgh", ".dcm", ".ima", ".npy", ".npz", ".mat")

#: folders between a subject and its files that say nothing
_CONTAINERS = ("anat", "nifti", "nii", "mri")

LABELS = (SEGMENTATION, MASK)


@dataclass(frozen=True)
class Found:
    """A NIfTI file whose name was understood; ``stem`` is the name without its suffix."""

    path: Path
    stem: str
    name: Name


def walk(root: Path, problems: Problems) -> list[Path]:
    """All NIfTI files below ``root``, sorted; hidden files and ``derivatives`` are left out, other formats noted."""
    files: list[Path] = []
    foreign: dict[str, list[Path]] = {}
    seen = set()

    def unreadable(error: OSError) -> None:
        where = os.path.relpath(os.fsdecode(error.filename or "a folder"), root)
        problems.add("unreadable folder", f"{where}: cannot be read ({error.strerror or error}), so what is in it is left out.")

    for folder, folders, names in os.walk(root, onerror=unreadable, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name.lower() != "derivatives")
        for name in sorted(names):
            if name.startswith("."):
                continue
            path = Path(folder, name)
            if is_nifti(path):
                files.append(path)
            elif path.suffix.lower() in _FOREIGN:
                foreign.setdefault(path.suffix.lower(), []).append(path.relative_to(root))
    for suffix, paths in foreign.items():
        how = "dcm2niix" if suffix in (".dcm", ".ima") else "SimpleITK or nibabel"
        verb = "is no NIfTI file and was" if len(paths) == 1 else "are no NIfTI files and were"
        problems.add("other format", f"{some(paths)} {verb} passed over: convert to .nii.gz (for example with {how}).")
    return files


def find_images(root: Path, aliases: Mapping[str, str] | None, problems: Problems) -> list[Found]:
    """Every file below ``root`` whose name, or else whose folder's whole name, names a contrast.

    Raises:
        DataError: there is no NIfTI file.
    """
    files = walk(root, problems)
    if not files:
        seen = "; ".join(problems.lines())
        raise DataError(
            f"{root} holds no .nii or .nii.gz file{': ' + seen if seen else '.'} Give a folder with CASE/CONTRAST.nii.gz, "
            "BraTS or BIDS files, or a CSV/TSV table."
        )
    found: list[Found] = []
    unknown: dict[str, list[Path]] = {}
    for path in files:
        base = stem(path)
        if is_synthetic(base) or is_phase(base):
            kind = "synthetic" if is_synthetic(base) else "a phase image"
            problems.add(kind, f"{path.relative_to(root)} was passed over: its name says that it is {kind}.")
            continue
        name = parse_name(base, aliases)
        folder = parse_name(path.parent.name, aliases) if path.parent != root else None
        if name is None and folder is not None and not folder.prefix and not folder.tail:
            name = Name(folder.contrast, base, folder.word, "")
        if name is None:
            unknown.setdefault(base.replace("_", "-").split("-")[-1], []).append(path.relative_to(root))
        else:
            found.append(Found(path, base, name))
    for word, paths in unknown.items():
        files_ = "file names" if len(paths) == 1 else "file names each"
        line = f"{some(paths)}: no contrast in the {files_}; if it is {word!r}, add --alias {word}=CONTRAST."
        problems.add("no contrast in the name", line)
    return found


# --- BIDS ---------------------------------------------------------------------------------------------------------


def bids_anat_folders(root: Path) -> list[tuple[str, str, Path]]:
    """(subject, session or "", anat folder) below a BIDS root, a subject's folder or a session's folder."""

    def sessions(subject: Path) -> Iterator[tuple[str, str, Path]]:
        if _is_folder(subject / "anat"):
            yield subject.name, "", subject / "anat"
        for session in sorted(subject.glob("ses-*/anat")):
            yield subject.name, session.parent.name, session

    real = root.resolve()
    if real.name.startswith("ses-") and real.parent.name.startswith("sub-") and _is_folder(root / "anat"):
        return [(real.parent.name, real.name, root / "anat")]
    if real.name.startswith("sub-"):
        own = [(real.name, session, folder) for _, session, folder in sessions(root)]
        if own:
            return own
    return [entry for subject in sorted(root.glob("sub-*")) if subject.is_dir() for entry in sessions(subject)]


def _is_folder(path: Path) -> bool:
    """Whether a path is a folder that can be reached; one that cannot costs what is in it, which `walk` says."""
    try:
        return path.is_dir()
    except OSError:
        return False


def bids_cases(root: Path, aliases: Mapping[str, str] | None, problems: Problems) -> list[Case]:
    """Cases of a BIDS data set: one a subject, or one a session where there are sessions. ``derivatives`` is not read."""
    found = find_images(root, aliases, problems)
    by_folder: dict[Path, list[Found]] = {}
    for item in found:
        by_folder.setdefault(item.path.parent, []).append(item)
    cases = []
    for subject, session, folder in bids_anat_folders(root):
        name = f"{subject}_{session}" if session else subject
        images = [_bids_label(item) for item in by_folder.pop(folder, [])]
        case = make_case(name, subject, images, root, problems)
        if case is None and not name_fault(name):
            problems.add("no images", f"{name} has no anatomical image in {folder.relative_to(root)}.")
        elif case is not None:
            cases.append(case)
    other = [item.path.relative_to(root) for items in by_folder.values() for item in items if item.name.contrast not in LABELS]
    if other:
        problems.add("not in anat", f"{some(other)}: not in an anat folder of a subject, passed over.")
    return cases


def _bids_label(item: Found) -> Found:
    """A BIDS mask is the brain's unless its ``label-`` or ``desc-`` entity says otherwise (lesion, tumor)."""
    named = item.stem.lower()
    if item.name.contrast == MASK and any(
        f"{key}-{word}" in named for key in ("label", "desc") for word in ("lesion", "tumo", "l_")
    ):
        return Found(item.path, item.stem, Name(SEGMENTATION, item.name.prefix, item.name.word, item.name.tail))
    return item


# --- folders ------------------------------------------------------------------------------------------------------


def folder_cases(root: Path, aliases: Mapping[str, str] | None, problems: Problems) -> list[Case]:
    """Cases of BraTS, ``subject/CONTRAST.nii.gz`` and IXI-like folders."""
    groups = _group(root, find_images(root, aliases, problems), aliases)
    named = []
    for (folder, prefix), items in _drop_nested(root, groups, problems).items():
        name, subject = _names(root, folder, prefix)
        named.append((name, subject, folder, prefix, items))
    repeated = {name for name, times in Counter(entry[0] for entry in named).items() if times > 1}
    cases = []
    for name, subject, folder, prefix, items in named:
        if name in repeated:
            long = "_".join((*folder.relative_to(root).parts, *([prefix] if prefix else [])))
            name, subject = long, long if subject == name else subject
        if prefix and folder != root and not is_session(prefix):
            where = folder.relative_to(root)
            line = (
                f"{where} holds several cases (the names start {prefix}, ...); they are taken as sessions of one subject, so "
                "that a split cannot leak. If they are persons, give each a folder, or use a CSV/TSV table."
            )
            problems.add("several cases in a folder", line)
        case = make_case(name, subject, items, root, problems)
        if case is None and not name_fault(name):
            problems.add("no images", f"{folder.relative_to(root)} has labels and no image; it is no case.")
        elif case is not None:
            cases.append(case)
    return cases


Groups = dict[tuple[Path, str], list[Found]]


def _group(root: Path, found: Sequence[Found], aliases: Mapping[str, str] | None) -> Groups:
    """Files that belong to one case, by (folder, prefix of the file names where a folder holds several cases)."""
    by_folder: dict[Path, list[Found]] = {}
    for item in found:
        by_folder.setdefault(item.path.parent, []).append(item)
    groups: Groups = {}
    for folder, items in by_folder.items():
        home, per_file = folder, False
        own = parse_name(stem(folder), aliases) if folder != root else None
        if own is not None and {item.name.contrast for item in items} == {own.contrast}:
            # the folder is the contrast: a wrapper around one image, or (IXI) all subjects' images of that contrast
            per_file = len(items) > 1
            plain = not own.prefix and not own.tail
            if per_file or plain or stem(folder) == items[0].stem or folder.name.startswith("VSD."):
                home = folder.parent
        while home not in (root, root.parent) and home.parent != root and home.name.lower() in _CONTAINERS:
            home = home.parent
        for item in items:
            groups.setdefault((home, item.name.prefix if per_file else ""), []).append(item)
    split: Groups = {}
    for (folder, prefix), items in groups.items():
        parts = {prefix: items} if prefix else _by_prefix(items, flat=folder == root)
        for part, members in parts.items():
            split.setdefault((folder, part), []).extend(members)
    return split


def _by_prefix(items: Sequence[Found], flat: bool) -> dict[str, list[Found]]:
    """Split one folder's files into cases by the prefix of their names, where contrasts repeat and prefixes tell them apart.

    Inside a subject's folder (``flat`` false) every part must then have two contrasts or more, or it is no session
    (``raw_T1, bet_T1, T2`` is one case). Labels without a prefix belong to every part.
    """
    images = [item for item in items if item.name.contrast not in LABELS]
    if max(Counter(item.name.contrast for item in images).values(), default=0) < 2:
        return {"": list(items)}
    parts: dict[str, list[Found]] = {}
    for item in images:
        parts.setdefault(item.name.prefix, []).append(item)
    counts = [len({item.name.contrast for item in part}) for part in parts.values()]
    if len(parts) < 2 or "" in parts or (not flat and min(counts) < 2):
        return {"": list(items)}
    for item in items:
        if item.name.contrast in LABELS:
            for prefix in [item.name.prefix] if item.name.prefix in parts else parts if not item.name.prefix else []:
                parts[prefix].append(item)
    return parts


def _drop_nested(root: Path, groups: Groups, problems: Problems) -> Groups:
    """Pass over what lies in folders below a case's folder, and files beside case folders that make no case."""
    images = {key: {i.name.contrast for i in items if i.name.contrast not in LABELS} for key, items in groups.items()}
    below_root = any(folder != root and images[folder, prefix] for folder, prefix in groups)
    homes = {folder for folder, prefix in groups if images[folder, prefix]}
    if below_root and (root, "") in groups and len(images[root, ""]) < 2:
        homes.discard(root)
    kept: Groups = {}
    nested: list[Found] = []
    beside: list[Found] = []
    for (folder, prefix), items in groups.items():
        if folder == root and root not in homes:
            beside += items
        elif any(parent in homes for parent in folder.parents if parent == root or root in parent.parents):
            nested += items
        else:
            kept[folder, prefix] = items
    if nested:
        line = f"{some(i.path.relative_to(root) for i in nested)}: in a folder inside a case's folder, passed over."
        problems.add("inside a case", line)
    if beside:
        why = "beside the case folders" if kept else "labels and no image, so no case"
        problems.add("beside the cases", f"{some(i.path.relative_to(root) for i in beside)}: {why}, passed over.")
    return kept


def _names(root: Path, folder: Path, prefix: str) -> tuple[str, str]:
    """(case name, subject) of a folder, and of a prefix of its file names where it holds several cases."""
    real = folder
    if folder == root:
        real = root.resolve()
        if real.name.lower() in _CONTAINERS:
            real = real.parent
        if prefix and not is_session(prefix):  # a flat folder: each prefix is a person's
            return prefix, subject_of(prefix)
    name = real.name or "case"
    subject = subject_of(name)
    if is_session(name) and folder != root:
        parent = (root.resolve() if folder.parent == root else folder.parent).name
        name, subject = f"{parent}_{name}", subject_of(parent)
    rest = prefix.removeprefix(name).strip("-_. ")
    return (f"{name}_{rest}" if rest else name), subject


def make_case(name: str, subject: str, items: Sequence[Found], root: Path, problems: Problems) -> Case | None:
    """One case from its files; None if it has no image, or no name. Of two files for one contrast, `choose` decides or nobody."""
    fault = name_fault(name) or name_fault(subject)
    if fault:
        problems.add("no name", f"{shown(name)}: the name {fault}, so the case is left out; rename the folder or the files.")
        return None
    by_contrast: dict[str, list[Found]] = {}
    for item in items:
        by_contrast.setdefault(item.name.contrast, []).append(item)
    paths: dict[str, Path] = {}
    for contrast, files in by_contrast.items():
        index: int | None = 0
        if len(files) > 1:
            index, why = choose([(item.path, item.name) for item in files], [item.stem for item in files])
            both = " and ".join(str(item.path.relative_to(root)) for item in files)
            fix = "" if index is not None else " Remove or rename one, or list the files in a CSV/TSV table."
            problems.add("two files for one contrast", f"case {name} has {len(files)} files for {contrast}: {both}; {why}.{fix}")
        if index is not None:
            paths[contrast] = files[index].path
    images = {contrast: path for contrast, path in paths.items() if contrast not in LABELS}
    if not images and not any(contrast not in LABELS for contrast in by_contrast):
        return None
    return Case(name, subject, images, paths.get(MASK), paths.get(SEGMENTATION))
