"""Cases in a real cache, small ones: what processes read, and what can be damaged on the disk."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from autounet.arrays.prepare import CaseOnGrid
from autounet.data.prepared import PreparedCase, write_prepared
from autounet.images.geometry import STRAIGHT, Geometry
from tests.training import tiny

GRAIN = (16, 16, 16)


def prepared(folder: Path, names: str = "ab", shape: tuple[int, int, int] = (24, 24, 24)) -> dict[str, PreparedCase]:
    """A cache entry a name, of the cases that the other tests hold in memory."""
    plan = tiny.recipe().plan
    geometry = Geometry(shape_zyx=shape, spacing_zyx_mm=(1.0, 1.0, 1.0), origin_xyz_mm=(0.0, 0.0, 0.0), direction=STRAIGHT)
    found = {}
    for seed, name in enumerate(names, 1):
        case = tiny.case(seed, shape)
        (folder / name).mkdir(parents=True)
        on_grid = CaseOnGrid(case.image_czyx, case.label_zyx.astype(np.int64), geometry, plan, plan.configurations[0])
        with ThreadPoolExecutor(1) as pool:
            write_prepared(folder / name, on_grid, GRAIN, np.random.default_rng(seed), pool=pool, threads=1)
        found[name] = PreparedCase(name, folder / name)
    return found
