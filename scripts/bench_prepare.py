#!/usr/bin/env python3
"""From raw file to stored case: our prepare beside the reference's preprocess, each in a process of its own, both with all cores.

usage: bench_prepare.py [--peer VENV] [--data FOLDER] [--only NAME ...] [--repeat N] [--small] [--scratch FOLDER]
Wall and CPU seconds are those of the whole process tree, imports included; memory is the peak of the tree's proportional set size.
Volumes are phantoms, written once into the scratch folder; hippocampus comes from FOLDER. --small shrinks the phantoms for a try.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SAMPLE_SECONDS = 0.05


@dataclass(frozen=True)
class Task:
    """A dataset and the grid it is prepared on."""

    name: str
    edge: int  # 0: hippocampus
    shape_zyx: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    target_mm: tuple[float, float, float]
    patch: tuple[int, int, int]
    classes: int
    cases: int
    scheme: str = "ct"


@dataclass(frozen=True)
class Cost:
    """Of one process tree."""

    wall_s: float
    cpu_s: float
    peak_bytes: int


TASKS = (
    Task("ct 512x512x300, 4 classes", 512, (300, 512, 512), (2.5, 0.8, 0.8), (1.5, 1.5, 1.5), (128, 128, 128), 4, 2),
    Task("ct 512x512x300, 60 classes", 512, (300, 512, 512), (2.5, 0.8, 0.8), (1.5, 1.5, 1.5), (128, 128, 128), 60, 2),
    Task("ct 512x512x300 isotropic, 4 classes", 512, (300, 512, 512), (2.0, 0.8, 0.8), (1.5, 1.5, 1.5), (128, 128, 128), 4, 2),
    Task("ct 256x256x150 anisotropic, 4 classes", 256, (150, 256, 256), (5.0, 1.2, 1.2), (4.0, 0.9, 0.9), (32, 192, 192), 4, 4),
    Task("ct 256x256x150 anisotropic, 60 classes", 256, (150, 256, 256), (5.0, 1.2, 1.2), (4.0, 0.9, 0.9), (32, 192, 192), 60, 4),
    Task("hippocampus", 0, (0, 0, 0), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (40, 56, 40), 2, 100, "zscore"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "bench_prepare")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    wishes = parser.parse_args()
    rows = []
    print(f"| {'dataset':40} | {'who':9} | wall s | CPU s | peak MB | wall gain | memory |", flush=True)
    print("|---|---|---|---|---|---|---|")
    for task in TASKS:
        if wishes.only and not any(word in task.name for word in wishes.only):
            continue
        if task.edge == 0 and not (wishes.data / "hippocampus_msd").is_dir():
            continue
        raw = raw_folder(task, wishes.scratch, wishes.data, small=wishes.small)
        ours = middle([run_ours(task, raw, wishes.scratch) for _ in range(wishes.repeat)])
        theirs = middle([run_theirs(task, raw, wishes.scratch, wishes.peer) for _ in range(wishes.repeat)]) if wishes.peer else None
        for who, cost in (("autounet", ours), ("reference", theirs)):
            if cost is not None:
                gain = (
                    f"{theirs.wall_s / ours.wall_s:5.1f}x | {ours.peak_bytes / theirs.peak_bytes:5.2f}"
                    if theirs and cost is ours
                    else " | "
                )
                print(
                    f"| {task.name:40} | {who:9} | {cost.wall_s:.2f} | {cost.cpu_s:.2f} | {cost.peak_bytes / 1e6:.0f} | {gain} |",
                    flush=True,
                )
                rows.append({"task": task.name, "who": who, "wall_s": cost.wall_s, "cpu_s": cost.cpu_s, "peak_bytes": cost.peak_bytes})
    if wishes.json:
        wishes.json.write_text(json.dumps(rows, indent=1))
    return 0


def raw_folder(task: Task, scratch: Path, data: Path, *, small: bool) -> Path:
    """The dataset in the reference's layout, which both can read: gzip NIfTI."""
    shape = tuple(-(-edge // 4) for edge in task.shape_zyx) if small else task.shape_zyx
    folder = scratch / f"raw {task.name} {'small' if small else ''}".replace(" ", "_") / "Dataset001_bench"
    if (folder / "dataset.json").exists():
        return folder
    for sub in ("imagesTr", "labelsTr"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    if task.edge == 0:
        for path in sorted((data / "hippocampus_msd" / "images").glob("*.nii.gz"))[: 8 if small else None]:
            shutil.copy(path, folder / "imagesTr" / path.name.replace(".nii.gz", "_0000.nii.gz"))
            shutil.copy(data / "hippocampus_msd" / "labels" / path.name, folder / "labelsTr" / path.name)
    else:
        for case in range(task.cases):
            write_phantom(folder, task, case, shape)
    labels = {"background": 0} | {f"organ {value}": value for value in range(1, task.classes + 1)}
    record = {"channel_names": {"0": "CT" if task.scheme == "ct" else "MRI"}, "labels": labels, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(record | {"numTraining": len(list((folder / "labelsTr").iterdir()))}))
    return folder


def write_phantom(folder: Path, task: Task, case: int, shape: tuple[int, ...]) -> None:
    import SimpleITK

    from autounet.phantoms.catalogue import phantom

    made = phantom("ct" if task.classes == 4 else f"ct:{task.classes}", case, size=shape[2])
    image, label = (np.resize(array, shape) for array in (made.image_czyx[0], made.label_zyx))
    for array, path in (
        (image.astype(np.int16), f"imagesTr/ct_{case:03d}_0000.nii.gz"),
        (label.astype(np.uint8), f"labelsTr/ct_{case:03d}.nii.gz"),
    ):
        written = SimpleITK.GetImageFromArray(array)
        written.SetSpacing(task.spacing_mm[::-1])
        SimpleITK.WriteImage(written, str(folder / path), useCompression=True, compressionLevel=1)


def middle(costs: list[Cost]) -> Cost:
    return Cost(median(c.wall_s for c in costs), median(c.cpu_s for c in costs), int(median(c.peak_bytes for c in costs)))


def run_ours(task: Task, raw: Path, scratch: Path) -> Cost:
    work = scratch / "ours"
    shutil.rmtree(work, ignore_errors=True)
    return measured([sys.executable, __file__, "--as-ours", task.name, str(raw), str(work)], {"PYTHONPATH": str(ROOT)})


def run_theirs(task: Task, raw: Path, scratch: Path, peer: Path) -> Cost:
    made = scratch / "theirs" / "preprocessed"
    shutil.rmtree(made.parent, ignore_errors=True)
    dataset = made / raw.name
    dataset.mkdir(parents=True)
    shutil.copy(raw / "dataset.json", dataset)
    (dataset / "plans.json").write_text(json.dumps(reference_plans(task, raw.name)))
    folders = {"nnUNet_raw": str(raw.parent), "nnUNet_preprocessed": str(made), "nnUNet_results": str(made.parent / "results")}
    return measured([str(peer / "bin" / "python"), __file__, "--as-reference", str(os.cpu_count())], folders)


def measured(command: list[str], extra: dict[str, str]) -> Cost:
    """Run a command; sample the memory of its tree."""
    import psutil

    before, started = os.times(), time.perf_counter()
    process, peak = subprocess.Popen(command, env={**os.environ, **extra}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), 0
    root = psutil.Process(process.pid)
    while process.poll() is None:
        total = 0
        for one in (root, *_children(root)):
            try:
                total += one.memory_full_info().pss
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        peak = max(peak, total)
        time.sleep(SAMPLE_SECONDS)
    wall, after = time.perf_counter() - started, os.times()
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return Cost(wall, used, peak)


def _children(root: Any) -> list[Any]:
    import psutil

    try:
        return list(root.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def reference_plans(task: Task, dataset: str) -> dict[str, Any]:
    resampling = {"order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "bench", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2, "architecture": {},
        "patch_size": task.patch, "spacing": task.target_mm, "use_mask_for_norm": [False],
        "normalization_schemes": ["CTNormalization" if task.scheme == "ct" else "ZScoreNormalization"],
        "resampling_fn_data": "resample_data_or_seg_to_shape", "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **resampling},
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **resampling},
    }  # fmt: skip
    statistics = {"percentile_00_5": -200.0, "percentile_99_5": 300.0, "mean": 50.0, "std": 80.0}
    return {
        "dataset_name": dataset, "plans_name": "plans", "image_reader_writer": "SimpleITKIO", "label_manager": "LabelManager",
        "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2], "experiment_planner_used": "ExperimentPlanner",
        "configurations": {"bench": configuration}, "foreground_intensity_properties_per_channel": {"0": statistics},
    }  # fmt: skip


def be_ours(name: str, raw: Path, work: Path) -> None:
    from autounet.data.open import open_dataset
    from autounet.job import Job
    from autounet.progress import Progress
    from autounet.stages.prepare import prepare
    from planners.plan import Architecture, Augmentation, ChannelPlan, Configuration, Plan

    task = next(task for task in TASKS if task.name == name)
    dataset = open_dataset(raw)
    architecture = Architecture(
        kind="plain", dimensions=3, features=(8,), strides_zyx=((1, 1, 1),), kernels_zyx=((3, 3, 3),), encoder_blocks=(2,),
        decoder_convolutions=(),
    )  # fmt: skip
    configuration = Configuration(
        name="bench", spacing_zyx_mm=task.target_mm, median_shape_zyx=task.patch, patch_zyx=task.patch, batch_size=2,
        architecture=architecture, augmentation=Augmentation(steps=()),
    )  # fmt: skip
    channel = ChannelPlan(
        name="0", modality="ct", scheme="ct" if task.scheme == "ct" else "zscore", clip_low=-200.0, clip_high=300.0, mean=50.0, std=80.0
    )
    plan = Plan(
        planner="bench", dataset=dataset.name, dimensions=3, orientation="stored", channels=(channel,), labels=dataset.labels,
        configurations=(configuration,), train=("bench",),
    )  # fmt: skip
    report = prepare(dataset, plan, Job(work=work, progress=Progress.silent()))
    assert not report.failures, report.failures
    assert report.made == len(dataset.training)


def be_the_reference(processes: int) -> None:
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    DefaultPreprocessor(verbose=False).run(1, "bench", "plans", processes)


def _roles() -> Iterator[tuple[str, Any]]:
    yield "--as-ours", lambda name, raw, work: be_ours(name, Path(raw), Path(work))
    yield "--as-reference", lambda processes: be_the_reference(int(processes))


if __name__ == "__main__":
    for flag, role in _roles():
        if sys.argv[1:2] == [flag]:
            role(*sys.argv[2:])
            sys.exit(0)
    sys.exit(main())
