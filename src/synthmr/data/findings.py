"""What the audit finds: one thing that is wrong, and a list of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from synthmr.io.naming import some

#: warnings that say the same of one contrast are listed for so many cases, then counted
KEEP = 3


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        level: error (training would be wrong) or warning.
        case: the case or cases, or empty for the whole cohort.
        contrast: the contrast or contrasts, or empty.
        what: what was found, with numbers and files.
        meaning: what it would do.
        fix: how to mend it.
        cases: the names of the cases, one by one.
    """

    level: str
    case: str
    contrast: str
    what: str
    meaning: str
    fix: str
    cases: tuple[str, ...] = ()


@dataclass
class Findings:
    """The findings so far.

    Attributes:
        list: in the order in which they were found.
    """

    list: list[Finding] = field(default_factory=list)

    def add(self, level: str, case: str | tuple[str, ...], contrast: str, what: str, meaning: str, fix: str) -> None:
        """Add one; the arguments are those of `Finding`, several cases as a tuple."""
        cases = case if isinstance(case, tuple) else (case,) if case else ()
        self.list.append(Finding(level, ", ".join(cases), contrast, what, meaning, fix, cases))


def in_order(findings: Sequence[Finding]) -> list[Finding]:
    """Errors first; equal warnings of many cases are counted instead of listed. Errors are all kept."""
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for number, finding in enumerate(sorted(findings, key=lambda finding: finding.level != "error")):
        merge = finding.level == "warning" and finding.case
        key = (finding.contrast, finding.meaning, finding.fix) if merge else (str(number),)
        groups.setdefault(key, []).append(finding)
    short: list[Finding] = []
    for alike in groups.values():
        short += alike[:KEEP] if len(alike) > KEEP + 1 else alike
        if len(alike) > KEEP + 1:
            names = some((finding.case for finding in alike[KEEP:]), 6)
            what = f"the same in {len(alike) - KEEP} more cases: {names}"
            short.append(
                replace(
                    alike[0], case="", what=what, cases=tuple(dict.fromkeys(name for each in alike[KEEP:] for name in each.cases))
                )
            )
    return short
