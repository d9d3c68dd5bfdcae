"""One prediction: in training, from files and from the store, for every method and normaliser, and never from the truth."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import nibabel as nib
import numpy as np
import pytest
import torch

from conftest import Run
from stored import reader_of, run_of, store_case, store_of
from synthmr import pipeline
from synthmr.batch import Batch, Output
from synthmr.case import PreparedCase
from synthmr.data.split import Split
from synthmr.data.store import Store
from synthmr.errors import DataError, UsageError
from synthmr.evaluate.metrics import psnr
from synthmr.methods import registry
from synthmr.methods.contract import FittedMethod, NeuralMethod, NoOptions, Spec, Traits
from synthmr.predict.engine import Engine, images_of
from synthmr.predict.keep import Keep
from synthmr.predict.predictor import Predictor, mean_of
from synthmr.predict.settings import PredictSettings
from synthmr.prepare.normalize import NAMES, to_unit
from synthmr.run import load_run

pytestmark = pytest.mark.usefixtures("one_thread")

#: a network of each method that trains in a second: what is not in here keeps the value of the preset
SMALL: dict[str, Sequence[str]] = {
    "unet": ("options.filters=2",),
    "hinet": ("options.filters=2", "options.discriminator_filters=2"),
    "milr": ("options.filters=2",),
    "disentangled": ("options.filters=2",),
    "imt": ("options.filters=2", "options.discriminator_filters=2"),
    "cut": ("options.filters=2", "options.discriminator_filters=2", "options.discriminator_scale=1", "options.patches=8"),
    "cyclegan": ("options.filters=2", "options.discriminator_filters=2"),
    "mafnet": ("options.filters=2", "options.discriminator_filters=2", "options.discriminator_scale=1", "options.patches=8"),
}


def train(method: str, data: Path, out: Path, cache: Path, *settings: str, steps: int = 2) -> Path:
    steps_too = {"steps": steps} if registry.load(method).trains_in_steps else {}
    quick = ("sample.batch=2", "train.ema=0", "train.images=false") if steps_too else ()
    words = [*quick, "train.images=false", *SMALL.get(method, ()), *settings]
    config = pipeline.configure(method, "T1w,T2w", "FLAIR", settings=words, budget=steps_too, seed=0)
    store, split = pipeline.prepared(data, config, cache=cache)
    pipeline.train(config, store, split, out)
    return out


def evaluated(run: Path, data: Path, split: str = "validation") -> dict[str, float]:
    """case -> PSNR, protocol masked-volume."""
    rows = pipeline.evaluate([run], data, split, keep=False).rows
    return {row.case: row.value for row in rows if (row.metric, row.region, row.contrast) == ("psnr", "brain", "FLAIR")}


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(registry.METHODS))
@pytest.mark.parametrize("brightness", ["true", "false"])
def test_a_run_notes_the_scores_that_evaluate_gives(
    method: str, brightness: str, phantom: Path, cache: Path, tmp_path: Path
) -> None:
    run = train(method, phantom, tmp_path / "run", cache, f"train.brightness={brightness}")
    result = json.loads((run / "run.json").read_text())["result"]
    assert result["scores"] and result["scores"] == pytest.approx(evaluated(run, phantom), abs=1e-3)
    if registry.load(method).trains_in_steps:
        chosen = result["chosen_by"]
        assert (chosen["name"], chosen["direction"]) == ("psnr", "higher") and chosen["scores"].keys() == result["scores"].keys()
    else:
        assert result["chosen_by"] == {}


# --- no number of the truth -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalizer", NAMES)
def test_the_prediction_that_is_scored_is_the_same_for_any_truth(
    normalizer: str, phantom: Path, cache: Path, tmp_path: Path
) -> None:
    run = train("linear", phantom, tmp_path / "run", cache, f"prepare.normalizer={normalizer}")
    other = Path(shutil.copytree(phantom, tmp_path / "other"))
    compared = []
    for data in (phantom, other):
        each: list[Any] = []
        pipeline.evaluate([run], data, "test", each=each.append, keep=False)
        compared.append(each[0].images["linear"])
        if data is phantom:
            name = each[0].prepared.name
            image = nib.load(phantom / name / "FLAIR.nii.gz")
            array = np.asarray(image.dataobj)[::-1] * 3.0 + 40  # brighter, mirrored, with another background
            nib.save(nib.Nifti1Image(array.astype(np.float32), image.affine), other / name / "FLAIR.nii.gz")
    np.testing.assert_array_equal(compared[0], compared[1])
    assert (compared[0] == 0).any() and compared[0].std() > 0.01


def test_a_mean_run_is_not_helped_by_the_truth(phantom: Path, cache: Path, tmp_path: Path) -> None:
    """A truth of twice the gain in the lesion moves the truth's own scale alone."""
    run = load_run(train("linear", phantom, tmp_path / "run", cache, "prepare.normalizer=mean"))
    units = run.units["FLAIR"]
    params = run.target_normalizers["FLAIR"]
    assert units.offset == 0 and units.scale == pytest.approx(params["mean"] / params["high"], rel=0.2)
    older = replace(run, info={key: value for key, value in run.info.items() if key != "target_units"})
    assert older.units["FLAIR"].scale == pytest.approx(params["mean"] / params["high"], rel=1e-6)


def test_masks_of_cases_without_mask_file_do_not_see_the_truth(phantom: Path, cache: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(phantom, tmp_path / "data"))
    for mask in data.glob("*/mask.nii.gz"):
        mask.unlink()
    for path in data.glob("*/T1w.nii.gz"):  # stripped, so that masks are the voxels that are not 0
        for name in ("T1w", "T2w", "FLAIR"):
            image, mask = nib.load(path.with_name(f"{name}.nii.gz")), nib.load(phantom / path.parent.name / "mask.nii.gz")
            array = np.asarray(image.dataobj) * (np.asarray(mask.dataobj) > 0)
            nib.save(nib.Nifti1Image(array.astype(np.float32), image.affine), path.with_name(f"{name}.nii.gz"))
    run = train("linear", data, tmp_path / "run", cache)
    assert json.loads((run / "run.json").read_text())["result"]["scores"] == pytest.approx(evaluated(run, data), abs=1e-3)
    predictor = Predictor(load_run(run))
    case = pipeline.index(data).cases[0]
    with_truth, without = predictor.prepare(case, truth=("FLAIR",)), predictor.prepare(case)
    np.testing.assert_array_equal(with_truth.mask, without.mask)
    assert with_truth.given == without.given == ("T1w", "T2w") and "FLAIR" not in without.images
    for contrast in without.given:
        np.testing.assert_array_equal(with_truth.images[contrast], without.images[contrast])


# --- one prediction, everywhere -----------------------------------------------------------------------------------------------


def test_files_of_a_run_score_what_evaluate_says(phantom: Path, cache: Path, tmp_path: Path, synthmr: Run) -> None:
    for normalizer in ("percentile", "zscore"):
        run = train("linear", phantom, tmp_path / normalizer, cache, f"prepare.normalizer={normalizer}")
        expected = evaluated(run, phantom, "test")
        for intensity in ("normalized", "scanner"):
            out = tmp_path / f"{normalizer}-{intensity}"
            synthmr("-q", "synthesize", run, phantom, "--out", out, "--split", "test", "--intensity", intensity)
            for name, value in expected.items():
                words = [out / f"{name}_desc-synth_FLAIR.nii.gz", phantom / name / "FLAIR.nii.gz"]
                found = json.loads(synthmr("score", *words, "--json").stdout)
                (score,) = [row["value"] for row in found["scores"] if row["metric"] == "psnr"]
                assert score == pytest.approx(value, abs=0.01), (normalizer, intensity)


def test_store_and_folder_give_the_same_prediction(phantom: Path, cache: Path, tmp_path: Path) -> None:
    run = load_run(train("linear", phantom, tmp_path / "run", cache))
    store, _ = pipeline.prepared(phantom, run.config, cache=cache)
    reader = reader_of(store, ("T1w", "T2w"), ("FLAIR",), run.config.prepare)
    predictor, case = Predictor(run), pipeline.index(phantom).cases[0]
    one, two = predictor(predictor.prepare(case)), predictor(reader.prepared(case.name))
    np.testing.assert_array_equal(one.mask, two.mask)
    np.testing.assert_allclose(one.unit("FLAIR"), two.unit("FLAIR"), atol=2e-3)


def test_evaluate_report_and_synthesize_predict_once(
    phantom: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train("linear", phantom, tmp_path / "run", cache)
    calls: list[str] = []
    real = Predictor.__call__

    def counted(self: Predictor, prepared: PreparedCase, *words: Any, **more: Any) -> Any:
        calls.append(prepared.name)
        return real(self, prepared, *words, **more)

    monkeypatch.setattr(Predictor, "__call__", counted)
    first = pipeline.evaluate([run], phantom, "test").rows
    assert len(calls) == 1 and len(list((run / "predictions").iterdir())) == 1
    assert pipeline.evaluate([run], phantom, "test").rows == first
    assert pipeline.synthesize_cohort(run, phantom, tmp_path / "out", split="test").done
    pipeline.report([run], tmp_path / "page.html", phantom, "test")
    assert len(calls) == 1
    pipeline.evaluate([run], phantom, "test", keep=False)
    assert len(calls) == 2
    # another brightness of the run, another input: another prediction
    info = json.loads((run / "run.json").read_text())
    darker = {"FLAIR": {"T1w+T2w": {"top": 0.5, "exponent": 1, "percentile": 99.5}}}
    (run / "run.json").write_text(json.dumps({**info, "brightness": darker}))
    assert pipeline.evaluate([run], phantom, "test").rows != first and len(calls) == 3
    changed = Path(shutil.copytree(phantom, tmp_path / "changed"))
    image = nib.load(changed / calls[0] / "T1w.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) * 1.5, image.affine), changed / calls[0] / "T1w.nii.gz")
    pipeline.evaluate([run], changed, "test")
    assert len(calls) == 4


# --- 2.5-D, boxes, spread and means -------------------------------------------------------------------------------------------


class Seen(NeuralMethod):
    """Gives the middle slice of its first source; notes what it was shown."""

    spec: ClassVar[Spec] = Spec(name="seen", title="for tests", dims=(2, 3), divisor=4)
    dims, neighbours, gain = 2, 0, 1.0

    @classmethod
    def make(cls, dims: int = 2, neighbours: int = 0, gain: float = 1.0, spread: float | None = None) -> Seen:
        kind = type("Kind", (cls,), {"traits": classmethod(lambda _, options: Traits(dims, neighbours))})
        found: Seen = kind(NoOptions(), ("T1w",), ("FLAIR",))
        found.gain, found.spread, found.batches = gain, spread, []  # type: ignore[attr-defined]
        found.weight = torch.nn.Parameter(torch.zeros(1))
        return found

    def forward(self, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Output]:
        Seen.shown.append(batch)
        centre = batch.centre("T1w") * self.gain
        spread = None if self.spread is None else torch.full_like(centre, self.spread)  # type: ignore[arg-type]
        return {"FLAIR": Output(centre, spread)}

    shown: ClassVar[list[Batch]] = []


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Store:
    rng = np.random.default_rng(3)
    mask = np.zeros((9, 21, 14), bool)
    mask[1:-1, 2:-2, 1:-1] = True
    image = np.where(mask, rng.uniform(-0.8, 0.8, mask.shape), -1)
    root = tmp_path_factory.mktemp("tiny")
    return store_of({"a": store_case(root, "a", {"T1w": image, "FLAIR": image}, mask)}, Split(("a",), ("a",), (), "test"))


EXACT = PredictSettings(precision="32")


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_neighbours_are_the_slices_on_either_side(tiny: Store, plane: str) -> None:
    reader = reader_of(tiny, ("T1w",), ("FLAIR",))
    prepared = reader.prepared("a", ("T1w",), ("FLAIR",))
    run = run_of(Seen.make(neighbours=1), tiny)
    Seen.shown.clear()
    found = Predictor(run, replace(EXACT, plane=plane, tight="off", batch=1), device=None)(prepared)
    np.testing.assert_array_equal(found.images["FLAIR"], prepared.images["T1w"])
    axis = {"sagittal": 0, "coronal": 1, "axial": 2}[plane]
    stack = np.moveaxis(prepared.images["T1w"], axis, 0)
    padded = np.concatenate([np.full_like(stack[:1], -1), stack, np.full_like(stack[:1], -1)])
    filled = np.flatnonzero(np.moveaxis(prepared.mask, axis, 0).any(axis=(1, 2)))
    shown = [batch for batch in Seen.shown if batch.images["T1w"].shape[-2:] != (32, 32)]  # not what folding looks at
    assert len(shown) == len(filled)
    for number, batch in zip(filled, shown, strict=True):
        height, width = stack.shape[1:]
        np.testing.assert_array_equal(batch.images["T1w"][0, :, :height, :width].numpy(), padded[number : number + 3])


@pytest.mark.parametrize("box", [(8, 8, 8), (12, 16, 4), (64, 64, 64)])
@pytest.mark.parametrize("window", ["uniform", "gaussian"])
def test_boxes_give_the_volume_back(tiny: Store, box: tuple[int, int, int], window: str) -> None:
    """Identity in, identity out: also where the volume is smaller than the box."""
    prepared = reader_of(tiny, ("T1w",), ("FLAIR",)).prepared("a", ("T1w",))
    engine = Engine(Seen.make(dims=3), box=box, settings=replace(EXACT, window=window))
    Seen.shown.clear()
    volumes = engine.volumes(prepared, ("T1w",), {"T1w": -1.0}, images_of(("FLAIR",)), {"FLAIR": -1.0})
    np.testing.assert_allclose(volumes.arrays["FLAIR"], prepared.images["T1w"], atol=1e-6)
    np.testing.assert_array_equal(volumes.seen, prepared.mask)
    assert {tuple(batch.images["T1w"].shape[2:]) for batch in Seen.shown} == {box}


def test_a_box_of_ones_comes_back_as_ones(tiny: Store) -> None:
    prepared = reader_of(tiny, ("T1w",), ("FLAIR",)).prepared("a", ("T1w",))
    ones = replace(prepared, images={"T1w": np.ones_like(prepared.images["T1w"])}, mask=np.ones_like(prepared.mask))
    for overlap in (0.0, 0.25, 0.5, 0.75):
        engine = Engine(Seen.make(dims=3), box=(8, 8, 8), settings=replace(EXACT, overlap=overlap, window="gaussian"))
        found = engine.volumes(ones, ("T1w",), {"T1w": 1.0}, images_of(("FLAIR",)), {}).arrays["FLAIR"]
        assert (found == 1).all()


def test_quick_predicts_some_slices_as_they_are_among_all(tiny: Store) -> None:
    prepared = reader_of(tiny, ("T1w",), ("FLAIR",)).prepared("a", ("T1w",))
    for dims in (2, 3):
        run = run_of(Seen.make(dims=dims), tiny)
        few = Predictor(run, replace(EXACT, quick=2), device=None)(prepared)
        assert few.mask.any() and (few.mask <= prepared.mask).all()
        np.testing.assert_allclose(few.images["FLAIR"][few.mask], prepared.images["T1w"][few.mask], atol=1e-6)
        assert (few.images["FLAIR"][~few.mask] == -1).all()
        if dims == 2:
            assert few.mask.any(axis=(0, 1)).sum() == 2


def test_spread_goes_along_and_means_of_runs_have_one(tiny: Store) -> None:
    prepared = reader_of(tiny, ("T1w",), ("FLAIR",)).prepared("a", ("T1w",))
    sure = Predictor(run_of(Seen.make(spread=0.25), tiny), EXACT, device=None)(prepared)
    assert set(np.unique(sure.spread["FLAIR"])) == {0, np.float32(0.25)} and (sure.spread["FLAIR"] > 0).sum() == prepared.mask.sum()
    runs = [run_of(Seen.make(gain=gain), tiny) for gain in (0.5, 1.5)]
    both = Predictor(runs, EXACT, device=None)(prepared)
    image, inside = prepared.images["T1w"], prepared.mask
    np.testing.assert_allclose(both.images["FLAIR"][inside], image[inside], atol=1e-6)
    np.testing.assert_allclose(both.spread["FLAIR"][inside], 0.5 * np.abs(image[inside]), atol=1e-6)
    assert both.run_hash == "abc+abc" and (both.images["FLAIR"][~inside] == -1).all()
    # members that know their own spread: variances add up
    known = mean_of([replace(each, spread={"FLAIR": np.where(inside, np.float32(0.3), 0)}) for each in (sure, sure)])
    np.testing.assert_allclose(known.spread["FLAIR"][inside], 0.3, rtol=1e-6)


def test_runs_that_differ_are_not_averaged(tiny: Store) -> None:
    one = run_of(Seen.make(), tiny)
    other = replace(one, config=replace(one.config, prepare=replace(one.config.prepare, normalizer="minmax")))
    with pytest.raises(UsageError, match="differ in preparation, so their mean says nothing"):
        Predictor([one, other])
    with pytest.raises(UsageError, match="at least one run"):
        Predictor([])


def test_a_case_without_a_source_is_one_line(tiny: Store) -> None:
    class Both(FittedMethod):
        spec: ClassVar[Spec] = Spec(name="both", title="for tests", sources=(2, 2))

        def __call__(self, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Output]:
            raise AssertionError("nothing is predicted")

    run = run_of(Both(NoOptions(), ("T1w", "T2w"), ("FLAIR",)), tiny)
    prepared = reader_of(tiny, ("T1w",), ("FLAIR",)).prepared("a", ("T1w",))
    with pytest.raises(DataError, match="case a has no T2w, which this run of both needs; it has T1w") as error:
        Predictor(run, device=None)(prepared)
    assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="this run gives FLAIR, not PDw"):
        Predictor(run_of(Seen.make(), tiny), device=None)(prepared, ("PDw",))


def test_kept_predictions_take_up_maps(tiny: Store, tmp_path: Path) -> None:
    prepared = reader_of(tiny, ("T1w",), ("FLAIR",)).prepared("a", ("T1w",), ("FLAIR",))
    found = Predictor(run_of(Seen.make(), tiny), EXACT, device=None)(prepared)
    keep = Keep(tmp_path / "kept")
    keep.put("key", found.with_maps(replace(found, maps={"attention-T1w": found.images["FLAIR"]})))
    again = keep.get("key")
    assert again is not None and again.has_map("attention") and not again.has_map("segmentation")
    truth = to_unit(prepared.images["FLAIR"], prepared.normalizers["FLAIR"])
    assert psnr(again.unit("FLAIR"), truth, 1.0, again.mask) == psnr(found.unit("FLAIR"), truth, 1.0, found.mask) > 60
