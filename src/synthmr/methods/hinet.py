"""Hi-Net: Hybrid-fusion Network for Multi-modal MR Image Synthesis.

T. Zhou, H. Fu, G. Chen, J. Shen, L. Shao, IEEE Transactions on Medical Imaging 39(9), 2020, doi 10.1109/TMI.2020.2975344.

Each source has an autoencoder of its own (Section III-A). The pooled maps of its encoder, at 1/2, 1/4 and 1/8 of the size, are
read three times: by a fusion network, layer by layer (Section III-B); by the generator's decoder, as skip connections
(Section III-C); and, in training only, the deepest by the decoder that reconstructs the source (Eq. 1). Wherever maps of
several sources meet, a mixed fusion block weighs their sum, product and maximum (Eq. 2). A discriminator judges the result.

Where the paper is silent or contradicts itself:
- Eq. 2 is for two sources; here the sum, product and maximum run over any N >= 2.
- Eq. 1 and 3 print L1 norms; they are means over pixels, as in the public code, so that 100 and 20 mean what they meant there.
- Eq. 3-5 print the log objective; the public code uses least squares, and so does the default (``gan=lsgan``), to be comparable
  with it. ``gan=log`` is Eq. 3-5 in its non-saturating form, ``gan=none`` drops the GAN.
- Eq. 3 and 4 write D(x1, x2, G); Section III-C says that D takes a real or a synthesised target alone. The text is followed.
- Section III-C puts batch norm after D's first layer; the public code starts it at the second, and so do we. The public code
  also passes 0.8 as D's batch norm epsilon, meant as momentum; we keep PyTorch's 1e-5.
- The order of a step is not given; G first and then D, whose loss is halved, and weights drawn from N(0, 0.02): the public code's.
- Section III-B ends with "ReLu"; as in the public code, the fusion network is leaky like the encoders whose maps it reads, and
  the decoder, from its second convolution on, ReLU.
- The reconstruction decoders of the public code share the target's output layer and leave their own unused; ours use their own.
- Eq. 6 adds all losses up; each player descends its own, and L_R, which has no gradient for D, stands with G's.
- The batch size is not given (the public code's default is one slice, four patches); ``paper`` takes 16 patches, as many as four
  slices have. Adam's beta1 is not given; 0.5, as in the public code.
- The public code's test never leaves training mode, so its batch norms see the test batch; ours use the running statistics.
- Early and late fusion (Fig. 9) are drawn, not described: early stacks the sources into one encoder, which leaves nothing
  to fuse; late keeps an encoder a source and fuses their deepest maps alone. Both keep the skip connections.
With 32 filters and two sources the generator has 3,872,259 parameters and the discriminator 391,041, as the public code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synthmr.batch import Batch, Output
from synthmr.errors import UsageError, did_you_mean
from synthmr.methods.contract import NeuralMethod, Spec, Update, check_wanted
from synthmr.methods.parts.blocks import Activation, conv_block, init_normal, leaky, make_norm, relu
from synthmr.methods.parts.gan import OBJECTIVES, discriminator_loss, generator_loss
from synthmr.methods.presets import ADAMW_GAN, AUGMENT_MORE

# --- configuration ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HiNetOptions:
    """Hi-Net's own configuration; the defaults are the paper's.

    Attributes:
        filters: width of the first level; the others are its multiples.
        discriminator_filters: width of the discriminator's first layer.
        fusion_block: mfb or concat, in the fusion network (Table V: concat here alone is "degraded3").
        decoder_block: mfb or concat, where the decoder meets the skip connections (here alone: "degraded2"; both: "degraded1").
        strategy: hybrid, or the ablations early and late (Fig. 9).
        product: plain (Eq. 2), or root: the signed N-th root, which does not grow with the N-th power of the features.
        norm: batch (paper) or instance.
        gan: lsgan, log or none.
        error: mae (Eq. 3) or mse. The best answer to mae is a median, which is darker than the mean where one volume in eight is
            bright; scores are of the mean squared error.
        l1_weight: lambda_1 of Eq. 3, of either error.
        reconstruction_weight: lambda_2 of Eq. 6.
        gan_weight: of the adversarial term of Eq. 3; 1 in the paper.
        discriminator_rate: the discriminator's learning rate as a factor of the generator's.
    """

    filters: int = 32
    discriminator_filters: int = 32
    fusion_block: str = "mfb"
    decoder_block: str = "mfb"
    strategy: str = "hybrid"
    product: str = "plain"
    norm: str = "batch"
    gan: str = "lsgan"
    error: str = "mae"
    l1_weight: float = 100.0
    reconstruction_weight: float = 20.0
    gan_weight: float = 1.0
    discriminator_rate: float = 1.0

    def __post_init__(self) -> None:
        allowed: Mapping[str, Sequence[str]] = {
            "fusion_block": ("mfb", "concat"),
            "decoder_block": ("mfb", "concat"),
            "strategy": ("hybrid", "early", "late"),
            "product": ("plain", "root"),
            "norm": ("batch", "instance"),
            "gan": (*OBJECTIVES, "none"),
            "error": ("mae", "mse"),
        }
        for key, words in allowed.items():
            value = getattr(self, key)
            if value not in words:
                raise UsageError(f"options.{key}={value!r}: {did_you_mean(str(value), words)}")
        for key, least in (("filters", 1), ("discriminator_filters", 1)):
            if getattr(self, key) < least:
                raise UsageError(f"options.{key}={getattr(self, key)}: at least {least}.")
        for key in ("l1_weight", "reconstruction_weight", "gan_weight", "discriminator_rate"):
            if not 0 <= getattr(self, key) < math.inf:
                raise UsageError(f"options.{key}={getattr(self, key):g}: at least 0 and finite.")


# --- networks -----------------------------------------------------------------------------------------------------------

ROOT_EPS = 1e-4  # keeps the slope of the signed root finite at zero


def product_of(maps: Sequence[Tensor], kind: str) -> Tensor:
    """The product branch of Eq. 2, in float32: element-wise over all maps ``(B, C, H, W)``, or its signed N-th root."""
    product = reduce(torch.mul, (each.float() for each in maps))
    if kind == "root":
        power = 1 / len(maps)
        product = product.sign() * ((product.abs() + ROOT_EPS) ** power - ROOT_EPS**power)
    return product.to(maps[0].dtype)


class MixedFusionBlock(nn.Module):
    """The mixed fusion block (MFB; Fig. 2, Eq. 2), or direct concatenation for the ablation (Fig. 8).

    The N sources' maps, ``(B, C, H, W)`` each, become F+ (sum), Fx (product) and Fm (maximum) side by side, or are stacked
    (``concat``). Conv1 weighs them back to C channels; its output is joined with the running map F_{n-1}, if there is one, and
    Conv2 gives F_n.
    """

    def __init__(
        self, sources: int, channels: int, outputs: int, previous: int, activation: Activation, block: str, product: str, norm: str
    ) -> None:
        super().__init__()
        self.block, self.product = block, product
        width = 3 if block == "mfb" else sources
        self.conv1 = conv_block(width * channels, channels, activation, norm)
        self.conv2 = conv_block(channels + previous, outputs, activation, norm)

    def mix(self, maps: Sequence[Tensor]) -> Tensor:
        """F_concat: ``(B, 3C, H, W)``, or ``(B, N C, H, W)`` for concat."""
        if self.block == "concat":
            return torch.cat(list(maps), dim=1)
        return torch.cat([reduce(torch.add, maps), product_of(maps, self.product), reduce(torch.maximum, maps)], dim=1)

    def forward(self, maps: Sequence[Tensor], previous: Tensor | None = None) -> Tensor:
        fused = self.conv1(self.mix(maps))
        out: Tensor = self.conv2(fused if previous is None else torch.cat([fused, previous], dim=1))
        return out


class Encoder(nn.Module):
    """Modality-specific encoder (Section III-A): three levels of two convolutions and a 2x2 maximum; returns the pooled maps."""

    def __init__(self, inputs: int, filters: int, norm: str) -> None:
        super().__init__()
        widths = (inputs, filters, 2 * filters, 4 * filters)
        self.levels = nn.ModuleList(
            nn.Sequential(conv_block(i, o, leaky, norm), conv_block(o, o, leaky, norm), nn.MaxPool2d(2))
            for i, o in pairwise(widths)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        for level in self.levels:
            image = level(image)
            maps.append(image)
        return maps


class Reconstruction(nn.Sequential):
    """Modality-specific decoder: from the encoder's deepest map back to its input (Section III-A), in (-1, 1)."""

    def __init__(self, outputs: int, filters: int, norm: str) -> None:
        one, two, four = filters, 2 * filters, 4 * filters
        super().__init__(
            conv_block(four, four, relu, norm),
            nn.Upsample(scale_factor=2),
            conv_block(four, four, relu, norm),
            conv_block(four, two, relu, norm),
            nn.Upsample(scale_factor=2),
            conv_block(two, two, relu, norm),
            conv_block(two, one, relu, norm),
            nn.Upsample(scale_factor=2),
            conv_block(one, one, relu, norm),
            nn.Conv2d(one, outputs, 3, padding=1),
            nn.Tanh(),
        )


class Generator(nn.Module):
    """The whole generator G(x1, ..., xN) of Eq. 4 (Fig. 1): encoders, fusion network, decoder; H and W are multiples of 8."""

    def __init__(self, sources: int, options: HiNetOptions) -> None:
        super().__init__()
        self.strategy = options.strategy
        early = options.strategy == "early"
        streams, inputs = (1, sources) if early else (sources, 1)
        one, two, four, eight = (options.filters * k for k in (1, 2, 4, 8))
        norm = options.norm

        def mfb(channels: int, outputs: int, previous: int, decoder: bool) -> MixedFusionBlock:
            block = "concat" if early else options.decoder_block if decoder else options.fusion_block
            return MixedFusionBlock(streams, channels, outputs, previous, relu if decoder else leaky, block, options.product, norm)

        self.encoders = nn.ModuleList(Encoder(inputs, options.filters, norm) for _ in range(streams))
        self.reconstructions = nn.ModuleList(Reconstruction(inputs, options.filters, norm) for _ in range(streams))
        # fusion network, Section III-B: numbers of filters 32 and 64, 64 and 128, 128 and 128
        hybrid = options.strategy == "hybrid"
        self.fusion1 = mfb(one, two, 0, False) if hybrid else None
        self.fusion2 = mfb(two, four, two, False) if hybrid else None
        self.fusion3 = mfb(four, four, four if hybrid else 0, False)
        # generator, Section III-C: 256 and 128 filters, three MFBs on the skip connections, upsampling, 32 and 1
        self.latent = nn.Sequential(conv_block(four, eight, leaky, norm), conv_block(eight, four, relu, norm))
        self.skip3 = mfb(four, two, four, True)
        self.skip2 = mfb(two, one, two, True)
        self.skip1 = mfb(one, one, one, True)
        self.last = nn.Sequential(conv_block(one, one, relu, norm), nn.Conv2d(one, 1, 3, padding=1), nn.Tanh())

    def forward(self, images: Sequence[Tensor], reconstruct: bool = False) -> tuple[Tensor, list[Tensor]]:
        """Sources ``(B, 1, H, W)`` each -> target ``(B, 1, H, W)`` in (-1, 1) and, if asked, a reconstruction a source."""
        inputs = [torch.cat(list(images), dim=1)] if self.strategy == "early" else list(images)
        pyramids = [encoder(image) for encoder, image in zip(self.encoders, inputs, strict=True)]
        half, quarter, eighth = (list(level) for level in zip(*pyramids, strict=True))

        fused: Tensor | None = None
        if self.fusion1 is not None and self.fusion2 is not None:
            fused = F.max_pool2d(self.fusion1(half), 2)
            fused = F.max_pool2d(self.fusion2(quarter, fused), 2)
        x = self.latent(self.fusion3(eighth, fused))
        x = F.interpolate(self.skip3(eighth, x), scale_factor=2.0)
        x = F.interpolate(self.skip2(quarter, x), scale_factor=2.0)
        x = F.interpolate(self.skip1(half, x), scale_factor=2.0)
        target = self.last(x)
        if not reconstruct:
            return target, []
        decoded = [decoder(deepest) for decoder, deepest in zip(self.reconstructions, eighth, strict=True)]
        return target, list(decoded[0].split(1, dim=1)) if self.strategy == "early" else decoded


#: height and width that leave the discriminator's last convolution one position; the next multiple of 8
LEAST_JUDGED = 40


class Discriminator(nn.Sequential):
    """Section III-C: ``(B, 1, H, W)`` -> a map of raw scores; 3x3 convolutions of stride 2, the last without stride or padding."""

    def __init__(self, filters: int = 32, norm: str = "batch") -> None:
        layers: list[nn.Module] = [nn.Conv2d(1, filters, 3, stride=2, padding=1), leaky()]
        for width in (filters, 2 * filters, 4 * filters):
            layers += [nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), make_norm(norm, 2 * width), leaky()]
        super().__init__(*layers, nn.Conv2d(8 * filters, 1, 3))


# --- losses -------------------------------------------------------------------------------------------------------------


def reconstruction_loss(images: Sequence[Tensor], decoded: Sequence[Tensor]) -> Tensor:
    """L_R of Eq. 1: the sum over sources of the mean absolute difference."""
    return torch.stack([F.l1_loss(b.float(), a.float()) for a, b in zip(images, decoded, strict=True)]).sum()


# --- the method ---------------------------------------------------------------------------------------------------------


class HiNet(NeuralMethod):
    """Hi-Net; see the top of this file."""

    spec: ClassVar[Spec] = Spec(
        name="hinet",
        title="Hi-Net: modality-specific autoencoders, mixed fusion blocks, GAN",
        paper="Zhou et al., IEEE Transactions on Medical Imaging 2020",
        doi="10.1109/TMI.2020.2975344",
        sources=(2, 8),
        targets=(1, 1),
        divisor=8,
        output_range=(-1.0, 1.0),
    )
    Options: ClassVar[type] = HiNetOptions
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "prepare.normalizer": "minmax",
            "sample.mode": "tiles",
            "sample.crop": (160, 180),
            "sample.patch": (128, 128),
            "sample.batch": 16,
            "sample.min_brain": 0.0,
            "train.epochs": 300,
            "train.brightness": False,
            "train.optimizer": "adam",
            "train.lr": 2e-4,
            "train.beta1": 0.5,
            "train.schedule": "linear",
            "train.decay_start": 1 / 3,
        },
        "fast": {
            "options.filters": 16,
            "options.discriminator_rate": 0.2,
            "options.error": "mse",
            "options.l1_weight": 300.0,
            "sample.mode": "slices",
            "sample.batch": 8,
            **AUGMENT_MORE,
            "train.minutes": 30.0,
            **ADAMW_GAN,
        },
    }

    def __init__(self, options: HiNetOptions, sources: Sequence[str], targets: Sequence[str]) -> None:
        super().__init__(options, sources, targets)
        self.generator = Generator(len(self.sources), options)
        self.discriminator = Discriminator(options.discriminator_filters, options.norm) if options.gan != "none" else None
        self.apply(init_normal)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """G and, unless ``gan=none``, D."""
        groups = {"G": list(self.generator.parameters())}
        if self.discriminator is not None:
            groups["D"] = list(self.discriminator.parameters())
        return groups

    def optimizer_overrides(self) -> dict[str, dict[str, Any]]:
        """D keeps beta1 0.5 and no weight decay, whatever G uses."""
        return {"D": {"rate": self.options.discriminator_rate, "betas": (0.5, 0.999), "weight_decay": 0.0}}

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """Generator first (Eq. 4 and lambda_2 L_R of Eq. 6), then the discriminator on the detached result (Eq. 5).

        Raises:
            UsageError: the images are too small for the discriminator.
        """
        options = self.options
        images = [batch.images[name] for name in self.sources]
        truth = batch.centre(self.targets[0])
        if self.discriminator is not None and min(truth.shape[2:]) < LEAST_JUDGED:
            height, width = truth.shape[2:]
            raise UsageError(
                f"Hi-Net's discriminator needs images of {LEAST_JUDGED}x{LEAST_JUDGED} or more and was given {height}x{width};"
                " enlarge sample.patch or sample.crop, or use --set options.gan=none."
            )
        fake, decoded = self.generator(images, reconstruct=True)

        l1 = F.l1_loss(fake.float(), truth)
        error = l1 if options.error == "mae" else F.mse_loss(fake.float(), truth)
        rec = reconstruction_loss(images, decoded)
        loss = options.l1_weight * error + options.reconstruction_weight * rec
        logs = {"G_l1": l1.detach(), "G_rec": rec.detach()}
        if self.discriminator is None:
            update("G", loss)
            return logs

        adversarial = generator_loss(self.discriminator(fake), options.gan)
        update("G", loss + options.gan_weight * adversarial)

        d_loss = discriminator_loss(self.discriminator(truth), self.discriminator(fake.detach()), options.gan)
        update("D", d_loss)
        return {**logs, "G_gan": adversarial.detach(), "D": d_loss.detach()}

    def forward(self, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Output]:
        """Predict the target; neither reconstructions nor discriminator are computed."""
        sources, targets = check_wanted(self, batch, wanted)
        image, _ = self.generator([batch.images[name] for name in sources])
        return {name: Output(image.float()) for name in targets}
