"""CUT: Contrastive Learning for Unpaired Image-to-Image Translation, the unpaired baseline of MAF-Net ("CUTGAN").

T. Park, A. A. Efros, R. Zhang, J.-Y. Zhu, ECCV 2020, doi 10.1007/978-3-030-58545-7_19.

A generator turns sources into the target contrast, a discriminator compares its images with real ones of other subjects (Eq. 1),
and PatchNCE keeps the content in place (Eq. 3-4): each generated patch must be told from the others by the source patch at its
position, in features of the generator's own encoder. The same on real targets, which the generator must leave as they are,
keeps it from changing what need not change (Section 3, "Final objective", lambda_Y).

What differs, and why:
- Sources are stacked as channels, as in MAF-Net's comparison. The encoder then takes N channels; where the objective feeds it a
  target or a generated image, that one image stands on all N.
- The public code's least-squares objective, antialiased down- and upsampling and layers 0, 4, 8, 12, 16 are the defaults.
- Section 3 sums the loss over layers and places; ours is the mean, as in the public code.
- ``skip`` is ours and off by default: see `parts.resnet.Skip`. So are ``brain``, ``discriminator_steps`` and
  ``discriminator_scale``: see `parts.unpaired`.
- ``sample.paired=on`` draws both sides from one subject. ``l1_weight`` then adds a supervised L1; without pairs it is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synthmr.batch import Batch, Output
from synthmr.errors import UsageError, did_you_mean
from synthmr.methods.contract import NeuralMethod, Spec, Update, check_wanted
from synthmr.methods.parts.gan import OBJECTIVES
from synthmr.methods.parts.patchgan import PatchGAN, check_judged
from synthmr.methods.parts.patchnce import LAYERS, PatchHeads, check_layers, patch_nce
from synthmr.methods.parts.resnet import LEAST, ResnetDecoder, ResnetEncoder, Skip
from synthmr.methods.parts.unpaired import on_background, play
from synthmr.methods.presets import UNPAIRED

# --- configuration ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CutOptions:
    """Options of `cut`.

    Attributes:
        filters: width of the generator's first layer.
        blocks: residual blocks of the generator.
        discriminator_filters: width of the discriminator's first layer.
        gan: lsgan or log.
        gan_weight: lambda_GAN.
        nce_weight: lambda_X.
        identity_weight: lambda_Y, of PatchNCE on real targets; 0 with nce_weight=10 is FastCUT.
        layers: of the encoder, whose features are compared.
        patches: places compared in each image and layer.
        hidden: length of the vectors that are compared.
        temperature: tau.
        l1_weight: of a supervised L1; needs sample.paired=on.
        discriminator_rate: the discriminator's learning rate as a factor of the generator's.
        discriminator_steps: its updates on each batch; one in the paper.
        discriminator_scale: it judges images shrunk by this factor; 1 in the paper.
        brain: compare places of the brain before any others, and judge a generated image with the empty background that the
            result will have; not in the paper.
        skip: the generator adds what it draws to its input; not in the paper.
    """

    filters: int = 64
    blocks: int = 9
    discriminator_filters: int = 64
    gan: str = "lsgan"
    gan_weight: float = 1.0
    nce_weight: float = 1.0
    identity_weight: float = 1.0
    layers: tuple[int, ...] = LAYERS
    patches: int = 256
    hidden: int = 256
    temperature: float = 0.07
    l1_weight: float = 0.0
    discriminator_rate: float = 1.0
    discriminator_steps: int = 1
    discriminator_scale: int = 1
    brain: bool = False
    skip: bool = False

    def __post_init__(self) -> None:
        if self.gan not in OBJECTIVES:
            raise UsageError(f"options.gan={self.gan!r}: {did_you_mean(self.gan, OBJECTIVES)}")
        for key in ("filters", "blocks", "discriminator_filters", "hidden", "discriminator_steps", "discriminator_scale"):
            if getattr(self, key) < 1:
                raise UsageError(f"options.{key}={getattr(self, key)}: at least 1.")
        if self.patches < 2 or not 0 < self.temperature < math.inf:
            raise UsageError(f"options.patches={self.patches}, options.temperature={self.temperature:g}: at least 2, and above 0.")
        check_layers(self.layers, self.blocks, "options.blocks")
        for key in ("gan_weight", "nce_weight", "identity_weight", "l1_weight", "discriminator_rate"):
            if not 0 <= getattr(self, key) < math.inf:
                raise UsageError(f"options.{key}={getattr(self, key):g}: at least 0 and finite.")


# --- the generator ------------------------------------------------------------------------------------------------------


class Generator(nn.Module):
    """G: encoder and decoder; ``(B, inputs, H, W) -> (B, 1, H, W)`` in (-1, 1)."""

    def __init__(self, inputs: int, options: CutOptions) -> None:
        super().__init__()
        self.layers = options.layers
        self.encoder = ResnetEncoder(inputs, options.filters, options.blocks)
        self.decoder = ResnetDecoder(1, options.filters, 0)
        self.skip = Skip(inputs, 1) if options.skip else None
        if options.skip:
            self.decoder.start_small()

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The generated image and the encoder's maps of what went in."""
        last = len(self.encoder) - 1
        *maps, deepest = self.encoder.features(image, (*(at for at in self.layers if at != last), last))
        found = dict(zip((at for at in self.layers if at != last), maps, strict=True)) | {last: deepest}
        drawn = self.decoder(deepest) if self.skip is None else self.decoder.beside(deepest, self.skip(image))
        return drawn, [found[at] for at in self.layers]

    def features(self, image: Tensor) -> list[Tensor]:
        """The encoder's maps at the compared layers."""
        return self.encoder.features(image, self.layers)


# --- the method ---------------------------------------------------------------------------------------------------------


class Cut(NeuralMethod):
    """CUT; see the top of this file."""

    spec: ClassVar[Spec] = Spec(
        name="cut",
        title="CUT: unpaired translation with patchwise contrastive learning",
        paper="Park et al., ECCV 2020",
        doi="10.1007/978-3-030-58545-7_19",
        supervision="either",
        sources=(1, 8),
        targets=(1, 1),
        divisor=4,
        output_range=(-1.0, 1.0),
    )
    Options: ClassVar[type] = CutOptions
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "sample.crop": (256, 256),
            "sample.batch": 1,
            "sample.min_brain": 0.0,
            "augment.flip": 0.5,
            "train.epochs": 400,
            "train.brightness": False,
            "train.lr": 2e-4,
            "train.beta1": 0.5,
            "train.schedule": "linear",
            "train.decay_start": 0.5,
        },
        "fast": {
            "options.filters": 16,
            "options.blocks": 5,
            "options.discriminator_filters": 16,
            "options.discriminator_steps": 3,
            "options.discriminator_scale": 2,
            "options.brain": True,
            "options.hidden": 64,
            "options.patches": 128,
            "sample.batch": 2,
            "sample.min_brain": 0.2,
            **UNPAIRED,
        },
    }

    def __init__(self, options: CutOptions, sources: Sequence[str], targets: Sequence[str]) -> None:
        super().__init__(options, sources, targets)
        self.generator = Generator(len(self.sources), options)
        widths = ResnetEncoder.widths(len(self.sources), options.filters, options.layers)
        self.heads = PatchHeads(widths, options.hidden)
        self.discriminator = PatchGAN(1, options.discriminator_filters, "instance")

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """G with the heads H, which learn at the same rate, and D."""
        return {"G": [*self.generator.parameters(), *self.heads.parameters()], "D": list(self.discriminator.parameters())}

    def optimizer_overrides(self) -> dict[str, dict[str, Any]]:
        """D's own learning rate."""
        return {"D": {"rate": self.options.discriminator_rate, "betas": (0.5, 0.999), "weight_decay": 0.0}}

    def _nce(self, generated: Tensor, source: Sequence[Tensor], within: Tensor | None = None) -> Tensor:
        """PatchNCE of a generated image ``(B, 1, H, W)`` against the encoder's maps of what it was made from."""
        maps = self.generator.features(self._on_all(generated))
        return patch_nce(self.heads, maps, source, self.options.patches, self.options.temperature, within)

    def _on_all(self, image: Tensor) -> Tensor:
        """One image on all input channels: ``(B, 1, H, W) -> (B, N, H, W)``."""
        return image.expand(-1, len(self.sources), -1, -1)

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """D on real and generated images, then G and H (the order of the public code).

        Raises:
            UsageError: the images are too small for the discriminator, or an L1 is asked for without pairs.
        """
        options = self.options
        real = batch.centre(self.targets[0])
        check_judged(real, self.spec.name, options.discriminator_scale)
        if options.l1_weight and not batch.paired:
            raise UsageError(f"options.l1_weight={options.l1_weight:g} needs the truth of each sample; add --set sample.paired=on.")
        fake, source = self.generator(batch.stack(self.sources))
        brain, own = (batch.mask, batch.target_brain) if options.brain else (None, None)
        fake, real = on_background(fake, brain), on_background(real, own)
        steps, scale = options.discriminator_steps, options.discriminator_scale
        d_loss, adversarial = play(self.discriminator, real, fake, options.gan, steps, scale, update)

        losses = {"G_gan": options.gan_weight * adversarial}
        if options.nce_weight:
            losses["G_nce"] = options.nce_weight * self._nce(fake, source, brain)
        if options.identity_weight:
            same, maps = self.generator(self._on_all(real))
            losses["G_idt"] = options.identity_weight * self._nce(same, maps, own)
        if options.l1_weight:
            losses["G_l1"] = options.l1_weight * F.l1_loss(fake.float(), real)
        update("G", torch.stack(list(losses.values())).sum())
        return {"D": d_loss, **{name: loss.detach() for name, loss in losses.items()}}

    def forward(self, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Output]:
        """Predict the target.

        Raises:
            UsageError: the images are too small for the generator.
        """
        sources, targets = check_wanted(self, batch, wanted)
        height, width = batch.images[sources[0]].shape[2:]
        if min(height, width) < LEAST:
            raise UsageError(f"cut's generator needs images of {LEAST}x{LEAST} or more and was given {height}x{width}; pad them.")
        image, _ = self.generator(batch.stack(sources))
        return {name: Output(image.float()) for name in targets}
