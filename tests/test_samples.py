"""Samples beyond one complete slice: neighbours as channels, boxes, and contrasts that are missing, hidden or both in and out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from stored import STEPS, store_case, store_of
from synthmr.batch import Batch
from synthmr.case import PLANES
from synthmr.config import AugmentConfig, PrepareConfig, SampleConfig
from synthmr.data.augment import augment
from synthmr.data.reader import Reader
from synthmr.data.sampling import Sampler, case_batch
from synthmr.data.split import Split
from synthmr.data.store import Store
from synthmr.data.subsets import draw_shown
from synthmr.errors import DataError, UsageError

SHAPE = (14, 12, 10)  # X, Y, Z
FULL = ("T1w", "T2w", "FLAIR")
WHOLE = PrepareConfig(margin=1000)
SPLIT = Split(("a", "b", "c"), ("d",), (), "test")


def ramp(number: int, contrast: str) -> np.ndarray:
    """``(X, Y, Z)`` normalised: a voxel's value tells where it is, of which case and contrast (steps of `STEPS`)."""
    index = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    return (2 * (1 + index + 2000 * FULL.index(contrast) + 6000 * (number % 2))) / STEPS - 1


def make_store(root: Path, lacks: dict[str, tuple[str, ...]] | None = None, segmented: bool = True) -> Store:
    """Cases a to d: ramps inside a brain that leaves the outermost voxels."""
    brain = np.zeros(SHAPE, bool)
    brain[1:-1, 1:-1, 1:-1] = True
    cases = {}
    for number, name in enumerate("abcd"):
        images = {c: ramp(number, c) for c in FULL if c not in (lacks or {}).get(name, ())}
        labels = np.zeros(SHAPE, np.uint8)
        labels[5, 6, 3 + number] = 2
        slices = {c: np.moveaxis(np.where(brain, image, -1), 2, 0) for c, image in images.items()}
        cases[name] = store_case(root, name, slices, np.moveaxis(brain, 2, 0), np.moveaxis(labels, 2, 0) if segmented else None)
    return store_of(cases, SPLIT)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    torch.set_num_threads(1)
    return make_store(tmp_path_factory.mktemp("samples"))


def draw(store: Store, sources: tuple[str, ...] = ("T1w", "T2w"), targets: tuple[str, ...] = ("FLAIR",), **words: Any) -> Sampler:
    more = {key: words.pop(key) for key in ("paired", "neighbours", "draws", "divisor", "rank", "world") if key in words}
    augment_config = words.pop("augment", AugmentConfig())
    names = words.pop("names", store.split.train)
    sample = SampleConfig(**{"min_brain": 0.0, "batch": 4, **words})
    return Sampler(Reader(store, WHOLE, sources, targets), names, sample, augment_config, 7, **more)


def expected(sampler: Sampler, name: str, contrast: str) -> np.ndarray:
    """``(X, Y, Z)``: the whole volume, with a border of background."""
    return np.pad(sampler.reader.image(name, contrast), 40, constant_values=-1)


# --- 2.5-D ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plane", list(PLANES))
@pytest.mark.parametrize("neighbours", [1, 2])
def test_channels_are_the_neighbouring_slices(store: Store, plane: str, neighbours: int) -> None:
    sampler = draw(store, plane=plane, neighbours=neighbours, divisor=4)
    axis = PLANES[plane]
    seen = set()
    for step in range(sampler.steps_per_epoch):
        batch = sampler.batch(step)
        assert batch.dims == 2 and batch.mask is not None and batch.segmentation is not None
        for row, (index, number, *_) in enumerate(sampler.chosen(step)):
            name = sampler.names[index]
            for contrast in FULL:
                slices = np.moveaxis(sampler.reader.image(name, contrast), axis, 0)
                image = batch.images[contrast][row].numpy()
                assert image.shape == (2 * neighbours + 1, *sampler.crop)
                top, left = ((whole - size) // 2 for whole, size in zip(sampler.crop, slices.shape[1:], strict=True))
                for channel, beside in enumerate(range(-neighbours, neighbours + 1)):
                    there = 0 <= number + beside < len(slices)
                    want = slices[number + beside] if there else np.full(slices.shape[1:], -1)
                    found = image[channel, top : top + want.shape[0], left : left + want.shape[1]]
                    np.testing.assert_array_equal(found, want)
                    seen.add(there)
            middle = np.moveaxis(sampler.reader.mask(name), axis, 0)[number]
            assert int(batch.mask[row].sum()) == middle.sum()
        assert batch.mask.shape == batch.segmentation.shape == (4, 1, *sampler.crop)
        assert torch.equal(batch.centre("T1w"), batch.images["T1w"][:, neighbours : neighbours + 1])
    assert seen == {True, False} if neighbours == 2 else seen  # beyond the volume's end is background


def test_the_middle_channel_is_the_sample_without_neighbours(store: Store) -> None:
    flat, deep = draw(store), draw(store, neighbours=1)
    one, three = flat.batch(1), deep.batch(1)
    for name in FULL:
        assert torch.equal(one.images[name], three.centre(name))
    assert one.mask is not None and three.mask is not None and torch.equal(one.mask, three.mask)
    assert torch.equal(one.segmentation, three.segmentation) and torch.equal(one.coords, three.coords)  # type: ignore[arg-type]
    case = case_batch(flat.reader, "a", FULL, neighbours=1)
    assert case.images["T1w"].shape[1] == 3
    assert torch.equal(case.images["T1w"][1:, 0], case.images["T1w"][:-1, 1])


def test_one_map_turns_all_neighbours(store: Store) -> None:
    """With the same random numbers, three slices turn as each of them turns alone; outside each one's brain is background."""
    change = AugmentConfig(flip=0.5, rotate=20.0, scale=0.1, shift=2.0)
    deep = draw(store, neighbours=1, augment=change).batch(2)
    flat = draw(store, augment=change).batch(2)
    for name in FULL:
        torch.testing.assert_close(deep.centre(name), flat.images[name], rtol=0, atol=1e-6)
    plain = draw(store, neighbours=1).batch(2)
    moved = augment(plain, change, ("T1w",), *levels(plain), torch.Generator().manual_seed(3))
    alone = Batch(images={f"{name}{c}": plain.images[name][:, c : c + 1] for name in FULL for c in range(3)}, mask=plain.mask)
    turned = augment(alone, change, ("T1w0",), *levels(alone), torch.Generator().manual_seed(3))
    for c in range(3):
        assert torch.equal(moved.images["T1w"][:, c : c + 1], turned.images[f"T1w{c}"])


# --- boxes ----------------------------------------------------------------------------------------------------------------


def levels(batch: Batch) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    low = {name: -torch.ones(batch.size) for name in batch.images}
    return low, {name: torch.ones(batch.size) for name in batch.images}


@pytest.mark.parametrize("box", [(8, 8, 4), (16, 8, 8), (32, 32, 32), (14, 12, 10)])
def test_a_box_is_that_part_of_the_volume_padded_with_background(store: Store, box: tuple[int, int, int]) -> None:
    sampler = draw(store, mode="boxes", box=box)
    starts = set()
    for step in range(8):
        batch = sampler.batch(step)
        assert batch.dims == 3 and batch.mask is not None and batch.segmentation is not None and batch.coords is not None
        for row, (index, *_) in enumerate(sampler.chosen(step)):
            name = sampler.names[index]
            image = batch.images["T1w"][row, 0].numpy()
            assert image.shape == box
            # the ramp says where a voxel of the brain is from
            at = tuple(np.argwhere(image > -1)[0])
            position = int(np.rint((image[at] + 1) / 2 * STEPS)) - 1 - 6000 * (index % 2)
            start = np.array(np.unravel_index(position, SHAPE)) - at
            place = tuple(slice(int(first) + 40, int(first) + 40 + edge) for first, edge in zip(start, box, strict=True))
            for contrast in FULL:
                np.testing.assert_array_equal(batch.images[contrast][row, 0].numpy(), expected(sampler, name, contrast)[place])
            np.testing.assert_array_equal(batch.mask[row, 0].numpy(), np.pad(sampler.reader.mask(name), 40)[place])
            labels = sampler.reader.segmentation(name)
            assert labels is not None
            np.testing.assert_array_equal(batch.segmentation[row, 0].numpy(), np.pad(labels, 40)[place])
            for first, edge, whole in zip(start, box, SHAPE, strict=True):
                assert 0 <= first <= whole - edge if edge < whole else first == (whole - edge) // 2
            centre = [2 * (first + edge / 2) / whole - 1 for first, edge, whole in zip(start, box, SHAPE, strict=True)]
            np.testing.assert_allclose(batch.coords[row], centre, atol=1e-6)
            starts.add(tuple(int(first) for first in start))
    assert len(starts) > 5 or all(edge >= whole for edge, whole in zip(box, SHAPE, strict=True))


def test_a_box_depends_on_its_step_alone_and_an_epoch_covers_each_brain_about_once(store: Store) -> None:
    one, two = draw(store, mode="boxes", box=(8, 8, 8), augment=AugmentConfig(flip=0.5, rotate=9, mix=1, noise=0.1)), None
    two = draw(store, mode="boxes", box=(8, 8, 8), augment=AugmentConfig(flip=0.5, rotate=9, mix=1, noise=0.1))
    for step in range(3):
        one.batch(step)
    for name in FULL:
        assert torch.equal(one.batch(5).images[name], two.batch(5).images[name])
    brain = 12 * 10 * 8
    assert len(one) == 3 * -(-brain // 512)


def test_boxes_of_too_little_brain_are_drawn_anew(store: Store) -> None:
    loose = draw(store, mode="boxes", box=(4, 4, 4), batch=64).batch(0)
    strict = draw(store, mode="boxes", box=(4, 4, 4), batch=64, min_brain=1.0).batch(0)
    assert loose.mask is not None and strict.mask is not None
    assert (loose.mask.float().mean(dim=(1, 2, 3, 4)) < 1).any() and bool(strict.mask.all())
    # where none holds so much, the best of some draws is taken
    most = draw(store, mode="boxes", box=(32, 32, 32), min_brain=0.9).batch(0)
    assert most.mask is not None and int(most.mask.sum()) == 4 * 12 * 10 * 8


def test_labelled_boxes_hold_a_label(store: Store, tmp_path: Path) -> None:
    batch = draw(store, mode="boxes", box=(4, 4, 4), labelled="on", batch=32).batch(0)
    assert batch.segmentation is not None and bool((batch.segmentation == 2).flatten(1).any(dim=1).all())
    bare = make_store(tmp_path, segmented=False)
    with pytest.raises(DataError, match=r"labelled=on"):
        draw(bare, mode="boxes", labelled="on")
    with pytest.raises(UsageError, match=r"sample.box=10,8,8 must be multiples of 8"):
        draw(store, mode="boxes", box=(10, 8, 8), divisor=8)


def test_unpaired_boxes_show_another_subject(store: Store) -> None:
    batch = draw(store, mode="boxes", box=(8, 8, 8), paired=False, batch=16).batch(0)
    assert batch.target_mask is not None and not batch.paired
    flair = batch.images["FLAIR"]
    assert bool((flair[~batch.target_mask] == -1).all()) and bool((flair[batch.target_mask] > -1).all())
    assert bool((batch.images["T1w"][~batch.mask] == -1).all())  # type: ignore[index]


def test_three_dimensional_changes_act_on_all_images_alike(store: Store) -> None:
    plain = draw(store, mode="boxes", box=(16, 12, 12)).batch(1)
    flipped = augment(plain, AugmentConfig(flip=1.0), ("T1w", "T2w"), *levels(plain), torch.Generator().manual_seed(1))
    for name in FULL:
        assert torch.equal(flipped.images[name], plain.images[name].flip(2))
    assert torch.equal(flipped.mask, plain.mask.flip(2))  # type: ignore[union-attr,arg-type]
    change = AugmentConfig(rotate=15.0, scale=0.1, shift=1.5)
    moved = augment(plain, change, ("T1w", "T2w"), *levels(plain), torch.Generator().manual_seed(1))
    assert moved.mask is not None and moved.mask.dtype == torch.bool
    for name in FULL:
        assert bool((moved.images[name][~moved.mask] == -1).all())
        assert not torch.equal(moved.images[name], plain.images[name])
    # T2w is T1w and a constant inside the brain: away from its border it still is
    inside = torch.from_numpy(ndimage.binary_erosion(moved.mask.numpy(), np.ones((1, 1, 5, 5, 5))))
    gap = (moved.images["T2w"] - moved.images["T1w"])[inside]
    assert inside.sum() > 100 and torch.allclose(gap, torch.full_like(gap, 4000 / STEPS), atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_turn_and_a_shift_of_a_box_against_scipy(axis: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A smooth box of unequal edges, turned about one axis, scaled and shifted, in voxels."""
    shape = (20, 16, 24)
    image = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=shape), 2.0).astype(np.float32)
    angle, zoom, shift = np.deg2rad(20.0), 1.1, np.array([1.5, -2.0, 0.5])
    draws = [torch.zeros(1, 3), torch.tensor([(zoom - 1) / 0.5]), torch.tensor(shift[None] / 4, dtype=torch.float32)]
    draws[0][0, axis] = 1.0
    monkeypatch.setattr("synthmr.data.augment._uniform", lambda *words: draws.pop(0))
    batch = Batch(images={"T1w": torch.from_numpy(image)[None, None]})
    config = AugmentConfig(rotate=20.0, scale=0.5, shift=4.0)
    moved = augment(batch, config, (), {"T1w": torch.zeros(1)}, {"T1w": torch.ones(1)}, torch.Generator()).images["T1w"][0, 0]
    one, two = (other for other in range(3) if other != axis)
    turn = np.eye(3)
    turn[one, one] = turn[two, two] = np.cos(angle)
    turn[one, two], turn[two, one] = -np.sin(angle), np.sin(angle)
    matrix, centre = turn / zoom, (np.array(shape) - 1) / 2
    want = ndimage.affine_transform(image, matrix, centre - matrix @ centre + shift, order=1)
    inside = (slice(5, -5), slice(5, -5), slice(7, -7))
    np.testing.assert_allclose(moved.numpy()[inside], want[inside], atol=2e-4 * np.abs(image).max())
    assert np.abs(want - image)[inside].max() > 0.1 * np.abs(image).max()


@pytest.mark.parametrize("change", [{"gain": 0.5}, {"gamma": 1.0}, {"curve": 1.0}, {"bias": 0.5}, {"noise": 0.2}, {"mix": 1.0}])
def test_intensity_changes_of_boxes_touch_the_brain_of_sources_alone(store: Store, change: dict[str, float]) -> None:
    plain = draw(store, mode="boxes", box=(16, 16, 8)).batch(0)
    changed = draw(store, mode="boxes", box=(16, 16, 8), augment=AugmentConfig(**change)).batch(0)
    assert plain.mask is not None and torch.equal(plain.images["FLAIR"], changed.images["FLAIR"])
    for name in ("T1w", "T2w"):
        assert torch.equal(plain.images[name][~plain.mask], changed.images[name][~plain.mask])
        assert not torch.equal(plain.images[name], changed.images[name])


# --- what is missing, and what is hidden -------------------------------------------------------------------------------------


def test_a_missing_contrast_is_zeros_whatever_is_done_to_it(tmp_path: Path) -> None:
    store = make_store(tmp_path, {"a": ("T2w",), "b": ("FLAIR",)})
    for change in (AugmentConfig(), AugmentConfig(flip=0.5, rotate=9.0, mix=1.0, noise=0.3, bias=0.3, gain=0.3)):
        for more in ({}, {"neighbours": 1}, {"mode": "boxes", "box": (8, 8, 8)}):
            sampler = draw(store, augment=change, batch=12, **more)
            batch = sampler.batch(0)
            assert batch.shown == {}
            for row, (index, *_) in enumerate(sampler.chosen(0)):
                name = sampler.names[index]
                for contrast in FULL:
                    has = sampler.reader.has(name, contrast)
                    assert bool(batch.present[contrast][row]) == has
                    assert bool(batch.images[contrast][row].any()) == has
    batch = case_batch(sampler.reader, "a", FULL)
    assert not bool(batch.present["T2w"].any()) and not bool(batch.images["T2w"].any()) and bool(batch.present["T1w"].all())


def test_complete_cases_of_disjoint_roles_show_everything(store: Store) -> None:
    batch = draw(store).batch(0)
    assert batch.shown == {} and all(bool(flag.all()) for flag in batch.present.values())
    assert list(batch.images) == ["T1w", "T2w", "FLAIR"]


def test_random_subsets_of_the_sources_where_they_are_asked_for(store: Store) -> None:
    plain = draw(store, batch=600).batch(0)
    for words in ({"draws": True}, {"subsets": "drawn"}):
        batch = draw(store, batch=600, **words).batch(0)
        for name in FULL:  # the draws of slices are what they were
            assert torch.equal(batch.images[name], plain.images[name])
        shown = Counter(zip(batch.given("T1w").tolist(), batch.given("T2w").tolist(), strict=True))
        assert not batch.given("FLAIR").any() and bool(batch.present["FLAIR"].all())
        # 0.4 + 0.6 / 3 of all, 0.6 / 3 of either: five standard deviations are 0.1
        assert shown.keys() == {(True, True), (True, False), (False, True)}
        assert shown[True, True] / 600 == pytest.approx(0.6, abs=0.1) and shown[True, False] / 600 == pytest.approx(0.2, abs=0.1)
    assert draw(store, draws=True, subsets="all").batch(0).shown == {}


@pytest.mark.parametrize("subsets", ["auto", "all", "drawn"])
@pytest.mark.parametrize("more", [{}, {"neighbours": 1}, {"mode": "boxes", "box": (8, 8, 8)}])
def test_the_truth_is_never_shown_where_a_contrast_is_both(tmp_path: Path, subsets: str, more: dict[str, Any]) -> None:
    """Every sample shows a source and leaves a target that it has; what it shows may be changed, the truth never."""
    store = make_store(tmp_path, {"b": ("FLAIR",)})
    roles = (("T1w", "T2w", "FLAIR"), ("FLAIR", "T2w"))
    change = AugmentConfig(gain=0.5, noise=0.2, mix=1.0)
    sampler = draw(store, *roles, augment=change, subsets=subsets, batch=40, **more)
    plain = draw(store, *roles, subsets=subsets, batch=40, **more)
    met = set()
    for step in range(4):
        batch, truth = sampler.batch(step), plain.batch(step)
        for row in range(batch.size):
            given = {name for name in FULL if bool(batch.given(name)[row])}
            there = {name for name in FULL if bool(batch.present[name][row])}
            asked = {name for name in roles[1] if name in there and name not in given}
            assert given and asked and given <= there
            for name in asked:
                assert torch.equal(batch.images[name][row], truth.images[name][row])
            for name in given:
                assert not torch.equal(batch.images[name][row], truth.images[name][row])
            met.add((frozenset(given), "FLAIR" in there))
    full = {("T1w", "T2w"), ("T1w", "FLAIR")} | (set() if subsets == "all" else {("T1w",), ("T2w",), ("FLAIR",)})
    assert {tuple(sorted(names, key=FULL.index)) for names, whole in met if whole} == full
    assert {tuple(names) for names, whole in met if not whole} == {("T1w",)}  # T2w is the only target that is left


@pytest.mark.parametrize("drawn", [True, False])
def test_any_set_of_contrasts_leaves_something_shown_and_something_asked(drawn: bool) -> None:
    rng = np.random.default_rng(0)
    names = ("A", "B", "C", "D")
    for _ in range(3000):
        sources = tuple(rng.permutation(names)[: rng.integers(1, 5)].tolist())
        targets = tuple(rng.permutation(names)[: rng.integers(1, 5)].tolist())
        present = set(rng.permutation(names)[: rng.integers(1, 5)].tolist())
        there = [name for name in sources if name in present]
        asked = [name for name in targets if name in present]
        if not there or (asked and set(asked) == set(there) and len(there) == 1):
            continue  # no run takes such a case
        shown = draw_shown(sources, targets, present, drawn, rng)
        assert shown and set(shown) <= set(there)
        assert not asked or set(asked) - set(shown)
        if not drawn:
            assert len(there) - len(shown) == (1 if asked and set(asked) <= set(there) else 0)
