"""Catalogue B078 to B092 and B104: values. (B085, B089 to B091 compare cases; they belong to the check of datasets.)"""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from autounet.images.geometry import picture_geometry
from autounet.images.image import ReadOptions
from autounet.images.read import read_header, read_image
from autounet.images.write import write_mask
from planners.errors import UserError
from tests.images.badinputs.door_seeds import SPACING, accepted, nifti, patched, refused, voxels


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd"])
def test_b078_b079_values_that_are_not_finite_are_refused_or_filled(tmp_path: Path, value: float, suffix: str) -> None:
    array = voxels(dtype=np.float32)
    array[3, 2, 1] = array[5, 4, 9] = value
    path = tmp_path / f"case{suffix}"
    if suffix.startswith(".nii"):
        nifti(path, array=array)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(array.T.copy()), str(path))
    refused(path, "2 voxels", f"{value}", "x=3, y=2, z=1", "fill_nonfinite = ")
    image = accepted(path, "2 voxels that were NaN or infinite became -7", options=ReadOptions(fill_nonfinite=-7.0))
    assert (image.voxels_czyx == -7).sum() == 2
    assert image.voxels_czyx[0, 1, 2, 3] == -7


def test_b078_infinity_by_scaling_is_found(tmp_path: Path) -> None:
    path = nifti(tmp_path / "case.nii", array=np.full((3, 3, 3), 3e38, np.float64))
    refused(patched(path, (112, "2f", 100.0, 0.0)), "3e+40", "single precision")


@pytest.mark.parametrize(("value", "dtype"), [(0, np.int16), (0.0, np.float32), (-5, np.int16)])
def test_b080_b081_a_constant_image_is_read_and_noted(tmp_path: Path, value: float, dtype: Any) -> None:
    accepted(nifti(tmp_path / "case.nii", array=np.full((4, 5, 6), value, dtype)), f"every voxel is {value:g}")


def test_b082_a_slope_of_zero_means_unscaled_whatever_the_intercept(tmp_path: Path) -> None:
    path = patched(nifti(tmp_path / "case.nii"), (112, "2f", 0.0, 5.0))
    image = accepted(path)
    assert image.voxels_czyx.dtype == np.int16
    assert np.array_equal(image.voxels_czyx[0], voxels().T)


def test_b083_a_slope_of_nan_means_unscaled_and_infinity_is_refused(tmp_path: Path) -> None:
    path = patched(nifti(tmp_path / "case.nii"), (112, "2f", float("nan"), float("nan")))
    assert np.array_equal(accepted(path).voxels_czyx[0], voxels().T)
    for slope, intercept in ((float("inf"), 0.0), (1.0, float("inf")), (2.0, float("nan"))):
        refused(patched(path, (112, "2f", slope, intercept)), "scl_slope", header_too=True)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_b084_slope_and_intercept_are_applied_once(tmp_path: Path, suffix: str) -> None:
    image = nib.Nifti1Image(voxels(), SPACING)
    image.header.set_slope_inter(2, -1024)  # nibabel writes these, and whole numbers unchanged
    nib.save(image, tmp_path / f"case{suffix}")
    read = accepted(tmp_path / f"case{suffix}")
    assert read.voxels_czyx.dtype == np.float32
    assert np.array_equal(read.voxels_czyx[0], voxels().T * 2.0 - 1024)
    assert np.array_equal(read.voxels_czyx[0].T, nib.load(tmp_path / f"case{suffix}").get_fdata())
    write_mask(tmp_path / "mask.nii", (read.voxels_czyx[0] > -900).astype(np.uint8), read.header)
    back = nib.load(tmp_path / "mask.nii")
    assert set(np.unique(back.get_fdata())) == {0.0, 1.0}, "the mask does not inherit the scale of its image"


@pytest.mark.parametrize("padding", [-2000, -3024, -32768])
def test_b086_padding_of_a_ct_is_noted(tmp_path: Path, padding: int) -> None:
    array = voxels()
    array[0] = padding
    accepted(nifti(tmp_path / "case.nii", array=array), "padding")


def test_b087_values_single_precision_cannot_hold_are_refused(tmp_path: Path) -> None:
    array = voxels(dtype=np.float64)
    array[1, 1, 1] = 1e30
    assert accepted(nifti(tmp_path / "case.nii", array=array)).voxels_czyx.max() == np.float32(1e30)
    array[1, 1, 1] = -1e300
    refused(nifti(tmp_path / "case.nii", array=array), "-1e+300", "Rescale")


def test_b088_unsigned_values_above_the_signed_range_do_not_wrap(tmp_path: Path) -> None:
    array = np.array([40000, 65535, 0, 32768], np.uint16).reshape(2, 2, 1)
    assert accepted(nifti(tmp_path / "case.nii", array=array)).voxels_czyx.max() == 65535


def test_b092_outliers_are_kept(tmp_path: Path) -> None:
    array = voxels(dtype=np.float32)
    array[0, 0, 0] = 1e5
    assert accepted(nifti(tmp_path / "case.nii", array=array)).voxels_czyx.max() == 1e5


@pytest.mark.parametrize(("highest", "dtype"), [(1, np.uint8), (255, np.uint8), (300, np.uint16), (65535, np.uint16), (70000, np.uint32)])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd"])
def test_b104_a_mask_is_wide_enough_for_its_values(tmp_path: Path, highest: int, dtype: Any, suffix: str) -> None:
    image = read_image(nifti(tmp_path / "case.nii"))
    mask = np.zeros(image.geometry.shape_zyx, np.int64)
    mask[2:4, 3:5, 4:6] = highest
    write_mask(tmp_path / f"mask{suffix}", mask, image.header)
    back = read_image(tmp_path / f"mask{suffix}").voxels_czyx[0]
    assert back.dtype == dtype
    assert np.array_equal(back, mask)


def test_b104_a_mask_no_picture_can_hold_is_refused(tmp_path: Path) -> None:
    mask = np.array([[[0, 70000]]])
    with pytest.raises(UserError, match=r"mask\.png cannot hold"):
        write_mask(tmp_path / "mask.png", mask, picture_geometry((1, 2)))
    with pytest.raises(UserError, match="negative value -1"):
        write_mask(tmp_path / "mask.nii", -mask[:, :, ::-1] // 70000, picture_geometry((1, 2)))
    assert not list(tmp_path.iterdir())


def test_the_type_a_header_promises_is_the_type_that_comes(tmp_path: Path) -> None:
    path = patched(nifti(tmp_path / "case.nii"), (112, "2f", 1.0, -1024.0))
    assert read_header(path).dtype == read_image(path).voxels_czyx.dtype == np.float32
