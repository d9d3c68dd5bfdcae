"""Hi-Net against the paper: sizes, equations in closed form, settings, ablations, and who learns from what."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from synthmr.batch import Batch
from synthmr.data.sampling import tile_starts
from synthmr.errors import UsageError
from synthmr.methods.configure import build_config
from synthmr.methods.hinet import (
    LEAST_JUDGED,
    Discriminator,
    Generator,
    HiNet,
    HiNetOptions,
    MixedFusionBlock,
    product_of,
    reconstruction_loss,
)
from synthmr.methods.parts.blocks import leaky
from synthmr.methods.parts.gan import discriminator_loss, generator_loss
from synthmr.prepare.normalize import value_range
from synthmr.train.schedule import learning_rate

SOURCES, TARGETS = ("T1w", "T2w"), ("FLAIR",)
#: the rows of Table V
TABLE_V: Mapping[str, Mapping[str, str]] = {
    "degraded1": {"fusion_block": "concat", "decoder_block": "concat"},
    "degraded2": {"decoder_block": "concat"},
    "degraded3": {"fusion_block": "concat"},
    "early": {"strategy": "early"},
    "late": {"strategy": "late"},
}


pytestmark = pytest.mark.usefixtures("one_thread")


def count(module: nn.Module | None) -> int:
    assert module is not None
    return sum(param.numel() for param in module.parameters())


def make(sources: tuple[str, ...] = SOURCES, **options: Any) -> HiNet:
    torch.manual_seed(0)
    return HiNet(HiNetOptions(**{"filters": 4, "discriminator_filters": 4, **options}), sources, TARGETS)


def make_batch(sources: tuple[str, ...] = SOURCES, size: tuple[int, int] = (40, 48), seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch({name: torch.rand(2, 1, *size, generator=generator) * 2 - 1 for name in (*sources, *TARGETS)})


class Steps:
    """A plain Adam a group, which keeps what it was given."""

    def __init__(self, method: HiNet) -> None:
        self.groups = method.groups()
        self.optimizers = {name: torch.optim.Adam(params, 2e-4, (0.5, 0.999)) for name, params in self.groups.items()}
        self.losses: dict[str, Tensor] = {}

    def __call__(self, group: str, loss: Tensor) -> None:
        self.losses[group] = loss.detach()
        self.optimizers[group].zero_grad()
        loss.backward(inputs=self.groups[group], retain_graph=True)
        self.optimizers[group].step()


# --- sizes ----------------------------------------------------------------------------------------------------------------


def test_numbers_of_parameters_are_those_of_the_public_code() -> None:
    method = HiNet(HiNetOptions(), SOURCES, TARGETS)
    assert count(method.generator) == 3_872_259
    assert count(method.discriminator) == 391_041
    assert count(method) == 3_872_259 + 391_041
    assert count(HiNet(HiNetOptions(norm="instance"), SOURCES, TARGETS)) == count(method)


def test_numbers_of_filters_are_those_of_sections_3a_to_3c() -> None:
    def widths(module: nn.Module | None) -> list[int]:
        assert module is not None
        return [each.out_channels for each in module.modules() if isinstance(each, nn.Conv2d)]

    method = HiNet(HiNetOptions(), SOURCES, TARGETS)
    generator = method.generator
    assert [widths(each) for each in (generator.fusion1, generator.fusion2, generator.fusion3)] == [[32, 64], [64, 128], [128, 128]]
    assert widths(generator.latent) == [256, 128]
    assert widths(generator.last) == [32, 1]
    assert widths(generator.encoders[0]) == [32, 32, 64, 64, 128, 128]
    assert widths(method.discriminator) == [32, 64, 128, 256, 1]
    assert method.discriminator is not None
    convolutions = [each for each in method.discriminator if isinstance(each, nn.Conv2d)]
    assert [each.stride for each in convolutions] == [(2, 2)] * 4 + [(1, 1)]
    for module in generator.modules():
        if isinstance(module, nn.Conv2d):
            assert (module.kernel_size, module.stride, module.padding) == ((3, 3), (1, 1), (1, 1))
        if isinstance(module, nn.LeakyReLU):
            assert module.negative_slope == 0.2


@pytest.mark.parametrize("names", [("T1w", "T2w"), ("T1w", "T2w", "PDw")])
def test_shapes(names: tuple[str, ...]) -> None:
    generator = Generator(len(names), HiNetOptions(filters=4)).eval()
    images = [torch.rand(2, 1, 24, 32) for _ in names]
    target, decoded = generator(images, reconstruct=True)
    assert target.shape == (2, 1, 24, 32) and len(decoded) == len(names)
    assert all(each.shape == (2, 1, 24, 32) for each in decoded)
    assert target.abs().max() <= 1
    assert generator(images)[1] == []
    assert torch.equal(generator(images)[0], target)


def test_encoders_and_fusion_network_are_leaky_and_decoders_are_not() -> None:
    """Section III-A; the fusion network as in the public code (the head of the module says why)."""

    def activations(*modules: nn.Module | None) -> list[type]:
        return [type(each) for module in modules if module for each in module.modules() if isinstance(each, nn.ReLU | nn.LeakyReLU)]

    generator = make().generator
    leaking = activations(generator.encoders, generator.fusion1, generator.fusion2, generator.fusion3)
    assert leaking == [nn.LeakyReLU] * (12 + 6)
    assert activations(generator.latent) == [nn.LeakyReLU, nn.ReLU]
    plain = activations(generator.reconstructions, generator.skip3, generator.skip2, generator.skip1, generator.last)
    assert plain == [nn.ReLU] * (12 + 6 + 1)


def test_weights_start_as_in_dcgan() -> None:
    method = HiNet(HiNetOptions(), SOURCES, TARGETS)
    for module in method.modules():
        if isinstance(module, nn.Conv2d):
            assert module.bias is not None and not module.bias.any()
        elif isinstance(module, nn.BatchNorm2d):
            assert not module.bias.any() and float((module.weight.detach() - 1).abs().max()) < 0.1
    for module in (method.generator.latent[0][0], method.generator.encoders[1].levels[2][1][0]):
        weight = module.weight.detach()
        assert float(weight.std()) == pytest.approx(0.02, rel=0.03) and float(weight.mean()) == pytest.approx(0, abs=2e-4)


def test_a_reconstruction_is_of_its_own_source_alone() -> None:
    """The modality-specific networks do not see each other; the target sees them all (Fig. 1)."""
    generator = make(("T1w", "T2w", "PDw")).generator.eval()
    images = [torch.rand(1, 1, 16, 24, requires_grad=True) for _ in range(3)]
    target, decoded = generator(images, reconstruct=True)
    for index, image in enumerate(decoded):
        reached = torch.autograd.grad(image.square().sum(), images, allow_unused=True, retain_graph=True)
        assert [each is not None for each in reached] == [other == index for other in range(3)]
    assert all(each is not None and bool(each.any()) for each in torch.autograd.grad(target.square().sum(), images))


# --- equations ------------------------------------------------------------------------------------------------------------


def block(sources: int, kind: str = "mfb", product: str = "plain") -> MixedFusionBlock:
    return MixedFusionBlock(sources, 1, 1, 0, leaky, kind, product, "batch")


def test_equation_2_for_two_sources() -> None:
    a, b = torch.tensor([1.0, -2.0, 3.0, 0.0]).view(1, 1, 2, 2), torch.tensor([4.0, -5.0, -6.0, -7.0]).view(1, 1, 2, 2)
    mixed = block(2).mix([a, b])
    assert mixed.shape == (1, 3, 2, 2)
    assert mixed[0, 0].flatten().tolist() == [5.0, -7.0, -3.0, -7.0]  # F+
    assert mixed[0, 1].flatten().tolist() == [4.0, 10.0, -18.0, 0.0]  # Fx
    assert mixed[0, 2].flatten().tolist() == [4.0, -2.0, 3.0, 0.0]  # Fm


def test_equation_2_for_three_sources() -> None:
    maps = [torch.tensor(values).view(1, 1, 1, 2) for values in ([1.0, -2.0], [4.0, -5.0], [-3.0, -0.5])]
    mixed = block(3).mix(maps)
    assert mixed[0].flatten().tolist() == [2.0, -7.5, -12.0, -5.0, 4.0, -0.5]
    assert torch.equal(mixed, block(3).mix(maps[::-1]))


def test_concat_stacks_the_maps() -> None:
    maps = [torch.full((1, 1, 1, 1), float(value)) for value in (1, 2, 3)]
    assert block(3, "concat").mix(maps).flatten().tolist() == [1.0, 2.0, 3.0]
    assert block(3, "concat").conv1[0].in_channels == 3
    assert block(2, "concat").conv1[0].in_channels == 2
    assert block(2).conv1[0].in_channels == 3


def test_conv2_reads_the_previous_map() -> None:
    """F_{n-1} joins after Conv1, not before it."""
    torch.manual_seed(0)
    joined = MixedFusionBlock(2, 3, 5, 4, leaky, "mfb", "plain", "batch").eval()
    assert (joined.conv1[0].in_channels, joined.conv2[0].in_channels) == (9, 7)
    maps, previous = [torch.rand(1, 3, 4, 4) for _ in range(2)], torch.rand(1, 4, 4, 4)
    expected = joined.conv2(torch.cat([joined.conv1(joined.mix(maps)), previous], 1))
    assert torch.equal(joined(maps, previous), expected)
    assert not torch.allclose(joined(maps, 2 * previous), expected)


@pytest.mark.parametrize("number", [2, 3])
def test_the_root_product_grows_like_the_maps_and_keeps_the_sign(number: int) -> None:
    value = torch.tensor([0.0, 0.5, 2.0, 30.0, -2.0])
    maps = [value, *[value.abs()] * (number - 1)]
    root = product_of(maps, "root")
    torch.testing.assert_close(root, value, rtol=0.05, atol=0.05)
    assert root[0] == 0 and root[4] == -root[2]
    power = 1 / number
    closed = (2.0**number + 1e-4) ** power - 1e-4**power
    assert float(root[2]) == pytest.approx(closed, rel=1e-6)
    assert product_of(maps, "plain").tolist() == pytest.approx([0, 0.5**number, 2.0**number, 30.0**number, -(2.0**number)])
    leaf = torch.zeros(4, requires_grad=True)
    product_of([leaf] * number, "root").sum().backward()
    assert leaf.grad is not None and bool(torch.isfinite(leaf.grad).all())


def test_the_product_of_half_precision_maps_does_not_overflow_on_the_way() -> None:
    maps = [torch.tensor([1000.0], dtype=torch.float16), torch.tensor([1000.0], dtype=torch.float16), torch.tensor([0.001]).half()]
    assert product_of(maps, "plain").dtype == torch.float16
    assert float(product_of(maps, "plain")) == pytest.approx(1000.0, rel=2e-3)


def test_equation_1() -> None:
    images = [torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)]
    decoded = [torch.tensor([1.0, -1.0, 3.0, 1.0]).view(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.5)]
    assert float(reconstruction_loss(images, decoded)) == pytest.approx(6 / 4 + 0.5)  # a sum over sources, not a mean


def test_least_squares_objective() -> None:
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([0.5, -1.0])
    assert float(generator_loss(fake, "lsgan")) == pytest.approx((0.25 + 4) / 2)
    assert float(discriminator_loss(real, fake, "lsgan")) == pytest.approx(0.5 * ((0 + 4) / 2 + (0.25 + 1) / 2))


def test_log_objective_is_equations_4_and_5() -> None:
    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([0.5, -1.0])
    generator = -(math.log(sigmoid(0.5)) + math.log(sigmoid(-1.0))) / 2
    equation5 = (
        -(math.log(sigmoid(1.0)) + math.log(sigmoid(3.0))) / 2 - (math.log(1 - sigmoid(0.5)) + math.log(1 - sigmoid(-1.0))) / 2
    )
    assert float(generator_loss(fake, "log")) == pytest.approx(generator)
    assert float(discriminator_loss(real, fake, "log")) == pytest.approx(0.5 * equation5)
    assert bool(torch.isfinite(generator_loss(torch.tensor([-1e4]), "log")))  # where log(1 - D) has no gradient or overflows


@pytest.mark.parametrize("gan", ["lsgan", "log", "none"])
def test_the_losses_of_a_step_are_weighted_as_in_equations_3_and_6(gan: str) -> None:
    method = make(gan=gan, gan_weight=0.7)
    batch = make_batch()
    update = Steps(method)
    logs = {name: float(value) for name, value in method.step(batch, update).items()}
    expected = 100 * logs["G_l1"] + 20 * logs["G_rec"] + 0.7 * logs.get("G_gan", 0.0)
    assert float(update.losses["G"]) == pytest.approx(expected, rel=1e-5)
    assert set(logs) == ({"G_l1", "G_rec"} if gan == "none" else {"G_l1", "G_rec", "G_gan", "D"})
    assert ("D" in update.losses) == (gan != "none")


def test_the_logged_losses_are_those_of_the_images() -> None:
    method = make()
    batch = make_batch()
    twin = make()
    with torch.no_grad():
        fake, decoded = twin.generator([batch.images[name] for name in SOURCES], reconstruct=True)
    logs = method.step(batch, Steps(method))
    assert float(logs["G_l1"]) == pytest.approx(float((fake - batch.images["FLAIR"]).abs().mean()), rel=1e-5)
    rec = sum(float((one - batch.images[name]).abs().mean()) for one, name in zip(decoded, SOURCES, strict=True))
    assert float(logs["G_rec"]) == pytest.approx(rec, rel=1e-5)


@pytest.mark.parametrize("error", ["mae", "mse"])
def test_the_error_is_the_one_that_was_asked_for(error: str) -> None:
    method = make(error=error, l1_weight=7.0, reconstruction_weight=0.0, gan="none")
    batch, losses = make_batch(), {}
    logs = method.step(batch, lambda group, loss: losses.update({group: float(loss.detach())}))
    with torch.no_grad():
        fake, _ = method.generator([batch.images[name] for name in SOURCES])
    difference = fake - batch.images["FLAIR"]
    wanted = difference.abs().mean() if error == "mae" else difference.square().mean()
    assert losses["G"] == pytest.approx(7 * float(wanted), rel=1e-4)
    assert float(logs["G_l1"]) == pytest.approx(float(difference.abs().mean()), rel=1e-4)


# --- the paper's settings -------------------------------------------------------------------------------------------------


def test_the_paper_preset_is_section_4() -> None:
    config = build_config(HiNet, "paper", {}, [], SOURCES, TARGETS, value_range=value_range)
    sample, train, options = config.sample, config.train, config.options
    assert (sample.mode, sample.crop, sample.patch) == ("tiles", (160, 180), (128, 128))
    tiles = [(top, left) for top in tile_starts(160, 128) for left in tile_starts(180, 128)]
    assert tiles == [(0, 0), (0, 52), (32, 0), (32, 52)]  # four overlapping patches that cover the crop
    assert config.sample.plane == "axial" and config.prepare.normalizer == "minmax"
    assert value_range("minmax") == (-1.0, 1.0)
    assert (train.optimizer, train.lr, train.epochs, train.steps, train.minutes) == ("adam", 2e-4, 300, 0, 0.0)
    assert (options.l1_weight, options.reconstruction_weight, options.gan_weight) == (100.0, 20.0, 1.0)
    assert (options.filters, options.discriminator_filters, options.discriminator_rate) == (32, 32, 1.0)
    assert (options.fusion_block, options.decoder_block, options.strategy) == ("mfb", "mfb", "hybrid")
    assert (options.product, options.norm, options.error) == ("plain", "batch", "mae")
    assert (train.weight_decay, train.warmup, train.clip, train.ema) == (0.0, 0, 0.0, 0.0)
    assert not any(dataclasses.asdict(config.augment).values())


def test_the_learning_rate_is_constant_for_100_epochs_and_falls_linearly_to_0_at_300() -> None:
    train = build_config(HiNet, "paper", {}, [], SOURCES, TARGETS, value_range=value_range).train
    rates = {epoch: learning_rate(train, epoch / 300, 1000 * epoch) for epoch in (0, 50, 100, 150, 200, 250, 300)}
    assert rates == pytest.approx({0: 2e-4, 50: 2e-4, 100: 2e-4, 150: 1.5e-4, 200: 1e-4, 250: 0.5e-4, 300: 0.0}, abs=1e-12)


def test_d_keeps_its_own_adam() -> None:
    own = make(discriminator_rate=0.3).optimizer_overrides()
    assert own == {"D": {"rate": 0.3, "betas": (0.5, 0.999), "weight_decay": 0.0}}


# --- ablations ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", TABLE_V)
def test_the_rows_of_table_v_train(row: str) -> None:
    settings = [f"options.{key}={value}" for key, value in {"filters": "4", "discriminator_filters": "4", **TABLE_V[row]}.items()]
    config = build_config(HiNet, "paper", {}, settings, SOURCES, TARGETS, value_range=value_range)
    torch.manual_seed(0)
    method = HiNet(config.options, SOURCES, TARGETS)
    before = {name: value.detach().clone() for name, value in method.named_parameters()}
    logs = method.step(make_batch(), Steps(method))
    assert all(bool(torch.isfinite(value)) for value in logs.values())
    unused = [name for name, value in method.named_parameters() if value.grad is None]
    assert unused == []
    assert any(not torch.equal(value, before[name]) for name, value in method.named_parameters())
    with torch.no_grad():
        out = method.eval()(make_batch().only(SOURCES))["FLAIR"].mean
    assert out.shape == (2, 1, 40, 48) and bool(torch.isfinite(out).all())


def test_the_rows_of_table_v_change_what_they_say() -> None:
    full = make().generator

    def blocks(generator: Generator) -> dict[str, str]:
        return {name: each.block for name, each in generator.named_modules() if isinstance(each, MixedFusionBlock)}

    fusion, decoder = {"fusion1", "fusion2", "fusion3"}, {"skip1", "skip2", "skip3"}
    assert set(blocks(full)) == fusion | decoder and set(blocks(full).values()) == {"mfb"}
    for row, concat in (("degraded1", fusion | decoder), ("degraded2", decoder), ("degraded3", fusion)):
        found = blocks(make(**TABLE_V[row]).generator)
        assert {name for name, kind in found.items() if kind == "concat"} == concat
    early, late = make(**TABLE_V["early"]).generator, make(**TABLE_V["late"]).generator
    assert len(full.encoders) == 2 and len(early.encoders) == 1 and len(late.encoders) == 2
    assert early.fusion1 is None and early.fusion2 is None and set(blocks(early).values()) == {"concat"}
    assert late.fusion1 is None and late.fusion2 is None and late.fusion3 is not None
    sizes = {row: count(make(**options).generator) for row, options in {"full": {}, **TABLE_V}.items()}
    # both sides have the same widths, and with two sources concat spares C of the 3C inputs of each first convolution
    saved = 9 * sum(width**2 for width in (4, 8, 16))
    assert sizes["full"] - sizes["degraded2"] == sizes["full"] - sizes["degraded3"] == saved
    assert sizes["degraded1"] < sizes["degraded2"] < sizes["full"] and sizes["early"] < sizes["late"] < sizes["full"]
    assert sizes["full"] - sizes["degraded1"] == 2 * saved


def test_early_fusion_reconstructs_every_source() -> None:
    batch = make_batch()
    images = [batch.images[name] for name in SOURCES]
    _, decoded = make(**TABLE_V["early"]).generator(images, reconstruct=True)
    assert [each.shape for each in decoded] == [image.shape for image in images]


def test_the_other_options_change_the_network() -> None:
    batch = make_batch().only(SOURCES)
    with torch.no_grad():
        plain, root = (make(product=kind).train()(batch)["FLAIR"].mean for kind in ("plain", "root"))
        assert not torch.equal(plain, root)
    assert make(gan="none").discriminator is None and set(make(gan="none").groups()) == {"G"}
    kinds = {norm: {type(each) for each in make(norm=norm).modules()} for norm in ("batch", "instance")}
    assert nn.BatchNorm2d in kinds["batch"] and nn.InstanceNorm2d not in kinds["batch"]
    assert nn.InstanceNorm2d in kinds["instance"] and nn.BatchNorm2d not in kinds["instance"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fusion_block", "mbf"),
        ("strategy", "hybird"),
        ("gan", "wgan"),
        ("error", "rmse"),
        ("product", "square"),
        ("filters", 0),
        ("discriminator_filters", 0),
        ("l1_weight", -1.0),
        ("gan_weight", math.inf),
        ("reconstruction_weight", math.nan),
    ],
)
def test_options_that_make_no_sense_are_refused(key: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"options\.{key}="):
        HiNetOptions(**{key: value})


# --- who learns from what -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gan", ["lsgan", "log"])
def test_d_learns_from_detached_images_and_g_through_d(gan: str) -> None:
    method = make(gan=gan, l1_weight=0.0, reconstruction_weight=0.0)
    generator, discriminator = method.groups()["G"], method.groups()["D"]
    seen = []

    def update(group: str, loss: Tensor) -> None:
        seen.append(group)
        into = {"G": generator, "D": discriminator}
        reached = {
            name: sum(each is not None and bool(each.abs().max() > 0) for each in grads)
            for name, params in into.items()
            for grads in [torch.autograd.grad(loss, params, allow_unused=True, retain_graph=True)]
        }
        if group == "D":
            assert reached["G"] == 0 and reached["D"] > 0
        else:  # the adversarial loss alone reaches G: the fake that it judges is not detached
            assert reached["G"] > 0

    method.step(make_batch(), update)
    assert seen == ["G", "D"]


def test_d_judges_one_image_at_a_time_the_truth_as_real_and_g_as_fake() -> None:
    method = make()
    batch = make_batch()
    judged: list[Tensor] = []
    assert method.discriminator is not None
    method.discriminator.register_forward_pre_hook(lambda module, inputs: judged.append(inputs[0]))
    logs = method.step(batch, lambda group, loss: None)
    assert all(image.shape == (2, 1, 40, 48) for image in judged)
    for_g, truth, fake = judged
    assert for_g.requires_grad and not truth.requires_grad and not fake.requires_grad
    assert torch.equal(truth, batch.images["FLAIR"]) and torch.equal(fake, for_g.detach())
    with torch.no_grad():
        real, false = method.discriminator(truth), method.discriminator(fake)
    assert float(logs["D"]) == pytest.approx(float(0.5 * ((real - 1).square().mean() + false.square().mean())), rel=1e-5)
    assert float(logs["G_gan"]) == pytest.approx(float((false - 1).square().mean()), rel=1e-5)


def test_forward_runs_neither_reconstruction_nor_discriminator() -> None:
    method = make()
    ran: list[str] = []
    for name, module in method.named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    with torch.no_grad():
        method.eval()(make_batch().only(SOURCES))
    assert "generator.fusion1" in ran and "generator.last" in ran and "generator.encoders.1" in ran
    assert not [name for name in ran if "reconstruction" in name or "discriminator" in name]
    ran.clear()
    method.train().step(make_batch(), lambda group, loss: None)
    assert {"generator.reconstructions.0", "generator.reconstructions.1", "discriminator"} <= set(ran)


# --- what is refused ------------------------------------------------------------------------------------------------------


def test_one_source_is_refused() -> None:
    with pytest.raises(UsageError, match="hinet takes 2 to 8 source contrasts and was given 1 \\(T1w\\)"):
        build_config(HiNet, "paper", {}, [], SOURCES[:1], TARGETS, value_range=value_range)
    with pytest.raises(UsageError, match="hinet needs T1w, T2w and T2w is missing"):
        make().eval()(make_batch().only(["T1w"]))


def test_images_too_small_for_the_discriminator_are_refused() -> None:
    method = make()
    with pytest.raises(UsageError, match=r"40x40 or more and was given 32x48;.*options\.gan=none"):
        method.step(make_batch(size=(LEAST_JUDGED - 8, 48)), Steps(method))
    without = make(gan="none")
    without.step(make_batch(size=(LEAST_JUDGED - 8, 48)), Steps(without))
    assert Discriminator(4)(torch.rand(1, 1, LEAST_JUDGED, LEAST_JUDGED)).shape == (1, 1, 1, 1)


def test_three_sources_train() -> None:
    names = ("T1w", "T2w", "PDw")
    method = make(names)
    method.step(make_batch(names), Steps(method))
    assert len(method.generator.encoders) == 3
    assert all(value.grad is not None for value in method.parameters())
