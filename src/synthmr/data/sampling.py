"""Training batches from a store: which slices, windows or boxes, in which order, and which contrasts they show.

``Sampler.batch(step)`` is a pure function of (seed, step, rank): a resumed run draws what an uninterrupted one would.
Every epoch is a permutation of all samples, shared out over the ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from synthmr.batch import Batch
from synthmr.case import plane_axis
from synthmr.config import AugmentConfig, SampleConfig, check_resize
from synthmr.data.augment import augment, spread
from synthmr.data.mix import Mixer
from synthmr.data.parts import triple
from synthmr.data.reader import Reader
from synthmr.data.resize import resize_batch
from synthmr.data.subsets import draw_shown, is_drawn
from synthmr.data.windows import (
    Window,
    box_within,
    brain_voxel,
    coords_of_boxes,
    coords_of_slices,
    labelled_voxels,
    slice_extent,
    slice_window,
    tile_starts,
)
from synthmr.errors import DataError, UsageError, did_you_mean
from synthmr.io.naming import some

MODES = ("slices", "patches", "tiles", "boxes")

#: draws of a box until one holds enough brain; the best of them is taken where none does
TRIES = 20


def round_up(value: int, divisor: int) -> int:
    """The smallest multiple of ``divisor`` that is at least ``value``."""
    return -(-value // divisor) * divisor


class Sampler:
    """Draws batches from a store.

    Args:
        reader: the prepared cohort as the run reads it.
        names: cases to draw from.
        sample: what a sample is.
        augment: random changes.
        seed: of everything drawn.
        divisor: sizes are rounded up to its multiples.
        rank: of this process.
        world: number of processes.
        paired: if False, the targets of a sample come from another subject than its sources, always.
        neighbours: slices on either side that come as channels, too.
        draws: whether the method asks for random subsets of its sources, where ``sample.subsets`` is auto.

    Raises:
        UsageError: unknown mode, an empty batch, or a patch, box or resize that the method cannot take.
        DataError: no case, no eligible slice, no segmentation where labelled slices are asked for, or fewer than two subjects
            where samples are unpaired.
    """

    def __init__(
        self,
        reader: Reader,
        names: Sequence[str],
        sample: SampleConfig,
        augment: AugmentConfig,
        seed: int,
        divisor: int = 1,
        rank: int = 0,
        world: int = 1,
        paired: bool = True,
        neighbours: int = 0,
        draws: bool = False,
    ) -> None:
        if sample.mode not in MODES:
            raise UsageError(f"unknown sample.mode {sample.mode!r}: {did_you_mean(sample.mode, MODES)}")
        if sample.batch < 1:
            raise UsageError(f"sample.batch={sample.batch}: a batch holds at least one sample.")
        if not names:
            raise DataError("there is no case to draw training samples from; the split's training part is empty.")
        self.reader, self.names = reader, tuple(names)
        self.sources, self.targets = reader.sources, reader.targets
        self.contrasts = tuple(dict.fromkeys((*self.sources, *self.targets)))
        self.boxes = sample.mode == "boxes"
        self.axis = plane_axis(sample.plane)
        self.neighbours = 0 if self.boxes else neighbours
        # a sagittal slice has no left and right: the mirrored brain shows the same slice elsewhere
        flat = sample.plane == "sagittal" and not self.boxes
        self.sample, self.augment_config = sample, replace(augment, flip=0.0) if flat else augment
        self.seed, self.rank, self.world, self.paired = seed, rank, world, paired
        self._shared = bool(set(self.sources) & set(self.targets))
        self._drawn = is_drawn(sample.subsets, draws or self._shared)
        self._segmented = all(reader.segmented(name) for name in self.names)
        self.crop = (0, 0) if self.boxes else self._crop_size(divisor)
        self.size = self._window_size(divisor)
        self.labelled = self._draws_labelled()
        self._samples = self._list_boxes() if self.boxes else self._list_samples()
        if not len(self._samples):
            raise DataError(
                f"no {'box' if self.boxes else 'slice'} of {len(self.names)} cases has a brain share of"
                f" sample.min_brain={sample.min_brain:g}"
                + (" and a labelled pixel; lower it, or use --set sample.labelled=off." if self.labelled else "; lower it.")
            )
        people = {person: number for number, person in enumerate(dict.fromkeys(reader.subject(name) for name in names))}
        self._subject = np.asarray([people[reader.subject(name)] for name in names])[self._samples[:, 0]]
        count = len(np.unique(self._subject))
        if not paired and count < 2:
            raise DataError(
                f"unpaired training needs slices of at least 2 subjects and has {count}; add subjects, or train"
                " a method on pairs (imt, milr, unet)."
            )
        self._orders: dict[int, np.ndarray] = {}
        self._mixer = Mixer(reader, self.names, sample.plane, self.augment_config.mix)

    # --- what there is to draw

    def _slice_shape(self, name: str) -> tuple[int, int]:
        """(H, W) of the slices of a case."""
        height, width = (edge for axis, edge in enumerate(self.reader.shape(name)) if axis != self.axis)
        return height, width

    def _crop_size(self, divisor: int) -> tuple[int, int]:
        if self.sample.crop != (0, 0):
            height, width = self.sample.crop
        else:
            shapes = [self._slice_shape(name) for name in self.names]
            height, width = max(shape[0] for shape in shapes), max(shape[1] for shape in shapes)
        if self.sample.resize != (0, 0):
            check_resize(self.sample, divisor)
            return height, width
        if self.sample.mode == "slices":
            return round_up(height, divisor), round_up(width, divisor)
        return max(height, self.sample.patch[0]), max(width, self.sample.patch[1])

    def _window_size(self, divisor: int) -> tuple[int, ...]:
        """Spatial size of a sample before `SampleConfig.resize`."""
        if self.sample.mode == "slices":
            return self.crop
        word, size = ("box", self.sample.box) if self.boxes else ("patch", self.sample.patch)
        if any(edge % divisor for edge in size):
            raise UsageError(f"sample.{word}={','.join(map(str, size))} must be multiples of {divisor} for this method.")
        return tuple(size)

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
            for index, name in enumerate(self.names)
            for number in self._eligible(name, max(self.sample.min_brain * area, 1))
            for window in windows
        ]
        return np.asarray(listed, dtype=np.int64).reshape(-1, 4)

    def _list_boxes(self) -> np.ndarray:
        """``(N, 4)`` int: case, and -1 for what is drawn at random; each case as often as its brain is larger than a box."""
        listed = []
        for index, name in enumerate(self.names):
            if self.labelled and not len(labelled_voxels(self.reader, name)):
                continue
            voxels = int(self.reader.brain_slices(name, "axial").sum())
            listed += [(index, -1, -1, -1)] * -(-voxels // int(np.prod(self.size)))
        return np.asarray(listed, dtype=np.int64).reshape(-1, 4)

    def _eligible(self, name: str, least: float) -> np.ndarray:
        """Numbers of the slices of a case that are drawn: with ``least`` brain pixels, in the middle, labelled, as asked for."""
        whole = all(edge >= size for edge, size in zip(self.crop, self._slice_shape(name), strict=True))
        brain = self.reader.brain_slices(name, self.sample.plane)
        if not whole:
            brain = self._in_crop(self.reader.mask(name)).sum(axis=(1, 2), dtype=int)
        numbers = np.flatnonzero(brain >= least)
        if self.sample.middle and len(numbers) > self.sample.middle:
            first = (len(numbers) - self.sample.middle) // 2
            numbers = numbers[first : first + self.sample.middle]
        labels = self.reader.segmentation(name) if self.labelled else None
        if labels is not None:
            numbers = numbers[(self._in_crop(labels)[numbers] > 0).any(axis=(1, 2))]
        return numbers

    def _in_crop(self, volume: np.ndarray) -> np.ndarray:
        """``(S, h, w)``: slices of ``(X, Y, Z)`` inside the centred crop."""
        slices = np.moveaxis(volume, self.axis, 0)
        rows, columns = (
            slice(max((size - whole) // 2, 0), max((size - whole) // 2, 0) + whole)
            for whole, size in zip(self.crop, slices.shape[1:], strict=True)
        )
        return np.asarray(slices[:, rows, columns])

    def _draws_labelled(self) -> bool:
        """What ``sample.labelled`` comes to for these cases.

        Raises:
            DataError: it is on and a case has no segmentation.
        """
        bare = [name for name in self.names if not self.reader.segmented(name)]
        if self.sample.labelled == "on" and bare:
            raise DataError(
                f"sample.labelled=on, but {len(bare)} of {len(self.names)} training cases have no segmentation ({some(bare)});"
                " add them, or use --set sample.labelled=off."
            )
        return self.sample.labelled != "off" and not bare

    # --- what a step draws

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
        """``(B, 4)``: case, slice, row and column of the samples of a step of this rank; what a batch draws is still -1."""
        return self._samples[self._picks(step)]

    def partners(self, step: int) -> np.ndarray:
        """``(B, 2)``: case and slice of the targets of an unpaired step; never of the subject of the same sample's sources."""
        rng = np.random.default_rng([self.seed, 13, step, self.rank])
        own = self._subject[self._picks(step)]
        found = rng.integers(len(self._samples), size=len(own))
        while (same := self._subject[found] == own).any():
            found[same] = rng.integers(len(self._samples), size=int(same.sum()))
        return self._samples[found, :2]

    # --- batches

    def batch(self, step: int) -> Batch:
        """The batch of a step: images ``(B, C, *S)`` float32, which samples have and show them, masks, coords and, where every case
        has one, segmentation."""
        rng = np.random.default_rng([self.seed, 12, step, self.rank])
        windows, coords = self._boxes(step, rng) if self.boxes else self._slices(step, rng)
        other = windows if self.paired else self._partner_windows(step, windows)
        # neighbours have masks of their own, until every change is done
        masks = self._masks(windows)
        target_masks = masks if self.paired else self._masks(other)
        places = {name: windows if name in self.sources else other for name in self.contrasts}
        present = {name: np.array([self.reader.has(w.name, name) for w in at]) for name, at in places.items()}
        shown = self._shown(step, present)
        images = {name: self._gather(windows, name, masks, present[name]) for name in self.sources}
        if self.augment_config.mix:
            given = {name: present[name] & shown.get(name, present[name]) for name in self.sources}
            owners = np.array([window.case for window in windows])
            self._mixer.mix(images, masks, given, owners, np.random.default_rng([self.seed, 14, step, self.rank]))
        targets = [name for name in self.targets if name not in images]
        images |= {name: self._gather(other, name, target_masks, present[name]) for name in targets}
        batch = Batch(
            images=images,
            present={name: torch.from_numpy(present[name]) for name in images},
            shown={name: torch.from_numpy(flags) for name, flags in shown.items()},
            mask=torch.from_numpy(masks),
            target_mask=None if self.paired else torch.from_numpy(target_masks),
            coords=coords,
            segmentation=self._labels(windows) if self._segmented else None,
            paired=self.paired,
        )
        if self.sample.resize != (0, 0):
            batch = resize_batch(batch, self.sample.resize)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        low = {name: self._levels(places[name], name, "background", 0.0) for name in images}
        high = {name: self._levels(places[name], name, "top", 1.0) for name in images}
        batch = augment(batch, self.augment_config, self.sources, low, high, generator)
        return _lacking_is_zero(batch.with_labels(_middle) if self.neighbours else batch)

    def _slices(self, step: int, rng: np.random.Generator) -> tuple[list[Window], Tensor]:
        """Windows of slices, and their coordinates."""
        chosen = self.chosen(step).copy()
        random = chosen[:, 2] < 0
        for column, (whole, part) in enumerate(zip(self.crop, self.size, strict=True)):
            chosen[random, 2 + column] = rng.integers(0, whole - part + 1, size=int(random.sum()))
        depths = [self.reader.shape(self.names[index])[self.axis] for index in chosen[:, 0]]
        return [self._slice(*map(int, row)) for row in chosen], coords_of_slices(chosen, depths, self.size, self.crop)

    def _slice(self, index: int, number: int, row: int, column: int) -> Window:
        """The window of a slice and its neighbours whose first pixel in the crop is (row, column)."""
        name = self.names[index]
        edges = zip(self._slice_shape(name), self.crop, (row, column), strict=True)
        corner = [(size - whole) // 2 + at for size, whole, at in edges]
        start = slice_window(self.axis, number - self.neighbours, corner)
        return Window(index, name, start, slice_extent(self.axis, 2 * self.neighbours + 1, self.size), number)

    def _boxes(self, step: int, rng: np.random.Generator) -> tuple[list[Window], Tensor]:
        """Windows of boxes, and their coordinates."""
        windows = [self._box(int(index), rng) for index in self.chosen(step)[:, 0]]
        return windows, coords_of_boxes(windows, [self.reader.shape(window.name) for window in windows])

    def _box(self, index: int, rng: np.random.Generator) -> Window:
        """A box about a random voxel of the brain, or of a label where those are asked for, that holds enough brain."""
        name, best, most = self.names[index], None, -1.0
        shape = self.reader.shape(name)
        labels = labelled_voxels(self.reader, name) if self.labelled else None
        for _ in range(TRIES):
            if labels is None:
                centre = brain_voxel(self.reader, name, rng)
            else:
                centre = triple(np.unravel_index(labels[int(rng.integers(len(labels)))], shape))
            window = box_within(index, name, centre, self.size, shape)
            share = float(self.reader.mask(name, window.start, window.size).mean()) if self.sample.min_brain else 1.0
            if share > most:
                best, most = window, share
            if share >= self.sample.min_brain:
                break
        if best is None:
            raise DataError(f"case {name} has no brain to draw a box from.")
        return best

    def _partner_windows(self, step: int, windows: Sequence[Window]) -> list[Window]:
        """Windows of the targets of an unpaired step: at the place in the crop where the sources' are."""
        partners = self.partners(step)
        if self.boxes:
            rng = np.random.default_rng([self.seed, 16, step, self.rank])
            return [self._box(int(index), rng) for index, _ in partners]
        found = []
        for (index, number), window in zip(partners, windows, strict=True):
            corner = [at for axis, at in enumerate(window.start) if axis != self.axis]
            shape = self._slice_shape(window.name)
            row, column = (at - (size - whole) // 2 for at, size, whole in zip(corner, shape, self.crop, strict=True))
            found.append(self._slice(int(index), int(number), row, column))
        return found

    def _shown(self, step: int, present: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Which samples show which contrast; nothing where each shows all sources that it has, and none is a target."""
        if not self._drawn and not self._shared:
            return {}
        rng = np.random.default_rng([self.seed, 15, step, self.rank])
        shown = {name: np.zeros(self.sample.batch, bool) for name in self.contrasts}
        for row in range(self.sample.batch):
            there = [name for name in self.contrasts if present[name][row]]
            for name in draw_shown(self.sources, self.targets, there, self._drawn, rng):
                shown[name][row] = True
        return shown

    # --- reading

    def _to_sample(self, cut: np.ndarray) -> np.ndarray:
        """``(x, y, z)`` -> ``(C, *S)``."""
        return cut[None] if self.boxes else np.moveaxis(cut, self.axis, 0)

    def _masks(self, windows: Sequence[Window]) -> np.ndarray:
        """``(B, C, *S)`` bool."""
        return np.stack([self._to_sample(self.reader.mask(w.name, w.start, w.size)) for w in windows])

    def _gather(self, windows: Sequence[Window], contrast: str, masks: np.ndarray, present: np.ndarray) -> Tensor:
        """Windows of a contrast, ``(B, C, *S)`` float32: background beyond the brain, zeros where a case lacks the contrast."""
        out = np.zeros(masks.shape, np.float32)
        for row, window in enumerate(windows):
            if present[row]:
                mask = masks[row, 0] if self.boxes else np.moveaxis(masks[row], 0, self.axis)
                out[row] = self._to_sample(self.reader.image(window.name, contrast, window.start, window.size, mask))
        return torch.from_numpy(out)

    def _labels(self, windows: Sequence[Window]) -> Tensor:
        """Labels of the middle slices, or of the boxes: ``(B, 1, *S)`` int64."""
        found = []
        for window in windows:
            middle = window if self.boxes else window.middle(self.axis, self.neighbours)
            labels = self.reader.segmentation(window.name, middle.start, middle.size)
            if labels is None:
                raise DataError(f"case {window.name} has no segmentation.")
            found.append(self._to_sample(labels).astype(np.int64))
        return torch.from_numpy(np.stack(found))

    def _levels(self, windows: Sequence[Window], name: str, kind: str, absent: float) -> Tensor:
        """``(B,)`` float32: background or top of a contrast in each sample; ``absent`` where a case lacks it."""
        level = getattr(self.reader, kind)
        levels = [level(w.name, name) if self.reader.has(w.name, name) else absent for w in windows]
        return torch.tensor(levels, dtype=torch.float32)


def _middle(labels: Tensor) -> Tensor:
    """The mask or labels of the middle slice of ``(B, C, H, W)``."""
    at = labels.shape[1] // 2
    return labels[:, at : at + 1]


def _lacking_is_zero(batch: Batch) -> Batch:
    """The batch with zeros where a sample lacks a contrast, whatever was done to it."""
    images = dict(batch.images)
    for name, flags in batch.present.items():
        if not bool(flags.all()):
            images[name] = images[name] * spread(flags, images[name])
    return replace(batch, images=images)


def case_batch(
    reader: Reader,
    name: str,
    contrasts: Sequence[str],
    divisor: int = 1,
    most: int = 0,
    plane: str = "axial",
    neighbours: int = 0,
) -> Batch:
    """All brain slices of a case as one batch.

    Args:
        reader: the prepared cohort as the run reads it.
        name: the case.
        contrasts: to take along; those that the case lacks are zeros.
        divisor: the slices are padded with background to its multiples.
        most: take at most this many slices, evenly spaced; 0 takes all.
        plane: of the slices.
        neighbours: slices on either side that come as channels, too.
    """
    axis, brain = plane_axis(plane), reader.brain_slices(name, plane)
    slices = np.flatnonzero(brain > 0)
    if most and len(slices) > most:
        slices = slices[np.linspace(0, len(slices) - 1, most).round().astype(int)]
    height, width = (edge for each, edge in enumerate(reader.shape(name)) if each != axis)
    size = (round_up(height, divisor), round_up(width, divisor))

    def taken(volume: np.ndarray, fill: float, beside: int) -> np.ndarray:
        """``(B, C, H, W)``, padded at the far ends."""
        stacked = np.moveaxis(volume, axis, 0)
        out = np.full((len(slices), 2 * beside + 1, *size), fill, stacked.dtype)
        for channel, step in enumerate(range(-beside, beside + 1)):
            there = (slices + step >= 0) & (slices + step < len(stacked))
            out[there, channel, :height, :width] = stacked[slices[there] + step]
        return out

    images, present = {}, {}
    for contrast in contrasts:
        has = reader.has(name, contrast)
        fill = reader.background(name, contrast) if has else 0.0
        volume = reader.image(name, contrast) if has else np.zeros(reader.shape(name), np.float32)
        images[contrast] = torch.from_numpy(taken(volume, fill, neighbours))
        present[contrast] = torch.full((len(slices),), has)
    labels = reader.segmentation(name)
    depth = torch.from_numpy(2 * slices / max(len(brain) - 1, 1) - 1).float()
    return Batch(
        images=images,
        present=present,
        mask=torch.from_numpy(taken(reader.mask(name), 0, 0)),
        coords=torch.stack([depth, torch.zeros_like(depth), torch.zeros_like(depth)], dim=1),
        segmentation=torch.from_numpy(taken(labels.astype(np.int64), 0, 0)) if labels is not None else None,
    )
