"""The statistics of our steps against batchgenerators', an independent implementation of the same list."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from autounet.augment.backend import Native, backend, chosen
from autounet.augment.classic import Classic, seeded
from autounet.augment.draw import Drawn, draw
from autounet.rng import generator
from planners.errors import UserError
from planners.plan import Augmentation, Step

COUNT, TURNS, CHANCE = 300, 600, 0.01
RIM = 3  # voxels; there a blur sees the image mirrored: with the last voxel once here, twice in SciPy
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning", "ignore::SyntaxWarning"
)

STEPS = {
    "noise": Step(kind="noise", probability=1.0, low=0.0, high=0.1),
    "blur": Step(kind="blur", probability=1.0, low=0.5, high=1.0),
    "brightness": Step(kind="brightness", probability=1.0, low=0.75, high=1.25),
    "contrast": Step(kind="contrast", probability=1.0, low=0.75, high=1.25),
    "low_resolution": Step(kind="low_resolution", probability=1.0, low=0.5, high=1.0),
    "gamma": Step(kind="gamma", probability=1.0, low=0.7, high=1.5),
    "gamma_inverted": Step(kind="gamma_inverted", probability=1.0, low=0.7, high=1.5),
}
SELDOM = {kind: replace(step, probability=0.4) for kind, step in STEPS.items()}
SOME_CHANNELS = {kind: replace(STEPS[kind], channel_probability=0.5) for kind in ("noise", "blur", "low_resolution")}


def chance(one, other):
    """Of a difference as large as theirs when both are drawn alike."""
    return stats.ks_2samp(one, other, method="asymp").pvalue


def images(channels=1, shape=(14, 14, 14)):
    """The same images for both, with an odd range, so that every step leaves a trace."""
    rng = np.random.default_rng(0)
    made = rng.gamma(2.0, 1.0, (COUNT, channels, *shape)).astype(np.float32)
    made[..., ::2] += 0.5
    return made


def traces(changed, original):
    """What a step does to one image, as numbers whose distribution can be compared."""
    inner = tuple(slice(RIM, -RIM) if size > 2 * RIM else slice(None) for size in original.shape[2:])
    changed, original = changed[(slice(None), slice(None), *inner)], original[(slice(None), slice(None), *inner)]
    axes = (1, 2, 3, 4)
    centred = changed - changed.mean(axes, keepdims=True)
    power = (centred**2).mean(axes)
    return {
        "mean": changed.mean(axes),
        "deviation": changed.std(axes),
        "change": np.abs(changed - original).mean(axes),
        "skewness": (centred**3).mean(axes) / power**1.5,
        "neighbours": (centred[..., 1:, :] * centred[..., :-1, :]).mean(axes) / power,
        "voxel": (changed - original)[:, 0, changed.shape[2] // 2, 3, 4],
    }


def done_by(name, step, original, flat=False, in_plane=False):
    plan = Augmentation(steps=(step,), in_plane_only=in_plane)
    one = backend(name, plan, flat)
    made = []
    for index, image in enumerate(original.copy()):
        rng = generator(3, "ks", name, index)
        drawn = draw(plan, len(image), flat, rng)
        made.append(one.effects(torch.from_numpy(image), drawn, rng).numpy())
    return np.stack(made)


def compare(step, original, **how):
    mine, other = (traces(done_by(name, step, original, **how), original) for name in ("native", "batchgenerators"))
    return {name: chance(mine[name], other[name]) for name in mine}


@pytest.mark.parametrize("kind", sorted(STEPS))
def test_a_step_changes_images_as_batchgenerators_does(kind):
    chances = compare(STEPS[kind], images())
    assert min(chances.values()) > CHANCE, chances


@pytest.mark.parametrize("kind", sorted(SELDOM))
def test_a_step_that_seldom_fires_does_so_as_often(kind):
    chances = compare(SELDOM[kind], images())
    assert min(chances.values()) > CHANCE, chances


@pytest.mark.parametrize("kind", sorted(SOME_CHANNELS))
def test_a_step_of_some_channels_takes_as_many(kind):
    chances = compare(SOME_CHANNELS[kind], images(channels=2))
    assert min(chances.values()) > CHANCE, chances


@pytest.mark.parametrize("kind", ["blur", "low_resolution", "gamma"])
def test_slices_are_changed_alike_too(kind):
    chances = compare(STEPS[kind], images(shape=(1, 24, 24)), flat=True)
    assert min(chances.values()) > CHANCE, chances


def test_in_the_plane_neither_lowers_the_resolution_across_slices():
    chances = compare(STEPS["low_resolution"], images(), in_plane=True)
    assert min(chances.values()) > CHANCE, chances


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [("gamma", 0.7, 1.2), ("blur", 0.5, 0.8), ("low_resolution", 0.5, 0.8), ("noise", 0.02, 0.1), ("contrast", 0.9, 1.25)],
)
def test_the_comparison_notices_another_range(kind, low, high):
    original = images()
    mine = traces(done_by("native", replace(STEPS[kind], low=low, high=high), original), original)
    other = traces(done_by("batchgenerators", STEPS[kind], original), original)
    assert min(chance(mine[name], other[name]) for name in mine) < CHANCE / 10


def bar():
    """An image and a label without any symmetry, 32 voxels wide, and the patch of 16 in its middle."""
    rng = np.random.default_rng(1)
    image = rng.normal(size=(32, 32, 32)).astype(np.float32)
    label = np.zeros((32, 32, 32), np.int16)
    label[8:26, 13:20, 15:19] = 1
    image[label == 1] += 3
    image[:, :, 18:] += 1
    return image, label, (16, 16, 16)


def shape_of(image_zyx, label_zyx):
    """Numbers that turn with a turn and grow with a zoom."""
    at = np.argwhere(label_zyx == 1).astype(float)
    spread = np.cov(at.T)
    values = {"volume": len(at), "mean": image_zyx.mean(), "voxel": image_zyx[5, 9, 4], "deviation": image_zyx.std()}
    values |= {f"centre {axis}": at[:, axis].mean() for axis in range(3)}
    return values | {f"spread {i} {j}": spread[i, j] for i in range(3) for j in range(i, 3)}


def ours_in_space(step, count, one=None):
    image, label, patch = bar()
    plan = Augmentation(steps=(step,), mirror_axes=(0, 1, 2))
    found = []
    for index in range(count):
        drawn = draw(plan, 1, False, generator(6, "space", index))
        warped, labels = (one or Native()).warp(torch.from_numpy(image)[None], torch.from_numpy(label)[None], drawn, patch, (15.5,) * 3)
        found.append(shape_of(warped[0].numpy(), labels[0].numpy()))
    return {name: np.array([each[name] for each in found]) for name in found[0]}


def theirs_in_space(count, **how):
    from batchgenerators.transforms.spatial_transforms import SpatialTransform

    image, label, patch = bar()
    how = {"do_rotation": False, "do_scale": False, "do_elastic_deform": False, **how}
    step = SpatialTransform(
        patch,
        random_crop=False,
        border_mode_data="constant",
        border_cval_seg=-1,
        order_data=1,
        order_seg=1,
        patch_center_dist_from_border=0,
        **how,
    )
    found = []
    with seeded(7):
        for _ in range(count):
            done = step(data=image[None, None].copy(), seg=label[None, None].astype(np.float32))
            found.append(shape_of(done["data"][0, 0], done["seg"][0, 0]))
    return {name: np.array([each[name] for each in found]) for name in found[0]}


SPAN = (-0.52, 0.52)
IN_SPACE = {
    "rotation": (
        Step(kind="rotation", probability=1.0, low=SPAN[0], high=SPAN[1]),
        {"do_rotation": True, "angle_x": SPAN, "angle_y": SPAN, "angle_z": SPAN},
    ),
    # Only from 1 on: below, it makes half of the factors larger than 1 and half smaller, where the list says "evenly".
    "scaling": (Step(kind="scaling", probability=1.0, low=1.0, high=1.4), {"do_scale": True, "scale": (1.0, 1.4)}),
}


@pytest.mark.parametrize("kind", sorted(IN_SPACE))
def test_a_step_in_space_moves_images_and_labels_as_batchgenerators_does(kind):
    step, how = IN_SPACE[kind]
    mine, other = ours_in_space(step, TURNS), theirs_in_space(TURNS, **how)
    chances = {name: chance(mine[name], other[name]) for name in mine}
    assert min(chances.values()) > CHANCE, chances
    smaller = replace(step, low=0.7 * step.low, high=1 + 0.7 * (step.high - 1) if kind == "scaling" else 0.7 * step.high)
    narrow = ours_in_space(smaller, TURNS)
    assert min(chance(narrow[name], other[name]) for name in narrow) < CHANCE / 10


def test_axes_are_mirrored_as_often_each_on_its_own():
    from batchgenerators.augmentations.spatial_transformations import augment_mirroring

    image, _, _ = bar()
    plan = Augmentation(steps=(Step(kind="mirror", probability=0.5),), mirror_axes=(0, 1, 2))
    mine, other = [], []
    with seeded(9):
        for index in range(COUNT):
            flips = draw(plan, 1, False, generator(6, "mirror", index)).flips
            mine.append(sum(2**axis for axis in flips))
            done = augment_mirroring(image[None].copy())[0][0]
            which = [f for f in range(8) if np.array_equal(done, np.flip(image, [axis for axis in range(3) if f >> axis & 1]))]
            other.append(which[0])
    assert set(mine) == set(other) == set(range(8))
    assert chance(mine, other) > CHANCE


@pytest.mark.parametrize("flips", [(), (0, 2)])
def test_both_back_ends_read_the_same_patch_through_the_same_grid(flips):
    image, label, patch = bar()
    matrix = ((0.9, 0.2, 0.0), (-0.2, 1.1, 0.1), (0.0, -0.1, 1.05))
    drawn = Drawn(matrix=matrix, flips=flips)
    given = (torch.from_numpy(image)[None], torch.from_numpy(label)[None], drawn, patch, (15.37, 15.61, 15.23))  # no ties
    mine, other = Native().warp(*given), Classic(Augmentation(steps=()), False).warp(*given)
    torch.testing.assert_close(mine[0], other[0], atol=2e-4, rtol=1e-4)
    assert mine[1].dtype == other[1].dtype
    assert float((mine[1] == other[1]).float().mean()) > 0.999


def test_beyond_the_volume_there_is_no_label_for_either():
    image, label, patch = bar()
    drawn = Drawn(matrix=((1.4, 0.0, 0.0), (0.0, 1.4, 0.0), (0.0, 0.0, 1.4)))
    given = (torch.from_numpy(image)[None], torch.from_numpy(label)[None], drawn, patch, (1.0, 15.5, 15.5))
    mine, other = Native().warp(*given), Classic(Augmentation(steps=()), False).warp(*given)
    assert int(mine[1][0, 0].max()) == int(other[1][0, 0].max()) == -1
    assert float((mine[1] == other[1]).float().mean()) > 0.99


def test_the_same_seed_gives_the_same_image_and_leaves_the_process_generators_alone():
    original = images()[:4]
    np.random.seed(11)
    before = np.random.get_state()[1].copy()
    one, other = (done_by("batchgenerators", STEPS["noise"], original) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_a_list_that_batchgenerators_cannot_do_is_refused_and_never_chosen():
    plan = Augmentation(steps=(replace(STEPS["gamma"], channel_probability=0.5),), backend="auto")
    with pytest.raises(UserError, match="cannot do gamma to some channels"):
        Classic(plan, False)
    assert chosen(plan, 1, (16, 16, 16))[0] == "native"


def test_the_plan_decides_and_with_auto_the_clock_does(monkeypatch):
    from autounet.augment import backend as module

    plan = Augmentation(steps=tuple(STEPS.values()))
    assert chosen(plan, 1, (16, 16, 16)) == ("native", "the plan says so")
    assert chosen(replace(plan, backend="batchgenerators"), 1, (16, 16, 16))[0] == "batchgenerators"
    auto = replace(plan, backend="auto")
    name, why = chosen(auto, 1, (16, 16, 16))
    assert name in why
    assert "ms, batchgenerators" in why
    for theirs, expected in ((0.75, "batchgenerators"), (0.9, "native")):
        seconds = {"native": 1.0, "batchgenerators": theirs}
        monkeypatch.setattr(module, "_seconds", lambda one, *given, known=seconds: known[one.name])
        assert chosen(auto, 1, (16, 16, 16))[0] == expected
    assert chosen(auto, 1, (16, 16, 16), probes=False)[0] == "native"
