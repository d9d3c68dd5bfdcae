"""What nine protocols cost beside one: the ratio of `evaluate --protocol all` to `evaluate` in one run.

    OMP_NUM_THREADS=1 python benchmarks/protocol_cost.py DATA [CASES]

A `linear` run is fitted on the folder's own split (it predicts in a second or so, so that a network would only make the ratio
smaller). Then some held-out cases (2) are evaluated under the default protocol and under all, in turn, three times: everything
between the command and the numbers counts, reading and preparing the case and the prediction, too. Seconds of processor time.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from common import write
from synthmr import pipeline
from synthmr.reading import Reading

ROUNDS = 3


def seconds(run: Path, data: Path, split_file: Path, protocols: list[str]) -> float:
    """Of one evaluation."""
    start = time.process_time()
    pipeline.evaluate([run], data, "all", protocols, reading=Reading(split_file=split_file))
    return time.process_time() - start


def main() -> None:
    """Measure and write."""
    data, count = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 2
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        config = pipeline.configure("linear", "T1w,T2w", "FLAIR", settings=["train.images=false"])
        store, split = pipeline.prepared(data, config, cache=root / "cache")
        pipeline.train(config, store, split, root / "run")
        names = (*split.test, *split.validation)[:count]
        few = root / "few"
        few.mkdir()
        for name in names:
            (few / name).symlink_to((data / name).resolve())
        table = root / "splits.tsv"
        table.write_text("case\tsplit\n" + "".join(f"{name}\ttest\n" for name in names))
        seconds(root / "run", few, table, ["all"])  # libraries are loaded
        times: dict[str, list[float]] = {"default": [], "all": []}
        for _ in range(ROUNDS):
            times["default"].append(seconds(root / "run", few, table, []))
            times["all"].append(seconds(root / "run", few, table, ["all"]))
    one, nine = (median(times[name]) / len(names) for name in ("default", "all"))
    lines = [
        f"evaluate, {len(names)} cases, linear run, seconds of processor time a case (median of {ROUNDS}):",
        f"default protocol   {one:6.2f}",
        f"all protocols      {nine:6.2f}",
        f"ratio              {nine / one:6.2f}",
    ]
    write("protocol_cost", "python benchmarks/protocol_cost.py DATA", {"seconds": times, "ratio": nine / one}, "\n".join(lines))


if __name__ == "__main__":
    main()
