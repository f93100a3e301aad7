"""What is done to a patch before the network sees it: the mild recipe of the reference.

Stronger recipes look attractive and were measured to cost Dice on several public sets.
"""

from math import radians

from planners.fingerprint import Triple
from planners.plan import Augmentation, Step

FLAT = 3  # patches this much longer than deep are turned in the plane only


def augmentation(patch_zyx: Triple, dimensions: int, mirror_axes: tuple[int, ...], *, swap_sides: bool = False) -> Augmentation:
    """Turn, scale, disturb, mirror; angles by the shape of the patch."""
    flat = dimensions == 3 and max(patch_zyx) / patch_zyx[0] > FLAT
    angle = radians(turning_degrees(patch_zyx, dimensions))
    steps = (
        Step(kind="rotation", probability=0.2, low=-angle, high=angle),
        Step(kind="scaling", probability=0.2, low=0.7, high=1.4),
        Step(kind="noise", probability=0.1, low=0.0, high=0.1),
        Step(kind="blur", probability=0.2, channel_probability=0.5, low=0.5, high=1.0),
        Step(kind="brightness", probability=0.15, low=0.75, high=1.25),
        Step(kind="contrast", probability=0.15, low=0.75, high=1.25),
        Step(kind="low_resolution", probability=0.25, channel_probability=0.5, low=0.5, high=1.0),
        Step(kind="gamma_inverted", probability=0.1, low=0.7, high=1.5),
        Step(kind="gamma", probability=0.3, low=0.7, high=1.5),
    )
    mirror = (Step(kind="mirror", probability=0.5),) if mirror_axes else ()
    return Augmentation(steps=steps + mirror, in_plane_only=flat, mirror_axes=mirror_axes, swap_sides=swap_sides)


def turning_degrees(patch_zyx: Triple, dimensions: int) -> float:
    """A square or a flat patch may be turned all the way round in its plane; an oblong one would lose its ends."""
    if dimensions == 2:
        plane = patch_zyx[1:]
        return 15 if max(plane) / min(plane) > 1.5 else 180
    return 180 if max(patch_zyx) / patch_zyx[0] > FLAT else 30
