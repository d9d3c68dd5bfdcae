"""Tumour labels as the four classes of MAF-Net, and back."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from synthmr.errors import DataError, UsageError, did_you_mean
from synthmr.labels.arrays import present_in, some
from synthmr.labels.convention import CLASSES, REGIONS, Convention
from synthmr.labels.entries import conventions, get
from synthmr.labels.meaning import decide

if TYPE_CHECKING:
    from torch import Tensor


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

    Args:
        labels: an array ``(X, Y, Z)`` or a tensor ``(B, 1, H, W)`` (any shape); whole numbers of any type.
        convention: as of `get`, or ``auto``: what `decide` says of these very labels, which is little without names.

    Returns:
        The same shape: int8 for an array, int64 on the same device (what a cross-entropy takes) for a tensor.

    Raises:
        DataError: the labels are bool (a mask has no classes), not whole numbers, not of the convention, or do not tell theirs.
        UsageError: there is no such convention, or it is of no tumour.
    """
    if convention == "auto":
        found = decide(present_in(labels))
        if found.convention is None:
            raise DataError(found.why)
        convention = found.convention
    return tumour(convention).classes(labels)


@overload
def to_brats(classes: np.ndarray) -> np.ndarray: ...
@overload
def to_brats(classes: Tensor) -> Tensor: ...
def to_brats(classes: Any) -> Any:
    """The inverse for writing files: class 3 becomes label 4 (BraTS 2017-2021), the others stay.

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
        raise DataError(f"{some(wrong)} is no tumour class, which are 0-3; put BraTS labels through to_classes first.")
