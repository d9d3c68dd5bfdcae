"""`Reading`: how a folder of images is read, which every stage that opens one takes as one argument."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from synthmr.contrasts import parse_aliases
from synthmr.errors import UsageError

_KEY = re.compile(r"[A-Za-z0-9]+")


@dataclass(frozen=True)
class Reading:
    """How a folder or table of images is read. The defaults read it as it is.

    Attributes:
        aliases: ``alias=CONTRAST`` words, for file names that synthmr does not know.
        split_file: table with the columns case and split, in place of the data's own.
        subject: regular expression with the groups ``subject`` and, if wanted, ``session``; empty: persons are found by name.
        entities: BIDS entity -> the value that a file must have where several files are versions of one scan.
        prefer: words; of several versions of one scan that whose path has the word wins, an earlier word before a later one.
        nan_to_zero: read NaN outside the brain as 0; else they are an error.
    """

    aliases: tuple[str, ...] = ()
    split_file: Path | None = None
    subject: str = ""
    entities: Mapping[str, str] = field(default_factory=dict)
    prefer: tuple[str, ...] = ()
    nan_to_zero: bool = False

    def __post_init__(self) -> None:
        """Check the words.

        Raises:
            UsageError: an alias, pattern, entity or preference that makes no sense.
        """
        parse_aliases(self.aliases)
        person_pattern(self.subject)
        for key, value in self.entities.items():
            if not _KEY.fullmatch(key) or not value.strip():
                raise UsageError(f"--entity {key}={value}: write KEY=VALUE, for example --entity desc=preproc.")
        if not all(word.strip() for word in self.prefer):
            raise UsageError("--prefer '': give a word that the path of the wanted files has, for example --prefer preprocessed.")

    @classmethod
    def of(
        cls,
        alias: Iterable[str] | None = None,
        split_file: Path | None = None,
        subject: str = "",
        entity: Iterable[str] | Mapping[str, str] | None = None,
        prefer: Iterable[str] | None = None,
        nan_to_zero: bool = False,
    ) -> Reading:
        """A reading from the command line's words.

        Args:
            alias: ``alias=CONTRAST`` words.
            split_file: table with the columns case and split.
            subject: regular expression, see `Reading`.
            entity: ``key=value`` words, or a mapping.
            prefer: words, see `Reading`.
            nan_to_zero: read NaN outside the brain as 0.

        Raises:
            UsageError: a word that makes no sense, or an entity that was given two values.
        """
        entities = dict(entity) if isinstance(entity, Mapping) else _entities(entity or ())
        return cls(tuple(alias or ()), split_file, subject, entities, tuple(prefer or ()), nan_to_zero)

    @property
    def known(self) -> dict[str, str]:
        """The aliases as `synthmr.contrasts.parse_aliases` makes them."""
        return parse_aliases(self.aliases)

    @property
    def note(self) -> dict[str, Any]:
        """Plain data that say which cases are read, for notes of what a folder is of; what was not given is left out."""
        said = {
            "subject": self.subject,
            "entities": dict(self.entities),
            "prefer": list(self.prefer),
            "nan_to_zero": self.nan_to_zero,
        }
        return {"aliases": list(self.aliases)} | {key: value for key, value in said.items() if value}

    @classmethod
    def from_note(cls, note: Mapping[str, Any]) -> Reading:
        """The reading that a `note` is of; other keys are passed over."""
        given = {key: note.get(key) or () for key in ("aliases", "prefer")}
        subject, entities = str(note.get("subject") or ""), dict(note.get("entities") or {})
        return cls.of(given["aliases"], None, subject, entities, given["prefer"], bool(note.get("nan_to_zero")))

    def with_split(self, split_file: Path | None) -> Reading:
        """The same with another split file."""
        return replace(self, split_file=split_file)


def person_pattern(text: str) -> re.Pattern[str] | None:
    """The regular expression of ``--subject``; None for an empty text.

    Raises:
        UsageError: it is no regular expression, or has no group ``subject``.
    """
    if not text:
        return None
    example = "for example --subject '(?P<subject>P\\d+)/(?P<session>[^/]+)'"
    try:
        pattern = re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"--subject {text!r} is no regular expression ({error}); write {example}.") from None
    if "subject" not in pattern.groupindex:
        raise UsageError(f"--subject {text!r} has no group called subject; write {example}.")
    unknown = sorted(set(pattern.groupindex) - {"subject", "session"})
    if unknown:
        raise UsageError(f"--subject {text!r} has a group {unknown[0]!r}; allowed are subject and session, {example}.")
    return pattern


def _entities(words: Iterable[str]) -> dict[str, str]:
    """``["desc=preproc"]`` -> {"desc": "preproc"}.

    Raises:
        UsageError: a word has no ``=``, or an entity has two values.
    """
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = (part.strip() for part in word.partition("="))
        if not equals:
            raise UsageError(f"--entity {word!r} is not of the form KEY=VALUE; write for example --entity desc=preproc.")
        if found.setdefault(key, value) != value:
            raise UsageError(f"--entity {key} was given twice, as {found[key]!r} and as {value!r}; give one.")
    return found


#: a folder read as it is
AS_IT_IS = Reading()
