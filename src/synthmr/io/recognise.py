"""Which contrast each file of a folder is: by its name, the files beside it, its JSON sidecar and its folder's name.

Names come first (`synthmr.io.grammar`), aliases of the user above all. A sidecar fills what the name leaves open and is heard
where it says otherwise. What is no acquired image is passed over with a line; what stays in doubt is asked.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from synthmr.case import Case
from synthmr.contrasts import CONTRASTS, MASK, SEGMENTATION
from synthmr.io.grammar import Meaning, Name, is_bare, read, renamed
from synthmr.io.naming import Problems, some
from synthmr.io.nifti import stem
from synthmr.io.sidecar import Facts, contradicts, read_sidecar
from synthmr.io.tokens import atoms, words_of

_LABELS = (SEGMENTATION, MASK)


@dataclass
class _File:
    """A file on its way to a contrast."""

    path: Path
    base: str
    meaning: Meaning
    facts: Facts | None = None
    note: str = ""


def recognise(
    root: Path, paths: Sequence[Path], aliases: Mapping[str, str] | None, problems: Problems
) -> list[tuple[Path, str, Name]]:
    """(file, its name without suffix, the name taken apart) of every file whose contrast is known.

    Args:
        root: the folder that is read; lines name files as seen from it.
        paths: NIfTI files below it; they are not opened, the JSON files beside them are.
        aliases: further contrast names, from `synthmr.contrasts.parse_aliases`.
        problems: gets a line for what is passed over, asked, or said otherwise by a sidecar.
    """
    by_folder: dict[Path, list[_File]] = {}
    for path in paths:
        base = stem(path)
        by_folder.setdefault(path.parent, []).append(_File(path, base, read(base, aliases)))
    for folder, files in by_folder.items():
        _from_siblings(files, aliases)
        for file in files:
            _from_sidecar(file, root, problems)
        _agents_of_sidecars(files, root)
        if folder != root:
            _from_folder(folder, files, aliases)
        for file in files:
            _doubts(file)
    found = []
    for file in (file for files in by_folder.values() for file in files):
        if file.meaning.name is not None:
            found.append((file.path, file.base, file.meaning.name))
    every = [file for files in by_folder.values() for file in files]
    _tell(root, every, problems)
    order = {path: i for i, path in enumerate(paths)}
    return sorted(found, key=lambda item: order[item[0]])


# --- the files beside it --------------------------------------------------------------------------------------------


def _from_siblings(files: Sequence[_File], aliases: Mapping[str, str] | None) -> None:
    """What the names of one folder say together.

    Names that all begin with a contrast's word and differ in a later one (P1_T1_FLAIR, P1_T1_T1, P1_T1_T2) have a time
    point or a target before it. ``post`` beside T1 and beside another contrast may be a visit as well as an agent.
    """
    heads: dict[str, list[_File]] = {}
    for file in files:
        head = _head_of_two(file.base)
        if head:
            heads.setdefault(head, []).append(file)
    for head, members in heads.items():
        if len(members) < 2 or not any(file.meaning.kind == "asked" or _twice(file.base, head) for file in members):
            continue
        rests = [read(file.base[len(head) :].strip("-_. "), aliases) for file in members]
        values = [rest.name.contrast if rest.name else "" for rest in rests]
        if "" in values or len(set(values)) != len(values):
            continue
        for file, rest in zip(members, rests, strict=True):
            if rest.name is not None and not file.meaning.user:
                why = f"{rest.name.why}; {head!r} begins the names of all"
                prefix = head.rstrip("-_. ") + (f"_{rest.name.prefix}" if rest.name.prefix else "")
                file.meaning = replace(rest, why=why, name=replace(rest.name, prefix=prefix, why=why))
    posts = [file for file in files if file.meaning.by_post]
    other = [file.base for file in files if file.meaning.name and not file.meaning.by_post and _says_post(file)]
    if posts and other:
        for file in posts:
            word = file.meaning.name.word if file.meaning.name else ""
            why = f"{word!r} is after a contrast agent, or a visit as {other[0]!r} is"
            file.meaning = Meaning("asked", why, ask=word.strip("-_. ").lower(), options=("T1ce", "T1w"))


def _head_of_two(base: str) -> str:
    """The part of a name before its last contrast, where that part holds a contrast's word as well; else empty."""
    images = [atom for atom in atoms(base) if atom.role in ("contrast", "label") and not atom.entity]
    if not images:
        return ""
    last = images[-1]
    apart = re.search(r"[-_. ](?=[^-_. ]+$)", base[last.start : last.end])  # T2_FLAIR is one word in two parts
    if apart is not None:
        first = atoms(base[last.start : last.start + apart.start()])
        return base[: last.start + apart.end()] if first and first[-1].role == "contrast" else ""
    return base[: last.start] if len(images) > 1 and images[-2].end < last.start else ""


def _twice(base: str, head: str) -> bool:
    """Whether the word behind ``head`` is in it already: ``P1_T1_T1``."""
    last = base[len(head) :].lower()
    return last in {word.lower() for word in words_of(head)}


def _says_post(file: _File) -> bool:
    """Whether an image that is no T1 has the word ``post`` in its name, outside its entities."""
    name = file.meaning.name
    if name is None or name.contrast in (*_LABELS, "T1w", "T1ce"):
        return False
    return any(atom.word.weak and atom.role == "agent" and not atom.entity for atom in atoms(file.base))


# --- the sidecar ----------------------------------------------------------------------------------------------------


def _from_sidecar(file: _File, root: Path, problems: Problems) -> None:
    """Hear the JSON beside a file: it answers what the name leaves open, and is quoted where it says otherwise."""
    meaning = file.meaning
    if meaning.kind == "derived" or (meaning.name is not None and meaning.name.contrast in _LABELS):
        return
    facts, fault = read_sidecar(file.path, file.base)
    where = file.path.relative_to(root)
    if fault:
        problems.add("sidecar", f"{fault} It is not used.")
    if facts is None:
        return
    file.facts = facts
    if facts.derived:
        if not meaning.user or facts.derived == "synthetic":
            file.meaning = Meaning("derived", facts.derived, ask="sidecar")
        return
    name = meaning.name
    if name is None:
        silent = facts.contrast == "T1w" and "T1ce" in meaning.options  # no word on an agent answers no question about one
        if facts.contrast and not silent and (meaning.kind == "unknown" or facts.contrast in meaning.options):
            why = f"the sidecar: {facts.why}"
            tail = Name(facts.contrast, "" if meaning.kind == "unknown" else _prefix(file.base, meaning.ask), file.base, "", why)
            file.meaning = Meaning("named", why, tail, explicit=True)
            file.note = f"{where} is taken as {facts.contrast}: its name does not tell, its sidecar does ({facts.why})."
    elif not meaning.user and contradicts(facts, name.contrast):
        file.note = (
            f"{where}: the name says {name.contrast} ({name.why}), its sidecar {facts.contrast} ({facts.why}); the name is used. "
            f"If the sidecar is right, say --alias {_word(name)}={facts.contrast}."
        )


def _prefix(base: str, ask: str) -> str:
    """What stands before the words in doubt."""
    place = base.lower().find(ask) if ask else -1
    return base[:place].strip("-_. ") if place > 0 else ""


def _word(name: Name) -> str:
    return name.word.strip("-_. ").lower().replace(" ", "_")


def _agents_of_sidecars(files: Sequence[_File], root: Path) -> None:
    """A T1w image whose name is silent on an agent and whose sidecar names one is T1ce, unless another file is it by name."""
    named = [file for file in files if file.meaning.name is not None and file.meaning.name.contrast == "T1ce"]
    for file in files:
        meaning, facts = file.meaning, file.facts
        if facts is None or meaning.name is None or meaning.user or meaning.name.contrast not in ("T1w", "T1ce"):
            continue
        given = facts.agent or (facts.why if facts.contrast == "T1ce" else "")
        if not given or meaning.name.contrast == "T1ce":
            continue
        where = file.path.relative_to(root)
        said = f"its sidecar names a contrast agent ({given})"
        if meaning.explicit or named:
            beside = "the name is used" if meaning.explicit else f"{named[0].path.name} is the one after it by its name"
            file.note = f"{where}: the name says T1w, {said}; {beside}. --alias {_word(meaning.name)}=T1ce overrides."
            continue
        file.meaning = renamed(meaning, "T1ce", f"{meaning.name.why}; {said}")
        file.note = f"{where} is taken as T1ce: the name is silent, {said}; if none was given, --alias {_word(meaning.name)}=T1w."


# --- the folder -----------------------------------------------------------------------------------------------------


def _from_folder(folder: Path, files: Sequence[_File], aliases: Mapping[str, str] | None) -> None:
    """Files without a contrast in their names are what their folder's whole name says (p1/T1/0001.nii.gz)."""
    if not any(file.meaning.kind == "unknown" for file in files):
        return
    own = read(folder.name, aliases).name
    if own is None or not is_bare(own):
        return
    for file in files:
        if file.meaning.kind == "unknown":
            why = f"the folder is called {folder.name}"
            file.meaning = Meaning("named", why, Name(own.contrast, file.base, own.word, "", why))


# --- whose file it was ----------------------------------------------------------------------------------------------


def with_passed_over(cases: Sequence[Case], passed_over: Sequence[tuple[Path, str]], root: Path) -> list[Case]:
    """The cases, each with the files among its own that were not taken; files of no one case are left to the problem lines."""
    below: dict[Path, set[int]] = {}
    for i, case in enumerate(cases):
        for path in case.images.values():
            for folder in path.parents:
                below.setdefault(folder, set()).add(i)
                if folder == root:
                    break
    places = {case.name: i for i, case in enumerate(cases)}
    mine: dict[int, list[tuple[Path, str]]] = {}
    for path, why in dict(passed_over).items():
        owner = _owner(path, below, places, root)
        if owner is not None:
            mine.setdefault(owner, []).append((path, why))
    return [replace(case, passed_over=(*case.passed_over, *mine.get(i, ()))) for i, case in enumerate(cases)]


def _owner(path: Path, below: Mapping[Path, set[int]], places: Mapping[str, int], root: Path) -> int | None:
    """The case whose folder a file lies in; in a folder of several the one whose name begins the file's."""
    for folder in path.parents:
        here = below.get(folder, set())
        if len(here) == 1:
            return next(iter(here))
        if here:
            base = stem(path)
            ends = [len(base), *(match.start() for match in reversed(list(re.finditer(r"[-_. ]", base))))]
            found = next((places[base[:end]] for end in ends if base[:end] in places), None)
            return found if found in here else None
        if folder == root:
            return None
    return None


# --- what is said ---------------------------------------------------------------------------------------------------


def _doubts(file: _File) -> None:
    """A description that disagrees with a name in doubt leaves the question and joins it."""
    meaning, facts = file.meaning, file.facts
    if meaning.kind == "asked" and facts is not None and facts.contrast:
        file.meaning = replace(meaning, why=f"{meaning.why}; its sidecar says {facts.contrast} ({facts.why})")


def _tell(root: Path, files: Sequence[_File], problems: Problems) -> None:
    """The lines, one for all files with the same question; every file that is not taken is noted with its reason."""
    unknown: dict[str, list[Path]] = {}
    asked: dict[tuple[str, str, tuple[str, ...]], list[Path]] = {}
    for file in files:
        where, meaning = file.path.relative_to(root), file.meaning
        if file.note:
            problems.add("sidecar and name", file.note)
        if meaning.kind == "derived":
            says = "sidecar" if meaning.ask == "sidecar" else "name"
            problems.add(meaning.why, f"{where} was passed over: its {says} says that it is {meaning.why}.")
            problems.pass_over(file.path, f"its {says} says that it is {meaning.why}")
        elif meaning.kind == "unknown":
            word = _last_word(file.base)
            unknown.setdefault(word, []).append(where)
            problems.pass_over(file.path, f"no contrast in its name; --alias {word}=CONTRAST would name it")
        elif meaning.kind == "asked":
            asked.setdefault((meaning.why, meaning.ask, meaning.options), []).append(where)
            problems.pass_over(file.path, f"{meaning.why}; {_answers(meaning.ask, meaning.options)}")
    for word, paths in unknown.items():
        names = "file names" if len(paths) == 1 else "file names each"
        line = f"{some(paths)}: no contrast in the {names}; if it is {word!r}, add --alias {word}=CONTRAST."
        problems.add("no contrast in the name", line)
    for (why, ask, options), paths in asked.items():
        problems.add("contrast in doubt", f"{some(paths)}: {why}; not used. Say which it is: {_answers(ask, options)}.")


def _answers(ask: str, options: Sequence[str]) -> str:
    """``--alias t1_t2=T1w or --alias t1_t2=T2w``."""
    known = [name for name in options if name in (*CONTRASTS, *_LABELS)] or ["CONTRAST"]
    return " or ".join(f"--alias {shlex.quote(f'{ask}={name}')}" for name in known)


def _last_word(base: str) -> str:
    """The last word of a name that is no number: what an alias would name."""
    words = words_of(base)
    return next((word for word in reversed(words) if any(letter.isalpha() for letter in word)), words[-1] if words else base)
