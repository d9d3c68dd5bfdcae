"""How often a case is called outside of what a run saw: each case of real sets against the others, as it is and with faults.

    python benchmarks/domain_alarms.py brats18=FOLDER open_ms=FOLDER phantom=FOLDER

Each folder is a cohort; a set of fewer than four cases is compared with the first set instead. Of every case the domain of the
others is learnt (`synthmr.prepare.domain`), and the case is compared with it: unchanged, where every alarm is a false one, and with
simulated faults, where the alarm that is meant must come. Nothing is trained. Of volumes with voxels below 1.5 mm every second
voxel along each axis is taken.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from common import write
from synthmr.case import Volume
from synthmr.config import PrepareConfig
from synthmr.io.index import index
from synthmr.predict.domain import measured
from synthmr.prepare.case import load_case, prepare_images
from synthmr.prepare.domain import Domain

CONTRASTS = ("T1w", "T1ce", "T2w", "FLAIR")
#: sources of the runs that are simulated; all others of a set are targets, which a run knows too
SOURCES = (("T1w", "T2w"), ("T1w", "T2w", "FLAIR"), ("T1w", "T1ce", "T2w", "FLAIR"))

Images = Mapping[str, Volume]


def thinned(volume: Volume) -> Volume:
    """Every second voxel along each axis, of a volume of fine voxels."""
    if max(volume.spacing) >= 1.5:
        return Volume(volume.array, volume.affine)
    return Volume(np.ascontiguousarray(volume.array[::2, ::2, ::2]), volume.affine @ np.diag([2.0, 2.0, 2.0, 1.0]))


def look(images: Images, name: str) -> dict[str, Any]:
    """What `synthmr.prepare.measure` says of volumes."""
    prepared = prepare_images(images, PrepareConfig(), name=name)
    return measured(prepared, images, tuple(images))


def each(change: Callable[[np.ndarray], np.ndarray], names: tuple[str, ...] = ()) -> Callable[[Images], Images]:
    """A fault of the voxels of some images; none named: of all."""

    def fault(images: Images) -> Images:
        return {
            name: Volume(change(volume.array), volume.affine) if not names or name in names else volume
            for name, volume in images.items()
        }

    return fault


def coarse(images: Images) -> Images:
    """Voxels three times as long along the third axis."""
    scale = np.diag([1.0, 1.0, 3.0, 1.0])
    return {
        name: Volume(
            np.stack([v.array[:, :, k : k + 3].mean(axis=2) for k in range(0, v.shape[2] - 2, 3)], axis=2), v.affine @ scale
        )
        for name, v in images.items()
    }


def cropped(images: Images) -> Images:
    """The upper 40 % of the brain is not in the field of view."""
    filled = np.flatnonzero(next(iter(images.values())).array.any(axis=(0, 1)))
    end = int(filled[0] + 0.6 * (filled[-1] - filled[0]))
    return {name: Volume(volume.array[:, :, :end], volume.affine) for name, volume in images.items()}


def swap(one: str, two: str) -> Callable[[Images], Images]:
    """Two images under each other's names."""
    return lambda images: {**images, one: images[two], two: images[one]}


def copy(one: str, two: str) -> Callable[[Images], Images]:
    """The file of ``two`` under both names."""
    return lambda images: {**images, one: images[two]}


def skull(array: np.ndarray) -> np.ndarray:
    """A brain in a shell of scalp, in air with noise."""
    rng = np.random.default_rng(0)
    bright = float(np.percentile(array[array > 0], 90))
    brain = array > 0
    inner = ndimage.binary_dilation(brain, iterations=4)
    shell = ndimage.binary_dilation(inner, iterations=4) & ~inner
    noise = np.abs(rng.normal(0, 0.02 * bright, array.shape))
    return np.where(brain, array, np.where(shell, bright, noise)).astype(np.float32)


def noisy(array: np.ndarray) -> np.ndarray:
    """Noise of 30 % of the median."""
    noise = np.random.default_rng(0).normal(0, 0.3 * float(np.median(array[array > 0])), array.shape)
    return np.where(array != 0, np.abs(array + noise), 0).astype(np.float32)


#: fault -> (what it does, the code that is meant)
FAULTS: Mapping[str, tuple[Callable[[Images], Images], str]] = {
    "+500": (each(lambda array: array + np.float32(500)), "domain.background"),
    "-1024": (each(lambda array: array - np.float32(1024)), "domain.background"),
    "sign flip": (each(lambda array: -array), "domain.negative"),
    "gain 1000": (each(lambda array: array * np.float32(1000)), "domain.units"),
    "0..1 image": (each(lambda array: array / array.max()), "domain.units"),
    "T1w and T2w swapped": (swap("T1w", "T2w"), "domain.swapped"),
    "T2w is T1w's file": (copy("T2w", "T1w"), "domain.contrast"),
    "T1w is T2w's file": (copy("T1w", "T2w"), "domain.contrast"),
    "slices 3 times thicker": (coarse, "domain.spacing"),
    "top 40 % cut off": (cropped, "domain.fov"),
    "skull on": (each(skull), "domain.skull"),
    "noise 30 %": (each(noisy), "domain.noise"),
}
#: with three sources or more
MORE: Mapping[str, tuple[Callable[[Images], Images], str]] = {
    "T2w and FLAIR swapped": (swap("T2w", "FLAIR"), "domain.swapped"),
    "T1w and FLAIR swapped": (swap("T1w", "FLAIR"), "domain.swapped"),
    "T1w is FLAIR's file": (copy("T1w", "FLAIR"), "domain.contrast"),
}
#: with two sources, where the file is of a target of the run
OTHER: Mapping[str, tuple[Callable[[Images], Images], str]] = {
    "T1w is FLAIR, unasked": (copy("T1w", "FLAIR"), "domain.contrast"),
    "T2w is FLAIR, unasked": (copy("T2w", "FLAIR"), "domain.contrast"),
    "T2w is T1ce, unasked": (copy("T2w", "T1ce"), "domain.contrast"),
}


def main(folders: Mapping[str, Path]) -> None:
    """Compare, count, write."""
    cohorts: dict[str, dict[str, dict[str, Volume]]] = {}
    for word, folder in folders.items():
        cohorts[word] = {}
        for case in index(folder).cases:
            names = [name for name in CONTRASTS if name in case.images]
            cohorts[word][case.name] = {name: thinned(volume) for name, volume in load_case(case, names, False)[0].items()}
    facts = {word: {case: look(images, case) for case, images in cases.items()} for word, cases in cohorts.items()}
    first = next(iter(cohorts))
    result: dict[str, Any] = {"sets": {word: len(cases) for word, cases in cohorts.items()}, "false": {}, "faults": {}}
    lines = []
    for word, cases in facts.items():
        alone = len(cases) >= 4
        for sources in SOURCES:
            codes: dict[str, int] = {}
            refused = 0
            for case, whole in cases.items():
                # its mask is made of the sources alone, as in a prediction
                found = (
                    whole
                    if set(sources) == set(whole["images"])
                    else look({name: cohorts[word][case][name] for name in sources}, case)
                )
                others = {name: other for name, other in (cases if alone else facts[first]).items() if name != case}
                alarms = Domain.learn(others).compare(found, sources)
                for code in {alarm.code for alarm in alarms}:
                    codes[code] = codes.get(code, 0) + 1
                refused += any(alarm.certain for alarm in alarms)
                for alarm in alarms:
                    print(word, "+".join(sources), case, alarm.certain, alarm.text, flush=True)
            against = "the others" if alone else first
            result["false"][f"{word} against {against}, {'+'.join(sources)}"] = {"cases": len(cases), "refused": refused, **codes}
            told = ", ".join(f"{code} {count}" for code, count in codes.items()) or "no alarm"
            lines.append(f"{word:8} against {against:10} {'+'.join(sources):22} {len(cases):2} cases: {refused} refused; {told}")
    lines.append("")
    for word, cases in cohorts.items():
        if len(cases) < 4:
            continue
        for fault, (change, meant) in {**FAULTS, **MORE, **OTHER}.items():
            sources = SOURCES[1] if fault in MORE else SOURCES[0]
            hit = certain = 0
            for case, images in cases.items():
                domain = Domain.learn({name: other for name, other in facts[word].items() if name != case})
                try:
                    taken = images if fault in OTHER else {name: images[name] for name in sources}
                    changed = change(taken)
                    alarms = domain.compare(look({name: changed[name] for name in sources}, case))
                except Exception as error:  # preparation itself may refuse what a fault left
                    print(word, fault, case, error)
                    hit, certain = hit + 1, certain + 1
                    continue
                hit += any(alarm.code == meant for alarm in alarms)
                certain += any(alarm.certain for alarm in alarms)
            result["faults"][f"{word}, {fault}"] = {"cases": len(cases), "meant": meant, "found": hit, "refused": certain}
            lines.append(f"{word:8} {fault:22} {meant:18} found in {hit:2} of {len(cases)}, refused in {certain:2}")
            print(lines[-1], flush=True)
    words = " ".join(f"{word}=..." for word in folders)
    write("domain_alarms", f"python benchmarks/domain_alarms.py {words}", result, "\n".join(lines))


if __name__ == "__main__":
    main({word.partition("=")[0]: Path(word.partition("=")[2]) for word in sys.argv[1:]})
