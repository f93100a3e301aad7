"""Reading JSON that somebody else may have touched: every oddity is one error that names the file."""

import difflib
import errno
import json
import os
import stat
from collections import Counter
from dataclasses import MISSING, fields, is_dataclass
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from autounet.store import calls
from autounet.store.files import Digest, publish_json
from planners.errors import UserError
from planners.strict_json import from_plain, to_plain

T = TypeVar("T")
MAX_BYTES = 16 * 2**20
MAX_DEPTH = 32
_AGAIN = "delete it and run the command that makes it again, or restore it from a copy"
_BOMS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\xef\xbb\xbf": "UTF-8 with a byte order mark"}


def read_json(path: Path, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH) -> object:
    """Plain values of a JSON file: no double keys, no NaN or infinity, neither huge nor deep."""
    return parse_json(read_bytes(path, max_bytes=max_bytes), str(path), max_depth=max_depth)


def parse_json(data: bytes, name: str, *, max_depth: int = MAX_DEPTH) -> object:
    """The same for bytes that came from elsewhere; `name` is used in errors."""
    for mark, encoding in _BOMS.items():
        if data.startswith(mark):
            raise UserError(f"{name} is written in {encoding}", "save it as plain UTF-8")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is no UTF-8 text: byte {error.start} is {data[error.start]:#04x}", _AGAIN) from error
    if not text.strip():
        raise UserError(f"{name} is empty", _AGAIN)
    try:
        plain: object = json.loads(text, object_pairs_hook=_once, parse_constant=_finite_only)
    except json.JSONDecodeError as error:
        where = f"at line {error.lineno}, column {error.colno}"
        problem = f"{name} stops {where}, it was cut off" if error.pos >= len(text.rstrip()) else f"{name} is no JSON {where}: {error.msg}"
        raise UserError(problem, _AGAIN) from error
    except RecursionError as error:
        raise UserError(f"{name} is nested deeper than {max_depth} levels", _AGAIN) from error
    except ValueError as error:
        raise UserError(f"{name} is refused: {error}", _AGAIN) from error
    _walk(plain, name, max_depth)
    return plain


def read_bytes(path: Path, *, max_bytes: int) -> bytes:
    """All of a regular file that is not longer than `max_bytes`; anything else is a UserError."""
    descriptor, _ = open_regular(path, max_bytes=max_bytes)
    data = bytearray()
    try:
        while len(data) <= max_bytes and (block := calls.read(descriptor, min(1 << 20, max_bytes + 1 - len(data)))):
            data += block
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})", "check the disk or the network share, then type it again") from error
    finally:
        calls.close(descriptor)
    return bytes(data)


def open_regular(path: Path, *, max_bytes: int) -> tuple[int, int]:
    """Descriptor and size of a regular file that is not longer than `max_bytes`; anything else is a UserError."""
    try:
        # Not blocking: a pipe with a file's name would otherwise be waited for without end.
        descriptor = calls.open_file(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        _refuse_to_open(path, error)
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_size <= max_bytes:
        return descriptor, status.st_size
    calls.close(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is no regular file", "name a file")
    raise UserError(f"{path} has {status.st_size} bytes, more than the {max_bytes} that are read", _AGAIN)


def read_value(path: Path, kind: type[T], *, max_bytes: int = MAX_BYTES) -> T:
    """The value of a dataclass that a JSON file holds."""
    return value_of(read_json(path, max_bytes=max_bytes), kind, str(path))


def value_of(plain: object, kind: type[T], name: str) -> T:
    """The value of a dataclass that plain JSON describes; `name` is the file, for errors."""
    _check_schema(plain, kind, name)
    try:
        return from_plain(kind, plain, "")
    except UserError as error:
        raise UserError(f"{error.case}: {error.problem}" if error.case else error.problem, error.fix, name) from error


def write_value(path: Path, value: object) -> Digest:
    """Publish a dataclass as JSON."""
    return publish_json(path, to_plain(value))


def _check_schema(plain: object, kind: type[Any], name: str) -> None:
    """The wrong version is named before the keys that only follow from it."""
    if not is_dataclass(kind) or not isinstance(plain, dict):
        return
    known = next((f.default for f in fields(kind) if f.name == "schema" and f.default is not MISSING), None)
    found = plain.get("schema", known)
    if type(found) is int and type(known) is int and found != known:
        fix = "update autounet" if found > known else _AGAIN
        raise UserError(f"{name} has schema {found}, this version reads {known}", fix)


def _refuse_to_open(path: Path, error: OSError) -> NoReturn:
    if error.errno == errno.ENOENT and path.parent.is_dir():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir()], n=1)
        raise UserError(f"there is no file {path}", f"did you mean {near[0]}?" if near else "check the name") from error
    raise UserError(f"{path} cannot be opened ({error.strerror})", "check the name and the permissions") from error


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    read = dict(pairs)
    if len(read) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {twice[:60]!r} occurs twice")
    return read


def _finite_only(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number in JSON")


def _walk(plain: object, name: str, max_depth: int) -> None:
    level = [plain]
    depth = 0
    while level:
        inner: list[object] = []
        for value in level:
            if isinstance(value, dict):
                inner += value.keys()
                inner += value.values()
            elif isinstance(value, list):
                inner += value
            else:
                _check_leaf(value, name)
        depth += any(isinstance(value, dict | list) for value in level)
        if depth > max_depth:
            raise UserError(f"{name} is nested deeper than {max_depth} levels", _AGAIN)
        level = inner


def _check_leaf(value: object, name: str) -> None:
    if type(value) is float and not isfinite(value):
        raise UserError(f"{name} holds a number too large to be finite", _AGAIN)
    if type(value) is str and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"{name} holds half of a character pair in {value[:60]!r}", _AGAIN) from error
