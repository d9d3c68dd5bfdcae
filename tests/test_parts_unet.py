"""Our U-Net against MONAI's `BasicUNet`: names, shapes, start and output; and what holds of any U-Net."""

from __future__ import annotations

import itertools

import pytest
import torch
from monai.networks.nets import BasicUNet

from synthmr.methods.parts.unet import PlainUNet

pytestmark = pytest.mark.usefixtures("one_thread")

WIDTHS = (4, 8, 16, 32, 64, 4)
#: sizes that are multiples of 16 and no powers of two
SIZES = {2: (48, 80), 3: (48, 32, 80)}
#: ours -> MONAI's
THEIRS = {"deconv": "deconv", "bilinear": "nontrainable"}


def pair(dims: int, norm: str, upsample: str, widths: tuple[int, ...] = WIDTHS) -> tuple[PlainUNet, BasicUNet]:
    """Ours and MONAI's, each made after the same seed."""
    torch.manual_seed(3)
    own = PlainUNet(dims, 3, 2, widths, norm, upsample)
    torch.manual_seed(3)
    peer = BasicUNet(
        spatial_dims=dims, in_channels=3, out_channels=2, features=widths, norm=(norm, {"affine": True}), upsample=THEIRS[upsample]
    )
    return own, peer


CASES = [*itertools.product((2, 3), ("instance", "batch"), ("deconv", "bilinear"))]


@pytest.mark.parametrize(("dims", "norm", "upsample"), CASES)
def test_one_seed_gives_monais_parameters_in_monais_order(dims: int, norm: str, upsample: str) -> None:
    own, peer = pair(dims, norm, upsample)
    mine, theirs = own.state_dict(), peer.state_dict()
    assert list(mine) == list(theirs)
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize(("dims", "norm", "upsample"), CASES)
def test_with_monais_weights_it_gives_monais_output(dims: int, norm: str, upsample: str) -> None:
    """In training and, with running statistics that have moved, in evaluation."""
    own, peer = pair(dims, norm, upsample)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, *SIZES[dims], generator=generator)
    with torch.no_grad():
        for param in peer.parameters():  # away from the start, where every norm has a gain of 1 and no shift
            param += 0.1 * torch.randn(param.shape, generator=generator)
        own.load_state_dict(peer.state_dict(), strict=True)
        torch.testing.assert_close(own(images), peer(images), rtol=1e-6, atol=1e-6)
        first = own.eval()(images)
        torch.testing.assert_close(first, peer.eval()(images), rtol=1e-6, atol=1e-6)
    assert first.shape == (2, 2, *SIZES[dims])
    assert float(first.std()) > 0.01


def test_widths_that_do_not_double_are_monais_too() -> None:
    """The tumour network of MAF-Net stops doubling at the bottom."""
    own, peer = pair(2, "instance", "deconv", (4, 8, 16, 32, 32, 4))
    own.load_state_dict(peer.state_dict(), strict=True)
    images = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(own(images), peer(images), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("poolings", [2, 3])
def test_fewer_poolings_keep_the_names_and_see_less(poolings: int) -> None:
    """A shallower network is a part of the deep one by name, and a voxel reaches no further than its convolutions and poolings."""
    widths = (*WIDTHS[: poolings + 1], WIDTHS[-1])
    own = PlainUNet(2, 1, 1, widths, "batch", "deconv").eval()
    deep = set(PlainUNet(2, 1, 1, WIDTHS, "batch", "deconv").state_dict())
    assert set(own.state_dict()) < deep
    image = torch.zeros(1, 1, 160, 160)
    spot = image.clone()
    spot[0, 0, 80, 80] = 1.0
    with torch.no_grad():
        changed = (own(spot) - own(image))[0, 0].abs() > 0
    rows = changed.any(dim=1).nonzero().flatten()
    # two convolutions reach 2 voxels of their level: once at the bottom, down and up elsewhere; a pooling adds its window
    reach = 2 * (2 * sum(2**level for level in range(poolings)) + 2**poolings) + 2 ** (poolings + 1)
    assert 80 - reach <= int(rows.min()) < 80 - 2**poolings
    assert 80 + 2**poolings < int(rows.max()) <= 80 + reach


@pytest.mark.parametrize(("dims", "upsample"), [(2, "bilinear"), (3, "deconv"), (3, "bilinear")])
def test_gradients_reach_every_parameter(dims: int, upsample: str) -> None:
    own = PlainUNet(dims, 2, 1, WIDTHS, "instance", upsample)
    own(torch.randn(1, 2, *SIZES[dims])).square().mean().backward()
    for name, param in own.named_parameters():
        assert param.grad is not None, name
        if param.grad.ndim > 1:  # a bias before a normalisation has none but rounding
            assert float(param.grad.abs().max()) > 0, name
