"""The type of a progress callback."""

from __future__ import annotations

from collections.abc import Callable

#: ``progress(done, total, name)``
Tick = Callable[..., None]
