"""A method, its run and a predictor for tests of what surrounds them: the first source for every target."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from synthmr.batch import Batch, Output
from synthmr.case import PreparedCase
from synthmr.config import PrepareConfig, RunConfig
from synthmr.contrasts import SEGMENTATION
from synthmr.data.split import Split
from synthmr.methods.contract import FittedMethod, Spec
from synthmr.predict.prediction import Prediction
from synthmr.predict.predictor import Predictor
from synthmr.run import LoadedRun, RunFolder

FLAIR = {"name": "percentile", "low": 0.0, "high": 500.0}


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """Nothing to set."""


class First(FittedMethod):
    """Gives its first source for every target; ``spoil`` makes it NaN."""

    spec: ClassVar[Spec] = Spec(name="first", title="for tests", sources=(1, 3), targets=(1, 3))
    Options: ClassVar[type] = NoOptions
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    spoil = False

    def __call__(self, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Output]:
        (given, *_) = (name for name in self.sources if name in batch.images)
        return {name: Output(batch.images[given] * (float("nan") if self.spoil else 1)) for name in wanted or self.targets}


class Subset(First):
    """The same, from any subset of its sources."""

    spec: ClassVar[Spec] = dataclasses.replace(First.spec, any_subset=True)


class Lesions(First):
    """The same, of a method that reads a segmentation: it darkens the lesion."""

    spec: ClassVar[Spec] = dataclasses.replace(First.spec, needs=(SEGMENTATION,))

    def __call__(self, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Output]:
        assert batch.segmentation is not None
        found = super().__call__(batch, wanted)
        return {name: Output(each.mean * (batch.segmentation == 0)) for name, each in found.items()}


class Mapped(First):
    """The same, with maps: ``attention`` is a half everywhere, ``segmentation`` class 3 where the first source is bright."""

    spec: ClassVar[Spec] = dataclasses.replace(First.spec, maps=("attention", SEGMENTATION))

    def check_map(self, name: str) -> None:
        assert name in self.spec.maps

    def map_labels(self, name: str, given: Sequence[str]) -> tuple[str, ...]:
        return tuple(f"{name}-{source}" for source in given)

    def map(self, batch: Batch, name: str) -> dict[str, torch.Tensor]:
        first = batch.images[self.sources[0]]
        if name == SEGMENTATION:
            return {name: torch.cat([first < 0, first < -9, first < -9, first >= 0], dim=1).float()}
        return {f"{name}-{source}": torch.full_like(first, 0.5) for source in self.sources}


def make_run(
    sources: Sequence[str] = ("T1w", "T2w"),
    targets: Sequence[str] = ("FLAIR",),
    kind: type[First] = First,
    run_hash: str = "0123456789ab",
    **info: Any,
) -> LoadedRun:
    """A run of a method for tests; ``info`` goes into ``run.json``."""
    config = RunConfig("first", "fast", tuple(sources), tuple(targets), prepare=PrepareConfig(), options=NoOptions())
    info = {"target_normalizers": dict.fromkeys(targets, FLAIR), "landmarks": {}, **info}
    return LoadedRun(RunFolder(Path("run")), kind(NoOptions(), sources, targets), config, Split((), (), (), "test"), info, run_hash)


class Counted(Predictor):
    """A predictor that notes the cases that it computes."""

    def __init__(self, *words: Any, **more: Any) -> None:
        super().__init__(*words, **more)
        self.calls: list[str] = []

    def __call__(self, prepared: PreparedCase, wanted: Sequence[str] | None = None, maps: Sequence[str] = ()) -> Prediction:
        self.calls.append(prepared.name)
        return super().__call__(prepared, wanted, maps)
