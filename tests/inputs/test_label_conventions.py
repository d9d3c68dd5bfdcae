"""What the labels of public data sets mean, by names and label sets as they are published; and what is not known is not guessed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from helpers import blob_brain, write_case
from synthmr.errors import DataError, UsageError
from synthmr.io.segmentations import seen_in
from synthmr.labels import Evidence, Seen, conventions, decide, get
from synthmr.labels.table import DOCUMENT, main, with_table

Verb = Callable[..., SimpleNamespace]
UNKNOWN = None

# --- which convention a data set follows --------------------------------------------------------------------------------------

#: data set, file below some folder, labels above 0, convention
PUBLISHED = [
    # BraTS, year by year
    ("BraTS 2012", "BRATS_HG0001/BRATS_HG0001_truth.nii.gz", {1, 2}, "brats2012"),
    ("BraTS 2013, 2015", "brats_tcia_pat103_1/VSD.Brain_3more.XX.O.OT.42283.nii", {1, 2, 3, 4}, "brats2015"),
    ("BraTS 2015, no enhancing tumour", "brats_2013_pat0001_1/VSD.Brain_3more.XX.O.OT.6560.nii", {1, 2, 3}, "brats2015"),
    ("BraTS 2016, renamed", "BRATS2016/HGG/p1/seg.nii.gz", {1, 2, 3, 4}, "brats2015"),
    ("BraTS 2017", "Brats17_CBICA_AAB_1/Brats17_CBICA_AAB_1_seg.nii.gz", {1, 2, 4}, "brats2017"),
    ("BraTS 2018, oedema alone", "Brats18_TCIA13_623_1/Brats18_TCIA13_623_1_seg.nii.gz", {2}, "brats2017"),
    ("BraTS 2020, one file of another name", "BraTS20_Training_355/W39_1998.09.19_Segm.nii", {1, 2, 4}, "brats2017"),
    ("BraTS 2021", "BraTS2021_00000/BraTS2021_00000_seg.nii.gz", {1, 2, 4}, "brats2017"),
    ("BraTS 2021, renamed, by its folder", "RSNA_ASNR_MICCAI_BraTS2021_TrainingData/00002/seg.nii.gz", {1, 4}, "brats2017"),
    ("FeTS 2022", "FeTS2022_01341/FeTS2022_01341_seg.nii.gz", {1, 2, 4}, "brats2017"),
    ("UPENN-GBM", "images_segm/UPENN-GBM-00002_11_segm.nii.gz", {1, 2, 4}, "brats2017"),
    ("UCSF-PDGM", "UCSF-PDGM-0004_nifti/UCSF-PDGM-0004_tumor_segmentation.nii.gz", {1, 2, 4}, "brats2017"),
    ("BraTS-TCGA", "TCGA-02-0006_1996.08.23_GlistrBoost_ManuallyCorrected.nii.gz", {1, 4}, "brats2017"),
    ("like BraTS 2017, names of one's own", "patient7/tumour_seg.nii.gz", {1, 2, 4}, "brats2017"),
    ("BraTS 2023 GLI", "BraTS-GLI-00000-000/BraTS-GLI-00000-000-seg.nii.gz", {1, 2, 3}, "brats2023"),
    ("BraTS-Africa", "BraTS-SSA-00002-000/BraTS-SSA-00002-000-seg.nii.gz", {1, 2, 3}, "brats2023"),
    ("BraTS 2023 MET", "BraTS-MET-00086-000/BraTS-MET-00086-000-seg.nii.gz", {1, 2, 3}, "brats2023"),
    ("BraTS 2023 MEN", "BraTS-MEN-00004-000/BraTS-MEN-00004-000-seg.nii.gz", {2, 3}, "brats2023"),
    ("BraTS 2024 GoAT", "BraTS-GoAT-00000/BraTS-GoAT-00000-seg.nii.gz", {1, 2, 3}, "brats2023"),
    ("BraTS 2024 GLI", "BraTS-GLI-02405-100/BraTS-GLI-02405-100-seg.nii.gz", {1, 2, 3, 4}, "brats-post-treatment"),
    ("BraTS 2024 GLI, nothing enhances", "BraTS-GLI-02405-101/BraTS-GLI-02405-101-seg.nii.gz", {2, 4}, "brats-post-treatment"),
    ("BraTS 2025 MET, with a cavity", "BraTS-MET-00810-001/BraTS-MET-00810-001-seg.nii.gz", {1, 2, 3, 4}, "brats-post-treatment"),
    ("BraTS 2024 MEN-RT", "BraTS-MEN-RT-0005-1/BraTS-MEN-RT-0005-1_gtv.nii.gz", {1}, "brats-men-rt"),
    ("BraTS 2024 PED", "BraTS-PED-00002-000/BraTS-PED-00002-000-seg.nii.gz", {1, 2, 3, 4}, "brats-ped"),
    ("BraTS 2024 PED, renamed in the case's folder", "BraTS-PED-00014-000/seg.nii.gz", {1, 2, 4}, "brats-ped"),
    ("BraTS 2024 PED, by its folder", "BraTS2024-PED-Training/BraTS-PED-00003-000/seg.nii.gz", {1, 2}, "brats-ped"),
    (
        "BraTS 2023 PED, by its folder",
        "ASNR-MICCAI-BraTS2023-PED-Challenge-TrainingData/BraTS-PED-00003-000/s.nii.gz",
        {1, 2},
        "brats2023",
    ),
    ("BraTS PED, of which year?", "BraTS-PED-00003-000/BraTS-PED-00003-000-seg.nii.gz", {1, 2, 3}, UNKNOWN),
    # other tumours
    ("MSD Task01", "Task01_BrainTumour/labelsTr/BRATS_001.nii.gz", {1, 2, 3}, "msd-brain"),
    ("BraTS as nnU-Net converts it", "Dataset137_BraTS2021/labelsTr/BraTS2021_00000.nii.gz", {1, 2, 3}, "msd-brain"),
    ("LUMIERE, HD-GLIO-AUTO", "week-044/HD-GLIO-AUTO-segmentation/native/segmentation_CT1_origspace.nii.gz", {1, 2}, "hd-glio"),
    ("LUMIERE, DeepBraTumIA", "week-044/DeepBraTumIA-segmentation/atlas/segmentation/seg_mask.nii.gz", {1, 2, 3}, UNKNOWN),
    ("MU-Glioma-Post", "PatientID_0003/Timepoint_1/PatientID_0003_Timepoint_1_tumorMask.nii.gz", {1, 2, 3, 4}, UNKNOWN),
    # lesions
    ("open_ms", "patient07/patient07_consensus_gt.nii.gz", {1}, "lesion"),
    ("MSSEG 2016", "01016SACH/Consensus.nii.gz", {1}, "lesion"),
    ("ISBI 2015", "training01/masks/training01_01_mask1.nii", {1}, "lesion"),
    ("MSLesSeg", "P1/T1/P1_T1_MASK.nii.gz", {1}, "lesion"),
    ("ISLES 2022", "derivatives/sub-strokecase0001/ses-0001/sub-strokecase0001_ses-0001_msk.nii.gz", {1}, "lesion"),
    ("ATLAS 2.0", "sub-r001s001_ses-1_space-MNI152NLin2009aSym_label-L_desc-T1lesion_mask.nii.gz", {1}, "lesion"),
    ("BIDS lesions, numbered", "sub-01/anat/sub-01_label-lesion_mask.nii.gz", {1, 2, 3, 17}, "lesion"),
    ("focal cortical dysplasia, ds004199", "sub-00001/anat/sub-00001_acq-T2sel_FLAIR_roi.nii.gz", {1}, "lesion"),
    ("a mask of 0 and 255", "p1/seg.nii.gz", {255}, "lesion"),
    ("ISLES 2015 SISS, by its folder", "SISS2015_Training/1/VSD.Brain.XX.O.OT.70616/VSD.Brain.XX.O.OT.70616.nii", {1}, "lesion"),
    ("ISLES 2015 or BraTS 2013?", "1/VSD.Brain.XX.O.OT.70616/VSD.Brain.XX.O.OT.70616.nii", {1, 2}, UNKNOWN),
    ("WMH 2017", "Utrecht/0/wmh.nii.gz", {1, 2}, "wmh2017"),
    # tissues
    ("FSL FAST", "p1/T1_brain_pveseg.nii.gz", {1, 2, 3}, "tissue"),
    ("OASIS-1", "FSL_SEG/OAS1_0001_MR1_mpr_n4_anon_111_t88_masked_gfc_fseg.nii", {1, 2, 3}, "tissue"),
    ("MRBrainS13", "TrainingData/1/LabelsForTraining.nii", {1, 2, 3, 4, 5, 6, 7, 8}, "mrbrains"),
    ("MRBrainS13, for testing", "TrainingData/1/LabelsForTesting.nii", {1, 2, 3}, "tissue"),
    ("FreeSurfer", "bert/mri/aseg.nii.gz", {2, 3, 4, 41, 42, 43, 77}, "freesurfer"),
    ("FreeSurfer, renamed", "bert/labels.nii.gz", {2, 3, 41, 42, 1001, 2035}, "freesurfer"),
    ("iSeg 2017", "iSeg-2017-Training/subject-1-label.nii", {10, 150, 250}, "iseg"),
    ("dHCP", "sub-CC00050XX01_ses-7201_desc-drawem9_dseg.nii.gz", set(range(1, 10)), "dhcp"),
    ("FeTA", "sub-001/anat/sub-001_rec-mial_dseg.nii.gz", set(range(1, 8)), "feta"),
    ("ANTs cortical thickness", "p1/p1_BrainSegmentation.nii.gz", {1, 2, 3, 4, 5, 6}, "ants-cortical"),
    ("fMRIPrep", "fmriprep/sub-01/anat/sub-01_dseg.nii.gz", {1, 2, 3}, "tissue-gm-first"),
    # names that say nothing
    ("paediatric, after treatment or of 2015?", "p1/seg.nii.gz", {1, 2, 3, 4}, UNKNOWN),
    ("of 2023, the Decathlon's or tissues?", "sub-01/anat/sub-01_dseg.nii.gz", {1, 2, 3}, UNKNOWN),
    ("of 2012, with other pathology or something else?", "p1/mask.nii.gz", {1, 2}, UNKNOWN),
    ("no convention at all", "p1/atlas.nii.gz", {301, 302}, UNKNOWN),
    # names that labels contradict
    ("of 2023 by its name, with a 4 and without a 3", "BraTS-GLI-00000-000/BraTS-GLI-00000-000-seg.nii.gz", {1, 2, 4}, "brats2017"),
    (
        "of 2023 by its name, with more labels than it has",
        "BraTS-GLI-00000-000/BraTS-GLI-00000-000-seg.nii.gz",
        {1, 2, 3, 9},
        UNKNOWN,
    ),
]


@pytest.mark.parametrize(
    ("labels", "file", "convention"), [row[2:0:-1] + row[3:] for row in PUBLISHED], ids=[row[0] for row in PUBLISHED]
)
def test_labels_of_public_data_mean_what_their_authors_say_or_are_unknown(
    labels: set[int], file: str, convention: str | None
) -> None:
    found = decide({0} | labels, [Path("/data") / file])
    assert found.name == convention, found.why
    if convention is None:
        assert "only the lesion" in found.why and "--labels NAME" in found.why and "\n" not in found.why
        assert found.lesion(np.array([0, *sorted(labels)])).tolist() == [False, *[True] * len(labels)]


def test_every_convention_but_the_phantoms_is_of_a_public_data_set() -> None:
    assert {row[3] for row in PUBLISHED} - {UNKNOWN} == set(conventions()) - {"phantom"}


PED = "BraTS-PED-0000{}-000"


@pytest.mark.parametrize(
    ("cohort", "convention", "parts"),
    [
        # one case has all four, which settles the others
        ({PED.format(1): {1, 2, 3}, PED.format(2): {1, 2, 3, 4}, PED.format(3): {1}}, "brats-ped", ("WT", "TC", "ET", "cyst")),
        ({PED.format(1): {1, 2, 3}, PED.format(2): {1, 2}}, UNKNOWN, ("WT",)),  # the whole tumour is one in both years
        ({PED.format(1): {1}}, UNKNOWN, ("WT", "TC")),
        # before and after treatment in one cohort, as in 2025: those without a cavity agree
        (
            {"BraTS-GLI-00001-000": {1, 2, 3}, "BraTS-GLI-00001-100": {2, 3, 4}},
            "brats-post-treatment",
            ("WT", "TC", "ET", "cavity"),
        ),
        ({"Brats18_A_1": {1, 2, 4}, "BraTS-GLI-00001-000": {1, 2, 3}}, UNKNOWN, ()),  # two years, two meanings of one number
        ({"Brats18_A_1": {1, 2, 4}, "BraTS-GLI-00001-000": {1, 2}}, "brats2017", ("WT", "TC", "ET")),  # what they share
        ({"VSD.Brain_3more.1": {1, 2, 3}, "VSD.Brain_3more.2": {4}}, "brats2015", ("WT", "TC", "ET")),
        ({PED.format(1): {1, 2, 3, 4}, "p2": {1, 2, 3, 4}}, UNKNOWN, ()),  # the second does not say so
        ({PED.format(1): {1, 2, 3, 4}, "p2": set()}, "brats-ped", ("WT", "TC", "ET", "cyst")),  # it has no tumour
        ({"a": {1}, "b": {2}, "c": {4}}, "brats2017", ("WT", "TC", "ET")),  # together they have 1, 2 and 4
        ({"a": {1}, "b": {2}}, UNKNOWN, ()),
        ({"a": set()}, "lesion", ()),
        ({}, "lesion", ()),
    ],
)
def test_a_cohort_is_read_as_one(cohort: dict[str, set[int]], convention: str | None, parts: tuple[str, ...]) -> None:
    found = decide(Seen(tuple(Evidence.of(labels | {0}, case=case) for case, labels in cohort.items())))
    assert (found.name, found.regions) == (convention, parts), found.why


def test_parts_that_all_candidates_have_alike_are_the_same_voxels() -> None:
    found = decide((0, 1, 2, 3), ["BraTS-PED-00003-000-seg.nii.gz"])
    labels = np.array([0, 1, 2, 3, 3])
    assert found.doubt == "by its name labels 1, 2, 3 could be brats2023, brats-ped"
    assert {name: mask.tolist() for name, mask in found.masks(labels).items()} == {"WT": [False, True, True, True, True]}
    for year in ("brats2023", "brats-ped"):
        assert (get(year).region(labels, "WT") == found.masks(labels)["WT"]).all()
    assert found.voxels(labels) == {"lesion": 4, "WT": 4}
    assert decide((0, 1, 2, 3), named="brats-ped").voxels(labels) == {
        "lesion": 4, "WT": 4, "TC": 4, "ET": 1, "cyst": 2, "enhancing": 1, "non-enhancing": 1,
    }  # fmt: skip


def test_healthy_tissue_is_no_lesion() -> None:
    found = decide(range(11), named="mrbrains")
    assert np.flatnonzero(found.lesion(np.arange(11))).tolist() == [4, 9, 10]
    assert not decide((1, 2, 3), ["T1_pveseg.nii.gz"]).lesion(np.arange(4)).any()


def test_a_header_tells_where_no_name_does(tmp_path: Path) -> None:
    import nibabel

    image = nibabel.Nifti1Image(np.arange(6, dtype=np.uint8).reshape(1, 2, 3), np.eye(4))
    image.header["descrip"] = b"synthmr phantom lesion labels"
    nibabel.save(image, tmp_path / "seg.nii.gz")
    (tmp_path / "broken.nii.gz").write_bytes(b"no image")
    seen = seen_in([("sub-001", tmp_path / "seg.nii.gz"), ("sub-002", tmp_path / "broken.nii.gz")])
    assert [*seen] == [0, 1, 2, 3, 4, 5] and decide(seen).name == "phantom"


# --- the command line ---------------------------------------------------------------------------------------------------------


#: voxels in the boxes of the labels up to each
SIZE = {1: 4**3, 2: 6**3, 3: 8**3, 4: 10**3}


@pytest.fixture
def tumour(tmp_path: Path) -> dict[str, Path]:
    """A truth, a prediction that is wrong where the label is 1 alone, and labels of a child's tumour under two names."""
    truth = blob_brain((24, 24, 24))
    labels = np.zeros(truth.shape, np.int16)
    for size, label in ((5, 4), (4, 3), (3, 2), (2, 1)):
        labels[12 - size : 12 + size, 12 - size : 12 + size, 12 - size : 12 + size] = label
    guess = np.where(labels == 1, truth * 0.3, truth).astype(np.float32)
    arrays = {"truth": truth, "guess": guess, "mask": truth > 0, "BraTS-PED-00002-000-seg": labels, "labels": labels}
    return write_case(tmp_path / "case", arrays)


def words(files: dict[str, Path], segmentation: str = "labels") -> tuple[object, ...]:
    return ("score", files["guess"], files["truth"], "--mask", files["mask"], "--segmentation", files[segmentation])


def test_the_region_that_is_wrong_is_the_worst(verb: Verb, tumour: dict[str, Path]) -> None:
    """BraTS-PED: https://github.com/MIC-DKFZ/nnUNet/issues/3042."""
    told = json.loads(verb(*words(tumour, "BraTS-PED-00002-000-seg"), "--regions", "--json").stdout)
    psnr = {row["region"]: row["value"] for row in told["scores"] if row["metric"] == "psnr"}
    assert psnr["ET"] < psnr["TC"] < psnr["WT"] and psnr["cyst"] == "inf"
    sizes = {part: found["guess"] for part, found in told["labels"]["parts"].items()}
    assert (told["labels"]["name"], sizes) == ("brats-ped", {
        "lesion": SIZE[4], "WT": SIZE[4], "TC": SIZE[3], "ET": SIZE[1], "cyst": SIZE[3] - SIZE[2], "edema": SIZE[4] - SIZE[3],
        "enhancing": SIZE[1], "non-enhancing": SIZE[2] - SIZE[1],
    })  # fmt: skip


def test_without_a_name_there_are_no_parts_and_a_line_says_how_to_get_them(verb: Verb, tumour: dict[str, Path]) -> None:
    done = verb(*words(tumour), "--regions")
    assert "lesion" in done.stdout and "ET" not in done.stdout
    assert "segmentations: labels 1, 2, 3, 4 could be brats-ped, brats-post-treatment, brats2015" in done.stdout
    (line,) = (line for line in done.stderr.splitlines() if "could be" in line)
    assert line.startswith("note: ") and "--labels NAME" in line
    named = verb(*words(tumour), "--regions", "--labels", "brats-ped")
    assert " ET " in named.stdout and "read as brats-ped, as was asked" in named.stdout and "could be" not in named.stderr
    quiet = json.loads(verb("-q", *words(tumour), "--regions", "--json").stdout)
    assert quiet["labels"]["name"] is None and list(quiet["labels"]["parts"]) == ["lesion"]


@pytest.mark.parametrize(
    ("named", "code", "told"),
    [
        ("brats2017", 1, "labels.nii.gz holds label 3, and brats2017 has 0, 1, 2, 4; name another convention or relabel"),
        ("msd-brain", 1, "labels.nii.gz holds label 4, and msd-brain has 0, 1, 2, 3"),
        ("own.yaml", 1, "labels.nii.gz holds label 1, 2, 3, and own has 0, 4"),
        ("gone.yaml", 1, "gone.yaml cannot be read"),
        ("brats-peds", 2, "did you mean brats-ped?"),
    ],
)
def test_labels_of_another_convention_are_one_line(verb: Verb, tumour: dict[str, Path], named: str, code: int, told: str) -> None:
    folder = tumour["labels"].parent
    (folder / "own.yaml").write_text("labels: {4: edema}\n")
    given = folder / named if named.endswith(".yaml") else named
    for more in ((), ("--regions",)):
        done = verb(*words(tumour), "--labels", given, *more, code=code)
        (line,) = [line for line in done.stderr.splitlines() if line.strip()]
        assert line.startswith("synthmr: error: ") and told in line and done.stdout == ""


def test_a_convention_without_a_segmentation_is_an_error(verb: Verb, tumour: dict[str, Path]) -> None:
    done = verb("score", tumour["guess"], tumour["truth"], "--mask", tumour["mask"], "--labels", "brats2017", code=2)
    assert "there is none; give --segmentation" in done.stderr


def test_a_table_names_the_convention_of_each_pair(verb: Verb, tumour: dict[str, Path]) -> None:
    folder = tumour["labels"].parent
    (folder / "own.yaml").write_text("labels: {1: edema, 2: enhancing, 3: cavity, 4: necrosis}\n")
    lines = ["prediction,truth,case,mask,segmentation,labels"]
    lines += [
        f"guess.nii.gz,truth.nii.gz,{case},mask.nii.gz,labels.nii.gz,{named}"
        for case, named in (("a", "brats-ped"), ("b", "own.yaml"))
    ]
    table = folder / "pairs.csv"
    table.write_text("\n".join(lines) + "\n")
    told = json.loads(verb("score", table, "--regions", "--json").stdout)["labels"]
    assert told["name"] is None and "read as brats-ped" in told["why"] and "read as own" in told["why"]
    assert told["parts"]["ET"] == {"a": SIZE[1], "b": SIZE[2] - SIZE[1]} and told["parts"]["cavity"] == {"b": SIZE[3] - SIZE[2]}


# --- the documentation --------------------------------------------------------------------------------------------------------


def test_the_table_of_conventions_is_made_from_the_entries(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[2] / DOCUMENT).read_text(encoding="utf-8")
    assert with_table(text) == text, "renew it: python -m synthmr.labels.table --write"
    assert main([]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 2 + len(conventions()) and all(row in text for row in rows)
    assert "| `brats-ped` | 1 enhancing, 2 non-enhancing, 3 cyst, 4 edema |" in "\n".join(rows)
    with pytest.raises(UsageError, match="needs one line"):
        with_table("no marks")
    assert main(["--wrong"]) == 2


def test_a_label_below_0_names_the_file() -> None:
    with pytest.raises(DataError, match=r"a\.nii holds label -1; labels are 0 and up"):
        decide((-1, 0, 1), ["a.nii"])
