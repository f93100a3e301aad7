"""Catalogue B044 to B070: where an image says it lies. (B071 and on compare several files; they belong to the check of datasets.)"""

import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from autounet.images.image import ReadOptions
from autounet.images.orientation import orient, orientation_of
from autounet.images.read import read_header, read_image
from autounet.images.write import write_mask
from planners.errors import UserError
from tests.images.badinputs.door_seeds import SPACING, accepted, nifti, patched, refused, voxels


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return nifti(tmp_path / "case.nii")


def with_forms(path: Path, sform: NDArray[np.float64] | None, s_code: int, qform: NDArray[np.float64] | None, q_code: int) -> Path:
    image = nib.Nifti1Image(voxels(), SPACING)
    image.set_sform(sform, s_code)
    image.set_qform(qform, q_code)
    nib.save(image, path)
    return path


def turned(degrees: float, axis: int = 2) -> NDArray[np.float64]:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    rotation = np.eye(4)
    first, second = [a for a in range(3) if a != axis]
    rotation[[first, first, second, second], [first, second, first, second]] = cos, -sin, sin, cos
    return rotation


@pytest.mark.parametrize(("axis", "value"), [(1, 0.0), (3, 0.0), (1, -0.8), (2, float("nan")), (3, float("inf"))])
def test_b044_b045_b046_a_spacing_that_cannot_be_is_refused_and_can_be_given(plain: Path, axis: int, value: float) -> None:
    patched(plain, (76 + 4 * axis, "f", value))
    refused(plain, f"spacing of {value:g} mm along {'xyz'[axis - 1]}", f"pixdim[{axis}]", "spacing_zyx_mm = [z, y, x]", header_too=True)
    image = accepted(plain, options=ReadOptions(spacing_zyx_mm=(2.5, 0.9, 0.8)))
    assert image.geometry.spacing_zyx_mm == (2.5, 0.9, 0.8)


@pytest.mark.parametrize("spacing", [(0.001, 0.8, 0.8), (0.8, 0.8, 80.0)])
def test_b047_a_spacing_no_scanner_has_is_asked_about(tmp_path: Path, spacing: tuple[float, float, float]) -> None:
    path = nifti(tmp_path / "case.nii", affine=np.diag([*spacing, 1.0]))
    refused(path, "outside 0.01 to 50 mm", "spacing_zyx_mm = [z, y, x]", "unusual_geometry = true", header_too=True)
    image = accepted(path, options=ReadOptions(unusual_geometry=True))
    assert image.geometry.spacing_zyx_mm == pytest.approx(spacing[::-1], rel=1e-6)
    accepted(path, options=ReadOptions(spacing_zyx_mm=(1.0, 1.0, 1.0)))


@pytest.mark.parametrize(("unit", "code", "factor"), [("micron", 3, 1000.0), ("meter", 1, 0.001), ("mm", 2, 1.0)])
def test_b048_other_units_are_converted_once(tmp_path: Path, unit: str, code: int, factor: float) -> None:
    image = nib.Nifti1Image(voxels(), np.diag([0.8 * factor, 0.8 * factor, 2.5 * factor, 1]))
    affine = image.affine.copy()
    affine[:3, 3] = np.array([10.0, -20.0, 30.0]) * factor
    image = nib.Nifti1Image(voxels(), affine)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "case.nii")
    read = accepted(tmp_path / "case.nii", *(["converted"] if code != 2 else []))
    assert read.geometry.spacing_zyx_mm == pytest.approx((2.5, 0.8, 0.8), rel=1e-6)
    assert read.geometry.origin_xyz_mm == pytest.approx((10, -20, 30), rel=1e-6)
    write_mask(tmp_path / "mask.nii", read.voxels_czyx[0], read.header)
    assert read_header(tmp_path / "mask.nii").geometry == read.geometry


def test_b049_an_unknown_unit_is_taken_for_millimetres_and_noted(plain: Path) -> None:
    patched(plain, (123, "B", 0))
    assert accepted(plain, "millimetres were assumed").geometry.spacing_zyx_mm == pytest.approx((2.5, 0.8, 0.8))


def test_b050_two_spacings_are_refused_with_both(plain: Path) -> None:
    patched(plain, (88, "f", 5.0))
    refused(plain, "0.8, 0.8, 5 mm in pixdim", "0.8, 0.8, 2.5 mm in its sform", "trust = 'sform'", header_too=True)
    assert accepted(plain, options=ReadOptions(trust="sform")).geometry.spacing_zyx_mm == pytest.approx((2.5, 0.8, 0.8))
    assert accepted(plain, options=ReadOptions(spacing_zyx_mm=(5, 0.8, 0.8))).geometry.spacing_zyx_mm == (5, 0.8, 0.8)


def test_an_sform_without_scale_gives_way_to_pixdim(tmp_path: Path) -> None:
    """Seen in label maps: the sform was left with unit columns while qform and pixdim are right."""
    right = turned(20) @ SPACING
    right[:3, 3] = 5, 6, 7
    unit = turned(20)
    unit[:3, 3] = 5, 6, 7
    path = with_forms(tmp_path / "case.nii", unit, 1, right, 1)
    patched(path, (80, "3f", 0.8, 0.8, 2.5))
    np.testing.assert_allclose(accepted(path, "the sform has no scale").geometry.affine_ras, right, atol=1e-5)
    patched(path, (252, "h", 0))
    image = accepted(path, "the sform has no scale")
    np.testing.assert_allclose(image.geometry.affine_ras, right, atol=1e-5)
    write_mask(tmp_path / "mask.nii", image.voxels_czyx[0], image.header)
    assert (tmp_path / "mask.nii").read_bytes()[76:108] == path.read_bytes()[76:108]
    assert (tmp_path / "mask.nii").read_bytes()[252:328] == path.read_bytes()[252:328]


def test_b051_two_placements_are_asked_about(tmp_path: Path) -> None:
    moved = SPACING.copy()
    moved[0, 3] = 10.0
    path = with_forms(tmp_path / "case.nii", SPACING, 2, moved, 1)
    refused(path, "10 mm away", "Set trust = 'sform' or 'qform'", header_too=True)
    assert accepted(path, options=ReadOptions(trust="sform")).geometry.origin_xyz_mm == pytest.approx((0, 0, 0))
    assert accepted(path, options=ReadOptions(trust="qform")).geometry.origin_xyz_mm == pytest.approx((10, 0, 0))
    image = read_image(path, ReadOptions(trust="qform"))
    write_mask(tmp_path / "mask.nii", image.voxels_czyx[0], image.header)
    assert (tmp_path / "mask.nii").read_bytes()[252:328] == path.read_bytes()[252:328], "a mask lies wherever its image lies"


def test_b051_a_tenth_of_a_voxel_is_the_limit_and_the_sform_the_one_that_counts(tmp_path: Path) -> None:
    for shift_mm, agree in ((0.04, True), (0.076, True), (0.085, False), (0.16, False)):
        moved = SPACING.copy()
        moved[1, 3] = shift_mm
        path = with_forms(tmp_path / "case.nii", SPACING, 2, moved, 1)
        if agree:
            assert accepted(path).geometry.origin_xyz_mm == (0.0, 0.0, 0.0)
        else:
            refused(path, "mm away", header_too=True)


def test_b052_mirrored_placements_are_asked_about(tmp_path: Path) -> None:
    mirrored = SPACING @ np.diag([-1.0, 1, 1, 1])
    path = with_forms(tmp_path / "case.nii", SPACING, 1, mirrored, 1)
    refused(path, "mirror image", "left and right", "Set trust", header_too=True)


def test_b053_placements_that_differ_by_rounding_are_one(tmp_path: Path) -> None:
    read = accepted(with_forms(tmp_path / "case.nii", SPACING * (1 + 1e-7), 1, SPACING, 1))
    assert read.geometry.affine_ras == pytest.approx(SPACING, abs=1e-5)


def test_b054_a_header_without_orientation_is_asked_about(tmp_path: Path) -> None:
    path = with_forms(tmp_path / "case.nii", None, 0, None, 0)
    refused(path, "no orientation", "trust = 'stored'", header_too=True)
    image = accepted(path, options=ReadOptions(trust="stored"))
    assert orientation_of(image.geometry).code == "2D"
    assert orient(image.voxels_czyx, orientation_of(image.geometry)) is not None
    write_mask(tmp_path / "mask.nii", image.voxels_czyx[0], image.header)
    assert (tmp_path / "mask.nii").read_bytes()[252:256] == bytes(4), "and its mask has none either"


def test_b055_a_skewed_grid_is_refused(tmp_path: Path) -> None:
    skewed = SPACING.copy()
    skewed[0, 1] = 0.3
    path = nifti(tmp_path / "case.nii", affine=skewed)
    refused(path, "skewed", "degrees", "Resample", header_too=True)


@pytest.mark.parametrize("slight", [1e-4, 5e-3])
def test_b056_a_slight_skew_is_straightened_and_noted(tmp_path: Path, slight: float) -> None:
    skewed = SPACING.copy()
    skewed[0, 1] = slight
    image = accepted(nifti(tmp_path / "case.nii", affine=skewed), "straightened")
    directions = np.array(image.geometry.direction).reshape(3, 3)
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-12)
    write_mask(tmp_path / "mask.nii", image.voxels_czyx[0], image.header)
    assert np.array_equal(nib.load(tmp_path / "mask.nii").affine, nib.load(tmp_path / "case.nii").affine)


def test_b057_a_singular_sform_is_refused(plain: Path) -> None:
    refused(patched(plain, (280, "12f", *[0.0] * 12)), "singular", header_too=True)
    flat = np.zeros(12)
    flat[[0, 5, 8]] = 0.8, 0.8, 2.5
    refused(patched(plain, (280, "12f", *flat)), "singular", header_too=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_b058_numbers_that_are_not_finite_in_a_placement_are_refused(tmp_path: Path, value: float) -> None:
    for number in (0, 3, 7, 11):
        path = nifti(tmp_path / "sform.nii")
        refused(patched(path, (280 + 4 * number, "f", value)), "not finite", header_too=True)
    for number in (0, 2, 3, 5):
        path = with_forms(tmp_path / "qform.nii", None, 0, SPACING, 1)
        refused(patched(path, (256 + 4 * number, "f", value)), "qform", header_too=True)


def test_b058_numbers_in_a_placement_that_is_not_used_do_not_matter(tmp_path: Path) -> None:
    sound = accepted(nifti(tmp_path / "sound.nii"))
    assert accepted(patched(nifti(tmp_path / "case.nii"), (256, "6f", *[float("nan")] * 6))).geometry == sound.geometry


def test_b059_an_origin_out_of_the_house_is_asked_about(tmp_path: Path) -> None:
    far = SPACING.copy()
    far[:3, 3] = 1e9
    path = nifti(tmp_path / "case.nii", affine=far)
    refused(path, "1e+09", "unusual_geometry = true", header_too=True)
    assert max(accepted(path, options=ReadOptions(unusual_geometry=True)).geometry.origin_xyz_mm) == pytest.approx(1e9)


@pytest.mark.parametrize("degrees", [10, 30, 44.9, 45.0, 45.1, 60])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_b060_oblique_grids_keep_their_geometry_exactly(tmp_path: Path, degrees: float, axis: int) -> None:
    affine = turned(degrees, axis) @ SPACING
    path = nifti(tmp_path / "case.nii", affine=affine)
    image = accepted(path)
    np.testing.assert_allclose(image.geometry.affine_ras, affine, atol=1e-5)
    write_mask(tmp_path / "mask.nii", image.voxels_czyx[0], image.header)
    assert np.array_equal(nib.load(tmp_path / "mask.nii").affine, nib.load(path).affine)
    noisy = nifti(tmp_path / "noisy.nii", affine=turned(degrees + 1e-6, axis) @ SPACING)
    assert orientation_of(accepted(noisy).geometry) == orientation_of(image.geometry), "rounding does not choose the axes"


def test_b062_a_left_handed_grid_is_read(tmp_path: Path) -> None:
    affine = SPACING @ np.diag([-1.0, 1, 1, 1])
    image = accepted(nifti(tmp_path / "case.nii", affine=affine))
    assert orientation_of(image.geometry).code == "LAS"
    left_handed_qform = with_forms(tmp_path / "qform.nii", None, 0, affine, 1)
    np.testing.assert_allclose(accepted(left_handed_qform).geometry.affine_ras, affine, atol=1e-6)


def test_b063_a_plane_of_two_axes_is_a_slice_that_is_never_turned(tmp_path: Path) -> None:
    image = accepted(nifti(tmp_path / "case.nii", array=voxels((6, 5)), affine=SPACING @ np.diag([-1.0, 1, 1, 1])))
    assert image.voxels_czyx.shape == (1, 1, 5, 6)
    assert orientation_of(image.geometry).code == "2D"


def test_b064_a_single_slice_is_read(tmp_path: Path) -> None:
    assert accepted(nifti(tmp_path / "case.nii", array=voxels((6, 5, 1)))).voxels_czyx.shape == (1, 1, 5, 6)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2), (1, 9, 1), (300, 1, 2)])
def test_b065_tiny_volumes_are_read_and_written(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    image = accepted(nifti(tmp_path / "case.nii.gz", array=voxels(shape)))
    write_mask(tmp_path / "mask.nii.gz", image.voxels_czyx[0], image.header)
    assert np.array_equal(read_image(tmp_path / "mask.nii.gz").voxels_czyx, image.voxels_czyx)


def test_b066_extreme_anisotropy_is_read(tmp_path: Path) -> None:
    image = accepted(nifti(tmp_path / "case.nii", affine=np.diag([0.3, 0.3, 12, 1])))
    assert image.geometry.spacing_zyx_mm == pytest.approx((12, 0.3, 0.3))


@pytest.mark.parametrize("tail", [(1,), (1, 1), (1, 1, 1, 1)])
def test_b067_trailing_axes_of_one_are_dropped(tmp_path: Path, tail: tuple[int, ...]) -> None:
    image = accepted(nifti(tmp_path / "case.nii", array=voxels((6, 5, 4, *tail))))
    assert image.voxels_czyx.shape == (1, 4, 5, 6)


def test_b068_several_volumes_where_one_is_expected_are_refused(tmp_path: Path) -> None:
    path = nifti(tmp_path / "case.nii", array=voxels((6, 5, 4, 3)))
    refused(path, "holds 3 volumes", "1 is expected", "Split", options=ReadOptions(channels=1), header_too=True)
    image = accepted(path, "3 volumes in one file", options=ReadOptions(channels=3))
    assert np.array_equal(image.voxels_czyx, voxels((6, 5, 4, 3)).T)


def test_b069_vectors_in_voxels_are_refused(tmp_path: Path) -> None:
    refused(nifti(tmp_path / "case.nii", array=voxels((6, 5, 4, 1, 3))), "5 axes", "Split", header_too=True)


def test_b070_a_volume_beyond_the_budget_is_refused_with_what_it_needs(tmp_path: Path) -> None:
    path = nifti(tmp_path / "case.nii", array=np.zeros((100, 100, 100), np.int16))
    refused(path, "2.00 MB; 1.50 MB are allowed", "--max-ram", options=ReadOptions(max_bytes=1_500_000))
    accepted(path, options=ReadOptions(max_bytes=2_000_000))


def test_a_single_slice_without_its_spacing_is_read(tmp_path: Path) -> None:
    """Many writers leave the spacing across a single slice at zero."""
    path = nifti(tmp_path / "case.nii", array=voxels((6, 5, 1)))
    assert accepted(patched(path, (88, "f", 0.0))).geometry.spacing_zyx_mm == pytest.approx((2.5, 0.8, 0.8))


def test_b052_the_message_is_one_for_the_header_alone(tmp_path: Path) -> None:
    path = with_forms(tmp_path / "case.nii", SPACING, 1, SPACING @ np.diag([-1.0, 1, 1, 1]), 1)
    with pytest.raises(UserError) as by_header:
        read_header(path)
    with pytest.raises(UserError) as by_image:
        read_image(path)
    assert str(by_header.value) == str(by_image.value)


def test_a_form_that_is_trusted_but_not_there_is_refused(tmp_path: Path) -> None:
    path = with_forms(tmp_path / "case.nii", SPACING, 1, None, 0)
    refused(path, "no qform", "trust = 'sform'", options=ReadOptions(trust="qform"), header_too=True)
    data = path.read_bytes()
    assert struct.unpack_from("<2h", data, 252) == (0, 1)
