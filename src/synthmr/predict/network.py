"""A method's network on stacked tensors: what other programs and `torch.export` take."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from synthmr.batch import Batch
from synthmr.errors import UsageError
from synthmr.methods.contract import Method, NeuralMethod
from synthmr.predict.fold import folded


class StackedNetwork(nn.Module):
    """A network without contrast names: channels in, channels out, float32, in evaluation mode, batch norms folded.

    Attributes:
        sources: contrasts in the order of the input's channels; with neighbouring slices, all of one contrast's before the next's.
        targets: contrasts in the order of the output's channels.

    Raises:
        UsageError: the method is no network, or reads more than images.
    """

    def __init__(self, method: Method) -> None:
        super().__init__()
        if not isinstance(method, NeuralMethod):
            raise UsageError(f"{method.spec.name} is no network but a formula; use run.predict.")
        if "segmentation" in method.needs:
            raise UsageError(f"this run of {method.spec.name} reads a lesion mask beside the images; use run.predict.")
        self.inner = folded(method).cpu()
        self.sources, self.targets = method.sources, method.targets
        self.channels = 2 * method.traits.neighbours + 1
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """``(B, sources * C, *S)`` normalised -> ``(B, targets, *S)``; S is a multiple of the method's divisor."""
        parts = dict(zip(self.sources, images.split(self.channels, dim=1), strict=True))
        outputs = self.inner(Batch(images=parts), self.targets)
        return torch.cat([outputs[name].mean for name in self.targets], dim=1)
