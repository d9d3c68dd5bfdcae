"""Training batches from a store: which slices or windows, in which order, and a thread that keeps ahead of the step.

``Sampler.batch(step)`` is a pure function of (seed, step, rank): a resumed run draws what an uninterrupted one would.
Every epoch is a permutation of all samples, shared out over the ranks.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from synthmr.batch import Batch
from synthmr.config import AugmentConfig, SampleConfig, check_resize
from synthmr.data.augment import augment
from synthmr.data.resize import resize_batch
from synthmr.data.store import Store, StoredCase
from synthmr.errors import DataError, UsageError, did_you_mean
from synthmr.io.naming import some

MODES = ("slices", "patches", "tiles")

#: of `AugmentConfig.mix`: quantiles that are matched, largest strength, room above the normaliser's top
MIX_QUANTILES = np.concatenate([[0.0], np.linspace(0.02, 0.98, 17), [0.995, 1.0]])
MIX_BEYOND, MIX_HEADROOM = 1.3, 0.25


def round_up(value: int, divisor: int) -> int:
    """The smallest multiple of ``divisor`` that is at least ``value``."""
    return -(-value // divisor) * divisor


def tile_starts(size: int, tile: int) -> list[int]:
    """First pixels of the fewest equal steps of tiles that cover ``size``; neighbours overlap."""
    if tile >= size:
        return [0]
    count = -(-size // tile)
    return [round(k * (size - tile) / (count - 1)) for k in range(count)]


class Sampler:
    """Draws batches from a store.

    Args:
        store: the prepared cohort.
        names: cases to draw from.
        sources: contrasts that go in.
        targets: contrasts that come out.
        sample: what a sample is.
        augment: random changes.
        seed: of everything drawn.
        divisor: sizes are rounded up to its multiples.
        rank: of this process.
        world: number of processes.
        paired: if False, the targets of a sample come from another subject than its sources, always.

    Raises:
        UsageError: unknown mode, an empty batch, or a patch or resize that the method cannot take.
        DataError: no case, no eligible slice, no segmentation where labelled slices are asked for, or fewer than two subjects
            where samples are unpaired.
    """

    def __init__(
        self,
        store: Store,
        names: Sequence[str],
        sources: Sequence[str],
        targets: Sequence[str],
        sample: SampleConfig,
        augment: AugmentConfig,
        seed: int,
        divisor: int = 1,
        rank: int = 0,
        world: int = 1,
        paired: bool = True,
    ) -> None:
        if sample.mode not in MODES:
            raise UsageError(f"unknown sample.mode {sample.mode!r}: {did_you_mean(sample.mode, MODES)}")
        if sample.batch < 1:
            raise UsageError(f"sample.batch={sample.batch}: a batch holds at least one sample.")
        if not names:
            raise DataError("there is no case to draw training samples from; the split's training part is empty.")
        self.cases: list[StoredCase] = [store[name] for name in names]
        self.sources, self.targets = tuple(sources), tuple(targets)
        # a sagittal slice has no left and right: the mirrored brain shows the same slice elsewhere
        self.sample, self.augment_config = sample, replace(augment, flip=0.0) if store.config.plane == "sagittal" else augment
        self.seed, self.rank, self.world, self.paired = seed, rank, world, paired
        self.crop = self._crop_size(divisor)
        self.size = self.crop if sample.mode == "slices" else self._patch_size(divisor)
        self.labelled = self._draws_labelled()
        self._samples = self._list_samples()
        if not len(self._samples):
            raise DataError(
                f"no slice of {len(self.cases)} cases has a brain share of sample.min_brain={sample.min_brain:g}"
                + (" and a labelled pixel; lower it, or use --set sample.labelled=off." if self.labelled else "; lower it.")
            )
        people = {person: number for number, person in enumerate(dict.fromkeys(store.subject(name) for name in names))}
        self._subject = np.asarray([people[store.subject(name)] for name in names])[self._samples[:, 0]]
        count = len(np.unique(self._subject))
        if not paired and count < 2:
            raise DataError(
                f"unpaired training needs slices of at least 2 subjects and has {count}; add subjects, or train"
                " a method on pairs (imt, milr, unet)."
            )
        self._orders: dict[int, np.ndarray] = {}
        self._tables: dict[tuple[int, str], np.ndarray] = {}

    def _crop_size(self, divisor: int) -> tuple[int, int]:
        if self.sample.crop != (0, 0):
            height, width = self.sample.crop
        else:
            height = max(case.mask.shape[1] for case in self.cases)
            width = max(case.mask.shape[2] for case in self.cases)
        if self.sample.resize != (0, 0):
            check_resize(self.sample, divisor)
            return height, width
        if self.sample.mode == "slices":
            return round_up(height, divisor), round_up(width, divisor)
        return max(height, self.sample.patch[0]), max(width, self.sample.patch[1])

    def _patch_size(self, divisor: int) -> tuple[int, int]:
        height, width = self.sample.patch
        if height % divisor or width % divisor:
            raise UsageError(f"sample.patch={height},{width} must be multiples of {divisor} for this method.")
        return height, width

    def _list_samples(self) -> np.ndarray:
        """``(N, 4)`` int: case, slice, first row and first column of the window in the crop (-1: drawn at random)."""
        area = self.crop[0] * self.crop[1]
        if self.sample.mode == "tiles":
            rows, columns = tile_starts(self.crop[0], self.size[0]), tile_starts(self.crop[1], self.size[1])
            windows = [(row, column) for row in rows for column in columns]
        else:
            windows = [(0, 0)] if self.sample.mode == "slices" else [(-1, -1)]
        listed = [
            (index, number, *window)
            for index, case in enumerate(self.cases)
            for number in self._eligible(case, max(self.sample.min_brain * area, 1))
            for window in windows
        ]
        return np.asarray(listed, dtype=np.int64).reshape(-1, 4)

    def _eligible(self, case: StoredCase, least: float) -> np.ndarray:
        """Numbers of the slices of a case that are drawn: with ``least`` brain pixels, in the middle, labelled, as asked for."""
        brain = case.brain if self._holds(case) else self._in_crop(case.mask).sum(axis=(1, 2), dtype=int)
        numbers = np.flatnonzero(brain >= least)
        if self.sample.middle and len(numbers) > self.sample.middle:
            first = (len(numbers) - self.sample.middle) // 2
            numbers = numbers[first : first + self.sample.middle]
        if self.labelled and case.segmentation is not None:
            numbers = numbers[(self._in_crop(case.segmentation)[numbers] > 0).any(axis=(1, 2))]
        return numbers

    def _holds(self, case: StoredCase) -> bool:
        """Whether the crop holds whole slices of a case."""
        return all(whole >= size for whole, size in zip(self.crop, case.mask.shape[1:], strict=True))

    def _in_crop(self, stored: np.ndarray) -> np.ndarray:
        """``(S, h, w)``: slices ``(S, H, W)`` inside the centred crop."""
        rows, columns = (
            slice(max((size - whole) // 2, 0), max((size - whole) // 2, 0) + whole)
            for whole, size in zip(self.crop, stored.shape[1:], strict=True)
        )
        return np.asarray(stored[:, rows, columns])

    def _draws_labelled(self) -> bool:
        """What ``sample.labelled`` comes to for these cases.

        Raises:
            DataError: it is on and a case has no segmentation.
        """
        bare = [case.name for case in self.cases if case.segmentation is None]
        if self.sample.labelled == "on" and bare:
            raise DataError(
                f"sample.labelled=on, but {len(bare)} of {len(self.cases)} training cases have no segmentation ({some(bare)});"
                " add them, or use --set sample.labelled=off."
            )
        return self.sample.labelled != "off" and not bare

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def steps_per_epoch(self) -> int:
        """Steps that draw as many samples as there are."""
        return -(-len(self._samples) // (self.sample.batch * self.world))

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            if len(self._orders) > 3:
                self._orders.pop(min(self._orders))
            self._orders[epoch] = np.random.default_rng([self.seed, 11, epoch]).permutation(len(self._samples))
        return self._orders[epoch]

    def _picks(self, step: int) -> list[int]:
        """``(B,)``: numbers of the samples of a step of this rank."""
        first = (step * self.world + self.rank) * self.sample.batch
        count = len(self._samples)
        return [int(self._order(position // count)[position % count]) for position in range(first, first + self.sample.batch)]

    def chosen(self, step: int) -> np.ndarray:
        """``(B, 4)``: case, slice, row and column of the samples of a step of this rank; windows of patches are still -1."""
        return self._samples[self._picks(step)]

    def partners(self, step: int) -> np.ndarray:
        """``(B, 2)``: case and slice of the targets of an unpaired step; never of the subject of the same sample's sources."""
        rng = np.random.default_rng([self.seed, 13, step, self.rank])
        own = self._subject[self._picks(step)]
        found = rng.integers(len(self._samples), size=len(own))
        while (same := self._subject[found] == own).any():
            found[same] = rng.integers(len(self._samples), size=int(same.sum()))
        return self._samples[found, :2]

    def batch(self, step: int) -> Batch:
        """The batch of a step: images ``(B, 1, H, W)`` float32, masks, coords and, where every case has one, segmentation."""
        rng = np.random.default_rng([self.seed, 12, step, self.rank])
        chosen = self.chosen(step).copy()
        random = chosen[:, 2] < 0
        for column, (whole, part) in enumerate(zip(self.crop, self.size, strict=True)):
            chosen[random, 2 + column] = rng.integers(0, whole - part + 1, size=int(random.sum()))
        where = [(self.cases[index], int(number), int(row), int(column)) for index, number, row, column in chosen]
        images = {name: self._gather(where, name) for name in self.sources}
        mask = self._gather(where, "mask") > 0
        if self.augment_config.mix:
            self._mix(images, mask, chosen[:, 0], np.random.default_rng([self.seed, 14, step, self.rank]))
        other, target_mask = where, None
        if not self.paired:
            partners = self.partners(step)
            other = [
                (self.cases[index], int(number), row, column)
                for (index, number), (_, _, row, column) in zip(partners, where, strict=True)
            ]
            target_mask = self._gather(other, "mask") > 0
        images |= {name: self._gather(other, name) for name in self.targets}
        labelled = all(case.segmentation is not None for case in self.cases)
        batch = Batch(
            images=images,
            mask=mask,
            target_mask=target_mask,
            coords=self._coords(where),
            segmentation=self._gather(where, "segmentation").long() if labelled else None,
            paired=self.paired,
        )
        if self.sample.resize != (0, 0):
            batch = resize_batch(batch, self.sample.resize)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        low = {name: self._levels(where if name in self.sources else other, name, "background") for name in images}
        high = {name: self._levels(where if name in self.sources else other, name, "top") for name in images}
        return augment(batch, self.augment_config, self.sources, low, high, generator)

    def _quantiles(self, index: int, name: str) -> np.ndarray:
        """Quantiles of a source over a case's brain, from every fourth slice with brain; computed once."""
        key = (index, name)
        if key not in self._tables:
            case = self.cases[index]
            slices = np.flatnonzero(case.brain)[::4]
            values = case.images[name][slices][case.mask[slices] > 0]
            self._tables[key] = np.quantile(values.astype(np.float32), MIX_QUANTILES)
        return self._tables[key]

    def _mix(self, images: dict[str, Tensor], mask: Tensor, owners: np.ndarray, rng: np.random.Generator) -> None:
        """Move source intensities towards another case's distribution, in place; see `AugmentConfig.mix`."""
        if len(self.cases) < 2:
            return
        for name in self.sources:
            for row, index in enumerate(owners):
                other, strength = (int(index) + int(rng.integers(1, len(self.cases)))) % len(self.cases), rng.uniform(0, MIX_BEYOND)
                if rng.random() >= self.augment_config.mix:
                    continue
                case = self.cases[index]
                mine, theirs = self._quantiles(index, name), self._quantiles(other, name)
                moved = np.maximum.accumulate((1 - strength) * mine + strength * theirs)
                low, high = case.background(name), case.top(name)
                moved = np.clip(moved, low, high + MIX_HEADROOM * (high - low))
                values, inside = images[name][row].numpy(), mask[row].numpy()
                values[inside] = np.interp(values[inside], mine, moved)

    @staticmethod
    def _levels(where: Sequence[tuple[StoredCase, int, int, int]], name: str, kind: str) -> Tensor:
        return torch.tensor([getattr(case, kind)(name) for case, *_ in where], dtype=torch.float32)

    def _gather(self, where: Sequence[tuple[StoredCase, int, int, int]], name: str) -> Tensor:
        """Windows of the centred crop, ``(B, 1, h, w)`` float32, background where the stored slice ends."""
        height, width = self.size
        out = np.empty((len(where), 1, height, width), np.float32)
        for target, (case, number, row, column) in zip(out[:, 0], where, strict=True):
            if name in ("mask", "segmentation"):
                stored, fill = (case.mask if name == "mask" else case.segmentation), 0.0
            else:
                stored, fill = case.images[name], case.background(name)
            if stored is None:
                raise DataError(f"case {case.name} has no segmentation.")
            copy_window(stored[number], target, self.crop, row, column, fill)
        return torch.from_numpy(out)

    def _coords(self, where: Sequence[tuple[StoredCase, int, int, int]]) -> Tensor:
        """``(B, 3)``: slice, row and column of the window's centre, -1 to 1 over the case and the crop."""
        rows = []
        for case, number, row, column in where:
            depth = max(len(case.brain) - 1, 1)
            centre = [
                2 * (first + part / 2) / whole - 1 for first, part, whole in zip((row, column), self.size, self.crop, strict=True)
            ]
            rows.append([2 * number / depth - 1, *centre])
        return torch.tensor(rows, dtype=torch.float32)


def copy_window(stored: np.ndarray, target: np.ndarray, crop: tuple[int, int], row: int, column: int, fill: float) -> None:
    """Copy a window of the centred crop of a slice ``(H, W)`` into ``target`` ``(h, w)``; ``fill`` outside the slice."""
    spans = []
    for size, whole, first, part in zip(stored.shape, crop, (row, column), target.shape, strict=True):
        begin = (size - whole) // 2 + first  # of the window, in the slice; negative where the crop is larger
        low, high = max(begin, 0), min(begin + part, size)
        spans.append((low, high, low - begin, high - begin))
    (r0, r1, a0, a1), (c0, c1, b0, b1) = spans
    if (r1 - r0, c1 - c0) != target.shape:
        target.fill(fill)
    if r1 > r0 and c1 > c0:
        target[a0:a1, b0:b1] = stored[r0:r1, c0:c1]


def case_batch(store: Store, name: str, contrasts: Sequence[str], divisor: int = 1, most: int = 0) -> Batch:
    """All brain slices of a case as one batch.

    Args:
        store: the prepared cohort.
        name: the case.
        contrasts: to take along.
        divisor: the slices are padded with background to its multiples.
        most: take at most this many slices, evenly spaced; 0 takes all.
    """
    case = store[name]
    slices = np.flatnonzero(case.brain > 0)
    if most and len(slices) > most:
        slices = slices[np.linspace(0, len(slices) - 1, most).round().astype(int)]
    size = (round_up(case.mask.shape[1], divisor), round_up(case.mask.shape[2], divisor))

    def take(stored: np.ndarray, fill: float) -> Tensor:
        out = np.full((len(slices), 1, *size), fill, np.float32)
        out[:, 0, : stored.shape[1], : stored.shape[2]] = stored[slices]
        return torch.from_numpy(out)

    depth = torch.from_numpy(2 * slices / max(len(case.brain) - 1, 1) - 1).float()
    return Batch(
        images={contrast: take(case.images[contrast], case.background(contrast)) for contrast in contrasts},
        mask=take(case.mask, 0) > 0,
        coords=torch.stack([depth, torch.zeros_like(depth), torch.zeros_like(depth)], dim=1),
        segmentation=take(case.segmentation, 0).long() if case.segmentation is not None else None,
    )


class Prefetcher:
    """Iterates ``(step, Batch)`` while one background thread prepares the next ones; use it in a ``with`` block.

    Attributes:
        waited: seconds that the consumer has waited for data, the first batch not counted.
    """

    def __init__(self, sampler: Sampler, start: int, stop: int | None = None, depth: int = 2) -> None:
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
