"""Plain values as JSON that a person can read."""

import json
from typing import Any


def json_text(plain: Any) -> str:
    """JSON with two blanks of indent, short lists and objects on one line; ValueError for NaN and infinity."""
    return _pretty(plain, "") + "\n"


def _pretty(plain: Any, indent: str, width: int = 120) -> str:
    flat = json.dumps(plain, ensure_ascii=False, allow_nan=False)
    if not isinstance(plain, dict | list) or not plain or len(flat) + len(indent) <= width:
        return flat
    inner = indent + "  "
    if isinstance(plain, dict):
        lines = [f"{inner}{json.dumps(key, ensure_ascii=False)}: {_pretty(value, inner)}" for key, value in plain.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    return "[\n" + ",\n".join(inner + _pretty(value, inner) for value in plain) + f"\n{indent}]"
