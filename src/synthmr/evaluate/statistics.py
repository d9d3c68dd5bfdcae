"""Intervals, paired tests and their correction. The subject is the unit: sessions of one subject are averaged first.

Two-sided throughout. Nothing is dropped silently: what keeps a number from being computed stands in a note, and the
number is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from synthmr.errors import DataError, UsageError, did_you_mean
from synthmr.evaluate.registry import direction, format_score, get
from synthmr.evaluate.scores import Score, main_scores, mean_sd, own_region, protocol_scores

Rows = Iterable[Score]
Better = Literal["a", "b", "tie", "unknown"]
Test = Literal["t", "wilcoxon"]

#: p below this is marked, after Holm's correction
ALPHA = 0.05
#: bootstrap samples; the interval's ends then move by about 1 % of its width from seed to seed
SAMPLES = 10_000
#: fewer subjects than this and the smallest two-sided Wilcoxon p, 2 / 2^n, is above 0.05
WILCOXON_LEAST = 6

#: metrics that `compare_tables` tests unless others are named: many tests make few of them true
TESTED = ("psnr", "ssim", "mae", "dice_WT", "dice_TC", "dice_ET")

TESTS: Mapping[Test, str] = {"t": "paired t-test", "wilcoxon": "Wilcoxon signed-rank test"}


@dataclass(frozen=True)
class Comparison:
    """Method a against method b on the subjects that both have.

    Attributes:
        n: subjects compared.
        mean_difference: mean of a - b, in the metric's unit.
        interval: 95 % bootstrap interval (low, high) of it.
        t_p: p of the paired t-test.
        wilcoxon_p: p of the Wilcoxon signed-rank test.
        effect_size: Cohen's d_z: mean difference over the standard deviation of the differences; positive where a is larger.
        better: by the means: ``a``, ``b``, ``tie``, or ``unknown`` where they cannot be compared. No statement about p.
        note: why a number is NaN, who was left out; empty where there is nothing to say.
        wilcoxon_note: what limits Wilcoxon's p: too few subjects, subjects without a difference.
    """

    n: int
    mean_difference: float
    interval: tuple[float, float]
    t_p: float
    wilcoxon_p: float
    effect_size: float
    better: Better
    note: str = ""
    wilcoxon_note: str = ""


def bootstrap_interval(
    values: Sequence[float] | np.ndarray, level: float = 0.95, samples: int = SAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Confidence interval of the mean: subjects are drawn with replacement (`scipy.stats.bootstrap`).

    It is the *expanded* percentile interval (Hesterberg, The American Statistician 2015, section 5.2): the plain one is
    too narrow by about sqrt((n - 1) / n) and by normal against t quantiles, so its quantiles are moved outwards by just
    that. On normal values of 5 subjects the plain and the BCa interval cover 81 to 84 % instead of 95 %, this one 91 %; from
    10 subjects on it covers about 95 % (docs/statistics.md). With 2 or 3 subjects it is the range of the values.

    Args:
        values: one number a subject.
        level: share of experiments in which it should hold the true mean.
        samples: bootstrap samples.
        seed: of the draw; the same values and seed give the same interval.

    Returns:
        (low, high); (NaN, NaN) for fewer than two values and where one is infinite or NaN: no mean could be drawn then.

    Raises:
        UsageError: level is not between 0 and 1, or fewer than two samples.
    """
    if not 0 < level < 1 or samples < 2:
        raise UsageError(f"level={level}, samples={samples}: the level lies between 0 and 1 (such as 0.95), samples are 2 or more.")
    data = np.asarray(values, dtype=np.float64).ravel()
    n = data.size
    if n < 2 or not np.isfinite(data).all():
        return math.nan, math.nan
    from scipy import stats

    tail = float(stats.norm.sf(math.sqrt(n / (n - 1)) * stats.t.isf((1 - level) / 2, n - 1)))
    found = stats.bootstrap(
        (data,),
        np.mean,
        n_resamples=samples,
        batch=max(1, 4_000_000 // n),  # indices of all samples at once would take gigabytes for a large cohort
        confidence_level=1 - 2 * tail,
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def holm(p_values: Iterable[float]) -> list[float]:
    """Holm-Bonferroni adjusted p-values, in the order given.

    The i-th smallest of m is multiplied by m - i + 1, and none may be below a smaller one's. NaN (a test that could not
    be done) stays NaN and does not count in m.

    Raises:
        UsageError: a value is outside [0, 1].
    """
    p = np.asarray(list(p_values), dtype=np.float64)
    tested = ~np.isnan(p)
    if ((p[tested] < 0) | (p[tested] > 1)).any():
        raise UsageError(f"p-values {p.tolist()}: all must lie in [0, 1], or be NaN.")
    index = np.flatnonzero(tested)
    order = index[np.argsort(p[index], kind="stable")]
    adjusted = p.copy()
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(order.size, 0, -1)))
    return [float(value) for value in adjusted]


def compare(
    a: Mapping[str, float], b: Mapping[str, float], higher_is_better: bool, samples: int = SAMPLES, seed: int = 0
) -> Comparison:
    """Compare two methods on the subjects that both have.

    Special cases, each told in ``note``: no common subject, one subject, or a score that is infinite or NaN: all numbers
    NaN (one subject keeps its difference). All differences 0: both p are 1, the effect 0. All differences equal but not
    0: no spread, so no t and no effect size; Wilcoxon holds. In ``wilcoxon_note``: fewer than 6 subjects cannot reach
    0.05; subjects without a difference do not count.

    Args:
        a: subject -> score.
        b: the same of the other method.
        higher_is_better: the metric's direction; it decides ``better`` alone.
        samples: of the bootstrap; 0 leaves the interval out (NaN).
        seed: of the bootstrap.
    """
    common = sorted(set(a) & set(b))
    notes = [_only(name, sorted(set(mine) - set(common))) for name, mine in (("a", a), ("b", b)) if set(mine) - set(common)]
    x, y = (np.array([float(side[name]) for name in common]) for side in (a, b))
    nan = math.nan
    if not common:
        return Comparison(0, nan, (nan, nan), nan, nan, nan, "unknown", " ".join(["No subject has both scores.", *notes]))
    better = _better(x, y, higher_is_better)
    odd = [name for name, one, other in zip(common, x, y, strict=True) if not (math.isfinite(one) and math.isfinite(other))]
    if odd:
        notes.insert(0, f"A score of {', '.join(odd)} is infinite or NaN: there is no difference to test; compare another metric.")
        return Comparison(len(common), nan, (nan, nan), nan, nan, nan, better, " ".join(notes))
    difference = _differences(x, y)
    interval = bootstrap_interval(difference, samples=samples, seed=seed) if samples else (nan, nan)
    t_p, effect, reason = _t_test(difference)
    wilcoxon_p, limit = _wilcoxon(difference)
    notes = [reason, *notes] if reason else notes
    return Comparison(len(common), float(difference.mean()), interval, t_p, wilcoxon_p, effect, better, " ".join(notes), limit)


def _only(name: str, subjects: Sequence[str]) -> str:
    return f"Left out, as only {name} has a score: {', '.join(subjects)}."


def _better(x: np.ndarray, y: np.ndarray, higher_is_better: bool) -> Better:
    """By the means, where infinity counts; two infinite means cannot be told apart."""
    if not (np.isnan(x) | np.isnan(y)).any() and (x == y).all():
        return "tie"
    with np.errstate(invalid="ignore"):
        gap = x.mean() - y.mean() if not np.isfinite([*x, *y]).all() else _differences(x, y).mean()
    if math.isnan(gap):
        return "unknown"
    if gap == 0:
        return "tie"
    return "a" if (gap > 0) == higher_is_better else "b"


def _differences(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x - y without its rounding error, which would make ties and zeros look like ranks."""
    scale = float(max(np.abs(x).max(), np.abs(y).max()))
    difference = x - y
    if not 1e-100 < scale < 1e100:
        return difference
    return np.round(difference, 12 - math.ceil(math.log10(scale)))


def _t_test(difference: np.ndarray) -> tuple[float, float, str]:
    """(p, d_z, note) of finite differences."""
    from scipy import stats

    n = difference.size
    if n == 1:
        return math.nan, math.nan, "One subject: its difference has no spread, so nothing can be tested."
    if not difference.any():
        return 1.0, 0.0, f"The scores of all {n} subjects are identical."
    if (difference == difference[0]).all():
        return math.nan, math.nan, f"All {n} differences are equal: there is no spread, so no t-test and no effect size."
    mean, sd = mean_sd(difference.tolist())
    return float(2 * stats.t.sf(abs(mean) / sd * math.sqrt(n), n - 1)), mean / sd, ""


def _wilcoxon(difference: np.ndarray) -> tuple[float, str]:
    """(p, note) of finite differences; exact up to 50 subjects without ties and 13 with."""
    from scipy import stats

    n, apart = difference.size, difference[difference != 0]
    m = apart.size
    if n == 1:
        return math.nan, ""
    if not m:
        return 1.0, ""
    notes = [] if m == n else [f"{n - m} of {n} subjects do not differ and do not count in Wilcoxon's test."]
    if m < WILCOXON_LEAST:
        people = f"{m} subject{'s' * (m > 1)}"
        notes.append(f"With {people} Wilcoxon's p is at least {2 / 2**m:g}: it cannot reach {ALPHA:g}.")
    return float(stats.wilcoxon(apart).pvalue), " ".join(notes)


def subject_values(rows: Rows) -> dict[str, dict[str, float]]:
    """Method -> subject -> mean of that subject's values; ``rows`` are of one contrast, protocol, region and metric."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        found.setdefault(row.method, {}).setdefault(row.subject, []).append(row.value)
    with np.errstate(invalid="ignore"):  # infinity and minus infinity: NaN, which is told later
        return {method: {name: float(np.mean(v)) for name, v in mine.items()} for method, mine in found.items()}


def _mean(values: Mapping[str, float]) -> float:
    with np.errstate(invalid="ignore"):
        return float(np.mean(list(values.values())))


def best_methods(values: Mapping[str, Mapping[str, float]], higher: bool) -> list[str]:
    """The methods with the best mean, several where they are level; none where no mean is a number."""
    means = {method: _mean(mine) for method, mine in values.items()}
    known = [mean for mean in means.values() if not math.isnan(mean)]
    top = (max(known) if higher else min(known)) if known else math.nan
    return [method for method, mean in means.items() if mean == top]


def compare_methods(
    rows: Rows,
    *,
    metric: str,
    protocol: str,
    contrast: str,
    region: str = "",
    reference: str | None = None,
    higher_is_better: bool | None = None,
    samples: int = SAMPLES,
) -> list[dict[str, Any]]:
    """Compare every other method with one; p-values are Holm-corrected over these comparisons, each test for itself.

    Args:
        rows: scores.
        metric: of the rows compared.
        protocol: of the rows compared.
        contrast: of the rows compared.
        region: of the rows compared; empty: the protocol's own.
        reference: the method that the others are compared with; the one with the best mean unless given.
        higher_is_better: the metric's direction, for metrics that synthmr does not know.
        samples: of the bootstrap.

    Returns:
        A row for each other method, in order of first appearance: method, reference, contrast, protocol, region, metric,
        subjects (how many), mean, reference_mean (both over the common subjects), difference (method - reference), low, high, t_p,
        t_p_holm, wilcoxon_p, wilcoxon_p_holm, effect_size, better (a method's name, ``tie`` or ``unknown``), note, text.

    Raises:
        UsageError: no row fits, the reference is no method there, or the metric's direction is unknown.
    """
    rows = list(rows)
    if not region:
        region = next((row.region for row in main_scores(row for row in rows if row.protocol == protocol)), own_region(protocol))
    wanted = (contrast, protocol, region, metric)
    mine = [row for row in rows if (row.contrast, row.protocol, row.region, row.metric) == wanted]
    values = subject_values(mine)
    if not mine:
        there = sorted({f"{row.contrast} {row.protocol} {row.region} {row.metric}" for row in rows})
        raise UsageError(f"no scores of {' '.join(wanted)}: {did_you_mean(' '.join(wanted), there)}")
    higher = direction(metric) if higher_is_better is None else higher_is_better
    if higher is None:
        raise UsageError(f"whether a higher {metric} is better is not known; give higher_is_better.")
    if reference is not None and reference not in values:
        raise UsageError(f"no scores of method {reference}: {did_you_mean(reference, values)}")
    chosen = reference or (best_methods(values, higher) or list(values))[0]
    others = [method for method in values if method != chosen]
    found = [compare(values[method], values[chosen], higher, samples) for method in others]
    units = " ".join(check_units(mine))
    table = []
    for method, result, t, w in zip(others, found, holm(r.t_p for r in found), holm(r.wilcoxon_p for r in found), strict=True):
        common = set(values[method]) & set(values[chosen])
        means = [_mean({name: values[side][name] for name in common}) if common else math.nan for side in (method, chosen)]
        row: dict[str, Any] = {"method": method, "reference": chosen, "contrast": contrast, "protocol": protocol}
        row |= {
            "region": region,
            "metric": metric,
            "subjects": result.n,
            "mean": means[0],
            "reference_mean": means[1],
            "difference": result.mean_difference,
        }
        row |= {"low": result.interval[0], "high": result.interval[1], "t_p": result.t_p, "t_p_holm": t}
        row |= {"wilcoxon_p": result.wilcoxon_p, "wilcoxon_p_holm": w, "effect_size": result.effect_size}
        row["better"] = {"a": method, "b": chosen}.get(result.better, result.better)
        row["note"] = " ".join(part for part in (named(result.note, method, chosen), result.wilcoxon_note, units) if part)
        table.append({**row, "text": _sentence(row)})
    return table


def compare_tables(
    rows: Rows, reference: str = "", metrics: Sequence[str] = (), regions: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Paired tests of every method against the reference, a family a contrast, protocol, region and metric.

    Args:
        rows: scores of at least two methods.
        reference: a method; empty: the one with the best mean.
        metrics: to test; none: `TESTED`, or all that the rows hold if they hold none of those.
        regions: to test in; none: those that each protocol itself scores.

    Returns:
        Rows of `compare_methods`; none where no two methods have a score of the same contrast, protocol, region and metric.

    Raises:
        UsageError: one method alone, an unknown method, metric or region, or a metric that nobody can win by.
    """
    rows = list(rows)
    methods = list(dict.fromkeys(row.method for row in rows))
    if len(methods) < 2:
        raise UsageError(f"there is one method alone ({', '.join(methods) or 'none'}); score two or more to compare them.")
    if reference and reference not in methods:
        raise UsageError(f"the tables hold no scores of {reference}: {did_you_mean(reference, methods)}")
    there = list(dict.fromkeys(row.region for row in rows))
    for name in regions:
        if name not in there:
            raise UsageError(f"the tables hold no region {name}: {did_you_mean(name, there)}")
    rows = [row for row in rows if row.region in regions] if regions else protocol_scores(rows)
    known = list(dict.fromkeys(row.metric for row in rows))
    directed = [name for name in known if direction(name) is not None]
    for name in metrics:
        if name not in known:
            raise UsageError(f"the tables hold no {name}: {did_you_mean(name, known)}")
        if name not in directed:
            raise UsageError(
                f"neither a higher nor a lower {name} is better, so no method wins by it: {did_you_mean(name, directed)}"
            )
    chosen = tuple(metrics) or tuple(name for name in TESTED if name in known) or tuple(directed)
    families: dict[tuple[str, str, str, str], list[Score]] = {}
    for row in rows:
        if row.metric in chosen:
            families.setdefault((row.contrast, row.protocol, row.region, row.metric), []).append(row)
    found: list[dict[str, Any]] = []
    for (contrast, protocol, region, metric), mine in families.items():
        scored = {row.method for row in mine}
        # a segmenting method has scores that the reference has not
        if len(scored) > 1 and reference in ("", *scored):
            where: dict[str, Any] = {"metric": metric, "protocol": protocol, "contrast": contrast, "region": region}
            found += compare_methods(mine, **where, reference=reference or None)
    return found


def named(note: str, a: str, b: str) -> str:
    """The note of a comparison with the methods' names."""
    for letter, name in (("a", a), ("b", b)):
        note = note.replace(f"as only {letter} has a score", f"as only {name} has a score")
    return note


def plain(metric: str, value: float) -> str:
    """A score without its unit."""
    return get(metric).text(value, unit=False)


def p_text(p: float) -> str:
    """``p = 0.031``, ``p < 0.001``, ``p n/a``."""
    if math.isnan(p):
        return "p n/a"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _sentence(row: Mapping[str, Any]) -> str:
    """The row in words."""
    metric, gap, n = row["metric"], row["difference"], row["subjects"]
    people = f"{n} subject" + ("" if n == 1 else "s")
    where = "" if row["region"] == own_region(row["protocol"]) else f"{row['region']}, "
    head = f"{row['method']} against {row['reference']}, {row['contrast']} {metric} ({row['protocol']}, {where}{people})"
    if math.isnan(gap):
        return f"{head}: no difference could be computed."
    spread = "" if math.isnan(row["low"]) else f", 95 % interval {plain(metric, row['low'])} to {plain(metric, row['high'])}"
    tests = (
        f"t-test {p_text(row['t_p_holm'])}, Wilcoxon {p_text(row['wilcoxon_p_holm'])}, Holm-corrected; d_z {row['effect_size']:.2f}"
    )
    return f"{head}: {'+' if gap > 0 else ''}{format_score(metric, gap)}{spread}; {tests}."


def check_units(rows: Rows, strict: bool = False) -> list[str]:
    """Find values that are no subject's: a case with several under one method, contrast, protocol, region and metric.

    Such tables hold slices (or were joined twice). Slices of one subject are not independent: a test over them takes
    one subject with 100 slices for 100 subjects.

    Args:
        rows: scores.
        strict: raise instead of returning the first line.

    Returns:
        A warning for each contrast and protocol concerned; empty where every case has one value.

    Raises:
        DataError: strict, and there is one.
    """
    counts: dict[tuple[str, str], dict[tuple[str, str, str, str], int]] = {}
    for row in rows:
        group = counts.setdefault((row.contrast, row.protocol), {})
        key = (row.case, row.method, row.metric, row.region)
        group[key] = group.get(key, 0) + 1
    lines = []
    for (contrast, protocol), group in counts.items():
        case, method, metric, region = max(group, key=lambda key: group[key])
        most = group[case, method, metric, region]
        if most > 1:
            many = len({key[0] for key, count in group.items() if count > 1})
            lines.append(
                f"{contrast}, {protocol}: {many} of {len({key[0] for key in group})} cases have several values of one score "
                f"({case} has {most} of {metric} for {method}), such as one a slice or a table joined twice; slices of a subject "
                "are not independent, so they are averaged to one value a subject; score whole volumes."
            )
    if lines and strict:
        raise DataError(lines[0])
    return lines
