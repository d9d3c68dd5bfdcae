"""`copy`: the monotone map against closed forms and scikit-learn, and which source is chosen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.isotonic import IsotonicRegression

from synthmr.batch import Batch
from synthmr.errors import DataError, UsageError
from synthmr.methods.copy import Copy, CopyOptions, monotone_map

pytestmark = pytest.mark.quick

SHAPE = (2, 1, 30, 40)


def uniform(seed: int) -> torch.Tensor:
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def as_case(mask: torch.Tensor | None = None, **images: torch.Tensor) -> Batch:
    return Batch(images, mask=torch.ones(SHAPE, dtype=torch.bool) if mask is None else mask)


def fitted(*cases: Batch, sources: tuple[str, ...] = ("T1w", "T2w"), targets: tuple[str, ...] = ("FLAIR",)) -> Copy:
    method = Copy(CopyOptions(), sources, targets)
    method.fit(lambda: iter(cases), 0)
    return method


@pytest.mark.parametrize("sign", [1, -1])
def test_recovers_a_monotone_map(sign: int) -> None:
    t1 = uniform(0)
    truth = sign * torch.tanh(2 * t1)
    method = fitted(as_case(T1w=t1, T2w=uniform(1), FLAIR=truth))
    other = uniform(7)
    out = method(Batch({"T1w": other, "T2w": uniform(8)}))["FLAIR"].mean
    inside = other.abs() < 0.98  # beyond the outer bins' means the map is constant
    torch.testing.assert_close(out[inside], sign * torch.tanh(2 * other)[inside], rtol=0, atol=0.01)


@pytest.mark.parametrize("rising", [True, False])
def test_agrees_with_isotonic_regression_of_all_voxels(rising: bool) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=20_000)
    y = (1 if rising else -1) * x**3 + rng.normal(size=x.size)
    where, values, error = monotone_map(x, y, 256)
    full = IsotonicRegression(increasing=rising, out_of_bounds="clip").fit(x, y).predict(x)
    assert np.all(np.diff(where) > 0) and np.all((1 if rising else -1) * np.diff(values) >= 0)
    # the full regression is the optimum on these voxels (and fits some of their noise); x^3 has long tails to be followed
    best = float(np.mean((full - y) ** 2))
    assert best * 0.999 < error < best * 1.03
    assert error == pytest.approx(float(np.mean((np.interp(x, where, values) - y) ** 2)))


@pytest.mark.parametrize("seed", range(5))
def test_the_map_is_scikit_learns_of_the_weighted_bins(seed: int) -> None:
    """More knots than values: every value is a bin of its own, with as many voxels as it occurs."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 60, 4000) / 7.0
    y = rng.normal(size=x.size) + (seed - 2) * x
    where, values, _ = monotone_map(x, y, 20_000)
    levels, index, weight = np.unique(x, return_inverse=True, return_counts=True)
    mean = np.bincount(index, y) / weight
    fits = [IsotonicRegression(increasing=rising).fit_transform(levels, mean, sample_weight=weight) for rising in (True, False)]
    errors = [float(np.sum(weight * (fit - mean) ** 2)) for fit in fits]
    np.testing.assert_allclose(where, levels, rtol=0, atol=1e-12)
    np.testing.assert_allclose(values, fits[int(np.argmin(errors))], rtol=0, atol=1e-12)


def test_the_direction_with_the_smaller_error_is_taken() -> None:
    """Ranks rise along most of the data, but the squared error is in the steep fall at its end."""
    x = np.linspace(0, 1, 5000)
    y = np.where(x < 0.8, 0.01 * x, -10.0)
    assert np.corrcoef(np.argsort(np.argsort(x))[x < 0.8], y[x < 0.8])[0, 1] > 0.99
    _, values, error = monotone_map(x, y, 256)
    assert values[-1] == pytest.approx(-10) and error < 0.2
    assert error < float(np.mean((y - y.mean()) ** 2)) / 50


def test_bins_carry_their_weight() -> None:
    """Two values, one violating pair: pooled by the number of voxels, 3 x 0.0 and 1 x -1.0 -> -0.25 in the rising fit."""
    x = np.array([0.0, 0.0, 0.0, 1.0])
    y = np.array([0.0, 0.0, 0.0, -1.0])
    where, values, error = monotone_map(x, -y, 16)
    assert (where.tolist(), values.tolist(), error) == ([0.0, 1.0], [0.0, 1.0], 0.0)
    x, y = np.array([0.0, 0.0, 0.0, 1.0, 2.0]), np.array([0.0, 0.0, 0.0, -1.0, 9.0])
    where, values, error = monotone_map(x, y, 16)
    np.testing.assert_allclose(values, [-0.25, -0.25, 9.0])
    assert error == pytest.approx((3 * 0.25**2 + 0.75**2) / 5)


def test_a_constant_source_maps_to_the_mean() -> None:
    where, values, error = monotone_map(np.full(50, 0.3), np.arange(50.0), 16)
    assert where == pytest.approx([0.3]) and values == pytest.approx([24.5])
    assert error == pytest.approx(np.var(np.arange(50.0)))
    method = fitted(as_case(T1w=torch.full(SHAPE, -1.0), T2w=torch.full(SHAPE, 0.5), FLAIR=uniform(0)))
    assert bool(torch.isfinite(method(as_case(T1w=uniform(1), T2w=uniform(2)))["FLAIR"].mean).all())


def test_the_best_source_is_chosen_for_each_target() -> None:
    t1, t2 = uniform(0), uniform(1)
    case = as_case(T1w=t1, T2w=t2, FLAIR=t2 + 0.1 * t1, PDw=0.1 * t2 - t1)
    method = Copy(CopyOptions(), ("T1w", "T2w"), ("FLAIR", "PDw"))
    logs = method.fit(lambda: iter([case]), 0)
    assert logs["rmse_T2w_FLAIR"] < 0.1 < logs["rmse_T1w_FLAIR"]
    assert logs["rmse_T1w_PDw"] < 0.1 < logs["rmse_T2w_PDw"]
    state = method.state()
    assert (state["FLAIR.source"].tolist(), state["PDw.source"].tolist()) == ([1], [0])
    blank = method(as_case(T1w=torch.zeros(SHAPE), T2w=t2), ("FLAIR",))
    assert torch.equal(blank["FLAIR"].mean, method(case, ("FLAIR",))["FLAIR"].mean)  # the other source is not read


def test_voxels_outside_the_mask_are_not_learnt_from() -> None:
    t1, mask = uniform(0), torch.zeros(SHAPE, dtype=torch.bool)
    mask[..., 5:25, 5:35] = True
    clean = as_case(mask, T1w=t1, T2w=uniform(1), FLAIR=t1)
    spoiled = as_case(mask, T1w=t1, T2w=uniform(1), FLAIR=torch.where(mask, t1, 100.0))
    one, two = fitted(clean).state(), fitted(spoiled).state()
    assert all(np.array_equal(one[key], two[key]) for key in one)


def test_every_case_counts_the_same_and_a_rerun_draws_the_same() -> None:
    """The larger case would win by its number of voxels; each gives at most options.voxels."""
    small, large = torch.ones(SHAPE, dtype=torch.bool), torch.ones(40, 1, 30, 40, dtype=torch.bool)
    flat = torch.zeros(large.shape)
    cases = [
        Batch({"T1w": torch.zeros(SHAPE), "FLAIR": torch.zeros(SHAPE)}, mask=small),
        Batch({"T1w": flat, "FLAIR": flat + 1}, mask=large),
    ]
    method = Copy(CopyOptions(voxels=1000), ("T1w",), ("FLAIR",))
    method.fit(lambda: iter(cases), 0)
    assert method.state()["FLAIR.values"].tolist() == [0.5]


def test_a_case_without_mask_or_brain_is_refused() -> None:
    t1 = uniform(0)
    with pytest.raises(DataError, match="needs a brain mask with every case"):
        fitted(Batch({"T1w": t1, "T2w": t1, "FLAIR": t1}))
    with pytest.raises(DataError, match="no brain voxel to learn from; check the training cases"):
        fitted(as_case(torch.zeros(SHAPE, dtype=torch.bool), T1w=t1, T2w=t1, FLAIR=t1))
    with pytest.raises(DataError, match="no brain voxel"):
        fitted()


def test_a_state_of_more_sources_is_refused() -> None:
    state = fitted(as_case(T1w=uniform(1), T2w=uniform(0), FLAIR=uniform(0))).state()
    with pytest.raises(ValueError, match="source number 1"):
        Copy(CopyOptions(), ("T1w",), ("FLAIR",)).load_state(state)


@pytest.mark.parametrize("wrong", [{"voxels": 99}, {"knots": 1}])
def test_options_are_checked(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="at least 100 voxels and 2 knots"):
        CopyOptions(**wrong)
