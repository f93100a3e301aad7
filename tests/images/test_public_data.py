"""Real files, odd and plain: read as an independent reader reads them, or refused with a clear sentence."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from autounet.images.formats import format_of
from autounet.images.image import ReadOptions
from autounet.images.read import read_header, read_image
from autounet.images.write import write_mask
from planners.errors import UserError

# Read by us and by SimpleITK with the same result; everything else in the folders of odd files is refused below.
READABLE = (
    "elastix/2DMRI-T1_brain.mha",
    "elastix/3DCT_lung_baseline_small.mha",
    "elastix/2D_2x2_square_object_at_(1,3).mhd",
    "mirp_misc/orientation/image/orientation.nii.gz",
    "nibabel/anatomical.nii",
    "nibabel/reoriented_anat_moved.nii",
    "nibabel/standard.nii.gz",
    "panimg/image10x10x10.mha",
    "panimg/image10x10x10.mhd",
    "panimg/image5x6x7.mhd",
    "panimg/image_min10_max10.mha",
    "panimg/nifti/image10x11x12.nii",
    "panimg/nifti/image10x11x12.nii.gz",
    "panimg/nrrd/image10x11x12.nrrd",
    "panimg/nrrd/image10x11x12_compressed.nrrd",
    "panimg/segments/-10_10_Int8.mha",
    "panimg/test_grayscale.png",
    "panimg/test_rgb.png",
)
REFUSED = {
    "nibabel/analyze.hdr": "no .img beside it",
    "nibabel/resampled_anat_moved.nii": "153 voxels that are NaN",
    "nibabel/row_major.dconn.nii": "no orientation",
    "nibabel/test.mgz": "mri_convert",
    "nibabel/tiny.mnc": "mnc2nii",
    "nibabel/phantom_varscale.PAR": "dcm2niix",
    "nibabel/scaled+tlrc.BRIK": "3dAFNItoNIFTI",
    "nibabel/siemens_dwi_0.dcm.gz": "gunzip",
    "panimg/corrupt.png": "not the PNG picture",
    "panimg/image4x4x4x4x4.mha": "5 axes",
    "panimg/image3x4-extra-stuff.mhd": "of its own stem",
    "panimg/referring_to_system_file.mhd": "/trying/to/get/a/system/file.conf",
    "panimg/invalid_utf8.mhd": "of its own stem",
    "panimg/nrrd/image10x11x12.nhdr": "another file",
    "panimg/valid_tiff.tif": "pages",
    "panimg/no_image": "no known image format",
}


@pytest.mark.parametrize("name", READABLE)
def test_odd_files_are_read_as_simpleitk_reads_them(public_data: Path, name: str) -> None:
    path = public_data / "odd_files" / name
    if not path.exists():
        pytest.skip("this file is not here")
    image = read_image(path)
    theirs = sitk.ReadImage(str(path))
    expected = sitk.GetArrayFromImage(theirs)
    if theirs.GetNumberOfComponentsPerPixel() > 1:
        expected = np.moveaxis(expected, -1, 0)
    assert np.array_equal(image.voxels_czyx.reshape(expected.shape), expected.astype(image.voxels_czyx.dtype))
    if not image.geometry.flat:
        for corner in ((0, 0, 0), tuple(n - 1 for n in theirs.GetSize())):
            place = np.array(theirs.TransformIndexToPhysicalPoint(corner)) * [-1, -1, 1]
            np.testing.assert_allclose(image.geometry.world_mm(np.array(corner)), place, atol=1e-3)


@pytest.mark.parametrize("name", REFUSED)
def test_odd_files_are_refused_with_their_reason(public_data: Path, name: str) -> None:
    path = public_data / "odd_files" / name
    if not path.exists():
        pytest.skip("this file is not here")
    with pytest.raises(UserError) as caught:
        read_image(path)
    assert path.name in str(caught.value)
    assert REFUSED[name] in str(caught.value)
    assert caught.value.fix


def test_every_odd_file_is_read_or_refused_and_nothing_else(public_data: Path) -> None:
    seen = 0
    for path in sorted((public_data / "odd_files").rglob("*")):
        if path.is_file():
            seen += _read_or_refuse(path)
    assert seen > 50


def _read_or_refuse(path: Path) -> int:
    try:
        info, image = read_header(path), read_image(path)
    except UserError as error:
        sentence = str(error)
    else:
        assert info.geometry == image.geometry
        assert np.isfinite(image.voxels_czyx).all()
        return 1
    assert path.name in sentence
    return 1


def test_spinal_cords_with_their_odd_headers_are_read_and_masks_fit_bit_for_bit(public_data: Path, tmp_path: Path) -> None:
    files = sorted((public_data / "spinalcord_sct").rglob("*.nii.gz"))
    assert len(files) == 10
    for path in files:
        image, theirs = read_image(path), nib.load(path)
        assert np.array_equal(image.voxels_czyx[0].T, np.asarray(theirs.dataobj))
        np.testing.assert_allclose(image.geometry.affine_ras, theirs.affine, atol=1e-3)
        write_mask(tmp_path / "mask.nii.gz", (image.voxels_czyx[0] > image.voxels_czyx.mean()), image.header)
        assert np.array_equal(nib.load(tmp_path / "mask.nii.gz").affine, theirs.affine)
        assert read_header(tmp_path / "mask.nii.gz").geometry == image.geometry


@pytest.mark.parametrize("folder", ["hippocampus_msd", "sts_sarcoma", "totalseg_example", "brats2013_flair_t1c", "kits19_labels_only"])
def test_headers_of_the_public_volumes_agree_with_nibabel(public_data: Path, folder: str) -> None:
    for path in sorted((public_data / folder).rglob("*.nii.gz")):
        info, theirs = read_header(path), nib.load(path)
        assert info.geometry.shape_zyx == theirs.shape[:3][::-1]
        np.testing.assert_allclose(info.geometry.affine_ras, theirs.affine, atol=1e-3)
        assert (info.dtype.kind == "f") == (
            theirs.get_data_dtype().kind == "f" or theirs.header.get_slope_inter() not in ((None, None), (1.0, 0.0))
        )


def test_pictures_of_every_public_dataset_are_read(public_data: Path) -> None:
    channels = set()
    for folder in ("dsb2018_nuclei", "isbi2012_em", "axon_sem", "sunnybrook_lv_2d"):
        for path in sorted((public_data / folder).rglob("*"))[:40]:
            if path.is_file() and format_of(path) in ("png", "jpeg", "tiff", "bmp"):
                channels.add(len(read_image(path).voxels_czyx))
    assert channels == {1, 3}
    gray = next(path for path in sorted((public_data / "sunnybrook_lv_2d").rglob("*")) if format_of(path) == "png")
    assert len(read_image(gray, ReadOptions(channels=1)).voxels_czyx) == 1
