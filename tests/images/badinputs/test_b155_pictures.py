"""Catalogue B106, B155 and B156: pictures."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow

from autounet.images.image import ReadOptions
from autounet.images.read import read_header, read_image
from autounet.images.write import write_image, write_mask
from planners.errors import UserError
from tests.images.badinputs.door_seeds import accepted, refused


@pytest.fixture
def gray() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 255, (40, 50)).astype(np.uint8)


def saved(path: Path, array: NDArray[Any], **options: Any) -> Path:
    Pillow.fromarray(array).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff"])
def test_gray_and_colour_pictures_are_read_as_they_are(tmp_path: Path, gray: NDArray[np.uint8], suffix: str) -> None:
    image = accepted(saved(tmp_path / f"gray{suffix}", gray))
    assert np.array_equal(image.voxels_czyx, gray[None, None])
    assert image.geometry.flat
    assert image.geometry.spacing_zyx_mm == (1.0, 1.0, 1.0)
    colour = np.stack([gray, gray.T[:40, :1].repeat(50, 1) // 2, 255 - gray], -1)
    assert np.array_equal(accepted(saved(tmp_path / f"colour{suffix}", colour)).voxels_czyx[:, 0], np.moveaxis(colour, -1, 0))


def test_b155_colours_where_gray_is_declared_are_refused(tmp_path: Path, gray: NDArray[np.uint8]) -> None:
    path = saved(tmp_path / "case.png", np.stack([gray, gray, 255 - gray], -1))
    refused(path, "has 3 channels", "1 is expected", options=ReadOptions(channels=1))


def test_b155_gray_stored_as_three_equal_colours_is_gray_when_declared(tmp_path: Path, gray: NDArray[np.uint8]) -> None:
    path = saved(tmp_path / "case.png", np.stack([gray, gray, gray], -1))
    image = accepted(path, "three equal colours", options=ReadOptions(channels=1))
    assert np.array_equal(image.voxels_czyx, gray[None, None])
    single = saved(tmp_path / "gray.png", gray)
    assert len(accepted(single, "gray", options=ReadOptions(channels=3)).voxels_czyx) == 3


@pytest.mark.parametrize("colours", [1, 3])
def test_b155_transparency_is_refused_and_a_constant_alpha_left_out(tmp_path: Path, gray: NDArray[np.uint8], colours: int) -> None:
    alpha = np.full_like(gray, 255)
    path = saved(tmp_path / "case.png", np.stack([gray] * colours + [alpha], -1))
    image = accepted(path, "alpha channel is 255 everywhere")
    assert np.array_equal(image.voxels_czyx, np.stack([gray[None]] * colours))
    alpha[3, 4] = 100
    saved(path, np.stack([gray] * colours + [alpha], -1))
    refused(path, "alpha channel runs from 100 to 255", "without an alpha channel")


def test_b106_b155_a_palette_is_asked_about(tmp_path: Path) -> None:
    classes = (np.arange(2000) % 5).astype(np.uint8).reshape(40, 50)
    picture = Pillow.frombytes("P", (50, 40), classes.tobytes())
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    picture.save(tmp_path / "case.png")
    refused(tmp_path / "case.png", "palette", "palette_indices = true", header_too=True)
    image = accepted(tmp_path / "case.png", options=ReadOptions(palette_indices=True))
    assert np.array_equal(image.voxels_czyx[0, 0], classes)


def test_b106_a_label_in_colours_is_refused_where_one_channel_is_expected(tmp_path: Path) -> None:
    colours = np.zeros((10, 10, 3), np.uint8)
    colours[2:5, 2:5] = 255, 0, 0
    refused(saved(tmp_path / "label.png", colours), "3 channels", options=ReadOptions(channels=1))


def test_b155_sixteen_bits_are_kept(tmp_path: Path) -> None:
    array = np.arange(2000, dtype=np.uint16).reshape(40, 50) * 30
    for suffix in (".png", ".tif"):
        image = accepted(saved(tmp_path / f"case{suffix}", array))
        assert image.voxels_czyx.dtype == np.uint16
        assert np.array_equal(image.voxels_czyx[0, 0], array)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_gray_values_of_few_bits_are_the_stored_ones(tmp_path: Path, bits: int) -> None:
    """Pillow stretches them to 0..255, which would make label 1 of a 4-bit picture label 17."""
    rows = np.random.default_rng(bits).integers(0, 1 << bits, (6, 16)).astype(np.uint8)
    packed = b"".join(
        b"\0" + np.packbits(np.unpackbits(row[:, None], axis=1)[:, 8 - bits :].reshape(-1)).tobytes() for row in rows
    )  # fmt: skip
    path = tmp_path / "case.png"
    path.write_bytes(png(16, 6, bits, 0, zlib.compress(packed)))
    assert np.array_equal(accepted(path).voxels_czyx[0, 0], rows)


def test_b155_colours_of_sixteen_bits_are_refused_rather_than_halved(tmp_path: Path) -> None:
    path = tmp_path / "case.png"
    path.write_bytes(png(2, 2, 16, 2, zlib.compress((b"\0" + bytes(12)) * 2)))
    refused(path, "16 bits", header_too=True)


def test_b155_an_exif_rotation_is_noted_and_not_done(tmp_path: Path, gray: NDArray[np.uint8]) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6
    for suffix in (".png", ".jpg"):
        path = saved(tmp_path / f"case{suffix}", gray, exif=exif)
        assert accepted(path, "EXIF").voxels_czyx.shape == (1, 1, 40, 50)


def test_b155_an_animation_is_refused(tmp_path: Path, gray: NDArray[np.uint8]) -> None:
    frames = [Pillow.fromarray(gray), Pillow.fromarray(255 - gray)]
    frames[0].save(tmp_path / "case.png", save_all=True, append_images=frames[1:])
    refused(tmp_path / "case.png", "animation of 2 frames", header_too=True)


def test_the_pages_of_a_tiff_are_slices(tmp_path: Path, gray: NDArray[np.uint8]) -> None:
    pages = [Pillow.fromarray(gray + np.uint8(n)) for n in range(5)]
    pages[0].save(tmp_path / "case.tif", save_all=True, append_images=pages[1:])
    image = accepted(tmp_path / "case.tif")
    assert image.voxels_czyx.shape == (1, 5, 40, 50)
    assert np.array_equal(image.voxels_czyx[0, 3], gray + np.uint8(3))
    write_mask(tmp_path / "mask.tif", (image.voxels_czyx[0] > 100).astype(np.uint8), image.header)
    assert np.array_equal(read_image(tmp_path / "mask.tif").voxels_czyx, image.voxels_czyx > 100)


def test_pages_of_different_sizes_are_refused(tmp_path: Path, gray: NDArray[np.uint8]) -> None:
    Pillow.fromarray(gray).save(tmp_path / "case.tif", save_all=True, append_images=[Pillow.fromarray(gray[:30])])
    refused(tmp_path / "case.tif", "pages of different kinds", "page 2")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif"])
def test_a_cut_picture_is_refused(tmp_path: Path, gray: NDArray[np.uint8], suffix: str) -> None:
    path = saved(tmp_path / f"case{suffix}", gray)
    whole = path.read_bytes()
    for part in (0.9, 0.5, 0.1):
        path.write_bytes(whole[: int(len(whole) * part)])
        refused(path)


def test_a_flipped_byte_in_a_png_is_refused(tmp_path: Path, gray: NDArray[np.uint8]) -> None:
    path = saved(tmp_path / "case.png", gray)
    whole = path.read_bytes()
    for position in range(40, len(whole), 97):
        data = bytearray(whole)
        data[position] ^= 0x10
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"case\.png"):
            read_image(path)


def test_a_wrong_checksum_of_pixels_is_refused_even_where_they_inflate(tmp_path: Path) -> None:
    whole = png(3, 2, 8, 0, zlib.compress(bytes(8)))
    path = tmp_path / "case.png"
    path.write_bytes(whole)
    accepted(path)
    path.write_bytes(whole[:-13] + bytes([whole[-13] ^ 1]) + whole[-12:])  # the last byte of the pixels' checksum
    refused(path, "checksum of its 'IDAT' chunk")


def png(width: int, height: int, bits: int, colour: int, pixels: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">2I5B", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("edge", [60_000, 2**31 - 1])
def test_b156_a_picture_bomb_is_refused_before_it_is_decoded(tmp_path: Path, edge: int) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(edge, edge, 8, 0, zlib.compress(bytes(1 << 20))))
    refused(path, f"{edge} x {edge}", "GB", header_too=True)


def test_a_large_slide_is_no_bomb(tmp_path: Path) -> None:
    path = tmp_path / "slide.png"
    path.write_bytes(png(20_000, 20_000, 8, 0, b""))
    assert read_header(path).geometry.shape_zyx == (1, 20_000, 20_000)
    refused(path, options=ReadOptions(max_bytes=1 << 20))


def test_a_jpeg_gets_a_png_mask_of_its_size(tmp_path: Path, gray: NDArray[np.uint8]) -> None:
    image = accepted(saved(tmp_path / "case.jpg", gray))
    assert image.header.suffix == ".png"
    write_mask(tmp_path / "mask.png", (gray > 99).astype(np.uint8)[None], image.header)
    assert np.array_equal(read_image(tmp_path / "mask.png").voxels_czyx[0, 0], gray > 99)
    with pytest.raises(UserError, match="no name under which"):
        write_image(tmp_path / "mask.jpg", image.voxels_czyx, image.geometry)


def test_the_channels_of_an_imagej_stack_are_channels(tmp_path: Path, gray: NDArray[np.uint8]) -> None:
    pages = [gray + np.uint8(n) for n in range(6)]
    said = "ImageJ=1.53t\nimages=6\nchannels=2\nslices=3\nhyperstack=true\n"
    image = accepted(stack(tmp_path / "case.tif", pages, said))
    assert image.voxels_czyx.shape == (2, 3, 40, 50)
    assert np.array_equal(image.voxels_czyx[1, 2], pages[5])
    ome = '<OME xmlns="x"><Image><Pixels DimensionOrder="XYCZT" SizeC="2" SizeZ="3" SizeT="1" SizeX="50" SizeY="40"/></Image></OME>'
    assert np.array_equal(accepted(stack(tmp_path / "ome.tif", pages, ome)).voxels_czyx, image.voxels_czyx)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("ImageJ=1.53t\nimages=60\nslices=60\n", "6 of the 60 pages"),  # ImageJ stores large stacks behind one page
        ("ImageJ=1.53t\nimages=6\nframes=6\n", "6 points in time"),
        ('<OME><Image><Pixels DimensionOrder="XYZCT" SizeC="2" SizeZ="3" SizeT="1"/></Image></OME>', "channels behind its slices"),
        ('<OME><Image><Pixels DimensionOrder="XYCZT" SizeC="1" SizeZ="3" SizeT="2"/></Image></OME>', "2 points in time"),
    ],
)
def test_pages_that_are_no_slices_are_refused(tmp_path: Path, gray: NDArray[np.uint8], said: str, reason: str) -> None:
    refused(stack(tmp_path / "case.tif", [gray] * 6, said), reason, header_too=True)


def stack(path: Path, pages: list[NDArray[Any]], description: str) -> Path:
    first, *others = [Pillow.fromarray(page) for page in pages]
    first.save(path, save_all=True, append_images=others, description=description)
    return path


def test_tiff_numbers_pillow_would_shorten_are_refused(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    for array in (np.zeros((9, 8, 3), np.uint16), np.full((9, 8), -3, np.int8)):
        tifffile.imwrite(tmp_path / "case.tif", array, photometric="rgb" if array.ndim == 3 else "minisblack")
        refused(tmp_path / "case.tif", "bits", "unsigned 16 bits", header_too=True)
    signed = np.arange(-36, 36, dtype=np.int16).reshape(9, 8)
    tifffile.imwrite(tmp_path / "case.tif", signed)
    assert np.array_equal(accepted(tmp_path / "case.tif").voxels_czyx[0, 0], signed)
