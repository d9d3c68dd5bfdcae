"""Where a run computes: devices, processes and nodes, through Lightning Fabric.

The module is not wrapped: Fabric starts the processes and moves data between them, and `Processes.update` averages the gradients
of one optimiser's group after a backward pass into that group alone. So a GAN's two updates need no toggling of
``requires_grad``, and every rank takes the same step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from synthmr.errors import UsageError, did_you_mean

ACCELERATORS = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Runtime:
    """What a person asks for.

    Attributes:
        accelerator: auto (CUDA if there is any), cpu or cuda.
        devices: processes (CPU) or GPUs on each node.
        num_nodes: nodes; start the same command on each, as Lightning Fabric documents (MASTER_ADDR, NODE_RANK).
    """

    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1

    def fabric(self) -> Any:
        """Start the processes and return the Fabric object of this one.

        Raises:
            UsageError: unknown accelerator, or one that is not there.
        """
        if self.accelerator not in ACCELERATORS:
            raise UsageError(f"unknown accelerator {self.accelerator!r}: {did_you_mean(self.accelerator, ACCELERATORS)}")
        if self.devices < 1 or self.num_nodes < 1:
            raise UsageError(f"--devices {self.devices} --nodes {self.num_nodes}: both are at least 1.")
        cuda = torch.cuda.is_available()
        if self.accelerator == "cuda" and not cuda:
            raise UsageError("--accelerator cuda: this machine has no usable GPU; use --accelerator cpu or auto.")
        kind = "cuda" if cuda and self.accelerator != "cpu" else "cpu"
        if kind == "cuda" and self.devices > torch.cuda.device_count():
            raise UsageError(f"--devices {self.devices}: this machine has {torch.cuda.device_count()} GPUs.")
        try:
            from lightning_fabric import Fabric
        except ModuleNotFoundError:
            from lightning.fabric import Fabric  # the same library inside the larger package
        strategy = "ddp" if self.devices * self.num_nodes > 1 else "auto"
        fabric = Fabric(accelerator=kind, devices=self.devices, num_nodes=self.num_nodes, strategy=strategy, precision="32-true")
        fabric.launch()
        return fabric


def mean_over_ranks(fabric: Any, tensors: Sequence[Tensor]) -> None:
    """Replace tensors in place by their mean over all ranks: one message, whatever their number."""
    if fabric.world_size == 1 or not tensors:
        return
    flat = torch.cat([tensor.detach().reshape(-1).float() for tensor in tensors])
    mean = fabric.all_reduce(flat, reduce_op="mean")
    first = 0
    for tensor in tensors:
        tensor.detach().copy_(mean[first : first + tensor.numel()].view_as(tensor))
        first += tensor.numel()


def same_buffers(fabric: Any, modules: Iterable[nn.Module]) -> None:
    """Average the running statistics over ranks, each of which saw other samples."""
    mean_over_ranks(fabric, [buffer for module in modules for buffer in module.buffers() if buffer.is_floating_point()])


class Updater:
    """``update(group, loss)``: zero, backward into that group's parameters alone, average over ranks, clip, step."""

    def __init__(
        self, fabric: Any, groups: dict[str, list[nn.Parameter]], optimizers: dict[str, torch.optim.Optimizer], clip: float
    ) -> None:
        self.fabric, self.groups, self.optimizers, self.clip = fabric, groups, optimizers, clip

    def __call__(self, group: str, loss: Tensor) -> None:
        """Take one step of one optimiser.

        Raises:
            UsageError: the method has no such group.
        """
        if group not in self.groups:
            raise UsageError(f"update({group!r}): {did_you_mean(group, self.groups)}")
        params = self.groups[group]
        self.optimizers[group].zero_grad(set_to_none=True)
        with torch.autocast(loss.device.type, enabled=False):
            self.fabric.backward(loss.float(), inputs=params)
            if self.fabric.world_size > 1:
                for param in params:
                    if param.grad is None:
                        param.grad = torch.zeros_like(param)
                mean_over_ranks(self.fabric, [param.grad for param in params if param.grad is not None])
            if self.clip > 0:
                nn.utils.clip_grad_norm_(params, self.clip)
            self.optimizers[group].step()
