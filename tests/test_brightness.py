"""The brightness of a predicted volume: the correction, what a run learns of it, and where it is applied."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from helpers import blob_brain, write_case
from synthmr import pipeline
from synthmr.case import PreparedCase
from synthmr.errors import RunError
from synthmr.evaluate.metrics import psnr
from synthmr.methods import registry
from synthmr.predict.prediction import Prediction
from synthmr.predict.predictor import Predictor
from synthmr.predictions import predictions
from synthmr.prepare import brightness as brightness
from synthmr.prepare.brightness import LIMIT, Brightness
from synthmr.run import RunFolder, load_run
from synthmr.train.calibrate import calibrated_subsets, fit_brightness, moments

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (24, 28, 16)
#: case -> brightness of its lesion as a multiple of the brain's, the part of the split
CASES = {
    "a": (3.0, "train"), "b": (1.0, "train"), "c": (2.2, "train"), "d": (1.3, "train"), "e": (2.6, "train"), "f": (1.0, "train"),
    "g": (1.8, "validation"), "h": (1.0, "test"), "i": (2.8, "test"),
}  # fmt: skip
PERCENTILE = {"name": "percentile", "low": 0.0, "high": 400.0, "max": 500.0}


# --- the correction -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("top", "exponent", "factor"), [(0.8, 1.0, 1.125), (0.8, 0.5, 1.125**0.5), (1.2, 1.0, 0.75), (0.8, 0.0, 1.0)]
)
def test_the_factor_is_the_power_of_a_ratio(top: float, exponent: float, factor: float) -> None:
    assert Brightness(0.9, exponent, 99.5).factor(top) == pytest.approx(factor, rel=1e-12)


def test_a_factor_has_limits() -> None:
    brightness = Brightness(0.9, 1.0, 99.5)
    assert (brightness.factor(0.01), brightness.factor(90.0)) == (LIMIT, 1 / LIMIT)
    assert brightness.factor(0.0) == brightness.factor(-0.3) == brightness.factor(float("nan")) == 1.0


def test_the_brain_is_scaled_about_the_background_and_nothing_else() -> None:
    volume = np.where(blob_brain(SHAPE, 1) > 0, blob_brain(SHAPE, 1) / 160 - 1, 0.25).astype(np.float32)  # -1 to 1 inside
    mask = blob_brain(SHAPE, 1) > 0
    found, told = brightness.correct_brightness(volume, mask, PERCENTILE, Brightness(0.9, 1.0, 99.5))
    unit = (volume + 1) / 2
    factor = 0.9 / np.percentile(unit[mask], 99.5)
    assert told == pytest.approx(factor, rel=1e-6)
    np.testing.assert_allclose((found[mask] + 1) / 2, unit[mask] * factor, rtol=1e-5)
    assert np.percentile((found[mask] + 1) / 2, 99.5) == pytest.approx(0.9, rel=1e-5)
    assert (found[~mask] == np.float32(0.25)).all() and found.dtype == np.float32


def test_levels_survive_json() -> None:
    known = {"FLAIR": {"T1w+T2w": Brightness(0.93, 0.45, 99.5), "T1w": Brightness(0.8, 1.0, 99.0)}}
    assert brightness.from_json(json.loads(json.dumps(brightness.to_json(known)))) == known


# --- what is learnt -----------------------------------------------------------------------------------------------------


def rows_of(gains: np.ndarray, noise: float = 0.0) -> np.ndarray:
    """Moments of predictions that are the truth times a gain a case, and noise of their own."""
    found = []
    for number, gain in enumerate(gains):
        rng = np.random.default_rng(number)
        truth = np.minimum(rng.gamma(4, 0.1, 5000), 1.0)
        truth *= 1 / np.percentile(truth, 99.5)
        found.append(moments(gain * truth + noise * rng.normal(size=5000), truth, 99.5))
    return np.array(found)


def test_a_gain_of_each_case_is_undone() -> None:
    gains = np.array([0.7, 0.9, 1.1, 1 / (0.7 * 0.9 * 1.1)])  # their geometric mean is 1
    brightness = fit_brightness(rows_of(gains), 4, True, 99.5)
    assert brightness is not None and brightness.exponent == 1.0 and brightness.top == pytest.approx(1.0, rel=1e-9)
    for gain in gains:
        assert brightness.factor(gain) == pytest.approx(1 / gain, rel=1e-9)


def test_half_a_gain_is_half_undone() -> None:
    """The truth has taken part in what the prediction's top says: p = t g with a top of g^2."""
    gains = np.array([0.8, 0.9, 1.0, 1 / (0.8 * 0.9)])
    rows = rows_of(gains)
    rows[:, 0] = gains**2
    brightness = fit_brightness(rows, 4, True, 99.5)
    assert brightness is not None and brightness.exponent == pytest.approx(0.5)


def test_a_top_that_says_nothing_is_left_alone() -> None:
    rows = rows_of(np.ones(4))
    rows[:, 0] = [0.6, 0.9, 1.1, 1.7]
    assert fit_brightness(rows, 4, True, 99.5) is None


def test_validation_cases_tell_k_and_not_the_top() -> None:
    """A network that knows the brightness of its training cases learns from the others that their top tells it."""
    known, unknown = rows_of(np.ones(4)), rows_of(np.array([0.7, 0.8]))
    known[:, 0] = [0.98, 1.02, 0.99, 1 / (0.98 * 1.02 * 0.99)]
    assert fit_brightness(known, 4, True, 99.5) is None
    brightness = fit_brightness(np.concatenate([known, unknown]), 4, True, 99.5)
    assert brightness is not None and brightness.top == pytest.approx(1.0) and brightness.exponent > 0.9


def test_without_pairs_the_truth_is_not_looked_at() -> None:
    rows = rows_of(np.array([0.8, 0.9, 1.2]))
    brightness = fit_brightness(rows, 3, False, 99.5)
    other = rows * [1, 1, -3, 0.1]
    assert brightness == fit_brightness(other, 3, False, 99.5) == Brightness(pytest.approx((0.8 * 0.9 * 1.2) ** (1 / 3)), 1.0, 99.5)


@pytest.mark.parametrize("paired", [True, False])
def test_too_little_to_learn_from(paired: bool) -> None:
    rows = rows_of(np.array([0.7, 0.9, 1.1, 1.4]))
    assert fit_brightness(rows[:2], 2, paired, 99.5) is None
    rows[1, 1], rows[2, 0] = np.nan, 0.0
    assert fit_brightness(rows, 2, paired, 99.5) is fit_brightness(rows, 4, paired, 99.5) is None


def test_every_subset_has_a_level_of_its_own_where_they_are_few() -> None:
    hinet, milr = registry.load("hinet").spec, registry.load("milr").spec
    assert list(calibrated_subsets(hinet.any_subset, ("T1w", "T2w"))) == [("T1w", "T2w")]
    assert list(calibrated_subsets(milr.any_subset, ("T1w", "T2w"))) == [("T1w",), ("T2w",), ("T1w", "T2w")]
    assert len(list(calibrated_subsets(milr.any_subset, tuple("abcd")))) == 15
    assert list(calibrated_subsets(milr.any_subset, tuple("abcde"))) == [tuple("abcde")]


# --- a run --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lesions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """T2w shows a lesion and, always, something brighter; in FLAIR the lesion is the brightest and sets the normaliser's top."""
    root = tmp_path_factory.mktemp("lesions") / "data"
    for number, (name, (bright, _)) in enumerate(CASES.items()):
        t1, base = blob_brain(SHAPE, 900 + number), blob_brain(SHAPE, number)
        t2, flair = base.copy(), base.copy()
        t2[10:13, 12:16, 6:10], flair[10:13, 12:16, 6:10] = 500, 15
        spot = (slice(14, 17), slice(10, 14), slice(5, 11))
        t2[spot] *= bright * 0.9
        flair[spot] *= bright
        write_case(root / name, {"T1w": t1, "T2w": t2, "FLAIR": flair, "PDw": base})
    lines = [f"{name}\t{part}" for name, (_, part) in CASES.items()]
    (root / "splits.tsv").write_text("case\tsplit\n" + "\n".join(lines) + "\n")
    return root


def train(data: Path, out: Path, cache: Path, method: str = "linear", *settings: str, steps: int = 0) -> Path:
    budget = {"steps": steps} if steps else {}
    config = pipeline.configure(method, "T1w,T2w", "FLAIR", settings=settings, budget=budget)
    store, split = pipeline.prepared(data, config, cache=cache)
    pipeline.train(config, store, split, out, accelerator="cpu")
    return out


@pytest.fixture(scope="module")
def run(lesions: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(lesions, tmp_path_factory.mktemp("brightness") / "linear", cache)


def test_a_run_learns_its_level_and_gains_by_it(run: Path, lesions: Path, cache: Path, tmp_path: Path) -> None:
    (brightness,) = load_run(run).brightness["FLAIR"].values()
    assert 0 < brightness.exponent <= 1 and brightness.percentile == 99.5
    plain = train(lesions, tmp_path / "plain", cache, "linear", "train.brightness=false")
    assert load_run(plain).brightness == {}
    scores = []
    for one, other in zip(predictions([run], lesions), predictions([plain], lesions), strict=True):
        (levelled,), (raw,) = one.images.values(), other.images.values()
        mask, truth = one.prepared.mask, (one.prepared.images["FLAIR"] + 1) / 2
        unit = raw[mask]
        factor = (brightness.top / np.percentile(unit, 99.5)) ** brightness.exponent
        np.testing.assert_allclose(levelled[mask], unit * factor, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(levelled[~mask], raw[~mask])
        scores.append(psnr(levelled, truth, 1.0, mask) - psnr(raw, truth, 1.0, mask))
    assert len(scores) == 2 and np.mean(scores) > 0.5


def test_normalised_files_are_levelled_and_scanner_units_are_not(run: Path, lesions: Path, cache: Path, tmp_path: Path) -> None:
    plain = train(lesions, tmp_path / "plain", cache, "linear", "train.brightness=false")
    made, told = {}, 1.0
    for word, each in (("with", run), ("without", plain)):
        for intensity in ("scanner", "normalized"):
            path = tmp_path / word / intensity / "FLAIR.nii.gz"
            path.parent.mkdir(parents=True)
            words = [f"{name}={lesions / 'h' / name}.nii.gz" for name in ("T1w", "T2w")]
            pipeline.synthesize_files(each, words, path, intensity=intensity)
            made[word, intensity] = nib.load(path).get_fdata()
            record = json.loads(path.with_name("FLAIR.json").read_text())
            assert ("brightness" in record["settings"]) == (word == "with")
            found = record["settings"].get("brightness", {})
            assert not found or found["applied"] == (intensity == "normalized")
            told = found.get("factor", told)
    np.testing.assert_array_equal(made["with", "scanner"], made["without", "scanner"])
    (brightness,) = load_run(run).brightness["FLAIR"].values()
    plainly, inside = made["without", "normalized"], made["without", "normalized"] != 0
    factor = (brightness.top / np.percentile(plainly[inside], 99.5)) ** brightness.exponent
    assert abs(factor - 1) > 0.02 and told == pytest.approx(factor, rel=1e-5)
    np.testing.assert_allclose(made["with", "normalized"], plainly * factor, rtol=1e-4, atol=1e-6)


def test_a_result_of_other_levels_is_another_result(run: Path, lesions: Path, tmp_path: Path) -> None:
    """Whoever changes run.json gets no old file for a new one."""
    mine = Path(shutil.copytree(run, tmp_path / "run"))
    call: dict[str, Any] = {"out": tmp_path / "out", "intensity": "normalized", "split": "test"}
    assert pipeline.synthesize_cohort(mine, lesions, **call).done == ("h", "i")
    assert pipeline.synthesize_cohort(mine, lesions, **call).skipped == ("h", "i")
    folder = RunFolder.open(mine)
    folder.write_info({**folder.info, "brightness": {}})
    failed = pipeline.synthesize_cohort(mine, lesions, **call).failed
    assert set(failed) == {"h", "i"} and all("stems from another brightness" in why for why in failed.values())


@pytest.mark.parametrize("damage", [{"FLAIR": {"T1w+T2w": {"top": 1}}}, {"FLAIR": 3}, [1]])
def test_damaged_levels_are_one_line(run: Path, tmp_path: Path, damage: object) -> None:
    loaded = load_run(run)
    with pytest.raises(RunError, match=r"run\.json has damaged brightness"):
        _ = replace(loaded, info={**loaded.info, "brightness": damage}).brightness


@pytest.mark.parametrize("setting", ["prepare.normalizer=minmax", "prepare.normalizer=zscore", "train.brightness=false"])
def test_only_one_normaliser_has_a_level(setting: str, lesions: Path, cache: Path, tmp_path: Path) -> None:
    out = train(lesions, tmp_path / "run", cache, "linear", setting)
    assert load_run(out).brightness == {} and RunFolder.open(out).info["brightness"] == {}


def test_a_network_that_takes_any_subset_has_a_level_for_each(
    lesions: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it predicts from one source is levelled by that source's own brightness; an extension keeps what the old outputs had."""
    small = ("options.filters=2", "sample.batch=2", "train.images=false", "train.precision=32", "train.ema=0")
    out = train(lesions, tmp_path / "milr", cache, "milr", *small, steps=2)
    folder = RunFolder.open(out)
    own = {"T1w": {"top": 0.9, "exponent": 1.0, "percentile": 99.5}, "T2w": {"top": 0.5, "exponent": 1.0, "percentile": 99.5}}
    folder.write_info({**folder.info, "brightness": {"FLAIR": own}})
    for source, each in own.items():
        ((found),) = predictions([out], lesions, inputs=[source], cases=["h"])
        (image,) = found.images.values()
        top = np.percentile(image[found.prepared.mask], 99.5)
        assert top == pytest.approx(each["top"], rel=1e-4)
    monkeypatch.setattr("synthmr.train.calibrate.fit_brightness", lambda *_: Brightness(0.7, 0.5, 99.5))
    pipeline.extend(out, lesions, tmp_path / "more", "", "PDw", cache=cache, budget={"steps": 2})
    found = RunFolder.open(tmp_path / "more").info["brightness"]
    assert found["FLAIR"] == own  # none for both sources, as before
    assert found["PDw"] == {key: {"top": 0.7, "exponent": 0.5, "percentile": 99.5} for key in ("T1w", "T2w", "T1w+T2w")}

    pipeline.extend(out, lesions, tmp_path / "wider", "PDw", "", cache=cache, budget={"steps": 2})
    found = RunFolder.open(tmp_path / "wider").info["brightness"]["FLAIR"]
    assert {names: found[names] for names in own} == own and "T1w+T2w" not in found
    assert set(found) - set(own) == {"PDw", "T1w+PDw", "T2w+PDw", "T1w+T2w+PDw"}


def test_a_run_that_is_killed_while_it_learns_its_level_learns_it_when_resumed(
    lesions: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = pipeline.configure(
        "unet", "T1w,T2w", "FLAIR", settings=["options.filters=4", "train.images=false"], budget={"steps": 2}
    )
    store, split = pipeline.prepared(lesions, config, cache=cache)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("synthmr.train.calibrate.fit_brightness", killed)
        pipeline.train(config, store, split, tmp_path / "run", accelerator="cpu")
    assert RunFolder.open(tmp_path / "run").info["status"] != "finished" and load_run(tmp_path / "run").brightness == {}
    monkeypatch.setattr("synthmr.train.calibrate.fit_brightness", lambda *_: Brightness(0.7, 0.5, 99.5))
    pipeline.train(config, store, split, tmp_path / "run", resume=True, accelerator="cpu")
    info = RunFolder.open(tmp_path / "run").info
    assert info["status"] == "finished" and load_run(tmp_path / "run").brightness == {
        "FLAIR": {"T1w+T2w": Brightness(0.7, 0.5, 99.5)}
    }


@pytest.mark.parametrize(("settings", "slices"), [(("train.brightness=false",), 0), ((), 32)])
def test_the_cost_is_bounded(
    settings: Sequence[str], slices: int, lesions: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training and validation cases, so many slices of each; with more sets of sources fewer."""
    asked: list[tuple[str, int]] = []

    class Counted(Predictor):
        def __call__(self, prepared: PreparedCase, *words: Any, **more: Any) -> Prediction:
            asked.append((prepared.name, self.settings.quick))
            return super().__call__(prepared, *words, **more)

    monkeypatch.setattr("synthmr.train.calibrate.Predictor", Counted)
    train(lesions, tmp_path / "linear", cache, "linear", *settings)
    assert asked == ([(name, 32) for name, (_, part) in CASES.items() if part != "test"] if slices else [])
    asked.clear()
    monkeypatch.setattr("synthmr.train.calibrate.MOST_OF_ALL", 90)
    small = ("options.filters=2", "sample.batch=2", "train.images=false", "train.precision=32", "train.ema=0")
    train(lesions, tmp_path / "milr", cache, "milr", *small, *settings, steps=1)
    assert [most for _, most in asked] == ([4] * 21 if slices else [])


def test_what_trains_without_pairs_has_the_whole_correction(lesions: Path, cache: Path, tmp_path: Path) -> None:
    small = ("options.filters=2", "options.blocks=1", "options.layers=0,4", "options.discriminator_filters=2", "sample.batch=2")
    plain = ("options.discriminator_scale=1", "sample.crop=32,32", "train.images=false", "train.precision=32", "train.ema=0")
    out = train(lesions, tmp_path / "cut", cache, "cut", *small, *plain, steps=2)
    (brightness,) = load_run(out).brightness["FLAIR"].values()
    assert brightness.exponent == 1.0
    for found in predictions([out], lesions, split="train"):
        (image,) = found.images.values()
        assert np.percentile(image[found.prepared.mask], 99.5) == pytest.approx(brightness.top, rel=1e-3)
