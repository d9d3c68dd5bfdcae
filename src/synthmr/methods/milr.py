"""MILR: Multimodal MR Synthesis via Modality-Invariant Latent Representation.

A. Chartsias, T. Joyce, M. V. Giuffrida, S. A. Tsaftaris, IEEE Transactions on Medical Imaging 37(3), 2018,
doi 10.1109/TMI.2017.2764326.

One encoder a source maps its slice to a latent image of 16 channels and the same size (Section IV-A, Fig. 2). The latent images
of whatever sources there are become one by a fusion that takes any number of them (IV-B, Eq. 1: the pixel-wise maximum), and
one small decoder a target turns it into that contrast (IV-C, Fig. 3). Three costs make the latent space the same for all
sources: each source alone must give every target (c1, Eq. 2), the latent images must agree (c2, Eq. 3), and so must the fused
one give every target (c3, Eq. 4). So the network runs from any subset of its sources, and takes new decoders and encoders later.

Where the paper is silent or contradicts itself:
- The slope of the leaky ReLU is not given; 0.3, the default of the library the paper names (Keras).
- Fig. 3 shows two concatenations in the decoder; the second joins the input of its block, which holds the first, with its output.
  The last 1x1 convolution is linear, since intensities divided by their mean have no upper bound.
- Eq. 3 prints a variance without its divisor; we take the mean over sources of the squared difference from their mean.
- The costs are summed over the minibatch; ours are means, which Adam does not see. Where samples lack sources or targets, c1 and c3
  are means over the pairs of a sample and a target that it has; a sample without any target is left to c2.
- c1 decodes one latent image. With HeMIS fusion the decoder reads mean and variance, so a single latent image stands with a
  variance of zero: the fusion of one. With "output mean" nothing latent is fused, and c3 scores the mean of the outputs.
- Training stops on validation; when exactly is not said. ``paper`` gives up after 10 validations without a better one.
- Border pixels are repeated by replicating convolutions; sizes that 4 does not divide are padded before and cropped after.
- Section VI-H gives a lesion mask "as an extra channel": of every encoder, 1 inside and 0 outside whatever the label.
- Footnote 1 and Section VII point to a registration layer on the latents (Joyce et al., MICCAI 2017) without describing it:
  ``align`` predicts one affine a source from its latent image and that of the first source, starts at the identity and warps
  the former; in training each other source is moved at random by up to ``misalign`` pixels, so that there is something to learn.
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
from synthmr.methods.presets import ADAMW, AUGMENT

FUSIONS = ("max", "mean", "hemis", "output-mean")
SLOPE = 0.3  # of the leaky ReLU
LATENT = 16  # channels that a decoder reads
MAX_TURN = math.radians(5)  # largest rotation that goes with ``misalign``

# --- configuration ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MilrOptions:
    """Options of `milr`.

    Attributes:
        filters: width of the first convolutions of encoders and decoders; 32 in the paper.
        latent: channels that a decoder reads; 16 in the paper (Table I compares 4, 8 and 16).
        fusion: max (Eq. 1), mean (Eq. 5), hemis (Eq. 6: mean and variance, encoders of half the channels) or output-mean.
        c1: weight of the cost of each source alone (Eq. 2); 0 leaves it out (Table V).
        c2: weight of the disagreement of the latents (Eq. 3).
        c3: weight of the cost of the fused latent (Eq. 4).
        error: mae (Eq. 2 and 4) or mse. The best answer to mae is a median, which is darker than the mean where lesions are bright;
            scores are of the mean squared error.
        lesion_mask: give the segmentation to every encoder as a second channel (Section VI-H).
        align: warp latents onto the first source's by a predicted affine (footnote 1).
        misalign: pixels by which sources but the first are moved at random in training, with rotations of up to 5 degrees.
        frozen: contrasts whose encoder or decoder does not learn; `synthmr extend` fills it in.
    """

    filters: int = 32
    latent: int = LATENT
    fusion: str = "max"
    c1: float = 1.0
    c2: float = 1.0
    c3: float = 1.0
    error: str = "mae"
    lesion_mask: bool = False
    align: bool = False
    misalign: float = 0.0
    frozen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.fusion not in FUSIONS:
            raise UsageError(f"options.fusion={self.fusion!r}: {did_you_mean(self.fusion, FUSIONS)}")
        if self.error not in ("mae", "mse"):
            raise UsageError(f"options.error={self.error!r}: {did_you_mean(self.error, ('mae', 'mse'))}")
        if self.filters < 1 or self.latent < 1:
            raise UsageError(f"options.filters={self.filters}, options.latent={self.latent}: both are at least 1.")
        if self.fusion == "hemis" and self.latent % 2:
            raise UsageError(f"options.latent={self.latent}: hemis fusion halves it into mean and variance; use an even number.")
        if not all(0 <= weight < math.inf for weight in (self.c1, self.c2, self.c3, self.misalign)):
            raise UsageError("options.c1, c2, c3 and misalign are numbers of at least 0.")
        if self.c1 == 0 and self.c3 == 0:
            raise UsageError("options.c1 and options.c3 are both 0, so nothing asks for the targets; keep one of them.")


# --- networks -----------------------------------------------------------------------------------------------------------


def conv(inputs: int, outputs: int) -> nn.Sequential:
    """3x3 convolution with repeated border pixels and leaky ReLU: ``(B, inputs, H, W) -> (B, outputs, H, W)``."""
    layer = nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="replicate")
    nn.init.kaiming_normal_(layer.weight, SLOPE)
    return nn.Sequential(layer, nn.LeakyReLU(SLOPE, inplace=True))


def two(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions."""
    return nn.Sequential(conv(inputs, outputs), conv(outputs, outputs))


class Encoder(nn.Module):
    """f(X | theta_i), Section IV-A, Fig. 2: ``(B, inputs, H, W) -> (B, latent, H, W)``; H and W are multiples of 4."""

    def __init__(self, inputs: int, filters: int, latent: int) -> None:
        super().__init__()
        one, double, four = filters, 2 * filters, 4 * filters
        self.level1, self.level2, self.level3 = two(inputs, one), two(one, double), two(double, four)
        self.up2, self.join2 = conv(four, double), two(2 * double, double)
        self.up1, self.join1 = conv(double, one), two(2 * one, one)
        self.latent = conv(one, latent)

    def forward(self, image: Tensor) -> Tensor:
        full = self.level1(image)
        half = self.level2(F.max_pool2d(full, 2))
        x = self.up2(F.interpolate(self.level3(F.max_pool2d(half, 2)), scale_factor=2.0))
        x = self.up1(F.interpolate(self.join2(torch.cat([x, half], dim=1)), scale_factor=2.0))
        out: Tensor = self.latent(self.join1(torch.cat([x, full], dim=1)))
        return out


class Decoder(nn.Module):
    """g(Z | psi_j), Section IV-C, Fig. 3: ``(B, latent, H, W) -> (B, 1, H, W)``."""

    def __init__(self, latent: int, filters: int) -> None:
        super().__init__()
        self.first = two(latent, filters)
        self.second = two(latent + filters, filters)
        self.last = nn.Conv2d(latent + 2 * filters, 1, 1)

    def forward(self, latent: Tensor) -> Tensor:
        joined = torch.cat([latent, self.first(latent)], dim=1)
        out: Tensor = self.last(torch.cat([joined, self.second(joined)], dim=1))
        return out.float()


class Aligner(nn.Module):
    """A spatial transformer on latents: the affine that moves one ``(B, latent, H, W)`` onto another; the identity at the start."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.AvgPool2d(4),
            nn.Conv2d(2 * latent, 16, 5, stride=2, padding=2),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(16, 32, 5, stride=2, padding=2),
            nn.LeakyReLU(SLOPE),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
        )
        self.affine = nn.Linear(512, 6)
        nn.init.zeros_(self.affine.weight)
        nn.init.zeros_(self.affine.bias)

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        change = self.affine(self.body(torch.cat([moving, fixed], dim=1))).float().view(-1, 2, 3)
        return warp(moving, torch.eye(2, 3, device=change.device) + 0.1 * change)


def warp(image: Tensor, affine: Tensor) -> Tensor:
    """Resample ``(B, C, H, W)`` through affines ``(B, 2, 3)`` in normalised coordinates, border pixels repeated."""
    grid = F.affine_grid(affine, list(image.shape), align_corners=False)
    return F.grid_sample(image.float(), grid, padding_mode="border", align_corners=False).to(image.dtype)


# --- fusion, Sections IV-B and IV-E --------------------------------------------------------------------------------------


def fuse(latents: Sequence[Tensor], present: Sequence[Tensor], fusion: str) -> Tensor:
    """Alpha: n latents ``(B, C, H, W)`` -> ``(B, C, H, W)``, for ``hemis`` ``(B, 2C, H, W)``.

    ``present`` says, for each latent, in which samples ``(B,)`` its source is there; the others do not count. A sample without any
    becomes zeros.
    """
    stacked = torch.stack(list(latents))
    there = torch.stack([flag.to(stacked.device) for flag in present])[:, :, None, None, None]
    if fusion == "max":
        return stacked.masked_fill(~there, -math.inf).amax(dim=0).masked_fill(~there.any(dim=0), 0.0)
    weight = there.to(stacked.dtype)
    count = weight.sum(dim=0).clamp(min=1)
    mean = (stacked * weight).sum(dim=0) / count
    if fusion == "mean":
        return mean
    variance = ((stacked - mean).square() * weight).sum(dim=0) / count
    return torch.cat([mean, variance], dim=1)


# --- costs, Section IV-D -------------------------------------------------------------------------------------------------


def disagreement(latents: Sequence[Tensor], present: Sequence[Tensor]) -> Tensor:
    """c2 of Eq. 3: variance over the sources at each pixel and channel, mean over all of them."""
    mean, variance = fuse([z.float() for z in latents], present, "hemis").chunk(2, dim=1)
    del mean
    return variance.mean()


def error_of(images: Sequence[Tensor], truths: Sequence[Tensor], counts: Sequence[Tensor], kind: str) -> Tensor:
    """MAE (Eq. 2 and 4), or mean squared error: the mean over the pairs of an image and its truth that count; 0 if none does.

    Args:
        images: one ``(B, 1, H, W)`` a target.
        truths: as `images`.
        counts: one ``(B,)`` bool a target: the samples whose truth is known.
        kind: mae or mse.
    """
    differences = torch.stack(list(images)) - torch.stack(list(truths))
    each = (differences.abs() if kind == "mae" else differences.square()).mean(dim=(2, 3, 4))
    counted = torch.stack(list(counts))
    return (each * counted).sum() / counted.sum().clamp(min=1)


# --- the method ---------------------------------------------------------------------------------------------------------


def key(contrast: str) -> str:
    """A contrast as the name of a module, which torch allows no dot; contrasts that a person names may have one."""
    return contrast.replace(".", "%2E")


class Milr(NeuralMethod):
    """MILR; see the top of this file."""

    spec: ClassVar[Spec] = Spec(
        name="milr",
        title="MILR: any subset in, many out, through a modality-invariant latent space",
        paper="Chartsias et al., IEEE Transactions on Medical Imaging 2018",
        doi="10.1109/TMI.2017.2764326",
        sources=(1, 8),
        targets=(1, 8),
        any_subset=True,
        divisor=4,
        maps=("fusion",),
        extendable=True,
    )
    Options: ClassVar[type] = MilrOptions
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "prepare.normalizer": "mean",
            "sample.mode": "slices",
            "sample.batch": 16,
            "sample.min_brain": 0.0,
            "train.epochs": 100,
            "train.brightness": False,
            "train.optimizer": "adam",
            "train.lr": 1e-3,
            "train.beta1": 0.9,
            "train.schedule": "constant",
            "train.patience": 10,
        },
        "fast": {
            "options.filters": 16,
            "options.error": "mse",
            "sample.batch": 4,
            **AUGMENT,
            "train.minutes": 12.0,
            **ADAMW,
            "train.schedule": "constant",
            "train.clip": 10.0,
        },
    }

    needs_target: ClassVar[bool] = False  # c2 of Eq. 3 wants sources alone

    def __init__(self, options: MilrOptions, sources: Sequence[str], targets: Sequence[str]) -> None:
        super().__init__(options, sources, targets)
        inputs = 2 if options.lesion_mask else 1
        width = options.latent // 2 if options.fusion == "hemis" else options.latent
        self.encoders = nn.ModuleDict({key(name): Encoder(inputs, options.filters, width) for name in self.sources})
        self.decoders = nn.ModuleDict({key(name): Decoder(options.latent, options.filters) for name in self.targets})
        self.aligners = nn.ModuleDict({key(name): Aligner(width) for name in self.sources[1:]} if options.align else {})
        for name in map(key, options.frozen):
            for parts in (self.encoders, self.decoders, self.aligners):
                if name in parts:
                    parts[name].requires_grad_(False)

    @property
    def needs(self) -> tuple[str, ...]:
        """The segmentation, where encoders have a channel for it."""
        return ("segmentation",) if self.options.lesion_mask else ()

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Encoders and decoders, but for those that are frozen."""
        return {"G": [param for param in self.parameters() if param.requires_grad]}

    @property
    def learning(self) -> tuple[str, ...]:
        """The targets whose costs reach a parameter that learns: all, unless every encoder is frozen."""
        if any(name not in self.options.frozen for name in self.sources):
            return self.targets
        return tuple(name for name in self.targets if name not in self.options.frozen)

    # --- encoding

    def encode(self, batch: Batch, names: Sequence[str]) -> list[Tensor]:
        """Z_i of every named source: ``(B, latent, H, W)`` each, aligned to the first source's where asked."""
        images = [batch.images[name] for name in names]
        if self.training and self.options.misalign > 0:
            images = [image if name == self.sources[0] else self._moved(image) for name, image in zip(names, images, strict=True)]
        if self.options.lesion_mask:
            lesion = self._lesion(batch)
            images = [torch.cat([image, lesion], dim=1) for image in images]
        latents = [self.encoders[key(name)](image) for name, image in zip(names, images, strict=True)]
        if self.options.align and names[0] == self.sources[0]:
            rest = zip(names[1:], latents[1:], strict=True)
            there = batch.given(names[0]).to(latents[0].device)[:, None, None, None]
            latents = [latents[0], *(torch.where(there, self.aligners[key(name)](z, latents[0]), z) for name, z in rest)]
        return latents

    def _lesion(self, batch: Batch) -> Tensor:
        if batch.segmentation is None:
            raise UsageError("this run of milr reads a lesion mask and was given no segmentation; give one, or --lesion-mask none.")
        image = next(iter(batch.images.values()))
        return (batch.segmentation > 0).to(image.dtype)

    def _moved(self, image: Tensor) -> Tensor:
        """``(B, 1, H, W)`` shifted and rotated at random, each sample by its own draw."""
        height, width = image.shape[2:]
        drawn = 2 * torch.rand(len(image), 3) - 1
        turn, (x, y) = MAX_TURN * drawn[:, 0], (2 * self.options.misalign * drawn[:, 1:]).unbind(1)
        # normalised coordinates run from -1 to 1 over either edge: without the ratio of the edges a rotation would shear
        rows = [
            torch.stack([turn.cos(), -turn.sin() * height / width, x / width], 1),
            torch.stack([turn.sin() * width / height, turn.cos(), y / height], 1),
        ]
        return warp(image, torch.stack(rows, dim=1).to(image.device))

    # --- decoding

    def decode(self, latents: Sequence[Tensor], present: Sequence[Tensor], targets: Sequence[str]) -> dict[str, Tensor]:
        """g(alpha(Z_1, ..., Z_n)) of every target: ``(B, 1, H, W)`` float32."""
        if self.options.fusion != "output-mean":
            fused = fuse(latents, present, self.options.fusion)
            return {name: self.decoders[key(name)](fused) for name in targets}
        single = [{name: self.decoders[key(name)](z) for name in targets} for z in latents]
        return {name: fuse([images[name] for images in single], present, "mean") for name in targets}

    # --- training

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """One step on c1 + c2 + c3 (Eq. 7). A sample that lacks a target has no part in that target's costs."""
        options = self.options
        sources = [name for name in self.sources if name in batch.images]
        latents = self.encode(batch, sources)
        device = latents[0].device
        given = self._given(batch, sources)
        asked = {name: flag for name in self.learning if bool((flag := self.asked(batch, name).to(device)).any())}
        truths = [batch.centre(name) for name in asked]

        def error(images: Mapping[str, Tensor], there: Tensor) -> Tensor:
            return error_of([images[name] for name in asked], truths, [there & flag for flag in asked.values()], options.error)

        costs: dict[str, Tensor] = {}
        if options.c1 and asked:
            # Eq. 2: the sum over sources of the mean over targets
            alone = [
                (self.decode([z], [torch.ones_like(flag)], tuple(asked)), flag) for z, flag in zip(latents, given, strict=True)
            ]
            costs["c1"] = torch.stack([error(images, flag) for images, flag in alone]).sum()
        if options.c2 and len(latents) > 1:
            costs["c2"] = disagreement(latents, given)
        if options.c3 and asked:
            costs["c3"] = error(self.decode(latents, given, tuple(asked)), torch.stack(given).any(dim=0))
        weights = {"c1": options.c1, "c2": options.c2, "c3": options.c3}
        loss = torch.stack([weights[name] * cost for name, cost in costs.items()]).sum() if costs else latents[0].new_zeros(())
        if loss.requires_grad:  # not where all that a batch could teach is frozen
            update("G", loss)
        return {name: cost.detach() for name, cost in costs.items()}

    # --- prediction

    def forward(self, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Output]:
        """Predict targets from whatever sources the batch gives."""
        sources, targets = check_wanted(self, batch, wanted)
        images = self.decode(self.encode(batch, sources), self._given(batch, sources), targets)
        return {name: Output(image) for name, image in images.items()}

    def _given(self, batch: Batch, sources: Sequence[str]) -> list[Tensor]:
        """Flags ``(B,)`` of the samples that have each source, beside its image."""
        return [batch.given(name).to(batch.images[name].device) for name in sources]

    def check_map(self, name: str) -> None:
        """Only the maximum takes one source before the others.

        Raises:
            UsageError: this run cannot give the map.
        """
        super().check_map(name)
        if self.options.fusion != "max":
            raise UsageError(f"this run of milr fuses by {self.options.fusion}, which takes no source before others.")

    def map(self, batch: Batch, name: str) -> dict[str, Tensor]:
        """``fusion`` (Fig. 7): for each source the share of latent channels that max fusion takes from it, ``(B, 1, H, W)``."""
        self.check_map(name)
        sources, _ = check_wanted(self, batch, None)
        there = torch.stack(self._given(batch, sources))[:, :, None, None, None]
        winner = torch.stack(self.encode(batch, sources)).float().masked_fill(~there, -math.inf).argmax(dim=0)
        return {f"fusion-{source}": (winner == index).float().mean(dim=1, keepdim=True) for index, source in enumerate(sources)}
