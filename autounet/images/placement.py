"""From the directions a header gives to a grid we trust: rectangular, in millimetres, where a patient can lie."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autounet.images.geometry import Geometry, geometry_from_affine, shear, straightened
from autounet.images.image import ReadOptions
from autounet.images.source import Named
from planners.fingerprint import Triple

NOISE_SHEAR = 1e-5  # radians: single precision
SLIGHT_SHEAR = 1e-2  # radians: converter noise; beyond it the grid is really skewed
SHORTEST_MM, LONGEST_MM, FARTHEST_MM = 0.01, 50.0, 1e5
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, slots=True)
class Placed:
    """A geometry and what had to be decided to get it."""

    geometry: Geometry
    notes: tuple[str, ...] = ()


def rectangular(source: Named, shape_zyx: Triple, affine: NDArray[np.float64], where: str) -> Placed:
    """The geometry of an affine in RAS millimetres; `where` names the header field it came from."""
    norms = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all():
        raise source.refuse(f"has a number in its {where} that is not finite", "correct the header")
    if not norms.min() or abs(np.linalg.det(affine[:3, :3] / norms)) < 1e-3:
        raise source.refuse(f"has a singular {where}: it flattens the volume", "correct the header")
    angle = shear(affine)
    if angle > SLIGHT_SHEAR:
        raise source.refuse(
            f"has a skewed grid: its axes miss the right angle by {np.degrees(angle):.3g} degrees ({where})",
            "resample the image to a rectangular grid first",
        )
    if angle <= NOISE_SHEAR:
        return Placed(geometry_from_affine(shape_zyx, affine))
    note = f"axes that missed the right angle by {np.degrees(angle):.2g} degrees were straightened"
    return Placed(geometry_from_affine(shape_zyx, straightened(affine)), (note,))


def from_lps(source: Named, shape_zyx: Triple, directions_lps: NDArray[np.float64], origin_lps: NDArray[np.float64], where: str) -> Placed:
    """The geometry of directions (columns, with the spacing in them) and origin that count left, back and head positive."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = directions_lps, origin_lps
    if not np.isfinite(affine).all():
        raise source.refuse(f"has a number in its {where} or origin that is not finite", "correct the header")
    return rectangular(source, shape_zyx, LPS_TO_RAS @ affine, where)


def index_of_lps(geometry: Geometry) -> NDArray[np.float64]:
    """4 x 4: from a position (left, back, head, 1) to the file's voxel index."""
    inverse: NDArray[np.float64] = np.asarray(np.linalg.inv(geometry.affine_ras) @ LPS_TO_RAS, np.float64)
    return inverse


def checked(source: Named, geometry: Geometry, options: ReadOptions, *, shortest_mm: float = SHORTEST_MM) -> Geometry:
    """The geometry with the user's spacing, if given; spacings and origins that no scanner makes are asked about."""
    if options.spacing_zyx_mm is not None:
        geometry = geometry.with_spacing(options.spacing_zyx_mm)
    if options.unusual_geometry:
        return geometry
    for axis, mm in zip("zyx", geometry.spacing_zyx_mm, strict=True):
        if not shortest_mm <= mm <= LONGEST_MM and options.spacing_zyx_mm is None:
            raise source.refuse(
                f"has a spacing of {mm:g} mm along {axis}, outside {shortest_mm:g} to {LONGEST_MM:g} mm",
                "set spacing_zyx_mm = [z, y, x] under [dataset] in autounet.toml to correct it, or unusual_geometry = true if it is right",
            )
    if max(map(abs, geometry.origin_xyz_mm)) > FARTHEST_MM:
        x, y, z = geometry.origin_xyz_mm
        raise source.refuse(
            f"lies at ({x:g}, {y:g}, {z:g}) mm, more than {FARTHEST_MM / 1000:g} m away",
            "correct the origin, or set unusual_geometry = true under [dataset] in autounet.toml if it is right",
        )
    return geometry
