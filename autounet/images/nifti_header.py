"""NIfTI-1 and NIfTI-2 headers as bytes: parsed, checked field by field, and written from zeros.

Other libraries take a header apart silently: a bad magic becomes Analyze without orientation, a spacing of
zero becomes one, a wrong offset turns the header into voxels. Here each is an error that names the field.
"""

import struct
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from autounet.images.source import Source, printable

SINGLE, PAIR = "n+1", "ni1"
LARGEST_OFFSET = 1 << 20  # extensions hold comments; a megabyte of them is a damaged header
_DTYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_UNFIT = {
    1: "single bits",
    32: "complex numbers",
    128: "RGB colours",
    1536: "128-bit floats",
    1792: "complex numbers",
    2048: "complex numbers",
    2304: "RGBA colours",
}
_CODES = {np.dtype(kind): code for code, kind in _DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Layout:
    """Where one version of the header keeps what is used of it: offset and struct format."""

    version: int
    size: int
    dim: tuple[int, str]
    datatype: tuple[int, str]
    bitpix: tuple[int, str]
    pixdim: tuple[int, str]
    vox_offset: tuple[int, str]
    scaling: tuple[int, str]
    codes: tuple[int, str]  # qform, sform
    quatern: tuple[int, str]  # b, c, d and the offset x, y, z
    srow: tuple[int, str]
    units: tuple[int, str]
    dim_info: int
    magic: tuple[int, int]  # offset, bytes


NIFTI_1 = Layout(
    version=1,
    size=348,
    dim=(40, "8h"),
    datatype=(70, "h"),
    bitpix=(72, "h"),
    pixdim=(76, "8f"),
    vox_offset=(108, "f"),
    scaling=(112, "2f"),
    codes=(252, "2h"),
    quatern=(256, "6f"),
    srow=(280, "12f"),
    units=(123, "B"),
    dim_info=39,
    magic=(344, 4),
)
NIFTI_2 = Layout(
    version=2,
    size=540,
    dim=(16, "8q"),
    datatype=(12, "h"),
    bitpix=(14, "h"),
    pixdim=(104, "8d"),
    vox_offset=(168, "q"),
    scaling=(176, "2d"),
    codes=(344, "2i"),
    quatern=(352, "6d"),
    srow=(400, "12d"),
    units=(500, "i"),
    dim_info=524,
    magic=(4, 8),
)
_MAGICS = {
    (1, SINGLE): b"n+1\0",
    (1, PAIR): b"ni1\0",
    (2, SINGLE): b"n+2\0\r\n\x1a\n",
    (2, PAIR): b"ni2\0\r\n\x1a\n",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NiftiHeader:
    """The checked fields of a header. Analyze 7.5 files have no magic and no placement."""

    layout: Layout
    order: str  # "<" or ">"
    analyze: bool
    dim: tuple[int, ...]  # the sizes alone: x, y, z, then whatever else there is
    dtype: np.dtype[Any]  # as stored, with its byte order
    pixdim: tuple[float, ...]  # eight
    vox_offset: int
    slope: float  # 1 when the header does not scale
    intercept: float
    qform_code: int
    sform_code: int
    quatern: tuple[float, ...]
    srow: tuple[float, ...]
    units: int
    geometry_bytes: bytes  # a header of the same size that is zero but for the geometry


def parse(source: Source, start: bytes, *, pair: bool) -> NiftiHeader:
    """The header at the start of a file, or an error that names the field and its value."""
    layout, order = _layout(source, start)
    if len(start) < layout.size:
        raise source.refuse(f"holds {len(start)} of {layout.size} bytes of a NIfTI header", "copy the file again, it was cut")
    analyze = _check_magic(source, start, layout, pair=pair)
    code, bits = _get(start, layout.datatype, order)[0], _get(start, layout.bitpix, order)[0]
    dtype = _dtype(source, code, bits).newbyteorder("<" if order == "<" else ">")
    slope, intercept = _scaling(source, _get(start, layout.scaling, order))
    qform_code, sform_code = (0, 0) if analyze else _get(start, layout.codes, order)
    return NiftiHeader(
        layout=layout,
        order=order,
        analyze=analyze,
        dim=_sizes(source, _get(start, layout.dim, order)),
        dtype=dtype,
        pixdim=_get(start, layout.pixdim, order),
        vox_offset=_offset(source, _get(start, layout.vox_offset, order)[0], layout, pair=pair),
        slope=1.0 if analyze else slope,
        intercept=0.0 if analyze else intercept,
        qform_code=int(qform_code),
        sform_code=int(sform_code),
        quatern=_get(start, layout.quatern, order),
        srow=_get(start, layout.srow, order),
        units=int(_get(start, layout.units, order)[0]) & 7,
        geometry_bytes=_geometry_bytes(start, layout, order),
    )


def check_extensions(source: Source, between: bytes) -> None:
    """Walk the extensions between header and voxels (from the four flag bytes on); their content is skipped."""
    position = 4
    if len(between) < 4 or not between[0]:
        return
    while position + 8 <= len(between):
        sizes = {order: struct.unpack_from(f"{order}i", between, position)[0] for order in "<>"}
        fitting = [size for size in sizes.values() if size >= 16 and size % 16 == 0 and position + size <= len(between)]
        if not fitting:
            raise source.refuse(
                f"has a header extension of {sizes['<']:,} bytes where {len(between) - position:,} are left",
                "write the file again without extensions",
            )
        position += fitting[0]


def fresh(layout: Layout = NIFTI_1) -> bytearray:
    """An empty little-endian header without a placement."""
    header = bytearray(layout.size)
    struct.pack_into("<i", header, 0, layout.size)
    if layout.version == 1:
        header[38:39] = b"r"
    return header


def filled(geometry_bytes: bytes, shape_xyz: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """A whole single-file header (with its four flag bytes) of the stored geometry for an unscaled array."""
    layout, order = _known_layout(geometry_bytes)
    header = bytearray(geometry_bytes)
    dims = [len(shape_xyz), *shape_xyz] + [1] * (7 - len(shape_xyz))
    for (offset, kind), values in (
        (layout.dim, dims),
        (layout.datatype, [_CODES[dtype.newbyteorder("=")]]),
        (layout.bitpix, [8 * dtype.itemsize]),
        (layout.vox_offset, [layout.size + 4]),
        (layout.scaling, [1, 0]),
    ):
        struct.pack_into(order + kind, header, offset, *values)
    magic = _MAGICS[layout.version, SINGLE]
    header[layout.magic[0] : layout.magic[0] + len(magic)] = magic
    return bytes(header) + bytes(4)


def byte_order(geometry_bytes: bytes) -> str:
    """The byte order of a header, "<" or ">"."""
    return _known_layout(geometry_bytes)[1]


def _layout(source: Source, start: bytes) -> tuple[Layout, str]:
    if len(start) < 4:
        raise source.refuse(f"holds {len(start)} bytes, too few for a NIfTI header", "copy the file again, it was cut")
    sizes = {order: struct.unpack_from(f"{order}i", start)[0] for order in "<>"}
    for order, size in sizes.items():
        for layout in (NIFTI_1, NIFTI_2):
            if size == layout.size:
                return layout, order
    raise source.refuse(
        f"is no NIfTI file: its header size (sizeof_hdr) is {sizes['<']}, not 348 or 540",
        "export the image again as NIfTI, or correct its name",
    )


def _known_layout(header: bytes) -> tuple[Layout, str]:
    for order in "<>":
        for layout in (NIFTI_1, NIFTI_2):
            if struct.unpack_from(f"{order}i", header)[0] == layout.size:
                return layout, order
    raise AssertionError("stored geometry bytes are no header")


def _check_magic(source: Source, start: bytes, layout: Layout, *, pair: bool) -> bool:
    """Whether this is Analyze 7.5, which has no magic; a wrong magic is refused."""
    offset, length = layout.magic
    found = start[offset : offset + length]
    wanted = _MAGICS[layout.version, PAIR if pair else SINGLE]
    if found == wanted or (layout.version == 1 and found[:3] == wanted[:3]):
        return False
    if pair and layout.version == 1 and found == bytes(4):
        return True
    kept = printable(found.rstrip(b"\0").decode("latin1"))
    if found == _MAGICS[layout.version, SINGLE if pair else PAIR]:
        remedy = "rename it to .nii" if pair else "rename it to .hdr and keep its .img beside it"
        raise source.refuse(f"has the magic {kept!r} of {'a single NIfTI file' if pair else 'a .hdr/.img pair'}", remedy)
    raise source.refuse(f"has the magic {kept!r}, not {wanted[:3].decode()!r}", "export the image again as NIfTI")


def _sizes(source: Source, dim: tuple[int, ...]) -> tuple[int, ...]:
    count = dim[0]
    if not 1 <= count <= 7:
        raise source.refuse(f"declares {count} axes (dim[0]); 1 to 7 are possible", "export the image again")
    sizes = dim[1 : count + 1]
    for axis, size in enumerate(sizes, start=1):
        if size < 1:
            raise source.refuse(
                f"declares {size} voxels along axis {axis} (dim[{axis}])", "export the image again, every axis needs a voxel"
            )
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes = sizes[:-1]
    return sizes


def _dtype(source: Source, code: int, bits: int) -> np.dtype[Any]:
    if code in _UNFIT:
        raise source.refuse(
            f"holds {_UNFIT[code]} (datatype {code})", "extract one channel as plain numbers, for example the magnitude or the gray value"
        )
    if code not in _DTYPES:
        raise source.refuse(f"has the unknown datatype {code}", "export the image again as int16 or float32")
    dtype = np.dtype(_DTYPES[code])
    if bits != 8 * dtype.itemsize:
        raise source.refuse(
            f"declares {bits} bits per voxel (bitpix) for datatype {code}, which has {8 * dtype.itemsize}", "export the image again"
        )
    return dtype


def _scaling(source: Source, values: tuple[float, ...]) -> tuple[float, float]:
    slope, intercept = values
    if slope == 0 or slope != slope:
        return 1.0, 0.0  # the standard: a slope of zero (or none) means the stored values are the values
    if not isfinite(slope) or not isfinite(intercept):
        raise source.refuse(
            f"scales its values by scl_slope {slope} and scl_inter {intercept}", "export the image again with finite scaling"
        )
    return float(slope), float(intercept)


def _offset(source: Source, offset: float, layout: Layout, *, pair: bool) -> int:
    if pair and isfinite(offset) and 0 <= offset <= LARGEST_OFFSET and offset == int(offset):
        return int(offset)
    lowest = layout.size + 4
    if isfinite(offset) and lowest <= offset <= LARGEST_OFFSET and offset % 16 == 0:
        return int(offset)
    raise source.refuse(
        f"puts its voxels at byte {offset:g} (vox_offset); a multiple of 16 from {lowest} to {LARGEST_OFFSET:,} is possible",
        "export the image again",
    )


def _geometry_bytes(start: bytes, layout: Layout, order: str) -> bytes:
    """The header with everything zeroed but sizes and placement: no names, comments or dates survive."""
    kept = bytearray(layout.size)
    for offset, kind in ((0, "i"), layout.pixdim, layout.codes, layout.quatern, layout.srow, layout.units, (layout.dim_info, "B")):
        end = offset + struct.calcsize(order + kind)
        kept[offset:end] = start[offset:end]
    if layout.version == 1:
        kept[38:39] = b"r"
    return bytes(kept)


def _get(start: bytes, field: tuple[int, str], order: str) -> tuple[Any, ...]:
    offset, kind = field
    return struct.unpack_from(order + kind, start, offset)
