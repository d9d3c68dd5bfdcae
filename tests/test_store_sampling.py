"""The store (cached by content, opened without an imaging library) and what is drawn from it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import blob_brain, write_case
from synthmr.case import PLANES
from synthmr.config import AugmentConfig, PrepareConfig, SampleConfig
from synthmr.data.augment import augment
from synthmr.data.prefetch import Prefetcher
from synthmr.data.reader import Reader
from synthmr.data.sampling import Sampler, case_batch
from synthmr.data.split import Split, make_split
from synthmr.data.store import Store, build
from synthmr.data.windows import tile_starts
from synthmr.errors import DataError, UsageError
from synthmr.io.index import index

SOURCES, TARGETS = ("T1w", "T2w"), ("FLAIR",)
NAMES = ("a", "b", "c", "d")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for number, name in enumerate(NAMES):
        images = {contrast: blob_brain((24, 28, 12), 10 * number + k) for k, contrast in enumerate((*SOURCES, *TARGETS))}
        write_case(folder / name, {**images, "seg": (images["T1w"] > 120).astype(np.float32)})
    lines = [f"{name}\t{part}" for name, part in zip(NAMES, ("train", "train", "validation", "test"), strict=True)]
    (folder / "splits.tsv").write_text("case\tsplit\n" + "\n".join(lines) + "\n")
    return folder


def make(data: Path, cache: Path, config: PrepareConfig | None = None, out: Path | None = None) -> Store:
    cohort = index(data)
    split = make_split(cohort, (*SOURCES, *TARGETS))
    return build(cohort, split, (*SOURCES, *TARGETS), config or PrepareConfig(), cache=cache, out=out)


def read(store: Store, config: PrepareConfig | None = None) -> Reader:
    return Reader(store, config or PrepareConfig(), SOURCES, TARGETS)


def test_an_exported_store_opens_without_an_imaging_library(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    made = make(data, tmp_path / "cache", out=out)
    assert made.split.train == ("a", "b")
    probe = (
        "import sys\nfor name in ('nibabel', 'monai', 'SimpleITK', 'pydantic', 'scipy', 'skimage'): sys.modules[name] = None\n"
        "from pathlib import Path\nfrom synthmr.data.store import Store\nfrom synthmr.data.sampling import Sampler\n"
        "from synthmr.data.reader import Reader\nfrom synthmr.config import PrepareConfig, SampleConfig, AugmentConfig\n"
        f"s = Store.open(Path({str(out)!r}))\n"
        "r = Reader(s, PrepareConfig(), ('T1w', 'T2w'), ('FLAIR',))\n"
        "b = Sampler(r, s.split.train, SampleConfig(batch=2), AugmentConfig(), 0).batch(0)\n"
        "print(s.fingerprint, b.size)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert done.stdout.split() == [made.fingerprint, "2"], done.stderr


def test_nyul_landmarks_come_from_training_cases_alone(data: Path, tmp_path: Path) -> None:
    config = PrepareConfig(normalizer="nyul")
    before = read(make(data, tmp_path / "c1", config), config).landmarks
    for contrast in (*SOURCES, *TARGETS):
        write_case(data / "d", {contrast: blob_brain((24, 28, 12), 77) ** 2})
    assert read(make(data, tmp_path / "c2", config), config).landmarks == before
    for contrast in (*SOURCES, *TARGETS):
        write_case(data / "a", {contrast: blob_brain((24, 28, 12), 77) ** 2})
    assert read(make(data, tmp_path / "c3", config), config).landmarks != before


def sampler(store: Store, sample: SampleConfig, **more) -> Sampler:  # type: ignore[no-untyped-def]
    return Sampler(read(store), store.split.train, sample, more.pop("augment", AugmentConfig()), 5, **more)


@pytest.fixture
def store(data: Path, tmp_path: Path) -> Store:
    return make(data, tmp_path / "cache")


def test_an_epoch_is_every_sample_once_over_all_ranks(store: Store) -> None:
    parts = [sampler(store, SampleConfig(batch=1, min_brain=0.0), rank=rank, world=2) for rank in (0, 1)]
    count = len(parts[0])
    drawn = [tuple(part.chosen(step)[0]) for step in range(count // 2) for part in parts]
    assert len(set(drawn)) == len(drawn) == count - count % 2
    later = [tuple(parts[0].chosen(step)[0]) for step in range(count // 2, count)]
    assert later != drawn[: len(later)]


def test_a_batch_depends_on_its_step_alone(store: Store) -> None:
    config = AugmentConfig(flip=0.5, rotate=10, gain=0.2, noise=0.02, mix=1.0)
    one, two = (sampler(store, SampleConfig(batch=3), augment=config) for _ in range(2))
    for step in range(4):
        one.batch(step)
    a, b, other = one.batch(7), two.batch(7), two.batch(8)
    for name in a.images:
        torch.testing.assert_close(a.images[name], b.images[name], rtol=0, atol=0)
        assert not torch.equal(a.images[name], other.images[name])


def test_whole_slices_are_the_stored_voxels(store: Store) -> None:
    drawn = sampler(store, SampleConfig(batch=4), divisor=16)
    batch = drawn.batch(0)
    assert drawn.crop == (32, 32) and batch.images["T1w"].shape == (4, 1, 32, 32)
    for row, (index_, number, _, _) in enumerate(drawn.chosen(0)):
        stored = drawn.reader.image(drawn.names[index_], "FLAIR")[:, :, number]
        image = batch.images["FLAIR"][row, 0].numpy()
        found = image[-((stored.shape[0] - 32) // 2) :][: stored.shape[0]]
        first = -((stored.shape[1] - 32) // 2)
        np.testing.assert_array_equal(found[:, first : first + stored.shape[1]], stored)
        assert float(image.sum()) == pytest.approx(float(stored.sum()) - (32 * 32 - stored.size), abs=1e-2)


def test_tiles_are_the_paper_s_four() -> None:
    assert (tile_starts(160, 128), tile_starts(180, 128)) == ([0, 32], [0, 52])
    assert tile_starts(100, 128) == [0] and tile_starts(256, 128) == [0, 128]


def test_unpaired_targets_never_share_the_subject(store: Store) -> None:
    drawn = sampler(store, SampleConfig(batch=6), paired=False)
    for step in range(10):
        assert (drawn.chosen(step)[:, 0] != drawn.partners(step)[:, 0]).all()
    assert not drawn.batch(0).paired
    with pytest.raises(DataError, match="at least 2 subjects"):
        Sampler(read(store), ("a",), SampleConfig(), AugmentConfig(), 0, paired=False)


@pytest.mark.parametrize("change", [{}, {"flip": 0.5}, {"rotate": 20.0, "scale": 0.1, "shift": 3.0}])
def test_unpaired_targets_bring_their_own_brain(store: Store, change: dict[str, float]) -> None:
    """Stored images are dark nowhere in the brain; what is outside each image's own mask is background, also after a turn."""
    batch = sampler(store, SampleConfig(batch=8), paired=False, augment=AugmentConfig(**change)).batch(1)
    assert batch.mask is not None and batch.target_brain is not None
    assert not torch.equal(batch.mask, batch.target_brain)
    for name, brain in {**dict.fromkeys(SOURCES, batch.mask), "FLAIR": batch.target_brain}.items():
        image = batch.images[name]
        assert (image[~brain] == -1).all()
        assert (image[brain] > -1).float().mean() > 0.95  # a turn thins the border
    moved = batch.to("cpu")
    assert moved.target_mask is not None and torch.equal(moved.target_mask, batch.target_brain)


def test_paired_targets_share_the_brain_of_the_sources(store: Store) -> None:
    batch = sampler(store, SampleConfig(batch=2)).batch(0)
    assert batch.target_mask is None and batch.target_brain is batch.mask


def test_bad_sampling_is_refused(store: Store) -> None:
    with pytest.raises(UsageError, match="did you mean tiles"):
        sampler(store, SampleConfig(mode="tile"))
    with pytest.raises(UsageError, match="multiples of 8"):
        sampler(store, SampleConfig(mode="patches", patch=(20, 20)), divisor=8)
    with pytest.raises(DataError, match="min_brain"):
        sampler(store, SampleConfig(min_brain=1.0))


def test_mixing_moves_sources_and_keeps_background_and_target(store: Store) -> None:
    plain = sampler(store, SampleConfig(batch=8)).batch(0)
    mixed = sampler(store, SampleConfig(batch=8), augment=AugmentConfig(mix=1.0)).batch(0)
    assert plain.mask is not None
    assert torch.equal(plain.images["FLAIR"], mixed.images["FLAIR"])
    for name in SOURCES:
        assert torch.equal(plain.images[name][~plain.mask], mixed.images[name][~plain.mask])
        assert not torch.equal(plain.images[name], mixed.images[name])


def test_case_batch_holds_every_brain_slice(store: Store) -> None:
    reader = read(store)
    for plane, axis in PLANES.items():
        batch = case_batch(reader, "a", SOURCES, divisor=8, plane=plane)
        brain = reader.mask("a").sum(axis=tuple(other for other in range(3) if other != axis))
        assert brain.tolist() == reader.brain_slices("a", plane).tolist()
        assert batch.size == int((brain > 0).sum())
        assert batch.mask is not None and int(batch.mask.sum()) == int(brain.sum())
    assert case_batch(reader, "a", SOURCES, most=3).size == 3


def test_prefetcher_keeps_order_raises_and_closes(store: Store) -> None:
    drawn = sampler(store, SampleConfig(batch=2))
    with Prefetcher(drawn, 3, 8) as batches:
        assert [step for step, _ in batches] == [3, 4, 5, 6, 7]
    with Prefetcher(drawn, 0) as endless:
        next(iter(endless))

    class Broken:
        def batch(self, step: int) -> None:
            raise DataError("the disk is gone")

    with Prefetcher(Broken(), 0, 5) as failing, pytest.raises(DataError, match="disk is gone"):  # type: ignore[arg-type]
        next(iter(failing))


def levels(batch) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:  # type: ignore[no-untyped-def]
    low = {name: -torch.ones(batch.size) for name in batch.images}
    return low, {name: torch.ones(batch.size) for name in batch.images}


def change(batch, **config):  # type: ignore[no-untyped-def]
    low, high = levels(batch)
    return augment(batch, AugmentConfig(**config), SOURCES, low, high, torch.Generator().manual_seed(1))


def test_augmentation_off_is_the_identity(store: Store) -> None:
    batch = case_batch(read(store), "a", (*SOURCES, *TARGETS))
    assert change(batch) is batch


def test_flip_turns_everything_alike(store: Store) -> None:
    batch = case_batch(read(store), "a", (*SOURCES, *TARGETS))
    flipped = change(batch, flip=1.0)
    for name, image in batch.images.items():
        assert torch.equal(flipped.images[name], image.flip(2))
    assert torch.equal(flipped.mask, batch.mask.flip(2)) and torch.equal(flipped.segmentation, batch.segmentation.flip(2))


@pytest.mark.parametrize("config", [{"gain": 0.5}, {"gamma": 1.0}, {"curve": 1.0}, {"bias": 0.5}, {"noise": 0.2}])
def test_intensity_changes_sources_in_the_brain_alone(store: Store, config: dict[str, float]) -> None:
    batch = case_batch(read(store), "a", (*SOURCES, *TARGETS))
    changed = change(batch, **config)
    assert torch.equal(changed.images["FLAIR"], batch.images["FLAIR"])
    for name in SOURCES:
        assert torch.equal(changed.images[name][~batch.mask], batch.images[name][~batch.mask])
        assert not torch.equal(changed.images[name], batch.images[name])


def test_gain_and_gamma_in_closed_form(store: Store) -> None:
    batch = case_batch(read(store), "a", SOURCES)
    draws = torch.rand((batch.size, 1, 1, 1), generator=torch.Generator().manual_seed(1)) * 2 - 1
    unit = (batch.images["T1w"] + 1) / 2
    for key, expected in (("gain", unit * (1 + 0.3 * draws)), ("gamma", unit ** torch.exp2(0.3 * draws))):
        found = (change(batch, **{key: 0.3}).images["T1w"] + 1) / 2
        torch.testing.assert_close(found[batch.mask], expected[batch.mask], rtol=1e-4, atol=1e-5)


def test_shift_moves_the_centre_of_mass_no_further_than_asked(store: Store) -> None:
    batch = case_batch(read(store), "a", SOURCES, divisor=16)

    def centre(mask: torch.Tensor) -> torch.Tensor:
        grid = torch.arange(mask.shape[2]).view(1, 1, -1, 1)
        return (mask * grid).sum((1, 2, 3)) / mask.sum((1, 2, 3))

    moved = (centre(change(batch, shift=2.0).mask) - centre(batch.mask)).abs()
    assert 0.2 < float(moved.max()) < 2.6


def test_split_is_kept_in_the_store(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    made = make(data, tmp_path / "cache", out=out)
    record = json.loads((out / "store.json").read_text())
    assert record["split"]["test"] == ["d"] and isinstance(made.split, Split)
