"""CycleGAN: Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks.

J.-Y. Zhu, T. Park, P. Isola, A. A. Efros, ICCV 2017, doi 10.1109/ICCV.2017.244.

Two domains that were never seen together (Section 3): X, here the N sources of one slice stacked as channels, and Y, the one
target. G: X -> Y and F: Y -> X are each judged by a discriminator of the domain that they draw (Eq. 1); what goes there and back
must be what left (Eq. 2); G, F are trained against D_X, D_Y on the sum (Eq. 3). Sources and target of a step are of different
subjects, unless pairs are asked for; no term but ``l1_weight`` compares the two, so the order of the targets in a batch is free.

Where the paper is silent, or we differ:
- Eq. 1 prints the log objective and Section 4 trains with least squares; so does the default (``gan=lsgan``). ``gan=log`` is
  Eq. 1 in its non-saturating form.
- Eq. 2 prints L1 norms; they are means over pixels and channels, as in the public code, so that lambda = 10 means what it did.
- The identity term of Section 5.2 (``G(y) = y``, ``F(x) = x``, weight 0.5 lambda) was there for paintings alone, to keep their
  colours. An MR image has nothing but its "colour": a GAN and a cycle are content with inverted contrast (F inverts it back),
  and only this term is not. So it is on by default, as in the public code. With N > 1 the two domains differ in channels, and an
  image of the output's domain is put where the input's was: the target on every channel of G's input must come back,
  ``G(y, ..., y) = y``; and a source alone, ``x_n`` as F's input, on its own channel, ``F(x_n)_n = x_n``. The n is drawn for every
  sample and step: the mean over the sources at the price of one. With N = 1 both are the paper's. F's other N - 1 channels are
  free there.
- No history: Section 4 shows the discriminators the 50 last synthesised images in place of the newest. These would be a part of
  the run's state as large as the networks, of a size known only when the first batch has come, and wrong in an average of
  weights or of ranks. Here what a step computes depends on its batch and the weights alone, and a resumed run is exact.
- Downsampling and upsampling are CUT's (a low-pass filter each, `parts.resnet`), the same authors' later generator; Section 7
  prints strided and transposed convolutions, whose checkerboard a reader of MR images could take for texture.
- The public code resizes to 286x286 and cuts random 256x256 windows; MR slices keep their voxel size and lie in a 256x256 crop
  (``paper``). Its random flips are in. Section 7 takes 6 residual blocks for 128x128 images and 9 for 256x256.
- Eq. 3 is one game; as in the public code G and F take one step together, then both discriminators, whose loss is halved
  (Section 7), on the images of before that step.
- ``skip`` is ours, off by default and on in ``fast``: the generators add to their input, and so start from all but G(y) = y. A
  small generator of the paper's kind is slow to learn to let an image through (after some hundred steps it is still blurred).
- ``l1_weight`` is ours: with pairs (sample.paired=on) L1 between G(x) and the truth is added.
The weights that are kept are those that score best on the validation subjects, whose truth is known: the paper had none to ask.
With one source, 64 filters and 9 blocks a generator has 11,365,633 parameters and a discriminator 2,762,689.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from synthmr.batch import Batch, Output
from synthmr.errors import UsageError, did_you_mean
from synthmr.methods.contract import NeuralMethod, Spec, Update, check_wanted
from synthmr.methods.parts import patchgan, resnet
from synthmr.methods.parts.gan import OBJECTIVES, discriminator_loss, generator_loss
from synthmr.methods.parts.patchgan import PatchGAN
from synthmr.methods.parts.resnet import ResnetDecoder, ResnetEncoder, Skip
from synthmr.methods.presets import UNPAIRED

# --- configuration ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CycleGANOptions:
    """CycleGAN's own configuration; the defaults are the paper's, with its identity term.

    Attributes:
        filters: width of the generators' first layer.
        blocks: residual blocks of each generator.
        discriminator_filters: width of the discriminators' first layer.
        gan: lsgan or log.
        gan_weight: of both adversarial terms of Eq. 3; 1 in the paper.
        cycle_weight: lambda of Eq. 3, of both cycles.
        identity_weight: of both identity terms, as a factor of cycle_weight.
        l1_weight: of L1 between G(x) and the truth, which needs pairs (sample.paired=on); 0 in the paper.
        discriminator_rate: the discriminators' learning rate as a factor of the generators'.
        skip: the generators add what they draw to their input; not in the paper.
    """

    filters: int = 64
    blocks: int = 9
    discriminator_filters: int = 64
    gan: str = "lsgan"
    gan_weight: float = 1.0
    cycle_weight: float = 10.0
    identity_weight: float = 0.5
    l1_weight: float = 0.0
    discriminator_rate: float = 1.0
    skip: bool = False

    def __post_init__(self) -> None:
        if self.gan not in OBJECTIVES:
            raise UsageError(f"options.gan={self.gan!r}: {did_you_mean(self.gan, OBJECTIVES)}")
        for key, least in (("filters", 1), ("blocks", 0), ("discriminator_filters", 1)):
            if getattr(self, key) < least:
                raise UsageError(f"options.{key}={getattr(self, key)}: at least {least}.")
        for key in ("gan_weight", "cycle_weight", "identity_weight", "l1_weight", "discriminator_rate"):
            if not 0 <= getattr(self, key) < math.inf:
                raise UsageError(f"options.{key}={getattr(self, key):g}: at least 0 and finite.")


# --- networks and losses ------------------------------------------------------------------------------------------------


class Generator(nn.Module):
    """Section 7: ``(B, inputs, H, W) -> (B, outputs, H, W)`` in (-1, 1); H and W are multiples of 4.

    c7s1-f, d2f, d4f, ``blocks`` times R4f, u2f, uf, c7s1-outputs, tanh. With ``skip`` the layers before the tanh give what is to
    be added to the input: to a learnt mix of its channels, at first their mean, which the tanh would bring back as it came.
    """

    def __init__(self, inputs: int, outputs: int, filters: int, blocks: int, skip: bool = False) -> None:
        super().__init__()
        self.encoder = ResnetEncoder(inputs, filters, blocks)
        self.decoder = ResnetDecoder(outputs, filters, 0)
        self.skip = Skip(inputs, outputs) if skip else None
        if skip:
            self.decoder.start_small()

    def forward(self, image: Tensor) -> Tensor:
        deepest = self.encoder(image)
        out: Tensor = self.decoder(deepest) if self.skip is None else self.decoder.beside(deepest, self.skip(image))
        return out


def cycle_loss(x: Tensor, again: Tensor) -> Tensor:
    """One direction of Eq. 2: the mean of ``|F(G(x)) - x|`` over samples, channels and pixels."""
    return nnf.l1_loss(again.float(), x)


def identity_of_g(g: nn.Module, y: Tensor, sources: int) -> Tensor:
    """``|G(y, ..., y) - y|``: the target ``(B, 1, H, W)`` in the place of each source comes back as the target."""
    return nnf.l1_loss(g(y.repeat(1, sources, 1, 1)).float(), y)


def identity_of_f(f: nn.Module, x: Tensor, chosen: Tensor) -> Tensor:
    """``|F(x_n)_n - x_n|``: a source in the place of the target comes back on its own channel.

    Args:
        f: F.
        x: the sources ``(B, N, H, W)``.
        chosen: ``(B,)``, the n of each sample.
    """
    samples = torch.arange(len(x), device=x.device)
    alone = x[samples, chosen].unsqueeze(1)
    return nnf.l1_loss(f(alone)[samples, chosen].unsqueeze(1).float(), alone)


# --- the method ---------------------------------------------------------------------------------------------------------


class CycleGAN(NeuralMethod):
    """CycleGAN; see the top of this file."""

    spec: ClassVar[Spec] = Spec(
        name="cyclegan",
        title="CycleGAN: two generators and discriminators, cycle consistency, sources as channels",
        paper="Zhu et al., ICCV 2017",
        doi="10.1109/ICCV.2017.244",
        supervision="either",
        sources=(1, 8),
        targets=(1, 1),
        divisor=4,
        output_range=(-1.0, 1.0),
    )
    Options: ClassVar[type] = CycleGANOptions
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "sample.mode": "slices",
            "sample.crop": (256, 256),
            "sample.batch": 1,
            "augment.flip": 0.5,
            "train.epochs": 200,
            "train.brightness": False,
            "train.optimizer": "adam",
            "train.lr": 2e-4,
            "train.beta1": 0.5,
            "train.schedule": "linear",
            "train.decay_start": 0.5,
        },
        "fast": {
            "options.filters": 12,
            "options.blocks": 4,
            "options.discriminator_filters": 16,
            "options.skip": True,
            "sample.mode": "slices",
            "sample.batch": 2,
            "train.optimizer": "adam",
            **UNPAIRED,
        },
    }

    def __init__(self, options: CycleGANOptions, sources: Sequence[str], targets: Sequence[str]) -> None:
        super().__init__(options, sources, targets)
        count = len(self.sources)
        self.g = Generator(count, 1, options.filters, options.blocks, options.skip)
        self.f = Generator(1, count, options.filters, options.blocks, options.skip)
        self.d_y = PatchGAN(1, options.discriminator_filters, norm="instance")
        self.d_x = PatchGAN(count, options.discriminator_filters, norm="instance")

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """G: both generators; D: both discriminators."""
        return {
            "G": [*self.g.parameters(), *self.f.parameters()],
            "D": [*self.d_y.parameters(), *self.d_x.parameters()],
        }

    def optimizer_overrides(self) -> dict[str, dict[str, Any]]:
        """The discriminators keep beta1 0.5 and no weight decay, whatever the generators use."""
        return {"D": {"rate": self.options.discriminator_rate, "betas": (0.5, 0.999), "weight_decay": 0.0}}

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """Both generators on Eq. 3, then both discriminators on the images that these gave before.

        Raises:
            UsageError: the images are too small for the discriminators, or ``l1_weight`` without pairs.
        """
        options = self.options
        x, y = batch.stack(self.sources), batch.truth(self.targets)
        self._check_step(batch, x)
        fake_y, fake_x = self.g(x), self.f(y)

        adversarial = generator_loss(self.d_y(fake_y), options.gan) + generator_loss(self.d_x(fake_x), options.gan)
        cycle = cycle_loss(x, self.f(fake_y)) + cycle_loss(y, self.g(fake_x))
        loss = options.gan_weight * adversarial + options.cycle_weight * cycle
        logs = {"G_gan": adversarial.detach(), "G_cycle": cycle.detach()}
        if options.identity_weight:
            chosen = torch.randint(len(self.sources), (len(x),), device=x.device)
            identity = identity_of_g(self.g, y, len(self.sources)) + identity_of_f(self.f, x, chosen)
            loss = loss + options.cycle_weight * options.identity_weight * identity
            logs["G_identity"] = identity.detach()
        if options.l1_weight:
            l1 = nnf.l1_loss(fake_y.float(), y)
            loss = loss + options.l1_weight * l1
            logs["G_l1"] = l1.detach()
        update("G", loss)

        judged_y = discriminator_loss(self.d_y(y), self.d_y(fake_y.detach()), options.gan)
        judged_x = discriminator_loss(self.d_x(x), self.d_x(fake_x.detach()), options.gan)
        update("D", judged_y + judged_x)
        return {**logs, "D_y": judged_y.detach(), "D_x": judged_x.detach()}

    def _check_step(self, batch: Batch, x: Tensor) -> None:
        """Refuse what cannot be trained on."""
        height, width = x.shape[2:]
        if min(height, width) < patchgan.LEAST:
            raise UsageError(
                f"cyclegan's discriminators need images of {patchgan.LEAST}x{patchgan.LEAST} or more and were given"
                f" {height}x{width}; enlarge sample.patch or sample.crop."
            )
        if self.options.l1_weight and not batch.paired:
            raise UsageError(
                f"options.l1_weight={self.options.l1_weight:g} compares each image with its truth, and these sources and targets"
                " are of different subjects; set sample.paired=on, or options.l1_weight=0."
            )

    def forward(self, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Output]:
        """Predict the target; G alone is computed.

        Raises:
            UsageError: the images are too small for the generator.
        """
        sources, targets = check_wanted(self, batch, wanted)
        x = batch.stack(sources)
        height, width = x.shape[2:]
        if min(height, width) < resnet.LEAST:
            least = f"{resnet.LEAST}x{resnet.LEAST}"
            raise UsageError(f"cyclegan's generator needs images of {least} or more and was given {height}x{width}; pad them.")
        image: Tensor = self.g(x)
        return {name: Output(image.float()) for name in targets}
