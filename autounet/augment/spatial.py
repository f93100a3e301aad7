"""One sampling grid for rotation, scaling, elastic, flips and the crop; labels by one pass over eight neighbours."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from autounet.augment.draw import Drawn
from planners.fingerprint import Triple

OUTSIDE = -1  # label where there is no volume
UNDECIDED = -2  # mark of a cell whose eight corners differ
CONTROL_VOXELS = 16  # between the knots of the elastic displacement
TIE = 1e-4  # weights nearer than this are equal
Start = tuple[float, float, float]


def flipped(maps: Tensor, flips: Sequence[int]) -> Tensor:
    """The last three axes, mirrored."""
    return torch.flip(maps, [axis - 3 for axis in flips]) if flips else maps


def sampling_points(drawn: Drawn, patch_zyx: Triple, middle_zyx: Start, device: torch.device) -> list[Tensor]:
    """Per axis, where in the box each voxel of the patch comes from, broadcastable to the patch; flips are in it."""
    offsets = []
    for axis, edge in enumerate(patch_zyx):
        ramp = torch.arange(edge, dtype=torch.float32, device=device) - (edge - 1) / 2
        shape = [1, 1, 1]
        shape[axis] = edge
        offsets.append((-ramp if axis in drawn.flips else ramp).view(shape))
    if drawn.elastic is not None:
        field = displacement(patch_zyx, drawn.elastic.voxels, drawn.elastic.seed).to(device)
        offsets = [offset + shift for offset, shift in zip(offsets, field, strict=True)]
    points = []
    for row, middle in zip(drawn.matrix, middle_zyx, strict=True):
        used = [weight * offset for weight, offset in zip(row, offsets, strict=True) if weight != 0]
        points.append(sum(used[1:], used[0] + middle))
    return points


def displacement(patch_zyx: Triple, voxels: float, seed: int) -> Tensor:
    """(3, z, y, x): random knots joined by cubic B-splines; the longest component is `voxels`."""
    rng = np.random.Generator(np.random.Philox(seed))
    knots = [max(4, -(-edge // CONTROL_VOXELS) + 3) for edge in patch_zyx]
    field = torch.from_numpy(rng.standard_normal((3, *knots)).astype(np.float32))
    for axis, edge in enumerate(patch_zyx):
        field = torch.tensordot(field, _spline(edge, knots[axis]), dims=([1], [1]))  # the axes rotate round to their places
    if patch_zyx[0] == 1:
        field[0] = 0
    return field * (voxels / field.abs().max().clamp_min(1e-6))


def _spline(edge: int, knots: int) -> Tensor:
    """(edge, knots) weights of the uniform cubic B-spline."""
    at = torch.linspace(0, knots - 3 - 1e-4, edge)
    cell, t = at.long(), at - at.floor()
    weights = torch.stack(((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3), 1) / 6
    matrix = torch.zeros(edge, knots)
    return matrix.scatter_(1, cell[:, None] + torch.arange(4), weights)


def warp_image(box_czyx: Tensor, points: list[Tensor], patch_zyx: Triple, in_plane: bool) -> Tensor:
    """Linear interpolation; zero outside."""
    if in_plane:
        # Slices become channels: one grid serves all of them, and torch's flat sampler is vectorised.
        slices, points = _slices(box_czyx, points, patch_zyx[0], 0.0)
        grid = _grid([p[0] for p in points[1:]], patch_zyx[1:], box_czyx.shape[2:])
        flat = slices.reshape(1, -1, *box_czyx.shape[2:])
        return _sample(flat, grid).view(box_czyx.shape[0], *patch_zyx)
    return _sample(box_czyx[None], _grid(points, patch_zyx, box_czyx.shape[1:]))[0]


def warp_labels(boxes_nzyx: Tensor, points: list[Tensor], patch_zyx: Triple, in_plane: bool) -> Tensor:
    """The label whose linearly interpolated indicator is largest; -1 outside. Each map on its own."""
    if in_plane:
        boxes_nzyx, points = _slices(boxes_nzyx, points, patch_zyx[0], OUTSIDE)
    sizes = boxes_nzyx.shape[1:]
    padded = functional.pad(boxes_nzyx, (1, 1, 1, 1, 0, 0) if in_plane else (1, 1) * 3, value=OUTSIDE)
    strides = (padded.shape[2] * padded.shape[3], padded.shape[3], 1)
    corner: Tensor | None = None
    for axis, (point, size, stride) in enumerate(zip(points, sizes, strides, strict=True)):
        # Not below 0, so that cutting off is floor.
        index = (point if in_plane and axis == 0 else (point + 1).clamp(0, size)).to(torch.int32)
        corner = index * stride if corner is None else corner + index * stride
    assert corner is not None
    corner = corner.expand(patch_zyx).reshape(-1)
    warped = torch.empty(boxes_nzyx.shape[0], corner.shape[0], dtype=boxes_nzyx.dtype, device=boxes_nzyx.device)
    for layer, labels in enumerate(padded):
        found = torch.index_select(_uniform_cells(labels, in_plane).reshape(-1), 0, corner)
        open_at = torch.nonzero(found == UNDECIDED).squeeze(1)
        if len(open_at):
            shares = _shares(points[in_plane:], sizes[in_plane:], patch_zyx, open_at)
            found[open_at] = _vote(*_neighbours(labels, corner[open_at].long(), shares, strides[in_plane:]))
        warped[layer] = found
    return warped.view(-1, *patch_zyx)


def _uniform_cells(labels_zyx: Tensor, in_plane: bool) -> Tensor:
    """At the lower corner of each 2x2x2 cell: its label where all eight (in the plane: four) agree, else UNDECIDED."""
    edge = labels_zyx[:, :, :-1] == labels_zyx[:, :, 1:]
    face = edge[:, :-1] & edge[:, 1:] & (labels_zyx[:, :-1, :-1] == labels_zyx[:, 1:, :-1])
    marked = labels_zyx.clone()
    if in_plane:
        marked[:, :-1, :-1].masked_fill_(~face, UNDECIDED)
        return marked
    cell = face[:-1] & face[1:] & (labels_zyx[:-1, :-1, :-1] == labels_zyx[1:, :-1, :-1])
    marked[:-1, :-1, :-1].masked_fill_(~cell, UNDECIDED)
    return marked


def _shares(points: Sequence[Tensor], sizes: Sequence[int], patch_zyx: Triple, chosen: Tensor) -> list[Tensor]:
    """Per axis how far each chosen point lies behind its lower corner, 0 to 1."""
    shares = []
    for point, size in zip(points, sizes, strict=True):
        at = (point.expand(patch_zyx).reshape(-1)[chosen] + 1).clamp(0, size + 1)
        shares.append((at - at.to(torch.int32).clamp_max(size)).clamp(0, 1))
    return shares


def _neighbours(labels_zyx: Tensor, corner: Tensor, shares: list[Tensor], strides: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Labels and weights (neighbour, point) of the corners of each point's cell."""
    flat = labels_zyx.reshape(-1)
    labels, weights = [], []
    for steps in product((0, 1), repeat=len(shares)):
        labels.append(flat[corner + sum(step * stride for step, stride in zip(steps, strides, strict=True))])
        factors = [share if step else 1 - share for step, share in zip(steps, shares, strict=True)]
        weight = factors[0] * factors[1]
        weights.append(weight * factors[2] if len(factors) == 3 else weight)
    return torch.stack(labels), torch.stack(weights)


def _vote(labels_np: Tensor, weights_np: Tensor) -> Tensor:
    """The label with most weight at each point; between two labels that is one sum, and there are seldom more."""
    low, high = torch.aminmax(labels_np, dim=0)
    is_high = labels_np == high
    share = (weights_np * is_high).sum(0)
    won = torch.where(share > 0.5, high, low)
    hard = torch.nonzero(~(is_high | (labels_np == low)).all(0) | ((share - 0.5).abs() < TIE)).squeeze(1)
    if len(hard):
        won[hard] = _full_vote(labels_np[:, hard], weights_np[:, hard])
    return won


def _full_vote(labels_np: Tensor, weights_np: Tensor) -> Tensor:
    best = labels_np[0].clone()
    most = torch.full_like(weights_np[0], -1.0)
    for candidate, own in zip(labels_np, weights_np, strict=True):
        # A tie goes to the nearer corner: its own weight decides, not the value of its label.
        score = (weights_np * (labels_np == candidate)).sum(0) + TIE * own
        better = score > most
        best = torch.where(better, candidate, best)
        most = torch.where(better, score, most)
    return best


def _grid(points: Sequence[Tensor], patch: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """Points in voxels to torch's grid: last axis first, -1 and 1 at the outer edges."""
    grid = torch.empty(1, *patch, len(patch), device=points[0].device)
    for position, (point, size) in enumerate(zip(reversed(points), reversed(sizes), strict=True)):
        torch.add((point * (2 / size)).expand(*patch), 1 / size - 1, out=grid[0, ..., position])
    return grid


def _sample(maps: Tensor, grid: Tensor) -> Tensor:
    return functional.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _slices(maps_nzyx: Tensor, points: list[Tensor], count: int, outside: float) -> tuple[Tensor, list[Tensor]]:
    """The slices that an in-plane warp reads, in its order; beyond the box there is nothing."""
    rows = points[0].round().long().expand(count, 1, 1).reshape(-1)
    ramp = torch.arange(count, device=rows.device).view(-1, 1, 1)
    if count == maps_nzyx.shape[1] and torch.equal(rows, ramp.view(-1)):
        return maps_nzyx, [ramp, *points[1:]]
    slices = maps_nzyx.new_full((maps_nzyx.shape[0], count, *maps_nzyx.shape[2:]), outside)
    inside = (rows >= 0) & (rows < maps_nzyx.shape[1])
    slices[:, inside] = maps_nzyx[:, rows[inside]]
    return slices, [ramp, *points[1:]]
