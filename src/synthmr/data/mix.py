"""`AugmentConfig.mix`: the intensity distribution of a source moves towards that of another training case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from synthmr.case import plane_axis
from synthmr.data.reader import Reader
from synthmr.data.windows import whole_slice

#: quantiles that are matched, largest strength, room above the normaliser's top
MIX_QUANTILES = np.concatenate([[0.0], np.linspace(0.02, 0.98, 17), [0.995, 1.0]])
MIX_BEYOND, MIX_HEADROOM = 1.3, 0.25


class Mixer:
    """Mixes the sources of batches.

    Args:
        reader: the prepared cohort as the run reads it.
        names: cases that are drawn from, and that distributions are taken of.
        plane: of the slices.
        probability: that a source of a sample is changed.
    """

    def __init__(self, reader: Reader, names: Sequence[str], plane: str, probability: float) -> None:
        self.reader, self.names, self.plane, self.probability = reader, tuple(names), plane, probability
        self._tables: dict[tuple[int, str], np.ndarray] = {}

    def _quantiles(self, index: int, contrast: str) -> np.ndarray:
        """Quantiles of a source over a case's brain, from every fourth slice with brain; computed once."""
        key = (index, contrast)
        if key not in self._tables:
            name, axis = self.names[index], plane_axis(self.plane)
            values = []
            for number in np.flatnonzero(self.reader.brain_slices(name, self.plane))[::4]:
                start, size = whole_slice(axis, int(number), self.reader.shape(name))
                mask = self.reader.mask(name, start, size)
                values.append(self.reader.image(name, contrast, start, size, mask)[mask])
            self._tables[key] = np.quantile(np.concatenate(values), MIX_QUANTILES)
        return self._tables[key]

    def mix(
        self,
        images: Mapping[str, Tensor],
        masks: np.ndarray,
        given: Mapping[str, np.ndarray],
        owners: np.ndarray,
        rng: np.random.Generator,
    ) -> None:
        """Change images in place.

        Args:
            images: source -> ``(B, C, *S)``.
            masks: ``(B, C, *S)`` bool.
            given: source -> ``(B,)`` bool: the samples that have it and show it; the truth stays as it is.
            owners: ``(B,)``: case of each sample.
            rng: of the batch.
        """
        if len(self.names) < 2:
            return
        for contrast, image in images.items():
            for row, index in enumerate(owners):
                other, strength = (int(index) + int(rng.integers(1, len(self.names)))) % len(self.names), rng.uniform(0, MIX_BEYOND)
                if rng.random() >= self.probability:
                    continue
                if not given[contrast][row] or not self.reader.has(self.names[other], contrast):
                    continue
                mine, theirs = self._quantiles(int(index), contrast), self._quantiles(other, contrast)
                moved = np.maximum.accumulate((1 - strength) * mine + strength * theirs)
                name = self.names[int(index)]
                low, high = self.reader.background(name, contrast), self.reader.top(name, contrast)
                moved = np.clip(moved, low, high + MIX_HEADROOM * (high - low))
                values, inside = image[row].numpy(), masks[row]
                values[inside] = np.interp(values[inside], mine, moved)
