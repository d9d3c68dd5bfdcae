"""synthmr: predict the MR contrast that was never acquired from the ones that were.

`docs/python.md` shows each name in a few lines. Nothing heavy is imported before one of them is used.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synthmr.api import audit, dataset, evaluate, index, load, score, synthesize, train
    from synthmr.api_run import Run
    from synthmr.methods.contract import NoOptions
    from synthmr.methods.registry import register

# Threads of a parallel loop that are done wait asleep, not spinning: two that spin on a machine that is busy with something
# else cost several times the CPU. OpenMP reads it when torch is loaded, so here, unless the user has set it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.2.0"

#: name -> the module that it comes from
_FACE = {
    **dict.fromkeys(("audit", "dataset", "index", "load", "score", "synthesize"), "synthmr.api"),
    "Run": "synthmr.api_run",
    "NoOptions": "synthmr.methods.contract",
    "register": "synthmr.methods.registry",
}

__all__ = [
    "NoOptions", "Run", "audit", "dataset", "evaluate", "index", "load", "register", "score", "synthesize", "train",
]  # fmt: skip


#: packages that are functions too, see `synthmr.face`
_CALLED = ("evaluate", "train")


def __getattr__(name: str) -> Any:
    if name in _CALLED:
        return importlib.import_module(f"synthmr.{name}")
    if name not in _FACE:
        raise AttributeError(f"module 'synthmr' has no attribute {name!r}; it offers {', '.join(__all__)}.")
    return getattr(importlib.import_module(_FACE[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
