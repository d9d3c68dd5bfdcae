"""What file and folder names say: contrast, subject, session; and the list of what was passed over."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from synthmr.errors import one_line
from synthmr.io.folder_words import is_session, subject_of
from synthmr.io.grammar import Name, is_synthetic, parse_name

__all__ = [
    "Name",
    "Problems",
    "choose",
    "is_session",
    "is_synthetic",
    "parse_name",
    "run_number",
    "some",
    "subject_of",
    "without_run",
]


_RUN = re.compile(r"(?:^|[-_. ])run-?(\d+)(?=[-_. ]|$)", re.IGNORECASE)


def run_number(stem: str) -> int | None:
    """The number of a ``run-2`` entity, or None."""
    match = _RUN.search(stem)
    return int(match[1]) if match else None


def without_run(stem: str) -> str:
    """The name without its ``run-2`` entity."""
    return _RUN.sub("", stem)


@dataclass
class Problems:
    """Lines about what was passed over; of one kind only the first few are kept word for word."""

    keep: int = 5
    passed_over: list[tuple[Path, str]] = field(default_factory=list)
    _lines: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, line: str) -> None:
        """Note ``line``; lines of the same ``kind`` are counted together. What breaks a line in a file's name is escaped."""
        self._lines.setdefault(kind, []).append(one_line(line))

    def pass_over(self, path: Path, why: str) -> None:
        """Note a file that is not taken; `synthmr.io.index.index` gives it to the case that it lies beside."""
        self.passed_over.append((path, why))

    def lines(self) -> tuple[str, ...]:
        """All kinds in order of first appearance."""
        out: list[str] = []
        for kind, lines in self._lines.items():
            out += lines[: self.keep]
            if len(lines) > self.keep:
                out.append(f"... and {len(lines) - self.keep} more of this kind ({kind}).")
        return tuple(out)


def some(names: Iterable[object], most: int = 3) -> str:
    """``a, b, c and 4 more``."""
    words = [str(name) for name in names]
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


def choose(files: Sequence[tuple[Path, Name]], stems: Sequence[str]) -> tuple[int | None, str]:
    """Choose between several files for one contrast of one case.

    Taken without doubt, in this order: the compressed one of two files that differ in .nii and .nii.gz; the lowest
    run of one acquisition; the one with nothing behind its contrast word (``T1.nii.gz`` before ``T1_brain.nii.gz``).
    Everything else is a guess, and not made.

    Returns:
        (index into ``files`` or None, why).
    """
    if len(set(stems)) == 1:
        return next((i for i, (path, _) in enumerate(files) if path.name.lower().endswith(".gz")), 0), "the .nii.gz is used"
    if len({without_run(stem) for stem in stems}) == 1:
        return min(range(len(files)), key=lambda i: run_number(stems[i]) or 0), "the lowest run is used"
    plain = [i for i, (_, name) in enumerate(files) if not name.tail]
    if len(plain) == 1:
        return plain[0], "the plain name is used"
    return None, "none is used, because it would be a guess"
