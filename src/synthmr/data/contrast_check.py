"""Whether an image is of the contrast that its name says, from the rank correlations between the contrasts of its case.

Measured in the brain on 14 patients of two collections (BraTS 2018, open_ms), and on 29 of five for T1w with T2w and T1ce:

| pair | smallest | largest |
|---|---|---|
| T1w or T1ce with T2w | -.79 | .32 |
| T1w with T1ce | .42 | .89 |
| FLAIR with T1w, T1ce | -.24 | .65 |
| FLAIR with T2w | -.09 | .39 |

Two images of one contrast have above .75. Within each of those cases, T1w and T1ce are nearer to one another than to T2w by .31 or
more, and FLAIR is nearer to T1w than T2w is, by .23 or more: an order that is turned round says that two names were exchanged.
"""

from __future__ import annotations

from collections.abc import Mapping

from synthmr.data.findings import Findings

#: T1w or T1ce, and T2w: above the first they are of one contrast; above the second a person should look
ONE_CONTRAST, DOUBTFUL = 0.55, 0.4

#: FLAIR and another of the four: above this they look like one
ALIKE = 0.75

#: T1w and T1ce of one case have at least this
LEAST_T1 = 0.2

#: an order of two correlations counts as turned round from this difference on
TURNED = 0.1

#: a third contrast, what it must be nearer to, than what, and what an order that is turned round is
ORDER = (
    ("T1ce", "T1w", "T2w", "error"),
    ("T1w", "T1ce", "T2w", "error"),
    ("T1w", "FLAIR", "T2w", "warning"),
    ("T1ce", "FLAIR", "T2w", "warning"),
)

MEANING = "The model would learn one contrast under the other's name."
LOOK = "Look at the files and give each its right name, or say what a name means with --alias NAME=CONTRAST."


def check_correlations(case: str, values: Mapping[tuple[str, str], float], files: Mapping[str, str], found: Findings) -> None:
    """Compare the correlations of a case with what contrasts have.

    Args:
        case: name, for the findings.
        values: of `synthmr.prepare.correlation.contrast_correlations`.
        files: contrast -> file name.
        found: gets what is wrong.
    """
    turned = _turned(case, values, files, found)
    for (one, two), value in values.items():
        pair = {one, two}
        if pair <= turned:
            continue
        level, usual = "", ""
        if "T2w" in pair and pair & {"T1w", "T1ce"} and value > DOUBTFUL:
            level, usual = "error" if value > ONE_CONTRAST else "warning", "29 patients had at most .32"
        elif "FLAIR" in pair and pair & {"T1w", "T1ce", "T2w"} and value > ALIKE:
            level, usual = "warning", "14 patients had at most .65"
        if level:
            what = f"{_files(one, two, files)} look like one contrast: rank correlation {value:.2f} in the brain ({usual})"
            found.add(level, case, f"{one}, {two}", what, MEANING, LOOK)
        elif pair == {"T1w", "T1ce"} and value < LEAST_T1:
            what = f"{_files('T1w', 'T1ce', files)} do not look like T1w and T1ce: rank correlation {value:.2f} in the brain"
            found.add("warning", case, "T1w, T1ce", f"{what} (patients had .42 to .89)", MEANING, LOOK)


def _turned(case: str, values: Mapping[tuple[str, str], float], files: Mapping[str, str], found: Findings) -> set[str]:
    """Two contrasts whose names seem to be exchanged: a third is nearer to the wrong one. Returns them, or nothing."""

    def nearness(one: str, two: str) -> float | None:
        return values.get((min(one, two), max(one, two)))

    best: tuple[float, set[str], str, str, str] | None = None
    for third, near, far, level in ORDER:
        right, wrong = nearness(third, near), nearness(third, far)
        if right is None or wrong is None or wrong - right <= TURNED:
            continue
        what = (
            f"{_files(near, far, files)} seem to be exchanged: the rank correlation of {third} in the brain is {wrong:.2f} with"
            f" {far} and {right:.2f} with {near}"
        )
        # the clearest says which two; an order that is certain comes before one that is not
        if best is None or (level == "error", wrong - right) > (best[2] == "error", best[0]):
            best = (wrong - right, {third, near, far}, level, f"{near}, {far}", what)
    if best is None:
        return set()
    found.add(best[2], case, best[3], best[4], MEANING, LOOK)
    return best[1]


def _files(one: str, two: str, files: Mapping[str, str]) -> str:
    return f"{files.get(one, one)} ({one}) and {files.get(two, two)} ({two})"
