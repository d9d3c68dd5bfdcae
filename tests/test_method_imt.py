"""IMT against the paper: sizes, equations in closed form, the noise, the rows of Table 1, and who learns from what."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from synthmr.batch import Batch
from synthmr.errors import UsageError
from synthmr.methods.configure import build_config
from synthmr.methods.imt import Generator, Imt, ImtOptions, Noise, pad_to, pixel_loss
from synthmr.methods.parts.patchgan import LEAST, PatchGAN
from synthmr.prepare.normalize import value_range
from synthmr.train.schedule import learning_rate

SOURCES, TARGETS = ("T1w", "T2w"), ("FLAIR",)
#: Table 1
ROWS: Mapping[str, Mapping[str, Any]] = {"cGAN + L1": {}, "cGAN": {"l1_weight": 0.0}, "L1": {"gan": "none"}}


pytestmark = pytest.mark.usefixtures("one_thread")


def count(module: nn.Module | None) -> int:
    assert module is not None
    return sum(param.numel() for param in module.parameters())


def make(sources: tuple[str, ...] = SOURCES, targets: tuple[str, ...] = TARGETS, **options: Any) -> Imt:
    torch.manual_seed(0)
    return Imt(ImtOptions(**{"filters": 4, "levels": 4, "discriminator_filters": 4, **options}), sources, targets)


def make_batch(
    sources: tuple[str, ...] = SOURCES, targets: tuple[str, ...] = TARGETS, size: tuple[int, int] = (32, 48), number: int = 2
) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch({name: torch.rand(number, 1, *size, generator=generator) * 2 - 1 for name in (*sources, *targets)})


def predict(method: Imt, batch: Batch) -> Tensor:
    with torch.no_grad():
        return method(batch)[TARGETS[0]].mean


class Record:
    """An update that keeps the order of groups and the losses and changes nothing."""

    def __init__(self) -> None:
        self.losses: dict[str, Tensor] = {}

    def __call__(self, group: str | tuple[str, ...], loss: Tensor) -> None:
        assert isinstance(group, str) and group not in self.losses
        self.losses[group] = loss

    def value(self, group: str) -> float:
        return float(self.losses[group].detach())


class Steps(Record):
    """Plain gradient descent that changes the weights in place."""

    def __init__(self, method: Imt, lr: float = 1e-2) -> None:
        super().__init__()
        self.groups, self.lr = method.groups(), lr

    def __call__(self, group: str | tuple[str, ...], loss: Tensor) -> None:
        super().__call__(group, loss)
        assert isinstance(group, str)
        gradients = torch.autograd.grad(loss, self.groups[group])
        with torch.no_grad():
            for param, gradient in zip(self.groups[group], gradients, strict=True):
                param.sub_(self.lr * gradient)


class Constant(nn.Module):
    """A stub of G: the first source times a gain."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * x[:, :1]


class Scores(nn.Module):
    """A stub of D: the mean of the judged image (the last channel) plus the product of its mean and the condition's."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.tensor(0.3))
        self.judged: list[Tensor] = []

    def forward(self, pair: Tensor) -> Tensor:
        self.judged.append(pair)
        return pair[:, -1].mean(dim=(1, 2)) * (1 + pair[:, 0].mean(dim=(1, 2))) + self.offset


def stubbed(gain: float = 0.5, **options: Any) -> tuple[Imt, Scores]:
    method, scores = make(**options), Scores()
    method.generator, method.discriminator = Constant(gain), scores  # type: ignore[assignment]
    return method, scores


# --- sizes ----------------------------------------------------------------------------------------------------------------


def test_number_of_parameters_by_hand() -> None:
    """16 weights a pair of maps (4x4); scale and offset a normalised map; a bias in the last layer alone."""
    encoder = [(1, 64), (64, 128), (128, 256), (256, 512), (512, 512), (512, 512), (512, 512), (512, 512)]
    decoder = [(512, 512), (1024, 512), (1024, 512), (1024, 512), (1024, 256), (512, 128), (256, 64), (128, 1)]
    weights = sum(16 * fan_in * fan_out for fan_in, fan_out in encoder + decoder)
    norms = 2 * (128 + 256 + 4 * 512) + 2 * (4 * 512 + 256 + 128 + 64)
    expected = weights + norms + 1
    assert expected == 54_407_809
    with torch.device("meta"):  # nothing is drawn
        assert [count(Generator(1, 1, ImtOptions(norm=norm))) for norm in ("instance", "batch")] == [expected] * 2
        colours = Generator(3, 3, ImtOptions())
    # pix2pix for colours, 3 in and 3 out, as its public code reports: 54.414 million
    more = 2 * 16 * 64 + 2 * 16 * 128 + 2
    assert count(colours) == expected + more == 54_413_955


def test_number_of_parameters_of_the_discriminator_by_hand() -> None:
    layers = [(2, 64), (64, 128), (128, 256), (256, 512), (512, 1)]
    expected = sum(16 * fan_in * fan_out + fan_out for fan_in, fan_out in layers) + 2 * (128 + 256 + 512)
    method = make(sources=("T1w",), discriminator_filters=64)
    assert count(method.discriminator) == expected == 2_765_505


def test_filters_are_those_of_the_paper() -> None:
    with torch.device("meta"):
        generator = Generator(2, 1, ImtOptions())
    down = [each for each in generator.encoder.modules() if isinstance(each, nn.Conv2d)]
    up = [each for each in generator.decoder.modules() if isinstance(each, nn.ConvTranspose2d)]
    assert [each.out_channels for each in down] == [64, 128, 256, 512, 512, 512, 512, 512]
    assert [each.in_channels for each in up] == [512, 1024, 1024, 1024, 1024, 512, 256, 128]
    assert [each.out_channels for each in up] == [512, 512, 512, 512, 256, 128, 64, 1]
    for each in (*down, *up):
        assert (each.kernel_size, each.stride, each.padding) == ((4, 4), (2, 2), (1, 1))


def test_layers_of_each_level() -> None:
    def names(levels: nn.ModuleList) -> list[list[str]]:
        return [[type(each).__name__ for each in level.children()] for level in levels]

    generator = Generator(1, 1, ImtOptions(filters=4, norm="batch"))
    assert names(generator.encoder) == [
        ["Conv2d", "LeakyReLU"],
        *[["Conv2d", "BatchNorm2d", "LeakyReLU"]] * 6,
        ["Conv2d"],
    ]
    assert names(generator.decoder) == [
        *[["ReLU", "ConvTranspose2d", "BatchNorm2d", "Noise"]] * 3,
        *[["ReLU", "ConvTranspose2d", "BatchNorm2d"]] * 4,
        ["ReLU", "ConvTranspose2d", "Tanh"],
    ]
    assert all(each.negative_slope == 0.2 for each in generator.modules() if isinstance(each, nn.LeakyReLU))
    assert all(each.probability == 0.5 for each in generator.modules() if isinstance(each, Noise))


def test_the_innermost_map_is_one_pixel_and_every_skip_joins_its_mirror() -> None:
    generator = Generator(1, 1, ImtOptions(filters=2)).eval()
    seen: list[tuple[int, int]] = []
    for level in (*generator.encoder, *generator.decoder):
        level.register_forward_hook(lambda module, given, out: seen.append((given[0].shape[1], out.shape[2])))
    with torch.no_grad():
        generator(torch.rand(1, 1, 256, 256))
    assert [edge for _, edge in seen] == [128, 64, 32, 16, 8, 4, 2, 1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert [width for width, _ in seen[8:]] == [16, 32, 32, 32, 32, 16, 8, 4]


def test_a_skip_carries_detail_past_the_bottleneck() -> None:
    """With a silent bottleneck the image still depends on the input, through each skip alone as well."""
    torch.manual_seed(0)
    generator = Generator(1, 1, ImtOptions(filters=4, levels=4, norm="batch")).eval()
    x = torch.rand(1, 1, 32, 32)
    base = generator(x)
    for level in range(3):  # every encoder level but the innermost
        handle = generator.encoder[level].register_forward_hook(lambda module, given, out: out + 1)
        assert not torch.allclose(generator(x), base)
        handle.remove()
    nn.init.zeros_(next(generator.encoder[-1].parameters()))
    quiet, other = generator(x), generator(x.flip(-1))
    assert not torch.allclose(quiet, other)


def test_one_score_sees_70_by_70_pixels() -> None:
    """The support of a score's gradient. Batch norm in evaluation mode: statistics would reach over the whole image."""
    torch.manual_seed(0)
    discriminator = PatchGAN(2, 4).eval()
    pair = torch.rand(1, 2, 128, 160, requires_grad=True)
    scores = discriminator(pair)
    assert scores.shape == (1, 1, 14, 18)
    (reached,) = torch.autograd.grad(scores[0, 0, 6, 8], pair)
    for channel in reached[0]:
        rows, columns = channel.any(dim=1).nonzero().flatten(), channel.any(dim=0).nonzero().flatten()
        assert (int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1) == (70, 70)
        assert channel[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()


def test_weights_start_as_in_the_reference() -> None:
    method = make(filters=16)
    for module in method.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.weight.numel() > 2000:
            assert float(module.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
        if isinstance(module, nn.InstanceNorm2d):
            assert not module.bias.any() and 0 < float((module.weight.detach() - 1).abs().max()) < 0.1


# --- sizes of images ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (7, 33), (32, 48), (45, 61)])
def test_any_size_comes_back(size: tuple[int, int]) -> None:
    method = make().eval()
    out = predict(method, make_batch(size=size))
    assert out.shape == (2, 1, *size)
    assert out.abs().max() <= 1 and bool(torch.isfinite(out).all())


def test_far_borders_are_repeated_and_cropped() -> None:
    method = make().eval()
    batch = make_batch(size=(45, 61))
    x = batch.stack(SOURCES)
    padded = pad_to(x, 16)
    assert padded.shape[2:] == (48, 64)
    assert torch.equal(padded[..., :45, :61], x)
    assert torch.equal(padded[..., 45:, :61], x[..., 44:45, :].expand(-1, -1, 3, -1))
    assert torch.equal(padded[..., 61:], padded[..., 60:61].expand(-1, -1, -1, 3))
    assert pad_to(padded, 16) is padded
    by_hand = Batch({name: padded[:, index : index + 1] for index, name in enumerate(SOURCES)})
    assert torch.equal(predict(method, batch), predict(method, by_hand)[..., :45, :61])


def test_training_at_an_odd_size_of_one_sample() -> None:
    """One pixel innermost, one sample: nothing there may be normalised."""
    method = make(levels=6).train()
    steps = Steps(method)
    method.step(make_batch(size=(33, 51), number=1), steps)
    assert all(math.isfinite(steps.value(group)) for group in "GD")


def test_images_that_are_too_small_to_judge_are_refused() -> None:
    small = make_batch(size=(LEAST - 1, 64))
    with pytest.raises(UsageError, match=rf"imt's discriminator needs images of {LEAST}x{LEAST} or more.*{LEAST - 1}x64") as error:
        make().step(small, Record())
    assert "\n" not in str(error.value)
    make(gan="none").step(small, Record())
    make().step(make_batch(size=(LEAST, LEAST), number=1), Record())


# --- normalisation and noise ----------------------------------------------------------------------------------------------


def test_instance_norm_is_batch_norm_of_one_slice_in_training_and_at_test() -> None:
    """Implementation details: "our approach can be regarded as instance normalization when batchsize = 1"."""
    batch = make_batch(number=1)
    ours = make(norm="instance", dropout=0.0)
    printed = make(norm="batch", dropout=0.0)
    missing = printed.generator.load_state_dict(ours.generator.state_dict(), strict=False)
    assert all("running" in name or "num_batches" in name for name in missing.missing_keys) and not missing.unexpected_keys
    expected = predict(printed.train(), batch)
    torch.testing.assert_close(predict(ours.train(), batch), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(predict(ours.eval(), batch), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(predict(printed.eval(), batch), expected, atol=1e-3)  # running statistics


def test_the_discriminator_has_batch_norm_and_raw_scores() -> None:
    method = make(norm="instance")
    assert method.discriminator is not None
    kinds = [type(each) for each in method.discriminator]
    assert kinds.count(nn.BatchNorm2d) == 3 and kinds[-1] is nn.Conv2d


def test_dropout_is_noise_in_training_and_off_at_test() -> None:
    method, batch = make(), make_batch()
    method.train()
    assert not torch.equal(predict(method, batch), predict(method, batch))
    method.eval()
    before = torch.get_rng_state()
    assert torch.equal(predict(method, batch), predict(method, batch))
    assert torch.equal(torch.get_rng_state(), before)  # and no random number is spent


def test_noise_at_test() -> None:
    method, batch = make(noise_at_test=True).eval(), make_batch()
    torch.manual_seed(3)
    one, two = predict(method, batch), predict(method, batch)
    assert not torch.allclose(one, two, atol=1e-4)
    torch.manual_seed(3)
    assert torch.equal(predict(method, batch), one)
    still = make().eval()
    still.load_state_dict(method.state_dict())
    assert not torch.equal(predict(still, batch), one)


def test_noise_keeps_the_mean() -> None:
    x = torch.ones(200, 500)
    torch.manual_seed(0)
    out = Noise(0.25, always=False).train()(x)
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert float(out.mean()) == pytest.approx(1, abs=0.01)
    assert float((out == 0).float().mean()) == pytest.approx(0.25, abs=0.01)


def test_no_dropout_is_deterministic_in_training() -> None:
    method, batch = make(dropout=0.0).train(), make_batch()
    assert not any(isinstance(each, Noise) for each in method.modules())
    assert torch.equal(predict(method, batch), predict(method, batch))


# --- equations ------------------------------------------------------------------------------------------------------------


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def by_hand(batch: Batch, gain: float) -> tuple[list[float], list[float], float]:
    """(scores of the truth, scores of G's image, L1) of the stubs."""
    a, y = batch.images["T1w"], batch.images["FLAIR"]
    real = [float(t.mean() * (1 + s.mean())) + 0.3 for s, t in zip(a, y, strict=True)]
    fake = [float(gain * s.mean() * (1 + s.mean())) + 0.3 for s in a]
    return real, fake, float((gain * a - y).abs().mean())


def test_equations_1_to_3_log() -> None:
    method, _ = stubbed(gan_weight=0.7, l1_weight=30.0)
    batch, record = make_batch(), Record()
    logs = method.step(batch, record)
    real, fake, l1 = by_hand(batch, 0.5)
    adversarial = -sum(math.log(sigmoid(score)) for score in fake) / 2
    judged = -0.5 * (sum(math.log(sigmoid(s)) for s in real) + sum(math.log(1 - sigmoid(s)) for s in fake)) / 2
    assert record.value("D") == pytest.approx(judged, rel=1e-5)
    assert record.value("G") == pytest.approx(0.7 * adversarial + 30 * l1, rel=1e-5)
    assert {key: float(value) for key, value in logs.items()} == pytest.approx(
        {"G_l1": l1, "G_gan": adversarial, "D": judged}, rel=1e-5
    )


def test_equations_1_to_3_least_squares() -> None:
    method, _ = stubbed(gan="lsgan")
    batch, record = make_batch(), Record()
    method.step(batch, record)
    real, fake, l1 = by_hand(batch, 0.5)
    assert record.value("G") == pytest.approx(sum((s - 1) ** 2 for s in fake) / 2 + 100 * l1, rel=1e-5)
    assert record.value("D") == pytest.approx(0.5 * (sum((s - 1) ** 2 for s in real) + sum(s**2 for s in fake)) / 2, rel=1e-5)


def test_the_discriminator_is_shown_the_sources_beside_the_image() -> None:
    method, scores = stubbed()
    batch = make_batch()
    method.step(batch, Record())
    x, y, fake = batch.stack(SOURCES), batch.images["FLAIR"], 0.5 * batch.images["T1w"]
    assert len(scores.judged) == 3
    for pair, image in zip(scores.judged, (y, fake, fake), strict=True):
        assert torch.equal(pair, torch.cat([x, image], dim=1))
    assert [pair.requires_grad for pair in scores.judged] == [False, False, True]


def test_equation_4_the_generator_meets_the_discriminator_that_has_just_learnt() -> None:
    method, scores = stubbed(l1_weight=0.0)
    batch, steps = make_batch(), Steps(method, lr=2.0)
    method.step(batch, steps)
    assert list(steps.losses) == ["D", "G"]
    offset = float(scores.offset.detach())
    assert offset != pytest.approx(0.3, abs=1e-3)
    _, fake, _ = by_hand(batch, 0.5)
    expected = -sum(math.log(sigmoid(score - 0.3 + offset)) for score in fake) / 2
    assert steps.value("G") == pytest.approx(expected, rel=1e-5)


def test_gradients_stay_with_their_player() -> None:
    method, batch, record = make(), make_batch(), Record()
    method.train().step(batch, record)
    groups = method.groups()
    assert all(each is None for each in torch.autograd.grad(record.losses["D"], groups["G"], allow_unused=True, retain_graph=True))
    for group in "GD":
        reached = torch.autograd.grad(record.losses[group], groups[group], retain_graph=True)
        assert all(bool(torch.isfinite(each).all()) for each in reached)
    assert sum(len(params) for params in groups.values()) == len(list(method.parameters()))


@pytest.mark.parametrize("delta", [1.0, 0.25])
def test_huber_in_closed_form(delta: float) -> None:
    options = ImtOptions(pixel_loss="huber", huber_delta=delta)
    truth = torch.zeros(1, 1, 2, 2)
    errors = [0.1, -0.5, 1.5, -2.0]
    image = torch.tensor(errors).view(1, 1, 2, 2)
    terms = [0.5 * e * e if abs(e) <= delta else delta * (abs(e) - 0.5 * delta) for e in errors]
    assert float(pixel_loss(image, truth, options)) == pytest.approx(sum(terms) / 4, rel=1e-6)
    assert float(pixel_loss(image, truth, ImtOptions())) == pytest.approx(4.1 / 4, rel=1e-6)


def test_huber_is_what_the_step_minimises() -> None:
    method, _ = stubbed(gan="none", pixel_loss="huber", huber_delta=0.5, l1_weight=10.0)
    method.discriminator = None
    batch, record = make_batch(), Record()
    logs = method.step(batch, record)
    error = (0.5 * batch.images["T1w"] - batch.images["FLAIR"]).abs()
    expected = float(torch.where(error <= 0.5, 0.5 * error**2, 0.5 * (error - 0.25)).mean())
    assert list(logs) == ["G_huber"] and list(record.losses) == ["G"]
    assert record.value("G") == pytest.approx(10 * expected, rel=1e-5)


def test_several_targets_are_channels() -> None:
    targets = ("FLAIR", "T1ce")
    method, batch, record = make(targets=targets, dropout=0.0), make_batch(targets=targets), Record()
    method.train()
    logs = method.step(batch, record)
    with torch.no_grad():
        out = method(batch)
        turned = method(batch, ["T1ce", "FLAIR"])
    assert list(out) == ["FLAIR", "T1ce"] and list(turned) == ["T1ce", "FLAIR"]
    assert all(torch.equal(out[name].mean, turned[name].mean) for name in targets)
    expected = sum(float((out[name].mean - batch.images[name]).abs().mean()) for name in targets) / 2
    assert float(logs["G_l1"]) == pytest.approx(expected, rel=1e-5)
    first = method.discriminator[0] if method.discriminator is not None else None
    assert isinstance(first, nn.Conv2d) and first.in_channels == 4


# --- the rows of Table 1 --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS)
def test_rows_of_table_1(row: str) -> None:
    """What each row's generator descends, and that it trains."""
    method, batch, record = make(**ROWS[row]), make_batch(), Record()
    logs = {key: float(value) for key, value in method.train().step(batch, record).items()}
    assert ("D" in record.losses) == ("cGAN" in row) == (method.discriminator is not None) == ("D" in method.groups())
    expected = logs.get("G_gan", 0.0) + (100 * logs["G_l1"] if "L1" in row else 0.0)
    assert record.value("G") == pytest.approx(expected, rel=1e-5)
    steps = Steps(method)
    before = {name: value.detach().clone() for name, value in method.named_parameters()}
    method.step(batch, steps)
    assert any(not torch.equal(value, before[name]) for name, value in method.generator.named_parameters("generator"))


def test_without_l1_the_truth_reaches_the_generator_through_the_discriminator_alone() -> None:
    batch = make_batch()
    other = dataclasses.replace(batch, images={**batch.images, "FLAIR": -batch.images["FLAIR"]})
    found = []
    for each in (batch, other):
        method, record = make(l1_weight=0.0, dropout=0.0).train(), Record()
        method.step(each, record)
        found.append((record.value("G"), record.value("D")))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert found[0][1] != pytest.approx(found[1][1], rel=1e-6)


# --- presets and options --------------------------------------------------------------------------------------------------


def config(preset: str, sources: tuple[str, ...] = ("T1w",)) -> Any:
    return build_config(Imt, preset, {}, [], sources, ("T2w",), value_range=value_range)


def test_paper_preset_is_the_papers() -> None:
    found = config("paper")
    assert found.options == ImtOptions()
    assert (found.options.filters, found.options.levels, found.options.dropout, found.options.l1_weight) == (64, 8, 0.5, 100)
    assert (found.train.optimizer, found.train.lr, found.train.beta1, found.train.epochs) == ("adam", 2e-4, 0.5, 600)
    assert (found.sample.mode, found.sample.batch, found.sample.min_brain) == ("slices", 1, 0)
    assert (found.sample.crop, found.sample.resize) == ((240, 240), (256, 256))
    assert found.prepare.normalizer == "minmax"
    assert {learning_rate(found.train, share, 10) for share in (0.0, 0.5, 0.99)} == {2e-4}


def test_other_presets_differ_from_it_by_what_they_name() -> None:
    paper, pix2pix, sgan = config("paper"), config("pix2pix"), config("sgan")
    assert dataclasses.replace(sgan.options, pixel_loss="l1") == paper.options and sgan.options.pixel_loss == "huber"
    assert (sgan.train, sgan.sample, sgan.prepare) == (paper.train, paper.sample, paper.prepare)
    assert pix2pix.options == paper.options and pix2pix.train.epochs == 200
    rates = [learning_rate(pix2pix.train, share, 10) for share in (0.0, 0.5, 0.75)]
    assert rates == pytest.approx([2e-4, 2e-4, 1e-4])


def test_fast_preset_uses_running_statistics_of_its_batches() -> None:
    found = config("fast")
    assert found.options.norm == "batch" and found.sample.batch >= 4
    assert Imt.spec.divisor == 1


def test_the_discriminator_keeps_its_own_optimiser() -> None:
    assert make(discriminator_rate=0.2).optimizer_overrides() == {
        "D": {"rate": 0.2, "betas": (0.5, 0.999), "weight_decay": 0.0},
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"norm": "layer"}, r"options.norm='layer'.*batch"),
        ({"gan": "wgan"}, r"options.gan='wgan'.*lsgan"),
        ({"pixel_loss": "hubber"}, r"options.pixel_loss='hubber'.*huber"),
        ({"filters": 0}, "options.filters=0: at least 1"),
        ({"discriminator_filters": 0}, "options.discriminator_filters=0: at least 1"),
        ({"levels": 1}, "options.levels=1: 2 to 10"),
        ({"levels": 11}, "options.levels=11: 2 to 10"),
        ({"dropout": 1.0}, "options.dropout=1: at least 0 and below 1"),
        ({"dropout": -0.1}, "options.dropout=-0.1"),
        ({"l1_weight": -1.0}, "options.l1_weight=-1: at least 0"),
        ({"gan_weight": math.inf}, "options.gan_weight=inf: .*finite"),
        ({"discriminator_rate": math.nan}, "options.discriminator_rate=nan"),
        ({"huber_delta": 0.0}, "options.huber_delta=0: above 0"),
        ({"l1_weight": 0.0, "gan": "none"}, "nothing to learn from"),
        ({"l1_weight": 0.0, "gan_weight": 0.0}, "nothing to learn from"),
        ({"noise_at_test": True, "dropout": 0.0}, "dropout is the noise"),
    ],
)
def test_options_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        ImtOptions(**options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("options", [{"levels": 2}, {"levels": 10, "filters": 1}, {"dropout": 0.0}])
def test_options_at_their_limits(options: dict[str, Any]) -> None:
    method = make(**options).eval()
    assert predict(method, make_batch(number=1)).shape == (1, 1, 32, 48)
