"""Training across processes: a kill and a resume, two ranks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from synthmr.methods import registry
from synthmr.run import RunFolder, read_arrays
from synthmr.train.loop import train
from synthmr.train.runtime import Runtime
from tiny_run import SPLIT, TINY_METHODS, make_store, tiny_config

HERE = Path(__file__).parent

HEAD = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {here!r})
import torch
torch.set_num_threads(1)
from tiny_run import SPLIT, TINY_METHODS, make_store, tiny_config
from synthmr.methods import registry
registry.METHODS = {{**registry.METHODS, **TINY_METHODS}}
from synthmr.errors import DataError
from synthmr.train.loop import train
from synthmr.train.log import Silent
from synthmr.train.runtime import Runtime
out = Path(sys.argv[1])
rank = int(os.environ.get("LOCAL_RANK", "0"))

def say(*words):
    # a file a process: what several write to one pipe, gloo's own words included, gets mixed up
    with (out / f"said{{rank}}").open("a") as stream:
        print(*words, file=stream)

folder = out / ("store%d" % rank)
store = make_store(folder)
"""

HARD = {
    "train__steps": 12,
    "train__validate_every": 4,
    "train__ema": 0.9,
    "train__clip": 1.0,
    "train__warmup": 3,
    "train__optimizer": "adamw",
    "train__weight_decay": 0.01,
    "train__schedule": "cosine",
    "augment__flip": 0.5,
    "augment__noise": 0.1,
    "options__norm": True,
    "options__dropout": 0.3,
    "options__gan": True,
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "METHODS", {**registry.METHODS, **TINY_METHODS})
    torch.set_num_threads(1)


def script(tmp_path: Path, body: str, code: int = 0) -> None:
    """Run a script with warnings as errors in a process of its own."""
    file = tmp_path / "script.py"
    file.write_text(HEAD.format(here=str(HERE)) + body)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", str(file), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120, check=False)
    assert done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"


def test_a_killed_run_resumes_to_the_same_bits(tmp_path: Path) -> None:
    config = tiny_config(**HARD)
    script(
        tmp_path,
        f"""
class Kill(Silent):
    def on_step(self, step, *others):
        if step == 7:
            os.kill(os.getpid(), signal.SIGKILL)

train(tiny_config(**{HARD!r}), store, SPLIT, out / "killed", runtime=Runtime("cpu"), progress=Kill())
""",
        code=-signal.SIGKILL,
    )
    killed = tmp_path / "killed"
    assert json.loads((killed / "run.json").read_text())["status"] == "training"
    assert json.loads((killed / "checkpoints" / "last" / "state.json").read_text())["step"] == 4
    assert [record["step"] for record in RunFolder.open(killed).records() if "l2" in record][-1] == 7

    store = make_store(tmp_path / "store")
    train(config, store, SPLIT, killed, resume=True, runtime=Runtime("cpu"))
    train(config, store, SPLIT, tmp_path / "whole", runtime=Runtime("cpu"))
    compared = [path.relative_to(killed) for path in sorted(killed.rglob("*.safetensors"))]
    assert len(compared) == 4  # best weights; last weights, average and optimisers
    for path in compared:
        assert (killed / path).read_bytes() == (tmp_path / "whole" / path).read_bytes(), path
    steps = [[(record["step"], record["l2"], record["lr"]) for record in RunFolder.open(run).records() if "l2" in record]
             for run in (killed, tmp_path / "whole")]  # fmt: skip
    assert steps[0] == steps[1] and len(steps[0]) == 12
    validations = [[record["validation"] for record in RunFolder.open(run).records() if "validation" in record]
                   for run in (killed, tmp_path / "whole")]  # fmt: skip
    assert validations[0] == validations[1] and len(validations[0]) == 3


def test_two_processes(tmp_path: Path) -> None:
    """Both ranks hold the same weights; they equal one process with twice the batch; a NaN in one stops both."""
    plain = {"train__steps": 3, "train__lr": 0.01, "train__weight_decay": 0.1, "options__orphan": True, "options__stray": True}
    script(
        tmp_path,
        f"""
import hashlib, synthmr.train.loop as loop

class Spy(loop._Training):
    def _end(self, stopped):
        for kind, module in (("method", self.method), ("average", self.average)):
            if module is not None:
                digest = hashlib.sha256(b"".join(value.numpy().tobytes() for value in module.state_dict().values())).hexdigest()
                say("DIGEST", kind, self.out.name, rank, digest)
        return super()._end(stopped)

loop._Training = Spy
two = Runtime("cpu", devices=2)
result = train(tiny_config(**{plain!r}), store, SPLIT, out / "plain", runtime=two)
say("BEST", rank, result.best, two.worker)
hard = {{**{HARD!r}, "train__steps": 0, "train__minutes": 0.005, "train__patience": 9}}
train(tiny_config(**hard), store, SPLIT, out / "hard", runtime=two)
try:
    train(tiny_config(train__steps=9, options__poison=4, options__poison_rank=1), store, SPLIT, out / "poison", runtime=two)
except DataError as error:
    say("ERROR", rank, error)
""",
    )
    lines = [line.split() for rank in "01" for line in (tmp_path / f"said{rank}").read_text().splitlines()]
    digests = {tuple(line[1:4]): line[4] for line in lines if line[0] == "DIGEST"}
    assert len(digests) == 6
    for kind, run in (("method", "plain"), ("method", "hard"), ("average", "hard")):
        assert digests[kind, run, "0"] == digests[kind, run, "1"]
    best = {line[1]: line[2:] for line in lines if line[0] == "BEST"}
    assert best["0"][0] == best["1"][0] and (best["0"][1], best["1"][1]) == ("False", "True")
    errors = [line for line in lines if line[0] == "ERROR"]
    assert sorted(line[1] for line in errors) == ["0", "1"] and all("step 4." in " ".join(line) for line in errors)
    assert json.loads((tmp_path / "plain" / "run.json").read_text())["processes"] == 2
    assert len(RunFolder.open(tmp_path / "plain").records()) == 3 + 1 + 1  # one process writes

    store = make_store(tmp_path / "store")
    train(tiny_config(**plain, sample__batch=4), store, SPLIT, tmp_path / "one", runtime=Runtime("cpu"))
    two, one = (read_arrays(tmp_path / name / "checkpoints" / "last" / "model.safetensors") for name in ("plain", "one"))
    torch.manual_seed(0)
    start = registry.load("tiny")(tiny_config(**plain).options, ("T1w", "T2w"), ("FLAIR",)).state_dict()
    for name, array in one.items():
        np.testing.assert_allclose(two[name], array, rtol=1e-4, atol=1e-6, err_msg=name)
        # a parameter that no rank uses is left alone, weight decay included
        assert np.array_equal(array, start[name].numpy()) == (name == "orphan"), name
