"""The one training loop. It knows no method: it draws batches, calls ``method.step(batch, update)``, validates and keeps checkpoints.

Determinism: the batch, and torch's generator (dropout), depend on (seed, step, rank) alone; so a run that was killed and
resumed from its last checkpoint reaches the bits of one that was not, on a CPU with the same number of threads.
"""

from __future__ import annotations

import copy
import resource
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synthmr.config import RunConfig, to_dict
from synthmr.data.sampling import Prefetcher, Sampler, case_batch
from synthmr.data.split import Split
from synthmr.data.store import Store
from synthmr.errors import DataError, RunError, UsageError
from synthmr.infer.precision import Precision, resolve_precision
from synthmr.methods.contract import FittedMethod
from synthmr.run import WEIGHTS, RunFolder, build_method, run_hash
from synthmr.train.checkpoint import State, load_last, save_best, save_last
from synthmr.train.info import run_info
from synthmr.train.log import Board, Progress, Silent
from synthmr.train.runtime import Runtime, Updater, same_buffers
from synthmr.train.schedule import Budget, learning_rate
from synthmr.train.validate import slice_figure, validate

LOG_EVERY = 10  # steps
CHECKPOINT_SECONDS = 60.0
VALIDATIONS = 20  # a run, where validate_every does not say


@dataclass(frozen=True)
class TrainResult:
    """What a run reached.

    Attributes:
        method: its name.
        steps: optimisation steps.
        seconds: of training, over all sessions.
        steps_per_s: steps per second, validation included.
        share_waited: share of the seconds spent waiting for data.
        best: best validation score, in-brain PSNR in dB.
        best_step: its step.
        peak_rss_gb: largest resident memory of this process.
        stopped: budget, patience, or fit for a method without steps.
        scores: validation case -> dB, of the weights that are kept.
    """

    method: str
    steps: int
    seconds: float
    steps_per_s: float
    share_waited: float
    best: float
    best_step: int
    peak_rss_gb: float
    stopped: str
    scores: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def describe(self) -> str:
        """One line for a person."""
        head = f"{self.method}: validation PSNR {self.best:.2f} dB in-brain"
        if not self.steps:
            return f"{head}, fitted in {self.seconds:.1f} s"
        return (
            f"{head} (step {self.best_step} of {self.steps}), {self.seconds / 60:.1f} min, {self.steps_per_s:.2f} steps/s,"
            f" {100 * self.share_waited:.1f} % of it waiting for data, stopped by {self.stopped}"
        )


def train(
    config: RunConfig,
    store: Store,
    split: Split,
    out: Path,
    resume: bool = False,
    runtime: Runtime | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Train a method and write its run folder.

    Args:
        config: what to train.
        store: prepared data.
        split: which cases train and validate.
        out: run folder; must not exist, or be an unfinished run with ``resume``.
        resume: continue from the last checkpoint.
        runtime: devices and processes.
        progress: told of every step.

    Raises:
        UsageError: a folder that is in use, or a resumed run of another configuration.
        DataError: the loss is not finite, or the data cannot be sampled.
        RunError: a damaged run.
    """
    store.check(config.sources, config.targets, config.prepare)
    torch.manual_seed(config.seed)
    method = build_method(config)
    if isinstance(method, FittedMethod):
        return _fit(method, config, store, split, out, resume, progress or Silent())
    return _Training(method, config, store, split, out, resume, runtime or Runtime(), progress or Silent()).run()


def _fit(
    method: Any, config: RunConfig, store: Store, split: Split, out: Path, resume: bool, progress: Progress
) -> TrainResult:
    """Methods that are fitted in closed form: one call, no steps."""
    if resume:
        raise UsageError(f"{method.spec.name} is fitted in one go, so there is nothing to resume; train it again into a new folder.")
    start = time.monotonic()
    contrasts = (*config.sources, *config.targets)
    logs = method.fit(lambda: (case_batch(store, name, contrasts) for name in split.train), config.seed)
    device, precision = torch.device("cpu"), Precision("32", False)
    scores = validate(method, store, split.validation, device, precision, method.spec.divisor)
    best = float(np.mean(list(scores.values())))
    seconds = time.monotonic() - start
    run = RunFolder.create(out, config, split, run_info(config, store, split, {}, precision.name, 1))
    save_best(run, method, State(elapsed=seconds, best=best))
    run.log({"step": 0, "seconds": seconds, **logs, "validation": best, "scores": scores})
    progress.on_validation(0, best, best)
    result = TrainResult(config.method, 0, seconds, 0.0, 0.0, best, 0, _peak_gb(), "fit", scores)
    _finish(run, config, result)
    return result


class _Training:
    """The state of one run of a network."""

    def __init__(
        self,
        method: Any,
        config: RunConfig,
        store: Store,
        split: Split,
        out: Path,
        resume: bool,
        runtime: Runtime,
        progress: Progress,
    ) -> None:
        self.config, self.store, self.split, self.out, self.progress = config, store, split, out, progress
        self.fabric = runtime.fabric()
        self.main = bool(self.fabric.is_global_zero)
        self.device = self.fabric.device
        self.precision = resolve_precision(config.train.precision, config.train.channels_last, self.device)
        self.method = method.to(self.device)
        if self.precision.channels_last:
            self.method = self.method.to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.method) if config.train.ema > 0 else None
        self.groups = {name: list(params) for name, params in self.method.groups().items()}
        self.optimizers = {name: self._optimizer(name, params) for name, params in self.groups.items()}
        self.rates = {name: self.method.optimizer_overrides().get(name, {}).get("rate", 1.0) for name in self.groups}
        self.sampler = Sampler(
            store, split.train, config.sources, config.targets, config.sample, config.augment, config.seed,
            divisor=method.spec.divisor, rank=self.fabric.global_rank, world=self.fabric.world_size,
            paired=method.spec.supervision != "unpaired",
        )  # fmt: skip
        self.budget = Budget.of(config.train, self.sampler.steps_per_epoch)
        self.update = Updater(self.fabric, self.groups, self.optimizers, config.train.clip)
        self.folder, self.state = self._open(resume)
        self.board = Board(out / "tensorboard") if config.train.tensorboard and self.main else None
        self.scores: dict[str, float] = {}
        self._saved = time.monotonic()

    def _optimizer(self, name: str, params: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        config = self.config.train
        kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
        own = {key: value for key, value in self.method.optimizer_overrides().get(name, {}).items() if key != "rate"}
        settings = {"lr": config.lr, "betas": (config.beta1, config.beta2), "weight_decay": config.weight_decay, **own}
        return kind(params, fused=True, **settings)

    def _open(self, resume: bool) -> tuple[RunFolder, State]:
        """Make the run folder, or open the one to continue; the first rank alone writes."""
        counts = {name: sum(param.numel() for param in params) for name, params in self.groups.items()}
        if not resume:
            if self.main:
                info = run_info(self.config, self.store, self.split, counts, self.precision.name, self.fabric.world_size)
                RunFolder.create(self.out, self.config, self.split, info)
            self.fabric.barrier()
            return RunFolder(self.out), State()
        folder = RunFolder.open(self.out)
        stored, asked = to_dict(folder.config), to_dict(self.config)
        changed = sorted(key for key in _flat(asked) if _flat(asked)[key] != _flat(stored).get(key))
        if changed:
            raise UsageError(f"{self.out} was started with another {', '.join(changed)}; resume with the same words, or start a new run.")
        info = folder.info
        if info.get("store") != self.store.fingerprint:
            raise UsageError(f"{self.out} was started on other data (their content has changed); start a new run.")
        if info.get("status") == "finished":
            raise UsageError(f"{self.out} is finished; there is nothing to resume. Train into a new folder for more.")
        return folder, load_last(folder, self.method, self.average, self.groups, self.optimizers)

    def run(self) -> TrainResult:
        """Train until the budget or the patience ends."""
        started, before = time.monotonic(), self.state.elapsed
        waited = self.state.waited
        stopped = "budget"
        with Prefetcher(self.sampler, self.state.step, self.budget.steps or None) as batches:
            window: list[dict[str, torch.Tensor]] = []
            for step, batch in batches:
                reached = self._share(self.budget.progress(step, self.state.elapsed))
                if reached >= 1:
                    break
                window.append(self._step(step, batch, reached))
                self.state.step = step + 1
                self.state.elapsed = before + time.monotonic() - started
                self.state.waited = waited + batches.waited
                after = self._share(self.budget.progress(self.state.step, self.state.elapsed))
                if self.state.step % LOG_EVERY == 0 or after >= 1 or self._due(step, reached, after):
                    self._log(window, after)
                    window = []
                if self._due(step, reached, after):
                    self._validate()
                    self.state.elapsed = before + time.monotonic() - started
                    self._save()
                    if self._stale():
                        stopped = "patience"
                        break
                elif self.fabric.world_size == 1 and time.monotonic() - self._saved > CHECKPOINT_SECONDS:
                    self._save()
        self.state.elapsed = before + time.monotonic() - started
        return self._end(stopped)

    def _share(self, progress: float) -> float:
        """The first rank's clock counts, so that all ranks end together."""
        if self.fabric.world_size == 1 or self.budget.steps:
            return progress
        return float(self.fabric.broadcast(progress))

    def _step(self, step: int, batch: Any, reached: float) -> dict[str, torch.Tensor]:
        rate = learning_rate(self.config.train, reached, step)
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = rate * self.rates[name]
        torch.manual_seed(int(np.random.SeedSequence([self.config.seed, step, self.fabric.global_rank]).generate_state(1)[0]))
        self.method.train()
        with self.precision.autocast(self.device):
            logs = self.method.step(batch.to(self.device, self.precision.channels_last), self.update)
        if self.average is not None:
            self._follow(step)
        return {name: value.detach() for name, value in logs.items()}

    @torch.no_grad()
    def _follow(self, step: int) -> None:
        """Move the average towards the weights; early on it follows faster, so that it forgets the random start."""
        decay = min(self.config.train.ema, (step + 1) / (step + 10))
        average = self.average
        if average is None:
            return
        for mine, other in zip(average.parameters(), self.method.parameters(), strict=True):
            mine.lerp_(other, 1 - decay)
        for mine, other in zip(average.buffers(), self.method.buffers(), strict=True):
            if mine.is_floating_point():
                mine.lerp_(other, 1 - decay)
            else:
                mine.copy_(other)

    def _due(self, step: int, reached: float, after: float) -> bool:
        """Whether a validation follows this step; the last step is always followed by one."""
        every = self.config.train.validate_every
        if after >= 1:
            return True
        if every:
            return (step + 1) % every == 0
        return int(after * VALIDATIONS) > int(reached * VALIDATIONS)

    def _log(self, window: list[dict[str, torch.Tensor]], after: float) -> None:
        losses = {name: float(torch.stack([logs[name].float() for logs in window]).mean()) for name in window[0]}
        bad = [name for name, value in losses.items() if not np.isfinite(value)]
        if bad:
            raise DataError(
                f"{bad[0]} is {losses[bad[0]]} at step {self.state.step}; the last good checkpoint is kept in {self.out}."
                f" Lower train.lr (now {self.config.train.lr:g}), set train.clip=1, or train with train.precision=32."
            )
        if not self.main:
            return
        state = self.state
        left = state.elapsed / after * (1 - after) if after > 0 else None
        self.progress.on_step(state.step, self.budget.steps or None, after, losses, state.best, left)
        record = {
            "step": state.step,
            **losses,
            "lr": next(iter(self.optimizers.values())).param_groups[0]["lr"],
            "seconds": round(state.elapsed, 3),
            "steps_per_s": state.step / max(state.elapsed, 1e-9),
            "share_waited": state.waited / max(state.elapsed, 1e-9),
        }
        self.folder.log(record)
        if self.board is not None:
            self.board.write(state.step, {**losses, "lr": record["lr"]})

    def _validate(self) -> None:
        """Score the validation cases with the weights that would be kept, and keep them if they are the best."""
        kept = self.average if self.average is not None else self.method
        same_buffers(self.fabric, [self.method] + ([self.average] if self.average is not None else []))
        if self.main:
            kept.eval()
            divisor = self.method.spec.divisor
            scores = validate(kept, self.store, self.split.validation, self.device, self.precision, divisor)
            score = float(np.mean(list(scores.values())))
            state = self.state
            if state.best is None or score > state.best:
                state.best, state.best_step, state.stale = score, state.step, 0
                self.scores = scores
                save_best(self.folder, kept, state)
            else:
                state.stale += 1
            self.folder.log({"step": state.step, "seconds": round(state.elapsed, 3), "validation": score, "scores": scores})
            if self.board is not None:
                self.board.write(state.step, {"validation": score})
            self.progress.on_validation(state.step, score, state.best if state.best is not None else score)
            if self.config.train.images:
                slice_figure(
                    kept, self.store, self.split.validation[0], self.device, self.precision, divisor,
                    self.out / "images" / f"step_{state.step:06d}.png",
                    f"{self.split.validation[0]}, step {state.step}, validation {score:.2f} dB",
                )  # fmt: skip
            kept.train()

    def _stale(self) -> bool:
        patience = self.config.train.patience
        if not patience:
            return False
        return bool(self.fabric.broadcast(self.state.stale >= patience))

    def _save(self) -> None:
        if self.main:
            save_last(self.folder, self.method, self.average, self.groups, self.optimizers, self.state)
        self._saved = time.monotonic()
        self.fabric.barrier()

    def _end(self, stopped: str) -> TrainResult:
        state = self.state
        if state.best is None:
            raise RunError(f"{self.out} ended without a validation; give it a longer budget.")
        seconds = max(state.elapsed, 1e-9)
        result = TrainResult(
            self.config.method, state.step, seconds, state.step / seconds, state.waited / seconds,
            state.best, state.best_step, _peak_gb(), stopped, self.scores,
        )  # fmt: skip
        if self.main:
            _finish(self.folder, self.config, result)
        if self.board is not None:
            self.board.close()
        self.fabric.barrier()
        return result


def _finish(run: RunFolder, config: RunConfig, result: TrainResult) -> None:
    """Write the final summary into the log and ``run.json``."""
    run.log({"finished": True, **result.as_dict()})
    digest = run_hash(config, run.checkpoint("best") / WEIGHTS)
    run.write_info({**run.info, "status": "finished", "hash": digest, "result": result.as_dict()})


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = value
    return out


def _peak_gb() -> float:
    """Largest resident memory of this process so far, in GB (Linux counts KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
