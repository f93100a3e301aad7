"""One number that makes probabilities honest: every logit is divided by it, fitted by likelihood on voxels of held-out cases.

For probabilities this is p^(1/T), made to sum to 1 again; the largest stays the largest, so no mask changes.
Definitions: `nll-v1` mean negative log-likelihood of the true class (of each region: on or off), nats a voxel;
`ece-v1` see `boundaries`, of the probability of every head but the background's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log

import numpy as np
from numpy.typing import NDArray

from autounet.metrics.boundaries import calibration_error
from autounet.metrics.opinions import Sample
from autounet.store.selection import Calibration
from planners.labels import Labels

LOWEST, HIGHEST = 0.2, 5.0
LEAST_VOXELS = 200
TINY = 1e-7  # below this, float32 probabilities are rounding


@dataclass(frozen=True, slots=True)
class Voxels:
    """What was said of voxels, and what is there."""

    logits_nk: NDArray[np.float64]
    truth_nk: NDArray[np.bool_]  # a column a head
    softmax: bool


@dataclass(frozen=True, slots=True)
class Fitted:
    """The temperature by all cases, and what such a temperature does to folds that had no part in it."""

    temperature: float
    calibration: Calibration | None


def voxels_of(samples: Sequence[Sample], labels: Labels) -> Voxels:
    """All samples together."""
    shares = np.array([row for s in samples for row in s.shares], np.float64).reshape(-1, labels.heads)
    truth = np.array([number for s in samples for number in s.truth], np.int64)
    clipped = np.clip(shares, TINY, 1 - TINY)
    if not labels.regions:
        return Voxels(np.log(clipped), truth[:, None] == np.arange(labels.heads), True)
    values = np.array([c.value for c in labels.classes])[truth]
    inside = np.stack([np.isin(values, region.values) for region in labels.regions], 1)
    return Voxels(np.log(clipped / (1 - clipped)), inside, False)


def fit_temperature(samples: Sequence[Sample], folds: Sequence[int], labels: Labels) -> Fitted:
    """One sample a case, with the fold that held it out. 1 when it gains nothing on folds that had no part in it."""
    sizes = [len(s.truth) for s in samples]
    if sum(sizes) < LEAST_VOXELS:
        return Fitted(1.0, None)
    voxels, fold = voxels_of(samples, labels), np.repeat(np.asarray(folds), sizes)
    after = voxels.logits_nk.copy()
    numbers = np.unique(fold)
    for number in numbers:
        others = fold != number if len(numbers) > 1 else fold == number
        after[fold == number] /= best_temperature(_part(voxels, others))
    before = probabilities(voxels.logits_nk, voxels.softmax)
    mended = probabilities(after, voxels.softmax)
    first = 1 if voxels.softmax else 0
    calibration = Calibration(
        nll_before=nll(before, voxels.truth_nk, voxels.softmax),
        nll_after=nll(mended, voxels.truth_nk, voxels.softmax),
        ece_before=calibration_error(before[:, first:], voxels.truth_nk[:, first:]),
        ece_after=calibration_error(mended[:, first:], voxels.truth_nk[:, first:]),
        voxels=len(fold),
    )
    gained = calibration.nll_after < calibration.nll_before
    return Fitted(best_temperature(voxels) if gained else 1.0, calibration)


def best_temperature(voxels: Voxels) -> float:
    """By golden section on its logarithm; the likelihood has one valley there."""
    ratio = (5**0.5 - 1) / 2
    low, high = log(LOWEST), log(HIGHEST)

    def at(place: float) -> float:
        return nll(probabilities(voxels.logits_nk / exp(place), voxels.softmax), voxels.truth_nk, voxels.softmax)

    left, right = high - ratio * (high - low), low + ratio * (high - low)
    value_left, value_right = at(left), at(right)
    while high - low > 1e-3:
        if value_left <= value_right:
            high, right, value_right = right, left, value_left
            left = high - ratio * (high - low)
            value_left = at(left)
        else:
            low, left, value_left = left, right, value_right
            right = low + ratio * (high - low)
            value_right = at(right)
    return float(f"{exp((low + high) / 2):.4g}")


def probabilities(logits_nk: NDArray[np.float64], softmax: bool) -> NDArray[np.float64]:
    """From logits (or logarithms of probabilities)."""
    if not softmax:
        on: NDArray[np.float64] = 1 / (1 + np.exp(-logits_nk))
        return on
    shares = np.exp(logits_nk - logits_nk.max(1, keepdims=True))
    whole: NDArray[np.float64] = shares / shares.sum(1, keepdims=True)
    return whole


def nll(shares_nk: NDArray[np.float64], truth_nk: NDArray[np.bool_], softmax: bool) -> float:
    """nll-v1."""
    if softmax:
        return float(-np.log(np.clip(shares_nk[truth_nk], TINY, 1)).mean())
    said = np.where(truth_nk, shares_nk, 1 - shares_nk)
    return float(-np.log(np.clip(said, TINY, 1)).mean())


def _part(voxels: Voxels, kept: NDArray[np.bool_]) -> Voxels:
    return Voxels(voxels.logits_nk[kept], voxels.truth_nk[kept], voxels.softmax)
