"""A prepared cohort as a torch `Dataset` of slices, for training loops of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from synthmr.case import plane_axis, slice_major
from synthmr.data.reader import Reader
from synthmr.data.windows import whole_slice
from synthmr.errors import DataError


class SliceDataset(Dataset[dict[str, Any]]):
    """Every brain slice of some cases, as a run would read it; with PyTorch's `DataLoader` any batches and order.

    Args:
        reader: the store, read for a run.
        names: cases.
        plane: axial, coronal or sagittal.

    Raises:
        DataError: the cases have no slice with brain.
    """

    def __init__(self, reader: Reader, names: Sequence[str], plane: str = "axial") -> None:
        self.reader, self.plane = reader, plane
        self.samples: list[tuple[str, int]] = []
        for name in names:
            self.samples += [(name, int(number)) for number in np.flatnonzero(reader.brain_slices(name, plane))]
        if not self.samples:
            raise DataError("there is no slice with brain in these cases; check the split and the masks.")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """One slice: ``images`` contrast -> ``(1, H, W)`` float32, normalised, of the contrasts that the case has; ``mask``
        ``(1, H, W)`` bool; ``segmentation`` ``(1, H, W)`` int64 where there is one; ``case`` and ``slice``."""
        name, index = self.samples[number]
        start, size = whole_slice(plane_axis(self.plane), index, self.reader.shape(name))

        def slice_of(window: np.ndarray, dtype: Any) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(slice_major(window, self.plane)).astype(dtype, copy=False))

        mask = self.reader.mask(name, start, size)
        images = {c: slice_of(self.reader.image(name, c, start, size, mask), np.float32) for c in self.reader.contrasts(name)}
        found: dict[str, Any] = {"images": images, "mask": slice_of(mask, bool), "case": name, "slice": index}
        labels = self.reader.segmentation(name, start, size)
        if labels is not None:
            found["segmentation"] = slice_of(labels, np.int64)
        return found
