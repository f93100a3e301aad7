"""Drawing and applying, against worked-out cases, SciPy, and torch's plain formulas."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional

from autounet.augment.cascade import disturbed_one_hot, one_hot
from autounet.augment.draw import SAME, Drawn, Effect, Elastic, draw, rotation
from autounet.augment.gather import resampled
from autounet.augment.intensity import apply_effects, gaussian
from autounet.augment.spatial import displacement, flipped, sampling_points
from autounet.augment.spatial import warp as warp_box
from autounet.rng import generator
from planners.plan import Augmentation, Step

STEPS = (
    Step(kind="rotation", probability=0.2, low=-0.52, high=0.52),
    Step(kind="scaling", probability=0.2, low=0.7, high=1.4),
    Step(kind="noise", probability=0.1, low=0.0, high=0.1),
    Step(kind="blur", probability=0.2, channel_probability=0.5, low=0.5, high=1.0),
    Step(kind="gamma", probability=0.3, low=0.7, high=1.5),
    Step(kind="mirror", probability=0.5),
)
PLAN = Augmentation(steps=STEPS, mirror_axes=(0, 1, 2))
CPU = torch.device("cpu")


def drawings(plan, count=4000, flat=False):
    return [draw(plan, 2, flat, generator(1, "test", i)) for i in range(count)]


def rows(matrix):
    return tuple(tuple(float(v) for v in row) for row in matrix)


def warp(image, label, drawn, patch, lower):
    """What the sampler does, on a whole volume."""
    middle = tuple(start + (edge - 1) / 2 for start, edge in zip(lower, patch, strict=True))
    warped, labels = warp_box(image, label[None], drawn, patch, middle)
    return warped, labels[0]


def volume(shape=(12, 14, 16), seed=0):
    rng = np.random.default_rng(seed)
    label = torch.from_numpy((ndimage.gaussian_filter(rng.standard_normal((4, *shape)), (0, 2, 2, 2)).argmax(0)).astype(np.int16))
    return torch.from_numpy(rng.standard_normal((2, *shape)).astype(np.float32)), label


def test_steps_fire_as_often_as_the_plan_says_and_within_its_ranges():
    seen = drawings(PLAN)
    kinds = [[e.kind for e in d.effects] for d in seen]
    assert np.mean([d.warped for d in seen]) == pytest.approx(1 - 0.8 * 0.8, abs=0.025)
    for kind, probability in (("noise", 0.1), ("blur", 0.2), ("gamma", 0.3)):
        assert np.mean([kind in k for k in kinds]) == pytest.approx(probability, abs=0.025)
    for axis in range(3):
        assert np.mean([axis in d.flips for d in seen]) == pytest.approx(0.5, abs=0.03)
    gammas = [row[0] for d in seen for e in d.effects if e.kind == "gamma" for row in e.channels]
    assert 0.7 <= min(gammas) < 0.72
    assert 1.48 < max(gammas) <= 1.5
    assert np.mean(np.array(gammas) < 1) == pytest.approx(0.5, abs=0.03)  # half below 1 although the range is lopsided
    blurred = [bool(row) for d in seen for e in d.effects if e.kind == "blur" for row in e.channels]
    assert np.mean(blurred) == pytest.approx(0.5, abs=0.04)


def test_two_drawings_of_one_place_are_equal_and_of_two_places_differ():
    assert draw(PLAN, 2, False, generator(1, "a", 3)) == draw(PLAN, 2, False, generator(1, "a", 3))
    assert len({draw(PLAN, 2, False, generator(1, "a", i)).flips for i in range(40)}) == 8


def test_in_the_plane_the_first_axis_is_left_alone():
    for drawn in drawings(PLAN, 200, flat=True):
        assert drawn.matrix[0] == (1.0, 0.0, 0.0)
        assert drawn.in_plane


def test_a_rotation_is_one():
    turned = rotation(np.array([0.3, -0.2, 0.5]), in_plane=False)
    np.testing.assert_allclose(turned @ turned.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(turned) == pytest.approx(1)


def test_a_quarter_turn_moves_every_voxel_where_it_belongs():
    image, label = volume((6, 8, 8))
    drawn = Drawn(matrix=rows(rotation(np.array([np.pi / 2, 0, 0]), in_plane=True)))
    warped, labels = warp(image, label, drawn, (6, 8, 8), (0, 0, 0))
    # Output offset (y, x) reads the input at (-x, y).
    torch.testing.assert_close(warped, torch.rot90(image, -1, (2, 3)), atol=1e-5, rtol=0)
    assert torch.equal(labels, torch.rot90(label, -1, (1, 2)))


def test_the_identity_and_flips_through_the_grid_are_exact():
    image, label = volume()
    drawn = Drawn(matrix=rows(np.eye(3) * 1.0000001), flips=(0, 2))
    warped, labels = warp(image, label, drawn, (8, 8, 8), (2, 3, 4))
    expected = flipped(image[:, 2:10, 3:11, 4:12], (0, 2))
    torch.testing.assert_close(warped, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(labels, flipped(label[2:10, 3:11, 4:12], (0, 2)))


def test_labels_are_the_argmax_of_their_interpolated_indicators():
    image, label = volume((16, 18, 20), seed=3)
    matrix = rotation(np.array([0.3, 0.2, -0.4]), in_plane=False) @ np.diag([1.2] * 3)
    drawn = Drawn(matrix=rows(matrix))
    patch, lower = (12, 12, 12), (1, 2, 3)
    _, labels = warp(image, label, drawn, patch, lower)
    middle = np.array(lower) + 5.5
    offsets = np.stack(np.meshgrid(*(np.arange(12) - 5.5,) * 3, indexing="ij"))
    at = np.einsum("ij,jzyx->izyx", matrix, offsets) + middle.reshape(3, 1, 1, 1)
    # Outside counts as one more class, as the reference pads.
    padded = np.pad(label.numpy(), 1, constant_values=4)
    scores = [ndimage.map_coordinates((padded == k).astype(float), at + 1, order=1, cval=float(k == 4)) for k in range(5)]
    expected = np.argmax(scores, 0)
    expected[expected == 4] = -1
    ranked = np.sort(scores, 0)
    clear = ranked[-1] - ranked[-2] > 1e-3
    assert (labels.numpy() == expected)[clear].all()
    assert clear.mean() > 0.98


def test_images_are_interpolated_linearly_and_zero_outside():
    image, label = volume((16, 18, 20), seed=4)
    matrix = rotation(np.array([0.2, -0.3, 0.1]), in_plane=False) @ np.diag([1.4] * 3)
    warped, _ = warp(image, label, Drawn(matrix=rows(matrix)), (14, 14, 14), (0, 1, 2))
    offsets = np.stack(np.meshgrid(*(np.arange(14) - 6.5,) * 3, indexing="ij"))
    at = np.einsum("ij,jzyx->izyx", matrix, offsets) + (np.array([0, 1, 2]) + 6.5).reshape(3, 1, 1, 1)
    expected = ndimage.map_coordinates(np.pad(image[0].numpy(), 1), at + 1, order=1)
    np.testing.assert_allclose(warped[0].numpy(), expected, atol=2e-4)


def test_in_plane_warps_agree_with_the_general_ones():
    image, label = volume((6, 20, 20), seed=5)
    drawn = Drawn(matrix=rows(rotation(np.array([0.7, 0, 0]), in_plane=True) @ np.diag([1, 0.8, 0.8])), flips=(1,))
    flat, labels = warp(image, label, drawn, (4, 12, 12), (1, 4, 4))
    points = sampling_points(drawn, (4, 12, 12), (2.5, 9.5, 9.5), CPU)
    general = resampled(image, label[None], points, (4, 12, 12))
    torch.testing.assert_close(flat, general[0], atol=1e-5, rtol=1e-5)
    assert torch.equal(labels, general[1][0])


def test_far_from_the_volume_and_outside_the_mask_there_is_no_label():
    image, label = volume((12, 14, 16))
    label[:, :7] = -1  # outside the mask
    turned = Drawn(matrix=rows(rotation(np.array([0.1, 0, 0]), in_plane=True) @ np.diag([1, 1.4, 1.4])))
    _, labels = warp(image, label, turned, (12, 20, 24), (0, -3, -4))
    assert labels[:, :9].unique().tolist() == [-1]  # nine rows and a half down, and then turned by a tenth
    assert labels[:, 17:].unique().tolist() == [-1]
    assert labels[:, 11:13, 10:14].min() >= 0


@pytest.mark.parametrize("seed", range(6))
def test_the_box_that_is_read_holds_every_voxel_that_the_warp_needs(seed):
    rng = np.random.default_rng(seed)
    matrix = rotation(rng.uniform(-0.6, 0.6, 3), in_plane=False) @ np.diag([rng.uniform(0.7, 1.4)] * 3)
    elastic = Elastic(voxels=2.0, seed=seed) if seed % 2 else None
    drawn = Drawn(matrix=rows(matrix), elastic=elastic)
    patch, lower = (8, 10, 12), (20, 20, 20)
    image, label = volume((60, 60, 60), seed)
    whole = warp(image, label, drawn, patch, lower)
    spans = drawn.box(lower, patch)
    box = tuple(slice(*span) for span in spans)
    shifted = tuple(start - span[0] for start, span in zip(lower, spans, strict=True))
    part = warp(image[(slice(None), *box)].contiguous(), label[box].contiguous(), drawn, patch, shifted)
    torch.testing.assert_close(part[0], whole[0], atol=1e-4, rtol=1e-4)
    assert (part[1] == whole[1]).float().mean() > 0.999  # rounding may turn a tie


def test_without_a_warp_exactly_the_patch_is_read():
    assert Drawn(flips=(0,)).box((3, -2, 5), (8, 8, 9)) == ((3, 11), (-2, 6), (5, 14))


def test_an_elastic_step_is_smooth_and_as_long_as_drawn():
    field = displacement((20, 24, 28), 3.0, seed=2)
    assert field.abs().amax((1, 2, 3)).tolist() == pytest.approx([3.0] * 3, rel=1e-5)
    assert displacement((1, 24, 28), 3.0, seed=2).abs().amax((1, 2, 3)).tolist() == pytest.approx([0.0, 3.0, 3.0], rel=1e-5)
    assert float(field.diff(dim=1).abs().max()) < 1.0  # neighbours stay in order
    assert field.shape == (3, 20, 24, 28)


def channel(seed=0, shape=(10, 12, 14)):
    return torch.from_numpy(np.random.default_rng(seed).normal(1.0, 2.0, (1, *shape)).astype(np.float32))


def after(kind, numbers, image, seed=7):
    result = image.clone()
    apply_effects(result, (Effect(kind=kind, channels=(numbers,), seed=seed),))
    return result


def test_blur_is_scipys_with_the_same_taps():
    image = channel()
    for shape in ((10, 12, 14), (1, 200, 180)):
        image = channel(1, shape)
        expected = image[0].numpy()
        for axis, sigma in enumerate((0.6, 0.8, 1.0)):
            if shape[axis] > 1:
                expected = ndimage.correlate1d(expected, gaussian(sigma), axis=axis, mode="mirror")
        np.testing.assert_allclose(after("blur", (0.6, 0.8, 1.0), image)[0].numpy(), expected, atol=2e-5)
    assert [len(gaussian(s)) for s in (0.5, 0.75, 1.0)] == [3, 5, 7]


@pytest.mark.parametrize("shape", [(16, 24, 20), (1, 40, 30), (1, 200, 170)])
def test_low_resolution_is_nearest_down_and_linear_up(shape):
    image, factor = channel(2, shape), 0.63
    numbers = (1.0 if shape[0] == 1 else factor, factor, factor)
    small = [max(1, round(s * f)) for s, f in zip(shape, numbers, strict=True)]
    down = functional.interpolate(image[None], small, mode="nearest-exact")
    expected = functional.interpolate(down, shape, mode="trilinear")[0]
    torch.testing.assert_close(after("low_resolution", numbers, image), expected, atol=1e-5, rtol=1e-5)


def test_gamma_keeps_mean_and_deviation_and_bends_the_rest():
    image = channel(3)
    bent = after("gamma", (1.4,), image)
    assert float(bent.mean()) == pytest.approx(float(image.mean()), abs=1e-4)
    assert float(bent.std()) == pytest.approx(float(image.std()), rel=1e-4)
    unit = (image - image.min()) / (image.max() - image.min())
    expected = unit**1.4
    expected = (expected - expected.mean()) / expected.std() * image.std() + image.mean()
    torch.testing.assert_close(bent, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after("gamma_inverted", (1.4,), image), -after("gamma", (1.4,), -image))


def test_a_constant_channel_survives_every_step():
    flat = torch.full((1, 8, 8, 8), 3.0)
    for kind, numbers in (
        ("gamma", (1.3,)),
        ("gamma_inverted", (0.8,)),
        ("contrast", (0.8,)),
        ("blur", (1.0,) * 3),
        ("low_resolution", (0.5,) * 3),
    ):
        torch.testing.assert_close(after(kind, numbers, flat), flat, atol=1e-4, rtol=1e-4)


def test_contrast_stays_within_the_old_range():
    image = channel(4)
    stretched = after("contrast", (1.25,), image)
    assert float(stretched.max()) == pytest.approx(float(image.max()))
    inner = (stretched < image.max()) & (stretched > image.min())
    torch.testing.assert_close(stretched[inner], (1.25 * (image - image.mean()) + image.mean())[inner], atol=1e-5, rtol=1e-5)


def test_noise_has_the_deviation_drawn_and_depends_on_its_seed_alone():
    image = torch.zeros(1, 40, 40, 40)
    noisy = after("noise", (0.08,), image)
    assert float(noisy.std()) == pytest.approx(0.08, rel=0.02)
    assert torch.equal(noisy, after("noise", (0.08,), image))
    assert not torch.equal(noisy, after("noise", (0.08,), image, seed=8))


def test_a_channel_that_was_not_chosen_is_untouched():
    image = torch.randn(2, 6, 6, 6)
    result = image.clone()
    apply_effects(result, (Effect(kind="brightness", channels=((), (1.2,)), seed=0),))
    assert torch.equal(result[0], image[0])
    torch.testing.assert_close(result[1], image[1] * 1.2)


def test_disturbed_masks_stay_masks_and_differ_now_and_then():
    label = torch.zeros(12, 16, 16, dtype=torch.int16)
    label[2:9, 3:12, 3:8], label[2:9, 3:12, 8:13] = 1, 2
    changed = 0
    for seed in range(60):
        maps = disturbed_one_hot(label, 2, generator(seed, "cascade"))
        assert set(maps.unique().tolist()) <= {0.0, 1.0}
        assert float(maps.sum(0).max()) <= 2.0
        changed += not torch.equal(maps, one_hot(label, 2))
    assert 10 < changed < 45  # 0.4 x (1 - 0.5^2) and a little for dropped components


def test_the_identity_matrix_means_no_warp():
    assert not Drawn().warped
    assert Drawn(matrix=SAME, elastic=Elastic(voxels=1.0, seed=0)).warped
    assert not replace(Drawn(), flips=(0, 1)).warped


@pytest.mark.parametrize("in_plane", [False, True])
def test_all_that_is_applied_is_made_where_the_image_is(in_plane):
    """Whatever is made without saying where lands on a device without memory here, and does not go with the image."""
    image, label = volume((6, 20, 22))
    elastic = None if in_plane else Elastic(voxels=2.0, seed=1)
    turned = rotation(np.array([0.4, 0.0 if in_plane else 0.2, 0.0]), in_plane)
    drawn = Drawn(matrix=rows(turned), elastic=elastic, flips=(2,))
    effects = [Effect(kind=kind, channels=((1.2,), ()), seed=3) for kind in ("noise", "brightness", "contrast", "gamma", "gamma_inverted")]
    effects += [Effect(kind="blur", channels=((0.9,) * 3, ()), seed=3), Effect(kind="low_resolution", channels=((0.5,) * 3, ()), seed=3)]
    large = torch.zeros(2, 1, 200, 180)
    results = []
    for where in (CPU, torch.device("meta")):
        with where:
            warped, labels = warp(image, label, drawn, (4, 12, 12), (1, 3, 5))
            apply_effects(warped, tuple(effects))
            apply_effects(large, tuple(effects))
        assert warped.device == labels.device == large.device == CPU
        results.append((warped, labels))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
