"""Synthetic volumes on disk: scanner units, the source's grid, a sidecar that says where they come from.

A result is named ``OUT/<case>_desc-synth_<CONTRAST>.nii.gz`` (a valid BIDS derivative name where the case is
``sub-01_ses-02``) with ``.json`` beside it. Image and sidecar appear together or not at all. A result counts as done if
its sidecar names the same run, settings and input checksums and the image still has the checksum written there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synthmr.case import Case, Cohort, PreparedCase, Volume
from synthmr.contrasts import MASK, SEGMENTATION, squeeze
from synthmr.errors import DataError, SynthmrError, UsageError, did_you_mean
from synthmr.predict.frame import Frame
from synthmr.predict.precision import best_device, resolve_precision
from synthmr.predict.predictor import PredictSettings, predict_case
from synthmr.prepare.brightness import Brightness, brightness_of, correct_brightness

if TYPE_CHECKING:
    from synthmr.run import LoadedRun

INTENSITIES = ("scanner", "normalized")

#: the word that stands for an empty lesion mask
NO_LESION = "none"

#: intensity -> what a voxel's value means, for the sidecar
UNITS = {
    "scanner": "scanner-like units: the gain is the median over the training cases, not this scanner's; background 0",
    "normalized": "the target normaliser's range mapped to 0 (background) .. 1 (top), not clipped: the units of `synthmr evaluate`",
}


@dataclass(frozen=True)
class Summary:
    """What a cohort synthesis did.

    Attributes:
        done: cases that were written.
        skipped: cases whose results were there already.
        failed: case -> why.
        notes: case -> what is odd about its files (sform against qform, a mask that was guessed, ...).
    """

    done: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def output_path(out: Path, case: str, contrast: str) -> Path:
    """Where a cohort's result goes."""
    what, _, source = contrast.partition("-")
    if source:  # a map of a method: attention-T1w, fusion-T2w; its name must not make it an acquired T1w
        return out / f"{case}_rec-{what.replace('_', '')}_desc-synth_{source}.nii.gz"
    return out / f"{case}_desc-synth_{'dseg' if contrast == SEGMENTATION else contrast}.nii.gz"


def synthesize_files(
    run: LoadedRun,
    files: Mapping[str, Path],
    output: Path,
    mask: Path | None = None,
    intensity: str = "scanner",
    settings: PredictSettings | None = None,
    overwrite: bool = False,
    maps: Sequence[str] = (),
    lesion: Path | None = None,
) -> list[Path]:
    """Synthesise from single files.

    Args:
        run: trained.
        files: contrast -> file.
        output: file to write; where the run has several targets, ``_CONTRAST`` is put before the suffix of each.
        mask: brain mask on the same grid.
        intensity: scanner or normalized.
        settings: how to predict.
        overwrite: replace what is there. Without it a result that is done already is left as it is.
        maps: maps to write too, of ``spec.maps``; ``synth-`` and their names are put before the suffix.
        lesion: for runs that read a lesion mask: the mask, or the path ``none`` for no lesion.

    Returns:
        The images, one a target, then the maps.

    Raises:
        UsageError: a contrast too many or too few, an output that is an input or exists, or an unknown word.
        DataError: an input that cannot be used, or an output that cannot be written.
    """
    from synthmr.io.index import index_files
    from synthmr.io.nifti import stem

    spec, config = run.method.spec, run.config
    extra = [name for name in files if name not in config.sources]
    if extra:
        raise UsageError(f"this run takes {', '.join(config.sources)} and was given {', '.join(extra)} too; leave that out.")
    absent = [name for name in config.sources if name not in files]
    if absent and not spec.any_subset:
        raise UsageError(f"this run of {spec.name} needs {', '.join(absent)} too; add {absent[0]}=FILE.")
    given = {**files, **({MASK: mask} if mask is not None else {})}
    case = index_files(given, {squeeze(name): name for name in files}, name=stem(output))
    outputs = {config.targets[0]: output}
    if len(config.targets) > 1:
        suffix = output.name[len(stem(output)) :]
        outputs = {name: output.with_name(f"{stem(output)}_{name}{suffix}") for name in config.targets}
    job = _Job(run, intensity, settings or PredictSettings(), overwrite, maps, lesion)
    case = job.with_lesion(case)
    suffix = output.name[len(stem(output)) :]
    outputs |= {label: output.with_name(f"{stem(output)}_synth-{label}{suffix}") for label in job.labels(case)}
    job.check_outputs(case, outputs)
    if not job.is_done(case, outputs):
        job.synthesize(case, outputs)
    return list(outputs.values())


def synthesize_cohort(
    run: LoadedRun,
    cohort: Cohort,
    out: Path,
    intensity: str = "scanner",
    settings: PredictSettings | None = None,
    overwrite: bool = False,
    maps: Sequence[str] = (),
    lesion: Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Summary:
    """Synthesise every case of a cohort; a case that fails does not stop the others.

    Args:
        run: trained.
        cohort: its cases need the run's sources; other contrasts are not read.
        out: folder for the results; made if it is not there.
        intensity: scanner or normalized.
        settings: how to predict.
        overwrite: make everything again. Without it, results that are done are skipped, and a file that is in the way
            of another result fails the case.
        maps: maps to write too, of ``spec.maps``.
        lesion: for runs that read a lesion mask: one mask for all cases instead of their own, or the path ``none``.
        progress: called as ``progress(done, total, case)``.

    Raises:
        UsageError: an unknown word, or an output that is an input.
        DataError: ``out`` cannot be written to.
    """
    job = _Job(run, intensity, settings or PredictSettings(), overwrite, maps, lesion)
    cases = [job.with_lesion(case) for case in cohort.cases]
    plans = {
        case.name: {name: output_path(out, case.name, name) for name in (*run.config.targets, *job.labels(case))} for case in cases
    }
    for case in cases:
        job.check_outputs(case, plans[case.name])
    _make_folder(out)
    done, skipped, failed, notes = [], [], {}, {}
    for number, case in enumerate(cases):
        if progress is not None:
            progress(number, len(cohort.cases), case.name)
        try:
            if job.is_done(case, plans[case.name]):
                skipped.append(case.name)
                continue
            remarks = job.synthesize(case, plans[case.name])
            done.append(case.name)
            if remarks:
                notes[case.name] = remarks
        except (SynthmrError, OSError, RuntimeError, MemoryError) as error:
            # torch reports memory that ran out as RuntimeError
            failed[case.name] = " ".join(str(error).split()) or type(error).__name__
    if progress is not None:
        progress(len(cohort.cases), len(cohort.cases), "")
    return Summary(tuple(done), tuple(skipped), failed, notes)


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


class _Job:
    """What all cases of one call share."""

    def __init__(
        self,
        run: LoadedRun,
        intensity: str,
        settings: PredictSettings,
        overwrite: bool,
        maps: Sequence[str] = (),
        lesion: Path | None = None,
    ) -> None:
        from synthmr.methods.contract import NeuralMethod
        from synthmr.predict.maps import check_maps

        check_maps(run.method, maps)
        if lesion is not None and SEGMENTATION not in run.method.needs:
            raise UsageError(
                f"this run of {run.method.spec.name} reads no lesion mask; train milr with --set options.lesion_mask=true for one."
            )
        if lesion is not None and str(lesion) != NO_LESION and not lesion.is_file():
            raise DataError(f"no such lesion mask: {lesion}. Check the path, or give --lesion-mask none for no lesion.")
        self.maps, self.lesion = tuple(maps), lesion
        self.plane = settings.plane or run.config.prepare.plane
        self.frame = Frame.of(run.config.sample)
        if intensity not in INTENSITIES:
            raise UsageError(f"unknown intensity {intensity!r}: {did_you_mean(intensity, INTENSITIES)}")
        self.run, self.intensity, self.settings, self.overwrite = run, intensity, settings, overwrite
        self.device = best_device() if isinstance(run.method, NeuralMethod) else "cpu"
        # refuse wrong words before anything is read
        self.precision = resolve_precision(settings.precision, settings.channels_last, self.device)
        if isinstance(run.method, NeuralMethod):
            run.method.to(self.device)

    def with_lesion(self, case: Case) -> Case:
        """The case with the lesion mask of this call instead of its own; ``none`` takes it away."""
        if self.lesion is None:
            return case
        return replace(case, segmentation=None if str(self.lesion) == NO_LESION else self.lesion)

    def labels(self, case: Case) -> tuple[str, ...]:
        """What the maps of a case are called."""
        from synthmr.predict.maps import labels_of

        given = [name for name in self.run.config.sources if name in case.images]
        return tuple(label for name in self.maps for label in labels_of(self.run.method, name, given))

    def inputs(self, case: Case) -> dict[str, Path]:
        """The files of a case that go in: its sources, then the mask and, for methods that need it, the segmentation.

        Raises:
            DataError: a source that the run cannot do without is missing.
        """
        names = self.run.config.sources
        if self.run.method.spec.any_subset:
            names = tuple(name for name in names if name in case.images)
            if not names:
                raise DataError(
                    f"case {case.name} has none of {', '.join(self.run.config.sources)}, of which this run needs one or more;"
                    f" it has {', '.join(case.images) or 'nothing'}. Add a file, or leave the case out."
                )
        files = {name: case.image(name) for name in names}
        if case.mask is not None:
            files[MASK] = case.mask
        if SEGMENTATION in self.run.method.needs:
            if case.segmentation is not None:
                files[SEGMENTATION] = case.segmentation
            elif self.lesion is None:
                raise DataError(
                    f"case {case.name} has no segmentation, which this run reads as its lesion mask; give --lesion-mask FILE, or"
                    " --lesion-mask none for a brain without lesion."
                )
        return files

    def check_outputs(self, case: Case, outputs: Mapping[str, Path]) -> None:
        """Refuse to write over anything that a case consists of.

        Raises:
            UsageError: an output is an input, or no NIfTI name.
        """
        from synthmr.io.nifti import check_output

        labels = [path for path in (case.mask, case.segmentation) if path is not None]
        for path in outputs.values():
            check_output(path, [*case.images.values(), *labels])

    def is_done(self, case: Case, outputs: Mapping[str, Path]) -> bool:
        """Whether all results are there and stem from this run, these settings and these inputs.

        Raises:
            DataError: something else is in the way, and `overwrite` is off.
        """
        if self.overwrite:
            return False
        there = {name: path for name, path in outputs.items() if path.exists()}
        if not there:
            return False
        expected = self._identity(case)
        sources = [name for name in self.inputs(case) if name not in (MASK, SEGMENTATION)]
        for name, path in there.items():
            brightness = self._brightness(name, sources)
            reason = _difference(path, {**expected, "brightness": {} if brightness is None else asdict(brightness)})
            if reason:
                raise DataError(f"{path} exists {reason}; --overwrite replaces it, another --out keeps it.")
        return len(there) == len(outputs)

    def _brightness(self, contrast: str, sources: Sequence[str]) -> Brightness | None:
        """Brightnesses belong to normalised units; in scanner units the case's own gain, which is not known, would undo them."""
        return brightness_of(self.run.brightness, contrast, sources) if self.intensity == "normalized" else None

    def _identity(self, case: Case) -> dict[str, Any]:
        """The part of a sidecar that decides whether a result is the one asked for."""
        from synthmr.io.files import sha256

        return {
            "run_hash": self.run.hash,
            "inputs": {name: sha256(path) for name, path in self.inputs(case).items()},
            "intensity": self.intensity,
            "inference": _plain(asdict(self.settings)),
        }

    def synthesize(self, case: Case, outputs: Mapping[str, Path]) -> tuple[str, ...]:
        """Predict and write all targets of a case; returns what is odd about its files.

        Raises:
            DataError: an input cannot be used, the prediction is not finite, or an output cannot be written.
        """
        from synthmr.prepare.case import load_case, prepare_images, restore

        config = self.run.config
        files = self.inputs(case)
        names = [name for name in files if name not in (MASK, SEGMENTATION)]
        volumes, mask, labels = load_case(case, names, SEGMENTATION in files)
        if SEGMENTATION in self.run.method.needs and labels is None:
            labels = replace(volumes[names[0]], array=np.zeros_like(volumes[names[0]].array))
        prepared = prepare_images(volumes, config.prepare, config.targets, mask, labels, self.run.landmarks, case.name)
        targets = tuple(name for name in outputs if name in config.targets)
        normalizers = self.run.target_normalizers
        predicted = predict_case(self.run.method, prepared, targets, self.plane, self.settings, normalizers, self.frame)
        maps = self._maps(prepared)
        like = volumes[names[0]]
        notes = _notes(volumes, prepared)
        for contrast, path in outputs.items():
            corrected: dict[str, Any] = {}
            if contrast in predicted:
                params, brightness = normalizers[contrast], self._brightness(contrast, names)
                image, factor = correct_brightness(predicted[contrast], prepared.mask, params, brightness)
                array = to_disk_units(image, prepared, params, self.intensity)
                corrected = {} if brightness is None else {"brightness": {**asdict(brightness), "factor": factor}}
            else:
                array = restore(maps[contrast], prepared)
            self._write(path, array, like, case, contrast, files, notes, corrected)
        return notes

    def _maps(self, prepared: PreparedCase) -> dict[str, np.ndarray]:
        """The maps that were asked for: label -> ``(X, Y, Z)`` on the prepared grid, a segmentation in BraTS labels."""
        from synthmr.evaluate.segmentation import keep_largest_tumour
        from synthmr.labels import to_brats
        from synthmr.predict.maps import predict_map

        found: dict[str, np.ndarray] = {}
        for name in self.maps:
            found |= predict_map(
                self.run.method, prepared, name, self.plane, self.settings, self.run.target_normalizers, self.frame
            )
        if SEGMENTATION in found:
            found[SEGMENTATION] = to_brats(keep_largest_tumour(found[SEGMENTATION]))
        return found

    def _units(self, contrast: str) -> dict[str, Any]:
        """What a voxel's value means, for the sidecar."""
        if contrast == SEGMENTATION:
            return {"units": "labels: 1 necrosis and non-enhancing, 2 edema, 4 enhancing; largest component of the whole tumour"}
        if contrast not in self.run.target_normalizers:
            if contrast.startswith("pseudo_target"):
                return {"units": "normalised units of the target, as the network sees them; 0 outside the brain"}
            return {"units": "a share between 0 and 1; the shares of all sources add up to 1 inside the brain"}
        return {"units": UNITS[self.intensity], "target_normalizer": dict(self.run.target_normalizers[contrast])}

    def _write(
        self,
        path: Path,
        array: np.ndarray,
        like: Volume,
        case: Case,
        contrast: str,
        files: Mapping[str, Path],
        notes: Iterable[str],
        corrected: Mapping[str, Any],
    ) -> None:
        """Write image and sidecar so that a reader finds both or neither.

        Raises:
            DataError: they cannot be written.
        """
        from synthmr.io.files import atomic, sha256
        from synthmr.io.nifti import save
        from synthmr.io.provenance import description, sidecar, write_sidecar

        method = self.run.config.method
        data = sidecar(
            contrast=contrast,
            method=method,
            run_hash=self.run.hash,
            inputs=files,
            case=case.name,
            intensity=self.intensity,
            settings={
                "inference": _plain(asdict(self.settings)),
                **corrected,
                **self._units(contrast),
                **({"lesion_mask": NO_LESION} if str(self.lesion) == NO_LESION else {}),
                "computed_with": {"precision": self.precision.name, "device": str(self.device)},
                "notes": list(notes),
            },
        )
        with atomic(path) as temporary:
            try:
                dtype = "uint8" if contrast == SEGMENTATION else "float32"
                save(temporary, array, like, description(method, contrast, self.run.hash), dtype)
            except DataError as error:
                raise DataError(str(error).replace(str(temporary), str(path))) from None
            # the sidecar first, the image by the rename that ends this block: a sidecar whose image is missing or
            # has another checksum is not taken for a result
            write_sidecar(path, {**data, "image_sha256": sha256(temporary)})


def to_disk_units(
    predicted: np.ndarray, prepared: PreparedCase, params: Mapping[str, Any], intensity: str = "scanner"
) -> np.ndarray:
    """A normalised prediction on the prepared grid -> the values and the grid that are written.

    Args:
        predicted: ``(X, Y, Z)`` on the prepared grid, in the target normaliser's units.
        prepared: for the mask and the way back to the source grid.
        params: the run's normaliser parameters of the target (the median over the training cases).
        intensity: scanner (normaliser inverted) or normalized (0 to 1).

    Returns:
        ``(I, J, K)`` float32 in the source's axis order, exactly 0 outside the brain.
    """
    from synthmr.prepare.case import restore
    from synthmr.prepare.normalize import invert, to_unit

    values = invert(predicted, params) if intensity == "scanner" else to_unit(predicted, params)
    return restore(np.where(prepared.mask, values, np.float32(0)).astype(np.float32), prepared, fill=0.0)


def _notes(volumes: Mapping[str, Volume], prepared: PreparedCase) -> tuple[str, ...]:
    """What is odd about the files, each sentence once."""
    odd = [f"{name}: {note}" for name, volume in volumes.items() for note in volume.notes]
    return tuple(dict.fromkeys([*odd, *(step["notice"] for step in prepared.history if step.get("notice"))]))


def _plain(data: Any) -> Any:
    """As it reads back from JSON."""
    return json.loads(json.dumps(data))


def _difference(path: Path, expected: Mapping[str, Any]) -> str:
    """Why the result at ``path`` is not the one expected; empty if it is."""
    from synthmr.io.files import sha256
    from synthmr.io.provenance import sidecar_path

    try:
        data = json.loads(sidecar_path(path).read_text(encoding="utf-8"))
        inputs = {entry["contrast"]: entry["sha256"] for entry in data["inputs"]}
        found = {"run_hash": data["run_hash"], "inputs": inputs, "intensity": data["intensity"]}
        found["inference"] = data["settings"]["inference"]
        found["brightness"] = {key: value for key, value in data["settings"].get("brightness", {}).items() if key != "factor"}
        digest = data["image_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return "without a readable synthmr sidecar"
    words = {
        "run_hash": "another run",
        "inputs": "other input files",
        "intensity": "another intensity scale",
        "brightness": "another brightness",
    }
    for key, value in expected.items():
        if found[key] != value:
            return f"and stems from {words.get(key, 'other inference settings')}"
    return "" if sha256(path) == digest else "and was changed after synthmr wrote it"
