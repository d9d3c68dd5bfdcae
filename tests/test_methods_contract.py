"""What every method promises, whatever it computes: parametrised over the registry, with no code for a single method."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from synthmr.batch import Batch
from synthmr.errors import RunError, UsageError
from synthmr.methods import registry
from synthmr.methods.configure import build_config
from synthmr.methods.contract import FittedMethod, NeuralMethod, Spec, Update, check_wanted
from synthmr.prepare.normalize import value_range
from synthmr.run import load_state, method_state, read_arrays, save_arrays
from synthmr.train.runtime import Runtime, Updater, check_groups

NAMES = ("T1w", "T2w", "PDw", "T1ce", "DWI", "ADC", "SWI", "MRA")
TARGETS = ("FLAIR", "T2star")
SIZE = (48, 64)


# --- a method for what no method of the registry does ---------------------------------------------------------------------


class MeanOfSome(NeuralMethod):
    """The scaled mean of whatever sources are there."""

    spec = Spec(name="meanofsome", title="mean of some", sources=(1, 8), any_subset=True)
    presets = {"paper": {"train.steps": 1}, "fast": {"train.steps": 1}}  # noqa: RUF012

    @dataclass(frozen=True)
    class Options:
        """None."""

    def __init__(self, options: Any, sources: Sequence[str], targets: Sequence[str]) -> None:
        super().__init__(options, sources, targets)
        self.scale = nn.Parameter(torch.ones(1))

    def _mean(self, batch: Batch, names: Sequence[str]) -> Tensor:
        weight = torch.stack([batch.present[name].float() for name in names])[:, :, None, None, None]
        return self.scale * (torch.stack([batch.images[name] for name in names]) * weight).sum(0) / weight.sum(0)

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        loss = (self._mean(batch, self.sources) - batch.images[self.targets[0]]).abs().mean()
        update("G", loss)
        return {"G_l1": loss.detach()}

    def forward(self, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Tensor]:
        names, targets = check_wanted(self, batch, wanted)
        return {name: self._mean(batch, names) for name in targets}


def load(name: str) -> Any:
    return MeanOfSome if name == "meanofsome" else registry.load(name)


ALL = (*registry.METHODS, "meanofsome")
NEURAL = tuple(name for name in ALL if hasattr(load(name), "step"))
FITTED = tuple(name for name in ALL if name not in NEURAL)
#: learns enough to be held against `copy`
LEARNERS = tuple(name for name in registry.METHODS if name != "copy" and load(name).spec.supervision != "unpaired")


# --- data and training ----------------------------------------------------------------------------------------------------


def smooth(count: int, size: Sequence[int], generator: torch.Generator) -> Tensor:
    """``(count, 1, *size)`` smooth random images in [-1, 1]."""
    coarse = torch.randn(count, 1, *(edge // 8 for edge in size), generator=generator)
    mode = "bilinear" if len(size) == 2 else "trilinear"
    return torch.tanh(nn.functional.interpolate(coarse, size=tuple(size), mode=mode, align_corners=False))


def make_batch(sources: Sequence[str], targets: Sequence[str], count: int = 3, seed: int = 0, size: Sequence[int] = SIZE) -> Batch:
    """Smooth sources; each target a smooth function of the first two of them that neither determines alone."""
    generator = torch.Generator().manual_seed(seed)
    images = {name: smooth(count, size, generator) for name in sources}
    a, b = images[sources[0]], images[sources[1 if len(sources) > 1 else 0]]
    for index, name in enumerate(targets):
        images[name] = torch.tanh(1.5 * a * b + 0.6 * a - 0.4 * (1 + index) * b)
    return Batch(
        images,
        mask=torch.ones(count, 1, *size, dtype=torch.bool),
        coords=torch.rand(count, 3, generator=generator),
        segmentation=torch.zeros(count, 1, *size, dtype=torch.int64),
    )


def contrasts(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Two sources and two targets, or as near to that as the method can go."""
    spec = load(name).spec
    return (
        NAMES[: max(spec.sources[0], min(2, spec.sources[1]))],
        TARGETS[: max(spec.targets[0], min(2, spec.targets[1]))],
    )


def make(name: str, seed: int = 0, sources: Sequence[str] = (), targets: Sequence[str] = (), **options: Any) -> Any:
    """A tiny method."""
    kind = load(name)
    tiny = {"filters": 4, "discriminator_filters": 4}
    known = {field.name for field in dataclasses.fields(kind.Options)}
    torch.manual_seed(seed)
    chosen = {**{key: value for key, value in tiny.items() if key in known}, **options}
    own = contrasts(name)
    return kind(kind.Options(**chosen), sources or own[0], targets or own[1])


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def fabric() -> Any:
    return Runtime("cpu").fabric()


def updater(method: Any, fabric: Any, lr: float = 2e-4) -> Updater:
    """The update that training uses, with plain Adam."""
    groups = method.groups()
    return Updater(fabric, groups, {name: torch.optim.Adam(params, lr, (0.5, 0.999)) for name, params in groups.items()}, 0.0)


def learn(method: Any, fabric: Any, batches: Sequence[Batch], seed: int = 0, lr: float = 2e-4) -> Any:
    """Fit, or one step a batch; returns the method, ready to predict."""
    if isinstance(method, FittedMethod):
        method.fit(lambda: iter(batches), seed)
        return method
    update = updater(method, fabric, lr)
    method.train()
    for batch in batches:
        method.step(batch, update)
    return method.eval()


@pytest.fixture(scope="module")
def trained(fabric: Any) -> Callable[[str], Any]:
    """Every method once, after a little training. Read only."""
    torch.set_num_threads(1)
    cache: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in cache:
            sources, targets = contrasts(name)
            # until the running statistics of a deep network have followed its weights, its output is all but constant
            batches = [make_batch(sources, targets, seed=seed) for seed in range(16)]
            cache[name] = learn(make(name), fabric, batches, lr=2e-3)
        return cache[name]

    return get


def call(method: Any, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Tensor]:
    with torch.no_grad():
        out: dict[str, Tensor] = method(batch, wanted)
    return out


# --- what is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_an_undeclared_input_is_refused_and_the_fix_named(name: str, trained: Callable[[str], Any]) -> None:
    method = trained(name)
    batch = make_batch((*method.sources, "MTR"), method.targets)
    with pytest.raises(UsageError, match=r"MTR.*leave it out") as error:
        call(method, batch)
    assert "\n" not in str(error.value)
    call(method, batch.only(method.sources))


@pytest.mark.parametrize("name", ALL)
def test_a_missing_source(name: str, trained: Callable[[str], Any]) -> None:
    method = trained(name)
    full = make_batch(method.sources, ()).only(method.sources)
    last = method.sources[-1]
    without = full.only(method.sources[:-1])
    zeros = {**full.images, last: torch.zeros_like(full.images[last])}
    absent = dataclasses.replace(full, images=zeros, present={**full.present, last: torch.zeros(full.size, dtype=torch.bool)})
    some = dataclasses.replace(full, present={**full.present, last: torch.tensor([True] + [False] * (full.size - 1))})
    if method.spec.any_subset:
        one, two = call(method, without), call(method, absent)
        assert all(torch.equal(one[key], two[key]) for key in one)
        assert not torch.equal(one[method.targets[0]], call(method, full)[method.targets[0]])
        call(method, some)
    elif len(method.sources) > 1:
        for batch in (without, absent):
            with pytest.raises(UsageError, match=rf"{last}.* is missing;.*give it, or train without it"):
                call(method, batch)
        with pytest.raises(UsageError, match=rf"{last} in every sample"):
            call(method, some)
    nothing = dataclasses.replace(full, present={key: torch.zeros(full.size, dtype=torch.bool) for key in full.images})
    with pytest.raises(UsageError, match=method.sources[0]):
        call(method, nothing)


@pytest.mark.parametrize("name", ALL)
def test_the_order_in_which_a_batch_holds_its_images_is_irrelevant(name: str, trained: Callable[[str], Any]) -> None:
    method = trained(name)
    batch = make_batch(method.sources, method.targets)
    turned = batch.only(tuple(reversed((*method.sources, *method.targets))))
    assert list(turned.images) != list(batch.images)
    one, two = call(method, batch), call(method, turned)
    assert all(torch.equal(one[key], two[key]) for key in method.targets)


@pytest.mark.parametrize("name", [each for each in ALL if load(each).spec.any_subset])
def test_the_order_of_sources_is_irrelevant_where_any_subset_runs(name: str, fabric: Any) -> None:
    sources, targets = contrasts(name)
    batch = make_batch(sources, targets)
    one = learn(make(name, sources=sources), fabric, [batch])
    two = make(name, sources=sources[::-1])
    load_state(two, method_state(one), Path("weights"))
    if isinstance(two, nn.Module):
        two.eval()
    torch.testing.assert_close(call(one, batch), call(two, batch))


@pytest.mark.parametrize("name", ALL)
def test_an_unknown_target_is_refused(name: str, trained: Callable[[str], Any]) -> None:
    method = trained(name)
    batch = make_batch(method.sources, ())
    with pytest.raises(UsageError, match=rf"trained to give {', '.join(method.targets)}, not MTR"):
        call(method, batch, ["MTR"])
    with pytest.raises(UsageError, match="not "):
        call(method, batch, [method.sources[0]])


@pytest.mark.parametrize("name", [each for each in ALL if load(each).spec.divisor > 1])
def test_a_size_that_the_divisor_does_not_divide_is_refused(name: str, trained: Callable[[str], Any]) -> None:
    """Inference pads: tests/test_predict.py."""
    method = trained(name)
    batch = make_batch(method.sources, ())
    odd = Batch({key: value[..., :-3, :] for key, value in batch.images.items()})
    with pytest.raises(UsageError, match=rf"multiples of {method.spec.divisor} .*{SIZE[0] - 3}x{SIZE[1]}"):
        call(method, odd)


@pytest.mark.parametrize("name", FITTED)
def test_a_method_that_was_not_fitted_says_so(name: str) -> None:
    method = make(name)
    with pytest.raises(UsageError, match=f"{name} was not fitted"):
        call(method, make_batch(method.sources, ()))


# --- what comes out -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "dim"), [(name, dim) for name in ALL for dim in load(name).spec.dims])
def test_outputs(name: str, dim: int, trained: Callable[[str], Any]) -> None:
    method = trained(name)
    size = SIZE if dim == 2 else (16, *SIZE)
    batch = make_batch(method.sources, (), size=size)
    for scale in (1.0, 20.0):  # far outside the training range too
        scaled = dataclasses.replace(batch, images={key: scale * value for key, value in batch.images.items()})
        out = call(method, scaled)
        assert list(out) == list(method.targets)
        for image in out.values():
            assert image.shape == (batch.size, 1, *size)
            assert image.dtype == torch.float32
            assert bool(torch.isfinite(image).all())
            if method.spec.output_range is not None:
                low, high = method.spec.output_range
                assert low <= image.min() and image.max() <= high
    ordinary = call(method, batch)
    assert all(image.std() > 0 for image in ordinary.values())
    for target in method.targets:
        alone = call(method, batch, [target])
        assert list(alone) == [target]
        assert torch.equal(alone[target], ordinary[target])


@pytest.mark.parametrize("name", ALL)
def test_a_prediction_depends_on_its_own_sources_alone(name: str, trained: Callable[[str], Any]) -> None:
    """Not on the truth, and not on the other samples of the batch."""
    method = trained(name)
    batch = make_batch(method.sources, method.targets)
    out = call(method, batch)
    blind = call(method, batch.only(method.sources))
    first = Batch({key: value[:1] for key, value in batch.images.items()}).only(method.sources)
    changed = dataclasses.replace(batch, images={key: torch.cat([value[:1], -value[1:]]) for key, value in batch.images.items()})
    for target in method.targets:
        assert torch.equal(out[target], blind[target])
        torch.testing.assert_close(out[target][:1], call(method, first)[target], rtol=1e-4, atol=1e-5)
        other = call(method, changed)[target]
        torch.testing.assert_close(out[target][:1], other[:1], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(out[target][1:], other[1:], atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_inputs_are_not_modified(name: str, fabric: Any) -> None:
    method = make(name)
    batch = make_batch(method.sources, method.targets)
    assert batch.mask is not None
    before = {key: value.clone() for key, value in batch.images.items()}
    mask = batch.mask.clone()
    learn(method, fabric, [batch])
    call(method, batch)
    assert list(batch.images) == list(before)
    assert all(torch.equal(batch.images[key], value) for key, value in before.items())
    assert torch.equal(batch.mask, mask)


# --- state ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_save_load_predict_is_bit_equal_and_no_pickle(
    name: str, trained: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*words: Any, **more: Any) -> None:
        raise AssertionError("pickle")

    for module, attribute in (
        (pickle, "dump"),
        (pickle, "dumps"),
        (pickle, "load"),
        (pickle, "loads"),
        (torch, "save"),
        (torch, "load"),
    ):
        monkeypatch.setattr(module, attribute, refuse)
    method = trained(name)
    batch = make_batch(method.sources, (), seed=5)
    expected = call(method, batch)
    path = tmp_path / "model.safetensors"
    save_arrays(path, method_state(method))
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    raw = path.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])  # safetensors: a length, JSON, numbers
    assert set(header) - {"__metadata__"} == set(method_state(method))

    fresh = make(name, seed=99)
    if isinstance(fresh, nn.Module):
        fresh.eval()
        assert not torch.equal(call(fresh, batch)[method.targets[0]], expected[method.targets[0]]) or name == "meanofsome"
    load_state(fresh, read_arrays(path), path)
    out = call(fresh, batch)
    assert all(torch.equal(out[key], expected[key]) for key in expected)
    again = tmp_path / "again.safetensors"
    save_arrays(again, method_state(fresh))
    assert again.read_bytes() == raw


@pytest.mark.parametrize("name", ALL)
def test_the_state_of_another_method_is_refused(name: str, trained: Callable[[str], Any]) -> None:
    method = trained(name)
    good = method_state(method)
    first = next(iter(good))
    for bad in ({}, {**good, "stranger": np.zeros(1)}, {key: value for key, value in good.items() if key != first}):
        with pytest.raises(RunError, match="other"):
            load_state(make(name), bad, Path("weights"))


@pytest.mark.parametrize("name", ALL)
def test_same_seed_same_weights(name: str, fabric: Any) -> None:
    def weights(seed: int) -> dict[str, np.ndarray]:
        method = make(name, seed=seed, **({"voxels": 200} if name in FITTED else {}))
        batches = [make_batch(method.sources, method.targets, count=2, seed=index) for index in range(3)]
        return method_state(learn(method, fabric, batches, seed=seed))

    one, two, other = weights(0), weights(0), weights(1)
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[key], two[key]) for key in one)
    if name != "meanofsome":
        assert any(not np.array_equal(one[key], other[key]) for key in one)


# --- networks: groups and updates -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NEURAL)
def test_groups_partition_the_parameters(name: str) -> None:
    method = make(name)
    groups = method.groups()
    check_groups(method, groups)
    owned = [id(param) for params in groups.values() for param in params]
    assert len(owned) == len(set(owned))
    assert set(owned) == {id(param) for param in method.parameters()}
    assert set(method.optimizer_overrides()) <= {"G", "D"} | set(groups)


@pytest.mark.parametrize("name", NEURAL)
def test_each_update_changes_its_group_alone_and_every_parameter_learns(name: str, fabric: Any) -> None:
    method = make(name).train()
    batch = make_batch(method.sources, method.targets)
    real = updater(method, fabric)
    named = dict(method.named_parameters())
    groups = {
        group: {key for key, each in named.items() if any(each is param for param in params)}
        for group, params in real.groups.items()
    }
    seen: list[str] = []
    last = {key: value.detach().clone() for key, value in named.items()}

    def changed() -> set[str]:
        found = {key for key, value in named.items() if not torch.equal(value, last[key])}
        last.update({key: value.detach().clone() for key, value in named.items()})
        return found

    def update(group: str | tuple[str, ...], loss: Tensor) -> None:
        assert loss.ndim == 0 and loss.requires_grad
        assert not changed(), "parameters changed outside an update"
        together = (group,) if isinstance(group, str) else group
        own = set().union(*(groups[each] for each in together))
        untouched = {key: named[key].grad for key in named if key not in own}
        real(group, loss)
        assert all(named[key].grad is value for key, value in untouched.items())
        found = changed()
        assert found and found <= own, f"update({group!r}) changed {sorted(found - own)}"
        for key in own:
            gradient = named[key].grad
            assert gradient is not None, f"{key} gets no gradient"
            assert bool(torch.isfinite(gradient).all())
            if gradient.ndim > 1:  # a bias before a normalisation has none but rounding
                assert gradient.abs().max() > 0, f"{key} gets a gradient of zero"
        seen.extend(together)

    logs = method.step(batch, update)
    assert not changed()
    assert sorted(seen) == sorted(groups)
    assert logs and all(isinstance(key, str) and value.numel() == 1 and bool(torch.isfinite(value)) for key, value in logs.items())
    assert not any(value.requires_grad for value in logs.values()), "a log keeps the graph of its step alive"


# --- presets --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["paper", "fast"])
@pytest.mark.parametrize("name", ALL)
def test_presets_build(name: str, preset: str) -> None:
    kind = load(name)
    sources, targets = contrasts(name)
    config = build_config(kind, preset, {}, [], sources, targets, value_range=value_range)
    assert (config.method, config.preset, config.sources, config.targets) == (kind.spec.name, preset, sources, targets)
    assert isinstance(config.options, kind.Options)
    given = [key for key in ("steps", "epochs", "minutes") if getattr(config.train, key)]
    assert len(given) == (1 if name in NEURAL else 0)
    for key, value in kind.presets[preset].items():
        section, _, field = key.partition(".")
        assert getattr(getattr(config, section), field) == value


@pytest.mark.parametrize("name", ALL)
def test_spec_and_number_of_contrasts(name: str) -> None:
    kind = load(name)
    spec: Spec = kind.spec
    assert spec.name == name and spec.title and "\n" not in spec.title
    assert bool(spec.paper) == bool(spec.doi)
    assert 1 <= spec.sources[0] <= spec.sources[1] and 1 <= spec.targets[0] <= spec.targets[1]
    assert set(spec.dims) <= {2, 3} and set(spec.needs) <= {"mask", "coords", "segmentation"} and spec.divisor >= 1
    assert dataclasses.is_dataclass(kind.Options)
    assert kind.Options.__dataclass_params__.frozen
    kind.Options()  # every option has a default
    assert all(f"{field.name}:" in (kind.Options.__doc__ or "") for field in dataclasses.fields(kind.Options))
    names = [f"c{index}" for index in range(20)]
    for sources, targets in ((spec.sources[1] + 1, 1), (spec.sources[0] - 1, 1), (spec.sources[0], spec.targets[1] + 1)):
        with pytest.raises(UsageError, match="contrasts and was given"):
            build_config(kind, "fast", {}, [], names[:sources], TARGETS[:targets] if targets < 3 else names[-targets:])
    with pytest.raises(UsageError, match="both source and target"):
        build_config(kind, "fast", {}, [], contrasts(name)[0], contrasts(name)[0][:1])


# --- does it learn --------------------------------------------------------------------------------------------------------


def error_of(method: Any, batch: Batch) -> float:
    target = method.targets[0]
    return float((call(method, batch)[target] - batch.images[target]).square().mean().sqrt())


@pytest.mark.parametrize("name", LEARNERS)
def test_every_method_beats_copy(name: str, fabric: Any) -> None:
    """A target that no single source determines, after a small fixed budget of plain Adam."""
    sources, targets = contrasts(name)[0], TARGETS[:1]
    batches = [make_batch(sources, targets, count=4, seed=seed) for seed in range(80)]
    test = make_batch(sources, targets, count=8, seed=1000)
    floor = error_of(learn(make("copy", sources=sources, targets=targets), fabric, batches), test)
    assert floor > 0.2  # it is a problem
    # methods that can do either learn from pairs through a term that only pairs allow
    pairs = {"l1_weight": 100.0} if load(name).spec.supervision == "either" else {}
    method = make(name, sources=sources, targets=targets, **pairs)
    assert error_of(learn(method, fabric, batches, lr=2e-3), test) < 0.85 * floor
