"""The verbs that need no data of one's own: a simulated cohort, and the whole path on it; registered by `synthmr.cli`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from synthmr.cli_experiment import AsJson

if TYPE_CHECKING:
    from synthmr.console import Console


def add_to(app: typer.Typer, console_of: Callable[..., Console]) -> None:
    """Register the verbs on the command line's app."""

    @app.command()
    def phantom(
        out: Annotated[Path, typer.Argument(help="Folder to write.")],
        subjects: Annotated[int, typer.Option(help="Number of subjects.")] = 10,
        seed: Annotated[int, typer.Option(help="Seed; the same seed gives the same files.")] = 0,
        spacing: Annotated[float, typer.Option(help="Voxel edge in mm.")] = 2.0,
        field: Annotated[float, typer.Option(help="Field strength in tesla, 1.5 or 3.")] = 3.0,
        overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier phantom in OUT.")] = False,
        json: AsJson = False,
    ) -> None:
        """Write a simulated cohort: T1w, T2w, PDw, FLAIR, T1ce, masks, labels and the noise-free truth."""
        from synthmr import pipeline

        console = console_of(json)
        with console.progress("phantom") as tick:
            folders = pipeline.phantom(out, subjects, seed, spacing, field, overwrite=overwrite, progress=tick)
        if json:
            console.json([str(folder) for folder in folders])
        console.say(f"{len(folders)} subjects in {out}")

    @app.command()
    def demo(
        out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("demo"),
        subjects: Annotated[int, typer.Option(help="Number of phantom subjects.")] = 10,
        seed: Annotated[int, typer.Option(help="Seed.")] = 0,
        steps: Annotated[int, typer.Option(help="Steps of Hi-Net training.")] = 400,
    ) -> None:
        """Phantom cohort, Hi-Net, two baselines, scores and a report: the whole path in under four minutes."""
        from synthmr.demo import run_demo

        run_demo(out, subjects, seed, steps, console_of())
