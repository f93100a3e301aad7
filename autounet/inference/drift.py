"""Whether an image looks like what the model was trained on: one line for each thing that does not."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autounet.images.geometry import Geometry
from autounet.images.orientation import orientation_of
from planners.errors import UserError
from planners.fingerprint import Fingerprint
from planners.plan import Plan

FAR = 1.5  # spacings and sizes beyond the training range by this factor
SAMPLES = 100_000


def differences(voxels_czyx: NDArray[Any], geometry: Geometry, fingerprint: Fingerprint, plan: Plan) -> tuple[str, ...]:
    """What differs from the training data, in words."""
    return (*_spacing(geometry, fingerprint), *_field_of_view(geometry, fingerprint), *_intensities(voxels_czyx, fingerprint))


def check_orientation(geometry: Geometry, fingerprint: Fingerprint, plan: Plan) -> None:
    """A network that is shown images as they are stored must have seen them stored that way; the user decides otherwise."""
    if plan.orientation == "canonical" or geometry.flat or not fingerprint.orientations:
        return
    code = orientation_of(geometry).code
    if code not in fingerprint.orientations:
        seen = ", ".join(fingerprint.orientations)
        raise UserError(
            f"the image is stored as {code}, the model was trained on {seen} and turns nothing",
            "store it so, or set unusual_geometry = true under [dataset] in autounet.toml to predict it as it is",
        )


def _spacing(geometry: Geometry, fingerprint: Fingerprint) -> list[str]:
    if fingerprint.dimensions == 2:
        return []
    seen = np.sort(np.array([case.spacing_zyx_mm for case in fingerprint.cases]), axis=1)
    low, high, found = seen.min(0), seen.max(0), np.sort(geometry.spacing_zyx_mm)
    if (found < low / FAR).any() or (found > high * FAR).any():
        return [f"voxels of {_mm(found)} mm: the training data had {_mm(low)} to {_mm(high)} mm"]
    return []


def _field_of_view(geometry: Geometry, fingerprint: Fingerprint) -> list[str]:
    sizes = np.array([np.multiply(case.shape_zyx, case.spacing_zyx_mm) for case in fingerprint.cases])
    low, found = np.sort(sizes, axis=1).min(0), np.sort(np.multiply(geometry.shape_zyx, geometry.spacing_zyx_mm))
    if (found < low / (2 * FAR)).any():
        return [f"a field of view of {_mm(found)} mm: the smallest in training had {_mm(low)} mm"]
    return []


def _intensities(voxels_czyx: NDArray[Any], fingerprint: Fingerprint) -> list[str]:
    notes = []
    for channel, seen in zip(voxels_czyx, fingerprint.channels, strict=False):
        flat = channel.ravel()[:: max(1, channel.size // SAMPLES)]
        if len(flat) and flat.min() == flat.max():
            notes.append(f"channel {seen.name} holds the value {float(flat[0]):g} alone")
            continue
        if seen.modality == "ct":
            share = float(((flat >= seen.foreground.percentile_00_5) & (flat <= seen.foreground.percentile_99_5)).mean())
            if share < 0.001:
                notes.append(
                    f"channel {seen.name} has no values between {seen.foreground.percentile_00_5:g} and "
                    f"{seen.foreground.percentile_99_5:g}, where the structures of the training data lay"
                )
    return notes


def _mm(values: NDArray[Any]) -> str:
    return " x ".join(f"{v:.3g}" for v in values)
