"""Scoring protocols: which voxels count, in which units, and how a subject becomes one number. A protocol is data.

A score without its protocol means nothing: one prediction scores from 17 to 33 dB depending on the convention. So every
row that synthmr prints names its protocol. `synthmr.evaluate.scoring` applies them; docs/protocols.md has the reasons and the
words for a paper. A protocol of your own is a YAML file with the same keys (``synthmr protocols NAME`` prints one to start from).
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from synthmr.case import PLANES
from synthmr.documents import read_yaml
from synthmr.errors import UsageError, did_you_mean, shown
from synthmr.evaluate.registry import image_metrics

#: which voxels count
REGIONS = ("brain", "whole", "lesion", "non-lesion")
#: how truth g and prediction p become numbers on a common scale
UNITS: Mapping[str, str] = {
    "normaliser": "both are mapped by the truth's normaliser so that its background is 0 and the top of its range 1"
    " (from [-1, 1]: (x + 1) / 2; zscore and mean: 0 scanner units is 0, the truth's upper brain percentile is 1)",
    "truth-max": "both are divided by the truth's maximum",
    "truth-mean": "both are divided by the truth's mean over its whole grid, background included",
    "own-max": "each is divided by its own maximum: a prediction that is wrong by a factor scores as if it were right",
    "own-percentiles": "each is clipped to its own 0.5 and 99.5 percentiles over the whole grid and mapped to [0, 1]: a prediction"
    " that is wrong by a factor scores as if it were right",
}
SLICES = ("all", "brain", "lesion")
SSIM = ("volume", "plane", "global")


@dataclass(frozen=True)
class Protocol:
    """One scoring convention.

    Attributes:
        name: as typed and printed.
        source: who scores like this.
        words: a sentence for a paper.
        differs: why its numbers are not those of `masked-volume`.
        metrics: names of `synthmr.evaluate.registry`, in order of printing.
        regions: brain (the mask), whole (all voxels of the grid or crop), lesion, non-lesion; each is scored apart. Both images
            are 0 outside it, but for whole.
        units: a key of `UNITS`.
        data_range: R of `metrics` in these units, or ``truth-max``: the maximum of the truth (of each
            slice where ``per`` is slice).
        scale: what both are multiplied with after that; 255 for eight-bit numbers. R is multiplied as well.
        plane: axial, coronal or sagittal: where slices are.
        crop: (columns, rows) voxels of the centre crop of each slice of the original RAS grid; None: all of it.
        resize: (columns, rows) to which each slice is interpolated (linear) after that; None: as it is.
        slices: all, brain (those with brain) or lesion (those with a lesion label) of the original grid.
        middle: only so many of them, in the middle; 0: all.
        per: volume (all voxels at once) or slice (a score a slice, then their mean). Slices where a score is infinite have
            no place in its mean and are left out of that; so are slices whose truth has no maximum above 0 to be the range.
        ssim: volume (3-D windows), plane (2-D windows in the slices), or global (one window, the whole volume).
        bins: of the histograms of mutual information.
    """

    name: str
    source: str
    words: str
    differs: str
    metrics: tuple[str, ...]
    regions: tuple[str, ...] = ("brain",)
    units: str = "normaliser"
    data_range: float | str = 1.0
    scale: float = 1.0
    plane: str = "axial"
    crop: tuple[int, int] | None = None
    resize: tuple[int, int] | None = None
    slices: str = "all"
    middle: int = 0
    per: str = "volume"
    ssim: str = "volume"
    bins: int = 64

    def __post_init__(self) -> None:
        def one_of(key: str, value: str, allowed: Sequence[str]) -> None:
            if value not in allowed:
                raise UsageError(f"protocol {self.name}: {key} {shown(value)}: {did_you_mean(value, allowed)}")

        for key, allowed in (("units", tuple(UNITS)), ("slices", SLICES), ("ssim", SSIM), ("per", ("volume", "slice"))):
            one_of(key, getattr(self, key), allowed)
        one_of("plane", self.plane, tuple(PLANES))
        if not self.metrics or not self.regions:
            raise UsageError(f"protocol {self.name}: metrics and regions name at least one each.")
        for name in self.metrics:
            one_of("metric", name, image_metrics())
        for name in self.regions:
            one_of("region", name, REGIONS)
        if isinstance(self.data_range, str):
            one_of("data_range", self.data_range, ("truth-max",))
        elif not 0 < self.data_range < float("inf"):
            raise UsageError(f"protocol {self.name}: data_range {self.data_range} is no positive number, nor truth-max.")
        if self.middle < 0 or self.bins < 2 or not 0 < self.scale < float("inf"):
            raise UsageError(f"protocol {self.name}: middle is at least 0, bins at least 2, and scale above 0.")
        for key in ("crop", "resize"):
            size = getattr(self, key)
            if size is not None and (len(size) != 2 or min(size) < 1):
                raise UsageError(f"protocol {self.name}: {key} {size} is not two numbers of voxels, such as [240, 240].")
        if self.per == "slice" and self.ssim != "plane" and {"ssim", "ms_ssim"} & set(self.metrics):
            raise UsageError(f"protocol {self.name}: ssim {self.ssim} of single slices does not exist; use plane.")

    @property
    def rescales(self) -> bool:
        """Whether the prediction's own values decide its scale, so that an error of gain is forgiven."""
        return self.units.startswith("own-")

    @property
    def needs_segmentation(self) -> bool:
        """Whether a lesion label is needed."""
        return self.slices == "lesion" or bool({"lesion", "non-lesion"} & set(self.regions))


_VOLUME = ("psnr", "ssim", "nmse", "nrmse", "mae")

MASKED_VOLUME = Protocol(
    name="masked-volume",
    source="synthmr",
    words="Metrics were computed over all voxels of the brain mask, in units fixed by the ground truth alone (data range 1),"
    " one value a subject; the prediction was neither rescaled nor clipped.",
    differs="the reference: brain voxels alone, scale fixed by the truth",
    metrics=(*_VOLUME, "structure_psnr"),
)

WHOLE_VOLUME = Protocol(
    name="whole-volume",
    source="common in code that stacks whole volumes",
    words="Metrics were computed over all voxels of the original grid, background included, in units fixed by the ground truth"
    " alone (data range 1).",
    differs="background counts, where both images are 0 and nothing can go wrong: the error is diluted by the share of background",
    metrics=_VOLUME,
    regions=("whole",),
)

HINET2020 = Protocol(
    name="hinet2020",
    source="Zhou et al., Hi-Net, IEEE TMI 2020, sections IV-A and IV-B",
    words="Metrics were computed over the 160x180 centre crop of all axial slices stacked to a volume, background included,"
    " on [0, 1]; the peak of PSNR is 1, which is max(y, G(x)) of the paper's formula for images that fill [0, 1].",
    differs="the crop's background and its slices without brain count",
    metrics=_VOLUME,
    regions=("whole",),
    crop=(160, 180),
    ssim="plane",
)

MILR2018 = Protocol(
    name="milr2018",
    source="Chartsias et al., MILR, IEEE TMI 2018, sections V-B and V-E",
    words="Volumes were divided by the ground truth's average intensity; MSE over all voxels, PSNR with the ground truth's"
    " maximum as peak, SSIM from the means and variances of whole volumes.",
    differs="the peak is the truth's brightest voxel, several times the brightness of most of the brain; background counts; SSIM"
    " has a single window as large as the volume, which sees overall brightness and contrast but no local structure",
    metrics=("mse", "ssim", "psnr"),
    regions=("whole",),
    units="truth-mean",
    data_range="truth-max",
    ssim="global",
)

DISENTANGLED = Protocol(
    name="disentangled",
    source="disentangled synthesis, sections III-A and III-C, Eq. 6-8",
    words="Metrics were computed in each of the 80 middle axial slices with brain, resized to 256x256, background included, and"
    " averaged over slices; the peak of PSNR is the maximum of the slice's ground truth, NRMSE is the error's norm over the"
    " truth's.",
    differs="every slice has its own peak, outer slices and slices without brain are left out, background counts, and slices"
    " are averaged",
    metrics=("psnr", "ssim", "nrmse_norm"),
    regions=("whole",),
    data_range="truth-max",
    resize=(256, 256),
    slices="brain",
    middle=80,
    per="slice",
    ssim="plane",
)

MAFNET = Protocol(
    name="mafnet",
    source="MAF-Net, section IV",
    words="Metrics were computed in each axial slice with tumour, 224x224 centre crop, background included, and averaged over"
    " slices.",
    differs="slices without tumour are left out; background counts; slices are averaged",
    metrics=("ssim", "psnr"),
    regions=("whole",),
    crop=(224, 224),
    slices="lesion",
    per="slice",
    ssim="plane",
)

IMT2020 = Protocol(
    name="imt2020",
    source="IMT, Scientific Reports 2020, cross-modality generation, Eq. 6-9",
    words="Metrics were computed in every axial slice, resized to 256x256, on the 0-255 scale, background included, and averaged"
    " over slices; infinite PSNR of empty slices was left out of its mean.",
    differs="empty slices count in the means of MAE, MI and SSIM (0, 0 and 1 where both images are empty), background counts, and"
    " slices are averaged",
    metrics=("mae", "psnr", "mutual_information", "ssim"),
    regions=("whole",),
    scale=255.0,
    resize=(256, 256),
    per="slice",
    ssim="plane",
    bins=256,
)

OWN_MAX = Protocol(
    name="own-max",
    source="a common convention in published code: each image over its own maximum",
    words="Both images were divided by their own maximum before scoring, which hides errors of overall intensity.",
    differs="the prediction is rescaled by its own maximum: not a measure of intensity error; background counts",
    metrics=("psnr", "ssim", "nmse", "mae"),
    regions=("whole",),
    units="own-max",
)

BRASYN = Protocol(
    name="brasyn",
    source="BraSyn challenge, its published SSIM script: each image mapped by its own percentiles, tumour and rest apart",
    words="Both images were clipped to their own 0.5 and 99.5 percentiles and mapped to [0, 1], which hides errors of overall"
    " intensity; SSIM in the tumour and outside it, the other part set to 0.",
    differs="the prediction is rescaled by its own percentiles: not a measure of intensity error; outside the tumour background"
    " counts",
    metrics=("ssim", "psnr"),
    regions=("lesion", "non-lesion"),
    units="own-percentiles",
)

PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (MASKED_VOLUME, WHOLE_VOLUME, HINET2020, MILR2018, DISENTANGLED, MAFNET, IMT2020, OWN_MAX, BRASYN)
}


def get_protocol(name: str) -> Protocol:
    """The protocol called ``name``, or the one in the YAML file of that name.

    Raises:
        UsageError: there is none; the message suggests the nearest. Or the file is no protocol.
        DataError: the file cannot be read.
    """
    if name.endswith((".yaml", ".yml")):
        return read_protocol(Path(name))
    if name not in PROTOCOLS:
        hint = did_you_mean(name, (*PROTOCOLS, "all"))
        raise UsageError(f"unknown protocol {name!r}: {hint} A protocol of your own is a .yaml file.")
    return PROTOCOLS[name]


def get_protocols(names: Sequence[str]) -> list[Protocol]:
    """Each by `get_protocol`; ``all`` is every protocol in the box; none given is `masked-volume`."""
    chosen: dict[str, Protocol] = {}
    for name in names or ("masked-volume",):
        for protocol in PROTOCOLS.values() if name == "all" else [get_protocol(name)]:
            if chosen.setdefault(protocol.name, protocol) != protocol:
                raise UsageError(f"two protocols are called {protocol.name}; rename one (the key name in its YAML file).")
    return list(chosen.values())


def read_protocol(path: Path) -> Protocol:
    """A protocol from YAML: the attributes of `Protocol` as keys; name, source, words and differs are free text.

    ``base: NAME`` takes what is not said from a protocol in the box, but for its words: they are no longer true.

    Raises:
        DataError: the file cannot be read, or is no YAML.
        UsageError: unknown keys or values, or a metric is missing.
    """
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise UsageError(f"{path} is no protocol; give keys such as metrics: [psnr, ssim] (`synthmr protocols NAME` prints some).")
    given: dict[str, Any] = {str(key).replace("-", "_"): value for key, value in data.items()}
    known = {entry.name: entry for entry in fields(Protocol)}
    base = str(given.pop("base", ""))
    if base and base not in PROTOCOLS:
        raise UsageError(f"{path}: base {shown(base)} is no protocol in the box: {did_you_mean(base, PROTOCOLS)}")
    for key in given:
        if key not in known:
            raise UsageError(f"{path}: unknown key {shown(key)}: {did_you_mean(key, (*known, 'base'))}")
    values = {key: getattr(PROTOCOLS[base], key) for key in known} if base else {}
    values |= {"name": path.stem, "source": str(path), "differs": f"see {path}", "words": ""}
    values |= {key: _typed(path, key, value) for key, value in given.items()}
    if "metrics" not in values:
        raise UsageError(f"{path} names no metrics; add metrics: [psnr, ssim].")
    if values["name"] in PROTOCOLS and Protocol(**values) != PROTOCOLS[values["name"]]:
        raise UsageError(f"{path}: {values['name']} is a protocol in the box; give yours another name.")
    return Protocol(**values)


def _typed(path: Path, key: str, value: Any) -> Any:
    """A YAML value in the type of its attribute.

    Raises:
        UsageError: it does not fit.
    """
    try:
        if key in ("metrics", "regions"):
            if isinstance(value, str):
                value = [value]
            return tuple(str(item) for item in value)
        if key in ("crop", "resize"):
            return None if value is None else tuple(operator.index(item) for item in list(value))
        if isinstance(value, bool) or value is None:
            raise TypeError
        if key in ("middle", "bins"):
            return operator.index(value)
        if key == "scale" or (key == "data_range" and value != "truth-max"):
            return float(value)
    except (TypeError, ValueError):
        raise UsageError(
            f"{path}: {key}: {shown(value)} does not fit; `synthmr protocols masked-volume` shows what does."
        ) from None
    return str(value)


def to_yaml(protocol: Protocol) -> str:
    """A protocol as the YAML text that `read_protocol` reads."""
    import yaml

    data = {entry.name: getattr(protocol, entry.name) for entry in fields(Protocol)}
    return yaml.safe_dump(
        {key: list(value) if isinstance(value, tuple) else value for key, value in data.items()},
        sort_keys=False,
        allow_unicode=True,
        width=120,
    )
