"""A case beside the training cases of a run: measured when it is prepared, compared whenever it is predicted or written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from synthmr.case import PreparedCase, Volume, spacing_of
from synthmr.data.parts import digest_image
from synthmr.errors import DataError
from synthmr.prepare import background, crop, orient
from synthmr.prepare.case import find_step
from synthmr.prepare.domain import Alarm, first_certain
from synthmr.prepare.measure import STEP, measure

if TYPE_CHECKING:
    from synthmr.run import LoadedRun


def measured(prepared: PreparedCase, volumes: Mapping[str, Volume], given: Sequence[str]) -> dict[str, Any]:
    """What the images are like that a prediction is made from: a step for the history of a prepared case.

    Args:
        prepared: of ``volumes``.
        volumes: contrast -> volume in scanner units, as in the files.
        given: the contrasts to measure; the truth is none of them.
    """
    turn, box = find_step(prepared.history, "orient"), find_step(prepared.history, "crop")
    constants = background.steps(prepared.history)
    whole = {name: background.apply(orient.apply(volumes[name].array, turn), constants.get(name)) for name in given}
    return measure(
        {name: crop.apply(array, box) for name, array in whole.items()},
        prepared.mask,
        spacing_of(prepared.affine),
        box["shape"],
        box["start"],
        str(find_step(prepared.history, "mask")["mode"]),
        {name: constants.get(name) for name in given},
        {name: digest_image(array) for name, array in whole.items()},
    )


def alarms_of(runs: Iterable[LoadedRun], history: Sequence[Mapping[str, Any]], case: str = "") -> tuple[Alarm, ...]:
    """What of a case is outside of what some runs saw; nothing where runs or case are of versions that kept no numbers.

    Args:
        runs: that predict it.
        history: of the prepared case, or of its prediction.
        case: its name.

    Raises:
        RunError: what a run kept is damaged.
    """
    found = next((step for step in history if step["step"] == STEP), None)
    if found is None:
        return ()
    domains = [run.domain for run in runs]
    return tuple(dict.fromkeys(alarm for domain in domains if domain is not None for alarm in domain.compare(found, case=case)))


def refuse_certain(alarms: Iterable[Alarm], case: str) -> None:
    """Refuse images that are certainly none that the run can be given.

    Raises:
        DataError: there is a certain alarm.
    """
    alarm = first_certain(alarms)
    if alarm is not None:
        raise DataError(f"case {case}: {alarm.text} ({alarm.code}) Give the right images, or insist with --force.")
