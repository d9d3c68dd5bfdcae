"""What a run keeps of its training cases, so that others can be compared with them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from synthmr.data.reader import Reader
from synthmr.data.split import Split
from synthmr.prepare.domain import Domain
from synthmr.run import LoadedRun, RunFolder

#: training cases that are measured; of more, as many that are spread evenly over them. The checksums of all are kept.
MOST = 1000


def keep_domain(run: RunFolder, reader: Reader, split: Split, extends: LoadedRun | None = None) -> None:
    """Measure the training cases and write what they were like into the run folder, unless it is there already.

    Args:
        run: its folder.
        reader: prepared data.
        split: of the cases.
        extends: the run that this one extends, whose contrasts learnt from its own cases alone.

    Raises:
        DataError: a case is damaged, or the file cannot be written.
        RunError: the file of the extended run is damaged.
    """
    if run.domain is not None:
        return
    places = np.unique(np.linspace(0, len(split.train) - 1, min(MOST, len(split.train))).round().astype(int))
    names = [split.train[place] for place in places]
    domain = Domain.learn({name: reader.measured(name) for name in names})
    rest = sorted(set(split.train) - set(names))
    seen = {reader.digest(name, contrast): name for name in rest for contrast in reader.contrasts(name)}
    domain = replace(domain, seen={**domain.seen, **seen})
    old = None if extends is None else extends.domain
    run.write_domain(domain if old is None else old.extended(domain))
