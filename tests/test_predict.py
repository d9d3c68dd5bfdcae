"""Prediction of a case: identity methods, windows, patches, padding, precision, folding, and what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from method_alone import predict_case
from synthmr.batch import Batch, Output
from synthmr.case import PLANES, PreparedCase, slice_major
from synthmr.errors import DataError, UsageError
from synthmr.methods.contract import FittedMethod, NeuralMethod, Spec, check_wanted
from synthmr.predict import precision, windows
from synthmr.predict.engine import ready
from synthmr.predict.fold import fold_batch_norm, folded
from synthmr.predict.precision import Precision, has_fast_bf16, resolve_precision
from synthmr.predict.settings import PredictSettings


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """Nothing to set."""


class Net(NeuralMethod):
    """Base of the networks here: records the batches that it sees."""

    spec: ClassVar[Spec] = Spec(name="net", title="for tests", sources=(1, 2), targets=(1, 2), divisor=8)
    Options: ClassVar[type] = NoOptions
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __init__(self, sources: Sequence[str] = ("T1w", "T2w"), targets: Sequence[str] = ("FLAIR",)) -> None:
        super().__init__(NoOptions(), sources, targets)
        self.gain = nn.Parameter(torch.ones(1))
        self.build()

    def build(self) -> None:
        """Networks."""

    def compute(self, images: Tensor) -> Tensor:
        """(B, N, H, W) -> (B, 1, H, W)."""
        return images.mean(dim=1, keepdim=True)

    def forward(self, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Output]:
        given, targets = check_wanted(self, batch, wanted)
        seen.append(batch)
        return {name: Output(self.gain * self.compute(batch.stack(given))) for name in targets}


#: batches that `Net.forward` was shown; cleared for each test (a deep copy of a network would lose a list of its own)
seen: list[Batch] = []


@pytest.fixture(autouse=True)
def _clean() -> None:
    seen.clear()
    torch.set_num_threads(1)


class ConvNet(Net):
    """Convolutions with batch norm, seeded, running statistics not at their start."""

    def build(self) -> None:
        generator = torch.Generator().manual_seed(3)
        block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Sequential(nn.BatchNorm2d(8), nn.ReLU()))
        self.net = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), block, nn.Conv2d(8, 1, 3, padding=1))
        for value in self.state_dict().values():
            if value.dtype == torch.float32:
                value.copy_(torch.rand(value.shape, generator=generator) * 0.6 - 0.2)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.add_(1)  # type: ignore[union-attr]
        self.gain.data.fill_(1)

    def compute(self, images: Tensor) -> Tensor:
        return self.net(images)


class Mean(FittedMethod):
    """The mean of the sources: no network."""

    spec: ClassVar[Spec] = Spec(name="mean", title="for tests", sources=(1, 2), any_subset=True)
    Options: ClassVar[type] = NoOptions
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __call__(self, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Output]:
        given, targets = check_wanted(self, batch, wanted)
        return {name: Output(batch.stack(given).mean(dim=1, keepdim=True)) for name in targets}


PERCENTILE = {"name": "percentile", "low": 0.0, "high": 100.0}


def make_case(
    shape: tuple[int, int, int] = (21, 30, 13), seed: int = 0, contrasts: Sequence[str] = ("T1w", "T2w", "FLAIR")
) -> PreparedCase:
    """A brain whose slices have different sizes and places; the first and last slices are empty."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, bool)
    for z in range(2, shape[2] - 2):
        size = 3 + (z * 2) % (shape[0] - 6)
        mask[1 : 1 + size, 4 : 6 + size, z] = True
    images = {name: np.where(mask, rng.uniform(-0.9, 0.9, shape), -1).astype(np.float32) for name in contrasts}
    return PreparedCase("X", images, mask, None, np.eye(4), normalizers=dict.fromkeys(contrasts, PERCENTILE))


EVERY_WAY = [
    PredictSettings(precision="32"),
    PredictSettings(precision="32", tight="off", batch=1),
    PredictSettings(precision="32", tight="on", batch=3),
    PredictSettings(precision="32", channels_last="off"),
    PredictSettings(precision="32", mode="patches", patch=(12, 9), overlap=0.4, window="gaussian"),
    PredictSettings(precision="32", mode="patches", patch=(64, 64)),
]


@pytest.mark.parametrize("plane", list(PLANES))
@pytest.mark.parametrize("settings", EVERY_WAY, ids=str)
def test_identity_method_returns_its_source(settings: PredictSettings, plane: str) -> None:
    case = make_case()
    out = predict_case(Net(("T1w",)), case, plane=plane, settings=settings)
    assert list(out) == ["FLAIR"]
    assert out["FLAIR"].dtype == np.float32 and out["FLAIR"].shape == case.mask.shape
    np.testing.assert_allclose(out["FLAIR"], case.images["T1w"], atol=1e-6)


def test_only_the_sources_are_shown_and_only_slices_with_brain() -> None:
    case = make_case()
    predict_case(Net(), case, settings=PredictSettings(precision="32", tight="off"))
    assert all(set(batch.images) == {"T1w", "T2w"} for batch in seen)
    assert sum(batch.size for batch in seen) == case.mask.any(axis=(0, 1)).sum() == 9
    for batch in seen:
        for image in batch.images.values():
            assert image.shape[-2:] == (24, 32) and image.dtype == torch.float32
            # padding is background, not 0
            assert (image[..., 21:, :] == -1).all() and (image[..., 30:] == -1).all()


def test_background_is_the_target_normalizers_not_the_networks() -> None:
    case = make_case(contrasts=("T1w", "T2w"))
    net = Net()
    net.gain.data.fill_(0.5)
    zscore = {"name": "zscore", "mean": 50.0, "sd": 20.0, "high": 100.0}
    out = predict_case(net, case, settings=PredictSettings(precision="32"), normalizers={"FLAIR": zscore})["FLAIR"]
    assert np.unique(out[~case.mask]).tolist() == [-2.5]
    expected = 0.25 * (case.images["T1w"] + case.images["T2w"])
    np.testing.assert_allclose(out[case.mask], expected[case.mask], atol=1e-6)


def test_wanted_chooses_targets() -> None:
    case = make_case(contrasts=("T1w", "FLAIR", "T2w"))
    net = Net(("T1w",), ("FLAIR", "T2w"))
    assert set(predict_case(net, case)) == {"FLAIR", "T2w"}
    assert set(predict_case(net, case, ["T2w"])) == {"T2w"}
    with pytest.raises(UsageError, match="gives FLAIR, T2w, not PDw"):
        predict_case(net, case, ["PDw"])


def test_fitted_methods_run_the_same_way_and_any_subset_goes() -> None:
    case = make_case()
    method = Mean(NoOptions(), ("T1w", "T2w"), ("FLAIR",))
    for settings in (PredictSettings(), PredictSettings(mode="patches", patch=(8, 8))):
        out = predict_case(method, case, settings=settings)["FLAIR"]
        np.testing.assert_allclose(out, np.where(case.mask, (case.images["T1w"] + case.images["T2w"]) / 2, -1), atol=1e-6)
    alone = dataclasses.replace(case, images={"T2w": case.images["T2w"]})
    np.testing.assert_allclose(predict_case(method, alone)["FLAIR"], case.images["T2w"], atol=1e-6)


def direct(net: Net, case: PreparedCase) -> np.ndarray:
    """The plainest way: each axial slice whole, padded to 24x32, float32, no copy of the network."""
    out = np.full(case.mask.shape, -1, np.float32)
    net.eval()
    for z in range(case.mask.shape[2]):
        image = np.full((1, 2, 24, 32), -1, np.float32)
        for channel, name in enumerate(net.sources):
            image[0, channel, :21, :30] = case.images[name][:, :, z]
        with torch.no_grad():
            out[:, :, z] = net.compute(torch.from_numpy(image))[0, 0, :21, :30].numpy()
    return np.where(case.mask, out, -1)


@pytest.mark.parametrize("batch", [0, 1, 4])
def test_slices_equal_a_plain_loop(batch: int) -> None:
    case, net = make_case(), ConvNet()
    expected = direct(net, case)
    assert expected[case.mask].std() > 0.01
    out = predict_case(net, case, settings=PredictSettings(precision="32", tight="off", batch=batch))["FLAIR"]
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_bf16_is_near_float32() -> None:
    case, net = make_case(), ConvNet()
    exact = predict_case(net, case, settings=PredictSettings(precision="32"))["FLAIR"]
    rough = predict_case(net, case, settings=PredictSettings(precision="bf16"))["FLAIR"]
    error = np.abs(rough - exact)[case.mask]
    assert rough.dtype == np.float32 and 0 < error.max() < 0.05 * exact[case.mask].std() + 0.02


def test_tight_windows_hold_the_brain_with_its_margin() -> None:
    rng = np.random.default_rng(1)
    mask = np.zeros((20, 150, 180), bool)
    for z in range(2, 20):
        top, left = rng.integers(0, 80), rng.integers(0, 100)
        mask[z, top : top + rng.integers(1, 70), left : left + rng.integers(1, 80)] = True
    groups = windows.brain_windows(mask, 24)
    found = sorted(window.index for members in groups.values() for window in members)
    assert found == list(range(2, 20))
    pixels = 0
    for (height, width), members in groups.items():
        assert height % 24 == 0 and width % 24 == 0
        for window in members:
            pixels += height * width
            rows, columns = (np.flatnonzero(mask[window.index].any(axis=axis)) for axis in (1, 0))
            for first, last, start, length, whole in (
                (rows[0], rows[-1], window.top, height, 150),
                (columns[0], columns[-1], window.left, width, 180),
            ):
                assert 0 <= start <= max(first - windows.MARGIN, 0)
                assert start + length >= min(last + 1 + windows.MARGIN, whole)
    assert pixels < 0.6 * 18 * 150 * 180


def test_a_window_depends_on_its_own_slice_alone() -> None:
    """So the batch size, and what the neighbours look like, cannot change a prediction."""
    case, net = make_case(shape=(90, 100, 9)), ConvNet()
    whole = [predict_case(net, case, settings=PredictSettings(precision="32", tight="on", batch=b))["FLAIR"] for b in (1, 5)]
    np.testing.assert_allclose(whole[0], whole[1], atol=1e-6)
    mask = case.mask.copy()
    mask[:, :, :4] = mask[:, :, 5:] = False
    single = predict_case(net, dataclasses.replace(case, mask=mask), settings=PredictSettings(precision="32", tight="on"))["FLAIR"]
    np.testing.assert_allclose(single[:, :, 4], whole[0][:, :, 4], atol=1e-6)


def test_gather_and_scatter_are_inverse() -> None:
    rng = np.random.default_rng(2)
    slices, mask = rng.normal(size=(6, 70, 90)).astype(np.float32), rng.uniform(size=(6, 70, 90)) > 0.3
    for groups in (windows.brain_windows(mask, 16), windows.whole_windows(mask)):
        out = np.zeros_like(slices)
        for size, members in windows.batches(groups, 20_000):
            windows.scatter(out, windows.gather(slices, members, size, -9)[:, 0], members, mask)
        np.testing.assert_array_equal(out, np.where(mask, slices, 0))


def test_networks_with_slice_statistics_see_the_whole_box() -> None:
    class Instance(Net):
        def build(self) -> None:
            self.norm = nn.InstanceNorm2d(2)

        def compute(self, images: Tensor) -> Tensor:
            return self.norm(images).mean(dim=1, keepdim=True)

    assert windows.sees_whole_slice(Instance()) and not windows.sees_whole_slice(ConvNet())
    case = make_case(shape=(90, 100, 9))
    predict_case(Instance(), case, settings=PredictSettings(precision="32"))
    seen[:] = [batch for batch in seen if batch.images["T1w"].shape[-1] != 32]  # the look of `folded`
    assert all(batch.images["T1w"].shape[-2:] == (96, 104) for batch in seen)
    seen.clear()
    predict_case(ConvNet(), case, settings=PredictSettings(precision="32"))
    assert any(64 <= batch.images["T1w"].shape[-2] < 90 for batch in seen)


def test_mask_and_coordinates_go_along() -> None:
    case = make_case(shape=(24, 32, 5))
    case = dataclasses.replace(case, mask=np.ones(case.mask.shape, bool))
    predict_case(Net(), case, settings=PredictSettings(precision="32", tight="off", batch=5))
    coords = seen[-1].coords
    assert coords is not None and seen[-1].mask is not None and seen[-1].mask.all()
    np.testing.assert_allclose(coords.numpy(), [[z / 2 - 1, 0, 0] for z in range(5)], atol=1e-6)
    seen.clear()
    predict_case(Net(), case, settings=PredictSettings(precision="32", mode="patches", patch=(16, 16), overlap=0.0, batch=5))
    coords = seen[-1].coords
    assert coords is not None
    np.testing.assert_allclose(coords[:4, 1:].numpy(), [[-1 / 3, -0.5], [-1 / 3, 0.5], [1 / 3, -0.5], [1 / 3, 0.5]], atol=1e-6)


def test_segmentation_is_shown_to_methods_that_need_it() -> None:
    class Needs(Net):
        spec: ClassVar[Spec] = dataclasses.replace(Net.spec, needs=("segmentation",))

    case = make_case()
    labels = np.where(case.mask, 3, 0).astype(np.int16)
    predict_case(Needs(), dataclasses.replace(case, segmentation=labels), settings=PredictSettings(precision="32"))
    assert seen and all(batch.segmentation is not None and batch.segmentation.dtype == torch.int64 for batch in seen)
    assert all(
        torch.equal(batch.segmentation == 3, batch.mask)
        for batch in seen
        if batch.segmentation is not None and batch.mask is not None
    )
    seen.clear()
    predict_case(Net(), dataclasses.replace(case, segmentation=labels), settings=PredictSettings(precision="32"))
    assert all(batch.segmentation is None for batch in seen)


def test_the_method_is_left_as_it_was() -> None:
    case, net = make_case(), ConvNet()
    net.train()
    net.net[1].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    predict_case(net, case)
    assert net.training and not net.net[1].training and net.net[4].training
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_dropout_and_batch_statistics_are_off() -> None:
    class Random(ConvNet):
        def compute(self, images: Tensor) -> Tensor:
            return nn.functional.dropout(self.net(images), 0.5, self.training)

    net = Random()
    net.train()
    once, twice = (predict_case(net, make_case(), settings=PredictSettings(precision="32", batch=b))["FLAIR"] for b in (1, 3))
    np.testing.assert_allclose(once, twice, atol=1e-6)


def test_folding_keeps_the_numbers_and_removes_the_norms() -> None:
    net = ConvNet()
    fast = folded(net)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    assert sum(isinstance(module, nn.BatchNorm2d) for module in net.modules()) == 2
    image = torch.randn(1, 2, 20, 20, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(fast.compute(image), net.eval().compute(image), rtol=1e-5, atol=1e-5)


def test_folding_leaves_what_it_cannot_prove() -> None:
    conv = nn.Conv2d(2, 2, 1)
    shared = nn.Sequential(nn.Sequential(conv, nn.BatchNorm2d(2)), nn.Sequential(conv, nn.BatchNorm2d(2)))
    assert fold_batch_norm(shared.eval()) == 0
    batchwise = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, track_running_stats=False))
    assert fold_batch_norm(batchwise.eval()) == 0
    training = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
    assert fold_batch_norm(training) == 0
    assert fold_batch_norm(training.eval()) == 1

    class Crossed(ConvNet):
        """Uses the parts of its Sequential in an order of its own."""

        def compute(self, images: Tensor) -> Tensor:
            norm = self.net[1]
            mid = self.net[0](images)
            return norm(torch.relu(mid)).mean(dim=1, keepdim=True)

    net = Crossed()
    out = folded(net)
    image = torch.randn(1, 2, 20, 20, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(out.compute(image), net.eval().compute(image))
    assert any(isinstance(module, nn.BatchNorm2d) for module in out.modules())


def test_ready_uses_channels_last_and_leaves_fitted_methods_alone() -> None:
    network, device, how = ready(ConvNet(), PredictSettings(precision="32", channels_last="on"))
    assert isinstance(network, ConvNet) and device.type == "cpu" and how == Precision("32", True)
    assert network.net[0].weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[union-attr, operator]
    mean = Mean(NoOptions(), ("T1w",), ("FLAIR",))
    assert ready(mean, PredictSettings(precision="bf16"))[0] is mean
    assert ready(mean, PredictSettings(precision="bf16"))[2] == Precision("32", False)


def test_precision_is_resolved_by_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    for able in (True, False):
        monkeypatch.setattr(precision, "has_fast_bf16", lambda device, able=able: able)
        assert resolve_precision().name == ("bf16" if able else "32")
        assert resolve_precision("32") == Precision("32", True)
        assert resolve_precision("bf16", "off") == Precision("bf16", False)
    with Precision("bf16", True).autocast("cpu"):
        assert torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    with Precision("32", True).autocast("cpu"):
        assert not torch.is_autocast_enabled("cpu")
    assert not has_fast_bf16("meta")
    with pytest.raises(UsageError, match="did you mean bf16"):
        resolve_precision("bf-16")
    with pytest.raises(UsageError, match="channels_last='yes'"):
        resolve_precision("auto", "yes")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_prediction_that_is_not_finite_is_refused(value: float) -> None:
    net = Net()
    net.gain.data.fill_(value)
    with pytest.raises(DataError, match=r"predicted FLAIR of case X holds \d+ NaN or infinite"):
        predict_case(net, make_case(), settings=PredictSettings(precision="32"))


def test_bad_calls_are_refused() -> None:
    case = make_case(contrasts=("T1w", "FLAIR"))
    with pytest.raises(DataError, match="case X has no T2w, which this run of net needs; it has T1w, FLAIR"):
        predict_case(Net(), case)
    none = dataclasses.replace(case, images={"FLAIR": case.images["FLAIR"]})
    with pytest.raises(DataError, match="has no T1w, T2w"):
        predict_case(Mean(NoOptions(), ("T1w", "T2w"), ("FLAIR",)), none)
    case = make_case()
    with pytest.raises(UsageError, match="unknown plane"):
        predict_case(Net(), case, plane="oblique")

    class Volumes(Net):
        spec: ClassVar[Spec] = dataclasses.replace(Net.spec, dims=(3,))

    # boxes for methods of three dimensions: the sum over neighbours is nothing here, and identity stays identity
    assert Volumes().traits.dims == 3
    seen.clear()
    found = predict_case(Volumes(), case, settings=PredictSettings(precision="32"), box=(16, 16, 16))
    assert found["FLAIR"].shape == case.mask.shape and {batch.dims for batch in seen} == {3}


def test_slice_major_views_are_written_through() -> None:
    """`scatter` writes into a view; a copy there would lose everything."""
    for plane in PLANES:
        volume = np.zeros((3, 4, 5))
        assert np.shares_memory(volume, slice_major(volume, plane))


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"mode": "patch"}, "did you mean patches"),
        ({"tight": "yes"}, "tight='yes'"),
        ({"precision": "16"}, "precision='16'"),
        ({"window": "gauss"}, "did you mean gaussian"),
        ({"overlap": 1.0}, "overlap=1"),
        ({"patch": (0, 8)}, "at least 1 pixel"),
        ({"batch": -1}, "not negative"),
    ],
)
def test_settings_that_make_no_sense_are_refused(bad: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        PredictSettings(**bad)
