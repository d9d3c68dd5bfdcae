"""Co-located intensities of training cases, for methods that regress voxel by voxel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from synthmr.batch import Batch
from synthmr.errors import DataError


def sample_voxels(
    cases: Iterable[Batch], sources: Sequence[str], targets: Sequence[str], most: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw brain voxels, the same number from each case unless it has fewer.

    Returns:
        ``(N, sources)`` and ``(N, targets)`` float64, normalised units.

    Raises:
        DataError: there is no case, or no brain voxel.
    """
    rng = np.random.default_rng([seed, 21])
    xs, ys = [], []
    for batch in cases:
        if batch.mask is None:
            raise DataError("voxel regression needs a brain mask with every case.")
        inside = np.flatnonzero(batch.mask.numpy().ravel())
        if len(inside) > most:
            inside = np.sort(rng.choice(inside, most, replace=False))
        xs.append(np.stack([batch.images[name].numpy().ravel()[inside] for name in sources], axis=1))
        ys.append(np.stack([batch.images[name].numpy().ravel()[inside] for name in targets], axis=1))
    if not xs or not sum(map(len, xs)):
        raise DataError("there is no brain voxel to learn from; check the training cases and their masks.")
    return np.concatenate(xs).astype(np.float64), np.concatenate(ys).astype(np.float64)
