"""Repairs of masks: found where they pay, left alone where they harm, and not found in noise."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from autounet.images.geometry import geometry_from_affine
from autounet.inference.pieces import class_tables, sides_of
from autounet.inference.postprocess import divide, holes, post_process
from autounet.metrics.repairs import CaseTables, ClassTable, Overlap, Part, choose_repairs, thresholds
from autounet.store.selection import PostStep
from planners.fingerprint import SidePair
from planners.labels import LabelClass, Labels, Region

SHAPE = (16, 24, 32)
GRID = geometry_from_affine(SHAPE, np.diag([1.0, 1.0, 2.0, 1.0]))  # voxels of 2 mm³, already canonical
MM3 = 2.0
ONE = Labels(classes=(LabelClass(name="background", value=0), LabelClass(name="organ", value=1)))
PAIR = Labels(
    classes=(
        LabelClass(name="background", value=0),
        LabelClass(name="kidney_left", value=3),
        LabelClass(name="kidney_right", value=5),
    )
)
SIDES = (SidePair(left="kidney_left", right="kidney_right"),)


def ball(centre, radius, shape=SHAPE):
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    return (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 <= radius**2


def organ(rng, islands=0, lesions=1):
    """Truth and a mask of it that is off by some voxels at the border, with small islands far away."""
    truth = np.zeros(SHAPE, np.uint8)
    for number in range(lesions):
        truth[ball((8, 8 + 8 * (number % 2), 6 + 9 * number), 4 if lesions == 1 else 3)] = 1
    mask = truth.copy()
    flip = (rng.random(SHAPE) < 0.05) & ball((8, 8, 6), 4) & ~ball((8, 8, 6), 3.2)
    mask[flip] = 0
    for _ in range(islands):
        z, y, x = rng.integers(1, 4), rng.integers(19, 22), rng.integers(24, 30)
        mask[z : z + 2, y : y + 2, x : x + 2] = 1
    return truth, mask


def case(number, truth, mask, labels=ONE, pairs=()):
    mended, sides = sides_of(mask, truth, labels, pairs, GRID)
    tables = class_tables(mask, truth, labels, MM3)
    return CaseTables(
        case=f"c{number}",
        patient=f"p{number}",
        fold=number % 5,
        classes=tables,
        sided=class_tables(mended, truth, labels, MM3) if sides else {},
        sides=sides,
    )


def test_spurious_islands_are_dropped_and_the_gain_is_said():
    rng = np.random.default_rng(0)
    cases = [case(n, *organ(rng, islands=3)) for n in range(15)]
    (step,) = choose_repairs(cases).steps
    assert step.kind in ("keep_largest", "drop_small")
    assert step.p is not None
    assert step.p < 0.01
    truths = [table.classes["organ"] for table in cases]
    assert_allclose(step.gain, np.mean([t.dice((step,)) - t.dice(()) for t in truths]), atol=0.01)
    assert step.gain > 0.02


def test_islands_as_large_as_the_truth_of_other_cases_leave_only_the_largest():
    """Sizes overlap between cases, so no threshold helps and the largest piece does."""
    cases = []
    for n in range(15):
        size = 40 + 20 * n
        before = Overlap(both=size, predicted=2 * size - 10, true=size)
        parts = (Part(voxels=size, scored=size, inside=(size,)), Part(voxels=size - 10, scored=size - 10, inside=(0,)))
        cases.append(
            CaseTables(
                case=f"c{n}",
                patient=f"p{n}",
                fold=n % 5,
                classes={"organ": ClassTable(voxel_mm3=1, before=(before,), pieces=parts)},
                sided={},
            )
        )
    (step,) = choose_repairs(cases).steps
    assert (step.kind, step.target) == ("keep_largest", "organ")
    before = np.mean([2 * (40 + 20 * n) / (3 * (40 + 20 * n) - 10) for n in range(15)])
    assert_allclose(step.gain, 1 - before)


def test_several_true_lesions_are_never_reduced_to_one():
    rng = np.random.default_rng(1)
    cases = [case(n, *organ(rng, lesions=3)) for n in range(15)]
    assert not any(step.kind == "keep_largest" for step in choose_repairs(cases).steps)
    with_islands = [case(n, *organ(rng, lesions=3, islands=2)) for n in range(15)]
    (step,) = choose_repairs(with_islands).steps
    assert step.kind == "drop_small"
    assert 8 * MM3 < step.minimum_mm3 < 80 * MM3  # above an island, below a lesion


def test_holes_are_filled_where_the_truth_is_solid():
    rng = np.random.default_rng(2)
    cases = []
    for n in range(12):
        truth = ball((8, 12, 16), 6).astype(np.uint8)
        mask = truth.copy()
        mask[8 : 8 + rng.integers(1, 3), 11:14, 15:18] = 0
        cases.append(case(n, truth, mask))
    (step,) = choose_repairs(cases).steps
    assert step.kind == "fill_holes"
    assert step.gain > 0.005


def noise_case(rng, number):
    """A second piece that helps or harms by the toss of a coin, and a hole likewise."""
    size, second, hole = int(rng.integers(300, 500)), int(rng.integers(5, 120)), int(rng.integers(5, 60))
    right, solid = bool(rng.integers(2)), bool(rng.integers(2))
    true = size + second * right + hole * solid
    before = Overlap(both=size - 20 + second * right, predicted=size + second, true=true)
    parts = (Part(voxels=size, scored=size, inside=(size - 20,)), Part(voxels=second, scored=second, inside=(second * right,)))
    filled = Part(voxels=hole, scored=hole, inside=(hole * solid,))
    return ClassTable(voxel_mm3=1, before=(before,), pieces=parts, holes=filled, holes_of_largest=filled)


@pytest.mark.parametrize("classes", [1, 5])
def test_in_pure_noise_nothing_is_chosen_in_nineteen_of_twenty_datasets(classes):
    chosen = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        cases = [
            CaseTables(case=f"c{n}", patient=f"p{n}", fold=n % 5, classes={f"k{k}": noise_case(rng, n) for k in range(classes)}, sided={})
            for n in range(20)
        ]
        chosen += bool(choose_repairs(cases, seed).steps)
    assert chosen / 200 <= 0.05


def test_a_mask_that_becomes_rightly_empty_is_a_gain():
    cases = []
    for n in range(12):
        truth, mask = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
        if n % 2:
            truth[ball((8, 12, 16), 5)] = mask[ball((8, 12, 16), 5)] = 1
        else:
            mask[2:4, 2:4, 2 : 4 + n % 3] = 1
        cases.append(case(n, truth, mask))
    (step,) = choose_repairs(cases).steps
    assert step.kind == "drop_small"
    assert_allclose(step.gain, 0.5)


def test_sides_that_are_confused_are_put_right_by_position():
    rng = np.random.default_rng(3)
    cases = []
    for n in range(12):
        truth = np.zeros(SHAPE, np.uint8)
        truth[ball((8, 12, 5), 3)], truth[ball((8, 12, 26), 3)] = 3, 5
        mask = np.searchsorted([0, 3, 5], truth).astype(np.uint8)
        swapped = rng.random(SHAPE) < 0.2
        mask[swapped & (mask > 0)] = 3 - mask[swapped & (mask > 0)]
        cases.append(case(n, truth, mask, PAIR, SIDES))
    steps = choose_repairs(cases).steps
    assert (steps[0].kind, steps[0].target, steps[0].partner, steps[0].axis) == ("sides", "kidney_left", "kidney_right", 2)
    assert len(steps) == 1  # what the confusion tore apart is whole again, nothing is left to repair
    assert steps[0].gain > 0.1


def test_sides_are_put_right_in_images_that_are_stored_turned():
    step = PostStep(kind="sides", target="kidney_left", partner="kidney_right", axis=2)
    mask = np.zeros(SHAPE, np.uint8)
    mask[ball((8, 12, 5), 3)], mask[ball((8, 12, 26), 3)] = 2, 1  # the wrong way round
    right = post_process(mask, [step], PAIR, GRID)
    assert right[8, 12, 5] == 1
    assert right[8, 12, 26] == 2
    mirrored = geometry_from_affine(SHAPE, np.diag([-1.0, 1.0, 2.0, 1.0]))  # stored x grows to the left
    assert np.array_equal(post_process(mask, [step], PAIR, mirrored), mask)
    assert mask[8, 12, 5] == 2  # the input stays as it is


def test_one_structure_alone_is_not_cut_in_two():
    for mask in (ball((8, 12, 16), 6), np.ones(SHAPE, bool)):
        assert divide(np.count_nonzero(mask, axis=(0, 1))) is None
    assert divide(np.array([0, 5, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 6, 0])) in range(3, 13)
    assert divide(np.zeros(9, int)) is None
    assert divide(np.array([7])) is None


def test_thresholds_lie_between_sizes_that_occur():
    assert_allclose(thresholds([2.0, 8.0, 8.0, 32.0]), [4.0, 16.0])
    assert thresholds([5.0, 5.0]) == ()


@pytest.mark.parametrize("shape", [(1, 15, 17), (9, 10, 11), (1, 1, 12), (4, 1, 9)])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.75])
def test_holes_are_those_of_scipy(shape, share):
    from scipy import ndimage

    rng = np.random.default_rng(0)
    flat = tuple(axis for axis in range(3) if shape[axis] == 1)
    for _ in range(20):
        mask = rng.random(shape) < share
        solid = mask.squeeze(flat)
        assert np.array_equal(holes(mask, flat).squeeze(flat), ndimage.binary_fill_holes(solid) & ~solid)


STEPS = [
    (),
    (PostStep(kind="keep_largest", target="organ"),),
    (PostStep(kind="fill_holes", target="organ"),),
    (PostStep(kind="keep_largest", target="organ"), PostStep(kind="fill_holes", target="organ")),
    *[(PostStep(kind="drop_small", target="organ", minimum_mm3=bar),) for bar in (3.0, 9.0, 30.0)],
]


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([None, 9]), st.booleans())
def test_tables_know_the_dice_that_repairing_the_mask_gives(seed, ignore, flat):
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    shape = (1, 20, 20) if flat else (8, 12, 12)
    labels = Labels(classes=(*ONE.classes, LabelClass(name="other", value=4)), ignore=ignore)
    grid = replace(GRID, shape_zyx=shape)
    field = ndimage.gaussian_filter(rng.normal(size=shape), 0.7)
    truth = np.where(ndimage.gaussian_filter(rng.normal(size=shape), 1) > 0.05, 1, 0).astype(np.uint8)
    if ignore is not None:
        truth[rng.random(shape) < 0.1] = ignore
    mask = np.where(field > 0, 1, np.where(field < -0.5, 2, 0)).astype(np.uint8)
    table = class_tables(mask, truth, labels, MM3)["organ"]
    kept = np.ones(shape, bool) if ignore is None else truth != ignore
    for steps in STEPS:
        mended = post_process(mask, steps, labels, grid)
        a, b = (mended == 1) & kept, (truth == 1) & kept
        expected = 2 * (a & b).sum() / (a.sum() + b.sum()) if a.any() or b.any() else 1.0
        assert_allclose(table.dice(steps), expected)


def test_a_class_of_regions_is_judged_by_every_region_it_is_in():
    labels = Labels(
        classes=(LabelClass(name="background", value=0), LabelClass(name="rim", value=1), LabelClass(name="core", value=2)),
        regions=(Region(name="whole", values=(1, 2), paint=1), Region(name="inner", values=(2,), paint=2)),
    )
    truth = np.zeros(SHAPE, np.uint8)
    truth[ball((8, 12, 16), 6)] = 1
    truth[ball((8, 12, 16), 3)] = 2
    mask = truth.copy()
    mask[1, 1, 1:5] = 2
    tables = class_tables(mask, truth, labels, MM3)
    assert len(tables["core"].before) == 2
    assert len(tables["rim"].before) == 1
    inner, whole = (truth == 2).sum(), (truth > 0).sum()
    assert_allclose(tables["core"].dice(()), np.mean([2 * n / (2 * n + 4) for n in (inner, whole)]))
    assert tables["core"].dice(STEPS[1]) == 1
