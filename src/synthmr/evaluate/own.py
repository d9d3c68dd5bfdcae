"""Volumes that synthmr wrote: what their sidecars say of units, brightness and mask, so that `score` says what `evaluate` says.

A volume on disk is in scanner units or on the unit scale, and is 0 outside the brain that the run saw. The sidecar beside it
(``FLAIR.json`` for ``FLAIR.nii.gz``, `synthmr.io.provenance`) has the run's normaliser parameters, its units, the brightness
factor and where the mask came from. From these the voxels are mapped back to what the run predicted; the truth is mapped by its
own normaliser of the same name. Sidecars of older versions are read as far as they go.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from synthmr.case import check_name
from synthmr.contrasts import MASK, SEGMENTATION
from synthmr.documents import read_json
from synthmr.errors import DataError, UsageError
from synthmr.evaluate.counted import Array
from synthmr.prepare import background, normalize
from synthmr.prepare.units import Units, units_of

#: upper percentile of the brain where a sidecar does not say: the default of `prepare.percentile`
PERCENTILE = 99.5


@dataclass(frozen=True)
class Own:
    """What the sidecar of a volume says.

    Attributes:
        image: the volume.
        case: name of the case.
        method: that predicted it.
        contrast: of what was predicted.
        intensity: scanner or normalized.
        params: the run's parameters of the target's normaliser.
        units: how the run's normalised values become the unit scale.
        factor: of its brightness, about the background.
        mask: {"mode": file, nonzero or otsu, "path": as seen from the image}; empty where the sidecar does not say.
        inputs: contrast -> (path as written, checksum) of what went in.
        percentile: of the normaliser.
    """

    image: Path
    case: str
    method: str
    contrast: str
    intensity: str
    params: Mapping[str, Any]
    units: Units
    factor: float
    mask: Mapping[str, Any]
    inputs: Mapping[str, tuple[str, str]]
    percentile: float = PERCENTILE

    @property
    def offset(self) -> float:
        """The value of the file's background: the constant under the run's training images, mostly 0."""
        return float(self.params.get("offset", 0.0)) if self.intensity == "scanner" else 0.0

    def unit(self, voxels: Array) -> Array:
        """The voxels of the file on the unit scale, as the run predicted them: float32, not clipped."""
        if self.intensity == "normalized":
            return np.asarray(voxels, np.float32)
        voxels = np.asarray(voxels, np.float32) - np.float32(self.offset)
        return np.asarray(self.units.apply(_normalised(voxels, self.params)) * np.float32(self.factor), np.float32)

    def truth(self, voxels: Array, inside: Array) -> tuple[Array, float]:
        """A truth on the unit scale, by its own normaliser in the mask as `evaluate` maps it; and its maximum there, unclipped.

        Raises:
            DataError: the truth is constant in the brain.
        """
        voxels = background.apply(voxels, background.fit(voxels))
        landmarks = {"standard": self.params["standard"]} if "standard" in self.params else None
        params = normalize.fit(self.params["name"], voxels[inside], landmarks, self.percentile)
        mapped = normalize.to_unit(normalize.apply(voxels, params), params)
        return np.where(inside, mapped, np.float32(0)), normalize.peak(params)


def read_own(image: Path) -> tuple[Own | None, str]:
    """What the sidecar beside a volume says, or None and why its voxels can only be scored as they are."""
    from synthmr.io.files import sha256
    from synthmr.io.provenance import sidecar_path

    path = sidecar_path(image)
    as_they_are = "its voxels are scored as they are"
    if not os.path.lexists(path):
        return None, f"{image.name} has no synthmr sidecar: {as_they_are}."
    try:
        data = read_json(path)
    except DataError as error:
        return None, f"the sidecar {path.name} cannot be read ({str(error).rstrip('.')}): {as_they_are}."
    if not isinstance(data, Mapping) or "run_hash" not in data:
        return None, f"{path.name} is no synthmr sidecar: {as_they_are}."
    settings = data.get("settings")
    if not isinstance(settings, Mapping) or "target_normalizer" not in settings:
        return None, f"the sidecar {path.name} names no normaliser, as of a map or a segmentation: {as_they_are}."
    if data.get("image_sha256") and data["image_sha256"] != sha256(image):
        return None, f"{image.name} was changed after synthmr wrote it: {as_they_are}."
    try:
        return _parse(image, data, settings), ""
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, DataError, UsageError) as error:
        return None, f"the sidecar {path.name} is damaged ({' '.join(str(error).split())}): {as_they_are}."


def _parse(image: Path, data: Mapping[str, Any], settings: Mapping[str, Any]) -> Own:
    params = dict(settings["target_normalizer"])
    units = settings.get("unit_scale")
    brightness = settings.get("brightness") or {}
    intensity = str(data["intensity"])
    if intensity not in ("scanner", "normalized"):
        raise ValueError(f"intensity {intensity}")
    return Own(
        image=image,
        case=str(data.get("case", "")) and check_name(str(data["case"]), "case"),
        method=str(data.get("method", "")),
        contrast=check_name(str(data["contrast"]), "contrast"),
        intensity=intensity,
        params=params,
        units=Units.from_dict(units) if units else units_of(params["name"], [params]),
        factor=float(brightness.get("factor", 1.0)),
        mask=dict(settings.get("mask") or {}),
        inputs={str(each["contrast"]): (str(each["path"]), str(each["sha256"])) for each in data.get("inputs", [])},
        percentile=float(settings.get("percentile", brightness.get("percentile", PERCENTILE))),
    )


def own_mask(own: Own, voxels: Array, turn: Mapping[str, Any]) -> tuple[Array, str]:
    """The brain mask that the run predicted in, RAS ``(X, Y, Z)`` bool, and a note where it had to be guessed.

    It is the mask's file, or made again from the source images; where these are not found, the voxels that are not 0.

    Args:
        own: the volume's sidecar.
        voxels: ``(X, Y, Z)`` of the volume, RAS.
        turn: from the file's axes to RAS (`synthmr.prepare.orient`).
    """
    named = dict(own.mask)
    if not named and MASK in own.inputs:
        named = {"mode": "file"}
    try:
        if named.get("mode") == "file":
            path, digest = own.inputs.get(MASK, ("", ""))
            path, digest = str(named.get("path") or path or named.get("file") or ""), str(named.get("sha256") or digest)
            return _volume(own, path, digest, voxels.shape, turn) > 0, ""
        return _made_again(own, str(named.get("mode", "")), voxels.shape, turn), ""
    except DataError as error:
        return voxels != np.float32(
            own.offset
        ), f"{own.image.name}: {str(error).rstrip('.')}; the brain is where the prediction is not {own.offset:g}."


def _made_again(own: Own, mode: str, shape: Sequence[int], turn: Mapping[str, Any]) -> Array:
    """The mask of the source images, as preparing them made it."""
    from synthmr.prepare.mask import brain_mask

    sources = {name: given for name, given in own.inputs.items() if name not in (MASK, SEGMENTATION)}
    if not sources:
        raise DataError("its sidecar names no source image")
    arrays = {name: _volume(own, *given, shape, turn) for name, given in sources.items()}
    arrays = {name: background.apply(array, background.fit(array)) for name, array in arrays.items()}
    found, used, _ = brain_mask(arrays, None, "auto", own.case)
    return found if not mode or used == mode else brain_mask(arrays, None, mode, own.case)[0]


def _volume(own: Own, written: str, digest: str, shape: Sequence[int], turn: Mapping[str, Any]) -> Array:
    """A file that a sidecar names, RAS, wherever it is found: as written, or from the volume's folder.

    Raises:
        DataError: it is not found, has changed, or is on another grid.
    """
    from synthmr.io import nifti
    from synthmr.io.files import sha256
    from synthmr.prepare import orient

    places = [own.image.parent / written, Path(written)] if written else []
    found = [path for path in places if path.is_file()]
    same = [path for path in found if not digest or sha256(path) == digest]
    if not same:
        raise DataError(f"{Path(written).name or 'a file'}, which its sidecar names, {'has changed' if found else 'is not found'}")
    volume = nifti.load(same[0])
    array = orient.apply(volume.array, orient.fit(volume.shape, volume.affine))
    if array.shape != tuple(shape):
        raise DataError(f"{Path(written).name}, which its sidecar names, is on another grid")
    return array


def _normalised(voxels: Array, params: Mapping[str, Any]) -> Array:
    """Scanner units -> normalised units, as `normalize.apply` but without its clipping: a prediction may leave the range."""
    if params["name"] in ("percentile", "minmax"):
        low, high = float(params["low"]), float(params["high"])
        return np.asarray((np.asarray(voxels, np.float32) - low) * (2 / (high - low)) - 1, np.float32)
    return normalize.apply(voxels, params)
