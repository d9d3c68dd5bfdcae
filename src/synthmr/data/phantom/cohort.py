"""Writing a simulated cohort: one folder a subject, the truth beside it, all or nothing.

OUT/sub-001/{T1w,T2w,PDw,FLAIR,T1ce}.nii.gz   int16, skull-stripped: 0 outside the brain
OUT/sub-001/mask.nii.gz                       uint8, the brain
OUT/sub-001/seg.nii.gz                        uint8: 1 MS-like, 2 oedema, 3 necrosis, 4 enhancing core, 5 stroke-like
OUT/derivatives/phantom/sub-001/tissue.nii.gz uint8: 1 CSF, 2 grey matter, 3 white matter
OUT/derivatives/phantom/sub-001/truth_*.nii.gz float32, no noise and no bias field, in the same gain
OUT/derivatives/phantom/sub-001/parameters.json
OUT/splits.tsv                                case, split; with three subjects or more
OUT/dataset.json                              configuration, labels, version
"""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from synthmr import __version__
from synthmr.config import to_dict
from synthmr.data.phantom.anatomy import load_template
from synthmr.data.phantom.lesions import LABELS
from synthmr.data.phantom.settings import CONTRASTS, LESIONS, PhantomConfig
from synthmr.data.phantom.subject import TISSUE_LABELS, PhantomSubject, simulate_subject
from synthmr.documents import read_json
from synthmr.errors import DataError, UsageError
from synthmr.io.files import atomic, write_error, write_json, write_text

#: what dataset.json says it is; a folder without it is never overwritten
KIND = "synthmr phantom"


def make_phantom(
    out: Path,
    subjects: int,
    seed: int = 0,
    spacing: float = 2.0,
    contrasts: Sequence[str] = CONTRASTS,
    field_strength: float = 3.0,
    lesions: Sequence[str] = LESIONS,
    noise: float = 0.03,
    overwrite: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> list[Path]:
    """Simulate a cohort and write it; `PhantomConfig` explains the arguments, `write_cohort` takes all of its fields.

    Returns:
        The subject folders.

    Raises:
        UsageError, DataError: see `PhantomConfig` and `write_cohort`.
    """
    config = PhantomConfig(
        seed=seed,
        spacing=spacing,
        contrasts=tuple(contrasts) if not isinstance(contrasts, str) else contrasts,  # type: ignore[arg-type]
        field_strength=field_strength,
        lesions=tuple(lesions) if not isinstance(lesions, str) else lesions,  # type: ignore[arg-type]
        noise=noise,
    )
    return write_cohort(out, subjects, config, overwrite, progress)


def write_cohort(
    out: Path,
    subjects: int,
    config: PhantomConfig,
    overwrite: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> list[Path]:
    """Simulate ``subjects`` subjects and write them to the folder ``out`` (layout: see the module).

    The folder appears when all of it is written. The same configuration writes the same bytes.

    Args:
        out: a folder that does not exist yet or is empty.
        subjects: how many; at least 1.
        config: what to simulate.
        overwrite: replace a folder that holds an earlier phantom (and nothing else is ever replaced).
        progress: called with (done, total) after each subject.

    Returns:
        The subject folders, in order.

    Raises:
        UsageError: fewer than 1 subject; ``out`` is not empty.
        DataError: ``out`` cannot be written; the packaged templates are missing.
    """
    if isinstance(subjects, bool) or not isinstance(subjects, int | np.integer) or subjects < 1:
        raise UsageError(f"{subjects!r} phantom subjects were asked for; give a whole number of at least 1.")
    out = Path(out).expanduser().resolve()
    _check_target(out, overwrite)
    template = load_template(config.spacing)
    names = []
    with atomic(out) as folder:
        folder.mkdir()
        for index in range(subjects):
            subject = simulate_subject(config, index, template)
            _write_subject(folder, subject)
            names.append(subject.name)
            if progress is not None:
                progress(index + 1, int(subjects))
        splits = split_names(names)
        if splits:
            write_text(folder / "splits.tsv", "case\tsplit\n" + "".join(f"{case}\t{split}\n" for case, split in splits.items()))
        write_json(folder / "dataset.json", _description(config, len(names)))
        if overwrite and out.exists():
            shutil.rmtree(out)
    return [out / name for name in names]


def split_names(names: Sequence[str]) -> dict[str, str]:
    """60/20/20 by index, at least one each; nothing for fewer than three subjects."""
    if len(names) < 3:
        return {}
    held = max(1, round(0.2 * len(names)))
    train = len(names) - 2 * held
    return {name: "train" if i < train else "validation" if i < train + held else "test" for i, name in enumerate(names)}


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray, description: str) -> None:
    """Write ``array`` ``(X, Y, Z)`` as .nii.gz, unscaled, sform and qform alike, without a time stamp."""
    import nibabel

    image = nibabel.Nifti1Image(array, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = description.encode()[:79]
    with path.open("wb") as stream, gzip.GzipFile(filename="", mode="wb", fileobj=stream, compresslevel=1, mtime=0) as packed:
        packed.write(image.to_bytes())


def _write_subject(folder: Path, subject: PhantomSubject) -> None:
    case = folder / subject.name
    derived = folder / "derivatives" / "phantom" / subject.name
    case.mkdir()
    derived.mkdir(parents=True)
    for contrast, image in subject.images.items():
        save_nifti(case / f"{contrast}.nii.gz", image, subject.affine, f"synthmr phantom {contrast}: SIMULATED")
    save_nifti(case / "mask.nii.gz", subject.mask.astype(np.uint8), subject.affine, "synthmr phantom brain mask")
    save_nifti(case / "seg.nii.gz", subject.lesions, subject.affine, "synthmr phantom lesion labels")
    save_nifti(derived / "tissue.nii.gz", subject.tissue, subject.affine, "synthmr phantom tissue labels")
    for contrast, truth in subject.truth.items():
        name = f"truth_{contrast}.nii.gz"
        save_nifti(derived / name, truth, subject.affine, f"synthmr phantom {contrast}: no noise, no bias field")
    write_json(derived / "parameters.json", subject.parameters)


def _description(config: PhantomConfig, subjects: int) -> dict[str, Any]:
    return {
        "kind": KIND,
        "note": "simulated, no patient data; anatomy: MNI152 (ICBM 2009a symmetric)",
        "version": __version__,
        "subjects": subjects,
        "config": to_dict(config),
        "labels": {"seg": LABELS, "tissue": dict(TISSUE_LABELS)},
    }


def _check_target(out: Path, overwrite: bool) -> None:
    """Refuse a target that holds something, unless it is a phantom and may be replaced."""
    try:
        if not out.exists() or (out.is_dir() and not any(out.iterdir())):
            return
    except OSError as error:
        raise write_error(out, error) from None
    if not out.is_dir():
        raise UsageError(f"{out} is a file; name a folder for the phantom.")
    if not overwrite:
        raise UsageError(f"{out} is not empty; name a new folder, or pass --overwrite to replace an earlier phantom.")
    if not _is_phantom(out):
        raise UsageError(f"{out} holds no phantom (dataset.json does not say so) and is not overwritten; name a new folder.")
    others = _foreign(out)
    if others:
        raise UsageError(f"{out} also holds {', '.join(others[:4])}, which no phantom has; move that away, then --overwrite.")


def _is_phantom(folder: Path) -> bool:
    try:
        data = read_json(folder / "dataset.json")
    except DataError:
        return False
    return isinstance(data, dict) and data.get("kind") == KIND


def _foreign(folder: Path) -> list[str]:
    """What the folder holds besides a phantom: things of a person's own, which must not go with it."""
    ours = [*folder.glob("sub-[0-9]*"), *(folder / name for name in ("derivatives", "splits.tsv", "dataset.json"))]
    others = [path.name for path in folder.iterdir() if path not in ours]
    derived = folder / "derivatives"
    if derived.is_dir():
        others += [f"derivatives/{path.name}" for path in derived.iterdir() if path.name != "phantom"]
    return sorted(others)
