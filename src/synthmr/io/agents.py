"""Whether a name says that a contrast agent was given: gd, post, +C, ce-gadolinium; pre, native, without contrast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from synthmr.io.tokens import Atom, is_identifier, is_image

_NO_AGENT = ("none", "no", "na", "0", "without", "pre", "precontrast", "native", "false")


@dataclass(frozen=True)
class Agent:
    """Whether a contrast agent was given: yes, no, or empty; ``weak`` where ``post`` or ``pre`` alone says so; or the doubt."""

    answer: str = ""
    weak: bool = False
    doubt: str = ""


def agent_of(stem: str, row: Sequence[Atom]) -> Agent:
    """What the name says of a contrast agent; a strong word (gd, ce, noncontrast) beats a weak one (post, pre, native)."""
    strong: dict[str, list[str]] = {"yes": [], "no": []}
    weak: dict[str, list[str]] = {"yes": [], "no": []}
    skip = -1
    bids = any(atom.entity in ("sub", "ses") for atom in row)
    for i, atom in enumerate(row):
        text = stem[atom.start : atom.end]
        near = _negated(stem, row, i)
        if near:
            strong["no"].append(stem[atom.start : row[near].end])
            skip = near
        if i <= skip:
            continue
        if atom.entity == "ce":
            strong["no" if text.lower() in _NO_AGENT else "yes"].append(f"ce-{text}")
        elif atom.role in ("agent", "native"):
            short = atom.role == "agent" and len(text) <= 3 and not bids and not atom.entity
            if short and is_identifier(row, i) and any(is_image(a) for a in row[i + 2 :]):
                return Agent(doubt=f"{text!r} is a contrast agent or a part of an identifier")
            (weak if atom.word.weak else strong)["yes" if atom.role == "agent" else "no"].append(text)
        elif atom.role == "contrast" and atom.value == "T1ce":
            strong["yes"].append(text)
        elif atom.role == "contrast" and text.lower() == "t1n":
            strong["no"].append(text)
    for found in (strong, weak):
        if found["yes"] and found["no"]:
            return Agent(doubt=f"{found['yes'][0]!r} and {found['no'][0]!r} disagree on the contrast agent")
        for answer in ("yes", "no"):
            if found[answer]:
                return Agent(answer, found is weak)
    return Agent()


def _negated(stem: str, row: Sequence[Atom], i: int) -> int:
    """The place of the agent that a ``no``, ``without`` or ``pre`` at ``i`` denies (also ``without_iv_contrast``); 0 where none."""
    if row[i].role != "no" and not (row[i].role == "native" and row[i].word.weak):
        return 0
    for k in (i + 1, i + 2):
        if k < len(row) and row[k].role == "agent" and not row[k].word.weak:
            return k if k == i + 1 or stem[row[i + 1].start : row[i + 1].end].lower() == "iv" else 0
    return 0
