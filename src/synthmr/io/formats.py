"""What a file is that is given the name of a NIfTI file: told by its first bytes, with what to do."""

from __future__ import annotations

#: how other files begin that are given the name of a NIfTI file -> what they are
_MAGICS = (
    (b"PK\x03\x04", "a ZIP archive; unpack it"),
    (b"BZh", "compressed by bzip2, not gzip; unpack it"),
    (b"\xfd7zXZ", "compressed by xz, not gzip; unpack it"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd, not gzip; unpack it"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it"),
    (b"\x89HDF", "an HDF5 file (MINC, MAT or other); convert it to NIfTI"),
    (b"CDF\x01", "a MINC file; convert it to NIfTI (mnc2nii)"),
    (b"NRRD", "an NRRD file; convert it to NIfTI"),
    (b"ObjectType", "a MetaImage file; convert it to NIfTI"),
    (b"MATLAB 5.0", "a MATLAB file; convert it to NIfTI"),
    (b"\x93NUMPY", "a NumPy array; convert it to NIfTI"),
    (b"\x89PNG", "a PNG picture; export the volume itself"),
    (b"\xff\xd8\xff", "a JPEG picture; export the volume itself"),
    (b"%PDF", "a PDF document; download the image itself"),
)
_PAGES = (b"<!doctype", b"<html", b"<?xml", b'{"message', b'{"error')


def pointer(text: str) -> str:
    """How to fetch the content of a file that is kept elsewhere, where a text or the target of a link says so; else empty."""
    if "annex/objects/" in text or text.startswith("/annex/objects"):
        return "is a pointer of git-annex, its content is not here; fetch it with `git annex get FILE` or `datalad get FILE`."
    if "git-lfs.github.com/spec" in text:
        return "is a pointer of Git LFS, its content is not here; fetch it with `git lfs pull`."
    return ""


def told(head: bytes) -> str:
    """What a file with these first bytes is, and what to do; empty where they say nothing."""
    found = pointer(head[:300].decode("utf-8", "replace"))
    if found:
        return found
    if head.lstrip()[:12].lower().startswith(_PAGES):
        return "is a web page or a server's message, not an image: the download failed. Log in and download it again."
    for magic, what in _MAGICS:
        if head.startswith(magic):
            return f"is {what}."
    if head[128:132] == b"DICM":
        return "is a DICOM file; convert it to NIfTI (dcm2niix)."
    if not head.strip(b"\0"):
        return "holds zeros alone, as an interrupted copy leaves them; copy or download it again."
    return ""
