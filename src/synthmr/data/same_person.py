"""Find one person's scan under two names from the images alone.

An image is brought to 3 mm and reduced to its detail: what a wide blur takes away, divided by its own local size, inside the head
without its rim. Gains, bias fields and most of the outline, in which people are alike, are gone; folds of the cortex stay. Two
details are compared at the shift that fits best (one Fourier transform), so that crops and moved boxes make no difference.

Comparing all pairs would cost the square of the cases. So the spectrum of each detail, which no shift changes, makes a signature of
about a thousand numbers; one matrix product finds for each case the few others that are worth a comparison.
``benchmarks/same_person.py`` has what true and false pairs reach.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from synthmr.prepare import orient
from synthmr.prepare.mask import bounding_box

#: raise when a change here changes what `describe` gives
DETAIL_VERSION = 1

#: voxel edge in mm
EDGE = 3.0

#: scores from here on are of one person: of one scan, or of two visits on one scanner; see benchmarks/same_person.py
CERTAIN = 0.85
#: from here on probably; where several images were compared, from the second on, too, if all others that resemble one of the
#: two stay behind by the third
PROBABLE, POSSIBLE, AHEAD, SEVERAL = 0.78, 0.7, 0.2, 8

#: cases that each case is compared with, at most
NEIGHBOURS = 5
#: the signatures' correlation from which on a comparison is worth while, and from which on mirrored storage orders are tried, too:
#: of many cases, less their mean; of few
MANY, ALIKE = 20, {True: (0.4, 0.6), False: (0.7, 0.85)}

#: details with fewer voxels (54 ml) show too little
FEWEST = 2000

#: edge in voxels of the box whose spectrum is taken (252 mm), and wave lengths in mm that count
BOX, LONGEST, SHORTEST = 84, 60.0, 16.0

#: of the blur in voxels: of the detail, of what is taken away; share of the range that darkness is lifted by
FINE, WIDE, LIFT = 0.7, 2.0, 0.1


@dataclass(frozen=True)
class Pair:
    """Two images that show one person.

    Attributes:
        one: index of the first.
        two: index of the second.
        score: correlation of their details, -1 to 1.
        mirrored: whether one had to be mirrored, so that its header says a wrong storage order.
    """

    one: int
    two: int
    score: float
    mirrored: bool = False


def describe(array: np.ndarray, affine: np.ndarray) -> np.ndarray | None:
    """The detail of an image, ``(x, y, z)`` int8 at 3 mm, RAS; None where the image is too small to tell.

    Args:
        array: ``(X, Y, Z)``, finite, any units.
        affine: 4x4, voxel index to RAS millimetres.
    """
    turn = orient.fit((array.shape[0], array.shape[1], array.shape[2]), affine)
    small = _shrink(orient.apply(array, turn), np.sqrt((orient.apply_affine(affine, turn)[:3, :3] ** 2).sum(axis=0)))
    return detail(small)


def detail(small: np.ndarray) -> np.ndarray | None:
    """The detail of an image that is at 3 mm, as `describe`."""
    from scipy import ndimage

    head, top = _head(small)
    if head.sum() < FEWEST:
        return None
    box = bounding_box(head)
    small, head = small[box], head[box]
    inner = ndimage.binary_erosion(head)
    if inner.sum() < FEWEST / 2:
        return None

    def blur(values: np.ndarray, weights: np.ndarray, sigma: float) -> np.ndarray:
        """A Gaussian that sees nothing outside the weights."""
        above = ndimage.gaussian_filter(values * weights, sigma, mode="constant", truncate=3)
        below = ndimage.gaussian_filter(weights, sigma, mode="constant", truncate=3)
        return np.asarray(above / np.maximum(below, 1e-3))

    weights, within = head.astype(np.float32), inner.astype(np.float32)
    bright = np.log(np.maximum(small, 0) / top + LIFT)
    found = (blur(bright, weights, FINE) - blur(bright, weights, WIDE)) * within
    size = np.sqrt(np.maximum(blur(found**2, within, 2 * WIDE), 0))
    typical = float(np.median(size[inner]))
    if not typical > 1e-6:
        return None
    return np.rint(np.clip(found / (size + 0.2 * typical), -3, 3) * within * 42).astype(np.int8)


def _head(small: np.ndarray) -> tuple[np.ndarray, float]:
    """Head or brain, holes filled, found in one way with skull and without; and how bright its bright part is."""
    from scipy import ndimage

    smooth = ndimage.gaussian_filter(small, FINE, mode="nearest")
    bright = smooth[smooth > smooth.mean()]
    top = float(np.percentile(bright, 75)) if bright.size else 0.0
    if not top > 0:
        return np.zeros(small.shape, bool), 1.0
    mask = ndimage.binary_closing(np.pad(smooth > 0.2 * top, 3), iterations=3)
    mask = ndimage.binary_fill_holes(mask)[3:-3, 3:-3, 3:-3]
    labels, count = ndimage.label(mask)
    if count > 1:
        mask = labels == np.bincount(labels.ravel())[1:].argmax() + 1
    return mask, top


def _shrink(array: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Bring an image to `EDGE`, an axis at a time, with about the same blur whatever its spacing was."""
    out = array.astype(np.float32, copy=False)
    for axis, edge in enumerate(spacing):
        count = max(int(EDGE / 2 / edge + 1e-3), 1)
        if count > 1:  # the mean of whole voxels first: the rest is then small
            whole = out.shape[axis] // count * count
            out = np.moveaxis(out, axis, 0)[:whole]
            out = np.moveaxis(out.reshape(whole // count, count, *out.shape[1:]).mean(axis=1), 0, axis)
        out = np.moveaxis(np.tensordot(_weights(out.shape[axis], float(edge), count), out, (1, axis)), 0, axis)
    return np.ascontiguousarray(out)


def _weights(size: int, edge: float, count: int) -> np.ndarray:
    """``(n, size)``: what each voxel of `EDGE` takes of voxels that are means of ``count`` voxels of ``edge`` mm."""
    step = edge * count
    given, wanted = (np.arange(size) + 0.5) * step, (np.arange(max(round(size * step / EDGE), 1)) + 0.5) * EDGE
    left = (0.35 * EDGE) ** 2 - edge**2 * (count**2 - 1) / 12 - step**2 / 6
    away = np.abs(wanted[:, None] - given)
    # voxels so large that they blur enough are interpolated
    found = np.exp(-0.5 * away**2 / left) if left > (0.3 * step) ** 2 else np.maximum(1 - away / step, 0)
    total = found.sum(axis=1, keepdims=True)
    return np.asarray(found / np.where(total > 0, total, 1), np.float32)


# --- which pairs are worth a comparison ---------------------------------------------------------------------------------


def signature(detail: np.ndarray) -> np.ndarray:
    """``(n,)`` float32 of mean 0 and length 1: the spectrum of a detail, the same for every shift and mirroring.

    Each shell of equal wave length is brought to mean 0 and deviation 1, so that what all heads share drops out.
    """
    from scipy import fft

    box = np.zeros((BOX,) * 3, np.float32)
    there, here = [], []
    for size in detail.shape:
        length = min(size, BOX)
        there.append(slice((BOX - length) // 2, (BOX - length) // 2 + length))
        here.append(slice((size - length) // 2, (size - length) // 2 + length))
    box[tuple(there)] = detail[tuple(here)]
    power = np.abs(fft.rfftn(box)) ** 2
    # positive and negative frequencies together: a mirrored image has the same
    half = BOX // 2
    for axis in (0, 1):
        power = np.moveaxis(power, axis, 0)
        power = np.moveaxis(np.concatenate([power[:1] * 2, power[1:half] + power[:half:-1]]), 0, axis)
    power = power[:, :, :half].reshape(half // 2, 2, half // 2, 2, half // 2, 2).mean(axis=(1, 3, 5))
    root, shells = np.sqrt(power), _shells()
    parts = []
    for number in range(int(shells.max()) + 1):
        shell = root[shells == number]
        parts.append((shell - shell.mean()) / max(float(shell.std()), 1e-9))
    found = np.concatenate(parts)
    return np.asarray(found / max(float(np.linalg.norm(found)), 1e-9), np.float32)


def _shells() -> np.ndarray:
    """The shell that each block of frequencies belongs to, -1 where its wave length does not count."""
    axis = (np.arange(BOX // 4) * 2 + 0.5) / (BOX * EDGE)
    length = np.sqrt(axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None] ** 2)
    shell = np.floor((length - 1 / LONGEST) / 0.005).astype(int)
    return np.where((length > 1 / LONGEST) & (length < 1 / SHORTEST), shell, -1)


def candidates(signatures: np.ndarray, persons: Sequence[str]) -> list[tuple[int, int, bool]]:
    """Pairs of different persons, as they are named, whose signatures are alike: ``(one, two, worth trying mirrored)``.

    Args:
        signatures: ``(n, d)``.
        persons: the name of each.
    """
    numbers = {name: number for number, name in enumerate(dict.fromkeys(persons))}
    own = np.array([numbers[name] for name in persons])
    many = len(signatures) >= MANY
    enough, mirrored = ALIKE[many]
    # what all of a cohort share (its scanner, its template) drops out
    centred = signatures - signatures.mean(axis=0) if many else signatures.copy()
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)
    found: dict[tuple[int, int], bool] = {}
    for start in range(0, len(centred), 512):
        alike = centred[start : start + 512] @ centred.T
        alike[own[start : start + 512, None] == own] = -1
        most = min(NEIGHBOURS, alike.shape[1])
        best = np.argpartition(-alike, most - 1, axis=1)[:, :most]
        for row, columns in enumerate(best):
            for column in columns:
                if alike[row, column] > enough:
                    one, two = sorted((start + row, int(column)))
                    found[one, two] = bool(alike[row, column] > mirrored)
    return [(one, two, value) for (one, two), value in sorted(found.items())]


# --- comparison ---------------------------------------------------------------------------------------------------------


def compare(one: np.ndarray, two: np.ndarray) -> float:
    """The correlation of two details where both have one, at the shift that fits best; -1 where they hardly overlap."""
    from scipy import fft

    size = [fft.next_fast_len(int(1.25 * max(pair)), real=True) for pair in zip(one.shape, two.shape, strict=True)]
    a, b = one.astype(np.float32), two.astype(np.float32)
    fit = fft.irfftn(fft.rfftn(a, size) * np.conj(fft.rfftn(b, size)), size)
    best = np.unravel_index(int(fit.argmax()), fit.shape)
    shift = [int(step) if step <= length // 2 else int(step) - length for step, length in zip(best, size, strict=True)]
    return _overlap(a, b, shift)


def _overlap(a: np.ndarray, b: np.ndarray, shift: Sequence[int]) -> float:
    """Correlation of ``a`` with ``b`` moved by ``shift`` voxels, where neither is 0."""
    first, second = [], []
    for move, size, other in zip(shift, a.shape, b.shape, strict=True):
        low, high = max(0, move), min(size, other + move)
        if high <= low:
            return -1.0
        first.append(slice(low, high))
        second.append(slice(low - move, high - move))
    x, y = a[tuple(first)], b[tuple(second)]
    both = (x != 0) & (y != 0)
    if both.sum() < max(0.4 * min(np.count_nonzero(a), np.count_nonzero(b)), 1):
        return -1.0
    x, y = x[both], y[both]
    return float(x @ y / max(float(np.sqrt((x @ x) * (y @ y))), 1e-9))


def find_pairs(detail_of: Callable[[int], np.ndarray], signatures: np.ndarray, persons: Sequence[str]) -> list[Pair]:
    """All pairs of images, of one contrast, that show one person under two names.

    Args:
        detail_of: gives the detail of one; two are in memory at a time.
        signatures: ``(n, d)``, of `signature`.
        persons: who each is said to be.
    """
    pairs = []
    for one, two, mirrored in candidates(signatures, persons) if len(signatures) > 1 else ():
        a, b = detail_of(one), detail_of(two)
        best = Pair(one, two, compare(a, b))
        if best.score < POSSIBLE and mirrored:
            for signs in list(product((1, -1), repeat=3))[1:]:
                score = compare(a, np.ascontiguousarray(b[tuple(slice(None, None, sign) for sign in signs)]))
                if score > max(best.score, PROBABLE):
                    best = Pair(one, two, score, True)
        pairs.append(best)
    return [pair for pair in pairs if pair.score >= PROBABLE or (len(signatures) >= SEVERAL and _stands_out(pair, pairs))]


def _stands_out(pair: Pair, pairs: Sequence[Pair]) -> bool:
    """Whether a pair is possible, and everybody else is far less like either of the two."""
    mine = {pair.one, pair.two}
    others = [other.score for other in pairs if len(mine & {other.one, other.two}) == 1 and other.score < POSSIBLE]
    return pair.score >= POSSIBLE and pair.score - max(others, default=-1.0) >= AHEAD
