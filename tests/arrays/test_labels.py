import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from skimage.transform import resize

from autounet.arrays.labels import resample_labels
from autounet.arrays.resample import resample_image
from planners.errors import UserError

shapes = st.tuples(*[st.integers(1, 24)] * 3)


def blobs(shape, classes, seed=0):
    coarse = np.random.default_rng(seed).random([max(2, -(-size // 5)) for size in shape])
    smooth = resize(coarse, shape, 1, mode="edge")
    return np.clip(np.ptp(coarse) and (smooth - coarse.min()) / np.ptp(coarse) * classes, 0, classes - 1).astype(np.int8)


def shares(label_zyx, shape_zyx):
    """Per label, the linear resize of where it is."""
    values = np.unique(label_zyx)
    return values, np.stack([resize((label_zyx == v).astype(float), shape_zyx, 1, mode="edge", anti_aliasing=False) for v in values])


@given(shapes, shapes, st.integers(2, 12), st.integers(0, 9))
@settings(max_examples=100, deadline=None)
def test_no_label_has_a_larger_share_than_the_one_chosen(shape_in, shape_out, classes, seed):
    label = blobs(shape_in, classes, seed)
    found = resample_labels(label, shape_out, (1, 1, 1))
    values, score = shares(label, shape_out)
    chosen = np.take_along_axis(score, np.searchsorted(values, found)[None], axis=0)[0]
    assert (chosen >= score.max(axis=0) - 2e-6).all()
    assert set(np.unique(found)) <= set(values.tolist())


@given(shapes, shapes, st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_a_tie_goes_to_the_nearest_voxel(shape_in, shape_out, seed):
    label = blobs(shape_in, 2, seed)
    found = resample_labels(label, shape_out, (1, 1, 1))
    near = resize(label.astype(float), shape_out, 0, mode="edge", anti_aliasing=False)
    share = resize((label == 1).astype(float), shape_out, 1, mode="edge", anti_aliasing=False)
    tied = np.abs(share - 0.5) < 1e-9
    assert_array_equal(found[tied], near[tied])


@given(shapes, shapes, st.integers(0, 2), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_across_a_thick_axis_the_nearest_slice_is_taken(shape_in, shape_out, thick, seed):
    label = blobs(shape_in, 5, seed)
    orders = tuple(0 if axis == thick else 1 for axis in range(3))
    nearest_slices = resample_image(np.arange(shape_in[thick], dtype=np.float32)[None, None, None], (1, 1, shape_out[thick]), (1, 1, 0))
    picked = np.take(label, nearest_slices[0, 0, 0].astype(int), axis=thick)
    assert_array_equal(resample_labels(label, shape_out, orders), resample_labels(picked, shape_out, (1, 1, 1)))


def test_two_labels_of_one_edge_by_hand():
    """Four voxels 0 0 7 7 on three: the middle one lies half way and takes the upper of its equally near neighbours."""
    label = np.array([0, 0, 7, 7], np.int8).reshape(1, 1, 4)
    assert resample_labels(label, (1, 1, 3), (1, 1, 1)).ravel().tolist() == [0, 7, 7]
    assert resample_labels(label, (1, 1, 8), (1, 1, 1)).ravel().tolist() == [0, 0, 0, 0, 7, 7, 7, 7]


def test_three_labels_meeting_leave_no_hole():
    """Where none reaches one half, the reference used to leave background; the largest share must win."""
    label = np.array([[[1, 2], [3, 3]], [[1, 2], [4, 4]]], np.int8)
    found = resample_labels(label, (1, 1, 1), (1, 1, 1))
    assert found.item() in (1, 2, 3, 4)
    assert 0 not in resample_labels(label, (5, 5, 5), (1, 1, 1))


def test_order_zero_is_the_nearest_voxel():
    label = blobs((9, 14, 11), 6)
    expected = resize(label.astype(float), (13, 7, 20), 0, mode="edge", anti_aliasing=False)
    assert_array_equal(resample_labels(label, (13, 7, 20), (0, 0, 0)), expected)


def test_a_cubic_has_no_shares():
    with pytest.raises(UserError, match="order 3"):
        resample_labels(blobs((4, 4, 4), 2), (5, 5, 5), (3, 3, 3))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int64])
def test_nothing_changes_when_the_shape_stays(dtype):
    label = blobs((8, 9, 10), 5).astype(dtype)
    found = resample_labels(label, label.shape, (1, 1, 1))
    assert_array_equal(found, label)
    assert found.dtype == dtype


def test_negative_labels_and_labels_far_apart_stay_what_they_are():
    label = np.array([-1, 0, 900], np.int16)[blobs((12, 12, 12), 3)]
    assert set(np.unique(resample_labels(label, (17, 9, 20), (1, 1, 1)))) == {-1, 0, 900}


def test_a_volume_is_kept_to_the_accuracy_of_its_grid():
    z, y, x = np.indices((40, 40, 40)) - 19.5
    ball = ((z**2 + y**2 + x**2) < 12**2).astype(np.int8)
    found = resample_labels(ball, (60, 60, 60), (1, 1, 1))
    assert found.sum() / 1.5**3 == pytest.approx(ball.sum(), rel=0.02)  # a linear edge cuts corners a little


def test_the_number_of_threads_changes_nothing():
    label = blobs((30, 31, 32), 20)
    assert_array_equal(
        resample_labels(label, (50, 20, 40), (1, 1, 1), threads=1), resample_labels(label, (50, 20, 40), (1, 1, 1), threads=3)
    )
