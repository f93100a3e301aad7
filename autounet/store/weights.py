"""Tensors in files that cannot do anything: safetensors, checked before a byte of it is believed.

Layout: eight bytes length of the header, the header as JSON (name → dtype, shape, offsets; texts under
`__metadata__`), then the tensors' bytes without gaps. What is written here also carries the SHA-256 of
all of it but itself, because neither the format nor its library notices a flipped bit.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, overload

from autounet.store import calls
from autounet.store.digest import Digest
from autounet.store.files import publish
from autounet.store.strict import open_regular, parse_json
from planners.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import torch

    Array = np.ndarray[Any, Any]
    Tensor = torch.Tensor | Array

MAX_HEADER_BYTES = 2**20
MAX_BYTES = 16 * 2**30
MAX_TENSORS = 20_000
SEAL = "autounet.sha256"
_ALIGN = 8
_NAME = re.compile(r"[A-Za-z0-9_.:/+\-]{1,255}")
_FIX = "copy the file again from where it came; if that does not help, train or export again"

# name in the file: (bytes of one number, name in numpy, name in torch). numpy has no bfloat16: it sees the 16 bits.
_DTYPES: dict[str, tuple[int, str, str]] = {
    "F64": (8, "<f8", "float64"),
    "F32": (4, "<f4", "float32"),
    "F16": (2, "<f2", "float16"),
    "BF16": (2, "<u2", "bfloat16"),
    "I64": (8, "<i8", "int64"),
    "I32": (4, "<i4", "int32"),
    "I16": (2, "<i2", "int16"),
    "I8": (1, "|i1", "int8"),
    "U8": (1, "|u1", "uint8"),
    "BOOL": (1, "|b1", "bool"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One tensor in a file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int  # byte offset behind the header
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a file says it holds, checked against itself and against its length."""

    entries: tuple[Entry, ...]
    metadata: Mapping[str, str]
    data_start: int


@dataclass(frozen=True, slots=True)
class _Raw:
    dtype: str
    shape: tuple[int, ...]
    data: memoryview


def save_tensors(path: Path, tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str] | None = None, *, sealed: bool = True) -> Digest:
    """Publish tensors (torch or numpy) and texts; the same values make the same bytes.

    `sealed=False` saves a pass over the data where the caller records the file's hash elsewhere.
    """
    arrays = {name: _raw(tensor) for name, tensor in tensors.items()}
    entries, texts = _lay_out(arrays), dict(metadata or {})
    if sealed:
        seal = _seal_of(entries, texts)
        for entry in entries:
            seal.update(arrays[entry.name].data)
        texts[SEAL] = seal.hexdigest()
    head = _header_bytes(entries, texts)

    def write(file: BinaryIO) -> None:
        file.write(head)
        for entry in entries:
            file.write(arrays[entry.name].data)

    return publish(path, write, verify=_read_back)


@overload
def load_tensors(
    path: Path, framework: Literal["torch"] = "torch", *, sha256: str | None = None, sealed: bool = True
) -> dict[str, "torch.Tensor"]: ...
@overload
def load_tensors(path: Path, framework: Literal["numpy"], *, sha256: str | None = None, sealed: bool = True) -> dict[str, "Array"]: ...
def load_tensors(
    path: Path, framework: Literal["torch", "numpy"] = "torch", *, sha256: str | None = None, sealed: bool = True
) -> dict[str, Any]:
    """All tensors of a file whose hash fits: the given one of the whole file, else the one it carries.

    `sealed=False` also takes files of other programs, which carry none. numpy sees bfloat16 as float32.
    """
    import numpy as np

    descriptor, size = open_regular(path, max_bytes=MAX_BYTES)
    try:
        head, header = _read_header(descriptor, size, path)
        data = np.empty(size - header.data_start, np.uint8)
        _read_into(descriptor, data.data, path)
    finally:
        calls.close(descriptor)
    _check_hash(path, head, header, data.data, sha256, sealed)
    return {entry.name: _tensor(data[entry.begin : entry.end], entry, framework, path) for entry in header.entries}


def read_header(path: Path) -> Header:
    """Names, shapes and texts of a file; no tensor is read."""
    descriptor, size = open_regular(path, max_bytes=MAX_BYTES)
    try:
        return _read_header(descriptor, size, path)[1]
    finally:
        calls.close(descriptor)


def _read_back(part: Path) -> None:
    read_header(part)


def _read_header(descriptor: int, size: int, path: Path) -> tuple[bytes, Header]:
    prefix = bytearray(8)
    if size >= 8:
        _read_into(descriptor, memoryview(prefix), path)
    length = int.from_bytes(prefix, "little")
    if size < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
        raise UserError(f"{path} is no whole safetensors file: {size} bytes, of which {length} should be the header", _FIX)
    text = bytearray(length)
    _read_into(descriptor, memoryview(text), path)
    if text[:1] != b"{":
        raise UserError(f"{path} is no safetensors file: its header starts with {bytes(text[:1])!r}", _FIX)
    plain = parse_json(bytes(text), f"the header of {path}", max_depth=3)
    if not isinstance(plain, dict):
        raise UserError(f"the header of {path} is no object", _FIX)
    return bytes(prefix + text), check_header(plain, size - 8 - length, path, 8 + length)


def check_header(plain: Mapping[str, object], data_bytes: int, path: Path, data_start: int = 0) -> Header:
    """The header as a value, when tensors follow each other without gap or overlap up to the last byte."""
    texts = plain.get("__metadata__", {})
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise UserError(f"{path}: __metadata__ holds something else than texts", _FIX)
    if len(plain) > MAX_TENSORS:
        raise UserError(f"{path} holds {len(plain)} tensors, more than {MAX_TENSORS}", _FIX)
    entries = sorted((_entry(name, one, path) for name, one in plain.items() if name != "__metadata__"), key=lambda e: (e.begin, e.end))
    reached = 0
    for entry in entries:
        if entry.begin != reached:
            raise UserError(f"{path}: {entry.name} starts at byte {entry.begin}, the one before ends at {reached}", _FIX)
        reached = entry.end
    if reached != data_bytes:
        raise UserError(f"{path}: the tensors end at byte {reached} of {data_bytes}", _FIX)
    return Header(entries=tuple(entries), metadata=texts, data_start=data_start)


def _entry(name: str, plain: object, path: Path) -> Entry:
    if not _NAME.fullmatch(name):
        raise UserError(f"{path}: {name[:80]!r} is no name of a tensor", _FIX)
    if not isinstance(plain, dict) or sorted(plain) != ["data_offsets", "dtype", "shape"]:
        raise UserError(f"{path}: {name} is not described by dtype, shape and data_offsets", _FIX)
    dtype, shape, offsets = plain["dtype"], plain["shape"], plain["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise UserError(f"{path}: {name} is of the type {dtype!r}, known are {', '.join(_DTYPES)}", _FIX)
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2 or len(shape) > 8:
        raise UserError(f"{path}: {name} has the shape {shape!r} at {offsets!r}", _FIX)
    begin, end = offsets
    if end - begin != math.prod(shape) * _DTYPES[dtype][0]:
        raise UserError(f"{path}: {name} of {dtype} {shape} takes {math.prod(shape) * _DTYPES[dtype][0]} bytes, not {end - begin}", _FIX)
    return Entry(name=name, dtype=dtype, shape=tuple(shape), begin=begin, end=end)


def _counts(plain: object) -> bool:
    return isinstance(plain, list) and all(type(n) is int and 0 <= n < 2**48 for n in plain)


def _read_into(descriptor: int, view: memoryview, path: Path) -> None:
    done = 0
    while done < view.nbytes:
        try:
            count = calls.read_into(descriptor, [view[done : done + 2**30]])
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror})", "check the disk or the network share") from error
        if not count:
            raise UserError(f"{path} ends after {done} of {view.nbytes} bytes", _FIX)
        done += count


def _check_hash(path: Path, head: bytes, header: Header, data: memoryview, expected: str | None, sealed: bool) -> None:
    if expected is not None:
        found = hashlib.sha256(head)
    elif (expected := header.metadata.get(SEAL)) is not None:
        found = _seal_of(header.entries, {name: text for name, text in header.metadata.items() if name != SEAL})
    elif sealed:
        raise UserError(f"{path} carries no hash: autounet did not write it", "import the model it belongs to with `autounet import`")
    else:
        return
    found.update(data)
    if found.hexdigest() != expected:
        raise UserError(f"{path} was damaged: its SHA-256 is {found.hexdigest()[:12]}…, {expected[:12]}… was recorded", _FIX)


def _seal_of(entries: Iterable[Entry], texts: Mapping[str, str]) -> "hashlib._Hash":
    """Started with everything but the data."""
    described = [[e.name, e.dtype, list(e.shape), e.begin, e.end] for e in entries]
    return hashlib.sha256(json.dumps([described, sorted(texts.items())]).encode())


def _header_bytes(entries: Iterable[Entry], texts: Mapping[str, str]) -> bytes:
    plain: dict[str, object] = {"__metadata__": dict(texts)}
    for e in entries:
        plain[e.name] = {"dtype": e.dtype, "shape": list(e.shape), "data_offsets": [e.begin, e.end]}
    text = json.dumps(plain, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGN)  # the data then start aligned, and views of it need no copy
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"a header of {len(text)} bytes is more than {MAX_HEADER_BYTES}: put long texts into a JSON file")
    return len(text).to_bytes(8, "little") + text


def _lay_out(arrays: Mapping[str, "_Raw"]) -> tuple[Entry, ...]:
    """Widest numbers first, so that all stay aligned; then by name, so that the same tensors give the same bytes."""
    entries: list[Entry] = []
    at = 0
    for name in sorted(arrays, key=lambda n: (-_DTYPES[arrays[n].dtype][0], n)):
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name for a tensor")
        raw = arrays[name]
        entries.append(Entry(name=name, dtype=raw.dtype, shape=raw.shape, begin=at, end=at + raw.data.nbytes))
        at += raw.data.nbytes
    return tuple(entries)


def _raw(tensor: "Tensor") -> "_Raw":
    """The bytes of a tensor, little-endian and in C order, without a copy where it already is so."""
    import numpy as np

    if isinstance(tensor, np.ndarray | np.generic):
        array = np.asarray(tensor, tensor.dtype.newbyteorder("<"), order="C")
        name = next((n for n, (_, kind, _) in _DTYPES.items() if n != "BF16" and np.dtype(kind) == array.dtype), None)
    else:
        import torch

        dtype = str(tensor.dtype).removeprefix("torch.")
        name = next((n for n, (_, _, kind) in _DTYPES.items() if kind == dtype), None)
        whole = tensor.detach().cpu().contiguous()
        array = (whole.view(torch.int16) if name == "BF16" else whole).numpy() if name else np.empty(0)
    if name is None:
        raise ValueError(f"tensors of {tensor.dtype} are not stored, only {', '.join(_DTYPES)}")
    data = array.reshape(-1).view(np.uint8).data if array.size else memoryview(b"")
    return _Raw(name, tuple(array.shape), data)


def _tensor(data: "Array", entry: Entry, framework: str, path: Path) -> Any:
    import numpy as np

    width, kind, _ = _DTYPES[entry.dtype]
    if entry.begin % width:
        data = data.copy()
    if entry.dtype == "BOOL" and data.size and int(data.max()) > 1:
        raise UserError(f"{path}: {entry.name} holds truth values that are neither 0 nor 1", _FIX)
    array = data.view(kind).reshape(entry.shape)
    if framework == "numpy":
        # The upper half of a float32 is a bfloat16.
        return (array.astype(np.uint32) << 16).view(np.float32) if entry.dtype == "BF16" else array
    import torch

    if entry.dtype == "BF16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
