"""Medians and percentiles, in the order of operations of numpy, so that plans agree to the last bit."""

from collections.abc import Sequence


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two in the middle."""
    ordered, half = sorted(values), len(values) // 2
    return float(ordered[half]) if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def percentile(values: Sequence[float], percent: float) -> float:
    """Linear between the two nearest ranks."""
    ordered = sorted(values)
    rank = (len(ordered) - 1) * (percent / 100)
    below = int(rank)
    low, high = ordered[below], ordered[min(below + 1, len(ordered) - 1)]
    share = rank - below
    # Walking from the nearer end keeps the result between the two; numpy does the same.
    return float(high - (high - low) * (1 - share) if share >= 0.5 else low + (high - low) * share)


def axis_medians(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The median of each column."""
    return tuple(median(column) for column in zip(*rows, strict=True))


def axis_percentiles(rows: Sequence[Sequence[float]], percent: float) -> tuple[float, ...]:
    """The percentile of each column."""
    return tuple(percentile(column, percent) for column in zip(*rows, strict=True))
