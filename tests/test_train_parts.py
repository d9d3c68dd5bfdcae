"""Parts of training in closed form: schedule, budget, updates, validation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from synthmr.batch import Batch
from synthmr.config import TrainConfig
from synthmr.data.store import Store
from synthmr.errors import DataError, UsageError
from synthmr.methods.contract import Spec
from synthmr.predict.precision import Precision
from synthmr.train.runtime import Runtime, Updater
from synthmr.train.schedule import Budget, learning_rate
from synthmr.train.validate import MOST_DB, slice_figure, validate
from tiny_run import SOURCES, TARGETS, batch_of, make_store

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def fabric() -> Any:
    return Runtime("cpu").fabric()


@pytest.mark.parametrize(
    ("schedule", "progress", "factor"),
    [
        ("constant", 0.99, 1.0),
        ("linear", 0.2, 1.0),
        ("linear", 0.5, 1.0),
        ("linear", 0.75, 0.5),
        ("linear", 1.0, 0.0),
        ("cosine", 0.5, 1.0),
        ("cosine", 0.75, 0.5),
        ("cosine", 0.625, 0.5 * (1 + math.cos(math.pi / 4))),
        ("cosine", 1.0, 0.0),
    ],
)
def test_learning_rate(schedule: str, progress: float, factor: float) -> None:
    config = TrainConfig(lr=0.5, schedule=schedule, decay_start=0.5)
    assert learning_rate(config, progress, 1000) == pytest.approx(0.5 * factor, abs=1e-12)


def test_warmup() -> None:
    config = TrainConfig(lr=1.0, schedule="constant", warmup=4)
    assert [learning_rate(config, 0, step) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


def test_budget() -> None:
    steps, epochs, minutes = (Budget.of(TrainConfig(**words), 7) for words in ({"steps": 50}, {"epochs": 3}, {"minutes": 2.0}))
    assert (steps.steps, epochs.steps, minutes.seconds) == (50, 21, 120)
    assert steps.progress(25, 1e9) == 0.5 and minutes.progress(10**9, 30) == 0.25 and minutes.progress(1, 500) == 1
    assert [steps.mark(step, 0, 0) for step in (0, 2, 3, 49, 50)] == [0, 0, 1, 19, 20]
    assert [steps.mark(step, 0, 20) for step in (19, 20, 40)] == [0, 1, 2]
    assert [minutes.mark(9, seconds, 0) for seconds in (0.0, 5.9, 6.1, 120.0)] == [0, 0, 1, 20]
    assert not steps.long and Budget(100_000, 0).long and Budget(0, 10_000).long
    for words in ({}, {"steps": 1, "minutes": 1.0}):
        with pytest.raises(UsageError, match="says how long to train"):
            Budget.of(TrainConfig(**words), 7)


def updater(fabric: Any, groups: dict[str, list[nn.Parameter]], clip: float = 0.0, lr: float = 0.1) -> Updater:
    return Updater(fabric, groups, {name: torch.optim.SGD(params, lr=lr) for name, params in groups.items()}, clip)


def test_an_update_touches_its_group_alone(fabric: Any) -> None:
    g, d, unused = nn.Parameter(torch.tensor([2.0])), nn.Parameter(torch.tensor([3.0])), nn.Parameter(torch.tensor([5.0]))
    d.grad = torch.tensor([7.0])
    update = updater(fabric, {"G": [g, unused], "D": [d]})
    update("G", (g * d).sum())
    assert g.item() == pytest.approx(2 - 0.1 * 3) and d.item() == 3 and d.grad.item() == 7
    assert unused.item() == 5 and unused.grad is None
    update("D", (g * d).sum())
    assert d.item() == pytest.approx(3 - 0.1 * 1.7) and g.item() == pytest.approx(1.7)
    assert update.taken["G"].tolist() == pytest.approx([6.0, 3.0]) and update.taken["D"].tolist() == pytest.approx([5.1, 1.7])
    with pytest.raises(UsageError, match="did you mean G"):
        update("g", (g * d).sum())


def test_clipping_keeps_the_direction(fabric: Any) -> None:
    for clip, moved in ((0.0, [3.0, 4.0]), (10.0, [3.0, 4.0]), (1.0, [0.6, 0.8])):
        p = nn.Parameter(torch.zeros(2))
        updater(fabric, {"G": [p]}, clip, lr=1.0)("G", (p * torch.tensor([3.0, 4.0])).sum())
        assert (-p.detach()).tolist() == pytest.approx(moved, rel=1e-4)


def test_autocast_sees_the_weights_after_an_update(fabric: Any) -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 1.0)
    update, x = updater(fabric, {"G": [layer.weight]}, lr=0.5), torch.ones(1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        before = layer(x)
        update("G", before.sum())
        after = layer(x)
    assert (before.item(), after.item()) == (1.0, 0.5)
    assert layer.weight.grad is not None and layer.weight.grad.dtype == torch.float32


class Shifted:
    """Knows the truth and gives it plus ``offset`` in the brain, plus 9 outside."""

    spec = Spec(name="shifted", title="for tests")
    sources, targets = SOURCES, TARGETS

    def __init__(self, store: Store, case: str, offset: float) -> None:
        self.batch, self.offset, self.seen = batch_of(store, case), offset, 0

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        assert set(batch.images) == set(SOURCES)
        first, self.seen = self.seen, self.seen + batch.size
        assert self.batch.mask is not None
        inside = self.batch.mask[first : self.seen]
        truth = self.batch.images["FLAIR"][first : self.seen]
        return {"FLAIR": torch.where(inside, truth + self.offset, truth + 9)}


@pytest.mark.parametrize(("offset", "score"), [(0.2, 20.0), (-0.02, 40.0), (0.0, MOST_DB)])
def test_validation_score_in_closed_form(store: Store, offset: float, score: float) -> None:
    # range 2 (-1 to 1): 10 log10(4 / 0.2^2) = 20 dB, whatever is outside the brain
    found = validate(Shifted(store, "d", offset), store, ["d"], CPU, Precision("32", False))
    assert list(found) == ["d"] and found["d"] == pytest.approx(score, abs=1e-3)


def test_validation_of_no_numbers(store: Store) -> None:
    with pytest.raises(DataError, match=r"case d, FLAIR: .*NaN"):
        validate(Shifted(store, "d", math.nan), store, ["d"], CPU, Precision("32", True))


def test_picture(store: Store, tmp_path: Path) -> None:
    from matplotlib.image import imread

    paths = [tmp_path / "deep" / name for name in ("a.png", "b.png")]
    for path, offset in zip(paths, (0.0, 0.6), strict=True):
        method = Shifted(store, "d", offset)
        method.batch = type(method.batch)(
            images={name: image[[0, 2, 5]] for name, image in method.batch.images.items()},
            mask=method.batch.mask[[0, 2, 5]] if method.batch.mask is not None else None,
        )
        slice_figure(method, store, "d", CPU, Precision("32", False), None, path, "a title")
    exact, wrong = (imread(path)[..., :3] for path in paths)
    assert exact.shape == wrong.shape and exact.shape[1] > 2 * exact.shape[0]
    colourful = [float(np.ptp(image, axis=-1).max(axis=0).mean()) for image in (exact, wrong)]
    assert colourful[1] > colourful[0]  # the error map is the only coloured panel
    # what is predicted outside the brain is not shown: no more of the map's brightest colour than the colour bar has
    brightest = np.abs(exact - np.array([252, 253, 191]) / 255).max(axis=-1) < 0.02
    assert 0 < brightest.sum() < 100
