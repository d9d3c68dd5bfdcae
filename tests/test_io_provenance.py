"""What a synthetic volume says of itself."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from synthmr import __version__
from synthmr.errors import DataError
from synthmr.io.provenance import description, file_entry, path_from, sidecar, sidecar_path, write_sidecar


def test_description_fits_the_header_and_says_synthetic_first():
    text = description("hinet", "FLAIR", "0123456789ab")
    assert text.startswith("SYNTHETIC FLAIR") and "hinet" in text and "0123456789ab" in text and __version__ in text
    assert len(description("m" * 100, "FLAIR", "x")) == 79


def test_sidecar_is_beside_the_image_and_names_the_inputs_by_checksum(tmp_path):
    source = tmp_path / "t1.nii.gz"
    source.write_bytes(b"voxels")
    data = sidecar(
        contrast="FLAIR",
        method="hinet",
        run_hash="abc",
        inputs={"T1w": source},
        case="c1",
        settings={"mode": "slices"},
        date=datetime(2026, 11, 21, 6, 30, tzinfo=UTC),
    )
    path = write_sidecar(tmp_path / "out" / "flair.nii.gz", data)
    assert path == tmp_path / "out" / "flair.json" == sidecar_path(tmp_path / "out" / "flair.nii")
    again = json.loads(path.read_text())
    assert again == data
    assert again["synthetic"] is True and again["date"] == "2026-11-21T06:30:00+00:00"
    digest = hashlib.sha256(b"voxels").hexdigest()
    assert again["inputs"] == [{"contrast": "T1w", "file": "t1.nii.gz", "path": str(source), "sha256": digest}]
    assert again["software"] == {"name": "synthmr", "version": __version__}


def test_date_is_now_in_utc(tmp_path):
    date = datetime.fromisoformat(sidecar(contrast="T2w", method="copy", run_hash="x", inputs={})["date"])
    assert abs((datetime.now(UTC) - date).total_seconds()) < 60


def test_an_input_that_is_gone():
    with pytest.raises(DataError, match="cannot be read"):
        sidecar(contrast="T2w", method="copy", run_hash="x", inputs={"T1w": Path("gone.nii.gz")})


def test_paths_are_seen_from_the_folder_of_the_image(tmp_path, monkeypatch):
    source = tmp_path / "data" / "sub-01" / "t1.nii.gz"
    source.parent.mkdir(parents=True)
    source.write_bytes(b"voxels")
    out = tmp_path / "out" / "deep"
    out.mkdir(parents=True)
    data = sidecar(contrast="T2w", method="copy", run_hash="x", inputs={"T1w": source}, folder=out)
    assert data["inputs"][0]["path"] == str(Path("..", "..", "data", "sub-01", "t1.nii.gz"))
    assert (out / data["inputs"][0]["path"]).read_bytes() == b"voxels"
    # the same from a relative path, and for a folder that is not there yet
    monkeypatch.chdir(tmp_path)
    assert path_from(Path("data/sub-01/t1.nii.gz"), Path("out/deep")) == data["inputs"][0]["path"]
    assert path_from(source, tmp_path / "new") == str(Path("..", "data", "sub-01", "t1.nii.gz"))
    assert path_from(Path("data/sub-01/t1.nii.gz"), None) == str(source.resolve())


def test_a_link_keeps_its_name_and_folders_behind_links_are_found(tmp_path):
    """Of data under version control the image's own name is a link to a file called by its checksum."""
    (tmp_path / "annex").mkdir()
    (tmp_path / "annex" / "SHA256-abc").write_bytes(b"voxels")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "t1.nii.gz").symlink_to(tmp_path / "annex" / "SHA256-abc")
    (tmp_path / "disk" / "far" / "away").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "far" / "away")
    entry = file_entry(tmp_path / "data" / "t1.nii.gz", tmp_path / "out")
    assert entry["file"] == "t1.nii.gz" and entry["path"] == str(Path("..", "..", "..", "data", "t1.nii.gz"))
    assert (tmp_path / "out" / entry["path"]).read_bytes() == b"voxels"
