"""NIfTI files (.nii, .nii.gz, .hdr with .img): header and voxels in, masks with the same header bytes out."""

import struct
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autounet.images.formats import HEAD, check_content, check_inside
from autounet.images.geometry import Geometry
from autounet.images.image import Header, Image, ImageInfo, ReadOptions
from autounet.images.inflate import DEEPEST_RATIO, GZIP_MAGIC, Inflated, Plain, Stream, Window, deflated, skip
from autounet.images.nifti_geometry import place
from autounet.images.nifti_header import NIFTI_1, NIFTI_2, NiftiHeader, byte_order, check_extensions, filled, fresh, parse
from autounet.images.source import Source, opened, shown
from autounet.images.voxels import check_budget, check_possible, decoded_dtype, made_finite, read_array, scaled
from planners.errors import UserError

_NAMES = ((".hdr", ".img"), (".HDR", ".IMG"))


def read_nifti_info(path: Path, options: ReadOptions) -> ImageInfo:
    """What the header tells; only its first bytes are read and inflated."""
    with _opened(path, options) as files:
        return _info(files, options)


def read_nifti(path: Path, options: ReadOptions) -> Image:
    """The whole image, read to the end of the file."""
    with _opened(path, options) as files:
        info = _info(files, options)
        header, source = files.header, files.voxels
        shape = (info.channels, *info.geometry.shape_zyx)
        check_budget(source, shape, header.dtype, options)
        stored = _one_part(files, shape, options.part) if options.part is not None else files.all_parts(shape)
        voxels = scaled(source, stored, header.slope, header.intercept)
        notes = made_finite(source, voxels, options)
        return Image(voxels_czyx=voxels, geometry=info.geometry, header=info.header, notes=(*info.notes, *notes))


def encode_nifti(voxels_czyx: NDArray[Any], geometry: Geometry, like: Header | None, *, compressed: bool) -> Iterator[bytes | memoryview]:
    """The bytes of a file with these voxels; with `like`, its geometry bytes are copied."""
    stored = like.stored if like is not None and like.format == "nifti" else geometry_bytes(geometry)
    shape_xyz = (*geometry.shape_zyx[::-1], *((len(voxels_czyx),) if len(voxels_czyx) > 1 else ()))
    head = filled(stored, shape_xyz, voxels_czyx.dtype)
    head += bytes(-len(head) % 16)  # voxels begin at a multiple of 16
    blocks = _blocks(head, voxels_czyx, byte_order(stored))
    return deflated(blocks) if compressed else blocks


def geometry_bytes(geometry: Geometry) -> bytes:
    """A header, zero but for sizes and placement, that spells the geometry as sform and qform."""
    layout = NIFTI_1 if max(geometry.shape_zyx) <= np.iinfo(np.int16).max else NIFTI_2
    header = fresh(layout)
    affine = geometry.affine_ras
    quatern, qfac = _quaternion(affine[:3, :3] / np.array(geometry.spacing_zyx_mm[::-1]))
    code = 1 if not geometry.flat else 2
    for (offset, kind), values in (
        (layout.pixdim, (qfac, *geometry.spacing_zyx_mm[::-1], 1, 1, 1, 1)),
        (layout.codes, (code, code)),
        (layout.quatern, (*quatern, *geometry.origin_xyz_mm)),
        (layout.srow, tuple(affine[:3].ravel())),
        (layout.units, (2,)),
    ):
        struct.pack_into("<" + kind, header, offset, *values)
    return bytes(header)


@dataclass(frozen=True, slots=True)
class _Files:
    """An open image: the file of the header, the file of the voxels (often the same), and the parsed header."""

    header_source: Source
    voxels: Source
    header: NiftiHeader
    compressed: bool
    suffix: str

    def all_parts(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """All voxels, as stored."""
        return read_array(self.voxels, self.voxel_stream(), shape, self.header.dtype, before=self.header.vox_offset)

    def voxel_stream(self) -> Stream:
        """The voxels, header and extensions skipped and checked."""
        header = self.header
        if not self.compressed:
            between = b""
            if self.header_source is self.voxels:
                self.voxels.file.seek(header.layout.size)
                between = self.voxels.file.read(header.vox_offset - header.layout.size) or b""
            check_extensions(self.voxels, between)
            return Plain(self.voxels, header.vox_offset)
        stream = Inflated(self.voxels)
        skipped = bytearray(header.vox_offset)
        if stream.readinto(memoryview(skipped)) < header.vox_offset:
            raise self.voxels.refuse("ends before its voxels begin", "copy the file again, it was cut")
        if self.header_source is self.voxels:
            check_extensions(self.voxels, bytes(skipped[header.layout.size :]))
        return stream


class _opened:  # noqa: N801 - a context, read as a verb
    def __init__(self, path: Path, options: ReadOptions) -> None:
        self._path, self._options, self._stack = path, options, ExitStack()

    def __enter__(self) -> _Files:
        try:
            return self._open()
        except BaseException:
            self._stack.close()
            raise

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _open(self) -> _Files:
        head_path, voxel_path = _pair(self._path, self._options)
        pair = head_path != voxel_path
        source = self._stack.enter_context(opened(head_path, self._options))
        head, compressed = _head(source, head_path)
        header = parse(source, head, pair=pair)
        if not pair:
            return _Files(source, source, header, compressed, ".nii.gz" if compressed else ".nii")
        voxels = self._stack.enter_context(opened(voxel_path, self._options))
        packed = voxels.file.read(2) == GZIP_MAGIC
        return _Files(source, voxels, header, packed, ".nii.gz")


def _pair(path: Path, options: ReadOptions) -> tuple[Path, Path]:
    """The files of header and voxels: of a pair both have one stem in one folder."""
    for head, voxels in _NAMES:
        if path.suffix in (head, voxels):
            pair = path.with_suffix(head), path.with_suffix(voxels)
            for one, other in (pair, pair[::-1]):
                if one.is_file() and not other.exists():
                    raise UserError(
                        f"{shown(one, options.root)} has no {other.suffix} beside it",
                        f"put {shown(other, options.root)} into the same folder, or convert the pair to .nii.gz",
                    )
            return pair
    return path, path


def _head(source: Source, path: Path) -> tuple[bytes, bool]:
    """The first bytes of the header, inflated if need be."""
    start = source.file.read(HEAD) or b""
    check_content(source, start, path, "nifti")
    if not start.startswith(GZIP_MAGIC):
        return start, False
    buffer = bytearray(HEAD)
    count = Inflated(source, read_bytes=2 * HEAD).readinto(memoryview(buffer))  # a header needs no more
    head = bytes(buffer[:count])
    check_inside(source, head, "nifti")
    return head, True


def _info(files: _Files, options: ReadOptions) -> ImageInfo:
    header, source = files.header, files.header_source
    placed = place(source, header, options)
    channels, notes = _channels(source, header, options)
    shape = (channels, *placed.geometry.shape_zyx)
    is_scaled = (header.slope, header.intercept) != (1.0, 0.0)
    dtype = decoded_dtype(header.dtype, scaled=is_scaled)
    stored = Header(
        format="nifti",
        suffix=files.suffix,
        geometry=placed.geometry,
        stored=header.geometry_bytes,
        trust=options.trust,
        spacing_zyx_mm=options.spacing_zyx_mm,
    )
    check_possible(source, header.dim[::-1], header.dtype, options)
    _check_size(files)
    return ImageInfo(
        geometry=placed.geometry,
        channels=channels,
        dtype=dtype,
        voxel_bytes=prod(shape) * dtype.itemsize,
        format="nifti",
        header=stored,
        notes=(*placed.notes, *notes),
    )


def _check_size(files: _Files) -> None:
    """Whether the file can hold the voxels at all: exactly when they lie plain, by deflate's best ratio when not."""
    wanted = files.header.vox_offset + prod(files.header.dim) * files.header.dtype.itemsize
    size = files.voxels.size
    if files.compressed:
        if wanted > DEEPEST_RATIO * size + 1024:
            raise files.voxels.refuse(
                f"holds at most {DEEPEST_RATIO * size:,} of {wanted:,} bytes that its header declares",
                "copy the file again, it was cut or its header is wrong",
            )
    elif size < wanted:
        raise files.voxels.refuse(
            f"holds {size:,} of {wanted:,} bytes that its header declares", "copy the file again, it was cut or its header is wrong"
        )
    elif size > wanted:
        raise files.voxels.refuse(
            f"holds more data than declared: {size - wanted:,} extra bytes behind its voxels",
            "copy or export the file again, its header does not fit its voxels",
        )


def _channels(source: Source, header: NiftiHeader, options: ReadOptions) -> tuple[int, tuple[str, ...]]:
    if len(header.dim) > 4:
        raise source.refuse(f"has {len(header.dim)} axes of {header.dim} voxels", "split it into volumes of three axes")
    count = header.dim[3] if len(header.dim) == 4 else 1
    if options.part is not None:
        if not 0 <= options.part < count:
            raise source.refuse(f"has no volume number {options.part}, it holds {count}", f"choose one from 0 to {count - 1}")
        return 1, ()
    if options.channels is not None and count != options.channels:
        raise source.refuse(
            f"holds {count} volumes (dim[4]), {options.channels} {'is' if options.channels == 1 else 'are'} expected",
            "split it into one file per volume, or declare its volumes as channels",
        )
    return count, (f"{count} volumes in one file, taken as channels",) if count > 1 else ()


def _one_part(files: _Files, shape: tuple[int, ...], part: int) -> NDArray[Any]:
    """One volume of several: those before and behind it are skipped, though a compressed file is inflated to its end."""
    header, source = files.header, files.voxels
    held = files.header.dim[3] if len(header.dim) == 4 else 1
    one = prod(shape[1:]) * header.dtype.itemsize
    stream = files.voxel_stream()
    if isinstance(stream, Plain):
        stream = Plain(source, header.vox_offset + part * one, length=one)
        return read_array(source, stream, shape, header.dtype, before=header.vox_offset + part * one)
    skip(stream, part * one)
    array = read_array(source, Window(stream, one), shape, header.dtype, before=header.vox_offset + part * one)
    behind = (held - part - 1) * one
    if (rest := skip(stream, behind)) < behind or (rest := stream.extra()):
        raise source.refuse(
            f"holds {'more' if rest > behind or not behind else 'less'} data than its {held} volumes", "copy or export the file again"
        )
    return array


def _blocks(head: bytes, voxels_czyx: NDArray[Any], order: str) -> Iterator[bytes | memoryview]:
    yield head
    wanted = voxels_czyx.dtype.newbyteorder("<" if order == "<" else ">")
    for volume_zyx in voxels_czyx:
        for slice_yx in volume_zyx:
            yield np.ascontiguousarray(slice_yx, wanted).reshape(-1).view(np.uint8).data


def _quaternion(rotation: NDArray[np.float64]) -> tuple[tuple[float, float, float], float]:
    """(b, c, d) and qfac of a matrix of perpendicular unit columns, by its largest quaternion component."""
    qfac = -1.0 if np.linalg.det(rotation) < 0 else 1.0
    r = rotation * np.array([1.0, 1.0, qfac])
    # 4 a², 4 b², 4 c², 4 d² from the diagonal; dividing by the largest loses no digits
    squares = np.array(
        [1 + r[0, 0] + r[1, 1] + r[2, 2], 1 + r[0, 0] - r[1, 1] - r[2, 2], 1 - r[0, 0] + r[1, 1] - r[2, 2], 1 - r[0, 0] - r[1, 1] + r[2, 2]]
    )
    largest = int(squares.argmax())
    products = np.array(
        [
            [squares[0], r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]],
            [r[2, 1] - r[1, 2], squares[1], r[0, 1] + r[1, 0], r[0, 2] + r[2, 0]],
            [r[0, 2] - r[2, 0], r[0, 1] + r[1, 0], squares[2], r[1, 2] + r[2, 1]],
            [r[1, 0] - r[0, 1], r[0, 2] + r[2, 0], r[1, 2] + r[2, 1], squares[3]],
        ]
    )
    a, b, c, d = products[largest] / np.linalg.norm(products[largest])
    sign = -1.0 if a < 0 else 1.0
    return (sign * float(b), sign * float(c), sign * float(d)), qfac
