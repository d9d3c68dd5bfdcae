"""Temporaries: what a kill left goes, what somebody writes stays."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from synthmr.errors import DataError
from synthmr.io import temporary
from synthmr.io.files import atomic, write_text
from synthmr.io.temporary import STRAY, is_temporary, sweep, temporary_path


@pytest.fixture
def dead() -> int:
    """The number of a process that has ended."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def name(pid: int, place: str | None = None, of: str = "a.json") -> str:
    return f".tmp-{place or temporary._place()}-{pid}-0123abcd-{of}"


def aged(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


def test_names_are_known_again_and_short_enough(tmp_path: Path) -> None:
    for stem in ("v.nii.gz", "x" * 251 + ".gz", "ü" * 126 + ".gz"):
        path = temporary_path(tmp_path / stem)
        assert is_temporary(path.name) and path.parent == tmp_path and len(os.fsencode(path.name)) <= 255
        assert path.suffix == ".gz" and path != temporary_path(tmp_path / stem)
        write_text(tmp_path / stem, "x")
    with pytest.raises(DataError, match="shorter name"):
        write_text(tmp_path / ("x" * 256), "x")
    assert not is_temporary(".tmp-cafe") and not is_temporary("tmp-0123abcd-1-0123abcd-a")


def test_what_a_killed_process_left_is_swept_by_the_next_write_there(tmp_path: Path, dead: int) -> None:
    left, folder = tmp_path / name(dead), tmp_path / name(dead, of="store")
    left.write_text("cut")
    (folder / "cases").mkdir(parents=True)
    (folder / "cases" / "a").write_text("cut")
    others = [tmp_path / "a.json", tmp_path / ".tmp-notes", tmp_path / ".hidden"]
    for path in others:
        path.write_text("mine")
    write_text(tmp_path / "b.json", "x")
    assert not left.exists() and not folder.exists() and all(path.read_text() == "mine" for path in others)


@pytest.mark.parametrize(
    ("place", "alive", "age", "goes"),
    [
        (None, True, 0, False),
        (None, True, STRAY / 2, False),
        (None, True, 2 * STRAY, True),
        (None, False, 0, True),
        ("00000000", False, 0, False),  # of another machine: its process may live
        ("00000000", False, 2 * STRAY, True),
    ],
)
def test_what_a_living_process_writes_stays(
    tmp_path: Path, dead: int, place: str | None, alive: bool, age: float, goes: bool
) -> None:
    path = tmp_path / name(os.getppid() if alive else dead, place)
    path.write_text("half")
    aged(path, age)
    sweep(tmp_path)
    assert path.exists() != goes


def test_a_folder_is_as_old_as_what_was_written_last_below_it(tmp_path: Path) -> None:
    path = tmp_path / name(os.getppid(), of="store")
    (path / "deep").mkdir(parents=True)
    (path / "deep" / "a").write_text("now")
    for old in (path, path / "deep"):
        aged(old, 2 * STRAY)
    sweep(tmp_path)
    assert path.exists()
    aged(path / "deep" / "a", 2 * STRAY)
    sweep(tmp_path)
    assert not path.exists()


def test_names_of_older_versions_go_only_from_folders_that_are_ours(tmp_path: Path) -> None:
    path = tmp_path / ".tmp-0123abcd-a.json"
    path.write_text("cut")
    aged(path, 2 * STRAY)
    sweep(tmp_path)
    assert path.exists()
    sweep(tmp_path, ours=True)
    assert not path.exists()


def test_an_error_below_a_folder_that_is_written_names_the_folder_that_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"store/a\.json cannot be written") as error, atomic(tmp_path / "store") as folder:
        folder.mkdir()
        (folder / "a.json").mkdir()
        (folder / "a.json" / "x").mkdir()
        write_text(folder / "a.json", "x")
    assert ".tmp-" not in str(error.value) and not list(tmp_path.iterdir())


def test_a_short_write_of_numpy_is_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No space left"), atomic(tmp_path / "a.npy"):
        raise OSError("12000 requested and 512 written")
