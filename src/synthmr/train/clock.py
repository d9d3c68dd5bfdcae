"""What the seconds of a training were spent on."""

from __future__ import annotations

import time

from synthmr.data.prefetch import Prefetcher
from synthmr.train.checkpoint import State


class Clock:
    """Keeps the seconds of a `State`: of steps apart from those of validations and checkpoints."""

    def __init__(self, state: State, batches: Prefetcher) -> None:
        self.state, self.batches = state, batches
        self.waited = state.waited
        self.last = time.monotonic()

    def paused(self) -> float:
        """Count the time since the last call as training that is no stepping."""
        now = time.monotonic()
        passed, self.last = now - self.last, now
        self.state.elapsed += passed
        return passed

    def stepped(self) -> None:
        """Count the time since the last call as stepping."""
        self.state.stepping += self.paused()
        self.state.waited = self.waited + self.batches.waited
