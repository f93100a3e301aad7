"""The terms a loss can be built from: level in, one number out."""

from collections.abc import Callable

import torch
from torch import Tensor

from autounet.losses.level import Level
from planners.plan import TermKind

SMOOTH = 1e-5  # keeps an absent class that is not predicted at a Dice of 1
TOP_FRACTION = 0.1  # of the voxels, the hardest
FOCUS = 2.0  # exponent of the focal term
FALSE_POSITIVES, FALSE_NEGATIVES = 0.3, 0.7  # what the Tversky term charges for each


def dice(level: Level, batch: bool) -> Tensor:
    """Minus the mean soft Dice, of each class in each sample or of each class in the whole batch."""
    inside, predicted, truth = _scored(level)
    return -_mean_score(level, batch, (2 * inside, predicted + truth))


def tversky(level: Level, batch: bool) -> Tensor:
    """Minus the mean Tversky index: missed voxels cost more than superfluous ones."""
    inside, predicted, truth = _scored(level)
    whole = inside + FALSE_POSITIVES * (predicted - inside) + FALSE_NEGATIVES * (truth - inside)
    return -_mean_score(level, batch, (inside, whole))


def cross_entropy(level: Level, batch: bool) -> Tensor:
    """Mean over the annotated voxels; over regions too where there is no ignore label, as the reference does."""
    if level.labels.regions:
        total, per_voxel = _region_entropy(level), 1 if level.labels.ignore is not None else len(level.labels.regions)
        return total / (level.valid_count * per_voxel).clamp_min(1.0)
    return -level.reduce(level.sums.loglike_b.sum()) / level.valid_count.clamp_min(1.0)


def topk(level: Level, batch: bool) -> Tensor:
    """Mean cross-entropy of the hardest tenth of the voxels."""
    flat = level.cross_entropy_v.flatten()
    return torch.topk(flat, max(1, int(flat.numel() * TOP_FRACTION)), sorted=False).values.mean()


def focal(level: Level, batch: bool) -> Tensor:
    """Cross-entropy that forgets the voxels it is sure of."""
    entropy = level.cross_entropy_v
    return level.reduce(((1 - torch.exp(-entropy)) ** FOCUS * entropy).sum()) / level.valid_count.clamp_min(1.0)


def border_cross_entropy(level: Level, batch: bool) -> Tensor:
    """Cross-entropy that weighs the thin background between touching objects."""
    weight = level.targets.border_weight
    assert weight is not None, "the loader makes border weights when the plan names this term"
    return level.reduce((level.cross_entropy_v * weight).sum()) / level.valid_count.clamp_min(1.0)


def skeleton_recall(level: Level, batch: bool) -> Tensor:
    """Minus the share of each class's skeleton that is predicted; thin structures stay connected."""
    skeleton = level.targets.skeleton
    assert skeleton is not None, "the loader makes skeletons when the plan names this term"
    bones = Level(level.logits, type(level.targets)(classes=skeleton), level.labels, level.reduce)
    inside, _, truth = _scored(bones)
    inside, truth = level.reduce(inside.sum(0)), level.reduce(truth.sum(0))
    there = truth > 0
    return -((inside + SMOOTH) / (truth + SMOOTH))[there].sum() / there.sum().clamp_min(1)


TERMS: dict[TermKind, Callable[[Level, bool], Tensor]] = {
    "dice": dice,
    "cross_entropy": cross_entropy,
    "topk": topk,
    "focal": focal,
    "tversky": tversky,
    "skeleton_recall": skeleton_recall,
    "border_cross_entropy": border_cross_entropy,
}


def _scored(level: Level) -> tuple[Tensor, Tensor, Tensor]:
    """Inside, predicted and true sums (b, k) of what is scored: every region, or every class but the background."""
    first = 0 if level.labels.regions else 1
    return level.sums.inside_bk[:, first:], level.sums.predicted_bk[:, first:], level.truth_bk[:, first:]


def _mean_score(level: Level, batch: bool, ratio: tuple[Tensor, Tensor]) -> Tensor:
    above, below = ratio
    counts = level.scored_bk
    counts = torch.ones_like(above) if counts is None else counts.to(above.dtype)
    if batch:
        above, below = level.reduce((above * counts).sum(0)), level.reduce((below * counts).sum(0))
        counts = (level.reduce(counts.sum(0)) > 0).to(above.dtype)
        return ((above + SMOOTH) / (below + SMOOTH).clamp_min(1e-8) * counts).sum() / counts.sum().clamp_min(1.0)
    score = (above + SMOOTH) / (below + SMOOTH).clamp_min(1e-8)
    return level.reduce((score * counts).sum()) / level.reduce(counts.sum()).clamp_min(1.0)


def _region_entropy(level: Level) -> Tensor:
    if level.targets.annotated_bk is None:
        return level.reduce(level.cross_entropy_v.sum())
    each = torch.nn.functional.binary_cross_entropy_with_logits(level.logits.float(), level.regions.float(), reduction="none")
    counts = level.scored_bk
    assert counts is not None
    weight = level.valid[:, None] * counts.view(*counts.shape, *(1,) * (each.ndim - 2))
    return level.reduce((each * weight).sum())
