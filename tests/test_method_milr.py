"""MILR: the paper's facts, its fusions and costs against closed form, any subset, lesion masks, planes, alignment."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import Run, Verb
from method_alone import predict_case
from synthmr import pipeline
from synthmr.batch import Batch
from synthmr.errors import DataError, UsageError
from synthmr.methods.milr import FUSIONS, MAX_TURN, Aligner, Milr, MilrOptions, disagreement, fuse, warp
from synthmr.prepare.case import prepare_case
from synthmr.run import load_run
from synthmr.train.loop import train
from tiny_run import SPLIT, make_store, tiny_config

SOURCES, TARGETS = ("T1w", "T2w", "PDw"), ("FLAIR", "T1ce")
SUBSETS = [names for count in (1, 2, 3) for names in itertools.combinations(SOURCES, count)]


pytestmark = pytest.mark.usefixtures("one_thread")


def make(sources: Sequence[str] = SOURCES, targets: Sequence[str] = TARGETS, seed: int = 0, **options: Any) -> Milr:
    torch.manual_seed(seed)
    return Milr(MilrOptions(**{"filters": 4, **options}), sources, targets).eval()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_batch(
    present: Mapping[str, Sequence[bool]] | None = None, count: int = 3, size: tuple[int, int] = (16, 24), seed: int = 0
) -> Batch:
    names = (*SOURCES, *TARGETS)
    images = {name: noise(count, 1, *size, seed=seed + k) for k, name in enumerate(names)}
    flags = {name: torch.tensor((present or {}).get(name, [True] * count)) for name in names}
    images = {name: image * flags[name][:, None, None, None] for name, image in images.items()}
    return Batch(images, flags, segmentation=torch.zeros(count, 1, *size, dtype=torch.int64))


@torch.inference_mode()
def predict(method: Milr, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Tensor]:
    return {name: output.mean for name, output in method(batch, wanted).items()}


# --- networks: the facts of the paper and of the issue ---------------------------------------------------------------------

#: (in, out) of every 3x3 convolution of the encoder, in the order of Fig. 2
ENCODER = [(1, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128)]
ENCODER += [(128, 64), (64 + 64, 64), (64, 64), (64, 32), (32 + 32, 32), (32, 32), (32, 16)]
#: of the decoder, Fig. 3; a 1x1 convolution of 16 + 32 + 32 channels follows
DECODER = [(16, 32), (32, 32), (16 + 32, 32), (32, 32)]


def layers(module: nn.Module) -> list[nn.Conv2d]:
    return [part for part in module.modules() if isinstance(part, nn.Conv2d)]


def weights_of(pairs: Sequence[tuple[int, int]]) -> int:
    return sum(9 * a * b + b for a, b in pairs)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_widths_and_number_of_parameters_are_the_papers() -> None:
    method = Milr(MilrOptions(), SOURCES, TARGETS)
    encoder, decoder = method.encoders["T2w"], method.decoders["T1ce"]
    assert [(each.in_channels, each.out_channels) for each in layers(encoder)] == ENCODER
    *body, last = layers(decoder)
    assert [(each.in_channels, each.out_channels) for each in body] == DECODER
    assert (last.in_channels, last.out_channels, last.kernel_size) == (80, 1, (1, 1))
    for each in (*layers(encoder), *body):
        assert (each.kernel_size, each.stride, each.padding, each.padding_mode) == ((3, 3), (1, 1), (1, 1), "replicate")
    assert count(encoder) == weights_of(ENCODER) == 521_744
    assert count(decoder) == weights_of(DECODER) + 81 == 37_073
    assert count(method) == 3 * 521_744 + 2 * 37_073
    assert {*method.encoders} == set(SOURCES) and {*method.decoders} == set(TARGETS) and not method.aligners
    slopes = {part.negative_slope for part in method.modules() if isinstance(part, nn.LeakyReLU)}
    assert slopes == {0.3}
    assert sum(isinstance(part, nn.LeakyReLU) for part in encoder.modules()) == len(ENCODER)  # the latent's too
    assert sum(isinstance(part, nn.LeakyReLU) for part in decoder.modules()) == len(DECODER)  # the output is linear


def test_options_change_the_widths_that_they_name() -> None:
    assert count(make(filters=32, lesion_mask=True).encoders["T1w"]) == 521_744 + 9 * 32
    hemis = make(filters=32, fusion="hemis")
    assert layers(hemis.encoders["T1w"])[-1].out_channels == 8  # Section IV-E: mean and variance make 16
    assert count(hemis.decoders["FLAIR"]) == 37_073
    assert layers(make(latent=4).decoders["FLAIR"])[0].in_channels == 4  # Table I


def test_the_latent_has_16_channels_at_image_size() -> None:
    for size in ((16, 24), (4, 4), (20, 36)):
        latents = make().encode(make_batch(size=size), SOURCES)
        assert [z.shape for z in latents] == [(3, 16, *size)] * 3


def test_a_constant_image_gives_a_constant_output() -> None:
    """Border pixels are repeated (Section IV-A); zero padding would show at the border."""
    method = make()
    batch = Batch({name: torch.full((1, 1, 16, 24), 0.7 + k) for k, name in enumerate(SOURCES)})

    def spread() -> float:
        return max(float(image.max() - image.min()) for image in predict(method, batch).values())

    assert spread() < 1e-5
    for layer in layers(method):
        layer.padding_mode = "zeros"
    assert spread() > 1e-2


def test_the_output_depends_on_a_neighbourhood_alone() -> None:
    """28 pixels of convolutions (2 + 2*2 + 4*2 + 2 + 2*2 + 1 + 2 + 1, decoder 4) and up to 3 of pooling."""
    method = make(("T1w",), ("FLAIR",))
    image = noise(1, 1, 96, 96)
    other = image.clone()
    other[..., 48, 48] += 50
    one, two = (predict(method, Batch({"T1w": each}))["FLAIR"] for each in (image, other))
    rows, columns = np.nonzero((one != two)[0, 0].numpy())
    reach = max(abs(rows - 48).max(), abs(columns - 48).max())
    assert 20 <= reach <= 31
    # pooling has a phase of 4 pixels: moving the image by 4 moves the output, away from the border
    moved = predict(method, Batch({"T1w": image.roll((4, -8), (2, 3))}))["FLAIR"]
    inner = (..., slice(40, 56), slice(40, 56))
    torch.testing.assert_close(moved[inner], one.roll((4, -8), (2, 3))[inner], rtol=1e-4, atol=1e-5)


def test_contrasts_that_a_person_names_may_hold_dots() -> None:
    method = make(("T1.pre", "T1_pre"), ("T1.post",), align=True)
    batch = Batch({"T1.pre": noise(1, 1, 16, 16), "T1_pre": noise(1, 1, 16, 16, seed=1)})
    assert list(predict(method, batch)) == ["T1.post"]
    assert count(method.encoders) == 2 * count(make(("T1w",)).encoders)
    assert not any(
        parameter.requires_grad for parameter in make(("T1.pre",), ("T1.post",), frozen=("T1.pre",)).encoders.parameters()
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fusion": "maxx"}, "options.fusion='maxx': did you mean max?"),
        ({"filters": 0}, "options.filters=0"),
        ({"latent": 0}, "options.latent=0"),
        ({"fusion": "hemis", "latent": 15}, "options.latent=15: hemis.* even"),
        ({"c1": -1.0}, "at least 0"),
        ({"c2": math.nan}, "at least 0"),
        ({"c3": math.inf}, "at least 0"),
        ({"misalign": -1.0}, "at least 0"),
        ({"c1": 0.0, "c3": 0.0}, "nothing asks for the targets"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        MilrOptions(**options)


def test_presets_hold_the_papers_settings() -> None:
    assert MilrOptions() == MilrOptions(filters=32, latent=16, fusion="max", c1=1, c2=1, c3=1)
    paper = Milr.presets["paper"]
    expected = {"prepare.normalizer": "mean", "sample.batch": 16, "sample.min_brain": 0.0, "sample.mode": "slices"}
    expected |= {"train.optimizer": "adam", "train.lr": 1e-3, "train.beta1": 0.9}  # Adam with default parameters
    assert expected.items() <= paper.items()
    assert paper["train.patience"] > 0  # stops on validation
    assert not any(key.startswith("options.") for key in paper)


# --- fusion, Sections IV-B and IV-E -----------------------------------------------------------------------------------------


def fused_by_hand(latents: Sequence[np.ndarray], present: Sequence[np.ndarray], fusion: str) -> np.ndarray:
    rows = []
    for sample in range(len(latents[0])):
        there = np.stack([z[sample] for z, flag in zip(latents, present, strict=True) if flag[sample]]).astype(np.float64)
        parts = {"max": [there.max(0)], "mean": [there.mean(0)], "hemis": [there.mean(0), there.var(0)]}
        rows.append(np.concatenate(parts[fusion]))
    return np.stack(rows)


@pytest.mark.parametrize("fusion", ["max", "mean", "hemis"])
def test_fusion_against_closed_form(fusion: str) -> None:
    latents = [noise(5, 3, 4, 6, seed=seed) - 2 for seed in range(3)]  # mostly negative: an absent 0 would win a maximum
    flags = [torch.tensor(row) for row in ([1, 1, 0, 0, 1], [1, 0, 1, 0, 1], [1, 0, 0, 1, 0])]
    present = [flag.bool() for flag in flags]
    found = fuse(latents, present, fusion)
    expected = fused_by_hand([z.numpy() for z in latents], [flag.numpy() for flag in present], fusion)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)
    # what an absent source holds is not looked at
    junk = [torch.where(flag[:, None, None, None], z, torch.full_like(z, 1e6)) for z, flag in zip(latents, present, strict=True)]
    torch.testing.assert_close(fuse(junk, present, fusion), found)
    for order in itertools.permutations(range(3)):
        turned = fuse([latents[k] for k in order], [present[k] for k in order], fusion)
        torch.testing.assert_close(turned, found)
        assert fusion != "max" or torch.equal(turned, found)


@pytest.mark.parametrize("fusion", ["max", "mean", "hemis"])
def test_one_source_and_the_same_source_twice(fusion: str) -> None:
    z, other = noise(2, 3, 4, 4), noise(2, 3, 4, 4, seed=1)
    yes = torch.ones(2, dtype=torch.bool)
    alone = fuse([z], [yes], fusion)
    expected = torch.cat([z, torch.zeros_like(z)], dim=1) if fusion == "hemis" else z
    assert torch.equal(alone, expected)
    assert torch.equal(fuse([z, z], [yes, yes], fusion), alone)
    doubled, once = fuse([z, z, other], [yes] * 3, fusion), fuse([z, other], [yes] * 2, fusion)
    assert torch.equal(doubled, once) == (fusion == "max")  # the others count votes


def test_output_mean_averages_images() -> None:
    method = make(fusion="output-mean")
    batch = make_batch({"T1w": [True, False, True]})
    each = {name: predict(method, batch.only([name])) for name in ("T2w", "PDw")}
    first = predict(method, Batch({"T1w": batch.images["T1w"]}))
    both = predict(method, batch)
    for target in TARGETS:
        two, three = (each[name][target] + each["PDw"][target] for name in ("T2w", "T2w"))
        expected = torch.stack([(first[target][0] + two[0]) / 3, three[1] / 2, (first[target][2] + two[2]) / 3])
        torch.testing.assert_close(both[target], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("names", SUBSETS)
def test_every_subset_equals_its_closed_form(fusion: str, names: tuple[str, ...]) -> None:
    method = make(fusion=fusion)
    batch = make_batch().only(names)
    out = predict(method, batch)
    assert list(out) == list(TARGETS)
    with torch.inference_mode():
        latents = [method.encoders[name](batch.images[name]) for name in names]
        for target in TARGETS:
            decoder = method.decoders[target]
            if fusion == "output-mean":
                expected = torch.stack([decoder(z) for z in latents]).mean(dim=0)
            else:
                by_hand = fused_by_hand([z.numpy() for z in latents], [np.ones(3, bool)] * len(names), fusion)
                expected = decoder(torch.from_numpy(by_hand).float())
            torch.testing.assert_close(out[target], expected, rtol=1e-4, atol=1e-5)
    one = predict(method, batch, ["T1ce"])
    assert list(one) == ["T1ce"] and torch.equal(one["T1ce"], out["T1ce"])


def test_a_sample_without_any_source_is_refused() -> None:
    batch = make_batch({name: [True, False, True] for name in SOURCES})
    with pytest.raises(UsageError, match="a sample has none of the sources T1w, T2w, PDw; give it at least one"):
        predict(make(), batch)


def test_fusion_shares() -> None:
    """Fig. 7: which source the maximum takes."""
    method = make()
    batch = make_batch({"PDw": [True, False, True]})
    with torch.inference_mode():
        shares = method.map(batch, "fusion")
        z = torch.stack(method.encode(batch, SOURCES))
    assert list(shares) == [f"fusion-{name}" for name in SOURCES]
    torch.testing.assert_close(sum(shares.values()), torch.ones(3, 1, 16, 24))
    assert not shares["fusion-PDw"][1].any() and shares["fusion-PDw"][0].any()
    wins = ((z[0] > z[1]) & (z[0] > z[2])).float().mean(dim=1, keepdim=True)
    torch.testing.assert_close(shares["fusion-T1w"][0], wins[0])
    alone = method.map(batch.only(["T2w"]), "fusion")
    assert list(alone) == ["fusion-T2w"] and bool((alone["fusion-T2w"] == 1).all())
    with pytest.raises(UsageError, match="fuses by mean, which takes no source before others"):
        make(fusion="mean").map(batch, "fusion")
    with pytest.raises(UsageError, match="gives no map 'attention'"):
        method.map(batch, "attention")


# --- costs, Section IV-D -----------------------------------------------------------------------------------------------------

#: every sample has a source, no source is in every sample
SOME = {"T1w": [True, False, True], "T2w": [True, True, False], "PDw": [False, False, True]}


class Taken:
    """An update that keeps the loss and gradients instead of stepping."""

    def __init__(self, method: Milr) -> None:
        self.method, self.losses = method, []  # type: ignore[var-annotated]

    def __call__(self, group: str | tuple[str, ...], loss: Tensor) -> None:
        assert group == "G"
        self.losses.append(float(loss.detach()))
        self.method.zero_grad()
        loss.backward()

    def gradients(self) -> dict[str, Tensor]:
        named = self.method.named_parameters()
        return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in named}


def step(batch: Batch, **options: Any) -> tuple[dict[str, float], float, dict[str, Tensor]]:
    """(logs, loss, gradients) of one step of the same weights, whatever the options."""
    method = make(**options).train()
    taken = Taken(method)
    logs = method.step(batch, taken)
    assert len(taken.losses) == 1
    assert all(not value.requires_grad for value in logs.values())
    return {name: float(value) for name, value in logs.items()}, taken.losses[0], taken.gradients()


def mae(image: Tensor, truth: Tensor) -> np.ndarray:
    """``(B,)``."""
    return np.abs(image.numpy().astype(np.float64) - truth.numpy()).mean(axis=(1, 2, 3))


@pytest.mark.parametrize("present", [None, SOME])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_costs_against_numpy(fusion: str, present: dict[str, list[bool]] | None) -> None:
    batch = make_batch(present)
    logs, loss, _ = step(batch, fusion=fusion, c1=2.0, c2=3.0, c3=5.0)
    method = make(fusion=fusion)
    flags = [batch.present[name].numpy() for name in SOURCES]
    with torch.inference_mode():
        latents = [method.encoders[name](batch.images[name]) for name in SOURCES]
        # Eq. 2: the sum over sources of the mean over targets, each over the samples that have the source
        c1 = 0.0
        for z, flag in zip(latents, flags, strict=True):
            seen = torch.cat([z, torch.zeros_like(z)], dim=1) if fusion == "hemis" else z
            c1 += np.mean([mae(method.decoders[name](seen), batch.images[name])[flag].mean() for name in TARGETS])
        # Eq. 3: the variance over the sources, mean over samples, channels and pixels
        variances = fused_by_hand([z.numpy() for z in latents], flags, "hemis")
        c2 = variances[:, variances.shape[1] // 2 :].mean()
        # Eq. 4: the mean over targets from the fused latent
        if fusion == "output-mean":
            images = {name: [method.decoders[name](z).numpy() for z in latents] for name in TARGETS}
            fused = {name: torch.from_numpy(fused_by_hand(images[name], flags, "mean")).float() for name in TARGETS}
        else:
            z = torch.from_numpy(fused_by_hand([z.numpy() for z in latents], flags, fusion)).float()
            fused = {name: method.decoders[name](z) for name in TARGETS}
        c3 = np.mean([mae(fused[name], batch.images[name]).mean() for name in TARGETS])
    assert list(logs) == ["c1", "c2", "c3"]
    np.testing.assert_allclose([logs["c1"], logs["c2"], logs["c3"]], [c1, c2, c3], rtol=1e-4)
    np.testing.assert_allclose(loss, 2 * c1 + 3 * c2 + 5 * c3, rtol=1e-4)


def pair_means(method: Milr, batch: Batch, given: dict[str, list[bool]], asked: dict[str, list[bool]]) -> tuple[float, float]:
    """c1 and c3 of max fusion, by loops over the pairs of a sample and a target that count."""
    with torch.inference_mode():
        latents = {name: method.encoders[name](batch.images[name]) for name in method.sources}
        c1 = 0.0
        for name, z in latents.items():
            errors = [
                float((method.decoders[target](z[n : n + 1]) - batch.images[target][n : n + 1]).abs().mean())
                for n in range(batch.size)
                for target in asked
                if given[name][n] and asked[target][n]
            ]
            c1 += sum(errors) / max(1, len(errors))
        errors = []
        for n in range(batch.size):
            there = [latents[name][n : n + 1] for name in method.sources if given[name][n]]
            fused = torch.stack(there).amax(dim=0)
            for target in asked:
                if asked[target][n]:
                    errors.append(float((method.decoders[target](fused) - batch.images[target][n : n + 1]).abs().mean()))
    return c1, sum(errors) / len(errors)


def test_costs_count_the_samples_that_have_the_target() -> None:
    """A sample without T1ce has a part in FLAIR's costs alone; one without any target in c2 alone."""
    given = {"T1w": [True, True, False], "T2w": [True, False, True], "PDw": [True, True, True]}
    asked = {"FLAIR": [True, True, False], "T1ce": [True, False, False]}
    batch = make_batch({**given, **asked})
    logs, loss, gradient = step(batch)
    c1, c3 = pair_means(make(), batch, given, asked)
    np.testing.assert_allclose([logs["c1"], logs["c3"]], [c1, c3], rtol=1e-5)
    np.testing.assert_allclose(loss, sum(logs.values()), rtol=1e-6)
    whole = step(make_batch(given))[0]
    assert logs["c2"] == whole["c2"] and abs(logs["c3"] - whole["c3"]) > 1e-4  # c2 asks for no target
    # what stands where a target is absent has no say
    junk = {name: torch.where(flag[:, None, None, None], batch.images[name], 9.0) for name, flag in batch.present.items()}
    other, _, same = step(replace(batch, images={**batch.images, **{name: junk[name] for name in TARGETS}}))
    assert other == logs and all(torch.equal(gradient[name], same[name]) for name in gradient)


def test_samples_without_a_target_train_the_latents_alone() -> None:
    batch = make_batch().only(SOURCES)
    logs, loss, gradient = step(batch)
    assert list(logs) == ["c2"] and loss == logs["c2"] > 0
    assert all(bool(g.abs().max() > 0) for name, g in gradient.items() if name.startswith("encoders") and g.ndim > 1)
    assert all(not bool(g.any()) for name, g in gradient.items() if name.startswith("decoders"))
    flags = dict.fromkeys(TARGETS, torch.zeros(batch.size, dtype=torch.bool))
    held = {name: torch.zeros_like(batch.images["T1w"]) for name in TARGETS}
    zeros = replace(batch, images={**batch.images, **held}, present={**batch.present, **flags})
    assert step(zeros)[0] == logs
    frozen = make(frozen=SOURCES).train()  # nothing that learns is reached: no update, and no crash
    assert list(frozen.step(batch, Taken(frozen))) == ["c2"]


def test_a_contrast_in_both_roles_is_truth_where_it_is_not_shown() -> None:
    """T2w goes in where it is shown, and is asked for elsewhere: never both in one sample."""
    sources, targets = ("T1w", "T2w"), ("T2w", "FLAIR")
    shown = {"T1w": [True] * 3, "T2w": [True, False, False]}
    batch = replace(make_batch(), shown={name: torch.tensor(flag) for name, flag in shown.items()}).only((*sources, *targets))
    asked = {"T2w": [False, True, True], "FLAIR": [True] * 3}
    method = make(sources, targets)
    taken = Taken(method.train())
    logs = method.step(batch, taken)
    c1, c3 = pair_means(make(sources, targets), batch, shown, asked)
    np.testing.assert_allclose([float(logs["c1"]), float(logs["c3"])], [c1, c3], rtol=1e-5)
    blind = replace(batch, images={**batch.images, "T2w": batch.images["T2w"] * torch.tensor([1.0, 0, 0])[:, None, None, None]})
    seen, unseen = predict(method.eval(), batch), predict(method, blind)
    assert all(torch.equal(seen[name], unseen[name]) for name in targets)


def test_disagreement_of_latents_that_agree_is_zero() -> None:
    z, yes = noise(2, 3, 4, 4), torch.ones(2, dtype=torch.bool)
    assert float(disagreement([z, z, z], [yes] * 3)) < 1e-12
    np.testing.assert_allclose(float(disagreement([z, z + 2], [yes] * 2)), 1, rtol=1e-5)  # two values 2 apart: variance 1
    assert float(disagreement([z, z + 2], [yes, ~yes])) < 1e-12  # an absent one disagrees with nobody


def test_each_cost_can_be_switched_off() -> None:
    """Table V. The gradient is the sum of those of the costs that are on, so each is what it is alone."""
    batch = make_batch()
    full, loss, all_on = step(batch)
    only1, loss1, g1 = step(batch, c2=0.0, c3=0.0)
    only3, loss3, g3 = step(batch, c1=0.0, c2=0.0)
    without1, _, g23 = step(batch, c1=0.0)
    without2, _, g13 = step(batch, c2=0.0)
    without3, _, g12 = step(batch, c3=0.0)
    assert [list(logs) for logs in (only1, only3)] == [["c1"], ["c3"]]
    assert [list(logs) for logs in (without1, without2, without3)] == [["c2", "c3"], ["c1", "c3"], ["c1", "c2"]]
    assert only1["c1"] == full["c1"] and only3["c3"] == full["c3"]
    np.testing.assert_allclose([loss1, loss3, loss], [full["c1"], full["c3"], sum(full.values())], rtol=1e-6)
    for name, gradient in all_on.items():
        for other in (g1[name] + g23[name], g3[name] + g12[name], g12[name] - g1[name] + g13[name]):
            torch.testing.assert_close(gradient, other, rtol=1e-3, atol=1e-5)
        # c2 is about encoders alone
        assert torch.equal(g12[name], g1[name]) == name.startswith("decoders")
    assert "c2" not in step(Batch(make_batch().images).only(["T1w", *TARGETS]), sources=("T1w",))[0]


def test_frozen_parts_get_no_gradient_and_stay_out_of_the_group() -> None:
    method = make(frozen=("T1w", "T2w", "FLAIR"), align=True).train()
    learning = {"encoders.PDw", "decoders.T1ce", "aligners.PDw"}
    groups = method.groups()["G"]
    for name, parameter in method.named_parameters():
        free = ".".join(name.split(".")[:2]) in learning
        assert parameter.requires_grad == free == any(parameter is each for each in groups)
    assert method.learning == TARGETS  # every target teaches the new encoder
    frozen = make(frozen=(*SOURCES, "FLAIR"))
    assert frozen.learning == ("T1ce",)  # a frozen decoder on frozen latents teaches nobody
    logs = frozen.train().step(make_batch(), Taken(frozen))
    truth = make(targets=("T1ce",))  # the same encoders (they are drawn first); the decoder is copied
    truth.decoders.load_state_dict({k: v for k, v in frozen.decoders.state_dict().items() if k.startswith("T1ce")})
    expected = truth.train().step(make_batch(), Taken(truth))
    assert {k: float(v) for k, v in logs.items()} == pytest.approx({k: float(v) for k, v in expected.items()}, rel=1e-5)


# --- lesion mask, Section VI-H -----------------------------------------------------------------------------------------------


def with_lesion(batch: Batch, label: int, box: tuple[slice, slice]) -> Batch:
    labels = torch.zeros_like(batch.images["T1w"], dtype=torch.int64)
    labels[..., box[0], box[1]] = label
    return Batch(batch.images, batch.present, segmentation=labels)


def test_the_lesion_mask_is_a_binary_second_channel() -> None:
    method = make(("T1w", "T2w"), ("FLAIR",), lesion_mask=True)
    assert method.needs == ("segmentation",) and make().needs == ()
    assert {layers(encoder)[0].in_channels for encoder in method.encoders.values()} == {2}
    batch = make_batch(size=(96, 96), count=1).only(["T1w", "T2w"])
    box = (slice(2, 6), slice(2, 6))
    empty, one, four = (predict(method, with_lesion(batch, label, box))["FLAIR"] for label in (0, 1, 4))
    assert torch.equal(one, four)
    changed = (one != empty)[0, 0]
    assert bool(changed[box].all()) and not bool(changed[40:, 40:].any())
    zero = Batch({**batch.images}, segmentation=None)
    with pytest.raises(UsageError, match="reads a lesion mask and was given no segmentation; give one, or --lesion-mask none"):
        predict(method, zero)


# --- alignment, footnote 1 ---------------------------------------------------------------------------------------------------


def test_aligners_start_at_the_identity() -> None:
    method = make(align=True)
    assert list(method.aligners) == ["T2w", "PDw"]
    batch = make_batch(size=(32, 40))
    with torch.inference_mode():
        aligned = method.encode(batch, SOURCES)
        plain = [method.encoders[name](batch.images[name]) for name in SOURCES]
    for one, two in zip(aligned, plain, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


def test_an_aligner_undoes_the_shift_that_its_affine_says() -> None:
    """T2w is T1w moved 4 pixels along W and -8 along H (multiples of the pooling's phase), seen by the same encoder."""
    method = make(("T1w", "T2w"), ("FLAIR",), align=True)
    method.encoders["T2w"].load_state_dict(method.encoders["T1w"].state_dict())
    height, width = 96, 128
    image = noise(2, 1, height, width)
    batch = Batch({"T1w": image, "T2w": image.roll((-8, 4), (2, 3))})
    inner = (..., slice(40, 56), slice(40, 88))
    with torch.inference_mode():
        fixed, moving = method.encode(batch, ("T1w", "T2w"))
        assert float((fixed - moving)[inner].abs().mean()) > 0.1
        # normalised coordinates span 2 over an edge; the network's output counts a tenth
        method.aligners["T2w"].affine.bias.copy_(10 * torch.tensor([0, 0, 2 * 4 / width, 0, 0, 2 * -8 / height]))
        fixed, moving = method.encode(batch, ("T1w", "T2w"))
        torch.testing.assert_close(moving[inner], fixed[inner], rtol=1e-3, atol=1e-3)
        # without its reference nothing moves, in the whole batch or in a sample
        alone = method.encode(batch.only(["T2w"]), ("T2w",))[0]
        assert torch.equal(alone, method.encoders["T2w"](batch.images["T2w"]))
        partly = Batch(batch.images, {"T1w": torch.tensor([True, False]), "T2w": torch.tensor([True, True])})
        _, some = method.encode(partly, ("T1w", "T2w"))
    torch.testing.assert_close(some[0], moving[0])
    assert torch.equal(some[1], alone[1])


def test_an_aligner_learns_a_shift() -> None:
    torch.manual_seed(0)
    coarse = nn.functional.interpolate(noise(1, 4, 8, 8), size=(64, 64), mode="bicubic")
    moved = warp(coarse, torch.tensor([[[1, 0, 0.15], [0, 1, -0.1]]]))
    aligner = Aligner(4)
    optimizer = torch.optim.Adam(aligner.parameters(), 1e-3)
    errors = []
    for _ in range(60):
        loss = (aligner(moved, coarse) - coarse).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(float(loss.detach()))
    assert errors[-1] < 0.2 * errors[0]


def blobs(height: int, width: int) -> tuple[Tensor, list[tuple[float, float]]]:
    """Three channels, each a Gaussian blob: in the middle, to its right, below it."""
    places = [(height / 2 - 0.5, width / 2 - 0.5), (height / 2 - 0.5, 0.75 * width), (0.75 * height, width / 2 - 0.5)]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.exp(-((rows - r) ** 2 + (columns - c) ** 2) / 8) for r, c in places])[None], places


def centres(image: Tensor) -> np.ndarray:
    """``(C, 2)`` centre of mass of each channel of ``(C, H, W)``."""
    rows, columns = torch.meshgrid(*(torch.arange(edge) for edge in image.shape[1:]), indexing="ij")
    total = image.sum(dim=(1, 2))
    return np.stack([((image * axis).sum(dim=(1, 2)) / total).numpy() for axis in (rows, columns)], axis=1)


def test_misalignment_is_a_small_rigid_motion() -> None:
    """On slices that are no squares, too: the angle between two blobs stays a right one."""
    method = make(misalign=3.0)
    image, places = blobs(48, 96)
    many = image.expand(64, -1, -1, -1)
    torch.manual_seed(1)
    found = np.stack([centres(each) for each in method._moved(many)])
    shift = np.abs(found[:, 0] - places[0])
    # the rotation turns the shift, too
    assert shift.max() <= 3 * (1 + math.sin(MAX_TURN)) and (shift.max(axis=0) > 2.5).all()
    right, below = found[:, 1] - found[:, 0], found[:, 2] - found[:, 0]
    turned = np.degrees(np.arctan2(right[:, 0], right[:, 1]))
    assert 4 < np.abs(turned).max() <= math.degrees(MAX_TURN) + 0.1
    angle = np.degrees(np.arctan2(below[:, 0], below[:, 1])) - turned
    assert np.abs(angle - 90).max() < 0.5
    np.testing.assert_allclose(np.linalg.norm(right, axis=1), places[1][1] - places[0][1], rtol=0.01)


def test_sources_but_the_first_are_moved_in_training_alone() -> None:
    method, still = make(misalign=3.0), make()
    batch = make_batch(size=(32, 32))
    with torch.inference_mode():
        plain = still.encode(batch, SOURCES)
        assert all(torch.equal(a, b) for a, b in zip(method.encode(batch, SOURCES), plain, strict=True))
        method.train()
        moved = method.encode(batch, SOURCES)
        again = method.encode(batch, SOURCES)
    assert torch.equal(moved[0], plain[0])
    assert not torch.allclose(moved[1], plain[1], atol=1e-2) and not torch.allclose(moved[2], plain[2], atol=1e-2)
    assert not torch.allclose(moved[1], again[1], atol=1e-2)  # another draw each time


# --- training ----------------------------------------------------------------------------------------------------------------


def test_patience_stops_a_run(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    words = {"options__filters": 4, "train__validate_every": 2, "train__steps": 40, "train__schedule": "constant"}
    # nothing is learnt, so no validation is better than the first
    config = tiny_config("milr", **words, train__lr=0.0, train__patience=3)
    result = train(config, store, SPLIT, tmp_path / "stopped")
    assert (result.stopped, result.steps, result.best_step) == ("patience", 8, 2)
    free = train(tiny_config("milr", **{**words, "train__steps": 12}, train__lr=0.0), store, SPLIT, tmp_path / "free")
    assert (free.stopped, free.steps) == ("budget", 12)


# --- files -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four subjects of 6 mm voxels. Read only."""
    out = tmp_path_factory.mktemp("milr") / "cohort"
    pipeline.phantom(out, 4, 3, 6, 3)
    return out


TINY = ["options.filters=4", "sample.batch=2", "train.images=false", "train.precision=32", "train.validate_every=3"]


def trained(data: Path, out: Path, cache: Path, sources: str, target: str, *settings: str) -> Path:
    torch.set_num_threads(1)
    config = pipeline.configure("milr", sources, target, settings=[*TINY, *settings], budget={"steps": 3})
    store, split = pipeline.prepared(data, config, cache=cache)
    pipeline.train(config, store, split, out)
    return out


@pytest.fixture(scope="module")
def run3(data: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """T1w, T2w, PDw -> FLAIR, T1ce. Read only."""
    return trained(data, tmp_path_factory.mktemp("run3") / "run", cache, "T1w,T2w,PDw", "FLAIR,T1ce")


@pytest.fixture(scope="module")
def lesion_run(data: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """T1w -> FLAIR with a lesion mask. Read only."""
    return trained(data, tmp_path_factory.mktemp("lesion") / "run", cache, "T1w", "FLAIR", "options.lesion_mask=true")


Call = Callable[..., str]


@pytest.fixture
def call(verb: Verb) -> Call:
    """The command line in this process: ``call("synthesize", ..., code=2)`` returns what it wrote to standard error."""

    def run(*words: object, code: int = 0) -> str:
        text = verb("-q", *words, code=code).stderr
        assert code == 0 or len(text.strip().splitlines()) == 1, text
        return text

    return run


def words_of(case: Path, names: Sequence[str]) -> list[str]:
    return [f"{name}={case / name}.nii.gz" for name in names]


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def test_every_subset_by_file(run3: Path, data: Path, tmp_path: Path, call: Call) -> None:
    case = data / "sub-004"
    mask = voxels(case / "mask.nii.gz") > 0
    found: dict[tuple[str, ...], dict[str, np.ndarray]] = {}
    for names in SUBSETS:
        out = tmp_path / ("_".join(names) + ".nii.gz")
        call("synthesize", run3, *words_of(case, names), "--mask", case / "mask.nii.gz", "-o", out)
        made = {target: out.with_name(f"{'_'.join(names)}_{target}.nii.gz") for target in TARGETS}
        found[names] = {target: voxels(path) for target, path in made.items()}
        for target, array in found[names].items():
            assert array.shape == mask.shape and np.isfinite(array).all() and not array[~mask].any() and array[mask].std() > 0
            sidecar = json.loads(made[target].with_name(f"{'_'.join(names)}_{target}.json").read_text())
            assert {entry["contrast"] for entry in sidecar["inputs"]} == {*names, "mask"}
        assert not np.array_equal(found[names]["FLAIR"], found[names]["T1ce"])
    for one, two in itertools.combinations(SUBSETS, 2):
        assert not np.array_equal(found[one]["FLAIR"], found[two]["FLAIR"]), (one, two)


def test_the_order_of_the_words_is_irrelevant(run3: Path, data: Path, tmp_path: Path, call: Call) -> None:
    case = data / "sub-001"
    files = []
    for number, names in enumerate(itertools.permutations(SOURCES)):
        out = tmp_path / str(number) / "made.nii.gz"
        out.parent.mkdir()
        call("synthesize", run3, *words_of(case, names), "-o", out)
        files.append([out.with_name(f"made_{target}.nii.gz").read_bytes() for target in TARGETS])
        inputs = json.loads(out.with_name("made_FLAIR.json").read_text())["inputs"]
        files[-1].append(json.dumps(inputs).encode())
    assert all(each == files[0] for each in files)


def test_a_cohort_whose_cases_lack_contrasts(synthmr: Run, run3: Path, data: Path, tmp_path: Path, call: Call) -> None:
    cohort, out = tmp_path / "cohort", tmp_path / "out"
    for name, kept in (("a", ("T2w",)), ("b", ("T1w", "PDw")), ("c", ("FLAIR",))):
        (cohort / name).mkdir(parents=True)
        for contrast in (*kept, "mask"):
            shutil.copy(data / "sub-002" / f"{contrast}.nii.gz", cohort / name)
    done = synthmr("synthesize", run3, cohort, "--out", out, code=1, OMP_NUM_THREADS="1")
    assert "2 written, 0 already there, 1 failed" in done.stdout
    assert "case c has none of T1w, T2w, PDw, of which this run needs one or more; it has FLAIR." in " ".join(done.stderr.split())
    assert len(list(out.glob("*.nii.gz"))) == 4
    for name, names in (("a", ("T2w",)), ("b", ("T1w", "PDw"))):
        one = tmp_path / f"{name}.nii.gz"
        call("synthesize", run3, *words_of(cohort / name, names), "--mask", cohort / name / "mask.nii.gz", "-o", one)
        for target in TARGETS:
            single, many = tmp_path / f"{name}_{target}.nii.gz", out / f"{name}_desc-synth_{target}.nii.gz"
            assert single.read_bytes() == many.read_bytes()
    text = call("synthesize", run3, *words_of(data / "sub-001", ["FLAIR"]), "-o", tmp_path / "no.nii.gz", code=2)
    assert "this run takes T1w, T2w, PDw and was given FLAIR too" in text
    assert not list(tmp_path.glob("no*"))


def test_other_planes(run3: Path, data: Path, tmp_path: Path, call: Call) -> None:
    """Section VI-I: trained axial, synthesised in every view."""
    case, arrays = data / "sub-003", {}
    source = nib.load(case / "T1w.nii.gz")
    mask = voxels(case / "mask.nii.gz") > 0
    for plane in ("", "axial", "coronal", "sagittal"):
        out = tmp_path / f"{plane or 'default'}.nii.gz"
        words = [*words_of(case, SOURCES), "--mask", case / "mask.nii.gz", "-o", out]
        call("synthesize", run3, *words, *(["--plane", plane] if plane else []))
        image = nib.load(out.with_name(f"{plane or 'default'}_FLAIR.nii.gz"))
        assert image.shape == source.shape
        np.testing.assert_allclose(image.affine, source.affine, atol=1e-6)
        arrays[plane] = np.asarray(image.dataobj)
        assert not arrays[plane][~mask].any() and (arrays[plane][mask] != 0).all()
    assert np.array_equal(arrays[""], arrays["axial"])
    for one, two in itertools.combinations(("axial", "coronal", "sagittal"), 2):
        assert not np.array_equal(arrays[one], arrays[two])
    # a view is the axial view of a volume whose axes are exchanged
    run = load_run(run3)
    prepared = prepare_case(pipeline.index(data).case("sub-003"), SOURCES, run.config.prepare, run.config.targets)
    for plane, axes in (("coronal", (0, 2, 1)), ("sagittal", (1, 2, 0))):
        turned = replace(
            prepared,
            images={name: image.transpose(axes) for name, image in prepared.images.items()},
            mask=prepared.mask.transpose(axes),
        )
        known = run.target_normalizers
        direct = predict_case(run.method, prepared, ["FLAIR"], plane, normalizers=known)["FLAIR"]
        other = predict_case(run.method, turned, ["FLAIR"], "axial", normalizers=known)["FLAIR"]
        assert np.array_equal(direct.transpose(axes), other)
    words = [*words_of(case, SOURCES), "-o", tmp_path / "no.nii.gz", "--plane", "oblique"]
    assert "'oblique'; allowed: sagittal, coronal, axial" in call("synthesize", run3, *words, code=2)
    assert not list(tmp_path.glob("no*"))


def test_lesions_on_request(lesion_run: Path, data: Path, tmp_path: Path, call: Call) -> None:
    """Section VI-H: the mask decides, and nothing else does."""
    case = data / "sub-001"
    own = nib.load(case / "seg.nii.gz")
    labels = np.asarray(own.dataobj) > 0
    brain = voxels(case / "mask.nii.gz") > 0
    other = voxels(data / "sub-002" / "seg.nii.gz") > 0
    assert labels.any() and other.any() and not np.array_equal(labels, other)

    def saved(name: str, array: np.ndarray) -> Path:
        path = tmp_path / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(array.astype(np.uint8), own.affine), path)
        return path

    def made(lesion: Path | str) -> np.ndarray:
        out = tmp_path / f"made{len(list(tmp_path.iterdir()))}.nii.gz"
        mask = ["--mask", case / "mask.nii.gz", "--lesion-mask", lesion]
        call("synthesize", lesion_run, f"T1w={case / 'T1w.nii.gz'}", *mask, "-o", out)
        return voxels(out)

    none, mine = made("none"), made(case / "seg.nii.gz")
    assert np.array_equal(made(saved("zeros", np.zeros_like(labels))), none)
    assert np.array_equal(made(saved("sevens", 7 * labels)), mine)  # inside is inside, whatever the label
    pasted = made(data / "sub-002" / "seg.nii.gz")
    assert not np.array_equal(pasted, none) and not np.array_equal(pasted, mine)
    for array, where in ((mine, labels), (pasted, other)):
        changed = array != none
        assert changed[where & brain].mean() > 0.95
        # axial slices without a lesion stay as they are
        assert not changed[:, :, ~where.any(axis=(0, 1))].any()

    # a cohort takes each case's own mask, one for all, or none
    folder = tmp_path / "cohort"
    (folder / "x").mkdir(parents=True)
    for name in ("T1w", "mask", "seg"):
        shutil.copy(case / f"{name}.nii.gz", folder / "x")
    for number, (words, expected) in enumerate(
        (([], mine), (["--lesion-mask", "none"], none), (["--lesion-mask", data / "sub-002" / "seg.nii.gz"], pasted))
    ):
        out = tmp_path / f"out{number}"
        call("synthesize", lesion_run, folder, "--out", out, *words)
        assert np.array_equal(voxels(out / "x_desc-synth_FLAIR.nii.gz"), expected)
        sidecar = json.loads((out / "x_desc-synth_FLAIR.json").read_text())
        assert ("segmentation" in {entry["contrast"] for entry in sidecar["inputs"]}) == (number != 1)
        assert sidecar["settings"].get("lesion_mask") == ("none" if number == 1 else None)
    # a result of another mask is not taken for this one
    summary = pipeline.synthesize_cohort(lesion_run, folder, tmp_path / "out0", lesion=Path("none"))
    assert "stems from other input files" in summary.failed["x"]


def test_lesion_masks_that_cannot_be(lesion_run: Path, run3: Path, data: Path, tmp_path: Path, call: Call) -> None:
    case, out = data / "sub-001", tmp_path / "no.nii.gz"
    words = (f"T1w={case / 'T1w.nii.gz'}", "-o", out)
    text = call("synthesize", lesion_run, *words, code=1)
    assert "no segmentation, which this run reads as its lesion mask; give --lesion-mask FILE, or --lesion-mask none" in text
    text = call("synthesize", run3, *words, "--lesion-mask", case / "seg.nii.gz", code=2)
    assert "this run of milr reads no lesion mask; train milr with --set options.lesion_mask=true" in text
    text = call("synthesize", lesion_run, *words, "--lesion-mask", tmp_path / "nothere.nii.gz", code=1)
    assert f"no such lesion mask: {tmp_path / 'nothere.nii.gz'}" in text
    small = tmp_path / "small.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4)), small)
    assert "segmentation of case no" in call("synthesize", lesion_run, *words, "--lesion-mask", small, code=1)
    # the output may not be the mask
    text = call("synthesize", lesion_run, *words[:1], "-o", small, "--lesion-mask", small, "--overwrite", code=2)
    assert "input" in text and voxels(small).shape == (4, 4, 4)
    assert not list(tmp_path.glob("no*"))


@pytest.mark.parametrize("part", ["train", "validation"])
def test_training_with_lesion_masks_needs_them(data: Path, cache: Path, tmp_path: Path, part: str) -> None:
    folder = tmp_path / "cohort"
    shutil.copytree(data, folder)
    row = next(line for line in (data / "splits.tsv").read_text().splitlines() if line.endswith(part))
    (folder / row.split("\t")[0] / "seg.nii.gz").unlink()
    with pytest.raises(UsageError, match="milr is asked to use segmentations and some training or validation cases have none"):
        trained(folder, tmp_path / "run", cache, "T1w", "FLAIR", "options.lesion_mask=true")
    assert not (tmp_path / "run").exists()


def test_fusion_maps_as_files(run3: Path, data: Path, tmp_path: Path, call: Call) -> None:
    case = data / "sub-001"
    out = tmp_path / "made.nii.gz"
    call("synthesize", run3, *words_of(case, ("T2w", "PDw")), "--mask", case / "mask.nii.gz", "-o", out, "--map", "fusion")
    names = {path.name for path in tmp_path.glob("*.nii.gz")}
    assert names == {f"made_{label}.nii.gz" for label in (*TARGETS, "synth-fusion-T2w", "synth-fusion-PDw")}
    total = sum(voxels(tmp_path / f"made_synth-fusion-{name}.nii.gz") for name in ("T2w", "PDw"))
    brain = voxels(case / "mask.nii.gz") > 0
    np.testing.assert_allclose(total, brain, atol=1e-6)


def test_frozen_is_no_option_of_training(data: Path) -> None:
    with pytest.raises(UsageError, match=r"options\.frozen: `synthmr extend` fills it in"):
        pipeline.configure("milr", "T1w", "FLAIR", settings=["options.frozen=T1w"])


def test_a_run_whose_case_lacks_every_source_in_memory(run3: Path, data: Path) -> None:
    run = load_run(run3)
    cohort = pipeline.index(data)
    prepared = prepare_case(cohort.cases[0], ("FLAIR",), run.config.prepare, run.config.targets)
    with pytest.raises(DataError, match="has no T1w, T2w, PDw, which this run of milr needs; it has FLAIR"):
        predict_case(run.method, prepared)
