"""Made images: the same everywhere, with a truth that can be worked out."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autounet.phantoms import KINDS, LAYOUTS, make, phantom
from autounet.phantoms.patients import Organs
from autounet.phantoms.scan import Scanner, scan
from autounet.phantoms.shapes import ellipsoid, tube
from autounet.rng import generator
from planners.errors import UserError

SMALL = {"organs": 24, "lesions": 24, "ct": 32, "multichannel": 24, "cells": 64, "slides": 128}


def _points(*xyz: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, y, z = (np.array([v], np.float32) for v in xyz)
    return x, y, z


def _hashes(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_point_on_the_surface_of_an_ellipsoid_has_the_value_one():
    assert ellipsoid(_points(1 + 3, 2, 0), (1, 2, 0), (3, 5, 7))[0] == pytest.approx(1)


def test_a_tube_measures_the_distance_to_its_nearest_piece():
    path = ((0.0, 0.0, 0.0), (10.0, 0.0, 0.0), (10.0, 10.0, 0.0))
    assert tube(_points(5, 2, 0), path, 4.0)[0] == pytest.approx(0.25)  # 2 mm off the first piece: (2/4)^2
    assert tube(_points(13, 14, 0), path, 5.0)[0] == pytest.approx(1)  # 3-4-5 beyond the end


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_voxels_and_another_seed_others(kind):
    first, again, other = (phantom(kind, 3, size=SMALL[kind], seed=seed) for seed in (5, 5, 6))
    assert np.array_equal(first.image_czyx, again.image_czyx)
    assert np.array_equal(first.label_zyx, again.label_zyx)
    assert first.geometry == again.geometry
    assert first.image_czyx.shape != other.image_czyx.shape or not np.array_equal(first.image_czyx, other.image_czyx)


@pytest.mark.parametrize("kind", KINDS)
def test_a_case_does_not_depend_on_which_cases_were_made_before_it(kind):
    alone = phantom(kind, 2, size=SMALL[kind])
    [phantom(kind, index, size=SMALL[kind]) for index in (0, 1)]
    assert np.array_equal(alone.image_czyx, phantom(kind, 2, size=SMALL[kind]).image_czyx)


@pytest.mark.parametrize("kind", KINDS)
def test_every_class_occurs_and_no_value_is_undeclared(kind):
    seen: set[int] = set()
    for index in range(6):
        made = phantom(kind, index, size=2 * SMALL[kind])
        seen |= set(np.unique(made.label_zyx).tolist())
        assert made.image_czyx.shape == (len(made.channels), *made.label_zyx.shape)
        assert np.isfinite(made.image_czyx).all()
    assert seen == {0, *(value for _, value in made.classes)}


def test_organs_lie_on_the_side_that_their_names_say_whatever_the_header():
    patient = Organs.draw(generator(0, "test"))
    for stored in ("RAS", "LPI", "PIR", "SLA"):
        geometry = Scanner(shape_zyx=(40, 44, 48), spacing_zyx_mm=(2.4, 2.2, 2.0), tilt_degrees=(10, -7, 5), stored=stored).geometry()
        _, label = scan(patient, geometry, generator(1, "noise"))
        right_mm = {value: _centre(label == value, geometry)[0] for value in (1, 2, 3)}
        assert right_mm[1] > 5, "the liver is on the right"
        assert right_mm[2] < -10, "the left kidney is on the left"
        assert right_mm[3] > 10, "the right kidney is on the right"


def test_two_scans_of_one_patient_agree_where_they_are_in_millimetres():
    patient = Organs.draw(generator(4, "test"))
    straight = Scanner(shape_zyx=(50, 50, 50), spacing_zyx_mm=(2, 2, 2)).geometry()
    oblique = Scanner(shape_zyx=(40, 60, 60), spacing_zyx_mm=(2.5, 1.7, 1.7), tilt_degrees=(9, 4, -6), stored="LAI").geometry()
    for value in (1, 2, 3):
        centres = [_centre(scan(patient, g, generator(0))[1] == value, g) for g in (straight, oblique)]
        assert np.allclose(*centres, atol=0.4)


def test_no_flip_of_the_organs_looks_like_the_organs():
    made = phantom("organs", 0, size=32)
    for axis in range(3):
        same = (np.flip(made.label_zyx, axis) == made.label_zyx) & (made.label_zyx > 0)
        assert same.sum() < 0.6 * (made.label_zyx > 0).sum()


def test_about_a_quarter_of_the_lesion_patients_are_healthy_and_lesions_are_rare():
    fractions = [float((phantom("lesions", index, size=32).label_zyx > 0).mean()) for index in range(24)]
    assert 2 <= sum(f == 0 for f in fractions) <= 12
    assert max(fractions) < 0.01


def test_sixty_organs_fit_into_the_ct():
    made = phantom("ct:60", 0, size=96)
    assert len(np.unique(made.label_zyx)) > 50
    assert made.image_czyx.min() == -1024


def test_touching_cells_keep_a_line_between_them():
    made = phantom("cells", 0, size=128)
    number = made.instances_zyx[0].astype(int)
    for a, b in ((number[1:], number[:-1]), (number[:, 1:], number[:, :-1])):
        assert not ((a != b) & (a > 0) & (b > 0)).any()
    assert number.max() > 10


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_written_the_same_twice(layout, tmp_path):
    for folder in ("one", "two"):
        make("multichannel", tmp_path / folder, cases=2, size=16, layout=layout)
    assert _hashes(tmp_path / "one") == _hashes(tmp_path / "two")
    assert len(_hashes(tmp_path / "one")) >= 4


def test_an_unknown_kind_names_the_known_ones():
    with pytest.raises(UserError, match=r"no phantom 'brains'.*organs, lesions"):
        phantom("brains", 0)
    with pytest.raises(UserError, match="ct:60"):
        phantom("organs:60", 0)


def _centre(mask_zyx: np.ndarray, geometry) -> np.ndarray:
    z, y, x = (axis.mean() for axis in np.nonzero(mask_zyx))
    return (geometry.affine_ras @ (x, y, z, 1))[:3]


def test_the_scanner_can_be_changed_without_changing_the_patient():
    scanner = Scanner(shape_zyx=(8, 8, 8), spacing_zyx_mm=(1, 1, 1))
    assert replace(scanner, stored="LPS").geometry().spacing_zyx_mm == scanner.geometry().spacing_zyx_mm
