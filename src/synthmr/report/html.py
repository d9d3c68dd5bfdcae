"""One self-contained HTML file about a set of predictions: nothing in it is fetched, pictures are data URIs."""

from __future__ import annotations

import base64
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from synthmr.config import to_dict
from synthmr.report.curves import THEMES, learning_curve
from synthmr.report.figures import encode, planes_figure
from synthmr.report.views import FigureCase, choose_centre, error_top
from synthmr.report.words import number, short, summary_words, tables

#: device pixels a logical pixel of the case figures: sharp on a dense screen, about 0.5 MB a case
SCALE = 1.6

#: packages whose version decides what was computed
PACKAGES = ("synthmr", "torch", "monai", "numpy", "scipy", "scikit-image", "nibabel", "matplotlib")


@dataclass(frozen=True)
class Picture:
    """A figure that was rendered elsewhere.

    Attributes:
        name: heading.
        caption: how to read it.
        alt: what it shows, for those who cannot see it.
        data: the file's bytes.
        kind: png or jpeg.
    """

    name: str
    caption: str
    alt: str
    data: bytes
    kind: str = "png"


@dataclass(frozen=True)
class ReportData:
    """What goes into a report; every part but the first three may be empty.

    Attributes:
        title: heading of the page.
        command: the command that made it.
        rows: the metric rows: case, method, contrast, protocol, metric, value.
        figures: one for each test case; may be a generator, so that one case is in memory at a time.
        config: plain data, shown as YAML; with several runs a section each.
        info: provenance as plain data (data, split, run hash, ...), shown as a list.
        logs: method -> records of its log.jsonl.
        notes: sentences that the reader should know.
        date: ISO date and time; empty means now.
    """

    title: str
    command: str
    rows: Sequence[Mapping[str, Any]]
    figures: Iterable[FigureCase | Picture] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)
    logs: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    date: str = ""


def data_uri(data: bytes, kind: str) -> str:
    """``data:image/png;base64,...``."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def case_picture(case: FigureCase) -> Picture:
    """Render a case's planes, with a caption that says how to read them."""
    methods = list(case.predictions)
    scored = [(name, case.scores[name]["psnr"]) for name in methods if "psnr" in case.scores.get(name, {})]
    psnr = ", ".join(f"{name} {number('psnr', value)} dB" for name, value in scored)
    lesion = case.segmentation is not None and bool(((case.segmentation > 0) & case.mask.astype(bool)).any())
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
        f" {', '.join(case.sources)} as given, the acquired {case.target}, its prediction by {_listed(methods)}, and the absolute"
        f" error. The patient's right is on the left. Acquired and predicted {case.target} share one grey scale, fixed by the"
        " acquired image: compare their brightness directly. Error maps are black where the prediction is right; their colours end"
        f" at {short(error_top(case, methods))} ({case.units}), the same for all methods of this case; at most 1 % of the brain"
        " lies above."
        + (" The green line follows the lesion label." if lesion else "")
        + (f" PSNR of this case, protocol {case.protocol}: {psnr}." if psnr else "")
    )
    alt = (
        f"Case {case.name}: three planes of the inputs {', '.join(case.sources)}, the acquired {case.target}, the prediction by"
        f" {_listed(methods)}, and maps of the absolute error with a colour bar." + (f" PSNR: {psnr}." if psnr else "")
    )
    return Picture(case.name, caption, alt, encode(planes_figure(case), "jpeg", SCALE), "jpeg")


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _curves(logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Learning curves as template data: one picture for light and one for dark pages."""
    found = []
    for method, records in logs.items():
        drawn = {theme: learning_curve(records, theme) for theme in THEMES}
        uris = {theme: data_uri(encode(figure, "png", 2), "png") for theme, figure in drawn.items() if figure is not None}
        if uris:
            found.append({"method": method, **uris})
    return found


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _flat(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested plain data as (key, words) pairs."""
    pairs: list[tuple[str, str]] = []
    for key, value in data.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            pairs += _flat(value, f"{name}: ")
        elif isinstance(value, (list, tuple, set, frozenset)):
            pairs.append((name, ", ".join(map(str, value)) or "none"))
        else:
            pairs.append((name, "none" if value is None or value == "" else str(value)))
    return pairs


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

    pictures = [figure if isinstance(figure, Picture) else case_picture(figure) for figure in report.figures]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
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
        pictures=[{"picture": picture, "uri": data_uri(picture.data, picture.kind)} for picture in pictures],
        curves=_curves(report.logs),
        notes=list(report.notes),
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
