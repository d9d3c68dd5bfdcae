"""The command line from end to end, in subprocesses, on the phantom."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from conftest import SUBJECTS, Run, train_words
from synthmr import __version__


def test_help_lists_every_verb_without_loading_torch(synthmr: Run) -> None:
    text = synthmr("--help").stdout
    for verb in ("index", "audit", "prepare", "train", "synthesize", "evaluate", "methods", "phantom", "demo"):
        assert verb in text
    probe = "import sys, synthmr.cli; sys.exit(str({'torch', 'nibabel', 'matplotlib', 'numpy'} & set(sys.modules) or '') or 0)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0


def test_version(synthmr: Run) -> None:
    assert synthmr("--version").stdout.strip() == f"synthmr {__version__}"


def test_methods_table(synthmr: Run) -> None:
    rows = {row["name"]: row for row in json.loads(synthmr("methods", "--json").stdout)}
    assert {"copy", "linear", "unet", "hinet"} <= set(rows)
    assert "hinet" in synthmr("methods").stdout


def test_index(synthmr: Run, phantom: Path) -> None:
    data = json.loads(synthmr("index", phantom, "--json").stdout)
    assert len(data["cases"]) == SUBJECTS
    assert set(data["contrasts"]) == {"T1w", "T1ce", "T2w", "FLAIR", "PDw"}
    assert {case["split"] for case in data["cases"]} == {"train", "validation", "test"}
    assert "sub-001" in synthmr("index", phantom).stdout


def test_audit_of_clean_data_ends_with_zero(synthmr: Run, phantom: Path) -> None:
    assert "0 errors" in synthmr("audit", phantom).stdout


def test_audit_finds_a_duplicate_and_ends_with_one(synthmr: Run, phantom: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(phantom, data)
    shutil.rmtree(data / "sub-002")
    shutil.copytree(data / "sub-001", data / "sub-002")
    text = synthmr("audit", data, code=1).stdout
    assert "sub-001" in text and "sub-002" in text and "fix" in text


def test_train_synthesize_evaluate(synthmr: Run, phantom: Path, hinet_run: Path, linear_run: Path, tmp_path: Path) -> None:
    assert (hinet_run / "config.yaml").is_file() and (hinet_run / "split.tsv").is_file()
    assert not list(hinet_run.rglob("*.p[tk]*l*"))
    log = [json.loads(line) for line in (hinet_run / "log.jsonl").read_text().splitlines()]
    assert any("step" in line for line in log)

    out = tmp_path / "synthetic"
    synthmr("synthesize", hinet_run, phantom, "--out", out)
    images = sorted(out.rglob("*.nii.gz"))
    assert len(images) == SUBJECTS
    source = nib.load(phantom / "sub-001" / "T1w.nii.gz")
    made = nib.load(next(path for path in images if "sub-001" in str(path)))
    assert made.shape == source.shape
    np.testing.assert_allclose(made.affine, source.affine, atol=1e-6)
    values = made.get_fdata()
    mask = nib.load(phantom / "sub-001" / "mask.nii.gz").get_fdata() > 0
    assert np.isfinite(values).all() and not values[~mask].any() and values[mask].std() > 0
    sidecar = json.loads(next(path for path in out.rglob("*.json") if "sub-001" in str(path)).read_text())
    assert "hinet" in json.dumps(sidecar) and __version__ in json.dumps(sidecar)

    again = synthmr("synthesize", hinet_run, phantom, "--out", out).stdout
    assert f"0 written, {SUBJECTS} already there, 0 failed" in again

    table = tmp_path / "metrics.csv"
    synthmr("evaluate", linear_run, phantom, "--against", hinet_run, "--out", table)
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert list(rows[0]) == ["case", "subject", "method", "contrast", "protocol", "region", "metric", "value"]
    assert {row["protocol"] for row in rows} == {"masked-volume"}
    assert {row["metric"] for row in rows} >= {"psnr", "ssim", "nmse", "nrmse", "mae"}
    assert {row["method"] for row in rows} == {"linear", "hinet"}


def test_single_files_equal_the_cohort_form(synthmr: Run, phantom: Path, hinet_run: Path, tmp_path: Path) -> None:
    case = phantom / "sub-002"
    one = tmp_path / "flair.nii.gz"
    mask = case / "mask.nii.gz"
    synthmr("synthesize", hinet_run, f"T1w={case / 'T1w.nii.gz'}", f"T2={case / 'T2w.nii.gz'}", "--mask", mask, "-o", one)
    synthmr("synthesize", hinet_run, case, "--out", tmp_path / "cohort")
    other = next((tmp_path / "cohort").rglob("*.nii.gz"))
    np.testing.assert_array_equal(nib.load(one).get_fdata(), nib.load(other).get_fdata())


def test_prepared_store_trains_without_the_files(synthmr: Run, phantom: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    synthmr("prepare", phantom, "--sources", "T1w,T2w", "--target", "FLAIR", "--out", store)
    synthmr(*train_words("linear", store, tmp_path / "run"))
    assert (tmp_path / "run" / "run.json").is_file()


def test_one_bad_case_does_not_stop_a_cohort(synthmr: Run, phantom: Path, linear_run: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(phantom, data)
    path = data / "sub-003" / "T2w.nii.gz"
    path.write_bytes(path.read_bytes()[:2000])
    done = synthmr("synthesize", linear_run, data, "--out", tmp_path / "out", code=1)
    assert f"{SUBJECTS - 1} written, 0 already there, 1 failed" in done.stdout
    assert "sub-003" in done.stderr
    assert len(list((tmp_path / "out").rglob("*.nii.gz"))) == SUBJECTS - 1


def one_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    assert len(lines) == 1, text
    assert lines[0].startswith("synthmr: error: ")
    assert "Traceback" not in text
    return lines[0]


#: a complete training call; the bad ones below change one word of it
TRAIN = ("train", "hinet", "DATA", "--sources", "T1w,T2w", "--target", "FLAIR", "--out", "OUT", "--steps", "2")


def changed(old: str, new: str) -> list[str]:
    return [new if word == old else word for word in TRAIN]


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["index", "no/such/folder"], 1, "no/such/folder"),
        (changed("hinet", "hinett"), 2, "did you mean hinet"),
        (changed("FLAIR", "FLIAR"), 2, "did you mean FLAIR"),
        (changed("T1w,T2w", "T1w"), 2, "hinet takes"),
        (changed("FLAIR", "T1w"), 2, "both source and target"),
        (changed("FLAIR", "DWI"), 1, "DWI"),
        (changed("DATA", "EMPTY"), 1, "EMPTY"),
        ([*TRAIN, "--preset", "fats"], 2, "did you mean fast"),
        ([*TRAIN, "--set", "train.lrr=1"], 2, "did you mean train.lr"),
        ([*TRAIN, "--set", "train.lr=fast"], 2, "a number"),
        ([*TRAIN, "--minutes", "1"], 2, "give one"),
        ([*TRAIN, "--set", "prepare.normalizer=zscore"], 2, "normalizer"),
        ([*TRAIN, "--resume"], 1, "OUT"),
        (["synthesize", "EMPTY", "DATA", "--out", "OUT"], 1, "run"),
        (["evaluate", "RUN", "DATA", "--split", "tset"], 2, "test"),
        (["evaluate", "RUN", "DATA", "--protocol", "masked"], 2, "masked-volume"),
        (["synthesize", "RUN", "T1w=nothere.nii.gz", "T2w=nothere.nii.gz", "-o", "OUT.nii.gz"], 1, "nothere.nii.gz"),
        (["synthesize", "RUN", "T1w=nothere.nii.gz", "T2w=nothere.nii.gz"], 2, "-o"),
        (["phantom", "OUT", "--subjects", "0"], 2, "subjects"),
    ],
)
def test_bad_calls_get_one_line(
    synthmr: Run, phantom: Path, linear_run: Path, tmp_path: Path, words: list[str], code: int, expected: str
) -> None:
    (tmp_path / "EMPTY").mkdir()
    places = {"DATA": phantom, "OUT": tmp_path / "OUT", "EMPTY": tmp_path / "EMPTY", "RUN": linear_run}
    done = synthmr("-q", *(str(places.get(word, word)) for word in words), code=code)
    assert expected in one_line(done.stderr)
    assert not (tmp_path / "OUT").exists()


def damage_nan(path: Path) -> None:
    image = nib.load(path)
    data = image.get_fdata(dtype=np.float32)
    data[tuple(size // 2 for size in data.shape)] = np.nan
    nib.save(nib.Nifti1Image(data, image.affine), path)


def damage_4d(path: Path) -> None:
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.stack([image.get_fdata(dtype=np.float32)] * 2, -1), image.affine), path)


def damage_grid(path: Path) -> None:
    image = nib.load(path)
    nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32)[1:], image.affine), path)


def damage_constant(path: Path) -> None:
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.ones(image.shape, np.float32), image.affine), path)


def damage_text(path: Path) -> None:
    path.write_text("this is no volume\n")


def damage_truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:3000])


def damage_missing(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    "damage", [damage_nan, damage_4d, damage_grid, damage_constant, damage_text, damage_truncated, damage_missing]
)
def test_damaged_source_gets_one_line_and_writes_nothing(
    synthmr: Run, phantom: Path, linear_run: Path, tmp_path: Path, damage
) -> None:  # type: ignore[no-untyped-def]
    case = tmp_path / "case"
    shutil.copytree(phantom / "sub-001", case)
    damage(case / "T2w.nii.gz")
    out = tmp_path / "out.nii.gz"
    done = synthmr("-q", "synthesize", linear_run, f"T1w={case / 'T1w.nii.gz'}", f"T2w={case / 'T2w.nii.gz'}", "-o", out, code=1)
    assert "T2w" in one_line(done.stderr)
    assert not out.exists() and not list(tmp_path.glob("*.tmp*"))


def test_training_with_one_subject_is_refused(synthmr: Run, phantom: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(phantom / "sub-001", data / "sub-001")
    done = synthmr(*train_words("linear", data, tmp_path / "run"), code=1)
    assert "subject" in one_line(done.stderr)
    assert not (tmp_path / "run").exists()


def test_output_equal_to_input_is_refused(synthmr: Run, phantom: Path, linear_run: Path, tmp_path: Path) -> None:
    t1, t2 = tmp_path / "T1w.nii.gz", tmp_path / "T2w.nii.gz"
    shutil.copy(phantom / "sub-001" / "T1w.nii.gz", t1)
    shutil.copy(phantom / "sub-001" / "T2w.nii.gz", t2)
    before = t1.read_bytes()
    done = synthmr("-q", "synthesize", linear_run, f"T1w={t1}", f"T2w={t2}", "-o", t1, "--overwrite", code=2)
    assert "input" in one_line(done.stderr)
    assert t1.read_bytes() == before


def test_unwritable_output(synthmr: Run, phantom: Path, linear_run: Path, tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("a file, not a folder")
    done = synthmr("-q", "synthesize", linear_run, phantom, "--out", blocker / "sub", code=1)
    assert str(blocker) in one_line(done.stderr)


def test_damaged_run_folder(synthmr: Run, phantom: Path, linear_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(linear_run, run)
    weights = next((run / "checkpoints" / "best").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:20])
    done = synthmr("-q", "synthesize", run, phantom, "--out", tmp_path / "out", code=1)
    assert "run" in one_line(done.stderr)


def test_weights_of_another_method(synthmr: Run, phantom: Path, linear_run: Path, hinet_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(linear_run, run)
    shutil.rmtree(run / "checkpoints" / "best")
    shutil.copytree(hinet_run / "checkpoints" / "best", run / "checkpoints" / "best")
    done = synthmr("-q", "synthesize", run, phantom, "--out", tmp_path / "out", code=1)
    assert "linear" in one_line(done.stderr)


def test_demo_writes_volumes_scores_and_report(synthmr: Run, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    done = synthmr("demo", "--out", out, "--subjects", 5, "--steps", 3)
    assert "Hi-Net minus linear" in done.stderr
    rows = list(csv.DictReader((out / "metrics.csv").read_text().splitlines()))
    assert {row["method"] for row in rows} == {"copy", "linear", "hinet"}
    page = (out / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "") and all(row["case"] in page for row in rows)
    assert len(list((out / "volumes" / "hinet").glob("*.nii.gz"))) == len({row["case"] for row in rows})


def test_demo_refuses_a_folder_that_is_no_demo(synthmr: Run, tmp_path: Path) -> None:
    kept = tmp_path / "thesis.txt"
    kept.write_text("four years of work")
    done = synthmr("demo", "--out", tmp_path, code=2)
    assert "demo" in one_line(done.stderr)
    assert kept.read_text() == "four years of work"
