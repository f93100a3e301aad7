"""What leaves the door: the smallest numbers, the same bytes every time, nobody's name, and nothing that was not read back."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL.PngImagePlugin import PngInfo

from autounet.images import write
from autounet.images.geometry import Geometry, geometry_from_affine, picture_geometry
from autounet.images.image import Header, Image
from autounet.images.read import read_header, read_image
from autounet.images.write import write_image, write_mask
from planners.errors import UserError

CANARY = b"CANARY"
AFFINE = np.array([[0.8, 0.1, 0, -7], [-0.1, 0.8, 0, 11], [0, 0, 2.5, 3], [0, 0, 0, 1]])


def array(shape: tuple[int, ...] = (6, 7, 8)) -> NDArray[np.int16]:
    return (np.arange(np.prod(shape)) % 50 + 10).reshape(shape).astype(np.int16)


def canary_nifti(path: Path, kind: Any = nib.Nifti1Image) -> None:
    """Names in every field of the header that is no geometry, and in extensions."""
    image = kind(array(), AFFINE)
    header = image.header
    for field in ("descrip", "aux_file", "intent_name", "db_name", "data_type"):
        if field in header.keys():  # noqa: SIM118 - a structured array, not a dict
            header[field] = CANARY[: header[field].dtype.itemsize]
    header["cal_max"], header["cal_min"], header["toffset"], header["slice_duration"] = 5.5, 4.5, 3.5, 2.5
    header.extensions.append(nib.nifti1.Nifti1Extension("comment", CANARY * 5))
    nib.save(image, path)


def canary_sitk(path: Path) -> None:
    image = sitk.GetImageFromArray(array())
    image.SetSpacing((0.8, 0.9, 2.5))
    for key in ("PatientName", "0010|0010", "Comment", "ITK_FileNotes"):
        image.SetMetaData(key, CANARY.decode())
    sitk.WriteImage(image, str(path))


def canary_metaimage(path: Path) -> None:
    canary_sitk(path)
    data = path.read_bytes()
    path.write_bytes(
        data.replace(b"AnatomicalOrientation = RAI", b"Comment = CANARY\nPatientID = CANARY\nAnatomicalOrientation = CANARY", 1)
    )


def canary_nrrd(path: Path) -> None:
    canary_sitk(path)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"\ntype:", b"\n# CANARY\ncontent: CANARY\nPatient:=CANARY\ntype:", 1))


def canary_gipl(path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(array()), str(path))
    data = bytearray(path.read_bytes())
    data[26:106] = (CANARY * 14)[:80]
    data[106:186] = (CANARY * 14)[:80]
    path.write_bytes(data)


def canary_png(path: Path) -> None:
    info = PngInfo()
    info.add_text("Patient", CANARY.decode())
    exif = Pillow.Exif()
    exif[0x010E] = CANARY.decode()
    Pillow.fromarray(array((20, 30)).astype(np.uint8)).save(path, pnginfo=info, exif=exif)


def canary_tiff(path: Path) -> None:
    Pillow.fromarray(array((20, 30)).astype(np.uint8)).save(path, description=CANARY.decode(), software=CANARY.decode())


PLANTED: dict[str, Callable[[Path], None]] = {
    ".nii": canary_nifti,
    ".nii.gz": canary_nifti,
    ".mha": canary_metaimage,
    ".nrrd": canary_nrrd,
    ".gipl": canary_gipl,
    ".png": canary_png,
    ".tif": canary_tiff,
}


def inflated(path: Path) -> bytes:
    data = path.read_bytes()
    return data + (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else b"")


@pytest.mark.parametrize("suffix", PLANTED)
def test_names_in_a_header_reach_no_output(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"case{suffix}"
    PLANTED[suffix](path)
    assert CANARY in inflated(path), "the name was planted"
    image = read_image(path)
    assert CANARY not in image.header.stored
    assert CANARY.decode() not in repr(image.header) + repr(image.notes) + repr(read_header(path))
    mask = (image.voxels_czyx[0] > 20).astype(np.uint8)
    outputs = [suffix, ".nii", ".nii.gz", ".mha", ".nrrd", ".tif"]
    for out in outputs:
        write_mask(tmp_path / f"mask{out}", mask, image.header)
        assert CANARY not in inflated(tmp_path / f"mask{out}")
        assert np.array_equal(read_image(tmp_path / f"mask{out}").voxels_czyx[0], mask)


def test_nifti_2_headers_hold_no_names_either(tmp_path: Path) -> None:
    canary_nifti(tmp_path / "case.nii", nib.Nifti2Image)
    image = read_image(tmp_path / "case.nii")
    write_mask(tmp_path / "mask.nii", (image.voxels_czyx[0] > 20), image.header)
    assert CANARY not in (tmp_path / "mask.nii").read_bytes()
    assert nib.load(tmp_path / "mask.nii").header["sizeof_hdr"] == 540


def test_every_byte_of_a_masks_header_is_geometry_or_its_own(tmp_path: Path) -> None:
    canary_nifti(tmp_path / "case.nii")
    image = read_image(tmp_path / "case.nii")
    write_mask(tmp_path / "mask.nii", (image.voxels_czyx[0] > 20).astype(np.int64) * 300, image.header)
    before, after = (tmp_path / "case.nii").read_bytes(), (tmp_path / "mask.nii").read_bytes()
    for start, stop in ((0, 4), (39, 40), (76, 108), (123, 124), (252, 256), (256, 280), (280, 328), (344, 348)):
        assert before[start:stop] == after[start:stop], (start, stop)
    own = {"dim": (40, 56), "datatype and bitpix": (70, 74), "vox_offset and scale": (108, 120), "regular": (38, 39)}
    kept = [(0, 4), (39, 40), (76, 108), (123, 124), (252, 328), (344, 348), *own.values()]
    others = set(range(352)) - {i for start, stop in kept for i in range(start, stop)}
    assert not any(after[i] for i in others)
    assert struct.unpack_from("<8h", after, 40) == (3, 6, 7, 8, 1, 1, 1, 1)
    assert struct.unpack_from("<2h", after, 70) == (512, 16)
    assert struct.unpack_from("<3f", after, 108) == (352.0, 1.0, 0.0)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd", ".gipl", ".png", ".tif", ".bmp"])
def test_writing_twice_gives_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    flat = suffix in (".png", ".tif", ".bmp")
    straight = np.diag([-0.8, -0.9, 2.5, 1.0])  # all that GIPL can say
    geometry = picture_geometry((7, 8)) if flat else geometry_from_affine((6, 7, 8), straight if suffix == ".gipl" else AFFINE)
    mask = (array(geometry.shape_zyx) > 30).astype(np.uint8)
    first = write_mask(tmp_path / f"a{suffix}", mask, geometry)
    second = write_mask(tmp_path / "elsewhere" / f"b{suffix}", mask, geometry)
    assert first == second
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / "elsewhere" / f"b{suffix}").read_bytes()


def test_a_mask_that_is_read_back_differently_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = write.read_as

    def worn(*args: Any) -> Image:
        image = real(*args)
        image.voxels_czyx[0, 0, 0, 0] += 1
        return image

    monkeypatch.setattr(write, "read_as", worn)
    with pytest.raises(UserError, match="read back with other voxels"):
        write_mask(tmp_path / "mask.nii.gz", np.zeros((2, 3, 4), np.uint8), geometry_from_affine((2, 3, 4), AFFINE))
    assert not list(tmp_path.iterdir())


def test_a_mask_that_lies_elsewhere_when_read_back_is_not_published(tmp_path: Path) -> None:
    geometry = geometry_from_affine((2, 3, 4), AFFINE)
    moved = geometry_from_affine((2, 3, 4), AFFINE + np.eye(4)[:, [3, 3, 3, 0]] * 0.1)
    path = tmp_path / "case.nii"
    write_image(path, np.zeros((1, 2, 3, 4), np.uint8), geometry)
    wrong = Header(format="nifti", suffix=".nii", geometry=moved, stored=read_header(path).header.stored)
    with pytest.raises(UserError, match="another geometry"):
        write_mask(tmp_path / "mask.nii", np.zeros((2, 3, 4), np.uint8), wrong)
    assert [one.name for one in tmp_path.iterdir()] == ["case.nii"]


def test_a_mask_of_another_shape_or_of_fractions_is_refused(tmp_path: Path) -> None:
    geometry = geometry_from_affine((2, 3, 4), AFFINE)
    with pytest.raises(UserError, match="not on the grid"):
        write_mask(tmp_path / "mask.nii", np.zeros((2, 3, 5), np.uint8), geometry)
    with pytest.raises(UserError, match="no label map"):
        write_mask(tmp_path / "mask.nii", np.zeros((2, 3, 4), np.float32), geometry)
    with pytest.raises(UserError, match="no name under which"):
        write_mask(tmp_path / "mask.xyz", np.zeros((2, 3, 4), np.uint8), geometry)


def test_a_format_that_keeps_no_directions_does_not_pretend_to(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mask\.gipl: GIPL keeps no directions"):
        write_mask(tmp_path / "mask.gipl", np.zeros((2, 3, 4), np.uint8), geometry_from_affine((2, 3, 4), AFFINE))


def test_an_old_mask_survives_a_failed_write(tmp_path: Path) -> None:
    geometry = geometry_from_affine((2, 3, 4), AFFINE)
    write_mask(tmp_path / "mask.nii", np.ones((2, 3, 4), np.uint8), geometry)
    before = (tmp_path / "mask.nii").read_bytes()
    with pytest.raises(UserError):
        write_mask(tmp_path / "mask.nii", -np.ones((2, 3, 4), np.int8), geometry)
    assert (tmp_path / "mask.nii").read_bytes() == before


def test_a_link_in_the_output_folder_is_replaced_and_never_followed(tmp_path: Path) -> None:
    private = tmp_path / "private.txt"
    private.write_text("mine")
    (tmp_path / "mask.nii").symlink_to(private)
    write_mask(tmp_path / "mask.nii", np.ones((2, 3, 4), np.uint8), geometry_from_affine((2, 3, 4), AFFINE))
    assert private.read_text() == "mine"
    assert not (tmp_path / "mask.nii").is_symlink()


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, np.int16, np.int32])
def test_images_of_several_channels_come_back(tmp_path: Path, suffix: str, dtype: Any) -> None:
    voxels = (np.random.default_rng(0).normal(size=(3, 4, 5, 6)) * 50 + 100).astype(dtype)
    geometry = geometry_from_affine((4, 5, 6), AFFINE)
    write_image(tmp_path / f"case{suffix}", voxels, geometry)
    back = read_image(tmp_path / f"case{suffix}")
    np.testing.assert_allclose(back.voxels_czyx, voxels.astype(back.voxels_czyx.dtype))
    assert back.voxels_czyx.shape == voxels.shape
    assert back.geometry.corner_distance_mm(geometry) < 1e-3
    theirs = sitk.ReadImage(str(tmp_path / f"case{suffix}"))
    first = sitk.GetArrayFromImage(theirs)[0] if suffix.startswith(".nii") else sitk.GetArrayFromImage(theirs)[..., 0]
    assert np.array_equal(first, back.voxels_czyx[0])


def test_a_mask_larger_than_nifti_1_allows_is_nifti_2(tmp_path: Path) -> None:
    geometry = Geometry(
        shape_zyx=(1, 2, 40_000),
        spacing_zyx_mm=(1.0, 1.0, 1.0),
        origin_xyz_mm=(0.0, 0.0, 0.0),
        direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
    )
    write_mask(tmp_path / "mask.nii", np.ones(geometry.shape_zyx, np.uint8), geometry)
    assert nib.load(tmp_path / "mask.nii").shape == (40_000, 2, 1)


def test_a_channel_of_four_dimensional_input_gives_a_mask_of_three(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(array((6, 7, 8, 3)), AFFINE), tmp_path / "case.nii.gz")
    image = read_image(tmp_path / "case.nii.gz")
    write_mask(tmp_path / "mask.nii.gz", (image.voxels_czyx[0] > 20), image.header)
    mask = nib.load(tmp_path / "mask.nii.gz")
    assert mask.shape == (6, 7, 8)
    assert np.array_equal(mask.affine, nib.load(tmp_path / "case.nii.gz").affine)
