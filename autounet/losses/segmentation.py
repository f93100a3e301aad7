"""The loss of a plan: its terms, over the levels of deep supervision."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from autounet.losses.level import Level, Reduce, Targets
from autounet.losses.terms import TERMS
from planners.labels import Labels
from planners.plan import Loss


@dataclass(frozen=True, slots=True)
class TermValue:
    """One term at the finest level, for the records."""

    name: str
    value: Tensor


@dataclass(frozen=True, slots=True)
class LossValue:
    """What to differentiate, and what to write down."""

    total: Tensor
    terms: tuple[TermValue, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentationLoss:
    """Call it with the network's logits (finest first) and the targets."""

    loss: Loss
    labels: Labels
    reduce: Reduce = lambda value: value

    def __call__(self, logits: Tensor | Sequence[Tensor], targets: Targets) -> LossValue:
        """The weighted sum of all terms over all levels whose weight is not zero."""
        levels = [logits] if isinstance(logits, Tensor) else list(logits)
        weights = level_weights(self.loss.level_weights, len(levels))
        total = levels[0].new_zeros(()).float()
        finest: tuple[TermValue, ...] = ()
        for index, (scores, weight) in enumerate(zip(levels, weights, strict=True)):
            if weight == 0:
                continue
            level = Level(scores, targets, self.labels, self.reduce)
            values = tuple(TermValue(t.kind, TERMS[t.kind](level, self.loss.batch_dice)) for t in self.loss.terms)
            finest = values if index == 0 else finest
            for term, value in zip(self.loss.terms, values, strict=True):
                total = total + weight * term.weight * value.value
        return LossValue(total, tuple(TermValue(v.name, v.value.detach()) for v in finest))


def level_weights(planned: Sequence[float], levels: int) -> tuple[float, ...]:
    """One weight a level, sum 1; a level the plan says nothing of has none."""
    weights = [*planned[:levels], *[0.0] * (levels - len(planned))]
    total = sum(weights)
    return tuple(w / total for w in weights) if total > 0 else (1.0, *[0.0] * (levels - 1))
