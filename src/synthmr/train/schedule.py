"""How long a run is and what its learning rate is at each moment; both by progress in [0, 1]."""

from __future__ import annotations

import math
from dataclasses import dataclass

from synthmr.config import TrainConfig


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
        """The budget of a configuration; the first of steps, epochs, minutes that is set counts."""
        if config.steps:
            return Budget(config.steps, 0.0)
        if config.epochs:
            return Budget(config.epochs * steps_per_epoch, 0.0)
        return Budget(0, 60 * config.minutes)

    def progress(self, step: int, elapsed: float) -> float:
        """Share of the run that is done after ``step`` steps and ``elapsed`` seconds, in [0, 1]."""
        share = step / self.steps if self.steps else elapsed / self.seconds
        return min(share, 1.0)


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
