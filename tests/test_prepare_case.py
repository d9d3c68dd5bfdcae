"""Preparation: orientation, mask, crop and normalisation, and their exact inverse."""

from __future__ import annotations

import numpy as np
import pytest

from helpers import blob_brain
from synthmr.case import Volume
from synthmr.config import PrepareConfig
from synthmr.errors import DataError, UsageError
from synthmr.prepare import normalize
from synthmr.prepare.case import prepare_images, restore
from synthmr.prepare.mask import brain_mask, is_stripped

SHAPE = (18, 20, 16)
#: axis order and directions of a file, as columns of its affine
AFFINES = {
    "RAS": np.diag([1.0, 1.0, 1.0, 1.0]),
    "LPS": np.diag([-1.0, -1.0, 1.0, 1.0]),
    "LAS": np.diag([-1.0, 1.0, 1.0, 1.0]),
    "SPL": np.array([[0, 0, -1.0, 0], [0, -1.0, 0, 0], [1.0, 0, 0, 0], [0, 0, 0, 1.0]]),
}


def volumes(affine: np.ndarray, *contrasts: str) -> dict[str, Volume]:
    return {name: Volume(blob_brain(SHAPE, seed), affine) for seed, name in enumerate(contrasts)}


@pytest.mark.parametrize("axes", AFFINES)
def test_restore_is_the_exact_inverse(axes: str) -> None:
    given = volumes(AFFINES[axes], "T1w", "T2w")
    prepared = prepare_images(given, PrepareConfig(normalizer="minmax"))
    back = restore(normalize.invert(prepared.images["T1w"], prepared.normalizers["T1w"]), prepared)
    original = given["T1w"].array
    np.testing.assert_allclose(back, original, atol=2e-4 * original.max())
    assert back.shape == original.shape


def test_prepared_axes_are_ras() -> None:
    """The same head in two files of different orientation is prepared to the same array."""
    head = blob_brain(SHAPE, 3)
    head[:, :, :8] *= 0.5  # not symmetric along any axis
    head[:6] *= 0.7
    head[:, 12:] *= 0.9
    plain = prepare_images({"T1w": Volume(head, AFFINES["RAS"])}, PrepareConfig())
    turned = prepare_images(
        {"T1w": Volume(np.ascontiguousarray(head[::-1, ::-1].transpose(2, 1, 0)), _spl(head.shape))}, PrepareConfig()
    )
    np.testing.assert_array_equal(plain.images["T1w"], turned.images["T1w"])


def _spl(shape: tuple[int, ...]) -> np.ndarray:
    affine = AFFINES["SPL"].copy()
    affine[:3, 3] = [shape[0] - 1, shape[1] - 1, 0]
    return affine


def test_background_and_range() -> None:
    prepared = prepare_images(volumes(AFFINES["RAS"], "T1w"), PrepareConfig())
    image = prepared.images["T1w"]
    assert (image[~prepared.mask] == -1).all()
    assert image[prepared.mask].min() > -1 and image.max() == 1


@pytest.mark.parametrize("margin", [0, 2, 50])
def test_crop_is_the_brain_box_and_its_margin(margin: int) -> None:
    prepared = prepare_images(volumes(AFFINES["RAS"], "T1w"), PrepareConfig(margin=margin))
    inside = np.argwhere(blob_brain(SHAPE, 0) != 0)
    start = np.maximum(inside.min(axis=0) - margin, 0)
    stop = np.minimum(inside.max(axis=0) + 1 + margin, SHAPE)
    assert prepared.mask.shape == tuple(stop - start)
    np.testing.assert_allclose(prepared.affine[:3, 3], start)


def test_the_mask_comes_from_the_sources_alone() -> None:
    given = volumes(AFFINES["RAS"], "T1w", "FLAIR")
    target = given["FLAIR"].array.copy()
    target[0, 0, 1:] = 7
    both = prepare_images({**given, "FLAIR": Volume(target, AFFINES["RAS"])}, PrepareConfig(), ["FLAIR"])
    alone = prepare_images({"T1w": given["T1w"]}, PrepareConfig(), ["FLAIR"])
    np.testing.assert_array_equal(both.mask, alone.mask)
    np.testing.assert_array_equal(both.images["T1w"], alone.images["T1w"])


def test_mask_modes() -> None:
    head = blob_brain(SHAPE, 0)
    given = np.zeros(SHAPE)
    given[5:9, 5:9, 5:9] = 1
    assert brain_mask({"T1w": head}, given, "auto")[1] == "file"
    np.testing.assert_array_equal(brain_mask({"T1w": head}, given, "file")[0], given > 0)
    found, mode, notice = brain_mask({"T1w": head}, None, "auto")
    assert mode == "nonzero" and not notice
    np.testing.assert_array_equal(found, head != 0)
    ringing = head.copy()
    ringing[head != 0] -= 5 * (np.random.default_rng(0).random(int((head != 0).sum())) < 0.01) * head[head != 0]
    assert is_stripped(ringing)
    noisy = head + np.random.default_rng(0).uniform(0, 4, SHAPE).astype(np.float32)
    found, mode, notice = brain_mask({"T1w": noisy}, None, "auto")
    assert mode == "otsu" and "no brain mask" in notice
    overlap = 2 * (found & (head != 0)).sum() / (found.sum() + (head != 0).sum())
    assert overlap > 0.95


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"mask": "otso"}, UsageError, "did you mean otsu"),
        ({"mask": "file"}, DataError, "no mask file"),
        ({"normalizer": "zcore"}, UsageError, "did you mean zscore"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, str], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        prepare_images(volumes(AFFINES["RAS"], "T1w"), PrepareConfig(**change))  # type: ignore[arg-type]


def test_bad_images_are_refused_by_name() -> None:
    good = volumes(AFFINES["RAS"], "T1w", "T2w")
    other = Volume(good["T2w"].array, np.diag([2.0, 1, 1, 1]))
    with pytest.raises(DataError, match="T2w of case sub-1"):
        prepare_images({**good, "T2w": other}, PrepareConfig(), name="sub-1")
    flat = Volume((good["T2w"].array != 0) * np.float32(5), AFFINES["RAS"])
    with pytest.raises(DataError, match=r"T2w of case sub-1.*constant"):
        prepare_images({**good, "T2w": flat}, PrepareConfig(), name="sub-1")
    empty = Volume(np.zeros(SHAPE, np.float32), AFFINES["RAS"])
    with pytest.raises(DataError, match="empty"):
        prepare_images(good, PrepareConfig(), mask=empty)
