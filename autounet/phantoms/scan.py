"""From a patient (functions of millimetres) to voxels on a grid, slab by slab."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from autounet.images.geometry import Geometry
from autounet.phantoms.shapes import Points

SLAB_VOXELS = 4_000_000  # a dozen temporaries of this size stay below 250 MB


class Patient(Protocol):
    """What can be scanned."""

    def labels(self, points: Points) -> NDArray[np.uint8]:
        """The truth at these points."""

    def channels(self, points: Points, labels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float32]:
        """One noisy image per channel, (c, ...)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanner:
    """The grid, before it is turned and shifted."""

    shape_zyx: tuple[int, int, int]
    spacing_zyx_mm: tuple[float, float, float]
    tilt_degrees: tuple[float, float, float] = (0.0, 0.0, 0.0)  # about right, front, up
    stored: str = "RAS"  # directions in which the stored x, y and z indices grow

    def geometry(self) -> Geometry:
        """The header: the centre of the volume is the patient's origin."""
        rotation = _rotation(self.tilt_degrees) @ _axes(self.stored)
        spacing_xyz = np.array(self.spacing_zyx_mm[::-1])
        half = (np.array(self.shape_zyx[::-1]) - 1) / 2
        origin = -rotation @ (half * spacing_xyz)
        return Geometry(
            shape_zyx=self.shape_zyx,
            spacing_zyx_mm=self.spacing_zyx_mm,
            origin_xyz_mm=(float(origin[0]), float(origin[1]), float(origin[2])),
            direction=tuple(float(v) for v in rotation.ravel()),
        )


def scan(patient: Patient, geometry: Geometry, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """The image (czyx, float32) and its label (zyx)."""
    images, labels = [], []
    for points in _slabs(geometry):
        label = patient.labels(points)
        labels.append(label)
        images.append(patient.channels(points, label, rng))
    return np.concatenate(images, axis=1), np.concatenate(labels)


def _slabs(geometry: Geometry) -> Iterator[Points]:
    depth, height, width = geometry.shape_zyx
    affine = geometry.affine_ras.astype(np.float32)
    y, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None, :]
    thick = max(1, SLAB_VOXELS // (height * width))
    for start in range(0, depth, thick):
        z = np.arange(start, min(start + thick, depth), dtype=np.float32)[:, None, None]
        right, front, up = (affine[w, 0] * x + affine[w, 1] * y + affine[w, 2] * z + affine[w, 3] for w in range(3))
        yield right, front, up


def _rotation(degrees: tuple[float, float, float]) -> NDArray[np.float64]:
    turned = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        step[first, first] = step[second, second] = np.cos(angle)
        step[first, second], step[second, first] = -np.sin(angle), np.sin(angle)
        turned = step @ turned
    return turned


def _axes(code: str) -> NDArray[np.float64]:
    """Columns: where the stored x, y and z index point."""
    columns = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
    return np.array([columns[letter] for letter in code], dtype=np.float64).T
