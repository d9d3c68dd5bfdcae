"""The one loop that scores a prediction under protocols: of a run, or read from a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from synthmr.evaluate.counted import ScoreInput, Shared
from synthmr.evaluate.lint import lint_images, lint_protocol
from synthmr.evaluate.protocols import Protocol
from synthmr.evaluate.regions import consistency, false_lesion, region_masks, seam_score
from synthmr.evaluate.scores import Score, ScoreResult
from synthmr.evaluate.scoring import Values, region_scores, scorable, score
from synthmr.labels import Meaning

#: ``progress(done, total, name)``
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Head:
    """Whose prediction of what is scored; the fields are those of `Score`."""

    case: str
    method: str
    contrast: str
    subject: str = ""

    def rows(self, protocol: str, values: Values) -> list[Score]:
        """Scores of region -> metric -> value."""
        head = (self.case, self.subject, self.method, self.contrast, protocol)
        return [Score(*head, region, metric, value) for region, found in values.items() for metric, value in found.items()]


def apply_protocols(
    scored: ScoreInput,
    protocols: Sequence[Protocol],
    head: Head,
    *,
    names: Sequence[str] = (),
    regions: bool = False,
    truth_mask: bool = False,
    progress: Progress | None = None,
) -> ScoreResult:
    """Score one prediction under protocols.

    Args:
        scored: prediction and truth, with labels and how they are read, tissue and tile borders where they are known.
        protocols: those to score under; of several, one that cannot be had for this case is left out and named.
        head: whose prediction of what it is.
        names: metrics other than the protocols' own.
        regions: score lesion, tissue and boundary apart, too, with slice consistency and false lesions (first protocol).
        truth_mask: the brain mask was made from the truth.
        progress: is told of every protocol: done, of how many, name.

    Raises:
        DataError: NaN, an empty mask, or one protocol alone that cannot be had.
        UsageError: an unknown metric.
    """
    shared = Shared(scored)
    rows: list[Score] = []
    skipped: list[str] = []
    used: list[Protocol] = []
    for number, protocol in enumerate(protocols):
        if progress is not None:
            progress(number, len(protocols), protocol.name)
        missing = scorable(scored, protocol) if len(protocols) > 1 else ""
        if missing:
            skipped.append(missing)
            continue
        used.append(protocol)
        rows += head.rows(protocol.name, score(scored, protocol, names, shared))
    if regions and used:
        rows += head.rows(used[0].name, regional(scored, used[0], names, shared))
    warnings = [*(found for protocol in used for found in lint_protocol(protocol)), *lint_images(scored, used, truth_mask)]
    if scored.labels is None or scored.meaning is None:
        return ScoreResult(rows, warnings, skipped)
    return ScoreResult(rows, warnings, skipped, labels_read(scored, scored.meaning, head.case), notes_of(scored.meaning))


def regional(scored: ScoreInput, protocol: Protocol, names: Sequence[str] = (), shared: Shared | None = None) -> Values:
    """Scores of every region that there is, slice consistency in three planes, false lesions, and seams of tiles."""
    masks = region_masks(scored.mask, scored.labels, scored.tissue, convention=scored.meaning, spacing=scored.spacing)
    # what the protocol scores itself has its own rows: two values under one name would be averaged
    masks = {name: mask for name, mask in masks.items() if name not in ("brain", *protocol.regions)}
    found = region_scores(scored, protocol, masks, names, shared)
    for region, values in _artefacts(scored):
        found.setdefault(region, {}).update(values)
    return found


def _artefacts(scored: ScoreInput) -> Iterator[tuple[str, dict[str, float]]]:
    """Region, and what is wrong there that no metric of two images tells."""
    images = (scored.prediction, scored.truth, scored.mask)
    for plane, found in consistency(*images).items():
        yield plane, {"slice_jump": found.jump, "slice_stripes": found.stripes}
    lesions = false_lesion(*images, segmentation=scored.lesion, spacing=scored.spacing)
    yield "brain", {"bright_threshold" if name == "threshold" else name: value for name, value in lesions.items()}
    if any(scored.borders):
        yield "brain", {"seam": seam_score(*images, scored.borders)}


def labels_read(scored: ScoreInput, meaning: Meaning, case: str) -> dict[str, Any] | None:
    """How a segmentation was read, as `ScoreResult.labels` has it; voxels are counted in the brain."""
    if scored.labels is None:
        return None
    sizes = meaning.voxels(scored.labels[scored.mask])
    return {"name": meaning.name, "why": meaning.why, "parts": {part: {case: size} for part, size in sizes.items()}}


def needs_meaning(protocols: Sequence[Protocol], regions: bool) -> bool:
    """Whether scores depend on what the numbers of a segmentation mean."""
    return regions or any(protocol.needs_segmentation for protocol in protocols)


def notes_of(meaning: Meaning) -> list[str]:
    """What must be said of a meaning beside the scores: what could be meant, where that is not known."""
    return [f"{meaning.why}."] if meaning.convention is None else []
