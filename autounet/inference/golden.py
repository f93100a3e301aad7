"""A made-up image and what the model makes of it, so that an installation can be checked without a patient's data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from autounet.images.geometry import Geometry, geometry_from_affine, picture_geometry
from autounet.inference.ensemble import Ensemble, Options, predict_case
from autounet.inference.settings import Member
from autounet.rng import generator
from autounet.store.bundle import Golden
from autounet.store.selection import Selection
from planners.fingerprint import Fingerprint, TripleMm
from planners.plan import Plan

VOXELS = 2**18
SAME = 0.999  # of the voxels: another processor rounds otherwise


@dataclass(frozen=True, slots=True)
class MadeUp:
    """An image of no patient, always the same for a model."""

    image_czyx: NDArray[np.float32]
    spacing_zyx_mm: TripleMm


def make_golden(plan: Plan, fingerprint: Fingerprint, selection: Selection, members: Mapping[str, Sequence[Member]]) -> Golden:
    """The made-up image, predicted by the first fold of each voter, unmirrored."""
    made_up = made_up_image(plan, fingerprint, selection)
    z, y, x = made_up.image_czyx.shape[1:]
    geometry = geometry_of(plan, (z, y, x), made_up.spacing_zyx_mm)
    label = predict_case(Ensemble(plan, members, selection.members), made_up.image_czyx, geometry, golden_options())
    return Golden(image_czyx=made_up.image_czyx, label_zyx=label.label_zyx.astype(np.int32), spacing_zyx_mm=made_up.spacing_zyx_mm)


def made_up_image(plan: Plan, fingerprint: Fingerprint, selection: Selection) -> MadeUp:
    """Smooth noise in the range of the training data's intensities, of about the size of a patch."""
    from scipy import ndimage

    configuration = plan.configuration(selection.members[0].configuration)
    spacing = dict(zip(plan.axis_order, configuration.spacing_zyx_mm, strict=True))
    patch = dict(zip(plan.axis_order, configuration.patch_zyx, strict=True))
    shape = [min(patch[axis] + patch[axis] // 4, 512) for axis in range(3)]
    while prod(shape) > VOXELS:
        longest = int(np.argmax(shape))
        shape[longest] = shape[longest] // 2
    mm: TripleMm = (spacing[0], spacing[1], spacing[2])
    channels = []
    for number, seen in enumerate(fingerprint.channels):
        noise = ndimage.gaussian_filter(generator(0, "golden", number).standard_normal(shape), [min(4, s / 4) for s in shape])
        low, high = seen.foreground.percentile_00_5, seen.foreground.percentile_99_5
        share = (noise - noise.min()) / max(np.ptp(noise), 1e-9)
        channels.append((low + share * (high - low)).astype(np.float32))
    return MadeUp(np.stack(channels), mm)


def golden_options() -> Options:
    """How the golden image is predicted."""
    return Options(mirror=False, folds=1, step_fraction=1.0)


def geometry_of(plan: Plan, shape_zyx: tuple[int, ...], mm: TripleMm) -> Geometry:
    """A patient who lies straight, or a picture."""
    z, y, x = shape_zyx
    if plan.dimensions == 2:
        return picture_geometry((y, x))
    return geometry_from_affine((z, y, x), np.diag([mm[2], mm[1], mm[0], 1.0]))


def agreement(golden: Golden, ensemble: Ensemble) -> float:
    """The share of voxels on which this machine agrees with the one that wrote the model."""
    z, y, x = golden.label_zyx.shape
    geometry = geometry_of(ensemble.plan, (z, y, x), golden.spacing_zyx_mm)
    found = predict_case(ensemble, golden.image_czyx, geometry, golden_options()).label_zyx
    return float((found == golden.label_zyx).mean())
