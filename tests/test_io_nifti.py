"""NIfTI in and out: every fault by name, and files that other programs read the same."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from helpers import blob_brain, write_case
from synthmr.case import Case, Volume
from synthmr.errors import DataError, UsageError
from synthmr.io import nifti

OBLIQUE = np.array([[-0.9, 0.1, 0.05, 30.0], [0.08, -1.1, 0.2, 40.0], [0.02, 0.15, 2.0, -20.0], [0, 0, 0, 1]])


def rotation(degrees: float, spacing: tuple[float, float, float], origin: tuple[float, float, float]) -> np.ndarray:
    """A shear-free affine that a quaternion can hold."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[-c, s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine


def make(path: Path, array: np.ndarray, affine: np.ndarray | None = None, **fields) -> Path:
    image = nib.Nifti1Image(array, np.eye(4) if affine is None else affine)
    for name, value in fields.items():
        image.header[name] = value
    nib.save(image, path)
    return path


def raw_header(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data)[:352] if path.name.endswith(".gz") else data[:352]


# --- loading ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float32, np.float64])
def test_load_gives_the_voxels_and_the_affine(tmp_path, suffix, dtype):
    array = blob_brain((5, 6, 7)).astype(dtype)
    volume = nifti.load(make(tmp_path / f"a{suffix}", array, OBLIQUE))
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array, array.astype(np.float32))
    np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-5)
    assert volume.notes == () or "qform" in volume.notes[0]


def test_slope_and_intercept_are_applied(tmp_path):
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    path = make(tmp_path / "a.nii", array)
    data = bytearray(path.read_bytes())
    data[112:120] = struct.pack("<ff", 0.5, -3.0)
    path.write_bytes(data)
    np.testing.assert_allclose(nifti.load(path).array, array * 0.5 - 3, rtol=0, atol=1e-6)


def test_nifti2_and_trailing_axes_of_one(tmp_path):
    array = blob_brain((4, 5, 6))
    nib.save(nib.Nifti2Image(array[..., None], np.eye(4)), tmp_path / "a.nii.gz")
    volume = nifti.load(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volume.array, array)
    nifti.save(tmp_path / "b.nii.gz", volume.array, volume)
    assert isinstance(nib.load(tmp_path / "b.nii.gz"), nib.Nifti2Image)
    np.testing.assert_array_equal(nifti.load(tmp_path / "b.nii.gz").array, array)


def test_read_grid_reads_no_voxels(tmp_path):
    path = make(tmp_path / "a.nii.gz", np.random.default_rng(0).normal(size=(30, 31, 32)), rotation(10, (1, 2, 3), (4, 5, 6)))
    path.write_bytes(path.read_bytes()[:2000])  # the header alone survives
    grid = nifti.read_grid(path)
    assert grid.shape == (30, 31, 32) and grid.orientation == "LAS"
    np.testing.assert_allclose(grid.spacing, (1, 2, 3), rtol=1e-5)
    with pytest.raises(DataError, match="cut short or damaged"):
        nifti.load(path)


def test_labels_are_whole_numbers_that_fit(tmp_path):
    path = make(tmp_path / "a.nii", np.array([[[0.0, 1.0, 4.0]]]))
    assert nifti.load(path, np.uint8).array.tolist() == [[[0, 1, 4]]]
    assert nifti.load(path, bool).array.tolist() == [[[False, True, True]]]
    with pytest.raises(DataError, match="not whole numbers"):
        nifti.load(make(tmp_path / "b.nii", np.array([[[0.5]]])), np.uint8)
    with pytest.raises(DataError, match="do not fit uint8"):
        nifti.load(make(tmp_path / "c.nii", np.array([[[300.0, 0.0]]])), np.uint8)


def damaged(tmp_path: Path, kind: str) -> Path:
    array = np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32)
    path = tmp_path / "a.nii.gz"
    if kind == "missing":
        return path
    if kind == "folder":
        path.mkdir()
        return path
    if kind in ("empty file", "text", "short gzip of text"):
        text = b"" if kind == "empty file" else b"this is no image\n" * 50
        path.write_bytes(gzip.compress(text) if kind == "short gzip of text" else text)
        return path
    if kind == "other suffix":
        path = tmp_path / "a.mha"
        path.write_text("x")
        return path
    make(path, array)
    data = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "truncated in the header":
        path.write_bytes(data[:100])
    elif kind == "checksum":
        path.write_bytes(data[:-8] + b"\0\0\0\0" + data[-4:])
    elif kind == "flipped bits":
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes(255 - x for x in data[middle : middle + 50]) + data[middle + 50 :])
    elif kind == "plain named gz":
        path.write_bytes(gzip.decompress(data))
    elif kind == "gz named plain":
        path = path.rename(tmp_path / "a.nii")
    elif kind == "truncated plain":
        path = tmp_path / "a.nii"
        path.write_bytes(gzip.decompress(data)[:5000])
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "does not exist"),
        ("folder", "is a folder"),
        ("empty file", "is an empty file"),
        ("text", "is no NIfTI file"),
        ("short gzip of text", "is no readable NIfTI file"),
        ("other suffix", "is not named .nii or .nii.gz"),
        ("truncated", "is cut short or damaged"),
        ("truncated in the header", "is no readable NIfTI file"),
        ("checksum", "is cut short or damaged"),
        ("flipped bits", "is cut short or damaged"),
        ("plain named gz", "rename it to .nii."),
        ("gz named plain", "rename it to .nii.gz"),
        ("truncated plain", "is cut short or damaged"),
    ],
)
def test_every_fault_of_a_file_is_one_line_with_the_path(tmp_path, kind, words):
    path = damaged(tmp_path, kind)
    with pytest.raises(DataError) as caught:
        nifti.load(path, label="T1w of case X")
    message = str(caught.value)
    assert words in message and str(path) in message and message.startswith("T1w of case X: ") and "\n" not in message


@pytest.mark.parametrize("shape", [(4, 5, 6, 2), (4, 5), (1, 5, 6, 1, 3)])
def test_only_three_dimensions(tmp_path, shape):
    path = make(tmp_path / "a.nii", np.zeros(shape, np.float32))
    for read in (nifti.load, nifti.read_grid):
        with pytest.raises(DataError, match=r"dimensions .* not 3"):
            read(path)


def test_complex_and_colour_images_are_refused(tmp_path):
    with pytest.raises(DataError, match="complex numbers"):
        nifti.load(make(tmp_path / "a.nii", np.ones((2, 2, 2), np.complex64)))
    colour = np.zeros((2, 2, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colour, np.eye(4)), tmp_path / "b.nii")
    with pytest.raises(DataError, match="colours"):
        nifti.load(tmp_path / "b.nii")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity(tmp_path, bad):
    array = blob_brain((4, 4, 4))
    array[1, 2, 3] = array[2, 2, 2] = bad
    path = make(tmp_path / "a.nii", array)
    with pytest.raises(DataError, match="holds 2 NaN or infinite voxels of 64"):
        nifti.load(path)
    assert np.isfinite(nifti.load(path, check=False).array).sum() == 62


def test_no_voxels_and_no_affine(tmp_path):
    path = make(tmp_path / "a.nii", np.zeros((2, 3, 4), np.float32))
    data = bytearray(path.read_bytes())
    data[42:44] = struct.pack("<h", 0)
    (tmp_path / "b.nii").write_bytes(data)
    with pytest.raises(DataError, match="holds no voxels"):
        nifti.load(tmp_path / "b.nii")
    data = bytearray(path.read_bytes())
    data[280:296] = struct.pack("<4f", 0, 0, 0, 0)
    path.write_bytes(data)
    with pytest.raises(DataError, match="no usable affine"):
        nifti.load(path)


def test_a_constant_image_of_a_case(tmp_path):
    files = write_case(tmp_path, {"T1w": np.full((3, 3, 3), 7.0), "T2w": blob_brain((3, 3, 3))})
    case = Case("X", "X", files)
    with pytest.raises(DataError, match=r"T1w of case X: .*T1w.nii.gz is constant \(every voxel is 7\)"):
        nifti.load_contrast(case, "T1w")
    np.testing.assert_array_equal(nifti.load_contrast(case, "T2w").array, blob_brain((3, 3, 3)))
    with pytest.raises(DataError, match="case X has no FLAIR"):
        nifti.load_contrast(case, "FLAIR")


# --- sform, qform, grids ------------------------------------------------------------------------------------------


def forms(path: Path, sform: np.ndarray, scode: int, qform: np.ndarray, qcode: int) -> Path:
    image = nib.Nifti1Image(blob_brain((10, 10, 10)), None)
    image.header.set_sform(sform, scode)
    image.header.set_qform(qform, qcode)
    nib.save(image, path)
    return path


def test_forms_that_disagree_earn_a_note_with_the_distance(tmp_path):
    moved = np.eye(4)
    moved[0, 3] = 10
    path = forms(tmp_path / "a.nii", np.eye(4), 1, moved, 1)
    volume = nifti.load(path)
    assert len(volume.notes) == 1 and "up to 10 mm apart" in volume.notes[0]
    np.testing.assert_array_equal(volume.affine, np.eye(4))  # the sform
    assert nifti.read_grid(path).notes == volume.notes
    for read in (nifti.load, nifti.read_grid):
        with pytest.raises(DataError, match="10 mm apart"):
            read(path, strict=True)


def test_forms_that_agree_or_are_alone_earn_none(tmp_path):
    affine = rotation(20, (1, 1, 3), (1, 2, 3))
    moved = affine + np.diag([0, 0, 0, 0.0])
    moved[0, 3] += 0.01  # below the tolerance
    assert nifti.load(forms(tmp_path / "a.nii", affine, 1, moved, 1), strict=True).notes == ()
    assert nifti.load(forms(tmp_path / "b.nii", affine, 1, np.eye(4), 0), strict=True).notes == ()
    only_q = nifti.load(forms(tmp_path / "c.nii", np.eye(4), 0, affine, 1), strict=True)
    np.testing.assert_allclose(only_q.affine, affine, atol=1e-4)


def test_no_form_and_other_units_earn_a_note(tmp_path):
    assert "left and right are a guess" in nifti.load(forms(tmp_path / "a.nii", np.eye(4), 0, np.eye(4), 0)).notes[0]
    path = make(tmp_path / "b.nii", blob_brain((3, 3, 3)), xyzt_units=1)
    assert "lengths are given in meter" in nifti.load(path).notes[0]


def test_a_damaged_qform_earns_a_note(tmp_path):
    path = forms(tmp_path / "a.nii", np.eye(4), 1, np.eye(4), 1)
    data = bytearray(path.read_bytes())
    data[256:268] = struct.pack("<3f", 3, 3, 3)  # no unit quaternion
    path.write_bytes(data)
    assert "qform is damaged" in nifti.load(path).notes[0]


def test_same_grid_is_about_millimetres_at_the_corners():
    shape = (101, 11, 11)
    grid = nifti.Grid(shape, np.eye(4))
    stretched = np.diag([1.002, 1, 1, 1])  # 0.2 mm at the far corner
    assert not nifti.same_grid(grid, nifti.Grid(shape, stretched))
    assert nifti.same_grid(grid, nifti.Grid(shape, stretched), tol=0.21)
    assert not nifti.same_grid(grid, nifti.Grid(shape, stretched), tol=0.19)
    assert not nifti.same_grid(grid, nifti.Grid((101, 11, 12), np.eye(4)))
    assert nifti.grid_difference(grid, grid) == ""


def test_check_same_grid_names_both_and_the_fix():
    a, b = nifti.Grid((2, 3, 4), np.eye(4)), nifti.Grid((2, 3, 5), np.diag([-1, 1, 2, 1]))
    nifti.check_same_grid({"T1w of case X": a, "T2w of case X": nifti.Grid((2, 3, 4), np.eye(4))})
    with pytest.raises(DataError, match=r"T2w of case X and T1w of case X differ: 2x3x5 at 1x1x2 mm LAS .*Register and resample"):
        nifti.check_same_grid({"T1w of case X": a, "T2w of case X": b})
    moved = np.eye(4)
    moved[2, 3] = 5
    with pytest.raises(DataError, match="up to 5 mm apart"):
        nifti.check_same_grid({"a": a, "b": Volume(np.zeros((2, 3, 4)), moved)})


# --- saving -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_floats_survive_a_scaled_integer_header(tmp_path, suffix):
    """The source's int16 with a slope must not quantise the result; the raw bytes of the header are checked."""
    affine = rotation(15, (0.9, 0.9, 3), (90, -126, -72))
    source = nib.Nifti1Image(blob_brain((6, 7, 8)).astype(np.int16), affine)
    source.header.set_slope_inter(2.5, 10)
    source.header["cal_max"], source.header["descrip"], source.header["aux_file"] = 99, b"John Doe", b"colours"
    source.header.set_sform(affine, 4)
    source.header.set_qform(affine, 1)
    source.header.set_xyzt_units("mm", "sec")
    source.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"patient name"))
    nib.save(source, tmp_path / "source.nii.gz")
    like = nifti.load(tmp_path / "source.nii.gz")
    result = np.random.default_rng(0).normal(0, 1e-3, like.shape).astype(np.float32)
    path = nifti.save(tmp_path / f"out{suffix}", result, like, "SYNTHETIC FLAIR")

    header = raw_header(path)
    assert struct.unpack("<h", header[70:72]) == (16,)  # datatype float32
    assert struct.unpack("<h", header[72:74]) == (32,)  # bitpix
    assert struct.unpack("<f", header[108:112]) == (352.0,)  # vox_offset: no extension was carried over
    assert struct.unpack("<ff", header[112:120]) == (1.0, 0.0)  # slope, intercept
    assert struct.unpack("<ff", header[124:132]) == (0.0, 0.0)  # cal_max, cal_min
    assert struct.unpack("<hh", header[252:256]) == (1, 4)  # qform, sform codes
    assert header[148:228].rstrip(b"\0") == b"SYNTHETIC FLAIR" and b"colours" not in header
    assert header[123] == 2 | 8  # mm, s
    assert header[348:352] == b"\0\0\0\0"
    image = nib.load(path)
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), result)
    np.testing.assert_array_equal(image.affine, like.affine)
    np.testing.assert_allclose(image.get_qform(), affine, atol=1e-4)


def test_equal_volumes_are_equal_files_and_nothing_else_is_left(tmp_path):
    like = nifti.load(make(tmp_path / "a.nii.gz", blob_brain((5, 5, 5))))
    first = nifti.save(tmp_path / "o1.nii.gz", like.array, like, "x").read_bytes()
    second = nifti.save(tmp_path / "o2.nii.gz", like.array, like, "x").read_bytes()
    assert first == second and first[4:8] == b"\0\0\0\0"  # gzip mtime
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.nii.gz", "o1.nii.gz", "o2.nii.gz"]


def test_saving_without_a_header_sets_both_forms(tmp_path):
    affine = rotation(30, (1, 2, 3), (-5, 6, 7))
    array = blob_brain((4, 5, 6))
    path = nifti.save(tmp_path / "a.nii", array, Volume(array, affine))
    volume = nifti.load(path, strict=True)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
    np.testing.assert_allclose(volume.header.get_qform(), affine, atol=1e-4)
    assert volume.header.get_xyzt_units()[0] == "mm"


def test_an_affine_other_than_the_headers_wins_in_both_forms(tmp_path):
    like = nifti.load(forms(tmp_path / "a.nii", np.eye(4), 1, np.eye(4), 1))
    moved = rotation(40, (1, 1, 2), (9, 8, 7))
    path = nifti.save(tmp_path / "b.nii", like.array, Volume(like.array, moved, header=like.header))
    again = nifti.load(path, strict=True)
    np.testing.assert_allclose(again.affine, moved, atol=1e-5)
    assert (int(again.header["sform_code"]), int(again.header["qform_code"])) == (1, 1)
    # a sheared affine fits no quaternion: the qform must not contradict it
    path = nifti.save(tmp_path / "c.nii", like.array, Volume(like.array, OBLIQUE, header=like.header))
    again = nifti.load(path, strict=True)
    np.testing.assert_allclose(again.affine, OBLIQUE, atol=1e-5)
    assert int(again.header["qform_code"]) == 0


@pytest.mark.parametrize(("dtype", "code"), [("uint8", 2), ("int16", 4)])
def test_labels_are_saved_as_they_are(tmp_path, dtype, code):
    labels = np.arange(27).reshape(3, 3, 3)
    path = nifti.save(tmp_path / "a.nii.gz", labels, Volume(labels, np.eye(4)), dtype=dtype)
    assert struct.unpack("<h", raw_header(path)[70:72]) == (code,)
    np.testing.assert_array_equal(nifti.load(path, np.int16).array, labels)


def test_what_save_refuses_leaves_nothing(tmp_path):
    like = Volume(np.zeros((2, 2, 2)), np.eye(4))
    out = tmp_path / "a.nii.gz"
    bad = np.zeros((2, 2, 2))
    bad[0, 0, 0] = np.nan
    for array, dtype, words in [
        (np.zeros((2, 2, 3)), "float32", "shape"),
        (bad, "float32", "NaN or infinite"),
        (np.full((2, 2, 2), 0.5), "uint8", "not whole numbers"),
        (np.full((2, 2, 2), -1), "uint8", "do not fit uint8"),
    ]:
        with pytest.raises(DataError, match=words):
            nifti.save(out, array, like, dtype=dtype)
    with pytest.raises(UsageError, match="float32, int16, uint8"):
        nifti.save(out, like.array, like, dtype="float64")
    with pytest.raises(UsageError, match=r"not named \.nii or \.nii\.gz"):
        nifti.save(tmp_path / "a.png", like.array, like)
    assert list(tmp_path.iterdir()) == []


def test_the_output_must_not_be_an_input(tmp_path):
    a = make(tmp_path / "a.nii.gz", blob_brain((3, 3, 3)))
    (tmp_path / "link.nii.gz").symlink_to(a)
    for name in ("a.nii.gz", "link.nii.gz"):
        with pytest.raises(UsageError, match="is the input"):
            nifti.check_output(tmp_path / name, [a])
    assert nifti.check_output(tmp_path / "b.nii.gz", [a]) == tmp_path / "b.nii.gz"
    (tmp_path / "d.nii").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        nifti.check_output(tmp_path / "d.nii")


def test_stem():
    assert nifti.stem("x/a.b.nii.gz") == "a.b" and nifti.stem("a.NII") == "a" and nifti.stem("a.txt") == "a.txt"
