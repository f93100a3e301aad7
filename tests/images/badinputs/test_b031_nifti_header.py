"""Catalogue B031 to B043: fields of a NIfTI header that lie."""

import struct
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from autounet.images.image import ReadOptions
from autounet.images.read import read_header
from planners.errors import UserError
from tests.images.badinputs.door_seeds import SPACING, accepted, gzipped, nifti, patched, refused, voxels


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return nifti(tmp_path / "case.nii")


@pytest.mark.parametrize("magic", [b"XXXX", b"\0\0\0\0", b"n+2\0", b"\x1b[31"])
def test_b031_a_bad_magic_never_becomes_another_format(plain: Path, magic: bytes) -> None:
    text = refused(patched(plain, (344, "4s", magic)), "magic", header_too=True)
    assert "\x1b" not in text


def test_b031_the_magic_of_a_pair_in_a_single_file_is_explained(plain: Path) -> None:
    refused(patched(plain, (344, "4s", b"ni1\0")), ".hdr/.img pair", header_too=True)


@pytest.mark.parametrize("count", [0, 9, -1, 8])
def test_b032_an_impossible_number_of_axes_is_refused(plain: Path, count: int) -> None:
    refused(patched(plain, (40, "h", count)), f"declares {count} axes", "dim[0]", header_too=True)


@pytest.mark.parametrize(("axis", "size"), [(1, 0), (1, -1), (2, -32768), (3, 0)])
def test_b033_an_axis_without_voxels_is_refused(plain: Path, axis: int, size: int) -> None:
    refused(patched(plain, (40 + 2 * axis, "h", size)), f"{size} voxels along axis {axis}", f"dim[{axis}]", header_too=True)


def test_b034_a_huge_volume_is_refused_with_its_size(plain: Path) -> None:
    refused(patched(plain, (40, "8h", 3, 32767, 32767, 32767, 1, 1, 1, 1)), "32767 x 32767 x 32767 voxels", "70,362.30 GB", header_too=True)


def test_b034_sizes_of_64_bits_do_not_wrap(tmp_path: Path) -> None:
    path = nifti(tmp_path / "case.nii", kind=nib.Nifti2Image)
    refused(patched(path, (16, "8q", 3, 2**32, 2**32, 2**33, 1, 1, 1, 1)), "GB", header_too=True)
    refused(patched(path, (16, "8q", 7, *[2**62] * 7)), header_too=True)


def test_b035_more_voxels_declared_than_held_is_refused(plain: Path, tmp_path: Path) -> None:
    patched(plain, (46, "h", 400))
    refused(plain, "holds 2,992 of 105,952 bytes", header_too=True)
    refused(gzipped(tmp_path / "packed.nii.gz", plain.read_bytes()), "of 105,952 bytes")


def test_b036_fewer_voxels_declared_than_held_is_refused(plain: Path, tmp_path: Path) -> None:
    patched(plain, (46, "h", 5))
    refused(plain, "more data than declared", "1,320 extra bytes", header_too=True)
    refused(gzipped(tmp_path / "packed.nii.gz", plain.read_bytes()), "more data than declared", "1,320 extra bytes")


def test_b037_an_unknown_datatype_is_refused(plain: Path) -> None:
    refused(patched(plain, (70, "h", 9999)), "datatype 9999", header_too=True)


def test_b037_bits_that_do_not_match_the_datatype_are_refused(plain: Path) -> None:
    refused(patched(plain, (72, "h", 8)), "declares 8 bits", "which has 16", header_too=True)


@pytest.mark.parametrize("offset", [0.0, -352.0, 1e9, float("nan"), float("inf"), 353.0, 360.0, 348.0])
def test_b038_voxels_at_an_impossible_place_are_refused(plain: Path, offset: float) -> None:
    refused(patched(plain, (108, "f", offset)), f"byte {offset:g}", "vox_offset", header_too=True)


@pytest.mark.parametrize("size", [0, -16, 2**31 - 1, 8, 17, 48])
def test_b039_an_extension_of_an_impossible_size_is_refused(plain: Path, tmp_path: Path, size: int) -> None:
    data = plain.read_bytes()
    head = data[:348] + b"\1\0\0\0" + struct.pack("<2i", size, 6) + bytes(24) + data[352:]
    plain.write_bytes(head)
    patched(plain, (108, "f", 384.0))
    refused(plain, "header extension", f"{size:,}")
    refused(gzipped(tmp_path / "packed.nii.gz", plain.read_bytes()), "header extension")


def test_b039_extensions_of_possible_sizes_are_skipped_and_dropped(plain: Path) -> None:
    image = nib.load(plain)
    for length in (3, 40, 500):
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"CANARY " * length))
    extended = plain.with_name("extended.nii")
    nib.save(image, extended)
    assert b"CANARY" in extended.read_bytes()
    read = accepted(extended)
    assert np.array_equal(read.voxels_czyx[0], voxels().T)
    assert b"CANARY" not in read.header.stored


@pytest.mark.parametrize("size", [347, 0, -1, 349, 541])
def test_b040_a_wrong_header_size_is_refused(plain: Path, size: int) -> None:
    refused(patched(plain, (0, "i", size)), f"sizeof_hdr) is {size}", header_too=True)


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        (np.complex64, "complex"),
        (np.complex128, "complex"),
        (np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]), "RGB"),
        (np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")]), "RGBA"),
    ],
)
def test_b041_voxels_that_are_no_plain_numbers_are_refused(tmp_path: Path, dtype: Any, kind: str) -> None:
    path = nifti(tmp_path / "case.nii", array=np.zeros((4, 5, 6), dtype))
    refused(path, kind, "Extract one channel", header_too=True)


@pytest.mark.parametrize(("code", "bits", "kind"), [(1, 1, "single bits"), (1536, 128, "128-bit"), (2048, 256, "complex")])
def test_b041_numbers_nobody_else_reads_are_refused(plain: Path, code: int, bits: int, kind: str) -> None:
    refused(patched(plain, (70, "2h", code, bits)), kind, "Extract one channel", header_too=True)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_b042_b043_whole_numbers_of_every_width_stay_as_stored(tmp_path: Path, dtype: Any) -> None:
    limits = np.iinfo(dtype)
    array = np.array([limits.min, limits.max, 0, 1, limits.max // 2, 7], dtype).reshape(1, 2, 3)
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    for suffix in (".nii", ".nii.gz"):
        nib.save(nib.Nifti1Image(array, SPACING, header=header, dtype=dtype), tmp_path / f"case{suffix}")
        image = accepted(tmp_path / f"case{suffix}")
        assert image.voxels_czyx.dtype == dtype
        assert np.array_equal(image.voxels_czyx[0], array.T)


def test_b042_double_precision_becomes_single_within_its_range(tmp_path: Path) -> None:
    array = np.linspace(-1e6, 1e6, 60).reshape(3, 4, 5)
    image = accepted(nifti(tmp_path / "case.nii", array=array))
    assert image.voxels_czyx.dtype == np.float32
    np.testing.assert_allclose(image.voxels_czyx[0], array.T, rtol=1e-7)


def test_one_volume_of_several_can_be_read_alone(tmp_path: Path) -> None:
    array = voxels((5, 4, 3, 6))
    for suffix in (".nii", ".nii.gz"):
        path = nifti(tmp_path / f"case{suffix}", array=array)
        for part in range(6):
            image = accepted(path, options=ReadOptions(part=part))
            assert np.array_equal(image.voxels_czyx, array[..., part].T[None])
        with pytest.raises(UserError, match="no volume number 6, it holds 6"):
            read_header(path, ReadOptions(part=6))
        data = path.read_bytes()
        path.write_bytes(data[:-2])
        for part in (0, 5):
            refused(path, options=ReadOptions(part=part))
