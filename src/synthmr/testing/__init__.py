"""`check_method(cls)`: whether a class keeps what every method promises. No paper is needed for it, and no data.

    from synthmr.testing import check_method

    def test_my_method_follows_the_contract():
        check_method(MyMethod)

Each promise is a function of its own, so that a failure names it; `checks_of` lists those that apply to a class. They train
tiny networks on random images for some seconds. None of them judges how well a method synthesises.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from synthmr.methods.contract import misfits
from synthmr.testing import prediction, training
from synthmr.testing.subject import TINY, Subject, claim, subjects_of

__all__ = ["Subject", "check_method", "checks_of", "subjects_of"]

Check = Callable[[Subject], None]

ALWAYS: tuple[Check, ...] = (
    training.check_the_class,
    training.check_presets_build,
    training.check_the_number_of_contrasts_is_held_to,
    prediction.check_outputs,
    prediction.check_a_prediction_depends_on_its_own_sources_alone,
    prediction.check_inputs_are_not_changed,
    prediction.check_an_unknown_input_is_refused,
    prediction.check_a_missing_source,
    prediction.check_an_unknown_target_is_refused,
    prediction.check_other_shapes_are_refused,
    prediction.check_the_order_of_a_batch_is_irrelevant,
    training.check_a_saved_method_predicts_the_same,
    training.check_the_state_of_another_method_is_refused,
    training.check_the_seed_decides,
)
NETWORKS: tuple[Check, ...] = (training.check_groups_partition_the_parameters, training.check_each_update_changes_its_group_alone)
FITTED: tuple[Check, ...] = (prediction.check_a_method_that_was_not_fitted_says_so,)
ANY_SUBSET: tuple[Check, ...] = (
    prediction.check_a_hidden_source_does_not_leak,
    prediction.check_a_hidden_truth_does_not_leak,
    prediction.check_the_order_of_sources_is_irrelevant,
)
ANY_SUBSET_NETWORKS: tuple[Check, ...] = (training.check_incomplete_samples_train,)


def checks_of(subject: Subject) -> tuple[Check, ...]:
    """The checks that apply to a class with its options."""
    network, subset = subject.kind.trains_in_steps, subject.traits.any_subset and len(subject.sources) > 1
    return (
        *ALWAYS,
        *(NETWORKS if network else FITTED),
        *(ANY_SUBSET if subset else ()),
        *(ANY_SUBSET_NETWORKS if subset and network else ()),
    )


def check_method(kind: Any, *, phantom: Path | str | None = None) -> None:
    """Hold a class against everything that a method promises.

    Args:
        kind: the class.
        phantom: a cohort of `synthmr phantom`; the class is then trained on it for two steps and scored as well.

    Raises:
        AssertionError: promises that it does not keep: one sentence each, after the name of the check.
    """
    broken = misfits(kind)
    if broken:
        raise AssertionError(f"{getattr(kind, '__qualname__', kind)} is no method: {'; '.join(broken)}.")
    found: list[str] = []
    generator = torch.get_rng_state()
    for subject in subjects_of(kind):
        for check in checks_of(subject):
            found += _outcome(subject, check)
    torch.set_rng_state(generator)
    if phantom is not None and not found:
        found += _outcome(Subject(kind), lambda subject: check_training_on(subject, Path(phantom)))
    if found:
        raise AssertionError(
            f"{kind.__qualname__} breaks the contract:\n" + "\n".join(f"- {line}" for line in dict.fromkeys(found))
        )


def _outcome(subject: Subject, check: Check) -> list[str]:
    """What a check found: nothing, or one line."""
    name = getattr(check, "__name__", "check").removeprefix("check_").replace("_", " ")
    what = name if not subject.chosen else f"{name} ({subject.name})"
    try:
        check(subject)
    except AssertionError as error:
        return [f"{what}: {error}"]
    except Exception as error:  # whatever somebody else's class raises is a finding, not the end
        return [f"{what}: raised {type(error).__name__}: {' '.join(str(error).split())}"]
    return []


def check_training_on(subject: Subject, cohort: Path) -> None:
    """The class trains on a cohort, is found again from its run folder, and gives finite scores."""
    from synthmr import pipeline
    from synthmr.methods import registry

    kind, spec = subject.kind, subject.spec
    known = registry.available()
    if spec.name not in known:
        registry.register(kind)
    names = ("T1w", "T2w", "PDw", "T1ce")[: max(spec.sources[0], min(2, spec.sources[1]))]
    targets = ("FLAIR", *(name for name in ("T1ce", "PDw", "T2w", "T1w") if name not in names))[: spec.targets[0]]
    claim(len(names) >= spec.sources[0], f"the phantom has too few contrasts for {spec.sources[0]} sources")
    claim(len(targets) >= spec.targets[0], f"the phantom has too few contrasts for {spec.targets[0]} targets beside the sources")
    options = [f"options.{key}={value}" for key, value in TINY.items() if key in subject.known]
    try:
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            config = pipeline.configure(
                spec.name, ",".join(names), ",".join(targets), settings=options, budget={"steps": 2} if kind.trains_in_steps else {}
            )
            store, split = pipeline.prepared(cohort, config, cache=Path(folder) / "cache")
            pipeline.train(config, store, split, run, data=cohort)
            rows = [row for row in pipeline.evaluate([run], cohort, "all").rows if row.metric == "psnr"]
            claim(rows and all(math.isfinite(row.value) for row in rows), "a PSNR is not finite")
    finally:
        if spec.name not in known:
            registry.forget(kind)
