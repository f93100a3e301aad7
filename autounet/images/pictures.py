"""Pictures without a patient: PNG, JPEG, BMP and TIFF through Pillow, its size bombs and silent conversions fenced off."""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autounet.images.formats import check_content
from autounet.images.geometry import Geometry, picture_geometry
from autounet.images.image import Format, Header, Image, ImageInfo, ReadOptions
from autounet.images.source import Source, opened
from autounet.images.voxels import check_budget, check_possible, made_finite, native
from planners.errors import UserError

_SUFFIXES: dict[Format, str] = {"png": ".png", "jpeg": ".png", "bmp": ".bmp", "tiff": ".tif"}
_MODES: dict[str, tuple[int, str]] = {  # channels without alpha, and dtype
    "1": (1, "u1"),
    "L": (1, "u1"),
    "LA": (1, "u1"),
    "RGB": (3, "u1"),
    "RGBA": (3, "u1"),
    "I;16": (1, "u2"),
    "I;16L": (1, "u2"),
    "I;16B": (1, "u2"),
    "I": (1, "i4"),
    "F": (1, "f4"),
}
_EXIF_ORIENTATION = 0x0112
_BITS_PER_SAMPLE, _SAMPLE_FORMAT = 258, 339
_PNG_SIGNATURE = 8


@dataclass(frozen=True, slots=True)
class _Opened:
    """A picture whose pixels are not decoded yet."""

    picture: Any
    source: Source
    pages: int
    size: tuple[int, int]  # width and height of the first page
    channels: int  # alpha not counted
    dtype: np.dtype[Any]
    gray_step: int  # by which Pillow multiplied gray values of 2 or 4 bits
    notes: tuple[str, ...]

    @property
    def geometry(self) -> Geometry:
        """One slice a page."""
        width, height = self.size
        flat = picture_geometry((height, width))
        return Geometry(
            shape_zyx=(self.pages, height, width),
            spacing_zyx_mm=flat.spacing_zyx_mm,
            origin_xyz_mm=flat.origin_xyz_mm,
            direction=flat.direction,
            flat=True,
        )


def read_picture_info(path: Path, form: Format, options: ReadOptions) -> ImageInfo:
    """What the header of a picture tells."""
    with opened(path, options) as source:
        found = _open(source, path, form, options)
        channels = options.channels if options.channels in (1, 3) and found.channels in (1, 3) else found.channels
        return ImageInfo(
            geometry=_placed(found, options),
            channels=channels,
            dtype=found.dtype,
            voxel_bytes=channels * int(np.prod(found.geometry.shape_zyx, dtype=object)) * found.dtype.itemsize,
            format=form,
            header=_header(form, _placed(found, options)),
            notes=found.notes,
        )


def read_picture(path: Path, form: Format, options: ReadOptions) -> Image:
    """A picture (or the pages of a TIFF as slices) with its colours as channels."""
    with opened(path, options) as source:
        found = _open(source, path, form, options)
        shape = found.geometry.shape_zyx
        check_budget(source, (found.channels, *shape), found.dtype, options)
        if form == "png":
            _check_png(source)
        out_czyx = np.empty((found.channels, *shape), found.dtype)
        notes = list(found.notes)
        for page in range(found.pages):
            pixels_yxc = _pixels(found, page)
            pixels_yxc = _without_alpha(found, pixels_yxc, notes)
            out_czyx[:, page] = np.moveaxis(pixels_yxc, -1, 0)
        voxels = _wanted_channels(source, native(out_czyx), options, notes)
        notes.extend(made_finite(source, voxels, options))
        geometry = _placed(found, options)
        return Image(voxels_czyx=voxels, geometry=geometry, header=_header(form, geometry), notes=tuple(notes))


def encode_picture(name: str, voxels_czyx: NDArray[Any], form: Format) -> Iterator[bytes]:
    """The bytes of a PNG, BMP or TIFF: one or three channels of 8 bits, or one of 16; TIFF also stacks, 32 bits and floats."""
    from PIL import Image as Pillow

    channels, pages = voxels_czyx.shape[:2]
    dtype = voxels_czyx.dtype
    plain = {"png": ("u1", "u2"), "bmp": ("u1",), "tiff": ("u1", "u2", "i4", "f4")}[form]
    if dtype.newbyteorder("=").str[1:] not in plain or channels not in (1, 3) or (channels == 3 and dtype != np.uint8):
        raise UserError(f"{name} cannot hold {channels} channels of {dtype}", "choose a name that ends in .nii.gz or .mha")
    if pages > 1 and form != "tiff":
        raise UserError(f"{name} cannot hold {pages} slices", "choose a name that ends in .nii.gz, .mha or .tif")
    frames = [Pillow.fromarray(np.ascontiguousarray(_frame(voxels_czyx[:, page]))) for page in range(pages)]
    out = io.BytesIO()
    if form == "tiff":
        frames[0].save(out, "TIFF", compression="tiff_lzw" if dtype.kind != "f" else None, save_all=True, append_images=frames[1:])
    else:
        frames[0].save(out, form.upper())
    yield out.getvalue()


def _frame(page_cyx: NDArray[Any]) -> NDArray[Any]:
    return page_cyx[0] if len(page_cyx) == 1 else np.moveaxis(page_cyx, 0, -1)


def _header(form: Format, geometry: Geometry) -> Header:
    return Header(format=form, suffix=_SUFFIXES[form], geometry=geometry)


def _placed(found: _Opened, options: ReadOptions) -> Geometry:
    return found.geometry if options.spacing_zyx_mm is None else found.geometry.with_spacing(options.spacing_zyx_mm)


def _open(source: Source, path: Path, form: Format, options: ReadOptions) -> _Opened:
    start = source.file.read(560) or b""
    check_content(source, start, path, form)
    gray_step, notes = 1, []
    if form == "png":
        gray_step = _png_gray_step(source, start)
    source.file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks about odd metadata; sizes are checked here
        try:
            picture = _plugin(form)(source.file)
        except Exception as error:  # Pillow has no common error for a header it cannot read
            raise source.refuse(f"has a header that cannot be read: {_said(error)}", "open and save the picture again") from None
    pages = getattr(picture, "n_frames", 1) if form in ("png", "tiff") else 1
    if pages > 1 and form == "png":
        raise source.refuse(f"is an animation of {pages} frames", "save the one frame that is meant")
    channels, dtype = _kind(source, picture, form, options)
    check_possible(source, (channels, pages, picture.size[1], picture.size[0]), dtype, options)
    if form == "png" and picture.mode == "I":
        dtype = np.dtype(np.uint16)
    if _exif_turn(picture, form) not in (0, 1):
        notes.append("its EXIF entry asks viewers to turn it; the pixels are used as stored")
    return _Opened(picture, source, pages, picture.size, channels, dtype, gray_step, tuple(notes))


def _exif_turn(picture: Any, form: Format) -> int:
    from PIL import Image as Pillow

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # Of a PNG only what stands before its pixels: its own method would decode them to look behind.
            entries = Pillow.Image.getexif(picture) if form == "png" else picture.getexif()
            return int(entries.get(_EXIF_ORIENTATION, 1))
        except (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error):
            return 1


def _plugin(form: Format) -> Any:
    # The plugins by name: `Image.open` would try all of Pillow's readers, and stops at sizes that slides have.
    from PIL import BmpImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

    return {
        "png": PngImagePlugin.PngImageFile,
        "jpeg": JpegImagePlugin.JpegImageFile,
        "bmp": BmpImagePlugin.BmpImageFile,
        "tiff": TiffImagePlugin.TiffImageFile,
    }[form]


def _kind(source: Source, picture: Any, form: Format, options: ReadOptions) -> tuple[int, np.dtype[Any]]:
    if picture.mode in ("P", "PA"):
        if options.palette_indices and picture.mode == "P":
            return 1, np.dtype(np.uint8)
        raise source.refuse(
            "stores its colours in a palette",
            "save it as gray or RGB, or pass --palette-indices if the numbers behind the colours are meant",
        )
    if picture.mode not in _MODES:
        raise source.refuse(f"has the colour mode {picture.mode}", "save it as gray or RGB")
    channels, kind = _MODES[picture.mode]
    if form == "tiff":
        bits = picture.tag_v2.get(_BITS_PER_SAMPLE, (1,))
        signed = 2 in np.atleast_1d(picture.tag_v2.get(_SAMPLE_FORMAT, 1)) and picture.mode in ("L", "I;16", "I;16B", "RGB")
        if (max(np.atleast_1d(bits)) > 8 and channels == 3) or signed:
            raise source.refuse(f"has {channels} channels of {max(np.atleast_1d(bits))} bits", "save each channel as one 16-bit gray TIFF")
    return channels, np.dtype(kind)


def _pixels(found: _Opened, page: int) -> NDArray[Any]:
    """One page as (y, x, channels with alpha)."""
    picture = found.picture
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if found.pages > 1:
                picture.seek(page)
                if (picture.size, _MODES.get(picture.mode, (0,))[0]) != (found.size, found.channels):
                    raise found.source.refuse(
                        f"has pages of different kinds: page {page + 1} is {picture.size[0]} x {picture.size[1]}", "save pages of one size"
                    )
            pixels = np.asarray(picture)
    except (OSError, SyntaxError, ValueError, EOFError, zlib.error, MemoryError) as error:
        raise found.source.refuse(f"is damaged: {_said(error)}", "copy the file again from where it came from") from None
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8)
    if found.gray_step > 1:
        pixels = pixels // np.uint8(found.gray_step)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _without_alpha(found: _Opened, pixels_yxc: NDArray[Any], notes: list[str]) -> NDArray[Any]:
    if pixels_yxc.shape[-1] == found.channels:
        return pixels_yxc
    alpha = pixels_yxc[..., -1]
    if alpha.min() != alpha.max():
        raise found.source.refuse(
            f"is partly transparent: its alpha channel runs from {alpha.min()} to {alpha.max()}", "save it without an alpha channel"
        )
    if (note := f"its alpha channel is {alpha.max()} everywhere and was left out") not in notes:
        notes.append(note)
    return pixels_yxc[..., :-1]


def _wanted_channels(source: Source, voxels_czyx: NDArray[Any], options: ReadOptions, notes: list[str]) -> NDArray[Any]:
    """Gray stored as colour becomes one channel, and the reverse, when the user declared so; real colour is never dropped."""
    count, wanted = len(voxels_czyx), options.channels
    if wanted is None or wanted == count:
        return voxels_czyx
    if (count, wanted) == (1, 3):
        notes.append("gray, taken as three equal colours")
        return np.repeat(voxels_czyx, 3, axis=0)
    if (count, wanted) == (3, 1) and (voxels_czyx == voxels_czyx[:1]).all():
        notes.append("gray stored as three equal colours")
        return voxels_czyx[:1].copy()
    raise source.refuse(
        f"has {count} channels, {wanted} {'is' if wanted == 1 else 'are'} expected", f"save it with {wanted}, or declare {count}"
    )


def _png_gray_step(source: Source, start: bytes) -> int:
    """By what Pillow multiplies gray values of few bits; labels need the values as stored."""
    if len(start) < 33 or start[12:16] != b"IHDR":
        raise source.refuse("has no PNG header", "open and save the picture again")
    bits, colour = start[24], start[25]
    if bits == 16 and colour not in (0,):
        raise source.refuse("has colours of 16 bits, which would lose their lower half", "save each channel as one 16-bit gray PNG")
    return {2: 85, 4: 17}.get(bits, 1) if colour == 0 else 1


def _check_png(source: Source) -> None:
    """Walk the chunks and compare their checksums, which Pillow does not for pixels."""
    position = _PNG_SIGNATURE
    while True:
        source.file.seek(position)
        head = source.file.read(8) or b""
        if len(head) < 8:
            raise source.refuse("ends before its last chunk, so it was cut", "copy the file again from where it came from")
        length, kind = struct.unpack(">I4s", head)
        if position + 12 + length > source.size:
            raise source.refuse(f"holds {source.size:,} of {position + 12 + length:,} bytes", "copy the file again, it was cut")
        found, left = zlib.crc32(kind), length
        while left and (block := source.file.read(min(left, 1 << 20))):
            found, left = zlib.crc32(block, found), left - len(block)
        if found != int.from_bytes(source.file.read(4) or b"", "big"):
            raise source.refuse(f"is damaged: the checksum of its {kind.decode('latin1')!r} chunk is wrong", "copy the file again")
        position += 12 + length
        if kind == b"IEND":
            return


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
