"""Kill -9 before, in and after file operations that a seed draws: the same command again gives the same bits and leaves nothing.

`benchmarks/kills.py` does it for every operation; see `kills.py` for how.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import kills

COUNT, SEED = 20, 14


@pytest.mark.slow
def test_a_command_that_was_killed_anywhere_reaches_the_same_bits_and_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(Path(kills.__file__)), str(tmp_path / "area"), str(SEED), str(COUNT)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=550, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    trials = [kills.Trial(**json.loads(line)) for line in done.stdout.splitlines()]
    assert len(trials) == COUNT and not [trial for trial in trials if trial.differs]
    assert {trial.stage for trial in trials} == set(kills.STAGES) and {trial.moment for trial in trials} == set(kills.MOMENTS)


def test_what_is_left_lost_or_other_is_told() -> None:
    whole = {"run": "", "run/a": "1", "run/b": "2"}
    assert kills.difference(whole, whole) == ""
    assert kills.difference({**whole, "run/.tmp-x": ""}, whole) == "left behind: run/.tmp-x"
    assert kills.difference({"run": "", "run/a": "1"}, whole) == "lost: run/b"
    assert kills.difference({**whole, "run/b": "3"}, whole) == "other content: run/b"


@pytest.mark.parametrize(("moment", "left"), [("before", None), ("in", b"ab"), ("after", b"abcd")])
def test_the_process_dies_where_it_is_told_to(tmp_path: Path, moment: str, left: bytes | None) -> None:
    body = f"""
import sys
sys.path.insert(0, {str(Path(kills.__file__).parent)!r})
import kills
from pathlib import Path
operations = kills.Operations(Path({str(tmp_path)!r}), {0 if left is None else 1}, {moment!r})
operations.install()
(Path({str(tmp_path)!r}) / "a").write_bytes(b"abcd")
"""
    done = subprocess.run([sys.executable, "-c", body], check=False, timeout=60)
    assert done.returncode == -9
    assert not (tmp_path / "a").exists() if left is None else (tmp_path / "a").read_bytes() == left
