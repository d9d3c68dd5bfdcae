"""A thread that keeps ahead of the training step."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Protocol

from synthmr.batch import Batch


class Batches(Protocol):
    """What gives the batch of a step: `synthmr.data.sampling.Sampler`."""

    def batch(self, step: int) -> Batch: ...


class Prefetcher:
    """Iterates ``(step, Batch)`` while one background thread prepares the next ones; use it in a ``with`` block.

    Attributes:
        waited: seconds that the consumer has waited for data, the first batch not counted.
    """

    def __init__(self, sampler: Batches, start: int, stop: int | None = None, depth: int = 2) -> None:
        self.sampler, self.start, self.stop = sampler, start, stop
        self.waited = 0.0
        self._queue: queue.Queue[tuple[int, Batch | None, BaseException | None]] = queue.Queue(maxsize=depth)
        self._halt = threading.Event()
        self._thread = threading.Thread(target=self._work, name="synthmr-prefetch", daemon=True)

    def _work(self) -> None:
        step = self.start
        while not self._halt.is_set() and (self.stop is None or step < self.stop):
            try:
                item: tuple[int, Batch | None, BaseException | None] = (step, self.sampler.batch(step), None)
            except BaseException as error:  # handed to the consumer, who raises it
                item = (step, None, error)
            if not self._put(item) or item[2] is not None:
                return
            step += 1
        self._put((step, None, None))

    def _put(self, item: tuple[int, Batch | None, BaseException | None]) -> bool:
        while not self._halt.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __enter__(self) -> Prefetcher:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._halt.set()
        self._thread.join()

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        if self._thread.ident is None:
            raise RuntimeError("a Prefetcher is used in a with block: nothing would ever arrive")
        first = True
        while True:
            begin = time.perf_counter()
            step, batch, error = self._queue.get()
            if not first:
                self.waited += time.perf_counter() - begin
            first = False
            if error is not None:
                raise error
            if batch is None:
                return
            yield step, batch
