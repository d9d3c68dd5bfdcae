"""`synthmr demo`: the whole path on a phantom cohort, with two baselines, scores and a report."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from synthmr.errors import UsageError

if TYPE_CHECKING:
    from synthmr.console import Console

SOURCES, TARGET = "T1w,T2w", "FLAIR"
BASELINES = ("copy", "linear")
#: what the demo changes in Hi-Net's fast preset: one simulated scanner needs no augmentation against others, and a run of
#: hundreds of steps wants a higher rate and a shorter average than one of thousands
SETTINGS = (
    "train.lr=2e-3",
    "train.ema=0.98",
    "train.images=false",
    "train.validate_every=50",
    *(f"augment.{key}=0" for key in ("mix", "gain", "gamma", "noise", "rotate", "scale", "shift")),
)
MARKER = ".synthmr-demo"


def run_demo(out: Path, subjects: int, seed: int, steps: int, console: Console) -> dict[str, float]:
    """Simulate, train, synthesise, score and report.

    Args:
        out: folder to write; an earlier demo in it is replaced, anything else is refused.
        subjects: phantom subjects, at least 5 (three to train, one to validate, one to test).
        seed: of the phantom and of the training.
        steps: of Hi-Net training.
        console: prints progress.

    Returns:
        method -> mean PSNR in dB over the test subjects, protocol masked-volume.

    Raises:
        UsageError: too few subjects, or ``out`` holds something that is no demo.
    """
    from synthmr import pipeline
    from synthmr.evaluate.scores import main_scores, summarise, write_scores
    from synthmr.predictions import Kept
    from synthmr.report.html import MOST_CASES
    from synthmr.report.run_page import write_report

    if subjects < 5:
        raise UsageError(f"the demo needs at least 5 subjects and was given {subjects}.")
    if steps < 1:
        raise UsageError(f"--steps {steps} leaves nothing to train; give a positive number.")
    start = time.monotonic()
    _clear(out)
    data, runs = out / "data", out / "runs"
    with console.progress("phantom") as tick:
        pipeline.phantom(data, subjects, seed, spacing=2.0, field=3.0, progress=tick)
    _told(console, start, f"phantom: {subjects} subjects in {data}")
    for method in (*BASELINES, "hinet"):
        network = method == "hinet"
        settings, budget = (SETTINGS, {"steps": steps}) if network else ((), {})
        config = pipeline.configure(method, SOURCES, TARGET, settings=settings, budget=budget, seed=seed)
        store, split = pipeline.prepared(data, config, cache=out / "cache")
        with console.training(method) as live:
            result = pipeline.train(config, store, split, runs / method, progress=live, data=data)
        _told(console, start, f"{method}: {result.describe()}")
    inference = pipeline.predict_settings()
    volumes = out / "volumes"
    for method in (*BASELINES, "hinet"):
        summary = pipeline.synthesize_cohort(runs / method, data, volumes / method, "scanner", inference, split="test")
        if summary.failed:
            raise UsageError(f"demo synthesis failed: {summary.failed}")
    paths = [runs / method for method in ("hinet", *BASELINES)]
    kept = Kept(MOST_CASES)
    rows = pipeline.evaluate(paths, data, "test", [], inference, each=kept.add).rows
    write_scores(out / "metrics.csv", rows)
    command = f"synthmr demo --seed {seed}"
    write_report(out / "report.html", paths, data, "test", rows, "synthmr demo", command, figures=kept.all)
    shutil.rmtree(out / "cache", ignore_errors=True)
    console.scores(rows)
    psnr = {row["method"]: row["mean"] for row in summarise(main_scores(rows, "psnr")) if row["protocol"] == "masked-volume"}
    margin = psnr["hinet"] - psnr["linear"]
    _told(console, start, f"Hi-Net minus linear: {margin:+.2f} dB PSNR (masked-volume). Open {out / 'report.html'}")
    return psnr


def _told(console: Console, start: float, text: str) -> None:
    console.say(f"[{time.monotonic() - start:5.0f} s] {text}")


def _clear(out: Path) -> None:
    """Make ``out`` an empty folder that is marked as a demo's; never delete what is not one."""
    if out.exists():
        if not out.is_dir() or (any(out.iterdir()) and not (out / MARKER).is_file()):
            raise UsageError(f"{out} exists and holds no earlier demo; give another folder with --out.")
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / MARKER).write_text("written by synthmr demo; the next demo replaces this folder\n", encoding="utf-8")
