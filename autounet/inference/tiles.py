"""Where tiles lie along an axis, and what each of their voxels counts there.

The tiles form a product of three axes and their Gaussian importance is a product of three curves, so
the sum of weights in a voxel is a product too. Each axis is normalised for itself, in float64: the
weights of all tiles that touch a voxel then sum to 1, and nothing is left to be divided at the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Peak = Literal["middle", "nnunet"]


@dataclass(frozen=True, slots=True)
class AxisTile:
    """One tile's place on one axis: `start` counts image voxels and may lie before the first."""

    start: int
    stop: int
    weights: NDArray[np.float32]  # of the voxels inside the image

    @property
    def inside(self) -> slice:
        """The image voxels it covers."""
        return slice(max(self.start, 0), max(self.start, 0) + len(self.weights))

    @property
    def own(self) -> slice:
        """The same voxels, counted in the tile."""
        first = self.inside.start - self.start
        return slice(first, first + len(self.weights))


def tile_axis(size: int, patch: int, step_fraction: float, sigma_fraction: float, peak: Peak = "middle") -> tuple[AxisTile, ...]:
    """The tiles of one axis; an image shorter than the patch lies in the middle of one tile."""
    before = max(patch - size, 0) // 2
    padded = max(size, patch)
    curve = gaussian(patch, sigma_fraction, peak)
    starts = tile_starts(padded, patch, step_fraction)
    total = np.zeros(padded)
    for start in starts:
        total[start : start + patch] += curve
    tiles = []
    for start in starts:
        share = curve / total[start : start + patch]
        first = start - before
        inside = slice(max(-first, 0), max(-first, 0) + min(size, patch))
        tiles.append(AxisTile(first, first + patch, share[inside].astype(np.float32)))
    return tuple(tiles)


def grouped(tiles: Sequence[AxisTile], a_row: int, batch: int) -> list[Sequence[AxisTile]]:
    """Rows of tiles that are computed together, where one row has fewer tiles than a batch wants.

    At most two patches deep: what is in flight must be accumulated, and waiting rows cost memory.
    """
    together = max(1, batch // a_row)
    deepest = max(2 * (tiles[0].stop - tiles[0].start), 64)
    groups: list[Sequence[AxisTile]] = []
    for tile in tiles:
        if groups and len(groups[-1]) < together and tile.inside.stop - groups[-1][0].inside.start <= deepest:
            groups[-1] = (*groups[-1], tile)
        else:
            groups.append((tile,))
    return groups


def depth_of(groups: Sequence[Sequence[AxisTile]]) -> int:
    """Image rows that the deepest of these groups covers."""
    return int(max(group[-1].inside.stop - group[0].inside.start for group in groups))


def tile_starts(size: int, patch: int, step_fraction: float) -> tuple[int, ...]:
    """Evenly spread starts, no further apart than the step; the first touches the near end, the last the far one."""
    count = ceil((size - patch) / max(patch * step_fraction, 1)) + 1
    if count == 1:
        return (0,)
    apart = (size - patch) / (count - 1)
    return tuple(round(apart * index) for index in range(count))


def gaussian(edge: int, sigma_fraction: float, peak: Peak = "middle") -> NDArray[np.float64]:
    """Importance over a patch edge: highest in the middle, the same read from either end, never zero; or as nnU-Net has it."""
    # nnU-Net's peak is a voxel, so on an even edge it leans to the end; on small patches that decides voxels.
    centre = (edge - 1) / 2 if peak == "middle" else edge // 2
    from_centre = (np.arange(edge) - centre) / (edge * sigma_fraction)
    curve: NDArray[np.float64] = np.exp(-0.5 * from_centre**2)
    return curve
