"""Resizing a label map: each label's indicator interpolated linearly, the largest share wins, a tie goes to the nearest voxel.

Only the eight voxels around an output centre have a share in it, so the work does not grow with the
number of labels, and where the eight agree there is nothing to do.
"""

from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autounet.arrays.spline import linear, nearest
from planners.errors import UserError
from planners.fingerprint import Triple

Labels = NDArray[Any]
LabelSource = Callable[[int, int], Labels]  # slices start to stop of the first axis, contiguous
TIE = 1e-6  # shares closer than this are equal: sums of float32 weights
LOT = 2**15  # voxels whose eight neighbours are looked at together: they stay in the cache


@dataclass(frozen=True, slots=True)
class AxisNeighbours:
    """Of each output voxel: the neighbours below and above, the share of the upper one, and the nearest."""

    low: NDArray[np.intp]
    high: NDArray[np.intp]
    share: NDArray[np.float32]
    near: NDArray[np.intp]

    @property
    def mixes(self) -> bool:
        """Whether any output lies between two input voxels."""
        return bool((self.low != self.high).any())


def axis_neighbours(size_in: int, size_out: int, order: int) -> AxisNeighbours:
    """Order 1 mixes two neighbours, order 0 takes the nearest; a higher one would give shares below zero."""
    if order not in (0, 1):
        raise UserError(f"label maps cannot be resampled with order {order}", "set label_order to 1, or to 0 for the nearest voxel")
    near = nearest(size_in, size_out)
    if order == 0 or size_in == size_out:
        return AxisNeighbours(near, near, np.zeros(size_out, np.float32), near)
    low, high, share = linear(size_in, size_out)
    return AxisNeighbours(low, high, share, near)


def resample_labels(label_zyx: Labels, shape_zyx: Triple, orders_zyx: Triple, *, threads: int = 1) -> Labels:
    """Resize a label map of any number of labels."""
    out_zyx = np.empty(shape_zyx, label_zyx.dtype)
    axes = tuple(axis_neighbours(label_zyx.shape[axis], shape_zyx[axis], orders_zyx[axis]) for axis in range(3))
    with ThreadPoolExecutor(threads) as pool:
        stream = LabelStream(lambda a, b: np.ascontiguousarray(label_zyx[a:b]), axes, pool=pool, threads=threads)
        for start in range(0, shape_zyx[0], 64):
            stream.rows(start, min(start + 64, shape_zyx[0]), out_zyx[start : start + 64])
    return out_zyx


class LabelStream:
    """Output rows of a label map, in any order."""

    def __init__(self, source: LabelSource, axes: tuple[AxisNeighbours, ...], *, pool: Executor, threads: int) -> None:
        self._source, self._axes, self._pool, self._threads = source, axes, pool, threads
        self._corners = [
            corner for corner in product((0, 1), repeat=3) if all(not up or axis.mixes for up, axis in zip(corner, axes, strict=True))
        ]

    def rows(self, start: int, stop: int, out: Labels) -> None:
        """Write the output slices `start` to `stop` to `out`."""
        step = max(1, min(8, -(-(stop - start) // self._threads)))
        groups = [(a, min(a + step, stop)) for a in range(start, stop, step)]

        def work(group: tuple[int, int]) -> None:
            self._group(*group, out[group[0] - start : group[1] - start])

        for _ in self._pool.map(work, groups) if self._threads > 1 else map(work, groups):
            pass

    def _group(self, start: int, stop: int, out: Labels) -> None:
        z, y, x = self._axes
        low = int(z.low[start])
        slab = self._source(low, int(z.high[stop - 1]) + 1)
        box = _varied(slab)
        if box is None:
            out[...] = slab.flat[0]
            return
        # Where nothing but the corner's value is near, the result is that value.
        (y0, y1), (x0, x1) = (_touching(axis, *span) for axis, span in zip((y, x), box, strict=True))
        out[...] = slab.flat[0]
        near = slab[z.near[start:stop] - low][:, y.near[y0:y1]]
        inner = np.take(near, x.near[x0:x1], axis=2)
        if len(self._corners) > 1:
            mixed = _mixed_cells(slab, tuple(axis.mixes for axis in self._axes))
            there = np.take(mixed[z.low[start:stop] - low][:, y.low[y0:y1]], x.low[x0:x1], axis=2)
            self._settle(slab, (start, low), (y0, x0), np.flatnonzero(there), inner)
        out[:, y0:y1, x0:x1] = inner

    def _settle(self, slab: Labels, first: tuple[int, int], origin_yx: tuple[int, int], where: NDArray[np.intp], inner: Labels) -> None:
        """Decide the voxels whose neighbours differ."""
        flat, result = slab.reshape(-1), inner.reshape(-1)
        (start, low), (_, width, depth) = first, inner.shape
        sizes = (slab.shape[1] * slab.shape[2], slab.shape[2], 1)
        for at in range(0, len(where), LOT):
            lot = where[at : at + LOT]
            row, column = np.divmod(lot, depth)
            plane, row = np.divmod(row, width)
            at_zyx = (plane + start, row + origin_yx[0], column + origin_yx[1])
            base = sum((axis.low[i] * size for axis, i, size in zip(self._axes, at_zyx, sizes, strict=True)), start=-low * sizes[0])
            upper = [axis.share[i] for axis, i in zip(self._axes, at_zyx, strict=True)]
            jumps = [(axis.high[i] - axis.low[i]) * size for axis, i, size in zip(self._axes, at_zyx, sizes, strict=True)]
            result[lot] = self._winners(flat, base, jumps, upper, result[lot])

    def _winners(self, flat: Labels, base: Any, jumps: list[Any], upper: list[Any], near: Labels) -> Labels:
        values, shares = [], []
        for corner in self._corners:
            index, share = base, np.float32(1)
            for axis, up in enumerate(corner):
                if up:
                    index, share = index + jumps[axis], share * upper[axis]
                elif self._axes[axis].mixes:
                    share = share * (1 - upper[axis])
            values.append(flat[index])
            shares.append(share)
        of_near = sum(share * (value == near) for value, share in zip(values, shares, strict=True))
        # With half of everything the nearest label cannot be beaten; only what is left is compared label by label.
        open_ = np.flatnonzero(of_near < 0.5 - TIE)
        if len(open_):
            near[open_] = _largest(np.stack(values)[:, open_], np.stack(shares)[:, open_], near[open_])
        return near


def _largest(values: Labels, shares: NDArray[np.float32], near: Labels) -> Labels:
    """The value with the largest summed share; the nearest one if it has as much, else the smallest that has."""
    totals = np.zeros_like(shares)
    for value, share in zip(values, shares, strict=True):
        totals += share * (values == value)
    best = totals.max(0) - TIE
    leading = totals >= best
    smallest = np.where(leading, values, np.iinfo(values.dtype).max).min(0)
    return np.where((leading & (values == near)).any(0), near, smallest)


def _varied(slab: Labels) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The box (rows, columns) outside which every voxel has the value of the first one."""
    differs = np.zeros(slab.shape[1:], bool)
    for plane in slab:
        differs |= plane != slab.flat[0]
    rows, columns = np.flatnonzero(differs.any(1)), np.flatnonzero(differs.any(0))
    return ((int(rows[0]), int(rows[-1]) + 1), (int(columns[0]), int(columns[-1]) + 1)) if len(rows) else None


def _touching(axis: AxisNeighbours, start: int, stop: int) -> tuple[int, int]:
    """The output voxels that have a neighbour in the input voxels `start` to `stop`."""
    touched = np.flatnonzero((axis.high >= start) & (axis.low < stop))
    return (int(touched[0]), int(touched[-1]) + 1) if len(touched) else (0, 0)


def _mixed_cells(slab: Labels, mixes: tuple[bool, ...]) -> NDArray[np.bool_]:
    """Whether the cell from a voxel to its upper neighbours along the mixing axes holds different labels."""
    mixed = np.zeros(slab.shape, bool)
    if mixes[2]:
        mixed[:, :, :-1] = slab[:, :, :-1] != slab[:, :, 1:]
    if mixes[1]:
        mixed[:, :-1] |= mixed[:, 1:]
        mixed[:, :-1] |= slab[:, :-1] != slab[:, 1:]
    if mixes[0]:
        mixed[:-1] |= mixed[1:]
        mixed[:-1] |= slab[:-1] != slab[1:]
    return mixed
