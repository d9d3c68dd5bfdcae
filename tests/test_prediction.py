"""`Prediction`: its three scales by hand, and a file that gives every bit back or says what is wrong."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synthmr.errors import DataError, RunError, UsageError
from synthmr.predict.prediction import Prediction
from synthmr.prepare import normalize
from synthmr.prepare.brightness import LIMIT, Brightness, correct_brightness
from synthmr.prepare.units import Units, units_from_median, units_of

SHAPE = (7, 9, 5)
PERCENTILE = {"name": "percentile", "low": 0.0, "high": 400.0, "max": 500.0}
ZSCORE = {"name": "zscore", "mean": 120.0, "sd": 40.0, "high": 260.0, "max": 300.0}
MEAN = {"name": "mean", "mean": 150.0, "high": 330.0, "max": 400.0}
NYUL = {"name": "nyul", "own": [0.0, 50.0, 90.0, 400.0], "standard": [-1.0, -0.4, 0.2, 1.0], "high": 400.0, "max": 500.0}
ALL = (PERCENTILE, ZSCORE, MEAN, NYUL)


def make(params: dict[str, Any] = PERCENTILE, seed: int = 0, **changes: Any) -> Prediction:
    """A prediction of FLAIR and T1ce with everything in it."""
    rng = np.random.default_rng(seed)
    mask = rng.random(SHAPE) < 0.6
    low = np.float32(normalize.background(params))
    images = {name: np.where(mask, rng.uniform(-0.9, 0.9, SHAPE), low).astype(np.float32) for name in ("T2w", "FLAIR")}
    whole: dict[str, Any] = {
        "case": "sub-01",
        "images": images,
        "mask": mask,
        "affine": np.array([[1.1, 0.1, 0, -7], [0, 2, 0, 1 / 3], [0, 0, 3, 0], [0, 0, 0, 1]]),
        "normalizers": dict.fromkeys(images, params),
        "units": dict.fromkeys(images, units_from_median(params)),
        "run_hash": "0123456789ab",
        "given": ("T1w", "PDw"),
        "history": ({"step": "orient", "axes": [[0, -1], [1, 1], [2, 1]]}, {"step": "crop", "start": [1, 0, 2]}),
        "brightness": {"FLAIR": 1.1},
        "spread": {"FLAIR": np.where(mask, rng.random(SHAPE), 0).astype(np.float32)},
        "maps": {"attention-T1w": np.where(mask, rng.random(SHAPE), 0).astype(np.float32)},
        "segmentation": np.where(mask, rng.integers(0, 4, SHAPE), 0).astype(np.int8),
        "borders": ((3, 5), (), (2,)),
        "settings": {"mode": "slices", "patch": [128, 128]},
    }
    return Prediction(**{**whole, **changes})


def same_bits(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def check_equal(one: Prediction, other: Prediction) -> None:
    for field in dataclasses.fields(Prediction):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if field.name in ("images", "spread", "maps"):
            assert list(a) == list(b), field.name
            assert all(same_bits(a[name], b[name]) for name in a), field.name
        elif field.name in ("mask", "affine", "segmentation"):
            assert same_bits(a, b), field.name
        else:
            assert a == b, field.name


# --- scales ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", ALL, ids=lambda params: str(params["name"]))
def test_corrected_is_what_the_brightness_of_the_run_makes_of_the_image(params: dict[str, Any]) -> None:
    found = make(params)
    brightness = Brightness(top=0.9, exponent=0.7, percentile=99.5)
    image = found.images["FLAIR"]
    expected, factor = correct_brightness(image, found.mask, params, brightness)
    assert 1 / LIMIT < factor < LIMIT and factor != 1
    found = dataclasses.replace(found, brightness={"FLAIR": factor})
    assert same_bits(found.corrected("FLAIR"), expected)
    # by hand: the distance to the background grows by the factor, inside the brain alone
    low = np.float32(normalize.background(params))
    np.testing.assert_array_equal(expected[~found.mask], image[~found.mask])
    np.testing.assert_allclose(expected[found.mask] - low, (image[found.mask] - low) * factor, rtol=1e-5, atol=1e-6)
    # a contrast that the run does not correct stays as it is
    assert same_bits(found.corrected("T2w"), found.images["T2w"])


@pytest.mark.parametrize("params", ALL, ids=lambda params: str(params["name"]))
def test_unit_is_0_at_the_background_and_1_at_the_top(params: dict[str, Any]) -> None:
    low, top = normalize.background(params), normalize.top(params)
    mask = np.array([True, True, True, False]).reshape(1, 2, 2)
    image = np.array([low, top, (low + top) / 2, low], np.float32).reshape(1, 2, 2)
    found = make(params, images={"FLAIR": image}, mask=mask, brightness={})
    np.testing.assert_allclose(found.unit("FLAIR").ravel(), [0, 1, 0.5, 0], atol=1e-6)
    assert found.unit("FLAIR")[0, 1, 1] == 0 and found.unit("FLAIR").dtype == np.float32
    np.testing.assert_allclose(found.unit("FLAIR"), normalize.to_unit(image, params), atol=1e-6)


def test_unit_takes_the_units_of_the_run_not_those_of_the_median_parameters() -> None:
    found = make(MEAN, units=dict.fromkeys(("T2w", "FLAIR"), Units(0.25, 0.125)), brightness={"FLAIR": 1.5})
    inside = found.mask
    np.testing.assert_allclose(found.unit("FLAIR")[inside], 0.25 * 1.5 * found.images["FLAIR"][inside] + 0.125, rtol=1e-5)
    assert (found.unit("FLAIR")[~inside] == 0).all()


@pytest.mark.parametrize("params", ALL, ids=lambda params: str(params["name"]))
def test_scanner_inverts_the_median_normaliser_and_leaves_brightness_out(params: dict[str, Any]) -> None:
    found = make(params)
    expected = np.where(found.mask, normalize.invert(found.images["FLAIR"], params), 0)
    np.testing.assert_array_equal(found.scanner("FLAIR"), expected)
    assert found.scanner("FLAIR").dtype == np.float32 and not found.scanner("FLAIR")[~found.mask].any()
    bright = dataclasses.replace(found, images={"FLAIR": found.corrected("FLAIR")})
    assert not np.allclose(found.scanner("FLAIR"), bright.scanner("FLAIR"), atol=1e-3)


@pytest.mark.parametrize("params", ALL, ids=lambda params: str(params["name"]))
def test_the_spread_is_in_the_units_of_its_image(params: dict[str, Any]) -> None:
    """Half of the distance between the images one deviation above and below."""
    found = make(params)
    deviation, image = found.spread["FLAIR"] * 0.1, found.images["FLAIR"]
    found = dataclasses.replace(found, spread={"FLAIR": deviation})
    both = [dataclasses.replace(found, images={"FLAIR": image + sign * deviation}) for sign in (-1, 1)]
    for read, spread in ((Prediction.unit, Prediction.spread_unit), (Prediction.scanner, Prediction.spread_scanner)):
        low, high = (read(each, "FLAIR") for each in both)
        np.testing.assert_allclose(spread(found, "FLAIR"), (high - low) / 2, rtol=1e-3, atol=1e-5 * np.abs(high).max())
        assert spread(found, "FLAIR").dtype == np.float32 and spread(found, "FLAIR").max() > 0
        with pytest.raises(DataError, match="no spread of T2w"):
            spread(found, "T2w")


def test_what_was_not_predicted_is_told() -> None:
    for read in (Prediction.corrected, Prediction.image, Prediction.scanner):
        with pytest.raises(DataError, match="case sub-01 has no PDw; it has T2w, FLAIR"):
            read(make(), "PDw")
    with pytest.raises(DataError, match="has no PDw"):
        make().unit("PDw")


def test_maps_are_added_to_a_prediction() -> None:
    found = make(segmentation=None)
    assert found.has_map("attention") and not found.has_map("segmentation") and not found.has_map("atten")
    fusion = {"fusion-T1w": found.maps["attention-T1w"]}
    more = found.with_maps(make(seed=1, maps=fusion, images={}))
    assert list(more.maps) == ["attention-T1w", "fusion-T1w"] and more.has_map("fusion") and more.has_map("segmentation")
    assert list(more.images) == ["T2w", "FLAIR"] and more.images["FLAIR"] is found.images["FLAIR"]
    assert same_bits(make().with_maps(found).segmentation, make().segmentation)


# --- units ----------------------------------------------------------------------------------------------------------------


def test_units_are_the_medians_of_the_training_cases_ratios() -> None:
    cases = [
        {"mean": 100.0, "high": 200.0, "sd": 30.0},
        {"mean": 10.0, "high": 40.0, "sd": 4.0},
        {"mean": 9.0, "high": 10.0, "sd": 1.5},
    ]
    assert units_of("mean", cases) == Units(0.5, 0.0)  # of 0.5, 0.25, 0.9
    assert units_of("zscore", cases) == Units(0.15, 0.5)  # sd: of 0.15, 0.1, 0.15
    # the ratio of medians is another number: what older runs have
    assert units_from_median({"name": "mean", "mean": 10.0, "high": 40.0}) == Units(0.25, 0.0)
    assert units_from_median(ZSCORE) == Units(40 / 260, 120 / 260)
    for name in ("percentile", "minmax", "nyul"):
        assert units_of(name, []) == Units(0.5, 0.5)
    with pytest.raises(UsageError, match="did you mean zscore"):
        units_of("z-score", cases)
    with pytest.raises(DataError, match="none of 0"):
        units_of("mean", [])
    with pytest.raises(DataError, match=r"zscore .* none of 1"):
        units_of("zscore", [{"mean": -5.0, "high": 0.0, "sd": 3.0}])
    assert units_of("mean", [{"mean": -5.0, "high": 0.0}, {"mean": 1.0, "high": 2.0}]) == Units(0.5, 0.0)


def test_units_of_a_fixed_range_are_those_of_the_truth_to_the_bit() -> None:
    values = np.random.default_rng(0).uniform(-1.2, 1.2, 4000).astype(np.float32)
    assert same_bits(Units(0.5, 0.5).apply(values), normalize.to_unit(values, PERCENTILE))


def test_units_invert() -> None:
    values = np.random.default_rng(0).normal(size=500).astype(np.float32)
    units = Units(0.15384, 0.4615)
    assert units.apply(values).dtype == units.invert(values).dtype == np.float32
    np.testing.assert_allclose(units.invert(units.apply(values)), values, atol=2e-6)
    np.testing.assert_allclose(units.apply(values), 0.15384 * values.astype(float) + 0.4615, atol=1e-6)


# --- files ----------------------------------------------------------------------------------------------------------------


def test_a_file_gives_every_bit_back(tmp_path: Path) -> None:
    found = make()
    found.save(tmp_path / "kept.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["kept.safetensors"]
    check_equal(Prediction.load(tmp_path / "kept.safetensors"), found)
    assert found.to_bytes() == make().to_bytes(), "the same prediction is another file"


def test_odd_values_come_back_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    mask = np.zeros(SHAPE, bool)
    mask[1:4, 2:5, 1:3] = True
    mixed = np.zeros(SHAPE, np.float32)
    mixed[0, 0, 0] = -0.0
    volumes = {
        "zeros": mixed,
        "uneven": rng.normal(size=SHAPE).astype(np.float32),
        "nan": np.where(mask, 1, np.nan).astype(np.float32),
        "infinite": np.where(mask, 2, -np.inf).astype(np.float32),
        "classes": rng.integers(0, 200, SHAPE).astype(np.uint8),
        "turned": np.asfortranarray(np.where(mask, rng.random(SHAPE), 0).astype(np.float32)),
    }
    for brain in (mask, np.ones(SHAPE, bool), np.zeros(SHAPE, bool)):
        found = make(mask=brain, maps=volumes, segmentation=None, borders=(), spread={}, brightness={})
        found.save(tmp_path / "kept")
        check_equal(Prediction.load(tmp_path / "kept"), found)


def test_a_file_holds_the_brain_alone() -> None:
    mask = np.zeros((40, 40, 40), bool)
    mask[10:30, 10:30, 10:30] = True
    image = np.where(mask, np.random.default_rng(0).random(mask.shape), -1).astype(np.float32)
    found = make(images={"FLAIR": image}, mask=mask, spread={}, maps={}, segmentation=None)
    inside = mask.sum() * 4
    assert inside < len(found.to_bytes()) < inside + mask.size / 8 + 4000 < image.nbytes / 3


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_file_cut_short_is_told(tmp_path: Path, share: float) -> None:
    path = tmp_path / "kept"
    data = make().to_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(RunError, match="delete it") as error:
        Prediction.load(path)
    assert "\n" not in str(error.value)


def test_any_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    data = make().to_bytes()
    for place in np.linspace(0, len(data) - 1, 60).astype(int):
        spoilt = bytearray(data)
        spoilt[place] ^= 4
        path.write_bytes(spoilt)
        with pytest.raises(RunError):
            Prediction.load(path)


def test_missing_and_foreign_files_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.numpy import save_file

    with pytest.raises(RunError, match="is missing"):
        Prediction.load(tmp_path / "nothing")
    save_file({"a": np.zeros(3)}, tmp_path / "other")
    with pytest.raises(RunError, match="delete it"):
        Prediction.load(tmp_path / "other")
    monkeypatch.setattr("synthmr.predict.prediction.VERSION", 99)
    make().save(tmp_path / "later")
    monkeypatch.undo()
    with pytest.raises(RunError, match="version 99, not 1"):
        Prediction.load(tmp_path / "later")


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kept"
    make(seed=1).save(path)
    before = path.read_bytes()
    whole = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        whole(self, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError, match="space"):
        make(seed=2).save(path)
    assert [each.name for each in tmp_path.iterdir()] == ["kept"] and path.read_bytes() == before


def test_what_json_has_no_word_for_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        make(settings={"overlap": float("nan")}).to_bytes()
