import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from scipy.ndimage import binary_fill_holes

from autounet.arrays.crop import inside_mask, nonzero_box


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_the_box_holds_every_voxel_with_a_value_in_some_channel(dtype):
    image = np.zeros((2, 9, 10, 11), dtype)
    image[0, 2, 3, 4] = 1
    image[1, 6, 3, 8] = 5
    assert nonzero_box(image) == ((2, 7), (3, 4), (4, 9))


def test_values_whose_bits_cancel_nothing_are_all_seen():
    image = np.zeros((1, 1, 1, 8), np.int16)
    image[..., 2:6] = (-1, 1, -32768, 256)
    assert nonzero_box(image) == ((0, 1), (0, 1), (2, 6))


def test_minus_zero_is_zero():
    image = np.full((1, 4, 4, 4), -0.0, np.float32)
    image[0, 1, 1, 1] = -3
    assert nonzero_box(image) == ((1, 2), (1, 2), (1, 2))


def test_an_empty_image_is_kept_whole():
    assert nonzero_box(np.zeros((1, 3, 4, 5), np.int16)) == ((0, 3), (0, 4), (0, 5))


def test_a_turned_view_gives_the_box_on_its_own_axes():
    image = np.zeros((1, 5, 6, 7), np.int16)
    image[0, 1, 2, 3] = 1
    assert nonzero_box(image.transpose(0, 3, 1, 2)[:, ::-1]) == ((3, 4), (1, 2), (2, 3))


@given(st.integers(0, 10_000), st.floats(0.1, 0.75), st.tuples(*[st.integers(1, 14)] * 3))
def test_the_mask_is_filled_as_scipy_fills_holes(seed, density, shape):
    """Dense random voxels enclose caves that bend, which no straight look from a face decides."""
    image = (np.random.default_rng(seed).random((2, *shape)) < density / 2).astype(np.float32)
    assert_array_equal(inside_mask(image), binary_fill_holes(image.any(axis=0)))


def test_a_bent_tunnel_lets_the_outside_in():
    solid = np.ones((7, 7, 7), np.uint8)
    solid[3, 3, 0:4] = solid[3, 1:4, 3] = 0  # from the x face to the middle, then turning along y
    expected = solid.astype(bool)
    assert_array_equal(inside_mask(solid[None]), expected)
    solid[3, 3, 0] = 1  # closed, the tunnel is a hole
    assert inside_mask(solid[None]).all()


def test_cropping_copies_nothing_of_the_image():
    image = np.ones((1, 64, 64, 64), np.int16)
    before = image.copy()
    nonzero_box(image)
    inside_mask(image)
    assert_array_equal(image, before)
