"""How fast it trained and predicted: from the records of the folds and the log of the run."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autounet.store.strict import read_json
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
            )
        except (UserError, KeyError, TypeError, ValueError):
            continue
        found.append(fold)
    return tuple(found)


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
