"""Small NIfTI files for tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np


def blob_brain(shape: tuple[int, int, int] = (12, 14, 10), seed: int = 0) -> np.ndarray:
    """A smooth random ellipsoid "brain", ``(X, Y, Z)`` float32 in about 20 to 200 inside, exactly 0 outside.

    The outline depends on ``shape`` alone, the intensities on ``seed``: two seeds are two contrasts of one head.
    """
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = sum((axis / 0.8) ** 2 for axis in axes) < 1
    waves = sum(rng.uniform(10, 30) * np.sin(rng.uniform(1, 4) * axis + rng.uniform(0, 6)) for axis in axes)
    return np.where(inside, 110 + waves + rng.normal(0, 2, shape), 0).astype(np.float32)


def write_case(
    folder: Path, arrays: Mapping[str, np.ndarray], affine: np.ndarray | None = None, suffix: str = ".nii.gz"
) -> dict[str, Path]:
    """Write each array as ``folder/NAME.nii.gz`` (RAS, 1 mm unless ``affine`` says otherwise); returns the paths."""
    import nibabel

    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, array in arrays.items():
        if array.dtype.kind in "bi":  # NIfTI has no bool, and int64 is rarely meant
            array = array.astype(np.int16)
        paths[name] = folder / (name + suffix)
        paths[name].parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), paths[name])
    return paths
