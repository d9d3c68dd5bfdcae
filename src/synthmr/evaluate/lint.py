"""What makes a score hard to trust, in words: found in the protocol, in the images, or in a table of scores.

| code | found | why it matters |
|---|---|---|
| ``rescaled-prediction`` | the protocol scales a prediction by its own values | an error of overall intensity is forgiven |
| ``implicit-range`` | the range is taken from each image | one bright voxel raises PSNR; slices and subjects do not compare |
| ``truth-mask`` | the mask was made from the ground truth, or the prediction is exactly 0 wherever the truth is | what is drawn \
outside the truth costs nothing |
| ``empty-slices`` | slices without brain count in a mean over slices | they are right by definition |
| ``background`` | most voxels that count are background | they are right by definition |
| ``cut-off`` | whole slices of the brain are empty in the truth | the field of view ended there; a right prediction is punished |
| ``units`` | prediction and truth differ by a factor of 4 or more, or in their background | the files are in different units |
| ``brightness`` | one factor and offset for the volume lift PSNR by 6 dB or more (``structure_psnr``) | brightness or units are \
wrong, not structure |
| ``domain.*`` | a case is outside of what the run was trained on (`synthmr.prepare.domain`) | its score is not that of others |
| ``slice-tests`` | several values of one subject in a table | slices of a subject are not independent samples |

The last is found by `synthmr.evaluate.statistics.check_units`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from synthmr.case import PLANES
from synthmr.evaluate.counted import ScoreInput, chosen_slices
from synthmr.evaluate.protocols import Protocol
from synthmr.prepare.domain import Alarm

#: a slice of the brain with fewer mask voxels says nothing about the field of view
CUT_VOXELS = 100
#: a slice is cut off where at least this share of its brain is exactly background in the truth
CUT_SHARE = 0.95
#: fewer cut-off slices than this are the rim of a mask that is a little too large
CUT_SLICES = 3
#: factor between the bright ends of prediction and truth above which they are in different units
FACTOR = 4.0
#: share of background above which it is worth a word
BACKGROUND_SHARE = 0.5
#: voxels of the truth that are 0 inside the brain before their agreement means anything
ZEROS = 50
#: dB by which the score after one gain and offset may lie above the plain one
BRIGHTNESS_DB = 6.0
#: nearer to 0 than this is 0: a z-score and back is off in the last digit
ZERO = 1e-6
#: difference between the typical values outside the brain above which prediction and truth are in different units
AIR = 0.25


@dataclass(frozen=True)
class LintWarning:
    """One thing to know about a score.

    Attributes:
        code: see the table at the top of this file.
        protocol: whose scores it is about; empty: all.
        label: of the image that it was found in; empty: the protocol itself.
        text: what was found and what follows.
        number: that was found, of the codes ``domain.*`` (`synthmr.prepare.domain`).
        allowed: (low, high) by the training cases, likewise.
    """

    code: str
    protocol: str
    label: str
    text: str
    number: float | None = None
    allowed: tuple[float, float] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data: number and allowed where there are any."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def domain_warning(alarm: Alarm, case: str) -> LintWarning:
    """What of a case is outside of what a run was trained on, as a warning about its scores."""
    data = alarm.as_dict()
    low, high = data["allowed"]
    return LintWarning(alarm.code, "", case, alarm.text, data["number"], (low, high))


def lint_protocol(protocol: Protocol) -> list[LintWarning]:
    """What a protocol itself does."""
    found = []
    if protocol.rescales:
        found.append(
            ("rescaled-prediction", "scales the prediction by its own values, so an error of overall intensity is not seen")
        )
    if isinstance(protocol.data_range, str) or protocol.units == "truth-max":
        whose = "each slice" if protocol.per == "slice" else "the volume"
        found.append(("implicit-range", f"takes the peak from the maximum of {whose}: one bright voxel of the truth raises PSNR"))
    return [LintWarning(code, protocol.name, "", f"{protocol.name} {text}.") for code, text in found]


def lint_images(scored: ScoreInput, protocols: Iterable[Protocol], truth_mask: bool = False) -> list[LintWarning]:
    """What the images are like, and what each protocol makes of it.

    Args:
        scored: prediction and truth.
        protocols: those that they are scored under.
        truth_mask: the brain mask was made from the ground truth.
    """
    label, found = scored.label, []

    def warn(code: str, protocol: str, text: str) -> None:
        found.append(LintWarning(code, protocol, label, text))

    if truth_mask:
        warn("truth-mask", "", "the mask was made from the ground truth: what is drawn outside it costs nothing; give --mask.")
    prediction, truth = scored.prediction[scored.mask], scored.truth[scored.mask]
    zero = np.abs(truth) < ZERO
    if np.count_nonzero(zero) >= ZEROS and not (np.abs(prediction[zero]) >= ZERO).any() and (np.abs(prediction) >= ZERO).any():
        warn("truth-mask", "", "inside the brain the prediction is exactly 0 wherever the truth is: it looks masked by the truth.")
    ends = [float(np.percentile(np.abs(values), 99.5)) for values in (prediction, truth)]
    if min(ends) > 0 and max(ends) / min(ends) >= FACTOR:
        warn("units", "", f"the prediction is {ends[0] / ends[1]:.3g} times as bright as the truth: are both in the same units?")
    if not scored.mask.all():
        air = [float(np.median(image[~scored.mask])) for image in (scored.prediction, scored.truth)]
        if abs(air[0] - air[1]) >= AIR:
            warn(
                "units", "", f"outside the brain the prediction is {air[0]:.3g} and the truth {air[1]:.3g}: are the units the same?"
            )
    for plane, count in cut_off(scored).items():
        warn("cut-off", "", f"{count} {plane} slices of the brain are empty in the truth: its field of view ends there.")
    for protocol in protocols:
        for code, text in _counted(scored, protocol):
            warn(code, protocol.name, text)
    return found


def lint_brightness(scored: ScoreInput) -> list[LintWarning]:
    """Whether one gain and offset for the whole brain would lift the score by `BRIGHTNESS_DB`: units are wrong, not structure."""
    from synthmr.evaluate.metrics import psnr, structure_psnr

    images = (scored.prediction, scored.truth)
    plain, structure = psnr(*images, 1.0, scored.mask), structure_psnr(*images, 1.0, scored.mask)
    if not np.isfinite(plain) or structure - plain < BRIGHTNESS_DB:
        return []
    ends = [float(np.median(image[scored.mask])) for image in images]
    ratio = f" the prediction's median is {ends[0] / ends[1]:.3g} times the truth's;" if ends[1] else ""
    text = f"PSNR is {plain:.2f} dB, and {structure:.2f} dB after one gain and offset:{ratio} are both in the same units?"
    return [LintWarning("brightness", "", scored.label, text)]


def cut_off(scored: ScoreInput) -> dict[str, int]:
    """Plane -> number of slices of the brain that the truth does not show, where there are at least `CUT_SLICES`."""
    found = {}
    missing = scored.mask & (np.abs(scored.truth) < ZERO)
    for plane, axis in PLANES.items():
        across = tuple(other for other in range(3) if other != axis)
        brain, gone = scored.mask.sum(axis=across), missing.sum(axis=across)
        count = int(np.count_nonzero((brain >= CUT_VOXELS) & (gone >= CUT_SHARE * brain)))
        if count >= CUT_SLICES:
            found[plane] = count
    return found


def _counted(scored: ScoreInput, protocol: Protocol) -> list[tuple[str, str]]:
    """Empty slices and background that count."""
    if not {"whole", "non-lesion"} & set(protocol.regions):
        return []
    shape = scored.shape or scored.truth.shape
    axis = PLANES[protocol.plane]
    brain = np.zeros(shape[axis], np.int64)
    counts = scored.mask.sum(axis=tuple(other for other in range(3) if other != axis))
    brain[scored.start[axis] : scored.start[axis] + len(counts)] = counts
    used = brain[chosen_slices(scored, protocol)]
    found, empty = [], int(np.count_nonzero(used == 0))
    if protocol.per == "slice" and empty:
        found.append(("empty-slices", f"{protocol.name} averages over {len(used)} slices, {empty} of them without brain."))
    size = protocol.crop or [each for number, each in enumerate(shape) if number != axis]
    share = 1 - min(float(used.sum()) / (float(np.prod(size)) * len(used)), 1) if len(used) else 0.0
    if share >= BACKGROUND_SHARE:
        found.append(("background", f"{share:.0%} of the voxels that {protocol.name} counts are background."))
    return found


def lint_lines(warnings: Iterable[LintWarning]) -> list[str]:
    """One line a code, protocol and text, with the images it was found in, in order of first appearance."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for warning in warnings:
        # numbers differ between subjects: one subject's words stand for all
        same = (warning.code, warning.protocol, re.sub(r"\d[\d.e+-]*", "", warning.text) if warning.label else warning.text)
        groups.setdefault(same, []).append(f"{warning.label}: {warning.text}" if warning.label else warning.text)
    lines = []
    for (code, _, _), texts in groups.items():
        texts = list(dict.fromkeys(texts))
        more = f" And {len(texts) - 1} more." if len(texts) > 1 else ""
        lines.append(f"{code}: {texts[0]}{more}")
    return lines
