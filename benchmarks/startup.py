"""Seconds that ``synthmr --help`` takes: the median of ten starts.

python benchmarks/startup.py
"""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median

from common import write


def main() -> None:
    """Measure and write."""
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "synthmr.cli", "--help"], stdout=subprocess.DEVNULL, check=True)
        seconds.append(time.perf_counter() - start)
    write("startup", "python benchmarks/startup.py", {"seconds": seconds}, f"synthmr --help: median {median(seconds):.2f} s of 10")


if __name__ == "__main__":
    main()
