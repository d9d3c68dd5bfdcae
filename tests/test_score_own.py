"""Volumes that synthmr wrote: by their sidecars `score` says what `evaluate` says, in whatever units they lie on disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from conftest import Run, train_words
from helpers import blob_brain, write_case
from synthmr import pipeline
from synthmr.case import Volume
from synthmr.config import PrepareConfig
from synthmr.evaluate.own import read_own
from synthmr.evaluate.protocols import MASKED_VOLUME, PROTOCOLS
from synthmr.evaluate.scoring import score, score_input
from synthmr.io.files import sha256
from synthmr.prepare import normalize
from synthmr.prepare.case import prepare_images, restore
from synthmr.prepare.units import UNIT, Units, units_of

SHAPE = (26, 30, 22)
FACTOR = 1.25


def images(stripped: bool = True) -> dict[str, np.ndarray]:
    """Two sources and a truth of one head; with ``stripped`` exactly 0 outside of it, else with air around it."""
    arrays = {name: blob_brain(SHAPE, seed) for seed, name in enumerate(("T1w", "T2w", "FLAIR"))}
    if not stripped:
        air = np.random.default_rng(9).uniform(1, 6, SHAPE).astype(np.float32)
        arrays = {name: np.where(array > 0, array, air).astype(np.float32) for name, array in arrays.items()}
    return arrays


class Made:
    """A case on disk, a prediction of its FLAIR in the run's units, and what `evaluate` says of it."""

    def __init__(self, root: Path, normalizer: str = "percentile", mask: str = "file", clip: bool = True) -> None:
        arrays = images(mask != "otsu")
        if mask == "file":
            eroded = arrays["T1w"] > 0
            eroded[:, :9] = False  # no mask that anybody could guess
            arrays["mask"] = eroded
        self.files = write_case(root / "case", arrays)
        volumes = {name: Volume(arrays[name].astype(np.float32), np.eye(4)) for name in ("T1w", "T2w", "FLAIR")}
        given = Volume(arrays["mask"].astype(np.float32), np.eye(4)) if mask == "file" else None
        inside = arrays["T1w"] > 50
        landmarks = {name: normalize.learn_landmarks([arrays[name][inside]]) for name in volumes}
        self.prepared = prepare_images(
            volumes, PrepareConfig(normalizer=normalizer), ("FLAIR",), given, landmarks=landmarks, name="sub-1"
        )
        own = self.prepared.normalizers["FLAIR"]
        # the run's medians are not the truth's own parameters
        self.params = {
            key: value if key in ("name", "standard") else (np.asarray(value) * 1.3).tolist() for key, value in own.items()
        }
        self.units = Units(0.31, 0.12) if normalizer == "zscore" else units_of(normalizer, [self.params])
        noise = np.random.default_rng(3).normal(0, 0.2, self.prepared.mask.shape)
        self.guess = np.where(self.prepared.mask, self.prepared.images["FLAIR"] * 0.8 + noise, normalize.background(self.params))
        if clip:
            self.guess = np.clip(self.guess, -1, 1)
        self.guess = self.guess.astype(np.float32)
        self.mask = mask
        self.root = root

    def unit(self) -> np.ndarray:
        """What the run predicts, on the unit scale: units, then brightness about the background."""
        return np.where(self.prepared.mask, self.units.apply(self.guess) * np.float32(FACTOR), np.float32(0))

    def expected(self, protocols: list[Any] | None = None) -> dict[tuple[str, str, str], float]:
        scored = score_input(self.unit(), self.prepared, "FLAIR", UNIT)
        found = {protocol.name: score(scored, protocol) for protocol in protocols or [MASKED_VOLUME]}
        return {
            (name, region, metric): value
            for name, regions in found.items()
            for region, values in regions.items()
            for metric, value in values.items()
        }

    def write(self, intensity: str, **settings: Any) -> Path:
        """The volume as the writer writes it, with its sidecar; ``settings`` replace the sidecar's."""
        if intensity == "scanner":
            values = normalize.invert(self.guess, self.params)
        else:
            values = self.unit()
        array = restore(np.where(self.prepared.mask, values, np.float32(0)), self.prepared)
        (path,) = write_case(self.root / "out", {f"sub-1_desc-synth_FLAIR-{intensity}": array}).values()
        image = path.with_name("sub-1_desc-synth_FLAIR.nii.gz")
        path.rename(image)
        names = ("T1w", "T2w", *(("mask",) if self.mask == "file" else ()))
        mask = {"mode": self.mask}
        if self.mask == "file":
            mask |= {"file": "mask.nii.gz", "path": "../case/mask.nii.gz", "sha256": sha256(self.files["mask"])}
        words = {
            "target_normalizer": self.params,
            "unit_scale": self.units.as_dict(),
            "brightness": {"factor": FACTOR},
            "mask": mask,
            **settings,
        }
        record = {
            "synthetic": True,
            "contrast": "FLAIR",
            "case": "sub-1",
            "method": "linear",
            "run_hash": "abc",
            "inputs": [{"contrast": n, "path": f"../case/{n}.nii.gz", "sha256": sha256(self.files[n])} for n in names],
            "intensity": intensity,
            "settings": {key: value for key, value in words.items() if value is not None},
            "image_sha256": sha256(image),
        }
        image.with_name("sub-1_desc-synth_FLAIR.json").write_text(json.dumps(record))
        return image

    def scored(self, image: Path, protocols: tuple[str, ...] = (), **more: Any) -> dict[tuple[str, str, str], float]:
        found = pipeline.score(image, self.files["FLAIR"], protocols=protocols, **more)
        return {(row.protocol, row.region, row.metric): row.value for row in found.rows}


def close(found: dict[tuple[str, str, str], float], expected: dict[tuple[str, str, str], float]) -> None:
    assert list(found) == list(expected)
    for key, value in expected.items():
        if key[2].endswith("psnr"):
            assert found[key] == pytest.approx(value, abs=0.01), key
        else:
            assert found[key] == pytest.approx(value, rel=1e-3, abs=1e-4), key


@pytest.mark.parametrize("normalizer", normalize.NAMES)
@pytest.mark.parametrize("intensity", ["normalized", "scanner"])
def test_score_says_what_evaluate_says(tmp_path: Path, normalizer: str, intensity: str) -> None:
    made = Made(tmp_path, normalizer)
    image = made.write(intensity)
    expected = made.expected()
    found = pipeline.score(image, made.files["FLAIR"])
    close(made.scored(image), expected)
    assert found.notes == [] and {(row.case, row.method, row.contrast) for row in found.rows} == {("sub-1", "linear", "FLAIR")}
    # it would not without the sidecar
    plain = made.scored(image, as_written=True)
    assert abs(plain["masked-volume", "brain", "psnr"] - expected["masked-volume", "brain", "psnr"]) > 0.5


def test_under_every_protocol(tmp_path: Path) -> None:
    made = Made(tmp_path)
    protocols = [protocol for protocol in PROTOCOLS.values() if not protocol.needs_segmentation]
    close(made.scored(made.write("scanner"), tuple(p.name for p in protocols)), made.expected(protocols))


@pytest.mark.parametrize("normalizer", ["percentile", "zscore"])
@pytest.mark.parametrize("intensity", ["normalized", "scanner"])
def test_values_beyond_the_range_are_not_clipped(tmp_path: Path, normalizer: str, intensity: str) -> None:
    made = Made(tmp_path, normalizer, clip=False)
    assert made.guess.max() > 1 and made.unit().max() > 1
    close(made.scored(made.write(intensity)), made.expected())


@pytest.mark.parametrize("mode", ["nonzero", "otsu"])
def test_a_mask_that_the_run_made_is_made_again(tmp_path: Path, mode: str) -> None:
    made = Made(tmp_path, mask=mode, clip=False)  # clipped voxels would be exactly 0 in the brain, too
    image = made.write("normalized")
    step = next(step for step in made.prepared.history if step["step"] == "mask")
    assert step["mode"] == mode
    close(made.scored(image), made.expected())
    # the sources are gone: the brain is where the prediction is not 0, and a line says so
    made.files["T2w"].rename(tmp_path / "away.nii.gz")
    found = pipeline.score(image, made.files["FLAIR"])
    (note,) = found.notes
    assert "T2w.nii.gz, which its sidecar names, is not found; the brain is where the prediction is not 0." in note
    close({(row.protocol, row.region, row.metric): row.value for row in found.rows}, made.expected())


def test_a_mask_file_that_changed_or_is_gone_is_told(tmp_path: Path) -> None:
    made = Made(tmp_path)
    image = made.write("normalized")
    write_case(tmp_path / "case", {"mask": np.ones(SHAPE)})
    (note,) = pipeline.score(image, made.files["FLAIR"]).notes
    assert "mask.nii.gz, which its sidecar names, has changed; the brain is where the prediction is not 0." in note
    close(made.scored(image), made.expected())
    made.files["mask"].unlink()
    (note,) = pipeline.score(image, made.files["FLAIR"]).notes
    assert "is not found" in note


def test_a_mask_that_is_given_goes_before_the_sidecars(tmp_path: Path) -> None:
    made = Made(tmp_path)
    image = made.write("normalized")
    other = made.prepared.mask.copy()
    other[:, : other.shape[1] // 2] = False
    (path,) = write_case(tmp_path, {"half": restore(other, made.prepared)}).values()
    found = made.scored(image, mask=path)
    assert found != made.scored(image)
    inside = restore(other, made.prepared)
    truth = images()["FLAIR"]
    params = normalize.fit("percentile", truth[inside])
    y = normalize.to_unit(normalize.apply(truth, params), params)[inside]
    g = restore(made.unit(), made.prepared)[inside]
    expected = -10 * np.log10(np.mean((g.astype(float) - y) ** 2))
    assert found["masked-volume", "brain", "psnr"] == pytest.approx(expected, abs=1e-3)


def test_sidecars_of_older_versions_are_read_as_far_as_they_go(tmp_path: Path) -> None:
    """No units, no mask and no brightness of scanner units: the parameters give the first, the inputs the second."""
    made = Made(tmp_path)
    image = made.write("normalized", unit_scale=None, mask=None)
    close(made.scored(image), made.expected())
    plain = made.write("scanner", unit_scale=None, mask=None, brightness=None)
    own, why = read_own(plain)
    assert why == "" and own is not None and own.factor == 1 and own.units == Units(0.5, 0.5) and own.mask == {}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.unlink(), "has no synthmr sidecar: its voxels are scored as they are."),
        (lambda path: path.write_text("{"), "cannot be read"),
        (lambda path: path.write_text('{"RepetitionTime": 2}'), "is no synthmr sidecar"),
        (lambda path: path.write_text(path.read_text().replace('"scale"', '"scala"')), "is damaged"),
        (lambda path: path.write_text(path.read_text().replace('"normalized"', '"nonsense"')), "is damaged"),
        (lambda path: path.write_text(path.read_text().replace('"target_normalizer"', '"other"')), "names no normaliser"),
        (lambda path: path.write_text(path.read_text().replace('"image_sha256": "', '"image_sha256": "0')), "was changed after"),
    ],
)
def test_what_is_no_sidecar_of_the_file_is_told_and_not_followed(tmp_path: Path, spoil: Any, words: str) -> None:
    made = Made(tmp_path)
    image = made.write("normalized")
    plain = made.scored(image, as_written=True)
    spoil(image.with_name("sub-1_desc-synth_FLAIR.json"))
    found = pipeline.score(image, made.files["FLAIR"])
    assert words in found.notes[0] and "scored as they are" in found.notes[0]
    assert {(row.protocol, row.region, row.metric): row.value for row in found.rows} == plain


def test_a_case_whose_files_are_stored_in_another_orientation(tmp_path: Path) -> None:
    made = Made(tmp_path)
    image = made.write("scanner")
    expected = made.scored(image)
    record = json.loads(image.with_name("sub-1_desc-synth_FLAIR.json").read_text())
    turn = np.array([[1, -1], [2, 1], [0, -1]], float)
    for path in (*made.files.values(), image):
        nib.save(nib.load(path).as_reoriented(turn), path)
    for each in record["inputs"]:
        each["sha256"] = sha256(tmp_path / "case" / Path(each["path"]).name)
    record["settings"]["mask"]["sha256"] = sha256(made.files["mask"])
    record["image_sha256"] = sha256(image)
    image.with_name("sub-1_desc-synth_FLAIR.json").write_text(json.dumps(record))
    close(made.scored(image), expected)


def test_the_truth_has_no_say_in_the_prediction(tmp_path: Path) -> None:
    """A truth that is twice as bright: by a sidecar the prediction stays what it is, and the score too, as its truth is scaled."""
    made = Made(tmp_path)
    image = made.write("scanner")
    bright = write_case(tmp_path / "bright", {"FLAIR": images()["FLAIR"] * 2})["FLAIR"]
    two = replace(pipeline.score(image, bright)).rows
    assert {(row.protocol, row.region, row.metric): row.value for row in two} == pytest.approx(made.scored(image), rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "intensity"),
    [
        ("prepare.normalizer=percentile", "normalized"),
        ("prepare.normalizer=percentile", "scanner"),
        ("prepare.normalizer=zscore", "normalized"),
        ("prepare.normalizer=zscore", "scanner"),
        # no brightness, whose entry names the percentile too
        ("prepare.percentile=95 train.brightness=false", "normalized"),
        ("prepare.percentile=95 prepare.normalizer=mean", "scanner"),
    ],
)
def test_on_the_phantom_score_of_what_synthesize_writes_is_what_evaluate_says(
    synthmr: Run, phantom: Path, tmp_path: Path, intensity: str, settings: str
) -> None:
    """Through the command line, from training to the numbers."""
    run, out = tmp_path / "run", tmp_path / "out"
    synthmr(*train_words("linear", phantom, run, *(word for each in settings.split() for word in ("--set", each))))
    synthmr("-q", "synthesize", run, phantom, "--out", out, "--intensity", intensity, "--split", "validation")
    said = json.loads(synthmr("-q", "evaluate", run, phantom, "--split", "validation", "--json").stdout)["scores"]
    done = synthmr("score", out, phantom, "--json")
    found = json.loads(done.stdout)["scores"]
    # the mask is the file that the sidecar names, not the voxels that happen not to be 0
    assert "is not found" not in done.stderr + done.stdout
    keys = ("case", "subject", "method", "contrast", "protocol", "region", "metric")
    expected = {tuple(row[key] for key in keys): row["value"] for row in said}
    assert {tuple(row[key] for key in keys) for row in found} == set(expected) and "scored as they are" not in done.stderr
    for row in found:
        value = expected[tuple(row[key] for key in keys)]
        assert row["value"] == pytest.approx(value, abs=0.01 if row["metric"].endswith("psnr") else 1e-3), row["metric"]
