"""MetaImage files: .mha with its voxels inside, .mhd with a raw file of the same stem beside it. No other file is ever opened."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autounet.images.formats import check_content
from autounet.images.geometry import Geometry
from autounet.images.image import Header, Image, ImageInfo, ReadOptions
from autounet.images.inflate import DEEPEST_RATIO, GZIP_MAGIC, Inflated, Plain, deflated
from autounet.images.placement import LPS_TO_RAS, Placed, checked, from_lps
from autounet.images.source import Source, opened, printable
from autounet.images.voxels import check_budget, check_possible, decoded_dtype, made_finite, read_array, scaled

_LONGEST_HEADER = 1 << 16
_TYPES = {
    "MET_UCHAR": "u1",
    "MET_CHAR": "i1",
    "MET_USHORT": "u2",
    "MET_SHORT": "i2",
    "MET_UINT": "u4",
    "MET_INT": "i4",
    "MET_ULONG": "u4",
    "MET_LONG": "i4",
    "MET_ULONG_LONG": "u8",
    "MET_LONG_LONG": "i8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_NAMES = {np.dtype(kind): name for name, kind in _TYPES.items() if "LONG" not in name or "LONG_LONG" in name}
_MATRIX = ("TransformMatrix", "Orientation", "Rotation")
_ORIGIN = ("Offset", "Position", "Origin")
_SPACING = ("ElementSpacing", "ElementSize")
_GEOMETRY = ("NDims", *_MATRIX, *_ORIGIN, "CenterOfRotation", "AnatomicalOrientation", *_SPACING)


@dataclass(frozen=True, slots=True, kw_only=True)
class _MetaHeader:
    shape: tuple[int, ...]  # channels, z, y, x
    interleaved: bool  # channels vary fastest in the file
    dtype: np.dtype[Any]
    compressed: bool
    compressed_bytes: int | None
    data_file: str
    end: int  # of the header in the file
    placed: Placed
    stored: bytes


def read_metaimage_info(path: Path, options: ReadOptions) -> ImageInfo:
    """What the header tells."""
    with opened(path, options) as source:
        return _info(source, _parse(source, path, options), options)


def read_metaimage(path: Path, options: ReadOptions) -> Image:
    """The whole image; compressed voxels are inflated here, with their checksum compared."""
    with ExitStack() as stack:
        source = stack.enter_context(opened(path, options))
        header = _parse(source, path, options)
        info = _info(source, header, options)
        data, offset = source, header.end
        if header.data_file != "LOCAL":
            data, offset = stack.enter_context(opened(path.parent / header.data_file, options)), 0
        check_budget(source, header.shape, header.dtype, options)
        on_disk = (*header.shape[1:], header.shape[0]) if header.interleaved else header.shape
        stored = read_array(data, _stream(data, header, offset), on_disk, header.dtype, before=0 if header.compressed else offset)
        voxels = np.ascontiguousarray(np.moveaxis(stored, -1, 0)) if header.interleaved else stored
        voxels = scaled(source, voxels, 1.0, 0.0)
        notes = made_finite(source, voxels, options)
        return Image(voxels_czyx=voxels, geometry=info.geometry, header=info.header, notes=(*info.notes, *notes))


def encode_metaimage(voxels_czyx: NDArray[Any], geometry: Geometry, like: Header | None) -> Iterator[bytes | memoryview]:
    """The bytes of an .mha with these voxels, compressed; with `like`, its lines of geometry are copied."""
    stored = like.stored if like is not None and like.format == "metaimage" else _geometry_lines(geometry)
    plane = stored.startswith(b"NDims = 2")
    sizes = geometry.shape_zyx[::-1][: 2 if plane else 3]
    interleaved = np.moveaxis(voxels_czyx, 0, -1) if len(voxels_czyx) > 1 else voxels_czyx[0]
    little = voxels_czyx.dtype.newbyteorder("<")
    packed = list(deflated((np.ascontiguousarray(part, little).reshape(-1).view(np.uint8).data for part in interleaved), gzip=False))
    lines = [
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "CompressedData = True",
        f"CompressedDataSize = {sum(map(len, packed))}",
        stored.decode("ascii").partition("\n")[2].rstrip("\n"),
        f"DimSize = {' '.join(map(str, sizes))}",
        *([f"ElementNumberOfChannels = {len(voxels_czyx)}"] if len(voxels_czyx) > 1 else []),
        f"ElementType = {_NAMES[voxels_czyx.dtype.newbyteorder('=')]}",
        "ElementDataFile = LOCAL",
    ]
    yield (f"ObjectType = Image\nNDims = {len(sizes)}\n" + "\n".join(lines) + "\n").encode("ascii")
    yield from packed


def _info(source: Source, header: _MetaHeader, options: ReadOptions) -> ImageInfo:
    channels = header.shape[0]
    if options.channels is not None and channels != options.channels:
        raise source.refuse(
            f"holds {channels} channels, {options.channels} {'is' if options.channels == 1 else 'are'} expected",
            "split it into one file per channel, or declare them",
        )
    geometry = header.placed.geometry
    stored = Header(format="metaimage", suffix=".mha", geometry=geometry, stored=header.stored, spacing_zyx_mm=options.spacing_zyx_mm)
    dtype = decoded_dtype(header.dtype, scaled=False)
    return ImageInfo(
        geometry=geometry,
        channels=channels,
        dtype=dtype,
        voxel_bytes=int(np.prod(header.shape, dtype=object)) * dtype.itemsize,
        format="metaimage",
        header=stored,
        notes=header.placed.notes,
    )


def _stream(data: Source, header: _MetaHeader, offset: int) -> Inflated | Plain:
    if not header.compressed:
        return Plain(data, offset)
    held = data.size - offset
    if header.compressed_bytes not in (None, 0, held):
        raise data.refuse(
            f"holds {held:,} of {header.compressed_bytes:,} compressed bytes that its header declares", "copy the file again, it was cut"
        )
    data.file.seek(offset)
    return Inflated(data, wbits=31 if data.file.read(2) == GZIP_MAGIC else 15, offset=offset)


def _parse(source: Source, path: Path, options: ReadOptions) -> _MetaHeader:
    fields, end = _fields(source, path)
    name = fields["ElementDataFile"]
    _check_data_file(source, path, name)
    _check_unused(source, fields)
    sizes = _numbers(source, fields, "DimSize", int)
    rank = _numbers(source, fields, "NDims", int)[0]
    if rank not in (2, 3, 4) or len(sizes) != rank or min(sizes) < 1:
        raise source.refuse(
            f"declares {fields['DimSize']} voxels (DimSize) on {rank} axes (NDims)", "export the image again with 2 or 3 axes"
        )
    inner = _numbers(source, fields, "ElementNumberOfChannels", int)[0] if "ElementNumberOfChannels" in fields else 1
    if inner < 1 or (inner > 1 and rank == 4):
        raise source.refuse(f"has {inner} numbers in each voxel of {rank} axes", "split it into one file per channel")
    kind = fields.get("ElementType", "")
    if kind not in _TYPES:
        raise source.refuse(f"has the unknown ElementType {printable(kind)!r}", f"write it as one of {', '.join(_TYPES)}")
    big = any(fields.get(key, "False").lower() in ("true", "1") for key in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB"))
    compressed = fields.get("CompressedData", "False").lower() in ("true", "1")
    size = _numbers(source, fields, "CompressedDataSize", int)[0] if "CompressedDataSize" in fields else None
    outer = sizes[3] if rank == 4 else 1
    shape_zyx = (int(sizes[2]) if rank > 2 else 1, int(sizes[1]), int(sizes[0]))
    header = _MetaHeader(
        shape=(int(max(inner, outer)), *shape_zyx),
        interleaved=inner > 1,
        dtype=np.dtype(_TYPES[kind]).newbyteorder(">" if big else "<"),
        compressed=compressed,
        compressed_bytes=int(size) if size is not None else None,
        data_file=name,
        end=end,
        placed=_placed(source, fields, int(rank), shape_zyx, options),
        stored=_stored_lines(fields),
    )
    check_possible(source, header.shape, header.dtype, options)
    if name == "LOCAL":
        _check_size(source, header)
    return header


def _check_size(source: Source, header: _MetaHeader) -> None:
    wanted, held = int(np.prod(header.shape, dtype=object)) * header.dtype.itemsize, source.size - header.end
    if header.compressed and wanted > DEEPEST_RATIO * held + 1024:
        raise source.refuse(
            f"holds at most {DEEPEST_RATIO * held:,} of {wanted:,} bytes that it declares", "copy the file again, it was cut"
        )
    if not header.compressed and held < wanted:
        raise source.refuse(f"holds {held:,} of {wanted:,} bytes of voxels that its header declares", "copy the file again, it was cut")


def _fields(source: Source, path: Path) -> tuple[dict[str, str], int]:
    """The header's lines, and where they end: with ElementDataFile, always the last of them."""
    start = source.file.read(_LONGEST_HEADER) or b""
    check_content(source, start, path, "metaimage")
    fields: dict[str, str] = {}
    position = 0
    while (newline := start.find(b"\n", position)) >= 0:
        key, _, value = start[position:newline].decode("latin1").partition("=")
        position = newline + 1
        key, value = key.strip(), value.strip()
        if key in fields and key in (*_GEOMETRY, "DimSize", "ElementType"):
            raise source.refuse(f"has two lines for {key}", "remove one of them")
        fields[key] = value
        if key == "ElementDataFile":
            break
    missing = [key for key in ("NDims", "DimSize", "ElementType", "ElementDataFile") if key not in fields]
    if missing:
        raise source.refuse(f"has no line {missing[0]} in its header", "export the image again")
    return fields, position


def _check_data_file(source: Source, path: Path, name: str) -> None:
    inside = path.suffix.lower() != ".mhd"
    if inside:
        if name != "LOCAL":
            raise source.refuse(
                f"keeps its voxels in another file, {printable(name)!r} (ElementDataFile)", "write it again as one .mha file"
            )
        return
    data = Path(name)
    plain = name and name == data.name and "\\" not in name and name.isprintable()
    if not plain or data.suffix.lower() not in (".raw", ".zraw") or data.stem != path.stem:
        raise source.refuse(
            f"names {printable(name)!r} as its voxels (ElementDataFile), not a .raw or .zraw file of its own stem beside it",
            f"write it again as one .mha file, or name the data {printable(path.stem)}.raw",
        )


def _check_unused(source: Source, fields: dict[str, str]) -> None:
    """Fields that would change the voxels and that nobody writes: refused rather than ignored."""
    slope, offset = fields.get("ElementToIntensityFunctionSlope", "1"), fields.get("ElementToIntensityFunctionOffset", "0")
    for key, value, allowed in (
        ("HeaderSize", fields.get("HeaderSize", "0"), ("0",)),
        ("BinaryData", fields.get("BinaryData", "True").lower(), ("true", "1")),
        ("ObjectType", fields.get("ObjectType", "Image").lower(), ("image",)),
        ("ElementToIntensityFunctionSlope", slope, ("1", "1.0")),
        ("ElementToIntensityFunctionOffset", offset, ("0", "0.0")),
    ):
        if value not in allowed:
            raise source.refuse(f"has {key} = {printable(value)}, which is not supported", "write it again as a plain binary .mha image")


def _placed(source: Source, fields: dict[str, str], rank: int, shape_zyx: tuple[int, int, int], options: ReadOptions) -> Placed:
    axes = min(rank, 3)
    directions, origin, spacing = np.eye(3), np.zeros(3), np.ones(3)
    if key := next((k for k in _MATRIX if k in fields), None):
        matrix = np.array(_numbers(source, fields, key, float, rank * rank)).reshape(rank, rank)
        if rank == 4 and not np.array_equal(matrix[3], [0, 0, 0, 1]) and not np.array_equal(matrix[:, 3], [0, 0, 0, 1]):
            raise source.refuse(f"mixes its fourth axis into space ({key})", "split it into volumes of three axes")
        directions[:axes, :axes] = matrix[:axes, :axes].T  # the file lists the direction of one axis after the other
    if key := next((k for k in _ORIGIN if k in fields), None):
        origin[:axes] = _numbers(source, fields, key, float, rank)[:axes]
    if key := next((k for k in _SPACING if k in fields), None):
        spacing[:axes] = _numbers(source, fields, key, float, rank)[:axes]
    if options.spacing_zyx_mm is None and spacing.min() <= 0:
        raise source.refuse(
            f"has a spacing of {' '.join(f'{v:g}' for v in spacing)} mm",
            "correct ElementSpacing, or set spacing_zyx_mm = [z, y, x] under [dataset] in autounet.toml",
        )
    norms = np.linalg.norm(directions, axis=0)
    if np.abs(norms - 1).max() > 1e-3:
        raise source.refuse(
            f"has axes of the lengths {norms.round(4).tolist()} in its TransformMatrix", "write the spacing into ElementSpacing alone"
        )
    placed = from_lps(source, shape_zyx, directions / norms * np.abs(spacing), origin, "TransformMatrix")
    geometry = checked(source, placed.geometry, options)
    return Placed(geometry if rank > 2 else _flat(geometry), placed.notes)


def _flat(geometry: Geometry) -> Geometry:
    from dataclasses import replace

    return replace(geometry, flat=True)


def _numbers(source: Source, fields: dict[str, str], key: str, kind: type[int] | type[float], count: int | None = None) -> list[float]:
    try:
        numbers = [kind(word) for word in fields[key].split()]
    except ValueError:
        numbers = []
    if not numbers or not all(map(isfinite, numbers)) or count not in (None, len(numbers)):
        wanted = "numbers" if count is None else f"{count} numbers"
        raise source.refuse(f"has {key} = {printable(fields[key])!r}, not {wanted}", "correct that line of the header")
    return list(numbers)


def _stored_lines(fields: dict[str, str]) -> bytes:
    """The lines that place the image, as they are spelled; of four axes the first three."""
    rank = int(fields["NDims"])
    axes = min(rank, 3)
    lines = [f"NDims = {axes}"]
    for key in _GEOMETRY[1:]:
        if key not in fields:
            continue
        words = fields[key].split()
        if key == "AnatomicalOrientation":
            words = [words[0][:axes]] if words and set(words[0]) <= set("RLAPIS?") else ["?" * axes]
        elif key in _MATRIX:
            words = [word for row in range(axes) for word in words[row * rank : row * rank + axes]]
        else:
            words = words[:axes]
        if key == "AnatomicalOrientation" or all(_is_number(word) for word in words):
            lines.append(f"{key} = {' '.join(words)}")
    return ("\n".join(lines) + "\n").encode("ascii")


def _is_number(word: str) -> bool:
    try:
        return isfinite(float(word)) and word.isascii()
    except ValueError:
        return False


def _geometry_lines(geometry: Geometry) -> bytes:
    lps = LPS_TO_RAS[:3, :3]
    matrix = (lps @ np.array(geometry.direction).reshape(3, 3)).T.ravel()
    origin = lps @ np.array(geometry.origin_xyz_mm)
    lines = [
        "NDims = 3",
        f"TransformMatrix = {_text(matrix)}",
        f"Offset = {_text(origin)}",
        "CenterOfRotation = 0 0 0",
        f"ElementSpacing = {_text(np.array(geometry.spacing_zyx_mm[::-1]))}",
    ]
    return ("\n".join(lines) + "\n").encode("ascii")


def _text(values: NDArray[np.float64]) -> str:
    return " ".join(f"{int(v)}" if v == int(v) and abs(v) < 1e15 else repr(float(v)) for v in values)
