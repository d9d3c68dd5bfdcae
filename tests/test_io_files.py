"""Atomic writes and checksums."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from synthmr.errors import DataError
from synthmr.io.files import atomic, same_file, sha256, sha256_array, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_written_file_is_whole_and_alone(tmp_path):
    path = tmp_path / "new" / "deep" / "a.json"
    write_json(path, {"a": [1, 2.5], "ü": None})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": [1, 2.5], "ü": None}
    assert names(path.parent) == ["a.json"]


def test_a_failing_block_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail() -> None:
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_parents_made_for_a_failed_write_are_removed(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic(tmp_path / "x" / "y" / "a.txt"):
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_a_folder_is_written_as_a_whole(tmp_path):
    with atomic(tmp_path / "run") as temporary:
        temporary.mkdir()
        (temporary / "a").write_text("1")
        assert not (tmp_path / "run").exists()
    assert (tmp_path / "run" / "a").read_text() == "1"


def test_the_temporary_name_keeps_the_suffix_and_the_folder(tmp_path):
    with atomic(tmp_path / "v.nii.gz") as temporary:
        assert temporary.name.endswith(".nii.gz") and temporary.parent == tmp_path
        temporary.write_bytes(b"1")


@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EACCES, "may write to"),
        (errno.EROFS, "may write to"),
        (errno.EIO, "Check the disk"),
    ],
)
def test_a_full_or_unwritable_disk_is_one_line_with_the_fix(tmp_path, number, fix):
    path = tmp_path / "a.txt"
    with pytest.raises(DataError, match=fix) as caught, atomic(path):
        raise OSError(number, os.strerror(number))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="A file stands where a folder is needed"):
        write_text(tmp_path / "file" / "a.txt", "x")


def test_a_folder_in_the_place_of_the_file(tmp_path):
    (tmp_path / "a.txt" / "b").mkdir(parents=True)
    with pytest.raises(DataError, match="A folder of that name exists"):
        write_text(tmp_path / "a.txt", "x")
    assert names(tmp_path) == ["a.txt"]


def test_errors_about_other_files_keep_their_own_words(tmp_path):
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "out"):
        (tmp_path / "input").read_text()
    with pytest.raises(gzip.BadGzipFile), atomic(tmp_path / "out"):
        raise gzip.BadGzipFile("not gzip")


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert names(tmp_path) == []


def test_checksums(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc" * 100_000)
    assert sha256(path) == hashlib.sha256(b"abc" * 100_000).hexdigest()
    with pytest.raises(DataError, match="cannot be read"):
        sha256(tmp_path / "missing")


def test_array_checksum_knows_values_shape_and_type_but_not_memory_order():
    a = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    assert sha256_array(a) == sha256_array(np.asfortranarray(a))
    others = [a.reshape(3, 2, 4), a.astype(np.float64), a + 1, np.flip(a, 0)]
    assert len({sha256_array(x) for x in [a, *others]}) == 5


def test_same_file_through_links_and_dots(tmp_path):
    a = tmp_path / "a"
    a.write_text("")
    (tmp_path / "link").symlink_to(a)
    os.link(a, tmp_path / "hard")
    (tmp_path / "d").mkdir()
    assert same_file(a, tmp_path / "link") and same_file(a, tmp_path / "hard")
    assert same_file(a, tmp_path / "d" / ".." / "a")
    assert same_file(tmp_path / "new", tmp_path / "d" / ".." / "new")
    assert not same_file(a, tmp_path / "new") and not same_file(a, tmp_path / "d")
