"""How far apart one person's scans and two persons' lie for the audit's comparison of details, and what 10,000 cases cost.

    python benchmarks/same_person.py NAME=DATA [NAME=DATA ...] [--contrast T1w] [--copies 4]

Of the first ``--copies`` cases of each data set, simulated copies are compared with the original: a bias field of +-40 % with
a gain, resampling to 1.3 times the voxel edge, a crop, a shift of 5 voxels, another storage order with its header and without,
all of the first three together, and rotations of 3 and 6 degrees. Pairs of cases of one set are true where they have one subject
(two visits), else false. The table has the smallest score of each true kind, the largest of each false one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from common import write
from synthmr import pipeline
from synthmr.case import Volume
from synthmr.data import same_person
from synthmr.io.nifti import load


def biased(array: np.ndarray, seed: int) -> np.ndarray:
    """A smooth field of +-40 % and a gain of 2.7: what N4 takes away, or leaves."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in array.shape), indexing="ij")
    field = sum(rng.normal() * part for part in (x, y, z, x * y, y * z, x**2, y**2, z**2))
    return (2.7 * array * np.exp(0.4 * field / np.abs(field).max())).astype(np.float32)


def resampled(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Voxels of 1.3 times the edge, linear."""
    out = ndimage.zoom(array, 1 / 1.3, order=1)
    scale = np.diag([*np.array(array.shape) / np.array(out.shape), 1])
    return out, affine @ scale


def cropped(array: np.ndarray) -> np.ndarray:
    """6 to 11 % less at each side, as the fields of view of two protocols differ."""
    cuts = [(round(n * low), n - round(n * high)) for n, (low, high) in zip(array.shape, CUTS, strict=True)]
    return array[tuple(slice(*cut) for cut in cuts)]


CUTS = ((0.06, 0.05), (0.08, 0.1), (0.11, 0.05))


def rotated(array: np.ndarray, affine: np.ndarray, degrees: float) -> np.ndarray:
    """About an oblique axis through the middle."""
    spacing = np.diag(np.sqrt((affine[:3, :3] ** 2).sum(axis=0)))
    turn = np.linalg.inv(spacing) @ Rotation.from_rotvec(np.radians(degrees) * np.array([0.6, -0.48, 0.64])).as_matrix() @ spacing
    middle = (np.array(array.shape) - 1) / 2
    return ndimage.affine_transform(array, turn, middle - turn @ middle, order=1)


def copies(volume: Volume) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Simulated copies: what was done, voxels, affine."""
    array, affine = volume.array, np.asarray(volume.affine)
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = array.shape[0] - 1
    yield "bias and gain", biased(array, 1), affine
    yield "voxels 1.3 times", *resampled(array, affine)
    yield "crop", cropped(array), affine
    steps = [5 if n > 60 else 1 for n in array.shape]
    yield "shift of 5 voxels", np.roll(array, steps, (0, 1, 2)), affine
    yield "storage order", array[::-1], affine @ flip
    yield "order without header", array[::-1, ::-1], affine
    yield "bias, voxels, crop", *resampled(biased(cropped(array), 2), affine)
    for degrees in (3, 6):
        yield f"rotated {degrees} degrees", rotated(array, affine, degrees), affine


def best(one: np.ndarray, two: np.ndarray) -> float:
    """The score as the audit has it, mirrored orders included."""
    signatures = np.stack([same_person.signature(one), same_person.signature(two)])
    found = same_person.find_pairs([one, two].__getitem__, signatures, ["a", "b"])
    return found[0].score if found else same_person.compare(one, two)


def cost(details: list[np.ndarray], count: int) -> float:
    """Seconds for the candidates of ``count`` cases; their comparisons come on top, at most 5 a case."""
    rng = np.random.default_rng(0)
    signatures = rng.normal(size=(count, len(same_person.signature(details[0])))).astype(np.float32)
    start = time.perf_counter()
    same_person.candidates(signatures, [str(number) for number in range(count)])
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="+")
    parser.add_argument("--contrast", default="T1w")
    parser.add_argument("--copies", type=int, default=4)
    words = parser.parse_args()
    true: dict[str, list[float]] = {}
    false: dict[str, list[float]] = {}
    every: list[np.ndarray] = []
    describing = comparing = 0.0
    compared = 0
    for name, folder in (word.split("=", 1) for word in words.data):
        details: list[tuple[str, np.ndarray]] = []
        for number, case in enumerate(pipeline.index(Path(folder)).cases):
            volume = load(case.image(words.contrast), check=False)
            start = time.process_time()
            own = same_person.describe(volume.array, volume.affine)
            describing += time.process_time() - start
            if own is None:
                raise SystemExit(f"{case.name} is too small to tell")
            for what, array, affine in copies(volume) if number < words.copies else ():
                copy = same_person.describe(array, affine)
                true.setdefault(f"{name}: {what}", []).append(best(own, copy) if copy is not None else -1)
            details.append((case.subject, own))
        start = time.process_time()
        for number, (subject, own) in enumerate(details):
            for other, theirs in details[:number]:
                group = true if subject == other else false
                word = f"{name}: two visits" if subject == other else f"{name}: two persons"
                group.setdefault(word, []).append(same_person.compare(own, theirs))
                compared += 1
        comparing += time.process_time() - start
        every += [own for _, own in details]
    lowest, highest = min(map(min, true.values())), max(map(max, false.values()))
    seconds = {count: cost(every, count) for count in (1000, 10_000)}
    times = {
        "describe_s_a_case": describing / len(every),
        "compare_s_a_pair": comparing / max(compared, 1),
        **{f"candidates_s_{count}": value for count, value in seconds.items()},
    }
    lines = [f"{words.contrast}; error from {same_person.CERTAIN} on, warning from {same_person.PROBABLE} on", ""]
    lines += [f"{'true: smallest score':<40}{'pairs':>6}{'min':>8}"]
    lines += [f"{what:<40}{len(scores):>6}{min(scores):>8.3f}" for what, scores in true.items()]
    lines += ["", f"{'false: largest score':<40}{'pairs':>6}{'max':>8}"]
    lines += [f"{what:<40}{len(scores):>6}{max(scores):>8.3f}" for what, scores in false.items()]
    lines += ["", *(f"{what}: {value:.3f}" for what, value in times.items())]
    data = " ".join(word.split("=", 1)[0] + "=DATA" for word in words.data)
    result = {"true": true, "false": false, "smallest_true": lowest, "largest_false": highest, "seconds": times}
    command = f"python benchmarks/same_person.py {data} --contrast {words.contrast} --copies {words.copies}"
    write(f"same_person_{words.contrast}", command, result, "\n".join(lines))


if __name__ == "__main__":
    main()
