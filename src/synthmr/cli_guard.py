"""What stands between a person and whatever may happen: no traceback, no character that a terminal cannot show, no empty path."""

from __future__ import annotations

import errno
import os
import sys
import typing
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from synthmr.errors import SynthmrError, UsageError
from synthmr.stopping import Stopped

#: characters of the longest message; what a message quotes can come from a file
MOST_WORDS = 4000

#: errors of reading -> what a person can do about them
_READING = {
    errno.EMFILE: "Too many files are open at once; allow more, for example with `ulimit -n 4096` before the command.",
    errno.ENFILE: "Too many files are open on this machine; try again later.",
    errno.ELOOP: "It is a link that leads back to itself; remove it.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.ENOENT: "Check the path.",
    errno.EACCES: "Check its permissions.",
    errno.EIO: "The disk reported a fault; check it, and copy the file from elsewhere.",
    errno.ESTALE: "The file system that it lay on has gone; mount it again.",
}


def set_streams() -> None:
    """Let standard output and error take any character: what their encoding lacks (``PYTHONIOENCODING=ascii``) is escaped."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def line_of(error: BaseException) -> str:
    """One line for a person about any error, those included that nobody foresaw."""
    words = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno is not None:
        path = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else "a file"
        if error.errno in _READING:
            words = f"{path}: {error.strerror or error}. {_READING[error.errno]}"
        else:
            from synthmr.io.files import write_error  # with NumPy, which --help can do without

            words = str(write_error(Path(path), error))
    elif isinstance(error, MemoryError):
        words = "memory ran out; take smaller images, fewer threads or cases at a time, or a machine with more."
    elif isinstance(error, RecursionError):
        words = "something that was read is nested too deeply; check the files that were given (-vv shows where)."
    elif not isinstance(error, SynthmrError):
        what = f"{type(error).__name__}: {words}" if words else type(error).__name__
        words = f"this was not foreseen ({what}); -vv before the verb shows where it happened. Please report it with the command."
    return words if len(words) <= MOST_WORDS else words[: MOST_WORDS - 4] + " ..."


def refuse_empty_paths(app: Any, words: Sequence[str]) -> None:
    """Refuse an empty word where a path is meant: it would mean the working directory, and is a variable that was not set.

    Args:
        app: of typer, with all that was registered.
        words: of the command line.

    Raises:
        UsageError: there is one.
    """
    if not any(word == "" or word.endswith("=") for word in words):
        return
    options = _path_options(app)
    for before, word in zip(["", *words], words, strict=False):
        name = before if word == "" else word[:-1] if word.endswith("=") else None
        if name in options or (word == "" and not before.startswith("-")):
            what = f"{name} is empty" if name in options else "an empty word was given"
            raise UsageError(f"{what}; name a file or folder (is a variable of your script not set?).")


def _path_options(app: Any) -> set[str]:
    """The options of all commands whose value is a path."""
    found: set[str] = set()
    for command in app.registered_commands:
        hints = typing.get_type_hints(command.callback, include_extras=True)
        for name, hint in hints.items():
            kind, *infos = typing.get_args(hint) if typing.get_origin(hint) is typing.Annotated else (hint,)
            if kind is Path or Path in typing.get_args(kind) or list[Path] in typing.get_args(kind):
                said = [
                    word for info in infos for word in (getattr(info, "default", ""), *(getattr(info, "param_decls", None) or ()))
                ]
                found |= {word for word in said if isinstance(word, str) and word.startswith("-")} | {f"--{name.replace('_', '-')}"}
    for group in app.registered_groups:
        found |= _path_options(group.typer_instance)
    return found


def is_worker() -> bool:
    """Whether this is another process of a training: Lightning Fabric starts them with the same command, and one of them speaks."""
    return int(os.environ.get("LOCAL_RANK", "0")) > 0 or int(os.environ.get("NODE_RANK", "0")) > 0


#: verb -> what the same command does when it is given again after it was stopped
_AGAIN = {
    "cv": "the same command goes on",
    "experiment": "the same command goes on",
    "subsets": "the same command goes on",
    "synthesize": "the same command goes on and leaves out what is done",
    "prepare": "the same command begins again",
}


def end(stopped: Stopped, verb: str) -> int:
    """Say that a signal ended a command, and how to go on; returns the exit code."""
    if is_worker():
        return 0  # else Fabric's watch would kill the first process, whose exit code counts
    again = _AGAIN.get(verb, "")
    if verb in ("train", "extend"):
        again = (
            "add --resume to the same command to go on" if stopped.words else "no training had begun: give the same command again"
        )
        again = "the same command goes on" if "--resume" in sys.argv else again
    words = "; ".join(filter(None, (stopped.words or "what was finished is kept", again)))
    with suppress(OSError):  # the terminal may be gone
        print(f"synthmr: stopped by {stopped.name}; {words}.", file=sys.stderr)
    return stopped.exit_code
