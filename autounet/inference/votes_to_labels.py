"""Logits of a block of native voxels become labels: exactly what resampling everything and then choosing would give."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autounet.inference.forward import entropy
from planners.errors import UserError
from planners.labels import Labels


def first_of_the_largest(values_kn: Tensor, numbers: Sequence[int]) -> Tensor:
    """The number of the head with the largest value, the first of them where several tie.

    The same as `argmax`, which on processors takes six times as long as these two vectorised passes.
    """
    heads = len(values_kn)
    kind = torch.uint8 if heads < 256 else torch.int32
    rank = torch.arange(heads, 0, -1, dtype=kind, device=values_kn.device).view(-1, *[1] * (values_kn.ndim - 1))
    highest = ((values_kn == values_kn.amax(0)) * rank).amax(0)
    table = torch.zeros(heads + 1, dtype=torch.uint8 if max(numbers) < 256 else torch.int32, device=values_kn.device)
    table[heads - torch.arange(heads, device=table.device)] = torch.tensor(list(numbers), dtype=table.dtype, device=table.device)
    return table[highest.int()]


@dataclass(frozen=True, slots=True)
class Decision:
    """How logits become class numbers: the largest wins, or regions are painted over each other in order."""

    heads: int
    paint: tuple[int, ...] = ()  # per region the class number written where it is on

    @classmethod
    def of(cls, labels: Labels) -> "Decision":
        """By the label table."""
        numbers = {c.value: number for number, c in enumerate(labels.classes)}
        for region in labels.regions:
            if region.paint not in numbers:
                raise UserError(
                    f"the region {region.name} is painted as {region.paint}, which no class has", "paint it with a class's value"
                )
        return cls(labels.heads, tuple(numbers[r.paint] for r in labels.regions))

    @property
    def softmax(self) -> bool:
        """Exclusive classes."""
        return not self.paint

    def candidates(self, support_knyx: Tensor, convex: bool) -> Sequence[int] | None:
        """The heads that can win anywhere in a block made of these logits; None when all can.

        A linear interpolation stays between the smallest and the largest value it is made of, so a head whose largest
        is below another's smallest wins nowhere, exactly. A spline may overshoot: then nobody is left out.
        """
        if not convex:
            return None
        within = tuple(range(1, support_knyx.ndim))
        highest = support_knyx.amax(within)
        bar = support_knyx.amin(within).max() if self.softmax else torch.zeros((), device=highest.device)
        keep = highest >= bar if self.softmax else highest > bar
        return None if bool(keep.all()) else keep.nonzero()[:, 0].tolist()

    def labels(self, logits_kn: Tensor, heads: Sequence[int] | None) -> Tensor:
        """Class numbers from the logits of the candidate heads (k, ...)."""
        if self.softmax:
            return first_of_the_largest(logits_kn, range(self.heads) if heads is None else heads)
        painted = torch.zeros(logits_kn.shape[1:], dtype=torch.long, device=logits_kn.device)
        for position, head in enumerate(range(self.heads) if heads is None else heads):
            painted.masked_fill_(logits_kn[position] > 0, self.paint[head])
        return painted

    def probabilities(self, logits_kn: Tensor) -> Tensor:
        """Softmax over classes, or a sigmoid a region."""
        return torch.softmax(logits_kn, 0) if self.softmax else torch.sigmoid(logits_kn)

    def of_probabilities(self, probabilities_kn: Tensor) -> Tensor:
        """Class numbers from (mean) probabilities."""
        if self.softmax:
            return first_of_the_largest(probabilities_kn, range(self.heads))
        painted = torch.zeros(probabilities_kn.shape[1:], dtype=torch.long, device=probabilities_kn.device)
        for head, number in enumerate(self.paint):
            painted.masked_fill_(probabilities_kn[head] > 0.5, number)
        return painted

    def entropy(self, probabilities_kn: Tensor) -> Tensor:
        """Of the class, or the mean over the regions, in nats."""
        if self.softmax:
            return entropy(probabilities_kn, 0)
        return (entropy(probabilities_kn[None], 0) + entropy(1 - probabilities_kn[None], 0)).mean(0)
