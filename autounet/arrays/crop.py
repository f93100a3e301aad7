"""Cutting away what is zero in every channel, and which voxels of the rest lie inside."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autounet.arrays.frame import Span

Box = tuple[Span, Span, Span]


def nonzero_box(image_czyx: NDArray[Any]) -> Box:
    """The smallest box that holds every voxel with a value in some channel; all of it when there is none."""
    planes = np.zeros(image_czyx.shape[1], bool)
    seen_yx = np.zeros(image_czyx.shape[2:], bool)
    for channel_zyx in image_czyx:
        whole = np.zeros(seen_yx.shape, channel_zyx.dtype if channel_zyx.dtype.kind in "iu" else bool)
        for z, plane_yx in enumerate(channel_zyx):
            if plane_yx.any():
                planes[z] = True
                # Bits of whole numbers add up without a temporary mask; zero stays zero only if all are zero.
                np.bitwise_or(whole, plane_yx if whole.dtype != bool else plane_yx != 0, out=whole)
        seen_yx |= whole != 0
    if not planes.any():
        z, y, x = image_czyx.shape[1:]
        return (0, z), (0, y), (0, x)
    return _span(planes), _span(np.any(seen_yx, axis=1)), _span(np.any(seen_yx, axis=0))


def inside_mask(image_czyx: NDArray[Any]) -> NDArray[np.bool_]:
    """Voxels with a value in some channel, and the holes that these enclose."""
    from scipy.ndimage import binary_dilation

    solid = image_czyx[0] != 0
    for channel_zyx in image_czyx[1:]:
        solid |= channel_zyx != 0
    outside = _seen_from_the_faces(solid)
    hidden = solid | outside
    np.logical_not(hidden, out=hidden)
    if not hidden.any():
        return np.logical_not(outside, out=outside)
    # What no straight ray reached may still be reached around a corner; only there is the slow search needed.
    box = tuple(slice(max(start - 1, 0), stop + 1) for start, stop in nonzero_box(hidden[None]))
    reached: NDArray[np.bool_] = binary_dilation(outside[box], mask=~solid[box], iterations=-1)
    outside[box] |= reached
    return np.logical_not(outside, out=outside)


def _seen_from_the_faces(solid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What a straight ray along an axis reaches from outside; slice by slice, so that temporaries are slices."""
    seen = np.zeros_like(solid)
    for slice_yx, seen_yx in zip(solid, seen, strict=True):
        for axis in (0, 1):
            for way in (slice(None), slice(None, None, -1)):
                cut = tuple(way if a == axis else slice(None) for a in (0, 1))
                seen_yx[cut] |= ~np.logical_or.accumulate(slice_yx[cut], axis=axis)
    for order in (range(len(solid)), reversed(range(len(solid)))):
        met_yx = np.zeros(solid.shape[1:], bool)
        for z in order:
            met_yx |= solid[z]
            seen[z] |= ~met_yx
    return seen


def _span(flags: NDArray[np.bool_]) -> Span:
    there = np.flatnonzero(flags)
    return int(there[0]), int(there[-1]) + 1
