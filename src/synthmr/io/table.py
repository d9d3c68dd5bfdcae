"""Tables: a manifest of files (CSV or TSV) and the split of cases (splits.tsv)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from synthmr.case import SPLITS, Case, Doubt, check_name
from synthmr.contrasts import MASK, SEGMENTATION, canonical, resolve
from synthmr.documents import MOST_TABLE, read_text
from synthmr.errors import DataError, UsageError, shown
from synthmr.io.members import Member, clean, doubts_of
from synthmr.io.naming import Problems, some
from synthmr.io.persons import Identity, Place, identify
from synthmr.reading import Reading, person_pattern

#: what a split may be called
_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "valid": "validation",
    "val": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}

_CASE_COLUMNS = ("case", "case_id", "id", "name")
_SUBJECT_COLUMNS = ("subject", "subject_id", "participant_id", "participant", "patient_id", "patient")
_SESSION_COLUMNS = ("session", "session_id", "ses", "visit", "timepoint", "time_point")
_EMPTY = ("", "n/a", "na", "none", "nan")

Row = tuple[int, dict[str, str]]


def is_table(path: Path) -> bool:
    """Whether the name ends in .csv or .tsv."""
    return path.suffix.lower() in (".csv", ".tsv")


def read_rows(path: Path) -> tuple[list[str], list[Row]]:
    """(column names in lower case, [(line number, {column: value})]) of a CSV (comma or semicolon) or TSV.

    Raises:
        DataError: the file cannot be read, has no header, or a line has more fields than the header.
    """
    text = read_text(path, MOST_TABLE)
    if "\0" in text:
        raise DataError(f"{path} is no text; save the table as CSV or TSV.")
    head = text.lstrip("\r\n").partition("\n")[0].partition("\r")[0]
    delimiter = "\t" if "\t" in head or path.suffix.lower() == ".tsv" else ";" if head.count(";") > head.count(",") else ","
    lines = csv_lines(text, str(path), delimiter)
    columns = [word.strip().lower() for word in next(lines, (0, []))[1]]
    if not any(columns):
        raise DataError(f"{path} is empty; its first line must name the columns.")
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise DataError(f"{path} has two columns called {twice[0]!r}; rename one.")
    rows: list[Row] = []
    for number, fields in lines:
        values = [word.strip() for word in fields]
        if not any(values):
            continue
        if len(values) > len(columns):
            raise DataError(f"{path} line {number} has {len(values)} fields, its header {len(columns)}; correct the line.")
        padded = values + [""] * (len(columns) - len(values))
        rows.append((number, {name: "" if v.lower() in _EMPTY else v for name, v in zip(columns, padded, strict=True)}))
    return columns, rows


def csv_lines(text: str, where: str, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of each line of a CSV text; a field in quotes may hold line breaks.

    Raises:
        DataError: a field is longer than any field is, or a quote is never closed.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    while True:
        begin = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{where} line {begin} cannot be read ({error}); is a quote never closed?") from None
        yield begin, fields


def split_word(word: str, where: str) -> str:
    """``valid`` -> ``validation``.

    Raises:
        DataError: the word is no split.
    """
    if word.lower() not in _SPLIT_WORDS:
        raise DataError(f"{where}: unknown split {word!r}; allowed: {', '.join(SPLITS)} (also training, valid, val, testing).")
    return _SPLIT_WORDS[word.lower()]


def read_split_table(path: Path) -> dict[str, str]:
    """Case (or subject) -> train, validation or test, from a table with columns case and split.

    Raises:
        DataError: the file cannot be read, lacks a column, has no rows, or gives a case two splits.
    """
    columns, rows = read_rows(path)
    who = _Who.of(columns)
    key = who.case or who.subject
    if key is None or "split" not in columns:
        raise DataError(f"{path} has columns {', '.join(columns)}; a split file needs the columns case and split.")
    split: dict[str, str] = {}
    for number, row in rows:
        name, where = who.name(row), f"{path} line {number}"
        if not name or not row["split"]:
            raise DataError(f"{where} lacks a {'case' if not name else 'split'}; write both, or remove the line.")
        check_name(name, where)
        word = split_word(row["split"], where)
        if split.setdefault(name, word) != word:
            raise DataError(f"{where} puts {name} into {word}, an earlier line into {split[name]}; keep one.")
    if not split:
        raise DataError(f"{path} has no lines below its header; write one line a case.")
    return split


def apply_split(cases: list[Case], path: Path, problems: Problems) -> list[Case]:
    """Give each case the split that ``path`` names for it, or for its subject.

    Raises:
        DataError: the file is wrong (`read_split_table`), or names none of the cases.
    """
    split = read_split_table(path)
    known = {case.name for case in cases} | {case.subject for case in cases}
    loosely: dict[str, set[str]] = {}
    for name in known:
        loosely.setdefault(_loosely(name), set()).add(name)
    for name in [name for name in split if name not in known]:  # participant_id 01 and session_id 02 for sub-01_ses-02
        meant = loosely.get(_loosely(name), set())
        if len(meant) == 1 and not meant & set(split):
            split[meant.pop()] = split.pop(name)
    unknown = [name for name in split if name not in known]
    if len(unknown) == len(split):
        raise DataError(
            f"{path} names none of the cases: it has {some(unknown)}; the data have {some(case.name for case in cases)}."
        )
    for name in unknown:
        problems.add("unknown case in the split", f"{path.name} names {name}, which is no case here.")
    cases = [replace(case, split=split.get(case.name, split.get(case.subject))) for case in cases]
    without = [case.name for case in cases if case.split is None]
    if without:
        verb = "is" if len(without) == 1 else "are"
        problems.add(
            "case without a split", f"{some(without)} {verb} not in {path.name} and will not be used for training or scoring."
        )
    return cases


def _loosely(name: str) -> str:
    """A name without the ``sub-`` and ``ses-`` of BIDS, which tables may leave out."""
    return re.sub(r"(?:^|(?<=_))(?:sub|ses)-", "", name.lower())


@dataclass(frozen=True)
class _Who:
    """The columns that say who is who; each is None where the table has none."""

    case: str | None
    subject: str | None
    session: str | None

    @classmethod
    def of(cls, columns: Sequence[str]) -> _Who:
        """The first column of each kind."""
        case, subject, session = (
            next((name for name in names if name in columns), None) for names in (_CASE_COLUMNS, _SUBJECT_COLUMNS, _SESSION_COLUMNS)
        )
        return cls(case, subject, session)

    @property
    def columns(self) -> tuple[str, ...]:
        """Those that there are."""
        return tuple(name for name in (self.case, self.subject, self.session) if name is not None)

    def name(self, row: Mapping[str, str]) -> str:
        """Of a line's case; empty where it names none."""
        if self.case is not None:
            return row[self.case]
        subject = row[self.subject] if self.subject is not None else ""
        session = row[self.session] if self.session is not None else ""
        return f"{subject}_{session}" if subject and session else subject


@dataclass
class _Draft:
    """A case as the lines of a table fill it."""

    files: dict[str, Path] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)


def table_cases(path: Path, reading: Reading, problems: Problems) -> tuple[list[Case], list[Doubt]]:
    """Cases of a manifest, and which of them may be one person.

    Long form: one line an image, columns case, contrast, path and optionally mask, segmentation, split, subject, session. Wide
    form: one line a case, columns case and one a contrast, holding paths. Paths are relative to the table. Without a column
    ``case`` the case is the subject (also ``participant_id``) and, where there is one, the session (``session_id``).

    Raises:
        DataError: columns are missing, a contrast or split is unknown, or two lines contradict each other.
    """
    columns, rows = read_rows(path)
    aliases = reading.known
    who = _Who.of(columns)
    key = who.case or who.subject
    long = "contrast" in columns and "path" in columns
    wide = {name: contrast for name in columns if name not in who.columns and (contrast := canonical(name, aliases)) is not None}
    if key is None or not (long or any(contrast not in (MASK, SEGMENTATION) for contrast in wide.values())):
        raise DataError(
            f"{path} has columns {', '.join(columns)}; a table of images needs case, contrast, path (one line an image), "
            "or case and one column a contrast (one line a case)."
        )
    if not rows:
        raise DataError(f"{path} has no lines below its header; write one line an image.")
    labels = {name: contrast for name, contrast in wide.items() if contrast in (MASK, SEGMENTATION)}
    drafts: dict[str, _Draft] = {}
    for number, row in rows:
        where = f"{path} line {number}"
        if not row[key]:
            raise DataError(f"{where} names no case; fill the column {key}.")
        name = check_name(who.name(row), where)
        draft = drafts.setdefault(name, _Draft())
        files = {contrast: row[name] for name, contrast in (labels if long else wide).items() if row[name]}
        if long:
            files[_table_contrast(row["contrast"], where, aliases)] = _required(row["path"], where)
        for contrast, file in files.items():
            _set(draft.files, contrast, _resolve(path, file, where), where, problems)
        for word, column in (("split", "split"), ("subject", who.subject), ("session", who.session)):
            value = row.get(column, "") if column is not None else ""
            if value:
                value = split_word(value, where) if word == "split" else check_name(value, where)
                if draft.words.setdefault(word, value) != value:
                    raise DataError(
                        f"{where}: {word} of case {name} is {value!r}, on an earlier line {draft.words[word]!r}; keep one."
                    )
    return _finish(path.parent, drafts, reading, problems)


def _table_contrast(word: str, where: str, aliases: Mapping[str, str] | None) -> str:
    found = canonical(word, aliases)
    if found in (MASK, SEGMENTATION):
        return str(found)
    try:
        return resolve(word, aliases)
    except UsageError as error:
        raise DataError(f"{where}: {error}") from None


def _required(file: str, where: str) -> str:
    if not file:
        raise DataError(f"{where} has no path; write it, or remove the line.")
    return file


def _resolve(table: Path, file: str, where: str) -> Path:
    try:
        given = Path(file).expanduser()
    except RuntimeError:  # no such user
        raise DataError(f"{where}: {shown(file)} names the home folder of no user here; write the path.") from None
    return given if given.is_absolute() else table.parent / given


def _set(files: dict[str, Path], contrast: str, file: Path, where: str, problems: Problems) -> None:
    """Note a file; a second, different one for an image contradicts the first.

    Raises:
        DataError: the contrast already has another file.
    """
    if files.setdefault(contrast, file) != file:
        raise DataError(f"{where} gives a second {contrast}: {file.name}, on an earlier line {files[contrast].name}; keep one.")
    try:
        there = file.is_file() or file.is_symlink()  # what a link lacks is told where it is read
    except (OSError, ValueError):
        there = False
    if not there:
        problems.add("file does not exist", f"{where}: {shown(str(file))[1:-1]} does not exist.")


def _finish(folder: Path, drafts: Mapping[str, _Draft], reading: Reading, problems: Problems) -> tuple[list[Case], list[Doubt]]:
    """Cases of the lines. The column of the subject says who is who, then ``--subject``, then the cases' names."""
    pattern = person_pattern(reading.subject)
    identities, guesses, notes = identify([Place((name,)) for name in drafts])
    members = []
    cases = []
    for (name, draft), found in zip(drafts.items(), identities, strict=True):
        images = {contrast: file for contrast, file in draft.files.items() if contrast not in (MASK, SEGMENTATION)}
        if not images:
            problems.add("no images", f"case {name} of the table has no image.")
        subject, session = draft.words.get("subject", ""), draft.words.get("session", "")
        if not subject and pattern is not None:
            subject, session = _told(pattern, folder, name, images, session, problems)
        elif not subject:
            subject, session = found.subject, session or found.session
        members.append(Member(Identity(name, subject, name), folder, "", ()))  # each line of a table is a case of its own
        split = draft.words.get("split")
        cases.append(Case(name, subject, images, draft.files.get(MASK), draft.files.get(SEGMENTATION), split, session))
    said = pattern is not None or any("subject" in draft.words for draft in drafts.values())
    for note in [] if said else notes:
        problems.add("a common stem", note)
    by_name = [replace(case, session=case.name) for case in cases]
    return cases, [] if said else doubts_of(guesses, members, by_name)


def _told(
    pattern: re.Pattern[str], folder: Path, name: str, images: Mapping[str, Path], session: str, problems: Problems
) -> tuple[str, str]:
    """Subject and session of a case by ``--subject``: from its first file's path, seen from the table, else from its name."""
    first = next(iter(images.values()), Path(name))
    text = first.relative_to(folder).as_posix() if first.is_relative_to(folder) else first.as_posix()
    match = pattern.search(text) or pattern.search(name)
    if match is None or not match["subject"]:
        problems.add(
            "no subject",
            f"--subject {pattern.pattern!r} matches neither {text} nor the name of case {name}, which is taken as a person.",
        )
        return name, session
    found = match["session"] if "session" in pattern.groupindex else None
    return clean(match["subject"]), session or clean(found or "")
