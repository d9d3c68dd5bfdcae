"""What the page's viewer (templates/viewer.js) is given for one case, and the words beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps

from synthmr.report.figures import ERROR_COLOURS, OUTLINE
from synthmr.report.mosaic import Packed, pack
from synthmr.report.views import FigureCase, choose_centre, error_top, window
from synthmr.report.words import number, short

#: what the viewer's images are, in the order of its columns
KINDS = ("source", "truth", "prediction", "error")


def viewer_data(case: FigureCase, budget: int) -> dict[str, Any]:
    """The JSON that viewer.js reads.

    Args:
        case: what to show.
        budget: bytes that its pictures may take in the page.

    Returns:
        Plain data. Voxel positions are (x, y, z) of the packed volumes; ``origin`` and ``step`` lead back to the prepared
        volume: prepared = origin + step * packed.
    """
    packed = pack(case, budget)
    last = np.asarray(packed.shape) - 1
    centre = np.clip((np.asarray(choose_centre(case)) - packed.origin) // packed.step, 0, last)
    return {
        "name": case.name,
        "units": case.units,
        "shape": packed.shape,
        "spacing": [_rounded(edge * packed.step) for edge in case.spacing],
        "origin": packed.origin,
        "step": packed.step,
        "across": packed.across,
        "centre": centre.tolist(),
        "labels": packed.labels,
        "images": packed.images,
        "columns": _columns(case, packed),
        "top": _rounded(error_top(case, list(case.predictions))),
        "lesion": has_lesion(case),
        "outline": OUTLINE,
        "colours": _hex_colours(),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _hex_colours() -> str:
    """The error map's 256 colours as one string, six hexadecimal digits a colour."""
    table = (colormaps[ERROR_COLOURS](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
    return table.tobytes().hex()


def _columns(case: FigureCase, packed: Packed) -> list[dict[str, Any]]:
    """Sources, truth, predictions, errors: titles, the image each shows, its value range and window."""
    inside = case.mask.astype(bool)
    shown = {f"source:{name}": window(image, inside) for name, image in case.sources.items()}
    target = window(case.truth, inside)

    def column(kind: str, title: str, subtitle: str, image: str) -> dict[str, Any]:
        values = {"range": packed.ranges[image], "window": shown.get(image, target)}
        return {"kind": kind, "title": title, "subtitle": subtitle, "image": image} | {
            key: [_rounded(value) for value in pair] for key, pair in values.items()
        }

    found = [column("source", name, "input", f"source:{name}") for name in case.sources]
    found.append(column("truth", case.target, "acquired (truth)", "truth"))
    for name in case.predictions:
        psnr = case.scores.get(name, {}).get("psnr")
        words = "prediction" if psnr is None else f"prediction, {number('psnr', psnr)} dB"
        found.append(column("prediction", name, words, f"prediction:{name}"))
    found += [column("error", f"error of {name}", f"against {case.target}", f"prediction:{name}") for name in case.predictions]
    return found


def has_lesion(case: FigureCase) -> bool:
    """Whether a lesion label lies in the brain."""
    return case.segmentation is not None and bool(((case.segmentation > 0) & case.mask.astype(bool)).any())


def listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def viewer_caption(case: FigureCase, data: dict[str, Any]) -> str:
    """How to read the viewer."""
    coarse = data["step"] > 1
    units = f" ({case.units})"
    return (
        f"Columns: the inputs {listed(list(case.sources))}, the acquired {case.target}, its prediction by"
        f" {listed(list(case.predictions))}, and their errors."
        if case.sources
        else f"Columns: the acquired {case.target}, its prediction by {listed(list(case.predictions))}, and their errors."
    ) + (
        f" The patient's right (R) is on the left; in sagittal images anterior (A) is on the left. Acquired and predicted"
        f" {case.target} share one grey scale, so their brightness can be compared; each input has its own. Error maps are black"
        f" where the prediction is right; their colours end at {short(data['top'])}{units}, the same for all methods of this case,"
        " and at most 1 % of the brain lies above."
        + (" The green line follows the lesion label." if data["lesion"] else "")
        + " The images are compressed for this page"
        + (f" and averaged over {data['step']} × {data['step']} × {data['step']} voxels" if coarse else "")
        + ", so values read from them are approximate; the scores were computed before."
    )
