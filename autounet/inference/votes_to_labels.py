"""Logits of a block of native voxels become labels: exactly what resampling everything and then choosing would give."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autounet.inference.forward import entropy
from planners.errors import UserError
from planners.labels import Labels


def first_of_the_largest(values_kn: NDArray[Any], numbers: Sequence[int]) -> NDArray[Any]:
    """The number of the head with the largest value, the first of them where several tie.

    The same as `argmax`, which over the first axis takes ten times as long as these vectorised passes.
    """
    heads = len(values_kn)
    label: NDArray[Any]
    if heads == 2:  # the most frequent question
        second = np.greater(values_kn[1], values_kn[0]).view(np.uint8)
        label = np.asarray(numbers, np.min_scalar_type(max(numbers))).take(second)
        return label
    kind = np.uint8 if heads < 256 else np.uint16
    flat = values_kn.reshape(heads, -1)
    won = np.equal(flat, np.maximum.reduce(flat, axis=0)).view(np.uint8)
    rank = np.arange(heads, 0, -1, dtype=kind)[:, None]
    best = np.maximum.reduce(np.multiply(won, rank, out=won if kind is np.uint8 else None), axis=0)
    table = np.zeros(heads + 1, np.min_scalar_type(max(numbers)))
    table[heads - np.arange(heads)] = numbers
    label = table.take(best).reshape(values_kn.shape[1:])
    return label


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

    def _largest(self, values_kn: Tensor) -> Tensor:
        if values_kn.device.type == "cpu":
            return torch.from_numpy(first_of_the_largest(values_kn.numpy(), range(self.heads)))
        return values_kn.argmax(0)

    def labels(self, logits_kn: Tensor) -> Tensor:
        """Class numbers from the logits of all heads (k, ...)."""
        if self.softmax:
            return self._largest(logits_kn)
        painted = torch.zeros(logits_kn.shape[1:], dtype=torch.long, device=logits_kn.device)
        for head, number in enumerate(self.paint):
            painted.masked_fill_(logits_kn[head] > 0, number)
        return painted

    def probabilities(self, logits_kn: Tensor) -> Tensor:
        """Softmax over classes, or a sigmoid a region."""
        return torch.softmax(logits_kn, 0) if self.softmax else torch.sigmoid(logits_kn)

    def of_probabilities(self, probabilities_kn: Tensor) -> Tensor:
        """Class numbers from (mean) probabilities."""
        if self.softmax:
            return self._largest(probabilities_kn)
        painted = torch.zeros(probabilities_kn.shape[1:], dtype=torch.long, device=probabilities_kn.device)
        for head, number in enumerate(self.paint):
            painted.masked_fill_(probabilities_kn[head] > 0.5, number)
        return painted

    def entropy(self, probabilities_kn: Tensor) -> Tensor:
        """Of the class, or the mean over the regions, in nats."""
        if self.softmax:
            return entropy(probabilities_kn, 0)
        return (entropy(probabilities_kn[None], 0) + entropy(1 - probabilities_kn[None], 0)).mean(0)
