"""What a trained run learns of the brightness of its volumes: Q and k of `synthmr.prepare.brightness`.

Q is of its training cases. With pairs, k is the share of the correction that brings the predictions of training and validation
cases nearest to the truth, and 0 where it brings them no nearer: T1ce, whose top is an enhancement that no network foresees.
Training cases alone would not do, since a network that knows them by heart knows their brightness too; validation cases are few.
Without pairs nothing can tell; there k is 1: the volumes that are wanted all have the same top, so those that come out are
given one too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from synthmr.contrasts import subsets_of
from synthmr.data.sampling import case_batch
from synthmr.data.store import Store
from synthmr.errors import DataError
from synthmr.methods.contract import NeuralMethod, Spec, is_paired
from synthmr.predict.frame import Frame
from synthmr.predict.precision import Precision
from synthmr.prepare.brightness import LIMIT, NORMALIZER, Brightness, subset_key
from synthmr.run import LoadedRun
from synthmr.train.validate import predict_batch

#: subjects, a session of each, and slices that are predicted, evenly spaced; slices of all cases and sets of sources together
MOST_CASES, MOST_SLICES, MOST_OF_ALL = 24, 32, 768
#: fewer subjects tell nothing of how they differ
LEAST_CASES = 3
#: sets of sources of a method that takes any of them; with more, only predictions from all sources are levelled
MOST_SUBSETS = 15
#: k in steps; and how much smaller than without the mean squared error must be for any
EXPONENTS, GAIN = np.arange(21) / 20, 0.01


def calibrate_brightness(
    run: LoadedRun,
    store: Store,
    device: torch.device,
    precision: Precision,
    old: Sequence[str] = (),
    say: Callable[[str], None] | None = None,
) -> dict[str, dict[str, Brightness]]:
    """The brightness of a run's predictions, target -> sources -> brightness; nothing where it has none.

    Args:
        run: with the weights that will be used.
        store: its training data.
        device: that computes.
        precision: number format.
        old: sources and targets of the run that this one extends; what it made of them alone keeps its brightness, or none.
        say: is told that this takes a moment.
    """
    config = run.config
    paired = is_paired(run.method.spec, config.sample)
    training = _one_a_subject(run.split.train, store)
    names = [*training, *(_one_a_subject(run.split.validation, store) if paired else ())]
    found: dict[str, dict[str, Brightness]] = {target: dict(each) for target, each in run.brightness.items()}
    if not config.train.brightness or config.prepare.normalizer != NORMALIZER or len(training) < LEAST_CASES:
        return found
    if isinstance(run.method, NeuralMethod):
        precision.place(run.method, device)
    if say is not None:
        say(f"learning the brightness of predicted volumes from {len(names)} cases")
    subsets = calibrated_subsets(run.method.spec, config.sources)
    slices = max(4, min(MOST_SLICES, MOST_OF_ALL // (len(subsets) * len(names))))
    for sources in subsets:
        wanted = [target for target in config.targets if not {*sources, target} <= set(old)]
        rows = [_case(run, store, name, sources, wanted, slices, device, precision) for name in names] if wanted else []
        for number, target in enumerate(wanted):
            brightness = fit_brightness(np.array(rows)[:, number], len(training), paired, config.prepare.percentile)
            if brightness is not None:
                found.setdefault(target, {})[subset_key(sources)] = brightness
    return found


def _case(
    run: LoadedRun,
    store: Store,
    name: str,
    sources: Sequence[str],
    targets: Sequence[str],
    slices: int,
    device: torch.device,
    precision: Precision,
) -> list[np.ndarray]:
    """`moments` of the targets of one case, predicted from some sources."""
    config = run.config
    batch = case_batch(store, name, (*sources, *targets), most=slices)
    fills = {source: store[name].background(source) for source in sources}
    images = predict_batch(run.method, batch, device, precision, fills, Frame.of(config.sample))
    if batch.mask is None:
        raise DataError(f"case {name} has no mask in the store.")
    inside, found = batch.mask.numpy(), []
    for target in targets:
        low, high = store[name].background(target), store[name].top(target)
        p, t = ((image[target].numpy()[inside].astype(float) - low) / (high - low) for image in (images, batch.images))
        found.append(moments(p, t, config.prepare.percentile))
    return found


def moments(p: np.ndarray, t: np.ndarray, percentile: float) -> np.ndarray:
    """q, mean p^2, mean pt and mean t^2 of a prediction and its truth ``(N,)`` on the unit scale."""
    return np.array([np.percentile(p, percentile), np.mean(p * p), np.mean(p * t), np.mean(t * t)])


def fit_brightness(rows: np.ndarray, training: int, paired: bool, percentile: float) -> Brightness | None:
    """Q and k.

    Args:
        rows: ``(cases, 4)`` `moments`.
        training: how many of them, the first ones, are of training cases.
        paired: whether the truth may be used.
        percentile: of the normaliser.

    Returns:
        None where there is nothing to correct: too few cases with anything in them, or k is 0.
    """
    usable = np.isfinite(rows).all(axis=1) & (rows[:, 0] > 0)
    if usable[:training].sum() < LEAST_CASES:
        return None
    top = float(np.exp(np.mean(np.log(rows[:training, 0][usable[:training]]))))
    q, pp, pt, tt = rows[usable].T
    exponent = 1.0
    if paired:
        factors = np.clip((top / q) ** EXPONENTS[:, None], 1 / LIMIT, LIMIT)
        errors = np.mean(factors**2 * pp - 2 * factors * pt + tt, axis=1)
        exponent = float(EXPONENTS[np.argmin(errors)]) if errors.min() < (1 - GAIN) * errors[0] else 0.0
    return Brightness(top, exponent, percentile) if exponent else None


def calibrated_subsets(spec: Spec, sources: Sequence[str]) -> list[tuple[str, ...]]:
    """The sets of sources that a run predicts from and that get a brightness of their own."""
    few = 2 ** len(sources) - 1 <= MOST_SUBSETS
    return subsets_of(sources) if spec.any_subset and few else [tuple(sources)]


def _one_a_subject(names: Sequence[str], store: Store) -> list[str]:
    """The first session of each subject; of more than `MOST_CASES` subjects so many, evenly spaced."""
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(store.subject(name), name)
    kept = list(first.values())
    return [kept[int(at)] for at in np.linspace(0, len(kept) - 1, min(MOST_CASES, len(kept))).round()]
