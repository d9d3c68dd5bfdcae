"""What a training run is checked for before it begins: that it can be continued, and what its data hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from synthmr.config import RunConfig, to_dict
from synthmr.data.reader import Reader
from synthmr.data.split import Split
from synthmr.data.store import Store
from synthmr.errors import UsageError
from synthmr.labels import Evidence, Seen, present_in
from synthmr.run import LoadedRun, RunFolder


def check_resumed(folder: RunFolder, config: RunConfig, store: Store, split: Split, world: int, extends: LoadedRun | None) -> None:
    """Check that a run can be continued with these words and data.

    Raises:
        UsageError: it is finished, or something that decides its numbers differs.
    """
    out, info = folder.path, folder.info
    if info.get("status") == "finished":
        raise UsageError(f"{out} is finished; there is nothing to resume. Train into a new folder for more.")
    stored, asked = _flat(to_dict(folder.config)), _flat(to_dict(config))
    changed = sorted(key for key in stored.keys() | asked.keys() if stored.get(key) != asked.get(key))
    if changed:
        raise UsageError(
            f"{out} was started with another {', '.join(changed)} ({changed[0]} was {stored.get(changed[0])!r} and is"
            f" {asked.get(changed[0])!r}); resume with the same words, or start a new run."
        )
    if info.get("extends") != (extends.hash if extends is not None else None):
        # a run that was killed before its first checkpoint starts from the weights of the one that it extends
        raise UsageError(f"{out} extends another run, or none; resume it with the words that started it.")
    kept = folder.split
    if info.get("store") != store.fingerprint or (kept.train, kept.validation) != (split.train, split.validation):
        raise UsageError(f"{out} was started on other data (their content or split has changed); start a new run.")
    if info.get("processes") != world:
        raise UsageError(
            f"{out} was started with {info.get('processes')} processes and is resumed with {world}; use as many as before."
        )


def labels_in(method: Any, reader: Reader, split: Split) -> Seen | None:
    """The labels of the segmentations of the training cases (and of validation, where the method needs them); None if a case
    has none, or the method uses none. A store knows the names of cases, not of files."""
    # what a method cannot do without, it needs in validation, too
    names = (*split.train, *split.validation) if "segmentation" in method.needs else split.train
    if "segmentation" not in (*method.needs, *method.spec.maps) or not all(reader.segmented(name) for name in names):
        return None
    return Seen(tuple(Evidence.of(present_in(np.asarray(reader.segmentation(name))), case=name) for name in names))


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = value
    return out
