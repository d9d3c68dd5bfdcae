"""Tables: a manifest of files (CSV or TSV) and the split of cases (splits.tsv)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from synthmr.case import SPLITS, Case, check_name
from synthmr.contrasts import MASK, SEGMENTATION, canonical, resolve
from synthmr.documents import MOST_TABLE, read_text
from synthmr.errors import DataError, UsageError, shown
from synthmr.io.naming import Problems, some, subject_of

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

_CASE_COLUMNS = ("case", "case_id", "id", "name", "participant_id", "subject")
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
    key = next((name for name in _CASE_COLUMNS if name in columns), None)
    if key is None or "split" not in columns:
        raise DataError(f"{path} has columns {', '.join(columns)}; a split file needs the columns case and split.")
    split: dict[str, str] = {}
    for number, row in rows:
        name, where = row[key], f"{path} line {number}"
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


@dataclass
class _Draft:
    """A case as the lines of a table fill it."""

    files: dict[str, Path] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)


def table_cases(path: Path, aliases: Mapping[str, str] | None, problems: Problems) -> list[Case]:
    """Cases of a manifest.

    Long form: one line an image, columns case, contrast, path and optionally mask, segmentation, split, subject. Wide
    form: one line a case, columns case and one a contrast, holding paths. Paths are relative to the table.

    Raises:
        DataError: columns are missing, a contrast or split is unknown, or two lines contradict each other.
    """
    columns, rows = read_rows(path)
    key = next((name for name in _CASE_COLUMNS if name in columns), None)
    long = "contrast" in columns and "path" in columns
    wide = {name: contrast for name in columns if (contrast := canonical(name, aliases)) is not None and name != key}
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
        draft = drafts.setdefault(check_name(row[key], where), _Draft())
        files = {contrast: row[name] for name, contrast in (labels if long else wide).items() if row[name]}
        if long:
            files[_table_contrast(row["contrast"], where, aliases)] = _required(row["path"], where)
        for contrast, file in files.items():
            _set(draft.files, contrast, _resolve(path, file, where), where, problems)
        for word in ("split", "subject"):
            value = row.get(word, "") if word != key else ""
            if value:
                value = split_word(value, where) if word == "split" else check_name(value, where)
                if draft.words.setdefault(word, value) != value:
                    raise DataError(
                        f"{where}: {word} of case {row[key]} is {value!r}, on an earlier line {draft.words[word]!r}; keep one."
                    )
    return [_finish(name, draft, problems) for name, draft in drafts.items()]


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


def _finish(name: str, draft: _Draft, problems: Problems) -> Case:
    images = {contrast: file for contrast, file in draft.files.items() if contrast not in (MASK, SEGMENTATION)}
    if not images:
        problems.add("no images", f"case {name} of the table has no image.")
    subject = draft.words.get("subject", subject_of(name))
    return Case(name, subject, images, draft.files.get(MASK), draft.files.get(SEGMENTATION), draft.words.get("split"))
