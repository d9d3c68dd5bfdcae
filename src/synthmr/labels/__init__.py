"""Label conventions: what the numbers of a segmentation mean.

`entries` has the conventions that come with synthmr and reads your own; `convention` says what follows from one: its parts, the
regions WT, TC and ET, and the four classes of a tumour (MAF-Net's Eq. 5); `meaning` decides which one a cohort follows.

Whatever is computed is of parts. MAF-Net's "4 categories" (C in Eq. 5) are `CLASSES`, and its regions (Section IV) are unions:
whole tumour WT = "the union of edema, enhancing tumor, and necrosis", tumour core TC = "the union of necrosis and enhancing
tumor", ET = enhancing tumour.
"""

from __future__ import annotations

from synthmr.labels.arrays import present_in
from synthmr.labels.classes import check_classes, region, to_brats, to_classes, tumour
from synthmr.labels.convention import CLASSES, HEALTHY, PARTS, REGIONS, TUMOUR, UNIONS, Convention
from synthmr.labels.entries import HIGHEST, conventions, get
from synthmr.labels.meaning import AUTO, Evidence, Meaning, Seen, convention_of, decide, describe

__all__ = [
    "AUTO", "CLASSES", "HEALTHY", "HIGHEST", "PARTS", "REGIONS", "TUMOUR", "UNIONS", "Convention", "Evidence", "Meaning", "Seen",
    "check_classes", "convention_of", "conventions", "decide", "describe", "get", "present_in", "region", "to_brats", "to_classes",
    "tumour",
]  # fmt: skip
