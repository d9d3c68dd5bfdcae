"""One case from files to arrays, and a result back onto the files' grid.

Steps, in order: load -> one grid? -> orient to RAS -> constant background off -> brain mask -> crop -> normalise each contrast
inside the mask.
Every step leaves its parameters in the history, as JSON data, and `restore` undoes orient and crop from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from synthmr.case import Case, PreparedCase, Volume
from synthmr.config import PrepareConfig
from synthmr.errors import DataError, UsageError
from synthmr.prepare import background, crop, normalize, orient
from synthmr.prepare.mask import brain_mask, check_mode
from synthmr.prepare.nan import NOTE, load_labels, read_image

#: raise when a change here or in a step changes what comes out, so that no store made before is used
PREPARE_VERSION = 3


def normalizer_of(contrast: str, config: PrepareConfig, targets: Sequence[str]) -> str:
    """The normaliser of a contrast, by its role."""
    return config.normalizer if contrast in targets or not config.source_normalizer else config.source_normalizer


def check_config(config: PrepareConfig) -> None:
    """Check a configuration before a file is read.

    Raises:
        UsageError: unknown mask mode or normaliser, a negative margin, a percentile outside (0, 100].
    """
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
    # side by side: decompression lets go of the interpreter's lock
    with ThreadPoolExecutor(max(len(contrasts), 1)) as pool:
        volumes = dict(zip(contrasts, pool.map(lambda name: read_image(case, name), contrasts), strict=True))
    nan = case.nan_to_zero
    mask = load_labels(case.mask, f"mask of case {case.name}", nan) if case.mask is not None else None
    segmentation = None
    if with_segmentation and case.segmentation is not None:
        segmentation = load_labels(case.segmentation, f"segmentation of case {case.name}", nan)
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
    given: Sequence[str] | None = None,
) -> PreparedCase:
    """Orient, mask, crop and normalise volumes that lie on one grid.

    Without a mask file the brain mask is made from the ``given`` contrasts alone, so that scoring and synthesis, where the target
    is absent, see the same brain: what the others hold changes neither mask nor box nor any other image.

    Args:
        volumes: contrast -> volume in scanner units.
        config: what to do.
        targets: contrasts with the target's normaliser.
        mask: brain mask on the same grid, or None.
        segmentation: labels on the same grid, or None.
        landmarks: for nyul, contrast -> `normalize.learn_landmarks`.
        name: of the case, for messages.
        given: contrasts that the brain mask may be made from; None: those that are no target, or all where every one is.

    Raises:
        DataError: grids that differ, an empty mask, an image that is constant in the brain.
        UsageError: unknown normaliser or mask mode, a negative margin, a percentile outside (0, 100].
    """
    check_config(config)
    arrays, mask_voxels, labels, affine, history = oriented(volumes, mask, segmentation, name)
    constants = {contrast: background.fit(array) for contrast, array in arrays.items()}
    arrays = {contrast: background.apply(array, constants[contrast]) for contrast, array in arrays.items()}
    if given is None:
        given = [contrast for contrast in arrays if contrast not in targets] or list(arrays)
    brain, mode, notice = brain_mask({contrast: arrays[contrast] for contrast in given}, mask_voxels, config.mask, name)
    box = crop.fit(brain, config.margin)
    history += [mask_step(mode, notice, int(brain.sum())), box]
    brain = np.ascontiguousarray(crop.apply(brain, box))
    images, params = {}, {}
    for contrast, array in arrays.items():
        inside = np.ascontiguousarray(crop.apply(array, box))
        kind = normalizer_of(contrast, config, targets)
        try:
            found = normalize.fit(kind, inside[brain], (landmarks or {}).get(contrast), config.percentile)
        except DataError as error:
            raise DataError(f"{contrast} of case {name}: {error}") from None
        images[contrast] = normalized(inside, brain, found)
        params[contrast] = found
        history += image_steps(contrast, constants[contrast], found)
    return PreparedCase(
        name=name,
        images=images,
        mask=brain,
        segmentation=np.ascontiguousarray(crop.apply(labels, box)) if labels is not None else None,
        affine=crop.apply_affine(affine, box),
        history=tuple(history),
        normalizers=params,
        given=tuple(given),
    )


def mask_step(mode: str, notice: str, voxels: int) -> dict[str, Any]:
    """The step of a history that made the brain mask."""
    return {"step": "mask", "mode": mode, "notice": notice, "voxels": voxels}


def image_steps(contrast: str, constant: Mapping[str, Any] | None, params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The steps of a history that are of one contrast alone: a constant background taken off, if it had one; normalised.

    They stand together behind the steps that all contrasts share, although the background goes first: what a truth is like
    changes nothing in what is said of the others.
    """
    taken = [] if constant is None else [background.step(contrast, constant)]
    return [*taken, {"step": "normalize", "contrast": contrast, **params}]


def normalized(array: np.ndarray, brain: np.ndarray, params: Mapping[str, Any]) -> np.ndarray:
    """Scanner units -> normalised units inside the brain, the normaliser's background outside; float32, same shape."""
    return np.where(brain, normalize.apply(array, params), np.float32(normalize.background(params)))


def oriented(
    volumes: Mapping[str, Volume], mask: Volume | None, segmentation: Volume | None, name: str
) -> tuple[dict[str, np.ndarray], np.ndarray | None, np.ndarray | None, np.ndarray, list[dict[str, Any]]]:
    """Check that all grids are one, in whatever storage order, and reorient to RAS: (images, mask, labels, affine, history)."""
    from synthmr.io.grid import check_same_grid, one_order

    if not volumes:
        raise DataError(f"case {name} was given no image.")
    named = {f"{contrast} of case {name}": volume for contrast, volume in volumes.items()}
    if mask is not None:
        named[f"mask of case {name}"] = mask
    if segmentation is not None:
        named[f"segmentation of case {name}"] = segmentation
    # a kept prediction can be of files that were called another case: what is noted names contrasts alone
    alike = one_order({words.removesuffix(f" of case {name}"): volume for words, volume in named.items()})
    check_same_grid({f"{word} of case {name}": volume for word, volume in alike.items()})
    first = next(iter(alike.values()))
    turn = orient.fit(first.shape, first.affine)
    told = [f"{word}: {volume.notes[-1]}" for word, volume in alike.items() if volume is not named[f"{word} of case {name}"]]
    told += [f"{word}: {note}" for word, volume in alike.items() for note in volume.notes if note.endswith(NOTE)]
    if told:
        turn["notice"] = " ".join(told)
    arrays = {contrast: orient.apply(alike[contrast].array, turn) for contrast in volumes}
    given = orient.apply(alike["mask"].array, turn) if mask is not None else None
    labels = None
    if segmentation is not None:
        labels = np.rint(orient.apply(alike["segmentation"].array, turn)).astype(np.int32)
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
