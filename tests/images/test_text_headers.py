"""MetaImage, NRRD and GIPL as other programs write them: every spelling that matters, with SimpleITK as the judge."""

import gzip
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from autounet.images.image import ReadOptions
from autounet.images.orientation import orientation_of
from autounet.images.read import read_image
from autounet.images.write import write_mask
from tests.images.badinputs.door_seeds import accepted, refused

VOXELS = (np.arange(2 * 3 * 4) * 37 % 251).reshape(2, 3, 4)


def metaimage(path: Path, data: bytes, **fields: Any) -> Path:
    lines: dict[str, Any] = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
    }
    lines |= {"TransformMatrix": "0 1 0 -1 0 0 0 0 1", "Offset": "1.5 -2.5 30.125", "ElementSpacing": "0.7 1.3 2.5", "DimSize": "4 3 2"}
    lines |= {"ElementType": "MET_SHORT"} | fields
    text = "".join(f"{key} = {value}\n" for key, value in lines.items() if value is not None)
    path.write_bytes(text.encode("latin1") + b"ElementDataFile = LOCAL\n" + data)
    return path


def same_as_sitk(path: Path) -> None:
    image, theirs = accepted(path), sitk.ReadImage(str(path))
    expected = sitk.GetArrayFromImage(theirs)
    expected = np.moveaxis(expected, -1, 0) if theirs.GetNumberOfComponentsPerPixel() > 1 else expected
    assert np.array_equal(image.voxels_czyx.reshape(expected.shape), expected)
    if theirs.GetDimension() == 3:
        for corner in ((0, 0, 0), tuple(n - 1 for n in theirs.GetSize())):
            place = np.array(theirs.TransformIndexToPhysicalPoint(corner)) * [-1, -1, 1]
            np.testing.assert_allclose(image.geometry.world_mm(np.array(corner)), place, atol=1e-9)


@pytest.mark.parametrize("fields", [
    {},
    {"Offset": None, "Position": "1.5 -2.5 30.125"},
    {"TransformMatrix": None, "Orientation": "0 0 1 1 0 0 0 1 0"},
    {"TransformMatrix": None, "Offset": None},
    {"ElementSpacing": None, "ElementSize": "0.7 1.3 2.5"},
    {"Comment": "anything = at all", "Modality": "MET_MOD_CT", "AnatomicalOrientation": "RAI", "Patient": "é"},
])  # fmt: skip
def test_the_spellings_of_a_metaimage_header(tmp_path: Path, fields: dict[str, Any]) -> None:
    path = metaimage(tmp_path / "case.mha", VOXELS.astype("<i2").tobytes(), **fields)
    same_as_sitk(path)
    image = read_image(path)
    write_mask(tmp_path / "mask.mha", (image.voxels_czyx[0] > 90), image.header)
    mine, theirs = sitk.ReadImage(str(tmp_path / "mask.mha")), sitk.ReadImage(str(path))
    assert (mine.GetOrigin(), mine.GetSpacing(), mine.GetDirection()) == (theirs.GetOrigin(), theirs.GetSpacing(), theirs.GetDirection())


@pytest.mark.parametrize(("name", "dtype"), [
    ("MET_UCHAR", "u1"), ("MET_CHAR", "i1"), ("MET_USHORT", "u2"), ("MET_SHORT", "i2"), ("MET_UINT", "u4"), ("MET_INT", "i4"),
    ("MET_ULONG_LONG", "u8"), ("MET_LONG_LONG", "i8"), ("MET_FLOAT", "f4"), ("MET_DOUBLE", "f8"),
])  # fmt: skip
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packed", [False, True])
def test_every_number_type_of_a_metaimage(tmp_path: Path, name: str, dtype: str, order: str, packed: bool) -> None:
    raw = (VOXELS % 120).astype(order + dtype).tobytes()
    data = zlib.compress(raw) if packed else raw
    fields = {"CompressedData": str(packed), "CompressedDataSize": len(data) if packed else None}
    path = metaimage(tmp_path / "case.mha", data, ElementType=name, BinaryDataByteOrderMSB=str(order == ">"), **fields)
    assert np.array_equal(accepted(path).voxels_czyx[0], VOXELS % 120)
    if not packed or order == "<":
        same_as_sitk(path)


def test_channels_of_a_metaimage_vary_fastest(tmp_path: Path) -> None:
    raw = np.stack([VOXELS, VOXELS + 1, VOXELS + 2], -1).astype("<i2").tobytes()
    path = metaimage(tmp_path / "case.mha", raw, ElementNumberOfChannels=3)
    same_as_sitk(path)
    assert np.array_equal(read_image(path).voxels_czyx[2], VOXELS + 2)
    refused(path, "holds 3 channels", options=ReadOptions(channels=1), header_too=True)


@pytest.mark.parametrize(("fields", "reason"), [
    ({"BinaryData": "False"}, "BinaryData"),
    ({"HeaderSize": "100"}, "HeaderSize"),
    ({"HeaderSize": "-1"}, "HeaderSize"),
    ({"ObjectType": "Mesh"}, "ObjectType"),
    ({"ElementToIntensityFunctionSlope": "2"}, "ElementToIntensityFunctionSlope"),
    ({"ElementType": "MET_STRING"}, "ElementType"),
    ({"DimSize": "4 3"}, "DimSize"),
    ({"DimSize": "4 3 0"}, "DimSize"),
    ({"DimSize": "4 3 9999999"}, "bytes"),
    ({"NDims": "9", "DimSize": "1 1 1 1 1 1 1 1 1"}, "9 axes"),
    ({"ElementSpacing": "0 1 1"}, "spacing"),
    ({"ElementSpacing": "-1 1 1"}, "spacing"),
    ({"ElementSpacing": "nan 1 1"}, "ElementSpacing"),
    ({"ElementSpacing": "1 1"}, "ElementSpacing"),
    ({"Offset": "1e300 0 inf"}, "Offset"),
    ({"TransformMatrix": "2 0 0 0 1 0 0 0 1"}, "lengths"),
    ({"TransformMatrix": "1 0 0 0.4 0.9165151 0 0 0 1"}, "skewed"),
    ({"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, "singular"),
    ({"ElementNumberOfChannels": "0"}, "0 numbers"),
    ({"NDims": None}, "no line NDims"),
])  # fmt: skip
def test_a_metaimage_header_that_lies_is_refused(tmp_path: Path, fields: dict[str, Any], reason: str) -> None:
    refused(metaimage(tmp_path / "case.mha", VOXELS.astype("<i2").tobytes(), **fields), reason, header_too=True)


def nrrd(path: Path, data: bytes, *lines: str, **fields: Any) -> Path:
    known: dict[str, Any] = {"type": "short", "dimension": 3, "space": "left-posterior-superior", "sizes": "4 3 2"}
    known |= {
        "space_directions": "(0,0.7,0) (-1.3,0,0) (0,0,2.5)",
        "endian": "little",
        "encoding": "raw",
        "space_origin": "(1.5,-2.5,30.125)",
    }
    known |= fields
    text = "".join(f"{key.replace('_', ' ')}: {value}\n" for key, value in known.items() if value is not None)
    path.write_bytes(("NRRD0005\n# a comment\n" + text + "".join(f"{line}\n" for line in lines) + "\n").encode() + data)
    return path


RAW = VOXELS.astype("<i2").tobytes()


@pytest.mark.parametrize(
    "fields", [{}, {"kinds": "domain domain domain"}, {"encoding": "gzip"}, {"endian": "big"}, {"space": "LPS"}, {"type": "int16"}]
)
def test_the_spellings_of_an_nrrd_header(tmp_path: Path, fields: dict[str, Any]) -> None:
    raw = VOXELS.astype(">i2" if fields.get("endian") == "big" else "<i2").tobytes()
    path = nrrd(tmp_path / "case.nrrd", gzip.compress(raw) if fields.get("encoding") == "gzip" else raw, "Patient:=somebody", **fields)
    same_as_sitk(path)
    image = read_image(path)
    write_mask(tmp_path / "mask.nrrd", (image.voxels_czyx[0] > 90), image.header)
    same_as_sitk(tmp_path / "mask.nrrd")
    assert b"somebody" not in (tmp_path / "mask.nrrd").read_bytes()


@pytest.mark.parametrize(
    ("space", "signs"), [("right-anterior-superior", (1, 1, 1)), ("LAS", (-1, 1, 1)), ("left-posterior-superior", (-1, -1, 1))]
)
def test_the_space_of_an_nrrd_is_turned_to_ours(tmp_path: Path, space: str, signs: tuple[int, ...]) -> None:
    image = accepted(nrrd(tmp_path / "case.nrrd", RAW, space=space))
    assert image.geometry.origin_xyz_mm == pytest.approx(np.array([1.5, -2.5, 30.125]) * signs)


def test_channels_of_an_nrrd_may_be_its_first_or_last_axis(tmp_path: Path) -> None:
    both = np.stack([VOXELS, VOXELS + 1])
    first = nrrd(
        tmp_path / "first.nrrd", np.moveaxis(both, 0, -1).astype("<i2").tobytes(), dimension=4, sizes="2 4 3 2",
        kinds="vector domain domain domain", space_directions="none (0,0.7,0) (-1.3,0,0) (0,0,2.5)",
    )  # fmt: skip
    last = nrrd(
        tmp_path / "last.nrrd", both.astype("<i2").tobytes(), dimension=4, sizes="4 3 2 2", kinds="domain domain domain list",
        space_directions="(0,0.7,0) (-1.3,0,0) (0,0,2.5) none",
    )  # fmt: skip
    plain = accepted(nrrd(tmp_path / "plain.nrrd", RAW))
    for path in (first, last):
        image = accepted(path)
        assert np.array_equal(image.voxels_czyx, both)
        assert image.geometry == plain.geometry
        write_mask(tmp_path / "mask.nrrd", (image.voxels_czyx[0] > 90), image.header)
        assert read_image(tmp_path / "mask.nrrd").geometry == plain.geometry
    same_as_sitk(first)


def test_an_nrrd_without_directions_is_asked_about(tmp_path: Path) -> None:
    path = nrrd(tmp_path / "case.nrrd", RAW, space=None, space_directions=None, space_origin=None, spacings="0.7 1.3 2.5")
    refused(path, "no orientation", "trust = 'stored'", header_too=True)
    image = accepted(path, options=ReadOptions(trust="stored"))
    assert image.geometry.spacing_zyx_mm == (2.5, 1.3, 0.7)
    assert orientation_of(image.geometry).code == "2D"
    write_mask(tmp_path / "mask.nrrd", (image.voxels_czyx[0] > 90), image.header)


@pytest.mark.parametrize(("fields", "lines", "reason"), [
    ({"encoding": "ascii"}, (), "encoding"),
    ({"encoding": "bzip2"}, (), "encoding"),
    ({"type": "block"}, (), "type"),
    ({"endian": None}, (), "byte order"),
    ({"sizes": "4 3"}, (), "sizes"),
    ({"sizes": "4 3 0"}, (), "sizes"),
    ({"sizes": "4 3 99999"}, (), "bytes"),
    ({"space": "scanner-xyz"}, (), "scanner-xyz"),
    ({"space_directions": "(0,0.7,0) (-1.3,0,0)"}, (), "space directions"),
    ({"space_directions": "(0,nan,0) (-1.3,0,0) (0,0,2)"}, (), "space directions"),
    ({"space_directions": "(0,0,0) (-1.3,0,0) (0,0,2)"}, (), "singular"),
    ({"space_directions": "(1,0.5,0) (-1.3,0,0) (0,0,2)"}, (), "skewed"),
    ({"space_origin": "(1,2)"}, (), "space of 3 axes"),
    ({}, ("byte skip: 5",), "byte skip"),
    ({}, ("line skip: 1",), "line skip"),
    ({}, ("type: short",), "two lines for type"),
    ({}, ("strange: thing",), "unknown line"),
])  # fmt: skip
def test_an_nrrd_header_that_lies_is_refused(tmp_path: Path, fields: dict[str, Any], lines: tuple[str, ...], reason: str) -> None:
    refused(nrrd(tmp_path / "case.nrrd", RAW, *lines, **fields), reason, header_too=True)


def gipl(path: Path, voxels: NDArray[Any], code: int, *edits: tuple[Any, ...]) -> Path:
    head = bytearray(256)
    struct.pack_into(">4H", head, 0, *voxels.shape[::-1], 1)
    struct.pack_into(">H4f", head, 8, code, 0.7, 1.3, 2.5, 0)
    struct.pack_into(">4d", head, 204, 1.5, -2.5, 30.125, 0)
    head[252:] = b"\xef\xff\xe9\xb0"
    for offset, kind, *values in edits:
        struct.pack_into(">" + kind, head, offset, *values)
    path.write_bytes(bytes(head) + voxels.astype(voxels.dtype.newbyteorder(">")).tobytes())
    return path


@pytest.mark.parametrize(("code", "dtype"), [(7, "i1"), (8, "u1"), (15, "i2"), (16, "u2"), (31, "u4"), (32, "i4"), (64, "f4"), (65, "f8")])
def test_every_number_type_of_a_gipl_file(tmp_path: Path, code: int, dtype: str) -> None:
    path = gipl(tmp_path / "case.gipl", (VOXELS % 120).astype(dtype), code)
    image = accepted(path, "left, back, head")
    assert np.array_equal(image.voxels_czyx[0], VOXELS % 120)
    assert image.geometry.spacing_zyx_mm == pytest.approx((2.5, 1.3, 0.7))
    if code in (8, 15, 16, 64):
        same_as_sitk(path)


@pytest.mark.parametrize(("edit", "reason"), [
    ((0, "H", 0), "0 x 3"), ((6, "H", 3), "x 3 voxels"), ((8, "H", 99), "voxel type 99"), ((10, "f", 0.0), "spacing"),
    ((10, "f", float("nan")), "spacing"), ((204, "d", float("inf")), "not finite"), ((252, "I", 7), "not the GIPL image"),
])  # fmt: skip
def test_a_gipl_header_that_lies_is_refused(tmp_path: Path, edit: tuple[Any, ...], reason: str) -> None:
    refused(gipl(tmp_path / "case.gipl", VOXELS.astype("i2"), 15, edit), reason, header_too=True)
