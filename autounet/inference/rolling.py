"""The accumulator: a ring of rows along the sweep axis, as deep as a patch, however long the image is."""

from collections.abc import Iterator

import torch
from torch import Tensor


class RollingAccumulator:
    """Sums of (k, row, y, x); rows leave at the front when no later tile touches them."""

    def __init__(self, heads: int, depth: int, plane_yx: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
        self.depth = depth
        self.first = 0  # rows before this one are gone
        self.last = 0  # rows from this one on have not been touched
        self.sums_krowyx = torch.empty((heads, depth, *plane_yx), dtype=dtype, device=device)

    def reach(self, row: int) -> None:
        """Make room for rows up to `row`, which begin at zero."""
        assert row - self.first <= self.depth, f"rows {self.first} to {row} do not fit in a ring of {self.depth}"
        for ring, _ in self.segments(self.last, row):
            self.sums_krowyx[:, ring] = 0
        self.last = max(self.last, row)

    def add(self, box: tuple[slice, slice, slice], logits_kzyx: Tensor, weight_zyx: Tensor) -> None:
        """Add a tile's weighted logits to the voxels it covers."""
        rows, y, x = box
        for ring, own in self.segments(rows.start, rows.stop):
            self.sums_krowyx[:, ring, y, x].addcmul_(logits_kzyx[:, own], weight_zyx[own])

    def rows(self, start: int, stop: int) -> Iterator[tuple[Tensor, slice]]:
        """The sums of these rows in at most two pieces, with each piece's place among them."""
        for ring, own in self.segments(start, stop):
            yield self.sums_krowyx[:, ring], own

    def release(self, row: int) -> None:
        """Nobody asks for rows before this one any more."""
        self.first = max(self.first, row)

    def segments(self, start: int, stop: int) -> Iterator[tuple[slice, slice]]:
        """Where rows start to stop lie in the ring: it may wrap around once."""
        done = start
        while done < stop:
            at = done % self.depth
            count = min(stop - done, self.depth - at)
            yield slice(at, at + count), slice(done - start, done - start + count)
            done += count
