"""The conventions that come with synthmr, and your own, as YAML. Each is a file in ``conventions/``, an entry and no code:

    name: brats2017                 # as the file
    source: BraTS 2017-2021         # who writes labels so, and where that is documented
    labels: {0: background, 1: necrosis, 2: edema, 4: enhancing}
    others: lesion                  # the part of every other label above 0; without it there is none
    sure: [1, 2, 4]                 # where all of these occur, no name is needed; without it only a name tells
    hints: ["brats20_*"]            # patterns of file and case names, in small letters; of folders with / at the end, of the
                                    # header's descrip with descrip: in front

A part is one word of `PARTS`. A label may be a range, ``1001-1035: gm``.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from synthmr.documents import MOST_YAML, parse_yaml, read_text
from synthmr.errors import DataError, UsageError, did_you_mean, shown
from synthmr.labels.convention import PARTS, Convention

#: the largest number that a label may have
HIGHEST = 65_535

_KEYS = ("name", "source", "labels", "others", "sure", "hints")
#: of older files: it did not change how one's own file is read
_FORMER = "order"


@cache
def _packaged() -> dict[str, Convention]:
    """Every entry by name, those of tumours first."""
    folder = resources("synthmr").joinpath("conventions")
    entries = [entry for entry in folder.iterdir() if entry.name.endswith(".yaml")]
    found = [_parse(entry.read_text(encoding="utf-8"), entry.name, entry.name.removesuffix(".yaml")) for entry in entries]
    return {each.name: each for each in sorted(found, key=lambda each: (not each.is_tumour, not each.unions, each.name))}


def conventions() -> tuple[str, ...]:
    """The names of all conventions that come with synthmr, those of tumours first."""
    return tuple(_packaged())


def get(name: str | Path | Convention) -> Convention:
    """A convention by its name, or your own from a YAML file.

    Raises:
        UsageError: there is no such convention, or the file says what it may not: an unknown part, a label twice, no number.
        DataError: the file cannot be read.
    """
    if isinstance(name, Convention):
        return name
    word = str(name)
    if not word.lower().endswith((".yaml", ".yml")):
        if word not in _packaged():
            hint = did_you_mean(word, _packaged())
            raise UsageError(f"unknown label convention {word!r}: {hint} A convention of your own is a .yaml file.")
        return _packaged()[word]
    path = Path(name)
    try:
        text = read_text(path, MOST_YAML)
    except DataError as error:
        raise DataError(f"label convention {error}") from None
    return _parse(text, str(path), path.stem)


def _parse(text: str, where: str, stem: str) -> Convention:
    """A convention from the text of its file.

    Raises:
        UsageError: in one line, what is wrong.
    """
    data = _load(text, where)
    unknown = [str(key) for key in data if key not in (*_KEYS, _FORMER)]
    if unknown:
        raise UsageError(f"{where}: unknown key {unknown[0]!r}: {did_you_mean(unknown[0], _KEYS)}")
    given, hints = data.get("labels"), data.get("hints", [])
    if not isinstance(given, dict) or not given:
        raise UsageError(f"{where}: labels is a mapping of numbers to parts, such as {{0: background, 1: lesion}}.")
    pairs: dict[int, Any] = {}
    for key, part in given.items():
        for label in _numbers(key, where):
            if label in pairs:
                raise UsageError(f"{where}: label {label} stands there twice; give each label once.")
            pairs[label] = part
    for part in (*pairs.values(), *([data["others"]] if "others" in data else [])):
        if not isinstance(part, str) or part not in PARTS:
            raise UsageError(f"{where}: unknown part {shown(part)}: {did_you_mean(str(part), PARTS)}")
    if not isinstance(hints, list) or not all(isinstance(hint, str) for hint in hints):
        raise UsageError(f"{where}: hints={shown(hints)} is no list of file-name patterns, such as ['brats20_*'].")
    if pairs.get(0, "background") != "background":
        raise UsageError(f"{where}: label 0 is {shown(pairs[0])}; it is background in every segmentation.")
    sure = data.get("sure", [])
    if not isinstance(sure, list) or not all(type(label) is int and label in pairs and label for label in sure):
        raise UsageError(f"{where}: sure={shown(sure)} is no list of labels above 0 that stand under labels.")
    return Convention(
        name=str(data.get("name") or stem),
        labels={0: "background", **pairs},
        others=str(data.get("others", "")),
        sure=tuple(sure),
        hints=tuple(hint.lower() for hint in hints),
        source=str(data.get("source", "")),
    )


def _numbers(key: Any, where: str) -> range:
    """The labels of a key: one number, or a range ``"1001-1035"``.

    Raises:
        UsageError: it is neither.
    """
    ends = [key, key]
    if isinstance(key, str) and key.count("-") == 1 and all(end.strip().isdecimal() for end in key.split("-")):
        ends = [int(end) for end in key.split("-")]
    if not all(type(end) is int and 0 <= end <= HIGHEST for end in ends) or ends[0] > ends[1]:
        raise UsageError(f"{where}: label {shown(key)} is no number; give whole numbers from 0 to {HIGHEST}.")
    return range(ends[0], ends[1] + 1)


def _load(text: str, where: str) -> dict[Any, Any]:
    """The YAML mapping of a convention.

    Raises:
        UsageError: it is none.
    """
    try:
        data = parse_yaml(text, where)
    except DataError as error:
        raise UsageError(str(error)) from None
    if not isinstance(data, dict):
        raise UsageError(f"{where} is no label convention: give labels, such as labels: {{0: background, 1: lesion}}.")
    return data
