"""Score one NIfTI file against another, from whatever tool, without a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from synthmr.errors import DataError
from synthmr.evaluate.lint import LintWarning, lint_images, lint_protocol
from synthmr.evaluate.protocols import Protocol
from synthmr.evaluate.regions import consistency, false_lesion, region_masks, seam_score
from synthmr.evaluate.scoring import ScoreInput, region_scores, scorable, score

#: a mask of which less than this share shows anything in the truth is of something else
MISSED = 0.1
#: share that mask and brain of a skull-stripped truth have in common of both together: 1.00 in 6 BraTS subjects, and 0.73 to
#: 0.88 with the mask of another one
COMMON = 0.9


@dataclass(frozen=True)
class PairScores:
    """What was found.

    Attributes:
        rows: {"protocol", "region", "metric", "value"} each.
        skipped: why a protocol was left out, a line each.
        notes: what else the reader should know.
        warnings: of the linter.
    """

    rows: list[dict[str, Any]]
    skipped: list[str]
    notes: list[str]
    warnings: list[LintWarning]


def score_files(
    prediction: Path,
    truth: Path,
    protocols: Sequence[Protocol],
    mask: Path | None = None,
    segmentation: Path | None = None,
    names: Sequence[str] = (),
    regions: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
    tissue: Path | None = None,
) -> PairScores:
    """Score a prediction file against a truth file.

    Both are mapped by the truth: 0 to 0 (where it has negative voxels: its background, if that is darker, as in [-1, 1]
    data, else the brain's 0.5 percentile) and the brain's 99.5 percentile to 1. Neither is clipped, so that equal files are
    equal; `synthmr evaluate` has the truth as it was trained on, which the percentile normaliser clips at 1.

    Args:
        prediction: NIfTI on the truth's grid.
        truth: NIfTI.
        protocols: those to score under; with several, one that needs a lesion where none is known is skipped and named.
        mask: of the brain; None: found in the truth (non-zero voxels, or Otsu), with a warning.
        segmentation: lesion labels.
        names: metrics other than the protocols' own.
        regions: score lesion, tissue and boundary apart, too, with slice consistency and false lesions.
        progress: is told of every protocol: done, of how many, name.
        tissue: with ``regions``, tissue labels (1 CSF, 2 grey matter, 3 white matter).

    Raises:
        DataError: files, grids, NaN, a mask that misses the brain, or a protocol that cannot be had.
        UsageError: an unknown metric.
    """
    scored, labels, notes, own_mask = read_pair(prediction, truth, mask, segmentation)
    rows: list[dict[str, Any]] = []
    reasons: list[str] = []
    used: list[Protocol] = []
    for number, protocol in enumerate(protocols):
        if progress is not None:
            progress(number, len(protocols), protocol.name)
        reason = scorable(scored, protocol) if len(protocols) > 1 else ""
        if reason:
            reasons.append(reason)
            continue
        used.append(protocol)
        default = protocol.regions[0]
        for name, value in score(scored, protocol, names).items():
            metric, _, region = name.partition("@")
            rows.append({"protocol": protocol.name, "region": region or default, "metric": metric, "value": value})
    if not rows:
        raise DataError(f"nothing could be scored: {'; '.join(dict.fromkeys(reasons))}.")
    if regions:
        rows += regional_rows(scored, labels, used[0], names, None if tissue is None else read_labels(tissue, truth))
    warnings = [warning for protocol in used for warning in lint_protocol(protocol)] + lint_images(scored, used, own_mask)
    if np.array_equal(scored.prediction, scored.truth):
        notes.append("prediction and truth are the same voxel by voxel: errors are 0 and PSNR is infinite.")
    return PairScores(rows, reasons, notes, warnings)


def regional_rows(
    scored: ScoreInput,
    labels: np.ndarray | None,
    protocol: Protocol,
    names: Sequence[str] = (),
    tissue: np.ndarray | None = None,
    borders: Sequence[Sequence[int]] = (),
) -> list[dict[str, Any]]:
    """Scores of every region that there is, slice consistency in three planes, false lesions, and seams of tiles.

    ``borders`` are where tiles begin and end along X, Y and Z; none: it was not predicted tile by tile.
    """
    masks = region_masks(scored.mask, labels, tissue, spacing=scored.spacing)
    # what the protocol scores itself has its own rows: two values under one name would be averaged
    masks = {name: mask for name, mask in masks.items() if name not in ("brain", *protocol.regions)}
    rows = []

    def add(region: str, metric: str, value: float) -> None:
        rows.append({"protocol": protocol.name, "region": region, "metric": metric, "value": float(value)})

    for name, value in region_scores(scored, protocol, masks, names).items():
        metric, _, region = name.partition("@")
        add(region, metric, value)
    for plane, found in consistency(scored.prediction, scored.truth, scored.mask).items():
        add(plane, "slice_jump", found.jump)
        add(plane, "slice_stripes", found.stripes)
    lesions = false_lesion(scored.prediction, scored.truth, scored.mask, segmentation=labels, spacing=scored.spacing)
    for name, value in lesions.items():
        add("brain", "bright_threshold" if name == "threshold" else name, value)
    if any(borders):
        add("brain", "seam", seam_score(scored.prediction, scored.truth, scored.mask, borders))
    return rows


def read_pair(
    prediction: Path, truth: Path, mask: Path | None = None, segmentation: Path | None = None
) -> tuple[ScoreInput, np.ndarray | None, list[str], bool]:
    """Files as `ScoreInput` with (its labels, notes, whether the mask was made from the truth); arguments of `score_files`."""
    from synthmr.io import nifti
    from synthmr.prepare import orient
    from synthmr.prepare.mask import brain_mask

    files = {"prediction": prediction, "truth": truth, "mask": mask, "segmentation": segmentation}
    types = {"segmentation": np.int32}
    volumes = {name: nifti.load(path, types.get(name, np.float32)) for name, path in files.items() if path is not None}
    nifti.check_same_grid({f"{name} {files[name]}": volumes[name] for name in ("truth", *sorted(set(volumes) - {"truth"}))})
    notes = [f"{files[name]}: {note}" for name, volume in volumes.items() for note in volume.notes]
    params = orient.fit(volumes["truth"].shape, volumes["truth"].affine)
    arrays = {name: orient.apply(volume.array, params) for name, volume in volumes.items()}
    if mask is not None:
        inside = arrays["mask"] > 0
        notes += _mask_notes(inside, arrays["truth"], mask, truth)
    else:
        inside, mode, notice = brain_mask({"truth": arrays["truth"]}, None, "auto", str(truth))
        notes.append(f"no mask was given: the brain is what the truth shows ({mode}).")
        notes += [notice] if notice else []
    low, high = _scale(arrays["truth"], inside, truth)
    if low:
        notes.append(f"the truth has negative voxels: its {low:.4g} is the 0 of the scale that both are scored on.")
    unit = {name: (arrays[name] - low) / (high - low) for name in ("prediction", "truth")}
    labels = arrays["segmentation"].astype(np.int64) if segmentation is not None else None
    spacing = volumes["truth"].spacing
    order = [int(axis) for axis, _ in params["axes"]]
    ras = {axis: spacing[number] for number, axis in enumerate(order)}
    scored = ScoreInput(
        unit["prediction"].astype(np.float32),
        unit["truth"].astype(np.float32),
        inside,
        label=prediction.name,
        lesion=None if labels is None else labels > 0,
        spacing=(ras[0], ras[1], ras[2]),
    )
    return scored, labels, notes, mask is None


def read_labels(path: Path, truth: Path) -> np.ndarray:
    """A label file as RAS ``(X, Y, Z)``.

    Raises:
        DataError: it cannot be read, or is not on the truth's grid.
    """
    from synthmr.io import nifti
    from synthmr.prepare import orient

    volume, grid = nifti.load(path, np.int32), nifti.read_grid(truth)
    nifti.check_same_grid({f"truth {truth}": grid, f"tissue {path}": volume})
    return orient.apply(volume.array, orient.fit(grid.shape, grid.affine)).astype(np.int64)


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
