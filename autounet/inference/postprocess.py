"""Repairs of a mask that paid on held-out cases: keep the largest piece, drop small ones, fill holes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autounet.store.selection import PostStep
from planners.fingerprint import TripleMm
from planners.labels import Labels


def post_process(label_zyx: NDArray[Any], steps: Sequence[PostStep], labels: Labels, spacing_zyx_mm: TripleMm) -> NDArray[Any]:
    """All steps, in order; the input stays as it is."""
    if not steps:
        return label_zyx
    mended = label_zyx.copy()
    numbers = {c.name: number for number, c in enumerate(labels.classes)}
    for step in steps:
        box = bounding_box(mended == numbers[step.target])
        if box is not None:
            _mend(mended[box], numbers[step.target], step, float(np.prod(spacing_zyx_mm)))
    return mended


def _mend(view_zyx: NDArray[Any], number: int, step: PostStep, voxel_mm3: float) -> None:
    from scipy import ndimage

    own = view_zyx == number
    if step.kind == "fill_holes":
        view_zyx[ndimage.binary_fill_holes(own) & (view_zyx == 0)] = number
        return
    pieces, count = components(own)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    sizes[0] = 0
    keep = np.zeros(count + 1, bool)
    if step.kind == "keep_largest":
        keep[sizes.argmax()] = True
    else:
        keep = sizes * voxel_mm3 >= step.minimum_mm3
    view_zyx[own & ~keep[pieces]] = 0


def components(mask_zyx: NDArray[np.bool_]) -> tuple[NDArray[Any], int]:
    """Pieces that touch by face, edge or corner, numbered from 1."""
    try:
        import cc3d
    except ImportError:
        from scipy import ndimage

        labelled, count = ndimage.label(mask_zyx, np.ones((3,) * mask_zyx.ndim))
        return labelled, int(count)
    found = cc3d.connected_components(np.ascontiguousarray(mask_zyx), connectivity=26, return_N=True)
    return np.asarray(found[0]), int(found[1])


def bounding_box(mask_zyx: NDArray[np.bool_]) -> tuple[slice, slice, slice] | None:
    """The smallest box around what is true."""
    slices = []
    for axis in range(3):
        seen = np.flatnonzero(mask_zyx.any(tuple(a for a in range(3) if a != axis)))
        if not len(seen):
            return None
        slices.append(slice(int(seen[0]), int(seen[-1]) + 1))
    return slices[0], slices[1], slices[2]
