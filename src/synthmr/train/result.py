"""What a training run reached."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class TrainResult:
    """What a run reached.

    Attributes:
        method: its name.
        steps: optimisation steps.
        seconds: of training, over all sessions, validations and checkpoints included.
        steps_per_s: steps per second of stepping: waiting for data included, validations and checkpoints not.
        share_waited: share of that time spent waiting for data.
        best: the validation score that chose the weights, see ``chosen_by``; None for a method without steps.
        best_step: its step.
        peak_rss_gb: largest resident memory of this process; 0 where the system does not tell.
        stopped: budget, patience, or fit for a method without steps.
        scores: validation case -> PSNR in dB, protocol masked-volume, of the kept weights: what `synthmr evaluate --split
            validation` gives; of several targets the mean.
        chosen_by: what chose the weights: ``name``, ``direction`` (higher or lower) and ``scores``, validation case -> score; empty
            for a method without steps.
    """

    method: str
    steps: int
    seconds: float
    steps_per_s: float
    share_waited: float
    best: float | None
    best_step: int
    peak_rss_gb: float
    stopped: str
    scores: Mapping[str, float] = field(default_factory=dict)
    chosen_by: Mapping[str, Any] = field(default_factory=dict)

    @property
    def psnr(self) -> float:
        """The mean of ``scores``."""
        return sum(self.scores.values()) / len(self.scores) if self.scores else float("nan")

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def describe(self) -> str:
        """One line for a person."""
        head = f"{self.method}: validation PSNR {self.psnr:.2f} dB in-brain"
        if not self.steps:
            return f"{head}, fitted in {self.seconds:.1f} s"
        return (
            f"{head} (step {self.best_step} of {self.steps}), {self.seconds / 60:.1f} min, {self.steps_per_s:.2f} steps/s,"
            f" {100 * self.share_waited:.1f} % of it waiting for data, stopped by {self.stopped}"
        )


def peak_gb() -> float:
    """Largest resident memory of this process so far, in GB; 0 on Windows, which does not tell."""
    try:
        import resource
    except ImportError:
        return 0.0
    # Linux counts KiB, macOS bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**3 if sys.platform == "darwin" else 1024**2)
