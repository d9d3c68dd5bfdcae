"""The residual generator of image translation (Johnson et al. 2016), as CycleGAN and CUT use it, in two halves.

7x7 convolution, two downsamplings, residual blocks, two upsamplings, 7x7 convolution, tanh; instance norm throughout. Down- and
upsampling are those of CUT: a 3x3 convolution of stride 1 and a binomial low-pass filter (Zhang 2019), which leave no
checkerboard. The encoder is one `nn.Sequential` whose positions are CUT's layer numbers: 0 is the padded image, 4 and 8 the first
and second downsampling convolution, 12 the first residual block, 16 the fifth.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synthmr.methods.parts.blocks import init_normal

#: position of the first residual block in the encoder
FIRST_BLOCK = 12
#: how near to -1 and 1 a skip connection alone can bring the output, where atanh would be infinite
SKIP_REACH = 0.98
#: smallest height and width: at a quarter of it instance norm and reflection still have pixels to work with
LEAST = 16


class Halve(nn.Module):
    """Binomial low-pass filter (1 2 1)/4 in both directions, then every second pixel: ``(B, C, H, W) -> (B, C, H/2, W/2)``."""

    def forward(self, x: Tensor) -> Tensor:
        # rows, then columns; slices are several times as fast as pooling or a depth-wise convolution, backwards too
        x = F.pad(x, (1, 1, 1, 1), mode="reflect")
        x = torch.lerp(x[:, :, 1:-1:2], 0.5 * (x[:, :, :-2:2] + x[:, :, 2::2]), 0.5)
        return torch.lerp(x[..., 1:-1:2], 0.5 * (x[..., :-2:2] + x[..., 2::2]), 0.5)


class Double(nn.Module):
    """Bilinear interpolation to twice the size, the transpose of a (1 3 3 1) filter: ``(B, C, H, W) -> (B, C, 2H, 2W)``."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class ResidualBlock(nn.Module):
    """``x + IN(conv(ReLU(IN(conv(x)))))`` with 3x3 convolutions and reflection at the border."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


class ResnetEncoder(nn.Sequential):
    """First half: ``(B, inputs, H, W) -> (B, 4 filters, H/4, W/4)``; H and W are multiples of 4.

    Args:
        inputs: channels that go in.
        filters: width of the first layer.
        blocks: residual blocks at the end.
    """

    def __init__(self, inputs: int, filters: int, blocks: int) -> None:
        one, two, four = filters, 2 * filters, 4 * filters
        super().__init__(
            nn.ReflectionPad2d(3),
            nn.Conv2d(inputs, one, 7),
            nn.InstanceNorm2d(one),
            nn.ReLU(inplace=True),
            nn.Conv2d(one, two, 3, padding=1),
            nn.InstanceNorm2d(two),
            nn.ReLU(inplace=True),
            Halve(),
            nn.Conv2d(two, four, 3, padding=1),
            nn.InstanceNorm2d(four),
            nn.ReLU(inplace=True),
            Halve(),
            *(ResidualBlock(four) for _ in range(blocks)),
        )
        self.apply(init_normal)

    def features(self, image: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """The maps that come out at ``layers``, in their order; nothing after the last one is computed."""
        found = {}
        for position, module in enumerate(self):
            # an activation in place would change the map of the layer before it
            inplace = isinstance(module, nn.ReLU) and position - 1 in layers
            image = F.relu(image) if inplace else module(image)
            if position in layers:
                found[position] = image
            if position == max(layers):
                break
        return [found[layer] for layer in layers]

    @staticmethod
    def widths(inputs: int, filters: int, layers: Sequence[int]) -> list[int]:
        """Channels of the maps at ``layers``."""
        return [inputs if at < 1 else filters if at < 4 else 2 * filters if at < 8 else 4 * filters for at in layers]


class ResnetDecoder(nn.Sequential):
    """Second half: ``(B, 4 filters, H/4, W/4) -> (B, outputs, H, W)`` in (-1, 1).

    Args:
        outputs: channels that come out.
        filters: width of the last hidden layer.
        blocks: residual blocks at the start.
    """

    def __init__(self, outputs: int, filters: int, blocks: int) -> None:
        one, two, four = filters, 2 * filters, 4 * filters
        super().__init__(
            *(ResidualBlock(four) for _ in range(blocks)),
            Double(),
            nn.Conv2d(four, two, 3, padding=1),
            nn.InstanceNorm2d(two),
            nn.ReLU(inplace=True),
            Double(),
            nn.Conv2d(two, one, 3, padding=1),
            nn.InstanceNorm2d(one),
            nn.ReLU(inplace=True),
            nn.ReflectionPad2d(3),
            nn.Conv2d(one, outputs, 7),
            nn.Tanh(),
        )
        self.apply(init_normal)

    def start_small(self) -> None:
        """Begin by adding next to nothing to a skip connection."""
        last = self[-2]
        if isinstance(last, nn.Conv2d):
            nn.init.normal_(last.weight, 0.0, 0.002)

    def beside(self, x: Tensor, added: Tensor) -> Tensor:
        """The same with ``added`` (B, outputs, H, W) joined before the tanh."""
        for module in list(self)[:-1]:
            x = module(x)
        return torch.tanh(x + added)


class Skip(nn.Module):
    """A learnt mix of the channels, at first their mean, on the scale before a tanh: ``(B, inputs, H, W) -> (B, outputs, H, W)``.

    Ours, in no paper: a generator that adds to its input need not learn first to let an image through, for which small budgets
    of training without pairs are too short (it stays blurred for some hundred steps).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(inputs, outputs, 1, bias=False)
        nn.init.constant_(self.mix.weight, 1 / inputs)

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.mix(torch.atanh(SKIP_REACH * image.clamp(-1, 1)))
        return out
