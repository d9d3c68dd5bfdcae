"""What a training run is checked for before it begins, that it can be continued and what its data hold, and what it is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from synthmr.config import RunConfig, to_dict
from synthmr.data.reader import Reader
from synthmr.data.split import Split
from synthmr.data.store import Store
from synthmr.errors import DataError, RunError, UsageError
from synthmr.labels import Evidence, Seen, present_in
from synthmr.methods import registry
from synthmr.prepare.brightness import to_json
from synthmr.run import LoadedRun, RunFolder
from synthmr.train.checkpoint import State
from synthmr.train.schedule import Budget

#: what of a configuration says how long a run trains
LENGTH = ("train.steps", "train.epochs", "train.minutes")


def length_of(config: RunConfig) -> str:
    """How long a run trains, in words."""
    return " and ".join(f"{key}={value:g}" for key in LENGTH if (value := getattr(config.train, key.partition(".")[2])))


def check_resumed(folder: RunFolder, config: RunConfig, store: Store, split: Split, world: int, extends: LoadedRun | None) -> None:
    """Check that a run can be continued with these words and data. How long it trains may differ.

    Raises:
        UsageError: it is finished, or something that decides its numbers differs.
    """
    out, info = folder.path, folder.info
    steps = bool(registry.load(config.method_word).trains_in_steps)
    stored, asked = _flat(to_dict(folder.config)), _flat(to_dict(config))
    changed = sorted(key for key in stored.keys() | asked.keys() if stored.get(key) != asked.get(key))
    length = [key for key in changed if key in LENGTH]
    changed = [key for key in changed if key not in LENGTH]
    if info.get("status") == "finished" and not (steps and length):
        more = "Give it more --steps, --minutes or --epochs, or train" if steps else "Train"
        raise UsageError(f"{out} is finished; there is nothing to resume. {more} into a new folder.")
    if changed:
        raise UsageError(
            f"{out} was started with another {', '.join(changed)} ({changed[0]} was {stored.get(changed[0])!r} and is"
            f" {asked.get(changed[0])!r}); resume with the same words, or start a new run."
        )
    if info.get("extends") != (extends.hash if extends is not None else None):
        # a run that was killed before its first checkpoint starts from the weights of the one that it extends
        raise UsageError(f"{out} extends another run, or none; resume it with the words that started it.")
    kept = folder.split
    if info.get("store") != store.fingerprint or (kept.train, kept.validation) != (split.train, split.validation):
        raise UsageError(f"{out} was started on other data (their content or split has changed); start a new run.")
    if info.get("processes") != world:
        raise UsageError(
            f"{out} was started with {info.get('processes')} processes and is resumed with {world}; use as many as before."
        )


def to_length(state: State, config: RunConfig, before: RunConfig, budget: Budget, run: RunFolder) -> None:
    """Bring the counters of a run that is resumed to the length that it has now.

    Args:
        state: of its last checkpoint; changed.
        config: how long it trains now.
        before: how long it was to train.
        budget: of ``config``.
        run: its folder.

    Raises:
        UsageError: it is finished, and the new length is no longer.
        RunError: it is finished, and has no checkpoint to go on from.
    """
    reached = budget.progress(state.step, state.elapsed)
    if run.info.get("status") == "finished":
        if not state.step:
            raise RunError(f"{run.place('last')} is missing, from which a finished run goes on; train into a new folder.")
        if reached >= 1:
            raise UsageError(
                f"{run.path} is finished, and {length_of(config)} is no longer than what it took ({state.step} steps,"
                f" {state.elapsed / 60:.3g} minutes); there is nothing to resume."
            )
        state.stale = 0  # whoever asks for more has more patience
    if length_of(before) == length_of(config):
        return
    if state.step:
        state.best_moment = state.best_step / state.step * reached
    state.mark = min(state.mark, budget.mark(state.step, state.elapsed, config.train.validate_every))


def reopened(info: Mapping[str, Any], extends: LoadedRun | None) -> dict[str, Any]:
    """The record of a run that goes on: without what is learnt at its end."""
    kept = {key: value for key, value in info.items() if key not in ("hash", "result", "error", "brightness")}
    inherited = {} if extends is None else {"brightness": to_json(extends.brightness)}
    return {**kept, **inherited, "status": "training"}


def continued_words(run: RunFolder, state: State, config: RunConfig, before: RunConfig) -> str:
    """What a person is told of a run that goes on."""
    told = f"continues after step {state.step}" if state.step else "no checkpoint was written yet; begins again, after step 0"
    now, then = length_of(config), length_of(before)
    return f"{run.path}: {told}" + (f", for {now} instead of {then}" if now != then else "")


def diverged(run: RunFolder, config: RunConfig, step: int, name: str, value: float) -> DataError:
    """The error for a loss or gradient that is not finite."""
    kept = run.checkpoint("last")
    words = f"The last good checkpoint is kept in {kept}." if kept.is_dir() else "There is no earlier checkpoint."
    return DataError(
        f"the loss or gradient of {name} is {value} at step {step}. {words} Lower train.lr (now {config.train.lr:g}),"
        " set train.clip=1 or train.precision=32, or look for odd intensities with `synthmr audit`."
    )


def labels_in(method: Any, reader: Reader, split: Split) -> Seen | None:
    """The labels of the segmentations of the training cases (and of validation, where the method needs them); None if a case
    has none, or the method uses none. A store knows the names of cases, not of files."""
    # what a method cannot do without, it needs in validation, too
    names = (*split.train, *split.validation) if "segmentation" in method.needs else split.train
    if "segmentation" not in (*method.needs, *method.spec.maps) or not all(reader.segmented(name) for name in names):
        return None
    return Seen(tuple(Evidence.of(present_in(np.asarray(reader.segmentation(name))), case=name) for name in names))


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = value
    return out
