"""Folders of thousands of cases are listed by their headers alone."""

import os
import time
import tracemalloc
from pathlib import Path

import numpy as np

from autounet.images.geometry import STRAIGHT, Geometry
from autounet.images.read import read_header
from autounet.images.write import write_image


def test_five_thousand_headers_take_seconds_and_no_memory(tmp_path: Path) -> None:
    geometry = Geometry(shape_zyx=(64, 96, 96), spacing_zyx_mm=(1.0, 1.0, 1.0), origin_xyz_mm=(0.0, 0.0, 0.0), direction=STRAIGHT)
    write_image(tmp_path / "case.nii.gz", np.random.default_rng(0).normal(size=(1, *geometry.shape_zyx)).astype(np.float32), geometry)
    names = [tmp_path / f"case_{number:04d}.nii.gz" for number in range(5000)]
    for name in names:
        os.link(tmp_path / "case.nii.gz", name)
    started = time.process_time()
    shapes = {read_header(name).geometry.shape_zyx for name in names}
    seconds = time.process_time() - started
    assert shapes == {geometry.shape_zyx}
    assert seconds < 10, f"{seconds:.1f} s of processor time"
    tracemalloc.start()
    for name in names[:200]:
        read_header(name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20, f"{peak:,} bytes at most, and the voxels of one case are {4 * 64 * 96 * 96:,}"
