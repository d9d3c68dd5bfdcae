"""Methods that are fitted in closed form, and the end of every training: brightness, scores, the record."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from synthmr.config import RunConfig
from synthmr.data.reader import Reader
from synthmr.data.sampling import case_batch
from synthmr.data.split import Split
from synthmr.methods.contract import NeuralMethod
from synthmr.predict.precision import Precision
from synthmr.predict.predictor import Predictor
from synthmr.prepare.brightness import to_json
from synthmr.run import RunFolder, load_run
from synthmr.stopping import Stopped
from synthmr.train.calibrate import calibrate_brightness
from synthmr.train.checkpoint import State, save_best
from synthmr.train.domain import keep_domain
from synthmr.train.info import run_info
from synthmr.train.log import Progress
from synthmr.train.result import TrainResult, peak_gb
from synthmr.train.validate import slice_figure, validate


def fit(method: Any, config: RunConfig, reader: Reader, split: Split, out: Path, resume: bool, progress: Progress) -> TrainResult:
    """Fit a method and write its run folder: one call, no steps, one process, float32 on the CPU.

    With ``resume``, for a folder that was begun and not finished, it is fitted again.

    Raises:
        DataError: the data cannot be fitted, or the folder cannot be written.
    """
    if resume:
        progress.on_message(f"{out}: {method.spec.name} is fitted in one go; begins again")
    start = time.monotonic()
    contrasts = (*config.sources, *config.targets)
    logs = method.fit(lambda: (case_batch(reader, name, contrasts, plane=config.sample.plane) for name in split.train), config.seed)
    seconds = time.monotonic() - start
    info = run_info(config, reader, split, {}, Precision("32", False), 1)
    if resume:
        run = RunFolder(out)
        run.write_info(info)
        run.trim_log(-1)
    else:
        run = RunFolder.create(out, config, split, info)
    keep_domain(run, reader, split)
    save_best(run, method, State(elapsed=seconds))
    run.log({"step": 0, "seconds": seconds, **logs})
    result = TrainResult(config.method, 0, seconds, 0.0, 0.0, None, 0, peak_gb(), "fit")
    try:
        result = finish(run, config, reader, result)
    except Stopped as stopped:
        raise Stopped(stopped.signum, f"{out} is fitted, and not scored") from None
    progress.on_validation(0, result.psnr, result.psnr, "psnr", "dB")
    return result


def finish(
    run: RunFolder,
    config: RunConfig,
    reader: Reader,
    result: TrainResult,
    old: Sequence[str] = (),
    device: torch.device | str = "cpu",
    say: Callable[[str], None] | None = None,
) -> TrainResult:
    """Learn the brightness of the kept weights' volumes, score them as `synthmr evaluate` will, and write both into the folder.

    Args:
        run: has a best checkpoint.
        config: of the run.
        reader: its data.
        result: what the training reached, without scores.
        old: contrasts of the run that this one extends, see `calibrate_brightness`.
        device: that computes.
        say: is told what takes a moment.

    Returns:
        The result with ``scores``: validation case -> PSNR in dB, protocol masked-volume.
    """
    loaded = load_run(run.path)
    if isinstance(loaded.method, NeuralMethod):
        loaded.method.to(device)
    brightness = to_json(calibrate_brightness(loaded, reader, old, say))
    loaded = replace(loaded, info={**loaded.info, "brightness": brightness})
    if say is not None:
        say(f"scoring the kept weights on {len(loaded.split.validation)} validation cases")
    validated = validate(Predictor(loaded, device=None), reader, loaded.split.validation)
    result = replace(result, scores=validated.scores)
    if config.train.images:
        name = "fit" if result.stopped == "fit" else "kept"
        title = f"{validated.prepared.name}, {loaded.method.spec.name}, validation {validated.score:.2f} dB"
        slice_figure(validated, run.path / "images" / f"{name}.png", title)
    run.log({"finished": True, **result.as_dict()})
    info = {key: value for key, value in run.info.items() if key not in ("error", "levels")}
    run.write_info({**info, "status": "finished", "hash": loaded.hash, "result": result.as_dict(), "brightness": brightness})
    return result
