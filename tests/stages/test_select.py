from dataclasses import replace

import numpy as np

from autounet.metrics.overlap import Counts
from autounet.metrics.scores import CaseScores, Scores, TargetScores
from autounet.stages.select import choose, ensembles_worth_trying
from tests.tiny_models import architecture, configuration, plan_of

FLAT = configuration((1, 16, 16), "2d")
FINE = configuration((8, 8, 8), "3d_fullres", architecture=architecture(3, (8, 16)))
COARSE = configuration((8, 8, 8), "3d_lowres", architecture=architecture(3, (8, 16)), spacing_zyx_mm=(2.0, 2.0, 2.0))
PLAN = replace(plan_of(FLAT, FINE, COARSE), dimensions=3)
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
    keys = [("2d",), ("3d_fullres",), ("3d_lowres",), ("2d", "3d_fullres")]
    for best in keys:
        scored = {key: drawn(0.90 if key == best else 0.85, seed) for seed, key in enumerate(keys)}
        chosen = choose(PLAN, scored, FOLDS, seed=1)
        assert tuple(m.configuration for m in chosen.members) == best
        assert "next" in chosen.why


def test_within_noise_the_simplest_is_chosen_and_it_says_so():
    scored = {("3d_lowres",): drawn(0.9, 1), ("3d_fullres",): drawn(0.9, 2), ("3d_lowres", "3d_fullres"): drawn(0.9008, 3)}
    chosen = choose(PLAN, scored, FOLDS, seed=1)
    assert [m.configuration for m in chosen.members] == ["3d_lowres"]
    assert "within noise" in chosen.why or "next" in chosen.why
    assert all(c.within_noise for c in chosen.candidates)


def test_pure_noise_keeps_the_simplest_in_nearly_all_experiments():
    kept = 0
    for seed in range(40):
        scored = {
            ("3d_lowres",): drawn(0.9, 3 * seed),
            ("3d_fullres",): drawn(0.9, 3 * seed + 1),
            ("3d_lowres", "3d_fullres"): drawn(0.9, 3 * seed + 2),
        }
        kept += [m.configuration for m in choose(PLAN, scored, FOLDS, seed=seed).members] == ["3d_lowres"]
    assert kept >= 38


def test_a_selection_carries_intervals_around_its_scores():
    chosen = choose(PLAN, {("3d_fullres",): drawn(0.9, 1)}, FOLDS, seed=1)
    assert chosen.why.endswith("the only one trained")
    (score,) = chosen.scores
    assert score.low < score.dice < score.high
    assert chosen.cases == 30
    assert "0.9" in chosen.lines("model.aunet")[0]


def test_ensembles_are_tried_only_of_what_saw_the_same_cases():
    scored = {("2d",): drawn(0.9, 1), ("3d_fullres",): drawn(0.8, 2), ("3d_lowres",): drawn(0.7, 3, cases=20)}
    assert ensembles_worth_trying(scored, FOLDS) == [("2d", "3d_fullres")]
    assert ensembles_worth_trying(scored, {**FOLDS, "2d": (0,)}) == []
