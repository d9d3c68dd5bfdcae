"""A cohort's cases overlap: one is read ahead and one written behind, never more, and each keeps its own errors and place."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from first_method import Counted, make_run
from helpers import blob_brain, write_case
from synthmr.case import Case, Cohort, PreparedCase
from synthmr.errors import DataError
from synthmr.io.index import index
from synthmr.predict import cohort as module
from synthmr.predict.cohort import Summary, synthesize_cohort
from synthmr.predict.prediction import Prediction
from synthmr.predict.write import output_path

NAMES = tuple(f"sub-{number:02d}" for number in range(1, 6))


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    for number, name in enumerate(NAMES):
        write_case(tmp_path / "data" / name, {"T1w": blob_brain(seed=number), "T2w": blob_brain(seed=number + 50)})
    return index(tmp_path / "data")


class Traced(Counted):
    """Notes when a case is read and predicted, with errors at will."""

    def __init__(self, broken: dict[str, BaseException] | None = None) -> None:
        super().__init__(make_run())
        self.events: list[tuple[str, str]] = []
        self.broken = broken or {}

    def prepare(self, case: Case, *words: Any) -> PreparedCase:
        self.events.append(("read", case.name))
        if f"read {case.name}" in self.broken:
            raise self.broken[f"read {case.name}"]
        found = super().prepare(case, *words)
        self.events.append(("was read", case.name))
        return found

    def __call__(self, prepared: PreparedCase, *words: Any) -> Prediction:
        self.events.append(("predict", prepared.name))
        if prepared.name in self.broken:
            raise self.broken[prepared.name]
        return super().__call__(prepared, *words)


def test_reading_and_writing_run_beside_the_network(cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each case is predicted only when the next was read, and written only when the next is predicted: in turn none would end."""
    was_read, predicted = ({name: threading.Event() for name in NAMES} for _ in range(2))
    following = dict(zip(NAMES, [*NAMES[1:], ""], strict=True))
    late: list[str] = []

    def wait(events: dict[str, threading.Event], name: str) -> None:
        if name and not events[name].wait(10):
            late.append(name)

    class Waiting(Counted):
        def prepare(self, case: Case, *words: Any) -> PreparedCase:
            found = super().prepare(case, *words)
            was_read[case.name].set()
            return found

        def __call__(self, prepared: PreparedCase, *words: Any) -> Prediction:
            predicted[prepared.name].set()
            wait(was_read, following[prepared.name])
            return super().__call__(prepared, *words)

    real = module.write_prediction

    def write(prediction: Prediction, *words: Any, **more: Any) -> Path:
        wait(predicted, following[prediction.case])
        return real(prediction, *words, **more)

    monkeypatch.setattr(module, "write_prediction", write)
    assert synthesize_cohort(Waiting(make_run()), cohort, tmp_path / "out").done == NAMES
    assert not late


def test_the_overlapped_files_are_those_of_one_case_at_a_time(cohort: Cohort, tmp_path: Path) -> None:
    synthesize_cohort(Counted(make_run()), cohort, tmp_path / "all")
    for case in cohort.cases:
        one = Cohort(cohort.root, cohort.layout, (case,))
        synthesize_cohort(Counted(make_run()), one, tmp_path / "each")
    for name in NAMES:
        first, second = (output_path(tmp_path / word, name, "FLAIR").read_bytes() for word in ("all", "each"))
        assert first == second


def test_never_more_than_one_case_ahead_and_one_behind(cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, most = threading.Lock(), [0, 0]
    real_read, real_predict, real_write = (getattr(module._Job, name) for name in ("read", "predict", "write"))
    reading: set[str] = set()
    unwritten: set[str] = set()

    def read(self: Any, case: Case, *words: Any) -> Any:
        with lock:
            reading.add(case.name)
            most[0] = max(most[0], len(reading))
        return real_read(self, case, *words)

    def predict(self: Any, case: Case, *words: Any) -> Any:
        with lock:
            unwritten.add(case.name)
            most[1] = max(most[1], len(unwritten))
        time.sleep(0.02)
        found = real_predict(self, case, *words)
        with lock:
            reading.discard(case.name)
        return found

    def write(self: Any, case: Case, *words: Any) -> Any:
        time.sleep(0.05)
        found = real_write(self, case, *words)
        with lock:
            unwritten.discard(case.name)
        return found

    for name, call in (("read", read), ("predict", predict), ("write", write)):
        monkeypatch.setattr(module._Job, name, call)
    assert synthesize_cohort(Traced(), cohort, tmp_path / "out").done == NAMES
    assert most == [2, 2], "one that is predicted and one ahead; one that is predicted and one behind"


def test_errors_stay_with_their_case_wherever_they_happen(cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.write_prediction

    def write(prediction: Prediction, *words: Any, **more: Any) -> Path:
        if prediction.case == "sub-03":
            raise DataError("sub-03 cannot be written:\n no space")
        return real(prediction, *words, **more)

    monkeypatch.setattr(module, "write_prediction", write)
    broken = {"read sub-02": DataError("sub-02 is damaged"), "sub-04": RuntimeError("out of memory"), "read sub-05": MemoryError()}
    ticks: list[tuple[int, int, str]] = []
    summary = synthesize_cohort(Traced(broken=broken), cohort, tmp_path / "out", progress=lambda *tick: ticks.append(tick))
    assert summary == Summary(
        done=("sub-01",),
        failed={
            "sub-02": "sub-02 is damaged",
            "sub-03": "sub-03 cannot be written: no space",
            "sub-04": "out of memory",
            "sub-05": "MemoryError",
        },
    )
    assert list(summary.failed) == ["sub-02", "sub-03", "sub-04", "sub-05"]
    assert ticks == [*((number, 5, name) for number, name in enumerate(NAMES)), (5, 5, "")]


def test_what_is_no_matter_of_a_case_stops_all(cohort: Cohort, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        synthesize_cohort(Traced(broken={"read sub-03": ZeroDivisionError()}), cohort, tmp_path / "out")
    assert output_path(tmp_path / "out", "sub-02", "FLAIR").is_file()


def test_an_interrupt_leaves_whole_files_and_no_others(cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes while the third case is predicted and the second is written."""
    real = module.write_prediction

    def slow_write(*words: Any, **more: Any) -> Path:
        time.sleep(0.2)
        return real(*words, **more)

    monkeypatch.setattr(module, "write_prediction", slow_write)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        synthesize_cohort(Traced(broken={"sub-03": KeyboardInterrupt()}), cohort, tmp_path / "out")
    assert threading.active_count() == before
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [f"sub-0{number}_desc-synth_FLAIR.{end}" for number in (1, 2) for end in ("json", "nii.gz")]
    # what is there is done, and the rest is made
    summary = synthesize_cohort(Traced(), cohort, tmp_path / "out")
    assert summary.skipped == NAMES[:2] and summary.done == NAMES[2:]


def test_done_cases_are_not_read(cohort: Cohort, tmp_path: Path) -> None:
    synthesize_cohort(Traced(), cohort, tmp_path / "out")
    output_path(tmp_path / "out", "sub-04", "FLAIR").unlink()
    again = Traced()
    ticks: list[tuple[int, int, str]] = []
    summary = synthesize_cohort(again, cohort, tmp_path / "out", progress=lambda *tick: ticks.append(tick))
    assert again.events == [("read", "sub-04"), ("was read", "sub-04"), ("predict", "sub-04")]
    assert summary.done == ("sub-04",) and summary.skipped == ("sub-01", "sub-02", "sub-03", "sub-05")
    assert [tick[2] for tick in ticks] == [*NAMES, ""]


def test_an_empty_cohort_is_nothing_to_do(tmp_path: Path) -> None:
    ticks: list[tuple[int, int, str]] = []
    empty = Cohort(tmp_path, "folder", ())
    assert synthesize_cohort(Traced(), empty, tmp_path / "out", progress=lambda *tick: ticks.append(tick)) == Summary()
    assert ticks == [(0, 0, "")]


def test_notes_are_told_in_the_order_of_the_cases(cohort: Cohort, tmp_path: Path) -> None:
    for name in ("sub-04", "sub-02"):  # not skull-stripped
        folder = cohort.root / name
        rng = np.random.default_rng(1)
        write_case(folder, {key: np.abs(rng.normal(0, 9, (12, 14, 10))) + blob_brain(seed=3) for key in ("T1w", "T2w")})
    summary = synthesize_cohort(Traced(), index(cohort.root), tmp_path / "out")
    assert list(summary.notes) == ["sub-02", "sub-04"] and "Otsu" in summary.notes["sub-02"][0]
