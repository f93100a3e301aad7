"""The patch: as much image as fits, in the shape of a cube of tissue, not larger than the image."""

from collections.abc import Iterator
from math import prod

from planners.topology import Topology, topology

START_VOXELS = {2: 2048**2, 3: 256**3}  # larger than any patch will be; the search goes down from here


def first_size(spacing_mm: tuple[float, ...], median: tuple[float, ...]) -> tuple[float, ...]:
    """A square or cube in millimetres, clipped to the median image."""
    fineness = [1 / mm for mm in spacing_mm]
    dimensions = len(spacing_mm)
    scale = (START_VOXELS[dimensions] / prod(fineness)) ** (1 / dimensions)
    return tuple(min(round(fine * scale), size) for fine, size in zip(fineness, median, strict=True))


def shrinking(
    spacing_mm: tuple[float, ...], median: tuple[float, ...], size: tuple[float, ...] | None = None, *, by_length: bool = True
) -> Iterator[Topology]:
    """Topologies of ever smaller patches; the axis that covers most of the image gives way first.

    Of axes that cover the same, the longest in millimetres; the reference takes the last, which depends on how axes are numbered.
    """
    current = topology(spacing_mm, first_size(spacing_mm, median) if size is None else size)
    while True:
        yield current
        ratios = [edge / whole for edge, whole in zip(current.patch, median, strict=True)]
        lengths = [edge * mm if by_length else 0 for edge, mm in zip(current.patch, spacing_mm, strict=True)]
        order = sorted(range(len(ratios)), key=lambda axis: (ratios[axis], lengths[axis], axis), reverse=True)
        smaller = next((found for axis in order if (found := _smaller(current, spacing_mm, axis)) is not None), None)
        following = None if smaller is None else topology(spacing_mm, smaller)
        if following is None or prod(following.patch) >= prod(current.patch):
            return
        current = following


def _smaller(current: Topology, spacing_mm: tuple[float, ...], axis: int) -> tuple[int, ...] | None:
    """The patch one step shorter along an axis; None where the axis has no step to give, as one of two voxels."""
    smaller = _less(current.patch, axis, current.divisor[axis])
    if smaller is None:
        return None
    # A smaller edge may need fewer halvings: 256 with a divisor of 64 can become 224, not just 192.
    return _less(current.patch, axis, topology(spacing_mm, smaller).divisor[axis])


def _less(patch: tuple[int, ...], axis: int, step: int) -> tuple[int, ...] | None:
    edge = patch[axis] - step
    return None if edge < 1 else (*patch[:axis], edge, *patch[axis + 1 :])
