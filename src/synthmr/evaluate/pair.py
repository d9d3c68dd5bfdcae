"""Score one NIfTI file against another, from whatever tool, without a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from synthmr.case import Volume
from synthmr.errors import DataError
from synthmr.evaluate.apply import Head, Progress, apply_protocols, needs_meaning
from synthmr.evaluate.counted import Array, ScoreInput
from synthmr.evaluate.lint import lint_brightness
from synthmr.evaluate.own import Own, own_mask, read_own
from synthmr.evaluate.protocols import Protocol
from synthmr.evaluate.scores import ScoreResult
from synthmr.evaluate.scoring import lesion_of
from synthmr.io.segmentations import seen_in
from synthmr.labels import AUTO, Meaning, decide

#: a mask of which less than this share shows anything in the truth is of something else
MISSED = 0.1
#: share that mask and brain of a skull-stripped truth have in common of both together: 1.00 in 6 BraTS subjects, and 0.73 to
#: 0.88 with the mask of another one
COMMON = 0.9
#: different labels of a lesion or tissue segmentation at most; FreeSurfer's aseg has about 45, with its cortex 120
MOST_LABELS = 200


@dataclass(frozen=True)
class Pair:
    """A prediction beside its truth.

    Attributes:
        prediction: NIfTI on the truth's grid.
        truth: NIfTI.
        mask: of the brain; None: as the prediction's sidecar says, else found in the truth (non-zero voxels, or Otsu), with a
            warning.
        segmentation: lesion labels.
        labels: what their numbers mean: a name of `synthmr.labels.conventions`, your own YAML file, or auto.
        tissue: labels 1 CSF, 2 grey matter, 3 white matter, for ``regions``.
        head: whose prediction of what it is; None: what the sidecar or the files' names say.
        as_written: score the voxels as they are, whatever a sidecar says.
        nan_to_zero: read NaN outside the brain as 0.
    """

    prediction: Path
    truth: Path
    mask: Path | None = None
    segmentation: Path | None = None
    tissue: Path | None = None
    head: Head | None = None
    as_written: bool = False
    nan_to_zero: bool = False
    labels: str = AUTO


def score_pair(
    pair: Pair,
    protocols: Sequence[Protocol],
    names: Sequence[str] = (),
    regions: bool = False,
    progress: Progress | None = None,
    meaning: Meaning | None = None,
) -> ScoreResult:
    """Score a prediction file against a truth file.

    A volume that synthmr wrote is scored as `synthmr evaluate` scores it, by what its sidecar says (`synthmr.evaluate.own`). Of
    any other, both are mapped by the truth: 0 to 0 (where it has negative voxels: its background, if that is darker, as in
    [-1, 1] data, else the brain's 0.5 percentile) and the brain's 99.5 percentile to 1. Neither is clipped then, so that equal
    files are equal; `synthmr evaluate` has the truth as it was trained on, which the percentile normaliser clips at 1.

    Args:
        pair: the files.
        protocols: those to score under; with several, one that needs a lesion where none is known is skipped and named.
        names: metrics other than the protocols' own.
        regions: score lesion, tissue and boundary apart, too, with slice consistency and false lesions.
        progress: is told of every protocol: done, of how many, name.
        meaning: what the numbers of the segmentation mean; None: as ``pair.labels`` says, by this file alone, where it matters.

    Raises:
        DataError: files, grids, NaN, a mask that misses the brain, labels of another convention, or a protocol that cannot be had.
        UsageError: an unknown metric or convention.
    """
    if meaning is None and pair.segmentation is not None and (needs_meaning(protocols, regions) or pair.labels != AUTO):
        meaning = decide(seen_in([("", pair.segmentation)]), named=pair.labels)
    read = read_pair(pair, meaning)
    scored = read.scored
    if regions and pair.tissue is not None:
        scored = replace(scored, tissue=read_labels(pair.tissue, pair.truth))
    more: dict[str, Any] = {"names": names, "regions": regions, "truth_mask": read.truth_mask, "progress": progress}
    found = apply_protocols(scored, protocols, pair.head or read.head, **more)
    if not found.rows:
        raise DataError(f"nothing could be scored: {'; '.join(dict.fromkeys(found.skipped))}.")
    notes = [*read.notes, *found.notes]
    if np.array_equal(scored.prediction, scored.truth):
        notes.append("prediction and truth are the same voxel by voxel: errors are 0 and PSNR is infinite.")
    # where the files are in different units already, brightness is no second fault
    dim = [] if any(warning.code == "units" for warning in found.warnings) else lint_brightness(scored)
    return replace(found, notes=notes, warnings=[*found.warnings, *dim])


@dataclass(frozen=True, eq=False)
class ReadPair:
    """A pair of files as arrays.

    Attributes:
        scored: both images on the unit scale, with labels.
        notes: what is odd about the files, and how they were read.
        truth_mask: whether the mask was made from the truth.
        head: whose prediction of what it is, by its sidecar or its name.
    """

    scored: ScoreInput
    notes: list[str]
    truth_mask: bool
    head: Head


def read_pair(pair: Pair, meaning: Meaning | None = None) -> ReadPair:
    """Read a pair; arguments and errors of `score_pair`."""
    from synthmr.io import nifti
    from synthmr.io.grid import one_order
    from synthmr.prepare import orient
    from synthmr.prepare.nan import without_nan

    files = {"prediction": pair.prediction, "truth": pair.truth, "mask": pair.mask, "segmentation": pair.segmentation}
    volumes = {name: _load(name, path, pair) for name, path in files.items() if path is not None}
    if pair.nan_to_zero:
        for name in ("prediction", "truth"):
            volumes[name] = without_nan(volumes[name], volumes.get("mask"))
    named = {f"{name} {files[name]}": name for name in ("truth", *sorted(set(volumes) - {"truth"}))}
    alike = one_order({words: volumes[name] for words, name in named.items()})
    nifti.check_same_grid(alike)
    volumes = {name: alike[words] for words, name in named.items()}
    if pair.segmentation is not None:
        check_labels(volumes["segmentation"].array, pair.segmentation)
    notes = [f"{files[name]}: {note}" for name, volume in volumes.items() for note in volume.notes]
    turn = orient.fit(volumes["truth"].shape, volumes["truth"].affine)
    arrays = {name: orient.apply(volume.array, turn) for name, volume in volumes.items()}
    own, why = (None, "") if pair.as_written else read_own(pair.prediction)
    notes += [why] if why else []
    if own is not None:
        guess, truth, inside, peak, told = _read_own(own, arrays, turn, pair)
    else:
        guess, truth, inside, peak, told = _read_as_written(arrays, pair)
    labels = arrays["segmentation"].astype(np.int64) if pair.segmentation is not None else None
    spacing = volumes["truth"].spacing
    ras = {int(axis): spacing[number] for number, (axis, _) in enumerate(turn["axes"])}
    scored = ScoreInput(
        guess.astype(np.float32),
        truth.astype(np.float32),
        inside,
        label=pair.prediction.name,
        lesion=None if labels is None else lesion_of(labels, meaning),
        labels=labels,
        meaning=meaning,
        spacing=(ras[0], ras[1], ras[2]),
        peak=peak,
    )
    return ReadPair(scored, notes + told, own is None and pair.mask is None, head_of(pair, own))


def _load(name: str, path: Path, pair: Pair) -> Volume:
    """A file of a pair; labels are whole numbers, and few.

    Raises:
        DataError: it cannot be read, or holds no labels where labels are meant.
    """
    from synthmr.io import nifti
    from synthmr.prepare.nan import load_labels

    if name == "segmentation":
        volume = load_labels(path, "", True) if pair.nan_to_zero else nifti.load(path, np.int32)
        return replace(volume, array=np.rint(volume.array).astype(np.int32)) if pair.nan_to_zero else volume
    if name == "mask":
        return load_labels(path, "", pair.nan_to_zero)
    return nifti.load(path, check=not pair.nan_to_zero)


def check_labels(labels: np.ndarray, path: Path) -> None:
    """Check that a volume holds labels and no image.

    Args:
        labels: of any shape.
        path: of the file, for messages.

    Raises:
        DataError: it has more different values than any set of labels.
    """
    # the first sample decides for every image, the whole for every label file
    values = np.unique(labels.ravel(order="K")[:: max(1, labels.size // 100_000)])
    if len(values) <= MOST_LABELS:
        values = np.unique(labels)
    if len(values) > MOST_LABELS:
        raise DataError(
            f"{path} holds {len(values)} different values or more, as an image does: it is no segmentation; give the label file."
        )


def _read_own(
    own: Own, arrays: Mapping[str, Array], turn: Mapping[str, Any], pair: Pair
) -> tuple[Array, Array, Array, float | None, list[str]]:
    """Prediction, truth, mask, the truth's peak and notes of a volume that synthmr wrote."""
    if pair.mask is not None:
        inside, note = arrays["mask"] > 0, ""
        told = _mask_notes(inside, arrays["truth"], pair.mask, pair.truth)
    else:
        inside, note = own_mask(own, arrays["prediction"], turn)
        told = [note] if note else []
    if not inside.any():
        raise DataError(f"{pair.prediction} is 0 everywhere, so there is no brain to score; check the file, or give --mask.")
    try:
        truth, peak = own.truth(arrays["truth"], inside)
    except DataError as error:
        raise DataError(f"{pair.truth}: {error}") from None
    return np.where(inside, own.unit(arrays["prediction"]), np.float32(0)), truth, inside, peak, told


def _read_as_written(arrays: Mapping[str, Array], pair: Pair) -> tuple[Array, Array, Array, float | None, list[str]]:
    """The same of two files whose voxels are taken as they are."""
    from synthmr.prepare.mask import brain_mask

    if pair.mask is not None:
        inside = arrays["mask"] > 0
        told = _mask_notes(inside, arrays["truth"], pair.mask, pair.truth)
    else:
        inside, mode, notice = brain_mask({"truth": arrays["truth"]}, None, "auto", str(pair.truth))
        told = [f"no mask was given: the brain is what the truth shows ({mode}).", *([notice] if notice else [])]
    low, high = _scale(arrays["truth"], inside, pair.truth)
    if low:
        told.append(f"the truth has negative voxels: its {low:.4g} is the 0 of the scale that both are scored on.")
    guess, truth = ((arrays[name] - low) / (high - low) for name in ("prediction", "truth"))
    return guess, truth, inside, None, told


def head_of(pair: Pair, own: Own | None = None) -> Head:
    """Whose prediction of what a pair is: by its sidecar, else by the truth's name or folder, and the prediction's folder."""
    from synthmr.io.naming import parse_name
    from synthmr.io.nifti import stem

    parsed = parse_name(stem(pair.truth))
    case = (parsed.prefix or pair.truth.resolve().parent.name) if parsed is not None else stem(pair.prediction)
    contrast = parsed.contrast if parsed is not None else ""
    method = pair.prediction.resolve().parent.name or "prediction"
    if own is None:
        return Head(case, method, contrast)
    return Head(own.case or case, own.method or method, own.contrast or contrast)


def read_labels(path: Path, truth: Path) -> np.ndarray:
    """A label file as RAS ``(X, Y, Z)``.

    Raises:
        DataError: it cannot be read, or is not on the truth's grid.
    """
    from synthmr.io import nifti
    from synthmr.prepare import orient

    volume, grid = nifti.load(path, np.int32), nifti.read_grid(truth)
    check_labels(volume.array, path)
    nifti.check_same_grid({f"truth {truth}": grid, f"tissue {path}": volume}, any_order=True)
    return orient.apply(volume.array, orient.fit(volume.shape, volume.affine)).astype(np.int64)


def _mask_notes(inside: np.ndarray, truth: np.ndarray, mask: Path, path: Path) -> list[str]:
    """What is odd about a mask file ``(X, Y, Z)`` beside the truth.

    Raises:
        DataError: it is empty, or misses the brain.
    """
    from synthmr.prepare.mask import background_value, is_stripped

    if not inside.any():
        raise DataError(f"the mask {mask} is empty; give the brain mask of this subject.")
    value = background_value(truth)
    shown = truth != (value if np.isfinite(value) else 0)
    empty = 1 - float(np.mean(shown[inside]))
    if empty > 1 - MISSED:
        raise DataError(f"the mask {mask} misses the brain: {empty:.0%} of it is background in {path}; give this subject's mask.")
    if not is_stripped(truth):
        if inside.all() or truth[inside].mean() > truth[~inside].mean():
            return []
        return [f"{path} is darker in the mask {mask} than outside: does it show the brain?"]
    common = np.count_nonzero(shown & inside) / np.count_nonzero(shown | inside)
    if common >= COMMON:
        return []
    outside = 1 - float(np.mean(inside[shown]))
    parts = f"{empty:.0%} of the mask {mask} is background in the truth, {outside:.0%} of what the truth shows is outside it"
    return [f"{parts}: is it this subject's?"]


def _scale(truth: np.ndarray, inside: np.ndarray, path: Path) -> tuple[float, float]:
    """What becomes 0 and 1, by the truth's brain alone.

    Raises:
        DataError: the truth is constant in the brain.
    """
    from synthmr.prepare import normalize
    from synthmr.prepare.mask import background_value

    try:
        params = normalize.fit("percentile", truth[inside])
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    low, background = float(params["low"]), background_value(truth)
    # low is at most 0. A darker background, as in [-1, 1] data, is what 0 scanner units became
    return (background if background < low else low), float(params["high"])
