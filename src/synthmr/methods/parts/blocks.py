"""Layers that several methods use unchanged."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

Activation = Callable[[], nn.Module]


def leaky() -> nn.Module:
    """Leaky ReLU with slope 0.2."""
    return nn.LeakyReLU(0.2, inplace=True)


def relu() -> nn.Module:
    """ReLU."""
    return nn.ReLU(inplace=True)


def make_norm(kind: str, channels: int) -> nn.Module:
    """A normalisation with learnt scale and offset: ``batch`` or ``instance``; both have the same number of parameters."""
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.InstanceNorm2d(channels, affine=True)


def conv_block(inputs: int, outputs: int, activation: Activation, norm: str = "batch") -> nn.Sequential:
    """3x3 convolution that keeps the size, normalisation, activation: ``(B, inputs, H, W) -> (B, outputs, H, W)``."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), make_norm(norm, outputs), activation())


def init_normal(module: nn.Module) -> None:
    """DCGAN's start, for ``net.apply``: convolutions N(0, 0.02), biases 0, normalisation scales N(1, 0.02), offsets 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d) and module.affine:
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
