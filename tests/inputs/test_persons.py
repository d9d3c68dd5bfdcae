"""Who the person is: each row is a way in which a public data set or a tool names people, visits and versions of a scan."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from itertools import product
from pathlib import Path

import nibabel
import numpy as np
import pytest

from synthmr.case import Cohort
from synthmr.data.audit import audit
from synthmr.data.folds import make_folds, read_folds
from synthmr.data.split import make_split
from synthmr.errors import DataError, UsageError
from synthmr.io.folder_words import is_session, is_stage, kind, split_session
from synthmr.io.index import index
from synthmr.reading import Reading

_RAW = nibabel.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), np.eye(4)).to_bytes()


def put(root: Path, names: Iterable[str]) -> Path:
    """Write tiny volumes below a folder that is called as no person is."""
    for name in names:
        path = root / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(_RAW, 1) if name.endswith(".gz") else _RAW)
    return root / "data"


def each(pattern: str, **values: Iterable[object]) -> list[str]:
    """The pattern with every combination of the values."""
    return [pattern.format(**dict(zip(values, chosen, strict=True))) for chosen in product(*values.values())]


def who(cohort: Cohort) -> dict[str, tuple[str, str]]:
    """case -> (subject, session)."""
    return {case.name: (case.subject, case.session) for case in cohort.cases}


TWO, CONTRASTS = (1, 2), ("T1w", "FLAIR")

#: data set -> its files, and who is who: case -> (subject, session)
NAMED = {
    "OASIS-3: a day number behind the person": (
        each("OAS3000{p}_MR_{d}/sub-OAS3000{p}_sess-{d}_{c}.nii.gz", p=TWO, d=("d0129", "d0757"), c=CONTRASTS),
        {f"OAS3000{p}_MR_{d}": (f"OAS3000{p}", d) for p in TWO for d in ("d0129", "d0757")},
    ),
    "OASIS-3 as XNAT exports it": (
        [
            *each("OAS3000{p}/OAS3000{p}_MR_d0129/anat2/sub-OAS3000{p}_T1w.nii.gz", p=TWO),
            "OAS30001/OAS30001_MR_d0757/anat4/sub-OAS30001_T1w.nii.gz",
        ],
        {
            "OAS30001_MR_d0129": ("OAS30001", "d0129"),
            "OAS30001_MR_d0757": ("OAS30001", "d0757"),
            "OAS30002_MR_d0129": ("OAS30002", "d0129"),
        },
    ),
    "OASIS-1 and 2": (
        each("OAS2_000{p}_MR{v}/T1.nii.gz", p=TWO, v=TWO),
        {f"OAS2_000{p}_MR{v}": (f"OAS2_000{p}", f"MR{v}") for p in TWO for v in TWO},
    ),
    "a hospital's export: dates with hyphens": (
        [*each("P00{p}/2019-03-0{p}/{c}.nii.gz", p=TWO, c=CONTRASTS), "P001/2020-05-11/T1w.nii.gz"],
        {
            "P001_2019-03-01": ("P001", "2019-03-01"),
            "P001_2020-05-11": ("P001", "2020-05-11"),
            "P002_2019-03-02": ("P002", "2019-03-02"),
        },
    ),
    "dates in one number": (
        [*each("77beef/{d}/T1w.nii.gz", d=("20190312", "20200401")), "a9f3c2/20190312/T1w.nii.gz"],
        {
            "77beef_20190312": ("77beef", "20190312"),
            "77beef_20200401": ("77beef", "20200401"),
            "a9f3c2_20190312": ("a9f3c2", "20190312"),
        },
    ),
    "dates with the name of the month": (
        ["S1/12-Mar-2019/T1w.nii.gz", "S1/Apr2020/T1w.nii.gz", "S2/12-Mar-2019/T1w.nii.gz"],
        {"S1_12-Mar-2019": ("S1", "12-Mar-2019"), "S1_Apr2020": ("S1", "Apr2020"), "S2_12-Mar-2019": ("S2", "12-Mar-2019")},
    ),
    "dates of six digits, known by what lies above": (
        ["P01/190312/T1w.nii.gz", "P01/200401/T1w.nii.gz", "P02/190315/T1w.nii.gz"],
        {"P01_190312": ("P01", "190312"), "P01_200401": ("P01", "200401"), "P02_190315": ("P02", "190315")},
    ),
    "a date in the folder's name": (
        [*each("John_Doe_{d}/T1w.nii.gz", d=("20190312", "2020-01-01")), "20190101_P7/T1w.nii.gz"],
        {
            "John_Doe_20190312": ("John_Doe", "20190312"),
            "John_Doe_2020-01-01": ("John_Doe", "2020-01-01"),
            "P7_20190101": ("P7", "20190101"),
        },
    ),
    "TCIA: studies that start with their date": (
        [
            "TCGA-02-0001/01-05-1998-NA-MRI BRAIN WWO-45678/T1.nii.gz",
            "TCGA-02-0001/09-05-1999-NA-MRI BRAIN-88/T1.nii.gz",
            "TCGA-02-0003/01-05-1998-NA-MRI BRAIN WWO-11111/T1.nii.gz",
        ],
        {
            "TCGA-02-0001_01-05-1998": ("TCGA-02-0001", "01-05-1998"),
            "TCGA-02-0001_09-05-1999": ("TCGA-02-0001", "09-05-1999"),
            "TCGA-02-0003_01-05-1998": ("TCGA-02-0003", "01-05-1998"),
        },
    ),
    "ADNI: person, series, date and time, image number": (
        [
            "ADNI/002_S_0413/MPRAGE/2006-05-19_16_17_47.0/I14872/ADNI_002_S_0413_MPRAGE.nii",
            "ADNI/002_S_0413/FLAIR/2006-05-19_16_40_02.0/I14873/ADNI_002_S_0413_FLAIR.nii",
            "ADNI/005_S_0223/MPRAGE/2007-01-02_09_00_00.0/I14999/ADNI_005_S_0223_MPRAGE.nii",
        ],
        {"002_S_0413_2006-05-19": ("002_S_0413", "2006-05-19"), "005_S_0223_2007-01-02": ("005_S_0223", "2007-01-02")},
    ),
    "groups of persons (ADNI by diagnosis)": (
        ["CN/002_S_0413/T1.nii.gz", "AD/005_S_0223/T1.nii.gz", "AD/003_S_0001/T1.nii.gz"],
        {name: (name, "") for name in ("002_S_0413", "005_S_0223", "003_S_0001")},
    ),
    "LUMIERE": (
        each("Imaging/Patient-00{p}/week-{w}/{c}.nii.gz", p=TWO, w=("000-1", "000-2", "044"), c=("CT1", "FLAIR")),
        {f"Patient-00{p}_week-{w}": (f"Patient-00{p}", f"week-{w}") for p in TWO for w in ("000-1", "000-2", "044")},
    ),
    "ISBI 2015 in one folder: a number behind a stem": (
        each("training0{p}_0{v}_{c}_pp.nii", p=TWO, v=TWO, c=("mprage", "flair")),
        {f"training0{p}_0{v}": (f"training0{p}", f"0{v}") for p in TWO for v in TWO},
    ),
    "BraTS 2018: two scans of one person": (
        each("HGG/Brats18_{p}/Brats18_{p}_t1.nii.gz", p=("TCIA01_201_1", "TCIA01_201_2", "TCIA02_11_1")),
        {
            "Brats18_TCIA01_201_1": ("Brats18_TCIA01_201", "1"),
            "Brats18_TCIA01_201_2": ("Brats18_TCIA01_201", "2"),
            "Brats18_TCIA02_11_1": ("Brats18_TCIA02_11_1", ""),
        },
    ),
    "BraTS 2020 and FeTS: numbers are persons": (
        each("BraTS20_Training_00{p}/T1.nii.gz", p=TWO) + each("FeTS2022_0134{p}/T1.nii.gz", p=TWO),
        {f"{stem}{p}": (f"{stem}{p}", "") for p in TWO for stem in ("BraTS20_Training_00", "FeTS2022_0134")},
    ),
    "BraTS 2023, metastases": (
        each("BraTS-MET-0000{p}-00{t}/BraTS-MET-0000{p}-00{t}-t1c.nii.gz", p=TWO, t=(0, 1)),
        {f"BraTS-MET-0000{p}-00{t}": (f"BraTS-MET-0000{p}", f"00{t}") for p in TWO for t in (0, 1)},
    ),
    "UPENN-GBM": (
        each("images_structural/UPENN-GBM-0000{p}_{t}/UPENN-GBM-0000{p}_{t}_T1.nii.gz", p=TWO, t=(11, 21)),
        {f"UPENN-GBM-0000{p}_{t}": (f"UPENN-GBM-0000{p}", str(t)) for p in TWO for t in (11, 21)},
    ),
    "UCSF-PDGM: a follow-up beside the first scan": (
        each("{s}_nifti/{s}_T1.nii.gz", s=("UCSF-PDGM-0431", "UCSF-PDGM-0431_FU001d", "UCSF-PDGM-0004")),
        {
            "UCSF-PDGM-0431_nifti": ("UCSF-PDGM-0431", ""),
            "UCSF-PDGM-0431_FU001d_nifti": ("UCSF-PDGM-0431", "FU001d"),
            "UCSF-PDGM-0004_nifti": ("UCSF-PDGM-0004", ""),
        },
    ),
    "MU-Glioma-Post": (
        each("PatientID_000{p}/Timepoint_{t}/PatientID_000{p}_Timepoint_{t}_brain_t1n.nii.gz", p=TWO, t=TWO),
        {f"PatientID_000{p}_Timepoint_{t}": (f"PatientID_000{p}", f"Timepoint_{t}") for p in TWO for t in TWO},
    ),
    "RHUH-GBM: visits are single numbers": (
        each("RHUH-000{p}/{t}/RHUH-000{p}_{t}_t1.nii.gz", p=TWO, t=(0, 1, 2)),
        {f"RHUH-000{p}_{t}": (f"RHUH-000{p}", str(t)) for p in TWO for t in (0, 1, 2)},
    ),
    "HCP Aging: V1 and V2": (
        each("HCA600{p}000_V{v}_MR/T1w.nii.gz", p=TWO, v=TWO),
        {f"HCA600{p}000_V{v}_MR": (f"HCA600{p}000", f"V{v}") for p in TWO for v in TWO},
    ),
    "UK Biobank: the field differs, person and visit do not": (
        each("100000{p}_20252_{v}_0/T1.nii.gz", p=TWO, v=(2, 3)) + each("100000{p}_20253_{v}_0/T2_FLAIR.nii.gz", p=TWO, v=(2, 3)),
        {f"100000{p}_20252_{v}_0": (f"100000{p}", str(v)) for p in TWO for v in (2, 3)},
    ),
    "CamCAN and HCP: plain numbers": (
        ["CC110033/T1.nii.gz", "CC110037/T1.nii.gz", "100307/T1.nii.gz"],
        {name: (name, "") for name in ("CC110033", "CC110037", "100307")},
    ),
    "IXI by hospital": (
        [
            "Guys/IXI002-Guys-0828-T1.nii.gz",
            "Guys/IXI003-Guys-0830-T1.nii.gz",
            "HH/IXI012-HH-1211-T1.nii.gz",
            "HH/IXI013-HH-1212-T1.nii.gz",
        ],
        {n: (n, "") for n in ("IXI002-Guys-0828", "IXI003-Guys-0830", "IXI012-HH-1211", "IXI013-HH-1212")},
    ),
    "clinics' words: group, person, visit": (
        each("{g}_{p}/visit{v}/T1.nii.gz", g=("AD", "CN"), p=TWO, v=TWO),
        {f"{g}_{p}_visit{v}": (f"{g}_{p}", f"visit{v}") for g in ("AD", "CN") for p in TWO for v in TWO},
    ),
    "visits above the persons": (
        each("{v}/P{p}/T1.nii.gz", v=("baseline", "followup"), p=TWO),
        {f"P{p}_{v}": (f"P{p}", v) for p in TWO for v in ("baseline", "followup")},
    ),
    "test and retest": (
        each("{v}/P{p}/T1.nii.gz", v=("test", "retest"), p=TWO),
        {f"P{p}_{v}": (f"P{p}", v) for p in TWO for v in ("test", "retest")},
    ),
    "time points that look like contrasts": (
        each("P{p}/T{v}/{c}.nii.gz", p=TWO, v=(0, 1, 2), c=CONTRASTS),
        {f"P{p}_T{v}": (f"P{p}", f"T{v}") for p in TWO for v in (0, 1, 2)},
    ),
    "before and after an operation": (
        each("P{p}/{v}/T1.nii.gz", p=TWO, v=("preop", "post-op")),
        {f"P{p}_{v}": (f"P{p}", v) for p in TWO for v in ("preop", "post-op")},
    ),
    "words that repeat within each person": (
        each("00{p}/{v}/T1.nii.gz", p=(1, 2, 3), v=("before", "after")),
        {f"00{p}_{v}": (f"00{p}", v) for p in (1, 2, 3) for v in ("before", "after")},
    ),
    "MSSEG-2: the time point behind the contrast": (
        each("0{p}/flair_time0{t}_on_middle_space.nii.gz", p=(13, 15), t=TWO),
        {f"0{p}_time0{t}": (f"0{p}", f"time0{t}") for p in (13, 15) for t in TWO},
    ),
    "dates in the file names": (
        each("P{p}/P{p}_{d}_T1.nii.gz", p=TWO, d=("20190312", "20200401")),
        {f"P{p}_{d}": (f"P{p}", d) for p in TWO for d in ("20190312", "20200401")},
    ),
    "BIDS names in one folder": (
        each("sub-0{p}_ses-0{s}_{c}.nii.gz", p=TWO, s=TWO, c=CONTRASTS),
        {f"sub-0{p}_ses-0{s}": (f"sub-0{p}", f"ses-0{s}") for p in TWO for s in TWO},
    ),
    "XNAT: scans, resources, files": (
        each("P00{p}/MR_1/scans/{n}/resources/NIFTI/files/{n}.nii.gz", p=TWO, n=("3-T1_MPRAGE", "5-T2_FLAIR")),
        {f"P00{p}_MR_1": (f"P00{p}", "MR_1") for p in TWO},
    ),
    "nnU-Net's folders": (
        each("imagesTr/case_00{p}_{c}.nii.gz", p=TWO, c=CONTRASTS) + each("labelsTr/case_00{p}_seg.nii.gz", p=TWO),
        {f"case_00{p}": (f"case_00{p}", "") for p in TWO},
    ),
    "DICOM identifiers: study and series": (
        each("P00{p}/1.3.6.1.4.1.{p}1/1.3.6.1.4.1.9{p}{n}/{c}.nii.gz", p=TWO, n=(1,), c=("T1",))
        + each("P00{p}/1.3.6.1.4.1.{p}1/1.3.6.1.4.1.9{p}{n}/{c}.nii.gz", p=TWO, n=(2,), c=("FLAIR",)),
        {f"P00{p}_1.3.6.1.4.1.{p}1": (f"P00{p}", f"1.3.6.1.4.1.{p}1") for p in TWO},
    ),
    "a folder a series below a date": (
        each("P00{p}/exam_2019-01-0{p}/301/T1.nii.gz", p=TWO) + each("P00{p}/exam_2019-01-0{p}/401/FLAIR.nii.gz", p=TWO),
        {f"P00{p}_2019-01-0{p}": (f"P00{p}", f"2019-01-0{p}") for p in TWO},
    ),
    "a letter behind the number": (
        each("sub-00{p}{v}/T1.nii.gz", p=TWO, v="ab"),
        {f"sub-00{p}{v}": (f"sub-00{p}", v) for p in TWO for v in "ab"},
    ),
    "a repeated scan beside the first": (
        each("{n}/T1.nii.gz", n=("S001", "S001_2", "S002")),
        {"S001": ("S001", ""), "S001_2": ("S001", "2"), "S002": ("S002", "")},
    ),
    "initials, some of which are words of processing": (
        each("{n}/T1.nii.gz", n=("AB", "SS", "PP", "KL")),
        {n: (n, "") for n in ("AB", "SS", "PP", "KL")},
    ),
    "numbered brains": (each("brain_00{p}/T1.nii.gz", p=TWO), {f"brain_00{p}": (f"brain_00{p}", "") for p in TWO}),
    "a follow-up below the first visit": (
        each("P{p}/{v}T1.nii.gz", p=TWO, v=("", "2019-03-12/", "atlas/")),
        {f"P{p}{v}": (f"P{p}", v.strip("_")) for p in TWO for v in ("", "_2019-03-12")},
    ),
    "months after the first visit": (
        each("P{p}/{v}/T1.nii.gz", p=TWO, v=("baseline", "6months", "12m")),
        {f"P{p}_{v}": (f"P{p}", v) for p in TWO for v in ("baseline", "6months", "12m")},
    ),
    "groups, persons, sessions": (
        each("{g}/ses-{s}/T1.nii.gz", g=("HC/01", "HC/02", "MS/03"), s=TWO),
        {f"0{p}_ses-{s}": (f"0{p}", f"ses-{s}") for p in (1, 2, 3) for s in TWO},
    ),
    "a pipeline's folders in a project": (
        each("study/rawdata/sub-0{p}/T1w.nii.gz", p=TWO),
        {f"sub-0{p}": (f"sub-0{p}", "") for p in TWO},
    ),
}


@pytest.mark.parametrize("row", NAMED.values(), ids=list(NAMED))
def test_persons_and_visits_are_told_by_all_names_together(
    tmp_path: Path, row: tuple[list[str], dict[str, tuple[str, str]]]
) -> None:
    names, expected = row
    cohort = index(put(tmp_path, names))
    assert who(cohort) == expected
    assert not cohort.doubts and all(case.images for case in cohort.cases)


#: data set -> its files, its cases -> subject, and the flags of which one answers
VERSIONS = {
    "ISBI 2015 as it is distributed": (
        each("training0{p}/orig/training0{p}_0{v}_{c}.nii", p=TWO, v=TWO, c=("mprage", "flair"))
        + each("training0{p}/preprocessed/training0{p}_0{v}_{c}_pp.nii", p=TWO, v=TWO, c=("mprage", "flair")),
        {f"training0{p}_0{v}": f"training0{p}" for p in TWO for v in TWO},
        ("--prefer orig", "--prefer preprocessed"),
    ),
    "WMH 2017: orig and pre": (
        each("Utrecht/{p}/{s}/{c}.nii.gz", p=(0, 2), s=("orig", "pre"), c=CONTRASTS)
        + each("Singapore/50/{s}/{c}.nii.gz", s=("orig", "pre"), c=CONTRASTS),
        {"0": "0", "2": "2", "50": "50"},
        ("--prefer orig", "--prefer pre"),
    ),
    "a folder a stage, the persons below": (
        each("{s}/sub-0{p}/T1.nii.gz", s=("raw", "n4"), p=TWO),
        {"sub-01": "sub-01", "sub-02": "sub-02"},
        ("--prefer n4", "--prefer raw"),
    ),
    "a folder a stage, the persons in file names": (
        each("{s}/p{p}_{c}.nii.gz", s=("raw", "02_bet"), p=TWO, c=CONTRASTS),
        {"p1": "p1", "p2": "p2"},
        ("--prefer bet", "--prefer raw"),
    ),
    "stages as the start of file names": (
        each("P{p}/{s}_{c}.nii.gz", p=TWO, s=("raw", "skull_stripped"), c=CONTRASTS),
        {"P1": "P1", "P2": "P2"},
        ("--prefer raw", "--prefer skull"),
    ),
    "stages at the end of the persons' names": (
        each("P00{p}_{s}/{c}.nii.gz", p=TWO, s=("raw", "n4_bet"), c=CONTRASTS),
        {"P001": "P001", "P002": "P002"},
        ("--prefer raw", "--prefer n4"),
    ),
    "stages before the persons' names, and visits": (
        each("{s}_P00{p}_V{v}_{c}.nii.gz", p=TWO, s=("raw", "bet"), v=TWO, c=CONTRASTS),
        {f"P00{p}_V{v}": f"P00{p}" for p in TWO for v in TWO},
        ("--prefer raw", "--prefer bet"),
    ),
    "stages below dates": (
        each("P{p}/{d}/{s}/T1.nii.gz", p=TWO, d=("20190101", "20200101"), s=("Original_Data", "in_MNI")),
        {f"P{p}_{d}": f"P{p}" for p in TWO for d in ("20190101", "20200101")},
        ("--prefer Original", "--prefer MNI"),
    ),
    "HCP: native and MNI": (
        each("{p}/T1w/{c}_acpc_dc.nii.gz", p=(100307, 100408, 101107), c=("T1w", "T2w"))
        + each("{p}/MNINonLinear/{c}.nii.gz", p=(100307, 100408, 101107), c=("T1w", "T2w")),
        {str(p): str(p) for p in (100307, 100408, 101107)},
        ("--prefer MNINonLinear", "--prefer acpc"),
    ),
    "two pipelines' outputs": (
        each("{s}/sub-0{p}/anat/sub-0{p}_T1w.nii.gz", s=("fmriprep", "cat12"), p=TWO),
        {"sub-01": "sub-01", "sub-02": "sub-02"},
        ("--prefer cat12", "--prefer fmriprep"),
    ),
    "fMRIPrep: a space": (
        each("sub-0{p}/anat/sub-0{p}_{e}T1w.nii.gz", p=TWO, e=("desc-preproc_", "space-MNI152NLin6Asym_desc-preproc_")),
        {"sub-01": "sub-01", "sub-02": "sub-02"},
        ("--entity space=none", "--entity space=MNI152NLin6Asym"),
    ),
    "BIDS: two acquisitions": (
        each("sub-0{p}/anat/sub-0{p}_acq-{a}_T1w.nii.gz", p=TWO, a=("mprage", "space")),
        {"sub-01": "sub-01", "sub-02": "sub-02"},
        ("--entity acq=mprage", "--entity acq=space"),
    ),
    "BIDS: desc": (
        each("sub-0{p}/anat/sub-0{p}_desc-{a}_T1w.nii.gz", p=TWO, a=("preproc", "denoised")),
        {"sub-01": "sub-01", "sub-02": "sub-02"},
        ("--entity desc=denoised", "--entity desc=preproc"),
    ),
    "one folder, other names": (
        each("P{p}/{c}.nii.gz", p=TWO, c=("T1", "mprage")),
        {"P1": "P1", "P2": "P2"},
        ("--prefer T1", "--prefer mprage"),
    ),
}


@pytest.mark.parametrize("row", VERSIONS.values(), ids=list(VERSIONS))
def test_versions_of_a_scan_are_one_case_and_a_question_whose_answers_work(
    tmp_path: Path, row: tuple[list[str], dict[str, str], tuple[str, ...]]
) -> None:
    names, expected, flags = row
    root = put(tmp_path, names)
    cohort = index(root)
    assert {case.name: case.subject for case in cohort.cases} == expected
    for case in cohort.cases:
        assert not case.images and case.passed_over
        assert all(set(asked.partition(", ")[2].split(" or ")) == set(flags) for asked in case.asked.values())
    assert all(flag in cohort.problems[0] for flag in flags) and "is set aside" in cohort.problems[0]
    chosen = []
    for flag in flags:  # every flag that is offered settles every case, and each takes other files
        option, value = flag.split(" ")
        key, _, word = value.partition("=")
        answered = index(root, entities={key: word}) if option == "--entity" else index(root, prefer=[value])
        assert all(len(case.images) == len(cohort.cases[0].asked) and not case.asked for case in answered.cases)
        assert {case.name: case.subject for case in answered.cases} == expected
        chosen.append({path for case in answered.cases for path in case.images.values()})
    assert not chosen[0] & chosen[1]


#: data set -> its files, and the groups of cases that may be of one person
DOUBTFUL = {
    "one number at two sites": (
        each("{s}/00{p}/T1.nii.gz", s=("Utrecht", "Oslo"), p=TWO),
        [{"Oslo_001", "Utrecht_001"}, {"Oslo_002", "Utrecht_002"}],
    ),
    "BIDS data sets of two sites (or a travelling head)": (
        each("site{s}/sub-0{p}/anat/sub-0{p}_T1w.nii.gz", s="AB", p=TWO),
        [{"siteA_sub-01", "siteB_sub-01"}, {"siteA_sub-02", "siteB_sub-02"}],
    ),
    "numbers that begin again in the test folder": (
        each("{s}/00{p}/T1.nii.gz", s=("train", "test"), p=TWO),
        [{"test_001", "train_001"}, {"test_002", "train_002"}],
    ),
    "MSSEG 2016: patients counted anew at each centre": (
        each("Center_0{s}/Patient_0{p}/T1.nii.gz", s=TWO, p=TWO),
        [{"Center_01_Patient_01", "Center_02_Patient_01"}, {"Center_01_Patient_02", "Center_02_Patient_02"}],
    ),
    "accession numbers below a name": (
        ["ABC1/88310/T1.nii.gz", "ABC1/88325/T1.nii.gz", "ABC2/99117/T1.nii.gz"],
        [{"ABC1_88310", "ABC1_88325"}],
    ),
    "numbers below numbers": (
        each("{a}/{b}/T1.nii.gz", a=TWO, b=TWO),
        [{"1_1", "1_2"}, {"2_1", "2_2"}, {"1_1", "2_1"}, {"1_2", "2_2"}],
    ),
    "one stem, and nothing beside it": (
        each("training01_0{v}/T1.nii.gz", v=(1, 2, 3)),
        [{"training01_01", "training01_02", "training01_03"}],
    ),
}


@pytest.mark.parametrize("row", DOUBTFUL.values(), ids=list(DOUBTFUL))
def test_what_names_cannot_tell_is_a_doubt_that_no_split_or_fold_tears_apart(
    tmp_path: Path, row: tuple[list[str], list[set[str]]]
) -> None:
    names, expected = row
    root = put(tmp_path, names)
    cohort = index(root)
    groups = [set(group) for doubt in cohort.doubts for group in doubt.groups]
    assert sorted(map(sorted, groups)) == sorted(map(sorted, expected))
    assert all("--subject '" in doubt.fix for doubt in cohort.doubts)
    several = len(set(cohort.persons.values())) > 1
    for seed in range(8):
        if not several:
            with pytest.raises(DataError, match=r"without a guess who is who.*--subject '"):
                make_split(cohort, ["T1w"], seed)
            continue
        split = make_split(cohort, ["T1w"], seed)
        parts = {name: part for part in ("train", "validation", "test") for name in split.part(part)}
        assert all(len({parts[name] for name in group}) == 1 for group in groups)
    with pytest.raises(DataError, match=r"who is who|leaves 1 subject"):
        make_folds(cohort, len({case.subject for case in cohort.cases}))
    assert [finding.level for finding in audit(cohort) if "--subject" in finding.fix] == ["warning"] * len(cohort.doubts)
    # each answer that is offered settles it
    for flag in cohort.doubts[0].fix.split("--subject ")[1:]:
        told = index(root, subject=flag.split("'")[1])
        assert not told.doubts and len(told.cases) == len(cohort.cases)


def test_a_split_file_and_a_fold_file_that_tear_a_doubt_apart_are_refused(tmp_path: Path) -> None:
    root = put(tmp_path, each("{s}/00{p}/T1.nii.gz", s=("Utrecht", "Oslo"), p=TWO))
    (root / "splits.tsv").write_text("case\tsplit\nUtrecht_001\ttrain\nOslo_001\ttest\nUtrecht_002\tval\nOslo_002\tval\n")
    cohort = index(root)
    with pytest.raises(DataError, match=r"Oslo_001 into test, Utrecht_001 into train, and they may be one person.*--subject '"):
        make_split(cohort, ["T1w"])
    assert any(finding.level == "error" and "may be one person" in finding.what for finding in audit(cohort))
    told = index(root, subject="^(?P<subject>[^/]+/[^/]+)")
    assert make_split(told, ["T1w"]).test == ("Oslo_001",)
    (tmp_path / "folds.tsv").write_text("case\tfold\nUtrecht_001\t1\nOslo_001\t2\nUtrecht_002\t1\nOslo_002\t2\n")
    with pytest.raises(DataError, match=r"fold 1.*may be one person"):
        read_folds(tmp_path / "folds.tsv", cohort)


def test_folds_of_a_doubt_stay_together_and_can_be_read_again(tmp_path: Path) -> None:
    from synthmr.data.folds import write_folds

    cohort = index(put(tmp_path, each("{s}/00{p}/T1.nii.gz", s=("Utrecht", "Oslo"), p=range(1, 7))))
    folds = make_folds(cohort, 3)
    assert all(folds.fold[f"Utrecht_00{p}"] == folds.fold[f"Oslo_00{p}"] for p in range(1, 7))
    write_folds(tmp_path / "folds.tsv", folds)
    again = read_folds(tmp_path / "folds.tsv", cohort)
    assert [again.split(i) for i in (1, 2, 3)] and again.fold == folds.fold and again.validation == folds.validation
    for number in (1, 2, 3):
        parts = {name: part for part in ("train", "validation", "test") for name in folds.split(number).part(part)}
        assert all(parts[f"Utrecht_00{p}"] == parts[f"Oslo_00{p}"] for p in range(1, 7))


# --- --subject, --entity, --prefer --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "pattern", "expected"),
    [
        (each("x/{a}{b}/T1.nii.gz", a="pq", b=TWO), r"(?P<subject>[pq])(?P<session>\d)/", {"p_1": ("p", "1"), "q_2": ("q", "2")}),
        (
            each("OAS3000{p}_MR_d0{d}/T1.nii.gz", p=TWO, d=(129, 757)),
            r"(?P<subject>OAS\d+)",
            {"OAS30001_d0129": ("OAS30001", "d0129")},
        ),
        (each("{a}/00{b}/T1.nii.gz", a="ab", b=TWO), r"^[^/]+/(?P<subject>[^/]+)", {"001_a": ("001", "a"), "002_b": ("002", "b")}),
        (
            each("{a}/00{b}/T1.nii.gz", a="ab", b=TWO),
            r"^(?P<subject>[^/]+/[^/]+)",
            {"a_001": ("a_001", ""), "b_002": ("b_002", "")},
        ),
        (each("siteA/{n}_{c}.nii.gz", n=("anna", "bert"), c=CONTRASTS), r"/(?P<subject>[a-z]+)_", {"anna": ("anna", "")}),
        (each("P{p}/2019-03-0{p}/T1.nii.gz", p=TWO), r"^(?P<subject>P\d)/(?P<session>\d{4})", {"P1_2019": ("P1", "2019")}),
        (each("sub-0{p}/ses-{s}/anat/sub-0{p}_T1w.nii.gz", p=TWO, s="ab"), r"sub-(?P<subject>\d+)", {"01_ses-a": ("01", "ses-a")}),
        (
            each("training01_0{v}_{c}.nii.gz", v=TWO, c=CONTRASTS),
            r"(?P<subject>[a-z]+\d+)_(?P<session>\d+)",
            {"training01_02": ("training01", "02")},
        ),
    ],
)
def test_a_pattern_overrides_what_names_say(
    tmp_path: Path, names: list[str], pattern: str, expected: dict[str, tuple[str, str]]
) -> None:
    cohort = index(put(tmp_path, names), subject=pattern)
    assert {name: who(cohort).get(name) for name in expected} == expected
    assert sum(len(case.images) for case in cohort.cases) == len(names) and not cohort.doubts


def test_files_that_the_pattern_does_not_match_are_passed_over_with_a_line(tmp_path: Path) -> None:
    root = put(tmp_path, ["a/P001/T1.nii.gz", "b/X/T1.nii.gz", "b/P002/T1.nii.gz"])
    cohort = index(root, subject=r"(?P<subject>P\d+)")
    assert list(who(cohort)) == ["P001", "P002"]
    assert "b/X/T1.nii.gz was passed over: --subject" in cohort.problems[0]
    with pytest.raises(DataError, match="--subject"):
        index(root, subject="(?P<subject>nobody)")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"subject": "(?P<subject>["}, r"is no regular expression \("),
        ({"subject": "P\\d+"}, "has no group called subject"),
        ({"subject": "(?P<subject>P)(?P<visit>1)"}, "has a group 'visit'; allowed are subject and session"),
        ({"entity": ["desc"]}, "not of the form KEY=VALUE"),
        ({"entity": ["desc=a", "desc=b"]}, "given twice, as 'a' and as 'b'"),
        ({"entity": ["=a"]}, "write KEY=VALUE"),
        ({"entity": ["desc="]}, "write KEY=VALUE"),
        ({"prefer": [""]}, "give a word"),
        ({"alias": ["t1"]}, "alias=CONTRAST"),
    ],
)
def test_words_that_make_no_sense_are_refused(words: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Reading.of(**words)  # type: ignore[arg-type]


def test_a_note_of_a_reading_gives_the_reading_again() -> None:
    reading = Reading.of(["t1km=T1ce"], None, "(?P<subject>x)", ["desc=preproc"], ["raw"])
    assert Reading.from_note(json.loads(json.dumps(reading.note))) == reading
    assert Reading().note == {"aliases": []} and Reading.from_note({"aliases": []}) == Reading()


def test_an_entity_leaves_no_file_that_says_otherwise_and_takes_those_that_say_nothing(tmp_path: Path) -> None:
    names = ["sub-1/anat/sub-1_space-MNI_T1w.nii.gz", "sub-1/anat/sub-1_space-T1w_T1w.nii.gz", "sub-1/anat/sub-1_FLAIR.nii.gz"]
    root = put(tmp_path, [*names, "sub-2/anat/sub-2_space-T1w_T1w.nii.gz", "sub-2/anat/sub-2_FLAIR.nii.gz"])
    cohort = index(root, entities={"space": "mni"})
    first, second = cohort.cases
    assert {k: v.name for k, v in first.images.items()} == {"T1w": "sub-1_space-MNI_T1w.nii.gz", "FLAIR": "sub-1_FLAIR.nii.gz"}
    assert list(second.images) == ["FLAIR"] and "--entity space=T1w" in second.asked["T1w"]
    assert any("none of them fits --entity space=mni" in line for line in cohort.problems)


def test_an_entity_chooses_among_masks_and_leaves_none_without_one(tmp_path: Path) -> None:
    names = ["T1w", "space-MNI_T1w", "desc-brain_mask", "space-MNI_desc-brain_mask"]
    root = put(tmp_path, [f"sub-1/anat/sub-1_{name}.nii.gz" for name in names])
    case = index(root, entities={"space": "MNI"}).cases[0]
    assert case.mask is not None and "space-MNI" in case.mask.name and "space-MNI" in case.images["T1w"].name
    case = index(root, entities={"space": "MNI", "desc": "preproc"}).cases[0]
    assert case.mask is not None and "space-MNI" in case.mask.name


def test_an_earlier_preferred_word_wins_and_whole_words_go_before_parts(tmp_path: Path) -> None:
    root = put(tmp_path, each("P1/{s}/T1.nii.gz", s=("raw", "n4", "preprocessed")))
    taken = {
        words: index(root, prefer=words).cases[0].images["T1w"].parent.name
        for words in (("n4", "raw"), ("raw", "n4"), ("preproc",))
    }
    assert taken == {("n4", "raw"): "n4", ("raw", "n4"): "raw", ("preproc",): "preprocessed"}


# --- tables -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "participant_id\tsession_id\tT1w\nsub-01\tses-1\ta.nii\nsub-01\tses-2\tb.nii\nsub-02\t\tc.nii\n",
            {"sub-01_ses-1": ("sub-01", "ses-1"), "sub-01_ses-2": ("sub-01", "ses-2"), "sub-02": ("sub-02", "")},
        ),
        ("subject\tsession\tT1w\tFLAIR\nA\t1\ta.nii\tb.nii\nA\t2\tc.nii\td.nii\n", {"A_1": ("A", "1"), "A_2": ("A", "2")}),
        ("case\tsubject\tsession\tT1w\nx\tA\t1\ta.nii\ny\tA\t2\tb.nii\n", {"x": ("A", "1"), "y": ("A", "2")}),
        ("participant_id\tcontrast\tpath\tsession_id\nA\tT1w\ta.nii\t1\nA\tFLAIR\tb.nii\t1\n", {"A_1": ("A", "1")}),
        (
            "case\tT1w\nP1_2019-03-01\ta.nii\nP1_2020-03-01\tb.nii\n",
            {"P1_2019-03-01": ("P1", "2019-03-01"), "P1_2020-03-01": ("P1", "2020-03-01")},
        ),
        ("patient_id\tvisit\tt1\nA\tbaseline\ta.nii\n", {"A_baseline": ("A", "baseline")}),
    ],
)
def test_columns_say_who_is_who(tmp_path: Path, text: str, expected: dict[str, tuple[str, str]]) -> None:
    put(tmp_path, ["a.nii", "b.nii", "c.nii", "d.nii"])
    (tmp_path / "data" / "t.tsv").write_text(text)
    assert who(index(tmp_path / "data" / "t.tsv")) == expected


def test_a_pattern_reads_the_paths_of_a_table_where_no_column_names_the_subject(tmp_path: Path) -> None:
    put(tmp_path, ["P1/a.nii", "P1/b.nii", "P2/c.nii"])
    (tmp_path / "data" / "t.csv").write_text("case,T1w\nx,P1/a.nii\ny,P1/b.nii\nz,P2/c.nii\n")
    cohort = index(tmp_path / "data" / "t.csv", subject=r"^(?P<subject>[^/]+)/")
    assert {case.name: case.subject for case in cohort.cases} == {"x": "P1", "y": "P1", "z": "P2"}


def test_a_split_may_name_participants_and_sessions_without_the_words_of_bids(tmp_path: Path) -> None:
    root = put(tmp_path, each("sub-0{p}/ses-{s}/anat/sub-0{p}_ses-{s}_T1w.nii.gz", p=TWO, s=TWO))
    (root / "splits.tsv").write_text(
        "participant_id\tsession_id\tsplit\n01\t1\ttrain\n01\t2\ttrain\n02\t1\tval\nsub-02\tses-2\tval\n"
    )
    assert [case.split for case in index(root).cases] == ["train", "train", "validation", "validation"]


# --- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "person", "session"),
    [
        ("OAS30001_MR_d0129", "OAS30001", "d0129"),
        ("sub-01_ses-02", "sub-01", "ses-02"),
        ("BraTS-GLI-00001-000", "BraTS-GLI-00001", "000"),
        ("UPENN-GBM-00001_11", "UPENN-GBM-00001", "11"),
        ("100307_V1", "100307", "V1"),
        ("sub-OAS30001_sess-d0129", "sub-OAS30001", "sess-d0129"),
        ("P001_followup", "P001", "followup"),
        ("visit1_P001", "P001", "visit1"),
        *((whole, whole, "") for whole in ("IXI002-Guys-0828", "002_S_0413", "CC110033", "Brats18_2013_3_1", "BraTS2021_00001")),
        *((whole, whole, "") for whole in ("TCGA-02-0001", "CC0001_philips_15_55_M", "pat0001_1", "AD_1", "IXI_M12", "sub-101")),
    ],
)
def test_a_name_that_holds_person_and_session(name: str, person: str, session: str) -> None:
    assert split_session(name) == (person, session)


def test_words_of_folders() -> None:
    assert all(
        map(
            is_session,
            ["2019-03-01", "20190312", "12-Mar-2019", "2006-05-19_16_17_47.0", "ses-01", "week-000-1", "tp2", "Timepoint_1"],
        )
    )
    assert not any(map(is_session, ["001", "P001", "siteA", "12345678", "99999999", "studyA", "orig", "T1", "2013_3_1"]))
    assert all(
        map(is_stage, ["orig", "raw", "Preprocessed_Data", "bet", "SkullStripped", "N4", "registered", "02_n4_bet", "MNINonLinear"])
    )
    assert not any(map(is_stage, ["P001", "siteA", "2019", "01", "anna", "data"]))
    assert {word: kind(word) for word in ("train", "anat2", "images", "3T", "V1")} == {
        "train": "split",
        "anat2": "container",
        "images": "container",
        "3T": "container",
        "V1": "maybe session",
    }


# --- the command line ---------------------------------------------------------------------------------------------


def test_the_verbs_take_the_words_and_refuse_a_guess(tmp_path: Path, verb, cache: Path) -> None:
    root = put(tmp_path, each("training0{p}/{s}/training0{p}_01_{c}.nii", p=TWO, s=("orig", "pp"), c=("mprage", "flair")))
    found = json.loads(verb("index", root, "--json").stdout)
    assert {case["subject"] for case in found["cases"]} == {"training01", "training02"} and not found["doubts"]
    assert "--prefer orig or --prefer pp" in found["problems"][0]
    words = ("train", "linear", root, "--sources", "T1w", "--target", "FLAIR", "--out", tmp_path / "run", "--cache", cache)
    line = verb(*words, code=1).stderr
    assert "2 versions, --prefer orig or --prefer pp" in line and "Traceback" not in line
    assert "no regular expression" in verb("index", root, "--subject", "(?P<subject>", code=2).stderr
    found = json.loads(verb("index", root, "--prefer", "pp", "--json").stdout)
    assert all(case["contrasts"] == ["T1w", "FLAIR"] for case in found["cases"])
    other = put(tmp_path / "other", each("{a}/{b}/{c}.nii.gz", a=TWO, b=TWO, c=CONTRASTS))
    line = verb("train", "linear", other, *words[3:], code=1).stderr
    assert "without a guess who is who" in line and "--subject '" in line and "1_1" in line
    line = verb("cv", "linear", other, *words[3:], "--folds", 2, code=1).stderr
    assert "without a guess who is who" in line
    line = verb(
        "prepare",
        other,
        "--method",
        "linear",
        "--sources",
        "T1w",
        "--target",
        "FLAIR",
        "--out",
        tmp_path / "store",
        "--cache",
        cache,
        code=1,
    ).stderr
    assert "without a guess who is who" in line and not (tmp_path / "store").exists()
