"""How long a run is and what its learning rate is at each moment; both by progress in [0, 1]."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from synthmr.config import TrainConfig
from synthmr.errors import UsageError

#: validations a run, where `TrainConfig.validate_every` does not say
VALIDATIONS = 20

#: a run of at least this many steps or seconds is long
LONG_STEPS, LONG_SECONDS = 20_000, 2 * 3600.0


@dataclass(frozen=True)
class Budget:
    """The length of a run: a number of steps, or seconds.

    Attributes:
        steps: of the run; 0 where time counts.
        seconds: of the run; 0 where steps count.
        validations: how many there are, where `TrainConfig.validate_every` does not say.
    """

    steps: int
    seconds: float
    validations: int = VALIDATIONS

    @staticmethod
    def of(config: TrainConfig, steps_per_epoch: int) -> Budget:
        """The budget of a configuration.

        Raises:
            UsageError: none or several of steps, epochs and minutes are set.
        """
        given = [f"train.{name}={value:g}" for name in ("steps", "epochs", "minutes") if (value := getattr(config, name))]
        if len(given) != 1:
            words = " and ".join(given) or "nothing"
            raise UsageError(f"{words} says how long to train; set one of train.steps, train.epochs or train.minutes.")
        return Budget(config.steps or config.epochs * steps_per_epoch, 60 * config.minutes)

    def progress(self, step: int, elapsed: float) -> float:
        """Share of the run that is done after ``step`` steps and ``elapsed`` seconds, in [0, 1]."""
        share = step / self.steps if self.steps else elapsed / self.seconds
        return min(share, 1.0)

    def mark(self, step: int, elapsed: float, every: int) -> int:
        """How many validations belong to the run so far: one ``every`` steps, or `validations` a run if that is 0."""
        if every:
            return step // every
        return (
            min(step, self.steps) * self.validations // self.steps
            if self.steps
            else int(self.progress(step, elapsed) * self.validations)
        )

    @property
    def long(self) -> bool:
        """Whether there is time to validate on whole subjects."""
        return self.steps >= LONG_STEPS or self.seconds >= LONG_SECONDS


#: a step costs its forward pass three times: backwards it costs twice as much
STEP_COST = 3
#: share of a run's pixels that its validations may cost
SHARE = 0.1


def affordable(budget: Budget, drawn: int, quick: int, whole: int) -> tuple[Budget, bool]:
    """How often a run of so many steps can validate for a tenth of its cost, and whether on whole cases. A matter of pixels, not of
    the clock, so that the same run validates at the same steps anywhere.

    Args:
        budget: of the run; one of seconds stays as it is, since there the clock decides.
        drawn: pixels of a step's samples.
        quick: pixels of a validation on some slices of each case.
        whole: pixels of a validation on all.
    """
    if not budget.steps:
        return budget, budget.long
    room = SHARE * STEP_COST * budget.steps * drawn
    if budget.long and room >= VALIDATIONS * whole:
        return budget, True
    return replace(budget, validations=max(1, min(VALIDATIONS, int(room / max(quick, 1))))), False


def learning_rate(config: TrainConfig, progress: float, step: int) -> float:
    """The learning rate of a step.

    Constant until ``decay_start`` of the run, then linear or half a cosine to 0; times a linear warm-up over the first
    ``warmup`` steps.
    """
    rate = config.lr
    if config.schedule != "constant" and progress > config.decay_start:
        done = (progress - config.decay_start) / (1 - config.decay_start)
        rate *= 1 - done if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    if config.warmup:
        rate *= min(1.0, (step + 1) / config.warmup)
    return rate
