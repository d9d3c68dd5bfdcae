"""k-fold cross-validation: stored folds of whole subjects, a run a fold, one table over all subjects.

OUT/folds.tsv            case, fold, subject, validates: written once, read ever after
OUT/crossval.json        what is validated; another configuration needs another folder
OUT/fold-1/run/ ...      one run each
OUT/metrics.csv          the test scores of all folds: every subject once
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthmr import pipeline
from synthmr.config import RunConfig, to_dict
from synthmr.data.folds import Folds, make_folds, read_folds, write_folds
from synthmr.errors import DataError, UsageError
from synthmr.experiment.cells import Cell, Scoring, Shown, busy_words, locked, score_cell, train_cell
from synthmr.io.naming import some
from synthmr.labels import AUTO
from synthmr.labels import get as get_convention
from synthmr.reading import Reading

if TYPE_CHECKING:
    from synthmr.evaluate.scores import Score
    from synthmr.pipeline.gate import Gate


def settle_folds(out: Path, data: Path, config: RunConfig, k: int, seed: int, reading: Reading | None = None) -> Folds:
    """The folds of a folder: those that it holds, or new ones.

    Raises:
        UsageError: the folder holds another number of folds.
        DataError: the folds do not fit the data.
    """
    cohort = pipeline.index(data, reading)
    path = out / "folds.tsv"
    needed = (*config.sources, *config.targets)
    if not path.is_file():
        folds = make_folds(cohort, k, seed, needed_contrasts=needed)
        out.mkdir(parents=True, exist_ok=True)
        write_folds(path, folds)
        return folds
    folds = read_folds(path, cohort, needed_contrasts=needed)
    if folds.k != k:
        raise UsageError(f"{path} holds {folds.k} folds and {k} were asked for; give --folds {folds.k}, or another --out.")
    return folds


def cross_validate(
    config: RunConfig,
    data: Path,
    out: Path,
    k: int,
    *,
    protocols: Sequence[str] = (),
    reading: Reading | None = None,
    cache: Path | None = None,
    show: Shown,
    train_show: Shown,
    say: Callable[[str], None],
    device: str = "auto",
    keep: bool = True,
    gate: Gate | None = None,
    labels: str = AUTO,
) -> list[Score]:
    """Train and test every fold that is not done; the scores of all folds together.

    Args:
        config: the run; the same in each fold.
        data: the cohort.
        out: folder; an interrupted cross-validation goes on there.
        k: folds.
        protocols: of the scores; none: masked-volume.
        reading: how the folder is read.
        cache: of prepared data.
        show: progress of preparing and scoring.
        train_show: progress of training.
        say: is told what is done.
        device: that predicts: auto, cpu, cuda, cuda:N or mps.
        keep: keep predictions of the tested cases for the next time.
        gate: audits the cases of each fold before anything is trained; None: nothing is audited.
        labels: what segmentations mean, as of `pipeline.evaluate`.

    Raises:
        UsageError: ``out`` is of another configuration, or there is no such device.
        DataError: what the stages raise.
    """
    from synthmr.evaluate.protocols import get_protocols
    from synthmr.evaluate.scores import write_scores
    from synthmr.io.files import write_json
    from synthmr.predict.precision import resolve_device

    get_protocols(protocols)  # a misspelt name is told before anything is trained
    resolve_device(device)
    if labels != AUTO:
        get_convention(labels)  # a misspelt name is told before anything is trained
    if (data / "store.json").is_file():
        raise UsageError(f"{data} is a prepared store, which holds one split; cross-validation needs the folder of images.")
    note = out / "crossval.json"
    mine = {"config": to_dict(config), "data": str(data.resolve()), **(reading or Reading()).note}
    if note.is_file():
        check_same(note, mine)
    folds = settle_folds(out, data, config, k, config.seed, reading)
    write_json(note, mine)
    cohort = pipeline.index(data, reading)
    if cohort.split_source is not None:
        say("the data bring a split; cross-validation makes its own folds, in which every subject is tested once.")
    if folds.left_out:
        say(f"left out: {some(folds.left_out)}")
    splits = {fold: folds.split(fold) for fold in range(1, k + 1)}
    if gate is not None:
        needed = (*config.sources, *config.targets)
        with show("audit") as tick:
            splits = {fold: gate.check(cohort, split, needed, cache, tick) for fold, split in splits.items()}
        for line in gate.lines:
            say(line)
    rows: list[Score] = []
    busy = []
    for fold in range(1, k + 1):
        folder = out / f"fold-{fold}"
        cell = Cell(config, splits[fold])
        with locked(folder) as free:
            if not free:
                busy.append(fold)
                continue
            title = f"{config.method}, fold {fold} of {k}"
            words: dict[str, Any] = {"reading": reading, "cache": cache, "gate": gate}
            run = train_cell(cell, data, folder, title=title, show=show, train_show=train_show, **words)
            say(f"fold {fold} of {k} is trained: {run}")
            with show(f"test fold {fold}") as tick:
                how: dict[str, Any] = {"reading": reading, "tick": tick, "device": device, "keep": keep, "labels": labels}
                found = score_cell(run, data, folder, Scoring(tuple(protocols)), say=say, **how)
            rows += found
    if busy:
        folders = f"fold {', '.join(map(str, busy))}"
        raise DataError(f"{folders} of {k}: {busy_words(out / f'fold-{busy[0]}')}.")
    write_scores(out / "metrics.csv", rows)
    return rows


def check_same(note: Path, mine: Mapping[str, Any]) -> None:
    """Refuse a folder whose note of what is run there is of other data or settings.

    Args:
        note: JSON; what it says of ``data`` is a path.
        mine: what is asked for now; keys that an older note lacks are passed over.

    Raises:
        UsageError: the first thing that differs.
        DataError: the note cannot be read.
    """
    from synthmr.io.files import read_json

    there = read_json(note)
    if not isinstance(there, dict):
        raise DataError(f"{note} is damaged, as it holds no JSON object; give another --out.")
    if "data" in there:
        there["data"] = str(Path(str(there["data"])).resolve())
    what = _difference({key: there.get(key, value) for key, value in mine.items()}, mine)
    if what:
        raise UsageError(f"{note} is of other settings or data ({what}); give another --out, or the same words as before.")


def _difference(old: Any, new: Any, key: str = "") -> str:
    """Where plain data differ first: ``config.seed was 0 and is 1``; empty where they do not."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = (_difference(old.get(name), new.get(name), f"{key}.{name}".strip(".")) for name in dict.fromkeys([*new, *old]))
        return next((line for line in found if line), "")
    if old == new:
        return ""
    return f"{key} was {old!r} and is {new!r}" if len(repr([old, new])) < 300 else f"the {key} are others"
