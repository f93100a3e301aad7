"""How good a mask without truth probably is: the Dice that the networks expect of it, read off a rising curve of held-out cases.

The curve is the monotone least-squares fit (pool adjacent violators). How far below and above it cases lie is measured on
folds that had no part in fitting it, and widened for few cases (the conformal rank), so the interval covers what it says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, isnan

import numpy as np
from numpy.typing import NDArray

from autounet.store.selection import Expectation

LEAST_CASES = 10
COVERAGE, LOOK_QUANTILE = 0.9, 0.1
KNOTS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """Of one mask."""

    dice: float
    low: float
    high: float
    look: bool  # its lower bound is below what most held-out cases reached


def fit_expectation(expected: Sequence[float], dice: Sequence[float], parts: Sequence[int]) -> Expectation | None:
    """From held-out cases, and the fold of each; None when they are too few to say anything."""
    kept = [i for i, (e, d) in enumerate(zip(expected, dice, strict=True)) if not isnan(e) and not isnan(d)]
    if len(kept) < LEAST_CASES:
        return None
    x, y = np.array([expected[i] for i in kept]), np.array([dice[i] for i in kept])
    part = np.array([parts[i] for i in kept])
    if len(np.unique(part)) < 2:
        part = np.arange(len(kept)) % 5
    residuals = np.empty(len(kept))
    for number in np.unique(part):
        own = part == number
        residuals[own] = y[own] - np.interp(x[own], *knots(x[~own], y[~own]))
    tail = (1 - COVERAGE) / 2
    level = float(np.quantile(y, LOOK_QUANTILE))
    places, heights = knots(x, y)
    return Expectation(
        expected=tuple(float(f"{v:.6g}") for v in places),
        dice=tuple(float(f"{v:.6g}") for v in heights),
        below=-_reach(-residuals, tail),
        above=_reach(residuals, tail),
        lowest=float(x.min()),
        coverage=COVERAGE,
        look_below=level,
        look_quantile=LOOK_QUANTILE,
        cases=len(kept),
    )


def guess(expectation: Expectation, expected: float) -> Guess:
    """What the curve says of a new mask, with an interval."""
    dice = float(np.clip(np.interp(expected, expectation.expected, expectation.dice), 0, 1))
    low, high = max(0.0, dice + expectation.below), min(1.0, dice + expectation.above)
    if expected < expectation.lowest:  # the networks trust it less than any held-out case
        low = 0.0
    return Guess(dice=dice, low=low, high=high, look=low < expectation.look_below)


def knots(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The rising curve: one place a pool, where its cases lie on average, and their mean."""
    order = np.argsort(x, kind="stable")
    pools: list[tuple[float, float, int]] = []  # sums of x and y, and how many
    for index in order:
        pool = (float(x[index]), float(y[index]), 1)
        while pools and pools[-1][1] / pools[-1][2] >= pool[1] / pool[2]:
            before = pools.pop()
            pool = (pool[0] + before[0], pool[1] + before[1], pool[2] + before[2])
        pools.append(pool)
    places, heights = np.array([p[0] / p[2] for p in pools]), np.array([p[1] / p[2] for p in pools])
    if len(places) > KNOTS:
        taken = np.unique(np.linspace(0, len(places) - 1, KNOTS).round().astype(int))
        places, heights = places[taken], heights[taken]
    return places, heights


def _reach(residuals: NDArray[np.float64], tail: float) -> float:
    """The residual that at most this share of new cases exceeds; 1 when there are too few to know."""
    rank = ceil((1 - tail) * (len(residuals) + 1))
    return float(np.sort(residuals)[rank - 1]) if rank <= len(residuals) else 1.0
