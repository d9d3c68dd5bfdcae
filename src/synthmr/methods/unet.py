"""`unet`: a plain U-Net with an L1 loss, all sources as channels, all targets as channels. MONAI's `BasicUNet`.

The baseline that a paper's extra machinery must beat. There is no paper of its own; preset ``paper`` is the U-Net of
Ronneberger et al. 2015 in width (64 filters), trained with Adam, and ``fast`` a quarter of that for a CPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from monai.networks.nets import BasicUNet
from torch import Tensor

from synthmr.batch import Batch
from synthmr.errors import UsageError, did_you_mean
from synthmr.methods.contract import NeuralMethod, Spec, Update, check_wanted

#: ours -> MONAI's
UPSAMPLINGS: Mapping[str, str] = {"deconv": "deconv", "bilinear": "nontrainable"}


@dataclass(frozen=True)
class UNetOptions:
    """Options of `unet`.

    Attributes:
        filters: width of the first level; four poolings double it up to 16 times.
        norm: instance (the slice's own statistics) or batch (running statistics in prediction).
        upsample: deconv (2x2 transposed convolutions, as published, which leave a grid of dots while they are young) or bilinear.
    """

    filters: int = 64
    norm: str = "instance"
    upsample: str = "deconv"

    def __post_init__(self) -> None:
        if self.filters < 1:
            raise UsageError(f"options.filters={self.filters}: at least 1.")
        if self.norm not in ("instance", "batch"):
            raise UsageError(f"options.norm={self.norm!r}: {did_you_mean(self.norm, ('instance', 'batch'))}")
        if self.upsample not in UPSAMPLINGS:
            raise UsageError(f"options.upsample={self.upsample!r}: {did_you_mean(self.upsample, UPSAMPLINGS)}")


class UNet(NeuralMethod):
    """L1 U-Net."""

    spec: ClassVar[Spec] = Spec(
        name="unet",
        title="U-Net, L1 loss, sources as channels (MONAI BasicUNet)",
        paper="Ronneberger et al., MICCAI 2015 (network)",
        doi="10.1007/978-3-319-24574-4_28",
        sources=(1, 16),
        targets=(1, 8),
        divisor=16,
    )
    Options: ClassVar[type] = UNetOptions
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"train.epochs": 100, "train.brightness": False, "train.lr": 2e-4, "sample.batch": 8},
        "fast": {
            "options.filters": 16,
            "options.norm": "batch",
            "options.upsample": "bilinear",
            "sample.batch": 8,
            "augment.flip": 0.5,
            "augment.rotate": 10.0,
            "augment.scale": 0.1,
            "augment.shift": 5.0,
            "augment.mix": 0.8,
            "augment.gain": 0.1,
            "augment.gamma": 0.3,
            "augment.noise": 0.02,
            "train.minutes": 12.0,
            "train.optimizer": "adamw",
            "train.lr": 1e-3,
            "train.beta1": 0.9,
            "train.weight_decay": 1e-2,
            "train.schedule": "constant",
            "train.warmup": 50,
        },
    }

    def __init__(self, options: UNetOptions, sources: Sequence[str], targets: Sequence[str]) -> None:
        super().__init__(options, sources, targets)
        width = options.filters
        self.network = BasicUNet(
            spatial_dims=2,
            in_channels=len(self.sources),
            out_channels=len(self.targets),
            features=(width, 2 * width, 4 * width, 8 * width, 16 * width, width),
            norm=(options.norm, {"affine": True}),
            upsample=UPSAMPLINGS[options.upsample],
        )

    def _output(self, images: Tensor) -> Tensor:
        """``(B, sources, H, W) -> (B, targets, H, W)`` float32."""
        height, width = images.shape[2:]
        if height * width <= self.spec.divisor**2:  # one pixel at the bottom, which instance norm cannot normalise
            raise UsageError(f"unet was given images of {height}x{width}; they must be larger than 16x16: enlarge sample.patch.")
        out: Tensor = self.network(images)
        return out.float()

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """L1 between the output and the targets.

        Raises:
            UsageError: the images are too small.
        """
        loss = F.l1_loss(self._output(batch.stack(self.sources)), batch.stack(self.targets))
        update("G", loss)
        return {"G_l1": loss.detach()}

    def forward(self, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Predict the targets."""
        sources, targets = check_wanted(self, batch, wanted)
        out = self._output(batch.stack(sources))
        order = {name: column for column, name in enumerate(self.targets)}
        return {name: out[:, order[name] : order[name] + 1] for name in targets}
