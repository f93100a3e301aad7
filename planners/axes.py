"""Which axis comes first in the arrays that the networks see."""

from planners.fingerprint import Triple, TripleMm


def axis_order(target_mm: TripleMm) -> Triple:
    """The coarsest axis first, the others in their order: slices are then planes of the last two axes."""
    coarsest = target_mm.index(max(target_mm))
    first, second = (axis for axis in range(3) if axis != coarsest)
    return coarsest, first, second
