"""What a protocol counts: both images in its units, cut to its region and slices. What several protocols see alike is made once.

A prediction is scored under nine protocols in the time of two or three, because they share most of what is expensive: units
differ by a gain for most of them, so images are kept without it; the blurred images of SSIM are those of the box that is not
empty, which is the same for the brain and for the whole grid; slices that are resized alike are resized once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from synthmr.case import PLANES
from synthmr.errors import DataError
from synthmr.evaluate.checks import bounding_box
from synthmr.evaluate.protocols import Protocol
from synthmr.evaluate.structural import SSIM_RADIUS, Moments, moments
from synthmr.labels import Meaning

Array = np.ndarray

#: moments of volumes that are kept: each takes about 200 MB for a head of 1 mm
KEPT_VOLUMES = 2


@dataclass(frozen=True, eq=False)
class ScoreInput:
    """A prediction beside its truth on the unit scale (background 0, top of the range 1), with its place in the original volume.

    Attributes:
        prediction: ``(X, Y, Z)`` RAS; not clipped, so it may leave [0, 1].
        truth: ``(X, Y, Z)``, the same grid.
        mask: ``(X, Y, Z)`` bool, the brain.
        start: first voxel of these arrays in the original RAS grid; (0, 0, 0) where they are the whole grid. What lies outside
            the arrays is 0 in both images.
        shape: of the original RAS grid; None where the arrays are the whole grid.
        label: for messages, ``"FLAIR of case X"``.
        lesion: ``(X, Y, Z)`` bool, as ``meaning`` says; or None where no label is known.
        spacing: voxel edges in mm.
        peak: the truth's maximum before its normaliser clipped it; None: that of the array.
        labels: ``(X, Y, Z)`` whole numbers, the segmentation that the lesion was made from; None where there is none.
        meaning: what the numbers of ``labels`` mean; None where that was not asked.
        tissue: ``(X, Y, Z)`` whole numbers (1 CSF, 2 grey, 3 white matter), or None.
        borders: where tiles of the prediction begin and end along X, Y and Z; none: it was not predicted tile by tile.
    """

    prediction: Array
    truth: Array
    mask: Array
    start: tuple[int, int, int] = (0, 0, 0)
    shape: tuple[int, int, int] | None = None
    label: str = field(default="")
    lesion: Array | None = None
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    peak: float | None = None
    labels: Array | None = None
    meaning: Meaning | None = None
    tissue: Array | None = None
    borders: Sequence[Sequence[int]] = ()

    @property
    def grid(self) -> tuple[int, ...]:
        """Shape of the original grid."""
        return tuple(self.shape or self.truth.shape)

    @property
    def top(self) -> float:
        """The truth's maximum, unclipped where that is known."""
        return self.peak if self.peak is not None else float(self.truth.max())


@dataclass(frozen=True, eq=False)
class Units:
    """Both images before the gains that bring them into a protocol's units.

    Attributes:
        scored: the images; for most protocols those that came in.
        key: the same for units whose images are the same.
        gains: of prediction and truth.
        peak: the truth's maximum in the protocol's units.
    """

    scored: ScoreInput
    key: str
    gains: tuple[float, float]
    peak: float


@dataclass(frozen=True, eq=False)
class Counted:
    """Two images as a protocol sees them, a volume or a stack of slices, and which voxels of them count.

    Attributes:
        prediction: ``(X, Y, Z)``, ``(S, columns, rows)`` or one slice ``(columns, rows)``, before its gain.
        truth: the same shape.
        mask: bool, the same shape; None: every voxel counts.
        gains: of prediction and truth.
        spacing: voxel edges along the arrays' axes, in mm.
        share: where moments are kept, under a key or by content.
        key: of one slice; empty for volumes and stacks.
        corner: of a slice that is not resized: its first pixel in the original grid.
        slices: of a stack: its slices.
    """

    prediction: Array
    truth: Array
    mask: Array | None
    gains: tuple[float, float]
    spacing: tuple[float, ...]
    share: Shared
    key: tuple[object, ...] = ()
    corner: tuple[int, ...] = (0, 0)
    slices: tuple[Counted, ...] = ()

    @cached_property
    def images(self) -> tuple[Array, Array]:
        """Prediction and truth in the protocol's units, float32."""
        pair = zip((self.prediction, self.truth), self.gains, strict=True)
        first, second = (image if gain == 1 else image * np.float32(gain) for image, gain in pair)
        return first, second

    @cached_property
    def vectors(self) -> tuple[Array, Array]:
        """The voxels that count, in the protocol's units, as two vectors."""
        first, second = (image.ravel() if self.mask is None else image[self.mask] for image in self.images)
        return first, second

    def local(self, data_range: float, axes: tuple[int, ...]) -> float:
        """Mean over the counted voxels of the SSIM map of windows along ``axes``: `structural.ssim` of `images`.

        Where all that a window sees is 0 in both images the map is exactly 1, so only the rest is filtered.
        """
        if self.slices and 0 not in axes:
            found = [one.summed(data_range, (0, 1)) for one in self.slices]
            return sum(total for total, _ in found) / sum(number for _, number in found)
        total, number = self.summed(data_range, axes)
        return total / number

    def summed(self, data_range: float, axes: tuple[int, ...]) -> tuple[float, int]:
        """Sum of the SSIM map over the counted voxels, and how many they are."""
        box = self._box(axes)
        where = tuple((part.start + begin, part.stop + begin) for part, begin in zip(box, self.corner, strict=False))
        found = self.share.moments(self.prediction[box], self.truth[box], axes, (*self.key, where) if self.key else ())
        values = found.ssim(data_range, self.gains)
        if self.mask is None:
            return float(values.sum()) + self.truth.size - values.size, self.truth.size
        inside = self.mask[box]
        number, here = int(np.count_nonzero(self.mask)), int(np.count_nonzero(inside))
        return float(values[inside].sum()) + number - here, number

    def _box(self, axes: tuple[int, ...]) -> tuple[slice, ...]:
        """Where a window sees anything; one voxel where there is nothing to see."""
        margin = [SSIM_RADIUS if axis in axes else 0 for axis in range(self.truth.ndim)]
        box = bounding_box((self.prediction != 0) | (self.truth != 0), margin)
        return box if self.truth[box].size else (slice(0, 1),) * self.truth.ndim


class Shared:
    """What the protocols of one `ScoreInput` share; it lives as long as that is scored."""

    def __init__(self, scored: ScoreInput) -> None:
        self.scored = scored
        self._units: dict[str, ScoreInput] = {"": scored}
        self._whole: dict[str, tuple[Array, Array]] = {}
        self._masked: dict[tuple[str, str], tuple[Array, Array, Array]] = {}
        self._along: dict[tuple[str, int], tuple[Array, Array]] = {}
        self._slices: dict[tuple[object, ...], tuple[Array, Array, Array | None]] = {}
        self._regions: dict[str, Array] = {}
        self._slice_moments: dict[tuple[object, ...], Moments] = {}
        self._volume_moments: list[tuple[Array, Array, tuple[int, ...], Moments]] = []

    def moments(self, prediction: Array, truth: Array, axes: tuple[int, ...], key: tuple[object, ...]) -> Moments:
        """The blurred images of SSIM: of a slice by its key, of a volume by what it holds."""
        if key:
            if key not in self._slice_moments:
                self._slice_moments[key] = moments(prediction, truth, axes)
            return self._slice_moments[key]
        for first, second, along, found in self._volume_moments:
            if along == axes and np.array_equal(first, prediction) and np.array_equal(second, truth):
                return found
        found = moments(prediction, truth, axes)
        self._volume_moments = [*self._volume_moments[1 - KEPT_VOLUMES :], (prediction, truth, axes, found)]
        return found

    def units(self, protocol: Protocol) -> Units:
        """Both images in the protocol's units; no slice or crop is taken yet.

        Raises:
            DataError: there is nothing to divide by.
        """
        scored, factor = self.scored, protocol.scale
        if protocol.units == "own-percentiles":
            key = protocol.units
            if key not in self._units:
                own = [_own_percentiles(image, scored, what) for image, what in zip(*_named(scored), strict=True)]
                self._units[key] = replace(scored, prediction=own[0], truth=own[1])
            return Units(self._units[key], key, (factor, factor), factor)
        if protocol.units == "own-max":
            tops = [_positive(float(image.max()), "maximum", what) for image, what in zip(*_named(scored), strict=True)]
            return Units(scored, "", (factor / tops[0], factor / tops[1]), factor)
        if protocol.units == "truth-max":
            factor /= _positive(scored.top, "maximum")
        elif protocol.units == "truth-mean":
            factor /= _positive(float(scored.truth.sum(dtype=np.float64)) / math.prod(scored.grid), "mean")
        return Units(scored, "", (factor, factor), scored.top * factor)

    def volume(self, units: Units, region: str) -> Counted:
        """The volume, 0 outside the region but for ``whole``, in a box that holds all that counts.

        Raises:
            DataError: the region is empty.
        """
        if region == "whole":
            prediction, truth = self.whole(units)
            return Counted(prediction, truth, None, units.gains, self.scored.spacing, self)
        key = (units.key, region)
        if key not in self._masked:
            self._masked[key] = self._cut(units, region)
        prediction, truth, kept = self._masked[key]
        return Counted(prediction, truth, kept, units.gains, self.scored.spacing, self)

    def parts(self, units: Units, mask: Array) -> Counted:
        """The brain, of which the voxels of ``mask`` ``(X, Y, Z)`` count: its border is no edge of the head."""
        brain = self.volume(units, "brain")
        return replace(brain, mask=_pad(mask[_box(self.scored.mask)]))

    def whole(self, units: Units) -> tuple[Array, Array]:
        """Both images on the whole original grid."""
        if units.key not in self._whole:
            grid, start = self.scored.grid, self.scored.start
            images = (units.scored.prediction, units.scored.truth)
            first, second = (image if image.shape == grid else place(image, start, grid) for image in images)
            self._whole[units.key] = first, second
        return self._whole[units.key]

    def _cut(self, units: Units, region: str) -> tuple[Array, Array, Array]:
        mask = self.mask(region)
        if region == "non-lesion":
            prediction, truth = self.whole(units)
            kept = place(~mask, self.scored.start, truth.shape) == 0
            return np.where(kept, prediction, 0), np.where(kept, truth, 0), kept
        # SSIM windows reach 5 voxels beyond the mask: give them the background, however tightly the brain was cropped
        box = _box(mask)
        kept, images = mask[box], (units.scored.prediction, units.scored.truth)
        first, second = (_pad(np.where(kept, image[box], 0)) for image in images)
        return first, second, _pad(kept)

    def mask(self, region: str) -> Array:
        """What counts; non-lesion is everything else, background too, for the protocols that score it do so."""
        scored = self.scored
        if region == "brain" or scored.lesion is None:
            return scored.mask
        if region not in self._regions:  # once, not for every slice
            self._regions[region] = scored.lesion & scored.mask if region == "lesion" else ~scored.lesion
        return self._regions[region]

    def slices(self, units: Units, protocol: Protocol, region: str) -> list[Counted]:
        """The protocol's slices of the original grid, cropped and resized.

        Raises:
            DataError: there is none.
        """
        indices = chosen_slices(self.scored, protocol)
        if not len(indices):
            raise DataError(f"no {protocol.plane} slice has what the protocol counts ({protocol.slices}); check mask and labels.")
        geometry = (protocol.plane, protocol.crop, protocol.resize, region, units.key)
        # what a window sees is the same in two crops that both hold it
        same = (protocol.plane, (protocol.crop, protocol.resize) if protocol.resize else None, region, units.key)
        spacing, corner = self._slice_spacing(protocol), (0, 0) if protocol.resize else self._corner(protocol)
        found = []
        for number in indices.tolist():
            key = (*geometry, number)
            if key not in self._slices:
                self._slices[key] = self._slice(units, protocol, region, number)
            found.append(Counted(*self._slices[key], units.gains, spacing, self, (*same, number), corner))
        return found

    def _corner(self, protocol: Protocol) -> tuple[int, ...]:
        """First pixel of the protocol's crop in the original grid; negative where the crop is larger."""
        axis = PLANES[protocol.plane]
        across = [size for other, size in enumerate(self.scored.grid) if other != axis]
        return tuple((whole - part) // 2 for whole, part in zip(across, protocol.crop or across, strict=True))

    def stack(self, units: Units, protocol: Protocol, region: str) -> Counted:
        """The same slices as one volume ``(S, columns, rows)``."""
        each = self.slices(units, protocol, region)
        masks = [one.mask for one in each]
        mask = None if masks[0] is None else np.stack([one for one in masks if one is not None])
        spacing = (self.scored.spacing[PLANES[protocol.plane]], *each[0].spacing)
        images = np.stack([one.prediction for one in each]), np.stack([one.truth for one in each])
        return Counted(*images, mask, units.gains, spacing, self, slices=tuple(each))

    def _slice(self, units: Units, protocol: Protocol, region: str, number: int) -> tuple[Array, Array, Array | None]:
        axis = PLANES[protocol.plane]
        others = [other for other in range(3) if other != axis]
        size = list(protocol.crop or [self.scored.grid[other] for other in others])
        begins = [begin for other, begin in enumerate(self.scored.start) if other != axis]
        offset = [begin - corner for begin, corner in zip(begins, self._corner(protocol), strict=True)]
        index = number - self.scored.start[axis]

        key = (units.key, axis)
        if key not in self._along:  # slices of a volume leap through memory unless they come first
            images = (units.scored.prediction, units.scored.truth)
            first, second = (np.ascontiguousarray(np.moveaxis(image, axis, 0)) for image in images)
            self._along[key] = first, second
        inside = 0 <= index < len(self._along[key][0])
        prediction, truth = (
            place(image[index], offset, size) if inside else np.zeros(size, np.float32) for image in self._along[key]
        )
        counted = None
        if region != "whole":
            outside = region == "non-lesion"  # beyond the arrays too
            kept = self.mask(region)
            one = kept.take(index, axis) if 0 <= index < kept.shape[axis] else np.full([kept.shape[a] for a in others], outside)
            counted = place(~one, offset, size) == 0 if outside else place(one, offset, size) > 0
        if counted is not None:
            prediction, truth = np.where(counted, prediction, 0), np.where(counted, truth, 0)
        if protocol.resize is not None:
            prediction, truth = _resize(prediction, protocol.resize), _resize(truth, protocol.resize)
            counted = None if counted is None else _resize(counted.astype(np.float32), protocol.resize) >= 0.5
        return prediction, truth, counted

    def _slice_spacing(self, protocol: Protocol) -> tuple[float, ...]:
        """Pixel edges of the protocol's slices, in mm."""
        axis = PLANES[protocol.plane]
        edges = [edge for other, edge in enumerate(self.scored.spacing) if other != axis]
        size = protocol.crop or [length for other, length in enumerate(self.scored.grid) if other != axis]
        pixels = protocol.resize or size
        return tuple(edge * whole / part for edge, whole, part in zip(edges, size, pixels, strict=True))


def sliced(protocol: Protocol) -> bool:
    """Whether slices are chosen or changed before anything is counted."""
    return protocol.crop is not None or protocol.resize is not None or protocol.slices != "all" or bool(protocol.middle)


def chosen_slices(scored: ScoreInput, protocol: Protocol) -> Array:
    """The numbers of the slices of the original grid that a protocol counts; what its crop leaves out of them plays no part."""
    axis = PLANES[protocol.plane]
    if protocol.slices == "all":
        indices = np.arange(scored.grid[axis])
    else:
        shown = scored.lesion & scored.mask if protocol.slices == "lesion" and scored.lesion is not None else scored.mask
        indices = scored.start[axis] + np.flatnonzero(shown.any(axis=tuple(other for other in range(3) if other != axis)))
    if protocol.middle and len(indices) > protocol.middle:
        begin = (len(indices) - protocol.middle) // 2
        indices = indices[begin : begin + protocol.middle]
    return indices


def place(array: Array, offset: Sequence[int], size: Sequence[int]) -> Array:
    """Copy ``array`` into zeros of ``size`` so that its first voxel lands on ``offset``; what sticks out is cut off."""
    out = np.zeros(tuple(size), np.float32)
    into, taken = [], []
    for begin, length, limit in zip(offset, array.shape, size, strict=True):
        low, high = max(begin, 0), max(min(begin + length, limit), 0)
        into.append(slice(low, max(high, low)))
        taken.append(slice(low - begin, max(high, low) - begin))
    out[tuple(into)] = array[tuple(taken)]
    return out


def _named(scored: ScoreInput) -> tuple[tuple[Array, Array], tuple[str, str]]:
    """Both images, and what messages call them."""
    return (scored.prediction, scored.truth), ("prediction", "ground truth")


def _own_percentiles(image: Array, scored: ScoreInput, what: str) -> Array:
    """An image clipped to its 0.5 and 99.5 percentiles over the whole original grid, on [0, 1]; none below 0."""
    low, high = (_percentile(image, math.prod(scored.grid), percent) for percent in (0.5, 99.5))
    low = max(low, 0.0)
    if high <= low:
        raise DataError(f"the {what}'s 0.5 and 99.5 percentiles leave no range to map to [0, 1].")
    return np.asarray((np.clip(image, low, high) - low) / (high - low), np.float32)


def _percentile(image: Array, count: int, percent: float) -> float:
    """`numpy.percentile` of ``count`` values of which all that are not in ``image`` are 0: the many zeros need not be sorted."""
    shown = image[image != 0]
    below = int(np.count_nonzero(shown < 0))
    zeros = count - shown.size
    place = percent / 100 * (count - 1)
    ranks = [math.floor(place), math.ceil(place)]
    # of the sorted values the zeros stand between the negative and the positive ones
    wanted = {rank: rank if rank < below else rank - zeros for rank in ranks if not below <= rank < below + zeros}
    ordered = np.partition(shown, list(wanted.values())) if wanted else shown
    first, last = (float(ordered[wanted[rank]]) if rank in wanted else 0.0 for rank in ranks)
    return first + (last - first) * (place - ranks[0])


def _positive(value: float, what: str, whose: str = "ground truth") -> float:
    if not value > 0:
        raise DataError(f"the {whose}'s {what} is {value:g}, and this protocol divides by it.")
    return value


def _resize(image: Array, size: Sequence[int]) -> Array:
    """Linear interpolation of one slice ``(columns, rows)``, pixel centres in the middle of pixels, edges repeated."""
    whole, out = image.shape, np.zeros(tuple(size), np.float32)
    into: list[slice] = []
    for axis, (new, used) in enumerate(zip(size, bounding_box(image != 0), strict=True)):
        old = whole[axis]
        at = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
        low = np.minimum(at.astype(np.intp), max(old - 2, 0))
        high = np.minimum(low + 1, old - 1)
        # only what lies between pixels that are not 0 is anything else
        seen = np.flatnonzero((high >= used.start) & (low < used.stop))
        part = slice(int(seen[0]), int(seen[-1]) + 1) if len(seen) else slice(0, 0)
        weight = (at - low)[part]
        weight = weight[:, None] if axis == 0 else weight
        image = image.take(low[part], axis) * (1 - weight) + image.take(high[part], axis) * weight
        into.append(part)
    out[tuple(into)] = image
    return out


def _box(mask: Array) -> tuple[slice, ...]:
    """`bounding_box` of a region that must not be empty."""
    if not mask.any():
        raise DataError("there is nothing to score: the region is empty; check mask and labels.")
    return bounding_box(mask, 0)


def _pad(array: Array) -> Array:
    return np.pad(array, SSIM_RADIUS)
