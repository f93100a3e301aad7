"""What the second stage of a cascade sees of the first: one map a class, made as imperfect as real ones are."""

import numpy as np
import torch
from torch import Tensor

MORPH_PROBABILITY, MORPH_CLASS_PROBABILITY = 0.4, 0.5
DROP_PROBABILITY, DROP_CLASS_PROBABILITY = 0.2, 0.5
DROP_LARGEST = 0.15  # of the patch: a bigger component is never dropped
RADIUS = (1, 8)  # voxels


def one_hot(label_zyx: Tensor, foreground: int) -> Tensor:
    """(k, z, y, x) float maps of the classes 1..foreground."""
    return torch.stack([label_zyx == k for k in range(1, foreground + 1)]).float()


def disturbed_one_hot(label_zyx: Tensor, foreground: int, rng: np.random.Generator) -> Tensor:
    """The maps after random dilation, erosion, opening or closing, and with some components gone."""
    from scipy import ndimage

    maps = np.stack([(label_zyx == k).numpy() for k in range(1, foreground + 1)])
    if rng.random() < MORPH_PROBABILITY:
        for k in range(foreground):
            fires, operation, radius = (
                rng.random() < MORPH_CLASS_PROBABILITY,
                int(rng.integers(4)),
                int(rng.integers(RADIUS[0], RADIUS[1] + 1)),
            )
            if fires and maps[k].any():
                maps[k] = _morphed(maps[k], operation, radius)
                maps[[j for j in range(foreground) if j != k]] &= ~maps[k]  # a voxel won here is lost elsewhere
    if rng.random() < DROP_PROBABILITY:
        for k in range(foreground):
            fires, pick = rng.random() < DROP_CLASS_PROBABILITY, rng.random()
            if not fires:
                continue
            parts, count = ndimage.label(maps[k])
            sizes = np.bincount(parts.reshape(-1))[1:]
            small = np.flatnonzero(sizes < DROP_LARGEST * parts.size) + 1
            if count and len(small):
                maps[k] &= parts != small[int(pick * len(small))]
    return torch.from_numpy(maps.astype(np.float32))


def _morphed(mask: np.ndarray, operation: int, radius: int) -> np.ndarray:
    """Within a ball, by distances: the cost does not grow with the radius."""
    if operation == 0:
        return _grown(mask, radius)
    if operation == 1:
        return ~_grown(~mask, radius)
    if operation == 2:
        return _grown(~_grown(~mask, radius), radius)
    return ~_grown(~_grown(mask, radius), radius)


def _grown(mask: np.ndarray, radius: int) -> np.ndarray:
    from scipy import ndimage

    if not mask.any():
        return mask
    near: np.ndarray = ndimage.distance_transform_edt(~mask) <= radius
    return near
