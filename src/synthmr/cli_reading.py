"""The options that say how a folder is read, for every verb that reads one: `reads` gives a verb all of them at once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from synthmr.reading import Reading

Data = Annotated[Path, typer.Argument(help="Folder of cases (BraTS, BIDS, subject/CONTRAST.nii.gz) or a CSV/TSV table.")]

_OPTIONS: dict[str, tuple[Any, Any]] = {
    "alias": (Annotated[list[str] | None, typer.Option("--alias", help="alias=CONTRAST; may be repeated.")], None),
    "split_file": (Annotated[Path | None, typer.Option("--split-file", help="TSV with columns case, split.")], None),
    "subject": (
        Annotated[
            str,
            typer.Option(
                "--subject",
                help="Regular expression with the groups subject and, if wanted, session; searched for in each path below DATA.",
            ),
        ],
        "",
    ),
    "entity": (
        Annotated[
            list[str] | None,
            typer.Option("--entity", help="KEY=VALUE of the BIDS names to use, such as desc=preproc; may be repeated."),
        ],
        None,
    ),
    "prefer": (
        Annotated[
            list[str] | None,
            typer.Option("--prefer", help="Of several versions of a scan, use that whose path has this word; may be repeated."),
        ],
        None,
    ),
    "nan_to_zero": (
        Annotated[
            bool, typer.Option("--nan-to-zero", help="Read NaN outside the brain as 0; inside the brain they stay an error.")
        ],
        False,
    ),
}


def reads(split_file: bool = True) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb the options of a `Reading` in place of its parameter ``reading``.

    Args:
        split_file: whether ``--split-file`` is one of them.
    """

    def change(verb: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(verb, eval_str=True)
        options = {name: option for name, option in _OPTIONS.items() if split_file or name != "split_file"}
        parameters: list[inspect.Parameter] = []
        for parameter in signature.parameters.values():
            if parameter.name == "reading":
                parameters += [
                    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
                    for name, (kind, default) in options.items()
                ]
            else:
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

        @wraps(verb)
        def changed(**given: Any) -> None:
            words = {name: given.pop(name) for name in options}
            verb(**given, reading=Reading.of(**words))

        changed.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        changed.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return changed

    return change
