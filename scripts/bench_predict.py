"""Prediction against clock and memory, with nnU-Net beside it on the same weights when its Python is named.

    python scripts/bench_predict.py ct --slices 60 --classes 60 [--reference .peer/bin/python]
    python scripts/bench_predict.py ct --slices 1200 --classes 60 --max-ram 4
    python scripts/bench_predict.py slide --edge 20000
    python scripts/bench_predict.py folder MODEL.aunet IMAGES [--reference .peer/bin/python]

Each measurement runs in a process of its own; wall seconds, CPU seconds and peak memory of its whole tree are printed as
one JSON line. The reference is started through its own command line, our model is exported for it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

OURS = """
import sys, time
from pathlib import Path
start = time.perf_counter()
from autounet.job import Job
from autounet.progress import Progress
from autounet.networks.unet import UNet
from autounet.stages.predict import predict
spent = [0.0, 0.0]
forward = UNet.forward
def timed(network, image):
    wall, cpu = time.perf_counter(), time.process_time()
    answer = forward(network, image)
    spent[0] += time.perf_counter() - wall
    spent[1] += time.process_time() - cpu
    return answer
UNet.forward = timed
model, images, out, ram = sys.argv[1:5]
limit = int(float(ram) * 1e9) if float(ram) else None
job = Job(work=Path(out), progress=Progress.silent(), device="cpu", max_ram_bytes=limit)
report = predict(Path(model), Path(images), Path(out), job)
problems = [c.problem for c in report.cases if c.problem]
print(f"network {spent[0]:.2f} s wall, {spent[1]:.2f} s CPU", *problems)
"""


def tree_run(command, **options):
    """Wall, CPU and peak memory (proportional set size) of a command and all its children."""
    import psutil

    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    peak, cpu = 0, 0.0
    seen = {}  # CPU seconds of each process; those of the dead stay counted
    while child.poll() is None:
        total = 0
        try:
            processes = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            break
        for one in processes:
            try:
                total += one.memory_full_info().pss
                seen[one.pid] = sum(one.cpu_times()[:2])
            except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
                continue
        peak = max(peak, total)
        cpu = sum(seen.values())
        time.sleep(0.05)
    output = child.stdout.read() if child.stdout else ""
    code = child.wait()
    return {
        "rc": code,
        "wall_s": round(time.perf_counter() - start, 2),
        "cpu_s": round(cpu, 2),
        "peak_mb": peak >> 20,
        "output": output.strip()[-400:],
    }


def tiny_model(folder, classes, flat, features, spacing, patch):
    """A bundle with random weights of a small network, normalised as a CT."""
    from dataclasses import replace

    from planners.plan import ChannelPlan, Resampling
    from tests.tiny_models import architecture, configuration, plan_of, tiny_bundle

    chosen = configuration(
        patch,
        "2d" if flat else "3d_fullres",
        architecture=architecture(2 if flat else 3, features),
        spacing_zyx_mm=spacing,
        resampling=Resampling(),
    )
    chosen = replace(chosen, inference=replace(chosen.inference, mirror_axes=()))
    plan = plan_of(chosen, classes=classes)
    scheme = "zscore" if flat else "ct"
    channel = ChannelPlan(name="image", modality="unknown", scheme=scheme, clip_low=-100.0, clip_high=250.0, mean=60.0, std=60.0)
    plan = replace(plan, channels=(channel,), dimensions=2 if flat else 3, orientation="stored")
    return tiny_bundle(folder, plan)


def ct(folder, slices):
    """Smooth noise of a CT's size and spacing."""
    from autounet.images.geometry import Geometry
    from autounet.images.write import write_image

    rng = np.random.default_rng(0)
    coarse = rng.normal(size=(max(slices // 8, 2), 64, 64))
    rows = np.linspace(0, len(coarse) - 1, slices)
    image = np.empty((slices, 512, 512), np.int16)
    for z, row in enumerate(rows):
        low = int(row)
        plane = coarse[low] + (row - low) * (coarse[min(low + 1, len(coarse) - 1)] - coarse[low])
        image[z] = np.kron(plane, np.ones((8, 8))) * 150 + 30
    grid = Geometry(
        shape_zyx=image.shape, spacing_zyx_mm=(2.5, 0.8, 0.8), origin_xyz_mm=(0.0, 0.0, 0.0), direction=(1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)
    )
    write_image(folder / "ct_0000.nii.gz", image[None], grid)


def compare(model, images, arguments, scratch):
    ours = tree_run([sys.executable, "-c", OURS, str(model), str(images), str(scratch / "ours"), str(arguments.max_ram)], cwd=ROOT)
    say(who="ours", **ours)
    if not arguments.reference:
        return
    from autounet.interop.nnunet_export import export_nnunet
    from autounet.store.bundle import open_bundle

    ending = "".join(next(iter(images.iterdir())).suffixes)
    folder = export_nnunet(open_bundle(model), scratch / "exported", file_ending=ending)[-1]
    command = [
        str(Path(arguments.reference).parent / "nnUNetv2_predict_from_modelfolder"),
        "-i",
        str(images),
        "-o",
        str(scratch / "theirs"),
    ]
    command += ["-m", str(folder), "-f", *sorted(p.name[5:] for p in folder.glob("fold_*")), "-device", "cpu"]
    command += ["-npp", str(arguments.processes), "-nps", str(arguments.processes)]
    places = {f"nnUNet_{what}": str(scratch / what) for what in ("raw", "preprocessed", "results")}
    theirs = tree_run(command, env={**os.environ, **places})
    say(who="nnU-Net", **theirs)
    say(
        ratio_wall=theirs["wall_s"] / ours["wall_s"], ratio_memory=theirs["peak_mb"] / max(ours["peak_mb"], 1), agreement=agreement(scratch)
    )


def agreement(scratch):
    """Share of voxels with the same label."""
    from autounet.images.read import read_image

    same = []
    for path in sorted((scratch / "theirs").glob("*.nii.gz")) + sorted((scratch / "theirs").glob("*.png")):
        mine = scratch / "ours" / path.name
        if mine.exists():
            same.append(float((read_image(path).voxels_czyx == read_image(mine).voxels_czyx).mean()))
    return same


def bench_ct(arguments, scratch):
    (scratch / "images").mkdir()
    ct(scratch / "images", arguments.slices)
    model = tiny_model(scratch, arguments.classes, False, (4, 8, 16), (1.5, 1.5, 1.5), (128, 128, 128))
    compare(model, scratch / "images", arguments, scratch)


def bench_slide(arguments, scratch):
    from autounet.images.geometry import picture_geometry
    from autounet.images.write import write_image

    edge = arguments.edge
    tile = np.random.default_rng(0).integers(0, 255, (512, 512)).astype(np.uint8)
    picture = np.tile(tile, (-(-edge // 512), -(-edge // 512)))[:edge, :edge]
    (scratch / "images").mkdir()
    write_image(scratch / "images" / "slide_0000.png", picture[None, None], picture_geometry((edge, edge)))
    model = tiny_model(scratch, 2, True, (4, 8), (1.0, 1.0, 1.0), (1, 512, 512))
    compare(model, scratch / "images", arguments, scratch)


def bench_folder(arguments, scratch):
    compare(arguments.model, arguments.images, arguments, scratch)


def say(**fields):
    print(json.dumps(fields), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = parser.add_subparsers(required=True)
    for name, run in (("ct", bench_ct), ("slide", bench_slide), ("folder", bench_folder)):
        one = jobs.add_parser(name)
        one.add_argument("--reference")
        one.add_argument("--processes", type=int, default=1)
        one.add_argument("--max-ram", type=float, default=0, help="GB")
        one.set_defaults(run=run)
        if name == "ct":
            one.add_argument("--slices", type=int, default=60)
            one.add_argument("--classes", type=int, default=60)
        elif name == "slide":
            one.add_argument("--edge", type=int, default=20_000)
        else:
            one.add_argument("model", type=Path)
            one.add_argument("images", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        arguments.run(arguments, Path(scratch))


if __name__ == "__main__":
    main()
