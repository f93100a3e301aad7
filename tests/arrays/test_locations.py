import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from autounet.arrays.locations import ANNOTATED, PER_COMPONENT, joined, locate, runs_of

CORNERS = np.ones((3, 3, 3))


def located(label, ignore=None, seed=0, slab=3):
    parts = [runs_of(np.ascontiguousarray(label[a : a + slab]), a) for a in range(0, len(label), slab)]
    return locate(joined(parts), label.shape, ignore, np.random.default_rng(seed))


def remembered(locations, class_index):
    rows = locations.table[locations.table[:, 0] == class_index]
    return [np.unravel_index(locations.voxels[start:stop].astype(np.int64), locations.shape_zyx) for _, _, start, stop in rows]


@given(st.integers(0, 10_000), st.sampled_from([0.05, 0.15, 0.4]), st.tuples(*[st.integers(1, 12)] * 3))
@settings(max_examples=150)
def test_components_and_voxels_are_those_of_scipy(seed, density, shape):
    rng = np.random.default_rng(seed)
    label = ((rng.random(shape) < density) * rng.integers(1, 4, shape)).astype(np.int8)
    found = located(label)
    assert found.classes_present == tuple(np.unique(label[label > 0]).tolist())
    for value in found.classes_present:
        numbered, count = ndimage.label(label == value, CORNERS)
        assert found.components(value) == count
        assert found.count(value) == (label == value).sum()
        for at in remembered(found, value):
            assert len({*numbered[at].tolist()}) == 1  # one component each
            assert numbered[at][0] > 0
            assert len(at[0]) == (numbered == numbered[at][0]).sum()  # all of its voxels, each once, while they are few


def test_large_classes_are_sampled_and_small_components_stay():
    label = np.zeros((60, 80, 80), np.uint8)
    label[:40] = 1
    label[50, 10, 10:13] = label[55, 60, 60:65] = 1
    found = located(label)
    sizes = sorted(len(at[0]) for at in remembered(found, 1))
    assert sizes[:2] == [3, 5]
    assert sizes[2] == pytest.approx(10_000, rel=0.01)


def test_a_class_is_drawn_by_volume_and_a_component_by_number():
    label = np.zeros((8, 64, 64), np.uint8)
    label[0:3] = 1  # 12 288 voxels
    label[6, 5, 5:8] = 1  # 3 voxels
    found, rng = located(label), np.random.default_rng(1)
    by_volume = [found.draw(1, rng)[0] == 6 for _ in range(2000)]
    by_component = [found.draw_component(1, rng)[0] == 6 for _ in range(400)]
    assert np.mean(by_volume) < 0.01
    assert np.mean(by_component) == pytest.approx(0.5, abs=0.1)


def test_every_voxel_that_is_drawn_belongs_to_the_class():
    label = np.random.default_rng(0).integers(0, 5, (9, 20, 20)).astype(np.int16)
    found, rng = located(label), np.random.default_rng(2)
    for value in (1, 2, 3, 4):
        assert {int(label[found.draw(value, rng)]) for _ in range(50)} == {value}
    assert {int(label[found.draw_any((2, 4), rng)]) for _ in range(80)} == {2, 4}


def test_more_components_than_can_be_told_apart_share_the_last_entry():
    label = np.zeros((3, 150, 150), np.uint8)
    label[1, ::2, ::2] = 1  # 5 625 specks
    label[1, 0, 0:2] = 1
    found = located(label)
    assert found.components(1) == 1001
    assert found.count(1) == 5626
    assert len(found.voxels) <= 1000 * PER_COMPONENT + 10_000


def test_ignored_voxels_are_no_class_and_annotated_ones_are_found():
    label = np.full((4, 10, 10), 3, np.int8)
    label[1, 2:4] = 0
    label[2, 5, 5] = 1
    found, rng = located(label, ignore=3), np.random.default_rng(0)
    assert found.classes_present == (1,)
    assert found.count(ANNOTATED) == 21
    assert {int(label[found.draw_annotated(rng)]) for _ in range(300)} == {0, 1}


def test_a_case_without_foreground_has_no_locations():
    found = located(np.full((3, 4, 5), -1, np.int8))
    assert found.classes_present == ()
    assert not len(found.voxels)


def test_drawing_depends_on_the_generator_alone():
    label = np.random.default_rng(0).integers(0, 3, (20, 30, 30)).astype(np.uint8)
    one, other = located(label, seed=5, slab=3), located(label, seed=5, slab=20)
    assert (one.voxels == other.voxels).all()
    assert one.draw(1, np.random.default_rng(9)) == other.draw(1, np.random.default_rng(9))
