"""From a method, a preset and a person's words to one checked `RunConfig`. Order: defaults < preset < YAML < --set < budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from synthmr.config import RENAMED, SECTIONS, RunConfig, check_resize, from_dict, merge, nest, parse_settings
from synthmr.errors import UsageError, did_you_mean
from synthmr.methods import registry
from synthmr.methods.contract import check_request, is_paired

BUDGETS = ("steps", "epochs", "minutes")

Range = tuple[float, float] | None


def get_preset(method: Any, name: str) -> dict[str, Any]:
    """The overrides of a preset, nested by section.

    Raises:
        UsageError: the method has no such preset.
    """
    if name not in method.presets:
        raise UsageError(f"{method.spec.name} has no preset {name!r}: {did_you_mean(name, method.presets)}")
    return nest(method.presets[name])


def build_config(
    method: Any,
    preset: str,
    yaml: Mapping[str, Any],
    settings: Sequence[str],
    sources: Sequence[str],
    targets: Sequence[str],
    seed: int | None = None,
    budget: Mapping[str, float] | None = None,
    value_range: Callable[[str], Range] = lambda name: None,
) -> RunConfig:
    """Merge and check.

    Args:
        method: a class of the registry.
        preset: where to start from.
        yaml: parts of a configuration file, nested.
        settings: ``key=value`` words.
        sources: canonical names that go in.
        targets: canonical names that come out.
        seed: of the run; None leaves what the file says, or 0.
        budget: one of steps, epochs, minutes from the command line; it replaces the preset's.
        value_range: normaliser name -> its bounds, or None.

    Raises:
        UsageError: an unknown key or value, or a request that the method cannot meet.
    """
    for section in SECTIONS:
        if not isinstance(yaml.get(section, {}), Mapping):
            raise UsageError(f"{section} must be key: value pairs, not {yaml[section]!r}; fill the section or leave it out.")
    yaml = _renamed(yaml)
    typed = parse_settings(settings, method.Options)
    named = {**yaml.get("train", {}), **typed.get("train", {}), **(budget or {})}
    data = merge(merge(get_preset(method, preset), _without_names(yaml, method.spec.name, sources, targets)), typed)
    if budget or any(key in named for key in BUDGETS):
        # a budget that a person gave replaces the preset's, whatever its unit
        last = dict(budget or {}) or {key: typed.get("train", {}).get(key) for key in BUDGETS if key in typed.get("train", {})}
        last = last or {key: value for key, value in named.items() if key in BUDGETS}
        data = merge(data, {"train": {**dict.fromkeys(BUDGETS, 0), **last}})
    if seed is not None:
        data["seed"] = seed
    options = data.pop("options", {})
    head = {"method": method.spec.name, "preset": preset, "sources": tuple(sources), "targets": tuple(targets)}
    head["code"] = registry.word_of(method)
    config = from_dict(RunConfig, {**data, **head})
    config = dataclasses.replace(config, options=from_dict(method.Options, options, "options."))
    config = _in_three_dimensions(config, method, {**yaml.get("sample", {}), **typed.get("sample", {})})
    if method.spec.extendable and config.options.frozen:
        raise UsageError("options.frozen: `synthmr extend` fills it in, of a trained run's contrasts; leave it out.")
    _check_training(config, method)
    bounds, any_subset = value_range(config.prepare.normalizer), method.traits(config.options).any_subset
    check_request(method.spec, config.sources, config.targets, bounds, registry.serving, any_subset)
    if config.prepare.source_normalizer:
        value_range(config.prepare.source_normalizer)  # refuses an unknown name
    return config


def restore_config(method: Any, data: Mapping[str, Any]) -> RunConfig:
    """The configuration that a run folder saved.

    Raises:
        UsageError: it holds unknown keys or values of the wrong type.
    """
    plain = _renamed(data)
    options = from_dict(method.Options, plain.pop("options", None) or {}, "options.")
    return dataclasses.replace(from_dict(RunConfig, plain), options=options)


def _renamed(data: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration that an older synthmr wrote, in today's words."""
    plain = {key: dict(value) if isinstance(value, Mapping) else value for key, value in data.items()}
    for old, new in RENAMED.items():
        section, _, key = old.partition(".")
        if key in plain.get(section, {}):
            home, _, name = new.partition(".")
            plain.setdefault(home, {})[name] = plain[section].pop(key)
    return plain


def _without_names(yaml: Mapping[str, Any], method: str, sources: Sequence[str], targets: Sequence[str]) -> dict[str, Any]:
    """A saved config.yaml can be given as ``--config``; what it says of method and contrasts must not contradict the call."""
    rest = dict(yaml)
    for key, given in (("method", method), ("sources", list(sources)), ("targets", list(targets))):
        stored = rest.pop(key, given)
        if stored != given:
            raise UsageError(f"the configuration file says {key}: {stored} and the call says {given}; change one of them.")
    return {key: value for key, value in rest.items() if key not in ("preset", "code")}


def _in_three_dimensions(config: RunConfig, method: Any, named: Mapping[str, Any]) -> RunConfig:
    """The configuration with boxes for samples where the method works in three dimensions and nobody said otherwise.

    Args:
        config: merged.
        method: a class of the registry.
        named: what a person said of ``sample``; the rest is of presets, which are for slices.
    """
    if method.traits(config.options).dims != 3:
        return config
    preset: dict[str, Any] = {"mode": "boxes", "crop": (0, 0), "resize": (0, 0), "middle": 0}
    changes = {key: value for key, value in preset.items() if key not in named}
    return dataclasses.replace(config, sample=dataclasses.replace(config.sample, **changes))


def _check_dimensions(config: RunConfig, method: Any) -> None:
    """Check that samples have the dimensions that the method works in, and that subsets are drawn for one that takes them.

    Raises:
        UsageError: they do not.
    """
    sample, traits, name = config.sample, method.traits(config.options), method.spec.name
    if traits.dims == 2 and sample.mode == "boxes":
        raise UsageError(f"sample.mode=boxes: {name} works on slices with these options; use slices, patches or tiles.")
    if traits.dims == 3:
        if sample.mode != "boxes":
            raise UsageError(f"sample.mode={sample.mode}: {name} works on volumes with these options; use sample.mode=boxes.")
        flat = [key for key in ("crop", "resize") if getattr(sample, key) != (0, 0)] + ["middle"] * bool(sample.middle)
        if flat:
            value = getattr(sample, flat[0])
            words = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            raise UsageError(f"sample.{flat[0]}={words} is of slices, and {name} works on volumes here; leave it out (sample.box).")
        if any(edge % method.spec.divisor for edge in sample.box):
            near = ",".join(str(-(-edge // method.spec.divisor) * method.spec.divisor) for edge in sample.box)
            raise UsageError(
                f"sample.box={','.join(map(str, sample.box))} must be multiples of {method.spec.divisor} for {name}; use {near}."
            )
    if sample.subsets == "drawn" and not traits.any_subset:
        raise UsageError(f"sample.subsets=drawn: {name} needs all of its sources; use a method that takes any subset (milr).")


def _check_training(config: RunConfig, method: Any) -> None:
    """Values that have a type but make no sense."""
    train, sample, augment = config.train, config.sample, config.augment
    words: list[tuple[str, object, Sequence[str]]] = [
        ("train.optimizer", train.optimizer, ("adam", "adamw")),
        ("train.schedule", train.schedule, ("constant", "linear", "cosine")),
        ("train.precision", train.precision, ("auto", "32", "bf16")),
        ("train.channels_last", train.channels_last, ("auto", "on", "off")),
        ("sample.mode", sample.mode, ("slices", "patches", "tiles", "boxes")),
        ("sample.plane", sample.plane, ("axial", "coronal", "sagittal")),
        ("sample.subsets", sample.subsets, ("auto", "all", "drawn")),
        ("sample.paired", sample.paired, ("auto", "on", "off")),
        ("sample.labelled", sample.labelled, ("auto", "on", "off")),
        ("prepare.mask", config.prepare.mask, ("auto", "file", "nonzero", "otsu")),
    ]
    for key, value, allowed in words:
        if value not in allowed:
            raise UsageError(f"{key}={value!r}: {did_you_mean(str(value), allowed)}")
    limits: list[tuple[str, float, float, float]] = [
        ("train.lr", train.lr, 0, 10),
        ("train.beta1", train.beta1, 0, 0.9999999),
        ("train.beta2", train.beta2, 0, 0.9999999),
        ("train.ema", train.ema, 0, 0.9999999),
        ("train.decay_start", train.decay_start, 0, 0.9999999),
        ("train.keep_after", train.keep_after, 0, 0.9999999),
        ("train.clip", train.clip, 0, float("inf")),
        ("train.weight_decay", train.weight_decay, 0, 10),
        ("sample.batch", sample.batch, 1, 4096),
        ("sample.min_brain", sample.min_brain, 0, 1),
        ("sample.middle", sample.middle, 0, 100_000),
        ("prepare.margin", config.prepare.margin, 0, 1000),
        ("prepare.percentile", config.prepare.percentile, 50, 100),
        ("augment.flip", augment.flip, 0, 1),
        ("augment.mix", augment.mix, 0, 1),
        ("augment.rotate", augment.rotate, 0, 180),
        ("augment.scale", augment.scale, 0, 0.9),
        ("augment.gain", augment.gain, 0, 0.99),
        ("augment.curve", augment.curve, 0, 1),
        ("augment.bias", augment.bias, 0, 0.99),
        ("augment.shift", augment.shift, 0, 1000),
        ("augment.gamma", augment.gamma, 0, 5),
        ("augment.noise", augment.noise, 0, 1),
        ("seed", config.seed, 0, 2**63 - 1),
    ]
    limits += [("sample.patch", edge, 1, 100_000) for edge in sample.patch]
    limits += [("sample.box", edge, 1, 10_000) for edge in sample.box]
    limits += [("sample.resize", edge, 0, 100_000) for edge in sample.resize]
    limits += [("sample.crop", edge, 0 if sample.crop == (0, 0) else 1, 100_000) for edge in sample.crop]
    limits += [(f"train.{name}", getattr(train, name), 0, 1e12) for name in (*BUDGETS, "warmup", "validate_every", "patience")]
    for key, number, low, high in limits:
        if not low <= number <= high:
            raise UsageError(f"{key}={number:g} is outside {low:g} to {high:g}.")
    _check_dimensions(config, method)
    check_resize(sample, method.spec.divisor)
    is_paired(method.spec, sample)  # refuses what the method cannot do
    given = [key for key in BUDGETS if getattr(train, key)]
    if given and not method.trains_in_steps:
        raise UsageError(f"{config.method} is fitted in one go and takes no --{given[0]}; leave it out.")
    if len(given) > 1:
        raise UsageError(f"train.{' and train.'.join(given)} are both set; give one budget.")
    if not given and method.trains_in_steps:
        raise UsageError(f"{method.spec.name} needs a budget: --steps, --epochs or --minutes.")
