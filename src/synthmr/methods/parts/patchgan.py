"""The PatchGAN discriminator of pix2pix (Isola et al. 2017): one score for every patch of its input.

4x4 convolutions, three of stride 2 and two of stride 1, 64-128-256-512-1 filters: each score sees 70x70 pixels.
"""

from __future__ import annotations

from torch import Tensor, nn

from synthmr.errors import UsageError
from synthmr.methods.parts.blocks import init_normal, leaky

#: smallest height and width that leave it more than one position to normalise and one score to give
LEAST = 32


class PatchGAN(nn.Sequential):
    """``(B, inputs, H, W) -> (B, 1, H/8 - 2, W/8 - 2)`` raw scores.

    Args:
        inputs: channels: the judged image, and with a conditional discriminator the sources too.
        filters: width of the first layer.
        norm: batch or instance; none in the first layer.
    """

    def __init__(self, inputs: int, filters: int = 64, norm: str = "batch") -> None:
        layers: list[nn.Module] = [nn.Conv2d(inputs, filters, 4, stride=2, padding=1), leaky()]
        width = filters
        for stride in (2, 2, 1):
            after: nn.Module = nn.BatchNorm2d(2 * width) if norm == "batch" else nn.InstanceNorm2d(2 * width)
            layers += [nn.Conv2d(width, 2 * width, 4, stride=stride, padding=1), after, leaky()]
            width *= 2
        super().__init__(*layers, nn.Conv2d(width, 1, 4, padding=1))
        self.apply(init_normal)


def check_judged(image: Tensor, name: str, scale: int = 1) -> None:
    """Check that a PatchGAN can judge images ``(B, C, H, W)`` of this size, shrunk by ``scale``.

    Raises:
        UsageError: it cannot.
    """
    height, width = image.shape[2:]
    least = scale * LEAST
    if min(height, width) < least:
        finer = ", or set options.discriminator_scale=1" if scale > 1 and min(height, width) >= LEAST else ""
        raise UsageError(
            f"{name}'s discriminator needs images of {least}x{least} or more and was given {height}x{width};"
            f" enlarge sample.patch or sample.crop{finer}."
        )
