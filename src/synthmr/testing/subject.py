"""What the checks work on: random batches, and a method class with options that make it small."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor, nn

from synthmr.batch import Batch, Output
from synthmr.errors import UsageError
from synthmr.train.runtime import Runtime, Updater

#: names that the checks give to sources and targets
SOURCES = ("T1w", "T2w", "PDw", "T1ce", "DWI", "ADC", "SWI", "MRA", *(f"S{number}" for number in range(9, 33)))
TARGETS = ("FLAIR", "T2star", *(f"T{number}" for number in range(3, 33)))
#: spatial size of the images, by dimensions
SIZES: Mapping[int, tuple[int, ...]] = {2: (48, 64), 3: (16, 32, 48)}
#: options that make a network small, where it has them
TINY: Mapping[str, Any] = {"filters": 4, "discriminator_filters": 4}
#: options that change what a method can do: where a method has them, the checks are run with each as well
VARIANTS: tuple[Mapping[str, Any], ...] = ({"dims": 2}, {"dims": 3}, {"neighbours": 1}, {"any_subset": True})
#: batches of the little training that most checks start from
STEPS = 16


def claim(holds: Any, sentence: str) -> None:
    """Raise an AssertionError unless something holds; unlike ``assert`` it stays under ``python -O``."""
    if not bool(holds):
        raise AssertionError(sentence)


@contextmanager
def refused(words: Sequence[str], what: str, kind: type[Exception] = UsageError) -> Iterator[None]:
    """Claim that the block raises an error of one line that holds all the words."""
    try:
        yield
    except kind as error:
        text = str(error)
        claim("\n" not in text, f"{what} is refused in several lines; errors are one line")
        for word in words:
            claim(word in text, f"{what} is refused without the word {word!r}: {text!r} (check_wanted words it)")
    else:
        raise AssertionError(f"{what} is not refused; call check_wanted(self, batch, wanted) first")


# --- data -----------------------------------------------------------------------------------------------------------------


def smooth(count: int, channels: int, size: Sequence[int], generator: torch.Generator) -> Tensor:
    """``(count, channels, *size)`` smooth random images in [-1, 1]."""
    coarse = torch.randn(count, channels, *(max(1, edge // 8) for edge in size), generator=generator)
    mode = "bilinear" if len(size) == 2 else "trilinear"
    return torch.tanh(nn.functional.interpolate(coarse, size=tuple(size), mode=mode, align_corners=False))


def make_batch(
    sources: Sequence[str],
    targets: Sequence[str],
    count: int = 3,
    seed: int = 0,
    size: Sequence[int] = SIZES[2],
    channels: int = 1,
) -> Batch:
    """Smooth sources; each target a smooth function of the first two of them that neither determines alone.

    Args:
        sources: contrasts of smooth noise.
        targets: contrasts that depend on the sources; one that is a source too keeps its own image.
        count: samples B.
        seed: of the noise.
        size: spatial size.
        channels: slices C of each contrast.
    """
    generator = torch.Generator().manual_seed(seed)
    images = {name: smooth(count, channels, size, generator) for name in sources}
    a, b = images[sources[0]], images[sources[1 if len(sources) > 1 else 0]]
    for index, name in enumerate(targets):
        images.setdefault(name, torch.tanh(1.5 * a * b + 0.6 * a - 0.4 * (1 + index) * b))
    return Batch(
        images,
        mask=torch.ones(count, 1, *size, dtype=torch.bool),
        coords=torch.rand(count, 3, generator=generator),
        segmentation=torch.zeros(count, 1, *size, dtype=torch.int64),
    )


def hide(batch: Batch, contrast: str, samples: Sequence[int] | None = None, absent: bool = False) -> Batch:
    """A batch in which a contrast is not shown in some samples (default: all), or, with ``absent``, is not there."""
    flag = torch.ones(batch.size, dtype=torch.bool)
    flag[list(range(batch.size)) if samples is None else list(samples)] = False
    if not absent:
        return dataclasses.replace(batch, shown={**batch.shown, contrast: flag})
    image = batch.images[contrast]
    kept = torch.where(flag.view(-1, *(1,) * (image.dim() - 1)), image, torch.zeros_like(image))
    return dataclasses.replace(batch, images={**batch.images, contrast: kept}, present={**batch.present, contrast: flag})


# --- the class that is checked, with options that make it small -----------------------------------------------------------


class Subject:
    """A method class with the options that it is checked with.

    Args:
        kind: a class that follows `synthmr.methods.contract`.
        chosen: options beside those that make it small.

    Attributes:
        name: of the method, with the options that were chosen.
        traits: what the options make of it.
    """

    def __init__(self, kind: Any, **chosen: Any) -> None:
        self.kind, self.spec, self.chosen = kind, kind.spec, chosen
        self.known = {field.name for field in dataclasses.fields(kind.Options)}
        self.name = "-".join([kind.spec.name, *(f"{key}={value}" for key, value in chosen.items())])
        self.traits = kind.traits(self.options())
        own = kind.spec
        self.sources = SOURCES[: max(own.sources[0], min(2, own.sources[1]))]
        self.targets = TARGETS[: max(own.targets[0], min(2, own.targets[1]))]
        self.size = tuple(-(-edge // own.divisor) * own.divisor for edge in SIZES.get(self.traits.dims, SIZES[2]))

    def options(self, **more: Any) -> Any:
        """Options of a tiny method."""
        tiny = {key: value for key, value in TINY.items() if key in self.known}
        return self.kind.Options(**{**tiny, **self.chosen, **more})

    def make(self, seed: int = 0, sources: Sequence[str] = (), targets: Sequence[str] = (), **options: Any) -> Any:
        """A fresh tiny method."""
        torch.manual_seed(seed)
        return self.kind(self.options(**options), sources or self.sources, targets or self.targets)

    def batch(self, sources: Sequence[str] = (), targets: Sequence[str] | None = None, **more: Any) -> Batch:
        """A batch of the shape that the method works on; sources and targets by default those of `make`."""
        given = {"size": self.size, "channels": 2 * self.traits.neighbours + 1, **more}
        return make_batch(sources or self.sources, self.targets if targets is None else targets, **given)

    @cached_property
    def trained(self) -> Any:
        """A method after a little training. Read only."""
        # until the running statistics of a deep network have followed its weights, its output is all but constant
        return learn(self.make(), [self.batch(seed=seed) for seed in range(STEPS)], lr=2e-3)


def subjects_of(kind: Any) -> list[Subject]:
    """A class with its default options, and with each of `VARIANTS` that makes something else of it."""
    found = [Subject(kind)]
    for variant in VARIANTS:
        if set(variant) <= found[0].known:
            other = Subject(kind, **variant)
            if other.traits not in [each.traits for each in found]:
                found.append(other)
    return found


@cache
def _fabric() -> Any:
    return Runtime("cpu").fabric()


def updater(method: Any, lr: float = 2e-4) -> Updater:
    """The update that training uses, with plain Adam."""
    groups = method.groups()
    optimizers: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.Adam(params, lr, (0.5, 0.999)) for name, params in groups.items()
    }
    return Updater(_fabric(), groups, optimizers, 0.0)


def learn(method: Any, batches: Sequence[Batch], seed: int = 0, lr: float = 2e-4) -> Any:
    """Fit, or take one step a batch; returns the method, ready to predict."""
    if not method.trains_in_steps:
        method.fit(lambda: iter(batches), seed)
        return method
    update = updater(method, lr)
    method.train()
    for batch in batches:
        method.step(batch, update)
    return method.eval()


def outputs(method: Any, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Output]:
    """What a method predicts."""
    with torch.no_grad():
        found: dict[str, Output] = method(batch, wanted)
    claim(isinstance(found, dict), f"the prediction is a {type(found).__name__}; it must be a dictionary: contrast -> Output")
    for name, each in found.items():
        claim(isinstance(each, Output), f"the prediction of {name} is a {type(each).__name__}; it must be an Output")
    return found


def call(method: Any, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Tensor]:
    """What a method predicts: contrast -> mean."""
    return {name: each.mean for name, each in outputs(method, batch, wanted).items()}


def equal(one: Mapping[str, Tensor], two: Mapping[str, Tensor], exact: bool = True) -> bool:
    """Whether two predictions are the same, to the bit or within rounding."""
    close = torch.equal if exact else lambda a, b: torch.allclose(a, b, rtol=1e-4, atol=1e-5)
    return one.keys() == two.keys() and all(one[name].shape == two[name].shape and close(one[name], two[name]) for name in one)
