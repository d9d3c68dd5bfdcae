"""What a tissue's T1, T2, T2* and proton density look like to a scanner. Times in ms, signals in units of M0.

Sources of the tissue values (``docs/phantom.md`` says what was taken from where):

    Wansapura 1999   Wansapura et al., J Magn Reson Imaging 9:531: T1 of white and grey matter at 3 T
    Rooney 2007      Rooney et al., Magn Reson Med 57:308: T1 at 1.5 T; T1 of CSF hardly depends on the field
    Stanisz 2005     Stanisz et al., Magn Reson Med 54:507: T2 at 1.5 and 3 T
    Piechnik 2009    Piechnik et al., Magn Reson Med 61:579: T2 of CSF in vivo at 3 T
    Peters 2007      Peters et al., Magn Reson Imaging 25:748: T2* at 1.5 and 3 T
    Oros 2019        Oros-Peusquens et al., Front Neurol 10:1333: water content
    Szomolanyi 2019  Szomolanyi et al., Invest Radiol 54:559: relaxivity of gadobutrol in plasma
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

#: healthy tissues first; the rest are lesions, in the order of their labels 1 to 5 in seg.nii.gz
HEALTHY: tuple[str, ...] = ("csf", "gm", "wm")
LESION_TISSUES: tuple[str, ...] = ("ms", "oedema", "necrosis", "enhancing", "stroke")
TISSUES: tuple[str, ...] = HEALTHY + LESION_TISSUES


@dataclass(frozen=True)
class Tissue:
    """Properties of one tissue.

    Attributes:
        t1: longitudinal relaxation time, ms; a number, or one value a voxel ``(N,)``.
        t2: transverse relaxation time, ms; likewise.
        t2star: effective transverse relaxation time, ms.
        pd: proton density relative to CSF; a number or ``(N,)``.
    """

    t1: float | np.ndarray
    t2: float | np.ndarray
    t2star: float
    pd: float | np.ndarray


#: field strength (T) -> healthy tissue values
HEALTHY_VALUES: Mapping[float, Mapping[str, Tissue]] = {
    1.5: {
        "csf": Tissue(4070.0, 503.0, 250.0, 1.0),
        "gm": Tissue(1188.0, 95.0, 84.0, 0.837),
        "wm": Tissue(656.0, 72.0, 66.0, 0.691),
    },
    3.0: {
        "csf": Tissue(4070.0, 503.0, 250.0, 1.0),
        "gm": Tissue(1331.0, 99.0, 66.0, 0.837),
        "wm": Tissue(832.0, 69.0, 53.0, 0.691),
    },
}

#: lesion -> (T1, T2, T2*) as multiples of white matter's, and proton density: chosen to look right, see the docs
LESION_FACTORS: Mapping[str, tuple[float, float, float, float]] = {
    "ms": (1.55, 2.1, 1.8, 0.82),
    "oedema": (1.75, 2.1, 2.0, 0.86),
    "necrosis": (3.00, 4.0, 3.0, 0.95),
    "enhancing": (1.65, 1.6, 1.4, 0.84),
    "stroke": (1.60, 1.9, 1.7, 0.84),
}

#: field strength (T) -> r1 of gadobutrol in plasma, L / (mmol s)
RELAXIVITY: Mapping[float, float] = {1.5: 4.78, 3.0: 4.97}

#: mmol/L of gadolinium that leaks into enhancing tissue: takes 620 to 850 ms off T1 at 3 T; 838 +- 210 was measured
#: in glioblastomas (Noeth 2020, see the docs)
GADOLINIUM_RANGE = (0.12, 0.25)


@dataclass(frozen=True)
class SpinEcho:
    """A spin echo: ``tr`` and ``te`` in ms."""

    tr: float
    te: float


@dataclass(frozen=True)
class InversionRecovery:
    """An inversion-recovery spin echo (FLAIR): ``tr``, ``te`` and inversion time ``ti`` in ms."""

    tr: float
    te: float
    ti: float


@dataclass(frozen=True)
class Mprage:
    """A magnetisation-prepared train of spoiled gradient echoes.

    Attributes:
        tr: from inversion to inversion, ms.
        te: echo time, ms.
        ti: from inversion to the middle of the train (the centre of k-space), ms.
        flip: excitation angle, degrees.
        echo_spacing: between excitations, ms.
        echoes: excitations a train; even.
    """

    tr: float
    te: float
    ti: float
    flip: float
    echo_spacing: float
    echoes: int


Sequence = SpinEcho | InversionRecovery | Mprage


def spin_echo(tissue: Tissue, sequence: SpinEcho) -> np.ndarray:
    """Steady state of 90 - TE/2 - 180 - TE/2 - echo, repeated every TR.

    S = PD (1 - 2 exp(-(TR - TE/2)/T1) + exp(-TR/T1)) exp(-TE/T2); the 180 also inverts what had recovered.
    """
    tr, te = sequence.tr, sequence.te
    recovered = 1 - 2 * np.exp(-(tr - te / 2) / tissue.t1) + np.exp(-tr / tissue.t1)
    return np.asarray(tissue.pd * recovered * np.exp(-te / tissue.t2))


def inversion_recovery(tissue: Tissue, sequence: InversionRecovery) -> np.ndarray:
    """Steady state of 180 - TI - 90 - TE/2 - 180 - TE/2 - echo, repeated every TR; negative before the null.

    S = PD (1 - 2 exp(-TI/T1) + 2 exp(-(TR - TE/2)/T1) - exp(-TR/T1)) exp(-TE/T2)
    """
    tr, te, ti = sequence.tr, sequence.te, sequence.ti
    recovered = 1 - 2 * np.exp(-ti / tissue.t1) + 2 * np.exp(-(tr - te / 2) / tissue.t1) - np.exp(-tr / tissue.t1)
    return np.asarray(tissue.pd * recovered * np.exp(-te / tissue.t2))


def null_time(t1: float, tr: float, te: float) -> float:
    """The inversion time (ms) at which `inversion_recovery` of a tissue with ``t1`` is zero."""
    return t1 * (math.log(2) - math.log(1 + 2 * math.exp(-(tr - te / 2) / t1) - math.exp(-tr / t1)))


def mprage(tissue: Tissue, sequence: Mprage) -> np.ndarray:
    """Steady state of inversion - delay - N spoiled excitations - delay, at the middle excitation.

    With E_A, E_B the decays exp(-t/T1) over the two delays, c = cos(flip) exp(-tau/T1) the factor of one excitation and
    M_s = (1 - exp(-tau/T1)) / (1 - c) the train's own steady state, the magnetisation before an inversion is

        m = [1 - E_B + E_B (M_s (1 - c^N) + c^N (1 - E_A))] / (1 + E_A E_B c^N)

    and S = PD sin(flip) (M_s (1 - c^(N/2)) + c^(N/2) (1 - (1 + m) E_A)) exp(-TE/T2*). Negative before the null.
    """
    n, tau, angle = sequence.echoes, sequence.echo_spacing, math.radians(sequence.flip)
    before = np.exp(-(sequence.ti - n / 2 * tau) / tissue.t1)
    after = np.exp(-(sequence.tr - sequence.ti - n / 2 * tau) / tissue.t1)
    decay = np.exp(-tau / tissue.t1)
    factor = math.cos(angle) * decay
    steady = (1 - decay) / (1 - factor)
    half = factor ** (n // 2)
    train = half * half
    start = (1 - after + after * (steady * (1 - train) + train * (1 - before))) / (1 + before * after * train)
    middle = steady * (1 - half) + half * (1 - (1 + start) * before)
    return np.asarray(tissue.pd * math.sin(angle) * middle * np.exp(-sequence.te / tissue.t2star))


def signal(tissue: Tissue, sequence: Sequence) -> np.ndarray:
    """The signal of ``tissue``, with its sign: tissues of one voxel add up before the magnitude is taken."""
    if isinstance(sequence, SpinEcho):
        return spin_echo(tissue, sequence)
    if isinstance(sequence, InversionRecovery):
        return inversion_recovery(tissue, sequence)
    return mprage(tissue, sequence)


def with_gadolinium(tissue: Tissue, concentration: float, relaxivity: float) -> Tissue:
    """1/T1 = 1/T1_0 + r1 C, with ``concentration`` in mmol/L and ``relaxivity`` r1 in L/(mmol s). T2* is left alone."""
    rate = 1 / tissue.t1 + relaxivity * concentration / 1000.0
    return replace(tissue, t1=1 / rate)


def protocol(field_strength: float) -> dict[str, Sequence]:
    """The sequences of each contrast at 1.5 or 3 T; FLAIR's TI nulls CSF with the tabulated T1."""
    csf = float(HEALTHY_VALUES[field_strength]["csf"].t1)
    t1w = Mprage(tr=2300.0, te=3.0, ti=900.0, flip=9.0, echo_spacing=7.0, echoes=176)
    tr, te = 9000.0, (100.0 if field_strength == 3.0 else 115.0)
    return {
        "T1w": t1w,
        "T2w": SpinEcho(tr=5000.0, te=90.0 if field_strength == 3.0 else 100.0),
        "PDw": SpinEcho(tr=5000.0, te=15.0),
        "FLAIR": InversionRecovery(tr=tr, te=te, ti=round(null_time(csf, tr, te))),
        "T1ce": t1w,
    }


def tissue_values(field_strength: float) -> dict[str, Tissue]:
    """Nominal values of all `TISSUES`, before gadolinium."""
    values = dict(HEALTHY_VALUES[field_strength])
    wm = values["wm"]
    for name, (t1, t2, t2star, pd) in LESION_FACTORS.items():
        values[name] = Tissue(wm.t1 * t1, wm.t2 * t2, wm.t2star * t2star, pd)
    return values


def draw_tissues(rng: np.random.Generator, field_strength: float, variation: float) -> dict[str, Tissue]:
    """One subject's values: T1 and T2 log-normal about the nominal ones with relative ``variation``, PD half of it."""
    drawn = {}
    for name, tissue in tissue_values(field_strength).items():
        t1, t2, pd = np.clip(rng.standard_normal(3), -2.5, 2.5).tolist()
        drawn[name] = Tissue(
            t1=tissue.t1 * math.exp(variation * t1),
            t2=tissue.t2 * math.exp(variation * t2),
            t2star=tissue.t2star * math.exp(variation * t2),
            pd=min(float(tissue.pd) * math.exp(variation / 2 * pd), 1.0),
        )
    return drawn


def rician(rng: np.random.Generator, values: np.ndarray, sigma: float) -> np.ndarray:
    """Magnitude of the (signed) ``values`` plus complex Gaussian noise of standard deviation ``sigma`` a channel."""
    real = values + sigma * rng.standard_normal(values.shape)
    imaginary = sigma * rng.standard_normal(values.shape)
    return np.hypot(real, imaginary)
