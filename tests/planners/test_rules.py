"""Single rules, with truths worked out by hand."""

from math import radians

import pytest

from planners.augmentation import augmentation
from planners.axes import axis_order
from planners.batch import batch_size
from planners.cascade import coarser, sees_enough, worth_it
from planners.loss import level_weights
from planners.patch import shrinking
from planners.sides import sided
from planners.spacing import resampled_median, target_spacing
from planners.topology import topology
from planners.width import encoder_blocks, features


def test_the_target_spacing_is_the_median_of_each_axis() -> None:
    assert target_spacing([(2, 1, 1), (3, 1.2, 1), (4, 1.4, 1)], [(100, 300, 300)] * 3) == (3, 1.2, 1)


def test_a_thick_axis_with_few_slices_takes_the_tenth_percentile() -> None:
    spacings = [(float(mm), 1.5, 1.5) for mm in range(5, 16)]  # 5 .. 15, the median is 10, the 10th percentile 6
    assert target_spacing(spacings, [(12, 256, 256)] * 11) == (6.0, 1.5, 1.5)


def test_a_thick_axis_never_becomes_finer_than_the_plane() -> None:
    spacings = [(0.5, 1.5, 1.5)] * 2 + [(10.0, 1.5, 1.5)] * 8
    assert target_spacing(spacings, [(12, 256, 256)] * 10) == (1.5 + 1e-5, 1.5, 1.5)


def test_a_thick_axis_with_many_slices_keeps_its_median() -> None:
    spacings = [(float(mm), 1.5, 1.5) for mm in range(5, 16)]
    assert target_spacing(spacings, [(100, 256, 256)] * 11) == (10.0, 1.5, 1.5)


def test_median_shapes_may_end_in_halves() -> None:
    assert resampled_median([(1, 1, 1), (1, 1, 1)], [(10, 20, 30), (11, 20, 30)], (1, 1, 1)) == (10.5, 20, 30)


@pytest.mark.parametrize(("mm", "order"), [((1, 1, 1), (0, 1, 2)), ((1, 3, 1), (1, 0, 2)), ((1, 1, 5), (2, 0, 1))])
def test_the_coarsest_axis_comes_first(mm: tuple[float, float, float], order: tuple[int, int, int]) -> None:
    assert axis_order(mm) == order


def test_a_coarse_axis_is_halved_last_and_its_kernel_waits() -> None:
    found = topology((4.0, 1.0, 1.0), (32, 128, 128))
    assert found.strides[:4] == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2))
    assert found.kernels[:3] == ((1, 3, 3), (1, 3, 3), (3, 3, 3))


def test_features_double_up_to_a_cap_that_shrinks_with_the_base() -> None:
    assert features(6, 3) == (32, 64, 128, 256, 320, 320)
    assert features(7, 2) == (32, 64, 128, 256, 512, 512, 512)
    assert features(6, 3, 16) == (16, 32, 64, 128, 160, 160)
    assert encoder_blocks("residual", 7) == (1, 3, 4, 6, 6, 6, 6)


def test_a_batch_holds_no_more_than_its_part_of_the_dataset_and_never_less_than_two() -> None:
    assert batch_size(50, 1e6, (10, 10, 10), 0.05) == 50
    assert batch_size(70, 1e6, (10, 10, 10), 0.05) == 50
    assert batch_size(0.3, 1e6, (10, 10, 10), 0.05) == 2


def test_coarser_spacings_first_catch_up_with_the_coarsest_axis() -> None:
    steps = coarser((4.0, 1.0, 1.0))
    first = next(steps)
    assert first == (4.0, 1.03, 1.03)
    while 4.0 / first[1] > 2:
        last, first = first, next(steps)
    assert (last[0], first[0]) == (4.0, 4.0)
    assert next(steps)[0] == pytest.approx(4.12)


def test_a_quarter_of_the_image_is_enough_and_half_the_voxels_are_worth_it() -> None:
    assert sees_enough((10, 10, 10), 4000)
    assert not sees_enough((10, 10, 10), 4001)
    assert worth_it(2000, 1000)
    assert not worth_it(1999, 1000)


@pytest.mark.parametrize(("stages", "weights"), [(6, (8 / 15, 4 / 15, 2 / 15, 1 / 15, 0)), (3, (1, 0)), (2, (1,)), (1, (1,))])
def test_levels_weigh_half_of_the_finer_one_and_the_coarsest_nothing(stages: int, weights: tuple[float, ...]) -> None:
    assert level_weights(stages) == pytest.approx(weights)


@pytest.mark.parametrize(
    ("patch", "dimensions", "degrees", "flat"),
    [
        ((128, 128, 128), 3, 30, False),
        ((20, 320, 256), 3, 180, True),
        ((1, 512, 512), 2, 180, False),
        ((1, 512, 320), 2, 15, False),
    ],
)
def test_the_shape_of_the_patch_says_how_far_it_may_be_turned(
    patch: tuple[int, int, int], dimensions: int, degrees: float, flat: bool
) -> None:
    made = augmentation(patch, dimensions, ())
    rotation = next(step for step in made.steps if step.kind == "rotation")
    assert (rotation.low, rotation.high) == (-radians(degrees), radians(degrees))
    assert made.in_plane_only is flat
    assert not any(step.kind == "mirror" for step in made.steps)


@pytest.mark.parametrize(
    ("name", "has"),
    [("left kidney", True), ("Kidney_R", True), ("hip-left", True), ("liver", False), ("cerebral cortex", False), ("rl", False)],
)
def test_sides_are_words_of_a_name_not_letters_in_it(name: str, has: bool) -> None:
    assert sided(name) is has


def test_an_axis_of_two_voxels_does_not_end_the_search_for_a_smaller_patch() -> None:
    patches = [one.patch for one in shrinking((5.0, 1.0, 1.0), (2.0, 256.0, 256.0), (2.0, 256.0, 256.0))]
    assert patches[0] == (2, 256, 256)
    assert max(patches[-1][1:]) <= 32, "the thin axis has nothing to give; the others go on"
