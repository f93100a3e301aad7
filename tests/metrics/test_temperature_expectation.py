"""Honest probabilities and honest guesses, on simulated cases whose truth is drawn from what is claimed."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from autounet.inference.temper import temper
from autounet.metrics.expectation import fit_expectation, guess, knots
from autounet.metrics.opinions import Expected, Sample, expected_dice
from autounet.metrics.temperature import best_temperature, fit_temperature, nll, probabilities, voxels_of
from autounet.store.selection import Expectation
from planners.labels import LabelClass, Labels, Region

LABELS = Labels(classes=tuple(LabelClass(name=n, value=v) for n, v in (("background", 0), ("liver", 1), ("tumour", 7))))
REGIONS = Labels(
    classes=(LabelClass(name="background", value=0), LabelClass(name="rim", value=1), LabelClass(name="core", value=2)),
    regions=(Region(name="whole", values=(1, 2), paint=1), Region(name="inner", values=(2,), paint=2)),
)


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def said(seed, sharpness, voxels=256):
    """Truth drawn from honest probabilities; what is said is `sharpness` times as sure."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(voxels, 3))
    truth = (softmax(logits).cumsum(1) > rng.random((voxels, 1))).argmax(1)
    return Sample(truth=tuple(truth.tolist()), shares=tuple(map(tuple, softmax(sharpness * logits).tolist())))


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 2.5])
def test_the_temperature_undoes_how_much_too_sure_a_network_is(sharpness):
    samples = [said(seed, sharpness) for seed in range(40)]
    fitted = fit_temperature(samples, [n % 5 for n in range(40)], LABELS)
    assert_allclose(fitted.temperature, sharpness, rtol=0.06)
    found = fitted.calibration
    assert found is not None
    assert found.voxels == 40 * 256
    if sharpness != 1:
        assert found.nll_after < found.nll_before - 0.01
        assert found.ece_after < 0.02 < found.ece_before


def test_likelihoods_by_hand():
    sample = Sample(truth=(0, 2), shares=((0.5, 0.25, 0.25), (0.2, 0.2, 0.6)))
    voxels = voxels_of([sample], LABELS)
    assert_allclose(nll(probabilities(voxels.logits_nk, True), voxels.truth_nk, True), -np.log([0.5, 0.6]).mean())
    halved = probabilities(voxels.logits_nk / 0.5, True)  # a temperature of one half squares the odds
    assert_allclose(halved[0], np.array([4, 1, 1]) / 6)


def test_regions_are_calibrated_each_for_itself():
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(4000, 2))
    inner = rng.random(4000) < 1 / (1 + np.exp(-logits[:, 1]))
    whole = inner | (rng.random(4000) < 1 / (1 + np.exp(-logits[:, 0])))
    number = np.where(inner, 2, np.where(whole, 1, 0))
    voxels = voxels_of([Sample(truth=tuple(number.tolist()), shares=tuple(map(tuple, (1 / (1 + np.exp(-3 * logits))).tolist())))], REGIONS)
    assert voxels.truth_nk.tolist() == np.stack([number > 0, number == 2], 1).tolist()
    assert 2 < best_temperature(voxels) < 5


def test_too_few_voxels_change_nothing():
    fitted = fit_temperature([said(0, 3.0, voxels=50)], [0], LABELS)
    assert (fitted.temperature, fitted.calibration) == (1.0, None)


@pytest.mark.parametrize("regions", [False, True])
def test_maps_are_tempered_in_place_and_keep_their_winner(regions):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 40, 50, 60)).astype(np.float32)
    shares = 1 / (1 + np.exp(-logits)) if regions else np.moveaxis(softmax(np.moveaxis(logits, 0, -1)), -1, 0).copy()
    expected = 1 / (1 + np.exp(-logits / 2)) if regions else np.moveaxis(softmax(np.moveaxis(logits / 2, 0, -1)), -1, 0)
    before = shares.copy()
    temper(shares, 2.0, softmax=not regions)
    assert_allclose(shares, expected, atol=1e-5)
    assert ((shares > 0.5) == (before > 0.5)).all() if regions else (shares.argmax(0) == before.argmax(0)).all()


def test_the_expected_dice_by_hand():
    seen = (Expected(both=80, predicted=100, true=100), Expected(both=10, predicted=20, true=20), Expected(both=0, predicted=0, true=3))
    assert_allclose(expected_dice(seen), (0.8 + 0.5) / 2)
    assert expected_dice(seen[2:]) == 0


def test_the_curve_pools_what_does_not_rise():
    places, heights = knots(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.1, 0.5, 0.3, 0.9]))
    assert_allclose(places, [1, 2.5, 4])
    assert_allclose(heights, [0.1, 0.4, 0.9])


@pytest.mark.parametrize("cases", [25, 60, 200])
def test_intervals_of_new_masks_cover_what_they_say(cases):
    inside, total = 0, 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        expected = rng.uniform(0.5, 0.98, cases + 50)
        dice = np.clip(expected**2 + 0.05 * rng.normal(size=cases + 50), 0, 1)
        expectation = fit_expectation(list(expected[:cases]), list(dice[:cases]), [n % 5 for n in range(cases)])
        assert expectation is not None
        for x, y in zip(expected[cases:], dice[cases:], strict=True):
            told = guess(expectation, x)
            inside += told.low <= y <= told.high
            total += 1
    assert 0.88 <= inside / total <= 0.98


def test_bad_masks_are_named_and_most_good_ones_are_not():
    rng = np.random.default_rng(0)
    expected = rng.uniform(0.3, 0.98, 200)
    dice = np.clip(expected + 0.03 * rng.normal(size=200), 0, 1)
    expectation = fit_expectation(list(expected[:100]), list(dice[:100]), [n % 5 for n in range(100)])
    assert expectation is not None
    flagged = np.array([guess(expectation, x).look for x in expected[100:]])
    bad = dice[100:] < expectation.look_below
    assert flagged[bad].mean() > 0.9
    assert flagged[dice[100:] > 0.6].mean() < 0.05


def test_few_cases_say_that_they_know_little():
    expected, dice = list(np.linspace(0.5, 0.9, 12)), list(np.linspace(0.5, 0.9, 12))
    expectation = fit_expectation(expected, dice, [n % 5 for n in range(12)])
    assert expectation is not None
    told = guess(expectation, 0.7)
    assert (told.low, told.high) == (0.0, 1.0)
    assert fit_expectation(expected[:9], dice[:9], list(range(9))) is None


def test_nothing_is_promised_beyond_the_curve():
    expectation = Expectation(expected=(0.5, 0.9), dice=(0.4, 0.8), below=-0.1, above=0.1, look_below=0.6)
    assert_allclose([guess(expectation, x).dice for x in (0.1, 0.7, 1.0)], [0.4, 0.6, 0.8])
    assert [guess(expectation, x).look for x in (0.7, 0.85)] == [True, False]
    stranger = replace(expectation, lowest=0.5, look_below=0.2)
    assert [(guess(stranger, x).low, guess(stranger, x).look) for x in (0.49, 0.51)] == [(0.0, True), (pytest.approx(0.31), False)]
