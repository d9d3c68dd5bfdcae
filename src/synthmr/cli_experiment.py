"""The verbs that train and score many runs: cv, subsets, experiment list|show|run. `synthmr.cli` adds them to the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from synthmr.cli_reading import Data, reads
from synthmr.errors import UsageError
from synthmr.reading import AS_IT_IS, Reading

if TYPE_CHECKING:
    from synthmr.console import Console
    from synthmr.experiment.runner import Options

tables = typer.Typer(help="The papers' tables as commands.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Cache = Annotated[
    Path | None, typer.Option("--cache", help="Folder for prepared data (default: $SYNTHMR_CACHE or ~/.cache/synthmr).")
]
Force = Annotated[bool, typer.Option("--force", help="Go on though the audit finds errors; the run records them.")]
ForceImages = Annotated[
    bool, typer.Option("--force", help="Go on with images that are certainly not what the run was trained on; it is recorded.")
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave cases in which the audit finds errors out, and say which.")]
Minutes = Annotated[float | None, typer.Option(help="Minutes of training of each run.")]
Device = Annotated[str, typer.Option("--device", help="Where to predict: auto (a GPU if there is one), cpu, cuda, cuda:N or mps.")]
NoKeep = Annotated[
    bool,
    typer.Option("--no-keep", help="Predict anew and keep nothing; else predictions are kept in RUN/predictions (2 GB at most)."),
]
Labels = Annotated[
    str,
    typer.Option(
        "--labels", help="What segmentations mean: a convention of docs/data.md, such as brats2023, or your own .yaml file."
    ),
]
Steps = Annotated[int | None, typer.Option(help="Optimisation steps of each run.")]


def add_to(app: typer.Typer, console_of: Callable[[bool], Console]) -> None:
    """Register the verbs on the command line's app."""

    @app.command()
    @reads(split_file=False)
    def cv(
        method: Annotated[str, typer.Argument(help="A name of `synthmr methods`.")],
        data: Data,
        sources: Annotated[str, typer.Option(help="Contrasts that go in, for example T1w,T2w.")],
        target: Annotated[str, typer.Option(help="Contrasts that come out.")],
        out: Annotated[Path, typer.Option(help="Folder to write; an interrupted cross-validation goes on there.")],
        folds: Annotated[int, typer.Option(help="Number of folds.")] = 5,
        preset: Annotated[str, typer.Option(help="paper, fast, ...")] = "fast",
        minutes: Minutes = None,
        steps: Steps = None,
        settings: Annotated[list[str] | None, typer.Option("--set", help="key=value; may be repeated.")] = None,
        protocol: Annotated[list[str] | None, typer.Option(help="Scoring protocol; may be repeated.")] = None,
        labels: Labels = "auto",
        seed: Annotated[int, typer.Option(help="Seed of folds and training.")] = 0,
        device: Device = "auto",
        no_keep: NoKeep = False,
        reading: Reading = AS_IT_IS,
        cache: Cache = None,
        force: Force = False,
        skip_bad: SkipBad = False,
        json: AsJson = False,
    ) -> None:
        """Cross-validate a method: folds of whole subjects, stored; every subject is tested once."""
        from synthmr import pipeline
        from synthmr.evaluate.scores import score_objects
        from synthmr.experiment.crossval import cross_validate

        console, gate = console_of(json), pipeline.Gate(force, skip_bad)
        config = pipeline.configure(
            method,
            sources,
            target,
            preset=preset,
            settings=settings or [],
            budget=budget_of(minutes=minutes, steps=steps),
            seed=seed,
            aliases=reading.aliases,
        )
        rows = cross_validate(
            config,
            data,
            out,
            folds,
            protocols=protocol or [],
            reading=reading,
            cache=cache,
            show=console.progress,
            train_show=console.training,
            say=console.say,
            device=device,
            keep=not no_keep,
            gate=gate,
            labels=labels,
        )
        if json:
            console.json({"scores": score_objects(rows)})
        else:
            console.scores(rows)
            console.say(f"written to {out / 'metrics.csv'}; compare methods with `synthmr compare`")

    @app.command()
    @reads(split_file=False)
    def subsets(
        run: Annotated[Path, typer.Argument(help="Run folder with two sources or more.")],
        data: Data,
        out: Annotated[Path | None, typer.Option(help="Folder for subsets.csv and subsets.png (default: RUN).")] = None,
        train: Annotated[bool, typer.Option("--train", help="Also train a run a subset (needs --out).")] = False,
        split: Annotated[str, typer.Option(help="train, validation, test, held-out or all.")] = "test",
        protocol: Annotated[str, typer.Option(help="Scoring protocol.")] = "masked-volume",
        labels: Labels = "auto",
        minutes: Minutes = None,
        steps: Steps = None,
        device: Device = "auto",
        no_keep: NoKeep = False,
        force: Force = False,
        reading: Reading = AS_IT_IS,
        cache: Cache = None,
        json: AsJson = False,
    ) -> None:
        """Score every subset of a run's sources, as a table and a plot."""
        from synthmr.evaluate.scores import score_objects, write_scores
        from synthmr.experiment import subsets as report

        console = console_of(json)
        rows = report.score_subsets(
            run,
            data,
            out,
            each=train,
            split=split,
            protocol=protocol,
            budget=budget_of(minutes=minutes, steps=steps),
            reading=reading,
            cache=cache,
            show=console.progress,
            train_show=console.training,
            say=console.say,
            device=device,
            keep=not no_keep,
            labels=labels,
            force=force,
        )
        folder = out if out is not None else run
        write_scores(folder / "subsets.csv", rows)
        metric = report.main_metric(rows)
        report.plot(rows, folder / "subsets.png", metric)
        if json:
            console.json({"scores": score_objects(rows)})
            return
        console.table(f"subsets, {protocol}, {split} (mean +- sd over subjects)", report.table(rows))
        console.table("what adding a source changes", report.gains(rows, metric))
        console.say(f"written to {folder / 'subsets.csv'} and {folder / 'subsets.png'}")

    @tables.command("list")
    def list_(json: AsJson = False) -> None:
        """Print every table and figure that can be run."""
        from synthmr.experiment import spec

        console = console_of(json)
        found = [spec.load(name) for name in spec.names()]
        rows = [
            {
                "name": each.name,
                "paper": spec.PAPERS[each.paper],
                "item": each.item,
                "title": each.title,
                "rows": len(each.rows),
                "not in the box": sum(bool(row.missing) for row in each.rows),
            }
            for each in found
        ]
        if json:
            console.json(rows)
        else:
            console.table("experiments", rows)

    @tables.command()
    def show(
        name: Annotated[str, typer.Argument(help="A name of `synthmr experiment list`, or a .yaml file.")], json: AsJson = False
    ) -> None:
        """Print a table as the paper has it: rows, numbers, claims, and what each row needs."""
        from synthmr.config import to_dict
        from synthmr.experiment import layout, spec

        console = console_of(json)
        experiment = spec.load(name)
        if json:
            console.json(to_dict(experiment))
            return
        console.text(f"{spec.PAPERS[experiment.paper]}, {experiment.item}: {experiment.title}\n{experiment.about}")
        console.text(f"paper's data: {experiment.data}\npaper's training: {experiment.training or 'not said'}")
        console.table(f"rows (protocol {experiment.protocol})", layout.paper_table(experiment))
        for claim in experiment.claims:
            console.text(f"claim: {claim.says} ({claim.metric}: {claim.better} over {', '.join(claim.worse)})")
        for line in experiment.notes:
            console.text(f"note: {line}")

    @tables.command("run")
    @reads(split_file=False)
    def run_(
        name: Annotated[str, typer.Argument(help="A name of `synthmr experiment list`, or a .yaml file.")],
        out: Annotated[Path, typer.Option(help="Folder to write; an interrupted run goes on there.")],
        data: Annotated[Path | None, typer.Argument(help="Folder of cases; none with --scale tiny: a phantom.")] = None,
        scale: Annotated[str, typer.Option(help="tiny (shows that it runs), small (6 minutes a cell) or paper.")] = "small",
        folds: Annotated[int, typer.Option(help="Cross-validate with so many folds; 0: the data's own split.")] = 0,
        part: Annotated[str, typer.Option(help="Without folds: the part to score (test, validation, held-out: both).")] = "test",
        minutes: Minutes = None,
        steps: Steps = None,
        seed: Annotated[int, typer.Option(help="Seed of split, folds and training.")] = 0,
        substitute: Annotated[
            list[str] | None, typer.Option(help="TABLE=DATA, such as DWI=T1ce: a contrast that stands for one the data lack.")
        ] = None,
        only: Annotated[list[str] | None, typer.Option(help="Name of a row to run; may be repeated.")] = None,
        labels: Labels = "auto",
        device: Device = "auto",
        no_keep: NoKeep = False,
        force: Force = False,
        reading: Reading = AS_IT_IS,
        cache: Cache = None,
        json: AsJson = False,
    ) -> None:
        """Train and score every row of a table and print it beside the paper's numbers, with what became of its claims.

        Exit 1 where a row could not be run to its end; the table says why.
        """
        from synthmr.experiment import layout, runner, spec

        console = console_of(json)
        experiment = spec.load(name)
        options = runner.Options(
            scale=scale,
            folds=folds,
            part=part,
            minutes=minutes,
            steps=steps,
            seed=seed,
            substitute=runner.substitutions(substitute or [], reading.aliases),
            only=tuple(only or ()),
            reading=reading,
            cache=cache,
            device=device,
            keep=not no_keep,
            force=force,
            labels=labels,
        )
        outcome = runner.run(experiment, data, out, options, show=console.progress, train_show=console.training, say=console.say)
        path = layout.write(outcome, out, _command(name, data, out, options))
        if json:
            console.json(layout.as_data(outcome))
        else:
            console.outcome(outcome)
            console.say(f"written to {path}")
        if outcome.failed:
            raise typer.Exit(1)


def _command(name: str, data: Path | None, out: Path, options: Options) -> str:
    """The command for the table, to be repeated anywhere: names of files and folders without where they lie here."""
    import shlex

    words = ["synthmr", "experiment", "run", Path(name).name, *([data.resolve().name] if data is not None else [])]
    words += ["--out", out.resolve().name, "--scale", options.scale, "--seed", str(options.seed)]
    words += ["--folds", str(options.folds)] if options.folds else ["--part", options.part]
    words += ["--minutes", f"{options.minutes:g}"] if options.minutes is not None else []
    words += ["--steps", str(options.steps)] if options.steps is not None else []
    reading = options.reading
    entities = [f"{key}={value}" for key, value in reading.entities.items()]
    repeated = (("--only", options.only), ("--alias", reading.aliases), ("--entity", entities), ("--prefer", reading.prefer))
    words += [word for option, values in repeated for value in values for word in (option, value)]
    words += ["--subject", reading.subject] if reading.subject else []
    words += ["--force"] if options.force else []
    words += ["--labels", options.labels] if options.labels != "auto" else []
    words += ["--nan-to-zero"] if reading.nan_to_zero else []
    words += [word for old, new in options.substitute.items() for word in ("--substitute", f"{old}={new}")]
    return shlex.join(words)


def budget_of(**given: float | None) -> dict[str, float]:
    """The length of training that was asked for, if any.

    Raises:
        UsageError: more than one.
    """
    named = {name: value for name, value in given.items() if value is not None}
    if len(named) > 1:
        raise UsageError(f"--{' and --'.join(named)} were both given; give one.")
    return named
