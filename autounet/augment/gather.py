"""Values at points between voxels: every point's cell is found once, and serves images and labels alike.

Maps are taken flat, with a border of "outside", so that a neighbour is a shift of the same list: on a processor
a gather from a list costs a tenth of torch's own three-dimensional sampling.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
import torch
from torch import Tensor

OUTSIDE = -1  # label where there is no volume
TIE = 1e-4  # weights nearer than this are equal
CHUNK = 2**16  # points at a time: the values of their eight neighbours stay in a core's cache
BEFORE, AFTER = 1, 2  # voxels of border
Points = tuple[Tensor, Tensor]  # coordinates along one axis as a sum of two broadcastable maps; the sum is made chunk by chunk
EXACT = 2**24  # whole numbers up to here are exact in float32


@dataclass(frozen=True, slots=True)
class Cells:
    """For each point the lower corner of its cell in a flat padded map, and per axis how far it lies behind it, 0 to 1."""

    index_p: Tensor
    shares_ap: Tensor
    offsets: tuple[int, ...]  # from the lower corner to each corner, last axis fastest

    def of(self, chosen: Tensor) -> "Cells":
        """Those of some points."""
        return Cells(self.index_p.index_select(0, chosen), self.shares_ap.index_select(1, chosen), self.offsets)

    def corners(self, flat: Tensor) -> Tensor:
        """(corner, …, point): what flat maps (…, voxel) hold there."""
        values = torch.empty(len(self.offsets), *flat.shape[:-1], len(self.index_p), dtype=flat.dtype, device=flat.device)
        for corner, offset in enumerate(self.offsets):
            torch.index_select(flat[..., offset:], -1, self.index_p, out=values[corner])
        return values

    def blended(self, values_kp: Tensor) -> Tensor:
        """(…, point): the corners' values, linearly interpolated."""
        for share in reversed(self.shares_ap.unbind(0)):
            values_kp = torch.lerp(values_kp[0::2], values_kp[1::2], share)
        return values_kp[0]

    def weights(self) -> Tensor:
        """(corner, point): of each corner."""
        weights = self.shares_ap.new_ones(1, len(self.index_p))
        for share in self.shares_ap:
            weights = (weights[:, None] * torch.stack((1 - share, share))).flatten(0, 1)
        return weights


def resampled(image: Tensor, labels: Tensor, points: Sequence[Points], shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Images (m, axes…) linearly interpolated, zero outside; labels (n, axes…) by the largest interpolated indicator, -1 outside.

    `points` say per axis which voxel of the maps each voxel of `shape` comes from.
    """
    sizes = tuple(image.shape[1:])
    images, ballots = _bordered(image, 0.0), [_Ballot(flat, _strides(sizes)) for flat in _bordered(labels, OUTSIDE)]
    found = torch.empty(len(image), prod(shape), dtype=image.dtype, device=image.device)
    voted = torch.empty(len(labels), prod(shape), dtype=labels.dtype, device=image.device)
    for here, cells in _chunks(points, sizes, shape):
        for out, flat in zip(found, images, strict=True):
            out[here] = cells.blended(cells.corners(flat))
        for out, ballot in zip(voted, ballots, strict=True):
            ballot.count(out, here, cells)
    for out, ballot in zip(voted, ballots, strict=True):
        ballot.close(out)
    return found.view(-1, *shape), voted.view(-1, *shape)


class _Ballot:
    """One label map: points in cells of one label are told at once, the others wait until there are enough to vote together."""

    def __init__(self, flat: Tensor, strides: tuple[int, ...]) -> None:
        self.flat, self.mark = flat, torch.iinfo(flat.dtype).max - 1
        mixed = _mixed(flat, strides)
        # The mark in mixed cells, else "outside", which is below every label and therefore changes none.
        self.marked = torch.maximum(flat[: len(mixed)], mixed.to(flat.dtype).mul_(self.mark - OUTSIDE).add_(OUTSIDE))
        self.waiting: list[tuple[Tensor, Cells]] = []

    def count(self, out: Tensor, here: slice, cells: Cells) -> None:
        """Fill in what is clear."""
        labels = torch.index_select(self.marked, 0, cells.index_p, out=out[here])
        undecided = _where(labels == self.mark)
        if len(undecided):
            self.waiting.append((undecided + here.start, cells.of(undecided)))
            if sum(len(places) for places, _ in self.waiting) >= CHUNK:
                self.close(out)

    def close(self, out: Tensor) -> None:
        """Let those that waited vote."""
        if self.waiting:
            places, cells = zip(*self.waiting, strict=True)
            together = Cells(torch.cat([c.index_p for c in cells]), torch.cat([c.shares_ap for c in cells], 1), cells[0].offsets)
            out.scatter_(0, torch.cat(places), _vote(self.flat, together))
        self.waiting = []


def _bordered(maps: Tensor, outside: float) -> Tensor:
    """(map, voxel): flat, with a border on all sides."""
    padded = maps.new_full((len(maps), *(size + BEFORE + AFTER for size in maps.shape[1:])), outside)
    padded[(slice(None), *(slice(BEFORE, BEFORE + size) for size in maps.shape[1:]))] = maps
    return padded.flatten(1)


def _strides(sizes: tuple[int, ...]) -> tuple[int, ...]:
    edges = [size + BEFORE + AFTER for size in sizes]
    return tuple(prod(edges[axis + 1 :]) for axis in range(len(edges)))


def _chunks(points: Sequence[Points], sizes: tuple[int, ...], shape: tuple[int, ...]) -> Iterator[tuple[slice, Cells]]:
    """The cells of all points, some rows of the first axis at a time, and where in the flat result they belong."""
    row = prod(shape[1:])
    rows = max(1, CHUNK // row)
    shifted = [(first + BEFORE, last) for first, last in points]
    for start in range(0, shape[0], rows):
        stop = min(start + rows, shape[0])
        yield slice(start * row, stop * row), _cells([_rows(point, start, stop) for point in shifted], (stop - start, *shape[1:]), sizes)


def _rows(point: Points, start: int, stop: int) -> Points:
    first, last = (part if part.shape[0] == 1 else part[start:stop] for part in point)
    return first, last


def _cells(points: Sequence[Points], shape: tuple[int, ...], sizes: tuple[int, ...]) -> Cells:
    at = torch.empty(len(points), prod(shape), device=points[0][0].device)
    for row, (first, last), size in zip(at, points, sizes, strict=True):
        torch.add(first, last, out=row.view(shape))
        row.clamp_(0, size + BEFORE)  # not below 0, and the cell beyond the last voxel is all border
    lower, strides = at.floor(), _strides(sizes)
    total = prod(size + BEFORE + AFTER for size in sizes)
    exact = lower if total < EXACT else lower.double()
    index = exact[-1]
    for row, stride in zip(exact[:-1], strides[:-1], strict=True):
        index = torch.add(index, row, alpha=stride)
    offsets = tuple(
        sum(step * stride for step, stride in zip(steps, strides, strict=True)) for steps in product((0, 1), repeat=len(points))
    )
    return Cells(index.to(torch.int64), at.sub_(lower), offsets)


def _mixed(flat: Tensor, strides: tuple[int, ...]) -> Tensor:
    """At the lower corner of each cell, whether its corners differ. At the end of a row it says nothing of use."""
    differ = flat[1:] != flat[:-1]
    for stride in reversed(strides[:-1]):
        size = len(differ) - stride
        differ = differ[:size] | differ[stride:] | (flat[:size] != flat[stride : stride + size])
    return differ


def _vote(flat: Tensor, cells: Cells) -> Tensor:
    """The label with most weight at each point; between two labels that is one interpolation, and there are seldom more."""
    labels_kp = cells.corners(flat)
    low, high = _tree(torch.minimum, labels_kp), _tree(torch.maximum, labels_kp)
    is_high = labels_kp == high
    share = cells.blended(is_high.float())
    won = torch.add(low, (high - low).mul_(share > 0.5))
    more = _tree(torch.bitwise_or, is_high.logical_or_(labels_kp == low).logical_not_())
    hard = _where(more | ((share - 0.5).abs() < TIE))
    if len(hard):
        won.scatter_(0, hard, _full_vote(labels_kp.index_select(1, hard), cells.of(hard).weights()))
    return won


def _full_vote(labels_kp: Tensor, weights_kp: Tensor) -> Tensor:
    same = labels_kp[:, None] == labels_kp[None]
    # A tie goes to the nearer corner: its own weight decides, not the value of its label.
    score = (same * weights_kp[None]).sum(1).add_(weights_kp, alpha=TIE)
    return labels_kp.gather(0, score.argmax(0, keepdim=True))[0]


def _tree(join: Callable[[Tensor, Tensor], Tensor], values_kp: Tensor) -> Tensor:
    """Over the corners, half by half: each step is one run through memory."""
    while len(values_kp) > 1:
        half = len(values_kp) // 2
        values_kp = join(values_kp[:half], values_kp[half:])
    return values_kp[0]


def _where(mask_p: Tensor) -> Tensor:
    """Indices of what is true; on a processor numpy's search is ten times faster than torch's."""
    if mask_p.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask_p.numpy()))
    return torch.nonzero(mask_p).squeeze(1)
