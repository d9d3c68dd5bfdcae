"""The capability table of `synthmr methods` and of the documentation, read off the specs.

python -m synthmr.methods.table --write     # renew the tables between the marks of README.md and docs/methods.md
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from synthmr.errors import UsageError
from synthmr.methods import registry
from synthmr.methods.source import Declared

BEGIN, END = "<!-- methods:begin -->", "<!-- methods:end -->"
#: files of the repository that hold the table
README = "README.md"
DOCUMENTS = (README, "docs/methods.md")

COLUMNS = ("name", "title", "supervision", "sources", "targets", "any subset", "dims", "presets", "paper")


def capability_rows() -> list[dict[str, Any]]:
    """One row of plain data a method; a method that cannot be loaded says why in its title.

    A module is imported only where its source does not tell, so the table of our own methods needs no torch.
    """
    rows = []
    for name in registry.available():
        try:
            rows.append(_row(name, registry.declaration(name)))
        except UsageError as error:
            rows.append({**dict.fromkeys(COLUMNS, ""), "name": name, "title": str(error)})
    return rows


def _row(name: str, method: Declared) -> dict[str, Any]:
    spec = method.spec
    return {
        "name": name,
        "title": spec.title,
        "supervision": spec.supervision,
        "sources": _span(*spec.sources),
        "targets": _span(*spec.targets),
        "any subset": spec.any_subset,
        "dims": ", ".join(f"{dim}-D" for dim in spec.dims),
        "presets": ", ".join(sorted(method.presets)),
        "paper": " ".join(part for part in (spec.paper, f"doi:{spec.doi}" if spec.doi else "") if part) or "baseline",
    }


def _span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"


def brief() -> str:
    """The same table for the README: what each method is, and whose."""
    lines = ["| name | what it is | paper |", "|---" * 3 + "|"]
    for name in registry.METHODS:
        spec = registry.declaration(name).spec
        title = spec.title.replace("|", "\\|")
        lines.append(f"| `{name}` | {title} | {spec.paper or 'baseline'} |")
    return "\n".join(lines) + "\n"


def markdown() -> str:
    """The table of our own methods for the documentation, one line each, ending in a newline."""
    lines = ["| name | what it is | sources | targets | any subset | dims | trains | paper |", "|---" * 8 + "|"]
    for name in registry.METHODS:
        method = registry.declaration(name)
        row, spec = _row(name, method), method.spec
        paper = f"[{spec.paper}](https://doi.org/{spec.doi})" if spec.doi else spec.paper or "baseline"
        subset = "yes" if spec.any_subset else "no"
        title = spec.title.replace("|", "\\|")
        cells = (f"`{name}`", title, row["sources"], row["targets"], subset, row["dims"], spec.supervision, paper)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def with_table(text: str, what: str) -> str:
    """A document with its table renewed.

    Args:
        text: the document.
        what: its name; the README has the `brief` table.

    Raises:
        UsageError: it lacks the marks, or has them more than once.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise UsageError(f"{what} needs one line {BEGIN} and below it one line {END}, between which the table of methods stands.")
    before, _, rest = text.partition(BEGIN)
    table = brief() if Path(what).name == README else markdown()
    return f"{before}{BEGIN}\n{table}{END}{rest.partition(END)[2]}"


def main(words: Sequence[str]) -> int:
    """Print the table, or with ``--write`` renew it in the documents of the repository that is the working folder."""
    if list(words) == ["--write"]:
        for document in map(Path, DOCUMENTS):
            text = document.read_text(encoding="utf-8")
            document.write_text(with_table(text, str(document)), encoding="utf-8")
        return 0
    if words:
        print("usage: python -m synthmr.methods.table [--write]", file=sys.stderr)
        return 2
    print(markdown(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
