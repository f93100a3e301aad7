"""The statistics of our steps against batchgenerators', an independent implementation of the same list."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from autounet.augment import spatial
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


BENT = Step(kind="elastic", probability=1.0, low=1.0, high=4.0)
# Of the distance of the knots: the Gaussian filter that makes of white noise slopes as steep as a cubic B-spline makes of random knots.
# Where the autocorrelation of the one is exp(-t^2 / 4 s^2) and of the other the spline of degree 7, whose curvature at 0 is -1.39.
WIDTH = 0.6


def between_knots(edge):
    return (edge - 1) / (max(4, -(-edge // spatial.CONTROL_VOXELS) + 3) - 3)


def our_fields(step, patch, count):
    plan, fields = Augmentation(steps=(step,)), []
    for index in range(count):
        elastic = draw(plan, 1, patch[0] == 1, generator(8, "elastic", index)).elastic
        fields.append(spatial.displacement(patch, elastic.voxels, elastic.seed).numpy()[int(patch[0] == 1) :])
    return fields


def their_fields(step, patch, count, width=WIDTH):
    """The library's own displacements. They are periodic, which ours are not, so they are cut out of larger ones."""
    from batchgenerators.augmentations.utils import elastic_deform_coordinates_2

    edges = [edge for edge in patch if edge > 1]
    sigmas = [width * between_knots(edge) for edge in edges]
    margins = [int(3 * sigma) + 1 for sigma in sigmas]
    mesh = np.zeros((len(edges), *(edge + 2 * margin for edge, margin in zip(edges, margins, strict=True))))
    middle = (slice(None), *(slice(margin, -margin) for margin in margins))
    fields = []
    with seeded(10):
        for _ in range(count):
            voxels = np.random.uniform(step.low, step.high)
            field = elastic_deform_coordinates_2(mesh, sigmas, [voxels] * len(edges))[middle]
            longest = np.abs(field).max(axis=tuple(range(1, field.ndim)), keepdims=True)
            fields.append((field * (voxels / longest)).reshape(len(edges), *patch).astype(np.float32))
    return fields


def bends(fields):
    """How far, how steeply and how curved a displacement is, and how far apart it is still alike; along the last axis for all.

    Curved from knot to knot: from voxel to voxel a cubic spline bends at its knots more than between them, and
    on average by a twentieth less than a Gaussian field. That difference is known, and left.
    """
    along = [field[-1] for field in fields]
    slopes = [np.diff(one, axis=-1) for one in along]
    return {
        "deviation": np.array([one.std() for one in along]),
        "mean": np.array([one.mean() for one in along]),
        "longest": np.array([np.abs(field).max() for field in fields]),
        "voxel": np.array([one[0, 5, 7] for one in along]),
        "border": np.array([np.abs(one[..., 0]).mean() for one in along]),
        "slope": np.array([np.abs(slope).mean() for slope in slopes]),
        "steepest": np.array([np.abs(slope).max() for slope in slopes]),
        "curvature": np.array([np.abs(one[..., 32:] - 2 * one[..., 16:-16] + one[..., :-32]).mean() for one in along]),
        "likeness": np.array([(one[..., 8:] * one[..., :-8]).mean() / (one**2).mean() for one in along]),
        # How much larger or smaller a piece becomes.
        "swelling": np.array([sum(np.gradient(part, axis=axis - len(f)) for axis, part in enumerate(f)).std() for f in fields]),
    }


def test_an_elastic_step_bends_space_as_batchgenerators_does():
    patch = (1, 96, 96)
    mine, other = bends(our_fields(BENT, patch, COUNT)), bends(their_fields(BENT, patch, COUNT))
    chances = {name: chance(mine[name], other[name]) for name in mine}
    assert min(chances.values()) > CHANCE, chances
    shorter = bends(our_fields(replace(BENT, high=3.0), patch, COUNT))
    assert min(chance(shorter[name], other[name]) for name in shorter) < CHANCE / 10
    smoother = bends(their_fields(BENT, patch, COUNT, 1.3 * WIDTH))
    assert min(chance(mine[name], smoother[name]) for name in mine) < CHANCE / 10


@pytest.mark.slow
def test_volumes_and_labels_are_bent_as_batchgenerators_bends_them(monkeypatch):
    from batchgenerators.augmentations.utils import interpolate_img

    monkeypatch.setattr(spatial, "CONTROL_VOXELS", 5)  # several knots in a patch of 16, and short Fourier transforms
    image, label, patch = bar()
    step = replace(BENT, low=0.5, high=2.0)
    mine = ours_in_space(step, COUNT)
    grid = np.stack(np.meshgrid(*(np.arange(16) + 8.0 for _ in range(3)), indexing="ij"))
    found = []
    for field in their_fields(step, patch, COUNT):
        warped = interpolate_img(image, grid + field, 1, "constant", 0.0, False)
        found.append(shape_of(warped, interpolate_img(label, grid + field, 1, "constant", 0.0, True)))
    other = {name: np.array([each[name] for each in found]) for name in found[0]}
    chances = {name: chance(mine[name], other[name]) for name in mine}
    assert min(chances.values()) > CHANCE, chances
    weaker = ours_in_space(replace(step, high=1.4), COUNT)
    assert min(chance(weaker[name], other[name]) for name in weaker) < CHANCE / 10


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
