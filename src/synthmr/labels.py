"""Tumour labels: what the numbers in a BraTS segmentation mean, as four classes that every year's data share.

| class | tissue | BraTS 2017-2020 | BraTS 2015 | BraTS 2023-2025 | 2024-2025 post-treatment |
|---|---|---|---|---|---|
| 0 | background | 0 | 0 | 0 | 0, 4 (resection cavity) |
| 1 | necrosis and non-enhancing tumour | 1 | 1, 3 | 1 | 1 |
| 2 | edema | 2 | 2 | 2 | 2 |
| 3 | enhancing tumour | 4 | 4 | 3 | 3 |

A 3 means enhancing in one year and non-enhancing in another, and no single volume settles it: `convention_of` decides from
all labels that occur, so ask it once over a data set (the union of its labels), not once a slice, wherever that can be had.

Regions (MAF-Net, Section IV): whole tumour WT = "the union of edema, enhancing tumor, and necrosis", tumour core TC = "the
union of necrosis and enhancing tumor", ET = enhancing tumour. MAF-Net's "4 categories" (C in Eq. 5) are these classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from synthmr.errors import DataError, UsageError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

#: class number -> name; its length is the C of MAF-Net's Eq. 5
CLASSES: tuple[str, ...] = ("background", "necrosis", "edema", "enhancing")

#: region -> the classes it is the union of
REGIONS: Mapping[str, tuple[int, ...]] = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}

#: convention -> class of the labels 0, 1, 2, 3, 4; -1 where the convention has no such label
CONVENTIONS: Mapping[str, tuple[int, int, int, int, int]] = {
    "brats2017": (0, 1, 2, -1, 3),
    "brats2015": (0, 1, 2, 1, 3),
    "brats2023": (0, 1, 2, 3, -1),
    "brats-post-treatment": (0, 1, 2, 3, 0),
}

_ALLOWED = "allowed are 0, 1, 2, 4 (BraTS 2017-2020), 0-4 (2015) and 0-3 (2023 on); relabel the segmentation"


def convention_of(labels: Iterable[int]) -> str:
    """The BraTS convention that a set of labels follows: a key of `CONVENTIONS`.

    With a 4 it is ``brats2017``, or ``brats2015`` where there is a 3 too; with a 3 and no 4 ``brats2023`` (which our own
    classes follow as well); without either all agree and it is ``brats2017``. Two cases are beyond it and must be named by
    whoever knows the data: a BraTS 2015 case with non-enhancing and no enhancing tumour reads as ``brats2023`` when it is
    looked at alone, and ``brats-post-treatment`` (0-4, where 4 is a cavity) looks like ``brats2015``.

    Raises:
        DataError: a label is none of 0-4.
    """
    found = {int(label) for label in labels}
    wrong = sorted(found - set(range(5)))
    if wrong:
        raise DataError(f"the segmentation holds label {_some(wrong)}, which is no BraTS tumour label; {_ALLOWED}.")
    if 4 in found:
        return "brats2015" if 3 in found else "brats2017"
    return "brats2023" if 3 in found else "brats2017"


@overload
def to_classes(labels: np.ndarray, convention: str = ...) -> np.ndarray: ...
@overload
def to_classes(labels: Tensor, convention: str = ...) -> Tensor: ...
def to_classes(labels: Any, convention: str = "auto") -> Any:
    """Turn BraTS labels into the classes 0 background, 1 necrosis/non-enhancing, 2 edema, 3 enhancing.

    Classes go in and come out unchanged, so it does no harm twice.

    Args:
        labels: an array ``(X, Y, Z)`` or a tensor ``(B, 1, H, W)`` (any shape); whole numbers of any type.
        convention: a key of `CONVENTIONS`, or ``auto``: what `convention_of` says of these very labels.

    Returns:
        The same shape: int8 for an array, int64 on the same device (what a cross-entropy takes) for a tensor.

    Raises:
        DataError: the labels are bool (a mask has no classes), not whole numbers, or not of the convention.
        UsageError: there is no such convention.
    """
    if convention != "auto" and convention not in CONVENTIONS:
        raise UsageError(f"unknown label convention {convention!r}: {did_you_mean(convention, ('auto', *CONVENTIONS))}")
    whole, present = _read(labels)
    table = CONVENTIONS[convention_of(present) if convention == "auto" else convention]
    wrong = [label for label in present if not 0 <= label <= 4 or table[label] < 0]
    if wrong:
        names = [str(label) for label in range(5) if table[label] >= 0]
        raise DataError(
            f"the segmentation holds label {_some(wrong)}, and {convention} has {', '.join(names)};"
            " name another convention or relabel the segmentation."
        )
    return _look_up(whole, table)


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
    whole, present = _read(classes)
    check_classes(present)
    return _look_up(whole, (0, 1, 2, 4))


@overload
def region(classes: np.ndarray, name: str) -> np.ndarray: ...
@overload
def region(classes: Tensor, name: str) -> Tensor: ...
def region(classes: Any, name: str) -> Any:
    """Where ``classes`` (any shape, array or tensor) is in WT, TC or ET: bool, the same shape.

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
    """Check that these are classes, not yet or no longer labels.

    Raises:
        DataError: one is none of 0-3.
    """
    wrong = sorted(set(present) - set(range(len(CLASSES))))
    if wrong:
        raise DataError(f"{_some(wrong)} is no tumour class, which are 0-3; put BraTS labels through to_classes first.")


def present_in(labels: Any) -> tuple[int, ...]:
    """The numbers that occur in an array or a tensor of labels, ascending.

    Raises:
        DataError: it is bool, or holds something that is no whole number.
    """
    return _read(labels)[1]


def _read(labels: Any) -> tuple[Any, tuple[int, ...]]:
    """The labels as integers, and which occur."""
    array = isinstance(labels, np.ndarray)
    kind = str(labels.dtype).removeprefix("torch.")
    if kind == "bool":
        raise DataError("the segmentation is a yes/no mask without tumour classes; give one with BraTS labels (0, 1, 2, 4).")
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


def _look_up(whole: Any, table: tuple[int, ...]) -> Any:
    if isinstance(whole, np.ndarray):
        return np.asarray(table, np.int8)[whole]
    import torch

    return torch.tensor(table, dtype=torch.int64, device=whole.device)[whole.long()]


def _some(values: Iterable[int]) -> str:
    """At most five numbers, for a message of one line."""
    listed = [str(value) for value in values]
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
