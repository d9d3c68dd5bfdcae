"""`Batch`: the one internal form of training and inference data, and the only thing a method sees. `Output`: what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """The only thing a method sees.

    ``S`` is ``(H, W)`` of slices, or ``(D, H, W)`` of boxes. ``C`` is 1, or an odd number of neighbouring slices, the one that the
    sample is of in the middle.

    Attributes:
        images: contrast -> ``(B, C, *S)`` float32, normalised; a sample that lacks the contrast holds zeros.
        present: contrast -> ``(B,)`` bool: which samples have it. A contrast that is not a key is absent from every sample.
        shown: contrast -> ``(B,)`` bool: in which samples a method may look at it. One that is not a key is shown wherever it is
            present. In training a contrast can be source and target of one run: it is the truth where it is not shown.
        mask: ``(B, 1, *S)`` bool, the brain, or None; of the sources where the targets are of other subjects.
        target_mask: the brain of targets that are of other subjects; None where there are none, or it is not known.
        coords: ``(B, 3)`` float32, relative position of the sample's centre in the brain box, or None.
        segmentation: ``(B, 1, *S)`` int64 labels, or None.
        paired: whether sources and targets show the same anatomy.
    """

    images: Mapping[str, Tensor]
    present: Mapping[str, Tensor] = field(default_factory=dict)
    shown: Mapping[str, Tensor] = field(default_factory=dict)
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
    def dims(self) -> int:
        """Spatial dimensions: 2 for slices, 3 for boxes."""
        return next(iter(self.images.values())).dim() - 2

    def given(self, contrast: str) -> Tensor:
        """``(B,)`` bool: the samples that have the contrast and show it."""
        if contrast not in self.images:
            return torch.zeros(self.size, dtype=torch.bool, device=next(iter(self.images.values())).device)
        present = self.present[contrast]
        return present & self.shown[contrast].to(present.device) if contrast in self.shown else present

    def centre(self, contrast: str) -> Tensor:
        """``(B, 1, *S)``: the slice in the middle of the neighbours, which is what a target is."""
        image = self.images[contrast]
        middle = image.shape[1] // 2
        return image[:, middle : middle + 1]

    def truth(self, contrasts: Sequence[str]) -> Tensor:
        """``(B, N, *S)``: the middle slices of the named contrasts as channels, in the given order."""
        return torch.cat([self.centre(name) for name in contrasts], dim=1)

    @property
    def target_brain(self) -> Tensor | None:
        """``(B, 1, *S)`` bool: the brain that the targets show, or None where it is not known."""
        return self.mask if self.paired else self.target_mask

    def stack(self, contrasts: Sequence[str]) -> Tensor:
        """``(B, N * C, *S)``: the named contrasts as channels, in the given order."""
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
        present = {name: self.present[name] for name in names}
        return replace(self, images=images, present=present, shown={name: self.shown[name] for name in names if name in self.shown})

    def to(self, device: torch.device | str, channels_last: bool = False) -> Batch:
        """The batch on ``device``; images in channels-last memory order if asked (slices alone)."""

        def move(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.to(device)

        images = {name: image.to(device) for name, image in self.images.items()}
        if channels_last and self.dims == 2:
            images = {name: image.contiguous(memory_format=torch.channels_last) for name, image in images.items()}
        return Batch(
            images=images,
            present={name: flag.to(device) for name, flag in self.present.items()},
            shown={name: flag.to(device) for name, flag in self.shown.items()},
            mask=move(self.mask),
            target_mask=move(self.target_mask),
            coords=move(self.coords),
            segmentation=move(self.segmentation),
            paired=self.paired,
        )


@dataclass(frozen=True, eq=False)
class Output:
    """What a method says of one contrast.

    Attributes:
        mean: ``(B, 1, *S)`` float32, normalised: the prediction. Of a method that gives labels or a map: ``(B, K, *S)``, the
            probabilities of K classes, or K channels.
        spread: ``(B, 1, *S)``, above 0: a standard deviation for each voxel of the mean, in its units; None: the method has none.
        samples: ``(B, N, *S)``: N answers to the same input, of which the mean is one; None: the method gives one answer.
    """

    mean: Tensor
    spread: Tensor | None = None
    samples: Tensor | None = None
