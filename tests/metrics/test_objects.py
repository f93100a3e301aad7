"""Objects that touch are told apart and matched one by one; truths are drawn by hand or counted in plain loops."""

from math import isnan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from autounet.metrics.objects import object_scores, told_apart, touching_pieces

EVEN = (1.0, 1.0, 1.0)


def disc(centre_yx, radius, size=40):
    y, x = np.mgrid[:size, :size]
    return ((y - centre_yx[0]) ** 2 + (x - centre_yx[1]) ** 2 <= radius**2)[None]


def scene(seed, size=60):
    """Numbered cells that touch, a bit longer than wide."""
    rng = np.random.default_rng(seed)
    found = np.zeros((1, size, size), np.int32)
    y, x = np.mgrid[:size, :size]
    for number in range(1, 16):
        (cy, cx), long, ratio, turn = rng.uniform(0, size, 2), rng.uniform(5, 9), rng.uniform(1, 1.3), rng.uniform(0, np.pi)
        u = (y - cy) * np.cos(turn) + (x - cx) * np.sin(turn)
        v = (x - cx) * np.cos(turn) - (y - cy) * np.sin(turn)
        cell = ((u / long) ** 2 + (v * ratio / long) ** 2 < 1)[None]
        if (found[cell] > 0).mean() < 0.1:
            found[cell & (found == 0)] = number * 7  # numbers need not follow each other
    return found


def test_two_discs_that_touch_are_one_piece_and_two_objects():
    mask = disc((20, 11), 8) | disc((20, 26), 8)
    assert touching_pieces(mask).max() == 1
    apart = told_apart(mask, EVEN)
    assert set(np.unique(apart)) - {0} == set(np.unique(apart[0, 20, [11, 26]])), "one number around each middle"
    assert len(np.unique(apart)) == 3
    assert_array_equal(apart > 0, mask)
    assert (apart[mask & (np.arange(40) < 18)] == apart[0, 20, 11]).all()


def bar():
    mask = np.zeros((1, 40, 40), bool)
    mask[0, 18:23, 3:37] = True
    return mask


def ring():
    return disc((20, 20), 16) & ~disc((20, 20), 10)


def cross():
    return bar() | bar().transpose(0, 2, 1)


@pytest.mark.parametrize("shape", [bar, ring, cross, lambda: disc((0, 0), 9), lambda: np.ones((1, 9, 9), bool)])
def test_what_has_no_waist_stays_one_object(shape):
    assert_array_equal(told_apart(shape(), EVEN) > 0, shape())
    assert len(np.unique(told_apart(shape(), EVEN))) == 1 + (not shape().all())


def test_balls_in_a_volume_are_told_apart_in_millimetres():
    z, y, x = np.mgrid[:12, :40, :40]
    balls = [((z - 6) * 3.0) ** 2 + (y - 20) ** 2 + (x - centre) ** 2 <= 81 for centre in (12, 28)]
    apart = told_apart(balls[0] | balls[1], (3.0, 1.0, 1.0))
    assert len(np.unique(apart)) == 3
    assert apart[6, 20, 12] != apart[6, 20, 28]


def test_objects_that_meet_in_a_corner_are_two():
    mask = np.zeros((1, 6, 6), bool)
    mask[0, :3, :3] = mask[0, 3:, 3:] = True
    assert touching_pieces(mask).max() == 2
    assert len(np.unique(told_apart(mask, EVEN)[mask])) == 2


def test_a_border_class_parts_objects_and_is_given_back_to_the_nearest():
    inside, border = np.zeros((1, 7, 11), bool), np.zeros((1, 7, 11), bool)
    inside[0, 1:6, 1:10] = True
    border[0, 1:6, 5] = True
    apart = told_apart(inside, EVEN, border)
    assert len(np.unique(apart)) == 3
    assert (apart[inside] > 0).all()
    assert apart[0, 3, 4] != apart[0, 3, 6]


def test_an_object_that_is_found_with_an_iou_of_0_72_counts_at_five_of_ten_thresholds():
    truth, predicted = np.zeros((2, 1, 10, 20), int)
    truth[0, :, :10] = 4
    predicted[0, :9, :8] = 9  # 72 of 100
    found = object_scores(truth, predicted)
    assert (found.true, found.predicted, found.f1) == (1, 1, 1.0)
    assert found.ap == pytest.approx(0.5)
    assert found.panoptic == pytest.approx(0.72)
    predicted[0, 0, 19] = 2  # and one that is made up: 1 / 2 at five thresholds, 0 / 3 at the others
    found = object_scores(truth, predicted)
    assert found.f1 == pytest.approx(2 / 3)
    assert found.ap == pytest.approx(0.25)


def test_nothing_against_nothing_is_not_defined_and_nothing_against_something_is_zero():
    nothing, one = np.zeros((2, 1, 5, 5), int)
    one[0, 2, 2] = 1
    assert isnan(object_scores(nothing, nothing).f1)
    assert isnan(object_scores(nothing, nothing).ap)
    for pair in ((nothing, one), (one, nothing)):
        assert (object_scores(*pair).f1, object_scores(*pair).ap) == (0.0, 0.0)
    assert object_scores(one, one).ap == 1.0


def average_precision_in_loops(truth, predicted):
    """As the Data Science Bowl describes it, pair by pair."""
    trues, found = ([np.asarray(m == v) for v in np.unique(m) if v] for m in (truth, predicted))
    precisions = []
    for threshold in np.arange(0.5, 0.96, 0.05):
        hits = sum(any((t & p).sum() / (t | p).sum() > threshold for p in found) for t in trues)
        precisions.append(hits / (len(trues) + len(found) - hits))
    return np.mean(precisions)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_precision_equals_that_of_plain_loops_and_is_perfect_for_the_truth_in_other_numbers(seed):
    truth = scene(seed)
    assert object_scores(truth, truth.max() + 1 - truth * (truth > 0) - (truth == 0) * (truth.max() + 1)).ap == 1.0
    predicted = np.roll(told_apart(truth > 0, EVEN), 1, 2)
    assert object_scores(truth, predicted).ap == pytest.approx(average_precision_in_loops(truth, predicted))


def test_telling_apart_finds_most_of_touching_cells_that_pieces_lose():
    scenes = [scene(seed) for seed in range(8)]
    apart = np.mean([object_scores(s, told_apart(s > 0, EVEN)).f1 for s in scenes])
    pieces = np.mean([object_scores(s, touching_pieces(s > 0)).f1 for s in scenes])
    assert apart > 0.93
    assert apart > pieces + 0.05


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.25, 2.0, 8.0]))
def test_objects_do_not_depend_on_the_unit_of_length(seed, scale):
    mask = scene(seed) > 0
    assert_array_equal(told_apart(mask, EVEN), told_apart(mask, (scale,) * 3))
