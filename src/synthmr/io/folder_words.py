"""What a folder's or a case's name may say beside who the person is: dates, visits, stages of processing, nothing at all."""

from __future__ import annotations

import re
from typing import Literal

Kind = Literal["name", "session", "maybe session", "stage", "container", "split"]

_MONTH = "(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
_YEAR, _MM, _DD = r"(?:19|20)\d\d", r"(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])"
_TIME = r"(?:[T_. -]?\d\d[-_.:]?\d\d(?:[-_.:]?\d\d(?:\.\d+)?)?Z?)?"

#: 20190312, 2019-03-12, 12-Mar-2019, 03.12.2019, 2006-05-19_16_17_47.0 (ADNI); the time of day is no part of the date
_DATE = re.compile(
    rf"(?P<date>{_YEAR}(?P<sep>[-_. ]?){_MM}(?P=sep){_DD}|{_YEAR}[-_. ]?{_MONTH}[-_. ]?{_DD}|{_DD}[-_. ]?{_MONTH}[-_. ]?{_YEAR}"
    rf"|{_YEAR}[-.]\d\d?[-.]\d\d?|\d\d?[-_. ]\d\d?[-_. ]{_YEAR}|{_YEAR}[-_ ]{_MM}|{_MONTH}[-_. ]?{_YEAR}){_TIME}",
    re.IGNORECASE,
)

#: words with which a visit is surely meant, with their number
_VISIT = r"(?:sess?(?:ion)?|visit|vis|tp|time[-_ ]?points?|follow[-_ ]?up|fup?)"
_EVENT = (
    r"(?:baseline|base|screening|retest|rescan|recurrence|relapse|progression|diagnosis|subacute|acute|chronic|follow[-_ ]?ups?)"
)
_SESSION = re.compile(
    rf"{_VISIT}[-_ ]?[a-z]{{0,3}}\d+[a-z]?(?:[-_]\d+)?|{_VISIT}[-_ ]?[a-z]|ses-[a-z0-9]+"
    r"|(?:time|study|scan|rescan|exam|mri?|day|week|wk|month|mth|mo|year|yr)[-_ ]?\d+(?:-\d+)?"
    rf"|{_EVENT}[-_ ]?(?:\d+|scan|mri|visit|exam)?"
    r"|(?:pre|post|intra|peri)[-_ ]?(?:op|operative|operation|surgery|surgical|resection|treatment|therapy|tx|rt|chemo)"
    r"(?:[-_ ]?[a-z]*\d*)?",
    re.IGNORECASE,
)

#: those of them that may also stand in front of a name: visit1_P001
_LEADING = re.compile(rf"{_VISIT}[-_ ]?\d+|baseline|follow[-_ ]?up", re.IGNORECASE)

#: V1, M12, d0129, w024, 6months, bl: a visit below a person's folder or behind a person's name, and else perhaps a person
_SHORT = re.compile(
    r"[dvmwyt]\d{1,5}|\d+(?:[dwmy]|[-_ ]?(?:days?|wks?|weeks?|mo|mths?|months?|yrs?|years?))|bl|sc|scr|fu|pre|post"
    r"|(?:19|20)\d\d|\d{8}"
    r"|(?:initial|first|second|third|final|last|\d(?:st|nd|rd|th))(?:[-_ ]?(?:scan|mri|visit|exam|session))?",
    re.IGNORECASE,
)

#: words beside a date that say no more: exam_20190312, 2019-03-12_MRI, 20190312-1
_BESIDE_A_DATE = re.compile(r"exam|scan|visit|session|study|mri?|brain|head|\d{1,2}", re.IGNORECASE)

#: words that name a stage of processing, or a space or resolution that images were brought to
_STAGE = re.compile(
    r"orig(?:inals?|s)?|raws?|rawdata|unprocessed|unproc|source|native|pre?proc(?:essed|essing)?|processed|proc|post[-_]?proc(?:essed)?|pp"
    r"|bet(?:ted)?|hdbet|synthstrip|(?:un|non|no|de|with|w)?skull(?:strip(?:ped|ping)?|ed|less|on|off)?|ss|(?:un|de)?strip(?:ped)?|brains?"
    r"|extract(?:ed|ion)?|n[34](?:itk|bfc|bc|corr(?:ected)?|biascorrected)?|bfc|bias|biascorr(?:ected)?|biasfield|unbiased|nu|corr|correct(?:ed|ion)?"
    r"|(?:co)?reg(?:istered|istration)?|registration|align(?:ed|ment)?|warped|mni(?:152)?(?:nonlinear|nlin\w*|lin)?|talairach|tal|atlas"
    r"|sri(?:24)?|std|standard|norm(?:ali[sz](?:ed|ation))?|resampled?|resliced?|reoriented|interpolated|(?:up|down)sampled|denoised?|defaced?"
    r"|anonymi[sz]ed|cropped|crop|smooth(?:ed)?|harmoni[sz]ed|matched|z?scored?|zscore|minmax|clean(?:ed)?|fs|freesurfer|spm\d*|fsl|ants"
    r"|[fsq]s?mriprep|qsiprep|smriprep|cat12|clinica|synthseg|acpc|iso(?:tropic)?|\d+mm(?:iso)?|lowres|highres|lr|hr|converted",
    re.IGNORECASE,
)

#: words that may stand beside those
_STAGE_FILLER = re.compile(
    r"step|stage|data|images?|imgs?|files?|nii|nifti|in|to|on|the|and|with|without|no|space|field|hist|histogram|intensity|z|hd|output|results?"
    r"|t1w?|t2w?|flair|pd|t1ce|dataset|non|linear|version|final",
    re.IGNORECASE,
)

#: words that say nothing of the person: wrappers, kinds of content, field strengths, image numbers of ADNI
_CONTAINER = re.compile(
    r"anat\d*|anatomy|anatomical|struct(?:ural)?|nifti?s?|nii|niigz|gz|mris?|mr|images?|imgs?|imaging|data|dataset|scans|volumes?|files?|resources?"
    r"|masks?|labels?|labelmaps?|seg(?:s|mentations?)?|annotations?|gt|groundtruth|lesions?|rois?|\d(?:\.\d)?t|cohort|subjects?|patients?|cases|all",
    re.IGNORECASE,
)

_SPLIT = re.compile(
    r"(?:train(?:ing)?|val(?:id(?:ation)?)?|test(?:ing)?)(?:[-_ ]?(?:set|data))?|dev|hold[-_ ]?out"
    r"|images(?:tr|ts|val)|labels(?:tr|ts|val)",
    re.IGNORECASE,
)

#: a folder of persons: never a person itself
GROUP = re.compile(
    r"(?:cent(?:er|re)|site|hospital|clinic|group|grp|cohort|batch|fold|part|set|dataset|data|scanner|vendor|project|release|wave|phase|arm)"
    r"[-_ ]?\w{0,3}|[hl]gg?|gbm|ge|philips|siemens|toshiba|canon|(?:1\.5|3|7)t",
    re.IGNORECASE,
)

#: a person by the first word of the name, or by a form that a public data set gives its persons
PERSON = re.compile(
    r"(?:subj?|subject|patient|patientid|pat|pt|p|person|participant|ppt|case|p?id|control|ctrl|hc|volunteer|vol|proband|animal|mouse)"
    r"[-_ ]?[a-z]{0,4}\d+[a-z]?|sub-[a-z0-9]+|\d{3}_S_\d{4}|OAS[1-4]?[-_]?\d{4,5}|IXI\d{3}.*|TCGA-\w\w-\w{4}"
    r"|BraTS.*\d|UPENN-GBM-\d+|[A-Z]{2,6}-\d{4,}|[A-Z]{1,4}\d{4,}",
    re.IGNORECASE,
)

#: names whose tail is a time point although nothing in them says so: person, time point
_KNOWN = (
    re.compile(r"(BraTS-[A-Za-z]+-\d+)-(\d{3})", re.IGNORECASE),
    re.compile(r"(UPENN-GBM-\d+)_(\d{2})", re.IGNORECASE),
    re.compile(r"(\d{7})_\d{5}_(\d)_\d"),  # UK Biobank: person, field, visit, array
    re.compile(r"(sub-[A-Za-z0-9]+)_(ses-[^_]+)(?:_.*)?"),
)

#: a folder of one series: its number, or its DICOM identifier
SERIES = re.compile(r"(?:series|ser|se)?[-_ ]?\d{1,5}|\d+(?:\.\d+){4,}", re.IGNORECASE)

_SEPARATOR = re.compile(r"[-_. ]+")
_CAMEL = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")


def tokens(text: str) -> list[str]:
    """The words of a name: ``P1_ses-02`` -> P1, ses, 02."""
    return [word for word in _SEPARATOR.split(text) if word]


def date_of(text: str) -> str:
    """The date that a whole name is, without the time of day; empty where it is none."""
    match = _DATE.fullmatch(text)
    return match["date"] if match else ""


def is_session(text: str) -> bool:
    """Whether a folder name means one session of the subject that its parent folder is."""
    return bool(_SESSION.fullmatch(text) or dated(text))


def dated(text: str) -> str:
    """The date of a name that says nothing beside it (``exam_2019-03-12``, ``20190312-1``), else empty."""
    if date_of(text) or not any(letter.isdigit() for letter in text):
        return date_of(text)
    found = [""]
    for gap in _SEPARATOR.finditer(text):
        head, tail = text[: gap.start()], text[gap.end() :]
        for date, rest in ((head, tail), (tail, head)):
            if date_of(date) and all(_BESIDE_A_DATE.fullmatch(word) for word in tokens(rest)):
                found.append(date_of(date))
    return max(found, key=len)


def is_stage(text: str) -> bool:
    """Whether all words of a name tell how images were processed: ``raw``, ``02_n4_bet``, ``Preprocessed_Data``, ``BiasCorrected``.

    A number may lead, as that of a step; behind a word it is a person's (``brain_001``).
    """
    words = tokens(text)
    words = words[1:] if len(words) > 1 and words[0].isdigit() and len(words[0]) < 3 else words
    words = [re.sub(r"^(step|stage)\d+$", r"\1", word, flags=re.IGNORECASE) for word in words]
    words = [part for word in words for part in ([word] if _of_a_stage(word) else _CAMEL.findall(word) or [word])]
    named = [word for word in words if _STAGE.fullmatch(word)]
    return bool(named) and all(map(_of_a_stage, words))


def _of_a_stage(word: str) -> bool:
    return bool(_STAGE.fullmatch(word) or _STAGE_FILLER.fullmatch(word))


def kind(text: str) -> Kind:
    """What the name of a folder says, by itself."""
    if is_session(text):
        return "session"
    if _SPLIT.fullmatch(text):
        return "split"
    if all(_CONTAINER.fullmatch(word) for word in tokens(text)) or _CONTAINER.fullmatch(text):
        return "container"
    if is_stage(text):
        return "stage"
    return "maybe session" if _SHORT.fullmatch(text) else "name"


def split_session(name: str) -> tuple[str, str]:
    """Person and session of a name that holds both, as ``OAS30001_MR_d0129``; the session is empty where none is named."""
    for pattern in _KNOWN:
        match = pattern.fullmatch(name)
        if match:
            return match[1], match[2]
    ends = list(_SEPARATOR.finditer(name))
    for gap in ends:
        stem, tail = name[: gap.start()], inner(name[gap.end() :])
        sure = tail and (is_session(tail) or (_SHORT.fullmatch(tail) and _has_digit(stem) and not tail.isdigit()))
        if stem and sure and not is_session(stem):
            return _trimmed(stem), dated(tail) or tail
    for gap in ends:
        head, rest = name[: gap.start()], name[gap.end() :]
        if _has_digit(rest) and not is_session(rest) and (date_of(head) or _LEADING.fullmatch(head)):
            return rest, date_of(head) or head
    return _trimmed(name), ""


def subject_of(case: str) -> str:
    """The subject that a case name belongs to: the name itself, without a time point where it says one."""
    return split_session(case)[0]


def without_stage(name: str) -> str:
    """A person's name without words at its ends that tell how images were processed: ``P001_n4_bet`` -> P001."""
    short = name
    while True:
        parts = _SEPARATOR.split(short)
        if len(parts) > 1 and _STAGE.fullmatch(parts[-1]):
            short = short[: -len(parts[-1])].rstrip("-_. ")
        elif len(parts) > 1 and _STAGE.fullmatch(parts[0]):
            short = short[len(parts[0]) :].lstrip("-_. ")
        else:
            return short


def starts_with_date(text: str) -> str:
    """The date at the start of a study's name (TCIA: ``01-05-1998-NA-MRI BRAIN``); empty where there is none."""
    for gap in reversed(list(_SEPARATOR.finditer(text))):
        if date_of(text[: gap.start()]):
            return date_of(text[: gap.start()])
    return date_of(text)


def _has_digit(text: str) -> bool:
    return any(letter.isdigit() for letter in text)


def _says_nothing(word: str) -> bool:
    return bool(_CONTAINER.fullmatch(word) or _STAGE.fullmatch(word))


def inner(tail: str) -> str:
    """A tail without the words at its ends that say nothing: ``MR_d0129_brain`` -> d0129."""
    while True:
        parts = _SEPARATOR.split(tail)
        if len(parts) > 1 and _says_nothing(parts[0]):
            tail = tail[len(parts[0]) :].lstrip("-_. ")
        elif len(parts) > 1 and _says_nothing(parts[-1]):
            tail = tail[: -len(parts[-1])].rstrip("-_. ")
        else:
            return tail


def _trimmed(stem: str) -> str:
    """A person's name without ``_nifti`` and the like at its end, unless nothing with a number would remain."""
    short = stem
    while True:
        parts = _SEPARATOR.split(short)
        if len(parts) < 2 or not re.fullmatch(r"nifti?|nii|mri?|anat|brain", parts[-1], re.IGNORECASE):
            break
        short = short[: -len(parts[-1])].rstrip("-_. ")
    return short if _has_digit(short) else stem
