"""Where the voxels of an image lie in the patient: shape, spacing, origin and directions in one frozen value.

The world is in millimetres, x to the right, y to the front, z to the head (RAS). Arrays are indexed
[z, y, x], which is the file's index order x, y, z reversed; `origin` and `direction` are in the file's order.
"""

from dataclasses import dataclass, replace
from math import isfinite, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planners.errors import UserError
from planners.fingerprint import Triple, TripleMm

UNIT_TOLERANCE = 1e-3  # of a direction's length; headers keep single precision or six decimals
STRAIGHT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """The grid of an image. World position of voxel (x, y, z) = origin + direction @ (spacing * (x, y, z))."""

    shape_zyx: Triple
    spacing_zyx_mm: TripleMm
    origin_xyz_mm: TripleMm
    direction: tuple[float, ...]  # nine numbers, row by row; the columns are the directions of the x, y and z index
    flat: bool = False  # a picture, or a volume whose header says nothing of the patient: never turned

    def __post_init__(self) -> None:
        if len(self.shape_zyx) != 3 or min(self.shape_zyx) < 1:
            raise UserError(f"a grid of {self.shape_zyx} voxels cannot be", "give three sizes of at least one voxel")
        if not all(isfinite(s) and s > 0 for s in self.spacing_zyx_mm):
            raise UserError(f"a spacing of {self.spacing_zyx_mm} mm cannot be", "give three positive distances")
        if len(self.direction) != 9 or not all(map(isfinite, (*self.direction, *self.origin_xyz_mm))):
            raise UserError(f"origin {self.origin_xyz_mm} and direction {self.direction} place nothing", "give finite numbers")
        for column in range(3):
            length = sqrt(sum(value * value for value in self.direction[column::3]))
            if abs(length - 1) > UNIT_TOLERANCE:
                raise UserError(f"direction {column} of the grid has the length {length:.6g}, not 1", "normalise the directions")

    @property
    def affine_ras(self) -> NDArray[np.float64]:
        """4 x 4: from the file's voxel index (x, y, z, 1) to millimetres."""
        affine = np.eye(4)
        affine[:3, :3] = np.array(self.direction).reshape(3, 3) * np.array(self.spacing_zyx_mm[::-1])
        affine[:3, 3] = self.origin_xyz_mm
        return affine

    def corners_mm(self) -> NDArray[np.float64]:
        """World positions (8, 3) of the outer corners of the grid: the voxels' edges, so a single slice has a thickness."""
        edges = [(-0.5, size - 0.5) for size in self.shape_zyx[::-1]]
        index = np.array([(x, y, z, 1.0) for z in edges[2] for y in edges[1] for x in edges[0]])
        corners: NDArray[np.float64] = (index @ self.affine_ras.T)[:, :3]
        return corners

    def world_mm(self, index_xyz: NDArray[Any]) -> NDArray[np.float64]:
        """World positions (…, 3) of voxel centres (…, 3) given in the file's order."""
        affine = self.affine_ras
        points: NDArray[np.float64] = index_xyz @ affine[:3, :3].T + affine[:3, 3]
        return points

    def corner_distance_mm(self, other: "Geometry") -> float:
        """How far the corner that moves most lies from where `other` has it."""
        return float(np.linalg.norm(self.corners_mm() - other.corners_mm(), axis=1).max())

    def with_spacing(self, spacing_zyx_mm: TripleMm) -> "Geometry":
        """The same grid with voxels of another size."""
        return replace(self, spacing_zyx_mm=spacing_zyx_mm)


def geometry_from_affine(shape_zyx: Triple, affine: NDArray[np.float64]) -> Geometry:
    """The geometry of a 4 x 4 matrix in RAS millimetres whose columns are perpendicular."""
    spacing_xyz = np.linalg.norm(affine[:3, :3], axis=0)
    return Geometry(
        shape_zyx=shape_zyx,
        spacing_zyx_mm=triple(spacing_xyz[::-1]),
        origin_xyz_mm=triple(affine[:3, 3]),
        direction=tuple(float(v) for v in (affine[:3, :3] / spacing_xyz).ravel()),
    )


def picture_geometry(shape_yx: tuple[int, int]) -> Geometry:
    """The grid of a picture: one slice of unit pixels, its rows downwards as stored."""
    return Geometry(shape_zyx=(1, *shape_yx), spacing_zyx_mm=(1.0, 1.0, 1.0), origin_xyz_mm=(0.0, 0.0, 0.0), direction=STRAIGHT, flat=True)


def triple(values: NDArray[Any]) -> TripleMm:
    """Three floats."""
    first, second, third = (float(v) for v in values)
    return first, second, third


def shear(affine: NDArray[np.float64]) -> float:
    """By how much, in radians, the worst pair of axes misses the right angle."""
    unit = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    products = unit.T @ unit
    return float(np.abs(np.arcsin(np.clip(products[np.triu_indices(3, 1)], -1, 1))).max())


def straightened(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The affine with the nearest perpendicular directions, spacing and origin as they were."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    left, _, right = np.linalg.svd(affine[:3, :3] / spacing)
    straight = affine.copy()
    straight[:3, :3] = (left @ right) * spacing
    return straight
