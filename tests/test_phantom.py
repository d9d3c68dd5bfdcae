"""The phantom's anatomy, lesions and files."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import scipy.linalg
from threadpoolctl import threadpool_limits

from synthmr.data.phantom import CONTRASTS, LESIONS, PhantomConfig, PhantomSubject, make_phantom, simulate_subject, write_cohort
from synthmr.data.phantom import anatomy as anatomy_module
from synthmr.data.phantom.anatomy import Template, load_template, read_template, template_file, tissue_fractions
from synthmr.data.phantom.cohort import split_names
from synthmr.data.phantom.fields import cubic_bspline, random_generator, separable, smooth_field
from synthmr.data.phantom.lesions import LABELS, draw_kind, lesion_labels
from synthmr.data.phantom.subject import point_spread
from synthmr.data.phantom.warp import exponential, interpolate, pull, random_affine, random_warp
from synthmr.errors import DataError, UsageError

SPACING = 4.0


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYNTHMR_CACHE", str(folder))
        with threadpool_limits(1):
            yield folder


@pytest.fixture(scope="module")
def template() -> Template:
    return load_template(SPACING)


@pytest.fixture(scope="module")
def subjects(template: Template) -> dict[str, PhantomSubject]:
    """One subject of each kind, sampled at 4 mm."""
    config = PhantomConfig(spacing=SPACING)
    made = [simulate_subject(config, index, template) for index in range(4)]
    return {str(subject.parameters["kind"]): subject for subject in made}


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# --- fields -------------------------------------------------------------------------------------------------------


def test_bspline_is_a_partition_of_unity() -> None:
    t = np.linspace(-1, 1, 41)
    np.testing.assert_allclose(sum(cubic_bspline(t - k) for k in range(-4, 5)), 1.0, atol=1e-12)
    assert cubic_bspline(np.array([0.0]))[0] == pytest.approx(2 / 3)
    assert cubic_bspline(np.array([2.0, -3.0])).tolist() == [0.0, 0.0]


def test_separable_is_the_triple_sum() -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(2, 3, 4))
    a, b, c = rng.normal(size=(5, 2)), rng.normal(size=(6, 3)), rng.normal(size=(7, 4))
    np.testing.assert_allclose(separable(weights, (a, b, c)), np.einsum("ijk,xi,yj,zk->xyz", weights, a, b, c), rtol=1e-12)


def test_smooth_fields_have_unit_variance_and_do_not_depend_on_the_grid() -> None:
    box = np.array([[-60.0] * 3, [60.0] * 3])
    coarse = [np.arange(-60.0, 61.0, 4.0)] * 3
    fine = [np.arange(-60.0, 61.0, 2.0)] * 3
    first = smooth_field(np.random.default_rng(3), coarse, box, 8.0, components=4)
    second = smooth_field(np.random.default_rng(3), fine, box, 8.0, components=4)
    np.testing.assert_allclose(second[:, ::2, ::2, ::2], first, atol=1e-12)
    assert 0.9 < first.std() < 1.1
    assert abs(first.mean()) < 0.05
    assert abs(np.corrcoef(first[0].ravel(), first[1].ravel())[0, 1]) < 0.1
    # smooth over about the step: neighbours at 2 mm agree, points 40 mm apart do not
    assert np.corrcoef(second[0][:-1].ravel(), second[0][1:].ravel())[0, 1] > 0.95
    assert abs(np.corrcoef(second[0][:-20].ravel(), second[0][20:].ravel())[0, 1]) < 0.1


def test_purposes_have_streams_of_their_own() -> None:
    drawn = {(i, p): random_generator(0, i, p).normal() for i in (0, 1) for p in ("scan T1w", "scan T2w")}
    assert len(set(drawn.values())) == 4
    assert random_generator(0, 1, "scan T1w").normal() == drawn[1, "scan T1w"]


# --- anatomy ------------------------------------------------------------------------------------------------------


def at(template: Template, name: str, *point: float) -> float:
    return float(pull(getattr(template, name), template, np.array(point)[:, None])[0])


def test_template_is_a_brain_in_mni_space(template: Template) -> None:
    total = template.csf + template.gm + template.wm
    np.testing.assert_allclose(total, template.mask, atol=1e-5)
    assert min(template.csf.min(), template.gm.min(), template.wm.min()) >= 0
    litres = float(template.mask.sum()) * SPACING**3 / 1e6
    assert 1.7 < litres < 2.0
    assert at(template, "wm", -26.0, -20.0, 34.0) > 0.9  # centrum semiovale
    assert at(template, "wm", 26.0, -20.0, 34.0) > 0.9
    assert at(template, "gm", -12.0, 12.0, 12.0) > 0.3  # caudate, beside the ventricle
    assert at(template, "mask", -26.0, -20.0, 34.0) == pytest.approx(1.0)
    assert at(template, "mask", 0.0, 0.0, 95.0) == 0.0


def test_ventricles_are_csf(template: Template) -> None:
    for side in (-1.0, 1.0):
        assert at(template, "csf", side * 7.0, 8.0, 14.0) > 0.6
        assert at(template, "ventricle", side * 7.0, 8.0, 14.0) < 2.0
    assert at(template, "ventricle", -26.0, -20.0, 34.0) > 8.0
    ventricles = float((template.ventricle < SPACING / 2).sum()) * SPACING**3 / 1e3
    assert 15 < ventricles < 60  # ml; adults have 10 to 40, the half voxel around it counts, too


def test_tissue_fractions_fill_holes_and_call_the_rest_csf() -> None:
    gm, wm = np.zeros((2, 12, 12, 12), dtype=np.float32)
    brain = np.zeros((12, 12, 12), bool)
    brain[2:10, 2:10, 2:10] = True
    brain[5:7, 5:7, 5:7] = False  # a hole, as a dark ventricle may be
    brain[11, 11, 11] = True  # a stray voxel
    gm[2:10, 2:10, 2:10] = 0.75
    wm[2:10, 2:10, 2:10] = 0.25
    gm[5:7, 5:7, 5:7] = wm[5:7, 5:7, 5:7] = 0.0
    fractions, mask = tissue_fractions(brain, gm, wm)
    assert mask.sum() == 8**3
    np.testing.assert_allclose(fractions[:, 5, 5, 5], [1, 0, 0])
    np.testing.assert_allclose(fractions[:, 2, 2, 2], [0, 0.9, 0.1], atol=1e-6)  # 0.75^2 : 0.25^2 is 9 : 1
    np.testing.assert_allclose(fractions.sum(axis=0), mask, atol=1e-6)


def test_cache_is_used_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_template(8.0)
    names = ("csf", "gm", "wm", "mask", "ventricle", "box", "coarse_ventricle")
    data = {name: getattr(first, name) for name in names}
    data |= dict(zip(("x", "y", "z", "cx", "cy", "cz"), (*first.axes, *first.coarse_axes), strict=True))
    built = []

    def build(*_: object) -> dict[str, np.ndarray]:
        built.append(1)
        return data

    monkeypatch.setattr(anatomy_module, "_build", build)
    again = load_template(8.0)
    assert not built
    np.testing.assert_array_equal(again.gm, first.gm)
    np.testing.assert_array_equal(again.affine, first.affine)
    assert (load_template(8.0, tmp_path).gm == first.gm).all()
    assert len(built) == 1
    (stored,) = tmp_path.iterdir()
    stored.write_bytes(stored.read_bytes()[:1000])  # a disk that was full
    assert (load_template(8.0, tmp_path).gm == first.gm).all()
    assert len(built) == 2
    assert (load_template(8.0, tmp_path).gm == first.gm).all()
    assert len(built) == 2
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert (load_template(8.0, blocked).gm == first.gm).all()
    assert len(built) == 3
    load_template(7.0, tmp_path)  # another spacing is another file
    assert len(built) == 4


#: SHA-256 of the voxels ``(197, 233, 189)`` in the brain of the files in nilearn 0.14.1, uint8
PACKAGED = {
    "brain": "ad92af6a053901c38c40b04b490c651cbfbc42a1d13a653ff8c7b4d84de53b75",
    "gm": "35aa419f2b3c3f82c00eef3b6df03ca532638abd7471e3292fa77ad4c387e502",
    "wm": "231727ad728a43bdebaead49e181e0d589a7e4adc80b8615a5a4492d98836191",
}


def whole(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The template's brain in its place in the volume of nilearn's files, whose first voxel is at (-98, -134, -72) mm."""
    volume = np.zeros((197, 233, 189), np.uint8)
    first = (affine[:3, 3] - (-98, -134, -72)).astype(int)
    volume[tuple(slice(at, at + size) for at, size in zip(first, array.shape, strict=True))] = array
    return volume


def test_the_template_has_the_voxels_of_nilearns_files() -> None:
    *arrays, affine = read_template(template_file())
    np.testing.assert_array_equal(affine[:3, :3], np.eye(3))
    found = {name: whole(array, affine) for name, array in zip(PACKAGED, arrays, strict=True)}
    assert {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in found.items()} == PACKAGED
    spec = importlib.util.find_spec("nilearn")
    if spec is None or not spec.submodule_search_locations:
        return
    folder = Path(next(iter(spec.submodule_search_locations))) / "datasets" / "data"
    images = {kind: nibabel.load(folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz") for kind in ("t1", "gm", "wm")}
    brain = np.asarray(images["t1"].dataobj) > 0
    np.testing.assert_array_equal(found["brain"], brain)
    for kind in ("gm", "wm"):
        np.testing.assert_array_equal(found[kind], np.asarray(images[kind].dataobj) * brain)


def test_the_template_is_small_and_has_its_licence() -> None:
    folder = template_file().parent
    assert {path.name for path in folder.iterdir()} == {"mni152.npz", "LICENSE.txt"}
    assert template_file().stat().st_size < 1.4e6
    text = (folder / "LICENSE.txt").read_text()
    assert "Copyright (C) 1993-2004 Louis Collins" in text and "Copyright (c) The nilearn developers" in text


def test_damaged_templates_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "mni152.npz"
    monkeypatch.setattr(anatomy_module, "template_file", lambda: path)
    for damage in (None, b"no archive", b""):
        if damage is not None:
            path.write_bytes(damage)
        with pytest.raises(DataError, match=r"mni152\.npz cannot be read.*reinstall synthmr"):
            load_template(8.0, tmp_path / "cache")
    blank = {"gm": np.zeros((35, 70, 70), np.uint8), "csf": np.zeros((35, 70, 70), np.uint8)}
    brain = np.packbits(np.ones((35, 70, 70), bool))
    np.savez(path, brain=brain, shape=(35, 70, 70), width=70, corner=np.zeros(3), **blank)
    with pytest.raises(DataError, match="no ventricles"):
        load_template(8.0, tmp_path / "cache")


# --- warp ---------------------------------------------------------------------------------------------------------


def test_exponential_of_a_constant_and_of_a_linear_velocity() -> None:
    constant = np.ones((3, 8, 8, 8)) * np.array([1.0, -2.0, 0.5])[:, None, None, None]
    np.testing.assert_allclose(exponential(constant, 4.0), constant, atol=1e-12)
    # the flow of v = A x is the matrix exponential
    matrix = np.array([[0.1, 0.05, 0.0], [-0.05, -0.1, 0.02], [0.0, 0.03, 0.05]])
    grid = np.stack(np.meshgrid(*[4.0 * (np.arange(17) - 8.0)] * 3, indexing="ij"))
    displacement = exponential(np.tensordot(matrix, grid, axes=1), 4.0, squarings=8)
    expected = np.tensordot(scipy.linalg.expm(matrix) - np.eye(3), grid, axes=1)
    inner = (slice(None), *[slice(4, -4)] * 3)
    np.testing.assert_allclose(displacement[inner], expected[inner], atol=0.02)  # of up to 3.3 mm


def test_interpolation_and_jacobian_are_exact_for_cubics() -> None:
    coarse = tuple(np.linspace(-20.0, 20.0, 11) for _ in range(3))
    axes = tuple(np.linspace(-18.0, 18.0, 40 + i) for i in range(3))

    def move(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        return np.stack([0.1 * x + 0.002 * x * y, -0.05 * y + 1e-4 * z**3, 0.003 * x**2 - 0.02 * z])

    displacement, determinant = interpolate(move(*np.meshgrid(*coarse, indexing="ij")), coarse, axes)
    x, y, z = np.meshgrid(*axes, indexing="ij")
    np.testing.assert_allclose(displacement, move(x, y, z), atol=1e-5)
    # det of [[1.1 + .002 y, .002 x, 0], [0, .95, 3e-4 z^2], [.006 x, 0, .98]]
    expected = (1.1 + 0.002 * y) * 0.95 * 0.98 + 0.002 * x * 3e-4 * z**2 * 0.006 * x
    np.testing.assert_allclose(determinant, expected, rtol=1e-5)


def test_jacobian_is_positive_and_is_that_of_the_map(template: Template) -> None:
    for index in range(4):
        warp = random_warp(template, PhantomConfig(spacing=SPACING, deformation=12.0), index)
        assert warp.jacobian.min() > 0.1
        assert warp.jacobian.max() < 8.0
        slopes = np.stack([np.stack(np.gradient(each.astype(float), SPACING)) for each in warp.points])
        numeric = np.linalg.det(np.moveaxis(slopes, (0, 1), (-2, -1)))
        inner = (slice(2, -2),) * 3
        assert np.abs(numeric - warp.jacobian)[inner].mean() < 0.02
        assert np.abs(numeric - warp.jacobian)[inner].max() < 0.25  # central differences at 4 mm see less detail


def test_deformation_is_as_large_as_asked(template: Template) -> None:
    sizes = [random_warp(template, PhantomConfig(spacing=SPACING, deformation=6.0), i).amplitude for i in range(5)]
    assert min(sizes) > 2.0
    assert max(sizes) < 9.0  # two scales and the ventricles add up
    assert np.std(sizes) > 0.3
    still = random_warp(template, PhantomConfig(spacing=SPACING, deformation=0.0), 0)
    grid = np.stack(np.meshgrid(*template.axes, indexing="ij"))
    np.testing.assert_allclose(still.points, grid, atol=1e-4)
    np.testing.assert_allclose(still.jacobian, 1.0, atol=1e-6)


def test_a_warp_that_always_folds_is_refused(template: Template, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synthmr.data.phantom.warp.JACOBIAN_LIMIT", 1.0)
    with pytest.raises(DataError, match="subject 3: no fold-free warp"):
        random_warp(template, PhantomConfig(spacing=SPACING), 2)


def test_affine_is_small_and_not_mirrored() -> None:
    for seed in range(50):
        matrix = random_affine(np.random.default_rng(seed), 1.0)
        assert 0.75 < np.linalg.det(matrix) < 1.3
        assert np.abs(matrix - np.eye(3)).max() < 0.35
    np.testing.assert_allclose(random_affine(np.random.default_rng(0), 0.0), np.eye(3), atol=1e-12)


# --- subjects -----------------------------------------------------------------------------------------------------


def test_every_block_has_every_kind() -> None:
    config = PhantomConfig()
    kinds = [draw_kind(config, i) for i in range(40)]
    for start in range(0, 40, 4):
        assert sorted(kinds[start : start + 4]) == sorted(LESIONS)
    assert len({tuple(kinds[i : i + 4]) for i in range(0, 40, 4)}) > 3
    assert {draw_kind(PhantomConfig(lesions=("ms",)), i) for i in range(5)} == {"ms"}


def test_fractions_sum_to_one_in_the_mask(subjects: dict[str, PhantomSubject]) -> None:
    assert set(subjects) == set(LESIONS)
    for subject in subjects.values():
        total = sum(subject.fractions.values())
        assert isinstance(total, np.ndarray)
        np.testing.assert_allclose(total[subject.mask], 1.0, atol=1e-5)
        assert np.abs(total[~subject.mask]).max() == 0
        assert min(fraction.min() for fraction in subject.fractions.values()) >= 0
        assert not any(np.take(subject.mask, end, axis=axis).any() for axis in range(3) for end in (0, -1))


def tissue_means(subject: PhantomSubject, volumes: str, contrast: str) -> dict[str, float]:
    volume = getattr(subject, volumes)[contrast]
    return {name: float(volume[subject.fractions[name] > 0.95].mean()) for name in ("csf", "gm", "wm")}


@pytest.mark.parametrize("field", [1.5, 3.0])
def test_contrast_signs(template: Template, field: float) -> None:
    # no blur between voxels, so that pure voxels show pure tissue
    subject = simulate_subject(PhantomConfig(spacing=SPACING, field_strength=field, psf=0.0), 1, template)
    for volumes in ("truth", "images"):
        mean = {contrast: tissue_means(subject, volumes, contrast) for contrast in CONTRASTS}
        assert mean["T1w"]["wm"] > 1.1 * mean["T1w"]["gm"] > 1.5 * mean["T1w"]["csf"]
        assert mean["T2w"]["csf"] > 1.2 * mean["T2w"]["gm"] > 1.3 * mean["T2w"]["wm"]
        assert mean["FLAIR"]["csf"] < 0.4 * mean["FLAIR"]["wm"]
        assert mean["PDw"]["gm"] > mean["PDw"]["wm"]


def test_background_is_zero_and_the_brain_is_not(subjects: dict[str, PhantomSubject]) -> None:
    for subject in subjects.values():
        for contrast in CONTRASTS:
            assert subject.images[contrast].dtype == np.int16
            np.testing.assert_array_equal(subject.images[contrast] > 0, subject.mask)
            assert subject.truth[contrast][~subject.mask].max() == 0
        assert subject.tissue[~subject.mask].max() == 0
        assert set(np.unique(subject.tissue[subject.mask])) == {1, 2, 3}


def test_gadolinium_enhances_the_core_alone(template: Template) -> None:
    subject = simulate_subject(PhantomConfig(spacing=SPACING, lesions=("tumour",)), 0, template)
    gain = {name: subject.parameters["scanner"][name]["gain"] for name in ("T1w", "T1ce")}
    plain, enhanced = subject.truth["T1w"] / gain["T1w"], subject.truth["T1ce"] / gain["T1ce"]
    core = subject.fractions["enhancing"] > 0.6
    assert core.sum() > 20
    assert (enhanced[core] > 1.25 * plain[core]).all()
    distance = anatomy_module.ndimage.distance_transform_edt(subject.fractions["enhancing"] == 0)
    far = subject.mask & (distance > 3)  # the point spread carries some of it two voxels on
    np.testing.assert_allclose(enhanced[far], plain[far], rtol=1e-3)
    assert gain["T1w"] != gain["T1ce"]


def test_lesions_are_where_they_belong(subjects: dict[str, PhantomSubject], template: Template) -> None:
    for kind, labels in (("ms", {1}), ("tumour", {2, 3, 4}), ("stroke", {5}), ("none", set())):
        found = set(np.unique(subjects[kind].lesions).tolist()) - {0}
        assert found == labels
        assert not (subjects[kind].lesions[~subjects[kind].mask] > 0).any()
    ms, wedge, tumour = subjects["ms"], subjects["stroke"], subjects["tumour"]
    assert (ms.tissue[ms.lesions == 1] == 3).mean() > 0.9  # MS-like: in white matter ...
    warp = random_warp(template, PhantomConfig(spacing=SPACING), ms.parameters["index"])
    distance = pull(template.ventricle, template, warp.points)
    assert np.median(distance[ms.lesions == 1]) < 9.0  # ... near the ventricles
    assert np.median(distance[ms.tissue == 3]) > 13.0
    x = np.broadcast_to(template.axes[0][:, None, None], wedge.mask.shape)[wedge.lesions == 5]
    assert (np.sign(x) == np.sign(x[0])).all()
    assert (wedge.tissue[wedge.lesions == 5] == 2).any()  # territory: cortex as well as white matter
    assert (wedge.tissue[wedge.lesions == 5] == 3).any()
    centres = [np.argwhere(tumour.lesions == LABELS[name]).mean(axis=0) for name in ("necrosis", "enhancing")]
    assert np.linalg.norm(centres[0] - centres[1]) < 3.0
    flair = {kind: subjects[kind].truth["FLAIR"] for kind in ("ms", "stroke")}
    assert flair["stroke"][wedge.fractions["stroke"] > 0.95].mean() > 1.15 * tissue_means(wedge, "truth", "FLAIR")["gm"]


def test_lesion_labels_need_half_a_voxel() -> None:
    fractions = {"oedema": np.array([0.3, 0.4, 0.1]), "enhancing": np.array([0.1, 0.3, 0.9])}
    assert lesion_labels(fractions, (3,)).tolist() == [0, LABELS["oedema"], LABELS["enhancing"]]
    assert lesion_labels({}, (2,)).tolist() == [0, 0]


def test_without_noise_bias_and_blur_the_image_is_the_rounded_truth(template: Template) -> None:
    config = PhantomConfig(spacing=SPACING, noise=0.0, bias=0.0)
    subject = simulate_subject(config, 0, template)
    for contrast in CONTRASTS:
        truth = subject.truth[contrast][subject.mask]
        assert np.abs(subject.images[contrast][subject.mask] - np.maximum(truth, 1)).max() <= 0.501


def test_noise_and_bias_are_as_strong_as_asked(template: Template) -> None:
    noisy = simulate_subject(PhantomConfig(spacing=SPACING, bias=0.0, noise=0.05), 0, template)
    for contrast in ("T1w", "T2w", "PDw"):
        sigma = noisy.parameters["scanner"][contrast]["noise_sigma"]
        truth = noisy.truth[contrast][noisy.mask]
        assert sigma == pytest.approx(0.05 * truth.mean(), rel=1e-4)
        bright = truth > 8 * sigma  # there the Rice distribution is nearly normal
        residual = (noisy.images[contrast][noisy.mask] - truth)[bright]
        assert residual.std() == pytest.approx(np.hypot(sigma, 1 / np.sqrt(12)), rel=0.04)
        assert abs(residual.mean()) < 0.1 * sigma
    tilted = simulate_subject(PhantomConfig(spacing=SPACING, bias=0.1, noise=0.0), 0, template)
    ratio = np.log(tilted.images["PDw"][tilted.mask] / tilted.truth["PDw"][tilted.mask])
    assert ratio.std() == pytest.approx(0.1, rel=0.05)
    field = np.zeros(tilted.mask.shape)
    field[tilted.mask] = ratio
    other = np.log(tilted.images["T2w"][tilted.mask] / tilted.truth["T2w"][tilted.mask])
    assert 0.6 < np.corrcoef(ratio, other)[0, 1] < 0.99  # one receive coil, and something of its own
    inside = tilted.mask[1:] & tilted.mask[:-1]
    assert np.abs(np.diff(field, axis=0)[inside]).max() < 0.06  # smooth


def test_point_spread_keeps_constants_and_has_its_width() -> None:
    mask = np.zeros((21, 21, 21), dtype=bool)
    mask[2:-2, 2:-2, 2:-2] = True
    np.testing.assert_allclose(point_spread(np.full(mask.sum(), 3.0), mask, 2.0), 3.0, rtol=1e-12)
    impulse = np.zeros(mask.shape)
    impulse[10, 10, 10] = 1.0
    spread = np.zeros(mask.shape)
    spread[mask] = point_spread(impulse[mask], mask, 2.5)
    x = np.arange(21) - 10.0
    variance = (spread.sum(axis=(1, 2)) * x**2).sum() / spread.sum()
    assert variance == pytest.approx((2.5 / 2.3548) ** 2, rel=0.01)
    np.testing.assert_array_equal(point_spread(impulse[mask], mask, 0.0), impulse[mask])


def test_the_person_does_not_change_with_the_voxel_size() -> None:
    coarse = simulate_subject(PhantomConfig(spacing=8.0, lesions=("stroke",)), 3)
    fine = simulate_subject(PhantomConfig(spacing=4.0, lesions=("stroke",)), 3)
    for name, volume in fine.parameters["volume_ml"].items():
        assert coarse.parameters["volume_ml"][name] == pytest.approx(volume, rel=0.12)
    assert coarse.parameters["lesions"] == fine.parameters["lesions"]
    assert coarse.parameters["tissues"] == fine.parameters["tissues"]


def test_subjects_differ_and_a_contrast_left_out_changes_nothing(template: Template, subjects: dict[str, PhantomSubject]) -> None:
    for subject in subjects.values():
        few = PhantomConfig(spacing=SPACING, contrasts=("FLAIR",))
        alone = simulate_subject(few, subject.parameters["index"], template)
        np.testing.assert_array_equal(alone.images["FLAIR"], subject.images["FLAIR"])
        assert list(alone.images) == ["FLAIR"]
    masks = [subject.mask for subject in subjects.values()]
    for i, a in enumerate(masks):
        for b in masks[i + 1 :]:
            assert 0.75 < 2 * (a & b).sum() / (a.sum() + b.sum()) < 0.985
    other = simulate_subject(PhantomConfig(spacing=SPACING, seed=1), 0, template)
    assert (other.mask != simulate_subject(PhantomConfig(spacing=SPACING), 0, template).mask).any()


def test_no_room_for_a_lesion_is_said(template: Template, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no room for a lesion"):
        simulate_subject(PhantomConfig(spacing=SPACING, lesions=("ms",)), 0, replace(template, wm=np.zeros_like(template.wm)))


# --- files --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    out = tmp_path_factory.mktemp("phantom") / "made" / "here"
    ticks: list[tuple[int, int]] = []
    folders = make_phantom(out, 4, seed=5, spacing=8.0, progress=lambda done, total: ticks.append((done, total)))
    assert ticks == [(1, 4), (2, 4), (3, 4), (4, 4)]
    return out, folders


def test_layout(cohort: tuple[Path, list[Path]]) -> None:
    out, folders = cohort
    assert folders == [out / f"sub-00{i}" for i in (1, 2, 3, 4)]
    names = set(digests(out))
    case = {*(f"{c}.nii.gz" for c in CONTRASTS), "mask.nii.gz", "seg.nii.gz"}
    truth = {*(f"truth_{c}.nii.gz" for c in CONTRASTS), "tissue.nii.gz", "parameters.json"}
    expected = {f"{folder.name}/{name}" for folder in folders for name in case}
    expected |= {f"derivatives/phantom/{folder.name}/{name}" for folder in folders for name in truth}
    assert names == expected | {"splits.tsv", "dataset.json"}
    assert (out / "splits.tsv").read_text() == ("case\tsplit\nsub-001\ttrain\nsub-002\ttrain\nsub-003\tvalidation\nsub-004\ttest\n")
    described = json.loads((out / "dataset.json").read_text())
    assert described["config"]["seed"] == 5
    assert described["config"]["contrasts"] == list(CONTRASTS)
    assert described["labels"]["seg"] == {"ms": 1, "oedema": 2, "necrosis": 3, "enhancing": 4, "stroke": 5}
    assert not [path for path in out.parent.iterdir() if path != out]


def test_files_hold_the_subject(cohort: tuple[Path, list[Path]]) -> None:
    out, folders = cohort
    subject = simulate_subject(PhantomConfig(seed=5, spacing=8.0), 1)
    for contrast in CONTRASTS:
        image = nibabel.load(folders[1] / f"{contrast}.nii.gz")
        assert image.get_data_dtype() == np.int16
        np.testing.assert_array_equal(np.asarray(image.dataobj), subject.images[contrast])
        np.testing.assert_allclose(image.affine, subject.affine)
        np.testing.assert_allclose(image.get_sform(), image.get_qform(), atol=1e-5)
        assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 1)
        assert image.header.get_xyzt_units() == ("mm", "sec")
        assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
        assert b"SIMULATED" in bytes(image.header["descrip"])
        truth = nibabel.load(out / "derivatives" / "phantom" / "sub-002" / f"truth_{contrast}.nii.gz")
        assert truth.get_data_dtype() == np.float32
        np.testing.assert_array_equal(np.asarray(truth.dataobj), subject.truth[contrast])
        assert (folders[1] / f"{contrast}.nii.gz").read_bytes()[4:8] == b"\0\0\0\0"  # gzip's time stamp
    for name, array in (("mask", subject.mask), ("seg", subject.lesions)):
        np.testing.assert_array_equal(np.asarray(nibabel.load(folders[1] / f"{name}.nii.gz").dataobj), array)
    parameters = json.loads((out / "derivatives" / "phantom" / "sub-002" / "parameters.json").read_text())
    assert parameters == json.loads(json.dumps(subject.parameters))


def test_same_bytes_whatever_the_number_of_subjects(cohort: tuple[Path, list[Path]], tmp_path: Path) -> None:
    out, _ = cohort
    make_phantom(tmp_path / "few", 2, seed=5, spacing=8.0)
    few, many = digests(tmp_path / "few"), digests(out)
    own = {name for name in few if "sub-" in name}
    assert len(own) == 2 * 14
    assert {name: few[name] for name in own} == {name: many[name] for name in own}
    assert "splits.tsv" not in few  # two subjects make no split
    make_phantom(tmp_path / "again", 4, seed=5, spacing=8.0)
    assert digests(tmp_path / "again") == many
    make_phantom(tmp_path / "other", 1, seed=6, spacing=8.0)
    other = digests(tmp_path / "other")
    assert all(other[name] != many[name] for name in other if name.endswith(("w.nii.gz", "FLAIR.nii.gz")))


@pytest.mark.parametrize(
    ("count", "expected"), [(1, {}), (2, {}), (3, (1, 1, 1)), (5, (3, 1, 1)), (10, (6, 2, 2)), (50, (30, 10, 10))]
)
def test_split_is_60_20_20(count: int, expected: object) -> None:
    names = [f"sub-{i:03d}" for i in range(count)]
    split = split_names(names)
    if count < 3:
        assert split == expected
        return
    assert list(split) == names
    assert tuple(list(split.values()).count(part) for part in ("train", "validation", "test")) == expected
    assert list(split.values()) == sorted(split.values(), key=("train", "validation", "test").index)


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    kept = tmp_path / "thesis.txt"
    kept.write_text("five years")
    for overwrite, message in ((False, "is not empty.*--overwrite"), (True, "holds no phantom")):
        with pytest.raises(UsageError, match=message):
            make_phantom(tmp_path, 1, spacing=8.0, overwrite=overwrite)
    with pytest.raises(UsageError, match="is a file"):
        make_phantom(kept, 1, spacing=8.0)
    (tmp_path / "dataset.json").write_text("{")  # somebody else's, and broken
    with pytest.raises(UsageError, match="holds no phantom"):
        make_phantom(tmp_path, 1, spacing=8.0, overwrite=True)
    assert kept.read_text() == "five years"


def test_overwrite_replaces_a_phantom_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()  # an empty folder will do
    make_phantom(out, 3, spacing=8.0, contrasts=("T1w",))
    with pytest.raises(UsageError, match="is not empty"):
        make_phantom(out, 1, spacing=8.0)
    mine = out / "derivatives" / "mine"
    mine.mkdir()
    with pytest.raises(UsageError, match="derivatives/mine"):
        make_phantom(out, 1, spacing=8.0, overwrite=True)
    mine.rmdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"notes\.txt"):
        make_phantom(out, 1, spacing=8.0, overwrite=True)
    (out / "notes.txt").unlink()
    assert len(list(out.glob("sub-*"))) == 3
    make_phantom(out, 1, spacing=8.0, contrasts=("T2w",), overwrite=True)
    assert [path.name for path in sorted(out.iterdir())] == ["dataset.json", "derivatives", "sub-001"]
    assert [path.name for path in sorted((out / "sub-001").iterdir())] == ["T2w.nii.gz", "mask.nii.gz", "seg.nii.gz"]


def test_nothing_is_left_after_a_failure(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_phantom(tmp_path / "deep" / "out", 2, spacing=8.0, progress=stop)
    assert list(tmp_path.iterdir()) == []
    old = tmp_path / "old"
    make_phantom(old, 1, spacing=8.0)
    before = digests(old)
    with pytest.raises(KeyboardInterrupt):
        make_phantom(old, 1, seed=1, spacing=8.0, overwrite=True, progress=stop)
    assert digests(old) == before
    assert list(tmp_path.iterdir()) == [old]
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        make_phantom(tmp_path / "file" / "out", 1, spacing=8.0)


def test_a_folder_that_cannot_be_looked_into_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match="Permission denied"):
        make_phantom(tmp_path, 1, spacing=8.0)


# --- bad arguments ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, -3, 2.5, True])
def test_number_of_subjects(tmp_path: Path, count: int) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        write_cohort(tmp_path / "out", count, PhantomConfig(spacing=8.0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("seed", -1, "seed -1 is negative"),
        ("seed", 1.5, "seed 1.5 is not a whole number"),
        ("spacing", 0.5, "spacing 0.5 is out of range; allowed: 0.7 to 8 mm"),
        ("spacing", 9.0, "out of range"),
        ("spacing", float("nan"), "is not a number"),
        ("spacing", "two", "is not a number"),
        ("field_strength", 7.0, "7 T has no tissue values; allowed: 1.5 or 3 T"),
        ("noise", -0.1, "noise -0.1 is out of range"),
        ("bias", 0.9, "bias 0.9 is out of range"),
        ("psf", 5.0, "allowed: 0 to 4 voxels"),
        ("deformation", 20.0, "allowed: 0 to 12 mm"),
        ("variation", 0.5, "variation 0.5 is out of range"),
        ("texture", -1.0, "texture -1 is out of range"),
        ("individuality", 3.0, "individuality 3 is out of range; allowed: 0 to 2."),
        ("contrasts", ("T1w", "FLAIRE"), "cannot simulate contrast 'FLAIRE': did you mean FLAIR"),
        ("contrasts", ("DWI",), "cannot simulate contrast 'DWI'.*Allowed: FLAIR, PDw, T1ce, T1w, T2w"),
        ("contrasts", ("T1w", "t1"), "name T1w twice"),
        ("contrasts", (), "at least one contrast"),
        ("lesions", ("tumor",), "unknown phantom lesion 'tumor': did you mean tumour"),
        ("lesions", (), "at least one kind of lesion"),
    ],
)
def test_bad_settings(field: str, value: object, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        PhantomConfig(**{field: value})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_good_settings_are_normalised() -> None:
    config = PhantomConfig(spacing=np.float32(2), seed=np.int64(3), contrasts="flair, t1c,T1")  # type: ignore[arg-type]
    assert config.contrasts == ("T1w", "FLAIR", "T1ce")
    assert type(config.spacing) is float
    assert type(config.seed) is int
    assert PhantomConfig(lesions="ms, none").lesions == ("ms", "none")  # type: ignore[arg-type]


def test_negative_index_is_refused(template: Template) -> None:
    with pytest.raises(UsageError, match="index -1 is negative"):
        simulate_subject(PhantomConfig(spacing=SPACING), -1, template)


def test_gzip_is_whole(cohort: tuple[Path, list[Path]]) -> None:
    for path in cohort[0].rglob("*.nii.gz"):
        with gzip.open(path) as stream:
            assert len(stream.read()) > 352
