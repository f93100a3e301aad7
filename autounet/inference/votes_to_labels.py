"""Logits of a block of native voxels become labels: exactly what resampling everything and then choosing would give."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autounet.inference.forward import entropy
from planners.errors import UserError
from planners.labels import Labels


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
        flat = support_knyx.flatten(1)
        highest = flat.amax(1)
        bar = flat.amin(1).max() if self.softmax else torch.zeros((), device=flat.device)
        keep = highest >= bar if self.softmax else highest > bar
        return None if bool(keep.all()) else keep.nonzero()[:, 0].tolist()

    def labels(self, logits_kn: Tensor, heads: Sequence[int] | None) -> Tensor:
        """Class numbers from the logits of the candidate heads (k, ...)."""
        if self.softmax:
            winner = logits_kn.argmax(0)
            return winner if heads is None else torch.tensor(heads, device=winner.device)[winner]
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
            return probabilities_kn.argmax(0)
        painted = torch.zeros(probabilities_kn.shape[1:], dtype=torch.long, device=probabilities_kn.device)
        for head, number in enumerate(self.paint):
            painted.masked_fill_(probabilities_kn[head] > 0.5, number)
        return painted

    def entropy(self, probabilities_kn: Tensor) -> Tensor:
        """Of the class, or the mean over the regions, in nats."""
        if self.softmax:
            return entropy(probabilities_kn, 0)
        return (entropy(probabilities_kn[None], 0) + entropy(1 - probabilities_kn[None], 0)).mean(0)
