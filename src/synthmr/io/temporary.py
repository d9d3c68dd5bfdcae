"""Temporary names, and how those that a kill left are found again.

A name says which process of which machine writes there. So what a killed command left is removed by the next one that writes into
the same folder, and what a living one writes is left alone.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import socket
import sys
import threading
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

#: seconds after which what another machine's process, or one of an older synthmr, writes to is what a kill left
STRAY = 24 * 3600.0

#: bytes of a name that every file system takes
LONGEST = 255

_OURS = re.compile(r"\.tmp-(?P<place>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}-")
#: of older versions: it could be anybody's, and is looked for in folders that are ours alone
_OLDER = re.compile(r"\.tmp-[0-9a-f]{4,8}-")

_swept: set[tuple[int, Path]] = set()
_guard = threading.Lock()


@cache
def _place() -> str:
    """Where a process number means something: the machine, and on Linux the container."""
    space = ""
    with suppress(OSError):
        space = str(Path("/proc/self/ns/pid").stat().st_ino)
    return hashlib.sha256(f"{socket.gethostname()} {space}".encode()).hexdigest()[:8]


def temporary_path(path: Path) -> Path:
    """A new name beside ``path``, with its suffix; of a long name the end alone, so that every file system takes it."""
    head = f".tmp-{_place()}-{os.getpid()}-{secrets.token_hex(4)}-"
    tail = path.name
    # what the file system would refuse under its own name must be refused under that one
    if len(os.fsencode(tail)) <= LONGEST:
        while len(os.fsencode(head + tail)) > LONGEST:
            tail = tail[1:]
    return path.with_name(head + tail)


def sweep(folder: Path, ours: bool = False) -> None:
    """Remove what killed commands left in a folder; what cannot be removed stays.

    Args:
        folder: to look into, not below.
        ours: nobody but synthmr writes there: names of older versions are removed too, when they are old.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".tmp-") and _is_left(entry.name, Path(entry.path), ours):
                remove(Path(entry.path))


def sweep_once(folder: Path) -> None:
    """`sweep`, at the first call for this folder in this process."""
    key = (os.getpid(), folder.absolute())
    with _guard:
        if key in _swept:
            return
        _swept.add(key)
    sweep(folder)


def is_temporary(name: str) -> bool:
    """Whether a name is one of `temporary_path`."""
    return _OURS.match(name) is not None


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there and that can be done."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _is_left(name: str, path: Path, ours: bool) -> bool:
    """Whether a temporary's process is gone, or nothing was written to it for a day."""
    found = _OURS.match(name)
    if found is None:
        return ours and _OLDER.match(name) is not None and _age(path) > STRAY
    if found["place"] == _place() and not is_alive(int(found["pid"])):
        return True
    return int(found["pid"]) != os.getpid() and _age(path) > STRAY


def _age(path: Path) -> float:
    """Seconds since anything at or below a path was written to; none where that cannot be told."""
    newest = 0.0
    try:
        newest = path.lstat().st_mtime
        for parent, _, files in os.walk(path):
            newest = max(newest, *(Path(parent, file).lstat().st_mtime for file in (".", *files)))
    except OSError:
        return 0.0
    return time.time() - newest


def is_alive(pid: int) -> bool:
    """Whether a process of this machine may be alive; on Windows, where asking would end it, it always may."""
    if pid < 1:
        return False
    if sys.platform == "win32":
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True
