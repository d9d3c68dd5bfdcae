"""Slices with their neighbours and boxes against voxel-wise regression: `unet` 2.5d and 3d, and `linear`, at half resolution.

    python benchmarks/dims.py DATA OUT [--minutes 3] [--only linear,2.5d,3d]

T1w+T2w -> FLAIR. Every volume is made half as large first, each voxel the mean of 2x2x2, and written into OUT/half, with the
split of DATA. Networks train on one thread with so many CPU minutes (`cpu_clock.py`), validation included; runs that are finished
are not repeated. ``structure`` is the PSNR after the best affine intensity fit of each prediction to its truth (an oracle: the
overall brightness of a FLAIR cannot be told from these sources), ``psnr`` that of protocol `masked-volume`; in dB, of each
validation and test subject.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from statistics import mean
from typing import Any

import nibabel
import numpy as np

from common import clocked, decibel, write
from quality_hinet import affine_fit
from synthmr import pipeline
from synthmr.experiment.cells import trained
from synthmr.predict.predictor import Predictor
from synthmr.predictions import select
from synthmr.prepare.normalize import to_unit
from synthmr.run import load_run

SOURCES, TARGET = ("T1w", "T2w"), "FLAIR"
PARTS = ("validation", "test")
#: row -> method and its words
PLANS: dict[str, tuple[str, ...]] = {
    "linear": ("linear",),
    "2.5d": ("unet", "--preset", "2.5d"),
    "3d": ("unet", "--preset", "3d"),
}


def halved(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of 2x2x2 voxels and the affine of their centres; an odd last plane is left out."""
    x, y, z = (size // 2 for size in array.shape)
    means = array[: 2 * x, : 2 * y, : 2 * z].reshape(x, 2, y, 2, z, 2).mean(axis=(1, 3, 5), dtype=np.float32)
    coarse = affine @ np.diag([2.0, 2.0, 2.0, 1.0])
    coarse[:3, 3] += affine[:3, :3] @ np.full(3, 0.5)
    return means, coarse


def halve(data: Path, out: Path) -> None:
    """Write the cohort at half resolution, unless that is done."""
    if (out / "done").is_file():
        return
    for case in pipeline.index(data).cases:
        folder = out / case.name
        folder.mkdir(parents=True, exist_ok=True)
        for contrast in (*SOURCES, TARGET):
            image = nibabel.load(case.image(contrast))
            means, affine = halved(np.asarray(image.dataobj, np.float32), image.affine)
            nibabel.save(nibabel.Nifti1Image(means, affine), folder / f"{contrast}.nii.gz")
    shutil.copy(data / "splits.tsv", out / "splits.tsv")
    (out / "done").touch()


def train(plan: str, data: Path, run: Path, minutes: float) -> None:
    """Train one plan, unless its run is finished."""
    if trained(run):
        return
    method, *words = PLANS[plan]
    budget = [] if method == "linear" else ["--minutes", f"{minutes:g}"]
    again = ["--resume"] if run.exists() else []
    contrasts = ["--sources", ",".join(SOURCES), "--target", TARGET]
    clocked("-q", "train", method, str(data), *contrasts, "--out", str(run), *words, *budget, *again)


def measure(run: Path, data: Path) -> dict[str, dict[str, dict[str, float]]]:
    """part -> subject -> PSNR and structure PSNR in the brain, both on the truth's scale from 0 to 1."""
    loaded = load_run(run)
    predictor = Predictor(loaded)
    cohort = pipeline.index(data)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for part in PARTS:
        found[part] = {}
        for case in select(cohort, loaded.split, part):
            prepared = predictor.prepare(case, truth=(TARGET,))
            image = predictor(prepared).unit(TARGET)
            truth = to_unit(prepared.images[TARGET], prepared.normalizers[TARGET])
            p, t = (array[prepared.mask].astype(np.float64) for array in (image, truth))
            found[part][case.name] = {"psnr": decibel(p - t), "structure": decibel(affine_fit(p, t) - t)}
    return found


def row(plan: str, found: dict[str, dict[str, dict[str, float]]], info: dict[str, Any]) -> str:
    """One line of the table."""
    means = [mean(values[key] for values in found[part].values()) for key in ("structure", "psnr") for part in PARTS]
    each = " ".join(f"{values['structure']:.2f}" for part in PARTS for values in found[part].values())
    speed = f"{info.get('steps', 0):7d}{info.get('steps_per_s', 0):8.2f}"
    return f"{plan:8s}{''.join(f'{value:9.2f}' for value in means)}{speed}  {each}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--only", default=",".join(PLANS))
    words = parser.parse_args()
    data = words.out / "half"
    halve(words.data, data)
    record: dict[str, Any] = {"minutes": words.minutes, "seed": 0, "runs": {}}
    lines = [f"{','.join(SOURCES)} -> {TARGET} at half resolution, dB", ""]
    lines.append(f"{'':8s}{'structure':>18s}{'psnr':>18s}")
    lines.append(f"{'':8s}{''.join(f'{part[:8]:>9s}' for part in PARTS * 2)}{'steps':>7s}{'steps/s':>8s}  structure of each")
    for plan in words.only.split(","):
        run = words.out / plan
        train(plan, data, run, words.minutes)
        scores, result = measure(run, data), load_run(run).info["result"]
        record["runs"][plan] = {"info": result, "scores": scores}
        lines.append(row(plan, scores, result))
    write("dims", f"python benchmarks/dims.py brats18 OUT --minutes {words.minutes:g}", record, "\n".join(lines))


if __name__ == "__main__":
    main()
