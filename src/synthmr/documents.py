"""Text, JSON and YAML that people and programs wrote, read within bounds: every fault is one line that names the file.

A few hundred bytes can ask for all memory or never end: a pipe, ``/dev/zero`` behind a link, brackets in brackets, aliases of
aliases. So a file is opened only where it is a regular one, and its size, its depth and what its aliases stand for are bounded.
"""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from synthmr.errors import DataError, shown

#: bytes of the largest YAML and JSON file that is read, and of the largest table
MOST_YAML, MOST_JSON, MOST_TABLE = 2**20, 64 * 2**20, 256 * 2**20

#: mappings and lists inside each other
MOST_DEPTH = 64

#: characters of a YAML document once every alias is written out
MOST_EXPANDED = 4 * 2**20

#: what a path can be that is no regular file -> its word
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def not_regular(mode: int) -> str:
    """What a path with this ``st_mode`` is, where it is no regular file, as ``a pipe``; else empty."""
    if stat.S_ISREG(mode):
        return ""
    return next((word for test, word in _KINDS if test(mode)), "no regular file")


def open_regular(path: Path | str) -> io.BufferedReader:
    """Open a file for reading, and nothing else: opening a pipe would wait for ever, reading a device never end.

    Raises:
        DataError: the path is no regular file.
        OSError: it cannot be opened.
    """
    kind = not_regular(os.stat(path).st_mode)  # noqa: PTH116 (a path that cannot be one raises here, too)
    if kind:
        raise DataError(f"{path} cannot be read: it is {kind}, not a file; give the file itself.")
    # it may have been exchanged since: a pipe that is opened so does not wait
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
    stream = open(handle, "rb")  # noqa: SIM115 (whoever asked closes it)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        stream.close()
        raise DataError(f"{path} cannot be read: it is no file; give the file itself.")
    return stream


def read_bytes(path: Path | str, most: int) -> bytes:
    """The bytes of a small file.

    Args:
        path: of a regular file.
        most: bytes that it may have.

    Raises:
        DataError: it is missing, unreadable, no regular file, or larger.
    """
    try:
        with open_regular(path) as stream:
            data = stream.read(most + 1)
    except FileNotFoundError:
        raise DataError(f"{path} cannot be read: it does not exist; check the path.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {_reason(error)}.") from None
    if len(data) > most:
        raise DataError(f"{path} cannot be read: it is larger than {most // 2**20} MB; check that it is the right file.")
    return data


def read_text(path: Path | str, most: int, kind: str = "") -> str:
    """The text of a small UTF-8 file, with or without a byte order mark; lines end as they do in the file.

    Args:
        path: of a regular file.
        most: bytes that it may have.
        kind: of document, for messages, such as ``JSON``.

    Raises:
        DataError: as `read_bytes`, or it is no UTF-8 text.
    """
    try:
        return read_bytes(path, most).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path} cannot be read{f' as {kind}' if kind else ''}: it is no UTF-8 text; save it as UTF-8.") from None


def _reason(error: BaseException) -> str:
    """An error in one short line."""
    words = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    line = " ".join(words.split()).rstrip(".")
    return line if len(line) <= 200 else line[:197] + "..."


# --- JSON ---------------------------------------------------------------------------------------------------------------


def read_json(path: Path | str, most: int = MOST_JSON) -> Any:
    """The data of a JSON file.

    Args:
        path: of a regular file.
        most: bytes that it may have.

    Raises:
        DataError: as `read_text` and `parse_json`.
    """
    return parse_json(read_text(path, most, "JSON"), str(path))


def read_json_object(path: Path | str, most: int = MOST_JSON) -> dict[str, Any]:
    """The data of a JSON file that holds one object, ``{"key": value}``; arguments and errors of `read_json`."""
    data = read_json(path, most)
    if not isinstance(data, dict):
        raise DataError(f"{path} is no JSON object; it must be {{...}} with keys and values.")
    return data


def parse_json(text: str, where: str) -> Any:
    """The data of a JSON text.

    Args:
        text: of the document.
        where: the file, for messages.

    Raises:
        DataError: it is no JSON, gives a key twice, or is nested too deeply.
    """
    try:
        data = json.loads(text, object_pairs_hook=_object)
    except _Twice as error:
        raise DataError(f"{where} gives the key {error} twice; keep one.") from None
    except RecursionError:
        raise DataError(f"{where} is nested too deeply; it is no file of this kind.") from None
    except ValueError as error:
        raise DataError(f"{where} cannot be read as JSON: {_reason(error)}.") from None
    if _deeper(data, MOST_DEPTH):
        raise DataError(f"{where} is nested more than {MOST_DEPTH} levels deep; it is no file of this kind.")
    return data


class _Twice(Exception):
    """A key that an object has twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object in which no key stands twice; Python alone would take the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(repr(next(name for name in names if names.count(name) > 1)[:80]))
    return found


def _deeper(data: Any, most: int) -> bool:
    """Whether containers lie inside each other more than ``most`` levels deep."""
    level = [data]
    for _ in range(most + 1):
        level = [
            child
            for each in level
            for child in (each.values() if isinstance(each, Mapping) else each if isinstance(each, list) else ())
        ]
        if not level:
            return False
    return True


# --- YAML ---------------------------------------------------------------------------------------------------------------


def read_yaml(path: Path | str, most: int = MOST_YAML) -> Any:
    """The data of a YAML file.

    Args:
        path: of a regular file.
        most: bytes that it may have.

    Raises:
        DataError: as `read_text` and `parse_yaml`.
    """
    return parse_yaml(read_text(path, most, "YAML"), str(path))


def parse_yaml(text: str, where: str) -> Any:
    """The plain data of a YAML text; no object is ever built from a tag.

    Args:
        text: of the document.
        where: the file, for messages.

    Raises:
        DataError: it is no YAML, gives a key twice, holds a date or number that cannot be, is nested too deeply, or its aliases
            stand for too much.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Bounded: PyYAML alone follows any depth and expands any alias, and takes the last of two equal keys."""

        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            self.depth += 1
            if self.depth > MOST_DEPTH:
                raise DataError(f"{where} is nested more than {MOST_DEPTH} levels deep; it is no file of this kind.")
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

        def get_single_node(self) -> Any:
            node = super().get_single_node()
            if node is not None:
                _check_aliases(node, where)
            return node

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            if isinstance(node, yaml.MappingNode):
                # by what is written: 1 and "1" are one key to whoever reads the file
                keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE]
                twice = next((key for key in keys if keys.count(key) > 1), None) if len(set(keys)) < len(keys) else None
                if twice is not None:
                    raise DataError(f"{where}: {twice[:80]} stands there twice; give each key once.")
            return dict(super().construct_mapping(node, deep))

    try:
        return yaml.load(text, Loader)
    except DataError:
        raise
    except RecursionError:
        raise DataError(f"{where} is nested too deeply; it is no file of this kind.") from None
    except (yaml.YAMLError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
        # beside its own errors PyYAML lets through those of a date or a number that cannot be
        raise DataError(f"{where} cannot be read as YAML: {_reason(error)}.") from None


_MERGE = "tag:yaml.org,2002:merge"


def _check_aliases(root: Any, where: str) -> None:
    """Bound what a document says once its aliases are written out, which a message or a copy may do.

    Raises:
        DataError: it is too much or too deep, or an alias stands inside what it is an alias of.
    """
    known: dict[int, tuple[int, int]] = {}
    inside: set[int] = set()

    def measure(node: Any) -> tuple[int, int]:
        """Characters and levels. An anchor stands before its aliases, so this never goes deeper than the text is nested."""
        if id(node) in known:
            return known[id(node)]
        if id(node) in inside:
            raise DataError(f"{where}: an alias stands inside what it is an alias of; write the value out.")
        size, depth = 1, 0
        if isinstance(node.value, str):
            size += len(node.value)
        else:
            inside.add(id(node))
            for item in node.value:
                for part in item if isinstance(item, tuple) else (item,):
                    more, below = measure(part)
                    size, depth = size + more, max(depth, below + 1)
            inside.discard(id(node))
        if size > MOST_EXPANDED or depth > MOST_DEPTH:
            raise DataError(f"{where}: its aliases stand for more than any file of this kind holds; write out what is meant.")
        known[id(node)] = size, depth
        return known[id(node)]

    measure(root)


# --- what somebody may have edited --------------------------------------------------------------------------------------

#: a number of JSON, and one that may be missing
NUMBER, MAYBE_NUMBER = (int, float), (int, float, type(None))


def check_shape(data: Any, shape: Any, where: str) -> None:
    """Check that plain data have the shape that the program expects.

    Args:
        data: as they were read.
        shape: a type, or a tuple of types (a bool is no number); ``[shape]`` a list; ``{str: shape}`` any keys;
            ``{"key": shape, "other?": shape}`` these keys and any further ones; with a question mark one may be missing.
        where: the file and key, for messages.

    Raises:
        DataError: a key is missing, or a value is of another shape.
    """
    if isinstance(shape, dict):
        _of_kind(data, (dict,), where)
        for key, inner in shape.items():
            if key is str:
                for name, value in data.items():
                    check_shape(value, inner, f"{where}: {shown(name)}")
            elif key.removesuffix("?") in data:
                check_shape(data[key.removesuffix("?")], inner, f"{where}: {key.removesuffix('?')}")
            elif not key.endswith("?"):
                raise DataError(f"{where} lacks {key}")
    elif isinstance(shape, list):
        _of_kind(data, (list,), where)
        for number, value in enumerate(data):
            check_shape(value, shape[0], f"{where}[{number}]")
    else:
        _of_kind(data, shape if isinstance(shape, tuple) else (shape,), where)


_WORDS = {
    dict: "a mapping",
    list: "a list",
    str: "a word",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


def _of_kind(value: Any, allowed: tuple[type, ...], where: str) -> None:
    """Raises DataError where a value is of none of the types."""
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        raise DataError(f"{where} is {shown(value)}, not {' or '.join(_WORDS[each] for each in allowed)}")
