from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from autounet.arrays.prepare import prepare_arrays
from autounet.images.geometry import geometry_from_affine, picture_geometry
from autounet.inference.sources import StoredSource, source_of
from autounet.inference.sweep import ArraySource, CascadeSource
from planners.plan import ChannelPlan
from tests.tiny_models import configuration, plan_of

SCHEMES = ["zscore", "ct", "percentile", "rescale", "none"]


def planned(scheme, mask_outside=False):
    plan = plan_of(configuration((8, 8, 8)))
    channel = ChannelPlan(
        name="c", modality="ct", scheme=scheme, mask_outside=mask_outside, clip_low=-50.0, clip_high=60.0, mean=5.0, std=20.0
    )
    return replace(plan, channels=(channel,))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("mask_outside", [False, True])
def test_voxels_that_need_no_resampling_are_normalised_tile_by_tile_to_the_same_values(scheme, mask_outside):
    plan = planned(scheme, mask_outside)
    image = np.random.default_rng(0).integers(-100, 100, (1, 20, 18, 16)).astype(np.int16)
    image[:, :2] = 0
    image[:, :, 4, 4] = 0
    geometry = geometry_from_affine((20, 18, 16), np.diag([-1.0, 1.0, -1.0, 1.0]))
    source, frame = source_of(image, geometry, plan, plan.configurations[0], 1)
    assert isinstance(source, StoredSource)
    prepared = prepare_arrays(image, None, geometry, plan, plan.configurations[0])
    assert frame == prepared.frame
    z, y, x = source.shape_zyx
    assert_allclose(source.read((slice(0, z), slice(0, y), slice(0, x))), prepared.image_czyx, atol=1e-5)
    assert_allclose(source.read((slice(3, 9), slice(2, 5), slice(1, 9))), prepared.image_czyx[:, 3:9, 2:5, 1:9], atol=1e-5)


def test_a_slide_of_bytes_stays_a_slide_of_bytes():
    plan = replace(plan_of(configuration((1, 16, 16), "2d")), dimensions=2)
    plan = replace(plan, channels=(replace(plan.channels[0], scheme="zscore"),))
    image = np.random.default_rng(1).integers(1, 255, (1, 1, 90, 70)).astype(np.uint8)
    source, _ = source_of(image, picture_geometry((90, 70)), plan, plan.configurations[0], 1)
    assert isinstance(source, StoredSource)
    assert np.shares_memory(source.image_czyx, image)
    whole = source.read((slice(0, 1), slice(0, 90), slice(0, 70)))
    assert_allclose([whole.mean(), whole.std()], [0, 1], atol=1e-4)


def test_another_spacing_is_resampled():
    plan = planned("none")
    image = np.zeros((1, 20, 18, 16), np.int16) + 1
    source, frame = source_of(image, geometry_from_affine((20, 18, 16), np.diag([2.0, 2.0, 2.0, 1.0])), plan, plan.configurations[0], 1)
    assert isinstance(source, ArraySource)
    assert source.shape_zyx == frame.shape_zyx == (40, 36, 32)


def test_a_cascade_adds_one_channel_a_class():
    labels = np.arange(3).reshape(1, 1, 3).repeat(2, 1)
    source = CascadeSource(ArraySource(np.full((1, 1, 2, 3), 7, np.float32)), labels, 2)
    box = source.read((slice(0, 1), slice(0, 1), slice(0, 3)))
    assert box[:, 0, 0].tolist() == [[7, 7, 7], [0, 1, 0], [0, 0, 1]]
