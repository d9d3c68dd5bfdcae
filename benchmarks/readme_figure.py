"""The README's picture: one test case's inputs, truth, prediction and error in one axial slice.

python benchmarks/readme_figure.py --sources T1w=data/P/T1w.nii.gz T2w=data/P/T2w.nii.gz --target FLAIR \
    --truth data/P/FLAIR.nii.gz --prediction hinet=out/P_FLAIR.nii.gz --mask data/P/mask.nii.gz --normalizer percentile \
    --out docs/images/synthesis.png

With ``--normalizer`` the prediction is one of ``synthmr synthesize --intensity normalized``, in [0, 1], and the truth is
brought there by its own parameters, as it is for scoring; without it both files are taken in the units they have.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from synthmr.contrasts import resolve
from synthmr.errors import SynthmrError, UsageError
from synthmr.evaluate.metrics import psnr
from synthmr.io.grid import check_same_grid
from synthmr.io.nifti import load
from synthmr.prepare import normalize, orient
from synthmr.prepare.mask import brain_mask
from synthmr.report.figures import readme_figure, write_picture
from synthmr.report.views import PLANES, FigureCase


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", nargs="+", required=True, metavar="CONTRAST=FILE")
    parser.add_argument("--target", default="FLAIR")
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--prediction", required=True, metavar="[METHOD=]FILE")
    parser.add_argument("--mask", type=Path, help="brain mask; without it, non-zero voxels or Otsu")
    parser.add_argument("--segmentation", type=Path, help="lesion labels, outlined; the planes go through the largest")
    parser.add_argument(
        "--normalizer",
        default="",
        choices=("percentile", "minmax", "zscore", "mean"),
        help="of the run, where the prediction is in normalised units",
    )
    parser.add_argument("--centre", type=int, nargs=3, help="voxel (x, y, z) of the RAS volume that the planes go through")
    parser.add_argument("--planes", nargs="+", default=["axial"], choices=PLANES)
    parser.add_argument("--width", type=int, default=1200, help="logical pixels; the file has 1.5 times as many")
    parser.add_argument("--out", type=Path, default=Path("docs/images/synthesis.png"))
    return parser.parse_args()


def read_case(args: argparse.Namespace) -> FigureCase:
    """Load the volumes, check that they lie on one grid, and bring them to RAS."""
    target = resolve(args.target)
    method, _, prediction = args.prediction.rpartition("=")
    files = {"truth": args.truth, "prediction": Path(prediction)}
    for pair in args.sources:
        name, equals, path = pair.partition("=")
        if not equals:
            raise UsageError(f"--sources {pair!r} is not of the form CONTRAST=FILE; write for example T1w=T1w.nii.gz.")
        files[f"source {resolve(name)}"] = Path(path)
    files |= {name: path for name, path in (("mask", args.mask), ("segmentation", args.segmentation)) if path is not None}
    volumes = {name: load(path, label=name) for name, path in files.items()}
    check_same_grid({f"{name} {files[name]}": volume for name, volume in volumes.items()})
    turn = orient.fit(volumes["truth"].shape, volumes["truth"].affine)
    arrays = {name: orient.apply(volume.array, turn) for name, volume in volumes.items()}
    spacing = np.sqrt(np.square(orient.apply_affine(volumes["truth"].affine, turn)[:3, :3]).sum(axis=0)).tolist()
    sources = {name.removeprefix("source "): array for name, array in arrays.items() if name.startswith("source ")}
    mask = brain_mask(sources, arrays.get("mask"), "auto", args.truth.name)[0]
    truth, predicted, method = arrays["truth"], arrays["prediction"], method or "prediction"
    scores: dict[str, dict[str, float]] = {}
    units = "file units"
    if args.normalizer:
        params = normalize.fit(args.normalizer, truth[mask])
        truth = normalize.to_unit(normalize.apply(truth, params), params)
        units = "share of the range"
        scores[method] = {"psnr": psnr(predicted, truth, 1.0, mask)}  # protocol masked-volume
    return FigureCase(
        name=args.truth.name,
        target=target,
        spacing=(spacing[0], spacing[1], spacing[2]),
        sources=sources,
        truth=truth,
        predictions={method: predicted},
        mask=mask,
        units=units,
        scores=scores,
        segmentation=arrays.get("segmentation"),
        centre=tuple(args.centre) if args.centre else None,
    )


def main() -> int:
    """Draw and write; returns the exit code."""
    args = arguments()
    try:
        size = write_picture(args.out, readme_figure(read_case(args), planes=args.planes, width=args.width))
    except SynthmrError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{args.out}: {size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
