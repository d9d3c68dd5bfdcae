"""Atomic writes and checksums: what is written is either whole or not there."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from synthmr import documents
from synthmr.errors import DataError
from synthmr.io.temporary import remove, sweep_once, temporary_path

#: errno -> what a person can do about it
_FIXES = {
    errno.ENOSPC: "Free some space there, or write to another disk.",
    errno.EDQUOT: "Your quota there is used up: free some space, or write to another disk.",
    errno.EFBIG: "The file system, or a limit of this process (`ulimit -f`), takes no file of that size.",
    errno.ENOENT: "Its folder is not there (any more); make it, or choose another path.",
    errno.EACCES: "Choose a folder that you may write to.",
    errno.EPERM: "Choose a folder that you may write to.",
    errno.EROFS: "Choose a folder that you may write to.",
    errno.ENOTDIR: "A file stands where a folder is needed; choose another path.",
    errno.EEXIST: "A file stands where a folder is needed; choose another path.",
    errno.EISDIR: "A folder of that name exists; choose another name.",
    errno.ENOTEMPTY: "A folder of that name exists; choose another name.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
}


#: these are about writing, whatever file the system names with them
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)

#: what numpy says of a disk that is full, without the number that stands for it
_SHORT = re.compile(r"\d+ requested and \d+ written")


def write_error(path: Path, error: OSError) -> DataError:
    """The one-line error for an operating-system error while writing ``path``."""
    number, words = error.errno, error.strerror or str(error)
    if number is None and _SHORT.search(words):
        number, words = errno.ENOSPC, os.strerror(errno.ENOSPC)
    return DataError(f"{path} cannot be written: {words}. {_FIXES.get(number or 0, 'Check the disk and the path.')}")


def _make_parents(folder: Path, made: list[Path]) -> None:
    """Make ``folder`` and note the folders that were not there before, deepest first."""
    probe = folder
    while not probe.exists() and probe != probe.parent:
        made.append(probe)
        probe = probe.parent
    folder.mkdir(parents=True, exist_ok=True)


def _flush(path: Path) -> None:
    """Push a file to the disk: some file systems report that they are full only here."""
    if path.is_file():
        with path.open("rb") as stream:
            os.fsync(stream.fileno())


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Write a file or folder under a temporary name and rename it when the block ends well.

    The temporary path lies in the same folder (so that the rename is atomic), keeps the suffix, and does not exist
    yet: the block writes a file there, or makes a folder. An existing file at ``path`` is replaced; a non-empty
    folder is not. If the block fails, nothing remains, parent folders made for it included. What a killed process left
    in the folder under such names is removed first, once a process.

    Yields:
        The temporary path.

    Raises:
        DataError: the disk is full, the folder is not writable, a folder of that name exists, ...
    """
    path = Path(path)
    temporary = temporary_path(path)
    made: list[Path] = []
    try:
        _make_parents(path.parent, made)
        sweep_once(path.parent)
        yield temporary
        _flush(temporary)
        temporary.replace(path)
    except BaseException as error:
        remove(temporary)
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError) and _concerns(error, path, temporary):
            raise write_error(path, error) from None
        if isinstance(error, DataError) and str(temporary) in str(error):  # something below a folder that is written
            raise type(error)(str(error).replace(str(temporary), str(path))) from None
        raise


def _concerns(error: OSError, path: Path, temporary: Path) -> bool:
    """Whether it is about writing this file: not one of a bad gzip, which has no number, or about another file, an input."""
    if error.errno is None:
        return _SHORT.search(str(error)) is not None
    if error.filename is None or error.errno in _FULL:
        return True
    named = Path(os.fsdecode(error.filename))
    return temporary in (named, *named.parents) or named == path or named in path.parents


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 text atomically.

    Raises:
        DataError: it cannot be written.
    """
    with atomic(path) as temporary:
        # half a character pair, as of a file name that is no UTF-8, becomes its escape, which in JSON means the same
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path | str, data: Any) -> None:
    """Write JSON atomically, indented, with a final newline. NaN and infinity are refused: JSON has no word for them.

    Raises:
        DataError: it cannot be written.
        ValueError: ``data`` holds NaN or infinity.
    """
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def finite(data: Any) -> Any:
    """Plain data without what JSON has no word for: infinity and NaN become the words inf, -inf and nan."""
    if isinstance(data, Mapping):
        return {str(key): finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [finite(value) for value in data]
    return str(data) if isinstance(data, float) and not math.isfinite(data) else data


def read_json(path: Path | str) -> Any:
    """Inverse of `write_json`.

    Raises:
        DataError: it cannot be read, or is no JSON.
    """
    return documents.read_json(path)


#: seconds for which a file must have been left alone before its checksum is remembered: two writes within one tick of a file
#: system's clock (10 ms on most, 2 s on FAT) leave the same time stamp
SETTLED = 2.0

_Stamp = tuple[str, int, int, int, int, int]
_sums: dict[_Stamp, str] = {}
_hashing: dict[_Stamp, threading.Lock] = {}
_guard = threading.Lock()


def sha256(path: Path | str) -> str:
    """SHA-256 of a file's bytes, in hex; a file that does not change is read once a process, by however many threads ask.

    A file counts as unchanged while its path, device, inode, size and times of change (`st_mtime_ns`, and `st_ctime_ns`, which
    nobody can set back on Linux and macOS) are the same. What keeps all of them is not noticed until the next process: a write
    through a memory map or to a block device, or, on Windows, one whose modification time is set back.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with documents.open_regular(path) as stream:
            stamp = _stamp(path, os.fstat(stream.fileno()))
            with _guard:
                lock = _hashing.setdefault(stamp, threading.Lock())
            with lock:
                if stamp not in _sums:
                    digest = hashlib.file_digest(stream, "sha256").hexdigest()
                    found = os.fstat(stream.fileno())
                    # one that was written to meanwhile, or just before, may change again under the same stamp
                    if _stamp(path, found) != stamp or time.time() - max(found.st_mtime, found.st_ctime) < SETTLED:
                        return digest
                    _sums[stamp] = digest
                return _sums[stamp]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None


def _stamp(path: Path | str, found: os.stat_result) -> _Stamp:
    """What must be the same for a file to count as unchanged."""
    return (str(Path(path).absolute()), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def sha256_array(array: np.ndarray) -> str:
    """SHA-256 of an array's type, shape and values (in C order), in hex."""
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def same_file(a: Path | str, b: Path | str) -> bool:
    """Whether two paths are the same file (through links and ``..``); works for paths that do not exist yet."""
    a, b = Path(a), Path(b)
    if a.exists() and b.exists():
        return a.samefile(b)
    return a.resolve() == b.resolve()
