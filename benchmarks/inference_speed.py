"""Seconds for one whole case, file to file: `synthmr synthesize` against the paper's own pipeline, same weights, same run.

    python benchmarks/inference_speed.py RUN T1w=t1.nii.gz T2w=t2.nii.gz --truth flair.nii.gz

The paper's pipeline (Section IV-A): float32, contiguous memory, every axial slice, centre crop of 160x180, four overlapping
128x128 patches, all decoders computed, overlaps averaged, volume written. Ours: what the command line does. Both load and
write NIfTI. PSNR is `masked-volume` against the truth, in the truth's normalised units.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from common import write

CROP, PATCH = (160, 180), 128


def paper_pipeline(run_path: Path, inputs: dict[str, Path], out: Path) -> np.ndarray:
    """Synthesise as the paper's text says; returns the normalised volume (X, Y, Z) on the files' grid."""
    import torch

    from synthmr.io.nifti import load, save
    from synthmr.prepare.normalize import apply, fit
    from synthmr.run import load_run

    run = load_run(run_path)
    method: Any = run.method.float().to(memory_format=torch.contiguous_format)
    volumes = {name: load(path) for name, path in inputs.items()}
    mask = np.logical_or.reduce([volume.array != 0 for volume in volumes.values()])
    name = run.config.prepare.source_normalizer or run.config.prepare.normalizer
    images = {}
    for contrast, volume in volumes.items():
        params = fit(name, volume.array[mask], percentile=run.config.prepare.percentile)
        images[contrast] = np.where(mask, apply(volume.array, params), -1.0).astype(np.float32)
    width, height, depth = mask.shape
    x0, y0 = (width - CROP[0]) // 2, (height - CROP[1]) // 2
    result = np.full(mask.shape, -1.0, np.float32)
    corners = [(x, y) for x in (0, CROP[0] - PATCH) for y in (0, CROP[1] - PATCH)]
    with torch.inference_mode():
        for z in range(depth):
            total, count = np.zeros(CROP, np.float32), np.zeros(CROP, np.float32)
            for x, y in corners:
                window = (slice(x0 + x, x0 + x + PATCH), slice(y0 + y, y0 + y + PATCH), z)
                patches = [torch.from_numpy(images[contrast][window].copy())[None, None] for contrast in run.config.sources]
                target, _ = method.generator(patches, reconstruct=True)
                total[x : x + PATCH, y : y + PATCH] += target[0, 0].numpy()
                count[x : x + PATCH, y : y + PATCH] += 1
            result[x0 : x0 + CROP[0], y0 : y0 + CROP[1], z] = total / count
    first = volumes[run.config.sources[0]]
    save(out, result, like=first, description="paper pipeline")
    return result


def ours(run_path: Path, inputs: dict[str, Path], out: Path) -> np.ndarray:
    """Synthesise as the command line does, in normalised units so that both are scored alike."""
    from synthmr import pipeline
    from synthmr.io.nifti import load

    settings = pipeline.predict_settings("slices", PATCH, 0.5, "auto")
    pairs = [f"{name}={path}" for name, path in inputs.items()]
    pipeline.synthesize_files(run_path, pairs, out, None, "normalized", settings, True, [])
    return load(out).array * 2 - 1  # the command line writes 0 to 1


def measure(kind: str, run_path: Path, inputs: dict[str, Path], truth: Path, queue: Any) -> None:
    """Run one pipeline in a process of its own: seconds, peak resident memory in GB, PSNR."""
    import synthmr.predict.predictor  # noqa: F401  imports are not what is compared
    from synthmr.evaluate.metrics import psnr
    from synthmr.io.nifti import load
    from synthmr.prepare.brightness import brightness_of, correct_brightness
    from synthmr.prepare.normalize import apply, fit
    from synthmr.run import load_run

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.nii.gz"
        start = time.perf_counter()
        result = (paper_pipeline if kind == "paper" else ours)(run_path, inputs, out)
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    mask = np.logical_or.reduce([load(path).array != 0 for path in inputs.values()])
    flair = load(truth).array
    params = fit("percentile", flair[mask])
    target = apply(flair, params)
    if kind == "paper":  # the command line brings volumes to their brightness; both are scored alike
        run = load_run(run_path)
        result, _ = correct_brightness(
            result, mask, params, brightness_of(run.brightness, run.config.targets[0], run.config.sources)
        )
    value = psnr((result + 1) / 2, (target + 1) / 2, data_range=1.0, mask=mask)
    queue.put({"seconds": seconds, "peak_gb": peak, "psnr": float(value)})


def main() -> None:
    """Alternate the two pipelines and write the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("inputs", nargs="+")
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    inputs = {word.split("=", 1)[0]: Path(word.split("=", 1)[1]) for word in args.inputs}
    context = multiprocessing.get_context("spawn")
    results: dict[str, list[dict[str, float]]] = {"paper": [], "synthmr": []}
    for _ in range(args.repeats):
        for kind, found in results.items():
            queue = context.Queue()
            process = context.Process(target=measure, args=(kind, args.run, inputs, args.truth, queue))
            process.start()
            found.append(queue.get())
            process.join()
            print(kind, found[-1], flush=True)
    middle = {kind: {key: float(np.median([item[key] for item in found])) for key in found[0]} for kind, found in results.items()}
    ratio = middle["paper"]["seconds"] / middle["synthmr"]["seconds"]
    table = "\n".join(
        [f"{'pipeline':10s} {'seconds':>8s} {'PSNR dB':>8s} {'peak GB':>8s}   median of {args.repeats}, one case, file to file"]
        + [f"{kind:10s} {m['seconds']:8.2f} {m['psnr']:8.3f} {m['peak_gb']:8.2f}" for kind, m in middle.items()]
        + [f"ratio {ratio:.1f}x"]
    )
    command = "python benchmarks/inference_speed.py RUN T1w=t1.nii.gz T2w=t2.nii.gz --truth flair.nii.gz"
    write("inference_speed", command, {"runs": results, "ratio": ratio}, table)


if __name__ == "__main__":
    main()
