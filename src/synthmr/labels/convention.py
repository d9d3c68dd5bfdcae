"""A label convention: what the numbers of a segmentation mean, and the parts and regions that follow from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from synthmr.errors import DataError, UsageError, did_you_mean
from synthmr.labels.arrays import looked_up, some, whole_numbers

if TYPE_CHECKING:
    from torch import Tensor

#: tumour class number -> name; its length is the C of MAF-Net's Eq. 5
CLASSES: tuple[str, ...] = ("background", "necrosis", "edema", "enhancing")

#: part of a tumour -> the class that it counts as; necrosis is necrosis and, where they are not told apart, non-enhancing tumour
TUMOUR: Mapping[str, int] = {
    **{name: number for number, name in enumerate(CLASSES)},
    "cavity": 0,
    "non-enhancing": 1,
    "cyst": 1,
}

#: every word that a label can mean -> what it says
PARTS: Mapping[str, str] = {
    "background": "nothing of interest",
    "necrosis": "necrosis, and non-enhancing tumour core where the two are one label",
    "edema": "oedema and infiltration around a tumour (SNFH)",
    "enhancing": "enhancing tumour",
    "cavity": "resection cavity; no tumour",
    "non-enhancing": "non-enhancing tumour core, apart from necrosis",
    "cyst": "cystic component",
    "unenhanced": "oedema and non-enhancing tumour, not told apart",
    "core": "tumour core, not divided",
    "tumour": "tumour, not divided",
    "lesion": "a lesion of any kind",
    "wmh": "white matter hyperintensity of presumed vascular origin",
    "other": "another pathology",
    "csf": "cerebrospinal fluid, ventricles included",
    "gm": "grey matter, cortical and deep",
    "wm": "white matter",
    "cerebellum": "cerebellum",
    "brainstem": "brainstem",
}

#: parts that are no lesion
HEALTHY: tuple[str, ...] = ("background", "csf", "gm", "wm", "cerebellum", "brainstem")

#: region of a tumour -> the classes it is the union of
REGIONS: Mapping[str, tuple[int, ...]] = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}

#: region of a tumour -> the parts it is the union of
UNIONS: Mapping[str, tuple[str, ...]] = {
    "WT": ("necrosis", "edema", "enhancing", "non-enhancing", "cyst", "unenhanced", "core", "tumour"),
    "TC": ("necrosis", "enhancing", "non-enhancing", "cyst", "core"),
    "ET": ("enhancing",),
}

#: parts that have no region of their own in scores: they are scored in WT, TC and ET, or as the lesion
_IN_UNIONS = ("background", "lesion", "necrosis", "edema", "enhancing", "non-enhancing", "unenhanced", "core", "tumour")


@dataclass(frozen=True)
class Convention:
    """What the numbers of a segmentation mean.

    Attributes:
        name: of the entry, or of your own file.
        labels: number -> part.
        others: the part of every other number above 0; empty where no other may occur.
        sure: labels that, where all of them occur, say that it is this one without any name; none: by name alone.
        hints: patterns of file and case names in small letters, those that end in ``/`` of folder names, those that begin with
            ``descrip:`` of what a header says.
        source: who writes labels so.
    """

    name: str
    labels: Mapping[int, str] = field(hash=False)
    others: str = ""
    sure: tuple[int, ...] = ()
    hints: tuple[str, ...] = ()
    source: str = ""

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that it tells apart, in the order of `PARTS`."""
        found = {*self.labels.values(), self.others}
        return tuple(part for part in PARTS if part in found)

    @property
    def is_tumour(self) -> bool:
        """Whether its parts are a tumour's and nothing else's, so that it has `CLASSES`."""
        return set(self.parts) <= set(TUMOUR) and any(TUMOUR[part] for part in self.parts)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class number -> name: `CLASSES` of a tumour, else background and its parts."""
        return CLASSES if self.is_tumour else ("background", *(part for part in self.parts if TUMOUR.get(part) != 0))

    @property
    def unions(self) -> tuple[str, ...]:
        """WT, TC and ET, as far as it tells them: no core where it is one label with oedema, no ET without that part."""
        if self.is_tumour:
            return tuple(UNIONS)
        undivided = {"unenhanced", "tumour"} & set(self.parts)
        there = [name for name, parts in UNIONS.items() if set(parts) & set(self.parts)]
        return tuple(name for name in there if name != "TC" or not undivided)

    @property
    def regions(self) -> tuple[str, ...]:
        """What `region` knows: WT, TC and ET of a tumour, then its parts."""
        return (*self.unions, *self.parts)

    @property
    def scored(self) -> tuple[str, ...]:
        """The regions that are scored apart, beside the lesion: WT, TC and ET of a tumour, and what is in none of them."""
        return (*self.unions, *(part for part in self.parts if part not in _IN_UNIONS))

    def holds(self, present: Iterable[int]) -> bool:
        """Whether labels may all occur in it."""
        return not self.strangers(present)

    def strangers(self, present: Iterable[int]) -> list[int]:
        """The labels that it does not have, ascending."""
        return sorted({int(label) for label in present if label not in self.labels and not (self.others and label > 0)})

    def part(self, label: int) -> str:
        """The part that a label means; background for one that it does not have."""
        return self.labels.get(label, self.others if label > 0 else "") or "background"

    def members(self, name: str, present: Iterable[int]) -> frozenset[int]:
        """Those of some labels that are in a region, or in ``lesion``: everything that is not healthy."""
        if name == "lesion":
            return frozenset(label for label in present if self.part(label) not in HEALTHY)
        parts = UNIONS.get(name, (name,))
        return frozenset(label for label in present if self.part(label) in parts)

    @overload
    def classes(self, labels: np.ndarray) -> np.ndarray: ...
    @overload
    def classes(self, labels: Tensor) -> Tensor: ...
    def classes(self, labels: Any) -> Any:
        """Labels of any shape as class numbers, which `class_names` names.

        Args:
            labels: an array ``(X, Y, Z)`` or a tensor ``(B, 1, *S)``; whole numbers of any type, bool where there is no tumour.

        Returns:
            The same shape: int8 for an array, int64 on the same device (what a cross-entropy takes) for a tensor.

        Raises:
            DataError: the labels are not whole numbers, or not of this convention.
        """
        return self._look_up(labels, {part: self._class_of(part) for part in self.parts})

    @overload
    def region(self, labels: np.ndarray, name: str) -> np.ndarray: ...
    @overload
    def region(self, labels: Tensor, name: str) -> Tensor: ...
    def region(self, labels: Any, name: str) -> Any:
        """Where ``labels`` (any shape, array or tensor) are in a part, or in WT, TC or ET: bool, the same shape.

        Raises:
            DataError: as `classes`.
            UsageError: this convention has no such region.
        """
        if name not in self.regions:
            raise UsageError(f"convention {self.name} has no region {name!r}: {did_you_mean(name, self.regions)}")
        inside = UNIONS.get(name, (name,))
        return self._look_up(labels, {part: int(part in inside) for part in self.parts}) == 1

    @overload
    def numbers(self, classes: np.ndarray) -> np.ndarray: ...
    @overload
    def numbers(self, classes: Tensor) -> Tensor: ...
    def numbers(self, classes: Any) -> Any:
        """The inverse of `classes`, for writing files; of a class with several labels the lowest number.

        Returns:
            The same shape: int8 for an array (int32 where a label is above 127), int64 on the same device for a tensor.

        Raises:
            DataError: something that is no class, or a class that the convention has no label for.
        """
        whole, present = whole_numbers(classes)
        table = [-1] * len(self.class_names)
        for label in sorted(self.labels, reverse=True):
            table[self._class_of(self.labels[label])] = label
        wrong = [number for number in present if not 0 <= number < len(table) or table[number] < 0]
        if wrong:
            raise DataError(f"{some(wrong)} is no class of convention {self.name}, which has {', '.join(self.class_names)}.")
        return looked_up(whole, table)

    def _class_of(self, part: str) -> int:
        if self.is_tumour:
            return TUMOUR[part]
        return self.class_names.index(part) if part in self.class_names else 0

    def _look_up(self, labels: Any, numbers: Mapping[str, int]) -> Any:
        """``labels`` with each number replaced by the number of its part."""
        whole, present = whole_numbers(labels, tumour=self.is_tumour)
        self.check(present)
        top = max(*self.labels, 1) + 1  # the place of all numbers beyond those that the convention lists
        table = [numbers.get(self.labels.get(label, self.others), 0) for label in range(top + 1)]
        return looked_up(whole if not present or present[-1] < top else whole.clip(max=top), table)

    def check(self, present: Iterable[int], what: str = "the segmentation") -> None:
        """Check that labels are of this convention.

        Raises:
            DataError: it does not have one of them; the message calls the labels ``what``.
        """
        wrong = self.strangers(present)
        if wrong:
            names = some(sorted(self.labels), 12) + (" and what is above" if self.others else "")
            raise DataError(
                f"{what} holds label {some(wrong)}, and {self.name} has {names};"
                " name another convention or relabel the segmentation."
            )
