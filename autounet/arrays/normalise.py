"""Intensities to numbers a network likes: clip, subtract, divide, whatever the scheme; block by block."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, floor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planners.errors import UserError
from planners.plan import ChannelPlan

TINY = 1e-8  # a constant image has no spread to divide by
BLOCK_VOXELS = 2**20
BINS = 2**16
NARROWINGS, FINE = 5, 1e-4
PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True, slots=True)
class Voxels:
    """One channel on the cropped native grid, as stored, and the mask of its inside when that matters."""

    zyx: NDArray[Any]
    inside_zyx: NDArray[np.bool_] | None = None

    def block(self, start: int, stop: int) -> NDArray[np.float32]:
        """Slices as a fresh float32 array."""
        return np.array(self.zyx[start:stop], np.float32, order="C")

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Groups of slices small enough for the cache."""
        step = max(1, BLOCK_VOXELS // max(1, self.zyx[0].size))
        return ((a, min(a + step, len(self.zyx))) for a in range(0, len(self.zyx), step))

    def values(self) -> Iterator[NDArray[np.float32]]:
        """All values that count, block by block."""
        for start, stop in self.blocks():
            block = self.block(start, stop)
            yield block.ravel() if self.inside_zyx is None else block[self.inside_zyx[start:stop]]


@dataclass(frozen=True, slots=True)
class Scaling:
    """(clip(value, low, high) − offset) / divisor, inside the mask; outside values stay."""

    low: float = -np.inf
    high: float = np.inf
    offset: float = 0.0
    divisor: float = 1.0

    def apply(self, block: NDArray[np.float32], inside: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        """In place; returns the block."""
        if inside is not None:
            block[inside] = self.apply(block[inside])
            return block
        if self.low > -np.inf or self.high < np.inf:
            np.clip(block, np.float32(self.low), np.float32(self.high), out=block)
        if self.offset:
            block -= np.float32(self.offset)
        if self.divisor != 1:
            block /= np.float32(self.divisor)
        return block


def scaling_of(channel: ChannelPlan, voxels: Voxels) -> Scaling:
    """What the channel's scheme does to these voxels."""
    if channel.scheme == "ct":
        return Scaling(channel.clip_low, channel.clip_high, channel.mean, max(channel.std, TINY))
    if channel.scheme == "zscore":
        mean, std = _mean_std(voxels, Scaling())
        return Scaling(offset=mean, divisor=max(std, TINY))
    if channel.scheme == "percentile":
        # A few hot voxels would otherwise decide the scale of the whole image.
        low, high = percentiles(voxels)
        clip = Scaling(low, high) if high > low else Scaling()  # nearly all voxels alike: what differs is all there is
        mean, std = _mean_std(voxels, clip)
        return Scaling(clip.low, clip.high, mean, max(std, TINY))
    if channel.scheme == "rescale":
        low, high = _extremes(voxels)
        return Scaling(offset=low, divisor=max(high - low, TINY))
    if channel.scheme == "rgb":
        low, high = _extremes(voxels)
        if low < 0 or high > 255:
            raise UserError(
                f"channel {channel.name} is planned as a colour of 0 to 255, it holds {low:g} to {high:g}", "plan it as rescale or zscore"
            )
        return Scaling(divisor=255.0)
    return Scaling()


def percentiles(voxels: Voxels, at: tuple[float, float] = PERCENTILES) -> tuple[float, float]:
    """Two percentiles to a ten-thousandth of their distance, without a sorted copy."""
    low, high = _extremes(voxels)
    first, second = (low, low, low), (high, high, high)
    for _ in range(NARROWINGS if high > low else 0):
        first, second = _binned(voxels, low, high, at)
        width = (high - low) / (BINS - 1)
        if width <= FINE * (second[1] - first[1]):
            break
        # One hot voxel can stretch the bins until everything else lies in one of them: look again, closer.
        low, high = max(low, first[0] - width), min(high, second[2] + width)
    return first[1], second[1]


def _binned(voxels: Voxels, low: float, high: float, at: tuple[float, float]) -> tuple[tuple[float, float, float], ...]:
    """Two percentiles from equal bins, each between the two values it lies between; what is outside the range counts in its last bins."""
    counts = np.zeros(BINS, np.int64)
    width = (high - low) / (BINS - 1)
    for values in voxels.values():
        bins = np.rint((np.clip(values, low, high).astype(np.float64) - low) / width).astype(np.int32)
        counts += np.bincount(bins, minlength=BINS)
    below = np.cumsum(counts)

    def value(percent: float) -> tuple[float, float, float]:
        rank = percent / 100 * (int(below[-1]) - 1)
        lower, upper = (low + float(np.searchsorted(below, r, side="right")) * width for r in (floor(rank), ceil(rank)))
        return lower, lower + (upper - lower) * (rank - floor(rank)), upper

    return value(at[0]), value(at[1])


def _mean_std(voxels: Voxels, clip: Scaling) -> tuple[float, float]:
    """In double precision; the first block's mean is taken off, or squares of large values would eat the spread."""
    count, total, squares, shift = 0, 0.0, 0.0, None
    for values in voxels.values():
        if not values.size:
            continue
        wide = clip.apply(values).astype(np.float64)
        if shift is None:
            shift = float(wide.mean())
        wide -= shift
        count, total, squares = count + wide.size, total + float(wide.sum()), squares + float(np.dot(wide, wide))
    if not count or shift is None:
        return 0.0, 1.0
    mean = total / count
    return shift + mean, float(np.sqrt(max(squares / count - mean * mean, 0.0)))


def _extremes(voxels: Voxels) -> tuple[float, float]:
    low, high = slice_extremes(voxels, None)
    return float(low[0]), float(high[0])


def slice_extremes(voxels: Voxels, axis: int | None) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Smallest and largest value that counts: of all (axis None, one number each), or of each slice along the axis.

    A slice in which no voxel counts gives (inf, −inf).
    """
    size = 1 if axis is None else voxels.zyx.shape[axis]
    low, high = np.full(size, np.inf, np.float32), np.full(size, -np.inf, np.float32)
    for start, stop in voxels.blocks():
        block = voxels.zyx[start:stop]
        rows = slice(start, stop) if axis == 0 else slice(None)
        if voxels.inside_zyx is None:
            low[rows] = np.minimum(low[rows], _reduce(np.minimum, block, axis))
            high[rows] = np.maximum(high[rows], _reduce(np.maximum, block, axis))
            continue
        inside, block = voxels.inside_zyx[start:stop], block.astype(np.float32)
        low[rows] = np.minimum(low[rows], _reduce(np.minimum, np.where(inside, block, np.float32(np.inf)), axis))
        high[rows] = np.maximum(high[rows], _reduce(np.maximum, np.where(inside, block, np.float32(-np.inf)), axis))
    return low, high


def _reduce(operation: np.ufunc, block: NDArray[Any], axis: int | None) -> Any:
    return operation.reduce(block, axis=None if axis is None else tuple(a for a in range(3) if a != axis))
