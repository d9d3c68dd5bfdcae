"""What the training cases of a run were like, and what of another case is outside.

A run keeps, of each number that `synthmr.prepare.measure` takes of a case, the range over its training cases and their spread. A
new case is compared with these ranges, widened by a floor or by two standard deviations, whichever is more, and further where there
are few training cases. What is outside is an `Alarm` with a fixed code, a number and what is allowed:

| code | number | allowed |
|---|---|---|
| ``domain.background`` | the constant that lay under the image, or the air over the brain's median | as in training |
| ``domain.negative`` | share of the brain's voxels below the background | as in training |
| ``domain.contrast`` | rank correlation of two sources; a percentile or tissue over the median | as in training |
| ``domain.swapped`` | how much better the images fit other names | below the margin |
| ``domain.units`` | 99.5th percentile of the brain, scanner units | within a factor of 10 of training |
| ``domain.noise`` | noise over the brain's median | as in training |
| ``domain.spacing`` | mm | within a factor of 1.25 of training |
| ``domain.fov`` | mm or ml of brain, or the share of its cross-section that an edge cuts | as in training |
| ``domain.skull`` | 1 with a skull, 0 without | as in training |
| ``domain.trained`` | training images among the case's own | 0 |

Every normaliser of `synthmr.prepare.normalize` takes the gain out, so other units alone are told and nothing more. Certain alarms
are those that no acquisition explains; a prediction from such images is refused unless it is forced.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from synthmr.prepare.measure import flat

#: raise when the numbers that are kept change
VERSION = 1

#: number, by what follows the last dot of its name -> (code, least widening, words, whether it is a logarithm)
RULES: Mapping[str, tuple[str, float, str, bool]] = {
    "air": ("domain.background", 0.15, "the air around the head is {} of the brain's median", False),
    "negative": ("domain.negative", 0.05, "{} of the brain's voxels are below the background", False),
    "p5": ("domain.contrast", 1.6, "the 5th percentile of the brain is {} of its median", True),
    "p25": ("domain.contrast", 0.4, "the 25th percentile of the brain is {} of its median", True),
    "p75": ("domain.contrast", 0.2, "the 75th percentile of the brain is {} of its median", True),
    "top": ("domain.contrast", 0.45, "the 99.5th percentile of the brain is {} of its median", True),
    "surface": ("domain.contrast", 0.35, "the surface of the brain is {} of its median", True),
    "core": ("domain.contrast", 1.1, "the darkest tissue deep in the brain is {} of the median", True),
    "gain": ("domain.units", float(np.log(10)), "the 99.5th percentile of the brain is {}", True),
    "noise": ("domain.noise", float(np.log(1.8)), "noise is {} of the brain's median", True),
    "x": ("domain.spacing", float(np.log(1.25)), "voxels measure {} mm along x", True),
    "y": ("domain.spacing", float(np.log(1.25)), "voxels measure {} mm along y", True),
    "z": ("domain.spacing", float(np.log(1.25)), "voxels measure {} mm along z", True),
    "volume": ("domain.fov", float(np.log(1.35)), "the brain mask holds {} ml", True),
    "cut": ("domain.fov", 0.25, "an edge of the volume cuts {} of the brain's cross-section", False),
}
#: the same of a brain's length along an axis, and of a rank correlation
EXTENT = ("domain.fov", float(np.log(1.2)), "the brain measures {} mm along {}", True)
CORRELATION = ("domain.contrast", 0.25, "the rank correlation in the brain is {}", False)
#: widening in standard deviations of the training cases
SPREADS = 2.0
#: widenings are (1 + FEW / n) times as wide for n training cases; margins from which a name is certainly wrong at least so much
FEW = 2.0
#: a rank correlation this far outside the widened range is of no contrast that the run knows
FAR = 0.3
#: with fewer training cases no rank correlation is certain
SETTLED = 4
#: share of negative voxels above which, with hardly one in training, an image is sign-flipped or centred
MOSTLY = 0.2

#: floors of the spread by which other names of images are weighed, by number
WEIGHED = {"p5": 0.25, "p25": 0.08, "p75": 0.06, "top": 0.12, "surface": 0.1, "core": 0.15}
#: the same of a rank correlation, and how much one counts
PAIR_FLOOR, PAIR_WEIGHT = 0.12, 2.0
#: most that one number adds
CLIP = 16.0
#: by how much the images must fit each other's names better, and how well (mean squared standard deviation of a number), to be
#: told; from `SURE` on it is certain. At most 0.8 for right names in 12 BraTS and 6 phantom subjects, each against the others
MARGIN, SURE, FIT = 6.0, 10.0, 4.0
#: the same of one image that fits a name that none of the others has, where a number of it is outside already or it fits closely,
#: and the margin where neither is so: one subject of the 18 has 23 with a fit of 0.7, all others at most 6
OTHER_MARGIN, OTHER_SURE, OTHER_FIT, OTHER_CLOSE, OTHER_ALONE = 10.0, 15.0, 1.5, 0.5, 30.0
#: codes that explain odd contrast: with one of them nothing about the contrast is certain
EXPLAIN = frozenset({"domain.spacing", "domain.fov", "domain.skull", "domain.noise"})
#: most sources of which every order is tried
ORDERS = 5
#: about how many training cases are each weighed by the others
LEFT_OUT = 40


@dataclass(frozen=True)
class Range:
    """A number over the training cases.

    Attributes:
        low: smallest.
        high: largest.
        middle: median.
        spread: standard deviation.
        cases: how many.
    """

    low: float
    high: float
    middle: float
    spread: float
    cases: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Range:
        """The range of some values."""
        array = np.asarray(values, np.float64)
        return cls(float(array.min()), float(array.max()), float(np.median(array)), float(array.std()), len(array))

    def allowed(self, floor: float) -> tuple[float, float]:
        """The range, widened by ``floor`` at least."""
        more = max(floor, SPREADS * self.spread) * (1 + FEW / self.cases)
        return self.low - more, self.high + more


@dataclass(frozen=True)
class Alarm:
    """Something in which a case is outside of what a run was trained on.

    Attributes:
        code: see the table at the top of this file.
        text: what was found and what training had, for a person.
        number: that was found.
        allowed: (low, high) by the training cases.
        certain: whether no acquisition explains it, so that a prediction is refused.
    """

    code: str
    text: str
    number: float
    allowed: tuple[float, float]
    certain: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a sidecar: code, text, number, allowed."""
        low, high = (float(f"{value:.4g}") for value in self.allowed)
        return {"code": self.code, "text": self.text, "number": float(f"{self.number:.4g}"), "allowed": [low, high]}


@dataclass(frozen=True)
class Domain:
    """What the training cases of a run were like.

    Attributes:
        ranges: name of a number (`synthmr.prepare.measure.flat`) -> its range.
        modes: how brain masks were made -> in how many cases.
        seen: checksum of a training image's content -> its case.
        confused: most by which the images of a training case fit other names better, each case weighed by the others alone.
    """

    ranges: Mapping[str, Range] = field(default_factory=dict)
    modes: Mapping[str, int] = field(default_factory=dict)
    seen: Mapping[str, str] = field(default_factory=dict)
    confused: float = 0.0

    @classmethod
    def learn(cls, cases: Mapping[str, Mapping[str, Any]]) -> Domain:
        """From what `measure` gives of each training case."""
        found = cls._of(cases)
        names = list(cases)
        confused = 0.0
        for name in names[:: max(1, len(names) // LEFT_OUT)] if len(names) > 1 else ():
            others = cls._of({other: cases[other] for other in names if other != name})
            part = {
                **cases[name],
                "images": {key: each for key, each in cases[name]["images"].items() if f"{key}.gain" in others.ranges},
            }
            confused = max(confused, others._other_names(part, tuple(part["images"]))[0])
        return replace(found, confused=confused)

    @classmethod
    def _of(cls, cases: Mapping[str, Mapping[str, Any]]) -> Domain:
        """Without what must be weighed case by case."""
        numbers: dict[str, list[float]] = {}
        modes: dict[str, int] = {}
        seen: dict[str, str] = {}
        for case, found in cases.items():
            for name, value in flat(found).items():
                numbers.setdefault(name, []).append(value)
            modes[found["mode"]] = modes.get(found["mode"], 0) + 1
            seen |= {image["digest"]: case for image in found["images"].values() if image["digest"]}
        return cls({name: Range.of(values) for name, values in numbers.items()}, modes, seen)

    def extended(self, new: Domain) -> Domain:
        """With the contrasts that ``new`` has beside: what the old ones were like stays as it was."""
        seen, confused = {**new.seen, **self.seen}, max(self.confused, new.confused)
        return Domain({**new.ranges, **self.ranges}, self.modes or new.modes, seen, confused)

    def to_json(self) -> dict[str, Any]:
        """Plain data for the run folder."""

        def short(each: Range) -> list[float]:
            return [*(float(f"{value:.7g}") for value in (each.low, each.high, each.middle, each.spread)), each.cases]

        ranges = {name: short(each) for name, each in self.ranges.items()}
        confused = float(f"{self.confused:.7g}")
        return {"version": VERSION, "ranges": ranges, "modes": dict(self.modes), "seen": dict(self.seen), "confused": confused}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Domain:
        """Inverse of `to_json`.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: it is not what `to_json` gives.
        """
        ranges = {}
        for name, (low, high, middle, spread, cases) in data["ranges"].items():
            ranges[str(name)] = Range(float(low), float(high), float(middle), float(spread), int(cases))
        modes = {str(name): int(count) for name, count in data["modes"].items()}
        seen = {str(digest): str(case) for digest, case in data["seen"].items()}
        return cls(ranges, modes, seen, float(data.get("confused", 0.0)))

    # --- comparison

    def compare(self, found: Mapping[str, Any], names: Sequence[str] | None = None, case: str = "") -> tuple[Alarm, ...]:
        """What of a case is outside.

        Args:
            found: what `measure` gives.
            names: contrasts to look at; None: all that are there.
            case: its name; where the run was trained on it under another one, that is said.

        Returns:
            Certain alarms first, at most one a code and contrast: the one that is furthest outside.
        """
        images = {name: image for name, image in found["images"].items() if names is None or name in names}
        known = {name: image for name, image in images.items() if f"{name}.gain" in self.ranges}
        part = {**found, "images": known}
        numbers = list(self._numbers(part))
        odd = {name for alarm, owners in numbers if alarm.code == "domain.contrast" for name in owners}
        told = [*self._copies(part), *self._named(part, odd), *self._constants(part)]
        spoken = {name for alarm, owners in told if alarm.certain for name in owners}
        told += [(alarm, owners) for alarm, owners in numbers if not spoken & set(owners) or not owners]
        alarms = [*(alarm for alarm, _ in told), *self._skull(found), *self._trained(images, case)]
        if EXPLAIN & {alarm.code for alarm in alarms}:
            sure = {alarm for alarm, _ in self._copies(part)}
            contrast = ("domain.contrast", "domain.swapped")
            alarms = [replace(alarm, certain=alarm in sure) if alarm.code in contrast else alarm for alarm in alarms]
        return tuple(sorted(alarms, key=lambda alarm: not alarm.certain))

    def _numbers(self, found: Mapping[str, Any]) -> Iterable[tuple[Alarm, tuple[str, ...]]]:
        """Numbers outside their range, with the contrasts that they are of."""
        worst: dict[tuple[Any, ...], tuple[float, Alarm, tuple[str, ...]]] = {}
        for name, value in flat(found).items():
            rule, owners, where = _rule(name)
            if rule is None or name not in self.ranges or not set(owners) <= set(found["images"]):
                continue
            code, floor, words, log = rule
            low, high = self.ranges[name].allowed(floor)
            if len(owners) == 2:
                low, high = max(low, -1.0), min(high, 1.0)
            if low <= value <= high:
                continue
            number, allowed = (float(np.exp(value)), (float(np.exp(low)), float(np.exp(high)))) if log else (value, (low, high))
            beyond = max(low - value, value - high)
            certain = False
            if len(owners) == 2:
                certain = beyond > FAR and self.ranges[name].cases >= SETTLED
            elif code == "domain.negative":
                certain = value > MOSTLY and self.ranges[name].high < 0.05
            text = f"{' and '.join(owners)}: " if owners else ""
            text += words.format(f"{number:.3g}", where) + f"; by the training cases {_words(allowed)}."
            key = (code, owners, code == "domain.spacing" and where)
            far = beyond / max(floor, 1e-9)
            if key not in worst or far > worst[key][0] or (certain and not worst[key][1].certain):
                worst[key] = far, Alarm(code, text, number, allowed, certain), owners
        return [(alarm, owners) for _, alarm, owners in worst.values()]

    def _copies(self, found: Mapping[str, Any]) -> Iterable[tuple[Alarm, tuple[str, ...]]]:
        """One image under two names, by its content."""
        seen: dict[str, str] = {}
        for name, image in found["images"].items():
            other = seen.setdefault(image["digest"], name) if image["digest"] else name
            if other != name:
                known = self.ranges.get("+".join(sorted((name, other))))
                text = f"{other} and {name} are the same image: one of them is under a wrong name."
                yield Alarm("domain.contrast", text, 1.0, (-1.0, 1.0 if known is None else known.high), True), (other, name)

    def _constants(self, found: Mapping[str, Any]) -> Iterable[tuple[Alarm, tuple[str, ...]]]:
        """Constant backgrounds that no training image had; they are taken off, so nothing is refused."""
        for name, image in found["images"].items():
            known = self.ranges[f"{name}.constant"]
            value = float(image["constant"])
            if not known.low <= value <= known.high:
                done = "it was subtracted" if image["offset"] else "it was set to 0"
                had = f"{known.low:g}" if known.low == known.high else f"{known.low:g} to {known.high:g}"
                text = f"{name}: its background is the constant {value:g}, in the training cases {had}; {done}."
                yield Alarm("domain.background", text, value, (known.low, known.high)), (name,)

    def _skull(self, found: Mapping[str, Any]) -> Iterable[Alarm]:
        """A head, where training saw brains, or the other way round."""
        heads, all_ = self.modes.get("otsu", 0), sum(self.modes.values())
        head = found["mode"] == "otsu"
        if not all_ or (head and heads) or (not head and heads < all_):
            return
        text = (
            "the images show a whole head without brain mask, and every training case was a brain; give the mask, or skull-strip."
            if head
            else "the images show a brain alone, and every training case was a whole head."
        )
        yield Alarm("domain.skull", text, float(head), (0.0, 0.0) if head else (1.0, 1.0))

    def _trained(self, images: Mapping[str, Any], case: str) -> Iterable[Alarm]:
        """Images that the run was trained on, by their content."""
        same = {name: self.seen[image["digest"]] for name, image in images.items() if image["digest"] in self.seen}
        if same:
            others = ", ".join(name for name in dict.fromkeys(same.values()) if name != case)
            called = f", there called {others}" if others else ""
            text = f"the run was trained on {', '.join(same)} of this case{called}: its prediction says nothing of new cases."
            yield Alarm("domain.trained", text, float(len(same)), (0.0, 0.0))

    # --- other names

    def _named(self, found: Mapping[str, Any], odd: Collection[str]) -> Iterable[tuple[Alarm, tuple[str, ...]]]:
        """Images that fit other names better than their own: swapped sources, or another contrast of the run.

        ``odd`` are the contrasts of which a number is outside already.
        """
        names = tuple(found["images"])
        gain, given, swapped = self._other_names(found, odd)
        enough, sure = (MARGIN, SURE) if swapped else (OTHER_MARGIN, OTHER_SURE)
        # where images of the training fit each other's names so well, it means nothing here
        enough = max(enough, self.confused)
        if given == names or gain < enough:
            return
        cases = min(self.ranges[f"{name}.gain"].cases for name in given)
        # one case says nothing of how much cases differ, and a few say little where any of them could be confused
        few = 2 * FEW if self.confused else FEW
        sure = max(sure * (1 + few / cases), 1.5 * self.confused) if cases > 1 else float("inf")
        moved = [(name, other) for name, other in zip(names, given, strict=True) if name != other]
        words = " and ".join(f"{name} looks like {other}" for name, other in moved)
        code, fix = ("domain.swapped", "were the files swapped") if swapped else ("domain.contrast", "is it the right file")
        text = f"{words} (these names fit better by {gain:.3g}, {enough:.3g} is allowed): {fix}?"
        yield Alarm(code, text, gain, (0.0, enough), gain >= sure), tuple(name for name, _ in moved)

    def _other_names(self, found: Mapping[str, Any], odd: Collection[str]) -> tuple[float, tuple[str, ...], bool]:
        """The names that a case's images fit best: (by how much better, the names, whether they are only exchanged)."""
        names = tuple(found["images"])
        shapes = {name: {key: flat(found)[f"{name}.{key}"] for key in WEIGHED} for name in names}
        pairs = {tuple(pair.split("+")): value for pair, value in found["correlations"].items()}
        own, _ = self._misfit(names, names, shapes, pairs)
        best: tuple[float, tuple[str, ...], bool] = (0.0, names, True)
        for other in self._orders(names):
            misfit, fit = self._misfit(names, other, shapes, pairs)
            swapped = sorted(other) == sorted(names)
            known = swapped or any(name in odd for name, role in zip(names, other, strict=True) if name != role)
            alone = OTHER_MARGIN if known or fit <= OTHER_CLOSE else OTHER_ALONE
            enough, most = (MARGIN, FIT) if swapped else (alone, OTHER_FIT)
            if own - misfit >= enough and fit <= most and own - misfit > best[0]:
                best = own - misfit, other, swapped
        return best

    def _orders(self, names: tuple[str, ...]) -> Iterable[tuple[str, ...]]:
        """Other names that images may have: each other's, or one of another contrast that the run knows."""
        from itertools import combinations, permutations

        if len(names) <= ORDERS:
            yield from permutations(names)
        else:
            for one, two in combinations(range(len(names)), 2):
                swapped = list(names)
                swapped[one], swapped[two] = names[two], names[one]
                yield tuple(swapped)
        others = [name.removesuffix(".gain") for name in self.ranges if name.endswith(".gain")]
        for place, name in enumerate(names):
            for other in others:
                if other != name and other not in names:
                    yield (*names[:place], other, *names[place + 1 :])

    def _misfit(
        self,
        names: tuple[str, ...],
        given: tuple[str, ...],
        shapes: Mapping[str, Mapping[str, float]],
        pairs: Mapping[tuple[str, ...], float],
    ) -> tuple[float, float]:
        """How badly images ``names`` fit as what ``given`` calls them, in squared standard deviations: (sum, mean of a number)."""
        total, count = 0.0, len(names) * float(len(WEIGHED))
        for name, role in zip(names, given, strict=True):
            total += sum(self._off(f"{role}.{key}", shapes[name][key], floor) for key, floor in WEIGHED.items())
        for number, one in enumerate(names):
            for other, two in zip(names[number + 1 :], given[number + 1 :], strict=True):
                value = pairs.get((min(one, other), max(one, other)))
                known = "+".join(sorted((given[number], two)))
                if value is not None and known in self.ranges:
                    total += PAIR_WEIGHT * self._off(known, value, PAIR_FLOOR)
                    count += PAIR_WEIGHT
        return total, total / max(count, 1.0)

    def _off(self, name: str, value: float, floor: float) -> float:
        """Squared distance of a number from its median in training, in standard deviations, at most `CLIP`."""
        known = self.ranges.get(name)
        return 0.0 if known is None else min(((value - known.middle) / max(known.spread, floor)) ** 2, CLIP)


def _rule(name: str) -> tuple[tuple[str, float, str, bool] | None, tuple[str, ...], str]:
    """(rule, contrasts, axis) of a number."""
    first, dot, key = name.partition(".")
    if first == "extent":
        return EXTENT, (), key
    if first in ("spacing", "volume", "cut"):
        return RULES.get(key or first), (), key
    if not dot and "+" in name:
        return CORRELATION, tuple(name.split("+")), ""
    contrast, _, key = name.rpartition(".")
    return RULES.get(key), (contrast,), ""


def _words(allowed: tuple[float, float]) -> str:
    """A range for a person."""
    low, high = (f"{value:.3g}" for value in allowed)
    return f"{low} to {high}"


def first_certain(alarms: Iterable[Alarm]) -> Alarm | None:
    """The first certain alarm, or None."""
    return next((alarm for alarm in alarms if alarm.certain), None)
