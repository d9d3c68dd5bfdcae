"""What a synthetic volume says of itself: a line in its header and a JSON file beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from synthmr import __version__
from synthmr.io.files import sha256, write_json
from synthmr.io.nifti import stem


def description(method: str, contrast: str, run_hash: str) -> str:
    """Text for the NIfTI header's ``descrip`` field, at most 79 characters, the important words first."""
    return f"SYNTHETIC {contrast} synthmr {__version__} {method} run {run_hash}"[:79]


def sidecar_path(image: Path) -> Path:
    """``flair.nii.gz`` -> ``flair.json`` in the same folder."""
    return image.with_name(stem(image) + ".json")


def path_from(path: Path, folder: Path | None) -> str:
    """Where a file lies as seen from a folder, so that both can be moved together.

    Args:
        path: of the file; its own name is kept where it is a link, links above it are followed.
        folder: None: the path comes out absolute, as it does where no relative one exists (another Windows drive).
    """
    whole = path.parent.resolve() / path.name
    try:
        return str(whole) if folder is None else os.path.relpath(whole, folder.resolve())
    except ValueError:
        return str(whole)


def file_entry(path: Path, folder: Path | None = None) -> dict[str, str]:
    """How a sidecar names a file: its name, its path as seen from the volume's folder, and its checksum.

    Raises:
        DataError: it cannot be read.
    """
    return {"file": path.name, "path": path_from(path, folder), "sha256": sha256(path)}


def sidecar(
    *,
    contrast: str,
    method: str,
    run_hash: str,
    inputs: Mapping[str, Path],
    folder: Path | None = None,
    case: str = "",
    intensity: str = "scanner",
    settings: Mapping[str, Any] | None = None,
    date: datetime | None = None,
    warnings: Sequence[Mapping[str, Any]] = (),
    forced: bool = False,
    training_case: bool = False,
) -> dict[str, Any]:
    """Describe a synthetic volume as JSON data.

    Args:
        contrast: canonical name of what was predicted.
        method: name of the method.
        run_hash: hash of the run's configuration and weights.
        inputs: contrast -> file that went in; each is read for its checksum.
        folder: that the volume is written to; the inputs' paths are relative to it. None: they are absolute.
        case: name of the case.
        intensity: scanner or normalized.
        settings: further JSON data (how it was predicted, normaliser parameters).
        date: of the synthesis; default: now.
        warnings: in what the inputs are outside of what the run was trained on: {code, text, number, allowed} each.
        forced: whether one of them is certain, and somebody insisted.
        training_case: whether the run was trained on an input, by its content.

    Raises:
        DataError: an input cannot be read.
    """
    return {
        "synthetic": True,
        "notice": "This image was predicted by a model from other images. It was not acquired and is not for diagnosis.",
        "contrast": contrast,
        "case": case,
        "method": method,
        "run_hash": run_hash,
        "inputs": [{"contrast": name, **file_entry(path, folder)} for name, path in inputs.items()],
        "intensity": intensity,
        "settings": dict(settings or {}),
        "warnings": [dict(each) for each in warnings],
        "forced": forced,
        "training_case": training_case,
        "software": {"name": "synthmr", "version": __version__},
        "date": (date or datetime.now(UTC)).isoformat(timespec="seconds"),
    }


def write_sidecar(image: Path, data: Mapping[str, Any]) -> Path:
    """Write a sidecar beside an image, atomically; returns its path.

    Raises:
        DataError: it cannot be written.
    """
    path = sidecar_path(image)
    write_json(path, dict(data))
    return path
