"""Models that nnU-Net trains here, taken in: our masks against its own, voxel by voxel.

Against the program as it is, Dice must be 0.999. Against the same program with its tiles added up in single precision,
not one voxel may differ.

pytest tests/interop --reference-python PATH/TO/AN/ENVIRONMENT/WITH/NNUNETV2/bin/python
"""

from itertools import product
from pathlib import Path

import pytest

from autounet.interop.nnunet_import import import_nnunet
from autounet.model import Wish
from tests.interop import reference as peer
from tests.interop.reference import Reference, Variant

pytestmark = pytest.mark.slow

LEAST = 0.999  # Dice over all cases
MANY = 1000  # voxels of a class in which one that differs is less than that

CASCADE = {
    "3d_lowres": {"spacing": [7.0, 4.4, 4.4], "patch_size": [16, 16, 16], "next_stage": "3d_cascade_fullres"},
    "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
}
VARIANTS = (
    Variant(number=801, name="Organs", make=peer.organs, folds=(0, 1)),
    Variant(number=801, name="Organs", make=peer.organs, configuration="2d", folds=(0, 1)),
    Variant(number=801, name="Organs", make=peer.organs, planner="nnUNetPlannerResEncM"),
    Variant(number=802, name="Regions", make=peer.regions),
    Variant(number=803, name="Ignore", make=peer.partly_annotated),
    Variant(number=804, name="Thick", make=peer.thick_slices, folds=(0, 1), iterations=250),
    Variant(number=805, name="Cells", make=peer.pictures, configuration="2d"),
    Variant(number=806, name="Cascade", make=peer.organs, configuration="3d_cascade_fullres", folds=("all",), changes=CASCADE),
)


@pytest.fixture
def reference(reference_python: Path, tmp_path: Path) -> Reference:
    return Reference(reference_python, tmp_path / "reference")


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: f"{v.name}-{v.configuration}-{v.planner}".lower())
def test_a_model_that_nnunet_trained_gives_its_masks(variant: Variant, reference: Reference, tmp_path: Path) -> None:
    folder = reference.trained(variant.dataset, "Small", variant.configuration)
    images = reference.root / "raw" / variant.dataset / "imagesTr"
    ways = [(folds, mirror) for folds in sorted({variant.folds[:1], variant.folds}) for mirror in (True, False)]
    jobs = peer.train(reference, variant)
    for single, (folds, mirror) in product((False, True), ways):  # once its precision is changed, its process stays so
        out = tmp_path / ("single" if single else "half") / f"{len(folds)}{mirror}"
        asked = {"do": "predict", "images": str(images), "folds": folds, "mirror": mirror, "single": single}
        if variant.previous:
            first = str(tmp_path / "first" / out.relative_to(tmp_path))
            jobs.append({**asked, "model": str(reference.trained(variant.dataset, "Small", variant.previous)), "out": first})
            asked["previous"] = first
        jobs.append({**asked, "model": str(folder), "out": str(out)})
    reference.do(jobs)
    import_nnunet(folder.parent, tmp_path / "taken_in.aunet", configuration=variant.configuration)
    for folds, mirror in ways:
        name = f"{len(folds)}{mirror}"
        ours = peer.predicted_by_us(tmp_path / "taken_in.aunet", images, tmp_path / "ours" / name, Wish(mirror=mirror, folds=len(folds)))
        compare(tmp_path / "half" / name, ours)
        assert all(one.different == 0 for one in peer.agreement(tmp_path / "single" / name, ours).values()), "not one voxel may differ"


def compare(theirs: Path, ours: Path) -> None:
    """The program as it is: it adds up tiles in half precision, so that a voxel on the boundary may fall to either side."""
    found = peer.agreement(theirs, ours).values()
    voxels, different = sum(one.voxels for one in found), sum(one.different for one in found)
    assert voxels > 500, "a model that finds nothing proves nothing"
    assert different / (2 * voxels) <= 1 - LEAST, found
    assert all(one.dice >= LEAST for one in found if one.voxels >= MANY), found
