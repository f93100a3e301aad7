from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import center_of_mass, map_coordinates
from skimage.transform import resize

from autounet.arrays.resample import Stream, axis_orders, axis_resizes, limits_of, new_shape, resample_image, thick_axis
from planners.plan import Resampling

shapes = st.tuples(*[st.integers(1, 34)] * 3)


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@given(shapes, shapes, st.sampled_from([0, 1, 2, 3]), st.integers(0, 9))
@settings(max_examples=120, deadline=None)
def test_resizing_is_what_scikit_image_does(shape_in, shape_out, order, seed):
    image = noise(shape_in, seed)
    expected = resize(image.astype(float), shape_out, order, mode="edge", anti_aliasing=False)
    found = resample_image(image[None], shape_out, (order,) * 3)[0]
    assert np.abs(found - expected).max() <= 1e-5 * max(np.ptp(image), 1)


@given(shapes, shapes, st.sampled_from([0, 1, 2]), st.integers(0, 9))
@settings(max_examples=80, deadline=None)
def test_a_thick_axis_is_resized_in_plane_slice_by_slice_and_then_takes_the_nearest_slice(shape_in, shape_out, thick, seed):
    image = noise(shape_in, seed)
    plane_out = [size for axis, size in enumerate(shape_out) if axis != thick]
    slices = [resize(plane.astype(float), plane_out, 3, mode="edge", anti_aliasing=False) for plane in np.moveaxis(image, thick, 0)]
    in_plane = np.moveaxis(np.stack(slices), 0, thick)
    at = np.indices(shape_out, dtype=float)
    at[thick] = shape_in[thick] / shape_out[thick] * (at[thick] + 0.5) - 0.5
    expected = map_coordinates(in_plane, at, order=0, mode="nearest")
    orders = tuple(0 if axis == thick else 3 for axis in range(3))
    found = resample_image(image[None], shape_out, orders)[0]
    assert np.abs(found - expected).max() <= 1e-5 * max(np.ptp(image), 1)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_nothing_changes_when_the_shape_stays(order):
    image = noise((2, 7, 9, 11))
    assert_array_equal(resample_image(image, (7, 9, 11), (order,) * 3), image)


@pytest.mark.parametrize("shape_out", [(90, 90, 90), (31, 31, 31), (45, 71, 60), (61, 24, 33)])
def test_a_centred_ball_stays_where_it_is(shape_out):
    size = 48
    z, y, x = np.indices((size,) * 3) - (size - 1) / 2
    ball = np.exp(-(z**2 + y**2 + x**2) / 60).astype(np.float32)
    found = resample_image(ball[None], shape_out, (3, 3, 3))[0]
    moved = np.array(center_of_mass(found)) - (np.array(shape_out) - 1) / 2
    assert np.abs(moved).max() < 0.05


def test_an_overshoot_is_cut_to_the_range_of_the_image():
    step = np.zeros((1, 12, 12, 12), np.float32)
    step[:, 6:] = 1
    found = resample_image(step, (40, 30, 20), (3, 3, 3))
    assert found.min() == 0
    assert found.max() == 1


def test_each_slice_across_a_thick_axis_keeps_its_own_range():
    image = noise((1, 5, 12, 12)) * np.arange(1, 6, dtype=np.float32)[None, :, None, None]
    found = resample_image(image, (5, 31, 33), (0, 3, 3))[0]
    for before, after in zip(image[0], found, strict=True):
        assert before.min() <= after.min()
        assert after.max() <= before.max()


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("rows", [1, 7, 16])
@pytest.mark.parametrize(("shape_in", "shape_out"), [((40, 20, 22), (70, 13, 15)), ((41, 9, 8), (19, 20, 18)), ((30, 12, 12), (30, 9, 17))])
def test_any_slabs_put_together_are_the_whole(order, rows, shape_in, shape_out):
    image = noise(shape_in)
    whole = resample_image(image[None], shape_out, (order,) * 3)[0]
    with ThreadPoolExecutor(1) as pool:
        resizes = axis_resizes(shape_in, shape_out, (order,) * 3)
        stream = Stream(lambda a, b: image[a:b].copy(), resizes, limits_of(image, (order,) * 3), pool=pool, threads=1)
        slabs = []
        for start in range(0, shape_out[0], rows):
            slab = np.full((min(rows, shape_out[0] - start), *shape_out[1:]), np.nan, np.float32)
            stream.rows(start, start + len(slab), slab)
            slabs.append(slab)
    assert_allclose(np.concatenate(slabs), whole, atol=2e-6)


def test_a_stream_reads_every_slice_once_and_holds_a_window_of_them():
    image, read = noise((400, 8, 8)), []

    def source(start, stop):
        read.extend(range(start, stop))
        return image[start:stop].copy()

    with ThreadPoolExecutor(1) as pool:
        stream = Stream(source, axis_resizes(image.shape, (300, 8, 8), (3, 3, 3)), None, pool=pool, threads=1)
        for start in range(0, 300, 20):
            stream.rows(start, start + 20, np.empty((20, 8, 8), np.float32))
        assert read == list(range(400))
        # 20 output rows touch two bands of 24, which reach over 64 slices, and the cubic over 13 more on either side.
        assert len(stream._ring) < 100


def test_slices_that_the_nearest_rule_skips_are_never_read():
    image, read = noise((40, 8, 8)), []

    def source(start, stop):
        read.extend(range(start, stop))
        return image[start:stop].copy()

    with ThreadPoolExecutor(1) as pool:
        stream = Stream(source, axis_resizes(image.shape, (8, 12, 12), (0, 3, 3)), limits_of(image, (0, 3, 3)), pool=pool, threads=1)
        out = np.empty((8, 12, 12), np.float32)
        stream.rows(0, 5, out[:5])
        stream.rows(5, 8, out[5:])
    assert read == [2, 7, 12, 17, 22, 27, 32, 37]
    assert_allclose(out, resample_image(image[read][None], (8, 12, 12), (0, 3, 3))[0], atol=1e-6)


def test_the_number_of_threads_changes_no_bit():
    image = noise((2, 33, 40, 41))
    assert_array_equal(resample_image(image, (50, 23, 61), (3, 3, 3), threads=1), resample_image(image, (50, 23, 61), (3, 3, 3), threads=4))


def test_one_slice_never_becomes_none():
    assert new_shape((1, 100, 100), (1.0, 1.0, 1.0), (5.0, 2.0, 200.0)) == (1, 50, 1)


def test_the_new_shape_is_rounded_as_the_reference_rounds():
    assert new_shape((5, 7, 300), (1.0, 1.0, 2.5), (2.0, 2.0, 1.5)) == (2, 4, 500)  # halves go to the even neighbour


@pytest.mark.parametrize(
    ("spacing", "target", "axis"),
    [
        ((2.5, 0.8, 0.8), (1.5, 1.5, 1.5), 0),
        ((2.4, 0.8, 0.8), (1.5, 1.5, 1.5), None),  # three times is not more than three times
        ((1.0, 1.0, 1.0), (1.0, 4.0, 1.0), 1),
        ((0.24, 1.25, 1.25), (1.0, 1.0, 1.0), None),  # two axes tie for the coarsest
        ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), None),
        ((0.24, 1.25, 1.25), (1.0, 1.0, 9.0), None),  # the old grid decides, even when two of its axes tie
    ],
)
def test_the_thick_axis_is_the_one_that_is_more_than_three_times_coarser(spacing, target, axis):
    assert thick_axis(spacing, target) == axis


def test_the_orders_follow_the_thick_axis():
    assert axis_orders(Resampling(), 2, 3) == (3, 3, 0)
    assert axis_orders(Resampling(), None, 1) == (1, 1, 1)
