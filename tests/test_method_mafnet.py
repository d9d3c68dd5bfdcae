"""MAF-Net against its paper: attention, Eq. 1-6, the two stages of training, what it does without segmentations, Table I."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sessions_store import SPLIT_OF_SESSIONS, sessions_store
from synthmr.batch import Batch
from synthmr.errors import DataError, UsageError
from synthmr.labels import Convention, Evidence, Seen, conventions, get
from synthmr.methods.configure import build_config
from synthmr.methods.mafnet import FUSIONS, MafBlock, MafNet, MafNetOptions
from synthmr.methods.parts.convention import NO_LABELS, code_of, convention_from
from synthmr.methods.parts.patchnce import patch_nce
from synthmr.prepare.normalize import value_range
from synthmr.run import RunFolder, load_run, load_state, method_state, read_arrays, save_arrays
from synthmr.train import loop
from synthmr.train.loop import train
from synthmr.train.runtime import Runtime, Updater
from synthmr.train.validate import Validated
from tiny_run import tiny_config

SOURCES, TARGETS = ("T1w", "T2w", "FLAIR"), ("T1ce",)
TINY: dict[str, Any] = {
    "filters": 4, "encoder_blocks": 5, "decoder_blocks": 1, "discriminator_filters": 4, "segmenter_filters": 4, "hidden": 8,
    "patches": 40,
}  # fmt: skip
CPU = Runtime(accelerator="cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def fabric() -> Any:
    return CPU.fabric()


def make(sources: tuple[str, ...] = SOURCES, **options: Any) -> MafNet:
    torch.manual_seed(0)
    return MafNet(MafNetOptions(**{**TINY, **options}), sources, TARGETS)


def make_batch(size: tuple[int, int] = (32, 48), number: int = 2, segmented: bool = True, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = {name: torch.rand(number, 1, *size, generator=generator) * 2 - 1 for name in (*SOURCES, *TARGETS)}
    labels = torch.tensor([0, 1, 2, 4])[torch.randint(4, (number, 1, *size), generator=generator)]
    return Batch(images, segmentation=labels if segmented else None, paired=False)


def sources_of(batch: Batch) -> list[Tensor]:
    return [batch.images[name] for name in SOURCES]


class Record:
    """An update that keeps the losses, in their order, and changes nothing."""

    def __init__(self) -> None:
        self.losses: dict[str, Tensor] = {}

    def __call__(self, group: str | tuple[str, ...], loss: Tensor) -> None:
        name = group if isinstance(group, str) else "+".join(group)
        assert name not in self.losses
        self.losses[name] = loss

    def value(self, group: str) -> float:
        return float(self.losses[group].detach())


def gradient(loss: Tensor, method: MafNet, group: str) -> list[Tensor]:
    """Of a loss in a group's parameters; zeros where it does not reach."""
    params = method.groups()[group]
    found = torch.autograd.grad(loss, params, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(param) if each is None else each for param, each in zip(params, found, strict=True)]


def reaches(loss: Tensor, method: MafNet, group: str) -> bool:
    return any(bool(each.abs().max() > 0) for each in gradient(loss, method, group))


# --- settings -------------------------------------------------------------------------------------------------------------


def test_the_paper_preset_is_the_papers() -> None:
    config = build_config(MafNet, "paper", {}, [], SOURCES, TARGETS, value_range=value_range)
    options = config.options
    assert options == MafNetOptions() and not options.skip
    assert (options.encoder_blocks + options.decoder_blocks, options.layers) == (9, (0, 4, 8, 12, 16))
    assert (options.temperature, options.patches, options.nce_weight, options.identity_weight) == (0.07, 256, 1.0, 1.0)
    assert (options.synthesis_weight, options.fusion, options.gan) == (1e-3, "maf", "lsgan")
    assert (config.sample.crop, config.sample.batch, config.sample.labelled) == ((224, 224), 4, "auto")
    assert config.sample.plane == "axial" and config.train.optimizer == "adam"
    assert config.train.epochs == 110 and options.alone * config.train.epochs == pytest.approx(10)
    with torch.device("meta"):
        method = MafNet(options, SOURCES, TARGETS)
    rates = {group: config.train.lr * method.optimizer_overrides().get(group, {}).get("rate", 1.0) for group in method.groups()}
    assert rates == pytest.approx({"G": 4e-4, "D": 2e-4, "S": 1e-4})


def test_sizes_of_the_networks() -> None:
    def conv(inputs: int, outputs: int, edge: int) -> int:
        return inputs * outputs * edge**2 + outputs

    with torch.device("meta"):
        method = MafNet(MafNetOptions(), SOURCES, TARGETS)
        one = MafNet(MafNetOptions(fusion="single", segmenter=False), SOURCES, TARGETS)
    encoder = conv(1, 64, 7) + conv(64, 128, 3) + conv(128, 256, 3) + 5 * 2 * conv(256, 256, 3)
    decoder = 4 * 2 * conv(256, 256, 3) + conv(256, 128, 3) + conv(128, 64, 3) + conv(64, 1, 7)
    maf = conv(3 * 256, 3, 3) + conv(3 * 256, 256, 1)
    generator = sum(param.numel() for param in method.generator.parameters())
    assert generator == 3 * encoder + maf + decoder
    assert len(method.heads) == 3 and len(one.heads) == 1
    assert sum(param.numel() for param in one.generator.parameters()) == encoder + 2 * 49 * 64 + decoder
    assert sum(param.numel() for param in method.discriminator.parameters()) == 2_762_689
    assert set(method.groups()) == {"G", "D", "S"} and set(one.groups()) == {"G", "D"} and "S" not in one.optimizer_overrides()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fusion", "max"), ("joint", "yes"), ("segmenter_input", "both"), ("gan", "wgan"), ("labels", "brats"),
        ("filters", 0), ("encoder_blocks", 0), ("discriminator_filters", 0), ("segmenter_filters", 0), ("hidden", 0),
        ("decoder_blocks", -1), ("patches", 1), ("temperature", 0.0), ("temperature", math.nan), ("alone", 1.5), ("alone", -0.1),
        ("alone", math.nan), ("layers", (0, 17)), ("layers", ()), ("segmenter_rate", -1.0), ("synthesis_weight", math.inf),
        ("nce_weight", -1.0), ("identity_weight", math.nan), ("discriminator_rate", -0.5),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(key: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"^options\.{key}=") as error:
        MafNetOptions(**{key: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("options", [{"segmenter": False}, {"segmenter_input": "sources"}])
def test_joint_learning_needs_a_segmenter_that_sees_the_synthetic_image(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"joint=true needs options\.segmenter=true and options\.segmenter_input=synthetic"):
        MafNetOptions(joint="true", **options)
    for joint in ("auto", "false"):
        MafNetOptions(joint=joint, **options)


# --- the MAF block --------------------------------------------------------------------------------------------------------


def maps(count: int, channels: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, channels, 6, 7, generator=generator) for _ in range(count)]


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_attention_sums_to_1_over_sources_at_each_place(count: int) -> None:
    block, given = MafBlock(count, 5), maps(count)
    torch.nn.init.normal_(block.attention.weight)
    fused, weights = block(given)
    assert fused.shape == (2, 5, 6, 7) and weights.shape == (2, count, 6, 7)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2, 6, 7))
    assert bool((weights >= 0).all())
    if count == 1:
        assert torch.equal(weights, torch.ones(2, 1, 6, 7))
    else:
        assert float(weights.std(dim=(2, 3)).min()) > 0.05  # it differs from place to place


@torch.no_grad()
def test_without_weights_attention_is_uniform() -> None:
    block = MafBlock(4, 5)
    for param in block.attention.parameters():
        torch.nn.init.zeros_(param)
    assert torch.equal(block(maps(4))[1], torch.full((2, 4, 6, 7), 0.25))
    assert block.attention.bias is not None
    block.attention.bias[2] = 100.0
    assert torch.equal(block(maps(4))[1][:, 2], torch.ones(2, 6, 7))


@torch.no_grad()
def test_fusion_in_its_own_words() -> None:
    """3x3 convolution over all features, softmax over sources, reweighting, 1x1 convolution, leaky ReLU."""
    block, given = MafBlock(3, 5), maps(3)
    fused, weights = block(given)
    scores = F.conv2d(torch.cat(given, 1), block.attention.weight, block.attention.bias, padding=1)
    shares = scores.exp() / scores.exp().sum(1, keepdim=True)
    torch.testing.assert_close(weights, shares)
    conv = block.reduce[0]
    assert isinstance(conv, torch.nn.Conv2d) and conv.kernel_size == (1, 1)
    joined = torch.cat([each * shares[:, n : n + 1] for n, each in enumerate(given)], 1)
    mixed = torch.einsum("oc,bchw->bohw", conv.weight[:, :, 0, 0], joined) + (
        conv.bias[:, None, None] if conv.bias is not None else 0
    )
    torch.testing.assert_close(fused, torch.where(mixed > 0, mixed, 0.2 * mixed))


@torch.no_grad()
@pytest.mark.parametrize("fusion", FUSIONS)
def test_what_each_encoder_sees(fusion: str) -> None:
    method, images = make(fusion=fusion, layers=(0, 16)), sources_of(make_batch())
    made, compared = method.generator(images)
    seen = [each[0][..., 3:-3, 3:-3] for each in compared]  # layer 0 is the padded image
    if fusion == "single":
        assert len(seen) == 1 and torch.equal(seen[0], torch.cat(images, 1))
        fused = compared[0][1]
    else:
        assert len(seen) == 3 and all(torch.equal(a, b) for a, b in zip(seen, images, strict=True))
        deepest = [each[1] for each in compared]
        fused = (deepest[0] + deepest[1] + deepest[2]) / 3 if method.generator.maf is None else method.generator.maf(deepest)[0]
    torch.testing.assert_close(made, method.generator.decoder(fused))
    # one image in place of all sources
    single = [each[0][..., 3:-3, 3:-3] for each in method.generator.features(images[1])]
    assert all(torch.equal(each, images[1].expand_as(each)) for each in single) and len(single) == len(seen)


# --- Eq. 1-4 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("skip", [False, True])
def test_the_synthesis_objective_is_eq_1(fusion: str, skip: bool) -> None:
    """The adversarial term, and lambda times the mean over encoders of what each alone says."""
    method = make(fusion=fusion, skip=skip, nce_weight=2.0, identity_weight=3.0)
    method.progress = 0.0
    batch, record = make_batch(), Record()
    torch.manual_seed(4)
    logs = {key: float(value) for key, value in method.step(batch, record).items()}
    real, images = batch.images["T1ce"], sources_of(batch)
    inputs = [torch.cat(images, 1)] if fusion == "single" else images

    def contrast(made: Tensor, origin: list[Tensor]) -> float:
        losses = []
        for n, source in enumerate(origin):
            encoder, heads = method.generator.encoders[n], method.heads[n]
            both = [encoder.features(each, method.options.layers) for each in (made.expand_as(source), source)]  # type: ignore[operator]
            losses.append(float(patch_nce(heads, both[0], both[1], 40, 0.07)))  # type: ignore[arg-type]
        return sum(losses) / len(losses)

    torch.manual_seed(4)
    with torch.no_grad():
        fake = method.generator(images)[0]
        same = method.generator([real] * 3)[0]
        judged_real, judged_fake = method.discriminator(real), method.discriminator(fake)
        expected = {
            "D": 0.5 * float((judged_real - 1).square().mean() + judged_fake.square().mean()),
            "G_gan": float((judged_fake - 1).square().mean()),
            "G_nce": 2.0 * contrast(fake, inputs),
            "G_idt": 3.0 * contrast(same, [real.expand_as(each) for each in inputs]),
        }
    assert logs == pytest.approx(expected, rel=1e-4)
    assert list(record.losses) == ["D", "G"] and record.value("D") == pytest.approx(expected.pop("D"), rel=1e-4)
    assert record.value("G") == pytest.approx(sum(expected.values()), rel=1e-4)


def test_terms_of_weight_0_are_not_computed() -> None:
    method = make(nce_weight=10.0, identity_weight=0.0, alone=1.0)
    method.progress = 0.5
    assert set(method.step(make_batch(), Record())) == {"D", "G_gan", "G_nce"}


@pytest.mark.parametrize("name", ["auto", "false"])
def test_the_truth_of_the_sources_does_not_matter(name: str) -> None:
    """Turning the targets against the sources changes no loss and no gradient: they are never compared."""
    batch = make_batch()
    other = dataclasses.replace(batch, images={**batch.images, "T1ce": batch.images["T1ce"].roll(1, dims=0)})
    outcomes = []
    for each in (batch, other):
        method, record = make(joint=name), Record()
        torch.manual_seed(3)
        logs = method.step(each, record)
        group = "G+S" if name == "auto" else "G"
        outcomes.append((logs, gradient(record.losses[group], method, "G")))
    torch.testing.assert_close(outcomes[0], outcomes[1], rtol=1e-3, atol=1e-5)
    assert not torch.equal(batch.images["T1ce"], other.images["T1ce"])


# --- stages and Eq. 5-6 ---------------------------------------------------------------------------------------------------


def updater(method: MafNet, fabric: Any) -> Updater:
    groups = method.groups()
    return Updater(fabric, groups, {name: torch.optim.Adam(params, 1e-3) for name, params in groups.items()}, 0.0)


def after_a_step(
    fabric: Any, progress: float = 0.5, batch: Batch | None = None, **options: Any
) -> tuple[MafNet, dict[str, Tensor], set]:
    """(method, its state before, names of what a step changed)."""
    method = make(**options).train()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    method.progress = progress
    torch.manual_seed(7)
    method.step(batch if batch is not None else make_batch(), updater(method, fabric))
    changed = {key.split(".")[0] for key, value in method.state_dict().items() if not torch.equal(value, before[key])}
    return method, before, changed


@pytest.mark.parametrize(("progress", "alone"), [(0.0, 0.3), (0.299, 0.3), (0.99, 1.0)])
def test_at_first_the_synthesis_learns_alone(fabric: Any, progress: float, alone: float) -> None:
    method, _, changed = after_a_step(fabric, progress, alone=alone)
    assert changed == {"generator", "heads", "discriminator"}
    assert not bool(method.segments) and not method.keeps_last


@pytest.mark.parametrize(("progress", "alone"), [(0.3, 0.3), (1.0, 0.3), (0.0, 0.0)])
@pytest.mark.parametrize("joint", ["auto", "true", "false"])
def test_then_the_tumour_network_too(fabric: Any, progress: float, alone: float, joint: str) -> None:
    method, _, changed = after_a_step(fabric, progress, alone=alone, joint=joint)
    assert changed == {"generator", "heads", "discriminator", "segmenter", "segments"}
    assert bool(method.segments) and method.keeps_last


def test_without_labels_there_is_no_second_stage(fabric: Any) -> None:
    assert after_a_step(fabric, batch=make_batch(segmented=False))[2] == {"generator", "heads", "discriminator"}
    assert after_a_step(fabric, segmenter=False)[2] == {"generator", "heads", "discriminator"}


def cross_entropy(method: MafNet, batch: Batch) -> float:
    """Eq. 5 in numpy: minus the mean over pixels of the log of the true class's probability."""
    assert batch.segmentation is not None
    with torch.no_grad():
        fake = method.generator(sources_of(batch))[0]
        scores = method.segment(batch, fake).double().numpy()
    shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    classes = np.asarray([0, 1, 2, -1, 3])[batch.segmentation[:, 0].numpy()]
    return float(-np.log(np.take_along_axis(shares, classes[:, None], 1)).mean())


@pytest.mark.parametrize("weight", [1e-3, 0.5, 0.0])
def test_joint_learning_is_eq_5_and_6(weight: float) -> None:
    method, batch, record = make(synthesis_weight=weight), make_batch(), Record()
    logs = {key: float(value) for key, value in method.step(batch, record).items()}
    assert logs["S"] == pytest.approx(cross_entropy(method, batch), rel=1e-4)
    assert list(record.losses) == ["D", "G+S"]
    synthesis = logs["G_gan"] + logs["G_nce"] + logs["G_idt"]
    assert record.value("G+S") == pytest.approx(weight * synthesis + logs["S"], rel=1e-4)
    assert record.value("D") == pytest.approx(logs["D"], rel=1e-6)  # as before, without a weight
    # the tumour is what G learns from, not only S, and D stands aside
    assert reaches(record.losses["G+S"], method, "S") and reaches(record.losses["G+S"], method, "G")
    if not weight:
        assert not reaches(record.losses["G+S"], method, "D")


def test_with_joint_the_generator_learns_from_the_tumour(fabric: Any) -> None:
    """Its weights after a step: the same to the bit with and without a tumour network where ``joint`` is false."""

    def generator(**options: Any) -> dict[str, Tensor]:
        method, _, _ = after_a_step(fabric, **options)
        return {key: value for key, value in method.state_dict().items() if not key.startswith(("segment", "convention"))}

    apart, without, joint = generator(joint="false"), generator(segmenter=False), generator(joint="true", synthesis_weight=1.0)
    assert apart.keys() == without.keys() == joint.keys()
    assert all(torch.equal(apart[key], without[key]) for key in apart)
    moved = {key.split(".")[0] for key in apart if not torch.equal(apart[key], joint[key])}
    assert moved == {"generator"}  # D and the heads, which no tumour loss reaches, are as before
    from_sources = generator(segmenter_input="sources")
    assert all(torch.equal(apart[key], from_sources[key]) for key in apart)


def test_apart_both_learn_each_their_own_loss() -> None:
    method, batch, record = make(joint="false", synthesis_weight=1e-3), make_batch(), Record()
    logs = {key: float(value) for key, value in method.step(batch, record).items()}
    assert list(record.losses) == ["D", "G", "S"]
    assert record.value("G") == pytest.approx(logs["G_gan"] + logs["G_nce"] + logs["G_idt"], rel=1e-5)  # no weight of Eq. 6
    assert record.value("S") == pytest.approx(cross_entropy(method, batch), rel=1e-4)
    assert not reaches(record.losses["S"], method, "G") and not reaches(record.losses["G"], method, "S")


@torch.no_grad()
def test_the_tumour_network_of_the_first_row_of_table_1_does_not_see_the_synthetic_image() -> None:
    batch = make_batch()
    for given, same in (("sources", True), ("synthetic", False)):
        method = make(segmenter_input=given)
        one, two = (method.segment(batch, torch.full((2, 1, 32, 48), value)) for value in (-1.0, 1.0))
        assert torch.equal(one, two) is same and one.shape == (2, 4, 32, 48)
    assert make(segmenter_input="sources").segmenter is not None
    with pytest.raises(UsageError, match=r"no tumour U-Net \(options\.segmenter=false\)"):
        make(segmenter=False).segment(batch, batch.images["T1ce"])


# --- labels ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "named", "convention"),
    [
        ((0, 1, 2, 4), "auto", "brats2017"),
        ((0, 2), "brats2017", "brats2017"),
        ((0, 1, 2, 3, 4), "brats2015", "brats2015"),
        ((0, 1, 2, 3, 4), "brats-ped", "brats-ped"),
        ((0, 1, 2, 3), "msd-brain", "msd-brain"),
        ((0, 1, 2, 3, 4), "brats-post-treatment", "brats-post-treatment"),
        ((0, 1, 2), "brats2023", "brats2023"),
    ],
)
def test_what_labels_mean_is_settled_once(labels: tuple[int, ...], named: str, convention: str) -> None:
    method = make(labels=named)
    assert method.check_data(iter(labels)) == [] and method.label_convention == convention
    batch = make_batch()
    assert batch.segmentation is not None
    # a batch that holds a 3 alone is read as the whole data set says
    number = labels[-1]
    column = int(get(convention).classes(np.array([number]))[0])
    one = dataclasses.replace(batch, segmentation=torch.full_like(batch.segmentation, number))
    torch.manual_seed(2)
    logs = method.step(one, Record())
    with torch.no_grad():
        scores = method.segment(one, method.generator(sources_of(one))[0])
    assert float(logs["S"]) == pytest.approx(float(-scores.log_softmax(1)[:, column].mean()), rel=1e-4)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (None, "not every training case has a segmentation"),
        ((0,), "no training case has a tumour label"),
        ((0, 1, 2, 700), r"no convention has labels 1, 2, 700 \(name theirs with options\.labels\)"),
        ((0, 1, 2, 3), r"labels 1, 2, 3 could be brats2023, msd-brain, tissue, .* \(name theirs with options\.labels\)"),
        ((0, 1), "label 1 alone is read as a lesion mask, which is no tumour"),
    ],
)
def test_without_tumours_it_says_that_it_trains_the_synthesis_alone(
    fabric: Any, labels: tuple[int, ...] | None, words: str
) -> None:
    method = make()
    (note,) = method.check_data(labels)
    assert re.match(words, note) and note.endswith("mafnet trains its synthesis alone, without the tumour U-Net.")
    assert "\n" not in note and int(method.convention) == NO_LABELS
    batch = make_batch()
    assert set(method.step(batch, Record())) == {"D", "G_gan", "G_nce", "G_idt"}  # even where a batch holds some
    assert not bool(method.segments)
    with pytest.raises(UsageError, match=rf"^options\.joint=true, but {words}.*; options\.joint=auto trains the synthesis alone"):
        make(joint="true").check_data(labels)
    assert make(segmenter=False).check_data(labels) == []


def test_labels_that_are_not_of_the_convention_named_stop_before_training() -> None:
    for joint in ("auto", "true"):
        with pytest.raises(UsageError, match=r"options\.labels=brats2017, but the segmentation holds label 3, and brats2017 has"):
            make(labels="brats2017", joint=joint).check_data((0, 1, 2, 3))


def test_a_convention_of_ones_own_is_saved_with_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "clinic.yaml"
    path.write_text("labels: {5: enhancing, 6: edema, 20: necrosis}\n")
    method = make(labels=str(path))
    assert method.check_data((0, 6, 20)) == []
    save_arrays(tmp_path / "w.safetensors", method_state(method))
    path.unlink()
    other = make(labels=str(path))  # elsewhere the file is not there, and need not be
    load_state(other, read_arrays(tmp_path / "w.safetensors"), tmp_path)
    found = other.label_convention
    assert isinstance(found, Convention) and found.name == "clinic"
    assert dict(found.labels) == {0: "background", 5: "enhancing", 6: "edema", 20: "necrosis"}
    with pytest.raises(UsageError, match=r"options\.labels=.*clinic\.yaml: label convention .* cannot be read"):
        other.check_data((0, 6, 20))
    path.write_text("labels: {21: enhancing}\n")
    with pytest.raises(UsageError, match="label 21 is above 20, the last that a run can save"):
        make(labels=str(path))
    with pytest.raises(UsageError, match="label convention tissue has background, csf, gm, wm, no tumour"):
        make(labels="tissue")


def test_the_number_of_a_convention_is_its_own_and_old_runs_are_read() -> None:
    tumours = [get(name) for name in conventions() if get(name).is_tumour]
    assert [convention_from(code_of(each)) for each in tumours] == tumours
    assert code_of(get("brats2017")) == 0o40321  # from the right: labels 0, 1, 2, no 3, 4
    # version 0.1 saved a place in the list of its four conventions
    old = ["brats2017", "brats2015", "brats2023", "brats-post-treatment"]
    assert [convention_from(number).name for number in range(4)] == old


# --- maps -----------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_attention_maps() -> None:
    method, batch = make().eval(), make_batch().only(SOURCES)
    found = method.map(batch, "attention")
    assert list(found) == [f"attention-{name}" for name in SOURCES]
    assert all(each.shape == (2, 1, 32, 48) and each.dtype == torch.float32 for each in found.values())
    torch.testing.assert_close(torch.stack(list(found.values())).sum(0), torch.ones(2, 1, 32, 48))
    assert method.generator.maf is not None
    small = method.generator.maf(method.generator.encode(sources_of(batch))[0])[1]
    expected = F.interpolate(small, scale_factor=4.0, mode="bilinear")
    torch.testing.assert_close(torch.cat(list(found.values()), 1), expected)
    for fusion in ("mean", "single"):
        with pytest.raises(UsageError, match=rf"no attention \(options\.fusion={fusion}\)"):
            make(fusion=fusion).map(batch, "attention")
    with pytest.raises(UsageError, match="mafnet gives no map 'fusion'; it gives attention, segmentation"):
        method.map(batch, "fusion")


@torch.no_grad()
def test_segmentation_maps() -> None:
    method, batch = make().eval(), make_batch().only(SOURCES)
    with pytest.raises(UsageError, match="was trained without segmentations, so it gives none; train it on cases with them"):
        method.map(batch, "segmentation")
    method.segments.fill_(True)
    shares = method.map(batch, "segmentation")["segmentation"]
    torch.testing.assert_close(shares.sum(1), torch.ones(2, 32, 48))
    expected = method.segment(batch, method(batch)["T1ce"].mean).softmax(1)
    torch.testing.assert_close(shares, expected)
    tiny = Batch({name: image[..., :16, :16] for name, image in batch.images.items()})
    with pytest.raises(UsageError, match="tumour U-Net needs images of more than 16x16; use larger patches, or pad them"):
        method.map(tiny, "segmentation")
    thin = Batch({name: image[..., :16, :32] for name, image in batch.images.items()})
    assert method.map(thin, "segmentation")["segmentation"].shape == (2, 4, 16, 32)
    assert method(tiny)["T1ce"].mean.shape == (2, 1, 16, 16)


def test_what_it_knows_of_labels_is_saved_with_the_weights(tmp_path: Path) -> None:
    method = make()
    method.check_data(
        Seen((Evidence.of((0, 1, 2, 4), case="VSD.Brain_3more.XX.O.OT.1"), Evidence.of((0, 3), case="vsd.brain_3more.2")))
    )
    method.segments.fill_(True)
    save_arrays(tmp_path / "w.safetensors", method_state(method))
    other = make()
    assert (bool(other.segments), other.label_convention) == (False, "brats2017")
    load_state(other, read_arrays(tmp_path / "w.safetensors"), tmp_path)
    assert (bool(other.segments), other.label_convention, other.keeps_last) == (True, "brats2015", True)
    other.check_map("segmentation")


def test_images_too_small_are_refused() -> None:
    with pytest.raises(UsageError, match="mafnet's discriminator needs images of 32x32 or more and was given 16x48"):
        make().step(make_batch((16, 48)), Record())


# --- whole runs -----------------------------------------------------------------------------------------------------------

RUN: dict[str, Any] = {
    "options__filters": 2, "options__encoder_blocks": 1, "options__decoder_blocks": 0, "options__discriminator_filters": 4,
    "options__segmenter_filters": 4, "options__hidden": 8, "options__patches": 16, "options__layers": (0, 4),
    "options__alone": 0.5, "train__steps": 4, "train__validate_every": 1,
}  # fmt: skip


class Told:
    """What a person reads."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def on_step(self, *words: Any) -> None: ...

    def on_validation(self, *words: Any) -> None: ...

    def on_message(self, text: str) -> None:
        self.messages.append(text)


def scripted(monkeypatch: pytest.MonkeyPatch, scores: list[float]) -> None:
    """Validations give these scores, one after the other."""
    left = iter(scores)
    monkeypatch.setattr(loop, "validate", lambda *words, own: Validated({"d1": next(left)}, None, None))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "best"),
    [
        ({}, 4),  # joint from the third step on
        ({"options__joint": "false"}, 4),
        ({"options__alone": 1.0}, 1),
        ({"options__segmenter": False}, 1),
    ],
)
def test_in_the_joint_stage_the_last_weights_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], best: int
) -> None:
    scripted(monkeypatch, [9.0, 7.0, 8.0, 6.0])
    result = train(
        tiny_config("mafnet", **{**RUN, **options}), sessions_store(tmp_path), SPLIT_OF_SESSIONS, tmp_path / "run", runtime=CPU
    )
    assert (result.best_step, result.best) == (best, {1: 9.0, 4: 6.0}[best])
    kept, last = (read_arrays(tmp_path / "run" / "checkpoints" / which / "model.safetensors") for which in ("best", "last"))
    assert all(np.array_equal(kept[key], last[key]) for key in kept) is (best == 4)
    assert bool(kept["segments"]) is (best == 4)
    steps = [record for record in RunFolder.open(tmp_path / "run").records() if "lr" in record]
    assert ["S" in record for record in steps] == [False, False, best == 4, best == 4]


def test_the_average_of_the_weights_knows_of_the_second_stage(tmp_path: Path) -> None:
    config = tiny_config("mafnet", **{**RUN, "train__ema": 0.9, "train__validate_every": 2})
    train(config, sessions_store(tmp_path), SPLIT_OF_SESSIONS, tmp_path / "run", runtime=CPU)
    method = load_run(tmp_path / "run").method
    assert bool(method.segments) and method.label_convention == "brats2017"


def test_a_run_that_was_killed_before_the_second_stage_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, config = sessions_store(tmp_path), tiny_config("mafnet", **{**RUN, "train__steps": 5, "train__clip": 1.0})
    train(config, store, SPLIT_OF_SESSIONS, tmp_path / "whole", runtime=CPU)

    def killed(*words: Any) -> None:
        raise KeyboardInterrupt

    real = loop.validate
    calls: list[int] = []

    def validate(*words: Any, **more: Any) -> Validated:
        calls.append(1)
        return killed() if len(calls) == 3 else real(*words, **more)  # type: ignore[return-value, func-returns-value]

    monkeypatch.setattr(loop, "validate", validate)
    with pytest.raises(KeyboardInterrupt):
        train(config, store, SPLIT_OF_SESSIONS, tmp_path / "cut", runtime=CPU)
    monkeypatch.setattr(loop, "validate", real)
    train(config, store, SPLIT_OF_SESSIONS, tmp_path / "cut", resume=True, runtime=CPU)
    for name in ("model.safetensors", "optimizer.safetensors"):
        one, two = (read_arrays(tmp_path / run / "checkpoints" / "last" / name) for run in ("whole", "cut"))
        assert one.keys() == two.keys() and all(np.array_equal(one[key], two[key]) for key in one)


def test_a_run_without_segmentations_says_so(tmp_path: Path) -> None:
    store, told = sessions_store(tmp_path, segmented=False), Told()
    config = tiny_config("mafnet", **{**RUN, "train__steps": 3, "train__validate_every": 3})
    train(config, store, SPLIT_OF_SESSIONS, tmp_path / "run", runtime=CPU, progress=told)
    words = "not every training case has a segmentation: mafnet trains its synthesis alone, without the tumour U-Net."
    assert told.messages.count(words) == 1
    assert not any("S" in record for record in RunFolder.open(tmp_path / "run").records())
    assert not bool(load_run(tmp_path / "run").method.segments)
    told = Told()
    joint = tiny_config("mafnet", **{**RUN, "options__joint": "true"})
    with pytest.raises(UsageError, match=r"options\.joint=true, but not every training case has a segmentation"):
        train(joint, store, SPLIT_OF_SESSIONS, tmp_path / "joint", runtime=CPU, progress=told)
    assert not (tmp_path / "joint").exists()
    # the paper preset's slices with tumour are all slices here; asked for outright they are refused
    with pytest.raises(DataError, match=r"sample\.labelled=on, but 6 of 6 training cases have no segmentation"):
        train(tiny_config("mafnet", **{**RUN, "sample__labelled": "on"}), store, SPLIT_OF_SESSIONS, tmp_path / "on", runtime=CPU)
    assert not (tmp_path / "on").exists()


TABLE_1: dict[str, dict[str, Any]] = {
    "UNet": {"options__segmenter_input": "sources"},
    "SingleEN": {"options__fusion": "single", "options__joint": "false"},
    "MAF-GAN": {"options__fusion": "mean", "options__joint": "false"},
    "MAF-Block": {"options__joint": "false"},
    "joint": {"options__joint": "true"},
    "synthesis alone": {"options__segmenter": False},
}


@pytest.mark.parametrize("row", TABLE_1)
def test_every_row_of_table_1_trains(row: str, tmp_path: Path) -> None:
    config = tiny_config("mafnet", **{**RUN, **TABLE_1[row], "options__alone": 0.5, "train__steps": 2, "train__validate_every": 2})
    told = Told()
    train(config, sessions_store(tmp_path), SPLIT_OF_SESSIONS, tmp_path / "run", runtime=CPU, progress=told)
    assert told.messages == [
        "learning the brightness of predicted volumes from 3 cases",
        "scoring the kept weights on 1 validation cases",
    ]
    last = [record for record in RunFolder.open(tmp_path / "run").records() if "lr" in record][-1]
    assert ("S" in last) is (row != "synthesis alone")
    assert all(math.isfinite(last[key]) for key in ("D", "G_gan", "G_nce", "G_idt"))
    method = load_run(tmp_path / "run").method
    for name, gives in (("segmentation", row != "synthesis alone"), ("attention", row not in ("SingleEN", "MAF-GAN"))):
        if gives:
            method.check_map(name)
        else:
            with pytest.raises(UsageError):
                method.check_map(name)
