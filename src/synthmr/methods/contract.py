"""What a method is: `Spec` says what it can do, `synthmr.batch.Batch` is all that it sees, two base classes say what it implements.

A paper that is a network subclasses `NeuralMethod`: networks, `groups`, `step`, `forward`. A method that is no network
(copy, linear) subclasses `FittedMethod`: `fit`, `__call__`, `state`, `load_state`. Both are called the same way
afterwards: ``method(batch, wanted) -> {contrast: Output}``. `synthmr.testing.check_method` holds a class against all of this.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from synthmr.batch import Batch, Output
from synthmr.case import PreparedCase
from synthmr.config import SampleConfig
from synthmr.errors import UsageError
from synthmr.labels import Convention
from synthmr.methods.spec import NEEDS, OUTPUTS, SUPERVISION, Selection, Spec, Traits

__all__ = [
    "FittedMethod",
    "Method",
    "NeuralMethod",
    "NoOptions",
    "Selection",
    "Spec",
    "Traits",
    "Update",
    "by_contrast",
    "check_request",
    "check_wanted",
    "is_paired",
    "misfits",
]

#: a method's name stands in the names of files and folders
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class Update(Protocol):
    """``update(group, loss)``: zero that group's gradients, back-propagate into its parameters alone, clip, step.

    Groups that share one loss are updated together, in one backward pass: ``update(("G", "S"), loss)``.
    """

    def __call__(self, group: str | tuple[str, ...], loss: Tensor) -> None: ...


@dataclass(frozen=True)
class NoOptions:
    """Of a method that has nothing to set."""


class Method:
    """What networks and fitted methods have in common: all that training, prediction and evaluation ask of either.

    Class attributes:
        spec: the capabilities.
        Options: frozen dataclass, the method's own configuration; every field has a default and a line in the docstring.
        presets: preset name -> flat overrides, ``{"train.lr": 2e-4, "options.filters": 32, "sample.mode": "tiles"}``.
            Every method has ``paper`` (the paper's exact settings) and ``fast`` (for a CPU).
        trains_in_steps: whether it learns by `NeuralMethod.step`, so that a run of it has a budget and can be resumed; otherwise by
            `FittedMethod.fit`, in one go.
        selection: the score that chooses the weights; see `validation_score`.

    Attributes:
        options: of this very method.
        sources: contrasts that go in.
        targets: contrasts that come out. One that is a source too is to be predicted where the batch does not show it.
        traits: what the options make of it. Of the class it is asked as ``traits(options)``.
    """

    spec: ClassVar[Spec]
    Options: ClassVar[type] = NoOptions
    presets: ClassVar[Mapping[str, Mapping[str, Any]]]
    trains_in_steps: ClassVar[bool]
    selection: ClassVar[Selection] = Selection()
    options: Any
    sources: tuple[str, ...]
    targets: tuple[str, ...]

    if TYPE_CHECKING:
        traits: Any
    else:

        @classmethod
        def traits(cls, options: Any) -> Traits:
            """What options make of the method. An instance has its own in the place of this."""
            return Traits(dims=cls.spec.dims[0], any_subset=cls.spec.any_subset)

    def _begin(self, options: Any, sources: Sequence[str], targets: Sequence[str]) -> None:
        self.options = options
        self.sources = tuple(sources)
        self.targets = tuple(targets)
        self.traits = type(self).traits(options)

    def __call__(self, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Output]:
        """Predict ``wanted`` (default: all targets) from the sources that the batch gives: contrast -> `Output`."""
        raise TypeError(f"{type(self).__name__} must define __call__(batch, wanted)")

    @property
    def needs(self) -> tuple[str, ...]:
        """Extra inputs of this very method, of mask, coords, segmentation; some depend on the options."""
        return self.spec.needs

    @property
    def label_convention(self) -> str | Convention:
        """What the labels of the training data mean, a key of `synthmr.labels.CONVENTIONS`; auto: each segmentation tells."""
        return "auto"

    def asked(self, batch: Batch, target: str) -> Tensor:
        """``(B,)`` bool: the samples whose truth a step may hold the target against: it is there, and not shown as a source."""
        if target not in batch.images:
            return batch.given(target)
        present = batch.present[target]
        return present & ~batch.given(target) if target in self.sources else present

    def validation_score(self, predicted: Mapping[str, np.ndarray], case: PreparedCase) -> float | None:
        """The score of one validation case that chooses the weights, on the scale of `selection`.

        Args:
            predicted: contrast -> ``(X, Y, Z)`` of the prediction, normalised.
            case: holds the truth beside the sources, mask and segmentation.

        Returns:
            None for the loop's own score: in-brain PSNR in dB, mean over targets.
        """
        return None

    def check_map(self, name: str) -> None:
        """Check that this very method can give a map.

        Raises:
            UsageError: it cannot.
        """
        if name not in self.spec.maps:
            raise UsageError(f"{self.spec.name} gives no map {name!r}; it gives {', '.join(self.spec.maps) or 'none'}.")

    def map_labels(self, name: str, given: Sequence[str]) -> tuple[str, ...]:
        """What the parts of a map are called: ``name-source`` for each source given, unless a method says otherwise."""
        return tuple(f"{name}-{source}" for source in given)

    def map(self, batch: Batch, name: str) -> dict[str, Tensor]:
        """A map that the method can give beside the images: label of `map_labels` -> ``(B, 1, *S)`` float32.

        ``segmentation`` is one entry of that name, ``(B, classes, *S)`` probabilities.

        Raises:
            UsageError: this method cannot give it.
        """
        self.check_map(name)
        raise TypeError(f"{type(self).__name__} names {name} in spec.maps and must define map(batch, name)")


class NeuralMethod(nn.Module, Method):
    """Base of the methods that are networks.

    Attributes:
        progress: share of the training that is done, in [0, 1); the loop sets it before each step.
        needs_target: whether a sample without any target teaches it nothing.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {"train.epochs": 100}, "fast": {"train.minutes": 12.0}}
    trains_in_steps: ClassVar[bool] = True
    progress: float = 1.0
    needs_target: ClassVar[bool] = True

    @property
    def draws_subsets(self) -> bool:
        """Whether it asks for samples that show random subsets of the sources (``sample.subsets``)."""
        return False

    def __init__(self, options: Any, sources: Sequence[str], targets: Sequence[str]) -> None:
        super().__init__()
        self._begin(options, sources, targets)

    def check_data(self, labels: Iterable[int] | None) -> list[str]:
        """Check, before training, that the data have what the options ask for.

        Args:
            labels: those that occur in the training cases' segmentations (`synthmr.labels.Seen`, which knows the cases' names too);
                None if a case has none.

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
        """Whether each validation's weights replace those before, whatever their score: for objectives that it does not see."""
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

    def forward(self, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Output]:
        """Predict ``wanted`` (default: all targets) from the sources that the batch gives: contrast -> `Output`."""
        raise TypeError(f"{type(self).__name__} must define forward(batch, wanted)")


class FittedMethod(Method):
    """Base of the methods that are fitted in closed form."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {"train.brightness": False}, "fast": {}}
    trains_in_steps: ClassVar[bool] = False

    def __init__(self, options: Any, sources: Sequence[str], targets: Sequence[str]) -> None:
        self._begin(options, sources, targets)

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


def misfits(kind: Any) -> list[str]:
    """What of a class does not follow the contract, as far as it can be told without running it: sentences, none if all is well."""
    if not (isinstance(kind, type) and issubclass(kind, NeuralMethod | FittedMethod)):
        return ["it is no subclass of NeuralMethod or FittedMethod"]
    found = []
    spec, options = getattr(kind, "spec", None), kind.Options
    if not isinstance(spec, Spec):
        return ["it has no spec = Spec(name=..., title=...)"]
    if not NAME.fullmatch(spec.name):
        found.append(f"spec.name {spec.name!r} must be letters, digits, - and _")
    for key, value, allowed in (("supervision", spec.supervision, SUPERVISION), ("outputs", spec.outputs, OUTPUTS)):
        if value not in allowed:
            found.append(f"spec.{key} {value!r} is none of {', '.join(allowed)}")
    if not spec.dims or not set(spec.dims) <= {2, 3}:
        found.append(f"spec.dims {spec.dims!r} must name 2, 3 or both")
    if not set(spec.needs) <= set(NEEDS):
        found.append(f"spec.needs {spec.needs!r} may name {', '.join(NEEDS)}")
    if not (isinstance(options, type) and is_dataclass(options) and options.__dataclass_params__.frozen):  # type: ignore[attr-defined]
        return [*found, "Options must be a frozen dataclass"]
    bare = [each.name for each in fields(options) if each.default is MISSING and each.default_factory is MISSING]
    if bare:
        found.append(f"Options.{bare[0]} has no default")
    if spec.extendable and "frozen" not in {each.name for each in fields(options)}:
        found.append("spec.extendable needs Options.frozen: tuple[str, ...] = ()")
    found += [f"presets has no {name!r}" for name in ("paper", "fast") if name not in kind.presets]
    base = NeuralMethod if issubclass(kind, NeuralMethod) else FittedMethod
    parts = ("step", "forward") if base is NeuralMethod else ("fit", "__call__", "state", "load_state")
    return found + [f"it does not define {part}()" for part in parts if getattr(kind, part) is getattr(base, part)]


def by_contrast(images: Tensor, contrasts: Sequence[str], wanted: Sequence[str]) -> dict[str, Output]:
    """The channels of one tensor as outputs.

    Args:
        images: ``(B, N, *S)``, a channel a contrast.
        contrasts: the N names, in the order of the channels.
        wanted: which of them to give.

    Returns:
        contrast -> output with a float32 mean of ``(B, 1, *S)``.
    """
    channel = {name: number for number, name in enumerate(contrasts)}
    return {name: Output(images[:, channel[name] : channel[name] + 1].float()) for name in wanted}


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
    any_subset: bool = False,
) -> None:
    """Refuse what a method cannot do, before anything is built.

    Args:
        spec: the method's capabilities.
        sources: contrasts that go in.
        targets: contrasts that come out.
        output_range: (low, high) of the target normaliser's values; None where they are unbounded.
        serving: number of sources and of targets -> names of the methods that take them, for the message.
        any_subset: of the method's traits: a contrast may then be source and target, as another source can stand in for it.

    Raises:
        UsageError: number of sources or targets, a contrast named twice, one on both sides that cannot be, or a normaliser whose
            values the output cannot reach.
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
    if both and not any_subset:
        raise UsageError(
            f"{', '.join(both)} is both source and target; a contrast can be only one of them where a method needs all its sources"
            " (milr takes any subset of them, and both roles)."
        )
    if both and len(sources) == 1:
        raise UsageError(f"{both[0]} is a target and the only source; give a source that it can be predicted from.")
    if spec.output_range is not None and (
        output_range is None or output_range[0] < spec.output_range[0] or output_range[1] > spec.output_range[1]
    ):
        raise UsageError(
            f"{spec.name} gives values in [{spec.output_range[0]:g}, {spec.output_range[1]:g}], which the target normaliser leaves;"
            " use --set prepare.normalizer=percentile, minmax or nyul."
        )


def check_wanted(method: Method, batch: Batch, wanted: Sequence[str] | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (sources to use, targets to give) for a prediction.

    A source is used where the batch gives it: present and shown.

    Raises:
        UsageError: a wanted contrast that the method has no output for, a source missing where all are needed, a sample without
            any, an image of a contrast that the method does not know, or images of a shape that the method cannot work on.
    """
    name, traits = method.spec.name, method.traits
    targets = tuple(wanted) if wanted is not None else method.targets
    for target in targets:
        if target not in method.targets:
            raise UsageError(f"{name} was trained to give {', '.join(method.targets)}, not {target}.")
    unknown = [contrast for contrast in batch.images if contrast not in (*method.sources, *method.targets)]
    if unknown:
        raise UsageError(
            f"{name} was trained with {', '.join(method.sources)} and was given {', '.join(unknown)} too; leave it out."
        )
    if torch.compiler.is_compiling():  # a trace has no values to look at: what the batch holds is given
        return tuple(source for source in method.sources if source in batch.images), targets
    flags = {source: batch.given(source) for source in method.sources}
    given = tuple(source for source, flag in flags.items() if bool(flag.any()))
    absent = [source for source in method.sources if source not in given]
    if absent and not traits.any_subset:
        raise UsageError(
            f"{name} needs {', '.join(method.sources)} and {', '.join(absent)} is missing; give it, or train without it."
        )
    if not given:
        raise UsageError(f"{name} was given none of its sources {', '.join(method.sources)}.")
    partial = [source for source in given if not bool(flags[source].all())]
    if partial and not traits.any_subset:
        raise UsageError(f"{name} needs {', '.join(partial)} in every sample; some of them lack it.")
    if partial and not bool(torch.stack([flags[source] for source in given]).any(dim=0).all()):
        raise UsageError(f"a sample has none of the sources {', '.join(method.sources)}; give it at least one.")
    for source in given:
        _check_shape(method, source, tuple(batch.images[source].shape))
    return given, targets


def _check_shape(method: Method, source: str, shape: tuple[int, ...]) -> None:
    """Refuse an image ``(B, C, *S)`` of other dimensions, channels or divisors than the method works with."""
    name, traits, size = method.spec.name, method.traits, shape[2:]
    if len(size) != traits.dims:
        word = "slices (B, C, H, W)" if traits.dims == 2 else "boxes (B, C, X, Y, Z)"
        raise UsageError(
            f"this {name} works on {word} and was given {source} of {len(size)} spatial dimensions; give it {traits.dims}."
        )
    channels = 2 * traits.neighbours + 1
    if shape[1] != channels:
        raise UsageError(
            f"this {name} is shown {channels} slices a contrast (itself and {traits.neighbours} on either side) and was given"
            f" {source} with {shape[1]}; give {channels}."
        )
    if any(edge % method.spec.divisor for edge in size):
        raise UsageError(
            f"{name} needs sizes that are multiples of {method.spec.divisor} and was given {'x'.join(map(str, size))};"
            " pad the images, or use synthmr.predict, which does."
        )
