"""Inputs in other units, of other contrasts or grids than a run was trained on: found, said, undone or refused.

Each row names the public data or tool that writes such files.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

import synthmr
from synthmr.errors import DataError, SynthmrWarning
from synthmr.prepare import background

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE, EDGE = (40, 48, 36), 4.0
LEVELS = {"T1w": (0, 200, 500, 750, 350), "T2w": (0, 1100, 600, 450, 900), "FLAIR": (0, 150, 550, 400, 900)}
AFFINE = np.diag([EDGE, EDGE, EDGE, 1.0])

Images = dict[str, np.ndarray]


def person(seed: int) -> Images:
    """T1w, T2w and FLAIR of one person, ``SHAPE`` float32 of whole numbers: fluid, grey and white matter, a lesion, 4 % noise."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, edge) for edge in SHAPE], indexing="ij")
    size = rng.uniform(0.9, 1.1, 3)
    depth = (x / 0.75 / size[0]) ** 2 + (y / 0.85 / size[1]) ** 2 + (z / 0.8 / size[2]) ** 2
    tissue = np.zeros(SHAPE, np.uint8)
    tissue[depth < 1] = 2
    tissue[depth < 0.62] = 3
    for middle in (-0.12, 0.2):
        tissue[((x - middle) / 0.13) ** 2 + (y / 0.33) ** 2 + (z / 0.28) ** 2 < 1] = 1
    at = rng.uniform(-0.3, 0.3, 2)
    tissue[((x - at[0]) ** 2 + (y - at[1]) ** 2 + (z - 0.15) ** 2 < 0.02) & (depth < 0.9)] = 4
    found = {}
    for name, levels in LEVELS.items():
        values = np.array(levels, float)[tissue] * (1 + 0.04 * rng.standard_normal(SHAPE))
        found[name] = np.rint(np.where(tissue > 0, values, 0)).astype(np.float32)
    return found


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = np.int16 if (array == np.rint(array)).all() and np.abs(array).max() < 32768 else np.float32
    nib.save(nib.Nifti1Image(array.astype(kind), affine), path)
    return path


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("domain") / "cohort"
    for number in range(1, 7):
        for name, array in person(number).items():
            save(root / f"P{number}" / f"{name}.nii.gz", array)
    lines = [f"P{number}\t{'train' if number < 5 else 'validation' if number == 5 else 'test'}" for number in range(1, 7)]
    (root / "splits.tsv").write_text("\n".join(["case\tsplit", *lines]) + "\n")
    return root


@pytest.fixture(scope="module")
def run(cohort: Path, cache: Path) -> synthmr.Run:
    out = cohort.parent / "run"
    synthmr.train("linear", cohort, sources="T1w,T2w", target="FLAIR", out=out, cache=cache)
    return synthmr.load(out)


def codes(sidecar: Path) -> set[str]:
    return {warning["code"] for warning in json.loads(sidecar.read_text())["warnings"]}


def zscored(array: np.ndarray) -> np.ndarray:
    inside = array[array > 0]
    return np.where(array > 0, (array - inside.mean()) / inside.std(), 0).astype(np.float32)


def around(value: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: np.where(array == 0, np.float32(value), array)


def plus(value: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: array + np.float32(value)


#: (what writes it, change of every image, kind of step, largest difference of the prediction in scanner units)
BACKGROUNDS = [
    ("500 added so that a tool takes it (ANTs, issue 822)", plus(500), "offset", 0),
    ("int16 shifted by -1024, as CT converters leave MR", plus(-1024), "offset", 0),
    ("unsigned about 32768 (GE, Philips: pixel representation lost)", plus(32768), "offset", 0),
    ("-1 in place of 0 (nnU-Net marks what is outside the brain)", around(-1), "offset", 8),
    ("scaled to [-1, 1] (GAN preprocessing, BraSyn forks)", lambda array: array / 700 - 1, "offset", 0.5),
    ("scaled to [-0.5, 0.5] (MONAI ScaleIntensity)", lambda array: array / array.max() - 0.5, "offset", 0.5),
    ("z-scored with its background (TorchIO ZNormalization)", lambda array: (array - array.mean()) / array.std(), "offset", 0.5),
    ("padded with -1024 (SimpleITK resampling of CT scripts)", around(-1024), "fill", 0),
    ("padded with 32767 (maximum as no data)", around(32767), "fill", 0),
    ("1 added before a logarithm (SPM scripts)", plus(1), "offset", 0),
]


@pytest.mark.parametrize(("change", "kind", "near"), [row[1:] for row in BACKGROUNDS], ids=[row[0] for row in BACKGROUNDS])
def test_a_constant_background_is_taken_off_said_and_kept(run, tmp_path, change, kind, near):
    plain = {name: person(9)[name] for name in run.sources}
    words = {name: save(tmp_path / f"{name}.nii.gz", change(array)) for name, array in plain.items()}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        got = run.predict({name: str(path) for name, path in words.items()})["FLAIR"].get_fdata()
    assert sum("its background is the constant" in str(each.message) for each in told) == 2
    assert {each.category for each in told} == {SynthmrWarning}
    want = run.predict(plain, affine=AFFINE)["FLAIR"].get_fdata()
    assert np.abs(got - want).max() <= near
    case = tmp_path / "data"
    for name, path in words.items():
        path.rename(save(case / "p" / path.name, plain[name]))
    summary = run.synthesize(case, out=tmp_path / "out")
    assert {each["code"] for each in summary.warnings["p"]} >= {"domain.background"}
    assert any("constant background" in note for note in summary.notes["p"])
    assert "domain.background" in codes(tmp_path / "out" / "p_desc-synth_FLAIR.json")
    found = background.fit(change(plain["T1w"]))
    assert found is not None and found["kind"] == kind


def coarse(images: Images) -> tuple[Images, np.ndarray]:
    return {n: a.reshape(40, 48, 12, 3).mean(3).astype(np.float32) for n, a in images.items()}, AFFINE @ np.diag([1, 1, 3.0, 1])


def headed(array: np.ndarray) -> np.ndarray:
    inner = ndimage.binary_dilation(array > 0, iterations=1)
    scalp = ndimage.binary_dilation(inner, iterations=2) & ~inner
    noise = np.abs(np.random.default_rng(3).normal(0, 15, SHAPE))
    return np.rint(np.where(array > 0, array, np.where(scalp, 900, noise))).astype(np.float32)


def noisy(array: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(4).normal(0, 150, SHAPE)
    return np.where(array > 0, np.abs(array + noise) + 1, 0).astype(np.float32)


Fault = Callable[[Images], tuple[Images, np.ndarray]]


def each(change: Callable[[np.ndarray], np.ndarray]) -> Fault:
    return lambda images: ({name: change(array) for name, array in images.items()}, AFFINE)


def files(**names: str) -> Fault:
    """Other images under the names of the sources."""
    return lambda images: ({**images, **{name: person(9)[other] for name, other in names.items()}}, AFFINE)


#: (what writes it, fault, code, whether it is refused)
FAULTS: list[tuple[str, Fault, str, bool]] = [
    ("sources swapped on the command line", files(T1w="T2w", T2w="T1w"), "domain.swapped", True),
    ("T2w twice (a copied word)", files(T1w="T2w"), "domain.contrast", True),
    ("T1w twice (BIDS link to the wrong file)", files(T2w="T1w"), "domain.contrast", True),
    ("FLAIR called T1w (TCIA series sorted by number)", files(T1w="FLAIR"), "domain.contrast", True),
    ("FLAIR called T2w (T2-FLAIR read as T2)", files(T2w="FLAIR"), "domain.contrast", True),
    ("sign flipped (inverted display)", each(lambda array: -array), "domain.negative", True),
    ("z-scored inside the brain (nnU-Net, BraTS winners)", each(zscored), "domain.negative", True),
    ("inverted inside the brain (T1 as pseudo-T2)", each(lambda a: np.where(a > 0, a.max() + 50 - a, 0)), "domain.contrast", False),
    ("gain of 1000 (floats stored in thousandths)", each(lambda array: array * np.float32(1000)), "domain.units", False),
    ("scaled to 0..1 (intensity-normalization, HD-GLIO)", each(lambda array: array / array.max()), "domain.units", False),
    ("slices of three times the thickness (clinical FLAIR)", coarse, "domain.spacing", False),
    ("upper part not scanned (ISLES, partial coverage)", each(lambda array: array[:, :, :20]), "domain.fov", False),
    ("posterior half alone (ROI export)", each(lambda array: array[:, :24]), "domain.fov", False),
    ("with skull (raw OpenNeuro session)", each(headed), "domain.skull", False),
    ("low signal (0.064 T, Hyperfine)", each(noisy), "domain.noise", False),
]


@pytest.mark.parametrize(("fault", "code", "refused"), [row[1:] for row in FAULTS], ids=[row[0] for row in FAULTS])
def test_what_is_outside_is_said_with_its_code_and_what_is_certain_is_refused(run, tmp_path, verb, fault, code, refused):
    images, affine = fault({name: person(9)[name] for name in run.sources})
    words = [f"{name}={save(tmp_path / f'{name}.nii.gz', array, affine)}" for name, array in images.items()]
    out = tmp_path / "out.nii.gz"
    if refused:
        told = verb("synthesize", run.path, *words, "-o", out, code=1).stderr
        assert code in told and "--force" in told and len(told.strip().splitlines()) == 1 and not out.exists()
    told = verb("synthesize", run.path, *words, "-o", out, *(["--force"] if refused else [])).stderr
    assert f"warning {code}" in told
    data = json.loads((tmp_path / "out.json").read_text())
    found = next(warning for warning in data["warnings"] if warning["code"] == code)
    low, high = found["allowed"]
    assert data["forced"] is refused and not low <= found["number"] <= high and found["text"]


#: what may differ without a word
INSIDE: list[tuple[str, Callable[[np.ndarray], np.ndarray], np.ndarray]] = [
    ("another person", lambda array: array, AFFINE),
    ("another gain, as of every scanner", lambda array: array * np.float32(2.5), AFFINE),
    ("stored from right to left (LAS)", lambda array: array[::-1], AFFINE @ np.diag([-1.0, 1, 1, 1])),
    (
        "another origin",
        lambda array: array,
        AFFINE + np.eye(4)[:, [1, 2, 0, 3]] * 0 + np.pad(np.full((3, 1), 30.0), ((0, 1), (3, 0))),
    ),
    ("padded by 6 voxels", lambda array: np.pad(array, 6), AFFINE),
    (
        "a few negative voxels of a spline",
        lambda a: np.where((a > 0) & (np.random.default_rng(5).random(SHAPE) < 0.01), -3, a),
        AFFINE,
    ),
]


@pytest.mark.parametrize(("change", "affine"), [row[1:] for row in INSIDE], ids=[row[0] for row in INSIDE])
def test_what_cases_may_differ_in_raises_no_alarm(run, tmp_path, change, affine):
    for number in (9, 10):
        files = {n: str(save(tmp_path / f"{number}{n}.nii.gz", change(person(number)[n]), affine)) for n in run.sources}
        run.predict(files)  # warnings are errors


def test_each_training_case_against_the_others_raises_no_alarm(cohort, cache):
    from synthmr.data.reader import Reader
    from synthmr.pipeline import configure, prepared
    from synthmr.prepare.domain import Domain

    config = configure("linear", "T1w,T2w", "FLAIR")
    store, split = prepared(cohort, config, cache=cache)
    reader = Reader(store, config.prepare, config.sources, config.targets)
    found = {name: reader.measured(name) for name in split.names}
    for name, own in found.items():
        assert Domain.learn({other: each for other, each in found.items() if other != name}).compare(own) == ()


def test_a_case_that_was_trained_on_is_known_by_content_whatever_it_is_called(run, cohort, tmp_path, verb):
    words = [f"{name}={save(tmp_path / f'new_{name}.nii', person(2)[name])}" for name in run.sources]  # not compressed, other name
    told = verb("synthesize", run.path, *words, "-o", tmp_path / "out.nii.gz").stderr
    assert "the run was trained on T1w, T2w of this case, there called P2" in told
    assert json.loads((tmp_path / "out.json").read_text())["training_case"] is True
    words = [f"{name}={cohort / 'P6' / f'{name}.nii.gz'}" for name in run.sources]
    assert "domain.trained" not in verb("synthesize", run.path, *words, "-o", tmp_path / "new.nii.gz").stderr
    assert json.loads((tmp_path / "new.json").read_text())["training_case"] is False


def test_evaluate_gives_warnings_with_code_and_number_and_refuses_swapped_files(run, cohort, tmp_path, verb):
    data = tmp_path / "data"
    for name, array in person(6).items():
        save(data / "P6" / f"{name}.nii.gz", array + np.float32(500))
    found = json.loads(verb("evaluate", run.path, data, "--json", "--out", tmp_path / "a.csv").stdout)["warnings"]
    shifted = [warning for warning in found if warning["code"] == "domain.background"]
    assert [(warning["label"], warning["number"], warning["allowed"]) for warning in shifted] == [("P6", 500.0, [0.0, 0.0])] * 2
    plain = verb("evaluate", run.path, cohort, "--json", "--out", tmp_path / "b.csv").stdout
    assert not any(warning["code"].startswith("domain") for warning in json.loads(plain)["warnings"])
    scores = [
        json.loads((verb("evaluate", run.path, each, "--json", "--out", tmp_path / "c.csv")).stdout) for each in (data, cohort)
    ]
    assert scores[0]["scores"] == scores[1]["scores"]  # the truth's background is taken off, too
    for name, other in (("T1w", "T2w"), ("T2w", "T1w")):
        save(data / "P6" / f"{name}.nii.gz", person(6)[other])
    assert "domain.swapped" in verb("evaluate", run.path, data, code=1).stderr
    assert "domain.swapped" in verb("evaluate", run.path, data, "--force", "--out", tmp_path / "d.csv").stderr


def test_a_kept_prediction_that_was_forced_is_refused_again_without(run, tmp_path):
    data = tmp_path / "data"
    images = person(9)
    for name, other in (("T1w", "T2w"), ("T2w", "T1w")):
        save(data / "p" / f"{name}.nii.gz", images[other])
    assert not run.synthesize(data, out=tmp_path / "a", force=True).failed
    summary = run.synthesize(data, out=tmp_path / "b")
    assert "domain.swapped" in summary.failed["p"] and not list((tmp_path / "b").iterdir())
    with pytest.raises(DataError, match="were the files swapped"):
        run.predict({"T1w": images["T2w"], "T2w": images["T1w"]}, affine=AFFINE)


def test_a_run_without_a_record_compares_nothing_and_a_damaged_one_is_one_line(run, tmp_path, verb):
    import shutil

    old = tmp_path / "old"
    shutil.copytree(run.path, old)
    (old / "domain.json").unlink()
    words = [f"{name}={save(tmp_path / f'{name}.nii.gz', person(9)[other])}" for name, other in (("T1w", "T2w"), ("T2w", "T1w"))]
    assert "warning" not in verb("synthesize", old, *words, "-o", tmp_path / "out.nii.gz").stderr
    assert codes(tmp_path / "out.json") == set()
    for damage in ("{", "[]", '{"ranges": {"a": [1]}, "modes": {}, "seen": {}}', '{"ranges": 3}'):
        (old / "domain.json").write_text(damage)
        told = verb("synthesize", old, *words, "-o", tmp_path / "more.nii.gz", code=1).stderr
        assert "domain.json of the run is damaged" in told and len(told.strip().splitlines()) == 1


def test_targets_that_were_trained_with_a_constant_background_are_written_with_it(tmp_path, cache):
    root = tmp_path / "cohort"
    for number in range(1, 6):
        for name, array in person(number).items():
            save(root / f"P{number}" / f"{name}.nii.gz", array + np.float32(500 if name == "FLAIR" else 0))
    out = tmp_path / "run"
    synthmr.train("linear", root, sources="T1w,T2w", target="FLAIR", out=out, cache=cache)
    run = synthmr.load(out)
    summary = run.synthesize(root, out=tmp_path / "syn", split="test")
    (name,) = summary.done
    written = tmp_path / "syn" / f"{name}_desc-synth_FLAIR.nii.gz"
    voxels = nib.load(written).get_fdata()
    assert voxels[0, 0, 0] == 500 and voxels.max() > 900
    assert "background 500" in json.loads(written.with_name(written.name[:-7] + ".json").read_text())["settings"]["units"]
    scored = synthmr.score(written, root / name / "FLAIR.nii.gz")
    assert [row.value for row in scored.rows] == pytest.approx([row.value for row in synthmr.evaluate(out, root).rows])


def test_score_says_when_a_gain_explains_most_of_the_error(tmp_path):
    truth = person(3)["FLAIR"]
    mask = save(tmp_path / "mask.nii.gz", (truth > 0).astype(np.float32))
    noise = np.random.default_rng(1).normal(0, 20, SHAPE)
    for word, gain, told in (("third", 1 / 3, True), ("double", 2, True), ("close", 1.05, False)):
        guess = np.where(truth > 0, (truth + noise) * gain, 0).astype(np.float32)
        found = synthmr.score(save(tmp_path / f"{word}.nii.gz", guess), save(tmp_path / "truth.nii.gz", truth), mask=mask)
        assert ("brightness" in {warning.code for warning in found.warnings}) is told, word
