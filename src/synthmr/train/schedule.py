"""How long a run is and what its learning rate is at each moment; both by progress in [0, 1]."""

from __future__ import annotations

import math
from dataclasses import dataclass

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
    """

    steps: int
    seconds: float

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
        """How many validations belong to the run so far: one ``every`` steps, or `VALIDATIONS` a run if that is 0."""
        if every:
            return step // every
        return min(step, self.steps) * VALIDATIONS // self.steps if self.steps else int(self.progress(step, elapsed) * VALIDATIONS)

    @property
    def long(self) -> bool:
        """Whether there is time to validate on whole subjects."""
        return self.steps >= LONG_STEPS or self.seconds >= LONG_SECONDS


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
