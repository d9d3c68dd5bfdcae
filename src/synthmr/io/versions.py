"""Several files for one contrast of one case: versions of one scan, of which the user says which to use."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from synthmr.io.folder_words import is_stage
from synthmr.io.naming import Name, choose
from synthmr.reading import Reading

_ENTITY = re.compile(r"(?:^|_)([A-Za-z0-9]+)-([A-Za-z0-9.+]+)(?=_|$)")
_WORD = re.compile(r"[A-Za-z0-9]+")


@dataclass(frozen=True)
class Version:
    """One of the files.

    Attributes:
        path: of the file.
        below: the same below the data's folder.
        stem: its name without suffix.
        name: its name taken apart.
    """

    path: Path
    below: Path
    stem: str
    name: Name


@dataclass(frozen=True)
class Choice:
    """Which of the files is used.

    Attributes:
        taken: the file; None where the user must say it.
        why: a phrase: why it was taken, or why none was.
        passed: the others, each with a phrase.
        flags: where none was taken: what to give, one of these.
    """

    taken: Version | None
    why: str = ""
    passed: tuple[tuple[Path, str], ...] = ()
    flags: tuple[str, ...] = ()


def settle(files: Sequence[Version], reading: Reading, label: bool = False) -> Choice:
    """Choose one of the files for one contrast of a case: by entities, by preferred words, by name; or none.

    Args:
        files: one or more.
        reading: its ``entities`` and ``prefer`` are used.
        label: whether they are masks or label maps, which an entity does not leave without any.
    """
    left, passed, why = list(files), list[tuple[Path, str]](), ""
    for key, value in reading.entities.items():
        fits = [file for file in left if _has_entity(file.stem, key, value)]
        if not fits and not label:  # a file that says nothing of it may be used, one that says otherwise may not
            fits = [file for file in left if key.lower() not in entities(file.stem)]
        if fits or not label:
            if len(fits) < len(left):
                why = f"--entity {key}={value}"
            passed += [(file.path, f"--entity {key}={value}") for file in left if file not in fits]
            left = fits or ([] if not label else left)
    if not left:
        words = " ".join(f"--entity {key}={value}" for key, value in reading.entities.items())
        there = [(key, entities(file.stem).get(key.lower(), "")) for key in reading.entities for file in files]
        offered = dict.fromkeys(f"--entity {key}={found}" for key, found in there if found)
        return Choice(None, f"none of them fits {words}", tuple(passed), tuple(offered))
    for word in reading.prefer:
        fits = _having(left, word)
        if fits and len(fits) < len(left):
            why = f"--prefer {word}"
            passed += [(file.path, f"another one has the word {word!r} (--prefer)") for file in left if file not in fits]
            left = fits
    if len(left) == 1:
        return Choice(left[0], why, tuple(passed))
    index: int | None = None
    why = "none is used, because it would be a guess"
    if len({file.path.parent for file in left}) == 1:
        index, why = choose([(file.path, file.name) for file in left], [file.stem for file in left])
    if index is not None:
        rest = [(file.path, why) for number, file in enumerate(left) if number != index]
        return Choice(left[index], why, (*passed, *rest))
    flags = _flags(left)
    asked = f"one of several versions; {' or '.join(flags)} decides" if flags else "one of several versions"
    return Choice(None, why, (*passed, *((file.path, asked) for file in left)), flags)


def entities(stem: str) -> Mapping[str, str]:
    """``sub-01_space-MNI_T1w`` -> {"sub": "01", "space": "MNI"}."""
    return {match[1].lower(): match[2] for match in _ENTITY.finditer(stem)}


def _has_entity(stem: str, key: str, value: str) -> bool:
    """Whether a name has an entity with a value; ``none`` is the value of a name without the entity."""
    found = entities(stem).get(key.lower(), "none").lower()
    value = value.lower()
    return found == value or (found.isdigit() and value.isdigit() and int(found) == int(value))


def _having(files: Sequence[Version], word: str) -> list[Version]:
    """Those whose path has the word: as a whole word, or else as a part of one."""
    whole = re.compile(rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])", re.IGNORECASE)
    found = [file for file in files if whole.search(file.below.as_posix())]
    return found or [file for file in files if word.lower() in file.below.as_posix().lower()]


def _flags(files: Sequence[Version]) -> tuple[str, ...]:
    """What to give, so that one of the files is taken: an entity in which they differ, else words that one path has alone."""
    found = [entities(file.stem) for file in files]
    keys = dict.fromkeys(key for each in found for key in each)
    values = {key: list(dict.fromkeys(each.get(key, "none") for each in found)) for key in keys}
    best = max(values, key=lambda key: len(values[key]), default="")
    if best and len(values[best]) == len(files):
        return tuple(f"--entity {best}={value}" for value in values[best])
    words = [_WORD.findall(file.below.as_posix().removesuffix(".gz").removesuffix(".nii")) for file in files]
    flags = []
    for number, mine in enumerate(words):
        others = {word.lower() for other, each in enumerate(words) if other != number for word in each}
        own = [word for word in mine if word.lower() not in others]
        own.sort(key=lambda word: (not is_stage(word), word.isdigit()))
        flags += [f"--prefer {own[0]}"] if own else []
    if best and len(values[best]) > 1 and len(flags) < len(files):
        return tuple(f"--entity {best}={value}" for value in values[best])
    return tuple(dict.fromkeys(flags))
