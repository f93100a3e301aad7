#!/usr/bin/env python3
"""From raw file to stored case: our prepare beside the reference's preprocess, each in a process of its own, both with all cores.

Volumes are phantoms, written once into --scratch as gzip NIfTI in the reference's layout, which both read; the hippocampus
cases come from --data. Imports count, as they do for a user. --small shrinks the phantoms for a try.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench
import numpy as np

ROOT = Path(__file__).resolve().parents[1]


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


TASKS = (
    Task("ct 512x512x300, 4 classes", 512, (300, 512, 512), (2.5, 0.8, 0.8), (1.5, 1.5, 1.5), (128, 128, 128), 4, 2),
    Task("ct 512x512x300, 60 classes", 512, (300, 512, 512), (2.5, 0.8, 0.8), (1.5, 1.5, 1.5), (128, 128, 128), 60, 2),
    Task("ct 512x512x300 isotropic, 4 classes", 512, (300, 512, 512), (2.0, 0.8, 0.8), (1.5, 1.5, 1.5), (128, 128, 128), 4, 2),
    Task("ct 256x256x150 anisotropic, 4 classes", 256, (150, 256, 256), (5.0, 1.2, 1.2), (4.0, 0.9, 0.9), (32, 192, 192), 4, 4),
    Task("ct 256x256x150 anisotropic, 60 classes", 256, (150, 256, 256), (5.0, 1.2, 1.2), (4.0, 0.9, 0.9), (32, 192, 192), 60, 4),
    Task("hippocampus", 0, (0, 0, 0), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (40, 56, 40), 2, 100, "zscore"),
)


def main() -> None:
    """Measure every task that was asked for."""
    parser = bench.arguments(__doc__ or "")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", metavar="FOLDER", help="holds hippocampus_msd")
    parser.add_argument("--only", nargs="*", default=[], metavar="WORD", help="tasks with one of these words in their name")
    parser.add_argument("--small", action="store_true", help="a quarter of every edge, for a try")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "bench_prepare", metavar="FOLDER")
    options = parser.parse_args()
    found = []
    for task in TASKS:
        wanted = not options.only or any(word in task.name for word in options.only)
        if wanted and (task.edge or (options.data / "hippocampus_msd").is_dir()):
            raw = raw_folder(task, options.scratch, options.data, small=options.small)
            theirs = reference_command(task, raw, options.scratch, options.peer) if options.peer else None
            ours = our_command(task, raw, options.scratch)
            found.append(bench.compare(task.name, ours, theirs, repeats=options.repeats, quiet_seconds=options.quiet_seconds))
    notes = ["From gzip NIfTI to stored case, imports included, all cores."]
    if options.peer is not None:
        notes.append(f"Theirs: {bench.versions(options.peer / 'bin' / 'python', ['nnunetv2', 'torch'])}.")
    bench.conclude("Prepare", found, notes, write=options.write)


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

    sys.path.insert(0, str(ROOT))
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


def our_command(task: Task, raw: Path, scratch: Path) -> bench.Command:
    work = scratch / "ours"
    return bench.Command(
        name="autounet",
        words=(sys.executable, __file__, "--as-ours", task.name, str(raw), str(work)),
        environment={"PYTHONPATH": str(ROOT)},
        before=lambda: shutil.rmtree(work, ignore_errors=True),
    )


def reference_command(task: Task, raw: Path, scratch: Path, peer: Path) -> bench.Command:
    made = scratch / "theirs" / "preprocessed"

    def before() -> None:
        shutil.rmtree(made.parent, ignore_errors=True)
        (made / raw.name).mkdir(parents=True)
        shutil.copy(raw / "dataset.json", made / raw.name)
        (made / raw.name / "plans.json").write_text(json.dumps(reference_plans(task, raw.name)))

    return bench.Command(
        name="nnU-Net v2",
        words=(str(peer / "bin" / "python"), __file__, "--as-reference", str(len(os.sched_getaffinity(0)))),
        environment={"nnUNet_raw": str(raw.parent), "nnUNet_preprocessed": str(made), "nnUNet_results": str(made.parent / "results")},
        before=before,
    )


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


if __name__ == "__main__":
    if sys.argv[1:2] == ["--as-ours"]:
        be_ours(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
    elif sys.argv[1:2] == ["--as-reference"]:
        be_the_reference(int(sys.argv[2]))
    else:
        main()
