"""What an image is: names, folders and sidecars as data sets, scanners and tools write them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers import blob_brain, write_case
from synthmr.case import Cohort
from synthmr.contrasts import parse_aliases
from synthmr.io.grammar import parse_name, read
from synthmr.io.index import index
from synthmr.io.sidecar import MOST_BYTES, facts, times
from synthmr.io.words import WORDS

#: what the name stands for, the name, and its contrast (or mask, segmentation); ``derived`` is no acquired image, ``asked`` is
#: a question to the user with its answer, ``unknown`` names no contrast
NAMES = [
    ("BraTS 2020", "BraTS20_Training_001_t1ce", "T1ce"),
    ("BraTS 2023", "BraTS-GLI-00001-000-t1c", "T1ce"),
    ("BraTS 2023", "BraTS-GLI-00001-000-t1n", "T1w"),
    ("BraTS 2023", "BraTS-GLI-00001-000-t2f", "FLAIR"),
    ("BraTS 2023", "BraTS-GLI-00001-000-t2w", "T2w"),
    ("BraTS 2023", "BraTS-GLI-00001-000-seg", "segmentation"),
    ("BraTS inpainting", "BraTS-GLI-00000-000-t1n-voided", "derived"),
    ("BraTS inpainting", "BraTS-GLI-00000-000-mask-healthy", "derived"),
    ("BraTS 2015", "VSD.Brain.XX.O.MR_T1c.686", "T1ce"),
    ("BraTS 2015", "VSD.Brain.XX.O.MR_Flair.684", "FLAIR"),
    ("BraTS 2015", "VSD.Brain_3more.XX.XX.OT.6560", "segmentation"),
    ("ISLES 2015", "VSD.Brain.XX.O.MR_DWI.70613", "DWI"),
    ("ISLES 2022", "sub-strokecase0001_ses-0001_msk", "segmentation"),
    ("ISLES 2022", "sub-strokecase0001_ses-0001_adc", "ADC"),
    ("FeTS 2022", "FeTS2022_00000_t1", "T1w"),
    ("BraTS-TCGA-GBM", "TCGA-02-0003_1997.06.08_t1Gd", "T1ce"),
    ("BraTS-TCGA-GBM", "TCGA-02-0003_1997.06.08_GlistrBoost", "segmentation"),
    ("UPENN-GBM", "UPENN-GBM-00001_11_T1GD", "T1ce"),
    ("UPENN-GBM", "UPENN-GBM-00001_11_T1GD_unstripped", "T1ce"),
    ("UPENN-GBM", "UPENN-GBM-00001_11_automated_approx_segm", "segmentation"),
    ("UCSF-PDGM", "UCSF-PDGM-0004_T1c", "T1ce"),
    ("UCSF-PDGM", "UCSF-PDGM-0004_T1_bias", "derived"),
    ("UCSF-PDGM", "UCSF-PDGM-0004_ADC", "ADC"),
    ("UCSF-PDGM", "UCSF-PDGM-0004_tumor_segmentation", "segmentation"),
    ("UCSF-PDGM", "UCSF-PDGM-0004_brain_parenchyma_segmentation", "derived"),
    ("UCSF-PDGM", "UCSF-PDGM-0004_brain_segmentation", "derived"),
    ("LUMIERE", "CT1", "T1ce"),
    ("LUMIERE", "CT1_r2s_bet_reg", "T1ce"),
    ("IXI", "IXI002-Guys-0828-T1", "T1w"),
    ("IXI", "IXI002-Guys-0828-PD", "PDw"),
    ("IXI", "IXI002-Guys-0828-MRA", "unknown"),
    ("OASIS-3", "sub-OAS30001_ses-d0129_run-01_T1w", "T1w"),
    ("OASIS-3", "sub-OAS30001_ses-d0129_acq-TSE_T2w", "T2w"),
    ("ADNI", "ADNI_002_S_0413_MR_MPRAGE_br_raw_20060601", "T1w"),
    ("ADNI", "ADNI_002_S_0413_MR_Accelerated_Sagittal_IR-FSPGR__br_raw", "T1w"),
    ("ADNI", "ADNI_002_S_0413_MR_Axial_PD_T2_FSE__br_raw", "asked"),
    ("ADNI", "ADNI_002_S_0413_MR_Axial_T2-FLAIR", "FLAIR"),
    ("ADNI", "ADNI_002_S_0413_MR_Axial_T2_STAR", "T2starw"),
    ("HCP", "100307_3T_T1w_MPR1", "T1w"),
    ("HCP", "100307_3T_T2w_SPC1", "T2w"),
    ("HCP", "T1w_acpc_dc_restore_1.25", "T1w"),
    ("HCP", "T2w_acpc_dc_restore_brain", "T2w"),
    ("HCP", "T1wDividedByT2w", "derived"),
    ("UK Biobank, fsl_anat", "T1_orig_defaced", "T1w"),
    ("UK Biobank, fsl_anat", "T1_brain_to_MNI", "T1w"),
    ("UK Biobank, fsl_anat", "T1_to_MNI_warp_jac", "derived"),
    ("UK Biobank, fsl_anat", "T2_FLAIR_unbiased_brain", "FLAIR"),
    ("UK Biobank, fsl_anat", "T2_FLAIR_brain_mask", "mask"),
    ("UK Biobank, fsl_anat", "T1_brain_seg", "derived"),
    ("UK Biobank, fsl_anat", "T1_brain_pve_0", "derived"),
    ("UK Biobank, fsl_anat", "T1_fast_pveseg", "derived"),
    ("UK Biobank, fsl_anat", "T1_fast_bias", "derived"),
    ("UK Biobank, fsl_anat", "T1_biascorr_brain", "T1w"),
    ("UK Biobank, fsl_anat", "T1_subcort_seg", "derived"),
    ("UK Biobank, fsl_anat", "MNI_to_T1_nonlin_field", "derived"),
    ("fMRIPrep", "sub-01_space-MNI152NLin2009cAsym_desc-preproc_T1w", "T1w"),
    ("fMRIPrep", "sub-01_space-MNI152NLin2009cAsym_desc-brain_mask", "mask"),
    ("fMRIPrep", "sub-01_label-GM_probseg", "derived"),
    ("fMRIPrep", "sub-01_desc-aparcaseg_dseg", "derived"),
    ("fMRIPrep", "sub-01_from-T1w_to-MNI152NLin2009cAsym_mode-image_xfm", "derived"),
    ("fMRIPrep", "sub-01_space-T1w_desc-preproc_T2w", "T2w"),
    ("sMRIPrep, issue 69", "T2_to_T1", "T2w"),
    ("sMRIPrep, issue 69", "FLAIR_to_T1", "FLAIR"),
    ("BIDS", "sub-01_ce-gadolinium_T1w", "T1ce"),
    ("BIDS", "sub-01_ce-none_T1w", "T1w"),
    ("BIDS", "sub-01_acq-gd_T1w", "T1ce"),
    ("BIDS", "sub-01_acq-postcontrast_T1w", "T1ce"),
    ("BIDS", "sub-01_acq-post_T1w", "T1ce"),
    ("BIDS", "sub-01_acq-pre_T1w", "T1w"),
    ("BIDS", "sub-01_ses-post_T1w", "T1w"),
    ("BIDS", "sub-01_ses-postop_T1w", "T1w"),
    ("BIDS", "sub-gd01_T1w", "T1w"),
    ("BIDS", "sub-PD01_T1w", "T1w"),
    ("BIDS", "sub-01_UNIT1", "T1w"),
    ("BIDS", "sub-01_T2starmap", "derived"),
    ("BIDS", "sub-01_acq-T1_bold", "derived"),
    ("BIDS", "sub-01_acq-T1w_angio", "derived"),
    ("BIDS", "sub-01_part-phase_T1w", "derived"),
    ("BIDS", "sub-01_mod-T1w_defacemask", "derived"),
    ("BIDS", "sub-01_label-lesion_mask", "segmentation"),
    ("BIDS", "sub-01_label-hippocampus_mask", "derived"),
    ("BIDS", "sub-01_label-WM_mask", "derived"),
    ("BIDS", "tpl-MNI152NLin2009cAsym_res-01_T1w", "derived"),
    ("BIDS", "sub-01_acq-flair_T2w", "FLAIR"),
    ("LEMON", "sub-032301_ses-01_inv-1_mp2rage", "derived"),
    ("LEMON", "sub-032301_ses-01_acq-mp2rage_T1map", "derived"),
    ("LEMON", "sub-032301_ses-01_acq-mp2rage_T1w", "T1w"),
    ("LEMON", "sub-032301_ses-01_acq-highres_FLAIR", "FLAIR"),
    ("ATLAS v2", "sub-r001s001_ses-1_space-MNI152NLin2009aSym_label-L_desc-T1lesion_mask", "segmentation"),
    ("ATLAS v2", "sub-r001s001_ses-1_space-MNI152NLin2009aSym_T1w", "T1w"),
    ("WMH 2017", "3DT1", "T1w"),
    ("WMH 2017", "3DT1_mask", "mask"),
    ("WMH 2017", "reg_3DT1_to_FLAIR", "T1w"),
    ("WMH 2017", "wmh", "segmentation"),
    ("MSSEG 2016", "3DFLAIR", "FLAIR"),
    ("MSSEG 2016", "3DT1GADO", "T1ce"),
    ("MSSEG 2016", "GADO_preprocessed", "T1ce"),
    ("MSSEG 2016", "DP_preprocessed", "PDw"),
    ("MSSEG 2016", "Consensus", "segmentation"),
    ("MSSEG 2016", "Mask_registered", "mask"),
    ("MSSEG 2016", "ManualSegmentation_3", "segmentation"),
    ("ISBI 2015", "training01_01_flair_pp", "FLAIR"),
    ("ISBI 2015", "training01_01_mprage_pp", "T1w"),
    ("ISBI 2015", "training01_01_pd_pp", "PDw"),
    ("ISBI 2015", "training01_01_mask1", "unknown"),
    ("iSeg 2017", "subject-1-T1", "T1w"),
    ("MRBrainS", "T1_IR", "T1IR"),
    ("MRBrainS", "reg_IR", "T1IR"),
    ("MRBrainS", "T2_FLAIR", "FLAIR"),
    ("fastMRI", "file_brain_AXT1POST_200_6001870", "T1ce"),
    ("fastMRI", "file_brain_AXT1PRE_200_6001870", "T1w"),
    ("fastMRI", "file_brain_AXFLAIR_200_6001870", "FLAIR"),
    ("Siemens, dcm2niix", "4_t1_mprage_sag_p2_iso", "T1w"),
    ("Siemens, dcm2niix", "t1_mprage_tra_p2_iso_KM", "T1ce"),
    ("Siemens, dcm2niix", "7_t2_tirm_tra_dark-fluid", "FLAIR"),
    ("Siemens, dcm2niix", "t1_tirm_tra_dark-fluid", "T1w"),
    ("Siemens, dcm2niix", "3_t2_spc_da-fl_irprep_sag_p2_iso_5", "FLAIR"),
    ("Siemens, dcm2niix", "t2_space_dark-fluid_sag_p2_iso", "FLAIR"),
    ("Siemens, dcm2niix", "t2_spc_sag_p2_iso", "T2w"),
    ("Siemens, dcm2niix", "t2_blade_tra", "T2w"),
    ("Siemens, dcm2niix", "t2_fl2d_tra_hemo", "T2starw"),
    ("Siemens, dcm2niix", "t2_tirm_tra", "FLAIR"),
    ("Siemens, dcm2niix", "t2_tirm_cor_fs", "asked"),
    ("Siemens, dcm2niix", "pd+t2_tse_tra", "asked"),
    ("Siemens, dcm2niix", "pd+t2_tse_tra_e1", "PDw"),
    ("Siemens, dcm2niix", "pd+t2_tse_tra_e2", "T2w"),
    ("Siemens, dcm2niix", "T2_STIR_cor", "derived"),
    ("Siemens, dcm2niix", "ep2d_diff_3scan_trace_p2_ADC", "ADC"),
    ("Siemens, dcm2niix", "ep2d_diff_4scan_trace_p2_TRACEW", "DWI"),
    ("Siemens, dcm2niix", "SWI_Images", "SWI"),
    ("Siemens, dcm2niix", "SWI_mIP", "derived"),
    ("Siemens, dcm2niix", "MP2RAGE_UNI_Images", "T1w"),
    ("Siemens, dcm2niix", "mp2rage_INV1", "derived"),
    ("Siemens, dcm2niix", "mp2rage_UNI-DEN", "T1w"),
    ("Siemens, dcm2niix", "t1_localizer", "derived"),
    ("Siemens, dcm2niix", "t1_mprage_nach_KM", "T1ce"),
    ("Siemens, dcm2niix", "t1_mprage_vor_KM", "T1w"),
    ("Siemens, dcm2niix", "T1_ohne_KM", "T1w"),
    ("Siemens, dcm2niix", "T2_SPACE_sag", "T2w"),
    ("GE, dcm2niix", "3_Ax_T1_FLAIR", "T1w"),
    ("GE, dcm2niix", "Ax_T1_FLAIR_+C", "T1ce"),
    ("GE, dcm2niix", "Sag_T1_FLAIR_POST", "T1ce"),
    ("GE, dcm2niix", "Ax_T2_FLAIR_PROPELLER", "FLAIR"),
    ("GE, dcm2niix", "Sag_CUBE_T2_FLAIR", "FLAIR"),
    ("GE, dcm2niix", "Ax_3D_T1_BRAVO_+C", "T1ce"),
    ("GE, dcm2niix", "3D_BRAVO", "T1w"),
    ("GE, dcm2niix", "SAG_FSPGR_3D_GAD", "T1ce"),
    ("GE, dcm2niix", "Ax_FSPGR_3D", "T1w"),
    ("GE, dcm2niix", "Sag_IR-SPGR", "T1w"),
    ("Philips, dcm2niix", "T1W_3D_TFE_SENSE", "T1w"),
    ("Philips, dcm2niix", "T1W_3D_TFE_GD", "T1ce"),
    ("Philips, dcm2niix", "VISTA_FLAIR", "FLAIR"),
    ("Philips, dcm2niix", "3D_VIEW_FLAIR_SHC", "FLAIR"),
    ("Philips, dcm2niix", "T2W_FFE", "T2starw"),
    ("Philips, dcm2niix", "T1W_SE_CLEAR", "T1w"),
    ("SPM, CAT12", "rT2_T1space", "T2w"),
    ("SPM, CAT12", "rFLAIR", "FLAIR"),
    ("SPM, CAT12", "wmT1", "T1w"),
    ("SPM, CAT12", "mrFLAIR", "FLAIR"),
    ("SPM, CAT12", "c1T1", "derived"),
    ("SPM, CAT12", "wc2sub-01_T1w", "derived"),
    ("SPM, CAT12", "mwp1sub-01_T1w", "derived"),
    ("SPM, CAT12", "y_T1", "derived"),
    ("SPM, CAT12", "p0T1", "derived"),
    ("LST", "ples_lpa_mrFLAIR", "derived"),
    ("ANTs", "T2toT1Warped", "T2w"),
    ("ANTs", "T2toT1InverseWarped", "derived"),
    ("ANTs", "T1_1Warp", "derived"),
    ("ANTs", "T1_1InverseWarp", "derived"),
    ("ANTs", "T1Warped", "T1w"),
    ("ANTs", "T1_N4", "T1w"),
    ("FreeSurfer", "aseg", "derived"),
    ("FreeSurfer", "aparc+aseg", "derived"),
    ("FreeSurfer", "ribbon", "derived"),
    ("FreeSurfer", "T1_aseg", "derived"),
    ("FreeSurfer", "brainmask", "mask"),
    ("FreeSurfer", "T1_synthseg", "derived"),
    ("FreeSurfer", "T1_synthstrip", "T1w"),
    ("FSL", "T1_brain", "T1w"),
    ("FSL", "T1_brain_mask", "mask"),
    ("FSL", "nodif_brain_mask", "mask"),
    ("FSL", "flair2t1", "FLAIR"),
    ("FSL", "T1_brain_overlay", "derived"),
    ("FSL", "T1_brain_skull", "derived"),
    ("FSL", "bold2T1", "unknown"),
    ("FSL", "T1_2_MNI152", "T1w"),
    ("HD-BET", "T1_bet", "T1w"),
    ("HD-BET", "T1_bet_mask", "mask"),
    ("target spaces", "FLAIR_reg_T1", "FLAIR"),
    ("target spaces", "T1_reg_FLAIR", "T1w"),
    ("target spaces", "T1_registered_to_FLAIR", "T1w"),
    ("target spaces", "T2_coreg_T1", "T2w"),
    ("target spaces", "FLAIR_inT1space", "FLAIR"),
    ("target spaces", "T1_in_FLAIR_space", "T1w"),
    ("target spaces", "FLAIR_space-T1w", "FLAIR"),
    ("target spaces", "FLAIR_T1_space", "FLAIR"),
    ("target spaces", "t22t1", "T2w"),
    ("target spaces", "T2_on_T1", "T2w"),
    ("target spaces", "T1_to_T1ce", "T1w"),
    ("target spaces", "T1gd_to_T2", "T1ce"),
    ("target spaces", "FLAIR_to_T1_gd", "FLAIR"),
    ("target spaces", "to_T1_FLAIR", "FLAIR"),
    ("target spaces", "FLAIR_in_T1", "FLAIR"),
    ("target spaces", "T2_to_T1_brain_mask", "mask"),
    ("target spaces", "CT_to_T1", "unknown"),
    ("target spaces", "PET_reg_T1", "unknown"),
    ("target spaces", "reg_T1", "T1w"),
    ("target spaces", "T1_reg", "T1w"),
    ("target spaces", "case_2_T1", "T1w"),
    ("contrast agents", "T1_km", "T1ce"),
    ("contrast agents", "T1_ks", "T1ce"),
    ("contrast agents", "T1_gado", "T1ce"),
    ("contrast agents", "T1_+C", "T1ce"),
    ("contrast agents", "T1+C", "T1ce"),
    ("contrast agents", "T1C+", "T1ce"),
    ("contrast agents", "T1_C-", "T1w"),
    ("contrast agents", "T1+", "T1ce"),
    ("contrast agents", "T1_enhanced", "T1ce"),
    ("contrast agents", "T1_with_contrast", "T1ce"),
    ("contrast agents", "T1_without_contrast", "T1w"),
    ("contrast agents", "T1_wo_contrast", "T1w"),
    ("contrast agents", "T1_noncontrast", "T1w"),
    ("contrast agents", "T1_no_gad", "T1w"),
    ("contrast agents", "T1_pre_gd", "T1w"),
    ("contrast agents", "T1_native", "T1w"),
    ("contrast agents", "t1ce_native", "T1ce"),
    ("contrast agents", "MPRAGE_POST", "T1ce"),
    ("contrast agents", "POST_T1", "T1ce"),
    ("contrast agents", "pre_T1", "T1w"),
    ("contrast agents", "contrast_T1", "T1ce"),
    ("contrast agents", "T1_gadavist", "T1ce"),
    ("contrast agents", "T1w_dotarem", "T1ce"),
    ("contrast agents", "T1_avec_inj", "T1ce"),
    ("contrast agents", "T1_sans_inj", "T1w"),
    ("contrast agents", "KM_t1_mprage", "T1ce"),
    ("contrast agents", "T1_pre_post", "asked"),
    ("contrast agents", "GD_001_T1", "asked"),
    ("contrast agents", "FLAIR_gd", "FLAIR"),
    ("before and after treatment", "T1_post_op", "T1w"),
    ("before and after treatment", "post_treatment_T1", "T1w"),
    ("before and after treatment", "T1_Post_RT", "T1w"),
    ("before and after treatment", "postRT_T1_gd", "T1ce"),
    ("masks of anything", "tumor_mask", "segmentation"),
    ("masks of anything", "lesion_mask", "segmentation"),
    ("masks of anything", "mask_lesion", "segmentation"),
    ("masks of anything", "wmh_mask", "segmentation"),
    ("masks of anything", "tumor_core_mask", "segmentation"),
    ("masks of anything", "wm_mask", "derived"),
    ("masks of anything", "gm_mask", "derived"),
    ("masks of anything", "csf_mask", "derived"),
    ("masks of anything", "hippocampus_mask", "derived"),
    ("masks of anything", "ventricles_seg", "derived"),
    ("masks of anything", "brain_mask", "mask"),
    ("masks of anything", "mask_T1", "mask"),
    ("masks of anything", "seg_T1", "segmentation"),
    ("masks of anything", "FLAIR_mask", "mask"),
    ("masks of anything", "T1_masked", "T1w"),
    ("masks of anything", "lesion_prob", "derived"),
    ("maps, ratios, differences", "T1map", "derived"),
    ("maps, ratios, differences", "T1_map", "derived"),
    ("maps, ratios, differences", "T2_map", "derived"),
    ("maps, ratios, differences", "ADC_map", "ADC"),
    ("maps, ratios, differences", "T1_T2_ratio", "derived"),
    ("maps, ratios, differences", "T1_diff", "derived"),
    ("maps, ratios, differences", "T1_subtraction", "derived"),
    ("maps, ratios, differences", "T1_post_minus_pre", "derived"),
    ("maps, ratios, differences", "T1_phase", "derived"),
    ("maps, ratios, differences", "T1_lesion_filled", "derived"),
    ("maps, ratios, differences", "T1_dynamic", "derived"),
    ("synthetic images", "p1_desc-synth_FLAIR", "derived"),
    ("synthetic images", "p1_rec-uncertainty_desc-synth_FLAIR", "derived"),
    ("synthetic images", "flair_synthetic", "derived"),
    ("synthetic images", "synthflair", "derived"),
    ("synthetic images", "T1_SynthSR", "derived"),
    ("synthetic images", "fake_FLAIR", "derived"),
    ("synthetic images", "FLAIR_generated", "derived"),
    ("synthetic images", "T1_pred", "derived"),
    ("synthetic images", "sub-01_rec-synth_T1w", "derived"),
    ("in doubt", "FLAIR_T1", "asked"),
    ("in doubt", "T1_T2", "asked"),
    ("in doubt", "t1t2", "asked"),
    ("in doubt", "T1_FLAIR_T2", "asked"),
    ("in doubt", "T1_PD", "asked"),
    ("in doubt", "PD_T2", "asked"),
    ("in doubt", "lesion_T1", "asked"),
    ("in doubt", "S01_T2_T1w", "asked"),
    ("in doubt", "T1_001_FLAIR", "asked"),
    ("in doubt", "T2_FLAIR_space", "asked"),
    ("in doubt", "T1space", "asked"),
    ("in doubt", "MP2RAGE", "asked"),
    ("persons and studies", "PD_001_T1", "T1w"),
    ("persons and studies", "GM_001_T1", "T1w"),
    ("persons and studies", "phase_1_T1", "T1w"),
    ("persons and studies", "set1_T1", "T1w"),
    ("persons and studies", "MRT1_FLAIR", "FLAIR"),
    ("persons and studies", "scan001", "unknown"),
    ("persons and studies", "image", "unknown"),
    ("persons and studies", "T1rho", "unknown"),
    ("persons and studies", "STIR", "unknown"),
]


@pytest.mark.parametrize(("source", "name", "meant"), NAMES, ids=[f"{source}: {name}" for source, name, _ in NAMES])
def test_a_name_is_read_as_its_source_means_it(source: str, name: str, meant: str) -> None:
    meaning = read(name)
    assert (meaning.name.contrast if meaning.name else meaning.kind) == meant
    if meaning.name is not None:
        assert meaning.name.word and meaning.name.word in name and meaning.why
        assert name.startswith(meaning.name.prefix) and name.endswith(meaning.name.tail)
    if meaning.kind == "asked":
        answered = read(name, parse_aliases([f"{meaning.ask}={option}" for option in meaning.options[:1]]))
        assert answered.name is not None and answered.name.contrast == meaning.options[0], "the flag that is named must answer"


@pytest.mark.parametrize("name", ["T1_T2", "T2_FLAIR_space", "GADO", "wm_mask", "synthflair", "T1map", "T1_gd", "scan001"])
def test_an_alias_of_the_user_wins_over_every_word(name: str) -> None:
    meaning = read(name, parse_aliases([f"{name}=T1rho"]))
    assert meaning.name is not None and meaning.name.contrast == "T1rho" and meaning.user


def test_an_alias_of_a_part_leaves_masks_masks_and_agents_agents() -> None:
    aliases = parse_aliases(["t1rho=T1rho", "t1=T1w"])
    assert [parse_name(name, aliases).contrast for name in ("t1rho_mask", "map_t1rho", "T1_gd", "FLAIR_to_T1")] == [
        "mask",
        "T1rho",
        "T1ce",
        "FLAIR",
    ]
    assert read("p1_desc-synth_t1rho", aliases).kind == "derived"


def test_a_name_keeps_its_prefix_and_tail() -> None:
    rows = {
        "3_Ax_T1_FLAIR": ("3_Ax", "T1_FLAIR", ""),
        "p1_post_T1": ("p1", "post_T1", ""),
        "p1_AXT1POST": ("p1", "AXT1POST", ""),
        "T2_to_T1": ("", "T2", "to_T1"),
        "4_t1_mprage_sag_p2_iso": ("4", "t1_mprage", "sag_p2_iso"),
        "sub-1_ce-gd_T1w": ("sub-1_ce-gd", "T1w", ""),
        "p1_T1_brain_mask": ("p1_T1", "brain_mask", ""),
    }
    found = {name: parse_name(name) for name in rows}
    assert {name: (part.prefix, part.word, part.tail) for name, part in found.items() if part} == rows


# --- folders --------------------------------------------------------------------------------------------------------


def put(root: Path, files: Mapping[str, object]) -> None:
    """Write empty files (``index`` reads no voxels); a value that is not None becomes the JSON beside the file."""
    for name, sidecar in files.items():
        path = root / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        if isinstance(sidecar, (str, bytes)):
            path.with_name(path.name.replace(".nii.gz", ".json")).write_bytes(
                sidecar if isinstance(sidecar, bytes) else sidecar.encode()
            )
        elif sidecar is not None:
            path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(sidecar))


def taken(cohort: Cohort) -> dict[str, str]:
    """contrast -> file name without suffix, of the one case."""
    (case,) = cohort.cases
    every = {**case.images, "mask": case.mask, "segmentation": case.segmentation}
    return {name: path.name.removesuffix(".nii.gz") for name, path in every.items() if path}


FOLDERS = [
    ("registered twins", "T1_brain T2_to_T1 FLAIR", "T1w=T1_brain T2w=T2_to_T1 FLAIR=FLAIR", ""),
    ("the plain name first", "T1 T1_brain T1_to_MNI T2", "T1w=T1 T2w=T2", "the plain name is used"),
    ("two spaces, none plain", "T1_brain T1_to_MNI T2", "T2w=T2", "would be a guess"),
    ("Siemens", "4_t1_mprage_sag_p2_iso 7_t2_tirm_tra_dark-fluid", "T1w=4_t1_mprage_sag_p2_iso FLAIR=7_t2_tirm_tra_dark-fluid", ""),
    ("GE", "3_Ax_T1_FLAIR 5_Ax_T2", "T1w=3_Ax_T1_FLAIR T2w=5_Ax_T2", ""),
    ("before and after an agent", "pre_T1 post_T1 T2 FLAIR", "T1w=pre_T1 T1ce=post_T1 T2w=T2 FLAIR=FLAIR", ""),
    ("an agent or a visit", "pre_T1 post_T1 FLAIR_post T2", "T1w=pre_T1 T2w=T2 FLAIR=FLAIR_post", "--alias post_t1=T1ce or"),
    ("MSLesSeg, T1 and T2 are visits", "P1_T1_FLAIR P1_T1_T1 P1_T1_T2 P1_T1_MASK",
     "T1w=P1_T1_T1 T2w=P1_T1_T2 FLAIR=P1_T1_FLAIR mask=P1_T1_MASK", ""),
    ("MSLesSeg, second visit", "P1_T2_FLAIR P1_T2_T1 P1_T2_T2", "T1w=P1_T2_T1 T2w=P1_T2_T2 FLAIR=P1_T2_FLAIR", ""),
    ("T1 FLAIR beside MPRAGE", "T1_FLAIR T1_mprage T2", "T2w=T2", "would be a guess"),
    ("a question", "T1 FLAIR_T1", "T1w=T1", "--alias flair_t1=FLAIR or --alias flair_t1=T1w"),
    ("our own output", "T1 T2 p_desc-synth_FLAIR", "T1w=T1 T2w=T2", "its name says that it is synthetic"),
    ("tissue maps", "T1 c1T1 c2T1 T1_pve_0 wm_mask tumor_mask", "T1w=T1 segmentation=tumor_mask", "tissue"),
    ("MS segmentations", "FLAIR Consensus ManualSegmentation_1 Mask_registered",
     "FLAIR=FLAIR segmentation=Consensus mask=Mask_registered", "the plain name is used"),
    ("MP2RAGE", "mp2rage_INV1 mp2rage_INV2 mp2rage_UNI mp2rage_T1map", "T1w=mp2rage_UNI", "an inversion image of MP2RAGE"),
    ("a ratio is no image", "T1w T2w T1w_T2w_ratio", "T1w=T1w T2w=T2w", "a ratio of images"),
]  # fmt: skip


@pytest.mark.parametrize(("names", "meant", "line"), [row[1:] for row in FOLDERS], ids=[row[0] for row in FOLDERS])
def test_the_file_of_each_contrast_in_a_folder(tmp_path: Path, names: str, meant: str, line: str) -> None:
    put(tmp_path / "case", dict.fromkeys(names.split()))
    cohort = index(tmp_path)
    assert taken(cohort) == dict(pair.split("=") for pair in meant.split())
    assert any(line in problem for problem in cohort.problems) if line else cohort.problems == ()
    (case,) = cohort.cases
    passed = {path.name.removesuffix(".nii.gz") for path, _ in case.passed_over}
    assert passed == set(names.split()) - set(taken(cohort).values()), "every file is taken or passed over"
    assert all(why for _, why in case.passed_over) and all(case.reasons[name] for name in taken(cohort))


def test_a_folder_with_a_scanner_name_counts_where_the_file_has_none(tmp_path: Path) -> None:
    put(tmp_path, {f"p{i}/{name}/image": None for i in (1, 2) for name in ("7_t2_tirm_tra_dark-fluid", "4_t1_mprage_sag", "T2")})
    cohort = index(tmp_path)
    assert {case.name: sorted(case.images) for case in cohort.cases} == {p: ["FLAIR", "T1w", "T2w"] for p in ("p1", "p2")}
    assert cohort.cases[0].reasons["FLAIR"] == "the folder is called 7_t2_tirm_tra_dark-fluid"


def test_passed_over_files_go_to_the_case_that_they_lie_beside(tmp_path: Path) -> None:
    put(tmp_path / "flat", dict.fromkeys(["p1_T1", "p1_T1map", "p2_T1", "p2_scan", "p10_T1", "p10_T1map"]))
    cohort = index(tmp_path / "flat")
    found = {case.name: [path.name for path, _ in case.passed_over] for case in cohort.cases}
    assert found == {"p1": ["p1_T1map.nii.gz"], "p2": ["p2_scan.nii.gz"], "p10": ["p10_T1map.nii.gz"]}
    put(tmp_path / "deep", dict.fromkeys(["p1/T1", "p1/fast/T1_pve_0", "p1/fast/T1_restore", "p2/T1", "atlas_T1"]))
    cohort = index(tmp_path / "deep")
    found = {case.name: sorted(path.name for path, _ in case.passed_over) for case in cohort.cases}
    assert found == {"p1": ["T1_pve_0.nii.gz", "T1_restore.nii.gz"], "p2": []}


# --- sidecars -------------------------------------------------------------------------------------------------------

T2_TIMES = {"EchoTime": 0.09, "RepetitionTime": 5.0, "ScanningSequence": "SE"}
FLAIR_TIMES = {"EchoTime": 0.12, "RepetitionTime": 9.0, "InversionTime": 2.5}
T1_TIMES = {"EchoTime": 0.003, "RepetitionTime": 2.3, "InversionTime": 0.9, "ScanningSequence": "GR\\IR"}

SIDECARS = [
    # what it stands for, name, sidecar, contrast or None where it is not taken, words of the problem line
    ("seconds", "scan", T2_TIMES, "T2w", "its name does not tell"),
    ("milliseconds", "scan", {"EchoTime": 90, "RepetitionTime": 5000}, "T2w", "EchoTime 0.09 s"),
    ("numbers as text", "scan", {"EchoTime": "90", "RepetitionTime": "5000 ms"}, "T2w", "RepetitionTime 5 s"),
    ("FLAIR by its inversion", "scan", FLAIR_TIMES, "FLAIR", "InversionTime 2.5 s"),
    ("FLAIR in milliseconds", "scan", {"EchoTime": 120, "RepetitionTime": 9000, "InversionTime": 2500}, "FLAIR", "2.5 s"),
    ("MPRAGE", "scan", T1_TIMES, "T1w", "InversionTime 0.9 s"),
    ("PD", "scan", {"EchoTime": 0.012, "RepetitionTime": 3.0, "ScanningSequence": "SE"}, "PDw", "PDw"),
    ("spin echo T1", "scan", {"EchoTime": 15, "RepetitionTime": 500, "ScanningSequence": ["SE"]}, "T1w", "T1w"),
    ("gradient echo", "scan", {"EchoTime": 0.004, "RepetitionTime": 0.02, "ScanningSequence": "GR"}, None, "--alias scan="),
    ("an EPI tells nothing", "scan", {"EchoTime": 0.08, "RepetitionTime": 6, "ScanningSequence": "EP\\SE"}, None, "--alias scan="),
    ("STIR", "scan", {"EchoTime": 0.05, "RepetitionTime": 5, "InversionTime": 0.16}, None, "--alias scan="),
    ("description", "scan", {"SeriesDescription": "t2_tirm_tra_dark-fluid"}, "FLAIR", "SeriesDescription"),
    ("protocol", "scan", {"ProtocolName": "Ax T1 FLAIR"}, "T1w", "ProtocolName"),
    ("T2* in words", "scan", {"SeriesDescription": "Axial T2*"}, "T2starw", "T2*"),
    ("agent in the description", "scan", {"SeriesDescription": "t1_mprage_sag_KM"}, "T1ce", "SeriesDescription"),
    ("agent in its field", "scan", {**T1_TIMES, "ContrastBolusAgent": "Gadavist"}, "T1ce", "Gadavist"),
    ("description and times disagree", "scan", {"SeriesDescription": "T1 SE", **FLAIR_TIMES}, None, "--alias scan="),
    ("dcmstack", "scan", {"global": {"const": T2_TIMES}}, "T2w", "its sidecar does"),
    ("agent beside a silent name", "T1", {"ContrastBolusAgent": "Gadovist"}, "T1ce", "--alias t1=T1w"),
    ("BIDS ingredient", "T1", {"ContrastBolusIngredient": "GADOLINIUM"}, "T1ce", "GADOLINIUM"),
    ("no agent", "T1", {"ContrastBolusAgent": "none", **T1_TIMES}, "T1w", ""),
    ("an agent against the name", "T1_native", {"ContrastBolusAgent": "Gadovist"}, "T1w", "the name is used"),
    ("T1 that is a T2", "T1", T2_TIMES, "T1w", "its sidecar T2w"),
    ("T2 that is a FLAIR", "T2", FLAIR_TIMES, "T2w", "--alias t2=FLAIR"),
    ("FLAIR that is a T1", "FLAIR", T1_TIMES, "FLAIR", "its sidecar T1w"),
    ("T2 by description FLAIR", "T2", {"SeriesDescription": "Sag 3D T2 FLAIR"}, "T2w", "its sidecar FLAIR"),
    ("agreement is silent", "FLAIR", FLAIR_TIMES, "FLAIR", ""),
    ("FLAIR without an inversion time", "FLAIR", {"EchoTime": 0.1, "RepetitionTime": 9}, "FLAIR", "its sidecar T2w"),
    ("dual echo, first", "PD_T2", {"EchoTime": 0.012, "RepetitionTime": 3, "ScanningSequence": "SE"}, "PDw", "is taken as PDw"),
    ("dual echo, second", "PD_T2", T2_TIMES, "T2w", "is taken as T2w"),
    ("a question answered", "FLAIR_T1", FLAIR_TIMES, "FLAIR", "is taken as FLAIR"),
    ("a question kept", "T1_T2", FLAIR_TIMES, None, "its sidecar says FLAIR"),
    ("phase", "T2starw", {"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, None, "a phase image"),
    ("a map", "T1w", {"ImageType": ["DERIVED", "PRIMARY", "T1_MAP"]}, None, "a computed map"),
    ("ADC", "scan", {"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]}, "ADC", "ImageType"),
    ("CT", "T1", {"Modality": "CT"}, None, "modality CT"),
    ("our own output renamed", "FLAIR", {"synthetic": True, "software": {"name": "synthmr"}}, None,
     "its sidecar says that it is synthetic"),
    ("not JSON", "T1", "{oops", "T1w", "cannot be read as JSON"),
    ("a list", "T1", "[1, 2]", "T1w", "is no JSON object"),
    ("nested", "T1", "[" * 100_000, "T1w", "nested too deeply"),
    ("nested object", "T1", '{"a":' * 100_000, "T1w", "nested too deeply"),
    ("a long number", "T1", '{"EchoTime": ' + "9" * 5000 + "}", "T1w", "cannot be read as JSON"),
    ("a key twice", "T1", '{"EchoTime": 0.1, "EchoTime": 0.003}', "T1w", "gives the key 'EchoTime' twice"),
    ("large", "T1", '{"a": "' + "x" * MOST_BYTES + '"}', "T1w", "is larger than 4 MB"),
    ("binary", "T1", b"\xff\xfe\x00\x01", "T1w", "cannot be read as JSON"),
    ("empty", "T1", "", "T1w", "cannot be read as JSON"),
    ("Latin letters", "scan", '{"SeriesDescription": "T2 Sch\u00e4del"}'.encode("latin-1"), "T2w", "its sidecar does"),
    ("a mark of byte order", "scan", b"\xef\xbb\xbf" + b'{"ProtocolName": "FLAIR"}', "FLAIR", "its sidecar does"),
    ("wrong types", "T1", {"EchoTime": {}, "RepetitionTime": [1, 2], "ImageType": 3, "SeriesDescription": None, "global": [],
                           "ContrastBolusAgent": 7, "Modality": ["MR"], "ScanningSequence": {"a": 1}}, "T1w", ""),
    ("numbers without sense", "T1", '{"EchoTime": NaN, "RepetitionTime": Infinity, "InversionTime": -1}', "T1w", ""),
    ("true is no time", "scan", {"EchoTime": True, "RepetitionTime": True}, None, "--alias scan="),
]  # fmt: skip


@pytest.mark.parametrize(("name", "sidecar", "meant", "line"), [row[1:] for row in SIDECARS], ids=[row[0] for row in SIDECARS])
def test_what_a_sidecar_adds_to_a_name(tmp_path: Path, name: str, sidecar: object, meant: str | None, line: str) -> None:
    put(tmp_path / "case", {name: sidecar, "SWI": None})
    cohort = index(tmp_path)
    assert {contrast for contrast in taken(cohort) if contrast != "SWI"} == ({meant} if meant else set())
    assert any(line in problem for problem in cohort.problems) if line else cohort.problems == ()
    assert len(cohort.problems) <= 2 and all(len(problem) < 700 for problem in cohort.problems)


def test_an_alias_answers_a_sidecar_and_a_file_after_an_agent_keeps_the_other_one_native(tmp_path: Path) -> None:
    put(tmp_path / "a", {"T1": {"ContrastBolusAgent": "Gadovist"}, "T2": None})
    assert taken(index(tmp_path, parse_aliases(["t1=T1w"]))) == {"T1w": "T1", "T2w": "T2"}
    # a technician's field stands in all series of a visit: the name of the other file decides
    put(tmp_path / "a", {"T1_gd": None})
    cohort = index(tmp_path)
    assert taken(cohort) == {"T1w": "T1", "T1ce": "T1_gd", "T2w": "T2"} and "T1_gd.nii.gz is the one after it" in cohort.problems[0]


@pytest.mark.parametrize("folder", [True, False])
def test_a_sidecar_that_is_no_file_is_told(tmp_path: Path, folder: bool) -> None:
    put(tmp_path / "a", {"T1": None})
    path = tmp_path / "a" / "T1.json"
    if folder:
        path.mkdir()
    else:
        import os

        os.mkfifo(path)
    assert "T1.json cannot be read: it is a " in index(tmp_path).problems[0]


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ({"EchoTime": 0.09, "RepetitionTime": 5, "InversionTime": 2}, (0.09, 5, 2)),
        ({"EchoTime": 90, "RepetitionTime": 5000, "InversionTime": 2000}, (0.09, 5, 2)),
        ({"EchoTime": 2.98, "RepetitionTime": 7.3}, (0.00298, 0.0073, None)),  # Philips TFE in milliseconds
        ({"RepetitionTime": 2300, "InversionTime": 900}, (None, 2.3, 0.9)),
        ({"EchoTime": [0.09], "RepetitionTime": "5"}, (0.09, 5, None)),
        ({"EchoTime": 0, "RepetitionTime": -3, "InversionTime": "soon"}, (None, None, None)),
    ],
)
def test_times_are_seconds_whatever_their_unit(given: dict[str, object], seconds: tuple[float | None, ...]) -> None:
    assert times(given) == pytest.approx(seconds)


def test_seconds_and_milliseconds_mean_the_same_contrast() -> None:
    for row in (T2_TIMES, FLAIR_TIMES, T1_TIMES):
        scaled = {key: value * 1000 if isinstance(value, float) else value for key, value in row.items()}
        assert facts(row).contrast == facts(scaled).contrast != ""


# --- what is shown --------------------------------------------------------------------------------------------------


def test_any_row_of_words_is_read_without_an_error() -> None:
    draw = random.Random(14)
    words = [
        *WORDS,
        "sub-01",
        "ses-2",
        "space-T1w",
        "acq-gd",
        "ce-gd",
        "p1",
        "001",
        "+",
        "C",
        "C-",
        "T1",
        "T2",
        "FLAIR",
        "é",
        "label-L",
    ]
    aliases = parse_aliases(["t1=T1w", "p1=T1rho", "t1_t2=FLAIR"])
    for _ in range(3000):
        name = "".join(draw.choice(words) + draw.choice(["_", "-", ".", " ", "", "+", "(", ")"]) for _ in range(draw.randint(0, 7)))
        for known in (None, aliases):
            meaning = read(name, known)
            assert meaning.kind in ("named", "derived", "asked", "unknown") and (meaning.kind == "named") == (
                meaning.name is not None
            )
            assert meaning.kind != "asked" or (meaning.ask and meaning.options)


def volumes(root: Path, cases: int) -> None:
    """Cases of a registered T2, a T1 with an agent, a tissue map and labels, with voxels."""
    names = ("t1_mprage_gd", "T2_to_T1", "T1_pve_0", "tumor_mask", "brain_mask")
    for i in range(cases):
        write_case(root / f"P{i:02d}", dict.fromkeys(names, blob_brain((4, 5, 6))))


def test_index_shows_the_file_of_each_contrast_and_why(tmp_path: Path, verb: Callable[..., SimpleNamespace]) -> None:
    volumes(tmp_path, 12)
    few, every, why = verb("index", tmp_path), verb("index", tmp_path, "--all"), verb("index", tmp_path, "--why")
    for text in (few.stdout, every.stdout, why.stdout):
        assert "12 cases" in text and "images: T1ce 12, T2w 12, mask 12, segmentation 12" in text
        assert "t1_mprage_gd.nii.gz" in text and "T2_to_T1.nii.gz" in text and "tumor_mask.nii.gz" in text
    assert "P09" in few.stdout and "P10" not in few.stdout and "2 more cases; --all lists them" in few.stdout
    assert "P11" in every.stdout and "--all" not in every.stdout
    assert few.stdout.index("images:") < few.stdout.index("P00"), "the summary comes first"
    assert "with 'gd' (contrast agent)" in why.stdout and "passed over: P00/T1_pve_0.nii.gz" in why.stdout
    assert "contrast agent" not in few.stdout


def test_index_as_json_names_every_file_below_the_root(tmp_path: Path, verb: Callable[..., SimpleNamespace]) -> None:
    volumes(tmp_path, 1)
    (case,) = json.loads(verb("index", tmp_path, "--json").stdout)["cases"]
    assert case["files"] == {"T1ce": "P00/t1_mprage_gd.nii.gz", "T2w": "P00/T2_to_T1.nii.gz"} and case["session"] == ""
    assert (case["mask"], case["segmentation"]) == ("P00/brain_mask.nii.gz", "P00/tumor_mask.nii.gz")
    assert [(entry["path"], "probabilities" in entry["why"]) for entry in case["passed_over"]] == [("P00/T1_pve_0.nii.gz", True)]
    assert set(case["reasons"]) == {"T1ce", "T2w", "mask", "segmentation"}
    table = tmp_path / "table.csv"
    table.write_text(f"case,contrast,path\nA,T1,P00/T2_to_T1.nii.gz\nA,FLAIR,{tmp_path.parent}/elsewhere.nii.gz\n")
    (case,) = json.loads(verb("index", table, "--json").stdout)["cases"]
    assert case["files"] == {"T1w": "P00/T2_to_T1.nii.gz", "FLAIR": f"{tmp_path.parent}/elsewhere.nii.gz"} and case["mask"] is None
