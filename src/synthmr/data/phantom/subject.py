"""One simulated subject, from the template to scanner units. READ FIRST: `simulate_subject`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import ndimage
from threadpoolctl import threadpool_limits

from synthmr.config import to_dict
from synthmr.data.phantom.anatomy import Template, load_template
from synthmr.data.phantom.fields import random_generator, smooth_field
from synthmr.data.phantom.lesions import LABELS, Scene, draw_lesions, lesion_labels
from synthmr.data.phantom.settings import PhantomConfig
from synthmr.data.phantom.signal import (
    GADOLINIUM_RANGE,
    HEALTHY,
    RELAXIVITY,
    Sequence,
    Tissue,
    draw_tissues,
    protocol,
    rician,
    signal,
    with_gadolinium,
)
from synthmr.data.phantom.warp import Warp, pull, random_warp
from synthmr.errors import UsageError

#: labels of ``tissue.nii.gz``
TISSUE_LABELS: Mapping[str, int] = {"csf": 1, "gm": 2, "wm": 3}

#: correlation of a contrast's bias field with the coil field that all contrasts of a subject share
COIL_SHARE = 0.9

#: mean brain signal in scanner units: the gain is drawn so that it lies here (log-uniform)
BRIGHTNESS = (150.0, 1500.0)


@dataclass(frozen=True, eq=False)
class PhantomSubject:
    """A simulated subject. Volumes are ``(X, Y, Z)`` on one RAS grid.

    Attributes:
        name: ``sub-001`` for index 0.
        images: contrast -> int16, scanner units: with bias field and noise; 0 outside the brain, at least 1 inside.
        truth: contrast -> float32, scanner units (the same gain): no noise, no bias field, same point spread.
        mask: bool, the brain.
        tissue: uint8, the healthy tissue that fills most of the voxel (under a lesion: that it replaced): 1 CSF, 2 grey
            and 3 white matter.
        lesions: uint8: 1 MS-like, 2 oedema, 3 necrosis, 4 enhancing core, 5 stroke-like.
        fractions: tissue -> float32; healthy and lesion tissues together sum to 1 in the mask.
        affine: 4x4, voxel index to RAS millimetres.
        parameters: what was drawn, as JSON data.
    """

    name: str
    images: Mapping[str, np.ndarray]
    truth: Mapping[str, np.ndarray]
    mask: np.ndarray
    tissue: np.ndarray
    lesions: np.ndarray
    fractions: Mapping[str, np.ndarray]
    affine: np.ndarray
    parameters: Mapping[str, Any]


def simulate_subject(config: PhantomConfig, index: int, template: Template | None = None) -> PhantomSubject:
    """Simulate subject ``index`` (from 0): a pure function of ``config`` and ``index``.

    Args:
        config: the cohort.
        index: which subject.
        template: `load_template` of the same spacing, where the caller has it; read from the cache otherwise.

    Raises:
        UsageError: ``index`` is negative.
        DataError: the packaged template is damaged.
    """
    if index < 0:
        raise UsageError(f"phantom subject index {index} is negative; the first is 0.")
    template = template or load_template(config.spacing)
    # the matrices are small: a second BLAS thread only waits for the first
    with threadpool_limits(1, user_api="blas"):
        return _simulate(config, index, template)


def _simulate(config: PhantomConfig, index: int, template: Template) -> PhantomSubject:
    warp = random_warp(template, config, index)
    scene = _anatomy(template, warp, config, index)
    healthy = {"csf": scene.csf, "gm": scene.gm, "wm": scene.wm}
    kind, lesions, drawn = draw_lesions(scene, config, index)
    fractions = _replace_tissue(healthy, lesions)
    tissues = draw_tissues(random_generator(config.seed, index, "tissues"), config.field_strength, config.variation)
    low, high = GADOLINIUM_RANGE
    gadolinium = float(random_generator(config.seed, index, "gadolinium").uniform(low, high))
    texture = _texture(scene, config, index)
    sequences = protocol(config.field_strength)
    weight = ndimage.gaussian_filter(scene.mask.astype(float), _sigma(config.psf))[scene.mask]
    images, truth, scanner = {}, {}, {}
    for contrast in config.contrasts:
        used = dict(tissues)
        if contrast == "T1ce":
            used["enhancing"] = with_gadolinium(tissues["enhancing"], gadolinium, RELAXIVITY[config.field_strength])
        clean = _clean(fractions, used, texture, sequences[contrast], scene.mask)
        clean = point_spread(clean, scene.mask, config.psf, weight)
        images[contrast], truth[contrast], scanner[contrast] = _scan(clean, scene, config, index, contrast)
    parameters = {
        "index": index,
        "kind": kind,
        "lesions": drawn,
        "tissues": {name: to_dict(tissue) for name, tissue in tissues.items()},
        "gadolinium_mmol_per_l": gadolinium,
        "protocol": {name: to_dict(sequences[name]) for name in config.contrasts},
        "scanner": scanner,
        "warp": _describe(warp, scene.mask),
        "volume_ml": _volumes(fractions, config.spacing),
    }
    return PhantomSubject(
        name=f"sub-{index + 1:03d}",
        images=images,
        truth=truth,
        mask=scene.mask,
        tissue=np.where(scene.mask, 1 + np.argmax(np.stack([healthy[name] for name in HEALTHY]), axis=0), 0).astype(np.uint8),
        lesions=lesion_labels(lesions, scene.mask.shape),
        fractions={name: fraction.astype(np.float32) for name, fraction in fractions.items()},
        affine=template.affine,
        parameters=parameters,
    )


def _anatomy(template: Template, warp: Warp, config: PhantomConfig, index: int) -> Scene:
    """Warp the template and give the subject a folding pattern of its own.

    The averaged fractions p are re-weighted, p exp(g) / sum p exp(g) with smooth random g for each tissue: where the
    152 brains differ (p far from 0 and 1), each subject gets its own answer.
    """
    soft = pull(template.mask, template, warp.points)
    mask = soft > 0.5
    labels, count = ndimage.label(mask)
    if count > 1:
        mask = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    inside = warp.points[:, mask]
    rng = random_generator(config.seed, index, "folding")
    own = smooth_field(rng, template.axes, template.box, 7.0, components=3)
    atrophy = np.array([rng.normal(0.0, 0.35), 0.0, 0.0])  # some people have more CSF everywhere
    weights = np.stack([
        np.maximum(pull(getattr(template, name), template, inside), 1e-6)
        * np.exp(config.individuality * (field[mask] + shift))
        for name, field, shift in zip(HEALTHY, own, atrophy, strict=True)
    ])  # fmt: skip
    weights /= weights.sum(axis=0)
    volumes = []
    for values in weights:
        volume = np.zeros(mask.shape)
        volume[mask] = values
        volumes.append(volume)
    ventricle = np.full(mask.shape, 30.0)
    ventricle[mask] = pull(template.ventricle, template, inside)
    csf, gm, wm = volumes
    return Scene(template.axes, template.box, csf, gm, wm, mask, ventricle)


def _replace_tissue(healthy: Mapping[str, np.ndarray], lesions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    if not lesions:
        return dict(healthy)
    left = 1.0 - np.clip(sum(lesions.values()), 0.0, 1.0)
    return {name: fraction * left for name, fraction in healthy.items()} | dict(lesions)


def _texture(scene: Scene, config: PhantomConfig, index: int) -> np.ndarray:
    """Factors ``(3, N)`` of T1, T2 and PD at the N brain voxels: log-normal, smooth over 12 mm, independent."""
    rng = random_generator(config.seed, index, "texture")
    fields = smooth_field(rng, scene.axes, scene.box, 12.0, components=3)[:, scene.mask]
    return np.exp(config.texture * np.array([[1.0], [1.0], [0.5]]) * fields)


def _clean(
    fractions: Mapping[str, np.ndarray],
    tissues: Mapping[str, Tissue],
    texture: np.ndarray,
    sequence: Sequence,
    mask: np.ndarray,
) -> np.ndarray:
    """Noise-free signed signal ``(N,)`` of the brain voxels in units of M0: sum over tissues of fraction x signal."""
    total = np.zeros(int(mask.sum()))
    for name, fraction in fractions.items():
        share = fraction[mask]
        some = share > 0
        tissue = tissues[name]
        if name != "csf":  # fluid is the same everywhere
            t1, t2, pd = texture[:, some]
            tissue = replace(tissue, t1=tissue.t1 * t1, t2=tissue.t2 * t2, pd=np.minimum(tissue.pd * pd, 1.0))
        total[some] += share[some] * signal(tissue, sequence)
    return total


def _sigma(fwhm: float) -> float:
    """Standard deviation of a Gaussian from its full width at half maximum."""
    return float(fwhm / (2 * np.sqrt(2 * np.log(2))))


def point_spread(values: np.ndarray, mask: np.ndarray, fwhm: float, weight: np.ndarray | None = None) -> np.ndarray:
    """Blur the brain voxels ``values`` ``(N,)`` with a Gaussian, normalised to the brain: its edge is not darkened.

    Args:
        values: at the voxels of ``mask``.
        mask: ``(X, Y, Z)`` bool.
        fwhm: full width at half maximum, voxels; 0 is no blur.
        weight: the blurred mask ``(N,)``, where the caller has it.
    """
    if fwhm == 0:
        return values
    if weight is None:
        weight = ndimage.gaussian_filter(mask.astype(float), _sigma(fwhm))[mask]
    volume = np.zeros(mask.shape)
    volume[mask] = values
    return np.asarray(ndimage.gaussian_filter(volume, _sigma(fwhm))[mask] / weight)


def _scan(
    values: np.ndarray, scene: Scene, config: PhantomConfig, index: int, contrast: str
) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """From clean brain voxels ``(N,)`` to image (int16) and truth (float32) ``(X, Y, Z)`` in scanner units, and what was
    drawn: bias field, noise, gain."""
    rng = random_generator(config.seed, index, f"scan {contrast}")
    mask = scene.mask
    mean = float(np.abs(values).mean())
    logarithm = config.bias * _bias(scene, config, index, rng)
    gain = float(np.exp(rng.uniform(*np.log(BRIGHTNESS)))) / mean
    sigma = config.noise * mean
    noisy = rician(rng, values * np.exp(logarithm), sigma) * gain
    image = np.zeros(mask.shape, dtype=np.int16)
    # at least 1: zero means "no brain" to everyone who reads a skull-stripped volume
    image[mask] = np.clip(np.rint(noisy), 1, np.iinfo(np.int16).max).astype(np.int16)
    truth = np.zeros(mask.shape, dtype=np.float32)
    truth[mask] = np.abs(values) * gain
    drawn = {
        "gain": gain,
        "noise_sigma": sigma * gain,
        "bias_min": float(np.exp(logarithm.min())),
        "bias_max": float(np.exp(logarithm.max())),
    }
    return image, truth, drawn


def _bias(scene: Scene, config: PhantomConfig, index: int, rng: np.random.Generator) -> np.ndarray:
    """Logarithm ``(N,)`` of a contrast's bias field, mean 0 and standard deviation 1 over the brain.

    Most of it is the receive coil, the same for all contrasts of a subject; the rest is the contrast's own (transmit
    field, position).
    """
    coil = random_generator(config.seed, index, "coil")
    shared, own = (smooth_field(each, scene.axes, scene.box, 80.0)[0][scene.mask] for each in (coil, rng))
    field = COIL_SHARE * _standard(shared) + np.sqrt(1 - COIL_SHARE**2) * _standard(own)
    return _standard(field)


def _standard(values: np.ndarray) -> np.ndarray:
    return np.asarray((values - values.mean()) / values.std())


def _describe(warp: Warp, mask: np.ndarray) -> dict[str, float]:
    inside = warp.jacobian[mask]
    return {
        "largest_displacement_mm": warp.amplitude,
        "ventricle_wall_mm": warp.ventricles,
        "jacobian_min": float(inside.min()),
        "jacobian_max": float(inside.max()),
    }


def _volumes(fractions: Mapping[str, np.ndarray], spacing: float) -> dict[str, float]:
    """Millilitres of every tissue, lesions by name."""
    known = (*HEALTHY, *LABELS)
    return {name: float(fractions[name].sum() * spacing**3 / 1000.0) for name in known if name in fractions}
