"""What every benchmark shares: the machine's kind, running the command line, writing a result."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """Kind of machine and versions: what a number depends on, nothing that names a host."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    flags = ""
    if cpuinfo.is_file():
        text = cpuinfo.read_text()
        model = next((line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")), model)
        flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "avx512_bf16": "avx512_bf16" in flags,
        "amx_bf16": "amx_bf16" in flags,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numpy", "synthmr")},
    }


def clocked(*words: object) -> None:
    """Run ``synthmr`` as a user would, but on one thread and with budgets in minutes of CPU time (`cpu_clock.py`)."""
    print("$ OMP_NUM_THREADS=1 python benchmarks/cpu_clock.py", *map(str, words), flush=True)
    command = [sys.executable, str(Path(__file__).with_name("cpu_clock.py")), *map(str, words)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def decibel(error: np.ndarray) -> float:
    """PSNR of an error on [0, 1]."""
    return float(-10 * np.log10(np.mean(np.square(error, dtype=np.float64))))


def write(name: str, command: str, result: dict[str, Any], table: str) -> None:
    """Write RESULTS/name.json and name.txt; both say the command, the machine and the data."""
    RESULTS.mkdir(exist_ok=True)
    record = {"command": command, "machine": machine(), **result}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    head = "\n".join(f"{key}: {value}" for key, value in machine().items())
    (RESULTS / f"{name}.txt").write_text(f"$ {command}\n\n{head}\n\n{table}\n", encoding="utf-8")
    print(table)
