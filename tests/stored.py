"""Stores made of arrays: images in normalised units, brains that are given, and normalisers that are known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from synthmr.case import Volume
from synthmr.config import PrepareConfig, RunConfig, SampleConfig
from synthmr.data.brains import Brain, Facts, Parts, brain_key, fact_key
from synthmr.data.parts import Bits, Labels, write_image
from synthmr.data.reader import Reader
from synthmr.data.split import Split
from synthmr.data.store import Store, in_order
from synthmr.run import LoadedRun, RunFolder

#: steps of the unit scale that images are rounded to, so that they are whole numbers in scanner units
STEPS = 16384


def store_case(
    root: Path,
    name: str,
    images: Mapping[str, np.ndarray],
    mask: np.ndarray,
    segmentation: np.ndarray | None = None,
    subject: str = "",
    highs: Mapping[str, float] | None = None,
) -> Parts:
    """Store axial slices ``(S, H, W)``, normalised by ``percentile``: -1 outside the mask, 1 at ``highs`` (default `STEPS`).

    Images are rounded to whole numbers of scanner units; outside the mask, which is the case's mask file, all is 0.
    """
    folder = root / name
    folder.mkdir(parents=True)

    def volume(slices: np.ndarray) -> np.ndarray:
        return np.moveaxis(slices, 0, 2)

    brain = volume(np.asarray(mask)) > 0
    bits = Bits.of(brain, {})
    bits.save(folder / "mask.npz")
    keys = {contrast: f"{root.name}-{name}-{contrast}" for contrast in images} | {"mask": f"{root.name}-{name}-mask"}
    facts: dict[str, Any] = {}
    for contrast, slices in images.items():
        high = dict(highs or {}).get(contrast, float(STEPS))
        scanner = np.where(brain, np.rint((volume(np.asarray(slices, float)) + 1) / 2 * high), 0).astype(np.float32)
        write_image(folder / contrast, Volume(scanner, np.eye(4)))
        facts[fact_key(keys[contrast], "percentile", 99.5)] = {"name": "percentile", "low": 0.0, "high": high, "max": high}
    if segmentation is not None:
        Labels.of(volume(np.asarray(segmentation)), {}).save(folder / "segmentation.npz")
        keys["segmentation"] = f"{root.name}-{name}-segmentation"
    parts = Parts(
        images={contrast: folder / contrast for contrast in images},
        keys=keys,
        brains=(folder / "brains",),
        mask=folder / "mask.npz",
        segmentation=folder / "segmentation.npz" if segmentation is not None else None,
        subject=subject,
    )
    Facts([folder / "brains" / brain_key(parts, tuple(images), "auto")]).add(facts)
    return parts


def store_of(cases: Mapping[str, Parts], split: Split, fingerprint: str = "f" * 40) -> Store:
    """A store of such cases."""
    contrasts = in_order([contrast for parts in cases.values() for contrast in parts.images])
    return Store(dict(cases), contrasts, "auto", split, fingerprint)


def reader_of(store: Store, sources: tuple[str, ...], targets: tuple[str, ...], config: PrepareConfig | None = None) -> Reader:
    """The store as a run without margin reads it: the box is that of the mask, which such stores fill to the edge."""
    return Reader(store, config or PrepareConfig(), sources, targets)


def run_of(method: Any, store: Store, sample: SampleConfig | None = None, prepare: PrepareConfig | None = None) -> LoadedRun:
    """A run of a method that is in memory alone, whose target has the normaliser of such stores."""
    normalizers = {name: {"name": "percentile", "low": 0.0, "high": float(STEPS), "max": float(STEPS)} for name in method.targets}
    config = RunConfig(
        method=method.spec.name, preset="fast", sources=method.sources, targets=method.targets,
        prepare=prepare or PrepareConfig(), sample=sample or SampleConfig(),
    )  # fmt: skip
    return LoadedRun(RunFolder(Path("run")), method, config, store.split, {"target_normalizers": normalizers}, "abc")


__all__ = ["STEPS", "Brain", "reader_of", "run_of", "store_case", "store_of"]
