"""Fold batch normalisation into the convolution before it: the same numbers, one pass over memory less.

In inference a batch norm is a fixed scale and shift a channel, and so part of the convolution before it. Pairs are found
in `nn.Sequential` alone, where the order of calls is certain, and the folded network is compared with the original on a
small input before it is used.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from synthmr.batch import Batch
from synthmr.methods.contract import NeuralMethod

#: largest difference of the outputs, relative to their size, at which two float32 networks count as the same
TOLERANCE = 1e-4


def folded(method: NeuralMethod) -> NeuralMethod:
    """A copy of ``method`` in evaluation mode, batch norms folded where that changes nothing; the original is untouched."""
    original = copy.deepcopy(method).eval().requires_grad_(False)
    candidate = copy.deepcopy(original)
    if fold_batch_norm(candidate) == 0:
        return original
    return candidate if same_output(candidate, original) else original


def fold_batch_norm(network: nn.Module) -> int:
    """Fold in place every (convolution, batch norm) pair of the network's `nn.Sequential` parts; returns how many."""
    uses = Counter(id(module) for _, module in network.named_modules(remove_duplicate=False))
    count = 0
    for sequence in list(network.modules()):
        if isinstance(sequence, nn.Sequential) and type(sequence).forward is nn.Sequential.forward:
            for first, second in pairwise(list(sequence._modules)):
                parent, name = _first_leaf(sequence, second)
                conv, norm = sequence._modules[first], parent._modules[name]
                if _can_fold(conv, norm, uses):
                    sequence._modules[first] = fuse_conv_bn_eval(conv, norm)  # type: ignore[type-var, arg-type]
                    parent._modules[name] = nn.Identity()
                    count += 1
    return count


def _first_leaf(parent: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Follow nested sequentials to the first module that they call: (its parent, its name in there)."""
    child = parent._modules[name]
    while isinstance(child, nn.Sequential) and type(child).forward is nn.Sequential.forward and len(child):
        parent, name = child, next(iter(child._modules))
        child = parent._modules[name]
    return parent, name


def _can_fold(conv: nn.Module | None, norm: nn.Module | None, uses: Counter[int]) -> bool:
    if not isinstance(conv, (nn.Conv2d, nn.Conv3d)) or not isinstance(norm, (nn.BatchNorm2d, nn.BatchNorm3d)):
        return False
    # without running statistics it normalises by the batch; a module called from two places has two neighbours
    known = norm.running_mean is not None and norm.running_var is not None and norm.num_features == conv.out_channels
    return known and not norm.training and uses[id(conv)] == 1 and uses[id(norm)] == 1


@torch.inference_mode()
def same_output(one: NeuralMethod, other: NeuralMethod) -> bool:
    """Whether two networks give the same float32 output on a small smooth input, within `TOLERANCE`."""
    device = next(other.parameters()).device
    edge = 32 if 32 % other.spec.divisor == 0 else 2 * other.spec.divisor
    results: list[Sequence[Tensor]] = []
    for network in (one, other):
        wave = torch.linspace(0, 6.0, edge, device=device)
        images = {
            name: torch.sin(wave[:, None] * (k + 1) + wave[None, :] * 0.7)[None, None] for k, name in enumerate(other.sources)
        }
        mask = torch.ones(1, 1, edge, edge, dtype=torch.bool, device=device)
        coords = torch.zeros(1, 3, device=device)
        results.append(list(network(Batch(images=images, mask=mask, coords=coords), None).values()))
    return all(torch.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE) for a, b in zip(*results, strict=True))
