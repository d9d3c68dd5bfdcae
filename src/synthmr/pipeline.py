"""READ FIRST. The stages in order, one short function each; `synthmr.cli` calls them, and so can you.

    index -> audit -> prepare -> (store) -> train -> synthesize -> evaluate

Imports are inside the functions, so that asking for one stage does not load the others' libraries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthmr.contrasts import parse_aliases, resolve_list
from synthmr.errors import DataError, UsageError, did_you_mean

if TYPE_CHECKING:
    from synthmr.case import Case, Cohort
    from synthmr.config import RunConfig
    from synthmr.data.audit import Finding
    from synthmr.data.split import Split
    from synthmr.data.store import Store
    from synthmr.infer.export import Summary
    from synthmr.infer.predict import InferSettings
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
) -> tuple[Store, Split]:
    """Prepare a cohort (or open a prepared store) and settle its split.

    Raises:
        DataError: nothing to train on, or data that cannot be prepared.
    """
    from synthmr.data.split import make_split
    from synthmr.data.store import Store, build

    if (data / "store.json").is_file():
        store = Store.open(data)
        return store, store.split
    cohort = index(data, aliases, split_file)
    split = make_split(cohort, (*config.sources, *config.targets), config.seed)
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
) -> TrainResult:
    """Train and write a run folder."""
    from synthmr.train.loop import train as loop
    from synthmr.train.runtime import Runtime

    return loop(config, store, split, out, resume, Runtime(accelerator=accelerator, devices=devices, num_nodes=nodes), progress)


def phantom(
    out: Path, subjects: int, seed: int, spacing: float, field: float, overwrite: bool = False, progress: Tick | None = None
) -> list[Path]:
    """Write a simulated cohort."""
    from synthmr.data.phantom import make_phantom

    return make_phantom(
        out, subjects, seed=seed, spacing=spacing, field_strength=field, overwrite=overwrite, progress=progress
    )


def infer_settings(mode: str = "slices", patch: int = 128, overlap: float = 0.5, precision: str = "auto") -> InferSettings:
    """How volumes are predicted, checked.

    Raises:
        UsageError: an unknown mode or precision, or an overlap outside [0, 1).
    """
    from synthmr.infer.predict import InferSettings

    for word, value, allowed in (("--mode", mode, ("slices", "patches")), ("--precision", precision, ("auto", "32", "bf16"))):
        if value not in allowed:
            raise UsageError(f"{word} {value!r}: {did_you_mean(value, allowed)}")
    if not 0 <= overlap < 1 or patch < 16:
        raise UsageError(f"--patch {patch} --overlap {overlap:g}: a patch has at least 16 voxels and an overlap in [0, 1).")
    return InferSettings(mode=mode, patch=(patch, patch), overlap=overlap, precision=precision)


def synthesize_files(
    run: Path,
    pairs: Sequence[str],
    output: Path,
    mask: Path | None = None,
    intensity: str = "scanner",
    settings: InferSettings | None = None,
    overwrite: bool = False,
    aliases: Sequence[str] = (),
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
        load_run(run), files, output, mask=mask, intensity=intensity, settings=settings or infer_settings(), overwrite=overwrite
    )


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
        loaded, cohort, out, intensity=intensity, settings=settings or infer_settings(), overwrite=overwrite, progress=progress
    )


def select(cohort: Cohort, split: Split, part: str) -> list[Case]:
    """The cases of one part of a run's split that a cohort holds.

    Raises:
        UsageError: ``part`` is not train, validation, test or all.
        DataError: the cohort holds none of them.
    """
    parts = {"train": split.train, "validation": split.validation, "test": split.test}
    if part != "all" and part not in parts:
        raise UsageError(f"unknown split {part!r}: {did_you_mean(part, (*parts, 'all'))}")
    names = set(parts[part]) if part != "all" else {case.name for case in cohort.cases}
    cases = [case for case in cohort.cases if case.name in names]
    if not cases:
        raise DataError(f"{cohort.root} holds no {part} case of this run; the run's split.tsv names {', '.join(sorted(names)) or 'none'}.")
    return cases


def evaluate(
    runs: Sequence[Path],
    data: Path,
    split: str = "test",
    protocols: Sequence[str] = (),
    settings: InferSettings | None = None,
    aliases: Sequence[str] = (),
    split_file: Path | None = None,
    progress: Tick | None = None,
) -> list[dict[str, Any]]:
    """Predict and score: rows (case, method, contrast, protocol, metric, value).

    Raises:
        UsageError: unknown protocol or split.
        DataError: a case that cannot be read, or that lacks the truth.
    """
    from synthmr.evaluate.protocols import get_protocol

    chosen = [get_protocol(name) for name in protocols or ("masked-volume", "hinet2020")]
    rows: list[dict[str, Any]] = []
    for scored in predictions(runs, data, split, settings, aliases, split_file, progress):
        rows += scored.rows(chosen)
    return rows
