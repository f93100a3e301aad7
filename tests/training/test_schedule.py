from dataclasses import replace

import pytest

from autounet.training.schedule import Pace, plateau
from autounet.training.state import Progressed, Scored, under
from planners.plan import Schedule

WSD = Schedule(shape="warmup_stable_decay", learning_rate=0.1, warmup_fraction=0.1, decay_fraction=0.2, iterations=100)


def rates(schedule, steps, **more):
    return [Pace(schedule=schedule, **more).rate(step, 0.0) for step in steps]


def test_the_references_schedule_is_its_formula_once_an_epoch():
    plan = Schedule(iterations=250_000, iterations_per_epoch=250)
    assert rates(plan, (0, 249, 250, 125_000)) == pytest.approx([0.01, 0.01, 0.01 * (1 - 1 / 1000) ** 0.9, 0.01 * 0.5**0.9])


def test_the_rate_warms_up_stays_and_falls_to_zero():
    assert rates(WSD, (0, 5, 10, 50, 80, 90, 100)) == pytest.approx([0.01, 0.05, 0.1, 0.1, 0.1, 0.05, 0.0])


def test_with_a_time_budget_the_clock_decides_whatever_the_number_of_steps():
    plan = Schedule(shape="warmup_stable_decay", learning_rate=0.1, decay_fraction=0.5, seconds=60.0, iterations=10)
    pace = Pace(schedule=plan)
    assert pace.rate(5_000, 30.0) == pytest.approx(0.1)
    assert pace.rate(7, 45.0) == pytest.approx(0.05)
    assert not pace.over(10**6, 59.9)
    assert pace.over(3, 60.0)


def test_a_decay_called_early_is_as_long_in_proportion_and_never_cut():
    pace = Pace(schedule=WSD).decay_now(40, 0.0)
    assert pace.end == pytest.approx(0.5)  # 40 steps, then 10: a fifth of the whole
    assert [pace.rate(step, 0.0) for step in (40, 45, 50)] == pytest.approx([0.1, 0.05, 0.0])
    assert pace.over(50, 0.0)
    assert not pace.over(49, 0.0)
    assert pace.decay_now(45, 0.0) == pace


def test_a_plateau_needs_time_and_two_scores_on_either_side():
    rising = tuple((0.1 * i, 0.1 * i) for i in range(1, 9))
    flat = tuple((0.1 * i, min(0.3, 0.1 * i)) for i in range(1, 9))
    assert not plateau(rising)
    assert plateau(flat)
    assert not plateau(flat[:3])


def test_a_decay_that_a_plateau_called_does_not_bind_a_longer_training():
    scored = (Scored(step=20, way=0.2, dice=0.5, targets=()), Scored(step=40, way=0.4, dice=0.5, targets=()))
    told = under(Progressed(recipe="r", execution="e", step=50, scored=scored, decay_from=0.4), WSD)
    assert under(told, WSD) == told  # the same length: the decision stands
    assert Pace(schedule=WSD, decay_from=told.decay_from).over(50, 0.0)
    longer = under(told, replace(WSD, iterations=200))
    assert longer.decay_from is None
    assert [one.way for one in longer.scored] == pytest.approx([0.1, 0.2])
    assert under(longer, WSD).scored[1].way == pytest.approx(0.4)
    by_clock = under(replace(told, seconds=30.0), replace(WSD, seconds=120.0))  # 50 of 100 steps were a quarter of the time
    assert [one.way for one in by_clock.scored] == pytest.approx([0.1, 0.2])
