"""The outline of a mask as the path of an SVG: closed lines half-way between voxel centres, as marching squares draws them."""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Point = tuple[int, int]  # x, y in half voxels, so that every crossing is a whole number

MAX_CHARACTERS = 12_000  # of one path; a mask like noise loses its smallest pieces first


def outline(mask_yx: NDArray[np.bool_], *, most: int = MAX_CHARACTERS) -> str:
    """The data of a path in half voxels: voxel (x, y) covers 2x to 2x + 2. Empty for an empty mask."""
    pieces = sorted((_path(_shortened(loop)) for loop in loops(mask_yx)), key=len, reverse=True)
    kept, length = list[str](), 0
    for piece in pieces:
        length += len(piece)
        if length > most and kept:
            break
        kept.append(piece)
    return "".join(kept)


def loops(mask_yx: NDArray[np.bool_]) -> list[list[Point]]:
    """The middles of the voxel edges around each piece and each hole, in the order of a walk with the mask on the right."""
    following = _edges(np.pad(mask_yx, 1))
    found = []
    while following:
        start = next(iter(following))
        at, walked = start, [start]
        while True:
            ends = following[at]
            before = walked[-2] if len(walked) > 1 else None
            end = ends.pop() if len(ends) == 1 or before is None else ends.pop(_rightmost(before, at, ends))
            if not ends:
                del following[at]
            at = end
            if at == start:
                break
            walked.append(at)
        ring = [*walked, start]
        found.append([(a[0] + b[0] - 2, a[1] + b[1] - 2) for a, b in pairwise(ring)])
    return found


def _edges(padded_yx: NDArray[np.bool_]) -> dict[Point, list[Point]]:
    """From the corner where an edge between mask and not begins to where it ends; at a corner that two voxels share there are two."""
    following: dict[Point, list[Point]] = {}
    inside = padded_yx[1:-1, 1:-1]
    for beside, begin, end in (
        (padded_yx[:-2, 1:-1], (0, 0), (0, 1)),  # above: to the right
        (padded_yx[1:-1, 2:], (0, 1), (1, 1)),  # on the right: down
        (padded_yx[2:, 1:-1], (1, 1), (1, 0)),  # below: to the left
        (padded_yx[1:-1, :-2], (1, 0), (0, 0)),  # on the left: up
    ):
        ys, xs = np.nonzero(inside & ~beside)
        for y, x in zip((ys + 1).tolist(), (xs + 1).tolist(), strict=True):
            following.setdefault((x + begin[1], y + begin[0]), []).append((x + end[1], y + end[0]))
    return following


def _rightmost(before: Point, at: Point, ends: list[Point]) -> int:
    """Voxels that touch by a corner alone stay apart: the walk turns right, around its own voxel."""
    ahead = (at[0] - before[0], at[1] - before[1])
    turns: list[Any] = [ahead[0] * (end[1] - at[1]) - ahead[1] * (end[0] - at[0]) for end in ends]
    return turns.index(max(turns))


def _shortened(loop: list[Point]) -> list[Point]:
    """The same line without points in the middle of straight pieces."""
    kept = []
    for before, here, after in zip([loop[-1], *loop[:-1]], loop, [*loop[1:], loop[0]], strict=True):
        if (here[0] - before[0]) * (after[1] - here[1]) != (here[1] - before[1]) * (after[0] - here[0]):
            kept.append(here)
    return kept or loop


def _path(loop: list[Point]) -> str:
    moves = "".join(f"l{b[0] - a[0]} {b[1] - a[1]}" for a, b in pairwise(loop))
    return f"M{loop[0][0]} {loop[0][1]}{moves}z"
