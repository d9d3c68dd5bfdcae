"""The one training loop. It knows no method: it draws batches, calls ``method.step(batch, update)``, validates, keeps checkpoints.

Determinism: the batch, and torch's generator (dropout), depend on (seed, step, rank) alone; so a run that was killed and
resumed from its last checkpoint reaches the bits of one that was not, on a CPU with the same number of threads.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synthmr import stopping
from synthmr.case import plane_axis
from synthmr.config import RunConfig
from synthmr.data.prefetch import Prefetcher
from synthmr.data.reader import Reader
from synthmr.data.sampling import Sampler
from synthmr.data.split import Split
from synthmr.data.store import Store
from synthmr.errors import DataError, RunError, SynthmrError, UsageError
from synthmr.methods.contract import FittedMethod, is_paired
from synthmr.predict.precision import resolve_precision
from synthmr.predict.predictor import Predictor
from synthmr.predict.settings import PredictSettings
from synthmr.run import CHECKPOINTS, LoadedRun, RunFolder, build_method, has_begun, heal, refuse_used
from synthmr.stopping import Stopped
from synthmr.train.check import check_resumed, continued_words, diverged, labels_in, length_of, reopened, to_length
from synthmr.train.checkpoint import State, lacks_best, load_last, save_best, save_last
from synthmr.train.clock import Clock
from synthmr.train.domain import keep_domain
from synthmr.train.extend import adopt, inherit
from synthmr.train.fit import finish, fit
from synthmr.train.info import run_info
from synthmr.train.log import Board, Progress, Silent, require_tensorboard
from synthmr.train.result import TrainResult, peak_gb
from synthmr.train.runtime import Runtime, Updater, asked_to_stop, check_groups, follow, mean_over_ranks, same_start
from synthmr.train.schedule import Budget, affordable, learning_rate
from synthmr.train.validate import MOST_SLICES, Validated, slice_figure, validate

GPU_LOG_EVERY = 10  # steps: reading a loss makes the CPU wait for the GPU; on a CPU every step is logged
CHECKPOINT_SECONDS = 60.0
VALIDATION_RATIO = 9  # seconds of training for each second of validation, at least, in a run of some minutes


def train(
    config: RunConfig,
    store: Store,
    split: Split,
    out: Path,
    resume: bool = False,
    runtime: Runtime | None = None,
    progress: Progress | None = None,
    extends: LoadedRun | None = None,
) -> TrainResult:
    """Train a method and write its run folder.

    Args:
        config: what to train.
        store: prepared data.
        split: which cases train and validate.
        out: run folder; must not exist or be empty, or with ``resume`` be an unfinished run, or a finished one of a shorter budget.
        resume: continue from the last checkpoint; a run that was killed before it began begins.
        runtime: devices and processes.
        progress: told of every step; only in the first of several processes.
        extends: a run whose weights this one starts from; see `synthmr.train.extend`.

    Returns:
        The same in every process, but for its own memory.

    Raises:
        UsageError: a folder that is in use, a resumed run that is finished or of another configuration, no GPU, ...
        DataError: the loss is not finite, the data cannot be sampled, or the run folder cannot be written.
        RunError: a damaged run.
        Stopped: a signal asked for an end, see `synthmr.stopping`; the step was finished and is in ``checkpoints/last``.
    """
    runtime = runtime or Runtime()
    if config.seed < 0:
        raise UsageError(f"seed={config.seed}: a seed is a whole number of at least 0.")
    if not split.train or not split.validation:
        raise DataError(f"the split ({split.source}) needs at least 1 training and 1 validation case.")
    if config.train.tensorboard:
        require_tensorboard()
    reader = Reader(store, config.prepare, config.sources, config.targets)
    told: Progress = Silent() if progress is None or runtime.worker else progress
    if resume and (has_begun(out) or not out.exists()):
        check_resumed(RunFolder.open(out), config, store, split, runtime.world, extends)
    elif not runtime.worker:
        refuse_used(out)
        if resume:
            told.on_message(f"{out}: no training has begun there; begins")
        resume = False
    # the caller's random numbers are left as they were
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(config.seed)
        method = build_method(config)
        if extends is not None:
            adopt(method, extends)
        if isinstance(method, FittedMethod):
            return fit(method, config, reader, split, out, resume, told)
        try:
            # between the start of several processes and the first step they end together, too
            with stopping.deferred() if runtime.world > 1 else nullcontext():
                return _Training(method, config, reader, split, out, resume, runtime, told, extends).run()
        except RuntimeError as error:
            if runtime.worker:
                raise DataError(f"a training process stopped since the first one did, whose message says why ({error}).") from error
            raise


class _Training:
    """The state of one run of a network."""

    def __init__(
        self,
        method: Any,
        config: RunConfig,
        reader: Reader,
        split: Split,
        out: Path,
        resume: bool,
        runtime: Runtime,
        progress: Progress,
        extends: LoadedRun | None = None,
    ) -> None:
        self.extends = extends
        self.config, self.reader, self.split, self.out, self.progress = config, reader, split, out, progress
        notes = method.check_data(labels_in(method, reader, split))
        check_groups(method, method.groups())
        self.fabric = runtime.fabric()
        self.main = bool(self.fabric.is_global_zero)
        self.device = self.fabric.device
        self.precision = resolve_precision(config.train.precision, config.train.channels_last, self.device)
        self.method = method
        self.precision.place(self.method, self.device)
        self.groups = {name: [p for p in params if p.requires_grad] for name, params in self.method.groups().items()}
        self.optimizers = {name: self._optimizer(name, params) for name, params in self.groups.items()}
        self.rates = {name: self.method.optimizer_overrides().get(name, {}).get("rate", 1.0) for name in self.groups}
        self.sampler = Sampler(
            reader, split.train, config.sample, config.augment, config.seed,
            divisor=method.spec.divisor, rank=self.fabric.global_rank, world=self.fabric.world_size,
            paired=is_paired(method.spec, config.sample), neighbours=method.traits.neighbours, draws=method.draws_subsets,
        )  # fmt: skip
        self.budget, self.whole = self._budget()
        self.update = Updater(self.fabric, self.groups, self.optimizers, config.train.clip)
        self.folder = RunFolder(out)
        self.state = State()
        for note in notes:
            progress.on_message(note)
        self._open(bool(self.fabric.broadcast(resume)), notes)
        self.board = Board(out / "tensorboard", self.state.step) if config.train.tensorboard and self.main else None
        self._saved = time.monotonic()
        self._last_validation = 0.0  # seconds it took
        self._window: list[tuple[int, dict[str, torch.Tensor]]] = []  # steps whose losses were not read yet
        self._log_every = 1 if self.device.type == "cpu" else GPU_LOG_EVERY

    def _budget(self) -> tuple[Budget, bool]:
        """The length of the run, and whether it validates on whole cases."""
        budget = Budget.of(self.config.train, self.sampler.steps_per_epoch)
        shapes = [self.reader.shape(name) for name in self.split.validation]
        whole = sum(math.prod(shape) for shape in shapes)
        slices = [shape[plane_axis(self.config.sample.plane)] for shape in shapes]
        boxes = self.method.traits.dims == 3
        quick = (
            whole
            if boxes
            else sum(math.prod(shape) * min(MOST_SLICES, count) // count for shape, count in zip(shapes, slices, strict=True))
        )
        return affordable(budget, self.config.sample.batch * math.prod(self.sampler.size), quick, whole)

    def _optimizer(self, name: str, params: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        config = self.config.train
        kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
        own = {key: value for key, value in self.method.optimizer_overrides().get(name, {}).items() if key != "rate"}
        settings = {"lr": config.lr, "betas": (config.beta1, config.beta2), "weight_decay": config.weight_decay, **own}
        return kind(params, fused=True, **settings)

    def _open(self, resume: bool, notes: Sequence[str] = ()) -> None:
        """Make the run folder, or read the checkpoint of the one to continue. The first rank alone writes."""
        if not resume:
            same_start(self.fabric, self.method)
            self.average = copy.deepcopy(self.method) if self.config.train.ema > 0 else None
            counts = {name: sum(param.numel() for param in params) for name, params in self.groups.items()}
            if self.main:
                info = run_info(self.config, self.reader, self.split, counts, self.precision, self.fabric.world_size)
                if self.extends is not None:
                    info = inherit(info, self.extends)
                if notes:
                    info["notes"] = list(notes)
                run = RunFolder.create(self.out, self.config, self.split, info)
                keep_domain(run, self.reader, self.split, self.extends)
            self.fabric.barrier()
            return
        self.average = copy.deepcopy(self.method) if self.config.train.ema > 0 else None
        if self.main:
            for which in CHECKPOINTS:
                heal(self.folder.place(which))
        self.fabric.barrier()
        self.state = load_last(self.folder, self.method, self.average, self.groups, self.optimizers)
        info, before = self.folder.info, self.folder.config
        to_length(self.state, self.config, before, self.budget, self.folder)
        self.whole = self.whole if self.state.whole is None else self.state.whole  # else the scores would not compare
        self.fabric.barrier()
        if self.main:
            self.folder.trim_log(self.state.step)
            keep_domain(self.folder, self.reader, self.split, self.extends)
            # first that it is not finished any more, whatever moment a kill hits
            self.folder.write_info(reopened(info, self.extends))
            if length_of(before) != length_of(self.config):
                self.folder.write_config(self.config)
            if lacks_best(self.folder, self.state):
                self._save_best()
            self.progress.on_message(continued_words(self.folder, self.state, self.config, before))

    def run(self) -> TrainResult:
        """Train until the budget or the patience ends; on an error say so in ``run.json`` and keep the last checkpoint."""
        try:
            with stopping.deferred():
                stopped = self._loop()
                return self._end(stopped)
        except SynthmrError as error:
            if self.main:
                with suppress(SynthmrError):  # of a folder that is gone or a disk that is full, the first word counts
                    self.folder.write_info({**self.folder.info, "status": "failed", "error": str(error)})
            raise
        finally:
            if self.board is not None:
                self.board.close()

    def _loop(self) -> str:
        """Take steps; returns why they ended.

        Raises:
            Stopped: a signal asked for an end; the last step is saved.
        """
        state = self.state
        reached, due = self._moment()
        # stopped before its validation, or given a length that is over
        late = state.step != state.validated and (due or reached >= 1)
        if not late and (reached >= 1 or self._stale()):  # killed between its last checkpoint and its end
            return "budget" if reached >= 1 else "patience"
        with Prefetcher(self.sampler, state.step, self.budget.steps or None) as batches:
            clock = Clock(state, batches)
            if late:
                self._check_in(reached, clock)
                reached, _ = self._moment()
                if reached >= 1 or self._stale():
                    return "budget" if reached >= 1 else "patience"
            self._end_if_asked(reached, clock)
            for step, batch in batches:
                self._step(step, batch, reached)
                state.step = step + 1
                clock.stepped()
                reached, due = self._moment()
                self._end_if_asked(reached, clock)
                if due or reached >= 1:
                    self._check_in(reached, clock)
                    if reached < 1 and self._stale():
                        return "patience"
                    reached, _ = self._moment()  # a validation takes time, too
                    if reached >= 1:
                        return "budget"
                elif time.monotonic() - self._saved > CHECKPOINT_SECONDS:
                    # ranks are equal after every step, so the first one needs no other to write a checkpoint
                    self._read(reached)
                    clock.stepped()
                    self._save()
                elif state.step % self._log_every == 0:
                    self._read(reached)
                    clock.stepped()
                clock.paused()
        return "budget"

    def _check_in(self, reached: float, clock: Clock) -> None:
        """Validate, and save the weights and, where they are better, the best.

        Raises:
            Stopped: a signal cut the validation off; what was trained is saved, and a resumed run validates first.
        """
        self._read(reached)
        clock.stepped()
        better, signum = self._validate(reached)
        clock.paused()
        if signum:
            self._stop(signum)
        # in this order, because the best weights can be made from the last, see `lacks_best`
        self._save()
        if better and self.main:
            self._save_best()

    def _end_if_asked(self, reached: float, clock: Clock) -> None:
        """End in good order where a signal asked any process to.

        Raises:
            Stopped: it did; the last step is saved.
        """
        if self.fabric.world_size > 1 and self.state.step % self._log_every:
            return  # all ask each other, which makes a GPU wait
        signum = asked_to_stop(self.fabric)
        if signum:
            self._read(reached)
            clock.stepped()
            self._stop(signum)

    def _stop(self, signum: int) -> None:
        """Save the last step and end, in all processes.

        Raises:
            Stopped: always.
        """
        stopping.taken()
        step = self.state.step
        if step:
            self._save()
        self.fabric.barrier()
        raise Stopped(
            signum, f"{self.out} ends after step {step}, which is saved" if step else f"{self.out} ends before its first step"
        )

    def _moment(self) -> tuple[float, bool]:
        """(share of the run done, whether a validation is due); where time decides, the first rank's clock counts."""
        state, every = self.state, self.config.train.validate_every
        reached = self.budget.progress(state.step, state.elapsed)
        due = self.budget.mark(state.step, state.elapsed, every) > state.mark
        if self.budget.seconds:
            # a short budget of minutes is for training: validate more rarely
            if not every and state.stepping < VALIDATION_RATIO * (state.validating + self._last_validation):
                due = False
            reached, due = self.fabric.broadcast((reached, due))
        return reached, due

    def _step(self, step: int, batch: Any, reached: float) -> None:
        config = self.config
        rate = learning_rate(config.train, reached, step)
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = rate * self.rates[name]
        torch.manual_seed(int(np.random.SeedSequence([config.seed, step, self.fabric.global_rank]).generate_state(1)[0]))
        self.method.train()
        self.method.progress = reached
        self.update.taken.clear()
        with self.precision.autocast(self.device):
            logs = self.method.step(batch.to(self.device, self.precision.channels_last), self.update)
        if self.fabric.world_size > 1:
            # each rank's running statistics saw other samples
            mean_over_ranks(self.fabric, [buffer for buffer in self.method.buffers() if buffer.is_floating_point()])
        if self.average is not None:
            # early on it follows faster, so that it forgets the random start
            follow(self.average, self.method, min(config.train.ema, (step + 1) / (step + 10)))
        checks = {f"update {group}": values for group, values in self.update.taken.items()}
        losses = {name: torch.as_tensor(value, device=self.device).detach().float().reshape(1) for name, value in logs.items()}
        found = {**losses, **checks}
        if self._window and self._window[-1][1].keys() != found.keys():
            self._read(reached)  # a method that trains in stages reports other losses from here on
        self._window.append((step + 1, found))

    def _read(self, reached: float) -> None:
        """Read the losses of the steps since the last reading, check that they are finite, log their mean.

        Raises:
            DataError: the loss or the gradient of an update is not finite, in any rank.
        """
        if not self._window:
            return
        window, self._window = self._window, []
        names = [name for name, value in window[0][1].items() for _ in range(value.numel())]
        rows = torch.stack([torch.cat(list(values.values())) for _, values in window]).tolist()
        for (step, _), row in zip(window, rows, strict=True):
            for name, value in zip(names, row, strict=True):
                if name.startswith("update ") and not np.isfinite(value):
                    raise diverged(self.folder, self.config, step, name, value)
        if not self.main:
            return
        means = np.mean(rows, axis=0)
        losses = {name: float(value) for name, value in zip(names, means, strict=True) if not name.startswith("update ")}
        self._log(losses, reached)

    def _log(self, losses: Mapping[str, float], reached: float) -> None:
        state = self.state
        left = state.elapsed / reached * (1 - reached) if reached > 0 and state.elapsed > 0 else None
        rate = next(iter(self.optimizers.values())).param_groups[0]["lr"]
        stepping = max(state.stepping, 1e-9)
        record = {
            "step": state.step,
            **losses,
            "lr": rate,
            "seconds": round(state.elapsed, 3),
            "steps_per_s": round(state.step / stepping, 4) if state.stepping else None,
            "share_waited": round(state.waited / stepping, 5) if state.stepping else None,
        }
        self.folder.log(record)
        if self.board is not None:
            self.board.write(state.step, {**losses, "lr": rate})
        self.progress.on_step(state.step, self.budget.steps or None, reached, losses, state.best, left)

    def _validate(self, reached: float) -> tuple[bool, int]:
        """Score the validation cases with the weights that would be kept: whether they are the best, and what signal cut it off.

        The best of the first part, up to ``train.keep_after``, makes way for the first weights after it, whatever their score.
        """
        begun, state = time.monotonic(), self.state
        better, signum = False, 0
        if self.main:
            kept = self._kept()
            kept.eval()
            try:
                with stopping.at_once():
                    found = self._validated(kept)
                better = self._scored(found, reached)
            except Stopped as stopped:
                signum = stopped.signum
            kept.train()
        signum = self.fabric.broadcast(signum)
        if signum:
            return False, signum
        state.mark = self.budget.mark(state.step, state.elapsed, self.config.train.validate_every)
        state.whole, state.validated = self.whole, state.step
        kept_state = (state.best, state.best_step, state.best_moment, state.stale, state.scores, state.mark)
        (state.best, state.best_step, state.best_moment, state.stale, state.scores, state.mark) = self.fabric.broadcast(kept_state)
        self._last_validation = time.monotonic() - begun
        state.validating += self._last_validation
        return better, 0

    def _scored(self, found: Validated, reached: float) -> bool:
        """Note, log and draw the scores of a validation; whether they are the best."""
        state, selection, score = self.state, self.method.selection, found.score
        early = state.best_moment < self.config.train.keep_after <= reached
        better = state.best is None or selection.better(score, state.best) or early or self.method.keeps_last
        if better:
            state.best, state.best_step, state.best_moment = score, state.step, reached
            state.stale, state.scores = 0, found.scores
        else:
            state.stale += 1
        self.folder.log({"step": state.step, "seconds": round(state.elapsed, 3), "validation": score, "scores": found.scores})
        if self.board is not None:
            self.board.write(state.step, {"validation": score})
        self.progress.on_validation(state.step, score, score if state.best is None else state.best, selection.name, selection.unit)
        if self.config.train.images:
            path = self.out / "images" / f"step_{state.step:06d}.png"
            title = f"{found.prepared.name}, step {state.step}, validation {score:.2f} {selection.unit}"
            slice_figure(found, path, title)
        return bool(better)

    def _kept(self) -> Any:
        """The weights that would be kept: the average, where there is one."""
        return self.average if self.average is not None else self.method

    def _validated(self, method: Any) -> Validated:
        """The validation cases as the weights of this moment see them; volumes keep the brightness that they come with."""
        info = {**self.folder.info, "brightness": {}}
        run = LoadedRun(self.folder, method, self.config, self.split, info, hash="")
        settings = PredictSettings(quick=0 if self.whole else MOST_SLICES)
        return validate(Predictor(run, settings, device=None), self.reader, self.split.validation, own=True)

    def _stale(self) -> bool:
        patience = self.config.train.patience
        return patience > 0 and self.state.stale >= patience

    def _save(self) -> None:
        if self.main:
            save_last(self.folder, self.method, self.average, self.groups, self.optimizers, self.state)
        self._saved = time.monotonic()

    def _save_best(self) -> None:
        save_best(self.folder, self._kept(), self.state)

    def _end(self, stopped: str) -> TrainResult:
        state = self.state
        if state.best is None:
            raise RunError(f"{self.out} ended without a validation; give it a longer budget.")
        stepping = max(state.stepping, 1e-9)
        selection = self.method.selection
        chosen = {"name": selection.name, "direction": "higher" if selection.higher else "lower", "scores": state.scores}
        result = TrainResult(
            self.config.method, state.step, state.elapsed, state.step / stepping, state.waited / stepping,
            state.best, state.best_step, peak_gb(), stopped, chosen_by=chosen,
        )  # fmt: skip
        signum = 0
        if self.main:
            extended = self.extends.config if self.extends is not None else None
            old = (*extended.sources, *extended.targets) if extended is not None else ()
            try:
                with stopping.at_once():
                    result = finish(self.folder, self.config, self.reader, result, old, self.device, self.progress.on_message)
            except Stopped as stopped:
                signum = stopped.signum
        scores, signum = self.fabric.broadcast((result.scores, signum))
        if signum:
            self._stop(signum)
        result = replace(result, scores=scores)
        self.fabric.barrier()
        return result
