"""``--log-file``: what a command says, with time stamps, and errors with their tracebacks, added to a file."""

from __future__ import annotations

import io
import logging
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from synthmr import __version__
from synthmr.errors import SynthmrError, UsageError
from synthmr.stopping import Stopped

OPTION = "--log-file"

_logger = logging.getLogger("synthmr")


def to_front(words: Sequence[str]) -> list[str]:
    """The words of a command with ``--log-file FILE`` first, wherever it stood: it belongs to every verb.

    Raises:
        UsageError: it is given twice, or without a file.
    """
    rest: list[str] = []
    found: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if word == "--":
            rest += [word, *left]
            break
        if word == OPTION or word.startswith(OPTION + "="):
            value = word.partition("=")[2] if "=" in word else (left.pop(0) if left else "")
            if not value or value.startswith("-"):
                raise UsageError(f"{OPTION} needs a file to write to, for example {OPTION} train.log.")
            found.append(value)
        else:
            rest.append(word)
    if len(found) > 1:
        raise UsageError(f"{OPTION} was given {len(found)} times; give one file.")
    return [*(part for value in found for part in (OPTION, value)), *rest]


def is_open() -> bool:
    """Whether somebody listens."""
    return bool(_logger.handlers)


def say(text: str) -> None:
    """Add lines to the file, if there is one."""
    if is_open():
        for line in text.rstrip().splitlines():
            if line.strip():
                _logger.info(line.rstrip())


def start(path: Path, words: Sequence[str]) -> None:
    """Add to a file what is said from here on.

    Args:
        path: of the file; its folder is made.
        words: of the command, for the first line.

    Raises:
        DataError: it cannot be written.
    """
    from synthmr.io.files import write_error

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _Handler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise write_error(path, error) from None
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    mark = f" [process {rank}]" if rank else ""
    handler.setFormatter(logging.Formatter(f"%(asctime)s{mark} %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S%z"))
    _logger.addHandler(handler)
    _logger.setLevel(logging.INFO)
    _logger.propagate = False
    if not rank:
        say(f"synthmr {__version__}: {shlex.join(['synthmr', *words])}")


@contextmanager
def session() -> Iterator[None]:
    """Within this block `start` may be called; its end, whatever it is, is noted, and the file closed."""
    error_stream = sys.stderr
    sys.stderr = _Heard(error_stream)
    try:
        yield
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        say(f"exit {code}")
        raise
    except Stopped as stopped:
        say(f"stopped by {stopped.name}{'; ' if stopped.words else ''}{stopped.words}")
        say(f"exit {stopped.exit_code}")
        raise
    except BaseException as error:
        if is_open():
            words = " ".join(str(error).split())
            _logger.error(words if isinstance(error, SynthmrError) else f"{type(error).__name__}: {words}", exc_info=True)
        raise
    finally:
        sys.stderr = error_stream
        for handler in list(_logger.handlers):
            _logger.removeHandler(handler)
            handler.close()
        _logger.propagate = True


class _Handler(logging.FileHandler):
    """A log that cannot be written any more (a full disk) must not end what it tells of."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing: the file shows that it ends."""

    def close(self) -> None:
        """Close the file, as far as it goes."""
        try:
            super().close()
        except OSError:
            self.stream = None


class _Heard(io.TextIOBase):
    """Standard error of others (warnings, usage errors), whose lines go into the log too; what rich writes passes it by."""

    def __init__(self, stream: TextIO) -> None:
        self.rich_proxied_file = stream  # where rich writes to: `synthmr.console` tells the log itself, without colours
        self._stream, self._line = stream, ""

    def write(self, text: str) -> int:
        """Write, and note whole lines."""
        if is_open():
            *lines, self._line = (self._line + text).split("\n")
            say("\n".join(lines))
        return self._stream.write(text)

    def flush(self) -> None:
        """See `io.TextIOBase`."""
        self._stream.flush()

    def isatty(self) -> bool:
        """See `io.TextIOBase`."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """See `io.TextIOBase`."""
        return self._stream.fileno()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
