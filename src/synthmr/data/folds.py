"""Folds of a cross-validation: whole subjects, seeded, stored as a table that can be read and edited.

The file has one line a case: ``case``, ``fold`` (1 to k: the fold that tests it), ``subject``, and ``validates`` (the folds, with
commas, that choose their best weights by it). So a split never depends on how random numbers were drawn when the file was
made. In a file written by hand the last two columns may be missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from synthmr.case import Cohort
from synthmr.data.split import Split, check_doubts, doubts_words
from synthmr.errors import DataError, UsageError
from synthmr.io.files import write_text
from synthmr.io.naming import some, subject_of
from synthmr.io.table import read_rows

COLUMNS = ("case", "fold", "subject", "validates")

#: share of the subjects outside a fold's test part that validate
VALIDATION = 0.15

#: keep these random numbers apart from those that other stages draw from the same seed
_PURPOSE = 0x464F4C44
_PURPOSE_VALIDATION = 0x464F4C56


@dataclass(frozen=True)
class Folds:
    """Which fold tests each case, and which subjects validate in each fold.

    Attributes:
        fold: case -> 1 to k, the fold whose test part it is in.
        subjects: case -> subject.
        validation: for each fold, in order, the subjects of its validation part.
        source: the file, or ``seed N``.
        left_out: a line for each case that is in no fold, and why.
    """

    fold: Mapping[str, int]
    subjects: Mapping[str, str]
    validation: tuple[tuple[str, ...], ...]
    source: str
    left_out: tuple[str, ...] = ()

    @property
    def k(self) -> int:
        """How many folds."""
        return len(self.validation)

    def split(self, fold: int) -> Split:
        """The training, validation and test cases of fold 1 to k; each case is in the test part of exactly one fold.

        Raises:
            UsageError: no such fold.
        """
        if not 1 <= fold <= self.k:
            raise UsageError(f"there is no fold {fold}; allowed: 1 to {self.k}.")
        parts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
        for case, tests in self.fold.items():
            chosen = self.subjects[case] in self.validation[fold - 1]
            parts["test" if tests == fold else "validation" if chosen else "train"].append(case)
        source = f"{self.source}, fold {fold} of {self.k}"
        return Split(tuple(parts["train"]), tuple(parts["validation"]), tuple(parts["test"]), source, self.left_out)


def make_folds(
    cases: Cohort | Mapping[str, str],
    k: int = 5,
    seed: int = 0,
    validation: float = VALIDATION,
    needed_contrasts: Sequence[str] = (),
) -> Folds:
    """Deal the subjects into k folds whose sizes differ by at most one subject; who may be one person stays together.

    A split that the cohort brings is not heeded: every case is tested once.

    Args:
        cases: a cohort, or case -> subject.
        k: folds, 2 or more.
        seed: of the draw.
        validation: share of each fold's other subjects that validate, at least one of them.
        needed_contrasts: cases of a cohort without all of them are left out.

    Raises:
        UsageError: k below 2, or a share outside (0, 1).
        DataError: no case has all contrasts, fewer subjects than folds, a fold would leave no subject to train on, or it cannot
            be told who is one person (`Cohort.doubts`).
    """
    if k < 2:
        raise UsageError(f"{k} folds are no cross-validation; ask for 2 or more.")
    if not 0 < validation < 1:
        raise UsageError(f"a validation share of {validation} is not between 0 and 1; give a number such as {VALIDATION}.")
    subject_by_case, left_out = _usable(cases, needed_contrasts)
    persons = cases.persons if isinstance(cases, Cohort) else subject_by_case
    person = {name: persons[name] for name in subject_by_case}
    subjects = sorted(set(person.values()))
    if k > len(subjects) and isinstance(cases, Cohort) and k <= len(set(subject_by_case.values())):
        usable = [case for case in cases.cases if case.name in subject_by_case]
        raise DataError(f"{cases.root} cannot be dealt into {k} folds without a guess who is who. {doubts_words(cases, usable)}")
    if k > len(subjects):
        raise DataError(f"{k} folds need {k} subjects or more, there {_are(len(subjects))}; ask for fewer folds, or add subjects.")
    order = [subjects[i] for i in np.random.default_rng([seed, _PURPOSE]).permutation(len(subjects))]
    fold_of = {subject: i % k + 1 for i, subject in enumerate(order)}
    drawn = _draw_validation(fold_of, k, seed, validation)
    chosen = tuple(tuple(sorted({subject_by_case[name] for name in person if person[name] in each})) for each in drawn)
    names = sorted(subject_by_case)
    fold = {name: fold_of[person[name]] for name in names}
    return Folds(fold, {name: subject_by_case[name] for name in names}, chosen, f"seed {seed}", left_out)


def _are(subjects: int) -> str:
    return f"are {subjects}" if subjects != 1 else "is 1"


def _usable(cases: Cohort | Mapping[str, str], needed: Sequence[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """(case -> subject of those with all contrasts, a line for each other case).

    Raises:
        DataError: there is no case.
    """
    if not isinstance(cases, Cohort):
        if not cases:
            raise DataError("there are no cases to deal into folds; add some.")
        return dict(cases), ()
    missing = {case.name: [name for name in dict.fromkeys(needed) if name not in case.images] for case in cases.cases}
    left_out = tuple(f"{name}: has no {', '.join(lacks)}" for name, lacks in missing.items() if lacks)
    usable = {case.name: case.subject for case in cases.cases if not missing[case.name]}
    if not usable:
        why = f" has all of {', '.join(dict.fromkeys(needed))} ({some(left_out)})" if left_out else " was found"
        raise DataError(f"no case of {cases.root}{why}; choose other contrasts, or see `synthmr index` for what is there.")
    return usable, left_out


def _draw_validation(fold_of: Mapping[str, int], k: int, seed: int, share: float) -> tuple[tuple[str, ...], ...]:
    """For each fold the subjects that validate, drawn from those that it does not test.

    Raises:
        DataError: a fold would leave no subject to train on.
    """
    chosen = []
    for fold in range(1, k + 1):
        rest = sorted(subject for subject, tests in fold_of.items() if tests != fold)
        if len(rest) < 2:
            raise DataError(
                f"fold {fold} of {k} leaves 1 subject beside its test part, and that one must validate: none is left to train on; "
                f"{'ask for more folds' if len(fold_of) > k else 'add subjects'}."
            )
        order = np.random.default_rng([seed, _PURPOSE_VALIDATION, fold]).permutation(len(rest))
        count = min(max(1, round(len(rest) * share)), len(rest) - 1)
        chosen.append(tuple(sorted(rest[i] for i in order[:count])))
    return tuple(chosen)


def write_folds(path: Path | str, folds: Folds) -> None:
    """Write the folds as TSV, atomically; `read_folds` reads it.

    Raises:
        DataError: it cannot be written.
    """
    lines = ["\t".join(COLUMNS)]
    for case, fold in folds.fold.items():
        subject = folds.subjects[case]
        validates = [str(i) for i, chosen in enumerate(folds.validation, 1) if subject in chosen]
        lines.append("\t".join((case, str(fold), subject, ",".join(validates))))
    write_text(path, "\n".join(lines) + "\n")


def read_folds(
    path: Path | str,
    cases: Cohort | Mapping[str, str] | None = None,
    needed_contrasts: Sequence[str] = (),
    seed: int = 0,
    validation: float = VALIDATION,
) -> Folds:
    """Read folds that `write_folds` wrote, or a table with columns case and fold written by hand.

    Args:
        path: the table.
        cases: a cohort, or case -> subject: the file must name exactly these. A hand-written file without the column
            subject takes the subjects from here; without this too, from the cases' names.
        needed_contrasts: cases of a cohort without all of them are left out, as in `make_folds`.
        seed: draws the validation part where the file has no column ``validates``.
        validation: its share.

    Raises:
        DataError: the file cannot be read or is damaged, its folds are not 1 to k with k of 2 or more, a subject is in two
            folds, it misses cases or names unknown ones, or a fold lacks a validation or training part.
        UsageError: a share outside (0, 1).
    """
    path = Path(path)
    if not 0 < validation < 1:
        raise UsageError(f"a validation share of {validation} is not between 0 and 1; give a number such as {VALIDATION}.")
    columns, rows = read_rows(path)
    if not {"case", "fold"} <= set(columns):
        raise DataError(f"{path} has columns {', '.join(columns)}; a fold file needs the columns case and fold.")
    known, left_out = (None, ()) if cases is None else _usable(cases, needed_contrasts)
    fold: dict[str, int] = {}
    subjects: dict[str, str] = {}
    words: dict[str, str] = {}
    for number, row in rows:
        name, where = row["case"], f"{path} line {number}"
        if not name or not row["fold"]:
            raise DataError(f"{where} lacks a {'case' if not name else 'fold'}; write both, or remove the line.")
        if name in fold:
            raise DataError(f"{where} names {name} a second time; keep one line.")
        fold[name] = _fold_number(row["fold"], where)
        subjects[name] = row.get("subject") or (known or {}).get(name) or subject_of(name)
        words[name] = row.get("validates", "")
    _check_names(path, fold, subjects, known)
    if isinstance(cases, Cohort):
        check_doubts(cases, {name: f"fold {tests}" for name, tests in fold.items()}, path)
    k = _check_folds(path, fold, subjects)
    fold_of = {subjects[name]: tests for name, tests in fold.items()}
    if "validates" in columns:
        chosen = _read_validation(path, fold, subjects, words, k)
    else:
        try:
            chosen = _draw_validation(fold_of, k, seed, validation)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
    return Folds(fold, subjects, chosen, str(path), left_out)


def _fold_number(word: str, where: str) -> int:
    if not (word.isascii() and word.isdigit() and int(word)):
        raise DataError(f"{where}: {word!r} is no fold; write a whole number from 1 on.")
    return int(word)


def _check_names(path: Path, fold: Mapping[str, int], subjects: Mapping[str, str], known: Mapping[str, str] | None) -> None:
    """The file names exactly the known cases, with their subjects.

    Raises:
        DataError: it does not.
    """
    if not fold:
        raise DataError(f"{path} has no lines below its header; write one line a case.")
    if known is None:
        return
    missing = [name for name in known if name not in fold]
    unknown = [name for name in fold if name not in known]
    if missing or unknown:
        what = [f"misses {some(missing)}"] if missing else []
        what += [f"names {some(unknown)}, which the data lack"] if unknown else []
        raise DataError(f"{path} {' and '.join(what)}; use the data that the folds were made for, or make new folds.")
    other = next((name for name in fold if subjects[name] != known[name]), None)
    if other is not None:
        raise DataError(
            f"{path} says that {other} is of subject {subjects[other]}, the data say {known[other]}; "
            "correct the file, or make new folds."
        )


def _check_folds(path: Path, fold: Mapping[str, int], subjects: Mapping[str, str]) -> int:
    """The number of folds.

    Raises:
        DataError: a subject is in two folds, there are fewer than two, more than subjects, or one is empty.
    """
    fold_of: dict[str, int] = {}
    for name, tests in fold.items():
        first = fold_of.setdefault(subjects[name], tests)
        if first != tests:
            raise DataError(f"{path} puts subject {subjects[name]} into folds {first} and {tests}; keep all its cases in one.")
    k = max(fold.values())
    if k > len(fold_of):
        raise DataError(f"{path} has {k} folds, but only {len(fold_of)} subject{'s' * (len(fold_of) > 1)}; use fewer folds.")
    empty = [str(i) for i in range(1, k + 1) if i not in fold_of.values()]
    if empty:
        raise DataError(f"{path} has {k} folds, but no case in fold {some(empty)}; number the folds from 1 without gaps.")
    if k < 2:
        raise DataError(f"{path} has 1 fold; a cross-validation needs 2 or more.")
    return k


def _read_validation(
    path: Path, fold: Mapping[str, int], subjects: Mapping[str, str], words: Mapping[str, str], k: int
) -> tuple[tuple[str, ...], ...]:
    """The subjects of each fold's validation part.

    Raises:
        DataError: a word is no fold, a subject validates where it is tested, its cases disagree, or a fold is left without
            a validation or training part.
    """
    per_subject: dict[str, set[int]] = {}
    for name, word in words.items():
        folds = {_fold_number(part.strip(), f"{path}, validates of {name}") for part in word.split(",")} if word else set()
        if folds and max(folds) > k:
            raise DataError(f"{path}: {name} validates in fold {max(folds)}, but there are {k} folds; correct the line.")
        if fold[name] in folds:
            raise DataError(f"{path}: {name} validates in fold {fold[name]}, which tests it; keep one.")
        if per_subject.setdefault(subjects[name], folds) != folds:
            raise DataError(f"{path}: the cases of subject {subjects[name]} validate in different folds; give all the same.")
    chosen = tuple(tuple(sorted(s for s, folds in per_subject.items() if i in folds)) for i in range(1, k + 1))
    for i, validate in enumerate(chosen, 1):
        test = {subjects[name] for name, tests in fold.items() if tests == i}
        for what, empty in (("validation", not validate), ("training", len(test) + len(validate) == len(per_subject))):
            if empty:
                raise DataError(f"{path} leaves fold {i} without a {what} case; change the column validates.")
    return chosen
