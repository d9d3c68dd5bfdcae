"""Protocols: what counts, in which units, and that nothing is forgiven; tables: rows, means and deviations over subjects."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from synthmr.case import PreparedCase, Volume
from synthmr.config import PrepareConfig
from synthmr.errors import DataError, UsageError
from synthmr.evaluate.metrics import HIGHER_IS_BETTER, nmse, psnr, ssim
from synthmr.evaluate.protocols import HINET2020, MASKED_VOLUME, PROTOCOLS, ScoreInput, get_protocol, score, score_input
from synthmr.evaluate.table import COLUMNS, format_score, read_metrics, score_rows, subject_of, summarise, write_metrics
from synthmr.prepare import normalize
from synthmr.prepare.case import prepare_images


def brain(shape: tuple[int, int, int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Intensities 40 to 200 in an off-centre ellipsoid, 0 outside; and the ellipsoid."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    mask = sum(((axis - 0.1) / 0.55) ** 2 for axis in axes) < 1
    return np.where(mask, rng.uniform(40, 200, shape), 0).astype(np.float32), mask


def prepared(
    normalizer: str, shape: tuple[int, int, int] = (40, 44, 30), margin: int = 2, affine: np.ndarray | None = None
) -> PreparedCase:
    image, mask = brain(shape)
    volumes = {"T1w": Volume(image[::-1].copy() + mask, np.eye(4)), "FLAIR": Volume(image, np.eye(4))}
    config = PrepareConfig(normalizer=normalizer, margin=margin, mask="file")
    landmarks = {"FLAIR": normalize.learn_landmarks([image[mask], image[mask] * 1.3])}
    landmarks["T1w"] = landmarks["FLAIR"]
    return prepare_images(volumes, config, ("FLAIR",), Volume(mask.astype(np.uint8), np.eye(4)), landmarks=landmarks, name="X")


def noisy(case: PreparedCase, level: float = 0.1, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    truth = case.images["FLAIR"]
    background = np.float32(normalize.background(case.normalizers["FLAIR"]))
    return np.where(case.mask, truth + rng.normal(0, level, truth.shape), background).astype(np.float32)


def test_every_protocol_is_complete() -> None:
    assert set(PROTOCOLS) == {"masked-volume", "hinet2020"}
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name and set(protocol.metrics) <= set(HIGHER_IS_BETTER)
        for entry in dataclasses.fields(protocol):
            assert getattr(protocol, entry.name) not in ("", ()), entry.name
    with pytest.raises(UsageError, match="did you mean masked-volume"):
        get_protocol("masked")
    with pytest.raises(dataclasses.FrozenInstanceError):
        MASKED_VOLUME.name = "other"  # type: ignore[misc]


def test_masked_volume_by_hand() -> None:
    """[-1, 1] becomes [0, 1]; brain voxels alone; data range 1."""
    case = prepared("percentile")
    guess = noisy(case)
    scores = score(score_input(guess, case, "FLAIR"), MASKED_VOLUME)
    y, g = (case.images["FLAIR"][case.mask].astype(float) + 1) / 2, (guess[case.mask].astype(float) + 1) / 2
    error = np.mean((y - g) ** 2)
    assert scores["psnr"] == pytest.approx(-10 * math.log10(error), abs=1e-4)
    assert scores["nmse"] == pytest.approx(error * y.size / np.sum(y**2), rel=1e-4)
    assert scores["nrmse"] == pytest.approx(math.sqrt(error), rel=1e-4)
    assert scores["mae"] == pytest.approx(np.mean(abs(y - g)), rel=1e-4)
    assert list(scores) == ["psnr", "ssim", "nmse", "nrmse", "mae"]
    # NMSE on [0, 1] is not NMSE on [-1, 1]
    assert nmse(2 * g - 1, 2 * y - 1) > 1.5 * scores["nmse"]


def test_a_constant_guess_has_a_closed_form() -> None:
    case = prepared("percentile")
    truth = case.images["FLAIR"][case.mask].astype(float)
    guess = np.where(case.mask, np.float32(truth.mean()), np.float32(-1))
    scores = score(score_input(guess, case, "FLAIR"), MASKED_VOLUME)
    assert scores["psnr"] == pytest.approx(-20 * math.log10(truth.std() / 2), abs=1e-4)


@pytest.mark.parametrize("normalizer", ["zscore", "mean", "percentile"])
def test_linear_normalizers_score_the_same_prediction_the_same(normalizer: str) -> None:
    """The protocol's [0, 1] is fixed by the truth, whatever linear units the method worked in."""
    case = prepared(normalizer)
    params = case.normalizers["FLAIR"]
    scanner = normalize.invert(case.images["FLAIR"], params)
    rng = np.random.default_rng(3)
    guess = np.where(case.mask, scanner * 0.9 + rng.normal(0, 5, scanner.shape), 0)
    # by hand: 0 scanner units is 0, the 99.5th brain percentile is 1
    image, mask = brain((40, 44, 30))
    high = np.percentile(image[mask], 99.5)
    truth = np.minimum(scanner, high) if normalizer == "percentile" else scanner
    expected = psnr(guess / high, truth / high, 1.0, case.mask)
    bounded = (guess - params["low"]) / (params["high"] - params["low"]) * 2 - 1 if normalizer == "percentile" else None
    units = bounded if bounded is not None else normalize.apply(guess, params)
    scores = score(score_input(np.asarray(units, np.float32), case, "FLAIR"), MASKED_VOLUME)
    assert scores["psnr"] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("normalizer", normalize.NAMES)
@pytest.mark.parametrize("protocol", list(PROTOCOLS.values()), ids=list(PROTOCOLS))
def test_truth_scores_perfect_and_noise_does_not(normalizer: str, protocol) -> None:  # type: ignore[no-untyped-def]
    case = prepared(normalizer)
    perfect = score(score_input(case.images["FLAIR"], case, "FLAIR"), protocol)
    assert perfect["psnr"] == math.inf and perfect["ssim"] == pytest.approx(1) and perfect["nmse"] == perfect["mae"] == 0
    worse = score(score_input(noisy(case, 0.3), case, "FLAIR"), protocol)
    assert worse["psnr"] < 50 and worse["ssim"] < 0.9999 and worse["nmse"] > 1e-4


def test_no_rescaling_no_clipping() -> None:
    """A gain error, an offset and values beyond the range all cost; a rescaling scorer would forgive the first two."""
    case = prepared("percentile")
    truth = case.images["FLAIR"]
    good = score_input(noisy(case, 0.01), case, "FLAIR")
    gain = np.where(case.mask, (truth + 1) * 1.3 - 1, -1)
    offset = np.where(case.mask, truth + 0.2, -1)
    beyond = np.where(case.mask & (truth > 0.9), 3.0, truth)
    for guess in (gain, offset, beyond):
        for protocol in PROTOCOLS.values():
            value = score(score_input(guess.astype(np.float32), case, "FLAIR"), protocol)["psnr"]
            assert value < score(good, protocol)["psnr"] - 5
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
    scores = [score(score_input(g, c, "FLAIR"), protocol) for g, c in ((one, tight), (two, wide))]
    for name in scores[0]:
        assert scores[0][name] == pytest.approx(scores[1][name], rel=1e-6), name


def test_hinet2020_crops_the_original_grid() -> None:
    """160x180 of a 200x210 grid, cut by hand; all slices, background included."""
    rng = np.random.default_rng(4)
    full = np.zeros((200, 210, 12), np.float32)
    full[10:190, 30:200, 1:11] = rng.uniform(0, 1, (180, 170, 10))
    guess = np.where(full > 0, full + rng.normal(0, 0.1, full.shape), 0).astype(np.float32)
    scores = score(ScoreInput(guess, full, full > 0), HINET2020)
    box = (slice(20, 180), slice(15, 195))
    assert scores["psnr"] == pytest.approx(psnr(guess[box], full[box], 1.0), abs=1e-5)
    assert scores["nmse"] == pytest.approx(nmse(guess[box], full[box]), rel=1e-5)
    assert scores["ssim"] == pytest.approx(ssim(guess[box], full[box], 1.0, slice_axis=2), abs=1e-6)
    # the same from the cropped arrays and their place
    part = (slice(10, 190), slice(30, 200), slice(1, 11))
    inside = ScoreInput(guess[part], full[part], full[part] > 0, start=(10, 30, 1), shape=(200, 210, 12))
    assert score(inside, HINET2020) == pytest.approx(scores, rel=1e-6)


def test_hinet2020_pads_small_grids_with_background() -> None:
    image, mask = brain((30, 32, 14))
    truth = image / 200
    guess = np.where(mask, truth + 0.1, 0).astype(np.float32)
    scores = score(ScoreInput(guess, truth, mask), HINET2020)
    error = mask.sum() * 0.01 / (160 * 180 * 14)
    assert scores["psnr"] == pytest.approx(-10 * math.log10(error), abs=1e-3)
    assert scores["mae"] == pytest.approx(mask.sum() * 0.1 / (160 * 180 * 14), rel=1e-3)


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
        with pytest.raises(DataError, match=r"FLAIR of case X cannot be scored under .*prediction holds 1 NaN"):
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


ROWS = [
    *score_rows("sub-01_ses-01", "linear", "FLAIR", "masked-volume", {"psnr": 10.0, "ssim": 0.5}),
    *score_rows("sub-01_ses-02", "linear", "FLAIR", "masked-volume", {"psnr": 14.0, "ssim": 0.7}),
    *score_rows("sub-02", "linear", "FLAIR", "masked-volume", {"psnr": 18.0, "ssim": 0.8}),
    *score_rows("sub-02", "hinet", "FLAIR", "masked-volume", {"psnr": math.inf}),
]


def test_metrics_csv_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.csv"
    rows = [*ROWS, {**ROWS[0], "value": 1 / 3}]
    write_metrics(path, rows)
    assert path.read_text().splitlines()[0] == ",".join(COLUMNS) == "case,method,contrast,protocol,metric,value"
    assert read_metrics(path) == rows
    assert list(path.parent.iterdir()) == [path]


def test_summary_counts_subjects_not_sessions() -> None:
    summary = {(row["method"], row["metric"]): row for row in summarise(ROWS)}
    psnr_row = summary["linear", "psnr"]
    assert psnr_row["subjects"] == 2
    assert psnr_row["mean"] == pytest.approx((12 + 18) / 2)
    assert psnr_row["sd"] == pytest.approx(np.std([12, 18], ddof=1))
    assert psnr_row["text"] == "15.00 +- 4.24 dB"
    assert summary["linear", "ssim"]["text"] == "0.7000 +- 0.1414"
    single = summary["hinet", "psnr"]
    assert single["mean"] == math.inf and math.isnan(single["sd"]) and single["text"] == "inf dB"
    assert {row["protocol"] for row in summarise(ROWS)} == {"masked-volume"}
    assert subject_of("Brats18_2013_3_1") == "Brats18_2013_3_1"
    assert summarise([]) == []


def test_formats() -> None:
    assert format_score("psnr", 15.234, 1.016) == "15.23 +- 1.02 dB"
    assert format_score("nmse", 0.02584) == "0.0258"


def test_damaged_tables_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    with pytest.raises(DataError, match="cannot be read"):
        read_metrics(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no metrics table"):
        read_metrics(path)
    path.write_text(",".join(COLUMNS) + "\na,b,c,d,e,many\n")
    with pytest.raises(DataError, match="damaged"):
        read_metrics(path)
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_metrics(blocker / "metrics.csv", ROWS)
