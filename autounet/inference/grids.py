"""From the network grid to the native grid, one axis at a time, cut into blocks that fit the cache."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autounet.arrays.resample import AxisResize, axis_resize

BLOCK = 64  # native voxels a side: a block's logits of a few classes stay in the cache


@dataclass(frozen=True, slots=True)
class AxisBlock:
    """Native voxels `out`, the network voxels `into` they are made of, and how: by matrix, by index, or as they are."""

    out: slice
    into: slice
    matrix: Tensor | None = None  # (out, in)
    index: Tensor | None = None

    @property
    def still(self) -> bool:
        """Whether the native voxels are the network's."""
        return self.matrix is None and self.index is None

    def apply(self, values: Tensor, axis: int) -> Tensor:
        """Interpolate along `axis` (−1 or −2)."""
        if self.matrix is not None:
            return values @ self.matrix.T if axis == -1 else self.matrix @ values
        return values if self.index is None else values.index_select(axis, self.index)


def axis_blocks(resize: AxisResize, edge: int, device: torch.device) -> tuple[AxisBlock, ...]:
    """All blocks of one axis; whatever network grid they come from, they end at the same native voxels."""
    cuts = [(a, min(a + edge, resize.size_out)) for a in range(0, resize.size_out, edge)]
    if resize.kind == "bands":
        return tuple(_from_matrix(a, b, *_rows(resize, a, b), device) for a, b in cuts)
    return tuple(_from_index(resize, a, b, device) for a, b in cuts)


def block_edges(resizes_yx: Sequence[tuple[AxisResize, AxisResize]]) -> tuple[int, int]:
    """How many native voxels a block has along y and x: rows that are merely copied may be long where there are few of them."""
    copied = all(resize.kind != "bands" for _, resize in resizes_yx)
    return BLOCK, max(BLOCK, BLOCK * BLOCK // min(BLOCK, resizes_yx[0][0].size_out)) if copied else BLOCK


def _from_matrix(start: int, stop: int, low: int, weights: NDArray[np.float32], device: torch.device) -> AxisBlock:
    return AxisBlock(slice(start, stop), slice(low, low + weights.shape[1]), torch.from_numpy(weights).to(device))


def _from_index(resize: AxisResize, start: int, stop: int, device: torch.device) -> AxisBlock:
    if resize.kind == "same":
        return AxisBlock(slice(start, stop), slice(start, stop))
    low, high = resize.reach(start, stop)
    index = torch.from_numpy(resize.index[start:stop] - low).to(device)
    return AxisBlock(slice(start, stop), slice(low, high), index=index)


def _rows(resize: AxisResize, start: int, stop: int) -> tuple[int, NDArray[np.float32]]:
    """First input and the dense weights of output rows start to stop of a banded axis."""
    used = [band for band in resize.bands if band.start < stop and start < band.stop]
    low, high = min(band.low for band in used), max(band.high for band in used)
    weights = np.zeros((stop - start, high - low), np.float32)
    for band in used:
        a, b = max(band.start, start), min(band.stop, stop)
        weights[a - start : b - start, band.low - low : band.high - low] = band.weights[a - band.start : b - band.start]
    columns = np.flatnonzero(weights.any(0))
    keep = slice(int(columns[0]), int(columns[-1]) + 1)
    return low + keep.start, np.ascontiguousarray(weights[:, keep])


class SweepAxis:
    """The sweep axis: which network rows each native row needs, and their mixture."""

    def __init__(self, size_in: int, size_out: int, order: int) -> None:
        self.resize = axis_resize(0, size_in, size_out, order)
        if self.resize.kind == "bands":
            spans = [(low, low + weights.shape[1]) for low, weights in (_rows(self.resize, row, row + 1) for row in range(size_out))]
        else:
            spans = [(int(i), int(i) + 1) for i in self.resize.index]
        self.low = [low for low, _ in spans]
        self.high = np.maximum.accumulate([high for _, high in spans])
        self.kept_below = max(high - low for low, high in spans) + 1
        self.size_out = size_out

    def ready(self, finished: int) -> int:
        """How many native rows can be made of the network rows before `finished`."""
        return int(np.searchsorted(self.high, finished, side="right"))

    def weights(self, start: int, stop: int) -> tuple[int, NDArray[np.float32]]:
        """First network row and the (native, network) weights of native rows start to stop, where rows are mixed."""
        return _rows(self.resize, start, stop)

    def taken(self, start: int, stop: int) -> NDArray[np.intp] | None:
        """The network rows that native rows start to stop are copies of; None where rows are mixed."""
        return None if self.resize.kind == "bands" else self.resize.index[start:stop]
