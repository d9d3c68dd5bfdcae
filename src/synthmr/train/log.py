"""Who is told how a run goes: the progress protocol, and TensorBoard."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from synthmr.errors import MissingExtra
from synthmr.io.files import write_error


class Progress(Protocol):
    """What a live display implements; see `synthmr.console.Live`."""

    def on_step(
        self,
        step: int,
        total: int | None,
        progress: float,
        losses: Mapping[str, float],
        validation_best: float | None,
        seconds_left: float | None,
    ) -> None:
        """Some steps are done: their mean losses, the share of the run in [0, 1], the best validation score so far."""

    def on_validation(self, step: int, score: float, best: float, name: str = "psnr", unit: str = "dB") -> None:
        """The validation cases were scored by ``name``, in ``unit``."""

    def on_message(self, text: str) -> None:
        """Something that a person should read."""


class Silent:
    """Tells nobody."""

    def on_step(
        self,
        step: int,
        total: int | None,
        progress: float,
        losses: Mapping[str, float],
        validation_best: float | None,
        seconds_left: float | None,
    ) -> None:
        """See `Progress`."""

    def on_validation(self, step: int, score: float, best: float, name: str = "psnr", unit: str = "dB") -> None:
        """See `Progress`."""

    def on_message(self, text: str) -> None:
        """See `Progress`."""


def require_tensorboard() -> None:
    """Check that TensorBoard is installed.

    Raises:
        MissingExtra: it is not.
    """
    try:
        importlib.import_module("tensorboard")
    except ImportError:
        raise MissingExtra("train.tensorboard=true needs TensorBoard: pip install 'synthmr[tensorboard]'.") from None


class Board:
    """TensorBoard events.

    Raises:
        MissingExtra: TensorBoard is not installed.
        DataError: the folder cannot be written.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        """Write to ``folder``; events after ``step`` that a killed session left are hidden."""
        require_tensorboard()
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        try:
            self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)
        except OSError as error:
            raise write_error(folder, error) from None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add scalars.

        Raises:
            DataError: they cannot be written.
        """
        try:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
        except OSError as error:
            raise write_error(self._folder, error) from None

    def close(self) -> None:
        """Finish the file; of a disk that is full, the first word counts."""
        with suppress(OSError):
            self._writer.close()
