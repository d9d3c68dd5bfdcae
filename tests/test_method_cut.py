"""CUT against its paper: the objective term by term, what an unpaired step may read, pairs on request."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sessions_store import SPLIT_OF_SESSIONS, code_of, sessions_store
from synthmr import pipeline
from synthmr.batch import Batch
from synthmr.errors import DataError, UsageError
from synthmr.methods import registry
from synthmr.methods.configure import build_config
from synthmr.methods.contract import NeuralMethod, Update, is_paired
from synthmr.methods.cut import Cut, CutOptions
from synthmr.methods.parts.patchnce import patch_nce
from synthmr.prepare.normalize import value_range
from synthmr.run import RunFolder
from synthmr.train.loop import train
from synthmr.train.runtime import Runtime
from synthmr.train.schedule import learning_rate
from tiny_run import tiny_config

SOURCES, TARGETS = ("T1w", "T2w"), ("FLAIR",)
TINY: dict[str, Any] = {"filters": 4, "blocks": 5, "discriminator_filters": 4, "hidden": 8, "patches": 40}
CPU = Runtime(accelerator="cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


def make(sources: tuple[str, ...] = SOURCES, **options: Any) -> Cut:
    torch.manual_seed(0)
    return Cut(CutOptions(**{**TINY, **options}), sources, TARGETS)


def make_batch(
    size: tuple[int, int] = (32, 40), number: int = 3, paired: bool = False, sources: tuple[str, ...] = SOURCES
) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = {name: torch.rand(number, 1, *size, generator=generator) * 2 - 1 for name in (*sources, *TARGETS)}
    return Batch(images, paired=paired)


class Record:
    """An update that keeps the losses, in their order, and changes nothing."""

    def __init__(self) -> None:
        self.losses: dict[str, Tensor] = {}

    def __call__(self, group: str | tuple[str, ...], loss: Tensor) -> None:
        assert isinstance(group, str) and group not in self.losses
        self.losses[group] = loss

    def value(self, group: str) -> float:
        return float(self.losses[group].detach())


# --- settings -------------------------------------------------------------------------------------------------------------


def test_the_paper_preset_is_the_papers() -> None:
    config = build_config(Cut, "paper", {}, [], SOURCES, TARGETS, value_range=value_range)
    options = config.options
    assert options == CutOptions() and not options.skip
    assert (options.blocks, options.layers, options.patches, options.temperature) == (9, (0, 4, 8, 12, 16), 256, 0.07)
    assert (options.gan, options.gan_weight, options.nce_weight, options.identity_weight) == ("lsgan", 1.0, 1.0, 1.0)
    assert (config.sample.batch, config.sample.crop, config.train.epochs) == (1, (256, 256), 400)
    assert (config.train.optimizer, config.train.beta1, config.train.beta2) == ("adam", 0.5, 0.999)
    assert [learning_rate(config.train, done, 9) for done in (0.0, 0.5, 0.75, 1.0)] == pytest.approx([2e-4, 2e-4, 1e-4, 0.0])
    with torch.device("meta"):
        method = Cut(options, ("T1w",), TARGETS)
    sizes = [sum(param.numel() for param in each.parameters()) for each in (method.generator, method.discriminator)]
    assert sizes == [11_365_633, 2_762_689]
    # H: two layers of 256 for each compared layer's 1, 128, 256, 256 and 256 channels
    heads = sum(param.numel() for param in method.heads.parameters())
    assert heads == sum((width + 1) * 256 + 257 * 256 for width in (1, 128, 256, 256, 256))
    assert method.optimizer_overrides() == {"D": {"rate": 1.0, "betas": (0.5, 0.999), "weight_decay": 0.0}}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("gan", "wgan"),
        ("filters", 0),
        ("blocks", 0),
        ("discriminator_filters", 0),
        ("hidden", 0),
        ("patches", 1),
        ("temperature", 0.0),
        ("temperature", math.nan),
        ("layers", (0, 99)),
        ("gan_weight", -1.0),
        ("nce_weight", math.inf),
        ("identity_weight", math.nan),
        ("l1_weight", -0.1),
        ("discriminator_rate", -1.0),
    ],
)
def test_options_that_make_no_sense_are_refused(key: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"options\.{key}=") as error:
        CutOptions(**{key: value})
    assert "\n" not in str(error.value)


def test_it_is_unpaired_unless_pairs_are_asked_for() -> None:
    for words, paired in (([], False), (["sample.paired=off"], False), (["sample.paired=on"], True)):
        config = build_config(Cut, "fast", {}, words, SOURCES, TARGETS, value_range=value_range)
        assert is_paired(Cut.spec, config.sample) is paired


def test_what_a_method_cannot_do_names_those_that_can() -> None:
    for name, word, others in (
        ("hinet", "off", "hinet trains paired only; cut, cyclegan and mafnet train unpaired"),
        ("mafnet", "on", "mafnet trains unpaired only; imt, milr or hinet train paired"),
    ):
        kind = registry.load(name)
        with pytest.raises(UsageError, match=rf"^sample\.paired={word}: {others}\.$"):
            build_config(kind, "fast", {}, [f"sample.paired={word}"], SOURCES, TARGETS, value_range=value_range)
        build_config(kind, "fast", {}, [], SOURCES, TARGETS, value_range=value_range)


# --- networks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [(0, 4, 8, 12, 16), (0, 4), (16, 0), (12,)])
@pytest.mark.parametrize("skip", [False, True])
def test_one_pass_gives_the_image_and_the_compared_maps(layers: tuple[int, ...], skip: bool) -> None:
    generator = make(layers=layers, skip=skip).generator
    image = make_batch().stack(SOURCES)
    with torch.no_grad():
        made, maps = generator(image)
        deepest = generator.encoder(image)
        if generator.skip is None:
            expected = generator.decoder(deepest)
        else:
            mean = torch.atanh(0.98 * image).mean(1, keepdim=True)
            expected = torch.tanh(torch.atanh(generator.decoder(deepest)) + mean)
        torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)
        alone = generator.features(image)
        assert len(maps) == len(alone) == len(layers)
        assert all(torch.equal(*pair) for pair in zip(maps, alone, strict=True))
        assert torch.equal(make(layers=layers, skip=skip)(make_batch().only(SOURCES))["FLAIR"].mean, made)


def test_images_too_small_are_refused() -> None:
    with pytest.raises(UsageError, match=r"cut's discriminator needs images of 32x32 or more and was given 28x40; enlarge"):
        make().step(make_batch((28, 40)), Record())
    for size in ((12, 40), (40, 4)):
        words = rf"cut's generator needs images of 16x16 or more and was given {size[0]}x{size[1]}; pad"
        with pytest.raises(UsageError, match=words), torch.no_grad():
            make()(make_batch(size).only(SOURCES))
    with torch.no_grad():
        assert make()(make_batch((16, 16)).only(SOURCES))["FLAIR"].mean.shape == (3, 1, 16, 16)
    make().step(make_batch((32, 32)), Record())


# --- the objective --------------------------------------------------------------------------------------------------------


def on_all(image: Tensor, inputs: int = 2) -> Tensor:
    return torch.cat([image] * inputs, dim=1)


@pytest.mark.parametrize("paired", [False, True])
def test_a_step_is_the_papers_objective(paired: bool) -> None:
    """Least squares, and both contrastive terms with keys of what each image was made from."""
    weights: dict[str, Any] = {"gan_weight": 0.6, "nce_weight": 2.0, "identity_weight": 3.0, "l1_weight": 5.0 if paired else 0.0}
    method, record, batch = make(**weights), Record(), make_batch(paired=paired)
    torch.manual_seed(4)
    logs = {key: float(value) for key, value in method.step(batch, record).items()}
    x, y = batch.stack(SOURCES), batch.images["FLAIR"]

    def compared(image: Tensor, origin: Tensor) -> Tensor:
        maps = [method.generator.features(each) for each in (on_all(image), origin)]
        return patch_nce(method.heads, maps[0], maps[1], 40, 0.07)

    torch.manual_seed(4)
    with torch.no_grad():
        fake, _ = method.generator(x)
        real_scores, fake_scores = method.discriminator(y), method.discriminator(fake)
        expected = {
            "D": 0.5 * float((real_scores - 1).square().mean() + fake_scores.square().mean()),
            "G_gan": 0.6 * float((fake_scores - 1).square().mean()),
            "G_nce": 2.0 * float(compared(fake, x)),
            "G_idt": 3.0 * float(compared(method.generator(on_all(y))[0], on_all(y))),
        }
        if paired:
            expected["G_l1"] = 5.0 * float((fake - y).abs().mean())
    assert logs == pytest.approx(expected, rel=1e-4)
    assert list(record.losses) == ["D", "G"]
    assert record.value("D") == pytest.approx(expected.pop("D"), rel=1e-4)
    assert record.value("G") == pytest.approx(sum(expected.values()), rel=1e-4)


def test_terms_of_weight_0_are_not_computed() -> None:
    logs = make(nce_weight=10.0, identity_weight=0.0).step(make_batch(), Record())  # FastCUT
    assert set(logs) == {"D", "G_gan", "G_nce"}
    assert set(make(nce_weight=0.0).step(make_batch(), Record())) == {"D", "G_gan", "G_idt"}


def test_the_log_objective() -> None:
    method, batch = make(gan="log"), make_batch()
    logs = method.step(batch, Record())
    with torch.no_grad():
        real = torch.sigmoid(method.discriminator(batch.images["FLAIR"]))
        fake = torch.sigmoid(method.discriminator(method.generator(batch.stack(SOURCES))[0]))
    assert float(logs["D"]) == pytest.approx(float(-0.5 * (real.log().mean() + (1 - fake).log().mean())), rel=1e-4)
    assert float(logs["G_gan"]) == pytest.approx(float(-fake.log().mean()), rel=1e-4)


def reached(loss: Tensor, module: nn.Module) -> bool:
    grads = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True, retain_graph=True)
    return any(each is not None and bool(each.abs().max() > 0) for each in grads)


def test_d_learns_from_detached_images_and_g_through_d() -> None:
    method, record = make(nce_weight=0.0, identity_weight=0.0), Record()
    method.step(make_batch(), record)
    parts: tuple[nn.Module, ...] = (method.generator, method.heads, method.discriminator)
    assert [reached(record.losses["D"], each) for each in parts] == [False, False, True]
    assert reached(record.losses["G"], method.generator) and not reached(record.losses["G"], method.heads)
    for term in ("nce_weight", "identity_weight"):
        weights: dict[str, Any] = {"gan_weight": 0.0, "nce_weight": 0.0, "identity_weight": 0.0, term: 1.0}
        method, record = make(**weights), Record()
        method.step(make_batch(), record)
        parts = (method.generator.encoder, method.generator.decoder, method.heads, method.discriminator)
        assert [reached(record.losses["G"], each) for each in parts] == [True, True, True, False]


def test_an_image_that_is_its_source_has_less_contrastive_loss_than_another() -> None:
    method, x = make(layers=(0,)), make_batch(sources=("T1w", "T2w")).images["T1w"]
    losses = []
    for other in (x, x.roll(1, dims=0), -x):
        torch.manual_seed(1)
        with torch.no_grad():
            losses.append(float(method._nce(other, method.generator.features(on_all(x)))))
    assert losses[0] < min(losses[1:])


# --- pairs ----------------------------------------------------------------------------------------------------------------


def test_nothing_compares_a_source_with_the_target_beside_it() -> None:
    batch = make_batch()
    other = dataclasses.replace(batch, images={**batch.images, "FLAIR": batch.images["FLAIR"].roll(1, dims=0)})
    outcomes = []
    for each in (batch, other):
        method, record = make(), Record()
        torch.manual_seed(3)
        logs = method.step(each, record)
        outcomes.append((logs, torch.autograd.grad(record.losses["G"], method.groups()["G"])))
    (logs, grads), (moved, others) = outcomes
    torch.testing.assert_close(logs, moved, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(grads, others, rtol=1e-3, atol=1e-5)
    # the supervised term does compare them
    paired = [make(l1_weight=1.0).step(dataclasses.replace(each, paired=True), Record())["G_l1"] for each in (batch, other)]
    assert abs(float(paired[0] - paired[1])) > 1e-5


def test_l1_without_pairs_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"options\.l1_weight=1 needs the truth of each sample; add --set sample\.paired=on"
    ) as error:
        make(l1_weight=1.0).step(make_batch(), Record())
    assert "\n" not in str(error.value)
    assert "G_l1" in make(l1_weight=1.0).step(make_batch(paired=True), Record())


def recorded(monkeypatch: pytest.MonkeyPatch, kind: type[NeuralMethod]) -> list[Batch]:
    """The batches that a method trains on from here on."""
    seen: list[Batch] = []
    real = kind.step

    def step(self: Any, batch: Batch, update: Update) -> dict[str, Tensor]:
        seen.append(batch)
        return real(self, batch, update)

    monkeypatch.setattr(kind, "step", step)
    return seen


TRAINED: dict[str, dict[str, Any]] = {
    "cut": {
        "blocks": 1, "discriminator_filters": 4, "hidden": 8, "patches": 16, "layers": (0, 4), "discriminator_scale": 1,
    },
    "cyclegan": {"blocks": 1, "discriminator_filters": 4},
    "mafnet": {
        "encoder_blocks": 1, "decoder_blocks": 0, "discriminator_filters": 4, "hidden": 8, "patches": 16, "layers": (0, 4),
        "segmenter_filters": 4, "alone": 0.5, "discriminator_scale": 1,
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "paired"),
    [("cut", "auto"), ("cut", "on"), ("cyclegan", "auto"), ("mafnet", "auto")],
)
def test_which_subject_a_trained_batch_is_of(name: str, paired: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each subject has a grey value of its own and two sessions; whole runs, every batch that reaches the method."""
    store = sessions_store(tmp_path)
    seen = recorded(monkeypatch, registry.load(name))
    words = {f"options__{key}": value for key, value in TRAINED[name].items()}
    config = tiny_config(
        name, options__filters=2, train__steps=14, train__validate_every=14, sample__batch=4, sample__paired=paired, **words
    )
    train(config, store, SPLIT_OF_SESSIONS, tmp_path / "run", runtime=CPU)
    assert len(seen) == 14 and all(batch.paired is (paired == "on") for batch in seen)
    drawn = [[code_of(batch, contrast) for contrast in (*SOURCES, *TARGETS)] for batch in seen]
    one, two, target = (np.concatenate([each[k] for each in drawn]) for k in range(3))
    assert (one == two).all()  # the sources of a sample belong together
    labels = np.concatenate([batch.segmentation.amax(dim=(1, 2, 3)).numpy() for batch in seen if batch.segmentation is not None])
    assert (labels == one).all()  # and so do the labels
    if paired == "on":
        assert (one == target).all()
    else:
        assert not (one == target).any()
        # all that is left does occur: each subject's sources with each other subject's targets
        assert {(a, b) for a, b in zip(one, target, strict=True)} == {(a, b) for a in (1, 2, 4) for b in (1, 2, 4) if a != b}


@pytest.mark.parametrize("name", ["cut", "cyclegan", "mafnet"])
def test_one_subject_is_too_few(name: str, tmp_path: Path) -> None:
    store = sessions_store(tmp_path)
    split = dataclasses.replace(SPLIT_OF_SESSIONS, train=("a1", "a2"))
    config = tiny_config(name, options__filters=2, sample__batch=2)
    with pytest.raises(
        DataError, match=r"at least 2 subjects and has 1; add subjects, or train a method on pairs \(imt, milr, unet\)"
    ):
        train(config, store, split, tmp_path / "run", runtime=CPU)
    assert not (tmp_path / "run").exists()


def test_a_supervised_term_on_request(tmp_path: Path) -> None:
    """By the words of the command line; asked for without pairs it stops the run at its first step."""
    store = sessions_store(tmp_path)
    small = [f"options.{key}={','.join(map(str, value)) if key == 'layers' else value}" for key, value in TRAINED["cut"].items()]
    words = [*small, "options.filters=2", "l1_weight=100", "sample.batch=2", "train.images=false"]
    for paired in ("on", "auto"):
        settings = [*words, f"sample.paired={paired}"]
        config = pipeline.configure("cut", "T1w,T2w", "FLAIR", settings=settings, budget={"steps": 2})
        assert config.options.l1_weight == 100
        out = tmp_path / paired
        if paired == "on":
            pipeline.train(config, store, SPLIT_OF_SESSIONS, out, accelerator="cpu")
            steps = [record for record in RunFolder.open(out).records() if "lr" in record]
            assert len(steps) == 2 and all(record["G_l1"] > 0 for record in steps)
        else:
            with pytest.raises(UsageError, match=r"add --set sample\.paired=on"):
                pipeline.train(config, store, SPLIT_OF_SESSIONS, out, accelerator="cpu")
