"""Which prediction belongs to which truth: two files, two folders, or a table. One bad pair costs that pair alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from synthmr.case import check_name
from synthmr.contrasts import SEGMENTATION
from synthmr.errors import DataError, SynthmrError, UsageError, did_you_mean
from synthmr.evaluate.apply import Head, Progress, needs_meaning
from synthmr.evaluate.own import Own, read_own
from synthmr.evaluate.pair import Pair, head_of, score_pair
from synthmr.evaluate.protocols import Protocol
from synthmr.evaluate.scores import ScoreResult, join
from synthmr.io.segmentations import seen_in
from synthmr.labels import AUTO, Meaning, decide
from synthmr.reading import Reading

#: how `synthmr synthesize` names the volumes of a cohort; maps and segmentations have other words in their place
OWN_NAME = re.compile(r"^(?P<case>.+)_desc-synth_(?P<contrast>[^_]+)$")

#: columns of a table of pairs; the first two are needed
COLUMNS = ("prediction", "truth", "case", "subject", "contrast", "method", "mask", "segmentation", "labels", "tissue")

#: those of them that are files, in the order of `Pair`
FILES = ("prediction", "truth", "mask", "segmentation", "tissue")

#: (case, contrast)
Key = tuple[str, str]


@dataclass(frozen=True)
class Given:
    """What is given for every pair of a call.

    Attributes:
        mask: of the brain; ``{case}`` in it stands for the case.
        segmentation: lesion labels, likewise.
        labels: what their numbers mean: a name of `synthmr.labels.conventions`, your own YAML file, or auto.
        tissue: tissue labels, likewise.
        method: what the predictions are called in tables; empty: what a sidecar or the folder says.
        as_written: score voxels as they are, whatever sidecars say.
        reading: how a folder of truths is read.
    """

    mask: Path | None = None
    segmentation: Path | None = None
    tissue: Path | None = None
    method: str = ""
    as_written: bool = False
    reading: Reading = field(default_factory=Reading)
    labels: str = AUTO

    def own(self, image: Path) -> Own | None:
        """What the sidecar of a volume says, where there are both and it counts."""
        return None if self.as_written or not image.is_file() else read_own(image)[0]

    def to(self, pair: Pair, known: Head, own: Own | None) -> Pair:
        """A pair with what is given; a sidecar's own mask goes before one that was found beside the truth."""

        def path(given: Path | None) -> Path | None:
            return None if given is None else Path(str(given).replace("{case}", known.case))

        mask = path(self.mask)
        if mask is None and (self.as_written or own is None):
            mask = pair.mask
        head = replace(known, method=self.method) if self.method else known
        labels, tissue = path(self.segmentation) or pair.segmentation, path(self.tissue) or pair.tissue
        meant = pair.labels if pair.labels != AUTO else self.labels
        more: dict[str, Any] = {"mask": mask, "segmentation": labels, "tissue": tissue, "head": head, "labels": meant}
        return replace(pair, as_written=self.as_written, nan_to_zero=self.reading.nan_to_zero, **more)


def score_pairs(
    predictions: Path,
    truths: Path | None,
    protocols: Sequence[Protocol],
    given: Given | None = None,
    names: Sequence[str] = (),
    regions: bool = False,
    progress: Progress | None = None,
) -> ScoreResult:
    """Score a file against a file, a folder against a folder, or the pairs of a table.

    Args:
        predictions: a NIfTI file, a folder of them, or a CSV or TSV table with the columns `COLUMNS`.
        truths: a NIfTI file or a folder; None with a table.
        protocols: those to score under.
        given: masks, labels and words for all pairs.
        names: metrics other than the protocols' own.
        regions: score lesion, tissue and boundary apart, too.
        progress: is told of every protocol of a single pair, and of every one of several pairs.

    Returns:
        The scores. A pair that cannot be scored costs itself alone: it is named in ``skipped`` and in ``failed``. Files that
        have no partner are named in ``skipped``.

    Raises:
        DataError: there is no pair, a single pair cannot be scored, or none of several can; labels are not of a convention named.
        UsageError: words that do not fit together, or an unknown metric or convention.
    """
    given = given or Given()
    pairs, alone = find_pairs(predictions, truths, given)
    meanings = meanings_of(pairs, needs_meaning(protocols, regions))
    if given.labels != AUTO and not meanings:
        raise UsageError(f"--labels {given.labels} says what a segmentation means, and there is none; give --segmentation.")
    if len(pairs) == 1 and not alone:
        return score_pair(pairs[0], protocols, names, regions, progress, meanings.get(pairs[0].labels))
    results, failed = [], []
    for number, pair in enumerate(pairs):
        if progress is not None:
            progress(number, len(pairs), pair.prediction.name)
        try:
            results.append(score_pair(pair, protocols, names, regions, None, meanings.get(pair.labels)))
        except UsageError:
            raise
        except (SynthmrError, OSError, MemoryError) as error:
            failed.append(f"{pair.prediction.name}: {' '.join(str(error).split()) or type(error).__name__}")
    if not results:
        raise DataError(f"nothing could be scored: {'; '.join([*failed, *alone][:3])}")
    found = join(results)
    return replace(found, skipped=[*found.skipped, *failed, *alone], failed=failed)


def meanings_of(pairs: Sequence[Pair], needed: bool) -> dict[str, Meaning]:
    """How segmentations are read, decided once: by what is named for them -> the meaning of all for which that is named.

    Args:
        pairs: all that are scored.
        needed: whether those for which nothing is named are read, too.

    Raises:
        DataError: labels are not of the convention that is named, or its file cannot be read.
        UsageError: there is no such convention.
    """
    files: dict[str, dict[Path, str]] = {}
    for pair in pairs:
        if pair.segmentation is not None and (needed or pair.labels != AUTO):
            files.setdefault(pair.labels, {})[pair.segmentation] = pair.head.case if pair.head is not None else ""
    return {named: decide(seen_in((case, path) for path, case in each.items()), named=named) for named, each in files.items()}


def find_pairs(predictions: Path, truths: Path | None, given: Given) -> tuple[list[Pair], list[str]]:
    """Pairs, and a line for every file without a partner; arguments and errors of `score_pairs`."""
    from synthmr.io.table import is_table

    for path in (predictions, truths):
        if path is not None and not path.exists():
            raise DataError(f"{path} does not exist; check the path.")
    if predictions.is_file() and is_table(predictions):
        if truths is not None:
            raise UsageError(f"{predictions} is a table, which names the truths in its column truth; leave {truths} out.")
        return _of_table(predictions, given), []
    if truths is None:
        raise UsageError(
            f"{predictions} alone has nothing to be scored against; give the truth, or a .csv table with columns prediction, truth."
        )
    if predictions.is_dir() != truths.is_dir():
        raise UsageError(f"{predictions} and {truths}: give two files or two folders.")
    if predictions.is_dir():
        return _of_folders(predictions, truths, given)
    pair = Pair(predictions, truths, given.mask, given.segmentation)
    own = given.own(predictions)
    return [given.to(pair, head_of(pair, own), own)], []


def _of_table(path: Path, given: Given) -> list[Pair]:
    """The pairs of a table; files are looked for from its folder."""
    from synthmr.io.table import read_rows

    columns, rows = read_rows(path)
    for name in columns:
        if name and name not in COLUMNS:
            raise DataError(f"{path} has a column {name!r}: {did_you_mean(name, COLUMNS)}")
    if not {"prediction", "truth"} <= set(columns) or not rows:
        raise DataError(f"{path} is no table of pairs: it needs the columns prediction and truth, and a line a pair.")
    pairs = []
    for line, row in rows:
        files = {name: path.parent / row[name] for name in FILES if row.get(name)}
        if not {"prediction", "truth"} <= set(files):
            raise DataError(f"{path} line {line} lacks the prediction or the truth; name both.")
        mask, labels, tissue = (files.get(name) for name in FILES[2:])
        meant = row.get("labels") or AUTO
        if meant.lower().endswith((".yaml", ".yml")):
            meant = str(path.parent / meant)
        pair = Pair(files["prediction"], files["truth"], mask, labels, tissue, labels=meant)
        own = given.own(pair.prediction)
        said = {name: row[name] for name in ("case", "subject", "contrast", "method") if row.get(name)}
        for name in said.values():
            check_name(name, f"{path} line {line}")
        pairs.append(given.to(pair, replace(head_of(pair, own), **said), own))
    return pairs


def _of_folders(predictions: Path, truths: Path, given: Given) -> tuple[list[Pair], list[str]]:
    """Pairs of two folders: by the same path in both, else by case and contrast."""
    files = [path for path in _images(predictions) if not _inside(path, truths, predictions)]
    if not files:
        raise DataError(f"{predictions} holds no .nii or .nii.gz file.")
    known = _truths(truths, given)
    pairs, alone, used = [], [], set()
    for path in files:
        own = read_own(path)[0]
        key = _key(path, own, given)
        if key is None:
            alone.append(f"{path.name} is a map or a segmentation, which is not scored here")
            continue
        same = truths / path.relative_to(predictions)
        partner = known.get(key) or _only(known, key)
        if (partner is None and same.is_file()) or (partner is not None and same.is_file() and partner.truth != same):
            partner = Pair(path, same)
        if partner is None:
            alone.append(f"{path.name} has no truth in {truths} ({' '.join(filter(None, key)) or 'its name says no case'})")
            continue
        used.add(partner.truth)
        pair = replace(partner, prediction=path)
        method = own.method if own is not None and own.method else predictions.resolve().name
        fallback = head_of(pair, own)
        head = partner.head or Head(key[0] or fallback.case, method, key[1] or fallback.contrast)
        pairs.append(given.to(pair, replace(head, method=method), own))
    if not pairs:
        raise DataError(f"no file of {predictions} has a truth in {truths}: {'; '.join(alone[:3])}")
    contrasts = {pair.head.contrast for pair in pairs if pair.head is not None}
    left = [pair for (_, contrast), pair in known.items() if contrast in contrasts and pair.truth not in used]
    return pairs, [*alone, *(f"{pair.truth.name} has no prediction in {predictions}" for pair in left)]


def _truths(folder: Path, given: Given) -> dict[Key, Pair]:
    """(case, contrast) -> truth, with the mask and the segmentation of its case; empty where the folder holds no cases."""
    from synthmr.io.index import find

    try:
        cohort = find(folder, given.reading)
    except DataError:
        return {}
    found = {}
    for case in cohort.cases:
        for contrast, path in case.images.items():
            head = Head(case.name, "", contrast, case.subject)
            found[case.name, contrast] = Pair(path, path, case.mask, case.segmentation, head=head)
    return found


def _key(path: Path, own: Own | None, given: Given) -> Key | None:
    """Case and contrast of a prediction, as its sidecar or its name says; None for what is no image."""
    from synthmr.io.naming import parse_name
    from synthmr.io.nifti import stem

    if own is not None:
        return own.case, own.contrast
    match = OWN_NAME.match(stem(path))
    if match is not None:
        if match["contrast"] == "dseg" or "_rec-" in match["case"] or "_rec-" in stem(path):
            return None
        return match["case"], match["contrast"]
    parsed = parse_name(stem(path), given.reading.known)
    if parsed is None:
        return stem(path), ""
    return None if parsed.contrast == SEGMENTATION else (parsed.prefix or path.parent.name, parsed.contrast)


def _only(known: Mapping[Key, Pair], key: Key) -> Pair | None:
    """The one truth of a case whose prediction names no contrast."""
    found = [pair for (case, _), pair in known.items() if case == key[0]]
    return found[0] if not key[1] and len(found) == 1 else None


def _images(folder: Path) -> Iterable[Path]:
    """Every NIfTI file of a folder."""
    from synthmr.io.nifti import is_nifti

    return sorted(path for path in folder.rglob("*") if path.is_file() and is_nifti(path) and not path.name.startswith("."))


def _inside(path: Path, truths: Path, predictions: Path) -> bool:
    """Whether a file of the predictions' folder belongs to the truths, which lie in it."""
    return truths.resolve() != predictions.resolve() and truths.resolve() in path.resolve().parents
