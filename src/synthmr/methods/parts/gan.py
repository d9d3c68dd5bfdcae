"""Adversarial objectives on a discriminator's raw scores (no sigmoid in the network).

``lsgan``: least squares, ``mean((D - target)^2)`` (Mao et al. 2017). ``log``: the original objective as a cross-entropy,
``-log sigmoid(D)`` for real and ``-log(1 - sigmoid(D))`` for fake; the generator minimises ``-log sigmoid(D(fake))``,
the non-saturating form (Goodfellow et al. 2014, Section 3), which has the fixed point of ``log(1 - D)`` and gradients
where that has none.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

OBJECTIVES = ("lsgan", "log")


def judged(scores: Tensor, real: bool, objective: str) -> Tensor:
    """The loss of calling ``scores`` (any shape) real, or fake; a scalar."""
    scores = scores.float()
    target = torch.ones_like(scores) if real else torch.zeros_like(scores)
    if objective == "lsgan":
        return F.mse_loss(scores, target)
    return F.binary_cross_entropy_with_logits(scores, target)


def generator_loss(fake: Tensor, objective: str) -> Tensor:
    """What the generator minimises: its images called real."""
    return judged(fake, True, objective)


def discriminator_loss(real: Tensor, fake: Tensor, objective: str) -> Tensor:
    """What the discriminator minimises, halved, as is usual, so that it learns more slowly than the generator."""
    return 0.5 * (judged(real, True, objective) + judged(fake, False, objective))
