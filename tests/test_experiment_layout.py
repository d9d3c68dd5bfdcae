"""The table beside the paper's, and what became of its claims: p by an independent library, words, notes, no silent number."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from experiment_data import table
from synthmr.evaluate.scores import Score, own_region
from synthmr.experiment import layout
from synthmr.experiment.layout import AGAINST, HELD, LEANING, LEVEL, REVERSED, UNKNOWN, Verdict, verdicts
from synthmr.experiment.runner import Options, Outcome, plan
from synthmr.experiment.spec import Experiment

ALL = ("T1w", "T1ce", "T2w", "FLAIR")
RNG = np.random.default_rng(3)
#: scores of six subjects, in dB
BASE = RNG.normal(25, 2, 6)
NOISE = RNG.normal(0, 0.2, 6)


def score_rows(values: Mapping[str, Sequence[float]], protocol: str, cases: Sequence[str]) -> list[Score]:
    return [
        Score(case, "", "x", "FLAIR", protocol, own_region(protocol), metric, value)
        for metric, each in values.items()
        for case, value in zip(cases, each, strict=False)
    ]


def outcome_of(
    experiment: Experiment, scores: Mapping[Any, Mapping[str, Sequence[float]]], options: Options | None = None, **more: Any
) -> Outcome:
    """An outcome with scores by hand: row (a name, or (group, name)) -> metric -> a value a subject."""
    options = options or Options()
    cases = [f"P{i}" for i in range(20)]
    found = {}
    for key, values in scores.items():
        key = key if isinstance(key, tuple) else ("", key)
        found[key] = score_rows(values, experiment.protocol, cases) + score_rows({"psnr": [20, 22]}, "masked-volume", cases)
        if experiment.protocol == "masked-volume":
            found[key] = score_rows(values, experiment.protocol, cases)
    planned = tuple(plan(experiment, ALL, options))
    return Outcome(experiment, options, planned, found, more.pop("failed", {}), "brats: 6 cases of 6 subjects", **more)


def claims(*worse: str, metric: str = "psnr", **more: Any) -> dict[str, Any]:
    return {"says": "A is better", "better": "A", "worse": list(worse), "metric": metric, **more}


A, B, C = {"name": "A"}, {"name": "B"}, {"name": "C"}


def one(a: Sequence[float], b: Sequence[float], metric: str = "psnr") -> Verdict:
    """The verdict on A over B."""
    experiment = table(A, B, claims=[claims("B", metric=metric)])
    (found,) = verdicts(outcome_of(experiment, {"A": {metric: a}, "B": {metric: b}}))
    return found


# --- claims -------------------------------------------------------------------------------------------------------------


def test_p_is_scipys_and_corrected_over_all_comparisons() -> None:
    experiment = table(A, B, C, claims=[claims("B", "C"), claims("C", metric="mae")])
    scores = {
        name: {"psnr": BASE + shift + factor * NOISE, "mae": 0.1 + 0.01 * (shift + factor * NOISE)}
        for name, shift, factor in (("A", 0.3, 0), ("B", 0.0, 3), ("C", -0.2, 4))
    }
    found = verdicts(outcome_of(experiment, scores))
    assert [(each.against, each.claim.metric) for each in found] == [("B", "psnr"), ("C", "psnr"), ("C", "mae")]
    raw = [stats.ttest_rel(scores["A"][each.claim.metric], scores[each.against][each.claim.metric]).pvalue for each in found]
    order = np.argsort(raw)
    expected, largest = dict.fromkeys(range(3), 0.0), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, raw[index] * (3 - place)))
        expected[int(index)] = largest
    for number, each in enumerate(found):
        assert each.p == pytest.approx(expected[number], rel=1e-6) and each.subjects == 6
        gap = np.mean(scores["A"][each.claim.metric]) - np.mean(scores[each.against][each.claim.metric])
        assert each.difference == pytest.approx(gap)
    assert found[2].verdict in (REVERSED, AGAINST)  # a higher mae is worse


@pytest.mark.parametrize(
    ("metric", "shift", "spread", "n", "word"),
    [
        ("psnr", 1.0, 1, 6, HELD),
        ("psnr", 0.05, 3, 6, LEANING),
        ("psnr", -0.05, 3, 6, AGAINST),
        ("psnr", -1.0, 1, 6, REVERSED),
        ("mae", -1.0, 1, 6, HELD),
        ("mae", 1.0, 1, 6, REVERSED),
        ("psnr", 1.0, 1, 4, HELD),
        ("psnr", 1.0, 0.001, 3, LEANING),  # however small p is
        ("psnr", -1.0, 0.001, 3, AGAINST),
        ("psnr", 1.0, 0.001, 2, LEANING),
    ],
)
def test_words(metric: str, shift: float, spread: float, n: int, word: str) -> None:
    noise = NOISE - NOISE[:n].mean()
    found = one((BASE + shift + spread * noise)[:n], BASE[:n], metric)
    assert found.verdict == word and found.subjects == n and found.note == ""
    assert found.difference == pytest.approx(shift)
    if n < layout.FEWEST and spread < 1:
        assert found.p < 0.05


def test_what_cannot_be_tested_says_why() -> None:
    infinite = one([*BASE[:5], math.inf], BASE)
    assert infinite.verdict == UNKNOWN and "P5 is infinite or NaN" in infinite.note and math.isnan(infinite.difference)
    nan = one(BASE, [math.nan, *BASE[1:]])
    assert nan.verdict == UNKNOWN and "P0 is infinite or NaN" in nan.note
    alone = one(BASE[:1] + 1, BASE[:1])
    assert alone.verdict == UNKNOWN and "One subject" in alone.note and alone.difference == pytest.approx(1)
    rigid = one([1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5])
    assert rigid.verdict == UNKNOWN and "no spread" in rigid.note and rigid.difference == 1
    same = one(BASE, BASE)
    assert same.verdict == LEVEL and same.p == 1 and "identical" in same.note
    level = one([1, 2, 3, 4], [2, 1, 4, 3])
    assert level.verdict == LEVEL and level.p == 1 and level.note == ""


def test_a_row_without_scores_is_not_tested_and_does_not_count_in_the_correction() -> None:
    experiment = table(A, B, C, claims=[claims("B", "C")])
    scores = {"A": {"psnr": BASE + NOISE}, "B": {"psnr": BASE}}
    found = verdicts(outcome_of(experiment, scores))
    assert [each.verdict for each in found] == [found[0].verdict, UNKNOWN]
    assert found[1].note == "no scores of C here" and found[1].subjects == 0 and math.isnan(found[1].p)
    assert found[0].p == pytest.approx(stats.ttest_rel(BASE + NOISE, BASE).pvalue)
    # nor is one whose scores are of another metric
    other = verdicts(outcome_of(experiment, {**scores, "C": {"mae": BASE}}))
    assert other[1].verdict == UNKNOWN and other[1].note == "no scores of C here"


def test_subjects_of_one_row_alone_are_named() -> None:
    experiment = table(A, B, claims=[claims("B")])
    found = verdicts(outcome_of(experiment, {"A": {"psnr": BASE}, "B": {"psnr": BASE[:4] + NOISE[:4]}}))[0]
    assert found.subjects == 4 and found.note == "Left out, as only A has a score: P4, P5."
    apart = outcome_of(experiment, {"A": {"psnr": BASE[:2]}, "B": {"psnr": []}})
    rows = score_rows({"psnr": BASE[2:4]}, "masked-volume", ["P7", "P8"])
    none = verdicts(replace(apart, scores={**apart.scores, ("", "B"): rows}))[0]
    assert none.verdict == UNKNOWN and "No subject has both" in none.note


def test_groups() -> None:
    rows = [{"name": name, "group": group} for group in ("g1", "g2") for name in ("A", "B")] + [{"name": "C", "group": "g2"}]
    values = {
        ("g1", "A"): BASE + 1 + NOISE,
        ("g1", "B"): BASE,
        ("g2", "A"): BASE - 1 + NOISE,
        ("g2", "B"): BASE,
        ("g2", "C"): BASE - 3 + 2 * NOISE,
    }
    scores = {key: {"psnr": each} for key, each in values.items()}
    found = verdicts(outcome_of(table(*rows, claims=[claims("B", "C"), claims("B", group="g2")]), scores))
    assert [(each.group, each.against, each.verdict) for each in found] == [
        ("g1", "B", HELD),
        ("g2", "B", REVERSED),
        ("g2", "C", HELD),
        ("g2", "B", REVERSED),
    ]
    split = [{"name": "A", "group": "g1"}, {"name": "B", "group": "g2"}]
    (lost,) = verdicts(outcome_of(table(*split, claims=[claims("B")]), {}))
    assert (lost.verdict, lost.note) == (UNKNOWN, "no group has both rows")  # not passed over in silence


def test_sessions_are_one_subject() -> None:
    # without the rows' word, P1_a and P1_b would be two
    experiment = table(A, B, claims=[claims("B")])
    cases = [f"P{i}_{session}" for i in range(3) for session in "ab"]
    scores = {
        ("", name): score_rows({"psnr": each}, "masked-volume", cases)
        for name, each in (("A", [1, 3, 5, 7, 9, 13]), ("B", [0, 0, 1, 1, 2, 2]))
    }
    named = {key: [replace(row, subject=row.case[:2]) for row in rows] for key, rows in scores.items()}
    empty = outcome_of(experiment, {})
    outcome = replace(empty, scores=named)
    assert layout.values(outcome, ("", "A"), "psnr") == {"P0": 2.0, "P1": 6.0, "P2": 11.0}
    (found,) = verdicts(outcome)
    assert found.subjects == 3 and found.p == pytest.approx(stats.ttest_rel([2, 6, 11], [0, 1, 2]).pvalue)
    assert verdicts(replace(empty, scores=scores))[0].subjects == 6


# --- the table ----------------------------------------------------------------------------------------------------------

PAPER = {"psnr": [25.05, 1.325], "mae": 0.05}


def test_papers_numbers_beside_ours() -> None:
    experiment = table({**A, "paper": PAPER}, B, {"name": "REPLICA", "missing": "a forest", "paper": {"psnr": 21}})
    lines = layout.table(outcome_of(experiment, {"A": {"psnr": [20, 22, 27], "mae": [0.1]}}, failed={("", "B"): "out of memory"}))
    assert lines[0] == {
        "row": "A",
        "psnr, paper": "25.05 +- 1.32 dB",
        "psnr, here": f"23.00 +- {np.std([20, 22, 27], ddof=1):.2f} dB",
        "mae, paper": "0.0500",
        "mae, here": "0.1000",
        "note": "",
    }
    assert lines[1] == {**dict.fromkeys(lines[0], ""), "row": "B", "note": "not run: out of memory"}
    assert lines[2]["psnr, paper"] == "21.00 dB" and lines[2]["psnr, here"] == "" and lines[2]["note"] == "not run: a forest"


def test_one_column_is_comparable_over_tables() -> None:
    experiment = table(A, B, protocol="whole-volume")
    lines = layout.table(outcome_of(experiment, {"A": {"psnr": [30, 32], "mae": [0, 0]}}))
    assert lines[0]["psnr, here"] == "31.00 +- 1.41 dB" and lines[0]["masked-volume psnr"] == "21.00 +- 1.41 dB"
    assert lines[1]["masked-volume psnr"] == ""
    same = layout.table(outcome_of(table(A), {"A": {"psnr": [30], "mae": [0]}}))
    assert "masked-volume psnr" not in same[0]


def test_rows_that_were_not_asked_for() -> None:
    experiment = table(A, B, {"name": "REPLICA", "missing": "a forest"})
    lines = layout.table(outcome_of(experiment, {"A": {"psnr": [1], "mae": [1]}}, Options(only=("A",))))
    assert [line["note"] for line in lines] == ["", "not run: not asked for", "not run: a forest"]


def test_groups_and_special_values() -> None:
    experiment = table({**A, "group": "g"}, {**B, "group": "h"})
    lines = layout.table(outcome_of(experiment, {("g", "A"): {"psnr": [math.inf, 30], "mae": [math.nan, 1]}}))
    assert [line["group"] for line in lines] == ["g", "h"]
    assert lines[0]["psnr, here"] == "inf dB" and lines[0]["mae, here"] == "nan"


@pytest.mark.parametrize(
    ("more", "scores", "note"),
    [
        ({"metrics": ["psnr", "mse"]}, {"psnr": [1]}, "no mse: protocol masked-volume does not give it"),
        ({"protocol": "mafnet", "metrics": ["psnr"]}, {}, "no psnr: protocol mafnet could not be applied (no lesion label"),
        ({"metrics": ["psnr", "dice_WT"]}, {"psnr": [1]}, "no dice_WT: the method gives no segmentation, or the data bring none"),
    ],
)
def test_a_metric_that_a_row_lacks_is_told(more: dict[str, Any], scores: dict[str, list[float]], note: str) -> None:
    (line,) = layout.table(outcome_of(table(A, **more), {"A": scores}))
    assert line["note"].startswith(note)


def test_segmentation_has_its_own_protocol() -> None:
    experiment = table(A, B, metrics=["dice_WT"], protocol="mafnet", claims=[claims("B", metric="dice_WT")])
    rows = {
        ("", name): [Score(f"P{i}", "", "x", "segmentation", "brats-regions", "brain", "dice_WT", v) for i, v in enumerate(each)]
        for name, each in (("A", [0.8, 0.9, 0.7]), ("B", [0.5, 0.4, 0.6]))
    }
    outcome = replace(outcome_of(experiment, {}), scores=rows)
    lines = layout.table(outcome)
    assert lines[0]["dice_WT, here"] == "0.8000 +- 0.1000" and "masked-volume psnr" not in lines[0]
    assert verdicts(outcome)[0].verdict == LEANING


def test_rows_on_different_subjects_say_so() -> None:
    experiment = table(A, B, C)
    even = outcome_of(experiment, {"A": {"psnr": BASE, "mae": BASE}, "B": {"psnr": BASE, "mae": BASE}})
    assert "subjects" not in layout.table(even)[0]
    assert "Subjects scored: 6 (scored on the test part)." in layout.differences(even)
    uneven = outcome_of(experiment, {"A": {"psnr": BASE, "mae": BASE}, "B": {"psnr": BASE[:4], "mae": BASE[:4]}})
    assert [line["subjects"] for line in layout.table(uneven)] == ["6", "4", ""]
    text = " ".join(layout.differences(uneven))
    assert "Subjects scored: 4 to 6" in text and "Rows were scored on different subjects" in text
    assert [row["subjects"] for row in layout.as_data(uneven)["rows"]] == [6, 4, 0]


# --- words --------------------------------------------------------------------------------------------------------------


def test_differences_from_the_paper() -> None:
    experiment = table(A, training="300 epochs", notes=["Ours has no skull."])
    scores = {"A": {"psnr": BASE, "mae": BASE}}
    lines = layout.differences(outcome_of(experiment, scores, Options(substitute={"T2w": "T1ce"}, seed=4)))
    assert lines == [
        "Data: brats: 6 cases of 6 subjects; the paper: none.",
        "Subjects scored: 6 (scored on the test part).",
        "Training: preset fast, 6 minutes of training a cell; the paper: 300 epochs. Seed 4.",
        "The table's T2w is T1ce here.",
        "Ours has no skull.",
    ]
    for options, words in (
        (Options(minutes=2), "preset fast, 2 minutes a cell"),
        (Options("paper", steps=9), "preset paper, 9 steps a cell"),
        (Options("tiny"), "nothing about the methods"),
        (Options(folds=3, part="held-out"), "3 folds, every subject tested once"),
        (Options(part="held-out"), "the best weights were chosen on the former"),
        (Options(part="validation"), "The best weights were chosen on the subjects that are scored"),
        (Options(part="train"), "were trained on the subjects that are scored"),
        (Options(part="all"), "were trained on most of the subjects"),
    ):
        text = " ".join(layout.differences(outcome_of(experiment, scores, options)))
        assert words in text
        assert ("former" in text) == (options.part == "held-out" and not options.folds)
    assert "Subjects scored: 0" in " ".join(layout.differences(outcome_of(experiment, {})))


def test_summary() -> None:
    experiment = table(A, B, C, claims=[claims("B", "C"), claims("C", metric="mae")])
    scores = {"A": {"psnr": BASE + 1 + NOISE, "mae": BASE}, "B": {"psnr": BASE}}
    text = layout.summary(outcome_of(experiment, scores))
    assert text == "3 comparisons: 1 held, 2 not tested. With 6 subjects a test can show large differences alone."
    assert layout.summary(outcome_of(table(A), {})) == "The paper states no order here."
    many = {"A": {"psnr": np.arange(12.0)}, "B": {"psnr": np.arange(12.0)}}
    assert layout.summary(outcome_of(table(A, B, claims=[claims("B")]), many)) == "1 comparison: 1 no difference."


def test_claim_table() -> None:
    experiment = table(A, B, C, claims=[claims("B", paper=True), claims("C", metric="mae", paper=False), claims("C")])
    lines = layout.claim_table(outcome_of(experiment, {"A": {"psnr": BASE + 1 + NOISE}, "B": {"psnr": BASE}}))
    assert [line["paper's numbers"] for line in lines] == ["yes", "no", "not known"]
    assert lines[0]["comparison"] == "A over B" and lines[0]["here"] == HELD and lines[0]["p (Holm)"].startswith("p ")
    assert lines[1]["difference here"] == "" and lines[1]["p (Holm)"] == "p n/a" and lines[1]["note"] == "no scores of A, C here"


def test_markdown_is_a_table(tmp_path: Path) -> None:
    experiment = table(
        {**A, "paper": PAPER}, {"name": "a|b *", "missing": "one\ntwo"}, claims=[claims("a|b *")], about="What it is."
    )
    outcome = outcome_of(experiment, {"A": {"psnr": [1, 2], "mae": [1, 2]}})
    path = layout.write(outcome, tmp_path / "out", "synthmr experiment run own")
    text = path.read_text()
    assert path == tmp_path / "out" / "table.md"
    assert text.startswith(
        "# Hi-Net (Zhou et al., IEEE TMI 2020), Table X: for tests\n\nWhat it is.\n\n    synthmr experiment run own\n"
    )
    for word in ("Protocol masked-volume (synthmr)", "- Data: brats", "## Claims", r"a\|b \*", "not run: one two", "not tested"):
        assert word in text
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 2
    for block in blocks:
        assert len({line.replace("\\|", "").count("|") for line in block}) == 1
    assert "## Claims" not in layout.markdown(outcome_of(table(A), {}))


def test_json_has_no_nan(tmp_path: Path) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    experiment = table({**A, "paper": PAPER}, B, C, claims=[claims("B", "C")])
    scores = {"A": {"psnr": [math.inf, 2], "mae": [1]}, "B": {"psnr": [math.nan, 2]}}
    layout.write(outcome_of(experiment, scores, failed={("", "C"): "full disk"}), tmp_path)
    data = json.loads((tmp_path / "table.json").read_text(), parse_constant=refuse)
    assert data["rows"][0]["paper"] == {"psnr": [25.05, 1.325], "mae": [0.05, None]}
    assert data["rows"][0]["here"] == {"psnr": ["inf", "nan"], "mae": [1.0, "nan"]}
    assert data["rows"][2] == {"group": "", "row": "C", "paper": {}, "here": {}, "subjects": 0, "note": "not run: full disk"}
    assert [(each["worse"], each["p"], each["verdict"]) for each in data["claims"]] == [
        ("B", "nan", UNKNOWN),
        ("C", "nan", UNKNOWN),
    ]
    assert data["experiment"] == "own" and data["protocol"] == "masked-volume" and data["summary"].startswith("2 comparisons")


def test_the_paper_alone() -> None:
    experiment = table(
        {**A, "paper": PAPER, "method": "milr", "inputs": ["T1w"], "set": ["options.fusion=mean"]},
        {"name": "REPLICA", "missing": "a forest", "paper": {"psnr": 21}},
    )
    lines = layout.paper_table(experiment)
    assert lines[0] == {
        "row": "A",
        "psnr": "25.05 +- 1.32 dB",
        "mae": "0.0500",
        "runs": "milr T1w, T2w -> FLAIR from T1w",
        "set": "train.images=false options.fusion=mean",
    }
    assert lines[1]["runs"] == "not run: a forest" and lines[1]["mae"] == ""
    assert layout.filled([]) == []
