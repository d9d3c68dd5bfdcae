"""Layouts: the same two subjects written as every data set writes them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from helpers import blob_brain, write_case
from synthmr.case import Case, Cohort
from synthmr.contrasts import parse_aliases
from synthmr.errors import DataError, UsageError
from synthmr.io.index import describe, index, index_files
from synthmr.io.naming import is_session, parse_name, subject_of

VOXELS = blob_brain((4, 5, 6))


def put(root: Path, *names: str) -> None:
    """Write tiny volumes at the given paths."""
    for name in names:
        path = root / name
        if name.endswith((".nii", ".nii.gz")):
            suffix = ".nii.gz" if name.endswith(".gz") else ".nii"
            write_case(path.parent, {path.name.removesuffix(suffix): VOXELS}, suffix=suffix)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x")


def files(cohort: Cohort) -> dict[str, dict[str, str]]:
    """case -> {contrast, mask, segmentation: path below the root}."""
    out = {}
    for case in cohort.cases:
        every = {**case.images, "mask": case.mask, "segmentation": case.segmentation}
        out[case.name] = {name: path.relative_to(cohort.root).as_posix() for name, path in every.items() if path}
    return out


def subjects(cohort: Cohort) -> dict[str, str]:
    return {case.name: case.subject for case in cohort.cases}


# --- layouts ------------------------------------------------------------------------------------------------------


def test_brats_2018(tmp_path):
    for case in ("Brats18_2013_3_1", "Brats18_TCIA01_201_1"):
        put(tmp_path / "HGG" / case, *(f"{case}_{word}.nii.gz" for word in ("flair", "t1", "t1ce", "t2", "seg")))
    cohort = index(tmp_path)
    assert cohort.layout == "brats" and cohort.problems == ()
    assert cohort.contrasts == ("T1w", "T1ce", "T2w", "FLAIR")
    base = "HGG/Brats18_2013_3_1/Brats18_2013_3_1_"
    assert files(cohort)["Brats18_2013_3_1"] == {
        "T1w": base + "t1.nii.gz",
        "T1ce": base + "t1ce.nii.gz",
        "T2w": base + "t2.nii.gz",
        "FLAIR": base + "flair.nii.gz",
        "segmentation": base + "seg.nii.gz",
    }
    assert subjects(cohort) == {name: name for name in ("Brats18_2013_3_1", "Brats18_TCIA01_201_1")}


def test_brats_2023_time_points_are_one_subject(tmp_path):
    for case in ("BraTS-GLI-00001-000", "BraTS-GLI-00001-001", "BraTS-MEN-00002-000"):
        put(tmp_path / case, *(f"{case}-{word}.nii.gz" for word in ("t1c", "t1n", "t2f", "t2w", "seg")))
    cohort = index(tmp_path)
    assert cohort.layout == "brats" and not cohort.problems
    assert subjects(cohort) == {
        "BraTS-GLI-00001-000": "BraTS-GLI-00001",
        "BraTS-GLI-00001-001": "BraTS-GLI-00001",
        "BraTS-MEN-00002-000": "BraTS-MEN-00002",
    }
    got = files(cohort)["BraTS-MEN-00002-000"]
    assert {name: path[-10:-7] for name, path in got.items()} == {
        "T1w": "t1n",
        "T1ce": "t1c",
        "T2w": "t2w",
        "FLAIR": "t2f",
        "segmentation": "seg",
    }


def test_brats_2015_each_image_in_its_folder_and_mha_named(tmp_path):
    for word in ("MR_Flair.684", "MR_T1.685", "MR_T1c.686", "MR_T2.687"):
        put(tmp_path / "HGG" / "pat0001_1", f"VSD.Brain.XX.O.{word}/VSD.Brain.XX.O.{word}.nii")
    put(tmp_path / "HGG" / "pat0001_1", "VSD.Brain_3more.XX.XX.OT.6560/VSD.Brain_3more.XX.XX.OT.6560.nii")
    put(tmp_path / "HGG" / "pat0002_1", "VSD.Brain.XX.O.MR_T1.9/VSD.Brain.XX.O.MR_T1.9.mha")
    cohort = index(tmp_path)
    assert cohort.layout == "brats"
    assert set(files(cohort)) == {"pat0001_1"}
    assert set(files(cohort)["pat0001_1"]) == {"T1w", "T1ce", "T2w", "FLAIR", "segmentation"}
    assert len(cohort.problems) == 1 and "VSD.Brain.XX.O.MR_T1.9.mha is no NIfTI file" in cohort.problems[0]


def test_subject_folder_with_other_names(tmp_path):
    put(tmp_path, *(f"sub-07/{word}.nii.gz" for word in ("FLAIR", "T1", "T1POST", "T2", "lesions", "brainmask")))
    put(tmp_path, *(f"sub-12/study1_{word}.nii" for word in ("FLAIR", "T1W", "T2W")))
    cohort = index(tmp_path)
    assert cohort.layout == "folder" and not cohort.problems
    assert files(cohort) == {
        "sub-07": {
            "T1w": "sub-07/T1.nii.gz",
            "T1ce": "sub-07/T1POST.nii.gz",
            "T2w": "sub-07/T2.nii.gz",
            "FLAIR": "sub-07/FLAIR.nii.gz",
            "mask": "sub-07/brainmask.nii.gz",
            "segmentation": "sub-07/lesions.nii.gz",
        },
        "sub-12": {"T1w": "sub-12/study1_T1W.nii", "T2w": "sub-12/study1_T2W.nii", "FLAIR": "sub-12/study1_FLAIR.nii"},
    }
    assert [cohort.case("sub-07").image("T1ce").name, cohort.cases[1].mask] == ["T1POST.nii.gz", None]


def test_sessions_as_folders_and_as_prefixes_stay_one_subject(tmp_path):
    put(tmp_path, *(f"P{p}/session{s}/{word}.nii.gz" for p in (1, 2) for s in (1, 2) for word in ("T1", "T2")))
    put(tmp_path, *(f"P3/study{s}_{word}.nii.gz" for s in (1, 2) for word in ("T1", "T2")), "P3/brain_mask.nii.gz")
    cohort = index(tmp_path)
    assert subjects(cohort) == {
        "P1_session1": "P1",
        "P1_session2": "P1",
        "P2_session1": "P2",
        "P2_session2": "P2",
        "P3_study1": "P3",
        "P3_study2": "P3",
    }
    assert files(cohort)["P3_study2"] == {
        "T1w": "P3/study2_T1.nii.gz",
        "T2w": "P3/study2_T2.nii.gz",
        "mask": "P3/brain_mask.nii.gz",
    }
    assert not cohort.problems
    # the subject's own folder as the root means the same
    assert subjects(index(tmp_path / "P1")) == {"P1_session1": "P1", "P1_session2": "P1"}
    assert subjects(index(tmp_path / "P3")) == {"P3_study1": "P3", "P3_study2": "P3"}
    assert subjects(index(tmp_path / "P1" / "session1"))["session1"]


def test_unclear_prefixes_in_a_folder_are_one_subject_with_a_word_about_it(tmp_path):
    put(tmp_path, *(f"siteA/{p}_{word}.nii.gz" for p in ("anna", "bert") for word in ("T1", "T2")), "siteB/T1.nii.gz")
    cohort = index(tmp_path)
    assert subjects(cohort) == {"siteA_anna": "siteA", "siteA_bert": "siteA", "siteB": "siteB"}
    assert "taken as sessions of one subject" in cohort.problems[0]


def test_a_flat_folder_and_a_folder_for_each_contrast(tmp_path):
    put(tmp_path / "flat", *(f"p{i}_{word}.nii.gz" for i in (1, 2) for word in ("T1", "T2")))
    put(tmp_path / "ixi", *(f"IXI-{word}/IXI00{i}-Guys-08-{word}.nii.gz" for i in (2, 3) for word in ("T1", "T2", "PD")))
    put(tmp_path / "dirs", *(f"{word}/p{i}.nii.gz" for i in (1, 2) for word in ("T1", "FLAIR", "mask")))
    put(tmp_path / "one", *(f"p1/{word}/00{i}.nii.gz" for i, word in enumerate(("T1", "FLAIR"))))
    assert subjects(index(tmp_path / "flat")) == {"p1": "p1", "p2": "p2"}
    assert set(files(index(tmp_path / "flat"))["p2"]) == {"T1w", "T2w"}
    ixi = files(index(tmp_path / "ixi"))
    assert set(ixi) == {"IXI002-Guys-08", "IXI003-Guys-08"} and set(ixi["IXI003-Guys-08"]) == {"T1w", "T2w", "PDw"}
    assert files(index(tmp_path / "dirs"))["p2"] == {"T1w": "T1/p2.nii.gz", "FLAIR": "FLAIR/p2.nii.gz", "mask": "mask/p2.nii.gz"}
    assert files(index(tmp_path / "one")) == {"p1": {"T1w": "p1/T1/000.nii.gz", "FLAIR": "p1/FLAIR/001.nii.gz"}}


def test_one_case_as_the_root_and_files_around_cases(tmp_path):
    put(
        tmp_path / "case1",
        "T1.nii.gz",
        "T2.nii.gz",
        "out/FLAIR.nii.gz",
        "derivatives/x/T1.nii.gz",
        ".hidden/T1.nii.gz",
        "._T1.nii.gz",
    )
    put(tmp_path, "mask.nii.gz", "atlas_T1.nii.gz")
    (tmp_path / "loop").symlink_to(tmp_path)
    one = index(tmp_path / "case1")
    assert files(one) == {"case1": {"T1w": "T1.nii.gz", "T2w": "T2.nii.gz"}}
    assert one.problems == ("out/FLAIR.nii.gz: in a folder inside a case's folder, passed over.",)
    cohort = index(tmp_path)
    assert files(cohort) == {"case1": {"T1w": "case1/T1.nii.gz", "T2w": "case1/T2.nii.gz"}}
    assert "atlas_T1.nii.gz, mask.nii.gz: beside the case folders, passed over." in cohort.problems


def test_same_folder_name_at_two_sites(tmp_path):
    put(tmp_path, "a/001/T1.nii.gz", "b/001/T1.nii.gz", "b/002/T1.nii.gz")
    assert subjects(index(tmp_path)) == {"a_001": "a_001", "b_001": "b_001", "002": "002"}


def test_bids(tmp_path):
    put(
        tmp_path,
        "dataset_description.json",
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/anat/sub-01_ce-gadolinium_T1w.nii.gz",
        "sub-01/anat/sub-01_FLAIR.nii.gz",
        "sub-01/anat/sub-01_dseg.nii.gz",
        "sub-01/anat/sub-01_desc-brain_mask.nii.gz",
        "sub-01/dwi/sub-01_dwi.nii.gz",
        "sub-02/ses-01/anat/sub-02_ses-01_T1w.nii",
        "sub-02/ses-02/anat/sub-02_ses-02_T1w.nii",
        "sub-02/ses-02/anat/sub-02_ses-02_part-phase_T1w.nii",
        "sub-02/ses-02/anat/sub-02_ses-02_label-lesion_mask.nii",
        "derivatives/synthmr/sub-01/anat/sub-01_T2w.nii.gz",
    )
    cohort = index(tmp_path)
    assert cohort.layout == "bids"
    assert subjects(cohort) == {"sub-01": "sub-01", "sub-02_ses-01": "sub-02", "sub-02_ses-02": "sub-02"}
    anat = "sub-01/anat/sub-01_"
    assert files(cohort)["sub-01"] == {
        "T1w": anat + "T1w.nii.gz",
        "T1ce": anat + "ce-gadolinium_T1w.nii.gz",
        "FLAIR": anat + "FLAIR.nii.gz",
        "mask": anat + "desc-brain_mask.nii.gz",
        "segmentation": anat + "dseg.nii.gz",
    }
    assert set(files(cohort)["sub-02_ses-02"]) == {"T1w", "segmentation"}
    assert any("part-phase" in line for line in cohort.problems) and any("sub-01_dwi" in line for line in cohort.problems)
    # a subject's and a session's folder as the root
    assert set(files(index(tmp_path / "sub-02"))) == {"sub-02_ses-01", "sub-02_ses-02"}
    assert subjects(index(tmp_path / "sub-02" / "ses-02")) == {"sub-02_ses-02": "sub-02"}
    assert set(files(index(tmp_path / "sub-01"))["sub-01"]) >= {"T1w", "T1ce", "FLAIR"}


def test_bids_subject_without_images(tmp_path):
    put(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz")
    (tmp_path / "sub-02" / "anat").mkdir(parents=True)
    cohort = index(tmp_path)
    assert [case.name for case in cohort.cases] == ["sub-01"]
    assert cohort.problems == ("sub-02 has no anatomical image in sub-02/anat.",)


# --- two files for one contrast -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (("sub-1_run-2_T1w.nii.gz", "sub-1_run-10_T1w.nii.gz"), "sub-1_run-2_T1w.nii.gz"),
        (("sub-1_T1w.nii.gz", "sub-1_run-2_T1w.nii.gz"), "sub-1_T1w.nii.gz"),
        (("T1.nii.gz", "T1_brain.nii.gz"), "T1.nii.gz"),
        (("T1.nii", "T1.nii.gz"), "T1.nii.gz"),
        (("raw_T1.nii.gz", "bet_T1.nii.gz"), None),
        (("T1.nii.gz", "mprage.nii.gz"), None),
        (("sub-1_acq-a_T1w.nii.gz", "sub-1_acq-b_T1w.nii.gz"), None),
    ],
)
def test_two_files_for_one_contrast(tmp_path, names, taken):
    put(tmp_path, *(f"case/{name}" for name in names), "case/T2.nii.gz", "other/T1.nii.gz")
    cohort = index(tmp_path)
    got = cohort.case("case").images.get("T1w")
    assert (got.name if got else None) == taken
    assert len(cohort.problems) == 1 and all(name in cohort.problems[0] for name in names)
    assert ("would be a guess" in cohort.problems[0]) == (taken is None)
    assert "T2w" in cohort.case("case").images


def test_many_problems_of_a_kind_are_counted(tmp_path):
    put(tmp_path, *(f"c{i}/{name}.nii.gz" for i in range(9) for name in ("T1", "T1_brain")))
    problems = index(tmp_path).problems
    assert len(problems) == 6 and "4 more" in problems[-1]


# --- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stem", "contrast", "prefix", "tail"),
    [
        ("Brats18_2013_3_1_t1ce", "T1ce", "Brats18_2013_3_1", ""),
        ("sub-12_study1_T1W_brain", "T1w", "sub-12_study1", "brain"),
        ("T1_mask", "mask", "T1", ""),
        ("case_t2_flair", "FLAIR", "case", ""),
        ("case-T1-post", "T1ce", "case", ""),
        ("sub-1_ce-gd_T1w", "T1ce", "sub-1_ce-gd", ""),
        ("sub-1_ce-none_T1w", "T1w", "sub-1_ce-none", ""),
        ("consensus_gt", "segmentation", "", ""),
        ("t1t2", None, "", ""),
        ("scan001", None, "", ""),
    ],
)
def test_parse_name(stem, contrast, prefix, tail):
    name = parse_name(stem)
    assert (name and (name.contrast, name.prefix, name.tail)) == (contrast and (contrast, prefix, tail))


def test_sessions_and_time_points():
    assert all(is_session(word) for word in ("ses-01", "session2", "study1", "week-044", "baseline", "follow-up"))
    assert not any(is_session(word) for word in ("sub-01", "001", "siteA", "case1", "studyA"))
    assert subject_of("sub-01_ses-02") == "sub-01" and subject_of("UPENN-GBM-00001_11") == "UPENN-GBM-00001"
    assert subject_of("Brats18_TCIA01_201_1") == "Brats18_TCIA01_201_1" and subject_of("BraTS2021_00001") == "BraTS2021_00001"


def test_unknown_names_are_told_with_the_alias_that_would_help(tmp_path):
    put(tmp_path, *(f"c{i}/{word}.nii.gz" for i in range(5) for word in ("T1", "map_t1rho")))
    cohort = index(tmp_path)
    assert cohort.contrasts == ("T1w",)
    assert len(cohort.problems) == 1 and "--alias t1rho=CONTRAST" in cohort.problems[0] and "and 2 more" in cohort.problems[0]
    cohort = index(tmp_path, parse_aliases(["t1rho=T1rho"]))
    assert cohort.contrasts == ("T1w", "T1rho") and cohort.problems == ()


def test_synthetic_volumes_are_never_taken_for_acquired_ones(tmp_path):
    put(tmp_path, "c/T1.nii.gz", "c/c_desc-synth_FLAIR.nii.gz")
    cohort = index(tmp_path)
    assert cohort.contrasts == ("T1w",) and "synthetic" in cohort.problems[0]


# --- bad input ----------------------------------------------------------------------------------------------------


def test_no_such_folder_empty_folder_and_other_files(tmp_path):
    with pytest.raises(DataError, match=r"no such folder: .*nowhere"):
        index(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds no \.nii or \.nii\.gz file\."):
        index(tmp_path)
    put(tmp_path, "a/T1.mha", "a/T1.dcm", "a/notes.txt", "x.txt", "y/T1.nii.gz", "z/unknown.nii.gz", "w/seg.nii.gz")
    with pytest.raises(DataError, match=r"T1\.mha is no NIfTI file"):
        index(tmp_path / "a")
    with pytest.raises(DataError, match=r"neither a folder nor a \.csv or \.tsv table"):
        index(tmp_path / "x.txt")
    with pytest.raises(DataError, match="is one image; give the folder"):
        index(tmp_path / "y" / "T1.nii.gz")
    with pytest.raises(DataError, match=r"no case with an image.*--alias unknown=CONTRAST"):
        index(tmp_path / "z")
    with pytest.raises(DataError, match="labels and no image"):
        index(tmp_path / "w")


# --- splits.tsv ---------------------------------------------------------------------------------------------------


@pytest.fixture
def four(tmp_path):
    put(tmp_path / "data", *(f"c{i}/T1.nii.gz" for i in range(4)))
    return tmp_path / "data"


def test_split_file_in_the_folder_and_given(four, tmp_path):
    (four / "splits.tsv").write_text("case\tsplit\nc0\ttraining\nc1\tvalid\nc2\tTesting\nghost\ttrain\n")
    cohort = index(four)
    assert [case.split for case in cohort.cases] == ["train", "validation", "test", None]
    assert cohort.split_source == four / "splits.tsv"
    assert any("ghost, which is no case here" in line for line in cohort.problems)
    assert any("c3 is not in splits.tsv" in line for line in cohort.problems)
    other = tmp_path / "mine.csv"
    other.write_text("split,subject\nval,c0\ntrain,c1\ntrain,c2\ntrain,c3\n")
    cohort = index(four, split_file=other)
    assert [case.split for case in cohort.cases] == ["validation", "train", "train", "train"]
    assert cohort.split_source == other and cohort.problems == ()


def test_a_split_may_name_subjects(tmp_path):
    put(tmp_path, *(f"sub-0{i}/ses-{s}/anat/sub-0{i}_ses-{s}_T1w.nii.gz" for i in (1, 2) for s in (1, 2)))
    (tmp_path / "splits.tsv").write_text("participant_id\tsplit\nsub-01\ttrain\nsub-02\tval\n")
    assert [case.split for case in index(tmp_path).cases] == ["train", "train", "validation", "validation"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("case\tsplit\nc0\tlearn\n", "line 2: unknown split 'learn'; allowed: train, validation, test"),
        ("case\tfold\nc0\t1\n", "needs the columns case and split"),
        ("case\tsplit\nc0\ttrain\nc0\ttest\n", "line 3 puts c0 into test, an earlier line into train"),
        ("case\tsplit\nx\ttrain\ny\ttest\n", "names none of the cases: it has x, y; the data have c0, c1, c2 and 1 more"),
        ("case\tsplit\nc0\t\n", "line 2 lacks a split"),
        ("case\tsplit\n", "has no lines below its header"),
        ("", "is empty"),
        ("case\tsplit\nc0\ttrain\textra\n", "line 2 has 3 fields"),
        ("case\tcase\tsplit\n", "two columns called 'case'"),
    ],
)
def test_wrong_split_files(four, text, words):
    (four / "splits.tsv").write_text(text)
    with pytest.raises(DataError) as caught:
        index(four)
    assert words in str(caught.value) and "splits.tsv" in str(caught.value)


def test_missing_and_binary_split_files(four, tmp_path):
    with pytest.raises(DataError, match="no such split file"):
        index(four, split_file=tmp_path / "none.tsv")
    (tmp_path / "bad.tsv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(DataError, match="no UTF-8 text"):
        index(four, split_file=tmp_path / "bad.tsv")


# --- tables -------------------------------------------------------------------------------------------------------


def table(root: Path, text: str, name: str = "table.csv") -> Path:
    put(root, "x/a1.nii.gz", "x/a2.nii.gz", "x/b1.nii.gz", "x/m.nii.gz", "x/s.nii.gz")
    (root / name).write_text(text, encoding="utf-8-sig")
    return root / name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "t.csv",
            "case,contrast,path,mask,split\nA,t1,x/a1.nii.gz,x/m.nii.gz,train\nA,flair,x/a2.nii.gz,,\nB,t1,x/b1.nii.gz,n/a,val\n",
        ),
        (
            "t.csv",
            "Case;Contrast;Path;Mask;Split\nA;T1;x/a1.nii.gz;x/m.nii.gz;train\nA;FLAIR;x/a2.nii.gz;;\nB;T1;x/b1.nii.gz;;val\n",
        ),
        (
            "t.tsv",
            "case\tT1\tT2-FLAIR\tbrainmask\tsplit\nA\tx/a1.nii.gz\tx/a2.nii.gz\tx/m.nii.gz\ttrain\nB\tx/b1.nii.gz\t\t\tval\n",
        ),
        (
            "t.csv",
            "case,contrast,path,split\nA,t1,x/a1.nii.gz,train\nA,flair,x/a2.nii.gz,\nA,mask,x/m.nii.gz,\nB,t1,x/b1.nii.gz,val\n",
        ),
    ],
)
def test_long_and_wide_tables(tmp_path, name, text):
    cohort = index(table(tmp_path, text, name))
    assert cohort.layout == "table" and cohort.problems == ()
    a, b = cohort.cases
    assert {k: v.name for k, v in a.images.items()} == {"T1w": "a1.nii.gz", "FLAIR": "a2.nii.gz"} and a.mask.name == "m.nii.gz"
    assert {k: v.name for k, v in b.images.items()} == {"T1w": "b1.nii.gz"} and b.mask is None
    assert (a.split, b.split) == ("train", "validation") and cohort.split_source == cohort.root
    assert all(path.is_file() for case in cohort.cases for path in case.images.values())


def test_a_table_with_subjects_absolute_paths_and_missing_files(tmp_path):
    text = f"case,subject,contrast,path,segmentation\nA1,A,T1,{tmp_path}/x/a1.nii.gz,x/s.nii.gz\nA2,A,T1,x/none.nii.gz,\n"
    cohort = index(table(tmp_path, text))
    assert subjects(cohort) == {"A1": "A", "A2": "A"} and cohort.cases[0].segmentation.name == "s.nii.gz"
    assert len(cohort.problems) == 1 and "line 3" in cohort.problems[0] and "none.nii.gz does not exist" in cohort.problems[0]
    with pytest.raises(DataError, match="does not exist"):  # stays in the case: no silent gap
        index_files({"T1w": cohort.cases[1].images["T1w"]})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("case,path\nA,x\n", "needs case, contrast, path"),
        ("contrast,path\nT1,x\n", "needs case, contrast, path"),
        ("case,contrast,path\n", "has no lines below its header"),
        ("case,contrast,path\nA,FLIAR,x/a1.nii.gz\n", "line 2: unknown contrast 'FLIAR': did you mean FLAIR?"),
        ("case,contrast,path\n,T1,x/a1.nii.gz\n", "line 2 names no case"),
        ("case,contrast,path\nA,T1,\n", "line 2 has no path"),
        (
            "case,contrast,path\nA,T1,x/a1.nii.gz\nA,t1w,x/a2.nii.gz\n",
            "line 3 gives a second T1w: a2.nii.gz, on an earlier line a1.nii.gz",
        ),
        (
            "case,contrast,path,split\nA,T1,x/a1.nii.gz,train\nA,T2,x/a2.nii.gz,test\n",
            "split of case A is 'test', on an earlier line 'train'",
        ),
        ("case,contrast,path,split\nA,T1,x/a1.nii.gz,fold1\n", "unknown split 'fold1'"),
    ],
)
def test_wrong_tables(tmp_path, text, words):
    with pytest.raises(DataError) as caught:
        index(table(tmp_path, text))
    assert words in str(caught.value) and "table.csv" in str(caught.value)


# --- single files and describe ------------------------------------------------------------------------------------


def test_index_files(tmp_path):
    put(tmp_path, "p1_T1.nii.gz", "p1_T2.nii.gz", "m.nii.gz")
    case = index_files({"t1": tmp_path / "p1_T1.nii.gz", "T2w": str(tmp_path / "p1_T2.nii.gz"), "mask": tmp_path / "m.nii.gz"})
    images = {"T1w": tmp_path / "p1_T1.nii.gz", "T2w": tmp_path / "p1_T2.nii.gz"}
    assert case == Case("p1", "p1", images, tmp_path / "m.nii.gz")
    put(tmp_path, "sub-9/T1.nii.gz")
    assert index_files({"T1w": tmp_path / "sub-9" / "T1.nii.gz"}).name == "sub-9"
    assert index_files({"T1w": tmp_path / "m.nii.gz"}, name="x").name == "x"


def test_index_files_refusals(tmp_path):
    put(tmp_path, "a.nii.gz", "b.nii.gz")
    a, b = tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"
    with pytest.raises(UsageError, match="unknown contrast 'T1x'"):
        index_files({"T1x": a})
    with pytest.raises(UsageError, match="T1w was given twice"):
        index_files({"T1": a, "T1w": b})
    with pytest.raises(UsageError, match="as T1w and as T2w"):
        index_files({"T1": a, "T2": a})
    with pytest.raises(DataError, match=r"T1w: .*none.nii.gz does not exist"):
        index_files({"T1": tmp_path / "none.nii.gz"})
    with pytest.raises(DataError, match="is a folder"):
        index_files({"T1": tmp_path})
    with pytest.raises(UsageError, match="no image was given"):
        index_files({"mask": a})


def test_describe_is_plain_data(tmp_path):
    write_case(tmp_path / "a", {"T1": VOXELS, "T2": VOXELS, "seg": VOXELS > 0}, np.diag([-1, -1, 2, 1]))
    write_case(tmp_path / "b", {"T1": VOXELS})
    write_case(tmp_path / "b", {"T2": blob_brain((8, 8, 8))})
    put(tmp_path, "c/T1.nii.gz")
    (tmp_path / "c" / "T1.nii.gz").write_text("no image")
    (tmp_path / "splits.tsv").write_text("case\tsplit\na\ttrain\nb\ttrain\nc\ttest\n")
    data = json.loads(json.dumps(describe(index(tmp_path))))
    assert data["contrasts"] == ["T1w", "T2w"] and data["missing"] == {"T1w": [], "T2w": ["c"]}
    assert data["layout"] == "folder" and data["splits"] == {"train": 2, "validation": 0, "test": 1}
    a, b, c = data["cases"]
    assert a == {
        "name": "a",
        "subject": "a",
        "session": "",
        "contrasts": ["T1w", "T2w"],
        "files": {"T1w": "a/T1.nii.gz", "T2w": "a/T2.nii.gz"},
        "mask": None,
        "segmentation": "a/seg.nii.gz",
        "split": "train",
        "grid": "4x5x6 at 1x1x2 mm LPS",
        "reasons": {"T1w": "'T1' in the name", "T2w": "'T2' in the name", "segmentation": "'seg' in the name"},
        "passed_over": [],
    }
    assert b["grid"] == "differs: T1w: 4x5x6 at 1x1x1 mm RAS; T2w: 8x8x8 at 1x1x1 mm RAS"
    assert c["grid"] == "unreadable" and any("T1w of case c" in line and "no NIfTI" in line for line in data["problems"])
    assert data["grids"][0] == {"shape": [4, 5, 6], "spacing": [1.0, 1.0, 2.0], "orientation": "LPS", "images": 2}
    assert sum(grid["images"] for grid in data["grids"]) == 4
