"""Where a run computes: devices, processes and nodes, through Lightning Fabric.

The module is not wrapped: Fabric starts the processes and sends tensors between them, and `Updater` averages the gradients of
one optimiser's group after a backward pass into that group alone. So a GAN's two updates need no toggling of
``requires_grad``, and every rank takes the same step. All ranks hold the same weights and running statistics after every step.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from synthmr import stopping
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

    @property
    def world(self) -> int:
        """Number of processes."""
        return self.devices * self.num_nodes

    @property
    def worker(self) -> bool:
        """Whether this process is one of several and not the first: it trains along, and leaves files and words to the first.

        Fabric starts the others of a node by calling the same command again; a cluster's launcher starts them all.
        """
        if self.world == 1:
            return False
        named = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK")
        return any(os.environ.get(name, "0") != "0" for name in named)

    def kind(self) -> str:
        """What computes, cpu or cuda: asked before anything is prepared, for methods that need no GPU too.

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
        return kind

    def fabric(self) -> Any:
        """Start the processes and return the Fabric object of this one.

        Raises:
            UsageError: as `kind`.
        """
        kind = self.kind()
        try:
            from lightning_fabric import Fabric
        except ModuleNotFoundError:
            from lightning.fabric import Fabric  # the same library inside the larger package
        strategy = "ddp" if self.world > 1 else "auto"
        with warnings.catch_warnings():
            # advice for scripts that are started under SLURM without srun; whoever asks for processes has been told by the docs
            warnings.filterwarnings("ignore", message=".*srun.*")
            # float32 to Fabric: `synthmr.predict.precision` decides where to autocast, for training and inference alike
            fabric = Fabric(accelerator=kind, devices=self.devices, num_nodes=self.num_nodes, strategy=strategy)
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


def asked_to_stop(fabric: Any) -> int:
    """The signal that asked this process to end, or any of several: all get the same answer, after the same step; 0 for none."""
    signum = stopping.pending()
    if fabric.world_size == 1:
        return signum
    asked = torch.tensor([signum], device=fabric.device)
    torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
    return int(asked)


@torch.no_grad()
def follow(average: nn.Module, module: nn.Module, decay: float) -> None:
    """Move an average of weights towards the weights; what counts (a number of batches) is copied."""
    for mine, other in zip(average.parameters(), module.parameters(), strict=True):
        mine.lerp_(other, 1 - decay)
    for held, given in zip(average.buffers(), module.buffers(), strict=True):
        if held.is_floating_point():
            held.lerp_(given, 1 - decay)
        else:
            held.copy_(given)


def same_start(fabric: Any, module: nn.Module) -> None:
    """Give every rank the first one's parameters and buffers."""
    if fabric.world_size > 1:
        for tensor in module.state_dict().values():
            torch.distributed.broadcast(tensor, 0)


class Updater:
    """``update(group, loss)``: zero, backward into that group's parameters alone, average over ranks, clip, step.

    Attributes:
        taken: group -> ``(2,)``: loss and gradient norm of its last update, means over ranks; `check` reads them.
    """

    def __init__(
        self, fabric: Any, groups: dict[str, list[nn.Parameter]], optimizers: dict[str, torch.optim.Optimizer], clip: float
    ) -> None:
        self.fabric, self.groups, self.optimizers, self.clip = fabric, groups, optimizers, clip
        self.taken: dict[str, Tensor] = {}

    def __call__(self, group: str | tuple[str, ...], loss: Tensor) -> None:
        """Take one step of one optimiser, or of those of several groups that share a loss (clipped together).

        Raises:
            UsageError: the method has no such group.
        """
        names = (group,) if isinstance(group, str) else group
        for name in names:
            if name not in self.groups:
                raise UsageError(f"update({name!r}): {did_you_mean(name, self.groups)}")
            self.optimizers[name].zero_grad(set_to_none=True)
        params = [param for name in names for param in self.groups[name]]
        with torch.autocast(loss.device.type, enabled=False):
            loss = loss.float()
            self.fabric.backward(loss, inputs=params)
            value = self._average(params, loss.detach().reshape(1))
            grads = [param.grad for param in params if param.grad is not None]
            norm = nn.utils.get_total_norm(grads).float().reshape(1).to(value.device)
            if self.clip > 0:
                nn.utils.clip_grads_with_norm_(params, self.clip, norm[0])
            for name in names:
                self.optimizers[name].step()
        # autocast keeps bf16 copies of the weights until its outermost context ends: without this the rest of the
        # method's step would compute with the weights as they were before this update
        torch.clear_autocast_cache()
        self.taken["+".join(names)] = torch.cat([value, norm])

    def _average(self, params: Sequence[nn.Parameter], loss: Tensor) -> Tensor:
        """Average loss and gradients over ranks in one message; a parameter that no rank used keeps no gradient."""
        if self.fabric.world_size == 1:
            return loss
        used = torch.tensor([param.grad is not None for param in params], dtype=torch.float32, device=loss.device)
        parts = [param.grad if param.grad is not None else torch.zeros_like(param) for param in params]
        mean_over_ranks(self.fabric, [loss, used, *parts])
        for param, part, share in zip(params, parts, used.tolist(), strict=True):
            param.grad = part if share > 0 else None
        return loss


def check_groups(method: nn.Module, groups: dict[str, list[nn.Parameter]]) -> None:
    """Check that every trainable parameter is in exactly one group.

    Raises:
        UsageError: one is in none, or in two.
    """
    owners: dict[int, list[str]] = {}
    for group, params in groups.items():
        for param in params:
            owners.setdefault(id(param), []).append(group)
    for name, param in method.named_parameters():
        found = owners.get(id(param), [])
        if param.requires_grad and len(found) != 1:
            raise UsageError(
                f"{type(method).__name__}.groups() puts the parameter {name} into {' and '.join(found) or 'no group'};"
                " every parameter belongs to exactly one."
            )
