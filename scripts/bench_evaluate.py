"""Evaluation against clock and memory: 60 organs on one large pair, and Dice of 100 cases beside nnU-Net's.

    python scripts/bench_evaluate.py organs [--shape 200 512 512] [--classes 60] [--scene scattered]
    python scripts/bench_evaluate.py folder PREDICTIONS TRUTH [--reference PYTHON_OF_NNUNET]

Prints one JSON line a measurement: wall and CPU seconds, peak memory of this process.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def organs(shape, classes):
    """Ellipsoids side by side; the prediction is the truth moved by two voxels."""
    across = int(np.ceil((classes - 1) ** (1 / 3)))
    cell = [size // across for size in shape]
    truth = np.zeros(shape, np.uint8)
    grid = np.ogrid[tuple(slice(edge) for edge in cell)]
    ball = sum(((g - edge / 2) / (edge * 0.45)) ** 2 for g, edge in zip(grid, cell, strict=True)) <= 1
    for number in range(1, classes):
        place = np.unravel_index(number - 1, (across,) * 3)
        box = tuple(slice(p * edge, (p + 1) * edge) for p, edge in zip(place, cell, strict=True))
        truth[box][ball] = number
    return truth, np.roll(truth, 2, 1)


def scattered(shape, classes):
    """Every class in many small balls all over the volume; the prediction is the truth moved by two voxels."""
    rng = np.random.default_rng(0)
    truth = np.zeros(shape, np.uint8)
    radius = max(2, min(shape) // 30)
    ball = sum((g - radius) ** 2 for g in np.ogrid[(slice(2 * radius + 1),) * 3]) <= radius**2
    for number in range(1, classes):
        for _ in range(200):
            at = [int(rng.integers(0, edge - 2 * radius - 1)) for edge in shape]
            truth[tuple(slice(a, a + 2 * radius + 1) for a in at)][ball] = number
    return truth, np.roll(truth, 2, 1)


SCENES = {"organs": organs, "scattered": scattered}


def bench_organs(arguments):
    from autounet.metrics.overlap import joint_counts
    from autounet.metrics.surface import target_surfaces

    truth, predicted = SCENES[arguments.scene](tuple(arguments.shape), arguments.classes)
    targets = [(str(number), (number,)) for number in range(1, arguments.classes)]
    before, wall, cpu = peak_mb(), time.perf_counter(), time.process_time()
    joint = joint_counts(truth, predicted)
    dice = [joint.of(values).dice for _, values in targets]
    surfaces = target_surfaces(truth, predicted, targets, (2.5, 0.8, 0.8), [1.0] * len(targets))
    say(
        what=f"dice, nsd and hd95 of {arguments.scene}",
        shape=arguments.shape,
        classes=arguments.classes,
        wall_s=time.perf_counter() - wall,
        cpu_s=time.process_time() - cpu,
        peak_mb=peak_mb(),
        peak_before_mb=before,
        mean_dice=float(np.mean(dice)),
        mean_nsd=float(np.mean([s.nsd_area for s in surfaces.values()])),
        mean_hd95=float(np.mean([s.hd95 for s in surfaces.values()])),
    )


REFERENCE = """
import sys, time
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder_simple
labels = [int(v) for v in sys.argv[3].split(",")]
if __name__ == "__main__":
    t = time.perf_counter()
    compute_metrics_on_folder_simple(sys.argv[1], sys.argv[2], labels, num_processes=2, output_file=sys.argv[4])
    print(time.perf_counter() - t)
"""


def bench_folder(arguments):
    from autounet.job import Job
    from autounet.metrics.case_scores import Wanted
    from autounet.progress import Progress
    from autounet.stages.evaluate import evaluate

    out = Path(arguments.out or tempfile.mkdtemp(prefix="bench_evaluate_"))
    wall, cpu = time.perf_counter(), time.process_time()
    scores = evaluate(arguments.predictions, arguments.truth, out, Job(work=out, progress=Progress.silent()), wanted=Wanted(surfaces=False))
    ours = time.perf_counter() - wall
    say(what="dice of a folder", cases=len(scores.cases), wall_s=ours, cpu_s=time.process_time() - cpu, dice=scores.mean_over_targets())
    if arguments.reference:
        script = out / "reference.py"
        script.write_text(REFERENCE)
        labels = ",".join(str(values[0]) for _, values in scores.targets)
        command = [arguments.reference, str(script), str(arguments.truth), str(arguments.predictions), labels, str(out / "reference.json")]
        wall = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        theirs = time.perf_counter() - wall
        say(what="the same by nnU-Net, its start-up included", wall_s=theirs, ratio=theirs / ours)


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def say(**fields):
    print(json.dumps(fields))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = parser.add_subparsers(required=True)
    one = jobs.add_parser("organs")
    one.add_argument("--shape", type=int, nargs=3, default=(200, 512, 512))
    one.add_argument("--classes", type=int, default=60)
    one.set_defaults(run=bench_organs)
    one.add_argument("--scene", choices=sorted(SCENES), default="organs")
    two = jobs.add_parser("folder")
    two.add_argument("predictions", type=Path)
    two.add_argument("truth", type=Path)
    two.add_argument("--out", help="keep the scores in this folder")
    two.add_argument("--reference")
    two.set_defaults(run=bench_folder)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    main()
