"""What ``run.json`` says when a run starts."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from synthmr import __version__
from synthmr.config import RunConfig
from synthmr.data.reader import Reader
from synthmr.data.split import Split
from synthmr.predict.precision import Precision
from synthmr.prepare.background import offset_of
from synthmr.prepare.normalize import median_params
from synthmr.prepare.units import units_of


def machine() -> dict[str, Any]:
    """Kind of processor, cores and GPU: what speed depends on, nothing that names a host."""
    import torch

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""
    return {"cpu": model, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpu": gpu}


def _offset(reader: Reader, split: Split, contrast: str) -> dict[str, float]:
    """The constant under most training images of a target, which its files are written with; empty where there is none."""
    found = [offset_of(reader.constant(case, contrast)) for case in split.train if reader.has(case, contrast)]
    middle = float(np.median(found)) if found else 0.0
    return {"offset": middle} if middle else {}


def run_info(
    config: RunConfig, reader: Reader, split: Split, parameters: dict[str, int], precision: Precision, world: int
) -> dict[str, Any]:
    """The record of a run that begins: who, what, with which data.

    Args:
        config: of the run.
        reader: prepared data.
        split: of the cases.
        parameters: group -> number of trainable values.
        precision: what ``auto`` was settled to.
        world: number of processes.
    """
    versions = {"python": platform.python_version()}
    for name in ("torch", "numpy", "lightning-fabric", "lightning", "nibabel", "scipy"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    params = {name: [reader.params(case, name) for case in split.train if reader.has(case, name)] for name in config.targets}
    units = {name: units_of(config.prepare.normalizer, each) for name, each in params.items()}
    return {
        "synthmr": __version__,
        "versions": versions,
        "status": "training",
        "method": config.method,
        "sources": list(config.sources),
        "targets": list(config.targets),
        "training_cases": list(split.train),
        "target_normalizers": {name: {**median_params(each), **_offset(reader, split, name)} for name, each in params.items()},
        "target_units": {name: each.as_dict() for name, each in units.items()},
        "landmarks": dict(reader.landmarks),
        "store": reader.store.fingerprint,
        "parameters": parameters,
        "precision": precision.name,
        "channels_last": precision.channels_last,
        "processes": world,
        "machine": machine(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
