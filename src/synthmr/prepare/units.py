"""From a run's normalised units to one scale, 0 (background) to 1 (top of the range), by what the run alone says.

A protocol compares a prediction with a truth on that scale. The truth is brought there by its own normaliser, whose background
and top are known for it (`synthmr.prepare.normalize.to_unit`). Of a prediction they are not known without the truth, and no number
of the truth may enter it, so one linear map holds for all cases of a run:

    u = scale * y + offset

| normaliser | scale | offset |
|---|---|---|
| ``percentile``, ``minmax``, ``nyul`` | 0.5 | 0.5 |
| ``mean`` | median over the training cases of mean / high | 0 |
| ``zscore`` | median over the training cases of sd / high | median over the training cases of mean / high |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from synthmr.errors import DataError
from synthmr.prepare.normalize import check_name, value_range


@dataclass(frozen=True)
class Units:
    """One linear map from a run's normalised units to the scale 0 (background) to 1 (top): ``u = scale * y + offset``.

    Attributes:
        scale: unit steps per normalised step, above 0.
        offset: where a normalised 0 lies on the scale.
    """

    scale: float
    offset: float

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Normalised units -> the scale 0 to 1, float32, same shape; nothing is clipped."""
        return (np.asarray(array, np.float32) * np.float32(self.scale) + np.float32(self.offset)).astype(np.float32)

    def invert(self, array: np.ndarray) -> np.ndarray:
        """The scale 0 to 1 -> normalised units, float32, same shape; inverse of `apply`."""
        return ((np.asarray(array, np.float32) - np.float32(self.offset)) / np.float32(self.scale)).astype(np.float32)

    def as_dict(self) -> dict[str, float]:
        """Plain data for JSON."""
        return {"scale": self.scale, "offset": self.offset}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Units:
        """Inverse of `as_dict`.

        Raises:
            KeyError, TypeError, ValueError: it is not what `as_dict` gives.
        """
        return cls(float(data["scale"]), float(data["offset"]))


#: of normalisers whose range is [-1, 1]
BOUNDED = Units(0.5, 0.5)
#: of values that are on the scale already
UNIT = Units(1.0, 0.0)


def units_of(normalizer: str, params: Sequence[Mapping[str, Any]]) -> Units:
    """The units of a run's predictions of one target.

    Args:
        normalizer: of the target, one of `normalize.NAMES`.
        params: of that normaliser, one mapping for each training case; not read where the range is fixed.

    Raises:
        UsageError: no such normaliser.
        DataError: ``mean`` or ``zscore``, and no training case has a range that lies above 0.
    """
    check_name(normalizer)
    if value_range(normalizer) is not None:
        return BOUNDED
    # a volume of which hardly a voxel is above 0 has no top that the others could be measured by
    usable = [each for each in params if float(each["high"]) > 0]
    if not usable:
        raise DataError(
            f"the units of the {normalizer} normaliser come from training cases, and none of {len(params)} has a brain whose upper"
            " percentile is above 0; check the images, or use prepare.normalizer=percentile."
        )

    def median(key: str) -> float:
        return float(np.median([float(each[key]) / float(each["high"]) for each in usable]))

    return Units(median("mean"), 0.0) if normalizer == "mean" else Units(median("sd"), median("mean"))


def units_from_median(params: Mapping[str, Any]) -> Units:
    """The same of a run that kept the training cases' median parameters alone: the ratio of medians for the median of ratios.

    Raises:
        UsageError, DataError: as `units_of`.
    """
    return units_of(str(params["name"]), [params])
