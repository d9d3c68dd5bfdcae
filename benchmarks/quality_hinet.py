"""Quality of Hi-Net against its baselines: T1w+T2w -> FLAIR on a cohort with a fixed split.

    python benchmarks/quality_hinet.py DATA OUT [--minutes 45] [--paper-minutes 14] [--only linear,hinet]

Trains ``copy``, ``linear``, ``hinet`` (preset fast) and ``hinet`` (preset paper, cut off after its minutes) through the command
line and scores validation, test and, beside, training subjects. Minutes are CPU minutes of one thread (`cpu_clock.py`),
validation included. Runs that are finished are not repeated.

The paper scales each volume by its maximum (`minmax`), one bright voxel of which makes the error of all others small: numbers
of different units do not compare. So the preset is run twice, as it is and with the `percentile` normaliser of the other rows,
and all rows are scored in the latter's units: 99.5 percent of the true image's brain on [0, 1], the rest clipped. ``own units``
is the score of `masked-volume` in the run's own.

Two columns are diagnostics, not scores: ``structure`` is the PSNR after the best affine intensity fit of each prediction to
its truth (an oracle), and ``gain`` the PSNR on the test subjects after one factor fitted on the validation subjects. They
tell the error of the overall brightness, which no source predicts here, from the error of the image.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean

import numpy as np

from common import clocked, decibel, write
from synthmr.evaluate.protocols import get_protocol
from synthmr.evaluate.scoring import score, score_input
from synthmr.experiment.cells import trained
from synthmr.predictions import predictions

PARTS = ("validation", "test", "train")
PLANS: dict[str, list[object]] = {
    "copy": ["copy"],
    "linear": ["linear"],
    "hinet": ["hinet"],
    "hinet-paper": ["hinet", "--preset", "paper", "--set", "prepare.normalizer=percentile"],
    "hinet-paper-minmax": ["hinet", "--preset", "paper"],
}
UPPER = 99.5  # the percentile of `prepare.percentile`


def affine_fit(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The prediction after the best gain and offset."""
    columns = np.stack([prediction, np.ones_like(prediction)], axis=1)
    return columns @ np.linalg.lstsq(columns, truth, rcond=None)[0]


def measure(run: Path, data: Path) -> dict[str, dict[str, dict[str, float]]]:
    """part -> subject -> metrics of `masked-volume` and the two diagnostics."""
    protocol = get_protocol("masked-volume")
    voxels: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    found: dict[str, dict[str, dict[str, float]]] = {}
    for part in PARTS:
        voxels[part], found[part] = {}, {}
        for predicted in predictions([run], data, part):
            (image,) = predicted.images.values()
            scored = score_input(image, predicted.prepared, predicted.target)
            p, t = (array[scored.mask].astype(np.float64) for array in (scored.prediction, scored.truth))
            values = score(scored, protocol)["brain"]
            top = float(np.percentile(t, UPPER))
            p, t = np.clip(p / top, 0, 1), np.clip(t / top, 0, 1)
            voxels[part][predicted.prepared.name] = p, t
            found[part][predicted.prepared.name] = {
                "own": values["psnr"],
                "psnr": decibel(p - t),
                "ssim": values["ssim"],
                "structure": decibel(affine_fit(p, t) - t),
            }
    top = sum(float(np.mean(p * t)) for p, t in voxels["validation"].values())
    gain = top / sum(float(np.mean(p * p)) for p, _ in voxels["validation"].values())
    for part, cases in voxels.items():
        for name, (p, t) in cases.items():
            found[part][name]["gain"] = decibel(gain * p - t)
    return found


def row(name: str, found: dict[str, dict[str, dict[str, float]]], info: dict[str, object]) -> str:
    """One line of the table."""

    def average(metric: str, *parts: str) -> float:
        return mean(values[metric] for part in parts for values in found[part].values())

    each = " ".join(f"{values['psnr']:.2f}" for part in ("validation", "test") for values in found[part].values())
    result = info["result"]
    minutes = result["seconds"] / 60 if isinstance(result, dict) else 0.0
    steps = result["steps"] if isinstance(result, dict) else 0
    held = ("validation", "test")
    numbers = [
        f"{name:18s}",
        f"{average('psnr', *held):6.2f}",
        f"{average('psnr', 'validation'):6.2f}",
        f"{average('psnr', 'test'):6.2f}",
        f"{average('psnr', 'train'):6.2f}",
        f"{average('ssim', *held):6.3f}",
        f"{average('structure', *held):9.2f}",
        f"{average('gain', 'test'):6.2f}",
        f"{average('own', *held):9.2f}",
        f"{minutes:7.1f}",
        f"{steps:6d}",
    ]
    return " ".join(numbers) + f"   {each}"


def main() -> None:
    """Train, score, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=45, help="of hinet, preset fast")
    parser.add_argument("--paper-minutes", type=float, default=14, help="of hinet, preset paper")
    parser.add_argument("--only", default=",".join(PLANS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="quality_hinet")
    args = parser.parse_args()
    minutes = {"hinet": args.minutes, "hinet-paper": args.paper_minutes, "hinet-paper-minmax": args.paper_minutes}
    lines, scores = [], {}
    for name in args.only.split(","):
        run = args.out / name
        if not trained(run):
            budget = ["--minutes", minutes[name]] if name in minutes else []
            words = ["--sources", "T1w,T2w", "--target", "FLAIR", "--out", run, "--seed", args.seed]
            clocked("-q", "train", PLANS[name][0], args.data, *words, *PLANS[name][1:], *budget)
        scores[name] = measure(run, args.data)
        lines.append(row(name, scores[name], json.loads((run / "run.json").read_text())))
    head = (
        f"{'run':18s} {'PSNR':>6s} {'valid.':>6s} {'test':>6s} {'train':>6s} {'SSIM':>6s} {'structure':>9s} {'gain':>6s}"
        f" {'own units':>9s} {'minutes':>7s} {'steps':>6s}   PSNR of each subject (validation, then test)"
    )
    words = [
        f"protocol masked-volume, T1w+T2w -> FLAIR, dB; PSNR, SSIM and structure: mean over validation and test; seed {args.seed}",
        "all but SSIM and own units are in units of the truth's 99.5th percentile; minutes of CPU time, one thread",
        "structure and gain are diagnostics that use the truth: see the top of benchmarks/quality_hinet.py",
    ]
    command = f"python benchmarks/quality_hinet.py DATA OUT --minutes {args.minutes:g} --paper-minutes {args.paper_minutes:g}"
    write(args.name, command, {"data": args.data.name, "seed": args.seed, "scores": scores}, "\n".join([*words, "", head, *lines]))


if __name__ == "__main__":
    main()
