"""`unet`: a plain U-Net with an L1 loss, all sources as channels, all targets as channels, of slices or of boxes.

The baseline that a paper's extra machinery must beat. There is no paper of its own; preset ``paper`` is the U-Net of
Ronneberger et al. 2015 in width (64 filters), trained with Adam, and ``fast`` a quarter of that for a CPU. ``2.5d`` gives the
network the neighbours of each slice as channels, ``3d`` is a network of boxes; both are half as wide again, for a CPU too.

With ``any_subset`` one network takes whatever sources there are: one that is absent, or that may not be looked at, is zeros, and
one channel more a source says where it is given, 1 or 0. It trains on samples that show random subsets (``sample.subsets``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from synthmr.batch import Batch, Output
from synthmr.errors import UsageError, did_you_mean
from synthmr.methods.contract import NeuralMethod, Spec, Traits, Update, by_contrast, check_wanted
from synthmr.methods.parts.unet import NORMS, UPSAMPLINGS, PlainUNet
from synthmr.methods.presets import ADAMW, AUGMENT_MORE

LOSSES = ("l1", "mse")


@dataclass(frozen=True)
class UNetOptions:
    """Options of `unet`.

    Attributes:
        filters: width of the first level; each pooling doubles it.
        norm: instance (the image's own statistics) or batch (running statistics in prediction).
        upsample: deconv (2x2 transposed convolutions, as published, which leave a grid of dots while they are young) or bilinear
            (in boxes trilinear).
        levels: poolings, 2 to 4.
        dims: 2, a network of slices, or 3, of boxes.
        neighbours: slices on each side of a slice that are channels too (2.5-D); for ``dims`` 2.
        any_subset: one network for any subset of the sources; trains on cases that lack some of them.
        loss: l1, or mse: the best answer to l1 is a median, and scores are of the mean squared error.
        residual: the network adds to the mean of the sources instead of making the image anew.
    """

    filters: int = 64
    norm: str = "instance"
    upsample: str = "deconv"
    levels: int = 4
    dims: int = 2
    neighbours: int = 0
    any_subset: bool = False
    loss: str = "l1"
    residual: bool = False

    def __post_init__(self) -> None:
        if self.filters < 1:
            raise UsageError(f"options.filters={self.filters}: at least 1.")
        for name, allowed in (("norm", tuple(NORMS)), ("upsample", UPSAMPLINGS), ("loss", LOSSES)):
            value = getattr(self, name)
            if value not in allowed:
                raise UsageError(f"options.{name}={value!r}: {did_you_mean(value, allowed)}")
        if not 2 <= self.levels <= 4:
            raise UsageError(f"options.levels={self.levels}: 2, 3 or 4 poolings.")
        if self.dims not in (2, 3):
            raise UsageError(f"options.dims={self.dims}: 2 for slices or 3 for boxes.")
        if not 0 <= self.neighbours <= 16:
            raise UsageError(f"options.neighbours={self.neighbours}: 0 to 16 slices on each side.")
        if self.neighbours and self.dims == 3:
            raise UsageError(f"options.neighbours={self.neighbours}: boxes have none; set options.dims=2, or neighbours=0.")


#: of a CPU: mild changes of place and brightness, and no decay
FAST: Mapping[str, Any] = {
    "options.filters": 16,
    "options.norm": "batch",
    "options.upsample": "bilinear",
    "sample.batch": 8,
    **AUGMENT_MORE,
    **ADAMW,
    "train.minutes": 12.0,
    "train.schedule": "constant",
}


#: what networks with neighbours and of boxes share: half as wide again, the mean squared error, and a rate that falls
LIGHT: Mapping[str, Any] = {
    **FAST,
    "options.filters": 8,
    "options.loss": "mse",
    "train.schedule": "cosine",
    "train.decay_start": 0.3,
}


class UNet(NeuralMethod):
    """U-Net of slices, of slices with their neighbours, or of boxes."""

    spec: ClassVar[Spec] = Spec(
        name="unet",
        title="U-Net, L1 loss, sources as channels; slices, 2.5-D or 3-D",
        paper="Ronneberger et al., MICCAI 2015 (network)",
        doi="10.1007/978-3-319-24574-4_28",
        sources=(1, 16),
        targets=(1, 8),
        dims=(2, 3),
        divisor=16,
    )
    Options: ClassVar[type] = UNetOptions
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"train.epochs": 100, "train.brightness": False, "train.lr": 2e-4, "sample.batch": 8},
        "fast": FAST,
        "2.5d": {
            **LIGHT,
            "options.neighbours": 1,
            "augment.gain": 0.2,
            "augment.gamma": 0.6,
            "train.lr": 2e-3,
            "train.ema": 0.98,
        },
        "3d": {
            **LIGHT,
            "options.dims": 3,
            "options.levels": 3,
            "options.residual": True,
            # wide, so that a box shows most of a slice, and flat, so that there is time for many
            "sample.box": (64, 64, 16),
            # at least 2: torch takes a slow path for some three-dimensional convolutions of one image on a CPU
            "sample.batch": 2,
            "augment.rotate": 0.0,
            "augment.scale": 0.0,
            "augment.shift": 0.0,
            "train.lr": 3e-3,
            "train.warmup": 20,
            "train.ema": 0.97,
        },
    }

    def __init__(self, options: UNetOptions, sources: Sequence[str], targets: Sequence[str]) -> None:
        super().__init__(options, sources, targets)
        self.channels = 2 * options.neighbours + 1
        inputs = len(self.sources) * (self.channels + options.any_subset)
        widths = [options.filters * 2**level for level in range(options.levels + 1)]
        self.network = PlainUNet(
            options.dims, inputs, len(self.targets), (*widths, options.filters), options.norm, options.upsample
        )

    @classmethod
    def traits(cls, options: UNetOptions) -> Traits:
        """Slices or boxes, and which subsets, are options."""
        return Traits(options.dims, options.neighbours, options.any_subset)

    @property
    def draws_subsets(self) -> bool:
        """Whether samples are to show random subsets of the sources."""
        return bool(self.options.any_subset)

    def _output(self, batch: Batch) -> Tensor:
        """``(B, targets, *S)`` float32."""
        size = next(iter(batch.images.values())).shape[2:]
        dims, edge = self.options.dims, 2**self.options.levels
        if prod(size) <= edge**dims:  # one voxel at the bottom, which instance norm cannot normalise
            least, key = "x".join([str(edge)] * dims), "patch" if dims == 2 else "box"
            raise UsageError(
                f"unet was given images of {'x'.join(map(str, size))}; they must be larger than {least}: enlarge sample.{key}."
            )
        # of any subset: in an order of its own, so that it does not matter how the sources are listed
        names = sorted(self.sources) if self.options.any_subset else self.sources
        given = {name: batch.given(name).view(-1, 1, *(1 for _ in size)) for name in names}
        images, flags = [], []
        for name, here in given.items():
            if self.options.any_subset:
                image = batch.images[name] if name in batch.images else torch.zeros((), device=here.device)
                # a choice and no product: what may not be seen can be anything, NaN too
                image = torch.where(here, image, 0.0).expand(-1, self.channels, *size)
                flags.append(here.to(image.dtype).expand(-1, 1, *size))
            else:
                image = batch.images[name]
            images.append(image)
        out: Tensor = self.network(torch.cat([*images, *flags], dim=1)).float()
        if self.options.residual:
            middle = self.channels // 2
            total = torch.stack([image[:, middle : middle + 1] for image in images]).sum(dim=0)
            count = torch.stack(list(given.values())).sum(dim=0)
            out = out + total / count.clamp(min=1)
        return out

    def _loss(self, batch: Batch) -> Tensor:
        """The mean error over targets, samples and voxels; of any subset, over those that are asked, 0 where none is."""
        out, error = self._output(batch), F.l1_loss if self.options.loss == "l1" else F.mse_loss
        if not self.options.any_subset:
            return error(out, batch.truth(self.targets))
        asked = torch.stack([self.asked(batch, name) for name in self.targets], dim=1)
        here = asked.view(*asked.shape, *(1 for _ in range(batch.dims)))
        truth = torch.cat(
            [batch.centre(name) if name in batch.images else torch.zeros_like(out[:, :1]) for name in self.targets], 1
        )
        total = error(torch.where(here, out, 0.0), torch.where(here, truth, 0.0), reduction="sum")
        return total / (asked.sum() * out[0, 0].numel()).clamp(min=1)

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """The error between the output and the targets.

        Raises:
            UsageError: the images are too small, or of another kind than the network's.
        """
        loss = self._loss(batch)
        update("G", loss)
        return {f"G_{self.options.loss}": loss.detach()}

    def forward(self, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Output]:
        """Predict the targets."""
        _, targets = check_wanted(self, batch, wanted)
        return by_contrast(self._output(batch), self.targets, targets)
