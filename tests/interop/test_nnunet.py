import json
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage

from autounet.inference.tiles import gaussian
from autounet.interop.nnunet_export import dataset_of, export_nnunet, plans_of
from autounet.interop.nnunet_import import convert, import_nnunet
from autounet.interop.nnunet_plans import labels_of
from autounet.model import load
from autounet.store.bundle import open_bundle
from planners.errors import UserError
from planners.labels import LabelClass, Labels, Region
from planners.plan import Inference, Resampling
from tests.tiny_models import architecture, configuration, plan_of, regions, smooth, tiny_bundle


@pytest.fixture
def exported(tmp_path):
    """A residual model on turned axes, as nnU-Net would have written it."""
    shape = replace(
        architecture(3, (4, 8, 12), "residual"),
        encoder_blocks=(1, 2, 2),
        strides_zyx=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
        kernels_zyx=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
    )
    tiled = Inference(mirror_axes=(0, 1, 2), peak="nnunet")
    chosen = configuration((8, 16, 16), architecture=shape, spacing_zyx_mm=(2.0, 1.1, 1.2), resampling=Resampling(), inference=tiled)
    plan = replace(plan_of(chosen), axis_order=(2, 0, 1))
    plan = replace(plan, channels=(replace(plan.channels[0], scheme="zscore", mask_outside=True),))
    (tmp_path / "ours").mkdir()
    model = tiny_bundle(tmp_path / "ours", plan, folds=(0, 1))
    return model, export_nnunet(open_bundle(model), tmp_path / "theirs")[0]


def test_out_and_in_again_is_the_same_model(exported, tmp_path):
    model, folder = exported
    import_nnunet(folder, tmp_path / "back.aunet")
    one, other = load(model, device="cpu"), load(tmp_path / "back.aunet", device="cpu")
    for fold in (0, 1):
        ours, theirs = one.bundle.tensors("3d_fullres", fold), other.bundle.tensors("3d_fullres", fold)
        assert set(ours) == set(theirs)
        for name in ours:
            assert_array_equal(ours[name].numpy(), theirs[name].numpy())
    a, b = one.plan.configurations[0], other.plan.configurations[0]
    for field in ("spacing_zyx_mm", "patch_zyx", "resampling", "architecture", "inference", "batch_size"):
        assert getattr(a, field) == getattr(b, field), field
    assert other.plan.axis_order == (2, 0, 1)
    image = smooth((1, 14, 19, 22), 1)
    assert_array_equal(one.predict(image, spacing=(1, 1, 1)).values_zyx, other.predict(image, spacing=(1, 1, 1)).values_zyx)


def test_a_zip_gives_the_same_model_and_nothing_else_of_it_is_unpacked(exported, tmp_path):
    _, folder = exported
    packed = tmp_path / "model.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in folder.rglob("*"):
            if path.is_file():
                archive.write(path, f"Dataset001_x/{folder.name}/{path.relative_to(folder).as_posix()}")
        archive.writestr("../../evil.txt", "x")
        archive.writestr("Dataset001_x/../../plans.json", "{}")
    import_nnunet(packed, tmp_path / "from_zip.aunet")
    import_nnunet(folder, tmp_path / "from_folder.aunet")
    assert open_bundle(tmp_path / "from_zip.aunet").hashes == open_bundle(tmp_path / "from_folder.aunet").hashes
    assert not list(tmp_path.parent.glob("evil.txt"))


def test_a_checkpoint_that_wants_to_run_code_does_not(tmp_path):
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self):
            return (open, (str(canary), "w"))

    torch.save({"network_weights": {}, "x": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="could not be opened safely"):
        convert(tmp_path / "evil.pth", tmp_path / "out")
    assert not canary.exists()
    assert not list((tmp_path / "out").iterdir())


def test_numbers_of_numpy_in_a_checkpoint_s_log_do_no_harm(exported, tmp_path):
    _, folder = exported
    path = folder / "fold_0" / "checkpoint_final.pth"
    found = torch.load(path, weights_only=True)
    found["logging"] = {"ema": [np.float64(0.5), np.float32(0.25)], "dice": [[np.float64(0.1)]]}
    found["_best_ema"] = np.float64(0.5)
    found["init_args"]["device"] = torch.device("cpu")
    torch.save(found, path)
    assert import_nnunet(folder, tmp_path / "x.aunet").folds == {"3d_fullres": (0, 1)}


def test_a_network_that_is_not_what_its_plans_say_is_refused(exported, tmp_path):
    _, folder = exported
    plans = json.loads((folder / "plans.json").read_text())
    for change, words in (
        (lambda c: c["architecture"]["arch_kwargs"].update(nonlin="torch.nn.ReLU"), "other blocks"),
        (lambda c: c["architecture"].update(network_class_name="x.SwinUNETR"), "SwinUNETR"),
        (lambda c: c["architecture"]["arch_kwargs"].update(n_blocks_per_stage=[1, 2, 3]), "lacks"),
        (lambda c: c.update(normalization_schemes=["HistogramMatching"]), "HistogramMatching"),
        (lambda c: c.update(resampling_fn_data="no_resampling_hack"), "no_resampling_hack"),
    ):
        changed = json.loads(json.dumps(plans))
        change(changed["configurations"]["3d_fullres"])
        (folder / "plans.json").write_text(json.dumps(changed))
        with pytest.raises(UserError, match=words):
            import_nnunet(folder, tmp_path / "x.aunet")
        assert not (tmp_path / "x.aunet").exists()


def test_a_folder_without_a_model_is_one_clear_error(tmp_path):
    with pytest.raises(UserError, match="no trained nnU-Net"):
        import_nnunet(tmp_path, tmp_path / "x.aunet")
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(UserError, match="neither a folder nor a zip"):
        import_nnunet(tmp_path / "x.txt", tmp_path / "x.aunet")


def test_regions_keep_the_order_in_which_they_are_painted():
    dataset = {
        "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4},
        "regions_class_order": [1, 2, 3],
    }
    labels = labels_of(dataset)
    assert labels.regions == (
        Region(name="whole", values=(1, 2, 3), paint=1),
        Region(name="core", values=(2, 3), paint=2),
        Region(name="enhancing", values=(3,), paint=3),
    )
    assert labels.ignore == 4
    assert [c.value for c in labels.classes] == [0, 1, 2, 3]


def test_labels_and_plans_go_out_as_they_came_in():
    plan = plan_of(configuration((8, 8, 8)), labels=regions())
    assert labels_of(dataset_of(plan, ".nii.gz")).regions == plan.labels.regions
    flat = configuration((1, 16, 16), "2d")
    written = plans_of(replace(plan_of(flat), dimensions=2), {"2d": (0,)})["configurations"]["2d"]
    assert written["patch_size"] == [16, 16]
    assert written["architecture"]["arch_kwargs"]["strides"] == [[1, 1], [2, 2]]
    scattered = Labels(classes=(LabelClass(name="background", value=0), LabelClass(name="x", value=5)))
    with pytest.raises(UserError, match="not consecutive"):
        dataset_of(plan_of(configuration((8, 8, 8)), labels=scattered), ".nii.gz")


def test_a_cascade_is_taken_in_with_its_first_stage(tmp_path):
    tiled = Inference(mirror_axes=(0, 1, 2), peak="nnunet")
    first = configuration((8, 8, 8), "3d_lowres", spacing_zyx_mm=(2.0, 2.0, 2.0), inference=tiled)
    second = replace(configuration((8, 8, 8), "3d_cascade_fullres", inference=tiled), previous="3d_lowres")
    plan = replace(plan_of(first, second), train=("3d_lowres", "3d_cascade_fullres"))
    (tmp_path / "ours").mkdir()
    model = tiny_bundle(tmp_path / "ours", plan)
    folders = export_nnunet(open_bundle(model), tmp_path / "theirs")
    assert [f.name.split("__")[2] for f in folders] == ["3d_lowres", "3d_cascade_fullres"]
    import_nnunet(tmp_path / "theirs", tmp_path / "back.aunet")
    image = smooth((1, 20, 18, 16), 6)
    one, other = load(model, device="cpu"), load(tmp_path / "back.aunet", device="cpu")
    assert_allclose(one.predict(image, spacing=(1, 1, 1)).values_zyx, other.predict(image, spacing=(1, 1, 1)).values_zyx)
    import_nnunet(folders[1], tmp_path / "beside.aunet")
    one, other = open_bundle(tmp_path / "beside.aunet").hashes, open_bundle(tmp_path / "back.aunet").hashes
    assert [name for name in one if one[name] != other[name]] == []
    alone = shutil.copytree(folders[1], tmp_path / "alone" / folders[1].name)
    with pytest.raises(UserError, match="starts from the masks of 3d_lowres"):
        import_nnunet(alone, tmp_path / "alone.aunet")


def test_two_trainings_of_one_configuration_are_a_question(exported, tmp_path):
    _, folder = exported
    other = folder.with_name(folder.name.replace("nnUNetPlans", "nnUNetResEncUNetMPlans"))
    shutil.copytree(folder, other)
    with pytest.raises(UserError, match="nnUNetPlans__3d_fullres and nnUNetTrainer__nnUNetResEncUNetMPlans__3d_fullres"):
        import_nnunet(folder.parent, tmp_path / "x.aunet")
    assert import_nnunet(other, tmp_path / "x.aunet").folds == {"3d_fullres": (0, 1)}


@pytest.mark.parametrize("edge", [5, 8, 13, 20, 64])
def test_an_imported_model_weighs_its_tiles_as_nnunet_computes_it(edge):
    voxel = np.zeros(edge)
    voxel[edge // 2] = 1
    curve = ndimage.gaussian_filter(voxel, edge / 8, mode="constant")  # the reference's own words, one axis of them
    assert_allclose(gaussian(edge, 0.125, "nnunet"), curve / curve.max(), atol=1e-6)
    assert (edge % 2 == 1) == np.allclose(gaussian(edge, 0.125, "nnunet"), gaussian(edge, 0.125))


def test_plans_of_the_reference_s_planner_and_imported_ones_are_tiled_so(exported, tmp_path):
    _, folder = exported
    assert import_nnunet(folder, tmp_path / "x.aunet").plan.configurations[0].inference.peak == "nnunet"
    assert configuration((8, 8, 8)).inference.peak == "middle"
