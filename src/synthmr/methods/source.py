"""What a method's class says of itself, read from its source file: no module is run, so a table of methods needs no torch."""

from __future__ import annotations

import ast
import importlib.machinery
import sys
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from synthmr.methods.spec import Spec

#: bases whose presets have these names, where a class has none of its own
BASES = ("NeuralMethod", "FittedMethod")
BASE_PRESETS = ("paper", "fast")


@dataclass(frozen=True)
class Declared:
    """A class as its source declares it.

    Attributes:
        spec: its capabilities.
        presets: the names of its presets.
    """

    spec: Spec
    presets: tuple[str, ...]


def declared(where: str) -> Declared | None:
    """Read a class without importing its module.

    Args:
        where: ``package.module:Class``.

    Returns:
        None where the source cannot tell: it is not found, or does not write the spec as ``Spec(...)`` of plain values.
    """
    module, _, name = where.partition(":")
    path = _path(module)
    if path is None:
        return None
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return None
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _read(node)
    return None


def _path(module: str) -> Path | None:
    """The source file that an import of a module would run; its packages are not imported either."""
    places: Iterable[str] | None = None
    found = None
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        name = ".".join(parts[:count])
        found = _find(name, places)
        if found is None:
            return None
        places = found.submodule_search_locations
    origin = found.origin if found is not None else None
    return Path(origin) if origin and origin.endswith(".py") else None


def _find(name: str, places: Iterable[str] | None) -> importlib.machinery.ModuleSpec | None:
    """What the import system knows of a module, asked of each of its finders as an import would."""
    path = None if places is None else list(places)
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        try:
            found = find(name, path) if find is not None else None
        except (ImportError, ValueError):
            found = None
        if found is not None:
            return found
    return None


def _read(node: ast.ClassDef) -> Declared | None:
    """Spec and names of presets of a class body."""
    assigned = {}
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value is not None:
            assigned[line.target.id] = line.value
        elif isinstance(line, ast.Assign) and len(line.targets) == 1 and isinstance(line.targets[0], ast.Name):
            assigned[line.targets[0].id] = line.value
    spec = _spec(assigned.get("spec"))
    bases = [base.id if isinstance(base, ast.Name) else getattr(base, "attr", "") for base in node.bases]
    presets: tuple[str, ...] | None = None
    if "presets" in assigned:
        presets = _keys(assigned["presets"])
    elif bases and bases[0] in BASES:
        presets = BASE_PRESETS
    return None if spec is None or presets is None else Declared(spec, presets)


def _spec(node: ast.expr | None) -> Spec | None:
    """``Spec(...)`` of plain values."""
    if not isinstance(node, ast.Call) or (node.func.id if isinstance(node.func, ast.Name) else "") != "Spec":
        return None
    names = [each.name for each in fields(Spec)]
    values: dict[str, Any] = {}
    try:
        for name, value in zip(names, node.args, strict=False):
            values[name] = ast.literal_eval(value)
        for keyword in node.keywords:
            values[str(keyword.arg)] = ast.literal_eval(keyword.value)
        return Spec(**values)
    except (ValueError, TypeError):
        return None


def _keys(node: ast.expr) -> tuple[str, ...] | None:
    """The keys of a dictionary display, all of them written out."""
    if not isinstance(node, ast.Dict):
        return None
    keys = [key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)]
    return tuple(keys) if len(keys) == len(node.keys) else None
