import gzip
import hashlib
import io
import json
import re
import shutil
from base64 import b64decode
from itertools import product

import nibabel
import numpy as np
import pytest
from PIL import Image

from autounet.job import Job
from autounet.progress import Progress
from autounet.report.looks import Look
from autounet.report.viewer import LICENCES, MOST_VOXELS, NIIVUE, NIIVUE_SHA256, NIIVUE_VERSION, asset, blocks, numbered, steps, volume_of
from autounet.stages.report import report
from tests.report.chromium import Chromium
from tests.report.worked import worked

TARGETS = (("a", (1,)), ("b", (7,)))
needs_chromium = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's chromium")


def volume(data):
    return nibabel.Nifti1Image.from_bytes(gzip.decompress(data))


def test_the_viewer_is_the_pinned_file_with_its_licence():
    assert hashlib.sha256(asset(NIIVUE)).hexdigest() == NIIVUE_SHA256
    licences = asset(LICENCES).decode()
    assert "BSD 2-Clause License" in licences
    assert f"@niivue/niivue {NIIVUE_VERSION}" in licences
    assert NIIVUE_SHA256 in licences


def test_volumes_are_cut_to_what_is_drawn_and_know_no_place():
    gray = np.random.default_rng(0).integers(0, 256, (1, 30, 40, 50), dtype=np.uint8)
    truth = np.zeros((30, 40, 50), np.uint8)
    truth[10:20, 10:20, 10:20] = 7
    predicted = np.zeros_like(truth)
    predicted[10:20, 10:20, 12:22] = 1
    made = volume_of(
        Look(case="c", gray_czyx=gray, truth_zyx=truth, predicted_zyx=predicted, spacing_zyx_mm=(2.0, 1.0, 1.0), flat=False), TARGETS, 0.5
    )
    image, mask, right, differing = map(volume, (made.image, made.predicted, made.truth, made.differing))
    # The longest side is 20 mm, so 6 mm more on each side: 3 slices and 6 voxels.
    box = (slice(7, 23), slice(4, 26), slice(4, 28))
    for found, expected in ((image, gray[0]), (mask, predicted), (right, np.where(truth == 7, 2, 0))):
        np.testing.assert_array_equal(np.asarray(found.dataobj), expected[box].T)
    np.testing.assert_array_equal(
        np.unique(np.asarray(differing.dataobj), return_counts=True), [[0, 1, 2, 3], [16 * 22 * 24 - 1200, 200, 200, 800]]
    )
    assert image.header.get_zooms() == (1.0, 1.0, 2.0)
    np.testing.assert_allclose((image.affine @ [11.5, 10.5, 7.5, 1])[:3], 0, atol=1e-5)  # the middle of the volume is nowhere in particular
    assert bytes(image.header["descrip"]).strip(b"\0") == b""


def test_regions_are_painted_in_their_order():
    values = np.array([[[0, 1, 2, 4, 9]]])
    assert numbered(values, (("whole", (1, 2, 4)), ("core", (2, 4)), ("middle", (4,)))).tolist() == [[[0, 1, 2, 3, 0]]]
    many = tuple((str(v), (v,)) for v in range(1, 301))
    assert numbered(np.array([[[254, 255, 300]]]), many).tolist() == [[[254, 255, 255]]]


def test_large_volumes_are_made_coarse_along_their_finest_axes():
    assert steps((100, 100, 100), (1.0, 1.0, 1.0)) == (1, 1, 1)
    step = steps((300, 512, 512), (2.5, 0.8, 0.8))
    assert step[0] < min(step[1:])
    assert abs(step[1] - step[2]) <= 1
    assert np.prod([-(-n // k) for n, k in zip((300, 512, 512), step, strict=True)]) <= MOST_VOXELS
    image = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    assert blocks(image, (1, 2, 2))[1, 1, 2] == (34 + 39) // 2
    assert blocks(image, (1, 1, 1)) is not None


def test_masks_and_image_keep_one_grid_whatever_the_step():
    shape = (131, 257, 129)
    truth = np.zeros(shape, np.uint8)
    truth[5:-5, 5:-5, 5:-5] = 1
    gray = np.zeros((1, *shape), np.uint8)
    seen = Look(case="c", gray_czyx=gray, truth_zyx=truth, predicted_zyx=truth, spacing_zyx_mm=(1.0, 1.0, 1.0), flat=False)
    made = volume_of(seen, TARGETS, 1.0)
    found = [volume(data) for data in (made.image, made.predicted, made.truth, made.differing)]
    assert len({v.shape for v in found}) == 1
    assert np.prod(found[0].shape) <= MOST_VOXELS
    assert not np.asarray(found[3].dataobj).any()


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = worked(tmp_path_factory.mktemp("viewer"))
    report(folder, Job(work=folder, progress=Progress.silent()))
    return folder


def test_the_page_stays_small_and_volumes_wait_in_scripts_beside_it(work):
    folder = work / "report"
    assert (folder / "index.html").stat().st_size < 500_000
    script = (folder / "viewer" / "case_0.js").read_text()
    volumes = json.loads(re.sub(r"(\w+):\"", r'"\1":"', re.fullmatch(r"autounetVolumes\((.*)\);\n", script)[1]))
    assert sorted(volumes) == ["differing", "image", "predicted", "truth"]
    assert volume(b64decode(volumes["image"])).ndim == 3
    assert "organs" not in script


def shades(png):
    """Gray pixels of some brightness, and clearly coloured ones, as shares of all."""
    rgb = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), int)
    spread = rgb.max(-1) - rgb.min(-1)
    return float(((spread < 12) & (rgb.max(-1) > 40)).mean()), float((spread > 40).mean())


PLACE = """(() => {
    const r = document.querySelector('.glass').getBoundingClientRect();
    return [r.x + scrollX, r.y + scrollY, r.width, r.height];
})()"""


def glass(browser):
    x, y, width, height = browser.value(PLACE)
    return browser.picture(box=(x, y, width, height))


@needs_chromium
@pytest.mark.slow
def test_from_a_file_the_viewer_draws_a_case_and_its_mask_and_nothing_is_asked_of_the_network(work, tmp_path):
    with Chromium(tmp_path / "profile") as browser:
        browser.open(work / "report" / "index.html")
        assert not [url for url in browser.requests if "viewer/" in url]  # nothing is loaded before somebody asks
        browser.value("document.querySelector('[data-case=\"0\"]').click()")
        browser.wait_for("['ready', 'failed', 'without'].includes(document.getElementById('viewer').dataset.state)", 90)
        assert browser.value("document.getElementById('viewer').dataset.state") == "ready", browser.value(
            "document.querySelector('.say').textContent"
        )
        browser.value("document.querySelector('[data-overlay=\"truth\"]').click()")
        gray, coloured = shades(glass(browser))
        assert gray > 0.1
        assert coloured > 0.005
        browser.value("document.querySelector('[data-overlay=\"none\"]').click()")
        plain, without = shades(glass(browser))
        assert without < 0.001  # the colours were the mask's
        assert plain > gray
        browser.value("document.querySelector('[data-case=\"2\"]').click()")
        browser.wait_for("document.getElementById('viewer').dataset.state === 'ready'")
        assert shades(glass(browser))[0] > 0.1
        assert browser.complaints == []
        asked = [url for url in browser.requests if not url.startswith("data:")]
        assert all(url.startswith((work / "report").as_uri()) for url in asked), asked


@needs_chromium
def test_without_webgl2_the_page_says_so_calmly_and_stays_whole(work, tmp_path):
    with Chromium(tmp_path / "profile", "--disable-3d-apis") as browser:
        browser.open(work / "report" / "index.html")
        browser.value("document.querySelector('[data-case]').click()")
        assert "WebGL2" in browser.value("document.querySelector('.say').textContent")
        assert browser.complaints == []


@needs_chromium
def test_the_page_fits_its_window_tables_scroll_in_themselves_and_words_can_be_read(work, tmp_path):
    with Chromium(tmp_path / "profile") as browser:
        for width, dark in product((1400, 700), (False, True)):
            browser.open(work / "report" / "index.html", width=width, dark=dark)
            assert browser.value("document.documentElement.scrollWidth") <= width
            paper = browser.value("getComputedStyle(document.body).backgroundColor")
            ink = browser.value("getComputedStyle(document.body).color")
            soft = browser.value("getComputedStyle(document.querySelector('figcaption')).color")
            assert contrast(paper, ink) > 10
            assert contrast(paper, soft) > 4.5
            shown = np.asarray(Image.open(io.BytesIO(browser.picture())).convert("L"), int)
            assert (np.median(shown) < 60) == dark
        assert browser.complaints == []


@needs_chromium
def test_a_click_on_a_head_sorts_the_table_and_another_one_turns_it_around(work, tmp_path):
    with Chromium(tmp_path / "profile") as browser:
        browser.open(work / "report" / "index.html")
        numbers = "[...document.querySelector('table').tBodies[0].rows].map((r) => parseFloat(r.cells[2].textContent))"
        found = []
        for _ in range(2):
            browser.value("document.querySelectorAll('table th button')[2].click()")
            found.append(browser.value(numbers))
        assert found[0] == sorted(found[0])
        assert found[1] == found[0][::-1]
        assert len(set(found[0])) > 2
        browser.value(
            "['1,200', '90', '', '11'].forEach((t, n) => document.querySelector('table').tBodies[0].rows[n].cells[2].textContent = t)"
        )
        browser.value("document.querySelectorAll('table th button')[2].click()")
        texts = "[...document.querySelector('table').tBodies[0].rows].map((r) => r.cells[2].textContent)"
        assert browser.value(texts)[-4:] == ["", "11", "90", "1,200"]


def contrast(one, other):
    """Of two CSS colours, as WCAG 2 defines it."""
    light = sorted((luminance(c) for c in (one, other)), reverse=True)
    return (light[0] + 0.05) / (light[1] + 0.05)


def luminance(colour):
    parts = [int(v) / 255 for v in re.findall(r"\d+", colour)[:3]]
    r, g, b = (v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
