"""How many samples a step sees."""

from math import prod

SMALLEST = 2


def batch_size(affordable: float, dataset_voxels: float, patch: tuple[int, ...], covered: float) -> int:
    """What the budget affords, but no more than a part of the dataset in one step, and never below two."""
    return max(min(round(affordable), round(dataset_voxels * covered / float(prod(patch)))), SMALLEST)
