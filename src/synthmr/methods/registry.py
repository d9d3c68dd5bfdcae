"""The one list of methods. Modules are imported when a method is asked for, so that `synthmr --help` stays fast.

A method of your own needs no line here. It is found by

- the entry-point group ``synthmr.methods`` of an installed package (name = "package.module:Class");
- `register`, for a class of the running process;
- the word ``path/to/file.py:Class`` or ``package.module:Class`` in the place of a name.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from synthmr.errors import MissingExtra, UsageError, did_you_mean
from synthmr.methods.source import Declared, declared

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

Kind = TypeVar("Kind", bound=type)

#: classes of the running process by name, and the word by which another process finds them ("" where none does)
_here: dict[str, Any] = {}
_words: dict[Any, str] = {}
#: files that were run: path -> (time of its last change, module)
_files: dict[Path, tuple[int, ModuleType]] = {}


def installed() -> dict[str, str]:
    """Every method that any process finds by its name -> where its class is; ours first, then other packages'."""
    found = dict(METHODS)
    for point in entry_points(group="synthmr.methods"):
        found.setdefault(point.name, point.value)
    return found


def available() -> dict[str, str]:
    """Every method name -> where its class is: those of `installed`, then those of the running process."""
    return {**installed(), **{name: f"{kind.__module__}:{kind.__qualname__}" for name, kind in _here.items()}}


def load(name: str) -> Any:
    """The class of a method.

    Args:
        name: of `available`, or ``file.py:Class`` or ``package.module:Class``.

    Raises:
        UsageError: no such method, or a class that does not follow the contract.
        MissingExtra: its module needs a package that is not installed.
    """
    if ":" in name:
        return _load_word(name)
    if name in _here:
        return _here[name]
    found = METHODS if name in METHODS else installed()
    if name not in found:
        raise UsageError(
            f"unknown method {name!r}: {did_you_mean(name, available())} A class of your own is named as file.py:Class, or is"
            " registered first with synthmr.register(cls)."
        )
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
    kind = getattr(home, attribute)
    if name not in METHODS:
        _check(kind, f"method {name} ({found[name]})")
        if kind.spec.name != name:
            raise UsageError(f"method {name} is a class that calls itself {kind.spec.name}; its package must name both alike.")
    return kind


def register(kind: Kind) -> Kind:
    """Make a class of the running process a method: its ``spec.name`` is then known like any other.

    A run folder of it says where the class is, if that is a module that can be imported; of a class that was typed into a
    notebook or a script, register it again before the run is loaded. Can stand above a class as a decorator.

    Args:
        kind: follows `synthmr.methods.contract`.

    Returns:
        The class.

    Raises:
        UsageError: the class does not follow the contract, or its name is taken.
    """
    found: Any = kind
    home = found.__module__
    importable = "." not in found.__qualname__ and home in sys.modules and home != "__main__" and not home.startswith(_FILE)
    word = f"{found.__module__}:{found.__qualname__}" if importable else ""
    _admit(found, word, f"class {found.__qualname__}")
    return kind


def forget(kind: Any) -> None:
    """Inverse of `register`; of an unknown class nothing."""
    for name in [name for name, each in _here.items() if each is kind]:
        del _here[name]
    _words.pop(kind, None)


def word_of(kind: Any) -> str:
    """The word by which another process finds the class of a method; empty where its name does."""
    return _words.get(kind, "")


def declaration(name: str) -> Declared:
    """Spec and presets of a method, read from its source where that tells; raises what `load` raises."""
    where = METHODS.get(name) or installed().get(name, "")
    found = None if name in _here else declared(where)
    if found is not None:
        return found
    kind = load(name)
    return Declared(kind.spec, tuple(kind.presets))


def serving(sources: int, targets: int) -> list[str]:
    """Our methods that take so many sources and targets."""
    specs = {name: declaration(name).spec for name in METHODS}
    return [
        name
        for name, spec in specs.items()
        if spec.sources[0] <= sources <= spec.sources[1] and spec.targets[0] <= targets <= spec.targets[1]
    ]


# --- classes that are named by where they are ------------------------------------------------------------------------------

#: modules of files are called so, with a digest of the path
_FILE = "synthmr_method_file_"


def _load_word(word: str) -> Any:
    """The class that ``file.py:Class`` or ``package.module:Class`` names, known from now on by its own name as well."""
    home, _, attribute = word.rpartition(":")
    named = home.endswith(".py") or os.sep in home
    if named:
        path = Path(home).expanduser().resolve()
        if not path.is_file():
            raise UsageError(
                f"there is no file {path}, in which the method {attribute} should be; correct the path, or put the file back (a run"
                " says in its config.yaml, under `code`, where its method is)."
            )
        module = _run_file(path)
        word = f"{path}:{attribute}"
    else:
        try:
            module = importlib.import_module(home)
        except Exception as error:  # whatever somebody else's module raises
            raise UsageError(
                f"the module {home} of the method {attribute} cannot be imported ({_in_words(error)}); install its package, or put"
                " its folder on PYTHONPATH."
            ) from error
    kind = getattr(module, attribute, None)
    if kind is None:
        classes = [name for name, each in vars(module).items() if isinstance(each, type) and each.__module__ == module.__name__]
        raise UsageError(f"{home} has no class {attribute!r}: {did_you_mean(attribute, classes)}")
    _admit(kind, word if named or installed().get(_name(kind)) != word else "", word)
    return kind


def _run_file(path: Path) -> ModuleType:
    """The module of a file, run once for each of its versions; modules beside it can be imported, as from a script."""
    changed = path.stat().st_mtime_ns
    if path in _files and _files[path][0] == changed:
        return _files[path][1]
    name = _FILE + hashlib.sha256(str(path).encode()).hexdigest()[:12]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is no Python file; name it file.py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever somebody else's file raises
        del sys.modules[name]
        raise UsageError(f"{path} cannot be run ({_in_words(error)}); mend it: -vv shows where.") from error
    finally:
        sys.path.remove(str(path.parent))
    _files[path] = (changed, module)
    return module


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _name(kind: Any) -> str:
    return str(getattr(getattr(kind, "spec", None), "name", ""))


def _check(kind: Any, what: str) -> None:
    """Refuse a class that does not follow the contract."""
    from synthmr.methods.contract import misfits

    found = misfits(kind)
    if found:
        raise UsageError(f"{what} is no method: {found[0]}; synthmr.testing.check_method(cls) tells all that a method promises.")


def _admit(kind: Any, word: str, what: str) -> None:
    """Know a class by its name.

    Raises:
        UsageError: it does not follow the contract, or its name is taken by another class.
    """
    _check(kind, what)
    name = kind.spec.name
    known = installed().get(name)
    if known is not None:
        if known == f"{kind.__module__}:{kind.__qualname__}":
            return
        raise UsageError(f"{what} calls itself {name}, as {known} does; give its spec another name.")
    other = _here.get(name)
    # a notebook's cell, or a file that was edited, defines its class anew
    if other is not None and (other.__module__, other.__qualname__) != (kind.__module__, kind.__qualname__):
        raise UsageError(
            f"{what} calls itself {name}, as {other.__module__}:{other.__qualname__} does; give its spec another name."
        )
    _here[name] = kind
    _words[kind] = word
