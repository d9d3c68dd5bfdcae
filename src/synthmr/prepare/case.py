"""One case from files to arrays, and a result back onto the files' grid.

Steps, in order: load -> one grid? -> orient to RAS -> brain mask -> crop -> normalise each contrast inside the mask.
Every step leaves its parameters in the history, as JSON data, and `restore` undoes orient and crop from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from synthmr.case import Case, PreparedCase, Volume, plane_axis
from synthmr.config import PrepareConfig
from synthmr.errors import DataError, UsageError
from synthmr.prepare import crop, normalize, orient
from synthmr.prepare.mask import brain_mask, check_mode

#: raise when a change here or in a step changes what comes out, so that no store made before is used
PREPARE_VERSION = 2


def normalizer_of(contrast: str, config: PrepareConfig, targets: Sequence[str]) -> str:
    """The normaliser of a contrast, by its role."""
    return config.normalizer if contrast in targets or not config.source_normalizer else config.source_normalizer


def check_config(config: PrepareConfig) -> None:
    """Check a configuration before a file is read.

    Raises:
        UsageError: unknown plane, mask mode or normaliser, a negative margin, a percentile outside (0, 100].
    """
    plane_axis(config.plane)
    check_mode(config.mask)
    for name in filter(None, (config.normalizer, config.source_normalizer)):
        normalize.check_name(name)
    if config.margin < 0:
        raise UsageError(f"prepare.margin={config.margin}: the box cannot be smaller than the brain; use 0 or more voxels.")
    if not 0 < config.percentile <= 100:
        raise UsageError(f"prepare.percentile={config.percentile:g} is no percentile; use a number above 0, up to 100.")


def load_case(
    case: Case, contrasts: Sequence[str], with_segmentation: bool = True
) -> tuple[dict[str, Volume], Volume | None, Volume | None]:
    """Read the named contrasts, the mask and the segmentation of a case.

    Raises:
        DataError: a contrast is missing, or a file cannot be read.
    """
    from synthmr.io.nifti import load, load_contrast

    volumes = {name: load_contrast(case, name) for name in contrasts}
    mask = load(case.mask, label=f"mask of case {case.name}") if case.mask is not None else None
    segmentation = None
    if with_segmentation and case.segmentation is not None:
        segmentation = load(case.segmentation, label=f"segmentation of case {case.name}")
    return volumes, mask, segmentation


def prepare_case(
    case: Case,
    contrasts: Sequence[str],
    config: PrepareConfig,
    targets: Sequence[str] = (),
    landmarks: Mapping[str, Mapping[str, Any]] | None = None,
) -> PreparedCase:
    """Prepare a case from its files; see `prepare_images`."""
    volumes, mask, segmentation = load_case(case, contrasts)
    return prepare_images(volumes, config, targets, mask, segmentation, landmarks, case.name)


def prepare_images(
    volumes: Mapping[str, Volume],
    config: PrepareConfig,
    targets: Sequence[str] = (),
    mask: Volume | None = None,
    segmentation: Volume | None = None,
    landmarks: Mapping[str, Mapping[str, Any]] | None = None,
    name: str = "case",
) -> PreparedCase:
    """Orient, mask, crop and normalise volumes that lie on one grid.

    A mask that is not given is made from the contrasts that are no target, so that training, scoring and synthesis (where the
    target is absent) all see the same brain.

    Args:
        volumes: contrast -> volume in scanner units.
        config: what to do.
        targets: contrasts with the target's normaliser.
        mask: brain mask on the same grid, or None.
        segmentation: labels on the same grid, or None.
        landmarks: for nyul, contrast -> `normalize.learn_landmarks`.
        name: of the case, for messages.

    Raises:
        DataError: grids that differ, an empty mask, an image that is constant in the brain.
        UsageError: unknown normaliser or mask mode, a negative margin, a percentile outside (0, 100].
    """
    check_config(config)
    arrays, given, labels, affine, history = oriented(volumes, mask, segmentation, name)
    sources = {contrast: array for contrast, array in arrays.items() if contrast not in targets} or arrays
    brain, mode, notice = brain_mask(sources, given, config.mask, name)
    box = crop.fit(brain, config.margin)
    history += [{"step": "mask", "mode": mode, "notice": notice, "voxels": int(brain.sum())}, box]
    brain = np.ascontiguousarray(crop.apply(brain, box))
    images, params = {}, {}
    for contrast, array in arrays.items():
        inside = np.ascontiguousarray(crop.apply(array, box))
        kind = normalizer_of(contrast, config, targets)
        try:
            found = normalize.fit(kind, inside[brain], (landmarks or {}).get(contrast), config.percentile)
        except DataError as error:
            raise DataError(f"{contrast} of case {name}: {error}") from None
        images[contrast] = np.where(brain, normalize.apply(inside, found), np.float32(normalize.background(found)))
        params[contrast] = found
        history.append({"step": "normalize", "contrast": contrast, **found})
    return PreparedCase(
        name=name,
        images=images,
        mask=brain,
        segmentation=np.ascontiguousarray(crop.apply(labels, box)) if labels is not None else None,
        affine=crop.apply_affine(affine, box),
        history=tuple(history),
        normalizers=params,
    )


def oriented(
    volumes: Mapping[str, Volume], mask: Volume | None, segmentation: Volume | None, name: str
) -> tuple[dict[str, np.ndarray], np.ndarray | None, np.ndarray | None, np.ndarray, list[dict[str, Any]]]:
    """Check that all grids are one and reorient to RAS: (images, mask, labels, affine, history)."""
    from synthmr.io.nifti import check_same_grid

    if not volumes:
        raise DataError(f"case {name} was given no image.")
    named = {f"{contrast} of case {name}": volume for contrast, volume in volumes.items()}
    if mask is not None:
        named[f"mask of case {name}"] = mask
    if segmentation is not None:
        named[f"segmentation of case {name}"] = segmentation
    check_same_grid(named)
    first = next(iter(volumes.values()))
    turn = orient.fit(first.shape, first.affine)
    arrays = {contrast: orient.apply(volume.array, turn) for contrast, volume in volumes.items()}
    given = orient.apply(mask.array, turn) if mask is not None else None
    labels = None
    if segmentation is not None:
        labels = np.rint(orient.apply(segmentation.array, turn)).astype(np.int32)
    return arrays, given, labels, orient.apply_affine(first.affine, turn), [turn]


def find_step(history: Sequence[Mapping[str, Any]], step: str) -> Mapping[str, Any]:
    """The parameters of a step in a history.

    Raises:
        DataError: the history has no such step.
    """
    for entry in history:
        if entry["step"] == step:
            return entry
    raise DataError(f"the preparation history has no step {step!r}, so it cannot be inverted.")


def uncrop(array: np.ndarray, history: Sequence[Mapping[str, Any]], fill: float = 0.0) -> np.ndarray:
    """Prepared grid ``(X, Y, Z)`` -> the whole grid, still RAS, ``fill`` outside the box."""
    return crop.invert(array, find_step(history, "crop"), fill)


def restore(array: np.ndarray, prepared: PreparedCase | Sequence[Mapping[str, Any]], fill: float = 0.0) -> np.ndarray:
    """Prepared grid ``(X, Y, Z)`` -> the source files' grid and axis order, ``fill`` outside the box."""
    history = prepared.history if isinstance(prepared, PreparedCase) else prepared
    return np.ascontiguousarray(orient.invert(uncrop(array, history, fill), find_step(history, "orient")))
