"""The exception tree, and the wording of suggestions.

    SynthmrError
    ├── DataError          something in the user's files or folders; the command line exits with 1
    │   └── RunError       a run folder or checkpoint that is damaged or belongs to something else
    └── UsageError         something in the call: names, options, values; the command line exits with 2
        └── MissingExtra   an optional dependency that is not installed

Every message is one line: what was given, what is allowed, the fix, with file and contrast where there are any.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any


def one_line(text: str) -> str:
    """A text as one line that any terminal shows: a line break is a space, other control characters are escaped."""
    if text.isprintable():
        return text
    text = " ".join(part.strip(" \t") for part in text.splitlines()).strip()
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


class SynthmrWarning(UserWarning):
    """Something to know about a result in Python; on the command line it is a line in the terminal."""


class SynthmrError(Exception):
    """Root of all errors that synthmr raises on purpose. What a message quotes of a file or a name never breaks its line."""

    exit_code = 1

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(str(message)))


class DataError(SynthmrError):
    """The data are wrong: unreadable file, missing contrast, grids that differ, ..."""

    exit_code = 1


class RunError(DataError):
    """A run folder is damaged, incomplete, or does not hold what was asked for."""


class UsageError(SynthmrError):
    """The call is wrong: unknown method, preset, key or contrast name, or an impossible combination."""

    exit_code = 2


class MissingExtra(UsageError):
    """An optional dependency is needed and is not installed."""


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """Return the tail of an error message: a suggestion where one is near, and always what is allowed.

    >>> did_you_mean("hinett", ["copy", "hinet"])
    'did you mean hinet? Allowed: copy, hinet.'
    """
    names = sorted(set(allowed))
    lowered = {name.lower(): name for name in names}
    near = difflib.get_close_matches(word[:100].lower(), lowered, n=1, cutoff=0.5)
    listing = f"Allowed: {', '.join(names)}." if names else "Nothing is allowed here."
    return f"did you mean {lowered[near[0]]}? {listing}" if near else listing


class _Short(reprlib.Repr):
    """As `repr` for what a person types; what is long or deep is cut, because a file can hold anything."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxlist, self.maxtuple, self.maxdict, self.maxset = 3, 8, 8, 8, 8
        self.maxstring, self.maxother, self.maxlong = 120, 120, 40


def shown(value: Any) -> str:
    """A value as it stands in a message: ``repr``, cut where it is long.

    >>> shown([1, "two"])
    "[1, 'two']"
    """
    return _Short().repr(value)
