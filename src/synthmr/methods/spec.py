"""What a method says of itself, as plain data. Nothing here needs torch, so that a table of methods is quick."""

from __future__ import annotations

from dataclasses import dataclass

OUTPUTS = ("image", "labels", "map")
SUPERVISION = ("paired", "unpaired", "either")
NEEDS = ("mask", "coords", "segmentation")


@dataclass(frozen=True)
class Spec:
    """The capabilities of a method, whatever its options.

    Attributes:
        name: as typed on the command line.
        title: one line for the capability table.
        paper: authors, venue, year; empty for a baseline of our own.
        doi: of the paper, or empty.
        supervision: paired, unpaired or either.
        sources: (fewest, most) input contrasts.
        targets: (fewest, most) output contrasts.
        any_subset: with its default options it runs with any non-empty subset of the sources it was trained with.
        dims: spatial dimensions it can work in, that of the default options first; for each there are options whose `Traits`
            say so.
        outputs: what `Output.mean` is: image (of the target contrasts), labels (probabilities of classes) or map.
        needs: inputs beside the sources, of mask, coords, segmentation.
        divisor: spatial sizes must be multiples of this; prediction pads and crops.
        output_range: (low, high) that the output cannot leave (tanh: (-1, 1)), or None.
        maps: maps that can be asked for beside the images; see `Method.map`.
        extendable: a trained run takes new sources and targets later (`synthmr extend`). Its Options then have
            ``frozen: tuple[str, ...] = ()``: the contrasts whose own parts do not learn.
    """

    name: str
    title: str
    paper: str = ""
    doi: str = ""
    supervision: str = "paired"
    sources: tuple[int, int] = (1, 8)
    targets: tuple[int, int] = (1, 1)
    any_subset: bool = False
    dims: tuple[int, ...] = (2,)
    outputs: str = "image"
    needs: tuple[str, ...] = ()
    divisor: int = 1
    output_range: tuple[float, float] | None = None
    maps: tuple[str, ...] = ()
    extendable: bool = False


@dataclass(frozen=True)
class Traits:
    """What the options make of a method.

    Attributes:
        dims: spatial dimensions of its batches: 2 for slices ``(H, W)``, 3 for boxes ``(X, Y, Z)``.
        neighbours: slices k on either side of the sample's own that it is shown: ``C = 2k + 1`` channels a contrast.
        any_subset: it runs with any non-empty subset of its sources, and trains on cases that lack some.
    """

    dims: int = 2
    neighbours: int = 0
    any_subset: bool = False


@dataclass(frozen=True)
class Selection:
    """What chooses the weights that are kept.

    Attributes:
        name: of the score.
        higher: whether more is better.
        unit: for people, or empty.
    """

    name: str = "psnr"
    higher: bool = True
    unit: str = "dB"

    def better(self, score: float, best: float) -> bool:
        """Whether a score is better than the best so far."""
        return score > best if self.higher else score < best
