"""The kinds of phantom by name, and one case of each by its number."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autounet.images.geometry import Geometry
from autounet.phantoms import flat
from autounet.phantoms.patients import Lesions, Organs, Torso, Tumour
from autounet.phantoms.scan import Scanner, scan
from autounet.rng import generator
from planners.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Phantom:
    """One case: image, truth, header, and what the values mean."""

    image_czyx: NDArray[np.generic]
    label_zyx: NDArray[np.uint8]
    geometry: Geometry
    channels: tuple[str, ...]
    classes: tuple[tuple[str, int], ...]
    suffix: str = ".nii.gz"
    instances_zyx: NDArray[np.uint16] | None = None


def phantom(kind: str, index: int, *, size: int | None = None, seed: int = 0) -> Phantom:
    """Case `index` of a kind; the same arguments give the same voxels anywhere.

    `size` is the in-plane edge in voxels. "ct:60" is a CT with sixty organs.
    """
    name, _, classes = kind.partition(":")
    if name not in KINDS or (classes and not (name == "ct" and classes.isdigit() and 1 <= int(classes) <= 250)):
        raise UserError(f"there is no phantom {kind!r}", f"choose one of {', '.join(KINDS)}, or ct:60 for sixty organs")
    if size is not None and size < 16:
        raise UserError(f"a phantom of {size} voxels shows nothing", "choose a size of 16 or more")
    rng = generator(seed, "phantom", name, index)
    return _ct(rng, size, int(classes)) if classes else KINDS[name](rng, size)


def _organs(rng: np.random.Generator, size: int | None) -> Phantom:
    """Anisotropic, oblique, and stored in one of several orientations, as from different scanners."""
    edge = size or 64
    spacing = 100 / edge * float(rng.uniform(0.95, 1.05))
    depth = max(8, round(edge * float(rng.uniform(0.38, 0.46))))
    scanner = Scanner(
        shape_zyx=(depth, edge, edge + int(rng.integers(0, 4))),
        spacing_zyx_mm=(100 / depth, spacing, spacing),
        tilt_degrees=(float(rng.uniform(-12, 12)), float(rng.uniform(-8, 8)), float(rng.uniform(-8, 8))),
        stored=str(rng.choice(["RAS", "LPS", "LAS"])),
    )
    image, label, geometry = _scanned(Organs.draw(rng), scanner, rng)
    return Phantom(image_czyx=image, label_zyx=label, geometry=geometry, channels=("mr",), classes=_numbered(Organs.names))


def _lesions(rng: np.random.Generator, size: int | None) -> Phantom:
    edge = size or 64
    scanner = Scanner(
        shape_zyx=(edge, edge, edge), spacing_zyx_mm=(100 / edge,) * 3, tilt_degrees=(float(rng.uniform(-5, 5)), 0, 0), stored="LPS"
    )
    image, label, geometry = _scanned(Lesions.draw(rng), scanner, rng)
    return Phantom(image_czyx=image, label_zyx=label, geometry=geometry, channels=("flair",), classes=_numbered(Lesions.names))


def _multichannel(rng: np.random.Generator, size: int | None) -> Phantom:
    edge = size or 64
    scanner = Scanner(shape_zyx=(edge, edge, edge), spacing_zyx_mm=(100 / edge,) * 3, stored="LPS")
    image, label, geometry = _scanned(Tumour.draw(rng), scanner, rng)
    classes = tuple(zip(Tumour.names, Tumour.values, strict=True))
    return Phantom(image_czyx=image, label_zyx=label, geometry=geometry, channels=("t1c", "flair"), classes=classes)


def _ct(rng: np.random.Generator, size: int | None, classes: int = 4) -> Phantom:
    """Slices three times as thick as the pixels are wide, 0.6 of the edge in number: 512 gives 512x512x300."""
    edge = size or 128
    spacing = 410 / edge
    depth = max(4, round(edge * 0.586))
    scanner = Scanner(
        shape_zyx=(depth, edge, edge),
        spacing_zyx_mm=(round(3.1 * spacing, 3) if edge >= 200 else 410 / depth, spacing, spacing),
        stored="LPS",
    )
    image, label, geometry = _scanned(Torso.draw(rng, classes=classes), scanner, rng)
    names = _numbered(tuple(f"organ_{n:02d}" for n in range(1, classes + 1)))
    return Phantom(image_czyx=image.astype(np.int16), label_zyx=label, geometry=geometry, channels=("ct",), classes=names)


def _cells(rng: np.random.Generator, size: int | None) -> Phantom:
    return _picture(flat.cells(rng, size or 192), ("red", "green", "blue"), ("cell",))


def _slides(rng: np.random.Generator, size: int | None) -> Phantom:
    return _picture(flat.slide(rng, size or 1024), ("gray",), ("gland", "vessel"))


def _picture(made: flat.FlatImage, channels: tuple[str, ...], names: tuple[str, ...]) -> Phantom:
    height, width = made.label_yx.shape
    geometry = Geometry(
        shape_zyx=(1, height, width),
        spacing_zyx_mm=(1.0, 1.0, 1.0),
        origin_xyz_mm=(0.0, 0.0, 0.0),
        direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
    )
    return Phantom(
        image_czyx=made.image_cyx[:, None],
        label_zyx=made.label_yx[None],
        geometry=geometry,
        channels=channels,
        classes=_numbered(names),
        suffix=".png",
        instances_zyx=made.instances_yx[None],
    )


def _scanned(
    patient: Organs | Lesions | Torso | Tumour, scanner: Scanner, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.uint8], Geometry]:
    geometry = scanner.geometry()
    image, label = scan(patient, geometry, rng)
    return image, label, geometry


def _numbered(names: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    return tuple((name, value) for value, name in enumerate(names, start=1))


KINDS: dict[str, Callable[[np.random.Generator, int | None], Phantom]] = {
    "organs": _organs,
    "lesions": _lesions,
    "ct": _ct,
    "multichannel": _multichannel,
    "cells": _cells,
    "slides": _slides,
}
