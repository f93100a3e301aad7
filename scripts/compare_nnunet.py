"""Masks of models that nnU-Net trained: by nnU-Net itself, and by AutoUNet after taking them in, side by side.

    python scripts/compare_nnunet.py --reference-python PYTHON --pair MODEL_FOLDER IMAGES [--pair …] [--cases 8]
    python scripts/compare_nnunet.py --reference-python PYTHON --back MODEL.aunet IMAGES [--back …]

MODEL_FOLDER is a folder TRAINER__PLANS__CONFIGURATION with its folds, IMAGES a folder in nnU-Net's naming. Each model is
predicted with one fold and with all of them, with mirroring and without; one row of Markdown a way is printed. With --back
a model of ours is given out, and nnU-Net's masks are compared with our own.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

HEAD = "| model | folds | mirrored | cases | voxels of foreground | different | Dice, all classes | least Dice of a class |"

REFERENCE = """
import json, sys, torch
from pathlib import Path
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
for model, out, folds, mirror, previous in json.loads(sys.argv[2]):
    predictor = nnUNetPredictor(use_mirroring=mirror, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(model, folds, "checkpoint_final.pth")
    Path(out).mkdir(parents=True)
    predictor.predict_from_files_sequential(sys.argv[1], out, folder_with_segs_from_prev_stage=previous)
"""


@dataclass(frozen=True)
class Way:
    """How a model is asked."""

    folds: tuple[str, ...]
    mirror: bool


def main() -> int:
    """One table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference-python", type=Path, required=True)
    parser.add_argument("--pair", nargs=2, action="append", type=Path, default=[], metavar=("MODEL", "IMAGES"))
    parser.add_argument("--back", nargs=2, action="append", type=Path, default=[], metavar=("MODEL", "IMAGES"))
    parser.add_argument("--cases", type=int, default=8)
    given = parser.parse_args()
    print(HEAD, "|---|---|---|---|---|---|---|---|", sep="\n", flush=True)
    worst = 1.0
    for model, images in (*given.pair, *given.back):
        with tempfile.TemporaryDirectory() as scratch:
            place = Path(scratch)
            for row, least in rows(model.absolute(), some_of(images, place / "in", given.cases), given.reference_python, place):
                print(row, flush=True)
                worst = min(worst, least)
    return int(worst < 0.999)


def rows(model: Path, images: Path, python: Path, scratch: Path):
    """A row of the table for each way, and its least Dice."""
    title, ours_is, theirs_is = both_kinds(model, scratch)
    folds = tuple(sorted(p.name.removeprefix("fold_") for p in theirs_is.glob("fold_*") if (p / "checkpoint_final.pth").exists()))
    ways = [Way(f, m) for f in dict.fromkeys((folds[:1], folds)) for m in (True, False)]
    all_theirs = by_reference(theirs_is, images, scratch, python, ways)
    for way, theirs in zip(ways, all_theirs, strict=True):
        ours = by_us(ours_is, images, scratch / "ours" / theirs.name, way)
        counts = compared(theirs, ours)
        both, one, other = (sum(c[i] for c in counts.values()) for i in range(3))
        if not counts:
            raise SystemExit(f"{title} finds nothing, so nothing can be compared")
        least = min(2 * b / (a + c) for b, a, c in counts.values())
        cells = (
            title, len(way.folds), "yes" if way.mirror else "no", len(list(theirs.glob("*.*"))), f"{one:,}",
            f"{one + other - 2 * both:,}", f"{2 * both / (one + other):.6f}", f"{least:.6f}",
        )  # fmt: skip
        yield "| " + " | ".join(map(str, cells)) + " |", least


def both_kinds(model: Path, scratch: Path) -> tuple[str, Path, Path]:
    """The model's name, as a model file of ours, and as a folder of theirs."""
    from autounet.interop.nnunet_export import export_nnunet
    from autounet.interop.nnunet_import import import_nnunet
    from autounet.store.bundle import open_bundle

    if model.is_dir():
        import_nnunet(model, scratch / "model.aunet")
        return model.parent.name.partition("_")[2] + " " + " ".join(model.name.split("__")[1:]), scratch / "model.aunet", model
    opened = open_bundle(model)
    chosen = opened.plan.configuration(opened.selection.members[0].configuration)
    title = f"{opened.card.name}, given out: {opened.plan.planner} {chosen.name}"
    return title, model, export_nnunet(opened, scratch / "given_out")[-1]


def by_reference(model: Path, images: Path, scratch: Path, python: Path, ways: list[Way]) -> list[Path]:
    """Its own predictor, all ways in one process; the first stage of a cascade before the second."""
    plans = json.loads((model / "plans.json").read_text())
    trainer, which, configuration = model.name.split("__")
    previous = plans["configurations"][configuration].get("previous_stage")
    jobs, outs = [], []
    for way in ways:
        out = scratch / "theirs" / f"{len(way.folds)}_{way.mirror}"
        first = scratch / "first" / out.name
        folds = [f if f == "all" else int(f) for f in way.folds]
        if previous:
            jobs.append([str(model.with_name(f"{trainer}__{which}__{previous}")), str(first), folds, way.mirror, None])
        jobs.append([str(model), str(out), folds, way.mirror, str(first) if previous else None])
        outs.append(out)
    places = {f"nnUNet_{name}": str(scratch) for name in ("raw", "preprocessed", "results")}
    done = subprocess.run(
        [str(python), "-c", REFERENCE, str(images), json.dumps(jobs)], env=os.environ | places, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    for out in outs:
        for left in out.glob("*.json"):
            left.unlink()
    return outs


def by_us(model: Path, images: Path, out: Path, way: Way) -> Path:
    """As `autounet predict` does, in float32 and without repairs of the mask, as nnU-Net on a processor."""
    from autounet.model import Wish, load

    loaded = load(model, device="cpu")
    out.mkdir(parents=True)
    cases: dict[str, list[Path]] = {}
    for path in sorted(images.iterdir()):
        cases.setdefault(path.name.rsplit("_", 1)[0], []).append(path)
    for case, files in cases.items():
        mask = loaded.predict(
            files if len(files) > 1 else files[0],
            wish=Wish(mirror=way.mirror, folds=len(way.folds), post_process=False, precision="float32"),
        )
        mask.save(out / f"{case}{''.join(files[0].suffixes[-2:]) if files[0].suffix == '.gz' else files[0].suffix}")
    return out


def compared(theirs: Path, ours: Path) -> dict[int, tuple[int, int, int]]:
    """Of each value over all cases: voxels in both, in theirs, in ours."""
    import SimpleITK

    counts: dict[int, tuple[int, int, int]] = {}
    for path in sorted(theirs.glob("*.*")):
        a, b = (SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(folder / path.name))) for folder in (theirs, ours))
        for value in np.union1d(np.unique(a), np.unique(b)):
            if value:
                both, one, other = counts.get(int(value), (0, 0, 0))
                of_a, of_b = a == value, b == value
                counts[int(value)] = (both + int((of_a & of_b).sum()), one + int(of_a.sum()), other + int(of_b.sum()))
    return counts


def some_of(images: Path, folder: Path, cases: int) -> Path:
    """The images of evenly spread cases."""
    names = sorted({path.name.rsplit("_", 1)[0] for path in images.iterdir()})
    chosen = names[:: max(1, len(names) // cases)][:cases]
    folder.mkdir()
    for path in images.iterdir():
        if path.name.rsplit("_", 1)[0] in chosen:
            shutil.copy(path, folder)
    return folder


if __name__ == "__main__":
    sys.exit(main())
