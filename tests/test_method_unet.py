"""`unet`: MONAI's network, and what is ours: channels, loss, sizes."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import BasicUNet
from torch import Tensor

from synthmr.batch import Batch
from synthmr.errors import UsageError
from synthmr.methods.unet import UNet, UNetOptions

pytestmark = pytest.mark.usefixtures("one_thread")


def images(*names: str, size: tuple[int, int] = (32, 48), count: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch({name: torch.rand(count, 1, *size, generator=generator) * 2 - 1 for name in names})


@pytest.mark.parametrize(("upsample", "theirs"), [("deconv", "deconv"), ("bilinear", "nontrainable")])
def test_is_monais_network(upsample: str, theirs: str) -> None:
    """Same parameters as `BasicUNet` of these widths, and with its weights the same output, sources stacked in order."""
    method = UNet(UNetOptions(filters=4, upsample=upsample), ("T1w", "T2w", "PDw"), ("FLAIR", "DWI")).eval()
    peer = BasicUNet(spatial_dims=2, in_channels=3, out_channels=2, features=(4, 8, 16, 32, 64, 4), upsample=theirs).eval()
    peer.load_state_dict(method.network.state_dict())
    batch = images("PDw", "T2w", "T1w")
    with torch.no_grad():
        out = method(batch)
        expected = peer(torch.cat([batch.images[name] for name in ("T1w", "T2w", "PDw")], dim=1))
    assert torch.equal(torch.cat([out["FLAIR"], out["DWI"]], dim=1), expected)


def test_bilinear_upsampling_leaves_no_grid() -> None:
    """A fresh network gives a smooth output on a constant image away from its borders; transposed convolutions give a grid."""
    found = {}
    for upsample in ("deconv", "bilinear"):
        torch.manual_seed(0)
        method = UNet(UNetOptions(filters=4, norm="batch", upsample=upsample), ("T1w",), ("FLAIR",)).eval()
        with torch.no_grad():
            out = method(Batch({"T1w": torch.ones(1, 1, 256, 256)}))["FLAIR"][0, 0, 96:160, 96:160]
        found[upsample] = float(out.std())
    assert found["bilinear"] < 0.02 * found["deconv"]


@pytest.mark.parametrize(("filters", "million"), [(16, 1.98), (64, 31.5)])
def test_number_of_parameters(filters: int, million: float) -> None:
    """The paper preset is Ronneberger's U-Net in width, the fast one a quarter of it."""
    with torch.device("meta"):
        method = UNet(UNetOptions(filters), ("T1w", "T2w"), ("FLAIR",))
    count = sum(param.numel() for param in method.parameters())
    assert count == pytest.approx(million * 1e6, rel=0.05)


def test_loss_is_the_mean_absolute_difference() -> None:
    method = UNet(UNetOptions(filters=4), ("T1w",), ("FLAIR", "PDw"))
    batch = images("T1w", "FLAIR", "PDw")
    with torch.no_grad():
        out = method(batch)
    by_hand = torch.stack([(out[name] - batch.images[name]).abs().mean() for name in ("FLAIR", "PDw")]).mean()
    seen: list[tuple[str, Tensor]] = []
    logs = method.step(batch, lambda group, loss: seen.append((group, loss)))
    ((group, loss),) = seen
    assert group == "G" and set(logs) == {"G_l1"}
    torch.testing.assert_close(loss.detach(), by_hand)
    torch.testing.assert_close(logs["G_l1"].detach(), by_hand)


def test_output_is_not_bounded() -> None:
    """A z-score target leaves [-1, 1], so the output must be able to."""
    assert UNet.spec.output_range is None
    method = UNet(UNetOptions(filters=4), ("T1w",), ("FLAIR",)).eval()
    with torch.no_grad():
        method.network.final_conv.bias.fill_(7.0)
        assert method(images("T1w"))["FLAIR"].mean() > 3


def test_images_too_small_for_instance_norm_are_refused() -> None:
    method = UNet(UNetOptions(filters=4), ("T1w",), ("FLAIR",)).eval()
    with pytest.raises(UsageError, match=r"images of 16x16; they must be larger than 16x16: enlarge sample.patch"):
        method(images("T1w", size=(16, 16)))
    with pytest.raises(UsageError, match=r"enlarge sample.patch"):
        method.step(images("T1w", "FLAIR", size=(16, 16)), lambda group, loss: None)
    assert method(images("T1w", size=(16, 32)))["FLAIR"].shape == (2, 1, 16, 32)


def test_options_are_checked() -> None:
    with pytest.raises(UsageError, match=r"options.filters=0: at least 1"):
        UNetOptions(filters=0)
