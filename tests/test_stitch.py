"""Tiles: constant in = constant out, identity = identity, whatever the sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from synthmr.errors import UsageError
from synthmr.predict.stitch import WINDOWS, Tiling, blend, cut, hinet_tiles, next_multiple, pad_far, positions, tiling, window

lengths = st.integers(1, 60)
patches = st.integers(1, 40)
overlaps = st.floats(0, 0.95)


@given(lengths, patches, overlaps)
def test_positions_cover_and_overlap(length: int, patch: int, overlap: float) -> None:
    starts = positions(length, patch, overlap)
    assert starts[0] == 0
    assert starts[-1] + patch == length or length <= patch
    covered = np.zeros(max(length, patch), int)
    for start in starts:
        covered[start : start + patch] += 1
    assert covered.min() >= 1
    steps = np.diff(starts)
    assert (steps >= 1).all()
    # neighbours share what was asked for, as far as whole pixels go
    assert (steps <= max(1, int(patch * (1 - overlap)))).all()
    assert len(steps) == 0 or steps.max() - steps.min() <= 1


@settings(max_examples=60, deadline=None)
@given(lengths, lengths, patches, patches, overlaps, st.sampled_from(WINDOWS))
def test_identity_network_is_identity(height: int, width: int, ph: int, pw: int, overlap: float, kind: str) -> None:
    rng = np.random.default_rng(height * 61 + width)
    image = torch.from_numpy(rng.normal(0, 1, (2, 3, height, width)).astype(np.float32))
    tiles = tiling((height, width), (ph, pw), overlap)
    out = blend(cut(image, tiles), tiles, window((ph, pw), kind))
    assert out.shape == image.shape
    torch.testing.assert_close(out, image, rtol=1.2e-7, atol=0)


@settings(max_examples=60, deadline=None)
@given(lengths, lengths, patches, overlaps, st.sampled_from(WINDOWS), st.floats(-3, 3))
def test_constant_in_constant_out(height: int, width: int, patch: int, overlap: float, kind: str, value: float) -> None:
    tiles = tiling((height, width), (patch, patch), overlap)
    parts = torch.full((2 * len(tiles.corners), 1, patch, patch), value)
    out = blend(parts, tiles, window((patch, patch), kind))
    assert out.shape == (2, 1, height, width)
    torch.testing.assert_close(out, torch.full_like(out, value), rtol=1.2e-7, atol=1e-37)


def test_blend_is_the_weighted_mean() -> None:
    """Two tiles over five pixels, by hand."""
    tiles = Tiling((1, 5), (1, 3), ((0, 0), (0, 2)))
    parts = torch.tensor([[1.0, 1, 1], [4, 4, 4]])[:, None, None]
    weights = torch.tensor([[1.0, 2, 3]])
    out = blend(parts, tiles, weights)[0, 0, 0]
    torch.testing.assert_close(out, torch.tensor([1, 1, (3 * 1 + 1 * 4) / 4, 4, 4]))
    torch.testing.assert_close(blend(parts, tiles)[0, 0, 0], torch.tensor([1, 1, 2.5, 4, 4]))


def test_slices_do_not_mix() -> None:
    tiles = tiling((9, 7), (4, 4), 0.5)
    image = torch.stack([torch.full((1, 9, 7), float(k)) for k in range(3)])
    parts = cut(image, tiles)
    assert parts[: len(tiles.corners)].unique().tolist() == [0]
    torch.testing.assert_close(blend(parts, tiles), image)


def test_small_slices_are_padded_with_their_own_background() -> None:
    image = torch.ones(1, 2, 2, 3)
    tiles = tiling((2, 3), (4, 5))
    parts = cut(image, tiles, [-1.0, 7.0])
    assert parts.shape == (1, 2, 4, 5)
    assert parts[0, 0, 2:].unique().tolist() == [-1] and parts[0, 1, :, 3:].unique().tolist() == [7]
    assert (parts[0, :, :2, :3] == 1).all()
    assert blend(parts, tiles).shape == (1, 2, 2, 3)


def test_hinet_tiles_are_the_papers_four() -> None:
    tiles = hinet_tiles()
    assert tiles.corners == ((0, 0), (0, 52), (32, 0), (32, 52))
    assert tiles == tiling((160, 180), (128, 128), 0.5)
    counts = torch.zeros(160, 180)
    for top, left in tiles.corners:
        counts[top : top + 128, left : left + 128] += 1
    assert counts[0, 0] == 1 and counts[80, 0] == 2 and counts[80, 90] == 4 and counts.min() == 1
    # overlapped regions are averaged, evenly
    parts = torch.arange(4.0)[:, None, None, None].expand(4, 1, 128, 128)
    out = blend(parts, tiles)[0, 0]
    assert out[80, 90] == pytest.approx(1.5) and out[0, 90] == pytest.approx(0.5) and out[159, 179] == 3


@pytest.mark.parametrize("size", [(100, 180), (160, 300)])
def test_hinet_tiles_refuse_what_four_corners_do_not_cover(size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="cannot cover"):
        hinet_tiles(size)


@pytest.mark.parametrize("kind", WINDOWS)
def test_windows_are_positive_symmetric_and_highest_in_the_middle(kind: str) -> None:
    weights = window((12, 7), kind)
    assert weights.shape == (12, 7) and weights.dtype == torch.float32 and (weights > 0).all()
    torch.testing.assert_close(weights, weights.flip(0, 1))
    assert weights[6, 3] == weights.max()
    assert (weights[0, 0] < weights[6, 3]) == (kind != "uniform")


def test_helpers() -> None:
    assert next_multiple((149, 165), 8) == (152, 168)
    assert next_multiple((152, 168), 8) == (152, 168)
    assert next_multiple((5, 7), 1) == (5, 7)
    image = torch.ones(1, 1, 2, 2)
    assert pad_far(image, (2, 2)) is image
    assert pad_far(image, (3, 4), -1.0).sum() == 4 - 8


def test_bad_calls_are_refused() -> None:
    for overlap in (-0.1, 1.0):
        with pytest.raises(UsageError, match="overlap"):
            positions(10, 4, overlap)
    with pytest.raises(UsageError, match="at least 1"):
        positions(10, 0, 0.5)
    with pytest.raises(UsageError, match="did you mean linear"):
        window((4, 4), "lineer")
    with pytest.raises(UsageError, match="do not fit tiles"):
        cut(torch.ones(1, 1, 5, 5), tiling((6, 5), (4, 4)))
