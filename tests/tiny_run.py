"""A cohort of a few small slices, a network of a few weights and two-line settings, for tests of training and run folders."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from stored import reader_of, store_case, store_of
from synthmr.batch import Batch, Output
from synthmr.config import RunConfig, from_dict, nest
from synthmr.data.split import Split
from synthmr.data.store import Store
from synthmr.methods.contract import NeuralMethod, Spec, Update, check_wanted

SOURCES, TARGETS = ("T1w", "T2w"), ("FLAIR",)
SPLIT = Split(("a", "b", "c"), ("d",), ("e",), "test")

#: what a registry must hold: ``monkeypatch.setattr(registry, "METHODS", {**registry.METHODS, **TINY_METHODS})``
TINY_METHODS = {"tiny": "tiny_run:Tiny"}


def make_store(root: Path, cases: Sequence[str] = SPLIT.names, shape: tuple[int, int, int] = (6, 12, 8)) -> Store:
    """Store cases of slices ``shape`` whose FLAIR is a fixed smooth function of T1w and T2w; -1 outside a box of brain."""
    rng = np.random.default_rng(5)
    stored = {}
    for number, name in enumerate(cases, start=1):
        mask = np.zeros(shape, bool)
        mask[:, 2:-2, 1:-1] = True
        arrays: dict[str, np.ndarray] = {key: np.where(mask, rng.uniform(-0.9, 0.9, shape), -1) for key in SOURCES}
        arrays["FLAIR"] = np.where(mask, 0.6 * arrays["T2w"] - 0.3 * arrays["T1w"], -1)
        stored[name] = store_case(root, name, arrays, mask, highs=dict.fromkeys(arrays, 10_000.0 + number))
    return store_of(stored, SPLIT)


@dataclass(frozen=True)
class TinyOptions:
    """Switches of `Tiny`.

    Attributes:
        norm: batch normalisation.
        dropout: probability.
        gan: a second group of parameters.
        poison: the loss is NaN at this call of ``step``, 0 never.
        poison_rank: only in this process.
        orphan: a parameter that no loss uses.
        stray: each process starts from other weights.
    """

    norm: bool = False
    dropout: float = 0.0
    gan: bool = False
    poison: int = 0
    poison_rank: int = 0
    orphan: bool = False
    stray: bool = False


class Tiny(NeuralMethod):
    """Two convolutions."""

    spec: ClassVar[Spec] = Spec(name="tiny", title="for tests", sources=(1, 2), divisor=4)
    Options: ClassVar[type] = TinyOptions
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {}, "fast": {}}

    def __init__(self, options: TinyOptions, sources: Sequence[str], targets: Sequence[str]) -> None:
        super().__init__(options, sources, targets)
        norm = nn.BatchNorm2d(4) if options.norm else nn.Identity()
        self.net = nn.Sequential(
            nn.Conv2d(len(sources), 4, 3, padding=1), norm, nn.LeakyReLU(0.2), nn.Dropout(options.dropout), nn.Conv2d(4, 1, 1)
        )
        self.judge = nn.Conv2d(1, 1, 3, stride=2) if options.gan else None
        self.orphan = nn.Parameter(torch.ones(3)) if options.orphan else None
        self.calls = 0
        if options.stray:
            nn.init.constant_(self.net[0].bias, float(os.environ.get("LOCAL_RANK", "0")))

    def groups(self) -> dict[str, list[nn.Parameter]]:
        groups = {"G": list(self.net.parameters())}
        if self.orphan is not None:
            groups["G"].append(self.orphan)
        if self.judge is not None:
            groups["D"] = list(self.judge.parameters())
        return groups

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        self.calls += 1
        truth, fake = batch.images[self.targets[0]], self.net(batch.stack(self.sources)).float()
        loss = (fake - truth).square().mean()
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        if self.calls == self.options.poison and rank == self.options.poison_rank:
            loss = loss * float("nan")
        logs = {"l2": loss}
        if self.judge is not None:
            logs["D"] = self.judge(truth).float().mean() - self.judge(fake.detach()).float().mean()
            update("D", logs["D"])
            loss = loss + 0.01 * self.judge(fake).float().square().mean()
        update("G", loss)
        return logs

    def forward(self, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Output]:
        sources, targets = check_wanted(self, batch, wanted)
        return {name: Output(self.net(batch.stack(sources)).float()) for name in targets}


def tiny_config(method: str = "tiny", **settings: Any) -> RunConfig:
    """A configuration; ``train__steps=3`` sets ``train.steps``."""
    base = {
        "sample.batch": 2,
        "train.steps": 6,
        "train.lr": 1e-2,
        "train.validate_every": 3,
        "train.precision": "32",
        "train.images": False,
    }
    data = nest({**base, **{key.replace("__", "."): value for key, value in settings.items()}})
    from synthmr.methods import registry

    options = data.pop("options", {})
    kind = registry.load(method).Options
    head = {"method": method, "preset": "fast", "sources": SOURCES, "targets": TARGETS, "options": from_dict(kind, options)}
    return from_dict(RunConfig, {**data, **head})


def batch_of(store: Store, name: str = "a") -> Batch:
    """All slices of a case."""
    from synthmr.data.sampling import case_batch

    return case_batch(reader_of(store, SOURCES, TARGETS), name, (*SOURCES, *TARGETS), 4)
