"""Labels of one block on a processor, in NumPy: many blocks run side by side on threads, each in the cache of its core.

Torch's own reductions over the first axis take three times as long, and its threads would get in each other's way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autounet.inference.grids import AxisBlock
from autounet.inference.votes_to_labels import Decision, first_of_the_largest

Maps = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class HeadArrays:
    """The last layer, as arrays: logits = weight @ maps + bias."""

    weight_km: Maps
    bias_k: Maps

    def logits(self, maps_mn: Maps, heads: Sequence[int] | None) -> Maps:
        """(m, ...) to (k, ...), of these heads alone."""
        weight, bias = (self.weight_km, self.bias_k) if heads is None else (self.weight_km[heads], self.bias_k[heads])
        logits: Maps = weight @ maps_mn.reshape(len(maps_mn), -1)
        logits += bias[:, None]
        return logits.reshape(len(weight), *maps_mn.shape[1:])


@dataclass(frozen=True, slots=True)
class BlockDecision:
    """How the sums of a block become its labels."""

    decision: Decision
    head: HeadArrays | None  # None: the sums are logits already
    convex: bool  # interpolated values stay between those they are made of

    def label(self, sums_mnyx: Maps, y: AxisBlock, x: AxisBlock) -> NDArray[Any] | int:
        """The class numbers of the block, or the one that it holds alone."""
        sums = np.ascontiguousarray(sums_mnyx)
        heads: Sequence[int] | None = None
        logits: Maps | None = sums if self.head is None else None
        if self.convex:
            logits = sums if self.head is None else self.head.logits(sums, None)
            heads = candidates(logits, self.decision.softmax)
            if heads is not None and (not heads or (len(heads) == 1 and self.decision.softmax)):
                return heads[0] if heads else 0
        if logits is not None and (self.head is None or (y.still and x.still) or len(heads or logits) <= len(sums)):
            return choose(interpolated(logits if heads is None else logits[heads], y, x), heads, self.decision)
        assert self.head is not None, "sums without a head are logits"
        return choose(self.head.logits(interpolated(sums, y, x), heads), heads, self.decision)


def interpolated(values_knyx: Maps, y: AxisBlock, x: AxisBlock) -> Maps:
    """On the native grid of the block."""
    return along(along(values_knyx, x, -1), y, -2)


def along(values_knyx: Maps, block: AxisBlock, axis: int) -> Maps:
    """One axis of it, −1 or −2."""
    moved = values_knyx
    if block.index is not None:
        moved = np.take(values_knyx, block.index.numpy(), axis)
    elif block.matrix is not None and axis == -2:
        moved = np.matmul(block.matrix.numpy(), values_knyx)
    elif block.matrix is not None:
        rows = values_knyx.reshape(-1, values_knyx.shape[-1]) @ block.matrix.numpy().T
        moved = rows.reshape(*values_knyx.shape[:-1], len(block.matrix))
    return moved


def candidates(support_knyx: Maps, softmax: bool) -> Sequence[int] | None:
    """The heads that can win anywhere in a block made of these logits; None when all can.

    A linear interpolation stays between the smallest and the largest value it is made of, so a head whose largest
    is below another's smallest wins nowhere, exactly. A spline may overshoot: then nobody is left out.
    """
    flat = support_knyx.reshape(len(support_knyx), -1)
    highest = flat.max(1)
    keep = highest >= flat.min(1).max() if softmax else highest > 0
    return None if keep.all() else [int(head) for head in np.flatnonzero(keep)]


def choose(logits_knyx: Maps, heads: Sequence[int] | None, decision: Decision) -> NDArray[Any]:
    """Class numbers from the logits of these heads."""
    numbers = range(decision.heads) if heads is None else heads
    if decision.softmax:
        return first_of_the_largest(logits_knyx, numbers)
    painted = np.zeros(logits_knyx.shape[1:], np.min_scalar_type(max(decision.paint)))
    for logits_nyx, head in zip(logits_knyx, numbers, strict=True):
        painted[logits_nyx > 0] = decision.paint[head]
    return painted
