"""READ FIRST. The stages in order, one short function each; `synthmr.cli` calls them, and so can you.

    index -> audit -> prepare -> (store) -> train -> synthesize -> evaluate -> report

Imports are inside the functions, so that asking for one stage does not load the others' libraries.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthmr.config import to_dict
from synthmr.contrasts import parse_aliases, parse_files, resolve_list, split_words
from synthmr.errors import DataError, UsageError, did_you_mean

if TYPE_CHECKING:
    from synthmr.case import Cohort
    from synthmr.config import RunConfig
    from synthmr.data.audit import Finding
    from synthmr.data.split import Need, Split
    from synthmr.data.store import Store
    from synthmr.evaluate.scores import Score, ScoreResult
    from synthmr.predict.cohort import Summary
    from synthmr.predict.predictor import Predictor
    from synthmr.predict.settings import PredictSettings
    from synthmr.predictions import Predicted
    from synthmr.run import LoadedRun
    from synthmr.train.loop import TrainResult

Tick = Callable[..., None]


def index(data: Path, aliases: Sequence[str] = (), split_file: Path | None = None) -> Cohort:
    """Find the cases of a folder or table."""
    from synthmr.io.index import index as find

    return find(data, parse_aliases(aliases), split_file)


def describe(cohort: Cohort) -> dict[str, Any]:
    """Cases x contrasts, what is missing, grids and problems, as plain data."""
    from synthmr.io.index import describe as summary

    return summary(cohort)


def audit(
    data: Path,
    sources: str = "",
    target: str = "",
    aliases: Sequence[str] = (),
    split_file: Path | None = None,
    progress: Tick | None = None,
) -> list[Finding]:
    """Find what would make training wrong, or at least worse."""
    from synthmr.data.audit import audit as look

    named = ",".join(part for part in (sources, target) if part)
    contrasts = resolve_list(named, parse_aliases(aliases)) if named else None
    return look(index(data, aliases, split_file), contrasts, progress=progress)


def configure(
    method: str,
    sources: str,
    target: str,
    *,
    preset: str = "fast",
    config: Path | None = None,
    settings: Sequence[str] = (),
    budget: Mapping[str, float] | None = None,
    seed: int | None = None,
    aliases: Sequence[str] = (),
) -> RunConfig:
    """Resolve names and merge defaults < preset < YAML < ``--set`` < budget into one `RunConfig`.

    Raises:
        UsageError: unknown method, preset, key or contrast, or a request that the method cannot meet.
    """
    from synthmr.config import read_yaml
    from synthmr.methods import registry
    from synthmr.methods.configure import build_config
    from synthmr.prepare.normalize import value_range

    known = parse_aliases(aliases)
    return build_config(
        registry.load(method),
        preset,
        read_yaml(config) if config is not None else {},
        settings,
        resolve_list(sources, known),
        resolve_list(target, known),
        seed=seed,
        budget=budget or {},
        value_range=value_range,
    )


def prepared(
    data: Path,
    config: RunConfig,
    aliases: Sequence[str] = (),
    split_file: Path | None = None,
    cache: Path | None = None,
    out: Path | None = None,
    progress: Tick | None = None,
    split: Split | None = None,
) -> tuple[Store, Split]:
    """Prepare a cohort (or open a prepared store) and settle its split, unless one is given (a fold's).

    Raises:
        DataError: nothing to train on, or data that cannot be prepared.
        UsageError: a prepared store and a split: the store has its own.
    """
    from synthmr.data.split import make_split, usable_part
    from synthmr.data.store import Store, build

    need = needed(config)
    if (data / "store.json").is_file():
        if split is not None:
            raise UsageError(f"{data} is a prepared store, which has its own split; give the folder of images.")
        store = Store.open(data, cache)
        return store, usable_part(store.split, need, store.has)
    cohort = index(data, aliases, split_file)
    split = split or make_split(cohort, need, config.seed)
    store = build(cohort, split, need.contrasts, config.prepare, cache=cache, out=out, progress=progress)
    return store, split


def needed(config: RunConfig) -> Need:
    """What a run needs of its cases."""
    from synthmr.data.split import Need
    from synthmr.methods import registry

    method = registry.load(config.method_word)
    # a run that extends another learns its new contrasts alone: every case must have them
    any_subset = method.traits(config.options).any_subset and not getattr(config.options, "frozen", ())
    return Need(tuple(config.sources), tuple(config.targets), any_subset, getattr(method, "needs_target", True))


def train(
    config: RunConfig,
    store: Store,
    split: Split,
    out: Path,
    resume: bool = False,
    devices: int = 1,
    nodes: int = 1,
    accelerator: str = "auto",
    progress: Any = None,
    extends: LoadedRun | None = None,
    data: Path | None = None,
) -> TrainResult:
    """Train and write a run folder; with ``extends``, of `extension`, one that starts from that run's weights.

    ``data``, the folder of images, is noted in the run, for `report`.
    """
    from synthmr.run import RunFolder
    from synthmr.train.loop import train as loop
    from synthmr.train.runtime import Runtime

    runtime = Runtime(accelerator=accelerator, devices=devices, num_nodes=nodes)
    result = loop(config, store, split, out, resume, runtime, progress, extends)
    if data is not None and not (data / "store.json").is_file() and int(os.environ.get("LOCAL_RANK", "0")) == 0:
        folder = RunFolder.open(out)
        folder.write_info({**folder.info, "data": str(data.resolve())})
    return result


def extend(
    run: Path,
    data: Path,
    out: Path,
    add_sources: str = "",
    add_targets: str = "",
    *,
    resume: bool = False,
    progress: Any = None,
    **options: Any,
) -> TrainResult:
    """Train encoders or decoders for new contrasts of a run, whose old ones do not change; writes a new run folder.

    See `extension` for the options.

    Raises:
        UsageError, DataError: as `extension`.
    """
    from synthmr.train.loop import train as loop

    config, store, split, loaded = extension(run, data, add_sources, add_targets, **options)
    return loop(config, store, split, out, resume, None, progress, loaded)


def extension(
    run: Path,
    data: Path,
    add_sources: str = "",
    add_targets: str = "",
    settings: Sequence[str] = (),
    budget: Mapping[str, float] | None = None,
    seed: int | None = None,
    aliases: Sequence[str] = (),
    split_file: Path | None = None,
    cache: Path | None = None,
    tick: Tick | None = None,
) -> tuple[RunConfig, Store, Split, LoadedRun]:
    """What `extend` trains: (configuration, prepared data, split, the run that is extended).

    Raises:
        UsageError: the method cannot be extended, or a contrast is there already.
        DataError: the data lack a contrast of the extended run.
    """
    from synthmr.data.reader import Reader
    from synthmr.run import load_run
    from synthmr.train.extend import check_landmarks, extended_config, inherited_split

    known = parse_aliases(aliases)
    loaded = load_run(run)
    names = [tuple(resolve_list(words, known)) if words else () for words in (add_sources, add_targets)]
    config = extended_config(loaded, names[0], names[1], settings, budget, seed)
    if split_file is None and not (data / "store.json").is_file():
        split_file = inherited_split(loaded, index(data, aliases), (*config.sources, *config.targets))
    store, split = prepared(data, config, aliases, split_file, cache, progress=tick)
    check_landmarks(loaded, Reader(store, config.prepare, config.sources, config.targets).landmarks)
    return config, store, split, loaded


def phantom(
    out: Path, subjects: int, seed: int, spacing: float, field: float, overwrite: bool = False, progress: Tick | None = None
) -> list[Path]:
    """Write a simulated cohort."""
    from synthmr.data.phantom import make_phantom

    return make_phantom(out, subjects, seed=seed, spacing=spacing, field_strength=field, overwrite=overwrite, progress=progress)


def predict_settings(
    mode: str = "slices", patch: int = 128, overlap: float = 0.5, precision: str = "auto", plane: str = ""
) -> PredictSettings:
    """How volumes are predicted, checked.

    Raises:
        UsageError: an unknown mode, precision or plane, or an overlap outside [0, 1).
    """
    from synthmr.predict.settings import PredictSettings

    for word, value, allowed in (("--mode", mode, ("slices", "patches")), ("--precision", precision, ("auto", "32", "bf16"))):
        if value not in allowed:
            raise UsageError(f"{word} {value!r}: {did_you_mean(value, allowed)}")
    if not 0 <= overlap < 1 or patch < 16:
        raise UsageError(f"--patch {patch} --overlap {overlap:g}: a patch has at least 16 voxels and an overlap in [0, 1).")
    return PredictSettings(mode=mode, patch=(patch, patch), overlap=overlap, precision=precision, plane=plane)


def predictor_of(run: Path, settings: PredictSettings | None = None, device: str = "auto", keep: bool = True) -> Predictor:
    """A run that predicts.

    Args:
        run: its folder.
        settings: how volumes are predicted.
        device: auto, cpu, cuda, cuda:N or mps; a UsageError tells that there is none before the run is read.
        keep: keep predictions beside the run (or in the cache) for the next time, and take those that are kept.
    """
    from synthmr.predict.keep import Keep
    from synthmr.predict.precision import resolve_device
    from synthmr.predict.predictor import Predictor
    from synthmr.run import load_run

    resolve_device(device)
    return Predictor(load_run(run), settings or predict_settings(), device, Keep.of_run(run) if keep else None)


def synthesize_files(
    run: Path,
    pairs: Sequence[str],
    output: Path,
    mask: Path | None = None,
    intensity: str = "scanner",
    settings: PredictSettings | None = None,
    overwrite: bool = False,
    aliases: Sequence[str] = (),
    maps: Sequence[str] = (),
    lesion: Path | None = None,
    device: str = "auto",
    keep: bool = True,
) -> list[Path]:
    """Synthesise from ``CONTRAST=file`` words into one file (a file a target where the run has several)."""
    from synthmr.predict import cohort

    files = parse_files(pairs, parse_aliases(aliases))
    return cohort.synthesize_files(
        predictor_of(run, settings, device, keep),
        files,
        output,
        mask=mask,
        intensity=intensity,
        overwrite=overwrite,
        maps=split_words(maps),
        lesion=lesion,
    )


def synthesize_cohort(
    run: Path,
    data: Path,
    out: Path,
    intensity: str = "scanner",
    settings: PredictSettings | None = None,
    overwrite: bool = False,
    split: str = "",
    aliases: Sequence[str] = (),
    split_file: Path | None = None,
    maps: Sequence[str] = (),
    lesion: Path | None = None,
    progress: Tick | None = None,
    device: str = "auto",
    keep: bool = True,
) -> Summary:
    """Synthesise every case of a cohort (or of one part of its split); skip what is done, survive a bad case."""
    from dataclasses import replace

    from synthmr.predict.cohort import synthesize_cohort as synthesize
    from synthmr.predictions import select

    predictor = predictor_of(run, settings, device, keep)
    cohort = index(data, aliases, split_file)
    if split:
        cohort = replace(cohort, cases=tuple(select(cohort, predictor.run.split, split)))
    return synthesize(
        predictor,
        cohort,
        out,
        intensity=intensity,
        overwrite=overwrite,
        maps=split_words(maps),
        lesion=lesion,
        progress=progress,
    )


def evaluate(
    runs: Sequence[Path],
    data: Path,
    split: str = "test",
    protocols: Sequence[str] = (),
    settings: PredictSettings | None = None,
    aliases: Sequence[str] = (),
    split_file: Path | None = None,
    progress: Tick | None = None,
    metrics: Sequence[str] = (),
    regions: bool = False,
    inputs: Sequence[str] = (),
    tissue: str = "",
    each: Callable[[Predicted], None] | None = None,
    device: str = "auto",
    keep: bool = True,
) -> ScoreResult:
    """Predict and score: the scores, with what was left out and what the linter says.

    Args:
        runs: folders; the first one's split is used.
        data: the cohort.
        split: which part of it.
        protocols: names, YAML files, or ``all``; none: masked-volume.
        settings: how to predict.
        aliases: ``alias=CONTRAST`` words.
        split_file: in place of the data's own.
        progress: is told of every case.
        metrics: others than the protocols' own.
        regions: score lesion, tissue and boundary apart too, with slice consistency and false lesions (first protocol).
        inputs: contrasts that the runs are given; none: all of their sources.
        tissue: with ``regions``, where a case's tissue labels are: a file name with ``{case}`` in it, in the data's folder.
        each: is given every prediction once it is scored.
        device: that computes: auto, cpu, cuda, cuda:N or mps.
        keep: keep predictions for the next time, and take those that are kept.

    Raises:
        UsageError: unknown protocol, metric, split or device, or inputs that a run cannot do with.
        DataError: a case that cannot be read, or that lacks the truth.
    """
    from dataclasses import replace

    from synthmr.evaluate.protocols import get_protocols
    from synthmr.evaluate.scores import join
    from synthmr.predict.precision import resolve_device
    from synthmr.predictions import predictions, tissue_labels

    resolve_device(device)
    chosen = get_protocols(protocols)
    if metrics:  # here, so that a mistyped name is told before anything is predicted
        chosen = [replace(protocol, metrics=tuple(metrics)) for protocol in chosen]
    results = []
    how: dict[str, Any] = {"device": device, "keep": keep}
    for predicted in predictions(runs, data, split, settings, aliases, split_file, progress, inputs, **how):
        labels = tissue_labels(data, tissue, predicted.prepared) if tissue and regions else None
        results.append(predicted.scores(chosen, regions, labels))
        if each is not None:
            each(predicted)
    found = join(results)
    if not found.rows:
        raise DataError(f"nothing could be scored: {'; '.join(dict.fromkeys(found.skipped))}.")
    return found


def score(
    predictions: Path,
    truths: Path | None = None,
    mask: Path | None = None,
    segmentation: Path | None = None,
    protocols: Sequence[str] = (),
    metrics: Sequence[str] = (),
    regions: bool = False,
    progress: Tick | None = None,
    tissue: Path | None = None,
    method: str = "",
    as_written: bool = False,
    aliases: Sequence[str] = (),
) -> ScoreResult:
    """Score NIfTI files from whatever tool: a file, a folder, or the pairs of a table.

    Arguments and errors of `evaluate.pairs.score_pairs`; mask, segmentation and tissue may hold ``{case}``.
    """
    from synthmr.evaluate.pairs import Given, score_pairs
    from synthmr.evaluate.protocols import get_protocols

    given = Given(mask, segmentation, tissue, method, as_written, parse_aliases(aliases))
    return score_pairs(predictions, truths, get_protocols(protocols), given, metrics, regions, progress)


def compare(
    rows: Sequence[Score], reference: str = "", metrics: Sequence[str] = (), regions: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Paired tests of every method against the reference; arguments and errors of `evaluate.statistics.compare_tables`."""
    from synthmr.evaluate.statistics import compare_tables

    return compare_tables(rows, reference, metrics, regions)


def protocols(name: str = "") -> list[dict[str, Any]]:
    """The protocols in the box, or one, as plain data."""
    from synthmr.evaluate.protocols import PROTOCOLS, get_protocol

    return [to_dict(protocol) for protocol in ([get_protocol(name)] if name else PROTOCOLS.values())]


def report(
    runs: Sequence[Path],
    path: Path,
    data: Path | None = None,
    split: str = "test",
    protocols: Sequence[str] = (),
    title: str = "",
    command: str = "",
    aliases: Sequence[str] = (),
    split_file: Path | None = None,
    progress: Tick | None = None,
    device: str = "auto",
    keep: bool = True,
) -> Path:
    """Score runs and write one self-contained page about them; of many cases, those that it shows are predicted again.

    Args:
        runs: folders; the first one's method is the one that cases are ordered by.
        path: of the page.
        data: the cohort; None: where the first run says it was trained on.
        title: heading; empty: methods and target.
        command: that made the page.
        split, protocols, aliases, split_file, progress, device, keep: as `evaluate` takes them.

    Raises:
        UsageError: no data are known, or the runs cannot be compared.
        DataError: what `evaluate` raises, or the page cannot be written.
    """
    from synthmr.evaluate.lint import lint_lines
    from synthmr.predictions import Kept
    from synthmr.report.html import MOST_CASES
    from synthmr.report.run_page import known_data, write_report
    from synthmr.run import RunFolder

    folders = [RunFolder.open(run) for run in runs]
    data = data if data is not None else known_data(folders[0].info, runs[0])
    kept = Kept(MOST_CASES)
    how: dict[str, Any] = {"device": device, "keep": keep}
    found = evaluate(runs, data, split, protocols, None, aliases, split_file, progress, each=kept.add, **how)
    rows = found.rows
    methods = ", ".join(dict.fromkeys(folder.config.method for folder in folders))
    title = title or f"{methods}: {', '.join(folders[0].config.sources)} to {', '.join(folders[0].config.targets)}"
    notes = [*dict.fromkeys(f"Left out: {line}" for line in found.skipped), *lint_lines(found.warnings)]
    if len(folders) > 1:
        notes += [row["text"] for row in compare(rows)]
    words: dict[str, Any] = {"aliases": aliases, "split_file": split_file, "progress": progress, **how}
    write_report(path, runs, data, split, rows, title, command, notes, figures=kept.all, **words)
    return path
