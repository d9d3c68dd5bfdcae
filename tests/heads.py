"""An analytic head of 4 mm voxels: scalp, skull, a brain of 1.4 l with folded cortex and ventricles, another one a seed."""

from __future__ import annotations

import numpy as np

SHAPE = (52, 60, 50)
EDGE = 4.0
AFFINE = np.diag([EDGE, EDGE, EDGE, 1.0])
AFFINE[:3, 3] = -EDGE * (np.array(SHAPE) - 1) / 2

#: tissue -> T1w, T2w, FLAIR: air, scalp, skull, fluid, grey matter, white matter, lesion
LEVELS = {
    "T1w": (0, 900, 60, 180, 520, 760, 420),
    "T1ce": (0, 950, 60, 190, 540, 770, 1100),
    "T2w": (0, 700, 50, 1200, 620, 430, 850),
    "FLAIR": (0, 600, 40, 150, 560, 430, 950),
}
AIR, SCALP, SKULL, FLUID, GREY, WHITE, LESION = range(7)


def tissues(seed: int = 0) -> np.ndarray:
    """``(X, Y, Z)`` int: which tissue each voxel is."""
    rng = np.random.default_rng([seed, 11])
    x, y, z = (
        (np.arange(n) - (n - 1) / 2)[tuple(slice(None) if i == axis else None for i in range(3))] for axis, n in enumerate(SHAPE)
    )
    size = rng.uniform(0.96, 1.04, 3)
    radius = np.sqrt((x / 16.5 / size[0]) ** 2 + (y / 20 / size[1]) ** 2 + (z / 16 / size[2]) ** 2)
    folds = sum(
        np.sin(x * rng.uniform(0.5, 1.2) + y * rng.uniform(-1.1, 1.1) + z * rng.uniform(-1.1, 1.1) + rng.uniform(0, 6))
        for _ in range(6)
    )
    bumps = sum(np.sin(x * rng.uniform(-0.4, 0.4) + y * rng.uniform(-0.4, 0.4) + z * 0.3 + rng.uniform(0, 6)) for _ in range(6))
    out = np.zeros(SHAPE, int)
    # no two skulls are alike either
    out[radius + 0.025 * bumps < 1.36], out[radius + 0.02 * bumps - 0.006 * folds < 1.18] = SCALP, SKULL
    out[radius < 1.04], out[radius + 0.01 * bumps < 1] = FLUID, GREY
    out[radius + 0.045 * folds < 0.82] = WHITE
    for side in (-3.5, 4):
        out[((x - side) / 2.2) ** 2 + ((y - rng.uniform(-2, 2)) / 6) ** 2 + ((z - 1) / 3.5) ** 2 < 1] = FLUID
    a, b, c = rng.uniform(-7, 7), rng.uniform(-9, 9), rng.uniform(-5, 8)
    out[((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2 < 11) & (radius < 0.95)] = LESION
    return out


def image(contrast: str, seed: int = 0, skull: bool = False, visit: int = 0) -> np.ndarray:
    """``(X, Y, Z)`` int16; another visit has other noise and gain."""
    tissue = tissues(seed)
    rng = np.random.default_rng([seed, visit, len(contrast), ord(contrast[-1])])
    values = np.array(LEVELS[contrast], float)[tissue] * (1 + 0.1 * visit)
    values *= 1 + 0.04 * rng.standard_normal(SHAPE)
    if skull:  # noise in the air
        values = np.where(tissue == AIR, np.abs(rng.normal(0, 15, SHAPE)) + 1, values)
    else:
        values[tissue < FLUID] = 0
    return np.rint(values).astype(np.int16)


def brain(seed: int = 0) -> np.ndarray:
    """``(X, Y, Z)`` bool."""
    return tissues(seed) >= FLUID
