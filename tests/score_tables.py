"""Tables of scores for tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from synthmr.evaluate.scores import Score, own_region


def people(values) -> dict[str, float]:
    """Subject -> score."""
    return {f"s{i:02}": float(value) for i, value in enumerate(values)}


def rows_of(
    metric: str = "psnr", contrast: str = "FLAIR", protocol: str = "masked-volume", region: str = "", **methods: Any
) -> list[Score]:
    """Scores in the protocol's own region, or in ``region``; a method's scores as a list, or case -> score."""
    where = (contrast, protocol, region or own_region(protocol), metric)
    return [
        Score(case, "", method, *where, value)
        for method, values in methods.items()
        for case, value in (values if isinstance(values, dict) else people(values)).items()
    ]


def three(rng: np.random.Generator, n: int = 10) -> dict[str, np.ndarray]:
    """Scores of a best method, a clearly worse one, and one that cannot be told from the best."""
    base = rng.normal(20, 3, n)
    return {"weak": base - 2 + rng.normal(0, 0.3, n), "best": base, "near": base - 0.01 + rng.normal(0, 1, n)}
