"""Every table in the box: its rows are configurations that exist, its numbers are those of the papers, its claims fit them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from synthmr import pipeline
from synthmr.case import PLANES
from synthmr.contrasts import CONTRASTS
from synthmr.errors import DataError, UsageError
from synthmr.evaluate.protocols import get_protocol
from synthmr.evaluate.statistics import direction
from synthmr.experiment import spec
from synthmr.methods import registry

EXPECTED = {
    *(f"hinet-table{n}" for n in range(1, 6)),
    *(f"milr-table{n}" for n in range(1, 7)),
    *(f"milr-{word}" for word in ("fusion", "decoder", "mask", "view")),
    *("disentangled-fig6", "disentangled-table1", "disentangled-table2"),
    *(f"mafnet-table{n}" for n in range(1, 4)),
    "imt-table1",
}

#: protocol of each paper
PROTOCOL = {"hinet": "hinet2020", "milr": "milr2018", "disentangled": "disentangled", "mafnet": "mafnet", "imt": "imt2020"}

#: metric -> what a paper could have printed
PLAUSIBLE = {
    "psnr": (5, 60),
    "ssim": (0, 1),
    "nmse": (0, 1),
    "nrmse_norm": (0, 1),
    "mse": (0, 1),
    "mae": (0, 255),
    "mutual_information": (0, 8),
    "dice": (0, 1),
    "assd": (0, 50),
}

#: a runnable experiment, as plain data
SMALL: Mapping[str, Any] = {
    "item": "Table X",
    "paper": "hinet",
    "title": "a title",
    "data": "some",
    "protocol": "hinet2020",
    "metrics": ["psnr", "nmse"],
    "method": "hinet",
    "sources": ["T1w", "T2w"],
    "target": "FLAIR",
    "rows": [{"name": "good", "paper": {"psnr": [25, 1], "nmse": 0.1}}, {"name": "bad", "paper": {"psnr": 20, "nmse": 0.3}}],
}
CLAIM = {"says": "good is better", "better": "good", "worse": ["bad"], "metric": "psnr", "paper": True}


def tables() -> list[spec.Experiment]:
    return [spec.load(name) for name in sorted(EXPECTED)]


def runnable() -> list[Any]:
    return [
        pytest.param(row, id=f"{table.name}:{row.group}:{row.name}") for table in tables() for row in table.rows if not row.missing
    ]


def comparisons(table: spec.Experiment, claim: spec.Claim) -> list[tuple[spec.Row, spec.Row]]:
    """The pairs of rows that a claim is about."""
    groups = [claim.group] if claim.group else table.groups
    pairs = [(table.row(group, claim.better), table.row(group, worse)) for group in groups for worse in claim.worse]
    return [(better, worse) for better, worse in pairs if better is not None and worse is not None]


def shown(table: spec.Experiment, claim: spec.Claim) -> bool | None:
    """Whether the paper's numbers show a claim; None where one of them is not known."""
    up = direction(claim.metric)
    answers = []
    for better, worse in comparisons(table, claim):
        if claim.metric not in better.paper or claim.metric not in worse.paper:
            return None
        gap = better.paper[claim.metric][0] - worse.paper[claim.metric][0]
        answers.append(gap > 0 if up else gap < 0)
    return all(answers)


def row(name: str, title: str, group: str = "") -> spec.Row:
    found = spec.load(name).row(group, title)
    assert found is not None
    return found


# --- the files --------------------------------------------------------------------------------------------------------------


def test_tables_are_the_expected() -> None:
    names = spec.names()
    assert len(names) == len(set(names))
    assert set(names) == EXPECTED
    assert [name.partition("-")[0] for name in names] == sorted((n.partition("-")[0] for n in names), key=list(spec.PAPERS).index)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_table_is_whole(name: str) -> None:
    table = spec.load(name)
    assert name == f"{table.paper}-{name.partition('-')[2]}"
    digits = re.search(r"(table|fig)(\d)$", name)
    if digits:
        number = {"hinet": ("I", "II", "III", "IV", "V", "VI")[int(digits[2]) - 1]}
        number |= {"milr": number["hinet"], "mafnet": number["hinet"]}
        kind = {"table": "Table", "fig": "Figure"}[digits[1]]
        assert table.item == f"{kind} {number.get(table.paper, digits[2])}"
    else:
        assert re.fullmatch(r"Section VI-[A-I]", table.item)
    assert table.protocol == PROTOCOL[table.paper]
    assert table.data
    assert table.training
    assert table.about
    for text in (table.data, table.training, table.title, table.about):
        assert not text.endswith(".")  # they stand inside sentences
    assert all(note.endswith(".") for note in table.notes)
    images = [metric for metric in table.metrics if metric.split("_")[0] not in ("dice", "assd")]
    assert set(images) <= set(get_protocol(table.protocol).metrics)
    assert any(not each.missing for each in table.rows)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_lines_are_short(name: str) -> None:
    text = (Path(spec.__file__).parent / "tables" / f"{name}.yaml").read_text(encoding="ascii")
    assert max(len(line) for line in text.splitlines()) <= 132


# --- rows -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["fast", "paper"])
@pytest.mark.parametrize("each", runnable())
def test_row_is_a_configuration(each: spec.Row, preset: str) -> None:
    scale = {"fast": "small", "paper": "paper"}[preset]
    chosen = each.presets.get(scale, preset)
    config = pipeline.configure(each.method, ",".join(each.sources), ",".join(each.target), preset=chosen, settings=each.settings)
    assert (config.sources, config.targets, config.preset) == (each.sources, each.target, chosen)


@pytest.mark.parametrize("each", runnable())
def test_row_asks_for_what_the_method_can_do(each: spec.Row) -> None:
    method = registry.load(each.method).spec
    assert method.sources[0] <= len(each.sources) <= method.sources[1]
    assert method.targets[0] <= len(each.target) <= method.targets[1]
    assert not set(each.sources) & set(each.target)
    assert set(each.presets) <= {"tiny", "small", "paper"}
    assert each.plane in ("", *PLANES)
    assert len(each.target) == 1 or each.score in each.target
    assert each.scored in CONTRASTS
    if each.inputs:
        assert method.any_subset
        assert each.inputs != each.sources  # that is to say nothing
    if each.extend:
        assert hasattr(registry.load(each.method).Options, "frozen")  # what `synthmr extend` asks for
        assert each.extend not in (*each.sources, *each.target)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_rows_differ(name: str) -> None:
    """Two rows of a group that run the same would be a mistake in the settings."""
    rows = [each for each in spec.load(name).rows if not each.missing]
    what = [(r.group, r.method, r.sources, r.target, r.settings, r.inputs, r.plane, r.extend, r.score) for r in rows]
    assert len(set(what)) == len(what)


def test_rows_that_are_compared_across_methods_share_a_scale() -> None:
    """Hi-Net's protocol scores in units of the truth's normaliser, so that of every row must be the same."""
    for number in range(1, 6):
        normalizers = {
            pipeline.configure(
                each.method,
                ",".join(each.sources),
                ",".join(each.target),
                preset=each.presets.get("paper", "paper"),
                settings=each.settings,
            ).prepare.normalizer
            for each in spec.load(f"hinet-table{number}").rows
        }
        assert normalizers == {"minmax"}


# --- numbers ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_numbers_are_plausible(name: str) -> None:
    table = spec.load(name)
    for each in table.rows:
        assert set(each.paper) <= set(table.metrics)
        for metric, (mean, sd) in each.paper.items():
            low, high = PLAUSIBLE[metric if metric in PLAUSIBLE else metric.split("_")[0]]
            assert low < mean < high
            assert sd is None or 0 < sd < mean


@pytest.mark.parametrize(
    ("name", "group", "title", "paper"),
    [
        (
            "hinet-table1",
            "",
            "MM-Syns (T1 + T2 -> Flair)",
            {"psnr": (23.15, 1.101), "nmse": (0.0358, 0.009), "ssim": (0.8622, 0.029)},
        ),
        ("hinet-table2", "", "cycleGAN (Flair -> T2)", {"psnr": (22.38, 0.874), "nmse": (0.1259, 0.033), "ssim": (0.8328, 0.028)}),
        ("hinet-table3", "", "Pix2pix (Flair -> T1)", {"psnr": (22.73, 1.670), "nmse": (0.0336, 0.027), "ssim": (0.8573, 0.032)}),
        ("hinet-table4", "", "Ours (T1 + Flair -> T2)", {"psnr": (22.46, 0.854), "nmse": (0.0881, 0.015), "ssim": (0.8414, 0.030)}),
        ("hinet-table5", "", "Ours-degraded3", {"psnr": (23.83, 0.912), "nmse": (0.0338, 0.012), "ssim": (0.8878, 0.027)}),
        ("disentangled-table1", "", "T1 -> FLAIR", {"psnr": (23.7, 2.16), "ssim": (0.86, 0.02), "nrmse_norm": (0.30, 0.11)}),
        ("disentangled-table2", "", "sGANs", {"psnr": (24.52, 1.97), "ssim": (0.87, 0.02), "nrmse_norm": (0.26, 0.11)}),
        ("milr-fusion", "T1+T2+DWI", "HeMIS", {"mse": (0.178, None)}),
        ("milr-decoder", "", "decoder added", {"mse": (0.263, None)}),
        ("milr-mask", "", "with mask", {"mse": (0.290, None)}),
        ("milr-table6", "", "Proposed, all of IXI", {"mse": (0.067, None), "ssim": (0.872, None), "psnr": (35.20, None)}),
        (
            "mafnet-table1",
            "",
            "UNet + MAF-GAN",
            {
                "dice_WT": (0.875, None),
                "assd_WT": (5.990, None),
                "dice_ET": (0.350, None),
                "assd_ET": (4.836, None),
                "dice_TC": (0.639, None),
                "assd_TC": (4.422, None),
            },
        ),
        ("mafnet-table2", "", "CycleGAN", {"ssim": (0.8574, None), "psnr": (21.62, None)}),
        (
            "mafnet-table3",
            "",
            "Zhou et al. (Brats18)",
            {"dice_WT": (0.854, None), "dice_ET": (0.129, None), "dice_TC": (0.444, None)},
        ),
        (
            "imt-table1",
            "MRBrain13 T1 -> T2-Flair",
            "cGAN + L1",
            {"mae": (6.064, None), "psnr": (26.495, None), "mutual_information": (1.066, None), "ssim": (0.823, None)},
        ),
        (
            "imt-table1",
            "ADNI T2 -> PD",
            "L1",
            {"mae": (5.055, None), "psnr": (30.614, None), "mutual_information": (1.536, None), "ssim": (0.881, None)},
        ),
    ],
)
def test_numbers_of_the_papers(name: str, group: str, title: str, paper: Mapping[str, tuple[float, float | None]]) -> None:
    assert row(name, title, group).paper == paper


def test_numbers_that_two_tables_share() -> None:
    assert row("hinet-table1", "Ours (T1 + T2 -> Flair)").paper == row("hinet-table5", "Ours (Hi-Net)").paper
    assert row("disentangled-table1", "T1+T2 -> FLAIR").paper == row("disentangled-table2", "Proposed").paper
    dice = {"dice_WT", "dice_ET", "dice_TC"}
    for first, third in (("UNet + SingleEN", "CUTGAN + UNet"), ("UNet + MAF-GAN + MAF-Block + Joint Learning", "MAF-Net")):
        ours, theirs = row("mafnet-table1", first), row("mafnet-table3", third)
        assert {metric: ours.paper[metric] for metric in dice} == theirs.paper
        assert (ours.method, ours.settings) == (theirs.method, theirs.settings)


def test_every_row_has_numbers_where_the_papers_print_them() -> None:
    without = {table.name for table in tables() if not all(set(each.paper) == set(table.metrics) for each in table.rows)}
    lost = {f"milr-table{n}" for n in range(1, 7)}
    assert without == {*lost, "milr-fusion", "milr-view", "disentangled-fig6"}


def test_subsets_are_complete() -> None:
    full = ("T1w", "T2w", "DWI")
    every = {tuple(c for i, c in enumerate(full) if number >> i & 1) for number in range(1, 8)}
    table = spec.load("milr-table4")
    assert {each.sources for each in table.rows if each.group.startswith("A")} == every
    given = [each for each in table.rows if each.group.startswith("B")]
    assert {each.sources for each in given} == {full}
    assert {each.inputs or full for each in given} == every
    costs = spec.load("milr-table5")
    for name in ("full cost", "without c1", "without c2", "without c3"):
        same = [each for each in costs.rows if each.name == name]
        assert {each.inputs or full for each in same} == every
        assert len({each.settings for each in same}) == 1  # one training
    for each in (*given, *costs.rows, *spec.load("milr-fusion").rows):  # the heading, or the name, says what it is given
        words = each.group if each.group in {other.group for other in costs.rows} else each.name
        assert words.split("+") == [c.removesuffix("w") for c in each.inputs or full]


# --- claims -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(EXPECTED - {"milr-view"}))
def test_claims_agree_with_the_papers_numbers(name: str) -> None:
    table = spec.load(name)
    assert table.claims
    for claim in table.claims:
        pairs = comparisons(table, claim)
        groups = 1 if claim.group else len(table.groups)
        assert len(pairs) == groups * len(claim.worse), claim.says  # every comparison finds both of its rows
        assert claim.better not in claim.worse
        assert len(set(claim.worse)) == len(claim.worse)
        assert claim.paper is shown(table, claim), (claim.says, claim.group, claim.metric)


def test_the_check_of_claims_can_fail() -> None:
    def answer(metric: str, better: str, worse: str) -> bool | None:
        claim = {"says": "x", "better": better, "worse": [worse], "metric": metric}
        table = spec.parse("x", {**SMALL, "claims": [claim]})
        return shown(table, table.claims[0])

    assert answer("psnr", "good", "bad") is True
    assert answer("psnr", "bad", "good") is False
    assert answer("nmse", "good", "bad") is True  # lower is better
    assert answer("nmse", "bad", "good") is False
    rows = [{"name": "good", "paper": {"psnr": 25}}, {"name": "bad"}]
    table = spec.parse("x", {**SMALL, "rows": rows, "claims": [CLAIM]})
    assert shown(table, table.claims[0]) is None


def test_a_claim_that_the_papers_numbers_contradict_is_marked() -> None:
    against = {(table.name, claim.metric, claim.group) for table in tables() for claim in table.claims if claim.paper is False}
    assert against == {
        ("mafnet-table1", "assd_WT", ""),
        ("imt-table1", "mae", "ADNI PD -> T2"),
        ("imt-table1", "psnr", "ADNI PD -> T2"),
        ("imt-table1", "psnr", "BraTs2015 T2 -> T2-Flair"),
    }


# --- parsing ----------------------------------------------------------------------------------------------------------------


def test_parse_reads_every_part() -> None:
    table = spec.parse("mine", {**SMALL, "set": ["options.gan=none"], "claims": [CLAIM], "notes": ["one\n two."]})
    assert (table.name, table.item, table.protocol, table.metrics) == ("mine", "Table X", "hinet2020", ("psnr", "nmse"))
    assert table.notes == ("one two.",)
    assert [each.settings for each in table.rows] == [("options.gan=none",)] * 2
    assert table.rows[0].paper == {"psnr": (25.0, 1.0), "nmse": (0.1, None)}
    assert table.rows[0].scored == "FLAIR"
    assert table.claims == (spec.Claim("good is better", "good", ("bad",), "psnr", "", True),)


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in SMALL.items() if name != key}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({**SMALL, "metric": ["psnr"]}, ("unknown key 'metric'", "metrics")),
        (without("metrics"), ("has no metrics",)),
        (without("rows"), ("has no rows",)),
        ({**SMALL, "paper": "hinett"}, ("'hinett'", "hinet")),
        ({**SMALL, "protocol": "hinet2021"}, ("unknown protocol 'hinet2021'", "hinet2020")),
        ({**SMALL, "metrics": ["pnsr"]}, ("pnsr",)),
        ({**SMALL, "rows": [{"name": "a"}, {"name": "a"}]}, ("two rows are called a",)),
        ({**SMALL, "rows": [{"group": "g", "name": "a"}, {"group": "g", "name": "a"}]}, ("two rows are called g a",)),
        ({**SMALL, "rows": [{"method": "milr"}]}, ("every row has a name",)),
        ({**SMALL, "rows": [{"name": "a", "settings": []}]}, ("row a", "unknown key 'settings'", "set")),
        ({**SMALL, "rows": [{"name": "a", "sources": ["T9w"]}]}, ("unknown contrast 'T9w'",)),
        ({**SMALL, "rows": [{"name": "a", "inputs": ["T1ce"]}]}, ("row a", "inputs T1ce are no sources")),
        ({**SMALL, "rows": [{"name": "a", "paper": {"psnr": "high"}}]}, ("row a", "'high'", "standard deviation")),
        ({**SMALL, "rows": [{"name": "a", "paper": {"psnr": [1, 2, 3]}}]}, ("row a", "[1, 2, 3]", "standard deviation")),
        ({**without("method"), "rows": [{"name": "a"}]}, ("row a", "give method", "or missing")),
        ({**SMALL, "rows": {"name": "a"}}, ("rows is a list",)),
        ({**SMALL, "notes": "a note"}, ("notes is a list",)),
        ({**SMALL, "rows": ["a"]}, ("row 'a'", "at least a name")),
        ({**SMALL, "claims": ["a"]}, ("claim 'a'", "says, better, worse, metric")),
        ({**SMALL, "rows": [{"name": "a", "paper": {"ssim": 0.9}}]}, ("row a", "metric 'ssim'", "nmse, psnr")),
        ({**SMALL, "rows": [{"name": "a", "plane": "oblique"}]}, ("row a", "plane 'oblique'", "sagittal")),
        ({**SMALL, "rows": [{"name": "a", "score": "T1ce"}]}, ("row a", "score T1ce is no target")),
        ({**SMALL, "rows": [{"name": "a", "extend": "T9w"}]}, ("unknown contrast 'T9w'",)),
        ({**SMALL, "claims": [{**CLAIM, "paper": "yes"}]}, ("'good is better'", "paper 'yes'")),
        ({**SMALL, "claims": [{**CLAIM, "better": "goood"}]}, ("'good is better'", "no row 'goood'", "good")),
        ({**SMALL, "claims": [{**CLAIM, "worse": ["good", "worst"]}]}, ("no row 'worst'",)),
        ({**SMALL, "claims": [{**CLAIM, "group": "g"}]}, ("no row 'good'",)),
        ({**SMALL, "claims": [{**CLAIM, "metric": "ssim"}]}, ("metric 'ssim'",)),
        ({**SMALL, "claims": [{**CLAIM, "holds": True}]}, ("unknown key 'holds'",)),
        ({**SMALL, "claims": [{key: value for key, value in CLAIM.items() if key != "worse"}]}, ("has no worse",)),
    ],
)
def test_parse_refuses(data: Mapping[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        spec.parse("mine", data)
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text


def test_empty_lists_are_no_error() -> None:
    table = spec.parse("mine", {**SMALL, "claims": None, "notes": None})
    assert (table.claims, table.notes) == ((), ())


def test_missing_rows_need_no_method() -> None:
    rows = [{"name": "a", "missing": "not in\n the box", "paper": {"psnr": 20}}]
    for shared in (without("method"), {**SMALL, "set": ["options.gan=none"]}):
        found = spec.parse("mine", {**shared, "rows": rows}).rows[0]
        assert (found.missing, found.method, found.settings) == ("not in the box", "", ())


def test_same_name_in_two_groups() -> None:
    rows = [{"group": group, "name": name} for group in ("g", "h") for name in ("good", "bad")]
    table = spec.parse("mine", {**SMALL, "rows": rows, "claims": [CLAIM, {**CLAIM, "group": "h"}]})
    assert table.groups == ("g", "h")
    assert [len(comparisons(table, claim)) for claim in table.claims] == [2, 1]


# --- loading ----------------------------------------------------------------------------------------------------------------


def test_load_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(dict(SMALL)), encoding="utf-8")
    assert spec.load(str(path)) == spec.parse("mine", SMALL)


def test_load_refuses(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown experiment 'hinet-table9': .*hinet-table"):
        spec.load("hinet-table9")
    with pytest.raises(DataError, match=r"none\.yaml cannot be read"):
        spec.load(str(tmp_path / "none.yaml"))
    path = tmp_path / "mine.yaml"
    path.write_text("- a list\n", encoding="utf-8")
    with pytest.raises(UsageError, match="is no experiment"):
        spec.load(str(path))
    path.write_text("rows: [\n", encoding="utf-8")
    with pytest.raises(DataError, match="cannot be read as YAML") as caught:
        spec.load(str(path))
    assert "\n" not in str(caught.value)
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match="cannot be read"):
        spec.load(str(path))
