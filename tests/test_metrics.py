"""Metrics against closed forms and against other implementations (scikit-image, MONAI, a numpy SSIM of our own)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthmr.errors import DataError, UsageError
from synthmr.evaluate import metrics


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Prediction, truth, mask: ``(18, 20, 16)``."""
    rng = np.random.default_rng(0)
    truth = rng.uniform(0, 1, (18, 20, 16)).astype(np.float32)
    prediction = (truth + rng.normal(0, 0.1, truth.shape)).astype(np.float32)
    mask = np.zeros(truth.shape, bool)
    mask[3:14, 4:17, 2:13] = True
    return prediction, truth, mask


def test_closed_forms_of_a_constant_error() -> None:
    truth = np.array([[1.0, 2.0], [3.0, 4.0]])
    prediction = truth + 0.5
    assert metrics.mse(prediction, truth) == pytest.approx(0.25)
    assert metrics.mae(prediction, truth) == pytest.approx(0.5)
    assert metrics.nmse(prediction, truth) == pytest.approx(4 * 0.25 / 30)
    assert metrics.nrmse(prediction, truth, 2.0) == pytest.approx(0.25)
    assert metrics.psnr(prediction, truth, 2.0) == pytest.approx(20 * math.log10(4))


def test_sign_of_the_error_does_not_matter_but_its_size_does() -> None:
    truth = np.linspace(0, 1, 50)
    for metric in (metrics.mse, metrics.mae, metrics.nmse):
        assert metric(truth - 0.1, truth) == pytest.approx(metric(truth + 0.1, truth))
        assert metric(truth + 0.2, truth) > metric(truth + 0.1, truth) > 0


def test_a_gain_error_costs() -> None:
    """A prediction that is 30 % too bright: no metric may forgive it by rescaling."""
    truth = np.linspace(0.1, 0.7, 4000).reshape(20, 20, 10)
    bright = 1.3 * truth
    assert metrics.nmse(bright, truth) == pytest.approx(0.09)
    assert metrics.psnr(bright, truth, 1.0) < 20
    assert metrics.ssim(bright, truth, 1.0) < 0.99


def test_equal_arrays_are_the_special_values(pair: tuple[np.ndarray, ...]) -> None:
    _, truth, mask = pair
    assert metrics.psnr(truth, truth, 1.0, mask) == math.inf
    assert metrics.mse(truth, truth) == metrics.mae(truth, truth) == metrics.nmse(truth, truth) == 0
    assert metrics.nrmse(truth, truth, 1.0) == 0
    assert metrics.ssim(truth, truth, 1.0, mask) == pytest.approx(1.0, abs=1e-12)


def test_nmse_of_a_zero_truth() -> None:
    zero = np.zeros(5)
    assert metrics.nmse(zero, zero) == 0
    assert metrics.nmse(zero + 1, zero) == math.inf
    assert metrics.nmse(zero, zero + 3) == pytest.approx(1)


def test_agree_with_scikit_image(pair: tuple[np.ndarray, ...]) -> None:
    from skimage.metrics import mean_squared_error, normalized_root_mse, peak_signal_noise_ratio

    prediction, truth, _ = pair
    assert metrics.mse(prediction, truth) == pytest.approx(mean_squared_error(truth, prediction), rel=1e-6)
    assert metrics.psnr(prediction, truth, 1.7) == pytest.approx(
        peak_signal_noise_ratio(truth, prediction, data_range=1.7), abs=1e-5
    )
    # its euclidean normalisation is the root of our NMSE
    assert metrics.nmse(prediction, truth) == pytest.approx(normalized_root_mse(truth, prediction) ** 2, rel=1e-5)


def test_nrmse_is_psnr_in_another_coat(pair: tuple[np.ndarray, ...]) -> None:
    prediction, truth, mask = pair
    assert metrics.nrmse(prediction, truth, 0.8, mask) == pytest.approx(10 ** (-metrics.psnr(prediction, truth, 0.8, mask) / 20))


def test_mask_selects_exactly_its_voxels(pair: tuple[np.ndarray, ...]) -> None:
    prediction, truth, mask = pair
    spoiled = np.where(mask, prediction, 1000).astype(np.float32)
    cut = (slice(3, 14), slice(4, 17), slice(2, 13))
    for metric in (metrics.mse, metrics.mae, metrics.nmse):
        assert metric(spoiled, truth, mask) == metric(prediction, truth, mask)
        assert metric(spoiled, truth, mask) == pytest.approx(metric(prediction[cut], truth[cut]))
        assert metric(spoiled, truth) != pytest.approx(metric(prediction, truth))


def reference_ssim_map(x: np.ndarray, y: np.ndarray, data_range: float) -> np.ndarray:
    """Wang's formula, window by window; no library. Any number of axes, symmetric borders."""
    offsets = np.arange(-5, 6)
    line = np.exp(-0.5 * (offsets / 1.5) ** 2)
    line /= line.sum()
    weights = line
    for _ in range(x.ndim - 1):
        weights = np.multiply.outer(weights, line)
    xp, yp = (np.pad(a.astype(float), 5, mode="symmetric") for a in (x, y))
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    out = np.empty(x.shape)
    for place in np.ndindex(x.shape):
        box = tuple(slice(i, i + 11) for i in place)
        a, b = xp[box], yp[box]
        ma, mb = (weights * a).sum(), (weights * b).sum()
        va, vb = (weights * (a - ma) ** 2).sum(), (weights * (b - mb) ** 2).sum()
        cov = (weights * (a - ma) * (b - mb)).sum()
        out[place] = (2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    return out


@pytest.mark.parametrize("shape", [(14, 17), (6, 13), (12, 11, 13), (4, 12, 3)])
def test_ssim_against_the_formula(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    truth = rng.uniform(0, 1, shape)
    prediction = np.clip(truth + rng.normal(0, 0.2, shape), 0, 1)
    mask = rng.uniform(size=shape) > 0.5
    expected = reference_ssim_map(prediction, truth, 0.9)
    assert metrics.ssim(prediction, truth, 0.9) == pytest.approx(expected.mean(), abs=1e-9)
    assert metrics.ssim(prediction, truth, 0.9, mask) == pytest.approx(expected[mask].mean(), abs=1e-9)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_ssim_of_slices_is_two_dimensional(pair: tuple[np.ndarray, ...], axis: int) -> None:
    prediction, truth, mask = pair
    maps = [
        reference_ssim_map(g, y, 1.0)
        for g, y in zip(np.moveaxis(prediction, axis, 0)[:6], np.moveaxis(truth, axis, 0)[:6], strict=True)
    ]
    part = np.moveaxis(prediction, axis, 0)[:6], np.moveaxis(truth, axis, 0)[:6], np.moveaxis(mask, axis, 0)[:6]
    assert metrics.ssim(part[0], part[1], 1.0, part[2], slice_axis=0) == pytest.approx(np.stack(maps)[part[2]].mean(), abs=1e-6)
    moved = [np.moveaxis(array, 0, axis) for array in part]
    assert metrics.ssim(moved[0], moved[1], 1.0, moved[2], slice_axis=axis) == pytest.approx(
        metrics.ssim(part[0], part[1], 1.0, part[2], slice_axis=0), abs=1e-9
    )


def test_ssim_agrees_with_monai_inside(pair: tuple[np.ndarray, ...]) -> None:
    import torch
    from monai.metrics.regression import compute_ssim_and_cs

    prediction, truth, _ = pair
    tensors = [torch.from_numpy(a)[None, None] for a in (prediction, truth)]
    local, _ = compute_ssim_and_cs(*tensors, spatial_dims=3, kernel_size=(11,) * 3, kernel_sigma=(1.5,) * 3, data_range=1.0)
    inner = np.zeros(truth.shape, bool)
    inner[5:-5, 5:-5, 5:-5] = True  # MONAI keeps complete windows alone
    assert metrics.ssim(prediction, truth, 1.0, inner) == pytest.approx(float(local.mean()), abs=1e-5)


def test_ssim_falls_with_noise_and_is_negative_for_the_opposite() -> None:
    rng = np.random.default_rng(2)
    truth = rng.uniform(0, 1, (24, 24))
    noise = rng.normal(0, 1, truth.shape)
    values = [metrics.ssim(truth + level * noise, truth, 1.0) for level in (0.02, 0.1, 0.5)]
    assert 1 > values[0] > values[1] > values[2]
    assert metrics.ssim(1 - truth, truth, 1.0) < 0


@settings(max_examples=30, deadline=None)
@given(st.floats(0.01, 100), st.integers(0, 99))
def test_units_cancel(gain: float, seed: int) -> None:
    """Truth, prediction and range in other units give the same PSNR, NRMSE, NMSE and SSIM."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0, 1, (12, 12))
    prediction = truth + rng.normal(0, 0.1, truth.shape)
    for metric in (metrics.psnr, metrics.nrmse, metrics.ssim):
        assert metric(gain * prediction, gain * truth, gain) == pytest.approx(metric(prediction, truth, 1.0), rel=1e-6)
    assert metrics.nmse(gain * prediction, gain * truth) == pytest.approx(metrics.nmse(prediction, truth), rel=1e-6)
    assert metrics.mae(gain * prediction, gain * truth) == pytest.approx(gain * metrics.mae(prediction, truth), rel=1e-6)


def test_float16_sums_do_not_overflow() -> None:
    truth = np.full((60, 60, 60), 100, np.float16)
    assert metrics.mse(truth + np.float16(1), truth) == pytest.approx(1)
    assert metrics.nmse(truth + np.float16(1), truth) == pytest.approx(1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_is_refused(value: float) -> None:
    good, bad = np.ones((12, 12)), np.ones((12, 12))
    bad[3, 4] = value
    with pytest.raises(DataError, match="prediction holds 1 NaN or infinite"):
        metrics.mse(bad, good)
    with pytest.raises(DataError, match="ground truth holds 1 NaN"):
        metrics.psnr(good, bad, 1.0)
    with pytest.raises(DataError, match="prediction"):
        metrics.ssim(bad, good, 1.0)


def test_bad_calls_are_refused() -> None:
    one = np.ones((3, 3))
    with pytest.raises(DataError, match="differ in shape"):
        metrics.mse(one, np.ones((3, 4)))
    with pytest.raises(DataError, match="differ in shape"):
        metrics.mae(one, one, np.ones((2, 3), bool))
    with pytest.raises(DataError, match="mask is empty"):
        metrics.mse(one, one, np.zeros((3, 3), bool))
    with pytest.raises(DataError, match="bool"):
        metrics.mse(one, one, np.ones((3, 3)))
    for data_range in (0, -1, math.nan, math.inf):
        for metric in (metrics.psnr, metrics.nrmse, metrics.ssim):
            with pytest.raises(UsageError, match="data_range"):
                metric(one, one, data_range)
