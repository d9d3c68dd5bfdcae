"""What a store has opened, bounded: files in number, arrays in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any

#: files that a store keeps open, and that a process has open besides
MOST_FILES, OTHER_FILES = 512, 256


class Shelf:
    """Things that were opened, of which those used last are kept: as many as weigh ``limit``, and at least one.

    Args:
        limit: largest total weight; None: what the system allows of open files, found out when the first is opened.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit, self._weight = limit, 0
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process: an empty one of the same limit."""
        return Shelf, (self._limit,)

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable, make: Callable[[], Any], weigh: Callable[[Any], int] = lambda thing: 1) -> Any:
        """What is kept under ``key``, or made now."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
            if self._limit is None:
                self._limit = _files_allowed()
            thing = make()
            weight = weigh(thing)
            while self._kept and self._weight + weight > self._limit:
                self._weight -= self._kept.popitem(last=False)[1][1]
            self._kept[key] = (thing, weight)
            self._weight += weight
            return thing


def _files_allowed() -> int:
    """How many files a store may keep open; raises the process's soft limit first, as far as the system lets it."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows has no such limit
        return MOST_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST_FILES if soft == resource.RLIM_INFINITY else max(1, min(MOST_FILES, soft // 2))
