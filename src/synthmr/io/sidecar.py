"""What the JSON file beside an image says of it (BIDS, dcm2niix, dcmstack): weighting, contrast agent, kind of image.

Times are seconds in BIDS and dcm2niix; milliseconds, as DICOM has them, are seen in the wild and understood (EchoTime 90).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from synthmr.documents import parse_json, read_bytes
from synthmr.errors import DataError
from synthmr.io.grammar import Meaning, read

#: larger files are no sidecars, in bytes
MOST_BYTES = 4 * 2**20

#: what an agent's field holds where none was given
_NO_AGENT = {
    "",
    "none",
    "no",
    "n",
    "na",
    "n/a",
    "nil",
    "null",
    "0",
    "without",
    "no contrast",
    "nativ",
    "native",
    "unknown",
    "false",
    "-",
}

_AGENT_FIELDS = ("ContrastBolusAgent", "ContrastBolusIngredient")
_TEXT_FIELDS = ("SeriesDescription", "ProtocolName")


@dataclass(frozen=True)
class Facts:
    """What a sidecar says, as far as it is used here.

    Attributes:
        contrast: canonical name, or empty where the sidecar does not tell it.
        agent: the contrast agent that was given, or empty.
        derived: what the file is where it is no acquired image; else empty.
        why: the fields that said so.
    """

    contrast: str = ""
    agent: str = ""
    derived: str = ""
    why: str = ""


def read_sidecar(image: Path, stem: str) -> tuple[Facts | None, str]:
    """(what the JSON beside ``image`` says or None, what is wrong with it as a line or empty); a broken file raises nothing.

    Args:
        image: the NIfTI file; it is not opened.
        stem: its name without the suffix.
    """
    path = image.with_name(stem + ".json")
    try:
        path.stat()
    except (OSError, ValueError):
        return None, ""
    try:
        # descriptions come in the scanner's letters: what is no UTF-8 is no reason to drop the rest
        data = parse_json(read_bytes(path, MOST_BYTES).decode("utf-8-sig", errors="replace"), str(path))
    except DataError as error:
        return None, str(error)
    if not isinstance(data, dict):
        return None, f"{path} is no JSON object; it must be {{...}} with keys and values."
    return facts(data), ""


def facts(data: Mapping[str, Any]) -> Facts:
    """What the fields of a sidecar say; fields of a wrong type count as absent."""
    inner = data.get("global")
    if isinstance(inner, dict) and isinstance(inner.get("const"), dict):  # dcmstack
        data = {**inner["const"], **data}
    software = data.get("software")
    if data.get("synthetic") is True or (isinstance(software, dict) and software.get("name") == "synthmr"):
        return Facts(derived="synthetic", why="the sidecar says that it is synthetic")
    kind = _kind(data)
    if kind is not None:
        return kind
    agent = next((word for field in _AGENT_FIELDS if (word := _agent(data.get(field)))), "")
    told = _described(data)
    if told is not None and told[0].kind == "derived":
        return Facts(agent=agent, derived=told[0].why, why=told[1])
    by_time, times = _by_times(data)
    if told is not None and told[0].name is not None:
        contrast = told[0].name.contrast
        contrast = "T1ce" if contrast == "T1w" and agent and not told[0].explicit else contrast
        if by_time and not _agrees(contrast, by_time):
            return Facts(agent=agent)  # the sidecar contradicts itself
        return Facts(contrast, agent, "", told[1])
    if by_time == "T1w" and agent:
        return Facts("T1ce", agent, "", f"{times}, contrast agent {agent}")
    return Facts(by_time, agent, "", times) if by_time else Facts(agent=agent)


def _agrees(contrast: str, other: str) -> bool:
    """Whether two contrasts do not contradict each other: what the times tell is coarser than what words tell."""
    groups = ({"T1w", "T1ce", "T1IR"}, {"T2w", "T2starw", "SWI", "DWI"}, {"PDw"}, {"FLAIR"}, {"ADC"})
    same = any({contrast, other} <= group for group in groups)
    known = any(contrast in group for group in groups)
    return same or not known or "ADC" in (contrast, other)


def contradicts(facts: Facts, contrast: str) -> bool:
    """Whether a sidecar says that an image is of another weighting than its name; a contrast agent is not weighed here."""
    return bool(facts.contrast) and not _agrees(contrast, facts.contrast)


def _kind(data: Mapping[str, Any]) -> Facts | None:
    """What ImageType says: a map, a phase image, a projection; DICOM's words."""
    words = data.get("ImageType")
    words = words if isinstance(words, list) else re.split(r"[\\,_]", words) if isinstance(words, str) else []
    kinds = {str(word).upper().replace("_", " ").strip() for word in words[:32] if isinstance(word, str)}
    why = f"ImageType {', '.join(str(word) for word in words[:6])}"[:90]
    if "ADC" in kinds:
        return Facts("ADC", "", "", why)
    if "TRACEW" in kinds:
        return Facts("DWI", "", "", why)
    for word, what in _IMAGE_TYPES.items():
        if word in kinds:
            return Facts(derived=what, why=why)
    modality = data.get("Modality")
    if isinstance(modality, str) and modality.upper() in ("CT", "PT", "PET", "NM", "US", "SEG", "RTSTRUCT", "SR"):
        return Facts(derived=f"an image of modality {modality.upper()[:8]}", why=f"Modality {modality[:8]}")
    return None


_IMAGE_TYPES = {
    "PHASE": "a phase image",
    "P": "a phase image",
    "IMAGINARY": "a phase image",
    "REAL": "a phase image",
    "T1 MAP": "a computed map",
    "T2 MAP": "a computed map",
    "T2 STAR MAP": "a computed map",
    "R2 MAP": "a computed map",
    "R2STAR MAP": "a computed map",
    "FA": "a computed map",
    "MINIP": "a projection",
    "MIP": "a projection",
    "SUBTRACTION": "a difference of images",
    "SUB": "a difference of images",
    "LOCALIZER": "a localizer",
    "SYNTHETIC": "synthetic",
}


def _agent(value: Any) -> str:
    """The contrast agent that a field names, or empty."""
    if isinstance(value, list):
        return next((found for item in value[:4] if (found := _agent(item))), "")
    if not isinstance(value, str):
        return ""
    word = " ".join(value.split())[:40]
    return "" if word.lower() in _NO_AGENT else word


def _described(data: Mapping[str, Any]) -> tuple[Meaning, str] | None:
    """What the description of the series says, read as a name is; None where it is silent or in doubt, or two contradict."""
    found: list[tuple[Meaning, str]] = []
    for field in _TEXT_FIELDS:
        text = data.get(field)
        if isinstance(text, str) and 0 < len(text) < 200:
            meaning = _read_text(text)
            if meaning.kind == "derived" or (meaning.name is not None and meaning.name.contrast not in ("mask", "segmentation")):
                found.append((meaning, f"{field} {text.strip()[:60]!r}"))
    if not found:
        return None
    first, last = found[0], found[-1]
    if first[0].name and last[0].name and not _agrees(first[0].name.contrast, last[0].name.contrast):
        return None
    # of two that agree the one that knows of an agent
    return next((item for item in found if item[0].name is not None and item[0].name.contrast == "T1ce"), first)


@lru_cache(maxsize=1024)
def _read_text(text: str) -> Meaning:
    """A description as a name: series are described alike in all cases of a study."""
    return read(re.sub(r"[*/\\]", " ", text.replace("T2*", "T2star").replace("t2*", "t2star")))


def _number(value: Any) -> float | None:
    """A positive number, also written as text or as a list of one; None for anything else."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        match = re.match(r"^\s*([0-9.]+(?:[eE][-+]?\d+)?)\s*(ms|s)?\s*$", value[:40])
        try:
            value = float(match[1]) if match else None
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) and number > 0 else None


def times(data: Mapping[str, Any]) -> tuple[float | None, float | None, float | None]:
    """Echo, repetition and inversion time in seconds. An echo time above 1, or others above 30, are milliseconds."""
    echo, repetition, inversion = (_number(data.get(f"{word}Time")) for word in ("Echo", "Repetition", "Inversion"))
    if (echo or 0) > 1 or (repetition or 0) > 30 or (inversion or 0) > 15:
        echo, repetition, inversion = (value / 1000 if value is not None else None for value in (echo, repetition, inversion))
    return echo, repetition, inversion


def _by_times(data: Mapping[str, Any]) -> tuple[str, str]:
    """(contrast or empty, the times in words), where they leave no doubt; gradient and planar echoes without inversion do."""
    echo, repetition, inversion = times(data)
    sequence = data.get("ScanningSequence", "")
    sequence = " ".join(map(str, sequence[:8])) if isinstance(sequence, list) else str(sequence)[:60]
    marks = set(re.split(r"[^A-Z]+", sequence.upper()))
    said = [f"{word} {value:g} s" for word, value in (("EchoTime", echo), ("RepetitionTime", repetition),
                                                      ("InversionTime", inversion)) if value is not None]  # fmt: skip
    why = ", ".join(said)
    if echo is None or "EP" in marks:
        return "", why
    if inversion is not None:
        if inversion >= 1.4 and echo >= 0.06 and (repetition is None or repetition >= 3.5):
            return "FLAIR", why
        if 0.3 <= inversion <= 1.3 and echo <= 0.03:
            return "T1w", why
        return "", why
    if repetition is None or "GR" in marks or "IR" in marks:
        return "", why
    spin = "SE" in marks
    if repetition >= 1.8 and echo >= 0.06:
        return "T2w", why
    if repetition >= 1.8 and 0.006 <= echo <= (0.035 if spin else 0.025):
        return "PDw", why
    if (0.1 if spin else 0.3) <= repetition <= 1.0 and echo <= (0.03 if spin else 0.018):
        return "T1w", why
    return "", why
