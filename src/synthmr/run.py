"""The run folder: what a training run leaves and what synthesis and evaluation read. JSON, YAML, TSV and safetensors; no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from synthmr.config import RunConfig, config_hash, read_yaml, to_dict
from synthmr.data.split import Split, read_split, write_split
from synthmr.documents import NUMBER, check_shape, parse_json, read_json_object
from synthmr.errors import DataError, RunError, SynthmrError, UsageError, did_you_mean
from synthmr.io.files import finite, sha256, write_error, write_json, write_text
from synthmr.io.swap import heal as heal
from synthmr.io.swap import readable
from synthmr.io.swap import swapped as swapped
from synthmr.io.temporary import is_temporary, sweep
from synthmr.methods import registry
from synthmr.methods.configure import restore_config
from synthmr.methods.contract import FittedMethod
from synthmr.prepare import normalize
from synthmr.prepare.brightness import Brightnesses, from_json
from synthmr.prepare.domain import Domain
from synthmr.prepare.units import Units, units_from_median

#: what ``run.json`` holds, as far as something is made of it; older runs lack some
_INFO: dict[Any, Any] = {
    "status?": str,
    "method?": str,
    "sources?": [str],
    "targets?": [str],
    "training_cases?": [str],
    "target_normalizers?": {str: {"name": str}},
    "target_units?": {str: {"scale": NUMBER, "offset": NUMBER}},
    "landmarks?": {str: dict},
    "brightness?": {str: {str: {"top": NUMBER, "exponent": NUMBER, "percentile": NUMBER}}},
    "processes?": int,
    "data?": str,
    "result?": dict,
    "versions?": dict,
    "machine?": dict,
}

CHECKPOINTS = ("best", "last")
DOMAIN = "domain.json"
WEIGHTS, AVERAGE, STATE = "model.safetensors", "ema.safetensors", "state.json"


@dataclass(frozen=True)
class RunFolder:
    """Paths and small files of a run; `load_run` gives the method itself."""

    path: Path

    @property
    def log_path(self) -> Path:
        """JSON lines."""
        return self.path / "log.jsonl"

    def checkpoint(self, which: str) -> Path:
        """Folder of a checkpoint, ``best`` or ``last``, to read: the one before, where a kill cut a swap off."""
        return readable(self.place(which))

    def place(self, which: str) -> Path:
        """Folder of a checkpoint, ``best`` or ``last``, to write: its plain name, by `swapped`."""
        return self.path / "checkpoints" / which

    @staticmethod
    def create(path: Path, config: RunConfig, split: Split, info: Mapping[str, Any]) -> RunFolder:
        """Make a new run folder; ``run.json``, written last, says that it is one.

        Raises:
            UsageError: ``path`` exists and holds something.
            DataError: it cannot be written.
        """
        refuse_used(path)
        run = RunFolder(path)
        run.write_config(config)
        write_split(path / "split.tsv", split)
        run.write_info(info)
        return run

    def write_config(self, config: RunConfig) -> None:
        """Write ``config.yaml``.

        Raises:
            DataError: it cannot be written.
        """
        import yaml

        write_text(self.path / "config.yaml", yaml.safe_dump(to_dict(config), sort_keys=False))

    @staticmethod
    def open(path: Path) -> RunFolder:
        """Open a run folder.

        Raises:
            RunError: it does not exist, or is no run folder.
        """
        if not path.is_dir():
            raise RunError(f"there is no run folder {path}; `synthmr train ... --out {path}` makes one.")
        for name in ("config.yaml", "split.tsv", "run.json"):
            if not (path / name).is_file():
                raise RunError(f"{path} is no run folder, or a damaged one: {name} is missing.")
        return RunFolder(path)

    @property
    def info(self) -> dict[str, Any]:
        """``run.json``.

        Raises:
            RunError: it is damaged.
        """
        try:
            data = read_json_object(self.path / "run.json")
            check_shape(data, _INFO, "run.json")
            return data
        except DataError as error:
            why = str(error).rstrip(".")
            raise RunError(f"{self.path}/run.json of the run is damaged ({why}); restore it or train again.") from None

    def write_info(self, info: Mapping[str, Any]) -> None:
        """Replace ``run.json``."""
        write_json(self.path / "run.json", to_dict(info))

    @property
    def config(self) -> RunConfig:
        """``config.yaml``.

        Raises:
            RunError: it is damaged, or names a method or key that this installation lacks.
        """
        try:
            data = read_yaml(self.path / "config.yaml")
            return restore_config(registry.load(str(data.get("code") or data.get("method", ""))), data)
        except (SynthmrError, TypeError) as error:
            raise RunError(f"the run {self.path} has a config.yaml that cannot be used: {error}") from None

    @property
    def domain(self) -> Domain | None:
        """What the training cases were like, of ``domain.json``; None for runs of versions that kept nothing of it.

        Raises:
            RunError: it is damaged.
        """
        path = self.path / DOMAIN
        if not path.exists():
            return None
        try:
            return Domain.from_json(read_json_object(path))
        except (DataError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(
                f"{path} of the run is damaged ({' '.join(str(error).split())}); restore it, or delete it: cases are compared with"
                " the training cases no more."
            ) from None

    def write_domain(self, domain: Domain) -> None:
        """Write ``domain.json``.

        Raises:
            DataError: it cannot be written.
        """
        write_json(self.path / DOMAIN, domain.to_json())

    @property
    def split(self) -> Split:
        """``split.tsv``.

        Raises:
            RunError: it is damaged.
        """
        try:
            return read_split(self.path / "split.tsv")
        except SynthmrError as error:
            raise RunError(f"the run {self.path} has a damaged split.tsv: {error}") from None

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one JSON line. NaN and infinity become words, because JSON has no numbers for them.

        Raises:
            DataError: it cannot be written.
        """
        try:
            with self.log_path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(finite(to_dict(record)), allow_nan=False) + "\n")
        except OSError as error:
            raise write_error(self.log_path, error) from None

    def trim_log(self, step: int) -> None:
        """Drop the lines after ``step`` and a line that a kill cut short: the resumed run writes them again."""
        kept = [record for record in self.records() if record.get("step", 0) <= step and not record.get("finished")]
        write_text(self.log_path, "".join(json.dumps(record) + "\n" for record in kept))

    def records(self) -> list[dict[str, Any]]:
        """All log lines; a last line that a kill cut short is passed over."""
        if not self.log_path.is_file():
            return []
        found = []
        for line in self.log_path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = parse_json(line, "log.jsonl")
            except DataError:
                continue
            found += [record] if isinstance(record, dict) else []
        return found


#: what a run folder holds before ``run.json`` says that it is one
_BEGINNINGS = {"config.yaml", "split.tsv"}


def has_begun(path: Path) -> bool:
    """Whether there is a folder that holds more than what a run leaves that was killed before it wrote ``run.json``, or a file.

    Raises:
        DataError: it cannot be looked into.
    """
    try:
        if not path.is_dir():
            return path.exists()
        sweep(path)
        return any(each.name not in _BEGINNINGS and not is_temporary(each.name) for each in path.iterdir())
    except OSError as error:
        raise write_error(path, error) from None


def refuse_used(path: Path) -> None:
    """Check that a new run may be written to ``path``.

    Raises:
        UsageError: it exists and is not empty, nor what is left of a run that was killed before it began.
        DataError: it cannot be looked into.
    """
    if has_begun(path):
        raise UsageError(f"{path} exists and is not empty; give another --out, or continue an unfinished run with --resume.")


def method_state(method: Any) -> dict[str, np.ndarray]:
    """Everything a method has learnt, as named arrays (buffers included)."""
    if isinstance(method, FittedMethod):
        return {name: np.asarray(array) for name, array in method.state().items()}
    return {name: value.detach().cpu().contiguous().numpy() for name, value in method.state_dict().items()}


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> str:
    """Write named arrays as safetensors; the same arrays give the same bytes.

    Returns:
        SHA-256 of the file, in hex.

    Raises:
        OSError: it cannot be written.
    """
    import hashlib

    from safetensors.numpy import save

    # asarray, because ascontiguousarray makes (1,) of the shape () of counters; own writing, because the library's
    # error for a full disk is no OSError
    data = save({name: np.asarray(array, order="C") for name, array in arrays.items()}, metadata=dict(metadata or {}))
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read safetensors.

    Raises:
        RunError: the file is missing, cut short or no safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(path))
    except FileNotFoundError:
        raise RunError(f"{path} is missing: the run has no such checkpoint yet, or is damaged; train it, or resume it.") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise RunError(f"{path} of the run is damaged ({' '.join(str(error).split())}); restore it or train again.") from None


def check_file(path: Path) -> None:
    """Check that a file of a checkpoint is the one that was written there; ``state.json`` beside it says so.

    Raises:
        RunError: it is another. A checkpoint of an older synthmr, which noted nothing, passes.
    """
    try:
        noted = read_json_object(path.parent / STATE)["files"][path.name]
    except (DataError, KeyError, TypeError):
        return
    found = sha256(path)
    if noted != found:
        raise RunError(
            f"{path} is not the file that the run wrote there (its SHA-256 is {found[:12]}..., {STATE} beside it says"
            f" {str(noted)[:12]}...): it was changed, or is of another run; put the file back, or train again."
        )


def _check_hash(folder: RunFolder, config: RunConfig, info: Mapping[str, Any], weights: Path) -> None:
    """Check that a finished run has the settings and weights with which it ended, where ``run.json`` says which those were.

    Raises:
        RunError: it has others.
    """
    noted = info.get("hash")
    # a person may say anew where the class of a method lies (`code`), which changes the hash and nothing else
    if not noted or info.get("status") != "finished" or config.code:
        return
    # as it was written: a newer synthmr may know more settings than the one that trained
    written = config_hash([read_yaml(folder.path / "config.yaml"), sha256(weights)])
    if noted not in (written, run_hash(config, weights)):
        raise RunError(
            f"{weights} or {folder.path / 'config.yaml'} is not what the run ended with (run.json says hash {str(noted)[:12]}, they"
            f" give {written}): one of them was changed, or is of another run; put the file back, or train again."
        )


def load_state(method: Any, state: Mapping[str, np.ndarray], where: Path) -> None:
    """Give a method what it learnt.

    Raises:
        RunError: the arrays are not this method's: names, shapes or types differ.
    """
    import torch

    problem = ""
    if isinstance(method, FittedMethod):
        try:
            method.load_state(state)
            problem = _difference(method_state(method), state)
        except (KeyError, ValueError, IndexError, TypeError) as error:
            problem = f"{type(error).__name__}: {error}"
    else:
        problem = _difference(method_state(method), state)
        if not problem:
            method.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in state.items()})
    if problem:
        name = method.spec.name
        raise RunError(f"{where} does not hold weights of this {name} ({problem}); they are of another method or configuration.")


def _difference(own: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray]) -> str:
    """Where two states differ in names, shapes or types; empty if nowhere."""
    for name in sorted(set(own) ^ set(given)):
        return f"{name} is {'missing' if name in own else 'unknown'}"
    for name in own:
        if own[name].shape != given[name].shape:
            return f"{name} has shape {given[name].shape}, not {own[name].shape}"
        if own[name].dtype != given[name].dtype:
            return f"{name} is {given[name].dtype}, not {own[name].dtype}"
    return ""


@dataclass(frozen=True, eq=False)
class LoadedRun:
    """A run that can predict.

    Attributes:
        folder: where it is.
        method: rebuilt, with weights, in evaluation mode.
        config: its configuration.
        split: its split.
        info: ``run.json``.
        hash: of configuration and weights: the run's name in every sidecar.
    """

    folder: RunFolder
    method: Any
    config: RunConfig
    split: Split
    info: Mapping[str, Any]
    hash: str

    @property
    def landmarks(self) -> Mapping[str, Mapping[str, Any]]:
        """nyul landmarks, contrast -> landmarks."""
        return dict(self.info.get("landmarks", {}))

    @cached_property
    def domain(self) -> Domain | None:
        """What the training cases were like; None where the run does not say.

        Raises:
            RunError: ``domain.json`` is damaged.
        """
        return self.folder.domain

    @property
    def brightness(self) -> Brightnesses:
        """How predicted volumes are brought to their brightness.

        Raises:
            RunError: ``run.json`` is damaged.
        """
        try:
            return from_json(self.info.get("brightness", self.info.get("levels", {})))  # levels: the word of older runs
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError(f"{self.folder.path}/run.json has damaged brightness ({error!r}); restore it or train again.") from None

    @property
    def units(self) -> Mapping[str, Units]:
        """contrast -> how its normalised values become the scale 0 (background) to 1 (top of the range).

        Raises:
            RunError: ``run.json`` is damaged.
        """
        noted = self.info.get("target_units", {})
        try:
            return {
                name: Units.from_dict(noted[name]) if name in noted else units_from_median(params)
                for name, params in self.target_normalizers.items()
            }
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(
                f"{self.folder.path}/run.json has damaged target_units ({error!r}); restore it or train again."
            ) from None

    @property
    def target_normalizers(self) -> Mapping[str, dict[str, Any]]:
        """contrast -> the median of the training cases' normaliser parameters."""
        return dict(self.info["target_normalizers"])


def build_method(config: RunConfig) -> Any:
    """A fresh method of a configuration; the caller seeds torch."""
    return registry.load(config.method_word)(config.options, config.sources, config.targets)


def run_hash(config: RunConfig, weights: Path) -> str:
    """Twelve hex digits that change with the configuration or any weight."""
    return config_hash([to_dict(config), sha256(weights)])


def load_run(path: Path, which: str = "best") -> LoadedRun:
    """Load a run for prediction.

    Args:
        path: run folder.
        which: best (by validation) or last; of both, the averaged weights where the run kept an average.

    Raises:
        UsageError: ``which`` is neither.
        RunError: no run, a damaged one, one without a checkpoint, or weights that are not those that it wrote.
    """
    folder = RunFolder.open(path)
    config, split, info = folder.config, folder.split, folder.info
    if which not in CHECKPOINTS:
        raise UsageError(f"unknown checkpoint {which!r}: {did_you_mean(which, CHECKPOINTS)}")
    weights = folder.checkpoint(which) / WEIGHTS
    if which == "last" and (weights.parent / AVERAGE).is_file():
        weights = weights.parent / AVERAGE
    if not weights.is_file():
        raise RunError(
            f"the run {path} has no {which} checkpoint (status: {info.get('status', 'unknown')}); continue it with"
            " `synthmr train ... --resume`, or train it again."
        )
    state = read_arrays(weights)
    method = build_method(config)
    load_state(method, state, weights)
    check_file(weights)
    if which == "best":
        _check_hash(folder, config, info, weights)
    if not isinstance(method, FittedMethod):
        method.eval()
    if "target_normalizers" not in info:
        raise RunError(f"{path}/run.json lacks target_normalizers; the run is damaged, train it again.")
    for name in config.targets:
        _check_normalizer(info["target_normalizers"].get(name, {}), f"{path}/run.json: target_normalizers of {name}")
    return LoadedRun(folder, method, config, split, info, run_hash(config, weights))


def _check_normalizer(params: Mapping[str, Any], where: str) -> None:
    """Check what somebody may have edited: that predictions can be brought back to scanner units.

    Raises:
        RunError: a parameter is missing, or is no number that can be one.
    """
    try:
        with np.errstate(all="ignore"):
            values = [*normalize.invert(np.array([-1.0, 1.0]), params), normalize.background(params), normalize.top(params)]
        if not np.isfinite(np.asarray(values, float)).all():
            raise ValueError("it gives no number")
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise RunError(f"{where} are damaged ({type(error).__name__}: {error}); restore the file or train again.") from None
