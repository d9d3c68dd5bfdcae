"""What an image set is like: the numbers by which a case is compared with the cases that a run was trained on.

They are taken from scanner units inside the brain mask, after a constant background was taken off, on a part of the voxels that is
the same for the same case: some milliseconds an image. `measure` gives them as plain JSON data; `flat` as names and numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from synthmr.prepare.background import offset_of
from synthmr.prepare.correlation import contrast_correlations
from synthmr.prepare.mask import bounding_box

#: the step of a history that holds what `measure` gives
STEP = "measured"

#: raise when the numbers change, so that none that were kept before are used
MEASURE_VERSION = 1

#: percentiles of the brain that are kept
PERCENTILES = (0.5, 5.0, 25.0, 50.0, 75.0, 95.0, 99.5)
#: those whose distance from the median tells contrasts apart
SHAPE = (5.0, 25.0, 75.0, 99.5)
#: brain voxels that percentiles are taken of
VOXELS = 60_000
#: millimetres: the surface of the brain, and the edge of the grid on which depth is measured
SURFACE, GRID = 6.0, 3.0
#: smallest share of the median that a logarithm is taken of
LEAST = 1e-3
#: in place of 0 under a fraction
TINY = float(np.finfo(np.float32).tiny)
#: voxels outside the brain below which nothing is said of the air
AIR_VOXELS = 50


def measure(
    images: Mapping[str, np.ndarray],
    mask: np.ndarray,
    spacing: Sequence[float],
    shape: Sequence[int],
    start: Sequence[int],
    mode: str,
    constants: Mapping[str, Mapping[str, Any] | None],
    digests: Mapping[str, str],
) -> dict[str, Any]:
    """What a case is like.

    Args:
        images: contrast -> ``(X, Y, Z)`` in scanner units, a constant background taken off, RAS, on the prepared box.
        mask: ``(X, Y, Z)`` bool, the brain, on the same box.
        spacing: voxel edges in millimetres, RAS.
        shape: (X, Y, Z) voxels of the whole volume.
        start: first voxel of the box in it.
        mode: how the mask was made: file, nonzero or otsu.
        constants: contrast -> parameters of the constant background, or None.
        digests: contrast -> checksum of the image's content.

    Returns:
        Plain data: ``mode``, ``spacing`` and ``extent`` in millimetres, ``volume`` in millilitres, ``cut``: the share of its
        largest cross-section with which the brain touches an edge of the volume; ``images``: contrast -> numbers (see `_image`);
        ``correlations``: ``A+B`` -> Spearman's rank correlation.
    """
    box = bounding_box(mask)
    extent = [(part.stop - part.start) * edge for part, edge in zip(box, spacing, strict=True)]
    tight, steps = mask[box], [max(1, round(GRID / edge)) for edge in spacing]
    thin = tuple(slice(None, None, step) for step in steps)
    deep = _depth(tight[thin], [step * edge for step, edge in zip(steps, spacing, strict=True)])
    where = np.flatnonzero(mask)
    where = where[:: max(1, len(where) // VOXELS)]
    found = {}
    for name, array in images.items():
        values = np.asarray(array.reshape(-1)[where], np.float64)
        found[name] = {
            "constant": 0.0 if constants.get(name) is None else float((constants[name] or {})["value"]),
            "offset": offset_of(constants.get(name)),
            **_image(array, mask, values, int(np.argmin(spacing))),
            **_depths(array[box][thin], deep, values),
            "digest": digests.get(name, ""),
        }
    pairs = contrast_correlations(images, mask)
    return {
        "step": STEP,
        "mode": mode,
        "spacing": [float(edge) for edge in spacing],
        "extent": [float(edge) for edge in extent],
        "volume": float(mask.sum() * np.prod(spacing) / 1000),
        "cut": _cut(mask, shape, start),
        "images": found,
        "correlations": {"+".join(pair): round(value, 4) for pair, value in pairs.items()},
    }


def _image(array: np.ndarray, mask: np.ndarray, values: np.ndarray, axis: int) -> dict[str, Any]:
    """Numbers of one image.

    ``percentiles`` in scanner units; ``negative``, the share of the brain below 0; ``air``, the first percentile outside the
    brain over the median inside; ``noise``, over the median, from second differences along ``axis``.
    """
    middle = max(abs(float(np.median(values))), TINY)
    outside = array[~mask]
    air = float(np.percentile(outside[:: max(1, outside.size // VOXELS)], 1)) if outside.size >= AIR_VOXELS else 0.0
    moved, inside = np.moveaxis(array, axis, 0), np.moveaxis(mask, axis, 0)
    noise = 0.0
    if len(moved) > 2:
        # every other plane along another axis: as good, and half the work
        moved, inside = moved[:, ::2], inside[:, ::2]
        bend = (moved[:-2] - 2 * moved[1:-1] + moved[2:])[inside[:-2] & inside[1:-1] & inside[2:]]
        noise = float(1.4826 * np.median(np.abs(bend)) / np.sqrt(6) / middle) if bend.size else 0.0
    return {
        "percentiles": [float(value) for value in np.percentile(values, PERCENTILES)],
        "negative": float(np.mean(values < 0)),
        "air": air / middle,
        "noise": noise,
    }


def _depth(mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Millimetres from each voxel of a mask to its surface; the volume's edge counts as surface."""
    from scipy import ndimage

    return np.asarray(ndimage.distance_transform_edt(np.pad(mask, 1), sampling=spacing))[1:-1, 1:-1, 1:-1]


def _depths(array: np.ndarray, deep: np.ndarray, values: np.ndarray) -> dict[str, float]:
    """``surface``, the median near the surface, and ``core``, the tenth percentile deep inside (ventricles), in scanner units."""
    middle = float(np.median(values))
    rim, core = array[(deep > 0) & (deep <= SURFACE)], array[deep > 0.6 * deep.max()]
    return {
        "surface": float(np.median(rim)) if rim.size else middle,
        "core": float(np.percentile(core, 10)) if core.size else middle,
    }


def _cut(mask: np.ndarray, shape: Sequence[int], start: Sequence[int]) -> float:
    """The largest share of its largest cross-section with which a brain touches an edge of the volume, 0 to 1."""
    most = 0.0
    for axis in range(3):
        counts = mask.sum(axis=tuple(other for other in range(3) if other != axis))
        ends = [counts[0] if start[axis] == 0 else 0, counts[-1] if start[axis] + len(counts) == shape[axis] else 0]
        most = max(most, float(max(ends)) / max(float(counts.max()), 1.0))
    return most


def shape_of(image: Mapping[str, Any]) -> dict[str, float]:
    """The shape of an image's intensities, which no gain changes: logarithms over its median.

    Returns:
        ``p5``, ``p25``, ``p75``, ``top`` (the 99.5th percentile), ``surface``, ``core``.
    """
    known = dict(zip(PERCENTILES, image["percentiles"], strict=True))
    middle = max(abs(float(known[50.0])), TINY)

    def log(value: float) -> float:
        return float(np.log(max(value / middle, LEAST)))

    found = {f"p{percentile:g}": log(known[percentile]) for percentile in SHAPE}
    return {
        **{"top" if name == "p99.5" else name: value for name, value in found.items()},
        "surface": log(image["surface"]),
        "core": log(image["core"]),
    }


def flat(found: Mapping[str, Any]) -> dict[str, float]:
    """What `measure` gives, as names and numbers; lengths, ratios and gains as natural logarithms.

    Names are ``spacing.x``, ``extent.x``, ``volume``, ``cut``, ``T1w.gain``, ``T1w.p5``, ``T1w+T2w``, ...
    """
    numbers: dict[str, float] = {"volume": float(np.log(max(found["volume"], TINY))), "cut": float(found["cut"])}
    for word in ("spacing", "extent"):
        numbers |= {f"{word}.{axis}": float(np.log(max(edge, TINY))) for axis, edge in zip("xyz", found[word], strict=True)}
    for name, image in found["images"].items():
        numbers |= {f"{name}.{key}": value for key, value in shape_of(image).items()}
        numbers |= {f"{name}.{key}": float(image[key]) for key in ("constant", "offset", "negative", "air")}
        numbers[f"{name}.gain"] = float(np.log(max(abs(image["percentiles"][-1]), TINY)))
        numbers[f"{name}.noise"] = float(np.log(max(image["noise"], 1e-4)))
    return {**numbers, **{pair: float(value) for pair, value in found["correlations"].items()}}
