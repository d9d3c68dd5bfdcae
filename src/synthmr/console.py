"""What a person sees in a terminal: tables, progress bars, the live line of a training run. Built on rich."""

from __future__ import annotations

import io
import json as jsonlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich import box
from rich.console import Console as RichConsole
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from synthmr import logfile
from synthmr.io.naming import some

if TYPE_CHECKING:
    from synthmr.evaluate.scores import Score, ScoreResult


class Tick(Protocol):
    """``tick(done, total, name)``: one more piece of a long task is done."""

    def __call__(self, done: int, total: int, name: str = "") -> None: ...


class _Console(RichConsole):
    """Prints, and tells the log file, if there is one, the same words without colours."""

    def __init__(self, *, told: bool = True, **settings: Any) -> None:
        super().__init__(**settings)
        self._told = told

    def print(self, *objects: Any, **settings: Any) -> None:
        """See `rich.console.Console`."""
        if self._told and logfile.is_open():
            plain = RichConsole(file=io.StringIO(), width=240, color_system=None, soft_wrap=self.soft_wrap)
            plain.print(*objects, **settings)
            logfile.say(plain.file.getvalue())  # type: ignore[attr-defined]
        super().print(*objects, **settings)


class Live:
    """The live line of a training run; `synthmr.train.log.Progress` says what is called when.

    On a terminal one line is redrawn; elsewhere (a log file, CI) a plain line is printed every ``every`` seconds.
    """

    def __init__(self, progress: Progress | None, console: RichConsole, title: str, every: float = 20.0) -> None:
        self._progress = progress
        self._console = console
        self._every = every
        self._last = 0.0
        self._task = progress.add_task(title, total=1.0, detail="") if progress is not None else None
        self._unit = "dB"

    def on_step(
        self,
        step: int,
        total: int | None,
        progress: float,
        losses: Mapping[str, float],
        validation_best: float | None,
        seconds_left: float | None,
    ) -> None:
        """One optimisation step is done; ``progress`` in [0, 1]."""
        words = " ".join(f"{name}={value:.4g}" for name, value in list(losses.items())[:4])
        best = f" | best validation {validation_best:.2f} {self._unit}".rstrip() if validation_best is not None else ""
        count = f"step {step}" + (f"/{total}" if total else "")
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=progress, detail=escape(f"{count} {words}{best}"))
        if time.monotonic() - self._last > self._every:
            self._last = time.monotonic()
            left = f" | {seconds_left / 60:.1f} min left" if seconds_left is not None else ""
            line = f"{count} {words}{best}{left}"
            if self._progress is None:
                self._console.print(escape(line), highlight=False)
            else:
                logfile.say(line)

    def on_validation(self, step: int, score: float, best: float, name: str = "psnr", unit: str = "dB") -> None:
        """The validation cases were scored by ``name``, in ``unit``."""
        self._unit = unit
        self.on_message(f"step {step}: validation {name} {score:.2f} {unit}".rstrip() + f" (best {best:.2f})")

    def on_message(self, text: str) -> None:
        """Anything a person should read."""
        self._console.print(escape(text), highlight=False)


class Console:
    """Prints results; with ``quiet`` only what was asked for (tables, JSON), no progress; with ``silent`` nothing."""

    def __init__(self, quiet: bool = False, silent: bool = False) -> None:
        quiet = quiet or silent
        self._silent = silent
        self._out = _Console(width=None if sys.stdout.isatty() else 240, quiet=silent, told=not silent)
        self._note = _Console(stderr=True, quiet=quiet, soft_wrap=True, told=not silent)
        self._error = _Console(stderr=True, quiet=silent, soft_wrap=True, told=not silent)
        self._quiet = quiet

    def say(self, text: str) -> None:
        """A line about what was done."""
        self._note.print(escape(text), highlight=False)

    def lines(self, texts: Sequence[str]) -> None:
        """What a person should have seen, a line each."""
        for text in texts:
            self.say(text)

    def json(self, data: Any) -> None:
        """Print JSON on standard output."""
        if not self._silent:
            from synthmr.io.files import finite

            text = jsonlib.dumps(finite(data), indent=1, default=str)
            print(text)
            logfile.say(f"printed JSON of {len(text)} characters")

    @contextmanager
    def progress(self, title: str) -> Iterator[Tick]:
        """A progress bar with time left, drawn on standard error when it is a terminal."""
        if self._quiet or not self._note.is_terminal:
            yield self._plain_tick(title)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} {task.fields[name]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._note, transient=True) as bar:
            task = bar.add_task(title, total=None, name="")

            def tick(done: int, total: int, name: str = "") -> None:
                bar.update(task, completed=done, total=total, name=escape(name))

            yield tick

    def _plain_tick(self, title: str, every: float = 10.0) -> Tick:
        start = last = time.monotonic()

        def tick(done: int, total: int, name: str = "") -> None:
            nonlocal last
            now = time.monotonic()
            if now - last > every and done < total:
                last = now
                left = (now - start) / max(done, 1) * (total - done)
                self.say(f"{title}: {done}/{total} {name} ({left:.0f} s left)")

        return tick

    @contextmanager
    def training(self, title: str) -> Iterator[Live]:
        """The live line of a training run."""
        if self._quiet or not self._note.is_terminal:
            yield Live(None, self._note, title)
            return
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[detail]}"), TimeRemainingColumn())
        with Progress(*columns, console=self._note) as bar:
            yield Live(bar, self._note, title)

    def table(self, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Print rows of equal keys."""
        if not rows:
            self.say(f"{title}: nothing to show")
            return
        table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD)
        for key in rows[0]:
            table.add_column(str(key), overflow="fold")
        for row in rows:
            table.add_row(*(escape(_cell(value)) for value in row.values()))
        self._out.print(table)

    def index(self, summary: Mapping[str, Any], rows: int | None = 10, why: bool = False) -> None:
        """Print what `synthmr.io.index.describe` returned: the summary, the problems, then the file of each contrast a case.

        Args:
            summary: what `synthmr.io.index.describe` returned.
            rows: how many cases are listed; None: all.
            why: also say why each file was chosen, and what was passed over.
        """
        cases = summary["cases"]
        self._out.print(escape(f"{summary['root']}: {len(cases)} cases, layout {summary['layout']}"), highlight=False)
        counts = {name: sum(name in case["files"] for case in cases) for name in summary["contrasts"]}
        counts |= {name: sum(case[name] is not None for case in cases) for name in ("mask", "segmentation")}
        self._out.print(escape("images: " + ", ".join(f"{name} {n}" for name, n in counts.items() if n)), highlight=False)
        if any(summary["splits"].values()):
            self._out.print("split: " + ", ".join(f"{name} {n}" for name, n in summary["splits"].items()), highlight=False)
        for grid in summary["grids"]:
            shape, spacing = ("x".join(f"{value:g}" for value in grid[key]) for key in ("shape", "spacing"))
            self._out.print(escape(f"grid {shape} voxels of {spacing} mm, {grid['orientation']}: {grid['images']} images"))
        for name, without in summary["missing"].items():
            if without:
                self._out.print(escape(f"{name} is missing in {len(without)}: {some(without, 6)}"))
        for line in summary["problems"]:
            self._out.print(escape(f"problem: {line}"))
        self._index_cases(cases[:rows], counts, len(summary["grids"]) > 1, why)
        if rows is not None and len(cases) > rows:
            self._out.print(f"... and {len(cases) - rows} more cases; --all lists them", highlight=False)

    def _index_cases(self, cases: Sequence[Mapping[str, Any]], names: Mapping[str, int], grids: bool, why: bool) -> None:
        """One row a case with its files; with ``why`` a paragraph a case."""
        table = []
        for case in cases:
            files = {**case["files"], **{name: case[name] for name in ("mask", "segmentation") if case[name] is not None}}
            folder = _common_folder(list(files.values()))
            short = {name: path[len(folder) :] for name, path in files.items()}
            if why:
                self._why(case, folder, short)
                continue
            person = {"session": case["session"]} if any(other["session"] for other in cases) else {}
            cells = {name: short.get(name, "-") for name, count in names.items() if count}
            grid = {"grid": case["grid"]} if grids else {}
            table.append({"case": case["name"], **person, **cells, "split": case["split"] or "", "folder": folder or ".", **grid})
        width = sum(3 + max(len(key), *(len(str(row[key])) for row in table)) for key in table[0]) if table else 0
        if width <= self._out.width:
            self.table("the file of each contrast", table)
            return
        for row, case in zip(table, cases, strict=True):  # a narrow terminal: a table would cut the names into pieces
            self._why({**case, "reasons": {}, "passed_over": ()}, row["folder"], {name: row[name] for name in names if name in row})

    def _why(self, case: Mapping[str, Any], folder: str, short: Mapping[str, str]) -> None:
        """A case's files with the reason of each, and what was passed over."""
        session = f", session {case['session']}" if case["session"] else ""
        self._out.print(escape(f"{case['name']} (subject {case['subject']}{session}) in {folder or '.'}"), highlight=False)
        for name, file in short.items():
            reason = case["reasons"].get(name, "")
            self._out.print(escape(f"    {name}: {file}{' - ' + reason if reason else ''}"), highlight=False)
        for entry in case["passed_over"]:
            self._out.print(escape(f"    passed over: {entry['path']} - {entry['why']}"), highlight=False)

    def findings(self, findings: Sequence[Any]) -> None:
        """Print what `synthmr.data.audit.audit` found."""
        for finding in findings:
            where = " ".join(part for part in (finding.case, finding.contrast) if part)
            self._out.print(
                f"[{'red' if finding.level == 'error' else 'yellow'}]{finding.level}[/] {escape(where)}: {escape(finding.what)}"
            )
            self._out.print(f"    means: {escape(finding.meaning)}")
            self._out.print(f"    fix:   {escape(finding.fix)}")
        errors = sum(finding.level == "error" for finding in findings)
        self._out.print(f"{errors} errors, {len(findings) - errors} warnings")

    def scores(self, rows: Sequence[Score]) -> None:
        """Print mean +- sd over subjects: a table a protocol, and one of each of its regions."""
        from synthmr.evaluate.registry import get
        from synthmr.evaluate.scores import own_region, summarise

        summary = summarise(rows)
        for protocol, region in dict.fromkeys((row["protocol"], row["region"]) for row in summary):
            mine = [row for row in summary if (row["protocol"], row["region"]) == (protocol, region)]
            heads = {metric: get(metric).head for metric in dict.fromkeys(row["metric"] for row in mine)}
            lines: dict[tuple[str, str], dict[str, str]] = {}
            for row in mine:
                line = lines.setdefault((row["method"], row["contrast"]), {"subjects": str(row["subjects"])})
                line[row["metric"]] = row["text"]
            table = [
                {
                    "method": method,
                    "contrast": contrast,
                    "subjects": line["subjects"],
                    **{head: line.get(metric, "") for metric, head in heads.items()},
                }
                for (method, contrast), line in lines.items()
            ]
            where = "" if region == own_region(protocol) else f", {region}"
            self.table(f"protocol {protocol}{where} (mean +- sd over subjects)", table)

    def protocols_beside(self, rows: Sequence[Score]) -> None:
        """One prediction under several protocols side by side, and why the numbers differ."""
        from synthmr.evaluate.protocols import PROTOCOLS
        from synthmr.evaluate.scores import main_scores, summarise

        summary = summarise(main_scores(rows))
        names = [name for name in dict.fromkeys(row["protocol"] for row in summary) if name in PROTOCOLS]
        if len(names) < 2:
            return
        table = []
        for name in names:
            values = {(row["method"], row["contrast"], row["metric"]): row for row in summary if row["protocol"] == name}
            for method, contrast in dict.fromkeys((method, contrast) for method, contrast, _ in values):
                found = {}
                for metric in ("psnr", "ssim"):
                    row = values.get((method, contrast, metric), {"text": "", "region": ""})
                    found[metric] = f"{row['text']} (lesion)" if row["region"] == "lesion" else row["text"]
                head = {"protocol": name, "method": method, "contrast": contrast}
                table.append({**head, **found, "why it differs": PROTOCOLS[name].differs})
        self.table("the same predictions under every protocol", table)

    def comparisons(self, tests: Sequence[Mapping[str, Any]]) -> None:
        """Print what `synthmr.pipeline.compare` found, a sentence a comparison."""
        if tests:
            self._out.print("paired over subjects, two-sided:", highlight=False)
        for test in tests:
            self._out.print(escape(f"  {test['text']}{' ' + test['note'] if test['note'] else ''}"), highlight=False)

    def outcome(self, outcome: Any) -> None:
        """Print an experiment: what differs from the paper, the table, the claims."""
        from synthmr.experiment import layout
        from synthmr.experiment.spec import PAPERS

        experiment = outcome.experiment
        self._out.print(escape(f"{PAPERS[experiment.paper]}, {experiment.item}: {experiment.title}"), highlight=False)
        self._out.print(escape(layout.protocol_words(experiment)), highlight=False)
        for line in layout.differences(outcome):
            self._out.print(escape(f"  {line}"), highlight=False)
        self.table("mean +- sd over subjects", layout.filled(layout.table(outcome)))
        claims = layout.claim_table(outcome)
        if claims:
            self.table("claims (paired t-test over subjects, two-sided, Holm-corrected)", layout.filled(claims))
        self._out.print(escape(layout.summary(outcome)), highlight=False)

    def pairs(self, rows: Sequence[Score]) -> None:
        """Print the scores of files: a line a protocol and metric, a column a region; of several subjects mean +- sd."""
        from synthmr.evaluate.registry import get
        from synthmr.evaluate.scores import summarise

        summary = summarise(rows)
        regions = list(dict.fromkeys(row["region"] for row in summary))
        several = [key for key in ("method", "contrast") if len({row[key] for row in summary}) > 1]
        lines: dict[tuple[str, ...], dict[str, str]] = {}
        for row in summary:
            line = lines.setdefault(tuple(row[key] for key in ("protocol", *several, "metric")), {})
            line |= {row["region"]: row["text"], "subjects": str(row["subjects"])}
        most = max(row["subjects"] for row in summary) if summary else 0
        table = []
        for (*keys, metric), line in lines.items():
            head = dict(zip(("protocol", *several), keys, strict=True)) | {"metric": get(metric).head}
            head |= {"subjects": line["subjects"]} if most > 1 else {}
            table.append(head | {region: line.get(region, "") for region in regions})
        self.table("scores" if most < 2 else "scores (mean +- sd over subjects)", table)

    def remarks(self, found: ScoreResult) -> None:
        """Print the linter's warnings, notes and what was left out, on standard error; of units and domain even when quiet."""
        from synthmr.evaluate.lint import lint_lines

        for line in dict.fromkeys(found.notes):
            self._note.print(escape(f"note: {line}"), highlight=False)
        for line in dict.fromkeys(found.skipped):
            self._note.print(escape(f"left out: {line}"), highlight=False)
        units = [warning for warning in found.warnings if _is_loud(warning.code)]
        others = [warning for warning in found.warnings if not _is_loud(warning.code)]
        for stream, warnings in ((self._error, units), (self._note, others)):
            for line in lint_lines(warnings):
                stream.print(f"[yellow]warning[/] {escape(line)}", highlight=False)

    def labels(self, found: ScoreResult) -> None:
        """Print how segmentations were read, where scores depend on it."""
        from synthmr.evaluate.scores import label_lines

        for line in label_lines(found.labels):
            self._out.print(escape(f"segmentations: {line}"), highlight=False)

    def alarms(self, found: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Print in what cases are outside of what a run was trained on, even when quiet: (case, {code, text, ...}) each."""
        from synthmr.evaluate.lint import LintWarning, lint_lines

        for line in lint_lines(LintWarning(alarm["code"], "", case, alarm["text"]) for case, alarm in found):
            self._error.print(f"[yellow]warning[/] {escape(line)}", highlight=False)

    def text(self, text: str) -> None:
        """Print text as it is."""
        if not self._silent:
            print(text.rstrip())
            logfile.say(text)

    def summary(self, summary: Any) -> None:
        """Print what a cohort synthesis did."""
        for note in dict.fromkeys(note for notes in summary.notes.values() for note in notes):
            cases = [name for name, notes in summary.notes.items() if note in notes]
            self.say(f"note on {', '.join(cases[:4])}{' ...' if len(cases) > 4 else ''}: {note}")
        self.alarms([(name, alarm) for name, alarms in summary.warnings.items() for alarm in alarms])
        for name, reason in summary.failed.items():
            self._error.print(f"[red]failed[/] {escape(name)}: {escape(reason)}", highlight=False)
        self._out.print(
            f"{len(summary.done)} written, {len(summary.skipped)} already there, {len(summary.failed)} failed", highlight=False
        )

    def result(self, result: Any, out: Path, json: bool) -> None:
        """Print what a training run reached."""
        if json:
            self.json(result.as_dict())
            return
        self._out.print(escape(f"{out}: {result.describe()}"), highlight=False)


def _common_folder(paths: Sequence[str]) -> str:
    """The folder that all paths lie in, with its last ``/``; empty where there is none."""
    folders = [path.split("/")[:-1] for path in paths]
    same = []
    for parts in zip(*folders, strict=False):
        if len(set(parts)) > 1:
            break
        same.append(parts[0])
    return "/".join(same) + "/" if same else ""


def _is_loud(code: str) -> bool:
    """Whether a warning is printed even when quiet: wrong units or wrong images make every number wrong."""
    return code in ("units", "brightness") or code.startswith("domain.")


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)
