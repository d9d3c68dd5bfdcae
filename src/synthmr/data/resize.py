"""Resize slices, their mask and their labels."""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from synthmr.batch import Batch


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """``(B, C, H, W)`` to (h, w) by bilinear interpolation, low-pass filtered where it shrinks."""
    smaller = size[0] < image.shape[2] or size[1] < image.shape[3]
    return F.interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=smaller)


def resize_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """``(B, 1, H, W)`` labels or mask to (h, w), each pixel from its nearest; the type stays."""
    return F.interpolate(labels.float(), size=size, mode="nearest-exact").to(labels.dtype)


def resize_batch(batch: Batch, size: tuple[int, int]) -> Batch:
    """All images, masks and labels of a batch to (h, w)."""
    images = {name: resize_image(image, size) for name, image in batch.images.items()}
    return replace(batch.with_labels(lambda labels: resize_labels(labels, size)), images=images)
