"""Every metric, once: its function, unit, direction, digits, and what its function must be given beside the two images.

A new metric is a function in `synthmr.evaluate.metrics` (or in your own code) and one `register` call; protocols, tables,
comparisons and reports follow. A metric without a function is a number that another function makes: parts of a tumour, slices
that jump, landmarks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from synthmr.errors import UsageError, did_you_mean
from synthmr.evaluate import metrics

#: what is better: more, less, being near 1, or nothing (a number that describes)
Better = Literal["higher", "lower", "one", ""]

#: what a metric may ask for, as its function's keyword -> what it is given
NEEDS = {
    "mask": "bool array, the voxels that count; None: all",
    "data_range": "R of the protocol in its units",
    "value_range": "(0, R)",
    "bins": "of the protocol's histograms",
    "slice_axis": "the axis of the slices where the protocol's windows lie in slices, else None",
    "spacing": "voxel edges along the arrays' axes, in mm",
}

#: direction -> arrow of a column head, and words
ARROWS: dict[Better, tuple[str, str]] = {
    "higher": ("↑", "higher is better"),
    "lower": ("↓", "lower is better"),
    "one": ("→ 1", "best at 1"),
    "": ("", ""),
}


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: as typed, printed and stored.
        better: higher, lower, one (best at 1, worse on both sides of it), or empty.
        unit: as printed behind a value; empty: none.
        digits: decimals in tables.
        function: ``function(prediction, truth, **needs) -> float`` of two arrays of one shape; None: made elsewhere.
        needs: keys of `NEEDS`, the keywords that the function is given.
        title: head of a report's column; empty: the name with spaces.
        optimistic: whether the truth was used to fit the prediction, so that the number flatters.
        pointwise: whether the voxels' places play no part: the function may be given the voxels that count as two vectors.
        ssim_map: whether it is the mean of the SSIM map, which protocols share.
        one_window: the function for protocols whose SSIM is ``global``; None: the same.
    """

    name: str
    better: Better
    unit: str = ""
    digits: int = 4
    function: Callable[..., float] | None = field(default=None, compare=False)
    needs: tuple[str, ...] = ("mask",)
    title: str = ""
    optimistic: bool = False
    pointwise: bool = False
    ssim_map: bool = False
    one_window: Callable[..., float] | None = field(default=None, compare=False)

    @property
    def head(self) -> str:
        """Head of a table's column: name, arrow, and a word where the number flatters."""
        parts = (self.name, ARROWS[self.better][0], "(optimistic)" if self.optimistic else "")
        return " ".join(part for part in parts if part)

    def text(self, mean: float, sd: float = math.nan, unit: bool = True) -> str:
        """``15.23 +- 1.02 dB``; without the sd where it is NaN."""
        spread = "" if math.isnan(sd) else f" +- {sd:.{self.digits}f}"
        return f"{mean:.{self.digits}f}{spread}{f' {self.unit}' if self.unit and unit else ''}"


_METRICS: dict[str, Metric] = {}


def register(metric: Metric) -> Metric:
    """Make a metric known to protocols, tables, comparisons and reports.

    Raises:
        UsageError: the name is taken or cannot be a column's, or the metric asks for what no protocol has.
    """
    name = metric.name
    if name in _METRICS:
        raise UsageError(f"there is a metric {name} already; give yours another name.")
    if not name or set(name) & set("@,; \n"):
        raise UsageError(f"{name!r} cannot name a metric: it must have no blank, comma, semicolon or @.")
    if metric.better not in ARROWS:
        raise UsageError(f"metric {name}: better {metric.better!r}; allowed: higher, lower, one, or empty.")
    for need in metric.needs:
        if need not in NEEDS:
            raise UsageError(f"metric {name} needs {need!r}: {did_you_mean(need, NEEDS)}")
    _METRICS[name] = metric
    return metric


def unregister(name: str) -> None:
    """Forget a metric; nothing happens where there is none of that name."""
    _METRICS.pop(name, None)


def known(name: str) -> bool:
    """Whether a metric of that name is registered."""
    return name in _METRICS


def get(name: str) -> Metric:
    """The metric of that name; one that nobody registered (of an old table, or another program's) has no unit and no direction."""
    return _METRICS.get(name) or Metric(name, "")


def names() -> tuple[str, ...]:
    """Every registered metric, in order of registration."""
    return tuple(_METRICS)


def image_metrics() -> tuple[str, ...]:
    """The metrics of a pair of images: those that a protocol can name."""
    return tuple(name for name, metric in _METRICS.items() if metric.function is not None)


def direction(name: str) -> bool | None:
    """Whether higher is better; None where neither is, or where nobody knows."""
    return {"higher": True, "lower": False}.get(get(name).better)


def format_score(name: str, mean: float, sd: float = math.nan) -> str:
    """``15.23 +- 1.02 dB``; without the sd where it is NaN."""
    return get(name).text(mean, sd)


def _images() -> None:
    """The metrics of a pair of images."""
    ranged, windows, histogram = ("mask", "data_range"), ("mask", "data_range", "slice_axis"), ("mask", "value_range", "bins")
    made = metrics

    def add(name: str, better: Better, function: Callable[..., float], title: str = "", **more: Any) -> None:
        register(Metric(name, better, function=function, title=title, **{"pointwise": True, **more}))

    add("psnr", "higher", made.psnr, "PSNR", unit="dB", digits=2, needs=ranged)
    add("ssim", "higher", made.ssim, "SSIM", needs=windows, pointwise=False, ssim_map=True, one_window=made.ssim_global)
    add("nmse", "lower", made.nmse, "NMSE")
    add("nrmse", "lower", made.nrmse, "NRMSE", needs=ranged)
    add("nrmse_norm", "lower", made.nrmse_norm)
    add("mae", "lower", made.mae, "MAE")
    add("mse", "lower", made.mse, "MSE", digits=5)
    add("mae255", "lower", made.mae255, "MAE (of 255)", digits=2, needs=ranged)
    add("ms_ssim", "higher", made.ms_ssim, "MS-SSIM", needs=windows, pointwise=False)
    add("ssim_global", "higher", made.ssim_global, "global SSIM", needs=ranged)
    add("mutual_information", "higher", made.mutual_information, needs=histogram)
    add("normalized_mutual_information", "higher", made.normalized_mutual_information, "normalised MI", needs=histogram)
    add("ncc", "higher", made.ncc, "NCC")
    add("hfen", "lower", made.hfen, "HFEN", pointwise=False)
    add("gradient_error", "lower", made.gradient_error, pointwise=False)
    add("structure_psnr", "higher", made.structure_psnr, "structure PSNR", unit="dB", digits=2, needs=ranged, optimistic=True)
    add("structure_rmse", "lower", made.structure_rmse, "structure RMSE", optimistic=True)
    add("sharpness", "one", made.sharpness, pointwise=False)


def _others() -> None:
    """Numbers that functions of `synthmr.evaluate.segmentation`, `.regions` and `.spatial` make."""
    register(Metric("landmark_distance", "lower", "mm", 2))
    for part in ("WT", "TC", "ET"):
        register(Metric(f"dice_{part}", "higher"))
        register(Metric(f"assd_{part}", "lower", "mm", 2))
        register(Metric(f"hd95_{part}", "lower", "mm", 2))
    for name in ("slice_jump", "slice_stripes", "seam"):
        register(Metric(name, "one"))
    for name in ("false_bright", "missed_bright"):
        register(Metric(name, "lower"))
        register(Metric(f"{name}_ml", "lower", "ml", 2, title=name.replace("_", " ")))
    # the truth's own, and two shares that are right where they are equal: none of them is better by being larger
    for name in ("bright_threshold", "lesion_bright", "lesion_bright_both"):
        register(Metric(name, ""))


_images()
_others()
