"""What a NIfTI header says of where its voxels lie: sform, qform and units of length, and what is odd about them."""

from __future__ import annotations

from typing import Any

import numpy as np

from synthmr.io.grid import TOLERANCE, corner_distance

#: edges in mm that a voxel can have at all, and those that one of a head has
POSSIBLE, LIKELY = (1e-4, 1e4), (0.01, 100.0)

#: distance in mm from the origin that a voxel can have
FURTHEST = 1e7

#: code of a unit of length -> its name, and how many mm it is
_UNITS = {1: ("meter", 1e3), 3: ("micron", 1e-3)}

_FALLEN = "the sform is zero or damaged"
_REWRITE = "Rewrite the header (for example fslorient -copysform2qform)."


def holds(header: Any, affine: np.ndarray) -> bool:
    """Whether a header, as it is, puts voxels where an affine in mm does: in whatever unit, by the form that goes first."""
    own, notes = geometry(header, (1, 1, 1))
    return own is not None and not any(note.startswith(_FALLEN) for note in notes) and np.allclose(own, affine, atol=1e-5)


def geometry(header: Any, shape: tuple[int, int, int]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """The affine in mm, and what is odd about it, a sentence with the fix each.

    The sform goes first, then the qform, then the voxel sizes alone; a form that is damaged gives way to the next one that is set.

    Args:
        header: of nibabel, NIfTI-1 or NIfTI-2.
        shape: of the volume.

    Returns:
        4x4, or None where there is no usable affine; the notes.
    """
    with np.errstate(all="ignore"):
        return _geometry(header, shape)


def _geometry(header: Any, shape: tuple[int, int, int]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    notes: list[str] = []
    scode, qcode = int(header["sform_code"]), int(header["qform_code"])
    sform = _usable(header.get_sform()) if scode else None
    qform = _usable(_qform(header)) if qcode else None
    if qcode and qform is None:
        used = "the sform is used" if sform is not None else "it is not used"
        notes.append(f"the qform is damaged; {used}. {_REWRITE}")
    if scode and sform is None and qform is not None:
        notes.append(f"{_FALLEN}; the qform is used. Rewrite the header (for example fslorient -copyqform2sform).")
    affine = sform if sform is not None else qform
    if affine is None and not scode and not qcode:
        affine = _usable(header.get_base_affine())
        notes.append("neither sform nor qform is set: left and right are a guess. Export it again with its orientation.")
    if affine is None:
        return None, tuple(notes)
    scale, word = _length(header, affine)
    if sform is not None and qform is not None:
        apart = corner_distance(sform, qform, shape) * scale
        if apart > TOLERANCE:
            notes.append(
                f"sform and qform put the same voxel up to {apart:.3g} mm apart; the sform is used here, other programs may "
                "use the qform. Find out which is right and make them equal (for example fslorient -copysform2qform)."
            )
    affine = np.diag([scale, scale, scale, 1.0]) @ affine
    return _usable(affine), (*notes, *([word] if word else []))


def _qform(header: Any) -> np.ndarray | None:
    from nibabel.spatialimages import HeaderDataError

    try:
        return np.asarray(header.get_qform())
    except (HeaderDataError, ValueError, ArithmeticError):  # no unit quaternion
        return None


def _usable(affine: np.ndarray | None) -> np.ndarray | None:
    """An affine as float64, or None where it is none: not finite, singular, or of a size that no voxel has."""
    if affine is None:
        return None
    found = np.asarray(affine, dtype=float)
    if not np.isfinite(found).all() or np.abs(found).max() > FURTHEST:
        return None
    edges = np.linalg.norm(found[:3, :3], axis=0)
    if edges.min() < POSSIBLE[0] * 1e-3 or edges.max() > POSSIBLE[1] * 1e3:  # perhaps in metres, or in microns
        return None
    return found if abs(np.linalg.det(found[:3, :3] / edges)) > 1e-4 else None


def _length(header: Any, affine: np.ndarray) -> tuple[float, str]:
    """How many mm the header's unit of length is, and a note where it is not 1.

    A unit that would make voxels of no head's size was set by mistake, where without it they would have one.
    """
    code = int(header["xyzt_units"]) % 8
    if code in (0, 2):
        return 1.0, ""
    if code not in _UNITS:
        return (
            1.0,
            f"the unit of length has the code {code}, which has no meaning; lengths are read as millimetres. Correct the header.",
        )
    name, scale = _UNITS[code]
    edges = np.linalg.norm(affine[:3, :3], axis=0)

    def likely(values: np.ndarray) -> bool:
        return bool(values.min() >= LIKELY[0] and values.max() <= LIKELY[1])

    if likely(edges) and not likely(edges * scale):
        size = "x".join(f"{edge:.3g}" for edge in edges * scale)
        return (
            1.0,
            f"lengths are given in {name}, which would make voxels of {size} mm; they are read as millimetres. Correct the header.",
        )
    return scale, f"lengths are given in {name}; they are converted to millimetres."
