import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from autounet.arrays import normalise
from autounet.arrays.normalise import Scaling, Voxels, percentiles, scaling_of, slice_extremes
from planners.errors import UserError
from planners.plan import ChannelPlan


def channel(scheme, **numbers):
    return ChannelPlan(name="c", modality="unknown", scheme=scheme, **numbers)


def normalised(plan, image, inside=None):
    voxels = Voxels(image, inside)
    return scaling_of(plan, voxels).apply(voxels.block(0, len(image)), inside)


@pytest.fixture
def image():
    return (np.random.default_rng(0).normal(size=(11, 12, 13)) * 400 - 150).astype(np.int16)


def test_ct_is_clipped_and_scaled_by_the_numbers_of_the_dataset(image):
    found = normalised(channel("ct", clip_low=-100, clip_high=200, mean=50, std=25), image)
    assert_allclose(found, (np.clip(image, -100, 200) - 50.0) / 25, rtol=1e-6)
    assert found.dtype == np.float32


def test_zscore_gives_mean_zero_and_spread_one(image):
    found = normalised(channel("zscore"), image)
    assert_allclose([found.mean(), found.std()], [0, 1], atol=1e-5)


def test_zscore_survives_large_offsets_and_constant_images():
    image = np.full((4, 4, 4), 1.7e6, np.float32)
    assert_array_equal(normalised(channel("zscore"), image), np.zeros_like(image))
    image[::2] += 1
    assert_allclose(np.unique(normalised(channel("zscore"), image)), [-1, 1], atol=1e-6)


def test_with_a_mask_only_the_inside_counts_and_changes(image):
    inside = np.zeros(image.shape, bool)
    inside[3:9, 2:10, 4:] = True
    image[~inside] = 0
    found = normalised(channel("zscore", mask_outside=True), image, inside)
    assert_array_equal(found[~inside], 0)
    assert_allclose([found[inside].mean(), found[inside].std()], [0, 1], atol=1e-5)


def test_percentile_is_not_moved_by_a_few_hot_voxels(image):
    hot = image.copy()
    hot[5, 5, 5:8] = 32_000
    plain, spoiled = normalised(channel("percentile"), image), normalised(channel("percentile"), hot)
    calm = np.ones(image.shape, bool)
    calm[5, 5, 5:8] = False
    assert np.abs(plain - spoiled)[calm].max() < 0.2
    assert spoiled.max() < 4
    assert_allclose([spoiled.mean(), spoiled.std()], [0, 1], atol=1e-5)


def test_percentiles_are_fine_however_far_out_the_hottest_voxel_is(image):
    hot = image.astype(np.float32)
    hot[5, 5, 5] = 1e9
    expected = np.percentile(hot.astype(np.float64), [0.5, 99.5])
    assert_allclose(percentiles(Voxels(hot)), expected, atol=2e-4 * np.ptp(expected))


def test_an_image_that_is_almost_everywhere_the_same_keeps_what_differs():
    sparse = np.zeros((20, 20, 20), np.float32)
    sparse[3, 3, 3:8] = 7
    found = normalised(channel("percentile"), sparse)
    assert found[3, 3, 3] > 10
    assert found[0, 0, 0] == pytest.approx(0, abs=0.1)


def test_rescale_runs_from_zero_to_one(image):
    found = normalised(channel("rescale"), image)
    assert found.min() == 0
    assert found.max() == pytest.approx(1)


def test_rgb_is_divided_by_255_and_refuses_what_is_no_colour():
    assert normalised(channel("rgb"), np.array([[[0, 51, 255]]], np.uint8)).ravel().tolist() == pytest.approx([0, 0.2, 1])
    with pytest.raises(UserError, match="0 to 300"):
        normalised(channel("rgb"), np.array([[[0, 300]]], np.int16))


def test_none_only_changes_the_type(image):
    assert_array_equal(normalised(channel("none"), image), image.astype(np.float32))


def test_percentiles_are_those_of_numpy_to_a_fine_bin(image):
    found = percentiles(Voxels(image))
    assert_allclose(found, np.percentile(image, [0.5, 99.5]), atol=2 * np.ptp(image.astype(float)) / normalise.BINS)


def test_blocks_change_no_number(image, monkeypatch):
    whole = [scaling_of(channel(scheme), Voxels(image)) for scheme in ("zscore", "percentile", "rescale")]
    monkeypatch.setattr(normalise, "BLOCK_VOXELS", 300)
    parts = [scaling_of(channel(scheme), Voxels(image)) for scheme in ("zscore", "percentile", "rescale")]
    for a, b in zip(whole, parts, strict=True):
        assert_allclose([a.offset, a.divisor], [b.offset, b.divisor], rtol=1e-9)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_extremes_of_slices(image, axis):
    others = tuple(a for a in range(3) if a != axis)
    low, high = slice_extremes(Voxels(image), axis)
    assert_array_equal(low, image.min(axis=others))
    assert_array_equal(high, image.max(axis=others))


def test_extremes_inside_a_mask_skip_what_is_outside(image):
    inside = np.zeros(image.shape, bool)
    inside[2, 3, 4] = True
    low, high = slice_extremes(Voxels(image, inside), 0)
    assert low[2] == high[2] == image[2, 3, 4]
    assert np.isinf(low[3])


def test_scaling_works_in_place():
    block = np.arange(4, dtype=np.float32)
    assert Scaling(offset=1, divisor=2).apply(block) is block
    assert block.tolist() == [-0.5, 0, 0.5, 1]
