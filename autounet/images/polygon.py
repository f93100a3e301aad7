"""Filling closed contours: a pixel is inside when its centre is, and a contour inside another is a hole."""

import numpy as np
from numpy.typing import NDArray

SNAP = 1e-6  # of a pixel: crossings this near a centre lie on it, so that rounding in a header decides nothing


def fill_even_odd(shape_yx: tuple[int, int], contours_xy: list[NDArray[np.float64]]) -> NDArray[np.bool_]:
    """Pixels inside an odd number of the contours, given by their corners (n, 2) in pixel indices.

    A centre exactly on a border belongs to the side with the larger index, so neighbouring shapes share no pixel.
    """
    height, width = shape_yx
    crossings = np.zeros((height, width + 1), np.int32)
    for corners in contours_xy:
        start, end = corners, np.roll(corners, -1, axis=0)
        lower = np.where((start[:, 1] <= end[:, 1])[:, None], start, end)
        upper = np.where((start[:, 1] <= end[:, 1])[:, None], end, start)
        first = np.clip(np.ceil(lower[:, 1] - SNAP), 0, height).astype(int)  # rows whose centre lies in [lower, upper)
        last = np.clip(np.ceil(upper[:, 1] - SNAP), 0, height).astype(int)
        counts = np.maximum(last - first, 0)
        edge = np.repeat(np.arange(len(corners)), counts)
        row = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
        rise = upper[edge, 1] - lower[edge, 1]
        share = np.clip((row - lower[edge, 1]) / np.where(rise > 0, rise, 1), 0, 1)
        x = lower[edge, 0] + share * (upper[edge, 0] - lower[edge, 0])
        column = np.clip(np.ceil(x - SNAP), 0, width).astype(int)
        np.add.at(crossings, (row, column), 1)
    inside: NDArray[np.bool_] = (np.cumsum(crossings, axis=1) & 1).astype(bool)[:, :width]
    return inside
