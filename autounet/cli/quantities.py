"""Sizes, times, devices and lists as people type them: 4GB, 40m, 1h30m, 0,2-4."""

import re

_BYTES = {"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_BYTES |= {unit[0]: factor for unit, factor in _BYTES.items() if len(unit) == 2}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "sec": 1, "min": 60}
DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,2})?")
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?b?)\s*", re.IGNORECASE)
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(sec|min|[smhd])\s*", re.IGNORECASE)


def parse_bytes(text: str) -> int:
    """4GB, 512MB, 1.5GiB. A bare number is refused: `--max-ram 4` would be four bytes."""
    found = _SIZE.fullmatch(text)
    if not found or not (size := int(float(found[1]) * _BYTES[found[2].lower()])):
        raise ValueError(f'"{text}" is no size, write for example 4GB or 512MB')
    return size


def parse_seconds(text: str) -> float:
    """90s, 40m, 4h, 1h30m, 2d. A bare number is refused: is `--time 40` minutes?"""
    parts = _TIME.findall(text)
    if not parts or _TIME.sub("", text).strip() or not (seconds := sum(float(n) * _SECONDS[u.lower()] for n, u in parts)):
        raise ValueError(f'"{text}" is no time, write for example 90s, 40m or 4h')
    return seconds


def parse_numbers(text: str) -> tuple[int, ...]:
    """0,2 or 0-4 or both."""
    numbers: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,4})(?:\s*-\s*(\d{1,4}))?\s*", part)
        if not found or (found[2] and int(found[2]) < int(found[1])):
            raise ValueError(f'"{text}" is no list of numbers, write for example 0,2 or 0-4')
        numbers += range(int(found[1]), int(found[2] or found[1]) + 1)
    return tuple(dict.fromkeys(numbers))


def parse_steps_or_seconds(text: str) -> tuple[int | None, float | None]:
    """5000 (steps), or 90s, 40m, 4h (time)."""
    if text.strip().isdecimal() and int(text) > 0:
        return int(text), None
    try:
        return None, parse_seconds(text)
    except ValueError:
        raise ValueError(f'"{text}" is no number of steps and no time, write for example 5000 or 2h') from None


def parse_devices(text: str) -> tuple[str, ...]:
    """cuda:0,cuda:1, or all; one that is named twice trains two folds at a time."""
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if names != ("all",) and not (names and all(DEVICE.fullmatch(name) and name != "auto" for name in names)):
        raise ValueError(f'"{text}" is no list of devices, write for example cuda:0,cuda:1, or all')
    return names


def parse_names(text: str) -> tuple[str, ...]:
    """2d,3d_fullres."""
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names:
        raise ValueError(f'"{text}" names nothing, write for example 2d,3d_fullres')
    return names
