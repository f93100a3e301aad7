"""Two or three numbers per patch axis to the three that plans hold."""

from planners.fingerprint import Triple, TripleMm


def three(numbers: tuple[int, ...]) -> Triple:
    """Integers; a missing first axis is 1."""
    z, y, x = numbers if len(numbers) == 3 else (1, *numbers)
    return z, y, x


def three_mm(numbers: tuple[float, ...]) -> TripleMm:
    """Millimetres of three axes."""
    z, y, x = numbers
    return z, y, x


def voxels(numbers: tuple[float, ...]) -> Triple:
    """Whole voxels, at least one; a missing first axis is 1."""
    return three(tuple(max(1, round(number)) for number in numbers))
