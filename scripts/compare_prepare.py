#!/usr/bin/env python3
"""Prepared arrays beside the reference's, from the same plan: how far apart images and labels are.

usage: compare_prepare.py --peer VENV [--data FOLDER] [--cases N] [--ct EDGE] [--golden FILE]
VENV is a virtual environment with nnunetv2; FOLDER holds hippocampus_msd and brats2013_flair_t1c (left out when absent).
--golden only writes what the reference makes of some small made-up volumes, for tests/arrays/test_reference.py.
Exit code 1 when an image differs by more than 1e-4 of its range or fewer than 99.95 % of a label's voxels agree.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

IMAGE_TOLERANCE, LABEL_AGREEMENT = 1e-4, 0.9995
SCHEMES = {"ct": "CTNormalization", "zscore": "ZScoreNormalization", "rescale": "RescaleTo01Normalization", "none": "NoNormalization"}


@dataclass(frozen=True)
class Recipe:
    """A plan in both languages: the little of it that decides the arrays."""

    name: str
    spacing_zyx_mm: tuple[float, float, float]
    schemes: tuple[str, ...]
    mask_outside: bool = False
    statistics: tuple[float, float, float, float] = (-200.0, 300.0, 50.0, 80.0)  # clip low, clip high, mean, std
    axis_order: tuple[int, int, int] = (0, 1, 2)
    labels: int = 3
    dimensions: int = 3


@dataclass(frozen=True)
class Row:
    """One case of one recipe."""

    recipe: str
    case: str
    shape: tuple[int, ...]
    image_difference: float  # of the reference's range
    label_agreement: float

    @property
    def good(self) -> bool:
        return self.image_difference <= IMAGE_TOLERANCE and self.label_agreement >= LABEL_AGREEMENT


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[1].parent / "shared" / "data")
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--ct", type=int, default=200, help="in-plane edge of the CT phantom; 512 is the full size")
    parser.add_argument("--golden", type=Path)
    wishes = parser.parse_args()
    if wishes.golden:
        write_golden(wishes.golden, wishes.peer)
        return 0
    rows = []
    print(f"{'recipe':24} {'cases':>5} {'worst image difference':>24} {'worst label agreement':>22}")
    for recipe, cases in recipes(wishes.data, wishes.cases, wishes.ct):
        found = list(compare(recipe, cases, wishes.peer))
        rows += found
        worst = max(found, key=lambda row: row.image_difference), min(found, key=lambda row: row.label_agreement)
        print(
            f"{recipe.name:24} {len(found):5} {worst[0].image_difference:10.2e} of the range"
            f"{100 * worst[1].label_agreement:15.4f} % of voxels",
            flush=True,
        )
    bad = [row for row in rows if not row.good]
    print(f"{len(rows) - len(bad)} of {len(rows)} within {IMAGE_TOLERANCE:g} of the range and {100 * LABEL_AGREEMENT} % of voxels")
    for row in bad:
        print("off:", row)
    return bool(bad)


def recipes(data: Path, cases: int, edge: int) -> Iterator[tuple[Recipe, list[tuple[str, Any]]]]:
    """Each recipe with its cases, every case as (name, function that loads it)."""
    hippocampus = sorted((data / "hippocampus_msd" / "images").glob("*.nii.gz"))[:cases]
    if hippocampus:
        loaded = [(p.name, lambda p=p: read([p], data / "hippocampus_msd" / "labels" / p.name)) for p in hippocampus]
        plain = Recipe("hippocampus 1 mm", (1.0, 1.0, 1.0), ("zscore",))
        yield plain, loaded
        yield replace(plain, name="hippocampus finer", spacing_zyx_mm=(0.9, 0.8, 0.7)), loaded
        yield replace(plain, name="hippocampus coarser", spacing_zyx_mm=(1.3, 1.1, 1.7), schemes=("rescale",)), loaded
        yield replace(plain, name="hippocampus thick", spacing_zyx_mm=(0.8, 3.6, 0.9), axis_order=(1, 0, 2)), loaded
        yield replace(plain, name="hippocampus 2d", spacing_zyx_mm=(1.0, 0.8, 1.2), dimensions=2), loaded
    folder = data / "brats2013_flair_t1c"
    names = sorted({p.name[: -len("_0000.nii.gz")] for p in (folder / "images").glob("*_0000.nii.gz")})
    if names:
        pair = [
            (n, lambda n=n: read([folder / "images" / f"{n}_000{c}.nii.gz" for c in (0, 1)], folder / "labels" / f"{n}.nii.gz"))
            for n in names
        ]
        brats = Recipe("brats 1 mm", (1.0, 1.0, 1.0), ("zscore", "zscore"), mask_outside=True, labels=5)
        yield brats, pair
        yield replace(brats, name="brats 1.4 mm", spacing_zyx_mm=(1.4, 1.2, 1.3)), pair
    ct = Recipe("ct thick slices", (1.5, 1.5, 1.5), ("ct",), labels=5)
    yield ct, [("phantom", lambda: ct_phantom(edge, None))]
    yield replace(ct, name="ct isotropic"), [("phantom", lambda: ct_phantom(edge, 2.0))]
    yield replace(ct, name="ct finer", spacing_zyx_mm=(1.1, 1.3, 1.3)), [("phantom", lambda: ct_phantom(edge, 2.0))]


def read(images: list[Path], label: Path) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    import SimpleITK

    opened = [SimpleITK.ReadImage(str(path)) for path in images]
    return (
        np.stack([SimpleITK.GetArrayFromImage(image) for image in opened]),
        SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(label))).astype(np.int16),
        opened[0].GetSpacing()[::-1],
    )


def ct_phantom(edge: int, slice_mm: float | None) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    from autounet.phantoms.catalogue import phantom

    made = phantom("ct", 0, size=edge)
    z, y, x = made.geometry.spacing_zyx_mm
    return made.image_czyx, made.label_zyx.astype(np.int16), (slice_mm or z, y, x)


def golden_recipes() -> Iterator[Recipe]:
    """Small, and one of each kind: up and down, thick and even, masked, turned, flat."""
    yield Recipe("up", (0.8, 0.7, 0.9), ("zscore",))
    yield Recipe("down", (1.7, 1.3, 2.1), ("rescale",))
    yield Recipe("thick", (0.9, 0.25, 0.2), ("ct",), statistics=(20.0, 90.0, 50.0, 15.0), axis_order=(1, 0, 2))
    yield Recipe("masked", (0.9, 1.2, 0.8), ("zscore", "zscore"), mask_outside=True)
    yield Recipe("flat", (1.0, 0.8, 1.3), ("none",), dimensions=2)


def golden_volume(recipe: Recipe) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """Noise and blocks of labels in a box, or in a ball with a hole where a mask is asked for; nothing around it.

    Where nobody asks for a mask, the reference still lets "outside" compete with background for the voxels between,
    and on volumes as small as these that is visible; a box has no voxels between.
    """
    rng, shape = np.random.default_rng(4), (9, 12, 11)
    z, y, x = (i - (n - 1) / 2 for i, n in zip(np.indices(shape), shape, strict=True))
    inside = (np.abs(z) < 4) & (np.abs(y) < 5) & (np.abs(x) < 5)
    if recipe.mask_outside:
        inside = (z**2 + y**2 + x**2 < 4.4**2) & (z**2 + y**2 + x**2 > 1)
    image = (rng.normal(60, 20, (len(recipe.schemes), *shape)).clip(1, 200) * inside).astype(np.int16)
    label = (rng.integers(0, 3, (3, 4, 4)).repeat(3, 0).repeat(3, 1).repeat(3, 2)[:9, :12, :11] * inside).astype(np.int16)
    return image, label, (3.5, 1.0, 1.0) if recipe.name == "thick" else (1.0, 1.0, 1.0)


def write_golden(path: Path, peer: Path) -> None:
    kept = {}
    for recipe in golden_recipes():
        image, label, spacing = golden_volume(recipe)
        with tempfile.TemporaryDirectory() as scratch:
            theirs_image, theirs_label = reference(recipe, [("x", lambda v=(image, label, spacing): v)], peer, Path(scratch))["x"]
        kept |= {f"{recipe.name} image in": image, f"{recipe.name} label in": label, f"{recipe.name} spacing": np.array(spacing)}
        kept |= {f"{recipe.name} image": theirs_image, f"{recipe.name} label": theirs_label}
    np.savez_compressed(path, **kept)


def reference(recipe: Recipe, cases: list[tuple[str, Any]], peer: Path, folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What the reference makes of the cases, in one process for all of them."""
    (folder / "recipe.json").write_text(json.dumps(asdict(recipe)))
    for name, load in cases:
        image_czyx, label_zyx, spacing = load()
        np.savez(folder / f"{name}.npz", image=image_czyx, label=label_zyx, spacing=spacing)
    subprocess.run([peer / "bin" / "python", "-W", "ignore", __file__, "--as-reference", folder], check=True, capture_output=True)
    made = {}
    for name, _ in cases:
        with np.load(folder / f"{name}.reference.npz") as theirs:
            made[name] = theirs["image"], theirs["label"]
    return made


def compare(recipe: Recipe, cases: list[tuple[str, Any]], peer: Path) -> Iterator[Row]:
    """Both on every case."""
    with tempfile.TemporaryDirectory() as scratch:
        for name, (their_image, their_label) in reference(recipe, cases, peer, Path(scratch)).items():
            with np.load(Path(scratch) / f"{name}.npz") as raw:
                image, label = ours(recipe, raw["image"], raw["label"], tuple(float(s) for s in raw["spacing"]))
            assert image.shape == their_image.shape, f"{name}: {image.shape} and {their_image.shape}"
            if not recipe.mask_outside:  # then nobody reads where outside is, and we do not look for it
                their_label = np.maximum(their_label, 0)
            spread = float(np.ptp(their_image)) or 1.0
            yield Row(
                recipe.name, name, image.shape, float(np.abs(image - their_image).max()) / spread, float((label == their_label).mean())
            )


def ours(recipe: Recipe, image_czyx: np.ndarray, label_zyx: np.ndarray, spacing: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    from autounet.arrays.prepare import prepare_arrays
    from autounet.images.geometry import STRAIGHT, Geometry
    from planners.labels import LabelClass, Labels
    from planners.plan import Architecture, Augmentation, ChannelPlan, Configuration, Plan

    low, high, mean, std = recipe.statistics
    channels = tuple(
        ChannelPlan(
            name=f"c{i}", modality="unknown", scheme=s, mask_outside=recipe.mask_outside, clip_low=low, clip_high=high, mean=mean, std=std
        )
        for i, s in enumerate(recipe.schemes)
    )
    architecture = Architecture(
        kind="plain", dimensions=recipe.dimensions, features=(8,), strides_zyx=((1, 1, 1),), kernels_zyx=((3, 3, 3),),
        encoder_blocks=(2,), decoder_convolutions=()
    )  # fmt: skip
    configuration = Configuration(
        name="compared", spacing_zyx_mm=recipe.spacing_zyx_mm, median_shape_zyx=(64, 64, 64), patch_zyx=(64, 64, 64), batch_size=2,
        architecture=architecture, augmentation=Augmentation(steps=()),
    )  # fmt: skip
    classes = tuple(LabelClass(name=str(v), value=v) for v in range(recipe.labels))
    plan = Plan(
        planner="compare", dataset="compare", dimensions=3, orientation="stored", axis_order=recipe.axis_order, channels=channels,
        labels=Labels(classes=classes), configurations=(configuration,), train=("compared",),
    )  # fmt: skip
    geometry = Geometry(shape_zyx=label_zyx.shape, spacing_zyx_mm=spacing, origin_xyz_mm=(0.0, 0.0, 0.0), direction=STRAIGHT)
    made = prepare_arrays(image_czyx, label_zyx, geometry, plan, configuration)
    assert made.label_zyx is not None
    return made.image_czyx, made.label_zyx


def be_the_reference(folder: Path) -> None:
    """Runs in the reference's environment: its preprocessor on every case of the folder."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    recipe = json.loads((folder / "recipe.json").read_text())
    low, high, mean, std = recipe["statistics"]
    resampling = {"order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "compared", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2, "architecture": {},
        "patch_size": [64] * recipe["dimensions"], "spacing": recipe["spacing_zyx_mm"][3 - recipe["dimensions"] :],
        "normalization_schemes": [SCHEMES[s] for s in recipe["schemes"]],
        "use_mask_for_norm": [recipe["mask_outside"]] * len(recipe["schemes"]),
        "resampling_fn_data": "resample_data_or_seg_to_shape", "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **resampling},
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **resampling},
    }  # fmt: skip
    statistics = {"percentile_00_5": low, "percentile_99_5": high, "mean": mean, "std": std}
    plans = {
        "dataset_name": "Dataset001_compare", "plans_name": "compare", "image_reader_writer": "SimpleITKIO",
        "label_manager": "LabelManager",
        "transpose_forward": recipe["axis_order"], "transpose_backward": list(np.argsort(recipe["axis_order"])),
        "configurations": {"compared": configuration}, "experiment_planner_used": "ExperimentPlanner",
        "foreground_intensity_properties_per_channel": {str(c): statistics for c in range(len(recipe["schemes"]))},
    }  # fmt: skip
    labels = {"background": 0, **{str(v): v for v in range(1, recipe["labels"])}}
    dataset = {"labels": labels, "channel_names": {str(c): "x" for c in range(len(recipe["schemes"]))}, "file_ending": ".nii.gz"}
    manager = PlansManager(plans)
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as raw:
            image, label, _ = DefaultPreprocessor(verbose=False).run_case_npy(
                raw["image"],
                raw["label"][None],
                {"spacing": raw["spacing"].tolist()},
                manager,
                manager.get_configuration("compared"),
                dataset,
            )
        np.savez(path.with_suffix(".reference.npz"), image=image, label=label[0])


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    if sys.argv[1:2] == ["--as-reference"]:
        be_the_reference(Path(sys.argv[2]))
    else:
        sys.exit(main())
