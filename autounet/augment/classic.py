"""The plan's list done by batchgenerators, the library that the reference grew up with: a second opinion, and a second back end."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autounet.augment.draw import Drawn
from autounet.augment.gather import OUTSIDE
from autounet.augment.spatial import Start, sampling_points
from planners.errors import UserError
from planners.fingerprint import Triple
from planners.plan import Augmentation, Step

# The library draws from numpy's and Python's own generators, of which a process has one each: whoever draws, draws alone.
_GLOBAL_GENERATORS = threading.RLock()
WHOLE = ("brightness", "contrast", "gamma", "gamma_inverted")  # steps it does to all channels or none
SPATIAL = ("rotation", "scaling", "elastic", "mirror")


class Classic:
    """Space through our sampling grid, so that the same box is read; intensities by its transforms, with the plan's ranges."""

    name = "batchgenerators"

    def __init__(self, augmentation: Augmentation, flat: bool) -> None:
        self._flat = flat
        in_plane = flat or augmentation.in_plane_only
        self._transforms = [_transform(step, in_plane, flat) for step in augmentation.steps if step.kind not in SPATIAL]

    def warp(self, image_czyx: Tensor, labels_nzyx: Tensor, drawn: Drawn, patch_zyx: Triple, middle_zyx: Start) -> tuple[Tensor, Tensor]:
        """As `spatial.warp`, by SciPy's interpolation, label by label."""
        from batchgenerators.augmentations.utils import interpolate_img

        points = sampling_points(drawn, patch_zyx, middle_zyx, image_czyx.device)
        coordinates = np.stack([(first + last).expand(patch_zyx).numpy() for first, last in points]).astype(np.float64)
        image = [interpolate_img(channel.numpy(), coordinates, 1, "constant", 0.0, False) for channel in image_czyx]
        # It takes 0 for nothing; here that is a label, and nothing is -1.
        labels = [interpolate_img(label.numpy() - OUTSIDE, coordinates, 1, "constant", 0.0, True) + OUTSIDE for label in labels_nzyx]
        kind = labels_nzyx.numpy().dtype
        return torch.from_numpy(np.stack(image).astype(np.float32)), torch.from_numpy(np.stack(labels).astype(kind))

    def effects(self, image_czyx: Tensor, drawn: Drawn, rng: np.random.Generator) -> Tensor:
        """The image after all intensity steps, which are drawn here: `drawn` holds those of the other back end."""
        data: dict[str, Any] = {"data": image_czyx.numpy()[None]}
        if self._flat:
            data["data"] = data["data"][:, :, 0]
        with seeded(int(rng.integers(2**32))):
            for transform in self._transforms:
                data = transform(**data)
        return torch.from_numpy(np.ascontiguousarray(data["data"][0], np.float32).reshape(image_czyx.shape))


def _transform(step: Step, in_plane: bool, flat: bool) -> Any:
    from batchgenerators.transforms import color_transforms as color
    from batchgenerators.transforms import noise_transforms as noise
    from batchgenerators.transforms.resample_transforms import SimulateLowResolutionTransform

    if step.kind in WHOLE and step.channel_probability < 1:
        problem = f"batchgenerators cannot do {step.kind} to some channels only"
        raise UserError(problem, 'write "backend": "native" in the augmentation of plan.json')
    span, often = (step.low, step.high), {"p_per_sample": step.probability}
    some = {**often, "p_per_channel": step.channel_probability}
    match step.kind:
        case "noise":
            return noise.GaussianNoiseTransform(span, per_channel=False, **some)
        case "blur":
            return noise.GaussianBlurTransform(span, different_sigma_per_channel=True, different_sigma_per_axis=True, **some)
        case "brightness":
            return color.BrightnessMultiplicativeTransform(span, per_channel=True, **often)
        case "contrast":
            return color.ContrastAugmentationTransform(span, preserve_range=True, per_channel=True, **often)
        case "low_resolution":
            kept = (0,) if in_plane and not flat else None
            return SimulateLowResolutionTransform(span, per_channel=True, order_downsample=0, order_upsample=1, ignore_axes=kept, **some)
        case _:
            return color.GammaTransform(span, step.kind == "gamma_inverted", per_channel=True, retain_stats=True, **often)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The process's own generators at this seed, then as they were."""
    with _GLOBAL_GENERATORS:
        before, before_python = np.random.get_state(), random.getstate()
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(before)
            random.setstate(before_python)
