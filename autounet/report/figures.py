"""Figures as SVG text: drawn in the page's own colours, so they follow light and dark."""

from collections.abc import Sequence
from html import escape
from math import ceil, floor, isnan, log10

from markupsafe import Markup

WIDTH = 540  # units of the drawing; in two columns a unit is nearly a pixel, so twelve of them can be read
LEFT, RIGHT, TOP, ROW = 132, 60, 18, 26


def intervals(rows: Sequence[tuple[str, float, float, float]], *, unit: str = "Dice") -> Markup:
    """One row a class: the mean as a dot, its interval as a bar, from 0 (or a round number below the lowest) to 1."""
    low = min((r[2] for r in rows), default=0.0)
    start = 0.0 if low < 0.5 else 0.5 if low < 0.75 else 0.75 if low < 0.9 else 0.9
    height = TOP + ROW * len(rows) + 30
    span = WIDTH - LEFT - RIGHT

    def at(value: float) -> float:
        return LEFT + span * (min(max(value, start), 1.0) - start) / (1 - start)

    parts = [_open(WIDTH, height, f"{unit} of each class with its 95 % interval")]
    for step in range(6):
        value = start + (1 - start) * step / 5
        parts.append(f'<line class="grid" x1="{at(value):.1f}" x2="{at(value):.1f}" y1="{TOP - 6}" y2="{height - 28}"/>')
        parts.append(f'<text x="{at(value):.1f}" y="{height - 10}" text-anchor="middle">{value:.2f}</text>')
    for index, (name, mean, lower, upper) in enumerate(rows):
        y = TOP + ROW * index + ROW / 2
        parts.append(f'<text class="strong" x="{LEFT - 12}" y="{y + 4:.1f}" text-anchor="end">{escape(_short(name))}</text>')
        bar = f'x1="{at(lower):.1f}" x2="{at(upper):.1f}" y1="{y}" y2="{y}"'
        parts.append(f'<line {bar} stroke="var(--c1)" stroke-width="6" stroke-opacity=".3" stroke-linecap="round"/>')
        parts.append(f'<circle cx="{at(mean):.1f}" cy="{y}" r="5" fill="var(--c1)"><title>{escape(name)}: {mean:.4f}</title></circle>')
        parts.append(f'<text class="strong" x="{WIDTH - RIGHT + 14}" y="{y + 4:.1f}">{mean:.3f}</text>')
    return Markup("".join([*parts, "</svg>"]))


def strips(groups: Sequence[tuple[str, Sequence[tuple[str, float]]]], *, unit: str = "Dice") -> Markup:
    """Every case as a tick, class by class: the spread, and who falls out of it."""
    height = TOP + ROW * len(groups) + 30
    span = WIDTH - LEFT - RIGHT
    parts = [_open(WIDTH, height, f"{unit} of every case")]
    for step in range(6):
        x = LEFT + span * step / 5
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{height - 28}"/>')
        parts.append(f'<text x="{x:.1f}" y="{height - 10}" text-anchor="middle">{step / 5:.1f}</text>')
    for index, (name, cases) in enumerate(groups):
        y = TOP + ROW * index + ROW / 2
        parts.append(f'<text class="strong" x="{LEFT - 12}" y="{y + 4:.1f}" text-anchor="end">{escape(_short(name))}</text>')
        for case, value in cases:
            if isnan(value):
                continue
            x = LEFT + span * value
            ends = f'x1="{x:.1f}" x2="{x:.1f}" y1="{y - 8}" y2="{y + 8}"'
            title = f"<title>{escape(case)}: {value:.4f}</title>"
            parts.append(f'<line {ends} stroke="var(--c1)" stroke-opacity=".55" stroke-width="2">{title}</line>')
    return Markup("".join([*parts, "</svg>"]))


def curves(lines: Sequence[tuple[str, Sequence[tuple[float, float]]]], *, across: str, up: str) -> Markup:
    """Lines over a common axis, at most six in colours that can be told apart."""
    points = [point for _, line in lines for point in line]
    if not points:
        return Markup("")
    height, left, bottom = 300, 56, 40
    x_ticks, y_ticks = round_ticks([p[0] for p in points]), round_ticks([p[1] for p in points])
    x_low, y_low = x_ticks[0], y_ticks[0]
    x_span, y_span = x_ticks[-1] - x_low, y_ticks[-1] - y_low

    def place(x: float, y: float) -> tuple[float, float]:
        return left + (WIDTH - left - 20) * (x - x_low) / x_span, height - bottom - (height - bottom - 16) * (y - y_low) / y_span

    parts = [_open(WIDTH, height + 24, f"{up} over {across}")]
    for value in y_ticks:
        _, y = place(x_low, value)
        parts.append(f'<line class="grid" x1="{left}" x2="{WIDTH - 20}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>')
    for value in x_ticks:
        x, _ = place(value, y_low)
        parts.append(f'<text x="{x:.1f}" y="{height - bottom + 18}" text-anchor="middle">{value:,.6g}</text>')
    for index, (name, line) in enumerate(lines[:6]):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*p) for p in line))
        parts.append(f'<polyline points="{path}" fill="none" stroke="var(--c{index + 1})" stroke-width="2" stroke-linejoin="round"/>')
        for x, y in (place(*p) for p in (line if len(line) == 1 else ())):  # a line of one point is none
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="var(--c{index + 1})"/>')
        x = left + index * 78
        parts.append(f'<rect x="{x}" y="{height + 6}" width="12" height="4" rx="2" fill="var(--c{index + 1})"/>')
        parts.append(f'<text x="{x + 18}" y="{height + 13}">{escape(_short(name, 9))}</text>')
    return Markup("".join([*parts, "</svg>"]))


def round_ticks(values: Sequence[float], about: int = 5) -> list[float]:
    """Some evenly spaced round numbers around all values."""
    low, high = min(values), max(values)
    size = max(abs(low), abs(high))
    span = high - low if high - low > 1e-6 * size else size or 1.0  # what differs by rounding is one number
    unit = 10 ** floor(log10(span / about))
    step = next(unit * k for k in (1, 2, 2.5, 5, 10) if span / (unit * k) <= about)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    digits = 12 - floor(log10(step))
    return [round(k * step, digits) for k in range(first, max(last, first + 1) + 1)]


def _open(width: int, height: float, title: str) -> str:
    return f'<svg viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{escape(title)}" xmlns="http://www.w3.org/2000/svg">'


def _short(name: str, most: int = 20) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
