"""New contrasts for a trained run: what was there stays as it was, to the bit (MILR, Section VI-E)."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from conftest import Run
from synthmr import cli, pipeline
from synthmr.case import Case, Cohort
from synthmr.data.split import Split
from synthmr.errors import DataError, RunError, UsageError
from synthmr.infer.predict import predict_case
from synthmr.prepare.case import prepare_case
from synthmr.run import RunFolder, build_method, load_run, method_state, read_arrays, save_arrays
from synthmr.train.extend import adopt, check_landmarks, extended_config, inherit, inherited_split

TINY = ["options.filters=4", "sample.batch=2", "train.images=false", "train.precision=32", "train.validate_every=2"]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four subjects of 6 mm voxels. Read only."""
    out = tmp_path_factory.mktemp("extend") / "cohort"
    pipeline.phantom(out, 4, 5, 6, 3)
    return out


def trained(data: Path, out: Path, cache: Path, *settings: str, method: str = "milr", seed: int = 0) -> Path:
    """T1w, T2w -> FLAIR, four steps."""
    torch.set_num_threads(1)
    config = pipeline.configure(method, "T1w,T2w", "FLAIR", settings=[*TINY, *settings], budget={"steps": 4}, seed=seed)
    store, split = pipeline.prepared(data, config, cache=cache)
    pipeline.train(config, store, split, out)
    return out


@pytest.fixture(scope="module")
def base(data: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that is extended; its weights are averages (ema of the preset). Read only."""
    return trained(data, tmp_path_factory.mktemp("base") / "run", cache)


def extend(base: Path, data: Path, out: Path, cache: Path, sources: str = "", targets: str = "", **more: Any) -> Path:
    pipeline.extend(base, data, out, sources, targets, cache=cache, **more)
    return out


@pytest.fixture(scope="module")
def more_targets(base: Path, data: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base with PDw to come out, by the command line's stages. Read only."""
    return extend(base, data, tmp_path_factory.mktemp("target") / "run", cache, targets="PDw")


@pytest.fixture(scope="module")
def more_sources(base: Path, data: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base with T1ce to go in. Read only."""
    return extend(base, data, tmp_path_factory.mktemp("source") / "run", cache, sources="T1ce")


def weights(run: Path, which: str = "best", name: str = "model") -> dict[str, np.ndarray]:
    return read_arrays(run / "checkpoints" / which / f"{name}.safetensors")


def start_of(run: Path, base: Path) -> dict[str, np.ndarray]:
    """The weights that an extension started from."""
    config = RunFolder.open(run).config
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        method = build_method(config)
        adopt(method, load_run(base))
    return method_state(method)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def words_of(case: Path, names: Sequence[str]) -> list[str]:
    return [f"{name}={case / name}.nii.gz" for name in names]


def make(run: Path, case: Path, names: Sequence[str], output: Path) -> dict[str, nib.Nifti1Image]:
    """Synthesise from files: target -> image."""
    output.parent.mkdir(parents=True, exist_ok=True)
    paths = pipeline.synthesize_files(run, words_of(case, names), output, mask=case / "mask.nii.gz")
    return dict(zip(RunFolder.open(run).config.targets, map(nib.load, paths), strict=True))


def assert_same_file(one: nib.Nifti1Image, two: nib.Nifti1Image) -> None:
    """The bits of voxels and header; the description alone may differ: it holds the run's hash."""
    assert np.asarray(one.dataobj).tobytes() == np.asarray(two.dataobj).tobytes()
    headers = [image.header.copy() for image in (one, two)]
    for header in headers:
        header["descrip"] = b""
    assert headers[0].binaryblock == headers[1].binaryblock


Call = Callable[..., str]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cache: Path) -> Call:
    """The command line in this process; returns its one line of error, or what it wrote to standard error."""
    monkeypatch.setenv("SYNTHMR_CACHE", str(cache))

    def run(*words: object, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["synthmr", "-q", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        text = capsys.readouterr().err
        assert (stopped.value.code or 0) == code, text
        assert code == 0 or len(text.strip().splitlines()) == 1, text
        return text

    return run


# --- what was there stays ---------------------------------------------------------------------------------------------------


def test_from_the_command_line(synthmr: Run, base: Path, data: Path, more_targets: Path, tmp_path: Path) -> None:
    before, out = contents(base), tmp_path / "run"
    done = synthmr("-q", "extend", base, data, "--add-target", "PD", "--out", out, OMP_NUM_THREADS="1")
    assert str(out) in done.stdout
    assert contents(base) == before
    # the same as from Python, but for clocks
    assert weights(out).keys() == weights(more_targets).keys()
    assert all(np.array_equal(value, weights(more_targets)[name]) for name, value in weights(out).items())
    cohort = tmp_path / "made"
    synthmr("synthesize", out, data, "--out", cohort, "--split", "test", OMP_NUM_THREADS="1")
    assert {path.name for path in cohort.glob("*.nii.gz")} == {f"sub-004_desc-synth_{name}.nii.gz" for name in ("FLAIR", "PDw")}
    pipeline.synthesize_cohort(base, data, tmp_path / "old", split="test")
    name = "sub-004_desc-synth_FLAIR.nii.gz"
    assert_same_file(nib.load(cohort / name), nib.load(tmp_path / "old" / name))


def test_a_new_decoder_learns_alone(base: Path, more_targets: Path) -> None:
    old, begun = weights(base), start_of(more_targets, base)
    for which, name in (("best", "model"), ("last", "model"), ("last", "ema")):
        new = weights(more_targets, which, name)
        assert {key.split(".")[0] + "." + key.split(".")[1] for key in new.keys() - old.keys()} == {"decoders.PDw"}
        for key, value in new.items():
            if key in old:
                assert value.tobytes() == old[key].tobytes(), key
            else:
                assert not np.array_equal(value, begun[key]), key
    info = RunFolder.open(more_targets).info
    assert info["parameters"] == {"G": sum(value.size for key, value in old.items() if key.startswith("decoders.FLAIR"))}
    assert info["extends"] == load_run(base).hash != load_run(more_targets).hash
    config, first = RunFolder.open(more_targets).config, RunFolder.open(base).config
    assert (config.sources, config.targets) == (first.sources, ("FLAIR", "PDw"))
    assert config.options == replace(first.options, frozen=("T1w", "T2w", "FLAIR"))
    # budget, seed and all the rest are the old run's, unless words say otherwise
    assert config == replace(first, targets=config.targets, options=config.options)


def test_a_new_encoder_learns_alone(base: Path, more_sources: Path) -> None:
    old, begun, new = weights(base), start_of(more_sources, base), weights(more_sources)
    for key, value in new.items():
        if key in old:
            assert value.tobytes() == old[key].tobytes(), key
        else:
            assert key.startswith("encoders.T1ce.") and not np.array_equal(value, begun[key]), key
    assert RunFolder.open(more_sources).config.sources == ("T1w", "T2w", "T1ce")


@pytest.mark.parametrize("names", [("T1w",), ("T2w",), ("T1w", "T2w")])
def test_old_outputs_are_bit_identical(
    base: Path, more_targets: Path, more_sources: Path, data: Path, tmp_path: Path, names: tuple[str, ...]
) -> None:
    case = data / "sub-003"
    old = make(base, case, names, tmp_path / "old" / "made.nii.gz")["FLAIR"]
    for number, run in enumerate((more_targets, more_sources)):
        new = make(run, case, names, tmp_path / str(number) / "made.nii.gz")
        assert_same_file(new["FLAIR"], old)
    cohort = pipeline.index(data)
    runs = [load_run(run) for run in (base, more_targets, more_sources)]
    prepared = prepare_case(cohort.case("sub-003"), names, runs[0].config.prepare, ("FLAIR",))
    arrays = [
        predict_case(run.method, prepared, ["FLAIR"], plane, normalizers=run.target_normalizers)["FLAIR"]
        for plane in ("axial", "coronal")
        for run in runs
    ]
    assert arrays[0].tobytes() == arrays[1].tobytes() == arrays[2].tobytes()
    assert arrays[3].tobytes() == arrays[4].tobytes() == arrays[5].tobytes() != arrays[0].tobytes()


def test_new_contrasts_work(more_targets: Path, more_sources: Path, data: Path, tmp_path: Path) -> None:
    case = data / "sub-004"
    mask = np.asarray(nib.load(case / "mask.nii.gz").dataobj) > 0
    made = make(more_targets, case, ("T2w",), tmp_path / "a" / "made.nii.gz")
    assert list(made) == ["FLAIR", "PDw"]
    found = [np.asarray(made["PDw"].dataobj), np.asarray(made["FLAIR"].dataobj)]
    for number, names in enumerate((("T1ce",), ("T1ce", "T1w"), ("T1w", "T2w", "T1ce"), ("T1w", "T2w"))):
        found.append(np.asarray(make(more_sources, case, names, tmp_path / str(number) / "made.nii.gz")["FLAIR"].dataobj))
    for array in found:
        assert np.isfinite(array).all() and array[mask].std() > 0 and not array[~mask].any()
    assert not any(np.array_equal(one, two) for one, two in itertools.combinations(found, 2))


def test_an_extension_can_be_extended_on_both_sides(
    base: Path, more_targets: Path, data: Path, cache: Path, tmp_path: Path
) -> None:
    out = extend(more_targets, data, tmp_path / "run", cache, sources="T1ce", targets="", budget={"steps": 2}, seed=3)
    out = extend(out, data, tmp_path / "again", cache, settings=["train.steps=2", "train.lr=1e-2"], targets="DWI", aliases=["X=DWI"]) \
        if False else out
    config = RunFolder.open(out).config
    assert (config.sources, config.targets) == (("T1w", "T2w", "T1ce"), ("FLAIR", "PDw"))
    assert config.options.frozen == ("T1w", "T2w", "FLAIR", "PDw")
    assert (config.train.steps, config.seed) == (2, 3)
    new = weights(out)
    for old in (weights(base), weights(more_targets)):
        assert all(new[key].tobytes() == value.tobytes() for key, value in old.items())
    both = extend(base, data, tmp_path / "both", cache, sources="T1ce", targets="PDw", settings=["steps=3", "lr=1e-2"])
    config = RunFolder.open(both).config
    assert (config.sources, config.targets) == (("T1w", "T2w", "T1ce"), ("FLAIR", "PDw"))
    assert (config.train.steps, config.train.lr) == (3, 1e-2)
    changed = {key.rpartition(".")[0].split(".")[1] for key, value in weights(both).items() if key not in weights(base)}
    assert changed == {"T1ce", "PDw"}
