"""A cell: one configuration on one split, trained once, scored under one protocol or more. What is finished is kept.

FOLDER/run/              the run folder of `synthmr train`
FOLDER/extended/         that of `synthmr extend`, where the cell has one
FOLDER/scores-HASH.csv   scores, one file for each way of scoring (inputs, plane, protocols, part)
FOLDER/lock              while a process works here: several may share one experiment
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthmr import pipeline
from synthmr.config import RunConfig, config_hash
from synthmr.data.split import Split
from synthmr.errors import DataError
from synthmr.labels import AUTO, describe
from synthmr.reading import Reading

if TYPE_CHECKING:
    from synthmr.evaluate.scores import Score
    from synthmr.pipeline.gate import Gate

#: ``shown("train fold 1")`` -> a context that gives what a stage tells its progress to
Shown = Callable[[str], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Cell:
    """What is trained.

    Attributes:
        config: the run.
        split: None: the data's own, or one by the configuration's seed.
        extend: a target that is added afterwards; empty: none.
        budget: of the extension, as in `pipeline.configure`.
    """

    config: RunConfig
    split: Split | None = None
    extend: str = ""
    budget: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Scoring:
    """How a trained cell is scored.

    Attributes:
        protocols: names.
        part: train, validation, test, held-out or all.
        inputs: contrasts that it is given; none: all.
        plane: of the slices; empty: as in training.
    """

    protocols: tuple[str, ...]
    part: str = "test"
    inputs: tuple[str, ...] = ()
    plane: str = ""


#: seconds after which a lock without a word in it is taken for what a crash left, not for one that is just being written
GRACE = 10.0


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold a folder; False where another living process holds it.

    A lock whose process is gone from this machine is taken over; one of another machine is respected until its file is deleted.

    Raises:
        DataError: the folder cannot be written.
    """
    from synthmr.io.files import write_error

    path = folder / "lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = _take(path)
    except OSError as error:
        raise write_error(path, error) from None
    if not taken:
        yield False
        return
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)


def busy_words(folder: Path) -> str:
    """What to do about a folder that another process holds."""
    return (
        "another process is at work on it; run the same command again when it is done, or, if you know that there is none, delete"
        f" {folder / 'lock'}"
    )


def _take(path: Path) -> bool:
    """Write a lock; False where another living process has."""
    for _ in range(2):
        try:
            with open(path, "x", encoding="utf-8") as stream:
                stream.write(f"{socket.gethostname()} {os.getpid()}")
            return True
        except FileExistsError:
            with suppress(FileNotFoundError):  # its process may end at any moment
                text = path.read_text(encoding="utf-8", errors="replace")
                if _held(text, time.time() - path.stat().st_mtime):
                    return False
                _clear(path, text)
    return False


def _clear(path: Path, text: str) -> None:
    """Remove the lock of a process that is gone, unless another process has replaced it by its own since it was read."""
    aside = path.with_name(f"lock-{os.getpid()}")
    path.rename(aside)
    if aside.read_text(encoding="utf-8", errors="replace") == text:
        aside.unlink()
    else:
        aside.rename(path)


def _held(text: str, age: float) -> bool:
    """Whether the process that wrote a lock's text, so many seconds ago, may still be alive."""
    host, _, word = text.partition(" ")
    if not text:
        return age < GRACE
    if host != socket.gethostname() or os.name == "nt":  # where a process cannot be asked without harm
        return True
    try:
        pid = int(word)
        if pid < 1 or pid == os.getpid():
            return False
        os.kill(pid, 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except OSError:
        return True
    return True


def trained(path: Path) -> bool:
    """Whether a run folder is finished."""
    from synthmr.run import RunFolder

    if not (path / "run.json").is_file():
        return False
    return RunFolder.open(path).info.get("status") == "finished"


def train_cell(
    cell: Cell,
    data: Path,
    folder: Path,
    *,
    title: str,
    show: Shown,
    train_show: Shown,
    reading: Reading | None = None,
    cache: Path | None = None,
    gate: Gate | None = None,
) -> Path:
    """Train a cell unless it is trained, resuming what was interrupted; the run folder that is to be scored.

    The run records what ``gate`` found.

    Raises:
        DataError: the cell was trained on another split, and what the stages raise.
    """
    run = folder / "run"
    if trained(run):
        _check_split(run, cell.split)
    else:
        with show(f"prepare {title}") as tick:
            store, split = pipeline.prepared(data, cell.config, reading, cache=cache, progress=tick, split=cell.split)
        with train_show(title) as live:
            resume = _resumable(run, cell.config.method_word)
            pipeline.train(cell.config, store, split, run, resume=resume, progress=live, data=data, gate=gate)
    if not cell.extend:
        return run
    extended = folder / "extended"
    if not trained(extended):
        words: dict[str, Any] = {"add_targets": cell.extend, "budget": cell.budget, "cache": cache}
        # the run's own split, whatever split the data bring: what this cell holds out stays held out
        words["reading"] = (reading or Reading()).with_split(run / "split.tsv")
        with show(f"prepare {title}") as tick:
            config, store, split, loaded = pipeline.extension(run, data, tick=tick, **words)
        with train_show(f"{title}, {cell.extend} added") as live:
            resume = _resumable(extended, config.method_word)
            pipeline.train(config, store, split, extended, resume=resume, progress=live, extends=loaded, data=data)
    return extended


def _resumable(run: Path, method: str) -> bool:
    """Whether an unfinished run can go on. What a kill left of one that cannot is removed: it holds no training."""
    from synthmr.methods import registry

    if not run.exists():
        return False
    steps = registry.load(method).trains_in_steps
    if steps and ((run / "run.json").is_file() or (run / "checkpoints").exists()):
        return True
    shutil.rmtree(run)
    return False


def _check_split(run: Path, split: Split | None) -> None:
    """Check that a finished run was trained on the split that is asked for now.

    Raises:
        DataError: it was not; its scores would not be of the cases that are tested.
    """
    from synthmr.run import RunFolder

    if split is None:
        return
    kept = RunFolder.open(run).split
    for part in ("train", "validation", "test"):
        if set(kept.part(part)) != set(split.part(part)):
            raise DataError(
                f"{run} was trained on another split: its {part} cases are not those of {split.source}; put the split back, or give"
                " another --out."
            )


def score_cell(
    run: Path,
    data: Path,
    folder: Path,
    scoring: Scoring,
    *,
    reading: Reading | None = None,
    tick: Any = None,
    device: str = "auto",
    keep: bool = True,
    labels: str = AUTO,
    say: Callable[[str], None] | None = None,
) -> list[Score]:
    """Scores of a trained cell, computed once; ``device``, ``keep`` and ``labels`` as of `pipeline.evaluate`.

    ``say`` is told how segmentations were read, where scores depend on it.

    Raises:
        DataError: a case cannot be scored: rows of a table are of the same cases.
    """
    from synthmr.evaluate.protocols import get_protocols
    from synthmr.evaluate.scores import label_lines, read_scores, write_scores

    # a protocol's numbers are kept under what it says, not what it is called
    protocols = get_protocols(scoring.protocols)
    named = [] if labels == AUTO else [describe(labels)]
    path = folder / f"scores-{config_hash([scoring, protocols, *named])}.csv"
    if path.is_file():
        return read_scores(path)
    settings = pipeline.predict_settings(plane=scoring.plane)
    how: dict[str, Any] = {"progress": tick, "inputs": scoring.inputs, "device": device, "keep": keep, "strict": True}
    found = pipeline.evaluate([run], data, scoring.part, scoring.protocols, settings, reading, labels=labels, **how)
    if say is not None:
        for line in label_lines(found.labels):
            say(f"segmentations: {line}")
    write_scores(path, found.rows)
    return found.rows


def cell_name(cell: Cell) -> str:
    """Folder name of a cell, apart from its split: method and what makes it differ from others."""
    return f"{cell.config.method}-{config_hash([cell.config, cell.extend, cell.budget or {}], 8)}"
