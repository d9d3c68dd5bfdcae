"""How threads wait, and how many there are."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from conftest import Run
from synthmr.errors import UsageError
from synthmr.threads import VARIABLES, set_threads


def python(code: str, **environment: str | None) -> str:
    env = {key: value for key, value in {**os.environ, **environment}.items() if value is not None}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True, timeout=120
    ).stdout.strip()


def test_threads_wait_asleep_unless_the_user_says_otherwise() -> None:
    code = "import synthmr, os; print(os.environ['OMP_WAIT_POLICY'])"
    assert python(code, OMP_WAIT_POLICY=None) == "PASSIVE"
    assert python(code, OMP_WAIT_POLICY="ACTIVE") == "ACTIVE"


def test_the_policy_is_set_before_torch_is_loaded_and_openmp_has_read_it() -> None:
    """OpenMP prints what it goes by when it is loaded."""
    code = "import synthmr, torch; print('done')"
    env = {**os.environ, "OMP_DISPLAY_ENV": "true"}
    env.pop("OMP_WAIT_POLICY", None)
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True, timeout=120).stderr
    if "OMP_WAIT_POLICY" not in told:
        pytest.skip("this OpenMP does not say what it goes by")
    assert re.search("OMP_WAIT_POLICY *= *'PASSIVE'", told)


def test_importing_synthmr_loads_next_to_nothing() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import synthmr; took = time.perf_counter() - start;"
        "assert not {'torch', 'numpy', 'scipy', 'nibabel'} & set(sys.modules); print(took)"
    )
    assert min(float(python(code)) for _ in range(3)) < 0.1


def test_threads_are_set_for_libraries_still_to_come_and_for_torch_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    told: list[int] = []
    for name in VARIABLES:
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    set_threads(3)
    assert [os.environ[name] for name in VARIABLES] == ["3", "3", "3"]
    assert told == [3]


@pytest.mark.parametrize("count", [0, -2])
def test_fewer_than_one_thread_is_refused(count: int) -> None:
    before = dict(os.environ)
    with pytest.raises(UsageError, match=rf"^--threads {count}: at least 1"):
        set_threads(count)
    assert dict(os.environ) == before


def test_the_command_line_sets_threads_before_a_verb_loads_torch() -> None:
    code = (
        "import contextlib, io, os, sys; from synthmr import cli; sys.argv = ['synthmr', '--threads', '1', 'protocols']\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): cli.main()\n"
        "import torch; print(os.environ['OMP_NUM_THREADS'], torch.get_num_threads())"
    )
    assert python(code, OMP_NUM_THREADS=None, MKL_NUM_THREADS=None) == "1 1"


def test_the_command_line_refuses_no_threads_in_one_line(synthmr: Run) -> None:
    done = synthmr("--threads", 0, "methods", code=2)
    assert done.stderr.strip() == "synthmr: error: --threads 0: at least 1; leave it out to use all cores."
