"""A folder that is written anew as a whole: a kill at any moment leaves the old one or the new one, and the next start finds it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from synthmr.io.files import write_error
from synthmr.io.temporary import remove


def readable(folder: Path) -> Path:
    """Where the folder can be read now: under its plain name, or the one before, where a kill cut a swap off.

    Nothing is renamed: a folder can be read while it is written, and where it is read-only.
    """
    aside = _beside(folder)[1]
    return aside if not folder.is_dir() and aside.is_dir() else folder


def heal(folder: Path) -> None:
    """Put right what a kill left of `swapped`: the plain name is a whole folder again, and nothing lies beside it.

    Raises:
        DataError: it cannot be written.
    """
    fresh, aside = _beside(folder)
    try:
        if aside.is_dir() and not folder.is_dir():
            aside.replace(folder)
    except OSError as error:
        raise write_error(folder, error) from None
    for left in (fresh, aside):
        remove(left)


def _beside(folder: Path) -> tuple[Path, Path]:
    """The names of the folder that is being written and of the one before."""
    return folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")


@contextmanager
def swapped(folder: Path) -> Iterator[Path]:
    """Write a folder anew so that a kill at any moment leaves the old one or the new one.

    What an earlier kill left is healed. Then the new folder is written beside and flushed to the disk, the old one renamed away,
    the new one renamed in. `readable` finds the old one where a kill fell between the two renames.

    Args:
        folder: to write, under its plain name; its parent's parent exists.

    Raises:
        DataError: the disk is full or not writable; the old folder is kept.
    """
    fresh, aside = _beside(folder)
    heal(folder)
    try:
        folder.parent.mkdir(exist_ok=True)
        fresh.mkdir()
        yield fresh
        for path in (*fresh.iterdir(), fresh):
            _flush(path)
        if folder.is_dir():
            folder.replace(aside)
        fresh.replace(folder)
        _flush(folder.parent)
    except BaseException as error:
        with suppress(OSError):
            if aside.is_dir() and not folder.is_dir():
                aside.replace(folder)
        if isinstance(error, OSError):
            raise write_error(folder, error) from None
        raise
    finally:
        remove(fresh)
    remove(aside)


def _flush(path: Path) -> None:
    """Push a file or folder to the disk, so that a power cut after the renames finds it whole."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
