"""`import synthmr`: the command line's words in Python, images in memory, and the network as a plain module."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

import synthmr
from synthmr import api, pipeline
from synthmr.errors import DataError, MissingExtra, UsageError

pytestmark = pytest.mark.usefixtures("one_thread")

PAGE = Path(__file__).parent.parent / "docs" / "python.md"


def test_the_import_is_light() -> None:
    code = (
        "import time; begun = time.perf_counter(); import synthmr; took = time.perf_counter() - begun; import sys;"
        "heavy = {'torch', 'numpy', 'nibabel', 'scipy', 'typer', 'rich'} & set(sys.modules);"
        "print(took, sorted(heavy), dir(synthmr))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "[]" in out and all(
        name in out for name in ("load", "train", "synthesize", "evaluate", "score", "index", "audit", "Run")
    )


def test_the_face_is_what_it_names() -> None:
    assert set(synthmr.__all__) <= set(dir(synthmr))
    for name in synthmr.__all__:
        assert callable(getattr(synthmr, name)), name
    with pytest.raises(AttributeError, match=r"'synthmr' has no attribute 'lod'; it offers .*load"):
        synthmr.lod  # noqa: B018
    # packages that are functions too, before and after their modules are imported
    from synthmr.train import schedule

    assert callable(synthmr.train) and synthmr.train.schedule is schedule
    with pytest.raises(UsageError, match="target"):
        synthmr.train("linear", "nowhere", out="out")


def test_several_names_are_a_list_or_one_string() -> None:
    assert api.words("a, b") == api.words(["a", "b"]) == api.words(("a,b",)) == ["a", "b"]
    assert api.words(None) == [] and api.words("") == []


@pytest.fixture(scope="module")
def run(linear_run: Path) -> synthmr.Run:
    return synthmr.load(linear_run)


def pair(phantom: Path) -> dict[str, Path]:
    return {name: phantom / "sub-005" / f"{name}.nii.gz" for name in ("T1w", "T2w")}


def test_what_is_predicted_in_memory_is_what_synthesize_writes(
    run: synthmr.Run, phantom: Path, linear_run: Path, tmp_path: Path
) -> None:
    mask = phantom / "sub-005" / "mask.nii.gz"
    for intensity in ("scanner", "normalized"):
        out = tmp_path / intensity
        done = synthmr.synthesize(linear_run, phantom, out=str(out), split="test", intensity=intensity)
        assert done.done == ("sub-005",) and not done.failed
        written = nib.load(out / "sub-005_desc-synth_FLAIR.nii.gz")
        images = pair(phantom)
        loaded = {name: nib.load(path) for name, path in images.items()}
        for given, more in (
            (images, {"mask": mask}),
            ({name: str(path) for name, path in images.items()}, {"mask": str(mask)}),
            (loaded, {"mask": nib.load(mask)}),
            ({"t1": images["T1w"], "t2": images["T2w"]}, {"mask": mask, "target": "flair"}),
        ):
            found = run.predict(given, intensity=intensity, **more)
            assert list(found) == ["FLAIR"]
            np.testing.assert_array_equal(np.asarray(found["FLAIR"].dataobj), np.asarray(written.dataobj))
            np.testing.assert_array_equal(found["FLAIR"].affine, written.affine)
            assert found["FLAIR"].get_data_dtype() == np.float32 and b"SYNTHETIC" in bytes(found["FLAIR"].header["descrip"])


def test_arrays_need_an_affine(run: synthmr.Run, phantom: Path) -> None:
    loaded = {name: nib.load(path) for name, path in pair(phantom).items()}
    arrays = {name: np.asarray(image.dataobj, np.float32) for name, image in loaded.items()}
    affine = loaded["T1w"].affine
    found = run.predict(arrays, affine=affine)["FLAIR"]
    np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(run.predict(loaded)["FLAIR"].dataobj))
    np.testing.assert_allclose(found.affine, affine)
    # the same head in another order of storage is the same prediction
    turned = {name: np.ascontiguousarray(array[::-1].transpose(1, 0, 2)) for name, array in arrays.items()}
    flip = np.array([[0, -1, 0, arrays["T1w"].shape[0] - 1], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], float)
    other = run.predict(turned, affine=affine @ flip)["FLAIR"]
    np.testing.assert_allclose(np.asarray(other.dataobj).transpose(1, 0, 2)[::-1], np.asarray(found.dataobj), atol=1e-3)
    with pytest.raises(UsageError, match="T1w is an array, which does not say where it lies; give affine="):
        run.predict(arrays)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"T2w": None}, UsageError, "T2w is of type NoneType; give a path"),
        ({"FLAIR": "x.nii.gz"}, UsageError, "takes T1w, T2w and was given FLAIR too"),
        ({"T2w": "nowhere.nii.gz"}, DataError, "nowhere.nii.gz"),
        ({"T3": "x"}, UsageError, "unknown contrast 'T3'"),
        ({"T2w": nib.Nifti1Image(np.zeros((4, 4, 4, 2), np.float32), np.eye(4))}, DataError, "4 dimensions"),
        ({"T2w": nib.Nifti1Image(np.zeros((4, 4, 4), np.float32), np.eye(4))}, DataError, "constant"),
        ({"T2w": nib.Nifti1Image(np.full((4, 4, 4), np.nan, np.float32), np.eye(4))}, DataError, "NaN"),
        ({"T2w": nib.Nifti1Image(np.arange(64, dtype=np.float32).reshape(4, 4, 4), np.eye(4))}, DataError, "grid"),
    ],
)
def test_bad_images_are_one_line(
    run: synthmr.Run, phantom: Path, change: dict[str, Any], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words) as error:
        run.predict({**pair(phantom), **change})
    assert "\n" not in str(error.value)


def test_a_missing_source_is_one_line(run: synthmr.Run, phantom: Path) -> None:
    with pytest.raises(DataError, match="has no T2w, which this run of linear needs; it has T1w"):
        run.predict({"T1w": pair(phantom)["T1w"]})
    with pytest.raises(UsageError, match="linear gives images alone, no map 'attention'"):
        run.predict(pair(phantom), maps="attention")
    with pytest.raises(UsageError, match="unknown intensity 'scaner'"):
        run.predict(pair(phantom), intensity="scaner")


def test_results_have_rows_and_a_frame(run: synthmr.Run, linear_run: Path, phantom: Path) -> None:
    table = synthmr.evaluate([linear_run], phantom, split="held-out", protocol=["masked-volume", "whole-volume"], regions=True)
    first = table.rows[0]
    assert (first.subject, first.method, first.contrast, first.protocol) == ("sub-004", "linear", "FLAIR", "masked-volume")
    assert {row.region for row in table.rows} >= {"brain", "whole", "lesion"} and all("@" not in row.metric for row in table.rows)
    assert isinstance(table.warnings, list) and isinstance(table.skipped, list)
    assert run.evaluate(phantom).rows == synthmr.evaluate(linear_run, str(phantom)).rows
    try:
        frame = table.frame()
    except MissingExtra as error:  # pandas is not part of the install
        assert "pandas" in str(error)
    else:
        assert list(frame.columns) == ["case", "subject", "method", "contrast", "protocol", "region", "metric", "value"]


def test_index_audit_and_score(phantom: Path, tmp_path: Path) -> None:
    cohort = synthmr.index(str(phantom))
    assert [case.name for case in cohort.cases] == [f"sub-00{number}" for number in range(1, 6)]
    assert not [each for each in synthmr.audit(phantom, sources="T1w,T2w", target=["FLAIR"]) if each.level == "error"]
    truth = phantom / "sub-005" / "FLAIR.nii.gz"
    found = synthmr.score(truth, truth, mask=phantom / "sub-005" / "mask.nii.gz", metrics="psnr,mae")
    assert {row.metric: row.value for row in found.rows} == {"psnr": float("inf"), "mae": 0.0}


def test_sources_that_are_not_named_are_all_but_the_targets(phantom: Path, cache: Path, tmp_path: Path) -> None:
    settings = ["options.filters=2", "train.images=false"]
    words: dict[str, Any] = {"steps": 1, "set": settings, "cache": cache, "accelerator": "cpu"}
    synthmr.train("milr", phantom, target="flair", out=tmp_path / "run", **words)
    run = synthmr.load(tmp_path / "run")
    assert run.targets == ("FLAIR",) and "FLAIR" not in run.sources and len(run.sources) > 1


def test_a_run_keeps_to_its_device_and_weights(
    linear_run: Path, hinet_run: Path, phantom: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="--device cuda:9"):
        synthmr.load(linear_run, device="cuda:9")
    asked: list[Any] = []
    monkeypatch.setattr(pipeline, "evaluate", lambda *words, **more: asked.append(more["device"]))
    synthmr.load(linear_run, device="cpu").evaluate(phantom)
    synthmr.load(linear_run, device="cpu").evaluate(phantom, device="auto")
    assert asked == ["cpu", "auto"]
    last = synthmr.load(hinet_run, which="last")
    for call in (last.evaluate, lambda data: last.synthesize(data, out="nowhere"), lambda data: last.report("page.html", data)):
        with pytest.raises(UsageError, match='best weights and this run was loaded with which="last"'):
            call(phantom)


def test_the_dataset_goes_to_other_processes(phantom: Path, cache: Path) -> None:
    data = synthmr.dataset(phantom, sources="T1w,T2w", target="FLAIR", cache=cache)
    here, there = data[0], pickle.loads(pickle.dumps(data))[0]
    for name, image in here["images"].items():
        assert torch.equal(image, there["images"][name])


def test_networks_can_be_exported(hinet_run: Path, linear_run: Path) -> None:
    network = synthmr.load(hinet_run).network()
    images = torch.randn(1, 2, 32, 40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(images)
        exported = torch.export.export(network, (images,))
        torch.testing.assert_close(exported.module()(images), expected)
    assert expected.shape == (1, 1, 32, 40) and not network.training
    with pytest.raises(UsageError, match=r"linear is no network but a formula; use run\.predict"):
        synthmr.load(linear_run).network()


@pytest.mark.slow
def test_every_block_of_the_page_runs(phantom: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/python.md, block by block, in a folder with a cohort called data."""
    import shutil

    shutil.copytree(phantom, tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SYNTHMR_CACHE", str(cache))
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    assert len(blocks) >= 8
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks:
        assert len([line for line in block.splitlines() if line.strip()]) <= 22
        exec(compile(block, str(PAGE), "exec"), names)
    assert (tmp_path / "flair.nii.gz").is_file() and (tmp_path / "runs" / "blend" / "run.json").is_file()
    with torch.no_grad():
        assert names["exported"].module()(torch.zeros(1, 2, 64, 64)).shape == (1, 1, 64, 64)
