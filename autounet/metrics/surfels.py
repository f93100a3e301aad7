"""How much surface passes between eight neighbouring voxel centres, for each of the 256 ways they can lie inside or outside.

The surface is that of marching cubes with the crossings half-way: on each face of the cube the crossings are
linked so that the fewer corners are cut off, the links close to loops, and a loop is filled by a fan of triangles
from the corner that gives the largest area on cubic voxels. This reproduces the table of the widely used
surface-distance package for any spacing, without copying it; a test compares them.
"""

from functools import lru_cache
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

from planners.fingerprint import TripleMm

Corner = tuple[int, int, int]

CORNERS: tuple[Corner, ...] = tuple((z, y, x) for z, y, x in product((0, 1), repeat=3))


@lru_cache(maxsize=64)
def surfel_areas(spacing_zyx_mm: TripleMm) -> NDArray[np.float64]:
    """Area in mm² per code; bit i of a code is set where CORNERS[i] is inside."""
    areas = np.zeros(256)
    for code, loops in enumerate(_all_loops()):
        for loop in loops:
            areas[code] += _fan_area(loop * np.asarray(spacing_zyx_mm))
    return areas


@lru_cache(maxsize=1)
def _all_loops() -> tuple[tuple[NDArray[np.float64], ...], ...]:
    """Per code the loops of crossings, each beginning at the corner its fan starts from."""
    edges = [(a, b) for a, b in product(CORNERS, repeat=2) if a < b and sum(abs(p - q) for p, q in zip(a, b, strict=True)) == 1]
    number = {frozenset(edge): index for index, edge in enumerate(edges)}
    middles = [(np.array(a) + np.array(b)) / 2 for a, b in edges]
    found = []
    for code in range(256):
        inside = [bool(code >> bit & 1) for bit in range(8)]
        if sum(inside) > 4:
            inside = [not one for one in inside]
        links = _links({corner: inside[i] for i, corner in enumerate(CORNERS)}, number)
        found.append(tuple(_rooted(np.array([middles[edge] for edge in loop])) for loop in _closed(links)))
    return tuple(found)


def _links(inside: dict[Corner, bool], number: dict[frozenset[Corner], int]) -> list[tuple[int, int]]:
    links = []
    for face in _faces():
        here = [inside[corner] for corner in face]
        edges = [number[frozenset((face[k], face[(k + 1) % 4]))] for k in range(4)]
        crossed = [k for k in range(4) if here[k] != here[(k + 1) % 4]]
        if len(crossed) == 2:
            links.append((edges[crossed[0]], edges[crossed[1]]))
        elif len(crossed) == 4:
            links += [(edges[k - 1], edges[k]) for k in range(4) if here[k]]
    return links


def _faces() -> list[list[Corner]]:
    faces = []
    for axis, side in product(range(3), (0, 1)):
        face: list[Corner] = []
        for u, v in ((0, 0), (0, 1), (1, 1), (1, 0)):
            corner = [u, v]
            corner.insert(axis, side)
            face.append((corner[0], corner[1], corner[2]))
        faces.append(face)
    return faces


def _closed(links: list[tuple[int, int]]) -> list[list[int]]:
    """Links chained to loops: every crossing has two neighbours."""
    beside: dict[int, list[int]] = {}
    for a, b in links:
        beside.setdefault(a, []).append(b)
        beside.setdefault(b, []).append(a)
    loops, seen = [], set()
    for start in beside:
        if start in seen:
            continue
        loop = [start]
        seen.add(start)
        while following := [edge for edge in beside[loop[-1]] if edge not in seen]:
            loop.append(following[0])
            seen.add(following[0])
        loops.append(loop)
    return loops


def _rooted(loop: NDArray[np.float64]) -> NDArray[np.float64]:
    turns = [np.roll(loop, -root, axis=0) for root in range(len(loop))]
    areas = np.array([_fan_area(turn) for turn in turns])
    return turns[int(np.flatnonzero(areas > areas.max() - 1e-9)[0])]


def _fan_area(loop: NDArray[np.float64]) -> float:
    first, rest = loop[0], loop[1:]
    return float(sum(np.linalg.norm(np.cross(b - first, c - first)) for b, c in pairwise(rest)) / 2)
