"""Parts of training in closed form: schedule, budget, updates, validation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from stored import reader_of, run_of, store_case, store_of
from synthmr.batch import Batch, Output
from synthmr.case import PreparedCase
from synthmr.config import TrainConfig
from synthmr.data.split import Split
from synthmr.data.store import Store
from synthmr.errors import DataError, UsageError
from synthmr.methods.contract import FittedMethod, NoOptions, Selection, Spec
from synthmr.predict.predictor import Predictor
from synthmr.train.runtime import Runtime, Updater
from synthmr.train.schedule import VALIDATIONS, Budget, affordable, learning_rate
from synthmr.train.validate import MOST_DB, Validated, slice_figure, validate

pytestmark = pytest.mark.usefixtures("one_thread")


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


class Shifted(FittedMethod):
    """Gives the first source plus ``offset``, where the target is that source."""

    spec: ClassVar[Spec] = Spec(name="shifted", title="for tests")
    offset = 0.0

    def __call__(self, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Output]:
        return {name: Output(batch.images[self.sources[0]] + self.offset) for name in wanted or self.targets}


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two cases whose FLAIR is their T1w."""
    rng = np.random.default_rng(2)
    cases = {}
    for name in ("d", "e"):
        mask = np.zeros((6, 12, 8), bool)
        mask[:, 2:-2, 1:-1] = True
        image = np.where(mask, rng.uniform(-0.5, 0.5, mask.shape), -1)
        cases[name] = store_case(tmp_path_factory.mktemp("twins"), name, {"T1w": image, "FLAIR": image}, mask)
    return store_of(cases, Split(("e",), ("d",), (), "test"))


def validated(twins: Store, offset: float, own: bool = False, kind: type[Shifted] = Shifted) -> Validated:
    method = kind(NoOptions(), ("T1w",), ("FLAIR",))
    method.offset = offset
    reader = reader_of(twins, ("T1w",), ("FLAIR",))
    return validate(Predictor(run_of(method, twins)), reader, ["d", "e"], own=own)


@pytest.mark.parametrize(("offset", "score"), [(0.2, 20.0), (-0.02, 40.0), (0.0, MOST_DB)])
def test_validation_score_in_closed_form(twins: Store, offset: float, score: float) -> None:
    # range 2 (-1 to 1): 10 log10(4 / 0.2^2) = 20 dB, whatever is outside the brain
    found = validated(twins, offset)
    assert list(found.scores) == ["d", "e"] and found.prepared.name == "d"
    assert list(found.scores.values()) == pytest.approx([score, score], abs=1e-3) and found.score == pytest.approx(score, abs=1e-3)


def test_a_method_may_choose_its_weights_by_a_score_of_its_own(twins: Store) -> None:
    class Own(Shifted):
        selection: ClassVar[Selection] = Selection("error", False, "%")

        def validation_score(self, predicted: Mapping[str, np.ndarray], case: PreparedCase) -> float | None:
            return 100 * float(np.abs(predicted["FLAIR"] - case.images["FLAIR"])[case.mask].mean())

    assert validated(twins, 0.25, own=True, kind=Own).scores["d"] == pytest.approx(25, rel=1e-5)
    assert validated(twins, 0.25, own=False, kind=Own).scores["d"] == pytest.approx(20 * math.log10(2 / 0.25), abs=1e-3)
    assert Own.selection.better(1.0, 2.0) and not Own.selection.better(2.0, 1.0)
    assert Selection().better(2.0, 1.0) and not Selection().better(1.0, 1.0)


def test_validation_of_no_numbers(twins: Store) -> None:
    with pytest.raises(DataError, match=r"predicted FLAIR of case d holds \d+ NaN"):
        validated(twins, math.nan)


def test_a_run_of_steps_validates_for_a_tenth_of_its_cost() -> None:
    # 100 steps of 8 samples cost 2400 forward passes; 24 slices of 2 cases are 48, of which 240 hold 5
    assert affordable(Budget(100, 0), 8, 48, 200) == (Budget(100, 0, 5), False)
    assert affordable(Budget(30, 0), 8, 48, 200) == (Budget(30, 0, 1), False)
    assert affordable(Budget(1, 0), 1, 48, 200)[0].validations == 1
    assert affordable(Budget(50_000, 0), 8, 48, 200) == (Budget(50_000, 0, VALIDATIONS), True)
    assert affordable(Budget(50_000, 0), 8, 5_000, 50_000) == (Budget(50_000, 0, VALIDATIONS), False)
    assert affordable(Budget(0, 60.0), 8, 48, 200) == (Budget(0, 60.0), False)
    marks = [Budget(30, 0, 3).mark(step, 0.0, 0) for step in range(31)]
    assert [step for step in range(1, 31) if marks[step] > marks[step - 1]] == [10, 20, 30]


def test_picture(twins: Store, tmp_path: Path) -> None:
    from matplotlib.image import imread

    paths = [tmp_path / "deep" / name for name in ("a.png", "b.png")]
    for path, offset in zip(paths, (0.0, 0.6), strict=True):
        slice_figure(validated(twins, offset), path, "a title")
    exact, wrong = (imread(path)[..., :3] for path in paths)
    assert exact.shape == wrong.shape and exact.shape[1] > 2 * exact.shape[0]
    colourful = [float(np.ptp(image, axis=-1).max(axis=0).mean()) for image in (exact, wrong)]
    assert colourful[1] > colourful[0]  # the error map is the only coloured panel
    # what is predicted outside the brain is not shown: no more of the map's brightest colour than the colour bar has
    brightest = np.abs(exact - np.array([252, 253, 191]) / 255).max(axis=-1) < 0.02
    assert 0 < brightest.sum() < 100
