"""Maps that some terms need beside the label: skeletons of thin structures, weights between touching objects."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

BORDER_WEIGHT, BORDER_SIGMA = 10.0, 5.0  # w0 and sigma of the U-Net of 2015
REACH = 18  # voxels; beyond it the border weight is below 0.02
RIDGE_SLACK = 0.5  # a voxel is on the ridge when no neighbour is deeper by more than this


def border_weights(label_zyx: NDArray[Any], classes: int) -> NDArray[np.float32]:
    """1 + w0 exp(-(d1 + d2)^2 / 2 sigma^2) on the background, d1 and d2 the distances to the two nearest objects."""
    from scipy import ndimage

    nearest = np.full(label_zyx.shape, np.inf, np.float32)
    second = nearest.copy()
    for objects_zyx in (ndimage.label(label_zyx == k)[0] for k in range(1, classes)):
        for number, box in enumerate(ndimage.find_objects(objects_zyx), start=1):
            wide = tuple(slice(max(0, s.start - REACH), min(n, s.stop + REACH)) for s, n in zip(box, label_zyx.shape, strict=True))
            away = ndimage.distance_transform_edt(objects_zyx[wide] != number).astype(np.float32)
            first, later = nearest[wide], second[wide]
            np.minimum(later, np.maximum(first, away), out=later)
            np.minimum(first, away, out=first)
    with np.errstate(over="ignore"):
        extra = BORDER_WEIGHT * np.exp(-((nearest + second) ** 2) / (2 * BORDER_SIGMA**2))
    weights: NDArray[np.float32] = np.where(label_zyx == 0, 1 + extra, 1).astype(np.float32)
    return weights


def skeletons(label_zyx: NDArray[Any], classes: int) -> NDArray[np.int16]:
    """The ridge of each class's depth, one voxel thicker, within the class; 0 elsewhere."""
    from scipy import ndimage

    found = np.zeros(label_zyx.shape, np.int16)
    for k in range(1, classes):
        inside = label_zyx == k
        if not inside.any():
            continue
        depth = ndimage.distance_transform_edt(inside)
        ridge = inside & (depth >= ndimage.maximum_filter(depth, 3) - RIDGE_SLACK)
        thick = ndimage.binary_dilation(ridge, ndimage.generate_binary_structure(label_zyx.ndim, 1))
        found[thick & inside] = k
    return found
