"""What a prepared store costs: its size against the compressed NIfTI files, and reading a batch against one training step.

    OMP_NUM_THREADS=1 python benchmarks/store_cost.py DATA [--sources T1w,T2w] [--target FLAIR] [--batches 10]

DATA is a cohort of skull-stripped images with segmentations. The size is that of all files of the store over that of the files that
it was made of. Reading is all that lies between the store and a batch of Hi-Net's fast preset without random changes: slices out of
memory maps, normalised, with mask and labels; a step is Hi-Net's, forward, backward and update. Both are CPU seconds of one thread,
medians of batches that alternate, so that other processes on the machine count for neither.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from common import write
from synthmr import pipeline
from synthmr.case import PLANES, Cohort
from synthmr.config import AugmentConfig, RunConfig
from synthmr.data.reader import Reader
from synthmr.data.sampling import Sampler
from synthmr.data.store import Store
from synthmr.run import build_method


def bytes_of(files: list[Path]) -> int:
    """Bytes of some files."""
    return sum(path.stat().st_size for path in files)


def sources_of(cohort: Cohort, store: Store) -> list[Path]:
    """The files that a store was made of."""
    cases = [cohort.case(name) for name in store.names]
    images = [case.images[contrast] for case in cases for contrast in store.has(case.name)]
    return images + [path for case in cases for path in (case.mask, case.segmentation) if path is not None]


class Trainer:
    """Hi-Net and its optimisers."""

    def __init__(self, config: RunConfig) -> None:
        torch.manual_seed(0)
        self.method = build_method(config)
        self.method.train()
        rate = config.train.lr
        self.optimizers = {name: torch.optim.Adam(params, lr=rate, fused=True) for name, params in self.method.groups().items()}

    def update(self, group: str, loss: Tensor) -> None:
        """Back-propagate and step."""
        self.optimizers[group].zero_grad(set_to_none=True)
        loss.backward()
        self.optimizers[group].step()


def measure(reader: Reader, store: Store, config: RunConfig, plane: str, batches: int) -> dict[str, float]:
    """Milliseconds of reading a batch and of a step, and their ratio."""
    sample = replace(config.sample, plane=plane)
    sampler = Sampler(reader, store.split.train, sample, AugmentConfig(), 0, divisor=build_method(config).spec.divisor)
    trainer = Trainer(config)
    reading, stepping = [], []
    for step in range(batches + 2):
        begun = time.process_time()
        batch = sampler.batch(step)
        read = time.process_time()
        trainer.method.step(batch, trainer.update)
        if step > 1:  # the first ones open files and make room
            reading.append(1000 * (read - begun))
            stepping.append(1000 * (time.process_time() - read))
    return {"read_ms": median(reading), "step_ms": median(stepping), "share": median(reading) / median(stepping)}


def main() -> None:
    """Build a store, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sources", default="T1w,T2w")
    parser.add_argument("--target", default="FLAIR")
    parser.add_argument("--batches", type=int, default=10)
    args = parser.parse_args()
    config = pipeline.configure("hinet", args.sources, args.target, budget={"steps": 1})
    with tempfile.TemporaryDirectory() as folder:
        begun = time.process_time()
        store = pipeline.prepare(args.data, config, cache=Path(folder) / "cache", out=Path(folder) / "store")
        seconds = time.process_time() - begun
        files = [path for path in (Path(folder) / "store").rglob("*") if path.is_file()]
        given = sources_of(pipeline.index(args.data), store)
        images = bytes_of([path for path in files if path.name == "voxels.npy"])
        size: dict[str, Any] = {
            "cases": len(store.names),
            "files_mb": round(bytes_of(given) / 1e6, 1),
            "store_mb": round(bytes_of(files) / 1e6, 1),
            "of_it_images_mb": round(images / 1e6, 1),
            "ratio": round(bytes_of(files) / bytes_of(given), 3),
            "prepare_s_per_case": round(seconds / len(store.names), 2),
        }
        reader = Reader(store, config.prepare, config.sources, config.targets)
        planes = {plane: measure(reader, store, config, plane, args.batches) for plane in PLANES}
    lines = [f"{key:20} {value}" for key, value in size.items()]
    lines += ["", f"{'plane':10} {'read ms':>9} {'step ms':>9} {'share':>8}"]
    lines += [f"{plane:10} {each['read_ms']:9.2f} {each['step_ms']:9.1f} {each['share']:8.2%}" for plane, each in planes.items()]
    words = f"OMP_NUM_THREADS=1 python benchmarks/store_cost.py {args.data.name}"
    words += f" --sources {args.sources} --target {args.target} --batches {args.batches}"
    write("store_cost", words, {"size": size, "planes": planes, "sample": vars(config.sample)}, "\n".join(lines))


if __name__ == "__main__":
    main()
