"""Protocols: what counts, in which units, and that nothing is forgiven; tables: rows, means and deviations over subjects."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from synthmr.case import PreparedCase, Volume
from synthmr.config import PrepareConfig
from synthmr.errors import DataError, UsageError
from synthmr.evaluate import scoring
from synthmr.evaluate.metrics import nmse, psnr, ssim
from synthmr.evaluate.protocols import (
    HINET2020,
    MASKED_VOLUME,
    PROTOCOLS,
    Protocol,
    get_protocol,
    get_protocols,
    read_protocol,
    to_yaml,
)
from synthmr.evaluate.registry import format_score, image_metrics
from synthmr.evaluate.scores import COLUMNS, Score, read_scores, summarise, write_scores
from synthmr.evaluate.scoring import ScoreInput
from synthmr.prepare import normalize
from synthmr.prepare.case import prepare_images
from synthmr.prepare.units import UNIT, Units, units_of


def brain(shape: tuple[int, int, int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Intensities 40 to 200 in an off-centre ellipsoid, 0 outside; and the ellipsoid."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    mask = sum(((axis - 0.1) / 0.55) ** 2 for axis in axes) < 1
    return np.where(mask, rng.uniform(40, 200, shape), 0).astype(np.float32), mask


#: few slices: protocols that resize each to 256x256 take 30 ms a slice
SHAPE = (26, 30, 14)


def prepared(
    normalizer: str, shape: tuple[int, int, int] = SHAPE, margin: int = 2, affine: np.ndarray | None = None
) -> PreparedCase:
    image, mask = brain(shape)
    volumes = {"T1w": Volume(image[::-1].copy() + mask, np.eye(4)), "FLAIR": Volume(image, np.eye(4))}
    config = PrepareConfig(normalizer=normalizer, margin=margin, mask="file")
    landmarks = {"FLAIR": normalize.learn_landmarks([image[mask], image[mask] * 1.3])}
    landmarks["T1w"] = landmarks["FLAIR"]
    given = [Volume(labels, np.eye(4)) for labels in (mask.astype(np.uint8), lesion_labels(shape))]
    return prepare_images(volumes, config, ("FLAIR",), *given, landmarks=landmarks, name="X")


def score_input(guess: np.ndarray, case: PreparedCase, contrast: str) -> ScoreInput:
    """As of a run that was trained on this very case."""
    params = case.normalizers.get(contrast, {"name": "percentile"})
    return scoring.score_input(guess, case, contrast, units_of(params["name"], [params]))


def scores(scored: ScoreInput, protocol: Protocol, names: Sequence[str] = ()) -> dict[tuple[str, str], float]:
    """(region, metric) -> value."""
    found = scoring.score(scored, protocol, names)
    return {(region, metric): value for region, values in found.items() for metric, value in values.items()}


def score(scored: ScoreInput, protocol: Protocol, names: Sequence[str] = ()) -> dict[str, float]:
    """metric -> value in the protocol's own region."""
    return next(iter(scoring.score(scored, protocol, names).values()))


def lesion_labels(shape: tuple[int, int, int]) -> np.ndarray:
    """A box of label 1 around the centre, inside the ellipsoid of `brain`."""
    labels = np.zeros(shape, np.float32)
    labels[tuple(slice(n // 2 - 3, n // 2 + 4) for n in shape)] = 1
    return labels


def noisy(case: PreparedCase, level: float = 0.1, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    truth = case.images["FLAIR"]
    background = np.float32(normalize.background(case.normalizers["FLAIR"]))
    return np.where(case.mask, truth + rng.normal(0, level, truth.shape), background).astype(np.float32)


NAMES = ("masked-volume", "whole-volume", "hinet2020", "milr2018", "disentangled", "mafnet", "imt2020", "own-max", "brasyn")


def test_every_protocol_is_complete() -> None:
    assert tuple(PROTOCOLS) == NAMES
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name and set(protocol.metrics) <= set(image_metrics())
        for entry in dataclasses.fields(protocol):
            assert getattr(protocol, entry.name) not in ("", ()), entry.name
        assert protocol.words.endswith(".") and "\n" not in protocol.words + protocol.differs + protocol.source
    assert {name for name, protocol in PROTOCOLS.items() if protocol.rescales} == {"own-max", "brasyn"}
    assert {name for name, protocol in PROTOCOLS.items() if protocol.needs_segmentation} == {"mafnet", "brasyn"}
    assert "landmark_distance" not in image_metrics() and "sharpness" in image_metrics()
    with pytest.raises(UsageError, match="did you mean masked-volume"):
        get_protocol("masked")
    with pytest.raises(dataclasses.FrozenInstanceError):
        MASKED_VOLUME.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("name", NAMES)
def test_yaml_round_trip(tmp_path: Path, name: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(to_yaml(PROTOCOLS[name]))
    assert read_protocol(path) == PROTOCOLS[name] == get_protocol(str(path))
    # under its own name it may not say something else
    path.write_text(to_yaml(dataclasses.replace(PROTOCOLS[name], bins=17)))
    with pytest.raises(UsageError, match=f"{name} is a protocol in the box; give yours another name"):
        read_protocol(path)


def test_yaml_with_a_base(tmp_path: Path) -> None:
    path = tmp_path / "half.yml"
    path.write_text("base: hinet2020\ncrop: [80, 90]\nmetrics: psnr\ndata-range: truth-max\n")
    found = get_protocol(str(path))
    same = {"regions", "units", "scale", "plane", "resize", "slices", "middle", "per", "ssim", "bins"}
    assert {key: getattr(found, key) for key in same} == {key: getattr(HINET2020, key) for key in same}
    assert (found.name, found.crop, found.metrics, found.data_range) == ("half", (80, 90), ("psnr",), "truth-max")
    # the words of the base would claim what is no longer so
    assert found.words == "" and "half.yml" in found.differs and "half.yml" in found.source


def test_yaml_without_a_base(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: ours\nmetrics: [ncc, psnr]\nregions: [lesion, brain]\ncrop: null\nscale: 2\nwords: In the brain.\n")
    found = read_protocol(path)
    assert (found.name, found.metrics, found.regions, found.crop) == ("ours", ("ncc", "psnr"), ("lesion", "brain"), None)
    assert found.scale == 2.0 and found.units == "normaliser" and found.words == "In the brain." and found.needs_segmentation


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("metrics: [psnr]\ncropp: [1, 2]", "unknown key 'cropp': did you mean crop"),
        ("metrics: [psnrr]", "metric 'psnrr': did you mean psnr"),
        ("metrics: [landmark_distance]", "metric 'landmark_distance'"),
        ("metrics: []", "at least one each"),
        ("metrics: [psnr]\nregions: []", "at least one each"),
        ("metrics: 3", "metrics: 3 does not fit"),
        ("regions: [brain]", "names no metrics"),
        ("metrics: [psnr]\nregions: [head]", "region 'head'"),
        ("metrics: [psnr]\nunits: truth_max", "units 'truth_max': did you mean truth-max"),
        ("metrics: [psnr]\nunits:", "units: None does not fit"),
        ("metrics: [psnr]\nplane: axiall", "did you mean axial"),
        ("metrics: [psnr]\nslices: tumour", "slices 'tumour'"),
        ("metrics: [psnr]\nper: volumes", "did you mean volume"),
        ("metrics: [ssim]\nper: slice", "ssim volume of single slices does not exist; use plane"),
        ("metrics: [psnr]\nssim: 2d", "ssim '2d'"),
        ("metrics: [psnr]\ndata_range: wide", "data_range: 'wide' does not fit"),
        ("metrics: [psnr]\ndata_range: 0", "data_range 0.0 is no positive number"),
        ("metrics: [psnr]\ndata_range: .inf", "data_range inf is no positive number"),
        ("metrics: [psnr]\nscale: -1", "scale above 0"),
        ("metrics: [psnr]\nscale: true", "scale: True does not fit"),
        ("metrics: [psnr]\nmiddle: -1", "middle is at least 0"),
        ("metrics: [psnr]\nmiddle: 2.5", "middle: 2.5 does not fit"),
        ("metrics: [psnr]\nbins: 1", "bins at least 2"),
        ("metrics: [psnr]\ncrop: [1, 2, 3]", "crop .* is not two numbers of voxels"),
        ("metrics: [psnr]\ncrop: 24", "crop: 24 does not fit"),
        ("metrics: [psnr]\ncrop: '24'", "crop: '24' does not fit"),
        ("metrics: [psnr]\nresize: [1.5, 2]", "resize: .1.5, 2. does not fit"),
        ("metrics: [psnr]\nresize: [0, 2]", "resize .* is not two numbers"),
        ("base: hinet\nmetrics: [psnr]", "base 'hinet' is no protocol in the box: did you mean hinet2020"),
        ("base: mine.yaml\nmetrics: [psnr]", "base 'mine.yaml' is no protocol in the box"),
        ("name: hinet2020\nmetrics: [psnr]", "hinet2020 is a protocol in the box"),
        ("- psnr\n- ssim", "is no protocol"),
        ("", "is no protocol"),
    ],
)
def test_bad_yaml_gets_one_line(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=expected) as caught:
        read_protocol(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_unreadable_yaml(tmp_path: Path) -> None:
    for content in (b"metrics: [psnr", b"\xff\xfe\x00metrics", b"metrics: 2020-13-45"):
        (tmp_path / "mine.yaml").write_bytes(content)
        with pytest.raises(DataError, match=r"mine\.yaml cannot be read as YAML") as caught:
            read_protocol(tmp_path / "mine.yaml")
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"nothere\.yaml cannot be read"):
        get_protocol(str(tmp_path / "nothere.yaml"))


def test_choosing_protocols(tmp_path: Path) -> None:
    assert [protocol.name for protocol in get_protocols(())] == ["masked-volume"]
    assert tuple(protocol.name for protocol in get_protocols(("brasyn", "all", "hinet2020"))) == ("brasyn", *NAMES[:-1])
    for folder, metric in (("a", "psnr"), ("b", "ssim")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "ours.yaml").write_text(f"metrics: [{metric}]")
    one, two = (str(tmp_path / folder / "ours.yaml") for folder in "ab")
    assert [protocol.name for protocol in get_protocols((one, one, "mafnet"))] == ["ours", "mafnet"]
    with pytest.raises(UsageError, match="two protocols are called ours"):
        get_protocols((one, two))
    with pytest.raises(UsageError, match=r"unknown protocol 'imt': did you mean imt2020.*\.yaml file"):
        get_protocols(("masked-volume", "imt"))


def test_metrics_can_be_named_in_place_of_the_protocols_own() -> None:
    scored = score_input(noisy(prepared("percentile")), prepared("percentile"), "FLAIR")
    assert list(score(scored, MASKED_VOLUME, ("ncc", "psnr"))) == ["ncc", "psnr"]
    with pytest.raises(UsageError, match="metric 'nc'"):
        score(scored, MASKED_VOLUME, ("nc",))


def test_masked_volume_by_hand() -> None:
    """[-1, 1] becomes [0, 1]; brain voxels alone; data range 1."""
    case = prepared("percentile")
    guess = noisy(case)
    values = score(score_input(guess, case, "FLAIR"), MASKED_VOLUME)
    y, g = (case.images["FLAIR"][case.mask].astype(float) + 1) / 2, (guess[case.mask].astype(float) + 1) / 2
    error = np.mean((y - g) ** 2)
    assert values["psnr"] == pytest.approx(-10 * math.log10(error), abs=1e-4)
    assert values["nmse"] == pytest.approx(error * y.size / np.sum(y**2), rel=1e-4)
    assert values["nrmse"] == pytest.approx(math.sqrt(error), rel=1e-4)
    assert values["mae"] == pytest.approx(np.mean(abs(y - g)), rel=1e-4)
    assert list(values) == ["psnr", "ssim", "nmse", "nrmse", "mae", "structure_psnr"]
    assert values["structure_psnr"] == pytest.approx(
        -20 * math.log10(y.std() * math.sqrt(1 - np.corrcoef(y, g)[0, 1] ** 2)), abs=1e-3
    )
    # NMSE on [0, 1] is not NMSE on [-1, 1]
    assert nmse(2 * g - 1, 2 * y - 1) > 1.5 * values["nmse"]


def test_a_constant_guess_has_a_closed_form() -> None:
    case = prepared("percentile")
    truth = case.images["FLAIR"][case.mask].astype(float)
    guess = np.where(case.mask, np.float32(truth.mean()), np.float32(-1))
    values = score(score_input(guess, case, "FLAIR"), MASKED_VOLUME)
    assert values["psnr"] == pytest.approx(-20 * math.log10(truth.std() / 2), abs=1e-4)


@pytest.mark.parametrize("normalizer", ["zscore", "mean", "percentile"])
def test_linear_normalizers_score_the_same_prediction_the_same(normalizer: str) -> None:
    """The protocol's [0, 1] is fixed by the truth, whatever linear units the method worked in."""
    case = prepared(normalizer)
    params = case.normalizers["FLAIR"]
    scanner = normalize.invert(case.images["FLAIR"], params)
    rng = np.random.default_rng(3)
    guess = np.where(case.mask, scanner * 0.9 + rng.normal(0, 5, scanner.shape), 0)
    # by hand: 0 scanner units is 0, the 99.5th brain percentile is 1
    image, mask = brain(SHAPE)
    high = np.percentile(image[mask], 99.5)
    truth = np.minimum(scanner, high) if normalizer == "percentile" else scanner
    expected = psnr(guess / high, truth / high, 1.0, case.mask)
    bounded = (guess - params["low"]) / (params["high"] - params["low"]) * 2 - 1 if normalizer == "percentile" else None
    units = bounded if bounded is not None else normalize.apply(guess, params)
    values = score(score_input(np.asarray(units, np.float32), case, "FLAIR"), MASKED_VOLUME)
    assert values["psnr"] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "normalizer"),
    [(name, normalizer) for name in NAMES for normalizer in normalize.NAMES if name in NAMES[:3] or normalizer == "zscore"],
)
def test_truth_scores_perfect_and_noise_does_not(name: str, normalizer: str) -> None:
    case, protocol = prepared(normalizer), PROTOCOLS[name]
    unit = normalize.to_unit(case.images["FLAIR"], case.normalizers["FLAIR"])
    perfect = scores(scoring.score_input(unit, case, "FLAIR", UNIT), protocol)
    worse = scores(score_input(noisy(case, 0.3), case, "FLAIR"), protocol)
    assert set(perfect) == set(worse) == {(region, metric) for region in protocol.regions for metric in protocol.metrics}
    for name, value in perfect.items():
        metric = name[1]
        if metric.endswith("psnr"):
            assert value == math.inf and worse[name] < 60, name
        elif metric.startswith("ssim"):
            assert value == pytest.approx(1) and worse[name] < 0.99999, name
        elif metric == "mutual_information":
            assert value > worse[name] + 0.01
        else:
            assert value == 0 and worse[name] > 1e-4, name


@pytest.mark.parametrize("normalizer", normalize.NAMES)
def test_the_array_that_is_compared_with_the_truth_does_not_know_the_truth(normalizer: str) -> None:
    """Two truths of one case, one prediction: to the bit the same array under every protocol, whatever the truth is."""
    case = prepared(normalizer)
    guess, params = noisy(case), case.normalizers["FLAIR"]
    units = units_of(normalizer, [params])
    brighter = dict(params) | {
        key: np.multiply(params[key], 1.7).tolist() for key in ("high", "mean", "sd", "low", "max") if key in params
    }
    other = dataclasses.replace(case, images={"FLAIR": case.images["FLAIR"][::-1]}, normalizers={"FLAIR": brighter})
    one, two = (scoring.score_input(guess, each, "FLAIR", units) for each in (case, other))
    assert np.array_equal(one.prediction, two.prediction) and not np.array_equal(one.truth, two.truth)
    assert one.prediction[~case.mask] == pytest.approx(0, abs=1e-6)


def test_units_are_medians_over_the_training_cases() -> None:
    many = [{"name": "zscore", "mean": m, "sd": s, "high": h} for m, s, h in ((10, 5, 20), (30, 5, 40), (10, 1, 50))]
    assert units_of("zscore", many) == Units(pytest.approx(0.125), pytest.approx(0.5))
    assert units_of("mean", many) == Units(pytest.approx(0.5), 0)
    for name in ("percentile", "minmax", "nyul"):
        assert units_of(name, many) == units_of(name, []) == Units(0.5, 0.5)
    assert Units(2, 1).apply(np.array([0.0, -3])).tolist() == [1, -5] and Units(2, 1).apply(np.zeros(2)).dtype == np.float32
    assert Units.from_dict(Units(0.25, 0.75).as_dict()) == Units(0.25, 0.75)
    with pytest.raises(DataError, match="come from training cases, and none of 0 has a brain"):
        units_of("mean", [])
    with pytest.raises(DataError, match="none of 1 has a brain whose upper percentile is above 0"):
        units_of("zscore", [{"mean": 1, "sd": 1, "high": 0}])
    with pytest.raises(UsageError, match="did you mean zscore"):
        units_of("zscores", many)


def test_no_rescaling_no_clipping() -> None:
    """A gain error, an offset and values beyond the range all cost; a rescaling scorer would forgive the first two."""
    case = prepared("percentile")
    truth = case.images["FLAIR"]
    good = score_input(noisy(case, 0.01), case, "FLAIR")
    gain = np.where(case.mask, (truth + 1) * 1.3 - 1, -1)
    offset = np.where(case.mask, truth + 0.2, -1)
    beyond = np.where(case.mask & (truth > 0.9), 3.0, truth)
    for protocol in PROTOCOLS.values():
        if not protocol.rescales:
            limit = score(good, protocol, ("psnr",))["psnr"] - 5
            for guess in (gain, offset, beyond):
                assert score(score_input(guess.astype(np.float32), case, "FLAIR"), protocol, ("psnr",))["psnr"] < limit, (
                    protocol.name
                )
    y = (truth[case.mask].astype(float) + 1) / 2
    expected = -10 * math.log10(np.mean((0.3 * y) ** 2))
    assert score(score_input(gain.astype(np.float32), case, "FLAIR"), MASKED_VOLUME)["psnr"] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("protocol", list(PROTOCOLS.values()), ids=list(PROTOCOLS))
def test_the_crop_to_the_brain_does_not_change_a_score(protocol) -> None:  # type: ignore[no-untyped-def]
    tight, wide = prepared("percentile", margin=0), prepared("percentile", margin=9)
    assert tight.mask.shape != wide.mask.shape
    background = np.float32(-1)
    one = np.where(tight.mask, tight.images["FLAIR"] * 0.8, background)
    two = np.where(wide.mask, wide.images["FLAIR"] * 0.8, background)
    first, second = (scores(score_input(g, c, "FLAIR"), protocol) for g, c in ((one, tight), (two, wide)))
    for name, value in first.items():
        assert value == pytest.approx(second[name], rel=1e-5), name


def test_hinet2020_crops_the_original_grid() -> None:
    """160x180 of a 200x210 grid, cut by hand; all slices, background included."""
    rng = np.random.default_rng(4)
    full = np.zeros((200, 210, 12), np.float32)
    full[10:190, 30:200, 1:11] = rng.uniform(0, 1, (180, 170, 10))
    guess = np.where(full > 0, full + rng.normal(0, 0.1, full.shape), 0).astype(np.float32)
    values = score(ScoreInput(guess, full, full > 0), HINET2020)
    box = (slice(20, 180), slice(15, 195))
    assert values["psnr"] == pytest.approx(psnr(guess[box], full[box], 1.0), abs=1e-5)
    assert values["nmse"] == pytest.approx(nmse(guess[box], full[box]), rel=1e-5)
    assert values["ssim"] == pytest.approx(ssim(guess[box], full[box], 1.0, slice_axis=2), abs=1e-6)
    # the same from the cropped arrays and their place
    part = (slice(10, 190), slice(30, 200), slice(1, 11))
    inside = ScoreInput(guess[part], full[part], full[part] > 0, start=(10, 30, 1), shape=(200, 210, 12))
    assert score(inside, HINET2020) == pytest.approx(values, rel=1e-6)


def test_hinet2020_pads_small_grids_with_background() -> None:
    image, mask = brain((30, 32, 14))
    truth = image / 200
    guess = np.where(mask, truth + 0.1, 0).astype(np.float32)
    values = score(ScoreInput(guess, truth, mask), HINET2020)
    error = mask.sum() * 0.01 / (160 * 180 * 14)
    assert values["psnr"] == pytest.approx(-10 * math.log10(error), abs=1e-3)
    assert values["mae"] == pytest.approx(mask.sum() * 0.1 / (160 * 180 * 14), rel=1e-3)


def test_background_flatters() -> None:
    """Why a number needs its protocol: the same prediction, many dB apart, by exactly the share of the brain."""
    case = prepared("percentile", shape=(160, 180, 30))
    scored = score_input(noisy(case, 0.4), case, "FLAIR")
    masked, whole = score(scored, MASKED_VOLUME), score(scored, HINET2020)
    share = case.mask.sum() / (160 * 180 * 30)
    assert whole["psnr"] - masked["psnr"] == pytest.approx(-10 * math.log10(share), abs=1e-3)
    assert whole["ssim"] > masked["ssim"] + 0.02
    assert whole["nmse"] == pytest.approx(masked["nmse"], rel=1e-5)


def test_left_right_order_does_not_matter_inside_the_mask() -> None:
    case = prepared("percentile")
    scored = score_input(noisy(case), case, "FLAIR")
    flipped = ScoreInput(scored.prediction[::-1], scored.truth[::-1], scored.mask[::-1])
    assert score(flipped, MASKED_VOLUME) == pytest.approx(score(scored, MASKED_VOLUME), rel=1e-6)


def test_bad_predictions_are_refused() -> None:
    case = prepared("percentile")
    guess = noisy(case)
    guess[0, 0, 0] = np.nan  # even outside the brain: the volume is broken
    for protocol in PROTOCOLS.values():
        with pytest.raises(DataError, match=rf"FLAIR of case X cannot be scored under {protocol.name}: .*prediction holds 1 NaN"):
            score(score_input(guess, case, "FLAIR"), protocol)
    with pytest.raises(DataError, match="differ in shape"):
        score(score_input(noisy(case)[1:], case, "FLAIR"), MASKED_VOLUME)
    with pytest.raises(DataError, match="mask is empty"):
        score(ScoreInput(np.zeros((4, 4, 4)), np.zeros((4, 4, 4)), np.zeros((4, 4, 4), bool)), MASKED_VOLUME)
    with pytest.raises(DataError, match="case X has no T2w to score against"):
        score_input(guess, case, "T2w")
    broken = dataclasses.replace(case, images={"FLAIR": np.full(case.mask.shape, np.nan, np.float32)})
    with pytest.raises(DataError, match="ground truth holds"):
        score(score_input(noisy(case), broken, "FLAIR"), MASKED_VOLUME)


def rows_of(case: str, method: str, protocol: str, region: str, values: dict[str, float]) -> list[Score]:
    return [Score(case, "", method, "FLAIR", protocol, region, metric, value) for metric, value in values.items()]


ROWS = [
    *rows_of("sub-01_ses-01", "linear", "masked-volume", "brain", {"psnr": 10.0, "ssim": 0.5}),
    *rows_of("sub-01_ses-02", "linear", "masked-volume", "brain", {"psnr": 14.0, "ssim": 0.7}),
    *rows_of("sub-02", "linear", "masked-volume", "brain", {"psnr": 18.0, "ssim": 0.8}),
    *rows_of("sub-02", "hinet", "masked-volume", "brain", {"psnr": math.inf}),
    *rows_of("sub-02", "hinet", "brasyn", "lesion", {"ssim": 0.25}),
    *rows_of("sub-02", "hinet", "brasyn", "non-lesion", {"ssim": 0.5}),
]


def test_score_table_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.csv"
    rows = [*ROWS, dataclasses.replace(ROWS[0], value=1 / 3)]
    write_scores(path, rows)
    assert path.read_text().splitlines()[0] == ",".join(COLUMNS) == "case,subject,method,contrast,protocol,region,metric,value"
    assert "sub-02,sub-02,hinet,FLAIR,brasyn,non-lesion,ssim,0.5" in path.read_text().splitlines()
    assert "sub-02,sub-02,linear,FLAIR,masked-volume,brain,psnr,18.0" in path.read_text().splitlines()
    assert read_scores(path) == rows
    assert list(path.parent.iterdir()) == [path]


def test_old_tables_are_read_with_the_region_of_their_protocol(tmp_path: Path) -> None:
    """The protocol's own region was empty, and a table from elsewhere need not say who the subject is."""
    path = tmp_path / "old.csv"
    head, tail = "case,method,contrast,protocol,region,metric,value\n", "linear,FLAIR"
    lines = (
        "masked-volume,,psnr",
        "hinet2020,,psnr",
        "brasyn,,ssim",
        "brasyn,non-lesion,ssim",
        "mine,,psnr",
        "brats-regions,,dice_WT",
    )
    path.write_text(head + "".join(f"sub-01_ses-02,{tail},{line},14.0\n" for line in lines))
    rows = read_scores(path)
    assert [row.region for row in rows] == ["brain", "whole", "lesion", "non-lesion", "brain", "brain"]
    assert {row.subject for row in rows} == {"sub-01"}


def test_a_score_names_its_region_apart_from_its_metric() -> None:
    for words in ({"region": ""}, {"metric": ""}, {"metric": "psnr@lesion"}):
        with pytest.raises(UsageError, match="name both, each in its own place"):
            dataclasses.replace(ROWS[0], **words)


def test_summary_counts_subjects_not_sessions() -> None:
    summary = {(row["method"], row["region"], row["metric"]): row for row in summarise(ROWS)}
    psnr_row = summary["linear", "brain", "psnr"]
    assert psnr_row["subjects"] == 2
    assert psnr_row["mean"] == pytest.approx((12 + 18) / 2)
    assert psnr_row["sd"] == pytest.approx(np.std([12, 18], ddof=1))
    assert psnr_row["text"] == "15.00 +- 4.24 dB"
    assert summary["linear", "brain", "ssim"]["text"] == "0.7000 +- 0.1414"
    single = summary["hinet", "brain", "psnr"]
    assert single["mean"] == math.inf and math.isnan(single["sd"]) and single["text"] == "inf dB"
    assert {row["protocol"] for row in summarise(ROWS)} == {"masked-volume", "brasyn"}
    assert summary["hinet", "lesion", "ssim"]["mean"] == 0.25 and summary["hinet", "non-lesion", "ssim"]["mean"] == 0.5
    # what a row says counts before what its case's name says
    named = [dataclasses.replace(row, subject="sub-01") for row in ROWS]
    assert {row["subjects"] for row in summarise(named)} == {1}
    assert Score("Brats18_2013_3_1", "", "a", "FLAIR", "own", "brain", "psnr", 1).subject == "Brats18_2013_3_1"
    assert summarise([]) == []


def test_formats() -> None:
    assert format_score("psnr", 15.234, 1.016) == "15.23 +- 1.02 dB"
    assert format_score("nmse", 0.02584) == "0.0258"
    assert format_score("hd95_WT", 3.456) == "3.46 mm" and format_score("nobody_knows_it", 3.456) == "3.4560"


def test_damaged_tables_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    with pytest.raises(DataError, match="cannot be read"):
        read_scores(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no metrics table"):
        read_scores(path)
    path.write_text(",".join(COLUMNS) + "\na,a,b,c,d,,e,many\n")
    with pytest.raises(DataError, match="damaged"):
        read_scores(path)
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_scores(blocker / "metrics.csv", ROWS)
