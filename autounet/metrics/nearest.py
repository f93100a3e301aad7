"""From each point of a surface to the nearest point of another, exactly.

Nearly always the other surface is some voxels away. So first the places around every point are looked up, the nearest first;
what is not found there goes to a search tree or a distance map, whichever is cheaper. The cost is that of the points, not
of the volume that they are scattered over.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from autounet.metrics.extract import Surface
from planners.fingerprint import TripleMm

PLACES = 250  # that are looked up around a point
BATCH = 16  # of them, before it is weighed whether to go on
# What a step costs, in nanoseconds; only their proportions matter.
LOOK_NS, MAP_NS, PLANT_NS, CLIMB_NS = 6, 25, 400, 2500


def distances(one: Surface, other: Surface, spacing_zyx_mm: TripleMm) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both ways, in millimetres."""
    return nearest(one.points, other.points, spacing_zyx_mm), nearest(other.points, one.points, spacing_zyx_mm)


def nearest(asking: NDArray[np.int32], asked: NDArray[np.int32], spacing_zyx_mm: TripleMm) -> NDArray[np.float64]:
    """From each point (n, 3) to the nearest of the others."""
    low = np.minimum(asking.min(0), asked.min(0))
    shape = np.maximum(asking.max(0), asked.max(0)) - low + 1
    away = np.full(len(asking), -1.0)
    waiting = _look_around(asking - low, asked - low, shape, spacing_zyx_mm, away)
    if len(waiting):
        far = asking[waiting]
        if _map_ns(shape) < _tree_ns(len(asked), len(waiting)):
            away[waiting] = _mapped(far - low, asked - low, shape, spacing_zyx_mm)
        else:
            away[waiting] = _climbed(far, asked, spacing_zyx_mm)
    return away


def _look_around(
    asking: NDArray[np.int32], asked: NDArray[np.int32], shape: NDArray[np.int32], spacing_zyx_mm: TripleMm, away: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Fills in what is found nearby; gives the numbers of the points that found nothing."""
    steps, lengths = _places(spacing_zyx_mm)
    reach = np.minimum(np.abs(steps).max(0), shape)  # a frame, so that no step leaves the box
    steps, lengths = _inside(steps, lengths, reach)
    framed = shape + 2 * reach
    stride = np.array([int(framed[1]) * int(framed[2]), int(framed[2]), 1])
    there = np.zeros(int(np.prod(framed.astype(np.int64))), bool)
    there[(asked + reach) @ stride] = True
    places, waiting = (asking + reach) @ stride, np.arange(len(asking))
    hops = steps @ stride
    for number, (hop, length) in enumerate(zip(hops.tolist(), lengths.tolist(), strict=True)):
        if not len(waiting):
            break
        if number % BATCH == 1 and len(waiting) * BATCH * LOOK_NS > min(_map_ns(shape), _tree_ns(len(asked), len(waiting))):
            break
        hit = there[places + hop]
        if hit.any():
            away[waiting[hit]] = length
            missed = ~hit
            places, waiting = places[missed], waiting[missed]
    return waiting


@lru_cache(maxsize=16)
def _places(spacing_zyx_mm: TripleMm) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Steps in voxels by their length in millimetres, the shortest first; none that is as short is missing."""
    finest = min(spacing_zyx_mm)
    reach = [max(1, int(8 * finest / mm)) for mm in spacing_zyx_mm]
    grid = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), -1).reshape(-1, 3)
    length = np.linalg.norm(grid * np.asarray(spacing_zyx_mm), axis=1)
    # Beyond the shortest way out of this grid, steps are missing.
    kept = np.flatnonzero(length < min((r + 1) * mm for r, mm in zip(reach, spacing_zyx_mm, strict=True)) * (1 - 1e-9))
    order = kept[np.argsort(length[kept], kind="stable")][:PLACES]
    return grid[order], length[order]


def _inside(
    steps: NDArray[np.int64], lengths: NDArray[np.float64], reach: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Without steps that leave a small box from any point of it."""
    kept = (np.abs(steps) <= reach).all(1)
    return steps[kept], lengths[kept]


def _map_ns(shape: NDArray[np.int32]) -> float:
    return float(np.prod(shape.astype(np.float64))) * MAP_NS


def _tree_ns(asked: int, asking: int) -> float:
    return float(asked * PLANT_NS + asking * CLIMB_NS)


def _climbed(asking: NDArray[np.int32], asked: NDArray[np.int32], spacing_zyx_mm: TripleMm) -> NDArray[np.float64]:
    from scipy.spatial import cKDTree

    spacing = np.asarray(spacing_zyx_mm)
    tree = cKDTree(asked * spacing, balanced_tree=False, compact_nodes=False)
    return np.asarray(tree.query(asking * spacing)[0], np.float64)


def _mapped(asking: NDArray[np.int32], asked: NDArray[np.int32], shape: NDArray[np.int32], spacing_zyx_mm: TripleMm) -> NDArray[np.float64]:
    away = np.ones(shape, bool)
    away[tuple(asked.T)] = False
    found: NDArray[np.float64] = distance_map(away, spacing_zyx_mm)[tuple(asking.T)].astype(np.float64)
    return found


def distance_map(away_zyx: NDArray[np.bool_], spacing_zyx_mm: TripleMm) -> NDArray[np.floating]:
    """From each true voxel to the nearest false one."""
    try:
        import edt
    except ImportError:
        from scipy import ndimage

        mapped: NDArray[np.floating] = ndimage.distance_transform_edt(away_zyx, spacing_zyx_mm)
        return mapped
    return np.asarray(edt.edt(away_zyx, anisotropy=spacing_zyx_mm, black_border=False, parallel=1))
