import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from autounet.arrays.prepare import prepare_arrays
from autounet.images.geometry import geometry_from_affine, picture_geometry
from autounet.inference.sources import StoredSource, StreamedSource, source_of
from autounet.inference.sweep import ArraySource, CascadeSource
from planners.plan import ChannelPlan, Resampling
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


def spaced(shape_zyx, mm_zyx):
    return geometry_from_affine(shape_zyx, np.diag([mm_zyx[2], mm_zyx[1], mm_zyx[0], 1.0]))


def swept(source, order, patch=6, step=4):
    """All of the image, read in overlapping rows along the first axis of the order, as a sweep does it."""
    source.follow(order, patch)
    shape = source.shape_zyx
    length = shape[order[0]]
    whole = None
    for start in [*range(0, length - patch, step), max(0, length - patch)]:
        box = [slice(0, n) for n in shape]
        box[order[0]] = slice(start, min(start + patch, length))
        rows = source.read(tuple(box))
        whole = np.full((len(rows), *shape), np.nan, np.float32) if whole is None else whole
        whole[(slice(None), *box)] = rows
    return whole


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1)])
@pytest.mark.parametrize("mm_zyx", [(2.0, 2.0, 2.0), (0.6, 0.7, 0.8), (5.0, 0.9, 0.7), (1.0, 2.0, 0.5)])
def test_rows_resampled_on_demand_equal_the_volume_resampled_at_once(scheme, order, mm_zyx):
    plan = planned(scheme, mask_outside=scheme in ("zscore", "none"))
    plan = replace(plan, configurations=(replace(plan.configurations[0], resampling=Resampling(thick_axis="auto")),))
    image = np.random.default_rng(2).integers(-100, 100, (1, 20, 22, 24)).astype(np.int16)
    image[:, :, :3] = 0
    geometry = spaced((20, 22, 24), mm_zyx)
    source, frame = source_of(image, geometry, plan, plan.configurations[0], 1)
    assert isinstance(source, StreamedSource)
    prepared = prepare_arrays(image, None, geometry, plan, plan.configurations[0])
    assert frame == prepared.frame
    assert_allclose(swept(source, order), prepared.image_czyx, rtol=0, atol=1e-5 * max(1.0, float(prepared.image_czyx.std())))


def test_rows_that_were_forgotten_are_made_again():
    plan, image = planned("ct"), np.random.default_rng(3).integers(-90, 90, (1, 20, 10, 10)).astype(np.int16)
    source, _ = source_of(image, spaced((20, 10, 10), (2.0, 2.0, 2.0)), plan, plan.configurations[0], 1)
    box = (slice(0, 5), slice(3, 9), slice(0, 20))
    first = source.read(box).copy()
    swept(source, (0, 1, 2))
    assert_array_equal(source.read(box), first)
    later = source.read((slice(30, 33), slice(0, 20), slice(0, 20))).copy()
    assert_allclose(later, source.read((slice(0, 40), slice(0, 20), slice(0, 20)))[:, 30:33], atol=1e-6)


def test_the_network_grid_never_exists_as_one_array():
    plan = planned("ct")
    image = np.random.default_rng(4).integers(-90, 90, (1, 300, 32, 32)).astype(np.int16)
    geometry = spaced((300, 32, 32), (3.0, 2.0, 2.0))

    def peak(make):
        tracemalloc.start()
        make()
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    def stream():
        source, _ = source_of(image, geometry, plan, plan.configurations[0], 1)
        source.follow((0, 1, 2), 32)
        for start in range(0, source.shape_zyx[0] - 32, 16):
            source.read((slice(start, start + 32), slice(0, 64), slice(0, 64)))

    grid_bytes = 4 * 900 * 64 * 64
    assert peak(stream) < grid_bytes / 5
    assert peak(lambda: prepare_arrays(image, None, geometry, plan, plan.configurations[0])) > grid_bytes


def test_a_cascade_adds_one_channel_a_class():
    labels = np.arange(3).reshape(1, 1, 3).repeat(2, 1)
    source = CascadeSource(ArraySource(np.full((1, 1, 2, 3), 7, np.float32)), labels, 2)
    box = source.read((slice(0, 1), slice(0, 1), slice(0, 3)))
    assert box[:, 0, 0].tolist() == [[7, 7, 7], [0, 1, 0], [0, 0, 1]]
