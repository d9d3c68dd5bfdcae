"""Parts of the translation methods against closed forms: the ResNet generator, the PatchGAN discriminator, PatchNCE."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synthmr.errors import UsageError
from synthmr.methods.parts.patchgan import PatchGAN, check_judged
from synthmr.methods.parts.patchnce import LAYERS, PatchHeads, check_layers, draw_places, nce, patch_nce
from synthmr.methods.parts.resnet import SKIP_REACH, Double, Halve, ResidualBlock, ResnetDecoder, ResnetEncoder, Skip


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def count(module: nn.Module) -> int:
    return sum(param.numel() for param in module.parameters())


def plain(encoder: ResnetEncoder) -> nn.Sequential:
    """A copy whose activations work out of place, and which can be cut."""
    found = nn.Sequential(*copy.deepcopy(encoder))
    for each in found.modules():
        if isinstance(each, nn.ReLU):
            each.inplace = False
    return found


# --- ResNet ---------------------------------------------------------------------------------------------------------------


def test_the_compared_layers_are_those_of_cut() -> None:
    encoder = ResnetEncoder(2, 4, 6)
    image = torch.randn(2, 2, 24, 32)
    assert isinstance(encoder[0], nn.ReflectionPad2d)
    for at, (inputs, outputs) in ((4, (4, 8)), (8, (8, 16))):
        conv = encoder[at]
        assert isinstance(conv, nn.Conv2d) and (conv.in_channels, conv.out_channels, conv.stride) == (inputs, outputs, (1, 1))
    assert [position for position, each in enumerate(encoder) if isinstance(each, ResidualBlock)] == [12, 13, 14, 15, 16, 17]
    padded, first, second, one, five = encoder.features(image, LAYERS)
    assert torch.equal(padded, F.pad(image, (3, 3, 3, 3), mode="reflect"))
    shapes = [tuple(each.shape[1:]) for each in (first, second, one, five)]
    assert shapes == [(8, 24, 32), (16, 12, 16), (16, 6, 8), (16, 6, 8)]


@pytest.mark.parametrize("layers", [LAYERS, (2, 3, 6, 7, 10, 11), (16, 0, 10), tuple(range(17)), (5,)])
def test_features_are_what_the_sequence_gives_up_to_there(layers: tuple[int, ...]) -> None:
    """In the order asked for, whatever comes after them in place."""
    encoder = ResnetEncoder(1, 4, 5)
    image = torch.randn(2, 1, 16, 20)
    given = image.clone()
    whole = plain(encoder)
    for at, found in zip(layers, encoder.features(image, layers), strict=True):
        assert torch.equal(found, whole[: at + 1](image)), at
    assert torch.equal(image, given)
    assert torch.equal(encoder(image), whole(image)) and torch.equal(encoder.features(image, (16,))[0], whole(image))
    widths = ResnetEncoder.widths(1, 4, layers)
    assert widths == [each.shape[1] for each in encoder.features(image, layers)]


def test_features_can_be_trained_through_at_every_layer() -> None:
    encoder = ResnetEncoder(1, 4, 2)
    other, layers = plain(encoder), tuple(range(len(encoder)))
    image = torch.randn(1, 1, 16, 16)
    torch.stack([each.square().mean() for each in encoder.features(image, layers)]).sum().backward()
    torch.stack([other[: at + 1](image).square().mean() for at in layers]).sum().backward()
    for mine, theirs in zip(encoder.parameters(), other.parameters(), strict=True):
        assert mine.grad is not None
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_nothing_after_the_last_layer_is_computed() -> None:
    encoder = ResnetEncoder(1, 4, 5)
    ran = []
    for position, module in enumerate(encoder):
        module.register_forward_hook(lambda *words, position=position: ran.append(position))
    encoder.features(torch.randn(1, 1, 16, 16), (8, 4))
    assert max(ran) == 8


def test_size_of_the_generator() -> None:
    def conv(inputs: int, outputs: int, edge: int) -> int:
        return inputs * outputs * edge**2 + outputs

    first = conv(1, 64, 7) + conv(64, 128, 3) + conv(128, 256, 3)
    blocks, last = 18 * conv(256, 256, 3), conv(256, 128, 3) + conv(128, 64, 3) + conv(64, 1, 7)
    assert first + blocks + last == 11_365_633
    with torch.device("meta"):
        assert count(ResnetEncoder(1, 64, 9)) + count(ResnetDecoder(1, 64, 0)) == 11_365_633
        # where the blocks stand makes no difference; a source more is 7 * 7 * 64 weights more
        assert count(ResnetEncoder(1, 64, 5)) + count(ResnetDecoder(1, 64, 4)) == 11_365_633
        assert count(ResnetEncoder(3, 64, 9)) - count(ResnetEncoder(1, 64, 9)) == 2 * 3136


def test_a_generator_keeps_the_size_and_stays_within_tanh() -> None:
    encoder, decoder = ResnetEncoder(2, 4, 1), ResnetDecoder(3, 4, 1)
    out = decoder(encoder(100 * torch.randn(2, 2, 16, 28)))
    assert out.shape == (2, 3, 16, 28) and float(out.detach().abs().max()) <= 1


@pytest.mark.parametrize("size", [(2, 2), (4, 6), (16, 10)])
def test_halving_is_a_binomial_filter_of_stride_2(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    line = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64) / 4
    kernel = (line[:, None] * line).expand(3, 1, 3, 3)
    expected = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), kernel, stride=2, groups=3)
    torch.testing.assert_close(Halve()(x), expected)
    assert torch.equal(Halve()(torch.full((1, 1, 8, 8), 0.3)), torch.full((1, 1, 4, 4), 0.3))
    # what alternates from pixel to pixel, and would make a checkerboard, is gone
    alternating = torch.ones(1, 1, 8, 8)
    alternating[..., ::2] = -1
    assert float(Halve()(alternating).abs().max()) == 0


def test_doubling_is_bilinear_at_pixel_centres() -> None:
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)

    def doubled(rows: Tensor) -> Tensor:
        """Along the last axis: three quarters of the pixel that an output lies in, a quarter of the nearer neighbour."""
        before, after = torch.cat([rows[..., :1], rows[..., :-1]], -1), torch.cat([rows[..., 1:], rows[..., -1:]], -1)
        return torch.stack([0.75 * rows + 0.25 * before, 0.75 * rows + 0.25 * after], -1).flatten(-2)

    expected = doubled(doubled(x).transpose(2, 3)).transpose(2, 3)
    torch.testing.assert_close(Double()(x), expected)
    # inside: the transpose of (1 3 3 1)/4 in both directions, at stride 2
    line = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 4
    spread = F.conv_transpose2d(x.flatten(0, 1)[:, None], (line[:, None] * line)[None, None], stride=2, padding=1)
    torch.testing.assert_close(Double()(x)[..., 2:-2, 2:-2], spread.view(2, 3, 8, 10)[..., 2:-2, 2:-2])


def test_a_constant_image_stays_constant_away_from_its_border() -> None:
    """No checkerboard, whatever the weights; a transposed convolution makes one."""
    image = torch.full((1, 1, 80, 80), 0.4)
    with torch.no_grad():
        for at, each in zip((4, 8, 11), ResnetEncoder(1, 4, 1).features(image, (4, 8, 11)), strict=True):
            edge = 6 if at > 8 else 10
            inside = each[..., edge:-edge, edge:-edge]
            assert float(inside.std(dim=(2, 3)).max()) < 1e-4, at
        decoder = ResnetDecoder(1, 4, 0)
        flat = decoder(torch.randn(1, 16, 1, 1).expand(-1, -1, 20, 20))[..., 18:-18, 18:-18]
        assert float(flat.std()) < 1e-4
        for at in (0, 4):
            decoder[at] = nn.ConvTranspose2d(16 >> (at > 0), 16 >> (at > 0), 3, stride=2, padding=1, output_padding=1)
        board = decoder(torch.randn(1, 16, 1, 1).expand(-1, -1, 20, 20))[..., 18:-18, 18:-18]
        assert float(board.std()) > 1e-2


def test_residual_block_in_its_own_words() -> None:
    block = ResidualBlock(3)
    x = torch.randn(2, 3, 6, 7)

    def half(y: Tensor, conv: nn.Module) -> Tensor:
        assert isinstance(conv, nn.Conv2d)
        y = F.conv2d(F.pad(y, (1, 1, 1, 1), mode="reflect"), conv.weight, conv.bias)
        return (y - y.mean((2, 3), keepdim=True)) / (y.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()

    convs = [each for each in block.body if isinstance(each, nn.Conv2d)]
    torch.testing.assert_close(block(x), x + half(half(x, convs[0]).clamp(min=0), convs[1]), rtol=1e-4, atol=1e-5)


def test_a_skip_is_the_mean_of_the_input_and_joins_before_the_tanh() -> None:
    image = torch.rand(2, 3, 8, 8) * 2 - 1
    skip, decoder = Skip(3, 1), ResnetDecoder(1, 4, 0)
    with torch.no_grad():
        torch.testing.assert_close(skip(image), torch.atanh(SKIP_REACH * image).mean(1, keepdim=True))
        assert bool(torch.isfinite(skip(50 * image)).all())
        x = torch.randn(2, 16, 2, 2)
        drawn = torch.atanh(decoder(x).double())
        assert torch.equal(decoder.beside(x, torch.zeros(2, 1, 8, 8)), decoder(x))
        torch.testing.assert_close(decoder.beside(x, skip(image)).double(), torch.tanh(drawn + skip(image)), rtol=1e-4, atol=1e-5)
        decoder.start_small()
        torch.testing.assert_close(torch.atanh(decoder.beside(x, skip(image))), skip(image), rtol=0, atol=0.1)


# --- PatchGAN -------------------------------------------------------------------------------------------------------------


def convolutions(network: nn.Module) -> nn.Sequential:
    """Those alone, all weights 1: instance norm and activations see the whole image."""
    found = nn.Sequential(*(each for each in network.modules() if isinstance(each, nn.Conv2d)))
    for each in found:
        nn.init.ones_(each.weight)  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("place", [(7, 7), (6, 9)])
def test_a_score_sees_70_by_70_pixels(place: tuple[int, int]) -> None:
    image = torch.zeros(1, 1, 136, 136, requires_grad=True)
    convolutions(PatchGAN(1, 2))(image)[0, 0, place[0], place[1]].backward()
    assert image.grad is not None
    seen = image.grad[0, 0].abs() > 0
    for axis, at in ((1, place[0]), (0, place[1])):
        rows = torch.nonzero(seen.any(axis)).flatten()
        # a score moves by 8 pixels, and half of the 70 lies before its own
        assert (int(rows[0]), int(rows[-1])) == (8 * at - 23, 8 * at + 46)
    assert int(seen.sum()) == 70 * 70


def test_number_of_scores_and_weights() -> None:
    with torch.no_grad():
        for height, width in ((32, 40), (64, 256), (47, 70)):
            scores = PatchGAN(2, 2)(torch.randn(1, 2, height, width))
            assert scores.shape == (1, 1, height // 8 - 2, width // 8 - 2)
    steps = ((1, 64), (64, 128), (128, 256), (256, 512), (512, 1))
    plain = sum(16 * inputs * outputs + outputs for inputs, outputs in steps)
    assert plain == 2_762_689 == count(PatchGAN(1, 64, "instance"))
    # batch norm learns a scale and an offset for all channels but the first and last layers'; an RGB image has two more inputs
    assert count(PatchGAN(1)) == plain + 2 * (128 + 256 + 512)
    assert count(PatchGAN(3, 64, "instance")) == plain + 2 * 16 * 64 == 2_764_737
    kinds = [type(each).__name__ for each in PatchGAN(1, 2, "instance")]
    assert kinds == ["Conv2d", "LeakyReLU", *["Conv2d", "InstanceNorm2d", "LeakyReLU"] * 3, "Conv2d"]
    assert not [each for each in PatchGAN(1, 2, "instance").modules() if isinstance(each, nn.BatchNorm2d)]


def test_images_that_a_discriminator_cannot_judge() -> None:
    for size in ((31, 64), (64, 31)):
        with pytest.raises(UsageError, match=rf"x's discriminator needs images of 32x32 or more and was given {size[0]}x{size[1]}"):
            check_judged(torch.zeros(1, 1, *size), "x")
    smallest = torch.randn(1, 1, 32, 32)
    check_judged(smallest, "x")
    assert bool(torch.isfinite(PatchGAN(1, 2, "instance")(smallest)).all())


# --- PatchNCE -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.07, 0.5, 2.0])
def test_eq_4_for_orthonormal_vectors(tau: float) -> None:
    """Own key at 1 (or 0), every other at 0 (or one at 1): the sum can be written down."""
    for places in (2, 5, 16):
        unit = torch.eye(16)[None, :places]
        alike = math.exp(1 / tau)
        assert float(nce(unit, unit, tau)) == pytest.approx(-math.log(alike / (alike + places - 1)), rel=1e-4, abs=1e-6)
        turned = unit.roll(1, dims=1)
        assert float(nce(unit, turned, tau)) == pytest.approx(math.log(alike + places - 1), rel=1e-5)
        assert float(nce(torch.eye(32)[None, 16 : 16 + places], F.pad(unit, (0, 16)), tau)) == pytest.approx(math.log(places))
    # one place has no negatives, and nothing to be wrong about
    assert float(nce(torch.eye(4)[None, :1], torch.eye(4)[None, 1:2], tau)) == 0


def by_hand(queries: np.ndarray, keys: np.ndarray, tau: float) -> float:
    """Eq. 4, place by place."""
    losses = []
    for q, k in zip(queries, keys, strict=True):
        for s in range(len(q)):
            own = np.exp(q[s] @ k[s] / tau)
            others = sum(np.exp(q[s] @ k[i] / tau) for i in range(len(k)) if i != s)
            losses.append(-np.log(own / (own + others)))
    return float(np.mean(losses))


def random_units(seed: int, shape: tuple[int, int, int] = (3, 7, 5)) -> Tensor:
    return F.normalize(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), dim=2)


def test_eq_4_for_any_vectors() -> None:
    queries, keys = random_units(1), random_units(2)
    for tau in (0.07, 0.4):
        assert float(nce(queries, keys, tau)) == pytest.approx(
            by_hand(queries.double().numpy(), keys.double().numpy(), tau), rel=1e-4
        )
    # the two sides are not exchangeable, and the places are
    assert float(nce(queries, keys, 0.4)) != pytest.approx(float(nce(keys, queries, 0.4)), rel=1e-4)
    order = torch.randperm(7)
    assert float(nce(queries[:, order], keys[:, order], 0.4)) == pytest.approx(float(nce(queries, keys, 0.4)), rel=1e-5)


def test_negatives_are_of_the_same_image() -> None:
    queries, keys = random_units(1), random_units(2)
    single = [float(nce(queries[n : n + 1], keys[n : n + 1], 0.07)) for n in range(3)]
    assert float(nce(queries, keys, 0.07)) == pytest.approx(sum(single) / 3, rel=1e-5)


def test_similarities_are_in_float32_whatever_autocast_says() -> None:
    queries = random_units(1, (2, 64, 32))
    keys = F.normalize(queries + 0.2 * random_units(2, (2, 64, 32)), dim=2)
    expected = float(nce(queries, keys, 0.07))
    with torch.autocast("cpu", torch.bfloat16):
        assert float(nce(queries, keys, 0.07)) == expected


def maps(seed: int, channels: int = 3, size: tuple[int, int] = (6, 5)) -> Tensor:
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def test_gradients_go_to_the_generated_image_and_the_heads_alone() -> None:
    heads = PatchHeads([3, 4], 8)
    generated, source = [maps(1), maps(2, 4)], [maps(3), maps(4, 4)]
    patch_nce(heads, generated, source, 16, 0.07).backward()
    assert all(each.grad is None for each in source)
    assert all(each.grad is not None and float(each.grad.abs().max()) > 0 for each in generated)
    assert all(param.grad is not None and float(param.grad.abs().max()) > 0 for param in heads.parameters())
    # of a layer with 30 places no more than 16 are read
    for each in generated:
        assert each.grad is not None and int((each.grad.abs().sum((0, 1)) > 0).sum()) == 16
    queries, keys = random_units(1).requires_grad_(), random_units(2).requires_grad_()
    nce(queries, keys, 0.07).backward()
    assert queries.grad is not None and keys.grad is None


def test_the_heads_learn_from_the_queries_alone() -> None:
    """What they make of the source is a constant: the gradient is that of a loss whose keys are numbers."""
    heads = PatchHeads([3], 4)
    generated, source = [maps(1)], [maps(3)]
    torch.manual_seed(5)
    found = torch.autograd.grad(patch_nce(heads, generated, source, 10, 0.07), list(heads.parameters()))
    torch.manual_seed(5)
    places = draw_places(source, 10)
    keys = heads.vectors(source, places)[0].detach().clone()
    expected = torch.autograd.grad(nce(heads.vectors(generated, places)[0], keys, 0.07), list(heads.parameters()))
    torch.testing.assert_close(found, expected)


def test_patch_nce_is_the_mean_over_layers() -> None:
    heads = PatchHeads([3, 4, 3], 8)
    generated, source = [maps(1), maps(2, 4), maps(3)], [maps(4), maps(5, 4), maps(6)]
    torch.manual_seed(1)
    whole = float(patch_nce(heads, generated, source, 9, 0.07).detach())
    torch.manual_seed(1)
    places = draw_places(source, 9)
    with torch.no_grad():
        pairs = zip(heads.vectors(generated, places), heads.vectors(source, places), strict=True)
        each = [by_hand(q.numpy(), k.numpy(), 0.07) for q, k in pairs]
    assert whole == pytest.approx(sum(each) / 3, rel=1e-4)
    assert len({round(value, 4) for value in each}) == 3


def test_vectors_are_those_of_their_places_and_of_length_1() -> None:
    heads = PatchHeads([4], 4)
    heads[0] = nn.Identity()
    image = torch.randn(2, 4, 3, 5)
    at = torch.tensor([14, 0, 6])
    found = heads.vectors([image], [at.expand(2, -1)])[0]
    for row, place in enumerate(at.tolist()):
        torch.testing.assert_close(found[:, row], F.normalize(image[:, :, place // 5, place % 5], dim=1))
    deep = PatchHeads([1, 16], 8)
    vectors = deep.vectors(
        [torch.randn(2, 1, 3, 3), torch.randn(2, 16, 3, 3)], [torch.arange(9).expand(2, -1), torch.arange(4).expand(2, -1)]
    )
    assert [tuple(each.shape) for each in vectors] == [(2, 9, 8), (2, 4, 8)]
    assert all(torch.allclose(each.norm(dim=2), torch.ones(())) for each in vectors)
    head = deep[1]
    assert isinstance(head, nn.Sequential)
    kinds = [(type(each).__name__, getattr(each, "out_features", 0)) for each in head]
    assert kinds == [("Linear", 8), ("ReLU", 0), ("Linear", 8)]
    assert count(PatchHeads([1, 16], 8)) == (1 * 8 + 8) + (16 * 8 + 8) + 2 * (8 * 8 + 8)


def test_places_are_distinct_no_more_than_there_are_and_drawn_by_the_seed() -> None:
    features = [torch.zeros(2, 1, 4, 5), torch.zeros(2, 3, 2, 2)]
    torch.manual_seed(3)
    many, few = (each[0] for each in draw_places(features, 12))
    assert [tuple(each.shape) for each in draw_places(features, 12)] == [(2, 12), (2, 4)]
    assert (len(many), len(few)) == (12, 4)
    assert len(set(many.tolist())) == 12 and sorted(few.tolist()) == [0, 1, 2, 3] and 0 <= int(many.min()) <= int(many.max()) < 20
    torch.manual_seed(3)
    again = [each[1] for each in draw_places(features, 12)]  # the same places in both samples
    assert torch.equal(again[0], many) and torch.equal(again[1], few)
    assert not torch.equal(draw_places(features, 12)[0][0], many)
    seen = {place for _ in range(30) for place in draw_places(features[:1], 3)[0][0].tolist()}
    assert seen == set(range(20))


@pytest.mark.parametrize("layers", [(), (0, 4, 4), (-1, 4), (0, 17)])
def test_layers_that_an_encoder_lacks(layers: tuple[int, ...]) -> None:
    words = ",".join(map(str, layers))
    with pytest.raises(UsageError, match=rf"options\.layers={words}: name different layers .*, 0 to 16 with options\.blocks=5\.$"):
        check_layers(layers, 5, "options.blocks")
    check_layers((16, 0), 5, "options.blocks")
    with pytest.raises(UsageError, match="0 to 12 with"):
        check_layers(LAYERS, 1, "options.blocks")
