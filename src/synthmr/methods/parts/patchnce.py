"""Patchwise contrastive learning (PatchNCE): a generated patch must resemble the source patch at its place more than any other.

Park, Efros, Zhang, Zhu, Contrastive Learning for Unpaired Image-to-Image Translation, ECCV 2020, Section 3; Eq. 3-4 of MAF-Net.
Features of both images come from the generator's own encoder; a small network a layer maps them to unit vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synthmr.errors import UsageError
from synthmr.methods.parts.resnet import FIRST_BLOCK

#: CUT's layers of a ResNet encoder: padded image, both downsampling convolutions, first and fifth residual block
LAYERS = (0, 4, 8, 12, 16)


class PatchHeads(nn.ModuleList):
    """H: a two-layer perceptron for each layer of the encoder.

    Args:
        widths: channels of the layers' maps.
        hidden: length of the vectors that come out.
    """

    def __init__(self, widths: Sequence[int], hidden: int = 256) -> None:
        super().__init__(
            nn.Sequential(nn.Linear(width, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, hidden)) for width in widths
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0.0, 0.02 if module.in_features > 8 else 0.2)
                nn.init.zeros_(module.bias)

    def vectors(self, features: Sequence[Tensor], places: Sequence[Tensor]) -> list[Tensor]:
        """Maps ``(B, C, H, W)`` at places ``(B, S)`` of their H*W -> unit vectors ``(B, S, hidden)`` float32."""
        found = []
        for head, maps, at in zip(self, features, places, strict=True):
            picked = torch.take_along_dim(maps.flatten(2).transpose(1, 2), at[..., None], dim=1)
            found.append(F.normalize(head(picked).float(), dim=2))
        return found


def draw_places(features: Sequence[Tensor], count: int, within: Tensor | None = None) -> list[Tensor]:
    """At most ``count`` different positions in the maps ``(B, C, H, W)`` of each layer, drawn by torch's generator on the CPU.

    Args:
        features: the maps.
        count: how many.
        within: ``(B, 1, H0, W0)`` bool: where to draw before anywhere else, each sample on its own; None: anywhere, all alike.

    Returns:
        ``(B, S)`` of every layer.
    """
    found = []
    drawn = None if within is None else within.float().cpu()
    for maps in features:
        pixels, size = maps.shape[2] * maps.shape[3], tuple(maps.shape[2:])
        if drawn is None:
            found.append(torch.randperm(pixels)[:count].expand(len(maps), -1).to(maps.device))
            continue
        # a map that is larger than the image is the padded image: the padding mirrors, and is no place of the brain's own
        rows, columns = (max(0, (now - before) // 2) for now, before in zip(size, drawn.shape[2:], strict=True))
        inside = F.interpolate(F.pad(drawn, (columns, columns, rows, rows)), size=size).flatten(1) > 0
        # numbers from 0 to 1 outside and from 1 to 2 inside, the largest first
        order = torch.rand(inside.shape) + inside
        found.append(order.topk(min(count, pixels), dim=1).indices.to(maps.device))
    return found


def nce(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """L_nce, MAF-Net Eq. 4: cross-entropy of finding each query's own key among those of its image.

    Args:
        queries: ``(B, S, K)`` unit vectors of the generated image.
        keys: ``(B, S, K)`` of the source at the same places; the other places are the negatives. No gradient goes here.
        temperature: tau.

    Returns:
        A scalar: the mean over places and samples.
    """
    with torch.autocast(queries.device.type, enabled=False):  # it would multiply in bf16 whatever the inputs
        similar = queries.float() @ keys.float().detach().transpose(1, 2) / temperature
    own = torch.arange(similar.shape[1], device=similar.device).expand(similar.shape[0], -1)
    return F.cross_entropy(similar.flatten(0, 1), own.flatten())


def patch_nce(
    heads: PatchHeads,
    generated: Sequence[Tensor],
    source: Sequence[Tensor],
    count: int,
    temperature: float,
    within: Tensor | None = None,
) -> Tensor:
    """L_PatchNCE, MAF-Net Eq. 3, as a mean over layers: maps of the generated image against those of the source.

    ``within`` as for `draw_places`.
    """
    places = draw_places(source, count, within)
    queries = heads.vectors(generated, places)
    with torch.no_grad():
        keys = heads.vectors(source, places)
    return torch.stack([nce(q, k, temperature) for q, k in zip(queries, keys, strict=True)]).mean()


def check_layers(layers: Sequence[int], blocks: int, key: str) -> None:
    """Check that an encoder with ``blocks`` residual blocks has the layers.

    Raises:
        UsageError: it has not, or there is none, or one is named twice.
    """
    last = FIRST_BLOCK + blocks - 1
    if not layers or len(set(layers)) < len(layers) or min(layers) < 0 or max(layers) > last:
        raise UsageError(
            f"options.layers={','.join(map(str, layers))}: name different layers of the encoder, 0 to {last} with {key}={blocks}."
        )
