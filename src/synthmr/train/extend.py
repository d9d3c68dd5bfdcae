"""New contrasts for a trained run: the old encoders and decoders stay as they are, to the bit (MILR, Section VI-E).

A run is extended into a new folder. Its configuration names the old and the new contrasts, and the old ones as frozen; its weights
start from the old run's; what the old run's outputs mean in scanner units is kept, whatever the new data are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthmr.case import Cohort
from synthmr.config import RunConfig, parse_settings, to_dict
from synthmr.errors import DataError, RunError, UsageError
from synthmr.io.naming import some
from synthmr.methods.configure import BUDGETS, build_config
from synthmr.predict.frame import Frame
from synthmr.prepare.brightness import to_json
from synthmr.prepare.normalize import value_range

if TYPE_CHECKING:
    from synthmr.run import LoadedRun


def extended_config(
    run: LoadedRun,
    add_sources: Sequence[str],
    add_targets: Sequence[str],
    settings: Sequence[str] = (),
    budget: Mapping[str, float] | None = None,
    seed: int | None = None,
) -> RunConfig:
    """The configuration of a run with more contrasts.

    Args:
        run: trained.
        add_sources: canonical names of new sources.
        add_targets: canonical names of new targets.
        settings: ``key=value`` words, of training alone.
        budget: one of steps, epochs, minutes; default: the old run's.
        seed: default: the old run's.

    Raises:
        UsageError: the method cannot be extended, nothing is added, a contrast is there already, or a word that is not of training.
    """
    method, old = type(run.method), run.config
    if not method.spec.extendable:
        raise UsageError(
            f"{old.method} has its contrasts built in when it is trained; train it anew, or use milr, which can be extended."
        )
    added = [*add_sources, *add_targets]
    if not added:
        raise UsageError("nothing to add: give --add-target or --add-source.")
    for name in added:
        if name in (*old.sources, *old.targets):
            raise UsageError(f"{name} is a contrast of this run already; add another one.")
    # one by one, because short keys name no section: fusion=mean is options.fusion=mean
    wrong = [word for word in settings if {"prepare", "options"} & parse_settings([word], method.Options).keys()]
    if wrong:
        raise UsageError(f"--set {wrong[0]}: preparation and network are the old run's; --set train.*, sample.* or augment.* here.")
    data: dict[str, Any] = to_dict(old)
    data["options"]["frozen"] = []
    kept = {key: data[key] for key in ("prepare", "sample", "augment", "train", "options", "seed")}
    if not budget and not any(word.partition("=")[0].removeprefix("train.") in BUDGETS for word in settings):
        budget = {key: data["train"][key] for key in BUDGETS if data["train"][key]}
    if seed is not None:
        kept["seed"] = seed
    sources, targets = (*old.sources, *add_sources), (*old.targets, *add_targets)
    config = build_config(method, old.preset, kept, settings, sources, targets, seed=seed, budget=budget, value_range=value_range)
    if Frame.of(config.sample) != Frame.of(old.sample):
        raise UsageError(
            "sample.mode, sample.crop and sample.resize decide at which size every output is computed, the old ones too;"
            " leave them as the old run has them."
        )
    return dataclasses.replace(config, options=dataclasses.replace(config.options, frozen=(*old.sources, *old.targets)))


def inherited_split(run: LoadedRun, cohort: Cohort, contrasts: Sequence[str]) -> Path | None:
    """The split file of the run, where the data hold its cases: those that were held out stay held out.

    Args:
        run: the run to extend.
        cohort: the data.
        contrasts: of the extended run; cases that lack one are not used.

    Returns:
        None for data that share no case with the run, or that bring new cases and a split of their own.

    Raises:
        DataError: the data hold cases of the run and new ones and have no split: one drawn anew could train on what was held out.
    """
    usable = [case.name for case in cohort.cases if all(name in case.images for name in contrasts)]
    fresh = [name for name in usable if name not in run.split.names]
    if usable and not fresh:
        return run.folder.path / "split.tsv"
    if len(fresh) < len(usable) and cohort.split_source is None:
        raise DataError(
            f"{cohort.root} holds {len(usable) - len(fresh)} cases of the run and {len(fresh)} others ({some(fresh)}); say with"
            " --split-file what each is for, so that cases that the run held out stay held out."
        )
    return None


def check_landmarks(run: LoadedRun, landmarks: Mapping[str, Any]) -> None:
    """Check that the new data are normalised as the old ones were.

    Args:
        run: the run to extend.
        landmarks: contrast -> what the new data give.

    Raises:
        UsageError: nyul landmarks, which are learnt from the training cases, differ.
    """
    for name, marks in run.landmarks.items():
        if landmarks.get(name) != marks:
            raise UsageError(
                f"the run learnt the nyul scale of {name} from its own training cases, and these data give another; extend it on"
                " the data and split it was trained with."
            )


def adopt(method: Any, run: LoadedRun) -> None:
    """Give a method with more contrasts the weights of the run it extends.

    Raises:
        RunError: the run's weights do not fit.
    """
    state = run.method.state_dict()
    own = method.state_dict()
    unknown = [name for name, value in state.items() if name not in own or own[name].shape != value.shape]
    if unknown:
        raise RunError(f"the weights of {run.folder.path} do not fit the extended network: {unknown[0]}; the run is damaged.")
    method.load_state_dict({**own, **state})


def inherit(info: Mapping[str, Any], run: LoadedRun) -> dict[str, Any]:
    """The record of a run that extends another: what its old outputs mean stays what it was."""
    normalizers = {**info["target_normalizers"], **run.target_normalizers}
    units = {**info["target_units"], **{name: each.as_dict() for name, each in run.units.items()}}
    landmarks = {**info["landmarks"], **run.landmarks}
    kept = {"target_normalizers": normalizers, "target_units": units, "landmarks": landmarks, "brightness": to_json(run.brightness)}
    return {**info, **kept, "extends": run.hash}
