"""A method of somebody else: a package with an entry point, a class of the running process, or a file; nothing else is touched."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import yaml

from conftest import Run
from synthmr.config import to_dict
from synthmr.errors import RunError, UsageError
from synthmr.methods import registry
from synthmr.methods.configure import build_config, restore_config
from synthmr.methods.copy import Copy
from synthmr.methods.table import capability_rows
from synthmr.run import RunFolder
from synthmr.testing import check_method

#: twenty lines
SOURCE = """
from torch import nn

from synthmr.methods.contract import NeuralMethod, Spec, by_contrast, check_wanted


class Theirs(NeuralMethod):
    spec = Spec(name="theirs", title="one convolution", sources=(1, 8), targets=(1, 8))

    def __init__(self, options, sources, targets):
        super().__init__(options, sources, targets)
        self.net = nn.Conv2d(len(sources), len(targets), 3, padding=1)

    def step(self, batch, update):
        loss = (self.net(batch.stack(self.sources)) - batch.truth(self.targets)).abs().mean()
        update("G", loss)
        return {"G_l1": loss.detach()}

    def forward(self, batch, wanted=None):
        sources, targets = check_wanted(self, batch, wanted)
        return by_contrast(self.net(batch.stack(sources)), self.targets, targets)
"""


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """What a test registers is gone after it."""
    yield
    for kind in list(registry._here.values()):
        registry.forget(kind)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my method.py"
    path.write_text(SOURCE, encoding="utf-8")
    return path


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with an installed package: its module and what pip writes of its entry points."""
    folder = tmp_path / "site"
    info = folder / "somebodys-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "somebodys.py").write_text(SOURCE, encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[synthmr.methods]\ntheirs = somebodys:Theirs\n")
    return folder


def train_words(method: object, data: Path, out: Path) -> list[object]:
    return ["-q", "train", method, data, "--sources", "T1w,T2w", "--target", "FLAIR", "--steps", 2, "--out", out]


def finite_volume(path: Path) -> bool:
    return bool(np.isfinite(np.asarray(nibabel.load(path).dataobj)).all())  # type: ignore[attr-defined]


# --- each way in, from the first word to a volume -------------------------------------------------------------------------


def test_a_package_with_an_entry_point_trains_and_predicts(package: Path, phantom: Path, synthmr: Run, tmp_path: Path) -> None:
    path = os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")])
    rows = json.loads(synthmr("methods", "--json", PYTHONPATH=path).stdout)
    assert [(row["title"], row["presets"], row["dims"]) for row in rows if row["name"] == "theirs"] == [
        ("one convolution", "fast, paper", "2-D")
    ]
    run, out = tmp_path / "run", tmp_path / "out"
    synthmr(*train_words("theirs", phantom, run), PYTHONPATH=path)
    assert yaml.safe_load((run / "config.yaml").read_text())["code"] == ""  # found by its name
    synthmr("-q", "synthesize", run, phantom, "--out", out, "--split", "test", PYTHONPATH=path)
    written = sorted(out.rglob("*FLAIR*.nii.gz"))
    assert written and all(map(finite_volume, written))
    gone = synthmr("-q", "synthesize", run, phantom, "--out", tmp_path / "more", code=1)
    assert "unknown method 'theirs'" in gone.stderr and gone.stderr.count("\n") == 1


def test_a_class_in_a_file_trains_and_predicts(file: Path, phantom: Path, synthmr: Run, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    synthmr(*train_words(f"{file}:Theirs", phantom, run))
    kept = yaml.safe_load((run / "config.yaml").read_text())
    assert (kept["method"], kept["code"]) == ("theirs", f"{file.resolve()}:Theirs")
    synthmr("-q", "synthesize", run, phantom, "--out", out, "--split", "test")
    written = sorted(out.rglob("*FLAIR*.nii.gz"))
    assert written and all(map(finite_volume, written))
    assert json.loads(written[0].with_name(written[0].name.replace(".nii.gz", ".json")).read_text())["method"] == "theirs"
    file.rename(tmp_path / "elsewhere.py")
    gone = synthmr("-q", "synthesize", run, phantom, "--out", tmp_path / "more", code=1).stderr
    assert gone.count("\n") == 1 and "there is no file" in gone and "put the file back" in gone and "under `code`" in gone
    (run / "config.yaml").write_text(yaml.safe_dump({**kept, "code": f"{tmp_path / 'elsewhere.py'}:Theirs"}))
    synthmr("-q", "synthesize", run, phantom, "--out", tmp_path / "more", "--split", "test")


def test_a_registered_class_passes_the_checks_trains_and_is_scored(
    tmp_path: Path, phantom: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ours_here.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    import ours_here  # type: ignore[import-not-found]

    assert registry.register(ours_here.Theirs) is ours_here.Theirs
    assert [row["title"] for row in capability_rows() if row["name"] == "theirs"] == ["one convolution"]
    check_method(ours_here.Theirs, phantom=phantom)
    # another process finds it where Python finds its module
    assert build(ours_here.Theirs).code == "ours_here:Theirs"
    registry.forget(ours_here.Theirs)
    assert "theirs" not in registry.available()
    assert registry.load("ours_here:Theirs") is ours_here.Theirs and registry.load("theirs") is ours_here.Theirs


def build(kind: Any) -> Any:
    return build_config(kind, "fast", {}, [], ("T1w",), ("FLAIR",))


# --- words and their errors -----------------------------------------------------------------------------------------------


def test_a_file_is_run_once_and_again_when_it_was_edited(file: Path) -> None:
    word = f"{file}:Theirs"
    first = registry.load(word)
    assert registry.load(word) is first and registry.load("theirs") is first
    assert build(first).code == word and build(first).method == "theirs"
    assert restore_config(first, to_dict(build(first))) == build(first)
    file.write_text(SOURCE.replace("one convolution", "another"), encoding="utf-8")
    os.utime(file, ns=(1, 1))
    second = registry.load(word)
    assert second is not first and second.spec.title == "another" and registry.load("theirs") is second


def test_a_file_can_import_what_lies_beside_it(file: Path) -> None:
    (file.parent / "beside_it.py").write_text("NAME = 'theirs'\n")
    file.write_text("from beside_it import NAME\n" + SOURCE.replace('"theirs"', "NAME"), encoding="utf-8")
    before = list(sys.path)
    assert registry.load(f"{file}:Theirs").spec.name == "theirs"
    assert sys.path == before


@pytest.mark.parametrize(
    ("change", "word", "words"),
    [
        ("", "nowhere.py:Theirs", r"there is no file .*nowhere\.py, in which the method Theirs should be; correct the path"),
        ("", "my method.py:Thiers", r"has no class 'Thiers': did you mean Theirs"),
        ("1 / 0", "my method.py:Theirs", r"my method\.py cannot be run \(ZeroDivisionError: division by zero\); mend it"),
        ("def (", "my method.py:Theirs", r"my method\.py cannot be run \(SyntaxError"),
        (
            "import no_such_package",
            "my method.py:Theirs",
            r"cannot be run \(ModuleNotFoundError: No module named 'no_such_package'",
        ),
        (
            "Theirs = dict",
            "my method.py:Theirs",
            r"Theirs is no method: it is no subclass of NeuralMethod or FittedMethod; .*check_method",
        ),
        ("Theirs.spec = None", "my method.py:Theirs", r"is no method: it has no spec = Spec"),
        ("del Theirs.forward", "my method.py:Theirs", r"is no method: it does not define forward\(\)"),
        ("Theirs.presets = {}", "my method.py:Theirs", r"is no method: presets has no 'paper'"),
        (
            "Theirs.spec = Spec(name='hinet', title='ours')",
            "my method.py:Theirs",
            r"calls itself hinet, as synthmr\.methods\.hinet:HiNet does; give its spec another name",
        ),
        ("", "no_such_package.module:Theirs", r"the module no_such_package\.module of the method Theirs cannot be imported"),
        ("", "synthmr.methods.copy:Kopy", r"has no class 'Kopy': did you mean Copy"),
    ],
)
def test_a_word_that_names_no_method_is_refused_in_one_line(file: Path, change: str, word: str, words: str) -> None:
    file.write_text(f"{SOURCE}\n{change}\n", encoding="utf-8")
    named = f"{file.parent}/{word}" if ".py:" in word else word
    with pytest.raises(UsageError, match=words) as error:
        registry.load(named)
    assert "\n" not in str(error.value)


def test_our_own_classes_can_be_named_by_where_they_are() -> None:
    assert registry.load("synthmr.methods.copy:Copy") is Copy
    assert "copy" not in registry._here and build(Copy).code == ""


def test_two_classes_of_one_name_are_refused(file: Path) -> None:
    first = registry.load(f"{file}:Theirs")
    other = file.with_name("other.py")
    other.write_text(SOURCE, encoding="utf-8")
    with pytest.raises(UsageError, match=r"other\.py:Theirs calls itself theirs, as .*:Theirs does; give its spec another name"):
        registry.load(f"{other}:Theirs")
    registry.forget(first)
    assert registry.load(f"{other}:Theirs").spec.name == "theirs"


def test_a_run_whose_class_is_gone_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("method: theirs\ncode: /nowhere/my.py:Theirs\n")
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "split.tsv").write_text("case\tsplit\n")
    with pytest.raises(
        RunError, match=r"there is no file .*my\.py.*put the file back \(a run says in its config\.yaml, under `code`"
    ):
        _ = RunFolder.open(tmp_path).config
    (tmp_path / "config.yaml").write_text("method: theirs\n")
    with pytest.raises(RunError, match=r"unknown method 'theirs'.*registered first with synthmr\.register\(cls\)"):
        _ = RunFolder.open(tmp_path).config
