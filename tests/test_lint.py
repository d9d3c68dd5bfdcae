"""The linter: every code is found where it should be, and not where it should not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from score_tables import rows_of
from synthmr.evaluate.lint import LintWarning, cut_off, lint_images, lint_lines, lint_protocol
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
)
from synthmr.evaluate.scoring import ScoreInput
from synthmr.evaluate.statistics import check_units

SHAPE = (30, 32, 24)


def pair(noise: float = 0.1) -> ScoreInput:
    """A box of brain in background, 20x22x16 voxels, and a lesion."""
    rng = np.random.default_rng(0)
    mask = np.zeros(SHAPE, bool)
    mask[5:25, 5:27, 4:20] = True
    truth = np.where(mask, rng.uniform(0.1, 1, SHAPE), 0).astype(np.float32)
    guess = np.where(mask, truth + rng.normal(0, noise, SHAPE), 0).astype(np.float32)
    lesion = np.zeros(SHAPE, bool)
    lesion[10:14, 10:14, 8:10] = True
    return ScoreInput(guess, truth, mask, label="FLAIR of case X", lesion=lesion)


def codes(warnings: list[LintWarning]) -> list[tuple[str, str]]:
    return [(warning.code, warning.protocol) for warning in warnings]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocols(name: str) -> None:
    expected = {
        "own-max": ["rescaled-prediction"],
        "brasyn": ["rescaled-prediction"],
        "milr2018": ["implicit-range"],
        "disentangled": ["implicit-range"],
    }
    found = lint_protocol(PROTOCOLS[name])
    assert codes(found) == [(code, name) for code in expected.get(name, [])]
    assert all(warning.label == "" and name in warning.text for warning in found)


def test_implicit_range_has_two_spellings() -> None:
    """Divided by the truth's maximum, range 1, is the truth's maximum as range."""
    mine = dataclasses.replace(MASKED_VOLUME, name="mine", units="truth-max")
    assert codes(lint_protocol(mine)) == [("implicit-range", "mine")]
    assert "each slice" in lint_protocol(DISENTANGLED)[0].text and "the volume" in lint_protocol(MILR2018)[0].text


def test_a_clean_pair_under_the_default_has_no_warning() -> None:
    assert lint_protocol(MASKED_VOLUME) == [] and lint_images(pair(), [MASKED_VOLUME]) == []


def test_a_mask_made_from_the_truth() -> None:
    found = lint_images(pair(), [], truth_mask=True)
    assert codes(found) == [("truth-mask", "")] and "--mask" in found[0].text and found[0].label == "FLAIR of case X"


def test_a_prediction_masked_by_the_truth() -> None:
    scored = pair()
    truth, guess = scored.truth.copy(), scored.prediction.copy()
    truth[10:14, 10:14, 10:14] = 0  # 64 dark voxels inside the brain
    dark = dataclasses.replace(scored, truth=truth)
    assert lint_images(dark, []) == []
    guess[10:14, 10:14, 10:14] = 0
    masked = dataclasses.replace(dark, prediction=guess)
    assert codes(lint_images(masked, [])) == [("truth-mask", "")]
    # z-scores and back are off in the last digit
    off = dataclasses.replace(masked, prediction=guess + np.float32(2e-8), truth=truth - np.float32(3e-8))
    assert codes(lint_images(off, [])) == [("truth-mask", "")]
    # one voxel that is not 0, too few of them, or a prediction of nothing at all: no sign of it
    guess[10, 10, 10] = 0.01
    assert lint_images(dataclasses.replace(dark, prediction=guess), []) == []
    truth[10:14, 10:14, 10:13] = guess[10:14, 10:14, 10:13] = 0.5
    guess[10:14, 10:14, 13] = 0
    assert lint_images(dataclasses.replace(dark, truth=truth, prediction=guess), []) == []
    assert "truth-mask" not in dict(codes(lint_images(dataclasses.replace(dark, prediction=np.zeros(SHAPE, np.float32)), [])))


@pytest.mark.parametrize(("gain", "warned"), [(0.2, True), (0.3, False), (3.5, False), (5.0, True), (900.0, True)])
def test_units_by_brightness(gain: float, warned: bool) -> None:
    scored = pair(0)
    found = lint_images(dataclasses.replace(scored, prediction=scored.prediction * np.float32(gain)), [])
    assert codes(found) == ([("units", "")] if warned else [])
    if warned:
        assert f"is {gain:.3g} times as bright" in found[0].text


def test_units_by_background() -> None:
    """A prediction in [-1, 1] beside a truth in [0, 1] is as bright at its bright end."""
    scored = pair()
    found = lint_images(dataclasses.replace(scored, prediction=2 * scored.prediction - 1), [])
    assert codes(found) == [("units", "")] and "the prediction is -1 and the truth 0" in found[0].text
    assert lint_images(dataclasses.replace(scored, prediction=scored.prediction + np.float32(0.1)), []) == []
    # no background at all: nothing to say
    inner = tuple(slice(a, b) for a, b in ((5, 25), (5, 27), (4, 20)))
    arrays = [image[inner] for image in (2 * scored.prediction - 1, scored.truth, scored.mask)]
    assert lint_images(ScoreInput(*arrays), []) == []


def test_cut_off_slices() -> None:
    scored = pair()
    assert cut_off(scored) == {}
    truth = scored.truth.copy()
    truth[:, :, 16:] = 0  # four axial slices of the brain
    lost = dataclasses.replace(scored, truth=truth)
    assert cut_off(lost) == {"axial": 4}
    found = lint_images(lost, [])
    assert codes(found) == [("cut-off", "")] and "4 axial slices" in found[0].text
    truth[:5] = truth[23:] = 0
    assert cut_off(lost) == {"axial": 4}  # two slices are the rim of a mask
    truth[22:] = 0
    assert cut_off(lost) == {"axial": 4, "sagittal": 3}
    # dark tissue across a slice, not all of it
    truth = scored.truth.copy()
    truth[:, :15, 10:16] = 0
    assert cut_off(dataclasses.replace(scored, truth=truth)) == {}


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        (MASKED_VOLUME, []),
        (WHOLE_VOLUME, ["background"]),
        (HINET2020, ["background"]),
        (MILR2018, ["background"]),
        (DISENTANGLED, ["background"]),
        (MAFNET, ["background"]),
        (IMT2020, ["empty-slices", "background"]),
        (OWN_MAX, ["background"]),
        (BRASYN, ["background"]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_background_and_empty_slices(protocol, expected: list[str]) -> None:  # type: ignore[no-untyped-def]
    """The brain is 7040 of 960x24 voxels: 69 % are background; slices alone: 54 %."""
    found = lint_images(pair(), [protocol])
    assert codes(found) == [(code, protocol.name) for code in expected]
    texts = {warning.code: warning.text for warning in found}
    if protocol in (WHOLE_VOLUME, OWN_MAX, BRASYN):
        assert texts["background"].startswith("69% of the voxels")
    if protocol is DISENTANGLED:
        assert texts["background"].startswith("54% of the voxels")
    if protocol is IMT2020:
        assert "averages over 24 slices, 8 of them without brain" in texts["empty-slices"]


def test_no_background_and_no_empty_slices() -> None:
    scored = pair()
    inner = (slice(5, 25), slice(5, 27), slice(4, 20))
    arrays = {name: getattr(scored, name)[inner] for name in ("prediction", "truth", "mask", "lesion")}
    tight = dataclasses.replace(scored, **arrays)
    assert lint_images(tight, [WHOLE_VOLUME, IMT2020, DISENTANGLED]) == []
    # the same arrays as a part of a larger grid
    few = dataclasses.replace(IMT2020, name="few", middle=10)
    several = [IMT2020, DISENTANGLED, MAFNET, few]
    assert lint_images(dataclasses.replace(tight, start=(5, 5, 4), shape=SHAPE), several) == lint_images(scored, several) != []
    # slices of a brain mask alone, the middle ones
    assert codes(lint_images(scored, [few])) == [("background", "few")]
    inside = dataclasses.replace(IMT2020, name="inside", regions=("brain",))
    assert lint_images(scored, [inside]) == []
    crop = dataclasses.replace(WHOLE_VOLUME, name="crop", crop=(20, 22), slices="brain", ssim="plane")
    assert lint_images(scored, [crop]) == []


def test_lines() -> None:
    """One line for the same words about several images, whatever their numbers; different words have their own line."""
    found = [
        LintWarning("rescaled-prediction", "own-max", "", "own-max scales."),
        LintWarning("rescaled-prediction", "own-max", "", "own-max scales."),
        LintWarning("cut-off", "", "A", "4 axial slices."),
        LintWarning("cut-off", "", "B", "11 axial slices."),
        LintWarning("cut-off", "", "B", "3 sagittal slices."),
        LintWarning("background", "whole-volume", "A", "69% of the voxels."),
        LintWarning("background", "whole-volume", "B", "71% of the voxels."),
        LintWarning("background", "whole-volume", "C", "71.5% of the voxels."),
        LintWarning("background", "hinet2020", "A", "81% of the voxels."),
    ]
    assert lint_lines(found) == [
        "rescaled-prediction: own-max scales.",
        "cut-off: A: 4 axial slices. And 1 more.",
        "cut-off: B: 3 sagittal slices.",
        "background: A: 69% of the voxels. And 2 more.",
        "background: A: 81% of the voxels.",
    ]
    assert lint_lines([]) == []


def test_slice_tests_are_found_in_tables() -> None:
    rows = rows_of(hinet=[20.0, 21.0, 22.0], linear=[19.0, 20.0, 21.0])
    assert check_units(rows) == []
    assert "not independent" in check_units([*rows, *rows])[0]
