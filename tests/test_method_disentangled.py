"""Disentangled synthesis against the paper: sizes, LAF and AdaIN in closed form, losses, settings, ablations."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synthmr.batch import Batch
from synthmr.errors import UsageError
from synthmr.methods.configure import build_config
from synthmr.methods.disentangled import (
    GRIDS,
    Decoder,
    Discriminator,
    Disentangled,
    DisentangledOptions,
    Generator,
    LocalAdaptiveFusion,
    SharedEncoder,
    SpecificEncoder,
    adain,
    cells,
    l1_losses,
)
from synthmr.predict.windows import sees_whole_slice
from synthmr.prepare.normalize import value_range
from synthmr.train.schedule import learning_rate

SOURCES, TARGETS = ("T1w", "T2w"), ("FLAIR",)


pytestmark = pytest.mark.usefixtures("one_thread")


def count(module: nn.Module | None) -> int:
    assert module is not None
    return sum(param.numel() for param in module.parameters())


def make(sources: tuple[str, ...] = SOURCES, **options: Any) -> Disentangled:
    torch.manual_seed(0)
    return Disentangled(DisentangledOptions(**{"filters": 4, "discriminator_filters": 4, **options}), sources, TARGETS)


def make_batch(sources: tuple[str, ...] = SOURCES, size: tuple[int, int] = (48, 64), samples: int = 2, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch({name: torch.rand(samples, 1, *size, generator=generator) * 2 - 1 for name in (*sources, *TARGETS)})


class Steps:
    """A plain Adam a group, which keeps what it was given."""

    def __init__(self, method: Disentangled) -> None:
        self.groups = method.groups()
        self.optimizers = {name: torch.optim.Adam(params, 2e-4, (0.5, 0.999)) for name, params in self.groups.items()}
        self.losses: dict[str, Tensor] = {}

    def __call__(self, group: str | tuple[str, ...], loss: Tensor) -> None:
        assert isinstance(group, str)
        self.losses[group] = loss.detach()
        self.optimizers[group].zero_grad()
        loss.backward(inputs=self.groups[group], retain_graph=True)
        self.optimizers[group].step()


# --- sizes ----------------------------------------------------------------------------------------------------------------


def test_a_shared_encoder_gives_256_maps_of_64x64() -> None:
    """Section II-A-1."""
    encoder = SharedEncoder(64)
    with torch.no_grad():
        assert encoder(torch.rand(1, 1, 256, 256)).shape == (1, 256, 64, 64)
    convolutions = [each for each in encoder if isinstance(each, nn.Conv2d)]
    assert [(each.kernel_size, each.stride, each.padding, each.out_channels) for each in convolutions] == [
        ((7, 7), (1, 1), (3, 3), 64),
        ((4, 4), (2, 2), (1, 1), 128),
        ((4, 4), (2, 2), (1, 1), 256),
    ]
    assert len(encoder) == 9 + 4  # four residual blocks
    norms = [each for each in encoder.modules() if isinstance(each, nn.InstanceNorm2d)]
    assert len(norms) == 3 + 4 * 2 and all(each.affine for each in norms)  # Eq. 1: gamma and beta are learnt


def test_the_specific_encoder_is_section_2a1() -> None:
    encoder = SpecificEncoder(64, 256, 8)
    convolutions = [each for each in encoder.image if isinstance(each, nn.Conv2d)]
    assert [(each.kernel_size, each.stride, each.padding) for each in convolutions] == [
        ((7, 7), (1, 1), (3, 3)),
        *[((4, 4), (2, 2), (1, 1))] * 4,
        ((1, 1), (1, 1), (0, 0)),
    ]
    assert [each.out_channels for each in convolutions] == [64, 128, 256, 256, 256, 8]
    assert sum(isinstance(each, nn.Linear) for each in encoder.modules()) == 3
    assert not any("Norm" in type(each).__name__ for each in encoder.modules())
    with torch.no_grad():
        assert encoder.image(torch.rand(2, 1, 32, 48)).shape == (2, 8)
        deviation, mean = encoder(torch.rand(2, 1, 32, 48))
    assert deviation.shape == mean.shape == (2, 8, 256)


def test_the_decoder_has_four_adain_blocks_and_three_upsampling_ones() -> None:
    decoder = Decoder(64)
    assert len(decoder.styled) == 4
    assert not any(isinstance(each, nn.InstanceNorm2d) for each in decoder.modules())
    up = [each for each in decoder.upsample if isinstance(each, nn.ConvTranspose2d)]
    assert [(each.in_channels, each.out_channels, each.kernel_size, each.stride) for each in up] == [
        (256, 128, (4, 4), (2, 2)),
        (128, 64, (4, 4), (2, 2)),
    ]
    with torch.no_grad():
        out = Decoder(2)(torch.rand(3, 8, 6, 4), torch.ones(3, 8, 8), torch.zeros(3, 8, 8))
    assert out.shape == (3, 1, 24, 16) and out.abs().max() < 1


def test_a_transposed_convolution_of_stride_1_is_a_convolution_with_the_kernel_turned() -> None:
    """What the head of the module says of the decoder's last layer."""
    torch.manual_seed(0)
    image, kernel = torch.rand(1, 3, 9, 8), torch.rand(3, 1, 7, 7)
    turned = kernel.transpose(0, 1).flip(2, 3)
    torch.testing.assert_close(F.conv_transpose2d(image, kernel, padding=3), F.conv2d(image, turned, padding=3))


def test_the_discriminator_is_section_2b() -> None:
    judge = Discriminator(3)
    widths = [each.out_channels for each in judge if isinstance(each, nn.Conv2d)]
    assert widths == [64, 128, 256, 512, 1024]
    assert sum(isinstance(each, nn.BatchNorm2d) for each in judge) == 4
    assert not any(isinstance(each, nn.Sigmoid) for each in judge.modules())
    small = Discriminator(3, 4)
    before = small(torch.rand(5, 3, 64, 64))
    assert before.shape == (5, 1)
    last = small[-1]
    assert isinstance(last, nn.Linear)
    nn.init.constant_(last.bias, -7.0)  # a score is raw: nothing keeps it in [0, 1]
    assert float(small(torch.rand(5, 3, 64, 64)).detach().max()) < -5


@pytest.mark.parametrize(("sources", "generator"), [(1, 15_229_073), (2, 21_200_981), (3, 27_172_889)])
def test_numbers_of_parameters(sources: int, generator: int) -> None:
    """By hand: each source more costs one SRE, 256x256 3x3 kernels of Cat-Conv and its 4 kernels of LAF."""
    names = ("T1w", "T2w", "T1ce")[:sources]
    method = Disentangled(DisentangledOptions(), names, TARGETS)
    assert count(method.generator) == generator
    assert count(method.discriminator) == 11_148_097 + 1024 * (sources - 1)  # 16 weights for each of 64 filters
    sre = 49 * 64 + 16 * (64 * 128 + 128 * 256) + 2 * (64 + 128 + 256) + 4 * 2 * (9 * 256 * 256 + 2 * 256)
    assert count(method.generator.shared[0]) == sre
    assert sre + 9 * 256 * 256 + 4 == 27_172_889 - 21_200_981


@pytest.mark.parametrize("names", [("T1w",), ("T1w", "T2w"), ("T1w", "T2w", "T1ce")])
def test_cat_conv_takes_one_to_three_sources(names: tuple[str, ...]) -> None:
    method = make(names)
    first = method.generator.cat_conv[0]
    assert (first.in_channels, first.out_channels, first.kernel_size, first.stride) == (16 * len(names), 16, (3, 3), (1, 1))
    batch = make_batch(names)
    logs = method.step(batch, Steps(method))
    assert all(bool(torch.isfinite(value)) for value in logs.values())
    assert all(value.grad is not None for value in method.parameters())
    with torch.no_grad():
        assert method.eval()(batch.only(names))["FLAIR"].mean.shape == (2, 1, 48, 64)


def test_each_source_has_an_encoder_of_its_own() -> None:
    generator = make().generator
    assert len(generator.shared) == 2
    one, two = (dict(each.named_parameters()) for each in generator.shared)
    assert {key: value.shape for key, value in one.items()} == {key: value.shape for key, value in two.items()}
    assert not torch.equal(one["0.weight"], two["0.weight"])


# --- local adaptive fusion ------------------------------------------------------------------------------------------------


def laf(sources: int, blocks: int, seed: int = 0) -> LocalAdaptiveFusion:
    module = LocalAdaptiveFusion(sources, blocks)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        module.kernels.copy_(torch.randn(module.kernels.shape, generator=generator))
        module.offsets.copy_(torch.randn(module.offsets.shape, generator=generator))
    return module


@pytest.mark.parametrize("blocks", GRIDS)
@pytest.mark.parametrize("size", [(64, 48), (16, 80)])
def test_laf_is_a_1x1_convolution_a_block(blocks: int, size: tuple[int, int]) -> None:
    module = laf(3, blocks)
    image = torch.rand(2, 3, *size)
    expected = torch.full((2, 1, *size), math.nan)
    for row in range(blocks):
        for column in range(blocks):
            place = [
                slice(math.floor(k * edge / blocks + 0.5), math.floor((k + 1) * edge / blocks + 0.5))
                for k, edge in zip((row, column), size, strict=True)
            ]
            kernel = module.kernels[:, row, column].view(1, 3, 1, 1)
            block = F.conv2d(image[:, :, place[0], place[1]], kernel, module.offsets[row, column].view(1))
            expected[:, :, place[0], place[1]] = block.detach()
    torch.testing.assert_close(module(image), expected)


def test_one_block_is_a_plain_1x1_convolution() -> None:
    """Section III-D: without chunking, LAF is concatenation and a convolution."""
    module, image = laf(2, 1), torch.rand(2, 2, 20, 12)
    torch.testing.assert_close(module(image), F.conv2d(image, module.kernels.view(1, 2, 1, 1), module.offsets.view(1)))


def test_the_paper_s_blocks_are_128_pixels_with_borders_between_them() -> None:
    module = LocalAdaptiveFusion(2, 2)
    with torch.no_grad():
        module.kernels[0] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        module.kernels[1] = 0
    out = module(torch.ones(1, 2, 256, 256))[0, 0]
    quarters = [out[:128, :128], out[:128, 128:], out[128:, :128], out[128:, 128:]]
    assert [each.unique().tolist() for each in quarters] == [[1.0], [2.0], [3.0], [4.0]]


def test_cells_begin_at_rounded_shares_and_scale_with_the_image() -> None:
    assert cells(10, 4).tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]  # borders 2.5, 5 and 7.5, halves up
    assert cells(7, 1).tolist() == [0] * 7
    assert cells(16, 16).tolist() == list(range(16))
    for count_ in GRIDS:
        assert cells(240, count_)[::5].tolist() == cells(48, count_).tolist()  # the same place of the image, the same cell


def test_laf_starts_at_the_mean_of_the_sources_and_gets_gradients_block_by_block() -> None:
    module, image = LocalAdaptiveFusion(3, 4), torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(module(image), image.mean(1, keepdim=True))
    module(image)[:, :, :4, 4:8].sum().backward()
    grad = module.kernels.grad
    assert grad is not None and module.offsets.grad is not None
    torch.testing.assert_close(grad[:, 0, 1], image[0, :, :4, 4:8].sum((1, 2)))
    assert int((grad != 0).sum()) == 3 and float(module.offsets.grad.sum()) == 16


def test_the_pseudo_target_is_what_the_specific_encoder_reads_and_can_be_asked_for() -> None:
    method = make()
    batch = make_batch().only(SOURCES)
    read: list[Tensor] = []
    method.generator.specific.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    with torch.no_grad():
        method(batch)
        extra = method.map(batch, "pseudo_target")
    assert list(extra) == ["pseudo_target-FLAIR"] and torch.equal(extra["pseudo_target-FLAIR"], read[0])
    assert method.spec.maps == ("pseudo_target",)
    with pytest.raises(UsageError, match=r"attention.*it gives pseudo_target"):
        method.map(batch, "attention")


# --- adaptive instance normalisation ----------------------------------------------------------------------------------------


def test_adain_output_has_the_given_deviation_and_mean() -> None:
    """Eq. 2, whatever deviation and mean the map had."""
    torch.manual_seed(0)
    x = torch.randn(3, 5, 12, 10) * (1 + torch.rand(3, 5, 1, 1)) * 9 + 40 * torch.randn(3, 5, 1, 1)
    deviation, mean = torch.randn(3, 5), torch.randn(3, 5)
    out = adain(x, deviation, mean)
    torch.testing.assert_close(out.mean((2, 3)), mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out.std((2, 3), correction=0), deviation.abs(), rtol=1e-3, atol=1e-4)
    normalised = (x - x.mean((2, 3), keepdim=True)) / x.std((2, 3), keepdim=True, correction=0)
    torch.testing.assert_close(out, deviation[:, :, None, None] * normalised + mean[:, :, None, None], rtol=1e-3, atol=1e-3)


def test_every_adain_layer_gets_a_style_of_its_own_in_order() -> None:
    method = make()
    decoder = method.generator.decoder
    given: list[tuple[Tensor, Tensor]] = []
    for block in decoder.styled:
        block.register_forward_pre_hook(lambda module, inputs: given.append((inputs[1], inputs[2])))
    deviations, means = torch.rand(2, 8, 16), torch.rand(2, 8, 16)
    decoder(torch.rand(2, 16, 8, 8), deviations, means)
    assert torch.equal(torch.cat([each for each, _ in given], 1), deviations)
    assert torch.equal(torch.cat([each for _, each in given], 1), means)


def test_a_style_starts_near_a_plain_instance_norm() -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        specific = Generator(2, DisentangledOptions(filters=16)).specific
        with torch.no_grad():
            deviation, mean = specific(torch.rand(2, 1, 32, 32) * 2 - 1)
        assert float((deviation - 1).abs().max()) < 0.5 and float(mean.abs().max()) < 0.5
        assert float(deviation.std()) > 0 and not torch.equal(deviation[0], deviation[1])


def test_the_style_is_of_the_pseudo_target_alone_and_the_anatomy_of_the_sources() -> None:
    """Shared information does not reach the decoder through AdaIN, and specific information only through it."""
    generator = make().generator
    images = [torch.rand(1, 1, 32, 32) for _ in SOURCES]
    same, _ = generator(images)
    with torch.no_grad():
        generator.laf.offsets.add_(1)
    assert not torch.allclose(generator(images)[0], same)
    with torch.no_grad():
        generator.specific.style.weight.zero_()  # no style: what LAF gives no longer matters
    plain, _ = generator(images)
    with torch.no_grad():
        generator.laf.offsets.add_(1)
    assert torch.equal(generator(images)[0], plain)


def test_whole_slices_are_shown() -> None:
    """LAF's blocks are relative to the image, so inference must not cut a window around the brain."""
    assert sees_whole_slice(make()) and sees_whole_slice(make(gan="none"))


# --- losses ---------------------------------------------------------------------------------------------------------------


def test_equation_5() -> None:
    truth = torch.tensor([0.0, 0.5, -0.5, 1.0]).view(1, 1, 2, 2)
    fake = torch.tensor([0.5, 0.5, 0.5, 0.5]).view(1, 1, 2, 2)
    pseudo = torch.tensor([2.0, 0.5, -0.5, 1.0]).view(1, 1, 2, 2)
    target, rough = l1_losses(truth, fake, pseudo)
    assert (float(target), float(rough)) == pytest.approx(((0.5 + 0 + 1 + 0.5) / 4, 2 / 4))


@pytest.mark.parametrize("gan", ["log", "lsgan", "none"])
def test_the_losses_of_a_step_are_equations_3_to_5(gan: str) -> None:
    """Against the formulas, on the weights before the step for D and after D's update for G."""
    method, twin = make(gan=gan, l1_weight=0.3, pseudo_weight=0.2, gan_weight=0.7), make(gan=gan)
    batch, update = make_batch(), Steps(method)
    images, truth = [batch.images[name] for name in SOURCES], batch.images["FLAIR"]
    with torch.no_grad():
        fake, pseudo = twin.generator(images)
    logs = {name: float(value) for name, value in method.step(batch, update).items()}
    weighted = 0.3 * float((truth - fake).abs().mean()) + 0.2 * float((truth - pseudo).abs().mean())
    if gan == "none":
        assert set(logs) == {"G_l1", "G_pseudo"} and set(update.losses) == {"G"} == set(method.groups())
        assert float(update.losses["G"]) == pytest.approx(weighted, rel=1e-5)
        return
    assert set(logs) == {"G_l1", "G_pseudo", "G_gan", "D"} and twin.discriminator is not None

    def judged(image: Tensor) -> Tensor:
        assert twin.discriminator is not None
        score: Tensor = twin.discriminator(torch.cat([*images, image], 1).detach())
        return score.sigmoid() if gan == "log" else score

    def called(scores: Tensor, real: bool) -> Tensor:
        if gan == "log":
            return -(scores if real else 1 - scores).log().mean()
        return (scores - float(real)).square().mean()

    d_loss = 0.5 * (called(judged(truth), True) + called(judged(fake), False))
    assert float(update.losses["D"]) == pytest.approx(float(d_loss.detach()), rel=1e-4)
    optimizer = torch.optim.Adam(twin.discriminator.parameters(), 2e-4, (0.5, 0.999))
    d_loss.backward()
    optimizer.step()
    adversarial = float(called(judged(fake), True).detach())
    assert logs["G_gan"] == pytest.approx(adversarial, rel=1e-3)
    assert float(update.losses["G"]) == pytest.approx(weighted + 0.7 * adversarial, rel=1e-3)


# --- the paper's settings -------------------------------------------------------------------------------------------------


def test_the_paper_preset_is_sections_2d_and_3a() -> None:
    config = build_config(Disentangled, "paper", {}, [], SOURCES, TARGETS, value_range=value_range)
    sample, train, options = config.sample, config.train, config.options
    assert (sample.mode, sample.crop, sample.batch, sample.min_brain) == ("slices", (240, 240), 3, 0.0)
    assert (sample.resize, sample.middle) == ((256, 256), 80)
    assert config.sample.plane == "axial" and config.prepare.normalizer == "minmax"
    assert (train.optimizer, train.lr, train.beta1, train.epochs) == ("adam", 2e-4, 0.5, 200)
    assert (options.l1_weight, options.pseudo_weight, options.gan_weight, options.gan) == (0.1, 0.1, 1.0, "log")
    assert (options.filters, options.specific_filters, options.discriminator_filters) == (64, 0, 64)
    assert (options.blocks, options.discriminator_rate) == (2, 1.0)
    assert (train.weight_decay, train.warmup, train.clip, train.ema) == (0.0, 0, 0.0, 0.0)
    assert not any(dataclasses.asdict(config.augment).values())
    rates = [learning_rate(train, epoch / 200, 1000 * epoch) for epoch in (0, 50, 100, 150, 200)]
    assert rates == pytest.approx([2e-4, 2e-4, 2e-4, 1e-4, 0.0], abs=1e-12)


def test_the_weights_of_the_baseline_are_an_option_and_the_fast_preset_s() -> None:
    words = ["l1_weight=100", "pseudo_weight=100"]
    config = build_config(Disentangled, "paper", {}, words, SOURCES, TARGETS, value_range=value_range)
    assert (config.options.l1_weight, config.options.pseudo_weight) == (100.0, 100.0)
    fast = build_config(Disentangled, "fast", {}, [], SOURCES, TARGETS, value_range=value_range).options
    assert fast.l1_weight == 100.0


def test_d_keeps_its_own_adam() -> None:
    own = make(discriminator_rate=0.3).optimizer_overrides()
    assert own == {"D": {"rate": 0.3, "betas": (0.5, 0.999), "weight_decay": 0.0}}


# --- ablations ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", GRIDS)
def test_every_grid_of_figure_6_trains(blocks: int) -> None:
    config = build_config(
        Disentangled, "paper", {}, [f"options.blocks={blocks}", "options.filters=2"], SOURCES, TARGETS, value_range=value_range
    )
    torch.manual_seed(0)
    method = Disentangled(dataclasses.replace(config.options, discriminator_filters=2), SOURCES, TARGETS)
    assert method.generator.laf.kernels.shape == (2, blocks, blocks)
    before = method.generator.laf.kernels.detach().clone()
    update = Steps(method)
    batch = make_batch(size=(32, 64))
    losses = [float(method.step(batch, update)["G_pseudo"]) for _ in range(3)]
    assert losses[-1] < losses[0]
    assert bool((method.generator.laf.kernels != before).all())  # every block learns


def test_a_pseudo_target_that_only_one_block_grid_can_make_is_learnt_by_it() -> None:
    """The target is T1 in the left half and T2 in the right: two blocks reach it, one cannot."""
    errors = {}
    for blocks in (1, 2):
        module = LocalAdaptiveFusion(2, blocks)
        optimizer = torch.optim.Adam(module.parameters(), 0.05)
        generator = torch.Generator().manual_seed(0)
        for _ in range(150):
            images = torch.rand(2, 2, 16, 16, generator=generator) * 2 - 1
            truth = torch.cat([images[:, :1, :, :8], images[:, 1:, :, 8:]], 3)
            loss = F.l1_loss(module(images), truth)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        errors[blocks] = float(loss.detach())
    assert errors[2] < 0.05 < 0.2 < errors[1]


def test_specific_filters_change_the_specific_encoder_alone() -> None:
    wide, narrow = make().generator, make(specific_filters=2).generator
    assert narrow.specific.image[0].out_channels == 2 and wide.specific.image[0].out_channels == 4
    assert count(narrow) - count(narrow.specific) == count(wide) - count(wide.specific)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("gan", "wgan"),
        ("blocks", 3),
        ("blocks", 0),
        ("blocks", 32),
        ("filters", 0),
        ("specific_filters", -1),
        ("discriminator_filters", 0),
        ("l1_weight", -1.0),
        ("pseudo_weight", math.nan),
        ("gan_weight", math.inf),
        ("discriminator_rate", -0.1),
    ],
)
def test_options_that_make_no_sense_are_refused(key: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"^options\.{key}=") as error:
        DisentangledOptions(**{key: value})
    assert "\n" not in str(error.value)


# --- who learns from what -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gan", ["log", "lsgan"])
def test_d_learns_from_detached_images_and_g_through_d(gan: str) -> None:
    method = make(gan=gan, l1_weight=0.0, pseudo_weight=0.0)
    groups, seen = method.groups(), []

    def update(group: str | tuple[str, ...], loss: Tensor) -> None:
        seen.append(group)
        reached = {
            name: sum(each is not None and bool(each.abs().max() > 0) for each in grads)
            for name, params in groups.items()
            for grads in [torch.autograd.grad(loss, params, allow_unused=True, retain_graph=True)]
        }
        if group == "D":
            assert reached["G"] == 0 and reached["D"] > 0
        else:  # the adversarial loss alone reaches all of G, LAF and both encoders too
            assert reached["G"] == len(groups["G"])

    method.step(make_batch(), update)
    assert seen == ["D", "G"]  # Section II-D


def test_d_sees_the_sources_and_the_truth_or_the_synthesised_target() -> None:
    method, batch, judged = make(), make_batch(), []
    assert method.discriminator is not None
    method.discriminator.register_forward_pre_hook(lambda module, inputs: judged.append(inputs[0]))
    method.step(batch, lambda group, loss: None)
    real, fake, for_g = judged
    stacked = batch.stack(SOURCES)
    for shown in judged:
        assert shown.shape == (2, 3, 48, 64) and torch.equal(shown[:, :2], stacked)
    assert torch.equal(real[:, 2:], batch.images["FLAIR"]) and torch.equal(fake, for_g.detach())
    assert for_g.requires_grad and not real.requires_grad and not fake.requires_grad


def test_forward_asks_no_discriminator_and_needs_no_target() -> None:
    method, ran = make(), []
    for name, module in method.named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    with torch.no_grad():
        method.eval()(make_batch().only(SOURCES))
    assert {"generator.laf", "generator.specific", "generator.shared.1", "generator.cat_conv", "generator.decoder"} <= set(ran)
    assert not [name for name in ran if name.startswith("discriminator")]


def test_a_style_change_of_the_sources_changes_the_style() -> None:
    """An instance norm makes the shared maps blind to gain and offset; the specific path is not."""
    generator = make().generator
    images = [torch.rand(1, 1, 32, 32) for _ in SOURCES]
    dimmed = [0.5 * image - 0.3 for image in images]
    stacked = [torch.cat(each, 1) for each in (images, dimmed)]
    one, two = (generator.specific(generator.laf(each)) for each in stacked)
    assert not torch.allclose(one[0], two[0]) and not torch.allclose(one[1], two[1])
    scaled = generator.shared[0](3 * images[0])
    torch.testing.assert_close(scaled, generator.shared[0](images[0]), rtol=1e-2, atol=1e-2)


# --- what is refused ------------------------------------------------------------------------------------------------------


def test_images_too_small_for_the_discriminator_are_refused() -> None:
    method = make()
    message = r"needs two images of 32x32, or one of 32x64, and was given 1 of 32x48;.*options\.gan=none"
    with pytest.raises(UsageError, match=message) as error:
        method.step(make_batch(size=(32, 48), samples=1), Steps(method))
    assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="given 2 of 16x64"):
        method.step(make_batch(size=(16, 64)), Steps(method))
    for size, samples in (((32, 32), 2), ((32, 64), 1)):
        method.step(make_batch(size=size, samples=samples), Steps(method))
    without = make(gan="none")
    without.step(make_batch(size=(16, 16), samples=1), Steps(without))


def test_two_targets_are_refused() -> None:
    with pytest.raises(UsageError, match="disentangled takes 1 target contrasts and was given 2"):
        build_config(Disentangled, "paper", {}, [], SOURCES, ("FLAIR", "T1ce"), value_range=value_range)


def test_a_normaliser_that_tanh_cannot_reach_is_refused() -> None:
    with pytest.raises(UsageError, match="disentangled gives values in"):
        build_config(Disentangled, "fast", {}, ["prepare.normalizer=zscore"], SOURCES, TARGETS, value_range=value_range)
