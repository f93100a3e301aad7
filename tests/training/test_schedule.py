import pytest

from autounet.training.schedule import Pace, plateau
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
