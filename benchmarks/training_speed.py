"""Steps per second of Hi-Net's training as synthmr runs it against plain float32, contiguous, eager training of the same network.

    python benchmarks/training_speed.py STORE [--steps 40] [--score-steps 150]

STORE is written by `synthmr prepare`. Each configuration runs in a process of its own; the two alternate. The first steps of
each are not counted. With ``--score-steps`` both are also trained for that many steps from one seed and their validation
PSNR compared.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from common import write

KINDS = {
    "float32": ["train.precision=32", "train.channels_last=off"],
    "synthmr": ["train.precision=auto", "train.channels_last=auto"],
}


class Clock:
    """A progress display that notes when each logged step was done."""

    def __init__(self) -> None:
        self.times: dict[int, float] = {}

    def on_step(self, step: int, *_: Any) -> None:
        """See `synthmr.train.log.Progress`."""
        self.times[step] = time.perf_counter()

    def on_validation(self, *_: Any) -> None:
        """See `synthmr.train.log.Progress`."""

    def on_message(self, text: str) -> None:
        """See `synthmr.train.log.Progress`."""


def run(store: Path, kind: str, filters: int, steps: int, queue: Any) -> None:
    """Train for some steps; puts steps per second and the validation score."""
    from synthmr import pipeline

    settings = [*KINDS[kind], f"options.filters={filters}", f"train.validate_every={steps}", "train.images=false"]
    config = pipeline.configure("hinet", "T1w,T2w", "FLAIR", settings=settings, budget={"steps": steps})
    opened, split = pipeline.prepared(store, config)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        result = pipeline.train(config, opened, split, Path(folder) / "run", progress=clock)
    counted = sorted(step for step in clock.times if step >= 10)
    seconds = clock.times[counted[-1]] - clock.times[counted[0]]
    queue.put({"steps_per_s": (counted[-1] - counted[0]) / seconds, "validation": result.best, "share_waited": result.share_waited})


def main() -> None:
    """Alternate, then write the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--filters", type=int, default=16)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--score-steps", type=int, default=0)
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")

    def measure(kind: str, steps: int) -> dict[str, float]:
        queue = context.Queue()
        process = context.Process(target=run, args=(args.store, kind, args.filters, steps, queue))
        process.start()
        found: dict[str, float] = queue.get()
        process.join()
        print(kind, steps, found, flush=True)
        return found

    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for _ in range(args.repeats):
        for kind, values in found.items():
            values.append(measure(kind, args.steps))
    speed = {kind: median(value["steps_per_s"] for value in values) for kind, values in found.items()}
    lines = [f"{kind:8s} {speed[kind]:6.2f} steps/s (median of {args.repeats})" for kind in KINDS]
    lines.append(f"ratio {speed['synthmr'] / speed['float32']:.2f}x; batch 8 of whole slices, {args.filters} filters, GAN on")
    result: dict[str, Any] = {"runs": found, "ratio": speed["synthmr"] / speed["float32"]}
    if args.score_steps:
        scores = {kind: measure(kind, args.score_steps)["validation"] for kind in KINDS}
        result["validation_after_equal_steps"] = scores
        words = ", ".join(f"{kind} {value:.2f} dB" for kind, value in scores.items())
        lines.append(f"validation PSNR after {args.score_steps} steps from one seed: {words}")
    command = (
        f"python benchmarks/training_speed.py STORE --steps {args.steps} --filters {args.filters} --repeats {args.repeats}"
        f" --score-steps {args.score_steps}"
    )
    write("training_speed", command, result, "\n".join(lines))


if __name__ == "__main__":
    main()
