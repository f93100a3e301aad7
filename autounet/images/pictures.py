"""Pictures without a patient: PNG, JPEG, BMP and TIFF through Pillow, its size bombs and silent conversions fenced off."""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autounet.images.formats import check_content
from autounet.images.geometry import Geometry, picture_geometry
from autounet.images.guarded import guarded
from autounet.images.image import Format, Header, Image, ImageInfo, ReadOptions
from autounet.images.png import check_chunks, gray_step
from autounet.images.source import Source, opened
from autounet.images.tiff import Pages, check_bits, pages
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
STRIP_ROWS = 1024
_EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """A picture whose pixels are not decoded yet."""

    picture: Any
    source: Source
    pages: Pages
    size: tuple[int, int]  # width and height of the first page
    colours: int  # alpha not counted
    dtype: np.dtype[Any]
    gray_step: int  # by which Pillow multiplied gray values of 2 or 4 bits
    notes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Channels, slices, rows, columns."""
        width, height = self.size
        return max(self.colours, self.pages.channels), self.pages.slices, height, width


def read_picture_info(path: Path, form: Format, options: ReadOptions) -> ImageInfo:
    """What the header of a picture tells."""
    with opened(path, options) as source, guarded(source, "PIL"):
        found = _open(source, path, form, options)
    channels, *shape_zyx = found.shape
    channels = options.channels if options.channels in (1, 3) and channels in (1, 3) else channels
    geometry = _placed(found, options)
    return ImageInfo(
        geometry=geometry,
        channels=channels,
        dtype=found.dtype,
        voxel_bytes=channels * prod(shape_zyx) * found.dtype.itemsize,
        format=form,
        header=_header(form, geometry),
        notes=found.notes,
    )


def read_picture(path: Path, form: Format, options: ReadOptions) -> Image:
    """A picture (or the pages of a TIFF as slices) with its colours as channels."""
    with opened(path, options) as source, guarded(source, "PIL"):
        found = _open(source, path, form, options)
        check_budget(source, found.shape, found.dtype, options)
        if form == "png":
            check_chunks(source)
        voxels, notes = _decoded(found)
        voxels, more = _wanted_channels(source, native(voxels), options)
        notes += more + made_finite(source, voxels, options)
    geometry = _placed(found, options)
    return Image(voxels_czyx=voxels, geometry=geometry, header=_header(form, geometry), notes=(*found.notes, *notes))


def encode_picture(name: str, voxels_czyx: NDArray[Any], form: Format) -> Iterator[bytes]:
    """The bytes of a PNG, BMP or TIFF: one or three channels of 8 bits, or one of 16; TIFF also stacks, 32 bits and floats."""
    from PIL import Image as Pillow

    channels, slices = voxels_czyx.shape[:2]
    dtype = voxels_czyx.dtype
    plain = {"png": ("u1", "u2"), "bmp": ("u1",), "tiff": ("u1", "u2", "i4", "f4")}[form]
    if dtype.newbyteorder("=").str[1:] not in plain or channels not in (1, 3) or (channels == 3 and dtype != np.uint8):
        raise UserError(f"{name} cannot hold {channels} channels of {dtype}", "choose a name that ends in .nii.gz or .mha")
    if slices > 1 and form != "tiff":
        raise UserError(f"{name} cannot hold {slices} slices", "choose a name that ends in .nii.gz, .mha or .tif")
    frames = [Pillow.fromarray(np.ascontiguousarray(_frame(voxels_czyx[:, page]))) for page in range(slices)]
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
    _, z, y, x = found.shape
    geometry = replace(picture_geometry((y, x)), shape_zyx=(z, y, x))
    return geometry if options.spacing_zyx_mm is None else geometry.with_spacing(options.spacing_zyx_mm)


def _open(source: Source, path: Path, form: Format, options: ReadOptions) -> _Opened:
    start = source.file.read(560) or b""
    check_content(source, start, path, form)
    step = gray_step(source, start) if form == "png" else 1
    source.file.seek(0)
    picture = _plugin(form)(source.file)
    size, colours, dtype = picture.size, *_kind(source, picture, form, options)
    count = picture.n_frames if form in ("png", "tiff") else 1
    order = Pages(1, 1)
    if form == "tiff":
        check_bits(source, picture, colours)
        order = pages(source, picture, count)
        if order.channels > 1 and colours > 1:
            raise source.refuse(f"holds {order.channels} channels of {colours} colours", "save each channel as one gray TIFF")
    elif count > 1:
        raise source.refuse(f"is an animation of {count} frames", "save the one frame that is meant")
    notes = ("its EXIF entry asks viewers to turn it; the pixels are used as stored",) if _asks_to_be_turned(picture, form) else ()
    found = _Opened(picture=picture, source=source, pages=order, size=size, colours=colours, dtype=dtype, gray_step=step, notes=notes)
    check_possible(source, found.shape, dtype, options)
    return found


def _asks_to_be_turned(picture: Any, form: Format) -> bool:
    from PIL import Image as Pillow

    try:
        # Of a PNG only what stands before its pixels: its own method would decode them to look behind.
        entries = Pillow.Image.getexif(picture) if form == "png" else picture.getexif()
        return int(entries.get(_EXIF_ORIENTATION, 1)) not in (0, 1)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return False  # a remark for viewers that cannot be read asks for nothing


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
    """Colours (alpha not counted) and number type."""
    if picture.mode == "P" and options.palette_indices:
        return 1, np.dtype(np.uint8)
    if picture.mode in ("P", "PA"):
        raise source.refuse(
            "stores its colours in a palette",
            "save it as gray or RGB; for the numbers behind the colours set palette_indices = true under [dataset] in autounet.toml",
        )
    if picture.mode not in _MODES:
        raise source.refuse(f"has the colour mode {picture.mode}", "save it as gray or RGB")
    colours, kind = _MODES[picture.mode]
    return colours, np.dtype("u2" if form == "png" and kind == "i4" else kind)  # older Pillows widen 16 bits


def _decoded(found: _Opened) -> tuple[NDArray[Any], tuple[str, ...]]:
    """All pages as (channels, z, y, x), and what was left out."""
    out_czyx = np.empty(found.shape, found.dtype)
    notes: list[str] = []
    for page in range(found.pages.channels * found.pages.slices):
        z, channel = divmod(page, found.pages.channels)
        target = slice(None) if found.colours > 1 else slice(channel, channel + 1)
        alpha: set[int] = set()
        for row, pixels_yxc in _strips(found, page):
            if pixels_yxc.shape[-1] > found.colours:
                alpha |= {int(pixels_yxc[..., -1].min()), int(pixels_yxc[..., -1].max())}
            out_czyx[target, z, row : row + len(pixels_yxc)] = np.moveaxis(pixels_yxc[..., : found.colours], -1, 0)
        notes += [_check_alpha(found.source, alpha)] if alpha else []
    return out_czyx, tuple(dict.fromkeys(notes))


def _strips(found: _Opened, page: int) -> Iterator[tuple[int, NDArray[Any]]]:
    """One page as (y, x, channels with alpha), some rows at a time: a slide is in memory twice already."""
    picture = _page(found, page)
    width, height = picture.size
    for row in range(0, height, STRIP_ROWS):
        strip = picture.crop((0, row, width, min(row + STRIP_ROWS, height))) if height > STRIP_ROWS else picture
        pixels = np.asarray(strip)
        if pixels.dtype == np.bool_:
            pixels = pixels.astype(np.uint8)
        if found.gray_step > 1:
            pixels = pixels // np.uint8(found.gray_step)
        yield row, pixels[..., None] if pixels.ndim == 2 else pixels


def _page(found: _Opened, page: int) -> Any:
    picture = found.picture
    if page or found.pages.slices * found.pages.channels > 1:
        picture.seek(page)
        if (picture.size, _MODES.get(picture.mode, (0,))[0]) != (found.size, found.colours):
            raise found.source.refuse(
                f"has pages of different kinds: page {page + 1} is {picture.size[0]} x {picture.size[1]}", "save pages of one size and kind"
            )
    return picture


def _check_alpha(source: Source, found: set[int]) -> str:
    low, high = min(found), max(found)
    if low != high:
        raise source.refuse(f"is partly transparent: its alpha channel runs from {low} to {high}", "save it without an alpha channel")
    return f"its alpha channel is {high} everywhere and was left out"


def _wanted_channels(source: Source, voxels_czyx: NDArray[Any], options: ReadOptions) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Gray stored as colour becomes one channel, and the reverse, when the user declared so; real colour is never dropped."""
    count, wanted = len(voxels_czyx), options.channels
    if wanted is None or wanted == count:
        return voxels_czyx, ()
    if (count, wanted) == (1, 3):
        return np.repeat(voxels_czyx, 3, axis=0), ("gray, taken as three equal colours",)
    if (count, wanted) == (3, 1) and (voxels_czyx == voxels_czyx[:1]).all():
        return voxels_czyx[:1].copy(), ("gray stored as three equal colours",)
    expected = f"{wanted} {'is' if wanted == 1 else 'are'} expected"
    raise source.refuse(f"has {count} channels, {expected}", f"save it with {wanted}, or declare {count}")
