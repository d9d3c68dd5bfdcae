"""Grids: where voxels lie in millimetres, and whether two volumes share one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Protocol

import numpy as np

from synthmr.case import Volume
from synthmr.errors import DataError

#: largest distance in mm between the corners of two grids that count as the same
TOLERANCE = 0.1

REGISTER_FIX = (
    "Register and resample all contrasts of the case onto one grid first (for example with ANTs, FSL FLIRT or SimpleITK)."
)


REORDER_FIX = "It is one grid in two storage orders: reorder one file (for example fslreorient2std), nothing need be resampled."


class HasGrid(Protocol):
    """Anything with a shape and an affine: `Grid`, `Volume`."""

    @property
    def shape(self) -> tuple[int, int, int]: ...

    @property
    def affine(self) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of a volume lie, without the voxels.

    Attributes:
        shape: voxels along each array axis.
        affine: 4x4, voxel index to RAS millimetres.
        notes: what is odd about the header, a sentence each.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel edge lengths in millimetres, in array axis order."""
        x, y, z = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0)).tolist()
        return (x, y, z)

    @property
    def orientation(self) -> str:
        """Where the array axes point, for example ``LPS``."""
        return orientation(self.affine)


def orientation(affine: np.ndarray) -> str:
    """Three letters: the direction (Right, Anterior, Superior or their opposites) each array axis points to."""
    return _letters(np.asarray(affine, dtype=float).tobytes())


@lru_cache(maxsize=1024)
def _letters(affine: bytes) -> str:
    """`orientation` of the bytes of a 4x4 affine: it takes an SVD, and a cohort has few affines."""
    import nibabel

    return "".join(str(letter) for letter in nibabel.aff2axcodes(np.frombuffer(affine).reshape(4, 4)))


def _corners(shape: tuple[int, int, int]) -> np.ndarray:
    """``(4, 8)``: homogeneous indices of the corner voxels."""
    return np.array([(*corner, 1) for corner in product(*((0, n - 1) for n in shape))], dtype=float).T


def corner_distance(a: np.ndarray, b: np.ndarray, shape: tuple[int, int, int]) -> float:
    """Largest distance in mm between the corner voxels of one array under two affines."""
    return float(np.linalg.norm(((a - b) @ _corners(shape))[:3], axis=0).max())


def same_grid(a: HasGrid, b: HasGrid, tol: float = TOLERANCE) -> bool:
    """Whether two grids have the same shape and no corner voxel lies further apart than ``tol`` mm."""
    return a.shape == b.shape and corner_distance(np.asarray(a.affine), np.asarray(b.affine), a.shape) <= tol


def turn_between(a: HasGrid, b: HasGrid, tol: float = TOLERANCE) -> np.ndarray | None:
    """How the axes of one grid are turned into those of another that has the same voxels in another order of storage.

    Args:
        a: the grid to turn.
        b: the grid to turn it into.
        tol: largest distance of corner voxels in mm.

    Returns:
        ``(3, 2)``, an orientation of nibabel: for each axis of ``a`` the axis of ``b`` that it becomes, and -1 where it is
        flipped; None where no reordering makes them one grid.
    """
    from nibabel.orientations import inv_ornt_aff, io_orientation, ornt_transform

    turn = np.asarray(ornt_transform(io_orientation(a.affine), io_orientation(b.affine)))
    if np.isnan(turn).any():
        return None
    shape = [0, 0, 0]
    for axis, (becomes, _) in enumerate(turn):
        shape[int(becomes)] = a.shape[axis]
    x, y, z = shape
    turned = Grid((x, y, z), np.asarray(a.affine) @ inv_ornt_aff(turn, a.shape))
    return turn if same_grid(turned, b, tol) else None


def grid_text(grid: HasGrid) -> str:
    """``240x240x155 at 1x1x1 mm LPS``."""
    spacing = Grid(grid.shape, np.asarray(grid.affine)).spacing
    size = "x".join(str(n) for n in grid.shape)
    return f"{size} at {'x'.join(f'{edge:.3g}' for edge in spacing)} mm {orientation(grid.affine)}"


def grid_difference(a: HasGrid, b: HasGrid, tol: float = TOLERANCE) -> str:
    """How two grids differ, in words; empty where they do not."""
    if same_grid(a, b, tol):
        return ""
    if a.shape != b.shape or orientation(a.affine) != orientation(b.affine):
        return f"{grid_text(a)} against {grid_text(b)}"
    return f"corner voxels up to {corner_distance(np.asarray(a.affine), np.asarray(b.affine), a.shape):.3g} mm apart"


def check_same_grid(named: Mapping[str, HasGrid], tol: float = TOLERANCE, any_order: bool = False) -> None:
    """Check that all grids are one.

    Args:
        named: grids by the words that name them in a message, ``{"T1w of case X": grid, ...}``.
        tol: largest distance of corner voxels in mm.
        any_order: take one grid in two storage orders for one, as whoever reorders both can.

    Raises:
        DataError: one differs from the first.
    """
    (first, reference), *rest = named.items()
    for name, grid in rest:
        difference = grid_difference(grid, reference, tol)
        if difference:
            reordered = turn_between(grid, reference, tol) is not None
            if reordered and any_order:
                continue
            fix = REORDER_FIX if reordered else REGISTER_FIX
            raise DataError(f"the grids of {name} and {first} differ: {difference}. {fix}")


def one_order(volumes: Mapping[str, Volume]) -> dict[str, Volume]:
    """Volumes of one grid in the storage order of the first: axes are swapped and flipped, no voxel changes its value.

    Args:
        volumes: by the words that name them in a message.

    Returns:
        The same volumes; those that were reordered carry a note, those on another grid are as they were.
    """
    from nibabel.orientations import apply_orientation

    found: dict[str, Volume] = {}
    for name, volume in volumes.items():
        first = next(iter(found.values()), volume)
        turn = None if same_grid(volume, first) else turn_between(volume, first)
        if turn is not None:
            stored = f"{orientation(volume.affine)}, {next(iter(found))} as {orientation(first.affine)}"
            note = f"it is stored as {stored}: its axes were reordered, which changes no value."
            array = np.asarray(apply_orientation(volume.array, turn))
            volume = replace(volume, array=array, affine=first.affine, notes=(*volume.notes, note))
        found[name] = volume
    return found
