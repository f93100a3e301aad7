#!/usr/bin/env python3
"""Golden plans: what the reference's own planners decide for given fingerprints.

usage: REFERENCE_VENV/bin/python scripts/golden_plans.py OUT.json [--random N] [--seed S] [--table]
       [--images NAME CHANNEL LABELS FOLDER [LIMIT]] ...   real images, cropped and measured by the reference

Runs inside the reference's environment. Only facts are written: the input, and the numbers decided.
"""

import argparse
import contextlib
import io
import json
import os
import random
import sys
import tempfile
from pathlib import Path

TABLE = {
    "BrainTumour": (484, (1.0, 1.0, 1.0), (138, 170, 138), 4, 4, 0.36),
    "Heart": (20, (1.37, 1.25, 1.25), (115, 320, 232), 1, 2, 1.0),
    "Liver": (131, (1.0, 0.7676, 0.7676), (432, 512, 512), 1, 3, 1.0),
    "Hippocampus": (260, (1.0, 1.0, 1.0), (36, 50, 35), 1, 3, 1.0),
    "Prostate": (32, (3.6, 0.625, 0.625), (20, 320, 319), 2, 3, 1.0),
    "Pancreas": (281, (2.5, 0.8027, 0.8027), (93, 512, 512), 1, 3, 1.0),
    "KiTS": (489, (3.0, 0.78125, 0.78125), (104, 512, 512), 1, 4, 1.0),
    "AMOS": (240, (5.0, 0.682, 0.682), (103, 512, 512), 1, 16, 1.0),
    "RGB": (500, (999.0, 1.0, 1.0), (1, 512, 512), 3, 2, 1.0),
}
PLANNERS = {"nnunet": "ExperimentPlanner", "nnunet_resenc_m": "nnUNetPlannerResEncM", "nnunet_resenc_l": "nnUNetPlannerResEncL"}
PLANNERS["nnunet_resenc_xl"] = "nnUNetPlannerResEncXL"


def table():
    for name, (cases, spacing, shape, channels, labels, relative) in TABLE.items():
        names = ["CT"] if name in ("Liver", "Pancreas", "KiTS", "AMOS") else ["MR"] * channels
        yield {
            "name": name,
            "spacings": [spacing] * cases,
            "shapes": [shape] * cases,
            "channels": names,
            "labels": labels,
            "relative": relative,
        }


def random_fingerprint(number, seed):
    """Volumes of many shapes: isotropic, thick, odd, tiny, storage orders at random; and some pictures."""
    rng = random.Random(seed * 10_000 + number)
    if number % 8 == 7:
        edge = [rng.choice((64, 129, 256, 512, 700, 1024)) for _ in range(2)]
        shapes = [
            [1, max(8, int(e * rng.uniform(0.8, 1.2))), max(8, int(edge[1] * rng.uniform(0.8, 1.2)))]
            for e in [edge[0]] * rng.randint(1, 30)
        ]
        spacings = [[999.0, 1.0, 1.0] for _ in shapes]
    else:
        fine = rng.choice((0.3, 0.5, 0.78, 1.0, 1.5))
        thick = fine * rng.choice((1, 1, 1.6, 2.5, 3.2, 5, 8))
        plane, depth = rng.choice((40, 90, 160, 256, 400, 512)), rng.choice((12, 18, 30, 60, 110, 200, 350))
        order = rng.choice(([0, 1, 2], [0, 1, 2], [1, 0, 2], [2, 1, 0]))
        spacings, shapes = [], []
        for _ in range(rng.choice((1, 2, 3, 7, 20, 33))):
            mm = [round(thick * rng.uniform(0.6, 1.3), 4), round(fine * rng.uniform(0.8, 1.2), 4)]
            mm.append(mm[1])
            voxels = [int(depth * rng.uniform(0.6, 1.3)), int(plane * rng.uniform(0.7, 1.1)), int(plane * rng.uniform(0.7, 1.1))]
            spacings.append([mm[a] for a in order])
            shapes.append([voxels[a] for a in order])
    names = [
        rng.choice(("CT", "MR", "ct", "noNorm", "zscore", "rescale_to_0_1", "rgb_to_0_1", "PET")) for _ in range(rng.choice((1, 1, 2, 4)))
    ]
    labels = rng.choice((2, 2, 3, 5, 16, 60))
    return {
        "name": f"random_{seed}_{number}",
        "spacings": spacings,
        "shapes": shapes,
        "channels": names,
        "labels": labels,
        "relative": rng.choice((0.3, 0.74, 0.75, 1.0)),
    }


def measured(asked):
    """Spacings and cropped shapes of the first images of a folder, read and cropped by the reference."""
    from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero

    name, channel, labels, folder, *limit = asked
    files = sorted(p for p in Path(folder).iterdir() if p.name.endswith((".nii.gz", ".png")))[: int(limit[0]) if limit else None]
    reader = NaturalImage2DIO() if files[0].suffix == ".png" else SimpleITKIO()
    spacings, shapes, sizes = [], [], []
    for file in files:
        image, properties = reader.read_images((str(file),))
        cropped = crop_to_nonzero(image)[0]
        spacings.append([float(mm) for mm in properties["spacing"]])
        shapes.append([int(edge) for edge in cropped.shape[1:]])
        sizes.append(cropped.size / image.size)
    relative = sorted(sizes)[len(sizes) // 2]
    return {"name": name, "spacings": spacings, "shapes": shapes, "channels": [channel], "labels": int(labels), "relative": relative}


def plan(fingerprint, planner):
    """Write what the reference reads, let it plan, and return what it wrote."""
    import torch
    from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner as default
    from nnunetv2.experiment_planning.experiment_planners.residual_unets import residual_encoder_unet_planners as residual
    from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw

    name = "Dataset001_Golden"
    raw, done = Path(nnUNet_raw) / name, Path(nnUNet_preprocessed) / name
    for folder in (raw / "imagesTr", raw / "labelsTr", done):
        folder.mkdir(parents=True, exist_ok=True)
    cases = len(fingerprint["shapes"])
    names = {str(i): c for i, c in enumerate(fingerprint["channels"])}
    labels = {"background": 0, **{f"c{i}": i for i in range(1, fingerprint["labels"])}}
    dataset = {"channel_names": names, "labels": labels, "numTraining": cases, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps({**dataset, "overwrite_image_reader_writer": "SimpleITKIO"}))
    for number in range(len(names)):
        (raw / "imagesTr" / f"a_{number:04d}.nii.gz").touch()
    (raw / "labelsTr" / "a.nii.gz").touch()
    intensity = {"max": 1.0, "mean": 0.0, "median": 0.0, "min": -1.0, "percentile_00_5": -0.5, "percentile_99_5": 0.5, "std": 1.0}
    facts = {
        "spacings": fingerprint["spacings"],
        "shapes_after_crop": fingerprint["shapes"],
        "median_relative_size_after_cropping": fingerprint["relative"],
    }
    facts["foreground_intensity_properties_per_channel"] = dict.fromkeys(names, intensity)
    (done / "dataset_fingerprint.json").write_text(json.dumps(facts))
    for old in done.glob("*Plans.json"):
        old.unlink()
    made = getattr(default, planner, None) or getattr(residual, planner)
    # The reference builds every network it considers; it asks them for shapes alone, so they need no memory.
    with contextlib.redirect_stdout(io.StringIO()), torch.device("meta"):
        return made(name).plan_experiment()


def facts(plans):
    """The numbers of a plans file, without names of classes and functions."""
    configurations = {}
    for name, one in plans["configurations"].items():
        if "inherits_from" in one:
            configurations[name] = {"inherits_from": one["inherits_from"], "previous_stage": one["previous_stage"]}
            continue
        net = one["architecture"]["arch_kwargs"]
        configurations[name] = {
            "patch": [int(v) for v in one["patch_size"]],
            "batch": int(one["batch_size"]),
            "spacing": [float(v) for v in one["spacing"]],
            "median": [float(v) for v in one["median_image_size_in_voxels"]],
            "features": list(net["features_per_stage"]),
            "strides": [list(s) for s in net["strides"]],
            "kernels": [list(k) for k in net["kernel_sizes"]],
            "blocks": list(net.get("n_conv_per_stage") or net.get("n_blocks_per_stage")),
            "decoder": list(net["n_conv_per_stage_decoder"]),
            "normalisation": one["normalization_schemes"],
            "masked": one["use_mask_for_norm"],
            "batch_dice": one["batch_dice"],
        }
    return {"transpose": plans["transpose_forward"], "configurations": configurations}


def main():
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("out", type=Path)
    asked.add_argument("--random", type=int, default=0)
    asked.add_argument("--seed", type=int, default=1)
    asked.add_argument("--table", action="store_true", help="the nine published tasks, all four planners")
    asked.add_argument("--images", nargs="+", action="append", default=[], help="NAME CHANNEL LABELS FOLDER [LIMIT]")
    asked.add_argument("--planners", nargs="*", help="default: all four; random ones take one each in turn")
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            os.environ[name] = f"{folder}/{name}"
        os.environ["nnUNet_n_proc_DA"] = "1"  # noqa: SIM112
        jobs = [(f, p) for f in (table() if given.table else ()) for p in given.planners or PLANNERS]
        jobs += [(f, p) for f in map(measured, given.images) for p in given.planners or PLANNERS]
        jobs += [
            (random_fingerprint(n, given.seed), (given.planners or list(PLANNERS))[n % len(given.planners or PLANNERS)])
            for n in range(given.random)
        ]
        lines = []
        for fingerprint, planner in jobs:
            try:
                decided = facts(plan(fingerprint, PLANNERS[planner]))
            except Exception as error:  # the reference fails on some inputs; that is a fact too
                decided = {"fails": f"{type(error).__name__}: {error}"[:200]}
            lines.append(json.dumps({"planner": planner, "input": squeezed(fingerprint), "plan": decided}, separators=(",", ":")))
            given.out.write_text("[\n" + ",\n".join(lines) + "\n]\n")
            print(planner, fingerprint["name"], list(decided.get("configurations", decided)), file=sys.stderr, flush=True)


def squeezed(fingerprint):
    """Equal cases as one with a count."""
    spacings, shapes = fingerprint["spacings"], fingerprint["shapes"]
    same = all(list(s) == list(spacings[0]) for s in spacings) and all(list(s) == list(shapes[0]) for s in shapes)
    kept = {"cases": len(shapes), "spacings": spacings[:1] if same else spacings, "shapes": shapes[:1] if same else shapes}
    return {**{k: fingerprint[k] for k in ("name", "channels", "labels", "relative")}, **kept}


if __name__ == "__main__":
    main()
