"""Depth, strides and kernels that fit a patch and its voxel size."""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil

MIN_EDGE = 4  # voxels of the coarsest maps; below this a 3-wide kernel sees more padding than image


@dataclass(frozen=True, slots=True)
class Topology:
    """Per axis of the patch: two or three of them."""

    patch: tuple[int, ...]  # padded up to a multiple of the divisor
    strides: tuple[tuple[int, ...], ...]  # the first is all ones
    kernels: tuple[tuple[int, ...], ...]

    @property
    def stages(self) -> int:
        """Resolutions of the network."""
        return len(self.strides)

    @property
    def divisor(self) -> tuple[int, ...]:
        """The product of the strides of each axis."""
        result = [1] * len(self.patch)
        for stride in self.strides:
            result = [d * s for d, s in zip(result, stride, strict=True)]
        return tuple(result)


@lru_cache(maxsize=4096)  # the search for coarser voxels comes by the same patches again and again
def topology(spacing_mm: tuple[float, ...], size: tuple[float, ...]) -> Topology:
    """Halve the axes that are long and fine enough until none is; a coarse axis waits for the others."""
    mm, edge, axes = list(spacing_mm), [float(s) for s in size], range(len(size))
    kernel = [1] * len(size)
    strides, kernels = [tuple(1 for _ in axes)], []
    while halved := _axes_to_halve(mm, edge):
        finest = min(mm)
        # A kernel reaches along an axis once its voxels there are no longer twice as long as elsewhere.
        kernel = [3 if k == 3 or mm[axis] / finest < 2 else 1 for axis, k in enumerate(kernel)]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if axis in halved else 1 for axis in axes))
        for axis in halved:
            mm[axis], edge[axis] = mm[axis] * 2, float(ceil(edge[axis] / 2))
    kernels.append(tuple(3 for _ in axes))
    bare = Topology(tuple(1 for _ in axes), tuple(strides), tuple(kernels))
    patch = tuple(ceil(s / d) * d for s, d in zip(size, bare.divisor, strict=True))
    return Topology(patch, bare.strides, bare.kernels)


def _axes_to_halve(mm: list[float], edge: list[float]) -> list[int]:
    long = [axis for axis, size in enumerate(edge) if size >= 2 * MIN_EDGE]
    if not long:
        return []
    finest = min(mm[axis] for axis in long)
    close = [axis for axis in long if mm[axis] / finest < 2]
    if len(close) == 1 and edge[close[0]] < 3 * MIN_EDGE:
        return []
    return close
