"""How fast it trained and predicted: from the records of the folds and the log of the run."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from autounet.store.strict import read_json
from autounet.training.curves import read_log
from planners.errors import UserError

VALIDATED = re.compile(r"validate fold (\d+) of (.+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldSpeed:
    """One trained fold."""

    configuration: str
    fold: int
    iterations: int
    seconds: float
    waited_seconds: float  # for data
    execution: str
    seconds_per_case: float | None  # to predict a held-out case and write its mask
    step_seconds: float | None = None  # the median: a score on the way and a slow start do not move it
    held_bytes: int | None = None  # of memory while training, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the folds of one configuration took, as far as they tell."""

    step_seconds: float | None  # the median of its folds
    held_bytes: int | None  # the most of any fold

    @property
    def words(self) -> str:
        """For people; empty when nothing is known."""
        known = []
        if self.held_bytes is not None:
            known.append(f"{self.held_bytes / 2**30:.1f} GiB measured")
        if self.step_seconds is not None:
            known.append(f"{self.step_seconds:.3f} s a step measured")
        return ", ".join(known)


def measured(folds: Sequence[FoldSpeed], configuration: str) -> Measured:
    """Of all folds of a configuration."""
    own = [fold for fold in folds if fold.configuration == configuration]
    steps = [fold.step_seconds for fold in own if fold.step_seconds is not None]
    held = [fold.held_bytes for fold in own if fold.held_bytes is not None]
    return Measured(step_seconds=median(steps) if steps else None, held_bytes=max(held, default=None))


def fold_speeds(work: Path) -> tuple[FoldSpeed, ...]:
    """Of every fold that is done; a record that cannot be read is left out."""
    per_case = _validation_seconds(work / "events.jsonl")
    found = []
    for path in sorted((work / "runs").glob("*/fold_*/run.json")):
        try:
            record: Any = read_json(path)
            fold = FoldSpeed(
                configuration=str(record["configuration"]),
                fold=int(record["fold"]),
                iterations=int(record["iterations"]),
                seconds=float(record["seconds"]),
                waited_seconds=float(record["waited_seconds"]),
                execution=str(record["execution"]),
                seconds_per_case=per_case.get((str(record["configuration"]), int(record["fold"]))),
                step_seconds=_step_seconds(path.with_name("events.jsonl")),
                held_bytes=None if record.get("held_bytes") is None else int(record["held_bytes"]),
            )
        except (UserError, KeyError, TypeError, ValueError):
            continue
        found.append(fold)
    return tuple(found)


def _step_seconds(events: Path) -> float | None:
    """The median over all steps that follow on another one."""
    told = [(e["step"], float(e["seconds"])) for e in read_log(events)["train"] if isinstance(e.get("seconds"), int | float)]
    took = [after - before for (first, before), (second, after) in pairwise(told) if second == first + 1 and after >= before]
    return median(took) if took else None


def _validation_seconds(events: Path) -> dict[tuple[str, int], float]:
    found = {}
    for line in events.read_text(errors="replace").splitlines() if events.exists() else []:
        if '"end"' not in line or "validate fold" not in line:
            continue
        try:
            event: Any = json.loads(line)
            task = VALIDATED.fullmatch(str(event["task"]))
            if task and event["kind"] == "end" and event["done"] and not event["error"]:
                found[task[2], int(task[1])] = float(event["took_seconds"]) / float(event["done"])
        except (ValueError, KeyError, TypeError):
            continue
    return found
