"""Which convention the segmentations of a cohort follow: decided once, from all labels that occur and from names.

A 3 means enhancing in one year and non-enhancing in another, and no volume settles that. So a cohort is read as a convention only

1. where somebody names it, or
2. where the name of every file (else of its case, else of the nearest folder that says anything) hints at conventions that read
   its labels alike, and these do not contradict each other, or
3. where labels occur that one convention calls sure (1, 2 and 4 without 3 is BraTS 2017-2021; 2 and 41 is FreeSurfer), or
4. where there is one label alone, which is a lesion mask.

Otherwise nothing is guessed: what is above 0 is the lesion, and of other regions only those are told apart that all conventions
which could be meant have alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from synthmr.errors import DataError
from synthmr.labels.arrays import present_in, some
from synthmr.labels.convention import Convention
from synthmr.labels.entries import conventions, get

#: what is said of labels where nobody named their convention
AUTO = "auto"

#: in front of a pattern for the header's ``descrip``
HEADER = "descrip:"

#: folders above a file whose names are looked at
FOLDERS = 4


@dataclass(frozen=True)
class Evidence:
    """What one segmentation tells of its convention.

    Attributes:
        labels: numbers that occur in it; of several files of which only the union is known, that.
        path: of the file, for messages; the case where there is none.
        files: names of the file and of the case, in small letters.
        folders: names of the folders that it lies in, in small letters, the nearest first.
        header: what the file's header says of it (``descrip``), in small letters.
        own: whether ``labels`` are its own, not the union.
    """

    labels: frozenset[int]
    path: str = ""
    files: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    header: str = ""
    own: bool = True

    @classmethod
    def of(cls, labels: Iterable[int], path: Path | str | None = None, case: str = "", header: str = "") -> Evidence:
        """Evidence of a file and of the case that it belongs to, either of which may be unknown."""
        known = Path(path) if path is not None else None
        names = (known.name if known is not None else "", case)
        folders = [parent.name for parent in known.absolute().parents][:FOLDERS] if known is not None else []
        return cls(
            frozenset(int(label) for label in labels),
            str(known) if known is not None else case,
            tuple(name.lower() for name in names if name),
            tuple(folder.lower() for folder in folders if folder),
            header.lower(),
        )


@dataclass(frozen=True)
class Seen:
    """All segmentations of a cohort; iterates the numbers that occur in any of them, ascending."""

    cases: tuple[Evidence, ...]

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(frozenset[int]().union(*(each.labels for each in self.cases))))


@dataclass(frozen=True)
class Meaning:
    """How the segmentations of a cohort are read.

    Attributes:
        convention: what the numbers mean; None where that cannot be known.
        why: in words: who or what says so, or what could be meant and how to say which.
        present: the numbers that occur.
        agreed: where the convention is not known: region -> the numbers that every candidate puts into it.
        doubt: what could be meant; empty where the convention is known.
        certain: whether somebody or a name says so, so that further segmentations of the cohort cannot say otherwise.
    """

    convention: Convention | None
    why: str
    present: frozenset[int] = frozenset()
    agreed: Mapping[str, frozenset[int]] = field(default_factory=dict)
    doubt: str = ""
    certain: bool = False

    @property
    def name(self) -> str | None:
        """Of the convention; None where it is not known."""
        return self.convention.name if self.convention is not None else None

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions beside ``lesion`` that are scored apart."""
        return self.convention.scored if self.convention is not None else tuple(self.agreed)

    def lesion(self, labels: np.ndarray) -> np.ndarray:
        """Where there is a lesion, bool of the labels' shape: what is not healthy; what is above 0 where nothing is known."""
        if self.convention is None:
            return labels > 0
        return _isin(labels, self.convention.members("lesion", present_in(labels)))

    def masks(self, labels: np.ndarray) -> dict[str, np.ndarray]:
        """`regions` -> where they are, bool of the labels' shape.

        Raises:
            DataError: a label is not of the convention.
        """
        return {name: _isin(labels, numbers) for name, numbers in self._numbers(labels, self.regions).items()}

    def voxels(self, labels: np.ndarray) -> dict[str, int]:
        """How many voxels the lesion, each region and each part have; those that have any.

        Raises:
            DataError: a label is not of the convention.
        """
        whole = labels.astype(np.int64).ravel()
        numbers, counts = np.unique(whole, return_counts=True)
        size = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
        parts = [part for part in self.convention.parts if part != "background"] if self.convention is not None else []
        found = {"lesion": int(np.count_nonzero(self.lesion(whole)))}
        for name, members in self._numbers(labels, dict.fromkeys((*self.regions, *parts))).items():
            found[name] = sum(size[label] for label in members)
        return {name: count for name, count in found.items() if count}

    def _numbers(self, labels: np.ndarray, names: Iterable[str]) -> dict[str, frozenset[int]]:
        """Region or part -> the numbers that are in it."""
        present = present_in(labels)
        if self.convention is None:
            return {name: self.agreed[name] & frozenset(present) for name in names}
        self.convention.check(present)
        return {name: self.convention.members(name, present) for name in names}


def decide(labels: Seen | Iterable[int], files: Iterable[str | Path] = (), named: str | Path | Convention = AUTO) -> Meaning:
    """How the segmentations of a cohort are read; see the top of this file.

    Args:
        labels: of every segmentation; or the numbers that occur in all of them together.
        files: with numbers: the segmentation files.
        named: a name of `conventions`, your own YAML file, or ``auto``.

    Raises:
        DataError: labels are not of the convention that is named, or below 0; or its file cannot be read.
        UsageError: there is no such convention.
    """
    if isinstance(labels, Seen):
        cases = labels.cases
    else:
        present = [int(label) for label in labels]
        cases = tuple(Evidence.of(present, file) for file in files) or (Evidence.of(present),)
        cases = cases if len(cases) < 2 else tuple(replace(case, own=False) for case in cases)
    everything = frozenset(label for case in cases for label in case.labels)
    for case in cases:
        below = sorted(label for label in case.labels if label < 0)
        if below:
            raise DataError(f"{case.path or 'the segmentation'} holds label {some(below)}; labels are 0 and up.")
    if named != AUTO:
        convention = get(named)
        for case in cases:
            convention.check(case.labels, case.path or "the segmentation")
        return Meaning(convention, f"{_listed(everything)} read as {convention.name}, as was asked", everything, certain=True)
    return _told(cases, everything - {0})


def convention_of(labels: Seen | Iterable[int], files: Iterable[str | Path] = ()) -> str:
    """The name of the convention that a cohort's labels follow; arguments of `decide`.

    Raises:
        DataError: it cannot be known, with what could be meant; or a label is below 0.
    """
    found = decide(labels, files)
    if found.name is None:
        raise DataError(found.why)
    return found.name


def describe(name: str | Path | Convention, present: Iterable[int] = ()) -> dict[str, Any]:
    """``{"convention": name, "labels": {number: part}}``: what a sidecar says of the labels that stand in a file.

    Args:
        name: as of `get`.
        present: labels that occur; those that a convention does not list one by one are added.

    Raises:
        DataError: the convention cannot be read, or does not have one of ``present``.
        UsageError: there is no such convention.
    """
    convention = get(name)
    numbers = sorted({int(label) for label in present})
    convention.check(numbers)
    labels = {**convention.labels, **{label: convention.part(label) for label in numbers}}
    return {"convention": convention.name, "labels": {label: labels[label] for label in sorted(labels)}}


def _told(cases: Sequence[Evidence], present: frozenset[int]) -> Meaning:
    """What names and labels say."""
    cases = [case for case in cases if case.labels - {0}] or cases  # an empty segmentation says nothing
    known = [get(name) for name in conventions()]
    fitting = [each for each in known if each.holds(present)]
    hinted = [_hinted(case, known) for case in cases]
    told = [_alike(found, fitting, case) for found, case in zip(hinted, cases, strict=True)]
    if told and all(told):
        common = [each for each in fitting if all(each in allowed for allowed in told)]
        first = sorted(common, key=lambda each: (-sum(each in found for found in hinted), len(each.labels)))
        if common and _one_meaning(common, present):
            names = list(dict.fromkeys(_name(case, first[0]) for case in cases))
            return Meaning(
                first[0], f"{_listed(present)} read as {first[0].name}, as said by {some(names, 2)}", present, certain=True
            )
        if common:
            return _unknown(present, [each for each in first if any(each in found for found in hinted)] or first, "by its name ")
        return _unknown(present, _nearest(fitting, present), "names of files contradict each other: ")
    sure = [each for each in fitting if each.sure and set(each.sure) <= present]
    if sure and _one_meaning(sure, present):
        return Meaning(sure[0], f"{_listed(present)} together are read as {sure[0].name}", present)
    if len(present) < 2:
        what = f"{_listed(present)} alone is read as a lesion mask" if present else "there is no label above 0"
        return Meaning(get("lesion"), what, present)
    # what takes any number says nothing, and what headers alone tell would be known
    told_by_name = [each for each in fitting if not each.others and not all(_kind(hint) == HEADER for hint in each.hints)]
    return _unknown(present, _nearest(told_by_name, present))


def _unknown(present: frozenset[int], candidates: Sequence[Convention], words: str = "") -> Meaning:
    """Nothing but what all candidates have alike."""
    agreed: dict[str, frozenset[int]] = {}
    for region in candidates[0].scored if candidates else ():
        first, *others = (each.members(region, present) if region in each.scored else frozenset() for each in candidates)
        if first and all(each == first for each in others):
            agreed[region] = first
    names = [each.name for each in candidates if not each.others or len(candidates) < 3]
    doubt = f"{words}{_listed(present)} could be {some(names, 8)}" if names else f"no convention has {_listed(present)}"
    only = " and ".join([", ".join(["the lesion", *list(agreed)[:-1]]), *list(agreed)[-1:]])
    fix = "say which with --labels NAME, or give your own as --labels FILE.yaml"
    return Meaning(None, f"{doubt}, so only {only} can be scored; {fix}", present, agreed, doubt)


def _hinted(case: Evidence, known: Sequence[Convention]) -> list[Convention]:
    """The conventions that have a case's labels and that its names hint at: the first name that hints, narrowed by the others."""
    found: list[Convention] = []
    fitting = [each for each in known if not case.own or each.holds(case.labels)]
    nearest = f"{case.folders[0]}/" if case.folders else ""
    for name in [*([f"{HEADER}{case.header}"] if case.header else []), *case.files, *(f"{folder}/" for folder in case.folders)]:
        hits = [each for each in fitting if _says(name, each) or (name == nearest and _begins(name, each))]
        found = [each for each in found if each in hits] or found or hits
    return found


def _says(name: str, convention: Convention) -> bool:
    """Whether a header, a file's or case's name, or a folder hints at a convention."""
    return any(fnmatchcase(name, hint) for hint in convention.hints if _kind(hint) == _kind(name))


def _begins(folder: str, convention: Convention) -> bool:
    """Whether a folder is called as a case or file of a convention is: the nearest one often is the case's."""
    return any(fnmatchcase(folder[:-1], hint) for hint in convention.hints if not _kind(hint) and not hint.startswith("*"))


def _kind(name: str) -> str:
    """Of what a name or a pattern is: a header, a folder, else a file or case."""
    return HEADER if name.startswith(HEADER) else name[-1:] if name.endswith("/") else ""


def _alike(hinted: Sequence[Convention], fitting: Sequence[Convention], case: Evidence) -> list[Convention]:
    """The conventions that have all labels of the cohort and read those of one case as what its name hints at does.

    So a cohort in which some have a resection cavity is read as one, however the others, which have none, are called.
    """
    own = [(each, case.labels if case.own else case.labels & set(each.labels)) for each in hinted]
    return [each for each in fitting if any(_parts_of(each, labels) == _parts_of(other, labels) for other, labels in own)]


def _nearest(candidates: Iterable[Convention], present: frozenset[int]) -> list[Convention]:
    """Those first that have the fewest labels which do not occur."""
    return sorted(candidates, key=lambda each: len(set(each.labels) - present))


def _parts_of(convention: Convention, labels: Iterable[int]) -> tuple[str, ...]:
    return tuple(convention.part(label) for label in sorted(labels))


def _one_meaning(candidates: Sequence[Convention], present: frozenset[int]) -> bool:
    return len({_parts_of(each, present) for each in candidates}) == 1


def _name(case: Evidence, convention: Convention) -> str:
    """What of a case hints at a convention, for a message: its header or its name."""
    header = f"{HEADER}{case.header}"
    return f"its header, {case.header!r}" if any(fnmatchcase(header, hint) for hint in convention.hints) else Path(case.path).name


def _listed(present: Iterable[int]) -> str:
    above = sorted(set(present) - {0})
    return f"label{'s' if len(above) != 1 else ''} {some(above, 8) or 'none'}"


def _isin(labels: np.ndarray, numbers: Iterable[int]) -> np.ndarray:
    wanted = sorted(numbers)
    if labels.dtype == np.bool_:
        return labels if 1 in wanted else np.zeros(labels.shape, np.bool_)
    return np.isin(labels, wanted)
