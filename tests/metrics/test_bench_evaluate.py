"""The benchmark of the evaluation measures what it names, on input that takes no time."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from autounet.images.geometry import picture_geometry
from autounet.images.write import write_mask

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench_evaluate.py"


def bench(*words):
    done = subprocess.run([sys.executable, str(SCRIPT), *map(str, words)], capture_output=True, text=True, check=True, timeout=120)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("scene", ["organs", "scattered"])
def test_classes_are_scored_and_moved_by_two_voxels(scene):
    (said,) = bench("organs", "--shape", 24, 48, 40, "--classes", 5, "--scene", scene)
    assert said["what"].endswith(scene)
    assert 0 < said["cpu_s"] < 60
    assert said["mean_hd95"] == pytest.approx(2 * 0.8, rel=0.3)
    assert 0 < said["mean_dice"] < 1


def test_a_folder_is_scored_and_its_scores_are_written(tmp_path):
    mask = np.zeros((1, 9, 9), np.uint8)
    mask[0, 2:6, 2:6] = 1
    for folder in ("truth", "masks"):
        for number in range(3):
            write_mask(tmp_path / folder / f"case_{number}.png", np.roll(mask, folder == "masks", 2), picture_geometry((9, 9)))
    (said,) = bench("folder", tmp_path / "masks", tmp_path / "truth", "--out", tmp_path / "out")
    assert (said["cases"], said["dice"]) == (3, 0.75)
    assert (tmp_path / "out" / "summary.json").exists()
