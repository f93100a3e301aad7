"""curves.svg of a fold, drawn from its events.jsonl: losses, learning rate, Dice of each target, speed."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

from autounet.store.digest import Digest
from autounet.store.files import publish_text

NAME = "curves.svg"
POINTS = 240  # of a line; more cannot be told apart at this size
LINES = 6  # colours that can be told apart
WIDTH, HEIGHT, GAP = 540, 324, 40
SHORT = {"cross_entropy": "entropy", "border_cross_entropy": "border", "skeleton_recall": "skeleton"}
Line = tuple[str, list[tuple[float, float]]]


def write_curves(folder: Path, title: str) -> Digest | None:
    """Draw what the log of a fold says so far; None when it says nothing yet."""
    panels = panels_of(read_log(folder / "events.jsonl"))
    return publish_text(folder / NAME, picture(panels, title)) if panels else None


def read_log(path: Path) -> dict[str, list[Mapping[str, Any]]]:
    """The last event of every step, by kind: what was made again after a kill counts once. Torn lines are left out."""
    found: dict[str, dict[int, Mapping[str, Any]]] = {"train": {}, "validation": {}}
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                if isinstance(event, dict) and event.get("kind") in found and isinstance(event.get("step"), int):
                    found[event["kind"]][event["step"]] = event
    return {kind: [events[step] for step in sorted(events)] for kind, events in found.items()}


def panels_of(log: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[tuple[str, list[Line]]]:
    """What is drawn: a name and its lines over the steps."""
    steps, scores = log["train"], log["validation"]
    terms = list(dict.fromkeys(key for event in steps for key in event if key.startswith("loss_")))
    losses = [("sum", _line(steps, "loss")), *((SHORT.get(key[5:], key[5:]), _line(steps, key)) for key in terms)]
    names = list(dict.fromkeys(key for event in scores for key in event if key.startswith("dice_")))
    # With more classes than colours, those that are worst at the end are what one looks for.
    classes = sorted(((key[5:], _line(scores, key)) for key in names), key=lambda line: line[1][-1][1] if line[1] else 2.0)[: LINES - 1]
    dice = [("mean", _line(scores, "dice")), *classes]
    pace = [
        (float(b["step"]), (b["step"] - a["step"]) / (b["seconds"] - a["seconds"]))
        for a, b in pairwise(event for event in steps if _number(event.get("seconds")))
        if b["seconds"] > a["seconds"]
    ]
    panels = [
        ("loss", losses),
        ("learning rate", [("rate", _line(steps, "rate"))]),
        ("Dice of whole held-out volumes", dice),
        ("steps per second", [("speed", thinned(pace))]),
    ]
    there = [(name, [line for line in lines if line[1]][:LINES]) for name, lines in panels]
    return [(name, lines) for name, lines in there if lines]


def picture(panels: Sequence[tuple[str, list[Line]]], title: str) -> str:
    """One drawing of several, two beside each other, in the report's colours for light and dark."""
    from autounet.report.figures import curves

    rows = -(-len(panels) // 2)
    width, height = 2 * WIDTH + 3 * GAP, 60 + rows * (HEIGHT + GAP + 20)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">',
        f"<style>{_colours()}</style>",
        f'<rect class="paper" width="{width}" height="{height}"/><text class="title" x="{GAP}" y="38">{escape(title)}</text>',
    ]
    for index, (name, lines) in enumerate(panels):
        x, y = GAP + index % 2 * (WIDTH + GAP), 80 + index // 2 * (HEIGHT + GAP + 20)
        drawn = str(curves(lines, across="step", up=name))
        parts.append(f'<text class="strong" x="{x}" y="{y}">{escape(name)}</text>')
        parts.append(drawn.replace("<svg ", f'<svg x="{x}" y="{y + 10}" width="{WIDTH}" height="{HEIGHT}" ', 1))
    return "".join([*parts, "</svg>\n"])


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most so many points as can be seen: means of neighbours."""
    size = -(-len(points) // POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), max(1, size))]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def _line(events: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    return thinned([(float(event["step"]), float(event[key])) for event in events if _number(event.get(key))])


def _number(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < float("inf")  # no NaN either


def _colours() -> str:
    """Those of the report, and what its page says of texts and lines."""
    page = files("autounet.report").joinpath("templates/page.css").read_text(encoding="utf-8")
    own = ".paper{fill:var(--paper)}text{fill:var(--soft);font:12px system-ui,sans-serif}.strong{fill:var(--ink);font-weight:600}"
    return page[: page.index("* {")] + own + ".title{fill:var(--ink);font-size:18px;font-weight:650}.grid{stroke:var(--grid)}"
