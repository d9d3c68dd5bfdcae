"""What a synthetic volume says of itself."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from synthmr import __version__
from synthmr.errors import DataError
from synthmr.io.provenance import description, sidecar, sidecar_path, write_sidecar


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
    assert again["inputs"] == [{"contrast": "T1w", "path": str(source), "sha256": hashlib.sha256(b"voxels").hexdigest()}]
    assert again["software"] == {"name": "synthmr", "version": __version__}


def test_date_is_now_in_utc(tmp_path):
    date = datetime.fromisoformat(sidecar(contrast="T2w", method="copy", run_hash="x", inputs={})["date"])
    assert abs((datetime.now(UTC) - date).total_seconds()) < 60


def test_an_input_that_is_gone():
    with pytest.raises(DataError, match="cannot be read"):
        sidecar(contrast="T2w", method="copy", run_hash="x", inputs={"T1w": Path("gone.nii.gz")})
