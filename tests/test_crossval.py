"""Cross-validation: stored folds of whole subjects, each tested once, interrupted and resumed, never mixed with other settings."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiment_data import Watch, config, make_cohort, one_line
from synthmr import pipeline
from synthmr.config import RunConfig
from synthmr.errors import DataError, UsageError
from synthmr.experiment.crossval import cross_validate
from synthmr.reading import Reading
from synthmr.run import RunFolder

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five subjects, and P06, which has no T1ce. Read only."""
    return make_cohort(tmp_path_factory.mktemp("cv") / "cohort", lacking={"P06": ("T1ce",)})


def validate(data: Path, out: Path, cache: Path, k: int = 3, one: RunConfig | None = None, **more: Any) -> tuple[list[Any], Watch]:
    watch = Watch()
    return cross_validate(one or config(), data, out, k, cache=cache, **watch.words, **more), watch


@pytest.fixture(scope="module")
def done(data: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished one of three folds. Read only."""
    out = tmp_path_factory.mktemp("done") / "cv"
    validate(data, out, cache)
    return out


def table_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


class Called(Exception):
    """Raised in place of work that must not be done."""


def refuse(*_: Any, **__: Any) -> None:
    raise Called


def test_how_segmentations_are_read_is_said_and_can_be_said(cache: Path, tmp_path: Path) -> None:
    data = make_cohort(tmp_path / "data", 4, labels=True)
    how: dict[str, Any] = {"k": 2, "protocols": ["mafnet"]}
    rows, watch = validate(data, tmp_path / "cv", cache, labels="lesion", **how)
    said = [line for line in watch.said if line.startswith("segmentations:")]
    assert len(said) == 2 and all("read as lesion" in line and "lesion " in line for line in said)
    assert len({row.case for row in rows}) == 4
    with pytest.raises(UsageError, match="unknown label convention 'nothing'"):
        validate(data, tmp_path / "other", cache, labels="nothing", **how)
    assert not (tmp_path / "other").exists()  # before anything is trained


def test_every_subject_is_tested_once(done: Path) -> None:
    splits = [RunFolder.open(done / f"fold-{fold}" / "run").split for fold in (1, 2, 3)]
    tested = [name for split in splits for name in split.test]
    assert sorted(tested) == [f"P0{i}" for i in range(1, 7)]
    for split in splits:
        assert sorted(split.names) == sorted(tested) and split.train and split.validation
    rows = table_of(done / "metrics.csv")
    assert sorted(row["case"] for row in rows if row["metric"] == "psnr") == sorted(tested)
    for fold, split in enumerate(splits, 1):
        (path,) = (done / f"fold-{fold}").glob("scores-*.csv")
        assert {row["case"] for row in table_of(path)} == set(split.test)
    assert not list(done.rglob("lock*"))


def test_second_call_trains_nothing_and_keeps_the_folds(
    done: Path, data: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {name: (done / name).read_bytes() for name in ("folds.tsv", "metrics.csv", "crossval.json")}
    for name in ("train", "evaluate", "prepared"):
        monkeypatch.setattr(pipeline, name, refuse)
    # from another folder, so by another path
    monkeypatch.chdir(data.parent)
    rows, watch = validate(Path(data.name), done, cache)
    assert watch.trained == [] and len(rows) == len(table_of(done / "metrics.csv"))
    assert {name: (done / name).read_bytes() for name in kept} == kept


def test_another_protocol_scores_again_and_trains_nothing(
    done: Path, data: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "train", refuse)
    before = (done / "metrics.csv").read_bytes()
    rows, _ = validate(data, done, cache, protocols=["whole-volume"])
    assert {row.protocol for row in rows} == {"whole-volume"} and len({row.case for row in rows}) == 6
    validate(data, done, cache)  # the first scores are still there
    assert (done / "metrics.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("k", "changes", "words"),
    [
        (2, {}, "holds 3 folds and 2 were asked for; give --folds 3"),
        (3, {"seed": 1}, "config.seed was 0 and is 1"),
        (3, {"sources": ("T2w",)}, r"config.sources was \['T1w', 'T2w'\] and is \['T2w'\]"),
        (3, {"method": "copy"}, "config.method was 'linear' and is 'copy'"),
    ],
)
def test_other_settings_are_refused(done: Path, data: Path, cache: Path, k: int, changes: dict[str, Any], words: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*")}
    with pytest.raises(UsageError, match=words) as error:
        validate(data, done, cache, k, replace(config(), **changes))
    assert "another --out" in one_line(error.value)
    with pytest.raises(UsageError, match="data was"):
        validate(data.parent, done, cache)
    with pytest.raises(UsageError, match="aliases was"):
        validate(data, done, cache, reading=Reading(aliases=("t1km=T1ce",)))
    assert {path: path.stat().st_mtime_ns for path in done.rglob("*")} == before


@pytest.mark.parametrize(
    ("k", "words", "kind"), [(7, "7 folds need 7 subjects or more, there are 6", DataError), (1, "2 or more", UsageError)]
)
def test_wrong_numbers_of_folds(data: Path, cache: Path, tmp_path: Path, k: int, words: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=words) as error:
        validate(data, tmp_path / "cv", cache, k)
    one_line(error.value)
    assert not (tmp_path / "cv").exists()


def test_a_wrong_protocol_is_told_before_training(data: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "prepared", refuse)
    with pytest.raises(UsageError, match="did you mean masked-volume"):
        validate(data, tmp_path / "cv", cache, protocols=["maskd-volume"])
    assert not (tmp_path / "cv").exists()


def test_a_store_is_refused(data: Path, cache: Path, tmp_path: Path) -> None:
    pipeline.prepared(data, config(), cache=cache, out=tmp_path / "store")
    with pytest.raises(UsageError, match="prepared store"):
        validate(tmp_path / "store", tmp_path / "cv", cache)
    assert not (tmp_path / "cv").exists()


def test_the_split_of_the_data_is_told_and_not_used(cache: Path, tmp_path: Path) -> None:
    parts = {"P01": "train", "P02": "train", "P03": "validation", "P04": "test"}
    data = make_cohort(tmp_path / "data", 4, splits=parts)
    rows, watch = validate(data, tmp_path / "cv", cache, 2)
    assert any("the data bring a split" in line for line in watch.said)
    assert sorted({row.case for row in rows}) == ["P01", "P02", "P03", "P04"]


def test_cases_that_lack_a_contrast_are_told(data: Path, cache: Path, tmp_path: Path) -> None:
    rows, watch = validate(data, tmp_path / "cv", cache, 2, config("linear", "T1w,T1ce"))
    assert [line for line in watch.said if line.startswith("left out")] == ["left out: P06: has no T1ce"]
    assert sorted({row.case for row in rows}) == [f"P0{i}" for i in range(1, 6)]
    assert not any("bring a split" in line for line in watch.said)


def test_sessions_stay_together(cache: Path, tmp_path: Path) -> None:
    data = make_cohort(tmp_path / "data", 4, sessions=2)
    rows, _ = validate(data, tmp_path / "cv", cache, 4)
    assert len({row.case for row in rows}) == 8
    for fold in range(1, 5):
        test = RunFolder.open(tmp_path / "cv" / f"fold-{fold}" / "run").split.test
        assert len(test) == 2 and len({name[:3] for name in test}) == 1


def test_an_interrupted_one_goes_on(data: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, real = tmp_path / "cv", pipeline.train

    def fail_second(one: RunConfig, *words: Any, **more: Any) -> Any:
        if "fold-2" in str(words[2]):
            raise DataError("no space")
        return real(one, *words, **more)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "train", fail_second)
        with pytest.raises(DataError, match="no space"):
            validate(data, out, cache)
    assert not (out / "metrics.csv").exists() and not list(out.rglob("lock"))
    folds = (out / "folds.tsv").read_bytes()
    rows, watch = validate(data, out, cache)
    assert watch.trained == ["linear, fold 2 of 3", "linear, fold 3 of 3"]
    assert (out / "folds.tsv").read_bytes() == folds and len({row.case for row in rows}) == 6


def test_a_fold_of_another_process_is_left_to_it(data: Path, cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "cv"
    lock = out / "fold-2" / "lock"
    lock.parent.mkdir(parents=True)
    lock.write_text("elsewhere 12")
    with pytest.raises(DataError, match="fold 2 of 3: another process is at work on it") as error:
        validate(data, out, cache)
    assert str(lock) in one_line(error.value)
    assert (out / "fold-3" / "run" / "run.json").is_file() and not (out / "metrics.csv").exists()
    lock.unlink()
    rows, watch = validate(data, out, cache)
    assert watch.trained == ["linear, fold 2 of 3"] and len({row.case for row in rows}) == 6


def test_folds_that_were_changed_are_refused(data: Path, cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "cv"
    validate(data, out, cache)
    path = out / "folds.tsv"
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    one = next(line for line in lines[1:] if line[1] == "1")
    two = next(line for line in lines[1:] if line[1] == "2")
    one[1], two[1], one[3], two[3] = two[1], one[1], two[3], one[3]
    path.write_text("\n".join("\t".join(line) for line in lines) + "\n")
    with pytest.raises(DataError, match="trained on another split"):
        validate(data, out, cache)


def test_a_damaged_note_is_told(data: Path, cache: Path, tmp_path: Path) -> None:
    note = tmp_path / "crossval.json"
    for text, words in (("{", "cannot be read as JSON"), ("[]", "no JSON object")):
        note.write_text(text)
        with pytest.raises(DataError, match=words) as error:
            validate(data, tmp_path, cache)
        one_line(error.value)
    note.write_text(json.dumps({"data": str(data)}))  # of an older version, which noted less
    validate(data, tmp_path, cache, 2)
    assert json.loads(note.read_text())["config"]["method"] == "linear"
