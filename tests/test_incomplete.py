"""Runs on cohorts whose cases lack contrasts, and runs in which a contrast goes in and comes out."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import synthmr
from synthmr import pipeline
from synthmr.data.phantom import make_phantom
from synthmr.data.reader import Reader
from synthmr.data.sampling import Sampler
from synthmr.data.store import Store
from synthmr.errors import DataError, UsageError
from synthmr.experiment.subsets import score_subsets
from synthmr.run import RunFolder

SUBJECTS = 8
SMALL = ["options.filters=2", "sample.batch=4", "train.images=false", "augment.mix=1"]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom of which every other subject has no FLAIR, and which brings no split."""
    out = tmp_path_factory.mktemp("half") / "cohort"
    folders = sorted(make_phantom(out, SUBJECTS, seed=3, spacing=8.0))
    for folder in folders[::2]:
        (path,) = folder.rglob("*FLAIR*.nii.gz")
        path.unlink()
    (out / "splits.tsv").unlink()
    return out


ROLES = [
    ("T1w,FLAIR", "T2w"),
    ("T1w", "T2w,FLAIR"),
    ("T1w,T2w", "FLAIR"),
    ("T1w,T2w,FLAIR", "FLAIR,T2w"),
    ("T1w,FLAIR", "T1w,FLAIR,T2w"),
]


@pytest.mark.parametrize(("sources", "targets"), ROLES)
def test_every_case_trains_where_half_lack_a_contrast(half: Path, sources: str, targets: str, tmp_path: Path) -> None:
    config = pipeline.configure("milr", sources, targets, settings=SMALL, budget={"steps": 3})
    store, split = pipeline.prepared(half, config, cache=tmp_path / "cache")
    assert len(split.names) == SUBJECTS and split.left_out == ()
    lacking = {name for name in split.names if "FLAIR" not in store.has(name)}
    assert len(lacking) == SUBJECTS // 2 and lacking & set(split.train)
    if targets == "FLAIR":
        assert not lacking & {*split.validation, *split.test}  # nothing to score
    reader = Reader(store, config.prepare, config.sources, config.targets)
    sampler = Sampler(reader, split.train, config.sample, config.augment, 0, divisor=4)
    drawn = np.concatenate([sampler.chosen(step)[:, 0] for step in range(sampler.steps_per_epoch)])
    assert {sampler.names[index] for index in drawn} == set(split.train)
    result = pipeline.train(config, store, split, tmp_path / "run", accelerator="cpu")
    info = RunFolder.open(tmp_path / "run").info
    assert info["status"] == "finished" and info["training_cases"] == list(split.train)
    assert set(result.scores) == set(split.validation) and np.isfinite(list(result.scores.values())).all()


def test_methods_that_need_all_sources_leave_incomplete_cases_out(half: Path, tmp_path: Path) -> None:
    config = pipeline.configure("linear", "T1w", "FLAIR")
    store, split = pipeline.prepared(half, config, cache=tmp_path / "cache")
    assert len(split.names) == SUBJECTS // 2 and len(split.left_out) == SUBJECTS // 2
    assert all(line.endswith("has no FLAIR") for line in split.left_out)
    assert set(store.names) == set(split.names)


def test_an_exported_store_serves_runs_of_any_roles(half: Path, tmp_path: Path) -> None:
    """Prepared for a method that takes incomplete cases, it gives another the cases that it can use."""
    config = pipeline.configure("milr", "T1w,FLAIR", "T2w", settings=SMALL, budget={"steps": 3})
    store, _ = pipeline.prepared(half, config, cache=tmp_path / "cache", out=tmp_path / "store")
    assert len(store.names) == SUBJECTS
    other = pipeline.configure("linear", "T1w,T2w", "FLAIR", settings=["sample.plane=coronal", "prepare.normalizer=zscore"])
    opened, split = pipeline.prepared(tmp_path / "store", other)
    assert opened.fingerprint == store.fingerprint == Store.open(tmp_path / "store").fingerprint
    assert all("FLAIR" in opened.has(name) for name in split.names) and 0 < len(split.names) < SUBJECTS
    if split.train and split.validation:
        result = pipeline.train(other, opened, split, tmp_path / "run", accelerator="cpu")
        assert result.best is not None


def test_both_roles_are_refused_by_methods_that_need_all_sources() -> None:
    for method in ("hinet", "linear"):
        with pytest.raises(UsageError, match=r"FLAIR is both source and target.*milr"):
            pipeline.configure(method, "T1w,FLAIR", "FLAIR")
    with pytest.raises(UsageError, match="only source"):
        pipeline.configure("milr", "FLAIR", "FLAIR,T2w", budget={"steps": 3})
    with pytest.raises(UsageError, match=r"sample\.subsets=drawn: hinet needs all of its sources"):
        pipeline.configure("hinet", "T1w,T2w", "FLAIR", settings=["sample.subsets=drawn"], budget={"steps": 3})


def test_no_case_with_a_target_says_so(half: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(half, copy)
    for path in copy.rglob("*FLAIR*.nii.gz"):
        path.unlink()
    config = pipeline.configure("milr", "T1w,T2w", "FLAIR", budget={"steps": 3})
    with pytest.raises(DataError, match=r"0 subjects with a target \(FLAIR\)"):
        pipeline.prepared(copy, config, cache=tmp_path / "cache")


def test_a_case_that_lacks_something_or_cannot_be_read_costs_itself_alone(half: Path, tmp_path: Path) -> None:
    config = pipeline.configure("milr", "T1w,T2w", "FLAIR", settings=SMALL, budget={"steps": 1})
    store, split = pipeline.prepared(half, config, cache=tmp_path / "cache")
    pipeline.train(config, store, split, tmp_path / "run", accelerator="cpu")
    data = Path(shutil.copytree(half, tmp_path / "data"))
    cases = pipeline.index(data).cases
    lacking = {case.name for case in cases if "FLAIR" not in case.images}
    whole = [case for case in cases if case.name not in lacking]
    whole[0].image("T2w").unlink()
    damaged = whole[1].image("T1w")
    damaged.write_bytes(damaged.read_bytes()[:200])
    how: dict[str, Any] = {"device": "cpu", "keep": False, "inputs": ["T1w", "T2w"]}
    found = pipeline.evaluate([tmp_path / "run"], data, "all", **how)
    assert {row.case for row in found.rows} == {case.name for case in whole[2:]}
    assert [line.split(":")[0] for line in found.failed] == [whole[1].name]
    assert {line.split(":")[0] for line in found.skipped} == lacking | {whole[0].name, whole[1].name}
    assert any("has no T2w" in line for line in found.skipped)
    with pytest.raises(DataError, match="has no FLAIR"):
        pipeline.evaluate([tmp_path / "run"], data, "all", strict=True, **how)
    # subsets are compared on the same cases
    damaged.unlink()
    said: list[str] = []
    progress: dict[str, Any] = {"show": lambda title: nullcontext(), "train_show": None, "say": said.append}
    rows = score_subsets(tmp_path / "run", data, None, split="all", device="cpu", keep=False, **progress)
    by_subset = {name: {row.case for row in rows if row.method == name} for name in ("T1w", "T2w", "T1w+T2w")}
    assert set(map(frozenset, by_subset.values())) == {frozenset(case.name for case in whole[2:])}
    assert len(said) == 1 and f"{whole[1].name} (no T1w)" in said[0]


@pytest.mark.filterwarnings("ignore:the run was trained on")
def test_no_contrast_is_predicted_from_itself(half: Path, tmp_path: Path) -> None:
    config = pipeline.configure("milr", "T1w,T2w,FLAIR", "T2w,FLAIR", settings=SMALL, budget={"steps": 2})
    store, split = pipeline.prepared(half, config, cache=tmp_path / "cache")
    pipeline.train(config, store, split, tmp_path / "run", accelerator="cpu")
    how: dict[str, Any] = {"device": "cpu", "keep": False}
    whole = Path(shutil.copytree(half, tmp_path / "whole"))
    for case in pipeline.index(half).cases:
        if "FLAIR" not in case.images:
            shutil.rmtree(whole / case.name)
    for given, scored in ((["T1w"], {"T2w", "FLAIR"}), (["T1w", "T2w"], {"FLAIR"}), (["FLAIR"], {"T2w"})):
        found = pipeline.evaluate([tmp_path / "run"], whole, "all", inputs=given, **how)
        assert {row.contrast for row in found.rows} == scored, given
    progress: dict[str, Any] = {"show": lambda title: nullcontext(), "train_show": None, "say": lambda text: None}
    rows = score_subsets(tmp_path / "run", whole, None, split="all", **progress, **how)
    assert {(row.method, row.contrast) for row in rows} == {
        *(("T1w", name) for name in ("T2w", "FLAIR")),
        *((names, "FLAIR") for names in ("T2w", "T1w+T2w")),
        *((names, "T2w") for names in ("FLAIR", "T1w+FLAIR")),
    }
    # in memory: what was not given, or, of a case that lacks nothing, each from the others
    run = synthmr.load(tmp_path / "run", device="cpu")
    case = pipeline.index(whole).cases[0]
    images = {name: case.image(name) for name in ("T1w", "T2w", "FLAIR")}
    few = run.predict({name: images[name] for name in ("T1w", "T2w")})
    assert set(few) == {"FLAIR"}
    for target in (None, "FLAIR"):
        every = run.predict(images, target=target)
        assert set(every) == ({"T2w", "FLAIR"} if target is None else {"FLAIR"})
        np.testing.assert_array_equal(every["FLAIR"].get_fdata(), few["FLAIR"].get_fdata())
