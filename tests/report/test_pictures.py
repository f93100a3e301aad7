import io
import re
import shutil
from base64 import b64decode
from dataclasses import replace
from itertools import product
from xml.etree import ElementTree

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from autounet.data.dataset import Dataset
from autounet.job import Job
from autounet.progress import Progress
from autounet.report.gallery import PICTURE_BYTES
from autounet.report.looks import Look, Plane, _grays, most_seen, most_wrong, plane, range_of, window
from autounet.report.outlines import loops, outline
from autounet.report.pictures import draw, shrunk
from autounet.report.turned import turned
from autounet.stages.report import report
from autounet.store.selection import Chosen, Selection
from autounet.store.strict import read_value, write_value
from tests.report.worked import worked
from tests.tiny_models import configuration, fingerprint_of, plan_of


def test_the_outline_of_one_voxel_is_a_diamond_through_the_middles_of_its_edges():
    mask = np.zeros((4, 5), bool)
    mask[1, 2] = True
    assert loops(mask) == [[(5, 2), (6, 3), (5, 4), (4, 3)]]
    assert outline(mask) == "M5 2l1 1l-1 1l-1 -1z"
    assert outline(np.zeros((3, 3), bool)) == ""


def test_voxels_that_touch_by_a_corner_are_two_pieces_and_a_hole_is_a_line_of_its_own():
    corner = np.array([[1, 0], [0, 1]], bool)
    assert len(loops(corner)) == 2
    ring = np.ones((5, 5), bool)
    ring[2, 2] = False
    assert sorted(len(loop) for loop in loops(ring)) == [4, 20]


def area(loop):
    """By the shoelace formula; clockwise on the screen is positive."""
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(loop, [*loop[1:], loop[0]], strict=True)) / 2


masks = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).random((6, 7)) > 0.5)


@given(masks)
def test_outlines_go_around_every_edge_once_and_enclose_the_mask_but_for_its_cut_corners(mask):
    found = loops(mask)
    padded = np.pad(mask, 1).astype(int)
    edges = np.abs(np.diff(padded, axis=0)).sum() + np.abs(np.diff(padded, axis=1)).sum()
    assert sum(map(len, found)) == edges
    # A line through the middles of the edges cuts half a unit off each corner that bulges and adds it to each that does not.
    bulging = hollow = 0
    for y, x, dy, dx in product(range(8), range(9), (-1, 1), (-1, 1)):
        if 0 <= y + dy < 8 and 0 <= x + dx < 9:
            here, beside, below, across = padded[y, x], padded[y, x + dx], padded[y + dy, x], padded[y + dy, x + dx]
            bulging += here and not beside and not below
            hollow += across and beside and below and not here
    assert sum(map(area, found)) == 4 * mask.sum() - bulging / 2 + hollow / 2


def test_a_path_walks_the_same_line_as_its_loop():
    mask = np.random.default_rng(3).random((12, 12)) > 0.4
    walked = []
    for piece in outline(mask).split("z")[:-1]:
        x, y = map(int, re.match(r"M(-?\d+) (-?\d+)", piece).groups())
        corners = [(x, y)]
        for dx, dy in re.findall(r"l(-?\d+) (-?\d+)", piece):
            x, y = x + int(dx), y + int(dy)
            corners.append((x, y))
        walked.append(area(corners))
    assert sorted(walked) == sorted(map(area, loops(mask)))


def test_noise_loses_its_smallest_pieces_before_a_path_grows_too_long():
    mask = np.zeros((200, 200), bool)
    mask[1::2, 1::2] = True
    mask[50:150, 50:150] = True
    whole, short = outline(mask), outline(mask, most=1500)
    assert len(whole) > 5 * 1500 >= 5 * len(short)
    assert short.startswith(whole[:1000])  # the large piece comes first and stays


def look(gray, truth, predicted=None, spacing=(3.0, 1.0, 1.0)):
    return Look(case="c", gray_czyx=gray, truth_zyx=truth, predicted_zyx=predicted, spacing_zyx_mm=spacing, flat=False)


def test_the_slice_of_a_bad_case_is_the_one_with_most_differing_voxels():
    truth = np.zeros((5, 8, 8), np.uint8)
    truth[1, 2:7, 2:7], truth[3, 2:5, 2:5] = 1, 1
    predicted = truth.copy()
    predicted[3] = 0
    seen = look(np.zeros((1, 5, 8, 8), np.uint8), truth, predicted)
    assert most_wrong(seen, (1,)) == 3
    assert most_wrong(look(seen.gray_czyx, truth, truth), (1,)) == 1


def test_the_slice_of_a_case_shows_as_many_classes_as_it_can():
    truth = np.zeros((4, 8, 8), np.uint8)
    truth[0] = 1  # large and alone
    truth[2, :4], truth[2, 4, 4] = 1, 2
    assert most_seen(look(np.zeros((1, 4, 8, 8), np.uint8), truth), (("a", (1,)), ("b", (2,)))) == 2


def test_slices_hang_as_radiologists_hang_them():
    gray = np.zeros((1, 2, 4, 4), np.uint8)
    gray[0, 0, 3, 3] = 255  # front, right of the patient
    hung = plane(look(gray, None), 0)
    assert hung.gray_cyx[0, 0, 0] == 255  # on top, on the left
    assert hung.name == "axial 1 of 2"
    sagittal = plane(look(np.zeros((1, 4, 4, 2), np.uint8), None, spacing=(1.0, 1.0, 5.0)), 1)
    assert sagittal.name == "sagittal 2 of 2"


def test_a_window_holds_what_is_drawn_and_does_not_leave_the_picture():
    truth = np.zeros((100, 200), np.uint8)
    truth[90:100, 0:30] = 2
    cut = window(Plane(gray_cyx=np.zeros((1, 100, 200), np.uint8), truth_yx=truth, predicted_yx=None, spacing_yx_mm=(1.0, 1.0), name=""))
    assert np.count_nonzero(cut.truth_yx) == 300
    assert cut.truth_yx.shape == (54, 54)


def test_a_picture_keeps_the_proportions_of_the_patient_and_its_gray_values():
    gray = np.zeros((1, 20, 40), np.uint8)
    gray[0, 5:15, 10:30] = 200
    truth = (gray[0] > 0).astype(np.uint8)
    shown = Plane(gray_cyx=gray, truth_yx=truth, predicted_yx=np.roll(truth, 2, 1), spacing_yx_mm=(2.0, 1.0), name="")
    drawn = ElementTree.fromstring(str(draw(shown, (("a <b>", (1,)),), title="case & slice")))
    assert drawn.get("viewBox") == "0 0 40 40"
    paths = [e for e in drawn.iter() if e.tag.endswith("path")]
    assert [p.get("class") for p in paths] == ["truth", "mask k1"]
    image = next(e for e in drawn.iter() if e.tag.endswith("image"))
    pixels = np.asarray(Image.open(io.BytesIO(b64decode(image.get("href").split(",")[1]))).convert("L"), int)
    assert pixels.shape == (20, 40)
    assert np.abs(pixels[7:13, 14:26] - 200).max() < 12


def test_large_slices_are_averaged():
    gray = np.arange(49, dtype=np.uint8).reshape(1, 7, 7)
    small = shrunk(gray, 2)
    assert small.shape == (1, 4, 4)
    assert small[0, 0, 0] == (0 + 1 + 7 + 8) // 4
    assert small[0, 3, 3] == 48


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return worked(tmp_path_factory.mktemp("pictures"))


def page(work, **more):
    return report(work, Job(work=work, progress=Progress.silent()), **more).read_text()


def test_the_page_shows_the_data_and_the_worst_and_best_cases_with_truth_and_prediction(work):
    text = page(work)
    titles = re.findall(r"<h[23]>(.*?)</h[23]>", text)
    assert [t for t in titles if "cases" in t or "volumes" in t] == [
        "Good and bad cases", "The worst cases", "The best cases", "Whole volumes", "What bad cases have in common", "Some of the cases",
    ]  # fmt: skip
    worst = text.split("The worst cases")[1].split("The best cases")[0]
    assert worst.index("organs_000: mean Dice") < worst.index("organs_001: mean Dice")
    assert worst.count('class="truth"') >= 3
    assert worst.count('class="mask k') >= 3
    assert "lowest vessel with 0.000" in worst
    assert text.count("data:image/webp") + text.count("data:image/jpeg") == 12
    assert len(text) < PICTURE_BYTES
    assert str(work.parent) not in text


def test_a_class_that_was_missed_is_named_as_a_trait(work):
    traits = page(work).split("What bad cases have in common")[1]
    row = re.search(r"<tr><td>vessel missed altogether</td>.*?</tr>", traits, re.DOTALL)[0]
    assert ">1<" in row
    assert "organs_000" in row


def test_a_public_page_has_no_picture_and_takes_those_of_an_earlier_one_away(work):
    page(work)
    assert len(list((work / "report" / "viewer").iterdir())) == 6
    text = page(work, public=True)
    assert "data:image" not in text
    assert "viewer" not in re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
    assert list((work / "report" / "viewer").iterdir()) == []
    assert "organs_000" in text  # numbers stay


def test_a_dataset_that_has_moved_is_said_and_costs_the_pictures_only(tmp_path):
    folder = worked(tmp_path, cases=4, size=24)
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    text = page(folder)
    assert "not where it was" in text
    assert "data:image" not in text
    assert "organs_000" in text


def test_one_image_that_cannot_be_read_costs_its_own_picture_only(tmp_path):
    folder = worked(tmp_path, cases=4, size=24)
    image = sorted((tmp_path / "data" / "images").iterdir())[1]
    image.write_bytes(image.read_bytes()[:500])
    text = page(folder)
    assert "organs_001 is not shown" in text
    assert "organs_000: mean Dice" in text


def test_pictures_are_shown_as_they_are_stored_and_not_in_the_viewer(tmp_path):
    text = page(worked(tmp_path, kind="slides", cases=5, size=64))
    assert "The worst cases" in text
    assert "Whole volumes" not in text
    assert "axial" not in text


def test_b073_a_label_that_was_flipped_under_its_header_is_seen_by_networks_that_did_not_learn_from_it(tmp_path):
    folder = worked(tmp_path, cases=4, size=32)
    label = sorted((tmp_path / "data" / "labels").iterdir())[2]
    stored = nibabel.load(label)
    nibabel.save(nibabel.Nifti1Image(np.asarray(stored.dataobj)[::-1].copy(), stored.affine, stored.header), label)
    text = page(folder)
    (said,) = re.findall(r"organs_\d+: its label fits the prediction far better with .* exchanged", text)
    assert "organs_002" in said
    assert turned(replace(look(np.zeros((1, 4, 4, 4)), np.ones((4, 4, 4)), np.ones((4, 4, 4))), flat=True)) is None


def test_every_channel_of_a_case_is_shown(tmp_path):
    folder = worked(tmp_path, kind="multichannel", cases=3, size=24)
    channels = [c.name for c in read_value(folder / "index.json", Dataset).channels]
    assert len(channels) == 2
    shown = page(folder).split("Some of the cases")[1]
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", shown, re.DOTALL)
    for number in range(3):
        for channel in channels:
            assert any(f"_{number:03d}: " in caption and channel in caption for caption in captions), (number, channel, captions)


def test_colours_stay_colours():
    pixels = np.zeros((3, 1, 16, 16), np.uint8)
    pixels[0, :, :8], pixels[2, :, 8:] = 250, 250
    assert np.array_equal(_grays(pixels, colours=True), pixels)
    shown = Plane(gray_cyx=pixels[:, 0], truth_yx=None, predicted_yx=None, spacing_yx_mm=(1.0, 1.0), name="")
    uri = re.search(r'href="data:image/\w+;base64,([^"]+)"', str(draw(shown, (), title="t")))[1]
    drawn = np.asarray(Image.open(io.BytesIO(b64decode(uri))).convert("RGB"), int)
    np.testing.assert_allclose(drawn[3, 8], (250, 0, 0), atol=12)
    np.testing.assert_allclose(drawn[12, 8], (0, 0, 250), atol=12)


def test_ct_is_shown_in_the_range_of_its_structures_and_what_lies_beside_them():
    plan = plan_of(configuration((8, 8, 8)))
    fingerprint = fingerprint_of(plan)  # structures from -3 to 3
    assert range_of(fingerprint) is None
    ct = replace(fingerprint, channels=(replace(fingerprint.channels[0], modality="ct"),))
    assert range_of(ct) == (-6.0, 6.0)
    image = np.array([-1000, -6, 0, 6, 3000], np.float32).reshape(1, 1, 1, 5)
    assert _grays(image, colours=False, shown=(-6.0, 6.0)).ravel().tolist() == [0, 0, 127, 255, 255]


def test_grays_span_what_is_not_air_and_holes_in_the_data_are_dark():
    image = np.full((1, 4, 10, 10), -1000, np.float32)
    image[0, 1:3] = np.linspace(0, 100, 100).reshape(10, 10)
    image[0, 0, 0, 0] = np.nan
    gray = _grays(image, colours=False)
    assert gray[0, 3].max() == 0
    assert gray[0, 1, 0, 0] <= 2
    assert gray[0, 1, 9, 9] >= 253
    assert abs(int(gray[0, 1, 5, 0]) - 128) < 4
    assert _grays(np.zeros((1, 1, 3, 3)), colours=False).max() == 0


def test_scores_of_classes_that_the_plan_no_longer_has_cost_nothing(tmp_path):
    folder = worked(tmp_path, cases=4, size=24)
    (scores,) = folder.glob("scores/*/scores.json")
    scores.write_text(scores.read_text().replace('"vessel"', '"artery"'))
    text = page(folder)
    assert "The worst cases" in text
    assert "lowest artery" not in text


def test_of_an_ensemble_the_masks_that_it_left_are_shown_and_else_those_of_its_first_configuration(tmp_path):
    folder = worked(tmp_path, cases=4, size=24)
    selection = read_value(folder / "selection.json", Selection)
    (alone,) = folder.glob("scores/*")
    first = selection.members[0].configuration
    both = replace(selection, members=(*selection.members, Chosen(configuration="2d_older", folds=(0,))))
    write_value(folder / "selection.json", both)
    shutil.copytree(alone, folder / "scores" / f"{first}+2d_older")
    assert f"Masks are those of {first} alone" in page(folder)
    (folder / "scores" / f"{first}+2d_older" / "masks_0.25_0.75").mkdir()
    for mask in folder.glob("runs/*/fold_*/validation/*"):
        shutil.copy(mask, folder / "scores" / f"{first}+2d_older" / "masks_0.25_0.75" / mask.name)
    text = page(folder)
    assert "Masks are those of" not in text
    assert "The worst cases" in text
