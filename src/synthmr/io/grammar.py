"""What an image is, read from its name by grammar: weighting, contrast agent, target space, label, derived, synthetic.

A name is read as a radiographer would read it, not by its last known word: what follows ``to``, ``reg``, ``in`` or ``space`` is the
space that an image was brought to; a word for a contrast agent beside a T1 word makes T1ce; a mask of T1 is a mask. More than
one contrast outside the patterns below is a question, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from synthmr.contrasts import MASK, SEGMENTATION
from synthmr.io.agents import agent_of
from synthmr.io.tokens import Atom, atoms, is_identifier, is_image, spm_product

_LABELS = (SEGMENTATION, MASK)
_T1 = ("T1w", "T1ce")


@dataclass(frozen=True)
class Name:
    """A file name taken apart: ``sub-12_study1_T1W_brain`` has prefix ``sub-12_study1``, word ``T1W``, tail ``brain``.

    Attributes:
        contrast: canonical name (or segmentation, mask).
        prefix: what stands before the contrast's word.
        word: the contrast as written.
        tail: what stands after it.
        why: which words said so.
    """

    contrast: str
    prefix: str
    word: str
    tail: str
    why: str = ""


@dataclass(frozen=True)
class Meaning:
    """What a name says of a file.

    Attributes:
        kind: ``named`` (``name`` is known), ``derived`` (no acquired image), ``asked`` (a question to the user) or ``unknown``.
        why: a phrase: which words said so, or what is in doubt.
        name: the name taken apart, where the kind is ``named``.
        ask: the word that ``--alias WORD=CONTRAST`` would settle, where there is one.
        options: contrasts that the answer may be, the likelier first.
        explicit: the name itself says whether an agent was given, or the user's alias says what the file is.
        by_post: it is T1ce for the word ``post`` alone.
        user: an alias of the user decided.
    """

    kind: str
    why: str = ""
    name: Name | None = None
    ask: str = ""
    options: tuple[str, ...] = ()
    explicit: bool = False
    by_post: bool = False
    user: bool = False


def read(stem: str, aliases: Mapping[str, str] | None = None, synthetic: bool = False) -> Meaning:
    """What a file name says.

    Args:
        stem: the name without its suffix; its folders are not read.
        aliases: further contrast names, from `synthmr.contrasts.parse_aliases`; they win over every other word.
        synthetic: True reads a synthetic image by what it shows; False says that it is no acquired image.
    """
    row = atoms(stem, aliases)
    mine = any(atom.user for atom in row)
    if not synthetic and any(atom.role == "synthetic" for atom in row):
        return Meaning("derived", "synthetic")
    product = spm_product(stem)
    if product and not mine:
        return Meaning("derived", product)
    row = _without_target(stem, row)
    label = _label(stem, row)
    if label is not None:
        return label
    derived = _derived(stem, row, mine)
    if derived is not None:
        return derived
    return _image(stem, row)


def parse_name(stem: str, aliases: Mapping[str, str] | None = None) -> Name | None:
    """A file name taken apart; None where it names no contrast, is in doubt, or is no image (a map, a difference, a tissue).

    A synthetic image is read by what it shows; `is_synthetic` tells it apart.
    """
    return read(stem, aliases, synthetic=True).name


def is_synthetic(stem: str) -> bool:
    """Whether a file name says that the volume is synthetic; such files never count as acquired images."""
    return any(atom.role == "synthetic" for atom in atoms(stem))


def is_bare(name: Name) -> bool:
    """Whether nothing but numbers and scanner words stands around the contrast: ``7_t2_tirm_tra_dark-fluid``, not ``IXI-T1``."""
    rest = [atom.role for part in (name.prefix, name.tail) for atom in atoms(part)]
    return all(role in ("number", "neutral", "two", "place", "entity", "time") for role in rest)


# --- target spaces ------------------------------------------------------------------------------------------------


def _without_target(stem: str, row: Sequence[Atom]) -> list[Atom]:
    """The atoms without those that name the space that the image lies in."""
    out = list(row)
    for i, atom in enumerate(out):
        before = [a for a in out[:i] if is_image(a)]
        after = [k for k in range(i + 1, len(out)) if is_image(out[k])]
        if atom.role == "space" or (atom.role == "place" and "space" in stem[atom.start : atom.end].lower()):
            return _space(stem, out, i, before, after)
        linked = atom.role in ("to", "reg", "in") or (
            atom.role == "two" and i + 1 < len(out) and (is_image(out[i + 1]) or out[i + 1].role == "place")
        )
        if not linked:
            continue
        if (before or _is_other(out, i)) and after:
            return [a for k, a in enumerate(out) if k < i or (k > i and a.role not in _OF_TARGET)]
        if not before and len(after) > 1 and atom.role in ("to", "in"):  # to_T1_FLAIR
            cut = {k for k in range(i, after[1]) if k == after[0] or out[k].role in ("space", "to", "in", "reg")}
            return [a for k, a in enumerate(out) if k not in cut]
    return out


def _is_other(row: Sequence[Atom], i: int) -> bool:
    """Whether an image that is none of ours stands before the link at ``i``: ``CT_to_T1``, ``bold2T1``, ``PET_reg_T1``.

    The word before ``to`` is the image, whatever it is; before ``reg``, ``2`` and ``on`` it may be the person (``p1_reg_T1``).
    """
    if not i:
        return False
    if row[i].role == "to":
        return True
    touching = row[i].role == "two" and row[i - 1].end == row[i].start
    return touching or any(atom.role in ("other", "place", "modality") for atom in row[:i])


#: roles that belong to the target where they follow a link
_OF_TARGET = ("contrast", "implied", "dual", "agent", "native", "tirm", "brain", "space", "place", "unknown", "number", "no")


def _space(stem: str, row: list[Atom], i: int, before: list[Atom], after: list[int]) -> list[Atom]:
    """``FLAIR_T1_space``, ``T1_in_FLAIR_space``, ``FLAIR_space_T1``; SPACE is a sequence as well: ``t2_space_flair``."""
    values = {a.value for a in before}
    link = next((k for k in range(i) if row[k].role in ("to", "reg", "in", "two")), None)
    if (
        link
        and not any(is_image(a) for a in row[:link])
        and before
        and not after
        and row[link - 1].role not in ("number", "entity")
    ):
        return [a for a in row if not is_image(a)]  # FA_in_T1_space
    if link is not None and any(is_image(a) for a in row[:link]):
        return [a for k, a in enumerate(row) if k < link or (k > i and a.role not in ("number",))]
    if link is not None and after:  # in_T1_space_FLAIR
        return row[:link] + row[i + 1 :]
    if len(before) > 1 and before[-1].end >= row[i - 1].end:
        pair = (before[-2].value, before[-1].value)
        if pair == ("T2w", "FLAIR"):
            return row  # T2 FLAIR by the SPACE sequence, or T2 in the space of FLAIR: asked
        if pair == ("FLAIR", "T2w") or pair[0] == pair[1]:
            return row[:i] + row[i + 1 :]
        return [a for a in row if a is not before[-1] and a is not row[i]]
    if before and "FLAIR" in values and _is_t2_flair(stem, before[-1]) and not any(a.role == "neutral" for a in row):
        return row
    if len(before) == 1 and after and values not in ({"T2w"}, {"T1w"}, {"PDw"}):
        return row[:i] + [a for k, a in enumerate(row[i + 1 :], i + 1) if k not in after]
    if len(before) == 1 and not after and i and before[0].end == row[i].start:
        return row  # T1space alone: asked
    return row[:i] + row[i + 1 :] if len(before) < 2 else row


def _is_t2_flair(stem: str, atom: Atom) -> bool:
    """Whether one atom is T2 and FLAIR written apart, so that ``T2_FLAIR_space`` may be T2 in the space of FLAIR."""
    return bool(re.match(r"^t2w?[-_. ]flair$", stem[atom.start : atom.end], re.IGNORECASE))


# --- labels and derived images --------------------------------------------------------------------------------------


def _named(
    stem: str, contrast: str, start: int, end: int, why: str, explicit: bool = False, by_post: bool = False, user: bool = False
) -> Meaning:
    name = Name(contrast, stem[:start].strip("-_. +"), stem[start:end], stem[end:].strip("-_. "), why)
    return Meaning("named", why, name, explicit=explicit, by_post=by_post, user=user)


def _label(stem: str, row: Sequence[Atom]) -> Meaning | None:
    """A mask or a segmentation, and of what; None where the name is no label's."""
    mine = [atom for atom in row if atom.user and atom.value in _LABELS]
    if mine:
        atom = mine[-1]
        return _named(stem, atom.value, atom.start, atom.end, f"--alias {atom.value}", explicit=True, user=True)
    images = [i for i, atom in enumerate(row) if is_image(atom) and not atom.word.weak]
    strong: list[int] = []
    asked: list[int] = []
    for i, atom in enumerate(row):
        loose = atom.word.weak or atom.role == "lesion"
        if atom.role not in ("label", "lesion") or (atom.role == "lesion" and not atom.value):
            continue
        if loose and images and i < images[-1]:
            if not is_identifier(row, i):
                asked.append(i)
        else:
            strong.append(i)
    sure = [i for i in strong if row[i].role == "label"]
    if not strong:
        if asked:
            start, end = row[asked[0]].start, row[images[-1]].end
            options = (row[images[-1]].value or "T2w", SEGMENTATION)
            return Meaning("asked", f"{stem[start:end]!r} is an image or a label", ask=_to_alias(stem, start, end), options=options)
        return None
    probable = next((a for a in row if a.role == "derived" and a.value == "a map of probabilities"), None)
    if probable is not None:
        return Meaning("derived", probable.value)
    changed = next((a for a in row if a.role == "derived" and a.value.startswith(("an image with regions", "a deformation"))), None)
    if changed is not None:
        return Meaning("derived", changed.value)
    first, last = _label_span(row, strong)
    words = stem[row[first].start : row[last].end]
    # the last label word and what qualifies it
    lesion = any(a.role == "lesion" for a in row)
    tissue = [a for a in row if a.role == "tissue" and not _only_id(row, a)]
    if tissue and not lesion:
        return Meaning(
            "derived", f"a mask or labels of tissue or of a structure ({stem[tissue[0].start : tissue[0].end]}), no lesion"
        )
    kinds = {row[i].value for i in (sure or strong)}
    bids = {a.entity for a in row if a.role in ("unknown", "number") and a.entity in ("label", "seg")}
    letter = next((stem[a.start : a.end].lower() for a in row if a.entity == "label"), "")
    if lesion or letter == "l" or kinds == {SEGMENTATION}:
        brain = any(a.role == "brain" for a in row[first : last + 1])
        if not lesion and brain and letter != "l":
            return Meaning(
                "derived",
                "labels of the brain or of its tissue, no lesion",
                ask=_to_alias(stem, row[first].start, row[last].end),
                options=_LABELS,
            )
        return _named(stem, SEGMENTATION, row[first].start, row[last].end, f"{words!r} in the name")
    if bids:
        return Meaning("derived", f"a mask of {letter!r}, neither the brain's nor a lesion's")
    return _named(stem, MASK, row[first].start, row[last].end, f"{words!r} in the name")


def _only_id(row: Sequence[Atom], atom: Atom) -> bool:
    i = list(row).index(atom)
    return is_identifier(row, i) and any(a.role in ("contrast", "label") for a in row[i + 1 :])


def _label_span(row: Sequence[Atom], strong: Sequence[int]) -> tuple[int, int]:
    """First and last atom of the label's words: the last label word and what qualifies it right before or behind."""
    last = first = strong[-1]
    while first and row[first - 1].role in ("label", "lesion", "brain") and not row[first - 1].entity:
        first -= 1
    while last + 1 < len(row) and row[last + 1].role in ("label", "lesion") and not row[last + 1].entity:
        last += 1
    return first, last


def _derived(stem: str, row: Sequence[Atom], mine: bool) -> Meaning | None:
    """No acquired image, by a word beside a contrast: a map, a ratio, a tissue, another kind of series."""
    images = {atom.value for atom in row if is_image(atom)}
    if not images:
        if any(a.role == "mp2rage" for a in row) and any(a.role == "inv" for a in row):
            return Meaning("derived", "an inversion image of MP2RAGE")
        hard = next((a for a in row if _is_hard(a)), None)
        return Meaning("derived", _derived_words(hard)) if hard is not None and not mine else None
    if any(atom.user for atom in row if is_image(atom)):
        return None
    for i, atom in enumerate(row):
        if atom.role not in ("derived", "other", "tissue", "inv", "segmented"):
            continue
        short = (atom.end - atom.start <= 3 or stem[atom.start : atom.end].lower() in ("phase", "field", "map")) and not atom.entity
        if short and is_identifier(row, i) and any(is_image(a) for a in row[i + 1 :]):
            continue
        if atom.role == "tissue" and atom.value != "always":
            continue
        if atom.value == "a computed map" and "ADC" in images:
            continue
        if atom.role == "inv" and not any(a.role == "mp2rage" for a in row):
            continue
        if atom.role == "segmented":
            return Meaning("derived", "a segmented image")
        return Meaning("derived", _derived_words(atom))
    return None


def _derived_words(atom: Atom) -> str:
    return "a map of tissue or of a structure" if atom.role == "tissue" else atom.value


def _is_hard(atom: Atom) -> bool:
    """Whether a word says what the file is without a contrast beside it: ``T1map``, ``aseg``; ``map`` alone may be of anything."""
    if atom.role == "tissue":
        return atom.value == "always"
    if atom.role != "derived":
        return False
    return atom.end - atom.start > 4 if atom.value == "a computed map" else not atom.value.startswith("a difference")


# --- images ---------------------------------------------------------------------------------------------------------


def _image(stem: str, row: Sequence[Atom]) -> Meaning:
    """The weighting of an image, or the question that its name leaves."""
    mine = [atom for atom in row if atom.user]
    if mine:
        values = {atom.value for atom in mine}
        if len(values) > 1:
            return _ask(stem, row, mine, tuple(sorted(values)))
        contrast = mine[-1].value
        contrast = "T1ce" if contrast == "T1w" and agent_of(stem, row).answer == "yes" else contrast
        why = f"--alias {stem[mine[-1].start : mine[-1].end]}"
        return _named(stem, contrast, *_span(row, [mine[-1]]), why, explicit=True, user=True)
    kept = [a for i, a in enumerate(row) if a.role in ("contrast", "implied", "tirm", "dual") and not _is_group(row, i)]
    rage = [a for a in row if a.role == "mp2rage"]
    explicit = {a.value for a in kept if a.role == "contrast"}
    if rage and not explicit:
        uni = [a for a in (*rage, *kept) if stem[a.start : a.end].lower().startswith("uni")]
        if uni and any(stem[a.start : a.end].lower().startswith("mp2") for a in rage):
            return _with_agent(stem, row, rage, "T1w", "the UNI image of MP2RAGE")
        if not kept or all(a.role == "implied" for a in kept):
            if not any(stem[a.start : a.end].lower().startswith("mp2") for a in rage):
                return Meaning("unknown")
            return _ask(stem, row, rage, ("T1w",), "an MP2RAGE series has several images")
    if not kept:
        agents = [a for a in row if a.role == "agent" and stem[a.start : a.end].lower() == "gado"]
        if agents:
            return _named(stem, "T1ce", *_span(row, agents), "the contrast agent's name alone", explicit=True)
        return Meaning("unknown")
    settled, why, options = _settle(stem, row, kept)
    if settled is None:
        spaces = [a for a in row if a.role == "space" and a.start >= kept[-1].end]
        return _ask(stem, row, [*kept, *spaces], options, why)
    if settled in _T1:
        return _with_agent(stem, row, kept, settled, why)
    return _named(stem, settled, *_span(row, kept), why or f"{_text(stem, kept)} in the name")


def _is_group(row: Sequence[Atom], i: int) -> bool:
    """Whether a weak word stands before a strong one and is a group's name: PD in ``PD_001_T1``, but not in ``PD_T2``."""
    atom = row[i]
    if not atom.word.weak or atom.role != "contrast":
        return False
    later = [k for k in range(i + 1, len(row)) if row[k].role in ("contrast", "implied") and not row[k].word.weak]
    if not later:
        return False
    pairs = (("PDw", "T2w"), ("T1IR", "T1w"), ("T2starw", "T2w"))
    return not (later[0] == i + 1 and (atom.value, row[later[0]].value) in pairs)


def _text(stem: str, kept: Sequence[Atom]) -> str:
    return " and ".join(dict.fromkeys(repr(stem[a.start : a.end]) for a in kept))


def _settle(stem: str, row: Sequence[Atom], kept: Sequence[Atom]) -> tuple[str | None, str, tuple[str, ...]]:
    """(contrast, why, options) of an image's contrast words; without a contrast the why is the doubt."""
    said = {a.value for a in kept if a.role == "contrast"}
    implied = {a.value for a in kept if a.role == "implied"}
    dual = any(a.role == "dual" for a in kept) or said == {"PDw", "T2w"}
    both = _text(stem, kept)
    if dual and said <= {"PDw", "T2w"}:
        echo = next((a.value for a in row if a.role == "echo"), "")
        if echo:
            return ("PDw" if echo == "1" else "T2w"), f"echo {echo} of {both}", ()
        return None, f"{both} are two echoes of one series", ("PDw", "T2w")
    if said & {"T1ce"} and said <= set(_T1):
        said = {"T1ce"}
    if "T1IR" in said and said <= {"T1IR", "T1w"}:
        said = {"T1w"} if implied == {"T1w"} else {"T1IR"}
    tirm = any(a.role == "tirm" for a in kept) or "FLAIR" in implied
    implied.discard("FLAIR")
    fat = any(stem[a.start : a.end].lower() in ("fs", "fatsat", "spir", "spair") for a in row)
    if tirm and not fat:
        if said in ({"T2w"}, {"FLAIR"}, {"T2w", "FLAIR"}) or (not said and any(a.value == "FLAIR" for a in kept)):
            return "FLAIR", f"{both} is FLAIR", ()
        if not said and not implied:
            return None, f"{both} may be FLAIR or another inversion recovery", ("FLAIR", "T1IR")
    elif tirm and said <= {"T2w"}:
        return None, f"{both} with fat saturation may be STIR or FLAIR", ("FLAIR",)
    hemo = any(a.role == "hemo" or stem[a.start : a.end].lower() in ("fl2d", "ffe") for a in row)
    for pair, meant in (({"T2w", "T2starw"}, "T2starw"), ({"T2w", "SWI"}, "SWI"), ({"T2starw", "SWI"}, "SWI"),
                        ({"DWI", "ADC"}, "ADC"), ({"T2w", "DWI"}, "DWI")):  # fmt: skip
        if said == pair:
            return meant, f"{both} is {meant}", ()
    if said == {"T1w", "T2starw"} and any(a.word.weak and a.value == "T2starw" for a in kept):
        return "T1w", f"{both}: a T1-weighted gradient echo", ()
    if said == {"T2w"} and hemo and implied <= {"T1w"}:
        return "T2starw", f"{both} by a gradient echo", ()
    space = next((i for i, a in enumerate(row) if a.role == "space"), None)
    if space and row[space - 1].end == row[space].start and len(kept) == 1 and row[space - 1] in kept:
        return None, f"{stem[kept[0].start : row[space].end]!r} is the SPACE sequence or the space of {both}", (kept[0].value,)
    if space and (said == {"T2w", "FLAIR"} or _is_t2_flair(stem, row[space - 1])) and is_image(row[space - 1]):
        return None, f"{both} with 'space' is FLAIR by that sequence, or T2w in the space of FLAIR", ("FLAIR", "T2w")
    if said == {"T2w", "FLAIR"}:
        return "FLAIR", f"{both} is FLAIR", ()
    if "FLAIR" in said and said - {"FLAIR"} <= set(_T1) and len(said) == 2:
        return _t1_flair(stem, row, kept, (said - {"FLAIR"}).pop())
    if len(said) == 1:
        meant = said.pop()
        if implied and meant not in (*_T1, "T1IR", "T2starw", "SWI", "DWI", "ADC"):
            return None, f"{both}: the weighting and the sequence disagree", (meant, *implied)
        return meant, f"{both} in the name", ()
    if not said and len(implied) == 1:
        return next(iter(implied)), f"{both} is run T1-weighted", ()
    return None, f"more than one contrast in the name: {both}", tuple(sorted(said | implied))


def _t1_flair(stem: str, row: Sequence[Atom], kept: Sequence[Atom], t1: str) -> tuple[str | None, str, tuple[str, ...]]:
    """T1 FLAIR (GE) and T1 dark-fluid (Siemens) are T1-weighted; the T1 word stands first, nothing but scanner words between."""
    places = [(i, a) for i, a in enumerate(row) if a in kept]
    first = next(i for i, a in places if a.value in _T1)
    flair = next(i for i, a in places if a.value == "FLAIR")
    between = {a.role for a in row[min(first, flair) + 1 : max(first, flair)]}
    both = _text(stem, kept)
    if first < flair and between <= {"neutral", "implied", "tirm", "contrast", "space"}:
        return t1, f"{both}: T1 FLAIR is T1-weighted", ()
    if any(stem[a.start : a.end].lower().startswith(("dark", "da-fl", "dafl")) for a in kept) and between <= {"neutral", "tirm"}:
        return t1, f"{both}: T1 FLAIR is T1-weighted", ()
    return None, f"more than one contrast in the name: {both}", ("FLAIR", t1)


def _with_agent(stem: str, row: Sequence[Atom], kept: Sequence[Atom], contrast: str, why: str) -> Meaning:
    """A T1-weighted image, and whether a contrast agent was given."""
    agent = agent_of(stem, row)
    if agent.doubt:
        return _ask(stem, row, kept, _T1[::-1], agent.doubt)
    words = [a for a in row if a.role in ("agent", "native")]
    start, end = _span(row, kept)
    said = _text(stem, words)
    if agent.answer == "yes":
        reason = f"{why}, with {said} (contrast agent)" if words else why
        return _named(stem, "T1ce", start, end, reason, explicit=True, by_post=agent.weak)
    if agent.answer == "no":
        return _named(stem, "T1w", start, end, f"{why}, {said} (no contrast agent)" if words else why, explicit=True)
    return _named(stem, contrast, start, end, why)


def _span(row: Sequence[Atom], kept: Sequence[Atom]) -> tuple[int, int]:
    """First and last character of the contrast's words: those that only scanner words part, and agents right beside them."""
    places = [i for i, a in enumerate(row) if a in kept]
    first = last = places[-1]
    for i in reversed(places[:-1]):
        if row[i].entity == row[last].entity and all(
            row[k].role in ("neutral", "agent", "native", "tirm", "space", "echo") or k in places for k in range(i, first)
        ):
            first = i
        else:
            break
    beside = ("agent", "native", "no", "with")
    while first and row[first - 1].role in beside and not row[first - 1].entity and not row[first].entity:
        first -= 1
    while last + 1 < len(row) and row[last + 1].role in beside and not row[last + 1].entity:
        last += 1
    while first and row[first - 1].end == row[first].start and row[first - 1].role == "neutral":  # AXT1, 3DFLAIR
        first -= 1
    while last + 1 < len(row) and row[last + 1].start == row[last].end and row[last + 1].role == "neutral":
        last += 1
    return row[first].start, row[last].end


def _ask(stem: str, row: Sequence[Atom], kept: Sequence[Atom], options: tuple[str, ...], why: str = "") -> Meaning:
    """A question; the word to alias is the run from the first contrast word to the last, or the last where a number parts them."""
    start, end = _span(row, kept) if len(kept) == 1 else (kept[0].start, kept[-1].end)
    inside = [a for a in row if a.start >= start and a.end <= end]
    if any(a.role in ("number", "unknown", "entity") for a in inside) or re.search(r"\d{3,}", stem[start:end]):
        start, end = _span(row, [kept[-1]])
    why = why or f"more than one contrast in the name: {_text(stem, kept)}"
    return Meaning("asked", why, ask=_to_alias(stem, start, end), options=options)


def _to_alias(stem: str, start: int, end: int) -> str:
    """The run of whole words around a part of a name, as ``--alias WORD=CONTRAST`` takes it."""
    apart = "-_. +()[]{},;&="
    while start and stem[start - 1] not in apart:
        start -= 1
    while end < len(stem) and stem[end] not in apart:
        end += 1
    return re.sub(r" +", "_", stem[start:end].rpartition("=")[2].strip("-_. ")).lower()


def renamed(meaning: Meaning, contrast: str, why: str) -> Meaning:
    """The meaning with another contrast: what a sidecar, a folder or a neighbouring file added."""
    if meaning.name is None:
        return meaning
    return replace(meaning, kind="named", why=why, name=replace(meaning.name, contrast=contrast, why=why))
