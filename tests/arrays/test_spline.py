import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.ndimage import zoom

from autounet.arrays.spline import axis_bands, axis_matrix, linear, nearest

sizes = st.integers(1, 70)


@given(sizes, sizes, st.sampled_from([0, 1, 2, 3]))
@settings(max_examples=200, deadline=None)
def test_the_matrix_is_what_scipy_does_to_the_identity(size_in, size_out, order):
    expected = zoom(np.eye(size_in), (size_out / size_in, 1), order=order, mode="nearest", grid_mode=True)
    assert_allclose(axis_matrix(size_in, size_out, order), expected, atol=2e-7)


@given(sizes, sizes, st.sampled_from([1, 2, 3]))
@settings(max_examples=100, deadline=None)
def test_the_bands_hold_all_of_the_matrix(size_in, size_out, order):
    put_together = np.zeros((size_out, size_in))
    for band in axis_bands(size_in, size_out, order):
        put_together[band.start : band.stop, band.low : band.high] += band.weights
    assert_allclose(put_together, axis_matrix(size_in, size_out, order), atol=1e-7)


def test_a_band_of_a_long_axis_is_narrow():
    """A cubic's weights have faded 13 voxels away, so 17 rows that shrink by 1.9 need some 60 of 512 columns."""
    bands = axis_bands(512, 273, 3)
    assert max(band.high - band.low for band in bands) < 64
    assert [band.start for band in bands[1:]] == [band.stop for band in bands[:-1]]


def test_no_weight_is_so_small_that_it_slows_the_product_down():
    weights = axis_matrix(300, 500, 3)
    assert np.abs(weights[weights != 0]).min() >= 1e-7


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_a_constant_stays_what_it_is(order):
    assert_allclose(axis_matrix(23, 57, order).sum(axis=1), 1, atol=2e-6)


def test_nearest_takes_the_upper_of_two_equally_near_voxels():
    assert nearest(4, 2).tolist() == [1, 3]  # centres at 0.5 and 2.5
    assert nearest(2, 4).tolist() == [0, 0, 1, 1]


def test_linear_neighbours_and_shares_by_hand():
    low, high, share = linear(2, 4)  # centres at -0.25, 0.25, 0.75, 1.25
    assert low.tolist() == [0, 0, 0, 1]
    assert high.tolist() == [1, 1, 1, 1]
    assert share.tolist() == [0, 0.25, 0.75, 0]


def test_an_unknown_order_is_a_bug():
    with pytest.raises(ValueError, match="order 4"):
        axis_matrix(5, 6, 4)
