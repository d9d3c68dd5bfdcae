"""Packages that are called like functions: `synthmr.train(...)` and `synthmr.evaluate(...)` beside the packages of these names.

Python puts a package under its name into its parent when any module of it is imported, over whatever was there. So the package
itself is what is called, and hands on to `synthmr.api`.
"""

from __future__ import annotations

import inspect
import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """A package that calls the function of `synthmr.api` of its own name."""

    def _function(self) -> Any:
        from synthmr import api

        return getattr(api, self.__name__.rpartition(".")[2])

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._function()(*args, **options)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._function())


def make_callable(package: str) -> None:
    """Make an imported package callable; see `synthmr.api` for what it does then."""
    sys.modules[package].__class__ = _Callable
