"""Checkpoints: weights, their average and the optimisers' state as safetensors, the counters as JSON. Never pickle."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from synthmr.documents import read_json_object
from synthmr.errors import DataError, RunError
from synthmr.run import AVERAGE, WEIGHTS, RunFolder, load_state, method_state, read_arrays, save_arrays, swapped

OPTIMIZER, STATE = "optimizer.safetensors", "state.json"


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


def save_last(
    run: RunFolder,
    method: nn.Module,
    average: nn.Module | None,
    groups: dict[str, list[nn.Parameter]],
    optimizers: dict[str, torch.optim.Optimizer],
    state: State,
) -> None:
    """Write ``checkpoints/last``: all that a resumed run needs."""
    with swapped(run.checkpoint("last")) as folder:
        save_arrays(folder / WEIGHTS, method_state(method))
        if average is not None:
            save_arrays(folder / AVERAGE, method_state(average))
        save_arrays(folder / OPTIMIZER, _optimizer_arrays(method, groups, optimizers))
        (folder / STATE).write_text(json.dumps(asdict(state)), encoding="utf-8")


def save_best(run: RunFolder, method: object, state: State) -> None:
    """Write ``checkpoints/best``: the weights that are used afterwards."""
    with swapped(run.checkpoint("best")) as folder:
        save_arrays(folder / WEIGHTS, method_state(method))
        (folder / STATE).write_text(json.dumps(asdict(state)), encoding="utf-8")


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
    load_state(method, read_arrays(folder / WEIGHTS), folder / WEIGHTS)
    if average is not None:
        load_state(average, read_arrays(folder / AVERAGE), folder / AVERAGE)
    _load_optimizers(method, groups, optimizers, read_arrays(folder / OPTIMIZER), folder / OPTIMIZER)
    try:
        return State(**read_json_object(folder / STATE))
    except (DataError, TypeError) as error:
        raise RunError(f"{folder / STATE} of the run is damaged ({error}); remove {folder} to start the run anew.") from None


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
