"""The table of conventions in docs/data.md, made from the entries: ``python -m synthmr.labels.table --write`` renews it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from synthmr.errors import UsageError
from synthmr.labels.convention import Convention
from synthmr.labels.entries import conventions, get

#: around the table in the document
BEGIN, END = "<!-- conventions: made by synthmr.labels.table -->", "<!-- end of conventions -->"

DOCUMENT = Path("docs/data.md")

#: labels that are listed one by one; of more, the parts alone
MOST = 12


def markdown() -> str:
    """The table, one line a convention, ending in a newline."""
    lines = ["| convention | labels | written by |", "|---" * 3 + "|"]
    lines += [f"| `{name}` | {_labels(get(name))} | {get(name).source} |" for name in conventions()]
    return "\n".join(lines) + "\n"


def _labels(convention: Convention) -> str:
    above = {label: part for label, part in convention.labels.items() if label}
    if len(above) > MOST:
        return f"the numbers of its own table, as {', '.join(part for part in convention.parts if part != 'background')}"
    listed = [f"{label} {part}" for label, part in above.items()]
    return ", ".join([*listed, *([f"any other {convention.others}"] if convention.others else [])])


def with_table(text: str) -> str:
    """The document with its table renewed.

    Raises:
        UsageError: it lacks the marks, or has them more than once.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise UsageError(f"{DOCUMENT} needs one line {BEGIN} and below it one line {END}.")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{markdown()}{END}{rest.partition(END)[2]}"


def main(words: Sequence[str]) -> int:
    """Print the table, or with ``--write`` renew it in the document below the working folder."""
    if list(words) == ["--write"]:
        DOCUMENT.write_text(with_table(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    elif words:
        print("usage: python -m synthmr.labels.table [--write]", file=sys.stderr)
        return 2
    else:
        print(markdown(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
