"""Rank correlations between the contrasts of a case."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from synthmr.prepare import correlation
from synthmr.prepare.correlation import contrast_correlations

SHAPE = (20, 18, 16)


def images(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    base = rng.normal(size=SHAPE)
    return {
        "T2w": np.rint(4 * base),  # many ties
        "T1w": -base + rng.normal(0, 1, SHAPE),
        "FLAIR": rng.normal(size=SHAPE),
    }


def test_it_is_spearmans_correlation_in_the_mask_with_ties_and_names_in_order():
    found, mask = images(), np.random.default_rng(1).random(SHAPE) < 0.5
    got = contrast_correlations(found, mask)
    assert list(got) == [("FLAIR", "T1w"), ("FLAIR", "T2w"), ("T1w", "T2w")]
    for (one, two), value in got.items():
        assert value == pytest.approx(spearmanr(found[one][mask], found[two][mask]).statistic, abs=1e-12)
    assert got["T1w", "T2w"] < -0.6


def test_gain_offset_and_gamma_change_nothing():
    mask = np.ones(SHAPE, bool)
    found = images()
    moved = {"T1w": 3 * found["T1w"] + 100, "T2w": np.exp(found["T2w"] / 4), "FLAIR": found["FLAIR"]}
    assert contrast_correlations(moved, mask) == pytest.approx(contrast_correlations(found, mask))


def test_many_voxels_are_thinned_evenly_and_give_nearly_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    one = rng.normal(size=(40, 40, 40))
    both = {"T1w": one, "T2w": one + rng.normal(0, 1, one.shape)}
    whole = contrast_correlations(both, np.ones(one.shape, bool))
    monkeypatch.setattr(correlation, "VOXELS", 20_000)
    thinned = contrast_correlations(both, np.ones(one.shape, bool))
    assert thinned != whole and thinned["T1w", "T2w"] == pytest.approx(whole["T1w", "T2w"], abs=0.01)


def test_what_cannot_be_compared_is_left_out():
    found, mask = images(), np.ones(SHAPE, bool)
    assert contrast_correlations({**found, "T2w": np.ones(SHAPE)}, mask).keys() == {("FLAIR", "T1w")}
    assert contrast_correlations(found, np.zeros(SHAPE, bool)) == {}
    assert contrast_correlations({}, mask) == {}
    assert contrast_correlations({"T1w": found["T1w"]}, mask) == {}
    broken = found["T1w"].copy()
    broken[0] = np.nan
    inside = mask.copy()
    inside[0] = False
    assert contrast_correlations({**found, "T1w": broken}, mask) == contrast_correlations(found, inside)
    with pytest.raises(ValueError, match="T2w has shape"):
        contrast_correlations({"T2w": np.ones((2, 2, 2))}, mask)
