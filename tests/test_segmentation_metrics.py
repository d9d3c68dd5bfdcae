"""Tumour scores against closed forms, brute force over all pairs of surface voxels, and MONAI."""

from __future__ import annotations

import itertools
import math
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from synthmr.errors import DataError, UsageError
from synthmr.evaluate.registry import format_score
from synthmr.evaluate.scores import Score, read_scores, summarise, write_scores
from synthmr.evaluate.segmentation import (
    METRICS,
    PROTOCOL,
    assd,
    dice,
    hd95,
    keep_largest_tumour,
    largest_component,
    score_segmentation,
    segmentation_rows,
    summarise_assd,
    surface_distances,
)
from synthmr.labels import REGIONS, convention_of, region, to_brats, to_classes

ISO = (1.0, 1.0, 1.0)


def box(shape: tuple[int, int, int], *sides: tuple[int, int]) -> np.ndarray:
    """A bool volume, True in a cuboid."""
    volume = np.zeros(shape, bool)
    volume[tuple(slice(*side) for side in sides)] = True
    return volume


def ball(shape: tuple[int, ...], centre: tuple[float, ...], radius: float, spacing: tuple[float, ...] = ISO) -> np.ndarray:
    """A bool volume, True within ``radius`` mm of ``centre`` (mm)."""
    axes = np.meshgrid(*(np.arange(size) * step for size, step in zip(shape, spacing, strict=True)), indexing="ij", sparse=True)
    return np.asarray(sum((axis - middle) ** 2 for axis, middle in zip(axes, centre, strict=True)) <= radius**2)


def random_classes(seed: int, shape: tuple[int, int, int] = (7, 8, 6), filled: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.integers(1, 4, shape) * (rng.random(shape) < filled)).astype(np.int8)


def brute_force(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...]) -> tuple[float, float]:
    """ASSD and HD95 by loops: neighbours looked up one at a time, all pairs of surface voxels."""

    def surface(mask: np.ndarray) -> np.ndarray:
        found = []
        for index in itertools.product(*(range(size) for size in mask.shape)):
            faces = [tuple(np.add(index, step)) for step in (*np.eye(3, dtype=int), *-np.eye(3, dtype=int))]
            inside = [all(0 <= i < size for i, size in zip(face, mask.shape, strict=True)) and bool(mask[face]) for face in faces]
            if mask[index] and not all(inside):
                found.append(index)
        return np.array(found, float) * spacing

    first, second = surface(a), surface(b)
    pairs = np.sqrt(((first[:, None] - second[None]) ** 2).sum(-1))
    there, back = pairs.min(1), pairs.min(0)
    mean = (there.sum() + back.sum()) / (len(there) + len(back))
    return mean, max(np.percentile(there, 95), np.percentile(back, 95))


# ---------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ("labels", "classes", "file"),
    [
        ([0, 1, 2, 4], [0, 1, 2, 3], "seg.nii.gz"),  # no name is needed
        ([0, 1, 2, 3, 4], [0, 1, 2, 1, 3], "VSD.Brain_3more.XX.O.OT.54515.nii"),
        ([0, 1, 2, 3], [0, 1, 2, 3], "BraTS-GLI-00000-000-seg.nii.gz"),
        ([0, 2, 1], [0, 2, 1], "Brats18_CBICA_AAB_1_seg.nii.gz"),
        ([4, 3], [3, 1], "VSD.Brain_3more.XX.O.OT.54515.nii"),
        ([0, 1, 2, 3, 4], [0, 3, 1, 1, 2], "BraTS-PED-00002-000-seg.nii.gz"),
        ([0, 1, 2, 3], [0, 2, 1, 3], "BRATS_001.nii.gz"),
    ],
)
def test_every_years_labels_become_the_same_classes(labels: list[int], classes: list[int], file: str) -> None:
    convention = convention_of(labels, [file])
    for dtype in (np.uint8, np.int16, np.int64, np.float32, np.float64):
        found = to_classes(np.array(labels, dtype).reshape(1, -1, 1), convention)
        assert found.dtype == np.int8 and found.shape == (1, len(labels), 1)
        assert found.ravel().tolist() == classes
    for kind in (torch.uint8, torch.int64, torch.float32):
        tensor = to_classes(torch.tensor(labels, dtype=kind)[None], convention)
        assert tensor.dtype == torch.int64 and tensor.tolist() == [classes]


def test_a_named_convention_settles_what_the_labels_alone_cannot() -> None:
    three = np.array([0, 2, 3])
    assert to_classes(three, "brats2023").tolist() == [0, 2, 3]
    assert to_classes(three, "brats2015").tolist() == [0, 2, 1]
    five = np.arange(5)
    assert to_classes(np.array([0, 1, 2, 4])).tolist() == [0, 1, 2, 3]
    for alone in (three, five):
        with pytest.raises(DataError, match=r"could be .*brats2015"):
            to_classes(alone)
    assert to_classes(five, "brats-post-treatment").tolist() == [0, 1, 2, 3, 0]


def test_classes_and_labels_round_trip() -> None:
    classes = random_classes(3)
    assert set(np.unique(classes)) == {0, 1, 2, 3}
    labels = to_brats(classes)
    assert labels.dtype == np.int8 and set(np.unique(labels)) == {0, 1, 2, 4}
    np.testing.assert_array_equal(to_classes(labels), classes)
    tensor = torch.from_numpy(classes)
    assert torch.equal(to_brats(tensor), torch.from_numpy(labels).long())
    assert torch.equal(to_classes(to_brats(tensor)), tensor.long())
    assert to_classes(np.zeros((0, 3), np.uint8), "brats2017").shape == (0, 3)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (np.array([0, 1, 2000]), "no convention has labels 1, 2000"),
        (np.array([-1, 0, 4]), "label -1"),
        (np.arange(20), "no convention has labels 1, 2, 3, 4, 5, 6, 7, 8 and 11 more"),
        (np.array([0.0, 0.5]), "nearest neighbour"),
        (np.array([0.0, np.nan]), "nearest neighbour"),
        (np.array([0.0, np.inf]), "nearest neighbour"),
        (torch.tensor([0.0, float("inf")]), "nearest neighbour"),
        (torch.tensor([0, 2, 7]), "labels 2, 7 could be"),
        (np.array([True, False]), "yes/no mask"),
        (torch.tensor([True]), "yes/no mask"),
        (np.array([1j]), "complex128"),
        (np.array(["1"]), "whole numbers"),
    ],
)
def test_labels_that_are_none_are_refused_in_one_line(labels: np.ndarray | torch.Tensor, told: str) -> None:
    with pytest.raises(DataError) as caught:
        to_classes(labels)
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_labels_outside_a_named_convention_and_unknown_names_are_refused() -> None:
    with pytest.raises(DataError, match=r"label 3, and brats2017 has 0, 1, 2, 4;"):
        to_classes(np.array([0, 3]), "brats2017")
    with pytest.raises(DataError, match=r"label 4, and brats2023 has 0, 1, 2, 3;"):
        to_classes(torch.tensor([0, 4]), "brats2023")
    with pytest.raises(UsageError, match=r"unknown label convention 'brats-2023': did you mean brats2023\?"):
        to_classes(np.array([0]), "brats-2023")
    with pytest.raises(DataError, match="4 is no tumour class"):
        to_brats(np.array([0, 4]))
    with pytest.raises(UsageError, match=r"unknown tumour region 'TCC': did you mean TC\?"):
        region(np.array([0]), "TCC")


def test_regions_are_the_papers_unions() -> None:
    classes = np.arange(4, dtype=np.int8)
    truth = {"WT": [False, True, True, True], "TC": [False, True, False, True], "ET": [False, False, False, True]}
    assert list(REGIONS) == list(truth)
    for name, inside in truth.items():
        assert region(classes, name).tolist() == inside and region(classes, name).dtype == np.bool_
        assert region(torch.from_numpy(classes), name).tolist() == inside


# ---------------------------------------------------------------- overlap and distances


@pytest.mark.parametrize("shift", [0, 1, 4, 9, 10, 15])
def test_dice_of_shifted_cubes_is_the_share_left(shift: int) -> None:
    shape = (30, 12, 12)
    a, b = box(shape, (1, 11), (1, 11), (1, 11)), box(shape, (1 + shift, 11 + shift), (1, 11), (1, 11))
    assert dice(a, b) == dice(b, a) == pytest.approx(max(0, 10 - shift) / 10)


def test_distances_of_parallel_plates_are_their_gap_in_mm() -> None:
    """One voxel thick, so all of a plate is surface; the nearest voxel of the other lies straight across."""
    shape = (9, 10, 12)
    for axis, step in enumerate((0.5, 2.0, 3.0)):
        sides = [(0, size) for size in shape]
        other = list(sides)
        sides[axis], other[axis] = (1, 2), (5, 6)
        a, b = box(shape, *sides), box(shape, *other)
        assert assd(a, b, (0.5, 2.0, 3.0)) == pytest.approx(4 * step)
        assert hd95(a, b, (0.5, 2.0, 3.0)) == pytest.approx(4 * step)


def test_distances_of_shifted_cubes_have_a_closed_form() -> None:
    """Cubes of side n shifted by k < n along one axis.

    The far face and, of the rings beside it, what sticks out is nearest straight along the shift or straight inwards.
    For k = 1 in steps: a voxel sticks out only on the far face (n^2 voxels at distance 1). What lies deep in the other
    cube is 1 from its surface: the other cube's near face is 1 past ours, so the inner (n - 2)^2 of our face that it
    covers come from the other direction. Both directions are mirror images.
    """
    n = 6
    shape = (12, 10, 10)
    a, b = box(shape, (2, 2 + n), (2, 2 + n), (2, 2 + n)), box(shape, (3, 3 + n), (2, 2 + n), (2, 2 + n))
    surface = n**3 - (n - 2) ** 3
    expected = (n**2 + (n - 2) ** 2) / surface
    assert assd(a, b, ISO) == pytest.approx(expected)
    assert assd(a, b, (0.25, 0.25, 0.25)) == pytest.approx(expected / 4)
    # everything that is off is off along the shift as long as that is no longer than the way out sideways
    assert assd(a, b, (0.5, 1.0, 1.0)) == pytest.approx(expected / 2)


@pytest.mark.parametrize("spacing", [ISO, (1.0, 1.0, 2.0), (0.5, 1.0, 0.8)])
def test_concentric_spheres_are_apart_by_the_difference_of_their_radii(spacing: tuple[float, float, float]) -> None:
    shape = tuple(math.ceil(44 / step) for step in spacing)
    a, b = ball(shape, (22, 22, 22), 18, spacing), ball(shape, (22, 22, 22), 12, spacing)
    assert assd(a, b, spacing) == pytest.approx(6, abs=0.35)
    assert 6 - 0.4 < hd95(a, b, spacing) < 6 + max(spacing)
    assert dice(a, b) == pytest.approx(2 * 12**3 / (12**3 + 18**3), rel=0.03)


def test_the_surfaces_of_shifted_spheres_are_as_far_apart_as_the_integral_says() -> None:
    """A point of one sphere at angle t to the shift k is |sqrt(r^2 + k^2 + 2 r k cos t) - r| from the other sphere."""
    radius, shift = 20.0, 6.0
    a, b = ball((56, 48, 48), (24, 24, 24), radius), ball((56, 48, 48), (24 + shift, 24, 24), radius)
    cosine = np.linspace(-1, 1, 20001)
    expected = np.abs(np.sqrt(radius**2 + shift**2 + 2 * radius * shift * cosine) - radius).mean()
    assert assd(a, b, ISO) == pytest.approx(expected, abs=0.15)
    assert assd(a, b, (3.0, 3.0, 3.0)) == pytest.approx(3 * assd(a, b, ISO))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("spacing", [ISO, (0.7, 1.1, 3.0)])
def test_distances_equal_brute_force(seed: int, spacing: tuple[float, float, float]) -> None:
    # dense enough for voxels that are inside, and touching the border of the volume
    a, b = random_classes(seed, filled=0.85) > 0, random_classes(seed + 50, filled=0.4) > 0
    mean, high = brute_force(a, b, spacing)
    assert assd(a, b, spacing) == pytest.approx(mean, rel=1e-12)
    assert hd95(a, b, spacing) == pytest.approx(high, rel=1e-12)


@pytest.mark.parametrize("spacing", [ISO, (1.0, 1.0, 3.0)])
def test_distances_and_overlap_equal_monai(spacing: tuple[float, float, float]) -> None:
    a, b = ball((30, 32, 28), (13, 14, 12), 10), ball((30, 32, 28), (4, 15, 13), 8)
    b |= box(b.shape, (20, 24), (20, 30), (24, 28))  # a false island at the border
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.metrics import compute_average_surface_distance, compute_dice, compute_hausdorff_distance

        pair = [torch.from_numpy(mask[None, None]) for mask in (a, b)]
        mean = compute_average_surface_distance(*pair, include_background=True, symmetric=True, spacing=spacing).item()
        high = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=spacing).item()
        overlap = compute_dice(*pair, include_background=True).item()
    assert assd(a, b, spacing) == pytest.approx(mean, rel=1e-6) and mean > 1
    assert hd95(a, b, spacing) == pytest.approx(high, rel=1e-6)
    assert dice(a, b) == pytest.approx(overlap, rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), pads=st.tuples(*[st.integers(0, 3)] * 6), flip=st.integers(0, 2))
def test_scores_do_not_move_with_swap_padding_or_flips(seed: int, pads: tuple[int, ...], flip: int) -> None:
    a, b = random_classes(seed), random_classes(seed + 1)
    spacing = (1.0, 0.8, 2.5)
    scores = score_segmentation(a, b, spacing)
    assert score_segmentation(b, a, spacing) == pytest.approx(scores, rel=1e-12)
    width = [pads[:2], pads[2:4], pads[4:]]
    assert score_segmentation(np.pad(a, width), np.pad(b, width), spacing) == pytest.approx(scores, rel=1e-12)
    assert score_segmentation(np.flip(a, flip), np.flip(b, flip), spacing) == pytest.approx(scores, rel=1e-12)
    order = (2, 0, 1)
    turned = score_segmentation(a.transpose(order), b.transpose(order), [spacing[axis] for axis in order])
    assert turned == pytest.approx(scores, rel=1e-12)


def test_empty_masks_have_the_stated_values() -> None:
    nothing, something = np.zeros((5, 6, 7), bool), box((5, 6, 7), (1, 3), (1, 3), (1, 3))
    for a, b, overlap, distance in (
        (nothing, nothing, 1.0, 0.0),
        (nothing, something, 0.0, math.inf),
        (something, nothing, 0.0, math.inf),
        (something, something, 1.0, 0.0),
    ):
        assert (dice(a, b), assd(a, b, ISO), hd95(a, b, ISO)) == (overlap, distance, distance)
    first, second = surface_distances(nothing, something, ISO)
    assert first.shape == (0,) and second.shape == (8,) and np.isinf(second).all()


def test_one_far_voxel_moves_the_mean_and_not_the_percentile() -> None:
    a = ball((40, 24, 24), (12, 12, 12), 9)
    b = a.copy()
    b[39, 12, 12] = True
    assert hd95(a, b, ISO) == 0 < assd(a, b, ISO) < 0.05
    # two sides of very different sizes: the larger percentile counts, whichever argument it comes from
    c = a | box(a.shape, (30, 38), (4, 20), (4, 20))
    assert hd95(a, c, ISO) == hd95(c, a, ISO) > 15


# ---------------------------------------------------------------- components


def test_the_largest_component_is_kept_and_corners_connect() -> None:
    mask = box((12, 12, 12), (0, 3), (0, 3), (0, 3))  # 27, and one more over its corner
    mask[3, 3, 3] = True
    mask |= box(mask.shape, (6, 9), (6, 9), (6, 9))  # 27
    kept = largest_component(mask)
    np.testing.assert_array_equal(kept, mask & (np.indices(mask.shape).sum(0) < 10))
    assert kept.sum() == 28
    mask[5, 5, 5] = mask[4, 4, 4] = True  # the bridge makes it one
    assert largest_component(mask).sum() == mask.sum() == 57


def test_of_two_equal_blobs_the_first_is_kept() -> None:
    first, second = box((20, 9, 9), (2, 5), (4, 7), (1, 4)), box((20, 9, 9), (12, 15), (1, 4), (5, 8))
    np.testing.assert_array_equal(largest_component(first | second), first)
    np.testing.assert_array_equal(largest_component((first | second)[::-1]), second[::-1])
    second[15, 2, 6] = True
    np.testing.assert_array_equal(largest_component(first | second), second)


def test_components_of_nothing_and_of_a_slice() -> None:
    nothing = np.zeros((4, 4, 4), bool)
    kept = largest_component(nothing)
    assert not kept.any() and kept is not nothing
    assert largest_component(np.eye(4, dtype=bool)).sum() == 4


def test_post_processing_looks_at_the_whole_tumour_only() -> None:
    classes = np.zeros((20, 10, 10), np.int8)
    classes[2:8, 2:8, 2:8] = 2
    classes[3, 3, 3] = classes[6, 6, 6] = 3  # two cores in one tumour: both stay
    classes[14:17, 3:6, 3:6] = 3  # more enhancing voxels than those, but not connected to the tumour
    given_array = classes.copy()
    kept = keep_largest_tumour(classes)
    expected = classes.copy()
    expected[10:] = 0
    np.testing.assert_array_equal(kept, expected)
    np.testing.assert_array_equal(classes, given_array)
    assert kept.dtype == np.int8
    np.testing.assert_array_equal(keep_largest_tumour(kept), kept)
    with pytest.raises(DataError, match="to_classes"):
        keep_largest_tumour(to_brats(classes))


# ---------------------------------------------------------------- scores, tables, summaries


def test_the_score_of_each_region_is_that_of_its_mask() -> None:
    predicted, truth = random_classes(11), random_classes(12)
    scores = score_segmentation(predicted, truth, (1, 1, 2))
    assert tuple(scores) == METRICS
    assert set(METRICS) == {f"{m}_{r}" for m in ("dice", "assd", "hd95") for r in ("WT", "TC", "ET")}
    masks = {"WT": (predicted > 0, truth > 0), "TC": (predicted % 2 == 1, truth % 2 == 1), "ET": (predicted == 3, truth == 3)}
    for name, (a, b) in masks.items():
        assert scores[f"dice_{name}"] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
        mean, high = brute_force(a, b, (1, 1, 2))
        assert scores[f"assd_{name}"] == pytest.approx(mean) and scores[f"hd95_{name}"] == pytest.approx(high)


def test_scores_are_never_nan() -> None:
    nothing = np.zeros((6, 6, 6), np.int8)
    edema = nothing.copy()
    edema[1:4, 1:4, 1:4] = 2
    assert score_segmentation(nothing, nothing, ISO) == {
        name: 1.0 if name.startswith("dice") else 0.0 for name in METRICS
    }  # nothing found where there is nothing
    missed = score_segmentation(nothing, edema, ISO)
    assert (missed["dice_WT"], missed["assd_WT"], missed["hd95_WT"]) == (0.0, math.inf, math.inf)
    assert (missed["dice_ET"], missed["assd_ET"], missed["hd95_ET"]) == (1.0, 0.0, 0.0)
    for scores in (missed, score_segmentation(edema, nothing, ISO)):
        assert not any(math.isnan(value) for value in scores.values())


def test_bad_input_is_refused() -> None:
    good = np.zeros((4, 4, 4), np.int8)
    mask = good > 0
    with pytest.raises(DataError, match="differ in shape"):
        score_segmentation(good, good[:3], ISO)
    with pytest.raises(DataError, match="differ in shape"):
        assd(mask, mask[:3], ISO)
    with pytest.raises(DataError, match="4 is no tumour class, which are 0-3; put BraTS labels through to_classes"):
        score_segmentation(good, good + 4, ISO)
    for call in (lambda: dice(good, good), lambda: hd95(good, good, ISO), lambda: largest_component(good)):
        with pytest.raises(DataError, match="type int8; give a bool array"):
            call()
    for spacing in ((1, 1), (1, 1, 0), (1, 1, -2), (1, 1, math.nan), (1, 1, math.inf), 1.0):
        with pytest.raises(UsageError, match="is not 3 positive numbers"):
            score_segmentation(good, good, spacing)


def test_a_summary_keeps_infinite_distances_out_and_counts_them() -> None:
    some = summarise_assd([2.0, math.inf, 4.0, math.inf])
    assert (some.mean, some.finite, some.infinite) == (3.0, 2, 2) and some.sd == pytest.approx(math.sqrt(2))
    assert some.text == "3.00 +- 1.41 mm (2 of 4 infinite)"
    assert summarise_assd(iter([2.0, 4.0])).text == "3.00 +- 1.41 mm"
    assert summarise_assd([5]).text == "5.00 mm"
    none = summarise_assd([math.inf])
    assert none.mean == math.inf and math.isnan(none.sd) and none.text == "inf mm (1 of 1 infinite)"


@pytest.mark.parametrize(("values", "told"), [([], "no surface distance to"), ([1, math.nan], "nan is no"), ([-1.0], "-1.0 is no")])
def test_a_summary_of_no_distances_is_refused(values: list[float], told: str) -> None:
    with pytest.raises(DataError, match=told):
        summarise_assd(values)


def test_rows_go_through_the_score_table(tmp_path: Path) -> None:
    nothing, some = np.zeros((5, 5, 5), np.int8), random_classes(1, (5, 5, 5))
    rows = segmentation_rows("sub-1", "mafnet", score_segmentation(some, some, ISO))
    rows += segmentation_rows("sub-2", "mafnet", score_segmentation(nothing, some, ISO))
    assert len(rows) == 2 * len(METRICS)
    assert rows[0] == Score("sub-1", "sub-1", "mafnet", "segmentation", PROTOCOL, "brain", "dice_WT", 1.0)
    path = tmp_path / "metrics.csv"
    write_scores(path, rows)
    assert read_scores(path) == rows
    texts = {row["metric"]: row["text"] for row in summarise(rows)}
    assert texts["dice_WT"] == "0.5000 +- 0.7071" and texts["assd_WT"] == "inf mm"
    assert format_score("assd_ET", 3.8449, 1.0) == "3.84 +- 1.00 mm" and format_score("hd95_TC", 2) == "2.00 mm"
    assert format_score("dice_TC", 0.67894) == "0.6789"


def test_a_whole_brats_volume_is_scored_in_under_three_seconds() -> None:
    shape = (240, 240, 155)
    volumes = []
    for x in (120, 126):
        classes = np.zeros(shape, np.int8)
        for radius, number in ((45, 2), (30, 1), (22, 3)):
            classes[ball(shape, (x, 110, 75), radius)] = number
        volumes.append(classes)
    volumes[1][:2, :2, :2] = 2  # a false island in the corner makes the box nearly the whole volume
    start = time.process_time()
    scores = score_segmentation(*volumes, ISO)
    assert time.process_time() - start < 3
    for name, radius in (("WT", 45), ("TC", 30), ("ET", 22)):
        share = 6 / (2 * radius)  # the overlap of two balls of one radius, shifted by 6
        assert scores[f"dice_{name}"] == pytest.approx(1 - 1.5 * share + 0.5 * share**3, abs=0.003)
