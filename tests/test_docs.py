"""README.md and docs/: commands, options, settings, links and files that they name exist, and the README is short."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

import synthmr
from synthmr import config
from synthmr.cli import app
from synthmr.methods import registry

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))
SECTIONS = {
    "prepare": config.PrepareConfig,
    "sample": config.SampleConfig,
    "augment": config.AugmentConfig,
    "train": config.TrainConfig,
}
#: what typer raises for words that a command does not take; newer versions hold a Click of their own
WrongUsage = typer.BadParameter.__mro__[1]
#: words of a command line that stand for something else: an option that may be left out, a choice, a part that is not shown
ABRIDGED = re.compile(r"\[|\]|\||\.\.\.")

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


# --- reading a page -------------------------------------------------------------------------------------------------------


def code_lines(text: str) -> list[str]:
    """Lines of code blocks (indented or fenced, Python aside), joined where a backslash continues them, without comments."""
    text = re.sub(r"```python\n.*?```", "", text, flags=re.DOTALL)
    blocks = re.findall(r"```\w*\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    plain = re.sub(r"```.*?```", "", text, flags=re.DOTALL).replace("\\\n", " ")
    lines += [line.strip() for line in plain.splitlines() if line.startswith("    ")]
    return [re.sub(r"\s+#.*", "", line) for line in lines]


def spans(text: str) -> list[str]:
    """What stands between backticks in running text."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    running = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", running)]


def python_blocks(text: str) -> list[str]:
    """Code of the Python blocks."""
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def words_of(line: str) -> list[str]:
    """A command line's words, up to a redirection, without the name of the program."""
    words = shlex.split(re.sub(r"[\[\]]|\.\.\.", " ", line))
    ends = [place for place, word in enumerate(words) if word in (">", "|", "&&")]
    return words[1 : ends[0] if ends else None]


def commands(text: str) -> Iterator[tuple[str, bool]]:
    """Every ``synthmr ...`` of a page, and whether it is a whole line of code."""
    yield from ((line, True) for line in code_lines(text) if line.startswith("synthmr "))
    yield from ((span, False) for span in spans(text) if span.startswith("synthmr "))


# --- the command line -----------------------------------------------------------------------------------------------------


def leaf(words: list[str]) -> tuple[TyperCommand | TyperGroup, list[str]]:
    """The command that the words name, and the words behind its name."""
    command = typer.main.get_command(app)
    while isinstance(command, TyperGroup) and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"there is no verb {words[0]!r} of {', '.join(command.commands)}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


def options_of(command: Any) -> set[str]:
    """Every spelling of a command's options."""
    found = {"-h", "--help"}
    for parameter in command.params:
        if isinstance(parameter, TyperOption):
            found |= {*parameter.opts, *parameter.secondary_opts}
    return found


def all_options(command: Any) -> set[str]:
    """Every spelling of the options of a command and all below it."""
    below = command.commands.values() if isinstance(command, TyperGroup) else ()
    return options_of(command).union(*map(all_options, below))


@pytest.fixture(scope="module")
def every_option() -> set[str]:
    return all_options(typer.main.get_command(app))


@pages
def test_every_command_that_a_page_shows_is_one(page: Path) -> None:
    for line, whole in commands(page.read_text(encoding="utf-8")):
        command, rest = leaf(words_of(line))
        wrong = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)} - options_of(command)
        assert not wrong, f"`{line}`: {command.name} has no {', '.join(sorted(wrong))}"
        if whole and not ABRIDGED.search(line):
            try:
                command.make_context(command.name, rest)
            except WrongUsage as error:
                pytest.fail(f"`{line}`: {error.format_message()}")


@pages
def test_every_option_that_is_named_alone_exists(page: Path, every_option: set[str]) -> None:
    named = {word for span in spans(page.read_text(encoding="utf-8")) for word in re.findall(r"^--[a-z][a-z-]*", span)}
    assert named <= every_option, named - every_option


def test_wrong_commands_would_be_found() -> None:
    text = "    synthmr tran x\n\n    synthmr index D \\\n      --jsn    # JSON\n\n"
    text += "`synthmr audit\nD --fix`\n\n```python\nsynthmr x\n```\n"
    assert [(line.split(), whole) for line, whole in commands(text)] == [
        (["synthmr", "tran", "x"], True),
        (["synthmr", "index", "D", "--jsn"], True),
        (["synthmr", "audit", "D", "--fix"], False),
    ]
    with pytest.raises(AssertionError, match="no verb 'tran'"):
        leaf(["tran", "hinet"])
    command, rest = leaf(words_of("synthmr experiment run NAME [DATA] --out O > x"))
    assert command.name == "run" and rest == ["NAME", "DATA", "--out", "O"]
    assert "--out" in options_of(command) and "--jsn" not in options_of(command)
    with pytest.raises(WrongUsage):
        leaf(["train"])[0].make_context("train", ["hinet", "DATA"])  # without what it needs


# --- settings and Python --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys() -> dict[str, set[str]]:
    """Section -> the names of its values; of all methods for ``options``."""
    found = {name: {field.name for field in dataclasses.fields(section)} for name, section in SECTIONS.items()}
    classes = [registry.load(name).Options for name in registry.METHODS]
    return found | {"options": {field.name for each in classes for field in dataclasses.fields(each)}}


@pages
def test_every_setting_that_a_page_names_exists(page: Path, keys: dict[str, set[str]]) -> None:
    text = page.read_text(encoding="utf-8")
    code = [*code_lines(text), *spans(text)]
    dotted = {match for line in code for match in re.findall(rf"(?<![\w./])({'|'.join(keys)})\.([a-z_0-9]+)(?![\w/(])", line)}
    wrong = {f"{section}.{name}" for section, name in dotted if name not in keys[section]}
    short = {name for line in code for name in re.findall(r"--set ([a-z_]+)=", line)} - {"key"}  # --set key=value
    wrong |= {name for name in short if not any(name in names for names in keys.values())}
    assert not wrong, wrong


@pages
def test_what_python_blocks_take_from_synthmr_is_there(page: Path) -> None:
    for block in python_blocks(page.read_text(encoding="utf-8")):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "synthmr":
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "synthmr":
                assert hasattr(synthmr, node.attr), f"synthmr has no {node.attr}"


# --- links and files ------------------------------------------------------------------------------------------------------


def links(page: Path) -> list[tuple[Path, str]]:
    """Relative links of a page: the file, and the heading behind #."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    text = re.sub(r"`[^`]*`", "", "\n".join(line for line in text.splitlines() if not line.startswith("    ")))
    found = re.findall(r"\]\(([^)\s]+)\)", text)
    parts = [target.partition("#") for target in found if not re.match(r"[a-z]+:", target)]
    return [((page.parent / file).resolve() if file else page, heading) for file, _, heading in parts]


def anchors(page: Path) -> set[str]:
    """What a heading is called in a link, as public hosts make it."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pages
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for file, heading in links(page):
        assert file.is_file(), f"{page.name} links to {file.name}, which is not there"
        assert not heading or heading in anchors(file), f"{page.name} links to #{heading} of {file.name}: {sorted(anchors(file))}"


def test_every_page_is_reached_from_the_readme() -> None:
    reached, todo = {README}, [README]
    while todo:
        new = {file for file, _ in links(todo.pop()) if file.suffix == ".md" and file.is_file()} - reached
        reached |= new
        todo += new
    assert set(PAGES) <= reached, [page.name for page in PAGES if page not in reached]


@pages
def test_scripts_and_their_outputs_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    code = [*code_lines(text), *spans(text)]
    for name in {match for line in code for match in re.findall(r"\bbenchmarks/[\w./*-]+\w", line)}:
        assert list(ROOT.glob(name)), f"{page.name} names {name}, which is not there"
    for line in code:
        for script, rest in re.findall(r"python (benchmarks/\w+\.py)(.*)", line):
            options = re.findall(r"--[a-z][a-z-]*", rest)
            source = (ROOT / script).read_text(encoding="utf-8")
            assert all(f'"{option}"' in source for option in options), f"{script} has not all of {options}"


# --- the README -----------------------------------------------------------------------------------------------------------


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").split()) <= 600


def test_what_the_readme_makes_can_be_made() -> None:
    made = re.findall(r"^make (\w+)", "\n".join(code_lines(README.read_text(encoding="utf-8"))), flags=re.MULTILINE)
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert made and set(made) <= set(targets), set(made) - set(targets)
