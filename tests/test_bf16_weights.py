"""Weights that are bf16 once: the bits of autocast for every method, and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from synthmr import pipeline
from synthmr.batch import Batch, Output
from synthmr.methods import registry
from synthmr.methods.contract import NeuralMethod
from synthmr.predict.fold import _everything, bf16_weights, folded
from synthmr.run import build_method

pytestmark = pytest.mark.usefixtures("one_thread")

#: settings that make the networks small, where a method has them
SMALL = {
    "hinet": ("options.filters=4",),
    "milr": ("options.lesion_mask=true",),
    "mafnet": ("options.filters=4", "options.segmenter_filters=4"),
}
NETWORKS = [name for name in registry.METHODS if issubclass(registry.load(name), NeuralMethod)]


def network_of(name: str, *settings: str) -> NeuralMethod:
    """A network with weights that are no initial zeros, in evaluation mode."""
    fewest = registry.load(name).spec.sources[0]
    sources = "T1w,T2w,PDw" if fewest > 2 else ("T1w,T2w" if registry.load(name).spec.sources[1] > 1 else "T1w")
    config = pipeline.configure(name, sources, "FLAIR", settings=[*SMALL.get(name, ()), *settings])
    torch.manual_seed(3)
    method = build_method(config)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return method.eval()


def halves(method: nn.Module) -> list[str]:
    return [name for name, parameter in method.named_parameters() if parameter.dtype == torch.bfloat16]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_gives_the_bits_that_autocast_gives(name: str) -> None:
    method = folded(network_of(name)).to(memory_format=torch.channels_last)
    cast = bf16_weights(method)
    assert cast is not method and halves(cast) and not halves(method)
    layers = [part for part in cast.modules() if isinstance(part, (nn.Conv2d, nn.Linear))]
    assert all(layer.weight.dtype == torch.bfloat16 for layer in layers)
    assert all(p.dtype == torch.float32 for part in cast.modules() if "Norm" in type(part).__name__ for p in part.parameters(False))
    # at another input and size than the one that it was checked with
    edge = 2 * method.spec.divisor + 32
    edge -= edge % method.spec.divisor
    torch.manual_seed(1)
    images = {source: torch.randn(2, 1, edge, edge).contiguous(memory_format=torch.channels_last) for source in method.sources}
    batch = Batch(images, mask=torch.ones(2, 1, edge, edge, dtype=torch.bool), coords=torch.zeros(2, 3))
    if "segmentation" in method.needs:
        batch = Batch(
            batch.images, mask=batch.mask, coords=batch.coords, segmentation=torch.ones(2, 1, edge, edge, dtype=torch.int64)
        )
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for target, output in method(batch).items():
            assert torch.equal(cast(batch)[target].mean, output.mean)


class Odd(NeuralMethod):
    """A network that uses the weight of a convolution otherwise."""

    spec = registry.load("unet").spec

    def __init__(self, kind: str) -> None:
        super().__init__(None, ("T1w",), ("FLAIR",))
        self.kind = kind
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 1))

    def forward(self, batch: Batch, wanted: Any = None) -> dict[str, Output]:
        image = batch.images["T1w"]
        if self.kind == "float32":
            with torch.autocast("cpu", enabled=False):
                return {"FLAIR": Output(self.net(image))}
        found: Tensor = self.net(image).float()
        return {"FLAIR": Output(found * self.net[0].weight.sum() if self.kind == "sum" else found)}


def test_a_network_that_would_give_other_bits_keeps_its_weights() -> None:
    torch.manual_seed(0)
    for kind in ("sum", "float32"):
        method = Odd(kind).eval()
        assert bf16_weights(method) is method and not halves(method)
    assert halves(bf16_weights(Odd("plain").eval())) == [f"net.{k}.{what}" for k in (0, 1) for what in ("weight", "bias")]


def test_a_layer_whose_weight_is_computed_is_left_alone() -> None:
    torch.manual_seed(0)
    method = Odd("plain")
    nn.utils.parametrizations.spectral_norm(method.net[0])
    cast = bf16_weights(method.eval())
    assert halves(cast) == ["net.1.weight", "net.1.bias"]


def test_the_network_itself_is_not_touched() -> None:
    method = folded(network_of("unet"))
    before = copy.deepcopy(method.state_dict())
    with torch.autocast("cpu", torch.bfloat16):
        outputs = _everything(method)
    bf16_weights(method)
    assert all(
        torch.equal(value, before[name]) and value.dtype == before[name].dtype for name, value in method.state_dict().items()
    )
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(a, b) for a, b in zip(_everything(method), outputs, strict=True))
