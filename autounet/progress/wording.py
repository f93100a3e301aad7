"""Text that is safe and pleasant on a terminal: names, sizes, durations, and one line about a task."""

import unicodedata

_GIB = 2**30
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}  # controls, bidirectional marks, surrogates: they can repaint a terminal


def visible(text: object) -> str:
    """The text with every character that could steer a terminal written as an escape."""
    plain = str(text)
    if plain.isascii() and plain.isprintable():
        return plain
    return "".join(_escaped(c) if unicodedata.category(c) in _HIDDEN and c not in "\n\u200d" else c for c in plain)


def one_line(text: object) -> str:
    """Like `visible`, and line breaks become spaces."""
    return visible(" ".join(str(text).splitlines()))


def clock(seconds: float) -> str:
    """A duration: 8 s, 3m 20s, 2h 05m, 3d 04h."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86_400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86_400}d {whole % 86_400 // 3600:02d}h"


def size(count: int) -> str:
    """Bytes as people read them: 812 MB, 1.2 GB."""
    if count >= 100 * _GIB:
        return f"{count / 1e9:.0f} GB"
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.0f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def rate(per_second: float, unit: str) -> str:
    """Units per second, minute or hour: whichever reads as a number above one."""
    for factor, name in ((1, "s"), (60, "min"), (3600, "h")):
        if per_second * factor >= 1 or name == "h":
            value = per_second * factor
            return f"{value:.0f} {unit}/{name}" if value >= 100 else f"{value:.1f} {unit}/{name}"
    raise AssertionError


def shorten(text: str, width: int, dots: str = "…") -> str:
    """The text within `width` columns; the middle goes, since case names differ at both ends."""
    if len(text) <= width:
        return text
    if width <= len(dots):
        return text[: max(0, width)]
    kept = width - len(dots)
    front = (kept + 1) // 2
    return text[:front] + dots + text[len(text) - (kept - front) :]


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
