"""Kills a command before, in or after one of its file operations, gives it again, and compares with a run that was not killed.

One process imports everything once and forks one child for each command, so that a trial takes a second. In the child, what
changes files (`open` to write, the first `write`, `fsync`, `mkdir`, `rename`, `replace`, `link`, `unlink`, `rmdir`) is counted, and
the process kills itself (SIGKILL) at the operation that was drawn.

    python tests/kills.py FOLDER SEED COUNT     a JSON line a trial, exit 1 where one differs; COUNT 0: every operation once
"""

from __future__ import annotations

import builtins
import hashlib
import importlib
import io
import json
import os
import random
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

STAGES = ("prepare", "train", "synthesize")
MOMENTS = ("before", "in", "after")
#: what depends on the clock, or on which thread came first: that it is there is enough
LOOSE = (".json", ".jsonl")

TRAIN = (
    "--steps", "4", "--set", "train.validate_every=2", "--set", "sample.batch=2", "--set", "train.ema=0.9", "--set",
    "train.images=false", "--set", "options.norm=true", "--set", "options.dropout=0.3", "--set", "train.lr=0.01",
)  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """One kill: at which operation of which stage, and what was found after the same command was given again."""

    stage: str
    operation: int
    kind: str
    moment: str
    differs: str = ""


class Operations:
    """Counts operations on files below a folder, and kills the process at one of them."""

    def __init__(self, root: Path, at: int = -1, moment: str = "before") -> None:
        self.root, self.at, self.moment = str(root), at, moment
        self.kinds: list[str] = []
        self._lock = threading.Lock()

    def covers(self, path: Any) -> bool:
        """Whether a path lies below the folder."""
        return str(Path(os.fsdecode(path)).absolute()).startswith(self.root)

    def take(self, kind: str, path: Any, work: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        """Do an operation, unless it is that of the kill."""
        if path is not None and not self.covers(path):
            return work()
        with self._lock:
            number = len(self.kinds)
            self.kinds.append(kind)
        if number != self.at:
            return work()
        try:
            if self.moment != "before":
                (half if self.moment == "in" and half is not None else work)()
        finally:  # some fail, and are meant to: a folder that is there
            os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        """Put this in the place of what writes, in `os` and `open`."""
        for kind in ("mkdir", "replace", "rename", "link", "unlink", "remove", "rmdir", "fsync"):
            setattr(os, kind, self._wrapped(kind, getattr(os, kind)))
        plain = io.open

        def opened(file: Any, mode: str = "r", *others: Any, **settings: Any) -> Any:
            if isinstance(file, int) or not set(mode) & set("wax+"):
                return plain(file, mode, *others, **settings)
            stream = self.take("open", file, lambda: plain(file, mode, *others, **settings))
            return Written(stream, self) if self.covers(file) else stream

        io.open = builtins.open = opened  # type: ignore[assignment]

    def _wrapped(self, kind: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *others: Any, **settings: Any) -> Any:
            # a name in an open folder (as rmtree has it) and a file number are taken for ours
            known = None if isinstance(path, int) or settings.get("dir_fd") is not None else path
            return self.take(kind, known, lambda: plain(path, *others, **settings))

        return call


class Written:
    """A file that is open to write."""

    def __init__(self, stream: Any, operations: Operations) -> None:
        self._stream, self._operations, self._begun = stream, operations, False

    def write(self, data: Any) -> Any:
        """The first is an operation; cut in two, its first half arrives. What follows would leave a cut file, too."""
        if self._begun:
            return self._stream.write(data)
        self._begun = True

        def half() -> None:
            self._stream.write(data[: len(data) // 2])
            self._stream.flush()

        def whole() -> Any:
            found = self._stream.write(data)
            self._stream.flush()
            return found

        return self._operations.take("write", None, whole, half)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __enter__(self) -> Written:
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._stream)


def words_of(stage: str, area: Path, cohort: Path) -> list[str]:
    """The command of a stage; with what a user adds who gives it again."""
    contrasts = ["--sources", "T2w", "--target", "FLAIR"]
    if stage == "prepare":
        return ["prepare", str(cohort), *contrasts, "--method", "linear", "--out", str(area / "store")]
    if stage == "train":
        out = area / "run"
        return [
            "train",
            "tiny",
            str(area / "store"),
            *contrasts,
            "--out",
            str(out),
            *TRAIN,
            *(["--resume"] if out.exists() else []),
        ]
    return ["synthesize", str(area / "run"), str(cohort), "--out", str(area / "synth")]


def call(words: Sequence[str], area: Path, at: int = -1, moment: str = "before") -> tuple[int, list[str]]:
    """Give a command in a forked child: its exit code (negative: killed), and the kinds of its operations."""
    notes = area.with_name(area.name + ".notes")
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code:
            return code, []
        kinds, modules = json.loads(notes.read_text())
        for name in modules:  # so that the next child need not
            with suppress(Exception):
                importlib.import_module(name)
        return code, list(kinds)
    code = 70
    try:
        os.environ["SYNTHMR_CACHE"] = str(area / "cache")
        sys.stdout = sys.stderr = open(area.with_name(area.name + ".said"), "a", encoding="utf-8")  # noqa: SIM115
        sys.argv = ["synthmr", "-q", *words]
        operations = Operations(area, at, moment)
        operations.install()
        from synthmr import cli

        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        notes.write_text(json.dumps([operations.kinds, list(sys.modules)]))
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(code)


def seen(area: Path) -> dict[str, str]:
    """What lies below a folder: relative path -> digest of what does not depend on the clock."""
    import numpy as np

    found = {}
    for path in sorted(area.rglob("*")):
        text = ""
        if path.suffix == ".npz":  # its entries have the time of their writing
            with np.load(path) as data:
                text = "".join(hashlib.sha256(np.ascontiguousarray(data[name]).data).hexdigest() for name in sorted(data.files))
        elif path.is_file() and path.suffix not in LOOSE:
            text = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name == "run.json":
            info = json.loads(path.read_text())
            text = json.dumps([info["status"], info["hash"], info["result"]["scores"], info["brightness"]])
        elif path.name == "log.jsonl":
            kept = ("step", "l2", "lr", "validation", "finished")
            records = [json.loads(line) for line in path.read_text().splitlines()]
            text = json.dumps([{key: record[key] for key in kept if key in record} for record in records])
        found[str(path.relative_to(area))] = text
    return found


def difference(found: dict[str, str], expected: dict[str, str]) -> str:
    """Where two folders differ first; empty if nowhere."""
    for word, names in (("left behind", found.keys() - expected.keys()), ("lost", expected.keys() - found.keys())):
        if names:
            return f"{word}: {', '.join(sorted(names)[:3])}"
    return next((f"other content: {name}" for name in expected if found[name] != expected[name]), "")


class Bench:
    """A cohort, and for each stage what it starts from and what it gives without a kill."""

    def __init__(self, root: Path) -> None:
        from experiment_data import make_cohort

        self.root = root
        parts = {"P01": "train", "P02": "train", "P03": "train", "P04": "validation"}
        self.cohort = make_cohort(root / "cohort", len(parts), splits=parts)
        self.start: dict[str, Path] = {}
        self.whole: dict[str, dict[str, str]] = {}
        self.kinds: dict[str, list[str]] = {}
        before = root / "empty"
        before.mkdir()
        for stage in STAGES:
            area = root / "area"
            self.start[stage] = before
            shutil.copytree(before, area)
            code, self.kinds[stage] = call(words_of(stage, area, self.cohort), area)
            assert code == 0, self.said()
            self.whole[stage] = seen(area)
            before = root / f"after-{stage}"
            area.rename(before)

    def said(self) -> str:
        """What the commands said."""
        return (self.root / "area.said").read_text(encoding="utf-8")

    def trial(self, stage: str, operation: int, moment: str) -> Trial:
        """Kill, give the same command again, compare."""
        area = self.root / "area"
        shutil.copytree(self.start[stage], area)
        try:
            code, _ = call(words_of(stage, area, self.cohort), area, operation, moment)
            differs = "" if code == -signal.SIGKILL else f"exit {code} where a kill was due"
            if not differs and moment != "before" and operation == len(self.kinds[stage]) - 1:
                # it had ended: the same command would rightly say so
                return Trial(stage, operation, self.kinds[stage][operation], moment, difference(seen(area), self.whole[stage]))
            if not differs:
                code, _ = call(words_of(stage, area, self.cohort), area)
                differs = (
                    difference(seen(area), self.whole[stage])
                    if code == 0
                    else f"exit {code} when given again: {self.said()[-200:]}"
                )
            return Trial(stage, operation, self.kinds[stage][operation], moment, differs)
        finally:
            shutil.rmtree(area)


def trials(bench: Bench, seed: int, count: int) -> Iterator[Trial]:
    """As many kills as asked for, drawn by seed; with 0, every operation once: a `write` in its middle, others before."""
    if count:
        draw = random.Random(seed)
        for number in range(count):
            stage = STAGES[number % 5] if number % 5 < 3 else "train"
            yield bench.trial(stage, draw.randrange(len(bench.kinds[stage])), MOMENTS[number % 3])
        return
    for stage in STAGES:
        for operation, kind in enumerate(bench.kinds[stage]):
            yield bench.trial(stage, operation, "in" if kind == "write" else "before")
        yield bench.trial(stage, len(bench.kinds[stage]) - 1, "after")


def main(root: Path, seed: int, count: int) -> int:
    """Print a JSON line a trial; 1 where one differs."""
    sys.path.insert(0, str(Path(__file__).parent))
    import torch

    from synthmr.methods import registry
    from tiny_run import TINY_METHODS

    torch.set_num_threads(1)
    registry.METHODS = {**registry.METHODS, **TINY_METHODS}
    root.mkdir(parents=True, exist_ok=True)
    bad = 0
    for trial in trials(Bench(root.resolve()), seed, count):
        print(json.dumps(asdict(trial)), flush=True)
        bad += bool(trial.differs)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
