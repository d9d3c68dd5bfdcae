"""Labels as arrays and tensors: which numbers occur, and a table looked up voxel by voxel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from synthmr.errors import DataError


def present_in(labels: Any) -> tuple[int, ...]:
    """The numbers that occur in an array or a tensor of labels, ascending.

    Raises:
        DataError: it is bool, or holds something that is no whole number.
    """
    return whole_numbers(labels)[1]


def whole_numbers(labels: Any, tumour: bool = True) -> tuple[Any, tuple[int, ...]]:
    """The labels as integers, and which occur.

    Raises:
        DataError: they are no whole numbers; or bool, which has no classes, where they are to be a ``tumour``.
    """
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
    if isinstance(whole, np.ndarray) and low >= 0 and high < 2**16:
        return tuple(np.flatnonzero(np.bincount(whole.ravel())).tolist())
    values = np.unique(whole) if isinstance(whole, np.ndarray) else whole.unique()
    return tuple(int(value) for value in values.tolist())


def looked_up(whole: Any, table: Sequence[int]) -> Any:
    """``table[whole]``: int8 for an array (int32 where a number is above 127), int64 on the same device for a tensor."""
    if isinstance(whole, np.ndarray):
        return np.asarray(table, np.int8 if max(table) < 128 else np.int32)[whole]
    import torch

    return torch.tensor(table, dtype=torch.int64, device=whole.device)[whole.long()]


def some(values: Iterable[object], most: int = 5) -> str:
    """At most five values, for a message of one line."""
    listed = [str(value) for value in values]
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
