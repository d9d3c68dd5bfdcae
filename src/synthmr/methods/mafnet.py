"""MAF-Net: unpaired synthesis of contrast-enhanced T1 with modality-level attention, learnt jointly with tumour segmentation.

Z. Huang, L. Lin, P. Cheng, L. Peng, X. Tang, Multi-modal Brain Tumor Segmentation via Missing Modality Synthesis and
Modality-Level Attention Fusion, 2022, arXiv:2203.04586. The targets come from other subjects than the sources, always; the
sources of a sample belong together.

One ResNet encoder a source (Section III, "Unpaired Missing Modality Synthesis"), a modality-level attention block that weighs
their features place by place (MAF-Block, Fig. 1 upper right), one decoder. The objective is CUT's, summed over encoders (Eq. 1-4):
each generated patch must be told from the others by the source patch at its position, for every source in the features of its
own encoder, and real targets must come out as they went in. The result joins the sources as input of a U-Net that segments
the tumour (Eq. 5), first not at all and then jointly (Eq. 6).

Where the paper is silent or contradicts itself:
- Eq. 2 prints the log objective and names CUTGAN as its baseline, which uses least squares; so do we (``gan=log`` is Eq. 2).
- Nine residual blocks and layers 0, 4, 8, 12, 16: layer 16 is the fifth block, and CUT's encoder ends at the last compared layer.
  So five blocks stand in each encoder and the other four in the decoder.
- The attention maps are "at the modality level" and sum to one over the modalities "at a patch level": one map a source.
- The identity term compares a target with what the generator makes of it. The target then stands in for every source, and the term
  is the mean over encoders.
- "lambda_X = 1 and lambda_Y = 1 when we jointly train the consistency loss; otherwise lambda_X = 10 and lambda_Y = 0": the former.
- Eq. 5 is a cross-entropy whose symbols stand in each other's place: the mean over pixels of -log of the true class's probability.
- The classes are those of `synthmr.labels`; which labels the data use is settled once, from all training cases (``labels=auto``).
- Eq. 6 weighs synthesis by 1e-3 for the generator; the discriminator's own objective needs no weight. The heads H learn with G.
- "10 epochs, then 100 more": the synthesis is trained alone for that share of the run (``alone``).
- PSNR says nothing of the segmentation, so in the joint stage the last weights are kept, not those of the best PSNR.
- ``skip`` is ours and off by default: see `parts.resnet.Skip`. So are ``brain``, ``discriminator_steps`` and
  ``discriminator_scale``: see `parts.unpaired`.
- No schedule is given; constant. Slices with tumour are drawn where every training case has a segmentation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synthmr.batch import Batch, Output
from synthmr.errors import DataError, UsageError, did_you_mean
from synthmr.labels import AUTO, CLASSES, Convention, Seen, conventions, decide, get, to_classes
from synthmr.methods.contract import NeuralMethod, Spec, Update, check_wanted
from synthmr.methods.parts.blocks import init_normal
from synthmr.methods.parts.convention import NO_LABELS, code_of, convention_from, is_gone, named_labels
from synthmr.methods.parts.gan import OBJECTIVES
from synthmr.methods.parts.patchgan import PatchGAN, check_judged
from synthmr.methods.parts.patchnce import LAYERS, PatchHeads, check_layers, patch_nce
from synthmr.methods.parts.resnet import ResnetDecoder, ResnetEncoder, Skip
from synthmr.methods.parts.unet import PlainUNet
from synthmr.methods.parts.unpaired import on_background, play
from synthmr.methods.presets import UNPAIRED

FUSIONS = ("maf", "mean", "single")
JOINT = ("auto", "true", "false")
SEGMENTER_INPUTS = ("synthetic", "sources")

# --- configuration ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MafNetOptions:
    """Options of `mafnet`.

    Attributes:
        filters: width of the first layer of encoders and decoder.
        encoder_blocks: residual blocks of each encoder.
        decoder_blocks: residual blocks of the decoder.
        discriminator_filters: width of the discriminator's first layer.
        fusion: maf (attention), mean ("MAF-GAN" without its block) or single (CUT's one encoder over stacked sources); Table I.
        joint: true (Eq. 6), false (the U-Net learns on synthetic images that do not learn from it; Table I) or auto (true where
            there are segmentations, synthesis alone where there are none).
        segmenter: train the tumour U-Net, where there are segmentations.
        segmenter_input: synthetic (sources and synthetic target) or sources (the U-Net without T1ce of Table I).
        segmenter_filters: width of the U-Net's first layer.
        segmenter_rate: its learning rate as a factor of the generator's; a quarter in the paper.
        labels: convention of the segmentation's labels: a name of `synthmr.labels.conventions`, your own YAML file, or auto: what
            labels and names of all training cases tell (`synthmr.labels.decide`).
        alone: share of the training in which the synthesis learns alone.
        synthesis_weight: lambda of Eq. 6.
        gan: lsgan or log.
        nce_weight: lambda_X of Eq. 1.
        identity_weight: lambda_Y of Eq. 1.
        layers: of the encoders, whose features are compared.
        patches: places compared in each image and layer.
        hidden: length of the vectors that are compared.
        temperature: tau of Eq. 4.
        discriminator_rate: the discriminator's learning rate as a factor of the generator's; a half in the paper.
        discriminator_steps: its updates on each batch; one in the paper.
        discriminator_scale: it judges images shrunk by this factor; 1 in the paper.
        brain: compare places of the brain before any others, and judge a generated image with the empty background that the
            result will have; not in the paper.
        skip: the generator adds what it draws to its input; not in the paper.
    """

    filters: int = 64
    encoder_blocks: int = 5
    decoder_blocks: int = 4
    discriminator_filters: int = 64
    fusion: str = "maf"
    joint: str = "auto"
    segmenter: bool = True
    segmenter_input: str = "synthetic"
    segmenter_filters: int = 32
    segmenter_rate: float = 0.25
    labels: str = "auto"
    alone: float = 10 / 110
    synthesis_weight: float = 1e-3
    gan: str = "lsgan"
    nce_weight: float = 1.0
    identity_weight: float = 1.0
    layers: tuple[int, ...] = LAYERS
    patches: int = 256
    hidden: int = 256
    temperature: float = 0.07
    discriminator_rate: float = 0.5
    discriminator_steps: int = 1
    discriminator_scale: int = 1
    brain: bool = False
    skip: bool = False

    def __post_init__(self) -> None:
        words: Mapping[str, Sequence[str]] = {
            "fusion": FUSIONS,
            "joint": JOINT,
            "segmenter_input": SEGMENTER_INPUTS,
            "gan": OBJECTIVES,
        }
        for key, allowed in words.items():
            if getattr(self, key) not in allowed:
                raise UsageError(f"options.{key}={getattr(self, key)!r}: {did_you_mean(str(getattr(self, key)), allowed)}")
        if self.labels != "auto" and not is_gone(self.labels):
            named_labels(self.labels)
        counts = ("filters", "encoder_blocks", "discriminator_filters", "segmenter_filters", "hidden")
        for key in (*counts, "discriminator_steps", "discriminator_scale"):
            if getattr(self, key) < 1:
                raise UsageError(f"options.{key}={getattr(self, key)}: at least 1.")
        for key, fits, allowed in (
            ("decoder_blocks", self.decoder_blocks >= 0, "at least 0"),
            ("patches", self.patches >= 2, "at least 2"),
            ("temperature", 0 < self.temperature < math.inf, "above 0 and finite"),
            ("alone", 0 <= self.alone <= 1, "from 0 to 1"),
        ):
            if not fits:
                raise UsageError(f"options.{key}={getattr(self, key):g}: {allowed}.")
        check_layers(self.layers, self.encoder_blocks, "options.encoder_blocks")
        for key in ("segmenter_rate", "synthesis_weight", "nce_weight", "identity_weight", "discriminator_rate"):
            if not 0 <= getattr(self, key) < math.inf:
                raise UsageError(f"options.{key}={getattr(self, key):g}: at least 0 and finite.")
        if self.joint == "true" and (not self.segmenter or self.segmenter_input == "sources"):
            raise UsageError("options.joint=true needs options.segmenter=true and options.segmenter_input=synthetic.")


# --- networks -----------------------------------------------------------------------------------------------------------


class MafBlock(nn.Module):
    """Modality-level attention fusion (Fig. 1): N maps ``(B, C, h, w)`` -> ``(B, C, h, w)`` and attention ``(B, N, h, w)``."""

    def __init__(self, sources: int, channels: int) -> None:
        super().__init__()
        self.attention = nn.Conv2d(sources * channels, sources, 3, padding=1)
        self.reduce = nn.Sequential(nn.Conv2d(sources * channels, channels, 1), nn.LeakyReLU(0.2))
        self.apply(init_normal)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        weights = self.attention(torch.cat(list(maps), dim=1)).float().softmax(dim=1)
        weighted = [each * weights[:, n : n + 1].to(each.dtype) for n, each in enumerate(maps)]
        fused: Tensor = self.reduce(torch.cat(weighted, dim=1))
        return fused, weights


class Generator(nn.Module):
    """G: N encoders, fusion, one decoder; sources ``(B, 1, H, W)`` each -> target ``(B, 1, H, W)`` in (-1, 1)."""

    def __init__(self, sources: int, options: MafNetOptions) -> None:
        super().__init__()
        self.fusion, self.layers = options.fusion, options.layers
        streams, inputs = (1, sources) if options.fusion == "single" else (sources, 1)
        self.encoders = nn.ModuleList(ResnetEncoder(inputs, options.filters, options.encoder_blocks) for _ in range(streams))
        self.maf = MafBlock(sources, 4 * options.filters) if options.fusion == "maf" else None
        self.decoder = ResnetDecoder(1, options.filters, options.decoder_blocks)
        self.skip = Skip(sources, 1) if options.skip else None
        if options.skip:
            self.decoder.start_small()
        self.inputs = inputs

    @property
    def each(self) -> Iterable[ResnetEncoder]:
        """The encoders, in the order of the sources."""
        return cast(Iterable[ResnetEncoder], self.encoders)

    def split(self, images: Sequence[Tensor]) -> list[Tensor]:
        """What each encoder reads."""
        return [torch.cat(list(images), dim=1)] if self.fusion == "single" else list(images)

    def encode(self, images: Sequence[Tensor]) -> tuple[list[Tensor], list[list[Tensor]]]:
        """F_n of every encoder, and its maps at the compared layers."""
        deepest, compared = [], []
        for encoder, image in zip(self.each, self.split(images), strict=True):
            last = len(encoder) - 1
            wanted = tuple(dict.fromkeys((*self.layers, last)))
            maps = dict(zip(wanted, encoder.features(image, wanted), strict=True))
            deepest.append(maps[last])
            compared.append([maps[at] for at in self.layers])
        return deepest, compared

    def fuse(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """F_fuse and, with ``maf``, the attention."""
        if self.maf is not None:
            fused, attention = self.maf(maps)
            return fused, attention
        return torch.stack(list(maps)).mean(dim=0), None

    def forward(self, images: Sequence[Tensor]) -> tuple[Tensor, list[list[Tensor]]]:
        deepest, compared = self.encode(images)
        fused, _ = self.fuse(deepest)
        if self.skip is None:
            return self.decoder(fused), compared
        return self.decoder.beside(fused, self.skip(torch.cat(list(images), dim=1))), compared

    def features(self, image: Tensor) -> list[list[Tensor]]:
        """Maps of one image, ``(B, 1, H, W)``, in every encoder; it stands in for all sources."""
        return [encoder.features(image.expand(-1, self.inputs, -1, -1), self.layers) for encoder in self.each]


def tumour_unet(inputs: int, filters: int) -> nn.Module:
    """The U-Net of Eq. 5: ``(B, inputs, H, W) -> (B, 4, H, W)`` scores."""
    widths = (filters, 2 * filters, 4 * filters, 8 * filters, 8 * filters, filters)
    return PlainUNet(2, inputs, len(CLASSES), widths)


# --- the method ---------------------------------------------------------------------------------------------------------


class MafNet(NeuralMethod):
    """MAF-Net; see the top of this file."""

    spec: ClassVar[Spec] = Spec(
        name="mafnet",
        title="MAF-Net: unpaired contrastive synthesis, modality attention, joint tumour segmentation",
        paper="Huang et al., arXiv 2022",
        doi="10.48550/arXiv.2203.04586",
        supervision="unpaired",
        sources=(1, 8),
        targets=(1, 1),
        divisor=16,
        output_range=(-1.0, 1.0),
        maps=("attention", "segmentation"),
    )
    Options: ClassVar[type] = MafNetOptions
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "sample.plane": "axial",
            "sample.crop": (224, 224),
            "sample.labelled": "auto",
            "sample.min_brain": 0.0,
            "sample.batch": 4,
            "train.epochs": 110,
            "train.brightness": False,
            "train.lr": 4e-4,
            "train.beta1": 0.5,
            "train.schedule": "constant",
        },
        "fast": {
            "options.filters": 12,
            # early fusion: with two sources a step takes eight passes through an encoder and two through the decoder
            "options.encoder_blocks": 2,
            "options.decoder_blocks": 4,
            "options.layers": (0, 4, 8, 12, 13),
            "options.discriminator_filters": 16,
            "options.discriminator_rate": 1.0,
            "options.discriminator_steps": 3,
            "options.discriminator_scale": 2,
            "options.brain": True,
            "options.segmenter_filters": 16,
            "options.segmenter_rate": 2.5,
            "options.alone": 0.3,
            "options.synthesis_weight": 1.0,
            "options.hidden": 64,
            "options.patches": 128,
            "sample.batch": 2,
            "sample.min_brain": 0.2,
            **UNPAIRED,
        },
    }

    #: whether the segmentation is trained; a buffer, so that it is saved with the weights
    segments: Tensor
    #: what the training data's labels mean, as `code_of` says it, or `NO_LABELS`
    convention: Tensor

    def __init__(self, options: MafNetOptions, sources: Sequence[str], targets: Sequence[str]) -> None:
        super().__init__(options, sources, targets)
        self.generator = Generator(len(self.sources), options)
        width = 1 if options.fusion != "single" else len(self.sources)
        widths = ResnetEncoder.widths(width, options.filters, options.layers)
        heads = [PatchHeads(widths, options.hidden) for _ in self.generator.encoders]
        self.heads = nn.ModuleList(heads)
        self.discriminator = PatchGAN(1, options.discriminator_filters, "instance")
        channels = len(self.sources) + (options.segmenter_input == "synthetic")
        self.segmenter = tumour_unet(channels, options.segmenter_filters) if options.segmenter else None
        self.register_buffer("segments", torch.tensor(False))
        self.register_buffer("convention", torch.tensor(self._first_code()))

    def _first_code(self) -> int:
        """The convention before any data or weights were seen."""
        name = self.options.labels
        return code_of(named_labels("brats2017" if name == "auto" or is_gone(name) else name))

    def check_data(self, labels: Iterable[int] | None) -> list[str]:
        """Fall back to synthesis alone where there are no tumour segmentations, and say so.

        Raises:
            UsageError: ``joint=true`` without tumour segmentations, or labels that are not of the convention that was named.
        """
        options = self.options
        if not options.segmenter:
            return []
        problem = "not every training case has a segmentation"
        if labels is not None:
            labels = labels if isinstance(labels, Seen) else sorted(labels)
            try:
                named = AUTO if options.labels == AUTO else named_labels(options.labels)
                meaning = decide(labels, named=named)
            except DataError as error:
                raise UsageError(f"options.labels={options.labels}, but {error}") from None
            found = meaning.convention
            if found is not None and found.is_tumour and found.classes(np.asarray([*labels])).any():
                self.convention.fill_(code_of(found))
                return []
            problem = "no training case has a tumour label"
            if found is None:
                problem = f"{meaning.doubt} (name theirs with options.labels)"
            elif meaning.present and not found.is_tumour:
                problem = f"{meaning.why}, which is no tumour"
        self.convention.fill_(NO_LABELS)
        if options.joint == "true":
            raise UsageError(f"options.joint=true, but {problem}; options.joint=auto trains the synthesis alone.")
        return [f"{problem}: mafnet trains its synthesis alone, without the tumour U-Net."]

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """G with the heads H, D, and S, the tumour U-Net."""
        groups = {"G": [*self.generator.parameters(), *self.heads.parameters()], "D": list(self.discriminator.parameters())}
        return groups if self.segmenter is None else {**groups, "S": list(self.segmenter.parameters())}

    def optimizer_overrides(self) -> dict[str, dict[str, Any]]:
        """Learning rates of Section IV: l_G = l_H = 4e-4, l_D = 2e-4, l_seg = 1e-4."""
        own = {"D": {"rate": self.options.discriminator_rate, "betas": (0.5, 0.999), "weight_decay": 0.0}}
        return own if self.segmenter is None else {**own, "S": {"rate": self.options.segmenter_rate, "betas": (0.9, 0.999)}}

    @property
    def keeps_last(self) -> bool:
        """In the joint stage the last weights are the ones to keep."""
        return bool(self.segments)

    @property
    def label_convention(self) -> str | Convention:
        """What the training data's labels mean: a name of `synthmr.labels.conventions`, or one's own; auto where there are none."""
        if int(self.convention) == NO_LABELS:
            return "auto"
        found = convention_from(int(self.convention), Path(self.options.labels).stem)
        return found.name if found.name in conventions() and found == get(found.name) else found

    def check_map(self, name: str) -> None:
        """No attention without its block, no segmentation without one to learn from.

        Raises:
            UsageError: this run cannot give the map.
        """
        super().check_map(name)
        if name == "attention" and self.options.fusion != "maf":
            raise UsageError(f"this run of mafnet has no attention (options.fusion={self.options.fusion}).")
        if name == "segmentation" and not bool(self.segments):
            raise UsageError("this run of mafnet was trained without segmentations, so it gives none; train it on cases with them.")

    # --- losses

    def contrast(self, generated: Tensor, compared: Sequence[Sequence[Tensor]], within: Tensor | None = None) -> Tensor:
        """Mean over encoders of L_PatchNCE (Eq. 1, 3): a generated image ``(B, 1, H, W)`` against what it was made from."""
        options = self.options
        losses = [
            patch_nce(heads, maps, source, options.patches, options.temperature, within)
            for heads, maps, source in zip(
                cast(Iterable[PatchHeads], self.heads), self.generator.features(generated), compared, strict=True
            )
        ]
        return torch.stack(losses).mean()

    def segment(self, batch: Batch, synthetic: Tensor) -> Tensor:
        """Scores of the four classes, ``(B, 4, H, W)`` float32, from the sources and, unless left out, the synthetic target.

        Raises:
            UsageError: there is no U-Net, or its deepest layer would have a single pixel to normalise.
        """
        if self.segmenter is None:
            raise UsageError("this run of mafnet has no tumour U-Net (options.segmenter=false).")
        height, width = synthetic.shape[2:]
        if max(height, width) <= self.spec.divisor:
            raise UsageError(f"mafnet's tumour U-Net needs images of more than {height}x{width}; use larger patches, or pad them.")
        inputs = [batch.stack(self.sources)]
        if self.options.segmenter_input == "synthetic":
            inputs.append(synthetic.to(inputs[0].dtype))
        out: Tensor = self.segmenter(torch.cat(inputs, dim=1))
        return out.float()

    # --- training

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """D, then G and H on Eq. 1; after the first stage also S, and with ``joint`` G on Eq. 6.

        Raises:
            UsageError: the images are too small for the discriminator.
        """
        options = self.options
        real = batch.centre(self.targets[0])
        check_judged(real, self.spec.name, options.discriminator_scale)
        fake, compared = self.generator([batch.images[name] for name in self.sources])
        brain, own = (batch.mask, batch.target_brain) if options.brain else (None, None)
        fake, real = on_background(fake, brain), on_background(real, own)
        steps, scale = options.discriminator_steps, options.discriminator_scale
        d_loss, adversarial = play(self.discriminator, real, fake, options.gan, steps, scale, update)

        losses = {"G_gan": adversarial}
        if options.nce_weight:
            losses["G_nce"] = options.nce_weight * self.contrast(fake, compared, brain)
        if options.identity_weight:
            same, maps = self.generator([real] * len(self.sources))
            losses["G_idt"] = options.identity_weight * self.contrast(same, maps, own)
        synthesis = torch.stack(list(losses.values())).sum()
        logs = {"D": d_loss, **{name: loss.detach() for name, loss in losses.items()}}
        alone = self.progress < options.alone or int(self.convention) == NO_LABELS
        if self.segmenter is None or batch.segmentation is None or alone:
            update("G", synthesis)
            return logs

        self.segments.fill_(True)
        joint = options.joint != "false" and options.segmenter_input == "synthetic"
        scores = self.segment(batch, fake if joint else fake.detach())
        loss = F.cross_entropy(scores, to_classes(batch.segmentation, self.label_convention)[:, 0])  # Eq. 5
        if joint:
            update(("G", "S"), options.synthesis_weight * synthesis + loss)  # Eq. 6
        else:
            update("G", synthesis)
            update("S", loss)
        return {**logs, "S": loss.detach()}

    # --- prediction

    def forward(self, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Output]:
        """Predict the target."""
        sources, targets = check_wanted(self, batch, wanted)
        image, _ = self.generator([batch.images[name] for name in sources])
        return {name: Output(image.float()) for name in targets}

    def map(self, batch: Batch, name: str) -> dict[str, Tensor]:
        """``attention``: the weight of every source at every place. ``segmentation``: probabilities of the four classes."""
        self.check_map(name)
        sources, _ = check_wanted(self, batch, None)
        images = [batch.images[each] for each in sources]
        if name == "segmentation":
            brain = batch.mask if self.options.brain else None
            synthetic = on_background(self.generator(images)[0], brain)
            return {name: self.segment(batch, synthetic).softmax(dim=1)}
        _, weights = self.generator.fuse(self.generator.encode(images)[0])
        if weights is None:
            raise UsageError("this run of mafnet has no attention.")
        large = F.interpolate(weights, size=images[0].shape[2:], mode="bilinear", align_corners=False)
        return {f"attention-{source}": large[:, n : n + 1] for n, source in enumerate(sources)}
