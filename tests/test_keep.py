"""Kept predictions: what makes another key, what goes first, several processes, folders that cannot be written."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synthmr.io import files
from synthmr.io.files import sha256
from synthmr.predict.keep import LIMIT, Keep, key_of
from synthmr.predict.prediction import Prediction
from synthmr.predict.settings import PredictSettings
from test_prediction import check_equal, make

SIZE = len(make().to_bytes())


def key(**changes: Any) -> str:
    whole: dict[str, Any] = {
        "run_hashes": ["aaaa", "bbbb"],
        "inputs": {"T1w": "1" * 64, "T2w": "2" * 64, "mask": "3" * 64},
        "given": ("T1w", "T2w"),
        "maps": ("attention",),
        "settings": PredictSettings(),
        "versions": {"synthmr": "0.1", "torch": "2.6"},
    }
    return key_of(**{**whole, **changes})


def test_a_key_changes_with_everything_that_decides_what_comes_out() -> None:
    others = [
        key(run_hashes=["aaaa", "bbbc"]),
        key(run_hashes=["aaaa"]),
        key(inputs={"T1w": "1" * 64, "T2w": "9" * 64, "mask": "3" * 64}),
        key(inputs={"T1w": "1" * 64, "T2w": "2" * 64}),
        key(inputs={"T1w": "2" * 64, "T2w": "1" * 64, "mask": "3" * 64}),
        key(given=("T1w",)),
        key(maps=()),
        key(settings=PredictSettings(precision="32")),
        key(settings=PredictSettings(plane="coronal")),
        key(versions={"synthmr": "0.2", "torch": "2.6"}),
    ]
    assert len({key(), *others}) == len(others) + 1
    assert len(key()) == 40 and set(key()) <= set("0123456789abcdef")
    assert key() == key(), "the same call gives another key"
    # what does not matter: the order in which files are named and maps are asked for
    assert key(inputs={"mask": "3" * 64, "T2w": "2" * 64, "T1w": "1" * 64}) == key()
    assert key(maps=("b", "a", "a")) == key(maps=("a", "b"))


def test_what_was_put_comes_back(tmp_path: Path) -> None:
    keep = Keep(tmp_path / "predictions")
    assert keep.get(key()) is None and not (tmp_path / "predictions").exists()
    keep.put(key(), make())
    found = keep.get(key())
    assert found is not None and keep.get(key(maps=())) is None
    check_equal(found, make())
    assert LIMIT == Keep(tmp_path).limit == 2_000_000_000


def test_nothing_is_kept_when_it_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    keep = Keep.off()
    keep.put(key(), make())
    assert keep.get(key()) is None and not list(tmp_path.iterdir())


def names(folder: Path) -> set[str]:
    return {path.name.partition(".")[0] for path in folder.iterdir()}


def test_the_one_whose_last_use_is_longest_ago_goes_first(tmp_path: Path) -> None:
    keep = Keep(tmp_path, limit=3 * SIZE + 100)
    for number, name in enumerate("abc"):
        keep.put(name, make())
        os.utime(keep.path(name), (number, number))
    assert names(tmp_path) == {"a", "b", "c"}
    assert keep.get("a") is not None  # used: now the youngest
    keep.put("d", make())
    assert names(tmp_path) == {"a", "c", "d"}
    keep.put("e", make())
    assert names(tmp_path) == {"a", "d", "e"}
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= keep.limit
    keep.put("a", make())  # again: no more files than before
    assert names(tmp_path) == {"a", "d", "e"}


def test_one_that_is_larger_than_the_limit_does_not_drive_the_others_out(tmp_path: Path) -> None:
    keep = Keep(tmp_path, limit=SIZE + 10)
    keep.put("a", make())
    keep.put("big", make(maps={name: make().maps["attention-T1w"] for name in ("x", "y")}))
    assert names(tmp_path) == {"a"}


def test_a_damaged_file_is_a_miss_and_goes(tmp_path: Path) -> None:
    keep = Keep(tmp_path)
    keep.put("a", make())
    data = bytearray(keep.path("a").read_bytes())
    data[-9] ^= 1
    keep.path("a").write_bytes(data)
    assert keep.get("a") is None and not keep.path("a").exists()
    keep.put("a", make())
    assert keep.get("a") is not None


def test_what_a_kill_left_is_removed_and_what_another_process_writes_is_not(tmp_path: Path) -> None:
    old, new = tmp_path / ".tmp-0123-a.safetensors", tmp_path / ".tmp-4567-b.safetensors"
    for path in (old, new):
        path.write_bytes(b"x" * 100)
    os.utime(old, (time.time() - 7200,) * 2)
    (tmp_path / "readme.txt").write_text("not ours")
    Keep(tmp_path, limit=SIZE + 10).put("a", make())
    assert {path.name for path in tmp_path.iterdir()} == {new.name, "a.safetensors", "readme.txt"}


def test_a_run_that_cannot_be_written_keeps_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, cache = tmp_path / "run", tmp_path / "cache"
    run.mkdir()
    monkeypatch.setenv("SYNTHMR_CACHE", str(cache))
    assert Keep.of_run(run).folder == run / "predictions"
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != run)
    assert Keep.of_run(run).folder == cache / "predictions"
    keep = Keep.of_run(run)
    keep.put("a", make())
    assert names(cache / "predictions") == {"a"} and not list(run.iterdir())
    # a folder of kept predictions that can be written is used whatever its parent allows
    (run / "predictions").mkdir()
    assert Keep.of_run(run).folder == run / "predictions"


def test_what_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    keep = Keep(tmp_path / "file" / "predictions")
    keep.put("a", make())
    assert keep.get("a") is None


def work(folder: Path, seed: int, failures: Any) -> None:
    """Put and get for a while, in a folder that holds three."""
    keep = Keep(folder, limit=3 * SIZE + 100)
    rng = np.random.default_rng(seed)
    try:
        for _ in range(60):
            name = str(rng.integers(6))
            found = keep.get(name)
            if found is not None:
                assert found.case == name
            keep.put(name, replace(make(), case=name))
    except BaseException as error:
        failures.put(repr(error))
        raise


def test_several_processes_share_a_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    failures = context.Queue()
    others = [context.Process(target=work, args=(tmp_path, seed, failures)) for seed in range(2)]
    for process in others:
        process.start()
    work(tmp_path, 9, failures)
    for process in others:
        process.join()
    assert all(process.exitcode == 0 for process in others), failures.get(timeout=1)
    assert 1 <= len(names(tmp_path)) <= 3 and not list(tmp_path.glob(".tmp*"))
    assert all(Prediction.load(path) for path in tmp_path.iterdir())


# --- checksums of what goes in --------------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often a file was read for its checksum; files count as left alone at once."""
    calls: list[int] = []
    digest = hashlib.file_digest

    def count(stream: Any, name: str) -> Any:
        calls.append(1)
        return digest(stream, name)

    monkeypatch.setattr(files.hashlib, "file_digest", count)
    monkeypatch.setattr(files, "SETTLED", 0.0)
    return calls


def test_a_file_is_hashed_once_a_process(tmp_path: Path, counted: list[int]) -> None:
    path = tmp_path / "t1"
    path.write_bytes(b"voxels")
    for _ in range(3):
        assert sha256(path) == hashlib.sha256(b"voxels").hexdigest()
    assert len(counted) == 1


def test_threads_that_ask_at_once_hash_once(tmp_path: Path, counted: list[int]) -> None:
    path = tmp_path / "t1"
    path.write_bytes(bytes(2_000_000))
    barrier = threading.Barrier(8)

    def ask(_: int) -> str:
        barrier.wait()
        return sha256(path)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(8))) == {hashlib.sha256(bytes(2_000_000)).hexdigest()}
    assert len(counted) == 1


def test_a_changed_file_has_another_checksum(tmp_path: Path, counted: list[int]) -> None:
    path = tmp_path / "t1"
    path.write_bytes(b"voxels")
    first, stamp = sha256(path), path.stat()
    # touched: read again, and the same
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 10**9))
    assert sha256(path) == first and len(counted) == 2
    # one byte, of the same size and at the same inode, its time set back: the time of change tells
    time.sleep(0.05)
    with path.open("r+b") as stream:
        stream.write(b"V")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_ino, path.stat().st_mtime_ns) == (stamp.st_size, stamp.st_ino, stamp.st_mtime_ns)
    assert sha256(path) == hashlib.sha256(b"Voxels").hexdigest()
    # another file under its name
    (tmp_path / "new").write_bytes(b"VOXELS")
    (tmp_path / "new").replace(path)
    assert sha256(path) == hashlib.sha256(b"VOXELS").hexdigest()


def test_a_file_that_was_written_just_now_is_read_again(
    tmp_path: Path, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two writes within one tick of the clock leave one time stamp."""
    monkeypatch.setattr(files, "SETTLED", 2.0)
    path = tmp_path / "t1"
    for word in (b"one", b"two", b"six"):
        path.write_bytes(word)
        assert sha256(path) == hashlib.sha256(word).hexdigest()
    assert len(counted) == 3
    old = time.time() - 60
    monkeypatch.setattr(files.time, "time", lambda: old + 120)
    assert sha256(path) == sha256(path) == hashlib.sha256(b"six").hexdigest()
    assert len(counted) == 4
