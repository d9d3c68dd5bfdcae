"""What helps CUT and MAF-Net to learn in minutes on a CPU; in neither paper, and off unless asked for.

Most of a slice of a skull-stripped head is empty. Places drawn from all of it compare nothing with nothing, and a discriminator
spends its first hundreds of steps on backgrounds that are not quite black, and the next on sharpness, before it looks at contrast.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synthmr.methods.contract import Update
from synthmr.methods.parts.gan import discriminator_loss, generator_loss

#: what is outside the brain in the images of both methods, whose output range is (-1, 1)
BACKGROUND = -1.0


def on_background(image: Tensor, brain: Tensor | None) -> Tensor:
    """An image ``(B, 1, H, W)`` with nothing outside the brain, as every prediction ends up.

    Args:
        image: the image.
        brain: ``(B, 1, H, W)`` bool; None leaves the image as it is.
    """
    return image if brain is None else torch.where(brain, image, BACKGROUND)


def shrink(image: Tensor, scale: int) -> Tensor:
    """Means over blocks of ``scale`` x ``scale`` pixels: ``(B, C, H, W) -> (B, C, H // scale, W // scale)``."""
    return F.avg_pool2d(image, scale) if scale > 1 else image


def play(
    discriminator: nn.Module, real: Tensor, fake: Tensor, gan: str, steps: int, scale: int, update: Update
) -> tuple[Tensor, Tensor]:
    """Update D on real and generated images ``(B, 1, H, W)``; what is left for G to minimise.

    Args:
        discriminator: D.
        real: of the target contrast.
        fake: of the generator.
        gan: the objective.
        steps: D's updates on this batch.
        scale: by which D's images are shrunk.
        update: of the step, which knows D as a group.

    Returns:
        D's loss in the last update, detached, and G's adversarial loss under the D that came of it.
    """
    seen_real, seen_fake = (shrink(image, scale) for image in (real, fake))
    for _ in range(steps):
        loss = discriminator_loss(discriminator(seen_real), discriminator(seen_fake.detach()), gan)
        update("D", loss)
    return loss.detach(), generator_loss(discriminator(seen_fake), gan)
