"""How a volume is predicted, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

from synthmr.case import plane_axis
from synthmr.errors import UsageError, did_you_mean
from synthmr.predict.precision import PRECISIONS, SWITCHES
from synthmr.predict.stitch import WINDOWS

MODES = ("slices", "patches")

_WORDS = {"mode": MODES, "window": WINDOWS, "precision": PRECISIONS, "channels_last": SWITCHES, "tight": SWITCHES}


@dataclass(frozen=True)
class PredictSettings:
    """How a volume is predicted.

    Attributes:
        mode: slices (whole) or patches (overlapping, blended). Methods that work in boxes are always shown overlapping boxes.
        patch: (H, W) of a patch, rounded up to the method's divisor.
        overlap: share of a patch or box that its neighbour covers too, in [0, 1). With 128x128 patches 0.5 gives Hi-Net's four
            patches a slice.
        window: blending weights: uniform (the paper's average), linear or gaussian.
        batch: slices, patches or boxes at once; 0 chooses by the number of pixels.
        precision: auto, 32 or bf16.
        channels_last: auto, on or off.
        tight: show the network a window around the brain of each slice, not the whole box: on, off or auto (unless it
            works with statistics of the whole slice). Patches are always cut from the whole box.
        plane: axial, coronal or sagittal: another view than the one the run was trained on (MILR, Section VI-I); empty: the same.
        quick: predict so many slices of a case, evenly spaced over its brain, or the boxes that meet them, without overlap; 0
            predicts all. For validation while a network trains.

    Raises:
        UsageError: an unknown word, or a number that makes no sense.
    """

    mode: str = "slices"
    patch: tuple[int, int] = (128, 128)
    overlap: float = 0.5
    window: str = "uniform"
    batch: int = 0
    precision: str = "auto"
    channels_last: str = "auto"
    tight: str = "auto"
    plane: str = ""
    quick: int = 0

    def __post_init__(self) -> None:
        for key, allowed in _WORDS.items():
            if getattr(self, key) not in allowed:
                raise UsageError(f"{key}={getattr(self, key)!r}: {did_you_mean(str(getattr(self, key)), allowed)}")
        if self.plane:
            plane_axis(self.plane)
        if not 0 <= self.overlap < 1 or min(self.patch) < 1 or self.batch < 0 or self.quick < 0:
            raise UsageError(
                f"patch={self.patch}, overlap={self.overlap:g}, batch={self.batch}, quick={self.quick}: a patch has at least 1"
                " pixel, an overlap is in [0, 1), and batch and quick are not negative."
            )
