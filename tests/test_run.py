"""Run folders: what is written can be read, and every kind of damage gets one line."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from synthmr.config import RunConfig
from synthmr.errors import DataError, RunError, SynthmrError, UsageError
from synthmr.methods import registry
from synthmr.run import RunFolder, build_method, load_run, load_state, method_state, read_arrays, run_hash, save_arrays, swapped
from tiny_run import SOURCES, SPLIT, TARGETS, TINY_METHODS, TinyOptions, batch_of, make_store, tiny_config

INFO = {"status": "finished", "target_normalizers": {"FLAIR": {"name": "percentile", "low": 0.0, "high": 9.0}}, "landmarks": {}}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "METHODS", {**registry.METHODS, **TINY_METHODS})


def write_run(path: Path, config: RunConfig | None = None, seed: int = 0, which: tuple[str, ...] = ("best", "last")) -> Any:
    """A run folder with weights; returns the method."""
    config = config or tiny_config(options__norm=True)
    run = RunFolder.create(path, config, SPLIT, INFO)
    torch.manual_seed(seed)
    method = build_method(config)
    for name in which:
        with swapped(run.checkpoint(name)) as folder:
            save_arrays(folder / "model.safetensors", method_state(method))
    return method


def one_line(error: pytest.ExceptionInfo[SynthmrError], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text


def test_round_trip(tmp_path: Path) -> None:
    config = tiny_config(options__norm=True, train__lr=0.125, seed=3)
    method = write_run(tmp_path / "run", config)
    loaded = load_run(tmp_path / "run")
    assert loaded.config == config and isinstance(loaded.config.options, TinyOptions)
    assert (loaded.split.train, loaded.split.validation, loaded.split.test) == (SPLIT.train, SPLIT.validation, SPLIT.test)
    assert loaded.target_normalizers == INFO["target_normalizers"] and loaded.landmarks == {}
    assert not loaded.method.training
    for key, value in method.state_dict().items():
        assert torch.equal(loaded.method.state_dict()[key], value), key
    batch = batch_of(make_store(tmp_path / "store")).only(SOURCES)
    with torch.no_grad():
        found, expected = loaded.method(batch), method.eval()(batch)
        assert list(found) == list(expected) and all(torch.equal(found[name].mean, expected[name].mean) for name in expected)


def test_counters_without_axes_keep_their_shape(tmp_path: Path) -> None:
    arrays = {"n": np.array(7, np.int64), "w": np.arange(6, dtype=np.float32).reshape(2, 3).T}
    save_arrays(tmp_path / "x.safetensors", arrays)
    back = read_arrays(tmp_path / "x.safetensors")
    assert back["n"].shape == () and back["n"] == 7
    np.testing.assert_array_equal(back["w"], arrays["w"])
    save_arrays(tmp_path / "y.safetensors", dict(reversed(arrays.items())))
    assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "y.safetensors").read_bytes()


def test_hash_changes_with_configuration_and_weights(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_run(tmp_path / name, seed=seed)
    a, b, c = (load_run(tmp_path / name).hash for name in "abc")
    assert a == b != c
    weights = tmp_path / "a" / "checkpoints" / "best" / "model.safetensors"
    assert run_hash(tiny_config(options__norm=True), weights) == a != run_hash(tiny_config(options__norm=True, seed=1), weights)


def test_last_prefers_the_average(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    other = build_method(tiny_config(options__norm=True))
    save_arrays(tmp_path / "run" / "checkpoints" / "last" / "ema.safetensors", method_state(other))
    name = "net.0.weight"
    assert torch.equal(load_run(tmp_path / "run", "last").method.state_dict()[name], other.state_dict()[name])
    assert not torch.equal(load_run(tmp_path / "run", "best").method.state_dict()[name], other.state_dict()[name])
    with pytest.raises(UsageError) as error:
        load_run(tmp_path / "run", "bets")
    one_line(error, "bets", "did you mean best")


def test_create_refuses_a_used_folder_and_an_unwritable_one(tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "x").write_text("")
    with pytest.raises(UsageError) as error:
        RunFolder.create(tmp_path / "used", tiny_config(), SPLIT, INFO)
    one_line(error, "used", "--resume", "--out")
    with pytest.raises(UsageError):
        RunFolder.create(tmp_path / "used" / "x", tiny_config(), SPLIT, INFO)
    with pytest.raises(DataError) as data_error:
        RunFolder.create(tmp_path / "used" / "x" / "y", tiny_config(), SPLIT, INFO)
    one_line(data_error, "cannot be written")
    (tmp_path / "empty").mkdir()
    assert RunFolder.create(tmp_path / "empty", tiny_config(), SPLIT, INFO).info == INFO


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def other_yaml(**changes: str) -> Any:
    def change(path: Path) -> None:
        text = path.read_text()
        for old, new in changes.items():
            assert f"{old}:" in text
            text = text.replace(f"{old}:", f"{new}:")
        path.write_text(text)

    return change


def other_method(path: Path) -> None:
    path.write_text(path.read_text().replace("method: tiny", "method: tinny"))


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        ("config.yaml", Path.unlink, ("config.yaml is missing", "no run folder")),
        ("config.yaml", lambda path: path.write_text("method: [tiny"), ("config.yaml", "YAML")),
        ("config.yaml", other_method, ("tinny", "did you mean tiny")),
        ("config.yaml", other_yaml(seed="sede"), ("unknown key 'sede'", "did you mean seed")),
        ("split.tsv", Path.unlink, ("split.tsv is missing",)),
        ("split.tsv", lambda path: path.write_text("case\tsplit\na\ttrain\n"), ("split.tsv", "validation")),
        ("run.json", Path.unlink, ("run.json is missing",)),
        ("run.json", cut, ("run.json", "damaged")),
        ("run.json", lambda path: path.write_text("[]"), ("run.json", "damaged")),
        ("run.json", lambda path: path.write_text("{}"), ("target_normalizers", "damaged")),
        ("checkpoints/best/model.safetensors", cut, ("model.safetensors", "damaged")),
        ("checkpoints/best/model.safetensors", lambda path: path.write_bytes(b""), ("model.safetensors", "damaged")),
        ("checkpoints/best/model.safetensors", Path.unlink, ("no best checkpoint", "--resume")),
    ],
)  # fmt: skip
def test_damage_gets_one_line(tmp_path: Path, file: str, damage: Any, words: tuple[str, ...]) -> None:
    write_run(tmp_path / "run")
    damage(tmp_path / "run" / file)
    with pytest.raises(RunError) as error:
        load_run(tmp_path / "run")
    one_line(error, "run", *words)


def test_no_run_and_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(RunError) as error:
        load_run(tmp_path / "nothing")
    one_line(error, "there is no run folder", "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError) as error:
        load_run(tmp_path / "empty")
    one_line(error, "no run folder", "config.yaml")
    write_run(tmp_path / "young", which=())
    with pytest.raises(RunError) as error:
        load_run(tmp_path / "young")
    one_line(error, "no best checkpoint", "finished", "--resume")


def test_weights_of_another_configuration_or_method(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    weights = tmp_path / "run" / "checkpoints" / "best" / "model.safetensors"
    save_arrays(weights, method_state(build_method(tiny_config())))
    with pytest.raises(RunError) as error:
        load_run(tmp_path / "run")
    one_line(error, "tiny", "net.1.bias is missing")
    arrays = method_state(build_method(tiny_config(options__norm=True)))
    save_arrays(weights, {**arrays, "net.0.weight": np.zeros((4, 3, 3, 3), np.float32)})
    with pytest.raises(RunError) as error:
        load_run(tmp_path / "run")
    one_line(error, "net.0.weight", "(4, 3, 3, 3)", "(4, 2, 3, 3)")
    for name in ("linear", "copy"):
        method = registry.load(name)(registry.load(name).Options(), SOURCES, TARGETS)
        with pytest.raises(RunError) as error:
            load_state(method, arrays, weights)
        one_line(error, name, "another method")


@pytest.mark.parametrize("moment", ["while writing", "between the renames", "before the old one is removed"])
def test_a_kill_at_any_moment_of_a_swap_leaves_a_readable_checkpoint(tmp_path: Path, moment: str) -> None:
    write_run(tmp_path / "run", seed=0)
    run = RunFolder.open(tmp_path / "run")
    first = load_run(run.path).hash
    folder = run.path / "checkpoints" / "best"
    fresh, aside = folder.with_name("best.new"), folder.with_name("best.old")
    fresh.mkdir()
    second = build_method(tiny_config(options__norm=True))
    save_arrays(fresh / "model.safetensors", method_state(second))
    if moment == "while writing":
        cut(fresh / "model.safetensors")
    else:
        folder.rename(aside)
    if moment == "before the old one is removed":
        fresh.rename(folder)
    found = load_run(run.path).hash
    assert (found == first) == (moment != "before the old one is removed")
    # reading renamed nothing, and the next swap clears up
    assert aside.exists() == (moment != "while writing")
    with swapped(folder) as new:
        save_arrays(new / "model.safetensors", method_state(second))
    assert sorted(path.name for path in folder.parent.iterdir()) == ["best", "last"]
    torch.testing.assert_close(load_run(run.path).method.state_dict(), second.state_dict(), rtol=0, atol=0)


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "run")
    before = load_run(tmp_path / "run").hash

    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError) as error, swapped(tmp_path / "run" / "checkpoints" / "best") as folder:
        save_arrays(folder / "model.safetensors", {"x": np.zeros(3)})
    one_line(error, "best", "No space left", "Free some space")
    assert load_run(tmp_path / "run").hash == before
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["best", "last"]


def test_log_lines_are_json_and_can_be_trimmed(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", tiny_config(), SPLIT, INFO)
    assert run.records() == []
    for step in (1, 2, 3):
        run.log({"step": step, "loss": float("nan") if step == 2 else 0.5})
    run.log({"finished": True})
    with run.log_path.open("a") as stream:
        stream.write('{"step": 4, "lo')
    assert [json.loads(line).get("loss") for line in run.log_path.read_text().splitlines()[:3]] == [0.5, "nan", 0.5]
    run.trim_log(2)
    assert [record["step"] for record in run.records()] == [1, 2]
    assert run.log_path.read_text().count("\n") == 2
    run.log_path.unlink()
    run.log_path.mkdir()
    with pytest.raises(DataError) as error:
        run.log({"step": 1})
    one_line(error, "log.jsonl", "cannot be written")
