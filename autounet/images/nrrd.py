"""NRRD files with their voxels inside. A header that names a data file is refused, whatever it names."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autounet.images.formats import check_content
from autounet.images.geometry import STRAIGHT, Geometry
from autounet.images.image import Header, Image, ImageInfo, ReadOptions
from autounet.images.inflate import DEEPEST_RATIO, Inflated, Plain, deflated
from autounet.images.placement import LPS_TO_RAS, Placed, checked, rectangular
from autounet.images.source import Source, opened, printable
from autounet.images.voxels import check_budget, check_possible, decoded_dtype, made_finite, read_array, scaled

_LONGEST_HEADER = 1 << 20  # segmentations list their segments in it
_TYPES = {
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i1": ("signed char", "int8", "int8_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_DTYPES = {name: np.dtype(kind) for kind, names in _TYPES.items() for name in names}
_NAMES = {np.dtype(kind): names[-1] if kind[0] != "f" else names[0] for kind, names in _TYPES.items()}
_SPACES = {  # to RAS
    "left-posterior-superior": (-1.0, -1.0, 1.0),
    "lps": (-1.0, -1.0, 1.0),
    "right-anterior-superior": (1.0, 1.0, 1.0),
    "ras": (1.0, 1.0, 1.0),
    "left-anterior-superior": (-1.0, 1.0, 1.0),
    "las": (-1.0, 1.0, 1.0),
}
_FIELDS = {
    *("type", "dimension", "sizes", "encoding", "endian", "space", "space dimension", "space directions", "space origin", "space units"),
    *("spacings", "thicknesses", "kinds", "centerings", "centers", "labels", "units", "measurement frame", "content", "block size"),
    *("axis mins", "axismins", "axis maxs", "axismaxs", "min", "max", "old min", "oldmin", "old max", "oldmax", "sample units", "number"),
    *("line skip", "lineskip", "byte skip", "byteskip", "data file", "datafile"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _NrrdHeader:
    sizes: tuple[int, ...]  # as in the file, fastest first
    channel_axis: int | None
    dtype: np.dtype[Any]
    compressed: bool
    end: int
    placed: Placed
    stored: bytes

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Channels, z, y, x."""
        space = [size for axis, size in enumerate(self.sizes) if axis != self.channel_axis]
        x, y, z = (*space, 1, 1)[:3]
        return 1 if self.channel_axis is None else self.sizes[self.channel_axis], z, y, x


def read_nrrd_info(path: Path, options: ReadOptions) -> ImageInfo:
    """What the header tells."""
    with opened(path, options) as source:
        return _info(source, _parse(source, path, options), options)


def read_nrrd(path: Path, options: ReadOptions) -> Image:
    """The whole image."""
    with opened(path, options) as source:
        header = _parse(source, path, options)
        info = _info(source, header, options)
        check_budget(source, header.shape, header.dtype, options)
        stream = Inflated(source, offset=header.end) if header.compressed else Plain(source, header.end)
        stored = read_array(source, stream, header.sizes[::-1], header.dtype, before=0 if header.compressed else header.end)
        if header.channel_axis is not None:
            stored = np.ascontiguousarray(np.moveaxis(stored, len(header.sizes) - 1 - header.channel_axis, 0))
        voxels = scaled(source, stored.reshape(header.shape), 1.0, 0.0)
        notes = made_finite(source, voxels, options)
        return Image(voxels_czyx=voxels, geometry=info.geometry, header=info.header, notes=(*info.notes, *notes))


def encode_nrrd(voxels_czyx: NDArray[Any], geometry: Geometry, like: Header | None) -> Iterator[bytes | memoryview]:
    """The bytes of a compressed file with these voxels; with `like`, its lines of geometry are copied."""
    stored = like.stored if like is not None and like.format == "nrrd" else _geometry_lines(geometry)
    channels = len(voxels_czyx)
    sizes = geometry.shape_zyx[::-1][: 2 if b"space directions" in stored and stored.count(b"(") == 3 else 3]
    text = stored.decode("ascii")
    if channels > 1:
        text = re.sub(r"(space directions: .*)", r"\1 none", text)
    lines = [
        "NRRD0004",
        f"type: {_NAMES[voxels_czyx.dtype.newbyteorder('=')]}",
        f"dimension: {len(sizes) + (channels > 1)}",
        f"sizes: {' '.join(map(str, (*sizes, *([channels] if channels > 1 else []))))}",
        text.rstrip("\n"),
        f"kinds: {' '.join(['domain'] * len(sizes) + ['list'] * (channels > 1))}",
        *(["endian: little"] if voxels_czyx.dtype.itemsize > 1 else []),
        "encoding: gzip",
    ]
    yield ("\n".join(line for line in lines if line) + "\n\n").encode("ascii")
    little = voxels_czyx.dtype.newbyteorder("<")
    slices = (np.ascontiguousarray(slice_yx, little).reshape(-1).view(np.uint8).data for volume in voxels_czyx for slice_yx in volume)
    yield from deflated(slices)


def _info(source: Source, header: _NrrdHeader, options: ReadOptions) -> ImageInfo:
    channels = header.shape[0]
    if options.channels is not None and channels != options.channels:
        raise source.refuse(
            f"holds {channels} channels, {options.channels} {'is' if options.channels == 1 else 'are'} expected",
            "split it into one file per channel, or declare them",
        )
    dtype, geometry = decoded_dtype(header.dtype, scaled=False), header.placed.geometry
    return ImageInfo(
        geometry=geometry,
        channels=channels,
        dtype=dtype,
        voxel_bytes=int(np.prod(header.shape, dtype=object)) * dtype.itemsize,
        format="nrrd",
        header=Header(
            format="nrrd",
            suffix=".nrrd",
            geometry=geometry,
            stored=header.stored,
            trust="stored" if options.trust == "stored" else None,
            spacing_zyx_mm=options.spacing_zyx_mm,
        ),
        notes=header.placed.notes,
    )


def _parse(source: Source, path: Path, options: ReadOptions) -> _NrrdHeader:
    fields, end = _fields(source, path)
    encoding = fields["encoding"].lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise source.refuse(f"has the encoding {printable(encoding)!r}", "write it again with the encoding raw or gzip")
    kind = fields["type"].lower()
    if kind not in _DTYPES:
        raise source.refuse(f"has the type {printable(kind)!r}", "write it again as int16 or float")
    dtype = _DTYPES[kind]
    if dtype.itemsize > 1 and encoding == "raw" and fields.get("endian", "").lower() not in ("little", "big"):
        raise source.refuse("does not say its byte order (endian)", "write it again with a line endian: little")
    for key in ("line skip", "lineskip", "byte skip", "byteskip"):
        if fields.get(key, "0") != "0":
            raise source.refuse(f"has {key} = {printable(fields[key])}", "write it again as one plain .nrrd file")
    sizes = tuple(int(v) for v in _numbers(source, "sizes", fields["sizes"]))
    rank = int(_numbers(source, "dimension", fields["dimension"])[0])
    if len(sizes) != rank or min(sizes) < 1 or not 2 <= rank <= 4:
        raise source.refuse(
            f"has sizes {printable(fields['sizes'])} on {rank} axes", "write it again with two or three axes, and one of channels"
        )
    channel_axis = _channel_axis(source, fields, rank)
    header = _NrrdHeader(
        sizes=sizes,
        channel_axis=channel_axis,
        dtype=dtype.newbyteorder(">" if fields.get("endian", "").lower() == "big" else "<"),
        compressed=encoding != "raw",
        end=end,
        placed=_placed(source, fields, sizes, channel_axis, options),
        stored=_stored_lines(fields, channel_axis),
    )
    check_possible(source, header.shape, header.dtype, options)
    wanted, held = int(np.prod(sizes, dtype=object)) * dtype.itemsize, source.size - end
    if wanted > (held if not header.compressed else DEEPEST_RATIO * held + 1024):
        raise source.refuse(
            f"holds {held:,} bytes of voxels, {wanted:,} are declared", "copy the file again, it was cut or its header is wrong"
        )
    return header


def _fields(source: Source, path: Path) -> tuple[dict[str, str], int]:
    """The fields of the header, which an empty line ends; `key:=value` is free text and skipped."""
    start = source.file.read(_LONGEST_HEADER) or b""
    check_content(source, start, path, "nrrd")
    fields: dict[str, str] = {}
    match = re.search(rb"\r?\n\r?\n", start)
    lines = start[: match.start() if match else len(start)].decode("latin1").splitlines()
    for line in lines[1:]:
        if line.startswith("#") or ":=" in line.partition(": ")[0]:
            continue
        key, colon, value = line.partition(":")
        key = key.strip().lower()
        if not colon or key not in _FIELDS:
            raise source.refuse(f"has the unknown line {printable(line, 60)!r} in its header", "write it again with a current program")
        if key in ("data file", "datafile"):
            raise source.refuse(
                f"keeps its voxels in another file, {printable(value.strip(), 80)!r} (data file)", "write it again as one .nrrd file"
            )
        if key in fields:
            raise source.refuse(f"has two lines for {key}", "remove one of them")
        fields[key] = value.strip()
    missing = [key for key in ("type", "dimension", "sizes", "encoding") if key not in fields]
    if missing or not match:
        raise source.refuse(f"has no line {missing[0]} in its header" if missing else "has a header that does not end", "write it again")
    return fields, match.end()


def _channel_axis(source: Source, fields: dict[str, str], rank: int) -> int | None:
    """The axis that is not space: by its direction "none", else by its kind."""
    candidates: list[int] = []
    if "space directions" in fields:
        words = re.findall(r"none|\([^)]*\)", fields["space directions"])
        candidates = [axis for axis, word in enumerate(words) if word == "none"]
    elif "kinds" in fields:
        spatial = ("domain", "space", "???", "none")
        candidates = [axis for axis, kind in enumerate(fields["kinds"].lower().split()) if kind not in spatial]
    elif rank == 4:
        candidates = [3]
    if len(candidates) > 1 or rank - len(candidates) > 3:
        raise source.refuse(f"has {rank} axes of which {rank - len(candidates)} lie in space", "split it into volumes of three axes")
    return candidates[0] if candidates else None


def _placed(source: Source, fields: dict[str, str], sizes: tuple[int, ...], channel_axis: int | None, options: ReadOptions) -> Placed:
    space_sizes = [size for axis, size in enumerate(sizes) if axis != channel_axis]
    shape_zyx = (space_sizes[2] if len(space_sizes) > 2 else 1, space_sizes[1], space_sizes[0])
    flat = len(space_sizes) < 3
    if "space directions" not in fields or options.trust == "stored":
        if not flat and options.trust != "stored":
            raise source.refuse(
                "has no orientation in its header (no space directions)",
                "set trust = 'stored' under [dataset] in autounet.toml to take the axes as stored, or write it again with them",
            )
        return _unplaced(source, fields, shape_zyx, channel_axis, options)
    vectors = [_vector(source, word, len(space_sizes)) for word in re.findall(r"\([^)]*\)", fields["space directions"])]
    if len(vectors) != len(space_sizes):
        raise source.refuse(f"has {len(vectors)} space directions for {len(space_sizes)} axes", "write it again with one for each")
    space = fields.get("space", "").lower()
    if not flat and space not in _SPACES:
        raise source.refuse(
            f"lies in the space {printable(space)!r}", f"write it again in one of {', '.join(sorted(s for s in _SPACES if '-' in s))}"
        )
    affine = np.eye(4)
    for axis, vector in enumerate(vectors):
        affine[: len(vector), axis] = vector
    if "space origin" in fields:
        origin = _vector(source, fields["space origin"], len(space_sizes))
        affine[: len(origin), 3] = origin
    affine[:3] *= np.array(_SPACES.get(space, (-1.0, -1.0, 1.0)))[:, None]
    if flat:
        affine[2, 2] = 1.0
    placed = rectangular(source, shape_zyx, affine, "space directions")
    return Placed(replace(checked(source, placed.geometry, options), flat=flat), placed.notes)


def _unplaced(
    source: Source, fields: dict[str, str], shape_zyx: tuple[int, int, int], channel_axis: int | None, options: ReadOptions
) -> Placed:
    spacing = [1.0, 1.0, 1.0]
    if "spacings" in fields:
        words = [word for axis, word in enumerate(fields["spacings"].split()) if axis != channel_axis]
        for axis, word in enumerate(words[:3]):
            spacing[axis] = 1.0 if word.lower() == "nan" else _numbers(source, "spacings", word)[0]
    elif vectors := re.findall(r"\([^)]*\)", fields.get("space directions", "")):
        for axis, word in enumerate(vectors[:3]):
            spacing[axis] = float(np.linalg.norm(_vector(source, word, word.count(",") + 1)))
    if min(spacing) <= 0 and options.spacing_zyx_mm is None:
        raise source.refuse(
            f"has a spacing of {spacing} mm", "correct its spacings, or set spacing_zyx_mm = [z, y, x] under [dataset] in autounet.toml"
        )
    x, y, z = (abs(v) or 1.0 for v in spacing)
    geometry = Geometry(shape_zyx=shape_zyx, spacing_zyx_mm=(z, y, x), origin_xyz_mm=(0.0, 0.0, 0.0), direction=STRAIGHT, flat=True)
    return Placed(checked(source, geometry, options), ("axes taken as stored",))


def _vector(source: Source, word: str, length: int) -> list[float]:
    numbers = _numbers(source, "space directions", word.strip("() ").replace(",", " "))
    if len(numbers) != length:
        raise source.refuse(f"has the vector {printable(word)} in a space of {length} axes", "correct that line of the header")
    return numbers


def _numbers(source: Source, key: str, text: str) -> list[float]:
    try:
        numbers = [float(word) for word in text.split()]
    except ValueError:
        numbers = []
    if not numbers or not all(map(isfinite, numbers)):
        raise source.refuse(f"has {key}: {printable(text, 60)!r}, not numbers", "correct that line of the header")
    return numbers


def _stored_lines(fields: dict[str, str], channel_axis: int | None) -> bytes:
    """The lines that place the image, spelled as they are, without the axis of channels."""
    lines = []
    for key in ("space", "space dimension", "space directions", "space origin", "spacings"):
        if key not in fields or (key == "space dimension" and "space" in fields):
            continue
        value = fields[key]
        if key == "space directions":
            value = " ".join(re.findall(r"\([^)]*\)", value))
        elif key == "spacings" and channel_axis is not None:
            value = " ".join(word for axis, word in enumerate(value.split()) if axis != channel_axis)
        if (
            re.fullmatch(r"[-+0-9.eE,() ]+", value)
            or (key == "space" and value.lower() in _SPACES)
            or (key == "spacings" and value.isascii())
        ):
            lines.append(f"{key}: {value}")
    return ("\n".join(lines) + "\n").encode("ascii") if lines else b""


def _geometry_lines(geometry: Geometry) -> bytes:
    lps = LPS_TO_RAS[:3, :3]
    columns = (lps @ np.array(geometry.direction).reshape(3, 3) * np.array(geometry.spacing_zyx_mm[::-1])).T
    origin = lps @ np.array(geometry.origin_xyz_mm)
    vectors = " ".join(_text(column) for column in columns)
    return f"space: left-posterior-superior\nspace directions: {vectors}\nspace origin: {_text(origin)}\n".encode("ascii")


def _text(vector: NDArray[np.float64]) -> str:
    return "(" + ",".join(repr(float(v) + 0.0) for v in vector) + ")"
