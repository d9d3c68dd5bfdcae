"""What it costs and gains that threads wait asleep (``OMP_WAIT_POLICY=PASSIVE``, which synthmr sets) and not spinning (``ACTIVE``).

    python benchmarks/wait_policy.py

Training steps of a network of Hi-Net's width (64 filters, 3x3, four 128x128 patches) on two threads, each measurement in a
process of its own: alone, and beside processes that keep as many cores busy. Wall time is what the user waits; CPU seconds
are what others on the machine lose. The ratios are of medians, PASSIVE over ACTIVE: below 1 PASSIVE is the better.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from statistics import median

from common import write

WORKER = """
import json, sys, time
import torch
from torch import nn

torch.manual_seed(0)
layers = [nn.Conv2d(2, 64, 3, padding=1)]
for _ in range(4):
    layers += [nn.BatchNorm2d(64), nn.LeakyReLU(0.2), nn.Conv2d(64, 64, 3, padding=1)]
network = nn.Sequential(*layers, nn.Conv2d(64, 1, 1), nn.Tanh())
optimizer = torch.optim.Adam(network.parameters(), lr=2e-4)
images, target = torch.randn(4, 2, 128, 128), torch.randn(4, 1, 128, 128)


def step():
    optimizer.zero_grad()
    nn.functional.l1_loss(network(images), target).backward()
    optimizer.step()


for _ in range(3):
    step()
wall, cpu = time.perf_counter(), time.process_time()
for _ in range(int(sys.argv[1])):
    step()
print(json.dumps({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}))
"""


def measure(policy: str, steps: int, busy: int) -> dict[str, float]:
    """Seconds of ``steps`` steps on two threads, beside ``busy`` processes that compute without end."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        env = {**os.environ, "OMP_WAIT_POLICY": policy, "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
        command = [sys.executable, "-c", WORKER, str(steps)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    finally:
        for other in others:
            other.kill()
            other.wait()
    result: dict[str, float] = json.loads(done.stdout)
    return result


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--busy", type=int, default=1, help="busy processes beside it")
    words = parser.parse_args()
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for where, busy in (("alone", 0), ("busy", words.busy)):
        found[where] = {"ACTIVE": [], "PASSIVE": []}
        for _ in range(words.repeats):  # by turns, so that a machine that warms up or is shared harms both alike
            for policy, runs in found[where].items():
                runs.append(measure(policy, words.steps, busy))
    ratios: dict[str, float] = {}
    heads = [f"{clock} {policy}" for clock in ("wall", "CPU") for policy in ("ACTIVE", "PASSIVE")]
    lines = [f"{'':8}" + "".join(f"{head:>14}" + (f"{'ratio':>8}" if head.endswith("PASSIVE") else "") for head in heads)]
    for where, policies in found.items():
        line = f"{where:8}"
        for clock in ("wall", "cpu"):
            active, passive = (median(run[clock] for run in policies[policy]) / words.steps for policy in ("ACTIVE", "PASSIVE"))
            ratios[f"{where}_{clock}"] = passive / active
            line += f"{active:12.3f} s{passive:12.3f} s{passive / active:8.2f}"
        lines.append(line)
    lines.append(f"seconds a step, median of {words.repeats}; beside {words.busy} busy process(es); two threads")
    command = f"python benchmarks/wait_policy.py --steps {words.steps} --repeats {words.repeats} --busy {words.busy}"
    write("wait_policy", command, {"ratios": ratios, "runs": found}, "\n".join(lines))


if __name__ == "__main__":
    main()
