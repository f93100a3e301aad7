"""Numbers as people read them."""

from collections.abc import Sequence


def by(numbers: Sequence[float]) -> str:
    """128 x 128 x 64, three significant digits of what is no whole number."""
    return " x ".join(f"{number:.3g}" if isinstance(number, float) else str(number) for number in numbers)


def duration(seconds: float) -> str:
    """In the unit that fits."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
