"""Disentangled synthesis: deep learning based multi-modal computing with feature disentanglement for MRI image synthesis.

Y. Fei et al., Medical Physics, 2021, doi 10.1002/mp.14929.

What all contrasts share (anatomy) and what one contrast is alone (texture, contrast) go separate ways. Each source has a shared
encoder, SRE (Section II-A-1); Cat-Conv fuses their maps (II-A-3). The target's own look would come from the target, which nobody
has: local adaptive fusion, LAF (II-A-2), mixes the sources to a pseudo-target, block by block, and the specific encoder, SPE,
reads a mean and a deviation from it. AdaIN (Eq. 2) puts them in the place of the learnt scale and offset of instance norm (Eq. 1)
in the decoder (II-A-4). A discriminator that sees the sources too judges the result (II-B).

Where the paper is silent or contradicts itself:
- II-C sets both weights of Eq. 5 to 0.1, on what it prints as L1 norms. Taken as sums over 256x256 pixels these would be 6554
  means; here they are means, as in all our methods, and ``paper`` keeps the 0.1. That works poorly: the adversarial term is an
  order of magnitude larger (``fast`` on eight BraTS subjects, one run each, steps 100 to 240: 12.8 to 15.0 dB on validation, up
  and down, against 15.5 to 16.1 with 100). The paper's baseline, pix2pix, has 100 (``--set l1_weight=100 --set
  pseudo_weight=100``), and so does ``fast``.
- Eq. 4 prints 1 - log(D(G)) where log(1 - D(G)) is meant for D. For G the printed form is the non-saturating objective, which
  `parts.gan` uses (``gan=log``; the sigmoid is in the objective, not in the network). D's loss is halved there, which Adam does
  not see.
- Eq. 4 writes D(Y); II and II-B say that D takes the sources as well. The text is followed.
- II-B: five convolution blocks, 64 channels after the first, doubled in each. Kernels and strides are not given: 4x4 and 2, as in
  the encoders, and no norm in the first, as in pix2pix. "A global receptive field" and one "metric" an image: the fifth block's
  map is averaged and a linear layer gives the score.
- II-A-1: mean and deviation come from three linear layers on 8 numbers. They are read as in MUNIT (Huang et al. 2018), whose
  networks these are: a pair for every channel of each of the eight AdaIN layers, hidden layers as wide as the shared maps. One
  pair a sample, the other reading, could not tell channels apart. They start near deviation 1 and mean 0, a plain instance norm.
- II-A-1 says ReLU, II-D leaky ReLU with slope 0.2 "in each layer": leaky.
- II-A-1: three "down-sampling" blocks of which the first keeps the size; II-A-4: three transposed convolutions, which must then be
  two of stride 2 (4x4, mirroring SRE) and one of stride 1 (7x7, where transposed and ordinary are one thing); tanh.
- Norm in these: not given. An instance norm would take out again what AdaIN put in, so it is MUNIT's layer norm, over a whole map.
- SPE's widths are not given: 64-128-256-256-256, MUNIT's. Residual blocks: two convolutions, the second without activation.
- II-D trains D first and then G "for each epoch"; for each step is meant. Adam's betas are not given: 0.5 and 0.999, as pix2pix.
- Start: not given; Kaiming's in G (no norm in SPE to make up for a smaller one), DCGAN's in D, LAF at the mean of the sources.
- III-A does not say how intensities are scaled: each volume to [-1, 1] (``minmax``).
- III-D: blocks of 256 is one kernel for all, the ablation without LAF (``blocks=1``); 128 was best (``blocks=2``, the default).

LAF cuts the image that it is shown, whatever its size, at round(k H / n). So its blocks are places in the brain only where training
and prediction show alike parts of it, which whole slices are and patches are not. Prediction shows this network whole slices, not
windows around the brain, because it holds instance norms (`synthmr.predict.windows`); they and the SPE's average need that as well.
With 64 filters and two sources the generator has 21,200,981 parameters and the discriminator 11,149,121.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synthmr.batch import Batch, Output
from synthmr.errors import UsageError, did_you_mean
from synthmr.methods.contract import NeuralMethod, Spec, Update, check_wanted
from synthmr.methods.parts.blocks import init_normal, leaky
from synthmr.methods.parts.gan import OBJECTIVES, discriminator_loss, generator_loss
from synthmr.methods.presets import ADAMW_GAN, AUGMENT_MORE

# --- configuration ------------------------------------------------------------------------------------------------------

#: blocks along each edge of the image: 256x256 (none), 128x128, 64x64, 32x32 and 16x16 pixels in the paper (Section III-D)
GRIDS = (1, 2, 4, 8, 16)
#: residual blocks of an SRE and of the decoder (Sections II-A-1 and II-A-4)
RESIDUAL_BLOCKS = 4
#: numbers that the SPE leaves of an image
CODE = 8


@dataclass(frozen=True)
class DisentangledOptions:
    """The method's own configuration; the defaults are the paper's.

    Attributes:
        filters: width of an SRE's first layer; the shared maps have four times as many.
        specific_filters: width of the SPE's first layer; 0 takes `filters`.
        discriminator_filters: width of the discriminator's first layer.
        blocks: of the LAF along each edge: 1 (without LAF), 2, 4, 8 or 16.
        gan: log, lsgan or none.
        l1_weight: lambda_1 of Eq. 5, of the synthesised target.
        pseudo_weight: lambda_2 of Eq. 5, of the pseudo-target.
        gan_weight: of the adversarial term of Eq. 3; 1 in the paper.
        discriminator_rate: the discriminator's learning rate as a factor of the generator's.
    """

    filters: int = 64
    specific_filters: int = 0
    discriminator_filters: int = 64
    blocks: int = 2
    gan: str = "log"
    l1_weight: float = 0.1
    pseudo_weight: float = 0.1
    gan_weight: float = 1.0
    discriminator_rate: float = 1.0

    def __post_init__(self) -> None:
        words = (*OBJECTIVES, "none")
        if self.gan not in words:
            raise UsageError(f"options.gan={self.gan!r}: {did_you_mean(self.gan, words)}")
        if self.blocks not in GRIDS:
            raise UsageError(
                f"options.blocks={self.blocks}: the image is cut into 2, 4, 8 or 16 blocks along each edge, or 1 (without LAF)."
            )
        for key, least in (("filters", 1), ("specific_filters", 0), ("discriminator_filters", 1)):
            if getattr(self, key) < least:
                raise UsageError(f"options.{key}={getattr(self, key)}: at least {least}.")
        for key in ("l1_weight", "pseudo_weight", "gan_weight", "discriminator_rate"):
            if not 0 <= getattr(self, key) < math.inf:
                raise UsageError(f"options.{key}={getattr(self, key):g}: at least 0 and finite.")


# --- generator ----------------------------------------------------------------------------------------------------------


def cells(length: int, count: int, device: torch.device | None = None) -> Tensor:
    """Which of ``count`` cells each of ``length`` pixels is in; the k-th begins at round(k length / count), halves rounded up."""
    borders = (2 * length * torch.arange(1, count, device=device) + count) // (2 * count)
    return torch.bucketize(torch.arange(length, device=device), borders, right=True)


class LocalAdaptiveFusion(nn.Module):
    """LAF (Section II-A-2, Fig. 2): the sources to a pseudo-target by a 1x1 convolution, each block of the image by its own.

    Args:
        sources: M.
        blocks: n, along each edge.

    Attributes:
        kernels: ``(M, n, n)``: weight of each source in each block.
        offsets: ``(n, n)``.
    """

    def __init__(self, sources: int, blocks: int) -> None:
        super().__init__()
        self.blocks = blocks
        self.kernels = nn.Parameter(torch.full((sources, blocks, blocks), 1 / sources))
        self.offsets = nn.Parameter(torch.zeros(blocks, blocks))

    def forward(self, stacked: Tensor) -> Tensor:
        """``(B, M, H, W) -> (B, 1, H, W)``."""
        rows, columns = (cells(edge, self.blocks, stacked.device) for edge in stacked.shape[2:])
        # every pixel gets the kernel of its block: the same as a convolution a block and putting the blocks together again
        spread = self.kernels[:, rows[:, None], columns]
        out: Tensor = (stacked * spread).sum(1, keepdim=True) + self.offsets[rows[:, None], columns]
        return out


class ResidualBlock(nn.Module):
    """``x + IN(conv(act(IN(conv(x)))))`` with 3x3 convolutions; ``(B, C, H, W)`` stays so."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.InstanceNorm2d(channels, affine=True),
            leaky(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.InstanceNorm2d(channels, affine=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


class SharedEncoder(nn.Sequential):
    """SRE (Section II-A-1): ``(B, 1, H, W) -> (B, 4 filters, H/4, W/4)``: 256x64x64 of a 256x256 image."""

    def __init__(self, filters: int) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(1, filters, 7, padding=3, bias=False),
            nn.InstanceNorm2d(filters, affine=True),
            leaky(),
        ]
        for inputs, outputs in ((filters, 2 * filters), (2 * filters, 4 * filters)):
            layers.append(nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False))
            layers += [nn.InstanceNorm2d(outputs, affine=True), leaky()]
        super().__init__(*layers, *(ResidualBlock(4 * filters) for _ in range(RESIDUAL_BLOCKS)))


class SpecificEncoder(nn.Module):
    """SPE (Section II-A-1): an image to a mean and a deviation for every channel of every AdaIN layer.

    Args:
        filters: width of the first layer.
        channels: of the maps that AdaIN changes.
        layers: number of AdaIN layers.
    """

    def __init__(self, filters: int, channels: int, layers: int) -> None:
        super().__init__()
        self.channels, self.layers = channels, layers
        widths = [filters, 2 * filters, 4 * filters, 4 * filters, 4 * filters]
        convolutions: list[nn.Module] = [nn.Conv2d(1, filters, 7, padding=3), leaky()]
        for inputs, outputs in pairwise(widths):  # no norm: it would take out what is looked for
            convolutions += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), leaky()]
        self.image = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Conv2d(widths[-1], CODE, 1), nn.Flatten())
        # the last three layers are linear
        self.hidden = nn.Sequential(nn.Linear(CODE, channels), leaky(), nn.Linear(channels, channels), leaky())
        self.style = nn.Linear(channels, 2 * layers * channels)

    def start(self) -> None:
        """Deviations near 1 and means near 0, whatever the image."""
        init_normal(self.style)
        half = self.layers * self.channels
        nn.init.ones_(self.style.bias[:half])

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, 1, H, W)`` -> deviation (Delta' of Eq. 2) and mean (Xi'), ``(B, layers, channels)`` each, float32."""
        style = self.style(self.hidden(self.image(image))).float().view(len(image), 2, self.layers, self.channels)
        return style[:, 0], style[:, 1]


def adain(x: Tensor, deviation: Tensor, mean: Tensor) -> Tensor:
    """Eq. 2: every map of ``x`` (B, C, H, W) gets the given deviation and mean, ``(B, C)`` each."""
    normalised = F.instance_norm(x)
    return normalised * deviation[:, :, None, None].to(x.dtype) + mean[:, :, None, None].to(x.dtype)


class StyledBlock(nn.Module):
    """The residual block with AdaIN in the place of IN (Section II-A-4)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor, deviations: Tensor, means: Tensor) -> Tensor:
        """``x`` (B, C, H, W); ``deviations``, ``means`` (B, 2, C): of its two AdaIN layers."""
        inner = F.leaky_relu(adain(self.first(x), deviations[:, 0], means[:, 0]), 0.2)
        return x + adain(self.second(inner), deviations[:, 1], means[:, 1])


class Decoder(nn.Module):
    """Section II-A-4: ``(B, 4 filters, H/4, W/4)`` and the style to ``(B, 1, H, W)`` in (-1, 1)."""

    def __init__(self, filters: int) -> None:
        super().__init__()
        one, two, four = filters, 2 * filters, 4 * filters
        self.styled = nn.ModuleList(StyledBlock(four) for _ in range(RESIDUAL_BLOCKS))
        self.upsample = nn.Sequential(
            nn.ConvTranspose2d(four, two, 4, stride=2, padding=1, bias=False),
            nn.GroupNorm(1, two),
            leaky(),
            nn.ConvTranspose2d(two, one, 4, stride=2, padding=1, bias=False),
            nn.GroupNorm(1, one),
            leaky(),
        )
        self.last = nn.Sequential(nn.Conv2d(one, 1, 7, padding=3), nn.Tanh())

    def forward(self, x: Tensor, deviations: Tensor, means: Tensor) -> Tensor:
        for number, block in enumerate(self.styled):
            pair = slice(2 * number, 2 * number + 2)
            x = block(x, deviations[:, pair], means[:, pair])
        out: Tensor = self.last(self.upsample(x))
        return out


def init_kaiming(module: nn.Module) -> None:
    """Start of the generator's layers, for ``net.apply``: He's normal for slope 0.2, biases 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, a=0.2)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Generator(nn.Module):
    """G of Fig. 1, with F (LAF) in it; H and W are multiples of 16."""

    def __init__(self, sources: int, options: DisentangledOptions) -> None:
        super().__init__()
        shared = 4 * options.filters
        self.laf = LocalAdaptiveFusion(sources, options.blocks)
        self.shared = nn.ModuleList(SharedEncoder(options.filters) for _ in range(sources))
        self.specific = SpecificEncoder(options.specific_filters or options.filters, shared, 2 * RESIDUAL_BLOCKS)
        # Cat-Conv (Section II-A-3, Fig. 3)
        self.cat_conv = nn.Sequential(nn.Conv2d(sources * shared, shared, 3, padding=1), leaky())
        self.decoder = Decoder(options.filters)
        self.apply(init_kaiming)
        self.decoder.last.apply(init_normal)  # a larger start would sit on the flat ends of tanh
        self.specific.start()

    def forward(self, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Sources ``(B, 1, H, W)`` each -> the synthesised target and the pseudo-target, ``(B, 1, H, W)`` each."""
        pseudo = self.laf(torch.cat(list(images), dim=1))
        deviations, means = self.specific(pseudo)
        maps = [encoder(image) for encoder, image in zip(self.shared, images, strict=True)]
        fused = self.cat_conv(torch.cat(maps, dim=1))
        return self.decoder(fused, deviations, means), pseudo


# --- discriminator and losses -------------------------------------------------------------------------------------------

#: the discriminator halves the image this often
HALVINGS = 5


class Discriminator(nn.Sequential):
    """Section II-B: the sources and a target, ``(B, M + 1, H, W)``, to one raw score a sample, ``(B, 1)``."""

    def __init__(self, inputs: int, filters: int = 64) -> None:
        layers: list[nn.Module] = [nn.Conv2d(inputs, filters, 4, stride=2, padding=1), leaky()]
        widths = [filters * 2**level for level in range(HALVINGS)]
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), leaky()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 1))
        self.apply(init_normal)


def l1_losses(truth: Tensor, fake: Tensor, pseudo: Tensor) -> tuple[Tensor, Tensor]:
    """The two terms of Eq. 5, unweighted: mean absolute differences of Y to G(X) and to F(X)."""
    return F.l1_loss(fake.float(), truth), F.l1_loss(pseudo.float(), truth)


# --- the method ---------------------------------------------------------------------------------------------------------


class Disentangled(NeuralMethod):
    """Disentangled synthesis; see the top of this file."""

    spec: ClassVar[Spec] = Spec(
        name="disentangled",
        title="disentangled synthesis: shared and specific encoders, local adaptive fusion, AdaIN decoder",
        paper="Fei et al., Medical Physics 2021",
        doi="10.1002/mp.14929",
        sources=(1, 8),
        targets=(1, 1),
        divisor=16,
        output_range=(-1.0, 1.0),
        maps=("pseudo_target",),
    )
    Options: ClassVar[type] = DisentangledOptions
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "prepare.normalizer": "minmax",
            "sample.mode": "slices",
            "sample.crop": (240, 240),
            "sample.resize": (256, 256),
            "sample.middle": 80,
            "sample.batch": 3,
            "sample.min_brain": 0.0,
            "train.epochs": 200,
            "train.brightness": False,
            "train.optimizer": "adam",
            "train.lr": 2e-4,
            "train.beta1": 0.5,
            "train.schedule": "linear",
            "train.decay_start": 0.5,
        },
        "fast": {
            "options.filters": 8,
            "options.discriminator_filters": 16,
            "options.l1_weight": 100.0,
            "options.pseudo_weight": 100.0,
            "options.discriminator_rate": 0.2,
            "sample.mode": "slices",
            "sample.batch": 8,
            **AUGMENT_MORE,
            "train.minutes": 12.0,
            **ADAMW_GAN,
        },
    }

    def __init__(self, options: DisentangledOptions, sources: Sequence[str], targets: Sequence[str]) -> None:
        super().__init__(options, sources, targets)
        self.generator = Generator(len(self.sources), options)
        judge = options.gan != "none"
        self.discriminator = Discriminator(len(self.sources) + 1, options.discriminator_filters) if judge else None

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """G (with LAF) and, unless ``gan=none``, D."""
        groups = {"G": list(self.generator.parameters())}
        if self.discriminator is not None:
            groups["D"] = list(self.discriminator.parameters())
        return groups

    def optimizer_overrides(self) -> dict[str, dict[str, Any]]:
        """D keeps beta1 0.5 and no weight decay, whatever G uses."""
        return {"D": {"rate": self.options.discriminator_rate, "betas": (0.5, 0.999), "weight_decay": 0.0}}

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """The discriminator first, on the detached result, then the generator (Section II-D; Eq. 3 to 5).

        Raises:
            UsageError: the images are too small for the discriminator.
        """
        options = self.options
        images = [batch.images[name] for name in self.sources]
        truth = batch.centre(self.targets[0])
        self._check_size(truth)
        fake, pseudo = self.generator(images)
        l1, rough = l1_losses(truth, fake, pseudo)
        loss = options.l1_weight * l1 + options.pseudo_weight * rough
        logs = {"G_l1": l1.detach(), "G_pseudo": rough.detach()}
        if self.discriminator is None:
            update("G", loss)
            return logs

        real = self.discriminator(torch.cat([*images, truth], dim=1))
        d_loss = discriminator_loss(real, self.discriminator(torch.cat([*images, fake.detach()], dim=1)), options.gan)
        update("D", d_loss)

        adversarial = generator_loss(self.discriminator(torch.cat([*images, fake], dim=1)), options.gan)
        update("G", loss + options.gan_weight * adversarial)
        return {**logs, "G_gan": adversarial.detach(), "D": d_loss.detach()}

    def _check_size(self, images: Tensor) -> None:
        """Batch norm must find two values a channel in the discriminator's last map."""
        count, _, height, width = images.shape
        last = (height // 2**HALVINGS) * (width // 2**HALVINGS)
        if self.discriminator is not None and count * last < 2:
            raise UsageError(
                f"the discriminator of disentangled needs two images of 32x32, or one of 32x64, and was given {count} of"
                f" {height}x{width}; enlarge sample.patch, sample.crop or sample.batch, or use --set options.gan=none."
            )

    def forward(self, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Output]:
        """Predict the target; the discriminator is not asked."""
        sources, targets = check_wanted(self, batch, wanted)
        image, _ = self.generator([batch.images[name] for name in sources])
        return {name: Output(image.float()) for name in targets}

    def map_labels(self, name: str, given: Sequence[str]) -> tuple[str, ...]:
        """One image, of the target."""
        return (f"{name}-{self.targets[0]}",)

    def map(self, batch: Batch, name: str) -> dict[str, Tensor]:
        """``pseudo_target``: what LAF makes of the sources, ``(B, 1, H, W)`` in normalised units."""
        self.check_map(name)
        sources, targets = check_wanted(self, batch, None)
        return {f"{name}-{targets[0]}": self.generator.laf(batch.stack(sources)).float()}
