"""Open a run and write what it predicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from synthmr.contrasts import parse_files, split_words
from synthmr.errors import UsageError, did_you_mean
from synthmr.pipeline.cohort import index
from synthmr.reading import Reading

if TYPE_CHECKING:
    from synthmr.pipeline.ticks import Tick
    from synthmr.predict.cohort import Summary
    from synthmr.predict.predictor import Predictor
    from synthmr.predict.settings import PredictSettings
    from synthmr.prepare.domain import Alarm


def predict_settings(
    mode: str = "slices", patch: int = 128, overlap: float = 0.5, precision: str = "auto", plane: str = ""
) -> PredictSettings:
    """How volumes are predicted, checked.

    Raises:
        UsageError: an unknown mode, precision or plane, or an overlap outside [0, 1).
    """
    from synthmr.predict.settings import PredictSettings

    for word, value, allowed in (("--mode", mode, ("slices", "patches")), ("--precision", precision, ("auto", "32", "bf16"))):
        if value not in allowed:
            raise UsageError(f"{word} {value!r}: {did_you_mean(value, allowed)}")
    if not 0 <= overlap < 1 or patch < 16:
        raise UsageError(f"--patch {patch} --overlap {overlap:g}: a patch has at least 16 voxels and an overlap in [0, 1).")
    return PredictSettings(mode=mode, patch=(patch, patch), overlap=overlap, precision=precision, plane=plane)


def predictor_of(
    run: Path, settings: PredictSettings | None = None, device: str = "auto", keep: bool = True, force: bool = False
) -> Predictor:
    """A run that predicts.

    Args:
        run: its folder.
        settings: how volumes are predicted.
        device: auto, cpu, cuda, cuda:N or mps; a UsageError tells that there is none before the run is read.
        keep: keep predictions beside the run (or in the cache) for the next time, and take those that are kept.
        force: predict from images too that are certainly not what the run was trained on.
    """
    from synthmr.predict.keep import Keep
    from synthmr.predict.precision import resolve_device
    from synthmr.predict.predictor import Predictor
    from synthmr.run import load_run

    resolve_device(device)
    return Predictor(load_run(run), settings or predict_settings(), device, Keep.of_run(run) if keep else None, force)


def synthesize_files(
    run: Path,
    pairs: Sequence[str],
    output: Path,
    mask: Path | None = None,
    intensity: str = "scanner",
    settings: PredictSettings | None = None,
    overwrite: bool = False,
    reading: Reading | None = None,
    maps: Sequence[str] = (),
    lesion: Path | None = None,
    device: str = "auto",
    keep: bool = True,
    say: Callable[[str], None] | None = None,
    force: bool = False,
    warn: Callable[[Alarm], None] | None = None,
) -> list[Path]:
    """Synthesise from ``CONTRAST=file`` words into one file (a file a target where the run has several)."""
    from synthmr.predict import cohort

    files = parse_files(pairs, (reading or Reading()).known)
    return cohort.synthesize_files(
        predictor_of(run, settings, device, keep, force),
        files,
        output,
        mask=mask,
        intensity=intensity,
        overwrite=overwrite,
        maps=split_words(maps),
        lesion=lesion,
        say=say,
        nan_to_zero=reading.nan_to_zero if reading is not None else False,
        warn=warn,
    )


def synthesize_cohort(
    run: Path,
    data: Path,
    out: Path,
    intensity: str = "scanner",
    settings: PredictSettings | None = None,
    overwrite: bool = False,
    split: str = "",
    reading: Reading | None = None,
    maps: Sequence[str] = (),
    lesion: Path | None = None,
    progress: Tick | None = None,
    device: str = "auto",
    keep: bool = True,
    force: bool = False,
) -> Summary:
    """Synthesise every case of a cohort (or of one part of its split); skip what is done, survive a bad case."""
    from dataclasses import replace

    from synthmr.predict.cohort import synthesize_cohort as synthesize
    from synthmr.predictions import select, split_of

    predictor = predictor_of(run, settings, device, keep, force)
    cohort = index(data, reading)
    if split:
        cohort = replace(cohort, cases=tuple(select(cohort, split_of(cohort, predictor.run.split, reading), split)))
    return synthesize(
        predictor,
        cohort,
        out,
        intensity=intensity,
        overwrite=overwrite,
        maps=split_words(maps),
        lesion=lesion,
        progress=progress,
    )
