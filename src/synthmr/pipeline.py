"""READ FIRST. The stages in order, one short function each; `synthmr.cli` calls them, and so can you.

    index -> audit -> prepare -> (store) -> train -> synthesize -> evaluate

Imports are inside the functions, so that asking for one stage does not load the others' libraries.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synthmr.config import config_hash, to_dict
from synthmr.contrasts import parse_aliases, resolve_list
from synthmr.errors import DataError, UsageError, did_you_mean

if TYPE_CHECKING:
    from synthmr.case import Case, Cohort, PreparedCase
    from synthmr.config import RunConfig
    from synthmr.data.audit import Finding
    from synthmr.data.split import Split
    from synthmr.data.store import Store
    from synthmr.evaluate.lint import LintWarning
    from synthmr.evaluate.pair import PairScores
    from synthmr.evaluate.protocols import Protocol
    from synthmr.infer.export import Summary
    from synthmr.infer.predict import InferSettings
    from synthmr.report.html import Grid
    from synthmr.report.views import FigureCase
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

    cohort = index(data, aliases, split_file)
    named = ",".join(part for part in (sources, target) if part)
    contrasts = resolve_list(named, parse_aliases(aliases)) if named else None
    return look(cohort, contrasts, progress=progress)


def methods() -> list[dict[str, Any]]:
    """The capability table: one row a method."""
    from synthmr.methods.table import capability_rows

    return capability_rows()


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

    extra = parse_aliases(aliases)
    return build_config(
        registry.load(method),
        preset,
        read_yaml(config) if config is not None else {},
        settings,
        resolve_list(sources, extra),
        resolve_list(target, extra),
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
    from synthmr.data.split import make_split
    from synthmr.data.store import Store, build

    if (data / "store.json").is_file():
        if split is not None:
            raise UsageError(f"{data} is a prepared store, which has its own split; give the folder of images.")
        store = Store.open(data)
        return store, store.split
    cohort = index(data, aliases, split_file)
    split = split or make_split(cohort, (*config.sources, *config.targets), config.seed)
    store = build(cohort, split, config.sources, config.targets, config.prepare, cache=cache, out=out, progress=progress)
    return store, split


def prepare(data: Path, config: RunConfig, **options: Any) -> Store:
    """Prepare a cohort and write it as a store of its own; see `prepared` for the options."""
    return prepared(data, config, **options)[0]


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
    settings: Sequence[str] = (),
    budget: Mapping[str, float] | None = None,
    seed: int | None = None,
    resume: bool = False,
    aliases: Sequence[str] = (),
    split_file: Path | None = None,
    cache: Path | None = None,
    tick: Tick | None = None,
    progress: Any = None,
) -> TrainResult:
    """Train encoders or decoders for new contrasts of a run, whose old ones do not change; writes a new run folder.

    Raises:
        UsageError: the method cannot be extended, or a contrast is there already.
        DataError: the data lack a contrast of the extended run.
    """
    from synthmr.train.loop import train as loop

    config, store, split, loaded = extension(
        run, data, add_sources, add_targets, settings, budget, seed, aliases, split_file, cache, tick
    )
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
    """What `extend` trains: (configuration, prepared data, split, the run that is extended); raises what it raises."""
    from synthmr.run import load_run
    from synthmr.train.extend import check_landmarks, extended_config, inherited_split

    extra = parse_aliases(aliases)
    loaded = load_run(run)
    names = [tuple(resolve_list(words, extra)) if words else () for words in (add_sources, add_targets)]
    config = extended_config(loaded, names[0], names[1], settings, budget, seed)
    if split_file is None and not (data / "store.json").is_file():
        split_file = inherited_split(loaded, index(data, aliases), (*config.sources, *config.targets))
    store, split = prepared(data, config, aliases, split_file, cache, progress=tick)
    check_landmarks(loaded, store)
    return config, store, split, loaded


def phantom(
    out: Path, subjects: int, seed: int, spacing: float, field: float, overwrite: bool = False, progress: Tick | None = None
) -> list[Path]:
    """Write a simulated cohort."""
    from synthmr.data.phantom import make_phantom

    return make_phantom(out, subjects, seed=seed, spacing=spacing, field_strength=field, overwrite=overwrite, progress=progress)


def infer_settings(
    mode: str = "slices", patch: int = 128, overlap: float = 0.5, precision: str = "auto", plane: str = ""
) -> InferSettings:
    """How volumes are predicted, checked.

    Raises:
        UsageError: an unknown mode, precision or plane, or an overlap outside [0, 1).
    """
    from synthmr.infer.predict import InferSettings

    for word, value, allowed in (("--mode", mode, ("slices", "patches")), ("--precision", precision, ("auto", "32", "bf16"))):
        if value not in allowed:
            raise UsageError(f"{word} {value!r}: {did_you_mean(value, allowed)}")
    if not 0 <= overlap < 1 or patch < 16:
        raise UsageError(f"--patch {patch} --overlap {overlap:g}: a patch has at least 16 voxels and an overlap in [0, 1).")
    return InferSettings(mode=mode, patch=(patch, patch), overlap=overlap, precision=precision, plane=plane)


def synthesize_files(
    run: Path,
    pairs: Sequence[str],
    output: Path,
    mask: Path | None = None,
    intensity: str = "scanner",
    settings: InferSettings | None = None,
    overwrite: bool = False,
    aliases: Sequence[str] = (),
    extras: Sequence[str] = (),
    lesion: Path | None = None,
) -> list[Path]:
    """Synthesise from ``CONTRAST=file`` words into one file (a file a target where the run has several)."""
    from synthmr.contrasts import resolve
    from synthmr.infer import export
    from synthmr.run import load_run

    extra = parse_aliases(aliases)
    files: dict[str, Path] = {}
    for pair in pairs:
        name, _, path = pair.partition("=")
        contrast = resolve(name, extra)
        if contrast in files:
            raise UsageError(f"{pair!r} names {contrast} a second time; give each contrast once.")
        files[contrast] = Path(path)
    return export.synthesize_files(
        load_run(run),
        files,
        output,
        mask=mask,
        intensity=intensity,
        settings=settings or infer_settings(),
        overwrite=overwrite,
        extras=split_words(extras),
        lesion=lesion,
    )


def split_words(words: Sequence[str]) -> tuple[str, ...]:
    """``["a,b", "c"]`` -> a, b, c, each once."""
    return tuple(dict.fromkeys(part.strip() for word in words for part in word.split(",") if part.strip()))


def synthesize_cohort(
    run: Path,
    data: Path,
    out: Path,
    intensity: str = "scanner",
    settings: InferSettings | None = None,
    overwrite: bool = False,
    split: str = "",
    aliases: Sequence[str] = (),
    split_file: Path | None = None,
    extras: Sequence[str] = (),
    lesion: Path | None = None,
    progress: Tick | None = None,
) -> Summary:
    """Synthesise every case of a cohort (or of one part of its split); skip what is done, survive a bad case."""
    from dataclasses import replace

    from synthmr.infer import export
    from synthmr.run import load_run

    loaded = load_run(run)
    cohort = index(data, aliases, split_file)
    if split:
        cohort = replace(cohort, cases=tuple(select(cohort, loaded.split, split)))
    return export.synthesize_cohort(
        loaded,
        cohort,
        out,
        intensity=intensity,
        settings=settings or infer_settings(),
        overwrite=overwrite,
        extras=split_words(extras),
        lesion=lesion,
        progress=progress,
    )


def select(cohort: Cohort, split: Split, part: str) -> list[Case]:
    """The cases of one part of a run's split that a cohort holds.

    Raises:
        UsageError: ``part`` is not train, validation, test, held-out (validation and test) or all.
        DataError: the cohort holds none of them.
    """
    parts = {"train": split.train, "validation": split.validation, "test": split.test}
    parts["held-out"] = (*split.validation, *split.test)
    if part != "all" and part not in parts:
        raise UsageError(f"unknown split {part!r}: {did_you_mean(part, (*parts, 'all'))}")
    names = set(parts[part]) if part != "all" else {case.name for case in cohort.cases}
    cases = [case for case in cohort.cases if case.name in names]
    if not cases:
        raise DataError(
            f"{cohort.root} holds no {part} case of this run; the run's split.tsv names {', '.join(sorted(names)) or 'none'}."
        )
    return cases


@dataclass
class Remarks:
    """What an evaluation has to say beside its numbers.

    Attributes:
        warnings: of the linter (`synthmr.evaluate.lint`).
        skipped: protocols that were left out for a case, and why.
    """

    warnings: list[LintWarning] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def evaluate(
    runs: Sequence[Path],
    data: Path,
    split: str = "test",
    protocols: Sequence[str] = (),
    settings: InferSettings | None = None,
    aliases: Sequence[str] = (),
    split_file: Path | None = None,
    progress: Tick | None = None,
    metrics: Sequence[str] = (),
    regions: bool = False,
    remarks: Remarks | None = None,
    inputs: Sequence[str] = (),
    tissue: str = "",
) -> list[dict[str, Any]]:
    """Predict and score: rows (case, method, contrast, protocol, metric, value).

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
        remarks: is filled.
        inputs: contrasts that the runs are given; none: all of their sources.
        tissue: with ``regions``, where a case's tissue labels are: a file name with ``{case}`` in it, in the data's folder.

    Raises:
        UsageError: unknown protocol, metric or split, or inputs that a run cannot do with.
        DataError: a case that cannot be read, or that lacks the truth.
    """
    from dataclasses import replace

    from synthmr.evaluate.lint import lint_protocol
    from synthmr.evaluate.protocols import get_protocols

    chosen = get_protocols(protocols)
    if metrics:  # here, so that a mistyped name is told before anything is predicted
        chosen = [replace(protocol, metrics=tuple(metrics)) for protocol in chosen]
    remarks = remarks if remarks is not None else Remarks()
    remarks.warnings += [warning for protocol in chosen for warning in lint_protocol(protocol)]
    rows: list[dict[str, Any]] = []
    for predicted in predictions(runs, data, split, settings, aliases, split_file, progress, inputs):
        labels = tissue_labels(data, tissue, predicted.prepared) if tissue and regions else None
        rows += predicted.rows(chosen, metrics, regions, remarks, labels)
    if not rows:
        raise DataError(f"nothing could be scored: {'; '.join(dict.fromkeys(remarks.skipped))}.")
    return rows


def tissue_labels(data: Path, pattern: str, prepared: PreparedCase) -> np.ndarray:
    """The tissue labels of a case (1 CSF, 2 grey, 3 white matter) on its prepared grid ``(X, Y, Z)``.

    Raises:
        DataError: there is no such file, or it is on another grid.
        UsageError: the pattern does not name the case.
    """
    from synthmr.io import nifti
    from synthmr.prepare import crop, orient
    from synthmr.prepare.case import find_step

    if "{case}" not in pattern:
        raise UsageError(f"--tissue {pattern!r} is one file for all cases; write {{case}} where their names differ.")
    path = data / pattern.replace("{case}", prepared.name)
    volume = nifti.load(path)
    turn, box = find_step(prepared.history, "orient"), find_step(prepared.history, "crop")
    if list(volume.shape) != list(turn["shape"]):
        raise DataError(f"{path} has the shape {volume.shape} and the images of case {prepared.name} {tuple(turn['shape'])}.")
    return np.rint(crop.apply(orient.apply(volume.array, turn), box)).astype(np.int32)


def score(
    prediction: Path,
    truth: Path,
    mask: Path | None = None,
    segmentation: Path | None = None,
    protocols: Sequence[str] = (),
    metrics: Sequence[str] = (),
    regions: bool = False,
    progress: Tick | None = None,
    tissue: Path | None = None,
) -> PairScores:
    """Score one NIfTI file against another, from whatever tool; arguments and errors of `evaluate.pair.score_files`."""
    from synthmr.evaluate.pair import score_files
    from synthmr.evaluate.protocols import get_protocols

    return score_files(prediction, truth, get_protocols(protocols), mask, segmentation, metrics, regions, progress, tissue)


def score_objects(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Score rows for machines: protocol, region, metric and value apart."""
    from synthmr.evaluate.protocols import PROTOCOLS
    from synthmr.evaluate.table import split_metric

    found = []
    for row in rows:
        metric, region = split_metric(row["metric"])
        known = PROTOCOLS.get(str(row["protocol"]))
        found.append({**row, "metric": metric, "region": region or (known.regions[0] if known is not None else "")})
    return found


def read_tables(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Score rows of one or more metrics.csv.

    Raises:
        DataError: a table cannot be read, or two hold the same method's score of the same case.
    """
    from synthmr.evaluate.table import read_metrics

    rows: list[dict[str, Any]] = []
    seen: dict[tuple[str, ...], Path] = {}
    for path in paths:
        mine = read_metrics(path)
        for row in mine:
            key = tuple(str(row[name]) for name in ("case", "method", "contrast", "protocol", "metric"))
            if seen.setdefault(key, path) != path:
                raise DataError(
                    f"{path} and {seen[key]} both hold {row['metric']} of {row['method']} for case {row['case']}; rename a method."
                )
        rows += mine
    return rows


#: what is tested unless metrics are named: many tests make few of them true
TESTED = ("psnr", "ssim", "mae", "dice_WT", "dice_TC", "dice_ET")


def compare(rows: Sequence[Mapping[str, Any]], reference: str = "", metrics: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Paired tests of every method against the reference, a family a contrast, protocol and metric.

    Args:
        rows: scores of at least two methods.
        reference: a method; empty: the one with the best mean.
        metrics: to test; none: `TESTED`, or all that the rows hold if they hold none of those.

    Returns:
        Rows of `compare_methods`; none where no two methods have a score of the same contrast, protocol and metric.

    Raises:
        UsageError: one method alone, an unknown method or metric, or a metric that nobody can win by.
    """
    from synthmr.evaluate.statistics import compare_methods, direction

    rows = list(rows)
    methods = list(dict.fromkeys(row["method"] for row in rows))
    if len(methods) < 2:
        raise UsageError(f"there is one method alone ({', '.join(methods) or 'none'}); score two or more to compare them.")
    if reference and reference not in methods:
        raise UsageError(f"the tables hold no scores of {reference}: {did_you_mean(reference, methods)}")
    known = list(dict.fromkeys(row["metric"] for row in rows))
    directed = [name for name in known if direction(name) is not None]
    for name in metrics:
        if name not in known:
            raise UsageError(f"the tables hold no {name}: {did_you_mean(name, known)}")
        if name not in directed:
            raise UsageError(
                f"neither a higher nor a lower {name} is better, so no method wins by it: {did_you_mean(name, directed)}"
            )
    chosen = tuple(metrics) or tuple(name for name in TESTED if name in known) or tuple(directed)
    families = dict.fromkeys((row["contrast"], row["protocol"], row["metric"]) for row in rows if row["metric"] in chosen)
    found: list[dict[str, Any]] = []
    for contrast, protocol, metric in families:
        mine = [row for row in rows if (row["contrast"], row["protocol"], row["metric"]) == (contrast, protocol, metric)]
        there = {row["method"] for row in mine}
        # a segmenting method has scores that the reference has not
        if len(there) > 1 and reference in ("", *there):
            found += compare_methods(mine, metric=metric, protocol=protocol, contrast=contrast, reference=reference or None)
    return found


def markdown_table(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str] = ()) -> str:
    """Means with the papers' marks as Markdown: best in bold, an asterisk on what differs from it (corrected p < 0.05)."""
    from synthmr.evaluate.marks import marked_table, to_markdown

    return to_markdown(marked_table([row for row in rows if not metrics or row["metric"] in metrics]), intervals=True)


def protocols(name: str = "") -> list[dict[str, Any]]:
    """The protocols in the box, or one, as plain data."""
    from synthmr.evaluate.protocols import PROTOCOLS, get_protocol

    return [to_dict(protocol) for protocol in ([get_protocol(name)] if name else PROTOCOLS.values())]


def protocol_yaml(name: str) -> str:
    """A protocol as YAML that `--protocol FILE.yaml` reads."""
    from synthmr.evaluate.protocols import get_protocol, to_yaml

    return to_yaml(get_protocol(name))


@dataclass(frozen=True, eq=False)
class Predicted:
    """A prepared case with its truth and every run's prediction of one target, ``(X, Y, Z)`` normalised.

    ``segmentations`` holds, for the runs that segment tumours, (predicted, true) classes ``(X, Y, Z)``; ``borders``, for those
    that were predicted tile by tile, where tiles begin and end along X, Y and Z.
    """

    prepared: PreparedCase
    target: str
    images: Mapping[str, np.ndarray]
    segmentations: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    borders: Mapping[str, Sequence[Sequence[int]]] = field(default_factory=dict)

    def rows(
        self,
        protocols: Sequence[Protocol],
        metrics: Sequence[str] = (),
        regions: bool = False,
        remarks: Remarks | None = None,
        tissue: np.ndarray | None = None,
    ) -> list[dict[str, Any]]:
        """Score every prediction under every protocol; arguments of `evaluate`, ``tissue`` as of `tissue_labels`."""
        from synthmr.evaluate.lint import lint_images
        from synthmr.evaluate.pair import regional_rows
        from synthmr.evaluate.scoring import scorable, score, score_input
        from synthmr.evaluate.segmentation import score_segmentation, segmentation_rows
        from synthmr.evaluate.table import score_rows

        found: list[dict[str, Any]] = []
        for method, image in self.images.items():
            scored = score_input(image, self.prepared, self.target)
            used = []
            for protocol in protocols:
                missing = scorable(scored, protocol) if len(protocols) > 1 else ""
                if missing and remarks is not None:
                    remarks.skipped.append(missing)
                if not missing:
                    used.append(protocol)
                    values = score(scored, protocol, metrics)
                    found += score_rows(self.prepared.name, method, self.target, protocol.name, values)
            if regions and used:
                borders = self.borders.get(method, ())
                regional = regional_rows(scored, self.prepared.segmentation, used[0], metrics, tissue, borders)
                values = {f"{row['metric']}@{row['region']}": row["value"] for row in regional}
                found += score_rows(self.prepared.name, method, self.target, used[0].name, values)
            if remarks is not None:
                remarks.warnings += lint_images(scored, used)
        for method, (predicted, truth) in self.segmentations.items():
            scores = score_segmentation(predicted, truth, self.prepared.spacing)
            found += segmentation_rows(self.prepared.name, method, scores)
        return found


def predictions(
    runs: Sequence[Path],
    data: Path,
    split: str = "test",
    settings: InferSettings | None = None,
    aliases: Sequence[str] = (),
    split_file: Path | None = None,
    progress: Tick | None = None,
    inputs: Sequence[str] = (),
    names: Sequence[str] = (),
) -> Iterator[Predicted]:
    """Predict held-out cases with one or more runs, a case at a time.

    ``inputs`` are the contrasts that the runs are given (none: all), ``names`` what they are called (none: by method or folder).

    Raises:
        UsageError: runs that were trained for other targets or prepared in other ways than the first: their numbers
            would not compare.
        DataError: a case that cannot be prepared, or that lacks the truth.
    """
    from synthmr.infer.canvas import Canvas
    from synthmr.infer.extras import segments, tumour_classes
    from synthmr.infer.precision import best_device
    from synthmr.infer.predict import predict_case, tile_borders
    from synthmr.methods.contract import NeuralMethod
    from synthmr.prepare.case import prepare_case
    from synthmr.run import load_run

    opened = [load_run(path) for path in runs]
    loaded = dict(zip(names, opened, strict=True)) if names else name_runs(opened, runs)
    first = opened[0]
    for name, run in loaded.items():
        if isinstance(run.method, NeuralMethod):
            run.method.to(best_device())
        if run.config.targets != first.config.targets or run.config.prepare.normalizer != first.config.prepare.normalizer:
            raise UsageError(
                f"{name} gives {', '.join(run.config.targets)} with normalizer {run.config.prepare.normalizer}, the first run gives"
                f" {', '.join(first.config.targets)} with {first.config.prepare.normalizer}: evaluate them apart."
            )
    cohort = index(data, aliases, split_file)
    cases = select(cohort, first.split, split)
    for done, case in enumerate(cases, start=1):
        prepared: dict[str, PreparedCase] = {}
        images: dict[str, dict[str, np.ndarray]] = {target: {} for target in first.config.targets}
        borders: dict[str, Sequence[Sequence[int]]] = {}
        segmented: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for name, run in loaded.items():
            config = run.config
            key = config_hash([config.prepare, config.sources, run.landmarks])
            if key not in prepared:
                prepared[key] = prepare_case(
                    case, (*config.sources, *config.targets), config.prepare, config.targets, run.landmarks
                )
            plane = (settings.plane if settings is not None else "") or config.prepare.plane
            canvas = Canvas.of(config.sample)
            given = only(prepared[key], inputs, config) if inputs else prepared[key]
            for target, image in predict_case(run.method, given, None, plane, settings, canvas=canvas).items():
                images[target][name] = image
            if settings is not None and settings.mode == "patches" and canvas == Canvas():
                borders[name] = tile_borders(given.mask.shape, plane, settings, run.method.spec.divisor)
            if segments(run.method) and given.segmentation is not None:
                segmented[name] = tumour_classes(run.method, given, plane, settings, canvas)
        shapes = {each.mask.shape for each in prepared.values()}
        if len(shapes) > 1:
            raise UsageError(
                f"the runs see case {case.name} on different boxes, so one table cannot hold them; evaluate them apart."
            )
        for number, (target, predicted) in enumerate(images.items()):
            yield Predicted(next(iter(prepared.values())), target, predicted, segmented if number == 0 else {}, borders)
        if progress is not None:
            progress(done, len(cases), case.name)


def only(prepared: PreparedCase, inputs: Sequence[str], config: RunConfig) -> PreparedCase:
    """A prepared case with some of the sources; mask and units stay those of all of them, so that subsets compare.

    Raises:
        UsageError: an input is no source of the run, or the method needs all of them.
    """
    from dataclasses import replace

    from synthmr.methods import registry

    for name in inputs:
        if name not in config.sources:
            raise UsageError(f"{name} is no source of this run: {did_you_mean(name, config.sources)}")
    if set(inputs) != set(config.sources) and not registry.load(config.method).spec.any_subset:
        raise UsageError(f"{config.method} needs all of its sources ({', '.join(config.sources)}); milr takes any subset.")
    kept = {name: image for name, image in prepared.images.items() if name in inputs or name not in config.sources}
    return replace(prepared, images=kept)


def name_runs(loaded: Sequence[LoadedRun], paths: Sequence[Path]) -> dict[str, LoadedRun]:
    """Name runs by their method; where two share it, by their folder."""
    methods = [run.config.method for run in loaded]
    names = [m if methods.count(m) == 1 else path.resolve().name for m, path in zip(methods, paths, strict=True)]
    if len(set(names)) != len(names):
        raise UsageError(
            f"two runs would both be called {', '.join(sorted({n for n in names if names.count(n) > 1}))}; rename a folder."
        )
    return dict(zip(names, loaded, strict=True))


def write_metrics(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write metrics.csv."""
    from synthmr.evaluate.table import write_metrics as write

    write(path, rows)


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
) -> Path:
    """Score runs and write one self-contained page about them.

    Args:
        runs: folders; the first one's method is the one that cases are ordered by.
        path: of the page.
        data: the cohort; None: where the first run says it was trained on.
        split: which part of it.
        protocols: as `evaluate` takes them.
        title: heading; empty: methods and target.
        command: that made the page.
        aliases: ``alias=CONTRAST`` words.
        split_file: in place of the data's own.
        progress: is told of every case.

    Raises:
        UsageError: no data are known, or the runs cannot be compared.
        DataError: what `evaluate` raises, or the page cannot be written.
    """
    from synthmr.evaluate.lint import lint_lines
    from synthmr.run import RunFolder

    folders = [RunFolder.open(run) for run in runs]
    data = data if data is not None else known_data(folders[0].info, runs[0])
    remarks = Remarks()
    rows = evaluate(runs, data, split, protocols, None, aliases, split_file, progress, remarks=remarks)
    methods = ", ".join(dict.fromkeys(folder.config.method for folder in folders))
    title = title or f"{methods}: {', '.join(folders[0].config.sources)} to {', '.join(folders[0].config.targets)}"
    notes = [*dict.fromkeys(f"Left out: {line}" for line in remarks.skipped), *lint_lines(remarks.warnings)]
    if len(folders) > 1:
        notes += [row["text"] for row in compare(rows)]
    write_report(path, runs, data, split, rows, title, command, notes, aliases=aliases, split_file=split_file, progress=progress)
    return path


def known_data(info: Mapping[str, Any], where: Path) -> Path:
    """The data that a run or experiment notes.

    Raises:
        UsageError: it notes none, or they are there no more.
    """
    noted = info.get("data")
    if not noted or not Path(str(noted)).exists():
        raise UsageError(f"{where} {f'notes the data {noted}, which is not there' if noted else 'notes no data'}; give DATA.")
    return Path(str(noted))


def write_report(
    path: Path,
    runs: Sequence[Path],
    data: Path,
    split: str,
    rows: Sequence[Mapping[str, Any]],
    title: str,
    command: str,
    notes: Sequence[str] = (),
    grids: Sequence[Grid] = (),
    aliases: Sequence[str] = (),
    split_file: Path | None = None,
    figures: Iterable[Predicted] | None = None,
    progress: Tick | None = None,
) -> None:
    """Write one self-contained HTML page: words, tables, every case in three planes, learning curves, provenance.

    ``figures`` are predictions that were made elsewhere, in place of those of ``runs``; ``grids`` further tables.
    """
    from synthmr.report.html import ReportData
    from synthmr.report.html import write_report as write
    from synthmr.run import RunFolder

    folders = [RunFolder.open(run) for run in runs]
    first = folders[0]
    # cells of experiments are all called run: what tells them apart stands further up
    short = [run.resolve().name for run in runs]
    names = dict(zip(runs, short if len(set(short)) == len(short) else ["/".join(run.parts[-3:]) for run in runs], strict=True))
    info = {
        "data": str(data),
        "cases": split,
        "split": to_dict(first.split),
        "runs": {
            names[run]: {key: folder.info.get(key) for key in ("method", "hash", "started", "machine", "result")}
            for run, folder in zip(runs, folders, strict=True)
        },
    }
    found = predictions(runs, data, split, None, aliases, split_file, progress) if figures is None else figures
    cases = (figure_case(predicted, rows) for predicted in found)
    logs = {folder.config.method: folder.records() for folder in folders if any("lr" in record for record in folder.records())}
    configs = {names[run]: to_dict(folder.config) for run, folder in zip(runs, folders, strict=True)}
    write(path, ReportData(title, command, rows, cases, config=configs, info=info, logs=logs, notes=notes, grids=grids))


def figure_case(predicted: Predicted, rows: Sequence[Mapping[str, Any]]) -> FigureCase:
    """One case as the report shows it: all images on the unit scale of the truth's normaliser."""
    from synthmr.prepare.normalize import to_unit
    from synthmr.report.views import FigureCase

    prepared, target = predicted.prepared, predicted.target
    params = prepared.normalizers
    spacing = np.sqrt((prepared.affine[:3, :3] ** 2).sum(axis=0))
    scores: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["case"] == prepared.name and row["contrast"] == target and row["protocol"] == "masked-volume":
            scores.setdefault(row["method"], {})[row["metric"]] = float(row["value"])
    return FigureCase(
        name=prepared.name,
        target=target,
        spacing=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
        sources={name: to_unit(image, params[name]) for name, image in prepared.images.items() if name != target},
        truth=to_unit(prepared.images[target], params[target]),
        predictions={name: to_unit(image, params[target]) for name, image in predicted.images.items()},
        mask=prepared.mask,
        units="share of the range",
        scores=scores,
        segmentation=prepared.segmentation,
    )


def plain(data: Any) -> Any:
    """Any result of a stage as plain JSON data."""
    return to_dict(data)
