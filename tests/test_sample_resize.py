"""sample.resize, sample.middle and sample.labelled: what is drawn, at which size, and that prediction shows the same size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from scipy import ndimage
from torch import Tensor, nn

from helpers import blob_brain, write_case
from method_alone import predict_case
from stored import run_of, store_case, store_of
from synthmr import pipeline
from synthmr.batch import Batch, Output
from synthmr.case import PLANES, PreparedCase, slice_major
from synthmr.config import AugmentConfig, PrepareConfig, RunConfig, SampleConfig, check_resize, from_dict
from synthmr.data.parts import Labels
from synthmr.data.reader import Reader
from synthmr.data.resize import resize_batch, resize_image, resize_labels
from synthmr.data.sampling import Sampler, case_batch
from synthmr.data.split import Split
from synthmr.data.store import Store
from synthmr.errors import DataError, UsageError
from synthmr.methods import registry
from synthmr.methods.configure import build_config
from synthmr.methods.contract import FittedMethod, NeuralMethod, Spec, Update, check_wanted
from synthmr.predict import engine
from synthmr.predict.cohort import synthesize_cohort
from synthmr.predict.frame import Frame, pad_far, size_of
from synthmr.predict.precision import Precision
from synthmr.predict.predictor import Predictor
from synthmr.predict.settings import PredictSettings
from synthmr.predictions import predictions
from synthmr.run import load_run
from synthmr.train.loop import train
from synthmr.train.runtime import Runtime
from synthmr.train.validate import validate

SOURCES, TARGETS = ("T1w", "T2w"), ("FLAIR",)
CPU, EXACT = torch.device("cpu"), Precision("32", False)
DEPTH, HEIGHT, WIDTH = 20, 31, 26  # odd and even: centring must agree in both
#: first and last brain slice of each case, and the slices that carry a label
BRAIN = {"a": (3, 16), "b": (0, 19), "c": (5, 9)}
LABELS = {"a": (4, 9, 10), "b": (2, 10, 11, 18), "c": (7,)}
NAMES = tuple(BRAIN)


def make_store(root: Path, bare: Sequence[str] = (), subjects: Mapping[str, str] | None = None) -> Store:
    """Three cases of smooth brains; those named ``bare`` have no segmentation."""
    rows, columns = np.meshgrid(np.linspace(-1, 1, HEIGHT), np.linspace(-1, 1, WIDTH), indexing="ij")
    stored = {}
    for number, name in enumerate(NAMES):
        first, last = BRAIN[name]
        mask = np.zeros((DEPTH, HEIGHT, WIDTH), np.uint8)
        mask[first : last + 1] = (rows / 0.8) ** 2 + (columns / 0.9) ** 2 < 1
        labels = np.zeros(mask.shape, np.int16)
        for z in LABELS[name]:
            labels[z, 12:17, 9:15] = 1 + z % 3
        waves = {key: 0.5 * np.sin((2 + k) * rows + number) * np.cos(2 * columns + k) for k, key in enumerate((*SOURCES, *TARGETS))}
        arrays: dict[str, np.ndarray] = {
            key: np.where(mask, wave[None] + 0.01 * np.arange(DEPTH)[:, None, None], -1) for key, wave in waves.items()
        }
        segmentation = None if name in bare else labels
        stored[name] = store_case(root, name, arrays, mask, segmentation, dict(subjects or {}).get(name, ""))
    return store_of(stored, Split(("a", "b"), ("c",), (), "test"))


#: of a reader whose boxes are the whole volumes
WHOLE = PrepareConfig(margin=1000)


def read(store: Store, sources: tuple[str, ...] = SOURCES, targets: tuple[str, ...] = TARGETS) -> Reader:
    return Reader(store, WHOLE, sources, targets)


def slices(store: Store, name: str, contrast: str) -> np.ndarray:
    """``(S, H, W)`` float32, axial."""
    return np.moveaxis(read(store).image(name, contrast), 2, 0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    torch.set_num_threads(1)
    return make_store(tmp_path_factory.mktemp("store"))


def relabel(store: Store, name: str, labels: np.ndarray) -> None:
    """Replace the labels ``(X, Y, Z)`` of a case."""
    path = store.parts(name).segmentation
    assert path is not None
    Labels.of(labels, {}).save(path)


def draw(store: Store, names: Sequence[str] = NAMES, divisor: int = 1, paired: bool = True, **sample: Any) -> Sampler:
    config = SampleConfig(**{"min_brain": 0.0, "batch": 4, **sample})
    return Sampler(read(store), names, config, AugmentConfig(), 3, divisor=divisor, paired=paired)


def numbers(sampler: Sampler) -> dict[str, list[int]]:
    """Case -> the slices of an epoch."""
    drawn = np.concatenate([sampler.chosen(step) for step in range(sampler.steps_per_epoch)])
    return {name: sorted({int(z) for index, z, *_ in drawn if index == k}) for k, name in enumerate(sampler.names)}


# --- which slices -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("middle", "expected"),
    [
        (4, {"a": [8, 9, 10, 11], "b": [8, 9, 10, 11], "c": [5, 6, 7, 8]}),
        (3, {"a": [8, 9, 10], "b": [8, 9, 10], "c": [6, 7, 8]}),
        (100, {name: list(range(first, last + 1)) for name, (first, last) in BRAIN.items()}),
        (0, {name: list(range(first, last + 1)) for name, (first, last) in BRAIN.items()}),
    ],
)
def test_the_middle_slices_of_each_brain(store: Store, middle: int, expected: dict[str, list[int]]) -> None:
    sampler = draw(store, middle=middle)
    assert numbers(sampler) == expected
    assert len(sampler) == sum(map(len, expected.values()))


def test_labelled_slices_alone(store: Store) -> None:
    assert numbers(draw(store, labelled="on")) == numbers(draw(store, labelled="auto")) == {k: list(v) for k, v in LABELS.items()}
    # the middle is the brain's, not that of the labelled slices
    assert numbers(draw(store, labelled="on", middle=4)) == {"a": [9, 10], "b": [10, 11], "c": [7]}
    for mode in ("patches", "tiles"):
        both = draw(store, labelled="on", mode=mode, patch=(16, 16), crop=(24, 24))
        assert numbers(both) == {k: list(v) for k, v in LABELS.items()}


def test_a_label_outside_the_crop_does_not_count(store: Store, tmp_path: Path) -> None:
    other = make_store(tmp_path)
    labels = read(other).segmentation("a")
    assert labels is not None
    labels[:, :, 4] = 0
    labels[2, 12, 4] = 1
    relabel(other, "a", labels)
    other = replace(other)  # what was read is forgotten
    assert numbers(draw(other, ("a",), labelled="on"))["a"] == [4, 9, 10]
    assert numbers(draw(other, ("a",), labelled="on", crop=(20, 20)))["a"] == [9, 10]


def test_labelled_needs_segmentations(tmp_path: Path) -> None:
    some, none = make_store(tmp_path / "some", bare=("b",)), make_store(tmp_path / "none", bare=NAMES)
    with pytest.raises(DataError, match=r"sample\.labelled=on, but 1 of 3 training cases .*\(b\).*sample\.labelled=off") as error:
        draw(some, labelled="on")
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match=r"3 of 3 training cases have no segmentation \(a, b, c\)"):
        draw(none, labelled="on")
    plain = numbers(draw(none))
    assert numbers(draw(some, labelled="auto")) == numbers(draw(none, labelled="auto")) == plain
    assert numbers(draw(some, ("a", "c"), labelled="auto")) == {"a": list(LABELS["a"]), "c": list(LABELS["c"])}


def test_no_slice_with_a_label_is_refused(tmp_path: Path) -> None:
    other = make_store(tmp_path)
    relabel(other, "a", np.zeros((HEIGHT, WIDTH, DEPTH), np.int16))
    with pytest.raises(DataError, match=r"labelled pixel.*sample\.labelled=off"):
        draw(other, ("a",), labelled="on")
    with pytest.raises(DataError, match=r"min_brain=1; lower it\.$"):
        draw(other, ("a",), min_brain=1.0)


def test_unpaired_targets_come_from_the_same_selection(tmp_path: Path) -> None:
    other = make_store(tmp_path, subjects={"a": "one", "b": "two", "c": "one"})
    sampler = draw(other, paired=False, middle=4, labelled="on", batch=6)
    allowed = {(0, 9), (0, 10), (1, 10), (1, 11), (2, 7)}
    met = set()
    for step in range(12):
        for (own, *_), partner in zip(sampler.chosen(step), sampler.partners(step), strict=True):
            met.add((int(partner[0]), int(partner[1])))
            assert {own, partner[0]} not in ({0}, {1}, {2}, {0, 2})
    assert met == allowed


# --- at which size ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(40, 48), (64, 40), (33, 35)])
def test_enlarged_samples_against_scipy(store: Store, size: tuple[int, int]) -> None:
    """Half-pixel centres, clamped edges; labels and mask from the nearest pixel."""
    plain = draw(store, crop=(32, 32)).batch(2)
    found = draw(store, crop=(32, 32), resize=size).batch(2)
    factors = (1, 1, size[0] / 32, size[1] / 32)
    assert plain.mask is not None and plain.segmentation is not None and found.mask is not None and found.segmentation is not None
    for name in (*SOURCES, *TARGETS):
        expected = ndimage.zoom(plain.images[name].numpy(), factors, order=1, mode="nearest", grid_mode=True)
        assert expected.shape == tuple(found.images[name].shape) == (4, 1, *size)
        np.testing.assert_allclose(found.images[name].numpy(), expected, atol=1e-5)
    for labels, small in ((found.mask, plain.mask), (found.segmentation, plain.segmentation)):
        expected = ndimage.zoom(small.numpy().astype(int), factors, order=0, mode="nearest", grid_mode=True)
        np.testing.assert_array_equal(labels.numpy(), expected)
        assert labels.dtype == small.dtype
    assert set(found.segmentation.unique().tolist()) == set(plain.segmentation.unique().tolist()) > {0}


@pytest.mark.parametrize("size", [(16, 12), (20, 64), (31, 15)])
def test_shrunk_samples_against_pillow(store: Store, size: tuple[int, int]) -> None:
    """Where a slice shrinks it is low-pass filtered; the axis that grows is as without."""
    plain = draw(store, crop=(32, 32)).batch(1).images["T1w"]
    found = draw(store, crop=(32, 32), resize=size).batch(1).images["T1w"]
    for image, small in zip(found[:, 0].numpy(), plain[:, 0].numpy(), strict=True):
        expected = np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BILINEAR))
        np.testing.assert_allclose(image, expected, atol=1e-5)
    stripes = torch.arange(60.0).remainder(2).expand(1, 1, 60, 60)
    inner = resize_image(stripes, (60, 25))[..., 2:-2]
    assert float((inner - 0.5).abs().max()) < 0.1
    assert float((nn.functional.interpolate(stripes, size=(60, 25), mode="bilinear") - 0.5).abs().max()) > 0.3


def test_resized_background_brain_and_shares(store: Store) -> None:
    plain, found = draw(store, crop=(32, 32)).batch(0), draw(store, crop=(32, 32), resize=(64, 64)).batch(0)
    assert plain.mask is not None and found.mask is not None
    assert float(found.mask.float().mean()) == float(plain.mask.float().mean())
    far = ~ndimage.binary_dilation(found.mask.numpy(), np.ones((1, 1, 5, 5)))
    for image in found.images.values():
        assert (image.numpy()[far] == -1).all() and float(image.min()) == -1
    assert torch.equal(found.coords, plain.coords)  # type: ignore[arg-type]
    again = draw(store, crop=(32, 32), resize=(64, 64)).batch(0)
    assert all(torch.equal(again.images[name], found.images[name]) for name in found.images)


def test_unpaired_targets_are_resized_too(store: Store) -> None:
    sampler = draw(store, crop=(32, 32), resize=(48, 40), paired=False)
    batch, partners = sampler.batch(0), sampler.partners(0)
    assert not batch.paired and batch.images["FLAIR"].shape == (4, 1, 48, 40)
    small = np.full((4, 1, 32, 32), -1, np.float32)
    for image, (index, z) in zip(small, partners, strict=True):
        image[0, 1 : 1 + HEIGHT, 3 : 3 + WIDTH] = slices(store, sampler.names[index], "FLAIR")[z]
    expected = ndimage.zoom(small, (1, 1, 1.5, 1.25), order=1, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(batch.images["FLAIR"].numpy(), expected, atol=1e-5)


def test_the_crop_is_resized_as_it_is(store: Store) -> None:
    """Without resize a crop is rounded up to the method's divisor; with it, only the resized size must fit."""
    assert draw(store, crop=(30, 30), divisor=16).crop == (32, 32)
    sampler = draw(store, crop=(30, 30), resize=(32, 48), divisor=16)
    assert sampler.crop == (30, 30) and sampler.batch(0).images["T1w"].shape == (4, 1, 32, 48)


# --- what is refused ----------------------------------------------------------------------------------------------------

BAD = [
    ({"resize": (30, 48), "crop": (30, 30)}, r"sample\.resize=30,48 must be multiples of 16 .* use sample\.resize=32,48"),
    ({"resize": (32, 32)}, r"given sample\.mode=slices and sample\.crop=0,0; set sample\.mode=slices and a sample\.crop"),
    ({"resize": (32, 32), "crop": (30, 30), "mode": "tiles"}, r"sample\.mode=tiles .* or sample\.resize=0,0"),
    ({"resize": (32, 32), "crop": (30, 30), "mode": "patches"}, r"sample\.mode=patches"),
    ({"resize": (0, 32), "crop": (30, 30)}, r"sample\.resize=0,32: both sizes"),
]


@pytest.mark.parametrize(("sample", "words"), BAD)
def test_a_resize_that_cannot_be_done(store: Store, sample: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        draw(store, divisor=16, **sample)
    assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match=words):
        check_resize(SampleConfig(**sample), 16)
    settings = [f"sample.{key}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for key, v in sample.items()]
    with pytest.raises(UsageError, match=words):
        configure(settings)


class Sixteen(NeuralMethod):
    """A method by name alone."""

    spec: ClassVar[Spec] = Spec(name="sixteen", title="for tests", divisor=16)

    @dataclass(frozen=True)
    class Options:
        """Nothing to set."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"fast": {"train.steps": 3}}

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        return {}


def configure(settings: Sequence[str], written: Mapping[str, Any] | None = None) -> RunConfig:
    return build_config(Sixteen, "fast", written or {}, settings, SOURCES, TARGETS)


def test_words_and_limits() -> None:
    good = configure(["sample.resize=256,256", "sample.crop=240,240", "sample.middle=80", "sample.labelled=auto"]).sample
    assert (good.resize, good.middle, good.labelled) == ((256, 256), 80, "auto")
    assert (SampleConfig().resize, SampleConfig().middle, SampleConfig().labelled) == ((0, 0), 0, "off")
    for setting, words in (
        ("sample.labelled=maybe", r"sample\.labelled='maybe'"),
        ("sample.middle=-1", r"sample\.middle=-1 is outside 0 to"),
        ("sample.middle=2.5", "whole number"),
        ("sample.resize=-16,16", r"sample\.resize=-16 is outside 0 to"),
        ("sample.resize=256", "write 2 values"),
    ):
        with pytest.raises(UsageError, match=words):
            configure([setting])


def test_bare_on_and_off_in_yaml() -> None:
    """YAML reads them as booleans."""
    for word in ("on", "off", "auto", '"on"'):
        written = yaml.safe_load(f"sample:\n  labelled: {word}\n")
        assert configure([], written).sample.labelled == word.strip('"')


def test_runs_of_before_have_none_of_it() -> None:
    old = from_dict(SampleConfig, {"mode": "slices", "crop": [240, 240], "batch": 2})
    assert Frame.of(old).scale == (1.0, 1.0) and old.middle == 0 and old.labelled == "off"


# --- what prediction shows ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NoOptions:
    """Nothing to set."""


seen: list[Batch] = []


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    seen.clear()
    torch.set_num_threads(1)
    monkeypatch.setattr(registry, "METHODS", {**registry.METHODS, "first": f"{__name__}:First"})


class First(NeuralMethod):
    """Gives its first source; sees windows around the brain."""

    spec: ClassVar[Spec] = Spec(name="first", title="for tests", sources=(1, 2), targets=(1, 2), divisor=8)
    Options: ClassVar[type] = NoOptions
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"fast": {}, "paper": {}}

    def __init__(self, options: Any = None, sources: Sequence[str] = SOURCES, targets: Sequence[str] = TARGETS) -> None:
        super().__init__(options or NoOptions(), sources, targets)
        self.gain = nn.Parameter(torch.ones(1))

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        seen.append(batch)
        loss = (self.gain * batch.images[self.sources[0]]).square().mean() * 0
        update("G", loss)
        return {"loss": loss.detach()}

    def forward(self, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Output]:
        given, targets = check_wanted(self, batch, wanted)
        seen.append(batch)
        return dict.fromkeys(targets, Output(self.gain * batch.images[given[0]]))


class Whole(First):
    """The same, with a statistic of the whole slice somewhere: it is shown whole canvases."""

    def __init__(self, options: Any = None, sources: Sequence[str] = SOURCES, targets: Sequence[str] = TARGETS) -> None:
        super().__init__(options, sources, targets)
        self.unused = nn.InstanceNorm2d(1)


class Fitted(FittedMethod):
    """Gives its first source; no network."""

    spec: ClassVar[Spec] = First.spec
    Options: ClassVar[type] = NoOptions
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __call__(self, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Output]:
        given, targets = check_wanted(self, batch, wanted)
        seen.append(batch)
        return dict.fromkeys(targets, Output(batch.images[given[0]]))


def sample_of(crop: tuple[int, int], resize: tuple[int, int] = (0, 0), **more: Any) -> SampleConfig:
    return SampleConfig(**{"crop": crop, "resize": resize, "min_brain": 0.0, "batch": 4, **more})


def smooth_case(shape: tuple[int, int, int] = (31, 45, 27), background: bool = False) -> PreparedCase:
    """Slow waves everywhere, or -1 outside the brain; a brain of odd size off the middle."""
    grids = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij")
    image = 0.6 * np.sin(2 * np.pi * grids[0]) * np.cos(2 * np.pi * grids[1] + 1) * np.cos(np.pi * grids[2])
    mask = sum((((grid - centre) / 0.4) ** 2 for grid, centre in zip(grids, (0.45, 0.5, 0.55), strict=True))) < 1
    images = {name: (image * (1 - 0.2 * k)).astype(np.float32) for k, name in enumerate((*SOURCES, *TARGETS))}
    if background:
        images = {name: np.where(mask, array, np.float32(-1)) for name, array in images.items()}
    params = {key: {"name": "percentile", "low": 0.0, "high": 100.0} for key in images}
    return PreparedCase("X", images, mask, None, np.eye(4), normalizers=params)


def test_canvas_of_a_run() -> None:
    assert Frame.of(SampleConfig()) == Frame()
    assert Frame.of(sample_of((240, 240))) == Frame((240, 240))
    assert Frame.of(sample_of((240, 200), (256, 300))) == Frame((240, 200), (256 / 240, 1.5))
    for mode in ("tiles", "patches"):
        assert Frame.of(sample_of((160, 180), mode=mode)) == Frame()


@pytest.mark.parametrize(("crop", "resize"), [((36, 33), (48, 40)), ((40, 40), (24, 56)), ((33, 30), (0, 0)), ((64, 48), (0, 0))])
def test_a_canvas_is_the_training_sample_to_the_bit(store: Store, crop: tuple[int, int], resize: tuple[int, int]) -> None:
    method = Whole()
    sampler = draw(store, ("b",), divisor=8, crop=crop, resize=resize)
    batch = case_batch(read(store), "b", (*SOURCES, *TARGETS))
    frame = Frame.of(sample_of(crop, resize)).seen_by(method)
    placed = frame.place(batch, dict.fromkeys(batch.images, -1.0))
    assert size_of(placed)[0] % 8 == size_of(placed)[1] % 8 == 0
    for step in range(2):
        drawn = sampler.batch(step)
        rows = sampler.chosen(step)[:, 1]  # brain slices of case b start at 0
        for name, image in drawn.images.items():
            assert torch.equal(image, placed.images[name][rows]), name
        assert torch.equal(drawn.mask, placed.mask[rows])  # type: ignore[index,arg-type]
        assert torch.equal(drawn.segmentation, placed.segmentation[rows])  # type: ignore[index,arg-type]


@pytest.mark.parametrize("size", [(31, 27), (45, 31), (64, 50), (1, 7)])
@pytest.mark.parametrize("frame", [Frame((40, 41), (1.5, 0.7)), Frame(scale=(256 / 240, 256 / 240)), Frame((50, 50)), Frame()])
def test_there_and_back(frame: Frame, size: tuple[int, int]) -> None:
    constant = Batch(images={"T1w": torch.full((2, 1, *size), 0.37)})
    placed = frame.place(constant, {"T1w": 0.37})
    assert size_of(placed) == frame.scaled(size)
    back = frame.back(placed.images["T1w"], size)
    assert back.shape == (2, 1, *size)
    torch.testing.assert_close(back, constant.images["T1w"], atol=1e-6, rtol=0)
    if frame.scale == (1.0, 1.0):
        noise = Batch(images={"T1w": torch.randn(2, 1, *size)})
        assert torch.equal(frame.back(frame.place(noise, {"T1w": 0.0}).images["T1w"], size), noise.images["T1w"])


def test_far_padding() -> None:
    batch = Batch(images={"T1w": torch.randn(2, 1, 13, 16)}, mask=torch.ones(2, 1, 13, 16, dtype=torch.bool))
    padded = pad_far(batch, 8, {"T1w": -1.0})
    assert size_of(padded) == (16, 16) and padded.mask is not None
    assert torch.equal(padded.images["T1w"][..., :13, :], batch.images["T1w"])
    assert (padded.images["T1w"][..., 13:, :] == -1).all() and not padded.mask[..., 13:, :].any()
    assert pad_far(padded, 8, {}) is padded


WAYS = [
    PredictSettings(precision="32"),
    PredictSettings(precision="32", tight="off", batch=2),
    PredictSettings(precision="32", tight="on"),
    PredictSettings(precision="32", mode="patches", patch=(16, 24), overlap=0.4, window="gaussian"),
]


@pytest.mark.parametrize("plane", list(PLANES))
@pytest.mark.parametrize("kind", [First, Whole])
@pytest.mark.parametrize("settings", WAYS, ids=str)
def test_identity_returns_nearly_a_smooth_image(kind: type[First], settings: PredictSettings, plane: str) -> None:
    case = smooth_case()
    frame = Frame.of(sample_of((48, 50), (64, 72)))
    found = predict_case(kind(), case, plane=plane, settings=settings, frame=frame)["FLAIR"]
    truth = case.images["T1w"]
    assert found.shape == truth.shape and (found[~case.mask] == -1).all()
    error = np.abs(found - truth)[case.mask]
    assert 1e-6 < error.max() < 0.03  # interpolated, and hardly changed: the waves span 1.2


@pytest.mark.parametrize("kind", [First, Whole])
@pytest.mark.parametrize("settings", WAYS, ids=str)
def test_constant_in_constant_out(kind: type[First], settings: PredictSettings) -> None:
    case = smooth_case()
    flat = replace(case, images={name: np.full(case.mask.shape, -1, np.float32) for name in case.images})
    found = predict_case(kind(), flat, settings=settings, frame=Frame.of(sample_of((48, 50), (64, 40))))["FLAIR"]
    np.testing.assert_allclose(found, -1, atol=1e-6)


def shares(batches: Sequence[Batch]) -> float:
    """Brain pixels that a network was shown."""
    return float(sum(int(batch.mask.sum()) for batch in batches if batch.mask is not None))


@pytest.mark.parametrize("kind", [First, Whole])
@pytest.mark.parametrize("resize", [(60, 84), (36, 30)])
def test_the_brain_has_its_training_size(kind: type[First], resize: tuple[int, int]) -> None:
    """Its area as shown is that on disk times both factors."""
    case = smooth_case(background=True)
    frame = Frame.of(sample_of((48, 60), resize))
    for settings in WAYS[:3]:
        seen.clear()
        predict_case(kind(), case, settings=settings, frame=frame)
        assert shares(seen) / case.mask.sum() == pytest.approx(frame.scale[0] * frame.scale[1], rel=0.05)


def test_who_is_shown_what() -> None:
    case, frame = smooth_case(background=True), Frame.of(sample_of((48, 64), (64, 64)))
    predict_case(Whole(), case, settings=WAYS[0], frame=frame)
    assert {size_of(batch) for batch in seen} == {(64, 64)}
    seen.clear()
    predict_case(Whole(), case, settings=WAYS[2], frame=frame)  # tight=on: windows at the scale, no frame
    assert {size_of(batch) for batch in seen} == {(48, 48)}  # 31x45 in windows of at most 32x48, scaled to 43x48
    seen.clear()
    predict_case(First(), case, settings=WAYS[1], frame=frame)
    assert {size_of(batch) for batch in seen} == {(48, 48)}  # 31x45 -> 41x45 -> multiples of 8
    seen.clear()
    plain = predict_case(Whole(), case, settings=WAYS[0], frame=Frame.of(sample_of((43, 50))))["FLAIR"]
    assert {size_of(batch) for batch in seen} == {(48, 56)}  # a crop without resize is a frame, rounded as in training
    np.testing.assert_array_equal(plain, np.where(case.mask, case.images["T1w"], -1))


def test_methods_that_are_no_networks_are_left_alone() -> None:
    case = smooth_case(background=True)
    frame = Frame.of(sample_of((48, 64), (64, 40)))
    found = predict_case(Fitted(NoOptions(), SOURCES, TARGETS), case, frame=frame)["FLAIR"]
    np.testing.assert_array_equal(found, case.images["T1w"])


def test_a_batch_counts_the_pixels_that_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(engine.BATCH_PIXELS, "cpu", 20_000)
    predict_case(Whole(), smooth_case(), settings=WAYS[0], frame=Frame.of(sample_of((48, 48), (96, 96))))
    assert [batch.size for batch in seen[:-1]] == [2] * (len(seen) - 1) and len(seen) > 2  # 2 * 96^2 < 20000 < 3 * 96^2


@pytest.mark.parametrize("kind", [First, Whole])
def test_validation_predicts_as_prediction_does(store: Store, kind: type[First], tmp_path: Path) -> None:
    sample = sample_of((40, 40), (56, 48))
    reader = read(store)
    prepared = reader.prepared("b", SOURCES, TARGETS)
    volume = predict_case(kind(), prepared, settings=WAYS[1], frame=Frame.of(sample))["FLAIR"]
    shown = {size_of(some) for some in seen}
    seen.clear()
    predictor = Predictor(run_of(kind(), store, sample), WAYS[1])
    found = predictor(prepared)
    assert {size_of(some) for some in seen} == shown
    np.testing.assert_array_equal(found.images["FLAIR"], volume)
    # fewer slices, each as it is among all
    few = Predictor(run_of(kind(), store, sample), replace(WAYS[1], quick=3))(prepared)
    assert few.mask.any(axis=(0, 1)).sum() == 3
    np.testing.assert_allclose(few.images["FLAIR"][few.mask], volume[few.mask], atol=1e-6)
    assert (few.images["FLAIR"][~few.mask] == -1).all()
    twins = dict.fromkeys(("T1w", "FLAIR"), slices(store, "b", "FLAIR"))
    same = store_of({"b": store_case(tmp_path, "b", twins, slice_major(reader.mask("b"), "axial"))}, Split(("b",), ("b",), (), ""))
    method = kind(sources=("T1w",), targets=("FLAIR",))
    validated = validate(Predictor(run_of(method, same, sample)), read(same, ("T1w",), ("FLAIR",)), ["b"])
    # the brain's edge is interpolated, no more
    assert 15 < validated.score < 60


def test_training_export_and_evaluation_share_the_canvas(tmp_path: Path) -> None:
    """A run of 24x24 slices resized to 32x40: every stage shows the network that scale."""
    shape = (20, 22, 10)
    for number, name in enumerate(("a", "b", "c")):
        arrays = {contrast: blob_brain(shape, 10 * number + k) for k, contrast in enumerate((*SOURCES, *TARGETS))}
        write_case(tmp_path / "data" / name, {**arrays, "seg": (arrays["T1w"] > 150).astype(np.float32)})
    (tmp_path / "data" / "splits.tsv").write_text("case\tsplit\na\ttrain\nb\tvalidation\nc\ttest\n")
    sample = sample_of((24, 24), (32, 40), batch=2, middle=4, labelled="on")
    base = {"steps": 2, "validate_every": 2, "precision": "32"}
    config = from_dict(
        RunConfig, {"method": "first", "preset": "fast", "sources": SOURCES, "targets": TARGETS, "train": base, "options": None}
    )
    config = replace(config, sample=sample, options=NoOptions())
    from synthmr.data.split import make_split
    from synthmr.data.store import build

    cohort = pipeline.index(tmp_path / "data")
    split = make_split(cohort, (*SOURCES, *TARGETS))
    store = build(cohort, split, (*SOURCES, *TARGETS), config.prepare, cache=tmp_path / "cache")
    result = train(config, store, split, tmp_path / "run", runtime=Runtime(accelerator="cpu"))
    assert result.best is not None and (tmp_path / "run" / "images" / "step_000002.png").is_file()
    box = Reader(store, config.prepare, SOURCES, TARGETS).shape("b")[:2]
    scaled = Frame.of(sample).scaled((round(box[0]), round(box[1])))
    want = (round(box[0] * 32 / 24), round(box[1] * 40 / 24))
    assert want == Frame(scale=(32 / 24, 40 / 24)).scaled((box[0], box[1])) and scaled == (32, 40)
    assert {size_of(some) for some in seen[:2]} == {(32, 40)}  # training
    rounded = (-(-want[0] // 8) * 8, -(-want[1] // 8) * 8)
    assert {size_of(some) for some in seen[2:]} == {rounded}  # validation and its picture
    run, settings = load_run(tmp_path / "run"), PredictSettings(precision="32", tight="off")
    seen.clear()
    (predicted,) = predictions([tmp_path / "run"], tmp_path / "data", "test", settings)
    assert {size_of(some) for some in seen} == {rounded}
    seen.clear()
    summary = synthesize_cohort(Predictor(run, settings), cohort, tmp_path / "out")
    assert summary.done == ("a", "b", "c") and {size_of(some) for some in seen} == {rounded}
    (image,) = predicted.images.values()
    inside = ndimage.binary_erosion(predicted.prepared.mask, iterations=2)
    assert np.abs(2 * image - 1 - predicted.prepared.images["T1w"])[inside].mean() < 0.1


def test_labels_keep_their_type() -> None:
    labels = torch.arange(6, dtype=torch.int64).reshape(1, 1, 2, 3) * 1000
    assert torch.equal(resize_labels(labels, (4, 6)), labels.repeat_interleave(2, 2).repeat_interleave(2, 3))
    batch = resize_batch(Batch(images={"T1w": torch.zeros(1, 1, 2, 3)}, segmentation=labels), (2, 3))
    assert batch.mask is None and torch.equal(batch.segmentation, labels)  # type: ignore[arg-type]
