"""nnU-Net beside us: datasets for it, its jobs in its own environment, and the overlap of two sets of masks."""

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK

from autounet import phantoms
from autounet.images.write import write_image, write_mask
from autounet.model import Wish, load
from autounet.phantoms.patients import Torso
from autounet.phantoms.scan import Scanner, scan
from autounet.rng import generator

SIDE = Path(__file__).with_name("nnunet_side.py")
SECONDS = 900


@dataclass(frozen=True)
class Reference:
    """The other program: its Python and the folder that holds its three roots."""

    python: Path
    root: Path

    def do(self, jobs: Sequence[dict[str, Any]]) -> None:
        """Jobs of nnunet_side.py, in one process."""
        roots = {f"nnUNet_{name}": str(self.root / name) for name in ("raw", "preprocessed", "results")}
        for folder in roots.values():
            Path(folder).mkdir(parents=True, exist_ok=True)
        path = self.root / "jobs.json"
        path.write_text(json.dumps(jobs))
        others = {"nnUNet_def_n_proc": "1", "nnUNet_compile": "f", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin", "HOME": str(self.root)}
        done = subprocess.run(
            [str(self.python), str(SIDE), str(path)],
            capture_output=True, text=True, check=False, timeout=SECONDS, cwd=self.root, env=roots | others,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]

    def trained(self, dataset: str, plans: str, configuration: str) -> Path:
        """The folder of a model that it trained."""
        return self.root / "results" / dataset / f"nnUNetTrainer__{plans}__{configuration}"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A kind of model: what it is trained on and how nnU-Net plans it."""

    number: int
    name: str
    make: Callable[[Path], object]
    configuration: str = "3d_fullres"
    planner: str = "ExperimentPlanner"
    widths: tuple[int, ...] = (8, 16, 24, 32)
    folds: tuple[int | str, ...] = (0,)
    iterations: int = 100
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def dataset(self) -> str:
        """As nnU-Net names it."""
        return f"Dataset{self.number:03d}_{self.name}"

    @property
    def previous(self) -> str | None:
        """The configuration that it starts from."""
        found = self.changes.get(self.configuration, {}).get("previous_stage")
        return None if found is None else str(found)


def train(reference: Reference, variant: Variant) -> list[dict[str, Any]]:
    """The dataset on disk, and the jobs that plan and train."""
    raw = reference.root / "raw" / variant.dataset
    if not raw.exists():
        variant.make(raw)
    plan = {
        "do": "plan", "dataset": variant.number, "name": "Small", "planner": variant.planner,
        "widths": variant.widths, "changes": variant.changes,
    }  # fmt: skip
    first = {"do": "train", "dataset": variant.number, "plans": "Small", "iterations": variant.iterations}
    jobs = [plan]
    for fold in variant.folds:
        if variant.previous is not None:
            jobs.append({**first, "configuration": variant.previous, "fold": fold, "following": variant.configuration})
        jobs.append({**first, "configuration": variant.configuration, "fold": fold})
    return jobs


@dataclass(frozen=True)
class Agreement:
    """Of one value over all masks of two folders."""

    dice: float
    voxels: int  # in theirs
    different: int


def agreement(theirs: Path, ours: Path) -> dict[int, Agreement]:
    """How well two folders of masks agree, as an independent reader sees them."""
    names = sorted(p.name for p in theirs.iterdir() if p.name.endswith((".nii.gz", ".png")))
    assert names, "no mask was compared"
    sums: dict[int, np.ndarray] = {}
    for name in names:
        one, other = (SimpleITK.ReadImage(str(folder / name)) for folder in (theirs, ours))
        assert one.GetSize() == other.GetSize(), name
        a, b = (SimpleITK.GetArrayFromImage(image) for image in (one, other))
        for value in np.union1d(np.unique(a), np.unique(b))[1:]:
            counted = np.array([((a == value) & (b == value)).sum(), (a == value).sum(), (b == value).sum()])
            sums[int(value)] = sums.get(int(value), np.zeros(3, int)) + counted
    return {
        value: Agreement(dice=float(2 * both / (one + other)), voxels=int(one), different=int(one + other - 2 * both))
        for value, (both, one, other) in sums.items()
    }


def predicted_by_us(model: Path, images: Path, out: Path, wish: Wish) -> Path:
    """Our masks of a folder of numbered channels, under the names that nnU-Net gives."""
    loaded = load(model, device="cpu")
    out.mkdir(parents=True)
    cases: dict[str, list[Path]] = {}
    for path in sorted(images.iterdir()):
        cases.setdefault(path.name.rsplit("_", 1)[0], []).append(path)
    for case, files in cases.items():
        suffix = ".png" if files[0].suffix == ".png" else ".nii.gz"
        loaded.predict(files if len(files) > 1 else files[0], wish=replace(wish, threads=1)).save(out / f"{case}{suffix}")
    return out


def organs(folder: Path) -> None:
    """Five organs on oblique grids of 2 mm and slices of 5 mm, stored in three orientations."""
    phantoms.make("organs", folder, cases=6, size=40, seed=3, layout="nnunet")
    two_folds(folder)


def partly_annotated(folder: Path) -> None:
    """The same, the upper slices not annotated."""
    organs(folder)
    for path in (folder / "labelsTr").iterdir():
        image = SimpleITK.ReadImage(str(path))
        values = SimpleITK.GetArrayFromImage(image)
        values[len(values) * 2 // 3 :] = 5
        changed = SimpleITK.GetImageFromArray(values)
        changed.CopyInformation(image)
        SimpleITK.WriteImage(changed, str(path))
    _edit(folder, lambda labels: labels | {"ignore": 5})


def regions(folder: Path) -> None:
    """A tumour of nested regions, in two channels."""
    phantoms.make("multichannel", folder, cases=6, size=32, seed=3, layout="nnunet")
    _edit(folder, lambda _: {"background": 0, "whole": [1, 2, 3], "core": [1, 3], "enhancing": 3}, regions_class_order=[2, 1, 3])
    two_folds(folder)


def thick_slices(folder: Path) -> None:
    """A CT whose slices are four to eight times as thick as its pixels are wide, each case otherwise."""
    for index in range(6):
        rng = generator(3, "thick", index)
        depth, edge = int(rng.integers(9, 15)), int(rng.integers(60, 72))
        scanner = Scanner(shape_zyx=(depth, edge, edge), spacing_zyx_mm=(410 / depth, 410 / edge, 410 / edge), stored="LPS")
        geometry = scanner.geometry()
        image, label = scan(Torso.draw(rng, classes=3), geometry, rng)
        for part, voxels in (("imagesTr", image.astype(np.int16)), ("labelsTr", label)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            if part == "imagesTr":
                write_image(folder / part / f"ct_{index:03d}_0000.nii.gz", voxels, geometry)
            else:
                write_mask(folder / part / f"ct_{index:03d}.nii.gz", voxels, geometry)
    named = {"background": 0, "organ_1": 1, "organ_2": 2, "organ_3": 3}
    described = {"channel_names": {"0": "CT"}, "labels": named, "numTraining": 6, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(described))
    two_folds(folder)


def pictures(folder: Path) -> None:
    """Colour pictures of cells."""
    phantoms.make("cells", folder, cases=6, size=96, seed=3, layout="nnunet")
    two_folds(folder)


def two_folds(folder: Path) -> None:
    """The last two cases are held out, once the one and once the other."""
    cases = sorted(p.name.split(".")[0] for p in (folder / "labelsTr").iterdir())
    folds = [{"train": [c for c in cases if c != held], "val": [held]} for held in cases[-2:]]
    (folder / "splits_final.json").write_text(json.dumps(folds))


def _edit(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]], **more: Any) -> None:
    described = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(described | {"labels": change(described["labels"])} | more))
