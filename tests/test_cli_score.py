"""The verbs score, protocols, compare and evaluate --protocol: what they print and write, for people and for machines."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from conftest import Run, Verb
from helpers import write_case
from score_tables import rows_of, three
from synthmr import pipeline
from synthmr.console import Console
from synthmr.errors import DataError, UsageError
from synthmr.evaluate.protocols import PROTOCOLS
from synthmr.evaluate.scores import COLUMNS, Score, read_tables, score_objects, summarise, write_scores

SHAPE = (30, 28, 24)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A truth, a prediction of it, mask, labels and what is wrong in some way. Read only."""
    rng = np.random.default_rng(0)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    mask = sum((axis / 0.7) ** 2 for axis in axes) < 1
    truth = np.where(mask, rng.uniform(40, 240, SHAPE), 0).astype(np.float32)
    guess = np.where(mask, truth + rng.normal(0, 12, SHAPE), 0).astype(np.float32)
    labels = np.zeros(SHAPE, np.int16)
    labels[13:17, 12:16, 10:14] = 1
    broken = guess.copy()
    broken[0, 0, 0] = np.nan
    arrays = {"truth": truth, "guess": guess, "mask": mask, "labels": labels, "nan": broken, "short": guess[1:]}
    return write_case(tmp_path_factory.mktemp("pair"), {**arrays, "empty": np.zeros(SHAPE, np.float32)})


def one_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("synthmr: error: "), text
    return lines[0]


# --- score --------------------------------------------------------------------------------------------------------------


def test_score_prints_a_table_and_json(synthmr: Run, files: dict[str, Path]) -> None:
    done = synthmr("score", files["guess"], files["truth"], "--mask", files["mask"])
    assert "masked-volume" in done.stdout and " dB" in done.stdout
    assert done.stderr == "note: guess.nii.gz has no synthmr sidecar: its voxels are scored as they are.\n"
    done = synthmr("score", files["guess"], files["truth"], "--mask", files["mask"], "--metrics", "psnr,ncc", "--json")
    found = json.loads(done.stdout)
    assert list(found) == ["scores", "labels", "warnings", "skipped"] and found["labels"] is None and found["skipped"] == []
    rows = found["scores"]
    assert [tuple(row) for row in rows] == [COLUMNS] * 2
    assert [(row["protocol"], row["region"], row["metric"]) for row in rows] == [
        ("masked-volume", "brain", "psnr"),
        ("masked-volume", "brain", "ncc"),
    ]
    expected = pipeline.score(files["guess"], files["truth"], files["mask"], metrics=("psnr", "ncc")).rows
    assert rows == score_objects(expected) and 20 < rows[0]["value"] < 30


def test_score_under_all_tells_what_it_left_out_beside_the_json_too(verb: Verb, files: dict[str, Path]) -> None:
    words = ("score", files["guess"], files["truth"], "--protocol", "all", "--json")
    done = verb(*words)
    found = json.loads(done.stdout)
    assert {row["protocol"] for row in found["scores"]} == set(PROTOCOLS) - {"mafnet", "brasyn"}
    assert {warning["code"] for warning in found["warnings"]} >= {"rescaled-prediction", "truth-mask", "note"}
    assert [line.split()[0] for line in found["skipped"]] == ["mafnet", "brasyn"]
    lines = done.stderr.splitlines()
    assert [line for line in lines if line.startswith("left out: mafnet needs a segmentation")]
    assert [line for line in lines if line.startswith("note: no mask was given")]
    assert [line for line in lines if line.startswith("warning rescaled-prediction: own-max")]
    assert [line for line in lines if line.startswith("warning truth-mask: guess.nii.gz")]
    quiet = verb("-q", *words)
    assert quiet.stdout == done.stdout and quiet.stderr == ""


def test_infinity_is_a_word_in_json(verb: Verb, files: dict[str, Path]) -> None:
    done = verb("score", files["truth"], files["truth"], "--mask", files["mask"], "--json")
    values = {row["metric"]: row["value"] for row in json.loads(done.stdout)["scores"]}
    assert values["psnr"] == values["structure_psnr"] == "inf" and values["mae"] == 0
    assert "same voxel by voxel" in done.stderr


def test_score_of_regions_with_labels(verb: Verb, files: dict[str, Path]) -> None:
    given = ("--mask", files["mask"], "--segmentation", files["labels"], "--regions", "--protocol", "brasyn", "--json")
    found = json.loads(verb("score", files["guess"], files["truth"], *given).stdout)
    rows = found["scores"]
    assert found["labels"] == {
        "name": "lesion",
        "why": "label 1 alone is read as a lesion mask",
        "parts": {"lesion": {"guess": 64}},
    }
    keys = [(row["protocol"], row["region"], row["metric"]) for row in rows]
    assert len(set(keys)) == len(keys) and ("brasyn", "non-lesion", "ssim") in keys and ("brasyn", "axial", "slice_jump") in keys


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["nan", "truth"], 1, "nan.nii.gz holds 1 NaN"),
        (["short", "truth", "--mask", "mask"], 1, "29x28x24 at 1x1x1 mm RAS against 30x28x24"),
        (["guess", "truth", "--mask", "empty"], 1, "empty.nii.gz is empty"),
        (["guess", "truth", "--protocol", "mafnet"], 1, "mafnet needs a segmentation"),
        (["guess", "truth", "--protocol", "maf-net"], 2, "did you mean mafnet"),
        (["guess", "truth", "--metrics", "psnrr"], 2, "did you mean psnr"),
    ],
)
def test_score_faults_get_one_line(verb: Verb, files: dict[str, Path], words: list[str], code: int, expected: str) -> None:
    done = verb("score", *(files.get(word, word) for word in words), "--json", code=code)
    assert expected in one_line(done.stderr) and done.stdout == ""


# --- protocols ----------------------------------------------------------------------------------------------------------


def test_protocols_are_listed_and_printed_as_yaml_that_scores_the_same(verb: Verb, files: dict[str, Path], tmp_path: Path) -> None:
    text = verb("protocols").stdout
    assert all(name in text for name in PROTOCOLS)
    path = tmp_path / "mine.yaml"
    path.write_text(verb("protocols", "milr2018").stdout)
    assert pipeline.score(files["guess"], files["truth"], protocols=[str(path)]).rows == (
        pipeline.score(files["guess"], files["truth"], protocols=["milr2018"]).rows
    )
    assert [row["name"] for row in pipeline.protocols()] == list(PROTOCOLS)
    (one,) = json.loads(verb("protocols", "hinet2020", "--json").stdout)
    assert one["crop"] == [160, 180] and one["regions"] == ["whole"]


# --- evaluate -----------------------------------------------------------------------------------------------------------


def test_evaluate_under_several_protocols(synthmr: Run, phantom: Path, linear_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "metrics.csv"
    chosen = ("--protocol", "masked-volume", "--protocol", "hinet2020", "--protocol", "own-max")
    done = synthmr("evaluate", linear_run, phantom, *chosen, "--regions", "--out", out)
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert tuple(rows[0]) == COLUMNS and {row["protocol"] for row in rows} == set(chosen[1::2])
    assert {row["region"] for row in rows} >= {"whole", "lesion", "WT", "axial", "brain"} and rows == [
        {**row, "method": "linear"} for row in rows
    ]
    assert "the same predictions under every protocol" in done.stdout and PROTOCOLS["own-max"].differs[:40] in done.stdout
    assert "protocol masked-volume, lesion (mean" in done.stdout
    assert "warning rescaled-prediction: own-max" in done.stderr
    # the prediction and its truth are where they were: a second evaluation in JSON says the same
    again = json.loads(synthmr("evaluate", linear_run, phantom, "--metrics", "psnr", "--out", tmp_path / "b.csv", "--json").stdout)
    assert list(again) == ["scores", "labels", "warnings", "skipped"]
    first = [row for row in rows if (row["protocol"], row["region"], row["metric"]) == ("masked-volume", "brain", "psnr")]
    assert [(row["case"], row["value"]) for row in again["scores"]] == [(row["case"], float(row["value"])) for row in first]


def test_sessions_count_as_one_subject_where_only_the_folders_say_so(
    synthmr: Run, phantom: Path, linear_run: Path, tmp_path: Path
) -> None:
    first, second, third = sorted(folder for folder in phantom.iterdir() if (folder / "T1w.nii.gz").is_file())[:3]
    for source, folder in ((first, "anna/visit1"), (second, "anna/visit2"), (third, "berta/visit1")):
        shutil.copytree(source, tmp_path / "data" / folder)
    out = tmp_path / "metrics.csv"
    synthmr("evaluate", linear_run, tmp_path / "data", "--split", "all", "--out", out)
    rows = [row for row in csv.DictReader(out.read_text().splitlines()) if row["metric"] == "psnr"]
    assert len({row["case"] for row in rows}) == 3
    assert [row["subject"] for row in rows] == ["anna", "anna", "berta"]
    values = [float(row["value"]) for row in rows]
    (summary,) = (each for each in summarise(read_tables([out])) if each["metric"] == "psnr")
    assert summary["mean"] == pytest.approx((sum(values[:2]) / 2 + values[2]) / 2) and summary["subjects"] == 2


def test_a_mistyped_metric_is_told_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="metric 'psnrr': did you mean psnr"):
        pipeline.evaluate([tmp_path / "norun"], tmp_path / "nodata", metrics=("psnrr",))
    with pytest.raises(UsageError, match="unknown protocol 'al'"):
        pipeline.evaluate([tmp_path / "norun"], tmp_path / "nodata", protocols=("al",))


# --- compare ------------------------------------------------------------------------------------------------------------


def methods() -> list[Score]:
    scores = {name: values.tolist() for name, values in three(np.random.default_rng(1)).items()}
    return [*rows_of(**scores), *rows_of("ssim", **{name: [value / 40 for value in mine] for name, mine in scores.items()})]


def test_compare_reads_one_table_or_several(verb: Verb, tmp_path: Path) -> None:
    write_scores(tmp_path / "all.csv", methods())
    for name in ("weak", "best", "near"):
        write_scores(tmp_path / f"{name}.csv", [row for row in methods() if row.method == name])
    tests = json.loads(verb("compare", tmp_path / "all.csv", "--json").stdout)
    assert [(row["method"], row["reference"], row["metric"]) for row in tests] == [
        (name, "best", metric) for metric in ("psnr", "ssim") for name in ("weak", "near")
    ]
    assert tests[0]["t_p_holm"] < 0.001 < 0.05 < tests[1]["t_p_holm"] and tests[0]["better"] == "best"
    apart = verb("compare", *(tmp_path / f"{name}.csv" for name in ("weak", "best", "near")), "--markdown", "--metrics", "psnr")
    assert "| method | psnr ↑ |" in apart.stdout and "weak against best, FLAIR psnr (masked-volume, 10 subjects)" in apart.stdout
    assert "ssim" not in apart.stdout
    done = verb("compare", tmp_path / "best.csv", code=2)
    assert "there is one method alone (best); score two or more" in one_line(done.stderr)


def test_compare_with_a_reference() -> None:
    tests = pipeline.compare(methods(), "weak", ("psnr",))
    assert [(row["method"], row["reference"]) for row in tests] == [("best", "weak"), ("near", "weak")]
    with pytest.raises(UsageError, match="the tables hold no scores of weka: did you mean weak"):
        pipeline.compare(methods(), "weka")
    # a score that the reference has not is passed over
    dice = rows_of("dice_WT", best=[0.8, 0.9, 0.7], near=[0.8, 0.9, 0.6])
    found = pipeline.compare([*methods(), *dice], "weak")
    assert {row["metric"] for row in found} == {"psnr", "ssim"}
    assert {row["metric"] for row in pipeline.compare([*methods(), *dice])} == {"psnr", "ssim", "dice_WT"}


def test_compare_metrics() -> None:
    rows = [*methods(), *rows_of("sharpness", weak=[1, 2, 3], best=[2, 3, 1])]
    with pytest.raises(UsageError, match="the tables hold no psnrr: did you mean psnr"):
        pipeline.compare(rows, metrics=("psnrr",))
    with pytest.raises(UsageError, match="neither a higher nor a lower sharpness is better"):
        pipeline.compare(rows, metrics=("sharpness",))
    lesion = rows_of("psnr", region="lesion", weak=[1.0, 2, 3], best=[2.0, 3, 4.5])
    assert [row["better"] for row in pipeline.compare(lesion)] == ["best"]
    # what --regions adds is tested where it is asked for, and the sentence says where
    both = [*rows, *lesion]
    assert {row["region"] for row in pipeline.compare(both, metrics=("psnr",))} == {"brain"}
    (one,) = (row for row in pipeline.compare(both, metrics=("psnr",), regions=("lesion",)))
    assert one["region"] == "lesion" and "FLAIR psnr (masked-volume, lesion, 3 subjects)" in one["text"]
    with pytest.raises(UsageError, match="hold no region lesions: did you mean lesion"):
        pipeline.compare(both, regions=("lesions",))
    # of a protocol of several regions all are
    brasyn = [
        row
        for part in ("lesion", "non-lesion")
        for row in rows_of("ssim", protocol="brasyn", region=part, a=[0.5, 0.6], b=[0.7, 0.9])
    ]
    assert [row["region"] for row in pipeline.compare(brasyn)] == ["lesion", "non-lesion"]
    # nothing in common: no test, and the verb says so
    assert pipeline.compare([*rows_of(a=[1.0, 2.0]), *rows_of(contrast="T2w", b=[1.0, 2.0])]) == []
    assert pipeline.compare(rows_of("sharpness", a=[1.0, 2.0], b=[2.0, 3.0])) == []


def test_compare_without_a_common_score_is_refused(verb: Verb, tmp_path: Path) -> None:
    write_scores(tmp_path / "m.csv", [*rows_of(a=[1.0, 2.0]), *rows_of(protocol="own-max", b=[1.0, 2.0])])
    done = verb("compare", tmp_path / "m.csv", code=2)
    assert "no two methods have a score of the same contrast, protocol, region and metric" in one_line(done.stderr)


def test_one_subject_and_identical_scores_are_told() -> None:
    (single,) = pipeline.compare(rows_of(a=[20.0], b=[21.0]))
    assert math.isnan(single["t_p"]) and "One subject" in single["note"] and single["difference"] == -1
    (same,) = pipeline.compare(rows_of(a=[20.0, 21.0, 22.0], b=[20.0, 21.0, 22.0]))
    assert same["t_p"] == 1 and "identical" in same["note"] and same["better"] == "tie"
    (infinite,) = pipeline.compare(rows_of(a=[20.0, math.inf], b=[20.0, 21.0]))
    assert math.isnan(infinite["t_p"]) and "infinite" in infinite["note"]


def test_tables_that_hold_a_score_twice(tmp_path: Path) -> None:
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    write_scores(one, methods())
    write_scores(two, rows_of(best=[20.0]))
    with pytest.raises(DataError, match=r"two\.csv and .*one\.csv both hold psnr of best for case s00; rename a method"):
        read_tables([one, two])
    # the same case in another contrast, region or protocol is no double
    other = [*rows_of(contrast="T2w", best=[20.0]), *rows_of(protocol="own-max", best=[1.0]), *rows_of(region="lesion", best=[1.0])]
    write_scores(two, other)
    assert len(read_tables([one, two])) == len(methods()) + 3


def test_slices_in_a_table_are_told(tmp_path: Path) -> None:
    slices = [row for shift in (0.0, 0.5, 1.0) for row in rows_of(a=[20.0 + shift, 21.0], b=[19.0, 20.5 + shift])]
    write_scores(tmp_path / "slices.csv", slices)
    (test,) = pipeline.compare(read_tables([tmp_path / "slices.csv"]))
    assert test["subjects"] == 2 and "slices of a subject are not independent" in test["note"]


# --- console ------------------------------------------------------------------------------------------------------------


def test_tables_of_regions_stand_apart(capsys: pytest.CaptureFixture[str]) -> None:
    Console().scores(
        [*rows_of(a=[20.0, 22.0]), *rows_of(region="lesion", a=[10.0, 12.0]), *rows_of("ssim", region="lesion", a=[0.5, 0.5])]
    )
    text = capsys.readouterr().out
    plain, lesion = text.split("protocol masked-volume, lesion")
    assert "21.00 +- 1.41 dB" in plain and "11.00" not in plain
    assert "11.00 +- 1.41 dB" in lesion and "0.5000" in lesion and "@" not in text


def test_protocols_beside_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        *rows_of(a=[20.0, 22.0]),
        *rows_of(contrast="T2w", a=[30.0, 32.0]),
        *rows_of("ssim", protocol="brasyn", region="lesion", a=[0.5, 0.7]),
        *rows_of("ssim", protocol="brasyn", region="non-lesion", a=[0.9, 0.9]),
    ]
    Console().protocols_beside(rows)
    text = capsys.readouterr().out
    assert "21.00 +- 1.41 dB" in text and "31.00 +- 1.41 dB" in text, "every contrast has its line"
    assert "0.6000 +- 0.1414 (lesion)" in text and "0.9" not in text
    Console().protocols_beside(rows_of(a=[20.0, 22.0]))
    assert capsys.readouterr().out == ""
