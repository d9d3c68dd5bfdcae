"""Scoring: each protocol by hand on small volumes, what it forgives and what not, and independence of how a case is cropped."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from synthmr.errors import DataError, UsageError
from synthmr.evaluate import metrics, registry, scoring
from synthmr.evaluate.protocols import (
    BRASYN,
    DISENTANGLED,
    HINET2020,
    IMT2020,
    MAFNET,
    MASKED_VOLUME,
    MILR2018,
    OWN_MAX,
    PROTOCOLS,
    WHOLE_VOLUME,
    Protocol,
)
from synthmr.evaluate.scoring import ScoreInput, chosen_slices, region_scores, scorable

SHAPE = (22, 26, 18)
BOX = (slice(4, 18), slice(5, 22), slice(3, 14))


def head(shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> ScoreInput:
    """An ellipsoid of 0.2 to 1 with noise on the prediction, both 0 outside, and a lesion of 4x5x3 voxels."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, bool)
    axes = np.meshgrid(*(np.linspace(-1, 1, len(range(*part.indices(99)))) for part in BOX), indexing="ij")
    mask[BOX] = sum(axis**2 for axis in axes) < 1.2
    truth = np.where(mask, rng.uniform(0.2, 1, shape), 0).astype(np.float32)
    guess = np.where(mask, truth + rng.normal(0, 0.1, shape), 0).astype(np.float32)
    lesion = np.zeros(shape, bool)
    lesion[9:13, 10:15, 6:9] = True
    return ScoreInput(guess, truth, mask, lesion=lesion)


def cut(scored: ScoreInput, box: tuple[slice, slice, slice]) -> ScoreInput:
    """The same case, cropped to a box that holds its brain."""
    arrays = {name: getattr(scored, name)[box] for name in ("prediction", "truth", "mask", "lesion")}
    x, y, z = (part.start for part in box)
    return dataclasses.replace(scored, **arrays, start=(x, y, z), shape=scored.truth.shape)


def times(scored: ScoreInput, gain: float) -> ScoreInput:
    return dataclasses.replace(scored, prediction=(scored.prediction * np.float32(gain)).astype(np.float32))


def scores(scored: ScoreInput, protocol: Protocol, names: Sequence[str] = ()) -> dict[tuple[str, str], float]:
    """(region, metric) -> value."""
    found = scoring.score(scored, protocol, names)
    return {(region, metric): value for region, values in found.items() for metric, value in values.items()}


def score(scored: ScoreInput, protocol: Protocol, names: Sequence[str] = ()) -> dict[str, float]:
    """metric -> value in the protocol's own region."""
    return next(iter(scoring.score(scored, protocol, names).values()))


def psnr(error: np.ndarray, peak: float = 1.0) -> float:
    return 20 * math.log10(peak / math.sqrt(np.mean(np.float64(error) ** 2)))


# --- every protocol -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_crop_of_the_prepared_case_does_not_matter(name: str) -> None:
    scored = head()
    whole = scores(scored, PROTOCOLS[name])
    for box in (BOX, (slice(0, 22), slice(5, 25), slice(2, 18)), (slice(3, 19), slice(0, 24), slice(1, 14))):
        assert scores(cut(scored, box), PROTOCOLS[name]) == pytest.approx(whole, rel=1e-5), box


@pytest.mark.parametrize("metric", ["ms_ssim", "hfen", "gradient_error", "sharpness", "ncc", "ssim_global", "structure_rmse"])
@pytest.mark.parametrize("name", ["masked-volume", "whole-volume"])
def test_nor_for_any_other_metric(name: str, metric: str) -> None:
    scored = head()
    whole = score(scored, PROTOCOLS[name], (metric,))
    assert score(cut(scored, BOX), PROTOCOLS[name], (metric,)) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_gain_is_forgiven_only_by_protocols_that_rescale(name: str) -> None:
    scored, protocol = head(), PROTOCOLS[name]
    plain, louder = scores(scored, protocol), scores(times(scored, 1.5), protocol)
    if protocol.rescales:
        assert louder == pytest.approx(plain, rel=1e-5)
    else:
        assert all(louder[region, "psnr"] < plain[region, "psnr"] - 3 for region in protocol.regions)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_equal_images_and_all_metrics(name: str) -> None:
    """Every image metric can be had under every protocol and has its best value for equal images."""
    small = head()
    scored = dataclasses.replace(small, prediction=small.truth)
    chosen = sorted(registry.image_metrics())
    assert len(chosen) == 18
    for key, value in scores(scored, PROTOCOLS[name], chosen).items():
        metric = key[1]
        if metric.endswith("psnr"):
            assert value == math.inf, key
        elif "mutual" in metric:
            assert value > 0
        elif metric == "ncc" and PROTOCOLS[name].per == "slice":
            assert 0 < value <= 1  # slices without brain are constant and count 0
        else:
            best = 0 if registry.direction(metric) is False else 1
            assert value == pytest.approx(best, abs=1e-6), key


@pytest.mark.parametrize("name", PROTOCOLS)
def test_zeros_as_prediction(name: str) -> None:
    scored, protocol = times(head(), 0), PROTOCOLS[name]
    if protocol.rescales:
        assert "none above 0" in scorable(scored, protocol)
        with pytest.raises(DataError, match=rf"{name} divides by the prediction's own values.*leave this protocol out"):
            score(scored, protocol)
    else:
        assert scorable(scored, protocol) == ""
        values = score(scored, protocol)
        assert math.isfinite(values["psnr"]) and values.get("nmse", 1) == 1 == pytest.approx(values.get("nrmse_norm", 1))


# --- one by one ---------------------------------------------------------------------------------------------------------


def test_masked_volume() -> None:
    scored = head()
    g, y = scored.prediction[scored.mask].astype(float), scored.truth[scored.mask].astype(float)
    values = score(scored, MASKED_VOLUME)
    assert values["psnr"] == pytest.approx(psnr(g - y)) and values["mae"] == pytest.approx(np.abs(g - y).mean())
    padded = [np.pad(image, 9) for image in (scored.prediction, scored.truth, scored.mask)]
    assert values["ssim"] == pytest.approx(metrics.ssim(padded[0], padded[1], 1.0, padded[2]))
    slope, offset = np.polyfit(g, y, 1)
    assert values["structure_psnr"] == pytest.approx(psnr(slope * g + offset - y))
    # what lies outside the mask is not seen
    drawn = dataclasses.replace(scored, prediction=np.where(scored.mask, scored.prediction, 0.7).astype(np.float32))
    assert score(drawn, MASKED_VOLUME) == pytest.approx(values)
    assert score(drawn, WHOLE_VOLUME)["psnr"] < score(scored, WHOLE_VOLUME)["psnr"] - 5


def test_whole_volume() -> None:
    scored = head()
    values, masked = score(scored, WHOLE_VOLUME), score(scored, MASKED_VOLUME)
    assert values["psnr"] == pytest.approx(psnr(scored.prediction - scored.truth))
    assert values["psnr"] - masked["psnr"] == pytest.approx(-10 * math.log10(scored.mask.mean()))
    assert values["nmse"] == pytest.approx(masked["nmse"]) and values["mae"] < masked["mae"]
    assert values["ssim"] == pytest.approx(metrics.ssim(scored.prediction, scored.truth, 1.0))


def test_hinet2020() -> None:
    small = head()
    wide = {name: np.pad(getattr(small, name), ((90, 88), (82, 82), (0, 0))) for name in ("prediction", "truth", "mask", "lesion")}
    scored = dataclasses.replace(small, **wide)
    corner = np.zeros((200, 190, 18), np.float32)
    corner[5, 3, 9] = 50.0  # outside the crop of 160x180, which starts at 20 and 5
    off = dataclasses.replace(scored, prediction=scored.prediction + corner)
    crop = (slice(20, 180), slice(5, 185))
    values = score(off, HINET2020)
    assert values["psnr"] == pytest.approx(psnr((scored.prediction - scored.truth)[crop]))
    assert values["ssim"] == pytest.approx(metrics.ssim(scored.prediction[crop], scored.truth[crop], 1.0, slice_axis=2))
    assert score(off, WHOLE_VOLUME)["psnr"] < values["psnr"] - 5


def test_milr2018() -> None:
    """Divided by the truth's mean over the whole grid; the peak is its maximum before any clipping."""
    scored = head()
    g, y = scored.prediction.astype(float), scored.truth.astype(float)
    values = score(scored, MILR2018)
    assert values["mse"] == pytest.approx(np.mean((g - y) ** 2) / y.mean() ** 2)
    assert values["psnr"] == pytest.approx(psnr(g - y, y.max()))
    r = y.max() / y.mean()
    assert values["ssim"] == pytest.approx(metrics.ssim_global(g / y.mean(), y / y.mean(), r))
    peaked = score(dataclasses.replace(scored, peak=2.5), MILR2018)
    assert peaked["psnr"] == pytest.approx(psnr(g - y, 2.5)) and peaked["mse"] == values["mse"]
    empty = dataclasses.replace(scored, truth=np.zeros_like(scored.truth))
    with pytest.raises(DataError, match="the ground truth's mean is 0, and this protocol divides by it"):
        score(empty, MILR2018)


def test_truth_max_units() -> None:
    protocol = dataclasses.replace(MASKED_VOLUME, name="mine", units="truth-max", metrics=("mae", "psnr"))
    scored = head()
    error = (scored.prediction - scored.truth)[scored.mask]
    values = score(dataclasses.replace(scored, peak=1.6), protocol)
    assert values == pytest.approx({"mae": np.abs(error).mean() / 1.6, "psnr": psnr(error, 1.6)})
    assert score(scored, protocol)["psnr"] == pytest.approx(psnr(error, scored.truth.max()))
    assert score(times(scored, 2), protocol)["psnr"] < values["psnr"] - 3


def test_disentangled_middle_slices_and_their_own_peak() -> None:
    """Slices with brain, of these the middle ones; each with its own maximum as peak; then the mean."""
    scored = head()
    shown = np.flatnonzero(scored.mask.any(axis=(0, 1)))
    middle = shown[(len(shown) - 4) // 2 :][:4]
    protocol = dataclasses.replace(DISENTANGLED, name="few", middle=4, resize=None)
    assert chosen_slices(scored, protocol).tolist() == middle.tolist() != shown.tolist()
    slices = [(scored.prediction[..., s].astype(float), scored.truth[..., s].astype(float)) for s in middle]
    values = score(scored, protocol)
    assert values["psnr"] == pytest.approx(np.mean([psnr(g - y, y.max()) for g, y in slices]))
    assert values["nrmse_norm"] == pytest.approx(np.mean([np.linalg.norm(g - y) / np.linalg.norm(y) for g, y in slices]))
    assert values["ssim"] == pytest.approx(np.mean([metrics.ssim(g, y, y.max()) for g, y in slices]))
    # an error in a slice that is not among them costs nothing; the paper's 80 are all here
    off = scored.prediction.copy()
    off[..., shown[0]] += 5
    assert score(dataclasses.replace(scored, prediction=off), protocol) == values
    assert chosen_slices(scored, DISENTANGLED).tolist() == shown.tolist() and DISENTANGLED.middle == 80


def test_resize_is_linear_interpolation() -> None:
    scored = head()
    protocol = dataclasses.replace(DISENTANGLED, name="big", resize=(33, 40), metrics=("psnr",))
    columns, rows = np.meshgrid((np.arange(33) + 0.5) * 22 / 33 - 0.5, (np.arange(40) + 0.5) * 26 / 40 - 0.5, indexing="ij")
    expected = []
    for number in chosen_slices(scored, protocol):
        g, y = (
            map_coordinates(image[..., number], (columns, rows), order=1, mode="nearest")
            for image in (scored.prediction, scored.truth)
        )
        expected.append(psnr(g - y, y.max()))
    assert score(scored, protocol)["psnr"] == pytest.approx(np.mean(expected), abs=1e-4)


def test_a_slice_without_truth_has_no_peak_and_is_left_out() -> None:
    scored = head()
    truth = scored.truth.copy()
    shown = np.flatnonzero(scored.mask.any(axis=(0, 1)))
    truth[..., shown[:2]] = 0
    lost = dataclasses.replace(scored, truth=truth)
    protocol = dataclasses.replace(DISENTANGLED, name="cut", resize=None)
    slices = [(scored.prediction[..., s].astype(float), truth[..., s].astype(float)) for s in shown[2:]]
    values = score(lost, protocol)
    assert values["psnr"] == pytest.approx(np.mean([psnr(g - y, y.max()) for g, y in slices]))
    assert values["ssim"] == pytest.approx(np.mean([metrics.ssim(g, y, y.max()) for g, y in slices]))
    nothing = score(dataclasses.replace(scored, truth=np.zeros_like(truth)), protocol)
    assert all(math.isnan(value) for value in nothing.values())


def test_mafnet_scores_slices_with_lesion_alone() -> None:
    scored = head()
    padded = [np.pad(image, ((101, 101), (99, 99), (0, 0))) for image in (scored.prediction, scored.truth)]
    slices = [tuple(image[..., s].astype(float) for image in padded) for s in (6, 7, 8)]
    values = score(scored, MAFNET)
    assert values["psnr"] == pytest.approx(np.mean([psnr(g - y) for g, y in slices]))
    assert values["ssim"] == pytest.approx(np.mean([metrics.ssim(g, y, 1.0) for g, y in slices]))
    off = scored.prediction.copy()
    off[..., 9:] += 5
    assert score(dataclasses.replace(scored, prediction=off), MAFNET) == values
    # the lesion need not lie in the crop for its slice to count
    small = dataclasses.replace(MAFNET, name="small", crop=(4, 4))
    aside = np.zeros(SHAPE, bool)
    aside[6, 13, 8] = True
    assert scored.mask[6, 13, 8]
    assert chosen_slices(dataclasses.replace(scored, lesion=aside), small).tolist() == [8]
    box = (slice(9, 13), slice(11, 15))
    expected = psnr(scored.prediction[(*box, 8)] - scored.truth[(*box, 8)])
    assert score(dataclasses.replace(scored, lesion=aside), small)["psnr"] == pytest.approx(expected)


@pytest.mark.parametrize("protocol", [MAFNET, BRASYN], ids=lambda protocol: protocol.name)
def test_lesion_protocols_need_a_lesion(protocol: Protocol) -> None:
    scored = dataclasses.replace(head(), label="FLAIR of case X")
    outside = np.zeros(SHAPE, bool)
    outside[0, 0, 0] = True
    for lesion, words in ((None, "needs a segmentation, and there is none of FLAIR of case X"), (outside, "has none in the brain")):
        bare = dataclasses.replace(scored, lesion=lesion)
        assert words in scorable(bare, protocol)
        with pytest.raises(DataError, match=words):
            score(bare, protocol)
    assert scorable(scored, protocol) == "" and scorable(dataclasses.replace(scored, lesion=None), IMT2020) == ""


def test_imt2020_scale_bins_and_empty_slices() -> None:
    """0-255; empty slices count in every mean but that of PSNR, where they would be infinite."""
    scored = head()
    protocol = dataclasses.replace(IMT2020, name="plain", resize=None)
    slices = [(255 * scored.prediction[..., s].astype(float), 255 * scored.truth[..., s].astype(float)) for s in range(SHAPE[2])]
    shown = scored.mask.any(axis=(0, 1))
    assert 0 < np.count_nonzero(shown) < SHAPE[2]
    values = score(scored, protocol)
    assert values["mae"] == pytest.approx(np.mean([np.abs(g - y).mean() for g, y in slices]))
    assert values["psnr"] == pytest.approx(np.mean([psnr(g - y, 255) for (g, y), here in zip(slices, shown, strict=True) if here]))
    ssims = [metrics.ssim(g, y, 255.0) for g, y in slices]
    assert values["ssim"] == pytest.approx(np.mean(ssims)) and ssims[0] == 1
    information = []
    for g, y in slices:
        joint = np.histogram2d(np.clip(g, 0, 255).ravel(), np.clip(y, 0, 255).ravel(), bins=256, range=[[0, 255], [0, 255]])[0]
        p = joint / joint.sum()
        outer = p.sum(1, keepdims=True) * p.sum(0, keepdims=True)
        information.append(float(np.sum(p[p > 0] * np.log(p[p > 0] / outer[p > 0]))))
    assert information[0] == 0
    assert values["mutual_information"] == pytest.approx(np.mean(information), abs=2e-3)  # float32 at bin edges
    assert score(scored, dataclasses.replace(protocol, name="coarse", bins=16))["mutual_information"] < values["mutual_information"]
    # a slice that is right in a wrong volume is no infinite mean; a wholly right volume is infinite
    one = scored.prediction.copy()
    one[..., 8] = scored.truth[..., 8]
    assert math.isfinite(score(dataclasses.replace(scored, prediction=one), protocol)["psnr"])
    assert score(dataclasses.replace(scored, prediction=scored.truth), protocol)["psnr"] == math.inf


def test_imt2020_is_the_same_at_256() -> None:
    """256x256 slices need no resizing."""
    scored = head((256, 256, 18))
    plain = dataclasses.replace(IMT2020, name="plain", resize=None, metrics=("mae", "psnr"))
    assert score(scored, IMT2020, ("mae", "psnr")) == pytest.approx(score(scored, plain), rel=1e-6)


def test_own_max() -> None:
    scored = times(head(), 1.7)
    g, y = scored.prediction / scored.prediction.max(), scored.truth / scored.truth.max()
    values = score(scored, OWN_MAX)
    assert values["psnr"] == pytest.approx(psnr(g - y), abs=1e-4) and values["mae"] == pytest.approx(np.abs(g - y).mean(), rel=1e-4)
    with pytest.raises(DataError, match="the ground truth's maximum is 0"):
        score(dataclasses.replace(scored, truth=np.zeros(SHAPE, np.float32)), OWN_MAX)


def test_brasyn_regions() -> None:
    """Clipped to its own percentiles of the whole grid; SSIM of each part with the other set to 0."""
    scored = times(head(), 0.6)

    def own(image: np.ndarray) -> np.ndarray:
        low, high = np.percentile(image.astype(float), [0.5, 99.5])
        low = max(low, 0)
        return (np.clip(image, low, high) - low) / (high - low)

    g, y = own(scored.prediction), own(scored.truth)
    lesion = scored.lesion
    assert lesion is not None
    values = scores(scored, BRASYN)
    assert list(values) == [("lesion", "ssim"), ("lesion", "psnr"), ("non-lesion", "ssim"), ("non-lesion", "psnr")]
    for name, part in (("lesion", lesion), ("non-lesion", ~lesion)):
        assert values[name, "psnr"] == pytest.approx(psnr((g - y)[part]), abs=1e-3)
        expected = metrics.ssim(np.where(part, g, 0), np.where(part, y, 0), 1.0, part)
        assert values[name, "ssim"] == pytest.approx(expected, abs=1e-5)
    # a lower percentile below 0 is 0
    dark = dataclasses.replace(scored, prediction=np.where(scored.mask, scored.prediction - 0.4, 0).astype(np.float32))
    assert np.percentile(dark.prediction, 0.5) < -0.1
    assert scores(dark, BRASYN)["lesion", "psnr"] == pytest.approx(psnr((own(dark.prediction) - y)[lesion]), abs=1e-3)
    flat = dataclasses.replace(scored, prediction=np.full(SHAPE, 0.5, np.float32))
    with pytest.raises(DataError, match=r"the prediction's 0\.5 and 99\.5 percentiles leave no range"):
        score(flat, BRASYN)


def test_regions_slices_planes_and_scale_of_a_protocol_of_ones_own() -> None:
    scored = head()
    lesion = scored.lesion
    assert lesion is not None
    base = {"source": "me", "words": "", "differs": ""}
    coronal = Protocol(
        "own", **base, metrics=("psnr", "ssim"), regions=("lesion", "brain"), plane="coronal", per="slice", ssim="plane"
    )
    values = scores(scored, coronal)
    error = scored.prediction - scored.truth
    rows = [s for s in range(SHAPE[1]) if lesion[:, s].any()]
    assert values["lesion", "psnr"] == pytest.approx(np.mean([psnr(error[:, s][lesion[:, s]]) for s in rows]))
    rows = [s for s in range(SHAPE[1]) if scored.mask[:, s].any()]
    assert values["brain", "psnr"] == pytest.approx(np.mean([psnr(error[:, s][scored.mask[:, s]]) for s in rows]))
    expected = [metrics.ssim(scored.prediction[:, s], scored.truth[:, s], 1.0, scored.mask[:, s]) for s in rows]
    assert values["brain", "ssim"] == pytest.approx(np.mean(expected))
    # whole volume, windows in coronal slices
    stacked = Protocol("stack", **base, metrics=("ssim",), regions=("whole",), plane="coronal", ssim="plane")
    assert score(scored, stacked)["ssim"] == pytest.approx(metrics.ssim(scored.prediction, scored.truth, 1.0, slice_axis=1))
    # eight-bit numbers: errors scale, PSNR and SSIM do not
    eight = dataclasses.replace(MASKED_VOLUME, name="eight", scale=255.0)
    one, other = score(scored, MASKED_VOLUME), score(scored, eight)
    assert other["mae"] == pytest.approx(255 * one["mae"])
    assert [other[name] for name in ("psnr", "ssim", "nrmse")] == pytest.approx([one[name] for name in ("psnr", "ssim", "nrmse")])
    # a volume of chosen slices
    lesions = Protocol("ls", **base, metrics=("mae",), regions=("non-lesion",), slices="lesion")
    kept = ~lesion[..., 6:9]
    assert score(scored, lesions)["mae"] == pytest.approx(np.abs(error[..., 6:9])[kept].mean())


# --- regions ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("box", [tuple(slice(0, n) for n in SHAPE), BOX], ids=["whole", "cropped"])
def test_region_scores_equal_the_metric_with_that_mask(box: tuple[slice, slice, slice]) -> None:
    scored = cut(head(), box)
    lesion, mask = scored.lesion, scored.mask
    assert lesion is not None
    parts = {"lesion": lesion, "non-lesion": mask & ~lesion}
    names = ("psnr", "ssim", "mae", "hfen", "gradient_error", "ncc", "structure_psnr")
    found = region_scores(scored, MASKED_VOLUME, parts, names)
    assert {region: tuple(values) for region, values in found.items()} == dict.fromkeys(parts, names)
    g, y = (np.pad(image, 20) for image in (scored.prediction, scored.truth))
    for region, part in parts.items():
        part = np.pad(part, 20)
        for name in names:
            ranged = (1.0, part) if name in ("psnr", "ssim", "structure_psnr") else (part,)
            assert found[region][name] == pytest.approx(getattr(metrics, name)(g, y, *ranged), rel=1e-5), (name, region)
    # the whole brain as a region is the protocol itself
    whole = region_scores(scored, MASKED_VOLUME, {"all": mask}, (*names, "ms_ssim"))
    assert whole["all"] == pytest.approx(score(scored, MASKED_VOLUME, (*names, "ms_ssim")))


def test_region_scores_keep_units_and_range_of_the_protocol() -> None:
    scored = dataclasses.replace(head(), peak=2.0)
    lesion = scored.lesion
    assert lesion is not None
    found = region_scores(scored, MILR2018, {"lesion": lesion})
    error = (scored.prediction - scored.truth)[lesion]
    assert found["lesion"]["psnr"] == pytest.approx(psnr(error, 2.0))
    assert found["lesion"]["mse"] == pytest.approx(np.mean(error.astype(float) ** 2) / scored.truth.mean(dtype=float) ** 2)
    sliced = region_scores(scored, IMT2020, {"lesion": lesion}, ("mae", "ssim"))
    assert sliced["lesion"]["mae"] == pytest.approx(255 * np.abs(error).mean(), rel=1e-5)
    assert region_scores(scored, MASKED_VOLUME, {}) == {}


# --- special values and faults ------------------------------------------------------------------------------------------


def test_a_constant_prediction() -> None:
    scored = head()
    flat = dataclasses.replace(scored, prediction=np.where(scored.mask, 0.5, 0).astype(np.float32))
    values = score(flat, MASKED_VOLUME, ("ncc", "normalized_mutual_information", "psnr", "structure_rmse"))
    y = scored.truth[scored.mask].astype(float)
    assert values["ncc"] == 0 and values["normalized_mutual_information"] == 1
    assert values["psnr"] == pytest.approx(psnr(y - 0.5)) and values["structure_rmse"] == pytest.approx(y.std())


def test_faults_name_the_image_and_the_protocol() -> None:
    scored = dataclasses.replace(head(), label="FLAIR of case X")
    bad = scored.prediction.copy()
    bad[0, 0, 0] = np.inf
    with pytest.raises(DataError, match="FLAIR of case X cannot be scored under masked-volume: the prediction holds 1 NaN"):
        score(dataclasses.replace(scored, prediction=bad), MASKED_VOLUME)
    with pytest.raises(DataError, match="the brain mask is empty"):
        score(dataclasses.replace(scored, mask=np.zeros(SHAPE, bool)), WHOLE_VOLUME)
    with pytest.raises(DataError, match="differ in shape"):
        score(dataclasses.replace(scored, truth=scored.truth[1:]), MASKED_VOLUME)
    with pytest.raises(UsageError, match="metric 'psnrr': did you mean psnr"):
        score(scored, MASKED_VOLUME, ("psnrr",))
    black = dataclasses.replace(scored, truth=np.zeros_like(scored.truth))
    peak = dataclasses.replace(MASKED_VOLUME, name="peak", data_range="truth-max")
    with pytest.raises(DataError, match="the ground truth has no positive value"):
        score(black, peak)


# --- structure ----------------------------------------------------------------------------------------------------------


def test_structure_of_equal_and_affine_volumes_is_exact() -> None:
    """A million voxels: sums are off in their last digits there, which once read as 284 dB."""
    rng = np.random.default_rng(0)
    y = rng.gamma(2, 0.2, (100, 100, 100)).astype(np.float32)
    assert metrics.structure_psnr(y.copy(), y, 1.0) == math.inf and metrics.structure_rmse(y, y) == 0
    stepped = (np.rint(y * 256) / 256).astype(np.float32)  # a g + b is exact then
    for gain, offset in ((2, 3), (-0.5, 1), (1024, -7)):
        g = (gain * stepped + offset).astype(np.float32)
        assert metrics.structure_psnr(g, stepped, 1.0) == math.inf, (gain, offset)
    # what is really there is not rounded away
    g = y.copy()
    g[50, 50, 50] += 0.01
    expected = psnr(np.array([0.01]), 1.0) + 10 * math.log10(y.size)
    assert metrics.structure_psnr(g, y, 1.0) == pytest.approx(expected, abs=0.01)
    slightly = y.astype(np.float64) + 1e-9 * rng.normal(size=y.shape)
    assert metrics.structure_rmse(slightly, y) == pytest.approx(1e-9, rel=0.01)


@pytest.mark.slow
def test_the_default_protocol_is_quick() -> None:
    """A 240x240x155 volume with 1.7 million brain voxels in under 2 s of one thread."""
    shape = (240, 240, 155)
    axes = np.ogrid[tuple(slice(-1, 1, complex(0, n)) for n in shape)]
    mask = sum((axis / radius) ** 2 for axis, radius in zip(axes, (0.58, 0.7, 0.9), strict=True)) < 1
    rng = np.random.default_rng(0)
    truth = np.where(mask, rng.random(shape, np.float32), np.float32(0))
    scored = ScoreInput(truth * np.float32(0.9), truth, mask)
    score(head(), MASKED_VOLUME)  # libraries are loaded
    start = time.process_time()
    score(scored, MASKED_VOLUME)
    assert time.process_time() - start < 2
