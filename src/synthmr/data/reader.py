"""A store as one run reads it: its contrasts normalised by their roles, inside the brain, on the run's box.

A `Reader` turns scanner units into normalised ones while it reads, a window at a time, so that a store serves runs of any roles,
plane, normaliser and margin. Windows are given in voxels of the case's prepared box and may reach beyond it: there lies background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from synthmr.case import PreparedCase, plane_axis, spacing_of
from synthmr.config import PrepareConfig
from synthmr.data.brains import Brain
from synthmr.data.parts import Bits, Triple, count_in, digest_of, place, triple
from synthmr.data.store import Store
from synthmr.errors import DataError
from synthmr.prepare import crop, normalize
from synthmr.prepare.case import check_config, image_steps, mask_step, normalized, normalizer_of
from synthmr.prepare.measure import MEASURE_VERSION, measure


@dataclass(eq=False)
class _Known:
    """What is remembered of a case: small things, for as long as the reader lives."""

    start: Triple
    size: Triple
    params: dict[str, dict[str, Any]] = field(default_factory=dict)
    slices: dict[str, np.ndarray] = field(default_factory=dict)


class Reader:
    """A store as one run reads it.

    Args:
        store: the prepared cohort.
        prepare: normalisers, percentile and margin of the run.
        sources: contrasts that go in.
        targets: contrasts that come out; one that is a source, too, has the target's normaliser.
        landmarks: contrast -> nyul landmarks; None: learnt on the store's training cases where they are needed.

    Raises:
        UsageError: the store lacks a contrast, or ``prepare`` makes no sense or other masks than the store has.
    """

    def __init__(
        self,
        store: Store,
        prepare: PrepareConfig,
        sources: Sequence[str],
        targets: Sequence[str],
        landmarks: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        check_config(prepare)
        store.check((*sources, *targets), prepare)
        self.store, self.prepare = store, prepare
        self.sources, self.targets = tuple(sources), tuple(targets)
        self._names = tuple(dict.fromkeys((*sources, *targets)))
        # the mask does not depend on roles, so the order in which images have a say does not either
        self._order = tuple(name for name in store.contrasts if name in self._names)
        self._landmarks = dict(landmarks) if landmarks is not None else None
        self._known: dict[str, _Known] = {}

    # --- cases

    @property
    def names(self) -> tuple[str, ...]:
        """All cases of the store."""
        return self.store.names

    def subject(self, name: str) -> str:
        """The person that a case is of."""
        return self.store.subject(name)

    def contrasts(self, name: str) -> tuple[str, ...]:
        """The contrasts of the run that a case has: sources, then other targets."""
        images = self.store.parts(name).images
        return tuple(contrast for contrast in self._names if contrast in images)

    def has(self, name: str, contrast: str) -> bool:
        """Whether a case has a contrast of the run."""
        return contrast in self.contrasts(name)

    def segmented(self, name: str) -> bool:
        """Whether a case has a segmentation."""
        return self.store.parts(name).segmentation is not None

    # --- the brain and its box

    def _brain(self, name: str) -> Brain:
        """The brain of a case in training: of all images of the run that it has, or of its mask file."""
        images = self.store.parts(name).images
        return self.store.brain(name, tuple(contrast for contrast in self._order if contrast in images))

    def _case(self, name: str) -> _Known:
        if name not in self._known:
            box = self._box(name, self._brain(name).bits)
            start = triple(box["start"])
            self._known[name] = _Known(start, triple([high - low for low, high in zip(start, box["stop"], strict=True)]))
        return self._known[name]

    def _box(self, name: str, bits: Bits) -> dict[str, Any]:
        """The crop step of a brain, with the run's margin."""
        shape = self.store.image(name, self.store.has(name)[0]).shape
        start = [max(first - self.prepare.margin, 0) for first in bits.start]
        ends = zip(bits.start, bits.size, shape, strict=True)
        stop = [min(first + size + self.prepare.margin, edge) for first, size, edge in ends]
        return {"step": "crop", "start": start, "stop": stop, "shape": list(shape)}

    def shape(self, name: str) -> Triple:
        """(X, Y, Z) of the prepared box of a case: its brain and the margin."""
        return self._case(name).size

    def brain_slices(self, name: str, plane: str) -> np.ndarray:
        """``(S,)``: brain voxels in each slice of the box."""
        known, axis = self._case(name), plane_axis(plane)
        if plane not in known.slices:
            known.slices[plane] = count_in(self._brain(name).bits, plane, known.start[axis], known.size[axis])
        return known.slices[plane]

    def mask(self, name: str, start: Sequence[int] = (0, 0, 0), size: Sequence[int] | None = None) -> np.ndarray:
        """``(x, y, z)`` bool: the brain in a window of the box; default: all of it."""
        known = self._case(name)
        begin = [first + low for first, low in zip(start, known.start, strict=True)]
        return self._brain(name).bits.cut(begin, known.size if size is None else size)

    def segmentation(self, name: str, start: Sequence[int] = (0, 0, 0), size: Sequence[int] | None = None) -> np.ndarray | None:
        """``(x, y, z)`` integer labels in a window of the box, 0 beyond it; None: the case has none."""
        labels, known = self.store.labels(name), self._case(name)
        if labels is None:
            return None
        out = np.zeros(known.size if size is None else tuple(size), labels.values.dtype)
        found = place(start, out.shape, (0, 0, 0), known.size)
        if found is not None:
            inside, here = found
            begin = [part.start + low for part, low in zip(inside, known.start, strict=True)]
            out[here] = labels.cut(begin, [part.stop - part.start for part in inside])
        return out

    # --- images

    def params(self, name: str, contrast: str) -> dict[str, Any]:
        """Parameters of the normaliser of an image.

        Raises:
            DataError: the case does not have it, or the normaliser does not suit it.
        """
        known = self._case(name)
        if contrast not in known.params:
            known.params[contrast] = self._params(self._brain(name), name, contrast)
        return known.params[contrast]

    def _params(self, brain: Brain, name: str, contrast: str) -> dict[str, Any]:
        kind = normalizer_of(contrast, self.prepare, self.targets)
        found = self._fitted(brain, name, contrast, kind)
        if kind == "nyul":
            found["standard"] = list(self.landmarks[contrast]["standard"])
        return found

    def _fitted(self, brain: Brain, name: str, contrast: str, kind: str) -> dict[str, Any]:
        keys = self.store.parts(name).keys
        if contrast not in keys:
            self.store.image(name, contrast)  # says what the case has
        try:
            return brain.params(lambda: self.store.image(name, contrast), keys[contrast], kind, self.prepare.percentile)
        except DataError as error:
            raise DataError(f"{contrast} of case {name}: {error}") from None

    @property
    def landmarks(self) -> dict[str, Any]:
        """nyul landmarks, contrast -> landmarks; of those that are normalised so, learnt on the store's training cases.

        Raises:
            DataError: an image cannot be read, or no training case has the contrast.
        """
        if self._landmarks is None:
            wanted = [name for name in self._names if normalizer_of(name, self.prepare, self.targets) == "nyul"]
            self._landmarks = {contrast: self._learn(contrast) for contrast in wanted}
        return self._landmarks

    def _learn(self, contrast: str) -> dict[str, Any]:
        positions = []
        for name in self.store.split.train:
            if self.has(name, contrast):
                positions.append(normalize.positions_of(self._fitted(self._brain(name), name, contrast, "nyul")["own"]))
        if not positions:
            raise DataError(f"no training case has {contrast}, whose nyul landmarks are learnt from them; use another normalizer.")
        return normalize.standard_scale(positions)

    def constant(self, name: str, contrast: str) -> Mapping[str, Any] | None:
        """The parameters of the constant background that was taken off an image (`synthmr.prepare.background`), or None."""
        return self.store.image(name, contrast).constant

    def digest(self, name: str, contrast: str) -> str:
        """The checksum of an image's content; see `synthmr.data.parts.digest_of`."""
        image = self.store.image(name, contrast)
        return digest_of(image.voxels, image.scale)

    def measured(self, name: str) -> dict[str, Any]:
        """What a case in training is like (`synthmr.prepare.measure`): its images of this run, in the brain that they share.

        Kept beside the brain, so that it is worked out once.

        Raises:
            DataError: the case is damaged.
        """
        brain, contrasts, box = self._brain(name), self.contrasts(name), self._case(name)
        keys = self.store.parts(name).keys
        known = f"measured:{MEASURE_VERSION}:{self.prepare.margin}:{'+'.join(keys[contrast] for contrast in contrasts)}"
        found = brain.facts.get(known)
        if found is None:
            images = {contrast: self.store.image(name, contrast) for contrast in contrasts}
            first = next(iter(images.values()))
            found = measure(
                {contrast: image.cut(box.start, box.size) for contrast, image in images.items()},
                self.mask(name),
                spacing_of(first.affine),
                first.shape,
                box.start,
                str(brain.bits.about["mode"]),
                {contrast: image.constant for contrast, image in images.items()},
                {contrast: self.digest(name, contrast) for contrast in contrasts},
            )
            brain.facts.add({known: found})
        return dict(found)

    def background(self, name: str, contrast: str) -> float:
        """The normalised value of an image outside the brain, as float32 has it."""
        return float(np.float32(normalize.background(self.params(name, contrast))))

    def top(self, name: str, contrast: str) -> float:
        """The normalised value that counts as 1; see `synthmr.prepare.normalize.top`."""
        return normalize.top(self.params(name, contrast))

    def image(
        self,
        name: str,
        contrast: str,
        start: Sequence[int] = (0, 0, 0),
        size: Sequence[int] | None = None,
        mask: np.ndarray | None = None,
    ) -> np.ndarray:
        """A window of an image, normalised.

        Args:
            name: of the case.
            contrast: of the image.
            start: first voxel of the window in the box; may be negative.
            size: of the window; default: the box.
            mask: what `mask` gives for this window, where it is at hand.

        Returns:
            ``(x, y, z)`` float32; the normaliser's background outside the brain.

        Raises:
            DataError: the case does not have it, or is damaged.
        """
        known = self._case(name)
        whole = known.size if size is None else tuple(size)
        begin = [first + low for first, low in zip(start, known.start, strict=True)]
        brain = self._brain(name).bits.cut(begin, whole) if mask is None else mask
        params = self.params(name, contrast)
        return normalized(self.store.image(name, contrast).cut(begin, whole), brain, params)

    # --- whole cases

    def prepared(self, name: str, given: Sequence[str] | None = None, truth: Sequence[str] = ()) -> PreparedCase:
        """A case as `synthmr.prepare.case.prepare_images` makes it of the files of ``given``, with other contrasts beside them.

        Args:
            name: of the case.
            given: contrasts that brain mask, box and parameters come from; None: all sources that the case has and that are not
                ``truth``.
            truth: contrasts to put beside them, to score against; they have no say in anything but themselves.

        Raises:
            DataError: the case lacks a contrast, or has no brain.
        """
        there = self.contrasts(name)
        if given is None:
            given = tuple(source for source in self.sources if source in there and source not in truth)
        brain = self.store.brain(name, given)
        bits, about = brain.bits, brain.bits.about
        box = self._box(name, bits)
        start, size = box["start"], triple([high - low for low, high in zip(box["start"], box["stop"], strict=True)])
        first = self.store.image(name, given[0])
        mask = bits.cut(start, size)
        history = [dict(first.turn), mask_step(about["mode"], about["notice"], about["voxels"]), box]
        images, normalizers = {}, {}
        for contrast in dict.fromkeys((*given, *truth)):
            params = self._params(brain, name, contrast)
            images[contrast] = normalized(self.store.image(name, contrast).cut(start, size), mask, params)
            normalizers[contrast] = params
            history += image_steps(contrast, self.constant(name, contrast), params)
        labels = self.store.labels(name)
        return PreparedCase(
            name=name,
            images=images,
            mask=mask,
            segmentation=None if labels is None else labels.cut(start, size).astype(np.int32),
            affine=crop.apply_affine(first.affine, box),
            history=tuple(history),
            normalizers=normalizers,
            given=tuple(given),
        )
