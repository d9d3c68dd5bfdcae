"""Synthetic volumes on disk: grid, units, sidecar, what is skipped, what is refused, and that nothing is half-written."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import nibabel as nib
import numpy as np
import pytest
from torch import Tensor

from helpers import blob_brain, write_case
from synthmr import __version__
from synthmr.batch import Batch
from synthmr.case import Cohort
from synthmr.config import PrepareConfig, RunConfig
from synthmr.data.split import Split
from synthmr.errors import DataError, UsageError
from synthmr.io.files import sha256
from synthmr.io.index import index
from synthmr.methods.contract import FittedMethod, Spec, check_wanted
from synthmr.predict.predictor import PredictSettings
from synthmr.predict.write import Summary, output_path, synthesize_cohort, synthesize_files
from synthmr.run import LoadedRun, RunFolder

SHAPE = (14, 16, 12)
#: LPS with uneven voxels and an offset, as many scanners write it
AFFINE = np.array([[-1.0, 0, 0, 7], [0, -1.5, 0, 11], [0, 0, 2.0, -9], [0, 0, 0, 1]])
FLAIR = {"name": "percentile", "low": 0.0, "high": 500.0}


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """Nothing to set."""


class First(FittedMethod):
    """Gives its first source for every target; ``spoil`` makes it NaN."""

    spec: ClassVar[Spec] = Spec(name="first", title="for tests", sources=(1, 2), targets=(1, 2))
    Options: ClassVar[type] = NoOptions
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    spoil = False

    def __call__(self, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Tensor]:
        given, targets = check_wanted(self, batch, wanted)
        return {name: batch.images[given[0]] * (float("nan") if self.spoil else 1) for name in targets}


class Subset(First):
    """The same, from any subset of its sources."""

    spec: ClassVar[Spec] = dataclasses.replace(First.spec, any_subset=True)


def make_run(
    sources: Sequence[str] = ("T1w", "T2w"),
    targets: Sequence[str] = ("FLAIR",),
    kind: type[First] = First,
    run_hash: str = "0123456789ab",
) -> LoadedRun:
    config = RunConfig("first", "fast", tuple(sources), tuple(targets), prepare=PrepareConfig(), options=NoOptions())
    info = {"target_normalizers": dict.fromkeys(targets, FLAIR), "landmarks": {}}
    return LoadedRun(RunFolder(Path("run")), kind(NoOptions(), sources, targets), config, Split((), (), (), "test"), info, run_hash)


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
    summary = synthesize_cohort(make_run(), cohort, out)
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
    synthesize_cohort(make_run(), cohort, tmp_path / "out", intensity="normalized")
    t1 = arrays(0)["T1w"]
    inside = t1 != 0
    expected = np.where(inside, np.clip(t1 / np.percentile(t1[inside], 99.5), 0, 1), 0)
    np.testing.assert_allclose(nib.load(output_path(tmp_path / "out", "sub-01", "FLAIR")).get_fdata(), expected, atol=1e-5)


@pytest.mark.parametrize("intensity", ["scanner", "normalized"])
def test_outside_the_brain_is_exactly_zero_even_where_the_range_starts_below(
    cohort: Cohort, tmp_path: Path, intensity: str
) -> None:
    run = make_run()
    run = dataclasses.replace(run, info={**run.info, "target_normalizers": {"FLAIR": {**FLAIR, "low": -20.0}}})
    synthesize_cohort(run, cohort, tmp_path, intensity=intensity)
    values = nib.load(output_path(tmp_path, "sub-01", "FLAIR")).get_fdata()
    assert (values[arrays(0)["T1w"] == 0] == 0).all() and values.max() > 0.9


def test_sidecar_says_where_it_comes_from(cohort: Cohort, tmp_path: Path) -> None:
    synthesize_cohort(make_run(), cohort, tmp_path)
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
    assert synthesize_cohort(make_run(), index(root), tmp_path / "out").failed == {}


def test_done_is_skipped_and_byte_equal(cohort: Cohort, tmp_path: Path) -> None:
    out = tmp_path / "out"
    synthesize_cohort(make_run(), cohort, out)
    before = {name: (out / name).read_bytes() for name in files_of(out)}
    again = synthesize_cohort(make_run(), cohort, out)
    assert again == Summary(skipped=("sub-01", "sub-02", "sub-03"))
    assert {name: (out / name).read_bytes() for name in files_of(out)} == before
    output_path(out, "sub-02", "FLAIR").unlink()
    resumed = synthesize_cohort(make_run(), cohort, out)
    assert resumed.done == ("sub-02",) and resumed.skipped == ("sub-01", "sub-03")
    assert output_path(out, "sub-02", "FLAIR").read_bytes() == before["sub-02_desc-synth_FLAIR.nii.gz"]
    assert synthesize_cohort(make_run(), cohort, out, overwrite=True).done == ("sub-01", "sub-02", "sub-03")


def spoil_run(cohort: Cohort, out: Path) -> dict[str, Any]:
    return {"run": make_run(run_hash="ffffffffffff")}


def spoil_input(cohort: Cohort, out: Path) -> dict[str, Any]:
    write_case(cohort.cases[0].images["T1w"].parent, {"T1w": arrays(50)["T1w"]}, AFFINE)
    return {}


def spoil_intensity(cohort: Cohort, out: Path) -> dict[str, Any]:
    return {"intensity": "normalized"}


def spoil_settings(cohort: Cohort, out: Path) -> dict[str, Any]:
    return {"settings": PredictSettings(mode="patches", patch=(8, 8))}


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
    synthesize_cohort(make_run(), cohort, out)
    call: dict[str, Any] = {"run": make_run(), **spoil(cohort, out)}
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
    summary = synthesize_cohort(make_run(), cohort, tmp_path / "out", progress=lambda *tick: ticks.append(tick))
    assert summary.done == ("sub-01",) and set(summary.failed) == {"sub-02", "sub-03"}
    assert "T2w" in summary.failed["sub-02"] and "\n" not in summary.failed["sub-02"]
    assert files_of(tmp_path / "out") == ["sub-01_desc-synth_FLAIR.json", "sub-01_desc-synth_FLAIR.nii.gz"]
    assert ticks == [(0, 3, "sub-01"), (1, 3, "sub-02"), (2, 3, "sub-03"), (3, 3, "")]


def test_a_case_without_a_source(cohort: Cohort, tmp_path: Path) -> None:
    cohort.case("sub-02").images["T2w"].unlink()
    again = index(cohort.root)
    summary = synthesize_cohort(make_run(), again, tmp_path / "out")
    assert "T2w" in summary.failed["sub-02"] and len(summary.done) == 2
    assert synthesize_cohort(make_run(kind=Subset), again, tmp_path / "subset").failed == {}


def test_odd_headers_are_told(cohort: Cohort, tmp_path: Path) -> None:
    path = cohort.case("sub-01").images["T1w"]
    image = nib.load(path)
    moved = AFFINE.copy()
    moved[0, 3] += 10
    image.set_qform(moved, 1)
    image.set_sform(AFFINE, 1)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), path)
    summary = synthesize_cohort(make_run(), cohort, tmp_path / "out")
    assert list(summary.notes) == ["sub-01"] and "sform and qform" in summary.notes["sub-01"][0]
    data = json.loads((tmp_path / "out" / "sub-01_desc-synth_FLAIR.json").read_text())
    assert data["settings"]["notes"] == list(summary.notes["sub-01"])


def test_not_finite_is_not_written(cohort: Cohort, tmp_path: Path) -> None:
    run = make_run()
    run.method.spoil = True
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
        summary = synthesize_cohort(make_run(), cohort, out)
    assert len(summary.failed) == 3
    message = summary.failed["sub-01"]
    assert "space" in message.lower() and "sub-01_desc-synth_FLAIR" in message and ".tmp" not in message
    assert files_of(out) == []
    assert len(synthesize_cohort(make_run(), cohort, out).done) == 3


def test_unwritable_output(cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(DataError, match=r"file.* cannot be written"):
        synthesize_cohort(make_run(), cohort, blocker / "out")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(DataError, match="no permission"):
        synthesize_cohort(make_run(), cohort, tmp_path / "out")


def test_outputs_must_not_be_inputs(tmp_path: Path) -> None:
    """A table may name any file: even one that stands where the result would go."""
    paths = write_case(tmp_path, {"a_desc-synth_FLAIR": arrays(0)["T1w"], "t2": arrays(0)["T2w"]}, AFFINE)
    table = tmp_path / "cases.csv"
    table.write_text(f"case,contrast,path\na,T1w,{paths['a_desc-synth_FLAIR']}\na,T2w,{paths['t2']}\n")
    before = paths["a_desc-synth_FLAIR"].read_bytes()
    with pytest.raises(UsageError, match="is the input"):
        synthesize_cohort(make_run(), index(table), tmp_path, overwrite=True)
    with pytest.raises(UsageError, match="is the input"):
        synthesize_files(make_run(), {"T1w": paths["t2"], "T2w": paths["a_desc-synth_FLAIR"]}, paths["t2"], overwrite=True)
    assert paths["a_desc-synth_FLAIR"].read_bytes() == before


def test_single_files_equal_the_cohort(cohort: Cohort, tmp_path: Path) -> None:
    synthesize_cohort(make_run(), cohort, tmp_path / "out")
    case = cohort.case("sub-02")
    target = tmp_path / "one" / "flair.nii.gz"
    assert synthesize_files(make_run(), case.images, target) == [target]
    one, other = nib.load(target), nib.load(output_path(tmp_path / "out", "sub-02", "FLAIR"))
    np.testing.assert_array_equal(one.get_fdata(), other.get_fdata())
    assert files_of(target.parent) == ["flair.json", "flair.nii.gz"]
    stamp = target.stat().st_mtime_ns
    assert synthesize_files(make_run(), case.images, target) == [target] and target.stat().st_mtime_ns == stamp
    with pytest.raises(DataError, match="another run"):
        synthesize_files(make_run(run_hash="ffffffffffff"), case.images, target)
    synthesize_files(make_run(run_hash="ffffffffffff"), case.images, target, overwrite=True)
    assert json.loads((target.parent / "flair.json").read_text())["run_hash"] == "ffffffffffff"


def test_a_mask_decides_the_brain_and_is_in_the_sidecar(cohort: Cohort, tmp_path: Path) -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[5:9, 5:10, 4:8] = 1
    path = write_case(tmp_path, {"mask": mask}, AFFINE)["mask"]
    target = tmp_path / "flair.nii"
    synthesize_files(make_run(), cohort.cases[0].images, target, mask=path)
    values = nib.load(target).get_fdata()
    assert values[mask == 1].all() and not values[mask == 0].any()
    names = [entry["contrast"] for entry in json.loads((tmp_path / "flair.json").read_text())["inputs"]]
    assert names == ["T1w", "T2w", "mask"]


def test_several_targets_make_several_files(cohort: Cohort, tmp_path: Path) -> None:
    run = make_run(("T1w",), ("FLAIR", "T2w"))
    images = {"T1w": cohort.cases[0].images["T1w"]}
    made = synthesize_files(run, images, tmp_path / "x.nii.gz")
    assert made == [tmp_path / "x_FLAIR.nii.gz", tmp_path / "x_T2w.nii.gz"] and all(path.is_file() for path in made)
    made[1].unlink()
    assert len(synthesize_files(run, images, tmp_path / "x.nii.gz")) == 2 and made[1].is_file()


def test_bad_calls_are_refused(cohort: Cohort, tmp_path: Path) -> None:
    images, out = cohort.cases[0].images, tmp_path / "flair.nii.gz"
    with pytest.raises(UsageError, match="takes T1w, T2w and was given PDw too"):
        synthesize_files(make_run(), {**images, "PDw": images["T1w"]}, out)
    with pytest.raises(UsageError, match="needs T2w too; add T2w=FILE"):
        synthesize_files(make_run(), {"T1w": images["T1w"]}, out)
    with pytest.raises(UsageError, match="did you mean scanner"):
        synthesize_files(make_run(), images, out, intensity="scaner")
    with pytest.raises(UsageError, match=r"not named .nii or .nii.gz"):
        synthesize_files(make_run(), images, tmp_path / "flair.mha")
    with pytest.raises(DataError, match=r"T2w: .*nothere.nii.gz"):
        synthesize_files(make_run(), {"T1w": images["T1w"], "T2w": tmp_path / "nothere.nii.gz"}, out)
    with pytest.raises(UsageError, match="did you mean patches"):
        synthesize_files(make_run(), images, out, settings=PredictSettings(mode="patch"))
    write_case(tmp_path, {"odd": blob_brain((9, 9, 9))}, AFFINE)
    with pytest.raises(DataError, match=r"T2w.*differ"):
        synthesize_files(make_run(), {"T1w": images["T1w"], "T2w": tmp_path / "odd.nii.gz"}, out)
    assert not out.exists() and not list(tmp_path.glob(".tmp*"))
