"""Overlap of two label maps: one pass over the voxels counts every pair of values, and all metrics follow from the counts.

Definitions (the ids stand beside the numbers in every file):
`dice-v1` 2 TP / (2 TP + FP + FN), NaN when truth and prediction are both empty, 0 when one of them is;
`iou-v1` TP / (TP + FP + FN), empty cases likewise; `sensitivity-v1` TP / (TP + FN), NaN without truth;
`specificity-v1` TN / (TN + FP), NaN when truth is everywhere; `precision-v1` TP / (TP + FP), NaN without prediction;
`f1-v1` is dice-v1; `f2-v1` 5 TP / (5 TP + 4 FN + FP), empty cases as dice-v1;
`volume_error-v1` (predicted − true volume) in ml; `relative_volume_error-v1` the same over the true volume, NaN without truth.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
from numpy.typing import NDArray

from planners.errors import UserError

SLAB = 2**22  # voxels counted at once: small enough to stay close, large enough to be few


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Voxels of one class or region in one case."""

    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def predicted(self) -> int:
        """Voxels of the prediction."""
        return self.tp + self.fp

    @property
    def true(self) -> int:
        """Voxels of the truth."""
        return self.tp + self.fn

    @property
    def dice(self) -> float:
        """dice-v1."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def iou(self) -> float:
        """iou-v1."""
        return _ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def sensitivity(self) -> float:
        """sensitivity-v1."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> float:
        """specificity-v1."""
        return _ratio(self.tn, self.tn + self.fp)

    @property
    def precision(self) -> float:
        """precision-v1."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def f2(self) -> float:
        """f2-v1."""
        return _ratio(5 * self.tp, 5 * self.tp + 4 * self.fn + self.fp)

    def volume_error_ml(self, voxel_mm3: float) -> float:
        """volume_error-v1."""
        return (self.predicted - self.true) * voxel_mm3 / 1000

    @property
    def relative_volume_error(self) -> float:
        """relative_volume_error-v1."""
        return (self.predicted - self.true) / self.true if self.true else nan


@dataclass(frozen=True, slots=True)
class JointCounts:
    """How often each pair of values occurs: rows are true values, columns predicted ones."""

    values: tuple[int, ...]
    pairs: NDArray[np.int64]

    def of(self, values: Sequence[int]) -> Counts:
        """Counts of one class, or of the union of several (a region)."""
        inside = np.isin(self.values, list(values))
        tp = int(self.pairs[np.ix_(inside, inside)].sum())
        fn = int(self.pairs[np.ix_(inside, ~inside)].sum())
        fp = int(self.pairs[np.ix_(~inside, inside)].sum())
        return Counts(tp=tp, fp=fp, fn=fn, tn=int(self.pairs.sum()) - tp - fn - fp)


def joint_counts(truth_zyx: NDArray[np.integer], predicted_zyx: NDArray[np.integer], ignore: int | None = None) -> JointCounts:
    """Count every pair of (true, predicted) values in one pass; voxels whose truth is `ignore` are left out."""
    if truth_zyx.shape != predicted_zyx.shape:
        raise UserError(f"the prediction has {predicted_zyx.shape} voxels, the truth {truth_zyx.shape}", "predict on the grid of the truth")
    truth, predicted = truth_zyx.reshape(-1), predicted_zyx.reshape(-1)
    low = min(int(truth.min(initial=0)), int(predicted.min(initial=0)))
    width = max(int(truth.max(initial=0)), int(predicted.max(initial=0))) - low + 1
    if width > 2**12:
        return _sparse(truth, predicted, ignore)
    total = np.zeros(width * width, np.int64)
    for at in range(0, truth.size, SLAB):
        pair = truth[at : at + SLAB].astype(np.int32)
        if low:
            pair -= low
        pair *= width
        pair += predicted[at : at + SLAB]
        total += np.bincount(pair if not low else pair - low, minlength=width * width)
    pairs = total.reshape(width, width)
    if ignore is not None and 0 <= ignore - low < width:
        pairs[ignore - low] = 0
    return JointCounts(tuple(range(low, low + width)), pairs)


def _sparse(truth: NDArray[np.integer], predicted: NDArray[np.integer], ignore: int | None) -> JointCounts:
    """The same for values that lie far apart."""
    values = np.union1d(np.unique(truth), np.unique(predicted))
    t, p = np.searchsorted(values, truth), np.searchsorted(values, predicted)
    pairs = np.bincount(t * len(values) + p, minlength=len(values) ** 2).reshape(len(values), len(values))
    if ignore is not None:
        pairs[values == ignore] = 0
    return JointCounts(tuple(int(v) for v in values), pairs)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else nan
