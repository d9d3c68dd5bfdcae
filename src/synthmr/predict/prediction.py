"""`Prediction`: what a run says of one case, on the prepared grid; the one thing that writers, scores and pages read.

In a file it is safetensors: arrays without pickle, and the rest as JSON in the metadata. Of a volume that is one constant outside
the brain, as images and maps are, only the voxels inside are stored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from synthmr.contrasts import SEGMENTATION
from synthmr.documents import parse_json
from synthmr.errors import DataError, RunError
from synthmr.prepare.brightness import apply_factor
from synthmr.prepare.normalize import invert
from synthmr.prepare.units import Units

#: raise when what a file holds changes, so that no kept prediction of another form is read
VERSION = 1

_VOLUMES = ("images", "spread", "maps")


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a run, or the mean of several, says of one case.

    Attributes:
        case: name of the case.
        images: contrast -> ``(X, Y, Z)`` float32 on the prepared grid, in the run's normalised units, the normaliser's background
            outside the brain, before `brightness`.
        mask: ``(X, Y, Z)`` bool, the brain.
        affine: 4x4 of the prepared grid, voxel index to RAS millimetres.
        normalizers: contrast -> the run's median parameters of the target's normaliser, over its training cases.
        units: contrast -> the way to the scale 0 (background) to 1 (top); decided by the run alone.
        run_hash: of the run's configuration and weights; of several runs joined by ``+``.
        given: sources that it was made from.
        history: the preparation steps, as `PreparedCase.history`: the way back to the files' grid.
        brightness: contrast -> factor about the background; a contrast that is not a key stays as it is.
        spread: contrast -> ``(X, Y, Z)`` float32, a standard deviation in normalised units, 0 outside the brain; empty where the
            run has none.
        maps: label -> ``(X, Y, Z)``, 0 outside the brain.
        segmentation: ``(X, Y, Z)`` int8 classes, 0 outside the brain; None where the run gives none.
        borders: where tiles begin and end along X, Y and Z; empty for whole slices.
        settings: how it was predicted, as plain JSON data.
    """

    case: str
    images: Mapping[str, np.ndarray]
    mask: np.ndarray
    affine: np.ndarray
    normalizers: Mapping[str, dict[str, Any]]
    units: Mapping[str, Units]
    run_hash: str
    given: tuple[str, ...] = ()
    history: tuple[dict[str, Any], ...] = ()
    brightness: Mapping[str, float] = field(default_factory=dict)
    spread: Mapping[str, np.ndarray] = field(default_factory=dict)
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)
    segmentation: np.ndarray | None = None
    borders: Sequence[Sequence[int]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def image(self, contrast: str) -> np.ndarray:
        """``(X, Y, Z)`` float32: the prediction of a contrast, before its brightness.

        Raises:
            DataError: it was not predicted.
        """
        if contrast not in self.images:
            have = ", ".join(self.images) or "no image"
            raise DataError(f"the prediction of case {self.case} has no {contrast}; it has {have}.")
        return self.images[contrast]

    def corrected(self, contrast: str) -> np.ndarray:
        """``(X, Y, Z)`` float32, normalised units: the image with its brightness factor applied about the background.

        Raises:
            DataError: it was not predicted.
        """
        image = self.image(contrast)
        return apply_factor(image, self.mask, self.normalizers[contrast], self.brightness.get(contrast, 1.0))

    def unit(self, contrast: str) -> np.ndarray:
        """``(X, Y, Z)`` float32: the corrected image on the scale 0 (background) to 1 (top), exactly 0 outside the brain.

        Raises:
            DataError: it was not predicted.
        """
        corrected = self.corrected(contrast)
        return self._inside(self.units[contrast].apply(corrected))

    def scanner(self, contrast: str) -> np.ndarray:
        """``(X, Y, Z)`` float32, scanner-like units by the median normaliser of the training cases, exactly 0 outside the brain.

        Without the brightness factor: it would stand in the gain of the case's own normaliser too, and cancel.

        Raises:
            DataError: it was not predicted.
        """
        image = self.image(contrast)
        return self._inside(invert(image, self.normalizers[contrast]))

    def spread_unit(self, contrast: str) -> np.ndarray:
        """``(X, Y, Z)`` float32: the standard deviation of `unit`, 0 outside the brain.

        Raises:
            DataError: there is none.
        """
        scale = self.brightness.get(contrast, 1.0) * self.units[contrast].scale if contrast in self.units else 1.0
        return self._inside(self._spread(contrast) * np.float32(scale))

    def spread_scanner(self, contrast: str) -> np.ndarray:
        """``(X, Y, Z)`` float32: the standard deviation of `scanner`, 0 outside the brain: half of what lies between one below and
        one above, where the normaliser is no straight line.

        Raises:
            DataError: there is none.
        """
        spread, params = self._spread(contrast), self.normalizers[contrast]
        image = self.image(contrast)
        return self._inside((invert(image + spread, params) - invert(image - spread, params)) / np.float32(2))

    def _spread(self, contrast: str) -> np.ndarray:
        if contrast not in self.spread:
            raise DataError(f"the prediction of case {self.case} has no spread of {contrast}: the method gives none.")
        return self.spread[contrast]

    def _inside(self, values: np.ndarray) -> np.ndarray:
        return np.where(self.mask, values, np.float32(0))

    def has_map(self, name: str) -> bool:
        """Whether a map of a method (``spec.maps``) is in it: a segmentation, or labels ``name-...``."""
        if name == SEGMENTATION:
            return self.segmentation is not None
        return any(label == name or label.startswith(f"{name}-") for label in self.maps)

    def with_maps(self, other: Prediction) -> Prediction:
        """This prediction with the maps and the segmentation of another of the same case beside its own."""
        segmentation = self.segmentation if other.segmentation is None else other.segmentation
        return replace(self, maps={**self.maps, **other.maps}, segmentation=segmentation)

    def to_bytes(self) -> bytes:
        """What `save` writes.

        Raises:
            ValueError: the settings, parameters or history hold NaN, infinity, or what JSON has no word for.
        """
        from safetensors.numpy import save

        arrays: dict[str, np.ndarray] = {"mask": np.packbits(self.mask), "affine": np.asarray(self.affine, np.float64)}
        filled: list[str] = []
        volumes = {f"{kind}/{name}": volume for kind in _VOLUMES for name, volume in getattr(self, kind).items()}
        if self.segmentation is not None:
            volumes[SEGMENTATION] = self.segmentation
        for name, volume in volumes.items():
            arrays[name] = volume
            rest = volume[~self.mask]
            bits = rest.view(f"u{rest.itemsize}")  # to the bit: -0.0 is no 0.0, and NaN is itself
            if rest.size and (bits == bits[0]).all():
                arrays[name] = np.concatenate([rest[:1], volume[self.mask]])
                filled.append(name)
        record = {
            "version": VERSION,
            "case": self.case,
            "run_hash": self.run_hash,
            "given": list(self.given),
            "shape": list(self.mask.shape),
            "volumes": list(volumes),  # in this order: safetensors sorts by name
            "filled": filled,  # of these: the value outside the brain, then the voxels inside
            "normalizers": dict(self.normalizers),
            "units": {name: [units.scale, units.offset] for name, units in self.units.items()},
            "history": list(self.history),
            "brightness": {name: float(factor) for name, factor in self.brightness.items()},
            "borders": self.borders,
            "settings": dict(self.settings),
        }
        text = json.dumps(record, allow_nan=False)
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        # one entry, because the order of several is not the same every time
        return bytes(save(arrays, metadata={"prediction": f"{_digest(text, arrays)} {text}"}))

    def save(self, path: Path) -> None:
        """Write it to one file, under a temporary name that is renamed; `load` gives every array back bit by bit.

        Raises:
            DataError: it cannot be written.
            ValueError: as `to_bytes`.
        """
        from synthmr.io.files import atomic

        data = self.to_bytes()
        with atomic(path) as temporary:
            temporary.write_bytes(data)

    @classmethod
    def load(cls, path: Path) -> Prediction:
        """Read what `save` wrote.

        Raises:
            RunError: the file is missing, damaged, or of another version of this software.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as stream:
                found = stream.metadata() or {}
                arrays = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (no dict)
            digest, _, text = found["prediction"].partition(" ")
            if digest != _digest(text, arrays):
                raise ValueError("its checksum is another")
            record = parse_json(text, str(path))
            if record["version"] != VERSION:
                raise ValueError(f"it is of version {record['version']}, not {VERSION}")
            return cls._from(record, arrays)
        except FileNotFoundError:
            raise RunError(f"{path} is missing: no prediction is kept there.") from None
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, IndexError, ArithmeticError, DataError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise RunError(f"{path} is no prediction that can be read ({reason}); delete it and predict again.") from None

    @classmethod
    def _from(cls, record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Prediction:
        shape = tuple(record["shape"])
        mask = np.unpackbits(arrays["mask"], count=int(np.prod(shape))).astype(bool).reshape(shape)

        def volume(name: str) -> np.ndarray:
            if name not in record["filled"]:
                return arrays[name]
            whole = np.full(shape, arrays[name][0])
            whole[mask] = arrays[name][1:]
            return whole

        named: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in (*_VOLUMES, SEGMENTATION)}
        for name in record["volumes"]:
            kind, _, label = name.partition("/")
            named[kind][label] = volume(name)
        return cls(
            case=record["case"],
            mask=mask,
            affine=arrays["affine"],
            normalizers=record["normalizers"],
            units={name: Units(*both) for name, both in record["units"].items()},
            run_hash=record["run_hash"],
            given=tuple(record["given"]),
            history=tuple(record["history"]),
            brightness=record["brightness"],
            segmentation=named[SEGMENTATION].get(""),
            borders=_tuples(record["borders"]),
            settings=record["settings"],
            images=named["images"],
            spread=named["spread"],
            maps=named["maps"],
        )


def _digest(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the record and of every array's name, type, shape and values: safetensors checks lengths alone."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def _tuples(data: Any) -> Any:
    """Tuples for the lists that JSON made of them."""
    return tuple(_tuples(each) for each in data) if isinstance(data, list) else data
