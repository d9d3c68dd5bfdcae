"""Masks and segmentations by what is in them: each row is a file as a public data set or tool writes it beside the images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from heads import AFFINE, AIR, FLUID, GREY, LESION, SHAPE, WHITE, brain, image, tissues
from helpers import write_case
from synthmr.data.audit import audit
from synthmr.data.findings import Finding
from synthmr.io.index import index

Make = Callable[[], np.ndarray]

TISSUE = tissues()
BRAIN = brain()


def soft(mask: np.ndarray, top: float) -> np.ndarray:
    """The probability of a mask, 0 to ``top``."""
    return (ndimage.gaussian_filter(mask.astype(np.float32), 1.2) * top).astype(np.float32)


def spots(count: int, edge: int) -> np.ndarray:
    """Cubes scattered over the brain."""
    rng, out = np.random.default_rng(3), np.zeros(SHAPE, bool)
    places = np.argwhere(ndimage.binary_erosion(BRAIN, iterations=edge))
    for x, y, z in places[rng.choice(len(places), count, replace=False)]:
        out[x : x + edge, y : y + edge, z : z + edge] = True
    return out


def moved(mask: np.ndarray, steps: int) -> np.ndarray:
    return np.roll(mask, steps, 1)


def regions() -> np.ndarray:
    """125 boxes inside the brain, numbered."""
    x, y, z = np.indices(SHAPE) // 12
    return np.where(BRAIN, 1 + x + 5 * y + 25 * z, 0)


def fast() -> np.ndarray:
    """The tissues of FSL FAST."""
    return np.select([TISSUE == FLUID, TISSUE == GREY, TISSUE >= WHITE], [1, 2, 3])


#: file written -> words of the finding with a brain alone, with a head; "" where it is fine
MASKS: list[tuple[str, str, Make, str, str]] = [
    ("BET, HD-BET, SynthStrip: 0 and 1", "mask", lambda: BRAIN.astype(np.uint8), "", ""),
    ("FreeSurfer, ITK-SNAP: 0 and 255", "mask", lambda: BRAIN.astype(np.uint8) * 255, "", ""),
    ("float copy of a binary mask (SPM ImCalc)", "brain_mask", lambda: BRAIN.astype(np.float32), "", ""),
    ("dilated mask (fMRIPrep, ANTs)", "mask", lambda: ndimage.binary_dilation(BRAIN).astype(np.uint8), "", ""),
    ("eroded mask (FSL -f 0.6)", "mask", lambda: ndimage.binary_erosion(BRAIN).astype(np.uint8), "", ""),
    ("mask without ventricles (threshold of T1w)", "mask", lambda: (BRAIN & (TISSUE != FLUID)).astype(np.uint8), "", ""),
    ("cerebrum without cerebellum", "mask", lambda: (BRAIN & (np.arange(SHAPE[2]) > 17)).astype(np.uint8), "", ""),
    ("ExploreASL 71: tumor_mask read as the brain's", "mask", lambda: (TISSUE == LESION).astype(np.uint8), "covers", "covers"),
    ("WMH challenge: scattered lesions as mask", "mask", lambda: spots(40, 2).astype(np.uint8), "covers", "covers"),
    ("FAST, SPM c2: white matter as mask", "mask", lambda: (TISSUE == WHITE).astype(np.uint8), "", ""),
    ("FAST, SPM c1: grey matter as mask", "mask", lambda: (TISSUE == GREY).astype(np.uint8), "full of holes", "full of holes"),
    ("CSF mask", "mask", lambda: (TISSUE == FLUID).astype(np.uint8), "covers|holes|pieces", "covers|holes|pieces"),
    ("large scattered pieces", "mask", lambda: spots(90, 4).astype(np.uint8), "covers|pieces|holes", "pieces|holes"),
    ("SPM, ANTs probability 0 to 1", "mask", lambda: soft(BRAIN, 1), "soft mask", "soft mask"),
    ("probability 0 to 255 (uint8)", "mask", lambda: np.rint(soft(BRAIN, 255)).astype(np.uint8), "probabilities", "probabilities"),
    (
        "mean of raters: 0, 1/3, 2/3, 1",
        "mask",
        lambda: (BRAIN / 3 + ndimage.binary_erosion(BRAIN) / 3).astype(np.float32),
        "soft",
        "soft",
    ),
    ("FreeSurfer brainmask is the image", "brainmask", lambda: image("T1w"), "different values", "different values"),
    (
        "mask of another orientation",
        "mask",
        lambda: moved(BRAIN, 26).astype(np.uint8),
        "misses the brain",
        "misses the head|pieces",
    ),
    ("nothing marked", "mask", lambda: np.zeros(SHAPE, np.uint8), "is empty", "is empty"),
    ("everything marked", "mask", lambda: np.ones(SHAPE, np.uint8), "misses the brain", "misses the head"),
    ("signed labels", "mask", lambda: BRAIN.astype(np.int16) - 1, "below 0|empty", "below 0|empty"),
]

SEGMENTATIONS: list[tuple[str, str, Make, str, str]] = [
    ("BraTS: 1, 2, 4", "seg", lambda: (TISSUE == LESION) * 4 + (spots(3, 3) & (TISSUE == WHITE)), "", ""),
    ("ISBI 2015, open_ms: lesions 0 and 1", "lesions", lambda: spots(20, 2).astype(np.uint8), "", ""),
    ("lesions 0 and 255", "lesion_mask", lambda: (TISSUE == LESION) * 255, "", ""),
    ("healthy control: nothing marked", "seg", lambda: np.zeros(SHAPE, np.uint8), "", ""),
    ("AAL, Schaefer: 120 regions", "seg", regions, "", ""),
    ("one brain as lesion", "seg", lambda: BRAIN.astype(np.uint8), "one label", "one label"),
    ("FAST tissues as lesion", "seg", fast, "map of tissues", ""),
    ("lesion probability 0 to 1 (nicMSlesions, LST)", "lesions", lambda: soft(TISSUE == LESION, 1), "soft mask", "soft mask"),
    ("lesion probability 0 to 255", "seg", lambda: np.rint(soft(spots(9, 4), 255)), "no segmentation", "no segmentation"),
    ("the image under a label's name", "seg", lambda: image("FLAIR"), "no segmentation", "no segmentation"),
    ("labels of another orientation", "seg", lambda: moved(fast() * (TISSUE > FLUID), 30), "misses the brain", "misses the head"),
]  # fmt: skip


def findings(root: Path, name: str, array: np.ndarray, skull: bool) -> list[Finding]:
    for seed in (0, 1):
        write_case(root / f"c{seed}", {word: image(word, seed, skull) for word in ("T1w", "FLAIR")}, AFFINE)
    if array.dtype.kind == "i" and array.dtype != np.int16:
        array = array.astype(np.int16)
    write_case(root / "c0", {name: array}, AFFINE)
    return audit(index(root))


@pytest.mark.parametrize("skull", [False, True], ids=["brain", "head"])
@pytest.mark.parametrize("row", MASKS + SEGMENTATIONS, ids=lambda row: row[0])
def test_a_mask_or_segmentation_is_told_by_its_content(tmp_path: Path, row: tuple[str, str, Make, str, str], skull: bool) -> None:
    _, name, make, stripped, head = row
    words = head if skull else stripped
    found = findings(tmp_path, name, make(), skull)
    if not words:
        assert found == []
        return
    (one,) = found
    assert any(word in one.what for word in words.split("|")), one.what
    assert one.case == "c0" and name in one.what and one.fix and one.level == ("warning" if "tissues" in words else "error")


@pytest.mark.parametrize("contrast", ["T1w", "T2w", "FLAIR"])
def test_a_head_shows_the_same_brain_in_any_contrast_first(tmp_path: Path, contrast: str) -> None:
    write_case(tmp_path / "c0", {contrast: image(contrast, 0, True), "mask": BRAIN.astype(np.uint8)}, AFFINE)
    assert [finding.level for finding in audit(index(tmp_path))] == ["warning"]  # one subject only
    assert (TISSUE == AIR).mean() > 0.3
