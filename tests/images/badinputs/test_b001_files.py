"""Catalogue B001 to B030: what lies under the name of an image."""

import gzip
import os
import socket
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813

from autounet.images.formats import format_of, sniff
from autounet.images.image import ReadOptions
from autounet.images.read import read_header, read_image
from planners.errors import UserError
from tests.images.badinputs.door_seeds import SPACING, accepted, nifti, patched, refused, voxels


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return nifti(tmp_path / "case.nii")


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    return nifti(tmp_path / "case.nii.gz")


def test_b001_an_empty_file_is_refused(tmp_path: Path) -> None:
    for name in ("a.nii", "a.nii.gz", "a.mha", "a.nrrd", "a.png", "a.gipl"):
        path = tmp_path / name
        path.write_bytes(b"")
        refused(path, "0 bytes", header_too=True)


def test_b002_a_plain_file_cut_in_its_data_is_refused_with_both_sizes(plain: Path) -> None:
    whole = plain.read_bytes()
    plain.write_bytes(whole[:-500])
    refused(plain, f"holds {len(whole) - 500:,} of {len(whole):,} bytes")


def test_b003_a_packed_file_cut_in_half_is_refused(packed: Path) -> None:
    packed.write_bytes(packed.read_bytes()[: packed.stat().st_size // 2])
    refused(packed, "cut")


@pytest.mark.parametrize("missing", [1, 4, 8])
def test_b004_a_packed_file_without_its_checksum_is_refused(packed: Path, missing: int) -> None:
    packed.write_bytes(packed.read_bytes()[:-missing])
    refused(packed, "cut")


@pytest.mark.parametrize("byte", [-6, -2])
def test_b005_a_wrong_checksum_or_length_is_refused(packed: Path, byte: int) -> None:
    data = bytearray(packed.read_bytes())
    data[byte] ^= 255
    packed.write_bytes(data)
    refused(packed, "damaged", "checksum")


def test_b006_one_flipped_byte_anywhere_in_the_body_is_refused(packed: Path) -> None:
    whole = packed.read_bytes()
    for position in range(20, len(whole) - 8, 7):
        data = bytearray(whole)
        data[position] ^= 0x55
        packed.write_bytes(data)
        with pytest.raises(UserError, match=r"case\.nii\.gz"):
            read_image(packed)


def test_b007_bytes_behind_the_compressed_data_are_refused_and_counted(packed: Path) -> None:
    packed.write_bytes(packed.read_bytes() + b"garbage!")
    refused(packed, "8 extra bytes")


def test_b008_several_gzip_members_are_one_file(plain: Path, tmp_path: Path) -> None:
    data = plain.read_bytes()
    joined = tmp_path / "joined.nii.gz"
    for cut in (5, 352, 1001, len(data) - 1):
        joined.write_bytes(gzip.compress(data[:cut]) + gzip.compress(b"") + gzip.compress(data[cut:]))
        assert np.array_equal(accepted(joined).voxels_czyx, read_image(plain).voxels_czyx)


def test_b009_a_plain_file_named_gz_is_refused_with_its_right_name(plain: Path) -> None:
    refused(plain.rename(plain.with_name("case.nii.gz")), "plain NIfTI", "Rename it to .nii")


def test_b010_a_packed_file_named_nii_is_refused_with_its_right_name(packed: Path) -> None:
    refused(packed.rename(packed.with_name("case.nii")), "gzip", "Rename it to .nii.gz")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"\n <html><head></head></html>" + b" " * 600, "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git-LFS pointer"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML"),
    ],
)
def test_b011_a_web_page_or_pointer_under_an_images_name_is_called_so(tmp_path: Path, text: bytes, kind: str) -> None:
    for name in ("case.nii.gz", "case.nii", "case.mha", "case.nrrd", "case.png", "case.gipl"):
        path = tmp_path / name
        path.write_bytes(text)
        refused(path, kind, header_too=True)


def test_b012_a_dicom_file_under_another_name_is_never_read_as_dicom(tmp_path: Path) -> None:
    source = pydicom.Dataset()
    source.PatientName = "CANARY^NAME"
    source.file_meta = pydicom.dataset.FileMetaDataset()
    source.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    source.SOPClassUID, source.SOPInstanceUID = pydicom.uid.CTImageStorage, pydicom.uid.generate_uid()
    for name in ("case.nii.gz", "case.nii", "case.mha", "case.nrrd", "case.png", "case.gipl", "case.tif"):
        path = tmp_path / name
        source.save_as(path, enforce_file_format=True)
        assert "CANARY" not in refused(path, "a DICOM file", header_too=True)


@pytest.mark.parametrize("size", [4, 200, 348, 351])
def test_b013_a_header_without_voxels_is_refused(plain: Path, size: int) -> None:
    plain.write_bytes(plain.read_bytes()[:size])
    refused(plain, f"{size}", header_too=True)


def bomb(path: Path, shape: tuple[int, int, int], mib: int) -> Path:
    header = nib.Nifti1Image(np.zeros((1, 1, 1), np.uint8), SPACING).header
    header.set_data_shape(shape)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    with gzip.open(path, "wb", compresslevel=9) as file:
        file.write(header.binaryblock + bytes(4))
        for _ in range(mib):
            file.write(bytes(1 << 20))
    return path


def test_b014_an_honest_gzip_bomb_is_refused_by_its_budget_before_it_is_inflated(tmp_path: Path) -> None:
    path = bomb(tmp_path / "bomb.nii.gz", (1024, 1024, 64), 64)
    assert read_header(path).voxel_bytes == 64 << 20
    refused(path, "67.11 MB; 33.55 MB are allowed", "--max-ram", options=ReadOptions(max_bytes=32 << 20))
    assert not read_image(path, max_bytes=64 << 20).voxels_czyx.any()


def test_b015_a_gzip_bomb_behind_a_small_header_stops_at_what_was_declared(tmp_path: Path) -> None:
    refused(bomb(tmp_path / "bomb.nii.gz", (16, 16, 16), 64), "more data than declared")


@(
    pytest.mark.timeout(10)
    if False
    else pytest.mark.parametrize("name", ["case_0000.nii.gz", "case.mha", "case.png", "case.nrrd", "case.gipl"])
)
def test_b016_special_files_are_refused_at_once(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    os.mkfifo(path)
    refused(path, "FIFO", header_too=True)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        refused(path, "socket", header_too=True)
    path.unlink()
    path.symlink_to("/dev/zero")
    refused(path, "device", header_too=True)


def test_b016_a_folder_named_like_an_image_is_no_image(tmp_path: Path) -> None:
    folder = tmp_path / "case.nii.gz"
    folder.mkdir()
    refused(folder, "no DICOM image")


def test_b017_links_that_lead_nowhere_or_in_circles_are_refused(tmp_path: Path) -> None:
    dangling, loop = tmp_path / "dangling.nii", tmp_path / "loop.nii"
    dangling.symlink_to(tmp_path / "gone.nii")
    loop.symlink_to(loop)
    refused(dangling, "link to a file that is not there")
    refused(loop, "link that leads to itself")


def test_b017_a_link_out_of_the_root_needs_the_users_word(tmp_path: Path) -> None:
    root = tmp_path / "dataset"
    (root / "images").mkdir(parents=True)
    outside, inside = nifti(tmp_path / "private.nii"), nifti(root / "real.nii")
    link, local = root / "images" / "case.nii", root / "images" / "local.nii"
    link.symlink_to(outside)
    local.symlink_to(inside)
    refused(link, "leaves the folder", "follow_symlinks = true", options=ReadOptions(root=root))
    accepted(link, options=ReadOptions(root=root, follow_outside=True))
    accepted(local, options=ReadOptions(root=root))


def test_b017_a_link_swapped_between_check_and_use_leads_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "dataset"
    root.mkdir()
    private, real, link = nifti(tmp_path / "private.nii"), nifti(root / "real.nii"), root / "case.nii"
    link.symlink_to(real)
    open_file = os.open

    def swapped(path: str, flags: int, *rest: int) -> int:
        real.unlink()
        real.symlink_to(private)
        return open_file(path, flags, *rest)

    monkeypatch.setattr("autounet.images.source.os.open", swapped)
    refused(link, options=ReadOptions(root=root))


def test_t24_t45_a_message_holds_no_folder_and_no_control_character(tmp_path: Path) -> None:
    folder = tmp_path / "Doe_Jane"
    folder.mkdir()
    for name in ("a\x1b[31mred.nii", "b\nc.nii", "d\u202egnp.nii", "e" * 240 + ".nii"):
        path = folder / name
        path.write_bytes(b"")
        with pytest.raises(UserError) as caught:
            read_image(path)
        text = str(caught.value)
        assert text.isprintable()
        assert "Doe_Jane" not in text
        assert len(text) < 400


def test_b018_a_file_without_permission_names_the_user_and_the_mode(plain: Path) -> None:
    plain.chmod(0)
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    refused(plain, "mode 000")


def test_b018_a_denied_open_names_the_user_and_the_mode(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    plain.chmod(0o240)
    monkeypatch.setattr("autounet.images.source.os.open", denied)
    text = refused(plain, "mode 240")
    assert "user " in text


def test_b019_a_file_that_vanished_is_an_error_of_its_case(plain: Path) -> None:
    plain.unlink()
    refused(plain, "not there (any more)", "drop the case", header_too=True)


def test_b022_a_pair_is_read_and_half_a_pair_is_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(voxels(), SPACING), tmp_path / "case.img")
    for name in ("case.hdr", "case.img"):
        assert np.array_equal(accepted(tmp_path / name).voxels_czyx[0], voxels().T)
    (tmp_path / "case.hdr").unlink()
    refused(tmp_path / "case.img", "has no .hdr beside it", header_too=True)
    nib.save(nib.Nifti1Pair(voxels(), SPACING), tmp_path / "other.img")
    (tmp_path / "other.img").unlink()
    refused(tmp_path / "other.hdr", "has no .img beside it", header_too=True)


def test_b022_a_pair_never_leads_to_another_folder(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    nib.save(nib.Nifti1Pair(voxels(), SPACING), tmp_path / "root" / "case.img")
    (tmp_path / "root" / "case.img").rename(tmp_path / "case.img")
    (tmp_path / "root" / "case.img").symlink_to(tmp_path / "case.img")
    with pytest.raises(UserError, match="leaves the folder"):
        read_image(tmp_path / "root" / "case.hdr", ReadOptions(root=tmp_path / "root"))


def test_b023_nifti_2_and_big_endian_files_hold_the_same_bits(tmp_path: Path) -> None:
    expected = voxels().T
    two = accepted(nifti(tmp_path / "two.nii", kind=nib.Nifti2Image))
    big = nib.Nifti1Image(voxels(), SPACING, header=nib.Nifti1Header(endianness=">"), dtype=">i2")
    nib.save(big, tmp_path / "big.nii.gz")
    swapped = accepted(tmp_path / "big.nii.gz")
    for image in (two, swapped):
        assert np.array_equal(image.voxels_czyx[0], expected)
        assert image.voxels_czyx.dtype == np.int16
        assert image.voxels_czyx.dtype.isnative
    assert (tmp_path / "big.nii.gz").read_bytes()[:2] == b"\x1f\x8b"
    assert struct.unpack(">i", gzip.decompress((tmp_path / "big.nii.gz").read_bytes())[:4])[0] == 348


def test_b023_analyze_without_orientation_is_asked_about(tmp_path: Path) -> None:
    nib.save(nib.AnalyzeImage(voxels(), SPACING), tmp_path / "old.img")
    refused(tmp_path / "old.hdr", "no orientation", "trust = 'stored'", header_too=True)
    image = accepted(tmp_path / "old.hdr", options=ReadOptions(trust="stored"))
    assert image.geometry.flat
    assert image.geometry.spacing_zyx_mm == pytest.approx((2.5, 0.8, 0.8))
    assert np.array_equal(image.voxels_czyx[0], voxels().T)


def metaimage(path: Path, data_file: str, **fields: str) -> Path:
    lines = {"ObjectType": "Image", "NDims": "3", "DimSize": "10 10 10", "ElementSpacing": "1 1 1", "ElementType": "MET_UCHAR"}
    text = "".join(f"{key} = {value}\n" for key, value in (lines | fields).items())
    path.write_bytes(f"{text}ElementDataFile = {data_file}\n".encode())
    return path


@pytest.mark.parametrize(
    "target", ["../secret.raw", "/etc/hostname", "LIST", "secret_%03d.raw 1 10 1", r"\\server\share\x.raw", "secret.raw", "./case.raw"]
)
def test_b024_a_metaimage_opens_no_other_file(tmp_path: Path, target: str) -> None:
    (tmp_path / "secret.raw").write_bytes(bytes(range(200)) * 5)
    refused(metaimage(tmp_path / "case.mha", target), "ElementDataFile", header_too=True)
    refused(metaimage(tmp_path / "case.mhd", target), "ElementDataFile", header_too=True)


def test_b024_a_metaimage_header_may_have_its_own_raw_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "case.raw").write_bytes(bytes(range(200)) * 5)
    image = accepted(metaimage(tmp_path / "case.mhd", "case.raw"))
    assert image.voxels_czyx[0, 0, 0, :5].tolist() == [0, 1, 2, 3, 4]
    (tmp_path / "case.raw").write_bytes(bytes(999))
    with pytest.raises(UserError, match=r"holds 999 of 1,000 bytes"):
        read_image(tmp_path / "case.mhd")


@pytest.mark.parametrize(
    "line", ["data file: secret.raw", "data file: /etc/hostname", "datafile: ../x.raw", "data file: x%03d.raw 1 10 1", "data file: LIST"]
)
def test_b025_a_detached_nrrd_is_refused(tmp_path: Path, line: str) -> None:
    text = f"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 10 10 10\nencoding: raw\n{line}\n\n"
    for name in ("case.nrrd", "case.nhdr"):
        (tmp_path / name).write_bytes(text.encode() + bytes(1000))
        refused(tmp_path / name, "data file", header_too=True)


def test_b026_a_flipped_byte_in_compressed_voxels_is_refused(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 60, (10, 11, 12)).astype(np.int16))
    for suffix in (".mha", ".nrrd"):
        path = tmp_path / f"case{suffix}"
        sitk.WriteImage(image, str(path), useCompression=True)
        accepted(path)
        whole = path.read_bytes()
        for position in range(len(whole) - 900, len(whole), 89):
            data = bytearray(whole)
            data[position] ^= 0x55
            path.write_bytes(data)
            with pytest.raises(UserError, match=path.name):
                read_image(path)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", [".mha", ".nrrd", ".gipl"])
def test_b027_a_cut_file_of_another_format_is_refused(tmp_path: Path, suffix: str, compressed: bool) -> None:
    path = tmp_path / f"case{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 60, (10, 11, 12)).astype(np.int16)), str(path), compressed)
    whole = path.read_bytes()
    for lost in (1, 100, 500):
        path.write_bytes(whole[:-lost])
        refused(path, "cut")
    path.write_bytes(whole + b"12345678")
    with pytest.raises(UserError, match=path.name):
        read_image(path)


def test_b028_an_unknown_suffix_lists_what_is_supported(tmp_path: Path) -> None:
    path = tmp_path / "case.xyz"
    path.write_bytes(b"1234")
    refused(path, ".nii.gz", ".mha", ".nrrd", "DICOM", header_too=True)
    assert format_of(path) is None


def test_b029_formats_are_told_by_name_and_content_together(tmp_path: Path) -> None:
    array = np.zeros((3, 4, 5), np.uint8)
    array[1, 2, 3] = 1
    for suffix, form in ((".nii", "nifti"), (".nii.gz", "nifti"), (".mha", "metaimage"), (".nrrd", "nrrd"), (".gipl", "gipl")):
        path = tmp_path / f"case{suffix}"
        sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
        assert sniff(path) == form
        assert np.array_equal(read_image(path).voxels_czyx[0], array)
        for other in (".png", ".mha", ".nrrd", ".gipl", ".nii"):
            wrong = tmp_path / f"wrong{other}"
            wrong.write_bytes(path.read_bytes())
            if other != suffix:
                refused_by_sniff(wrong)


def refused_by_sniff(path: Path) -> None:
    with pytest.raises(UserError, match="wrong"):
        sniff(path)


def test_b030_voxels_beyond_four_gibibytes_are_found_where_they_are(tmp_path: Path) -> None:
    """A sparse file of five gigabytes: its last volume lies behind the 32-bit boundary, and is read alone."""
    path = nifti(tmp_path / "large.nii", array=np.zeros((4, 4, 4, 2), np.uint8))
    shape = (1024, 1024, 1, 4800)
    patched(path, (40, "8h", 4, *shape, 1, 1, 1))
    size = 352 + int(np.prod(shape))
    with path.open("r+b") as file:
        file.truncate(size)
        file.seek(size - 3)
        file.write(b"\x01\x02\x03")
    assert size > 2**32
    image = read_image(path, ReadOptions(part=4799, max_bytes=8 << 30))
    assert image.voxels_czyx.shape == (1, 1, 1024, 1024)
    assert image.voxels_czyx[0, 0, -1, -4:].tolist() == [0, 1, 2, 3]
    with path.open("r+b") as file:
        file.truncate(size - 1)
    with pytest.raises(UserError, match=f"holds {size - 1:,} of {size:,} bytes"):
        read_header(path, ReadOptions(max_bytes=8 << 30))
