"""The split: whole subjects, the same for the same seed, and never without training and validation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthmr.case import Case, Cohort
from synthmr.data.split import Need, Split, make_split, read_split, shared_subjects, usable_part, write_split
from synthmr.errors import DataError, UsageError


def case(name: str, subject: str = "", contrasts: str = "T1w T2w", split: str | None = None) -> Case:
    return Case(name, subject or name, {word: Path(name, word) for word in contrasts.split()}, split=split)


def cohort(*cases: Case, source: str | None = None) -> Cohort:
    return Cohort(Path("data"), "folder", cases, (), Path(source) if source else None)


def many(n: int, sessions: int = 1) -> Cohort:
    return cohort(*(case(f"s{i:03}_{k}", f"s{i:03}") for i in range(n) for k in range(sessions)))


@given(st.integers(2, 60), st.integers(1, 3), st.integers(0, 10**6))
def test_every_case_once_and_every_subject_in_one_part(n, sessions, seed):
    data = many(n, sessions)
    split = make_split(data, ["T1w"], seed)
    assert sorted(split.names) == [c.name for c in data.cases]
    parts = {name: [data.case(x) for x in split.part(name)] for name in ("train", "validation", "test")}
    assert shared_subjects(parts) == {}
    assert split.train and split.validation and bool(split.test) == (n > 2)


@pytest.mark.parametrize(
    ("n", "sizes"), [(2, (1, 1, 0)), (3, (1, 1, 1)), (5, (3, 1, 1)), (10, (6, 2, 2)), (20, (14, 3, 3)), (100, (70, 15, 15))]
)
def test_sizes(n, sizes):
    split = make_split(many(n), ["T1w"])
    assert (len(split.train), len(split.validation), len(split.test)) == sizes


def test_seed():
    data = many(12)
    first = make_split(data, ["T1w"], 3)
    assert first == make_split(data, ["T1w"], 3) and first.source == "seed 3"
    assert len({make_split(data, ["T1w"], seed).test for seed in range(20)}) > 5
    # the order in which the cases were found does not matter
    turned = make_split(replace(data, cases=data.cases[::-1]), ["T1w"], 3)
    assert {name: set(turned.part(name)) for name in ("train", "test")} == {
        name: set(first.part(name)) for name in ("train", "test")
    }


def test_fractions():
    split = make_split(many(10), ["T1w"], 0, (0.5, 0.5, 0.0))
    assert (len(split.train), len(split.validation), split.test) == (5, 5, ())
    tiny = make_split(many(3), ["T1w"], 0, (0.01, 0.01, 0.98))
    assert (len(tiny.train), len(tiny.validation), len(tiny.test)) == (1, 1, 1)
    big = make_split(many(2), ["T1w"], 0, (0.1, 0.9, 0.0))
    assert (len(big.train), len(big.validation)) == (1, 1)
    for wrong in [(0.5, 0.5), (0.7, 0.2, 0.2), (1.2, -0.1, -0.1), (0, 0.5, 0.5), (0.5, 0, 0.5)]:
        with pytest.raises(UsageError, match="three numbers"):
            make_split(many(4), ["T1w"], 0, wrong)


def test_cases_without_a_contrast_are_left_out_by_name():
    data = cohort(case("a"), case("b"), case("c", contrasts="T1w"), case("d", contrasts=""))
    split = make_split(data, ["T1w", "T2w", "T2w"])
    assert sorted(split.names) == ["a", "b"]
    assert split.left_out == ("c: has no T2w", "d: has no T1w, T2w")


def test_nothing_to_split():
    with pytest.raises(DataError, match=r"no case of data has all of T1w, FLAIR \(a: has no FLAIR.*synthmr index"):
        make_split(cohort(case("a"), case("b")), ["T1w", "FLAIR"])
    data = cohort(case("a_1", "a"), case("a_2", "a"), case("b", contrasts="T1w"))
    with pytest.raises(DataError, match=r"only 1 subject \(a\) .* at least 2, .* Left out: b: has no T2w"):
        make_split(data, ["T1w", "T2w"])


def test_the_cohorts_own_split_is_taken():
    data = cohort(
        case("a", split="train"), case("b", split="validation"), case("c"), case("d", "", "T1w", "test"), source="d/splits.tsv"
    )
    split = make_split(data, ["T1w", "T2w"], seed=9)
    assert (split.train, split.validation, split.test, split.source) == (("a",), ("b",), (), "d/splits.tsv")
    assert split.left_out == ("d: has no T2w", "c: splits.tsv gives it no split")


def test_an_own_split_that_leaks_or_lacks_a_part():
    leak = cohort(case("a_1", "a", split="train"), case("a_2", "a", split="test"), case("b", split="validation"), source="s.tsv")
    with pytest.raises(DataError, match=r"s\.tsv puts subject a into train and test; keep all cases of a subject in one part"):
        make_split(leak, ["T1w"])
    lacks = cohort(case("a", split="train"), case("b", "", "T1w", "validation"), source="s.tsv")
    with pytest.raises(DataError, match=r"leaves no validation case .*\(b: has no T2w\)"):
        make_split(lacks, ["T2w"])
    with pytest.raises(DataError, match="leaves no train case"):
        make_split(cohort(case("a", split="test"), case("b", split="validation"), source="s.tsv"), ["T2w"])


def test_write_and_read(tmp_path):
    split = Split(("a", "b"), ("c",), (), "seed 0", ("d: has no T2w",))
    write_split(tmp_path / "split.tsv", split)
    assert (tmp_path / "split.tsv").read_text() == "case\tsplit\na\ttrain\nb\ttrain\nc\tvalidation\n"
    again = read_split(tmp_path / "split.tsv")
    assert (again.train, again.validation, again.test) == (split.train, split.validation, split.test)
    assert again.source == str(tmp_path / "split.tsv")


def test_read_refusals(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_split(tmp_path / "none.tsv")
    (tmp_path / "s.tsv").write_text("case\tsplit\na\ttrain\n")
    with pytest.raises(DataError, match="names no validation case"):
        read_split(tmp_path / "s.tsv")


def test_parts_by_name():
    split = Split(("a",), ("b",), ("c",), "x")
    assert split.part("all") == ("a", "b", "c") and split.part("test") == ("c",)
    with pytest.raises(UsageError, match="unknown split 'valid'"):
        split.part("valid")


# --- cases that lack contrasts

ANY = Need(("T1w", "T2w"), ("FLAIR",), any_subset=True)
LATENT = replace(ANY, target=False)
SHARED = Need(("T1w", "FLAIR"), ("FLAIR", "T1w"), any_subset=True)


@pytest.mark.parametrize(
    ("need", "contrasts", "trains", "scored"),
    [
        (replace(ANY, any_subset=False), "T1w T2w FLAIR", True, True),
        (replace(ANY, any_subset=False), "T1w FLAIR", False, False),
        (ANY, "T1w T2w FLAIR", True, True),
        (ANY, "T1w FLAIR", True, True),
        (ANY, "FLAIR", False, False),
        (ANY, "T1w T2w", False, False),
        (LATENT, "T1w T2w", True, False),
        (LATENT, "T1w", False, False),
        (SHARED, "T1w FLAIR", True, True),
        (SHARED, "FLAIR", False, False),  # the only source is the only target
        (replace(SHARED, target=False), "FLAIR", False, False),
        (Need(("T1w", "FLAIR"), ("FLAIR", "T2w"), any_subset=True), "FLAIR T2w", True, True),
    ],
)
def test_which_cases_a_run_can_use(need, contrasts, trains, scored):
    images = contrasts.split()
    assert (need.lacks(images) == "", need.lacks(images, held_out=True) == "") == (trains, scored)


def test_incomplete_cases_train_and_those_without_a_target_are_never_held_out():
    full = [case(f"f{i}", contrasts="T1w T2w FLAIR") for i in range(4)]
    part = [case(f"p{i}", contrasts="T1w T2w") for i in range(4)]
    data = cohort(*full, *part, case("x", contrasts="T2w"))
    for seed in range(10):
        split = make_split(data, LATENT, seed)
        assert {name[0] for name in (*split.validation, *split.test)} == {"f"}
        assert {f"p{i}" for i in range(4)} < set(split.train) and len(split.names) == 8
        assert any(name.startswith("f") for name in split.train)
        assert split.left_out == ("x: has no T1w, FLAIR, so no target with a source beside it",)
    assert len(make_split(data, ANY).names) == 4 and len(make_split(data, ANY).left_out) == 5
    with pytest.raises(DataError, match="no training case of data has DWI, so nothing can be learnt of it"):
        make_split(data, replace(ANY, sources=("T1w", "DWI")))
    with pytest.raises(DataError, match="1 subjects with a target"):
        make_split(cohort(full[0], *part), LATENT)


def test_a_complete_cohort_is_split_as_ever():
    data = cohort(*(case(f"s{i:03}", contrasts="T1w T2w FLAIR") for i in range(20)))
    for seed in range(5):
        assert make_split(data, LATENT, seed) == make_split(data, ["T1w", "T2w", "FLAIR"], seed)


def test_a_given_split_leaves_out_what_cannot_be_scored():
    data = cohort(
        case("a", split="train", contrasts="T1w T2w"), case("b", split="train", contrasts="T1w FLAIR"),
        case("c", split="validation", contrasts="T2w FLAIR"), case("d", split="test", contrasts="T1w T2w"), source="s.tsv",
    )  # fmt: skip
    split = make_split(data, LATENT)
    assert (split.train, split.validation, split.test) == (("a", "b"), ("c",), ())
    assert split.left_out == ("d: has no FLAIR, so no target to score with a source beside it",)
    images = {each.name: tuple(each.images) for each in data.cases}
    whole = Split(("a", "b"), ("c",), ("d",), "x")
    kept = usable_part(whole, ANY, images.__getitem__)
    assert (kept.train, kept.validation, kept.test) == (("b",), ("c",), ()) and len(kept.left_out) == 2
