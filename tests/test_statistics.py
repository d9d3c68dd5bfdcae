"""Statistics against closed forms and SciPy; what cannot be computed is said, never a silent number."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from score_tables import people, rows_of, three
from synthmr.errors import DataError, UsageError
from synthmr.evaluate.registry import direction
from synthmr.evaluate.statistics import (
    bootstrap_interval,
    check_units,
    compare,
    compare_methods,
    holm,
    p_text,
    subject_values,
)

WHERE = {"metric": "psnr", "protocol": "masked-volume", "contrast": "FLAIR", "samples": 200}


# ------------------------------------------------------------------------------------------------ intervals


@pytest.mark.parametrize(("draw", "true"), [("normal", 3.0), ("exponential", 1.0)])
@pytest.mark.parametrize("n", [10, 25])
def test_interval_covers_the_mean_about_as_often_as_it_says(draw, true, n):
    rng = np.random.default_rng(n)
    below = above = 0
    trials = 400
    for trial in range(trials):
        values = rng.normal(3, 2, n) if draw == "normal" else rng.exponential(1, n)
        low, high = bootstrap_interval(values, samples=600, seed=trial)
        below += high < true
        above += low > true
    # 0.95 +- 3 binomial standard errors on normal values; skewed ones are known to be covered somewhat less
    least, most = (0.917, 0.983) if draw == "normal" else (0.86, 0.97)
    assert least <= 1 - (below + above) / trials <= most
    if draw == "normal":  # misses on both sides alike
        assert abs(below - above) <= 3 * math.sqrt(below + above)


def test_interval_against_the_t_interval():
    values = np.random.default_rng(1).normal(20, 3, 60)
    low, high = bootstrap_interval(values)
    expected = stats.t.interval(0.95, 59, values.mean(), stats.sem(values))
    assert (low, high) == pytest.approx(expected, abs=0.06 * (high - low))
    wide, narrow = bootstrap_interval(values, 0.99), bootstrap_interval(values, 0.5)
    assert wide[0] < low < narrow[0] < values.mean() < narrow[1] < high < wide[1]
    assert narrow == pytest.approx(stats.t.interval(0.5, 59, values.mean(), stats.sem(values)), abs=0.06 * (high - low))


def test_interval_is_the_expanded_percentile_interval():
    values = np.random.default_rng(2).normal(size=10)
    level = 2 * stats.norm.cdf(math.sqrt(10 / 9) * 2.2621572) - 1  # t quantile of 9 degrees of freedom, from a table
    options = {"method": "percentile", "n_resamples": 5000, "confidence_level": level, "random_state": np.random.default_rng(7)}
    expected = stats.bootstrap((values,), np.mean, **options).confidence_interval
    assert bootstrap_interval(values, samples=5000, seed=7) == pytest.approx((expected.low, expected.high), rel=1e-6)


def test_interval_invariances():
    values = np.random.default_rng(3).gamma(2, size=8)
    low, high = bootstrap_interval(values)
    assert bootstrap_interval(values) == (low, high)
    assert bootstrap_interval(values, seed=1) != (low, high)
    assert bootstrap_interval(5 + 2 * values) == pytest.approx((5 + 2 * low, 5 + 2 * high))
    assert bootstrap_interval(list(values)) == (low, high)


def test_interval_special_values():
    assert bootstrap_interval([2.0, 5.0]) == (2.0, 5.0)
    assert bootstrap_interval([4.0, 4.0, 4.0]) == (4.0, 4.0)
    for values in ([], [1.0], [1.0, math.inf, 2.0], [1.0, math.nan], [math.inf, -math.inf]):
        assert all(map(math.isnan, bootstrap_interval(values)))
    for wrong in ({"level": 0.0}, {"level": 1.0}, {"level": math.nan}, {"samples": 1}):
        with pytest.raises(UsageError, match="level lies between 0 and 1"):
            bootstrap_interval([1.0, 2.0], **wrong)


# ------------------------------------------------------------------------------------------------ Holm


def test_holm_worked_example():
    # by hand, m = 4: 0.005*4, 0.01*3, then 0.03*2 = 0.06, and 0.04*1 is lifted to 0.06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == [] and holm([0.2]) == [0.2]
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_holm_passes_nan_through_uncounted():
    with_nan = holm([0.01, math.nan, 0.04, math.nan])
    assert [with_nan[0], with_nan[2]] == pytest.approx([0.02, 0.04])
    assert math.isnan(with_nan[1]) and math.isnan(with_nan[3])
    assert math.isnan(holm([math.nan])[0])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.5))
def test_holm_rejects_what_the_step_down_procedure_rejects(p, alpha):
    adjusted = holm(p)
    rejected = [False] * len(p)
    for step, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):  # Holm 1979, as written there
        if p[i] * (len(p) - step) > alpha:
            break
        rejected[i] = True
    assert [value <= alpha for value in adjusted] == rejected
    assert all(own <= other <= min(1, own * len(p)) for own, other in zip(p, adjusted, strict=True))


@pytest.mark.parametrize("wrong", [-0.1, 1.1, math.inf])
def test_holm_refuses(wrong):
    with pytest.raises(UsageError, match=r"must lie in \[0, 1\]"):
        holm([0.5, wrong])


# ------------------------------------------------------------------------------------------------ two methods


@pytest.mark.parametrize("n", [2, 3, 7, 12, 60])
def test_compare_against_scipy(n):
    rng = np.random.default_rng(n)
    x, y = rng.normal(20, 2, n), rng.normal(19.5, 2, n)
    found = compare(people(x), people(y), True, samples=500)
    assert found.n == n and found.mean_difference == pytest.approx(x.mean() - y.mean())
    assert found.t_p == pytest.approx(stats.ttest_rel(x, y).pvalue)
    assert found.wilcoxon_p == pytest.approx(stats.wilcoxon(x, y).pvalue)
    assert found.effect_size == pytest.approx((x - y).mean() / (x - y).std(ddof=1))
    assert found.interval[0] <= found.mean_difference <= found.interval[1]
    assert found.interval == pytest.approx(bootstrap_interval(x - y, samples=500))
    assert found.note == ""


def test_compare_turns_around():
    rng = np.random.default_rng(0)
    a, b = people(rng.normal(20, 2, 9)), people(rng.normal(18, 2, 9))
    one, other = compare(a, b, True), compare(b, a, True)
    assert (one.better, other.better) == ("a", "b") and compare(a, b, False).better == "b"
    assert other.mean_difference == -one.mean_difference and other.effect_size == -one.effect_size
    assert (other.t_p, other.wilcoxon_p) == (one.t_p, one.wilcoxon_p)
    # pairs are made by subject, not by order
    assert compare(dict(reversed(a.items())), b, True) == one


def exact_wilcoxon(difference) -> float:
    """Two-sided p by enumeration of all signs, ties by mid-ranks."""
    ranks = stats.rankdata(np.abs(difference))
    observed = abs(ranks @ np.sign(difference))
    sums = [abs(ranks @ np.array(signs)) for signs in itertools.product((-1, 1), repeat=len(ranks))]
    return float(np.mean([value >= observed - 1e-9 for value in sums]))


@pytest.mark.parametrize(
    "difference", [[1, 2, 3, 4, 5, 6], [1, -2, 3, 4, 5, 6, -7], [1, 1, 1, -1, 2, 2, 3], [0.1, 0.1, 0.2, 0.3, -0.1, 0.3]]
)
def test_wilcoxon_is_exact_with_and_without_ties(difference):
    base = np.linspace(10, 30, len(difference)) + 0.1  # so that ties must survive rounding
    found = compare(people(base + difference), people(base), True, samples=0)
    assert found.wilcoxon_p == pytest.approx(exact_wilcoxon(difference))
    assert all(map(math.isnan, found.interval))


@pytest.mark.parametrize(("n", "least"), [(2, "0.5"), (3, "0.25"), (4, "0.125"), (5, "0.0625")])
def test_few_subjects_cannot_reach_significance_by_wilcoxon(n, least):
    found = compare(people(10 + np.arange(n) ** 2.0), people(np.zeros(n)), True, samples=0)  # always larger, no ties
    assert found.wilcoxon_p == pytest.approx(float(least)) == 2 / 2**n
    assert found.wilcoxon_note == f"With {n} subjects Wilcoxon's p is at least {least}: it cannot reach 0.05."


def test_six_subjects_can():
    found = compare(people(10 + np.arange(6) ** 2.0), people(np.zeros(6)), True, samples=0)
    assert found.wilcoxon_p == pytest.approx(0.03125) and found.wilcoxon_note == ""


def test_subjects_without_a_difference():
    a = people([1, 2, 3, 4, 5, 6, 7.5, 8])
    b = people([1, 2, 1, 1, 1, 1, 1, 1])
    found = compare(a, b, True, samples=0)
    assert found.wilcoxon_note == "2 of 8 subjects do not differ and do not count in Wilcoxon's test."
    assert found.wilcoxon_p == pytest.approx(exact_wilcoxon([2, 3, 4, 5, 6.5, 7]))
    assert found.t_p == pytest.approx(stats.ttest_rel([*a.values()], [*b.values()]).pvalue)
    few = compare(people([1, 2, 3]), people([1, 2, 2]), True, samples=0)
    assert few.wilcoxon_note.startswith("2 of 3 subjects do not differ") and "With 1 subject Wilcoxon" in few.wilcoxon_note


def test_one_subject():
    found = compare({"s": 3.0}, {"s": 2.0}, True)
    assert (found.n, found.mean_difference, found.better) == (1, 1.0, "a")
    assert all(map(math.isnan, (found.t_p, found.wilcoxon_p, found.effect_size, *found.interval)))
    assert found.note == "One subject: its difference has no spread, so nothing can be tested."


@pytest.mark.parametrize("shift", [0.0, 1e-15])
def test_identical(shift):
    values = np.random.default_rng(0).normal(20, 2, 7)
    found = compare(people(values), people(values * (1 + shift)), False)
    assert (found.t_p, found.wilcoxon_p, found.effect_size, found.mean_difference) == (1.0, 1.0, 0.0, 0.0)
    assert found.better == "tie" and found.interval == (0.0, 0.0) and found.note == "The scores of all 7 subjects are identical."


def test_equal_differences():
    values = np.random.default_rng(0).normal(20, 2, 7)
    found = compare(people(values + 0.1), people(values), True, samples=0)
    assert math.isnan(found.t_p) and math.isnan(found.effect_size) and "All 7 differences are equal" in found.note
    assert found.wilcoxon_p == pytest.approx(2 / 2**7) and found.mean_difference == pytest.approx(0.1)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6, 1e-150, 1e150])
def test_units_do_not_matter(scale):
    rng = np.random.default_rng(5)
    x, y = rng.normal(20, 2, 8), rng.normal(18, 2, 8)
    one, other = (compare(people(x * k), people(y * k), True, samples=0) for k in (1.0, scale))
    assert other.t_p == pytest.approx(one.t_p, rel=1e-6) and other.wilcoxon_p == one.wilcoxon_p
    assert other.mean_difference == pytest.approx(one.mean_difference * scale)


@pytest.mark.parametrize(
    ("x", "y", "better"),
    [
        ([1, math.inf, 3], [1, 2, 3], "a"),
        ([1, 2, 3], [1, 2, math.inf], "b"),
        ([math.inf, 2, 3], [1, math.inf, 3], "unknown"),
        ([1, math.nan, 3], [1, 2, 3], "unknown"),
        ([1, -math.inf, 3], [1, 2, 3], "b"),
        ([math.inf, math.inf], [math.inf, math.inf], "tie"),
    ],
)
def test_infinite_scores_are_told(x, y, better):
    found = compare(people(x), people(y), True)
    numbers = (found.mean_difference, found.t_p, found.wilcoxon_p, found.effect_size, *found.interval)
    assert all(map(math.isnan, numbers)) and found.n == len(x) and found.better == better
    odd = [f"s{i:02}" for i in range(len(x)) if not (math.isfinite(x[i]) and math.isfinite(y[i]))]
    assert f"A score of {', '.join(odd)} is infinite or NaN" in found.note


def test_subjects_of_one_method_only():
    found = compare({"s1": 1, "s2": 2, "s3": 4}, {"s2": 1, "s3": 2, "s9": 0, "s8": 0}, True)
    assert found.n == 2 and found.mean_difference == 1.5
    assert found.note == "Left out, as only a has a score: s1. Left out, as only b has a score: s8, s9."
    nobody = compare({"s1": 1.0}, {"s2": 1.0}, True)
    assert nobody.n == 0 and nobody.better == "unknown" and nobody.note.startswith("No subject has both scores. Left out")
    assert all(map(math.isnan, (nobody.mean_difference, nobody.t_p, nobody.wilcoxon_p, *nobody.interval)))


def test_false_alarms_are_as_rare_as_they_should_be():
    rng = np.random.default_rng(11)
    alarms = np.zeros(2)
    for _ in range(600):
        x, y = rng.normal(size=(2, 10))
        found = compare(people(x), people(y), True, samples=0)
        alarms += [found.t_p < 0.05, found.wilcoxon_p < 0.05]
    assert ((alarms / 600 > 0.023) & (alarms / 600 < 0.077)).all()  # 0.05 +- 3 binomial standard errors


# ------------------------------------------------------------------------------------------------ tables


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("psnr", True),
        ("nmse", False),
        ("dice_WT", True),
        ("hd95_ET", False),
        ("seam", None),
        ("sharpness", None),
        ("false_bright", False),
        ("colour", None),
        ("", None),
    ],
)
def test_direction(metric, expected):
    assert direction(metric) is expected


def test_sessions_are_averaged_to_subjects():
    cases = {"sub-1_ses-1": 10.0, "sub-1_ses-2": 20.0, "sub-2": 7.0, "x": 1.0, "y": 3.0}
    assert subject_values(rows_of(m=cases)) == {"m": {"sub-1": 15.0, "sub-2": 7.0, "x": 1.0, "y": 3.0}}
    named = [replace(row, subject="z") if row.case in "xy" else row for row in rows_of(m=cases)]
    assert subject_values(named)["m"] == {"sub-1": 15.0, "sub-2": 7.0, "z": 2.0}


def test_sessions_do_not_make_subjects():
    rng = np.random.default_rng(0)
    per_subject = rng.normal(0.3, 1, 5)
    many = {f"sub-{i}_ses-{k}": 20 + d for i, d in enumerate(per_subject) for k in range(20)}
    once = {f"sub-{i}_ses-0": 20 + d for i, d in enumerate(per_subject)}
    flat = [dict.fromkeys(cases, 20.0) for cases in (many, once)]
    (one,), (other,) = (compare_methods(rows_of(a=x, b=y), **WHERE) for x, y in zip((many, once), flat, strict=True))
    assert one["subjects"] == other["subjects"] == 5
    assert one["t_p"] == pytest.approx(other["t_p"])


def test_compare_methods():
    values = three(np.random.default_rng(1))
    rows = [*rows_of(**values), *rows_of("mae", weak=[0.1], best=[0.3]), *rows_of(contrast="T2w", weak=[1.0], best=[9.0])]
    found = compare_methods(rows, **WHERE)
    assert [(row["method"], row["reference"], row["subjects"]) for row in found] == [("weak", "best", 10), ("near", "best", 10)]
    raw = [stats.ttest_rel(values[row["method"]], values["best"]).pvalue for row in found]
    assert [row["t_p"] for row in found] == pytest.approx(raw)
    assert [row["t_p_holm"] for row in found] == pytest.approx(holm(raw)) and found[0]["t_p_holm"] == pytest.approx(2 * raw[0])
    assert [row["wilcoxon_p_holm"] for row in found] == pytest.approx(holm([row["wilcoxon_p"] for row in found]))
    weak = found[0]
    assert weak["better"] == "best" and weak["low"] < weak["difference"] < weak["high"] < 0
    assert weak["mean"] - weak["reference_mean"] == pytest.approx(weak["difference"])
    assert weak["text"].startswith("weak against best, FLAIR psnr (masked-volume, 10 subjects): -") and " dB, 95 % " in weak["text"]
    assert "t-test p < 0.001" in weak["text"] and weak["note"] == ""


def test_reference_given_and_direction():
    values = three(np.random.default_rng(1))
    found = compare_methods(rows_of(**values), reference="weak", **WHERE)
    assert [row["method"] for row in found] == ["best", "near"] and found[0]["better"] == "best"
    assert found[0]["difference"] > 0 and ": +" in found[0]["text"]
    # for an error the smallest mean is the reference
    assert {row["reference"] for row in compare_methods(rows_of("mae", **values), **WHERE | {"metric": "mae"})} == {"weak"}
    own = WHERE | {"metric": "colour"}
    assert {r["reference"] for r in compare_methods(rows_of("colour", **values), higher_is_better=False, **own)} == {"weak"}
    with pytest.raises(UsageError, match="higher colour is better is not known; give higher_is_better"):
        compare_methods(rows_of("colour", **values), **own)
    with pytest.raises(UsageError, match="no scores of method bets: did you mean best"):
        compare_methods(rows_of(**values), reference="bets", **WHERE)
    with pytest.raises(UsageError, match=r"no scores of FLAIR masked-volume brain psnr: .*Allowed: T1w masked-volume brain psnr"):
        compare_methods(rows_of(contrast="T1w", **values), **WHERE)
    assert compare_methods(rows_of(only=[1.0, 2.0]), **WHERE) == []


def test_notes_name_the_methods():
    found = compare_methods(rows_of(hi={"s1": 9, "s2": 8, "s3": 7}, lo={"s1": 1, "s2": 3, "s4": 2}), **WHERE)[0]
    assert "only lo has a score: s4." in found["note"] and "only hi has a score: s3." in found["note"]
    assert (found["mean"], found["reference_mean"]) == (2.0, 8.5) and "cannot reach 0.05" in found["note"]
    apart = compare_methods(rows_of(a={"s1": 1.0}, b={"s2": 2.0}), **WHERE)[0]
    assert apart["better"] == "unknown" and math.isnan(apart["mean"]) and apart["text"].endswith("no difference could be computed.")
    infinite = compare_methods(rows_of(a=[math.inf, 2.0], b=[1.0, 2.0]), **WHERE)[0]
    assert (
        infinite["reference"] == infinite["better"] == "a" and math.isnan(infinite["t_p_holm"]) and "infinite" in infinite["note"]
    )
    lost = compare_methods(rows_of(a=[math.nan], b=[math.nan]), **WHERE)[0]
    assert lost["reference"] == "a" and lost["better"] == "unknown"


def test_p_text():
    assert [p_text(p) for p in (0.0314, 0.0009, 1.0, math.nan)] == ["p = 0.031", "p < 0.001", "p = 1.000", "p n/a"]


def test_slices_are_found():
    volumes = rows_of(a=[1.0, 2.0], b=[2.0, 3.0])
    assert check_units(volumes) == [] and check_units(volumes, strict=True) == []
    # one value for each of several metrics, contrasts, protocols is no repetition
    fine = [*volumes, *rows_of("mae", a=[0.1, 0.2]), *rows_of(contrast="T2w", a=[1.0]), *rows_of(protocol="hinet2020", a=[1.0])]
    assert check_units(fine) == []
    slices = [*fine, *rows_of(b={"s01": 2.5}), *rows_of(b={"s01": 2.6})]
    (line,) = check_units(slices)
    assert line.startswith("FLAIR, masked-volume: 1 of 2 cases have several values of one score (s01 has 3 of psnr for b)")
    with pytest.raises(DataError, match="slices of a subject are not independent"):
        check_units(slices, strict=True)
    assert "not independent" in compare_methods(slices, **WHERE)[0]["note"]


def test_slices_do_not_make_significance():
    rng = np.random.default_rng(4)
    subject = rng.normal(0.2, 1, 4)  # a difference that four subjects cannot show
    rows = [
        row
        for i, gap in enumerate(subject)
        for _ in range(100)
        for row in (*rows_of(a={f"s{i}": 20 + gap + rng.normal(0, 0.1)}), *rows_of(b={f"s{i}": 20.0}))
    ]
    by_slice = stats.ttest_rel(*([row.value for row in rows if row.method == m] for m in "ab")).pvalue
    assert by_slice < 0.001
    found = compare_methods(rows, **WHERE)[0]
    assert found["subjects"] == 4 and found["t_p"] > 0.05
