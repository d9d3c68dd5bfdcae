"""Configuration: frozen dataclasses <-> YAML <-> command line, with strict keys and a stable hash.

A run is described by one `RunConfig`. Its sections are dataclasses, so that ``prepare.normalizer`` in a YAML file,
``--set prepare.normalizer=zscore`` and ``config.prepare.normalizer`` are the same thing. `options` is the method's own
dataclass (``HiNetOptions`` for Hi-Net). Order of precedence: defaults < method preset < YAML file < ``--set``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from synthmr import documents
from synthmr.errors import DataError, UsageError, did_you_mean, shown

T = TypeVar("T")


@dataclass(frozen=True)
class PrepareConfig:
    """How volumes become arrays. `synthmr.prepare` documents the steps.

    Attributes:
        mask: auto (file, else non-zero voxels of skull-stripped images, else Otsu), file, nonzero or otsu.
        margin: voxels kept around the brain's bounding box.
        normalizer: of the target contrasts: minmax, percentile, zscore, mean or nyul.
        source_normalizer: of contrasts that are sources alone; empty means the same as `normalizer`.
        percentile: upper percentile of the brain's voxels that `percentile` maps to +1.
    """

    mask: str = "auto"
    margin: int = 2
    normalizer: str = "percentile"
    source_normalizer: str = ""
    percentile: float = 99.5


@dataclass(frozen=True)
class SampleConfig:
    """What one training sample is.

    Attributes:
        mode: slices (whole slices), patches (random windows of `patch`), tiles (the regular overlapping windows of
            `patch` that cover the centre crop `crop`; Hi-Net's four 128x128 patches of 160x180) or boxes (random windows of `box`,
            for methods that work in three dimensions).
        plane: axial, coronal or sagittal: the slices that a method of two dimensions sees.
        crop: (H, W) of the centre crop in voxels; (0, 0) means the smallest size that holds every training brain.
        patch: (H, W) of patches and tiles, in voxels.
        box: (X, Y, Z) of boxes, in voxels.
        min_brain: slices whose share of brain pixels in the crop is below this are not drawn; boxes are drawn anew.
        batch: samples a step (on each device).
        resize: (H, W) that each slice's crop is resized to (mode slices alone, with a crop); (0, 0) keeps the voxel size.
        middle: only this many slices in the middle of each brain are drawn; 0 draws all.
        labelled: draw only slices or boxes with a labelled pixel: on, off, or auto (where every case has a segmentation).
        paired: whether the targets of a sample show the anatomy of its sources: on, off (they come from another subject,
            always) or auto (off for methods that can train unpaired).
        subsets: which of its sources a sample shows: all, drawn (all or a random subset; for methods that take any) or auto (drawn
            where the method asks for it, or a contrast is both source and target; then the truth is never shown).
    """

    mode: str = "slices"
    plane: str = "axial"
    crop: tuple[int, int] = (0, 0)
    patch: tuple[int, int] = (128, 128)
    box: tuple[int, int, int] = (64, 64, 64)
    min_brain: float = 0.05
    batch: int = 8
    resize: tuple[int, int] = (0, 0)
    middle: int = 0
    labelled: str = "off"
    paired: str = "auto"
    subsets: str = "auto"


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of training samples; probabilities in [0, 1], 0 turns a change off.

    Spatial changes act on all contrasts, mask and labels alike; intensity changes act on the sources alone, each
    contrast by its own draw.

    Attributes:
        flip: probability of a left-right flip (sagittal slices have no left and right and stay).
        rotate: largest rotation in degrees (uniform, both directions).
        scale: largest relative change of size (0.1: uniform in 0.9 to 1.1).
        shift: largest shift in voxels.
        mix: probability that a source's intensity distribution is moved towards (or away from, up to 30 % beyond) that of
            another training case, by matching quantiles; draws the sites of a cohort nearer to each other.
        gain: largest relative change of a source's gain.
        gamma: largest log2 change of a source's gamma exponent on [0, 1].
        curve: strength of a random monotone intensity map of a source (continuous, in six straight pieces), 0 to 1.
        bias: largest relative amplitude of a smooth multiplicative field over a source.
        noise: largest standard deviation of Gaussian noise in a source, in units of [0, 1] intensity.
    """

    flip: float = 0.0
    rotate: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    mix: float = 0.0
    gain: float = 0.0
    gamma: float = 0.0
    curve: float = 0.0
    bias: float = 0.0
    noise: float = 0.0


@dataclass(frozen=True)
class TrainConfig:
    """The training loop. Exactly one of `steps`, `epochs`, `minutes` says how long; the first that is set counts.

    Attributes:
        steps: optimisation steps; 0 if another measure is used.
        epochs: passes over the training samples.
        minutes: wall-clock minutes of training (validation included).
        optimizer: adam or adamw.
        lr: learning rate at the start.
        beta1: Adam's first moment.
        beta2: Adam's second moment.
        weight_decay: decoupled for adamw, L2 for adam.
        schedule: constant, linear (constant until `decay_start`, then linearly to 0) or cosine (same, half cosine).
        decay_start: share of the training at which the decay starts, in [0, 1).
        warmup: steps of linear warm-up.
        clip: largest gradient norm of an update; 0 is off.
        ema: decay of the exponential moving average of the weights that is validated and used afterwards; 0 is off.
        precision: auto (bf16 where the device gains from it), 32 or bf16.
        channels_last: auto, on or off.
        validate_every: steps between validations; 0 means twenty times a run.
        keep_after: share of the training, in [0, 1), whose weights are kept as the best only until later ones are validated:
            a network that is still grey can have the right brightness by luck and win on PSNR. 0 is off.
        patience: validations without a better score before the run stops; 0 is off.
        brightness: learn at the end how far the brightness of a predicted volume can be told from the volume itself, and correct
            it by that (`synthmr.prepare.brightness`); for targets with the normaliser `percentile`.
        images: write pictures of one validation slice at every validation.
        tensorboard: write TensorBoard events as well (needs the extra ``tensorboard``).
    """

    steps: int = 0
    epochs: int = 0
    minutes: float = 0.0
    optimizer: str = "adam"
    lr: float = 2e-4
    beta1: float = 0.5
    beta2: float = 0.999
    weight_decay: float = 0.0
    schedule: str = "linear"
    decay_start: float = 0.5
    warmup: int = 0
    clip: float = 0.0
    ema: float = 0.0
    precision: str = "auto"
    channels_last: str = "auto"
    validate_every: int = 0
    keep_after: float = 0.25
    patience: int = 0
    brightness: bool = True
    images: bool = True
    tensorboard: bool = False


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides what a run computes.

    Attributes:
        method: a name of `synthmr methods`, or of a class that `code` says where to find.
        preset: the preset that `options` and the sections started from.
        sources: canonical contrast names that go in.
        targets: canonical contrast names that come out.
        seed: of every random number of the run.
        options: the method's own dataclass (a mapping until the method is known).
        code: ``/path/to/file.py:Class`` or ``package.module:Class`` of a method that is no installed one; else empty.
    """

    method: str
    preset: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    seed: int = 0
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    options: Any = None
    code: str = ""

    @property
    def method_word(self) -> str:
        """What finds the method's class: `code`, or its name."""
        return self.code or self.method


SECTIONS = ("prepare", "sample", "augment", "train", "options")

#: section.key of older runs -> what it is called now
RENAMED = {"train.level": "train.brightness", "prepare.plane": "sample.plane"}


def check_resize(sample: SampleConfig, divisor: int) -> None:
    """Refuse a ``sample.resize`` that has nothing to resize, or whose size a method cannot take.

    Args:
        sample: what a sample is.
        divisor: of the method.

    Raises:
        UsageError: it cannot be done.
    """
    height, width = sample.resize
    if (height, width) == (0, 0):
        return
    words = f"sample.resize={height},{width}"
    if min(height, width) < 1:
        raise UsageError(f"{words}: both sizes are at least 1 pixel; give two, or 0,0 for no resizing.")
    if sample.mode != "slices" or sample.crop == (0, 0):
        given = f"sample.mode={sample.mode} and sample.crop={','.join(map(str, sample.crop))}"
        raise UsageError(
            f"{words} resizes the centre crop of whole slices and was given {given}; set sample.mode=slices and a sample.crop, or"
            " sample.resize=0,0."
        )
    if height % divisor or width % divisor:
        near = ",".join(str(-(-edge // divisor) * divisor) for edge in (height, width))
        raise UsageError(f"{words} must be multiples of {divisor} for this method; use sample.resize={near}.")


def to_dict(config: Any) -> Any:
    """Dataclass -> plain JSON data (tuples become lists)."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(key): to_dict(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_dict(value) for value in config]
    return config


def config_hash(config: Any, length: int = 12) -> str:
    """First ``length`` hex digits of the SHA-256 of the configuration's canonical JSON."""
    text = json.dumps(to_dict(config), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _convert(value: Any, kind: Any, key: str) -> Any:
    """Check ``value`` against the annotated type ``kind`` and convert what YAML or a shell cannot express."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert(value, next(a for a in args if a is not type(None)), key)
    if origin is tuple:
        items = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
        if not isinstance(items, Sequence) or ((len(args) != 2 or args[1] is not Ellipsis) and len(items) != len(args)):
            raise UsageError(f"{key}={shown(value)} does not fit {kind}; write {len(args)} values separated by commas.")
        kinds = [args[0]] * len(items) if args[-1] is Ellipsis else args
        return tuple(_convert(item, each, key) for item, each in zip(items, kinds, strict=True))
    if kind is bool:
        if isinstance(value, bool):
            return value
        if str(value).lower() in ("true", "yes", "on", "1"):
            return True
        if str(value).lower() in ("false", "no", "off", "0"):
            return False
        raise UsageError(f"{key}={shown(value)} is not true or false.")
    if kind is str and isinstance(value, bool):
        return "on" if value else "off"  # as which YAML reads a bare on or off
    if dataclasses.is_dataclass(kind):
        return from_dict(typing.cast(type, kind), value, key + ".")
    try:
        if kind is int and (isinstance(value, bool) or float(value) != int(float(value))):
            raise ValueError
        return int(float(value)) if kind is int else kind(value)
    except (TypeError, ValueError, OverflowError):
        word = {int: "a whole number", float: "a number", str: "a word"}.get(kind, str(kind))
        raise UsageError(f"{key}={shown(value)} is not {word}.") from None


def from_dict(kind: type[T], data: Mapping[str, Any], prefix: str = "") -> T:
    """Build the dataclass ``kind`` from plain data.

    Raises:
        UsageError: an unknown key (with a suggestion), or a value of the wrong type.
    """
    if not isinstance(data, Mapping):
        raise UsageError(f"{prefix.rstrip('.') or 'the configuration'} must be key: value pairs, not {shown(data)}.")
    hints = typing.get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(typing.cast(Any, kind))]
    for key in data:
        if key not in names:
            raise UsageError(f"unknown key {prefix + str(key)!r}: {did_you_mean(str(key), names)}")
    return kind(**{key: _convert(value, hints[key], prefix + key) for key, value in data.items()})


def merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Nested update of plain data: ``top`` wins, sections are merged key by key."""
    out = dict(base)
    for key, value in top.items():
        out[key] = merge(out[key], value) if isinstance(value, Mapping) and isinstance(out.get(key), Mapping) else value
    return out


def nest(pairs: Mapping[str, Any]) -> dict[str, Any]:
    """``{"train.lr": 1}`` -> ``{"train": {"lr": 1}}``."""
    out: dict[str, Any] = {}
    for key, value in pairs.items():
        section, dot, name = key.partition(".")
        out = merge(out, {section: {name: value}} if dot else {key: value})
    return out


def parse_settings(pairs: Sequence[str], options: type) -> dict[str, Any]:
    """Parse ``key=value`` words of ``--set`` into nested plain data.

    A key is dotted (``train.lr``) or, where only one section has it, short (``lr``).

    Raises:
        UsageError: no ``=``, an unknown key, or a short key that two sections have.
    """
    kinds = {"prepare": PrepareConfig, "sample": SampleConfig, "augment": AugmentConfig, "train": TrainConfig, "options": options}
    known = [f"{section}.{f.name}" for section, kind in kinds.items() for f in dataclasses.fields(kind)] + ["seed"]
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--set {pair!r} is not of the form key=value; write for example --set train.lr=1e-3.")
        if key in RENAMED:
            raise UsageError(f"--set {key} is called {RENAMED[key]} now; write --set {RENAMED[key]}={value}.")
        matches = [name for name in known if key in (name, name.partition(".")[2])]
        if key in known:
            matches = [key]
        if len(matches) > 1:
            raise UsageError(f"--set {key} is ambiguous: write {' or '.join(matches)}.")
        if not matches:
            raise UsageError(f"unknown key {key!r} in --set: {did_you_mean(key, known)}")
        settings[matches[0]] = value
    return nest(settings)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        DataError: the file cannot be read, or is no YAML mapping.
    """
    data = documents.read_yaml(path)
    if not isinstance(data, dict):
        raise DataError(f"{path} holds no key: value pairs.")
    return data


def write_yaml(path: Path, config: Any) -> None:
    """Write a configuration as YAML."""
    import yaml

    path.write_text(yaml.safe_dump(to_dict(config), sort_keys=False), encoding="utf-8")
