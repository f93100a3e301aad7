"""Spline resizing of one axis as a matrix: interpolation weights times the inverse of the spline's prefilter.

Half-voxel alignment and edge replication, as `scipy.ndimage.zoom(grid_mode=True, mode="nearest")` and
`skimage.transform.resize(mode="edge", anti_aliasing=False)` have them.
"""

from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The inverse of the prefilter rings out as gain * pole**distance. Entries below TAIL are dropped: they are
# invisible in float32, and kept they sink into the subnormal range, where a product takes twenty times as long.
TAIL = 1e-7
POLE = {2: 2 * sqrt(2) - 3, 3: sqrt(3) - 2}
GAIN = {2: sqrt(2), 3: sqrt(3)}
RING = 16  # voxels: the cubic's pole to this power is 7e-10
BAND_COLUMNS = 32  # a band's rows times its shrinking factor: more rows waste zeros, fewer waste calls


@dataclass(frozen=True, slots=True)
class Band:
    """Rows `start` to `stop` of an axis matrix, and the columns `low` to `high` in which they are not zero."""

    start: int
    stop: int
    low: int
    high: int
    weights: NDArray[np.float32]  # (stop − start, high − low)


def centres(size_in: int, size_out: int) -> NDArray[np.float64]:
    """Where the centre of each output voxel lies, in input voxels counted from the centre of the first."""
    at: NDArray[np.float64] = (size_in / size_out) * (np.arange(size_out, dtype=np.float64) + 0.5) - 0.5
    return at


def nearest(size_in: int, size_out: int) -> NDArray[np.intp]:
    """The input voxel nearest to the centre of each output voxel (order 0)."""
    return np.clip(np.floor(centres(size_in, size_out) + 0.5), 0, size_in - 1).astype(np.intp)


def linear(size_in: int, size_out: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Lower and upper neighbour of each output centre, and the weight of the upper one (order 1)."""
    at = np.clip(centres(size_in, size_out), 0, size_in - 1)
    lower = np.floor(at).astype(np.intp)
    return lower, np.minimum(lower + 1, size_in - 1), (at - lower).astype(np.float32)


def axis_matrix(size_in: int, size_out: int, order: int) -> NDArray[np.float64]:
    """The (out, in) matrix that resizes one axis with a spline of order 0 to 3."""
    first, weights = _taps(size_in, size_out, order)
    return _dense(first, weights, size_in, 0, size_out)


def axis_bands(size_in: int, size_out: int, order: int) -> tuple[Band, ...]:
    """The same matrix in float32 as blocks of rows without the zeros on either side."""
    rows = int(np.clip(BAND_COLUMNS * size_out // size_in, 8, 64))
    first, weights = _taps(size_in, size_out, order)
    bands = []
    for start in range(0, size_out, rows):
        stop = min(start + rows, size_out)
        low, high = max(int(first[start]), 0), min(int(first[stop - 1]) + weights.shape[1], size_in)
        low, high = min(low, size_in - 1), max(high, 1)
        block = _dense(first, weights, size_in, start, stop)[:, low:high]
        used = np.flatnonzero(np.abs(block).max(0))
        keep = slice(used[0], used[-1] + 1)
        bands.append(Band(start, stop, low + int(used[0]), low + int(used[-1]) + 1, np.ascontiguousarray(block[:, keep], np.float32)))
    return tuple(bands)


def _taps(size_in: int, size_out: int, order: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """First input index and the weights from there on, per output voxel, on an endlessly replicated edge."""
    if order == 0:
        return nearest(size_in, size_out), np.ones((size_out, 1))
    at = centres(size_in, size_out)
    if order == 1:
        at = np.clip(at, 0, size_in - 1)
    base = np.floor(at + 0.5 if order == 2 else at)
    weights = _basis(at - base, order)
    first = base.astype(np.intp) - order // 2
    return (first, weights) if order == 1 else (first - RING, _sharpen(weights, order))


def _basis(t: NDArray[np.float64], order: int) -> NDArray[np.float64]:
    """The B-spline's weights of the neighbours, at the fraction t from the base voxel."""
    if order == 1:
        taps = [1 - t, t]
    elif order == 2:
        taps = [(0.5 - t) ** 2 / 2, 0.75 - t**2, (0.5 + t) ** 2 / 2]
    elif order == 3:
        taps = [(1 - t) ** 3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6, t**3 / 6]
    else:
        raise ValueError(f"a spline of order {order} is none of 0, 1, 2, 3")
    return np.stack(taps, axis=1)


def _sharpen(weights: NDArray[np.float64], order: int) -> NDArray[np.float64]:
    """Weights on spline coefficients become weights on voxels: each coefficient is the voxels around it, filtered."""
    distance = np.abs(np.arange(-RING, RING + 1))
    response = GAIN[order] * POLE[order] ** distance
    wide = np.zeros((len(weights), weights.shape[1] + 2 * RING))
    for tap in range(weights.shape[1]):
        wide[:, tap : tap + len(response)] += weights[:, tap : tap + 1] * response
    return wide


def _dense(first: NDArray[np.intp], weights: NDArray[np.float64], size_in: int, start: int, stop: int) -> NDArray[Any]:
    block = np.zeros((stop - start, size_in))
    # Beyond an edge its voxel stands for all that follow, so their weights add up on it.
    columns = np.clip(first[start:stop, None] + np.arange(weights.shape[1]), 0, size_in - 1)
    np.add.at(block, (np.arange(stop - start)[:, None], columns), weights[start:stop])
    block[np.abs(block) < TAIL] = 0
    return block
