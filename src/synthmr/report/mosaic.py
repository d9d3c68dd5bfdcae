"""Volumes small enough for a web page: 8-bit greys of one value range, all axial slices tiled into one picture."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from synthmr.report.views import Box, FigureCase, brain_box, plane_image, window

#: (quality, voxels averaged along each axis) tried in this order until a case fits its share of the page
LADDER = ((92, 1), (85, 1), (75, 1), (88, 2), (75, 2), (75, 3), (75, 4))

#: browsers on telephones refuse a canvas of more pixels
MOST_PIXELS = 16_000_000

#: how far beyond the default window values are kept, as shares of its width: room for the window control
BELOW, ABOVE = 0.25, 0.5

#: grey levels of the label picture
OUTSIDE, BRAIN, LESION = 0, 128, 255


@dataclass(frozen=True)
class Packed:
    """The pictures of one case.

    Attributes:
        images: name -> data URI of its mosaic; names as in `grey_volumes`.
        ranges: name -> (value of grey 0, value of grey 255).
        labels: data URI of the mosaic that says where the brain and the lesion are.
        shape: (X, Y, Z) voxels of the packed volumes.
        origin: prepared voxel that the packed volumes start at.
        step: prepared voxels a packed voxel, along each axis.
        across: tiles in a row of the mosaic.
        quality: of the lossy pictures, 0 to 100.
    """

    images: Mapping[str, str]
    ranges: Mapping[str, tuple[float, float]]
    labels: str
    shape: tuple[int, int, int]
    origin: tuple[int, int, int]
    step: int
    across: int
    quality: int

    @property
    def size(self) -> int:
        """Bytes in the page."""
        return len(self.labels) + sum(map(len, self.images.values()))


def data_uri(data: bytes, kind: str) -> str:
    """``data:image/png;base64,...``."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def has_webp() -> bool:
    """Whether this Pillow writes WebP; all browsers since 2020 read it."""
    from PIL import features

    return bool(features.check("webp"))


def grey_volumes(case: FigureCase) -> dict[str, np.ndarray]:
    """Every volume that is shown in grey, by a name of its own: ``source:T1w``, ``truth``, ``prediction:hinet``."""
    found = {f"source:{name}": image for name, image in case.sources.items()}
    found["truth"] = case.truth
    return found | {f"prediction:{name}": image for name, image in case.predictions.items()}


def value_ranges(case: FigureCase) -> dict[str, tuple[float, float]]:
    """The values kept of each volume: its window and some room, no further than its brain voxels reach.

    Truth and predictions share one range, so that their difference can be taken in greys.
    """
    inside = case.mask.astype(bool)
    shared = [case.truth[inside], *(image[inside] for image in case.predictions.values())]
    target = _range(window(case.truth, inside), min(float(v.min()) for v in shared), max(float(v.max()) for v in shared))
    found = {f"source:{name}": _own_range(image, inside) for name, image in case.sources.items()}
    return found | {"truth": target} | {f"prediction:{name}": target for name in case.predictions}


def _own_range(image: np.ndarray, inside: np.ndarray) -> tuple[float, float]:
    return _range(window(image, inside), float(image[inside].min()), float(image[inside].max()))


def _range(shown: tuple[float, float], lowest: float, highest: float) -> tuple[float, float]:
    low, high = shown
    room = high - low
    return min(max(low - BELOW * room, lowest), low), max(min(high + ABOVE * room, highest), high)


def quantise(image: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Values as greys 0 to 255 of ``limits``, clipped to them."""
    low, high = limits
    return np.clip(np.rint((image.astype(np.float64) - low) * (255 / (high - low))), 0, 255).astype(np.uint8)


def tile(volume: np.ndarray, across: int) -> np.ndarray:
    """Tile the axial pictures of ``(X, Y, Z)``, from the lowest, into rows of ``across``; returns ``(rows, columns)``."""
    x, y, z = volume.shape
    down = -(-z // across)
    mosaic = np.zeros((down * y, across * x), volume.dtype)
    for i in range(z):
        row, column = divmod(i, across)
        mosaic[row * y : (row + 1) * y, column * x : (column + 1) * x] = plane_image(volume, "axial", i)
    return mosaic


def tiles_across(shape: tuple[int, ...]) -> int:
    """How many tiles a row make the mosaic about square."""
    x, y, z = shape
    return max(1, min(z, round(math.sqrt(z * y / x))))


def shrink(image: np.ndarray, mask: np.ndarray, step: int) -> np.ndarray:
    """Means of the masked voxels of blocks of ``step`` voxels along each axis; 0 where a block has none."""
    weight = _blocks(mask.astype(np.float64), step)
    total = _blocks(np.where(mask, image, 0).astype(np.float64), step)
    return np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)


def _blocks(array: np.ndarray, step: int) -> np.ndarray:
    """Sums over blocks, the last ones padded with zeros."""
    padded = np.pad(array, [(0, -n % step) for n in array.shape])
    a, b, c = (n // step for n in padded.shape)
    return padded.reshape(a, step, b, step, c, step).sum(axis=(1, 3, 5))


def pack(case: FigureCase, budget: int) -> Packed:
    """Encode a case, as well as ``budget`` bytes of the page allow; the coarsest form where even that is larger."""
    inside = case.mask.astype(bool)
    box = brain_box(inside, case.spacing)
    voxels = math.prod(edge.stop - edge.start for edge in box)
    ranges = value_ranges(case)
    steps = [(quality, step) for quality, step in LADDER if voxels / step**3 <= MOST_PIXELS] or [LADDER[-1]]
    for quality, step in steps:
        packed = _encode(case, box, ranges, quality, step)
        if packed.size <= budget:
            break
    return packed


def _encode(case: FigureCase, box: Box, ranges: Mapping[str, tuple[float, float]], quality: int, step: int) -> Packed:
    mask = case.mask[box].astype(bool)
    lesion = mask & (case.segmentation[box] > 0) if case.segmentation is not None else np.zeros_like(mask)
    small, sick = (mask, lesion) if step == 1 else (_blocks(part, step) * 2 >= step**3 for part in (mask, lesion))
    across = tiles_across(small.shape)
    images = {}
    for name, volume in grey_volumes(case).items():
        values = volume[box] if step == 1 else shrink(volume[box], mask, step)
        greys = np.where(small, quantise(values, ranges[name]), 0).astype(np.uint8)
        images[name] = _lossy(tile(greys, across), quality)
    labels = np.where(small, np.where(sick, LESION, BRAIN), OUTSIDE).astype(np.uint8)
    x, y, z = small.shape
    origin = (box[0].start, box[1].start, box[2].start)
    return Packed(images, ranges, _exact(tile(labels, across)), (x, y, z), origin, step, across, quality)


def _lossy(picture: np.ndarray, quality: int) -> str:
    """WebP, which needs 40 % less than JPEG here; JPEG where this Pillow was built without it."""
    from PIL import Image

    kind, options = ("webp", {"method": 4}) if has_webp() else ("jpeg", {"optimize": True})
    out = io.BytesIO()
    Image.fromarray(picture).save(out, kind.upper(), quality=quality, **options)
    return data_uri(out.getvalue(), kind)


def _exact(picture: np.ndarray) -> str:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG", optimize=True)
    return data_uri(out.getvalue(), "png")
