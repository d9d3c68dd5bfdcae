"""Canonical contrast names and the one table of their aliases.

Contrasts keep these names from the disk to the report. Aliases are compared without case and without the separators
``-``, ``_``, ``.`` and space, so ``T1-Post``, ``t1_post`` and ``T1POST`` are the same word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path

from synthmr.errors import UsageError, did_you_mean, shown

SEGMENTATION = "segmentation"
MASK = "mask"

#: canonical name -> words that mean it. BraTS 2015-2025, BIDS suffixes, IXI, ISLES, iSeg, MRBrainS, Ljubljana MS.
TABLE: Mapping[str, tuple[str, ...]] = {
    "T1w": ("t1", "t1w", "t1n", "t1native", "t1pre", "mprage", "t1mprage", "t1weighted", "mr_t1", "reg_t1", "t1_reg", "unit1"),
    "T1ce": ("t1ce", "t1c", "t1gd", "t1post", "t1wpost", "t1wce", "t1contrast", "t1kmce", "t1wkm", "t1wks", "cet1", "cet1w",
             "cegadoliniumt1w", "ce_gadolinium_t1w", "t1gadolinium", "t1wgd", "t1gad", "t1gado", "t1+c", "t1wc", "ct1", "mr_t1c",
             "gado"),
    "T2w": ("t2", "t2w", "t2weighted", "t2tse", "mr_t2"),
    "FLAIR": ("flair", "fl", "t2flair", "t2f", "t2wflair", "flairw", "mr_flair", "darkfluid", "t2darkfluid"),
    "PDw": ("pd", "pdw", "protondensity", "mr_pd", "dp"),
    "T1IR": ("t1ir", "ir", "t1_ir", "inversionrecovery"),
    "T2starw": ("t2star", "t2starw", "t2s", "gre"),
    "SWI": ("swi", "swan"),
    "DWI": ("dwi", "dwib1000", "trace", "tracew", "mr_dwi"),
    "ADC": ("adc", "mr_adc"),
    SEGMENTATION: ("seg", "segmentation", "segm", "lesion", "lesions", "consensusgt", "lesionmask", "msk", "tumor", "tumour",
                   "ot", "dseg", "labels", "label", "roi", "wmh", "tumormask", "tumourmask", "tumorseg", "tumourseg", "consensus",
                   "manualsegmentation", "wmhmask", "infarctmask", "strokemask", "glistrboost"),
    MASK: ("mask", "brainmask", "brain_mask", "bet_mask", "mask_brain"),
}  # fmt: skip

#: the contrasts proper, without the two label kinds
CONTRASTS: tuple[str, ...] = tuple(name for name in TABLE if name not in (SEGMENTATION, MASK))


def squeeze(word: str) -> str:
    """Lower-case ``word`` and drop separators: the form in which aliases are compared."""
    return re.sub(r"[-_. ]+", "", word.lower())


_LOOKUP: Mapping[str, str] = {squeeze(alias): name for name, aliases in TABLE.items() for alias in (*aliases, name)}


def parse_aliases(pairs: Iterable[str]) -> dict[str, str]:
    """Parse ``alias=CONTRAST`` pairs from the command line into {squeezed alias: canonical name}.

    A canonical name that is not in the table becomes a contrast of its own (``T1rho=T1rho``).

    Raises:
        UsageError: a pair has no ``=`` or an empty side.
    """
    aliases: dict[str, str] = {}
    for pair in pairs:
        alias, equals, name = pair.partition("=")
        if not equals or not alias.strip() or not name.strip():
            raise UsageError(f"--alias {pair!r} is not of the form alias=CONTRAST; write for example --alias t1km=T1ce.")
        if any(each in "/\\" or not each.isprintable() for each in name) or name.strip() in (".", "..") or len(name) > 60:
            raise UsageError(f"--alias {shown(pair)}: a contrast's name goes into file names; write letters and digits.")
        aliases[squeeze(alias)] = _LOOKUP.get(squeeze(name), name.strip())
    return aliases


def canonical(word: str, aliases: Mapping[str, str] | None = None) -> str | None:
    """Return the canonical name that ``word`` means, or None. ``aliases`` comes from `parse_aliases` and wins."""
    key = squeeze(word)
    if aliases and key in aliases:
        return aliases[key]
    return _LOOKUP.get(key)


def resolve(word: str, aliases: Mapping[str, str] | None = None) -> str:
    """Like `canonical`, for names that a person typed.

    Raises:
        UsageError: the word is no contrast; the message suggests the nearest one.
    """
    name = canonical(word, aliases)
    if name is None or name in (SEGMENTATION, MASK):
        own = [name for name in (aliases or {}).values() if name not in (SEGMENTATION, MASK)]
        known = (*CONTRASTS, *own)
        raise UsageError(f"unknown contrast {word!r}: {did_you_mean(word, known)} Add a name with --alias {word}=CONTRAST.")
    return name


def resolve_list(text: str, aliases: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Resolve a comma-separated list such as ``T1w,T2w``; order is kept.

    Raises:
        UsageError: the list is empty, has an unknown word, or names a contrast twice.
    """
    names = tuple(resolve(part.strip(), aliases) for part in text.split(",") if part.strip())
    if not names:
        raise UsageError("no contrast was named; write for example T1w,T2w.")
    if len(set(names)) != len(names):
        raise UsageError(f"{text!r} names a contrast twice; name each once.")
    return names


def parse_files(pairs: Iterable[str], aliases: Mapping[str, str] | None = None) -> dict[str, Path]:
    """Parse ``CONTRAST=file`` pairs from the command line into {canonical name: file}.

    Raises:
        UsageError: a word is no contrast, or two pairs name the same one.
    """
    files: dict[str, Path] = {}
    for pair in pairs:
        name, _, path = pair.partition("=")
        contrast = resolve(name, aliases)
        if contrast in files:
            raise UsageError(f"{pair!r} names {contrast} a second time; give each contrast once.")
        files[contrast] = Path(path)
    return files


def subsets_of(sources: Sequence[str], least: int = 1) -> list[tuple[str, ...]]:
    """All subsets with at least ``least`` sources, small ones first, in the order of the sources."""
    return [names for size in range(least, len(sources) + 1) for names in combinations(sources, size)]


def split_words(words: Sequence[str]) -> tuple[str, ...]:
    """``["a,b", "c"]`` -> a, b, c, each once.

    Raises:
        UsageError: there are commas, and nothing between them.
    """
    found = tuple(dict.fromkeys(part.strip() for word in words for part in word.split(",") if part.strip()))
    if not found and any(words):
        raise UsageError(f"{', '.join(map(repr, words))} names nothing; write for example psnr,ssim, or leave the option out.")
    return found
