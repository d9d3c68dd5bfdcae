"""Wall time of a cohort against its CPU seconds: how much of reading and writing is hidden behind the network.

    python benchmarks/cohort_overlap.py RUN DATA

Four cases are synthesised, file to file, by a process of its own, on two threads and two cores that nothing else uses: once as
`synthmr synthesize` does it, once a case at a time. The ratio is wall time over half of the CPU seconds: 1 where both cores always
work. Imports and the loading of the run are not counted. Nothing is kept between repeats, which alternate.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from common import write

WAYS = ("overlapped", "one by one")


def measure(way: str, run: Path, data: Path, count: int, threads: int, queue: Any) -> None:
    """Synthesise some cases: wall and CPU seconds, and seconds of each part of a case where they are done one by one."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    import torch

    from synthmr import pipeline
    from synthmr.predict import cohort as stage

    torch.set_num_threads(threads)
    cohort = pipeline.index(data)
    predictor = pipeline.predictor_of(run, pipeline.predict_settings(), "cpu", keep=False)
    cases = [case for case in cohort.cases if all(name in case.images for name in predictor.sources)][:count]
    if len(cases) < count:
        raise SystemExit(f"{data} has {len(cases)} cases with {', '.join(predictor.sources)}, and {count} are needed.")
    predictor.engines  # noqa: B018  the networks are made ready before the clock starts
    parts = dict.fromkeys(("read", "predict", "write"), 0.0)
    if way == WAYS[1]:
        for name in parts:
            _timed(stage._Job, name, parts)
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        jobs = [cases] if way == WAYS[0] else [[case] for case in cases]
        for some in jobs:
            done = stage.synthesize_cohort(predictor, replace(cohort, cases=tuple(some)), Path(folder))
            if done.failed:
                raise SystemExit(str(done.failed))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    queue.put({"wall": wall, "cpu": cpu, "ratio": wall / (cpu / threads), **parts})


def _timed(kind: Any, name: str, parts: dict[str, float]) -> None:
    """Add up the seconds that a method takes."""
    real = getattr(kind, name)

    def timed(*words: Any) -> Any:
        start = time.perf_counter()
        found = real(*words)
        parts[name] += time.perf_counter() - start
        return found

    setattr(kind, name, timed)


def main() -> None:
    """Alternate the two ways and write the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--name", default="cohort_overlap", help="of the files in results/")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets it: threads that wait must not count as work
    context = multiprocessing.get_context("spawn")
    results: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(args.repeats):
        for way, found in results.items():
            queue = context.Queue()
            process = context.Process(target=measure, args=(way, args.run, args.data, args.cases, args.threads, queue))
            process.start()
            while process.is_alive() and queue.empty():
                time.sleep(0.05)
            if queue.empty():
                raise SystemExit(f"the process ended with {process.exitcode}")
            found.append(queue.get())
            process.join()
            print(way, {key: round(value, 3) for key, value in found[-1].items()}, flush=True)
    middle = {way: {key: float(np.median([each[key] for each in found])) for key in found[0]} for way, found in results.items()}
    head = f"{args.cases} cases on {args.threads} threads, file to file, median of {args.repeats}"
    lines = [f"{head:60s} {'wall s':>7s} {'CPU s':>7s} {'wall / (CPU / threads)':>23s}"]
    lines += [f"{way:60s} {m['wall']:7.2f} {m['cpu']:7.2f} {m['ratio']:23.2f}" for way, m in middle.items()]
    apart = middle[WAYS[1]]
    lines.append(f"one by one: reading {apart['read']:.2f} s, network {apart['predict']:.2f} s, writing {apart['write']:.2f} s")
    lines.append(f"one by one / overlapped: {apart['wall'] / middle[WAYS[0]]['wall']:.2f}x")
    command = f"python benchmarks/cohort_overlap.py RUN DATA --cases {args.cases} --threads {args.threads}"
    write(args.name, command, {"runs": results, "medians": middle}, "\n".join(lines))


if __name__ == "__main__":
    main()
