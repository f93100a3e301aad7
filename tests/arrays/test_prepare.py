from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from autounet.arrays.frame import Frame
from autounet.arrays.prepare import OUTSIDE, prepare_arrays
from autounet.arrays.resample import resample_image
from autounet.images.geometry import STRAIGHT, Geometry, picture_geometry
from planners import strict_json
from planners.labels import LabelClass, Labels
from planners.plan import Architecture, Augmentation, ChannelPlan, Configuration, Plan, Resampling

# The 48 ways of storing a volume: which world axis each index follows, and in which direction.
PERMUTATIONS = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
SIGNS = [(a, b, c) for a in (1.0, -1.0) for b in (1.0, -1.0) for c in (1.0, -1.0)]


def plan_of(spacing=(1.0, 1.0, 1.0), *, scheme="none", dimensions=3, classes=3, **changes):
    architecture = Architecture(
        kind="plain",
        dimensions=dimensions,
        features=(8,),
        strides_zyx=((1, 1, 1),),
        kernels_zyx=((3, 3, 3),),
        encoder_blocks=(2,),
        decoder_convolutions=(),
    )
    configuration = Configuration(
        name="only",
        spacing_zyx_mm=spacing,
        median_shape_zyx=(16, 16, 16),
        patch_zyx=(1 if dimensions == 2 else 16, 16, 16),
        batch_size=2,
        architecture=architecture,
        augmentation=Augmentation(steps=()),
    )
    plan = Plan(
        planner="test",
        dataset="test",
        dimensions=3,
        channels=(ChannelPlan(name="c", modality="unknown", scheme=scheme),),
        labels=Labels(classes=tuple(LabelClass(name=str(v), value=v) for v in range(classes))),
        configurations=(configuration,),
        train=("only",),
    )
    return replace(plan, **changes)


def prepared(image, label, geometry, plan, **options):
    return prepare_arrays(image, label, geometry, plan, plan.configurations[0], **options)


def straight(shape, spacing=(1.0, 1.0, 1.0)):
    return Geometry(shape_zyx=shape, spacing_zyx_mm=spacing, origin_xyz_mm=(0.0, 0.0, 0.0), direction=STRAIGHT)


@pytest.fixture
def case():
    """A lopsided object, so that no turn leaves it as it was; unequal edges, so that none fits by accident."""
    rng = np.random.default_rng(3)
    image = np.zeros((1, 12, 15, 18), np.int16)
    image[0, 2:10, 1:12, 4:16] = rng.integers(50, 900, (8, 11, 12))
    label = np.zeros(image.shape[1:], np.int64)
    label[3:6, 2:8, 5:9] = 1
    label[6:8, 6:10, 9:15] = 2
    return image, label


@pytest.mark.parametrize("axes", PERMUTATIONS)
@pytest.mark.parametrize("signs", SIGNS)
def test_however_a_volume_is_stored_the_network_sees_the_same(case, axes, signs):
    image, label = case
    plan = plan_of((1.2, 0.9, 1.6))
    first = prepared(image, label, straight(label.shape, (1.5, 1.0, 1.2)), plan)
    # The canonical array's axes z, y, x are stored in another order and direction; the affine says so.
    turned_image, turned_label = (array.transpose(*lead, *(len(lead) + a for a in axes)) for array, lead in ((image, (0,)), (label, ())))
    flips = tuple(slice(None, None, -1 if sign < 0 else None) for sign in signs)
    direction = np.zeros((3, 3))  # columns: stored x, y, z
    for stored, (canonical, sign) in enumerate(zip(axes, signs, strict=True)):
        direction[2 - canonical, 2 - stored] = sign
    spacing = tuple((1.5, 1.0, 1.2)[a] for a in axes)
    geometry = Geometry(
        shape_zyx=turned_label.shape, spacing_zyx_mm=spacing, origin_xyz_mm=(0.0, 0.0, 0.0), direction=tuple(direction.ravel().tolist())
    )
    found = prepared(turned_image[(..., *flips)].copy(), turned_label[flips].copy(), geometry, plan)
    assert_array_equal(found.image_czyx, first.image_czyx)
    assert_array_equal(found.label_zyx, first.label_zyx)
    assert_array_equal(found.frame.to_stored(found.frame.cropped_view(turned_label[flips])), turned_label[flips])


def test_the_way_back_puts_every_label_where_it_was(case):
    image, label = case
    plan = plan_of(axis_order=(2, 0, 1))
    frame = prepared(image, label, straight(label.shape), plan).frame
    assert frame.box == ((4, 16), (2, 10), (1, 12))
    assert frame.cropped_shape_zyx == (12, 8, 11)
    assert_array_equal(frame.to_stored(frame.cropped_view(label).copy()), label)


def test_what_is_written_to_the_cropped_view_lands_in_the_stored_array(case):
    image, label = case
    frame = prepared(image, None, straight(label.shape), plan_of(axis_order=(1, 2, 0))).frame
    stored = np.zeros(label.shape, np.uint8)
    frame.cropped_view(stored)[0, 0, 0] = 7
    assert stored[2, 1, 4] == 7


def test_a_frame_survives_json(case):
    image, label = case
    frame = prepared(image, label, straight(label.shape), plan_of((1.2, 0.9, 1.6))).frame
    assert strict_json.from_plain(Frame, strict_json.to_plain(frame), "frame") == frame


def test_the_order_is_crop_normalise_resample(case):
    image, label = case
    plan = plan_of((0.5, 0.7, 0.8), scheme="zscore")
    found = prepared(image, label, straight(label.shape), plan)
    crop = image[:, 2:10, 1:12, 4:16].astype(np.float32)
    by_hand = resample_image((crop - crop.mean()) / crop.std(), (16, 16, 15), (3, 3, 3))
    assert found.frame.shape_zyx == (16, 16, 15)
    assert_allclose(found.image_czyx, by_hand, atol=1e-5)
    assert found.label_zyx.shape == (16, 16, 15)
    assert set(np.unique(found.label_zyx)) == {0, 1, 2}


def test_outside_the_mask_is_zero_in_the_image_and_minus_one_in_the_label():
    rng = np.random.default_rng(0)
    image = np.zeros((1, 10, 10, 10), np.float32)
    image[0, 2:8, 2:8, 2:8] = rng.normal(5, 1, (6, 6, 6))
    image[0, 4, 4, 4] = 0  # a hole: inside
    image[0, 0, 0, 0] = image[0, 9, 9, 9] = 3  # so that the crop keeps everything
    label = np.zeros((10, 10, 10), np.int16)
    label[0, 0, 5] = 1  # outlined outside the mask: counts as inside
    plan = plan_of(scheme="zscore")
    plan = replace(plan, channels=(replace(plan.channels[0], mask_outside=True),))
    found = prepared(image, label, straight(label.shape), plan)
    assert found.label_zyx[4, 4, 4] == 0
    assert found.label_zyx[0, 0, 5] == 1
    assert found.label_zyx[0, 5, 5] == OUTSIDE
    assert found.image_czyx[0, 0, 5, 5] == 0
    inside = found.label_zyx >= 0
    assert_allclose([found.image_czyx[0][inside].mean(), found.image_czyx[0][inside].std()], [0, 1], atol=1e-5)


def test_without_a_mask_no_label_says_outside(case):
    image, label = case
    assert prepared(image, label, straight(label.shape), plan_of((0.7, 0.7, 0.7))).label_zyx.min() == 0


def test_slices_seen_one_by_one_keep_their_distance(case):
    image, label = case
    frame = prepared(image, label, straight(label.shape, (4.0, 1.0, 1.0)), plan_of((9.0, 0.5, 2.0), dimensions=2)).frame
    assert frame.shape_zyx == (8, 22, 6)
    assert frame.spacing_zyx_mm == (4.0, 0.5, 2.0)


def test_a_thick_axis_is_found_and_may_be_ignored(case):
    image, label = case
    geometry = straight(label.shape, (4.0, 1.0, 1.0))
    auto = plan_of((1.0, 0.8, 0.8))
    never = replace(auto, configurations=(replace(auto.configurations[0], resampling=Resampling(thick_axis="never")),))
    thick, even = prepared(image, label, geometry, auto), prepared(image, label, geometry, never)
    assert thick.frame.thick_axis == 0
    assert even.frame.thick_axis is None
    repeated = np.diff(thick.image_czyx[0], axis=0)
    assert (repeated == 0).all(axis=(1, 2)).sum() == 24  # 8 slices become 32, each repeated three times
    assert not (np.diff(even.image_czyx[0], axis=0) == 0).all(axis=(1, 2)).any()


def test_a_picture_is_never_turned():
    picture = np.random.default_rng(0).integers(1, 255, (3, 1, 20, 30)).astype(np.uint8)
    plan = plan_of(scheme="rgb", dimensions=2)
    plan = replace(plan, channels=plan.channels * 3)
    found = prepared(picture, None, picture_geometry((20, 30)), plan)
    assert_allclose(found.image_czyx, picture / np.float32(255), rtol=1e-6)
    assert found.label_zyx is None


def test_stored_orientation_leaves_axes_alone(case):
    image, label = case
    flipped = Geometry(
        shape_zyx=label.shape, spacing_zyx_mm=(1.0, 1.0, 1.0), origin_xyz_mm=(0.0, 0.0, 0.0), direction=(-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)
    )
    found = prepared(image, label, flipped, plan_of(orientation="stored"))
    assert_array_equal(found.image_czyx, image[:, 2:10, 1:12, 4:16].astype(np.float32))


def test_the_input_is_not_touched(case):
    image, label = case
    before = image.copy(), label.copy()
    image.flags.writeable = label.flags.writeable = False
    prepared(image, label, straight(label.shape), plan_of((0.8, 0.8, 0.8), scheme="zscore"))
    assert_array_equal(image, before[0])
    assert_array_equal(label, before[1])


def test_threads_change_no_bit(case):
    image, label = case
    one, two = (prepared(image, label, straight(label.shape), plan_of((0.6, 0.5, 0.7), scheme="zscore"), threads=t) for t in (1, 3))
    assert_array_equal(one.image_czyx, two.image_czyx)
    assert_array_equal(one.label_zyx, two.label_zyx)
