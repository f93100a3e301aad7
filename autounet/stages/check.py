"""check: what is in a folder, and what is wrong with it. One pass over the voxels, which measure uses too."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from autounet.data.dataset import Dataset, Problem
from autounet.data.examined import examine_all
from autounet.data.findings import judge
from autounet.data.open import understand
from autounet.job import Job
from autounet.store.strict import write_value
from planners.errors import UserError

CHECK_SCHEMA = 1
SHOWN = 12  # rows of one kind in the table; all are in check.json


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """check.json: what was understood, and every finding."""

    schema: int = CHECK_SCHEMA
    understood: tuple[tuple[str, str], ...]
    problems: tuple[Problem, ...]
    left_out: tuple[str, ...]  # cases that cannot be used


def check(path: Path, job: Job, *, layout: str | None = None) -> Dataset:
    """Understand the folder, look at every voxel once, write index.json and check.json. Cases with an error are left out of the index."""
    found = understand(path, layout=layout, work=job.work)
    examined = examine_all(found, job)
    try:
        dataset = judge(found, examined)
    except UserError:
        # Nothing can go on, but what was found is worth reading.
        said = (*found.problems, *(e.problem for e in examined if e.problem is not None))
        left_out = tuple(sorted({p.case for p in said if p.severity == "error" and p.case}))
        write_value(job.work / "check.json", CheckReport(understood=understood(found), problems=said, left_out=left_out))
        raise
    write_value(job.work / "index.json", dataset)
    report = CheckReport(understood=understood(dataset), problems=dataset.problems, left_out=dataset.broken)
    write_value(job.work / "check.json", report)
    job.progress.event("checked", cases=len(dataset.cases), left_out=list(dataset.broken), problems=len(dataset.problems))
    _say(report, job)
    return dataset


def understood(dataset: Dataset) -> tuple[tuple[str, str], ...]:
    """What was understood, as a table of two columns."""
    training = dataset.training
    groups = len({c.group for c in training})
    names = ", ".join(f"{c.name} ({c.modality})" for c in dataset.channels)
    classes = ", ".join(f"{c.name}={c.value}" for c in dataset.labels.classes[:12])
    more = len(dataset.labels.classes) - 12
    rows = [
        ("dataset", f"{dataset.name}, {dataset.dimensions}D"),
        ("layout", dataset.why),
        ("cases", f"{len(training)} with a label, {len(dataset.cases) - len(training)} others, {groups} patients"),
        ("channels", names),
        ("labels", classes + (f" and {more} more" if more > 0 else "") + ("" if dataset.labels_said else " (names are not known)")),
    ]
    if dataset.labels.regions:
        rows.append(("regions", ", ".join(f"{r.name}={list(r.values)}" for r in dataset.labels.regions)))
    if dataset.labels.ignore is not None:
        rows.append(("ignored", f"value {dataset.labels.ignore}"))
    return tuple(rows)


def _say(report: CheckReport, job: Job) -> None:
    for name, text in report.understood:
        job.progress.note(f"{name:<9} {text}")
    shown: Counter[tuple[str, str]] = Counter()
    for problem in report.problems:
        kind = (problem.severity, problem.code)
        shown[kind] += 1
        if shown[kind] <= SHOWN:
            say = job.progress.note if problem.severity == "note" else job.progress.warn
            say(row(problem))
    for (severity, code), count in shown.items():
        if count > SHOWN:
            job.progress.note(f"{severity:<8}{count - SHOWN} more of {code} are in check.json")


def row(problem: Problem) -> str:
    """One line of the table: severity, case, found, expected, remedy."""
    where = f"{problem.case}: " if problem.case else ""
    expected = f"; expected {problem.expected}" if problem.expected else ""
    remedy = f" → {problem.remedy}" if problem.remedy else ""
    return f"{problem.severity:<8}{where}{problem.found}{expected}{remedy}"
