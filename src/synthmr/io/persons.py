"""Who is who: the person and the visit of every case, from the names of all folders together. No file is opened.

A single name cannot tell: ``001`` is a person in one data set and a visit in another. So all names are looked at together:
what separates people, what repeats within each of them (dates, visits, stages of processing), and what cannot be told, which is
kept as a doubt: cases that may be one person, which no split may tear apart.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from synthmr.io.folder_words import (
    GROUP,
    PERSON,
    Kind,
    dated,
    is_session,
    is_stage,
    kind,
    split_session,
    starts_with_date,
    tokens,
    without_stage,
)

#: so many visits of one person are believed; more numbered names with one stem are persons
MOST_VISITS = 12

_IMAGE_NUMBER = re.compile(r"[IS]\d{4,}")
_NUMBERED = re.compile(r"(?P<stem>.*\d)(?:(?P<gap>[-_. ])(?P<tail>[A-Za-z]?\d{1,3}|[A-Za-z])|(?P<letter>[A-Za-z]))")
_STEM_OF_A_DATA_SET = re.compile(r"(?:[A-Za-z]+20[0-3]\d|brats\d\d|mrbrains\d\d|adni\d|oas(?:is)?\d)", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """Where the files of one case lie.

    Attributes:
        parts: names of the folders below the root; those that hold one contrast alone are left out.
        prefix: what the names of its files start with, where a folder holds several cases.
    """

    parts: tuple[str, ...]
    prefix: str = ""


@dataclass(frozen=True)
class Identity:
    """Who a place belongs to.

    Attributes:
        name: of the case; unique unless two places are versions of one scan.
        subject: the person.
        session: the visit; empty where none is named.
        unclear: the session is a word that means none: it may be a person's name.
    """

    name: str
    subject: str
    session: str = ""
    unclear: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """Places with the same key hold versions of one case."""
        return self.subject, self.session.lower()


@dataclass(frozen=True)
class Guess:
    """Places that may be of one person although they are taken for several.

    Attributes:
        groups: numbers of the places; each group may be one person.
        why: what was seen, a sentence without its stop.
        fix: what to write.
    """

    groups: tuple[tuple[int, ...], ...]
    why: str
    fix: str


@dataclass
class _Track:
    """A place while it is looked at: what separates people, what repeats within them."""

    place: Place
    names: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    sessions: list[str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    unclear: bool = False
    settled: bool = False


def identify(places: Sequence[Place], root: str = "case", session: str = "") -> tuple[list[Identity], list[Guess], list[str]]:
    """Say who is who.

    Args:
        places: all cases of a folder.
        root: name of the folder, which is the person where nothing below it is.
        session: that the folder is, where it is one.

    Returns:
        An identity a place; what could not be told; and lines about what was told by a rule that may fail.
    """
    said = _context(places)
    tracks = [_read(place, said) for place in places]
    _versions(tracks)
    guesses = _levels(tracks)
    unsure, notes = _numbered(tracks)
    guesses += unsure
    visits = [track for track in tracks if not track.names and track.sessions]
    if len(visits) > MOST_VISITS:
        notes.append(
            f"{len(visits)} folders such as {visits[0].shown[0]} name a visit and no person, and are taken as visits of one"
            " person; if they are persons, add --subject '^(?P<subject>[^/]+)'."
        )
    for track in tracks:
        if not track.names:
            track.names, track.written, track.depths, track.settled = [root], [root], [0], True
            if session:
                _add_session(track, dated(session) or session)
                track.written = [f"{root}_{session}" if dated(session) else session]
    guesses += _same_names(tracks)
    return [_identity(track) for track in tracks], [guess for guess in guesses if guess.groups], notes


def _context(places: Iterable[Place]) -> dict[str, Kind]:
    """Words whose meaning depends on the other folders: ``pre`` beside ``orig`` is a stage (WMH 2017), ``test`` beside ``retest`` a
    visit.
    """
    parts = {part.lower() for place in places for part in place.parts}
    said: dict[str, Kind] = {}
    if "post" not in parts and any(is_stage(part) for part in parts):
        said["pre"] = "stage"
    if "retest" in parts or "rescan" in parts:
        said |= {"test": "session", "scan": "session"}
    return said


def _read(place: Place, said: Mapping[str, Kind]) -> _Track:
    """Sort the names of a place by what each says."""
    track = _Track(place)
    kinds = [said.get(part.lower()) or kind(part) for part in place.parts]
    named = any(each == "name" for each in kinds)
    for depth, (part, each) in enumerate(zip(place.parts, kinds, strict=True)):
        if each == "split":
            track.groups.append(re.sub("^(?:images|labels)(?=[A-Z])", "", part))
        elif each == "session" or (each == "maybe session" and named):
            _add_session(track, dated(part) or part)
        elif each in ("name", "maybe session"):
            _add_name(track, part, depth)
    if place.prefix:
        _add_prefix(track, place)
    track.stages = [part for part, each in zip(place.parts, kinds, strict=True) if each == "stage"]
    return track


def _add_session(track: _Track, session: str, shown: str = "") -> None:
    if session.lower() not in (each.lower() for each in track.sessions):
        track.sessions.append(session)
        track.shown.append(shown or session)


def _add_name(track: _Track, part: str, depth: int) -> None:
    """Note a name that may be a person's; one that goes on from the name above it is that person's visit."""
    if track.sessions and track.names and _IMAGE_NUMBER.fullmatch(part):
        return
    stem, session = split_session(part)
    date = starts_with_date(part) if track.names else ""
    if date:
        _add_session(track, date)
        return
    above = track.names[-1] if track.names else ""
    rest = _after(above, stem) if len(above) > 2 and any(letter.isdigit() for letter in above) else None
    if rest is None:
        track.names.append(stem)
        track.written.append(part if not session else stem)
        track.depths.append(depth)
    elif rest:
        _add_session(track, rest)
    if session:
        _add_session(track, session, part)


def _add_prefix(track: _Track, place: Place) -> None:
    """What file names start with: the person where no folder is one, else the visit."""
    prefix = place.prefix
    if not track.names:
        if is_session(prefix):
            _add_session(track, prefix)
        elif not is_stage(prefix):
            _add_name(track, prefix, len(place.parts))
        return
    rest = _after(track.names[-1], prefix)
    if rest is None:
        rest = _after(track.written[-1], prefix)
    rest = prefix if rest is None else rest
    if not rest or is_stage(rest):
        return
    stem, session = split_session(rest)
    if rest == prefix and PERSON.fullmatch(stem) and not PERSON.fullmatch(track.names[-1]):
        _add_name(track, prefix, len(place.parts))  # a group's folder: Guys/IXI002-Guys-0828-T1.nii.gz
        return
    label = rest if is_session(rest) or not session or stem not in track.names else session
    track.unclear = not (is_session(label) or kind(label) == "maybe session" or rest != prefix)
    _add_session(track, dated(label) or label)


def _after(start: str, text: str) -> str | None:
    """What follows ``start`` and a separator in ``text``; empty where they are equal, None where it does not start so."""
    if text.lower() == start.lower():
        return ""
    if text.lower().startswith(start.lower()) and not text[len(start)].isalnum():
        return text[len(start) :].strip("-_. ")
    return None


def _versions(tracks: Sequence[_Track]) -> None:
    """Names that differ in their stage of processing alone (P001_raw, P001_bet) are one person's; a stage among persons is one."""
    named = {track.place.parts[:-1] for track in tracks if track.names and track.depths[-1] == len(track.place.parts) - 1}
    shared: dict[tuple[tuple[str, ...], str], set[str]] = defaultdict(set)
    for track in tracks:
        if not track.names and track.stages and track.place.parts[-1] == track.stages[-1] and track.place.parts[:-1] in named:
            _add_name(track, track.stages[-1], len(track.place.parts) - 1)  # SS among other initials
        if track.names:
            shared[tuple(track.groups + track.names[:-1]), without_stage(track.names[-1])].add(track.names[-1])
    for track in tracks:
        stem = without_stage(track.names[-1]) if track.names else ""
        if stem and len(shared[tuple(track.groups + track.names[:-1]), stem]) > 1:
            track.names[-1] = track.written[-1] = stem


# --- which level of folders is the person -------------------------------------------------------------------------


def _levels(tracks: Sequence[_Track]) -> list[Guess]:
    """Where names lie below names, settle which is the person: the other is a group of persons, or a visit."""
    guesses = []
    while deep := [number for number, track in enumerate(tracks) if len(track.names) > 1]:
        pairs = {(("/".join((*tracks[i].groups, tracks[i].names[0]))), tracks[i].names[1]) for i in deep}
        verdict = _person_level(pairs)
        if verdict == "unsure":
            guesses.append(_unsure_level(tracks, deep))
        for number in deep:
            track = tracks[number]
            if verdict == "outer":
                for inner in track.names[1:]:
                    _add_session(track, inner)
                del track.names[1:], track.written[1:], track.depths[1:]
            else:
                outer = track.names.pop(0)
                track.groups.append(outer)
                del track.written[0], track.depths[0]
                if verdict == "unsure":  # whichever is the person, the name says so
                    track.names[0], track.written[0] = f"{outer}_{track.names[0]}", f"{outer}_{track.written[0]}"
                    track.settled = True
    return guesses


def _person_level(pairs: set[tuple[str, str]]) -> Literal["outer", "inner", "unsure"]:
    """Which of two levels of names separates people, by their words, their numbers, and what repeats."""
    children: dict[str, set[str]] = defaultdict(set)
    parents: dict[str, set[str]] = defaultdict(set)
    for outer, inner in pairs:
        children[outer.rpartition("/")[2]].add(inner)
        parents[inner].add(outer)
    outers, inners = list(children), list(parents)

    def share(names: Sequence[str], pattern: re.Pattern[str]) -> float:
        return sum(bool(pattern.fullmatch(name)) for name in names) / len(names)

    digit = re.compile(r".*\d.*")
    person = share(outers, PERSON), share(inners, PERSON)
    group = share(outers, GROUP)
    if person[1] >= 0.8 and (group >= 0.8 or person[0] < 0.2):
        return "inner"
    if person[0] >= 0.8 and person[1] < 0.8:
        return "outer"
    if group >= 0.8 or (share(outers, digit) < 0.2 and share(inners, digit) >= 0.8):
        return "inner"
    most = max(len(names) for names in children.values())
    repeated = sum(len(found) > 1 for found in parents.values()) / len(inners)
    if repeated < 0.5:
        return "inner" if most == 1 or most > MOST_VISITS else "unsure"
    numbered = share(outers, re.compile(r".*\d{2,}.*|.*[A-Za-z].*\d.*")) >= 0.8
    short = share(inners, re.compile(r"\D{0,2}\d{1,2}|\D+")) >= 0.8
    if most <= MOST_VISITS and ((len(outers) >= 3 and len(outers) >= 2 * len(inners)) or (numbered and short)):
        return "outer"
    return "inner" if len(inners) >= 2 * len(outers) and len(inners) >= 6 else "unsure"


def _unsure_level(tracks: Sequence[_Track], deep: Sequence[int]) -> Guess:
    """All places below one outer name may be one person, and so may all of one inner name."""
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number in deep:
        groups["outer", *tracks[number].groups, tracks[number].names[0]].append(number)
        groups["inner", tracks[number].names[1].lower()].append(number)
    first = tracks[deep[0]]
    outer, inner = first.depths[0], first.depths[1]
    why = f"folders such as {first.names[0]} may be a person each, with visits such as {first.names[1]}, or a group of persons"
    fix = f"{_flag(outer, session=True)} if {first.names[0]} is a person, {_flag(inner)} if {first.names[1]} is one"
    return Guess(_several(groups.values()), why, fix)


def _several(groups: Iterable[list[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(group) for group in groups if len(group) > 1)


def _flag(depth: int, session: bool = False) -> str:
    """A ``--subject`` whose person is the folder at a depth; with ``session``, the next folder is the visit."""
    skip = "[^/]+/" * depth if depth < 3 else f"(?:[^/]+/){{{depth}}}"
    return f"--subject '^{skip}(?P<subject>[^/]+){'/(?P<session>[^/]+)' if session else ''}'"


# --- numbered names -----------------------------------------------------------------------------------------------


def _numbered(tracks: Sequence[_Track]) -> tuple[list[Guess], list[str]]:
    """Names with a stem in common (training01_01, training01_02): visits of one person, unless it cannot be told."""
    alone = {track.names[0] for track in tracks if track.names}
    stems: dict[tuple[tuple[str, ...], str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    lettered: dict[tuple[tuple[str, ...], str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for number, track in enumerate(tracks):
        match = _NUMBERED.fullmatch(track.names[0]) if track.names and not track.settled else None
        if match:
            found = stems if match["gap"] or match["stem"] in alone else lettered
            found[tuple(track.groups), match["stem"]][(match["tail"] or match["letter"]).lower()].append(number)
    letters = [tails for (_, stem), tails in lettered.items() if stem not in alone]
    if sum(len(tails) > 1 for tails in letters) >= 0.8 * len(letters):  # P01a, P01b, P02a, P02b; no numbers of other kinds
        for key, tails in lettered.items():
            stems[key].update(tails)
    all_stems = {stem for _, stem in stems}
    unsure: list[list[int]] = []
    notes = []
    for (_, stem), tails in stems.items():
        if len(tails) < 2 and stem not in alone:
            continue
        last = tokens(stem)[-1]
        if not any(letter.isdigit() for letter in last) and not stem.lower().startswith("brats"):
            continue
        members = [number for numbers in tails.values() for number in numbers]
        if len(tails) > MOST_VISITS or GROUP.fullmatch(last) or GROUP.fullmatch(stem) or _STEM_OF_A_DATA_SET.fullmatch(stem):
            continue
        if len(all_stems) == 1 and stem not in alone:
            unsure.append(members)
            continue
        notes.append(
            f"{stem} and its numbers {', '.join(sorted(tails))} are taken as visits of one person; if they are persons, add"
            f" {_whole(tracks[members[0]])}."
        )
        for number in members:
            track = tracks[number]
            whole = track.names[0]
            track.names[0] = stem
            tail = whole[len(stem) :].strip("-_. ")
            track.sessions.insert(0, tail)
            track.shown.insert(0, whole)
    if not unsure:
        return [], notes
    first = tracks[unsure[0][0]]
    name = first.names[0]
    stem = name[: name.rindex(tokens(name)[-1])].rstrip("-_. ")
    fix = f"--subject '(?P<subject>{re.escape(stem)})' if {stem} is one person, {_whole(first)} if each is one"
    why = f"names such as {name} all start with {stem}, which may be one person with several visits"
    return [Guess(_several(unsure), why, fix)], notes


def _whole(track: _Track) -> str:
    """A ``--subject`` that takes the whole of a numbered name for the person."""
    before = "[^/]+/" * track.depths[0]
    words = len(tokens(track.names[0]))
    text = "[^-_. /]+[-_. ]" * (words - 1) + "[^-_. /]+" if track.place.prefix else "[^/]+"
    return f"--subject '^{before}(?P<subject>{text})'"


# --- one name below two parents -----------------------------------------------------------------------------------


def _same_names(tracks: Sequence[_Track]) -> list[Guess]:
    """Two folders of one name below different parents may be one person; they are told apart by their parents' names."""
    homes: dict[str, dict[tuple[str, ...], list[int]]] = defaultdict(lambda: defaultdict(list))
    for number, track in enumerate(tracks):
        if not track.settled:
            homes[track.names[0].lower()][tuple(track.groups)].append(number)
    groups = []
    for found in homes.values():
        if len(found) > 1:
            members = [number for numbers in found.values() for number in numbers]
            groups.append(members)
            for number in members:
                track = tracks[number]
                above, alone = "_".join(track.groups), track.names[0]
                track.shown = [f"{above}_{shown}".strip("_") if _after(alone, shown) else shown for shown in track.shown]
                track.names[0] = f"{above}_{alone}".strip("_")
                track.written[0] = f"{above}_{track.written[0]}".strip("_")
    if not groups:
        return []
    one, two = tracks[groups[0][0]], next(tracks[n] for n in groups[0] if tracks[n].groups != tracks[groups[0][0]].groups)
    where = [_place_words(track) for track in (one, two)]
    depth = one.depths[0]
    skip = "[^/]+/" * depth if depth < 3 else f"(?:[^/]+/){{{depth}}}"
    why = f"{where[0]} and {where[1]} have one name and may be one person"
    fix = f"{_flag(depth)} if they are, --subject '^(?P<subject>{skip}[^/]+)' if they are not"
    return [Guess(tuple(map(tuple, groups)), why, fix)]


def _place_words(track: _Track) -> str:
    """Where a place lies, for a line."""
    return "/".join((*track.place.parts[: track.depths[0] + 1], *([track.place.prefix] if track.place.prefix else [])))


def _identity(track: _Track) -> Identity:
    """Person, visit and the name of the case: as it is written where one name holds both."""
    subject = track.names[0]
    name = track.written[0]
    for session, shown in zip(track.sessions, track.shown, strict=True):
        if shown != session and _after(subject, shown) is not None:
            name = shown
        elif _after(name, shown) is None:
            name = f"{name}_{shown if shown == session else session}"
    return Identity(name, subject, "_".join(track.sessions), track.unclear)
