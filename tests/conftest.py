"""Shared fixtures: a phantom cohort, and the command line, as a subprocess or in this process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
Verb = Callable[..., SimpleNamespace]

#: small enough for a 2-core machine, real enough for every stage: 4 mm voxels, five subjects
SUBJECTS, SPACING = 5, 4


#: `make quick` leaves out what trains networks or calls the command line in processes of its own, but for tests marked quick
LONG_FILES = (
    "test_cli", "test_crossval", "test_experiment", "test_extend", "test_maps", "test_method_", "test_methods", "test_report",
    "test_subsets", "test_train",
)  # fmt: skip
LONG_FIXTURES = {"synthmr", "phantom", "hinet_run", "linear_run"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="some of every layer, in less than three minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--quick"):
        return

    def is_long(item: pytest.Item) -> bool:
        if item.get_closest_marker("quick"):
            return False
        fixtures = LONG_FIXTURES & set(getattr(item, "fixturenames", ()))
        return bool(item.get_closest_marker("slow") or fixtures or item.path.name.startswith(LONG_FILES))

    long = [item for item in items if is_long(item)]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in set(long)]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder of this test session, so that no user's cache is read or written."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def one_thread() -> None:
    """Small networks are slower on several threads. For a whole file: ``pytestmark = pytest.mark.usefixtures("one_thread")``."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six subjects of `experiment_data` with a split. Read only."""
    from experiment_data import PARTS, make_cohort

    return make_cohort(tmp_path_factory.mktemp("experiment") / "cohort", splits=PARTS)


@pytest.fixture(scope="session")
def synthmr(cache: Path) -> Run:
    """Call the command line in a process of its own: ``synthmr("train", "hinet", ...)``."""

    def call(*words: object, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "SYNTHMR_CACHE": str(cache), "OMP_NUM_THREADS": "2", "COLUMNS": "200", **environment}
        command = [sys.executable, "-m", "synthmr.cli", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=600)
        assert done.returncode == code, f"exit {done.returncode}, not {code}\n{done.stdout}\n{done.stderr}"
        return done

    return call


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Verb:
    """Call the command line in this process, which saves a second a call: ``verb("score", ...).stdout``."""
    from synthmr import cli

    def call(*words: object, code: int = 0) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["synthmr", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert (ended.value.code or 0) == code, err
        return SimpleNamespace(stdout=out, stderr=err)

    return call


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory, synthmr: Run) -> Path:
    """A phantom cohort on disk. Read only: copy it before changing it."""
    out = tmp_path_factory.mktemp("phantom") / "cohort"
    synthmr("phantom", out, "--subjects", SUBJECTS, "--seed", 7, "--spacing", SPACING)
    return out


def train_words(method: str, data: Path, out: Path, *more: object) -> list[object]:
    """The words of a training call on the phantom."""
    return ["-q", "train", method, data, "--sources", "T1w,T2w", "--target", "FLAIR", "--out", out, *more]


#: a Hi-Net that trains in seconds
TINY = ("--steps", 6, "--set", "options.filters=4", "--set", "sample.batch=2", "--set", "train.validate_every=3")


@pytest.fixture(scope="session")
def hinet_run(phantom: Path, synthmr: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished Hi-Net run of a few steps. Read only."""
    out = tmp_path_factory.mktemp("runs") / "hinet"
    synthmr(*train_words("hinet", phantom, out, *TINY))
    return out


@pytest.fixture(scope="session")
def linear_run(phantom: Path, synthmr: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished linear run. Read only."""
    out = tmp_path_factory.mktemp("runs") / "linear"
    synthmr(*train_words("linear", phantom, out))
    return out
