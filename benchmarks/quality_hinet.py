"""Quality of Hi-Net against its baselines: T1w+T2w -> FLAIR on a cohort with a fixed split.

    python benchmarks/quality_hinet.py DATA OUT [--minutes 30] [--paper-minutes 20] [--only linear,hinet]

Trains ``copy``, ``linear``, ``unet``, ``hinet`` (preset fast) and ``hinet`` (preset paper, cut off after its minutes) through the command
line, scores validation and test subjects and, beside, the training subjects. Runs that are finished are not repeated.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean

from common import synthmr, write

PROTOCOL = "masked-volume"


def scores(run: Path, data: Path, split: str) -> dict[str, float]:
    """Subject -> PSNR in dB under `PROTOCOL`, plus the other metrics as subject/metric."""
    rows = json.loads(
        synthmr("evaluate", run, data, "--split", split, "--protocol", PROTOCOL, "--out", run / f"metrics_{split}.csv", "--json")
    )
    return {f"{row['case']}/{row['metric']}": float(row["value"]) for row in rows}


def pick(values: dict[str, float], metric: str) -> list[float]:
    """The values of one metric, in subject order."""
    return [value for key, value in sorted(values.items()) if key.endswith("/" + metric)]


def main() -> None:
    """Train, score, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=30, help="of hinet, preset fast")
    parser.add_argument("--paper-minutes", type=float, default=20, help="of hinet, preset paper")
    parser.add_argument("--unet-minutes", type=float, default=12)
    parser.add_argument("--only", default="copy,linear,unet,hinet,hinet-uncalibrated,hinet-paper")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="quality_hinet")
    args = parser.parse_args()
    plans: dict[str, list[object]] = {
        "copy": ["copy"],
        "linear": ["linear"],
        "unet": ["unet", "--minutes", args.unet_minutes],
        "hinet": ["hinet", "--minutes", args.minutes],
        "hinet-paper": ["hinet", "--preset", "paper", "--minutes", args.paper_minutes],
    }
    table, result = [], {}
    for name in args.only.split(","):
        run = args.out / name
        if not (run / "checkpoints" / "best").is_dir() or json.loads((run / "run.json").read_text()).get("status") != "finished":
            synthmr(
                "-q", "train", plans[name][0], args.data, "--sources", "T1w,T2w", "--target", "FLAIR",
                "--out", run, "--seed", args.seed, *plans[name][1:],
            )  # fmt: skip
        parts = {split: scores(run, args.data, split) for split in ("validation", "test", "train")}
        held = [*pick(parts["validation"], "psnr"), *pick(parts["test"], "psnr")]
        result[name] = {**parts, "psnr_validation_and_test": mean(held)}
        ssim = [*pick(parts["validation"], "ssim"), *pick(parts["test"], "ssim")]
        table.append(
            f"{name:22s} {mean(held):6.2f} {mean(pick(parts['validation'], 'psnr')):6.2f} {mean(pick(parts['test'], 'psnr')):6.2f}"
            f" {mean(pick(parts['train'], 'psnr')):6.2f}  {mean(ssim):6.3f}   {' '.join(f'{v:.2f}' for v in held)}"
        )
    head = f"{'run':22s} {'PSNR':>6s} {'valid.':>6s} {'test':>6s} {'train':>6s}  {'SSIM':>6s}   per held-out subject (validation, test)"
    words = (
        f"{PROTOCOL}, T1w+T2w -> FLAIR, PSNR in dB; PSNR and SSIM are means over validation and test subjects; seed {args.seed}"
    )
    command = f"python benchmarks/quality_hinet.py DATA OUT --minutes {args.minutes:g} --paper-minutes {args.paper_minutes:g}"
    write(args.name, command, {"data": args.data.name, "seed": args.seed, "scores": result}, "\n".join([words, head, *table]))


if __name__ == "__main__":
    main()
