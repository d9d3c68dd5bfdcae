"""Label conventions: entries in files, what they say of arrays and tensors, which one a data set follows, and your own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from synthmr.errors import DataError, UsageError
from synthmr.labels import (
    CLASSES,
    PARTS,
    REGIONS,
    convention_of,
    conventions,
    describe,
    get,
    region,
    to_classes,
    tumour,
)

FOLDER = Path(__file__).parents[1] / "src" / "synthmr" / "conventions"

#: class of every label, written down apart from the entries
CLASS_OF = {
    "brats2017": {0: 0, 1: 1, 2: 2, 4: 3},
    "brats2015": {0: 0, 1: 1, 2: 2, 3: 1, 4: 3},
    "brats2023": {0: 0, 1: 1, 2: 2, 3: 3},
    "brats-post-treatment": {0: 0, 1: 1, 2: 2, 3: 3, 4: 0},
    "brats-ped": {0: 0, 1: 3, 2: 1, 3: 1, 4: 2},
    "msd-brain": {0: 0, 1: 2, 2: 1, 3: 3},
    "brats2012": {0: 0, 1: 1, 2: 2},
    "hd-glio": {0: 0, 1: 2, 2: 1},
    "lesion": {0: 0, 1: 1, 2: 1, 250: 1},
    "tissue": {0: 0, 1: 1, 2: 2, 3: 3},
}


def own(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# --- entries ----------------------------------------------------------------------------------------------------------------


def test_every_entry_is_found_and_called_as_its_file() -> None:
    assert set(conventions()) == {path.stem for path in FOLDER.glob("*.yaml")} >= set(CLASS_OF)
    for name in conventions():
        found = get(name)
        assert found.name == name and found.source and set(found.labels.values()) <= set(PARTS)
        assert all(hint == hint.lower() for hint in found.hints)
        assert get(found) is found and get(name) is found
    tumours = [get(name).is_tumour for name in conventions()]
    assert tumours == sorted(tumours, reverse=True) and sum(tumours) == 6  # those of tumours first
    # each says something else, or nobody could tell by name what is meant
    meanings = [(tuple(sorted(get(name).labels.items())), get(name).others) for name in conventions()]
    assert len(set(meanings)) == len(meanings)


@pytest.mark.parametrize("name", sorted(CLASS_OF))
def test_every_convention_round_trips(name: str) -> None:
    found, table = get(name), CLASS_OF[name]
    labels = np.array(sorted(table), np.int16).reshape(1, -1, 1)
    classes = found.classes(labels)
    assert classes.dtype == np.int8 and classes.shape == labels.shape
    assert classes.ravel().tolist() == [table[label] for label in sorted(table)]
    written = found.numbers(classes)
    assert written.dtype == np.int8 and set(written.ravel().tolist()) <= set(found.labels)
    np.testing.assert_array_equal(found.classes(written), classes)
    tensor = torch.from_numpy(labels)
    assert found.classes(tensor).dtype == torch.int64
    assert torch.equal(found.classes(tensor), torch.from_numpy(classes).long())
    assert torch.equal(found.numbers(found.classes(tensor)), torch.from_numpy(written).long())


@pytest.mark.parametrize("name", [*sorted(CLASS_OF)])
def test_an_entry_read_as_ones_own_file_says_the_same(name: str, tmp_path: Path) -> None:
    assert get(own(tmp_path, (FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))) == get(name)


def test_regions_are_unions_of_parts() -> None:
    labels = np.arange(5).reshape(5, 1, 1)
    treated = get("brats-post-treatment")
    assert treated.regions == ("WT", "TC", "ET", "background", "necrosis", "edema", "enhancing", "cavity")
    assert treated.scored == ("WT", "TC", "ET", "cavity") and get("brats-ped").scored == ("WT", "TC", "ET", "cyst")
    # what is one label with oedema is no core, and what is not divided has no enhancing part
    assert get("hd-glio").unions == ("WT", "ET") and get("brats2012").unions == ("WT", "TC")
    assert get("brats-men-rt").unions == ("WT",) and get("phantom").unions == ("WT", "TC", "ET") and get("lesion").unions == ()
    assert [sorted(get("brats-ped").members(name, range(5))) for name in ("WT", "TC", "ET", "cyst", "lesion")] == [
        [1, 2, 3, 4], [1, 2, 3], [1], [3], [1, 2, 3, 4],
    ]  # fmt: skip
    assert sorted(get("freesurfer").members("lesion", (0, 2, 3, 25, 77, 1001))) == [25, 77]
    found = {name: np.flatnonzero(treated.region(labels, name)).tolist() for name in treated.regions}
    assert found == {
        "WT": [1, 2, 3], "TC": [1, 3], "ET": [3],
        "background": [0], "necrosis": [1], "edema": [2], "enhancing": [3], "cavity": [4],
    }  # fmt: skip
    for name in REGIONS:
        assert treated.region(torch.arange(5), name).tolist() == region(treated.classes(torch.arange(5)), name).tolist()
    assert get("tissue").regions == ("background", "csf", "gm", "wm")
    assert get("lesion").region(np.array([0, 1, 7]), "lesion").tolist() == [False, True, True]
    assert get("lesion").region(np.array([False, True]), "lesion").tolist() == [False, True]
    assert get("lesion").region(torch.tensor([False, True]), "lesion").tolist() == [False, True]
    with pytest.raises(UsageError, match=r"convention tissue has no region 'WT': .*Allowed: background, csf, gm, wm"):
        get("tissue").region(labels, "WT")


def test_class_names_are_the_four_of_a_tumour_or_the_parts(tmp_path: Path) -> None:
    assert all(get(name).class_names == CLASSES for name in conventions() if get(name).is_tumour)
    assert get("brats2012").class_names == ("background", "edema", "core")
    assert get("lesion").class_names == ("background", "lesion")
    assert get("tissue").class_names == ("background", "csf", "gm", "wm")
    mixed = get(own(tmp_path, "labels: {1: lesion, 2: cavity, 3: gm, 4: edema}"))
    assert not mixed.is_tumour and mixed.class_names == ("background", "edema", "lesion", "gm")
    assert mixed.classes(np.arange(5)).tolist() == [0, 2, 0, 3, 1]
    assert mixed.numbers(np.arange(4)).tolist() == [0, 4, 1, 3]


def test_large_labels_and_labels_not_listed_one_by_one(tmp_path: Path) -> None:
    found = get(own(tmp_path, "labels: {1000: gm, 41: wm}\nothers: lesion"))
    labels = np.array([0, 41, 1000, 1, 42, 2**31 - 1])
    assert [found.class_names[number] for number in found.classes(labels)] == [
        "background", "wm", "gm", "lesion", "lesion", "lesion",
    ]  # fmt: skip
    assert found.classes(labels[:3].astype(np.uint16)).tolist() == found.classes(labels[:3]).tolist()
    assert found.numbers(np.array([2, 3])).tolist() == [1000, 41] and found.numbers(np.array([2])).dtype == np.int32
    with pytest.raises(DataError, match="label -1, and own has 0, 41, 1000 and what is above"):
        found.classes(np.array([-1]))
    spread = get(own(tmp_path, "labels: {1-3: gm, 1000-1035: wm}\norder: 3"))  # older files say an order
    assert sorted(spread.labels) == [0, 1, 2, 3, *range(1000, 1036)] and spread.part(1035) == "wm"
    with pytest.raises(DataError, match="1 is no class of convention own, which has background, lesion, gm, wm"):
        found.numbers(np.array([1]))  # no label is listed that means lesion


def test_what_needs_a_tumour_refuses_other_conventions() -> None:
    assert tumour("brats2023") is get("brats2023")
    with pytest.raises(
        UsageError, match=r"tissue has background, csf, gm, wm, no tumour; those of tumours are .*brats2015, brats2017, brats2023"
    ):
        to_classes(np.array([0, 1]), "tissue")


# --- which convention ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "files", "convention"),
    [
        ((0, 1, 2, 3, 4), ["x/BraTS-GLI-00005-100-seg.nii.gz", "BraTS-GLI-02405-101-seg.nii.gz"], "brats-post-treatment"),
        ((0, 2, 3), ["VSD.Brain_3more.XX.O.OT.54515.nii.gz"], "brats2015"),  # labels alone: 2023
        ((0, 1, 2, 3), ["BraTS-GLI-00000-000-seg.nii.gz"], "brats2023"),
        ((0, 1, 2, 4), ["BraTS-GLI-00000-000-seg.nii.gz"], "brats2017"),  # the labels come first
        ((0, 1), ["sub-01_lesion.nii.gz"], "lesion"),
        ((0, 1, 9), ["sub-01_lesion.nii.gz"], "lesion"),
        ((0, 1, 2, 3), [Path("sub-001/tissue.nii.gz")], "tissue"),
        ((0, 1), ["seg.nii.gz"], "lesion"),
        ((0, 1, 2, 4), [], "brats2017"),
    ],
)
def test_names_decide_then_labels(labels: tuple[int, ...], files: list[str | Path], convention: str) -> None:
    assert convention_of(iter(labels), iter(files)) == convention


def test_what_cannot_be_known_is_not_guessed() -> None:
    with pytest.raises(
        DataError, match=r"no convention has labels 300, 301, so only the lesion can be scored; say which with --labels"
    ):
        convention_of((0, 300, 301))
    with pytest.raises(DataError, match=r"^labels 1, 2, 3, 4 could be brats-ped, brats-post-treatment, brats2015, .*--labels NAME"):
        convention_of((0, 1, 2, 3, 4), ["BraTS-GLI-00005-100-seg.nii.gz", "case-2-seg.nii.gz"])  # not all files say so
    with pytest.raises(DataError, match="label -3"):
        convention_of((-3, 0), ["lesion.nii.gz"])


def test_a_result_says_what_its_labels_mean(tmp_path: Path) -> None:
    parts = {0: "background", 1: "necrosis", 2: "edema", 4: "enhancing"}
    assert describe("brats2017") == {"convention": "brats2017", "labels": parts}
    assert describe("brats2017", (4, 0)) == describe(get("brats2017"))
    assert describe("lesion", (7,)) == {"convention": "lesion", "labels": {0: "background", 1: "lesion", 7: "lesion"}}
    path = own(tmp_path, "name: clinic\nlabels: {8: edema}")
    assert describe(path) == {"convention": "clinic", "labels": {0: "background", 8: "edema"}}
    with pytest.raises(DataError, match="label 3, and brats2017 has 0, 1, 2, 4"):
        describe("brats2017", (3,))


# --- files of one's own -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("labels: {1: oedema}", "unknown part 'oedema': did you mean edema? Allowed: background"),
        ("labels: {1: edema}\nothers: rest", "unknown part 'rest'"),
        ("labels: {1: [edema]}", "unknown part ['edema']"),
        ("labels: {1: edema, 1: enhancing}", "1 stands there twice"),
        ("labels: {1: edema}\nlabels: {2: edema}", "labels stands there twice"),
        ("labels: {one: edema}", "label 'one' is no number"),
        ("labels: {1.5: edema}", "label 1.5 is no number"),
        ("labels: {true: edema}", "label True is no number"),
        ("labels: {-1: edema}", "label -1 is no number; give whole numbers from 0 to 65535"),
        ("labels: {0: edema}", "label 0 is 'edema'; it is background in every segmentation"),
        ("labels: [edema]", "labels is a mapping of numbers to parts"),
        ("name: own", "labels is a mapping of numbers to parts"),
        ("label: {1: edema}", "unknown key 'label': did you mean labels?"),
        ("labels: {1: edema}\nhints: x", "hints='x' is no list of file-name patterns"),
        ("labels: {1: edema}\nsure: [2]", "sure=[2] is no list of labels above 0 that stand under labels"),
        ("labels: {1: edema}\nsure: 1", "sure=1 is no list"),
        ("labels: {1-3: edema, 2: lesion}", "label 2 stands there twice"),
        ("labels: {3-1: edema}", "label '3-1' is no number"),
        ("labels: {1-: edema}", "label '1-' is no number"),
        ("edema", "is no label convention"),
        ("labels: {1: edema", "cannot be read as YAML"),
        ("{[1]: x}", "YAML"),
    ],
)
def test_a_file_that_says_what_it_may_not_is_refused_in_one_line(text: str, told: str, tmp_path: Path) -> None:
    path = own(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        get(path)
    assert told in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_not_there_and_an_unknown_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"label convention .*none\.yaml cannot be read"):
        get(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match=r"unknown label convention 'brats': .*A convention of your own is a \.yaml file"):
        get("brats")
    (tmp_path / "latin.yaml").write_bytes(b"name: \xff\n")
    with pytest.raises(DataError, match="cannot be read"):
        get(tmp_path / "latin.yaml")


def test_labels_are_read_without_loading_torch() -> None:
    code = (
        "import sys, numpy as np, synthmr.labels as labels; labels.get('brats2017').classes(np.arange(3));"
        " sys.exit(bool({'torch', 'scipy', 'nibabel'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
