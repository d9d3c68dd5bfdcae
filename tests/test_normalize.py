"""Intensity normalisers: closed forms, exact inversion, landmarks, and every refusal."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from synthmr.errors import DataError, UsageError
from synthmr.prepare import normalize
from synthmr.prepare.normalize import NAMES

BRAIN = np.random.default_rng(3).gamma(4, 60, 4000).astype(np.float32)
LANDMARKS = normalize.learn_landmarks([BRAIN, BRAIN * 3, np.sqrt(BRAIN) * 20])


def fit(name: str, values: np.ndarray = BRAIN) -> dict:
    return normalize.fit(name, values, LANDMARKS if name == "nyul" else None)


@pytest.mark.parametrize("name", NAMES)
@given(
    values=arrays(np.float32, st.integers(20, 200), elements=st.floats(-500, 4000, width=32)),
    scale=st.floats(1e-3, 1e3),
)
@settings(max_examples=60, deadline=None)
def test_inversion_is_exact_inside_the_range_both_ways(name, values, scale):
    values = (values * np.float32(scale)).astype(np.float32)
    spread = float(values.max()) - float(values.min())
    if spread <= 1e-3 * max(float(np.abs(values).max()), 1e-3) or (
        name == "mean" and values.astype(float).mean() <= 1e-3 * np.abs(values).max()
    ):
        return
    params = fit(name, values)
    json.dumps(params, allow_nan=False)
    low, high = (params["low"], params["high"]) if "low" in params else (values.min(), values.max())
    if name == "nyul":
        low, high = params["own"][0], params["own"][-1]
    inside = values[(values >= low) & (values <= high)]
    there = normalize.apply(inside, params)
    assert there.dtype == np.float32
    np.testing.assert_allclose(normalize.invert(there, params), inside, rtol=1e-5, atol=2e-4 * (high - low))
    if normalize.value_range(name) is not None:
        assert there.min() >= -1 and there.max() <= 1
        grid = np.linspace(-1, 1, 41, dtype=np.float32)
    else:
        grid = np.linspace(float(there.min()), float(there.max()), 41, dtype=np.float32)
    back = normalize.apply(normalize.invert(grid, params), params)
    # where many voxels are equal, nyul spreads a decile over OWN_GAP of the range: float32 scanner units resolve 1 % of that, 4 %
    # where the range is a small part of the values
    np.testing.assert_allclose(back, grid, atol=0.08 if name == "nyul" else 1e-4 * max(1, float(np.abs(grid).max())))


def test_nyul_returns_every_normalised_value():
    grid = np.linspace(-1, 1, 401, dtype=np.float32)
    params = fit("nyul", np.sqrt(BRAIN))
    np.testing.assert_allclose(normalize.apply(normalize.invert(grid, params), params), grid, atol=2e-6)


def test_percentile_is_the_line_from_zero_to_the_percentile_clipped():
    params = fit("percentile")
    top = np.percentile(BRAIN.astype(float), 99.5)
    assert params == {"name": "percentile", "low": 0.0, "high": pytest.approx(top), "max": float(BRAIN.max())}
    given = np.array([-5, 0, top / 2, top, 2 * top])
    np.testing.assert_allclose(normalize.apply(given, params), [-1, -1, 0, 1, 1], atol=1e-6)
    assert normalize.fit("percentile", BRAIN, percentile=90)["high"] == pytest.approx(np.percentile(BRAIN.astype(float), 90))


@pytest.mark.parametrize("name", normalize.NAMES)
def test_the_peak_is_the_maximum_on_the_line_that_scores_use(name):
    params = fit(name)
    expected = 1.0 if name == "minmax" else float(BRAIN.max()) / np.percentile(BRAIN.astype(float), 99.5)
    assert normalize.peak(params) == pytest.approx(expected, rel=1e-4)
    if normalize.value_range(name) is None:  # nothing is clipped there: the same as of the array itself
        assert normalize.peak(params) == pytest.approx(
            float(normalize.to_unit(normalize.apply(BRAIN, params), params).max()), rel=1e-4
        )


def test_minmax_is_the_line_from_zero_to_the_maximum():
    params = fit("minmax")
    assert normalize.apply(np.array([0, BRAIN.max() / 4, BRAIN.max()]), params) == pytest.approx([-1, -0.5, 1])
    signed = normalize.fit("minmax", np.array([-50.0, 0, 150]))
    assert normalize.apply(np.array([-50, 50, 150]), signed) == pytest.approx([-1, 0, 1])


def test_zscore_and_mean_against_numpy():
    scored = normalize.apply(BRAIN, fit("zscore"))
    assert scored.mean() == pytest.approx(0, abs=1e-5) and scored.std() == pytest.approx(1, abs=1e-5)
    assert normalize.apply(BRAIN, fit("mean")).mean() == pytest.approx(1, abs=1e-5)
    assert normalize.apply(np.zeros(1), fit("zscore"))[0] == pytest.approx(normalize.background(fit("zscore")))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("gain", [0.01, 7.0])
def test_a_scanner_gain_changes_nothing(name, gain):
    np.testing.assert_allclose(normalize.apply(BRAIN * gain, fit(name, BRAIN * gain)), normalize.apply(BRAIN, fit(name)), atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_unit_scale_has_background_0_and_the_upper_percentile_1(name):
    params = fit(name)
    top = BRAIN.max() if name == "minmax" else np.percentile(BRAIN.astype(float), 99.5)
    units = normalize.to_unit(normalize.apply(np.array([0, top / 2, top]), params), params)
    assert units[[0, 2]] == pytest.approx([0, 1], abs=1e-4)
    assert units[1] == pytest.approx(0.5, abs=1e-4) or name == "nyul"
    assert normalize.background(params) == pytest.approx(
        {"zscore": -params.get("mean", 0) / params.get("sd", 1), "mean": 0}.get(name, -1)
    )


def test_a_few_negative_voxels_leave_zero_the_lower_end():
    values = np.concatenate([BRAIN, [-60.0]])
    assert normalize.fit("percentile", values)["low"] == 0
    assert normalize.fit("minmax", values)["low"] == -60
    assert normalize.apply(np.array([-60.0]), normalize.fit("percentile", values))[0] == -1
    half = np.linspace(-3, 3, 1001)  # z-scored before: the 0.5th percentile is the lower end
    assert normalize.fit("percentile", half)["low"] == pytest.approx(-2.97)


@pytest.mark.parametrize(
    "values",
    [[-5.0] * 999 + [-7.0], [0.0] * 999 + [3.0], [-1.0] + [5.0] * 999, [-9.0, -3.0]],
    ids=["percentiles equal", "mostly zero", "one negative", "all negative"],
)
@pytest.mark.parametrize("name", ["percentile", "minmax", "zscore", "nyul"])
def test_degenerate_distributions_have_a_finite_increasing_map(name, values):
    params = fit(name, np.array(values))
    out = normalize.apply(np.array([min(values), max(values)]), params)
    assert np.isfinite(out).all() and out[1] > out[0]


def test_nyul_puts_the_landmarks_of_another_scale_onto_the_standard():
    standard = np.array(LANDMARKS["standard"])
    assert standard[0] == -1 and standard[-1] == 1 and (np.diff(standard) > 0).all()
    other = 40 + 0.2 * BRAIN**1.3
    scaled = normalize.apply(other, fit("nyul", other))
    deciles = np.percentile(scaled, normalize.DECILES)
    np.testing.assert_allclose(deciles, standard[1:-1], atol=2e-3)


def test_nyul_of_one_training_case_is_a_line():
    """Landmarks learnt from the image itself: the map is percentile's own line."""
    own = normalize.learn_landmarks([BRAIN])
    made = normalize.apply(BRAIN, normalize.fit("nyul", BRAIN, own))
    np.testing.assert_allclose(made, normalize.apply(BRAIN, fit("percentile")), atol=1e-4)


def test_nyul_scale_keeps_a_gap_where_training_cases_have_one_value():
    flat = np.concatenate([np.full(800, 100.0), np.linspace(100, 400, 200)])
    standard = np.array(normalize.learn_landmarks([flat])["standard"])
    assert np.diff(standard).min() == pytest.approx(normalize.LANDMARK_GAP, rel=0.05)
    params = normalize.fit("nyul", BRAIN, {"standard": standard.tolist()})
    np.testing.assert_allclose(normalize.invert(normalize.apply(BRAIN, params), params)[params["high"] > BRAIN],
                               BRAIN[params["high"] > BRAIN], atol=0.05)  # fmt: skip


def test_median_of_parameters_element_by_element():
    many = [normalize.fit("percentile", BRAIN * gain) for gain in (1, 2, 10)]
    assert normalize.median_params(many) == pytest.approx(many[1])
    nyul = [fit("nyul", BRAIN * gain) for gain in (1, 2, 10)]
    merged = normalize.median_params(nyul)
    assert merged["own"] == pytest.approx(nyul[1]["own"]) and merged["standard"] == pytest.approx(LANDMARKS["standard"])
    with pytest.raises(DataError, match="at least one image"):
        normalize.median_params([])
    with pytest.raises(UsageError, match=r"different normalisers.*percentile, zscore"):
        normalize.median_params([many[0], fit("zscore")])


def test_refusals():
    with pytest.raises(UsageError, match="unknown normalizer 'zscor': did you mean zscore"):
        normalize.fit("zscor", BRAIN)
    with pytest.raises(UsageError, match="unknown normalizer 'min-max': did you mean minmax"):
        normalize.value_range("min-max")
    with pytest.raises(UsageError, match="nyul normalizer needs landmarks"):
        normalize.fit("nyul", BRAIN)
    with pytest.raises(DataError, match=r"constant inside the brain \(every voxel is 7\)"):
        normalize.fit("percentile", np.full(50, 7.0))
    with pytest.raises(DataError, match="constant inside the brain"):
        normalize.learn_landmarks([BRAIN, np.full(50, 7.0)])
    with pytest.raises(DataError, match="holds no voxel"):
        normalize.fit("percentile", np.empty(0))
    with pytest.raises(DataError, match="at least one training case"):
        normalize.learn_landmarks([])
    with pytest.raises(DataError, match="mean is -1, and the mean normaliser divides"):
        normalize.fit("mean", np.array([-3.0, 1.0]))
