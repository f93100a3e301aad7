"""Lesion by lesion: what was found, what was missed, what was made up.

Lesions are pieces that touch by face, edge or corner (26 neighbours). Definitions:
`lesion-overlap-v1` a true lesion is found when any predicted voxel lies in it; a predicted lesion is false when it touches
none. Sensitivity is found over true lesions (NaN without any), precision is true over predicted lesions (NaN without any),
F1 their harmonic mean (NaN when both sides are empty, 0 when one is).
`pq-v1` panoptic quality: pairs with an IoU above 0.5, which are unique; sum of their IoU over TP + FP/2 + FN/2.
`froc-v1` sensitivity at 1/8 to 8 false lesions a case, a lesion counting with its highest confidence.
`instances-v1` F1 of objects matched at IoU 0.5, for cells and other countable things.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planners.fingerprint import TripleMm

FROC_AT = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
PQ_IOU = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class LesionScores:
    """Of one class in one case."""

    true: int
    predicted: int
    found: int  # true lesions that were touched
    false: int  # predicted lesions that touch none
    panoptic: float
    smallest_missed_mm3: float = nan

    @property
    def sensitivity(self) -> float:
        """lesion-overlap-v1."""
        return self.found / self.true if self.true else nan

    @property
    def precision(self) -> float:
        """lesion-overlap-v1."""
        return (self.predicted - self.false) / self.predicted if self.predicted else nan

    @property
    def f1(self) -> float:
        """lesion-overlap-v1."""
        if not self.true and not self.predicted:
            return nan
        if not self.true or not self.predicted:
            return 0.0
        both = self.sensitivity + self.precision
        return 2 * self.sensitivity * self.precision / both if both else 0.0

    def rows(self) -> tuple[tuple[str, str, float], ...]:
        """(metric, definition, value)."""
        return (
            ("lesion_sensitivity", "lesion-overlap-v1", self.sensitivity),
            ("lesion_precision", "lesion-overlap-v1", self.precision),
            ("lesion_f1", "lesion-overlap-v1", self.f1),
            ("lesions_missed", "lesion-overlap-v1", float(self.true - self.found)),
            ("lesions_false", "lesion-overlap-v1", float(self.false)),
            ("panoptic_quality", "pq-v1", self.panoptic),
        )


def lesion_scores(truth_zyx: NDArray[np.bool_], predicted_zyx: NDArray[np.bool_], spacing_zyx_mm: TripleMm) -> LesionScores:
    """Pieces of two masks against each other."""
    truth, trues = pieces(truth_zyx)
    predicted, predictions = pieces(predicted_zyx)
    table = overlaps(truth, predicted, trues, predictions)
    found = int((table[1:, 1:].sum(1) > 0).sum())
    false = int((table[1:, 1:].sum(0) == 0).sum())
    return LesionScores(true=trues, predicted=predictions, found=found, false=false, panoptic=panoptic_quality(table))


def pieces(mask_zyx: NDArray[np.bool_]) -> tuple[NDArray[Any], int]:
    """Connected pieces numbered from 1."""
    try:
        import cc3d
    except ImportError:
        from scipy import ndimage

        labelled, count = ndimage.label(mask_zyx, np.ones((3,) * mask_zyx.ndim))
        return np.asarray(labelled), int(count)
    made = cc3d.connected_components(np.ascontiguousarray(mask_zyx), connectivity=26, return_N=True)
    return np.asarray(made[0]), int(made[1])


def overlaps(truth: NDArray[Any], predicted: NDArray[Any], trues: int, predictions: int) -> NDArray[np.int64]:
    """Voxels that true object i (row) and predicted object j (column) share; row and column 0 are background."""
    pair = truth.ravel().astype(np.int64) * (predictions + 1) + predicted.ravel()
    return np.bincount(pair, minlength=(trues + 1) * (predictions + 1)).reshape(trues + 1, predictions + 1)


def ious(table: NDArray[np.int64]) -> NDArray[np.float64]:
    """IoU of every pair of objects, background left out."""
    union = table.sum(1, keepdims=True) + table.sum(0, keepdims=True) - table
    shares: NDArray[np.float64] = table[1:, 1:] / np.maximum(union[1:, 1:], 1)
    return shares


def panoptic_quality(table: NDArray[np.int64]) -> float:
    """pq-v1; NaN when there is nothing on either side."""
    trues, predictions = table.shape[0] - 1, table.shape[1] - 1
    if not trues and not predictions:
        return nan
    shares = ious(table)
    matched = shares > PQ_IOU
    pairs = int(matched.sum())
    return float(shares[matched].sum() / (pairs + (trues - pairs) / 2 + (predictions - pairs) / 2))


def instance_f1(table: NDArray[np.int64], at_iou: float = PQ_IOU) -> float:
    """instances-v1; above an IoU of 0.5 no object can be matched twice."""
    trues, predictions = table.shape[0] - 1, table.shape[1] - 1
    if not trues and not predictions:
        return nan
    pairs = int((ious(table) > at_iou).sum())
    return float(2 * pairs / (trues + predictions))


@dataclass(frozen=True, slots=True)
class FoundLesion:
    """A predicted lesion: how sure the network was, and which true lesion it touches (0: none)."""

    confidence: float
    touches: int


def predicted_lesions(truth_zyx: NDArray[np.bool_], predicted_zyx: NDArray[np.bool_], probability_zyx: NDArray[Any]) -> list[FoundLesion]:
    """Every predicted piece with its highest probability and the true piece it shares most voxels with."""
    truth, trues = pieces(truth_zyx)
    predicted, predictions = pieces(predicted_zyx)
    table = overlaps(truth, predicted, trues, predictions)
    highest = np.zeros(predictions + 1)
    np.maximum.at(highest, predicted.ravel(), probability_zyx.ravel())
    touched = [int(table[1:, j].argmax()) + 1 if trues and table[1:, j].any() else 0 for j in range(1, predictions + 1)]
    return [FoundLesion(float(highest[j + 1]), touched[j]) for j in range(predictions)]


def froc(cases: Sequence[Sequence[FoundLesion]], true_lesions: int) -> tuple[tuple[float, float], ...]:
    """froc-v1: (false lesions a case, sensitivity) at the usual operating points."""
    if not true_lesions or not cases:
        return tuple((at, nan) for at in FROC_AT)
    every = sorted(((lesion, number) for number, case in enumerate(cases) for lesion in case), key=lambda entry: -entry[0].confidence)
    best = dict.fromkeys(FROC_AT, 0.0)
    seen: set[tuple[int, int]] = set()
    false, at = 0, 0
    while at < len(every):
        confidence = every[at][0].confidence
        while at < len(every) and every[at][0].confidence == confidence:  # equally sure ones come together or not at all
            lesion, number = every[at]
            if lesion.touches:
                seen.add((number, lesion.touches))
            else:
                false += 1
            at += 1
        for point in FROC_AT:
            if false / len(cases) <= point:
                best[point] = max(best[point], len(seen) / true_lesions)
    return tuple(best.items())
