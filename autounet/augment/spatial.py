"""One sampling grid for rotation, scaling, elastic, flips and the crop; images and labels are read through it together."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from autounet.augment.draw import Drawn
from autounet.augment.gather import OUTSIDE, Points, resampled
from autounet.augment.upload import uploaded
from planners.fingerprint import Triple

CONTROL_VOXELS = 16  # between the knots of the elastic displacement
PROCESSOR = torch.device("cpu")
Start = tuple[float, float, float]


def flipped(maps: Tensor, flips: Sequence[int]) -> Tensor:
    """The last three axes, mirrored."""
    return torch.flip(maps, [axis - 3 for axis in flips]) if flips else maps


def sampling_points(drawn: Drawn, patch_zyx: Triple, middle_zyx: Start, device: torch.device) -> list[Points]:
    """Per axis, where in the box each voxel of the patch comes from, as two addends; flips are in it."""
    offsets = []
    for axis, edge in enumerate(patch_zyx):
        ramp = torch.arange(edge, dtype=torch.float32, device=device) - (edge - 1) / 2
        shape = [1, 1, 1]
        shape[axis] = edge
        offsets.append((-ramp if axis in drawn.flips else ramp).view(shape))
    if drawn.elastic is not None:
        field = displacement(patch_zyx, drawn.elastic.voxels, drawn.elastic.seed, device)
        offsets = [offset + shift for offset, shift in zip(offsets, field, strict=True)]
    return [
        (row[0] * offsets[0] + row[1] * offsets[1] + middle, row[2] * offsets[2])
        for row, middle in zip(drawn.matrix, middle_zyx, strict=True)
    ]


def displacement(patch_zyx: Triple, voxels: float, seed: int, device: torch.device = PROCESSOR) -> Tensor:
    """(3, z, y, x): random knots joined by cubic B-splines; the longest step along each axis is `voxels`."""
    rng = np.random.Generator(np.random.Philox(seed))
    knots = [max(4, -(-edge // CONTROL_VOXELS) + 3) for edge in patch_zyx]
    field = uploaded(rng.standard_normal((3, *knots)).astype(np.float32), device)
    for axis, edge in enumerate(patch_zyx):
        weights = uploaded(_spline(edge, knots[axis]), device)
        field = torch.tensordot(field, weights, dims=([1], [1]))  # the axes rotate round to their places
    if patch_zyx[0] == 1:
        field[0] = 0
    return field * (voxels / field.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-6))


def _spline(edge: int, knots: int) -> Tensor:
    """(edge, knots) weights of the uniform cubic B-spline, on the processor as the knots."""
    at = torch.linspace(0, knots - 3 - 1e-4, edge, device="cpu")
    cell, t = at.long(), at - at.floor()
    weights = torch.stack(((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3), 1) / 6
    matrix = torch.zeros(edge, knots, device="cpu")
    return matrix.scatter_(1, cell[:, None] + torch.arange(4, device="cpu"), weights)


def warp(image_czyx: Tensor, labels_nzyx: Tensor, drawn: Drawn, patch_zyx: Triple, middle_zyx: Start) -> tuple[Tensor, Tensor]:
    """The patch around the middle of a box: images linear and zero outside, labels by majority and -1 outside."""
    points = sampling_points(drawn, patch_zyx, middle_zyx, image_czyx.device)
    if not drawn.in_plane:
        return resampled(image_czyx, labels_nzyx, points, patch_zyx)
    # One grid serves all slices: they are so many maps, and a point has four neighbours instead of eight.
    rows = slices_read(drawn, patch_zyx[0], middle_zyx[0])
    flat = tuple(slices(maps, rows, outside).flatten(0, 1) for maps, outside in ((image_czyx, 0.0), (labels_nzyx, OUTSIDE)))
    image, labels = resampled(flat[0], flat[1], [(first[0], last[0]) for first, last in points[1:]], patch_zyx[1:])
    return image.view(-1, *patch_zyx), labels.view(-1, *patch_zyx)


def slices_read(drawn: Drawn, depth: int, middle: float) -> list[int]:
    """Which slices of the box an in-plane warp reads, in the order of the patch."""
    sign = -1 if 0 in drawn.flips else 1
    return [round(middle + sign * (index - (depth - 1) / 2)) for index in range(depth)]


def slices(maps_nzyx: Tensor, rows: list[int], outside: float) -> Tensor:
    """These slices; beyond the box there is nothing."""
    if rows == list(range(maps_nzyx.shape[1])):
        return maps_nzyx
    inside = [0 <= row < maps_nzyx.shape[1] for row in rows]
    if all(inside):
        return maps_nzyx[:, rows]
    found = maps_nzyx.new_full((maps_nzyx.shape[0], len(rows), *maps_nzyx.shape[2:]), outside)
    for index, row in enumerate(rows):
        if inside[index]:
            found[:, index] = maps_nzyx[:, row]
    return found
