"""How folders of images are laid out: BIDS, and everything that keeps a subject's files together.

Folder layouts, all by one rule: the contrast is the last word of the file name that names one, the case is the folder.
Around it: BraTS 2015 keeps each image in a folder of its own; IXI keeps each contrast in a folder of its own; a
subject's folder may hold sessions, as folders or as prefixes of the file names; a folder may be one single case.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from synthmr.case import Case, Doubt, name_fault
from synthmr.contrasts import MASK, SEGMENTATION
from synthmr.errors import DataError, shown
from synthmr.io.folder_words import PERSON, SERIES, is_session, kind, split_session, tokens
from synthmr.io.grammar import is_bare
from synthmr.io.members import Member, clean, doubts_of, told
from synthmr.io.naming import Name, Problems, parse_name, some
from synthmr.io.nifti import is_nifti, stem
from synthmr.io.persons import Place, identify
from synthmr.io.recognise import recognise
from synthmr.io.versions import Version, settle
from synthmr.reading import Reading, person_pattern

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
    return [Found(path, base, name) for path, base, name in recognise(root, files, aliases, problems)]


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


def bids_cases(root: Path, reading: Reading, problems: Problems) -> list[Case]:
    """Cases of a BIDS data set: one a subject, or one a session where there are sessions. ``derivatives`` is not read."""
    found = find_images(root, reading.known, problems)
    by_folder: dict[Path, list[Found]] = {}
    for item in found:
        by_folder.setdefault(item.path.parent, []).append(item)
    pattern = person_pattern(reading.subject)
    cases = []
    for subject, session, folder in bids_anat_folders(root):
        name = f"{subject}_{session}" if session else subject
        images = [_bids_label(item) for item in by_folder.pop(folder, [])]
        if pattern is not None and images:
            match = pattern.search(images[0].path.relative_to(root).as_posix())
            if match is None or not match["subject"]:
                line = f"{name} was passed over: --subject {pattern.pattern!r} does not match {images[0].path.relative_to(root)}."
                problems.add("no subject", line)
                continue
            said = match["session"] if "session" in pattern.groupindex else None
            subject, session = clean(match["subject"]), clean(said) if said else session
            name = f"{subject}_{session}" if session else subject
        case = make_case(name, subject, images, root, problems, reading, session)
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

#: files that belong to one case, by (folder, prefix of the file names where a folder holds several cases)
Groups = dict[tuple[Path, str], list[Found]]


def folder_cases(root: Path, reading: Reading, problems: Problems) -> tuple[list[Case], list[Doubt]]:
    """Cases of BraTS, ``subject/CONTRAST.nii.gz`` and IXI-like folders, and which of them may be one person."""
    aliases = reading.known
    found = find_images(root, aliases, problems)
    groups = _drop_nested(root, _group(root, found, aliases), problems)
    wrappers = _wrappers(root, found, aliases)
    pattern = person_pattern(reading.subject)
    if pattern is not None:
        return _cases(root, told(root, groups, wrappers, pattern, problems), reading, problems), []
    keys = list(groups)
    places = [Place(_parts(root, folder, wrappers), prefix) for folder, prefix in keys]
    identities, guesses, notes = identify(places, *_root_name(root))
    for note in notes:
        problems.add("a common stem", note)
    members = [
        Member(identity, folder, prefix, groups[folder, prefix])
        for (folder, prefix), identity in zip(keys, identities, strict=True)
    ]
    for member in members:
        if member.identity.unclear and _has_image(member.items):
            where = member.folder.relative_to(root)
            line = (
                f"{where} holds several cases (the names start {member.prefix}, ...); they are taken as sessions of one subject. If"
                f" they are persons, add --subject '^{where.as_posix()}/(?P<subject>[^/_]+)_', or use a CSV/TSV table."
            )
            problems.add("several cases in a folder", line)
    cases = _cases(root, members, reading, problems)
    return cases, doubts_of(guesses, members, cases)


def _has_image(items: Sequence[Found]) -> bool:
    return any(item.name.contrast not in LABELS for item in items)


def _root_name(root: Path) -> tuple[str, str]:
    """Name of the root's person, and of the session that the root is; the session is empty where it is none."""
    real = root.resolve()
    if real.name.lower() in _CONTAINERS:
        real = real.parent
    if is_session(real.name) and real.parent.name:
        return real.parent.name, real.name
    return real.name or "case", ""


def _parts(root: Path, folder: Path, wrappers: Collection[Path]) -> tuple[str, ...]:
    """Names of the folders from the root to a case, without those that hold one contrast each."""
    parts = folder.relative_to(root).parts
    return tuple(part for number, part in enumerate(parts, 1) if root.joinpath(*parts[:number]) not in wrappers)


def _wrappers(root: Path, found: Sequence[Found], aliases: Mapping[str, str] | None) -> set[Path]:
    """Folders that are called by a contrast and hold images of it alone; with more than one contrast ``T1`` may be a time point."""
    below: dict[Path, set[str]] = {}
    for item in found:
        if item.name.contrast not in LABELS:
            for parent in item.path.parents:
                if parent == root:
                    break
                below.setdefault(parent, set()).add(item.name.contrast)
    parsed: dict[str, Name | None] = {}
    wrappers = set()
    for folder, contrasts in below.items():
        name = parsed.setdefault(folder.name, parse_name(folder.name, aliases) if folder.name not in parsed else None)
        if name is None or (name.tail.isdigit() and not name.prefix):  # PD_001 is rather a person
            continue
        plain = not name.prefix and not name.tail
        numbered = all(word.isdigit() or not any(letter.isdigit() for letter in word) for word in tokens(name.prefix))
        if (contrasts == {name.contrast} and numbered) or (plain and len(folder.name) > 2):
            wrappers.add(folder)
    return wrappers | _series(root, found)


def _series(root: Path, found: Sequence[Found]) -> set[Path]:
    """Folders of one image each, called by a number of its series, whose neighbours hold the other contrasts of one visit."""
    alone: dict[Path, list[str]] = {}
    for item in found:
        if item.name.contrast not in LABELS:
            alone.setdefault(item.path.parent, []).append(item.name.contrast)
    together: dict[Path, dict[Path, str]] = {}
    for folder, contrasts in alone.items():
        above = folder.parent.name
        named = SERIES.fullmatch(folder.name) and kind(folder.name) == "name"
        told = kind(above) in ("session", "maybe session") or PERSON.fullmatch(above) or SERIES.fullmatch(above)
        if len(contrasts) == 1 and named and folder.parent not in (root, root.parent) and told:
            together.setdefault(folder.parent, {})[folder] = contrasts[0]
    return {folder for each in together.values() if len(each) > 1 and len(set(each.values())) == len(each) for folder in each}


def _cases(root: Path, members: Sequence[Member], reading: Reading, problems: Problems) -> list[Case]:
    """Cases of all members: those of one person and session are one, of whose versions the user chooses."""
    joined: dict[tuple[str, str], list[Member]] = {}
    labels: list[Member] = []
    for member in members:
        if _has_image(member.items):
            joined.setdefault(member.identity.key, []).append(member)
        else:
            labels.append(member)
    by_subject: dict[str, list[tuple[str, str]]] = {}
    for key in joined:
        by_subject.setdefault(key[0], []).append(key)
    for member in labels:
        key = member.identity.key
        homes = [key] if key in joined else by_subject.get(key[0], []) if member.loose else []
        for home in homes:
            own = {item.name.contrast for each in joined[home] for item in each.items}
            rest = member.items if home == key else [item for item in member.items if item.name.contrast not in own]
            joined[home].append(replace(member, items=rest))
        if not homes:
            problems.add("no images", f"{member.folder.relative_to(root)} has labels and no image; it is no case.")
    cases = []
    for same in joined.values():
        first = same[0].identity
        items = [item for member in same for item in member.items]
        case = make_case(first.name, first.subject, items, root, problems, reading, first.session)
        if case is not None:
            cases.append(case)
    return cases


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
            plain = (not own.prefix and not own.tail) or (folder.parent != root and is_bare(own))
            if per_file or plain or stem(folder) == items[0].stem or folder.name.startswith("VSD."):
                home = folder.parent
        while home not in (root, root.parent) and home.parent != root and home.name.lower() in _CONTAINERS:
            home = home.parent
        for item in items:
            groups.setdefault((home, item.name.prefix if per_file else ""), []).append(item)
    split: Groups = {}
    for (folder, prefix), items in groups.items():
        parts = {prefix: items} if prefix else _by_prefix(items, root, folder)
        for part, members in parts.items():
            split.setdefault((folder, part), []).extend(members)
    return split


def _by_prefix(items: Sequence[Found], root: Path, folder: Path) -> dict[str, list[Found]]:
    """Split one folder's files into cases by the prefix of their names, where contrasts repeat and prefixes tell them apart.

    Inside a person's folder every part must then have two contrasts or more, or a prefix that names a session, or it is none
    (``raw_T1, bet_T1, T2`` is one case). Labels without a prefix belong to every part.
    """
    images = [item for item in items if item.name.contrast not in LABELS]
    if not images and folder != root:  # a folder of label maps: each belongs to the case that its name says
        alone: dict[str, list[Found]] = {}
        for item in items:
            alone.setdefault(_case_words(item), []).append(item)
        return alone
    if max(Counter(item.name.contrast for item in images).values(), default=0) < 2:
        return {"": list(items)}
    parts: dict[str, list[Found]] = {}
    for item in images:
        parts.setdefault(_case_words(item), []).append(item)
    if len(parts) < 2 or "" in parts:
        return {"": list(items)}
    below = folder.relative_to(root).parts if folder != root else ()
    flat = all(kind(part) in ("container", "split", "stage", "session") for part in below)
    counts = [len({item.name.contrast for item in part}) for part in parts.values()]
    clear = all(is_session(prefix) or split_session(prefix)[1] or PERSON.fullmatch(prefix) for prefix in parts)
    if not flat and min(counts) < 2 and not clear:
        return {"": list(items)}
    for item in items:
        if item.name.contrast in LABELS:
            words = _case_words(item)
            for prefix in [words] if words in parts else parts if not words else []:
                parts[prefix].append(item)
    return parts


def _case_words(item: Found) -> str:
    """What a file's name says of its case: what stands before the contrast, and a session behind it (T1_2019-03-12)."""
    pieces = item.name.tail.replace("-", "_-_").replace(".", "_._").split("_") if item.name.tail else []
    for first in range(len(pieces)):
        for last in range(len(pieces), first, -1):
            session = "_".join(pieces[first:last]).replace("_-_", "-").replace("_._", ".")
            if is_session(session):
                return f"{item.name.prefix}_{session}".strip("_")
    return item.name.prefix


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
        elif above := [parent for parent in folder.parents if parent in homes]:
            if any(is_session(part) for part in folder.relative_to(above[0]).parts):
                kept[folder, prefix] = items  # a follow-up below the folder of the first visit
            else:
                nested += items
        else:
            kept[folder, prefix] = items
    for item in nested:
        problems.pass_over(item.path, "in a folder inside the case's folder")
    if nested:
        line = f"{some(i.path.relative_to(root) for i in nested)}: in a folder inside a case's folder, passed over."
        problems.add("inside a case", line)
    if beside:
        why = "beside the case folders" if kept else "labels and no image, so no case"
        problems.add("beside the cases", f"{some(i.path.relative_to(root) for i in beside)}: {why}, passed over.")
    return kept


def make_case(
    name: str, subject: str, items: Sequence[Found], root: Path, problems: Problems, reading: Reading, session: str = ""
) -> Case | None:
    """One case from its files; None if it has no image. Where several files claim one contrast, `settle` decides, or the user."""
    fault = name_fault(name) or name_fault(subject)
    if fault:
        problems.add("no name", f"{shown(name)}: the name {fault}, so the case is left out; rename the folder or the files.")
        return None
    by_contrast: dict[str, list[Found]] = {}
    for item in items:
        by_contrast.setdefault(item.name.contrast, []).append(item)
    paths: dict[str, Path] = {}
    reasons: dict[str, str] = {}
    passed: list[tuple[Path, str]] = []
    asked: dict[str, str] = {}
    unsettled: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for contrast, files in by_contrast.items():
        versions = [Version(item.path, item.path.relative_to(root), item.stem, item.name) for item in files]
        choice = settle(versions, reading, label=contrast in LABELS)
        passed += choice.passed
        if choice.taken is not None:
            paths[contrast] = choice.taken.path
            reasons[contrast] = "; ".join(part for part in (choice.taken.name.why, choice.why) if part)
            if choice.why and not choice.why.startswith("--"):  # what the user decided needs no word
                line = f"case {name} has {len(files)} files for {contrast}: {_paths(files, root)}; {choice.why}."
                problems.add("two files for one contrast", line)
        else:
            asked[contrast] = f"{len(files)} versions, {' or '.join(choice.flags) or choice.why}"
            unsettled.setdefault((choice.why, choice.flags), []).append(contrast)
    images = {contrast: path for contrast, path in paths.items() if contrast not in LABELS}
    if not _has_image(items):
        return None
    for (why, flags), contrasts in unsettled.items():
        fix = f"Add {' or '.join(flags)}" if flags else "Remove or rename one"
        aside = "" if images else " is set aside: it"
        which = by_contrast[contrasts[0]]
        line = (
            f"case {name}{aside} has {len(which)} files for {', '.join(contrasts)}: {_paths(which, root)}; {why}. {fix}, or list"
            " the files in a CSV/TSV table."
        )
        problems.add("several versions of a scan", line)
    return Case(
        name,
        subject,
        images,
        paths.get(MASK),
        paths.get(SEGMENTATION),
        session=session,
        reasons=reasons,
        passed_over=tuple(passed),
        asked=asked,
    )


def _paths(files: Sequence[Found], root: Path) -> str:
    """The files of a line."""
    return " and ".join(str(item.path.relative_to(root)) for item in files)
