"""``--log-file``: what is said, with time stamps, and errors with tracebacks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from conftest import Verb
from synthmr import logfile
from synthmr.errors import UsageError

STAMP = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} "


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("place", ["before", "after", "joined"])
def test_what_is_said_is_there_with_its_time(tmp_path: Path, data: Path, verb: Verb, place: str) -> None:
    log = tmp_path / "new" / "a.log"
    option = [f"--log-file={log}"] if place == "joined" else ["--log-file", log]
    said = verb(*(option if place == "before" else ()), "index", data, *(() if place == "before" else option)).stdout
    found = lines(log)
    assert re.match(STAMP + r"INFO synthmr \S+: synthmr .*index", found[0]) and found[-1].endswith("INFO exit 0")
    text = "\n".join(re.sub(STAMP + "INFO ", "", line) for line in found)
    for line in said.splitlines():
        assert line.strip() in text, line
    assert "\x1b" not in text


def test_a_second_command_adds_to_the_file(tmp_path: Path, verb: Verb) -> None:
    for _ in range(2):
        verb("methods", "--log-file", tmp_path / "a.log")
    assert sum("INFO exit 0" in line for line in lines(tmp_path / "a.log")) == 2


def test_errors_are_there_with_their_traceback(tmp_path: Path, verb: Verb) -> None:
    told = verb("index", tmp_path / "nothing", "--log-file", tmp_path / "a.log", code=1).stderr
    text = (tmp_path / "a.log").read_text()
    assert told.count("\n") == 1 and told.partition("error: ")[2].strip() in text
    assert "Traceback (most recent call last)" in text and "DataError" in text and " ERROR " in text


def test_usage_errors_are_there(tmp_path: Path, verb: Verb) -> None:
    verb("index", "--no-such-option", "--log-file", tmp_path / "a.log", code=2)
    text = (tmp_path / "a.log").read_text()
    assert "no-such-option" in text and text.rstrip().endswith("exit 2")


def test_a_log_that_cannot_be_written_is_one_line(tmp_path: Path, verb: Verb) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "a.log", tmp_path):
        told = verb("methods", "--log-file", path, code=1).stderr
        assert "cannot be written" in told and told.count("\n") == 1


def test_words() -> None:
    assert logfile.to_front(["index", "x", "--log-file", "a", "--json"]) == ["--log-file", "a", "index", "x", "--json"]
    assert logfile.to_front(["index", "--", "--log-file"]) == ["index", "--", "--log-file"]
    assert logfile.to_front([]) == []
    for words in (["index", "--log-file"], ["--log-file", "--json"], ["--log-file="], ["--log-file", "a", "--log-file", "b"]):
        with pytest.raises(UsageError, match="--log-file"):
            logfile.to_front(words)
