"""What training cases were like and what of a case is outside, and when a volume counts as skull-stripped."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import ndimage

from synthmr.prepare import background
from synthmr.prepare.domain import FEW, SPREADS, Domain, Range
from synthmr.prepare.mask import is_stripped
from synthmr.prepare.measure import flat, measure

SHAPE = (40, 44, 36)


def ellipsoid(size: float = 0.7) -> np.ndarray:
    grid = np.meshgrid(*[np.linspace(-1, 1, edge) for edge in SHAPE], indexing="ij")
    return np.asarray(sum(axis**2 for axis in grid) < size**2)


def case(seed: int = 0, gain: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    base = ndimage.gaussian_filter(rng.normal(size=SHAPE), 2)
    base = np.rint(500 + 200 * base / base.std())
    return {
        "T1w": np.where(ellipsoid(), np.clip(np.rint(base * gain), 1, None), 0).astype(np.float32),
        "T2w": np.where(ellipsoid(), np.clip(1200 - base, 1, None), 0).astype(np.float32),
    }


def measured(images: dict[str, np.ndarray], **more: object) -> dict[str, object]:
    about = {
        "spacing": (2.0, 2.0, 2.0),
        "shape": SHAPE,
        "start": (0, 0, 0),
        "mode": "nonzero",
        "constants": {},
        "digests": {},
        **more,
    }
    return measure(images, ellipsoid(), **about)  # type: ignore[arg-type]


def test_numbers_are_those_of_their_definitions():
    images = case()
    found = measured(images, spacing=(1.0, 2.0, 3.0))
    inside = images["T1w"][ellipsoid()].astype(float)
    names = flat(found)
    five, quarter, middle, most = np.percentile(inside, (5, 25, 50, 99.5))
    assert names["T1w.p5"] == pytest.approx(np.log(five / middle), abs=1e-6)
    assert names["T1w.p25"] == pytest.approx(np.log(quarter / middle), abs=1e-6)
    assert np.exp(names["T1w.gain"]) == pytest.approx(most)
    assert found["volume"] == pytest.approx(ellipsoid().sum() * 6 / 1000)
    assert [round(np.exp(names[f"spacing.{axis}"]), 9) for axis in "xyz"] == [1, 2, 3]
    box = [np.flatnonzero(ellipsoid().any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    assert found["extent"] == [(each[-1] - each[0] + 1) * edge for each, edge in zip(box, (1, 2, 3), strict=True)]
    assert names["T1w+T2w"] == pytest.approx(-1, abs=0.001)
    json.dumps(found)


def test_noise_is_that_which_was_added_and_a_gain_changes_nothing_but_the_gain():
    flatter = {"T1w": np.where(ellipsoid(), 1000.0, 0).astype(np.float32)}
    noise = np.random.default_rng(0).normal(0, 30, SHAPE).astype(np.float32)
    found = measured({"T1w": np.where(ellipsoid(), flatter["T1w"] + noise, 0)})["images"]["T1w"]
    assert found["noise"] == pytest.approx(0.03, rel=0.05)
    one, two = flat(measured(case())), flat(measured(case(gain=7.0)))
    assert two["T1w.gain"] - one["T1w.gain"] == pytest.approx(np.log(7), abs=1e-3)
    assert {name: value for name, value in two.items() if name != "T1w.gain"} == pytest.approx(
        {name: value for name, value in one.items() if name != "T1w.gain"}, abs=0.02
    )


def test_a_range_is_widened_by_its_floor_or_its_spread_and_more_for_few_cases():
    many = Range.of([1.0, 3.0] * 50)
    assert many.allowed(0.1) == pytest.approx((1 - SPREADS * (1 + FEW / 100), 3 + SPREADS * (1 + FEW / 100)))
    assert Range.of([2.0]).allowed(0.5) == pytest.approx((2 - 0.5 * (1 + FEW), 2 + 0.5 * (1 + FEW)))


def test_a_record_reads_back_and_an_extended_one_keeps_what_the_old_contrasts_were_like():
    old = Domain.learn({f"a{seed}": measured(case(seed), digests={"T1w": f"d{seed}"}) for seed in range(4)})
    back = Domain.from_json(json.loads(json.dumps(old.to_json())))
    assert back.ranges["T1w.gain"].low == pytest.approx(old.ranges["T1w.gain"].low, rel=1e-6)
    assert (back.modes, back.seen) == (old.modes, old.seen) == ({"nonzero": 4}, {f"d{seed}": f"a{seed}" for seed in range(4)})
    fresh = {name: {**case(7, 50.0), "FLAIR": case(8)["T1w"]} for name in ("b", "c")}
    both = old.extended(Domain.learn({name: measured(images) for name, images in fresh.items()}))
    assert both.ranges["T1w.gain"] == old.ranges["T1w.gain"] and "FLAIR.gain" in both.ranges and "FLAIR+T1w" in both.ranges
    assert both.compare(measured(case(9))) == ()


def test_contrasts_that_the_run_does_not_know_and_numbers_it_has_not_are_passed_over():
    domain = Domain.learn({f"a{seed}": measured({"T1w": case(seed)["T1w"]}) for seed in range(4)})
    assert domain.compare(measured({"PDw": case(9)["T2w"]})) == () == Domain().compare(measured(case()))


def rician(image: np.ndarray, noise: float) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.asarray(np.hypot(image + rng.normal(0, noise, SHAPE), rng.normal(0, noise, SHAPE)), np.float32)


def turned(image: np.ndarray, degrees: float) -> np.ndarray:
    return np.pad(ndimage.rotate(image, degrees, axes=(0, 1), reshape=False, order=1), 6)


@pytest.mark.parametrize(
    ("image", "stripped"),
    [
        (case()["T1w"], True),
        (case()["T2w"], True),
        (turned(case()["T2w"], 12), True),
        (np.pad(case()["T1w"], 8), True),
        (np.where(ndimage.binary_dilation(ellipsoid(), iterations=2) & ~ellipsoid(), 60, case()["T1w"]), True),
        (turned(rician(case()["T1w"], 20), 10), False),
        (turned(rician(case()["T1w"], 60), 25), False),
        (np.pad(ndimage.zoom(rician(case()["T2w"], 30), 0.8, order=1), 6), False),
        (rician(case()["T1w"], 20), False),
    ],
    ids=[
        "T1w",
        "T2w",
        "turned",
        "padded",
        "dark rim of fluid",
        "head turned",
        "noisy head turned",
        "head resampled and padded",
        "head",
    ],
)
def test_a_resampled_head_in_air_is_not_taken_for_skull_stripped(image, stripped):
    assert is_stripped(np.asarray(image, np.float32)) is stripped


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (case()["T1w"], None),
        (np.where(ellipsoid(), -case()["T1w"], 0), None),
        (rician(case()["T1w"], 20) + 500, None),
        (np.full(SHAPE, 7.0), None),
        (np.where(np.arange(SHAPE[0])[:, None, None] < 1, 500, rician(case()["T1w"], 20)), None),
        (np.rint(rician(np.zeros(SHAPE), 0.8)) + ellipsoid() * 300, None),
        (case()["T1w"] + 500, "offset"),
        (case()["T1w"] - 1024, "offset"),
        (np.where(ellipsoid(), case()["T1w"], -1), "offset"),
        (np.where(ellipsoid(), case()["T2w"], -2000), "fill"),
        (np.where(ellipsoid(), case()["T2w"], 4095), "fill"),
    ],
    ids=[
        "0",
        "sign flipped",
        "noise about 500",
        "constant",
        "one slice",
        "whole-number air",
        "+500",
        "-1024",
        "-1",
        "-2000",
        "4095",
    ],
)
def test_a_background_is_taken_off_where_it_is_a_constant_and_put_back_exactly(image, kind):
    image = np.rint(image).astype(np.float32)
    found = background.fit(image)
    assert (found or {}).get("kind") == kind
    without = background.apply(image, found)
    np.testing.assert_array_equal(background.invert(without, found), image)
    assert found is None or (without[0, 0, 0] == 0 and background.fit(without) is None)
