"""What a trained run learns of the level of its volumes: Q and k of `synthmr.prepare.level`, from its training cases.

With pairs, k is the share of the correction that brings the predictions nearest to the truth, and 0 where it brings them no nearer:
T1ce, whose top is an enhancement that no network foresees. Without pairs nothing can tell; there k is 1: the volumes that
come out are to have the top of the volumes that are wanted, as slices are to look like theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
import torch

from synthmr.data.sampling import case_batch
from synthmr.data.store import Store
from synthmr.infer.canvas import Canvas
from synthmr.infer.precision import Precision
from synthmr.methods.contract import NeuralMethod, Spec, is_paired
from synthmr.prepare.level import LIMIT, NORMALIZER, Level, key
from synthmr.run import LoadedRun
from synthmr.train.validate import predict_batch

#: cases and slices of each that are predicted, evenly spaced
MOST_CASES, MOST_SLICES = 24, 32
#: fewer tell nothing of how cases differ
LEAST_CASES = 3
#: sets of sources of a method that takes any of them; with more, only predictions from all sources are levelled
MOST_SUBSETS = 15
#: k in steps; and how much smaller than without the mean squared error must be for any
EXPONENTS, GAIN = np.arange(21) / 20, 0.01


def fit_levels(
    run: LoadedRun, store: Store, device: torch.device, precision: Precision, kept: Sequence[str] = ()
) -> dict[str, dict[str, Level]]:
    """The levels of a run's predictions, target -> sources -> level; nothing where it has none.

    Args:
        run: with the weights that will be used.
        store: its training data.
        device: that computes.
        precision: number format.
        kept: sources and targets of the run that this one extends; what it made of them alone keeps its level, or none.
    """
    config = run.config
    names = _spread(run.split.train, MOST_CASES)
    found: dict[str, dict[str, Level]] = {target: dict(each) for target, each in run.levels.items()}
    if not config.train.level or config.prepare.normalizer != NORMALIZER or len(names) < LEAST_CASES:
        return found
    if isinstance(run.method, NeuralMethod):
        run.method.to(device)
        if precision.channels_last:
            run.method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    paired = is_paired(run.method.spec, config.sample)
    for sources in subsets_of(run.method.spec, config.sources):
        wanted = [target for target in config.targets if not {*sources, target} <= set(kept)]
        rows = [_case(run, store, name, sources, wanted, device, precision) for name in names] if wanted else []
        for number, target in enumerate(wanted):
            level = fit_level(np.array(rows)[:, number], paired, config.prepare.percentile)
            if level is not None:
                found.setdefault(target, {})[key(sources)] = level
    return found


def _case(
    run: LoadedRun,
    store: Store,
    name: str,
    sources: Sequence[str],
    targets: Sequence[str],
    device: torch.device,
    precision: Precision,
) -> list[np.ndarray]:
    """`moments` of the targets of one case, predicted from some sources."""
    config = run.config
    batch = case_batch(store, name, (*sources, *targets), most=MOST_SLICES)
    fills = {source: store[name].background(source) for source in sources}
    images = predict_batch(run.method, batch, device, precision, fills, Canvas.of(config.sample))
    inside = slice(None) if batch.mask is None else batch.mask.numpy()
    found = []
    for target in targets:
        low, high = store[name].background(target), store[name].top(target)
        p, t = ((image[target].numpy()[inside].astype(float).ravel() - low) / (high - low) for image in (images, batch.images))
        found.append(moments(p, t, config.prepare.percentile))
    return found


def moments(p: np.ndarray, t: np.ndarray, percentile: float) -> np.ndarray:
    """q, mean p^2, mean pt and mean t^2 of a prediction and its truth ``(N,)`` on the unit scale."""
    return np.array([np.percentile(p, percentile), np.mean(p * p), np.mean(p * t), np.mean(t * t)])


def fit_level(rows: np.ndarray, paired: bool, percentile: float) -> Level | None:
    """Q and k.

    Args:
        rows: ``(cases, 4)`` `moments`.
        paired: whether the truth may be used.
        percentile: of the normaliser.

    Returns:
        None where there is nothing to correct: too few cases with anything in them, or k is 0.
    """
    rows = rows[np.isfinite(rows).all(axis=1) & (rows[:, 0] > 0)]
    if len(rows) < LEAST_CASES:
        return None
    q, pp, pt, tt = rows.T
    top = float(np.exp(np.mean(np.log(q))))
    exponent = 1.0
    if paired:
        factors = np.clip((top / q) ** EXPONENTS[:, None], 1 / LIMIT, LIMIT)
        errors = np.mean(factors**2 * pp - 2 * factors * pt + tt, axis=1)
        exponent = float(EXPONENTS[np.argmin(errors)]) if errors.min() < (1 - GAIN) * errors[0] else 0.0
    return Level(top, exponent, percentile) if exponent else None


def subsets_of(spec: Spec, sources: Sequence[str]) -> Iterable[tuple[str, ...]]:
    """The sets of sources that a run predicts from and that get a level of their own."""
    count = 2 ** len(sources) - 1
    if not spec.any_subset or count > MOST_SUBSETS:
        return [tuple(sources)]
    return [names for size in range(1, len(sources) + 1) for names in combinations(sources, size)]


def _spread(names: Sequence[str], most: int) -> list[str]:
    """At most so many names, evenly spaced."""
    return [names[int(at)] for at in np.linspace(0, len(names) - 1, min(most, len(names))).round()] if names else []
