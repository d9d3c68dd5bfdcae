"""New contrasts for a trained run: what was there stays as it was, to the bit (MILR, Section VI-E)."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from conftest import Run, Verb
from method_alone import predict_case
from synthmr import pipeline
from synthmr.case import Case, Cohort
from synthmr.data.split import Split
from synthmr.errors import DataError, RunError, UsageError
from synthmr.prepare.brightness import Brightness
from synthmr.prepare.case import prepare_case
from synthmr.prepare.units import Units
from synthmr.run import RunFolder, build_method, load_run, method_state, read_arrays, run_hash, save_arrays
from synthmr.train.extend import adopt, check_landmarks, extended_config, inherit, inherited_split

TINY = [
    "options.filters=4",
    "sample.batch=2",
    "train.images=false",
    "train.precision=32",
    "train.validate_every=2",
    "train.ema=0.99",
]


pytestmark = pytest.mark.usefixtures("one_thread")


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
    """The run that is extended; its weights are averages (ema). Read only."""
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
def call(verb: Verb, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Call:
    """The command line in this process; returns its one line of error, or what it wrote to standard error."""
    monkeypatch.setenv("SYNTHMR_CACHE", str(cache))

    def run(*words: object, code: int = 0) -> str:
        text = verb("-q", *words, code=code).stderr
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
    out = extend(more_targets, data, tmp_path / "run", cache, sources="T1ce", budget={"steps": 2}, seed=3)
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


def scaled_copy(data: Path, out: Path, factor: float) -> Path:
    """The cohort under other names, its FLAIR brighter."""
    for number in range(1, 5):
        shutil.copytree(data / f"sub-00{number}", out / f"person-{number}")
        path = out / f"person-{number}" / "FLAIR.nii.gz"
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj, np.float32) * factor, image.affine), path)
    return out


def test_old_outputs_keep_their_units_whatever_the_new_data(base: Path, data: Path, cache: Path, tmp_path: Path) -> None:
    other = scaled_copy(data, tmp_path / "other", 3)
    out = extend(base, other, tmp_path / "run", cache, targets="PDw", budget={"steps": 2})
    old, new = RunFolder.open(base).info, RunFolder.open(out).info
    assert new["target_normalizers"]["FLAIR"] == old["target_normalizers"]["FLAIR"]
    assert new["target_normalizers"]["PDw"]["name"] == "percentile"
    assert all(name.startswith("person") for name in new["training_cases"])
    names = ("T1w", "T2w")
    one, two = (make(run, data / "sub-004", names, tmp_path / run.parent.name / "made.nii.gz")["FLAIR"] for run in (base, out))
    assert_same_file(one, two)


def test_inherited_record() -> None:
    run: Any = SimpleNamespace(
        target_normalizers={"FLAIR": {"high": 1.0}},
        units={"FLAIR": Units(0.5, 0.25)},
        landmarks={"FLAIR": {"standard": [0]}},
        hash="abc",
        folder=None,
        brightness={"FLAIR": {"T1w+T2w": Brightness(0.9, 0.5, 99.5)}},
    )
    own = {"scale": 2.0, "offset": 0.0}
    info = {
        "target_normalizers": {"FLAIR": {"high": 2.0}, "PDw": {"high": 3.0}},
        "target_units": {"FLAIR": own, "PDw": own},
        "landmarks": {"FLAIR": {}, "PDw": {}},
        "seed": 1,
    }
    assert inherit(info, run) == {
        "target_normalizers": {"FLAIR": {"high": 1.0}, "PDw": {"high": 3.0}},
        "target_units": {"FLAIR": {"scale": 0.5, "offset": 0.25}, "PDw": own},
        "landmarks": {"FLAIR": {"standard": [0]}, "PDw": {}},
        "seed": 1,
        "extends": "abc",
        "brightness": {"FLAIR": {"T1w+T2w": {"top": 0.9, "exponent": 0.5, "percentile": 99.5}}},
    }


# --- the split --------------------------------------------------------------------------------------------------------------


def cohort_of(names: Mapping[str, Sequence[str]], split: Mapping[str, str] | None = None) -> Cohort:
    cases = tuple(
        Case(name, name, {each: Path(f"{name}_{each}.nii.gz") for each in contrasts}, split=(split or {}).get(name))
        for name, contrasts in names.items()
    )
    return Cohort(Path("cohort"), "folder", cases, (), Path("splits.tsv") if split else None)


def test_cases_that_were_held_out_stay_held_out() -> None:
    run: Any = SimpleNamespace(split=Split(("a", "b"), ("c",), ("d",), "seed 0"), folder=SimpleNamespace(path=Path("run")))
    wanted, all_of = ("T1w", "PDw"), ("T1w", "PDw", "FLAIR")
    own = Path("run") / "split.tsv"
    assert inherited_split(run, cohort_of(dict.fromkeys("abcd", all_of)), wanted) == own
    assert inherited_split(run, cohort_of(dict.fromkeys("acd", all_of)), wanted) == own
    # one that lacks a contrast is not used and so does not matter
    assert inherited_split(run, cohort_of({**dict.fromkeys("abcd", all_of), "e": ("T1w",)}), wanted) == own
    assert inherited_split(run, cohort_of({**dict.fromkeys("abc", all_of), "d": ("T1w",)}), wanted) == own
    # its own split, or other people
    assert inherited_split(run, cohort_of(dict.fromkeys("abcd", all_of), dict.fromkeys("abcd", "train")), wanted) == own
    assert inherited_split(run, cohort_of(dict.fromkeys("efg", all_of)), wanted) is None
    mixed = dict.fromkeys("abcdef", all_of)
    assert inherited_split(run, cohort_of(mixed, dict.fromkeys("abcdef", "train")), wanted) is None
    with pytest.raises(DataError, match=r"holds 4 cases of the run and 2 others \(e, f\); say with --split-file"):
        inherited_split(run, cohort_of(mixed), wanted)


def test_the_split_of_the_run_is_kept_in_an_unsplit_cohort(base: Path, data: Path, cache: Path, tmp_path: Path, call: Call) -> None:
    """A new draw with another seed would train on the test case."""
    folder = tmp_path / "cohort"
    shutil.copytree(data, folder)
    (folder / "splits.tsv").unlink()
    for seed in range(3):
        out = tmp_path / f"run{seed}"
        config, store, split, loaded = pipeline.extension(base, folder, add_targets="PDw", seed=seed, cache=cache)
        kept = loaded.split
        assert (split.train, split.validation, split.test) == (kept.train, kept.validation, kept.test)
        assert config.seed == seed and store.split == split
    shutil.copytree(folder / "sub-001", folder / "sub-009")
    text = call("extend", base, folder, "--add-target", "PDw", "--out", out, code=1)
    assert "4 cases of the run and 1 others (sub-009)" in text and not out.exists()


# --- what is refused ---------------------------------------------------------------------------------------------------------

REFUSED = [
    ([], "nothing to add: give --add-target or --add-source"),
    (["--add-target", "FLAIR"], "FLAIR is a contrast of this run already"),
    (["--add-target", "T1w"], "T1w is a contrast of this run already"),
    (["--add-source", "T2"], "T2w is a contrast of this run already"),
    (["--add-source", "FLAIR"], "FLAIR is a contrast of this run already"),
    (["--add-target", "PDw,PD"], "names a contrast twice"),
    (["--add-target", "FLIAR"], "did you mean FLAIR"),
    (["--add-target", "PDw", "--set", "prepare.normalizer=zscore"], "--set prepare.normalizer=zscore: preparation and network"),
    (["--add-target", "PDw", "--set", "options.fusion=mean"], "--set options.fusion=mean: preparation and network"),
    # short keys name no section
    (["--add-target", "PDw", "--set", "normalizer=zscore"], "--set normalizer=zscore: preparation and network"),
    (["--add-target", "PDw", "--set", "fusion=mean"], "--set fusion=mean: preparation and network"),
    (["--add-target", "PDw", "--set", "train.lr=1", "--set", "frozen="], "--set frozen=: preparation and network"),
    (["--add-target", "PDw", "--set", "train.lrr=1"], "did you mean train.lr"),
    # what decides at which size the old outputs are computed
    (["--add-target", "PDw", "--set", "sample.crop=16,16"], "sample.mode, sample.crop and sample.resize decide"),
    (["--add-target", "PDw", "--steps", "2", "--minutes", "1"], "give one"),
]


@pytest.mark.parametrize(("words", "expected"), REFUSED, ids=[" ".join(words) or "nothing" for words, _ in REFUSED])
def test_refused(base: Path, data: Path, tmp_path: Path, call: Call, words: list[str], expected: str) -> None:
    out = tmp_path / "run"
    assert expected in call("extend", base, data, "--out", out, *words, code=2)
    assert not out.exists()


def test_data_without_the_contrast_and_folders_in_use(base: Path, data: Path, tmp_path: Path, call: Call) -> None:
    out, before = tmp_path / "run", contents(base)
    text = call("extend", base, data, "--add-target", "DWI", "--out", out, code=1)
    assert "has all of T1w, T2w, FLAIR, DWI" in text
    assert "no run folder" in call("extend", tmp_path, data, "--add-target", "PDw", "--out", out, code=1)
    assert "no such folder" in call("extend", base, tmp_path / "x", "--add-target", "PDw", "--out", out, code=1)
    assert "no run folder" in call("extend", base, data, "--add-target", "PDw", "--out", out, "--resume", code=1)
    assert not out.exists()
    assert "exists and is not empty" in call("extend", base, data, "--add-target", "PDw", "--out", base, code=2)
    assert "is finished" in call("extend", base, data, "--add-target", "PDw", "--out", base, "--resume", code=2)
    assert contents(base) == before


def test_methods_that_cannot_be_extended(data: Path, cache: Path, tmp_path: Path, call: Call) -> None:
    words = "has its contrasts built in when it is trained; train it anew, or use milr, which can be extended"
    for method in ("hinet", "unet", "linear"):
        run: Any = SimpleNamespace(config=(config := pipeline.configure(method, "T1w,T2w", "FLAIR")), method=build_method(config))
        with pytest.raises(UsageError, match=f"{method} {words}"):
            extended_config(run, (), ("PDw",))
    config = pipeline.configure("copy", "T1w", "FLAIR")
    store, split = pipeline.prepared(data, config, cache=cache)
    pipeline.train(config, store, split, tmp_path / "copy")
    assert f"copy {words}" in call("extend", tmp_path / "copy", data, "--add-target", "PDw", "--out", tmp_path / "run", code=2)
    assert not (tmp_path / "run").exists()


def test_nyul_scales_must_agree() -> None:
    marks = {"FLAIR": {"standard": [-1.0, 0.0, 1.0]}}
    run: Any = SimpleNamespace(landmarks=marks)
    check_landmarks(run, {**marks, "PDw": {"standard": [-1.0, 1.0]}})
    others: list[dict[str, Any]] = [{}, {"FLAIR": {"standard": [-1.0, 0.1, 1.0]}}]
    for other in others:
        with pytest.raises(UsageError, match="learnt the nyul scale of FLAIR from its own training cases"):
            check_landmarks(run, other)


def test_weights_that_do_not_fit(base: Path) -> None:
    run = load_run(base)
    narrow = build_method(replace(run.config, options=replace(run.config.options, filters=2)))
    with pytest.raises(RunError, match="do not fit the extended network: encoders"):
        adopt(narrow, run)
    with pytest.raises(RunError, match=r"do not fit the extended network: decoders\.FLAIR"):
        adopt(build_method(replace(run.config, targets=("PDw",))), run)


# --- interruptions -----------------------------------------------------------------------------------------------------------


class Stopped(Exception):
    pass


class Interrupt:
    """A display that stops the run: at a step, before its checkpoint, or never."""

    def __init__(self, step: int = 0) -> None:
        self.step = step
        self.messages: list[str] = []

    def on_step(self, step: int, *rest: object) -> None:
        if step == self.step:
            raise Stopped

    def on_validation(self, step: int, score: float, best: float, name: str = "psnr", unit: str = "dB") -> None:
        pass

    def on_message(self, text: str) -> None:
        self.messages.append(text)


@pytest.mark.parametrize("step", [1, 3])
def test_resuming_reaches_the_bits_of_an_uninterrupted_extension(
    base: Path, more_targets: Path, data: Path, cache: Path, tmp_path: Path, step: int
) -> None:
    """Checkpoints are at 2 and 4: one that was stopped at step 1 has none, and begins from the run's weights again."""
    out = tmp_path / "run"
    with pytest.raises(Stopped):
        extend(base, data, out, cache, targets="PDw", progress=Interrupt(step))
    assert RunFolder.open(out).checkpoint("last").is_dir() == (step > 2)
    display = Interrupt()
    extend(base, data, out, cache, targets="PDw", progress=display, resume=True)
    first = "continues after step 2" if step > 2 else "no checkpoint was written yet; begins again, after step 0"
    assert display.messages[0] == f"{out}: {first}"
    for which, name in (("best", "model"), ("last", "model"), ("last", "ema")):
        new, expected = weights(out, which, name), weights(more_targets, which, name)
        assert new.keys() == expected.keys()
        assert all(new[key].tobytes() == value.tobytes() for key, value in expected.items())
    one, two = RunFolder.open(out).info, RunFolder.open(more_targets).info
    assert one["status"] == "finished"
    assert all(one[key] == two[key] for key in ("extends", "target_normalizers", "hash", "parameters", "training_cases"))


def test_resuming_with_another_run_or_another_verb_is_refused(
    base: Path, data: Path, cache: Path, tmp_path: Path, call: Call
) -> None:
    out = tmp_path / "run"
    with pytest.raises(Stopped):
        extend(base, data, out, cache, targets="PDw", progress=Interrupt(1))
    before = contents(out)
    twin = tmp_path / "twin"
    shutil.copytree(base, twin)
    path = twin / "checkpoints" / "best" / "model.safetensors"
    save_arrays(path, {key: value + 1 for key, value in read_arrays(path).items()})
    (path.parent / "state.json").unlink()  # as of an older version, which noted no checksum of its files
    edited = RunFolder.open(twin)
    edited.write_info({**edited.info, "hash": run_hash(edited.config, path)})
    words = ("--add-target", "PDw", "--out", out, "--resume")
    assert "extends another run, or none; resume it with the words that started it" in call("extend", twin, data, *words, code=2)
    assert "another targets" in call("extend", base, data, "--add-target", "T1ce", "--out", out, "--resume", code=2)
    named = ("--sources", "T1w,T2w", "--target", "FLAIR,PDw", "--out", out, "--resume")
    text = call("train", "milr", data, *named, "--config", out / "config.yaml", code=2)
    assert "options.frozen: `synthmr extend` fills it in" in text
    assert contents(out) == before
    # and an ordinary run is no extension
    fresh = tmp_path / "fresh"
    config = RunFolder.open(base).config
    store, split = pipeline.prepared(data, config, cache=cache)
    with pytest.raises(Stopped):
        pipeline.train(config, store, split, fresh, progress=Interrupt(1))
    with pytest.raises(UsageError, match="extends another run, or none"):
        pipeline.train(config, store, split, fresh, resume=True, extends=load_run(base))


def test_the_base_may_be_deleted(more_targets: Path, data: Path, cache: Path, tmp_path: Path) -> None:
    """The new folder is a run of its own."""
    out = tmp_path / "moved"
    shutil.copytree(more_targets, out)
    summary = pipeline.synthesize_cohort(out, data, tmp_path / "made", split="test")
    assert summary.done == ("sub-004",) and not summary.failed
    rows = pipeline.evaluate([out], data, protocols=["masked-volume"]).rows
    assert {row.contrast for row in rows} == {"FLAIR", "PDw"}
    sidecar = json.loads((tmp_path / "made" / "sub-004_desc-synth_PDw.json").read_text())
    assert load_run(out).hash in json.dumps(sidecar)
