"""How well regions are told apart, for membranes, cells and other partitions.

Definitions (labels are objects; the true label 0 is left out, as in ISBI 2012 and scikit-image):
`rand_error-v1` 1 − Rand index: the share of pairs of voxels that one partition joins and the other parts.
`adapted_rand-v1` 1 − F score of Rand precision and recall (SNEMI3D).
`vi_split-v1`, `vi_merge-v1` variation of information in bits: H(prediction | truth), H(truth | prediction).
`warping-v1` voxels that still differ after the truth was warped towards the prediction by flipping simple points,
over all voxels; two-dimensional, foreground joined by faces (4 neighbours), background by corners (8).
`ece-v1` expected calibration error: mean distance of confidence and accuracy over 15 equal bins, weighted by their voxels.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionScores:
    """Of one image."""

    rand_error: float
    adapted_rand: float
    rand_precision: float
    rand_recall: float
    vi_split: float
    vi_merge: float

    def rows(self) -> tuple[tuple[str, str, float], ...]:
        """(metric, definition, value)."""
        return (
            ("rand_error", "rand_error-v1", self.rand_error),
            ("adapted_rand_error", "adapted_rand-v1", self.adapted_rand),
            ("vi_split", "vi_split-v1", self.vi_split),
            ("vi_merge", "vi_merge-v1", self.vi_merge),
        )


def partition_scores(truth: NDArray[np.integer], predicted: NDArray[np.integer]) -> PartitionScores:
    """All of them from one table of joint counts; voxels whose true label is 0 are left out."""
    counted = truth.ravel() != 0
    joint = _joint(truth.ravel()[counted], predicted.ravel()[counted])
    n = float(joint.sum())
    if not n:
        return PartitionScores(rand_error=0.0, adapted_rand=0.0, rand_precision=1.0, rand_recall=1.0, vi_split=0.0, vi_merge=0.0)
    rows, columns = joint.sum(1), joint.sum(0)
    together, true_pairs, predicted_pairs = (float((counts.astype(np.float64) ** 2).sum()) for counts in (joint, rows, columns))
    same, pairs_true, pairs_predicted, pairs = ((s - n) / 2 for s in (together, true_pairs, predicted_pairs, n * n))
    precision, recall = _share(same, pairs_predicted), _share(same, pairs_true)
    f_score = _share(2 * precision * recall, precision + recall)
    share = joint / n
    joint_entropy = _bits(share)
    return PartitionScores(
        rand_error=1 - (pairs + 2 * same - pairs_true - pairs_predicted) / pairs if pairs else 0.0,
        adapted_rand=1 - f_score,
        rand_precision=precision,
        rand_recall=recall,
        vi_split=joint_entropy - _bits(rows / n),
        vi_merge=joint_entropy - _bits(columns / n),
    )


def warping_error(truth_yx: NDArray[np.bool_], predicted_yx: NDArray[np.bool_]) -> float:
    """warping-v1: flips simple points of the truth, those nearest to agreement first, until none is left that helps."""
    warped = np.pad(truth_yx.astype(bool), 1)
    wanted = np.pad(predicted_yx.astype(bool), 1)
    waiting = list(zip(*np.nonzero(warped != wanted), strict=True))
    while waiting:
        kept, flipped = [], False
        for y, x in waiting:
            if _is_simple(warped[y - 1 : y + 2, x - 1 : x + 2]):
                warped[y, x] = wanted[y, x]
                flipped = True
            else:
                kept.append((y, x))
        if not flipped:
            break
        waiting = kept
    return float((warped != wanted).sum() / truth_yx.size)


def calibration_error(probabilities: NDArray[Any], truth: NDArray[np.bool_]) -> float:
    """ece-v1 of the probability of one class."""
    edges = np.clip((probabilities.ravel() * BINS).astype(np.int64), 0, BINS - 1)
    counts = np.bincount(edges, minlength=BINS)
    confidence = np.bincount(edges, probabilities.ravel(), minlength=BINS)
    right = np.bincount(edges, truth.ravel(), minlength=BINS)
    return float(np.abs(confidence - right).sum() / max(counts.sum(), 1))


def _is_simple(around: NDArray[np.bool_]) -> bool:
    """Whether flipping the middle changes no connection: beside it lies one piece of foreground (4) and one of background (8)."""
    ring = [bool(around[y, x]) for y, x in ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))]
    faces = ring[1::2]
    # Runs of foreground around the ring that contain a face neighbour are the 4-connected pieces.
    touching = 0
    for index in range(4):
        here, before, corner = faces[index], faces[index - 1], ring[2 * index]
        if here and not (before and corner):
            touching += 1
    return touching == 1


def _joint(truth: NDArray[np.integer], predicted: NDArray[np.integer]) -> NDArray[np.int64]:
    _, t = np.unique(truth, return_inverse=True)
    _, p = np.unique(predicted, return_inverse=True)
    width = int(p.max(initial=0)) + 1
    height = int(t.max(initial=0)) + 1
    if height * width > 2**26:  # many objects on both sides: count only the pairs that occur
        pairs, counts = np.unique(t.astype(np.int64) * width + p, return_counts=True)
        from scipy import sparse

        return np.asarray(sparse.coo_matrix((counts, (pairs // width, pairs % width)), shape=(height, width)).toarray())
    return np.bincount(t.astype(np.int64) * width + p, minlength=height * width).reshape(height, width)


def _bits(shares: NDArray[Any]) -> float:
    kept = shares[shares > 0]
    return float(-(kept * np.log2(kept)).sum())


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 1.0
