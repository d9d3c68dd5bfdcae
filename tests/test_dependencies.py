"""What synthmr imports is what its base installation brings, or an extra that says how to get it."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

#: what is imported under another name than it is installed by
INSTALLED_AS = {"PIL": "pillow", "yaml": "pyyaml"}

#: the larger package that has the same library inside, taken where the smaller is not there
INSTEAD_OF = {"lightning": "lightning-fabric"}

#: needed by the tests alone
DEV_ONLY = ("hypothesis", "monai", "nilearn", "pandas", "pytest", "skimage", "sklearn", "tensorboard")


def names_of(requirements: list[str]) -> set[str]:
    return {re.split(r"[\s<>=!~\[;]", each)[0].lower() for each in requirements}


BASE = names_of(PROJECT["dependencies"])
EXTRAS = {name: names_of(each) for name, each in PROJECT["optional-dependencies"].items() if name != "dev"}


def imported(tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Top-level packages that a file imports, plainly or by `importlib.import_module`, and where."""
    for node in ast.walk(tree):
        found: list[str] = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found = [node.module]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "import_module":
            found = [each.value for each in node.args[:1] if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        for name in found:
            top = name.partition(".")[0]
            if top not in sys.stdlib_module_names and top != "synthmr":
                yield top, node


def is_guarded(tree: ast.AST, node: ast.AST) -> bool:
    """Whether the import stands in a ``try`` whose handler raises MissingExtra."""
    for each in ast.walk(tree):
        if isinstance(each, ast.Try) and any(node is inner for line in each.body for inner in ast.walk(line)):
            handled = ast.unparse(ast.Module([line for handler in each.handlers for line in handler.body], []))
            if "raise MissingExtra" in handled:
                return True
    return False


def problems(text: str) -> list[str]:
    """Packages that a file of ours imports and may not."""
    tree = ast.parse(text)
    found = []
    for top, node in imported(tree):
        name = INSTALLED_AS.get(top, top).lower().replace("_", "-")
        if {name, INSTEAD_OF.get(name, name)} & BASE:
            continue
        if any(name in each for each in EXTRAS.values()) and is_guarded(tree, node):
            continue
        found.append(top)
    return found


@pytest.mark.parametrize(
    "path", sorted((ROOT / "src").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT / "src" / "synthmr"))
)
def test_a_file_imports_what_the_base_brings_or_an_extra_that_says_so(path: Path) -> None:
    assert problems(path.read_text(encoding="utf-8")) == []


def test_the_check_finds_what_it_must() -> None:
    assert problems("import pandas") == ["pandas"]
    assert problems("def f():\n    from skimage.filters import threshold_otsu") == ["skimage"]
    assert problems("import tensorboard") == ["tensorboard"]  # an extra, and nothing says how to get it
    assert problems("try:\n    import tensorboard\nexcept ImportError:\n    tensorboard = None") == ["tensorboard"]
    assert problems("try:\n    import tensorboard\nexcept ImportError:\n    raise MissingExtra('pip install')") == []
    assert problems("import importlib\nimportlib.import_module('monai')") == ["monai"]
    assert problems("import numpy, yaml\nfrom PIL import Image\nfrom lightning_fabric import Fabric") == []


def test_every_base_dependency_is_imported() -> None:
    used = {
        INSTALLED_AS.get(top, top).lower().replace("_", "-")
        for path in (ROOT / "src").rglob("*.py")
        for top, _ in imported(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert used >= BASE, f"in the base and imported nowhere: {BASE - used}"


def test_the_data_files_of_the_package_are_listed() -> None:
    """What is no Python file is left out of a wheel unless pyproject.toml lists it."""
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]["synthmr"]
    home = ROOT / "src" / "synthmr"
    listed = {path for pattern in patterns for path in home.glob(pattern)}
    data = {path for path in home.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert data == listed


#: every stage, in one process
STAGES = """
import sys, pathlib
for name in {blocked!r}:
    sys.modules[name] = None  # its import raises ModuleNotFoundError
from synthmr import cli
data, out = map(pathlib.Path, sys.argv[1:])
T = ["--sources", "T1w,T2w", "--target", "FLAIR"]
for words in (
    ["index", data], ["audit", data],
    ["train", "copy", data, *T, "--out", out / "copy"], ["train", "linear", data, *T, "--out", out / "linear"],
    ["train", "unet", data, *T, "--out", out / "unet", "--steps", "1", "--set", "options.filters=4", "--set", "sample.batch=1"],
    ["synthesize", out / "unet", data, "--out", out / "synth"],
    ["evaluate", out / "unet", data, "--against", out / "copy", "--regions", "--out", out / "metrics.csv"],
    ["report", out / "unet", data, "-o", out / "report.html"],
):
    sys.argv = ["synthmr", "-q", *map(str, words)]
    try:
        cli.main()
    except SystemExit as stopped:
        assert not stopped.code, (words, stopped.code)
"""


@pytest.mark.slow
@pytest.mark.quick
def test_every_stage_runs_without_what_the_tests_alone_need(phantom: Path, cache: Path, tmp_path: Path) -> None:
    env = {**os.environ, "SYNTHMR_CACHE": str(cache), "COLUMNS": "200"}
    command = [sys.executable, "-c", STAGES.format(blocked=DEV_ONLY), str(phantom), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert (tmp_path / "report.html").stat().st_size > 1000 and (tmp_path / "metrics.csv").is_file()
    assert list((tmp_path / "synth").rglob("*.nii.gz"))
