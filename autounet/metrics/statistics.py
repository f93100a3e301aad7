"""How sure a number is: intervals over patients, paired tests, and their correction for many comparisons."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

import numpy as np

RESAMPLES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float


def bootstrap_mean(values: Sequence[float], patients: Sequence[str], *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Mean with percentile interval; whole patients are drawn, because scans of one patient are alike."""
    if not len(values):
        return Interval(mean=nan, low=nan, high=nan)
    _, patient = np.unique(np.asarray(patients), return_inverse=True)
    sums, sizes = np.bincount(patient, weights=values), np.bincount(patient)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, 2**22 // len(sums))
    for at in range(0, resamples, step):
        drawn = rng.integers(0, len(sums), (min(step, resamples - at), len(sums)))
        means[at : at + len(drawn)] = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return Interval(mean=float(np.mean(values)), low=float(low), high=float(high))
