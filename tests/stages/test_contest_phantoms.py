"""What the datasets of the contest promise: each hides its classes from all networks but those that must win."""

import numpy as np
import pytest

from autounet.arrays.resample import resample_image
from tests.stages.contest_phantoms import (
    BOTH,
    CONTESTS,
    FAR,
    MARK_END,
    MARKED,
    PAIRED,
    SHAPE_ZYX,
    UNEVEN,
    Made,
    add_discs,
    add_rods,
    write_contest,
)

WINDOW, DEPTH = 16, 8  # columns and slices that the three-dimensional network sees at once
Z, Y, X = (np.arange(size) for size in SHAPE_ZYX)


def coarse(image_zyx: np.ndarray) -> np.ndarray:
    half = (SHAPE_ZYX[0] // 2, SHAPE_ZYX[1] // 2, SHAPE_ZYX[2] // 2)
    return resample_image(image_zyx[None].astype(np.float32), half, (3, 3, 3))[0]


def blank() -> Made:
    return Made(np.zeros(SHAPE_ZYX), np.zeros(SHAPE_ZYX, np.uint8))


def volumes(kind: str, count: int = 12) -> list[Made]:
    return [CONTESTS[kind](np.random.default_rng(seed), seed) for seed in range(count)]


def test_the_pattern_of_a_rod_is_nothing_at_half_the_resolution():
    for sign_z in ((-1.0) ** Z, PAIRED[Z % 4].astype(float)):
        seen = coarse(np.broadcast_to(sign_z[:, None, None], SHAPE_ZYX))
        assert np.abs(seen[3:-3]).max() < 0.01
        assert np.abs(seen).max() < UNEVEN  # at the ends, where every pair has a brightness of its own


def test_stripes_are_nothing_at_half_the_resolution():
    for sign_yx in (np.broadcast_to((-1.0) ** Y[:, None], (32, 32)), np.broadcast_to((-1.0) ** X, (32, 32))):
        seen = coarse(np.broadcast_to(sign_yx, SHAPE_ZYX))
        assert np.abs(seen[:, 3:-3, 3:-3]).max() < 0.01


def test_a_slice_of_a_rod_is_bright_as_often_in_one_class_as_in_the_other():
    bright: dict[int, list[float]] = {1: [], 2: []}
    for seed in range(40):
        made = blank()
        add_rods(made, np.random.default_rng(seed), (14,))
        for row in (6, 16, 26):
            bright[int(made.label_zyx[0, row, 14])] += (made.image_zyx[:, row, 14] > 2.0).tolist()
    for value in BOTH:
        assert len(bright[value]) > 1000
        assert np.mean(bright[value]) == pytest.approx(0.5, abs=0.03)


def test_no_slice_of_discs_tells_of_its_neighbour_and_no_window_holds_a_disc_and_its_stripes():
    same = []
    for seed in range(20):
        made = blank()
        add_discs(made, np.random.default_rng(seed))
        value_z = made.label_zyx.max((1, 2))
        assert set(value_z) <= set(BOTH)
        assert all(set(np.unique(slice_yx)) == {0, value} for slice_yx, value in zip(made.label_zyx, value_z, strict=True))
        same += (value_z[1:] == value_z[:-1]).tolist()
        assert not made.label_zyx[:, :, :FAR].any()
        across = np.abs(np.diff(made.image_zyx[:, :, MARKED], axis=2)).max((1, 2)) > 1
        assert np.array_equal(across, value_z == 2)
    assert np.mean(same) == pytest.approx(0.5, abs=0.05)
    assert FAR - (MARKED.stop - 1) >= WINDOW


def test_layers_share_no_slice_and_no_window_with_their_marks():
    seen = []
    for made in volumes("far_away"):
        first = int(made.label_zyx.nonzero()[0].min())
        assert first - (MARK_END - 1) > DEPTH
        mark_y = made.image_zyx[:MARK_END].mean((0, 2))
        assert np.array_equal(np.where(mark_y > 0, 1, 2), made.label_zyx[-1, :, 0])
        assert np.abs(made.image_zyx[MARK_END:first]).max() < 1  # nothing in between
        assert made.image_zyx[first:].min() > 1  # and above it no trace of the class
        seen.append(made.label_zyx[-1, ::8, 0])
    assert np.array_equal(np.mean(seen, 0), [1.5] * 4)


def test_nothing_of_a_layer_is_lost_at_half_the_resolution():
    for made in volumes("far_away"):
        for axis in range(3):
            size = SHAPE_ZYX[axis]
            first, second = np.take(made.label_zyx, range(0, size, 2), axis), np.take(made.label_zyx, range(1, size, 2), axis)
            assert np.array_equal(first, second)


@pytest.mark.parametrize("kind", list(CONTESTS))
def test_both_classes_are_about_as_frequent(kind):
    voxels = [[(made.label_zyx == value).sum() for value in BOTH] for made in volumes(kind)]
    first, second = np.sum(voxels, 0)
    assert 0.5 < first / second < 2.0


def test_a_dataset_is_the_same_when_it_is_made_again(tmp_path):
    for name in ("one", "two"):
        write_contest("both_ways", tmp_path / name, 2)
    for path in sorted((tmp_path / "one").rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()
