"""`linear`: against scikit-learn's polynomial ridge, closed forms and invariances."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from synthmr.batch import Batch
from synthmr.errors import UsageError
from synthmr.methods import linear
from synthmr.methods.linear import Linear, LinearOptions

pytestmark = pytest.mark.quick

SHAPE = (3, 1, 24, 40)
SOURCES = ("T1w", "T2w")


def noise(seed: int) -> torch.Tensor:
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def as_case(**images: torch.Tensor) -> Batch:
    return Batch(images, mask=torch.ones(next(iter(images.values())).shape, dtype=torch.bool))


def fitted(*cases: Batch, sources: tuple[str, ...] = SOURCES, targets: tuple[str, ...] = ("FLAIR",), **options: float) -> Linear:
    method = Linear(LinearOptions(**options), sources, targets)  # type: ignore[arg-type]
    method.fit(lambda: iter(cases), 0)
    return method


def hard_case(seed: int) -> Batch:
    """A target that no polynomial fits exactly."""
    t1, t2 = noise(seed), noise(seed + 100)
    return as_case(T1w=t1, T2w=t2, FLAIR=torch.sin(3 * t1 * t2) + 0.5 * torch.exp(t2) + 0.1 * noise(seed + 200))


def test_a_polynomial_with_interactions_is_recovered() -> None:
    def formula(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return 0.3 - 0.5 * a + 0.2 * b + 0.7 * a * b - 0.4 * b**2

    t1, t2 = noise(0), noise(1)
    method = fitted(as_case(T1w=t1, T2w=t2, FLAIR=formula(t1, t2)), degree=2, ridge=0)
    a, b = 0.9 * noise(5), 0.9 * noise(6)
    torch.testing.assert_close(method(Batch({"T1w": a, "T2w": b}))["FLAIR"].mean, formula(a, b), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("degree", "ridge"), [(1, 1e-6), (3, 1e-6), (4, 1e-2), (4, 10.0)])
def test_agrees_with_scikit_learn(degree: int, ridge: float) -> None:
    """Standardised sources, standardised monomials, a penalty a voxel: scikit-learn's pipeline, whose penalty is a sum."""
    cases = [hard_case(0), hard_case(1)]
    x, y = (
        np.concatenate([np.stack([case.images[key].numpy().ravel() for key in keys], 1) for case in cases]).astype(np.float64)
        for keys in (SOURCES, ("FLAIR",))
    )
    peer = make_pipeline(
        StandardScaler(), PolynomialFeatures(degree, include_bias=False), StandardScaler(), Ridge(ridge * len(x), solver="cholesky")
    ).fit(x, y)
    method = fitted(*cases, degree=degree, ridge=ridge)
    out = method(cases[0])["FLAIR"].mean.numpy().ravel()
    expected = peer.predict(x[: out.size]).ravel()
    np.testing.assert_allclose(out, expected, atol=2e-5)
    assert np.std(expected) > 0.01


def test_a_heavy_penalty_leaves_the_mean() -> None:
    case = hard_case(0)
    out = fitted(case, ridge=1e12)(case)["FLAIR"].mean
    torch.testing.assert_close(out, torch.full_like(out, float(case.images["FLAIR"].mean())), rtol=0, atol=1e-5)


@pytest.mark.parametrize("sources", [1, 2, 3])
@pytest.mark.parametrize("degree", [1, 2, 4])
def test_number_of_coefficients(sources: int, degree: int) -> None:
    names = ("T1w", "T2w", "PDw")[:sources]
    images = {name: noise(k) for k, name in enumerate(names)}
    state = fitted(as_case(**images, FLAIR=noise(9)), sources=names, degree=degree).state()
    assert state["weights"].shape == (comb(sources + degree, degree) - 1, 1)


def test_the_scale_of_a_source_does_not_matter() -> None:
    case = hard_case(0)
    moved = as_case(T1w=1000 * case.images["T1w"] + 500, T2w=0.01 * case.images["T2w"], FLAIR=case.images["FLAIR"])
    torch.testing.assert_close(fitted(case)(case)["FLAIR"].mean, fitted(moved)(moved)["FLAIR"].mean, rtol=0, atol=1e-3)


def test_the_order_of_the_sources_does_not_matter() -> None:
    case = hard_case(0)
    one, two = fitted(case)(case)["FLAIR"].mean, fitted(case, sources=SOURCES[::-1])(case)["FLAIR"].mean
    torch.testing.assert_close(one, two, rtol=0, atol=1e-5)


def test_the_size_of_the_pieces_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    case = hard_case(0)
    whole = fitted(case).state()
    monkeypatch.setattr(linear, "CHUNK", 77)  # does not divide the number of voxels
    pieces = fitted(case).state()
    for key, value in whole.items():
        np.testing.assert_allclose(pieces[key], value, rtol=1e-6, atol=1e-9)


def test_the_logged_error_is_that_of_the_prediction() -> None:
    case = hard_case(0)
    method = Linear(LinearOptions(degree=2), SOURCES, ("FLAIR",))
    logs = method.fit(lambda: iter([case]), 0)
    error = (method(case)["FLAIR"].mean - case.images["FLAIR"]).square().mean().sqrt()
    assert logs == {"rmse_FLAIR": pytest.approx(float(error), rel=1e-5)}
    assert float(error) > 0.1


@pytest.mark.parametrize("ridge", [0.0, 1e-6])
def test_repeated_and_constant_sources_do_no_harm(ridge: float) -> None:
    t1 = noise(0)
    sources = ("T1w", "T2w", "PDw")
    case = as_case(T1w=t1, T2w=t1.clone(), PDw=torch.full(SHAPE, -1.0), FLAIR=0.5 * t1 - 0.2)
    method = fitted(case, sources=sources, degree=2, ridge=ridge)
    torch.testing.assert_close(method(case)["FLAIR"].mean, case.images["FLAIR"], rtol=0, atol=1e-4)
    moved = Batch({**case.images, "PDw": noise(3)})  # constant in training: what it holds now is not known to matter
    torch.testing.assert_close(method(moved)["FLAIR"].mean, case.images["FLAIR"], rtol=0, atol=1e-4)


def test_intensities_beyond_the_training_range_are_clipped_to_it() -> None:
    t1 = noise(0)
    method = fitted(as_case(T1w=t1, T2w=noise(1), FLAIR=t1**3))
    far, top = Batch({name: torch.full(SHAPE, 50.0) for name in SOURCES}), {}
    for name, limit in zip(SOURCES, method.state()["high"], strict=True):
        top[name] = torch.full(SHAPE, float(limit))
    out = method(far)["FLAIR"].mean
    torch.testing.assert_close(out, method(Batch(top))["FLAIR"].mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(out, torch.ones(SHAPE), rtol=0, atol=0.05)


def test_a_volume_is_refused_and_its_slices_are_predicted() -> None:
    method = fitted(hard_case(0))
    volume = {name: noise(k).reshape(1, 1, *SHAPE[:1], *SHAPE[2:]) for k, name in enumerate(SOURCES)}
    with pytest.raises(UsageError, match=r"works on slices \(B, C, H, W\) and was given T1w of 3 spatial dimensions; give it 2"):
        method(Batch(volume))
    slices = {name: image.reshape(SHAPE) for name, image in volume.items()}
    assert method(Batch(slices))["FLAIR"].mean.shape == SHAPE


def test_a_state_of_another_degree_is_refused() -> None:
    state = fitted(hard_case(0), degree=2).state()
    with pytest.raises(ValueError, match=r"shape \(5, 1\), not \(14, 1\)"):
        Linear(LinearOptions(), SOURCES, ("FLAIR",)).load_state(state)


@pytest.mark.parametrize("wrong", [{"degree": 0}, {"degree": 7}, {"ridge": -1.0}, {"ridge": float("nan")}, {"voxels": 99}])
def test_options_are_checked(wrong: dict[str, float]) -> None:
    (key, value), *_ = wrong.items()
    with pytest.raises(UsageError, match=rf"options.{key}={value:g}.*the degree is 1 to 6"):
        LinearOptions(**wrong)  # type: ignore[arg-type]
