"""`Batch`: the one internal form of training and inference data, and the only thing a method sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """The only thing a method sees.

    Attributes:
        images: contrast -> ``(B, 1, H, W)`` float32, normalised; a sample that lacks the contrast holds zeros.
        present: contrast -> ``(B,)`` bool. A contrast that is not a key is absent from every sample.
        mask: ``(B, 1, H, W)`` bool, the brain, or None; of the sources where the targets are of other subjects.
        target_mask: the brain of targets that are of other subjects; None where there are none, or it is not known.
        coords: ``(B, 3)`` float32, relative position of the slice or patch centre in the brain box, or None.
        segmentation: ``(B, 1, H, W)`` int64 labels, or None.
        paired: whether sources and targets show the same anatomy.
    """

    images: Mapping[str, Tensor]
    present: Mapping[str, Tensor] = field(default_factory=dict)
    mask: Tensor | None = None
    target_mask: Tensor | None = None
    coords: Tensor | None = None
    segmentation: Tensor | None = None
    paired: bool = True

    def __post_init__(self) -> None:
        if not self.present:
            flags = {name: torch.ones(len(image), dtype=torch.bool, device=image.device) for name, image in self.images.items()}
            object.__setattr__(self, "present", flags)

    @property
    def size(self) -> int:
        """Number of samples B."""
        return len(next(iter(self.images.values())))

    @property
    def target_brain(self) -> Tensor | None:
        """``(B, 1, H, W)`` bool: the brain that the targets show, or None where it is not known."""
        return self.mask if self.paired else self.target_mask

    def stack(self, contrasts: Sequence[str]) -> Tensor:
        """``(B, N, H, W)``: the named contrasts as channels, in the given order."""
        return torch.cat([self.images[name] for name in contrasts], dim=1)

    def with_labels(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same batch with both masks and the segmentation changed alike, where they are there."""

        def changed(labels: Tensor | None) -> Tensor | None:
            return None if labels is None else change(labels)

        mask, target_mask, segmentation = changed(self.mask), changed(self.target_mask), changed(self.segmentation)
        return replace(self, mask=mask, target_mask=target_mask, segmentation=segmentation)

    def only(self, contrasts: Iterable[str]) -> Batch:
        """The same batch with the named contrasts alone."""
        names = [name for name in contrasts if name in self.images]
        images = {name: self.images[name] for name in names}
        return replace(self, images=images, present={name: self.present[name] for name in names})

    def to(self, device: torch.device | str, channels_last: bool = False) -> Batch:
        """The batch on ``device``; images in channels-last memory order if asked."""

        def move(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.to(device)

        images = {name: image.to(device) for name, image in self.images.items()}
        if channels_last:
            images = {name: image.contiguous(memory_format=torch.channels_last) for name, image in images.items()}
        return Batch(
            images=images,
            present={name: flag.to(device) for name, flag in self.present.items()},
            mask=move(self.mask),
            target_mask=move(self.target_mask),
            coords=move(self.coords),
            segmentation=move(self.segmentation),
            paired=self.paired,
        )
