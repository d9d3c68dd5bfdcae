"""Which contrasts a training sample shows, and which it asks for: those that it has and does not show."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

#: probability that a sample shows all sources that it can
ALL = 0.4


def is_drawn(subsets: str, draws: bool) -> bool:
    """Whether samples show random subsets of the sources.

    Args:
        subsets: ``sample.subsets``.
        draws: whether auto means that they do.
    """
    return subsets == "drawn" or (subsets == "auto" and draws)


def draw_shown(
    sources: Sequence[str], targets: Sequence[str], present: Collection[str], drawn: bool, rng: np.random.Generator
) -> tuple[str, ...]:
    """The sources that one sample shows; at least one, and never every target that the sample has.

    Args:
        sources: of the run.
        targets: of the run; some may be sources, too.
        present: contrasts that the sample has.
        drawn: whether a random subset is shown: all that can be shown with probability `ALL`, else any of the subsets with equal
            probability; if not, all that can be shown.
        rng: of the sample.
    """
    there = [name for name in sources if name in present]
    asked = [name for name in targets if name in present]
    every = list(there)
    if asked and set(asked) <= set(there):
        # one of the targets must be left to ask for: another source shows it
        every.remove(asked[int(rng.integers(len(asked)))])
    if not drawn or len(there) < 2 or rng.random() < ALL:
        return tuple(every)
    while True:
        chosen = rng.integers(2, size=len(there))
        shown = tuple(name for name, flag in zip(there, chosen, strict=True) if flag)
        if shown and not (asked and set(asked) <= set(shown)):
            return shown
