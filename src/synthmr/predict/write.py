"""A prediction as files: the source's grid, scanner-like or unit scale, a sidecar that says where it comes from.

A result is named ``OUT/<case>_desc-synth_<CONTRAST>.nii.gz`` (a valid BIDS derivative name where the case is
``sub-01_ses-02``) with ``.json`` beside it. Image and sidecar appear together or not at all. A result counts as done if
its sidecar names the same run, settings and input checksums and the image still has the checksum written there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from synthmr.case import Volume, check_name
from synthmr.contrasts import MASK, SEGMENTATION
from synthmr.documents import read_json_object
from synthmr.errors import DataError, UsageError, did_you_mean
from synthmr.labels import describe, get
from synthmr.predict.prediction import Prediction
from synthmr.prepare.brightness import Brightness
from synthmr.prepare.domain import Alarm

#: the label convention of segmentations that are written, whatever the training data's is; the sidecar says it
WRITTEN = "brats2017"

INTENSITIES = ("scanner", "normalized")

#: intensity -> what a voxel's value means, for the sidecar
UNITS = {
    "scanner": "scanner-like units: the gain is the median over the training cases, not this scanner's; background 0",
    "normalized": "the target normaliser's range mapped to 0 (background) .. 1 (top), not clipped: the units of `synthmr evaluate`",
}

#: what a voxel of something that is no image of a target means, by the first part of its label
MAP_UNITS = {
    SEGMENTATION: "labels: 1 necrosis and non-enhancing, 2 edema, 4 enhancing; largest component of the whole tumour",
    "pseudo_target": "normalised units of the target, as the network sees them; 0 outside the brain",
    "": "a share between 0 and 1; the shares of all sources add up to 1 inside the brain",
}


def check_intensity(intensity: str) -> None:
    """Check that an intensity scale exists.

    Raises:
        UsageError: it does not.
    """
    if intensity not in INTENSITIES:
        raise UsageError(f"unknown intensity {intensity!r}: {did_you_mean(intensity, INTENSITIES)}")


def output_path(out: Path, case: str, contrast: str) -> Path:
    """Where a cohort's result goes: always a file of ``out`` itself.

    Raises:
        DataError: the case or the contrast is called like a path.
    """
    check_name(case, "case")
    check_name(contrast, f"contrast of case {case}")
    what, _, source = contrast.partition("-")
    if source:  # a map of a method: attention-T1w, fusion-T2w; its name must not make it an acquired T1w
        return out / f"{case}_rec-{what.replace('_', '')}_desc-synth_{source}.nii.gz"
    return out / f"{case}_desc-synth_{'dseg' if contrast == SEGMENTATION else contrast}.nii.gz"


def on_source_grid(prediction: Prediction, contrast: str, intensity: str = "scanner") -> np.ndarray:
    """The voxels that are written, on the grid and in the axis order of the source files.

    Args:
        prediction: of a case that was prepared from files or images.
        contrast: a predicted contrast, the label of a map, or ``segmentation``.
        intensity: scanner or normalized, for contrasts.

    Returns:
        ``(I, J, K)``, outside the brain exactly 0 (in scanner units of a target that was trained on images with another constant
        background: that constant): float32; uint8 BraTS labels of a segmentation.

    Raises:
        DataError: it was not predicted.
    """
    from synthmr.prepare.case import restore

    if contrast in prediction.maps:
        array = prediction.maps[contrast]
    elif contrast == SEGMENTATION and prediction.segmentation is not None:
        array = get(WRITTEN).numbers(prediction.segmentation).astype(np.uint8)
    else:
        array = prediction.scanner(contrast) if intensity == "scanner" else prediction.unit(contrast)
        low = np.float32(offset_in(prediction, contrast, intensity))
        return restore(array + low if low else array, prediction.history, fill=float(low))
    return restore(array, prediction.history, fill=0)


def offset_in(prediction: Prediction, contrast: str, intensity: str) -> float:
    """The value of the background in scanner units: the constant under the training images of a target, mostly 0."""
    return float(prediction.normalizers[contrast].get("offset", 0.0)) if intensity == "scanner" else 0.0


def file_units(prediction: Prediction, intensity: str = "scanner", spread: bool = False) -> dict[str, np.ndarray]:
    """All that a prediction holds, as it would be written.

    Args:
        prediction: of a case that was prepared from files or images.
        intensity: scanner or normalized, for contrasts.
        spread: also the standard deviation, in the image's units, under ``CONTRAST spread``, where there is one.

    Returns:
        contrast, label of a map, ``segmentation`` or ``CONTRAST spread`` -> ``(I, J, K)`` as of `on_source_grid`.

    Raises:
        UsageError: there is no such intensity.
    """
    from synthmr.prepare.case import restore

    check_intensity(intensity)
    names = [*prediction.images, *prediction.maps, *([SEGMENTATION] if prediction.segmentation is not None else [])]
    found = {name: on_source_grid(prediction, name, intensity) for name in names}
    for name in prediction.spread if spread else ():
        values = prediction.spread_scanner(name) if intensity == "scanner" else prediction.spread_unit(name)
        found[f"{name} spread"] = restore(values, prediction.history, fill=0)
    return found


def write_prediction(
    prediction: Prediction,
    contrast: str,
    path: Path,
    like: Volume,
    *,
    method: str,
    inputs: Mapping[str, Path],
    intensity: str = "scanner",
    brightness: Brightness | None = None,
    notes: Sequence[str] = (),
    more: Mapping[str, Any] | None = None,
    alarms: Sequence[Alarm] = (),
) -> Path:
    """Write one volume of a prediction and its sidecar, so that a reader finds both or neither.

    Args:
        prediction: of the case.
        contrast: a predicted contrast, the label of a map, or ``segmentation``.
        path: of the image, .nii or .nii.gz.
        like: a source, whose grid and header codes the image gets; its voxels are not read.
        method: name of the run's method.
        inputs: contrast, ``mask`` or ``segmentation`` -> file that went in.
        intensity: scanner or normalized, for contrasts.
        brightness: that the run has for these sources and this contrast.
        notes: what is odd about the files.
        more: further settings for the sidecar, as plain JSON data.
        alarms: in what the case is outside of what the run was trained on.

    Returns:
        ``path``.

    Raises:
        UsageError: the name is no NIfTI name, or there is no such intensity.
        DataError: it was not predicted, an input cannot be read, or the files cannot be written.
    """
    from synthmr.io.files import atomic, sha256
    from synthmr.io.nifti import save
    from synthmr.io.provenance import description, sidecar, write_sidecar

    check_intensity(intensity)
    array = on_source_grid(prediction, contrast, intensity)
    data = sidecar(
        contrast=contrast,
        method=method,
        run_hash=prediction.run_hash,
        inputs=inputs,
        folder=path.parent,
        case=prediction.case,
        intensity=intensity,
        settings={
            **_computed(prediction),
            **_scale(prediction, contrast, intensity, brightness),
            "mask": _mask(prediction, inputs, path.parent),
            **(more or {}),
            "notes": list(notes),
        },
        warnings=[alarm.as_dict() for alarm in alarms],
        forced=any(alarm.certain for alarm in alarms),
        training_case=any(alarm.code == "domain.trained" for alarm in alarms),
    )
    with atomic(path) as temporary:
        try:
            save(temporary, array, like, description(method, contrast, prediction.run_hash), str(array.dtype))
        except DataError as error:
            raise DataError(str(error).replace(str(temporary), str(path))) from None
        # the sidecar first, the image by the rename that ends this block: a sidecar whose image is missing or
        # has another checksum is not taken for a result
        write_sidecar(path, {**data, "image_sha256": sha256(temporary)})
    return path


def _computed(prediction: Prediction) -> dict[str, Any]:
    """How it was predicted: ``inference`` decides what comes out, ``computed_with`` what ``auto`` was settled to."""
    settings = plain(prediction.settings)
    computed = settings.pop("computed_with", None)
    return {"inference": settings, **({} if computed is None else {"computed_with": computed})}


def _scale(prediction: Prediction, contrast: str, intensity: str, brightness: Brightness | None) -> dict[str, Any]:
    """What a voxel's value means, and all that it takes to bring it to the scale on which `evaluate` scores.

    Scanner units -> normalised units by the inverse of ``target_normalizer``, then the ``brightness`` factor about the background
    (where it is not applied yet), then ``unit_scale``.
    """
    if contrast not in prediction.images:
        kind = contrast.partition("-")[0]
        labels = {"labels": describe(WRITTEN)} if kind == SEGMENTATION else {}
        return {"units": MAP_UNITS.get(kind, MAP_UNITS[""]), **labels}
    units, factor = prediction.units[contrast], prediction.brightness.get(contrast, 1.0)
    low = offset_in(prediction, contrast, intensity)
    found: dict[str, Any] = {
        "units": UNITS[intensity].replace("background 0", f"background {low:g}") if low else UNITS[intensity],
        "target_normalizer": dict(prediction.normalizers[contrast]),
        "unit_scale": units.as_dict(),
    }
    if brightness is not None or factor != 1:
        learnt = {} if brightness is None else asdict(brightness)
        # in scanner units it would stand in the gain of the case's own normaliser too, and cancel
        found["brightness"] = {**learnt, "factor": factor, "applied": intensity == "normalized"}
    return found


def _mask(prediction: Prediction, inputs: Mapping[str, Path], folder: Path) -> dict[str, Any]:
    """Where the brain mask came from."""
    from synthmr.io.provenance import file_entry
    from synthmr.prepare.case import find_step

    mode = find_step(prediction.history, "mask")["mode"]
    return {"mode": mode, **(file_entry(inputs[MASK], folder) if mode == "file" and MASK in inputs else {})}


def plain(data: Any) -> Any:
    """As it reads back from JSON."""
    return json.loads(json.dumps(data))


def difference(path: Path, expected: Mapping[str, Any], plane: str) -> str:
    """Why the result at ``path`` is not the one expected; empty if it is.

    Args:
        path: of an image that exists.
        plane: the run's own, which a result has whose settings name none.
        expected: ``run_hash``, ``inputs`` {contrast: SHA-256}, ``intensity``, ``inference`` (settings) and ``brightness``, without
            the factor; {} where none is applied to the voxels.
    """
    from synthmr.io.files import sha256
    from synthmr.io.provenance import sidecar_path

    try:
        data = read_json_object(sidecar_path(path))
        settings, digest = data["settings"], data["image_sha256"]
        found = {
            "run_hash": data["run_hash"],
            "inputs": {entry["contrast"]: entry["sha256"] for entry in data["inputs"]},
            "intensity": data["intensity"],
            "inference": _known(settings["inference"], expected["inference"], plane),
            "brightness": _applied(settings),
        }
    except (DataError, ValueError, KeyError, TypeError, AttributeError):
        return "without a readable synthmr sidecar"
    words = {
        "run_hash": "another run",
        "inputs": "other input files",
        "intensity": "another intensity scale",
        "brightness": "another brightness",
    }
    for key, value in expected.items():
        if found[key] != value:
            return f"and stems from {words.get(key, 'other inference settings')}"
    return "" if sha256(path) == digest else "and was changed after synthmr wrote it"


def _known(recorded: Mapping[str, Any], names: Iterable[str], plane: str) -> dict[str, Any]:
    """Recorded settings under the names that there are now: one that did not exist yet had what is its default."""
    from synthmr.predict.settings import PredictSettings

    found = {**plain(asdict(PredictSettings())), **recorded}
    return {**{name: found.get(name) for name in names}, "plane": found["plane"] or plane}


def _applied(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The brightness that a sidecar says its voxels have; older ones call it level, and have none in scanner units."""
    found = settings.get("brightness", settings.get("level", {}))
    return {key: value for key, value in found.items() if key not in ("factor", "applied")} if found.get("applied", True) else {}
