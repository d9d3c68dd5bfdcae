"""The audit decides: its errors stop a training before anything is prepared, unless somebody insists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthmr.case import SPLITS
from synthmr.errors import DataError, UsageError

if TYPE_CHECKING:
    from synthmr.case import Cohort
    from synthmr.data.findings import Finding
    from synthmr.data.split import Split
    from synthmr.pipeline.ticks import Tick

#: errors that a message lists, and warnings that are printed
MOST_ERRORS, MOST_WARNINGS = 3, 8


@dataclass
class Gate:
    """What becomes of what the audit finds in the cases of a split.

    Attributes:
        force: go on though there are errors.
        skip_bad: leave the cases with errors out.
        findings: of the cases that were checked.
        left_out: case -> why it was left out.
        lines: what a person should be told, in order: what was left out or insisted on, and the warnings.
    """

    force: bool = False
    skip_bad: bool = False
    findings: list[Finding] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.force and self.skip_bad:
            raise UsageError("--force and --skip-bad were both given; give one: train on damaged cases, or leave them out.")

    def check(
        self, cohort: Cohort, split: Split, contrasts: Sequence[str], cache: Path | None = None, progress: Tick | None = None
    ) -> Split:
        """Audit the cases of a split; the split to go on with. What was found of a file before is taken from the cache.

        Args:
            cohort: where the files are.
            split: the cases that will be used.
            contrasts: that will be used.
            cache: folder of prepared data; None: the default one.
            progress: called ``(done, total, case)``.

        Raises:
            DataError: there are errors, and neither ``force`` nor ``skip_bad``; or nothing to train on is left.
        """
        from synthmr.data.audit import audit_cases
        from synthmr.data.findings import in_order
        from synthmr.data.store import default_cache

        names = set(split.names)
        part = replace(cohort, cases=tuple(case for case in cohort.cases if case.name in names))
        found = audit_cases(part, contrasts, split, progress, default_cache() if cache is None else cache)
        errors = [finding for finding in found if finding.level == "error"]
        known = {(each.cases, each.contrast, each.what) for each in self.findings}
        new = [each for each in in_order(found) if (each.cases, each.contrast, each.what) not in known]
        self.findings += new
        if errors and not (self.force or self.skip_bad):
            raise DataError(_stop(errors, cohort.root))
        if errors and self.skip_bad:
            split = self._without(split, errors, cohort.root)
        elif errors:
            self._say(f"--force: training goes on though the audit found {_count(errors, 'error')}: {_some(errors)}")
        warnings = [finding for finding in new if finding.level != "error"]
        for finding in warnings[:MOST_WARNINGS]:
            self._say(f"warning: {_line(finding)}")
        if len(warnings) > MOST_WARNINGS:
            self._say(f"{len(warnings) - MOST_WARNINGS} more warnings; `synthmr audit {cohort.root}` lists them.")
        return split

    def _say(self, line: str) -> None:
        if line not in self.lines:
            self.lines.append(line)

    def _without(self, split: Split, errors: Sequence[Finding], root: Path) -> Split:
        """The split without the cases that have errors; of two that are one person, the training case, else the second."""
        bad: dict[str, str] = {}
        for finding in errors:
            names = [name for name in finding.cases if name in split.names]
            if not names:
                raise DataError(f"--skip-bad cannot help: {_line(finding)} {finding.fix}")
            if any(name in bad for name in names):
                continue
            held_back = [name for name in names if name in split.train]
            bad[held_back[0] if len(names) > 1 and len(held_back) == 1 else names[-1]] = _line(finding)
        parts = {part: tuple(name for name in split.part(part) if name not in bad) for part in SPLITS}
        for name in ("train", "validation"):
            if not parts[name]:
                raise DataError(
                    f"--skip-bad leaves no {name} case of {root}: {_some(errors)} Mend the files, or use another split."
                )
        for case, why in bad.items():
            if case not in self.left_out:
                self.left_out[case] = why
                self._say(f"--skip-bad leaves out {case}: {why}")
        lines = tuple(f"{case}: left out by --skip-bad ({why})" for case, why in bad.items())
        return replace(
            split, train=parts["train"], validation=parts["validation"], test=parts["test"], left_out=(*split.left_out, *lines)
        )

    def record(self) -> dict[str, Any]:
        """What a run keeps of it, plain data."""
        keys = ("level", "case", "contrast", "what")
        return {
            "forced": self.force and any(finding.level == "error" for finding in self.findings),
            "left_out": dict(self.left_out),
            "findings": [{key: getattr(finding, key) for key in keys} for finding in self.findings],
        }


def _count(errors: Sequence[Finding], word: str) -> str:
    return f"{len(errors)} {word}{'s' if len(errors) != 1 else ''}"


def _line(finding: Finding) -> str:
    """A finding in one line."""
    where = " ".join(part for part in (finding.case, finding.contrast) if part)
    return f"{where}{': ' if where else ''}{finding.what.rstrip('.')}."


def _some(errors: Sequence[Finding]) -> str:
    """The first errors in one line."""
    text = " ".join(_line(finding) for finding in errors[:MOST_ERRORS])
    return text if len(errors) <= MOST_ERRORS else f"{text} And {len(errors) - MOST_ERRORS} more."


def _stop(errors: Sequence[Finding], root: Path) -> str:
    """The message that stops a training."""
    fix = (
        f" {errors[0].fix}" if len({finding.fix for finding in errors}) == 1 else f" `synthmr audit {root}` says how to mend each."
    )
    return (
        f"the audit found {_count(errors, 'error')} in {root}: {_some(errors)}{fix} Or leave such cases out (--skip-bad), or insist"
        " (--force)."
    )
