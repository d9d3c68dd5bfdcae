"""The brightness of a predicted volume: what the normaliser says of a whole volume and no slice can know.

The normaliser `percentile` maps the 99.5th percentile of every brain to 1, a lesion's where there is one that is bright enough. The
rest of the brain is the darker for it: healthy white matter of FLAIR lies at 0.35 beside a large oedema and at 0.6 without.
A network that sees slices predicts the brightness of its training cases. The volume that it predicts tells part of it: where its
own 99.5th percentile is lower than those of the training cases, the volume that it stands for would have been normalised higher.

    u' = u (Q / q)^k

with q the percentile of the predicted volume, Q the geometric mean of q over the training cases and k between 0 and 1: how far the
training cases bear that out (`synthmr.train.calibrate`). In scanner units the same factor would stand in the normaliser's gain and
cancel, so it is applied to normalised predictions alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from synthmr.prepare.normalize import background, to_unit

#: the only normaliser whose unit is one percentile of the brain; the others pin its bulk (`mean`, `zscore`, `nyul`) or one voxel
NORMALIZER = "percentile"
#: largest factor, up and down: a prediction that is further off is no matter of brightness
LIMIT = 2.0


@dataclass(frozen=True)
class Brightness:
    """How a run corrects the brightness of one target predicted from one set of sources.

    Attributes:
        top: Q, on the unit scale of the normaliser (background 0, top of the range 1).
        exponent: k.
        percentile: of the normaliser.
    """

    top: float
    exponent: float
    percentile: float

    def factor(self, top: float) -> float:
        """(Q / q)^k for a volume whose percentile q is ``top``; 1 where that is not above the background."""
        return float(np.clip((self.top / top) ** self.exponent, 1 / LIMIT, LIMIT)) if top > 0 else 1.0


#: target -> sources joined by + -> brightness; what is not named is left as it is
Brightnesses = Mapping[str, Mapping[str, Brightness]]


def subset_key(sources: Sequence[str]) -> str:
    """The name of a set of sources, in the run's order."""
    return "+".join(sources)


def brightness_of(brightness: Brightnesses | None, target: str, sources: Sequence[str]) -> Brightness | None:
    """The brightness of a target that is predicted from these sources; None: it stays as it is."""
    return (brightness or {}).get(target, {}).get(subset_key(sources))


def to_json(brightness: Brightnesses) -> dict[str, dict[str, dict[str, float]]]:
    """Plain data for ``run.json``."""
    return {target: {names: asdict(brightness) for names, brightness in each.items()} for target, each in brightness.items()}


def from_json(data: Mapping[str, Any]) -> dict[str, dict[str, Brightness]]:
    """Inverse of `to_json`.

    Raises:
        KeyError, TypeError, ValueError: it is not what `to_json` writes.
    """

    def one(found: Mapping[str, Any]) -> Brightness:
        return Brightness(float(found["top"]), float(found["exponent"]), float(found["percentile"]))

    return {target: {names: one(found) for names, found in each.items()} for target, each in data.items()}


def correct_brightness(
    volume: np.ndarray, mask: np.ndarray, params: Mapping[str, Any], brightness: Brightness | None
) -> tuple[np.ndarray, float]:
    """Correct the brightness of a predicted volume.

    Args:
        volume: ``(X, Y, Z)`` in normalised units.
        mask: ``(X, Y, Z)`` bool, the brain; voxels outside are left alone.
        params: of the target's normaliser.
        brightness: of this target and these sources; None: as it is.

    Returns:
        ``(X, Y, Z)`` float32, and the factor that it was multiplied by about the background.
    """
    factor = brightness_factor(volume, mask, params, brightness)
    return apply_factor(volume, mask, params, factor), factor


def brightness_factor(volume: np.ndarray, mask: np.ndarray, params: Mapping[str, Any], brightness: Brightness | None) -> float:
    """What `correct_brightness` multiplies by; 1 where there is no brightness to correct. Arguments as there."""
    if brightness is None:
        return 1.0
    return brightness.factor(float(np.percentile(to_unit(volume[mask], params), brightness.percentile)))


def apply_factor(volume: np.ndarray, mask: np.ndarray, params: Mapping[str, Any], factor: float) -> np.ndarray:
    """Multiply a predicted volume by a factor about its background.

    Args:
        volume: ``(X, Y, Z)`` in normalised units.
        mask: ``(X, Y, Z)`` bool, the brain; voxels outside are left alone.
        params: of the target's normaliser.
        factor: of `Brightness.factor`; 1 leaves the volume as it is.

    Returns:
        ``(X, Y, Z)`` float32.
    """
    if factor == 1:
        return volume
    low = np.float32(background(params))
    return np.where(mask, low + (volume - low) * np.float32(factor), volume).astype(np.float32)
