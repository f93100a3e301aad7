"""Resizing a volume: three small matrices, one an axis, streamed along the first axis.

The three commute, so they run in the cheapest order: what lies before the first axis is done once a
slice, the first axis combines the slices of a window, what lies after it is done on its result.
Memory is one window of slices, whatever the length of the volume.
"""

from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from autounet.arrays.spline import Band, axis_bands, nearest
from autounet.arrays.threads import single_blas_thread
from planners.fingerprint import Triple, TripleMm
from planners.plan import Resampling

Block = NDArray[np.float32]
Source = Callable[[int, int], Block]  # slices start to stop of the first axis, as float32
THICK = 3.0  # spacings further apart than this factor: a spline across the coarse axis would ring over centimetres
SLICE_BYTES = 2**22  # slices worked on at once: they and what becomes of them stay in the processor's cache


@dataclass(frozen=True, slots=True)
class AxisResize:
    """One axis: left alone, gathered by index, or multiplied by a banded matrix."""

    axis: int
    size_in: int
    size_out: int
    kind: Literal["same", "gather", "bands"]
    index: NDArray[np.intp]
    bands: tuple[Band, ...] = ()

    def reach(self, start: int, stop: int) -> tuple[int, int]:
        """The input rows that the output rows `start` to `stop` need."""
        if self.kind != "bands":
            return int(self.index[start]), int(self.index[stop - 1]) + 1
        used = [band for band in self.bands if band.start < stop and start < band.stop]
        return min(band.low for band in used), max(band.high for band in used)

    @property
    def cost(self) -> float:
        """Multiplications per output value."""
        if self.kind != "bands":
            return 0.5
        return sum((band.stop - band.start) * (band.high - band.low) for band in self.bands) / self.size_out


def new_shape(shape: Triple, spacing_mm: TripleMm, target_mm: TripleMm) -> Triple:
    """The grid that covers the same millimetres at another spacing; one slice never becomes none."""
    z, y, x = (max(1, round(old / new * size)) for old, new, size in zip(spacing_mm, target_mm, shape, strict=True))
    return z, y, x


def thick_axis(spacing_mm: TripleMm, target_mm: TripleMm) -> int | None:
    """The axis that is more than three times coarser than another, on the old grid or else the new; none when two tie."""
    for mm in (spacing_mm, target_mm):
        if max(mm) / min(mm) > THICK:
            return mm.index(max(mm)) if mm.count(max(mm)) == 1 else None
    return None


def axis_orders(resampling: Resampling, thick: int | None, order: int) -> Triple:
    """The spline order of each axis."""
    z, y, x = (resampling.thick_axis_order if axis == thick else order for axis in range(3))
    return z, y, x


def axis_resize(axis: int, size_in: int, size_out: int, order: int) -> AxisResize:
    """How one axis is resized with a spline of that order."""
    if size_in == size_out:
        return AxisResize(axis, size_in, size_out, "same", np.arange(size_in))
    if order == 0 or size_in == 1:  # one slice has no neighbours to interpolate between: it is repeated
        return AxisResize(axis, size_in, size_out, "gather", nearest(size_in, size_out))
    return AxisResize(axis, size_in, size_out, "bands", np.empty(0, np.intp), axis_bands(size_in, size_out, order))


def axis_resizes(shape_in: tuple[int, ...], shape_out: Triple, orders_zyx: Triple) -> tuple[AxisResize, AxisResize, AxisResize]:
    """How each of the three axes is resized."""
    z, y, x = (axis_resize(axis, shape_in[axis], shape_out[axis], orders_zyx[axis]) for axis in range(3))
    return z, y, x


def resample_image(image_czyx: NDArray[Any], shape_zyx: Triple, orders_zyx: Triple, *, threads: int = 1) -> NDArray[np.float32]:
    """Resize every channel, clipped to the range it had (a gathered axis: slice by slice)."""
    out_czyx = np.empty((len(image_czyx), *shape_zyx), np.float32)
    with single_blas_thread(), ThreadPoolExecutor(threads) as pool:
        for channel_zyx, out_zyx in zip(image_czyx, out_czyx, strict=True):
            resizes = axis_resizes(channel_zyx.shape, shape_zyx, orders_zyx)

            def source(start: int, stop: int, channel_zyx: NDArray[Any] = channel_zyx) -> Block:
                return np.ascontiguousarray(channel_zyx[start:stop], np.float32)

            stream = Stream(source, resizes, limits_of(channel_zyx, orders_zyx), pool=pool, threads=threads)
            rows = stream.comfortable_rows
            for start in range(0, shape_zyx[0], rows):
                stream.rows(start, min(start + rows, shape_zyx[0]), out_zyx[start : start + rows])
    return out_czyx


@dataclass(frozen=True, slots=True)
class Limits:
    """The range that a resized volume may not leave: of the whole, or of each slice along one axis."""

    low: Block  # one value, or one an input slice of `axis`
    high: Block
    axis: int | None = None


def limits_of(volume_zyx: NDArray[Any], orders_zyx: Triple) -> Limits:
    """The limits of a volume that is in memory."""
    apart = [axis for axis in range(3) if orders_zyx[axis] == 0]
    if len(apart) != 1:
        return Limits(np.array([volume_zyx.min()], np.float32), np.array([volume_zyx.max()], np.float32))
    others = tuple(axis for axis in range(3) if axis != apart[0])
    return Limits(volume_zyx.min(others).astype(np.float32), volume_zyx.max(others).astype(np.float32), apart[0])


class Stream:
    """Output rows of one channel, asked for from first to last."""

    def __init__(
        self, source: Source, resizes: tuple[AxisResize, AxisResize, AxisResize], limits: Limits | None, *, pool: Executor, threads: int
    ) -> None:
        self._resizes, self._limits, self._pool, self._threads = resizes, limits, pool, threads
        self._first, self._source = _wanted_slices(resizes[0], source)
        self._before, self._after = cheapest_order((self._first, *resizes[1:]))
        shape = [resize.size_in for resize in resizes]
        for resize in self._before:
            shape[resize.axis] = resize.size_out
        self._plane = (shape[1], shape[2])
        self._ring = np.empty((0, *self._plane), np.float32)
        self._held = (0, 0)  # the input slices that lie in the ring, from its start

    @property
    def comfortable_rows(self) -> int:
        """Output rows to ask for at once when nothing else decides: few enough to stay small, more than the window's overlap."""
        plane = 4 * self._resizes[1].size_out * self._resizes[2].size_out
        return int(np.clip(2**24 // plane, 16, 128))

    def rows(self, start: int, stop: int, out: Block) -> None:
        """Write the output slices `start` to `stop` to `out`."""
        low, high = self._first.reach(start, stop)
        window = self._load(low, high)
        if not self._after:
            self._across(window, low, start, stop, out)
        else:
            mixed = np.empty((stop - start, *self._plane), np.float32)
            self._across(window, low, start, stop, mixed)
            self._parallel(stop - start, mixed.shape[1:], lambda a, b: _in_plane(mixed[a:b], self._after, out[a:b]))
        if self._limits is not None:
            self._clip(self._limits, start, stop, out)

    def _load(self, low: int, high: int) -> Block:
        """The slices `low` to `high`, everything done that is done before the first axis."""
        at, end = self._held
        kept = max(0, end - max(low, at))
        if high - low > len(self._ring):
            grown = np.empty((high - low + 8, *self._plane), np.float32)
            grown[:kept] = self._ring[max(low, at) - at : end - at]
            self._ring = grown
        elif high - at > len(self._ring):
            self._ring[:kept] = self._ring[max(low, at) - at : end - at].copy() if kept else self._ring[:0]
        else:
            low_kept = at  # nothing moves: the new slices go behind the old
            self._fill(max(end, low), high, low_kept)
            self._held = (low_kept, max(end, high))
            return self._ring[low - low_kept : high - low_kept]
        self._fill(low + kept, high, low)
        self._held = (low, high)
        return self._ring[: high - low]

    def _fill(self, start: int, stop: int, base: int) -> None:
        def load(a: int, b: int) -> None:
            _in_plane(self._source(start + a, start + b), self._before, self._ring[start + a - base : start + b - base])

        self._parallel(stop - start, (self._resizes[1].size_in, self._resizes[2].size_in), load)

    def _across(self, window: Block, low: int, start: int, stop: int, out: Block) -> None:
        """The first axis, on columns of the window."""
        first = self._first
        if first.kind != "bands":
            for row in range(start, stop):
                out[row - start] = window[first.index[row] - low]
            return
        flat, target = window.reshape(len(window), -1), out.reshape(len(out), -1)
        step = max(1024, -(-SLICE_BYTES // 8 // (len(window) + len(out))))

        def combine(a: int) -> None:
            for band in first.bands:
                x, y = max(band.start, start), min(band.stop, stop)
                if x < y:
                    weights = band.weights[x - band.start : y - band.start]
                    np.matmul(
                        weights, flat[band.low - low : band.high - low, a : a + step], out=target[x - start : y - start, a : a + step]
                    )

        _drain(self._pool.map(combine, range(0, flat.shape[1], step)) if self._threads > 1 else map(combine, range(0, flat.shape[1], step)))

    def _clip(self, limits: Limits, start: int, stop: int, out: Block) -> None:
        low, high = limits.low, limits.high
        if limits.axis is not None:
            index = self._resizes[limits.axis].index
            index = index[start:stop] if limits.axis == 0 else index
            shape = [1, 1, 1]
            shape[limits.axis] = -1
            low, high = low[index].reshape(shape), high[index].reshape(shape)
        if low.size == 1:
            low, high = low.reshape(()), high.reshape(())  # a scalar bound runs vectorised
        np.clip(out, low, high, out=out)

    def _parallel(self, count: int, plane: tuple[int, ...], work: Callable[[int, int], None]) -> None:
        """`work(start, stop)` on groups of slices that fit the cache."""
        step = max(1, SLICE_BYTES // (4 * plane[0] * plane[1]))  # whatever the threads: the same products give the same bits
        groups = [(a, min(a + step, count)) for a in range(0, count, step)]
        if self._threads > 1 and len(groups) > 1:
            _drain(self._pool.map(lambda group: work(*group), groups))
        else:
            for group in groups:
                work(*group)


def cheapest_order(resizes: tuple[AxisResize, ...]) -> tuple[tuple[AxisResize, ...], tuple[AxisResize, ...]]:
    """Which axes to resize before the first one and which after it, each in order."""

    def cost(order: tuple[AxisResize, ...]) -> float:
        shape, total = [resize.size_in for resize in resizes], 0.0
        for resize in order:
            shape[resize.axis] = resize.size_out
            total += resize.cost * float(np.prod(shape, dtype=float))
        return total

    best = min(permutations(resizes), key=cost)
    at = best.index(resizes[0])
    busy = [tuple(r for r in part if r.kind != "same") for part in (best[:at], best[at + 1 :])]
    return busy[0], busy[1]


def _wanted_slices(first: AxisResize, source: Source) -> tuple[AxisResize, Source]:
    """Leave out the slices that a gathered first axis skips, before any work is done on them."""
    wanted = np.unique(first.index)
    if first.kind != "gather" or len(wanted) == first.size_in:
        return first, source

    def picked(start: int, stop: int) -> Block:
        return np.concatenate([source(z, z + 1) for z in wanted[start:stop].tolist()])

    return replace(first, size_in=len(wanted), index=np.searchsorted(wanted, first.index)), picked


def _in_plane(block: Block, resizes: tuple[AxisResize, ...], out: Block) -> None:
    """Resize the last two axes of some slices."""
    for step, resize in enumerate(resizes):
        shape = (len(block), *(resize.size_out if axis == resize.axis else block.shape[axis] for axis in (1, 2)))
        target = out if step == len(resizes) - 1 else np.empty(shape, np.float32)
        _along(block, resize, target)
        block = target
    if not resizes:
        out[...] = block


def _along(block: Block, resize: AxisResize, out: Block) -> None:
    if resize.kind == "gather":
        np.take(block, resize.index, axis=resize.axis, out=out, mode="clip")
    elif resize.axis == 2:
        rows, target = block.reshape(-1, block.shape[2]), out.reshape(-1, out.shape[2])
        for band in resize.bands:
            np.matmul(rows[:, band.low : band.high], band.weights.T, out=target[:, band.start : band.stop])
    else:
        for slice_yx, target_yx in zip(block, out, strict=True):
            for band in resize.bands:
                np.matmul(band.weights, slice_yx[band.low : band.high], out=target_yx[band.start : band.stop])


def _drain(results: Any) -> None:
    for _ in results:
        pass
