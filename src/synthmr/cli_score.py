"""The verbs that score files and tables, without a run; registered by `synthmr.cli`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from synthmr.cli_experiment import AsJson, Labels
from synthmr.cli_reading import reads
from synthmr.contrasts import split_words
from synthmr.errors import UsageError
from synthmr.reading import AS_IT_IS, Reading

if TYPE_CHECKING:
    from synthmr.console import Console

Protocols = Annotated[
    list[str] | None,
    typer.Option(
        "--protocol", help="A name of `synthmr protocols`, a .yaml file, or all; may be repeated (default: masked-volume)."
    ),
]
Metrics = Annotated[str, typer.Option("--metrics", help="Metrics in place of the protocol's, for example psnr,hfen,ncc.")]
Regions = Annotated[
    bool, typer.Option("--regions", help="Score lesion, other brain and boundary apart too, slice steps and false lesions.")
]


def add_to(app: typer.Typer, console_of: Callable[[bool], Console]) -> None:
    """Register the verbs on the command line's app."""

    @app.command()
    @reads(split_file=False)
    def score(
        predictions: Annotated[
            Path, typer.Argument(help="Synthetic volume, folder of volumes, or a table with the columns prediction, truth.")
        ],
        truths: Annotated[
            Path | None, typer.Argument(help="Acquired volume on the same grid, or folder of cases (BraTS, BIDS, CASE/CONTRAST).")
        ] = None,
        mask: Annotated[
            Path | None,
            typer.Option(help="Brain mask; {case} stands for the case (default: as a sidecar says, else by the truth)."),
        ] = None,
        segmentation: Annotated[
            Path | None, typer.Option(help="Lesion labels, for protocols and regions that need them; {case} stands for the case.")
        ] = None,
        protocol: Protocols = None,
        metrics: Metrics = "",
        regions: Regions = False,
        tissue: Annotated[
            Path | None,
            typer.Option(help="With --regions: tissue labels (1 CSF, 2 grey, 3 white matter); {case} stands for the case."),
        ] = None,
        labels: Labels = "auto",
        method: Annotated[
            str, typer.Option(help="Name of the method in tables (default: of the sidecar, else of the folder).")
        ] = "",
        as_written: Annotated[
            bool, typer.Option("--as-written", help="Score the voxels as they are, whatever a sidecar says of their units.")
        ] = False,
        out: Annotated[Path | None, typer.Option(help="CSV to write, as `synthmr compare` reads it.")] = None,
        reading: Reading = AS_IT_IS,
        json: AsJson = False,
    ) -> None:
        """Score NIfTI files against others, without a run: from any tool. Exit 1 where a pair could not be scored."""
        from synthmr import pipeline
        from synthmr.evaluate.scores import write_scores

        console = console_of(json)
        names = split_words([metrics])
        with console.progress("score") as tick:
            found = pipeline.score(
                predictions,
                truths,
                mask,
                segmentation,
                protocol or [],
                names,
                regions,
                tick,
                tissue,
                method,
                as_written,
                reading,
                labels,
            )
        if out is not None:
            write_scores(out, found.rows)
        if json:
            console.json(found.as_dict())
        else:
            console.pairs(found.rows)
            console.labels(found)
        console_of(False).remarks(found)
        if out is not None:
            console.say(f"written to {out}")
        if found.failed:
            raise typer.Exit(1)

    @app.command()
    def protocols(
        name: Annotated[str, typer.Argument(help="A protocol, to print as YAML that you can change; none: list them.")] = "",
        json: AsJson = False,
    ) -> None:
        """Print the scoring protocols, or one of them as YAML."""
        from synthmr import pipeline
        from synthmr.evaluate.protocols import get_protocol, to_yaml

        console = console_of(json)
        if name and not json:
            console.text(to_yaml(get_protocol(name)))
            return
        rows = pipeline.protocols(name)
        if json:
            console.json(rows)
        else:
            console.table("protocols", [{key: row[key] for key in ("name", "source", "differs")} for row in rows])

    @app.command()
    def compare(
        table: Annotated[Path, typer.Argument(help="metrics.csv of `synthmr evaluate` with several methods.")],
        more: Annotated[list[Path] | None, typer.Argument(help="Further tables of the same cases.")] = None,
        reference: Annotated[str, typer.Option(help="Method that the others are tested against (default: the best).")] = "",
        metrics: Metrics = "",
        region: Annotated[str, typer.Option(help="Regions to test in, such as lesion,gm (default: those of the protocol).")] = "",
        markdown: Annotated[bool, typer.Option("--markdown", help="Print the table of means as Markdown, for a paper.")] = False,
        json: AsJson = False,
    ) -> None:
        """Test whether methods differ: paired over subjects, t-test and Wilcoxon, Holm-corrected, with 95 % intervals."""
        from synthmr import pipeline
        from synthmr.evaluate.marks import markdown_table
        from synthmr.evaluate.scores import read_tables

        console = console_of(json)
        rows = read_tables([table, *(more or [])])
        tests = pipeline.compare(rows, reference, split_words([metrics]), split_words([region]))
        if not tests:
            raise UsageError("no two methods have a score of the same contrast, protocol, region and metric; score them alike.")
        if json:
            console.json(tests)
            return
        if markdown:
            console.text(markdown_table(rows, split_words([metrics])))
        else:
            console.scores(rows)
        console.comparisons(tests)
