"""`copy`: the best single source after a monotone map. The floor that any synthesis must beat.

For each source an isotonic regression (increasing or decreasing, whichever fits) maps its intensities to the
target's, learnt on brain voxels of the training cases; the source whose mapped image has the least squared error is kept.
The regression runs on bins of voxels, each with its mean and its weight: as exact as the stored map can be, and as fast for a
thousand subjects as for ten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from synthmr.batch import Batch, Output
from synthmr.errors import UsageError
from synthmr.methods.contract import FittedMethod, Spec, check_wanted
from synthmr.methods.parts.voxels import sample_voxels


@dataclass(frozen=True)
class CopyOptions:
    """Options of `copy`.

    Attributes:
        voxels: brain voxels drawn from each training case.
        knots: most points that each map is stored with; half at quantiles of the source, half evenly over its range.
    """

    voxels: int = 20_000
    knots: int = 256

    def __post_init__(self) -> None:
        if self.voxels < 100 or self.knots < 2:
            raise UsageError(f"options.voxels={self.voxels}, options.knots={self.knots}: at least 100 voxels and 2 knots.")


def monotone_map(x: np.ndarray, y: np.ndarray, knots: int) -> tuple[np.ndarray, np.ndarray, float]:
    """The monotone map from ``x`` to ``y``, both ``(N,)``, with the least squared error, rising or falling.

    Returns:
        Knots ``(K,)``, increasing, K at most ``knots``; values ``(K,)`` there, linear in between and constant beyond the
        ends; and the mean squared error of the map on the data.
    """
    from scipy.optimize import isotonic_regression

    # half of the bins where the voxels are, half evenly, for the long bright tail that minmax leaves
    half = np.linspace(0, 1, max(2, knots // 2))
    edges = np.unique(np.concatenate([np.quantile(x, half), x.min() + (x.max() - x.min()) * half]))
    bins = np.searchsorted(edges, x, side="right") - 1
    weight = np.bincount(bins, minlength=len(edges)).astype(np.float64)
    kept = weight > 0
    weight = weight[kept]
    where, level = (np.bincount(bins, each, len(edges))[kept] / weight for each in (x, y))
    found = []
    for rising in (True, False):  # both are tried, because the sign of a correlation can mislead
        values = isotonic_regression(level, weights=weight, increasing=rising).x
        found.append((where, values, float(np.mean((np.interp(x, where, values) - y) ** 2))))
    return min(found, key=lambda each: each[2])


class Copy(FittedMethod):
    """The best single source after a monotone map."""

    spec: ClassVar[Spec] = Spec(
        name="copy", title="best single source after a monotone intensity map", sources=(1, 16), targets=(1, 8)
    )
    Options: ClassVar[type] = CopyOptions

    def __init__(self, options: CopyOptions, sources: Sequence[str], targets: Sequence[str]) -> None:
        super().__init__(options, sources, targets)
        self._maps: dict[str, tuple[int, np.ndarray, np.ndarray]] = {}

    def fit(self, cases: Callable[[], Iterable[Batch]], seed: int) -> dict[str, float]:
        """Fit a map a source and target; returns the root mean squared error of each."""
        x, y = sample_voxels(cases(), self.sources, self.targets, self.options.voxels, seed)
        logs = {}
        for column, target in enumerate(self.targets):
            best = np.inf
            for index, source in enumerate(self.sources):
                knots, values, error = monotone_map(x[:, index], y[:, column], self.options.knots)
                logs[f"rmse_{source}_{target}"] = error**0.5
                if error < best:
                    best = error
                    self._maps[target] = (index, knots, values)
        return logs

    def state(self) -> dict[str, np.ndarray]:
        """Source index, knots and values of each target's map."""
        out: dict[str, np.ndarray] = {}
        for target, (index, knots, values) in self._maps.items():
            out |= {f"{target}.source": np.asarray([index]), f"{target}.knots": knots, f"{target}.values": values}
        return out

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Inverse of `state`.

        Raises:
            KeyError: the state is of another method or lacks a target.
            ValueError: it names a source that this method does not have, is cut, or holds no numbers.
        """
        for target in self.targets:
            source, knots, values = (state[f"{target}.{part}"] for part in ("source", "knots", "values"))
            if source.shape != (1,) or source.dtype.kind not in "iu":
                raise ValueError(f"the map of {target} names no source")
            if not 0 <= int(source[0]) < len(self.sources):
                raise ValueError(f"the map of {target} is of source number {int(source[0])}")
            if knots.ndim != 1 or not knots.size or knots.shape != values.shape:
                raise ValueError(f"the map of {target} has knots {knots.shape} and values {values.shape}")
            if any(each.dtype.kind != "f" or not np.isfinite(each).all() for each in (knots, values)):
                raise ValueError(f"the map of {target} is not of finite numbers")
        self._maps = {t: (int(state[f"{t}.source"][0]), state[f"{t}.knots"], state[f"{t}.values"]) for t in self.targets}

    def __call__(self, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Output]:
        """Map the chosen source: contrast -> output with a mean ``(B, 1, H, W)``."""
        _, targets = check_wanted(self, batch, wanted)
        out = {}
        for target in targets:
            if target not in self._maps:
                raise UsageError("copy was not fitted; call fit, or load a run.")
            index, knots, values = self._maps[target]
            image = batch.images[self.sources[index]]
            mapped = np.interp(image.cpu().numpy(), knots, values).astype(np.float32)
            out[target] = Output(torch.from_numpy(mapped).to(image.device))
        return out
