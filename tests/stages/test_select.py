from dataclasses import replace

import numpy as np
import pytest

from autounet.metrics.choice import Team, choose, ensembles_worth_trying
from autounet.metrics.overlap import Counts
from autounet.metrics.scores import CaseScores, Scores, TargetScores
from tests.tiny_models import architecture, configuration, plan_of

FLAT = configuration((1, 16, 16), "2d")
FINE = configuration((8, 8, 8), "3d_fullres", architecture=architecture(3, (8, 16)))
COARSE = configuration((8, 8, 8), "3d_lowres", architecture=architecture(3, (8, 16)), spacing_zyx_mm=(2.0, 2.0, 2.0))
PLAN = replace(plan_of(FLAT, FINE, COARSE), dimensions=3)
BOTH = Team(("3d_lowres", "3d_fullres"))
FOLDS = {"2d": (0, 1), "3d_fullres": (0, 1), "3d_lowres": (0, 1)}


def scores_of(dice):
    """Cases whose class 1 has this Dice, by their counts."""
    cases = []
    for number, value in enumerate(dice):
        tp = round(value * 10_000)
        counts = Counts(tp=tp, fp=10_000 - tp, fn=10_000 - tp, tn=10**6)
        cases.append(CaseScores(case=f"c{number}", group=f"p{number}", targets=(TargetScores(name="class_1", values=(1,), counts=counts),)))
    return Scores(cases=tuple(cases), targets=(("class_1", (1,)),))


def drawn(mean, seed, spread=0.005, cases=30):
    difficulty = np.random.default_rng(0).normal(0, 0.03, cases)
    return scores_of(np.clip(mean + difficulty + np.random.default_rng(seed).normal(0, spread, cases), 0, 1))


def test_each_candidate_is_chosen_where_it_is_best():
    keys = [Team(("2d",)), Team(("3d_fullres",)), Team(("3d_lowres",)), Team(("2d", "3d_fullres"))]
    for best in keys:
        scored = {key: drawn(0.90 if key == best else 0.85, seed) for seed, key in enumerate(keys)}
        chosen = choose(PLAN, scored, FOLDS, seed=1)
        assert tuple(m.configuration for m in chosen.members) == best.names
        assert "next" in chosen.why


def test_within_noise_the_simplest_is_chosen_and_it_says_so():
    scored = {Team(("3d_lowres",)): drawn(0.9, 1), Team(("3d_fullres",)): drawn(0.9, 2), BOTH: drawn(0.9008, 3)}
    chosen = choose(PLAN, scored, FOLDS, seed=1)
    assert [m.configuration for m in chosen.members] == ["3d_lowres"]
    assert "within noise" in chosen.why or "next" in chosen.why
    assert all(c.within_noise for c in chosen.candidates)


@pytest.mark.parametrize("spread", [0.005, 0.05])
def test_pure_noise_keeps_the_simplest_in_nineteen_of_twenty_experiments(spread):
    kept = 0
    for seed in range(60):
        scored = {
            Team(("3d_lowres",)): drawn(0.9, 3 * seed, spread),
            Team(("3d_fullres",)): drawn(0.9, 3 * seed + 1, spread),
            BOTH: drawn(0.9, 3 * seed + 2, spread),
        }
        kept += [m.configuration for m in choose(PLAN, scored, FOLDS, seed=seed).members] == ["3d_lowres"]
    assert kept >= 57


def scores_of_two(first, second):
    """Cases with two targets."""
    one, other = scores_of(first), scores_of(second)
    pairs = zip(one.cases, other.cases, strict=True)
    cases = tuple(replace(a, targets=(*a.targets, replace(b.targets[0], name="class_2", values=(2,)))) for a, b in pairs)
    return Scores(cases=cases, targets=(("class_1", (1,)), ("class_2", (2,))))


def test_a_gain_that_is_sure_and_too_small_to_be_seen_is_not_paid_for():
    cheap, dear = Team(("3d_lowres",)), Team(("3d_fullres",))
    before = np.linspace(0.99, 0.998, 30)

    def chosen(first, second):
        scored = {cheap: scores_of_two(before, before), dear: scores_of_two(before + first, before + second)}
        found = choose(PLAN, scored, FOLDS, seed=1)
        assert found.candidates[0].p_against_best < 0.001  # every patient gains
        assert not found.candidates[0].within_noise
        return found

    little = chosen(0.0008, 0.0008)
    assert [m.configuration for m in little.members] == ["3d_lowres"]
    assert little.why.endswith("which gains less than 0.001 in every target and costs more")
    assert [m.configuration for m in chosen(0.0012, 0.0012).members] == ["3d_fullres"]
    assert [m.configuration for m in chosen(0.0, 0.0016).members] == ["3d_fullres"]  # 0.0008 in the mean, but one target gains


def test_a_selection_carries_intervals_around_its_scores():
    chosen = choose(PLAN, {Team(("3d_fullres",)): drawn(0.9, 1)}, FOLDS, seed=1)
    assert chosen.why.endswith("the only one trained")
    (score,) = chosen.scores
    assert score.low < score.dice < score.high
    assert chosen.cases == 30
    assert "0.9" in chosen.lines("model.aunet")[0]


def test_few_patients_who_all_gain_much_are_enough_for_a_larger_network():
    """Five patients cannot be significant by permutation; that every one of them gains ten points is no noise."""
    simple, good = drawn(0.7, 1, cases=5), drawn(0.8, 2, cases=5)
    cheap, dear = Team(("3d_lowres",)), Team(("3d_fullres",))
    assert [m.configuration for m in choose(PLAN, {cheap: simple, dear: good}, FOLDS, seed=1).members] == ["3d_fullres"]
    one = {cheap: drawn(0.78, 1, cases=1), dear: drawn(0.8, 2, cases=1)}
    assert [m.configuration for m in choose(PLAN, one, FOLDS, seed=1).members] == ["3d_lowres"]


def test_equal_weights_are_kept_unless_leaning_is_better_beyond_noise():
    names = ("2d", "3d_fullres")
    even, leaning = Team(names), Team(names, (1.0, 2.0))
    alone = {Team(("2d",)): drawn(0.7, 1), Team(("3d_fullres",)): drawn(0.7, 2)}
    near = choose(PLAN, {**alone, even: drawn(0.9, 3), leaning: drawn(0.9005, 4)}, FOLDS, seed=1)
    assert [m.weight for m in near.members] == [1.0, 1.0]
    far = choose(PLAN, {**alone, even: drawn(0.9, 3), leaning: drawn(0.93, 4)}, FOLDS, seed=1)
    assert [m.weight for m in far.members] == [1.0, 2.0]
    assert "33% 2d + 67% 3d_fullres" in far.why
    assert next(c for c in far.candidates if c.weights == (1.0, 2.0)).first_share == 1.0


def test_the_spread_of_folds_is_said():
    scores = scores_of([0.9, 0.9, 0.7, 0.7])
    chosen = choose(PLAN, {Team(("2d",)): scores}, FOLDS, seed=1, fold_of={"c0": 0, "c1": 0, "c2": 1, "c3": 1})
    assert [(f.fold, f.cases, round(f.dice, 6)) for f in chosen.folds] == [(0, 2, 0.9), (1, 2, 0.7)]


def test_ensembles_are_tried_only_of_what_saw_the_same_cases():
    scored = {Team(("2d",)): drawn(0.9, 1), Team(("3d_fullres",)): drawn(0.8, 2), Team(("3d_lowres",)): drawn(0.7, 3, cases=20)}
    pair = ("2d", "3d_fullres")
    assert ensembles_worth_trying(scored, FOLDS) == [Team(pair), Team(pair, (2.0, 1.0)), Team(pair, (1.0, 2.0))]
    assert ensembles_worth_trying(scored, {**FOLDS, "2d": (0,)}) == []
