"""What the reference's own preprocessor made of small volumes, kept by scripts/compare_prepare.py --golden."""

import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "scripts"))
import compare_prepare  # noqa: E402

RECIPES = {recipe.name: recipe for recipe in compare_prepare.golden_recipes()}


@pytest.mark.parametrize("name", RECIPES)
def test_arrays_are_the_references(name):
    with np.load(HERE / "reference.npz", allow_pickle=False) as kept:
        image_in, label_in, spacing, image, label = (
            kept[f"{name} {what}"] for what in ("image in", "label in", "spacing", "image", "label")
        )
    found_image, found_label = compare_prepare.ours(RECIPES[name], image_in, label_in, tuple(spacing.tolist()))
    assert np.abs(found_image - image).max() <= 1e-5 * np.ptp(image)
    assert (label.min() == -1) == RECIPES[name].mask_outside
    # Of 1 260 voxels one is an exact tie, in which the reference's rounding decides and with us the nearest voxel.
    assert (found_label != label).sum() <= 1


def test_the_kept_volumes_are_still_those_of_the_script():
    with np.load(HERE / "reference.npz", allow_pickle=False) as kept:
        for name, recipe in RECIPES.items():
            image, label, spacing = compare_prepare.golden_volume(recipe)
            assert tuple(kept[f"{name} spacing"]) == spacing
            assert kept[f"{name} image in"].shape == image.shape
            assert (kept[f"{name} label in"] > 0).sum() == (label > 0).sum()
