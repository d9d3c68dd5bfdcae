"""What CUT and MAF-Net may use beside their papers: places of the brain, more and coarser judgement."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from synthmr.batch import Batch
from synthmr.errors import UsageError
from synthmr.methods.cut import Cut, CutOptions
from synthmr.methods.mafnet import MafNet, MafNetOptions
from synthmr.methods.parts.patchnce import draw_places, patch_nce
from synthmr.methods.parts.unpaired import on_background, shrink

SOURCES, TARGET = ("T1w", "T2w"), "FLAIR"
TINY: dict[str, Any] = {"filters": 4, "discriminator_filters": 4, "hidden": 8, "patches": 40}
METHODS = ("cut", "mafnet")

pytestmark = pytest.mark.usefixtures("one_thread")


def make(name: str, **options: Any) -> Cut | MafNet:
    torch.manual_seed(0)
    if name == "cut":
        return Cut(CutOptions(**TINY, blocks=5, **options), SOURCES, (TARGET,))
    # one encoder over stacked sources: CUT's generator
    return MafNet(MafNetOptions(**TINY, decoder_blocks=0, segmenter=False, fusion="single", **options), SOURCES, (TARGET,))


def make_batch(size: tuple[int, int] = (64, 80)) -> Batch:
    """Two samples with brains of their own; outside them, and outside that of the target, -1, and in a black part of the target."""
    generator = torch.Generator().manual_seed(1)
    brain, other = torch.zeros(2, 1, *size, dtype=torch.bool), torch.zeros(2, 1, *size, dtype=torch.bool)
    brain[0, :, 8:40, 16:48] = brain[1, :, 24:56, 8:56] = True
    other[:, :, 4:50, 10:70] = True

    def image(inside: Tensor) -> Tensor:
        return torch.where(inside, torch.rand(2, 1, *size, generator=generator) * 1.8 - 0.9, -1.0)

    images = {**{name: image(brain) for name in SOURCES}, TARGET: image(other)}
    images[TARGET][:, :, 20:30, 30:50] = -1.0
    return Batch(images, mask=brain, target_mask=other, paired=False)


class Record:
    """An update that keeps the losses, in their order, and changes nothing."""

    def __init__(self) -> None:
        self.groups: list[str] = []

    def __call__(self, group: str | tuple[str, ...], loss: Tensor) -> None:
        self.groups.append(str(group))


def logs_of(method: Cut | MafNet, batch: Batch, record: Record | None = None) -> dict[str, float]:
    method.progress = 0.0
    torch.manual_seed(4)
    return {key: float(value) for key, value in method.step(batch, record or Record()).items()}


def by_hand(method: Cut | MafNet, batch: Batch, scale: int, brain: bool) -> dict[str, float]:
    """The objective of the papers, on images with an empty background and with places of the brain if asked."""
    x, real = batch.stack(SOURCES), batch.images[TARGET]
    features = method.generator.features if isinstance(method, Cut) else lambda image: method.generator.features(image)[0]
    heads: Any = method.heads if isinstance(method, Cut) else method.heads[0]
    encoder: Any = method.generator.encoder if isinstance(method, Cut) else method.generator.encoders[0]

    def generate(image: Tensor) -> Tensor:
        return method.generator(image)[0] if isinstance(method, Cut) else method.generator([image[:, :1], image[:, 1:]])[0]

    def compared(made: Tensor, origin: Tensor, within: Tensor) -> float:
        both = (
            features(made.expand(-1, 2, -1, -1) if isinstance(method, Cut) else made),
            encoder.features(origin, method.options.layers),
        )
        return float(patch_nce(heads, both[0], both[1], 40, 0.07, within if brain else None))

    def scores(image: Tensor) -> Tensor:
        height, width = (size // scale * scale for size in image.shape[2:])
        blocks = image[..., :height, :width].unfold(2, scale, scale).unfold(3, scale, scale)
        return method.discriminator(blocks.mean(dim=(4, 5)))

    assert batch.mask is not None and batch.target_mask is not None
    torch.manual_seed(4)
    with torch.no_grad():
        fake = generate(x)
        if brain:
            fake = fake.masked_fill(~batch.mask, -1.0)
        both = real.expand(-1, 2, -1, -1)
        return {
            "D": 0.5 * float((scores(real) - 1).square().mean() + scores(fake).square().mean()),
            "G_gan": float((scores(fake) - 1).square().mean()),
            "G_nce": compared(fake, x, batch.mask),
            "G_idt": compared(generate(both), both, batch.target_mask),
        }


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("brain", "scale"), [(False, 1), (True, 1), (False, 2), (True, 2)])
def test_a_step_is_the_papers_objective_on_what_it_looks_at(name: str, brain: bool, scale: int) -> None:
    method, batch = make(name, brain=brain, discriminator_scale=scale), make_batch()
    assert logs_of(method, batch) == pytest.approx(by_hand(method, batch, scale, brain), rel=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_with_brain_nothing_real_is_outside_the_target_s_own_brain(name: str) -> None:
    """A resize draws the target over its border, where no generated image has anything."""
    batch = make_batch()
    assert batch.target_mask is not None
    leaking = replace(batch, images={**batch.images, TARGET: torch.where(batch.target_mask, batch.images[TARGET], -0.8)})
    assert logs_of(make(name, brain=True), leaking) == logs_of(make(name, brain=True), batch)
    assert logs_of(make(name), leaking) != logs_of(make(name), batch)


@pytest.mark.parametrize("name", METHODS)
def test_with_brain_the_outside_of_the_sources_mask_is_not_looked_at(name: str) -> None:
    """A generator that draws something else there is told the same; without, it is told otherwise."""
    batch = make_batch()
    for brain, same in ((True, True), (False, False)):
        method = make(name, brain=brain)
        made, drawn = method.generator.forward, []

        def elsewhere(images: Any, made: Any = made, drawn: list[int] = drawn) -> Any:
            image, maps = made(images)
            drawn.append(1)
            assert batch.mask is not None
            return (torch.where(batch.mask, image, 0.5), maps) if len(drawn) == 3 else (image, maps)  # the second step's image

        method.generator.forward = elsewhere  # type: ignore[method-assign]
        first, second = (logs_of(method, batch) for _ in range(2))
        assert (first == second) is same, (first, second)


@pytest.mark.parametrize("name", METHODS)
def test_without_a_mask_there_is_no_brain_to_look_at(name: str) -> None:
    batch = replace(make_batch(), mask=None, target_mask=None)
    assert logs_of(make(name, brain=True), batch) == logs_of(make(name), batch)


@pytest.mark.parametrize("name", METHODS)
def test_the_discriminator_is_updated_as_often_as_asked(name: str) -> None:
    for steps in (1, 3):
        record = Record()
        logs_of(make(name, discriminator_steps=steps), make_batch(), record)
        assert record.groups == ["D"] * steps + ["G"]


@pytest.mark.parametrize("name", METHODS)
def test_a_coarse_judge_needs_larger_images(name: str) -> None:
    with pytest.raises(
        UsageError,
        match=rf"{name}'s discriminator needs images of 96x96 or more and was given 64x80; .* options.discriminator_scale=1",
    ):
        logs_of(make(name, discriminator_scale=3), make_batch())


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("key", ["discriminator_steps", "discriminator_scale"])
def test_counts_start_at_one(name: str, key: str) -> None:
    with pytest.raises(UsageError, match=rf"options\.{key}=0: at least 1"):
        make(name, **{key: 0})


def test_places_are_drawn_in_the_brain_of_each_sample() -> None:
    batch = make_batch()
    assert batch.mask is not None
    features = [torch.zeros(2, 1, 64, 80), torch.zeros(2, 3, 16, 20)]
    torch.manual_seed(0)
    for maps, at in zip(features, draw_places(features, 30, batch.mask), strict=True):
        step = 64 // maps.shape[2]
        assert at.shape == (2, 30)
        for sample, places in enumerate(at.tolist()):
            rows, columns = zip(*(divmod(place, maps.shape[3]) for place in places), strict=True)
            assert len(set(places)) == 30
            assert all(batch.mask[sample, 0, row * step, column * step] for row, column in zip(rows, columns, strict=True))
    assert set(draw_places(features, 30, batch.mask)[0][0].tolist()) != set(draw_places(features, 30, batch.mask)[0][0].tolist())
    seen = {place for _ in range(200) for place in draw_places(features[1:], 10, batch.mask)[0][0].tolist()}
    assert len(seen) == 8 * 8  # all of the first brain, a quarter of its size


def test_a_small_brain_is_drawn_whole_before_anything_else() -> None:
    brain = torch.zeros(2, 1, 6, 7, dtype=torch.bool)
    brain[0, 0, 2, 3:5] = True  # two places; none in the other sample
    (at,) = draw_places([torch.zeros(2, 1, 6, 7)], 5, brain)
    assert {2 * 7 + 3, 2 * 7 + 4} < set(at[0].tolist()) and all(len(set(each)) == 5 for each in at.tolist())
    (every,) = draw_places([torch.zeros(2, 1, 6, 7)], 100, brain)
    assert all(sorted(each) == list(range(42)) for each in every.tolist())


def test_places_in_a_padded_image_are_those_of_the_brain() -> None:
    """Layer 0 is the image with three mirrored pixels on every side."""
    batch = make_batch()
    assert batch.mask is not None
    padded = torch.nn.functional.pad(batch.images["T1w"], (3, 3, 3, 3), mode="reflect")
    (at,) = draw_places([padded], int(batch.mask[0].sum()), batch.mask)
    seen = sorted(divmod(place, 80 + 6) for place in at[0].tolist())
    assert seen == [(row + 3, column + 3) for row in range(8, 40) for column in range(16, 48)]


@pytest.mark.parametrize("brain", [False, True])
def test_the_tumour_network_sees_the_background_that_the_result_has(brain: bool) -> None:
    """In the joint stage and when it is asked for a map alike."""
    torch.manual_seed(0)
    method = MafNet(MafNetOptions(**TINY, decoder_blocks=0, segmenter_filters=4, brain=brain), SOURCES, (TARGET,))
    assert method.check_data({0, 1, 2, 4}) == [] and method.segmenter is not None
    batch = make_batch()
    assert batch.mask is not None
    seen: list[Tensor] = []
    method.segmenter.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    method.progress = 1.0
    method.step(replace(batch, segmentation=torch.zeros(2, 1, 64, 80, dtype=torch.long)), Record())
    with torch.no_grad():
        method.map(batch.only(SOURCES), "segmentation")
    assert len(seen) == 2
    for given in seen:
        outside = given[:, -1:][~batch.mask]
        assert bool((outside == -1.0).all()) is brain and float(given[:, -1:][batch.mask].std()) > 0


def test_shrinking_and_the_background() -> None:
    image = torch.arange(24.0).reshape(1, 1, 4, 6)
    assert shrink(image, 1) is image and on_background(image, None) is image
    assert shrink(image, 2).tolist() == [[[[3.5, 5.5, 7.5], [15.5, 17.5, 19.5]]]]
    assert shrink(image, 4).tolist() == [[[[10.5]]]]  # the last two columns make no block
    found = on_background(image, image > 20)
    assert found.flatten()[:21].tolist() == [-1.0] * 21 and found.flatten()[21:].tolist() == [21.0, 22.0, 23.0]
