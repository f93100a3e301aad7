"""What was drawn for the samples of a batch, done to all of them at once on one device, without a question to it.

The same as sample by sample on the processor, up to rounding; noise alone is made of other random numbers (see `hashed`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autounet.augment.dense import parties, resampled_together
from autounet.augment.draw import Drawn
from autounet.augment.gather import OUTSIDE
from autounet.augment.spatial import Start, flipped, sampling_points, slices, slices_read
from autounet.augment.upload import pinned, uploaded
from planners.fingerprint import Triple


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """What was read for one sample, and what shall be done with it. Without a warp it is the patch itself, not yet flipped."""

    image_czyx: Tensor
    labels_nzyx: Tensor
    drawn: Drawn
    middle_zyx: Start  # of the patch, in voxels of the box

    def packed(self, patch_zyx: Triple, device: torch.device) -> "Box":
        """Ready for a copy to the device: the slices that an in-plane warp reads, in memory from which it can be copied without waiting."""
        image, labels = self.image_czyx, self.labels_nzyx
        if self.drawn.warped and self.drawn.in_plane:
            rows = slices_read(self.drawn, patch_zyx[0], self.middle_zyx[0])
            image, labels = slices(image, rows, 0.0), slices(labels, rows, OUTSIDE)
        return Box(image_czyx=pinned(image, device), labels_nzyx=pinned(labels, device), drawn=self.drawn, middle_zyx=self.middle_zyx)


def warped(boxes: Sequence[Box], patch_zyx: Triple, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images (b, c, z, y, x) and labels (b, n, z, y, x) of packed boxes on the device, as `spatial` makes them of each."""
    first = boxes[0]
    image = torch.empty(len(boxes), len(first.image_czyx), *patch_zyx, dtype=first.image_czyx.dtype, device=device)
    labels = torch.empty(len(boxes), len(first.labels_nzyx), *patch_zyx, dtype=first.labels_nzyx.dtype, device=device)
    for index, box in enumerate(boxes):
        if not box.drawn.warped:
            image[index] = flipped(uploaded(box.image_czyx, device), box.drawn.flips)
            labels[index] = flipped(uploaded(box.labels_nzyx, device), box.drawn.flips)
    for in_plane in (True, False):
        members = [index for index, box in enumerate(boxes) if box.drawn.warped and box.drawn.in_plane == in_plane]
        points = patch_zyx[1] * patch_zyx[2] * (1 if in_plane else patch_zyx[0])
        for party in parties(len(members), points):
            chosen = [members[number] for number in party]
            done = (_slices if in_plane else _volumes)([boxes[index] for index in chosen], patch_zyx, device)
            for number, index in enumerate(chosen):
                image[index], labels[index] = done[0][number].view(image.shape[1:]), done[1][number].view(labels.shape[1:])
    return image, labels


def _volumes(boxes: Sequence[Box], patch_zyx: Triple, device: torch.device) -> tuple[Tensor, Tensor]:
    points = [sampling_points(box.drawn, patch_zyx, box.middle_zyx, device) for box in boxes]
    images, labels = (
        [uploaded(maps, device) for maps in kind] for kind in zip(*((b.image_czyx, b.labels_nzyx) for b in boxes), strict=True)
    )
    return resampled_together(images, labels, points, patch_zyx)


def _slices(boxes: Sequence[Box], patch_zyx: Triple, device: torch.device) -> tuple[Tensor, Tensor]:
    """One grid serves all slices of a sample: they are so many maps."""
    grids = [sampling_points(box.drawn, patch_zyx, box.middle_zyx, device)[1:] for box in boxes]
    points = [[(first[0], last[0]) for first, last in grid] for grid in grids]
    images = [uploaded(box.image_czyx, device).flatten(0, 1) for box in boxes]
    labels = [uploaded(box.labels_nzyx, device).flatten(0, 1) for box in boxes]
    return resampled_together(images, labels, points, patch_zyx[1:])
