"""A cohort of tiny brains, tables over it, and what the stages show while they work, for tests of experiments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from helpers import blob_brain, write_case
from synthmr import pipeline
from synthmr.config import RunConfig
from synthmr.experiment.spec import Experiment, parse

#: case -> part of its split
PARTS = {"P01": "train", "P02": "train", "P03": "train", "P04": "validation", "P05": "test", "P06": "test"}
#: a network that trains in a second; a checkpoint after every step
SMALL = (
    "options.filters=4",
    "sample.batch=2",
    "train.images=false",
    "train.precision=32",
    "train.validate_every=1",
)


def make_cohort(
    root: Path,
    subjects: int = 6,
    lacking: Mapping[str, Sequence[str]] | None = None,
    splits: Mapping[str, str] | None = None,
    sessions: int = 1,
    labels: bool = False,
) -> Path:
    """Write ``P01/T1w.nii.gz`` and so on (``P01/visit1/`` with sessions): T1w, T2w, T1ce, and FLAIR, which is a function of T1w and
    T2w and a little of T1ce, with noise.

    Args:
        root: folder.
        subjects: how many.
        lacking: case -> contrasts that it does not have.
        splits: case -> part, for a splits.tsv.
        sessions: of each subject.
        labels: write a lesion as well.
    """
    for person in range(1, subjects + 1):
        for session in range(1, sessions + 1):
            seed = 10 * person + session
            t1, t2, t1ce = (blob_brain((24, 28, 8), 1000 * k + seed) for k in (1, 2, 3))
            noise = np.random.default_rng(seed).normal(0, 3, t1.shape)
            flair = np.where(t1 > 0, np.clip(0.7 * t2 - 0.2 * t1 + 0.2 * t1ce + 40 + noise, 1, None), 0).astype(np.float32)
            arrays = {"T1w": t1, "T2w": t2, "T1ce": t1ce, "FLAIR": flair}
            if labels:
                arrays["seg"] = np.where(t1 > np.quantile(t1[t1 > 0], 0.8), 1, 0)
            name = f"P{person:02}"
            for contrast in (lacking or {}).get(name, ()):
                del arrays[contrast]
            write_case(root / name / f"visit{session}" if sessions > 1 else root / name, arrays)
    if splits:
        (root / "splits.tsv").write_text("case\tsplit\n" + "".join(f"{name}\t{part}\n" for name, part in splits.items()))
    return root


def config(method: str = "linear", sources: str = "T1w,T2w", target: str = "FLAIR", *settings: str, **more: Any) -> RunConfig:
    """A configuration; networks get the `SMALL` settings."""
    if method in ("copy", "linear"):
        return pipeline.configure(method, sources, target, settings=["train.images=false", *settings], **more)
    return pipeline.configure(method, sources, target, settings=[*SMALL, *settings], **{"budget": {"steps": 2}, **more})


def table(*rows: Mapping[str, Any], **more: Any) -> Experiment:
    """An experiment; rows are linear T1w, T2w -> FLAIR unless they say otherwise."""
    data: dict[str, Any] = {
        "paper": "hinet",
        "item": "Table X",
        "title": "for tests",
        "data": "none",
        "protocol": "masked-volume",
        "metrics": ["psnr", "mae"],
        "method": "linear",
        "sources": ["T1w", "T2w"],
        "target": "FLAIR",
        "set": ["train.images=false"],
        "rows": list(rows),
    }
    return parse("own", {**data, **more})


class Live:
    """What a training tells; it can interrupt it as Ctrl-C does."""

    def __init__(self, stop_at: int = 0) -> None:
        self.stop_at = stop_at
        self.steps: list[int] = []

    def on_step(self, step: int, *_: Any) -> None:
        self.steps.append(step)
        if step == self.stop_at:
            raise KeyboardInterrupt

    def on_validation(self, step: int, *_: Any) -> None:
        pass

    def on_message(self, text: str) -> None:
        pass


@dataclass
class Watch:
    """The three callbacks of the stages, which keep what they are told.

    Attributes:
        said: lines.
        shown: titles of preparing and scoring.
        trained: titles of trainings.
        live: of all trainings.
    """

    said: list[str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    trained: list[str] = field(default_factory=list)
    live: Live = field(default_factory=Live)

    @property
    def words(self) -> dict[str, Any]:
        """As arguments."""
        return {"show": self.show, "train_show": self.train_show, "say": self.said.append}

    @contextmanager
    def show(self, title: str) -> Iterator[Any]:
        self.shown.append(title)
        yield None

    @contextmanager
    def train_show(self, title: str) -> Iterator[Live]:
        self.trained.append(title)
        yield self.live


def one_line(error: BaseException) -> str:
    """The message, which must be one line."""
    text = str(error)
    assert text and "\n" not in text
    return text
