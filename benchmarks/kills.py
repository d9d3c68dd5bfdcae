"""Kill -9 at every file operation of prepare, train and synthesize, each once, and give the same command again.

    python benchmarks/kills.py

A trial is good where the second command ends well and leaves the same files, with the same bits, as one that was never killed
(`tests/kills.py` says what is compared and how the kill is done).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from common import write

SCRIPT = Path(__file__).parent.parent / "tests" / "kills.py"


def main() -> None:
    """Run all trials and write the result."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(SCRIPT), str(Path(folder) / "area"), "0", "0"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        sys.exit(done.stderr)
    trials = [json.loads(line) for line in done.stdout.splitlines()]
    count = Counter((trial["stage"], trial["kind"]) for trial in trials)
    bad = Counter((trial["stage"], trial["kind"]) for trial in trials if trial["differs"])
    rows = [f"{'stage':12} {'operation':10} {'kills':>6} {'differ':>7}"]
    rows += [f"{stage:12} {kind:10} {number:6} {bad[stage, kind]:7}" for (stage, kind), number in sorted(count.items())]
    rows += [f"{'all':23} {len(trials):6} {sum(bad.values()):7}"]
    wrong = [trial for trial in trials if trial["differs"]]
    rows += [f"{trial['stage']} {trial['operation']} {trial['kind']} {trial['moment']}: {trial['differs']}" for trial in wrong]
    result = {
        "kills": len(trials),
        "differ": len(wrong),
        "by_operation": [
            {"stage": stage, "operation": kind, "kills": number, "differ": bad[stage, kind]}
            for (stage, kind), number in sorted(count.items())
        ],
        "wrong": wrong,
    }
    write("kills", "python benchmarks/kills.py", result, "\n".join(rows))


if __name__ == "__main__":
    main()
