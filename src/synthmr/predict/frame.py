"""What a network trained on whole slices is shown: the slice on the frame and at the scale of its training.

A paper that resizes 240x240 slices to 256x256 has a network that knows anatomy at that size; one that normalises by the
statistics of the slice knows the share of background of its frame. So prediction and validation place each slice in the
middle of the training crop, resize it as training did, and bring the result back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from synthmr.batch import Batch
from synthmr.config import SampleConfig
from synthmr.data.resize import resize_batch, resize_image
from synthmr.predict.stitch import next_multiple
from synthmr.predict.windows import sees_whole_slice


@dataclass(frozen=True)
class Frame:
    """Where slices lie for a network.

    Attributes:
        size: (H, W) that slices are padded to, centred, before scaling; slices that are larger stay whole. (0, 0): as they are.
        scale: factors of height and width.
    """

    size: tuple[int, int] = (0, 0)
    scale: tuple[float, float] = (1.0, 1.0)

    @staticmethod
    def of(sample: SampleConfig) -> Frame:
        """The frame of a run's training samples; patches and tiles have none."""
        if sample.mode != "slices" or sample.crop == (0, 0):
            return Frame()
        if sample.resize == (0, 0):
            return Frame(sample.crop)
        return Frame(sample.crop, (sample.resize[0] / sample.crop[0], sample.resize[1] / sample.crop[1]))

    def seen_by(self, method: Any, tight: bool = False) -> Frame:
        """What this very method is shown.

        To networks that no statistics of the slice enter, what surrounds the brain is nothing: they need the scale alone, and
        so does a ``tight`` window around the brain. Methods that are no networks were fitted to slices as they are.
        """
        divisor = int(method.spec.divisor)
        if not isinstance(method, nn.Module):
            return Frame()
        if tight or not sees_whole_slice(method):
            return Frame(scale=self.scale)
        if self.size == (0, 0) or self.scale != (1.0, 1.0):
            return self
        height, width = next_multiple(self.size, divisor)
        return replace(self, size=(height, width))  # as training rounds its crop

    def padded(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of a slice of ``size`` after padding."""
        return max(size[0], self.size[0]), max(size[1], self.size[1])

    def _corner(self, size: tuple[int, int]) -> tuple[int, int]:
        """(top, left) of a slice of ``size`` on the padded frame; the odd pixel goes where training puts it."""
        whole = self.padded(size)
        return -((size[0] - whole[0]) // 2), -((size[1] - whole[1]) // 2)

    def scaled(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of a slice of ``size`` as the network sees it."""
        height, width = self.padded(size)
        return max(round(height * self.scale[0]), 1), max(round(width * self.scale[1]), 1)

    def place(self, batch: Batch, fills: Mapping[str, float]) -> Batch:
        """Pad with each contrast's background and resize."""
        size = size_of(batch)
        if self.padded(size) != size:
            whole, (top, left) = self.padded(size), self._corner(size)
            edges = (left, whole[1] - size[1] - left, top, whole[0] - size[0] - top)
            batch = replace(
                batch,
                images={name: F.pad(image, edges, value=fills[name]) for name, image in batch.images.items()},
                mask=None if batch.mask is None else F.pad(batch.mask, edges),
                segmentation=None if batch.segmentation is None else F.pad(batch.segmentation, edges),
            )
        return batch if self.scaled(size) == size_of(batch) else resize_batch(batch, self.scaled(size))

    def back(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Bring a result ``(B, 1, h, w)``, of what `place` made of slices of ``size``, back to them."""
        whole = self.padded(size)
        if (image.shape[2], image.shape[3]) != whole:
            image = resize_image(image.float(), whole)
        top, left = self._corner(size)
        return image[:, :, top : top + size[0], left : left + size[1]]


def size_of(batch: Batch) -> tuple[int, int]:
    """(H, W) of a batch's images."""
    height, width = next(iter(batch.images.values())).shape[-2:]
    return int(height), int(width)


def pad_far(batch: Batch, divisor: int, fills: Mapping[str, float]) -> Batch:
    """Pad with background at the far ends to multiples of ``divisor``."""
    height, width = size_of(batch)
    edges = (0, -width % divisor, 0, -height % divisor)
    if edges == (0, 0, 0, 0):
        return batch
    return replace(
        batch,
        images={name: F.pad(image, edges, value=fills[name]) for name, image in batch.images.items()},
        mask=None if batch.mask is None else F.pad(batch.mask, edges),
        segmentation=None if batch.segmentation is None else F.pad(batch.segmentation, edges),
    )
