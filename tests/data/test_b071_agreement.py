"""Bad inputs B071 to B077: image, label and channels that do not lie on one grid."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from autounet.data.agreement import compare
from autounet.data.open import open_dataset
from autounet.data.voxels import read_case
from autounet.images.geometry import Geometry, geometry_from_affine
from planners.errors import UserError
from tests.data.made import SPACING, checked, found, mask, pairs, picture, save


def moved(by_mm: float, axis: int = 0) -> np.ndarray:
    affine = SPACING.copy()
    affine[axis, 3] = by_mm
    return affine


def grid(affine: np.ndarray, shape: tuple[int, int, int] = (10, 11, 12)) -> Geometry:
    return geometry_from_affine(shape, affine)


def test_b071_a_label_of_another_shape_drops_its_case_and_names_both_sizes(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "d")
    save(folder / "labels" / "p2.nii.gz", mask()[:, :, :-1])
    dataset = checked(folder)
    problem = found(dataset, "unreadable", "p2")
    assert "labels/p2.nii.gz" in problem.found
    assert "9x11x12" in problem.found
    assert "10x11x12" in problem.found
    assert "resample" in problem.remedy
    assert [c.id for c in dataset.cases] == ["p0", "p1", "p3", "p4", "p5"]
    assert dataset.broken == ("p2",)


def test_b072_a_label_one_voxel_away_is_refused_with_the_distance_unless_headers_are_to_be_ignored(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "d")
    save(folder / "labels" / "p1.nii.gz", mask(), moved(0.8))
    problem = found(checked(folder), "unreadable", "p1")
    assert "0.8 mm" in problem.found
    assert "ignore_geometry" in problem.remedy
    assert checked(folder, "[dataset]\nignore_geometry = true\n").broken == ()


def test_b074_channels_on_different_grids_drop_the_case_from_the_headers_alone(tmp_path: Path) -> None:
    for case in ("a", "b", "c"):
        for channel in ("0000", "0001"):
            save(tmp_path / "d" / "images" / f"{case}_{channel}.nii.gz", picture(1))
        save(tmp_path / "d" / "labels" / f"{case}.nii.gz", mask())
    save(tmp_path / "d" / "images" / "b_0001.nii.gz", picture(1), np.diag([0.8, 0.9, 3.0, 1.0]))
    dataset = open_dataset(tmp_path / "d")
    problem = found(dataset, "channel_grid", "b")
    assert "images/b_0001.nii.gz" in problem.found
    assert "3x0.9x0.8 against 2.5x0.9x0.8 mm" in problem.found
    assert [c.id for c in dataset.cases] == ["a", "c"]


@pytest.mark.parametrize("noise", [1e-5, 1e-3])
def test_b075_noise_in_the_header_is_no_difference(noise: float) -> None:
    assert compare(grid(SPACING), grid(moved(noise))).verdict == "same"


def test_less_than_half_a_voxel_is_a_header_difference_and_more_is_another_place() -> None:
    assert compare(grid(SPACING), grid(moved(0.3))).verdict == "header"
    assert compare(grid(SPACING), grid(moved(0.5))).verdict == "mismatch"
    assert "origin" in compare(grid(SPACING), grid(moved(0.5))).found


def test_a_small_error_of_the_spacing_counts_by_what_it_does_at_the_far_corner() -> None:
    near = SPACING.copy()
    near[0, 0] = 0.8001
    assert compare(grid(SPACING), grid(near)).verdict == "same"
    assert compare(grid(SPACING, (10, 11, 9000)), grid(near, (10, 11, 9000))).verdict == "mismatch"


def test_a_label_without_a_header_takes_that_of_the_image_and_is_remarked(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "d")
    save(folder / "labels" / "p1.nii.gz", mask(), np.eye(4))
    dataset = checked(folder)
    assert dataset.broken == ()
    assert "says nothing of the patient" in found(dataset, "remark").found


def test_a_label_stored_along_other_axes_of_the_same_grid_is_turned_exactly(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "d")
    values = np.zeros((12, 11, 10), np.uint8)
    values[1:3, 4:9, 7:] = 1
    values[8, 2, 0] = 2
    turned = nib.as_closest_canonical(nib.Nifti1Image(values, SPACING)).as_reoriented(np.array([[2, 1], [0, -1], [1, 1]]))
    nib.save(turned, folder / "labels" / "p0.nii.gz")
    dataset = open_dataset(folder)
    assert np.array_equal(read_case(dataset, dataset.case("p0")).label_zyx, values.transpose(2, 1, 0))


def test_b073_a_flipped_array_under_equal_headers_cannot_be_seen_and_is_not_guessed(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "d", p0=mask()[::-1].copy())
    assert checked(folder).broken == ()


def test_b077_several_orientations_are_noted(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "d")
    flipped = SPACING @ np.diag([-1, 1, 1, 1])
    save(folder / "images" / "p0.nii.gz", picture(0), flipped)
    save(folder / "labels" / "p0.nii.gz", mask(), flipped)
    assert "1 LAS" in found(checked(folder), "orientations").found


def test_b076_a_spacing_far_from_that_of_the_other_cases_is_named(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "d")
    save(folder / "images" / "p3.nii.gz", picture(0), np.diag([0.8, 0.9, 10, 1]))
    save(folder / "labels" / "p3.nii.gz", mask(), np.diag([0.8, 0.9, 10, 1]))
    problem = found(checked(folder), "spacing_outlier")
    assert (problem.case, problem.found) == ("p3", "voxels of 10x0.9x0.8 mm")
    assert "2.5x0.9x0.8" in problem.expected


def test_nothing_left_is_an_error_that_gives_the_first_reason(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "d", cases=2)
    for case in ("p0", "p1"):
        save(folder / "labels" / f"{case}.nii.gz", mask()[:-1])
    with pytest.raises(UserError, match=r"none of the cases can be used; the first: .*labels/p0.nii.gz"):
        checked(folder)
