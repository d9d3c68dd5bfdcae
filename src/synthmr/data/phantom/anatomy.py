"""The anatomy every subject starts from: the MNI152 template in ``mni152/``, resampled once and cached.

The template is the ICBM 2009a symmetric average of 152 adults at 1 mm (Fonov et al., NeuroImage 54:313, 2011): a brain mask
and the probabilities of grey and white matter. Cerebrospinal fluid is what remains inside the brain mask; averaging blurs the
maps, so they are sharpened before use. ``mni152/LICENSE.txt`` has its licence, ``benchmarks/pack_template.py`` made it.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from synthmr.errors import DataError
from synthmr.io.files import atomic

#: raised whenever the content of the cached file changes for the same inputs
VERSION = 1

#: margin (mm) around the template's brain, for warps that make it larger
MARGIN = 16.0

#: grid (mm) that velocity fields are integrated on
COARSE = 4.0

#: exponent that undoes part of the averaging blur of the probability maps
SHARPNESS = 2.0

#: where the lateral and third ventricles lie in MNI space, mm: ((x), (y), (z)); larger CSF spaces lie outside
VENTRICLE_BOX = ((-45.0, 45.0), (-55.0, 42.0), (-12.0, 36.0))


@dataclass(frozen=True, eq=False)
class Template:
    """The template on one grid. All volumes are ``(X, Y, Z)`` float32 on an RAS grid aligned with MNI space.

    Attributes:
        csf: fraction of cerebrospinal fluid; the three fractions sum to 1 inside the brain and to 0 outside.
        gm: fraction of grey matter.
        wm: fraction of white matter.
        mask: fraction of brain.
        ventricle: distance to the lateral and third ventricles in mm, 0 inside.
        axes: world coordinates (mm) of the voxel centres along x, y and z.
        box: ``(2, 3)``, corners in mm of the region that all grids cover.
        coarse_axes: the grid that velocities are integrated on, `COARSE` mm.
        coarse_ventricle: ventricle distance on that grid.
    """

    csf: np.ndarray
    gm: np.ndarray
    wm: np.ndarray
    mask: np.ndarray
    ventricle: np.ndarray
    axes: tuple[np.ndarray, np.ndarray, np.ndarray]
    box: np.ndarray
    coarse_axes: tuple[np.ndarray, np.ndarray, np.ndarray]
    coarse_ventricle: np.ndarray

    @property
    def affine(self) -> np.ndarray:
        """4x4, voxel index to RAS millimetres."""
        affine = np.eye(4)
        for i, axis in enumerate(self.axes):
            affine[i, i] = axis[1] - axis[0]
            affine[i, 3] = axis[0]
        return affine


def template_file() -> Path:
    """The packaged template."""
    return Path(__file__).parent / "mni152" / "mni152.npz"


def cache_folder() -> Path:
    """$SYNTHMR_CACHE, or ~/.cache/synthmr."""
    return Path(os.environ.get("SYNTHMR_CACHE") or Path("~/.cache/synthmr")).expanduser()


def load_template(spacing: float, cache: Path | None = None) -> Template:
    """The template at ``spacing`` mm, from the cache where it is there and whole.

    A cache that cannot be written is no error: the template is then made again next time (about two seconds).

    Raises:
        DataError: the packaged template is damaged.
    """
    path = template_file()
    digest = hashlib.sha256(f"{VERSION} {spacing:.6f} {MARGIN} {COARSE} {SHARPNESS} {VENTRICLE_BOX}".encode())
    with suppress(OSError):  # `read_template` says what is wrong
        digest.update(path.read_bytes())
    target = (cache or cache_folder()) / f"phantom-{digest.hexdigest()[:20]}.npz"
    with suppress(Exception):  # absent, truncated or foreign: make it anew
        return _unpack(target)
    data = _build(path, spacing)
    with suppress(DataError):
        _save(target, data)
    return _template(data)


def _save(path: Path, data: dict[str, Any]) -> None:
    with atomic(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **data)


def _unpack(path: Path) -> Template:
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
        return _template({name: stored[name] for name in stored.files})


def _template(data: dict[str, np.ndarray]) -> Template:
    return Template(
        **{name: data[name] for name in ("csf", "gm", "wm", "mask", "ventricle", "box", "coarse_ventricle")},
        axes=(data["x"], data["y"], data["z"]),
        coarse_axes=(data["cx"], data["cy"], data["cz"]),
    )


def read_template(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The template at 1 mm, cut to its brain.

    Returns:
        The brain ``(X, Y, Z)`` bool, the probabilities of grey and of white matter ``(X, Y, Z)`` uint8 (255 is 1), and the
        affine.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            half = tuple(stored["shape"].tolist())
            brain = np.unpackbits(stored["brain"], count=int(np.prod(half))).reshape(half)
            gm, csf = (_summed(stored[name]) for name in ("gm", "csf"))
            width, corner = int(stored["width"]), stored["corner"]
    except Exception as error:  # NumPy raises many kinds for a damaged file
        raise DataError(f"{path} cannot be read ({error}); reinstall synthmr.") from None
    wm = 255 * brain - gm - csf
    affine = np.eye(4)
    affine[:3, 3] = corner
    brain, gm, wm = (np.concatenate([side, side[: width - len(side)][::-1]]) for side in (brain, gm, wm))
    return brain > 0, gm, wm, affine


def _summed(differences: np.ndarray) -> np.ndarray:
    """Undo differences along all three axes, modulo 256."""
    for axis in range(3):
        differences = np.cumsum(differences, axis=axis, dtype=np.uint8)
    return differences


def tissue_fractions(brain: np.ndarray, gm: np.ndarray, wm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fractions ``(3, X, Y, Z)`` of CSF, GM and WM that sum to 1 in the filled brain mask, and that mask (bool).

    The mask is the largest connected region of ``brain`` (bool), holes filled. What is neither grey nor white there is CSF.
    With p the averaged probabilities, p^s / sum p^s takes back part of the blur of averaging.
    """
    labels, count = ndimage.label(brain)
    largest = 1 + int(np.argmax(np.bincount(labels.ravel())[1:])) if count else 0
    mask = ndimage.binary_fill_holes(labels == largest) & (largest > 0)
    raw = np.stack([np.clip(1.0 - gm - wm, 0.0, 1.0), gm, wm]) * mask
    sharp = raw**SHARPNESS
    return (sharp / np.maximum(sharp.sum(axis=0), 1e-12) * mask).astype(np.float32), mask


def ventricle_distance(csf: np.ndarray, mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Distance in mm to the ventricles ``(X, Y, Z)``: the largest CSF region deep in the brain. For 1 mm grids."""
    inside = np.zeros_like(mask)
    slices = []
    for axis, (low, high) in enumerate(VENTRICLE_BOX):
        index = (np.array([low, high]) - affine[axis, 3]) / affine[axis, axis]
        slices.append(slice(int(index.min()), int(index.max()) + 1))
    inside[tuple(slices)] = True
    deep = ndimage.distance_transform_edt(mask) > 22.0  # leaves out the fissures, which open to the surface
    labels, count = ndimage.label((csf > 0.5) & inside & deep)
    if count == 0:
        raise DataError("no ventricles were found in the MNI152 template; reinstall synthmr.")
    sizes = np.bincount(labels.ravel())[1:]
    # the two lateral ventricles may be apart; cisterns are far smaller
    big = np.flatnonzero(sizes > 0.1 * sizes.max()) + 1
    return ndimage.distance_transform_edt(~np.isin(labels, big)).astype(np.float32)


def _grid(box: np.ndarray, spacing: float) -> list[np.ndarray]:
    """Voxel centres (mm) of a grid of ``spacing`` whose middle is the middle of ``box``; it covers the box."""
    counts = np.ceil((box[1] - box[0]) / spacing).astype(int)
    middle = box.mean(axis=0)
    return [m + spacing * (np.arange(n) - (n - 1) / 2) for m, n in zip(middle, counts, strict=True)]


def _resample(volume: np.ndarray, affine: np.ndarray, axes: list[np.ndarray], spacing: float) -> np.ndarray:
    """Sample a 1 mm volume at the grid, after a Gaussian as wide as a box of the new voxel (no aliasing)."""
    blur = np.sqrt(max(spacing**2 - 1.0, 0.0) / 12.0)
    if blur > 0:
        volume = ndimage.gaussian_filter(volume, blur, mode="nearest")
    index = np.meshgrid(*((axis - affine[i, 3]) / affine[i, i] for i, axis in enumerate(axes)), indexing="ij")
    return ndimage.map_coordinates(volume, index, order=1, mode="constant", cval=0.0).astype(np.float32)


def _build(path: Path, spacing: float) -> dict[str, np.ndarray]:
    brain, *probabilities, affine = read_template(path)
    # a zero border, which a brain cut at the edge of the file (the stem) gets, too
    brain, gm, wm = (np.pad(array, 2) for array in (brain, *probabilities))
    affine[:3, 3] -= 2
    fractions, mask = tissue_fractions(brain, gm.astype(np.float32) / 255.0, wm.astype(np.float32) / 255.0)
    distance = ventricle_distance(fractions[0], mask, affine)
    occupied = np.argwhere(mask)
    box = affine[:3, 3] + np.stack([occupied.min(axis=0), occupied.max(axis=0)]) * np.diag(affine)[:3]
    box = np.round(box + np.array([[-MARGIN], [MARGIN]]))
    axes, coarse = _grid(box, spacing), _grid(box, COARSE)
    # outside the array the distance is not 0 but large: resample "30 mm minus distance" and turn it back
    near = 30.0 - np.minimum(distance, 30.0)
    data = {
        "mask": _resample(mask.astype(np.float32), affine, axes, spacing),
        "ventricle": 30.0 - _resample(near, affine, axes, spacing),
        "coarse_ventricle": 30.0 - _resample(near, affine, coarse, COARSE),
        "box": box,
    }
    for name, fraction in zip(("csf", "gm", "wm"), fractions, strict=True):
        data[name] = _resample(fraction, affine, axes, spacing)
    data |= dict(zip(("x", "y", "z"), axes, strict=True)) | dict(zip(("cx", "cy", "cz"), coarse, strict=True))
    return data
