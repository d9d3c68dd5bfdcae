"""An image under another contrast's name is found by the rank correlations in the brain; right names are never doubted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from heads import AFFINE, brain, image
from helpers import write_case
from synthmr.data.audit import audit
from synthmr.data.contrast_check import check_correlations
from synthmr.data.findings import Finding, Findings
from synthmr.io.index import index

#: of brats18 and open_ms as measured: FLAIR~T1ce, FLAIR~T1w, FLAIR~T2w, T1ce~T1w, T1ce~T2w, T1w~T2w
MEASURED = [
    ("BraTS 2018 2013_3", 0.23, 0.38, 0.39, 0.46, -0.04, 0.15),
    ("BraTS 2018 ALU", -0.01, 0.05, 0.08, 0.77, -0.67, -0.79),
    ("BraTS 2018 AME", -0.24, -0.15, 0.37, 0.70, -0.70, -0.79),
    ("BraTS 2018 TCIA01_201", 0.57, 0.57, 0.35, 0.76, 0.17, -0.03),
    ("BraTS 2018 TCIA01_378", 0.56, 0.65, 0.10, 0.77, 0.01, -0.11),
    ("BraTS 2018 TCIA02_370", 0.17, 0.21, 0.39, 0.42, -0.10, -0.34),
    ("open_ms 07", -0.20, -0.10, 0.30, 0.79, -0.67, -0.68),
    ("open_ms 19", 0.23, 0.31, -0.09, 0.89, -0.71, -0.69),
    ("the phantom", 0.36, 0.37, -0.21, 0.98, -0.86, -0.86),
    ("29 patients of five collections, the largest", 0.45, 0.45, 0.2, 0.48, 0.1, 0.32),
]
PAIRS = [("FLAIR", "T1ce"), ("FLAIR", "T1w"), ("FLAIR", "T2w"), ("T1ce", "T1w"), ("T1ce", "T2w"), ("T1w", "T2w")]


def found_in(values: dict[tuple[str, str], float]) -> list[Finding]:
    found = Findings()
    check_correlations("c", values, {}, found)
    return found.list


def renamed(values: dict[tuple[str, str], float], names: dict[str, str]) -> dict[tuple[str, str], float]:
    """The correlations of the same images under other names."""
    out = {}
    for (one, two), value in values.items():
        a, b = sorted((names.get(one, one), names.get(two, two)))
        out[a, b] = value
    return out


@pytest.mark.parametrize("row", MEASURED, ids=lambda row: row[0])
def test_measured_cases_are_right_and_an_exchange_in_them_is_found(row: tuple[object, ...]) -> None:
    values = {pair: float(str(value)) for pair, value in zip(PAIRS, row[1:], strict=True)}
    assert found_in(values) == []
    for one, two, level in (("T1w", "T2w", "error"), ("T1ce", "T2w", "error")):
        findings = found_in(renamed(values, {one: two, two: one}))
        assert any(each.level == level and {one, two} <= set(each.contrast.split(", ")) for each in findings), (one, two, findings)
    without = {pair: value for pair, value in values.items() if "T1ce" not in pair}
    assert [each.level for each in found_in(renamed(without, {"FLAIR": "T2w", "T2w": "FLAIR"}))] == ["warning"]


@pytest.mark.parametrize(
    ("name", "files", "level", "contrast"),
    [
        ("right names", {"T1w": "T1w", "T2w": "T2w", "FLAIR": "FLAIR", "T1ce": "T1ce"}, "", ""),
        ("smriprep 69: T2_to_T1 taken for T1w", {"T1w": "T2w", "T2w": "T2w"}, "error", "T1w, T2w"),
        ("T1 copied to the name of T2", {"T1w": "T1w", "T2w": "T1w"}, "error", "T1w, T2w"),
        ("a T1ce under the name of T2w", {"T1w": "T1w", "T2w": "T1ce"}, "error", "T1w, T2w"),
        ("T1w and T2w exchanged, T1ce beside them", {"T1w": "T2w", "T2w": "T1w", "T1ce": "T1ce"}, "error", "T1w, T2w"),
        ("T1ce and T2w exchanged", {"T1w": "T1w", "T2w": "T1ce", "T1ce": "T2w"}, "error", "T1ce, T2w"),
        ("a T2w under the name of T1ce", {"T1w": "T1w", "T1ce": "T2w"}, "warning", "T1w, T1ce"),
        ("dark fluid taken for T2w", {"T1w": "T1w", "T2w": "FLAIR", "FLAIR": "FLAIR"}, "warning", "FLAIR, T2w"),
        ("FLAIR is a T1w", {"T1w": "T1w", "FLAIR": "T1w"}, "warning", "FLAIR, T1w"),
    ],
)
def test_images_under_other_names(tmp_path: Path, name: str, files: dict[str, str], level: str, contrast: str) -> None:
    for number in (0, 1):
        # another visit, so that no file is a copy to the bit
        images = {word: image(kind, number, visit=order) for order, (word, kind) in enumerate(files.items())}
        write_case(tmp_path / f"c{number}", images, AFFINE)
    found = audit(index(tmp_path))
    assert {each.level for each in found} == ({level} if level else set()), found
    for each in found:
        assert set(each.contrast.split(", ")) == set(contrast.split(", ")) and "rank correlation" in each.what


def test_a_head_needs_a_brain_mask_to_be_compared(tmp_path: Path) -> None:
    for number in (0, 1):
        images = {"T1w": image("T1w", number, True), "T2w": image("T1w", number, True, 1)}
        write_case(tmp_path / f"c{number}", images, AFFINE)
    assert audit(index(tmp_path)) == []
    for number in (0, 1):
        write_case(tmp_path / f"c{number}", {"mask": brain(number).astype(np.uint8)}, AFFINE)
    assert [each.level for each in audit(index(tmp_path))] == ["error", "error"]
