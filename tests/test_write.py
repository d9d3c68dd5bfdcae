"""Synthetic volumes on disk: grid, units, sidecar, what is skipped, what is refused, and that nothing is half-written."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from first_method import FLAIR, Counted, Lesions, Mapped, Subset, make_run
from helpers import blob_brain, write_case
from synthmr import __version__
from synthmr.case import Cohort
from synthmr.errors import DataError, UsageError
from synthmr.io.files import sha256
from synthmr.io.index import index
from synthmr.predict.cohort import NO_LESION, Summary, synthesize_cohort, synthesize_files
from synthmr.predict.keep import Keep
from synthmr.predict.settings import PredictSettings
from synthmr.predict.write import file_units, output_path

SHAPE = (14, 16, 12)
#: LPS with uneven voxels and an offset, as many scanners write it
AFFINE = np.array([[-1.0, 0, 0, 7], [0, -1.5, 0, 11], [0, 0, 2.0, -9], [0, 0, 0, 1]])


def make(settings: PredictSettings | None = None, keep: Keep | None = None, **run: Any) -> Any:
    """A predictor that gives its first source; words are those of `make_run`."""
    return Counted(make_run(**run), settings, "cpu", keep)


def arrays(seed: int) -> dict[str, np.ndarray]:
    return {"T1w": blob_brain(SHAPE, seed), "T2w": blob_brain(SHAPE, seed + 100)}


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    """Three cases with T1w and T2w, skull-stripped."""
    for number, name in enumerate(("sub-01", "sub-02", "sub-03")):
        write_case(tmp_path / "data" / name, arrays(number), AFFINE)
    return index(tmp_path / "data")


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_scanner_units_on_the_source_grid(cohort: Cohort, tmp_path: Path) -> None:
    """The first source through a copying method: values, grid and header by hand."""
    out = tmp_path / "out"
    summary = synthesize_cohort(make(), cohort, out)
    assert summary == Summary(done=("sub-01", "sub-02", "sub-03"))
    assert files_of(out) == sorted(f"sub-0{k}_desc-synth_FLAIR.{end}" for k in (1, 2, 3) for end in ("nii.gz", "json"))
    source, made = nib.load(cohort.cases[1].images["T1w"]), nib.load(output_path(out, "sub-02", "FLAIR"))
    assert made.shape == source.shape and made.get_data_dtype() == np.float32
    np.testing.assert_array_equal(made.affine, source.affine)
    for form in ("sform_code", "qform_code", "xyzt_units"):
        assert made.header[form] == source.header[form]
    t1 = arrays(1)["T1w"]
    inside = t1 != 0
    expected = np.where(inside, np.clip(t1 / np.percentile(t1[inside], 99.5), 0, 1) * 500, 0)
    np.testing.assert_allclose(made.get_fdata(), expected, atol=2e-3)
    assert not made.get_fdata()[~inside].any()
    text = made.header["descrip"].item().decode()
    assert "SYNTHETIC" in text and "FLAIR" in text and "first" in text and "0123456789ab" in text and __version__ in text


def test_normalized_units_are_those_of_evaluate(cohort: Cohort, tmp_path: Path) -> None:
    synthesize_cohort(make(), cohort, tmp_path / "out", intensity="normalized")
    t1 = arrays(0)["T1w"]
    inside = t1 != 0
    expected = np.where(inside, np.clip(t1 / np.percentile(t1[inside], 99.5), 0, 1), 0)
    np.testing.assert_allclose(nib.load(output_path(tmp_path / "out", "sub-01", "FLAIR")).get_fdata(), expected, atol=1e-5)


@pytest.mark.parametrize("intensity", ["scanner", "normalized"])
def test_outside_the_brain_is_exactly_zero_even_where_the_range_starts_below(
    cohort: Cohort, tmp_path: Path, intensity: str
) -> None:
    run = make(target_normalizers={"FLAIR": {**FLAIR, "low": -20.0}})
    synthesize_cohort(run, cohort, tmp_path, intensity=intensity)
    values = nib.load(output_path(tmp_path, "sub-01", "FLAIR")).get_fdata()
    assert (values[arrays(0)["T1w"] == 0] == 0).all() and values.max() > 0.9


def test_sidecar_says_where_it_comes_from(cohort: Cohort, tmp_path: Path) -> None:
    synthesize_cohort(make(), cohort, tmp_path)
    image = output_path(tmp_path, "sub-03", "FLAIR")
    data = json.loads((tmp_path / "sub-03_desc-synth_FLAIR.json").read_text())
    assert data["synthetic"] is True and data["method"] == "first" and data["run_hash"] == "0123456789ab"
    assert data["contrast"] == "FLAIR" and data["case"] == "sub-03" and data["intensity"] == "scanner"
    assert data["software"]["version"] == __version__ and data["date"]
    case = cohort.case("sub-03")
    assert {entry["contrast"]: entry["sha256"] for entry in data["inputs"]} == {n: sha256(p) for n, p in case.images.items()}
    assert data["image_sha256"] == sha256(image)
    assert data["settings"]["target_normalizer"] == FLAIR and "scanner" in data["settings"]["units"]
    assert data["settings"]["inference"]["mode"] == "slices" and data["settings"]["computed_with"]["precision"] in ("32", "bf16")


def test_targets_of_the_cohort_are_not_read(cohort: Cohort, tmp_path: Path) -> None:
    """Synthesis must not see the truth: a damaged FLAIR does not matter."""
    root = tmp_path / "data"
    (root / "sub-01" / "FLAIR.nii.gz").write_bytes(b"no image")
    assert synthesize_cohort(make(), index(root), tmp_path / "out").failed == {}


def test_done_is_skipped_and_byte_equal(cohort: Cohort, tmp_path: Path) -> None:
    out = tmp_path / "out"
    synthesize_cohort(make(), cohort, out)
    before = {name: (out / name).read_bytes() for name in files_of(out)}
    again = synthesize_cohort(make(), cohort, out)
    assert again == Summary(skipped=("sub-01", "sub-02", "sub-03"))
    assert {name: (out / name).read_bytes() for name in files_of(out)} == before
    output_path(out, "sub-02", "FLAIR").unlink()
    resumed = synthesize_cohort(make(), cohort, out)
    assert resumed.done == ("sub-02",) and resumed.skipped == ("sub-01", "sub-03")
    assert output_path(out, "sub-02", "FLAIR").read_bytes() == before["sub-02_desc-synth_FLAIR.nii.gz"]
    assert synthesize_cohort(make(), cohort, out, overwrite=True).done == ("sub-01", "sub-02", "sub-03")


def spoil_run(cohort: Cohort, out: Path) -> dict[str, Any]:
    return {"run": make(run_hash="ffffffffffff")}


def spoil_input(cohort: Cohort, out: Path) -> dict[str, Any]:
    write_case(cohort.cases[0].images["T1w"].parent, {"T1w": arrays(50)["T1w"]}, AFFINE)
    return {}


def spoil_intensity(cohort: Cohort, out: Path) -> dict[str, Any]:
    return {"intensity": "normalized"}


def spoil_settings(cohort: Cohort, out: Path) -> dict[str, Any]:
    return {"run": make(PredictSettings(mode="patches", patch=(8, 8)))}


def spoil_image(cohort: Cohort, out: Path) -> dict[str, Any]:
    with output_path(out, "sub-01", "FLAIR").open("ab") as stream:
        stream.write(b"x")
    return {}


def spoil_sidecar(cohort: Cohort, out: Path) -> dict[str, Any]:
    (out / "sub-01_desc-synth_FLAIR.json").write_text("{")
    return {}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_run, "another run"),
        (spoil_input, "other input files"),
        (spoil_intensity, "another intensity"),
        (spoil_settings, "other inference settings"),
        (spoil_image, "was changed"),
        (spoil_sidecar, "without a readable synthmr sidecar"),
    ],
)
def test_what_is_not_the_same_result_needs_overwrite(cohort: Cohort, tmp_path: Path, spoil: Any, words: str) -> None:
    out = tmp_path / "out"
    synthesize_cohort(make(), cohort, out)
    call: dict[str, Any] = {"run": make(), **spoil(cohort, out)}
    run = call.pop("run")
    before = output_path(out, "sub-01", "FLAIR").read_bytes()
    summary = synthesize_cohort(run, cohort, out, **call)
    assert words in summary.failed["sub-01"] and "--overwrite" in summary.failed["sub-01"]
    assert output_path(out, "sub-01", "FLAIR").read_bytes() == before
    assert synthesize_cohort(run, cohort, out, overwrite=True, **call).failed == {}
    assert synthesize_cohort(run, cohort, out, **call).skipped == ("sub-01", "sub-02", "sub-03")


def test_one_bad_case_does_not_stop_the_others(cohort: Cohort, tmp_path: Path) -> None:
    path = cohort.case("sub-02").images["T2w"]
    path.write_bytes(path.read_bytes()[:500])
    cohort.case("sub-03").images["T2w"].unlink()
    ticks: list[tuple[int, int, str]] = []
    summary = synthesize_cohort(make(), cohort, tmp_path / "out", progress=lambda *tick: ticks.append(tick))
    assert summary.done == ("sub-01",) and set(summary.failed) == {"sub-02", "sub-03"}
    assert "T2w" in summary.failed["sub-02"] and "\n" not in summary.failed["sub-02"]
    assert files_of(tmp_path / "out") == ["sub-01_desc-synth_FLAIR.json", "sub-01_desc-synth_FLAIR.nii.gz"]
    assert ticks == [(0, 3, "sub-01"), (1, 3, "sub-02"), (2, 3, "sub-03"), (3, 3, "")]


def test_a_case_without_a_source(cohort: Cohort, tmp_path: Path) -> None:
    cohort.case("sub-02").images["T2w"].unlink()
    again = index(cohort.root)
    summary = synthesize_cohort(make(), again, tmp_path / "out")
    assert "T2w" in summary.failed["sub-02"] and len(summary.done) == 2
    assert synthesize_cohort(make(kind=Subset), again, tmp_path / "subset").failed == {}


def test_odd_headers_are_told(cohort: Cohort, tmp_path: Path) -> None:
    path = cohort.case("sub-01").images["T1w"]
    image = nib.load(path)
    moved = AFFINE.copy()
    moved[0, 3] += 10
    image.set_qform(moved, 1)
    image.set_sform(AFFINE, 1)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), path)
    summary = synthesize_cohort(make(), cohort, tmp_path / "out")
    assert list(summary.notes) == ["sub-01"] and "sform and qform" in summary.notes["sub-01"][0]
    data = json.loads((tmp_path / "out" / "sub-01_desc-synth_FLAIR.json").read_text())
    assert data["settings"]["notes"] == list(summary.notes["sub-01"])


def test_not_finite_is_not_written(cohort: Cohort, tmp_path: Path) -> None:
    run = make()
    run.run.method.spoil = True
    summary = synthesize_cohort(run, cohort, tmp_path / "out")
    assert len(summary.failed) == 3 and "NaN" in summary.failed["sub-01"]
    assert files_of(tmp_path / "out") == []


def fill_the_disk(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Writing files whose name contains ``what`` fails half-way."""
    whole = Path.write_bytes
    text = Path.write_text

    def full(self: Path, data: bytes) -> int:
        if what in self.name:
            whole(self, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        return whole(self, data)

    def full_text(self: Path, data: str, *args: Any, **words: Any) -> int:
        return full(self, data.encode()) if what in self.name else text(self, data, *args, **words)

    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr(Path, "write_text", full_text)


@pytest.mark.parametrize("what", [".nii.gz", ".json"])
def test_a_full_disk_leaves_nothing(cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        fill_the_disk(patch, what)
        summary = synthesize_cohort(make(), cohort, out)
    assert len(summary.failed) == 3
    message = summary.failed["sub-01"]
    assert "space" in message.lower() and "sub-01_desc-synth_FLAIR" in message and ".tmp" not in message
    assert files_of(out) == []
    assert len(synthesize_cohort(make(), cohort, out).done) == 3


def test_unwritable_output(cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(DataError, match=r"file.* cannot be written"):
        synthesize_cohort(make(), cohort, blocker / "out")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(DataError, match="no permission"):
        synthesize_cohort(make(), cohort, tmp_path / "out")


def test_outputs_must_not_be_inputs(tmp_path: Path) -> None:
    """A table may name any file: even one that stands where the result would go."""
    paths = write_case(tmp_path, {"a_desc-synth_FLAIR": arrays(0)["T1w"], "t2": arrays(0)["T2w"]}, AFFINE)
    table = tmp_path / "cases.csv"
    table.write_text(f"case,contrast,path\na,T1w,{paths['a_desc-synth_FLAIR']}\na,T2w,{paths['t2']}\n")
    before = paths["a_desc-synth_FLAIR"].read_bytes()
    with pytest.raises(UsageError, match="is the input"):
        synthesize_cohort(make(), index(table), tmp_path, overwrite=True)
    with pytest.raises(UsageError, match="is the input"):
        synthesize_files(make(), {"T1w": paths["t2"], "T2w": paths["a_desc-synth_FLAIR"]}, paths["t2"], overwrite=True)
    assert paths["a_desc-synth_FLAIR"].read_bytes() == before


def test_single_files_equal_the_cohort(cohort: Cohort, tmp_path: Path) -> None:
    synthesize_cohort(make(), cohort, tmp_path / "out")
    case = cohort.case("sub-02")
    target = tmp_path / "one" / "flair.nii.gz"
    assert synthesize_files(make(), case.images, target) == [target]
    one, other = nib.load(target), nib.load(output_path(tmp_path / "out", "sub-02", "FLAIR"))
    np.testing.assert_array_equal(one.get_fdata(), other.get_fdata())
    assert files_of(target.parent) == ["flair.json", "flair.nii.gz"]
    stamp = target.stat().st_mtime_ns
    assert synthesize_files(make(), case.images, target) == [target] and target.stat().st_mtime_ns == stamp
    with pytest.raises(DataError, match="another run"):
        synthesize_files(make(run_hash="ffffffffffff"), case.images, target)
    synthesize_files(make(run_hash="ffffffffffff"), case.images, target, overwrite=True)
    assert json.loads((target.parent / "flair.json").read_text())["run_hash"] == "ffffffffffff"


def test_a_mask_decides_the_brain_and_is_in_the_sidecar(cohort: Cohort, tmp_path: Path) -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[5:9, 5:10, 4:8] = 1
    path = write_case(tmp_path, {"mask": mask}, AFFINE)["mask"]
    target = tmp_path / "flair.nii"
    synthesize_files(make(), cohort.cases[0].images, target, mask=path)
    values = nib.load(target).get_fdata()
    assert values[mask == 1].all() and not values[mask == 0].any()
    names = [entry["contrast"] for entry in json.loads((tmp_path / "flair.json").read_text())["inputs"]]
    assert names == ["T1w", "T2w", "mask"]


def test_several_targets_make_several_files(cohort: Cohort, tmp_path: Path) -> None:
    run = make(sources=("T1w",), targets=("FLAIR", "T2w"))
    images = {"T1w": cohort.cases[0].images["T1w"]}
    made = synthesize_files(run, images, tmp_path / "x.nii.gz")
    assert made == [tmp_path / "x_FLAIR.nii.gz", tmp_path / "x_T2w.nii.gz"] and all(path.is_file() for path in made)
    made[1].unlink()
    assert len(synthesize_files(run, images, tmp_path / "x.nii.gz")) == 2 and made[1].is_file()


def test_bad_calls_are_refused(cohort: Cohort, tmp_path: Path) -> None:
    images, out = cohort.cases[0].images, tmp_path / "flair.nii.gz"
    with pytest.raises(UsageError, match="takes T1w, T2w and was given PDw too"):
        synthesize_files(make(), {**images, "PDw": images["T1w"]}, out)
    with pytest.raises(UsageError, match="needs T2w too; add T2w=FILE"):
        synthesize_files(make(), {"T1w": images["T1w"]}, out)
    with pytest.raises(UsageError, match="did you mean scanner"):
        synthesize_files(make(), images, out, intensity="scaner")
    with pytest.raises(UsageError, match=r"not named .nii or .nii.gz"):
        synthesize_files(make(), images, tmp_path / "flair.mha")
    with pytest.raises(DataError, match=r"T2w: .*nothere.nii.gz"):
        synthesize_files(make(), {"T1w": images["T1w"], "T2w": tmp_path / "nothere.nii.gz"}, out)
    with pytest.raises(UsageError, match="did you mean patches"):
        make(PredictSettings(mode="patch"))
    write_case(tmp_path, {"odd": blob_brain((9, 9, 9))}, AFFINE)
    with pytest.raises(DataError, match=r"T2w.*differ"):
        synthesize_files(make(), {"T1w": images["T1w"], "T2w": tmp_path / "odd.nii.gz"}, out)
    assert not out.exists() and not list(tmp_path.glob(".tmp*"))


# --- the sidecar: what it takes to score the file as evaluate does --------------------------------------------------------

LEARNT = {"top": 0.9, "exponent": 1.0, "percentile": 99.5}
BRIGHT = {"brightness": {"FLAIR": {"T1w+T2w": LEARNT}}}


def read_sidecar(image: Path) -> dict[str, Any]:
    return dict(json.loads(image.with_name(image.name.removesuffix(".nii.gz") + ".json").read_text()))


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


@pytest.mark.parametrize("intensity", ["scanner", "normalized"])
@pytest.mark.parametrize("params", [FLAIR, {"name": "zscore", "mean": 90.0, "sd": 30.0, "high": 180.0}])
def test_a_sidecar_leads_from_the_voxels_to_the_scale_of_evaluate(
    cohort: Cohort, tmp_path: Path, intensity: str, params: dict[str, Any]
) -> None:
    from synthmr.prepare.normalize import apply, background

    predictor = make(target_normalizers={"FLAIR": params}, **BRIGHT)
    synthesize_cohort(predictor, cohort, tmp_path, intensity=intensity)
    image = output_path(tmp_path, "sub-02", "FLAIR")
    settings = read_sidecar(image)["settings"]
    prediction = predictor(predictor.prepare(cohort.case("sub-02")))
    assert settings["brightness"] == {**LEARNT, "factor": prediction.brightness["FLAIR"], "applied": intensity == "normalized"}
    assert settings["brightness"]["factor"] == pytest.approx(0.9, abs=0.01) if params is FLAIR else True
    assert settings["target_normalizer"] == params
    # as a reader does it
    values, inside = voxels(image).astype(np.float64), arrays(1)["T1w"] != 0
    if intensity == "scanner":
        low, scale = background(params), settings["unit_scale"]
        bright = low + (apply(values, settings["target_normalizer"]) - low) * settings["brightness"]["factor"]
        values = scale["scale"] * bright + scale["offset"]
    from synthmr.prepare.case import restore

    expected = restore(prediction.unit("FLAIR"), prediction.history)
    np.testing.assert_allclose(values[inside], expected[inside], atol=2e-6)
    assert abs(expected[inside]).max() > 0.5


def test_a_run_without_brightness_says_nothing_of_it(cohort: Cohort, tmp_path: Path) -> None:
    synthesize_cohort(make(brightness={"FLAIR": {"T1w": LEARNT}}), cohort, tmp_path, intensity="normalized")
    settings = read_sidecar(output_path(tmp_path, "sub-01", "FLAIR"))["settings"]
    assert "brightness" not in settings and settings["unit_scale"] == {"scale": 0.5, "offset": 0.5}


def test_a_sidecar_names_its_files_by_where_they_lie_from_the_image(cohort: Cohort, tmp_path: Path) -> None:
    mask = (arrays(0)["T1w"] > 0).astype(np.uint8)
    for case in cohort.cases[:2]:
        write_case(case.images["T1w"].parent, {"mask": mask}, AFFINE)
    out = tmp_path / "results" / "run"
    synthesize_cohort(make(), index(cohort.root), out)
    # both folders are moved together
    (tmp_path / "moved").mkdir()
    for name in ("data", "results"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    image = output_path(tmp_path / "moved" / "results" / "run", "sub-02", "FLAIR")
    data = read_sidecar(image)
    found = {entry["contrast"]: entry for entry in data["inputs"]}
    assert list(found) == ["T1w", "T2w", "mask"] and found["T1w"]["file"] == "T1w.nii.gz"
    for entry in found.values():
        path = image.parent / entry["path"]
        assert not Path(entry["path"]).is_absolute() and sha256(path) == entry["sha256"]
    assert data["settings"]["mask"] == {"mode": "file", **{key: found["mask"][key] for key in ("file", "path", "sha256")}}
    bare = read_sidecar(output_path(image.parent, "sub-03", "FLAIR"))
    assert bare["settings"]["mask"] == {"mode": "nonzero"} and len(bare["inputs"]) == 2


def make_older(image: Path, level: bool) -> None:
    """What the version before wrote: absolute paths, brightness where it is applied, and no mask, unit scale or later settings."""
    path = image.with_name(image.name.removesuffix(".nii.gz") + ".json")
    data = json.loads(path.read_text())
    settings = data["settings"]
    settings["inference"]["plane"] = ""
    for key in ("tight", "quick"):
        settings["inference"].pop(key, None)
    settings.pop("mask"), settings.pop("unit_scale")
    brightness = settings.pop("brightness")
    if brightness.pop("applied"):
        settings["level" if level else "brightness"] = brightness
    for entry in data["inputs"]:
        entry.pop("file")
        entry["path"] = str(image.parent / entry["path"])
    path.write_text(json.dumps(data))


@pytest.mark.parametrize("intensity", ["scanner", "normalized"])
@pytest.mark.parametrize("level", [False, True])
def test_results_of_the_version_before_are_done(cohort: Cohort, tmp_path: Path, intensity: str, level: bool) -> None:
    out = tmp_path / "out"
    synthesize_cohort(make(**BRIGHT), cohort, out, intensity=intensity)
    for case in cohort.cases:
        make_older(output_path(out, case.name, "FLAIR"), level)
    before = files_of(out), [path.read_bytes() for path in sorted(out.iterdir())]
    assert synthesize_cohort(make(**BRIGHT), cohort, out, intensity=intensity).skipped == ("sub-01", "sub-02", "sub-03")
    assert (files_of(out), [path.read_bytes() for path in sorted(out.iterdir())]) == before
    # and are not, where anything that decides the voxels differs
    other = synthesize_cohort(make(PredictSettings(tight="on"), **BRIGHT), cohort, out, intensity=intensity)
    assert all("other inference settings" in line for line in other.failed.values()) and len(other.failed) == 3
    plane = synthesize_cohort(make(PredictSettings(plane="coronal"), **BRIGHT), cohort, out, intensity=intensity)
    assert len(plane.failed) == 3
    dark = synthesize_cohort(make(brightness={"FLAIR": {"T1w+T2w": {**LEARNT, "top": 0.8}}}), cohort, out, intensity=intensity)
    assert len(dark.failed) == (3 if intensity == "normalized" else 0)  # in scanner units it is not applied


def test_the_same_plane_by_its_name_is_the_same_result(cohort: Cohort, tmp_path: Path) -> None:
    synthesize_cohort(make(), cohort, tmp_path / "out")
    assert len(synthesize_cohort(make(PredictSettings(plane="axial")), cohort, tmp_path / "out").skipped) == 3


# --- maps, lesions, contrasts that are both -------------------------------------------------------------------------------


def test_maps_are_written_beside_the_images(cohort: Cohort, tmp_path: Path) -> None:
    maps = ("attention", "segmentation")
    synthesize_cohort(make(kind=Mapped), cohort, tmp_path / "out", maps=maps)
    label = output_path(tmp_path / "out", "sub-01", "segmentation")
    assert label.name == "sub-01_desc-synth_dseg.nii.gz"
    t1 = arrays(0)["T1w"]
    bright = (t1 != 0) & (t1 > 0.5 * np.percentile(t1[t1 != 0], 99.5))
    np.testing.assert_array_equal(voxels(label), np.where(bright, 4, 0))  # BraTS' label of enhancing tumour
    assert voxels(label).dtype == np.uint8
    share = output_path(tmp_path / "out", "sub-01", "attention-T2w")
    np.testing.assert_array_equal(voxels(share), np.where(t1 != 0, np.float32(0.5), 0))
    said = {
        name: read_sidecar(output_path(tmp_path / "out", "sub-01", name))["settings"] for name in ("segmentation", "attention-T2w")
    }
    assert said["segmentation"]["units"].startswith("labels: 1 necrosis") and said["attention-T2w"]["units"].startswith("a share")
    assert not {"target_normalizer", "unit_scale", "brightness"} & {key for each in said.values() for key in each}
    assert len(synthesize_cohort(make(kind=Mapped), cohort, tmp_path / "out", maps=maps).skipped) == 3
    made = synthesize_files(make(kind=Mapped), cohort.cases[0].images, tmp_path / "x.nii.gz", maps=("attention",))
    assert [path.name for path in made] == ["x.nii.gz", "x_synth-attention-T1w.nii.gz", "x_synth-attention-T2w.nii.gz"]


def test_a_lesion_mask_is_the_cases_own_that_of_the_call_or_none(cohort: Cohort, tmp_path: Path) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[6:8, 7:9, 5:7] = 1
    path = write_case(tmp_path, {"lesion": labels}, AFFINE)["lesion"]
    summary = synthesize_cohort(make(kind=Lesions), cohort, tmp_path / "own")
    assert all("no segmentation, which this run reads as its lesion mask" in line for line in summary.failed.values())
    assert len(summary.failed) == 3 and not files_of(tmp_path / "own")
    made = {}
    for word in (path, Path(NO_LESION)):
        out = tmp_path / f"out-{word.name}"
        assert synthesize_cohort(make(kind=Lesions), cohort, out, lesion=word).failed == {}
        made[word] = voxels(output_path(out, "sub-01", "FLAIR"))
        data = read_sidecar(output_path(out, "sub-01", "FLAIR"))
        names = [entry["contrast"] for entry in data["inputs"]]
        assert names == ["T1w", "T2w", *(["segmentation"] if word == path else [])]
        assert data["settings"].get("lesion_mask") == (None if word == path else "none")
    changed = made[path] != made[Path(NO_LESION)]
    np.testing.assert_array_equal(changed, labels > 0)
    # a method that does not read it does not open it
    (cohort.root / "sub-01" / "seg.nii.gz").write_bytes(b"no image")
    assert synthesize_cohort(make(), index(cohort.root), tmp_path / "plain").failed == {}
    with pytest.raises(UsageError, match="reads no lesion mask"):
        synthesize_cohort(make(), cohort, tmp_path / "plain", lesion=path)
    with pytest.raises(DataError, match="no such lesion mask"):
        synthesize_cohort(make(kind=Lesions), cohort, tmp_path / "plain", lesion=tmp_path / "nothing.nii.gz")


def test_a_run_of_any_to_any_makes_what_a_case_lacks(cohort: Cohort, tmp_path: Path) -> None:
    """FLAIR of the first case is damaged: what is made of the others must not read it where it is not there to be read."""
    names = ("T1w", "T2w", "FLAIR")
    both: dict[str, Any] = {"sources": names, "targets": names, "kind": Subset}
    write_case(cohort.root / "sub-02", {"FLAIR": arrays(7)["T1w"]}, AFFINE)
    cohort.case("sub-03").images["T1w"].unlink()
    again = index(cohort.root)
    assert synthesize_cohort(make(**both), again, tmp_path / "out").failed == {}
    made = {
        name: sorted(path.name.split("_")[-1][:-7] for path in (tmp_path / "out").glob(f"{name}*.nii.gz"))
        for name in ("sub-01", "sub-02", "sub-03")
    }
    assert made == {"sub-01": ["FLAIR"], "sub-02": ["FLAIR", "T1w", "T2w"], "sub-03": ["FLAIR", "T1w"]}
    inputs = {}
    for contrast in names:
        data = read_sidecar(output_path(tmp_path / "out", "sub-02", contrast))
        inputs[contrast] = [entry["contrast"] for entry in data["inputs"]]
    assert inputs == {"T1w": ["T2w", "FLAIR"], "T2w": ["T1w", "FLAIR"], "FLAIR": ["T1w", "T2w"]}
    # each from the first of the others, never from itself
    source = nib.load(again.case("sub-02").images["T2w"]).get_fdata()
    image = voxels(output_path(tmp_path / "out", "sub-02", "T1w"))
    expected = np.clip(source / np.percentile(source[source != 0], 99.5), 0, 1) * 500
    np.testing.assert_allclose(image, expected, atol=2e-3)
    assert len(synthesize_cohort(make(**both), again, tmp_path / "out").skipped) == 3
    made_files = synthesize_files(make(**both), {"T1w": again.case("sub-02").images["T1w"]}, tmp_path / "x.nii.gz")
    assert [path.name for path in made_files] == ["x_T2w.nii.gz", "x_FLAIR.nii.gz"]


def test_the_mean_of_runs_has_all_their_names(cohort: Cohort, tmp_path: Path) -> None:
    two = Counted([make_run(run_hash="a" * 12, **BRIGHT), make_run(run_hash="b" * 12, **BRIGHT)])
    synthesize_cohort(two, cohort, tmp_path, intensity="normalized")
    data = read_sidecar(output_path(tmp_path, "sub-01", "FLAIR"))
    assert data["run_hash"] == "a" * 12 + "+" + "b" * 12
    assert set(data["settings"]["brightness"]) == {"factor", "applied"}
    assert len(synthesize_cohort(two, cohort, tmp_path, intensity="normalized").skipped) == 3


def test_all_that_would_be_written_can_be_had_as_arrays(cohort: Cohort, tmp_path: Path) -> None:
    predictor, maps = make(kind=Mapped, **BRIGHT), ("attention", "segmentation")
    prediction = predictor(predictor.prepare(cohort.cases[0]), maps=maps)
    labels = ["FLAIR", "attention-T1w", "attention-T2w", "segmentation"]
    for intensity in ("scanner", "normalized"):
        synthesize_cohort(predictor, cohort, tmp_path / intensity, intensity=intensity, maps=maps)
        found = file_units(prediction, intensity, spread=True)
        assert list(found) == labels
        for name in labels:
            np.testing.assert_array_equal(found[name], voxels(output_path(tmp_path / intensity, "sub-01", name)))
    spread = {"FLAIR": np.where(prediction.mask, 0.02, 0).astype(np.float32)}
    wide = dataclasses.replace(prediction, spread=spread)
    (deviation,) = set(file_units(wide, "scanner", spread=True)) - set(labels)
    assert deviation == "FLAIR spread" and list(file_units(wide, "scanner")) == labels
    inside = arrays(0)["T1w"] != 0
    for intensity, expected in (("scanner", 0.02 * 250), ("normalized", 0.01 * prediction.brightness["FLAIR"])):
        values = file_units(wide, intensity, spread=True)["FLAIR spread"]
        np.testing.assert_allclose(values, np.where(inside, expected, 0), rtol=1e-3)
    with pytest.raises(UsageError, match="unknown intensity"):
        file_units(prediction, "scaner")


# --- kept predictions -----------------------------------------------------------------------------------------------------


def test_a_kept_prediction_is_written_without_being_made_again(cohort: Cohort, tmp_path: Path) -> None:
    keep = Keep(tmp_path / "kept")
    first = make(keep=keep)
    synthesize_cohort(first, cohort, tmp_path / "one")
    assert sorted(first.calls) == ["sub-01", "sub-02", "sub-03"] and len(list((tmp_path / "kept").iterdir())) == 3
    second = make(keep=keep)
    synthesize_cohort(second, cohort, tmp_path / "two")
    assert second.calls == []
    assert synthesize_cohort(make(keep=keep), cohort, tmp_path / "three", intensity="normalized").failed == {}
    for case in cohort.cases:
        one, two = (output_path(tmp_path / name, case.name, "FLAIR").read_bytes() for name in ("one", "two"))
        assert one == two
    # other weights, and another input
    other = make(keep=keep, run_hash="f" * 12)
    synthesize_cohort(other, cohort, tmp_path / "four")
    assert len(other.calls) == 3
    write_case(cohort.root / "sub-02", {"T2w": arrays(60)["T2w"]}, AFFINE)
    changed = make(keep=keep)
    synthesize_cohort(changed, cohort, tmp_path / "five")
    assert changed.calls == ["sub-02"]
    brighter = make(keep=keep, **BRIGHT)
    synthesize_cohort(brighter, cohort, tmp_path / "bright", intensity="normalized")
    assert len(brighter.calls) == 3, "whoever changes run.json gets an old prediction"
    maps = make(keep=keep, kind=Mapped)
    synthesize_cohort(maps, cohort, tmp_path / "six", maps=("attention",))
    assert len(maps.calls) == 3, "a prediction without the map was taken for one with it"
