"""Maps beside the images, from windows to files: attention and tumour segmentations, and the scores of the latter."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import Run, Verb
from method_alone import predict_case
from synthmr import pipeline
from synthmr.batch import Batch, Output
from synthmr.case import PreparedCase
from synthmr.data.split import Split
from synthmr.errors import UsageError
from synthmr.evaluate.protocols import get_protocol
from synthmr.evaluate.segmentation import METRICS, PROTOCOL, keep_largest_tumour, score_segmentation, to_classes
from synthmr.io.naming import is_synthetic
from synthmr.methods.contract import NeuralMethod, Spec, check_wanted
from synthmr.predict.engine import Engine
from synthmr.predict.frame import Frame
from synthmr.predict.maps import check_maps, labels_of, map_of, segments
from synthmr.predict.predictor import Predictor
from synthmr.predict.settings import PredictSettings
from synthmr.predict.write import on_source_grid
from synthmr.predictions import Predicted
from synthmr.prepare.case import prepare_case
from synthmr.run import LoadedRun, RunFolder, load_run

SOURCES = ("T1w", "T2w")


pytestmark = pytest.mark.usefixtures("one_thread")


def predict_map(
    method: Any,
    case: PreparedCase,
    name: str,
    plane: str = "axial",
    settings: PredictSettings | None = None,
    frame: Frame | None = None,
) -> dict[str, np.ndarray]:
    """A map of a method that is of no run."""
    check_maps(method, [name])
    given = [source for source in method.sources if source in case.images]
    return map_of(Engine(method, plane, frame, settings=settings), case, name, given, dict.fromkeys(given, -1.0))


def tumour_classes(method: Any, case: PreparedCase) -> tuple[np.ndarray, np.ndarray]:
    """(predicted, true) classes, as runs are scored."""
    assert case.segmentation is not None
    found = keep_largest_tumour(predict_map(method, case, "segmentation")["segmentation"])
    return found, to_classes(case.segmentation, method.label_convention)


# --- a method whose maps are known ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KnownOptions:
    """None."""


class Known(NeuralMethod):
    """``attention`` of a source is its own image; ``segmentation`` the class that the first source's value stands for."""

    spec: ClassVar[Spec] = Spec(name="known", title="for tests", divisor=16, any_subset=True, maps=("attention", "segmentation"))

    Options: ClassVar[type] = KnownOptions
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __init__(self) -> None:
        super().__init__(KnownOptions(), SOURCES, ("FLAIR",))
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, batch: Batch, wanted: Sequence[str] | None = None) -> dict[str, Output]:
        check_wanted(self, batch, wanted)
        return {"FLAIR": Output(self.scale * batch.images[self.sources[0]])}

    def map(self, batch: Batch, name: str) -> dict[str, Tensor]:
        self.check_map(name)
        given, _ = check_wanted(self, batch, None)
        if name == "attention":
            return {f"attention-{source}": self.scale * batch.images[source] for source in given}
        number = ((batch.images[self.sources[0]] + 1) * 2).round().clamp(0, 3).long()
        return {name: nn.functional.one_hot(number[:, 0], 4).permute(0, 3, 1, 2) * 0.6 + 0.1}


def known_case(shape: tuple[int, int, int] = (21, 18, 7)) -> PreparedCase:
    rng = np.random.default_rng(2)
    mask = np.zeros(shape, bool)
    for z in range(1, shape[2] - 1):
        mask[2 : 9 + z, 3 : 8 + z, z] = True
    images = {name: np.where(mask, rng.choice([-1, -0.5, 0, 0.5], shape), -1).astype(np.float32) for name in SOURCES}
    labels = np.where(mask, rng.choice([0, 1, 2, 4], shape), 0)
    params = {name: {"name": "percentile", "low": 0.0, "high": 100.0} for name in (*SOURCES, "FLAIR")}
    return PreparedCase("X", images, mask, labels, np.diag([1, 2, 3, 1.0]), normalizers=params)


WAYS: list[tuple[str, PredictSettings | None, Frame | None]] = [
    ("axial", None, None),
    ("coronal", PredictSettings(precision="32", tight="on"), None),
    ("sagittal", PredictSettings(precision="32", mode="patches", patch=(16, 16)), None),
    ("axial", PredictSettings(precision="32", batch=1), Frame((64, 48))),
]


@pytest.mark.parametrize(("plane", "settings", "frame"), WAYS)
def test_maps_lie_where_the_images_do(plane: str, settings: PredictSettings | None, frame: Frame | None) -> None:
    method, case = Known(), known_case()
    found = predict_map(method, case, "attention", plane, settings, frame=frame)
    assert list(found) == ["attention-T1w", "attention-T2w"]
    for name in SOURCES:
        values = found[f"attention-{name}"]
        assert values.dtype == np.float32 and not values[~case.mask].any()  # 0 outside, not a normaliser's background
        np.testing.assert_allclose(values[case.mask], case.images[name][case.mask], atol=1e-6)
    classes = predict_map(method, case, "segmentation", plane, settings, frame=frame)
    assert list(classes) == ["segmentation"] and classes["segmentation"].dtype == np.int8
    expected = np.where(case.mask, np.rint((case.images["T1w"] + 1) * 2), 0)
    np.testing.assert_array_equal(classes["segmentation"], expected)
    assert set(np.unique(expected)) == {0, 1, 2, 3}
    # the images are predicted as ever
    np.testing.assert_allclose(predict_case(method, case, None, plane, settings)["FLAIR"], case.images["T1w"], atol=1e-6)


def test_a_source_that_is_absent_has_no_map() -> None:
    case = known_case()
    without = replace(case, images={"T2w": case.images["T2w"]})
    assert list(predict_map(Known(), without, "attention")) == ["attention-T2w"]
    assert labels_of(Known(), "attention", ("T2w",)) == ("attention-T2w",)
    assert labels_of(Known(), "segmentation", SOURCES) == ("segmentation",)


def test_what_is_refused() -> None:
    case = known_case()
    for names, words in ((["attenton"], "known gives no map 'attenton': did you mean attention"), (["fusion"], "no map 'fusion'")):
        with pytest.raises(UsageError, match=words) as error:
            check_maps(Known(), names)
        assert "\n" not in str(error.value)
        with pytest.raises(UsageError, match=words):
            predict_map(Known(), case, names[0])
    method = Known()
    method.spec = replace(method.spec, maps=())  # type: ignore[misc]
    with pytest.raises(UsageError, match="known gives images alone, no map 'attention'; leave --map out"):
        check_maps(method, ["attention"])
    assert segments(Known()) and not segments(method)
    check_maps(method, [])


def test_scored_classes_keep_the_largest_tumour_and_read_labels_as_the_run_does() -> None:
    case, method = known_case(), Known()
    predicted, truth = tumour_classes(method, case)
    whole = predict_map(method, case, "segmentation")["segmentation"]
    np.testing.assert_array_equal(predicted, keep_largest_tumour(whole))
    assert case.segmentation is not None
    np.testing.assert_array_equal(truth, np.where(case.segmentation == 4, 3, case.segmentation))
    # two islands: the smaller one goes, from the prediction alone
    image = np.full_like(case.images["T1w"], -1)
    image[3:5, 4:6, 2:4], image[8, 8, 2] = 0.5, 0.5
    labels = np.zeros_like(case.segmentation)
    labels[8, 8, 2] = 3
    case = replace(case, images={**case.images, "T1w": image}, segmentation=labels)
    newer = type("Newer", (Known,), {"label_convention": "brats2023"})()
    predicted, truth = tumour_classes(newer, case)
    assert predicted[8, 8, 2] == 0 and (predicted == 3).sum() == 8
    assert truth[8, 8, 2] == 3
    older = type("Older", (Known,), {"label_convention": "brats2015"})()
    assert tumour_classes(older, case)[1][8, 8, 2] == 1


def test_files_hold_brats_labels_of_the_largest_tumour() -> None:
    method, case = Known(), known_case()
    image = case.images["T1w"].copy()
    image[:, :, 3] = -1  # a gap between two parts
    case = replace(case, images={**case.images, "T1w": image})
    config = pipeline.configure("copy", "T1w,T2w", "FLAIR")
    history = ({"step": "orient", "axes": [[0, 1], [1, 1], [2, 1]], "shape": list(case.mask.shape)},)
    history += ({"step": "crop", "start": [0, 0, 0], "stop": list(case.mask.shape), "shape": list(case.mask.shape)},)
    known = {"target_normalizers": {"FLAIR": case.normalizers["FLAIR"]}}
    run = LoadedRun(RunFolder(Path("run")), method, config, Split((), (), (), "none"), known, "abc")
    prediction = Predictor(run)(replace(case, history=history), maps=("segmentation", "attention"))
    labels = [*(["segmentation"] if prediction.segmentation is not None else []), *prediction.maps]
    written = {label: on_source_grid(prediction, label) for label in labels}
    classes = keep_largest_tumour(predict_map(method, case, "segmentation")["segmentation"])
    np.testing.assert_array_equal(written["segmentation"], np.where(classes == 3, 4, classes))
    assert set(np.unique(written["segmentation"])) == {0, 1, 2, 4}
    assert list(written) == ["segmentation", "attention-T1w", "attention-T2w"]
    assert not np.array_equal(classes, predict_map(method, case, "segmentation")["segmentation"])


def test_a_table_holds_the_segmentation_once_beside_the_images() -> None:
    case = known_case()
    classes = tumour_classes(Known(), case)
    case = replace(case, images={**case.images, "FLAIR": case.images["T2w"]})
    predicted = Predicted(case, "FLAIR", {"known": case.images["T1w"], "copy": case.images["T2w"]}, {"known": classes})
    rows = predicted.scores([get_protocol("masked-volume")]).rows
    mine = [row for row in rows if row.protocol == PROTOCOL]
    assert [row.metric for row in mine] == list(METRICS)
    assert {(row.case, row.method, row.contrast) for row in mine} == {("X", "known", "segmentation")}
    expected = score_segmentation(*classes, (1.0, 2.0, 3.0))
    assert {row.metric: row.value for row in mine} == expected
    assert {row.method for row in rows if row.protocol == "masked-volume"} == {"known", "copy"}


# --- the command line -----------------------------------------------------------------------------------------------------

GIVEN, TARGET = ("T1w", "T2w", "FLAIR"), "T1ce"
SMALL = [
    "options.filters=4", "options.encoder_blocks=1", "options.decoder_blocks=0", "options.layers=0,4,8", "options.hidden=8",
    "options.discriminator_filters=4", "options.discriminator_scale=1", "options.segmenter_filters=4", "options.patches=16",
    "options.alone=0.34",
    "sample.batch=2", "train.images=false", "train.precision=32", "train.validate_every=3",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four subjects of 6 mm voxels, each with a tumour in BraTS labels: a core of 1 and 4 in an edema. Read only."""
    out = tmp_path_factory.mktemp("extras") / "cohort"
    pipeline.phantom(out, 4, 5, 6, 3)
    for number in range(1, 5):
        folder = out / f"sub-00{number}"
        brain = nib.load(folder / "mask.nii.gz")
        axes = np.stack(np.meshgrid(*(np.arange(n) for n in brain.shape), indexing="ij"), -1)
        far = np.abs(axes - (11 + number, 16, 15)).max(-1)
        labels = np.select([far < 1, far < 2, far < 4], [4, 1, 2], 0) * (np.asarray(brain.dataobj) > 0)
        assert set(np.unique(labels)) == {0, 1, 2, 4}
        nib.save(nib.Nifti1Image(labels.astype(np.uint8), brain.affine), folder / "seg.nii.gz")
    return out


def words_of(settings: Sequence[str]) -> list[str]:
    return [part for word in settings for part in ("--set", word)]


@pytest.fixture(scope="module")
def run(data: Path, synthmr: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MAF-Net of three sources, two steps alone and four joint. Read only."""
    out = tmp_path_factory.mktemp("runs") / "mafnet"
    words = ["--sources", ",".join(GIVEN), "--target", TARGET, "--out", out, "--steps", 6, *words_of(SMALL)]
    synthmr("-q", "train", "mafnet", data, *words, OMP_NUM_THREADS="1")
    return out


Call = Callable[..., str]


@pytest.fixture
def call(verb: Verb, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Call:
    """The command line in this process; returns its one line of error, or what it wrote."""
    monkeypatch.setenv("SYNTHMR_CACHE", str(cache))
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words: object, code: int = 0) -> str:
        done = verb("-q", *words, code=code)
        assert code == 0 or len(done.stderr.strip().splitlines()) == 1, done.stderr
        return str(done.stdout + done.stderr)

    return call


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def test_maps_as_files(run: Path, data: Path, synthmr: Run, tmp_path: Path, call: Call) -> None:
    out = tmp_path / "out"
    words = ["synthesize", run, data, "--out", out, "--split", "test", "--map", "attention,segmentation"]
    synthmr("-q", *words, OMP_NUM_THREADS="1")
    (name,) = load_run(run).split.test
    source, brain = nib.load(data / name / "T1w.nii.gz"), voxels(data / name / "mask.nii.gz") > 0
    attention = {each: f"{name}_rec-attention_desc-synth_{each}" for each in GIVEN}
    stems = {TARGET: f"{name}_desc-synth_{TARGET}", "segmentation": f"{name}_desc-synth_dseg", **attention}
    assert {path.name for path in out.iterdir()} == {stem + suffix for stem in stems.values() for suffix in (".nii.gz", ".json")}
    for label, stem in stems.items():
        image = nib.load(out / f"{stem}.nii.gz")
        assert image.shape == source.shape and np.array_equal(image.affine, source.affine)
        assert image.header["descrip"].item().decode().startswith("SYNTHETIC")
        data_type = np.uint8 if label == "segmentation" else np.float32
        assert image.get_data_dtype() == data_type and not voxels(out / f"{stem}.nii.gz")[~brain].any()
        record = json.loads((out / f"{stem}.json").read_text())
        assert record["synthetic"] and record["run_hash"] == load_run(run).hash and record["case"] == name
        expected = {TARGET: "scanner-like units", "segmentation": "labels: 1 necrosis and non-enhancing, 2 edema, 4 enhancing"}
        assert record["settings"]["units"].startswith(expected.get(label, "a share between 0 and 1"))
        assert is_synthetic(stem), "it would be taken for an acquired image"
        written = {"0": "background", "1": "necrosis", "2": "edema", "4": "enhancing"}
        found = {"convention": "brats2017", "labels": written} if label == "segmentation" else None
        assert record["settings"].get("labels") == found

    shares = np.stack([voxels(out / f"{stem}.nii.gz") for stem in attention.values()])
    np.testing.assert_allclose(shares.sum(0)[brain], 1, atol=1e-5)
    assert shares.min() >= 0 and shares.std(axis=0)[brain].max() > 1e-3
    labels = voxels(out / f"{stems['segmentation']}.nii.gz")
    assert set(np.unique(labels)) <= {0, 1, 2, 4} and labels.any()
    # a folder of results holds no case, whatever its maps are called
    assert "its name says that it is synthetic" in (text := call("index", out, code=1)), text
    # done already, and with other words not
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    call(*words)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before

    # the voxels are those of the case in memory
    loaded = load_run(run)
    case = prepare_case(pipeline.index(data).case(name), GIVEN, loaded.config.prepare, loaded.config.targets)
    maps = predict_map(loaded.method, case, "segmentation")
    assert (labels > 0).sum() == (keep_largest_tumour(maps["segmentation"]) > 0).sum()


def test_maps_of_single_files(run: Path, data: Path, tmp_path: Path, call: Call) -> None:
    case = data / "sub-003"
    pairs = [f"{name}={case / name}.nii.gz" for name in GIVEN]
    words = ["synthesize", run, *pairs, "--mask", case / "mask.nii.gz", "-o", tmp_path / "made.nii.gz"]
    call(*words, "--map", "segmentation", "--map", "attention")
    stems = ["made", "made_synth-segmentation", *(f"made_synth-attention-{name}" for name in GIVEN)]
    assert {path.name for path in tmp_path.iterdir()} == {stem + suffix for stem in stems for suffix in (".nii.gz", ".json")}
    assert all(is_synthetic(stem) for stem in stems[1:])
    # small patches give images and attention, and no segmentation
    patches = ["--mode", "patches", "--patch", 16, "--overwrite"]
    call(*words, *patches, "--map", "attention")
    text = call(*words, *patches, "--map", "segmentation", code=2)
    assert "tumour U-Net needs images of more than 16x16; use larger patches" in text


def test_evaluate_prints_and_writes_the_regions(run: Path, data: Path, tmp_path: Path, call: Call) -> None:
    table = tmp_path / "metrics.csv"
    text = call("evaluate", run, data, "--protocol", "masked-volume", "--out", table)
    assert PROTOCOL in text and all(metric in text for metric in ("dice_WT", "assd_TC", "dice_ET"))
    rows = list(csv.DictReader(table.read_text().splitlines()))
    found = {row["metric"]: float(row["value"]) for row in rows if row["protocol"] == PROTOCOL}
    assert tuple(found) == METRICS
    assert {(row["case"], row["method"], row["contrast"]) for row in rows if row["protocol"] == PROTOCOL} == {
        ("sub-004", "mafnet", "segmentation")
    }
    # by hand, from files
    loaded = load_run(run)
    case = prepare_case(pipeline.index(data).case("sub-004"), (*GIVEN, TARGET), loaded.config.prepare, (TARGET,))
    predicted = keep_largest_tumour(predict_map(loaded.method, case, "segmentation")["segmentation"])
    assert case.segmentation is not None and loaded.method.label_convention == "brats2017"
    expected = score_segmentation(predicted, to_classes(case.segmentation), case.spacing)
    assert found == pytest.approx(expected, rel=1e-6)
    assert any(row["protocol"] == "masked-volume" and row["contrast"] == TARGET for row in rows)


def test_runs_that_cannot_give_maps(run: Path, data: Path, cache: Path, tmp_path: Path, call: Call) -> None:
    case = data / "sub-003"
    bare = {"linear": (), "mafnet": (*SMALL, "options.fusion=single", "options.segmenter=false", "sample.batch=1")}
    for method, settings in bare.items():
        config = pipeline.configure(
            method, "T1w,T2w", "FLAIR", settings=settings, budget={"steps": 1} if method == "mafnet" else {}
        )
        store, split = pipeline.prepared(data, config, cache=cache)
        pipeline.train(config, store, split, tmp_path / method, accelerator="cpu")
    asked = [
        ("linear", "attention", "linear gives images alone, no map 'attention'; leave --map out"),
        ("mafnet", "attention", "this run of mafnet has no attention (options.fusion=single)"),
        ("mafnet", "segmentation", "this run of mafnet was trained without segmentations, so it gives none"),
        ("mafnet", "segmentaton", "mafnet gives no map 'segmentaton': did you mean segmentation"),
    ]
    for method, extra, words in asked:
        text = call("synthesize", tmp_path / method, case, "--out", tmp_path / "out", "--map", extra, code=2)
        assert words in text, text
    assert not (tmp_path / "out").exists()
    # the run that segments is scored, the others beside it are not
    rows = pipeline.evaluate([run], data, "validation", ["masked-volume"]).rows
    assert {row.method for row in rows if row.protocol == PROTOCOL} == {"mafnet"}
    rows = pipeline.evaluate([tmp_path / "mafnet", tmp_path / "linear"], data, "test", ["masked-volume"]).rows
    assert {row.protocol for row in rows} == {"masked-volume"}
    # a case without the truth has images to score and no tumour
    bare_case = tmp_path / "bare"
    (bare_case / "sub-004").mkdir(parents=True)
    for name in (*GIVEN, TARGET, "mask"):
        (bare_case / "sub-004" / f"{name}.nii.gz").symlink_to(data / "sub-004" / f"{name}.nii.gz")
    rows = pipeline.evaluate([run], bare_case, "test", ["masked-volume"]).rows
    assert rows and {row.protocol for row in rows} == {"masked-volume"}
