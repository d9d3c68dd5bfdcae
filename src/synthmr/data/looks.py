"""What was found of each case of an audit: kept on disk by the content of its files, so that it is paid once.

A look is one small file ``audits/KEY.npz`` in the cache, named by the SHA-256 of all files of the case, its names, and what was
asked. Details (about 200 kB a case) are read again when two cases are compared, so that memory does not grow with the cohort.
Without a cache they lie in a temporary folder until the audit ends.
"""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from synthmr.case import Case
from synthmr.config import config_hash
from synthmr.data.findings import Finding
from synthmr.data.look import CaseLook
from synthmr.data.parts import DAMAGE
from synthmr.data.same_person import DETAIL_VERSION, signature
from synthmr.errors import DataError
from synthmr.io.files import atomic, sha256

#: raise when a change to a check changes what is found
LOOK_VERSION = 1

Look = Callable[[Case, tuple[str, ...], tuple[str, ...]], CaseLook]


class Looks:
    """The looks of one audit; as a context manager, so that a temporary folder goes with it.

    Args:
        cache: folder of the cache; None: a temporary folder.

    Attributes:
        hashes: case -> contrast -> SHA-256 of its voxels.
    """

    def __init__(self, cache: Path | None) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="synthmr-audit-") if cache is None else None
        self._folder = Path(self._temporary.name) if self._temporary is not None else (cache or Path()) / "audits"
        self._keeps = cache is not None
        self._places: dict[str, Path] = {}
        self._memory: dict[str, Mapping[str, np.ndarray]] = {}
        self._signatures: dict[tuple[str, str], np.ndarray] = {}
        self._lock = threading.Lock()
        self.hashes: dict[str, Mapping[str, str]] = {}

    def __enter__(self) -> Looks:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()

    def get(self, case: Case, wanted: tuple[str, ...], persons: tuple[str, ...], look: Look) -> CaseLook:
        """What is found of a case: as it was kept, or looked at now and kept. From several threads at once.

        Args:
            case: where its files are.
            wanted: contrasts to look at.
            persons: contrasts that tell the person.
            look: `synthmr.data.look.look_at`.
        """
        key = self._key(case, wanted, persons)
        path = self._folder / f"{key}.npz"
        found = _read(path) if self._keeps and key else None
        if found is None:
            found = look(case, wanted, persons)
            # an unreadable file may be mended under the same content (rights, a mount): what it gave is not kept
            if not key:
                path = self._folder / f"{config_hash([case.name], 40)}.npz"
            if key or not self._keeps:
                with suppress(DataError, OSError):
                    _write(path, found)
        with self._lock:
            self.hashes[case.name] = found.hashes
            for contrast, each in found.details.items():
                self._signatures[case.name, contrast] = signature(each)
            if path.is_file():
                self._places[case.name] = path
            else:  # a folder that cannot be written costs memory alone
                self._memory[case.name] = found.details
        return CaseLook(found.findings, found.hashes)

    def has_detail(self, case: str, contrast: str) -> bool:
        """Whether a case has an image that tells its person."""
        return (case, contrast) in self._signatures

    def signature(self, case: str, contrast: str) -> np.ndarray:
        """``(n,)`` float32 of `same_person.signature`."""
        return self._signatures[case, contrast]

    def detail(self, case: str, contrast: str) -> np.ndarray:
        """``(x, y, z)`` int8 of `same_person.describe`."""
        if case in self._memory:
            return self._memory[case][contrast]
        found = _read(self._places[case])
        if found is None:
            raise DataError(f"{self._places[case]} was changed or removed while the audit ran; start it again.")
        return found.details[contrast]

    def _key(self, case: Case, wanted: tuple[str, ...], persons: tuple[str, ...]) -> str:
        """What a case's look is known by; empty where a file cannot be read or nothing is kept."""
        if not self._keeps:
            return ""
        files = {word: path for word, path in case.images.items() if word in wanted}
        files |= {word: path for word, path in (("mask", case.mask), ("segmentation", case.segmentation)) if path is not None}
        try:
            content = {word: [path.name, sha256(path)] for word, path in files.items()}
        except DataError:
            return ""
        return config_hash([LOOK_VERSION, DETAIL_VERSION, case.name, case.nan_to_zero, list(persons), content], 40)


def _write(path: Path, look: CaseLook) -> None:
    about: dict[str, Any] = {"findings": [vars(finding) for finding in look.findings], "hashes": dict(look.hashes)}
    names = list(look.details)
    arrays = {f"detail{number}": look.details[name] for number, name in enumerate(names)}
    with atomic(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, about=np.array(json.dumps({**about, "details": names})), **arrays)  # type: ignore[arg-type]


def _read(path: Path) -> CaseLook | None:
    """A look as it was kept; None where there is none, or it is damaged."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as data:
            about = json.loads(str(data["about"]))
            details = {name: data[f"detail{number}"] for number, name in enumerate(about["details"])}
        findings = tuple(Finding(**{**each, "cases": tuple(each["cases"])}) for each in about["findings"])
        return CaseLook(findings, dict(about["hashes"]), details)
    except DAMAGE:
        return None
