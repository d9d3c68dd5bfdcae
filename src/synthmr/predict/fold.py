"""Ready a network for inference: batch normalisation folded into the convolution before it, weights in bf16 once.

In inference a batch norm is a fixed scale and shift a channel, and so part of the convolution before it. Pairs are found
in `nn.Sequential` alone, where the order of calls is certain, and the folded network is compared with the original on a
small input before it is used. So is one whose weights are bf16: to the bit.
"""

from __future__ import annotations

import copy
from collections import Counter
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from synthmr.batch import Batch
from synthmr.contrasts import SEGMENTATION
from synthmr.errors import UsageError
from synthmr.methods.contract import NeuralMethod

#: largest difference of the outputs, relative to their size, at which two float32 networks count as the same
TOLERANCE = 1e-4

#: layers whose weights autocast casts
_CAST = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)


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


def bf16_weights(method: NeuralMethod) -> NeuralMethod:
    """A copy of a network for bf16 autocast that holds the weights of its convolutions and linear layers in bf16.

    Autocast makes them bf16 at every call, since weights without a gradient are not remembered; here it is done once. Everything
    else stays as it is: normalisations, sums and what a method computes in float32. Where a single bit of the output on a small
    input would differ (a method that uses such a weight otherwise), or the network refuses, the network itself is returned.
    """
    candidate = copy.deepcopy(method)
    for part in candidate.modules():
        # hooks compute a layer's weight from other parameters, which are theirs
        if isinstance(part, _CAST) and not part._forward_pre_hooks and not hasattr(part, "parametrizations"):
            part.to(torch.bfloat16)
    kind = next(method.parameters()).device.type
    try:
        with torch.autocast(kind, torch.bfloat16):
            one, other = _everything(candidate), _everything(method)
    except (RuntimeError, TypeError, ValueError, UsageError):
        return method
    same = len(one) == len(other) and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(one, other, strict=True))
    return candidate if same else method


def same_output(one: NeuralMethod, other: NeuralMethod) -> bool:
    """Whether two networks give the same float32 output on a small smooth input, within `TOLERANCE`."""
    pairs = zip(_outputs(one), _outputs(other), strict=True)
    return all(torch.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE) for a, b in pairs)


@torch.inference_mode()
def _outputs(network: NeuralMethod) -> list[Tensor]:
    """The images that a network makes of a small smooth input."""
    return [output.mean for output in network(_wave(network), None).values()]


@torch.inference_mode()
def _everything(network: NeuralMethod) -> list[Tensor]:
    """All that a network makes of a small smooth input: images, spreads and the maps that it can give."""
    batch = _wave(network)
    found: list[Tensor] = []
    for output in network(batch, None).values():
        found += [each for each in (output.mean, output.spread, output.samples) if each is not None]
    for name in network.spec.maps:
        try:
            network.check_map(name)
        except UsageError:
            continue
        found += network.map(batch, name).values()
    return found


def _wave(network: NeuralMethod) -> Batch:
    """A batch of one small smooth slice or box of every source."""
    device = next(network.parameters()).device
    traits, edge = network.traits, 32 if 32 % network.spec.divisor == 0 else 2 * network.spec.divisor
    size, channels = (edge,) * traits.dims, 2 * traits.neighbours + 1
    wave = torch.linspace(0, 6.0, edge, device=device)
    images = {}
    for k, name in enumerate(network.sources):
        plane = torch.sin(wave[:, None] * (k + 1) + wave[None, :] * 0.7)
        images[name] = plane.expand(1, channels, *size).clone()
    mask = torch.ones(1, 1, *size, dtype=torch.bool, device=device)
    labels = torch.zeros(1, 1, *size, dtype=torch.int64, device=device) if SEGMENTATION in network.needs else None
    return Batch(images=images, mask=mask, coords=torch.zeros(1, 3, device=device), segmentation=labels)
