"""IMT: MRI cross-modality image-to-image translation; with it the baselines pix2pix and sGAN of the other papers.

Q. Yang, N. Li, Z. Zhao, X. Fan, E. I.-C. Chang, Y. Xu, Scientific Reports 10:3753, 2020, doi 10.1038/s41598-020-60520-6.

A conditional GAN (Section Methods), which is pix2pix (its reference 13: Isola, Zhu, Zhou, Efros, CVPR 2017) on MR slices:

    Eq. 1  L_cGAN(G, D) = E_{x,y}[log D(x, y)] + E_{x,z}[log(1 - D(x, G(x, z)))]
    Eq. 2  L_L1(G)      = E_{x,y,z}[|y - G(x, z)|]
    Eq. 3  L(G, D)      = L_cGAN(G, D) + lambda L_L1(G),  lambda = 100
    Eq. 4  G*           = arg min_G max_D L(G, D):  (1) G fixed, a step of D; (2) D fixed, a step of G

x is the given image, here all sources stacked as channels; y the target (several: stacked too); z the dropout of G's decoder.
G is a U-Net of eight levels, D judges 70x70 patches of x with y, or with G(x, z). The rows of Table 1 are ``cGAN + L1`` (the
default), ``cGAN`` (l1_weight=0) and ``L1`` (gan=none).

Where the paper is silent or contradicts itself:
- "Other parameters follow the reference 13"; what is not printed is pix2pix: 4x4 kernels, stride 2, padding 1, weights from
  N(0, 0.02), D's loss halved, biases in the last layer alone (before a normalisation they do nothing).
- The filters of the deconvolutions, 512, 1024 (four times), 512, 256, 128, are the channels that go *in*, skips included: those
  that come out are 512 (four times), 256, 128, 64 and the targets.
- "Unleaky ReLu (a slope of 0.2)" in the decoder: an unleaky one has no slope; plain ReLU, as in the reference. There it stands
  before the deconvolution, behind the concatenation, and so here: it rectifies the skips too.
- "Each" layer has batch norm in print. The first, the innermost (one pixel, which a normalisation at batch size 1 would set to
  its offset) and the last have none, as in the reference.
- Which layers have dropout is not said; the first three of the decoder, at 0.5 (reference).
- Batch size 1, where "our approach can be regarded as instance normalization": a slice is normalised by its own statistics. The
  reference does so at test time too, and running statistics of such single slices are not what G was trained with. So the
  default is just that, ``norm=instance``, which says the same at every batch size. ``norm=batch`` is batch norm with running
  statistics at test time, for batches of several slices (``fast``). D, which is of no use after the training, has batch norm.
- Whether z is on at test time is not said; in the reference it is. A synthetic image that changes from call to call is not what
  a clinic wants, so dropout is off by default; ``noise_at_test`` turns it on. Then every call draws anew from torch's global
  generator: `torch.manual_seed` before a call repeats it.
- Eq. 1 is the log objective; G minimises its non-saturating form (see `parts.gan`). ``gan=lsgan`` is least squares.
- Eq. 2 is a mean over pixels, as in the reference, so that 100 means what it meant there.
- "(155 x 220)" slices, yet 1,924 and 451 images were used, eleven a subject; which is not said. ``paper`` draws every slice. It
  trains for the 600 epochs of BraTs2015 at a constant rate (no decay is printed); ``pix2pix`` for 200, decaying linearly from
  half, with flips, as the PyTorch version of the reference does.
- Whether a slice or a volume is scaled to [-1, 1] is not said; a volume, so that slices stay comparable.

sGAN (Olut, Sahin, Demir, Unal: Generative Adversarial Training for MRA Image Synthesis Using Multi-Contrast MRI, 2018) puts a
Huber loss on responses of steerable filters, made for vessels. The comparisons of the other papers take it as a GAN of stacked
sources with a Huber loss on the image, and so does ``sgan``: ``pixel_loss=huber`` in the place of Eq. 2, without those filters.
Its delta is not given; 1 in units of [-1, 1], where most errors lie in the quadratic part; ``huber_delta`` changes it.

Sizes that 2^levels does not divide are padded on the far sides with their border pixels, inside G, and the output is cropped back.
With one source, one target and 64 filters G has 54,407,809 parameters, as pix2pix's PyTorch version, and D 2,765,505.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from synthmr.batch import Batch, Output
from synthmr.errors import UsageError, did_you_mean
from synthmr.methods.contract import NeuralMethod, Spec, Update, by_contrast, check_wanted
from synthmr.methods.parts.blocks import init_normal, leaky, make_norm, relu
from synthmr.methods.parts.gan import OBJECTIVES, discriminator_loss, generator_loss
from synthmr.methods.parts.patchgan import PatchGAN, check_judged
from synthmr.methods.presets import ADAMW_GAN, AUGMENT_MORE

# --- configuration ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImtOptions:
    """IMT's own configuration; the defaults are the paper's.

    Attributes:
        filters: width of the generator's first level; the others are its multiples, eight times at most.
        levels: of the generator, down and up; its innermost map is 2^levels times smaller than the image.
        discriminator_filters: width of the discriminator's first layer.
        norm: of the generator: instance (the slice's own statistics, also at test time; the paper's batch norm at batch size 1)
            or batch (running statistics at test time).
        dropout: probability, in the decoder's first three levels: the noise z.
        noise_at_test: draw z when predicting, too; predictions then differ from call to call.
        gan: log (Eq. 1), lsgan, or none (Table 1: "L1").
        gan_weight: of the adversarial term of Eq. 3; 1 in the paper.
        pixel_loss: l1 (Eq. 2) or huber (sGAN).
        huber_delta: error, in normalised units, up to which huber is quadratic.
        l1_weight: lambda of Eq. 3, of either pixel loss; 0 is Table 1's "cGAN".
        discriminator_rate: the discriminator's learning rate as a factor of the generator's.
    """

    filters: int = 64
    levels: int = 8
    discriminator_filters: int = 64
    norm: str = "instance"
    dropout: float = 0.5
    noise_at_test: bool = False
    gan: str = "log"
    gan_weight: float = 1.0
    pixel_loss: str = "l1"
    huber_delta: float = 1.0
    l1_weight: float = 100.0
    discriminator_rate: float = 1.0

    def __post_init__(self) -> None:
        allowed: Mapping[str, Sequence[str]] = {
            "norm": ("batch", "instance"),
            "gan": (*OBJECTIVES, "none"),
            "pixel_loss": ("l1", "huber"),
        }
        for key, words in allowed.items():
            value = getattr(self, key)
            if value not in words:
                raise UsageError(f"options.{key}={value!r}: {did_you_mean(str(value), words)}")
        for key, least, most in (("filters", 1, math.inf), ("discriminator_filters", 1, math.inf), ("levels", 2, 10)):
            if not least <= getattr(self, key) <= most:
                span = f"at least {least}" if most == math.inf else f"{least} to {most}"
                raise UsageError(f"options.{key}={getattr(self, key)}: {span}.")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"options.dropout={self.dropout:g}: at least 0 and below 1.")
        for key in ("gan_weight", "l1_weight", "discriminator_rate"):
            if not 0 <= getattr(self, key) < math.inf:
                raise UsageError(f"options.{key}={getattr(self, key):g}: at least 0 and finite.")
        if not 0 < self.huber_delta < math.inf:
            raise UsageError(f"options.huber_delta={self.huber_delta:g}: above 0 and finite.")
        if self.l1_weight == 0 and (self.gan == "none" or self.gan_weight == 0):
            raise UsageError("options.l1_weight=0 without a GAN leaves nothing to learn from; set l1_weight=100, or gan=log.")
        if self.noise_at_test and self.dropout == 0:
            raise UsageError("options.noise_at_test=true and dropout=0: dropout is the noise; set options.dropout=0.5.")


# --- networks -----------------------------------------------------------------------------------------------------------

NOISY_LEVELS = 3  # of the decoder, from the innermost


class Noise(nn.Module):
    """Dropout as the noise z: on in training and, if asked, always."""

    def __init__(self, probability: float, always: bool) -> None:
        super().__init__()
        self.probability, self.always = probability, always

    def forward(self, x: Tensor) -> Tensor:
        return nnf.dropout(x, self.probability, self.training or self.always)


def pad_to(x: Tensor, multiple: int) -> Tensor:
    """Repeat the far border pixels of ``(B, C, H, W)`` until ``multiple`` divides H and W."""
    below, right = (-edge % multiple for edge in x.shape[2:])
    return nnf.pad(x, (0, right, 0, below), mode="replicate") if below or right else x


class Generator(nn.Module):
    """G, Section "Generator": ``(B, inputs, H, W) -> (B, outputs, H, W)`` in (-1, 1), of any size.

    Encoder: 64, 128, 256, 512 filters and 512 from there on. Decoder: each level reads what the one below it gives beside the
    mirrored encoder level's map.
    """

    def __init__(self, inputs: int, outputs: int, options: ImtOptions) -> None:
        super().__init__()
        self.multiple = 2**options.levels
        widths = [options.filters * min(2**level, 8) for level in range(options.levels)]

        self.encoder = nn.ModuleList()
        for level, (fan_in, fan_out) in enumerate(pairwise([inputs, *widths])):
            outermost, innermost = level == 0, level == options.levels - 1
            norm = [] if outermost or innermost else [make_norm(options.norm, fan_out)]
            activation = [] if innermost else [leaky()]  # the decoder's ReLU comes next, to which a leaky one makes no difference
            self.encoder.append(nn.Sequential(nn.Conv2d(fan_in, fan_out, 4, 2, 1, bias=False), *norm, *activation))

        self.decoder = nn.ModuleList()
        for level, (fan_in, fan_out) in enumerate(pairwise(widths[::-1])):
            fan_in += fan_in if level else 0  # the skip connection
            noise = [Noise(options.dropout, options.noise_at_test)] if level < NOISY_LEVELS and options.dropout else []
            deconvolution = nn.ConvTranspose2d(fan_in, fan_out, 4, 2, 1, bias=False)
            self.decoder.append(nn.Sequential(relu(), deconvolution, make_norm(options.norm, fan_out), *noise))
        self.decoder.append(nn.Sequential(relu(), nn.ConvTranspose2d(2 * widths[0], outputs, 4, 2, 1), nn.Tanh()))
        self.apply(init_normal)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        x = pad_to(images, self.multiple)
        maps: list[Tensor] = []
        for down in self.encoder:
            x = down(x)
            maps.append(x)
        x = maps.pop()
        for up in self.decoder:
            x = up(x)
            if maps:
                x = torch.cat([x, maps.pop()], dim=1)
        return x[..., :height, :width]


# --- losses -------------------------------------------------------------------------------------------------------------


def pixel_loss(image: Tensor, truth: Tensor, options: ImtOptions) -> Tensor:
    """Eq. 2, or Huber in its place: the mean over samples, targets and pixels."""
    if options.pixel_loss == "huber":
        return nnf.huber_loss(image.float(), truth, delta=options.huber_delta)
    return nnf.l1_loss(image.float(), truth)


# --- the method ---------------------------------------------------------------------------------------------------------

_PAPER: Mapping[str, Any] = {
    "prepare.normalizer": "minmax",
    "sample.mode": "slices",
    "sample.crop": (240, 240),
    "sample.resize": (256, 256),
    "sample.batch": 1,
    "sample.min_brain": 0.0,
    "train.epochs": 600,
    "train.optimizer": "adam",
    "train.lr": 2e-4,
    "train.beta1": 0.5,
    "train.schedule": "constant",
    "train.brightness": False,
}


class Imt(NeuralMethod):
    """IMT; see the top of this file."""

    spec: ClassVar[Spec] = Spec(
        name="imt",
        title="IMT: U-Net and 70x70 PatchGAN, sources as channels (pix2pix; sGAN as a preset)",
        paper="Yang et al., Scientific Reports 2020",
        doi="10.1038/s41598-020-60520-6",
        sources=(1, 8),
        targets=(1, 8),
        output_range=(-1.0, 1.0),
    )
    Options: ClassVar[type] = ImtOptions
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": _PAPER,
        "pix2pix": {
            **_PAPER,
            "augment.flip": 0.5,
            "train.epochs": 200,
            "train.schedule": "linear",
            "train.decay_start": 0.5,
        },
        "sgan": {**_PAPER, "options.pixel_loss": "huber"},
        "fast": {
            # in 400 steps 32 filters reached a 7 % smaller training L1 than 16, and lsgan a slightly smaller one than log
            "options.filters": 32,
            "options.levels": 5,
            "options.discriminator_filters": 8,
            "options.gan": "lsgan",
            "options.norm": "batch",
            "options.dropout": 0.1,
            "options.discriminator_rate": 0.2,
            "sample.mode": "slices",
            "sample.batch": 8,
            **AUGMENT_MORE,
            "train.minutes": 12.0,
            **ADAMW_GAN,
        },
    }

    def __init__(self, options: ImtOptions, sources: Sequence[str], targets: Sequence[str]) -> None:
        super().__init__(options, sources, targets)
        inputs, outputs = len(self.sources), len(self.targets)
        self.generator = Generator(inputs, outputs, options)
        self.discriminator = PatchGAN(inputs + outputs, options.discriminator_filters) if options.gan != "none" else None

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
        """Eq. 4: a step of D, then a step of G against the D that this has made.

        Raises:
            UsageError: the images are too small for the discriminator.
        """
        options = self.options
        x, y = batch.stack(self.sources), batch.truth(self.targets)
        if self.discriminator is not None:
            check_judged(x, "imt")
        fake = self.generator(x)

        pixels = pixel_loss(fake, y, options)
        loss = options.l1_weight * pixels
        logs = {f"G_{options.pixel_loss}": pixels.detach()}
        if self.discriminator is None:
            update("G", loss)
            return logs

        real_score = self.discriminator(torch.cat([x, y], dim=1))
        fake_score = self.discriminator(torch.cat([x, fake.detach()], dim=1))
        d_loss = discriminator_loss(real_score, fake_score, options.gan)
        update("D", d_loss)

        adversarial = generator_loss(self.discriminator(torch.cat([x, fake], dim=1)), options.gan)
        update("G", options.gan_weight * adversarial + loss)
        return {**logs, "G_gan": adversarial.detach(), "D": d_loss.detach()}

    def forward(self, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Output]:
        """Predict the targets; the discriminator is not computed."""
        sources, targets = check_wanted(self, batch, wanted)
        return by_contrast(self.generator(batch.stack(sources)), self.targets, targets)
