"""What `train.brightness`, correcting the brightness of predicted volumes, is worth over a cohort by cross-validation.

    python benchmarks/volume_level.py DATA OUT [--methods linear,unet] [--targets FLAIR,T2w,T1ce] [--folds 4] [--minutes 4]

Each target is predicted from the other contrasts of T1w, T2w and FLAIR. Every fold is trained through the command line (networks
on one thread with so many CPU minutes, `cpu_clock.py`), and its test subjects, which it never saw, are scored as predicted
and after the correction: protocol `masked-volume`, one value a subject. A table of the mean of both, their difference, in how
many subjects it gains, and the exponents that the folds learnt.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from common import clocked, write
from synthmr import pipeline
from synthmr.evaluate.protocols import get_protocol
from synthmr.evaluate.scoring import score, score_input
from synthmr.predict.predictor import Predictor
from synthmr.predictions import select
from synthmr.prepare.brightness import brightness_of
from synthmr.run import load_run

CONTRASTS = ("T1w", "T2w", "FLAIR")


def sources_of(target: str) -> tuple[str, ...]:
    """The other contrasts."""
    return tuple(name for name in CONTRASTS if name != target)


def train(method: str, target: str, data: Path, out: Path, folds: int, minutes: float) -> None:
    """Cross-validate, unless that is done."""
    if (out / "metrics.csv").is_file():
        return
    budget = [] if method == "linear" else ["--minutes", f"{minutes:g}"]
    sources = ",".join(sources_of(target))
    clocked("-q", "cv", method, data, "--sources", sources, "--target", target, "--folds", folds, "--out", out, *budget)


def measure(run: Path, data: Path, target: str) -> tuple[float, dict[str, tuple[float, float]]]:
    """The exponent that a fold learnt, and PSNR of its test subjects as predicted and at their brightness."""
    loaded, protocol = load_run(run), get_protocol("masked-volume")
    config = loaded.config
    brightness = brightness_of(loaded.brightness, target, config.sources)
    predictor = Predictor(loaded)
    found = {}
    for case in select(pipeline.index(data), loaded.split, "test"):
        prepared = predictor.prepare(case, config.sources, [target])
        prediction = predictor(prepared, [target])
        plain, better = (each.unit(target) for each in (replace(prediction, brightness={}), prediction))
        found[case.name] = tuple(
            score(score_input(image, prepared, target), protocol)["brain"]["psnr"] for image in (plain, better)
        )
    return (0.0 if brightness is None else brightness.exponent), found


def row(method: str, target: str, exponents: Sequence[float], scores: Sequence[tuple[float, float]]) -> str:
    """One line of the table."""
    plain, better = (mean(values) for values in zip(*scores, strict=True))
    gained, lost = (sum(sign * (after - before) > 0.01 for before, after in scores) for sign in (1, -1))
    learnt = " ".join(f"{each:.2f}" for each in exponents)
    return f"{method:10s}{target:8s}{plain:9.2f}{better:9.2f}{better - plain:+8.2f}{gained:5d}{lost:5d}{len(scores):5d}   {learnt}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--methods", default="linear,unet")
    parser.add_argument("--targets", default="FLAIR,T2w,T1ce")
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=4.0)
    words = parser.parse_args()
    record: dict[str, Any] = {"folds": words.folds, "minutes": words.minutes, "seed": 0, "runs": {}}
    lines = ["psnr dB of masked-volume, mean over all subjects, each in the test part of one fold", ""]
    lines.append(
        f"{'':10s}{'target':8s}{'as is':>9s}{'brightness':>9s}{'gain':>8s}{'up':>5s}{'down':>5s}{'of':>5s}   exponents of the folds"
    )
    for method in words.methods.split(","):
        for target in words.targets.split(","):
            out = words.out / f"{method}_{target}"
            train(method, target, words.data, out, words.folds, words.minutes)
            found = [measure(out / f"fold-{fold}" / "run", words.data, target) for fold in range(1, words.folds + 1)]
            exponents, scores = [each for each, _ in found], {name: value for _, each in found for name, value in each.items()}
            record["runs"][f"{method} {target}"] = {"exponents": exponents, "scores": scores}
            lines.append(row(method, target, exponents, list(scores.values())))
    command = f"python benchmarks/volume_level.py brats18 OUT --methods {words.methods} --targets {words.targets}"
    write("volume_level", f"{command} --folds {words.folds} --minutes {words.minutes:g}", record, "\n".join(lines))


if __name__ == "__main__":
    main()
