"""A prepared cohort whose images say whose they are: every subject has two sessions and a grey value and label of its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from synthmr.batch import Batch
from synthmr.config import PrepareConfig
from synthmr.data.split import Split
from synthmr.data.store import Store

#: subject -> label of its tumour (0, 1, 2 and 4 are BraTS labels); its images lie around -0.8 + 0.4 * label
SUBJECTS = {"a": 1, "b": 2, "c": 4, "d": 2}
SPLIT_OF_SESSIONS = Split(("a1", "b1", "a2", "c1", "c2", "b2"), ("d1",), ("d2",), "test")
SHAPE = (4, 32, 36)


def sessions_store(root: Path, segmented: bool = True) -> Store:
    """Sessions 1 and 2 of each subject; T1w, T2w and FLAIR are its grey value and a little noise inside a box of brain."""
    rng = np.random.default_rng(8)
    folders, subjects = {}, {}
    for subject, label in SUBJECTS.items():
        for session in "12":
            name = subject + session
            folders[name], subjects[name] = root / "cases" / name, subject
            folders[name].mkdir(parents=True)
            mask = np.zeros(SHAPE, np.uint8)
            mask[:, 4:-4, 3:-5] = 1
            grey = -0.8 + 0.4 * label
            arrays = {key: np.where(mask, grey + rng.uniform(-0.1, 0.1, SHAPE), -1) for key in ("T1w", "T2w", "FLAIR")}
            labels = np.zeros(SHAPE, np.uint8)
            labels[:, 10:18, 10:18] = label
            kinds = {**dict.fromkeys(arrays, np.float16), "mask": np.uint8, "segmentation": np.uint8}
            stored = {**arrays, "mask": mask, **({"segmentation": labels} if segmented else {})}
            for key, array in stored.items():
                np.save(folders[name] / f"{key}.npy", array.astype(kinds[key]))
            record = {
                "shape": list(SHAPE),
                "arrays": list(stored),
                "normalizers": {key: {"name": "percentile", "low": 0.0, "high": 100.0} for key in arrays},
                "history": [],
                "brain": mask.sum(axis=(1, 2), dtype=int).tolist(),
            }
            (folders[name] / "case.json").write_text(json.dumps(record))
    return Store(folders, ("T1w", "T2w"), ("FLAIR",), PrepareConfig(), SPLIT_OF_SESSIONS, {}, "e" * 40, subjects)


def code_of(batch: Batch, contrast: str) -> np.ndarray:
    """``(B,)``: the label of the subject that each sample's image is of."""
    inside = batch.images[contrast][:, :, 12:16, 12:16].mean(dim=(1, 2, 3)).numpy()
    return np.rint((inside + 0.8) / 0.4).astype(int)
