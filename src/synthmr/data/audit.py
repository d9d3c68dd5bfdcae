"""Find what would make training wrong before any training: every file is read once, few cases in memory at a time.

An ``error`` is something that training must not start with (the command line exits with 1); a ``warning`` is something
a person should have seen. Each finding says what was found, what it means and how to mend it. What one case's files
say is found in `synthmr.data.look`, who is in them in `synthmr.data.same_person`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from synthmr.case import SPLITS, Cohort
from synthmr.data import same_person
from synthmr.data.findings import KEEP, Finding, Findings, in_order
from synthmr.data.look import dice, find_foreground, look_at
from synthmr.data.looks import Looks
from synthmr.data.split import Split, shared_subjects, torn
from synthmr.io.naming import some

__all__ = ["KEEP", "Finding", "audit", "audit_cases", "dice", "find_foreground"]

Progress = Callable[..., None]


def audit(
    cohort: Cohort,
    contrasts: Sequence[str] | None = None,
    split: Split | None = None,
    progress: Progress | None = None,
    cache: Path | None = None,
) -> list[Finding]:
    """Look at every file of a cohort.

    Args:
        cohort: from `synthmr.io.index.index`.
        contrasts: those that training will use; others are not looked at. Default: all.
        split: a split to check in place of the cohort's own.
        progress: called as ``progress(done, total, case name)`` after each case.
        cache: folder in which what was found of a case is kept, by the content of its files; None keeps nothing.

    Returns:
        Errors first, each kind in order of the cases; empty where all is well.
    """
    found = Findings()
    _check_contrasts(cohort, contrasts, found)
    _check_split(cohort, split, found)
    for line in cohort.problems:
        found.add(
            "warning", "", "", line, "These files are not used.", "Do as the line says, or ignore it if that is what you want."
        )
    return in_order([*found.list, *audit_cases(cohort, contrasts, split, progress, cache)])


def audit_cases(
    cohort: Cohort,
    contrasts: Sequence[str] | None = None,
    split: Split | None = None,
    progress: Progress | None = None,
    cache: Path | None = None,
) -> list[Finding]:
    """What the files themselves say, without contrasts that are missing, the split's own faults and problems of the index.

    Arguments as `audit`. Returns all findings, none counted together.
    """
    wanted = tuple(cohort.contrasts if contrasts is None else dict.fromkeys(contrasts))
    persons, found = _telling(cohort, wanted), Findings()
    with Looks(cache) as looks, ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        jobs = [pool.submit(looks.get, case, wanted, persons, look_at) for case in cohort.cases]
        try:
            for done, (case, job) in enumerate(zip(cohort.cases, jobs, strict=True), start=1):
                look = job.result()
                found.list += look.findings
                if progress is not None:
                    progress(done, len(cohort.cases), case.name)
        finally:
            pool.shutdown(cancel_futures=True)
        part = _parts(cohort, split)
        # cases in their own order, whichever thread was first
        hashes = {case.name: looks.hashes[case.name] for case in cohort.cases}
        twins = _check_duplicates(cohort, hashes, part, found)
        for contrast in persons:
            twins |= _check_persons(cohort, contrast, looks, part, twins, found)
    return found.list


def _telling(cohort: Cohort, wanted: Sequence[str]) -> tuple[str, ...]:
    """Contrasts that tell persons apart: as few as let every two cases that share one be compared."""
    left, chosen = list(cohort.cases), list[str]()
    while left:
        counts = {name: sum(name in case.images for case in left) for name in wanted if name not in chosen}
        best = max(counts, key=lambda name: counts[name], default="")
        if not best or not counts[best]:
            break
        chosen.append(best)
        left = [case for case in left if best not in case.images]
    return tuple(chosen)


def _parts(cohort: Cohort, split: Split | None) -> dict[str, str]:
    """Case -> its part of the split, where it is in one."""
    if split is None:
        return {case.name: case.split for case in cohort.cases if case.split is not None}
    return {name: part for part in SPLITS for name in split.part(part)}


# --- without voxels -----------------------------------------------------------------------------------------------


def _check_contrasts(cohort: Cohort, contrasts: Sequence[str] | None, found: Findings) -> None:
    """Cases that lack a contrast."""
    complete = 0
    needed = list(cohort.contrasts if contrasts is None else dict.fromkeys(contrasts))
    for contrast in needed:
        lacking = [case.name for case in cohort.cases if contrast not in case.images]
        if not lacking:
            continue
        what = f"{len(lacking)} of {len(cohort.cases)} cases have no {contrast}: {some(lacking, 6)}"
        everyone = len(lacking) == len(cohort.cases)
        found.add(
            "error" if everyone else "warning",
            "",
            contrast,
            what,
            "Nothing can be trained with this contrast." if everyone else "These cases are left out where the contrast is needed.",
            f"Add the files; if they are there under another name, add --alias NAME={contrast}.",
        )
    complete = sum(all(name in case.images for name in needed) for case in cohort.cases)
    if contrasts is not None and not complete and all(name in cohort.contrasts for name in needed):
        what = f"no case has all of {', '.join(needed)}"
        found.add("error", "", "", what, "There is nothing to train on.", "Choose other contrasts, or add the missing files.")


def _check_split(cohort: Cohort, split: Split | None, found: Findings) -> None:
    """Subjects in two parts, parts that are empty, and too few subjects."""
    if split is not None:
        source = split.source
        parts = {name: [case for case in cohort.cases if case.name in split.part(name)] for name in SPLITS}
    else:
        source = str(cohort.split_source) if cohort.split_source is not None else ""
        parts = {name: [case for case in cohort.cases if case.split == name] for name in SPLITS}
    where = {case.name: name for name, cases in parts.items() for case in cases}
    apart = torn(cohort, where)
    for doubt, cases_ in apart:
        what = f"{', '.join(f'{name} ({where[name]})' for name in cases_)} may be one person: {doubt.why}"
        meaning = "The model might be scored on a person whom it was trained on; `synthmr train` refuses this split."
        found.add("error", tuple(cases_), "", what, meaning, f"Add {doubt.fix}; or put them into one part.")
    for doubt in cohort.doubts:
        if doubt not in [each for each, _ in apart]:
            groups = "; ".join(some(group) for group in doubt.groups[:3])
            meaning = (
                "A split keeps them together, as names cannot tell; where nothing else is left to hold out, training is refused."
            )
            found.add("warning", "", "", f"{doubt.why} ({groups})", meaning, f"Add {doubt.fix}.")
    for subject, names in shared_subjects(parts).items():
        cases = [case.name for name in names for case in parts[name] if case.subject == subject]
        found.add(
            "error",
            tuple(cases),
            "",
            f"subject {subject} is in {' and in '.join(names)} ({source})",
            "The model would be scored on a person whom it was trained on; the scores would be too good.",
            "Put all cases of the subject into one part.",
        )
    if source:
        for name in ("train", "validation"):
            if not parts[name]:
                fix = f"Mark at least one case {name} in {source}, or remove the split to have one drawn."
                found.add("error", "", "", f"{source} has no {name} case", "Training cannot start.", fix)
    subjects = {case.subject for case in cohort.cases}
    if len(subjects) < 2:
        found.add(
            "warning",
            "",
            "",
            f"only 1 subject ({', '.join(subjects)})",
            "That is enough to synthesise and to score, not to train.",
            "Training needs at least two subjects: one to train on, one to validate with.",
        )


# --- between cases ------------------------------------------------------------------------------------------------

#: meaning and fix of one person under two names
TWICE = "One person counts twice; in two parts of a split, the scores would be too good."
ONE_SUBJECT = "Remove one of the two, or give both the same subject (a table's subject column)."


def _where(one: str, two: str, part: Mapping[str, str]) -> str:
    """The words for two cases that are in two parts; empty where they are not."""
    parts = sorted({part[name] for name in (one, two) if name in part})
    return f" and they are in {' and '.join(parts)}" if len(parts) > 1 else ""


def _check_duplicates(
    cohort: Cohort, hashes: Mapping[str, Mapping[str, str]], part: Mapping[str, str], found: Findings
) -> set[tuple[str, str]]:
    """The same voxels under two names; returns the pairs of cases that have some."""
    seen: dict[str, list[tuple[str, str]]] = {}
    pairs: dict[tuple[str, str], list[str]] = {}
    for name, of_case in hashes.items():
        for contrast, digest in of_case.items():
            for other, word in seen.setdefault(digest, []):
                pairs.setdefault((other, name), []).append(contrast if contrast == word else f"{word} = {contrast}")
            seen[digest].append((name, contrast))
    subjects = {case.name: case.subject for case in cohort.cases}
    for (one, two), shared in pairs.items():
        contrasts = ", ".join(sorted(set(shared)))
        if one == two:
            what, meaning = "two contrasts hold the same voxels", "One is a copy under a wrong name; the model would learn to copy."
            found.add("error", one, contrasts, what, meaning, "Replace the copy by the right file, or remove it.")
            continue
        where = _where(one, two, part)
        level = "warning" if subjects[one] == subjects[two] and not where else "error"
        found.add(level, (one, two), contrasts, f"the same voxels under two names{where}", TWICE, ONE_SUBJECT)
    return set(pairs)


def _check_persons(
    cohort: Cohort, contrast: str, looks: Looks, part: Mapping[str, str], known: set[tuple[str, str]], found: Findings
) -> set[tuple[str, str]]:
    """Images that show one person under two names, though their voxels differ; returns the pairs of cases."""
    cases = [case for case in cohort.cases if looks.has_detail(case.name, contrast)]
    if len(cases) < 2:
        return set()
    signatures = np.stack([looks.signature(case.name, contrast) for case in cases])
    pairs = same_person.find_pairs(
        lambda number: looks.detail(cases[number].name, contrast), signatures, [case.subject for case in cases]
    )
    for pair in pairs:
        one, two = cases[pair.one].name, cases[pair.two].name
        if (one, two) in known or (two, one) in known:
            continue
        where, certain = _where(one, two, part), pair.score >= same_person.CERTAIN
        kind = "one person under two names" if certain else "probably one person under two names"
        order = "; one is stored mirrored" if pair.mirrored else ""
        what = f"{kind} (their {contrast} agree to {pair.score:.2f} in detail; two people reach less than .6{order}){where}"
        fix = f"Look at both. {ONE_SUBJECT}"
        found.add("error" if certain and where else "warning", (one, two), contrast, what, TWICE, fix)
    return {(cases[pair.one].name, cases[pair.two].name) for pair in pairs}
