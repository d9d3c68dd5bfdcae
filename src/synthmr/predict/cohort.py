"""Synthesis from files to files: one case, or every case of a cohort with reading and writing beside the network.

While a case is predicted, one thread reads and prepares the next and one compresses and writes the last: never more than one case
ahead and one behind, so that memory does not grow with the cohort.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synthmr.case import Case, Cohort, PreparedCase
from synthmr.contrasts import MASK, SEGMENTATION, squeeze
from synthmr.errors import DataError, SynthmrError, UsageError
from synthmr.predict.prediction import Prediction
from synthmr.predict.write import check_intensity, difference, output_path, plain, write_prediction
from synthmr.prepare import background
from synthmr.prepare.brightness import Brightness, brightness_of
from synthmr.prepare.domain import Alarm

if TYPE_CHECKING:
    from synthmr.predict.predictor import Predictor

#: the word that stands for an empty lesion mask
NO_LESION = "none"


@dataclass(frozen=True)
class Summary:
    """What a cohort synthesis did.

    Attributes:
        done: cases that were written.
        skipped: cases whose results were there already.
        failed: case -> why.
        notes: case -> what is odd about its files (sform against qform, a mask that was guessed, ...).
        warnings: case -> in what it is outside of what the run was trained on: {code, text, number, allowed} each.
    """

    done: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    warnings: Mapping[str, tuple[dict[str, Any], ...]] = field(default_factory=dict)


def synthesize_files(
    predictor: Predictor,
    files: Mapping[str, Path],
    output: Path,
    mask: Path | None = None,
    intensity: str = "scanner",
    overwrite: bool = False,
    maps: Sequence[str] = (),
    lesion: Path | None = None,
    say: Callable[[str], None] | None = None,
    nan_to_zero: bool = False,
    warn: Callable[[Alarm], None] | None = None,
) -> list[Path]:
    """Synthesise from single files.

    Args:
        predictor: of the run.
        files: contrast -> file.
        output: file to write; where there are several targets, ``_CONTRAST`` is put before the suffix of each.
        mask: brain mask on the same grid.
        intensity: scanner or normalized.
        overwrite: replace what is there. Without it a result that is done already is left as it is.
        maps: maps to write too, of ``spec.maps``; ``synth-`` and their names are put before the suffix.
        lesion: for runs that read a lesion mask: the mask, or the path ``none`` for no lesion.
        say: is told what is odd about the files (sform against qform, a mask that was guessed, ...).
        nan_to_zero: read NaN outside the brain as 0.
        warn: is told in what the images are outside of what the run was trained on.

    Returns:
        The images, one a target, then the maps.

    Raises:
        UsageError: a contrast too many or too few, an output that is an input or exists, or an unknown word.
        DataError: an input that cannot be used, or an output that cannot be written.
    """
    from synthmr.io.index import index_files
    from synthmr.io.nifti import stem

    sources, method = predictor.sources, predictor.run.method
    extra = [name for name in files if name not in sources]
    if extra:
        raise UsageError(f"this run takes {', '.join(sources)} and was given {', '.join(extra)} too; leave that out.")
    absent = [name for name in sources if name not in files]
    if absent and not method.traits.any_subset:
        raise UsageError(f"this run of {method.spec.name} needs {', '.join(absent)} too; add {absent[0]}=FILE.")
    job = _Job(predictor, intensity, overwrite, maps, lesion)
    given = {**files, **({MASK: mask} if mask is not None else {})}
    found = index_files(given, {squeeze(name): name for name in files}, name=stem(output))
    case = job.with_lesion(replace(found, nan_to_zero=nan_to_zero))
    targets = [name for part in job.parts(case) for name in part.wanted]
    suffix = output.name[len(stem(output)) :]
    outputs = {targets[0]: output}
    if len(targets) > 1:
        outputs = {name: output.with_name(f"{stem(output)}_{name}{suffix}") for name in targets}
    outputs |= {label: output.with_name(f"{stem(output)}_synth-{label}{suffix}") for label in job.labels(case)}
    job.check_outputs(case, outputs)
    read = job.read(case, outputs)
    if read is not None:
        written = job.write(case, outputs, job.predict(case, read))
        if say is not None:
            for note in written.notes:
                say(f"note: {note}")
        if warn is not None:
            for alarm in written.alarms:
                warn(alarm)
    return list(outputs.values())


def synthesize_cohort(
    predictor: Predictor,
    cohort: Cohort,
    out: Path,
    intensity: str = "scanner",
    overwrite: bool = False,
    maps: Sequence[str] = (),
    lesion: Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Summary:
    """Synthesise every case of a cohort; a case that fails does not stop the others.

    In a run where a contrast can be both source and target, what a case lacks is made; of one that lacks nothing, each contrast
    is made from the others.

    Args:
        predictor: of the run.
        cohort: its cases need the run's sources; other contrasts are not read.
        out: folder for the results; made if it is not there.
        intensity: scanner or normalized.
        overwrite: make everything again. Without it, results that are done are skipped, and a file that is in the way
            of another result fails the case.
        maps: maps to write too, of ``spec.maps``.
        lesion: for runs that read a lesion mask: one mask for all cases instead of their own, or the path ``none``.
        progress: called as ``progress(done, total, case)``.

    Raises:
        UsageError: an unknown word, or an output that is an input.
        DataError: ``out`` cannot be written to.
    """
    job = _Job(predictor, intensity, overwrite, maps, lesion)
    cases = [job.with_lesion(case) for case in cohort.cases]
    plans = {case.name: {name: output_path(out, case.name, name) for name in job.names(case)} for case in cases}
    for case in cases:
        job.check_outputs(case, plans[case.name])
    _make_folder(out)
    return _overlapped(job, cases, plans, progress or (lambda done, total, case: None))


def _overlapped(
    job: _Job, cases: Sequence[Case], plans: Mapping[str, Mapping[str, Path]], progress: Callable[[int, int, str], None]
) -> Summary:
    """Read, predict and write cases, each a step behind the other."""
    failed: dict[str, str] = {}
    notes: dict[str, tuple[str, ...]] = {}
    skipped: list[str] = []
    warnings: dict[str, tuple[dict[str, Any], ...]] = {}
    behind: tuple[str, Future[_Written]] | None = None

    def finish(written: tuple[str, Future[_Written]] | None) -> None:
        """Wait for a case to be written."""
        if written is None:
            return
        name, future = written
        try:
            told = future.result()
        except _CASE_ERRORS as error:
            failed[name] = _line(error)
        else:
            notes.update({name: told.notes} if told.notes else {})
            warnings.update({name: tuple(alarm.as_dict() for alarm in told.alarms)} if told.alarms else {})

    reader, writer = ThreadPoolExecutor(1, "read"), ThreadPoolExecutor(1, "write")
    try:
        ahead = reader.submit(job.read, cases[0], plans[cases[0].name]) if cases else None
        for number, case in enumerate(cases):
            progress(number, len(cases), case.name)
            current, ahead = ahead, None
            try:
                read = current.result() if current is not None else None
            except _CASE_ERRORS as error:
                failed[case.name], read = _line(error), None
            else:
                skipped += [case.name] if read is None else []
            if number + 1 < len(cases):
                ahead = reader.submit(job.read, cases[number + 1], plans[cases[number + 1].name])
            if read is None:
                continue
            try:
                predicted = job.predict(case, read)
            except _CASE_ERRORS as error:
                failed[case.name] = _line(error)
                continue
            finish(behind)
            behind = case.name, writer.submit(job.write, case, plans[case.name], predicted)
        finish(behind)
    finally:
        # what was predicted is written, whatever stopped the others
        reader.shutdown(wait=True, cancel_futures=True)
        writer.shutdown(wait=True)
    progress(len(cases), len(cases), "")
    order = [case.name for case in cases]
    return Summary(
        done=tuple(name for name in order if name not in failed and name not in skipped),
        skipped=tuple(skipped),
        failed={name: failed[name] for name in order if name in failed},
        notes={name: notes[name] for name in order if name in notes},
        warnings={name: warnings[name] for name in order if name in warnings},
    )


#: what costs a case and not the cohort; torch reports memory that ran out as RuntimeError
_CASE_ERRORS = (SynthmrError, OSError, RuntimeError, MemoryError)


def _line(error: Exception) -> str:
    """One line for a person."""
    return " ".join(str(error).split()) or type(error).__name__


def _make_folder(out: Path) -> None:
    """Make the folder for results.

    Raises:
        DataError: it cannot be made or written to.
    """
    from synthmr.io.files import write_error

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(out, error) from None
    if not os.access(out, os.W_OK | os.X_OK):
        raise DataError(f"{out} cannot be written: no permission. Choose a folder that you may write to.")


@dataclass(frozen=True)
class _Part:
    """Targets of a case that are made from the same sources, and the maps that are made on the way."""

    given: tuple[str, ...]
    wanted: tuple[str, ...]
    maps: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Written:
    """What there is to say of a case that was written: what is odd about its files, and in what it is outside."""

    notes: tuple[str, ...]
    alarms: tuple[Alarm, ...]


#: a part and its case, prepared, or its prediction, where it was kept
_Read = tuple[_Part, "PreparedCase | Prediction"]


class _Job:
    """What all cases of one call share."""

    def __init__(
        self, predictor: Predictor, intensity: str, overwrite: bool, maps: Sequence[str] = (), lesion: Path | None = None
    ) -> None:
        from synthmr.predict.maps import check_maps

        method = predictor.run.method
        check_maps(method, maps)
        if lesion is not None and SEGMENTATION not in method.needs:
            raise UsageError(
                f"this run of {method.spec.name} reads no lesion mask; train milr with --set options.lesion_mask=true for one."
            )
        if lesion is not None and str(lesion) != NO_LESION and not lesion.is_file():
            raise DataError(f"no such lesion mask: {lesion}. Check the path, or give --lesion-mask none for no lesion.")
        check_intensity(intensity)
        self.predictor, self.intensity, self.overwrite = predictor, intensity, overwrite
        self.maps, self.lesion = tuple(maps), lesion

    def with_lesion(self, case: Case) -> Case:
        """The case with what this call reads as its segmentation: its own for methods that need one, that of this call, or none."""
        if SEGMENTATION not in self.predictor.run.method.needs or str(self.lesion) == NO_LESION:
            return replace(case, segmentation=None)
        return case if self.lesion is None else replace(case, segmentation=self.lesion)

    def parts(self, case: Case) -> list[_Part]:
        """What is made from what; the maps are made with the first."""
        plan = self.predictor.plan(tuple(case.images))
        return [_Part(given, wanted, () if number else self.maps) for number, (given, wanted) in enumerate(plan)]

    def labels(self, case: Case) -> tuple[str, ...]:
        """What the maps of a case are called; they are of its first part."""
        from synthmr.predict.maps import labels_of

        given = self.parts(case)[0].given
        return tuple(label for name in self.maps for label in labels_of(self.predictor.run.method, name, given))

    def names(self, case: Case) -> list[str]:
        """All that is written of a case: its targets, then the maps."""
        return [*(name for part in self.parts(case) for name in part.wanted), *self.labels(case)]

    def inputs(self, case: Case, part: _Part) -> dict[str, Path]:
        """The files of a case that go in: its sources, then the mask and, for methods that need it, the segmentation.

        Raises:
            DataError: a source or a segmentation that the run cannot do without is missing.
        """
        files = self.predictor.inputs(case, part.given)
        if SEGMENTATION in self.predictor.run.method.needs and case.segmentation is None and self.lesion is None:
            raise DataError(
                f"case {case.name} has no segmentation, which this run reads as its lesion mask; give --lesion-mask FILE, or"
                " --lesion-mask none for a brain without lesion."
            )
        return dict(files)

    def check_outputs(self, case: Case, outputs: Mapping[str, Path]) -> None:
        """Refuse to write over anything that a case consists of.

        Raises:
            UsageError: an output is an input, or no NIfTI name.
        """
        from synthmr.io.nifti import check_output

        labels = [path for path in (case.mask, case.segmentation) if path is not None]
        for path in outputs.values():
            check_output(path, [*case.images.values(), *labels])

    def read(self, case: Case, outputs: Mapping[str, Path]) -> list[_Read] | None:
        """Read and prepare a case, or find its kept prediction; None where its results are there already.

        Raises:
            DataError: an input cannot be used, or, without `overwrite`, something else is in the way.
        """
        if not self.overwrite and self._is_done(case, outputs):
            return None
        return [(part, self._read(case, part)) for part in self.parts(case)]

    def _read(self, case: Case, part: _Part) -> PreparedCase | Prediction:
        predictor = self.predictor
        self.inputs(case, part)  # what is missing is told before anything is read
        if predictor.keep is not None:
            kept = predictor.keep.get(predictor.key(case, part.given))
            if kept is not None and all(kept.has_map(name) for name in part.maps):
                predictor.alarms(case.name, kept.history)  # it may have been forced then
                return kept
        prepared = predictor.prepare(case, part.given)
        if SEGMENTATION in predictor.run.method.needs and prepared.segmentation is None:
            prepared = replace(prepared, segmentation=np.zeros(prepared.mask.shape, np.int32))  # a brain without lesion
        return prepared

    def predict(self, case: Case, read: Sequence[_Read]) -> list[tuple[_Part, Prediction]]:
        """Predict what was read.

        Raises:
            DataError: the prediction is not finite.
        """
        return [(part, ready if isinstance(ready, Prediction) else self._predict(case, part, ready)) for part, ready in read]

    def _predict(self, case: Case, part: _Part, prepared: PreparedCase) -> Prediction:
        if self.predictor.keep is None:
            return self.predictor(prepared, part.wanted, part.maps)
        return self.predictor.of(case, part.given, (), part.maps, prepared)[1]

    def write(self, case: Case, outputs: Mapping[str, Path], predicted: Sequence[tuple[_Part, Prediction]]) -> _Written:
        """Write all results of a case; returns what there is to say of it.

        Raises:
            DataError: an output cannot be written.
        """
        from synthmr.io.nifti import load_header

        told: list[str] = []
        outside: dict[Alarm, None] = {}
        made = {name for part, _ in predicted for name in part.wanted}
        for number, (part, prediction) in enumerate(predicted):
            headers = {name: load_header(case.image(name), f"{name} of case {case.name}") for name in part.given}
            odd = [f"{name}: {note}" for name, header in headers.items() for note in header.notes]
            odd += [background.words(name, params) for name, params in background.steps(prediction.history).items()]
            notes = tuple(dict.fromkeys([*odd, *(step["notice"] for step in prediction.history if step.get("notice"))]))
            alarms = self.predictor.alarms(case.name, prediction.history)
            outside |= dict.fromkeys(alarms)
            told += notes
            names = [*part.wanted, *(name for name in outputs if name not in made and number == 0)]
            for contrast in names:
                write_prediction(
                    prediction,
                    contrast,
                    outputs[contrast],
                    headers[part.given[0]],
                    method=self.predictor.config.method,
                    inputs=self.inputs(case, part),
                    intensity=self.intensity,
                    brightness=self._brightness(contrast, part),
                    notes=notes,
                    alarms=alarms,
                    more={
                        # the truth's normaliser needs it too, where the file is scored
                        "percentile": self.predictor.config.prepare.percentile,
                        **({"lesion_mask": NO_LESION} if str(self.lesion) == NO_LESION else {}),
                    },
                )
        return _Written(tuple(dict.fromkeys(told)), tuple(outside))

    def _brightness(self, contrast: str, part: _Part) -> Brightness | None:
        """What the run learnt for these sources; of several runs each has its own, and the prediction the mean of their factors."""
        runs = self.predictor.runs
        return brightness_of(runs[0].brightness, contrast, part.given) if len(runs) == 1 else None

    def _is_done(self, case: Case, outputs: Mapping[str, Path]) -> bool:
        """Whether all results are there and stem from this run, these settings and these inputs.

        Raises:
            DataError: something else is in the way.
        """
        there = {name: path for name, path in outputs.items() if path.exists()}
        parts = self.parts(case)
        by_name = {name: part for part in parts for name in part.wanted}
        for name, path in there.items():
            identity = self._identity(case, by_name.get(name, parts[0]), name)
            reason = difference(path, identity, self.predictor.config.sample.plane)
            if reason:
                raise DataError(f"{path} exists {reason}; --overwrite replaces it, another --out keeps it.")
        return len(there) == len(outputs)

    def _identity(self, case: Case, part: _Part, contrast: str) -> dict[str, Any]:
        """The part of a sidecar that decides whether a result is the one asked for."""
        from synthmr.io.files import sha256

        predictor = self.predictor
        brightness = self._brightness(contrast, part) if self.intensity == "normalized" else None
        return {
            "run_hash": "+".join(run.hash for run in predictor.runs),
            "inputs": {name: sha256(path) for name, path in self.inputs(case, part).items()},
            "intensity": self.intensity,
            "inference": {**plain(asdict(predictor.settings)), "plane": predictor.plane},
            "brightness": {} if brightness is None else asdict(brightness),
        }
