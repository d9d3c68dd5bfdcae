"""Figures of a synthesised case, and learning curves. Drawn with matplotlib's object interface: no pyplot, no global state.

Layout is in logical pixels (one inch is 100 of them), so that sizes can be read off; `encode` renders at a multiple.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from synthmr.case import plane_axis
from synthmr.errors import DataError, UsageError, did_you_mean
from synthmr.report.views import (
    CONVENTION,
    LETTERS,
    PLANES,
    Box,
    FigureCase,
    brain_box,
    choose_centre,
    error_top,
    plane_image,
    plane_size,
    window,
)
from synthmr.report.words import number, short

PIXELS_PER_INCH = 100
KINDS = ("png", "palette", "jpeg", "webp", "lossless")
ERROR_COLOURS = "inferno"
OUTLINE = "#35d0ba"
TEXT, QUIET = "#f4f4f4", "#a9adb3"

#: more columns than this would make the panels too small: error maps then go beneath their predictions, and inputs
#: stand two to a column
MOST_COLUMNS = 6

#: widths and heights in logical pixels
SIDE, GAP, GROUP_GAP, HEAD, PAD, BAR = 28, 4, 14, 46, 10, 100

#: the tallest panel, as a multiple of its width
TALLEST = 1.35


@dataclass(frozen=True)
class _Column:
    """One column: a source, the truth, a prediction or an error map."""

    kind: str
    name: str
    title: str
    subtitle: str


def _columns(case: FigureCase, methods: Sequence[str]) -> list[_Column]:
    columns = [_Column("source", name, name, "input") for name in case.sources]
    columns.append(_Column("truth", case.target, case.target, "acquired (truth)"))
    for method in methods:
        psnr = case.scores.get(method, {}).get("psnr")
        columns.append(_Column("prediction", method, method, "prediction" if psnr is None else f"PSNR {number('psnr', psnr)} dB"))
    for method in methods:
        columns.append(_Column("error", method, "error", f"|truth − {method}|"))
    return columns


class _Canvas:
    """A black figure with helpers that place things by logical pixels from the top left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / PIXELS_PER_INCH, height / PIXELS_PER_INCH), dpi=PIXELS_PER_INCH, facecolor="black")

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Axes whose top left corner is (x, y)."""
        box = (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(box, facecolor="black")

    def text(self, x: float, y: float, words: str, size: float, **style: Any) -> None:
        """Text at (x, y), never read as mathematics (a case may be called ``a$b``)."""
        style = {"color": TEXT, "ha": "left", "va": "baseline", "family": "DejaVu Sans", **style}
        self.figure.text(x / self.width, 1 - y / self.height, words, fontsize=_points(size), parse_math=False, **style)


def _points(pixels: float) -> float:
    return pixels * 72 / PIXELS_PER_INCH


def _fit(words: str, width: float, size: float, smallest: float = 10.0) -> tuple[str, float]:
    """Shrink, then shorten in the middle, until ``words`` fit into ``width`` pixels; returns (words, font size)."""
    wide = 0.68  # mean advance of bold DejaVu Sans in units of its size, rounded up
    size = max(min(size, width / (wide * max(len(words), 1))), min(smallest, size))
    room = max(int(width / (wide * size)), 3)
    if len(words) > room:
        head = (room - 1) // 2
        words = f"{words[: room - 1 - head]}…{words[len(words) - head :] if head else ''}"
    return words, size


@dataclass(frozen=True)
class _Style:
    """What all panels of a figure share."""

    case: FigureCase
    centre: tuple[int, int, int]
    box: Box
    windows: Mapping[str, tuple[float, float]]
    top: float


def _style(case: FigureCase, methods: Sequence[str]) -> _Style:
    inside = case.mask.astype(bool)
    windows = {name: window(image, inside) for name, image in case.sources.items()}
    windows["truth"] = window(case.truth, inside)
    return _Style(case, choose_centre(case), brain_box(inside, case.spacing), windows, error_top(case, methods))


def _slice(style: _Style, volume: np.ndarray, plane: str) -> np.ndarray:
    """The picture of ``volume`` in ``plane`` through the centre, cropped to the brain."""
    axis = plane_axis(plane)
    return plane_image(volume[style.box], plane, style.centre[axis] - style.box[axis].start)


def _panel(axes: Axes, style: _Style, column: _Column, plane: str) -> None:
    """Draw one panel: the image in its window, black outside the brain, with the lesion's outline."""
    case = style.case
    inside = _slice(style, case.mask, plane).astype(bool)
    if column.kind == "error":
        image = np.abs(_slice(style, case.truth, plane).astype(np.float64) - _slice(style, case.predictions[column.name], plane))
        low, high, colours = 0.0, style.top, ERROR_COLOURS
    else:
        volume = {"source": case.sources, "prediction": case.predictions}.get(column.kind, {}).get(column.name, case.truth)
        image, colours = _slice(style, volume, plane), "gray"
        low, high = style.windows[column.name if column.kind == "source" else "truth"]
    width, height = plane_size(case.mask[style.box].shape, case.spacing, plane)
    shown = np.where(inside, image, low)
    axes.imshow(shown, cmap=colours, vmin=low, vmax=high, extent=(0, width, height, 0), interpolation="bilinear")
    if case.segmentation is not None and column.kind in ("truth", "error"):
        lesion = (_slice(style, case.segmentation, plane) > 0) & inside
        if lesion.any():
            rows, columns = lesion.shape
            x = (np.arange(columns) + 0.5) * width / columns
            y = (np.arange(rows) + 0.5) * height / rows
            axes.contour(x, y, lesion.astype(float), levels=[0.5], colors=[OUTLINE], linewidths=0.8)
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_gid(f"{column.kind}:{column.name}:{plane}")


def _corner(axes: Axes, x: float, y: float, words: str, size: float) -> None:
    """Words in a corner of a panel, given as 0 or 1 along x (to the right) and y (up)."""
    style: dict[str, Any] = {
        "ha": "right" if x else "left",
        "va": "top" if y else "bottom",
        "fontsize": _points(size),
        "weight": "bold",
    }
    place = (abs(x - 0.012), abs(y - 0.012))
    axes.text(*place, words, transform=axes.transAxes, color=TEXT, family="DejaVu Sans", parse_math=False, **style)


def _bar(canvas: _Canvas, style: _Style, x: float, y: float, height: float) -> None:
    """The error's colour bar with its units, 14 pixels wide; ticks and words take the rest of `BAR`."""
    axes = canvas.axes(x, y, 14, height)
    mappable = ScalarMappable(Normalize(0, style.top), ERROR_COLOURS)
    bar = canvas.figure.colorbar(mappable, cax=axes, extend="max", extendfrac=0.04)
    bar.locator = _ticks(style.top)
    bar.ax.tick_params(colors=TEXT, labelsize=_points(12), length=3, pad=2)
    bar.outline.set_edgecolor(QUIET)
    bar.outline.set_linewidth(0.6)
    axes.set_gid("colour bar")
    words = f"absolute error\n({style.case.units})"
    bar.set_label(words, color=TEXT, fontsize=_points(12), labelpad=5, linespacing=1.2)


def _ticks(top: float) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=4, steps=[1, 2, 2.5, 5, 10])


def _footer(style: _Style, width: float) -> list[str]:
    """Lines that say how to read the figure; they fit ``width`` pixels at 12 pixels a letter height."""
    case = style.case
    low, high = (short(value) for value in style.windows["truth"])
    lines = f"{CONVENTION} {case.target}, acquired and predicted, in one window: {low} (black) to {high} (white) {case.units}."
    lesion = case.segmentation is not None and bool((case.segmentation > 0).any())
    lines += " Inputs each in a window of their own."
    lines += f" Scores: protocol {case.protocol}." if any("psnr" in score for score in case.scores.values()) else ""
    lines += " Green line: lesion label." if lesion else ""
    return textwrap.wrap(lines, max(int(width / (0.58 * 12)), 40))


def _chosen(case: FigureCase, methods: Sequence[str] | None, planes: Sequence[str]) -> list[str]:
    """The methods to draw.

    Raises:
        UsageError: an unknown method or plane, or none.
    """
    names = list(case.predictions) if methods is None else list(methods)
    for word, values, allowed in (("method", names, list(case.predictions)), ("plane", planes, PLANES)):
        if not values:
            raise UsageError(f"case {case.name}: no {word} was named; allowed: {', '.join(allowed)}.")
        for value in values:
            if value not in allowed:
                raise UsageError(f"case {case.name}: unknown {word} {value!r}: {did_you_mean(value, allowed)}")
    return names


def planes_figure(
    case: FigureCase,
    methods: Sequence[str] | None = None,
    planes: Sequence[str] = PLANES,
    width: int = 1400,
    footer: bool = True,
) -> Figure:
    """Planes as rows; sources, truth, predictions and error maps as columns.

    Truth and predictions share one window, which the truth alone fixes; error maps share one colour bar. Where that
    would take more than `MOST_COLUMNS` columns, each error map goes beneath its prediction.

    Args:
        case: what to show.
        methods: predictions to show, in this order; None: all.
        planes: rows, of axial, coronal, sagittal.
        width: of the figure in logical pixels (100 an inch).
        footer: say below how to read it.

    Raises:
        UsageError: an unknown method or plane.
    """
    names = _chosen(case, methods, planes)
    style = _style(case, names)
    columns = _columns(case, names)
    places, beneath = _places(columns)
    across = 1 + max(place[0] for place in places)
    room = width - SIDE - PAD - (0 if beneath else BAR)
    groups = _groups(columns, places, across)
    size = (room - GAP * (across - 1) - GROUP_GAP * groups[-1]) / across
    left = [SIDE + i * (size + GAP) + groups[i] * GROUP_GAP for i in range(across)]
    sizes = [plane_size(case.mask[style.box].shape, case.spacing, plane) for plane in planes]
    heights = [min(size * tall / wide, size * TALLEST) for wide, tall in sizes]
    notes = _footer(style, width - SIDE - PAD) if footer else []
    step = [(2 if beneath else 1) * (tall + GAP) + (GROUP_GAP if beneath else 0) for tall in heights]
    canvas = _Canvas(width, HEAD + sum(step) + PAD + 17 * len(notes))
    _heads(canvas, columns, places, left, size)
    top = float(HEAD)
    for plane, tall, down in zip(planes, heights, step, strict=True):
        _row(canvas, style, columns, places, plane, (left, top, size, tall))
        if beneath:  # a bar a plane, in the free place left of the error maps
            first = left[places[-len(names)][0]]
            _bar(canvas, style, first - BAR - 4, top + 1.06 * tall + GAP, tall * 0.88)
        top += down
    if not beneath:
        tall = min((top - HEAD) * 0.88, 420)
        _bar(canvas, style, width - BAR - PAD + 8, HEAD + (top - HEAD - tall) / 2, tall)
    for i, line in enumerate(reversed(notes)):
        canvas.text(SIDE, canvas.height - 8 - 17 * i, line, 12, color=QUIET)
    return canvas.figure


def _places(columns: Sequence[_Column]) -> tuple[list[tuple[int, int]], bool]:
    """(column, 0 above or 1 beneath) of every panel of a plane, and whether there is a row beneath."""
    if len(columns) <= MOST_COLUMNS:
        return [(i, 0) for i in range(len(columns))], False
    sources = sum(column.kind == "source" for column in columns)
    methods = sum(column.kind == "error" for column in columns)
    truth = (sources + 1) // 2
    places = [(i // 2, i % 2) for i in range(sources)] + [(truth, 0)]
    return places + [(truth + 1 + i, row) for row in (0, 1) for i in range(methods)], True


def _groups(columns: Sequence[_Column], places: Sequence[tuple[int, int]], across: int) -> list[int]:
    """How many wider gaps stand left of each column: inputs | truth and predictions | error maps beside them."""
    order = {"source": 0, "truth": 1, "prediction": 1, "error": 2}
    groups = [0] * across
    for column, (x, row) in zip(columns, places, strict=True):
        if row == 0:
            groups[x] = order[column.kind] - (0 if columns[0].kind == "source" else 1)
    return groups


def _heads(
    canvas: _Canvas, columns: Sequence[_Column], places: Sequence[tuple[int, int]], left: Sequence[float], size: float
) -> None:
    """The two lines above every column, centred; inputs that stand above each other share theirs."""
    for i, column in enumerate(columns):
        x, row = places[i]
        if row:
            continue
        title, subtitle = column.title, column.subtitle
        partner = [other for other, place in zip(columns, places, strict=True) if place == (x, 1) and other.kind == "source"]
        if partner:
            title, subtitle = f"{title}, {partner[0].title}", "inputs, above and below"
        for words, y, pixels, weight, colour in (
            (title, 19, 16.0, "bold", TEXT),
            (subtitle, 37, 13.0, "normal", TEXT if column.kind == "prediction" else QUIET),
        ):
            shown, pixels = _fit(words, size, pixels)
            canvas.text(left[x] + size / 2, y, shown, pixels, ha="center", weight=weight, color=colour)


def _row(
    canvas: _Canvas,
    style: _Style,
    columns: Sequence[_Column],
    places: Sequence[tuple[int, int]],
    plane: str,
    where: tuple[Sequence[float], float, float, float],
) -> None:
    """Draw one plane: its name and its panels. ``where``: left edges, top, width and height of the panels, in pixels."""
    left, top, size, tall = where
    canvas.text(SIDE - 10, top + tall / 2, _plane_name(style, plane), 14, rotation=90, ha="center", va="center", color=QUIET)
    beneath = any(row for _, row in places)
    for column, (x, row) in zip(columns, places, strict=True):
        axes = canvas.axes(left[x], top + row * (tall + GAP), size, tall)
        _panel(axes, style, column, plane)
        if (x, row) == (0, 0) or column.kind == "truth":
            for side, letter in enumerate(LETTERS[plane]):
                _corner(axes, side, 1, letter, 14)
        if beneath and column.kind == "source":
            _corner(axes, 0, 0, column.title, 14)
        if row and column.kind == "error":
            _corner(axes, 0, 0, "error", 12)


def _plane_name(style: _Style, plane: str) -> str:
    """The plane, and for sagittal ones the side of the head, which the picture does not show."""
    if plane != "sagittal":
        return plane
    middle = (style.box[0].start + style.box[0].stop - 1) / 2
    offset = (style.centre[0] - middle) * style.case.spacing[0]
    return plane if abs(offset) < 5 else f"{plane} ({'right' if offset > 0 else 'left'})"


def readme_figure(case: FigureCase, method: str = "", planes: Sequence[str] = ("axial",), width: int = 1200) -> Figure:
    """One row a plane: sources, truth, one prediction, its error map with the colour bar.

    Args:
        case: what to show.
        method: the prediction; empty: the last one.
        planes: rows.
        width: in logical pixels.

    Raises:
        UsageError: an unknown method or plane.
    """
    return planes_figure(case, [method or list(case.predictions)[-1]], planes, width, footer=False)


def encode(figure: Figure, kind: str = "png", scale: float = 1.0) -> bytes:
    """Render a figure.

    Args:
        figure: any matplotlib figure.
        kind: png; palette (a PNG of 256 fixed colours, half the size: 128 greys and the error colours); jpeg (a third
            of the size for pictures; full colour resolution, so that text stays sharp); webp (half of jpeg); or lossless
            (webp without loss, a third of png for plots).
        scale: device pixels a logical pixel.

    Raises:
        UsageError: an unknown ``kind``.
    """
    from PIL import Image

    if kind not in KINDS:
        raise UsageError(f"unknown picture format {kind!r}: {did_you_mean(kind, KINDS)}")
    raw, out = io.BytesIO(), io.BytesIO()
    figure.savefig(raw, format="png", dpi=PIXELS_PER_INCH * scale, metadata={"Software": None})
    picture = Image.open(raw).convert("RGB")
    if kind == "jpeg":
        picture.save(out, "JPEG", quality=88, subsampling=0, optimize=True)
    elif kind in ("webp", "lossless"):
        picture.save(out, "WEBP", lossless=kind == "lossless", quality=82, method=4)
    elif kind == "palette":
        # a fixed palette keeps greys and colours even, where an adaptive one makes steps in the colour bar
        colours = (colormaps[ERROR_COLOURS](np.linspace(0, 1, 122))[:, :3] * 255).round().astype(np.uint8)
        greys = np.repeat(np.linspace(0, 255, 128).round().astype(np.uint8)[:, None], 3, axis=1)
        line = np.outer(np.linspace(0.3, 1, 6), [int(OUTLINE[i : i + 2], 16) for i in (1, 3, 5)]).round().astype(np.uint8)
        palette = Image.new("P", (1, 1))
        palette.putpalette(np.concatenate([greys, colours, line]).tobytes())
        picture.quantize(palette=palette, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    else:
        picture.save(out, "PNG", optimize=True)
    return out.getvalue()


def write_picture(path: Path | str, figure: Figure, limit: int = 300_000, scale: float = 1.5) -> int:
    """Write a PNG of at most ``limit`` bytes, atomically: full colour if it fits, else a palette, else fewer pixels.

    Returns:
        The number of bytes.

    Raises:
        DataError: it cannot be written, or no rendering is small enough.
    """
    from synthmr.io.files import atomic

    for factor, kind in ((1.0, "png"), (1.0, "palette"), (0.75, "palette"), (0.5, "palette")):
        data = encode(figure, kind, scale * factor)
        if len(data) <= limit:
            with atomic(path) as temporary:
                temporary.write_bytes(data)
            return len(data)
    raise DataError(f"{path}: the picture takes {len(data)} bytes at its smallest and {limit} are allowed; draw fewer planes.")
