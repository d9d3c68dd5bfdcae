"""What every method promises, whatever it computes: `synthmr.testing` over the registry, with no code for a single method.

That each check can fail is shown at the end, by classes that break one promise each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from synthmr.batch import Batch, Output
from synthmr.errors import UsageError
from synthmr.methods import registry
from synthmr.methods.configure import build_config
from synthmr.methods.contract import FittedMethod, Method, NeuralMethod, Spec, Traits, Update, check_wanted
from synthmr.run import method_state
from synthmr.testing import Subject, check_method, checks_of, subjects_of
from synthmr.testing.subject import TARGETS, call, learn, make_batch

pytestmark = pytest.mark.usefixtures("one_thread")


# --- methods for what no method of the registry does ----------------------------------------------------------------------


class MeanOfSome(NeuralMethod):
    """The scaled mean of whatever sources are there, in slices, slices with neighbours, or boxes."""

    spec = Spec(name="meanofsome", title="mean of some", sources=(1, 8), any_subset=True, dims=(2, 3))

    @dataclass(frozen=True)
    class Options:
        """Options.

        Attributes:
            dims: spatial dimensions.
            neighbours: slices on either side.
        """

        dims: int = 2
        neighbours: int = 0

    @classmethod
    def traits(cls, options: Any) -> Traits:
        return Traits(options.dims, options.neighbours, any_subset=True)

    def __init__(self, options: Any, sources: Sequence[str], targets: Sequence[str]) -> None:
        super().__init__(options, sources, targets)
        self.scale = nn.Parameter(torch.ones(1))

    def _mean(self, batch: Batch, names: Sequence[str]) -> Tensor:
        images = torch.stack([batch.images[name].mean(dim=1, keepdim=True) for name in names])
        weight = torch.stack([batch.given(name).float() for name in names]).view(*images.shape[:2], *(1,) * (images.dim() - 2))
        return self.scale * (images * weight).sum(0) / weight.sum(0).clamp(min=1)

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        asked = self.asked(batch, self.targets[0])
        error = (self._mean(batch, self.sources) - batch.centre(self.targets[0])).abs().flatten(1).mean(1)
        loss = (error * asked).sum() / asked.sum().clamp(min=1)
        update("G", loss)
        return {"G_l1": loss.detach()}

    def forward(self, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Output]:
        names, targets = check_wanted(self, batch, wanted)
        return {name: Output(self._mean(batch, names)) for name in targets}


def load(name: str) -> Any:
    return MeanOfSome if name == "meanofsome" else registry.load(name)


ALL = (*registry.METHODS, "meanofsome")
SUBJECTS = {subject.name: subject for name in ALL for subject in subjects_of(load(name))}
CHECKS = [(name, check) for name, subject in SUBJECTS.items() for check in checks_of(subject)]
#: learns enough to be held against `copy`
LEARNERS = tuple(name for name in registry.METHODS if name != "copy" and load(name).spec.supervision != "unpaired")


# --- the contract ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "check"), [pytest.param(*each, id=f"{each[1].__name__[6:]}-{each[0]}") for each in CHECKS])
def test_keeps_the_contract(name: str, check: Callable[[Subject], None]) -> None:
    check(SUBJECTS[name])


def test_the_checks_see_slices_neighbours_boxes_and_any_subset() -> None:
    traits = [subject.traits for subject in SUBJECTS.values() if subject.spec.name == "meanofsome"]
    assert traits == [Traits(2, 0, True), Traits(3, 0, True), Traits(2, 1, True)]
    shapes = [tuple(subject.batch().images["T1w"].shape) for subject in SUBJECTS.values() if subject.spec.name == "meanofsome"]
    assert shapes == [(3, 1, 48, 64), (3, 1, 16, 32, 48), (3, 3, 48, 64)]
    assert all(load(name).spec.name == name for name in ALL)
    ran = {check.__name__ for _, check in CHECKS}
    assert len(ran) == 21  # every check of the module runs for something


@pytest.mark.parametrize("name", registry.METHODS)
def test_the_seed_of_a_method_of_ours_decides_its_start(name: str) -> None:
    """So that for all of ours `check_the_seed_decides` also asks for other weights with another seed."""
    subject = SUBJECTS[name]
    if subject.kind.trains_in_steps:
        one, two = (method_state(subject.make(seed=seed)) for seed in (0, 1))
        assert any(not np.array_equal(one[key], two[key]) for key in one)
    else:
        assert "voxels" in subject.known  # drawn in `fit`, by its seed


def test_a_contrast_in_both_roles_is_for_methods_that_take_any_subset() -> None:
    sources = ("T1w", "T2w")
    assert build_config(load("milr"), "fast", {}, [], sources, ("T2w", "FLAIR")).targets == ("T2w", "FLAIR")
    with pytest.raises(UsageError, match=r"T1w is a target and the only source; give a source that it can be predicted from"):
        build_config(load("milr"), "fast", {}, [], ("T1w",), ("T1w",))
    with pytest.raises(UsageError, match=r"T2w is both source and target; a contrast can be only one of them.*milr"):
        build_config(load("unet"), "fast", {}, [], sources, ("T2w", "FLAIR"))


def test_what_is_asked_of_a_step_is_there_and_not_shown() -> None:
    method = MeanOfSome(MeanOfSome.Options(), ("T1w", "T2w"), ("T2w", "FLAIR", "PDw"))
    batch = make_batch(("T1w", "T2w"), ("FLAIR",))
    flags = {"T1w": [True] * 3, "T2w": [True, True, False], "FLAIR": [True, False, True]}
    present = {name: torch.tensor(flag) for name, flag in flags.items()}
    batch = replace(batch, present=present, shown={"T2w": torch.tensor([True, False, False])})
    assert method.asked(batch, "T2w").tolist() == [False, True, False]  # shown; hidden; absent
    assert method.asked(batch, "FLAIR").tolist() == flags["FLAIR"]
    assert method.asked(batch, "PDw").tolist() == [False] * 3  # no such image at all


def test_the_defaults_of_the_contract() -> None:
    """What training asks of any method, and a method need not answer."""
    for kind in map(load, ALL):
        assert (kind.selection.name, kind.selection.higher, kind.selection.unit) == ("psnr", True, "dB")
        method = Subject(kind).make()
        case: Any = None
        assert method.validation_score({}, case) is None and isinstance(method, Method)
        assert kind.trains_in_steps == issubclass(kind, NeuralMethod) and method.traits == kind.traits(method.options)
    assert [name for name in ALL if load(name).spec.extendable] == ["milr"]


# --- does it learn --------------------------------------------------------------------------------------------------------


def error_of(method: Any, batch: Batch) -> float:
    target = method.targets[0]
    return float((call(method, batch)[target] - batch.images[target]).square().mean().sqrt())


@pytest.mark.parametrize("name", LEARNERS)
def test_every_method_beats_copy(name: str) -> None:
    """A target that no single source determines, after a small fixed budget of plain Adam."""
    subject = SUBJECTS[name]
    sources, targets = subject.sources, TARGETS[:1]
    batches = [make_batch(sources, targets, count=4, seed=seed) for seed in range(80)]
    test = make_batch(sources, targets, count=8, seed=1000)
    floor = error_of(learn(SUBJECTS["copy"].make(sources=sources, targets=targets), batches), test)
    assert floor > 0.2  # it is a problem
    # methods that can do either learn from pairs through a term that only pairs allow
    pairs = {"l1_weight": 100.0} if subject.spec.supervision == "either" else {}
    method = subject.make(sources=sources, targets=targets, **pairs)
    assert error_of(learn(method, batches, lr=2e-3), test) < 0.85 * floor


# --- each check can fail --------------------------------------------------------------------------------------------------


class Sound(NeuralMethod):
    """A method of twenty lines that keeps the contract."""

    spec = Spec(name="sound", title="one convolution", targets=(1, 2))

    def __init__(self, options: Any, sources: Sequence[str], targets: Sequence[str]) -> None:
        super().__init__(options, sources, targets)
        self.net = nn.Conv2d(len(sources), len(targets), 3, padding=1)

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        loss = (self.net(batch.stack(self.sources)) - batch.truth(self.targets)).abs().mean()
        update("G", loss)
        return {"G_l1": loss.detach()}

    def forward(self, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Output]:
        sources, targets = check_wanted(self, batch, wanted)
        images = self.net(batch.stack(sources)).float()
        return {name: Output(images[:, n : n + 1]) for n, name in enumerate(self.targets) if name in targets}


def test_a_sound_method_passes() -> None:
    check_method(Sound)
    check_method(MeanOfSome)


def spoiled(change: Callable[[Sound, Batch, dict[str, Output]], dict[str, Output]], **more: Any) -> type:
    """`Sound` with its prediction changed."""

    def forward(self: Sound, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Output]:
        return change(self, batch, Sound.forward(self, batch, wanted))

    return type("Broken", (Sound,), {"forward": forward, **more})


def first(batch: Batch, names: Iterable[str]) -> Tensor:
    return batch.images[next(name for name in names if name in batch.images)]


def two_groups(self: Sound) -> dict[str, list[nn.Parameter]]:
    return {"G": [self.net.weight], "D": [self.net.bias]}  # type: ignore[list-item]


def outside(self: Sound, batch: Batch, update: Update) -> dict[str, Tensor]:
    with torch.no_grad():
        self.net.bias.add_(1.0)  # type: ignore[union-attr]
    return Sound.step(self, batch, update)


def in_place(self: Sound, batch: Batch, update: Update) -> dict[str, Tensor]:
    batch.images[self.targets[0]].mul_(0.5)
    return Sound.step(self, batch, update)


def with_graph(self: Sound, batch: Batch, update: Update) -> dict[str, Tensor]:
    loss = (self.net(batch.stack(self.sources)) - batch.truth(self.targets)).abs().mean()
    update("G", loss)
    return {"G_l1": loss}


def truth_of(self: Sound, batch: Batch, out: dict[str, Output]) -> dict[str, Output]:
    return {name: Output(batch.images.get(name, each.mean)) for name, each in out.items()}


BROKEN: Mapping[str, tuple[type, str]] = {
    "wrong key": (
        spoiled(lambda m, b, out: {f"x{k}": v for k, v in out.items()}),
        r"has the keys \['xFLAIR', 'xT2star'\]; it must",
    ),
    "bare tensors": (spoiled(lambda m, b, out: {k: v.mean for k, v in out.items()}), r"FLAIR is a Tensor; it must be an Output"),  # type: ignore[misc]
    "NaN": (spoiled(lambda m, b, out: {k: Output(v.mean * float("nan")) for k, v in out.items()}), r"FLAIR holds NaN or infinite"),
    "wrong shape": (
        spoiled(lambda m, b, out: {k: Output(v.mean[:, 0]) for k, v in out.items()}),
        r"shape \(3, 48, 64\); it must be",
    ),
    "a spread of 0": (
        spoiled(lambda m, b, out: {k: Output(v.mean, 0 * v.mean) for k, v in out.items()}),
        r"the spread of FLAIR must be finite and above 0",
    ),
    "the truth": (spoiled(truth_of), r"the truth leaks into it"),
    "the batch's mean": (
        spoiled(lambda m, b, out: {k: Output(v.mean + v.mean.mean()) for k, v in out.items()}),
        r"changes with the other samples of its batch",
    ),
    "the first image": (
        spoiled(lambda m, b, out: {k: Output(v.mean + next(iter(b.images.values()))) for k, v in out.items()}),
        r"depends on the order of the batch's images",
    ),
    "a range": (type("Broken", (Sound,), {"spec": replace(Sound.spec, output_range=(-0.1, 0.1))}), r"leaves spec.output_range"),
    "in place": (type("Broken", (Sound,), {"step": in_place}), r"the batch's FLAIR was changed in place"),
    "a group of its own": (type("Broken", (Sound,), {"groups": two_groups}), r"a step updates G; the groups are G, D"),
    "outside an update": (type("Broken", (Sound,), {"step": outside}), r"parameters are changed outside an update"),
    "a graph kept alive": (type("Broken", (Sound,), {"step": with_graph}), r"'G_l1' keeps the graph of its step alive"),
    "no groups": (type("Broken", (Sound,), {"groups": lambda self: {"G": []}}), r"groups\(\) does not partition|every trainable"),
    "no budget": (
        type("Broken", (Sound,), {"presets": {"fast": {}, "paper": {"train.steps": 1}}}),
        r"'fast' cannot be used: .*budget",
    ),
    "no title": (type("Broken", (Sound,), {"spec": replace(Sound.spec, title="")}), r"spec.title must be one line"),
    "boxes": (
        type("Broken", (Sound,), {"spec": replace(Sound.spec, dims=(2, 3))}),
        r"spec.dims is \(2, 3\) and options give \[2\]",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_method_fails_with_the_promise_that_it_breaks(what: str) -> None:
    kind, words = BROKEN[what]
    with pytest.raises(AssertionError, match=words):
        check_method(kind)


class ByPlace(MeanOfSome):
    """Weighs sources by their place: it depends on their order, though it takes any subset."""

    def _mean(self, batch: Batch, names: Sequence[str]) -> Tensor:
        given = [batch.given(name).float().view(-1, *(1,) * (batch.dims + 1)) for name in names]
        places = [1.0 + self.sources.index(name) for name in names]
        images = [batch.images[name].mean(dim=1, keepdim=True) for name in names]
        total = torch.stack([image * flag * place for image, flag, place in zip(images, given, places, strict=True)]).sum(0)
        return self.scale * total / torch.stack(given).sum(0).clamp(min=1)


class Peeks(MeanOfSome):
    """Reads what is present, shown or not."""

    def _mean(self, batch: Batch, names: Sequence[str]) -> Tensor:
        return super()._mean(replace(batch, shown={}), [name for name in self.sources if name in batch.images])


class LearnsFromNothing(MeanOfSome):
    """Takes the zeros of an absent target for its truth."""

    def asked(self, batch: Batch, target: str) -> Tensor:
        return torch.ones(batch.size, dtype=torch.bool)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (ByPlace, r"any subset of its sources, and the prediction depends on the order in which they were named"),
        (Peeks, r"T2w is present and not shown, and changes the prediction: it leaks"),
        (Peeks, r"T2w is source and target: where it is not shown, its truth leaks"),
        (LearnsFromNothing, r"a step learns from the FLAIR of a sample that does not have or show it; use self.asked"),
    ],
)
def test_a_method_of_any_subset_that_breaks_a_promise_fails(kind: type, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_method(kind)


class Unfitted(FittedMethod):
    """Crashes before it is fitted, and forgets half of what it learnt."""

    spec = Spec(name="unfitted", title="the mean of the target")

    def fit(self, cases: Callable[[], Iterable[Batch]], seed: int) -> dict[str, float]:
        self.mean = float(np.mean([float(batch.centre(self.targets[0]).mean()) for batch in cases()]))
        return {"mean": self.mean}

    def state(self) -> dict[str, np.ndarray]:
        return {"mean": np.zeros(1, np.float32)}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        self.mean = float(state["mean"][0])

    def __call__(self, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Output]:
        sources, targets = check_wanted(self, batch, wanted)
        return {name: Output(batch.images[sources[0]] + batch.images[sources[-1]] + self.mean) for name in targets}


def test_all_failures_are_told_together_each_by_its_check() -> None:
    with pytest.raises(AssertionError) as found:
        check_method(Unfitted)
    title, *lines = str(found.value).splitlines()
    assert title == "Unfitted breaks the contract:"
    assert all(line.startswith("- ") for line in lines) and len(lines) == 2
    assert "a method that was not fitted says so: raised AttributeError" in lines[1]
    assert "a saved method predicts the same: after saving and loading the prediction is another" in lines[0]


def test_a_class_that_is_no_method_is_told_so() -> None:
    with pytest.raises(AssertionError, match=r"dict is no method: it is no subclass of NeuralMethod or FittedMethod"):
        check_method(dict)
    half = type("Half", (NeuralMethod,), {"spec": Spec(name="a b", title="x", supervision="maybe"), "presets": {"paper": {}}})
    with pytest.raises(AssertionError) as found:
        check_method(half)
    for words in ("spec.name 'a b'", "'maybe' is none of paired", "presets has no 'fast'", "define step()", "define forward()"):
        assert words in str(found.value)


def test_a_foreign_method_trains_and_is_scored_on_the_phantom(phantom: Path) -> None:
    assert "sound" not in registry.available()
    check_method(Sound, phantom=phantom)
    assert "sound" not in registry.available()  # nothing is left behind
