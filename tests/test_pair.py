"""One NIfTI file against another: the same numbers however the files are stored, and a clear line for what is wrong with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from helpers import write_case
from synthmr.errors import DataError, UsageError
from synthmr.evaluate import metrics
from synthmr.evaluate.pair import Pair, read_pair, score_pair
from synthmr.evaluate.protocols import BRASYN, MAFNET, MASKED_VOLUME, PROTOCOLS, WHOLE_VOLUME, Protocol
from synthmr.evaluate.scores import ScoreResult

SHAPE = (30, 28, 26)
ALL = list(PROTOCOLS.values())
#: the quick ones
FEW = [protocol for protocol in ALL if protocol.resize is None]


def head(seed: int = 0, centre: float = 0.1, shape: tuple[int, int, int] = SHAPE) -> dict[str, np.ndarray]:
    """Truth in whole numbers of 40 to 240, a prediction of it, its brain mask and a lesion: skull-stripped, as scanners count."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    mask = sum(((axis - centre) / 0.7) ** 2 for axis in axes) < 1
    truth = np.where(mask, np.rint(rng.uniform(40, 240, shape)), 0).astype(np.float32)
    guess = np.where(mask, np.clip(truth + np.rint(rng.normal(0, 12, shape)), 1, 255), 0).astype(np.float32)
    lesion = np.zeros(shape, np.float32)
    lesion[14:19, 13:18, 12:17] = 1
    lesion[15:17, 14:16, 13:15] = 4
    lesion[14, 13, 12] = 2
    return {"prediction": guess, "truth": truth, "mask": mask.astype(np.float32), "segmentation": lesion}


def scores(paths: dict[str, Path], protocols: Sequence[Protocol] = (MASKED_VOLUME,), **more: Any) -> ScoreResult:
    return score_pair(pair_of(paths), protocols, **more)


def pair_of(paths: dict[str, Path]) -> Pair:
    given = {name: paths[name] for name in ("mask", "segmentation") if name in paths}
    return Pair(paths["prediction"], paths["truth"], **given)


def told(found: ScoreResult) -> list[str]:
    """The notes, without the line that every file without a sidecar gets."""
    assert "has no synthmr sidecar: its voxels are scored as they are." in found.notes[0]
    return found.notes[1:]


def table(found: ScoreResult) -> dict[tuple[str, str, str], float]:
    keys = [(row.protocol, row.region, row.metric) for row in found.rows]
    assert len(set(keys)) == len(keys), "two values under one name"
    assert all(type(row.value) is float for row in found.rows)
    return {key: row.value for key, row in zip(keys, found.rows, strict=True)}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    return write_case(tmp_path / "case", head())


# --- right numbers ------------------------------------------------------------------------------------------------------


def test_by_hand(files: dict[str, Path]) -> None:
    arrays = head()
    inside = arrays["mask"] > 0
    high = np.percentile(arrays["truth"][inside], 99.5)
    g, y = arrays["prediction"][inside] / high, arrays["truth"][inside] / high
    found = scores(files)
    values = table(found)
    assert {key[:2] for key in values} == {("masked-volume", "brain")}
    assert values["masked-volume", "brain", "psnr"] == pytest.approx(-10 * math.log10(np.mean((g - y) ** 2)), abs=1e-4)
    assert values["masked-volume", "brain", "mae"] == pytest.approx(np.abs(g - y).mean(), rel=1e-5)
    assert told(found) == found.skipped == found.warnings == []
    whole = table(scores(files, [WHOLE_VOLUME]))
    error = (arrays["prediction"] - arrays["truth"]) / high
    assert whole["whole-volume", "whole", "psnr"] == pytest.approx(-10 * math.log10(np.mean(error**2)), abs=1e-4)


def test_all_protocols_with_their_regions(files: dict[str, Path]) -> None:
    found = scores(files, ALL)
    values = table(found)
    expected = [(protocol.name, region, metric) for protocol in ALL for region in protocol.regions for metric in protocol.metrics]
    assert list(values) == expected and found.skipped == [] and all(map(math.isfinite, values.values()))
    assert table(scores(files, [MASKED_VOLUME], names=("ncc", "hfen"))).keys() == {
        ("masked-volume", "brain", "ncc"),
        ("masked-volume", "brain", "hfen"),
    }


def stored(array: np.ndarray, axes: Sequence[int], flips: Sequence[int], affine: np.ndarray) -> nib.Nifti1Image:
    """The same image with its axes in another order and direction."""
    turn = [[axes.index(axis), flips[axes.index(axis)]] for axis in range(3)]
    return nib.Nifti1Image(array, affine).as_reoriented(np.array(turn, float))


@pytest.mark.parametrize(("axes", "flips"), [((0, 1, 2), (-1, -1, 1)), ((2, 0, 1), (1, -1, 1)), ((1, 2, 0), (-1, 1, -1))])
def test_orientation_does_not_matter(tmp_path: Path, axes: Sequence[int], flips: Sequence[int]) -> None:
    affine = np.diag([1.0, 1.5, 2.0, 1])
    affine[:3, 3] = (-20, 5, 7)
    arrays = head()
    straight = write_case(tmp_path / "ras", arrays, affine)
    turned = {}
    (tmp_path / "turned").mkdir()
    for name, array in arrays.items():
        turned[name] = tmp_path / "turned" / f"{name}.nii"
        image = stored(array, axes, flips, affine)
        nib.save(image, turned[name])
    assert nib.aff2axcodes(image.affine) != ("R", "A", "S")
    one, other = (table(scores(paths, FEW, regions=True)) for paths in (straight, turned))
    assert one == pytest.approx(other, rel=1e-6)
    # millilitres: spacing went along with its axis
    assert read_pair(pair_of(turned)).scored.spacing == pytest.approx((1.0, 1.5, 2.0))
    assert ("masked-volume", "brain", "false_bright_ml") in one


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float64])
def test_data_type_does_not_matter(tmp_path: Path, files: dict[str, Path], dtype: type) -> None:
    expected = table(scores(files, FEW))
    for name, array in head().items():
        files[name] = tmp_path / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(array.astype(dtype), np.eye(4)), files[name])
    assert table(scores(files, FEW)) == pytest.approx(expected, rel=1e-6)


def test_scaled_integers_and_another_unit_of_both(tmp_path: Path, files: dict[str, Path]) -> None:
    """Half counts by scl_slope: the truth's own scale is divided out, so numbers stay."""
    expected = table(scores(files, FEW))
    for name in ("prediction", "truth"):
        image = nib.Nifti1Image(head()[name].astype(np.int16), np.eye(4))
        image.header.set_slope_inter(0.5, 0)
        files[name] = tmp_path / f"{name}.nii"
        # nibabel would undo the slope when it saves
        data = bytearray(image.to_bytes())
        data[112:116] = np.float32(0.5).tobytes()
        files[name].write_bytes(data)
        assert nib.load(files[name]).get_fdata().max() == head()[name].max() / 2
    assert table(scores(files, FEW)) == pytest.approx(expected, rel=1e-6)


def test_data_from_minus_one_to_one(files: dict[str, Path], tmp_path: Path) -> None:
    """Scored as on [0, 1]: the background is what 0 became, not 0 itself."""
    expected = table(scores(files, FEW))
    arrays = head()
    shifted = {name: arrays[name] / 128 - 1 for name in ("prediction", "truth")}
    paths = {**files, **write_case(tmp_path / "shifted", shifted)}
    found = scores(paths, FEW)
    assert table(found) == pytest.approx(expected, rel=1e-4)
    assert told(found) == ["the truth has negative voxels: its -1 is the 0 of the scale that both are scored on."]
    assert not [warning for warning in found.warnings if warning.code == "units"]
    # one file in [-1, 1] beside one in [0, 1] is told
    mixed = scores({**paths, "truth": write_case(tmp_path / "unit", {"truth": arrays["truth"] / 256})["truth"]})
    assert "units" in {warning.code for warning in mixed.warnings}


def test_z_scores(files: dict[str, Path], tmp_path: Path) -> None:
    """Background 0 in the middle of the values: the lower end is the brain's 0.5 percentile."""
    arrays = head()
    inside = arrays["mask"] > 0
    mean, sd = arrays["truth"][inside].mean(), arrays["truth"][inside].std()
    scaled = {name: np.where(inside, (arrays[name] - mean) / sd, 0).astype(np.float32) for name in ("prediction", "truth")}
    found = scores({**files, **write_case(tmp_path / "z", scaled)})
    low, high = np.percentile(scaled["truth"][inside], [0.5, 99.5])
    error = (scaled["prediction"] - scaled["truth"])[inside]
    expected = 20 * math.log10((high - low) / math.sqrt(np.mean(error.astype(float) ** 2)))
    assert table(found)["masked-volume", "brain", "psnr"] == pytest.approx(expected, abs=1e-3)
    assert f"its {low:.4g} is the 0 of the scale" in told(found)[0]


def test_regions(files: dict[str, Path]) -> None:
    found = scores(files, regions=True)
    values = table(found)
    arrays = head()
    scored = read_pair(pair_of(files)).scored
    assert scored.labels is not None and set(np.unique(scored.labels)) == {0, 1, 2, 4}
    lesion = (arrays["segmentation"] > 0) & (arrays["mask"] > 0)
    error = (scored.prediction - scored.truth)[lesion].astype(float)
    assert values["masked-volume", "lesion", "psnr"] == pytest.approx(-10 * math.log10(np.mean(error**2)), abs=1e-5)
    assert {key[1] for key in values} >= {"brain", "boundary", "lesion", "non-lesion", "axial", "coronal", "sagittal"}
    core = arrays["segmentation"] == 4
    assert values["masked-volume", "ET", "mae"] == pytest.approx(metrics.mae(scored.prediction, scored.truth, core))
    # noise: slices jump, and the brain has one value of each score
    assert values["masked-volume", "axial", "slice_jump"] > 1
    assert [key for key in values if key[2] == "psnr" and key[1] == "brain"] == [("masked-volume", "brain", "psnr")]
    assert 0 <= values["masked-volume", "brain", "false_bright"] <= 1


def test_a_protocol_with_regions_keeps_its_own_numbers_for_them(files: dict[str, Path]) -> None:
    plain, more = table(scores(files, [BRASYN])), table(scores(files, [BRASYN], regions=True))  # `table` refuses doubles
    assert plain.items() <= more.items() and ("brasyn", "boundary", "ssim") in more


# --- without mask or segmentation ---------------------------------------------------------------------------------------


def test_without_a_mask_the_truth_gives_it_with_a_warning(files: dict[str, Path]) -> None:
    given = table(scores(files, FEW))
    del files["mask"]
    found = scores(files, FEW)
    assert table(found) == pytest.approx(given, rel=1e-6)
    assert "no mask was given: the brain is what the truth shows (nonzero)." in found.notes
    assert "truth-mask" in {warning.code for warning in found.warnings}


def test_a_whole_head_without_a_mask(tmp_path: Path) -> None:
    arrays = head()
    rng = np.random.default_rng(5)
    noise = np.abs(rng.normal(0, 4, SHAPE)).astype(np.float32) + 1
    paths = write_case(tmp_path, {name: arrays[name] + noise for name in ("prediction", "truth")})
    found = scores(paths)
    assert any("(otsu)" in note for note in found.notes) and any("not skull-stripped" in note for note in found.notes)
    assert table(found)["masked-volume", "brain", "psnr"] > 10


def test_lesion_protocols_without_a_segmentation(files: dict[str, Path]) -> None:
    del files["segmentation"]
    with pytest.raises(DataError, match=r"mafnet needs a segmentation, and there is none of prediction.nii.gz"):
        scores(files, [MAFNET])
    with pytest.raises(DataError, match=r"nothing could be scored: mafnet needs.*; brasyn needs"):
        scores(files, [MAFNET, BRASYN])
    found = scores(files, FEW)
    assert [line.split()[0] for line in found.skipped] == ["mafnet", "brasyn"]
    assert {row.protocol for row in found.rows} == {protocol.name for protocol in FEW} - {"mafnet", "brasyn"}
    assert not {warning.protocol for warning in found.warnings} & {"mafnet", "brasyn"}
    files["segmentation"] = write_case(files["truth"].parent, {"none": np.zeros(SHAPE, np.float32)})["none"]
    with pytest.raises(DataError, match=r"mafnet needs a lesion, and the segmentation of prediction.nii.gz has none in the brain"):
        scores(files, [MAFNET])


# --- odd predictions ----------------------------------------------------------------------------------------------------


def test_identical_files(files: dict[str, Path]) -> None:
    files["prediction"] = files["truth"]
    found = scores(files, FEW)
    for (_, _, metric), value in table(found).items():
        if metric.endswith("psnr"):
            assert value == math.inf
        else:
            assert value == pytest.approx(1 if metric == "ssim" else 0, abs=1e-9)
    assert "prediction and truth are the same voxel by voxel: errors are 0 and PSNR is infinite." in found.notes


def test_a_constant_prediction_and_one_of_zeros(files: dict[str, Path], tmp_path: Path) -> None:
    arrays = head()
    flat = write_case(tmp_path, {"flat": arrays["mask"] * 100, "black": arrays["mask"] * 0})
    names = ("ncc", "psnr", "structure_psnr", "sharpness")
    values = table(scores({**files, "prediction": flat["flat"]}, names=names))
    assert values["masked-volume", "brain", "ncc"] == 0
    inside = arrays["mask"] > 0
    high = np.percentile(arrays["truth"][inside], 99.5)
    structure = -20 * math.log10((arrays["truth"][inside] / high).std())
    assert values["masked-volume", "brain", "structure_psnr"] == pytest.approx(structure, abs=1e-4)
    assert structure > values["masked-volume", "brain", "psnr"]
    found = scores({**files, "prediction": flat["black"]}, FEW)
    assert [line.split(" divides")[0] for line in found.skipped] == ["own-max", "brasyn"]
    assert table(found)["masked-volume", "brain", "nmse"] == 1


# --- bad files ----------------------------------------------------------------------------------------------------------


def test_a_prediction_on_another_grid(files: dict[str, Path], tmp_path: Path) -> None:
    arrays = head()
    for name, array, affine in (
        ("short", arrays["prediction"][1:], np.eye(4)),
        ("moved", arrays["prediction"], np.array([[1, 0, 0, 3], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])),
        ("mirrored", arrays["prediction"][::-1], np.diag([-1.0, 1, 1, 1])),
    ):
        other = write_case(tmp_path, {name: array}, affine)[name]
        with pytest.raises(DataError, match=rf"the grids of prediction .*{name}.* and truth .* differ"):
            scores({**files, "prediction": other})
        with pytest.raises(DataError, match=rf"the grids of segmentation .*{name}"):
            scores({**files, "segmentation": other})


def test_broken_voxels(files: dict[str, Path], tmp_path: Path) -> None:
    for name in ("prediction", "truth", "mask"):
        array = head()[name]
        array[0, 0, 0] = np.nan
        array[0, 0, 1] = -np.inf
        bad = write_case(tmp_path, {f"bad-{name}": array})[f"bad-{name}"]
        with pytest.raises(DataError, match=rf"bad-{name}.nii.gz holds 2 NaN or infinite voxels"):
            scores({**files, name: bad})
    with pytest.raises(DataError, match=r"nothere.nii.gz does not exist"):
        scores({**files, "prediction": tmp_path / "nothere.nii.gz"})
    halves = write_case(tmp_path, {"halves": head()["segmentation"] / 2})["halves"]
    with pytest.raises(DataError, match=r"halves.nii.gz holds values that are not whole numbers"):
        scores({**files, "segmentation": halves})
    two = tmp_path / "two.nii.gz"
    nib.save(nib.Nifti1Image(np.stack([head()["truth"]] * 2, -1), np.eye(4)), two)
    with pytest.raises(DataError, match=r"two.nii.gz has 4 dimensions"):
        scores({**files, "prediction": two})


def test_a_constant_truth(files: dict[str, Path], tmp_path: Path) -> None:
    flat = write_case(tmp_path, {"flat": head()["mask"] * 7})["flat"]
    with pytest.raises(DataError, match=r"flat.nii.gz: "):
        scores({**files, "truth": flat})
    black = write_case(tmp_path, {"black": head()["mask"] * 0})["black"]
    with pytest.raises(DataError, match=r"mask.*misses the brain: 100% of it is background in .*black"):
        scores({**files, "truth": black})
    del files["mask"]
    with pytest.raises(DataError, match=r"black.nii.gz: the brain mask .* is empty"):
        scores({**files, "truth": black})


def test_masks_that_are_wrong(files: dict[str, Path], tmp_path: Path) -> None:
    arrays = head()
    corner = np.zeros(SHAPE, np.float32)
    corner[:4, :4, :4] = 1
    wrong = write_case(tmp_path, {"empty": corner * 0, "corner": corner, "other": head(centre=-0.05)["mask"]})
    with pytest.raises(DataError, match=r"empty.nii.gz is empty; give the brain mask of this subject"):
        scores({**files, "mask": wrong["empty"]})
    with pytest.raises(DataError, match=r"corner.nii.gz misses the brain: 100% of it is background in .*truth.nii.gz"):
        scores({**files, "mask": wrong["corner"]})
    (note,) = told(scores({**files, "mask": wrong["other"]}))
    inside, shown = head(centre=-0.05)["mask"] > 0, arrays["truth"] != 0
    assert note.startswith(f"{1 - shown[inside].mean():.0%} of the mask ") and f"{1 - inside[shown].mean():.0%} of what" in note
    assert note.endswith("is it this subject's?")
    # a mask that is one voxel off in places is no other subject's
    near = arrays["mask"].copy()
    near[:, :, 20:] = 0
    near[8:12, 2:4, 10:16] = 1
    kept = (near > 0) & shown
    assert kept.sum() / (shown | (near > 0)).sum() > 0.9
    near_path = write_case(tmp_path, {"near": near})["near"]
    assert told(scores({**files, "mask": near_path})) == []


def test_a_mask_of_air_in_a_whole_head(tmp_path: Path) -> None:
    arrays = head()
    rng = np.random.default_rng(5)
    noise = np.abs(rng.normal(0, 4, SHAPE)).astype(np.float32) + 1
    images = {name: arrays[name] + noise for name in ("prediction", "truth")}
    paths = write_case(tmp_path, {**images, "mask": arrays["mask"], "air": 1 - arrays["mask"]})
    assert told(scores(paths)) == []
    (note,) = told(scores({**paths, "mask": paths["air"]}))
    assert "is darker in the mask" in note and "does it show the brain?" in note


def test_unknown_metrics(files: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="metric 'psnrr': did you mean psnr"):
        scores(files, names=("psnrr",))


def test_header_notes_are_passed_on(files: dict[str, Path]) -> None:
    image = nib.load(files["prediction"])
    image.header["sform_code"] = image.header["qform_code"] = 0
    data = np.asanyarray(image.dataobj).copy()
    for name, array in (("prediction", data), ("truth", head()["truth"]), ("mask", head()["mask"])):
        header = image.header.copy()
        header.set_data_dtype(array.dtype)
        header["sform_code"] = header["qform_code"] = 0
        nib.save(nib.Nifti1Image(array, None, header), files[name])
    del files["segmentation"]
    found = scores(files)
    assert any("neither sform nor qform is set" in note and "prediction.nii.gz" in note for note in found.notes)


def test_progress_is_told(files: dict[str, Path]) -> None:
    told: list[tuple[int, int, str]] = []
    scores(files, FEW, progress=lambda done, total, name: told.append((done, total, name)))
    assert [name for _, _, name in told[: len(FEW)]] == [protocol.name for protocol in FEW]
    assert {total for _, total, _ in told} == {len(FEW)} and [done for done, _, _ in told] == sorted(done for done, _, _ in told)


def test_a_protocol_of_ones_own(files: dict[str, Path]) -> None:
    mine = replace(MASKED_VOLUME, name="mine", regions=("lesion", "brain"), metrics=("mae",))
    assert list(table(scores(files, [mine], regions=True)))[:2] == [("mine", "lesion", "mae"), ("mine", "brain", "mae")]
