"""Damaged, hostile and odd files: a row a kind, with what it stands for. Each costs one line, little memory and its own case."""

from __future__ import annotations

import gzip
import json
import os
import socket
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from helpers import blob_brain, write_case
from synthmr.case import Case, check_name
from synthmr.config import PrepareConfig
from synthmr.documents import parse_json, parse_yaml, read_json, read_yaml
from synthmr.errors import DataError, SynthmrError
from synthmr.io import nifti
from synthmr.io.files import sha256
from synthmr.io.grid import Grid, check_same_grid, turn_between
from synthmr.io.index import describe, index
from synthmr.io.table import read_rows, read_split_table
from synthmr.prepare.case import prepare_case

SHAPE = (12, 14, 10)


def one_line(error: BaseException) -> str:
    message = str(error)
    assert message and "\n" not in message and len(message) < 1000
    return message


def image_bytes(shape: tuple[int, ...] = (6, 7, 8), dtype: str = "int16", kind: type = nib.Nifti1Image) -> bytearray:
    """A whole, uncompressed image."""
    values = np.arange(np.prod(shape), dtype=float).reshape(shape) % 100
    image = kind(values.astype(dtype), np.diag([-1.0, 1.0, 1.0, 1.0]))
    image.set_sform(image.affine, 1)
    image.set_qform(image.affine, 1)
    return bytearray(image.to_bytes())


def put(data: bytearray, offset: int, kind: str, *values: object) -> bytearray:
    struct.pack_into("<" + kind, data, offset, *values)
    return data


# --- headers ------------------------------------------------------------------------------------------------------------

HEADERS = [
    # what it stands for, offset, format, values, what the line says; None: it is read
    ("unit of length 7, as of a field that was never written", 123, "B", (7,), None),
    ("unit of length and time 255", 123, "B", (255,), None),
    ("voxels beyond every file", 108, "f", (1e38,), "voxels would begin"),
    ("voxels at no number", 108, "f", (np.nan,), "voxels would begin"),
    ("voxels before the file", 108, "f", (-352.0,), "no readable NIfTI file"),
    ("voxels inside the header", 108, "f", (100.0,), "no readable NIfTI file"),
    ("offset 0, as some writers leave it", 108, "f", (0.0,), None),
    ("no dimensions", 40, "h", (0,), "no readable NIfTI file"),
    ("negative dimensions", 40, "h", (-3,), "no readable NIfTI file"),
    ("nine dimensions", 40, "h", (9,), "no readable NIfTI file"),
    ("two dimensions: a slice", 40, "h", (2,), "2 dimensions"),
    ("an edge of 0 voxels", 42, "h", (0,), "holds no voxels"),
    ("an edge of -1 voxels, as FreeSurfer writes vectors", 42, "h", (-1,), "holds no voxels"),
    ("an edge of 32767 voxels", 42, "h", (32767,), "cut short or damaged"),
    ("a file of 0 frames", 40, "hhhhh", (4, 6, 7, 8, 0), "4 dimensions"),
    ("one frame, 4-D (dcm2niix, SPM)", 40, "hhhhh", (4, 6, 7, 8, 1), None),
    ("complex numbers (k-space, phase)", 70, "hh", (32, 64), "complex numbers"),
    ("colours (a screenshot, a FA map)", 70, "hh", (128, 24), "colours"),
    ("colours with opacity", 70, "hh", (2304, 32), "colours"),
    ("data type 0", 70, "hh", (0, 16), "data code 0 not supported"),
    ("data type 77", 70, "hh", (77, 16), "data code 77 not recognized"),
    ("single bits", 70, "hh", (1, 1), "data code 1 not supported"),
    ("double where there is int16", 70, "hh", (64, 64), "cut short or damaged"),
    ("slope 0: not scaled", 112, "ff", (0.0, 5.0), None),
    ("slope NaN: not scaled (nibabel)", 112, "ff", (np.nan, np.nan), None),
    ("slope infinite: not scaled", 112, "ff", (np.inf, 0.0), None),
    ("intercept NaN", 112, "ff", (2.0, np.nan), "no readable NIfTI file"),
    ("slope so large that voxels become infinite", 112, "ff", (3e38, 0.0), "too large for float32"),
    ("affine NaN", 280, "f", (np.nan,), None),  # the qform is there
    ("affine infinite", 280, "f", (np.inf,), None),
    ("voxels of 1e30 mm, both forms", 76, "4f12x", (1.0, 1e30, 1e30, 1e30), None),  # the sform is there
    ("sform code 99", 254, "h", (99,), None),
    ("magic of a pair", 344, "4s", (b"ni1\0",), "pair of files"),
    ("no magic (ANALYZE 7.5)", 344, "4s", (b"\0\0\0\0",), "no NIfTI header"),
    ("header of another size", 0, "i", (1543569408,), None),  # big-endian 348 in a little-endian file
    ("quaternion of length 5", 256, "fff", (3.0, 3.0, 3.0), None),
]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(("what", "offset", "kind", "values", "words"), HEADERS, ids=[row[0] for row in HEADERS])
def test_a_header_that_is_wrong_costs_one_line(tmp_path, suffix, what, offset, kind, values, words):
    data = bytes(put(image_bytes(), offset, kind.replace("12x", ""), *values))
    path = tmp_path / f"T1{suffix}"
    path.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    try:
        volume = nifti.load(path, label="T1w of case X")
    except SynthmrError as error:
        message = one_line(error)
        assert str(path) in message and message.startswith("T1w of case X")
        if what != "header of another size":
            assert words is not None and words in message
    else:
        assert words is None
        assert volume.array.shape == (6, 7, 8) and np.isfinite(volume.array).all() and np.isfinite(volume.affine).all()
    write_case(tmp_path / "cohort" / "B", {"T1": blob_brain(SHAPE), "T2": blob_brain(SHAPE, 1)})
    (tmp_path / "cohort" / "A").mkdir()
    path.rename(tmp_path / "cohort" / "A" / path.name)
    summary = describe(index(tmp_path / "cohort"))
    assert [case["name"] for case in summary["cases"]] == ["A", "B"]  # it costs its own case alone
    assert summary["cases"][1]["grid"].startswith("12x14x10")


def test_float64_beyond_float32_is_told_from_nan(tmp_path):
    values = np.ones(SHAPE)
    values[3, 3, 3] = 1e300
    path = write_case(tmp_path, {"T1": values})["T1"]
    with pytest.raises(DataError, match="holds 1 voxels too large for float32"):
        nifti.load(path)
    assert nifti.load(path, np.float64).array.max() == 1e300


def test_nifti2_dimensions_that_overflow_are_refused_at_once(tmp_path):
    data = image_bytes(kind=nib.Nifti2Image)
    struct.pack_into("<qqqq", data, 16, 3, 2**40, 2**40, 2**40)
    (tmp_path / "T1.nii.gz").write_bytes(gzip.compress(bytes(data)))
    with pytest.raises(DataError, match="more than its"):
        nifti.load(tmp_path / "T1.nii.gz")


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("slope", [(1.0, 0.0), (0.37, -5.5), (0.0, 0.0)])
def test_voxels_are_read_as_nibabel_reads_them(tmp_path, dtype, order, slope):
    kind = np.dtype(dtype).newbyteorder(order)
    header = nib.Nifti1Header(endianness=order)
    header.set_data_shape((5, 6, 7))
    header.set_data_dtype(kind)
    header.set_sform(np.eye(4), 1)
    header["scl_slope"], header["scl_inter"], header["vox_offset"] = *slope, 352
    values = (np.random.default_rng(0).normal(50, 30, 210) % 100).astype(kind)
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(bytes(header.binaryblock) + b"\0\0\0\0" + values.tobytes()))
    expected = np.asanyarray(nib.load(path).dataobj).astype(np.float32)
    np.testing.assert_array_equal(nifti.load(path).array, expected)


# --- streams ------------------------------------------------------------------------------------------------------------


def gz(data: bytes, level: int = 6) -> bytes:
    return gzip.compress(data, level, mtime=0)


def zeros_gz(size: int) -> bytes:
    """A gzip member of many zeros."""
    packer = zlib.compressobj(9, wbits=31)
    block = bytes(2**22)
    return b"".join(packer.compress(block) for _ in range(size // len(block))) + packer.flush()


def claim(edge: int) -> bytes:
    """A small image whose header says that it is large."""
    return bytes(put(put(image_bytes(), 42, "hhh", edge, edge, edge), 70, "hh", 16, 32))


DATA = bytes(image_bytes())
STREAMS: list[tuple[str, Callable[[], bytes], str | None]] = [
    ("one member", lambda: gz(DATA), None),
    ("two members (bgzip, pigz, cat)", lambda: gz(DATA[:400]) + gz(DATA[400:]), None),
    ("a member in between that is empty", lambda: gz(DATA[:400]) + gz(b"") + gz(DATA[400:]), None),
    ("a member a voxel", lambda: b"".join(gz(DATA[i : i + 2]) for i in range(0, len(DATA), 2)), None),
    ("zeros behind the stream (tapes, block devices)", lambda: gz(DATA) + bytes(512), None),
    ("zeros behind the voxels", lambda: gz(DATA + bytes(100)), None),
    ("a bomb behind the voxels", lambda: gz(DATA) + zeros_gz(2**26), "goes on after"),
    ("a second volume behind the first (a 4-D file called 3-D)", lambda: gz(DATA + DATA[352:]), "goes on after"),
    ("text behind the stream", lambda: gz(DATA) + b"and this?", "cut short or damaged"),
    ("half a stream", lambda: gz(DATA)[: len(gz(DATA)) // 2], "cut short or damaged"),
    ("all but the last byte", lambda: gz(DATA)[:-1], "cut short or damaged"),
    ("a wrong checksum", lambda: gz(DATA)[:-8] + b"\1\2\3\4" + gz(DATA)[-4:], "cut short or damaged"),
    ("a whole stream of half an image", lambda: gz(DATA[: len(DATA) // 2]), "ends before"),
    ("a header alone", lambda: gz(DATA[:352]), "ends before"),
    ("less than a header", lambda: gz(DATA[:200]), "no NIfTI header"),
    ("nothing in it", lambda: gz(b""), "no NIfTI header"),
    ("a header that claims 1000^3 float32", lambda: gz(claim(1000)), "(4.0 GB), more than its"),
    ("extensions of 40 MB that are not there", lambda: gz(bytes(put(bytearray(DATA), 108, "f", 4e7))), "more than its"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "make", "words"), STREAMS, ids=[row[0] for row in STREAMS])
def test_a_stream_is_unpacked_as_far_as_its_header_says(tmp_path, what, make, words):
    path = tmp_path / "T1.nii.gz"
    path.write_bytes(make())
    tracemalloc.start()
    begin = time.monotonic()
    try:
        volume = nifti.load(path)
    except DataError as error:
        message = one_line(error)
        assert words is not None and words in message
    else:
        assert words is None
        np.testing.assert_array_equal(volume.array, nib.Nifti1Image.from_bytes(DATA).get_fdata())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6 and time.monotonic() - begin < 10


def test_a_volume_takes_its_own_size_and_a_block(tmp_path):
    path = tmp_path / "a.nii.gz"
    data = bytes(put(image_bytes((1, 1, 1), "uint8"), 42, "hhh", 256, 256, 256))[:352]
    path.write_bytes(gz(data) + zeros_gz(2**24))
    nifti.load(write_case(tmp_path, {"T1": blob_brain((4, 4, 4))})["T1"])  # what is imported does not count
    tracemalloc.start()
    assert nifti.load(path).array.nbytes == 4 * 2**24
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 4 * 2**24 <= peak < 4 * 2**24 + 60e6


# --- what is no file, or another one --------------------------------------------------------------------------------------


def pipe(path: Path) -> None:
    os.mkfifo(path)


def written(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data) and None


ANNEX = "../.git/annex/objects/xJ/3k/MD5E-s8.nii.gz/MD5E-s8.nii.gz"
KINDS: list[tuple[str, Callable[[Path], object], str]] = [
    ("a pipe", pipe, "is a pipe"),
    ("a link to /dev/zero", lambda path: path.symlink_to("/dev/zero"), "is a device"),
    ("a link to itself", lambda path: path.symlink_to(path), "cannot be read"),
    ("a folder", lambda path: path.mkdir(), "is a folder"),
    ("a link to nothing", lambda path: path.symlink_to("gone.nii.gz"), "is a link to gone.nii.gz, which does not exist"),
    ("git-annex, locked (OpenNeuro by DataLad)", lambda path: path.symlink_to(ANNEX), "git annex get"),
    ("git-annex, unlocked", written(b"/annex/objects/MD5E-s8.nii.gz\n"), "datalad get"),
    ("git-annex without links (Windows)", written(ANNEX.encode()), "git annex get"),
    ("Git LFS", written(b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 8\n"), "git lfs pull"),
    ("a login page", written(b"<!DOCTYPE html><html>log in</html>"), "the download failed"),
    ("S3 says no", written(b"<?xml version='1.0'?><Error><Code>AccessDenied"), "the download failed"),
    ("zeros of an interrupted copy", written(bytes(5000)), "zeros alone"),
    ("a ZIP archive", written(b"PK\x03\x04" + bytes(400)), "ZIP archive"),
    ("bzip2", written(b"BZh9" + bytes(400)), "bzip2"),
    ("xz", written(b"\xfd7zXZ\0" + bytes(400)), "xz"),
    ("DICOM", written(bytes(128) + b"DICM" + b"x" * 400), "DICOM"),
    ("NRRD", written(b"NRRD0004\n" + bytes(400)), "NRRD"),
    ("MINC 2", written(b"\x89HDF\r\n" + bytes(400)), "HDF5"),
    ("a NumPy array", written(b"\x93NUMPY" + bytes(400)), "NumPy"),
    ("a picture", written(b"\x89PNG\r\n" + bytes(400)), "PNG"),
    ("nothing", written(b""), "empty file"),
    ("one byte", written(b"\x1f"), "no NIfTI file"),
    ("the start of a gzip stream", written(b"\x1f\x8b"), "no readable NIfTI file"),
    ("noise", written(np.random.default_rng(0).bytes(3000)), "no NIfTI file"),
]


@pytest.mark.parametrize(("what", "make", "words"), KINDS, ids=[row[0] for row in KINDS])
def test_what_is_no_image_costs_its_case_one_line(tmp_path, what, make, words):
    write_case(tmp_path / "B", {"T1": blob_brain(SHAPE)})
    (tmp_path / "A").mkdir()
    path = tmp_path / "A" / "T1.nii.gz"
    make(path)
    begin = time.monotonic()
    for read in (nifti.load, nifti.read_grid):
        with pytest.raises(DataError) as caught:
            read(path)
        assert words in one_line(caught.value)
    summary = describe(index(tmp_path))
    assert [case["name"] for case in summary["cases"] if case["grid"] != "unreadable"] == ["B"]
    if not path.is_dir() and not path.is_file():
        with pytest.raises(DataError):
            sha256(path)
    assert time.monotonic() - begin < 5


def test_a_socket_is_no_image(tmp_path, monkeypatch):
    path = tmp_path / "T1.nii.gz"
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path.name)
    with pytest.raises(DataError, match="is a socket"):
        nifti.load(path)


def test_a_name_that_no_file_has_is_one_line(tmp_path):
    for name in ("a" * 300 + ".nii.gz", "a\0b.nii.gz"):
        with pytest.raises(DataError) as caught:
            nifti.load(tmp_path / name)
        one_line(caught.value)


def test_a_folder_that_cannot_be_read_costs_its_case(tmp_path, monkeypatch):
    for case in ("A", "B"):
        write_case(tmp_path / case, {"T1": blob_brain(SHAPE)})
    real = os.scandir

    def scandir(path: object = ".") -> object:
        if str(path).endswith("/A"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    cohort = index(tmp_path)
    assert [case.name for case in cohort.cases] == ["B"]
    assert any("A: cannot be read (Permission denied)" in line for line in cohort.problems)


# --- geometry -----------------------------------------------------------------------------------------------------------


def formed(path: Path, scode: int, sform: np.ndarray, qcode: int, qform: np.ndarray, units: int = 2) -> Path:
    image = nib.Nifti1Image(blob_brain(SHAPE), None)
    image.header.set_sform(sform, scode)
    image.header.set_qform(qform, qcode)
    image.header["xyzt_units"] = units
    nib.save(image, path)
    return path


MM = np.array([[-1.0, 0, 0, 60], [0, 1.5, 0, -40], [0, 0, 2.0, -30], [0, 0, 0, 1]])
TO_METRES, TO_MICRONS = np.diag([1e-3, 1e-3, 1e-3, 1]), np.diag([1e3, 1e3, 1e3, 1])
UNITS = [
    ("millimetres", 2, np.eye(4), ""),
    ("no unit (many converters)", 0, np.eye(4), ""),
    ("metres", 1, TO_METRES, "given in meter; they are converted"),
    ("microns", 3, TO_MICRONS, "given in micron; they are converted"),
    ("metres and seconds", 1 + 8, TO_METRES, "given in meter; they are converted"),
    ("metres by mistake: the numbers are millimetres", 1, np.eye(4), "given in meter, which would make voxels of 1e+03"),
    ("microns by mistake", 3, np.eye(4), "given in micron, which would make voxels of 0.001"),
    ("a code without meaning", 5, np.eye(4), "code 5"),
]


@pytest.mark.parametrize(("what", "code", "scale", "words"), UNITS, ids=[row[0] for row in UNITS])
def test_lengths_are_millimetres_whatever_the_unit(tmp_path, what, code, scale, words):
    affine = scale @ MM
    path = formed(tmp_path / "a.nii.gz", 1, affine, 1, affine, code)
    volume = nifti.load(path)
    np.testing.assert_allclose(volume.affine, MM, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(nifti.read_grid(path).spacing, (1, 1.5, 2), rtol=1e-5)
    assert (words in volume.notes[0]) if words else volume.notes == ()
    out = nifti.save(tmp_path / "b.nii.gz", volume.array, volume)
    np.testing.assert_allclose(nifti.load(out).affine, MM, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(nib.load(out).affine, affine, rtol=1e-5)  # it lies where the source lies, in every program


def test_metres_do_not_widen_the_tolerance(tmp_path):
    moved = MM.copy()
    moved[0, 3] += 1.0
    grids = [
        nifti.read_grid(formed(tmp_path / f"{name}.nii", 1, TO_METRES @ affine, 0, MM, 1))
        for name, affine in (("a", MM), ("b", moved))
    ]
    assert not nifti.same_grid(*grids)


ZERO, SINGULAR, WILD = np.zeros((4, 4)), np.diag([1.0, 1, 0, 1]), np.full((4, 4), np.nan)
FORMS = [
    ("both", 1, MM, 1, MM, "", True),
    ("the sform alone (FSL)", 1, MM, 0, MM, "", True),
    ("the qform alone (DICOM converters)", 0, MM, 1, MM, "", True),
    ("a zero sform, a valid qform", 1, ZERO, 1, MM, "the sform is zero or damaged; the qform is used", True),
    ("a flat sform, a valid qform", 2, SINGULAR, 1, MM, "the sform is zero or damaged", True),
    ("an sform of NaN, a valid qform", 4, WILD, 1, MM, "the sform is zero or damaged", True),
    ("a zero sform alone", 1, ZERO, 0, MM, "", False),
    ("an sform of 1e30", 1, MM * 1e30, 0, MM, "", False),
    ("an sform of 1e-30", 1, MM * 1e-30, 0, MM, "", False),
]


@pytest.mark.parametrize(("what", "scode", "sform", "qcode", "qform", "words", "read"), FORMS, ids=[row[0] for row in FORMS])
def test_a_damaged_form_gives_way_to_the_other(tmp_path, what, scode, sform, qcode, qform, words, read):
    path = tmp_path / "a.nii"
    formed(path, 1, MM, qcode, qform)
    data = bytearray(path.read_bytes())
    put(data, 254, "h", scode)
    put(data, 280, "12f", *np.clip(sform[:3], -3e38, 3e38).ravel())
    path.write_bytes(data)
    if not read:
        with pytest.raises(DataError, match="no usable affine"):
            nifti.load(path)
        return
    volume = nifti.load(path)
    np.testing.assert_allclose(volume.affine, MM, atol=1e-4)
    assert (words in volume.notes[0]) if words else volume.notes == ()
    out = nifti.save(tmp_path / "b.nii", volume.array, volume)
    np.testing.assert_allclose(nib.load(out).affine, MM, atol=1e-4)


ORDERS = ["RAS", "LPS", "LAS", "RPI", "ASR", "SRA", "PIR", "ILA"]
CONFIG = PrepareConfig()


@pytest.mark.parametrize("letters", ORDERS)
def test_one_grid_in_another_storage_order_is_reordered_to_the_bit(tmp_path, letters):
    """Case 16: fslreorient2std, mri_convert or SPM was run on some of a case's files."""
    affine = np.array([[1.1, 0.1, 0, -6], [-0.1, 1.2, 0.05, -8], [0, -0.05, 2.0, -9], [0, 0, 0, 1]])
    arrays = {"T1": blob_brain(SHAPE), "T2": blob_brain(SHAPE, 1), "mask": (blob_brain(SHAPE) > 0).astype(np.int16)}
    files = write_case(tmp_path / "a", arrays, affine)
    case = Case("X", "X", {"T1w": files["T1"], "T2w": files["T2"]}, files["mask"])
    expected = prepare_case(case, ["T1w", "T2w"], CONFIG)
    for name in ("T2", "mask"):
        image = nib.load(files[name])
        turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(letters))
        nib.save(image.as_reoriented(turn), files[name])
    found = prepare_case(case, ["T1w", "T2w"], CONFIG)
    for name in ("T1w", "T2w"):
        np.testing.assert_array_equal(found.images[name], expected.images[name])
    np.testing.assert_array_equal(found.mask, expected.mask)
    notice = str(found.history[0].get("notice", ""))
    assert ("reordered" in notice) == (letters != "RAS")
    a, b = nifti.read_grid(files["T2"]), nifti.read_grid(files["T1"])
    assert turn_between(a, b) is not None
    if letters != "RAS":
        with pytest.raises(DataError, match=r"reorder one file .*nothing need be resampled"):
            check_same_grid({"T2w": a, "T1w": b})


def test_grids_that_no_reordering_makes_one_still_want_registration():
    moved = np.diag([-1.0, 1, 1, 1])  # flipped, but not about its own middle
    a, b = Grid((5, 6, 7), moved), Grid((5, 6, 7), np.eye(4))
    assert turn_between(a, b) is None
    with pytest.raises(DataError, match="Register and resample"):
        check_same_grid({"T2w": a, "T1w": b}, any_order=True)


# --- NaN ----------------------------------------------------------------------------------------------------------------


def holes(where: str) -> np.ndarray:
    brain = blob_brain((20, 22, 18))
    array = brain.copy()
    if where == "all of the air":
        array[brain == 0] = np.nan
    elif where == "an edge":
        array[:2] = np.nan
    elif where == "single voxels of the air":
        array[0, 0, ::3] = array[1, -1, ::4] = np.inf
    elif where == "deep inside":
        array[9:12, 10:12, 9] = np.nan
    elif where == "one voxel inside":
        array[10, 11, 9] = -np.inf
    elif where == "a bite out of the rim":
        inside = np.argwhere(brain > 0)
        x, y, z = inside[inside[:, 0].argmax()]
        array[x - 3 : x + 1, y - 1 : y + 2, z - 1 : z + 2] = np.nan
    return array


NANS = [
    ("all of the air", True),  # SPM, ANTs: division by a mask
    ("an edge", True),  # resampling beyond the field of view
    ("single voxels of the air", True),  # T1w/T2w ratios, 0/0
    ("deep inside", False),
    ("one voxel inside", False),
    ("a bite out of the rim", False),
]


@pytest.mark.parametrize(("where", "fine"), NANS)
@pytest.mark.parametrize("masked", [False, True])
def test_nan_are_read_as_0_outside_the_brain_alone_and_where_it_was_asked_for(tmp_path, where, fine, masked):
    brain = blob_brain((20, 22, 18))
    arrays = {"T1": holes(where), "T2": blob_brain((20, 22, 18), 1), **({"mask": (brain > 0) * 1} if masked else {})}
    write_case(tmp_path / "P1", arrays)
    case = index(tmp_path).cases[0]
    with pytest.raises(DataError, match=r"NaN or infinite voxels .*--nan-to-zero"):
        prepare_case(case, ["T1w", "T2w"], CONFIG)
    case = index(tmp_path, nan_to_zero=True).cases[0]
    if not fine:
        with pytest.raises(DataError, match="inside the brain"):
            prepare_case(case, ["T1w", "T2w"], CONFIG)
        return
    found = prepare_case(case, ["T1w", "T2w"], CONFIG)
    write_case(tmp_path / "P1", {"T1": np.nan_to_num(arrays["T1"], nan=0, posinf=0, neginf=0)})
    expected = prepare_case(index(tmp_path).cases[0], ["T1w", "T2w"], CONFIG)
    np.testing.assert_array_equal(found.images["T1w"], expected.images["T1w"])
    assert "read as 0" in str(found.history[0]["notice"])


# --- names --------------------------------------------------------------------------------------------------------------

BAD_NAMES = [
    "../../evil", "/etc/evil", "a/b", "a\\b", "..", ".", "a\nb", "a\rb", "a\tb", "a\x00b", "a\x1b[31mb", "a\x7fb", "a\x85b",
    "a\u2028b", "a\u202eb", "x" * 300, "é" * 100, "a\udce9b",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES, ids=[ascii(name)[:20] for name in BAD_NAMES])
def test_a_name_that_is_a_path_or_breaks_a_line_is_refused_wherever_it_enters(tmp_path, name):
    with pytest.raises(DataError) as caught:
        check_name(name, "a table")
    one_line(caught.value)
    with pytest.raises(DataError):
        Case(name, "s", {})
    write_case(tmp_path / "p", {"a": blob_brain(SHAPE)})
    if "\0" in name or "\udce9" in name:
        return
    quoted = '"' + name + '"'
    (tmp_path / "cases.csv").write_text(f"case,T1w\n{quoted},p/a.nii.gz\n", newline="")
    (tmp_path / "split.csv").write_text(f"case,split\n{quoted},train\n", newline="")
    if name.strip() == name:
        for read in (lambda: index(tmp_path / "cases.csv"), lambda: read_split_table(tmp_path / "split.csv")):
            with pytest.raises(DataError, match="line 2") as caught:
                read()
            one_line(caught.value)


@pytest.mark.parametrize(
    "name", ["sub-01_ses-02", "Müller 3", "患者7", "a.b", "-x", "a" * 160, "BraTS-GLI-00001-000", "p(1)", "x'y"]
)
def test_names_that_people_give_are_taken(name):
    assert check_name(name, "a table") == name


def test_a_folder_with_a_line_break_in_its_name_costs_its_case(tmp_path):
    for name in ("A", "B\nC"):
        write_case(tmp_path / name, {"T1": blob_brain(SHAPE)})
    cohort = index(tmp_path)
    assert [case.name for case in cohort.cases] == ["A"]
    assert any("line break" in line for line in cohort.problems) and not any("\n" in line for line in cohort.problems)


# --- tables, YAML, JSON -------------------------------------------------------------------------------------------------

TABLES = [
    ("a field of 200,000 characters", "case,T1w\np1," + "x" * 200_000 + "\n", "line 2 cannot be read"),
    ("a quote that is never closed", 'case,T1w\np1,"' + "a,b\n" * 50_000, "line 2 cannot be read"),
    ("zeros", "case,T1w\np1,a\0b\n", "is no text"),
    ("two equal columns", "case,T1w,t1w\np1,a,b\n", "two columns"),
    ("more fields than columns", "case,T1w\np1,a,b,c\n", "line 2 has 4 fields"),
    ("nothing", "", "is empty"),
    ("a header alone", "case,T1w\n", "no lines"),
    ("the home of nobody", "case,T1w\np1,~nosuchuser/a.nii.gz\n", "home folder of no user"),
]


@pytest.mark.parametrize(("what", "text", "words"), TABLES, ids=[row[0] for row in TABLES])
def test_a_damaged_table_is_one_line(tmp_path, what, text, words):
    (tmp_path / "cases.csv").write_text(text)
    with pytest.raises(DataError, match=words) as caught:
        index(tmp_path / "cases.csv")
    one_line(caught.value)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_of_every_system_and_line_breaks_in_quotes(tmp_path, end):
    (tmp_path / "t.csv").write_text(end.join(["case,note", 'p1,"two\nlines"', "p2,\u2028x", "", "p3,y"]), newline="")
    columns, rows = read_rows(tmp_path / "t.csv")
    assert columns == ["case", "note"] and [row["case"] for _, row in rows] == ["p1", "p2", "p3"]
    assert rows[0][1]["note"].splitlines() == ["two", "lines"] and rows[0][0] == 2


def test_a_file_with_too_long_a_name_costs_its_case(tmp_path):
    write_case(tmp_path, {"a": blob_brain(SHAPE)})
    (tmp_path / "t.csv").write_text(f"case,T1w\np1,a.nii.gz\np2,{'b' * 300}.nii.gz\n")
    cohort = index(tmp_path / "t.csv")
    assert any("does not exist" in line for line in cohort.problems)
    assert [case["grid"] == "unreadable" for case in describe(cohort)["cases"]] == [False, True]


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
YAMLS = [
    ("aliases of aliases", BOMB, "aliases stand for more"),
    ("aliases of a long word", "a: &a " + "x" * 100_000 + "\nb: [" + "*a, " * 5000 + "]", "aliases stand for more"),
    ("an alias inside itself", "a: &a [*a]", "inside what it is an alias of"),
    ("merged bombs", "a: &a {k: v}\nb: &b {<<: [*a, *a, *a]}\nc: {<<: *b}", None),
    ("lists in lists", "[" * 100_000, "nested"),
    ("mappings in mappings", "".join("  " * i + "a:\n" for i in range(200)), "nested"),
    ("a date that does not exist", "when: 2020-13-45", "cannot be read as YAML"),
    ("an hour that does not exist", "when: 2020-01-01T99:00:00Z", "cannot be read as YAML"),
    ("a number of 5000 digits", "n: " + "9" * 5000, "cannot be read as YAML"),
    ("an object", "!!python/object/apply:os.system ['true']", "cannot be read as YAML"),
    ("binary that is none", "a: !!binary x", "cannot be read as YAML"),
    ("a key twice", "a: 1\na: 2", "a stands there twice"),
    ("a key twice, in a mapping inside", "x: {1: a, 1: b}", "1 stands there twice"),
    ("a list as a key", "? [a]\n: b", "cannot be read as YAML"),
    ("an alias of nothing", "a: *b", "cannot be read as YAML"),
    ("a tab", "a:\n\tb: 1", "cannot be read as YAML"),
    ("a control character", "a: \x01", "cannot be read as YAML"),
    ("two documents", "a: 1\n---\nb: 2", "cannot be read as YAML"),
    ("fine", "a: {b: [1, 2.5, yes, null, 2020-01-02]}", None),
]


@pytest.mark.parametrize(("what", "text", "words"), YAMLS, ids=[row[0] for row in YAMLS])
def test_hostile_yaml_is_one_line_at_once(what, text, words):
    begin = time.monotonic()
    if words is None:
        assert len(repr(parse_yaml(text, "x.yaml"))) < 1000
    else:
        with pytest.raises(DataError, match=words) as caught:
            parse_yaml(text, "x.yaml")
        assert "x.yaml" in one_line(caught.value)
    assert time.monotonic() - begin < 10


JSONS = [
    ("brackets in brackets", "[" * 100_000, "nested too deeply"),
    ("brackets in brackets, closed", "[" * 500 + "]" * 500, "nested more than"),
    ("objects in objects", '{"a":' * 300 + "1" + "}" * 300, "nested more than"),
    ("a number of 5000 digits", "1" * 5000, "cannot be read as JSON"),
    ("a key twice", '{"a": 1, "a": 2}', "twice"),
    ("half a file", '{"a": [1, 2', "cannot be read as JSON"),
    ("nothing", "", "cannot be read as JSON"),
    ("words", "status: finished", "cannot be read as JSON"),
    ("fine", '{"a": [1, 2.5, null, "\\ud800"]}', None),
]


@pytest.mark.parametrize(("what", "text", "words"), JSONS, ids=[row[0] for row in JSONS])
def test_hostile_json_is_one_line(what, text, words):
    if words is None:
        assert parse_json(text, "x.json") == json.loads(text)
        return
    with pytest.raises(DataError, match=words) as caught:
        parse_json(text, "x.json")
    assert "x.json" in one_line(caught.value)


@pytest.mark.parametrize("read", [read_json, read_yaml])
@pytest.mark.parametrize("make", [pipe, lambda path: path.symlink_to("/dev/zero"), lambda path: path.mkdir()])
def test_documents_are_regular_files_within_a_size(tmp_path, read, make):
    make(tmp_path / "x")
    with pytest.raises(DataError, match="cannot be read: it is a"):
        read(tmp_path / "x")
    (tmp_path / "large").write_bytes(b" " * (2**20 + 10))
    with pytest.raises(DataError, match="larger than 1 MB"):
        read(tmp_path / "large", 2**20)
