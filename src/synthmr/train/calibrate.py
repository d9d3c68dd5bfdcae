"""What a trained run learns of the brightness of its volumes: Q and k of `synthmr.prepare.brightness`.

Q is of its training cases. With pairs, k is the share of the correction that brings the predictions of training and validation
cases nearest to the truth, and 0 where it brings them no nearer: T1ce, whose top is an enhancement that no network foresees.
Training cases alone would not do, since a network that knows them by heart knows their brightness too; validation cases are few.
Without pairs nothing can tell; there k is 1: the volumes that are wanted all have the same top, so those that come out are
given one too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from synthmr.contrasts import subsets_of
from synthmr.data.reader import Reader
from synthmr.methods.contract import is_paired
from synthmr.predict.predictor import Predictor
from synthmr.predict.settings import PredictSettings
from synthmr.prepare.brightness import LIMIT, NORMALIZER, Brightness, subset_key
from synthmr.prepare.normalize import to_unit
from synthmr.run import LoadedRun

#: subjects, a session of each, and slices that are predicted, evenly spaced; slices of all cases and sets of sources together
MOST_CASES, MOST_SLICES, MOST_OF_ALL = 24, 32, 768
#: fewer subjects tell nothing of how they differ
LEAST_CASES = 3
#: sets of sources of a method that takes any of them; with more, only predictions from all sources are levelled
MOST_SUBSETS = 15
#: k in steps; and how much smaller than without the mean squared error must be for any
EXPONENTS, GAIN = np.arange(21) / 20, 0.01


def calibrate_brightness(
    run: LoadedRun, reader: Reader, old: Sequence[str] = (), say: Callable[[str], None] | None = None
) -> dict[str, dict[str, Brightness]]:
    """The brightness of a run's predictions, target -> sources -> brightness; nothing where it has none.

    Args:
        run: with the weights that will be used; it computes where they lie.
        reader: its training data.
        old: sources and targets of the run that this one extends; what it made of them alone keeps its brightness, or none.
        say: is told that this takes a moment.
    """
    config = run.config
    paired = is_paired(run.method.spec, config.sample)
    training = _one_a_subject(run.split.train, reader)
    names = [*training, *(_one_a_subject(run.split.validation, reader) if paired else ())]
    found: dict[str, dict[str, Brightness]] = {target: dict(each) for target, each in run.brightness.items()}
    if not config.train.brightness or config.prepare.normalizer != NORMALIZER or len(training) < LEAST_CASES:
        return found
    if say is not None:
        say(f"learning the brightness of predicted volumes from {len(names)} cases")
    subsets = calibrated_subsets(run.method.traits.any_subset, config.sources)
    slices = max(4, min(MOST_SLICES, MOST_OF_ALL // (len(subsets) * len(names))))
    # what is learnt here is what a volume lacks before it is corrected
    predictor = Predictor(replace(run, info={**run.info, "brightness": {}}), PredictSettings(quick=slices), device=None)
    for sources in subsets:
        wanted = [target for target in config.targets if target not in sources and not {*sources, target} <= set(old)]
        for target, rows, count in _moments(predictor, reader, names, len(training), sources, wanted):
            brightness = fit_brightness(rows, count, paired, config.prepare.percentile)
            if brightness is not None:
                found.setdefault(target, {})[subset_key(sources)] = brightness
    return found


def _moments(
    predictor: Predictor, reader: Reader, names: Sequence[str], training: int, sources: Sequence[str], wanted: Sequence[str]
) -> list[tuple[str, np.ndarray, int]]:
    """For each target the `moments` ``(cases, 4)`` of its predictions from some sources, and how many rows, the first ones, are of
    training cases; cases that lack a contrast are passed over."""
    rows: dict[str, list[np.ndarray]] = {target: [] for target in wanted}
    counts = dict.fromkeys(wanted, 0)
    percentile = predictor.config.prepare.percentile
    for number, name in enumerate(names):
        there = reader.contrasts(name)
        targets = [target for target in wanted if target in there]
        if not targets or not set(sources) <= set(there):
            continue
        prepared = reader.prepared(name, sources, targets)
        prediction = predictor(prepared, targets)
        for target in targets:
            truth = to_unit(prepared.images[target], prepared.normalizers[target])[prediction.mask].astype(float)
            rows[target].append(moments(prediction.unit(target)[prediction.mask].astype(float), truth, percentile))
            counts[target] += number < training
    return [(target, np.array(found), counts[target]) for target, found in rows.items() if found]


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


def calibrated_subsets(any_subset: bool, sources: Sequence[str]) -> list[tuple[str, ...]]:
    """The sets of sources that a run predicts from and that get a brightness of their own."""
    few = 2 ** len(sources) - 1 <= MOST_SUBSETS
    return subsets_of(sources) if any_subset and few else [tuple(sources)]


def _one_a_subject(names: Sequence[str], reader: Reader) -> list[str]:
    """The first session of each subject; of more than `MOST_CASES` subjects so many, evenly spaced."""
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(reader.subject(name), name)
    kept = list(first.values())
    return [kept[int(at)] for at in np.linspace(0, len(kept) - 1, min(MOST_CASES, len(kept))).round()]
