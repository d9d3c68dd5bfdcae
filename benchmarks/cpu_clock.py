"""``synthmr`` with a clock that counts this process's CPU time: budgets in minutes then mean the same on a busy machine.

    OMP_NUM_THREADS=1 python benchmarks/cpu_clock.py train METHOD DATA ... --minutes 12

Everything else is `synthmr` itself. With one thread, a minute on this clock is a minute on one idle core.
"""

from __future__ import annotations

import queue  # noqa: F401  (took the real clock when it was imported, as did threading, and keeps it for its timeouts)
import threading  # noqa: F401
import time

time.monotonic = time.process_time

if __name__ == "__main__":
    from synthmr.cli import main

    main()
