"""The command line: verbs only. Each parses its words, calls `synthmr.pipeline`, and prints what came back.

Nothing heavy is imported before a verb runs, so that ``synthmr --help`` answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from synthmr import __version__, cli_demo, cli_experiment, cli_guard, cli_score, logfile, stopping
from synthmr.cli_experiment import AsJson, Cache, Device, Force, ForceImages, Labels, NoKeep, SkipBad, budget_of
from synthmr.cli_reading import Data, reads
from synthmr.cli_score import Metrics, Protocols, Regions
from synthmr.contrasts import split_words
from synthmr.errors import SynthmrError, UsageError
from synthmr.reading import AS_IT_IS, Reading
from synthmr.threads import set_threads

if TYPE_CHECKING:
    from synthmr.console import Console
    from synthmr.prepare.domain import Alarm

app = typer.Typer(
    name="synthmr",
    help="Predict the MR contrast that was never acquired from the ones that were.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_state: dict[str, Any] = {"verbose": 0, "quiet": False, "verb": ""}


def _version(show: bool) -> None:
    if show:
        typer.echo(f"synthmr {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    context: typer.Context,
    verbose: Annotated[int, typer.Option("-v", "--verbose", count=True, help="More words; -vv shows tracebacks.")] = 0,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress display.")] = False,
    threads: Annotated[int | None, typer.Option(help="Processor threads to use (default: all cores).", show_default=False)] = None,
    log_file: Annotated[
        Path | None,
        typer.Option(
            logfile.OPTION,
            help="Add what is said, with time stamps, and errors with tracebacks to this file (anywhere in the line).",
        ),
    ] = None,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    _state.update(verbose=verbose, quiet=quiet, verb=context.invoked_subcommand or "")
    if log_file is not None:
        logfile.start(log_file, sys.argv[1:])
    if threads is not None:
        set_threads(threads)


def _console(json: bool = False) -> Console:
    from synthmr.console import Console

    return Console(quiet=bool(_state["quiet"]) or json, silent=cli_guard.is_worker())


@app.command()
@reads()
def index(
    data: Data,
    reading: Reading = AS_IT_IS,
    every: Annotated[bool, typer.Option("--all", help="List all cases, not only the first ten.")] = False,
    why: Annotated[bool, typer.Option("--why", help="Say why each file was chosen, and what was passed over.")] = False,
    json: AsJson = False,
) -> None:
    """Print what a cohort holds: contrasts, what is missing, grids, problems, and the file of each contrast in each case."""
    from synthmr import pipeline

    console = _console(json)
    summary = pipeline.describe(pipeline.index(data, reading))
    if json:
        console.json(summary)
    else:
        console.index(summary, None if every else 10, why)


@app.command()
@reads()
def audit(
    data: Data,
    sources: Annotated[str, typer.Option(help="Contrasts that will go in; default: all.")] = "",
    target: Annotated[str, typer.Option(help="Contrasts that will come out.")] = "",
    reading: Reading = AS_IT_IS,
    cache: Cache = None,
    json: AsJson = False,
) -> None:
    """Find what would make training wrong; exit 1 if anything would."""
    from synthmr import pipeline

    console = _console(json)
    with console.progress("audit") as tick:
        findings = pipeline.audit(data, sources, target, reading, progress=tick, cache=cache)
    if json:
        console.json([vars(finding) for finding in findings])
    else:
        console.findings(findings)
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(1)


@app.command()
@reads()
def prepare(
    data: Data,
    sources: Annotated[str, typer.Option(help="Contrasts that go in, for example T1w,T2w.")],
    target: Annotated[str, typer.Option(help="Contrasts that come out.")],
    out: Annotated[Path, typer.Option(help="Folder for the prepared store; `synthmr train METHOD STORE` reads it.")],
    method: Annotated[str, typer.Option(help="Take the preparation of this method's preset.")] = "hinet",
    preset: Annotated[str, typer.Option(help="Preset of the method.")] = "fast",
    settings: Annotated[list[str] | None, typer.Option("--set", help="prepare.KEY=VALUE; may be repeated.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
    reading: Reading = AS_IT_IS,
    cache: Cache = None,
    force: Force = False,
    skip_bad: SkipBad = False,
    json: AsJson = False,
) -> None:
    """Prepare a cohort once and write it as a store that trains anywhere (a GPU machine needs no imaging library)."""
    from synthmr import pipeline

    console, gate = _console(json), pipeline.Gate(force, skip_bad)
    config = pipeline.configure(method, sources, target, preset=preset, settings=settings or [], seed=seed, aliases=reading.aliases)
    with console.progress("prepare") as tick:
        store, _ = pipeline.prepared(data, config, reading, cache, out, tick, gate=gate)
    console.lines(gate.lines)
    if json:
        console.json({"path": str(out), "cases": list(store.names), "fingerprint": store.fingerprint})
    console.say(f"{len(store.names)} cases prepared in {out}")


@app.command()
def methods(json: AsJson = False) -> None:
    """Print what each method can do."""
    from synthmr.methods.table import capability_rows

    console = _console(json)
    rows = capability_rows()
    if json:
        console.json(rows)
    else:
        console.table("methods", rows)


@app.command()
@reads()
def train(
    method: Annotated[str, typer.Argument(help="A name of `synthmr methods`.")],
    data: Data,
    sources: Annotated[str, typer.Option(help="Contrasts that go in, for example T1w,T2w.")],
    target: Annotated[str, typer.Option(help="Contrasts that come out, for example FLAIR.")],
    out: Annotated[Path, typer.Option(help="Run folder to write.")],
    preset: Annotated[str, typer.Option(help="paper, fast, ...; see `synthmr methods`.")] = "fast",
    steps: Annotated[int | None, typer.Option(help="Optimisation steps.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Minutes of training.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training samples.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value, e.g. train.lr=1e-3; may be repeated.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML with any part of the configuration.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the split and of every random number (default 0).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in OUT from its last checkpoint.")] = False,
    devices: Annotated[int, typer.Option(help="Processes or GPUs a node.")] = 1,
    nodes: Annotated[int, typer.Option(help="Nodes.")] = 1,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    reading: Reading = AS_IT_IS,
    cache: Cache = None,
    force: Force = False,
    skip_bad: SkipBad = False,
    json: AsJson = False,
) -> None:
    """Train a method on a cohort and write a run folder."""
    from synthmr import pipeline

    named = budget_of(steps=steps, minutes=minutes, epochs=epochs)
    pipeline.check_hardware(accelerator, devices, nodes)
    console, gate = _console(json), pipeline.Gate(force, skip_bad)
    run_config = pipeline.configure(
        method,
        sources,
        target,
        preset=preset,
        config=config,
        settings=settings or [],
        budget=named,
        seed=seed,
        aliases=reading.aliases,
    )
    pipeline.check_out(out, resume, devices, nodes)
    with console.progress("prepare") as tick:
        store, split = pipeline.prepared(data, run_config, reading, cache=cache, progress=tick, gate=gate)
    console.lines(gate.lines)
    with console.training(f"{method} ({run_config.preset})") as live:
        result = pipeline.train(run_config, store, split, out, resume, devices, nodes, accelerator, live, data=data, gate=gate)
    console.result(result, out, json)


@app.command()
@reads()
def extend(
    run: Annotated[Path, typer.Argument(help="Run folder of a method that can be extended (milr).")],
    data: Data,
    out: Annotated[Path, typer.Option(help="Run folder to write; RUN itself is not touched.")],
    add_target: Annotated[str, typer.Option("--add-target", help="New contrasts to come out, for example DWI.")] = "",
    add_source: Annotated[str, typer.Option("--add-source", help="New contrasts that may go in.")] = "",
    steps: Annotated[int | None, typer.Option(help="Optimisation steps.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Minutes of training.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training samples.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value of training; may be repeated.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed (default: the run's).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in OUT from its last checkpoint.")] = False,
    reading: Reading = AS_IT_IS,
    cache: Cache = None,
    force: Force = False,
    skip_bad: SkipBad = False,
    json: AsJson = False,
) -> None:
    """Add contrasts to a trained run: new decoders or encoders learn, everything else stays as it is, to the bit."""
    from synthmr import pipeline

    named = budget_of(steps=steps, minutes=minutes, epochs=epochs)
    console, gate = _console(json), pipeline.Gate(force, skip_bad)
    pipeline.check_out(out, resume)
    with console.progress("prepare") as tick:
        config, store, parts, loaded = pipeline.extension(
            run, data, add_source, add_target, settings or [], named, seed, reading, cache, tick, gate
        )
    console.lines(gate.lines)
    with console.training(f"{config.method} (more contrasts)") as live:
        result = pipeline.train(config, store, parts, out, resume, progress=live, extends=loaded, data=data, gate=gate)
    console.result(result, out, json)


@app.command()
@reads()
def synthesize(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    inputs: Annotated[
        list[str], typer.Argument(help="A case or cohort folder, or CONTRAST=file words (T1w=a.nii.gz T2w=b.nii.gz).")
    ],
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the volumes of a cohort.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write, for CONTRAST=file words.")] = None,
    mask: Annotated[Path | None, typer.Option(help="Brain mask, for CONTRAST=file words.")] = None,
    intensity: Annotated[str, typer.Option(help="scanner or normalized.")] = "scanner",
    mode: Annotated[str, typer.Option(help="slices (whole) or patches (overlapping, blended).")] = "slices",
    patch: Annotated[int, typer.Option(help="Edge of a patch in voxels, with --mode patches.")] = 128,
    overlap: Annotated[float, typer.Option(help="Share of a patch that its neighbour covers too, with --mode patches.")] = 0.5,
    precision: Annotated[str, typer.Option(help="auto, 32 or bf16.")] = "auto",
    plane: Annotated[str, typer.Option(help="axial, coronal or sagittal slices (default: as in training).")] = "",
    map_: Annotated[
        list[str] | None, typer.Option("--map", help="Maps to write too: attention, segmentation, fusion; see `synthmr methods`.")
    ] = None,
    lesion_mask: Annotated[
        Path | None, typer.Option("--lesion-mask", help="Lesion mask to synthesise with (milr), or `none` for no lesion.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace volumes that exist.")] = False,
    split: Annotated[
        str, typer.Option(help="Only cases of this part of the run's split, or of --split-file: train, validation or test.")
    ] = "",
    device: Device = "auto",
    no_keep: NoKeep = False,
    force: ForceImages = False,
    reading: Reading = AS_IT_IS,
    json: AsJson = False,
) -> None:
    """Write the synthetic volume of one case, or of every case of a cohort."""
    from synthmr import pipeline
    from synthmr.config import to_dict

    settings = pipeline.predict_settings(mode, patch, overlap, precision, plane)
    console = _console(json)
    pairs = [word for word in inputs if "=" in word and not Path(word).exists()]
    if pairs:
        if len(pairs) != len(inputs):
            raise UsageError("give either one folder or CONTRAST=file words, not both.")
        if output is None:
            raise UsageError("CONTRAST=file words need -o FILE, the volume to write.")
        told: list[Alarm] = []
        written = pipeline.synthesize_files(
            run,
            pairs,
            output,
            mask,
            intensity,
            settings,
            overwrite,
            reading,
            map_ or [],
            lesion_mask,
            device,
            not no_keep,
            console.say,
            force,
            told.append,
        )
        console.alarms([(output.name, alarm.as_dict()) for alarm in told])
        console.say("\n".join(str(path) for path in written))
        if json:
            console.json([str(path) for path in written])
        return
    if "" in inputs:
        raise UsageError("an empty word was given; name a folder of cases, or CONTRAST=file words.")
    if len(inputs) != 1:
        raise UsageError(f"{len(inputs)} folders were given ({', '.join(inputs)}); give one, and call once for each.")
    if out is None:
        raise UsageError("a folder of cases needs --out DIR, the folder to write to; single files are given as CONTRAST=file.")
    with console.progress("synthesize") as tick:
        summary = pipeline.synthesize_cohort(
            run,
            Path(inputs[0]),
            out,
            intensity,
            settings,
            overwrite,
            split,
            reading,
            map_ or [],
            lesion_mask,
            progress=tick,
            device=device,
            keep=not no_keep,
            force=force,
        )
    if json:
        console.json(to_dict(summary))
    else:
        console.summary(summary)
    if summary.failed:
        raise typer.Exit(1)


@app.command()
@reads()
def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    data: Data,
    split: Annotated[str, typer.Option(help="train, validation, test or all, as the run knows them.")] = "test",
    against: Annotated[list[Path] | None, typer.Option(help="Another run to score beside it; may be repeated.")] = None,
    protocol: Protocols = None,
    metrics: Metrics = "",
    regions: Regions = False,
    tissue: Annotated[
        str, typer.Option(help="With --regions: tissue label files in DATA, such as labels/{case}_tissue.nii.gz.")
    ] = "",
    labels: Labels = "auto",
    out: Annotated[Path | None, typer.Option(help="CSV to write (default: RUN/metrics.csv).")] = None,
    mode: Annotated[str, typer.Option(help="slices (whole) or patches (overlapping, blended).")] = "slices",
    precision: Annotated[str, typer.Option(help="auto, 32 or bf16.")] = "auto",
    plane: Annotated[str, typer.Option(help="axial, coronal or sagittal slices (default: as in training).")] = "",
    device: Device = "auto",
    no_keep: NoKeep = False,
    force: ForceImages = False,
    reading: Reading = AS_IT_IS,
    json: AsJson = False,
) -> None:
    """Score a run on held-out cases and write metrics.csv; with --against also test whether the runs differ."""
    from synthmr import pipeline
    from synthmr.evaluate.scores import write_scores

    console = _console(json)
    settings = pipeline.predict_settings(mode, 128, 0.5, precision, plane)
    with console.progress("evaluate") as tick:
        found = pipeline.evaluate(
            [run, *(against or [])],
            data,
            split,
            protocol or [],
            settings,
            reading,
            progress=tick,
            metrics=split_words([metrics]),
            regions=regions,
            tissue=tissue,
            device=device,
            keep=not no_keep,
            labels=labels,
            force=force,
        )
    path = out if out is not None else run / "metrics.csv"
    rows = found.rows
    write_scores(path, rows)
    if json:
        console.json(found.as_dict())
    else:
        console.scores(rows)
        console.protocols_beside(rows)
        console.labels(found)
        if against:
            console.comparisons(pipeline.compare([row for row in rows if row.protocol == rows[0].protocol]))
    # on standard error, beside the JSON too: what was left out must not be lost on a script
    _console().remarks(found)
    console.say(f"written to {path}")
    if found.failed:
        raise typer.Exit(1)


@app.command()
@reads()
def report(
    source: Annotated[Path, typer.Argument(help="Run folder, or the folder of an experiment.")],
    data: Annotated[Path | None, typer.Argument(help="Folder of cases (default: where it was trained).")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="HTML file to write.")] = Path("report.html"),
    against: Annotated[list[Path] | None, typer.Option(help="Another run to show beside it; may be repeated.")] = None,
    split: Annotated[str, typer.Option(help="train, validation, test, held-out or all, as the run knows them.")] = "test",
    protocol: Protocols = None,
    labels: Labels = "auto",
    device: Device = "auto",
    no_keep: NoKeep = False,
    force: ForceImages = False,
    reading: Reading = AS_IT_IS,
    json: AsJson = False,
) -> None:
    """Write one self-contained page: scores, every subject, and each case in a viewer; opens in any browser from disk."""
    from synthmr import pipeline
    from synthmr.experiment import page

    console = _console(json)
    command = f"synthmr report {source.name}"
    if page.is_experiment(source):
        if against or protocol or labels != "auto":
            raise UsageError("--against, --protocol and --labels are for runs; an experiment has its own rows and protocol.")
        with console.progress("report") as tick:
            page.write(source, output, data, command, tick, device, not no_keep)
    else:
        with console.progress("report") as tick:
            words = (output, data, split, protocol or [], "", command, reading, tick, device, not no_keep, labels, force)
            pipeline.report([source, *(against or [])], *words)
    size = output.stat().st_size / 1e6
    if json:
        console.json({"path": str(output), "megabytes": round(size, 2)})
    console.say(f"{output} ({size:.1f} MB)")


cli_score.add_to(app, _console)
cli_demo.add_to(app, _console)
cli_experiment.add_to(app, _console)
app.add_typer(cli_experiment.tables, name="experiment")


def main() -> None:
    """Entry point: one line an error, exit 1 (data) or 2 (usage); the traceback with -vv. Signals: see `synthmr.stopping`."""
    cli_guard.set_streams()
    try:
        with logfile.session(), stopping.handled():
            words = logfile.to_front(sys.argv[1:])
            cli_guard.refuse_empty_paths(app, words)
            app(args=words)
    except stopping.Stopped as stopped:
        sys.exit(cli_guard.end(stopped, str(_state["verb"])))
    except BrokenPipeError:
        sys.exit(141)
    except Exception as error:
        if _state["verbose"] >= 2:
            raise
        print(f"synthmr: error: {cli_guard.line_of(error)}", file=sys.stderr)
        sys.exit(error.exit_code if isinstance(error, SynthmrError) else 1)


if __name__ == "__main__":
    main()
