"""The papers' marks: who is best, what gets an asterisk, and how it is printed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from score_tables import rows_of, three
from synthmr.errors import UsageError
from synthmr.evaluate.marks import marked_table, to_markdown
from synthmr.evaluate.scores import summarise
from synthmr.evaluate.statistics import bootstrap_interval, holm

LEGEND = (
    "Mean +- sample standard deviation over 4 subjects. Bold: best mean. \\*: differs from the best by the paired t-test, "
    "p < 0.05 after Holm's correction over the methods of a column."
)


def marks(rows, **options) -> dict[str, tuple[bool, bool]]:
    return {row["method"]: (row["best"], row["significant"]) for row in marked_table(rows, samples=50, **options)}


def test_marks_and_numbers():
    values = three(np.random.default_rng(1))
    rows = rows_of(**values)
    table = marked_table(rows, samples=500)
    assert marks(rows) == {"weak": (False, True), "best": (True, False), "near": (False, False)}
    expected = summarise(rows)
    for row, other in zip(table, expected, strict=True):
        assert {key: row[key] for key in other} == other
        assert (row["low"], row["high"]) == bootstrap_interval(values[row["method"]], samples=500)
    raw = [stats.ttest_rel(values[name], values["best"]).pvalue for name in ("weak", "near")]
    assert [table[0]["p"], table[2]["p"]] == pytest.approx(holm(raw)) and math.isnan(table[1]["p"])


def test_direction_and_families():
    values = three(np.random.default_rng(1))
    assert marks(rows_of("mae", **values))["weak"] == (True, False)
    rows = [*rows_of(**values), *rows_of("mae", **values), *rows_of(contrast="T2w", weak=[9.0, 8.0], best=[1.0, 2.0])]
    best = [(row["contrast"], row["metric"], row["method"]) for row in marked_table(rows, samples=50) if row["best"]]
    assert best == [("FLAIR", "psnr", "best"), ("FLAIR", "mae", "weak"), ("T2w", "psnr", "weak")]
    assert marks(rows_of("colour", **values), higher_is_better={"colour": False})["weak"] == (True, False)
    unknown = marked_table(rows_of("colour", **values), samples=50)
    assert not any(row["best"] or row["significant"] for row in unknown)
    assert {row["note"] for row in unknown} == {"Whether a higher colour is better is not known, so nothing is marked."}


def test_correction_takes_marks_away():
    base, noise = np.linspace(15, 25, 12), np.tile([-1.0, 1.0], 6) * math.sqrt(11 / 12)  # mean 0, sd 1

    def behind(t: float) -> np.ndarray:
        """Scores whose paired t against ``base`` is -t."""
        return base - t / math.sqrt(12) - noise

    close = {"best": base, "second": behind(2.5)}
    p = 2 * stats.t.sf(2.5, 11)
    assert 0.05 / 7 < p < 0.05
    assert marked_table(rows_of(**close), samples=50)[1]["p"] == pytest.approx(p)
    assert marks(rows_of(**close))["second"] == (False, True)
    crowd = {f"other{i}": behind(0.1 * (i + 1)) for i in range(6)}
    found = marks(rows_of(**close, **crowd))
    assert found["second"] == (False, False)
    assert marks(rows_of(**close), alpha=p / 2)["second"] == (False, False)


def test_wilcoxon_with_four_subjects_marks_nothing():
    rows = rows_of(best=[20.0, 21.0, 22.0, 23.0], weak=[10.0, 11.1, 12.3, 13.0])
    assert marks(rows)["weak"] == (False, True)
    assert marks(rows, test="wilcoxon")["weak"] == (False, False)
    assert "at least 0.125" in marked_table(rows, test="wilcoxon", samples=50)[1]["note"]
    assert marked_table(rows, samples=50)[1]["note"] == ""


def test_ties_and_single_methods():
    assert marks(rows_of(a=[1.0, 2.0], b=[1.0, 2.0])) == {"a": (False, False), "b": (False, False)}
    assert marks(rows_of(a=[1.0, 2.0])) == {"a": (False, False)}
    level = marked_table(rows_of(a=[1.0, 2.0, 5.0], b=[1.0, 2.0, 5.0], c=[0.0, 0.0, 0.0]), samples=50)
    assert [row["best"] for row in level] == [True, True, False] and "identical" in level[1]["note"]


def test_special_values():
    table = marked_table(rows_of(a=[math.inf, 20.0], b=[19.0, 20.0], c=[math.nan, 1.0]), samples=50)
    a, b, c = table
    assert a["best"] and a["mean"] == math.inf and math.isnan(a["sd"]) and math.isnan(a["low"])
    assert not b["significant"] and math.isnan(b["p"]) and "infinite" in b["note"]
    assert not c["best"] and not c["significant"]
    assert "| c | n/a |" in to_markdown(table) and "| a | **inf dB** |" in to_markdown(table)


def test_a_method_that_wins_where_both_were_scored_gets_no_mark():
    # "part" lacks the easy subject: its mean is lower, but it wins wherever both have a score
    rng = np.random.default_rng(0)
    rows = rows_of(full={f"s{i}": 10.0 for i in range(8)} | {"easy": 100.0}, part={f"s{i}": 12 + rng.normal() for i in range(8)})
    found = marked_table(rows, samples=50)
    assert found[0]["best"] and found[1]["p"] < 0.05 and not found[1]["significant"]
    assert "only full has a score: easy." in found[1]["note"]


@pytest.mark.parametrize("wrong", [{"test": "anova"}, {"alpha": 0.0}, {"alpha": 1.0}])
def test_refused(wrong):
    with pytest.raises(UsageError, match="tests are t, wilcoxon; alpha lies between 0 and 1"):
        marked_table(rows_of(a=[1.0]), **wrong)


def test_markdown():
    values = {"weak_net": [20.0, 20.5, 21.0, 21.6], "hinet": [25.0, 25.4, 26.1, 26.5]}
    rows = [*rows_of(**values), *rows_of("nmse", hinet=[0.2, 0.3, 0.2, 0.3]), *rows_of(contrast="T2w", hinet=[1.0])]
    text = to_markdown(marked_table(rows, samples=200))
    first, second = text.split("\n\nT2w")
    assert first.splitlines() == [
        "FLAIR, protocol masked-volume",
        "",
        "| method | psnr ↑ | nmse ↓ |",
        "|---|---|---|",
        r"| weak\_net | 20.77 +- 0.68 dB \* | n/a |",
        "| hinet | **25.75 +- 0.68 dB** | 0.2500 +- 0.0577 |",
        "",
        LEGEND,
    ]
    assert "over 1 subject. Nothing is marked" in second and text.endswith("\n")
    with_intervals = to_markdown(marked_table(rows, samples=200), intervals=True)
    assert "| hinet | **25.75 +- 0.68 dB [25." in with_intervals and "95 % bootstrap interval" in with_intervals
    assert "| hinet | 1.00 dB |" in with_intervals  # one subject has no interval


def test_markdown_says_what_was_odd():
    rows = rows_of(best={"s1": 9, "s2": 8, "s3": 8.5}, a={"s1": 1, "s2": 3}, b={"s1": 2, "s2": 3})
    text = to_markdown(marked_table(rows, samples=50))
    assert "over 2 to 3 subjects" in text and "\n- a psnr, b psnr: Left out, as only best has a score: s3." in text
    assert to_markdown([]) == "\n"
