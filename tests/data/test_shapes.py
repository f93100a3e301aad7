import numpy as np
import pytest
from numpy.testing import assert_allclose

from autounet.data import shapes as module
from autounet.data.label_values import count
from autounet.data.shapes import ClassShape, box_of, shapes
from autounet.images.geometry import Geometry, geometry_from_affine


def grid(shape: tuple[int, int, int], affine: np.ndarray | None = None) -> Geometry:
    return geometry_from_affine(shape, np.diag([1.0, 1.0, 1.0, 1.0]) if affine is None else affine)


def shapes_of(values: np.ndarray, geometry: Geometry | None = None, ignore: int | None = None) -> dict[int, ClassShape]:
    return {s.value: s for s in shapes(values, count(values), geometry or grid(values.shape), ignore)}


def test_volume_pieces_and_extent_of_blocks() -> None:
    values = np.zeros((20, 30, 40), np.uint8)
    values[2:6, 3:9, 10:30] = 7
    values[15, 20, 35] = 7
    values[10:12, 20:22, 5:7] = 9
    found = shapes_of(values, grid(values.shape, np.diag([0.5, 1.0, 2.0, 1.0])))
    assert (found[7].voxels, found[7].components, found[7].smallest_component_voxels) == (481, 2, 1)
    assert found[7].extent_zyx_mm == (14 * 2.0, 18 * 1.0, 26 * 0.5)
    assert (found[9].voxels, found[9].components) == (8, 1)
    assert_allclose(found[9].centre_xyz_mm, (5.5 * 0.5, 20.5, 10.5 * 2.0))


def test_corners_that_touch_are_one_piece() -> None:
    values = np.zeros((4, 4, 4), np.uint8)
    values[0, 0, 0] = values[1, 1, 1] = 1
    assert shapes_of(values)[1].components == 1


def test_neighbouring_classes_are_not_one_piece() -> None:
    values = np.zeros((4, 4, 8), np.uint8)
    values[:, :, :2], values[:, :, 2:4], values[:, :, 4:6] = 1, 2, 1
    found = shapes_of(values)
    assert (found[1].components, found[2].components) == (2, 1)


def test_a_tube_is_long_and_a_ball_is_not() -> None:
    z, y, x = np.mgrid[:60, :40, :40]
    tube = (((y - 20) ** 2 + (x - 20) ** 2) < 9).astype(np.uint8)
    ball = (((z - 30) ** 2 + (y - 20) ** 2 + (x - 20) ** 2) < 225).astype(np.uint8)
    assert shapes_of(tube)[1].elongation > 8
    assert shapes_of(ball)[1].elongation < 1.05


def test_extents_are_on_canonical_axes_whatever_the_storage() -> None:
    values = np.zeros((20, 30, 40), np.uint8)
    values[2:4, 5:10, 10:30] = 1
    turned = np.array([[0, 0, -1, 0], [1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])  # x index to the front, y up, z to the left
    found = shapes_of(values, geometry_from_affine(values.shape, turned))
    assert found[1].extent_zyx_mm == (5.0, 20.0, 2.0)


def test_the_ignored_value_is_no_class() -> None:
    values = np.array([[[0, 1, 1, 5]]], np.uint8)
    assert list(shapes_of(values, ignore=5)) == [1]


def test_negative_and_large_values_have_shapes() -> None:
    values = np.zeros((4, 4, 4), np.int64)
    values[0, 0, 0], values[3, 3, 3] = -5, 3_000_000
    assert {v: s.voxels for v, s in shapes_of(values).items()} == {-5: 1, 3_000_000: 1}


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32])
def test_without_the_fast_library_and_for_large_maps_the_numbers_are_the_same(dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(0, 4, (12, 13, 14)).astype(dtype)
    values[values == 3] = 11
    fast = shapes_of(values)
    monkeypatch.setattr(module, "LARGE", 10)
    assert shapes_of(values) == fast
    monkeypatch.setattr(module, "_component_library", lambda: None)
    assert shapes_of(values) == fast


def test_boxes_are_found_from_outside() -> None:
    volume = np.zeros((9, 8, 7), np.int16)
    assert box_of(volume) is None
    volume[3, 2, 6] = -1
    volume[7, 5, 1] = 4
    assert box_of(volume) == (slice(3, 8), slice(2, 6), slice(1, 7))


def test_the_box_of_a_mask_is_that_of_the_mask_with_holes_filled() -> None:
    from scipy import ndimage

    rng = np.random.default_rng(0)
    for _ in range(50):
        volume = (rng.random((8, 9, 10)) < 0.03).astype(np.uint8)
        filled = ndimage.binary_fill_holes(volume).astype(np.uint8)
        assert box_of(volume) == box_of(filled)


def test_a_coarse_look_at_a_large_class_gives_the_same_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    z, y, x = np.mgrid[:60, :60, :60]
    ball = (((z - 30) / 25) ** 2 + ((y - 28) / 15) ** 2 + ((x - 30) / 12) ** 2 < 1).astype(np.uint8)
    ball[0, 59, 59] = 2
    full = shapes_of(ball)[1]
    monkeypatch.setattr(module, "MOST_SEARCHED", 3000)
    monkeypatch.setattr(module, "MOST_POINTS", 3000)
    coarse = shapes_of(ball)[1]
    assert_allclose(coarse.elongation, full.elongation, rtol=0.03)
    assert_allclose(coarse.centre_xyz_mm, full.centre_xyz_mm, atol=0.7)
    assert (coarse.voxels, coarse.components) == (full.voxels, full.components)
