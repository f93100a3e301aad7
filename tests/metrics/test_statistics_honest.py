"""Verdicts over simulated datasets whose truth is known: how often noise is called a difference, and how often intervals cover."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from autounet.metrics.statistics import bootstrap_mean, by_patient, paired_p, permutation_p, rank_stability
from autounet.metrics.verdict import Result, judge

CASES = 30


def result(name, values):
    """Three targets a case."""
    rows = {f"c{n}": {f"t{k}": float(v) for k, v in enumerate(row)} for n, row in enumerate(values)}
    return Result(name=name, values=rows, patients={case: case for case in rows})


@pytest.mark.slow
@pytest.mark.parametrize("others", [1, 3])
def test_compare_calls_noise_a_difference_in_at_most_one_of_twenty_pairs(others):
    """Three targets and their mean for each of the others: any of them called better is a false alarm."""
    false = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        case = rng.beta(8, 2, (CASES, 3))
        noisy = [np.clip(case + 0.03 * rng.standard_t(3, (CASES, 3)), 0, 1) for _ in range(others + 1)]
        verdict = judge([result(f"r{i}", values) for i, values in enumerate(noisy)], "dice", seed=seed)
        false += any(not row.is_noise for row in verdict.rows)
    assert false / 200 <= 0.05


def test_compare_finds_a_difference_of_two_points():
    found = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        case = rng.beta(8, 2, (CASES, 3)) * 0.9
        verdict = judge([result("a", case), result("b", case + 0.02 + 0.02 * rng.normal(size=case.shape))], "dice", seed=seed)
        (mean, *_) = verdict.rows
        found += not mean.is_noise and mean.comparison.difference.mean > 0
        assert "b is better" in " ".join(verdict.lines()) or mean.is_noise
    assert found >= 38


@pytest.mark.parametrize(("patients", "scans"), [(25, 1), (60, 1), (30, 3)])
def test_intervals_of_skewed_scores_cover_their_mean(patients, scans):
    """Dice is skewed: many good cases, few very bad ones."""
    covered, mean = 0, 8 / 10
    for seed in range(300):
        rng = np.random.default_rng(seed)
        values = np.repeat(rng.beta(8, 2, patients), scans) + 0.01 * rng.normal(size=patients * scans)
        interval = bootstrap_mean(list(values), [str(i // scans) for i in range(len(values))], seed=seed, resamples=1000)
        covered += interval.low <= mean <= interval.high
    assert 0.90 <= covered / 300 <= 0.98


@pytest.mark.parametrize("patients", [3, 4, 5, 8, 40])
def test_few_and_many_patients_alike_call_noise_a_difference_rarely(patients):
    false = sum(paired_p(0.02 * np.random.default_rng(seed).normal(size=patients), 1, seed=seed) <= 0.05 for seed in range(400))
    assert false / 400 <= 0.065  # two standard errors above one of twenty


def test_few_patients_are_tested_by_student_and_others_by_permutation():
    few, many = np.array([0.1, 0.12, 0.11, 0.09]), np.array([0.1, 0.12, 0.11, 0.09, 0.1, 0.13, 0.08])
    assert_allclose(paired_p(few), stats.ttest_1samp(few, 0).pvalue)
    assert paired_p(many) == permutation_p(many)
    assert_allclose(paired_p(many, comparisons=10), stats.ttest_1samp(many, 0).pvalue)  # 2 / 128, ten times, proves nothing
    assert np.isnan(paired_p(np.array([0.3])))
    assert (paired_p(np.zeros(4)), paired_p(np.full(4, 0.1))) == (1.0, 0.0)


def test_patients_have_one_value_each():
    assert_allclose(by_patient([1.0, 3.0, 5.0], ["b", "b", "a"]), [5.0, 2.0])


def test_a_ranking_is_as_stable_as_its_patients_agree():
    rng = np.random.default_rng(0)
    case = rng.normal(0.8, 0.1, 40)
    names = [str(i) for i in range(40)]
    sure = rank_stability([case + 0.05, case, case - 0.05], names)
    assert sure == (1.0, 0.0, 0.0)
    unsure = rank_stability([case + 0.05 * rng.normal(size=40), case + 0.05 * rng.normal(size=40)], names, seed=1)
    assert min(unsure) > 0.02
    assert_allclose(sum(unsure), 1)
    one = rank_stability([[0.9] * 10 + [0.0] * 10, [0.8] * 20], [str(i // 10) for i in range(20)])
    assert_allclose(one[0], 0.25, atol=0.05)  # two patients: only when the first is drawn twice
