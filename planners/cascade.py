"""When a patch sees too little of the image: a coarser first network, whose masks guide a second one."""

from collections.abc import Iterator
from math import prod

SEEN = 0.25  # of the median image; a patch that covers less wants a coarser configuration
GROWTH = 1.03
WORTH = 2  # times fewer voxels, or the coarser configuration is dropped


def sees_enough(patch: tuple[int, ...], voxels: float, seen: float = SEEN) -> bool:
    """Whether a patch covers the wanted part of the image."""
    return prod(patch) / voxels >= seen


def coarser(spacing_mm: tuple[float, ...]) -> Iterator[tuple[float, ...]]:
    """Ever coarser spacings: first the axes that are less than half as coarse as the coarsest, then all."""
    current = spacing_mm
    while True:
        coarsest = max(current)
        fine = [coarsest / mm > 2 for mm in current]
        current = tuple(mm * GROWTH if one or not any(fine) else mm for mm, one in zip(current, fine, strict=True))
        yield current


def worth_it(full_voxels: float, coarse_voxels: float) -> bool:
    """Whether the coarser images are clearly smaller."""
    return full_voxels / coarse_voxels >= WORTH


def shrunk(full_mm: tuple[float, ...], coarse_mm: tuple[float, ...], median: tuple[float, ...]) -> tuple[float, ...]:
    """The median image at a coarser spacing."""
    return tuple(full / coarse * size for full, coarse, size in zip(full_mm, coarse_mm, median, strict=True))
