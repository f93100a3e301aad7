"""What scripts/bench_predict.py predicts, and with what when there is no reference to make a model."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def ct(folder: Path, slices: int) -> None:
    """Smooth tissue in an ellipse, air around it, noise: of a CT's size and spacing."""
    from autounet.images.geometry import STRAIGHT, Geometry
    from autounet.images.write import write_image

    rng = np.random.default_rng(0)
    coarse = rng.normal(size=(max(slices // 8, 2), 64, 64))
    y, x = np.mgrid[-1:1:512j, -1:1:512j]
    body = (y / 0.75) ** 2 + (x / 0.9) ** 2 < 1
    image = np.empty((slices, 512, 512), np.int16)
    for z, row in enumerate(np.linspace(0, len(coarse) - 1, slices)):
        low = int(row)
        plane = coarse[low] + (row - low) * (coarse[min(low + 1, len(coarse) - 1)] - coarse[low])
        image[z] = np.where(body, np.kron(plane, np.ones((8, 8))) * 60 + 40 + 15 * rng.standard_normal((512, 512)), -1000)
    grid = Geometry(shape_zyx=(slices, 512, 512), spacing_zyx_mm=(2.5, 0.8, 0.8), origin_xyz_mm=(0.0, 0.0, 0.0), direction=STRAIGHT)
    write_image(folder / "ct_0000.nii.gz", image[None], grid)


def slide(folder: Path, edge: int) -> None:
    """A gray picture."""
    from autounet.images.geometry import picture_geometry
    from autounet.images.write import write_image

    tile = np.random.default_rng(0).integers(0, 255, (512, 512)).astype(np.uint8)
    picture = np.tile(tile, (-(-edge // 512), -(-edge // 512)))[:edge, :edge]
    write_image(folder / "slide_0000.png", picture[None, None], picture_geometry((edge, edge)))


def hippocampi(folder: Path, source: Path, count: int) -> None:
    """The first cases of the public data set, named as the reference wants them."""
    for path in sorted(source.glob("*.nii.gz"))[:count]:
        shutil.copy(path, folder / f"{path.name.removesuffix('.nii.gz')}_0000.nii.gz")


def tiny_model(
    folder: Path, classes: int, features: tuple[int, ...], patch: tuple[int, ...], spacing: tuple[float, ...], convolutions: int
) -> Path:
    """A bundle with random weights, of the shape that the reference would be given."""
    from planners.plan import ChannelPlan, Resampling
    from tests.tiny_models import architecture, configuration, plan_of, tiny_bundle

    flat = len(patch) == 2
    shape = architecture(2 if flat else 3, features)
    shape = replace(shape, encoder_blocks=(convolutions,) * len(features), decoder_convolutions=(convolutions,) * (len(features) - 1))
    chosen = configuration(
        (1, *patch) if flat else patch,  # type: ignore[arg-type]
        "2d" if flat else "3d_fullres",
        architecture=shape,
        spacing_zyx_mm=(1.0, *spacing) if flat else spacing,
        resampling=Resampling(),
    )
    ct_like = max(patch) > 64 and not flat
    channel = ChannelPlan(
        name="image", modality="unknown", scheme="ct" if ct_like else "zscore", clip_low=-100.0, clip_high=250.0, mean=60.0, std=60.0
    )
    plan = replace(plan_of(chosen, classes=classes), channels=(channel,), dimensions=2 if flat else 3)
    return tiny_bundle(folder, plan)
