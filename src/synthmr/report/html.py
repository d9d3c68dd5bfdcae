"""One self-contained HTML file about a set of predictions: nothing in it is fetched, pictures are data URIs."""

from __future__ import annotations

import base64
import hashlib
import math
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from synthmr.config import to_dict
from synthmr.evaluate.scores import Score, main_scores
from synthmr.report.curves import THEMES, learning_curve
from synthmr.report.figures import encode, planes_figure
from synthmr.report.mosaic import data_uri, has_webp
from synthmr.report.slices import PLACE, slice_errors, slice_figure
from synthmr.report.strips import strip_figure
from synthmr.report.viewer import has_lesion, listed, viewer_caption, viewer_data
from synthmr.report.views import FigureCase, choose_centre, error_top
from synthmr.report.words import main_protocol, number, short, summary_words, tables

#: device pixels a logical pixel of the case figures: sharp on a dense screen, about 0.5 MB a case; beside a viewer it is for
#: paper, and for those who switched scripts off
SCALE, SCALE_BESIDE_VIEWER = 1.6, 1.2

#: cases with a viewer, of more: the worst ones, the middle one and the best one
MOST_CASES = 5

#: bytes of a page at most; what the pictures beside the viewers take of it, and what one case may take at most
PAGE_BYTES, OTHER_BYTES, CASE_BYTES = 14_000_000, 3_000_000, 4_000_000

TEMPLATES, SCRIPTS = Path(__file__).parent / "templates", ("planes.js", "viewer.js")

#: packages whose version decides what was computed
PACKAGES = ("synthmr", "torch", "numpy", "scipy", "nibabel", "matplotlib")


@dataclass(frozen=True)
class Picture:
    """A figure that was rendered elsewhere.

    Attributes:
        name: heading.
        caption: how to read it.
        alt: what it shows, for those who cannot see it.
        data: the file's bytes.
        kind: png, jpeg or webp.
    """

    name: str
    caption: str
    alt: str
    data: bytes
    kind: str = "png"


@dataclass(frozen=True)
class Grid:
    """A table that was put together elsewhere.

    Attributes:
        title: heading.
        lines: a dict a row, all with the same keys: the columns.
        note: how to read it.
    """

    title: str
    lines: Sequence[Mapping[str, str]]
    note: str = ""


@dataclass(frozen=True)
class ReportData:
    """What goes into a report; every part but the first three may be empty.

    Attributes:
        title: heading of the page.
        command: the command that made it.
        rows: the scores.
        figures: one for each test case; may be a generator, so that one case is in memory at a time.
        config: plain data, shown as YAML; with several runs a section each.
        info: provenance as plain data (data, split, run hash, ...), shown as a list.
        logs: method -> records of its log.jsonl.
        notes: sentences that the reader should know.
        date: ISO date and time; empty means now.
        cases: how many cases get images at most; of more, the worst, the middle one and the best.
        interactive: give cases a viewer; without, a still picture, which is larger then.
        grids: further tables, above the scores.
    """

    title: str
    command: str
    rows: Sequence[Score]
    figures: Iterable[FigureCase | Picture] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)
    logs: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    date: str = ""
    cases: int = MOST_CASES
    interactive: bool = True
    grids: Sequence[Grid] = ()


def case_picture(case: FigureCase, scale: float = SCALE) -> Picture:
    """Render a case's planes, with a caption that says how to read them."""
    methods = list(case.predictions)
    scored = [(name, case.scores[name]["psnr"]) for name in methods if "psnr" in case.scores.get(name, {})]
    psnr = ", ".join(f"{name} {number('psnr', value)} dB" for name, value in scored)
    lesion = has_lesion(case)
    centre = (
        "the chosen voxel"
        if case.centre is not None
        else "the largest cut of the lesion label"
        if lesion
        else "the centre of the brain"
    )
    x, y, z = choose_centre(case)
    caption = (
        f"Axial, coronal and sagittal planes through {centre} (voxel {x}, {y}, {z} of the prepared volume):"
        f" {', '.join(case.sources)} as given, the acquired {case.target}, its prediction by {listed(methods)}, and the absolute"
        f" error. The patient's right is on the left. Acquired and predicted {case.target} share one grey scale, fixed by the"
        " acquired image: compare their brightness directly. Error maps are black where the prediction is right; their colours end"
        f" at {short(error_top(case, methods))} ({case.units}), the same for all methods of this case; at most 1 % of the brain"
        " lies above."
        + (" The green line follows the lesion label." if lesion else "")
        + (f" PSNR of this case, protocol {case.protocol}: {psnr}." if psnr else "")
    )
    alt = (
        f"Case {case.name}: three planes of the inputs {', '.join(case.sources)}, the acquired {case.target}, the prediction by"
        f" {listed(methods)}, and maps of the absolute error with a colour bar." + (f" PSNR: {psnr}." if psnr else "")
    )
    return Picture(case.name, caption, alt, *_encoded(planes_figure(case), scale))


def _themed(draw: Callable[[str], Figure | None]) -> dict[str, str]:
    """Data URIs of a plot for light and for dark pages; empty where there is nothing to draw."""
    drawn = {theme: draw(theme) for theme in THEMES}
    return {theme: data_uri(*_encoded(figure, 2, plot=True)) for theme, figure in drawn.items() if figure is not None}


def _encoded(figure: Figure, scale: float, plot: bool = False) -> tuple[bytes, str]:
    """A figure's bytes and what they are: WebP, for plots without loss; PNG or JPEG where this Pillow was built without it."""
    if has_webp():
        return encode(figure, "lossless" if plot else "webp", scale), "webp"
    kind = "png" if plot else "jpeg"
    return encode(figure, kind, scale), kind


def _curves(logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Learning curves as template data."""
    found = [{"method": method, **_themed(partial(learning_curve, records))} for method, records in logs.items()]
    return [curve for curve in found if "light" in curve]


def _strips(rows: Sequence[Score]) -> list[dict[str, Any]]:
    """One plot a contrast, of its main protocol."""
    found = []
    for contrast in dict.fromkeys(row.contrast for row in rows):
        protocol = main_protocol(rows, contrast)
        found.append({"contrast": contrast, "protocol": protocol, **_themed(partial(strip_figure, rows, contrast, protocol))})
    return [strip for strip in found if "light" in strip]


def _first_psnr(case: FigureCase) -> float:
    """PSNR of the first method, which cases are ordered by; not a number where it was not scored."""
    return float(case.scores.get(next(iter(case.predictions)), {}).get("psnr", math.nan))


def _slices(case: FigureCase) -> dict[str, Any]:
    """The plot of errors by slice as template data, with what the viewer needs to follow it; empty where there is none."""
    found = slice_errors(case)
    if found is None:
        return {}
    worst = ", ".join(f"{method} {found.worst(method)}" for method in found.errors)
    place = {"left": PLACE[0], "width": PLACE[2], "first": found.limits[0], "last": found.limits[1]}
    return {**_themed(partial(slice_figure, found, case.units)), "place": place, "worst": worst}


def _case(case: FigureCase, interactive: bool, budget: int) -> dict[str, Any]:
    """A case as template data."""
    picture = case_picture(case, SCALE_BESIDE_VIEWER if interactive else SCALE)
    data = viewer_data(case, budget) if interactive else {}
    psnr = _first_psnr(case)
    return {
        "picture": picture,
        "uri": data_uri(picture.data, picture.kind),
        "target": case.target,
        "method": next(iter(case.predictions)),
        "psnr": psnr,
        "score": "" if math.isnan(psnr) else f"{number('psnr', psnr)} dB",
        "viewer": data,
        "caption": viewer_caption(case, data) if data else "",
        "slices": _slices(case),
    }


def chosen_cases(rows: Sequence[Score], most: int = MOST_CASES) -> set[str] | None:
    """Names of the cases whose images are shown; None: of all.

    Cases are ranked by the PSNR of the first method, as far as it was scored, before anybody holds their images in memory.
    """
    names = list(dict.fromkeys(row.case for row in rows))
    if len(names) <= most:
        return None
    protocols = {contrast: main_protocol(rows, contrast) for contrast in {row.contrast for row in rows}}
    values: dict[str, list[float]] = {}
    for row in main_scores(rows, "psnr"):
        if row.method == rows[0].method and row.protocol == protocols[row.contrast]:
            values.setdefault(row.case, []).append(row.value)
    ranked = sorted(names, key=lambda name: _order(min(values.get(name, [math.nan]))))
    if most < 3:
        return set(ranked[:most])
    return {*ranked[: most - 2], ranked[len(ranked) // 2], ranked[-1]}


def _order(psnr: float) -> float:
    """Sort key: the worst first, unscored cases last."""
    return math.inf if math.isnan(psnr) else psnr


def _cases(report: ReportData) -> list[dict[str, Any]]:
    """Template data of the cases with images, the worst first; pictures that were rendered elsewhere after them."""
    chosen = chosen_cases(report.rows, report.cases)
    total = len({row.case for row in report.rows})
    shown = min(total, report.cases) if total else report.cases
    budget = min((PAGE_BYTES - OTHER_BYTES) // max(shown, 1), CASE_BYTES)
    cases, pictures = [], []
    for figure in report.figures:
        if isinstance(figure, Picture):
            picture = {"picture": figure, "uri": data_uri(figure.data, figure.kind)}
            pictures.append({**picture, "target": "", "score": "", "viewer": {}, "slices": {}})
        elif chosen is None or figure.name in chosen:
            cases.append(_case(figure, report.interactive, budget))
    return sorted(cases, key=lambda case: _order(case["psnr"])) + pictures


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _flat(data: Mapping[str, Any], above: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """Nested plain data as (key, words) pairs; what lies deeper than three keys shares a line."""
    pairs: list[tuple[str, str]] = []
    for key, value in data.items():
        names = (*above, str(key))
        if isinstance(value, Mapping) and len(names) < 3:
            pairs += _flat(value, names)
        else:
            pairs.append((": ".join(names).replace("_", " "), _words(value)))
    return pairs


def _words(value: Any) -> str:
    """A value of the provenance as words: six digits, keys before their values."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(item)}" for key, item in value.items()) or "none"
    if isinstance(value, (list, tuple, set, frozenset)):
        return ", ".join(map(_words, value)) or "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None or value == "" else str(value)


def _plain(value: Any) -> Any:
    """Configuration as data that YAML can say: dataclasses and mappings opened, everything unknown as text."""
    value = to_dict(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _yaml(config: Mapping[str, Any]) -> str:
    """YAML with a line a key and lists in brackets."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """SafeDumper that writes lists on one line."""

    Dumper.add_representer(list, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True))
    return yaml.dump(_plain(config), Dumper=Dumper, sort_keys=False, allow_unicode=True)


def render(report: ReportData) -> str:
    """The report as HTML text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    cases = _cases(report)
    total = len({row.case for row in report.rows})
    needed = SCRIPTS if any(case["viewer"] for case in cases) else ()
    script = "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in needed)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scores = tables(report.rows)
    return environment.get_template("report.html.j2").render(
        title=report.title,
        summary=summary_words(report.rows),
        tables=scores,
        strips=_strips(report.rows),
        pictures=cases,
        several_targets=len({case["target"] for case in cases} - {""}) > 1,
        left_out=max(total - len({case["picture"].name for case in cases}), 0) if cases else 0,
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(f"\n{script}\n".encode()).digest()).decode("ascii") if script else "",
        curves=_curves(report.logs),
        notes=list(report.notes),
        grids=[grid for grid in report.grids if grid.lines],
        info=_flat(report.info),
        versions=_versions(),
        config=_yaml(report.config) if report.config else "",
        command=report.command,
        date=report.date or time.strftime("%Y-%m-%d %H:%M %Z"),
    )


def write_report(path: Path | str, report: ReportData) -> Path:
    """Write the report as one HTML file, atomically.

    Raises:
        DataError: it cannot be written, or a figure's images do not fit each other.
    """
    from synthmr.io.files import write_text

    write_text(path, render(report))
    return Path(path)
