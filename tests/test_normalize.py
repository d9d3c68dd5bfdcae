"""Normalisers: closed forms, inverses, and the values that background and top of the range take."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthmr.errors import DataError, UsageError
from synthmr.prepare import normalize

#: 0, 1, ..., 200: the p-th percentile is 2 p, the mean 100
RAMP = np.arange(201.0)
SD = float(np.sqrt((201**2 - 1) / 12))

LANDMARKS = normalize.learn_landmarks([RAMP, RAMP**2, np.sqrt(RAMP)])


def fit(name: str, values: np.ndarray, percentile: float = 99.5) -> dict[str, Any]:
    return normalize.fit(name, values, LANDMARKS if name == "nyul" else None, percentile)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("percentile", {"low": 0, "high": 199}),
        ("minmax", {"low": 0, "high": 200}),
        ("zscore", {"mean": 100, "sd": SD, "high": 199}),
        ("mean", {"mean": 100, "high": 199}),
    ],
)
def test_parameters_in_closed_form(name: str, params: dict[str, float]) -> None:
    found = fit(name, RAMP)
    assert found.pop("name") == name
    assert found == pytest.approx(params, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "scanner", "normal"),
    [
        ("percentile", [-5, 0, 49.75, 99.5, 199, 200], [-1, -1, -0.5, 0, 1, 1]),
        ("minmax", [-5, 0, 50, 100, 200, 300], [-1, -1, -0.5, 0, 1, 1]),
        ("zscore", [0, 100, 100 + SD, 300], [-100 / SD, 0, 1, 200 / SD]),
        ("mean", [-50, 0, 100, 300], [-0.5, 0, 1, 3]),
    ],
)
def test_apply_in_closed_form(name: str, scanner: list[float], normal: list[float]) -> None:
    out = normalize.apply(np.asarray(scanner), fit(name, RAMP))
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, normal, rtol=2e-6, atol=2e-6)


def test_percentile_is_the_one_asked_for() -> None:
    assert fit("percentile", RAMP, 90)["high"] == pytest.approx(180)
    assert fit("minmax", RAMP, 90)["high"] == 200
    assert fit("nyul", RAMP, 97.5)["high"] == pytest.approx(195, rel=1e-4)


def test_negative_voxels_move_the_lower_end() -> None:
    values = RAMP - 20
    assert fit("percentile", values)["low"] == pytest.approx(-19)  # 0.5th percentile
    assert fit("minmax", values)["low"] == -20
    assert fit("nyul", values)["own"][0] == pytest.approx(-19)
    # and without them it is 0, not the brain's own minimum
    assert [fit(name, RAMP + 50)["low"] for name in ("percentile", "minmax")] == [0, 0]
    assert fit("nyul", RAMP + 50)["own"][0] == 0


def test_nyul_maps_own_landmarks_onto_the_standard_and_is_linear_between() -> None:
    params = fit("nyul", RAMP)
    own, standard = np.asarray(params["own"]), np.asarray(params["standard"])
    np.testing.assert_allclose(own, [0, *(2 * p for p in normalize.DECILES), 199], atol=199 * 2e-5)
    np.testing.assert_allclose(normalize.apply(own, params), standard, atol=1e-6)
    np.testing.assert_allclose(normalize.apply((own[1:] + own[:-1]) / 2, params), (standard[1:] + standard[:-1]) / 2, atol=1e-5)
    assert normalize.apply(np.asarray([-10.0, 1000.0]), params).tolist() == [-1, 1]


def test_nyul_standard_is_the_mean_over_cases() -> None:
    alone = [np.asarray(normalize.learn_landmarks([values])["standard"]) for values in (RAMP, RAMP**2)]
    both = np.asarray(normalize.learn_landmarks([RAMP, RAMP**2])["standard"])
    np.testing.assert_allclose(both, (alone[0] + alone[1]) / 2, atol=1e-12)
    assert np.abs(alone[0] - alone[1]).max() > 0.2  # the two cases differ, so a single one's marks would be noticed
    assert np.abs(both - alone[0]).max() > 0.1
    np.testing.assert_allclose(alone[0], [-1, *(4 * p / 199 - 1 for p in normalize.DECILES), 1], atol=5e-5)
    assert (both[0], both[-1]) == (-1, 1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(-50, 300), min_size=2, max_size=40).filter(lambda v: len(set(v)) > 1), min_size=1, max_size=4))
def test_nyul_landmarks_rise_strictly(cases: list[list[int]]) -> None:
    """Ties (many equal voxels) must not make the map many-to-one."""
    landmarks = normalize.learn_landmarks([np.asarray(values, float) for values in cases])
    params = normalize.fit("nyul", np.asarray(cases[0], float), landmarks)
    assert len(params["own"]) == len(params["standard"]) == len(normalize.DECILES) + 2
    assert (np.diff(params["own"]) > 0).all() and (np.diff(params["standard"]) > 0).all()
    assert params["standard"][0] >= -1 and params["standard"][-1] <= 1


def test_nyul_aligns_monotone_copies_of_one_image() -> None:
    """The point of the method: two scanners' versions of one brain become (nearly) one."""
    rng = np.random.default_rng(0)
    first = rng.gamma(4, 30, 4000)
    second = 0.4 * first**1.3
    landmarks = normalize.learn_landmarks([first, second])
    a, b = (normalize.apply(values, normalize.fit("nyul", values, landmarks)) for values in (first, second))
    plain = [normalize.apply(values, normalize.fit("percentile", values)) for values in (first, second)]
    assert np.abs(a - b).mean() < 0.2 * np.abs(plain[0] - plain[1]).mean()
    assert np.abs(a - b).max() < 0.06


@pytest.mark.parametrize("name", normalize.NAMES)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**16), scale=st.sampled_from([0.01, 1.0, 300.0, 2e4]), offset=st.sampled_from([-0.3, 0.0, 0.4]))
def test_invert_undoes_apply_both_ways(name: str, seed: int, scale: float, offset: float) -> None:
    values = ((np.random.default_rng(seed).random(300) + offset) * scale).astype(np.float32)
    params = fit(name, values)
    low, high = (params["own"][0], params["own"][-1]) if name == "nyul" else (params.get("low", -np.inf), params["high"])
    if name in ("zscore", "mean"):
        high = np.inf
    kept = values[(values >= low) & (values <= high)]
    assert len(kept) > 250
    back = normalize.invert(normalize.apply(kept, params), params)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, kept, rtol=1e-4, atol=2e-5 * scale)
    normal = np.linspace(-0.99, 0.99, 40, dtype=np.float32)
    if name == "nyul":
        normal = np.interp(normal, [-1, 1], [params["standard"][0], params["standard"][-1]]).astype(np.float32)
    np.testing.assert_allclose(normalize.apply(normalize.invert(normal, params), params), normal, atol=2e-4)
    # one map and not another: an inverse by the wrong parameters is off
    other = fit(name, values * 1.1)
    assert np.abs(normalize.invert(normalize.apply(kept, params), other) - kept).max() > 0.01 * scale


@pytest.mark.parametrize("name", normalize.NAMES)
def test_background_top_and_unit_scale(name: str) -> None:
    params = fit(name, RAMP + 30)
    zero, high = normalize.apply(np.asarray([0.0, params["high"]]), params)
    assert normalize.background(params) == pytest.approx(zero, abs=1e-6)
    assert normalize.top(params) == pytest.approx(high, abs=1e-6)
    unit = normalize.to_unit(normalize.apply(np.asarray([0.0, params["high"] / 2, params["high"]]), params), params)
    assert unit.dtype == np.float32
    assert unit[[0, 2]].tolist() == pytest.approx([0, 1], abs=1e-6)
    if name != "nyul":
        assert unit[1] == pytest.approx(0.5, abs=1e-6)
    beyond = normalize.to_unit(np.asarray([normalize.top(params) * 2 - normalize.background(params)]), params)
    assert beyond[0] == pytest.approx(2, abs=1e-5)  # linear, not clipped


@pytest.mark.parametrize("name", normalize.NAMES)
def test_value_range_holds(name: str) -> None:
    out = normalize.apply(np.linspace(-500, 900, 99), fit(name, RAMP))
    bounds = normalize.value_range(name)
    if bounds is None:
        assert name in ("zscore", "mean")
        assert out.min() < -1 and out.max() > 1
    else:
        assert (float(out.min()), float(out.max())) == bounds == (-1, 1)


def test_median_params() -> None:
    many = [{"name": "percentile", "low": low, "high": high} for low, high in [(0, 100), (-3, 900), (-1, 200)]]
    assert normalize.median_params(many) == {"name": "percentile", "low": -1, "high": 200}
    two = normalize.median_params(many[:2])
    assert two == {"name": "percentile", "low": -1.5, "high": 500}
    nyul = [fit("nyul", RAMP * gain) for gain in (1, 2, 5)]
    assert normalize.median_params(nyul)["own"] == pytest.approx(nyul[1]["own"])
    assert normalize.median_params(nyul)["standard"] == pytest.approx(LANDMARKS["standard"])
    with pytest.raises(DataError, match="at least one image"):
        normalize.median_params([])
    with pytest.raises(UsageError, match="mean, percentile"):
        normalize.median_params([many[0], fit("mean", RAMP)])


@pytest.mark.parametrize("name", normalize.NAMES)
def test_nothing_to_normalise(name: str) -> None:
    with pytest.raises(DataError, match=r"constant inside the brain \(every voxel is 7\)"):
        fit(name, np.full(5, 7.0))
    with pytest.raises(DataError, match="holds no voxel"):
        fit(name, np.empty(0))


@pytest.mark.parametrize("values", [np.full(3, 5.0), np.empty(0)])
def test_landmarks_refuse_cases_that_show_nothing(values: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"constant inside the brain|holds no voxel"):
        normalize.learn_landmarks([RAMP, values])


@pytest.mark.parametrize("name", normalize.NAMES)
@pytest.mark.parametrize("odd", [-4.0, 4.0])
@pytest.mark.parametrize("rest", [0.0, 3.0])
def test_almost_constant_images_stay_finite(name: str, odd: float, rest: float) -> None:
    """One voxel of a thousand differs: percentiles see one value only."""
    values = np.full(1000, rest)
    values[0] = odd
    if name == "mean" and values.mean() <= 0:
        with pytest.raises(DataError, match="mean normaliser divides"):
            fit(name, values)
        return
    params = fit(name, values)
    out = normalize.apply(values, params)
    assert np.isfinite(out).all()
    if name == "percentile" and odd > rest > 0:  # above the percentile: clipped to the top, where the rest lies
        assert out[0] == out[1] == 1
    else:
        assert out[0] != out[1] and (out[0] > out[1]) == (odd > rest)


def test_unknown_names_say_what_was_meant() -> None:
    with pytest.raises(UsageError, match=r"'zscor'.*did you mean.*zscore"):
        normalize.check_name("zscor")
    with pytest.raises(UsageError, match="percentile"):
        normalize.fit("percentiles", RAMP)
    with pytest.raises(UsageError, match="unknown normalizer"):
        normalize.value_range("")
    with pytest.raises(UsageError, match="needs landmarks"):
        normalize.fit("nyul", RAMP)
    with pytest.raises(DataError, match="at least one training case"):
        normalize.learn_landmarks([])
