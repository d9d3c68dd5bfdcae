"""Thousands of damaged files, drawn by a seed: each ends in a result or in one line, at once and within bounded memory."""

from __future__ import annotations

import copy
import gzip
import json
import shutil
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from conftest import Verb
from helpers import blob_brain, write_case
from synthmr import documents, labels, pipeline
from synthmr.data.store import Store
from synthmr.errors import SynthmrError
from synthmr.evaluate.own import read_own
from synthmr.evaluate.protocols import read_protocol
from synthmr.evaluate.scores import read_scores
from synthmr.experiment import spec
from synthmr.io import nifti
from synthmr.io.index import describe, index
from synthmr.run import load_run

SHAPE = (8, 9, 7)

#: bytes that one file of a few kB may take, whatever it says, and seconds
MOST_MEMORY, MOST_SECONDS = 40e6, 5.0

#: NIfTI-1 field -> (offset, format); what a fuzzer that flips bytes alone hardly ever hits together
FIELDS = {
    "sizeof_hdr": (0, "i"), "dim": (40, "8h"), "datatype": (70, "h"), "bitpix": (72, "h"), "pixdim": (76, "8f"),
    "vox_offset": (108, "f"), "scl": (112, "2f"), "xyzt_units": (123, "B"), "codes": (252, "2h"), "quatern": (256, "6f"),
    "srow": (280, "12f"), "magic": (344, "4s"),
}  # fmt: skip
REALS = (0.0, -1.0, 1.0, 1e-38, 1e30, 3e38, float("nan"), float("inf"), float("-inf"), 352.0, 1e9)
WHOLES = (0, 1, -1, 2, 3, 7, 8, 32767, -32768, 255, 128)


def one_line(error: SynthmrError) -> None:
    message = str(error)
    assert message.strip() and "\n" not in message and len(message) < 4000


def ends_well(call: Callable[[], object]) -> bool:
    """Whether a call gave a result; else it raised an error of ours, in one line."""
    begin = time.monotonic()
    try:
        call()
    except SynthmrError as error:
        one_line(error)
        return False
    finally:
        assert time.monotonic() - begin < MOST_SECONDS
    return True


def images() -> list[bytes]:
    """Whole images of several kinds, uncompressed."""
    found = []
    for kind, dtype in (
        (nib.Nifti1Image, "int16"),
        (nib.Nifti1Image, "float32"),
        (nib.Nifti1Image, "float64"),
        (nib.Nifti2Image, "uint8"),
    ):
        image = kind(blob_brain(SHAPE).astype(dtype), np.diag([-1.0, 1, 2, 1]))
        image.set_sform(image.affine, 1)
        image.set_qform(image.affine, 1)
        found.append(image.to_bytes())
    return found


def mutant(rng: np.random.Generator, bases: list[bytes]) -> tuple[str, bytes]:
    """(suffix, bytes) of a damaged file."""
    base = bases[rng.integers(len(bases))]
    data, packed = bytearray(base), bool(rng.integers(2))
    kind = rng.integers(6)
    if kind == 0:  # bytes of the header
        for place in rng.integers(0, 352, rng.integers(1, 9)):
            data[place] = rng.integers(256)
    elif kind == 1:  # whole fields with values that break things
        for name in rng.choice(list(FIELDS), rng.integers(1, 4), replace=False):
            offset, form = FIELDS[name]
            count = struct.calcsize("<" + form) // struct.calcsize("<" + form[-1])
            if form[-1] == "s":
                values: list[Any] = [[b"n+1\0", b"n+2\0", b"ni1\0", b"\0\0\0\0"][rng.integers(4)]]
            elif form[-1] == "f":
                values = [REALS[i] for i in rng.integers(0, len(REALS), count)]
            else:
                values = [int(WHOLES[i]) % 256 if form == "B" else int(WHOLES[i]) for i in rng.integers(0, len(WHOLES), count)]
            struct.pack_into("<" + form, data, offset, *values)
    elif kind == 2:  # the end
        data = (
            data[: rng.integers(len(data))]
            if rng.integers(2)
            else data + bytes(rng.integers(0, 256, rng.integers(1, 9000), "uint8"))
        )
    stream = bytearray(gzip.compress(bytes(data), 1, mtime=0)) if packed else data
    if kind == 3:  # bytes of the stream
        for place in rng.integers(0, len(stream), rng.integers(1, 6)):
            stream[place] = rng.integers(256)
    elif kind == 4:  # a piece moved, doubled or lost
        a, b, c = sorted(rng.integers(0, len(stream), 3))
        stream = [stream[:a] + stream[b:], stream[:b] + stream[a:], stream[:a] + stream[b:c] + stream[a:b] + stream[c:]][
            rng.integers(3)
        ]
    elif kind == 5:  # noise behind a beginning
        stream = stream[: rng.integers(0, 600)] + bytearray(rng.integers(0, 256, rng.integers(0, 600), "uint8"))
    return (".nii.gz" if packed else ".nii"), bytes(stream)


def test_3000_damaged_images_end_in_a_volume_or_a_line(tmp_path):
    rng, bases = np.random.default_rng(20), images()
    files = {suffix: tmp_path / f"T1{suffix}" for suffix in nifti.SUFFIXES}
    for suffix, base in ((".nii", bases[0]), (".nii.gz", gzip.compress(bases[0]))):
        files[suffix].write_bytes(base)
        nifti.load(files[suffix])  # what is imported does not count
    read = 0
    for number in range(3000):
        suffix, data = mutant(rng, bases)
        files[suffix].write_bytes(data)

        def load(path: Path = files[suffix], whole: bool = bool(number % 5)) -> None:
            volume = nifti.load(path, np.float32 if whole else np.int32)
            assert np.isfinite(volume.array).all() and np.isfinite(volume.affine).all() and min(volume.shape) > 0

        if number % 8:
            read += ends_well(load)
            continue
        tracemalloc.start()  # what is counted takes four times as long
        read += ends_well(load)
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY, (number, suffix)
        tracemalloc.stop()
    assert 300 < read < 2500  # neither are all refused, nor does nothing break


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four cases of tiny images."""
    root = tmp_path_factory.mktemp("fuzz") / "cohort"
    for number in range(4):
        arrays = {name: blob_brain((16, 18, 12), 10 * number + place) for place, name in enumerate(("T1", "T2", "FLAIR"))}
        write_case(root / f"P{number}", {**arrays, "mask": (arrays["T1"] > 0) * 1})
    return root


@pytest.fixture(scope="module")
def run(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A linear run on the cohort, and the store that it read."""
    folder = tmp_path_factory.mktemp("fuzz-run")
    config = pipeline.configure("linear", "T1w,T2w", "FLAIR")
    store, split = pipeline.prepared(cohort, config, cache=folder / "cache", out=folder / "store")
    pipeline.train(config, store, split, folder / "run", data=cohort)
    return folder / "run"


def test_60_damaged_images_through_the_command_line(cohort, run, tmp_path, verb: Verb):
    rng, bases = np.random.default_rng(21), images()
    data = tmp_path / "cohort"
    shutil.copytree(cohort, data)
    good = data / "P3"
    out = 0
    for number in range(60):
        suffix, stream = mutant(rng, bases)
        (data / "P0" / "T1.nii").unlink(missing_ok=True)
        (data / "P0" / "T1.nii.gz").unlink(missing_ok=True)
        bad = data / "P0" / f"T1{suffix}"
        bad.write_bytes(stream)
        words: list[object] = [
            ["index", data],
            ["audit", data],
            ["score", bad, good / "FLAIR.nii.gz"],
            ["synthesize", run, data, "--out", tmp_path / "syn", "--overwrite", "--no-keep"],
            ["synthesize", run, f"T1w={bad}", f"T2w={good / 'T2.nii.gz'}", "-o", tmp_path / "x.nii.gz", "--overwrite", "--no-keep"],
        ][number % 5]
        code, told = _call(verb, words)
        assert code in (0, 1) and "Traceback" not in told and "not foreseen" not in told, (number, words, told)
        if "--out" in words:
            out += 1
            assert "failed P0" in told or code == 0
            assert len(list((tmp_path / "syn").glob("P[123]_*.nii.gz"))) == 3  # the others are written all the same
    assert out == 12


def _call(verb: Verb, words: list[object]) -> tuple[int, str]:
    """Exit status and all that was printed."""
    for code in (0, 1, 2):
        try:
            done = verb(*words, code=code)
        except AssertionError:
            continue
        return code, done.stdout + done.stderr
    raise AssertionError(f"{words}: another exit status than 0, 1, 2")


# --- our own files ------------------------------------------------------------------------------------------------------

ODD: list[Any] = [None, True, 0, -1, 1e308, "", "x", "../../x", [], {}, [[]], {"a": 1}, "2020-13-45", 10**20, "\ud800"]


def places(data: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything in plain data."""
    for key, value in list(data.items() if isinstance(data, dict) else enumerate(data)):
        yield data, key
        if isinstance(value, (dict, list)):
            yield from places(value)


def edited(rng: np.random.Generator, data: Any) -> Any:
    """Plain data with one or two values exchanged or lost, as by a person with an editor."""
    data = copy.deepcopy(data)
    for _ in range(rng.integers(1, 3)):
        found = list(places(data))
        if not found:
            break
        container, key = found[rng.integers(len(found))]
        if rng.integers(3) == 0 and isinstance(container, dict):
            del container[key]
        else:
            container[key] = ODD[rng.integers(len(ODD))]
    return data


def spoiled(rng: np.random.Generator, data: bytes) -> bytes:
    """Bytes of a text with a few exchanged, or cut."""
    text = bytearray(data)
    for place in rng.integers(0, max(1, len(text)), rng.integers(1, 5)):
        text[place : place + 1] = [b"\0", b"\xff", b'"', b"'", b"[", b"{", b":", b"\n", b",", b"&a ", b"*a", b"\t", b"9" * 400][
            rng.integers(13)
        ]
    return bytes(text[: rng.integers(len(text))] if rng.integers(4) == 0 else text)


def fuzz(path: Path, times: int, seed: int, read: Callable[[], object]) -> int:
    """Damage a file of ours many times and read it; how often it was read all the same. The file is restored."""
    rng, whole = np.random.default_rng(seed), path.read_bytes()
    read_all = 0
    try:
        for number in range(times):
            if path.suffix == ".json" and number % 2:
                path.write_text(json.dumps(edited(rng, json.loads(whole))))
            else:
                path.write_bytes(spoiled(rng, whole))
            read_all += ends_well(read)
    finally:
        path.write_bytes(whole)
    return read_all


def opened(path: Path) -> None:
    loaded = load_run(path)
    assert loaded.units is not None and loaded.brightness is not None and loaded.landmarks is not None


def test_edited_run_folders_end_in_a_run_or_a_line(run):
    opened(run)
    assert 20 < fuzz(run / "run.json", 200, 1, lambda: opened(run)) < 200
    assert fuzz(run / "config.yaml", 40, 2, lambda: opened(run)) < 40
    assert fuzz(run / "split.tsv", 40, 3, lambda: opened(run)) < 40


def test_an_edited_store_ends_in_a_store_or_a_line(run):
    store = run.parent / "store"
    Store.open(store)

    def read() -> None:
        found = Store.open(store)
        for name in found.names:
            found.brain(name), [found.image(name, contrast).cut((0, 0, 0), (2, 2, 2)) for contrast in found.has(name)]

    assert fuzz(store / "store.json", 200, 4, read) < 200


def test_an_edited_sidecar_never_ends_a_score(run, cohort, tmp_path):
    pipeline.synthesize_cohort(run, cohort, tmp_path, keep=False)
    image = next(tmp_path.glob("P1_*.nii.gz"))
    assert read_own(image)[0] is not None
    assert fuzz(nifti_sidecar(image), 200, 5, lambda: read_own(image)) == 200  # it says why and scores as written


def nifti_sidecar(image: Path) -> Path:
    return image.with_name(nifti.stem(image) + ".json")


def test_damaged_tables_end_in_cases_or_a_line(tmp_path):
    write_case(tmp_path / "p", {"a": blob_brain(SHAPE), "b": blob_brain(SHAPE, 1)})
    cases, scores = tmp_path / "cases.csv", tmp_path / "scores.csv"
    cases.write_text("case,T1w,T2w,split,subject\n" + "".join(f"p{i},p/a.nii.gz,p/b.nii.gz,train,s{i}\n" for i in range(4)))
    scores.write_text(
        "case,subject,method,contrast,protocol,region,metric,value\n" + "p1,p1,unet,T1w,masked-volume,brain,psnr,21.5\n" * 5
    )
    assert fuzz(cases, 200, 6, lambda: describe(index(cases))) < 200
    assert fuzz(scores, 200, 7, lambda: read_scores(scores)) < 200


def test_damaged_yaml_ends_in_what_it_is_for_or_a_line(tmp_path):
    table, protocol, convention = (tmp_path / f"{name}.yaml" for name in ("table", "protocol", "convention"))
    table.write_text(spec.load("hinet-table5").text, encoding="utf-8")
    protocol.write_text("base: masked-volume\nmetrics: [psnr, ssim]\nregion: brain\n")
    convention.write_text("labels: {0: background, 1: edema, 2: necrosis}\nhints: [a_*]\nothers: lesion\n")
    assert fuzz(table, 40, 8, lambda: spec.load(str(table))) < 40
    assert fuzz(protocol, 150, 9, lambda: read_protocol(protocol)) < 150
    assert fuzz(convention, 150, 10, lambda: labels.get(convention)) < 150
    rng = np.random.default_rng(11)
    for _ in range(300):  # YAML of nothing but its own signs
        text = "".join(rng.choice(list("&*[]{}:,-?!|>%@`'\"#\n \tabc012<."), rng.integers(1, 60)))
        ends_well(lambda text=text: documents.parse_yaml(text, "x.yaml"))
        ends_well(lambda text=text: documents.parse_json(text, "x.json"))
