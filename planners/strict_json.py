"""Frozen dataclasses to plain JSON values and back, strictly: unknown, missing or odd keys are named.

Standard library only. Reading bytes (size, depth, duplicate keys) is the store's business.
"""

from __future__ import annotations

import types
from dataclasses import MISSING, Field, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from math import isfinite
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from planners.errors import UserError

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Dataclasses become objects, tuples become arrays; everything else stays."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple | list):
        return [to_plain(v) for v in value]
    return value


def from_plain(kind: type[T], plain: Any, where: str) -> T:
    """The value of type `kind` that `plain` describes; `where` names the file (or is empty) in errors."""
    value: T = _read(kind, plain, where)
    return value


def _read(kind: Any, plain: Any, where: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _read_optional(kind, plain, where)
    if origin is Literal:
        if plain in get_args(kind) and type(plain) in {type(a) for a in get_args(kind)}:
            return plain
        raise _refuse(where, plain, "one of " + ", ".join(map(str, get_args(kind))))
    if origin is tuple:
        return _read_tuple(get_args(kind), plain, where)
    if is_dataclass(kind):
        return _read_object(kind, plain, where)
    return _read_scalar(kind, plain, where)


def _read_optional(kind: Any, plain: Any, where: str) -> Any:
    if plain is None:
        return None
    inner = [a for a in get_args(kind) if a is not type(None)]
    assert len(inner) == 1, f"{kind} is no optional value"
    return _read(inner[0], plain, where)


def _read_tuple(inner: tuple[Any, ...], plain: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(plain, list):
        raise _refuse(where, plain, "a list")
    if len(inner) == 2 and inner[1] is Ellipsis:
        return tuple(_read(inner[0], p, f"{where}[{i}]") for i, p in enumerate(plain))
    if len(plain) != len(inner):
        raise _refuse(where, plain, f"a list of {len(inner)}")
    return tuple(_read(k, p, f"{where}[{i}]") for i, (k, p) in enumerate(zip(inner, plain, strict=True)))


def _read_object(kind: Any, plain: Any, where: str) -> Any:
    if not isinstance(plain, dict):
        raise _refuse(where, plain, "an object")
    hints, known = _hints(kind), {f.name: f for f in fields(kind)}
    for key in plain:
        if key not in known:
            near = get_close_matches(key[:60], known, n=1)
            fix = f"did you mean {near[0]!r}?" if near else f"remove it or use one of {', '.join(known)}"
            raise UserError(f"{where or 'the file'} has the unknown key {key[:60]!r}", fix)
    for name, field in known.items():
        if name not in plain and _required(field):
            raise UserError(f"{where or 'the file'} has no key {name!r}", "add it")
    return kind(**{name: _read(hints[name], value, _at(where, name)) for name, value in plain.items()})


def _read_scalar(kind: Any, plain: Any, where: str) -> Any:
    if kind is float and type(plain) in (int, float):
        if not _finite(plain):
            raise _refuse(where, plain, "a finite number")
        return float(plain)
    if kind in (int, str, bool) and type(plain) is kind:
        return plain
    raise _refuse(where, plain, {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}[kind])


def _refuse(where: str, plain: Any, wanted: str) -> UserError:
    shown = repr(plain) if len(repr(plain)) < 60 else repr(plain)[:57] + "..."
    return UserError(f"{where or 'the file'} is {shown}, not {wanted}", f"write {wanted}")


def _at(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _finite(number: int | float) -> bool:
    try:
        return isfinite(number)
    except OverflowError:  # a whole number beyond the floats
        return False


def _required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)
