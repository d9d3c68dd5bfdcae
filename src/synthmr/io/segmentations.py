"""What segmentation files tell of their label convention: numbers, names and headers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from synthmr.errors import DataError
from synthmr.labels import Evidence, Seen, present_in


def seen_in(files: Iterable[tuple[str, Path]]) -> Seen:
    """The labels of segmentation files, one file in memory at a time.

    A file that cannot be read tells nothing here; whatever needs it says what is wrong with it.

    Args:
        files: case and path of each.
    """
    from synthmr.io.nifti import load

    found = []
    for case, path in files:
        try:
            volume = load(path, np.int32)
            header = volume.header["descrip"].item().decode("latin-1", "replace") if volume.header is not None else ""
            found.append(Evidence.of(present_in(volume.array), path, case, header.strip("\0 ")))
        except DataError:
            continue
    return Seen(tuple(found))
