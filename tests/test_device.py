"""Words for devices: what each gives, and one line where there is none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from synthmr import cli
from synthmr.errors import UsageError
from synthmr.experiment.runner import Options
from synthmr.predict.precision import resolve_device


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with none."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.usefixtures("gpus")
def test_words_name_devices() -> None:
    found = {word: str(resolve_device(word)) for word in ("auto", "cpu", "cuda", "cuda:1")}
    assert found == {"auto": "cuda", "cpu": "cpu", "cuda": "cuda", "cuda:1": "cuda:1"}
    with pytest.raises(UsageError, match="cuda:2: there is no such GPU; this machine has cuda:0 to cuda:1"):
        resolve_device("cuda:2")


@pytest.mark.usefixtures("bare")
def test_devices_that_are_not_there() -> None:
    assert resolve_device() == resolve_device("auto") == torch.device("cpu")
    for word, kind in (("cuda", "CUDA"), ("cuda:0", "CUDA"), ("mps", "Apple")):
        with pytest.raises(
            UsageError, match=f"--device {word}: torch finds no {kind} GPU here; use --device cpu, or auto"
        ) as error:
            resolve_device(word)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("word", ["gpu", "cdua", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "mps:1", ""])
def test_words_that_name_none(word: str) -> None:
    with pytest.raises(UsageError, match=r"Allowed: auto, cpu, cuda, cuda:N, mps"):
        resolve_device(word)


VERBS = [
    ["synthesize", "RUN", "DATA", "--out", "OUT"],
    ["synthesize", "RUN", "T1w=a.nii.gz", "-o", "b.nii.gz"],
    ["evaluate", "RUN", "DATA"],
    ["subsets", "RUN", "DATA"],
    ["cv", "linear", "DATA", "--sources", "T1w", "--target", "FLAIR", "--out", "OUT"],
    ["experiment", "run", "hinet-table5", "--out", "OUT", "--scale", "tiny"],
]


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("words", VERBS, ids=lambda words: words[0])
def test_a_device_that_is_not_there_is_told_before_anything_is_read_or_written(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["synthmr", "-q", *words, "--device", "cuda"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "synthmr: error: --device cuda: torch finds no CUDA GPU here; use --device cpu, or auto.\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "verb", [["synthesize"], ["evaluate"], ["report"], ["subsets"], ["cv"], ["experiment", "run"]], ids=" ".join
)
def test_every_verb_that_predicts_has_both_options(
    verb: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["synthmr", *verb, "--help"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    text = capsys.readouterr().out
    assert not stopped.value.code and "--device" in text and "--no-keep" in text


def test_devices_are_no_part_of_what_an_experiment_is() -> None:
    """One that was run on a GPU goes on without."""
    assert Options(device="cuda", keep=False).noted == Options().noted
    assert Options(seed=1).noted != Options().noted and "scale" in Options().noted
