"""The two-dimensional phantoms: touching cells in colour, and large gray slides."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatImage:
    """One picture: channels first, the truth, and the number of each object."""

    image_cyx: NDArray[np.uint8]
    label_yx: NDArray[np.uint8]
    instances_yx: NDArray[np.uint16]


def cells(rng: np.random.Generator, size: int) -> FlatImage:
    """Stained nuclei that touch: where two meet, a line two pixels wide is background."""
    height = width = size
    y, x = np.mgrid[:height, :width].astype(np.float32)
    count = max(4, size * size // 900)
    nearest, second = np.full((height, width), np.inf, np.float32), np.full((height, width), np.inf, np.float32)
    owner = np.zeros((height, width), np.uint16)
    for number, (distance, box) in enumerate((_cell(rng, y, x) for _ in range(count)), start=1):
        near, far = nearest[box], second[box]
        closer = distance < near
        far[:] = np.where(closer, near, np.minimum(far, distance))
        owner[box][closer] = number
        near[:] = np.where(closer, distance, near)
    # The ratio of the two nearest centres is 1 on the line where two cells meet.
    inside = (nearest < 1) & (nearest < second * 0.86)
    inside &= ~_meeting(np.where(inside, owner, 0))  # where centres are close the line is thinner than a pixel
    instances = np.where(inside, owner, 0).astype(np.uint16)
    tint = rng.uniform(0.8, 1.2, size=count + 1).astype(np.float32)[instances]
    depth = np.where(inside, (1.1 - 0.5 * nearest.clip(0, 1)) * tint, 0)
    stain, paper = np.array([95, 70, 130], np.float32), np.array([232, 205, 225], np.float32)
    mottle = _blotches(rng, height, width, 18) * 12
    colour = paper[:, None, None] - depth[None] * (paper - stain)[:, None, None] + mottle[None] + rng.normal(0, 7, (3, height, width))
    return FlatImage(image_cyx=np.clip(colour, 0, 255).astype(np.uint8), label_yx=inside.astype(np.uint8), instances_yx=instances)


def slide(rng: np.random.Generator, size: int) -> FlatImage:
    """A gray section: bright rings (glands, 1) and dark round vessels (2) on mottled tissue."""
    label = np.zeros((size, size), np.uint8)
    owner = np.zeros((size, size), np.uint16)
    gray = (150 + 18 * _blotches(rng, size, size, 60)).astype(np.float32)
    for number in range(1, max(3, size * size // 12_000) + 1):
        centre, radius = rng.uniform(0, size, 2), float(rng.uniform(14, 34))
        low, high = np.maximum(centre - radius - 1, 0).astype(int), np.minimum(centre + radius + 2, size).astype(int)
        box = (slice(low[0], high[0]), slice(low[1], high[1]))
        y, x = np.mgrid[box]
        away = np.hypot(y - centre[0], x - centre[1]) / radius * (1 + 0.05 * np.cos(5 * np.arctan2(y - centre[0], x - centre[1]) + radius))
        vessel = rng.random() < 0.35
        part = (away < 0.5) if vessel else (away < 1) & (away > 0.55)
        label[box][part] = 2 if vessel else 1
        owner[box][part] = number
        gray[box][part] = 60 if vessel else 205
    gray += rng.normal(0, 11, gray.shape).astype(np.float32)
    return FlatImage(image_cyx=np.clip(gray, 0, 255).astype(np.uint8)[None], label_yx=label, instances_yx=owner)


def _meeting(owner_yx: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Pixels whose lower or right neighbour belongs to another cell."""
    met = np.zeros(owner_yx.shape, bool)
    for here, there, into in ((owner_yx[:-1], owner_yx[1:], met[:-1]), (owner_yx[:, :-1], owner_yx[:, 1:], met[:, :-1])):
        into |= (here != there) & (here > 0) & (there > 0)
    return met


def _cell(rng: np.random.Generator, y: Pixels, x: Pixels) -> tuple[Pixels, tuple[slice, slice]]:
    """Distance to one cell's centre in units of its turned radii, in the box it can reach."""
    height, width = y.shape
    centre, turn = rng.uniform(0, (height, width)), float(rng.uniform(0, np.pi))
    long, wide = float(rng.uniform(11, 18)), float(rng.uniform(8, 12))
    low = np.maximum(centre - 1.3 * long, 0).astype(int)
    high = np.minimum(centre + 1.3 * long + 1, (height, width)).astype(int)
    box = (slice(low[0], high[0]), slice(low[1], high[1]))
    dy, dx = y[box] - np.float32(centre[0]), x[box] - np.float32(centre[1])
    along, across = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
    return np.hypot(along / long, across / wide).astype(np.float32), box


def _blotches(rng: np.random.Generator, height: int, width: int, length: float) -> Pixels:
    """A smooth field by bilinear growth of a coarse random grid."""
    rows, columns = int(height / length) + 3, int(width / length) + 3
    coarse = rng.normal(size=(rows, columns)).astype(np.float32)
    y, x = np.arange(height, dtype=np.float32) / length, np.arange(width, dtype=np.float32) / length
    y0, x0 = y.astype(int), x.astype(int)
    fy, fx = (y - y0)[:, None], (x - x0)[None, :]
    top = coarse[np.ix_(y0, x0)] * (1 - fx) + coarse[np.ix_(y0, x0 + 1)] * fx
    bottom = coarse[np.ix_(y0 + 1, x0)] * (1 - fx) + coarse[np.ix_(y0 + 1, x0 + 1)] * fx
    field: Pixels = top * (1 - fy) + bottom * fy
    return field
