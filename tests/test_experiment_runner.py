"""A table, run: what is planned and why not, one training a configuration, rows on the same subjects, failures that stop nobody."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiment_data import PARTS, SMALL, Live, Watch, make_cohort, one_line, table
from synthmr import pipeline
from synthmr.errors import DataError, UsageError
from synthmr.evaluate.scores import read_scores
from synthmr.experiment import runner
from synthmr.experiment.runner import Options, Outcome, plan, run, substitutions
from synthmr.experiment.spec import Experiment
from synthmr.reading import Reading
from synthmr.run import RunFolder

ALL = ("T1w", "T1ce", "T2w", "FLAIR")
#: two rows that need no steps
LINEAR, COPY = {"name": "linear"}, {"name": "copy", "method": "copy"}
TWO = table(LINEAR, COPY)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven subjects without a split, of which P02 and P05 have no T1ce. Read only."""
    return make_cohort(tmp_path_factory.mktemp("uneven") / "cohort", 7, lacking={"P02": ("T1ce",), "P05": ("T1ce",)})


class Called(Exception):
    """Raised in place of work that must not be done."""


def refuse(*_: Any, **__: Any) -> None:
    raise Called


def go(
    experiment: Experiment, data: Path | None, out: Path, cache: Path, watch: Watch | None = None, **options: Any
) -> tuple[Outcome, Watch]:
    watch = watch or Watch()
    return run(experiment, data, out, Options(cache=cache, **options), **watch.words), watch


def cases_of(outcome: Outcome) -> dict[str, list[str]]:
    """Row -> its cases."""
    return {name: sorted({row.case for row in rows}) for (_, name), rows in outcome.scores.items()}


# --- options and plans --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale": "smal"}, "did you mean small"),
        ({"part": "tset"}, "did you mean test"),
        ({"folds": 1}, "give 2 or more"),
        ({"folds": -2}, "give 2 or more"),
        ({"minutes": 1.0, "steps": 1}, "give one"),
    ],
)
def test_wrong_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        Options(**options)
    one_line(error.value)


def test_budgets() -> None:
    assert Options().budget == {"minutes": 6.0} and Options("tiny").budget == {"steps": 30} and Options("paper").budget == {}
    assert Options("paper", minutes=2).budget == {"minutes": 2} and Options(steps=7).budget == {"steps": 7}


def test_substitutions() -> None:
    assert substitutions(["DWI=t1c", "t1=PD"]) == {"DWI": "T1ce", "T1w": "PDw"}
    assert substitutions(["DWI=mine"], ["mine=T1rho"]) == {"DWI": "T1rho"}
    for word, expected in (("DWI", "write TABLE=DATA"), ("DWI=T9", "unknown contrast 'T9'"), ("T9=DWI", "unknown contrast")):
        with pytest.raises(UsageError, match=expected):
            substitutions([word])


def test_plan_says_why_a_row_is_not_run() -> None:
    experiment = table(
        LINEAR,
        {"name": "REPLICA", "missing": "a forest, not in the box"},
        {"name": "dwi", "sources": ["DWI", "PDw"]},
        {"name": "more", "method": "milr", "extend": "DWI"},
    )
    planned = plan(experiment, ALL, Options())
    assert [each.reason for each in planned] == [
        "",
        "a forest, not in the box",
        "the data have no DWI, PDw",
        "the data have no DWI",
    ]
    assert [each.config is None for each in planned] == [False, True, True, True]


def test_a_contrast_stands_for_another() -> None:
    experiment = table(
        {"name": "a", "method": "milr", "sources": ["T1w", "DWI"], "inputs": ["DWI"]},
        {"name": "b", "method": "milr", "target": ["T2w", "DWI"], "sources": ["T1w"], "score": "DWI"},
        {"name": "c", "method": "milr", "extend": "DWI"},
        {"name": "d", "sources": ["T1w", "T1ce"], "target": "DWI"},
    )
    a, b, c, d = plan(experiment, ALL, Options(substitute={"DWI": "T1ce"}))
    assert a.config.sources == ("T1w", "T1ce") and a.row.inputs == ("T1ce",)
    assert b.config.targets == ("T2w", "T1ce") and b.row.scored == "T1ce"
    assert c.row.extend == "T1ce" and c.config.targets == ("FLAIR",) and c.row.scored == "T1ce"
    assert d.config is None and "would be source and target" in d.reason
    for old in ("PDw", "FLAR"):
        with pytest.raises(UsageError, match=f"--substitute {old}: own has no such contrast"):
            plan(experiment, ALL, Options(substitute={old: "T1ce"}))


def test_a_contrast_of_ones_own_can_stand_for_another() -> None:
    options = Options(substitute=substitutions(["T2w=mine"], ["mine=T1rho"]), reading=Reading(aliases=("mine=T1rho",)))
    (planned,) = plan(table(LINEAR), ("T1w", "T1rho", "FLAIR"), options)
    assert planned.config.sources == ("T1w", "T1rho")


def test_only_some_rows() -> None:
    assert [each.row.name for each in plan(TWO, ALL, Options(only=("copy",)))] == ["copy"]
    with pytest.raises(UsageError, match="own has no row 'linaer': did you mean linear"):
        plan(TWO, ALL, Options(only=("linaer",)))


def test_presets_and_budgets_of_rows() -> None:
    experiment = table({"name": "a", "method": "imt", "presets": {"paper": "pix2pix"}}, LINEAR)
    assert [each.config.preset for each in plan(experiment, ALL, Options("paper"))] == ["pix2pix", "paper"]
    small = [each.config for each in plan(experiment, ALL, Options(steps=9))]
    assert [(one.preset, one.train.steps) for one in small] == [("fast", 9), ("fast", 0)]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"set": ["options.degre=2"]}, "did you mean options.degree"),
        ({"method": "linaer"}, "did you mean linear"),
        ({"presets": {"small": "fats"}}, "did you mean fast"),
        ({"plane": "axail"}, "did you mean axial"),
        ({"inputs": ["T1w"]}, "linear needs all of its sources"),
        ({"extend": "T1ce"}, "linear cannot be extended"),
    ],
)
def test_rows_that_their_method_cannot_run_are_told_before_training(row: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        plan(table({"name": "odd", **row}), ALL, Options())
    assert "row odd" in one_line(error.value)


# --- running ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ran(data: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`TWO`, run. Read only."""
    out = tmp_path_factory.mktemp("ran") / "out"
    go(TWO, data, out, cache)
    return out


def test_rows_are_scored_under_both_protocols(ran: Path, data: Path, cache: Path) -> None:
    outcome, watch = go(table(LINEAR, COPY, protocol="whole-volume"), data, ran, cache)
    assert watch.trained == []  # another protocol scores again, and trains nothing
    for rows in outcome.scores.values():
        assert {row.protocol for row in rows} == {"whole-volume", "masked-volume"}
    assert cases_of(outcome) == {"linear": ["P05", "P06"], "copy": ["P05", "P06"]}
    assert outcome.data == "cohort: 6 cases of 6 subjects" and outcome.failed == {}
    rows = read_scores(ran / "scores.csv")
    assert {row.method for row in rows} == {"linear", "copy"}
    psnr = {row.method: row.value for row in rows if (row.case, row.metric) == ("P05", "psnr")}
    assert psnr["linear"] > psnr["copy"]  # the cohort's FLAIR is linear in T1w and T2w


def test_second_run_does_nothing(ran: Path, data: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = go(TWO, data, ran, cache)
    times = {path: path.stat().st_mtime_ns for path in ran.rglob("run/**/*")}
    assert times
    for name in ("train", "evaluate", "prepared"):
        monkeypatch.setattr(pipeline, name, refuse)
    monkeypatch.chdir(data.parent)
    again, watch = go(TWO, Path(data.name), ran, cache, only=("copy", "linear"))
    assert again.scores == first.scores and watch.trained == []
    assert {path: path.stat().st_mtime_ns for path in ran.rglob("run/**/*")} == times


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seed": 1}, "options.seed was 0 and is 1"),
        ({"scale": "tiny"}, "options.scale was 'small' and is 'tiny'"),
        ({"folds": 2}, "options.folds was 0 and is 2"),
        ({"part": "held-out"}, "options.part was 'test' and is 'held-out'"),
        ({"steps": 3}, "options.steps was None and is 3"),
        ({"minutes": 1.5}, "options.minutes was None and is 1.5"),
        ({"substitute": {"T2w": "T1ce"}}, "options.substitute.T2w was None and is 'T1ce'"),
        ({"reading": Reading(aliases=("mine=T1rho",))}, "options.aliases was"),
    ],
)
def test_a_folder_of_other_settings_is_refused(ran: Path, data: Path, cache: Path, options: dict[str, Any], words: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in ran.rglob("*")}
    with pytest.raises(UsageError, match=words) as error:
        go(TWO, data, ran, cache, **options)
    assert "another --out" in one_line(error.value)
    assert {path: path.stat().st_mtime_ns for path in ran.rglob("*")} == before


def test_a_folder_of_another_table_or_data_is_refused(ran: Path, data: Path, uneven: Path, cache: Path) -> None:
    with pytest.raises(UsageError, match="experiment was 'own' and is 'mine'"):
        go(replace(TWO, name="mine"), data, ran, cache)
    with pytest.raises(UsageError, match="data was"):
        go(TWO, uneven, ran, cache)


def test_changed_cases_or_splits_are_refused(cache: Path, tmp_path: Path) -> None:
    data, out = make_cohort(tmp_path / "data", splits=PARTS), tmp_path / "out"
    go(table(COPY), data, out, cache)
    table_file = data / "splits.tsv"
    table_file.write_text(table_file.read_text().replace("P04\tvalidation", "P04\ttest").replace("P05\ttest", "P05\tvalidation"))
    outcome, watch = go(TWO, data, out, cache)
    assert "another split" in outcome.failed["", "copy"] and watch.trained == ["linear"]  # copy is not scored on what it learnt
    make_cohort(data, 7)
    with pytest.raises(UsageError, match="cases was"):
        go(table(COPY), data, out, cache)


def test_one_configuration_trains_once(data: Path, cache: Path, tmp_path: Path) -> None:
    small = {"method": "milr", "set": list(SMALL)}
    experiment = table(
        {"name": "both", **small},
        {"name": "T1w alone", "inputs": ["T1w"], **small},
        {"name": "coronal", "plane": "coronal", **small},
        {"name": "again", "group": "other", **small},
    )
    outcome, watch = go(experiment, data, tmp_path, cache, steps=1)
    assert watch.trained == ["both"] and len(list((tmp_path / "cells").iterdir())) == 1
    assert len(list(tmp_path.rglob("scores-*.csv"))) == 3
    values = {name: [row.value for row in rows if row.metric == "psnr"] for (_, name), rows in outcome.scores.items()}
    assert values["both"] == values["again"] and len({tuple(each) for each in values.values()}) == 3
    assert {row.method for row in outcome.scores["other", "again"]} == {"other: again"}


def test_an_interrupted_table_goes_on(data: Path, cache: Path, tmp_path: Path) -> None:
    experiment = table(LINEAR, {"name": "net", "method": "milr", "set": list(SMALL)})
    watch = Watch(live=Live(stop_at=2))
    with pytest.raises(KeyboardInterrupt):
        go(experiment, data, tmp_path, cache, watch, steps=3)
    assert watch.trained == ["linear", "net"] and not list(tmp_path.rglob("lock"))
    outcome, again = go(experiment, data, tmp_path, cache, steps=3)
    assert again.trained == ["net"] and again.live.steps == [2, 3] and len(outcome.scores) == 2


def test_a_row_that_fails_stops_nobody(data: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pipeline.train

    def odd(one: Any, *words: Any, **more: Any) -> Any:
        if one.method == "linear" and one.options.degree < 4:
            raise {
                1: DataError("the loss\nis nan"),
                2: MemoryError("no room"),
                3: RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
            }[one.options.degree]
        return real(one, *words, **more)

    monkeypatch.setattr(pipeline, "train", odd)
    rows = [{"name": f"degree {degree}", "set": [f"options.degree={degree}"]} for degree in (1, 2, 3, 4)]
    outcome, watch = go(table(*rows), data, tmp_path, cache)
    assert list(outcome.scores) == [("", "degree 4")] and not list(tmp_path.rglob("lock"))
    assert outcome.failed["", "degree 1"] == "the loss is nan"
    assert outcome.failed["", "degree 2"] == "out of memory (no room)"
    assert outcome.failed["", "degree 3"].startswith("out of memory (CUDA out of memory. Tried")
    assert "  left out: the loss is nan" in watch.said


def test_a_fault_of_the_program_is_not_hidden(data: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(pipeline, "train", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        go(TWO, data, tmp_path, cache)


def test_rows_that_cannot_be_run_are_told(data: Path, cache: Path, tmp_path: Path) -> None:
    missing = {"name": "REPLICA", "missing": "a forest, not in the box"}
    outcome, watch = go(table(LINEAR, missing, {"name": "dwi", "sources": ["DWI"]}), data, tmp_path, cache)
    assert watch.said[1:] == [
        "Table X row 2 of 3: REPLICA: not run: a forest, not in the box",
        "Table X row 3 of 3: dwi: not run: the data have no DWI",
    ]
    assert len(outcome.planned) == 3 and list(outcome.scores) == [("", "linear")] and outcome.failed == {}


def test_a_cell_of_another_process_is_left_to_it(data: Path, cache: Path, tmp_path: Path) -> None:
    go(TWO, data, tmp_path, cache)
    (folder,) = (tmp_path / "cells").glob("copy-*")
    (folder / "lock").write_text("elsewhere 12")
    outcome, _ = go(TWO, data, tmp_path, cache)
    assert list(outcome.scores) == [("", "linear")]
    assert "another process is at work on it" in outcome.failed["", "copy"] and str(folder / "lock") in outcome.failed["", "copy"]
    (folder / "lock").unlink()
    assert len(go(TWO, data, tmp_path, cache)[0].scores) == 2


def test_no_row_can_be_run(data: Path, cache: Path, tmp_path: Path) -> None:
    experiment = table({"name": "a", "sources": ["DWI"]}, {"name": "b", "missing": "no"}, {"name": "c", "sources": ["DWI"]})
    with pytest.raises(DataError, match=r"no row of own can be run on .*: the data have no DWI; no\.") as error:
        go(experiment, data, tmp_path / "out", cache)
    one_line(error.value)
    assert not (tmp_path / "out").exists()


def test_an_empty_part_is_told_before_training(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_cohort(tmp_path / "data", 3, splits={"P01": "train", "P02": "train", "P03": "validation"})
    monkeypatch.setattr(pipeline, "prepared", refuse)
    with pytest.raises(DataError, match=r"has no test case by .*give another --part, or --folds K"):
        go(TWO, data, tmp_path / "out", cache)
    monkeypatch.undo()
    outcome, _ = go(TWO, data, tmp_path / "out", cache, part="held-out")
    assert cases_of(outcome) == {"linear": ["P03"], "copy": ["P03"]}


def test_a_store_is_refused(data: Path, cache: Path, tmp_path: Path) -> None:
    pipeline.prepared(data, plan(TWO, ALL, Options())[0].config, cache=cache, out=tmp_path / "store")
    with pytest.raises(UsageError, match="prepared store"):
        go(TWO, tmp_path / "store", tmp_path / "out", cache)


def test_data_are_needed_but_for_the_phantom(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for scale in ("small", "paper"):
        with pytest.raises(UsageError, match=f"scale {scale} needs DATA"):
            go(TWO, None, tmp_path / "out", cache, scale=scale)
    assert not (tmp_path / "out").exists()
    made = []

    def phantom(out: Path, *words: Any, progress: Any) -> None:
        made.append(words)
        make_cohort(out, 4)

    monkeypatch.setattr(pipeline, "phantom", phantom)
    outcome, watch = go(table(COPY), None, tmp_path / "out", cache, scale="tiny")
    assert watch.shown[0] == "phantom" and outcome.data == "phantom: 4 cases of 4 subjects"
    assert made == [(*runner.PHANTOM[:1], 0, runner.PHANTOM[1], 3.0)]
    assert len(outcome.scores["", "copy"]) == 6
    again, watch = go(table(COPY), None, tmp_path / "out", cache, scale="tiny")
    assert len(made) == 1 and "phantom" not in watch.shown and again.scores == outcome.scores


# --- splits and folds ---------------------------------------------------------------------------------------------------

MIXED = table({"name": "T2w"}, {"name": "T1ce", "sources": ["T1w", "T1ce"]})


def test_rows_with_different_contrasts_are_tested_on_the_same_subjects(uneven: Path, cache: Path, tmp_path: Path) -> None:
    outcome, watch = go(MIXED, uneven, tmp_path, cache, seed=2)
    found = cases_of(outcome)
    assert found["T2w"] == found["T1ce"] and not {"P02", "P05"} & set(found["T2w"])
    assert [line for line in watch.said if "left out" in line] == ["left out: P02: has no T1ce, P05: has no T1ce"]
    # every case would be in a split of the first row alone
    alone, _ = go(table({"name": "T2w"}), uneven, tmp_path / "alone", cache, seed=2)
    used = [
        set(RunFolder.open(next((folder / "cells").glob("linear-*")) / "run").split.names)
        for folder in (tmp_path, tmp_path / "alone")
    ]
    assert len(used[0]) == 5 and len(used[1]) == 7 and cases_of(alone)


def test_one_row_at_a_time_is_tested_on_the_subjects_of_all(uneven: Path, cache: Path, tmp_path: Path) -> None:
    for folds in (0, 2):
        out = tmp_path / str(folds)
        one, _ = go(MIXED, uneven, out, cache, only=("T2w",), folds=folds)
        both, watch = go(MIXED, uneven, out, cache, folds=folds)
        assert cases_of(one)["T2w"] == cases_of(both)["T2w"] == cases_of(both)["T1ce"]
        assert [title[:4] for title in watch.trained] == ["T1ce"] * max(folds, 1)


def test_rows_that_no_case_has_in_common(cache: Path, tmp_path: Path) -> None:
    lacking = {f"P0{i}": ("T1ce",) if i < 4 else ("T2w",) for i in range(1, 7)}
    data = make_cohort(tmp_path / "data", lacking=lacking)
    outcome, watch = go(MIXED, data, tmp_path / "out", cache)
    assert any(line.startswith("rows have splits of their own") for line in watch.said)
    assert set(cases_of(outcome)["T2w"]) <= {"P01", "P02", "P03"} and set(cases_of(outcome)["T1ce"]) <= {"P04", "P05", "P06"}
    with pytest.raises(DataError, match=r"no case of .* has all of"):
        go(MIXED, data, tmp_path / "folds", cache, folds=2)


def test_folds_test_every_subject_once_in_every_row(uneven: Path, cache: Path, tmp_path: Path) -> None:
    outcome, watch = go(MIXED, uneven, tmp_path, cache, folds=2)
    assert watch.trained == [f"{row}, fold {fold} of 2" for row in ("T2w", "T1ce") for fold in (1, 2)]
    for rows in outcome.scores.values():
        assert sorted(row.case for row in rows if row.metric == "psnr") == ["P01", "P03", "P04", "P06", "P07"]
    folds = {row["case"]: row["fold"] for row in csv.DictReader((tmp_path / "folds.tsv").read_text().splitlines(), delimiter="\t")}
    for folder in (tmp_path / "cells").iterdir():
        for fold in "12":
            test = RunFolder.open(folder / f"fold-{fold}" / "run").split.test
            assert {folds[name] for name in test} == {fold}
    again, watch = go(MIXED, uneven, tmp_path, cache, folds=2)
    assert watch.trained == [] and again.scores == outcome.scores


def test_folds_ignore_the_split_of_the_data_and_keep_sessions_together(cache: Path, tmp_path: Path) -> None:
    data = make_cohort(tmp_path / "data", 4, sessions=2)
    outcome, _ = go(table(COPY), data, tmp_path / "out", cache, folds=4)
    assert len(cases_of(outcome)["copy"]) == 8 and outcome.data == "data: 8 cases of 4 subjects"
    assert {row.subject for rows in outcome.scores.values() for row in rows if row.case == "P03_visit2"} == {"P03"}


def test_more_folds_than_subjects(data: Path, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="7 folds need 7 subjects") as error:
        go(TWO, data, tmp_path / "out", cache, folds=7)
    one_line(error.value)
    assert not (tmp_path / "out").exists()


def test_the_note_holds_what_decides_the_scores(ran: Path, data: Path) -> None:
    note = json.loads((ran / "experiment.json").read_text())
    assert note["experiment"] == "own" and note["cases"] == [f"P0{i}" for i in range(1, 7)]
    assert Path(note["data"]) == data.resolve() and note["options"]["scale"] == "small"
