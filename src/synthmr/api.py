"""synthmr in Python: the command line's words one for one, without a shell. `import synthmr` offers all that is here.

    import synthmr

    synthmr.train("hinet", "data", sources="T1w,T2w", target="FLAIR", out="runs/flair", minutes=30)
    run = synthmr.load("runs/flair")
    image = run.predict({"T1w": "t1.nii.gz", "T2w": "t2.nii.gz"})["FLAIR"]
    table = synthmr.evaluate("runs/flair", "data").frame()

Paths are strings or `pathlib.Path`; several names are a list or one string with commas; errors are `synthmr.errors`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthmr import pipeline
from synthmr.contrasts import resolve_list, split_words
from synthmr.errors import UsageError, did_you_mean
from synthmr.reading import Reading

if TYPE_CHECKING:
    from synthmr.api_run import Run
    from synthmr.case import Cohort
    from synthmr.config import RunConfig
    from synthmr.data.audit import Finding
    from synthmr.data.dataset import SliceDataset
    from synthmr.evaluate.scores import ScoreResult
    from synthmr.predict.cohort import Summary
    from synthmr.train.result import TrainResult

AnyPath = str | PathLike[str]
Words = str | Sequence[str]


def words(value: Words | None) -> list[str]:
    """``"a,b"``, ``["a", "b"]`` and None -> a list of words."""
    if value is None:
        return []
    return list(split_words([value] if isinstance(value, str) else list(value)))


def _settings(value: Mapping[str, Any] | Sequence[str] | None) -> list[str]:
    """``{"train.lr": 1e-3}`` or ``["train.lr=1e-3"]`` as the words of ``--set``."""
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if not isinstance(value, Mapping):
        return list(value)

    def text(each: Any) -> str:
        return ",".join(map(str, each)) if isinstance(each, (list, tuple)) else str(each)

    return [f"{key}={text(each)}" for key, each in value.items()]


def _paths(value: AnyPath | Sequence[AnyPath]) -> list[Path]:
    """One path or several."""
    return [Path(value)] if isinstance(value, (str, PathLike)) else [Path(each) for each in value]


def index(
    data: AnyPath,
    *,
    alias: Words | None = None,
    split_file: AnyPath | None = None,
    subject: str = "",
    entity: Words | Mapping[str, str] | None = None,
    prefer: Words | None = None,
    nan_to_zero: bool = False,
) -> Cohort:
    """Find the cases of a folder or table.

    Args:
        data: folder of cases (BraTS, BIDS, ``subject/CONTRAST.nii.gz``), or a CSV or TSV table.
        alias: ``alias=CONTRAST`` words, for file names that synthmr does not know.
        split_file: TSV with the columns case and split, in place of the data's own.
        subject: regular expression with the groups ``subject`` and, if wanted, ``session``, searched for in each path below data.
        entity: ``key=value`` words of the BIDS names to use where several files are versions of one scan.
        prefer: words; of several versions of one scan that whose path has the word wins.
        nan_to_zero: read NaN outside the brain as 0; inside the brain they stay an error.

    Raises:
        DataError: there is no case.
    """
    return pipeline.index(Path(data), reading(alias, split_file, subject, entity, prefer, nan_to_zero))


def audit(
    data: AnyPath,
    *,
    sources: Words | None = None,
    target: Words | None = None,
    alias: Words | None = None,
    split_file: AnyPath | None = None,
    subject: str = "",
    entity: Words | Mapping[str, str] | None = None,
    prefer: Words | None = None,
    nan_to_zero: bool = False,
    cache: AnyPath | None = None,
) -> list[Finding]:
    """Find what would make training wrong, or at least worse.

    Args:
        data: folder of cases, or a table.
        sources: contrasts that will go in; None looks at all.
        target: contrasts that will come out.
        alias: ``alias=CONTRAST`` words.
        split_file: TSV with the columns case and split.
        subject: regular expression with the groups ``subject`` and, if wanted, ``session``, searched for in each path below data.
        entity: ``key=value`` words of the BIDS names to use where several files are versions of one scan.
        prefer: words; of several versions of one scan that whose path has the word wins.
        nan_to_zero: read NaN outside the brain as 0; inside the brain they stay an error.
        cache: folder in which what is found of a case is kept; None: ``$SYNTHMR_CACHE`` or ``~/.cache/synthmr``.

    Returns:
        Findings with level (error or warning), case, contrast, what, meaning and fix.
    """
    given = [",".join(words(value)) for value in (sources, target)]
    read = reading(alias, split_file, subject, entity, prefer, nan_to_zero)
    return pipeline.audit(Path(data), given[0], given[1], read, cache=optional(cache))


def train(
    method: str,
    data: AnyPath,
    *,
    sources: Words | None = None,
    target: Words | None = None,
    out: AnyPath,
    preset: str = "fast",
    minutes: float | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    set: Mapping[str, Any] | Sequence[str] | None = None,
    config: AnyPath | None = None,
    seed: int | None = None,
    resume: bool = False,
    alias: Words | None = None,
    split_file: AnyPath | None = None,
    subject: str = "",
    entity: Words | Mapping[str, str] | None = None,
    prefer: Words | None = None,
    nan_to_zero: bool = False,
    cache: AnyPath | None = None,
    devices: int = 1,
    accelerator: str = "auto",
    force: bool = False,
    skip_bad: bool = False,
    progress: Any = None,
) -> TrainResult:
    """Train a method on a cohort and write a run folder.

    Args:
        method: a name of `synthmr methods`, ``file.py:Class``, or a class that was given to `register`.
        data: folder of cases, a table, or a prepared store.
        sources: contrasts that go in; None: all that some case has, without the target.
        target: contrasts that come out.
        out: run folder to write.
        preset: of the method: fast, paper, ...
        minutes: of training; in place of the preset's length.
        steps: optimisation steps; in place of the preset's length.
        epochs: passes over the training samples; in place of the preset's length.
        set: ``{"train.lr": 1e-3}`` or ``["train.lr=1e-3"]``: any value of the configuration.
        config: YAML file with any part of the configuration.
        seed: of the split and of every random number; None: 0.
        resume: continue the run in ``out`` from its last checkpoint.
        alias: ``alias=CONTRAST`` words.
        split_file: TSV with the columns case and split.
        subject: regular expression with the groups ``subject`` and, if wanted, ``session``, searched for in each path below data.
        entity: ``key=value`` words of the BIDS names to use where several files are versions of one scan.
        prefer: words; of several versions of one scan that whose path has the word wins.
        nan_to_zero: read NaN outside the brain as 0; inside the brain they stay an error.
        cache: folder for prepared data; None: ``$SYNTHMR_CACHE`` or ``~/.cache/synthmr``.
        devices: processes or GPUs.
        accelerator: auto, cpu or cuda.
        force: train though the audit finds errors in the data; ``run.json`` records them, as it does warnings.
        skip_bad: leave the cases in which the audit finds errors out; ``run.json`` says which.
        progress: told how it goes; see `synthmr.train.log.Progress`.

    Raises:
        UsageError: a name, value or combination that makes no sense.
        DataError: data that cannot be used or in which the audit finds errors, or a loss that is not finite.
    """
    gate = pipeline.Gate(force, skip_bad)
    given = {"minutes": minutes, "steps": steps, "epochs": epochs}
    budget = {key: value for key, value in given.items() if value is not None}
    if len(budget) > 1:
        raise UsageError(f"{' and '.join(budget)} were both given; give one.")
    targets = words(target)
    if not targets:
        raise UsageError("train(..., target=...) is missing: say which contrasts come out, for example target='FLAIR'.")
    folder, names, read = Path(data), words(sources), reading(alias, split_file, subject, entity, prefer, nan_to_zero)
    if not names:
        meant = resolve_list(",".join(targets), read.known)
        names = [name for name in _contrasts(folder, read) if name not in meant]
    settings: RunConfig = pipeline.configure(
        method,
        ",".join(names),
        ",".join(targets),
        preset=preset,
        config=optional(config),
        settings=_settings(set),
        budget=budget,
        seed=seed,
        aliases=read.aliases,
    )
    pipeline.check_out(Path(out), resume, devices)
    store, split = pipeline.prepared(folder, settings, read, optional(cache), gate=gate)
    return pipeline.train(settings, store, split, Path(out), resume, devices, 1, accelerator, progress, data=folder, gate=gate)


def _contrasts(data: Path, read: Reading) -> tuple[str, ...]:
    """Every contrast of a cohort or prepared store."""
    from synthmr.data.store import Store

    if (data / "store.json").is_file():
        return Store.open(data).contrasts
    return pipeline.index(data, read).contrasts


def load(run: AnyPath, *, which: str = "best", device: str = "auto") -> Run:
    """Load a trained run.

    Args:
        run: run folder.
        which: best (by validation) or last.
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        RunError: no run, a damaged one, or one without weights.
        UsageError: no such device.
    """
    from synthmr.api_run import Run
    from synthmr.predict.precision import resolve_device
    from synthmr.run import load_run

    resolve_device(device)
    return Run(load_run(Path(run), which), device, which)


def dataset(
    data: AnyPath,
    *,
    sources: Words,
    target: Words,
    split: str = "train",
    plane: str = "axial",
    set: Mapping[str, Any] | Sequence[str] | None = None,
    alias: Words | None = None,
    split_file: AnyPath | None = None,
    subject: str = "",
    entity: Words | Mapping[str, str] | None = None,
    prefer: Words | None = None,
    nan_to_zero: bool = False,
    cache: AnyPath | None = None,
) -> SliceDataset:
    """The prepared slices of a cohort as a `torch.utils.data.Dataset`, for a training loop of your own.

    Args:
        data: folder of cases, a table, or a prepared store.
        sources: contrasts that go in.
        target: contrasts that come out.
        split: train, validation or test.
        plane: axial, coronal or sagittal.
        set: values of the preparation, such as ``{"prepare.normalizer": "zscore"}``.
        alias: ``alias=CONTRAST`` words.
        split_file: TSV with the columns case and split.
        subject: regular expression with the groups ``subject`` and, if wanted, ``session``, searched for in each path below data.
        entity: ``key=value`` words of the BIDS names to use where several files are versions of one scan.
        prefer: words; of several versions of one scan that whose path has the word wins.
        nan_to_zero: read NaN outside the brain as 0; inside the brain they stay an error.
        cache: folder for prepared data; None: ``$SYNTHMR_CACHE`` or ``~/.cache/synthmr``.

    Raises:
        UsageError: an unknown word.
        DataError: data that cannot be used.
    """
    from synthmr.data.dataset import SliceDataset
    from synthmr.data.reader import Reader

    read = reading(alias, split_file, subject, entity, prefer, nan_to_zero)
    config = pipeline.configure(
        "linear", ",".join(words(sources)), ",".join(words(target)), settings=_settings(set), aliases=read.aliases
    )
    if split not in ("train", "validation", "test"):
        raise UsageError(f"split {split!r}: {did_you_mean(split, ('train', 'validation', 'test'))}")
    store, parts = pipeline.prepared(Path(data), config, read, optional(cache))
    reader = Reader(store, config.prepare, config.sources, config.targets)
    return SliceDataset(reader, parts.part(split), plane)


def evaluate(
    runs: AnyPath | Sequence[AnyPath],
    data: AnyPath,
    *,
    split: str = "test",
    protocol: Words | None = None,
    metrics: Words | None = None,
    regions: bool = False,
    tissue: str = "",
    labels: AnyPath = "auto",
    mode: str = "slices",
    precision: str = "auto",
    plane: str = "",
    alias: Words | None = None,
    split_file: AnyPath | None = None,
    subject: str = "",
    entity: Words | Mapping[str, str] | None = None,
    prefer: Words | None = None,
    nan_to_zero: bool = False,
    device: str = "auto",
    keep: bool = True,
    force: bool = False,
) -> ScoreResult:
    """Predict and score held-out cases.

    Args:
        runs: a run folder, or several; the first one's split is used.
        data: the cohort.
        split: train, validation, test, held-out or all, as the first run knows them.
        protocol: names of `synthmr protocols`, YAML files, or all; None: masked-volume.
        metrics: others than the protocols' own.
        regions: score lesion, tissue and boundary apart too.
        tissue: with ``regions``, file name of tissue labels with ``{case}`` in it.
        labels: what segmentations mean: a name of `synthmr.labels.conventions`, your own YAML file, or auto (by names and labels).
        mode: slices (whole) or patches (overlapping, blended).
        precision: auto, 32 or bf16.
        plane: axial, coronal or sagittal slices; empty: as in training.
        alias: ``alias=CONTRAST`` words.
        split_file: TSV with the columns case and split.
        subject: regular expression with the groups ``subject`` and, if wanted, ``session``, searched for in each path below data.
        entity: ``key=value`` words of the BIDS names to use where several files are versions of one scan.
        prefer: words; of several versions of one scan that whose path has the word wins.
        nan_to_zero: read NaN outside the brain as 0; inside the brain they stay an error.
        device: auto, cpu, cuda, cuda:N or mps.
        keep: keep predictions for the next time, and take those that are kept.
        force: go on with images that are certainly not what the run was trained on; it is recorded.

    Returns:
        ``.rows`` (typed scores), ``.frame()``, ``.warnings``, ``.skipped`` and ``.labels``.

    Raises:
        UsageError: an unknown word, or runs whose numbers do not compare.
        DataError: a case that cannot be read, or that lacks the truth; labels that are not of the convention that is named.
    """
    return pipeline.evaluate(
        _paths(runs),
        Path(data),
        split,
        words(protocol),
        pipeline.predict_settings(mode, precision=precision, plane=plane),
        reading(alias, split_file, subject, entity, prefer, nan_to_zero),
        metrics=words(metrics),
        regions=regions,
        tissue=tissue,
        device=device,
        keep=keep,
        labels=str(labels),
        force=force,
    )


def synthesize(
    run: AnyPath,
    data: AnyPath,
    *,
    out: AnyPath,
    intensity: str = "scanner",
    mode: str = "slices",
    precision: str = "auto",
    plane: str = "",
    map: Words | None = None,
    lesion_mask: AnyPath | None = None,
    overwrite: bool = False,
    split: str = "",
    alias: Words | None = None,
    split_file: AnyPath | None = None,
    subject: str = "",
    entity: Words | Mapping[str, str] | None = None,
    prefer: Words | None = None,
    nan_to_zero: bool = False,
    device: str = "auto",
    keep: bool = True,
    force: bool = False,
) -> Summary:
    """Write the synthetic volume of every case of a cohort; a case that fails does not stop the others.

    Args:
        run: run folder.
        data: folder of cases, or a table.
        out: folder for the volumes.
        intensity: scanner or normalized.
        mode: slices (whole) or patches (overlapping, blended).
        precision: auto, 32 or bf16.
        plane: axial, coronal or sagittal slices; empty: as in training.
        map: maps to write too, such as attention or segmentation.
        lesion_mask: for runs that read one: a file, or ``none``.
        overwrite: replace volumes that exist.
        split: only this part of the run's split.
        alias: ``alias=CONTRAST`` words.
        split_file: TSV with the columns case and split.
        subject: regular expression with the groups ``subject`` and, if wanted, ``session``, searched for in each path below data.
        entity: ``key=value`` words of the BIDS names to use where several files are versions of one scan.
        prefer: words; of several versions of one scan that whose path has the word wins.
        nan_to_zero: read NaN outside the brain as 0; inside the brain they stay an error.
        device: auto, cpu, cuda, cuda:N or mps.
        keep: keep predictions for the next time, and take those that are kept.
        force: go on with images that are certainly not what the run was trained on; it is recorded.

    Returns:
        ``done``, ``skipped``, ``failed``, ``notes`` and ``warnings``.

    Raises:
        UsageError: an unknown word.
        DataError: ``out`` cannot be written.
    """
    return pipeline.synthesize_cohort(
        Path(run),
        Path(data),
        Path(out),
        intensity,
        pipeline.predict_settings(mode, precision=precision, plane=plane),
        overwrite,
        split,
        reading(alias, split_file, subject, entity, prefer, nan_to_zero),
        words(map),
        optional(lesion_mask),
        device=device,
        keep=keep,
        force=force,
    )


def score(
    prediction: AnyPath,
    truth: AnyPath | None = None,
    *,
    mask: AnyPath | None = None,
    segmentation: AnyPath | None = None,
    protocol: Words | None = None,
    metrics: Words | None = None,
    regions: bool = False,
    tissue: AnyPath | None = None,
    labels: AnyPath = "auto",
    as_written: bool = False,
) -> ScoreResult:
    """Score NIfTI files against others, from whatever tool, without a run.

    Args:
        prediction: a file, a folder, or a CSV with the columns prediction and truth.
        truth: a file or folder on the same grids; None with a CSV.
        mask: brain mask of a pair of files; None: as the sidecar says, else found in the truth.
        segmentation: lesion labels of a pair of files.
        protocol: names of `synthmr protocols`, YAML files, or all; None: masked-volume.
        metrics: others than the protocols' own.
        regions: score lesion, tissue and boundary apart too.
        tissue: with ``regions``, tissue labels (1 CSF, 2 grey, 3 white matter).
        labels: what segmentations mean: a name of `synthmr.labels.conventions`, your own YAML file, or auto (by names and labels).
        as_written: score the voxels of our own files as they are, not in the units that their sidecar names.

    Raises:
        DataError: files, grids, or a mask that misses the brain.
        UsageError: an unknown word.
    """
    return pipeline.score(
        Path(prediction),
        optional(truth),
        optional(mask),
        optional(segmentation),
        words(protocol),
        words(metrics),
        regions,
        tissue=optional(tissue),
        as_written=as_written,
        labels=str(labels),
    )


def reading(
    alias: Words | None,
    split_file: AnyPath | None,
    subject: str,
    entity: Words | Mapping[str, str] | None,
    prefer: Words | None,
    nan_to_zero: bool = False,
) -> Reading:
    """How a folder is read, from the words of a call."""
    entities = entity if isinstance(entity, Mapping) else words(entity)
    return Reading.of(words(alias), optional(split_file), subject, entities, words(prefer), nan_to_zero)


def optional(path: AnyPath | None) -> Path | None:
    return None if path is None else Path(path)


__all__ = ["audit", "dataset", "evaluate", "index", "load", "score", "synthesize", "train"]
