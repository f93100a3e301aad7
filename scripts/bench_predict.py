#!/usr/bin/env python3
"""Prediction, row by row, beside the reference on the same weights: end to end, outside the network, and memory of the process tree.

The weights are random: the reference's Python makes a model folder, `autounet import nnunet` takes it in. Without --peer
ours is run alone, on a model of the same shape. Both are started as a user would, imports and all; what their networks
take is measured from inside. Mirroring as the row says, for both.

    python scripts/bench_predict.py --peer VENV --row ct60
    python scripts/bench_predict.py --row long slide
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import bench
import numpy as np
from bench_predict_inputs import ct, hippocampi, slide, tiny_model

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    task: str
    images: str  # ct, hippocampus, slide
    size: int  # slices, cases, edge
    classes: int
    features: tuple[int, ...] = (4, 8, 16)
    patch: tuple[int, ...] = (128, 128, 128)
    spacing: tuple[float, ...] = (1.5, 1.5, 1.5)
    convolutions: int = 1
    mirrored: bool = False
    max_ram: str = ""
    alone: bool = False  # the reference runs out of memory, or takes hours


HIPPOCAMPUS = Row(
    task="20 hippocampi, mirrored",
    images="hippocampus",
    size=20,
    classes=3,
    features=(32, 64, 128, 256),
    patch=(40, 56, 40),
    spacing=(1.0, 1.0, 1.0),
    convolutions=2,
    mirrored=True,
)
ROWS = {
    "ct60": Row(task="ct 512x512x60, 60 classes", images="ct", size=60, classes=60),
    "ct200": Row(task="ct 512x512x200, 4 classes", images="ct", size=200, classes=4),
    "ct200x60": Row(task="ct 512x512x200, 60 classes", images="ct", size=200, classes=60, max_ram="4GB", alone=True),
    "long": Row(task="ct 512x512x1200, 60 classes", images="ct", size=1200, classes=60, max_ram="4GB", alone=True),
    "hippocampus": HIPPOCAMPUS,
    "single": replace(HIPPOCAMPUS, task="one hippocampus, mirrored", size=1),
    "slide": Row(
        task="gray slide 20000x20000", images="slide", size=20_000, classes=2, features=(4, 8), patch=(512, 512), spacing=(1.0, 1.0),
        max_ram="2GB", alone=True,
    ),
}  # fmt: skip

OURS = """
import json, sys, threading, time
from autounet.cli import main
spent = {"cpu": 0.0, "wall": 0.0}
lock = threading.Lock()
def watch():
    import torch
    from autounet.networks.unet import UNet
    forward = UNet.forward
    def timed(network, image):
        clock = time.thread_time if torch.get_num_threads() == 1 else time.process_time
        wall, cpu = time.perf_counter(), clock()
        answer = forward(network, image)
        with lock:
            spent["wall"] += time.perf_counter() - wall
            spent["cpu"] += clock() - cpu
        return answer
    UNet.forward = timed
import autounet.inference.predict as module
watch()
try:
    main()
finally:
    print(json.dumps({"network": spent}), flush=True)
"""

THEIRS = """
import json, sys, time
from nnunetv2.inference import predict_from_raw_data as module
spent = {"cpu": 0.0, "wall": 0.0}
inner = module.nnUNetPredictor._internal_maybe_mirror_and_predict
def timed(self, image):
    wall, cpu = time.perf_counter(), time.process_time()
    answer = inner(self, image)
    spent["wall"] += time.perf_counter() - wall
    spent["cpu"] += time.process_time() - cpu
    return answer
module.nnUNetPredictor._internal_maybe_mirror_and_predict = timed
if __name__ == "__main__":
    module.predict_entry_point_modelfolder()
    print(json.dumps({"network": spent}), flush=True)
"""

# Written for the reference's Python: a model folder that its predictor accepts.
MODEL = """
import json, sys
from pathlib import Path
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
row, out = json.loads(sys.argv[1]), Path(sys.argv[2])
dimensions, stages = len(row["patch"]), len(row["features"])
layer = f"torch.nn.modules.conv.Conv{dimensions}d"
arch = dict(n_stages=stages, features_per_stage=row["features"], conv_op=layer, kernel_sizes=[[3] * dimensions] * stages,
            strides=[[1] * dimensions] + [[2] * dimensions] * (stages - 1), n_conv_per_stage=[row["convolutions"]] * stages,
            n_conv_per_stage_decoder=[row["convolutions"]] * (stages - 1), conv_bias=True,
            norm_op=f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d", norm_op_kwargs={"eps": 1e-5, "affine": True},
            dropout_op=None, dropout_op_kwargs=None, nonlin="torch.nn.LeakyReLU", nonlin_kwargs={"inplace": True})
back = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
resize, ct = "resample_data_or_seg_to_shape", row["images"] == "ct"
stats = {"mean": 60.0, "median": 55.0, "std": 60.0, "min": -300.0, "max": 400.0, "percentile_00_5": -100.0, "percentile_99_5": 250.0}
name = "3d_fullres" if dimensions == 3 else "2d"
plans = dict(dataset_name="Dataset099_Bench", plans_name="nnUNetPlans", original_median_spacing_after_transp=[1.0, 1.0, 1.0],
             original_median_shape_after_transp=[200, 512, 512], image_reader_writer="SimpleITKIO", transpose_forward=[0, 1, 2],
             transpose_backward=[0, 1, 2], experiment_planner_used="none", label_manager="LabelManager",
             foreground_intensity_properties_per_channel={"0": stats},
             configurations={name: dict(data_identifier="x", preprocessor_name="DefaultPreprocessor", batch_size=2, patch_size=row["patch"],
                 median_image_size_in_voxels=[200, 512, 512][-dimensions:], spacing=row["spacing"],
                 normalization_schemes=["CTNormalization" if ct else "ZScoreNormalization"], use_mask_for_norm=[False],
                 resampling_fn_data=resize, resampling_fn_seg=resize, resampling_fn_data_kwargs=dict(back, order=3),
                 resampling_fn_seg_kwargs=dict(back, is_seg=True), resampling_fn_probabilities=resize,
                 resampling_fn_probabilities_kwargs=back, batch_dice=True,
                 architecture=dict(network_class_name="dynamic_network_architectures.architectures.unet.PlainConvUNet", arch_kwargs=arch,
                                   _kw_requires_import=["conv_op", "norm_op", "dropout_op", "nonlin"]))})
labels = {"background": 0, **{f"c{i}": i for i in range(1, row["classes"])}}
(out / "fold_0").mkdir(parents=True)
(out / "plans.json").write_text(json.dumps(plans))
dataset = dict(channel_names={"0": "CT" if ct else "MRI"}, labels=labels, numTraining=1, file_ending=".nii.gz")
(out / "dataset.json").write_text(json.dumps(dataset))
manager = PlansManager(plans)
chosen = manager.get_configuration(name)
torch.manual_seed(0)
network = nnUNetTrainer.build_network_architecture(manager, chosen, 1, row["classes"], enable_deep_supervision=False)
torch.save(dict(network_weights=network.state_dict(), trainer_name="nnUNetTrainer", init_args=dict(configuration=name),
                inference_allowed_mirroring_axes=tuple(range(dimensions))), out / "fold_0" / "checkpoint_final.pth")
"""


def main() -> None:
    """Measure the rows that were asked for."""
    options = _arguments()
    found, network, notes = [], [], [f"Ours: {bench.versions(Path(sys.executable), ['autounet', 'torch'])}."]
    if options.peer is not None:
        notes.append(f"Theirs: {bench.versions(options.peer / 'bin' / 'python', ['nnunetv2', 'torch'])}.")
    for name in options.row or ROWS:
        row = (
            ROWS[name] if options.size is None else replace(ROWS[name], size=options.size, task=f"{ROWS[name].task} (size {options.size})")
        )
        with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
            one = measured(row, options, Path(scratch))
            found.append(one)
            network.append(_apart(one, _agreement(Path(scratch))))
            print(network[-1], flush=True)
    header = "| task | network CPU s, ours | theirs | ratio | outside CPU s, ours | theirs | ratio | same voxels |"
    network = [header, "|---|---|---|---|---|---|---|---|", *network]
    notes += [f"Networks of ours in {options.precision}."] if options.precision else []
    notes += [f"Run by {options.engine}."] if options.engine else []
    bench.conclude("Predict", found, [*notes, "\n\n" + "\n".join(network) + "\n"], write=options.write)


def measured(row: Row, options: argparse.Namespace, scratch: Path) -> bench.Comparison:
    """Both sides of one row; the reference only where it can."""
    images = scratch / "images"
    images.mkdir()
    _inputs(row, options.data, images)
    peer = None if options.peer is None or row.alone else options.peer
    model = _models(row, options.peer, scratch)
    # What another engine takes is not seen from inside.
    program = OURS if options.engine is None else "from autounet.cli import main; main()"
    ours = [sys.executable, "-c", program, "predict", str(model), str(images), str(scratch / "ours"), "--device", "cpu"]
    ours += [] if row.mirrored else ["--preset", "balanced"]
    ours += ["--max-ram", row.max_ram] if row.max_ram else []
    ours += ["--precision", options.precision] if options.precision else []
    ours += ["--engine", options.engine] if options.engine else []
    mine = bench.Command(
        name="autounet", words=tuple(ours), folder=ROOT, before=lambda: shutil.rmtree(scratch / "ours", ignore_errors=True)
    )
    theirs = None
    if peer is not None:
        script = scratch / "theirs.py"  # a file: its processes are started from it again
        script.write_text(THEIRS)
        words = [str(peer / "bin" / "python"), str(script), "-i", str(images), "-o", str(scratch / "theirs"), "-m", str(scratch / "model")]
        words += ["-f", "0", "-device", "cpu", *([] if row.mirrored else ["--disable_tta"])]
        places = {f"nnUNet_{what}": str(scratch / what) for what in ("raw", "preprocessed", "results")}
        theirs = bench.Command(
            name="nnU-Net v2",
            words=tuple(words),
            environment=places,
            before=lambda: _gone(scratch / "theirs"),
        )
    return bench.compare(row.task, mine, theirs, repeats=options.repeats, quiet_seconds=options.quiet_seconds)


def _gone(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _models(row: Row, peer: Path | None, scratch: Path) -> Path:
    """Our model: taken in from the reference's, or of the same shape."""
    if peer is None:
        return tiny_model(scratch, row.classes, row.features, row.patch, row.spacing, row.convolutions)
    plain = json.dumps({name: getattr(row, name) for name in ("patch", "features", "convolutions", "images", "classes", "spacing")})
    subprocess.run([str(peer / "bin" / "python"), "-c", MODEL, plain, str(scratch / "model")], check=True, capture_output=True)
    words = [sys.executable, "-m", "autounet", "import", "nnunet", str(scratch / "model"), str(scratch / "model.aunet")]
    subprocess.run(words, check=True, capture_output=True, cwd=ROOT)
    return scratch / "model.aunet"


def _inputs(row: Row, data: Path, images: Path) -> None:
    if row.images == "ct":
        ct(images, row.size)
    elif row.images == "slide":
        slide(images, row.size)
    else:
        hippocampi(images, data / "hippocampus_msd" / "images", row.size)


def _apart(one: bench.Comparison, agreement: str) -> str:
    """A line of the second table: what the networks take, and what everything else does."""
    sides = [_split(one.ours), None if one.theirs is None else _split(one.theirs)]
    cells = [one.task]
    for index in (0, 1):
        mine = sides[0][index] if sides[0] else float("nan")
        other = sides[1][index] if sides[1] else None
        cells += [f"{mine:.1f}", "" if other is None else f"{other:.1f}", "" if other is None else f"{other / max(mine, 0.01):.1f}"]
    return "| " + " | ".join([*cells, agreement]) + " |"


def _split(side: bench.Side) -> tuple[float, float] | None:
    """CPU seconds in the network and outside it, medians."""
    parts = []
    for run in side.runs:
        told = [line for line in run.output.splitlines() if line.startswith('{"network"')]
        if told:
            spent = json.loads(told[-1])["network"]["cpu"]
            parts.append((spent, run.cpu_seconds - spent))
    return (float(np.median([p[0] for p in parts])), float(np.median([p[1] for p in parts]))) if parts else None


def _agreement(scratch: Path) -> str:
    """The share of voxels with the same label; random weights draw many borders."""
    from autounet.images.read import read_image

    same = [
        float((read_image(path).voxels_czyx == read_image(scratch / "ours" / path.name).voxels_czyx).mean())
        for path in sorted((scratch / "theirs").glob("*.nii.gz"))
        if (scratch / "ours" / path.name).exists()
    ]
    return f"{min(same):.4%}" if same else ""


def _arguments() -> argparse.Namespace:
    parser = bench.arguments(__doc__ or "")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--row", nargs="*", choices=list(ROWS), default=[], help="these rows; default: all")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], help="of our networks; default: float32, as they were trained")
    parser.add_argument("--engine", help="that runs our networks, say openvino; default: torch")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", metavar="FOLDER", help="holds hippocampus_msd")
    parser.add_argument("--size", type=int, metavar="N", help="slices, cases or edge, for a try")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()), metavar="FOLDER")
    return parser.parse_args()


if __name__ == "__main__":
    main()
