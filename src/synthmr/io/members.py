"""The files of a case with whom they belong to: as names tell, or as the user's pattern does."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from synthmr.case import Case, Doubt
from synthmr.io.folder_words import dated, inner, kind, split_session
from synthmr.io.naming import Problems, some
from synthmr.io.persons import Guess, Identity

if TYPE_CHECKING:
    from synthmr.io.layouts import Found


@dataclass(frozen=True)
class Member:
    """Files that lie together, and whose they are.

    Attributes:
        identity: person, session and name of the case.
        folder: that holds them.
        prefix: what their names start with, where the folder holds several cases.
        items: the files.
    """

    identity: Identity
    folder: Path
    prefix: str
    items: Sequence[Found]

    @property
    def loose(self) -> bool:
        """Whether no session is named, so that labels belong to every session of the person."""
        return not self.identity.session or self.identity.unclear


def doubts_of(guesses: Sequence[Guess], members: Sequence[Member], cases: Sequence[Case]) -> list[Doubt]:
    """What could not be told, in names of cases; guesses that concern one person alone are left out."""
    by_key = {(case.subject, case.session.lower()): case for case in cases}
    doubts = []
    for guess in guesses:
        groups = []
        for numbers in guess.groups:
            found = [by_key[members[number].identity.key] for number in numbers if members[number].identity.key in by_key]
            if len({case.subject for case in found}) > 1:
                groups.append(tuple(dict.fromkeys(case.name for case in found)))
        if groups:
            doubts.append(Doubt(tuple(groups), guess.why, guess.fix))
    return doubts


def told(
    root: Path,
    groups: Mapping[tuple[Path, str], Sequence[Found]],
    wrappers: Collection[Path],
    pattern: re.Pattern[str],
    problems: Problems,
) -> list[Member]:
    """Who is who by a pattern that is searched for in every path below the root; files in which it is not found are passed over."""
    sorted_: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[tuple[Path, str, Found]]] = {}
    without: list[Path] = []
    for (folder, prefix), items in groups.items():
        for item in items:
            below = item.path.relative_to(root).as_posix()
            match = pattern.search(below)
            if match is None or not (match["subject"] or "").strip("/-_. "):
                without.append(item.path.relative_to(root))
                problems.pass_over(item.path, "--subject finds no subject in its path")
                continue
            subject = clean(match["subject"])
            session = match["session"] if "session" in pattern.groupindex else None
            key: tuple[str, tuple[str, ...], tuple[str, ...]]
            if session:
                key = (subject, (clean(session),), ())
            else:
                key = (subject, *_left_over(root, item.path, folder, prefix, match.span("subject"), wrappers))
            sorted_.setdefault(key, []).append((folder, prefix, item))
    if without:
        verb = "was" if len(without) == 1 else "were"
        problems.add("no subject", f"{some(without)} {verb} passed over: --subject {pattern.pattern!r} does not match the path.")
    loose_of: dict[str, set[tuple[str, ...]]] = {}
    for subject, _, loose in sorted_:
        loose_of.setdefault(subject, set()).add(loose)
    members = []
    for (subject, sessions, loose), found in sorted_.items():
        words = (*sessions, *(loose if len(loose_of[subject]) > 1 else ()))
        session = "_".join(words)
        identity = Identity(f"{subject}_{session}" if session else subject, subject, session)
        places: dict[tuple[Path, str], list[Found]] = {}
        for folder, prefix, item in found:
            places.setdefault((folder, prefix), []).append(item)
        members += [Member(identity, folder, prefix, items) for (folder, prefix), items in places.items()]
    return members


def clean(text: str) -> str:
    """A person or session as it is used in names of cases and files: no separators of folders, none at its ends."""
    return re.sub(r"[/\\\s\x00-\x1f]+", "_", text).strip("-_. ")


def _left_over(
    root: Path, path: Path, folder: Path, prefix: str, span: tuple[int, int], wrappers: Collection[Path]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(sessions, other names) in what a path says beside its person."""
    sessions: list[str] = []
    loose: list[str] = []
    below = path.relative_to(root)
    inside = folder.relative_to(root).parts
    start, where = 0, root
    pieces: list[tuple[str, int]] = []
    for part in below.parts[:-1]:
        where = where / part
        if len(pieces) < len(inside) and where not in wrappers:
            pieces.append((part, start))
        start += len(part) + 1
    if prefix and path.name.startswith(prefix):
        pieces.append((prefix, start))
    for text, begin in pieces:
        before, after = text[: max(0, span[0] - begin)], text[max(0, span[1] - begin) :]
        untouched = span[1] <= begin or span[0] >= begin + len(text)
        for rest in (text,) if untouched else (before, after):
            rest = inner(rest.strip("-_. "))
            what = kind(rest) if rest else "container"
            if what in ("session", "maybe session"):
                sessions.append(dated(rest) or rest)
            elif what in ("name", "split"):
                stem, session = split_session(rest)
                if session and not untouched:
                    sessions.append(session)
                elif stem:
                    loose.append(rest)
    return tuple(dict.fromkeys(sessions)), tuple(dict.fromkeys(loose))
