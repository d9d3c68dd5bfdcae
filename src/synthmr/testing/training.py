"""Checks of what a method says of itself, learns and saves."""

from __future__ import annotations

import dataclasses
import json
import pickle
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from synthmr.batch import Batch
from synthmr.errors import RunError, SynthmrError
from synthmr.methods.configure import BUDGETS, build_config
from synthmr.methods.contract import misfits
from synthmr.prepare.normalize import value_range
from synthmr.run import load_state, method_state, read_arrays, save_arrays
from synthmr.testing.subject import SOURCES, TARGETS, Subject, call, claim, equal, hide, learn, refused, subjects_of, updater
from synthmr.train.runtime import check_groups

# --- state ----------------------------------------------------------------------------------------------------------------


def check_a_saved_method_predicts_the_same(subject: Subject) -> None:
    """To the bit, from a file of numbers and names, without pickle."""

    def forbidden(*words: Any, **more: Any) -> None:
        raise AssertionError("weights are saved or loaded by pickle; a state is named arrays")

    method = subject.trained
    batch = subject.batch(targets=(), seed=5)
    expected = call(method, batch)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for module, names in ((pickle, ("dump", "dumps", "load", "loads")), (torch, ("save", "load"))):
            for name in names:
                stack.enter_context(mock.patch.object(module, name, forbidden))
        path = folder / "model.safetensors"
        save_arrays(path, method_state(method))
        claim([each.name for each in folder.iterdir()] == [path.name], "saving writes more than one file")
        raw = path.read_bytes()
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])  # safetensors: a length, JSON, numbers
        claim(set(header) - {"__metadata__"} == set(method_state(method)), "the file holds other arrays than the state")
        fresh = subject.make(seed=99)
        if isinstance(fresh, nn.Module):
            fresh.eval()
            claim(not equal(call(fresh, batch), expected), "a fresh method predicts what the trained one does: nothing is learnt")
        load_state(fresh, read_arrays(path), path)
        claim(
            equal(call(fresh, batch), expected), "after saving and loading the prediction is another: something is not in the state"
        )
        again = folder / "again.safetensors"
        save_arrays(again, method_state(fresh))
        claim(again.read_bytes() == raw, "saving what was loaded gives another file")


def check_the_state_of_another_method_is_refused(subject: Subject) -> None:
    """Nothing, too little and too much."""
    good = method_state(subject.trained)
    less = dict(list(good.items())[1:])
    for bad in ({}, {**good, "stranger": np.zeros(1)}, less):
        with refused(["other"], "a state with other arrays than the method's", RunError):
            load_state(subject.make(), bad, Path("weights"))


def check_the_seed_decides(subject: Subject) -> None:
    """The same seed gives the same weights, and another seed others where the start is drawn at random."""
    few: dict[str, Any] = {"voxels": 200} if "voxels" in subject.known else {}

    def weights(seed: int, steps: int = 3) -> dict[str, np.ndarray]:
        method = subject.make(seed=seed, **few)
        batches = [subject.batch(count=2, seed=index) for index in range(steps)]
        return method_state(learn(method, batches, seed=seed) if batches else method)

    def same(one: Mapping[str, np.ndarray], two: Mapping[str, np.ndarray]) -> bool:
        return one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)

    one = weights(0)
    claim(same(one, weights(0)), "two trainings of the same seed give other weights: draw from torch's or the given seed alone")
    drawn = not same(weights(0, 0), weights(1, 0)) if subject.kind.trains_in_steps else bool(few)
    claim(not drawn or not same(one, weights(1)), "another seed gives the same weights")


# --- networks: groups and updates -----------------------------------------------------------------------------------------


def check_groups_partition_the_parameters(subject: Subject) -> None:
    """Every trainable parameter is in exactly one group, and overrides are of groups."""
    method = subject.make()
    groups = method.groups()
    try:
        check_groups(method, groups)
    except Exception as error:
        raise AssertionError(f"groups() does not partition the parameters: {error}") from error
    owned = [id(param) for params in groups.values() for param in params]
    claim(len(owned) == len(set(owned)), "a parameter is in two groups")
    every = {id(param) for param in method.parameters() if param.requires_grad}
    claim(set(owned) == every, "groups() must hold every trainable parameter, each once")
    strangers = set(method.optimizer_overrides()) - {"G", "D"} - set(groups)
    claim(not strangers, f"optimizer_overrides names {', '.join(sorted(strangers))}, which is no group")


def check_each_update_changes_its_group_alone(subject: Subject) -> None:
    """And every parameter learns: an update reaches all of its group, and nothing else, and nothing changes between updates."""
    method = subject.make().train()
    real = updater(method)
    named = {name: param for name, param in method.named_parameters() if param.requires_grad}
    groups = {
        group: {name for name, each in named.items() if any(each is param for param in params)}
        for group, params in real.groups.items()
    }
    seen: list[str] = []
    last = {name: value.detach().clone() for name, value in named.items()}

    def changed() -> set[str]:
        found = {name for name, value in named.items() if not torch.equal(value, last[name])}
        last.update({name: value.detach().clone() for name, value in named.items()})
        return found

    def update(group: str | tuple[str, ...], loss: Tensor) -> None:
        claim(loss.ndim == 0 and loss.requires_grad, f"update({group!r}, loss): the loss must be one number with a gradient")
        claim(not changed(), "parameters are changed outside an update")
        together = (group,) if isinstance(group, str) else group
        strangers = [each for each in together if each not in groups]
        claim(not strangers, f"update names the group {', '.join(strangers)}, which groups() does not have")
        own = set().union(*(groups[each] for each in together))
        untouched = {name: named[name].grad for name in named if name not in own}
        real(group, loss)
        claim(
            all(named[name].grad is value for name, value in untouched.items()), f"update({group!r}) fills other groups' gradients"
        )
        found = changed()
        claim(found and found <= own, f"update({group!r}) changes {', '.join(sorted(found - own)) or 'nothing'}")
        for name in own:
            gradient = named[name].grad
            claim(gradient is not None, f"{name} is in group {group!r} and gets no gradient from its loss: it never learns")
            claim(torch.isfinite(gradient).all(), f"the gradient of {name} is not finite")
            if gradient.ndim > 1:  # a bias before a normalisation has none but rounding
                claim(gradient.abs().max() > 0, f"{name} gets a gradient of zero: it never learns")
        seen.extend(together)

    logs = method.step(subject.batch(), update)
    claim(not changed(), "parameters are changed outside an update")
    claim(
        sorted(seen) == sorted(groups), f"a step updates {', '.join(sorted(seen)) or 'nothing'}; the groups are {', '.join(groups)}"
    )
    claim(logs, "step returns nothing to log")
    for name, value in logs.items():
        plain = isinstance(name, str) and value.numel() == 1 and bool(torch.isfinite(value))
        claim(plain, f"step logs {name!r}, which must be one finite number")
        claim(not value.requires_grad, f"the log {name!r} keeps the graph of its step alive; detach it")


def check_incomplete_samples_train(subject: Subject) -> None:
    """Where any subset of the sources will do, a training sample may lack some, and what it does not show has no say."""
    source, target = subject.sources[-1], subject.targets[-1]
    batch = hide(hide(subject.batch(), source, [0]), target, [1], absent=True)

    def losses(of: Batch) -> list[float]:
        """What a step minimises: of Adam's first step alone one could not tell, which takes no more than signs."""
        method, found = subject.make().train(), []
        real = updater(method)

        def update(group: str | tuple[str, ...], loss: Tensor) -> None:
            found.append(float(loss.detach()))
            real(group, loss)

        method.step(of, update)
        return found

    expected = losses(batch)
    claim(np.isfinite(expected).all(), "a step on samples that lack a source or a target has a loss that is not finite")
    for name, sample, fix in ((source, 0, "batch.given"), (target, 1, "self.asked")):
        junk = batch.images[name].clone()
        junk[sample] = 3.0
        same = losses(dataclasses.replace(batch, images={**batch.images, name: junk})) == expected
        claim(same, f"a step learns from the {name} of a sample that does not have or show it; use {fix}(...)")


# --- what the class says of itself ----------------------------------------------------------------------------------------


def check_the_class(subject: Subject) -> None:
    """Spec, options with defaults and a line of documentation each, traits within the spec."""
    kind, spec = subject.kind, subject.spec
    for sentence in misfits(kind):
        claim(False, sentence)
    claim(spec.title and "\n" not in spec.title, "spec.title must be one line")
    claim(bool(spec.paper) == bool(spec.doi), "spec.paper and spec.doi belong together: give both or neither")
    for word, (low, high) in (("sources", spec.sources), ("targets", spec.targets)):
        claim(1 <= low <= high, f"spec.{word} must be (fewest, most) with 1 <= fewest <= most")
    claim(spec.divisor >= 1, "spec.divisor must be at least 1")
    for field in dataclasses.fields(kind.Options):
        claim(f"{field.name}:" in (kind.Options.__doc__ or ""), f"the docstring of Options has no line `{field.name}: ...`")
    traits = kind.traits(kind.Options())
    claim(traits.any_subset == spec.any_subset, f"spec.any_subset is {spec.any_subset} and the default options make it the other")
    claim(traits.dims == spec.dims[0], f"spec.dims names {spec.dims[0]} first and the default options make it {traits.dims}-D")
    able = {each.traits.dims for each in subjects_of(kind)}
    claim(able == set(spec.dims), f"spec.dims is {spec.dims} and options give {sorted(able)}; an option `dims` chooses")
    claim(subject.make().traits == subject.traits, "an instance has other traits than its class gives for its options")


def check_presets_build(subject: Subject) -> None:
    """Every preset makes a configuration, and a network's has one budget."""
    kind = subject.kind
    for preset, values in kind.presets.items():
        try:
            config = build_config(kind, preset, {}, [], subject.sources, subject.targets, value_range=value_range)
        except SynthmrError as error:
            raise AssertionError(f"the preset {preset!r} cannot be used: {error}") from error
        claim(isinstance(config.options, kind.Options), f"the preset {preset!r} gives no Options")
        budgets = [key for key in BUDGETS if getattr(config.train, key)]
        claim(len(budgets) == int(kind.trains_in_steps), f"the preset {preset!r} sets {len(budgets)} budgets (train.minutes, ...)")
        for key, value in values.items():
            section, _, field = key.partition(".")
            claim(getattr(getattr(config, section), field) == value, f"the preset {preset!r} does not set {key} to {value!r}")


def check_the_number_of_contrasts_is_held_to(subject: Subject) -> None:
    """More or fewer than the spec says are refused before anything is built, and roles that exclude each other too."""
    kind, spec, preset = subject.kind, subject.spec, next(iter(subject.kind.presets))
    for sources, targets in ((spec.sources[1] + 1, 1), (spec.sources[0] - 1, 1), (spec.sources[0], spec.targets[1] + 1)):
        with refused(["contrasts and was given"], f"{sources} sources and {targets} targets, which the spec does not allow,"):
            build_config(kind, preset, {}, [], SOURCES[:sources], TARGETS[:targets], value_range=value_range)
    if not kind.traits(kind.Options()).any_subset:
        with refused(["both source and target"], "a contrast in both roles, of a method that needs all sources,"):
            build_config(kind, preset, {}, [], subject.sources, subject.sources[:1], value_range=value_range)
