"""Probabilities made honest by the temperature that was fitted on held-out cases: p^(1/T), with sum 1 again. No mask changes."""

import numpy as np
from numpy.typing import NDArray

SLAB = 2**20  # voxels at once


def temper(shares_kzyx: NDArray[np.float32], temperature: float, *, softmax: bool) -> None:
    """In place, slab by slab."""
    if temperature == 1:
        return
    depth = shares_kzyx.shape[1]
    step = max(1, SLAB * depth // max(shares_kzyx[0].size, 1))
    for start in range(0, depth, step):
        slab = shares_kzyx[:, start : start + step]
        on = np.power(slab, 1 / temperature)
        slab[...] = on / (on.sum(0, keepdims=True) if softmax else on + np.power(1 - slab, 1 / temperature))
