"""Make ``src/synthmr/data/phantom/mni152/mni152.npz`` from the three template files in nilearn's wheel (nilearn 0.11 on):

    python benchmarks/pack_template.py

What the phantom does not read is left out: everything outside the brain, the grey values of the T1 template, and one half of
the brain, because this template is symmetric. White matter is 255 - grey matter - CSF. Differences of neighbours compress
better than values.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

OUT = Path(__file__).parents[1] / "src" / "synthmr" / "data" / "phantom" / "mni152" / "mni152.npz"


def main() -> None:
    spec = importlib.util.find_spec("nilearn")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("nilearn is not installed: pip install nilearn")
    folder = Path(next(iter(spec.submodule_search_locations))) / "datasets" / "data"
    images = {kind: nibabel.load(folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz") for kind in ("t1", "gm", "wm")}
    t1, gm, wm = (np.asarray(image.dataobj) for image in images.values())
    brain = t1 > 0
    gm, csf = gm * brain, ((255 - gm.astype(int) - wm) * brain).astype(np.uint8)
    for array in (brain, gm, csf):
        assert (array == array[::-1]).all(), "this template is not symmetric"
    box = list(ndimage.find_objects(brain.astype(np.uint8))[0])
    offset = [part.start for part in box]
    width = box[0].stop - box[0].start
    assert box[0].start + box[0].stop == len(brain)
    box[0] = slice(box[0].start, box[0].start + (width + 1) // 2)
    parts = {"gm": gm, "csf": csf}
    packed = {name: differences(array[tuple(box)]) for name, array in parts.items()}
    corner = images["t1"].affine[:3, :3] @ offset + images["t1"].affine[:3, 3]
    half = brain[tuple(box)]
    np.savez_compressed(OUT, brain=np.packbits(half), shape=np.array(half.shape), width=width, corner=corner, **packed)
    print(f"{OUT}: {OUT.stat().st_size / 1e6:.2f} MB")


def differences(array: np.ndarray) -> np.ndarray:
    """uint8 differences along all three axes, modulo 256."""
    for axis in range(3):
        array = np.diff(array, axis=axis, prepend=np.uint8(0))
    return array


if __name__ == "__main__":
    main()
