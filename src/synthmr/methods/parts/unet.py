"""The plain U-Net: poolings and convolutions down, upsampling and convolutions up, each level joined to its like on the way down.

O. Ronneberger, P. Fischer, T. Brox, MICCAI 2015, doi 10.1007/978-3-319-24574-4_28, in two or three dimensions, with convolutions
that keep the size, a normalisation after each and a leaky ReLU. Parameters have the names and shapes, and start with the numbers,
of MONAI's `BasicUNet`: weights saved by either load into the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

SLOPE = 0.1  # of the leaky ReLU
#: dimensions -> convolution, transposed convolution, pooling, interpolation
LAYERS: Mapping[int, tuple[type[nn.Module], type[nn.Module], type[nn.Module], str]] = {
    2: (nn.Conv2d, nn.ConvTranspose2d, nn.MaxPool2d, "bilinear"),
    3: (nn.Conv3d, nn.ConvTranspose3d, nn.MaxPool3d, "trilinear"),
}
#: norm -> dimensions -> layer
NORMS: Mapping[str, Mapping[int, type[nn.Module]]] = {
    "instance": {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d},
    "batch": {2: nn.BatchNorm2d, 3: nn.BatchNorm3d},
}
UPSAMPLINGS = ("deconv", "bilinear")


def convolution(dims: int, inputs: int, outputs: int, norm: str) -> nn.Sequential:
    """Convolution over 3 voxels, normalisation, leaky ReLU: ``(B, inputs, *S) -> (B, outputs, *S)``."""
    block = nn.Sequential()
    block.add_module("conv", LAYERS[dims][0](inputs, outputs, 3, padding=1))
    after = nn.Sequential()
    after.add_module("N", NORMS[norm][dims](outputs, affine=True))
    after.add_module("A", nn.LeakyReLU(SLOPE, inplace=True))
    block.add_module("adn", after)
    return block


def two_convolutions(dims: int, inputs: int, outputs: int, norm: str) -> nn.Sequential:
    """Two of `convolution`."""
    block = nn.Sequential()
    block.add_module("conv_0", convolution(dims, inputs, outputs, norm))
    block.add_module("conv_1", convolution(dims, outputs, outputs, norm))
    return block


def down(dims: int, inputs: int, outputs: int, norm: str) -> nn.Sequential:
    """Pooling to half the size and two convolutions: ``(B, inputs, *S) -> (B, outputs, *S / 2)``."""
    block = nn.Sequential()
    block.add_module("max_pooling", LAYERS[dims][2](2))
    block.add_module("convs", two_convolutions(dims, inputs, outputs, norm))
    return block


def upsampling(dims: int, inputs: int, outputs: int, kind: str) -> nn.Sequential:
    """Twice the size: ``(B, inputs, *S) -> (B, outputs, 2 * S)``, by a transposed convolution or by interpolation."""
    conv, transposed, _, mode = LAYERS[dims]
    block = nn.Sequential()
    if kind == "deconv":
        block.add_module("deconv", transposed(inputs, outputs, 2, stride=2))
        return block
    if inputs != outputs:
        block.add_module("preconv", conv(inputs, outputs, 1))
    block.add_module("upsample_non_trainable", nn.Upsample(scale_factor=2.0, mode=mode, align_corners=True))
    return block


class Join(nn.Module):
    """The level below upsampled, beside the level's own maps, and two convolutions."""

    def __init__(self, dims: int, below: int, beside: int, brought: int, outputs: int, norm: str, upsample: str) -> None:
        super().__init__()
        self.upsample = upsampling(dims, below, brought, upsample)
        self.convs = two_convolutions(dims, beside + brought, outputs, norm)

    def forward(self, below: Tensor, beside: Tensor) -> Tensor:
        """``(B, below, *S / 2)`` and ``(B, beside, *S)`` -> ``(B, outputs, *S)``."""
        out: Tensor = self.convs(torch.cat([beside, self.upsample(below)], dim=1))
        return out


class PlainUNet(nn.Module):
    """A U-Net: ``(B, inputs, *S) -> (B, outputs, *S)``; every edge of ``S`` is a multiple of ``2 ** poolings``.

    Args:
        dims: 2 or 3, the length of ``S``.
        inputs: channels that go in.
        outputs: channels that come out, of any value.
        widths: channels of each level from the full size down, and last those at the full size on the way up; a network of
            n widths has n - 2 poolings.
        norm: instance (a map's own statistics) or batch (running statistics in prediction).
        upsample: deconv (transposed convolutions) or bilinear (in three dimensions trilinear).
    """

    def __init__(
        self, dims: int, inputs: int, outputs: int, widths: Sequence[int], norm: str = "instance", upsample: str = "deconv"
    ) -> None:
        super().__init__()
        *levels, last = widths
        self.poolings = len(levels) - 1
        self.conv_0 = two_convolutions(dims, inputs, levels[0], norm)
        for level, (above, own) in enumerate(pairwise(levels), start=1):
            self.add_module(f"down_{level}", down(dims, above, own, norm))
        for level in range(self.poolings, 0, -1):
            below, beside = levels[level], levels[level - 1]
            top = level == 1
            # the uppermost brings all its channels, the others half
            join = Join(dims, below, beside, below if top else below // 2, last if top else beside, norm, upsample)
            self.add_module(f"upcat_{level}", join)
        self.final_conv = LAYERS[dims][0](last, outputs, 1)

    def forward(self, images: Tensor) -> Tensor:
        """``(B, inputs, *S) -> (B, outputs, *S)``."""
        maps: list[Tensor] = [self.conv_0(images)]
        for level in range(1, self.poolings + 1):
            maps.append(self.get_submodule(f"down_{level}")(maps[-1]))
        x = maps.pop()
        for level in range(self.poolings, 0, -1):
            x = self.get_submodule(f"upcat_{level}")(x, maps.pop())
        out: Tensor = self.final_conv(x)
        return out
