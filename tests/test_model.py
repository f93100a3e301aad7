import threading
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from autounet.images.geometry import Geometry
from autounet.images.write import write_image
from autounet.inference.golden import agreement, make_golden
from autounet.model import Wish, load
from planners.errors import UserError
from planners.labels import LabelClass, Labels
from planners.plan import ChannelPlan
from tests.tiny_models import configuration, plan_of, regions, smooth, tiny_bundle

TURNED = Geometry(
    shape_zyx=(10, 13, 12), spacing_zyx_mm=(1.5, 1.0, 0.9), origin_xyz_mm=(5.0, -3.0, 2.0), direction=(-1.0, 0, 0, 0, 1.0, 0, 0, 0, -1.0)
)


@pytest.fixture
def model(tmp_path):
    return load(tiny_bundle(tmp_path, plan_of(configuration((8, 8, 8))), folds=(0, 1)), device="cpu")


def test_a_file_a_simpleitk_and_a_nibabel_image_give_the_same_mask(model, tmp_path):
    import nibabel
    import SimpleITK

    image = smooth((1, 10, 13, 12), 1)
    write_image(tmp_path / "i.nii.gz", image, TURNED)
    by_path = model.predict(tmp_path / "i.nii.gz")
    by_itk = model.predict(SimpleITK.ReadImage(str(tmp_path / "i.nii.gz")))
    by_nibabel = model.predict(nibabel.load(tmp_path / "i.nii.gz"))
    assert len(np.unique(by_path.values_zyx)) > 1
    assert_array_equal(by_itk.values_zyx, by_path.values_zyx)
    assert_array_equal(by_nibabel.values_zyx, by_path.values_zyx)
    assert_allclose(by_path.as_nibabel().affine, nibabel.load(tmp_path / "i.nii.gz").affine, atol=1e-5)
    original, back = SimpleITK.ReadImage(str(tmp_path / "i.nii.gz")), by_path.as_simpleitk()
    assert_allclose(back.GetDirection(), original.GetDirection(), atol=1e-6)
    assert_allclose(back.GetOrigin(), original.GetOrigin(), atol=1e-5)
    by_path.save(tmp_path / "m.nii.gz")
    assert_allclose(nibabel.load(tmp_path / "m.nii.gz").affine, nibabel.load(tmp_path / "i.nii.gz").affine)


def test_an_array_needs_its_spacing(model):
    image = smooth((1, 10, 13, 12), 1)
    mask = model.predict(image[0], spacing=(1.5, 1.0, 0.9))
    assert mask.values_zyx.shape == (10, 13, 12)
    assert_array_equal(model.predict(image, spacing=(1.5, 1.0, 0.9)).values_zyx, mask.values_zyx)
    with pytest.raises(UserError, match="size of its voxels"):
        model.predict(image[0])
    with pytest.raises(UserError, match="no 3D image"):
        model.predict(image[0, 0], spacing=(1.0, 1.0, 1.0))
    with pytest.raises(UserError, match="not understood"):
        model.predict(3)


def test_threads_do_not_disturb_each_other(model):
    images = [smooth((1, 10, 13, 12), seed) for seed in range(4)]
    alone = [model.predict(image, spacing=(1, 1, 1)).values_zyx for image in images]
    found = [None] * 4

    def work(index):
        found[index] = model.predict(images[index], spacing=(1, 1, 1)).values_zyx

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(alone, found, strict=True):
        assert_array_equal(one, other)


def test_the_user_s_label_values_come_back(tmp_path):
    labels = Labels(classes=tuple(LabelClass(name=f"n{v}", value=v) for v in (0, 5, 300)))
    model = load(tiny_bundle(tmp_path, plan_of(configuration((8, 8, 8)), labels=labels)))
    image = np.where(smooth((1, 20, 24, 22), 2) > 0, 3, -3).astype(np.float32)
    mask = model.predict(image, spacing=(1, 1, 1), wish=Wish(mirror=False)).values_zyx
    present = set(np.unique(mask).tolist())
    assert present <= {0, 5, 300}
    assert len(present) > 1
    name, value = ("n5", 5) if 5 in present else ("n300", 300)
    only = model.predict(image, spacing=(1, 1, 1), wish=Wish(mirror=False, classes=(name,))).values_zyx
    assert_array_equal(only, np.where(mask == value, value, 0))
    with pytest.raises(UserError, match="no class"):
        model.predict(image, spacing=(1, 1, 1), wish=Wish(classes=("liver",)))


def test_channels_that_are_missing_or_too_many_are_named(tmp_path):
    model = load(tiny_bundle(tmp_path, plan_of(configuration((8, 8, 8)), channels=2)))
    for channels in (1, 3):
        with pytest.raises(UserError, match="wants 2: channel_0, channel_1"):
            model.predict(smooth((channels, 9, 9, 9), 0), spacing=(1, 1, 1))


def test_presets_take_fewer_networks_tiles_and_mirrors(model):
    image = smooth((1, 20, 20, 20), 3)
    fast, best = model.predict(image, spacing=(1, 1, 1), wish=Wish(preset="fast")), model.predict(image, spacing=(1, 1, 1))
    assert (fast.values_zyx != best.values_zyx).any()
    one_fold = model.predict(image, spacing=(1, 1, 1), wish=Wish(folds=1, mirror=False, step_fraction=0.75))
    assert_array_equal(one_fold.values_zyx, fast.values_zyx)


def test_a_flat_model_segments_pictures_and_the_slices_of_volumes(tmp_path):
    chosen = configuration((1, 16, 16), "2d")
    (tmp_path / "p").mkdir()
    pictures = load(tiny_bundle(tmp_path / "p", plan_of(chosen)))
    picture = smooth((1, 1, 40, 33), 4)[0, 0]
    assert pictures.predict(picture).values_zyx.shape == (1, 40, 33)
    volume_model = load(tiny_bundle(tmp_path, replace(plan_of(chosen), dimensions=3)))
    volume = smooth((1, 5, 40, 33), 5)
    whole = volume_model.predict(volume, spacing=(4.0, 1.0, 1.0)).values_zyx
    for z in range(5):
        alone = volume_model.predict(volume[:, z : z + 1], spacing=(4.0, 1.0, 1.0)).values_zyx
        assert_array_equal(whole[z : z + 1], alone)


def test_a_cascade_shows_the_first_masks_to_the_second_network(tmp_path):
    first = configuration((8, 8, 8), "3d_lowres", spacing_zyx_mm=(2.0, 2.0, 2.0))
    second = replace(configuration((8, 8, 8), "3d_cascade"), previous="3d_lowres")
    plan = replace(plan_of(first, second), train=("3d_lowres", "3d_cascade"))
    model = load(tiny_bundle(tmp_path, plan))
    assert sorted(model.ensemble.members) == ["3d_cascade", "3d_lowres"]
    image = smooth((1, 20, 18, 16), 6)
    mask = model.predict(image, spacing=(1, 1, 1)).values_zyx
    assert mask.shape == (20, 18, 16)
    member = model.ensemble.members["3d_cascade"][0]
    assert member.network.encoder.stages[0][0].conv.in_channels == 1 + 2


def test_regions_and_the_golden_pair_survive_the_way_through_a_file(tmp_path):
    plan = plan_of(configuration((8, 8, 8)), labels=regions())
    model = load(tiny_bundle(tmp_path, plan))
    golden = make_golden(plan, model.bundle.fingerprint, model.bundle.selection, model.ensemble.members)
    assert len(np.unique(golden.label_zyx)) > 1, "a golden pair without foreground proves nothing"
    assert agreement(golden, model.ensemble) == 1
    changed = replace(golden, label_zyx=np.where(np.indices(golden.label_zyx.shape)[0] < 3, 9, golden.label_zyx))
    assert agreement(changed, model.ensemble) < 0.999


def test_an_image_unlike_the_training_data_is_pointed_out(tmp_path):
    plan = replace(plan_of(configuration((8, 8, 8))), channels=(ChannelPlan(name="ct", modality="ct", scheme="none"),))
    model = load(tiny_bundle(tmp_path, plan))
    like = model.predict(smooth((1, 20, 24, 28), 1), spacing=(1, 1, 1))
    assert like.notes == ()
    unlike = model.predict(smooth((1, 6, 6, 6), 1) * 0 + 40 + np.arange(6), spacing=(7.0, 1.0, 1.0)).notes
    assert any("voxels of" in note for note in unlike)
    assert any("no values between" in note for note in unlike)
    assert any("field of view" in note for note in unlike)
