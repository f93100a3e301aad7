"""The peak of a process that predicts large images, measured from outside; minutes each."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from planners.plan import ChannelPlan, Resampling
from tests.tiny_models import architecture, configuration, plan_of, tiny_bundle

ROOT = Path(__file__).resolve().parents[2]
GB = 10**9

WRITE_SCAN = """
import sys
from pathlib import Path
import numpy as np
from autounet.images.geometry import STRAIGHT, Geometry
from autounet.images.write import write_image
slices, rng = int(sys.argv[2]), np.random.default_rng(0)
plane = np.kron(rng.normal(size=(64, 64)) * 150 + 30, np.ones((8, 8))).astype(np.int16)
image = np.stack([np.roll(plane, z, 1) for z in range(slices)])
grid = Geometry(shape_zyx=image.shape, spacing_zyx_mm=(2.5, 0.8, 0.8), origin_xyz_mm=(0.0, 0.0, 0.0), direction=STRAIGHT)
write_image(Path(sys.argv[1]) / "scan.nii.gz", image[None], grid)
"""

WRITE_SLIDE = """
import sys
from pathlib import Path
import numpy as np
from autounet.images.geometry import picture_geometry
from autounet.images.write import write_image
edge = int(sys.argv[2])
tile = np.random.default_rng(0).integers(0, 255, (1000, 1000)).astype(np.uint8)
image = np.tile(tile, (edge // 1000, edge // 1000))
write_image(Path(sys.argv[1]) / "slide.png", image[None, None], picture_geometry((edge, edge)))
"""

PREDICT = """
import json, resource, sys
from pathlib import Path
from autounet.job import Job
from autounet.progress import Progress
from autounet.stages.predict import PredictOptions, predict
class Voice(Progress):
    def note(self, text):
        said.append(text)
said = []
model, source, out, limit = sys.argv[1:5]
job = Job(work=Path(out), progress=Voice(), device="cpu", threads=2, max_ram_bytes=int(limit))
report = predict(Path(model), Path(source), Path(out), job, PredictOptions(preset="fast"))
peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"peak": peak, "said": said[-1], "problems": [c.problem for c in report.cases if c.problem]}))
"""


def child(code, *words):
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[-1:] or [""]


def predicted(model, source, out, limit):
    """Peak bytes of the process, and what it had foreseen."""
    told = json.loads(child(PREDICT, model, source, out, limit)[0])
    assert told["problems"] == []
    amount, unit = told["said"].split("about ")[1].split()[:2]
    return told["peak"], float(amount) * {"GB": 1e9, "MB": 1e6}[unit]


def scan_model(folder, classes):
    """A small network with 4 maps before its last layer, on a grid of 1.5 mm."""
    shape = architecture(3, (4, 8, 16))
    chosen = configuration((128, 128, 128), architecture=shape, spacing_zyx_mm=(1.5, 1.5, 1.5), resampling=Resampling())
    channel = ChannelPlan(name="ct", modality="ct", scheme="ct", clip_low=-100.0, clip_high=250.0, mean=60.0, std=60.0)
    folder.mkdir()
    return tiny_bundle(folder, replace(plan_of(chosen, classes=classes), channels=(channel,)))


def slide_model(folder):
    chosen = configuration((1, 512, 512), "2d", architecture=architecture(2, (2, 4)))
    channel = ChannelPlan(name="gray", modality="unknown", scheme="zscore")
    folder.mkdir()
    return tiny_bundle(folder, replace(plan_of(chosen, classes=2), channels=(channel,), dimensions=2))


@pytest.mark.slow
@pytest.mark.parametrize(("slices", "limit"), [(200, 4 * GB), (1200, 4 * GB)])
def test_a_scan_with_sixty_classes_stays_in_its_budget_and_near_what_was_foreseen(slices, limit, tmp_path):
    (tmp_path / "in").mkdir()
    child(WRITE_SCAN, tmp_path / "in", slices)
    peak, foreseen = predicted(scan_model(tmp_path / "model", 60), tmp_path / "in", tmp_path / "out", limit)
    assert peak <= limit
    assert foreseen <= limit
    assert peak <= 1.1 * foreseen
    assert foreseen <= 2.5 * peak


@pytest.mark.slow
def test_a_gray_slide_costs_three_bytes_a_pixel_and_not_twelve(tmp_path):
    for edge in (2000, 6000):
        (tmp_path / f"in{edge}").mkdir()
        child(WRITE_SLIDE, tmp_path / f"in{edge}", edge)
    model = slide_model(tmp_path / "model")
    small, large = (predicted(model, tmp_path / f"in{edge}", tmp_path / f"out{edge}", 2 * GB)[0] for edge in (2000, 6000))
    # The image, its mask, and both again while the mask is read back; the ring of 514 rows grows with the edge alone.
    assert large - small <= 4 * (6000**2 - 2000**2) + 3 * 4 * 600 * (6000 - 2000) + 30_000_000


@pytest.mark.slow
def test_a_gray_slide_of_twenty_thousand_pixels_an_edge_fits_in_two_gigabytes(tmp_path):
    (tmp_path / "in").mkdir()
    child(WRITE_SLIDE, tmp_path / "in", 20_000)
    peak, foreseen = predicted(slide_model(tmp_path / "model"), tmp_path / "in", tmp_path / "out", 2 * GB)
    assert peak <= 2 * GB
    assert foreseen <= 2 * GB
