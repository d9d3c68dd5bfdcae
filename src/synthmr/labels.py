"""Label conventions: what the numbers of a segmentation mean. Each is a file in ``conventions/``, an entry and no code:

    name: brats2017                 # as the file
    source: BraTS 2017-2021         # who writes labels so
    order: 1                        # lower goes first where labels fit several; without it: only by name or by a hint
    labels: {0: background, 1: necrosis, 2: edema, 4: enhancing}
    others: lesion                  # the part of every other label above 0; without it there is none
    hints: ["brats20_*"]            # patterns of file names, in small letters

A part is one word of `PARTS`. Whatever is computed is of parts: MAF-Net's "4 categories" (C in Eq. 5) are `CLASSES`, and its
regions (Section IV) are unions: whole tumour WT = "the union of edema, enhancing tumor, and necrosis", tumour core TC = "the
union of necrosis and enhancing tumor", ET = enhancing tumour. Your own YAML file goes wherever a name goes.

A 3 means enhancing in one year and non-enhancing in another, and no single volume settles it: `convention_of` decides from
all labels that occur, so ask it once over a data set (the union of its labels), not once a slice, wherever that can be had.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files as resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from synthmr.documents import MOST_YAML, parse_yaml, read_text
from synthmr.errors import DataError, UsageError, did_you_mean, shown

if TYPE_CHECKING:
    from torch import Tensor

#: tumour class number -> name; its length is the C of MAF-Net's Eq. 5
CLASSES: tuple[str, ...] = ("background", "necrosis", "edema", "enhancing")

#: part of a tumour -> the class that it counts as; necrosis is necrosis and non-enhancing tumour
TUMOUR: Mapping[str, int] = {**{name: number for number, name in enumerate(CLASSES)}, "cavity": 0}

#: every word that a label can mean
PARTS: tuple[str, ...] = (*TUMOUR, "lesion", "csf", "gm", "wm")

#: parts that are no lesion
HEALTHY: tuple[str, ...] = ("background", "csf", "gm", "wm")

#: region of a tumour -> the classes it is the union of
REGIONS: Mapping[str, tuple[int, ...]] = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}

#: the largest number that a label may have
HIGHEST = 65_535

_KEYS = ("name", "source", "order", "labels", "others", "hints")
_ALLOWED = "allowed are 0, 1, 2, 4 (BraTS 2017-2020), 0-4 (2015) and 0-3 (2023 on); relabel the segmentation"


@dataclass(frozen=True)
class Convention:
    """What the numbers of a segmentation mean.

    Attributes:
        name: of the entry, or of your own file.
        labels: number -> part.
        others: the part of every other number above 0; empty where no other may occur.
        order: among conventions that labels fit, the lowest goes first; None: by name or hint alone.
        hints: patterns of file names.
        source: who writes labels so.
    """

    name: str
    labels: Mapping[int, str] = field(hash=False)
    others: str = ""
    order: int | None = None
    hints: tuple[str, ...] = ()
    source: str = ""

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that it tells apart, in the order of `PARTS`."""
        found = {*self.labels.values(), self.others}
        return tuple(part for part in PARTS if part in found)

    @property
    def is_tumour(self) -> bool:
        """Whether its parts are a tumour's, so that it has `CLASSES` and `REGIONS`."""
        return set(self.parts) <= set(TUMOUR) and any(TUMOUR[part] for part in self.parts)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class number -> name: `CLASSES` of a tumour, else background and its parts."""
        return CLASSES if self.is_tumour else ("background", *(part for part in self.parts if TUMOUR.get(part) != 0))

    @property
    def regions(self) -> tuple[str, ...]:
        """What `region` knows: WT, TC and ET of a tumour, then its parts."""
        return (*(REGIONS if self.is_tumour else ()), *self.parts)

    def holds(self, present: Iterable[int]) -> bool:
        """Whether labels may all occur in it."""
        return not self.strangers(present)

    def strangers(self, present: Iterable[int]) -> list[int]:
        """The labels that it does not have, ascending."""
        return sorted({int(label) for label in present if label not in self.labels and not (self.others and label > 0)})

    @overload
    def classes(self, labels: np.ndarray) -> np.ndarray: ...
    @overload
    def classes(self, labels: Tensor) -> Tensor: ...
    def classes(self, labels: Any) -> Any:
        """Labels of any shape as class numbers, which `class_names` names.

        Args:
            labels: an array ``(X, Y, Z)`` or a tensor ``(B, 1, *S)``; whole numbers of any type, bool where there is no tumour.

        Returns:
            The same shape: int8 for an array, int64 on the same device (what a cross-entropy takes) for a tensor.

        Raises:
            DataError: the labels are not whole numbers, or not of this convention.
        """
        return self._look_up(labels, {part: self._class_of(part) for part in self.parts})

    @overload
    def region(self, labels: np.ndarray, name: str) -> np.ndarray: ...
    @overload
    def region(self, labels: Tensor, name: str) -> Tensor: ...
    def region(self, labels: Any, name: str) -> Any:
        """Where ``labels`` (any shape, array or tensor) are in a part, or in WT, TC or ET: bool, the same shape.

        Raises:
            DataError: as `classes`.
            UsageError: this convention has no such region.
        """
        if name not in self.regions:
            raise UsageError(f"convention {self.name} has no region {name!r}: {did_you_mean(name, self.regions)}")
        if name in self.parts:
            return self._look_up(labels, {part: int(part == name) for part in self.parts}) == 1
        return region(self.classes(labels), name)

    @overload
    def numbers(self, classes: np.ndarray) -> np.ndarray: ...
    @overload
    def numbers(self, classes: Tensor) -> Tensor: ...
    def numbers(self, classes: Any) -> Any:
        """The inverse of `classes`, for writing files; of a class with several labels the lowest number.

        Returns:
            The same shape: int8 for an array (int32 where a label is above 127), int64 on the same device for a tensor.

        Raises:
            DataError: something that is no class, or a class that the convention has no label for.
        """
        whole, present = _read(classes)
        table = [-1] * len(self.class_names)
        for label in sorted(self.labels, reverse=True):
            table[self._class_of(self.labels[label])] = label
        wrong = [number for number in present if not 0 <= number < len(table) or table[number] < 0]
        if wrong:
            raise DataError(f"{_some(wrong)} is no class of convention {self.name}, which has {', '.join(self.class_names)}.")
        return _table(whole, table)

    def _class_of(self, part: str) -> int:
        if self.is_tumour:
            return TUMOUR[part]
        return self.class_names.index(part) if part in self.class_names else 0

    def _look_up(self, labels: Any, numbers: Mapping[str, int]) -> Any:
        """``labels`` with each number replaced by the number of its part."""
        whole, present = _read(labels, tumour=self.is_tumour)
        self.check(present)
        top = max(*self.labels, 1) + 1  # the place of all numbers beyond those that the convention lists
        table = [numbers.get(self.labels.get(label, self.others), 0) for label in range(top + 1)]
        return _table(whole if not present or present[-1] < top else whole.clip(max=top), table)

    def check(self, present: Iterable[int]) -> None:
        """Check that labels are of this convention.

        Raises:
            DataError: it does not have one of them.
        """
        wrong = self.strangers(present)
        if wrong:
            names = ", ".join(str(label) for label in sorted(self.labels)) + (" and what is above" if self.others else "")
            raise DataError(
                f"the segmentation holds label {_some(wrong)}, and {self.name} has {names};"
                " name another convention or relabel the segmentation."
            )


# --- entries ------------------------------------------------------------------------------------------------------------


@cache
def _packaged() -> dict[str, Convention]:
    """Every entry by name, those with an order first."""
    folder = resources(__package__).joinpath("conventions")
    entries = [entry for entry in folder.iterdir() if entry.name.endswith(".yaml")]
    found = [_parse(entry.read_text(encoding="utf-8"), entry.name, entry.name.removesuffix(".yaml")) for entry in entries]
    return {each.name: each for each in sorted(found, key=lambda each: (each.order is None, each.order, each.name))}


def conventions() -> tuple[str, ...]:
    """The names of all conventions that come with synthmr, in the order in which labels are tried against them."""
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
    if not word.endswith((".yaml", ".yml")):
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


def convention_of(labels: Iterable[int], files: Iterable[str | Path] = ()) -> str:
    """The convention that a set of labels follows: a name of `conventions`.

    All labels must be in it. Of those that fit, the first goes that hints at every file of ``files``; where none does, the
    first in order. With a 4 that is ``brats2017``, or ``brats2015`` where there is a 3 too; with a 3 and no 4 ``brats2023``
    (which our own classes follow as well); without either all agree and it is ``brats2017``. Two cases are beyond the labels
    and must be named, or hinted at, by whoever knows the data: a BraTS 2015 case with non-enhancing and no enhancing tumour
    reads as ``brats2023`` when it is looked at alone, and ``brats-post-treatment`` (0-4, where 4 is a cavity) looks like
    ``brats2015``. Conventions without an order (``lesion``, ``tissue``) are found by hints alone.

    Args:
        labels: every number that occurs in the data set.
        files: its segmentation files.

    Raises:
        DataError: a label is none of any convention's.
    """
    found = {int(label) for label in labels}
    names = [Path(file).name.lower() for file in files]
    fitting = [each for each in _packaged().values() if each.holds(found)]
    for each in fitting:
        if names and all(any(fnmatchcase(name, hint) for hint in each.hints) for name in names):
            return each.name
    for each in fitting:
        if each.order is not None:
            return each.name
    known = {label for each in _packaged().values() if each.order is not None for label in each.labels}
    raise DataError(f"the segmentation holds label {_some(sorted(found - known))}, which is no BraTS tumour label; {_ALLOWED}.")


def describe(name: str | Path | Convention, present: Iterable[int] = ()) -> dict[str, Any]:
    """``{"convention": name, "labels": {number: part}}``: what a result says of the labels that it was scored with.

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
    labels = {**convention.labels, **{label: convention.labels.get(label, convention.others) for label in numbers}}
    return {"convention": convention.name, "labels": {label: labels[label] for label in sorted(labels)}}


def _parse(text: str, where: str, stem: str) -> Convention:
    """A convention from the text of its file.

    Raises:
        UsageError: in one line, what is wrong.
    """
    data = _load(text, where)
    unknown = [str(key) for key in data if key not in _KEYS]
    if unknown:
        raise UsageError(f"{where}: unknown key {unknown[0]!r}: {did_you_mean(unknown[0], _KEYS)}")
    pairs, hints, order = data.get("labels"), data.get("hints", []), data.get("order")
    if not isinstance(pairs, dict) or not pairs:
        raise UsageError(f"{where}: labels is a mapping of numbers to parts, such as {{0: background, 1: lesion}}.")
    for label in pairs:
        if type(label) is not int or not 0 <= label <= HIGHEST:
            raise UsageError(f"{where}: label {shown(label)} is no number; give whole numbers from 0 to {HIGHEST}.")
    for part in (*pairs.values(), *([data["others"]] if "others" in data else [])):
        if part not in PARTS:
            raise UsageError(f"{where}: unknown part {shown(part)}: {did_you_mean(str(part), PARTS)}")
    if not isinstance(hints, list) or not all(isinstance(hint, str) for hint in hints):
        raise UsageError(f"{where}: hints={shown(hints)} is no list of file-name patterns, such as ['brats20_*'].")
    if order is not None and type(order) is not int:
        raise UsageError(f"{where}: order={shown(order)} is no whole number.")
    if pairs.get(0, "background") != "background":
        raise UsageError(f"{where}: label 0 is {shown(pairs[0])}; it is background in every segmentation.")
    return Convention(
        name=str(data.get("name") or stem),
        labels={0: "background", **pairs},
        others=str(data.get("others", "")),
        order=order,
        hints=tuple(hint.lower() for hint in hints),
        source=str(data.get("source", "")),
    )


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


# --- tumours ------------------------------------------------------------------------------------------------------------


def tumour(name: str | Path | Convention) -> Convention:
    """`get`, for what needs the four classes of a tumour.

    Raises:
        DataError, UsageError: as `get`; or the convention is of no tumour.
    """
    convention = get(name)
    if not convention.is_tumour:
        have = ", ".join(each for each in conventions() if get(each).is_tumour)
        raise UsageError(
            f"label convention {convention.name} has {', '.join(convention.parts)}, no tumour; those of tumours are {have}."
        )
    return convention


@overload
def to_classes(labels: np.ndarray, convention: str | Path | Convention = ...) -> np.ndarray: ...
@overload
def to_classes(labels: Tensor, convention: str | Path | Convention = ...) -> Tensor: ...
def to_classes(labels: Any, convention: str | Path | Convention = "auto") -> Any:
    """Turn tumour labels into the classes 0 background, 1 necrosis/non-enhancing, 2 edema, 3 enhancing.

    Classes go in and come out unchanged, so it does no harm twice.

    Args:
        labels: an array ``(X, Y, Z)`` or a tensor ``(B, 1, H, W)`` (any shape); whole numbers of any type.
        convention: as of `get`, or ``auto``: what `convention_of` says of these very labels.

    Returns:
        The same shape: int8 for an array, int64 on the same device (what a cross-entropy takes) for a tensor.

    Raises:
        DataError: the labels are bool (a mask has no classes), not whole numbers, or not of the convention.
        UsageError: there is no such convention, or it is of no tumour.
    """
    if convention == "auto":
        convention = convention_of(present_in(labels))
    return tumour(convention).classes(labels)


@overload
def to_brats(classes: np.ndarray) -> np.ndarray: ...
@overload
def to_brats(classes: Tensor) -> Tensor: ...
def to_brats(classes: Any) -> Any:
    """The inverse for writing files: class 3 becomes label 4 (BraTS 2017-2020), the others stay.

    Returns:
        The same shape: int8 for an array, int64 on the same device for a tensor.

    Raises:
        DataError: something other than the classes 0-3.
    """
    check_classes(present_in(classes))
    return get("brats2017").numbers(classes)


@overload
def region(classes: np.ndarray, name: str) -> np.ndarray: ...
@overload
def region(classes: Tensor, name: str) -> Tensor: ...
def region(classes: Any, name: str) -> Any:
    """Where tumour ``classes`` (any shape, array or tensor) are in WT, TC or ET: bool, the same shape.

    Raises:
        UsageError: there is no such region.
    """
    if name not in REGIONS:
        raise UsageError(f"unknown tumour region {name!r}: {did_you_mean(name, REGIONS)}")
    first, *others = REGIONS[name]
    inside = classes == first
    for number in others:
        inside = inside | (classes == number)
    return inside


def check_classes(present: Iterable[int]) -> None:
    """Check that these are tumour classes, not yet or no longer labels.

    Raises:
        DataError: one is none of 0-3.
    """
    wrong = sorted(set(present) - set(range(len(CLASSES))))
    if wrong:
        raise DataError(f"{_some(wrong)} is no tumour class, which are 0-3; put BraTS labels through to_classes first.")


# --- arrays and tensors -------------------------------------------------------------------------------------------------


def present_in(labels: Any) -> tuple[int, ...]:
    """The numbers that occur in an array or a tensor of labels, ascending.

    Raises:
        DataError: it is bool, or holds something that is no whole number.
    """
    return _read(labels)[1]


def _read(labels: Any, tumour: bool = True) -> tuple[Any, tuple[int, ...]]:
    """The labels as integers, and which occur."""
    array = isinstance(labels, np.ndarray)
    kind = str(labels.dtype).removeprefix("torch.")
    if kind == "bool":
        if tumour:
            raise DataError("the segmentation is a yes/no mask without tumour classes; give one with BraTS labels (0, 1, 2, 4).")
        labels, kind = (labels.astype(np.int8) if array else labels.long()), "int"
    if not kind.startswith(("int", "uint", "float", "bfloat")):
        raise DataError(f"the segmentation is of type {kind}; give one with whole numbers (BraTS labels 0, 1, 2, 4).")
    whole = labels
    if "float" in kind:
        rounded = labels.round()
        if not bool(((labels == rounded) & (abs(labels) < float("inf"))).all()):  # NaN is not even equal to itself
            raise DataError(
                "the segmentation holds values that are no whole numbers, as after linear interpolation;"
                " resample labels with nearest neighbour."
            )
        whole = rounded.astype(np.int64) if array else rounded.long()
    return whole, _present(whole) if 0 not in whole.shape else ()


def _present(whole: Any) -> tuple[int, ...]:
    """What occurs; a few comparisons instead of the sort that `unique` is, unless there are surprises."""
    low, high = int(whole.min()), int(whole.max())
    if low >= 0 and high <= 4:
        return tuple(label for label in range(low, high + 1) if bool((whole == label).any()))
    values = np.unique(whole) if isinstance(whole, np.ndarray) else whole.unique()
    return tuple(int(value) for value in values.tolist())


def _table(whole: Any, table: Sequence[int]) -> Any:
    if isinstance(whole, np.ndarray):
        return np.asarray(table, np.int8 if max(table) < 128 else np.int32)[whole]
    import torch

    return torch.tensor(table, dtype=torch.int64, device=whole.device)[whole.long()]


def _some(values: Iterable[int]) -> str:
    """At most five numbers, for a message of one line."""
    listed = [str(value) for value in values]
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
