"""How the segmentations of a cohort are read when runs are scored: decided before the first case, said beside every number."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import synthmr
from synthmr import pipeline
from synthmr.case import Case
from synthmr.errors import DataError, UsageError
from synthmr.evaluate.counted import ScoreInput, Shared
from synthmr.predictions import meaning_of

Verb = Callable[..., SimpleNamespace]


def voxels(folder: Path, label: int) -> int:
    import nibabel

    return int((np.asarray(nibabel.load(folder / "seg.nii.gz").dataobj) == label).sum())


def test_evaluate_says_how_it_read_the_phantoms_lesions(verb: Verb, linear_run: Path, phantom: Path, tmp_path: Path) -> None:
    words = ("evaluate", linear_run, phantom, "--split", "all", "--regions", "--out", tmp_path / "m.csv")
    told = json.loads(verb(*words, "--json").stdout)
    assert told["labels"]["name"] == "phantom" and "its header, 'synthmr phantom lesion labels'" in told["labels"]["why"]
    parts = told["labels"]["parts"]
    tumours = [case for case, size in parts["WT"].items() if size]
    assert tumours and all(
        0 < parts["ET"][case] < parts["TC"][case] < parts["WT"][case] == parts["lesion"][case] for case in tumours
    )
    assert set(parts["lesion"]) > set(tumours)  # strokes and MS have no tumour's parts
    assert {row["case"] for row in told["scores"] if row["region"] == "WT"} == set(tumours)
    for case in tumours:
        assert 0.9 < parts["edema"][case] / voxels(phantom / case, 2) <= 1
    plain = verb(*words)
    assert "segmentations: labels 1, 2, 3, 4, 5 read as phantom, as said by its header" in plain.stdout
    named = json.loads(verb(*words, "--labels", "lesion", "--json").stdout)
    assert named["labels"]["name"] == "lesion" and "WT" not in {row["region"] for row in named["scores"]}
    # where no score depends on it nothing is read, unless it is named
    without = tuple(word for word in words if word != "--regions")
    assert json.loads(verb(*without, "--json").stdout)["labels"] is None
    assert json.loads(verb(*without, "--labels", "phantom", "--json").stdout)["labels"]["name"] == "phantom"


def test_labels_of_another_convention_stop_before_anything_is_predicted(
    verb: Verb, linear_run: Path, phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synthmr.predict.predictor.Predictor.prepare", lambda *_: pytest.fail("it was prepared"))
    out = tmp_path / "m.csv"
    words: tuple[Any, ...] = (linear_run, phantom, "--split", "all", "--labels", "brats2017")
    for more in (("evaluate", *words, "--out", out), ("report", *words, "-o", out)):
        (line,) = verb(*more, code=1).stderr.splitlines()
        assert "seg.nii.gz holds label" in line and "and brats2017 has 0, 1, 2, 4" in line and not out.exists()
    with pytest.raises(DataError, match="and brats2023 has 0, 1, 2, 3"):
        synthmr.evaluate(linear_run, phantom, split="all", labels="brats2023")
    with pytest.raises(UsageError, match="did you mean brats2017"):
        pipeline.evaluate([linear_run], phantom, labels="brats217")


def test_the_page_says_how_segmentations_were_read(verb: Verb, linear_run: Path, phantom: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    verb("report", linear_run, phantom, "-o", page, "--labels", "phantom")
    text = page.read_text(encoding="utf-8")
    assert "Segmentations: " in text and "read as phantom, as was asked" in text


def test_a_run_tells_what_names_and_labels_do_not(tmp_path: Path) -> None:
    """A run that segments was trained on labels whose meaning it keeps; it says so of the cases of its own split alone."""
    import nibabel

    cases = []
    for name, labels in (("a", [0, 1, 2, 3]), ("b", [0, 0, 0, 3])):
        path = tmp_path / name / "seg.nii.gz"
        path.parent.mkdir()
        nibabel.save(nibabel.Nifti1Image(np.array(labels, np.uint8).reshape(4, 1, 1), np.eye(4)), path)
        cases.append(Case(name, name, {}, segmentation=path))

    def run(convention: str, *test: str) -> Any:
        split = SimpleNamespace(train=("x",), validation=(), test=test)
        return SimpleNamespace(method=SimpleNamespace(label_convention=convention), split=split)

    def read(*runs: Any, chosen: Any = cases, cohort: Any = ()) -> str | None:
        found = meaning_of(chosen, "auto", runs, cohort)
        assert found is not None
        return found.name

    assert read() is None and read(run("msd-brain", "a", "b")) == "msd-brain"
    assert read(run("msd-brain", "a")) is None  # another cohort's cases may mean anything
    assert read(run("brats2017", "a", "b")) is None  # it has no 3
    assert read(run("msd-brain", "a", "b"), run("brats2023", "a", "b")) is None
    assert read(SimpleNamespace(method=SimpleNamespace(), split=run("", "a", "b").split)) is None
    # what the others of the cohort hold tells that a 3 is no lesion mask, and names still come first
    assert read(chosen=cases[1:], cohort=cases) is None
    assert read(run("msd-brain", "b"), chosen=cases[1:], cohort=cases) == "msd-brain"
    assert read(chosen=[replace(cases[1], name="BraTS-GLI-00001-000")], cohort=cases) == "brats2023"
    assert read(chosen=cases[1:]) == "lesion" and read(run("msd-brain", "b"), chosen=cases[1:]) == "msd-brain"
    assert meaning_of([replace(cases[0], segmentation=None)], "auto") is None
    with pytest.raises(UsageError, match=r"labels are named \(lesion\), and no case has a segmentation"):
        meaning_of([replace(cases[0], segmentation=None)], "lesion")
    with pytest.raises(DataError, match=r"a/seg\.nii\.gz holds label 3"):
        meaning_of(cases, "brats2017")


def test_the_mask_of_a_region_is_made_once() -> None:
    mask = np.ones((4, 5, 6), bool)
    lesion = np.zeros(mask.shape, bool)
    lesion[1:3, 1:3, 1:3] = True
    shared = Shared(ScoreInput(mask.astype(np.float32), mask.astype(np.float32), mask, lesion=lesion))
    for region in ("lesion", "non-lesion"):
        assert shared.mask(region) is shared.mask(region)
    assert (shared.mask("lesion") == lesion).all() and (shared.mask("non-lesion") == ~lesion).all()
