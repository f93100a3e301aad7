"""The gathers of several samples at once, for a device that nobody waits for: no step depends on a value that it would have to tell.

The plain way (`gather`) looks which points lie between two labels and lets only these vote. Here all vote: on an accelerator
the votes cost less than the question.
"""

from collections.abc import Sequence
from itertools import product
from math import prod

import torch
from torch import Tensor

from autounet.augment.gather import AFTER, BEFORE, OUTSIDE, TIE, Cells, Points

POINTS = 2**21  # at a time, of all maps: what belongs to them takes some hundred megabytes


def parties(count: int, points: int) -> list[range]:
    """Samples 0..count in groups that are computed at once."""
    size = max(1, POINTS // points)
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def resampled_together(
    images: Sequence[Tensor], labels: Sequence[Tensor], points: Sequence[Sequence[Points]], shape: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """As `gather.resampled` makes it of each (m, axes…) and its (n, axes…), of any sizes: (sample, m, *shape) and (sample, n, *shape)."""
    sizes = [tuple(image.shape[1:]) for image in images]
    edges = tuple(max(along) + BEFORE + AFTER for along in zip(*sizes, strict=True))
    strides = tuple(prod(edges[axis + 1 :]) for axis in range(len(edges)))
    cells = _cells(points, sizes, strides, shape)
    image, label = _bordered(images, edges, 0.0), _bordered(labels, edges, OUTSIDE)
    maps = max(1, POINTS // len(cells.index_p))
    found = torch.cat([cells.blended(cells.corners(part)) for part in image.split(maps)])
    weights = cells.weights()
    voted = torch.cat([majority(cells.corners(part), weights) for part in label.split(maps)])
    return _apart(found, len(images), shape), _apart(voted, len(images), shape)


def majority(labels_kmp: Tensor, weights_kp: Tensor) -> Tensor:
    """(map, point): the label with most weight among the corners k; a tie goes to the nearer corner."""
    won, best = labels_kmp[0], weights_kp.new_zeros(labels_kmp.shape[1:])
    for own, weight in zip(labels_kmp, weights_kp, strict=True):
        score = ((labels_kmp == own) * weights_kp[:, None]).sum(0).add_(weight, alpha=TIE)
        won, best = torch.where(score > best, own, won), torch.maximum(score, best)
    return won


def _cells(points: Sequence[Sequence[Points]], sizes: Sequence[tuple[int, ...]], strides: tuple[int, ...], shape: tuple[int, ...]) -> Cells:
    """Of the points of all samples, one sample behind the other."""
    axes = len(strides)
    at = torch.empty(axes, len(points), prod(shape), device=points[0][0][0].device)
    for sample, (own, size) in enumerate(zip(points, sizes, strict=True)):
        for axis, (first, last) in enumerate(own):
            row = at[axis, sample]
            torch.add(first + BEFORE, last, out=row.view(shape))
            row.clamp_(0, size[axis] + BEFORE)  # the cell beyond the sample's last voxel is all border
    lower = at.floor()
    whole = strides[0] * (max(size[0] for size in sizes) + BEFORE + AFTER)  # voxels of a padded map
    index = torch.arange(len(points), device=at.device)[:, None] * whole
    for row, stride in zip(lower, strides, strict=True):
        index = torch.add(index, row.to(torch.int64), alpha=stride)
    offsets = tuple(sum(step * stride for step, stride in zip(steps, strides, strict=True)) for steps in product((0, 1), repeat=axes))
    return Cells(index.view(-1), at.sub_(lower).flatten(1), offsets)


def _bordered(maps: Sequence[Tensor], edges: tuple[int, ...], outside: float) -> Tensor:
    """(map, voxel): the maps of all samples flat, one sample behind the other, each with a border that fills it up to the edges."""
    padded = maps[0].new_full((len(maps[0]), len(maps), *edges), outside)
    for sample, own in enumerate(maps):
        inside = tuple(slice(BEFORE, BEFORE + size) for size in own.shape[1:])
        padded[:, sample][(slice(None), *inside)] = own
    return padded.flatten(1)


def _apart(maps_mp: Tensor, samples: int, shape: tuple[int, ...]) -> Tensor:
    return maps_mp.view(-1, samples, *shape).transpose(0, 1)
