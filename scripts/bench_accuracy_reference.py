"""The reference's half of `bench_train.py accuracy` and of `bench_run.py`; runs in an environment that has nnunetv2.

Prints one JSON line at the end.

Its own plan, sampling, augmentation, loss, optimiser and final validation. The poly schedule follows the clock, so that it ends
exactly with the time there is, and nothing of that time goes into pseudo validation or checkpoints.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

NUMBER, NAME = 901, "Dataset901_Bench"


def raw_dataset(dataset: Path, raw: Path) -> list[str]:
    """A folder of images/ and labels/ (one channel) in the layout that the reference reads; links, no copies. Returns the case ids."""
    import nibabel
    import numpy as np

    folder = raw / NAME
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    values: set[int] = set()
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (dataset / "images").glob("*.nii.gz"))
    for case in cases:
        for part, source, target in (("imagesTr", "images", f"{case}_0000"), ("labelsTr", "labels", case)):
            link = folder / part / f"{target}.nii.gz"
            if not link.exists():
                link.symlink_to((dataset / source / f"{case}.nii.gz").resolve())
        values |= {int(v) for v in np.unique(np.asarray(nibabel.load(folder / "labelsTr" / f"{case}.nii.gz").dataobj))}
    labels = {"background": 0} | {f"class_{value}": value for value in sorted(values - {0})}
    described = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": len(cases), "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(described))
    return cases


def raw_cases(listed: dict[str, Any], raw: Path) -> list[str]:
    """Cases that somebody else has listed, file by file, in the same layout; pictures are written anew, without alpha channels."""
    folder = raw / NAME
    for case in listed["cases"]:
        for part, source, name in (("imagesTr", case["image"], f"{case['id']}_0000"), ("labelsTr", case["label"], case["id"])):
            target = folder / part / f"{name}{listed['ending']}"
            target.parent.mkdir(parents=True, exist_ok=True)
            if listed["ending"] == ".png":
                _picture(Path(source), target)
            elif not target.exists():
                target.symlink_to(Path(source).resolve())
    cases = [case["id"] for case in listed["cases"]]
    channels = {str(number): name for number, name in enumerate(listed["channels"])}
    described = {
        "channel_names": channels,
        "labels": listed["labels"],
        "numTraining": len(listed["cases"]),
        "file_ending": listed["ending"],
    }
    (folder / "dataset.json").write_text(json.dumps(described))
    return cases


def _picture(source: Path, target: Path) -> None:
    from PIL import Image

    with Image.open(source) as picture:
        plain = picture if picture.mode in ("L", "RGB") else picture.convert("RGB" if len(picture.getbands()) > 2 else "L")
        plain.save(target)


def prepared(cases: list[str], held_out: list[str], preprocessed: Path, configuration: str) -> None:
    """Fingerprint, plan and arrays by the reference's own command, and one split."""
    folder = preprocessed / NAME
    if not (folder / "ready").exists():
        command = str(Path(sys.executable).parent / "nnUNetv2_plan_and_preprocess")
        subprocess.run([command, "-d", str(NUMBER), "-c", configuration, "-np", "1", "-npfp", "1"], check=True, stdout=sys.stderr)
        (folder / "ready").touch()
    splits = [{"train": [c for c in cases if c not in held_out], "val": held_out}]
    (folder / "splits_final.json").write_text(json.dumps(splits))


def train(configuration: str, seconds: float, seed: int, preprocessed: Path) -> dict[str, object]:
    """One training of so many seconds, and the whole held-out fold as the reference validates it."""
    import numpy as np
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    torch.manual_seed(seed)
    np.random.seed(seed)
    folder = preprocessed / NAME
    plans = json.loads((folder / "nnUNetPlans.json").read_text()) | {"continue_training": False}
    described = json.loads((folder / "dataset.json").read_text())
    trainer = nnUNetTrainer(plans, configuration, 0, described, device=torch.device("cpu"))
    trainer.on_train_start()
    began, count = time.monotonic(), 0
    while (spent := time.monotonic() - began) < seconds:
        for group in trainer.optimizer.param_groups:
            group["lr"] = trainer.initial_lr * (1 - spent / seconds) ** 0.9
        trainer.network.train()
        loss = trainer.train_step(next(trainer.dataloader_train))["loss"]
        count += 1
        if count % 20 == 0:
            print(f"reference: {count} iterations, {spent:.0f} s, loss {float(loss):.3f}", file=sys.stderr, flush=True)
    trainer.on_train_end()
    trainer.perform_actual_validation(save_probabilities=False)
    summary = json.loads((Path(trainer.output_folder) / "validation" / "summary.json").read_text())
    return {
        "iterations": count,
        "masks": str(Path(trainer.output_folder) / "validation"),
        "dice": float(summary["foreground_mean"]["Dice"]),
        "classes": {name: float(scores["Dice"]) for name, scores in summary["mean"].items()},
        "batch": trainer.batch_size,
        "patch": [int(edge) for edge in trainer.configuration_manager.patch_size],
        "features": [int(n) for n in trainer.configuration_manager.network_arch_init_kwargs["features_per_stage"]],
    }


def main() -> None:
    """One training a call."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--dataset", type=Path, help="images/ and labels/; every fifth case is held out, only training is timed")
    what.add_argument("--cases", type=Path, help="a list of cases and of those held out; planning and preparing count")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--configuration", default="3d_fullres")
    given = parser.parse_args()
    began = time.monotonic()
    folders = {f"nnUNet_{part}": given.work.resolve() / part for part in ("raw", "preprocessed", "results")}
    for name, folder in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[name] = str(folder)
    os.environ.update(nnUNet_n_proc_DA="1", nnUNet_def_n_proc="1", nnUNet_compile="F")
    listed = json.loads(given.cases.read_text()) if given.cases else None
    cases = raw_cases(listed, folders["nnUNet_raw"]) if listed else raw_dataset(given.dataset, folders["nnUNet_raw"])
    prepared(cases, listed["held_out"] if listed else cases[::5], folders["nnUNet_preprocessed"], given.configuration)
    # Samples are made in the process that trains: on a processor, workers would only take its cores.
    os.environ.update(nnUNet_n_proc_DA="0")
    spent = time.monotonic() - began if listed else 0.0
    found = train(given.configuration, given.minutes * 60 - spent, given.seed, folders["nnUNet_preprocessed"])
    print(json.dumps(found | {"wall_seconds": time.monotonic() - began}))


if __name__ == "__main__":
    main()
