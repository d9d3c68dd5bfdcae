"""Checkpoints: weights, their average and the optimisers' state as safetensors, the counters as JSON. Never pickle."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from synthmr.documents import read_json_object
from synthmr.errors import DataError, RunError
from synthmr.run import AVERAGE, STATE, WEIGHTS, RunFolder, check_file, load_state, method_state, read_arrays, save_arrays, swapped

OPTIMIZER = "optimizer.safetensors"


@dataclass
class State:
    """The counters of a run.

    Attributes:
        step: steps done.
        elapsed: seconds of training, over all sessions.
        stepping: seconds of that in steps: waiting for data included, validations and checkpoints not.
        waited: seconds of that spent waiting for data.
        validating: seconds of validations.
        best: best validation score; None before the first.
        best_step: its step.
        best_moment: the share of the training that was done then.
        stale: validations since.
        mark: validations that were due so far, see `synthmr.train.schedule.Budget.mark`.
        scores: validation case -> score, of the best.
        validated: the step of the last validation.
        whole: whether validations see whole cases; None before the first, and in older runs.
        files: file of the checkpoint -> its SHA-256.
    """

    step: int = 0
    elapsed: float = 0.0
    stepping: float = 0.0
    waited: float = 0.0
    validating: float = 0.0
    best: float | None = None
    best_step: int = 0
    best_moment: float = 0.0
    stale: int = 0
    mark: int = 0
    scores: dict[str, float] = field(default_factory=dict)
    validated: int = 0
    whole: bool | None = None
    files: dict[str, str] = field(default_factory=dict)


def save_last(
    run: RunFolder,
    method: nn.Module,
    average: nn.Module | None,
    groups: dict[str, list[nn.Parameter]],
    optimizers: dict[str, torch.optim.Optimizer],
    state: State,
) -> None:
    """Write ``checkpoints/last``: all that a resumed run needs.

    Raises:
        DataError: it cannot be written; the one before is kept.
    """
    arrays = {WEIGHTS: method_state(method)}
    if average is not None:
        arrays[AVERAGE] = method_state(average)
    _save(run.place("last"), {**arrays, OPTIMIZER: _optimizer_arrays(method, groups, optimizers)}, state)


def save_best(run: RunFolder, method: object, state: State) -> None:
    """Write ``checkpoints/best``: the weights that are used afterwards.

    Raises:
        DataError: it cannot be written; the one before is kept.
    """
    _save(run.place("best"), {WEIGHTS: method_state(method)}, state)


def _save(place: Path, files: Mapping[str, Mapping[str, np.ndarray]], state: State) -> None:
    """Write files of arrays and the counters, which say what the files are known by."""
    with swapped(place) as folder:
        digests = {name: save_arrays(folder / name, arrays) for name, arrays in files.items()}
        (folder / STATE).write_text(json.dumps(asdict(replace(state, files=digests))), encoding="utf-8")


def lacks_best(run: RunFolder, state: State) -> bool:
    """Whether the best weights are those of this state and are not in ``checkpoints/best``: a kill fell between `save_last` and
    `save_best`."""
    if state.best is None or state.best_step != state.step:
        return False
    try:
        kept = read_json_object(run.checkpoint("best") / STATE)["step"]
    except (DataError, KeyError):
        return True
    return bool(kept != state.step)


def load_last(
    run: RunFolder,
    method: nn.Module,
    average: nn.Module | None,
    groups: dict[str, list[nn.Parameter]],
    optimizers: dict[str, torch.optim.Optimizer],
) -> State:
    """Inverse of `save_last`; a run without a checkpoint starts from its beginning.

    Raises:
        RunError: the checkpoint is damaged or of another configuration.
    """
    folder = run.checkpoint("last")
    if not folder.is_dir():
        return State()
    state = _read_state(folder)
    load_state(method, read_arrays(folder / WEIGHTS), folder / WEIGHTS)
    if average is not None:
        load_state(average, read_arrays(folder / AVERAGE), folder / AVERAGE)
    _load_optimizers(method, groups, optimizers, read_arrays(folder / OPTIMIZER), folder / OPTIMIZER)
    for name in state.files:
        check_file(folder / name)
    return state


def _read_state(folder: Path) -> State:
    """The counters of a checkpoint.

    Raises:
        RunError: they are damaged.
    """
    path = folder / STATE
    try:
        data = read_json_object(path)
        # older runs, which do not note it, were saved after their validations
        state = State(**{"validated": data.get("step"), **data})
        numbers = (
            state.step,
            state.elapsed,
            state.stepping,
            state.waited,
            state.validating,
            state.best_step,
            state.mark,
            state.stale,
        )
        sound = all(isinstance(number, int | float) and math.isfinite(number) and number >= 0 for number in numbers)
        best = state.best is None or isinstance(state.best, int | float)
        if not (
            sound and best and isinstance(state.step, int) and isinstance(state.files, dict) and isinstance(state.scores, dict)
        ):
            raise ValueError("a counter is no number of its kind")
    except (DataError, ValueError, TypeError) as error:
        raise RunError(
            f"{path} of the run is damaged ({' '.join(str(error).split())}); put it back, or remove {folder} to start the run anew."
        ) from None
    return state


def _names(method: nn.Module) -> dict[int, str]:
    return {id(param): name for name, param in method.named_parameters()}


def _optimizer_arrays(
    method: nn.Module, groups: dict[str, list[nn.Parameter]], optimizers: dict[str, torch.optim.Optimizer]
) -> dict[str, np.ndarray]:
    """``group/parameter/quantity`` -> array, for every tensor that an optimiser keeps."""
    names = _names(method)
    return {
        f"{group}/{names[id(param)]}/{key}": value.detach().cpu().contiguous().numpy()
        for group, params in groups.items()
        for param in params
        for key, value in optimizers[group].state.get(param, {}).items()
        if isinstance(value, torch.Tensor)
    }


def _load_optimizers(
    method: nn.Module,
    groups: dict[str, list[nn.Parameter]],
    optimizers: dict[str, torch.optim.Optimizer],
    arrays: dict[str, np.ndarray],
    where: Path,
) -> None:
    names = _names(method)
    params = {f"{group}/{names[id(param)]}": param for group, members in groups.items() for param in members}
    for key, array in arrays.items():
        owner, _, quantity = key.rpartition("/")
        if owner not in params:
            raise RunError(f"{where} holds the state of {owner or key}, which this method lacks; it is of another configuration.")
        param, value = params[owner], torch.from_numpy(array.copy())
        if quantity == "step":
            value = value.to(param.device)  # where fused optimisers want it
        elif value.shape == param.shape:
            # the moments keep the memory order of their parameter, so that a resumed run adds in the same order
            value = torch.empty_like(param, requires_grad=False).copy_(value)
        else:
            shapes = f"{tuple(value.shape)}, not {tuple(param.shape)}"
            raise RunError(f"{where} holds {key} of shape {shapes}; it is of another configuration.")
        optimizers[owner.partition("/")[0]].state[param][quantity] = value
