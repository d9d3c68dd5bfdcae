"""`linear`: polynomial ridge regression on co-located intensities: cheap, hard to beat by much, and so in every table.

Each target voxel is a polynomial of the source intensities at the same voxel: with two sources and degree 4, fifteen
coefficients. Sources are standardised first, so that the powers are of one size; the ridge penalty is on the standardised
monomials' coefficients, the intercept is free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from synthmr.batch import Batch
from synthmr.errors import UsageError
from synthmr.methods.contract import FittedMethod, Spec, check_wanted
from synthmr.methods.parts.voxels import sample_voxels


@dataclass(frozen=True)
class LinearOptions:
    """Options of `linear`.

    Attributes:
        degree: of the polynomial, interactions included; 1 is plain linear regression.
        ridge: penalty, as a share of the number of voxels.
        voxels: brain voxels drawn from each training case.
    """

    degree: int = 4
    ridge: float = 1e-6
    voxels: int = 20_000

    def __post_init__(self) -> None:
        if not 1 <= self.degree <= 6 or self.ridge < 0 or self.voxels < 100:
            raise UsageError("options.degree is 1 to 6, options.ridge at least 0, options.voxels at least 100.")


class Linear(FittedMethod):
    """Polynomial ridge regression on co-located intensities."""

    spec: ClassVar[Spec] = Spec(
        name="linear", title="polynomial ridge regression on co-located intensities", sources=(1, 8), targets=(1, 8), dims=(2, 3)
    )
    Options: ClassVar[type] = LinearOptions
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"fast": {}, "paper": {}}

    def __init__(self, options: LinearOptions, sources: Sequence[str], targets: Sequence[str]) -> None:
        super().__init__(options, sources, targets)
        self._powers = [
            combo
            for degree in range(1, options.degree + 1)
            for combo in combinations_with_replacement(range(len(self.sources)), degree)
        ]
        self._state: dict[str, np.ndarray] = {}

    def _monomials(self, x: np.ndarray) -> np.ndarray:
        """``(N, sources)`` -> ``(N, monomials)``."""
        return np.stack([np.prod(x[:, list(combo)], axis=1) for combo in self._powers], axis=1)

    def fit(self, cases: Callable[[], Iterable[Batch]], seed: int) -> dict[str, float]:
        """Solve the normal equations; returns the root mean squared error a target."""
        x, y = sample_voxels(cases(), self.sources, self.targets, self.options.voxels, seed)
        centre, scale = x.mean(axis=0), x.std(axis=0) + 1e-12
        features = self._monomials((x - centre) / scale)
        mean, sd = features.mean(axis=0), features.std(axis=0) + 1e-12
        features = (features - mean) / sd
        level = y.mean(axis=0)
        gram = features.T @ features / len(features) + self.options.ridge * np.eye(features.shape[1])
        weights = np.linalg.solve(gram, features.T @ (y - level) / len(features))
        self._state = {
            "centre": centre, "scale": scale, "mean": mean, "sd": sd, "weights": weights, "level": level,
            "low": x.min(axis=0), "high": x.max(axis=0),
        }  # fmt: skip
        error = np.sqrt(np.mean((features @ weights + level - y) ** 2, axis=0))
        return {f"rmse_{name}": float(value) for name, value in zip(self.targets, error, strict=True)}

    def state(self) -> dict[str, np.ndarray]:
        """Standardisation, weights ``(monomials, targets)`` and the range of the training intensities."""
        return dict(self._state)

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Inverse of `state`.

        Raises:
            KeyError: the state is of another method.
            ValueError: it is of another degree or other numbers of contrasts.
        """
        if state["weights"].shape != (len(self._powers), len(self.targets)):
            raise ValueError(f"weights have shape {state['weights'].shape}, not {(len(self._powers), len(self.targets))}")
        self._state = {name: state[name] for name in ("centre", "scale", "mean", "sd", "weights", "level", "low", "high")}

    def __call__(self, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Evaluate the polynomial at every pixel: contrast -> ``(B, 1, H, W)``; intensities outside the training range are
        clipped to it, since a polynomial is worthless there."""
        _, targets = check_wanted(self, batch, wanted)
        if not self._state:
            raise UsageError("linear was not fitted; call fit, or load a run.")
        stack = batch.stack(self.sources).float()
        device, (count, _, height, width) = stack.device, stack.shape
        s = {name: torch.from_numpy(np.asarray(value, np.float64)) for name, value in self._state.items()}
        out = torch.empty(count, len(self.targets), height, width)
        for index in range(count):  # a slice at a time: the monomials of a volume would fill the memory
            x = stack[index].cpu().double().reshape(len(self.sources), -1).T
            x = torch.minimum(torch.maximum(x, s["low"]), s["high"])
            features = torch.from_numpy(self._monomials(((x - s["centre"]) / s["scale"]).numpy()))
            values = ((features - s["mean"]) / s["sd"]) @ s["weights"] + s["level"]
            out[index] = values.T.reshape(len(self.targets), height, width).float()
        order = {name: column for column, name in enumerate(self.targets)}
        return {name: out[:, order[name] : order[name] + 1].to(device) for name in targets}
