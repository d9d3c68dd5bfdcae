"""The alias table."""

from __future__ import annotations

import pytest

from synthmr.contrasts import CONTRASTS, MASK, SEGMENTATION, TABLE, canonical, parse_aliases, resolve, resolve_list, squeeze
from synthmr.errors import UsageError


def test_no_word_means_two_things():
    seen: dict[str, str] = {}
    for name, aliases in TABLE.items():
        for word in {squeeze(alias) for alias in (*aliases, name)}:
            assert word not in seen, f"{word} means {seen.get(word)} and {name}"
            seen[word] = name


def test_every_name_means_itself_and_every_alias_its_name():
    for name, aliases in TABLE.items():
        assert {canonical(word) for word in (name, name.upper(), *aliases)} == {name}


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("T1POST", "T1c", "T1Gd", "T1ce", "ce-gadolinium_T1w", "t1_post", "T1-Post", "T1.CE", "CT1"), "T1ce"),
        (("seg", "lesions", "consensus_gt", "OT", "dseg"), SEGMENTATION),
        (("t1", "T1W", "t1n", "MR_T1"), "T1w"),
        (("t2", "t2w", "MR_T2"), "T2w"),
        (("t2f", "T2-FLAIR", "MR_Flair", "fl"), "FLAIR"),
        (("brain_mask", "BrainMask"), MASK),
    ],
)
def test_words_of_the_data_sets(words, name):
    assert {canonical(word) for word in words} == {name}


def test_unknown_words():
    assert canonical("t3") is None and canonical("") is None


def test_own_aliases_win_and_may_make_contrasts():
    extra = parse_aliases(["t1km=t1c", "T1rho=T1rho", "t2=FLAIR", "gt=seg"])
    assert [canonical(word, extra) for word in ("T1-KM", "t1_rho", "T2", "gt", "t2w")] == [
        "T1ce",
        "T1rho",
        "FLAIR",
        SEGMENTATION,
        "T2w",
    ]
    assert resolve("t1rho", extra) == "T1rho"


@pytest.mark.parametrize("pair", ["t1km", "=T1ce", "t1km=", " = "])
def test_alias_of_the_wrong_form(pair):
    with pytest.raises(UsageError, match="alias=CONTRAST"):
        parse_aliases([pair])


def test_typed_names():
    assert resolve_list("t1, T2W ,flair") == ("T1w", "T2w", "FLAIR")
    with pytest.raises(UsageError, match=r"unknown contrast 'FLIAR': did you mean FLAIR\?"):
        resolve("FLIAR")
    with pytest.raises(UsageError, match="unknown contrast 'seg'") as caught:
        resolve("seg", parse_aliases(["gt=seg"]))
    assert "segmentation" not in str(caught.value) and all(name in str(caught.value) for name in CONTRASTS)
    with pytest.raises(UsageError, match="no contrast was named"):
        resolve_list(" , ")
    with pytest.raises(UsageError, match="names a contrast twice"):
        resolve_list("T1ce,t1gd")
