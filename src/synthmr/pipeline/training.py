"""Configure, prepare, train, and train further."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthmr.contrasts import parse_aliases, resolve_list
from synthmr.errors import DataError, UsageError
from synthmr.pipeline.cohort import index
from synthmr.reading import Reading

if TYPE_CHECKING:
    from synthmr.config import RunConfig
    from synthmr.data.split import Need, Split
    from synthmr.data.store import Store
    from synthmr.pipeline.gate import Gate
    from synthmr.pipeline.ticks import Tick
    from synthmr.run import LoadedRun
    from synthmr.train.loop import TrainResult


def configure(
    method: str,
    sources: str,
    target: str,
    *,
    preset: str = "fast",
    config: Path | None = None,
    settings: Sequence[str] = (),
    budget: Mapping[str, float] | None = None,
    seed: int | None = None,
    aliases: Sequence[str] = (),
) -> RunConfig:
    """Resolve names and merge defaults < preset < YAML < ``--set`` < budget into one `RunConfig`.

    Raises:
        UsageError: unknown method, preset, key or contrast, or a request that the method cannot meet.
    """
    from synthmr.config import read_yaml
    from synthmr.methods import registry
    from synthmr.methods.configure import build_config
    from synthmr.prepare.normalize import value_range

    known = parse_aliases(aliases)
    return build_config(
        registry.load(method),
        preset,
        read_yaml(config) if config is not None else {},
        settings,
        resolve_list(sources, known),
        resolve_list(target, known),
        seed=seed,
        budget=budget or {},
        value_range=value_range,
    )


def prepared(
    data: Path,
    config: RunConfig,
    reading: Reading | None = None,
    cache: Path | None = None,
    out: Path | None = None,
    progress: Tick | None = None,
    split: Split | None = None,
    gate: Gate | None = None,
) -> tuple[Store, Split]:
    """Prepare a cohort (or open a prepared store) and settle its split, unless one is given (a fold's).

    ``gate`` audits the cases first; a prepared store has no files to audit.

    Raises:
        DataError: nothing to train on, data that cannot be prepared, or that the gate refuses.
        UsageError: a prepared store and a split: the store has its own.
    """
    from synthmr.data.split import make_split, usable_part
    from synthmr.data.store import Store, build

    need = needed(config)
    if (data / "store.json").is_file():
        if split is not None:
            raise UsageError(f"{data} is a prepared store, which has its own split; give the folder of images.")
        store = Store.open(data, cache)
        return store, usable_part(store.split, need, store.has)
    cohort = index(data, reading)
    split = split or make_split(cohort, need, config.seed)
    if gate is not None:
        split = gate.check(cohort, split, need.contrasts, cache, progress)
    store = build(cohort, split, need.contrasts, config.prepare, cache=cache, out=out, progress=progress)
    return store, split


def check_hardware(accelerator: str = "auto", devices: int = 1, nodes: int = 1) -> None:
    """Check that a machine has what a training is to run on, before hours of preparation.

    Raises:
        UsageError: unknown accelerator, or one that is not there.
    """
    from synthmr.train.runtime import Runtime

    Runtime(accelerator=accelerator, devices=devices, num_nodes=nodes).kind()


def check_out(out: Path, resume: bool = False, devices: int = 1, nodes: int = 1) -> None:
    """Check, before a cohort is prepared, that a run folder can be written.

    Raises:
        UsageError: it holds something, and nothing is to be resumed.
        RunError: it holds no run that could be resumed.
        DataError: it cannot be written.
    """
    from synthmr.run import RunFolder, has_begun, refuse_used
    from synthmr.train.runtime import Runtime

    if Runtime(devices=devices, num_nodes=nodes).worker:  # by now the first process may be at work there
        return
    if resume and (has_begun(out) or not out.exists()):
        RunFolder.open(out)
    else:
        refuse_used(out)
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise DataError(f"{out} cannot be written: no permission. Choose a folder that you may write to.")


def needed(config: RunConfig) -> Need:
    """What a run needs of its cases."""
    from synthmr.data.split import Need
    from synthmr.methods import registry

    method = registry.load(config.method_word)
    # a run that extends another learns its new contrasts alone: every case must have them
    any_subset = method.traits(config.options).any_subset and not getattr(config.options, "frozen", ())
    return Need(tuple(config.sources), tuple(config.targets), any_subset, getattr(method, "needs_target", True))


def train(
    config: RunConfig,
    store: Store,
    split: Split,
    out: Path,
    resume: bool = False,
    devices: int = 1,
    nodes: int = 1,
    accelerator: str = "auto",
    progress: Any = None,
    extends: LoadedRun | None = None,
    data: Path | None = None,
    gate: Gate | None = None,
) -> TrainResult:
    """Train and write a run folder; with ``extends``, of `extension`, one that starts from that run's weights.

    ``data``, the folder of images, is noted in the run, for `report`; so is what ``gate`` found in it.
    """
    from synthmr.run import RunFolder
    from synthmr.train.loop import train as loop
    from synthmr.train.runtime import Runtime

    runtime = Runtime(accelerator=accelerator, devices=devices, num_nodes=nodes)
    result = loop(config, store, split, out, resume, runtime, progress, extends)
    notes: dict[str, Any] = {}
    if data is not None and not (data / "store.json").is_file():
        notes["data"] = str(data.resolve())
        if gate is not None:
            notes["audit"] = gate.record()
    if notes and int(os.environ.get("LOCAL_RANK", "0")) == 0:
        folder = RunFolder.open(out)
        folder.write_info({**folder.info, **notes})
    return result


def extend(
    run: Path,
    data: Path,
    out: Path,
    add_sources: str = "",
    add_targets: str = "",
    *,
    resume: bool = False,
    progress: Any = None,
    **options: Any,
) -> TrainResult:
    """Train encoders or decoders for new contrasts of a run, whose old ones do not change; writes a new run folder.

    See `extension` for the options.

    Raises:
        UsageError, DataError: as `extension`.
    """
    from synthmr.train.loop import train as loop

    config, store, split, loaded = extension(run, data, add_sources, add_targets, **options)
    return loop(config, store, split, out, resume, None, progress, loaded)


def extension(
    run: Path,
    data: Path,
    add_sources: str = "",
    add_targets: str = "",
    settings: Sequence[str] = (),
    budget: Mapping[str, float] | None = None,
    seed: int | None = None,
    reading: Reading | None = None,
    cache: Path | None = None,
    tick: Tick | None = None,
    gate: Gate | None = None,
) -> tuple[RunConfig, Store, Split, LoadedRun]:
    """What `extend` trains: (configuration, prepared data, split, the run that is extended).

    Raises:
        UsageError: the method cannot be extended, or a contrast is there already.
        DataError: the data lack a contrast of the extended run.
    """
    from synthmr.data.reader import Reader
    from synthmr.run import load_run
    from synthmr.train.extend import check_landmarks, extended_config, inherited_split

    reading = reading or Reading()
    known = reading.known
    loaded = load_run(run)
    names = [tuple(resolve_list(words, known)) if words else () for words in (add_sources, add_targets)]
    config = extended_config(loaded, names[0], names[1], settings, budget, seed)
    if reading.split_file is None and not (data / "store.json").is_file():
        reading = reading.with_split(inherited_split(loaded, index(data, reading), (*config.sources, *config.targets)))
    store, split = prepared(data, config, reading, cache, progress=tick, gate=gate)
    check_landmarks(loaded, Reader(store, config.prepare, config.sources, config.targets).landmarks)
    return config, store, split, loaded
