"""Ctrl-C, SIGTERM and SIGHUP: what is at work ends in good order, and the exit code says which signal it was.

`handled` is for a whole command: a signal raises `Stopped` at once, so that blocks that write clean up behind themselves. What must
not be cut in two (a step of training) lies in `deferred`, asks `pending` where it can end, and raises `Stopped` itself. A second
signal ends the process where it stands.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

#: signals that ask for an end; SIGHUP (a closed terminal) is unknown to Windows
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

#: seconds in which a second signal is taken for the first: `timeout` and some launchers send one to a process and to its group
SAME = 0.3


class Stopped(BaseException):
    """A signal asked for an end.

    No `Exception`, so that nothing takes it for the fault of a case, and no `KeyboardInterrupt`, which typer swallows.
    """

    def __init__(self, signum: int, words: str = "") -> None:
        """The signal, and what became of the work, as a sentence without its full stop."""
        super().__init__(words)
        self.signum, self.words = int(signum), words

    @property
    def exit_code(self) -> int:
        """As a shell has it: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
        return 128 + self.signum

    @property
    def name(self) -> str:
        """The signal for a person."""
        return "Ctrl-C" if self.signum == signal.SIGINT else signal.Signals(self.signum).name


class _State:
    """What the handler knows; there is one, because a process has one set of handlers."""

    def __init__(self) -> None:
        self.installed = False
        self.depth = 0  # of blocks that defer
        self.seen = 0  # the first signal
        self.when = 0.0
        self.raised = False


_state = _State()


def _handler(signum: int, frame: Any) -> None:
    now = time.monotonic()
    if _state.seen:
        if now - _state.when < SAME:
            return
        with suppress(OSError):
            os.write(2, b"synthmr: ended at once by a second signal.\n")
        os._exit(128 + signum)
    _state.seen, _state.when = signum, now
    if _state.depth == 0:
        _raise()


def _raise() -> None:
    _state.raised = True
    raise Stopped(_state.seen)


@contextmanager
def handled() -> Iterator[None]:
    """Within this block a signal raises `Stopped` in the main thread.

    A signal that is ignored stays ignored (`nohup`, a job in the background), and one for which somebody else has set a handler is
    left to that. Nothing happens in other threads than the main one, or inside another such block.
    """
    if _state.installed or threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = (signal.SIG_DFL, signal.default_int_handler)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    mine = [number for number, handler in before.items() if handler in usual]
    _state.installed, _state.depth, _state.seen, _state.raised = True, 0, 0, False
    try:
        for number in mine:
            signal.signal(number, _handler)
        yield
    finally:
        for number in mine:
            signal.signal(number, before[number])
        _state.installed, _state.seen = False, 0


@contextmanager
def deferred() -> Iterator[None]:
    """Within this block a signal is noted alone; `pending` tells. At its end one that nobody took raises `Stopped`.

    Outside of `handled`, in a program that uses synthmr as a library, the block handles signals by itself: at its end the program
    meets Ctrl-C as `KeyboardInterrupt`, and SIGTERM and SIGHUP as if they came then.
    """
    if _state.installed:
        with _deferred():
            yield
        return
    try:
        with handled(), _deferred():
            yield
    except Stopped as stopped:
        if stopped.signum == signal.SIGINT:
            raise KeyboardInterrupt(stopped.words) from None
        # the handler that was there is back: as a program that knows no synthmr would end
        os.kill(os.getpid(), stopped.signum)
        raise


@contextmanager
def _deferred() -> Iterator[None]:
    _state.depth += 1
    try:
        yield
    finally:
        _state.depth -= 1
    if _state.depth == 0 and pending():
        _raise()


@contextmanager
def at_once() -> Iterator[None]:
    """Within this block, inside `deferred`, a signal raises `Stopped` again; one that waits does so on entry."""
    depth, _state.depth = _state.depth, 0
    try:
        if pending():
            _raise()
        yield
    finally:
        _state.depth = depth


def pending() -> int:
    """The signal that waits to be taken; 0 for none."""
    return 0 if _state.raised else _state.seen


def taken() -> None:
    """Say that what waits is being seen to: the caller raises `Stopped` in good order."""
    _state.raised = True
