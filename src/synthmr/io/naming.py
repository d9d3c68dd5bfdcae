"""What file and folder names say: contrast, subject, session; and the list of what was passed over."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from synthmr.contrasts import canonical

_TOKEN = re.compile(r"[^-_. ]+")

#: folder names of one session of the subject that their parent folder is
_SESSION = re.compile(
    r"^(ses|session|visit|tp|time|timepoint|study|scan|day|week|month|year|wk|mo)[-_ ]?\d+$|^(baseline|follow[-_ ]?up[-_ ]?\d*)$",
    re.IGNORECASE,
)

#: case names whose tail is a time point: BraTS 2023 and later, UPENN-GBM, BIDS sessions
_TIME_POINTS = (
    re.compile(r"^(BraTS-[A-Za-z]+-\d+)-\d{3}$", re.IGNORECASE),
    re.compile(r"^(UPENN-GBM-\d+)_\d{2}$", re.IGNORECASE),
    re.compile(r"^(sub-[A-Za-z0-9]+)_ses-.+$"),
)

#: words of a name that mark our own (or another program's) synthetic volumes
_SYNTHETIC = {"synth", "synthetic", "synthesised", "synthesized"}

#: BIDS ``part-`` entities that are no magnitude image
_PARTS = re.compile(r"(?:^|_)part-(phase|real|imag)(?:_|$)")
_RUN = re.compile(r"(?:^|[-_. ])run-?(\d+)(?=[-_. ]|$)", re.IGNORECASE)
_BIDS_CE = re.compile(r"(?:^|_)ce-([A-Za-z0-9]+)(?=_)")


@dataclass(frozen=True)
class Name:
    """A file name taken apart: ``sub-12_study1_T1W_brain`` has prefix ``sub-12_study1``, word ``T1W``, tail ``brain``.

    Attributes:
        contrast: canonical name (or segmentation, mask).
        prefix: what stands before the contrast's word.
        word: the contrast as written.
        tail: what stands after it.
    """

    contrast: str
    prefix: str
    word: str
    tail: str


def parse_name(stem: str, aliases: Mapping[str, str] | None = None) -> Name | None:
    """Find the last word (or run of words, the longest first) of a file name that names a contrast; None if none does.

    A ``ce-`` entity (BIDS: contrast enhancing agent) makes a T1w a T1ce.
    """
    tokens = list(_TOKEN.finditer(stem))
    for end in range(len(tokens), 0, -1):
        for start in range(end):
            first, last = tokens[start].start(), tokens[end - 1].end()
            contrast = canonical(stem[first:last], aliases)
            if contrast is None:
                continue
            agent = _BIDS_CE.search(stem[:first])
            if contrast == "T1w" and agent and agent[1].lower() != "none":
                contrast = "T1ce"
            return Name(contrast, stem[:first].strip("-_. "), stem[first:last], stem[last:].strip("-_. "))
    return None


def is_session(folder: str) -> bool:
    """Whether a folder name means one session of the subject that its parent folder is."""
    return bool(_SESSION.match(folder))


def subject_of(case: str) -> str:
    """The subject that a case name belongs to: the name itself, without a time point where the data set writes one."""
    for pattern in _TIME_POINTS:
        match = pattern.match(case)
        if match:
            return match[1]
    return case


def is_synthetic(stem: str) -> bool:
    """Whether a file name says that the volume is synthetic; such files never count as acquired images."""
    return bool(_SYNTHETIC & {token.lower() for token in re.split(r"[-_. ]+", stem)})


def is_phase(stem: str) -> bool:
    """Whether a BIDS name says that the file is no magnitude image."""
    return bool(_PARTS.search(stem))


def run_number(stem: str) -> int | None:
    """The number of a ``run-2`` entity, or None."""
    match = _RUN.search(stem)
    return int(match[1]) if match else None


def without_run(stem: str) -> str:
    """The name without its ``run-2`` entity."""
    return _RUN.sub("", stem)


def one_line(text: str) -> str:
    """A text as one line that any terminal shows: control characters and halves of characters are escaped."""
    return "".join(each if each.isprintable() or each == " " else each.encode("unicode_escape").decode() for each in text)


@dataclass
class Problems:
    """Lines about what was passed over; of one kind only the first few are kept word for word."""

    keep: int = 5
    _lines: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, line: str) -> None:
        """Note ``line``; lines of the same ``kind`` are counted together. What breaks a line in a file's name is escaped."""
        self._lines.setdefault(kind, []).append(one_line(line))

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
