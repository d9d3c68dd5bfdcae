"""A tumour convention saved with a network's weights, as one number: a run knows its labels where the user's file is gone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from synthmr.errors import DataError, UsageError
from synthmr.labels import CLASSES, Convention, conventions, get, tumour

#: in place of a convention: there are no tumour labels to learn from
NO_LABELS = -1

#: runs of version 0.1 saved a place in this list
_FIRST = ("brats2017", "brats2015", "brats2023", "brats-post-treatment")

#: labels that a convention may have: octal digits of a 64-bit number
_DIGITS = 21


def is_gone(name: str) -> bool:
    """Whether a label convention is a file that is not here: no matter to a trained run, whose weights know the labels."""
    return name.endswith((".yaml", ".yml")) and not Path(name).is_file()


def named_labels(name: str) -> Convention:
    """The tumour convention of ``options.labels``.

    Raises:
        UsageError: there is none of that name, it is of no tumour, or has labels above 20.
    """
    try:
        found = tumour(name)
    except (DataError, UsageError) as error:
        raise UsageError(f"options.labels={name}: {error}") from None
    if max(found.labels) >= _DIGITS:
        last = _DIGITS - 1
        raise UsageError(f"options.labels={name}: label {max(found.labels)} is above {last}, the last that a run can save.")
    return found


def code_of(convention: Convention) -> int:
    """A convention as one number, to be saved with the weights: its octal digits are class + 1 of label 0, 1, ..., 0 for none."""
    labels = [label for label in range(_DIGITS) if convention.holds([label])]
    return sum(
        (number + 1) << 3 * label for label, number in zip(labels, convention.classes(np.asarray(labels)).tolist(), strict=True)
    )


def convention_from(code: int, name: str = "") -> Convention:
    """The inverse of `code_of`: a convention that comes with synthmr where one says the same, else one called ``name``."""
    if 0 <= code < len(_FIRST):
        return tumour(_FIRST[code])
    for known in (tumour(each) for each in conventions() if get(each).is_tumour):
        if code_of(known) == code:
            return known
    digits = {label: code >> 3 * label & 7 for label in range(_DIGITS)}
    return Convention(name or "own", {label: CLASSES[digit - 1] for label, digit in digits.items() if digit})
