"""What the page is made from: the files of the work folder, as far as they are there."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from autounet.data.dataset import Dataset
from autounet.report.intensities import medians
from autounet.report.speed import FoldSpeed, fold_speeds
from autounet.store.selection import Selection
from autounet.store.strict import read_json, read_value
from planners.fingerprint import Fingerprint
from planners.plan import Plan

T = TypeVar("T")
INDEX_BYTES = 2**27  # a hundred thousand cases
SCORES_BYTES = 2**28  # a thousand cases of a hundred classes, some times over
SUFFIXES = (".nii.gz", ".nii", ".mha", ".nrrd", ".gipl.gz", ".gipl", ".png", ".tiff", ".tif", ".bmp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """Everything that was found."""

    name: str
    fingerprint: Fingerprint | None
    plan: Plan | None
    selection: Selection | None
    scores: dict[str, Any]  # configuration to scores.json
    curves: dict[str, dict[int, list[tuple[float, float]]]]  # configuration, fold: (step, Dice of whole volumes)
    dataset: Dataset | None = None
    masks: dict[str, Path] = field(default_factory=dict)  # out-of-fold, by the name of their file
    masks_of: str = ""  # whose they are: the ensemble, or the first of its configurations
    folds: tuple[FoldSpeed, ...] = ()
    medians: dict[str, tuple[float, ...]] = field(default_factory=dict)  # of the gray values of each case, channel by channel
    model: str = ""
    model_bytes: int = 0

    @property
    def chosen(self) -> str:
        """The configurations that vote, as their scores are named."""
        return "+".join(member.configuration for member in self.selection.members) if self.selection else ""

    @property
    def chosen_scores(self) -> Any:
        """Scores of what was chosen; None before that."""
        return self.scores.get(self.chosen)

    @property
    def targets(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Names and values of what is scored."""
        labels = self.plan.labels if self.plan else self.dataset.labels if self.dataset else None
        return labels.targets if labels else ()


def gather(work: Path) -> Material:
    """Read what is there."""
    scores = {}
    for path in sorted((work / "scores").glob("*/scores.json")):
        scores[path.parent.name] = read_json(path, max_bytes=SCORES_BYTES)
    models = sorted(work.glob("*.aunet"))
    selection = _read(work / "selection.json", Selection)
    dataset = _read(work / "index.json", Dataset, max_bytes=INDEX_BYTES)
    whose, masks = _masks(work, [member.configuration for member in selection.members]) if selection else ("", {})
    return Material(
        name=dataset.name if dataset else work.name.removesuffix(".autounet"),
        fingerprint=_read(work / "fingerprint.json", Fingerprint),
        plan=_read(work / "plan.json", Plan),
        selection=selection,
        scores=scores,
        curves=_curves(work),
        dataset=dataset,
        medians=medians(work, dataset) if dataset else {},
        masks=masks,
        masks_of=whose,
        folds=fold_speeds(work),
        model=models[0].name if models else "",
        model_bytes=models[0].stat().st_size if models else 0,
    )


def _masks(work: Path, members: Sequence[str]) -> tuple[str, dict[str, Path]]:
    """Masks of cases that the networks had not seen: of the ensemble where it left some, else of its first configuration."""
    together = _by_name(sorted((work / "scores" / "+".join(members)).glob("masks*/*"))) if len(members) > 1 else {}
    if together:
        return "+".join(members), together
    return members[0], _by_name(sorted((work / "runs" / members[0]).glob("fold_*/validation/*")))


def _by_name(paths: Sequence[Path]) -> dict[str, Path]:
    """By the name of the file without its suffix; what is no mask is left out."""
    found = {}
    for path in paths:
        suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), "")
        if suffix and not path.name.startswith("."):
            found[path.name[: -len(suffix)]] = path
    return found


def _read(path: Path, kind: type[T], *, max_bytes: int = 2**24) -> T | None:
    return read_value(path, kind, max_bytes=max_bytes) if path.exists() else None


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
