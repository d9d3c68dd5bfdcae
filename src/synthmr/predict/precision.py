"""Which number format and memory order a device computes in: bf16 and channels-last where it gains from them.

One place decides for training and inference, so that a run is validated as it will be used.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from synthmr.errors import UsageError, did_you_mean

PRECISIONS = ("auto", "32", "bf16")
SWITCHES = ("auto", "on", "off")
DEVICES = ("auto", "cpu", "cuda", "cuda:N", "mps")

#: axes of a convolution's weights -> channels-last order of slices, and of boxes
ORDERS = {4: torch.channels_last, 5: torch.channels_last_3d}


@dataclass(frozen=True)
class Precision:
    """How to compute on one device.

    Attributes:
        name: 32 or bf16 (autocast; weights stay float32).
        channels_last: images and convolution weights in channels-last memory order.
    """

    name: str
    channels_last: bool

    def autocast(self, device: torch.device | str) -> AbstractContextManager[object]:
        """The context to run a network in."""
        if self.name == "bf16":
            return torch.autocast(torch.device(device).type, torch.bfloat16)
        return nullcontext()

    def place(self, network: nn.Module, device: torch.device | str) -> None:
        """Move a network to the device, in the memory order to compute in; in place."""
        network.to(device)
        if self.channels_last:
            for param in network.parameters():
                if param.dim() in ORDERS:
                    param.data = param.data.contiguous(memory_format=ORDERS[param.dim()])


def has_fast_bf16(device: torch.device | str = "cpu") -> bool:
    """Whether the device has instructions for bf16. Without them it is emulated, and slower than float32."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if kind == "cpu":
        # private names, the only way to ask torch; one that has gone means no
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(bool(getattr(torch.cpu, probe, bool)()) for probe in probes)
    return False


def resolve_precision(precision: str = "auto", channels_last: str = "auto", device: torch.device | str = "cpu") -> Precision:
    """Settle what ``auto`` means on a device.

    Args:
        precision: auto (bf16 where the device has instructions for it), 32 or bf16.
        channels_last: auto, on or off. Auto is on for CPU and CUDA: on a CPU float32 convolutions gain from it too.
        device: that computes.

    Raises:
        UsageError: an unknown word.
    """
    for key, value, allowed in (("precision", precision, PRECISIONS), ("channels_last", channels_last, SWITCHES)):
        if value not in allowed:
            raise UsageError(f"{key}={value!r}: {did_you_mean(str(value), allowed)}")
    device = torch.device(device)
    name = precision if precision != "auto" else ("bf16" if has_fast_bf16(device) else "32")
    last = channels_last == "on" or (channels_last == "auto" and device.type in ("cpu", "cuda"))
    return Precision(name, last)


def best_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_device(word: str = "auto") -> torch.device:
    """The device that a word names, checked before anything is read or prepared.

    Args:
        word: auto (the GPU if there is one, else the CPU), cpu, cuda, cuda:N or mps.

    Raises:
        UsageError: no such word, or no such device here.
    """
    if word == "auto":
        return best_device()
    kind, colon, number = word.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (colon and (kind != "cuda" or not number.isdecimal())):
        raise UsageError(f"--device {word!r}: {did_you_mean(word, DEVICES)}")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            raise UsageError(f"--device {word}: torch finds no CUDA GPU here; use --device cpu, or auto.")
        if colon and int(number) >= count:
            have = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
            raise UsageError(f"--device {word}: there is no such GPU; this machine has {have}.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UsageError("--device mps: torch finds no Apple GPU here; use --device cpu, or auto.")
    return torch.device(word)
