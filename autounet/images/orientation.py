"""Turning stored voxels to canonical axes (z to the head, y to the front, x to the right) and back, exactly.

Only axes are exchanged and reversed, so nothing is interpolated and the way back is the identity.
"""

from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autounet.images.geometry import Geometry, triple
from planners.fingerprint import Triple, TripleMm

TIE = 1e-3  # two choices of axes this close are equal, and the stored order wins: near 45 degrees noise must not decide
_LETTERS = (("L", "R"), ("P", "A"), ("I", "S"))  # towards lower and higher world x, y, z


@dataclass(frozen=True, slots=True, kw_only=True)
class Orientation:
    """Canonical axis i is the stored axis `axes_zyx[i]`, reversed where `flips_zyx[i]`."""

    axes_zyx: Triple
    flips_zyx: tuple[bool, bool, bool]
    code: str  # where the stored x, y and z index grow to, say "LPS"; "2D" for a picture, which is never turned

    @property
    def stored_axes(self) -> Triple:
        """The stored axis i is the canonical axis `stored_axes[i]`."""
        z, y, x = (self.axes_zyx.index(axis) for axis in range(3))
        return z, y, x


PICTURE = Orientation(axes_zyx=(0, 1, 2), flips_zyx=(False, False, False), code="2D")


def orientation_of(geometry: Geometry) -> Orientation:
    """The turn that brings the stored axes nearest to the canonical ones."""
    if geometry.flat:
        return PICTURE
    direction = np.array(geometry.direction).reshape(3, 3)  # rows: world x, y, z; columns: stored x, y, z
    columns = _nearest_columns(np.abs(direction))
    towards_higher = [bool(direction[world, columns[world]] >= 0) for world in range(3)]
    letters = {columns[world]: _LETTERS[world][towards_higher[world]] for world in range(3)}
    z, y, x = (2 - columns[world] for world in (2, 1, 0))
    return Orientation(
        axes_zyx=(z, y, x),
        flips_zyx=(not towards_higher[2], not towards_higher[1], not towards_higher[0]),
        code="".join(letters[column] for column in range(3)),
    )


def orient(array: NDArray[Any], orientation: Orientation) -> NDArray[Any]:
    """A view of a stored array with its last three axes made canonical."""
    lead = array.ndim - 3
    turned = array.transpose(*range(lead), *(lead + axis for axis in orientation.axes_zyx))
    view: NDArray[Any] = turned[(..., *_steps(orientation))]
    return view


def restore(array: NDArray[Any], orientation: Orientation) -> NDArray[Any]:
    """A view of a canonical array with its last three axes as they are stored: undoes `orient` exactly."""
    lead = array.ndim - 3
    unflipped: NDArray[Any] = array[(..., *_steps(orientation))]
    return unflipped.transpose(*range(lead), *(lead + axis for axis in orientation.stored_axes))


def orient_geometry(geometry: Geometry, orientation: Orientation) -> Geometry:
    """The grid of the array that `orient` gives: every voxel keeps its place in the patient."""
    affine = geometry.affine_ras
    shape_xyz, spacing_xyz = geometry.shape_zyx[::-1], geometry.spacing_zyx_mm[::-1]
    direction = np.array(geometry.direction).reshape(3, 3)
    columns = [2 - axis for axis in orientation.axes_zyx[::-1]]  # stored x, y, z index behind canonical x, y, z
    flips = orientation.flips_zyx[::-1]
    first_xyz = np.zeros(3)
    for column, flip in zip(columns, flips, strict=True):
        first_xyz[column] = shape_xyz[column] - 1 if flip else 0
    x, y, z = columns
    turned = direction[:, columns] * np.where(flips, -1.0, 1.0)
    spacing: TripleMm = (spacing_xyz[z], spacing_xyz[y], spacing_xyz[x])
    return Geometry(
        shape_zyx=(shape_xyz[z], shape_xyz[y], shape_xyz[x]),
        spacing_zyx_mm=spacing,
        origin_xyz_mm=triple(affine[:3, :3] @ first_xyz + affine[:3, 3]) if any(flips) else geometry.origin_xyz_mm,
        direction=tuple(float(v) for v in turned.ravel()),
        flat=geometry.flat,
    )


def _nearest_columns(size: NDArray[np.float64]) -> tuple[int, ...]:
    """For world x, y, z the stored index that runs most along it; `size` holds absolute cosines."""
    choices = list(permutations(range(3)))  # the stored order comes first
    scores = [float(sum(size[world, choice[world]] for world in range(3))) for choice in choices]
    best = max(scores)
    return next(choice for choice, score in zip(choices, scores, strict=True) if score >= best - TIE)


def _steps(orientation: Orientation) -> Any:
    return tuple(slice(None, None, -1 if flip else None) for flip in orientation.flips_zyx)
