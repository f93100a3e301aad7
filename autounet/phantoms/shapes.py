"""Bodies as functions of millimetres: what a point belongs to does not depend on the voxel grid.

Points are given as three arrays (right, front, up) in RAS millimetres, so an oblique or flipped
header shows another sampling of the same patient, and every wrong flip is seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Points = tuple[Floats, Floats, Floats]
Mm = tuple[float, float, float]


def ellipsoid(points: Points, centre: Mm, radii: Mm) -> Floats:
    """Below 1 inside; the square of the distance to the centre in units of the radii."""
    total = np.zeros_like(points[0])
    for axis, middle, radius in zip(points, centre, radii, strict=True):
        offset = (axis - np.float32(middle)) * np.float32(1 / radius)
        total += offset * offset
    return total


def tube(points: Points, path: Sequence[Mm], radius: float) -> Floats:
    """Below 1 inside a tube around a polyline; the squared distance in units of the radius."""
    nearest = np.full_like(points[0], np.inf)
    for start, end in pairwise(path):
        step = np.subtract(end, start).astype(np.float32)
        offsets = [axis - np.float32(s) for axis, s in zip(points, start, strict=True)]
        along = sum(o * s for o, s in zip(offsets, step, strict=True)) / np.float32(max(float(step @ step), 1e-6))
        along = np.clip(along, 0, 1)
        distance = sum((o - along * s) ** 2 for o, s in zip(offsets, step, strict=True))
        np.minimum(nearest, distance, out=nearest)
    return nearest * np.float32(1 / radius**2)


@dataclass(frozen=True, slots=True)
class Waves:
    """A smooth random field: a few cosines, so it costs little and is the same on every grid."""

    vectors: NDArray[np.float32]  # (waves, 3), radians per millimetre, right-front-up
    phases: NDArray[np.float32]

    @classmethod
    def draw(cls, rng: np.random.Generator, length_mm: float, count: int = 4) -> "Waves":
        """Waves whose lengths scatter around `length_mm`."""
        directions = rng.normal(size=(count, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        lengths = length_mm * rng.uniform(0.6, 1.6, size=(count, 1))
        return cls((directions * 2 * np.pi / lengths).astype(np.float32), rng.uniform(0, 2 * np.pi, count).astype(np.float32))

    def __call__(self, points: Points) -> Floats:
        """Values with standard deviation near 1."""
        total = np.zeros_like(points[0])
        for (kx, ky, kz), phase in zip(self.vectors, self.phases, strict=True):
            total += np.cos(points[0] * kx + points[1] * ky + points[2] * kz + phase)
        return total * np.float32(np.sqrt(2 / len(self.phases)))


def bend(points: Points, waves: Sequence[Waves], amplitude_mm: float) -> Points:
    """The points moved by a smooth field, so that no organ is a perfect ellipsoid."""
    x, y, z = (axis + np.float32(amplitude_mm) * wave(points) for axis, wave in zip(points, waves, strict=True))
    return x, y, z
