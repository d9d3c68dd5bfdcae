"""Folds: every case is tested once, subjects stay whole, the same seed gives the same folds, files say all of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from synthmr.case import Case, Cohort
from synthmr.data.folds import Folds, make_folds, read_folds, write_folds
from synthmr.errors import DataError, UsageError


def names(n: int, sessions: int = 1) -> dict[str, str]:
    return {f"sub-{i:03}_ses-{k}": f"sub-{i:03}" for i in range(n) for k in range(sessions)}


def cohort(**contrasts: str) -> Cohort:
    cases = tuple(Case(name, name, {word: Path(name, word) for word in words.split()}) for name, words in contrasts.items())
    return Cohort(Path("data"), "folder", cases)


def check(folds: Folds, cases: dict[str, str]) -> None:
    """Every case is tested once; in each fold the parts are a partition of the cases, and of the subjects."""
    tested = []
    for i in range(1, folds.k + 1):
        split = folds.split(i)
        assert sorted(split.names) == sorted(cases) and split.train and split.validation and split.test
        people = [{cases[name] for name in part} for part in (split.train, split.validation, split.test)]
        assert sum(map(len, people)) == len(set(cases.values())) == len(set.union(*people))
        tested += split.test
    assert sorted(tested) == sorted(cases)


@given(st.integers(3, 40), st.integers(1, 3), st.integers(2, 12), st.integers(0, 10**6), st.floats(0.01, 0.99))
def test_partition(n, sessions, k, seed, share):
    assume(k <= n and n - -(-n // k) >= 2)
    cases = names(n, sessions)
    folds = make_folds(cases, k, seed, share)
    check(folds, cases)
    sizes = [len({cases[name] for name in folds.split(i).test}) for i in range(1, k + 1)]
    assert folds.k == k and max(sizes) - min(sizes) <= 1


def test_seed_and_order():
    cases = names(12)
    first = make_folds(cases, 4, 3)
    assert first == make_folds(dict(reversed(cases.items())), 4, 3) and first.split(2).source == "seed 3, fold 2 of 4"
    drawn = [make_folds(cases, 4, seed) for seed in range(20)]
    assert len({folds.split(1).test for folds in drawn}) > 10
    assert len({folds.split(1).validation for folds in drawn}) > 5
    assert len({first.split(i).validation for i in range(1, 5)}) > 1  # another draw in each fold


@pytest.mark.parametrize(("share", "size"), [(0.01, 1), (0.15, 1), (0.25, 2), (0.5, 4), (0.99, 7)])
def test_validation_share(share, size):
    split = make_folds(names(10), 5, 0, share).split(3)
    assert (len(split.train), len(split.validation), len(split.test)) == (8 - size, size, 2)


def test_cohort():
    data = cohort(a="T1w T2w", b="T1w T2w", c="T1w", d="T1w T2w", e="")
    folds = make_folds(data, 3, needed_contrasts=["T1w", "T2w", "T2w"])
    assert sorted(folds.fold) == ["a", "b", "d"]
    assert folds.left_out == folds.split(1).left_out == ("c: has no T2w", "e: has no T1w, T2w")


def test_refused():
    with pytest.raises(UsageError, match="1 folds are no cross-validation; ask for 2 or more"):
        make_folds(names(5), 1)
    with pytest.raises(DataError, match="6 folds need 6 subjects or more, there are 5; ask for fewer"):
        make_folds(names(5, 2), 6)  # ten cases do not help
    with pytest.raises(DataError, match="2 folds need 2 subjects or more, there is 1;"):
        make_folds(names(1, 4), 2)
    # two subjects to train and validate with must remain beside the test part
    with pytest.raises(DataError, match=r"fold 1 of 2 leaves 1 subject .* none is left to train on; add subjects"):
        make_folds(names(2), 2)
    with pytest.raises(DataError, match=r"none is left to train on; ask for more folds"):
        make_folds(names(3), 2)
    check(make_folds(names(3), 3), names(3))
    check(make_folds(names(4), 2), names(4))
    for share in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(UsageError, match="validation share"):
            make_folds(names(5), 2, validation=share)
        with pytest.raises(UsageError, match="validation share"):
            read_folds("folds.tsv", validation=share)
    with pytest.raises(DataError, match="there are no cases"):
        make_folds({}, 2)
    with pytest.raises(DataError, match=r"no case of data has all of FLAIR \(a: has no FLAIR\).*synthmr index"):
        make_folds(cohort(a="T1w"), 2, needed_contrasts=["FLAIR"])
    with pytest.raises(DataError, match="no case of data was found"):
        make_folds(cohort(), 2)


@pytest.mark.parametrize("fold", [0, 6, -1])
def test_unknown_fold(fold):
    with pytest.raises(UsageError, match=f"there is no fold {fold}; allowed: 1 to 5"):
        make_folds(names(10)).split(fold)


def test_round_trip(tmp_path):
    cases = names(9, 2)
    folds = make_folds(cases, 3, 7, 0.3)
    path = tmp_path / "new" / "folds.tsv"
    write_folds(path, folds)
    assert path.read_text().splitlines()[0] == "case\tfold\tsubject\tvalidates"
    for back in (read_folds(path), read_folds(path, cases, seed=99, validation=0.9)):  # the file knows, not the seed
        assert (back.fold, back.subjects, back.validation, back.source) == (
            folds.fold,
            folds.subjects,
            folds.validation,
            str(path),
        )
        assert all(back.split(i).names == folds.split(i).names for i in (1, 2, 3))
    assert [entry.name for entry in path.parent.iterdir()] == ["folds.tsv"]
    write_folds(path, make_folds(cases, 3, 8))  # replaces
    assert read_folds(path).fold != folds.fold


def test_subjects_that_names_do_not_tell_survive(tmp_path):
    cases = {"one": "x", "two": "x", "three": "y", "four": "z"}
    write_folds(tmp_path / "f.tsv", make_folds(cases, 3))
    assert dict(read_folds(tmp_path / "f.tsv").subjects) == cases


def test_write_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_folds(tmp_path / "file" / "folds.tsv", make_folds(names(4), 2))


def table(path: Path, *lines: str, head: str = "case fold") -> Path:
    path.write_text("\n".join(line.replace(" ", "\t") for line in (head, *lines)) + "\n")
    return path


def test_by_hand(tmp_path):
    path = table(tmp_path / "f.tsv", "sub-1_ses-1 1", "sub-1_ses-2 1", "sub-2 2", "sub-3 2", "sub-4 1", "sub-5 1")
    folds = read_folds(path, seed=1)
    assert folds.subjects["sub-1_ses-2"] == "sub-1" and folds.k == 2
    check(folds, dict(folds.subjects))
    assert read_folds(path, seed=1) == folds
    assert len({read_folds(path, seed=i).validation for i in range(10)}) > 1
    # the data know better than the name who a case is of: sub-4 and sub-5 are one person
    known = dict(folds.subjects) | {"sub-5": "sub-4"}
    assert read_folds(path, known).subjects["sub-5"] == "sub-4"


def test_left_out_cases_are_not_missed(tmp_path):
    data = cohort(a="T1w", b="T1w", c="T1w", d="T2w")
    write_folds(tmp_path / "f.tsv", make_folds(data, 3, needed_contrasts=["T1w"]))
    assert read_folds(tmp_path / "f.tsv", data, ["T1w"]).left_out == ("d: has no T1w",)
    with pytest.raises(DataError, match="misses d; use the data that the folds were made for"):
        read_folds(tmp_path / "f.tsv", data)


GOOD = ["a 1", "b 2", "c 3"]
FULL = "case fold subject validates"


@pytest.mark.parametrize(
    ("head", "lines", "message"),
    [
        ("case part", GOOD, r"has columns case, part; a fold file needs the columns case and fold"),
        ("case fold", [], r"no lines below its header"),
        ("case fold", ["a", *GOOD], r"line 2 lacks a fold"),
        ("case fold", [" 1", *GOOD], r"line 2 lacks a case"),
        ("case fold", [*GOOD, "a 1"], r"line 5 names a a second time"),
        ("case fold", ["a x", *GOOD[1:]], r"line 2: 'x' is no fold; write a whole number from 1"),
        ("case fold", ["a 0", *GOOD[1:]], r"'0' is no fold"),
        ("case fold", ["a 1.5", *GOOD[1:]], r"'1.5' is no fold"),
        ("case fold", ["a ²", *GOOD[1:]], r"'²' is no fold"),
        ("case fold", ["a 1 9", *GOOD], r"3 fields, its header 2"),
        ("case fold", ["sub-1_ses-1 1", "sub-1_ses-2 2", "sub-2 2"], r"puts subject sub-1 into folds 1 and 2; keep all its cases"),
        ("case fold subject", ["a 1 x", "b 2 x", "c 3 y"], r"puts subject x into folds 1 and 2"),
        ("case fold", ["a 1", "b 2", "c 4"], r"has 4 folds, but only 3 subjects"),
        ("case fold", ["a 5"], r"has 5 folds, but only 1 subject;"),
        ("case fold", ["a 1", "b 3", "c 3"], r"has 3 folds, but no case in fold 2; number the folds from 1 without gaps"),
        ("case fold", ["a 1", "b 1"], r"has 1 fold; a cross-validation needs 2"),
        ("case fold", ["a 1", "b 2"], r"f\.tsv: fold 1 of 2 leaves 1 subject .* add subjects"),
        (FULL, ["a 1 a 2", "b 2 b 3,9", "c 3 c 1"], r"b validates in fold 9, but there are 3 folds"),
        (FULL, ["a 1 a 2", "b 2 b 3", "c 3 c 1,3"], r"c validates in fold 3, which tests it"),
        (FULL, ["a 1 a 2", "b 2 b 3,?", "c 3 c 1"], r"validates of b: '\?' is no fold"),
        (FULL, ["a 1 a 2", "b 2 b", "c 3 c 1"], r"leaves fold 3 without a validation case"),
        (FULL, ["a 1 a 2,3", "b 2 b 3", "c 3 c 1"], r"leaves fold 3 without a training case"),
        (FULL, ["a 1 x 2", "b 1 x 3", "c 2 c 3", "d 3 d 1"], r"cases of subject x validate in different folds"),
    ],
)
def test_damaged(tmp_path, head, lines, message):
    with pytest.raises(DataError, match=message) as caught:
        read_folds(table(tmp_path / "f.tsv", *lines, head=head))
    assert "\n" not in str(caught.value) and "f.tsv" in str(caught.value)


def test_unreadable(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_folds(tmp_path / "none.tsv")
    (tmp_path / "binary.tsv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="no UTF-8 text"):
        read_folds(tmp_path / "binary.tsv")


def test_other_data(tmp_path):
    path = table(tmp_path / "f.tsv", *GOOD)
    same = {name: name for name in "abc"}
    assert read_folds(path, same).k == 3
    with pytest.raises(DataError, match=r"misses d, e; use the data"):
        read_folds(path, {**same, "d": "d", "e": "e"})
    with pytest.raises(DataError, match=r"names b, c, which the data lack"):
        read_folds(path, {"a": "a"})
    with pytest.raises(DataError, match=r"misses z and names c, which"):
        read_folds(path, {"a": "a", "b": "b", "z": "z"})
    path = table(tmp_path / "g.tsv", "a 1 a", "b 2 b", "c 3 c", head="case fold subject")
    with pytest.raises(DataError, match=r"says that c is of subject c, the data say a; correct the file"):
        read_folds(path, {"a": "a", "b": "b", "c": "a"})
