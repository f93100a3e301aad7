import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from autounet.metrics.overlap import joint_counts
from autounet.metrics.scores import CaseScores, Scores, TargetScores, as_csv, as_plain, as_reference_summary
from autounet.metrics.statistics import bootstrap_mean
from planners.errors import UserError


def test_counts_by_hand():
    truth = np.array([[[0, 1, 1, 2, 2, 2, 9]]])
    predicted = np.array([[[0, 1, 0, 2, 2, 1, 2]]])
    counts = joint_counts(truth, predicted, ignore=9)
    one, two, region = counts.of([1]), counts.of([2]), counts.of([1, 2])
    assert (one.tp, one.fp, one.fn, one.tn) == (1, 1, 1, 3)
    assert (two.tp, two.fp, two.fn, two.tn) == (2, 0, 1, 3)
    assert (region.tp, region.fp, region.fn, region.tn) == (4, 0, 1, 1)
    assert one.dice == 0.5
    assert_allclose(one.iou, 1 / 3)
    assert_allclose(two.sensitivity, 2 / 3)
    assert two.precision == two.specificity == 1
    assert_allclose(two.f2, 10 / 14)
    assert_allclose(two.volume_error_ml(1500.0), -1.5)
    assert_allclose(two.relative_volume_error, -1 / 3)


def test_empty_cases_follow_the_stated_rules():
    nothing, something = np.zeros((2, 3, 4), np.uint8), np.ones((2, 3, 4), np.uint8)
    both = joint_counts(nothing, nothing).of([1])
    assert np.isnan([both.dice, both.iou, both.sensitivity, both.precision, both.f2, both.relative_volume_error]).all()
    invented = joint_counts(nothing, something).of([1])
    assert invented.dice == invented.iou == invented.precision == 0
    assert np.isnan(invented.sensitivity)


arrays = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).integers(-3, 5, (3, 4, 5)).astype(np.int16))


@given(arrays, arrays)
def test_one_pass_counts_what_masks_count(truth, predicted):
    counts = joint_counts(truth, predicted)
    for values in ([1], [-3], [0, 4], [77]):
        t, p = np.isin(truth, values), np.isin(predicted, values)
        found = counts.of(values)
        assert (found.tp, found.fp, found.fn, found.tn) == ((t & p).sum(), (~t & p).sum(), (t & ~p).sum(), (~t & ~p).sum())


def test_values_far_apart_are_counted_too():
    truth, predicted = np.array([[[0, 100_000, -7]]]), np.array([[[0, 100_000, 3]]])
    counts = joint_counts(truth, predicted, ignore=-7)
    assert counts.of([100_000]).tp == 1
    assert counts.of([3]).fp == 0


def test_different_grids_are_refused():
    with pytest.raises(UserError, match="voxels"):
        joint_counts(np.zeros((2, 2, 2), int), np.zeros((2, 2, 3), int))


def scores():
    first = joint_counts(np.array([[[0, 1, 1, 2]]]), np.array([[[0, 1, 0, 2]]]))
    second = joint_counts(np.array([[[0, 1, 1, 1]]]), np.array([[[0, 1, 1, 1]]]))
    targets = (("a", (1,)), ("b", (2,)))
    cases = tuple(
        CaseScores(case=name, group=name, targets=tuple(TargetScores(name=n, values=v, counts=joint.of(v)) for n, v in targets))
        for name, joint in (("x", first), ("y", second))
    )
    return Scores(cases=(*cases, CaseScores(case="z", problem="there is truth, but no prediction")), targets=targets)


def test_means_leave_out_cases_in_which_a_class_is_nowhere():
    found = scores()
    assert_allclose(found.mean("a"), (2 / 3 + 1) / 2)
    assert found.mean("b") == 1
    assert found.failed_cases == ("z",)


def test_the_summary_has_the_reference_s_keys_and_numbers():
    summary = as_reference_summary(scores())
    assert sorted(summary) == ["foreground_mean", "mean", "metric_per_case"]
    assert_allclose(summary["mean"]["1"]["Dice"], (2 / 3 + 1) / 2)
    assert summary["metric_per_case"][0]["metrics"]["1"] == {
        "Dice": pytest.approx(2 / 3), "FN": 1, "FP": 0, "IoU": 0.5, "TN": 2, "TP": 1, "n_pred": 1, "n_ref": 2,
    }  # fmt: skip
    assert_allclose(summary["foreground_mean"]["Dice"], ((2 / 3 + 1) / 2 + 1) / 2)


def test_the_long_table_says_by_which_definition_each_number_was_made():
    lines = as_csv(scores()).splitlines()
    assert lines[0] == "case,patient,target,metric,definition,value,problem"
    assert "x,x,a,iou,iou-v1,0.5," in lines
    assert "y,y,b,dice,dice-v1,," in lines
    assert lines[-1] == 'z,,,,,,"there is truth, but no prediction"'
    assert as_plain(scores())["cases"][1]["metrics"]["b"]["dice"] is None


def test_a_mean_has_its_interval_over_patients_in_the_file_and_in_the_line():
    found = scores()
    interval = bootstrap_mean([2 / 3, 1.0], ["x", "y"])
    assert as_plain(found)["interval"]["a"]["dice"] == [interval.low, interval.high]
    assert set(as_plain(found)["interval"]["b"].values()) == {None}  # one case tells nothing
    assert found.lines()[1] == f"  a: Dice 0.8333 ({interval.low:.4f} to {interval.high:.4f}) over 2 cases"
    assert found.lines()[2] == "  b: Dice 1.0000 over 1 case"
