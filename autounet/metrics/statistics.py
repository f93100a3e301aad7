"""How sure a number is: intervals over patients, paired tests, and their correction for many comparisons.

Definitions: `bootstrap-v1` percentile interval of the mean over 10 000 draws of whole patients; `wilcoxon-v1` two-sided
signed-rank test of per-patient differences, zeros split between the signs (Pratt); `permutation-v1` two-sided sign-flip
test of the mean difference, exact up to 12 patients; `holm-v1` step-down correction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import nan

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
SIGNIFICANT = 0.05
EXACT = 12  # patients: 4096 ways to flip their signs


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """B against A on the same cases."""

    difference: Interval  # of the means, B − A
    patients: int
    wilcoxon_p: float
    permutation_p: float


def bootstrap_mean(values: Sequence[float], patients: Sequence[str], *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Mean with percentile interval; whole patients are drawn, because scans of one patient are alike."""
    if not len(values):
        return Interval(mean=nan, low=nan, high=nan)
    sums, sizes = _by_patient(values, patients)
    if len(sums) < 2:  # one patient tells nothing of how others would be
        return Interval(mean=float(np.mean(values)), low=nan, high=nan)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, 2**22 // len(sums))
    for at in range(0, resamples, step):
        drawn = rng.integers(0, len(sums), (min(step, resamples - at), len(sums)))
        means[at : at + len(drawn)] = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return Interval(mean=float(np.mean(values)), low=float(low), high=float(high))


def compare(first: Sequence[float], second: Sequence[float], patients: Sequence[str], *, seed: int = 0) -> Comparison:
    """Paired comparison; cases in which either is not defined are left out."""
    kept = [i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a == a and b == b]
    differences = [second[i] - first[i] for i in kept]
    names = [patients[i] for i in kept]
    sums, sizes = _by_patient(differences, names)
    per_patient = sums / np.maximum(sizes, 1)
    return Comparison(
        difference=bootstrap_mean(differences, names, seed=seed),
        patients=len(per_patient),
        wilcoxon_p=wilcoxon_p(per_patient),
        permutation_p=permutation_p(per_patient, seed=seed),
    )


def wilcoxon_p(differences: NDArray[np.float64]) -> float:
    """wilcoxon-v1; 1 when nothing differs, NaN without patients."""
    from scipy import stats

    if not len(differences):
        return nan
    if not np.any(differences):
        return 1.0
    untied = len(np.unique(np.abs(differences))) == len(differences) and bool(np.all(differences))
    if len(differences) <= 25 and untied:
        return float(stats.wilcoxon(differences, zero_method="pratt", method="exact").pvalue)
    return float(stats.wilcoxon(differences, zero_method="pratt", method="approx").pvalue)


def permutation_p(differences: NDArray[np.float64], *, seed: int = 0, resamples: int = RESAMPLES) -> float:
    """permutation-v1; the observed one is one of the draws, so the value is never 0."""
    count = len(differences)
    if not count:
        return nan
    observed = abs(differences.mean()) - 1e-12
    if count <= EXACT:
        signs = np.array(list(product((-1.0, 1.0), repeat=count)))
        return float((np.abs(signs @ differences / count) >= observed).mean())
    rng = np.random.default_rng(seed)
    kept = rng.integers(0, 2, (resamples, count), dtype=np.int8).astype(np.float64) @ differences
    flipped = np.abs(2 * kept - differences.sum()) / count
    return float(((flipped >= observed).sum() + 1) / (resamples + 1))


def paired_p(differences: NDArray[np.float64], comparisons: int = 1, *, seed: int = 0) -> float:
    """paired-v1: permutation-v1 where so few patients can show anything after the correction for `comparisons`; else Student's t test.

    Five patients who all gain have p = 1/16 by permutation, however much they gain. NaN for one patient.
    """
    count = len(differences)
    if count < 2:
        return nan
    if 2.0 ** (1 - count) * comparisons <= SIGNIFICANT:
        return permutation_p(differences, seed=seed)
    from scipy import special

    spread = differences.std(ddof=1) / np.sqrt(count)
    if spread == 0:
        return 1.0 if differences[0] == 0 else 0.0
    return float(2 * special.stdtr(count - 1, -abs(differences.mean()) / spread))


def by_patient(values: Sequence[float], patients: Sequence[str]) -> NDArray[np.float64]:
    """The mean of each patient."""
    sums, sizes = _by_patient(values, patients)
    means: NDArray[np.float64] = sums / np.maximum(sizes, 1)
    return means


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """holm-v1: adjusted values in the given order; NaN stays."""
    order = sorted((i for i, p in enumerate(p_values) if p == p), key=lambda i: p_values[i])
    adjusted = [nan] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, p_values[index] * (len(order) - rank)))
        adjusted[index] = highest
    return tuple(adjusted)


def rank_stability(
    scores: Sequence[Sequence[float]], patients: Sequence[str], *, seed: int = 0, resamples: int = 1000
) -> tuple[float, ...]:
    """For each candidate, in what share of bootstrap draws over patients it is first (ties share)."""
    table = np.asarray(scores, np.float64)  # (candidate, case)
    names, patient = np.unique(np.asarray(patients), return_inverse=True)
    rng = np.random.default_rng(seed)
    wins = np.zeros(len(table))
    sums = np.stack([np.bincount(patient, weights=row, minlength=len(names)) for row in table])
    for _ in range(resamples):
        drawn = rng.integers(0, len(names), len(names))
        totals = sums[:, drawn].sum(1)
        best = totals >= totals.max() - 1e-12
        wins += best / best.sum()
    return tuple(float(w) for w in wins / resamples)


def _by_patient(values: Sequence[float], patients: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sum and number of each patient's values."""
    _, patient = np.unique(np.asarray(patients), return_inverse=True)
    sums: NDArray[np.float64] = np.bincount(patient, weights=np.asarray(values, np.float64)).astype(np.float64)
    return sums, np.bincount(patient).astype(np.int64)
