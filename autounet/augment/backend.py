"""Who does what was drawn: this package, or batchgenerators; and which of them is faster here."""

import time
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from autounet.augment import spatial
from autounet.augment.draw import Drawn, draw
from autounet.augment.intensity import apply_effects
from autounet.augment.spatial import Start
from autounet.rng import generator
from planners.errors import UserError
from planners.fingerprint import Triple
from planners.plan import Augmentation

TRIES = 8  # drawings of the list; both do the same ones
CLEARLY = 0.8  # of our time: less is chance
PROBE_EDGE = {2: 160, 3: 40}  # voxels; the ratio is that of the whole patch, and the probe takes a tenth of a second


class Backend(Protocol):
    """Does what was drawn to one sample."""

    @property
    def name(self) -> str:
        """As plans write it."""

    def warp(self, image_czyx: Tensor, labels_nzyx: Tensor, drawn: Drawn, patch_zyx: Triple, middle_zyx: Start) -> tuple[Tensor, Tensor]:
        """The patch around the middle of a box."""

    def effects(self, image_czyx: Tensor, drawn: Drawn, rng: np.random.Generator) -> Tensor:
        """The image after all intensity steps."""


class Native:
    """This package."""

    name = "native"

    def warp(self, image_czyx: Tensor, labels_nzyx: Tensor, drawn: Drawn, patch_zyx: Triple, middle_zyx: Start) -> tuple[Tensor, Tensor]:
        """One sampling grid."""
        return spatial.warp(image_czyx, labels_nzyx, drawn, patch_zyx, middle_zyx)

    def effects(self, image_czyx: Tensor, drawn: Drawn, rng: np.random.Generator) -> Tensor:
        """In place, as drawn."""
        apply_effects(image_czyx, drawn.effects)
        return image_czyx


def backend(name: str, augmentation: Augmentation, flat: bool) -> Backend:
    """The back end of that name; `flat` when patches are slices."""
    if name == "native":
        return Native()
    from autounet.augment.classic import Classic

    return Classic(augmentation, flat)


def chosen(augmentation: Augmentation, channels: int, patch_zyx: Triple, probes: bool = True) -> tuple[str, str]:
    """The back end that the plan names, or with "auto" the faster one; and how that was found."""
    if augmentation.backend != "auto":
        return augmentation.backend, "the plan says so"
    if not probes:
        return "native", "several processes train together"
    flat = patch_zyx[0] == 1
    edge = PROBE_EDGE[2 if flat else 3]
    small = (min(patch_zyx[0], edge), min(patch_zyx[1], edge), min(patch_zyx[2], edge))
    ours = _seconds(Native(), augmentation, channels, small)
    try:
        theirs = _seconds(backend("batchgenerators", augmentation, flat), augmentation, channels, small)
    except UserError as error:
        return "native", error.problem
    name = "batchgenerators" if theirs < CLEARLY * ours else "native"
    return name, f"native {1000 * ours:.1f} ms, batchgenerators {1000 * theirs:.1f} ms for a patch of {small}"


def _seconds(one: Backend, augmentation: Augmentation, channels: int, patch_zyx: Triple) -> float:
    """Time of this thread for a patch; the first one, which imports and allocates, does not count."""
    spent = []
    for index in range(-1, TRIES):
        rng = generator(0, "probe", index)
        drawn = draw(augmentation, channels, patch_zyx[0] == 1, rng)
        image = torch.from_numpy(rng.standard_normal((channels, *patch_zyx), np.float32))
        labels = torch.zeros(1, *patch_zyx, dtype=torch.int16)
        labels[:, :, patch_zyx[1] // 3 :, patch_zyx[2] // 4 :] = 1
        z, y, x = ((size - 1) / 2 for size in patch_zyx)
        began = time.thread_time()
        if drawn.warped:
            image, labels = one.warp(image, labels, drawn, patch_zyx, (z, y, x))
        one.effects(image, drawn, rng)
        spent.append(time.thread_time() - began)
    return sum(spent[1:]) / TRIES
