"""Results side by side: who is better by how much, and whether it is noise."""

from collections.abc import Sequence
from pathlib import Path

from autounet.job import Job
from autounet.metrics.verdict import Verdict, judge, result_of
from autounet.store.strict import read_json
from planners.errors import UserError


def compare(paths: Sequence[Path], job: Job, *, metric: str = "dice") -> Verdict:
    """The first result against each of the others."""
    files = [path / "scores.json" if path.is_dir() else path for path in paths]
    for path, file in zip(paths, files, strict=True):
        if not file.is_file():
            raise UserError(
                f"{path.name} holds no scores.json", f"run `autounet evaluate {path.name} TRUTH` first, then compare the folders of scores"
            )
    names = [path.stem if path.is_file() else path.name for path in paths]
    if len(set(names)) < len(names):
        names = [f"{path.parent.name}/{name}" for path, name in zip(paths, names, strict=True)]
    results = [result_of(name, read_json(file, max_bytes=2**28), metric) for name, file in zip(names, files, strict=True)]
    verdict = judge(results, metric, seed=job.seed)
    job.progress.event("compare", cases=verdict.cases)
    return verdict
