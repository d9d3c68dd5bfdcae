"""The report in a real browser: it loads from disk without faults, asks for nothing, and its viewer does what it says."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import colormaps

from browser import Browser, find_chromium
from synthmr.evaluate.scores import Score
from synthmr.report.html import ReportData, write_report
from synthmr.report.views import FigureCase, brain_box, error_top, window

PROGRAM = find_chromium()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed (Debian: apt install chromium)")

SHAPE, SPACING = (40, 48, 26), (2.0, 2.0, 3.0)
LESION = (slice(26, 31), slice(30, 35), slice(12, 16))


def make_case(name: str) -> FigureCase:
    """A brain that is brighter on the patient's right, in front and above, with a lesion right in front."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    mask = sum(axis**2 for axis in axes) < 0.6
    truth = np.where(mask, 0.5 + 0.2 * axes[0] + 0.1 * axes[1] + 0.05 * axes[2], 0).astype(np.float32)
    lesion = np.zeros(SHAPE, np.uint8)
    lesion[LESION] = 1
    off = {"hinet": np.where(axes[0] > 0, 0.2, -0.1), "linear": 0.3 * np.ones(SHAPE)}
    return FigureCase(
        name=name,
        target="FLAIR",
        spacing=SPACING,
        sources={"T1w": np.where(mask, 1 - truth, 0), "T2w": np.where(mask, truth**2, 0)},
        truth=truth,
        predictions={method: np.where(mask, truth + off[method], 0) for method in off},
        mask=mask,
        units="share of the range",
        scores={method: {"psnr": 18.0 + len(name) + i} for i, method in enumerate(off)},
        segmentation=lesion,
    )


CASE = make_case("sub-01")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    figures = [make_case("sub-</script>0002"), CASE]
    where = ("FLAIR", "masked-volume", "brain", "psnr")
    rows = [Score(case.name, "", method, *where, score["psnr"]) for case in figures for method, score in case.scores.items()]
    return write_report(tmp_path_factory.mktemp("page") / "a report.html", ReportData("Report", "synthmr report", rows, figures))


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert PROGRAM is not None
    with Browser(PROGRAM, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


#: what every script may use: the first viewer, a hash of a canvas, a wait until things are drawn
TOOLS = """
const viewer = synthmrViewers[0];
await viewer.start();
const column = (kind) => viewer.columns.find((each) => each.kind === kind);
const canvas = (kind, plane) => column(kind).panels[plane];
const data = (kind, plane) => { const c = canvas(kind, plane); return c.getContext("2d").getImageData(0, 0, c.width, c.height); };
const hash = (kind, plane) => data(kind, plane).data.reduce((sum, value, i) => (sum * 31 + value * (i % 251)) % 4294967291, 7);
const hashes = (kind = "truth") => ["axial", "coronal", "sagittal"].map((plane) => hash(kind, plane));
const drawn = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
const area = (kind, plane) => {
  const { left, top, width, height } = canvas(kind, plane).getBoundingClientRect();
  return { left, top, width, height };
};
// the colour at a voxel of the prepared volume, from where the figure's millimetres say that it is
const at = (kind, plane, voxel) => {
  const [a, b] = { axial: [0, 1], coronal: [0, 2], sagittal: [1, 2] }[plane];
  const c = canvas(kind, plane), { shape, spacing, origin } = viewer.data, size = shape.map((n, i) => n * spacing[i]);
  const wide = Math.max(size[0], size[1]), pixel = c.width / wide;
  const x = ((wide - size[a]) / 2 + size[a] - (voxel[a] - origin[a] + 0.5) * spacing[a]) * pixel;
  const y = (size[b] - (voxel[b] - origin[b] + 0.5) * spacing[b]) * pixel;
  const found = data(kind, plane), i = 4 * (Math.floor(y) * c.width + Math.floor(x));
  return [...found.data.slice(i, i + 3)];
};
const bare = async () => { viewer.cross.checked = viewer.outline.checked = false; viewer.draw(); await drawn(); };
"""


@pytest.fixture
def tab(chromium: Browser, page: Path) -> Browser:
    """The page, freshly opened, on a screen of 1280 x 900, its first case in view."""
    chromium.events.clear()
    chromium.size(1280, 900)
    chromium.open(page)
    chromium.run(TOOLS + "document.getElementById('case-1').scrollIntoView(); await drawn();")
    return chromium


def run(tab: Browser, script: str) -> Any:
    return tab.run(TOOLS + script)


def test_page_loads_without_faults_and_asks_for_nothing(tab: Browser, page: Path) -> None:
    assert tab.faults() == []
    others = [url for url in tab.requests() if not url.startswith("data:image/")]
    assert others == [page.as_uri()[:40]]
    assert len(tab.requests()) > 5  # the mosaics: the list is not empty because nothing is seen
    assert page.stat().st_size < 2_000_000
    assert run(tab, "return synthmrViewers.map(each => each.root.querySelectorAll('canvas').length)")[0] == 7 * 3 + 1
    assert tab.run("return document.querySelector('#case-1 h3').textContent") == "sub-01"  # the lower PSNR
    assert "sub-</script>0002" in tab.run("return document.querySelector('#case-2 h3').textContent")


def test_a_case_is_decoded_when_it_comes_into_view(chromium: Browser, page: Path) -> None:
    chromium.size(1280, 300)
    chromium.open(page)
    assert chromium.run("return synthmrViewers.map(each => each.started === null)") == [True, True]
    chromium.run("document.getElementById('case-2').scrollIntoView()")
    chromium.run("while (!synthmrViewers[1].started) await new Promise(requestAnimationFrame)")
    assert chromium.run("return (await synthmrViewers[1].start()).name") == "sub-</script>0002"
    assert chromium.run("return synthmrViewers[1].root.classList.contains('ready')")


def test_sliders_move_the_slices_of_their_plane(tab: Browser) -> None:
    for number, plane in enumerate(("axial", "coronal", "sagittal")):
        before, after, position = run(
            tab,
            f"""await bare(); const before = hashes(), input = viewer.sliders.{plane}.input;
            input.value = Number(input.value) + 3; input.dispatchEvent(new Event("input")); await drawn();
            return [before, hashes(), viewer.position]""",
        )
        assert [a != b for a, b in zip(before, after, strict=True)] == [i == number for i in range(3)], plane
        assert len(position) == 3
    words = run(tab, "return [viewer.sliders.axial.output.textContent, viewer.position[2] + viewer.data.origin[2]]")
    assert int(words[0]) == words[1] and run(tab, "return viewer.data.origin.every((each) => each > 0)")


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_a_click_moves_all_planes_to_the_voxel_under_it(tab: Browser, plane: str) -> None:
    area, before = run(tab, f"await bare(); return [area('prediction', '{plane}'), [hashes(), hashes('source')]]")
    box = brain_box(CASE.mask, SPACING)
    size = [(edge.stop - edge.start) * mm for edge, mm in zip(box, SPACING, strict=True)]
    axis = {"axial": 2, "coronal": 1, "sagittal": 0}[plane]
    a, b = (other for other in range(3) if other != axis)
    target = [22, 20, 10]
    old = run(tab, "return viewer.position")
    # from the right edge, because x grows to the left of the picture and y to the left of sagittal ones
    pixel = area["width"] / max(size[0], size[1])
    right = area["left"] + area["width"] / 2 + size[a] / 2 * pixel
    x = right - (target[a] - box[a].start + 0.5) * SPACING[a] * pixel
    y = area["top"] + area["height"] - (target[b] - box[b].start + 0.5) * SPACING[b] * pixel
    tab.click(x, y)
    position, after = run(tab, "await drawn(); return [viewer.position, [hashes(), hashes('source')]]")
    expected = [target[i] - box[i].start for i in range(3)]
    expected[axis] = old[axis]
    assert position == expected
    for first, second in zip(before, after, strict=True):
        changed = [one != other for one, other in zip(first, second, strict=True)]
        assert changed == [name != plane for name in ("axial", "coronal", "sagittal")]
    cross = run(
        tab, "const before = hashes(); viewer.cross.click(); await drawn(); return before.map((each, i) => each !== hashes()[i])"
    )
    assert cross == [True] * 3
    assert tab.faults() == []


def test_images_are_upright_in_the_radiological_way_and_black_outside(tab: Browser) -> None:
    found = run(
        tab,
        """await bare(); viewer.moveTo(viewer.data.shape.map((n) => Math.floor(n / 2))); await drawn();
        const mean = (plane, x0, y0, size) => {
          const d = data("truth", plane);
          let sum = 0, n = 0;
          for (let y = Math.round(y0 * d.height); y < (y0 + size) * d.height; y++)
            for (let x = Math.round(x0 * d.width); x < (x0 + size) * d.width; x++, n++) sum += d.data[4 * (y * d.width + x)];
          return sum / n;
        };
        const sides = (plane) => [[0.3, 0.45], [0.6, 0.45], [0.45, 0.25], [0.45, 0.65]].map(([x, y]) => mean(plane, x, y, 0.1));
        return [...["axial", "coronal", "sagittal"].map(sides), mean("axial", 0, 0.95, 0.03)]""",
    )
    for plane, (left, right, above, below) in zip(("axial", "coronal", "sagittal"), found[:3], strict=True):
        assert left > right + 10, plane  # the patient's right, or the front, is brighter and on the left
        assert above > below + 5, plane  # so are the front and what is above
    assert found[3] < 1
    # also where the window makes the darkest voxel of the brain bright
    outside, inside = run(
        tab,
        "viewer.setWindow(250, -20); await drawn(); return [at('truth', 'axial', [3, 24, 13]), at('truth', 'axial', [14, 20, 13])]",
    )
    assert outside == [0, 0, 0] and min(inside) > 100


def test_greys_and_errors_are_those_of_the_images(tab: Browser) -> None:
    inside = CASE.mask.astype(bool)
    low, high = window(CASE.truth, inside)
    top = error_top(CASE, list(CASE.predictions))
    for voxel in ((28, 24, 13), (12, 30, 13), (20, 14, 8)):
        truth = float(CASE.truth[voxel])
        error = float(CASE.predictions["hinet"][voxel]) - truth
        greys, colour, signed = run(
            tab,
            f"""await bare(); const voxel = {list(voxel)};
            viewer.moveTo(voxel.map((each, i) => each - viewer.data.origin[i])); await drawn();
            const greys = ["axial", "coronal", "sagittal"].map((plane) => at("truth", plane, voxel));
            const found = [greys, at("error", "coronal", voxel)];
            viewer.signed.click(); await drawn(); found.push(at("error", "axial", voxel)); viewer.signed.click(); return found""",
        )
        for grey in greys:
            assert grey == pytest.approx([255 * min(max((truth - low) / (high - low), 0), 1)] * 3, abs=6)
        # compression may move an error by 3 % of the colour bar
        near = colormaps["inferno"](np.clip(abs(error) / top + np.linspace(-0.03, 0.03, 25), 0, 1))[:, :3] * 255
        assert np.abs(near - np.asarray(colour)).max(axis=1).min() < 5
        assert (signed[0] > signed[2]) == (error > 0)  # orange where too bright, blue where too dark
    assert run(tab, "return viewer.bar.high.textContent") == f"{float(f'{top:.3g}'):g} and above"


def test_window_and_level_change_one_scale_and_reset_restores_it(tab: Browser) -> None:
    three = "[hash('source', 'axial'), hash('truth', 'axial'), hash('error', 'axial')]"
    before, area = run(tab, f"await bare(); return [{three}, area('prediction', 'axial')]")
    x, y = area["left"] + area["width"] / 2, area["top"] + area["height"] / 2
    tab.mouse("mousePressed", x, y, button="right", buttons=2, clickCount=1)
    tab.mouse("mouseMoved", x - 60, y + 30, button="right", buttons=2)
    tab.mouse("mouseReleased", x - 60, y + 30, button="right", buttons=0)
    script = f"await drawn(); return [{three}, viewer.greys.truth, viewer.position.join() === viewer.data.centre.join()]"
    after, greys, still = run(tab, script)
    assert [a != b for a, b in zip(before, after, strict=True)] == [False, True, False]
    assert greys == {"width": round(100 / math.sqrt(2)), "level": 60} and still
    # the sliders act on the image that is chosen beside them
    sources = run(
        tab,
        """viewer.select.value = "source:T1w"; viewer.select.dispatchEvent(new Event("change"));
        const before = hash("truth", "axial"), old = hash("source", "axial"), slider = viewer.levelSlider.input;
        slider.value = 20; slider.dispatchEvent(new Event("input")); await drawn();
        return [hash("truth", "axial") === before, hash("source", "axial") !== old, viewer.grey.textContent]""",
    )
    assert sources[:2] == [True, True] and sources[2].startswith("Grey scale of T1w:")
    reset = "[...viewer.root.querySelectorAll('button')].find((each) => each.textContent === 'Reset').click();"
    assert run(tab, script)[0] != before
    assert run(tab, reset + script)[0] == before


def test_wheel_and_keys_move_slices_after_a_click_only(tab: Browser) -> None:
    area = run(tab, "return area('source', 'sagittal')")
    x, y = area["left"] + area["width"] / 2, area["top"] + area["height"] / 2
    tab.run("scrollBy(0, -40); await new Promise(requestAnimationFrame)")
    y += 40
    start = run(tab, "return viewer.position")
    tab.mouse("mouseWheel", x, y, deltaX=0, deltaY=-60)
    assert run(tab, "await drawn(); return viewer.position") == start
    y = run(tab, "await new Promise(done => setTimeout(done, 200)); return area('source', 'sagittal')")["top"] + area["height"] / 2
    tab.click(x, y)
    start = run(tab, "return viewer.position")
    tab.mouse("mouseWheel", x, y, deltaX=0, deltaY=-60)
    assert run(tab, "await drawn(); return viewer.position") == [start[0] + 2, start[1], start[2]]
    for key, step in (("ArrowUp", 3), ("ArrowDown", 2), ("PageDown", -8)):
        tab.key(key)
        assert run(tab, "return viewer.position[0]") == max(start[0] + step, 0), key
    tab.key("End")
    assert run(tab, "return viewer.position[0] === viewer.data.shape[0] - 1")
    tab.key("Escape")
    assert not run(tab, "return document.activeElement === viewer.frame")


def test_outline_and_columns_can_be_switched(tab: Browser) -> None:
    found = run(
        tab,
        """viewer.cross.checked = false; viewer.draw(); await drawn();
        const green = () => {
          const d = data("truth", "axial").data;
          let n = 0;
          for (let i = 0; i < d.length; i += 4) n += d[i + 1] > 150 && d[i] < 110;
          return n;
        };
        const on = green(); viewer.outline.click(); await drawn(); const off = green();
        const wide = canvas("truth", "axial").clientWidth;
        const box = [...viewer.root.querySelectorAll("[aria-label='Images shown'] input")][0]; box.click(); await drawn();
        return [on, off, getComputedStyle(column("source").element).display, canvas("truth", "axial").clientWidth > wide]""",
    )
    assert found[0] > 20 and found[1] == 0
    assert found[2:] == ["none", True]


@pytest.mark.parametrize(("width", "mobile"), [(1280, False), (390, True)])
def test_panels_have_the_aspect_of_millimetres_and_nothing_overflows(
    chromium: Browser, page: Path, width: int, mobile: bool
) -> None:
    chromium.size(width, 900, mobile)
    chromium.open(page)
    size = [(edge.stop - edge.start) * mm for edge, mm in zip(brain_box(CASE.mask, SPACING), SPACING, strict=True)]
    shown = run(chromium, "await drawn(); return viewer.shown")
    assert shown == ("axial" if mobile else "all")
    for plane, (a, b) in {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}.items():
        wide, area, pixels, hidden = run(
            chromium,
            f"""viewer.show("{plane}"); await drawn();
            const one = area("truth", "{plane}"), pixels = [canvas("truth", "{plane}").width, one.width * devicePixelRatio];
            const right = ([key, each]) => (each.clientWidth === 0) === (key !== "{plane}");
            const hidden = viewer.columns.every((each) => Object.entries(each.panels).every(right));
            return [document.documentElement.scrollWidth, one, pixels, hidden]""",
        )
        assert wide <= width and hidden
        assert area["height"] / area["width"] == pytest.approx(size[b] / size[a], rel=0.01)
        assert pixels[0] == pytest.approx(pixels[1], abs=1)
    area = run(chromium, "viewer.show('all'); await drawn(); return area('truth', 'sagittal')")
    assert area["height"] / area["width"] == pytest.approx(size[2] / max(size[:2]), rel=0.01)
    assert chromium.run("return document.documentElement.scrollWidth") <= width


def test_the_errors_by_slice_lead_to_their_slice(tab: Browser) -> None:
    box, place = run(
        tab,
        """const map = viewer.figure.querySelector(".slices-plot"); map.scrollIntoView({ block: "center" }); await drawn();
        const { left, top, width, height } = map.getBoundingClientRect();
        return [[left, top, width, height], { ...map.dataset }]""",
    )
    left, width, first, last = (float(place[key]) for key in ("left", "width", "first", "last"))
    wanted = 9
    share = left + width * (wanted - first) / (last - first)
    tab.click(box[0] + box[2] * share, box[1] + box[3] / 2)
    position, marker = run(tab, "await drawn(); return [viewer.position[2] + viewer.data.origin[2], viewer.marker.style.left]")
    assert position == wanted
    assert float(marker.rstrip("%")) / 100 == pytest.approx(share, abs=1e-6)


def test_a_damaged_page_says_so(chromium: Browser, page: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    broken = tmp_path / "broken.html"
    broken.write_text(re.sub(r'("labels": "data:image/png;base64,)[^"]{40}', r"\1", text, count=1), encoding="utf-8")
    chromium.size(1280, 900)
    chromium.open(broken)
    note = chromium.run(
        "try { await synthmrViewers[0].start(); } catch {} return document.querySelector('[role=alert]').textContent"
    )
    assert note.startswith("The viewer could not start:") and "still picture" in note
    assert chromium.run("return (await synthmrViewers[1].start()).name")
