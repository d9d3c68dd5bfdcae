"""The one list of methods. Modules are imported when a method is asked for, so that `synthmr --help` stays fast.

Other packages add methods through the entry-point group ``synthmr.methods`` (name = "package.module:Class").
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from synthmr.errors import MissingExtra, UsageError, did_you_mean

#: name -> "module:Class". To add a method, add its line here.
METHODS: Mapping[str, str] = {
    "copy": "synthmr.methods.copy:Copy",
    "linear": "synthmr.methods.linear:Linear",
    "unet": "synthmr.methods.unet:UNet",
    "hinet": "synthmr.methods.hinet:HiNet",
    "cyclegan": "synthmr.methods.cyclegan:CycleGAN",
    "milr": "synthmr.methods.milr:Milr",
    "disentangled": "synthmr.methods.disentangled:Disentangled",
    "cut": "synthmr.methods.cut:Cut",
    "mafnet": "synthmr.methods.mafnet:MafNet",
    "imt": "synthmr.methods.imt:Imt",
}


def available() -> dict[str, str]:
    """Every method name -> where its class is; ours first, then other packages'."""
    found = dict(METHODS)
    for point in entry_points(group="synthmr.methods"):
        found.setdefault(point.name, point.value)
    return found


def load(name: str) -> Any:
    """The class of the method ``name``.

    Raises:
        UsageError: no such method, or another package's entry point that names no class.
        MissingExtra: its module needs a package that is not installed.
    """
    found = available()
    if name not in found:
        raise UsageError(f"unknown method {name!r}: {did_you_mean(name, found)}")
    module, _, attribute = found[name].partition(":")
    try:
        home = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("synthmr"):
            raise
        raise MissingExtra(
            f"method {name} needs the package {error.name}, which is not installed: pip install {error.name}"
        ) from None
    if not attribute or not hasattr(home, attribute):
        raise UsageError(f"method {name} is said to be {found[name]!r}, which is no class; mend the package that adds it.")
    return getattr(home, attribute)


def serving(sources: int, targets: int) -> list[str]:
    """Our methods that take so many sources and targets."""
    found = []
    for name in METHODS:
        spec = load(name).spec
        if spec.sources[0] <= sources <= spec.sources[1] and spec.targets[0] <= targets <= spec.targets[1]:
            found.append(name)
    return found
