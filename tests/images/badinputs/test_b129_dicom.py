"""Catalogue B129 to B154: DICOM series that are not what they seem."""

import builtins
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.sequence import Sequence
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from autounet.images.dicom import find_series, read_dicom_series
from autounet.images.image import Image, ReadOptions
from autounet.images.orientation import orient, orient_geometry, orientation_of
from autounet.images.read import read_header, read_image
from autounet.images.write import write_mask
from planners.errors import UserError
from tests.images.badinputs.dicom_seeds import CANARY, SERIES, edit, new_uid, pixels, plane, save, series
from tests.images.badinputs.door_seeds import accepted, refused


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return series(tmp_path / "ct")


def test_a_good_series_is_a_volume_where_its_headers_say(folder: Path) -> None:
    image = accepted(folder)
    assert image.voxels_czyx.dtype == np.float32
    assert np.array_equal(image.voxels_czyx[0], np.stack([pixels(i) for i in range(6)]) - 1024.0)
    assert image.geometry.spacing_zyx_mm == pytest.approx((2.0, 0.7, 0.9))
    assert image.geometry.origin_xyz_mm == pytest.approx((10, 20, 0)), "left and back become right and front"
    assert orientation_of(image.geometry).code == "LPS"
    assert image.header.suffix == ".nii.gz"


def test_b129_a_missing_slice_is_refused_with_its_place(folder: Path) -> None:
    (folder / "slice_03.dcm").unlink()
    refused(folder, "1 slice is missing between slice_02.dcm at 4.00 mm and slice_04.dcm at 8.00 mm", header_too=True)


def test_b130_two_slices_at_one_place_are_refused_by_name(folder: Path) -> None:
    save(folder, plane(2, SOPInstanceUID=new_uid()), names=["copy.dcm"])
    refused(folder, "copy.dcm and slice_02.dcm lie at the same position (4.00 mm)", "Remove", header_too=True)


def test_b131_a_localizer_in_the_series_is_left_out_and_noted(folder: Path) -> None:
    scout = plane(9, z=5.0, ImageOrientationPatient=[0, 1, 0, 0, 0, -1], rows=16, columns=20)
    save(folder, scout, names=["000_scout.dcm"])
    image = accepted(folder, "1 localizer images of another direction were left out")
    assert image.voxels_czyx.shape == (1, 6, 8, 10)
    assert image.geometry.spacing_zyx_mm[0] == pytest.approx(2.0)


def test_b131_a_series_of_three_directions_is_refused(tmp_path: Path) -> None:
    planes = [plane(i, z=3.0 * i) for i in range(3)] + [
        plane(i, z=3.0 * i, ImageOrientationPatient=[0, 1, 0, 0, 0, -1]) for i in range(3, 6)
    ]
    refused(save(tmp_path / "mr", *planes), "slices of 2 directions", "own folder", header_too=True)


def test_b132_a_tilted_gantry_is_asked_about_and_can_be_straightened(tmp_path: Path) -> None:
    # A ball of 9 mm radius at (0, 4.2, 20) in a stack whose slices shift by 0.3 mm to the back per mm upwards.
    planes = []
    for index in range(21):
        z = 2.0 * index
        shift = 0.3 * z
        y, x = np.mgrid[:60, :60] * 0.7
        inside = (x - 20) ** 2 + (y + shift - 27) ** 2 + (z - 20) ** 2 < 81
        data = (inside * 1000).astype(np.uint16)
        planes.append(
            plane(
                index,
                rows=60,
                columns=60,
                PixelSpacing=[0.7, 0.7],
                ImagePositionPatient=[0, shift, z],
                PixelData=data.tobytes(),
                RescaleIntercept=0,
            )
        )
    path = save(tmp_path / "ct", *planes)
    refused(path, "tilted by 16.70 degrees", "resample_tilt = true", header_too=True)
    image = read_image(path, ReadOptions(resample_tilt=True))
    assert any("interpolated" in note for note in image.notes)
    z, y, x = np.nonzero(image.voxels_czyx[0] > 500)
    centre = image.geometry.world_mm(np.array([[x.mean(), y.mean(), z.mean()]]))[0]
    np.testing.assert_allclose(centre, [-20, -27, 20], atol=0.1)
    volume = len(z) * np.prod(image.geometry.spacing_zyx_mm)
    assert volume == pytest.approx(4 / 3 * np.pi * 9**3, rel=0.03)


def test_b133_uneven_slices_are_refused_with_their_distances(tmp_path: Path) -> None:
    places = [0, 2, 4, 6.1, 8.2, 10.3]
    path = save(tmp_path / "ct", *(plane(i, z=z) for i, z in enumerate(places)))
    refused(path, "unevenly spaced: 2 x 2 mm, 3 x 2.1 mm", "resample_tilt = true", header_too=True)
    accepted(path, options=ReadOptions(unusual_geometry=True))
    near = save(tmp_path / "near", *(plane(i, z=2 * i + 0.005 * (i % 2)) for i in range(6)))
    accepted(near)


def test_b133_uneven_slices_can_be_interpolated(tmp_path: Path) -> None:
    places = [0.0, 2.0, 4.0, 8.0, 12.0]
    ramp = [plane(i, z=z, PixelData=np.full((8, 10), 100 * z, np.uint16).tobytes(), RescaleIntercept=0) for i, z in enumerate(places)]
    image = read_image(save(tmp_path / "ct", *ramp), ReadOptions(resample_tilt=True))
    assert image.voxels_czyx[0, :, 0, 0].tolist() == [0, 200, 400, 600, 800, 1000, 1200]
    assert image.geometry.spacing_zyx_mm[0] == pytest.approx(2.0)


def test_b134_slices_without_a_position_are_refused(tmp_path: Path) -> None:
    refused(series(tmp_path / "ct", ImagePositionPatient=None), "no ImagePositionPatient", header_too=True)


def test_b134_a_single_image_without_a_position_is_a_picture(tmp_path: Path) -> None:
    path = series(tmp_path / "xray", 1, ImagePositionPatient=None, ImageOrientationPatient=None)
    image = accepted(path, "without a position")
    assert image.geometry.flat
    assert image.geometry.spacing_zyx_mm == (1.0, 0.7, 0.9)


def test_b135_slices_of_different_spacing_are_refused(folder: Path) -> None:
    edit(folder / "slice_04.dcm", PixelSpacing=[0.9, 0.9])
    refused(folder, "slice_04.dcm has a PixelSpacing of (0.9, 0.9) mm, slice_00.dcm of (0.7, 0.9) mm", header_too=True)


def test_b136_a_pixel_spacing_of_zero_is_refused(tmp_path: Path) -> None:
    refused(series(tmp_path / "ct", PixelSpacing=[0, 0]), "PixelSpacing of (0.0, 0.0) mm", "spacing_zyx_mm = [z, y, x]", header_too=True)


def test_b137_the_row_spacing_comes_first(tmp_path: Path) -> None:
    assert accepted(series(tmp_path / "ct", PixelSpacing=[0.5, 1.5])).geometry.spacing_zyx_mm == pytest.approx((2.0, 0.5, 1.5))


def test_b138_slices_of_different_size_are_refused(folder: Path) -> None:
    save(folder, plane(3, rows=16, columns=20), names=["slice_03.dcm"])
    refused(folder, "slice_03.dcm has 20 x 16 pixels", "slice_00.dcm has 10 x 8", header_too=True)


def test_b139_more_pixels_declared_than_held_are_refused(tmp_path: Path) -> None:
    refused(series(tmp_path / "ct", 1, Rows=65535, Columns=65535), "65535 x 65535", "GB")
    assert "of 2,000,000 bytes" in refused_file(series(tmp_path / "less", 1, Rows=1000, Columns=1000), "slice_00.dcm")


def test_b140_too_few_pixels_are_refused(folder: Path) -> None:
    edit(folder / "slice_02.dcm", PixelData=pixels(2).tobytes()[:100])
    text = refused_file(folder, "slice_02.dcm")
    assert "holds 100 of 160 bytes" in text


def test_b140_too_many_pixels_are_refused(folder: Path) -> None:
    edit(folder / "slice_02.dcm", PixelData=pixels(2).tobytes() + bytes(100))
    assert "100 bytes of pixels more" in refused_file(folder, "slice_02.dcm")


@pytest.mark.parametrize("lost", [1, 20, 200, 400, 600])
def test_b141_a_cut_file_is_refused_and_never_left_out(folder: Path, lost: int) -> None:
    path = folder / "slice_02.dcm"
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(UserError):
        read_image(folder)


def test_a_series_beyond_the_budget_is_refused_before_its_pixels_are_read(folder: Path) -> None:
    refused(folder, "10 x 8 x 6 voxels", "--max-ram", options=ReadOptions(max_bytes=6 * 80 * 4 - 1))
    read_image(folder, ReadOptions(max_bytes=6 * 80 * 4))


def refused_file(folder: Path, name: str) -> str:
    with pytest.raises(UserError) as caught:
        read_image(folder)
    assert name in str(caught.value)
    return str(caught.value)


def test_b142_each_slice_is_rescaled_by_its_own_slope(tmp_path: Path) -> None:
    planes = [plane(i, RescaleSlope=0.5 + i, RescaleIntercept=i, Modality="PT") for i in range(4)]
    image = accepted(save(tmp_path / "pet", *planes))
    expected = np.stack([pixels(i) * (0.5 + i) + i for i in range(4)]).astype(np.float32)
    np.testing.assert_allclose(image.voxels_czyx[0], expected, rtol=1e-6)


def test_b143_a_ct_without_rescale_is_read_and_noted(tmp_path: Path) -> None:
    image = accepted(series(tmp_path / "ct", RescaleSlope=None, RescaleIntercept=None), "without RescaleSlope")
    assert image.voxels_czyx.dtype == np.uint16


@pytest.mark.parametrize("number", [None, "reversed", "same"])
def test_b144_slices_are_sorted_by_position_alone(tmp_path: Path, number: str | None) -> None:
    fields: dict[str | None, Any] = {None: lambda i: None, "reversed": lambda i: 100 - i, "same": lambda i: 1}
    planes = [plane(i, InstanceNumber=fields[number](i)) for i in range(6)]
    random.Random(4).shuffle(planes)
    image = accepted(save(tmp_path / "ct", *planes))
    assert np.array_equal(image.voxels_czyx[0], np.stack([pixels(i) for i in range(6)]) - 1024.0)


def test_b145_several_series_are_asked_about_with_a_table(folder: Path) -> None:
    other = [plane(i, SeriesInstanceUID=f"{SERIES}.222", StudyInstanceUID=new_uid(), PatientID="OTHER", Modality="MR") for i in range(4)]
    save(folder / "more", *other)
    text = refused(
        folder, "2 series of 2 studies and 2 patients", "1: CT, 6 images of 10 x 8", "2: MR, 4 images", "Set series", header_too=True
    )
    assert "OTHER" not in text
    assert "CANARY" not in text
    assert [one.modality for one in find_series(folder)] == ["CT", "MR"]
    assert read_image(folder, ReadOptions(series="2")).voxels_czyx.shape[1] == 4
    assert read_image(folder, ReadOptions(series="8.498.1")).voxels_czyx.shape[1] == 6


def test_b146_two_time_points_in_one_series_are_refused(tmp_path: Path) -> None:
    planes = [plane(i % 5, SOPInstanceUID=new_uid()) for i in range(10)]
    refused(save(tmp_path / "mr", *planes), "2 images at each of 5 positions", "own folder", header_too=True)


def enhanced(folder: Path, positions: list[float]) -> Path:
    source = plane(0, PixelData=np.stack([pixels(i) for i in range(len(positions))]).tobytes(), NumberOfFrames=len(positions))
    frames = []
    for z in positions:
        place, frame = pydicom.Dataset(), pydicom.Dataset()
        place.ImagePositionPatient = [-10, -20, z]
        frame.PlanePositionSequence = Sequence([place])
        frames.append(frame)
    shared, measures, turn, values = (pydicom.Dataset() for _ in range(4))
    measures.PixelSpacing, turn.ImageOrientationPatient = [0.7, 0.9], [1, 0, 0, 0, 1, 0]
    values.RescaleSlope, values.RescaleIntercept = 2, -7
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([measures]), Sequence([turn])
    shared.PixelValueTransformationSequence = Sequence([values])
    source.PerFrameFunctionalGroupsSequence, source.SharedFunctionalGroupsSequence = Sequence(frames), Sequence([shared])
    for name in ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope", "RescaleIntercept"):
        delattr(source, name)
    return save(folder, source)


def test_b147_the_frames_of_an_enhanced_object_are_slices(tmp_path: Path) -> None:
    image = accepted(enhanced(tmp_path / "ct", [6.0, 0.0, 4.0, 2.0]))
    assert np.array_equal(image.voxels_czyx[0], np.stack([pixels(i) for i in (1, 3, 2, 0)]) * 2.0 - 7)
    refused(enhanced(tmp_path / "gap", [0.0, 2.0, 6.0, 8.0]), "missing", "frame", header_too=True)


def test_b147_frames_without_positions_and_mosaics_are_refused(tmp_path: Path) -> None:
    refused_any(
        series(tmp_path / "us", 1, NumberOfFrames=2, PixelData=pixels(0).tobytes() * 2), "2 frames without their positions", "Convert"
    )
    refused_any(series(tmp_path / "mosaic", 1, ImageType=["ORIGINAL", "PRIMARY", "MOSAIC"]), "mosaic", "dcm2niix")


def refused_any(folder: Path, *fragments: str) -> None:
    for read in (read_image, read_header):
        with pytest.raises(UserError) as caught:
            read(folder)
        for fragment in fragments:
            assert fragment in str(caught.value)


def test_b148_an_inverted_display_keeps_its_stored_values(tmp_path: Path) -> None:
    image = accepted(series(tmp_path / "dx", PhotometricInterpretation="MONOCHROME1"), "MONOCHROME1")
    assert np.array_equal(image.voxels_czyx[0, 1], pixels(1) - 1024.0)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.106", "1.2.840.10008.1.2.4.201"])
def test_b149_a_syntax_without_decoder_is_named(tmp_path: Path, syntax: str) -> None:
    dataset = plane(0)
    dataset.PixelData = pydicom.encaps.encapsulate([bytes(64)])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    text = refused_file(save(tmp_path / "ct", dataset), "slice_00.dcm")
    assert syntax in text
    assert UID(syntax).name.split(" ", maxsplit=1)[0] in text


def test_t14_a_deflated_data_set_is_refused_before_it_is_inflated(tmp_path: Path) -> None:
    bomb = plane(0, PixelData=bytes(64 << 20))
    bomb.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    folder = save(tmp_path / "ct", bomb)
    assert (folder / "slice_00.dcm").stat().st_size < 1 << 20
    assert "Deflated" in refused_file(folder, "slice_00.dcm")


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_b149_compressed_series_are_read_where_a_decoder_is_there(tmp_path: Path, syntax: UID) -> None:
    planes = [plane(i) for i in range(3)]
    for dataset in planes:
        try:
            dataset.compress(syntax, generate_instance_uid=False)
        except (RuntimeError, NotImplementedError, AttributeError, ValueError):
            pytest.skip("no encoder for this syntax on this machine")
    path = save(tmp_path / "ct", *planes)
    if syntax != RLELossless and not pydicom.pixels.get_decoder(syntax).is_available:
        refused_file(path, syntax.name.split(" ", maxsplit=1)[0])
        return
    image = read_image(path)
    assert np.array_equal(image.voxels_czyx[0], np.stack([pixels(i) for i in range(3)]) - 1024.0)


@pytest.mark.parametrize(("colours", "samples"), [("RGB", 3), ("PALETTE COLOR", 1), ("YBR_FULL_422", 3)])
def test_b150_colours_are_refused(tmp_path: Path, colours: str, samples: int) -> None:
    data = np.zeros((8, 10, samples), np.uint8).tobytes()
    refused_any(
        series(
            tmp_path / "us",
            1,
            PhotometricInterpretation=colours,
            SamplesPerPixel=samples,
            BitsAllocated=8,
            BitsStored=8,
            HighBit=7,
            PixelData=data,
        ),
        "colours",
        "PNG",
    )


def test_b151_other_objects_among_the_slices_are_left_out_and_noted(folder: Path) -> None:
    for number, uid in enumerate(("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.481.3", "1.2.840.10008.5.1.4.1.1.88.33")):
        other = plane(0, PixelData=None, Rows=None, Columns=None, SOPClassUID=uid, SeriesInstanceUID=new_uid())
        other.file_meta.MediaStorageSOPClassUID = uid
        save(folder, other, names=[f"a_{number}.dcm"])
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + b"../../etc/passwd")
    (folder / "notes.txt").write_text("nothing")
    accepted(folder, "3 DICOM objects that are no images were left out")


def test_b152_a_file_without_or_with_an_executable_preamble_is_read_and_not_copied(folder: Path, tmp_path: Path) -> None:
    path = folder / "slice_00.dcm"
    data = path.read_bytes()
    path.write_bytes(b"MZ" + b"EXECUTABLE" * 12 + data[122:])
    image = accepted(folder)
    write_mask(tmp_path / "mask.nii", (image.voxels_czyx[0] > 0).astype(np.uint8), image.header)
    assert b"EXECUTABLE" not in (tmp_path / "mask.nii").read_bytes()
    bare = pydicom.dcmread(path)
    del bare.file_meta, bare.preamble
    bare.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=False)
    assert path.read_bytes()[:2] == b"\x08\x00"
    assert np.array_equal(read_image(folder).voxels_czyx, image.voxels_czyx)


def test_b153_names_in_headers_reach_no_output_and_no_message(folder: Path, tmp_path: Path) -> None:
    image = accepted(folder)
    for suffix in (".nii", ".mha", ".nrrd", ".gipl"):
        write_mask(tmp_path / f"mask{suffix}", (image.voxels_czyx[0] > 0).astype(np.uint8), image.header)
        assert b"CANARY" not in (tmp_path / f"mask{suffix}").read_bytes()
    assert CANARY not in repr(image.header) + repr(image.notes) + repr(find_series(folder))
    assert "CANARY" not in repr(find_series(folder))


@pytest.mark.parametrize("row", [1, -1])
@pytest.mark.parametrize("column", [1, -1])
@pytest.mark.parametrize("upwards", [True, False])
def test_b154_every_way_of_storing_a_slice_is_the_same_patient(tmp_path: Path, row: int, column: int, upwards: bool) -> None:
    planes = []
    for index in range(6):
        data = pixels(index)[::column, ::row]
        place = [-10 + (0 if row > 0 else 9 * 0.9), -20 + (0 if column > 0 else 7 * 0.7), 2.0 * index]
        planes.append(plane(index, ImageOrientationPatient=[row, 0, 0, 0, column, 0], ImagePositionPatient=place, PixelData=data.tobytes()))
    image = accepted(save(tmp_path / "ct", *(planes if upwards else planes[::-1])))
    reference = read_image(series(tmp_path / "reference"))
    assert np.array_equal(canonical(image), canonical(reference))
    ours, theirs = (orient_geometry(one.geometry, orientation_of(one.geometry)) for one in (image, reference))
    assert ours.corner_distance_mm(theirs) < 1e-9


def canonical(image: Image) -> Any:
    return orient(image.voxels_czyx, orientation_of(image.geometry))


def test_file_names_and_folders_do_not_matter(folder: Path, tmp_path: Path) -> None:
    expected = read_image(folder)
    split = tmp_path / "split"
    for number, path in enumerate(sorted(folder.iterdir())):
        place = split / ("b" if number % 2 else "a")
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place / f"IM{(number * 7) % 11}")
    again = read_dicom_series(split)
    assert np.array_equal(again.voxels_czyx, expected.voxels_czyx)
    assert again.geometry == expected.geometry


def test_bits_above_the_stored_ones_are_no_part_of_the_value(tmp_path: Path) -> None:
    """Overlay graphics in bits 12 to 15, and signed values of 12 bits."""
    data = pixels(0) % 4096
    path = series(tmp_path / "a", 1, BitsStored=12, HighBit=11, PixelData=(data | 0xF000).astype(np.uint16).tobytes())
    assert np.array_equal(read_image(path).voxels_czyx[0, 0], data - 1024.0)
    signed = np.array([-2048, 2047, -1, 0] * 20, np.int16)
    stored = (signed.view(np.uint16) & 0x0FFF).tobytes()
    path = series(
        tmp_path / "b", 1, BitsStored=12, HighBit=11, PixelRepresentation=1, PixelData=stored, RescaleSlope=None, RescaleIntercept=None
    )
    assert np.array_equal(read_image(path).voxels_czyx.ravel(), signed)


def test_a_missing_library_is_an_error_with_the_command_that_installs_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "pydicom":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install 'autounet\[dicom\]'"):
        read_image(folder)
