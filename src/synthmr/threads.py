"""How many processor threads a computation takes."""

from __future__ import annotations

import os
import sys

from synthmr.errors import UsageError

#: what OpenMP, MKL and OpenBLAS read when they are loaded
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def set_threads(count: int) -> None:
    """Let everything that runs from here on, in this process and those that it starts, take ``count`` threads.

    Raises:
        UsageError: fewer than one.
    """
    if count < 1:
        raise UsageError(f"--threads {count}: at least 1; leave it out to use all cores.")
    os.environ.update(dict.fromkeys(VARIABLES, str(count)))
    if "torch" in sys.modules:  # it has read them already
        import torch

        torch.set_num_threads(count)
