"""`PhantomConfig`: what a simulated cohort is, checked when it is made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from synthmr.contrasts import canonical
from synthmr.errors import UsageError, did_you_mean

#: contrasts that can be simulated, in the order in which they are written
CONTRASTS: tuple[str, ...] = ("T1w", "T2w", "PDw", "FLAIR", "T1ce")

#: kinds of lesions a subject can have
LESIONS: tuple[str, ...] = ("ms", "tumour", "stroke", "none")

FIELD_STRENGTHS: tuple[float, ...] = (1.5, 3.0)

#: field -> (smallest, largest, unit) that is allowed
_RANGES = {
    "spacing": (0.7, 8.0, "mm"),
    "noise": (0.0, 0.5, "of the mean brain signal"),
    "bias": (0.0, 0.5, "(standard deviation of its logarithm)"),
    "psf": (0.0, 4.0, "voxels"),
    "deformation": (0.0, 12.0, "mm"),
    "variation": (0.0, 0.2, "(relative standard deviation)"),
    "texture": (0.0, 0.2, "(relative standard deviation)"),
    "individuality": (0.0, 2.0, ""),
}


@dataclass(frozen=True)
class PhantomConfig:
    """What a simulated cohort is. Subject ``i`` depends on this and on ``i`` alone, never on the number of subjects.

    Attributes:
        seed: of every random number; not negative.
        spacing: voxel edge in mm, 0.7 to 8. The person does not change with it, only the sampling does.
        contrasts: which of `CONTRASTS` to make (aliases such as ``t1c`` are understood); kept in that order.
        field_strength: 1.5 or 3 tesla: chooses T1, T2, T2* and the protocol.
        lesions: kinds to draw from, of `LESIONS`. Every block of as many subjects as there are kinds has each kind
            once, in random order, so that small cohorts are balanced. Naming a kind twice makes it twice as frequent.
        noise: standard deviation of the complex noise, as a share of the mean noise-free signal in the brain.
        bias: standard deviation over the brain of the logarithm of the bias field, most of which is the receive coil's
            and so the same in all contrasts of a subject.
        psf: full width at half maximum of the Gaussian point spread, in voxels.
        deformation: largest displacement of the smooth warp, in mm; each subject draws 50 to 100 % of it.
        variation: relative standard deviation between subjects of every tissue's T1 and T2 (half of it for PD).
        texture: relative standard deviation within a subject of T1 and T2 (half of it for PD), smooth over 12 mm.
        individuality: strength of the subject's own folding pattern (random re-weighting of the tissue fractions).
    """

    seed: int = 0
    spacing: float = 2.0
    contrasts: tuple[str, ...] = CONTRASTS
    field_strength: float = 3.0
    lesions: tuple[str, ...] = LESIONS
    noise: float = 0.03
    bias: float = 0.05
    psf: float = 1.0
    deformation: float = 8.0
    variation: float = 0.03
    texture: float = 0.02
    individuality: float = 0.8

    def __post_init__(self) -> None:
        for name, kind in (("seed", int), *((f.name, float) for f in fields(self) if f.name in (*_RANGES, "field_strength"))):
            object.__setattr__(self, name, _number(name, getattr(self, name), kind))
        if self.seed < 0:
            raise UsageError(f"phantom seed {self.seed} is negative; use 0 or a positive whole number.")
        for name, (low, high, unit) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise UsageError(f"phantom {name} {value:g} is out of range; allowed: {low:g} to {high:g} {unit}".rstrip() + ".")
        if self.field_strength not in FIELD_STRENGTHS:
            raise UsageError(f"phantom field strength {self.field_strength:g} T has no tissue values; allowed: 1.5 or 3 T.")
        object.__setattr__(self, "contrasts", _contrasts(self.contrasts))
        object.__setattr__(self, "lesions", _lesions(self.lesions))


def _number(name: str, value: Any, kind: type) -> int | float:
    """``value`` as a plain int or float; numpy's numbers are welcome, words and NaN are not."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if (kind is int and whole) or (kind is float and (whole or isinstance(value, float | np.floating))):
        number: int | float = kind(value)
        if math.isfinite(number):
            return number
    raise UsageError(f"phantom {name} {value!r} is not a {'whole ' if kind is int else ''}number.")


def _contrasts(words: Sequence[str]) -> tuple[str, ...]:
    if isinstance(words, str):
        words = [part.strip() for part in words.split(",") if part.strip()]
    named = []
    for word in words:
        name = canonical(str(word))
        if name not in CONTRASTS:
            raise UsageError(f"the phantom cannot simulate contrast {word!r}: {did_you_mean(str(word), CONTRASTS)}")
        if name in named:
            raise UsageError(f"phantom contrasts name {name} twice; name each once.")
        named.append(name)
    if not named:
        raise UsageError(f"the phantom needs at least one contrast; allowed: {', '.join(CONTRASTS)}.")
    return tuple(name for name in CONTRASTS if name in named)


def _lesions(kinds: Sequence[str]) -> tuple[str, ...]:
    if isinstance(kinds, str):
        kinds = [part.strip() for part in kinds.split(",") if part.strip()]
    for kind in kinds:
        if kind not in LESIONS:
            raise UsageError(f"unknown phantom lesion {kind!r}: {did_you_mean(str(kind), LESIONS)}")
    if not kinds:
        raise UsageError(f"the phantom needs at least one kind of lesion; allowed: {', '.join(LESIONS)} (none: healthy).")
    return tuple(kinds)
