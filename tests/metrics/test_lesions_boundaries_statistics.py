import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import ndimage, stats
from skimage.metrics import adapted_rand_error, variation_of_information

from autounet.metrics.boundaries import calibration_error, partition_scores, warping_error
from autounet.metrics.lesions import FoundLesion, froc, instance_f1, lesion_scores, overlaps, predicted_lesions
from autounet.metrics.statistics import bootstrap_mean, compare, holm, permutation_p, rank_stability, wilcoxon_p


def boxes(shape, *corners):
    mask = np.zeros(shape, bool)
    for corner, size in corners:
        mask[tuple(slice(c, c + size) for c in corner)] = True
    return mask


def test_lesions_by_hand():
    truth = boxes((20, 20, 20), ((1, 1, 1), 4), ((10, 10, 10), 2), ((16, 1, 1), 3))
    predicted = boxes((20, 20, 20), ((1, 1, 2), 4), ((11, 11, 11), 3), ((1, 15, 15), 2))
    found = lesion_scores(truth, predicted, (1.0, 1.0, 1.0))
    assert (found.true, found.predicted, found.found, found.false) == (3, 3, 2, 1)
    assert_allclose([found.sensitivity, found.precision, found.f1], 2 / 3)
    # Only the first pair has an IoU above one half: 48 of 64 + 64 - 48 voxels.
    assert_allclose(found.panoptic, 0.6 / (1 + 2 / 2 + 2 / 2))


def test_without_lesions_on_one_side_or_both():
    empty, one = np.zeros((5, 5, 5), bool), boxes((5, 5, 5), ((1, 1, 1), 2))
    both = lesion_scores(empty, empty, (1.0, 1.0, 1.0))
    assert np.isnan([both.sensitivity, both.precision, both.f1, both.panoptic]).all()
    missed, invented = lesion_scores(one, empty, (1.0, 1.0, 1.0)), lesion_scores(empty, one, (1.0, 1.0, 1.0))
    assert missed.sensitivity == missed.f1 == missed.panoptic == invented.precision == invented.f1 == invented.panoptic == 0


def test_corners_that_touch_are_one_lesion():
    mask = boxes((6, 6, 6), ((0, 0, 0), 2), ((2, 2, 2), 2))
    assert lesion_scores(mask, mask, (1.0, 1.0, 1.0)).true == 1


def test_instances_are_matched_at_half_their_union():
    truth = np.zeros((1, 10, 10), int)
    truth[0, :4, :4], truth[0, 6:, 6:] = 1, 2
    predicted = np.zeros((1, 10, 10), int)
    predicted[0, :4, :3], predicted[0, 6:, 8:], predicted[0, 0:2, 8:] = 1, 2, 3
    assert_allclose(instance_f1(overlaps(truth, predicted, 2, 3)), 2 * 1 / (2 + 3))


def test_the_froc_by_hand():
    cases = [
        [FoundLesion(0.9, 1), FoundLesion(0.8, 0)],
        [FoundLesion(0.7, 1), FoundLesion(0.6, 2), FoundLesion(0.5, 0), FoundLesion(0.4, 0)],
    ]
    points = dict(froc(cases, 4))
    assert points[0.125] == points[0.25] == 0.25  # no false lesion yet
    assert points[0.5] == 0.75  # one false lesion in two cases
    assert points[1.0] == 0.75
    assert points[8.0] == 0.75


def test_a_predicted_lesion_carries_its_highest_probability_and_what_it_touches():
    truth, predicted = boxes((9, 9, 9), ((1, 1, 1), 2)), boxes((9, 9, 9), ((1, 1, 2), 2), ((6, 6, 6), 1))
    probability = np.where(predicted, 0.6, 0.1)
    probability[1, 1, 2] = 0.9
    assert predicted_lesions(truth, predicted, probability) == [FoundLesion(0.9, 1), FoundLesion(0.6, 0)]


@pytest.mark.parametrize("seed", range(5))
def test_partition_scores_are_those_of_scikit_image(seed):
    rng = np.random.default_rng(seed)
    truth = ndimage.label(ndimage.gaussian_filter(rng.normal(size=(40, 40)), 2) > 0)[0]
    predicted = ndimage.label(ndimage.gaussian_filter(rng.normal(size=(40, 40)), 2) > -0.05)[0] if seed else truth
    found = partition_scores(truth, predicted)
    error, by_truth, by_prediction = adapted_rand_error(truth, predicted)  # scikit-image divides the first by the pairs of the truth
    assert_allclose([found.adapted_rand, found.rand_recall, found.rand_precision], [error, by_truth, by_prediction], atol=1e-12)
    inside = truth != 0
    split, merge = variation_of_information(truth[inside], predicted[inside])
    assert_allclose([found.vi_split, found.vi_merge], [split, merge], atol=1e-9)


def test_the_rand_error_counts_pairs():
    truth, predicted = np.array([1, 1, 1, 2, 2]), np.array([1, 1, 2, 2, 2])
    disagree = sum((truth[i] == truth[j]) != (predicted[i] == predicted[j]) for i in range(5) for j in range(i))
    assert_allclose(partition_scores(truth, predicted).rand_error, disagree / 10)


def test_warping_forgives_a_moved_membrane_but_no_hole():
    truth = np.ones((12, 12), bool)
    truth[:, 5] = False  # a membrane between two cells
    moved = np.ones((12, 12), bool)
    moved[:, 6] = False
    assert warping_error(truth, moved) == 0
    broken = truth.copy()
    broken[6, 5] = True  # the cells merge
    assert_allclose(warping_error(truth, broken), 1 / 144)
    assert warping_error(truth, truth) == 0


def test_calibration_by_hand():
    probabilities, truth = np.array([0.95] * 10 + [0.05] * 10), np.array([True] * 9 + [False] + [True] + [False] * 9)
    assert_allclose(calibration_error(probabilities, truth), 0.05)


def test_intervals_cover_the_mean_in_nineteen_of_twenty_experiments():
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        patients = np.repeat(np.arange(40), 2)
        values = 0.8 + 0.05 * rng.normal(size=40)[patients] + 0.02 * rng.normal(size=80)
        interval = bootstrap_mean(list(values), [str(p) for p in patients], seed=seed, resamples=1000)
        covered += interval.low <= 0.8 <= interval.high
    assert 0.90 <= covered / 200 <= 0.98


def test_two_scans_of_a_patient_do_not_count_as_two_patients():
    rng = np.random.default_rng(0)
    values = list(rng.normal(size=20))
    once = bootstrap_mean(values, [str(i) for i in range(20)])
    tenfold = bootstrap_mean(values * 10, [str(i) for i in range(20)] * 10)
    assert_allclose(tenfold.high - tenfold.low, once.high - once.low, rtol=0.05)


def test_noise_is_called_a_difference_in_at_most_one_of_twenty_comparisons():
    false = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        case = rng.normal(0.8, 0.1, 30)
        a, b = case + 0.02 * rng.normal(size=30), case + 0.02 * rng.normal(size=30)
        found = compare(list(a), list(b), [str(i) for i in range(30)], seed=seed)
        false += max(found.wilcoxon_p, found.permutation_p) < 0.05
    assert false / 200 <= 0.05


def test_a_real_difference_is_found():
    rng = np.random.default_rng(1)
    case = rng.normal(0.8, 0.1, 30)
    found = compare(list(case), list(case + 0.02 + 0.01 * rng.normal(size=30)), [str(i) for i in range(30)])
    assert found.difference.low > 0.01
    assert max(found.wilcoxon_p, found.permutation_p) < 0.001


def test_small_permutation_tests_are_exact():
    differences = np.array([0.1, 0.2, 0.3, 0.4])
    assert permutation_p(differences) == 2 / 16
    assert permutation_p(-differences) == 2 / 16
    assert permutation_p(np.zeros(3)) == 1
    assert wilcoxon_p(np.zeros(3)) == 1
    assert_allclose(wilcoxon_p(differences), stats.wilcoxon(differences, method="exact").pvalue)


def test_holm_by_hand():
    assert_allclose(holm([0.01, 0.04, 0.03, float("nan")]), [0.03, 0.06, 0.06, float("nan")])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_between_the_plain_and_the_bonferroni_value(values):
    for plain, adjusted in zip(values, holm(values), strict=True):
        assert plain - 1e-12 <= adjusted <= min(1.0, plain * len(values)) + 1e-12 or adjusted <= max(holm(values))
        assert adjusted >= plain - 1e-12


def test_a_candidate_that_is_always_best_is_first_in_every_draw():
    assert rank_stability([[0.9] * 10, [0.8] * 10], [str(i) for i in range(10)]) == (1.0, 0.0)
    assert rank_stability([[0.9] * 10, [0.9] * 10], [str(i) for i in range(10)]) == (0.5, 0.5)
