"""The words of image names and what part each plays: weighting, contrast agent, target space, label, derived, scanner words.

`synthmr.io.grammar` has the rules. Words are compared as aliases are: small letters, without ``-``, ``_``, ``.`` and space.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from synthmr.contrasts import MASK, SEGMENTATION, TABLE, squeeze


@dataclass(frozen=True, slots=True)
class Word:
    """What a word says.

    Attributes:
        role: contrast (its value is the canonical name), implied (a sequence that stands for a contrast), agent, native, no,
            to, reg, space, place, label, lesion, brain, tissue, derived, synthetic, other, echo, mp2rage, tirm, time, neutral
            and a few of one word each.
        value: canonical name, or the words that a message says of it.
        weak: it may as well be part of an identifier (PD_001) or mean something else (post, pre).
    """

    role: str
    value: str = ""
    weak: bool = False


#: words of the table that may be something else: a group of patients, a rater, a person's initials
_WEAK = {"pd", "dp", "ir", "fl", "gre", "ot", "roi", "label", "labels", "trace", "tumor", "tumour", "lesion", "lesions", "t2s"}

#: role | value | words: one line or more a role and value; a word that stands in two lines has the part of the first
_VOCABULARY = """
time |  | postop preop intraop postoperative preoperative postsurgery presurgery postsurgical presurgical posttreatment
time |  | pretreatment postrt prert postchemo prechemo postresection preresection postbiopsy prebiopsy postradiation
time |  | postradiotherapy preradiotherapy posttherapy pretherapy posttx pretx postrx prerx poststroke prestroke postinjury
time |  | posttraining pretraining posttest pretest postintervention preintervention postdrug predrug posttms pretms
time |  | postexercise preexercise postpartum postmortem postdose postvaccine
native |  | noncontrast nocontrast nonenhanced noncontrastenhanced unenhanced precontrast nonce noce nogd nogad nogado nokm
native |  | noks wocontrast wogd ohnekm nativ
no |  | no non not without wo ohne sans before prior senza vor avant antes prima
agent |  | gd gad gado gadolinium gadavist gadovist gadobutrol dotarem gadoterate gadoteridol gadobenate gadopentetate
agent |  | gadodiamide gadopiclenol gadoteric magnevist multihance prohance omniscan clariscan vueway elucirem primovist eovist
agent |  | ce cemr km ks mdc kontrast kontrastmittel contrast contraste contrastenhanced contrastagent cenhanced enhanced enh
agent |  | enhancement inj injected injection postcontrast gdenhanced gddtpa cm
synthetic | synthetic | synth synthetic synthesised synthesized synthesis syntheticmr synthsr synthmr pred predicted prediction
synthetic | synthetic | predictions fake generated simulated imputed hallucinated pseudo magic symri
to |  | to onto into
reg |  | reg registered coreg coregistered registration coregistration aligned align regto regto alignedto registeredto
reg |  | coregisteredto coregto warpedto resampledto reslicedto warpedinto
space |  | space
place |  | mni mni152 mni305 mninlin mnispace template atlas sri24 standard stdspace talairach t88 dwi b0 func epi
place |  | mnilin native nativespace subject anat structural highres2standard icbm icbm152 fsaverage dwispace petspace
tissue | always | wm gm csf wmmask gmmask csfmask nawm nagm whitematter graymatter greymatter aseg aparc aparcaseg aparc2009s
tissue | always | wmparc synthseg parcellation parc ribbon fastseg firstseg drawem drawem9 brainskull skull inskull outskull
tissue | always | outskin tissue tissues
tissue |  | ventricle ventricles cerebellum cortex subcortical subcort hippocampus thalamus amygdala brainstem scalp eye eyes
tissue |  | face air background parenchyma vessel vessels vein veins artery hemisphere lobes lobe deepgray fov nose meninges
tissue |  | dura fast first healthy unhealthy deface defacing
derived | a map of probabilities | prob probs probability probabilities probseg posterior posteriors pve pveseg pve0 pve1 pve2
derived | a map of probabilities | mixeltype ples probmap softmax
derived | a computed map | map maps t1map t2map t2starmap pdmap r1map r2map r2starmap mtrmap mtvmap mwfmap b1map b0map m0map
derived | a computed map | rmap heatmap relaxometry quantitative
derived | a ratio of images | ratio dividedby myelin myelinmap overt1 divided
derived | a difference of images | diff difference subtraction subtracted subtr minus residual absdiff error errormap
derived | a deformation or its Jacobian | warp 0warp 1warp 1inversewarp inversewarp warpfield warpcoef field jac jacobian
derived | a deformation or its Jacobian | logjacobian deformation deformations displacement disp coeff coeffs xfm transform
derived | a deformation or its Jacobian | velocity
derived | a bias field, or an image called so | bias biasfield totbias gainfield
derived | another image carried into its space | inversewarped
derived | an image with regions filled in | filled lesionfilled inpainted inpaint voided lesionfilling
derived | a phase image | phase pha phasediff ph imaginary
derived | a projection | mip minip
derived | a picture of other images | overlay rgb fused blend colormap checkerboard screenshot
derived | an uncertainty or an attention map | uncertainty attention saliency variance entropy gradient edges
derived | a surface or a thickness | thickness curv sulc surf mesh
other | a localizer | localizer localiser scout survey aascout aahscout aaheadscout 3plane 3plloc topogram calibration
other | an inversion recovery of another kind | stir dir psir fgatir mpir tir
other | a perfusion or dynamic series | asl pcasl dce dsc perfusion perf dynamic twist cbf cbv rcbv mtt ttp tmax ktrans
other | another kind of image | bold boldref sbref tof mra mrv angio fieldmap magnitude1 magnitude2 phase1 phase2 mts mtsat mtr
other | another kind of image | vfa megre mese tb1 qsm spectroscopy mrs dti ciss fiesta trufi
modality |  | ct cta pet spect us meg eeg
mp2rage |  | mp2rage mp2 uni unidenoised
inv | an inversion image of MP2RAGE | inv1 inv2 inv
tirm |  | tirm tirdarkfluid
segmented |  | segmented parcelled classified
lesion |  | tumor tumors tumour tumours lesion lesions wmh wmhs whitematterhyperintensities infarct stroke core edema oedema
lesion |  | necrosis enhancing enhancingtumor ischemia ischemic glioma gtv
brain |  | brain bet brainextraction hdbet intracranial icv head skullstrip skullstripped synthstrip robex
neutral |  | ax axial tra trans transversal transverse sag sagittal cor coronal obl oblique 3d 2d iso isotropic hr highres
neutral |  | lowres hires se tse fse ssfse haste frfse spc cube vista view blade propeller multivane drive ffe fl2d fl3d flash
neutral |  | irprep ns fs fatsat spair spir dixon p2 p3 p4 sense grappa caipi acc accelerated fast turbo promo moco ge siemens
neutral |  | philips mr mri nav bet brain stripped skullstripped skullstrip deskulled ss masked n4 n3 biascorr biascorrected
neutral |  | unbiased nobias restore restored raw orig original preproc preprocessed processed pp clean cleaned denoised norm
neutral |  | normalized normalised zscore whitestripe defaced deface anon anonymized reoriented reorient reo std crop cropped
neutral |  | warped flirt rigid affine nonlin lin 1mm 2mm resampled resliced resample reslice lps ras mag magnitude m nd nii
neutral |  | img image images volume vol repeat run rep acpc dc acpcdc gradwarp b1correction scaled unstripped unbiased conform
neutral |  | conformed whole head weighted w the hdbet robex synthstrip hdglio contrastadjusted contrastnormalized
neutral |  | contrastnormalised contraststretched contrastcorrected contrastequalized tracew averaged avg average mean
implied | T1w | mprage memprage mpragepromo bravo fspgr spgr irfspgr irspgr fastspgr tfe 3dtfe turboflash mdeft vibe unit1
implied | T1w | uniden t1ffe
implied | FLAIR | t2tirm
"""

#: words that stand for one of two echoes, in the names of dcm2niix and BIDS
_ECHOES = {"e1": "1", "e2": "2", "echo1": "1", "echo2": "2", "te1": "1", "te2": "2"}

#: words of several parts that are written apart, and what they stand for
_PHRASES: Mapping[str, Word] = {
    "darkfluid": Word("contrast", "FLAIR"),
    "dafl": Word("contrast", "FLAIR"),
    "dafluid": Word("contrast", "FLAIR"),
    "darkfl": Word("contrast", "FLAIR"),
    "fluidattenuated": Word("contrast", "FLAIR"),
    "t2darkfluid": Word("contrast", "FLAIR"),
    "pdt2": Word("dual"),
    "t2pd": Word("dual"),
    "pdt2w": Word("dual"),
    "groundtruth": Word("label", SEGMENTATION),
    "manualsegmentation": Word("label", SEGMENTATION),
    "epd2diff": Word("contrast", "DWI"),
    "ep2ddiff": Word("contrast", "DWI"),
    "hemo": Word("hemo"),
    "post": Word("agent", "", True),
    "pre": Word("native", "", True),
    "native": Word("native", "", True),
    "with": Word("with"),
    "2": Word("two"),
    "in": Word("in"),
    "on": Word("in"),
}


def _lines() -> Iterator[tuple[str, str, list[str]]]:
    """(role, value, words) of each line of the vocabulary."""
    for line in _VOCABULARY.strip().splitlines():
        role, value, words = (part.strip() for part in line.split("|"))
        yield role, value, words.split()


def _vocabulary() -> dict[str, Word]:
    """Every word and its part. T1ce's words that hold the agent are left out: ``t1 post op`` must not be read as ``t1post``."""
    words: dict[str, Word] = dict(_PHRASES)
    agents = [word for role, _, names in _lines() if role == "agent" for word in names] + ["post", "pre", "native", "reg"]
    for contrast, names in TABLE.items():
        for name in (*names, contrast):
            key = squeeze(name)
            if contrast in (SEGMENTATION, MASK):
                lesion = key in ("tumor", "tumour", "lesion", "lesions", "wmh")
                words.setdefault(key, Word("lesion" if lesion else "label", contrast, key in _WEAK))
            elif key.startswith("mrt"):
                continue  # MRT1 is examination 1 in German; MR_T1 is read word by word
            elif not (contrast in ("T1w", "T1ce") and any(agent in key and key != agent for agent in agents)):
                words.setdefault(key, Word("contrast", contrast, key in _WEAK))
    for key, number in _ECHOES.items():
        words[key] = Word("echo", number)
    for role, value, keys in _lines():
        for key in keys:
            if role == "implied":
                words[key] = Word(role, value)
            else:
                words.setdefault(key, Word(role, value))
    return words


WORDS: Mapping[str, Word] = _vocabulary()

#: parts of words that are written together (T1Gd, FLAIR2T1, AXT1POST, lesionmask): no short words that begin other ones
_SHORT = """
acc air cm core ct dc dir dp drive eye face fast fl fov ge gre head hr img in inv ir l m mr mri ms nav nd nii no
norm not ns on ot p2 p3 p4 pd ph pp rep run se ss std sym the trace uni view vol w
"""
_NO_PARTS = frozenset(_SHORT.split())


def _parts(extra: Iterable[str]) -> dict[str, Word]:
    parts = {key: word for key, word in WORDS.items() if key not in _NO_PARTS and (len(key) > 1 or key == "2")}
    parts |= {key: Word(*word) for key, word in _ONLY_INSIDE.items()}
    return parts | {key: WORDS[key] for key in extra}


#: words that count inside others alone: T1c, T1inFLAIRspace, PDT2, T1noGd
_ONLY_INSIDE: Mapping[str, tuple[str, str]] = {"in": ("in", ""), "on": ("in", ""), "no": ("no", ""), "pd": ("contrast", "PDw")}

PARTS: Mapping[str, Word] = _parts(("se", "fast"))

#: scanner words that may begin a word (AXT1, 3DFLAIR); others follow the weighting (T1SE), or set1 would be SE and T1
LEADING = frozenset(("ax", "axial", "sag", "sagittal", "cor", "coronal", "tra", "3d", "2d", "synthstrip", "iso"))
