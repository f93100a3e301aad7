"""The sums a loss is made of, without one-hot targets or a second copy of the class scores.

Dice, Tversky and cross-entropy over a softmax need three things of each sample: how much of each class
was predicted, how much of that lies where it should, and the log of the probability of the truth.
All three are gathered in one walk over blocks of voxels, and the backward pass walks again: what is kept
for it is the logits themselves. With 60 classes this is a small part of the memory of the plain formula.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

BLOCK_VALUES = 1 << 21  # scores of one block of voxels: 8 MB in float32, which stays in the cache of a server's core


class ClassSums(NamedTuple):
    """Per sample b and class k; the log-likelihood per sample."""

    inside_bk: Tensor  # predicted probability summed over the voxels of the class
    predicted_bk: Tensor  # predicted probability summed over all valid voxels
    loglike_b: Tensor  # log of the probability of the true class, summed over valid voxels


def softmax_sums(logits: Tensor, target: Tensor) -> ClassSums:
    """Of logits (b, k, ...) and class indices (b, ...), where an index outside 0..k-1 is no voxel at all."""
    if not (logits[0].is_contiguous() or logits[0].movedim(0, -1).is_contiguous()):
        logits = logits.contiguous()  # the blocks below have to be views
    return ClassSums(*_SoftmaxSums.apply(logits, target))  # type: ignore[no-untyped-call]


def truth_sums(target: Tensor, classes: int) -> Tensor:
    """Voxels of each class in each sample: (b, k)."""
    rows = []
    for sample in target:
        flat = sample.reshape(-1).long()
        valid = (flat >= 0) & (flat < classes)
        rows.append(torch.bincount(torch.where(valid, flat, classes), minlength=classes + 1)[:classes])
    return torch.stack(rows).float()


class _SoftmaxSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(logits, target)
        batch, classes = logits.shape[:2]
        inside = logits.new_zeros((batch, classes), dtype=torch.float32)
        predicted, loglike = torch.zeros_like(inside), logits.new_zeros(batch, dtype=torch.float32)
        for sample, scores_kv, truth_v, _ in _blocks(logits, target):
            # Two cells behind the last class take what is no voxel, so that nothing has to be picked out.
            valid = truth_v < classes
            log_kv = torch.log_softmax(scores_kv.float(), 0)
            at_truth = log_kv.gather(0, torch.where(valid, truth_v, 0)[None])[0] * valid
            loglike[sample] += at_truth.sum()
            kept = torch.where(valid, at_truth.exp(), 0.0)
            inside[sample] += logits.new_zeros(classes + 1, dtype=torch.float32).scatter_add_(0, truth_v, kept)[:classes]
            predicted[sample] += log_kv.exp_() @ valid.float()
        return inside, predicted, loglike

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        logits, target = ctx.saved_tensors
        grad_inside, grad_predicted, grad_loglike = gradients
        classes = logits.shape[1]
        result = torch.empty_like(logits)
        for sample, scores_kv, truth_v, place_kv in _blocks(logits, target, result):
            valid = truth_v < classes
            safe = torch.where(valid, truth_v, 0)[None]
            p_kv = torch.softmax(scores_kv.float(), 0)
            # d(sum)/d(logit_j) = p_j (g_j - sum_k p_k g_k) with g the derivative after each probability,
            # which is one constant a class, plus one more at the class of the voxel.
            extra_v = grad_inside[sample][safe[0]]
            at_truth_v = p_kv.gather(0, safe)[0]
            mean_v = grad_predicted[sample] @ p_kv + extra_v * at_truth_v
            pull_v = extra_v * at_truth_v + grad_loglike[sample]
            p_kv.mul_(grad_predicted[sample][:, None] - mean_v - grad_loglike[sample])
            p_kv.scatter_add_(0, safe, pull_v[None])
            place_kv.copy_(p_kv.mul_(valid))
        return result, None


def _blocks(logits: Tensor, target: Tensor, result: Tensor | None = None) -> Any:
    """Views (k, v) of each sample's logits, with the flat truth, and of the place of the result."""
    batch, classes = logits.shape[:2]
    step = max(1, BLOCK_VALUES // classes)
    for sample in range(batch):
        scores_kv = _flat(logits[sample])
        place_kv = scores_kv if result is None else _flat(result[sample])
        truth_v = target[sample].reshape(-1).long()
        truth_v = torch.where((truth_v >= 0) & (truth_v < classes), truth_v, classes)
        for start in range(0, truth_v.shape[0], step):
            part = slice(start, start + step)
            yield sample, scores_kv[:, part], truth_v[part], place_kv[:, part]


def _flat(scores: Tensor) -> Tensor:
    """(k, ...) to (k, v), a view in both memory layouts."""
    if scores.is_contiguous():
        return scores.view(scores.shape[0], -1)
    return scores.movedim(0, -1).view(-1, scores.shape[0]).t()
