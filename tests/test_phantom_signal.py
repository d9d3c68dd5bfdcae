"""The phantom's physics: equations against a step-by-step simulation, noise against its distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from synthmr.data.phantom import signal as s


def recover(mz: float, time: float, t1: float) -> float:
    """Longitudinal relaxation towards 1 for ``time``."""
    return 1 + (mz - 1) * math.exp(-time / t1)


def played(events: list[tuple[str, float]], t1: float, repeats: int = 60) -> float:
    """Play a sequence until it is steady and return Mz just before the excitation marked ``read``.

    Events: ("wait", ms), ("flip", degrees) and ("read", degrees): a flip before which Mz is noted. Transverse
    magnetisation is spoiled. Knows nothing of the closed forms.
    """
    mz, noted = 1.0, 0.0
    for _ in range(repeats):
        for kind, value in events:
            if kind == "wait":
                mz = recover(mz, value, t1)
            else:
                noted = mz if kind == "read" else noted
                mz *= math.cos(math.radians(value))
    return noted


@pytest.mark.parametrize("t1", [300.0, 832.0, 1331.0, 4070.0])
def test_spin_echo_is_the_steady_state_of_its_pulses(t1: float) -> None:
    tissue = s.Tissue(t1, 80.0, 50.0, 0.7)
    sequence = s.SpinEcho(tr=900.0, te=60.0)
    mz = played([("read", 90), ("wait", 30.0), ("flip", 180), ("wait", 870.0)], t1)
    assert s.spin_echo(tissue, sequence) == pytest.approx(0.7 * mz * math.exp(-60 / 80), rel=1e-9)


@pytest.mark.parametrize("t1", [300.0, 832.0, 1331.0, 4070.0])
def test_inversion_recovery_is_the_steady_state_of_its_pulses(t1: float) -> None:
    tissue = s.Tissue(t1, 80.0, 50.0, 0.7)
    sequence = s.InversionRecovery(tr=3000.0, te=40.0, ti=700.0)
    mz = played([("flip", 180), ("wait", 700.0), ("read", 90), ("wait", 20.0), ("flip", 180), ("wait", 2280.0)], t1)
    assert s.inversion_recovery(tissue, sequence) == pytest.approx(0.7 * mz * math.exp(-40 / 80), rel=1e-9)


@pytest.mark.parametrize("t1", [300.0, 832.0, 1331.0, 4070.0])
def test_mprage_is_the_steady_state_of_its_pulses(t1: float) -> None:
    tissue = s.Tissue(t1, 80.0, 50.0, 0.7)
    sequence = s.Mprage(tr=1500.0, te=3.0, ti=700.0, flip=12.0, echo_spacing=8.0, echoes=100)
    train: list[tuple[str, float]] = [("flip", 12.0), ("wait", 8.0)] * 50 + [("read", 12.0), ("wait", 8.0)]
    train += [("flip", 12.0), ("wait", 8.0)] * 49
    mz = played([("flip", 180), ("wait", 300.0), *train, ("wait", 400.0)], t1)
    expected = 0.7 * math.sin(math.radians(12)) * mz * math.exp(-3 / 50)
    assert s.mprage(tissue, sequence) == pytest.approx(expected, rel=1e-9)


def test_limits_of_the_equations() -> None:
    tissue = s.Tissue(1000.0, 100.0, 50.0, 0.8)
    assert s.spin_echo(tissue, s.SpinEcho(1e6, 1e-9)) == pytest.approx(0.8)  # long TR, no TE: proton density
    assert s.spin_echo(tissue, s.SpinEcho(1e6, 100.0)) == pytest.approx(0.8 / math.e)
    assert s.inversion_recovery(tissue, s.InversionRecovery(1e6, 1e-9, 1e-9)) == pytest.approx(-0.8)
    assert s.null_time(1000.0, 1e6, 10.0) == pytest.approx(1000.0 * math.log(2))


def test_null_time_nulls() -> None:
    for t1, tr, te in ((4070.0, 9000.0, 100.0), (800.0, 2500.0, 20.0)):
        ti = s.null_time(t1, tr, te)
        assert abs(s.inversion_recovery(s.Tissue(t1, 90.0, 50.0, 1.0), s.InversionRecovery(tr, te, ti))) < 1e-12
        assert s.inversion_recovery(s.Tissue(0.8 * t1, 90.0, 50.0, 1.0), s.InversionRecovery(tr, te, ti)) > 0.01


def test_voxelwise_values_give_the_same_as_numbers() -> None:
    t1, t2 = np.array([700.0, 1300.0]), np.array([70.0, 100.0])
    for sequence in s.protocol(3.0).values():
        both = s.signal(s.Tissue(t1, t2, 60.0, np.array([0.7, 0.8])), sequence)
        each = [s.signal(s.Tissue(a, b, 60.0, p), sequence) for a, b, p in zip(t1, t2, (0.7, 0.8), strict=True)]
        np.testing.assert_allclose(both, each, rtol=1e-12)


@pytest.mark.parametrize("field", [1.5, 3.0])
def test_contrasts_have_the_order_that_a_radiologist_knows(field: float) -> None:
    values, sequences = s.tissue_values(field), s.protocol(field)
    shown = {c: {t: abs(float(s.signal(values[t], q))) for t in s.TISSUES} for c, q in sequences.items()}
    assert shown["T1w"]["wm"] > 1.15 * shown["T1w"]["gm"] > 2 * shown["T1w"]["csf"]
    assert shown["T2w"]["csf"] > 1.3 * shown["T2w"]["gm"] > 1.5 * shown["T2w"]["wm"]
    assert shown["PDw"]["gm"] > 1.1 * shown["PDw"]["wm"]
    assert shown["FLAIR"]["csf"] < 0.02 * shown["FLAIR"]["wm"]
    assert shown["FLAIR"]["gm"] > 1.1 * shown["FLAIR"]["wm"]
    for lesion in ("ms", "oedema", "enhancing", "stroke"):
        assert shown["FLAIR"][lesion] > 1.05 * shown["FLAIR"]["gm"]
        assert shown["T2w"][lesion] > shown["T2w"]["gm"]
        assert shown["T1w"][lesion] < 0.85 * shown["T1w"]["wm"]
    assert shown["FLAIR"]["oedema"] > shown["FLAIR"]["necrosis"]
    assert shown["T1w"]["necrosis"] < 0.7 * shown["T1w"]["gm"]


def test_relaxation_times_rise_with_the_field() -> None:
    low, high = s.HEALTHY_VALUES[1.5], s.HEALTHY_VALUES[3.0]
    assert high["wm"].t1 > low["wm"].t1
    assert high["gm"].t1 > low["gm"].t1
    assert high["csf"].t1 == low["csf"].t1


def test_gadolinium_adds_rates() -> None:
    tissue = s.Tissue(1400.0, 110.0, 70.0, 0.84)
    shortened = s.with_gadolinium(tissue, 0.2, 4.97)
    assert 1000 / shortened.t1 == pytest.approx(1000 / 1400 + 4.97 * 0.2)
    assert (shortened.t2, shortened.t2star, shortened.pd) == (tissue.t2, tissue.t2star, tissue.pd)
    assert s.with_gadolinium(tissue, 0.0, 4.97).t1 == pytest.approx(1400.0)
    for field in (1.5, 3.0):  # even the weakest leak is brighter than white matter
        values, sequence = s.tissue_values(field), s.protocol(field)["T1ce"]
        enhanced = s.with_gadolinium(values["enhancing"], s.GADOLINIUM_RANGE[0], s.RELAXIVITY[field])
        assert s.signal(enhanced, sequence) > 1.1 * s.signal(values["wm"], sequence)


def test_measured_drop_of_t1_in_glioblastoma_is_met() -> None:
    before = s.tissue_values(3.0)["enhancing"]
    for concentration in s.GADOLINIUM_RANGE:
        drop = before.t1 - s.with_gadolinium(before, concentration, s.RELAXIVITY[3.0]).t1
        assert 838 - 2 * 210 < drop < 838 + 210


def test_drawn_tissues_scatter_as_asked() -> None:
    drawn = [s.draw_tissues(np.random.default_rng(i), 3.0, 0.03) for i in range(800)]
    t1 = np.log([d["wm"].t1 / 832.0 for d in drawn])
    pd = np.log([d["wm"].pd / 0.691 for d in drawn])
    assert abs(t1.mean()) < 0.004
    assert 0.0265 < t1.std() < 0.0325
    assert 0.013 < pd.std() < 0.0165
    same = s.draw_tissues(np.random.default_rng(1), 3.0, 0.0)
    assert same == {name: s.Tissue(t.t1, t.t2, t.t2star, t.pd) for name, t in s.tissue_values(3.0).items()}


@pytest.mark.parametrize("ratio", [0.0, 1.0, 3.0, 20.0])
def test_rician_noise_has_the_moments_of_the_rice_distribution(ratio: float) -> None:
    sigma, count = 2.5, 200_000
    drawn = s.rician(np.random.default_rng(7), np.full(count, ratio * sigma), sigma)
    mean, variance = scipy.stats.rice.stats(ratio, scale=sigma, moments="mv")
    assert abs(drawn.mean() - mean) < 5 * math.sqrt(variance / count)
    assert drawn.var() == pytest.approx(variance, rel=0.015)
    assert drawn.min() >= 0


def test_rician_noise_does_not_care_about_the_sign() -> None:
    negative = s.rician(np.random.default_rng(1), np.full(100_000, -4.0), 1.0)
    mean, variance = scipy.stats.rice.stats(4.0, moments="mv")
    assert negative.mean() == pytest.approx(mean, abs=0.02)
    assert negative.var() == pytest.approx(variance, rel=0.03)
    np.testing.assert_allclose(s.rician(np.random.default_rng(1), np.array([-4.0, 3.0]), 0.0), [4.0, 3.0])
