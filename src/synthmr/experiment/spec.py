"""What an experiment is: rows that are trained or that reuse another row's run, the paper's numbers, and its claims.

One YAML file in ``tables/`` for each table or figure. Its keys are the attributes of `Experiment`, `Row` and `Claim`:

    item: Table V                     # in the paper
    paper: hinet                      # hinet, milr, disentangled, mafnet, imt; left out: your own
    title: which parts of Hi-Net matter
    data: BraTS 2018, 285 subjects, 80 % training, 20 % test      # the paper's
    protocol: hinet2020
    metrics: [psnr, nmse, ssim]
    sources: [T1w, T2w]               # of every row that has none of its own
    target: FLAIR
    method: hinet
    rows:
    - name: Ours-degraded1
      set: [options.fusion=concat]
      paper: {psnr: [23.75, 1.303]}   # mean, or mean and standard deviation
    - name: REPLICA
      missing: a regression forest, not in the box
      paper: {psnr: 21.0}
    claims:
    - says: the mixed fusion block is better than concatenation
      better: Ours (Hi-Net)
      worse: [Ours-degraded1]
      metric: psnr
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from synthmr.case import PLANES
from synthmr.contrasts import resolve, resolve_list
from synthmr.documents import MOST_YAML, parse_yaml, read_text
from synthmr.errors import UsageError, did_you_mean, shown
from synthmr.evaluate.protocols import get_protocol
from synthmr.evaluate.registry import direction

PAPERS: Mapping[str, str] = {
    "hinet": "Hi-Net (Zhou et al., IEEE TMI 2020)",
    "milr": "MILR (Chartsias et al., IEEE TMI 2018)",
    "disentangled": "Disentangled synthesis",
    "mafnet": "MAF-Net (Huang et al., 2022)",
    "imt": "IMT (Yang et al., Scientific Reports 2020)",
    "own": "Own comparison",
}


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        name: as the paper has it; unique within its group.
        group: heading that it stands under; empty: none.
        method: a method of the box; empty with ``missing``.
        sources: contrasts that the method is trained with.
        target: contrasts that come out.
        inputs: contrasts that it is given when it is scored; empty: all sources. For methods that take any subset.
        plane: of the slices when it is scored; empty: as in training.
        settings: ``key=value`` words as after `synthmr train --set`.
        presets: scale -> preset, where it is not the scale's own.
        extend: a target that is added to the trained run afterwards (`synthmr extend`), and is the one that is scored.
        score: target that is scored where there are several.
        missing: why the row cannot be run; empty where it can.
        paper: metric -> (mean, standard deviation or None) as printed in the paper.
    """

    name: str
    group: str = ""
    method: str = ""
    sources: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    plane: str = ""
    settings: tuple[str, ...] = ()
    presets: Mapping[str, str] = field(default_factory=dict)
    extend: str = ""
    score: str = ""
    missing: str = ""
    paper: Mapping[str, tuple[float, float | None]] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        """(group, name), which is unique in the table."""
        return self.group, self.name

    @property
    def scored(self) -> str:
        """The contrast whose scores stand in the table."""
        return self.extend or self.score or (self.target[0] if self.target else "")


@dataclass(frozen=True)
class Claim:
    """An ordering that the paper states.

    Attributes:
        says: it, in a sentence.
        better: name of the row that wins.
        worse: names of the rows that it wins over.
        metric: by which.
        group: of the rows; empty: every group that has them.
        paper: whether the paper's own numbers show it; None: they are not known.
    """

    says: str
    better: str
    worse: tuple[str, ...]
    metric: str
    group: str = ""
    paper: bool | None = None


@dataclass(frozen=True)
class Experiment:
    """A table or figure of a paper.

    Attributes:
        name: the file's name: paper and item, ``hinet-table5``.
        paper: a key of `PAPERS`.
        item: "Table V".
        title: what it asks, a few words.
        data: what the paper used: data set, subjects, split.
        training: how long the paper trained.
        protocol: of the scores.
        metrics: columns.
        rows: lines.
        claims: orderings.
        notes: what differs from the paper whatever the scale, a sentence each.
        about: a sentence or two on what is compared.
        text: the YAML that it was read from; empty where it was not.
    """

    name: str
    paper: str
    item: str
    title: str
    data: str
    protocol: str
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...] = ()
    training: str = ""
    notes: tuple[str, ...] = ()
    about: str = ""
    text: str = field(default="", repr=False, compare=False)

    @property
    def groups(self) -> tuple[str, ...]:
        """Headings in order."""
        return tuple(dict.fromkeys(row.group for row in self.rows))

    def row(self, group: str, name: str) -> Row | None:
        """The row of that name in a group."""
        return next((row for row in self.rows if row.key == (group, name)), None)


def names() -> list[str]:
    """Every experiment in the box, by paper and number."""
    found = [entry.name.removesuffix(".yaml") for entry in files(__package__).joinpath("tables").iterdir()]
    order = list(PAPERS)
    return sorted((name for name in found if name), key=lambda name: (order.index(name.partition("-")[0]), name))


def load(name: str, title: str = "") -> Experiment:
    """An experiment in the box, or one of your own in a YAML file, called ``title`` or else as the file.

    Raises:
        UsageError: there is none, or the file says what it may not.
        DataError: the file cannot be read.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        title = title or path.stem
        text = read_text(path, MOST_YAML)
    else:
        if name not in names():
            raise UsageError(f"unknown experiment {name!r}: {did_you_mean(name, names())}")
        title, text = name, files(__package__).joinpath("tables", f"{name}.yaml").read_text(encoding="utf-8")
    data = parse_yaml(text, name)
    if not isinstance(data, dict):
        raise UsageError(f"{name} is no experiment: give keys such as item, rows, metrics.")
    return replace(parse(title, data), text=text)


#: keys of a row that the whole experiment may give for all of them
_SHARED = ("method", "sources", "target", "plane", "presets")


def parse(name: str, data: Mapping[str, Any]) -> Experiment:
    """An experiment from plain data.

    Raises:
        UsageError: unknown keys, a row or claim that does not fit, or unknown names.
    """
    known = {entry.name for entry in fields(Experiment)} | {*_SHARED, "set"}
    for key in data:
        if key not in known:
            raise UsageError(f"experiment {name}: unknown key {shown(key)}: {did_you_mean(str(key), known)}")
    for key in ("item", "title", "data", "protocol", "metrics", "rows"):
        if not data.get(key):
            raise UsageError(f"experiment {name} has no {key}; see another one with `synthmr experiment show NAME`.")
    paper = str(data.get("paper", "own"))
    if paper not in PAPERS:
        raise UsageError(f"experiment {name}: paper {shown(paper)}: {did_you_mean(paper, PAPERS)}")
    for key in ("rows", "claims", "notes"):
        if not isinstance(data.get(key) or [], list):
            raise UsageError(f"experiment {name}: {key} is a list, an entry a line that starts with a dash.")
    get_protocol(str(data["protocol"]))
    shared = {key: data[key] for key in (*_SHARED, "set") if key in data}
    rows = tuple(_row(name, shared, row) for row in data["rows"])
    keys = [row.key for row in rows]
    twice = sorted({" ".join(key).strip() for key in keys if keys.count(key) > 1})
    if twice:
        raise UsageError(f"experiment {name}: two rows are called {twice[0]}; names are unique within a group.")
    metrics = _words(data["metrics"])
    for metric in metrics:
        if direction(metric) is None:
            raise UsageError(f"experiment {name}: whether a higher {metric} is better is not known; check its spelling.")
    for row in rows:
        for metric in row.paper:
            if metric not in metrics:
                raise UsageError(f"experiment {name}, row {row.name}: paper: metric {metric!r}: {did_you_mean(metric, metrics)}")
    claims = tuple(_claim(name, claim, rows, metrics) for claim in data.get("claims") or ())
    texts = {key: " ".join(str(data.get(key, "")).split()) for key in ("item", "title", "data", "training", "about")}
    notes = tuple(" ".join(str(note).split()) for note in data.get("notes") or ())
    return Experiment(
        name=name, paper=paper, protocol=data["protocol"], metrics=metrics, rows=rows, claims=claims, notes=notes, **texts
    )


def _words(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(str(item) for item in value or ())


def _row(name: str, shared: Mapping[str, Any], data: Mapping[str, Any]) -> Row:
    known = ({entry.name for entry in fields(Row)} - {"settings"}) | {"set"}
    if not isinstance(data, Mapping):
        raise UsageError(f"experiment {name}, row {shown(data)}: a row is keys and values, at least a name.")
    where = f"experiment {name}, row {data.get('name', '?')}"
    for key in data:
        if key not in known:
            raise UsageError(f"{where}: unknown key {shown(key)}: {did_you_mean(str(key), known)}")
    if not data.get("name"):
        raise UsageError(f"{where}: every row has a name.")
    merged = {**{key: value for key, value in shared.items() if key != "set"}, **data}
    settings = (*_words(shared.get("set")), *_words(data.get("set")))
    named = {key: ",".join(_words(merged.get(key))) for key in ("sources", "target", "inputs")}
    contrasts = {key: resolve_list(text) if text else () for key, text in named.items()}
    paper = {str(metric): _number(where, value) for metric, value in (data.get("paper") or {}).items()}
    row = Row(
        name=str(data["name"]),
        group=str(data.get("group", "")),
        method="" if data.get("missing") else str(merged.get("method", "")),
        sources=tuple(contrasts["sources"]),
        target=tuple(contrasts["target"]),
        inputs=tuple(contrasts["inputs"]),
        plane=str(merged.get("plane", "")),
        settings=() if data.get("missing") else settings,
        presets={str(scale): str(preset) for scale, preset in (merged.get("presets") or {}).items()},
        extend=resolve(str(data["extend"])) if data.get("extend") else "",
        score=resolve(str(data["score"])) if data.get("score") else "",
        missing=" ".join(str(data.get("missing", "")).split()),
        paper=paper,
    )
    if not row.missing and not (row.method and row.sources and row.target):
        raise UsageError(f"{where}: give method, sources and target, or missing: why it cannot be run.")
    if row.plane and row.plane not in PLANES:
        raise UsageError(f"{where}: plane {row.plane!r}: {did_you_mean(row.plane, PLANES)}")
    if row.score and row.score not in row.target:
        raise UsageError(f"{where}: score {row.score} is no target of it.")
    outside = [contrast for contrast in row.inputs if contrast not in row.sources]
    if outside:
        raise UsageError(f"{where}: inputs {', '.join(outside)} are no sources of it.")
    return row


def _number(where: str, value: Any) -> tuple[float, float | None]:
    try:
        if isinstance(value, Sequence) and not isinstance(value, str):
            mean, sd = value
            return float(mean), float(sd)
        return float(value), None
    except (TypeError, ValueError):
        raise UsageError(f"{where}: {shown(value)} is no mean, nor [mean, standard deviation].") from None


def _claim(name: str, data: Mapping[str, Any], rows: Sequence[Row], metrics: Sequence[str]) -> Claim:
    known = {entry.name for entry in fields(Claim)}
    if not isinstance(data, Mapping):
        raise UsageError(f"experiment {name}, claim {shown(data)}: a claim is keys and values: says, better, worse, metric.")
    where = f"experiment {name}, claim {shown(data.get('says', '?'))}"
    for key in data:
        if key not in known:
            raise UsageError(f"{where}: unknown key {shown(key)}: {did_you_mean(str(key), known)}")
    for key in ("says", "better", "worse", "metric"):
        if not data.get(key):
            raise UsageError(f"{where} has no {key}.")
    group = str(data.get("group", ""))
    there = {row.name for row in rows if not group or row.group == group}
    for row in (data["better"], *_words(data["worse"])):
        if row not in there:
            raise UsageError(f"{where}: no row {shown(row)}: {did_you_mean(str(row), there)}")
    if data.get("paper") not in (True, False, None):
        raise UsageError(f"{where}: paper {shown(data['paper'])} is not true, false or null (not known).")
    if data["metric"] not in metrics:
        raise UsageError(f"{where}: metric {shown(data['metric'])}: {did_you_mean(str(data['metric']), metrics)}")
    says = " ".join(str(data["says"]).split())
    return Claim(says, str(data["better"]), _words(data["worse"]), str(data["metric"]), group, data.get("paper"))
