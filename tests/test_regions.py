"""Regions, slice consistency, seams and false lesions on small synthetic arrays."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from synthmr.errors import DataError, UsageError
from synthmr.evaluate.regions import bright_threshold, consistency, false_lesion, region_masks, seam_score, slice_consistency
from synthmr.labels import decide, get

Volumes = tuple[np.ndarray, np.ndarray]


@pytest.fixture
def brain() -> Volumes:
    """Truth (smooth, 0.3 to 0.7) and an ellipsoid mask: ``(20, 24, 18)``."""
    from scipy import ndimage

    rng = np.random.default_rng(0)
    grid = np.indices((20, 24, 18)) - np.array([9.5, 11.5, 8.5])[:, None, None, None]
    mask = ((grid / np.array([8, 10, 7])[:, None, None, None]) ** 2).sum(axis=0) < 1
    noise = ndimage.gaussian_filter(rng.normal(size=mask.shape), 1.5)
    return 0.5 + 0.2 * noise / np.abs(noise).max(), mask


# --- regions


def cube() -> np.ndarray:
    mask = np.zeros((12, 13, 14), bool)
    mask[1:11, 1:12, 1:13] = True
    return mask


def test_brain_and_boundary_alone() -> None:
    mask = cube()
    found = region_masks(mask)
    assert list(found) == ["brain", "boundary"]
    assert (found["brain"] == mask).all() and found["brain"] is not mask
    inner = np.zeros_like(mask)
    inner[4:8, 4:9, 4:10] = True  # three voxels off each face
    assert (found["boundary"] == (mask & ~inner)).all()
    assert (region_masks(mask, boundary=1)["boundary"].sum()) == mask.sum() - 8 * 9 * 10


def test_a_coarse_grid_has_a_boundary_of_one_voxel() -> None:
    mask = np.zeros((9, 9, 9), bool)
    mask[2:7, 2:7, 2:7] = True
    shell = region_masks(mask, spacing=(4, 4, 4))["boundary"]
    assert shell.sum() == 5**3 - 3**3 and not shell[3:6, 3:6, 3:6].any()


def test_boundary_in_millimetres_and_at_the_volume_s_edge() -> None:
    mask = np.ones((8, 9, 10), bool)  # outside the volume is outside the brain
    shell = region_masks(mask, spacing=(1, 2, 4), boundary=3.5)["boundary"]
    inner = np.zeros_like(mask)
    inner[3:5, 1:8, 0:10] = True  # 3 voxels of 1 mm, 1 of 2 mm, none of 4 mm
    assert (shell == ~inner).all()
    assert region_masks(mask, boundary=100)["boundary"].all()


@pytest.mark.parametrize(
    ("label_of", "present"),
    [
        ({"necrosis": 1, "edema": 2, "enhancing": 4}, "brats2017"),
        ({"necrosis": 1, "edema": 2, "enhancing": 3}, "brats2023"),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_tumour_parts_of_brats_labels(label_of: dict[str, int], present: str, dtype: type) -> None:
    mask, labels = cube(), np.zeros((12, 13, 14), dtype)
    labels[0:6, 3:9, 3:9] = label_of["edema"]  # one layer outside the mask
    labels[2:5, 4:8, 4:8] = label_of["necrosis"]
    labels[3:4, 5:7, 5:7] = label_of["enhancing"]
    for convention in (
        ("auto", present) if present == "brats2017" else (present, decide(label_of.values(), ["BraTS-GLI-00000-000-seg"]))
    ):
        found = region_masks(mask, labels, convention=convention)
        assert list(found) == ["brain", "boundary", "lesion", "non-lesion", "WT", "TC", "ET"]
        counts = {name: int(found[name].sum()) for name in ("lesion", "WT", "TC", "ET")}
        assert counts == {"lesion": 5 * 36, "WT": 5 * 36, "TC": 3 * 16, "ET": 4}
        assert (found["lesion"] ^ found["non-lesion"] == mask).all()
        assert all(part.dtype == bool and not (part & ~mask).any() for part in found.values())
    assert "WT" not in region_masks(mask, labels, convention=None)
    # 1, 2 and 3 mean one thing in one year and another in another
    assert ("WT" in region_masks(mask, labels)) == (present == "brats2017")


def test_labels_of_no_tumour_give_no_parts() -> None:
    mask = cube()
    for label in (1, 5):  # a plain lesion mask; the phantom's stroke
        labels = np.where(np.arange(14) == 6, label, 0) * np.ones(mask.shape, np.int16)
        found = region_masks(mask, labels)
        assert list(found) == ["brain", "boundary", "lesion", "non-lesion"]
        assert list(region_masks(mask, labels > 0)) == list(found)
    one = (labels > 0).astype(np.uint8)
    assert {"WT", "TC"} <= set(region_masks(mask, one, convention="brats2017"))


def test_empty_regions_are_left_out() -> None:
    mask, labels = cube(), np.zeros((12, 13, 14), np.uint8)
    assert list(region_masks(mask, labels)) == ["brain", "boundary", "non-lesion"]
    labels[0] = 2  # outside the mask
    assert list(region_masks(mask, labels)) == ["brain", "boundary", "non-lesion"]
    labels[3] = 2
    assert list(region_masks(mask, labels)) == ["brain", "boundary", "lesion", "non-lesion"]
    assert list(region_masks(mask, labels, convention="brats2017")) == ["brain", "boundary", "lesion", "non-lesion", "WT"]
    labels[:] = 2
    assert "non-lesion" not in region_masks(mask, labels)


def test_tissues_are_those_of_the_phantom_and_healthy() -> None:
    from synthmr.data.phantom.subject import TISSUE_LABELS

    assert {name: label for label, name in get("tissue").labels.items() if label} == dict(TISSUE_LABELS)
    mask, tissue, labels = cube(), np.zeros((12, 13, 14), np.uint8), np.zeros((12, 13, 14), np.uint8)
    tissue[:4], tissue[4:8] = 1, 3
    labels[3:5, 5, 5] = 1
    found = region_masks(mask, labels, tissue)
    assert list(found) == ["brain", "boundary", "lesion", "non-lesion", "csf", "wm"]
    assert (found["csf"] == (mask & (tissue == 1) & (labels == 0))).all()
    assert found["wm"].sum() == 4 * 11 * 12 - 1
    assert region_masks(mask, None, tissue)["wm"].sum() == 4 * 11 * 12
    assert list(region_masks(mask, tissue=tissue, tissues={1: "inside", 3: "outside"}))[2:] == ["inside", "outside"]


def test_a_convention_of_ones_own_gives_its_regions_from_a_yaml_file(tmp_path: Path) -> None:
    """Labels of nobody's: 7 is the enhancing part, 9 edema, 30 what was cut out, and 12 says that there is nothing."""
    path = tmp_path / "clinic.yaml"
    path.write_text("labels: {7: enhancing, 9: edema, 12: background, 30: cavity}\n")
    mask, labels = cube(), np.zeros((12, 13, 14), np.int16)
    labels[2], labels[3], labels[4], labels[5] = 7, 9, 12, 30
    found = region_masks(mask, labels, convention=path)
    assert list(found) == ["brain", "boundary", "lesion", "non-lesion", "WT", "TC", "ET", "cavity"]
    assert (found["cavity"] == (mask & (labels == 30))).all()
    assert (found["ET"] == (mask & (labels == 7))).all() and (found["TC"] == found["ET"]).all()
    assert (found["WT"] == (mask & np.isin(labels, [7, 9]))).all()
    assert (found["lesion"] == (mask & np.isin(labels, [7, 9, 30]))).all()
    # a lesion among tissues, all in one file
    path.write_text("labels: {1: csf, 2: gm, 3: wm}\nothers: lesion\n")
    labels = np.where(labels > 0, labels, 2)
    labels[6] = 3
    found = region_masks(mask, labels, convention=str(path))
    assert list(found) == ["brain", "boundary", "lesion", "non-lesion", "gm", "wm"]
    assert (found["lesion"] == (mask & np.isin(labels, [7, 9, 12, 30]))).all()
    assert (found["wm"] == (mask & (labels == 3))).all()
    assert (region_masks(mask, None, np.where(labels > 3, 0, labels), tissues=path)["gm"] == found["gm"]).all()
    with pytest.raises(DataError, match="the segmentation holds label 8, and clinic has 0, 7, 9; name another convention"):
        path.write_text("labels: {7: enhancing, 9: edema}\n")
        region_masks(mask, np.full(mask.shape, 8), convention=path)


def test_regions_of_a_named_convention_are_those_of_the_labels() -> None:
    mask, labels = cube(), np.zeros((12, 13, 14), np.uint8)
    labels[2], labels[3] = 1, 4
    found = region_masks(mask, labels, convention="lesion")
    assert list(found) == ["brain", "boundary", "lesion", "non-lesion"]
    assert (found["lesion"] == (mask & (labels > 0))).all()
    found = region_masks(mask, labels, convention="brats-ped")
    assert (found["ET"] == (mask & (labels == 1))).all() and (found["WT"] == (mask & (labels > 0))).all() and "cyst" not in found
    found = region_masks(mask, labels, convention="brats-post-treatment")  # a cavity is no healthy brain, and no tumour
    assert (found["lesion"] == (mask & (labels > 0))).all() and (found["WT"] == (mask & (labels == 1))).all()


def test_regions_refuse() -> None:
    mask, labels = cube(), np.zeros((12, 13, 14), np.int16)
    with pytest.raises(DataError, match="mask is empty"):
        region_masks(np.zeros_like(mask))
    with pytest.raises(DataError, match="bool"):
        region_masks(mask.astype(np.uint8))
    for what, arguments in (("segmentation", (labels[1:],)), ("tissue map", (None, labels[1:]))):
        with pytest.raises(DataError, match=f"{what} .* differ in shape"):
            region_masks(mask, *arguments)
    for wrong in (labels + 0.5, labels + math.nan, labels + math.inf):
        with pytest.raises(DataError, match="no whole numbers"):
            region_masks(mask, wrong)
    with pytest.raises(DataError, match="label -1"):
        region_masks(mask, labels - 1)
    with pytest.raises(DataError, match="tissue map holds label 7, known are 1, 2, 3"):
        region_masks(mask, None, labels + 7)
    with pytest.raises(DataError, match="brats2017 has"):
        region_masks(mask, labels + 3, convention="brats2017")
    with pytest.raises(UsageError, match="did you mean brats2017"):
        region_masks(mask, labels, convention="brats2016")
    for depth in (0, -1, math.inf, math.nan):
        with pytest.raises(UsageError, match="boundary"):
            region_masks(mask, boundary=depth)
    with pytest.raises(UsageError, match="spacing"):
        region_masks(mask, spacing=(1, 1))


# --- slices


def test_a_perfect_prediction_and_an_offset_read_one(brain: Volumes) -> None:
    truth, mask = brain
    for prediction in (truth, truth + 0.25):
        found = consistency(prediction, truth, mask)
        assert list(found) == ["axial", "coronal", "sagittal"]
        for plane in found.values():
            assert plane == pytest.approx((1, 1), abs=1e-12)
    jump, stripes = slice_consistency(2 * truth, truth, mask, 2)
    assert jump == pytest.approx(2) and 1 < stripes < 1.5


def test_slice_consistency_closed_form() -> None:
    """Slices 0, 1, 2, 3 of a ramp; the prediction's third is 0.5 too bright."""
    truth = np.broadcast_to(np.arange(4.0), (5, 6, 4)).copy()
    mask = np.ones(truth.shape, bool)
    prediction = truth + np.array([0, 0, 0.5, 0])
    jump, stripes = slice_consistency(prediction, truth, mask, 2)
    assert jump == pytest.approx((1 + 1.5 + 0.5) / 3)
    assert stripes == pytest.approx(1 + np.std([0, 0.5, -0.5]))
    # weights: the last pair has half of the voxels
    mask[:, 3:, 3] = False
    steps = np.array([0, 0, 0.5, 0.5, -0.5])
    jump, stripes = slice_consistency(prediction, truth, mask, 2)
    assert jump == pytest.approx(np.mean([1, 1, 1.5, 1.5, 0.5]))
    assert stripes == pytest.approx(1 + np.std(steps))
    # what is not in the mask in both slices does not count
    mask[:, :, 2] = False
    assert slice_consistency(prediction, truth, mask, 2) == (1, 1)


def test_stripes_rise_with_jitter_and_not_with_noise_or_blur(brain: Volumes) -> None:
    from scipy import ndimage

    truth, mask = brain
    rng = np.random.default_rng(1)
    gains = rng.normal(0, 1, 18)
    values = [slice_consistency(truth * (1 + level * gains), truth, mask, 2).stripes for level in (0, 0.02, 0.05, 0.2)]
    assert values == sorted(values) and values[0] == 1 and values[1] > 1.1 and values[3] > 2
    jitter = consistency(truth * (1 + 0.1 * gains), truth, mask)
    # stripes across the axial stack are seen there, not in the other planes
    assert jitter["axial"].stripes > 3 * jitter["coronal"].stripes - 2
    assert jitter["axial"].jump > 1.5 > jitter["sagittal"].jump
    noisy = slice_consistency(truth + rng.normal(0, 0.03, truth.shape), truth, mask, 2)
    assert noisy.jump > 1.5 and noisy.stripes < 1.4
    blurred = slice_consistency(ndimage.gaussian_filter1d(truth, 2, axis=2), truth, mask, 2)
    assert blurred.jump < 0.8 and blurred.stripes < 1.3


def test_slice_consistency_is_free_of_units_axes_and_background(brain: Volumes) -> None:
    truth, mask = brain
    prediction = truth * (1 + 0.1 * np.random.default_rng(2).normal(size=18))
    expected = slice_consistency(prediction, truth, mask, 2)
    assert slice_consistency(300 * prediction + 7, 300 * truth, mask, 2) == pytest.approx(expected)
    turned = [np.moveaxis(array, 2, 0) for array in (prediction, truth, mask)]
    assert slice_consistency(*turned, 0) == pytest.approx(expected)
    flipped = [array[:, :, ::-1] for array in (prediction, truth, mask)]
    assert slice_consistency(*flipped, 2) == pytest.approx(expected)
    spoiled = np.where(mask, prediction, math.nan)
    assert slice_consistency(spoiled, np.where(mask, truth, math.inf), mask, 2) == pytest.approx(expected)


def test_slice_consistency_of_a_flat_truth() -> None:
    flat, mask = np.full((3, 3, 5), 0.4), np.ones((3, 3, 5), bool)
    assert slice_consistency(flat + 1, flat, mask, 2) == (1, 1)
    assert slice_consistency(flat + np.arange(5) ** 2, flat, mask, 2) == (math.inf, math.inf)


def test_slice_consistency_refuses(brain: Volumes) -> None:
    truth, mask = brain
    for axis in (3, -1):
        with pytest.raises(UsageError, match=f"axis={axis}"):
            slice_consistency(truth, truth, mask, axis)
    single = np.zeros_like(mask)
    single[:, :, 5] = True
    with pytest.raises(DataError, match="two neighbouring slices along axis 2"):
        slice_consistency(truth, truth, single, 2)
    with pytest.raises(DataError, match="axis 2"):
        consistency(truth[:, :, :1], truth[:, :, :1], np.ones((20, 24, 1), bool))
    with pytest.raises(DataError, match="volumes"):
        consistency(truth[0], truth[0], mask[0])


# --- seams


def test_seams_closed_form() -> None:
    """Error steps of 0.1 everywhere, and 0.4 across the border at 4."""
    truth = np.random.default_rng(3).uniform(size=(8, 5, 5))
    steps = np.full(8, 0.1)
    steps[4] = 0.4
    prediction = truth + np.cumsum(steps)[:, None, None]
    mask = np.ones(truth.shape, bool)
    assert seam_score(prediction, truth, mask, ((4,), (), ())) == pytest.approx(4)
    assert seam_score(prediction, truth, mask, ((5,), (), ())) == pytest.approx(0.1 / np.mean([0.1] * 5 + [0.4]))
    assert seam_score(truth, truth, mask, ((4,), (2, 3), ())) == 1


def test_seams_are_found_where_tiles_differ_and_only_there(brain: Volumes) -> None:
    truth, mask = brain
    rng = np.random.default_rng(4)
    error = rng.normal(0, 0.02, truth.shape)
    tiles = 0.1 * (((np.arange(20) >= 10)[:, None] + (np.arange(24) >= 12)[None]) % 2)[..., None]
    borders = ((10,), (12,), ())
    assert seam_score(truth + error, truth, mask, borders) == pytest.approx(1, abs=0.1)
    assert seam_score(truth + error + tiles, truth, mask, borders) > 2
    assert seam_score(truth + error + tiles, truth, mask, ((7,), (9,), ())) < 1
    # units cancel; the truth's own edges do not count
    value = seam_score(truth + error + tiles, truth, mask, borders)
    edges = truth + 10.0 * (np.arange(20) >= 10)[:, None, None]
    assert seam_score(edges + error + tiles, edges, mask, borders) == pytest.approx(value, rel=1e-6)
    assert seam_score(50 * (truth + error + tiles), 50 * truth, mask, borders) == pytest.approx(value)


def test_seams_compare_with_their_own_axis() -> None:
    """Errors that step five times as much along z are no seam."""
    rng = np.random.default_rng(5)
    truth = np.zeros((30, 30, 30))
    along = np.repeat(rng.normal(0, 1, (1, 1, 30)), 30, axis=0).repeat(30, axis=1)
    prediction = 5 * along + rng.normal(0, 1, truth.shape)
    mask = np.ones(truth.shape, bool)
    assert seam_score(prediction, truth, mask, ((15,), (), ())) == pytest.approx(1, abs=0.1)
    both = seam_score(prediction, truth, mask, ((10, 20), (), tuple(range(2, 30, 2))))
    assert both == pytest.approx(1, abs=0.3)


def test_seams_without_any_other_error() -> None:
    truth, mask = np.zeros((6, 4, 4)), np.ones((6, 4, 4), bool)
    prediction = truth + (np.arange(6) >= 3)[:, None, None]
    assert seam_score(prediction, truth, mask, ((3,), (), ())) == math.inf
    assert seam_score(prediction, truth, mask, ((2,), (), ())) == 0


def test_seams_refuse(brain: Volumes) -> None:
    truth, mask = brain
    with pytest.raises(UsageError, match="borders for 2 axes"):
        seam_score(truth, truth, mask, ((3,), ()))
    for place in (0, 20, -3):
        with pytest.raises(UsageError, match=f"tile border {place} on axis 0"):
            seam_score(truth, truth, mask, ((place,), (), ()))
    for borders in (((), (), ()), ((1,), (), ())):  # none; one outside the brain
        with pytest.raises(DataError, match="no tile border runs through the mask"):
            seam_score(truth, truth, mask, borders)
    with pytest.raises(DataError, match="every step along axis 2"):
        seam_score(truth, truth, mask, ((), (), range(1, 18)))


# --- lesions


def test_false_lesion_closed_form() -> None:
    truth = np.zeros((10, 10, 10))
    prediction = truth.copy()
    mask = np.ones(truth.shape, bool)
    mask[0] = False
    labels = np.zeros(truth.shape, np.uint8)
    labels[4, :4, :5] = 1  # 20 voxels: 10 bright in the truth, 6 of them in the prediction
    truth[4, :2, :5] = 1
    prediction[4, :2, :3] = 1
    prediction[8, 8, :7] = 0.9  # invented
    prediction[0] = truth[0] = 5  # outside the mask
    scores = false_lesion(prediction, truth, mask, 0.5, segmentation=labels, spacing=(1, 2, 3))
    assert scores == pytest.approx(
        {
            "threshold": 0.5,
            "false_bright": 7 / 900,
            "missed_bright": 4 / 900,
            "false_bright_ml": 0.042,
            "missed_bright_ml": 0.024,
            "lesion_bright": 0.5,
            "lesion_bright_both": 0.3,
        }
    )
    assert list(false_lesion(prediction, truth, mask, 0.5)) == ["threshold", "false_bright", "missed_bright"]
    # the reverse: prediction and truth change places
    back = false_lesion(truth, prediction, mask, 0.5)
    assert (back["false_bright"], back["missed_bright"]) == (scores["missed_bright"], scores["false_bright"])
    # bright is above the threshold, not at it
    assert false_lesion(prediction, truth, mask, 0.9)["false_bright"] == 0
    assert "lesion_bright" not in false_lesion(prediction, truth, mask, 0.5, segmentation=0 * labels)


def test_the_threshold_is_the_truth_s(brain: Volumes) -> None:
    truth, mask = brain
    labels = np.zeros(truth.shape, np.uint8)
    labels[9:12, 10:13, 7:10] = 4
    truth = truth + 0.6 * (labels > 0)
    normal = truth[mask & (labels == 0)]
    level = bright_threshold(truth, mask, labels)
    assert level == pytest.approx(normal.mean() + 2.5 * normal.std())
    assert bright_threshold(truth, mask) == pytest.approx(truth[mask].mean() + 2.5 * truth[mask].std()) and level < 0.8
    assert bright_threshold(truth, mask, labels > 0, sds=0) == pytest.approx(normal.mean())
    perfect = false_lesion(truth, truth, mask, segmentation=labels)
    assert perfect["threshold"] == level and perfect["false_bright"] == perfect["missed_bright"] == 0
    assert perfect["lesion_bright"] == perfect["lesion_bright_both"] == 1
    # a prediction without the lesion, and one that is bright everywhere; neither moves the threshold
    lost = false_lesion(truth - 0.6 * (labels > 0), truth, mask, segmentation=labels)
    assert lost["threshold"] == level and lost["missed_bright"] == pytest.approx(27 / mask.sum(), rel=0.1)
    assert lost["lesion_bright_both"] <= 0.1 and lost["false_bright"] == 0
    assert false_lesion(truth + 9, truth, mask, segmentation=labels)["false_bright"] > 0.9
    # units cancel
    scaled = false_lesion(200 * truth - 120 * (labels > 0), 200 * truth, mask, segmentation=labels)
    assert scaled["missed_bright"] == lost["missed_bright"]


def test_false_lesion_refuses(brain: Volumes) -> None:
    truth, mask = brain
    for level in (math.nan, math.inf):
        with pytest.raises(UsageError, match="threshold"):
            false_lesion(truth, truth, mask, level)
        with pytest.raises(UsageError, match="sds"):
            bright_threshold(truth, mask, sds=level)
    with pytest.raises(DataError, match="no normal brain"):
        bright_threshold(truth, mask, mask.astype(np.uint8))
    with pytest.raises(DataError, match=r"segmentation .* differ in shape"):
        false_lesion(truth, truth, mask, 0.5, segmentation=mask[1:])
    with pytest.raises(DataError, match="ground truth holds"):
        bright_threshold(np.where(mask, math.nan, 0), mask)
    with pytest.raises(UsageError, match="spacing"):
        false_lesion(truth, truth, mask, 0.5, spacing=(1, 1))


@pytest.mark.parametrize(
    "score",
    [
        lambda g, y, mask: slice_consistency(g, y, mask, 0),
        lambda g, y, mask: seam_score(g, y, mask, ((10,), (), ())),
        lambda g, y, mask: false_lesion(g, y, mask, 0.5),
    ],
)
def test_bad_arrays_are_refused(brain: Volumes, score: Callable[..., object]) -> None:
    truth, mask = brain
    bad = truth.copy()
    bad[9, 10, 8] = math.nan
    with pytest.raises(DataError, match="prediction holds 1 NaN"):
        score(bad, truth, mask)
    with pytest.raises(DataError, match="ground truth holds 1 NaN"):
        score(truth, bad, mask)
    with pytest.raises(DataError, match="differ in shape"):
        score(truth[1:], truth, mask)
    with pytest.raises(DataError, match="mask is empty"):
        score(truth, truth, np.zeros_like(mask))
    with pytest.raises(DataError, match="bool"):
        score(truth, truth, mask.astype(float))
