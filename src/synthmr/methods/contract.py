"""What a method is: `Spec` says what it can do, `synthmr.batch.Batch` is all that it sees, two base classes say what it implements.

A paper that is a network subclasses `NeuralMethod`: networks, `groups`, `step`, `forward`. A method that is no network
(copy, linear) subclasses `FittedMethod`: `fit`, `forward`, `state`, `load_state`. Both are called the same way
afterwards: ``method(batch, wanted) -> {contrast: (B, 1, H, W)}``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from torch import Tensor, nn

from synthmr.batch import Batch
from synthmr.config import SampleConfig
from synthmr.errors import UsageError


@dataclass(frozen=True)
class Spec:
    """The capabilities of a method, as plain data.

    Attributes:
        name: as typed on the command line.
        title: one line for the capability table.
        paper: authors, venue, year; empty for a baseline of our own.
        doi: of the paper, or empty.
        supervision: paired, unpaired or either.
        sources: (fewest, most) input contrasts.
        targets: (fewest, most) output contrasts.
        any_subset: runs with any non-empty subset of the sources it was trained with.
        dims: spatial dimensions it can work in.
        outputs: what comes out: image (of the target contrasts), labels or map.
        needs: inputs beside the sources, of mask, coords, segmentation.
        divisor: spatial sizes must be multiples of this; inference pads and crops.
        output_range: (low, high) that the output cannot leave (tanh: (-1, 1)), or None.
        maps: maps that can be asked for beside the images; see `NeuralMethod.map`.
    """

    name: str
    title: str
    paper: str = ""
    doi: str = ""
    supervision: str = "paired"
    sources: tuple[int, int] = (1, 8)
    targets: tuple[int, int] = (1, 1)
    any_subset: bool = False
    dims: tuple[int, ...] = (2,)
    outputs: str = "image"
    needs: tuple[str, ...] = ()
    divisor: int = 1
    output_range: tuple[float, float] | None = None
    maps: tuple[str, ...] = ()


class Update(Protocol):
    """``update(group, loss)``: zero that group's gradients, back-propagate into its parameters alone, clip, step.

    Groups that share one loss are updated together, in one backward pass: ``update(("G", "S"), loss)``.
    """

    def __call__(self, group: str | tuple[str, ...], loss: Tensor) -> None: ...


class Method(Protocol):
    """What training, inference and evaluation call; `NeuralMethod` and `FittedMethod` provide it."""

    spec: ClassVar[Spec]
    Options: ClassVar[type]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]]
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    options: Any

    @property
    def needs(self) -> tuple[str, ...]: ...

    def __call__(self, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Tensor]: ...


class NeuralMethod(nn.Module):
    """Base of the methods that are networks.

    Class attributes:
        spec: the capabilities.
        Options: frozen dataclass, the method's own configuration; every field has a default.
        presets: preset name -> flat overrides, ``{"train.lr": 2e-4, "options.filters": 32, "sample.mode": "tiles"}``.
            Every network has ``paper`` (the paper's exact settings) and ``fast`` (for a CPU).

    Attributes:
        progress: share of the training that is done, in [0, 1); the loop sets it before each step.
    """

    spec: ClassVar[Spec]
    Options: ClassVar[type]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]]
    progress: float = 1.0

    def __init__(self, options: Any, sources: Sequence[str], targets: Sequence[str]) -> None:
        super().__init__()
        self.options = options
        self.sources = tuple(sources)
        self.targets = tuple(targets)

    @property
    def needs(self) -> tuple[str, ...]:
        """Extra inputs of this very network, of mask, coords, segmentation; some depend on the options."""
        return self.spec.needs

    def check_data(self, labels: Iterable[int] | None) -> list[str]:
        """Check, before training, that the data have what the options ask for.

        Args:
            labels: those that occur in the training cases' segmentations; None if a case has none.

        Returns:
            Sentences for the user: what is left out, and why.

        Raises:
            UsageError: the options cannot be met.
        """
        if "segmentation" in self.needs and labels is None:
            raise UsageError(
                f"{self.spec.name} is asked to use segmentations and some training or validation cases have none;"
                " add them, or leave that option out."
            )
        return []

    @property
    def keeps_last(self) -> bool:
        """Whether each validation's weights replace those before, whatever their score: for objectives that PSNR does not see."""
        return False

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameter groups; each gets an optimiser of its own. Every trainable parameter is in exactly one."""
        return {"G": list(self.parameters())}

    def optimizer_overrides(self) -> dict[str, dict[str, Any]]:
        """What a group's optimiser does differently from `TrainConfig`: group -> ``rate`` (a factor of the learning rate),
        ``betas``, ``weight_decay``."""
        return {}

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """One training step, in the order of the paper. Returns scalars to log, detached: no graph outlives its step."""
        raise TypeError(f"{type(self).__name__} must define step(batch, update)")

    def forward(self, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Predict ``wanted`` (default: all targets) from the sources in ``batch``: contrast -> ``(B, 1, H, W)``."""
        raise TypeError(f"{type(self).__name__} must define forward(batch, wanted)")

    def check_map(self, name: str) -> None:
        """Check that this very network can give a map.

        Raises:
            UsageError: it cannot.
        """
        if name not in self.spec.maps:
            raise UsageError(f"{self.spec.name} gives no map {name!r}; it gives {', '.join(self.spec.maps) or 'none'}.")

    def map_labels(self, name: str, given: Sequence[str]) -> tuple[str, ...]:
        """What the parts of a map are called: ``name-source`` for each source given, unless a method says otherwise."""
        return tuple(f"{name}-{source}" for source in given)

    def map(self, batch: Batch, name: str) -> dict[str, Tensor]:
        """A map that the method can give beside the images: label of `map_labels` -> ``(B, 1, H, W)`` float32.

        ``segmentation`` is one entry of that name, ``(B, classes, H, W)`` probabilities.

        Raises:
            UsageError: this network cannot give it.
        """
        self.check_map(name)
        raise TypeError(f"{type(self).__name__} names {name} in spec.maps and must define map(batch, name)")


class FittedMethod:
    """Base of the methods that are fitted in closed form. Same class attributes as `NeuralMethod`."""

    spec: ClassVar[Spec]
    Options: ClassVar[type]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]]

    def __init__(self, options: Any, sources: Sequence[str], targets: Sequence[str]) -> None:
        self.options = options
        self.sources = tuple(sources)
        self.targets = tuple(targets)

    @property
    def needs(self) -> tuple[str, ...]:
        """Extra inputs, of mask, coords, segmentation."""
        return self.spec.needs

    def fit(self, cases: Callable[[], Iterable[Batch]], seed: int) -> dict[str, float]:
        """Fit. ``cases()`` yields one Batch a training case, all its brain slices stacked, mask present; it may be
        called again for another pass. Returns scalars to log."""
        raise TypeError(f"{type(self).__name__} must define fit(cases, seed)")

    def state(self) -> dict[str, np.ndarray]:
        """What `fit` learnt, as named arrays."""
        raise TypeError(f"{type(self).__name__} must define state()")

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Inverse of `state`."""
        raise TypeError(f"{type(self).__name__} must define load_state(state)")

    def __call__(self, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Predict, like `NeuralMethod.forward`."""
        raise TypeError(f"{type(self).__name__} must define __call__(batch, wanted)")


def is_paired(spec: Spec, sample: SampleConfig) -> bool:
    """Whether training sees the truth of its own sources: always, never, or as ``sample.paired`` says.

    Methods that can do either train unpaired unless they are told otherwise: that is what they are for.

    Raises:
        UsageError: the method cannot do what ``sample.paired`` says.
    """
    if sample.paired == "auto":
        return spec.supervision == "paired"
    if spec.supervision not in ("either", "paired" if sample.paired == "on" else "unpaired"):
        other = "imt, milr or hinet train paired" if sample.paired == "on" else "cut, cyclegan and mafnet train unpaired"
        raise UsageError(f"sample.paired={sample.paired}: {spec.name} trains {spec.supervision} only; {other}.")
    return sample.paired == "on"


def check_request(
    spec: Spec,
    sources: Sequence[str],
    targets: Sequence[str],
    output_range: tuple[float, float] | None,
    serving: Callable[[int, int], Sequence[str]] = lambda sources, targets: (),
) -> None:
    """Refuse what a method cannot do, before anything is built.

    Args:
        spec: the method's capabilities.
        sources: contrasts that go in.
        targets: contrasts that come out.
        output_range: (low, high) of the target normaliser's values; None where they are unbounded.
        serving: number of sources and of targets -> names of the methods that take them, for the message.

    Raises:
        UsageError: number of sources or targets, a contrast named twice or on both sides, or a normaliser whose values the
            output cannot reach.
    """
    for word, names, (low, high) in (("source", sources, spec.sources), ("target", targets, spec.targets)):
        if not low <= len(names) <= high:
            span = f"{low}" if low == high else f"{low} to {high}"
            given = f"{len(names)} ({', '.join(names)})"
            others = ", ".join(serving(len(sources), len(targets)))
            fix = f"use {others}" if others else "`synthmr methods` shows what each takes"
            raise UsageError(f"{spec.name} takes {span} {word} contrasts and was given {given}; {fix}.")
        if len(set(names)) < len(names):
            raise UsageError(f"{', '.join(names)} names a {word} contrast twice; name each once.")
    both = sorted(set(sources) & set(targets))
    if both:
        raise UsageError(f"{', '.join(both)} is both source and target; a contrast can be only one of them.")
    if spec.output_range is not None and (
        output_range is None or output_range[0] < spec.output_range[0] or output_range[1] > spec.output_range[1]
    ):
        raise UsageError(
            f"{spec.name} gives values in [{spec.output_range[0]:g}, {spec.output_range[1]:g}], which the target normaliser leaves;"
            " use --set prepare.normalizer=percentile, minmax or nyul."
        )


def check_wanted(method: Method, batch: Batch, wanted: Sequence[str] | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (sources to use, targets to give) for a prediction.

    Raises:
        UsageError: a wanted contrast that the method has no output for, a source missing where all are needed, an
            image of a contrast that the method does not know, or a size that the method cannot work on.
    """
    targets = tuple(wanted) if wanted is not None else method.targets
    for name in targets:
        if name not in method.targets:
            raise UsageError(f"{method.spec.name} was trained to give {', '.join(method.targets)}, not {name}.")
    unknown = [name for name in batch.images if name not in method.sources and name not in method.targets]
    if unknown:
        raise UsageError(
            f"{method.spec.name} was trained with {', '.join(method.sources)} and was given {', '.join(unknown)} too; leave it out."
        )
    given = tuple(name for name in method.sources if name in batch.images and bool(batch.present[name].any()))
    absent = [name for name in method.sources if name not in given]
    if absent and not method.spec.any_subset:
        raise UsageError(
            f"{method.spec.name} needs {', '.join(method.sources)} and {', '.join(absent)} is missing;"
            " give it, or train without it."
        )
    if not given:
        raise UsageError(f"{method.spec.name} was given none of its sources {', '.join(method.sources)}.")
    partial = [name for name in given if not bool(batch.present[name].all())]
    if partial and not method.spec.any_subset:
        raise UsageError(f"{method.spec.name} needs {', '.join(partial)} in every sample; some of them lack it.")
    size = batch.images[given[0]].shape[2:]
    if any(edge % method.spec.divisor for edge in size):
        raise UsageError(
            f"{method.spec.name} needs sizes that are multiples of {method.spec.divisor} and was given {'x'.join(map(str, size))};"
            " pad the images, or use synthmr.predict, which does."
        )
    return given, targets
