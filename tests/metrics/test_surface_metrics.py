import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import ndimage

from autounet.metrics.extract import boundary_of, label_surfaces, mask_surfaces
from autounet.metrics.nearest import _climbed, _mapped, nearest
from autounet.metrics.surface import SurfaceScores, boxes_of, surface_scores, target_surfaces
from autounet.metrics.surfels import surfel_areas


def ellipsoid(shape, centre, radii):
    grid = np.ogrid[tuple(slice(s) for s in shape)]
    return sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True)) <= 1


TRUTH = ellipsoid((20, 30, 28), (9, 14, 13), (6, 9, 8))
PREDICTED = ellipsoid((20, 30, 28), (10, 15, 12), (5, 9, 9))

# Computed with the surface-distance package 0.1 on the two ellipsoids above, at tolerances 0.5, 1 and 2 mm.
PACKAGE = {
    (1.0, 1.0, 1.0): ((0.45448551822, 0.779682665133, 0.99012840482), 782.9635581520195),
    (3.0, 0.7, 1.2): ((0.44570719985, 0.679457120991, 0.872008904457), 1629.7867915934605),
}


@pytest.mark.parametrize("spacing", list(PACKAGE))
def test_the_surface_dice_is_that_of_the_surface_distance_package(spacing):
    expected = PACKAGE[spacing][0]
    found = [surface_scores(TRUTH, PREDICTED, spacing, tolerance).nsd_area for tolerance in (0.5, 1.0, 2.0)]
    assert_allclose(found, expected, rtol=1e-9)


def test_the_table_of_surface_elements_is_that_of_the_package_in_all_256_entries():
    # Sum and some entries of the package's table; its bits count the corners the other way round.
    codes = [int(f"{code:08b}"[::-1], 2) for code in (1, 3, 6, 9, 27, 30, 105, 22, 150, 60)]
    cubic = surfel_areas((1.0, 1.0, 1.0))
    assert_allclose(
        cubic[codes],
        [0.21650635, 0.70710678, 0.4330127, 0.4330127, 1.57313218, 1.3660254, 0.8660254, 0.64951905, 0.8660254, 1.41421356],
        atol=1e-8,
    )
    assert_allclose(cubic.sum(), 241.34313970553745)
    flat = surfel_areas((3.0, 0.7, 1.2))
    assert_allclose(
        flat[codes],
        [0.53144261, 1.84835062, 1.06288522, 1.06288522, 3.73314605, 2.54577045, 2.12577045, 1.59432784, 2.12577045, 3.69670123],
        atol=1e-8,
    )
    assert_allclose(flat.sum(), 575.6910693606922)


def brute_force(truth, predicted, spacing, tolerance):
    """Boundary by erosion, distances between all pairs of centres."""
    points = [np.argwhere(mask & ~ndimage.binary_erosion(mask)) * np.asarray(spacing) for mask in (truth, predicted)]
    between = np.linalg.norm(points[0][:, None] - points[1][None], axis=2)
    there, back = between.min(1), between.min(0)
    return {
        "hd": max(there.max(), back.max()),
        "hd95": max(np.percentile(there, 95), np.percentile(back, 95)),
        "assd": np.concatenate([there, back]).mean(),
        "nsd_voxel": ((there <= tolerance).sum() + (back <= tolerance).sum()) / (len(there) + len(back)),
    }


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.7, 1.2)])
@pytest.mark.parametrize("seed", range(6))
def test_distances_are_those_of_all_pairs_of_boundary_voxels(spacing, seed):
    rng = np.random.default_rng(seed)
    truth = ndimage.gaussian_filter(rng.normal(size=(10, 14, 13)), 1.5) > 0.05
    predicted = np.roll(truth, 1, 1) if seed % 2 else ndimage.gaussian_filter(rng.normal(size=(10, 14, 13)), 1.5) > 0.05
    found = surface_scores(truth, predicted, spacing, 1.25)
    for name, expected in brute_force(truth, predicted, spacing, 1.25).items():
        assert_allclose(getattr(found, name), expected, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.7, 1.2), (0.4, 0.4, 9.0), (5.0, 0.3, 0.3)])
@pytest.mark.parametrize("reach", [1, 3, 30])
def test_looking_around_climbing_trees_and_reading_maps_give_the_distance_to_the_nearest_point(spacing, reach):
    rng = np.random.default_rng(reach)
    asked = np.unique(rng.integers(0, 40, (200, 3)), axis=0).astype(np.int32)
    asking = np.unique((asked[rng.integers(0, len(asked), 150)] + rng.integers(-reach, reach + 1, (150, 3))).clip(0), axis=0).astype(
        np.int32
    )
    expected = np.linalg.norm((asking[:, None] - asked[None]) * np.asarray(spacing), axis=2).min(1)
    shape = np.maximum(asking.max(0), asked.max(0)) + 1
    assert_allclose(nearest(asking, asked, spacing), expected, rtol=1e-5)
    assert_allclose(nearest(asking + 700, asked + 700, spacing), expected, rtol=1e-5)
    assert_allclose(_climbed(asking, asked, spacing), expected, rtol=1e-9)
    assert_allclose(_mapped(asking, asked, shape, spacing), expected, rtol=1e-5)


def test_one_point_far_away_is_found():
    one, other = np.array([[0, 0, 0]], np.int32), np.array([[300, 400, 0]], np.int32)
    assert_allclose(nearest(one, other, (1.0, 1.0, 1.0)), [500])
    assert_allclose(nearest(one, one, (1.0, 1.0, 1.0)), [0])


def as_set(surface):
    return sorted((*point, round(weight, 9)) for point, weight in zip(surface.points.tolist(), surface.weights.tolist(), strict=True))


@pytest.mark.parametrize("shape", [(7, 9, 8), (1, 12, 9), (2, 2, 2)])
@pytest.mark.parametrize("values", [(1, 2, 3), (3, -2, 70_000), (5,)])
def test_all_classes_in_one_pass_have_the_surfaces_they_have_alone(shape, values, monkeypatch):
    monkeypatch.setattr("autounet.metrics.extract.SLAB", 100)  # so that there are several slabs
    rng = np.random.default_rng(0)
    label = rng.choice([0, 0, 11, *values], shape).astype(np.int32)
    found = label_surfaces(label, values, shape, (2.0, 1.0, 0.5))
    for value in values:
        alone = mask_surfaces(label == value, shape, (2.0, 1.0, 0.5))
        assert as_set(found[value].boundary) == as_set(alone.boundary)
        assert as_set(found[value].area) == as_set(alone.area)


def test_classes_that_are_scattered_score_as_they_do_alone():
    rng = np.random.default_rng(1)
    truth = np.where(rng.random((12, 20, 18)) < 0.1, rng.integers(1, 6, (12, 20, 18)), 0).astype(np.uint8)
    predicted = np.roll(truth, 1, 2)
    predicted[predicted == 5] = 0
    targets = (*((str(v), (v,)) for v in range(1, 7)), ("some", (1, 2)), ("again", (1,)))
    found = target_surfaces(truth, predicted, targets, (2.0, 1.0, 1.0), (1.0,) * 8)
    for name, values in targets:
        alone = surface_scores(np.isin(truth, values), np.isin(predicted, values), (2.0, 1.0, 1.0), 1.0)
        for (metric, _, a), (_, _, b) in zip(found[name].rows(), alone.rows(), strict=True):
            assert_allclose(a, b, rtol=1e-9, err_msg=f"{name} {metric}")
    assert found["5"].nsd_area == 0
    assert np.isnan(found["6"].nsd_area)
    assert found["again"] == found["1"]


def test_two_single_voxels_three_apart_are_three_spacings_apart():
    truth, predicted = np.zeros((5, 5, 9), bool), np.zeros((5, 5, 9), bool)
    truth[2, 2, 2], predicted[2, 2, 5] = True, True
    found = surface_scores(truth, predicted, (1.0, 1.0, 0.8), 2.0)
    assert_allclose([found.hd, found.hd95, found.assd], 2.4, rtol=1e-6)
    assert found.nsd_voxel == 0
    assert surface_scores(truth, predicted, (1.0, 1.0, 0.8), 2.4).nsd_voxel == 1


def test_empty_masks_follow_the_stated_rules():
    empty, full = np.zeros((4, 5, 6), bool), np.ones((4, 5, 6), bool)
    both = surface_scores(empty, empty, (1.0, 1.0, 1.0), 1.0)
    assert all(np.isnan(value) for _, _, value in both.rows())
    for truth, predicted in ((empty, full), (full, empty)):
        found = surface_scores(truth, predicted, (1.0, 1.0, 1.0), 1.0)
        assert found.nsd_area == found.nsd_voxel == 0
        assert np.isnan([found.hd, found.hd95, found.assd]).all()
    perfect = surface_scores(full, full, (1.0, 1.0, 1.0), 0.0)
    assert perfect == SurfaceScores(nsd_area=1.0, nsd_voxel=1.0, hd=0.0, hd95=0.0, assd=0.0)


def test_a_picture_has_an_edge_in_its_plane_only():
    square = np.zeros((1, 8, 8), bool)
    square[0, 2:7, 2:7] = True
    assert len(boundary_of(square, square.shape).points) == 16


masks = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).random((4, 5, 6)) > 0.6)


@given(masks, masks, st.floats(0.2, 5.0))
def test_scores_are_symmetric_and_lengths_scale_with_the_spacing(truth, predicted, scale):
    spacing = (1.0, 0.5, 2.0)
    found = surface_scores(truth, predicted, spacing, 1.0)
    turned = surface_scores(predicted, truth, spacing, 1.0)
    larger = surface_scores(truth, predicted, tuple(s * scale for s in spacing), scale)
    for (name, _, a), (_, _, b), (_, _, c) in zip(found.rows(), turned.rows(), larger.rows(), strict=True):
        assert_allclose(a, b, rtol=1e-5, err_msg=name)
        assert_allclose(c, a * (scale if name.endswith("_mm") else 1), rtol=1e-4, err_msg=name)


def test_each_target_is_scored_in_its_own_box_and_a_region_is_a_union():
    truth = np.zeros((20, 20, 20), np.int16)
    truth[2:8, 2:8, 2:8], truth[12:18, 12:18, 12:18] = 1, 2
    predicted = truth.copy()
    predicted[12:18, 12:18, 12] = 0
    found = target_surfaces(truth, predicted, (("one", (1,)), ("two", (2,)), ("both", (1, 2)), ("none", (7,))), (1.0, 1.0, 1.0), (0.5,) * 4)
    assert found["one"].nsd_area == 1
    assert found["two"] == surface_scores(truth == 2, predicted == 2, (1.0, 1.0, 1.0), 0.5)
    assert found["both"] == surface_scores(truth > 0, predicted > 0, (1.0, 1.0, 1.0), 0.5)
    assert np.isnan(found["none"].nsd_area)


def test_boxes_of_small_negative_and_enormous_values():
    label = np.zeros((4, 5, 6), np.int64)
    label[1, 2:4, 3], label[3, 0, 5] = 2, -3
    expected = {2: (slice(1, 2), slice(2, 4), slice(3, 4)), -3: (slice(3, 4), slice(0, 1), slice(5, 6))}
    found = boxes_of(label)
    assert {v: found[v] for v in expected} == expected
    label[0, 0, 0] = 2**40
    assert boxes_of(label) == {**expected, 2**40: (slice(0, 1), slice(0, 1), slice(0, 1))}
