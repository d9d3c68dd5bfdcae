"""`unet`: MONAI's network, and what is ours: channels, neighbours, boxes, any subset, losses, sizes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from monai.networks.nets import BasicUNet
from torch import Tensor, nn

from synthmr.batch import Batch
from synthmr.errors import UsageError
from synthmr.methods.configure import build_config
from synthmr.methods.contract import Traits
from synthmr.methods.unet import UNet, UNetOptions
from synthmr.predict.precision import Precision
from synthmr.prepare.normalize import value_range

pytestmark = pytest.mark.usefixtures("one_thread")


def images(*names: str, size: tuple[int, ...] = (32, 48), count: int = 2, channels: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch({name: torch.rand(count, channels, *size, generator=generator) * 2 - 1 for name in names})


class Seen(nn.Module):
    """A network that gives zeros, or what it is told to, and keeps what it was given."""

    def __init__(self, outputs: int, value: float = 0.0) -> None:
        super().__init__()
        self.outputs = outputs
        self.value = nn.Parameter(torch.tensor(value))
        self.images = torch.zeros(0)

    def forward(self, images: Tensor) -> Tensor:
        self.images = images
        return self.value.expand(len(images), self.outputs, *images.shape[2:])


def loss_of(method: UNet, batch: Batch) -> Tensor:
    """The loss of a step, with its graph."""
    seen: list[tuple[str, Tensor]] = []
    method.step(batch, lambda group, loss: seen.append((group, loss)))
    ((group, loss),) = seen
    assert group == "G"
    return loss


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
    assert torch.equal(torch.cat([out["FLAIR"].mean, out["DWI"].mean], dim=1), expected)


def test_bilinear_upsampling_leaves_no_grid() -> None:
    """A fresh network gives a smooth output on a constant image away from its borders; transposed convolutions give a grid."""
    found = {}
    for upsample in ("deconv", "bilinear"):
        torch.manual_seed(0)
        method = UNet(UNetOptions(filters=4, norm="batch", upsample=upsample), ("T1w",), ("FLAIR",)).eval()
        with torch.no_grad():
            out = method(Batch({"T1w": torch.ones(1, 1, 256, 256)}))["FLAIR"].mean[0, 0, 96:160, 96:160]
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
    by_hand = torch.stack([(out[name].mean - batch.images[name]).abs().mean() for name in ("FLAIR", "PDw")]).mean()
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
        assert method(images("T1w"))["FLAIR"].mean.mean() > 3


def test_images_too_small_for_instance_norm_are_refused() -> None:
    method = UNet(UNetOptions(filters=4), ("T1w",), ("FLAIR",)).eval()
    with pytest.raises(UsageError, match=r"images of 16x16; they must be larger than 16x16: enlarge sample.patch"):
        method(images("T1w", size=(16, 16)))
    with pytest.raises(UsageError, match=r"enlarge sample.patch"):
        method.step(images("T1w", "FLAIR", size=(16, 16)), lambda group, loss: None)
    assert method(images("T1w", size=(16, 32)))["FLAIR"].mean.shape == (2, 1, 16, 32)


# --- neighbours and boxes -------------------------------------------------------------------------------------------------


def test_neighbours_are_channels_source_after_source() -> None:
    """And the target is the slice in the middle alone."""
    method = UNet(UNetOptions(filters=4, neighbours=1), ("T1w", "T2w"), ("FLAIR",))
    assert method.network.conv_0[0][0].in_channels == 6
    method.network = Seen(1)
    batch = images("T2w", "FLAIR", "T1w", channels=3)
    out = method(batch)["FLAIR"].mean
    assert out.shape == (2, 1, 32, 48)
    assert torch.equal(method.network.images, torch.cat([batch.images["T1w"], batch.images["T2w"]], dim=1))
    torch.testing.assert_close(loss_of(method, batch), batch.images["FLAIR"][:, 1].abs().mean())


def test_a_network_of_neighbours_learns_what_they_alone_show() -> None:
    """The target is the slice above: a network of single slices of noise can know nothing of it."""
    found = {}
    for neighbours in (0, 1):
        torch.manual_seed(0)
        options = UNetOptions(filters=4, levels=2, norm="batch", neighbours=neighbours, loss="mse", upsample="bilinear")
        method = UNet(options, ("T1w",), ("FLAIR",)).train()
        optimiser = torch.optim.Adam(method.parameters(), 1e-2)
        generator = torch.Generator().manual_seed(1)
        losses = []
        for _ in range(60):
            stack = torch.randn(4, 3, 16, 32, generator=generator)
            shown = stack if neighbours else stack[:, 1:2]
            batch = Batch({"T1w": shown, "FLAIR": stack[:, 2:]})
            optimiser.zero_grad()
            loss = loss_of(method, batch)
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        found[neighbours] = sum(losses[-10:]) / 10
    assert found[1] < 0.5
    assert 0.9 < found[0] < 1.3  # the variance of the noise


@pytest.mark.parametrize(("upsample", "theirs"), [("deconv", "deconv"), ("bilinear", "nontrainable")])
def test_boxes_that_are_no_cubes(upsample: str, theirs: str) -> None:
    """MONAI's network again, in three dimensions."""
    method = UNet(UNetOptions(filters=4, dims=3, upsample=upsample), ("T1w", "T2w"), ("FLAIR",)).eval()
    peer = BasicUNet(spatial_dims=3, in_channels=2, out_channels=1, features=(4, 8, 16, 32, 64, 4), upsample=theirs).eval()
    peer.load_state_dict(method.network.state_dict(), strict=True)
    batch = images("T1w", "T2w", size=(32, 48, 16))
    with torch.no_grad():
        out = method(batch)["FLAIR"].mean
        expected = peer(batch.stack(["T1w", "T2w"]))
    assert out.shape == (2, 1, 32, 48, 16)
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [UNetOptions(4, dims=3, levels=3), UNetOptions(4, neighbours=2, norm="batch"), UNetOptions(4, any_subset=True, residual=True)],
)
def test_gradients_reach_every_parameter(options: UNetOptions) -> None:
    method = UNet(options, ("T1w", "T2w"), ("FLAIR",)).train()
    size = (32, 48, 16) if options.dims == 3 else (32, 48)
    loss_of(method, images("T1w", "T2w", "FLAIR", size=size, channels=2 * options.neighbours + 1)).backward()
    for name, param in method.named_parameters():
        assert param.grad is not None, name
        if param.grad.ndim > 1:  # a bias before a normalisation has none but rounding
            assert float(param.grad.abs().max()) > 0, name


@pytest.mark.parametrize(("dims", "order"), [(2, torch.channels_last), (3, torch.channels_last_3d)])
def test_weights_of_slices_and_boxes_are_placed_channels_last(dims: int, order: torch.memory_format) -> None:
    """Which changes no number but by rounding, and the output not at all in shape."""
    method = UNet(UNetOptions(4, dims=dims, levels=2), ("T1w", "T2w"), ("FLAIR",)).eval()
    batch = images("T1w", "T2w", size=(32, 16, 48)[:dims])
    with torch.no_grad():
        before = method(batch)["FLAIR"].mean
        Precision("32", channels_last=True).place(method, "cpu")
        after = method(batch)["FLAIR"].mean
    weights = [param for param in method.parameters() if param.dim() == dims + 2]
    assert weights and all(weight.is_contiguous(memory_format=order) for weight in weights)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


def test_presets_for_a_cpu_are_light_networks_of_neighbours_and_of_boxes() -> None:
    """``fast`` and ``paper`` stay slices of one."""
    found = {}
    for preset in UNet.presets:
        config = build_config(UNet, preset, {}, [], ("T1w", "T2w"), ("FLAIR",), value_range=value_range)
        found[preset] = (UNet.traits(config.options), config.sample.mode)
        if preset not in ("paper", "fast"):
            method = UNet(config.options, config.sources, config.targets)
            assert sum(param.numel() for param in method.parameters()) < 2e6
            edges = config.sample.box if method.traits.dims == 3 else (16,)
            assert all(edge % method.spec.divisor == 0 for edge in edges)
    assert found == {
        "paper": (Traits(), "slices"),
        "fast": (Traits(), "slices"),
        "2.5d": (Traits(neighbours=1), "slices"),
        "3d": (Traits(dims=3), "boxes"),
    }


def test_traits_follow_the_options() -> None:
    for options, expected in (
        (UNetOptions(4), Traits()),
        (UNetOptions(4, neighbours=3), Traits(neighbours=3)),
        (UNetOptions(4, dims=3, any_subset=True), Traits(dims=3, any_subset=True)),
    ):
        assert UNet.traits(options) == expected
        method = UNet(options, ("T1w", "T2w"), ("FLAIR",))
        assert method.traits == expected
        assert method.draws_subsets is expected.any_subset


# --- any subset -----------------------------------------------------------------------------------------------------------


def test_what_is_not_given_is_zeros_and_a_channel_a_source_says_so() -> None:
    """Sample 0 has both sources, 1 lacks T2w, and 2 must not look at T1w; a NaN in either is never met."""
    method = UNet(UNetOptions(filters=4, any_subset=True), ("T1w", "T2w"), ("FLAIR",))
    method.network = Seen(1)
    batch = images("T1w", "T2w", count=3)
    batch.images["T2w"][1] = torch.nan
    batch.images["T1w"][2] = torch.nan
    batch = replace(
        batch,
        present={"T1w": torch.tensor([True, True, True]), "T2w": torch.tensor([True, False, True])},
        shown={"T1w": torch.tensor([True, True, False])},
    )
    method(batch)
    seen, nothing, one = method.network.images, torch.zeros(32, 48), torch.ones(32, 48)
    t1w, t2w = batch.images["T1w"][:, 0], batch.images["T2w"][:, 0]
    assert seen.shape == (3, 4, 32, 48)
    assert torch.equal(seen[0], torch.stack([t1w[0], t2w[0], one, one]))
    assert torch.equal(seen[1], torch.stack([t1w[1], nothing, one, nothing]))
    assert torch.equal(seen[2], torch.stack([nothing, t2w[2], nothing, one]))


def test_a_contrast_that_no_sample_has_need_not_be_in_the_batch() -> None:
    method = UNet(UNetOptions(filters=4, any_subset=True, neighbours=1), ("T1w", "T2w"), ("FLAIR",)).eval()
    batch = images("T1w", "T2w", channels=3)
    absent = replace(batch, present={"T1w": torch.tensor([True, True]), "T2w": torch.tensor([False, False])})
    with torch.no_grad():
        one, two, both = (method(each)["FLAIR"].mean for each in (batch.only(["T1w"]), absent, batch))
    assert torch.equal(one, two)
    assert not torch.allclose(one, both, atol=1e-3)


@pytest.mark.parametrize(("loss", "power"), [("l1", 1), ("mse", 2)])
def test_loss_is_over_the_truths_that_are_there_and_not_shown(loss: str, power: int) -> None:
    """FLAIR is a target alone, T2w a source and a target; the network says 0.5 everywhere and truths are whole numbers."""
    method = UNet(UNetOptions(filters=4, any_subset=True, loss=loss), ("T1w", "T2w"), ("FLAIR", "T2w"))
    method.network = Seen(2, 0.5)
    batch = images("T1w", "T2w", "FLAIR", count=4)
    values = {"FLAIR": (1.0, 2.0, 3.0, 4.0), "T2w": (10.0, 20.0, 30.0, 40.0)}
    for name, each in values.items():
        batch.images[name].copy_(torch.tensor(each).view(4, 1, 1, 1).expand(4, 1, 32, 48))
    yes, no = True, False
    batch = replace(
        batch,
        present={
            "T1w": torch.tensor([yes, yes, yes, yes]),
            "T2w": torch.tensor([yes, yes, no, yes]),
            "FLAIR": torch.tensor([yes, no, yes, no]),
        },
        # FLAIR is no source: what is said of it here is of no matter
        shown={"T2w": torch.tensor([yes, no, no, yes]), "FLAIR": torch.tensor([yes, yes, no, no])},
    )
    # FLAIR of samples 0 and 2; T2w of sample 1, as 0 and 3 show it and 2 has none
    expected = (0.5**power + 2.5**power + 19.5**power) / 3
    assert float(loss_of(method, batch).detach()) == pytest.approx(expected)


def test_where_nothing_is_asked_a_step_changes_nothing() -> None:
    method = UNet(UNetOptions(filters=4, any_subset=True), ("T1w", "T2w"), ("T2w",)).train()
    batch = replace(images("T1w", "T2w"), shown={"T1w": torch.tensor([True, True]), "T2w": torch.tensor([True, True])})
    loss = loss_of(method, batch)
    assert float(loss.detach()) == 0
    loss.backward()
    assert all(param.grad is None or float(param.grad.abs().max()) == 0 for param in method.parameters())


def test_a_hidden_truth_never_changes_the_output() -> None:
    """Of a contrast that is source and target; where it is shown, it does."""
    method = UNet(UNetOptions(filters=4, any_subset=True, residual=True), ("T1w", "FLAIR"), ("FLAIR",)).eval()
    first = images("T1w", "FLAIR")
    other = replace(first, images={**first.images, "FLAIR": -3 * first.images["FLAIR"]})
    for flags, same in (([False, False], True), ([True, True], False)):
        shown = {"FLAIR": torch.tensor(flags)}
        with torch.no_grad():
            one, two = (method(replace(batch, shown=shown))["FLAIR"].mean for batch in (first, other))
        assert torch.equal(one, two) is same


def test_a_residual_is_added_to_the_mean_of_the_middle_slices_that_are_given() -> None:
    method = UNet(UNetOptions(filters=4, any_subset=True, residual=True, neighbours=1), ("T1w", "T2w"), ("FLAIR", "DWI"))
    method.network = Seen(2, 0.25)
    batch = images("T1w", "T2w", channels=3)
    batch = replace(batch, present={"T1w": torch.tensor([True, True]), "T2w": torch.tensor([True, False])})
    out = method(batch)
    t1w, t2w = (batch.images[name][:, 1:2] for name in ("T1w", "T2w"))
    expected = torch.cat([(t1w[:1] + t2w[:1]) / 2, t1w[1:]]) + 0.25
    for name in ("FLAIR", "DWI"):
        torch.testing.assert_close(out[name].mean, expected)


# --- what is refused ------------------------------------------------------------------------------------------------------


def test_images_of_another_kind_are_refused() -> None:
    """In one line that names the fix."""
    slices = UNet(UNetOptions(filters=4), ("T1w",), ("FLAIR",)).eval()
    boxes = UNet(UNetOptions(filters=4, dims=3), ("T1w",), ("FLAIR",)).eval()
    for method, batch, words in (
        (slices, images("T1w", size=(32, 32, 32)), r"slices .*3 spatial dimensions; give it 2"),
        (boxes, images("T1w"), r"boxes .*2 spatial dimensions; give it 3"),
        (slices, images("T1w", channels=3), r"1 slices .*T1w with 3; give 1"),
        (boxes, images("T1w", size=(32, 40, 32)), r"multiples of 16 .*32x40x32"),
        (boxes, images("T1w", size=(16, 16, 16)), r"images of 16x16x16; they must be larger than 16x16x16: enlarge sample.box"),
    ):
        with pytest.raises(UsageError, match=words) as error:
            method(batch)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"filters": 0}, r"options.filters=0: at least 1"),
        ({"norm": "batsch"}, r"options.norm='batsch': .*batch"),
        ({"upsample": "nearest"}, r"options.upsample='nearest'"),
        ({"loss": "l2"}, r"options.loss='l2'"),
        ({"levels": 5}, r"options.levels=5: 2, 3 or 4"),
        ({"dims": 1}, r"options.dims=1: 2 for slices or 3 for boxes"),
        ({"neighbours": -1}, r"options.neighbours=-1: 0 to 16"),
        ({"neighbours": 2, "dims": 3}, r"options.neighbours=2: boxes have none; set options.dims=2, or neighbours=0"),
    ],
)
def test_options_are_checked(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        UNetOptions(**given)
    assert "\n" not in str(error.value)
