"""Orientation, mask, crop and the whole preparation of a case, and the way back onto the files' grid."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from nibabel.orientations import aff2axcodes, axcodes2ornt, inv_ornt_aff

from helpers import blob_brain, write_case
from synthmr.case import Case, Volume
from synthmr.config import PrepareConfig
from synthmr.errors import DataError, UsageError
from synthmr.prepare import crop, normalize, orient
from synthmr.prepare.case import find_step, prepare_case, prepare_images, restore, uncrop
from synthmr.prepare.mask import (
    MIXED_NOTICE,
    OTSU_NOTICE,
    background_value,
    brain_mask,
    clean,
    filled,
    is_stripped,
    otsu_threshold,
)

SHAPE = (12, 14, 10)
#: all 48 ways to store axes: 6 orders, 8 directions
CODES = [
    tuple(pair[flip] for pair, flip in zip(order, flips, strict=True))
    for order in itertools.permutations(("LR", "PA", "IS"))
    for flips in itertools.product((0, 1), repeat=3)
]


def brain(seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    return blob_brain(shape, seed)


def stored_as(array: np.ndarray, codes: tuple[str, ...], spacing: float = 1.0) -> Volume:
    """An RAS array as a file with other axes would hold it, in the same world."""
    ras = np.diag([spacing, spacing, spacing, 1.0])
    ras[:3, 3] = (-20, 5, 40)
    order = [next(axis for axis, pair in enumerate(("LR", "PA", "IS")) if code in pair) for code in codes]
    flips = [code in "LPI" for code in codes]
    moved = np.transpose(array, order)
    for axis, flip in enumerate(flips):
        moved = np.flip(moved, axis) if flip else moved
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    affine[:3, 3] = ras[:3, 3]
    for column, (axis, flip) in enumerate(zip(order, flips, strict=True)):
        affine[axis, column] = -spacing if flip else spacing
        affine[axis, 3] += (array.shape[axis] - 1) * spacing if flip else 0
    assert aff2axcodes(affine) == codes
    return Volume(np.ascontiguousarray(moved), affine)


def world(affine: np.ndarray, voxel: tuple[int, ...]) -> np.ndarray:
    return np.asarray(affine @ np.asarray([*voxel, 1]))[:3]


@pytest.mark.parametrize("codes", CODES, ids="".join)
def test_orient_turns_every_axis_order_into_ras_and_back(codes: tuple[str, ...]) -> None:
    array = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    volume = stored_as(array, codes)
    turn = json.loads(json.dumps(orient.fit(volume.shape, volume.affine)))
    ras = orient.apply(volume.array, turn)
    assert np.array_equal(ras, array)
    affine = orient.apply_affine(volume.affine, turn)
    assert aff2axcodes(affine) == ("R", "A", "S")
    assert np.allclose(affine[:3, 3], (-20, 5, 40))  # the world does not move
    assert np.array_equal(orient.invert(ras, turn), volume.array)
    if codes != ("R", "A", "S"):
        assert volume.array.shape != array.shape or not np.array_equal(volume.array, array)


def test_orient_agrees_with_nibabel_on_an_oblique_grid() -> None:
    angle = np.deg2rad(25)
    turn3 = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn3 @ np.diag([-0.9, -1.1, 2.0])
    affine[:3, 3] = (30, -12, 7)
    turn = orient.fit(SHAPE, affine)
    expected = affine @ inv_ornt_aff(axcodes2ornt(("L", "P", "S")), SHAPE)
    assert np.allclose(orient.apply_affine(affine, turn), expected)
    index = np.zeros(SHAPE)
    index[3, 5, 7] = 1
    there = tuple(int(found[0]) for found in np.nonzero(orient.apply(index, turn)))
    assert np.allclose(world(orient.apply_affine(affine, turn), there), world(affine, (3, 5, 7)))


@pytest.mark.parametrize(
    "codes", [("L", "P", "S"), ("L", "A", "S"), ("S", "L", "P"), ("A", "S", "R"), ("P", "I", "L")], ids="".join
)
def test_prepare_is_the_same_in_every_orientation_and_restore_is_its_inverse(codes: tuple[str, ...]) -> None:
    array, labels = brain(), (brain() > 100).astype(np.int16) * 3
    plain = prepare_images({"T1w": stored_as(array, ("R", "A", "S"))}, PrepareConfig(margin=0))
    volume, segmentation = stored_as(array, codes), stored_as(labels, codes)
    prepared = prepare_images({"T1w": volume}, PrepareConfig(margin=0), segmentation=segmentation)
    assert np.array_equal(prepared.images["T1w"], plain.images["T1w"])
    assert np.allclose(prepared.affine, plain.affine)

    mask = restore(prepared.mask, prepared)
    assert mask.dtype == bool and np.array_equal(mask, volume.array > 0)
    scanner = normalize.invert(prepared.images["T1w"], prepared.normalizers["T1w"])
    back = restore(scanner, json.loads(json.dumps(prepared.history)), fill=-7)
    high = prepared.normalizers["T1w"]["high"]
    assert np.allclose(back[mask], np.minimum(volume.array[mask], high), rtol=1e-5)
    assert back.flags.c_contiguous
    box = restore(np.ones(prepared.mask.shape, np.uint8), prepared)
    assert (back[box == 0] == -7).all() and 0 < box.sum() < box.size
    assert prepared.segmentation is not None
    assert np.array_equal(restore(prepared.segmentation, prepared), segmentation.array)


def test_restore_needs_the_steps() -> None:
    with pytest.raises(DataError, match="no step 'crop'"):
        uncrop(np.zeros((2, 2, 2)), [{"step": "orient"}])
    with pytest.raises(DataError, match="no step 'orient'"):
        restore(np.zeros((2, 2, 2)), [crop.fit(np.ones((2, 2, 2), bool), 0)])


# --- crop


@pytest.mark.parametrize(
    ("margin", "start", "stop"),
    [(0, [3, 0, 4], [7, 2, 8]), (2, [1, 0, 2], [9, 4, 8]), (5, [0, 0, 0], [10, 7, 8]), (99, [0, 0, 0], [10, 9, 8])],
)
def test_crop_margins_stop_at_the_border(margin: int, start: list[int], stop: list[int]) -> None:
    mask = np.zeros((10, 9, 8), bool)
    mask[3, 0, 4] = mask[6, 1, 7] = True  # touches the first row and the last slice
    params = crop.fit(mask, margin)
    assert params == {"step": "crop", "start": start, "stop": stop, "shape": [10, 9, 8]}
    array = np.arange(mask.size, dtype=np.float32).reshape(mask.shape)
    small = crop.apply(array, params)
    assert small.shape == tuple(b - a for a, b in zip(start, stop, strict=True))
    back = crop.invert(small, params, fill=-1)
    inside = np.zeros(mask.shape, bool)
    inside[crop.box(params)] = True
    assert np.array_equal(back[inside], array[inside]) and (back[~inside] == -1).all()
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[0, 1] = 0.5  # oblique
    assert np.allclose(world(crop.apply_affine(affine, params), (0, 0, 0)), world(affine, tuple(start)))
    assert affine[0, 3] == 0  # the argument is not changed


# --- mask


def test_a_mask_file_wins_and_is_thresholded_above_zero() -> None:
    array = brain()
    given = np.zeros(SHAPE)
    given[4:7, 4:7, 4:7] = 0.25
    given[0, 0, 0] = -1
    for mode in ("auto", "file"):
        mask, used, notice = brain_mask({"T1w": array}, given, mode)
        assert (used, notice) == ("file", "")
        assert np.array_equal(mask, given > 0) and mask.sum() == 27
    mask, used, _ = brain_mask({"T1w": array}, given, "nonzero")
    assert used == "nonzero" and np.array_equal(mask, array > 0)


def test_nonzero_is_the_union_with_holes_filled_and_islands_dropped() -> None:
    first, second = np.zeros((20, 20, 20)), np.zeros((20, 20, 20))
    first[3:10, 3:15, 3:15] = 50
    second[10:15, 3:15, 3:15] = 80
    expected = (first + second) > 0
    first[6, 6, 6] = 0  # a hole in the brain
    second[18, 18, 18] = 5  # a stray voxel: below 1 % of 1728
    mask, _, _ = brain_mask({"T1w": first, "T2w": second}, None, "nonzero")
    assert np.array_equal(mask, expected)
    both = expected.copy()
    both[17:19, 1:6, 1:6] = True  # 50 voxels are no island
    assert np.array_equal(clean(both), both)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.98, 1.0])
def test_holes_are_filled_as_scipy_fills_them(share: float) -> None:
    """Those that open by a corner alone are holes; those that reach the edge of the volume are none."""
    from scipy import ndimage

    for seed, shape in enumerate([(9, 11, 7), (1, 8, 8), (12, 12, 12), (5, 1, 1)]):
        mask = np.random.default_rng(seed).random(shape) < share
        for each in (mask, np.asfortranarray(mask), ndimage.binary_dilation(mask)):
            np.testing.assert_array_equal(filled(each), ndimage.binary_fill_holes(each))
            assert filled(each).dtype == bool


def test_nonzero_where_the_background_is_not_zero() -> None:
    array = np.where(brain() > 0, brain(), -1024).astype(np.float32)
    assert background_value(array) == -1024
    mask, mode, _ = brain_mask({"T1w": array}, None, "auto")
    assert mode == "nonzero" and np.array_equal(mask, brain() > 0)
    array[0, 0, 0] = 3
    assert np.isnan(background_value(array))


def head(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A head as acquired (noise in the air) and its true outline."""
    shape = (24, 26, 22)
    array = blob_brain(shape, seed)
    rng = np.random.default_rng(seed + 50)
    noise = np.abs(rng.normal(0, 4, shape)).astype(np.float32)
    return np.where(array > 0, array, noise), array > 0


def volumes_for_otsu() -> list[np.ndarray]:
    """Two classes of unlike size and noise, as whole numbers too; a head in air; an exponential; a single bright voxel."""
    rng = np.random.default_rng(5)
    two = np.where(rng.random((20, 24, 16)) < 0.2, rng.normal(300, 40, (20, 24, 16)), rng.normal(80, 15, (20, 24, 16)))
    head = np.abs(rng.normal(0, 12, (20, 24, 16)))
    head[4:16, 5:20, 3:13] += rng.gamma(9, 40, (12, 15, 10))
    lone = np.zeros((20, 24, 16))
    lone[3, 3, 3] = 1
    return [two, two.astype(np.float32), np.rint(two), head, np.sqrt(head).astype(np.float32), rng.exponential(5, (9, 9, 9)), lone]


@pytest.mark.parametrize("index", range(7))
def test_otsus_threshold_is_scikit_images_to_one_bin(index: int) -> None:
    from skimage.filters import threshold_otsu

    volume = volumes_for_otsu()[index]
    step = float(np.ptp(volume)) / 256
    assert otsu_threshold(volume) == pytest.approx(float(threshold_otsu(volume)), abs=step)


def test_otsus_threshold_parts_the_classes_as_no_other_bin_does() -> None:
    """Against the definition, over the thresholds of all bins; any value between two spikes parts them, the first is taken."""
    for volume in volumes_for_otsu()[:4]:
        values = volume.ravel().astype(np.float64)

        def between(threshold: float, values: np.ndarray = values) -> float:
            low, high = values[values <= threshold], values[values > threshold]
            return float(low.size * high.size * (low.mean() - high.mean()) ** 2)

        edges = np.linspace(values.min(), values.max(), 257)[1:-1]
        found = otsu_threshold(volume)
        near = edges[np.abs(edges - found) < 0.51 * np.ptp(values) / 256]
        assert max(between(edge) for edge in near) > 0.999 * max(between(edge) for edge in edges)
    assert otsu_threshold(np.array([0.0] * 9 + [1.0])) == pytest.approx(0.5 / 256)
    assert otsu_threshold(np.full((3, 3), 7.5)) == 7.5


def test_auto_takes_otsu_with_a_notice_where_nothing_is_stripped() -> None:
    array, outline = head()
    assert not is_stripped(array)
    mask, mode, notice = brain_mask({"T1w": array}, None, "auto")
    assert (mode, notice) == ("otsu", OTSU_NOTICE)
    dice = 2 * (mask & outline).sum() / (mask.sum() + outline.sum())
    assert dice > 0.97
    explicit, mode, notice = brain_mask({"T1w": brain()}, None, "otsu")
    assert (mode, notice) == ("otsu", OTSU_NOTICE) and explicit.any()


def test_auto_on_a_mixture_uses_the_stripped_contrasts_and_says_so() -> None:
    array, outline = head()
    stripped = np.where(outline, head(1)[0], 0)
    mask, mode, notice = brain_mask({"T1w": array, "T2w": stripped}, None, "auto")
    assert mode == "nonzero" and notice == MIXED_NOTICE.format(stripped="T2w", whole="T1w")
    assert np.array_equal(mask, outline)


def test_negative_values_from_resampling_stay_stripped() -> None:
    array = brain()
    edge = (array > 0) & (np.random.default_rng(3).random(SHAPE) < 0.05)
    array = np.where(edge, -4, array)
    assert is_stripped(array) and background_value(array) == 0
    mask, mode, notice = brain_mask({"T1w": array}, None, "auto")
    assert (mode, notice) == ("nonzero", "")
    assert np.array_equal(mask, brain() > 0)
    prepared = prepare_images({"T1w": Volume(array, np.eye(4))}, PrepareConfig())
    assert find_step(prepared.history, "mask")["mode"] == "nonzero"
    assert prepared.normalizers["T1w"]["low"] < 0 and prepared.images["T1w"].min() == -1


def test_too_little_background_is_not_stripped() -> None:
    full = np.full((10, 10, 10), 100.0)
    full[0] = full[-1] = 0  # 20 % background, the corners agree
    assert is_stripped(full)
    full[0, 5, 5] = 100
    assert not is_stripped(full)
    assert not is_stripped(np.zeros((4, 4, 4)))


def test_mask_errors() -> None:
    with pytest.raises(UsageError, match=r"'nonzeros'.*did you mean nonzero"):
        brain_mask({"T1w": brain()}, None, "nonzeros")
    with pytest.raises(DataError, match=r"case sub-9 has no mask file.*prepare.mask=auto"):
        brain_mask({"T1w": brain()}, None, "file", "sub-9")
    for mode, image, given in [
        ("file", brain(), np.zeros(SHAPE)),
        ("nonzero", np.zeros(SHAPE), None),
        ("otsu", np.full(SHAPE, 9.0), None),
    ]:
        with pytest.raises(DataError, match=rf"case sub-9: the brain mask \(prepare.mask={mode}\) is empty"):
            brain_mask({"T1w": image}, given, mode, "sub-9")


# --- a whole case


def volumes(**arrays: np.ndarray) -> dict[str, Volume]:
    return {name: Volume(array, np.eye(4)) for name, array in arrays.items()}


def test_the_mask_is_made_from_the_sources_alone() -> None:
    small, large = brain(), np.zeros(SHAPE, np.float32)
    large[1:-1, 1:-1, 1:-1] = brain(2)[1:-1, 1:-1, 1:-1] + 40
    both = volumes(T1w=small, FLAIR=large)
    with_target = prepare_images(both, PrepareConfig(), targets=["FLAIR"])
    without = prepare_images(volumes(T1w=small), PrepareConfig(), targets=["FLAIR"])
    assert np.array_equal(with_target.mask, without.mask)
    assert with_target.mask.sum() == (small > 0).sum()
    assert np.array_equal(with_target.images["T1w"], without.images["T1w"])
    assert (with_target.images["FLAIR"][~with_target.mask] == -1).all()
    union = prepare_images(both, PrepareConfig())  # no roles: every contrast counts
    assert union.mask.sum() == ((small > 0) | (large > 0)).sum() > with_target.mask.sum()
    only = prepare_images(volumes(FLAIR=large), PrepareConfig(), targets=["FLAIR"])  # nothing else to take
    assert only.mask.sum() == (large > 0).sum()


@pytest.mark.parametrize("name", ["percentile", "minmax", "zscore", "mean"])
def test_images_are_normalised_inside_and_background_outside(name: str) -> None:
    array = brain()
    prepared = prepare_images(volumes(T1w=array), PrepareConfig(normalizer=name, margin=1))
    params = prepared.normalizers["T1w"]
    assert params == normalize.fit(name, array[array > 0])
    inside = crop.apply(array, find_step(prepared.history, "crop"))
    image = prepared.images["T1w"]
    assert image.dtype == np.float32 and prepared.mask.dtype == bool
    assert np.array_equal(image[prepared.mask], normalize.apply(inside, params)[prepared.mask])
    assert (image[~prepared.mask] == np.float32(normalize.background(params))).all()
    assert (~prepared.mask).any()


def test_roles_choose_the_normaliser() -> None:
    config = PrepareConfig(normalizer="minmax", source_normalizer="zscore")
    prepared = prepare_images(volumes(T1w=brain(), FLAIR=brain(1)), config, targets=["FLAIR"])
    assert {name: params["name"] for name, params in prepared.normalizers.items()} == {"T1w": "zscore", "FLAIR": "minmax"}
    same = prepare_images(volumes(T1w=brain(), FLAIR=brain(1)), PrepareConfig(normalizer="minmax"), targets=["FLAIR"])
    assert {params["name"] for params in same.normalizers.values()} == {"minmax"}


def test_history_is_json_and_in_order() -> None:
    prepared = prepare_images(volumes(T1w=brain(), T2w=brain(1)), PrepareConfig(margin=1))
    assert [step["step"] for step in prepared.history] == ["orient", "mask", "crop", "normalize", "normalize"]
    assert json.loads(json.dumps(prepared.history, allow_nan=False)) == list(prepared.history)
    mask = find_step(prepared.history, "mask")
    assert (mask["mode"], mask["notice"], mask["voxels"]) == ("nonzero", "", int((brain() > 0).sum()))
    assert [step["contrast"] for step in prepared.history[3:]] == ["T1w", "T2w"]


@pytest.mark.parametrize("odd", ["T2w", "mask", "segmentation"])
@pytest.mark.parametrize("how", ["shape", "affine"])
def test_grids_that_differ_name_case_and_file(odd: str, how: str) -> None:
    shape = (12, 14, 11) if how == "shape" else SHAPE
    affine = np.diag([1, 1, 1.2, 1]) if how == "affine" else np.eye(4)
    parts = {"T1w": Volume(brain(), np.eye(4)), "T2w": Volume(brain(1), np.eye(4))}
    other = Volume(np.ones(shape, np.float32), affine)
    extra = {odd: other} if odd != "T2w" else {}
    if odd == "T2w":
        parts["T2w"] = other
    with pytest.raises(DataError) as caught:
        prepare_images(parts, PrepareConfig(), **extra, name="sub-04")
    assert f"{odd} of case sub-04" in str(caught.value) and "T1w of case sub-04" in str(caught.value)


def test_a_constant_image_in_the_brain_names_case_and_contrast() -> None:
    flat = np.where(brain() > 0, 5, 0).astype(np.float32)
    with pytest.raises(DataError, match=r"FLAIR of case sub-02: the image is constant inside the brain \(every voxel is 5\)"):
        prepare_images(volumes(T1w=brain(), FLAIR=flat), PrepareConfig(), targets=["FLAIR"], name="sub-02")


def test_no_image_and_unknown_normaliser() -> None:
    with pytest.raises(DataError, match="case sub-02 was given no image"):
        prepare_images({}, PrepareConfig(), name="sub-02")
    with pytest.raises(UsageError, match="did you mean percentile"):
        prepare_images(volumes(T1w=brain()), PrepareConfig(normalizer="percentil"))
    with pytest.raises(UsageError, match="needs landmarks"):
        prepare_images(volumes(T1w=brain()), PrepareConfig(normalizer="nyul"))


def test_prepare_case_reads_files(tmp_path: Path) -> None:
    given = np.zeros(SHAPE)
    given[3:8, 3:9, 3:7] = 1
    labels = np.where(brain() > 0, 1035, 0)  # a FreeSurfer label: more than a byte
    paths = write_case(tmp_path, {"T1w": brain(), "FLAIR": brain(1), "mask": given, "seg": labels})
    case = Case("a", "a", {"T1w": paths["T1w"], "FLAIR": paths["FLAIR"]}, paths["mask"], paths["seg"])
    prepared = prepare_case(case, ["T1w", "FLAIR"], PrepareConfig(margin=0), ["FLAIR"])
    assert prepared.name == "a" and prepared.mask.shape == (5, 6, 4) and prepared.mask.all()
    assert prepared.segmentation is not None and np.array_equal(prepared.segmentation, labels[3:8, 3:9, 3:7])
    assert prepared.affine[:3, 3].tolist() == [3, 3, 3]
    in_memory = prepare_images(
        volumes(T1w=brain(), FLAIR=brain(1)), PrepareConfig(margin=0), ["FLAIR"], mask=Volume(given, np.eye(4))
    )
    assert np.array_equal(prepared.images["FLAIR"], in_memory.images["FLAIR"])
    with pytest.raises(DataError, match="case a has no T2w"):
        prepare_case(case, ["T1w", "T2w"], PrepareConfig())
