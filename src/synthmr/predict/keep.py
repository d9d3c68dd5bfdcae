"""`Keep`: predictions kept on disk, so that evaluate, report and synthesize of one case predict it once.

A kept prediction is found by a key that changes with everything that decides what comes out: the runs' hashes (configuration and
weights), the checksums of the files that go in, what is given and asked for, the settings, and versions. So nothing stale is read,
and nothing needs to be told that an input has changed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from synthmr.errors import DataError, RunError
from synthmr.predict.prediction import Prediction

#: bytes that one folder may take
LIMIT = 2 * 10**9
#: name of the folder in a run, or in the cache where the run's cannot be written
FOLDER = "predictions"
SUFFIX = ".safetensors"
#: seconds after which a temporary file is what a kill left, not what another process is writing
STRAY = 3600.0


class Keep:
    """Kept predictions in one folder that several processes may share.

    Files appear whole or not at all; one that another process removes meanwhile, or that is damaged, is a miss. What cannot be
    written is not kept, and that is no error: it is predicted again.
    """

    def __init__(self, folder: Path | None, limit: int = LIMIT) -> None:
        """Keep in a folder, which is made when something is put there.

        Args:
            folder: where; None keeps nothing.
            limit: bytes that it may take; the prediction whose last use is longest ago goes first.
        """
        self.folder, self.limit = folder, limit

    @classmethod
    def off(cls) -> Keep:
        """Nothing is kept."""
        return cls(None)

    @classmethod
    def of_run(cls, run: Path, limit: int = LIMIT) -> Keep:
        """In RUN/predictions; where that cannot be written, in the cache's ``predictions``, which such runs share."""
        from synthmr.data.store import default_cache

        folder = run / FOLDER
        place = folder if folder.is_dir() else run
        return cls(folder if os.access(place, os.W_OK | os.X_OK) else default_cache() / FOLDER, limit)

    def path(self, key: str) -> Path:
        """Where the prediction of a key would be.

        Raises:
            DataError: nothing is kept.
        """
        if self.folder is None:
            raise DataError("no prediction is kept here.")
        return self.folder / (key + SUFFIX)

    def get(self, key: str) -> Prediction | None:
        """The prediction of a key, or None; its file counts as used now."""
        if self.folder is None:
            return None
        path = self.path(key)
        if not path.is_file():
            return None
        try:
            found = Prediction.load(path)
        except RunError:
            # damaged, or of another version: in the way of its own successor alone
            with suppress(OSError):
                path.unlink(missing_ok=True)
            return None
        with suppress(OSError):  # removed since, or in a folder that may only be read
            os.utime(path)
        return found

    def put(self, key: str, prediction: Prediction) -> None:
        """Keep a prediction and let go of the oldest ones beyond the limit."""
        from synthmr.io.files import atomic

        if self.folder is None:
            return
        data = prediction.to_bytes()
        if len(data) > self.limit:
            return
        with suppress(DataError, OSError):
            with atomic(self.path(key)) as temporary:
                temporary.write_bytes(data)
            self._trim()

    def _trim(self) -> None:
        """Remove the files whose last use is longest ago, until the rest is within the limit."""
        if self.folder is None:
            return
        kept: list[tuple[int, str, int]] = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    found = entry.stat()
                    if entry.name.startswith(".tmp-"):  # of any version: nobody else writes here
                        if time.time() - found.st_mtime > STRAY:
                            Path(entry.path).unlink(missing_ok=True)
                    elif entry.name.endswith(SUFFIX):
                        kept.append((found.st_mtime_ns, entry.name, found.st_size))
        total = sum(size for _, _, size in kept)
        for _, name, size in sorted(kept):
            if total <= self.limit:
                break
            (self.folder / name).unlink(missing_ok=True)
            total -= size


def key_of(
    run_hashes: Sequence[str],
    inputs: Mapping[str, str],
    given: Sequence[str],
    maps: Sequence[str] = (),
    settings: Any = None,
    versions: Any = (),
) -> str:
    """The name of a prediction: 40 hex digits that change with anything that decides what comes out.

    Args:
        run_hashes: of the runs, in the order of their mean.
        inputs: contrast, ``mask`` or ``segmentation`` -> SHA-256 of the file (`io.files.sha256`), of all that the method reads.
        given: contrasts that the method is shown, in the run's order.
        maps: what a file of this key must hold beside the images, in any order; none where maps are added to it when they are
            asked for.
        settings: how it is predicted: a dataclass or plain data, with what ``auto`` was settled to.
        versions: numbers that are raised when the code that predicts or prepares changes what comes out, as plain data.
    """
    from synthmr.config import config_hash

    parts = {
        "runs": list(run_hashes),
        "inputs": dict(inputs),
        "given": list(given),
        "maps": sorted(set(maps)),
        "settings": settings,
        "versions": versions,
    }
    return config_hash(parts, 40)
