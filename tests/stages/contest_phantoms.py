"""Datasets on which one kind of network must win by construction, and the three kinds that compete.

All volumes are 24 × 32 × 32 voxels of 1 mm. What is to be found is plain to see everywhere; only its class, `a` or `b`, is hidden, and
each dataset hides it where one kind of network alone can look:

- the two-dimensional network sees a whole slice at full resolution, and never another slice;
- the three-dimensional one sees 8 slices at full resolution, and of them a window of 16 × 16;
- the low-resolution one sees the whole volume, every second voxel of each axis.

Two cues vanish at half the resolution: a pattern that changes sign at every voxel, or is otherwise antisymmetric about the middle of each
pair of voxels, is zero where the coarse voxels lie.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autounet.images.geometry import geometry_from_affine
from autounet.images.write import write_image, write_mask
from autounet.store.files import publish_text

SHAPE_ZYX = (24, 32, 32)
BOTH = (1, 2)  # the values of a and b
NOISE = 0.1
MARKED = slice(0, 6)  # columns of the cue that lies far away
FAR = 22  # and from here on lies what it tells the class of: no window of 16 columns holds both
PAIRED = np.array([1, -1, -1, 1])  # like + - + - it has no mean over slices 2k and 2k + 1, and either sign half of the time
UNEVEN = 0.3  # brightness of each such pair; near the ends of the volume a spline leaves a trace of the pattern, a third of this
MARK_END = 4  # slices of the cue of the layers; the first layer begins at 12, and no window of 8 slices holds both
ARRANGED = ((1, 1, 2, 2), (2, 2, 1, 1), (1, 2, 1, 2), (2, 1, 2, 1), (1, 2, 2, 1), (2, 1, 1, 2))  # no place has more of one class


@dataclass(frozen=True)
class Made:
    """One volume and its truth."""

    image_zyx: np.ndarray
    label_zyx: np.ndarray


def empty(rng: np.random.Generator) -> Made:
    return Made(rng.normal(0.0, NOISE, SHAPE_ZYX), np.zeros(SHAPE_ZYX, np.uint8))


def disc_yx(centre_yx: tuple[float, float], radius: float) -> np.ndarray:
    y, x = np.ogrid[: SHAPE_ZYX[1], : SHAPE_ZYX[2]]
    return (y - centre_yx[0]) ** 2 + (x - centre_yx[1]) ** 2 <= radius**2


def add_discs(made: Made, rng: np.random.Generator) -> None:
    """In each slice, apart from all others: stripes on the left, across for a and along for b, and discs of that class on the right."""
    y, x = np.ogrid[: SHAPE_ZYX[1], : SHAPE_ZYX[2]]
    for z in range(SHAPE_ZYX[0]):
        value = rng.choice(BOTH)
        along = (y if value == 1 else x) + 0 * (x + y)
        made.image_zyx[z, :, MARKED] += rng.choice((-1, 1)) * (-1.0) ** along[:, MARKED]
        for middle in (8, 23):
            found = disc_yx((middle + rng.uniform(-4, 4), rng.uniform(26, 28)), rng.uniform(3, 4))
            made.image_zyx[z][found] += 2.0
            made.label_zyx[z][found] = value


def add_rods(made: Made, rng: np.random.Generator, columns: tuple[float, ...]) -> None:
    """Through all slices, bright or dark in each: a changes at every slice, b at every second."""
    z = np.arange(SHAPE_ZYX[0])
    for column in columns:
        for row in (6, 16, 26):
            value = rng.choice(BOTH)
            sign_z = rng.choice((-1, 1)) * ((-1) ** z if value == 1 else PAIRED[z % 4])
            found = disc_yx((row + rng.uniform(-1.5, 1.5), column + rng.uniform(-1.5, 1.5)), rng.uniform(2.5, 3.5))
            brightness_z = 2.0 + np.repeat(rng.normal(0.0, UNEVEN, SHAPE_ZYX[0] // 2), 2)
            made.image_zyx[:, found] += (brightness_z + sign_z)[:, None]
            made.label_zyx[:, found] = value


def add_layers(made: Made, rng: np.random.Generator, values: tuple[int, ...]) -> None:
    """Bright layers over the upper half, side by side, one a value; a bright or dark mark at the bottom of the volume tells the class.

    All borders lie between coarse voxels, and no corner sticks out that a linear interpolation of coarse scores would round off.
    """
    first = 2 * rng.integers(6, 8)
    for lane, value in enumerate(values):
        rows = slice(8 * lane, 8 * lane + 8)
        made.image_zyx[:MARK_END, rows] += 2.0 if value == 1 else -2.0
        made.image_zyx[first:, rows] += 2.0
        made.label_zyx[first:, rows] = value


def slices_apart(rng: np.random.Generator, _: int) -> Made:
    """Only the two-dimensional network can tell.

    The class of a disc is said by stripes in its own slice: 16 columns away, out of the window of the three-dimensional network, and
    one voxel wide, nothing at low resolution. Slices have nothing to do with each other.
    """
    made = empty(rng)
    add_discs(made, rng)
    return made


def across_slices(rng: np.random.Generator, _: int) -> Made:
    """Only the three-dimensional network at full resolution can tell.

    The class of a rod is how often its brightness changes from slice to slice. One slice of either is bright or dark with the same
    chance; at low resolution both have the same even brightness.
    """
    made = empty(rng)
    add_rods(made, rng, (6, 16, 26))
    return made


def far_away(rng: np.random.Generator, number: int) -> Made:
    """Only the low-resolution network can tell.

    The class of a layer is said by a mark nine slices below it, or more. Layers and marks are coarse: nothing is lost at half the
    resolution, and nothing is gained by asking a finer network, too.
    """
    made = empty(rng)
    add_layers(made, rng, ARRANGED[number % len(ARRANGED)])
    return made


def both_ways(rng: np.random.Generator, _: int) -> Made:
    """Only the two- and the three-dimensional network together can tell.

    Discs as in `slices_apart`, and in the middle rods as in `across_slices`: each of the two networks is sure of its half and knows that it
    does not know the other, so the mean of their probabilities is right everywhere.
    """
    made = empty(rng)
    add_discs(made, rng)
    add_rods(made, rng, (14,))
    return made


CONTESTS: dict[str, Callable[[np.random.Generator, int], Made]] = {
    "slices_apart": slices_apart,
    "across_slices": across_slices,
    "far_away": far_away,
    "both_ways": both_ways,
}


def write_contest(kind: str, folder: Path, cases: int) -> Path:
    """images/ and labels/ with equal stems."""
    geometry = geometry_from_affine(SHAPE_ZYX, np.eye(4))
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for number in range(cases):
        made = CONTESTS[kind](np.random.default_rng([sorted(CONTESTS).index(kind), number]), number)
        write_image(folder / "images" / f"case_{number:02d}.nii.gz", made.image_zyx[None].astype(np.float32), geometry)
        write_mask(folder / "labels" / f"case_{number:02d}.nii.gz", made.label_zyx, geometry)
    publish_text(folder / "autounet.toml", "[labels]\na = 1\nb = 2\n")
    return folder
