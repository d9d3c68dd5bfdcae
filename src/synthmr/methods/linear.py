"""`linear`: polynomial ridge regression on co-located intensities: cheap, hard to beat by much, and so in every table.

Each target voxel is a polynomial of the source intensities at the same voxel: with two sources and degree 4, fifteen
coefficients. Sources are standardised first, so that the powers are of one size; the ridge penalty is on the standardised
monomials' coefficients, the intercept is free. The normal equations are summed up piece by piece, so that a cohort's monomials
are never in memory at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import ClassVar

import numpy as np
import torch

from synthmr.batch import Batch, Output
from synthmr.errors import UsageError
from synthmr.methods.contract import FittedMethod, Spec, by_contrast, check_wanted
from synthmr.methods.parts.voxels import sample_voxels

#: voxels whose monomials are in memory at once
CHUNK = 65_536
#: a standard deviation below this counts as a constant, in normalised units
LEAST_SD = 1e-9


@dataclass(frozen=True)
class LinearOptions:
    """Options of `linear`.

    Attributes:
        degree: of the polynomial, interactions included; 1 is plain linear regression.
        ridge: penalty, as a share of the number of voxels; 0 is plain least squares (of least norm, where that is not unique).
        voxels: brain voxels drawn from each training case.
    """

    degree: int = 4
    ridge: float = 1e-6
    voxels: int = 20_000

    def __post_init__(self) -> None:
        if not 1 <= self.degree <= 6 or not 0 <= self.ridge < np.inf or self.voxels < 100:
            raise UsageError(
                f"options.degree={self.degree}, options.ridge={self.ridge:g}, options.voxels={self.voxels}:"
                " the degree is 1 to 6, ridge at least 0, voxels at least 100."
            )


def _spread(variance: np.ndarray) -> np.ndarray:
    """Standard deviations to divide by: 1 where there is none."""
    sd = np.sqrt(variance)
    return np.where(sd > LEAST_SD, sd, 1.0)


class Linear(FittedMethod):
    """Polynomial ridge regression on co-located intensities."""

    spec: ClassVar[Spec] = Spec(
        name="linear", title="polynomial ridge regression on co-located intensities", sources=(1, 8), targets=(1, 8)
    )
    Options: ClassVar[type] = LinearOptions

    def __init__(self, options: LinearOptions, sources: Sequence[str], targets: Sequence[str]) -> None:
        super().__init__(options, sources, targets)
        self._powers = [
            combo
            for degree in range(1, options.degree + 1)
            for combo in combinations_with_replacement(range(len(self.sources)), degree)
        ]
        self._state: dict[str, np.ndarray] = {}

    def _monomials(self, x: np.ndarray) -> np.ndarray:
        """``(N, sources)`` -> ``(N, monomials)``; each is one of a lower degree times one source."""
        found: dict[tuple[int, ...], np.ndarray] = {(): np.ones(len(x))}
        for combo in self._powers:
            found[combo] = found[combo[:-1]] * x[:, combo[-1]]
        return np.stack([found[combo] for combo in self._powers], axis=1)

    def _pieces(self, x: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Rows of ``x`` and their monomials, `CHUNK` at a time."""
        for start in range(0, len(x), CHUNK):
            rows = slice(start, start + CHUNK)
            yield rows, self._monomials(x[rows])

    def fit(self, cases: Callable[[], Iterable[Batch]], seed: int) -> dict[str, float]:
        """Solve the normal equations; returns the root mean squared error a target."""
        x, y = sample_voxels(cases(), self.sources, self.targets, self.options.voxels, seed)
        count, terms = len(x), len(self._powers)
        low, high = x.min(axis=0), x.max(axis=0)
        centre, scale, level = x.mean(axis=0), _spread(x.var(axis=0)), y.mean(axis=0)
        x = (x - centre) / scale
        mean = sum((part.sum(axis=0) for _, part in self._pieces(x)), np.zeros(terms)) / count
        sd = _spread(sum((np.square(part - mean).sum(axis=0) for _, part in self._pieces(x)), np.zeros(terms)) / count)
        gram, moment = np.zeros((terms, terms)), np.zeros((terms, y.shape[1]))
        for rows, part in self._pieces(x):
            features = (part - mean) / sd
            gram += features.T @ features / count
            moment += features.T @ (y[rows] - level) / count
        gram += self.options.ridge * np.eye(terms)
        weights = np.linalg.lstsq(gram, moment, rcond=None)[0]  # least norm where a source repeats another
        square = np.zeros(y.shape[1])
        for rows, part in self._pieces(x):
            square += np.square((part - mean) / sd @ weights + level - y[rows]).sum(axis=0)
        self._state = {
            "centre": centre, "scale": scale, "mean": mean, "sd": sd, "weights": weights, "level": level,
            "low": low, "high": high,
        }  # fmt: skip
        return {f"rmse_{name}": float(value) for name, value in zip(self.targets, np.sqrt(square / count), strict=True)}

    def state(self) -> dict[str, np.ndarray]:
        """Standardisation, weights ``(monomials, targets)`` and the range of the training intensities."""
        return dict(self._state)

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Inverse of `state`.

        Raises:
            KeyError: the state is of another method.
            ValueError: it is of another degree or other numbers of contrasts, is cut, or holds no numbers.
        """
        terms, sources, targets = len(self._powers), len(self.sources), len(self.targets)
        shapes = {
            "weights": (terms, targets), "centre": (sources,), "scale": (sources,), "mean": (terms,), "sd": (terms,),
            "level": (targets,), "low": (sources,), "high": (sources,),
        }  # fmt: skip
        for name, shape in shapes.items():
            if state[name].shape != shape:
                raise ValueError(f"{name} has shape {state[name].shape}, not {shape}")
            if state[name].dtype != np.float64 or not np.isfinite(state[name]).all():
                raise ValueError(f"{name} is {state[name].dtype} or not finite; it must be finite float64")
        self._state = {name: state[name] for name in shapes}

    def __call__(self, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Output]:
        """Evaluate the polynomial at every pixel: contrast -> output with a mean ``(B, 1, H, W)``; intensities
        outside the training range are clipped to it, since a polynomial is worthless there."""
        _, targets = check_wanted(self, batch, wanted)
        if not self._state:
            raise UsageError("linear was not fitted; call fit, or load a run.")
        stack = batch.stack(self.sources).float()
        device, (count, _, *space) = stack.device, stack.shape
        s = {name: torch.from_numpy(np.asarray(value, np.float64)) for name, value in self._state.items()}
        out = torch.empty(count, len(self.targets), *space)
        for index in range(count):  # a slice at a time: the monomials of a volume would fill the memory
            x = stack[index].cpu().double().reshape(len(self.sources), -1).T
            x = torch.minimum(torch.maximum(x, s["low"]), s["high"])
            features = torch.from_numpy(self._monomials(((x - s["centre"]) / s["scale"]).numpy()))
            values = ((features - s["mean"]) / s["sd"]) @ s["weights"] + s["level"]
            out[index] = values.T.reshape(len(self.targets), *space).float()
        return by_contrast(out.to(device), self.targets, targets)
