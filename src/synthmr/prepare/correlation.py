"""How alike the contrasts of one case are inside the brain: rank correlations, which no gain, offset or gamma changes."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np

#: voxels that are looked at, evenly spread over the brain: enough for a correlation to .01
VOXELS = 50_000

#: with fewer voxels than this a correlation says nothing
FEWEST = 200


def contrast_correlations(images: Mapping[str, np.ndarray], mask: np.ndarray) -> dict[tuple[str, str], float]:
    """Spearman's rank correlation of every two contrasts of a case, inside its brain.

    Args:
        images: contrast -> ``(X, Y, Z)``, in any units, all on one grid.
        mask: ``(X, Y, Z)`` bool, the brain; voxels that are not finite in some image are left out of it.

    Returns:
        (contrast, contrast), in alphabetical order -> -1 to 1. Pairs with a constant image are left out; so is everything where
        the brain has fewer than 200 voxels.

    Raises:
        ValueError: an image has another shape than the mask.
    """
    for name, array in images.items():
        if array.shape != mask.shape:
            raise ValueError(f"{name} has shape {array.shape}, the mask {mask.shape}")
    places = np.flatnonzero(mask)
    # every n-th voxel in file order would take whole columns where n divides the row's length
    steps = np.linspace(0, len(places) - 1, min(VOXELS, len(places))) if len(places) else np.zeros(0)
    places = places[np.rint(steps).astype(np.int64)]
    values = {name: np.asarray(array).reshape(-1)[places] for name, array in images.items()}
    finite = np.logical_and.reduce([np.isfinite(each) for each in values.values()]) if values else np.zeros(0, bool)
    if finite.sum() < FEWEST:
        return {}
    ranks = {name: _ranks(each[finite]) for name, each in values.items()}
    pairs = combinations(sorted(name for name, each in ranks.items() if each.any()), 2)
    return {(one, two): float(np.clip(ranks[one] @ ranks[two], -1, 1)) for one, two in pairs}


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks (the mean rank where values tie) with mean 0 and length 1; all 0 where the values are constant."""
    from scipy.stats import rankdata

    ranks = rankdata(values)
    ranks -= ranks.mean()
    length = float(np.linalg.norm(ranks))
    return np.asarray(ranks / length if length else np.zeros_like(ranks))
