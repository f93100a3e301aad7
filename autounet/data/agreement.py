"""Whether two images of one case lie on the same grid: judged in millimetres, at the corners."""

from dataclasses import dataclass
from typing import Literal

from autounet.images.geometry import STRAIGHT, Geometry
from autounet.images.orientation import orient_geometry, orientation_of

Verdict = Literal["same", "header", "mismatch"]
NOISE_VOXELS = 0.05  # of the shortest edge of a voxel: what rounding in a header does to a far corner
HALF_VOXEL = 0.5


@dataclass(frozen=True, slots=True)
class Agreement:
    """same: up to noise. header: the arrays fit, the header says a little else or nothing. mismatch: another place."""

    verdict: Verdict
    found: str = ""
    turned: bool = False  # the same grid, but stored along other axes


def compare(image: Geometry, other: Geometry) -> Agreement:
    """The grid of `other` (a label or a further channel) against that of the image."""
    if image.shape_zyx == other.shape_zyx:
        if image.flat or other.flat:
            return Agreement("same") if image.flat == other.flat else Agreement("header", "one of the two headers places nothing")
        distance = image.corner_distance_mm(other)
        if distance <= NOISE_VOXELS * min(image.spacing_zyx_mm):
            return Agreement("same")
    turned = _turned(image, other)
    if turned is not None:
        return turned
    if image.shape_zyx != other.shape_zyx:
        return Agreement("mismatch", f"{_size(other)} voxels against {_size(image)} (slices, rows, columns)")
    if is_blank(other) and not is_blank(image):
        return Agreement("header", "its header says nothing of the patient (1 mm voxels at the origin)")
    if distance <= HALF_VOXEL * min(image.spacing_zyx_mm):
        return Agreement("header", f"a corner lies {distance:.3g} mm away, less than half a voxel")
    return Agreement("mismatch", f"a corner lies {distance:.4g} mm away{_what(image, other)}")


def is_blank(geometry: Geometry) -> bool:
    """A header that a program wrote because it had to: unit voxels, no origin, straight or reversed axes."""
    straight = all(abs(abs(a) - b) < 1e-6 for a, b in zip(geometry.direction, STRAIGHT, strict=True))
    return geometry.flat or (straight and geometry.spacing_zyx_mm == (1.0, 1.0, 1.0) and not any(geometry.origin_xyz_mm))


def _turned(image: Geometry, other: Geometry) -> Agreement | None:
    if image.flat or other.flat:
        return None
    ours, theirs = orientation_of(image), orientation_of(other)
    if (ours.axes_zyx, ours.flips_zyx) == (theirs.axes_zyx, theirs.flips_zyx):
        return None
    a, b = orient_geometry(image, ours), orient_geometry(other, theirs)
    if a.shape_zyx == b.shape_zyx and a.corner_distance_mm(b) <= NOISE_VOXELS * min(a.spacing_zyx_mm):
        return Agreement("same", f"it is stored {theirs.code}, the image {ours.code}: turned without loss", turned=True)
    return None


def _what(image: Geometry, other: Geometry) -> str:
    parts = []
    if any(abs(a / b - 1) > 1e-3 for a, b in zip(image.spacing_zyx_mm, other.spacing_zyx_mm, strict=True)):
        parts.append(f"spacing {_mm(other.spacing_zyx_mm)} against {_mm(image.spacing_zyx_mm)} mm")
    if max(abs(a - b) for a, b in zip(image.direction, other.direction, strict=True)) > 1e-3:
        parts.append(f"directions {orientation_of(other).code} against {orientation_of(image).code}")
    if max(abs(a - b) for a, b in zip(image.origin_xyz_mm, other.origin_xyz_mm, strict=True)) > 1e-3:
        parts.append(f"origin {_mm(other.origin_xyz_mm)} against {_mm(image.origin_xyz_mm)} mm")
    return ": " + "; ".join(parts) if parts else ""


def _mm(values: tuple[float, ...]) -> str:
    return "x".join(f"{v:.4g}" for v in values)


def _size(geometry: Geometry) -> str:
    return "x".join(map(str, geometry.shape_zyx))
