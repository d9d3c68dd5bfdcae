"""A file name as a row of atoms: what each of its words says, where it stands, and in which BIDS entity."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from synthmr.contrasts import MASK, SEGMENTATION, squeeze
from synthmr.io.words import LEADING, PARTS, WORDS, Word

_TOKEN = re.compile(r"\+|[^-_. +()\[\]{},;&=]+")
_ALIAS_TOKEN = re.compile(r"[^-_. ]+")

#: entities of BIDS; the values of the first kind are names of their own, those of the second hold words
_OPAQUE = (
    "sub|ses|run|echo|flip|part|space|res|den|hemi|task|dir|from|to|mode|split|chunk|sample|trc|stain|recording|atlas|seg|tpl|"
    "cohort|model|subset|mt|index|nuc|voi|tracksys|scale|roi"
)
_ENTITY = re.compile(
    rf"(?:^|(?<=_))(?:(?P<opaque>{_OPAQUE})|(?P<open>acq|ce|rec|desc|label|mod|inv))-(?P<value>[A-Za-z0-9+]+)(?=_|$)"
)

#: letters that SPM puts before the name of what it resliced (r), normalised (w), bias-corrected (m), smoothed (s), ...
_SPM = re.compile(r"^(?:[rwmsub]{1,3}|mw|wm|br|k)(?=(?i:(?:t1|t2|flair|pd|mprage)(?:$|[^a-z]|w)))")

#: files of SPM and CAT12 that are tissue maps or deformations: c1T1, wc2sub-01_T1w, mwp1T1, y_T1
_SPM_TISSUE = re.compile(
    r"^(?!mp2rage)(?:(?:s\d{0,2})?(?:r|m|w|mw|m0w|rw)(?:c|p|rp)[0-6](?=[a-z_-])|[cp][0-6](?=t[12]|sub|flair|mprage|anat|mri|img|iso|ixi|oas|adni))",
    re.IGNORECASE,
)
_SPM_FIELD = re.compile(r"^(?:i?y|u_rc1|v)_(?=\w)", re.IGNORECASE)

_LONGEST_RUN = 4


@dataclass(frozen=True, slots=True)
class Atom:
    """One word of a name.

    Attributes:
        word: what it says; its role is ``unknown`` for a word without meaning here, ``number`` for digits alone.
        start: first character in the name.
        end: behind its last character.
        entity: BIDS entity that it is the value of, or empty.
        user: an alias of the user.
    """

    word: Word
    start: int
    end: int
    entity: str = ""
    user: bool = False

    @property
    def role(self) -> str:
        return self.word.role

    @property
    def value(self) -> str:
        return self.word.value


_UNKNOWN, _NUMBER, _PLUS = Word("unknown"), Word("number"), Word("agent", "+")


def atoms(stem: str, aliases: Mapping[str, str] | None = None) -> list[Atom]:
    """The words of ``stem`` in order. Runs that the user gave an alias for come out as one atom each."""
    out = _atoms(stem)
    mine = list(_of_user(stem, aliases)) if aliases else []
    if not mine:
        return list(out)
    kept = [atom for atom in out if not any(own.start < atom.end and atom.start < own.end for own in mine)]
    return sorted([*kept, *mine], key=lambda atom: atom.start)


@lru_cache(maxsize=4096)
def _atoms(stem: str) -> tuple[Atom, ...]:
    """`atoms` without aliases; a name is looked at several times in a row."""
    out: list[Atom] = []
    position = 0
    for match in _ENTITY.finditer(stem):
        out += _plain(stem, position, match.start(), "")
        if match["opaque"]:
            out.append(_opaque(match))
        else:
            key = match["open"]
            words = _plain(stem, match.start("value"), match.end("value"), key)
            out += [Atom(Word("inv", "an inversion image of MP2RAGE"), match.start(), match.end(), key)] if key == "inv" else words
        position = match.end()
    out += _plain(stem, position, len(stem), "")
    return tuple(out)


def words_of(stem: str) -> list[str]:
    """The words of a name as an alias sees them: parted by ``-``, ``_``, ``.`` and space."""
    return _ALIAS_TOKEN.findall(stem)


def _opaque(match: re.Match[str]) -> Atom:
    """An entity whose value is no word of ours; a few say what the file is."""
    key, value = match["opaque"].lower(), match["value"].lower()
    word = Word("entity")
    if key == "part" and value in ("phase", "real", "imag"):
        word = Word("derived", "a phase image")
    elif key == "echo" and value in ("1", "2"):
        word = Word("echo", value)
    elif key == "atlas" or (key == "seg" and value not in ("lesion", "tumor")):
        word = Word("tissue", "always")
    elif key == "tpl":
        word = Word("derived", "a template")
    return Atom(word, match.start(), match.end(), key)


def _of_user(stem: str, aliases: Mapping[str, str]) -> Iterator[Atom]:
    """The runs of ``stem`` that the user's aliases name; of two that overlap the longer, then the later one."""
    words = [*_ALIAS_TOKEN.finditer(stem), *_TOKEN.finditer(stem)]
    ends = sorted({match.end() for match in words})
    runs = []
    for start in sorted({match.start() for match in words}):
        for end in ends:
            contrast = aliases.get(squeeze(stem[start:end])) if end > start else None
            if contrast is not None:
                runs.append((end - start, start, end, contrast))
    taken: list[tuple[int, int]] = []
    for _, start, end, contrast in sorted(runs, reverse=True):
        if all(end <= other or start >= behind for other, behind in taken):
            taken.append((start, end))
            yield Atom(Word("contrast", contrast), start, end, user=True)


def _plain(stem: str, first: int, last: int, entity: str) -> list[Atom]:
    """The atoms between two positions; the longest run of tokens that is one word comes first."""
    tokens = list(_TOKEN.finditer(stem, first, last))
    out: list[Atom] = []
    i = 0
    while i < len(tokens):
        for size in range(min(_LONGEST_RUN, len(tokens) - i), 1, -1):
            start, end = tokens[i].start(), tokens[i + size - 1].end()
            text = stem[start:end]
            word = WORDS.get(squeeze(text))
            if word is not None and _is_run(word, text):
                out.append(Atom(word, start, end, entity))
                i += size
                break
        else:
            out += _single(stem, tokens, i, entity)
            i += 1
    return out


def _is_run(word: Word, text: str) -> bool:
    """Whether words that are written apart are one: not ``T1`` and ``C`` (an agent), which are read one by one."""
    return not (
        word.role == "other" or word.value == "T1ce" or "+" in text or re.match(r"^(reg|mr)[-_. ]|[-_. ]reg$", text, re.IGNORECASE)
    )


def _single(stem: str, tokens: list[re.Match[str]], i: int, entity: str) -> list[Atom]:
    """The atoms of one token; a plus sign is an agent where nothing but an agent or the name's end follows."""
    token = tokens[i]
    text = token[0].lower()
    if text == "+":
        following = tokens[i + 1][0].lower() if i + 1 < len(tokens) and tokens[i + 1].start() == token.end() else ""
        if following in ("c", "ce", "gd", "gad", "km", "contrast") or not following:
            return [Atom(_PLUS, token.start(), token.end(), entity)]
        return []
    if text == "c":
        return [Atom(_letter_c(stem, tokens, i), token.start(), token.end(), entity)]
    if text.isdigit() and text != "2":
        return [Atom(_NUMBER, token.start(), token.end(), entity)]
    if i == 0 and token.start() == 0:
        prefix = _SPM.match(token[0])
        if prefix is not None and text not in WORDS:
            inner = _split(text[prefix.end() :])
            if inner is not None:
                return [Atom(word, prefix.end() + a if a else 0, prefix.end() + b, entity) for word, a, b in inner]
    parts = _split(text)
    if parts is None:
        return [Atom(_UNKNOWN, token.start(), token.end(), entity)]
    return [Atom(word, token.start() + a, token.start() + b, entity) for word, a, b in parts]


def _letter_c(stem: str, tokens: list[re.Match[str]], i: int) -> Word:
    """``c`` is an agent beside T1 (T1_C, T1+C, C+), none in ``T1_C-``, and else a letter."""
    token = tokens[i]
    before = tokens[i - 1] if i else None
    after = stem[token.end() : token.end() + 1]
    if after == "-" and stem[token.end() + 1 : token.end() + 2] in ("", "_", ".", " "):
        return Word("native")
    if after == "+" or (before is not None and (before[0] == "+" or before[0].lower().startswith(("t1", "mprage", "w", "wo")))):
        return Word("agent", "c")
    return _UNKNOWN


@lru_cache(maxsize=65536)
def _split(token: str) -> tuple[tuple[Word, int, int], ...] | None:
    """A token as one word, or as the fewest words that fill it (T1Gd, flair2t1) if an image, label or agent is among them."""
    if token in WORDS:
        return ((WORDS[token], 0, len(token)),)
    again = re.match(r"^([a-z0-9]*[a-z]{4,})\d{1,2}$", token)  # FLAIR2, MPRAGE1
    if again is not None and again[1] in WORDS and WORDS[again[1]].role in ("contrast", "implied"):
        return ((WORDS[again[1]], 0, len(token)),)
    if len(token) > 48 or len(token) < 4 or not any(key in token for key in _SEEDS):
        return None
    best: list[tuple[tuple[Word, int, int], ...] | None] = [()] + [None] * len(token)
    for end in range(1, len(token) + 1):
        for start in range(max(0, end - 26), end):
            head = best[start]
            word = PARTS.get(token[start:end])
            if head is None or word is None or (word.role == "two" and (not start or end == len(token))):
                continue
            if best[end] is None or len(head) + 1 < len(best[end] or ()):
                best[end] = (*head, (word, start, end))
    found = best[-1]
    if found is None or not any(word.role in _MEANT for word, _, _ in found) or _is_chance(token, found):
        return None
    return found


def _is_chance(token: str, parts: tuple[tuple[Word, int, int], ...]) -> bool:
    """Whether words fill a token by chance: set1, int1, PDGM."""
    roles = [word.role for word, _, _ in parts]
    first = token[: parts[0][2]]
    linked = {"to", "two", "reg", "in", "space"} & set(roles)
    return (
        (roles[0] == "neutral" and first not in LEADING)
        or (roles[0] == "in" and "space" not in roles)
        or (any(token[a:b] == "pd" for _, a, b in parts) and not linked)
    )


#: a token that holds none of these is not taken apart
_SEEDS = (
    "t1", "t2", "flair", "pd", "mprage", "mask", "seg", "lesion", "tumo", "gd", "gad", "contrast", "post", "pre", "adc", "dwi",
    "swi", "fluid", "spgr", "label", "space",
)  # fmt: skip
_MEANT = {"contrast", "implied", "label", "lesion", "agent", "synthetic", "space"}


def spm_product(stem: str) -> str:
    """What SPM or CAT12 wrote, where the name begins as theirs do: a tissue map, a deformation; else empty."""
    if _SPM_TISSUE.match(stem):
        return "a tissue map of SPM or CAT12"
    if _SPM_FIELD.match(stem):
        return "a deformation of SPM"
    return ""


def is_image(atom: Atom) -> bool:
    """Whether a word names the weighting of an image, or a sequence that stands for one."""
    return atom.role in ("contrast", "implied", "dual") and atom.value not in (SEGMENTATION, MASK)


def is_identifier(row: Sequence[Atom], i: int) -> bool:
    """Whether a word that may be a group or an initial is followed by a number, as in ``PD_001_T1``, or begins the name."""
    return i + 1 < len(row) and row[i + 1].role == "number"
