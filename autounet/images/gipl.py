"""GIPL files (.gipl, .gipl.gz): a big-endian header of 256 bytes, then the voxels. Written with the same placement bytes."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autounet.images.formats import check_content, check_inside, suffix_of
from autounet.images.geometry import Geometry
from autounet.images.image import Header, Image, ImageInfo, ReadOptions
from autounet.images.inflate import GZIP_MAGIC, Inflated, Plain, Stream, deflated
from autounet.images.placement import LPS_TO_RAS, Placed, checked, from_lps
from autounet.images.source import Source, opened
from autounet.images.voxels import check_budget, check_possible, decoded_dtype, made_finite, read_array, scaled

_SIZE = 256
_MAGIC = b"\xef\xff\xe9\xb0"
_TYPES = {1: "u1", 7: "i1", 8: "u1", 15: "i2", 16: "u2", 31: "u4", 32: "i4", 64: "f4", 65: "f8"}
_CODES = {np.dtype(kind): code for code, kind in _TYPES.items() if code != 1}
_PIXDIM, _ORIGIN = (10, ">4f"), (204, ">4d")
_NOTE = "GIPL keeps no directions; the axes were taken as left, back, head"


def read_gipl_info(path: Path, options: ReadOptions) -> ImageInfo:
    """What the header tells."""
    with opened(path, options) as source:
        return _info(source, _stream(source, path)[1], path, options)


def read_gipl(path: Path, options: ReadOptions) -> Image:
    """The whole image."""
    with opened(path, options) as source:
        stream, head = _stream(source, path)
        info = _info(source, head, path, options)
        dtype = np.dtype(_TYPES[struct.unpack_from(">H", head, 8)[0]]).newbyteorder(">")
        shape = (1, *info.geometry.shape_zyx)
        check_budget(source, shape, dtype, options)
        voxels = scaled(source, read_array(source, stream, shape, dtype, before=_SIZE), 1.0, 0.0)
        notes = made_finite(source, voxels, options)
        return Image(voxels_czyx=voxels, geometry=info.geometry, header=info.header, notes=(*info.notes, *notes))


def encode_gipl(voxels_czyx: NDArray[Any], geometry: Geometry, like: Header | None, *, compressed: bool) -> Iterator[bytes | memoryview]:
    """The bytes of a file with these voxels."""
    head = bytearray(_SIZE)
    if like is not None and like.format == "gipl":
        head[:] = like.stored
    else:
        struct.pack_into(_PIXDIM[1], head, _PIXDIM[0], *geometry.spacing_zyx_mm[::-1], 1.0)
        struct.pack_into(_ORIGIN[1], head, _ORIGIN[0], *(LPS_TO_RAS[:3, :3] @ np.array(geometry.origin_xyz_mm)), 0.0)
    struct.pack_into(">4H", head, 0, *geometry.shape_zyx[::-1], 1)
    struct.pack_into(">H", head, 8, _CODES[voxels_czyx.dtype.newbyteorder("=")])
    head[252:] = _MAGIC
    blocks = _blocks(bytes(head), voxels_czyx)
    return deflated(blocks) if compressed else blocks


def can_hold(geometry: Geometry) -> bool:
    """Whether a grid lies as GIPL files do: to the left, the back and the head."""
    straight = LPS_TO_RAS[:3, :3].ravel()
    return bool(np.abs(np.array(geometry.direction) - straight).max() < 1e-4)


def _blocks(head: bytes, voxels_czyx: NDArray[Any]) -> Iterator[bytes | memoryview]:
    yield head
    for slice_yx in voxels_czyx[0]:
        yield np.ascontiguousarray(slice_yx, voxels_czyx.dtype.newbyteorder(">")).reshape(-1).view(np.uint8).data


def _stream(source: Source, path: Path) -> tuple[Stream, bytes]:
    start = source.file.read(_SIZE + 4) or b""
    check_content(source, start, path, "gipl")
    stream: Stream = Inflated(source) if start.startswith(GZIP_MAGIC) else Plain(source)
    head = bytearray(_SIZE)
    if stream.readinto(memoryview(head)) < _SIZE:
        raise source.refuse(f"holds fewer than the {_SIZE} bytes of a GIPL header", "copy the file again, it was cut")
    check_inside(source, bytes(head), "gipl")
    return stream, bytes(head)


def _info(source: Source, head: bytes, path: Path, options: ReadOptions) -> ImageInfo:
    x, y, z, t = struct.unpack_from(">4H", head, 0)
    (code,) = struct.unpack_from(">H", head, 8)
    if not (x and y) or t > 1:
        raise source.refuse(f"declares {x} x {y} x {z} x {t} voxels", "export it again with two or three axes")
    if code not in _TYPES:
        raise source.refuse(f"has the unknown voxel type {code}", "export it again as short or float")
    shape_zyx = (max(z, 1), y, x)
    stored = np.dtype(_TYPES[code])
    check_possible(source, (1, *shape_zyx), stored, options)
    spacing = np.array(struct.unpack_from(_PIXDIM[1], head, _PIXDIM[0])[:3], np.float64)
    if options.spacing_zyx_mm is not None:
        spacing = np.array(options.spacing_zyx_mm[::-1])
    elif not (np.isfinite(spacing).all() and spacing.min() > 0):
        raise source.refuse(
            f"has a spacing of {spacing.tolist()} mm",
            "correct the header, or set spacing_zyx_mm = [z, y, x] under [dataset] in autounet.toml",
        )
    placed: Placed = from_lps(source, shape_zyx, np.diag(spacing), np.array(struct.unpack_from(_ORIGIN[1], head, _ORIGIN[0])[:3]), "origin")
    geometry = checked(source, placed.geometry, options)
    kept = bytearray(_SIZE)
    for offset, length in ((_PIXDIM[0], 16), (_ORIGIN[0], 32)):
        kept[offset : offset + length] = head[offset : offset + length]
    header = Header(
        format="gipl",
        suffix=suffix_of(path.name) or ".gipl",
        geometry=geometry,
        stored=bytes(kept),
        spacing_zyx_mm=options.spacing_zyx_mm,
    )
    dtype = decoded_dtype(stored, scaled=False)
    voxel_bytes = int(np.prod(shape_zyx, dtype=object)) * dtype.itemsize
    return ImageInfo(geometry=geometry, channels=1, dtype=dtype, voxel_bytes=voxel_bytes, format="gipl", header=header, notes=(_NOTE,))
