"""Signals, resumed lengths, healed checkpoints and checked weights: a training that cannot be lost. Kills are in test_kills.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from synthmr import stopping
from synthmr.data.store import Store
from synthmr.errors import DataError, RunError, UsageError
from synthmr.io.swap import heal, readable, swapped
from synthmr.methods import registry
from synthmr.run import RunFolder, load_run, read_arrays, save_arrays
from synthmr.stopping import Stopped, deferred, handled
from synthmr.train import loop
from synthmr.train.log import Silent
from synthmr.train.loop import train
from synthmr.train.runtime import Runtime
from tiny_run import SPLIT, TINY_METHODS, make_store, tiny_config

CPU = Runtime(accelerator="cpu")
CONFIG = {"train__steps": 6, "train__validate_every": 2, "train__ema": 0.9, "options__norm": True, "options__dropout": 0.3}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "METHODS", {**registry.METHODS, **TINY_METHODS})
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, store: Store) -> Path:
    """A run that nobody stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "METHODS", {**registry.METHODS, **TINY_METHODS})
        train(tiny_config(**CONFIG), store, SPLIT, out, runtime=CPU)
    return out


class Signal(Silent):
    """Sends a signal to this process when a step is told."""

    def __init__(self, step: int, number: int) -> None:
        self.step, self.number = step, number
        self.messages: list[str] = []

    def on_step(self, step: int, *others: Any) -> None:
        if step == self.step:
            os.kill(os.getpid(), self.number)

    def on_message(self, text: str) -> None:
        self.messages.append(text)


def weights(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*.safetensors"))}


def same(run: Path, other: Path) -> None:
    """The same weights, optimisers and log, and nothing beside them."""
    assert weights(run) == weights(other)
    names = [sorted(str(path.relative_to(each)) for path in each.rglob("*")) for each in (run, other)]
    assert names[0] == names[1]
    told = [[(record.get("step"), record.get("l2"), record.get("validation")) for record in RunFolder(each).records()]
            for each in (run, other)]  # fmt: skip
    assert told[0] == told[1]


# --- signals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 2, 3, 6])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_finishes_the_step_and_writes_last(tmp_path: Path, store: Store, whole: Path, step: int, name: str) -> None:
    out, number = tmp_path / "run", getattr(signal, name)
    with pytest.raises(Stopped) as stopped, handled():
        train(tiny_config(**CONFIG), store, SPLIT, out, runtime=CPU, progress=Signal(step, number))
    assert stopped.value.exit_code == 128 + number and str(out) in stopped.value.words
    # the signal is met while a step is told: where a validation is due it comes first, or is cut off
    assert json.loads((out / "checkpoints" / "last" / "state.json").read_text())["step"] in (step, step + 1)
    train(tiny_config(**CONFIG), store, SPLIT, out, resume=True, runtime=CPU)
    same(out, whole)


@pytest.mark.parametrize(("where", "call"), [("validate", 1), ("validate", 3), ("calibrate_brightness", 1), ("slice_figure", 0)])
def test_a_signal_in_a_validation_or_the_calibration_is_seen_to_at_once(
    tmp_path: Path, store: Store, whole: Path, monkeypatch: pytest.MonkeyPatch, where: str, call: int
) -> None:
    from synthmr.train import fit

    module: Any = loop if where == "validate" else fit
    real, count = getattr(module, where), 0

    def stopped(*words: Any, **settings: Any) -> Any:
        nonlocal count
        count += 1
        if count == call:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
            raise AssertionError("the signal was not seen to")
        return real(*words, **settings)

    out = tmp_path / "run"
    monkeypatch.setattr(module, where, stopped)
    if call:
        with pytest.raises(Stopped), handled():
            train(tiny_config(**CONFIG), store, SPLIT, out, runtime=CPU)
        assert RunFolder.open(out).info["status"] == "training"
        train(tiny_config(**CONFIG), store, SPLIT, out, resume=True, runtime=CPU)
    else:
        with handled():
            train(tiny_config(**CONFIG), store, SPLIT, out, runtime=CPU)
    same(out, whole)


def test_a_program_that_uses_the_library_meets_its_own_signals(tmp_path: Path, store: Store) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config(**CONFIG), store, SPLIT, tmp_path / "run", runtime=CPU, progress=Signal(3, signal.SIGINT))
    assert signal.getsignal(signal.SIGINT) is before
    assert json.loads((tmp_path / "run" / "checkpoints" / "last" / "state.json").read_text())["step"] in (3, 4)


def test_handlers_of_others_and_ignored_signals_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    mine = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    hup = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handled():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGTERM, mine)
        signal.signal(signal.SIGHUP, hup)
    assert seen == [signal.SIGTERM]


def test_a_signal_that_nobody_took_is_met_at_the_end_of_the_block() -> None:
    reached = False
    with pytest.raises(Stopped), handled():
        with deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            reached = stopping.pending() == signal.SIGTERM
        raise AssertionError
    assert reached and not stopping.pending()


@pytest.mark.parametrize(("pause", "code"), [(0.0, 0), (0.5, 143)])
def test_a_second_signal_ends_at_once_unless_it_is_the_first_again(pause: float, code: int) -> None:
    body = f"""
import os, signal, time
from synthmr.stopping import deferred, handled, taken
with handled(), deferred():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep({pause})
    os.kill(os.getpid(), signal.SIGTERM)
    taken()
"""
    done = subprocess.run([sys.executable, "-c", body], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stderr
    assert ("second signal" in done.stderr) == bool(code)


# --- another length -----------------------------------------------------------------------------------------------------


def stopped_run(out: Path, store: Store, step: int = 3, **settings: Any) -> None:
    with pytest.raises(Stopped), handled():
        train(tiny_config(**{**CONFIG, **settings}), store, SPLIT, out, runtime=CPU, progress=Signal(step, signal.SIGTERM))


LENGTHS = (
    {"train__steps": 12},
    {"train__steps": 4},
    {"train__steps": 2},
    {"train__steps": 0, "train__epochs": 1},
    {"train__steps": 0, "train__minutes": 0.02},
)


@pytest.mark.parametrize("length", LENGTHS)
def test_a_resumed_run_may_be_longer_or_shorter(tmp_path: Path, store: Store, length: dict[str, Any]) -> None:
    out, told = tmp_path / "run", Signal(-1, signal.SIGTERM)
    stopped_run(out, store)
    result = train(tiny_config(**{**CONFIG, **length}), store, SPLIT, out, resume=True, runtime=CPU, progress=told)
    assert "instead of train.steps=6" in told.messages[0]
    loaded = load_run(out)
    assert loaded.info["status"] == "finished" and loaded.config == tiny_config(**{**CONFIG, **length})
    # it was stopped after step 3 or 4
    expected = {12: (12,), 4: (4,), 2: (3, 4), 0: range(3, 1000)}[length["train__steps"]]
    assert result.steps in expected
    # the last step was scored, however the length was changed
    assert [record["step"] for record in RunFolder(out).records() if "validation" in record][-1] == result.steps


def test_a_longer_run_gives_the_bits_of_one_that_was_longer_from_the_start(tmp_path: Path, store: Store) -> None:
    constant = {**CONFIG, "train__schedule": "constant"}
    train(tiny_config(**constant), store, SPLIT, tmp_path / "run", runtime=CPU)
    longer = tiny_config(**{**constant, "train__steps": 10})
    train(longer, store, SPLIT, tmp_path / "run", resume=True, runtime=CPU)
    train(longer, store, SPLIT, tmp_path / "long", runtime=CPU)
    last = [{name: data for name, data in weights(tmp_path / name).items() if "last" in name} for name in ("run", "long")]
    assert last[0] == last[1] and len(last[0]) == 3


def test_a_finished_run_goes_on_for_more_and_not_for_less(tmp_path: Path, store: Store) -> None:
    out = tmp_path / "run"
    train(tiny_config(**CONFIG), store, SPLIT, out, runtime=CPU)
    before = (out / "run.json").read_bytes()
    for steps in (6, 4):
        with pytest.raises(UsageError, match="nothing to resume"):
            train(tiny_config(**{**CONFIG, "train__steps": steps}), store, SPLIT, out, resume=True, runtime=CPU)
        assert (out / "run.json").read_bytes() == before
    import shutil

    shutil.rmtree(out / "checkpoints" / "last")
    with pytest.raises(RunError, match="last is missing"):
        train(tiny_config(**{**CONFIG, "train__steps": 9}), store, SPLIT, out, resume=True, runtime=CPU)
    assert load_run(out).hash == json.loads(before)["hash"]


def test_the_rest_of_the_configuration_must_be_the_same(tmp_path: Path, store: Store) -> None:
    stopped_run(tmp_path / "run", store)
    with pytest.raises(UsageError, match=r"another train.lr \(train.lr was 0.01 and is 0.5\)"):
        train(
            tiny_config(**{**CONFIG, "train__steps": 9, "train__lr": 0.5}), store, SPLIT, tmp_path / "run", resume=True, runtime=CPU
        )


# --- no dead ends -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    "left", [(), ("config.yaml",), ("config.yaml", "split.tsv"), ("config.yaml", ".tmp-0badf00d-1-0123abcd-split.tsv")]
)
def test_a_run_that_was_killed_before_it_began_can_begin(
    tmp_path: Path, store: Store, whole: Path, left: tuple[str, ...], resume: bool
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    for name in left:
        (out / name).write_text("cut off")
    train(tiny_config(**CONFIG), store, SPLIT, out, resume=resume, runtime=CPU)
    assert weights(out) == weights(whole) and load_run(out).info["status"] == "finished"


def test_a_folder_of_something_else_is_not_written_to(tmp_path: Path, store: Store) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("mine")
    for resume, kind in ((False, UsageError), (True, RunError)):
        with pytest.raises(kind, match="run"):
            train(tiny_config(**CONFIG), store, SPLIT, tmp_path / "run", resume=resume, runtime=CPU)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_a_fitted_method_that_was_stopped_is_fitted_again(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from synthmr.train import fit

    out, config = tmp_path / "linear", tiny_config("linear")

    def stop(*words: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    with monkeypatch.context() as patch, pytest.raises(Stopped) as stopped, handled():
        patch.setattr(fit, "calibrate_brightness", stop)
        train(config, store, SPLIT, out, runtime=CPU)
    assert "not scored" in stopped.value.words
    train(config, store, SPLIT, out, resume=True, runtime=CPU)
    assert load_run(out).info["status"] == "finished" and len(RunFolder(out).records()) == 2


def test_a_removed_folder_is_one_line_and_is_not_made_again(tmp_path: Path, store: Store) -> None:
    import shutil

    class Remove(Silent):
        def on_step(self, step: int, *others: Any) -> None:
            shutil.rmtree(tmp_path / "run", ignore_errors=True)

    with pytest.raises(DataError, match=r"cannot be written: No such file or directory. Its folder is not there"):
        train(tiny_config(**CONFIG), store, SPLIT, tmp_path / "run", runtime=CPU, progress=Remove())
    assert not (tmp_path / "run").exists()


# --- checkpoints heal ---------------------------------------------------------------------------------------------------


def folder(path: Path, text: str) -> None:
    path.mkdir(parents=True)
    (path / "a").write_text(text)


@pytest.mark.parametrize(
    ("there", "found"),
    [
        (("last",), "last"),
        (("last", "last.new"), "last"),
        (("last.old", "last.new"), "last.old"),
        (("last.old",), "last.old"),
        (("last", "last.old"), "last"),
        (("last", "last.old", "last.new"), "last"),
        (("last.new",), None),
        ((), None),
    ],
)  # fmt: skip
def test_a_swap_that_was_killed_heals_and_the_plain_name_is_written(
    tmp_path: Path, there: tuple[str, ...], found: str | None
) -> None:
    last = tmp_path / "checkpoints" / "last"
    for name in there:
        folder(last.with_name(name), name)
    if found:
        assert (readable(last) / "a").read_text() == found
    heal(last)
    left = {path.name: (path / "a").read_text() for path in last.parent.iterdir()} if last.parent.is_dir() else {}
    assert left == ({"last": found} if found else {})
    for text in ("one", "two"):
        with swapped(last) as fresh:
            (fresh / "a").write_text(text)
        assert {path.name: (path / "a").read_text() for path in last.parent.iterdir()} == {"last": text}


def test_best_weights_that_a_kill_kept_from_being_written_are_made_from_the_last(tmp_path: Path, store: Store, whole: Path) -> None:
    import shutil

    out = tmp_path / "run"
    shutil.copytree(whole, out)
    last, best = (json.loads((out / "checkpoints" / which / "state.json").read_text()) for which in ("last", "best"))
    assert last["best_step"] == last["step"] == best["step"] == 6  # else the best weights are older than the last
    shutil.rmtree(out / "checkpoints" / "best")
    folder(out / "checkpoints" / "best.new", "cut off")
    info = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**info, "status": "training"}))
    train(tiny_config(**CONFIG), store, SPLIT, out, resume=True, runtime=CPU)
    same(out, whole)


# --- weights are those that were written --------------------------------------------------------------------------------


def other_values(path: Path) -> None:
    save_arrays(path, {name: array + 1 if array.dtype.kind == "f" else array for name, array in read_arrays(path).items()})


def one_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def half_precision(path: Path) -> None:
    save_arrays(path, {name: array.astype(np.float16) for name, array in read_arrays(path).items()})


def less(path: Path) -> None:
    arrays = read_arrays(path)
    del arrays[sorted(arrays)[0]]
    save_arrays(path, arrays)


@pytest.mark.parametrize("which", ["best", "last"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_values, "is not the file that the run wrote"),
        (one_bit, "is not the file that the run wrote"),
        (half_precision, "is float16, not"),
        (less, "is missing"),
    ],
)
def test_weights_that_were_changed_are_refused(
    tmp_path: Path, store: Store, change: Callable[[Path], None], words: str, which: str
) -> None:
    out = tmp_path / "run"
    train(tiny_config(**CONFIG), store, SPLIT, out, runtime=CPU)
    change(out / "checkpoints" / which / ("ema.safetensors" if which == "last" else "model.safetensors"))
    with pytest.raises(RunError, match=words) as error:
        load_run(out, which)
    assert "\n" not in str(error.value)
    longer = tiny_config(**{**CONFIG, "train__steps": 9})
    if which == "last":
        with pytest.raises(RunError, match=words):
            train(longer, store, SPLIT, out, resume=True, runtime=CPU)


@pytest.mark.parametrize("noted", ["run.json", "state.json"])
def test_either_note_is_enough_and_runs_without_any_load(tmp_path: Path, store: Store, noted: str) -> None:
    out = tmp_path / "run"
    train(tiny_config("linear"), store, SPLIT, out, runtime=CPU)
    path = out / "checkpoints" / "best" / "model.safetensors"
    info, state = json.loads((out / "run.json").read_text()), json.loads((path.parent / "state.json").read_text())
    if noted == "run.json":
        (path.parent / "state.json").write_text(json.dumps({key: value for key, value in state.items() if key != "files"}))
    else:
        (out / "run.json").write_text(json.dumps({key: value for key, value in info.items() if key != "hash"}))
    load_run(out)
    other_values(path)
    with pytest.raises(RunError, match=r"put the file back, or train again"):
        load_run(out)
    (path.parent / "state.json").unlink()
    (out / "run.json").write_text(json.dumps({key: value for key, value in info.items() if key != "hash"}))
    load_run(out)  # of an older synthmr, which noted neither


def test_settings_that_were_changed_are_refused(tmp_path: Path, store: Store) -> None:
    out = tmp_path / "run"
    train(tiny_config("linear"), store, SPLIT, out, runtime=CPU)
    path = out / "config.yaml"
    path.write_text(path.read_text().replace("percentile: 99.5", "percentile: 90.0"))
    assert "90.0" in path.read_text()
    with pytest.raises(RunError, match=r"config.yaml is not what the run ended with"):
        load_run(out)


@pytest.mark.parametrize("name", ["centre", "scale", "mean", "sd", "weights", "level", "low", "high"])
def test_cut_arrays_of_linear_are_refused_without_any_note(tmp_path: Path, store: Store, name: str) -> None:
    out = tmp_path / "run"
    train(tiny_config("linear"), store, SPLIT, out, runtime=CPU)
    path = out / "checkpoints" / "best" / "model.safetensors"
    (path.parent / "state.json").unlink()
    arrays = read_arrays(path)
    for changed in (arrays[name][:1][..., :0], arrays[name].astype(np.float32), np.full_like(arrays[name], np.nan)):
        save_arrays(path, {**arrays, name: changed})
        with pytest.raises(RunError, match=name):
            load_run(out)
