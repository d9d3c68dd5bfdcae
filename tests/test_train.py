"""Training: run folders, budgets, checkpoints, errors. Kills and several processes are in test_train_processes.py."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from synthmr.data.split import Split
from synthmr.data.store import Store
from synthmr.errors import DataError, MissingExtra, RunError, SynthmrError, UsageError
from synthmr.methods import registry
from synthmr.run import RunFolder, build_method, load_run, read_arrays
from synthmr.train.loop import train
from synthmr.train.runtime import Runtime
from tiny_run import SOURCES, SPLIT, TARGETS, TINY_METHODS, Tiny, TinyOptions, batch_of, make_store, tiny_config


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "METHODS", {**registry.METHODS, **TINY_METHODS})
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("store"))


class Recorder:
    """A display that remembers."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int | None, float, float | None, float | None]] = []
        self.losses: list[Mapping[str, float]] = []
        self.validations: list[tuple[int, float, float]] = []
        self.messages: list[str] = []

    def on_step(
        self, step: int, total: int | None, progress: float, losses: Mapping[str, float], best: float | None, left: float | None
    ) -> None:
        self.steps.append((step, total, progress, best, left))
        self.losses.append(losses)

    def on_validation(self, step: int, score: float, best: float, name: str = "psnr", unit: str = "dB") -> None:
        self.validations.append((step, score, best))

    def on_message(self, text: str) -> None:
        self.messages.append(text)


def one_line(error: pytest.ExceptionInfo[SynthmrError], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text


CPU = Runtime(accelerator="cpu")


def test_a_run_folder_holds_everything(tmp_path: Path, store: Store) -> None:
    out, told = tmp_path / "run", Recorder()
    config = tiny_config(train__steps=60, train__validate_every=20, train__images=True, options__norm=True, options__gan=True)
    result = train(config, store, SPLIT, out, runtime=CPU, progress=told)

    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert {"config.yaml", "split.tsv", "run.json", "log.jsonl", "checkpoints/best/model.safetensors"} <= files
    last = {f"checkpoints/last/{name}" for name in ("model.safetensors", "optimizer.safetensors", "state.json")}
    assert last <= files and "checkpoints/last/ema.safetensors" not in files
    assert {f"images/step_{step:06d}.png" for step in (20, 40, 60)} <= files
    assert not [name for name in files if name.endswith((".pt", ".pth", ".ckpt", ".pkl", ".bin"))]
    assert (out / "images" / "step_000020.png").read_bytes().startswith(b"\x89PNG")

    records = RunFolder.open(out).records()
    steps = [record for record in records if "l2" in record]
    assert [record["step"] for record in steps] == list(range(1, 61))
    assert {"step", "l2", "D", "lr", "seconds", "steps_per_s", "share_waited"} == set(steps[-1])
    assert steps[-1]["l2"] < 0.3 * steps[0]["l2"]
    assert 0 <= steps[-1]["share_waited"] <= 1 and steps[-1]["steps_per_s"] > 1
    validations = [record for record in records if "validation" in record]
    assert [record["step"] for record in validations] == [20, 40, 60] and set(validations[0]["scores"]) == {"d"}
    assert records[-1]["finished"] and records[-1]["best"] == result.best == max(record["validation"] for record in validations)

    info = json.loads((out / "run.json").read_text())
    assert info["status"] == "finished" and info["method"] == "tiny" and info["sources"] == list(SOURCES)
    assert info["training_cases"] == ["a", "b", "c"] and info["store"] == store.fingerprint
    assert info["target_normalizers"] == {"FLAIR": {"name": "percentile", "low": 0.0, "high": 10002.0, "max": 10002.0}}
    model = build_method(config)
    assert info["parameters"] == {"G": sum(p.numel() for p in model.net.parameters()), "D": 10}
    assert info["hash"] == load_run(out).hash and info["machine"]["cores"] >= 1 and "torch" in info["versions"]
    assert (info["precision"], info["channels_last"], info["processes"]) == ("32", True, 1)

    assert [(step, total) for step, total, *_ in told.steps] == [(step, 60) for step in range(1, 61)]
    assert all(math.isclose(progress, step / 60) for step, _, progress, *_ in told.steps)
    assert told.steps[-1][3] == max(score for _, score, _ in told.validations[:2])
    assert told.validations[-1][2] == result.best and set(told.losses[0]) == {"l2", "D"}
    assert (result.steps, result.stopped) == (60, "budget") and 0.05 < result.peak_rss_gb < 64
    assert result.seconds > 60 / result.steps_per_s * 0.99 and f"step {result.best_step} of 60" in result.describe()
    json.dumps(result.as_dict(), allow_nan=False)


def test_the_score_that_is_kept_is_the_score_of_the_kept_weights(tmp_path: Path, store: Store) -> None:
    result = train(tiny_config(train__steps=8, train__ema=0.9), store, SPLIT, tmp_path / "run", runtime=CPU)
    method = load_run(tmp_path / "run").method
    batch = batch_of(store, "d")
    with torch.no_grad():
        image = method(batch.only(SOURCES))["FLAIR"].mean
    assert batch.mask is not None
    error = (image - batch.images["FLAIR"])[batch.mask].double()
    assert result.psnr == pytest.approx(10 * math.log10(4 / float(error.square().mean())), abs=1e-4)


def test_epochs(tmp_path: Path, store: Store) -> None:
    # 3 training cases of 6 slices, 2 a batch: 9 steps an epoch
    config = tiny_config(train__steps=0, train__epochs=2, train__validate_every=0)
    result = train(config, store, SPLIT, tmp_path / "run", runtime=CPU)
    assert result.steps == 18


def test_minutes(tmp_path: Path, store: Store) -> None:
    told = Recorder()
    words = {"train__steps": 0, "train__minutes": 0.02, "train__schedule": "linear", "train__decay_start": 0.0}
    config = tiny_config(**words, train__validate_every=0)
    result = train(config, store, SPLIT, tmp_path / "run", runtime=CPU, progress=told)
    assert result.seconds >= 1.2 and result.steps > 5 and result.stopped == "budget"
    assert told.steps[0][1] is None and 1 <= len(told.validations) <= 20 and told.validations[-1][0] == result.steps
    # the learning rate follows the clock, as it was after the step before
    checked = 0
    for before, after in pairwise(RunFolder.open(tmp_path / "run").records()):
        if "lr" in before and "lr" in after:
            assert after["lr"] == pytest.approx(config.train.lr * (1 - before["seconds"] / 1.2), abs=2e-3 * config.train.lr)
            checked += 1
    assert checked > 3


def test_validations_cost_a_tenth_of_the_steps(tmp_path: Path, store: Store) -> None:
    told = Recorder()
    train(tiny_config(train__steps=40, train__validate_every=0), store, SPLIT, tmp_path / "run", runtime=CPU, progress=told)
    # a tenth of what 40 steps of 2 samples cost is 24 slices: four times the six of the validation case
    assert [step for step, *_ in told.validations] == [10, 20, 30, 40]


def test_patience(tmp_path: Path, store: Store) -> None:
    config = tiny_config(train__steps=100, train__lr=0.0, train__validate_every=2, train__patience=3)
    result = train(config, store, SPLIT, tmp_path / "run", runtime=CPU)
    # nothing is learnt: the first validation, then three that are no better
    assert (result.steps, result.best_step, result.stopped) == (8, 2, "patience")


@pytest.mark.parametrize(("after", "kept"), [(0.0, 2), (0.25, 6), (0.3, 6), (0.31, 8), (0.99, 20)])
def test_weights_of_the_first_part_make_way(tmp_path: Path, store: Store, after: float, kept: int) -> None:
    told = Recorder()
    config = tiny_config(train__steps=20, train__lr=0.0, train__validate_every=2, train__keep_after=after)
    result = train(config, store, SPLIT, tmp_path / "run", runtime=CPU, progress=told)
    # nothing is learnt and all scores are equal: the first validation is kept, unless it is of the first part
    assert len({score for _, score, _ in told.validations}) == 1 and len(told.validations) == 10
    assert (result.best_step, result.steps) == (kept, 20)
    state = json.loads((tmp_path / "run" / "checkpoints" / "best" / "state.json").read_text())
    assert (state["best_step"], state["best_moment"]) == (kept, kept / 20)


def test_the_first_part_counts_until_there_is_a_later_one(tmp_path: Path, store: Store) -> None:
    config = tiny_config(train__steps=100, train__validate_every=2, train__keep_after=0.9, train__patience=3, train__lr=0.0)
    result = train(config, store, SPLIT, tmp_path / "run", runtime=CPU)
    assert (result.steps, result.best_step, result.stopped) == (8, 2, "patience")
    assert load_run(tmp_path / "run").info["result"]["best_step"] == 2


def test_average_in_closed_form(tmp_path: Path, store: Store) -> None:
    config = tiny_config(train__steps=1, train__validate_every=1, train__ema=0.999)
    train(config, store, SPLIT, tmp_path / "run", runtime=CPU)
    torch.manual_seed(config.seed)
    start = build_method(config).state_dict()
    last = tmp_path / "run" / "checkpoints" / "last"
    average, weights = read_arrays(last / "ema.safetensors"), read_arrays(last / "model.safetensors")
    for name, value in start.items():
        # decay of the first step: (0 + 1) / (0 + 10)
        np.testing.assert_allclose(average[name], 0.1 * value.numpy() + 0.9 * weights[name], rtol=1e-5, atol=1e-7)
        assert not np.array_equal(average[name], weights[name])
    np.testing.assert_array_equal(average["net.0.weight"], load_run(tmp_path / "run").method.state_dict()["net.0.weight"].numpy())


def test_same_seed_same_run_and_the_callers_generator_is_left(tmp_path: Path, store: Store) -> None:
    torch.manual_seed(77)
    expected = torch.rand(3)
    torch.manual_seed(77)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(tiny_config(seed=seed, options__dropout=0.3), store, SPLIT, tmp_path / name, runtime=CPU)
    assert torch.equal(torch.rand(3), expected)
    a, b, c = ((tmp_path / name / "checkpoints" / "last" / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def test_bf16_and_tensorboard(tmp_path: Path, store: Store) -> None:
    out = tmp_path / "run"
    train(tiny_config(train__precision="bf16", train__tensorboard=True, options__norm=True), store, SPLIT, out, runtime=CPU)
    assert json.loads((out / "run.json").read_text())["precision"] == "bf16"
    assert read_arrays(out / "checkpoints" / "last" / "model.safetensors")["net.0.weight"].dtype == np.float32
    assert list((out / "tensorboard").glob("events*"))


def test_tensorboard_missing(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingExtra) as error:
        train(tiny_config(train__tensorboard=True), store, SPLIT, tmp_path / "run", runtime=CPU)
    one_line(error, "synthmr[tensorboard]")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path, store: Store) -> None:
    out = tmp_path / "run"
    config = tiny_config(train__steps=20, train__validate_every=3, options__poison=8)
    with pytest.raises(DataError) as error:
        train(config, store, SPLIT, out, runtime=CPU)
    one_line(error, "nan at step 8", "update G", "train.lr", str(out / "checkpoints" / "last"))
    info = json.loads((out / "run.json").read_text())
    assert info["status"] == "failed" and "step 8" in info["error"]
    assert json.loads((out / "checkpoints" / "last" / "state.json").read_text())["step"] == 6
    assert all(np.isfinite(array).all() for array in read_arrays(out / "checkpoints" / "last" / "model.safetensors").values())
    assert load_run(out).method is not None

    with pytest.raises(DataError) as error:
        train(tiny_config(train__validate_every=3, options__poison=1), store, SPLIT, tmp_path / "early", runtime=CPU)
    one_line(error, "step 1", "no earlier checkpoint")
    with pytest.raises(RunError) as run_error:
        load_run(tmp_path / "early")
    one_line(run_error, "no best checkpoint", "failed")


def test_weights_that_diverge_between_losses_stop_the_run(tmp_path: Path, store: Store) -> None:
    with pytest.raises(DataError) as error:
        train(tiny_config(train__steps=50, train__lr=1e30, train__validate_every=50), store, SPLIT, tmp_path / "run", runtime=CPU)
    one_line(error, "train.lr (now 1e+30)")
    assert not (tmp_path / "run" / "checkpoints" / "last").exists()


def changed_store(store: Store, **changes: Any) -> Store:
    return replace(store, **changes)


def test_resume_refuses_what_is_not_the_same_run(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    config = tiny_config(train__steps=20, options__poison=8)
    with pytest.raises(DataError):
        train(config, store, SPLIT, out, runtime=CPU)
    with pytest.raises(UsageError) as error:
        train(config, store, SPLIT, out, runtime=CPU)
    one_line(error, "not empty", "--resume", "--out")
    other = tiny_config(train__steps=20, train__lr=0.5, seed=4, options__poison=8)
    with pytest.raises(UsageError) as error:
        train(other, store, SPLIT, out, resume=True, runtime=CPU)
    one_line(error, "seed, train.lr", "seed was 0 and is 4")
    with pytest.raises(UsageError) as error:
        train(config, changed_store(store, fingerprint="0" * 40), SPLIT, out, resume=True, runtime=CPU)
    one_line(error, "other data")
    with pytest.raises(UsageError) as error:
        train(config, store, Split(("a", "b"), ("d",), ("e",), "test"), out, resume=True, runtime=CPU)
    one_line(error, "other data", "split")
    with pytest.raises(UsageError) as error:
        train(config, store, SPLIT, out, resume=True, runtime=Runtime("cpu", devices=2))
    one_line(error, "1 processes", "with 2")
    with pytest.raises(RunError) as run_error:
        train(config, store, SPLIT, tmp_path / "nothing", resume=True, runtime=CPU)
    one_line(run_error, "there is no run folder")
    assert not (tmp_path / "nothing").exists()


def test_resume_of_a_finished_run_says_so(tmp_path: Path, store: Store) -> None:
    for method, resumed in (("tiny", "finished"), ("linear", "finished")):
        config = tiny_config(method, train__steps=6)
        train(config, store, SPLIT, tmp_path / method, runtime=CPU)
        before = (tmp_path / method / "run.json").read_bytes()
        with pytest.raises(UsageError) as error:
            train(config, store, SPLIT, tmp_path / method, resume=True, runtime=CPU)
        one_line(error, resumed, "nothing to resume")
        assert (tmp_path / method / "run.json").read_bytes() == before


def test_resume_without_a_checkpoint_starts_at_the_beginning(tmp_path: Path, store: Store) -> None:
    config = tiny_config()
    train(config, store, SPLIT, tmp_path / "whole", runtime=CPU)
    with pytest.raises(KeyboardInterrupt):
        train(config, store, SPLIT, tmp_path / "run", runtime=CPU, progress=Stopper(2, KeyboardInterrupt()))
    told = Recorder()
    result = train(config, store, SPLIT, tmp_path / "run", resume=True, runtime=CPU, progress=told)
    assert result.steps == 6 and "after step 0" in told.messages[0]
    files = [tmp_path / name / "checkpoints" / "last" / "model.safetensors" for name in ("whole", "run")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert [record["step"] for record in RunFolder.open(tmp_path / "run").records() if "l2" in record] == list(range(1, 7))


class Stopper(Recorder):
    """Raises when a step is told."""

    def __init__(self, step: int, error: BaseException) -> None:
        super().__init__()
        self.step, self.error = step, error

    def on_step(self, step: int, *others: Any) -> None:
        if step == self.step:
            raise self.error


@pytest.mark.parametrize("damage", ["weights", "average", "optimizer", "foreign optimizer", "state"])
def test_resume_from_a_damaged_checkpoint(tmp_path: Path, store: Store, damage: str) -> None:
    from synthmr.run import save_arrays

    out, config = tmp_path / "run", tiny_config(train__steps=20, train__ema=0.9)
    with pytest.raises(KeyboardInterrupt):
        train(config, store, SPLIT, out, runtime=CPU, progress=Stopper(5, KeyboardInterrupt()))
    last = out / "checkpoints" / "last"
    names = {"weights": "model", "average": "ema", "optimizer": "optimizer", "foreign optimizer": "optimizer"}
    if damage == "state":
        path = last / "state.json"
        path.write_text('{"step": 3, "moon": 1}')
    else:
        path = last / f"{names[damage]}.safetensors"
        path.write_bytes(path.read_bytes()[:-8])
    if damage == "foreign optimizer":
        save_arrays(path, {"G/other.weight/exp_avg": np.zeros(3, np.float32)})
    with pytest.raises(RunError) as error:
        train(config, store, SPLIT, out, resume=True, runtime=CPU)
    one_line(error, path.name)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"train__steps": 0}, ("nothing says how long", "train.minutes")),
        ({"train__epochs": 2}, ("train.steps=6 and train.epochs=2",)),
        ({"seed": -1}, ("seed=-1",)),
        ({"sample__mode": "patches", "sample__patch": "6,6"}, ("sample.patch", "multiples of 4")),
    ],
)
def test_settings_that_cannot_be_trained_leave_no_folder(
    tmp_path: Path, store: Store, settings: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError) as error:
        train(tiny_config(**settings), store, SPLIT, tmp_path / "run", runtime=CPU)
    one_line(error, *words)
    assert not (tmp_path / "run").exists()


def test_split_without_validation(tmp_path: Path, store: Store) -> None:
    with pytest.raises(DataError) as error:
        train(tiny_config(), store, Split(("a",), (), (), "by hand"), tmp_path / "run", runtime=CPU)
    one_line(error, "validation", "by hand")


@pytest.mark.parametrize(
    ("runtime", "words"),
    [
        (Runtime("cpuu"), ("unknown accelerator", "did you mean cpu")),
        (Runtime("cpu", devices=0), ("--devices 0", "at least 1")),
        (Runtime("cpu", num_nodes=0), ("--nodes 0",)),
    ],
)
def test_runtimes_that_are_not_there(tmp_path: Path, store: Store, runtime: Runtime, words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as error:
        train(tiny_config(), store, SPLIT, tmp_path / "run", runtime=runtime)
    one_line(error, *words)


def test_no_gpu(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError) as error:
        train(tiny_config(), store, SPLIT, tmp_path / "run", runtime=Runtime("cuda"))
    one_line(error, "no usable GPU", "cpu or auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError) as error:
        Runtime("cuda", devices=2).fabric()
    one_line(error, "--devices 2", "1 GPU")


def test_parameters_outside_the_groups_are_refused(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    both = list(Tiny.groups(build_method(tiny_config()))["G"])
    assert len(both) == 4
    for groups, words in (
        (lambda self: {"G": list(self.net[0].parameters())}, ("net.4.weight", "no group")),
        (lambda self: {"G": list(self.parameters()), "D": list(self.net[0].parameters())}, ("net.0.weight", "G and D")),
    ):
        monkeypatch.setattr(Tiny, "groups", groups)
        with pytest.raises(UsageError) as error:
            train(tiny_config(), store, SPLIT, tmp_path / "run", runtime=CPU)
        one_line(error, "Tiny.groups()", *words)


@pytest.mark.parametrize("name", ["copy", "linear"])
def test_methods_without_steps_share_the_run_folder(tmp_path: Path, store: Store, name: str) -> None:
    out, told = tmp_path / name, Recorder()
    result = train(tiny_config(name, train__images=True), store, SPLIT, out, runtime=CPU, progress=told)
    loaded = load_run(out)
    assert result.steps == 0 and result.stopped == "fit" and loaded.info["status"] == "finished"
    assert told.validations == [(0, result.psnr, result.psnr)] and "fitted in" in result.describe()
    assert result.best is None and list(result.scores) == ["d"] and not result.chosen_by
    assert (out / "images" / "fit.png").is_file()
    batch = batch_of(store, "d")
    image = loaded.method(batch.only(SOURCES))["FLAIR"].mean
    assert batch.mask is not None
    error = (image - batch.images["FLAIR"])[batch.mask].double()
    assert result.psnr == pytest.approx(10 * math.log10(4 / float(error.square().mean())), abs=1e-4)
    if name == "linear":  # the truth is a linear map, in float16
        assert result.psnr > 55


def test_bad_patches_of_data_stop_early(tmp_path: Path, store: Store) -> None:
    with pytest.raises(DataError) as error:
        train(tiny_config(sample__min_brain=1.0), store, SPLIT, tmp_path / "run", runtime=CPU)
    one_line(error, "sample.min_brain")
    with pytest.raises(UsageError) as usage:
        train(tiny_config(prepare__mask="otsu"), store, SPLIT, tmp_path / "run", runtime=CPU)
    one_line(usage, "prepare.mask")
    assert not (tmp_path / "run").exists()


def test_options_of_the_helper_are_what_they_say() -> None:
    assert tiny_config(options__gan=True).options == TinyOptions(gan=True) and tiny_config().targets == TARGETS
