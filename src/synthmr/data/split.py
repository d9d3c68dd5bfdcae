"""The split into training, validation and test cases: by subject, seeded, saved, or taken from the data."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from synthmr.case import SPLITS, Case, Cohort, Doubt
from synthmr.errors import DataError, UsageError
from synthmr.io.files import write_text
from synthmr.io.naming import some
from synthmr.io.table import read_split_table

FRACTIONS = (0.7, 0.15, 0.15)

#: keeps the split's random numbers apart from those that other stages draw from the same seed
_PURPOSE = 0x53504C54


@dataclass(frozen=True)
class Split:
    """Names of the cases of each part.

    Attributes:
        train: cases that weights and normaliser landmarks are learnt from.
        validation: cases that choose the best weights.
        test: cases that nothing is chosen by.
        source: the file that gave the split, or ``seed N``.
        left_out: a line for each case that is in no part, and why.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    source: str
    left_out: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All cases of the split: training, validation, test."""
        return (*self.train, *self.validation, *self.test)

    def part(self, name: str) -> tuple[str, ...]:
        """The cases of ``train``, ``validation``, ``test`` or ``all``.

        Raises:
            UsageError: another word.
        """
        if name == "all":
            return self.names
        if name not in SPLITS:
            raise UsageError(f"unknown split {name!r}; allowed: {', '.join(SPLITS)}, all.")
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]


@dataclass(frozen=True)
class Need:
    """What a run needs of its cases.

    Attributes:
        sources: contrasts that go in.
        targets: contrasts that come out; some may be sources, too.
        any_subset: the method runs with any of its sources, and trains on cases that lack some.
        target: whether a case without any target teaches it nothing.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...] = ()
    any_subset: bool = False
    target: bool = True

    @property
    def contrasts(self) -> tuple[str, ...]:
        """All contrasts of the run."""
        return tuple(dict.fromkeys((*self.sources, *self.targets)))

    def lacks(self, images: Collection[str], held_out: bool = False) -> str:
        """Why a case cannot be used, a phrase after its name; empty where it can.

        Complete cases can. Others where the method takes any subset of its sources: with a target and a source beside it, or, to
        train a method that learns from sources alone, with two sources.

        Args:
            images: contrasts that the case has.
            held_out: whether it is to be predicted and scored; else it is to train.
        """
        missing = [name for name in self.contrasts if name not in images]
        if not missing:
            return ""
        if not self.any_subset:
            return f"has no {', '.join(missing)}"
        sources = [name for name in self.sources if name in images]
        pairs = any(name != target for target in self.targets if target in images for name in sources)
        if pairs or (not held_out and not self.target and len(sources) > 1):
            return ""
        return f"has no {', '.join(missing)}, so no target{' to score' if held_out else ''} with a source beside it"


def make_split(cohort: Cohort, needed: Sequence[str] | Need, seed: int = 0, fractions: Sequence[float] = FRACTIONS) -> Split:
    """Split the cases that a run can use; all cases of a subject, and of all who may be one person, go to one part.

    The cohort's own split (``splits.tsv``, a table's column) is taken where there is one; otherwise persons are drawn
    by ``seed``. At least one person is for training and one for validation; with two persons there is no test part.

    Args:
        cohort: from `synthmr.io.index.index`.
        needed: contrasts that every case must have, or what a run needs.
        seed: of the draw.
        fractions: of the subjects for training, validation and test; they add up to 1.

    Raises:
        DataError: no case has all contrasts, fewer than two subjects, the cohort's split lacks training or validation
            cases, or puts one subject into two parts; or it cannot be told who is one person (`Cohort.doubts`).
        UsageError: fractions that are no fractions.
    """
    _check_fractions(fractions)
    need = needed if isinstance(needed, Need) else Need(tuple(needed))
    usable: list[Case] = []
    left_out: list[str] = []
    for case in cohort.cases:
        lacking = need.lacks(case.images, held_out=case.split in ("validation", "test"))
        asked = dict.fromkeys(case.asked[name] for name in need.contrasts if name in case.asked) if lacking else {}
        lacking += f" ({'; '.join(asked)})" if asked else ""
        if lacking:
            left_out.append(f"{case.name}: {lacking}")
        else:
            usable.append(case)
    if not usable:
        what = ("a target beside a source of " if need.any_subset else "all of ") + ", ".join(need.contrasts)
        raise DataError(
            f"no case of {cohort.root} has {what} ({some(left_out)}); choose other contrasts, or see `synthmr index` for what is"
            " there."
        )
    split = (
        _given(cohort, usable, left_out)
        if any(case.split for case in cohort.cases)
        else _drawn(cohort, usable, left_out, seed, fractions, need)
    )
    images = {case.name: case.images for case in usable}
    unknown = [contrast for contrast in need.contrasts if not any(contrast in images[name] for name in split.train)]
    if unknown:
        raise DataError(
            f"no training case of {cohort.root} has {', '.join(unknown)}, so nothing can be learnt of it; leave it out, or add"
            " cases."
        )
    return split


def usable_part(split: Split, need: Need, images: Callable[[str], Collection[str]]) -> Split:
    """The part of a split that a run can use; a line says why for each case that it cannot.

    Args:
        split: of prepared cases.
        need: what the run needs of its cases.
        images: case -> contrasts that it has.
    """
    left_out = list(split.left_out)

    def kept(part: str) -> tuple[str, ...]:
        found = []
        for name in split.part(part):
            lacking = need.lacks(images(name), held_out=part != "train")
            if lacking:
                left_out.append(f"{name}: {lacking}")
            else:
                found.append(name)
        return tuple(found)

    train, validation, test = (kept(part) for part in SPLITS)
    return replace(split, train=train, validation=validation, test=test, left_out=tuple(left_out))


def _check_fractions(fractions: Sequence[float]) -> None:
    fine = len(fractions) == 3 and all(0 <= part <= 1 for part in fractions) and abs(sum(fractions) - 1) < 1e-6
    if not fine or not fractions[0] or not fractions[1]:
        raise UsageError(
            f"fractions {tuple(fractions)}: give three numbers (train, validation, test) that add up to 1, the first two above 0."
        )


def _given(cohort: Cohort, usable: Sequence[Case], left_out: list[str]) -> Split:
    """The cohort's own split.

    Raises:
        DataError: it shares a subject, or lacks training or validation cases.
    """
    source = cohort.split_source or cohort.root
    parts: dict[str, list[str]] = {name: [] for name in SPLITS}
    for case in usable:
        if case.split is None:
            left_out.append(f"{case.name}: {source.name} gives it no split")
        else:
            parts[case.split].append(case.name)
    shared = shared_subjects({name: [case for case in usable if case.split == name] for name in SPLITS})
    if shared:
        subject, where = next(iter(shared.items()))
        raise DataError(f"{source} puts subject {subject} into {' and '.join(where)}; keep all cases of a subject in one part.")
    check_doubts(cohort, {name: part for part in SPLITS for name in parts[part]}, source)
    for name in ("train", "validation"):
        if not parts[name]:
            why = f" ({some(left_out)})" if left_out else ""
            raise DataError(f"{source} leaves no {name} case that can be used{why}; name at least one with split {name}.")
    return Split(tuple(parts["train"]), tuple(parts["validation"]), tuple(parts["test"]), str(source), tuple(left_out))


def _drawn(cohort: Cohort, usable: Sequence[Case], left_out: list[str], seed: int, fractions: Sequence[float], need: Need) -> Split:
    """Draw persons; those of whom no case can be scored are for training.

    Raises:
        DataError: fewer than two persons, as far as can be told.
    """
    person = cohort.persons
    subjects = sorted({person[case.name] for case in usable})
    if len(subjects) < 2 and len({case.subject for case in usable}) > 1:
        raise DataError(f"{cohort.root} cannot be split without a guess who is who. {doubts_words(cohort, usable)}")
    if len(subjects) < 2:
        also = f" Left out: {some(left_out)}." if left_out else ""
        raise DataError(
            f"{cohort.root} has only 1 subject ({subjects[0]}) with all contrasts; training needs at least 2, one to train "
            f"on and one to validate with. Add subjects, or say who is who with --subject.{also}"
        )
    order = [subjects[i] for i in np.random.default_rng([seed, _PURPOSE]).permutation(len(subjects))]
    validation, test = _counts(len(subjects), fractions)
    scored = {person[case.name] for case in usable if not need.lacks(case.images, held_out=True)}
    if len(scored) < 2:
        raise DataError(
            f"{cohort.root} has {len(scored)} subjects with a target ({', '.join(need.targets)}) and a source beside it; training"
            " needs at least 2, one to train on and one to validate with. Add subjects."
        )
    held_out = [subject for subject in order if subject in scored][: min(validation + test, len(scored) - 1)]
    part = dict.fromkeys(held_out[:validation], "validation")
    part |= dict.fromkeys(held_out[validation:], "test")
    names: dict[str, list[str]] = {name: [] for name in SPLITS}
    for case in usable:
        where = part.get(person[case.name], "train")
        lacking = need.lacks(case.images, held_out=where != "train")
        if lacking:
            left_out.append(f"{case.name}: {lacking}")
        else:
            names[where].append(case.name)
    return Split(tuple(names["train"]), tuple(names["validation"]), tuple(names["test"]), f"seed {seed}", tuple(left_out))


def torn(cohort: Cohort, where: Mapping[str, str]) -> list[tuple[Doubt, list[str]]]:
    """Doubts whose cases lie in several parts, each with these cases.

    Args:
        cohort: with its doubts.
        where: case -> part, or fold; cases that are in none are passed over.
    """
    found = []
    for doubt in cohort.doubts:
        for group in doubt.groups:
            names = [name for name in group if name in where]
            if len({where[name] for name in names}) > 1:
                found.append((doubt, names))
    return found


def check_doubts(cohort: Cohort, where: Mapping[str, str], source: Path) -> None:
    """Check that a split or folds from a file leave cases together that may be of one person.

    Raises:
        DataError: they do not.
    """
    for doubt, names in torn(cohort, where):
        raise DataError(
            f"{source} puts {some(f'{name} into {where[name]}' for name in names)}, and they may be one person: {doubt.why}."
            f" Add {doubt.fix}; or put them into one part."
        )


def doubts_words(cohort: Cohort, cases: Sequence[Case]) -> str:
    """Why it cannot be told who is one person, with the folders and what to write; of the doubts that concern these cases."""
    names = {case.name for case in cases}
    lines = []
    for doubt in cohort.doubts:
        groups = [[name for name in group if name in names] for group in doubt.groups]
        groups = [group for group in groups if len(group) > 1]
        if groups:
            lines.append(f"{doubt.why} ({'; '.join(some(group) for group in groups[:3])}). Add {doubt.fix}.")
    return " ".join(lines)


def _counts(subjects: int, fractions: Sequence[float]) -> tuple[int, int]:
    """How many of two or more subjects are for validation and for test; at least one remains for training."""
    validation = max(1, round(subjects * fractions[1]))
    test = max(1, round(subjects * fractions[2])) if fractions[2] > 0 and subjects > 2 else 0
    while validation + test >= subjects:
        if test > 1 or validation == 1:
            test -= 1
        else:
            validation -= 1
    return validation, test


def shared_subjects(parts: Mapping[str, Sequence[Case]]) -> dict[str, list[str]]:
    """Subjects with cases in more than one part -> those parts."""
    where: dict[str, list[str]] = {}
    for name, cases in parts.items():
        for subject in dict.fromkeys(case.subject for case in cases):
            where.setdefault(subject, []).append(name)
    return {subject: names for subject, names in where.items() if len(names) > 1}


def write_split(path: Path, split: Split) -> None:
    """Write a split as TSV with columns case and split; `--split-file` reads it.

    Raises:
        DataError: it cannot be written.
    """
    lines = [f"{name}\t{part}" for part in SPLITS for name in split.part(part)]
    write_text(path, "\n".join(["case\tsplit", *lines]) + "\n")


def read_split(path: Path) -> Split:
    """Read a split that `write_split` wrote; its ``source`` is the file.

    Raises:
        DataError: the file cannot be read, is no split table, or lacks training or validation cases.
    """
    table = read_split_table(path)
    parts = {part: tuple(name for name, word in table.items() if word == part) for part in SPLITS}
    for name in ("train", "validation"):
        if not parts[name]:
            raise DataError(f"{path} names no {name} case; it needs at least one.")
    return Split(parts["train"], parts["validation"], parts["test"], str(path))
