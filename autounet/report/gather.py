"""What the page is made from: the files of the work folder, as far as they are there."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from autounet.store.selection import Selection
from autounet.store.strict import read_json, read_value
from planners.errors import UserError
from planners.fingerprint import Fingerprint
from planners.plan import Plan

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """Everything that was found."""

    name: str
    fingerprint: Fingerprint | None
    plan: Plan | None
    selection: Selection | None
    scores: dict[str, Any]  # configuration to scores.json
    curves: dict[str, dict[int, list[tuple[float, float]]]]  # configuration, fold: (step, Dice of whole volumes)
    model: str = ""


def gather(work: Path) -> Material:
    """Read what is there."""
    scores = {}
    for path in sorted((work / "scores").glob("*/scores.json")):
        scores[path.parent.name] = read_json(path)
    models = sorted(work.glob("*.aunet"))
    return Material(
        name=work.name.removesuffix(".autounet"),
        fingerprint=_read(work / "fingerprint.json", Fingerprint),
        plan=_read(work / "plan.json", Plan),
        selection=_read(work / "selection.json", Selection),
        scores=scores,
        curves=_curves(work),
        model=models[0].name if models else "",
    )


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        return read_value(path, kind) if path.exists() else None
    except UserError:
        return None


def _curves(work: Path) -> dict[str, dict[int, list[tuple[float, float]]]]:
    """From the folds' logs; a line that cannot be read is left out."""
    found: dict[str, dict[int, list[tuple[float, float]]]] = {}
    for path in sorted((work / "runs").glob("*/fold_*/events.jsonl")):
        points: list[tuple[float, float]] = []
        for line in path.read_text(errors="replace").splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and event.get("kind") == "validation" and isinstance(event.get("dice"), int | float):
                points.append((float(event.get("step", len(points))), float(event["dice"])))
        if points and path.parent.name[5:].isdigit():
            found.setdefault(path.parent.parent.name, {})[int(path.parent.name[5:])] = points
    return found
